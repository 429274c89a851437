package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/agglestone/bff/bfftest"
)

// The test binary is the gateway where this is set: one build, with -race where
// the test has it.
const beGateway = "GATEWAY_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(beGateway) == "1" {
		main()
		os.Exit(0) // as a main that returns
	}
	os.Exit(m.Run())
}

// variables are those of the issue; programs and tests elsewhere use them.
var variables = []string{
	"BFF_LISTEN", "BFF_ISSUER", "BFF_TENANT_ID", "BFF_CLIENT_ID", "BFF_CLIENT_SECRET", "BFF_REDIRECT_URL", "BFF_SCOPES",
	"BFF_KEYS", "BFF_STORE", "BFF_UPSTREAM", "BFF_SPA_DIR", "BFF_IDLE_TIMEOUT", "BFF_MAX_LIFETIME", "BFF_REFRESH_MARGIN",
	"BFF_POST_LOGOUT_URL",
}

// command returns the gateway with exactly this environment.
func command(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append([]string{beGateway + "=1"}, env...)
	return cmd
}

// exits runs the gateway to its end.
func exits(t *testing.T, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := command(t, env, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

func TestHelp(t *testing.T) {
	for _, arg := range []string{"--help", "-help", "-h"} {
		code, out, errs := exits(t, nil, arg)
		if code != 0 || errs != "" {
			t.Errorf("%s: exit %d, stderr %q", arg, code, errs)
		}
		for _, want := range append(variables, "127.0.0.1:4180", "GET /whoami", "GET /healthz", "GET /readyz", "BFF_SPA_SOURCES", "openssl rand -base64 32") {
			if !strings.Contains(out, want) {
				t.Errorf("%s doesn't mention %s", arg, want)
			}
		}
	}
	if code, out, errs := exits(t, nil, "serve"); code != 2 || out != "" || !strings.Contains(errs, `unknown argument "serve"`) {
		t.Errorf("an unknown argument: exit %d, stdout %q, stderr %q", code, out, errs)
	}
}

// Every mistake is listed, under the name that the operator gave it, in one go.
func TestBadEnvironment(t *testing.T) {
	good := []string{"BFF_ISSUER=https://login.example.com", "BFF_CLIENT_ID=shop"}
	blocked := t.TempDir()
	if err := os.WriteFile(filepath.Join(blocked, "index.html"), []byte("<!doctype html>\n<base href=/>"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		env  []string
		want []string // the lines, as they begin
		not  []string
	}{
		{
			name: "nothing", want: []string{"BFF_ISSUER: is empty; set the issuer's URL, or BFF_TENANT_ID", "BFF_CLIENT_ID: "},
		},
		{
			name: "everything",
			env: []string{
				"BFF_LISTEN=nonsense", "BFF_ISSUER=http://login.example.com", "BFF_REDIRECT_URL=/auth/callback",
				"BFF_SCOPES=openid é", "BFF_KEYS=cGFzc3dvcmQ=,?", "BFF_STORE=floppy:secret@a", "BFF_UPSTREAM=http://api.example.com",
				"BFF_SPA_DIR=" + t.TempDir(), "BFF_IDLE_TIMEOUT=soon", "BFF_MAX_LIFETIME=-1h", "BFF_REFRESH_MARGIN=5",
				"BFF_POST_LOGOUT_URL=/bye", "BFF_INSECURE_HTTP=perhaps",
			},
			want: []string{
				`BFF_LISTEN: "nonsense"`, `BFF_ISSUER: "http://login.example.com" is not https`, "BFF_CLIENT_ID: is empty",
				`BFF_REDIRECT_URL: "/auth/callback"`, `BFF_SCOPES: "é"`, "BFF_KEYS: key has 8 bytes", "BFF_KEYS: key is not base64", "BFF_STORE: ",
				`BFF_UPSTREAM: URL "http://api.example.com" is plain http`, "BFF_SPA_DIR: ", `BFF_IDLE_TIMEOUT: "soon"`,
				"BFF_MAX_LIFETIME: -1h0m0s is negative", `BFF_REFRESH_MARGIN: "5"`, `BFF_POST_LOGOUT_URL: "/bye"`,
				`BFF_INSECURE_HTTP: "perhaps"`,
			},
			not: []string{"cGFzc3dvcmQ", "secret"},
		},
		{
			name: "tenant", env: []string{"BFF_TENANT_ID=a/b"}, want: []string{`BFF_TENANT_ID: "a/b" is not a tenant ID`},
		},
		{
			name: "idle-longer-than-lifetime", env: append(good, "BFF_IDLE_TIMEOUT=2h", "BFF_MAX_LIFETIME=1h"),
			want: []string{"BFF_IDLE_TIMEOUT: 2h0m0s is longer than BFF_MAX_LIFETIME, 1h0m0s"},
		},
		{
			name: "listens-to-all", env: append(good, "BFF_LISTEN=:4180"), want: []string{"BFF_REDIRECT_URL: is empty", "BFF_KEYS: is empty"},
		},
		{
			name: "no-keys-off-loopback", env: append(good, "BFF_REDIRECT_URL=https://app.example.com/auth/callback"),
			want: []string{"BFF_KEYS: is empty"},
		},
		{
			name: "blocked-by-the-policy", env: append(good, "BFF_SPA_DIR="+blocked, "BFF_SPA_SOURCES=img-src *; images https://a.example"),
			want: []string{
				`BFF_SPA_DIR: BFF_SPA_SOURCES: "images" is not a directive`, `BFF_SPA_DIR: BFF_SPA_SOURCES: img-src: "*" is not admitted`,
				`BFF_SPA_DIR: index.html: line 2: a base element, which the policy blocks; add 'self' to BFF_SPA_SOURCES["base-uri"]`,
			},
		},
		{
			name: "a-key-twice", env: append(good, "BFF_KEYS="+key+","+key), want: []string{"BFF_KEYS[1]: is the same as BFF_KEYS[0]"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, out, errs := exits(t, c.env)
			if code != 2 || out != "" {
				t.Errorf("exit %d, stdout %q; want 2 and nothing", code, out)
			}
			_, list, _ := strings.Cut(errs, "can't be used:\n")
			lines := strings.Split(strings.TrimSpace(list), "\n")
			for _, want := range c.want {
				if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, want) }) {
					t.Errorf("no line says %q", want)
				}
			}
			if len(lines) != len(c.want) || strings.Contains(errs, "Config") {
				t.Errorf("want %d lines that name variables, got\n%s", len(c.want), list)
			}
			for _, not := range c.not {
				if strings.Contains(errs, not) {
					t.Errorf("%q is printed:\n%s", not, errs)
				}
			}
		})
	}
}

