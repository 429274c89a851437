package bff_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
	"github.com/agglestone/bff/store/memstore"
)

// endSession returns the parameters with which a sign-out went to the issuer.
func endSession(t *testing.T, a *app, location string) url.Values {
	t.Helper()
	base, query, _ := strings.Cut(location, "?")
	if base != a.iss.URL()+"/endsession" {
		t.Fatalf("sign-out leads to %s, want the end-session endpoint", base)
	}
	q, err := url.ParseQuery(query)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// RP-Initiated Logout 1.0, section 2: S196-S202, S267.
func TestSignOut(t *testing.T) {
	for _, c := range []struct {
		name   string
		issuer bfftest.Options
		config bff.Config
		hint   bool
		local  string // where it ends without an end-session endpoint
	}{
		{name: "complete", hint: true},
		{name: "no-revocation", issuer: bfftest.Options{NoRevocation: true}, hint: true},
		{name: "no-hint-by-choice", config: bff.Config{OmitIDTokenHint: true}},
		{name: "documented-service", issuer: bfftest.Options{NoEndSession: true, NoRevocation: true}, local: appURL + "/"},
		{name: "own-page", issuer: bfftest.Options{NoEndSession: true}, config: bff.Config{PostLogoutURL: appURL + "/bye"}, local: appURL + "/bye"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newApp(t, setup{issuer: c.issuer, config: c.config})
			b := a.signIn("alice")
			cookie := sessionCookie(t, b)
			b.Post("/logout", nil)
			var first bfftest.Hop
			for _, h := range b.Hops() {
				if h.URL.Path == "/logout" {
					first = h
				}
			}
			location := first.Header.Get("Location")
			if first.Status != 303 { // S53, S172
				t.Fatalf("POST /logout = %d", first.Status)
			}
			if c.local != "" {
				if location != c.local {
					t.Errorf("leads to %s, want %s", location, c.local)
				}
			} else {
				q := endSession(t, a, location)
				if q.Get("client_id") != a.iss.ClientID() || q.Get("post_logout_redirect_uri") != appURL+"/" || q.Get("state") == "" {
					t.Errorf("end-session request has %v", q)
				}
				if got := q.Get("id_token_hint") != ""; got != c.hint {
					t.Errorf("id_token_hint sent: %v, want %v", got, c.hint)
				}
			}
			// Gone, whatever the thief kept (S198, S307).
			thief := a.browser()
			thief.SetCookie(cookie)
			if r := thief.Fetch("GET", "/page", nil, nil); r.Status != 401 || r.Reason() != "signed_out" {
				t.Errorf("the old cookie = %v", r)
			}
			if c.issuer.NoRevocation {
				return
			}
			eventually(t, "the grant is revoked", func() bool { return a.iss.LiveGrants() == 0 })
		})
	}
}

// A script can't follow a redirect to another origin, and must not see the hint.
func TestSignOutByScript(t *testing.T) {
	a := newApp(t, setup{})
	for _, h := range []http.Header{
		{"Accept": {"application/json"}},
		{}, // Sec-Fetch-Mode says it
		{"Accept": {"application/json"}, "Sec-Fetch-Mode": nil, "Sec-Fetch-Dest": nil, "Sec-Fetch-Site": nil},
	} {
		b := a.signIn("alice")
		r := b.Fetch("POST", "/logout", nil, h)
		var out map[string]string
		if r.Status != 200 || r.JSON(&out) != nil || len(out) != 1 {
			t.Fatalf("POST /logout with %v = %v", h, r)
		}
		q := endSession(t, a, out["redirectUrl"])
		if q.Has("id_token_hint") || q.Get("client_id") == "" {
			t.Errorf("redirectUrl has %v", q)
		}
		if r := b.Fetch("GET", "/page", nil, nil); r.Status != 401 {
			t.Errorf("afterwards = %v", r)
		}
	}
}

// Signing out twice is no error, and the second time changes nothing (S195).
func TestSignOutTwice(t *testing.T) {
	a := newApp(t, setup{})
	b := a.signIn("alice")
	cookie := sessionCookie(t, b)
	signOut(b)
	for _, keep := range []bool{false, true} {
		if keep {
			b.SetCookie(cookie)
		}
		r := signOut(b)
		var out map[string]string
		if r.Status != 200 || r.JSON(&out) != nil || out["redirectUrl"] != appURL+"/" || len(r.Header["Set-Cookie"]) > 0 {
			t.Errorf("second POST /logout = %v %v", r, r.Header)
		}
	}
}

