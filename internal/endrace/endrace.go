// Package endrace races the ends of sessions against all that could undo them:
// refreshes, touches, handlers that are slow, and sign-ins under way, on several
// replicas that share a store. It is for the tests of stores.
package endrace

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
	"github.com/agglestone/bff/internal/seal"
)

// Options say how much is raced. Each zero field has its default.
type Options struct {
	// Rounds is how many sessions are ended, each by one of the ways in turn.
	// Zero means 10,000, or 400 with the race detector on. With the cache on,
	// where many a round waits for its bound, it means a twentieth of that.
	Rounds int

	// Replicas share the store. Zero means 2.
	Replicas int

	// CacheMaxStale turns the cache on, with this bound. Zero means no cache.
	CacheMaxStale time.Duration

	// Workers race at the same time. Zero means 4.
	Workers int
}

// batch is how many rounds share their replicas and their issuer, which keep
// what happened.
const batch = 100

// Run races ends. open returns the store's handle for a replica; it is called
// once for each. Each round signs a user in, ends the session while it is in
// use, and looks whether anything lets it in or brings it back:
//
//   - No request that began after the end had returned is let in; with the
//     cache, none by a safe method that began more than CacheMaxStale after it,
//     and none by another method at all.
//   - A sign-in under way that is to end, too, does: by the issuer's session or
//     by the subject.
//   - When all is quiet no record is left but the mark, with the reason.
//
// The ends are a sign-out, a logout token for the issuer's session, one for the
// subject, and a command for the subject.
func Run(t *testing.T, open func(replica int) bff.Store, opts Options) {
	t.Helper()
	def := func(n *int, zero int) {
		if *n == 0 {
			*n = zero
		}
	}
	if opts.CacheMaxStale > 0 {
		def(&opts.Rounds, standardRounds/20)
	}
	def(&opts.Rounds, standardRounds)
	def(&opts.Replicas, 2)
	def(&opts.Workers, 4)
	stores := make([]bff.Store, opts.Replicas)
	for i := range stores {
		stores[i] = open(i)
	}
	raw := make([][]byte, 2)
	for i := range raw {
		raw[i] = make([]byte, seal.KeySize)
		rand.Read(raw[i])
	}
	for first := 0; first < opts.Rounds && !t.Failed(); first += batch {
		newFleet(t, stores, raw, opts, first).race(min(batch, opts.Rounds-first))
	}
}

const appURL = "https://app.example.com"

// A fleet is replicas of an application at one store, and their issuer.
type fleet struct {
	*testing.T
	opts     Options
	first    int // round
	iss      *bfftest.Issuer
	ring     *seal.Ring
	stores   []bff.Store
	auth     []*bff.BFF
	handlers []http.Handler

	mu    sync.Mutex
	marks map[string]string // the reasons that are to be left, by record key
}

