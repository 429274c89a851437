package bff_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
	"github.com/agglestone/bff/store/memstore"
)

// The invariants of the design, one test each; most have more tests in the
// file of their subject. Invariant 4 is in refresh_test.go.

// signOut signs out by script.
func signOut(b *bfftest.Browser) *bfftest.Response {
	return b.Fetch("POST", "/logout", nil, http.Header{"Accept": {"application/json"}})
}

// sessionCookie returns the browser's session cookie.
func sessionCookie(t *testing.T, b *bfftest.Browser) *http.Cookie {
	t.Helper()
	for _, c := range b.Cookies() {
		if c.Name == "__Host-Http-bff" {
			return c
		}
	}
	t.Fatal("no session cookie")
	return nil
}

// 2: what rests in the store opens neither with it alone nor with the server's
// keys as well (S305, S363, X93).
func TestInvariant2StoreNotWorthStealing(t *testing.T) {
	stolen := &thiefStore{Store: memstore.New(memstore.Options{}), records: map[string][]byte{}}
	keys := []bff.Key{bff.NewKey()}
	a := newApp(t, setup{config: bff.Config{Store: stolen, Keys: keys}})
	b := a.signIn("alice")
	b.Fetch("GET", "/api/x", nil, nil)
	cookie := sessionCookie(t, b)
	raw, err := base64.RawURLEncoding.DecodeString(cookie.Value)
	if err != nil {
		t.Fatal(err)
	}
	secrets := append(a.iss.Secrets(), "alice", "Alice", "alice@example.com", "Admin", cookie.Value, string(raw[9:41]))
	if u, ok := a.iss.User("alice"); ok {
		secrets = append(secrets, u.ID)
	}
	if len(stolen.records) < 2 {
		t.Fatalf("%d records stolen", len(stolen.records))
	}
	for key, value := range stolen.records {
		for _, s := range secrets {
			if strings.Contains(key, s) || strings.Contains(string(value), s) {
				t.Errorf("record %s holds %.8q…", key, s)
			}
		}
		// The key as a cookie, and as a part of one.
		thief := a.browser()
		for _, v := range []string{key, key[1:], cookie.Value[:12] + key[1:] + cookie.Value[55:]} {
			thief.SetCookie(&http.Cookie{Name: cookie.Name, Value: v})
			if r := thief.Fetch("GET", "/page", nil, nil); r.Status != 401 {
				t.Errorf("cookie made of a record key: %v", r)
			}
		}
	}
	// The record of one session under the key of another (the keys are at hand).
	other := a.signIn("bob")
	bobs := sessionCookie(t, other)
	stolen.swap()
	for _, c := range []*http.Cookie{cookie, bobs} {
		v := a.browser()
		v.SetCookie(c)
		if r := v.Fetch("GET", "/page", nil, nil); r.Status != 401 {
			t.Errorf("with swapped records: %v %s", r, r.Body)
		}
	}
}

// A thiefStore keeps a copy of all that is written, and can swap records.
type thiefStore struct {
	bff.Store
	mu      sync.Mutex
	records map[string][]byte
	swapped map[string]string
}

func (s *thiefStore) Create(ctx context.Context, key string, value []byte, expires, end time.Time) (bool, error) {
	s.mu.Lock()
	s.records[key] = slices.Clone(value)
	s.mu.Unlock()
	return s.Store.Create(ctx, key, value, expires, end)
}

func (s *thiefStore) Load(ctx context.Context, key string) ([]byte, uint64, time.Time, bool, error) {
	s.mu.Lock()
	if to := s.swapped[key]; to != "" {
		key = to
	}
	s.mu.Unlock()
	return s.Store.Load(ctx, key)
}

func (s *thiefStore) swap() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var sessions []string
	for key := range s.records {
		if key[0] == 's' {
			sessions = append(sessions, key)
		}
	}
	s.swapped = map[string]string{sessions[0]: sessions[1], sessions[1]: sessions[0]}
}

// 3: once a sign-out has returned, no request that begins then is let in,
// whatever refreshes and touches are in flight (S224, S506, X181).
func TestInvariant3DeadStaysDead(t *testing.T) {
	a := newApp(t, setup{
		issuer: bfftest.Options{AccessTokenLifetime: time.Second},
		config: bff.Config{IdleTimeout: 2 * time.Second, MaxLifetime: time.Minute, ClockSkew: time.Minute},
	})
	for round := range 40 {
		b := a.signIn("alice")
		var out atomic.Bool
		var wg sync.WaitGroup
		for range 8 {
			tab := b.Tab()
			kept := sessionCookie(t, b)
			wg.Go(func() {
				for range 20 {
					late := out.Load()
					tab.SetCookie(kept) // a thief doesn't heed deletions
					r := tab.Fetch("GET", []string{"/page", "/api/x"}[round%2], nil, nil)
					if late && r.Status != 401 {
						t.Errorf("after the sign-out: %v", r)
					}
				}
			})
		}
		if r := signOut(b); r.Status != 200 && r.Status != 401 {
			t.Errorf("POST /logout = %v", r)
		}
		out.Store(true)
		wg.Wait()
	}
}

