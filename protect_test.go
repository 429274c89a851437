package bff_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
	"github.com/agglestone/bff/store/memstore"
)

// S23, X113: a page leads to the login, anything else is told 401.
func TestPageOrAPI(t *testing.T) {
	a := newApp(t, setup{mux: func(a *app, mux *http.ServeMux) {
		mux.Handle("/forced-page", a.auth.ProtectFunc(whoami, bff.Page()))
		mux.Handle("/forced-api", a.auth.ProtectFunc(whoami, bff.API()))
		mux.Handle("/any", a.auth.ProtectFunc(whoami))
	}})
	const html = "text/html,application/xhtml+xml,*/*;q=0.8"
	for _, c := range []struct {
		name   string
		method string
		path   string
		header http.Header
		status int
	}{
		{"navigation", "GET", "/any", http.Header{"Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"document"}, "Accept": {html}}, 302},
		{"through-service-worker", "GET", "/any", http.Header{"Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"empty"}}, 302},
		{"old-browser", "GET", "/any", http.Header{"Accept": {html}}, 302},
		{"frame", "GET", "/any", http.Header{"Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"iframe"}, "Accept": {html}}, 401},
		{"fetch-that-takes-html", "GET", "/any", http.Header{"Sec-Fetch-Mode": {"cors"}, "Sec-Fetch-Dest": {"empty"}, "Accept": {html}}, 401},
		{"image", "GET", "/any", http.Header{"Sec-Fetch-Mode": {"no-cors"}, "Sec-Fetch-Dest": {"image"}, "Accept": {"image/*"}}, 401},
		{"prefetch", "GET", "/any", http.Header{"Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"document"}, "Sec-Purpose": {"prefetch;prerender"}}, 401},
		{"old-xhr", "GET", "/any", http.Header{"Accept": {html}, "X-Requested-With": {"XMLHttpRequest"}}, 401},
		{"old-fetch", "GET", "/any", http.Header{"Accept": {html}, "X-Csrf": {"1"}}, 401},
		{"curl", "GET", "/any", http.Header{"Accept": {"*/*"}}, 401},
		{"form", "POST", "/any", http.Header{"Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"document"}, "Accept": {html}}, 401},
		{"head", "HEAD", "/any", http.Header{"Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"document"}}, 401},
		{"forced-page", "GET", "/forced-page", http.Header{"Accept": {"application/json"}}, 302},
		{"forced-page-post", "POST", "/forced-page", nil, 401},
		{"forced-api", "GET", "/forced-api", http.Header{"Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"document"}, "Accept": {html}}, 401},
		{"proxy", "GET", "/api/x", http.Header{"Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"document"}, "Accept": {html}}, 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _ := http.NewRequest(c.method, c.path+"?q=a%20b", nil)
			r.RequestURI = c.path + "?q=a%20b"
			if c.header != nil {
				r.Header = c.header
			}
			w := &recorder{header: http.Header{}, status: 200}
			a.handler.ServeHTTP(w, r)
			if w.status != c.status {
				t.Fatalf("%s %s = %d, want %d", c.method, c.path, w.status, c.status)
			}
			location := w.header.Get("Location")
			if c.status == 302 {
				if want := "/login?returnUrl=" + strings.ReplaceAll(c.path, "/", "%2F") + "%3Fq%3Da%2520b"; location != want {
					t.Errorf("Location = %s, want %s", location, want)
				}
				return
			}
			if location != "" || w.header.Get("Bff-Reason") != "no_session" || len(w.header["Set-Cookie"]) > 0 {
				t.Errorf("401 with %v", w.header)
			}
		})
	}
}

// Nothing of a handler runs for somebody who is not let in (S486).
func TestHandlerUntouched(t *testing.T) {
	ran := false
	a := newApp(t, setup{mux: func(a *app, mux *http.ServeMux) {
		h := func(w http.ResponseWriter, r *http.Request) { ran = true }
		mux.Handle("/secret", a.auth.ProtectFunc(h))
		mux.Handle("/admins", a.auth.ProtectFunc(h, bff.RequireGroup("Admin"), bff.RequireGroup("Users")))
	}})
	b := a.browser()
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"} {
		if r := b.Fetch(method, "/secret", strings.NewReader("x"), http.Header{"Authorization": {"Bearer x"}, "User-Agent": {"kube-probe/1.30"}, "X-Forwarded-Uri": {"/"}}); r.Status != 401 {
			t.Errorf("%s = %v", method, r)
		}
	}
	bob := a.signIn("bob") // in Users, not in Admin
	if r := bob.Fetch("GET", "/admins", nil, nil); r.Status != 403 || r.Reason() != "forbidden" {
		t.Errorf("bob = %v", r)
	}
	if ran {
		t.Error("the handler ran")
	}
	if r := a.signIn("alice").Fetch("GET", "/admins", nil, nil); r.Status != 200 || !ran {
		t.Errorf("alice = %v", r)
	}
}

func TestOptional(t *testing.T) {
	a := newApp(t, setup{})
	b := a.browser()
	if r := b.Navigate("/optional"); r.Status != 200 || string(r.Body) != "nobody" {
		t.Errorf("signed out = %v", r)
	}
	if r := a.signIn("alice").Navigate("/optional"); r.Status != 200 || !strings.Contains(string(r.Body), "Admin") {
		t.Errorf("signed in = %v", r)
	}
}

func TestAuthorize(t *testing.T) {
	a := newApp(t, setup{mux: func(a *app, mux *http.ServeMux) {
		mux.Handle("/own", a.auth.ProtectFunc(whoami, bff.Authorize(func(r *http.Request, s *bff.Session) error {
			if r.FormValue("who") != s.Subject() {
				return errors.New("sentinel-for-the-log")
			}
			return nil
		})))
	}})
	b := a.signIn("alice")
	r := b.Fetch("GET", "/own?who=bob", nil, nil)
	if r.Status != 403 || r.Reason() != "forbidden" || strings.Contains(string(r.Body), "sentinel") {
		t.Errorf("GET /own?who=bob = %v", r)
	}
	if !strings.Contains(a.log.String(), "sentinel-for-the-log") {
		t.Error("the reason is not in the log")
	}
	u, _ := a.iss.User("alice")
	if r := b.Fetch("GET", "/own?who="+u.ID, nil, nil); r.Status != 200 {
		t.Errorf("GET /own = %v", r)
	}
}

// The shape of GET /auth/session, typed out from the documentation.
func TestSessionJSON(t *testing.T) {
	a := newApp(t, setup{config: bff.Config{SessionInfo: nil}})
	b := a.browser()
	r := b.Fetch("GET", "/auth/session?anonymous=200", nil, nil)
	var nobody map[string]any
	if r.Status != 200 || r.JSON(&nobody) != nil || nobody["authenticated"] != false || nobody["reason"] != "no_session" || nobody["loginUrl"] != "/login" || nobody["now"] == "" {
		t.Errorf("anonymous = %v", r)
	}
	b.SignIn("alice")
	r = b.Fetch("GET", "/auth/session", nil, nil)
	var got struct {
		Authenticated bool
		Sub           string
		Groups        []string
		Claims        map[string]any
		Session       map[string]string
		AccessToken   map[string]any
		CSRFToken     string
		LoginURL      string
		LogoutURL     string
		Now           string
	}
	dec := json.NewDecoder(strings.NewReader(string(r.Body)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&got); err != nil {
		t.Fatalf("%v in %s", err, r.Body)
	}
	u, _ := a.iss.User("alice")
	if !got.Authenticated || got.Sub != u.ID || len(got.Groups) != 2 || got.LoginURL != "/login" || got.LogoutURL != "/logout" || len(got.CSRFToken) != 43 {
		t.Errorf("session = %s", r.Body)
	}
	for _, name := range []string{"createdAt", "authTime", "idleExpiresAt", "expiresAt"} {
		if v := got.Session[name]; !strings.HasSuffix(v, "Z") || len(v) != len("2026-11-24T09:00:00Z") {
			t.Errorf("session.%s = %q, want RFC 3339 in UTC", name, v)
		}
	}
	for name := range got.Claims { // S481, D38: an allow-list
		switch name {
		case "name", "email", "picture", "preferred_username", "groups":
		default:
			t.Errorf("claim %s is shown", name)
		}
	}
	if got.AccessToken["renewable"] != true {
		t.Errorf("accessToken = %v", got.AccessToken)
	}
	for _, path := range []string{"/auth/session/x.css", "/auth/session;a.css", "/auth/session%2fx.css", "/auth/session/"} { // S397, S508
		if r := b.Fetch("GET", path, nil, nil); r.Status != 404 {
			t.Errorf("GET %s = %v", path, r)
		}
	}
}

// The routes can be mounted one by one.
func TestPatterns(t *testing.T) {
	a := newApp(t, setup{})
	mux := http.NewServeMux()
	for _, p := range a.auth.Patterns() {
		mux.Handle(p, a.auth.Routes(nil))
	}
	mux.Handle("GET /page", a.auth.ProtectFunc(whoami))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {})
	a.handler = mux
	b := a.signIn("alice")
	if r := b.Fetch("GET", "/page", nil, nil); r.Status != 200 {
		t.Errorf("GET /page = %v", r)
	}
	if r := signOut(b); r.Status != 200 {
		t.Errorf("POST /logout = %v", r)
	}
}

// Two relying parties in one process don't take each other's session from the
// context.
func TestHandlerOfAnotherRelyingParty(t *testing.T) {
	a := newApp(t, setup{})
	other := newApp(t, setup{})
	inner := other.auth.ProtectFunc(whoami)
	mux := http.NewServeMux()
	mux.Handle("/nested", a.auth.Protect(inner))
	a.handler = a.auth.Routes(mux)
	mux.Handle("/optional", a.auth.Protect(other.auth.ProtectFunc(whoami, bff.Optional())))
	b := a.signIn("alice")
	if r := b.Fetch("GET", "/nested", nil, nil); r.Status != 401 {
		t.Errorf("nested = %v", r)
	}
	if r := b.Fetch("GET", "/optional", nil, nil); r.Status != 200 || string(r.Body) != "nobody" {
		t.Errorf("nested and optional = %v %s; want nobody, since it is the other's user", r, r.Body)
	}
}

// Protect around Protect or Proxy admits a request once, but to no more than
// each of them would by itself.
func TestProtectAroundProtect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New(memstore.Options{})
		iss, key := bfftest.NewIssuer(bfftest.Options{}), bff.NewKey()
		a := newApp(t, setup{
			at:     iss,
			config: bff.Config{Store: plainStore{store}, CacheSize: 10, Keys: []bff.Key{key}},
			mux: func(a *app, mux *http.ServeMux) {
				around := a.auth.Middleware()
				mux.Handle("/around/page", around(a.auth.ProtectFunc(whoami, bff.MaxAuthAge(time.Hour))))
				up := bff.Upstream{URL: "https://api.example.com/v1", StripPrefix: "/around", Transport: bfftest.InProcess(map[string]http.Handler{"https://api.example.com": a.api})}
				mux.Handle("/around/api/", around(a.auth.Proxy(up)))
			},
		})
		other := newApp(t, setup{at: iss, config: bff.Config{Store: plainStore{store}, Keys: []bff.Key{key}}})
		b := a.signIn("alice")
		for method, target := range map[string]string{"GET": "/around/page", "POST": "/around/api/x"} {
			if r := b.Fetch(method, target, nil, nil); r.Status != 200 {
				t.Errorf("%s %s = %v", method, target, r)
			}
		}
		// D3: a navigation is a proof for Protect, and none for Proxy.
		hits := a.api.hits()
		if r := b.Post("/around/api/x", nil); r.Status != 403 || r.Reason() != "csrf" || a.api.hits() != hits {
			t.Errorf("a form for an API behind Protect = %v, want 403 csrf", r)
		}
		// D16: a step-up reads past the cache.
		page(t, b, "GET")
		signOut(atOther(t, b, other))
		if r := b.Fetch("GET", "/around/page", nil, nil); r.Status != 401 {
			t.Errorf("a page that wants a recent sign-in, after a sign-out elsewhere = %v, want 401", r)
		}
	})
}

// A rule of the application may refuse with a Problem of its own making, in
// which only the reason is said.
func TestAuthorizeWithAProblem(t *testing.T) {
	refuse := func(p *bff.Problem) bff.Option {
		return bff.Authorize(func(*http.Request, *bff.Session) error { return p })
	}
	a := newApp(t, setup{mux: func(a *app, mux *http.ServeMux) {
		mux.Handle("/short", a.auth.ProtectFunc(whoami, refuse(&bff.Problem{Reason: bff.StepUp})))
		mux.Handle("/unknown", a.auth.ProtectFunc(whoami, refuse(&bff.Problem{Reason: "closed", Title: "Closed on Sundays"})))
		mux.Handle("/full", a.auth.ProtectFunc(whoami, refuse(&bff.Problem{Status: 409, Reason: "conflict", Title: "Later"})))
	}})
	b := a.signIn("alice")
	for path, want := range map[string]struct {
		status        int
		reason, title string
	}{
		"/short":   {401, "step_up", "A recent or stronger sign-in is needed"},
		"/unknown": {403, "closed", "Closed on Sundays"},
		"/full":    {409, "conflict", "Later"},
	} {
		r := b.Fetch("GET", path, nil, nil)
		var p map[string]any
		if r.Err != nil || r.JSON(&p) != nil || r.Status != want.status || r.Reason() != want.reason || p["title"] != want.title || p["status"] != float64(want.status) {
			t.Errorf("GET %s = %v %s, want %v", path, r, r.Body, want)
		}
	}
}

// Numbers in claims are shown as the issuer wrote them: JavaScript's are not
// wide enough for every ID, Go's float64 neither.
func TestSessionKeepsNumbers(t *testing.T) {
	a := newApp(t, setup{
		issuer: bfftest.Options{Users: []bfftest.User{{Name: "alice", Claims: map[string]any{"employee": json.Number("9007199254740993")}}}},
		config: bff.Config{SessionClaims: []string{"employee"}},
	})
	b := a.signIn("alice")
	if r := b.Fetch("GET", "/auth/session", nil, nil); !strings.Contains(string(r.Body), `"employee":9007199254740993`) {
		t.Errorf("GET /auth/session = %s", r.Body)
	}
}