// D14, S199, X115: nobody else can sign a user out, here or at the issuer, with
// or without the session cookie coming along.
func TestSignOutFromElsewhere(t *testing.T) {
	a := newApp(t, setup{})
	b := a.signIn("alice")
	b.Serve("https://evil.test", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	b.Navigate("https://evil.test/")
	if r := b.Post(appURL+"/logout", nil); r.Status != 403 || r.Reason() != "csrf" || len(r.Header["Set-Cookie"]) > 0 || r.Header.Get("Location") != "" {
		t.Errorf("a foreign form = %v %v", r, r.Header)
	}
	for _, method := range []string{"GET", "HEAD"} {
		b.Fetch(method, "/logout", nil, http.Header{"Sec-Fetch-Site": {"cross-site"}, "Sec-Fetch-Dest": {"image"}, "Sec-Fetch-Mode": {"no-cors"}})
	}
	b.Fetch("GET", "/logout", nil, http.Header{"Sec-Purpose": {"prefetch"}})
	b.Click(appURL + "/logout")
	if r := b.Fetch("GET", "/page", nil, nil); r.Status != 200 {
		t.Errorf("the session = %v", r)
	}
	if a.iss.Count("endsession")+a.iss.Count("revoke") != 0 {
		t.Error("the issuer heard of it")
	}
}

// The page behind GET /logout signs out by a button and changes nothing itself;
// it can be switched off.
func TestSignOutPage(t *testing.T) {
	for _, cfg := range []bff.Config{{}, {RequireCSRFToken: true}} {
		a := newApp(t, setup{config: cfg})
		b := a.signIn("alice")
		if r := b.Navigate("/logout"); r.Status != 200 || !strings.Contains(string(r.Body), "<button>") {
			t.Fatalf("GET /logout = %v", r)
		}
		if r := b.Fetch("GET", "/page", nil, nil); r.Status != 200 {
			t.Errorf("GET /logout changed something: %v", r)
		}
		b.Submit(nil)
		if r := b.Fetch("GET", "/page", nil, nil); r.Status != 401 {
			t.Errorf("after the button: %v, %v", b.Page(), r)
		}
	}
	a := newApp(t, setup{config: bff.Config{NoLogoutPage: true}})
	if r := a.browser().Navigate("/logout"); r.Status != 405 || r.Header.Get("Allow") != "POST" {
		t.Errorf("GET /logout, switched off = %v", r)
	}
}

// A sign-out never fails because the issuer does.
func TestSignOutWithIssuerDown(t *testing.T) {
	a := newApp(t, setup{})
	b := a.signIn("alice")
	a.iss.Down(true)
	if r := signOut(b); r.Status != 200 {
		t.Errorf("POST /logout = %v", r)
	}
	if r := b.Fetch("GET", "/page", nil, nil); r.Status != 401 {
		t.Errorf("afterwards = %v", r)
	}
	a.iss.Down(false)
	eventually(t, "the grant is revoked once the issuer is back", func() bool { return a.iss.LiveGrants() == 0 })
}

// D18: for an hour the cookie of a session that was ended gets the reason.
func TestReasonLastsAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{})
		b := a.signIn("alice")
		cookie := sessionCookie(t, b)
		signOut(b)
		b.SetCookie(cookie)
		time.Sleep(59 * time.Minute)
		if r := b.Fetch("GET", "/page", nil, nil); r.Status != 401 || r.Reason() != "signed_out" {
			t.Errorf("after 59 minutes: %v, want signed_out", r)
		}
		time.Sleep(2 * time.Minute)
		if r := b.Fetch("GET", "/page", nil, nil); r.Status != 401 || r.Reason() == "signed_out" {
			t.Errorf("after 61 minutes: %v, want another reason", r)
		}
	})
}

