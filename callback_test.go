package bff_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
	"github.com/agglestone/bff/internal/record"
	"github.com/agglestone/bff/internal/seal"
	"github.com/agglestone/bff/store/memstore"
)

// What the issuer answers is in hostile_test.go; here is what a login asks for,
// what binds its answer to the browser, and what becomes of those that fail.

// get sends a request that is nothing but its header and cookies.
func (a *app) get(method, target string, h http.Header, cookies ...*http.Cookie) *recorder {
	a.Helper()
	r, err := http.NewRequestWithContext(a.Context(), method, target, nil)
	if err != nil {
		a.Fatal(err)
	}
	r.RequestURI, r.Host = target, "app.example.com"
	if h != nil {
		r.Header = h.Clone()
	}
	for _, c := range cookies {
		r.AddCookie(c)
	}
	w := &recorder{header: http.Header{}, status: 200}
	a.handler.ServeHTTP(w, r)
	return w
}

// resume returns a browser on a with the cookies of b.
func (a *app) resume(b *bfftest.Browser) *bfftest.Browser {
	other := a.browser()
	for _, c := range b.Cookies() {
		other.SetCookie(c)
	}
	return other
}

// attemptOf returns the cookie of the browser's one login attempt.
func attemptOf(t *testing.T, b *bfftest.Browser) *http.Cookie {
	t.Helper()
	for _, c := range b.Cookies() {
		if strings.HasPrefix(c.Name, "__Host-Http-bff-login-") {
			return c
		}
	}
	t.Fatal("no cookie of an attempt")
	return nil
}

// authorization returns the parameters of the request to the issuer that GET
// target leads to.
func (a *app) authorization(target string) url.Values {
	a.Helper()
	w := a.get("GET", target, nil)
	u, err := url.Parse(w.header.Get("Location"))
	if err != nil || w.status != 302 || !strings.HasPrefix(u.String(), a.iss.URL()+"/authorize?") {
		a.Fatalf("GET %s = %d to %s", target, w.status, u)
	}
	return u.Query()
}

// RFC 7636: S90-S95, S48. The challenge is the S256 of a verifier that is fresh,
// long enough and made of the right characters; the verifier goes to the token
// endpoint and nowhere else.
func TestPKCE(t *testing.T) {
	a := newApp(t, setup{issuer: bfftest.Options{IssParameter: true}})
	// Section 4.2, 7.2: what the metadata says of methods makes no difference.
	a.iss.Break("discovery", member("code_challenge_methods_supported", []string{"plain"}))
	var verifiers []string
	a.iss.Break("token", bfftest.Fault{Before: func(r *http.Request) { verifiers = append(verifiers, r.PostForm.Get("code_verifier")) }})
	seen := map[string]bool{}
	for range 10 {
		a.signIn("alice")
		var asked url.Values
		for _, r := range a.iss.Log() {
			if r.Endpoint == "authorize" {
				asked = r.Query
			}
		}
		verifier := verifiers[len(verifiers)-1]
		sum := sha256.Sum256([]byte(verifier))
		if got := asked["code_challenge"]; len(got) != 1 || got[0] != base64.RawURLEncoding.EncodeToString(sum[:]) {
			t.Errorf("code_challenge = %q, want the S256 of the verifier (4.2)", got)
		}
		if got := asked["code_challenge_method"]; len(got) != 1 || got[0] != "S256" {
			t.Errorf("code_challenge_method = %q, want S256 (4.3, 7.2)", got)
		}
		if !regexp.MustCompile(`^[A-Za-z0-9._~-]{43,128}$`).MatchString(verifier) {
			t.Errorf("verifier %q (4.1)", verifier)
		}
		for _, value := range []string{verifier, asked.Get("state"), asked.Get("nonce"), asked.Get("code_challenge")} {
			if len(value) < 43 || seen[value] {
				t.Errorf("%q is short or not fresh (4.1, 7.1)", value)
			}
			seen[value] = true
		}
	}
	if len(verifiers) != 10 {
		t.Errorf("%d token requests, want 10", len(verifiers))
	}
	if !slices.Contains(a.iss.Secrets(), verifiers[0]) { // section 7.1, S94
		t.Error("the verifiers are not among the secrets that are looked for")
	}
}

// Section 7.2, S92: an issuer that refuses S256 is not asked again with less.
func TestNoPKCEDowngrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{})
		a.iss.Break("callback", callback(func(v url.Values) {
			v.Del("code")
			v.Set("error", "invalid_request")
			v.Set("error_description", "transform algorithm not supported")
		}))
		b := a.browser()
		b.Navigate("/login")
		signInFailed(t, a, b, b.Choose("alice"), bff.IssuerError)
		if n := a.iss.Count("authorize"); n != 1 {
			t.Errorf("%d authorization requests, want 1", n)
		}
	})
}

