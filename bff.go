// Package bff signs people in to a Go web server and keeps every token on the
// server: a Backend-for-Frontend for net/http.
//
// The browser holds one HttpOnly cookie. The server runs the OpenID Connect
// authorization-code flow with PKCE, keeps the tokens sealed in a [Store],
// refreshes them, and lends them out in two ways: to the handler behind
// [BFF.Protect], and to [BFF.Proxy], which forwards a request to an API with
// the bearer token attached.
//
//	auth, err := bff.New(ctx, bff.Config{
//		Issuer:      "https://login.example.com",
//		ClientID:    "my-app",
//		RedirectURL: "https://app.example.com/auth/callback",
//		Keys:        keys, // bff.ParseKeys(os.Getenv("BFF_KEYS"))
//	})
//	if err != nil {
//		log.Fatal(err) // every mistake, each with its field and its fix
//	}
//	mux := http.NewServeMux()
//	mux.Handle("GET /dashboard", auth.ProtectFunc(dashboard))
//	mux.Handle("/admin/", auth.Protect(admin, bff.RequireGroup("Admin")))
//	mux.Handle("/api/", auth.Proxy(bff.Upstream{URL: apiURL, StripPrefix: "/api"}))
//	http.ListenAndServe(":8080", auth.Routes(mux)) // adds /login, /logout, /auth/…
//
//	func dashboard(w http.ResponseWriter, r *http.Request) {
//		s, _ := bff.SessionFromContext(r.Context())
//		fmt.Fprintf(w, "Hello %s", s.Subject())
//	}
//
// # Sessions
//
// A session lasts 1 hour without a request and 12 hours at most. A request
// extends it once half of the idle time has passed, so it ends 30 to 60
// minutes after the last one. Requests with the header BFF-Passive: 1,
// prefetches, and GET /auth/session don't extend it. A GET handler behind
// Protect can be reached by a link on any site, as any page can: it must not
// change anything.
//
// # Requests from elsewhere
//
// A request that carries a session is refused unless it proves that it comes
// from the site itself: an unsafe method at Protect, and every request at
// Proxy and at the JSON routes. Browsers prove it without help (Sec-Fetch-Site,
// Origin); frontends add the header X-CSRF: 1 for old browsers.
//
// # Refresh
//
// When an access token nears its end, one token request is made for it, by one
// replica, detached from the request that needed it. A store or an issuer that
// is down answers 503 and signs nobody out.
//
// # Sign-out
//
// POST /logout ends the session, revokes the refresh token where the issuer
// publishes revocation, and leads to the issuer's end-session endpoint where
// there is one.
package bff

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/agglestone/bff/internal/issuer"
	"github.com/agglestone/bff/internal/returnto"
	"github.com/agglestone/bff/internal/seal"
	"github.com/agglestone/bff/store/memstore"
)