// RP-Initiated Logout 1.0, sections 2 and 4: an ID token that has expired is
// still a hint. And an issuer that hangs when a token is to be revoked delays
// nobody.
func TestSignOutMuchLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{issuer: bfftest.Options{NoIDTokenOnRefresh: true}})
		b := a.signIn("alice")
		for range 4 {
			time.Sleep(25 * time.Minute)
			page(t, b, "GET")
		}
		heal := a.iss.Break("revoke", bfftest.Fault{Hang: true})
		start := time.Now()
		b.Post("/logout", nil)
		if took := time.Since(start); took > 0 {
			t.Errorf("it took %v", took)
		}
		sent := false
		for _, h := range b.Hops() {
			if h.URL.Path != "/logout" {
				continue
			}
			hint := strings.Split(endSession(t, a, h.Header.Get("Location")).Get("id_token_hint"), ".")
			var claims struct{ Exp int64 }
			if len(hint) == 3 {
				payload, _ := base64.RawURLEncoding.DecodeString(hint[1])
				json.Unmarshal(payload, &claims)
			}
			sent = claims.Exp > 0 && claims.Exp < time.Now().Unix()
		}
		if !sent || a.iss.Sessions() != 0 {
			t.Errorf("an expired hint was sent: %v; %d sessions at the issuer", sent, a.iss.Sessions())
		}
		heal()
		time.Sleep(time.Minute)
		if n := a.iss.LiveGrants(); n != 0 {
			t.Errorf("%d live grants a minute later", n)
		}
	})
}

// A store that ends the session and doesn't get to say so: the sign-out is told
// of and goes on, to the revocation and the issuer.
func TestSignOutWithAnUnclearAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := &trail{}
		store := &hookedStore{Store: memstore.New(memstore.Options{})}
		a := newApp(t, setup{config: bff.Config{Store: store, OnEvent: tr.add}})
		b := a.signIn("alice")
		tr.take()
		store.set(func(op string, do func() error) error {
			err := do()
			if op == "End" {
				return errStore
			}
			return err
		})
		r := signOut(b)
		store.set(nil)
		var out struct{ RedirectURL string }
		if r.JSON(&out) != nil || !strings.HasPrefix(out.RedirectURL, a.iss.URL()+"/endsession?") {
			t.Errorf("POST /logout = %v %s", r, r.Body)
		}
		if list := tr.take(); len(list) != 1 || list[0].Kind != bff.SessionEnded || list[0].Reason != bff.SignedOut {
			t.Errorf("events %+v, want one session_ended", list)
		}
		synctest.Wait()
		if n := a.iss.LiveGrants(); n != 0 {
			t.Errorf("%d live grants", n)
		}

		// One that doesn't end it is no sign-out.
		b = a.signIn("alice")
		store.set(func(op string, do func() error) error {
			if op == "End" {
				return errStore
			}
			return do()
		})
		if r := signOut(b); r.Status != 503 {
			t.Errorf("POST /logout = %v, want 503", r)
		}
		store.set(nil)
		if !signedIn(t, b) {
			t.Error("the session has ended")
		}
	})
}

// The way back from the issuer (S203, S268, S269): the state decides whether
// the place that the sign-out asked for is led to, and is never one itself.
func TestLoggedOut(t *testing.T) {
	iss := bfftest.NewIssuer(bfftest.Options{Clients: []bfftest.Client{{ID: "web", PostLogoutURIs: []string{appURL + "/auth/logged-out"}}}})
	a := newApp(t, setup{at: iss, config: bff.Config{PostLogoutURL: appURL + "/auth/logged-out", DefaultReturnURL: "/home"}})
	for _, c := range []struct{ name, logout, back, want string }{
		{"as asked", "?returnUrl=/bye", "", "/bye"},
		{"by default", "", "", "/home"},
		{"elsewhere", "?returnUrl=https://evil.example/", "", "/home"},
		{"no state", "?returnUrl=/bye", "/auth/logged-out", "/home"},
		{"another state", "?returnUrl=/bye", "/auth/logged-out?state=AAAAAAAAAAAAAAAAAAAAAAAAAA", "/home"},
		{"a short state", "?returnUrl=/bye", "/auth/logged-out?state=A", "/home"},
		{"a place as state", "?returnUrl=/bye", "/auth/logged-out?state=//evil.example", "/home"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := a.signIn("alice")
			r := b.Fetch("POST", "/logout"+c.logout, nil, nil)
			var out struct{ RedirectURL string }
			if r.JSON(&out) != nil {
				t.Fatal(r)
			}
			q := endSession(t, a, out.RedirectURL)
			back := c.back
			if back == "" {
				back = "/auth/logged-out?state=" + q.Get("state")
			}
			led := func(to string) (location string) {
				b.Navigate(to)
				for _, h := range b.Hops() {
					if h.URL.Path == "/auth/logged-out" {
						location = h.Header.Get("Location")
					}
				}
				return location
			}
			if got := led(back); got != c.want {
				t.Errorf("leads to %q, want %q", got, c.want)
			}
			if led("/auth/logged-out?state="+q.Get("state")) != "/home" {
				t.Error("the state works twice")
			}
		})
	}
}

