package bff_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
)

const appURL = "https://app.example.com"

// An app is an application with the library in it, its issuer, and an API
// behind its proxy, all in the process.
type app struct {
	*testing.T
	iss     *bfftest.Issuer
	auth    *bff.BFF
	handler http.Handler
	api     *api
	log     *logBuffer
	tape    *tape
	secrets []string // of its own configuration
}

// A setup changes an app before it is made.
type setup struct {
	issuer bfftest.Options
	at     *bfftest.Issuer // instead of one of its own
	config bff.Config
	mux    func(*app, *http.ServeMux) // more routes
	api    bff.Upstream               // beside URL, StripPrefix and Transport
	apiOpt []bff.Option
}

// newApp makes an app. What its config leaves out is chosen for it. When the
// test ends, nothing may be left running in the background, and no secret may
// be found in what was answered and logged.
func newApp(t *testing.T, s setup) *app {
	t.Helper()
	a := &app{T: t, iss: s.at, log: &logBuffer{}, tape: &tape{}}
	if a.iss == nil {
		a.iss = bfftest.NewIssuer(s.issuer)
	}
	cfg := s.config
	if cfg.Issuer == "" {
		cfg.Issuer = a.iss.URL()
	}
	if cfg.ClientID == "" {
		cfg.ClientID = a.iss.ClientID()
	}
	if cfg.RedirectURL == "" {
		cfg.RedirectURL = appURL + "/auth/callback"
	}
	if cfg.Keys == nil {
		cfg.Keys = []bff.Key{bff.NewKey()}
	}
	if cfg.HTTPClient == nil {
		cfg.HTTPClient = a.iss.Client()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewJSONHandler(a.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if _, ok := cfg.Store.(bff.Indexer); cfg.Store != nil && !ok {
		cfg.NoBackchannelLogout = true
	}
	if cfg.ErrorHandler == nil {
		cfg.ErrorHandler = a.tape.refusal
	}
	a.secrets = []string{cfg.ClientSecret.Reveal()}
	for _, k := range cfg.Keys {
		a.secrets = append(a.secrets, k.Reveal())
	}
	a.api = &api{}
	up := s.api
	up.URL, up.StripPrefix = "https://api.example.com/v1", "/api"
	if up.Transport == nil {
		up.Transport = bfftest.InProcess(map[string]http.Handler{"https://api.example.com": a.api})
	}
	cfg.Upstreams = append(cfg.Upstreams, up)
	auth, err := bff.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	a.auth = auth
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := auth.Close(ctx); err != nil {
			t.Errorf("Close = %v", err)
		}
		a.tape.scan(a)
	})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "public") })
	mux.Handle("GET /page", auth.ProtectFunc(whoami))
	mux.Handle("POST /page", auth.ProtectFunc(whoami))
	mux.Handle("GET /optional", auth.ProtectFunc(whoami, bff.Optional()))
	mux.Handle("GET /admin", auth.ProtectFunc(whoami, bff.RequireGroup("Admin")))
	mux.Handle("/api/", auth.Proxy(up, s.apiOpt...))
	if s.mux != nil {
		s.mux(a, mux)
	}
	a.handler = a.tape.record(auth.Routes(mux))
	return a
}

// browser returns a browser with no cookies.
func (a *app) browser() *bfftest.Browser { return bfftest.NewBrowser(a.handler, appURL, a.iss) }

// signIn returns a browser in which user is signed in.
func (a *app) signIn(user string) *bfftest.Browser {
	a.Helper()
	b := a.browser()
	if r := b.SignIn(user); r.Err != nil {
		a.Fatalf("sign-in as %s: %v", user, r.Err)
	}
	return b
}

// whoami answers with the subject, or nobody.
func whoami(w http.ResponseWriter, r *http.Request) {
	s, ok := bff.SessionFromContext(r.Context())
	if !ok {
		io.WriteString(w, "nobody")
		return
	}
	fmt.Fprintf(w, "%s %v", s.Subject(), s.Groups())
}

// An api records what reaches it and answers with it.
type api struct {
	mu     sync.Mutex
	got    []*http.Request
	bodies []string
	answer func(w http.ResponseWriter, r *http.Request) // instead of ok
}

func (u *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	u.mu.Lock()
	u.got = append(u.got, r.Clone(context.Background()))
	u.bodies = append(u.bodies, string(body))
	answer := u.answer
	u.mu.Unlock()
	if answer != nil {
		r.Body = io.NopCloser(bytes.NewReader(body))
		answer(w, r)
		return
	}
	io.WriteString(w, "ok")
}

// hits returns how many requests came.
func (u *api) hits() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.got)
}

// last returns the last request.
func (u *api) last() *http.Request {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.got) == 0 {
		return nil
	}
	return u.got[len(u.got)-1]
}

func (u *api) set(answer func(http.ResponseWriter, *http.Request)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answer = answer
}

// A logBuffer keeps log lines.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// session returns what GET /auth/session says.
func session(t *testing.T, b *bfftest.Browser) map[string]any {
	t.Helper()
	r := b.Fetch("GET", "/auth/session", nil, nil)
	if r.Status != 200 {
		t.Fatalf("GET /auth/session = %v", r)
	}
	var v map[string]any
	if err := json.Unmarshal(r.Body, &v); err != nil {
		t.Fatalf("GET /auth/session: %v", err)
	}
	return v
}

// The main job: sign in, be known, call an API, stay signed in, sign out.
func TestMainJob(t *testing.T) {
	a := newApp(t, setup{})
	b := a.browser()
	if r := b.Fetch("GET", "/page", nil, nil); r.Status != 401 || r.Reason() != "no_session" {
		t.Fatalf("fetch of a protected page, signed out = %v; want 401 no_session", r)
	}
	r := b.Navigate("/page?x=1#y")
	if r.Status != 200 || b.Choose("alice").Status != 200 {
		t.Fatalf("navigation to a protected page = %v", r)
	}
	if got := b.Page(); !strings.HasPrefix(got.URL.String(), appURL+"/page?x=1") || !strings.Contains(string(got.Body), "[Admin Users]") {
		t.Fatalf("after the sign-in: %v %s", got, got.Body)
	}
	s := session(t, b)
	if s["sub"] == "" || s["claims"].(map[string]any)["email"] != "alice@example.com" {
		t.Errorf("session = %v", s)
	}
	if r := b.Fetch("GET", "/api/things?a=b", nil, nil); r.Status != 200 || string(r.Body) != "ok" {
		t.Fatalf("GET /api/things = %v", r)
	}
	if got := a.api.last(); got.URL.Path != "/v1/things" || got.URL.RawQuery != "a=b" ||
		!strings.HasPrefix(got.Header.Get("Authorization"), "Bearer ") || got.Header.Get("Cookie") != "" {
		t.Errorf("the API got %s %v", got.URL, got.Header)
	}
	r = b.Fetch("POST", "/logout", nil, http.Header{"Accept": {"application/json"}})
	var out struct{ RedirectURL string }
	if r.Status != 200 || r.JSON(&out) != nil || !strings.HasPrefix(out.RedirectURL, a.iss.URL()+"/endsession?") || strings.Contains(out.RedirectURL, "id_token_hint") {
		t.Errorf("POST /logout = %v %s", r, r.Body)
	}
	if r := b.Fetch("GET", "/auth/session", nil, nil); r.Status != 401 {
		t.Errorf("after the sign-out: %v", r)
	}
}