// S139, S161, S489, X47, X49: what a login asks for, and what a link to /login
// can't change about it.
func TestAuthorizationRequest(t *testing.T) {
	type want map[string]string // "" stands for absent
	for _, c := range []struct {
		name   string
		config bff.Config
		query  string
		want   want
	}{
		{name: "plain", want: want{"response_type": "code", "scope": "openid profile email", "redirect_uri": appURL + "/auth/callback", "prompt": "", "max_age": "", "response_mode": "", "login_hint": ""}},
		{name: "own parameters from outside", query: "?redirect_uri=https://evil.example&client_id=x&scope=admin&response_type=token&response_mode=fragment&nonce=1&state=1&code_challenge=1&code_challenge_method=plain&request_uri=https://evil.example&resource=x",
			want: want{"response_type": "code", "scope": "openid profile email", "redirect_uri": appURL + "/auth/callback", "code_challenge_method": "S256", "response_mode": "", "request_uri": "", "resource": ""}},
		{name: "nothing passes by itself", query: "?prompt=none&login_hint=alice&ui_locales=de", want: want{"prompt": "", "login_hint": "", "ui_locales": ""}},
		{name: "what is configured passes", config: bff.Config{LoginParams: []string{"prompt", "login_hint", "ui_locales"}}, query: "?prompt=login&login_hint=al%26ice&ui_locales=de",
			want: want{"prompt": "login", "login_hint": "al&ice", "ui_locales": "de"}},
		{name: "a long value", config: bff.Config{LoginParams: []string{"login_hint"}}, query: "?login_hint=" + strings.Repeat("a", 4096), want: want{"login_hint": ""}},
		{name: "a control character", config: bff.Config{LoginParams: []string{"login_hint"}}, query: "?login_hint=a%0d%0ab", want: want{"login_hint": ""}},
		{name: "a prompt that does not exist", config: bff.Config{LoginParams: []string{"prompt"}}, query: "?prompt=none%20login", want: want{"prompt": ""}},
		{name: "twice", config: bff.Config{LoginParams: []string{"login_hint"}}, query: "?login_hint=a&login_hint=b&max_age=1&max_age=2", want: want{"login_hint": "", "max_age": ""}},
		{name: "what is checked afterwards passes", query: "?max_age=60&acr_values=gold+silver", want: want{"max_age": "60", "acr_values": "gold silver"}},
		{name: "not a number of seconds", query: "?max_age=-1&acr_values=%01", want: want{"max_age": "", "acr_values": ""}},
		{name: "a parameter in the return path", query: "?returnUrl=/a%26prompt%3Dnone%26acr_values%3D0", want: want{"prompt": "", "acr_values": ""}},
		{name: "offline_access", config: bff.Config{Scopes: []string{"offline_access"}}, want: want{"scope": "openid offline_access", "prompt": "consent"}},
		{name: "offline_access without consent", config: bff.Config{Scopes: []string{"offline_access"}, AuthorizationParams: map[string]string{"prompt": "", "resource": "https://api.example.com"}},
			want: want{"prompt": "", "resource": "https://api.example.com"}},
		{name: "a broken query", query: "?login_hint=%zz&max_age=1", want: want{"login_hint": "", "max_age": ""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newApp(t, setup{config: c.config})
			got := a.authorization("/login" + c.query)
			for name, value := range c.want {
				if values := got[name]; value == "" && values != nil || value != "" && (len(values) != 1 || values[0] != value) {
					t.Errorf("%s = %q, want %q", name, values, value)
				}
			}
			if got.Get("client_id") != a.iss.ClientID() {
				t.Errorf("client_id = %q", got.Get("client_id"))
			}
		})
	}
}

// S32, S69, S468, X1-X47: a sign-in ends at a page of ours, whatever returnUrl
// says. What is a page of ours is proved in internal/returnto.
func TestReturnURL(t *testing.T) {
	a := newApp(t, setup{})
	for raw, want := range map[string]string{
		"/page?tab=1&x=%2F": "/page?tab=1&x=%2F", "": "/", "/optional#sec": "/optional#sec",
		"https://evil.example": "/", "//evil.example": "/", `/\evil.example`: "/", `/./\evil.example`: "/", "/%09/evil.example": "/",
		"/\n/evil.example": "/", "javascript:alert(1)": "/", "https://app.example.com/page": "/", "/..//evil.example": "/",
		"/login": "/", "/logout": "/", "/auth/callback?code=x&state=y": "/", "/auth/session": "/", "/auth/sessions": "/", "/auth/sessions/end-others": "/", "/LOGOUT": "/",
		"/api/export?all=1": "/", "/api": "/", "/API/x": "/", "/" + strings.Repeat("a", 9000): "/",
	} {
		b := a.browser()
		r := b.SignIn("alice", bfftest.LoginPath("/login?returnUrl="+url.QueryEscape(raw)))
		location := ""
		for _, h := range r.Hops {
			if h.URL.Path == "/auth/callback" {
				location = h.Header.Get("Location")
			}
		}
		if location != want {
			t.Errorf("returnUrl %.40q leads to %q, want %q", raw, location, want)
		}
	}
	if r := a.signIn("alice"); r.Page().URL.String() != appURL+"/" {
		t.Errorf("without returnUrl: %v", r.Page())
	}
	r := a.browser().SignIn("alice", bfftest.LoginPath("/login?returnUrl=/page&returnUrl=/optional"))
	if r.URL.Path != "/" {
		t.Errorf("two of them: %v", r)
	}
}