// Signing out only here leaves the issuer's session alone.
func TestSignOutOnlyHere(t *testing.T) {
	a := newApp(t, setup{})
	b := a.signIn("alice")
	r := b.Fetch("POST", "/logout?onlyHere=1&returnUrl=/bye", nil, nil)
	var out struct{ RedirectURL string }
	if r.JSON(&out) != nil || out.RedirectURL != "/bye" {
		t.Errorf("leads to %q", out.RedirectURL)
	}
	if signedIn(t, b) || a.iss.Sessions() != 1 {
		t.Errorf("signed in here: %v, %d sessions at the issuer", signedIn(t, b), a.iss.Sessions())
	}
}

// Fallbacks for the hint (S201, S202, S205): one that is too long is left out,
// and logout_hint says who it was.
func TestSignOutHints(t *testing.T) {
	a := newApp(t, setup{config: bff.Config{LogoutHint: "email"}})
	a.iss.Break("token", claim("pad", strings.Repeat("x", 7000)))
	b := a.signIn("alice")
	b.Post("/logout", nil)
	for _, h := range b.Hops() {
		if h.URL.Path == "/logout" {
			q := endSession(t, a, h.Header.Get("Location"))
			if q.Has("id_token_hint") || q.Get("logout_hint") != "alice@example.com" || q.Get("client_id") == "" {
				t.Errorf("end-session request has %v", q)
			}
		}
	}
}

// RFC 7009: the access token goes, too, where that is asked for.
func TestRevokeAccessToken(t *testing.T) {
	a := newApp(t, setup{config: bff.Config{RevokeAccessToken: true}})
	b := a.signIn("alice")
	signOut(b)
	eventually(t, "both tokens are revoked", func() bool { return a.iss.Count("revoke") == 2 })
}

// A replica that has just started signs out as completely as any: it asks for
// the issuer's metadata if it has to, but doesn't wait long for that.
func TestSignOutAtAFreshReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		apps, at := fleet(t, 4, setup{})
		iss := apps[0].iss
		b := apps[0].signIn("alice")
		r := at(1, b).Fetch("POST", "/logout", nil, http.Header{"Accept": {"application/json"}})
		var out struct{ RedirectURL string }
		if r.JSON(&out) != nil || !strings.HasPrefix(out.RedirectURL, iss.URL()+"/endsession?") {
			t.Errorf("POST /logout = %v %s, want the issuer's end-session endpoint", r, r.Body)
		}
		synctest.Wait()
		if n := iss.Count("revoke"); n != 1 {
			t.Errorf("%d revocations, want 1", n)
		}

		b = apps[0].signIn("bob")
		heal := iss.Break("discovery", bfftest.Fault{Hang: true})
		start := time.Now()
		r = at(2, b).Fetch("POST", "/logout", nil, http.Header{"Accept": {"application/json"}})
		if r.JSON(&out) != nil || out.RedirectURL != appURL+"/" || time.Since(start) > 3*time.Second {
			t.Errorf("with an issuer that hangs: %v %s after %v", r, r.Body, time.Since(start))
		}
		if signedIn(t, b) {
			t.Error("the session lives")
		}
		heal()
		time.Sleep(time.Minute)
		if n := iss.Count("revoke"); n != 2 {
			t.Errorf("%d revocations once the issuer is back, want 2", n)
		}
	})
}