func newFleet(t *testing.T, stores []bff.Store, raw [][]byte, opts Options, first int) *fleet {
	t.Helper()
	f := &fleet{T: t, opts: opts, first: first, stores: stores, marks: make(map[string]string)}
	// In every other batch tokens expire at once, so that requests wait for a
	// refresh. In the others one runs beside them all the time. In every other
	// pair of them a refresh brings no ID token, and is one write less.
	f.iss = bfftest.NewIssuer(bfftest.Options{
		BaseURL:            fmt.Sprintf("https://issuer-%d.example", first),
		Users:              []bfftest.User{{Name: "nobody"}},
		NoIDTokenOnRefresh: first/batch%4 < 2,
	})
	f.iss.UseKey(bfftest.NewKey("ES256"))
	if first/batch%2 == 1 {
		f.iss.Break("token", bfftest.Fault{EditJSON: func(m map[string]any) { delete(m, "expires_in") }})
	}
	var err error
	if f.ring, err = seal.NewRing(raw, f.iss.URL(), f.iss.ClientID()); err != nil {
		t.Fatal(err)
	}
	keys := make([]bff.Key, len(raw))
	for i, b := range raw {
		if keys[i], err = bff.ParseKey(base64.StdEncoding.EncodeToString(b)); err != nil {
			t.Fatal(err)
		}
	}
	for i, store := range stores {
		cfg := bff.Config{
			Issuer:       f.iss.URL(),
			ClientID:     f.iss.ClientID(),
			RedirectURL:  appURL + "/auth/callback",
			Keys:         keys,
			Store:        store,
			HTTPClient:   f.iss.Client(),
			Logger:       slog.New(slog.DiscardHandler),
			RefreshEvery: time.Millisecond,
			// Of tokens that come without a word about it.
			AccessTokenLifetime: time.Nanosecond,
			OnLogin:             noteSignIn,
			// Redemptions wait for each other where the machine is slow.
			IssuerTimeout: 30 * time.Second,
			StoreTimeout:  30 * time.Second,
		}
		if opts.CacheMaxStale > 0 {
			cfg.CacheSize, cfg.CacheMaxStale = 1000, opts.CacheMaxStale
			cfg.RefreshEvery = 0 // each refresh clears the cache
		}
		// Each replica seals under another key (D11).
		keys = append(slices.Clone(keys[1:]), keys[0])
		auth, err := bff.New(t.Context(), cfg)
		if err != nil {
			t.Fatalf("replica %d: %v", i, err)
		}
		mux := http.NewServeMux()
		mux.Handle("/page", auth.ProtectFunc(func(http.ResponseWriter, *http.Request) {}))
		mux.Handle("/slow", auth.ProtectFunc(slow))
		f.auth = append(f.auth, auth)
		f.handlers = append(f.handlers, auth.Routes(mux))
	}
	return f
}

// A signIn is what is known of one that came as far as the application's hook.
type signIn struct {
	sub, sid string
	asked    time.Time // the hook, which is after the code was redeemed
}

type signInKey struct{}

// noteSignIn is Config.OnLogin.
func noteSignIn(ctx context.Context, l *bff.Login) error {
	s, ok := ctx.Value(signInKey{}).(*signIn)
	if !ok || l.Refresh {
		return nil
	}
	var claims struct {
		SID string `json:"sid"`
	}
	if err := l.Claims(&claims); err != nil {
		return err
	}
	s.sub, s.sid, s.asked = l.Subject, claims.SID, time.Now()
	return nil
}

type roundKey struct{}

// slow is admitted, and asks for the token when the session has ended.
func slow(w http.ResponseWriter, r *http.Request) {
	round := r.Context().Value(roundKey{}).(*round)
	select {
	case <-round.over:
	case <-time.After(10 * time.Second):
	}
	s, _ := bff.SessionFromContext(r.Context())
	s.AccessToken(r.Context()) // what comes of it is seen when all is quiet
}

// race runs n rounds, and then looks at what is left in the store.
func (f *fleet) race(n int) {
	var wg sync.WaitGroup
	var next atomic.Int64
	for range f.opts.Workers {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n) && !f.Failed(); i = next.Add(1) - 1 {
				f.round(f.first + int(i))
			}
		})
	}
	wg.Wait()
	for i, auth := range f.auth { // waits for every refresh
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		if err := auth.Close(ctx); err != nil {
			f.Errorf("Close of replica %d = %v", i, err)
		}
		cancel()
	}
	for key, why := range f.marks {
		mark, _, _, ok, err := f.stores[0].Load(f.Context(), key)
		if err != nil {
			f.Fatalf("Load = %v", err)
		}
		if ok || string(mark) != why {
			f.Errorf("a session that ended with %s has left %.40q, live: %v", why, mark, ok)
		}
	}
}

