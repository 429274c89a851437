package bff

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/agglestone/bff/internal/record"
	"github.com/agglestone/bff/internal/seal"
)

// What this file promises: a session that is to end together with others, by
// its subject or by the issuer's session, does, even while it is being made.
//
// That rests on an order of calls, not on what the store does at one stroke. A
// login files its tags, then its record, and then looks for marks on its tags.
// Whoever ends by a tag files a mark on it, then reads what is filed there, and
// ends that. However the two interleave, one of them sees the other. The mark
// of a logout token bears its time, up to which ID tokens were issued that it
// ends, both by the issuer's clock: one that comes late doesn't end the next
// session. The mark of a command bears the time up to which sign-ins began that
// it ends, both by ours.

// The kinds of tags.
const (
	tagSubject = "sub"
	tagSID     = "sid" // the issuer's session
)

// tagMarkKept is how long a login may be in flight when its tag is marked.
const tagMarkKept = 10 * time.Minute

// endingTakes bounds how long the ending of all of a subject's sessions may go
// on after whoever asked for it has gone.
const endingTakes = time.Minute

// atOnce bounds the calls of the store that one ending makes at the same time.
const atOnce = 16

// tags returns the tags of a session.
func tags(id *seal.ID, h *record.Head) []string {
	list := []string{id.Tag(tagSubject, h.Subject)}
	if h.SID != "" {
		list = append(list, id.Tag(tagSID, h.SID))
	}
	return list
}

// markTag returns the tag under which the marks on tag are filed.
func markTag(tag string) string { return "tm" + tag[1:] }