const key = "v8Fs0SCEq0Bn7CmyYkP2r9Jm1bYQnLxg4bOq3b6sP3A="

// What is left out has its documented value.
func TestDefaults(t *testing.T) {
	gw, err := configure(t.Context(), func(name string) string {
		return map[string]string{"BFF_TENANT_ID": "tenant-1"}[name]
	})
	if err != nil {
		t.Fatal(err)
	}
	if gw.listen != "127.0.0.1:4180" {
		t.Errorf("it would listen at %s", gw.listen)
	}
	if err := gw.auth.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// A server is a gateway that runs.
type server struct {
	*testing.T
	origin string
	cmd    *exec.Cmd
	log    *logBuffer
	ended  chan struct{} // closed when it has
}

// start runs the gateway on a free port, and waits until it answers. A test
// that doesn't stop it has it killed.
func start(t *testing.T, env ...string) *server {
	t.Helper()
	return startAt(t, freeAddr(t), env...)
}

// startAt is start at an address.
func startAt(t *testing.T, addr string, env ...string) *server {
	t.Helper()
	s := &server{T: t, origin: "http://" + addr, log: &logBuffer{}, ended: make(chan struct{})}
	s.cmd = command(t, append(env, "BFF_LISTEN="+addr))
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		s.cmd.Wait()
		close(s.ended)
	}()
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		<-s.ended
		if t.Failed() {
			t.Logf("the gateway's log:\n%s", s.log)
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if res, err := http.Get(s.origin + "/healthz"); err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return s
			}
		}
		select {
		case <-s.ended:
			t.Fatal("it ended at once")
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("it doesn't answer")
		}
	}
}

// freeAddr finds an address on loopback where nobody listens.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// exitCode waits for the end.
func (s *server) exitCode() int {
	s.Helper()
	select {
	case <-s.ended:
		return s.cmd.ProcessState.ExitCode()
	case <-time.After(time.Minute):
		s.Fatal("it doesn't end")
		return 0
	}
}

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