// Config says who this relying party is and how long its sessions live. A
// field with no stated default is required.
type Config struct {
	// Issuer is the provider's issuer identifier, an https URL with no query
	// or fragment. It must equal the iss claim exactly, trailing slash and all
	// (OpenID Connect Discovery 1.0, section 4.3). Plain http is for loopback.
	// Empty with a TenantID means AgglestoneIssuer(TenantID).
	Issuer string

	// TenantID is the Agglestone tenant. It sets Issuer and ClientID where they
	// are empty, and ID tokens and userinfo of another tenant are refused. Empty
	// means the one in Issuer, if that has Agglestone's shape, or else none.
	TenantID string

	// ClientID is the name of this relying party at the issuer. Empty means
	// TenantID, where there is one.
	ClientID string

	// ClientSecret makes this a confidential client. Empty means a public
	// client, which PKCE protects.
	ClientSecret Secret

	// TokenAuthMethod is how a confidential client authenticates at the token
	// endpoint: client_secret_basic (the default) or client_secret_post.
	TokenAuthMethod string

	// RedirectURL is where the issuer sends the browser back, as registered
	// there. Its path is the callback's path; its origin is the one origin that
	// requests must come from. Behind a reverse proxy it is the public URL. New
	// refuses a host that browsers spell otherwise, such as 127.1.
	RedirectURL string

	// PostLogoutURL is where a sign-out ends, as registered at the issuer.
	// Empty means the root of RedirectURL's origin. The route /auth/logged-out
	// of ours checks the state that comes back, and leads on to the returnUrl
	// of the sign-out.
	PostLogoutURL string

	// Scopes are asked for at sign-in; openid is added. Nil means openid,
	// profile and email. With offline_access, prompt=consent is sent as OpenID
	// Connect Core 1.0, section 11, demands; AuthorizationParams overrides it.
	Scopes []string

	// AuthorizationParams are added to every authorization request. They can't
	// change the protocol's own parameters. An empty value removes a default.
	// The answer is held to a max_age among them.
	AuthorizationParams map[string]string

	// LoginParams are the parameters that GET /login passes on to the issuer if
	// the request has them: of prompt, login_hint and ui_locales. max_age and
	// acr_values always pass, since what they ask for is checked afterwards.
	LoginParams []string

	// Keys seal cookies and records: the first seals, all open. To rotate, add
	// the new key at the end on every replica, then move it to the front, and
	// remove the old one MaxLifetime later: what it alone can open ends then.
	// [BFF.SetKeys] does each step without a restart. They may be empty with a
	// KeySource, or with a nil Store and a RedirectURL on loopback: then fresh
	// ones live in this process.
	Keys []Key

	// KeySource, if set, is asked for the keys every KeySourceEvery, and by New
	// if Keys is empty; a key management service is such a function. A key that
	// turns up while the process runs opens at once, but seals only when it has
	// been seen for two periods, since other replicas may not have it yet. The
	// answer that New gets is used as it is: where a process may start at any
	// moment, a source puts a new key at the end, too, and in front once all
	// have asked. An error, or keys that New would refuse, change nothing and
	// are logged. It must honour its context.
	KeySource func(context.Context) ([]Key, error)

	// KeySourceEvery is how often KeySource is asked. Zero means 1 minute.
	KeySourceEvery time.Duration

	// Store keeps the sessions. Nil means in the memory of this process.
	Store Store

	// CacheSize is how many decoded sessions this process keeps, so that most
	// requests cost neither I/O nor decryption. It takes about 1 KB for each,
	// and the tokens. Requests by safe methods may then be let in until
	// CacheMaxStale after a session was ended by another process; unsafe
	// methods, step-up and refresh read past it. Zero means no cache.
	CacheSize int

	// CacheMaxStale bounds how old what the cache says may be. Where the store
	// is a [Watcher], reports of changes keep it younger than that, and entries
	// are used for longer without being read anew. Zero means 1 second.
	CacheMaxStale time.Duration

	// IdleTimeout ends a session this long after its last request. Zero means
	// 1 hour.
	IdleTimeout time.Duration

	// MaxLifetime ends a session this long after the sign-in. Zero means
	// 12 hours.
	MaxLifetime time.Duration

	// RefreshMargin is how long before its end an access token is refreshed,
	// while requests still use it: half of its life at most. Zero means a tenth
	// of its life, at most 1 minute.
	RefreshMargin time.Duration

	// RefreshEvery bounds how long a change at the issuer (a revocation, other
	// groups) can go unnoticed: a token that lives longer is refreshed this
	// often. Zero means 15 minutes.
	RefreshEvery time.Duration

	// AccessTokenLifetime is assumed where the issuer doesn't say how long an
	// access token lives (RFC 6749, section 5.1, expires_in). Zero means 5
	// minutes. A token that is said to have expired already, with 0 or less, is
	// taken to live for a second, or each request would ask for another.
	AccessTokenLifetime time.Duration

	// IssuerTimeout bounds one request to the issuer. Zero means 10 seconds.
	IssuerTimeout time.Duration

	// StoreTimeout bounds one call of the store. Zero means 3 seconds.
	StoreTimeout time.Duration

	// ClockSkew is how far the issuer's clock may be off. Zero means 30 seconds.
	ClockSkew time.Duration

	// SigningAlgs are the algorithms accepted for ID tokens. Nil means RS256,
	// PS256, ES256, and their 384 and 512 bit kin, and EdDSA. Only asymmetric
	// ones exist. Naming the one that is registered is stricter.
	SigningAlgs []string

	// TrustedAudiences may stand beside ClientID in an ID token's aud claim.
	TrustedAudiences []string

	// UserInfo fetches the user's claims from the userinfo endpoint as well, at
	// sign-in and at each refresh.
	UserInfo bool

	// OnLogin is called at sign-in and, with Login.Refresh set, at each
	// refresh. It may set values for the session, or refuse the user with
	// [Refuse]. Any other error, or a panic, answers 503: the hook could not
	// tell. It may be called concurrently and must honour its context.
	OnLogin func(context.Context, *Login) error

	// DefaultReturnURL is where a sign-in ends that names no valid place, a
	// local path. Empty means "/".
	DefaultReturnURL string

	// CookieName is the session cookie's name without its prefix. Empty means
	// "bff", on loopback with RedirectURL's port, since ports share cookies.
	CookieName string

	// SameSite is Lax or Strict for the session cookie. Zero means Lax. With
	// Strict, a link from another site to a protected page costs a trip through
	// the login, and the callback makes one hop to itself.
	SameSite http.SameSite

	// BrowserSessionCookie leaves Max-Age out, so that the cookie ends with the
	// browser.
	BrowserSessionCookie bool

	// RequireCSRFToken demands the session's CSRF token with every unsafe
	// method, on top of the proof of origin.
	RequireCSRFToken bool

	// MaxSessions is how many sessions a subject may have at once; a sign-in
	// beyond it ends the oldest. It needs a Store that is an [Indexer]. Zero
	// means any number.
	MaxSessions int

	// NoBackchannelLogout takes away the route that the issuer ends sessions
	// by. With the route, Store must be an [Indexer].
	NoBackchannelLogout bool

	// OnEvent, if set, is called with every [Event], at once, in the goroutine
	// of whatever caused it, and so concurrently. It must return quickly; to
	// queue is its own choice.
	OnEvent func(context.Context, Event)

	// Paths are where the routes are. Each empty one has its default.
	Paths Paths

	// NoLogoutPage answers GET /logout with 405 instead of a page with a button.
	NoLogoutPage bool

	// OmitIDTokenHint leaves id_token_hint out of the sign-out request to the
	// issuer, which then may have to ask the user.
	OmitIDTokenHint bool

	// LogoutHint is the claim, such as email, whose value is sent as logout_hint
	// where no id_token_hint is. Empty means none.
	LogoutHint string

	// RevokeAccessToken revokes the access token at sign-out as well as the
	// refresh token, for issuers where the one doesn't end with the other.
	RevokeAccessToken bool

	// SessionClaims are the claims that GET /auth/session shows. Nil means
	// name, email, picture, preferred_username and groups.
	SessionClaims []string

	// SessionInfo, if set, gives the "app" member of GET /auth/session.
	SessionInfo func(context.Context, *Session) (any, error)

	// ErrorHandler, if set, answers every refusal. It may draw a page if
	// p.Page is set, and calls p.ServeHTTP(w, r) for what it leaves alone.
	ErrorHandler func(w http.ResponseWriter, r *http.Request, p *Problem)

	// Upstreams are the APIs that [BFF.Client] may call. Proxy's need not be
	// listed.
	Upstreams []Upstream

	// HTTPClient's transport is used for requests to the issuer. Nil means one
	// of our own, with TLS 1.2 or later and a proxy from the environment.
	HTTPClient *http.Client

	// Logger receives what happens. Nil means slog.Default().
	Logger *slog.Logger

	// FailFast makes New ask for the issuer's metadata and fail without it.
	FailFast bool

	// InsecureHTTP admits plain http off loopback, for Issuer and RedirectURL:
	// cookies and tokens then travel in the clear. It is for test networks.
	InsecureHTTP bool
}

