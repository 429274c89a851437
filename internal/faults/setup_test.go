package faults_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
	"github.com/agglestone/bff/internal/testserver"
)

const (
	// storeTimeout is what bff gives one call of its store.
	storeTimeout = time.Second

	// back is how soon all is well again once the store is.
	back = time.Second

	// slack is what a busy machine may add to a bound.
	slack = 2 * time.Second

	// tokenLife is short, so that refreshes fall into every fault.
	tokenLife = 2 * time.Second
)

// A site is an application at one address: a relying party, or one after
// another, in front of an issuer and an API.
type site struct {
	*testing.T
	iss    *bfftest.Issuer
	api    *httptest.Server
	origin string
	key    bff.Key
	out    output

	handler  atomic.Pointer[http.Handler]
	server   *http.Server
	running  []*party
	before   int // goroutines, without a relying party
	browsers *http.Transport
}

// A party is one relying party, as one process has it.
type party struct {
	auth  *bff.BFF
	close func() // of its store
}

// newSite starts all but a relying party. When the test ends it checks what
// holds after any fault.
func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{T: t, key: bff.NewKey()}
	s.iss = bfftest.StartIssuer(t, bfftest.Options{AccessTokenLifetime: tokenLife})
	s.browsers = &http.Transport{MaxIdleConnsPerHost: 100}
	s.api = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sub, err := subjectOf(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, sub)
	}))
	t.Cleanup(s.api.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.origin = "http://" + l.Addr().String()
	s.server = &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*s.handler.Load()).ServeHTTP(w, r) }),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(&s.out, "", 0),
	}
	served := make(chan error, 1)
	go func() { served <- s.server.Serve(l) }()
	s.before = runtime.NumGoroutine()
	t.Cleanup(func() {
		s.stop()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
		s.audit()
		if t.Failed() {
			t.Logf("the relying party wrote:\n%s", s.out.last(20000))
		}
	})
	return s
}

// subjectOf reads a claim of an access token that came over loopback.
func subjectOf(token string) (string, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", errors.New("no token")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", err
	}
	var claims struct {
		Sub string
		Exp int64
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return "", err
	}
	if time.Now().After(time.Unix(claims.Exp, 0).Add(time.Second)) {
		return "", errors.New("an expired token")
	}
	return claims.Sub, nil
}