// Invariant 1: what is logged of a returnUrl that was refused is no code, though
// a page at the callback's address asks for a login that leads back there. That
// it isn't logged is found when the test ends, as in every test.
func TestReturnURLInLog(t *testing.T) {
	a := newApp(t, setup{})
	_, callback := a.stopAtCallback("alice")
	for _, sep := range []string{"?", "#"} {
		back := strings.Replace(callback, "?", sep, 1)
		if w := a.get("GET", "/login?returnUrl="+url.QueryEscape(back), nil); w.status != 302 {
			t.Errorf("GET /login = %d", w.status)
		}
	}
	if log := a.log.String(); strings.Count(log, `/auth/callback\""`) != 2 {
		t.Errorf("the log doesn't say what was refused:\n%s", log)
	}
}

// S174: each error that an issuer can answer with ends at a page, and spends
// the attempt (S74).
func TestAuthorizationErrors(t *testing.T) {
	for code, want := range map[string]bff.Reason{
		"access_denied": bff.LoginDenied, "login_required": bff.LoginDenied, "interaction_required": bff.LoginDenied,
		"consent_required": bff.LoginDenied, "account_selection_required": bff.LoginDenied,
		"temporarily_unavailable": bff.IssuerUnavailable,
		"server_error":            bff.IssuerError, "invalid_request": bff.IssuerError, "invalid_scope": bff.IssuerError, "unheard_of": bff.IssuerError,
	} {
		t.Run(code, func(t *testing.T) {
			a := newApp(t, setup{})
			a.iss.Break("callback", callback(func(v url.Values) {
				v.Del("code")
				v.Set("error", code)
			}))
			b, callback := a.stopAtCallback("alice")
			b = a.resume(b)
			kept := attemptOf(t, b)
			signInFailed(t, a, b, b.Navigate(callback), want)
			if a.iss.Count("authorize") != 1 || a.iss.Count("token") != 0 {
				t.Errorf("%d authorization and %d token requests, want 1 and 0", a.iss.Count("authorize"), a.iss.Count("token"))
			}
			b.SetCookie(kept)
			if r := b.Navigate(callback); r.Status != 400 || r.Reason() != "login_replayed" {
				t.Errorf("again: %v", r)
			}
		})
	}
}

// S74: an error that nobody's attempt fits changes nothing for who is signed in.
func TestForgedError(t *testing.T) {
	a := newApp(t, setup{})
	b := a.signIn("alice")
	state := strings.Repeat("0", 51)
	for _, query := range []string{"?error=access_denied", "?error=access_denied&state=" + state, "?code=x&state=" + state, ""} {
		r := b.Navigate("/auth/callback" + query)
		if r.Status != 200 || r.URL.String() != appURL+"/" {
			t.Errorf("callback%s = %v, want the page of who is signed in", query, r)
		}
		if w := a.get("GET", "/auth/callback"+query, nil); w.status != 400 || len(w.header["Set-Cookie"]) > 0 {
			t.Errorf("callback%s, signed out = %d %v", query, w.status, w.header)
		}
	}
	if r := b.Fetch("GET", "/page", nil, nil); r.Status != 200 || a.iss.Count("token") != 1 {
		t.Errorf("afterwards: %v, %d token requests", r, a.iss.Count("token"))
	}
}