// Paths are the paths of our own routes. The callback's is RedirectURL's.
type Paths struct {
	Login  string // empty: /login
	Logout string // empty: /logout
	Prefix string // empty: /auth; the parent of /auth/session
}

// A ConfigError names a field of [Config] that can't be used and what to do.
// It is always a pointer.
type ConfigError struct {
	Field string
	Msg   string
}

func (e *ConfigError) Error() string { return "bff: Config." + e.Field + ": " + e.Msg }

// A BFF is one relying party at one issuer. It is safe for concurrent use.
type BFF struct {
	cfg    Config
	log    *slog.Logger
	ring   atomic.Pointer[seal.Ring]
	store  Store
	issuer *issuer.Client
	caps   capabilities

	origin        string // scheme://host[:port] of RedirectURL
	host          string // host[:port] of it
	callback      string // its path
	paths         Paths
	sessionAt     string // path of the session route
	sessionsAt    string
	eventsAt      string
	loggedOutAt   string
	backchannelAt string
	cookies       cookieNames
	upstreams     []*target // of Config, for Client

	refreshes    chan struct{} // bounds the token requests in flight for sessions
	redemptions  chan struct{} // and those for sign-ins, which strangers can cause
	storeTimeout time.Duration // zero: the store can't block

	mu      sync.Mutex
	flights map[string]*flight // by record key
	closed  bool
	proxied atomic.Pointer[[]string] // prefixes that Proxy serves

	cache   *sessionCache // nil: none
	changes changes
	tally   tally
	streams streams

	work     sync.WaitGroup // what runs in the background
	quit     context.Context
	quitWork context.CancelFunc // ends what would run for ever
	stop     context.Context
	stopWork context.CancelFunc // gives everything up
}