// fileTags files a session that is about to be created under its tags.
func (b *BFF) fileTags(ctx context.Context, id *seal.ID, key string, c *content, device string, now time.Time) error {
	if b.caps.index == nil {
		return nil
	}
	list := tags(id, &c.head)
	note := record.Note{Created: now, IssuedAt: c.grant.IssuedAt, Device: device, HasSID: c.head.SID != ""}
	copy(note.Subject[:], list[0])
	text := note.Append(nil)
	for _, tag := range list {
		ctx, cancel := b.storeContext(ctx)
		err := b.caps.index.Tag(ctx, tag, key, id.SealNote(tag, key, text), c.head.End)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// The kinds of marks.
const (
	markIssued = "m" // with the time by the issuer's clock
	markBegun  = "n" // by ours
	markNoSID  = "o" // by the issuer's, for sessions whose ID token has no sid
)

// overtaken reports whether a session that was just created was to end: its
// tags are marked. began is when its sign-in came back from the issuer.
func (b *BFF) overtaken(ctx context.Context, id *seal.ID, c *content, began time.Time) (bool, error) {
	if b.caps.index == nil {
		return false, nil
	}
	for i, tag := range tags(id, &c.head) {
		ctx, cancel := b.storeContext(ctx)
		marks, err := b.caps.index.Tagged(ctx, markTag(tag))
		cancel()
		if err != nil {
			return false, err
		}
		for mark := range marks {
			if strings.HasPrefix(mark, markNoSID) && c.head.SID != "" { // check:tag-mark-sid
				continue
			}
			of := c.grant.IssuedAt
			if strings.HasPrefix(mark, markBegun) {
				of = began
			}
			upTo, err := strconv.ParseInt(strings.TrimLeft(mark, markIssued+markBegun+markNoSID), 10, 64)
			if i > 0 || err == nil && of.UnixMilli() <= upTo { // check:tag-mark
				return true, nil
			}
		}
	}
	return false, nil
}

// untag takes a session that has ended out of its tags, which would expire
// anyway.
func (b *BFF) untag(ctx context.Context, id *seal.ID, key string, h *record.Head) {
	if b.caps.index == nil {
		return
	}
	for _, tag := range tags(id, h) {
		ctx, cancel := b.storeContext(ctx)
		b.caps.index.Untag(ctx, tag, key)
		cancel()
	}
}

// filed is a session as it is filed under a tag.
type filed struct {
	tag, key string
	note     record.Note
	opens    bool // the note could be read
}

// under returns what is filed under a value of a kind, by every key of the ring.
func (b *BFF) under(ctx context.Context, kind, value string) ([]filed, error) {
	ring := b.ring.Load()
	var list []filed
	for _, tag := range ring.Tags(kind, value) {
		ctx, cancel := b.storeContext(ctx)
		notes, err := b.caps.index.Tagged(ctx, tag)
		cancel()
		if err != nil {
			return nil, err
		}
		for key, sealed := range notes {
			f := filed{tag: tag, key: key}
			if text, ok := ring.OpenNote(tag, key, sealed); ok {
				note, err := record.ParseNote(text)
				f.note, f.opens = note, err == nil
			}
			list = append(list, f)
		}
	}
	return list, nil
}

// An ending says which sessions end together.
type ending struct {
	kind, value string
	upTo        time.Time // sessions whose ID token was issued later stay; zero: none does
	subject     string    // with tagSID: only this subject's, unless empty
	noSID       bool      // only sessions whose ID token has no sid
	event       Event     // to be told of each
}

// endTagged ends sessions by a tag. It returns how many it ended, and goes on
// after an error, which it returns: where the mark can't be filed, what is there
// ends all the same.
func (b *BFF) endTagged(ctx context.Context, e ending) (int, error) {
	now := time.Now()
	mark := markBegun + strconv.FormatInt(now.UnixMilli(), 10)
	if !e.upTo.IsZero() {
		kind := markIssued
		if e.noSID {
			kind = markNoSID
		}
		mark = kind + strconv.FormatInt(e.upTo.UnixMilli(), 10)
	}
	var unmarked error
	for _, tag := range b.ring.Load().Tags(e.kind, e.value) {
		ctx, cancel := b.storeContext(ctx)
		err := b.caps.index.Tag(ctx, markTag(tag), mark, nil, now.Add(tagMarkKept))
		cancel()
		if err != nil {
			unmarked = err
		}
	}
	list, err := b.under(ctx, e.kind, e.value)
	if err != nil {
		return 0, err
	}
	subjects := b.ring.Load().Tags(tagSubject, e.subject)
	list = slices.DeleteFunc(list, func(f filed) bool {
		switch {
		case !f.opens: // nothing is known of it, so it does not stay
			return false
		case !e.upTo.IsZero() && f.note.IssuedAt.After(e.upTo): // check:ends-next-session
			return true
		case e.noSID && f.note.HasSID: // check:sid-of-its-own
			return true
		case e.subject != "" && !slices.ContainsFunc(subjects, func(tag string) bool { return tag[:16] == string(f.note.Subject[:]) }): // check:sid-of-another
			return true
		}
		return false
	})
	n, err := b.endFiled(ctx, list, e.event)
	if err == nil {
		err = unmarked
	}
	return n, err
}

// endFiled ends sessions, many at once, and tells of each with the event.
func (b *BFF) endFiled(ctx context.Context, list []filed, e Event) (ended int, err error) {
	e.Kind = SessionEnded
	var mu sync.Mutex
	var errs []error
	b.each(list, func(f filed) {
		ok, err := b.endKey(ctx, f.key, e.Reason)
		if err == nil {
			storeCtx, cancel := b.storeContext(ctx)
			b.caps.index.Untag(storeCtx, f.tag, f.key)
			cancel()
		}
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err != nil:
			errs = append(errs, err)
		case ok:
			ended++
			e := e
			e.Session = seal.Handle(f.key)
			b.emit(ctx, nil, e)
		}
	})
	if len(errs) > 0 {
		return ended, errs[0] // they are alike
	}
	return ended, nil
}

// each calls f for every element, at most atOnce at a time.
func (b *BFF) each(list []filed, f func(filed)) {
	var wg sync.WaitGroup
	next := make(chan filed)
	for range min(atOnce, len(list)) {
		wg.Go(func() {
			for x := range next {
				f(x)
			}
		})
	}
	for _, x := range list {
		next <- x
	}
	close(next)
	wg.Wait()
}

// A SessionInfo says what is known of a session without its cookie. Nobody can
// use the session by it.
type SessionInfo struct {
	Handle    string    // names the session among its subject's; not a secret
	CreatedAt time.Time // zero if what was noted of the session can't be read
	LastSeen  time.Time // exact to half of Config.IdleTimeout
	ExpiresAt time.Time // without another request
	Device    string    // coarse, from the User-Agent header: "Firefox on Linux"

	filed filed
}

var errNoIndex = errors.New("bff: Config.Store can't find sessions by their subject: it is no Indexer")

// SessionsOf returns the live sessions of a subject, the latest first. It fails
// if the store can't tell, or is no [Indexer].
func (b *BFF) SessionsOf(ctx context.Context, subject string) ([]SessionInfo, error) {
	if b.caps.index == nil {
		return nil, errNoIndex
	}
	list, err := b.under(ctx, tagSubject, subject)
	if err != nil {
		return nil, newProblem(StoreUnavailable, err)
	}
	var mu sync.Mutex
	var infos []SessionInfo
	var failed error
	b.each(list, func(f filed) {
		storeCtx, cancel := b.storeContext(ctx)
		defer cancel()
		_, _, expires, ok, err := b.store.Load(storeCtx, f.key)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err != nil:
			failed = err
		case ok:
			infos = append(infos, SessionInfo{
				Handle: seal.Handle(f.key), CreatedAt: f.note.Created, LastSeen: expires.Add(-b.cfg.IdleTimeout),
				ExpiresAt: expires, Device: f.note.Device, filed: f,
			})
		}
	})
	if failed != nil {
		return nil, newProblem(StoreUnavailable, failed)
	}
	for i := range infos { // at the end of its lifetime a session idles for less
		if infos[i].LastSeen.Before(infos[i].CreatedAt) {
			infos[i].LastSeen = infos[i].CreatedAt
		}
	}
	slices.SortFunc(infos, func(a, b SessionInfo) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), strings.Compare(a.Handle, b.Handle))
	})
	return infos, nil
}