// S300, S449, S520, X75, X77, X115: what is no person opening a page begins and
// ends no login, and spends no attempt.
func TestLoginIsNavigation(t *testing.T) {
	for _, c := range []struct {
		name   string
		method string
		header http.Header
		query  string // added to the callback's
		status int
	}{
		{"prefetch", "GET", http.Header{"Sec-Purpose": {"prefetch"}, "Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"document"}}, "", 400},
		{"prerender", "GET", http.Header{"Sec-Purpose": {"prefetch;prerender"}}, "", 400},
		{"old-prefetch", "GET", http.Header{"Purpose": {"prefetch"}}, "", 400},
		{"fetch", "GET", http.Header{"Sec-Fetch-Mode": {"cors"}, "Sec-Fetch-Dest": {"empty"}}, "", 400},
		{"image", "GET", http.Header{"Sec-Fetch-Mode": {"no-cors"}, "Sec-Fetch-Dest": {"image"}}, "", 400},
		{"frame", "GET", http.Header{"Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"iframe"}}, "", 400},
		{"head", "HEAD", nil, "", 405},
		{"post", "POST", nil, "", 405},
		{"semicolon", "GET", nil, "&x=1;y=2", 400},
		{"bad-escape", "GET", nil, "&x=%zz", 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newApp(t, setup{})
			if c.query == "" {
				if w := a.get(c.method, "/login", c.header); w.status != c.status || len(w.header["Set-Cookie"]) > 0 || w.header.Get("Location") != "" {
					t.Errorf("/login = %d %v, want %d", w.status, w.header, c.status)
				}
			}
			b, callback := a.stopAtCallback("alice")
			b = a.resume(b)
			w := a.get(c.method, callback+c.query, c.header, b.Cookies()...)
			if w.status != c.status || len(w.header["Set-Cookie"]) > 0 || w.header.Get("Location") != "" || a.iss.Count("token") != 0 {
				t.Errorf("callback = %d %v, want %d", w.status, w.header, c.status)
			}
			if r := b.Navigate(callback); r.Status != 200 || a.iss.Count("token") != 1 {
				t.Errorf("and then as a page: %v", r)
			}
		})
	}
}

// The first mistake of the first day: the site opened under another name than
// RedirectURL's. The explanation names both.
func TestWrongHost(t *testing.T) {
	a := newApp(t, setup{})
	r, _ := http.NewRequest("GET", "/login", nil)
	r.RequestURI, r.Host = "/login", "127.0.0.1:8080"
	w := &recorder{header: http.Header{}}
	a.handler.ServeHTTP(w, r)
	if body := w.body.String(); w.status != 400 || w.header.Get("Bff-Reason") != "wrong_host" || len(w.header["Set-Cookie"]) > 0 ||
		!strings.Contains(body, "127.0.0.1:8080") || !strings.Contains(body, "app.example.com") {
		t.Errorf("GET /login at another host = %d %v %s", w.status, w.header, body)
	}
	r.Header.Set("X-Forwarded-Host", "app.example.com")
	w = &recorder{header: http.Header{}}
	if a.handler.ServeHTTP(w, r); w.status != 302 {
		t.Errorf("GET /login behind a proxy that says the host = %d", w.status)
	}
	// S473: but no URL is made of it.
	r.Header.Set("X-Forwarded-Host", "evil.example")
	r.Host = "app.example.com"
	w = &recorder{header: http.Header{}}
	if a.handler.ServeHTTP(w, r); w.status != 302 || strings.Contains(w.header.Get("Location"), "evil") {
		t.Errorf("GET /login with a forged X-Forwarded-Host = %d to %s", w.status, w.header.Get("Location"))
	}
}

// S33, S36, S40, S409, S451, S483, X63, X87: the answer belongs to the attempt
// whose sealed cookie the browser has, and to no other.
func TestAttemptCookie(t *testing.T) {
	mismatch, expired := "no cookie for this state", ""
	for _, c := range []struct {
		name string
		// edit changes the victim's cookie; nil takes it away.
		edit func(t *testing.T, a *app, c *http.Cookie)
		wait time.Duration
		want bff.Reason
		says string
	}{
		{"none", nil, 0, bff.LoginMismatch, mismatch},
		{"empty", func(_ *testing.T, _ *app, c *http.Cookie) { c.Value = "" }, 0, bff.LoginMismatch, mismatch},
		{"changed", func(_ *testing.T, _ *app, c *http.Cookie) {
			c.Value = c.Value[:len(c.Value)-2] + map[bool]string{true: "B", false: "A"}[c.Value[len(c.Value)-2] == 'A'] + c.Value[len(c.Value)-1:]
		}, 0, bff.LoginMismatch, mismatch},
		{"of-another-attempt", func(t *testing.T, a *app, c *http.Cookie) {
			b, _ := a.stopAtCallback("bob")
			c.Value = attemptOf(t, b).Value
		}, 0, bff.LoginMismatch, mismatch},
		{"of-other-keys", func(t *testing.T, a *app, c *http.Cookie) {
			at := record.Attempt{Began: time.Now(), ReturnURL: "/", MaxAge: -1}
			c.Value = sealed(t, bff.NewKey(), a, c.Name, at.Append(nil))
		}, 0, bff.LoginMismatch, mismatch},
		{"a-session-cookie", func(t *testing.T, a *app, c *http.Cookie) {
			c.Value = sessionCookie(t, a.signIn("bob")).Value
		}, 0, bff.LoginMismatch, mismatch},
		{"kept-too-long", func(*testing.T, *app, *http.Cookie) {}, 15*time.Minute + time.Second, bff.LoginExpired, expired},
		{"kept-almost-too-long", func(*testing.T, *app, *http.Cookie) {}, 15*time.Minute - 2*time.Second, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newApp(t, setup{})
				a.iss.Break("token", bfftest.Fault{}) // nothing yet
				b, callback := a.stopAtCallback("alice")
				cookie := *attemptOf(t, b)
				time.Sleep(c.wait)
				before := a.iss.Count("token")
				b = a.browser()
				if c.edit != nil {
					c.edit(t, a, &cookie)
					before = a.iss.Count("token")
					b.SetCookie(&cookie)
				}
				r := b.Navigate(callback)
				if c.want == "" {
					// The code has expired by now, but the attempt has not.
					if r.Reason() == "login_expired" || a.iss.Count("token") != before+1 {
						t.Errorf("callback = %v", r)
					}
					return
				}
				signInFailed(t, a, b, r, c.want)
				if a.iss.Count("token") != before || !strings.Contains(a.log.String(), c.says) {
					t.Errorf("%d token requests, and in the log: %s", a.iss.Count("token")-before, a.log)
				}
			})
		})
	}
}