// The job, with everything set: a confidential client, an API, an application.
func TestGateway(t *testing.T) {
	const secret = "the-client-secret"
	iss := bfftest.StartIssuer(t, bfftest.Options{Clients: []bfftest.Client{{ID: "shop", Secret: secret}}})
	api := newAPI(t)
	dir := newSPA(t)
	s := start(t, "BFF_ISSUER="+iss.URL(), "BFF_CLIENT_ID=shop", "BFF_CLIENT_SECRET="+secret, "BFF_SCOPES=openid profile",
		"BFF_KEYS="+key, "BFF_STORE=memory", "BFF_UPSTREAM="+api.URL+"/v1", "BFF_SPA_DIR="+dir, "BFF_TYPO=1",
		"BFF_IDLE_TIMEOUT=10m", "BFF_MAX_LIFETIME=2h", "BFF_REFRESH_MARGIN=5s", "BFF_POST_LOGOUT_URL=http://127.0.0.1:1/bye")
	b := bfftest.NewBrowser(nil, s.origin, iss)

	if r := b.Fetch("GET", "/readyz", nil, nil); r.Status != 200 {
		t.Errorf("GET /readyz = %v", r)
	}
	if r := b.Fetch("GET", "/whoami", nil, nil); r.Status != 401 || r.Reason() != "no_session" {
		t.Errorf("GET /whoami by a script, signed out = %v, want 401 no_session", r)
	}
	if r := b.Fetch("GET", "/api/orders", nil, nil); r.Status != 401 || api.hits() != 0 {
		t.Errorf("GET /api/orders, signed out = %v, %d requests at the API", r, api.hits())
	}
	if r := b.SignIn("alice", bfftest.LoginPath("/whoami")); r.Err != nil || r.URL.String() != s.origin+"/whoami" {
		t.Fatalf("signing in at /whoami: %v %v", r, r.Err)
	}
	alice, _ := iss.User("alice")
	want := fmt.Sprintf("{\"groups\":[\"Admin\",\"Users\"],\"sub\":%q}\n", alice.ID)
	if got := string(b.Page().Body); got != want {
		t.Errorf("GET /whoami = %s, want %s", got, want)
	}
	for _, r := range iss.Log() {
		if q := r.Query; r.Endpoint == "authorize" && (q.Get("scope") != "openid profile" || q.Get("redirect_uri") != s.origin+"/auth/callback") {
			t.Errorf("the authorization request has %v", q)
		}
	}
	var info struct {
		Session struct{ CreatedAt, IdleExpiresAt, ExpiresAt time.Time }
	}
	if r := b.Fetch("GET", "/auth/session", nil, nil); r.JSON(&info) != nil ||
		info.Session.IdleExpiresAt.Sub(info.Session.CreatedAt).Round(time.Minute) != 10*time.Minute ||
		info.Session.ExpiresAt.Sub(info.Session.CreatedAt).Round(time.Minute) != 2*time.Hour {
		t.Errorf("GET /auth/session = %s", r.Body)
	}
	if r := b.Fetch("GET", "/api/orders?page=1", nil, nil); r.Status != 200 || string(r.Body) != "GET /v1/orders?page=1 Bearer true" {
		t.Errorf("GET /api/orders?page=1 = %v", r)
	}
	// The session goes first; the issuer and BFF_POST_LOGOUT_URL come after.
	r := b.Fetch("POST", "/logout", nil, http.Header{"Accept": {"application/json"}})
	if !strings.HasPrefix(string(r.Body), `{"redirectUrl":"`+iss.URL()+"/endsession?") || !strings.Contains(string(r.Body), url.QueryEscape("http://127.0.0.1:1/bye")) {
		t.Errorf("POST /logout = %s", r.Body)
	}
	if r := b.Fetch("GET", "/whoami", nil, nil); r.Status != 401 {
		t.Errorf("GET /whoami after the sign-out = %v", r)
	}

	s.cmd.Process.Signal(syscall.SIGTERM)
	if code := s.exitCode(); code != 0 {
		t.Errorf("exit %d after SIGTERM, want 0", code)
	}
	log := s.log.String()
	if !strings.Contains(log, "name=BFF_TYPO") {
		t.Error("the log has no warning about BFF_TYPO")
	}
	for _, s := range append(iss.Secrets(), secret, key) {
		if strings.Contains(log, s) {
			t.Errorf("the log has a secret: %.20s…", s)
		}
	}
}