const (
	maxTokenRequests = 64
	defaultIdle      = time.Hour
	defaultLifetime  = 12 * time.Hour
)

// New checks cfg and returns a BFF ready to serve. The issuer's metadata is
// fetched when first needed, so that New succeeds while the issuer is down;
// ctx bounds nothing unless cfg.FailFast is set or cfg.KeySource is asked. New
// starts no goroutine but for a KeySource.
//
// New reports every mistake in cfg at once, each as a [*ConfigError]. It copies
// cfg, so later changes to it have no effect.
func New(ctx context.Context, cfg Config) (*BFF, error) {
	c := &checker{}
	b := &BFF{flights: make(map[string]*flight)}
	b.cfg = c.config(ctx, cfg, b)
	if b.store = cfg.Store; b.store == nil {
		b.store = memstore.New(memstore.Options{})
	}
	b.caps = capabilitiesOf(b.store)
	c.capabilities(b)
	if err := c.err(); err != nil {
		return nil, err
	}
	cfg = b.cfg
	b.log = cfg.Logger
	b.refreshes = make(chan struct{}, maxTokenRequests)
	b.redemptions = make(chan struct{}, maxTokenRequests)
	b.stop, b.stopWork = context.WithCancel(context.Background())
	b.quit, b.quitWork = context.WithCancel(b.stop)
	b.proxied.Store(&[]string{})
	b.streams.wake = make(chan struct{}, 1)
	b.streams.sessions, b.streams.nobodys = make(map[string]*watched), make(map[*stream]bool)

	if cfg.Store == nil {
		b.log.LogAttrs(ctx, slog.LevelWarn, "sessions live in this process: a restart ends them and a second replica does not see them")
	}
	if _, ok := b.store.(*memstore.Store); !ok {
		b.storeTimeout = cfg.StoreTimeout
	}
	b.changes.epoch = time.Now().Add(-time.Hour)
	if cfg.CacheSize > 0 {
		b.cache = newSessionCache(cfg.CacheSize)
	}
	b.issuer = issuer.New(issuer.Config{
		Issuer:           cfg.Issuer,
		ClientID:         cfg.ClientID,
		ClientSecret:     cfg.ClientSecret.Reveal(),
		AuthMethod:       cfg.TokenAuthMethod,
		RedirectURL:      cfg.RedirectURL,
		Scopes:           cfg.Scopes,
		TenantID:         cfg.TenantID,
		SigningAlgs:      cfg.SigningAlgs,
		TrustedAudiences: cfg.TrustedAudiences,
		ClockSkew:        cfg.ClockSkew,
		Timeout:          cfg.IssuerTimeout,
		HTTPClient:       cfg.HTTPClient,
		InsecureHTTP:     cfg.InsecureHTTP,
		Logger:           cfg.Logger,
	})
	if cfg.ClientSecret == "" {
		b.log.LogAttrs(ctx, slog.LevelInfo, "public client: PKCE protects the code, nothing authenticates the token requests (RFC 10017, section 6.1.3.1, wants a confidential client)",
			slog.String("issuer", cfg.Issuer))
	}
	if cfg.InsecureHTTP {
		b.log.LogAttrs(ctx, slog.LevelWarn, "InsecureHTTP: cookies and tokens may travel in the clear")
	}
	if cfg.KeySource != nil {
		b.forever(b.followKeys)
	}
	if cfg.FailFast {
		if _, err := b.issuer.Metadata(ctx); err != nil {
			b.quitWork()
			return nil, fmt.Errorf("bff: %w", err)
		}
	}
	return b, nil
}