// EndSession ends the session of a subject that has this handle, and reports
// whether there was one. The refresh token of a session that is ended from
// outside can't be revoked here, since only its cookie opens it: revoke it at
// the issuer.
func (b *BFF) EndSession(ctx context.Context, subject, handle string) (bool, error) {
	return b.endHandle(ctx, subject, handle, Event{By: ByApplication})
}

func (b *BFF) endHandle(ctx context.Context, subject, handle string, e Event) (bool, error) {
	n, err := b.endWhere(ctx, subject, e, func(info SessionInfo) bool { return info.Handle == handle })
	return n > 0, err
}

// EndSessionsOf ends all sessions of a subject, those included whose login is
// under way, and returns how many there were.
func (b *BFF) EndSessionsOf(ctx context.Context, subject string) (int, error) {
	if b.caps.index == nil {
		return 0, errNoIndex
	}
	n, err := b.endTagged(ctx, ending{kind: tagSubject, value: subject, event: Event{Subject: subject, Reason: SessionRevoked, By: ByApplication}})
	if err != nil {
		return n, newProblem(StoreUnavailable, err)
	}
	return n, nil
}

// EndOthers ends all sessions of s's subject but s, and returns how many there
// were: for after a change of password, say (ASVS 7.4.3).
func (b *BFF) EndOthers(ctx context.Context, s *Session) (int, error) {
	if s == nil {
		return 0, newProblem(NoSession, ErrNoSession)
	}
	return b.endOthers(ctx, s, Event{By: ByUser})
}

func (b *BFF) endOthers(ctx context.Context, s *Session, e Event) (int, error) {
	return b.endWhere(ctx, s.Subject(), e, func(info SessionInfo) bool { return info.filed.key != s.key })
}

// endWhere ends those of a subject's sessions that match.
func (b *BFF) endWhere(ctx context.Context, subject string, e Event, match func(SessionInfo) bool) (int, error) {
	infos, err := b.SessionsOf(ctx, subject)
	if err != nil {
		return 0, err
	}
	var list []filed
	for _, info := range infos {
		if match(info) {
			list = append(list, info.filed)
		}
	}
	e.Subject, e.Reason = subject, SessionRevoked
	n, err := b.endFiled(ctx, list, e)
	if err != nil {
		return n, newProblem(StoreUnavailable, err)
	}
	return n, nil
}

// atOnceWithin is how far apart sign-ins are that may have been under way at the
// same time.
const atOnceWithin = 10 * time.Second

// limitSessions ends the oldest sessions of a subject that has too many. key is
// that of the newest, which stays, whatever the clocks of other replicas say of
// theirs: but not if another sign-in was under way beside it and is newer, or
// the two would end each other.
func (b *BFF) limitSessions(ctx context.Context, r *http.Request, subject, key string) {
	if b.cfg.MaxSessions == 0 {
		return
	}
	infos, err := b.SessionsOf(ctx, subject)
	if err == nil && len(infos) > b.cfg.MaxSessions {
		// The latest come first, and before the newest none but those that were
		// beside it.
		if i := slices.IndexFunc(infos, func(info SessionInfo) bool { return info.filed.key == key }); i > 0 {
			beside := 0
			for beside < i && infos[beside].CreatedAt.Sub(infos[i].CreatedAt) >= atOnceWithin {
				beside++
			}
			infos = slices.Concat(infos[beside:i+1], infos[:beside], infos[i+1:])
		}
		var list []filed
		for _, info := range infos[b.cfg.MaxSessions:] {
			list = append(list, info.filed)
		}
		_, err = b.endFiled(ctx, list, Event{Subject: subject, Reason: Replaced, By: BySystem, Request: requestInfo(r)})
	}
	if err != nil {
		b.log.LogAttrs(ctx, slog.LevelWarn, "a subject's oldest sessions were not ended", slog.Any("err", err))
	}
}