// newAPI returns an API that answers with what it got. GET /slow waits for the
// end of the test, or a message on slow.
func newAPI(t *testing.T) *api {
	a := &api{slow: make(chan struct{}), slowly: make(chan struct{}, 1)}
	srv := httptest.NewServer(a)
	a.URL = srv.URL
	t.Cleanup(srv.Close)
	return a
}

type api struct {
	URL          string
	slow, slowly chan struct{}
	mu           sync.Mutex
	n            int
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.n++
	a.mu.Unlock()
	if strings.HasSuffix(r.URL.Path, "/slow") {
		a.slowly <- struct{}{}
		select {
		case <-a.slow:
		case <-r.Context().Done():
			return
		}
	}
	auth := r.Header.Get("Authorization")
	fmt.Fprintf(w, "%s %s %.6s %t", r.Method, r.URL.RequestURI(), auth, len(auth) > 20 && r.Header.Get("Cookie") == "")
}

func (a *api) hits() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.n
}

// newSPA makes a directory with an application.
func newSPA(t *testing.T) string {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"spa/index.html": "<!doctype html>the application", "spa/app.js": "the script", "spa/docs/x.txt": "x",
		"spa/.env": "hidden", "spa/.git/config": "hidden", "spa/.well-known/y.txt": "y", "outside": "outside",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../outside", filepath.Join(dir, "spa", "link")); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "spa")
}

// The application's own paths are for those who navigate; all others hear the
// truth.
func TestSPA(t *testing.T) {
	s := start(t, "BFF_TENANT_ID=tenant-1", "BFF_SPA_DIR="+newSPA(t), "BFF_SPA_SOURCES=img-src https://a.example https://b.example; ; base-uri 'self'")
	page := http.Header{"Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"document"}, "Accept": {"text/html"}}
	old := http.Header{"Accept": {"text/html,*/*"}}
	script := http.Header{"Sec-Fetch-Mode": {"cors"}, "Accept": {"text/html"}}
	for _, c := range []struct {
		method, path string
		header       http.Header
		status       int
		body         string
	}{
		{"GET", "/", page, 200, "the application"},
		{"GET", "/", nil, 200, "the application"},
		{"GET", "/app.js", nil, 200, "the script"},
		{"GET", "/docs/x.txt", nil, 200, "x"},
		{"GET", "/.well-known/y.txt", nil, 200, "y"},
		{"GET", "/orders/7", page, 200, "the application"},
		{"GET", "/orders/7", old, 200, "the application"},
		{"HEAD", "/orders/7", page, 200, ""},
		{"GET", "/orders/7", nil, 404, "not found"},
		{"GET", "/orders/7", script, 404, "not found"},
		{"GET", "/old.js", http.Header{"Sec-Fetch-Mode": {"no-cors"}}, 404, "not found"},
		{"GET", "/docs/", nil, 404, "not found"},
		{"GET", "/auth/nothing", script, 404, "not found"},
		{"GET", "/.env", nil, 404, "not found"},
		{"GET", "/.env", page, 404, "not found"},
		{"GET", "/.git/config", nil, 404, "not found"},
		{"GET", "/link", nil, 404, "not found"},
		{"GET", "/%2e%2e/outside", nil, 404, "not found"},
		{"POST", "/orders", page, 405, "not allowed"},
		{"GET", "/api/orders", script, 404, "not found"}, // no BFF_UPSTREAM
	} {
		req, err := http.NewRequest(c.method, s.origin+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = c.header.Clone()
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != c.status || !strings.Contains(string(body), c.body) || strings.Contains(string(body), "hidden") {
			t.Errorf("%s %s with %v = %d %q, want %d %q", c.method, c.path, c.header, res.StatusCode, body, c.status, c.body)
		}
		for _, want := range []string{"default-src 'self';", "img-src 'self' data: https://a.example https://b.example;", "base-uri 'self';", "form-action 'self' https://auth.agglestone.com;"} {
			if policy := res.Header.Get("Content-Security-Policy"); c.status == 200 && !strings.Contains(policy, want) {
				t.Errorf("%s %s has the policy %q, which lacks %s", c.method, c.path, policy, want)
			}
		}
	}
}

// BFF_TENANT_ID leads to Agglestone. While it can't be reached the gateway
// lives, but isn't ready.
func TestTenantOnly(t *testing.T) {
	asked := make(chan string, 10)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.Host
		w.WriteHeader(http.StatusBadGateway)
	}))
	defer proxy.Close()
	s := start(t, "BFF_TENANT_ID=tenant-1", "HTTPS_PROXY="+proxy.URL)
	b := bfftest.NewBrowser(nil, s.origin, nil)
	if r := b.Fetch("GET", "/readyz", nil, nil); r.Status != 503 || r.Reason() != "issuer_unavailable" {
		t.Errorf("GET /readyz without an issuer = %v, want 503 issuer_unavailable", r)
	}
	if r := b.Fetch("GET", "/healthz", nil, nil); r.Status != 200 {
		t.Errorf("GET /healthz without an issuer = %v", r)
	}
	select {
	case got := <-asked:
		if got != "CONNECT auth.agglestone.com:443" {
			t.Errorf("it asked %s", got)
		}
	default:
		t.Error("it asked nobody")
	}
}