// Ready reports whether the issuer and the store can be reached: nil, or a
// *Problem that says which can't. A process that isn't ready still serves what
// it can; use it for readiness, not for liveness.
func (b *BFF) Ready(ctx context.Context) error {
	storeCtx, cancel := b.storeContext(ctx)
	defer cancel()
	if _, _, _, _, err := b.store.Load(storeCtx, "sready"); err != nil {
		return newProblem(StoreUnavailable, err)
	}
	if _, err := b.issuer.Metadata(ctx); err != nil {
		return newProblem(IssuerUnavailable, err)
	}
	return nil
}

// Close waits for what runs in the background, such as a refresh whose answer
// is not stored yet, and lets nothing new start. Call it after
// [http.Server.Shutdown]. If ctx ends first, what still runs is given up and
// Close returns ctx's error. It never closes the Store.
func (b *BFF) Close(ctx context.Context) error {
	b.Drain()
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.quitWork()
	done := make(chan struct{})
	go func() {
		b.work.Wait()
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
		b.stopWork()
		<-done // every step in the background has a deadline and heeds stop
	}
	b.stopWork()
	b.flushAll()
	return errors.Join(err, b.issuer.Close(ctx))
}

// Shutdown is Drain and then Close, for programs that end all at once.
func (b *BFF) Shutdown(ctx context.Context) error {
	b.Drain()
	return b.Close(ctx)
}

// background runs f in a goroutine that Close waits for. It reports false, and
// does not run f, after Close. f's context carries ctx's values, not its end.
func (b *BFF) background(ctx context.Context, f func(context.Context)) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.work.Add(1)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	unhook := context.AfterFunc(b.stop, cancel)
	go func() {
		defer b.work.Done()
		defer cancel()
		defer unhook()
		f(ctx)
	}()
	return true
}

// forever runs f in a goroutine until Close. It reports false, and does not run
// f, after Close.
func (b *BFF) forever(f func(context.Context)) bool {
	return b.background(b.quit, func(ctx context.Context) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(b.quit, cancel)()
		f(ctx)
	})
}

// detached returns a context with ctx's values that does not end with ctx, but
// after d, or when Close gives up: for what a request began and must not leave
// half done.
func (b *BFF) detached(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d)
	unhook := context.AfterFunc(b.stop, cancel)
	return ctx, func() { unhook(); cancel() }
}

// storeContext bounds one call of the store.
func (b *BFF) storeContext(ctx context.Context) (context.Context, context.CancelFunc) {
	if b.storeTimeout == 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, b.storeTimeout)
}