// sealed returns a cookie of an attempt as the holder of key would make it.
func sealed(t *testing.T, key bff.Key, a *app, name string, value []byte) string {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(key.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	ring, err := seal.NewRing([][]byte{raw}, a.iss.URL(), a.iss.ClientID())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ring.SealAttempt(name, value)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// RFC 9700, section 4.7.1: the state is compared in full. The cookie's name
// has 48 bits of its digest, so two states can be made to share a name; here
// one does.
func TestStateIsCompared(t *testing.T) {
	key := bff.NewKey()
	a := newApp(t, setup{config: bff.Config{Keys: []bff.Key{key}}})
	b, callback := a.stopAtCallback("alice")
	u, err := url.Parse(callback)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	state := []byte(q.Get("state"))
	state[len(state)-1] ^= 1
	q.Set("state", string(state))
	digest := sha256.Sum256(state)
	name := "__Host-Http-bff-login-" + string(state[:8]) + "-" + base64.RawURLEncoding.EncodeToString(digest[:6])

	// What the attempt's own cookie holds, under the name of the other state.
	own := attemptOf(t, b)
	raw, _ := base64.StdEncoding.DecodeString(key.Reveal())
	ring, err := seal.NewRing([][]byte{raw}, a.iss.URL(), a.iss.ClientID())
	if err != nil {
		t.Fatal(err)
	}
	value, _, ok := ring.OpenAttempt(own.Name, own.Value)
	if !ok {
		t.Fatal("the attempt's cookie doesn't open")
	}
	b = a.browser()
	b.SetCookie(&http.Cookie{Name: name, Value: sealed(t, key, a, name, value)})
	r := b.Navigate("/auth/callback?" + q.Encode())
	signInFailed(t, a, b, r, bff.LoginMismatch)
	if a.iss.Count("token") != 0 || !strings.Contains(a.log.String(), "state is another attempt's") {
		t.Errorf("%d token requests, and in the log: %s", a.iss.Count("token"), a.log)
	}
}

// X87: what the browser has of an attempt is no session.
func TestAttemptIsNoSession(t *testing.T) {
	a := newApp(t, setup{})
	b, _ := a.stopAtCallback("alice")
	thief := a.browser()
	thief.SetCookie(&http.Cookie{Name: "__Host-Http-bff", Value: attemptOf(t, b).Value})
	if r := thief.Fetch("GET", "/page", nil, nil); r.Status != 401 || r.Reason() != "no_session" {
		t.Errorf("an attempt as a session = %v", r)
	}
}

// S50, X65, X79: a callback that was used, or came too late, is explained to
// who isn't signed in; a tab left over in a browser that is signed in lands on
// a safe page. Neither makes a token request, and nothing loops.
func TestStaleTabs(t *testing.T) {
	for _, c := range []struct {
		name  string
		keep  bool // of the attempt's cookie, whatever the answers say
		wait  time.Duration
		twice bool
		want  bff.Reason
	}{
		{name: "replayed", keep: true, twice: true, want: bff.LoginReplayed},
		{name: "replayed-late", keep: true, twice: true, wait: 14 * time.Minute, want: bff.LoginReplayed},
		{name: "reloaded", twice: true, want: bff.LoginMismatch},
		{name: "expired", wait: 16 * time.Minute, want: bff.LoginExpired},
		{name: "expired-and-kept", keep: true, wait: 16 * time.Minute, want: bff.LoginExpired},
		{name: "cookies-cleared", want: bff.LoginMismatch},
	} {
		for _, present := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,signed-in=%v", c.name, present), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a := newApp(t, setup{})
					stopped, callback := a.stopAtCallback("alice")
					b := a.resume(stopped)
					kept := attemptOf(t, b)
					if c.twice {
						if r := b.Navigate(callback); r.Status != 200 {
							t.Fatal(r)
						}
					}
					time.Sleep(c.wait)
					b.ClearCookies()
					if present {
						if r := b.SignIn("alice"); r.Err != nil {
							t.Fatal(r.Err)
						}
					}
					if c.keep {
						b.SetCookie(kept)
					}
					before := a.iss.Count("token")
					r := b.Navigate(callback)
					if a.iss.Count("token") != before {
						t.Errorf("%d token requests", a.iss.Count("token")-before)
					}
					if !present {
						signInFailed(t, a, b, r, c.want)
						return
					}
					if r.Status != 200 || r.URL.String() != appURL+"/" || len(r.Hops) != 2 {
						t.Errorf("callback = %v, want the default page", r)
					}
					if r := b.Fetch("GET", "/page", nil, nil); r.Status != 200 {
						t.Errorf("the session = %v", r)
					}
				})
			})
		}
	}
}