// Both may be set: then tokens of another tenant are refused.
func TestIssuerAndTenant(t *testing.T) {
	iss := bfftest.StartIssuer(t, bfftest.Options{})
	for tenant, want := range map[string]int{iss.TenantID(): 200, "another": 502} {
		s := start(t, "BFF_ISSUER="+iss.URL(), "BFF_CLIENT_ID="+iss.ClientID(), "BFF_TENANT_ID="+tenant)
		b := bfftest.NewBrowser(nil, s.origin, iss)
		b.Navigate("/whoami")
		if r := b.Choose("bob"); r.Status != want {
			t.Errorf("signing in at tenant %s = %v, want %d", tenant, r, want)
		}
	}
}

// A request in progress is answered before the end; new ones are not taken.
func TestGracefulStop(t *testing.T) {
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		iss := bfftest.StartIssuer(t, bfftest.Options{})
		api := newAPI(t)
		s := start(t, "BFF_ISSUER="+iss.URL(), "BFF_UPSTREAM="+api.URL)
		b := bfftest.NewBrowser(nil, s.origin, iss)
		if r := b.SignIn("alice", bfftest.LoginPath("/whoami")); r.Err != nil {
			t.Fatal(r.Err)
		}
		answer := make(chan *bfftest.Response, 1)
		go func() { answer <- b.Fetch("GET", "/api/slow", nil, nil) }()
		<-api.slowly
		s.cmd.Process.Signal(sig)
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			conn, err := net.Dial("tcp", strings.TrimPrefix(s.origin, "http://"))
			if err != nil {
				break // nobody listens any more
			}
			conn.Close()
			if time.Now().After(deadline) {
				t.Fatal("it still takes connections")
			}
		}
		select {
		case <-s.ended:
			t.Fatal("it ended before the request did")
		default:
		}
		close(api.slow)
		if r := <-answer; r.Status != 200 {
			t.Errorf("the request in progress at %v = %v", sig, r)
		}
		if code := s.exitCode(); code != 0 {
			t.Errorf("exit %d after %v, want 0", code, sig)
		}
	}
}

// An event stream lasts as long as its session, but holds up nothing.
func TestStopEndsStreams(t *testing.T) {
	iss := bfftest.StartIssuer(t, bfftest.Options{})
	s := start(t, "BFF_ISSUER="+iss.URL())
	b := bfftest.NewBrowser(nil, s.origin, iss)
	if r := b.SignIn("alice", bfftest.LoginPath("/whoami")); r.Err != nil {
		t.Fatal(r.Err)
	}
	res, err := b.Client().Get(s.origin + "/auth/events")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	s.cmd.Process.Signal(syscall.SIGTERM)
	events, err := io.ReadAll(res.Body)
	if err != nil || !strings.Contains(string(events), "event: reconnect") {
		t.Errorf("the stream ended with %v after %q", err, events)
	}
	if code := s.exitCode(); code != 0 || strings.Contains(s.log.String(), "cut off") {
		t.Errorf("exit %d", code)
	}
}

// The port is somebody else's.
func TestListenFails(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	code, _, errs := exits(t, []string{"BFF_TENANT_ID=tenant-1", "BFF_LISTEN=" + l.Addr().String()})
	if code != 1 || !strings.Contains(errs, l.Addr().String()) {
		t.Errorf("exit %d, %s; want 1 and the address", code, errs)
	}
}