// note notes that the session with this cookie has ended, and why.
func (f *fleet) note(cookie *http.Cookie, why string) {
	id, ok := f.ring.ParseCookie(cookie.Value)
	if !ok {
		f.Errorf("a session cookie doesn't parse")
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.marks[id.RecordKey()] = why
}

// The ways to end a session.
const (
	bySignOut = iota
	bySID
	bySubject
	byCommand
	ways
)

var wayNames = [ways]string{"a sign-out", "a logout token for the sid", "a logout token for the subject", "a command"}

// A round is one session and its end.
type round struct {
	*fleet
	n      int
	way    int
	why    string // the reason afterwards
	user   string
	victim signIn
	cookie *http.Cookie // the victim's

	began  atomic.Int64 // the call that ends, in nanoseconds since base
	ended  atomic.Int64 // its return
	base   time.Time
	over   chan struct{} // closed at its return
	report func(format string, args ...any)
}

func (f *fleet) round(n int) {
	r := &round{fleet: f, n: n, way: n % ways, base: time.Now(), over: make(chan struct{}), user: fmt.Sprintf("user%d", n)}
	r.report = func(format string, args ...any) {
		f.Errorf("round %d, ended by %s: "+format, append([]any{n, wayNames[r.way]}, args...)...)
	}
	r.why = "session_revoked"
	if r.way == bySignOut {
		r.why = "signed_out"
	}
	// A user with a password has no button on the issuer's page.
	f.iss.AddUser(bfftest.User{Name: r.user, Password: "secret"})

	b := r.browser()
	callback := r.comeBack(b, true)
	var status int
	if r.cookie, status = r.finish(callback, &r.victim); r.cookie == nil {
		r.report("the sign-in is answered %d", status)
		return
	}
	var inFlight *attempt
	if n/ways%2 == 0 {
		inFlight = r.comeBack(b, false)
	}

	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() { r.use(i) })
	}
	var other signIn
	var late *http.Cookie
	if inFlight != nil {
		wg.Go(func() {
			pause()
			late, status = r.finish(inFlight, &other)
		})
	}
	pause()
	r.end()
	wg.Wait()
	r.note(r.cookie, r.why)
	if inFlight != nil {
		r.judge(late, status, &other)
	}
}

// pause gives way to others, for a while that is never the same.
func pause() {
	for range mathrand.IntN(30) {
		runtime.Gosched()
	}
}

// handler returns that of any replica.
func (f *fleet) handler() http.Handler { return f.handlers[mathrand.IntN(len(f.handlers))] }

// An attempt is a sign-in that the issuer has sent back.
type attempt struct {
	target  string
	cookies []*http.Cookie
}

// A stoppedBrowser does not follow the issuer's last redirect.
type stoppedBrowser struct {
	*bfftest.Browser
	target *string
}

func (r *round) browser() stoppedBrowser {
	target := new(string)
	return stoppedBrowser{bfftest.NewBrowser(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/auth/callback" {
			*target = req.URL.RequestURI()
			return
		}
		r.handler().ServeHTTP(w, req)
	}), appURL, r.iss), target}
}

// comeBack begins a sign-in at b, with a password or in the issuer's session,
// and returns what the issuer's answer is for the application.
func (r *round) comeBack(b stoppedBrowser, password bool) *attempt {
	b.Navigate("/login")
	if password {
		b.Choose(r.user)
	}
	a := &attempt{target: *b.target}
	for _, c := range b.Cookies() {
		if strings.HasPrefix(c.Name, "__Host-Http-bff-login-") {
			a.cookies = append(a.cookies, c)
		}
	}
	if a.target == "" || len(a.cookies) == 0 {
		r.report("the issuer did not answer: %v", b.Page())
	}
	return a
}

// finish completes a sign-in, in a browser without a session, and returns the
// cookie of the one that it made, if it did.
func (r *round) finish(a *attempt, note *signIn) (*http.Cookie, int) {
	req := httptest.NewRequest("GET", a.target, nil)
	for _, c := range a.cookies {
		req.AddCookie(c)
	}
	w := httptest.NewRecorder()
	r.handler().ServeHTTP(w, req.WithContext(context.WithValue(req.Context(), signInKey{}, note)))
	for _, c := range w.Result().Cookies() {
		if c.Name == sessionCookie && c.Value != "" {
			return c, w.Code
		}
	}
	return nil, w.Code
}

const sessionCookie = "__Host-Http-bff"

// request makes one, as a page of the application's own does.
func (r *round) request(method, target string, cookie *http.Cookie) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, target, nil)
	req.AddCookie(&http.Cookie{Name: sessionCookie, Value: cookie.Value})
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	req.Header.Set("Sec-Fetch-Mode", "cors")
	req.Header.Set("Accept", "application/json")
	w := httptest.NewRecorder()
	r.handler().ServeHTTP(w, req.WithContext(context.WithValue(req.Context(), roundKey{}, r)))
	return w
}

