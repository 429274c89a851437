package bff

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/agglestone/bff/internal/record"
	"github.com/agglestone/bff/internal/seal"
	"github.com/agglestone/bff/store/memstore"
)

// A Store keeps session records between requests. Its methods run concurrently.
//
// Records are opaque: the value arrives sealed and the key is a digest, so a
// stolen database yields neither tokens nor cookies. A key is at most 64
// printable ASCII characters without spaces; its first letter names its kind,
// so that a store can bound each kind by itself: "s" is a session, "a" the
// mark of a spent login attempt. Values are at most 1 MiB.
//
// Absence is an answer, not a failure. Methods report it through ok; an error
// means that the store could not tell, and the request then fails with 503
// instead of treating the user as signed out.
//
// A record is live until it expires or is ended. One past its expiry is
// absent, swept or not. One that was ended is its mark until the mark expires,
// and then absent. A store keeps no slice that it was passed, and callers don't
// modify one that they were given.
//
// The methods use only standard-library types, so a store need not import
// this package. [github.com/agglestone/bff/store/storetest] proves one.
type Store interface {
	// Load returns the live record under key, with the version that Replace
	// wants back and the time it expires. If the record was ended and its mark
	// is still kept, ok is false and value is the mark. If there is nothing,
	// ok is false and value is nil.
	Load(ctx context.Context, key string) (value []byte, version uint64, expires time.Time, ok bool, err error)

	// Create files a new record to keep until expires, which Touch can move
	// forward, but never past end. A key that holds a live record or a mark
	// is taken: ok is false and nothing changes. A store that is full returns
	// an error; it never makes room by dropping a live record.
	Create(ctx context.Context, key string, value []byte, expires, end time.Time) (ok bool, err error)

	// Replace overwrites the live record under key if it still has that
	// version, and returns the new one. It never creates: a token refresh that
	// finishes after logout must not bring the session back. The expiry stays.
	Replace(ctx context.Context, key string, version uint64, value []byte) (next uint64, ok bool, err error)

	// Touch moves the expiry of a live record forward to expires, or to the
	// end that Create fixed if that is earlier, and leaves value and version
	// alone: sliding can't undo a refresh. An expiry that is not later than
	// the present one changes nothing and is ok. ok is false if there is no
	// live record.
	Touch(ctx context.Context, key string, expires time.Time) (ok bool, err error)

	// End replaces the live record under key by a mark of 1 to 64 bytes, kept
	// until the given time, in one atomic step. A version other than 0 must be
	// the record's own (a conclusion drawn from what was read); 0 ends whatever
	// is there (a command). ok is false, and nothing changes, if there is no
	// live record or it has another version.
	End(ctx context.Context, key string, version uint64, mark []byte, until time.Time) (ok bool, err error)
}

// An Indexer is a [Store] that also finds records by tags, such as all sessions
// of one subject. A tag is written like a key; the first letter of its name is
// "t". A note is at most 256 bytes, and sealed like a value.
//
// A tag and the records that it leads to need not change together, or even be
// kept in one place: callers rely on the order of their calls alone. What a Tag
// that has returned filed, every Tagged that is called afterwards finds. A tag
// that leads to nothing is harmless.
type Indexer interface {
	// Tag files key under tag with a note, until the given time, whether there
	// is a record under key or not. To file a key again replaces its note and
	// its time. A store that is full returns an error, as from Create.
	Tag(ctx context.Context, tag, key string, note []byte, until time.Time) error

	// Tagged returns the notes of the keys that are filed under tag, by key. It
	// is empty if there are none.
	Tagged(ctx context.Context, tag string) (notes map[string][]byte, err error)

	// Untag takes key out of tag, if it is there.
	Untag(ctx context.Context, tag, key string) error
}