// O1, S521: a browser that signs in five times within a minute and comes back
// each time is stopped with an explanation, and may try again later. Nobody
// else is held up (D25).
func TestLoginLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := &trail{}
		a := newApp(t, setup{config: bff.Config{OnEvent: tr.add}})
		inner := a.handler
		a.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rec := &recorder{header: http.Header{}, status: 200}
			inner.ServeHTTP(rec, r)
			for name, values := range rec.header { // a browser that doesn't take the session cookie
				w.Header()[name] = slices.DeleteFunc(values, func(v string) bool { return strings.HasPrefix(v, "__Host-Http-bff=") })
			}
			w.WriteHeader(rec.status)
			w.Write([]byte(rec.body.String()))
		})
		b := a.browser()
		b.Navigate("/page")
		r := b.Choose("alice")
		if r.Err != nil || r.Status != 429 || r.Reason() != "login_loop" || r.Header.Get("Location") != "" ||
			!strings.Contains(string(r.Body), "cookies are blocked") || r.Header.Get("Retry-After") != "60" {
			t.Fatalf("the fifth time: %v", r)
		}
		if n := a.iss.Count("token"); n != 5 {
			t.Errorf("%d sign-ins before that, want 5", n)
		}
		if log := a.log.String(); strings.Count(log, `"reason":"login_loop","status":429`) != 1 {
			t.Errorf("log: %s", log)
		}
		if list := tr.take(); list[len(list)-1].Kind != bff.LoginLoopStopped || !strings.Contains(a.log.String(), `"level":"WARN","msg":"login loop stopped"`) {
			t.Errorf("events %+v, want the last to be login_loop_stopped", list)
		}
		a.handler = inner
		a.signIn("bob")
		time.Sleep(61 * time.Second)
		if r := a.resume(b).SignIn("alice"); r.Err != nil {
			t.Errorf("a minute later: %v", r.Err)
		}
	})
}

// D32, S39, S118: whatever fails after the code was redeemed leaves no live
// grant, no session and no cookie. The failures of the issuer itself are in
// hostile_test.go.
func TestNoGrantLeftBehind(t *testing.T) {
	for _, c := range []struct {
		name  string
		hook  error // of OnLogin
		store func(op string, n int) bool
		done  bool // what the store failed to say
		gone  bool // the client gives up during the exchange
		want  bff.Reason
	}{
		{name: "refused-by-the-hook", hook: bff.Refuse("Ask Carol for access."), want: bff.LoginRefused},
		{name: "hook-fails", hook: errors.New("database is down"), want: bff.IssuerUnavailable},
		{name: "store-fails", store: func(op string, n int) bool { return op == "Create" && n == 2 }, want: bff.StoreUnavailable},
		{name: "store-fails-afterwards", store: func(op string, n int) bool { return op == "Create" && n == 2 }, done: true, want: bff.StoreUnavailable},
		{name: "client-gone", gone: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &hookedStore{Store: memstore.New(memstore.Options{})}
				tr := &trail{}
				a := newApp(t, setup{config: bff.Config{Store: store, OnEvent: tr.add, OnLogin: func(context.Context, *bff.Login) error { return c.hook }}})
				live := 0
				creates := 0
				store.set(func(op string, do func() error) error {
					if op == "Create" {
						creates++
					}
					fails := c.store != nil && c.store(op, creates)
					if fails && !c.done {
						return errStore
					}
					err := do()
					switch {
					case op == "Create" && creates == 2:
						live++
					case op == "End" && live > 0:
						live--
					}
					if fails {
						return errStore
					}
					return err
				})
				b, callback := a.stopAtCallback("alice")
				b = a.resume(b)
				if c.gone {
					ctx, cancel := context.WithCancel(t.Context())
					a.iss.Break("token", bfftest.Fault{After: func(*http.Request) { cancel() }})
					r, _ := http.NewRequestWithContext(ctx, "GET", callback, nil)
					r.AddCookie(attemptOf(t, b))
					w := &recorder{header: http.Header{}}
					a.handler.ServeHTTP(w, r)
					for _, line := range w.header["Set-Cookie"] {
						if strings.HasPrefix(line, "__Host-Http-bff=") {
							t.Errorf("answered with %s", line)
						}
					}
				} else {
					signInFailed(t, a, b, b.Navigate(callback), c.want)
				}
				synctest.Wait()
				if a.iss.Count("token") != 1 || a.iss.Count("revoke") != 1 || a.iss.LiveGrants() != 0 || live != 0 {
					t.Errorf("%d token requests, %d revocations, %d live grants, %d sessions; want 1, 1, 0, 0",
						a.iss.Count("token"), a.iss.Count("revoke"), a.iss.LiveGrants(), live)
				}
				if list := tr.take(); len(list) != 1 || list[0].Kind != bff.SignInRefused || list[0].Subject != a.iss.Grants()[0].Subject {
					t.Errorf("events %+v, want one sign_in_refused with the subject", list)
				}
				if page := b.Page(); c.want == bff.LoginRefused && !strings.Contains(string(page.Body), "Ask Carol for access.") {
					t.Errorf("the user is shown %s", page.Body)
				}
			})
		})
	}
}