// deploy starts a relying party on a store, as a new process would, and has it
// answer all requests from now on. Those before it go on in the background.
func (s *site) deploy(store bff.Store, closeStore func(), edit ...func(*bff.Config)) *bff.BFF {
	s.Helper()
	cfg := bff.Config{
		Issuer:       s.iss.URL(),
		ClientID:     s.iss.ClientID(),
		RedirectURL:  s.origin + "/auth/callback",
		Keys:         []bff.Key{s.key},
		Store:        store,
		StoreTimeout: storeTimeout,
		Logger:       slog.New(slog.NewTextHandler(&s.out, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, f := range edit {
		f(&cfg)
	}
	auth, err := bff.New(s.Context(), cfg)
	if err != nil {
		s.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/api/", auth.Proxy(bff.Upstream{URL: s.api.URL, StripPrefix: "/api"}))
	mux.Handle("/page", auth.ProtectFunc(func(w http.ResponseWriter, r *http.Request) {
		session, _ := bff.SessionFromContext(r.Context())
		fmt.Fprint(w, session.Subject())
	}))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {})
	h := auth.Routes(mux)
	s.handler.Store(&h)
	s.running = append(s.running, &party{auth, closeStore})
	return auth
}

// stop ends what deploy started, and checks that nothing runs on.
func (s *site) stop() {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := s.server.Shutdown(ctx); err != nil {
		s.Errorf("requests do not end: %v", err)
		s.server.Close()
	}
	for _, p := range s.running {
		if err := p.auth.Close(ctx); err != nil {
			s.Errorf("Close = %v: what runs in the background doesn't end", err)
		}
		p.close()
	}
	s.running = nil
	s.browsers.CloseIdleConnections()
	s.api.CloseClientConnections()
	if tr, ok := s.iss.Transport().(interface{ CloseIdleConnections() }); ok {
		tr.CloseIdleConnections()
	}
	testserver.Eventually(s, "no goroutine of ours", func() error {
		buf := make([]byte, 1<<20)
		buf = buf[:runtime.Stack(buf, true)]
		for g := range strings.SplitSeq(string(buf), "\n\n") {
			if strings.Contains(g, "agglestone/bff.") || strings.Contains(g, "store/redisstore.") || strings.Contains(g, "store/sqlstore.") ||
				strings.Contains(g, "rueidis") || strings.Contains(g, "database/sql.") {
				return errors.New(g)
			}
		}
		return nil
	})
}

// audit checks what no fault may lead to.
func (s *site) audit() {
	s.Helper()
	text := s.out.String()
	if strings.Contains(text, "panic") {
		s.Error("something panicked")
	}
	for _, secret := range s.iss.Secrets() {
		for _, form := range []string{secret, url.QueryEscape(secret), base64.StdEncoding.EncodeToString([]byte(secret)), base64.RawURLEncoding.EncodeToString([]byte(secret))} {
			if strings.Contains(text, form) {
				s.Errorf("a secret was told: %.12q…", form)
			}
		}
	}
}

// nobodyLost checks that the issuer refused nothing, and that it still has a
// sign-in for each of the users.
func (s *site) nobodyLost(users []*user) {
	s.Helper()
	for _, r := range s.iss.Log() {
		if r.Endpoint == "token" && r.Status != http.StatusOK && r.Status != 0 {
			s.Errorf("the issuer answered a token request (%s) with %d", r.GrantType, r.Status)
		}
	}
	if got := s.iss.LiveGrants(); got < len(users) {
		s.Errorf("the issuer has %d live grants, and there are %d users", got, len(users))
	}
}

// A user is a person with a browser.
type user struct {
	*bfftest.Browser
	s       *site
	name    string
	subject string
	cookie  string // the session's
}

// newUser returns somebody who is not signed in yet.
func (s *site) newUser(name string) *user {
	b := bfftest.NewBrowser(nil, s.origin, s.iss)
	b.Via(s.browsers)
	return &user{Browser: b, s: s, name: name}
}

// signIn signs so many users in, each as somebody else.
func (s *site) signIn(n int) []*user {
	s.Helper()
	var users []*user
	for i := range n {
		name := fmt.Sprintf("user%d", len(s.iss.Grants())+i*1000)
		s.iss.AddUser(bfftest.User{Name: name})
		u := s.newUser(name)
		u.in()
		users = append(users, u)
	}
	return users
}

// in signs the user in.
func (u *user) in() {
	u.s.Helper()
	if r := u.SignIn(u.name); r.Err != nil {
		u.s.Fatal(r.Err)
	}
	person, _ := u.s.iss.User(u.name)
	u.subject, u.cookie = person.ID, u.session()
	if r := u.Fetch("GET", "/page", nil, nil); r.Status != http.StatusOK || string(r.Body) != u.subject {
		u.s.Fatalf("just signed in as %s: %s", u.subject, r)
	}
}

// session returns the value of the session cookie.
func (u *user) session() string {
	for _, c := range u.Cookies() {
		if c.Name == "bff" || c.Name == "Http-bff" || strings.HasSuffix(c.Name, "-bff") {
			return c.Value
		}
	}
	return ""
}

// A visit is one kind of request that needs the store.
type visit struct {
	name string
	do   func(*user) *bfftest.Response
}

// reads are answered by whoever can read the store.
var reads = []visit{
	{"page", func(u *user) *bfftest.Response { return u.Tab().Navigate("/page") }},
	{"fetch", func(u *user) *bfftest.Response { return u.Fetch("GET", "/page", nil, nil) }},
	{"api", func(u *user) *bfftest.Response { return u.Fetch("GET", "/api/who", nil, nil) }},
	{"unsafe-api", func(u *user) *bfftest.Response { return u.Fetch("POST", "/api/who", strings.NewReader("x"), nil) }},
	{"session", func(u *user) *bfftest.Response { return u.Fetch("GET", "/auth/session", nil, nil) }},
	{"sessions", func(u *user) *bfftest.Response { return u.Fetch("GET", "/auth/sessions", nil, nil) }},
}

// writes need to change something there, or last.
var writes = []visit{
	{"logout", func(u *user) *bfftest.Response { return u.Fetch("POST", "/logout", nil, nil) }},
	{"callback", func(u *user) *bfftest.Response {
		other := u.s.newUser(u.name)
		if r := other.Navigate("/login"); r.Status != http.StatusOK {
			return r
		}
		return other.Choose(u.name)
	}},
}

var events = visit{"events", func(u *user) *bfftest.Response { return u.Fetch("GET", "/auth/events", nil, nil) }}

// unavailable checks that each of these requests is answered 503
// store_unavailable in time, and says when to come back.
func (s *site) unavailable(u *user, visits ...visit) {
	s.Helper()
	var wg sync.WaitGroup
	for _, v := range visits {
		wg.Go(func() {
			start := time.Now()
			r := v.do(u)
			took := time.Since(start)
			if why := u.refused(r); why != "" {
				s.Errorf("%s: %s", v.name, why)
			}
			if took > storeTimeout+slack {
				s.Errorf("%s took %v, and a call of the store has %v", v.name, took, storeTimeout)
			}
		})
	}
	wg.Wait()
	if got := u.session(); got != u.cookie {
		s.Errorf("the session cookie was changed")
	}
}

// refused says what is wrong with a refusal for the store's sake, or "".
func (u *user) refused(r *bfftest.Response) string {
	fmt.Fprintln(&u.s.out, r.Header, string(r.Body)) // for audit
	switch {
	case r.Err != nil || r.Status != http.StatusServiceUnavailable || r.Reason() != "store_unavailable":
		return fmt.Sprintf("%s; want 503 store_unavailable", r)
	case r.Header.Get("Retry-After") == "":
		return "there is no Retry-After"
	case r.Header.Get("Cache-Control") != "no-store":
		return "it may be cached"
	}
	for _, c := range (&http.Response{Header: r.Header}).Cookies() {
		if strings.HasSuffix(c.Name, "bff") {
			return "the session cookie is set: " + c.Name
		}
	}
	return ""
}

// strangersPass checks that who has no session or a forged cookie costs the
// store nothing, and learns nothing of its state.
func (s *site) strangersPass() {
	s.Helper()
	nobody := s.newUser("nobody")
	if r := nobody.Fetch("GET", "/page", nil, nil); r.Status != http.StatusUnauthorized || r.Reason() != "no_session" {
		s.Errorf("without a cookie: %s; want 401 no_session", r)
	}
	if r := nobody.Navigate("/login"); r.Err != nil || r.Status != http.StatusOK || !strings.HasPrefix(r.URL.String(), s.iss.BaseURL()) {
		s.Errorf("/login: %s; want the issuer's page", r)
	}
}

// recovers waits until every kind of request is answered well for all users,
// and checks that it takes no longer than the bound.
func (s *site) recovers(users []*user) {
	s.Helper()
	start := time.Now()
	var wg sync.WaitGroup
	var worst atomic.Int64
	for _, u := range users {
		wg.Go(func() {
			for _, v := range reads {
				for {
					r := v.do(u)
					took := time.Since(start)
					if r.Err == nil && r.Status == http.StatusOK {
						break
					}
					if r.Status == http.StatusUnauthorized || took > back+slack {
						s.Errorf("%s of %s after %v: %s; want 200", v.name, u.name, took, r)
						return
					}
					time.Sleep(10 * time.Millisecond)
				}
			}
			if r := u.Fetch("GET", "/page", nil, nil); string(r.Body) != u.subject {
				s.Errorf("%s is %q now", u.subject, r.Body)
			}
			if u.session() != u.cookie {
				s.Errorf("the session cookie of %s was changed", u.name)
			}
			for took := int64(time.Since(start)); took > worst.Load(); {
				worst.Store(took)
			}
		})
	}
	wg.Wait()
	s.Logf("back to normal within %v", time.Duration(worst.Load()).Round(time.Millisecond))
}

// A traffic is users who go on working, whatever happens.
type traffic struct {
	s      *site
	cancel context.CancelFunc
	wg     sync.WaitGroup
	good   atomic.Int64
	bad    atomic.Int64 // refused as they may be
}

// traffic has the users request one thing after another. Each answer must be
// theirs, or a refusal for the store's sake.
func (s *site) traffic(users []*user) *traffic {
	ctx, cancel := context.WithCancel(s.Context())
	tr := &traffic{s: s, cancel: cancel}
	s.Cleanup(tr.stop)
	for _, u := range users {
		tr.wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				path := []string{"/page", "/api/who"}[i%2]
				start := time.Now()
				r := u.Fetch("GET", path, nil, nil)
				switch took := time.Since(start); {
				case r.Status == http.StatusOK && string(r.Body) != u.subject:
					s.Errorf("%s got the answer for %q", u.subject, r.Body)
					return
				case took > 10*time.Second+storeTimeout+slack: // the wait for a refresh is part of it
					s.Errorf("%s took %v", path, took)
					return
				case r.Status == http.StatusOK:
					tr.good.Add(1)
				default:
					if why := u.refused(r); why != "" {
						s.Errorf("%s of %s: %s", path, u.name, why)
						return
					}
					tr.bad.Add(1)
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	return tr
}

// flows waits until some requests more were answered well.
func (tr *traffic) flows() {
	tr.s.Helper()
	from := tr.good.Load()
	testserver.Eventually(tr.s, "traffic", func() error {
		if got := tr.good.Load() - from; got < 20 {
			return fmt.Errorf("%d requests were answered well", got)
		}
		return nil
	})
}

// stalls waits until some requests were refused.
func (tr *traffic) stalls() {
	tr.s.Helper()
	from := tr.bad.Load()
	testserver.Eventually(tr.s, "an outage", func() error {
		if got := tr.bad.Load() - from; got < 5 {
			return fmt.Errorf("%d requests were refused", got)
		}
		return nil
	})
}

func (tr *traffic) stop() {
	tr.cancel()
	tr.wg.Wait()
}

// refreshed waits until the issuer has refreshed so many tokens more.
func (s *site) refreshed(n int) {
	s.Helper()
	from := s.iss.Count("token:refresh_token")
	testserver.Eventually(s, "refreshes", func() error {
		if got := s.iss.Count("token:refresh_token") - from; got < n {
			return fmt.Errorf("%d refreshes", got)
		}
		return nil
	})
}

// output is what was logged.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func (o *output) last(n int) string {
	text := o.String()
	return text[max(0, len(text)-n):]
}