// Invariant 3, D5: a sign-out is a command. It ends the session though somebody
// wrote to it since it was read.
func TestSignOutIsACommand(t *testing.T) {
	store := &meddledStore{Store: memstore.New(memstore.Options{})}
	a := newApp(t, setup{config: bff.Config{Store: store}})
	b := a.signIn("alice")
	cookie := sessionCookie(t, b)
	store.beforeEnd = func(ctx context.Context, key string) {
		value, version, _, ok, err := store.Store.Load(ctx, key)
		if _, replaced, e := store.Replace(ctx, key, version, value); !ok || err != nil || !replaced || e != nil {
			t.Errorf("nothing was written in between: %v, %v", err, e)
		}
	}
	if r := signOut(b); r.Status != 200 {
		t.Fatal(r)
	}
	b.SetCookie(cookie)
	if r := b.Fetch("GET", "/page", nil, nil); r.Status != 401 || r.Reason() != "signed_out" {
		t.Errorf("after the sign-out: %v", r)
	}
}

// Invariant 3: a request that finds its session ended when it is about to
// extend it is not let in.
func TestEndedBeforeTouch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &meddledStore{Store: memstore.New(memstore.Options{})}
		// Without a refresh token, which would have to be looked up.
		a := newApp(t, setup{issuer: bfftest.Options{NoRefreshToken: true}, config: bff.Config{Store: store}})
		b := a.signIn("alice")
		time.Sleep(40 * time.Minute)
		store.beforeTouch = func(ctx context.Context, key string) {
			if ok, err := store.End(ctx, key, 0, []byte("signed_out"), time.Now().Add(time.Hour)); !ok || err != nil {
				t.Errorf("End = %v, %v", ok, err)
			}
		}
		if r := b.Fetch("GET", "/page", nil, nil); r.Status != 401 || r.Reason() != "signed_out" {
			t.Errorf("GET /page = %v", r)
		}
	})
}

// A meddledStore does something just before a call.
type meddledStore struct {
	bff.Store
	beforeEnd, beforeTouch func(ctx context.Context, key string)
}

func (s *meddledStore) End(ctx context.Context, key string, version uint64, mark []byte, until time.Time) (bool, error) {
	if f := s.beforeEnd; f != nil {
		s.beforeEnd = nil
		f(ctx, key)
	}
	return s.Store.End(ctx, key, version, mark, until)
}

func (s *meddledStore) Touch(ctx context.Context, key string, expires time.Time) (bool, error) {
	if f := s.beforeTouch; f != nil {
		s.beforeTouch = nil
		f(ctx, key)
	}
	return s.Store.Touch(ctx, key, expires)
}

// 5: a store that can't tell is 503 everywhere, the cookie stays, and all is
// well again with the store (S379, S462).
func TestInvariant5BrokenPartIsNoLogout(t *testing.T) {
	store := &hookedStore{Store: memstore.New(memstore.Options{})}
	a := newApp(t, setup{config: bff.Config{Store: store}})
	b := a.signIn("alice")
	store.set(func(string, func() error) error { return errStore })
	for _, c := range []struct{ method, path string }{
		{"GET", "/page"}, {"POST", "/page"}, {"GET", "/optional"}, {"GET", "/admin"}, {"GET", "/api/x"},
		{"GET", "/auth/session"}, {"GET", "/auth/session?anonymous=200"}, {"POST", "/auth/session"}, {"POST", "/logout"},
	} {
		r := b.Fetch(c.method, c.path, nil, nil)
		if r.Status != 503 || r.Reason() != "store_unavailable" || r.Header.Get("Retry-After") == "" || len(r.Header["Set-Cookie"]) > 0 {
			t.Errorf("%s %s with the store down = %v %v", c.method, c.path, r, r.Header)
		}
	}
	if r := b.Navigate("/page"); r.Status != 503 || r.Header.Get("Location") != "" || !strings.Contains(r.Header.Get("Content-Type"), "text/html") {
		t.Errorf("page with the store down = %v, want a page that says so and no redirect", r)
	}
	if a.api.hits() != 0 {
		t.Error("the API was called")
	}
	store.set(nil)
	if r := b.Fetch("GET", "/page", nil, nil); r.Status != 200 {
		t.Errorf("with the store back = %v", r)
	}
}