// D32, D26: a step-up that fails leaves the session that it came from alone,
// its tokens too, which may hang on the same grant.
func TestFailedStepUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{})
		b := a.signIn("alice")
		before := sessionCookie(t, b).Value
		a.iss.Break("token", claimAt("auth_time", -time.Hour))
		b.Navigate("/login?max_age=60&returnUrl=/page")
		r := b.Page()
		if r.Status == 200 {
			r = b.Choose("alice")
		}
		if r.Status != 401 || r.Reason() != "step_up" || r.Header.Get("Location") != "" {
			t.Fatalf("step-up with an old sign-in = %v", r)
		}
		a.iss.Heal()
		synctest.Wait()
		if n := a.iss.Count("revoke"); n != 0 {
			t.Errorf("%d revocations, want none", n)
		}
		time.Sleep(16 * time.Minute)
		if r := b.Fetch("GET", "/api/x", nil, nil); r.Status != 200 || sessionCookie(t, b).Value != before {
			t.Errorf("the session from before = %v", r)
		}
	})
}

// D26: a colleague who answers a step-up does not go on in the first user's
// form.
func TestStepUpByAnother(t *testing.T) {
	a := newApp(t, setup{})
	for user, want := range map[string]string{"alice": "/page", "bob": "/"} {
		b := a.signIn("alice")
		r := b.SignIn(user, bfftest.LoginPath("/login?max_age=0&returnUrl=/page"))
		if r.Err != nil || r.URL.Path != want {
			t.Errorf("%s answers alice's step-up and lands on %v, want %s", user, r, want)
		}
	}
}

// D24, S413, X91: the cookies of attempts stay small together, whatever tabs
// were restored, and the latest login works.
func TestAttemptsAreBounded(t *testing.T) {
	a := newApp(t, setup{})
	size := func(b *bfftest.Browser) (n int) {
		for _, c := range b.Cookies() {
			n += len(c.Name) + len(c.Value) + 3
		}
		return n
	}
	b := a.browser()
	for range 100 {
		b.Navigate("/login?returnUrl=/" + strings.Repeat("a", 255))
		if n := size(b); n > 2<<10 {
			t.Fatalf("%d bytes of cookies", n)
		}
	}
	if r := b.Choose("alice"); r.Status != 404 || size(b) > 2<<10 { // there is no such page
		t.Errorf("the latest login = %v with %d bytes of cookies", r, size(b))
	}

	// A browser that was started again with twenty tabs: none knew of the
	// others.
	b = a.browser()
	for range 20 {
		w := a.get("GET", "/login", nil)
		for _, c := range (&http.Response{Header: w.header}).Cookies() {
			b.SetCookie(c)
		}
	}
	if size(b) < 4<<10 {
		t.Fatalf("%d bytes of cookies: that was no flood", size(b))
	}
	b.Fetch("GET", "/auth/session", nil, nil)
	if n := size(b); n > 2<<10 || n == 0 {
		t.Errorf("%d bytes of cookies after one answer of ours", n)
	}
	if r := b.SignIn("alice"); r.Err != nil {
		t.Error(r.Err)
	}
}