// Routes answers our own paths and hands everything else to next; with a nil
// next, everything else is 404. Mount it outermost, around the whole mux: a mux
// that has routes of its own under /auth/ or /login would prefer those.
func (b *BFF) Routes(next http.Handler) http.Handler {
	own := map[string]map[string]http.HandlerFunc{
		b.paths.Login:  {http.MethodGet: b.serveLogin},
		b.callback:     {http.MethodGet: b.serveCallback},
		b.paths.Logout: {http.MethodPost: b.serveLogout},
		b.sessionAt:    {http.MethodGet: b.serveSession, http.MethodPost: b.serveExtend},
		b.eventsAt:     {http.MethodGet: b.serveEvents},
		b.loggedOutAt:  {http.MethodGet: b.serveLoggedOut},
	}
	if !b.cfg.NoLogoutPage {
		own[b.paths.Logout][http.MethodGet] = b.serveLogoutPage
	}
	if b.caps.index != nil {
		own[b.sessionsAt] = map[string]http.HandlerFunc{http.MethodGet: b.serveSessions}
		own[b.sessionsAt+"/end-others"] = map[string]http.HandlerFunc{http.MethodPost: b.serveEndOthers}
	}
	if !b.cfg.NoBackchannelLogout {
		own[b.backchannelAt] = map[string]http.HandlerFunc{http.MethodPost: b.serveBackchannel}
	}
	one := map[string]http.HandlerFunc{http.MethodDelete: b.serveEndSession} // of the user's sessions
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		methods, ok := own[r.URL.Path]
		if !ok && b.caps.index != nil && isChild(r.URL.Path, b.sessionsAt) {
			methods, ok = one, true
		}
		if !ok {
			if next == nil {
				b.refuse(w, r, newProblem(NotFound, nil))
				return
			}
			next.ServeHTTP(w, r)
			return
		}
		serve, ok := methods[r.Method]
		if !ok {
			w.Header().Set("Allow", allowed(methods))
			b.refuse(w, r, newProblem(MethodNotAllowed, nil))
			return
		}
		// The login makes room for its own cookie, and the issuer has none.
		if r.URL.Path != b.paths.Login && r.URL.Path != b.backchannelAt {
			b.trimAttempts(w, r)
		}
		serve(w, r)
	})
}

// isChild reports whether path is one segment below parent.
func isChild(path, parent string) bool {
	rest, ok := strings.CutPrefix(path, parent+"/")
	return ok && rest != "" && !strings.Contains(rest, "/")
}

func allowed(methods map[string]http.HandlerFunc) string {
	names := make([]string, 0, len(methods))
	for m := range methods {
		names = append(names, m)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// Patterns returns the patterns of our routes, to mount them on a mux instead
// of wrapping it:
//
//	for _, p := range auth.Patterns() {
//		mux.Handle(p, auth.Routes(nil))
//	}
func (b *BFF) Patterns() []string {
	patterns := []string{
		"GET " + b.paths.Login,
		"GET " + b.callback,
		"POST " + b.paths.Logout,
		"GET " + b.sessionAt,
		"POST " + b.sessionAt,
		"GET " + b.eventsAt,
		"GET " + b.loggedOutAt,
	}
	if !b.cfg.NoLogoutPage {
		patterns = append(patterns, "GET "+b.paths.Logout)
	}
	if b.caps.index != nil {
		patterns = append(patterns, "GET "+b.sessionsAt, "POST "+b.sessionsAt+"/end-others", "DELETE "+b.sessionsAt+"/{handle}")
	}
	if !b.cfg.NoBackchannelLogout {
		patterns = append(patterns, "POST "+b.backchannelAt)
	}
	return patterns
}

// ownPath reports whether path is one of our routes or under a prefix that
// Proxy serves: no sign-in may end there. [returnto.Clean] asks with the path
// itself and with what a forgiving router may make of it.
func (b *BFF) ownPath(path string) bool {
	for _, own := range []string{b.paths.Login, b.callback, b.paths.Logout, b.sessionAt, b.eventsAt, b.loggedOutAt, b.backchannelAt} {
		if path == returnto.Plain(own) {
			return true
		}
	}
	for _, prefix := range append([]string{b.sessionsAt}, *b.proxied.Load()...) {
		if prefix = returnto.Plain(prefix); path == prefix || strings.HasPrefix(path, prefix+"/") {
			return true
		}
	}
	return false
}

// originOf returns u's origin as browsers write it (RFC 6454, section 6.2).
func originOf(u *url.URL) (origin, host string) {
	host = strings.ToLower(u.Host)
	if p := u.Port(); (u.Scheme == "https" && p == "443") || (u.Scheme == "http" && p == "80") {
		host = strings.TrimSuffix(host, ":"+p)
	}
	return u.Scheme + "://" + host, host
}