// Invariant 5: a session that can't be extended at the moment is used as it is.
func TestExtensionFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &hookedStore{Store: memstore.New(memstore.Options{})}
		a := newApp(t, setup{config: bff.Config{Store: store}})
		b := a.signIn("alice")
		store.set(func(op string, do func() error) error {
			if op == "Touch" {
				return errStore
			}
			return do()
		})
		time.Sleep(40 * time.Minute)
		if r := b.Fetch("GET", "/page", nil, nil); r.Status != 200 {
			t.Errorf("GET /page = %v", r)
		}
	})
}

// 6: a login makes a new session ID, and the browser's old session ends (S306,
// X89, X185).
func TestInvariant6LoginMakesNewSessionID(t *testing.T) {
	a := newApp(t, setup{})
	b := a.browser()
	planted := "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	b.SetCookie(&http.Cookie{Name: "__Host-Http-bff", Value: planted})
	if r := b.SignIn("alice"); r.Err != nil {
		t.Fatal(r.Err)
	}
	first := sessionCookie(t, b)
	if first.Value == planted {
		t.Fatal("the planted ID was adopted")
	}
	if r := b.SignIn("bob", bfftest.LoginPath("/login?max_age=0")); r.Err != nil {
		t.Fatal(r.Err)
	}
	second := sessionCookie(t, b)
	if second.Value == first.Value {
		t.Error("the session ID survived a login")
	}
	old := a.browser()
	old.SetCookie(first)
	if r := old.Fetch("GET", "/page", nil, nil); r.Status != 401 || r.Reason() != "replaced" {
		t.Errorf("the old session = %v, want 401 replaced", r)
	}
}

// 7: requests prove their origin before the session is looked up. The table of
// cases is in csrf_test.go.
func TestInvariant7RequestsProveTheirOrigin(t *testing.T) {
	store := &hookedStore{Store: memstore.New(memstore.Options{})}
	a := newApp(t, setup{config: bff.Config{Store: store}})
	b := a.signIn("alice")
	store.set(func(op string, do func() error) error {
		t.Errorf("%s of the store before the request proved its origin", op)
		return do()
	})
	for _, c := range []struct{ method, path string }{{"GET", "/api/x"}, {"POST", "/api/x"}, {"POST", "/page"}, {"GET", "/auth/session"}, {"POST", "/logout"}} {
		r := b.Fetch(c.method, c.path, nil, http.Header{"Origin": {"https://evil.example"}, "Sec-Fetch-Site": {"cross-site"}, "X-Csrf": {"1"}})
		if r.Status != 403 || r.Reason() != "csrf" {
			t.Errorf("%s %s from another site = %v", c.method, c.path, r)
		}
	}
	if a.api.hits() != 0 {
		t.Error("the API was called")
	}
}

// 8: a login is bound to the browser that began it, and used once by the whole
// fleet (S33, S50, X63, X65).
func TestInvariant8LoginIsBoundAndUsedOnce(t *testing.T) {
	apps, at := fleet(t, 2, setup{})
	iss := apps[0].iss
	b, callback := apps[0].stopAtCallback("alice")

	foreign := apps[0].browser()
	if r := foreign.Navigate(callback); r.Status != 400 || r.Reason() != "login_mismatch" {
		t.Errorf("in another browser: %v", r)
	}
	if got := iss.Count("token"); got != 0 {
		t.Fatalf("%d token requests for a foreign callback", got)
	}
	var wg sync.WaitGroup
	var ok, replayed atomic.Int32
	for i := range 50 {
		wg.Go(func() {
			r := at(i%2, b).Navigate(callback)
			switch {
			case r.Status == 200:
				ok.Add(1)
			case r.Status == 400 && r.Reason() == "login_replayed":
				replayed.Add(1)
			default:
				t.Errorf("callback = %v", r)
			}
		})
	}
	wg.Wait()
	if iss.Count("token") != 1 || ok.Load() != 1 || replayed.Load() != 49 {
		t.Errorf("%d token requests, %d sessions, %d replays; want 1, 1, 49", iss.Count("token"), ok.Load(), replayed.Load())
	}
}

// stopAtCallback drives a login to the issuer's answer. It returns the browser
// and the callback's address, not yet visited.
func (a *app) stopAtCallback(user string) (b *bfftest.Browser, callback string) {
	a.Helper()
	b = bfftest.NewBrowser(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/auth/callback" {
			callback = r.URL.RequestURI()
			return
		}
		a.handler.ServeHTTP(w, r)
	}), appURL, a.iss)
	b.Navigate("/login")
	b.Choose(user)
	if callback == "" {
		a.Fatalf("no callback: %v", b.Page())
	}
	return b, callback
}