// O1, S16: with a Strict session cookie the callback makes one hop to itself,
// so that it sees the cookie: the old session ends, and stale tabs are told from
// strangers.
func TestStrict(t *testing.T) {
	a := newApp(t, setup{config: bff.Config{SameSite: http.SameSiteStrictMode}})
	b := a.signIn("alice")
	first := sessionCookie(t, b)
	if first.SameSite != http.SameSiteStrictMode {
		t.Errorf("the session cookie is %v", first.SameSite)
	}
	hops := 0
	for _, h := range b.Hops() {
		if h.URL.Path != "/auth/callback" {
			continue
		}
		if hops++; hops == 1 && (h.Status != 200 || h.Header.Get("Cache-Control") != "no-store" || len(h.Header["Set-Cookie"]) > 0) {
			t.Errorf("the first hop answers %d %v", h.Status, h.Header)
		}
	}
	if hops != 2 || a.iss.Count("token") != 1 {
		t.Errorf("%d requests of the callback and %d token requests, want 2 and 1", hops, a.iss.Count("token"))
	}
	if r := b.SignIn("bob", bfftest.LoginPath("/login?max_age=0")); r.Err != nil {
		t.Fatal(r.Err)
	}
	old := a.browser()
	old.SetCookie(first)
	if r := old.Fetch("GET", "/page", nil, nil); r.Status != 401 || r.Reason() != "replaced" {
		t.Errorf("the old session = %v, want 401 replaced", r)
	}
	// A browser without Fetch Metadata does not hop on for ever.
	w := a.get("GET", "/auth/callback?code=x&state=y", nil)
	if w.status != 200 || !strings.Contains(w.body.String(), "bff_hop=1") {
		t.Fatalf("the first request = %d", w.status)
	}
	if w = a.get("GET", "/auth/callback?code=x&state=y&bff_hop=1", nil); w.status != 400 || w.header.Get("Bff-Reason") != "login_mismatch" {
		t.Errorf("the second = %d %v", w.status, w.header)
	}
}

// D24, O1: what makes room for others is not the attempt that is being answered,
// whose cookie the hop needs a second time.
func TestStrictAmongManyTabs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{config: bff.Config{SameSite: http.SameSiteStrictMode}})
		b, callback := a.stopAtCallback("alice")
		b = a.resume(b)
		time.Sleep(time.Second) // it is the oldest
		for range 20 {          // tabs that didn't know of each other
			for _, c := range (&http.Response{Header: a.get("GET", "/login", nil).header}).Cookies() {
				b.SetCookie(c)
			}
		}
		if r := b.Navigate(callback); r.Status != 200 || r.Reason() != "" {
			t.Errorf("the oldest of 21 logins = %v", r)
		}
		sessionCookie(t, b)
	})
}

// What the hook is told and what it sets.
func TestOnLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []bff.Login
		a := newApp(t, setup{
			config: bff.Config{OnLogin: func(_ context.Context, l *bff.Login) error {
				var claims struct{ Email string }
				if err := l.Claims(&claims); err != nil || claims.Email != "alice@example.com" {
					t.Errorf("Claims = %+v, %v", claims, err)
				}
				l.Set("id", fmt.Sprint("own-", len(asked)))
				l.Groups[0] = "Nobody" // a copy
				asked = append(asked, *l)
				return nil
			}},
			mux: func(a *app, mux *http.ServeMux) {
				mux.Handle("GET /id", a.auth.ProtectFunc(func(w http.ResponseWriter, r *http.Request) {
					s, _ := bff.SessionFromContext(r.Context())
					fmt.Fprint(w, s.Value("id"), s.Value("other"), s.Groups())
				}))
			},
		})
		b := a.browser()
		b.SignIn("alice", bfftest.LoginPath("/login?returnUrl=/page"))
		if r := b.Fetch("GET", "/id", nil, nil); string(r.Body) != "own-0[Admin Users]" {
			t.Errorf("GET /id = %v", r)
		}
		time.Sleep(16 * time.Minute)
		if r := b.Fetch("GET", "/id", nil, nil); string(r.Body) != "own-1[Admin Users]" {
			t.Errorf("GET /id after a refresh = %v", r)
		}
		u, _ := a.iss.User("alice")
		if len(asked) != 2 || asked[0].Subject != u.ID || asked[0].Issuer != a.iss.URL() || asked[0].ReturnURL != "/page" || asked[0].Refresh || !asked[1].Refresh {
			t.Errorf("asked %+v", asked)
		}
	})
}

// What strangers can cause, sign-ins with codes of their own, takes nothing
// from those who are signed in: a refresh doesn't queue behind it.
func TestStrangersDontHoldUpRefreshes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{})
		b := a.signIn("alice")
		time.Sleep(16 * time.Minute)
		heal := a.iss.Break("token:authorization_code", bfftest.Fault{Hang: true})
		for range 200 {
			stranger := a.browser()
			stranger.Navigate("/login")
			state := stranger.Page().URL.Query().Get("state")
			go stranger.Navigate("/auth/callback?code=x&state=" + state)
		}
		synctest.Wait()
		if r := b.Fetch("GET", "/api/x", nil, nil); r.Status != 200 {
			t.Errorf("a user whose token has expired: %v", r)
		}
		heal()
	})
}