// A Watcher is a [Store] that also tells what anybody changes in it.
type Watcher interface {
	// Watch calls changed with the key of every session's record that is
	// replaced or ended, by whichever process, soon after it happened: who then
	// loads the record finds the change. Others may be reported too. At least
	// once in every interval of the given length it calls synced with a time of
	// this process, from that interval, such that all changes that had been
	// made before it have been reported: that is proof that nothing was lost,
	// and its absence is none. The first synced says when the reports began;
	// what was changed before its time may not be among them. Both are called
	// by one goroutine at a time, and return at once. Whoever makes a change
	// doesn't wait for them.
	//
	// Watch returns nil when ctx ends, or an error as soon as reports may have
	// been lost; its caller then watches again.
	Watch(ctx context.Context, every time.Duration, changed func(key string), synced func(upTo time.Time)) error
}

// An EndLog is a [Store] that also tells which sessions were ended lately, for
// those who may have missed it. Streams end within a second of their session
// where the store is a Watcher or an EndLog, and within a minute elsewhere.
type EndLog interface {
	// Ended returns the keys of the sessions' records that were ended at or
	// after since and whose marks are still kept, the earliest first and not
	// more than some thousands, and the time to ask from next: a caller that
	// passes it on misses none, but may get some twice. Both are times of the
	// store's clock; a zero since asks for none but the time.
	Ended(ctx context.Context, since time.Time) (keys []string, next time.Time, err error)
}

// A Rememberer is a [Store] that also knows since when it has forgotten
// nothing. It is asked when a session is absent that should have lasted longer:
// did it idle out, or was the store lost?
type Rememberer interface {
	// Since returns that time, which is the same for every process.
	Since(ctx context.Context) (time.Time, error)
}

// The embedded default can do all of it.
var _ interface {
	Store
	Indexer
	Watcher
	EndLog
	Rememberer
} = (*memstore.Store)(nil)

// capabilities are what a store can do beyond [Store]. Each is nil if it can't.
// They are looked up here, once, and nowhere else.
type capabilities struct {
	index  Indexer
	watch  Watcher
	endLog EndLog
	memory Rememberer
}

func capabilitiesOf(s Store) (c capabilities) {
	c.index, _ = s.(Indexer)
	c.watch, _ = s.(Watcher)
	c.endLog, _ = s.(EndLog)
	c.memory, _ = s.(Rememberer)
	return c
}

// markKept is how long an ended session's mark tells why it ended.
const markKept = time.Hour

// A Session is a signed-in user, as handlers see it: from [SessionFromContext].
// It is safe for concurrent use. The methods of a nil *Session answer with zero
// values and, where they return an error, with ErrNoSession.
type Session struct {
	b     *BFF
	id    seal.ID
	key   string // of the record
	fresh bool   // it was read past the cache

	mu   sync.Mutex
	rec  *loaded
	idle time.Time // when it ends without another request
}

// loaded is one version of a session's record, with what every request needs
// decoded. It doesn't change.
type loaded struct {
	version uint64
	head    record.Head
	sealed  seal.Record
	bearer  atomic.Pointer[Secret] // "Bearer " and the access token, once somebody needed it
	others  atomic.Pointer[record.Tokens]
}

type sessionKey struct{}

// SessionFromContext returns the session of the request that ctx belongs to,
// where a handler runs behind [BFF.Protect] and somebody is signed in.
func SessionFromContext(ctx context.Context) (*Session, bool) {
	s, _ := ctx.Value(sessionKey{}).(*Session)
	return s, s != nil
}

// record returns the latest version that s knows.
func (s *Session) record() *loaded {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rec
}

// adopt makes rec what s knows.
func (s *Session) adopt(rec *loaded) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rec.version > s.rec.version {
		s.rec = rec
	}
}

// Subject returns the user's sub claim, which names them only together with
// Issuer (OpenID Connect Core 1.0, section 5.7).
func (s *Session) Subject() string {
	if s == nil {
		return ""
	}
	return s.record().head.Subject
}