// 9: what a request costs depends on neither the number of sessions nor the
// size of the tokens; it writes nothing; a forged cookie costs no I/O.
func TestInvariant9HotPathIsFlat(t *testing.T) {
	var calls sync.Map
	store := &hookedStore{Store: memstore.New(memstore.Options{})}
	a := newApp(t, setup{config: bff.Config{Store: store}})
	b := a.signIn("alice")
	count := func(f func()) string {
		calls.Clear()
		store.set(func(op string, do func() error) error {
			n, _ := calls.LoadOrStore(op, new(atomic.Int32))
			n.(*atomic.Int32).Add(1)
			return do()
		})
		defer store.set(nil)
		f()
		var got []string
		calls.Range(func(op, n any) bool {
			got = append(got, fmt.Sprintf("%s %d", op, n.(*atomic.Int32).Load()))
			return true
		})
		slices.Sort(got)
		return strings.Join(got, ", ")
	}
	if got := count(func() {
		for range 10 {
			b.Fetch("GET", "/page", nil, nil)
			b.Fetch("GET", "/api/x", nil, nil)
		}
	}); got != "Load 20" {
		t.Errorf("20 requests called %s; want Load 20", got)
	}
	forged := a.browser()
	good := sessionCookie(t, b).Value
	other := map[bool]string{false: "A", true: "B"}[strings.HasSuffix(good, "A")]
	if got := count(func() {
		for _, v := range []string{"", "x", strings.Repeat("A", 76), good[:75] + other, "B" + good[1:], good + "A", "../../etc/passwd", `{"$gt":""}`} {
			forged.SetCookie(&http.Cookie{Name: "__Host-Http-bff", Value: v})
			if r := forged.Fetch("GET", "/page", nil, nil); r.Status != 401 || r.Reason() != "no_session" {
				t.Errorf("cookie %.20q = %v", v, r)
			}
		}
	}); got != "" {
		t.Errorf("forged cookies called %s", got)
	}
}

// Invariant 9: what a request allocates doesn't grow with the session's tokens
// and claims, which it doesn't open.
func TestHotPathIgnoresTokens(t *testing.T) {
	bytes := func(padding int) uint64 {
		a := newApp(t, setup{})
		a.iss.Break("token", claim("x", strings.Repeat("x", padding)))
		a.iss.Break("token", member("refresh_token", strings.Repeat("r", padding/4)))
		cookie := sessionCookie(t, a.signIn("alice"))
		next := a.auth.ProtectFunc(func(http.ResponseWriter, *http.Request) {})
		r, _ := http.NewRequest("GET", "/page", nil)
		r.AddCookie(cookie)
		w := &recorder{header: http.Header{}, status: 200}
		const n = 200
		var before, after runtime.MemStats
		next.ServeHTTP(w, r)
		runtime.ReadMemStats(&before)
		for range n {
			next.ServeHTTP(w, r)
		}
		runtime.ReadMemStats(&after)
		if w.status != 200 {
			t.Fatalf("GET /page = %d", w.status)
		}
		return (after.TotalAlloc - before.TotalAlloc) / n
	}
	if small, large := bytes(1), bytes(40<<10); large > small+4<<10 {
		t.Errorf("a request allocates %d bytes with large tokens and %d with small ones", large, small)
	}
}

// 10: everything is bounded. What the issuer sends is in hostile_test.go, our
// cookies in callback_test.go; here: a full store refuses sign-ins, and nobody
// who is signed in loses anything by it (D23).
func TestInvariant10EverythingIsBounded(t *testing.T) {
	a := newApp(t, setup{config: bff.Config{Store: memstore.New(memstore.Options{MaxSessions: 1, MaxMarks: 3})}})
	alice := a.signIn("alice")
	bob := a.browser()
	if r := bob.SignIn("bob"); r.Status != 503 || r.Reason() != "store_unavailable" {
		t.Errorf("sign-in with a full store = %v", r)
	}
	for range 5 { // marks of spent attempts have a bound of their own
		bob.SignIn("bob")
	}
	if r := alice.Fetch("GET", "/page", nil, nil); r.Status != 200 {
		t.Errorf("alice, who was signed in = %v", r)
	}
	eventually(t, "the grants of failed sign-ins are revoked", func() bool { return a.iss.LiveGrants() == 1 })
}