// use makes requests with the victim's session until the end has been seen.
func (r *round) use(i int) {
	calls := []struct{ method, path string }{{"GET", "/page"}, {"POST", "/page"}, {"POST", "/auth/session"}, {"GET", "/auth/session"}, {"GET", "/slow"}}
	if r.opts.CacheMaxStale > 0 && r.n/ways%4 < 2 {
		// The others read past the cache, and tell it what they find.
		calls = slices.DeleteFunc(calls, func(c struct{ method, path string }) bool { return c.method == "POST" })
	}
	for n := i; ; n++ {
		c := calls[n%len(calls)]
		if c.path == "/slow" && n != i {
			continue // one is enough
		}
		start := int64(time.Since(r.base))
		ended := r.ended.Load() // before the request: it is slow if it was admitted before
		w := r.request(c.method, c.path, r.cookie)
		bound := ended
		if c.method == "GET" {
			bound += int64(r.opts.CacheMaxStale)
		}
		switch must := ended != 0 && start > bound; {
		case w.Code == http.StatusUnauthorized:
			began := r.began.Load()
			if why := w.Header().Get("BFF-Reason"); began == 0 || why != r.why {
				r.report("%s %s is answered %s; has the end begun: %v", c.method, c.path, why, began != 0)
			}
			if must {
				return
			}
		case w.Code != http.StatusOK:
			r.report("%s %s is answered %d %s", c.method, c.path, w.Code, w.Header().Get("BFF-Reason"))
			return
		case must:
			r.report("%s %s is let in, %v after the end had returned", c.method, c.path, time.Duration(start-ended))
			return
		}
		if ended == 0 {
			pause()
		}
	}
}

// end ends the session.
func (r *round) end() {
	r.began.Store(int64(time.Since(r.base)) + 1)
	switch r.way {
	case bySignOut:
		if w := r.request("POST", "/logout", r.cookie); w.Code != http.StatusOK {
			r.report("it is answered %d %s", w.Code, w.Body)
		}
	case bySID, bySubject:
		token := r.iss.LogoutToken(func(t *bfftest.Token) {
			if r.way == bySID {
				t.Claims["sid"] = r.victim.sid
			} else {
				t.Claims["sub"] = r.victim.sub
			}
			t.Claims["iat"] = time.Now().Unix() + skew
		})
		req := httptest.NewRequest("POST", "/auth/backchannel-logout", strings.NewReader(url.Values{"logout_token": {token}}.Encode()))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		if r.handler().ServeHTTP(w, req); w.Code != http.StatusOK {
			r.report("it is answered %d %s", w.Code, w.Body)
		}
	case byCommand:
		auth := r.auth[mathrand.IntN(len(r.auth))]
		if n, err := auth.EndSessionsOf(context.Background(), r.victim.sub); n < 1 || err != nil {
			r.report("EndSessionsOf = %d, %v", n, err)
		}
	}
	r.ended.Store(int64(time.Since(r.base)) + 1)
	close(r.over)
}

// skew puts a logout token as far ahead of us as the issuer's clock may be, so
// that every sign-in under way is to end by it.
const skew = 20

// judge says whether a sign-in that was under way had to end, and ends it if it
// did not.
func (r *round) judge(late *http.Cookie, status int, of *signIn) {
	if of.asked.IsZero() {
		r.report("a sign-in under way is answered %d", status)
		return
	}
	alive := false
	if late != nil {
		alive = r.request("POST", "/page", late).Code == http.StatusOK
	}
	asked, began, ended := int64(of.asked.Sub(r.base)), r.began.Load(), r.ended.Load()
	switch {
	case r.way == bySID || r.way == bySubject, r.way == byCommand && asked < began:
		if alive {
			r.report("a sign-in that was under way survives (asked at %v, ended from %v to %v)", time.Duration(asked), time.Duration(began), time.Duration(ended))
		}
	case r.way == bySignOut:
		if !alive {
			r.report("another sign-in of the user did not survive: %d", status)
		}
	}
	if !alive {
		if late != nil {
			r.note(late, "session_revoked")
		}
		return
	}
	if w := r.request("POST", "/logout", late); w.Code != http.StatusOK {
		r.report("the sign-out of the other session is answered %d", w.Code)
	}
	r.note(late, "signed_out")
}