// Issuer returns the issuer identifier.
func (s *Session) Issuer() string {
	if s == nil {
		return ""
	}
	return s.b.cfg.Issuer
}

// Groups returns the user's groups, each once.
func (s *Session) Groups() []string {
	if s == nil {
		return nil
	}
	return slices.Clone(s.record().head.Groups)
}

// inGroup reports whether the user is in any of groups.
func (s *Session) inGroup(groups []string) bool {
	for _, g := range s.record().head.Groups {
		if slices.Contains(groups, g) {
			return true
		}
	}
	return false
}

// Claims decodes the user's claims into v, as encoding/json does: those of the
// ID token and, where Config.UserInfo is set, of the userinfo endpoint.
func (s *Session) Claims(v any) error {
	c, err := s.claims()
	if err != nil {
		return err
	}
	return json.Unmarshal(c.JSON, v)
}

// Value returns what Config.OnLogin set under name, or "".
func (s *Session) Value(name string) string {
	c, err := s.claims()
	if err != nil {
		return ""
	}
	for _, p := range c.Values {
		if p.Name == name {
			return p.Value
		}
	}
	return ""
}

func (s *Session) claims() (record.Claims, error) {
	if s == nil {
		return record.Claims{}, newProblem(NoSession, ErrNoSession)
	}
	return s.record().claims()
}

// CSRFToken returns the token that a form of this session carries in the field
// csrf_token, or a request in the header X-CSRF-Token.
func (s *Session) CSRFToken() string {
	if s == nil {
		return ""
	}
	return s.id.CSRFToken()
}

// CreatedAt returns the time of the sign-in here, to the second.
func (s *Session) CreatedAt() time.Time {
	if s == nil {
		return time.Time{}
	}
	return s.id.SignedIn()
}

// AuthTime returns when the user authenticated at the issuer, or the zero Time
// if the issuer didn't say.
func (s *Session) AuthTime() time.Time {
	if s == nil {
		return time.Time{}
	}
	return s.record().head.AuthTime
}

// ExpiresAt returns when the session ends whatever happens.
func (s *Session) ExpiresAt() time.Time {
	if s == nil {
		return time.Time{}
	}
	return s.record().head.End
}