// Invariant 10: an issuer that hangs is asked by so many at once and no more;
// the others are told in time, sign-ins and refreshes alike.
func TestTokenRequestsAreBounded(t *testing.T) {
	for _, c := range []struct {
		what string
		hang bool // or answer, slowly
	}{{"authorization_code", false}, {"authorization_code", true}, {"refresh_token", false}, {"refresh_token", true}} {
		what := c.what
		t.Run(fmt.Sprintf("%s,hang=%v", what, c.hang), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newApp(t, setup{config: bff.Config{IdleTimeout: 2 * time.Hour}})
				const n = 100
				var steps []func() *bfftest.Response
				for range n {
					if what == "refresh_token" {
						b := a.signIn("alice")
						steps = append(steps, func() *bfftest.Response { return b.Fetch("GET", "/api/x", nil, nil) })
						continue
					}
					b, callback := a.stopAtCallback("alice")
					b = a.resume(b)
					steps = append(steps, func() *bfftest.Response { return b.Navigate(callback) })
				}
				if what == "refresh_token" {
					time.Sleep(16 * time.Minute)
				}
				var mu sync.Mutex
				now, most := 0, 0
				count := func(n int) {
					mu.Lock()
					defer mu.Unlock()
					now += n
					most = max(most, now)
				}
				fault := bfftest.Fault{BeforeProcessing: true, Delay: 5 * time.Second}
				fault.Before = func(*http.Request) { count(1) }
				fault.After = func(*http.Request) { count(-1) } // before it is answered
				fault.Hang = c.hang
				a.iss.Break("token", fault)
				start := time.Now()
				var wg sync.WaitGroup
				for _, step := range steps {
					wg.Go(func() {
						if r := step(); r.Status != 503 || r.Reason() != "issuer_unavailable" {
							t.Errorf("with an issuer that hangs: %v", r)
						}
					})
				}
				wg.Wait()
				if took := time.Since(start); took > 30*time.Second {
					t.Errorf("told after %v", took)
				}
				if !c.hang && most != 64 {
					t.Errorf("%d token requests at once, want 64", most)
				}
			})
		})
	}
}

// Invariant 10: a store that hangs is waited for as long as StoreTimeout says.
func TestStoreHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &stuckStore{Store: memstore.New(memstore.Options{})}
		a := newApp(t, setup{config: bff.Config{Store: store, StoreTimeout: 2 * time.Second}})
		b := a.signIn("alice")
		for _, c := range []struct {
			op     string
			do     func() *bfftest.Response
			status int
		}{
			{"Load", func() *bfftest.Response { return b.Fetch("GET", "/page", nil, nil) }, 503},
			{"End", func() *bfftest.Response { return signOut(b) }, 503},
			{"Create", func() *bfftest.Response { return a.browser().SignIn("bob") }, 503},
			{"Touch", func() *bfftest.Response {
				time.Sleep(40 * time.Minute)
				return b.Fetch("POST", "/auth/session", nil, nil)
			}, 200},
		} {
			store.hang(c.op)
			start := time.Now()
			got := c.do()
			if took := time.Since(start) % (40 * time.Minute); got.Status != c.status || took != 2*time.Second {
				t.Errorf("with a %s that hangs: %v after %v", c.op, got, took)
			}
			store.hang("")
		}
	})
}

// A stuckStore answers one kind of call only when the caller gives up.
type stuckStore struct {
	bff.Store
	mu sync.Mutex
	op string
}

func (s *stuckStore) hang(op string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.op = op
}

func (s *stuckStore) wait(ctx context.Context, op string) error {
	s.mu.Lock()
	hangs := s.op == op
	s.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (s *stuckStore) Load(ctx context.Context, key string) ([]byte, uint64, time.Time, bool, error) {
	if err := s.wait(ctx, "Load"); err != nil {
		return nil, 0, time.Time{}, false, err
	}
	return s.Store.Load(ctx, key)
}

func (s *stuckStore) Create(ctx context.Context, key string, value []byte, expires, end time.Time) (bool, error) {
	if err := s.wait(ctx, "Create"); err != nil {
		return false, err
	}
	return s.Store.Create(ctx, key, value, expires, end)
}

func (s *stuckStore) Touch(ctx context.Context, key string, expires time.Time) (bool, error) {
	if err := s.wait(ctx, "Touch"); err != nil {
		return false, err
	}
	return s.Store.Touch(ctx, key, expires)
}

func (s *stuckStore) End(ctx context.Context, key string, version uint64, mark []byte, until time.Time) (bool, error) {
	if err := s.wait(ctx, "End"); err != nil {
		return false, err
	}
	return s.Store.End(ctx, key, version, mark, until)
}

// Invariant 10: a revocation that fails is repeated a few times.
func TestRevocationIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{})
		b := a.signIn("alice")
		a.iss.Break("revoke", bfftest.Fault{Status: 503, BeforeProcessing: true})
		signOut(b)
		time.Sleep(time.Hour)
		if n := a.iss.Count("revoke"); n < 2 || n > 5 {
			t.Errorf("%d revocations, want a few", n)
		}
	})
}

// eventually waits until a condition that is about to hold does.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for !holds() {
		select {
		case <-deadline:
			t.Fatalf("not in 10 s: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// 11: nothing personal is cached: no-store on every answer of ours and of the
// proxy, and on a handler's unless it says otherwise (S370, S371, S469).
func TestInvariant11NothingPersonalIsCached(t *testing.T) {
	a := newApp(t, setup{mux: func(a *app, mux *http.ServeMux) {
		mux.Handle("GET /cached", a.auth.ProtectFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "private, max-age=60")
		}))
	}})
	a.api.set(func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Cache-Control", "public, max-age=600") })
	b := a.browser()
	check := func(r *bfftest.Response, what string) {
		t.Helper()
		if got := r.Header.Values("Cache-Control"); len(got) != 1 || got[0] != "no-store" {
			t.Errorf("%s: %v has Cache-Control %q, want no-store", what, r, got)
		}
	}
	for _, path := range []string{"/page", "/api/x", "/auth/session", "/auth/session?anonymous=200", "/logout", "/login", "/auth/callback", "/optional"} {
		check(b.Fetch("GET", path, nil, nil), "signed out, GET "+path)
	}
	b.SignIn("alice")
	for _, hop := range b.Hops() {
		if strings.HasPrefix(hop.URL.String(), appURL) && hop.URL.Path != "/" {
			if got := hop.Header.Get("Cache-Control"); got != "no-store" {
				t.Errorf("%s has Cache-Control %q", hop.URL.Path, got)
			}
		}
	}
	for _, path := range []string{"/page", "/admin", "/api/x", "/auth/session", "/logout", "/optional"} {
		check(b.Fetch("GET", path, nil, nil), "signed in, GET "+path)
	}
	check(b.Fetch("DELETE", "/api/x", nil, http.Header{"Origin": {"https://evil.example"}}), "a refusal")
	if r := b.Fetch("GET", "/cached", nil, nil); r.Header.Get("Cache-Control") != "private, max-age=60" {
		t.Errorf("the handler's own word: %v", r.Header)
	}
	check(signOut(b), "POST /logout")
}

// 12: a token goes only where it was meant to (S7, S46, D20). More in
// proxy_test.go and client_test.go.
func TestInvariant12TokenGoesOnlyWhereMeant(t *testing.T) {
	var stray atomic.Int32
	a := newApp(t, setup{mux: func(a *app, mux *http.ServeMux) {
		mux.Handle("GET /call", a.auth.ProtectFunc(func(w http.ResponseWriter, r *http.Request) {
			res, err := a.auth.Client(r.Context()).Get(r.FormValue("url"))
			if err != nil {
				http.Error(w, "refused", http.StatusTeapot)
				return
			}
			res.Body.Close()
		}))
	}})
	a.api.set(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Host != "api.example.com" || !strings.HasPrefix(r.URL.Path, "/v1/"):
			stray.Add(1)
		case r.URL.Path == "/v1/away":
			http.Redirect(w, r, "https://evil.example/steal", http.StatusFound)
		}
	})
	b := a.signIn("alice")
	for _, target := range []string{
		"https://evil.example/", "http://api.example.com/v1/x", "https://api.example.com:8443/v1/x", "https://api.example.com.evil.example/v1/x",
		"https://api.example.com/v2/x", "https://api.example.com/v1/../v2", "https://api.example.com/v1%2f..%2fv2", "https://x@api.example.com/v1/x",
		"https://api.example.com/v1/away",
	} {
		if r := b.Fetch("GET", "/call?url="+url.QueryEscape(target), nil, nil); r.Status != http.StatusTeapot {
			t.Errorf("Client to %s was let through: %v", target, r)
		}
	}
	if r := b.Fetch("GET", "/call?url="+url.QueryEscape("https://api.example.com/v1/x"), nil, nil); r.Status != 200 {
		t.Errorf("Client to the upstream = %v", r)
	}
	for _, path := range []string{"/api/..%2fx", "/api/%2e%2e/x", "/api/..%5cx", "/api/..;/x", "/api/x%00"} {
		if r := b.Fetch("GET", path, nil, nil); r.Status != 400 && r.Status != 404 {
			t.Errorf("GET %s = %v", path, r)
		}
	}
	if r := b.Fetch("GET", "/api/away", nil, nil); r.Status != 302 || r.Header.Get("Location") != "https://evil.example/steal" {
		t.Errorf("a redirect of the API = %v, want it relayed unfollowed", r)
	}
	if stray.Load() != 0 {
		t.Errorf("%d requests went astray", stray.Load())
	}
}