// IdleExpiresAt returns when the session ends without another request.
func (s *Session) IdleExpiresAt() time.Time {
	if s == nil {
		return time.Time{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.idle
}

func (r *loaded) claims() (record.Claims, error) {
	plain, err := r.sealed.Part(nil, record.PartClaims)
	if err != nil {
		return record.Claims{}, err
	}
	return record.ParseClaims(plain)
}

const bearerPrefix = "Bearer " // RFC 6750, section 2.1

func (r *loaded) access() (Secret, error) {
	bearer, err := r.authorization()
	if err != nil {
		return "", err
	}
	return bearer[len(bearerPrefix):], nil
}

// authorization returns the Authorization header for the access token: one
// string for both, since both are wanted with every proxied request.
func (r *loaded) authorization() (Secret, error) {
	if bearer := r.bearer.Load(); bearer != nil {
		return *bearer, nil
	}
	buf := heads.Get().(*[]byte)
	defer heads.Put(buf)
	plain, err := r.sealed.Part(append((*buf)[:0], bearerPrefix...), record.PartAccess)
	if err != nil {
		return "", err
	}
	bearer := Secret(plain)
	clear(plain)
	*buf = plain[:0]
	r.bearer.Store(&bearer)
	return bearer, nil
}

func (r *loaded) grant() (record.Grant, error) {
	plain, err := r.sealed.Part(nil, record.PartGrant)
	if err != nil {
		return record.Grant{}, err
	}
	return record.ParseGrant(plain)
}

func (r *loaded) tokens() (record.Tokens, error) {
	if t := r.others.Load(); t != nil {
		return *t, nil
	}
	plain, err := r.sealed.Part(nil, record.PartTokens)
	if err != nil {
		return nil, err
	}
	t, err := record.ParseTokens(plain)
	if err != nil {
		return nil, err
	}
	r.others.Store(&t)
	return t, nil
}

// heads holds buffers for the plain text of record heads and tokens.
var heads = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// open reads a record's value.
func open(id *seal.ID, key string, value []byte, version uint64) (*loaded, error) {
	rec := &loaded{version: version}
	var err error
	if rec.sealed, err = id.Open(key, value, record.Parts); err != nil {
		return nil, err
	}
	buf := heads.Get().(*[]byte)
	defer heads.Put(buf)
	plain, err := rec.sealed.Part((*buf)[:0], record.PartHead)
	if err != nil {
		return nil, err
	}
	*buf = plain[:0]
	if rec.head, err = record.ParseHead(plain); err != nil {
		return nil, err
	}
	return rec, nil
}

// A content is a whole record, to be changed and written.
type content struct {
	head   record.Head
	access Secret
	claims record.Claims
	grant  record.Grant
	tokens record.Tokens
}

// content opens all of r.
func (r *loaded) content() (c content, err error) {
	c.head = r.head
	if c.access, err = r.access(); err != nil {
		return c, err
	}
	if c.claims, err = r.claims(); err != nil {
		return c, err
	}
	if c.grant, err = r.grant(); err != nil {
		return c, err
	}
	c.tokens, err = r.tokens()
	return c, err
}

// seal returns the record value that holds c.
func (c *content) seal(id *seal.ID) ([]byte, error) {
	return id.Seal(c.head.Append(nil), []byte(c.access), c.claims.Append(nil), c.grant.Append(nil), c.tokens.Append(nil))
}

// lookUp finds the session that id names, in the cache if it may be, or in the
// store.
func (b *BFF) lookUp(ctx context.Context, id *seal.ID, key string, cacheMay bool) (*loaded, time.Time, *Problem) {
	if b.cache == nil {
		return b.load(ctx, id, key)
	}
	b.watch()
	began := b.changes.clock()
	if cacheMay {
		if rec, idle, ok := b.cache.get(key, began-int64(b.cfg.CacheMaxStale), &b.changes); ok {
			return rec, idle, nil
		}
	}
	drops := b.cache.drops(key)
	rec, idle, problem := b.load(ctx, id, key)
	switch {
	case problem == nil:
		b.cache.put(key, rec, idle, began, drops)
	case problem.Status == http.StatusUnauthorized:
		b.cache.drop(key)
	}
	return rec, idle, problem
}

// load reads the session that id names from the store. The problem is the
// reason why there is none, or that nobody can tell at the moment.
func (b *BFF) load(ctx context.Context, id *seal.ID, key string) (*loaded, time.Time, *Problem) {
	ctx, cancel := b.storeContext(ctx)
	defer cancel()
	value, version, expires, ok, err := b.store.Load(ctx, key)
	if err != nil {
		return nil, time.Time{}, newProblem(StoreUnavailable, err)
	}
	if !ok {
		return nil, time.Time{}, newProblem(b.whyEnded(ctx, id, value), ErrNoSession)
	}
	rec, err := open(id, key, value, version)
	if err != nil {
		// Somebody wrote to the store who could not seal. To sign in again is
		// the way out, so this is no outage.
		b.log.LogAttrs(ctx, slog.LevelError, "session record doesn't open", slog.String("session", seal.Handle(key)))
		return nil, time.Time{}, newProblem(NoSession, err)
	}
	if !time.Now().Before(rec.head.End) { // check:lifetime the store's clock is behind ours
		return nil, time.Time{}, newProblem(SessionExpired, ErrNoSession)
	}
	return rec, expires, nil
}

// whyEnded says why the session that id names is not there: its mark tells, or
// the sign-in time under the cookie's MAC does, as far as the store's memory
// goes back.
func (b *BFF) whyEnded(ctx context.Context, id *seal.ID, mark []byte) Reason {
	if reason := Reason(mark); reasons[reason].status == http.StatusUnauthorized {
		return reason
	}
	switch age := time.Since(id.SignedIn()); {
	case age >= b.cfg.MaxLifetime:
		return SessionExpired
	case age < b.cfg.IdleTimeout/2 || b.caps.memory == nil:
		return NoSession
	}
	since, err := b.caps.memory.Since(ctx)
	if err != nil || id.SignedIn().Before(since) {
		return NoSession // perhaps the store was lost since
	}
	return SessionIdle
}

// session returns the session of a request whose cookie named id. cacheMay says
// whether the cache may answer.
func (b *BFF) session(ctx context.Context, id seal.ID, cacheMay bool) (*Session, *Problem) {
	s := &Session{b: b, id: id, fresh: !cacheMay}
	s.key = s.id.RecordKey()
	rec, expires, problem := b.lookUp(ctx, &s.id, s.key, cacheMay)
	if problem != nil {
		return nil, problem
	}
	s.rec, s.idle = rec, expires
	return s, nil
}

// extend moves the session's idle time-out to a whole IdleTimeout from now, if
// that is later. A store that can't costs nothing but the extension.
func (b *BFF) extend(ctx context.Context, s *Session) *Problem {
	until := time.Now().Add(b.cfg.IdleTimeout)
	if end := s.record().head.End; until.After(end) {
		until = end
	}
	if !until.After(s.IdleExpiresAt()) {
		return nil
	}
	storeCtx, cancel := b.storeContext(ctx)
	defer cancel()
	ok, err := b.store.Touch(storeCtx, s.key, until)
	switch {
	case err != nil:
		b.log.LogAttrs(ctx, slog.LevelWarn, "session not extended", slog.String("session", seal.Handle(s.key)), slog.Any("err", err))
	case !ok: // it ended since it was loaded
		_, _, problem := b.lookUp(ctx, &s.id, s.key, false)
		if problem == nil {
			problem = newProblem(NoSession, ErrNoSession)
		}
		return problem
	default:
		s.mu.Lock()
		s.idle = until
		s.mu.Unlock()
		if b.cache != nil {
			b.cache.extend(s.key, until)
		}
		b.streams.touched(s.key) // streams tell of it
	}
	return nil
}

// endKey ends the session whose record key is given by command, whatever its
// version. It reports whether there was one.
func (b *BFF) endKey(ctx context.Context, key string, why Reason) (bool, error) {
	return b.end(ctx, key, 0, why)
}

// end ends a session, at a version or, by command, at any. After an unclear
// answer it looks whether it was done: otherwise nobody would be told of it, and
// what is to follow, such as a revocation, would not.
func (b *BFF) end(ctx context.Context, key string, version uint64, why Reason) (bool, error) {
	storeCtx, cancel := b.storeContext(ctx)
	ok, err := b.store.End(storeCtx, key, version, []byte(why), time.Now().Add(markKept))
	cancel()
	if err != nil {
		storeCtx, cancel := b.storeContext(ctx)
		mark, _, _, live, unclear := b.store.Load(storeCtx, key)
		cancel()
		if unclear == nil && !live && string(mark) == string(why) {
			ok, err = true, nil
		}
	}
	b.changed(key) // whatever the store reports, and when
	return ok, err
}

// isPassive reports whether r asks not to count as activity, or is a prefetch
// that nobody may ever look at.
func isPassive(r *http.Request) bool {
	return r.Header.Get("Bff-Passive") == "1" || isPrefetch(r)
}

// isPrefetch reports whether the browser sent r ahead of anybody's wish
// (Fetch standard, Sec-Purpose).
func isPrefetch(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Sec-Purpose"), "prefetch") || r.Header.Get("Purpose") == "prefetch" || r.Header.Get("X-Moz") == "prefetch"
}