// D4: a cookie of one relying party opens nothing at another that shares its
// keys and its store, and asks the store nothing.
func TestCookieOfAnotherRelyingParty(t *testing.T) {
	keys := []bff.Key{bff.NewKey()}
	store := memstore.New(memstore.Options{})
	watched := &hookedStore{Store: store}
	ours := newApp(t, setup{config: bff.Config{Keys: keys, Store: store}})
	theirs := newApp(t, setup{
		issuer: bfftest.Options{TenantID: "another-tenant"},
		config: bff.Config{Keys: keys, Store: watched},
	})
	mallory := ours.signIn("alice")
	b := theirs.browser()
	b.SetCookie(sessionCookie(t, mallory))
	watched.set(func(op string, do func() error) error {
		t.Errorf("%s of the store for a foreign cookie", op)
		return do()
	})
	if r := b.Fetch("GET", "/admin", nil, nil); r.Status != 401 || r.Reason() != "no_session" {
		t.Errorf("a foreign tenant's cookie = %v", r)
	}
}

// S3, S4, S16-S19, S401, S402: every cookie of ours, set or deleted, has the
// attributes that its name demands.
func TestCookieAttributes(t *testing.T) {
	a := newApp(t, setup{})
	b := a.browser()
	b.Navigate("/login")
	b.Choose("alice")
	b.Post("/logout", nil)
	want := regexp.MustCompile(`^__Host-Http-bff(-[A-Za-z0-9_-]+)?=[A-Za-z0-9_=-]*; Path=/; Max-Age=-?\d+; HttpOnly; Secure; SameSite=Lax$`)
	n := 0
	for _, hop := range b.Hops() {
		if !strings.HasPrefix(hop.URL.String(), appURL) {
			continue
		}
		for _, line := range hop.Header["Set-Cookie"] {
			n++
			if !want.MatchString(line) {
				t.Errorf("%s sets %.100s", hop.URL.Path, line)
			}
		}
	}
	if n != 5 {
		t.Errorf("%d cookies seen; want the attempt's and the session's, set and deleted, and the breaker's", n)
	}
}

// S406, X81: two cookies of our name are worth nothing, in either order.
func TestTwoCookies(t *testing.T) {
	a := newApp(t, setup{})
	b := a.signIn("alice")
	good := sessionCookie(t, b)
	for _, lines := range [][]string{
		{good.Name + "=" + good.Value + "; " + good.Name + "=x"},
		{good.Name + "=x; " + good.Name + "=" + good.Value},
		{good.Name + "=" + good.Value, good.Name + "=" + good.Value},
		{good.Name + "; " + good.Name + "=" + good.Value},
	} {
		r, _ := http.NewRequest("GET", "/page", nil)
		r.RequestURI = "/page"
		r.Header["Cookie"] = lines
		w := &recorder{header: http.Header{}}
		a.handler.ServeHTTP(w, r)
		if w.status != 401 || !strings.HasPrefix(w.header.Get("Set-Cookie"), good.Name+"=; Path=/; Max-Age=0") {
			t.Errorf("Cookie %.30q… = %d %v", lines, w.status, w.header)
		}
	}
	// S469: no deletion on an answer that the handler may let caches keep.
	r, _ := http.NewRequest("GET", "/optional", nil)
	r.RequestURI = "/optional"
	r.Header["Cookie"] = []string{good.Name + "=" + good.Value + "; " + good.Name + "=x"}
	w := &recorder{header: http.Header{}, status: 200}
	if a.handler.ServeHTTP(w, r); w.status != 200 || w.body.String() != "nobody" || len(w.header["Set-Cookie"]) > 0 {
		t.Errorf("two cookies at an optional page = %d %s %v", w.status, w.body.String(), w.header)
	}
	// X83: names that are not quite ours.
	for _, name := range []string{"__host-http-bff", "bff", "__Secure-bff", "\u2000__Host-Http-bff", "__Host-Http-bff ", "=__Host-Http-bff"} {
		r, _ := http.NewRequest("GET", "/page", nil)
		r.Header["Cookie"] = []string{name + "=" + good.Value}
		w := &recorder{header: http.Header{}}
		a.handler.ServeHTTP(w, r)
		if w.status != 401 {
			t.Errorf("cookie named %q = %d", name, w.status)
		}
	}
}

// A recorder takes an answer to a request that no client would make.
type recorder struct {
	header http.Header
	status int
	body   strings.Builder
}

func (w *recorder) Header() http.Header         { return w.header }
func (w *recorder) Write(p []byte) (int, error) { return w.body.Write(p) }
func (w *recorder) WriteHeader(status int)      { w.status = status }

// Activity keeps a session alive, polling does not, and nothing keeps it past
// its lifetime (S338, S339, S495).
func TestLifetimes(t *testing.T) {
	get := func(b *bfftest.Browser, path string, h http.Header) *bfftest.Response {
		return b.Fetch("GET", path, nil, h)
	}
	cfg := bff.Config{IdleTimeout: time.Hour, MaxLifetime: 8 * time.Hour}
	t.Run("activity", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a := newApp(t, setup{config: cfg})
			b := a.signIn("alice")
			cookie := sessionCookie(t, b)
			for i := range 10 {
				if r := get(b, "/page", nil); r.Status != 200 || len(r.Header["Set-Cookie"]) > 0 {
					t.Fatalf("%d minutes after the login: %v %v", i*45, r, r.Header["Set-Cookie"])
				}
				time.Sleep(45 * time.Minute)
			}
			time.Sleep(31 * time.Minute)
			b.SetCookie(cookie) // which the browser has dropped by now
			if r := get(b, "/page", nil); r.Status != 401 || r.Reason() != "session_expired" {
				t.Errorf("past the lifetime: %v", r)
			}
		})
	})
	t.Run("idle", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a := newApp(t, setup{config: cfg})
			b := a.signIn("alice")
			time.Sleep(61 * time.Minute)
			if r := get(b, "/page", nil); r.Status != 401 || r.Reason() != "session_idle" {
				t.Errorf("after an hour without a request: %v", r)
			}
		})
	})
	t.Run("polling", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a := newApp(t, setup{config: cfg, mux: func(a *app, mux *http.ServeMux) {
				mux.Handle("GET /poll", a.auth.ProtectFunc(whoami, bff.Passive()))
			}})
			b := a.signIn("alice")
			for range 6 {
				time.Sleep(9 * time.Minute)
				get(b, "/auth/session", nil)
				get(b, "/poll", nil)
				get(b, "/api/x", http.Header{"Bff-Passive": {"1"}})
				get(b, "/page", http.Header{"Sec-Purpose": {"prefetch"}})
			}
			time.Sleep(7 * time.Minute)
			if r := get(b, "/page", nil); r.Status != 401 || r.Reason() != "session_idle" {
				t.Errorf("an hour of polling: %v", r)
			}
		})
	})
	t.Run("extend", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a := newApp(t, setup{config: cfg})
			b := a.signIn("alice")
			time.Sleep(20 * time.Minute)
			if r := b.Fetch("POST", "/auth/session", nil, nil); r.Status != 200 {
				t.Fatal(r)
			}
			time.Sleep(50 * time.Minute)
			if r := get(b, "/page", nil); r.Status != 200 {
				t.Errorf("50 minutes after POST /auth/session: %v", r)
			}
		})
	})
}

// A store whose clock is behind keeps a session for longer than its lifetime.
// The end is in the record too, and holds (S339, S495).
func TestRecordPastItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{config: bff.Config{Store: &lateStore{Store: memstore.New(memstore.Options{})}, MaxLifetime: 8 * time.Hour}})
		b := a.signIn("alice")
		cookie := sessionCookie(t, b)
		time.Sleep(8 * time.Hour)
		b.SetCookie(cookie)
		if r := b.Fetch("GET", "/auth/session", nil, nil); r.Status != 401 || r.Reason() != "session_expired" {
			t.Errorf("past the lifetime: %v", r)
		}
	})
}

// A lateStore never notices that a session has expired.
type lateStore struct {
	bff.Store
	mu      sync.Mutex
	records map[string][]byte
}

func (s *lateStore) Create(ctx context.Context, key string, value []byte, expires, end time.Time) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.records == nil {
		s.records = map[string][]byte{}
	}
	s.records[key] = value
	return s.Store.Create(ctx, key, value, expires, end)
}

func (s *lateStore) Load(ctx context.Context, key string) ([]byte, uint64, time.Time, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.records[key]
	return value, 1, time.Now().Add(time.Hour), ok, nil
}

// Where a process has lost its sessions, it does not claim a time-out.
func TestLostStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := []bff.Key{bff.NewKey()}
		before := newApp(t, setup{config: bff.Config{Keys: keys}})
		cookie := sessionCookie(t, before.signIn("alice"))
		time.Sleep(45 * time.Minute)
		after := newApp(t, setup{at: before.iss, config: bff.Config{Keys: keys}})
		b := after.browser()
		b.SetCookie(cookie)
		if r := b.Fetch("GET", "/page", nil, nil); r.Status != 401 || r.Reason() != "no_session" {
			t.Errorf("after a restart: %v", r)
		}
	})
}
