package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
)

// A person follows a deep link, signs in by submitting the issuer's form, and
// is where they wanted to be, #fragment and all. F5 changes nothing.
func TestSignIn(t *testing.T) {
	w := tlsLane.start(t).withGateway(t)
	v := newVisit(t, w)
	tb := v.first()
	deep := w.app.origin + "/orders/42?tab=items&q=a%20b#line-3"

	tb.goTo(deep)
	tb.awaitSPA("signed-out")
	tb.shot("signed-out")
	tb.click("#sign-in")
	tb.awaitIssuerForm()
	tb.shot("issuer")

	// What left for the issuer is what a code flow with PKCE sends.
	u, err := url.Parse(v.sent("issuer", "/auth?").url)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	for name, want := range map[string]string{
		"response_type":         "code",
		"client_id":             clientID,
		"redirect_uri":          w.callbackURL(),
		"code_challenge_method": "S256",
	} {
		if got := q.Get(name); got != want {
			t.Errorf("authorization request: %s = %q, want %q", name, got, want)
		}
	}
	for name, least := range map[string]int{"state": 22, "nonce": 22, "code_challenge": 43} {
		if got := len(q.Get(name)); got < least {
			t.Errorf("authorization request: %s has %d characters, want at least %d", name, got, least)
		}
	}
	attempts := v.checkAttemptCookies()
	if len(attempts) != 1 {
		t.Errorf("%d login-attempt cookies during a login, want 1", len(attempts))
	}

	tb.submitLogin("alice")
	tb.awaitSPA("signed-in")
	tb.awaitURL(deep)
	tb.shot("signed-in")
	if got := run[string](tb, `document.getElementById("who").textContent`); got != "Signed in as Alice Example (Admin, Staff)" {
		t.Errorf("the page says %q", got)
	}
	callback := v.sent("app", "/auth/callback?")
	if got := callback.reqHeader.Get("Sec-Fetch-Site"); got != "cross-site" {
		t.Errorf("the callback came with Sec-Fetch-Site %q, want cross-site: this test does not test the hard case", got)
	}
	before := v.checkSessionCookie()
	if left := v.checkAttemptCookies(); len(left) != 0 {
		t.Errorf("%d login-attempt cookies left after the login", len(left))
	}

	s := tb.session()
	if s.Sub != "alice" || fmt.Sprint(s.Groups) != "[Admin Staff]" || s.CSRFToken == "" {
		t.Errorf("GET /auth/session = %+v", s)
	}
	if d := time.Until(s.Session.IdleExpiresAt); d <= 0 || !s.Session.ExpiresAt.After(s.Session.IdleExpiresAt) {
		t.Errorf("GET /auth/session: idle until %v, at most until %v", s.Session.IdleExpiresAt, s.Session.ExpiresAt)
	}

	tb.reload()
	tb.awaitSPA("signed-in")
	tb.awaitURL(deep)
	tb.click("#call")
	tb.await("the API's answer", `document.getElementById("api").textContent.startsWith("200 ")`)
	tb.shot("api")
	calls := v.upstream.since(v.callsAt)
	if len(calls) != 1 || calls[0].path != "/orders?page=1" || calls[0].status != 200 {
		t.Errorf("the upstream got %+v, want one GET /orders?page=1 with a token that the issuer knows", calls)
	}

	// The protected page knows them too.
	tb.goTo(w.app.origin + "/whoami")
	who := tb.whoami()
	if who.Sub != "alice" || fmt.Sprint(who.Groups) != "[Admin Staff]" {
		t.Errorf("GET /whoami = %+v", who)
	}
	if got := v.sent("app", "/whoami").respHeader.Get("Cache-Control"); !strings.Contains(got, "no-store") {
		t.Errorf("GET /whoami: Cache-Control %q, want no-store", got)
	}
	if after := v.checkSessionCookie(); after.Value != before.Value {
		t.Error("the session cookie changed without a login")
	}
	stats := v.issuer.stats(t)
	if stats.Token["authorization_code"] != 1 || len(stats.TokenErrors) != 0 {
		t.Errorf("issuer: %d codes redeemed, errors %v; want 1 and none", stats.Token["authorization_code"], stats.TokenErrors)
	}
}

// A protected page leads through the login and back to itself; a fetch of the
// same page gets 401 and no redirect.
func TestProtectedPage(t *testing.T) {
	w := tlsLane.start(t).withGateway(t)
	v := newVisit(t, w)
	tb := v.first()

	tb.goTo(w.app.origin + "/")
	tb.awaitSPA("signed-out")
	got := tb.fetch("/whoami", `{headers: {"X-CSRF": "1"}, redirect: "manual"}`)
	if got.Status != 401 || got.Header["bff-reason"] != "no_session" {
		t.Errorf("fetch /whoami = %d %v, want 401 with BFF-Reason no_session", got.Status, got.Header)
	}
	for _, path := range []string{"/auth/session", "/api/orders"} {
		got := tb.api(path)
		if got.Status != 401 || !strings.HasPrefix(got.Header["content-type"], "application/problem+json") {
			t.Errorf("fetch %s = %d %q, want 401 application/problem+json", path, got.Status, got.Header["content-type"])
		}
		var problem struct {
			Status   int    `json:"status"`
			Reason   string `json:"reason"`
			LoginURL string `json:"loginUrl"`
		}
		if err := json.Unmarshal([]byte(got.Body), &problem); err != nil {
			t.Errorf("fetch %s: %v in %s", path, err, got.Body)
		}
		if problem.Status != 401 || problem.Reason != "no_session" || problem.LoginURL == "" || got.Header["bff-reason"] != "no_session" {
			t.Errorf("fetch %s: problem %+v, BFF-Reason %q", path, problem, got.Header["bff-reason"])
		}
	}
	if n := len(v.upstream.since(v.callsAt)); n != 0 {
		t.Errorf("%d requests reached the upstream without a session", n)
	}

	tb.goTo(w.app.origin + "/whoami?x=1")
	tb.submitLogin("bob")
	tb.awaitURL(w.app.origin + "/whoami?x=1")
	if who := tb.whoami(); who.Sub != "bob" || fmt.Sprint(who.Groups) != "[Staff]" {
		t.Errorf("GET /whoami = %+v", who)
	}
	tb.shot("whoami")
}

// When the access token expires, the API goes on answering, with one token
// request for one expiry, however many requests come at once.
func TestAPIAcrossExpiries(t *testing.T) {
	w := tlsLane.start(t).withGateway(t)
	v := newVisit(t, w)
	tb := v.first()
	tb.signIn("alice")

	const parallel = 8
	burst := func() {
		t.Helper()
		got := run[[]int](tb, fmt.Sprintf(`Promise.all(Array.from({length: %d}, async (_, i) => {
			const res = await fetch("/api/item/" + i, {headers: {"X-CSRF": "1"}});
			await res.text();
			return res.status;
		}))`, parallel))
		for i, status := range got {
			if status != 200 {
				t.Errorf("request %d of a burst = %d, want 200", i, status)
			}
		}
	}
	burst()
	refreshes := func() int { return v.issuer.stats(t).Token["refresh_token"] }
	for round := 1; round <= 2; round++ {
		s := tb.session()
		if !s.AccessToken.Renewable {
			t.Error("GET /auth/session: accessToken.renewable is false, with a refresh token there")
		}
		awaitTime(t, s.AccessToken.ExpiresAt)
		burst()
		if got := refreshes(); got != round {
			t.Errorf("%d refreshes after %d expiries, want as many", got, round)
		}
		if next := tb.session().AccessToken.ExpiresAt; !next.After(s.AccessToken.ExpiresAt) {
			t.Errorf("accessToken.expiresAt is still %v", next)
		}
	}
	tb.shot("after-two-expiries")

	used := map[string]bool{}
	for _, c := range v.upstream.since(v.callsAt) {
		used[c.token] = true
		if c.status != 200 {
			t.Errorf("%s %s: the issuer did not know the token", c.method, c.path)
		}
	}
	stats := v.issuer.stats(t)
	if len(used) != 1+stats.Token["refresh_token"] {
		t.Errorf("%d access tokens used, %d refreshes", len(used), stats.Token["refresh_token"])
	}
	if len(stats.TokenErrors) != 0 || stats.GrantsRevoked != 0 {
		t.Errorf("issuer: errors %v, %d grants revoked; want none", stats.TokenErrors, stats.GrantsRevoked)
	}

	// A protected page needs a live session as well, and a reload after an
	// expiry is still this session.
	awaitTime(t, tb.session().AccessToken.ExpiresAt)
	tb.goTo(w.app.origin + "/whoami")
	if who := tb.whoami(); who.Sub != "alice" {
		t.Errorf("GET /whoami after an expiry = %+v", who)
	}
}

// Two tabs start a login at once. Both finish, one session is left, and its
// tokens live: dropping the first session must not have ended the grant that
// both share at this issuer.
func TestTwoTabs(t *testing.T) {
	w := tlsLane.start(t).withGateway(t)
	v := newVisit(t, w)
	one, two := v.first(), v.newTab()
	for _, tb := range []*tab{one, two} {
		tb.goTo(w.app.origin + "/")
		tb.awaitSPA("signed-out")
	}
	one.leave("/login?returnUrl=" + url.QueryEscape("/tab?n=1#one"))
	two.leave("/login?returnUrl=" + url.QueryEscape("/tab?n=2#two"))
	one.awaitIssuerForm()
	two.awaitIssuerForm()
	if got := len(v.checkAttemptCookies()); got != 2 {
		t.Errorf("%d login-attempt cookies with two logins under way, want 2", got)
	}

	two.submitLogin("alice")
	two.awaitSPA("signed-in")
	two.awaitURL(w.app.origin + "/tab?n=2#two")
	first := v.checkSessionCookie()

	one.submitLogin("alice")
	one.awaitSPA("signed-in")
	one.awaitURL(w.app.origin + "/tab?n=1#one")
	second := v.checkSessionCookie()
	if first.Value == second.Value {
		t.Error("the second login kept the session ID of the first")
	}
	one.shot("one")
	two.shot("two")

	for _, tb := range []*tab{one, two} {
		tb.reload()
		tb.awaitSPA("signed-in")
	}
	awaitTime(t, one.session().AccessToken.ExpiresAt)
	for _, tb := range []*tab{two, one} {
		if got := tb.api("/api/after-expiry"); got.Status != 200 {
			t.Errorf("the API after both logins and an expiry = %d %s, want 200", got.Status, got.Body)
		}
	}
	if stats := v.issuer.stats(t); len(stats.TokenErrors) != 0 || stats.GrantsRevoked != 0 || stats.Token["refresh_token"] != 1 {
		t.Errorf("issuer: %d refreshes, errors %v, %d grants revoked; want 1, none, none",
			stats.Token["refresh_token"], stats.TokenErrors, stats.GrantsRevoked)
	}
}

// With the issuer's own session alive, a second sign-in is made of redirects
// only. The session of before is not what comes back.
func TestSignInByRedirectsOnly(t *testing.T) {
	w := tlsLane.start(t).withGateway(t)
	v := newVisit(t, w)
	tb := v.first()
	tb.signIn("alice")
	old := v.checkSessionCookie()
	tb.click("#sign-out-here")
	tb.awaitSPA("signed-out")
	v.checkNoSessionCookie()
	v.awaitRevocation() // it ends the grant, which a quicker login would share

	v.issuer.reset(t)
	at := w.seen.len()
	tb.goTo(w.app.origin + "/whoami?again")
	tb.awaitURL(w.app.origin + "/whoami?again")
	if who := tb.whoami(); who.Sub != "alice" {
		t.Errorf("GET /whoami = %+v", who)
	}
	tb.shot("by-redirects")
	hops := 0
	for _, e := range w.seen.since(at) {
		if e.front != "issuer" {
			continue
		}
		hops++
		if e.status < 300 || e.status > 399 {
			t.Errorf("%s: single sign-on showed a page", e)
		}
	}
	if hops == 0 {
		t.Error("the issuer was not asked at all")
	}
	if stats := v.issuer.stats(t); stats.Interactions != 0 || stats.Token["authorization_code"] != 1 {
		t.Errorf("issuer: %d forms, %d codes redeemed; want 0 and 1", stats.Interactions, stats.Token["authorization_code"])
	}
	if fresh := v.checkSessionCookie(); fresh.Value == old.Value {
		t.Error("the new login has the old session ID")
	}
	awaitTime(t, tb.session().AccessToken.ExpiresAt)
	if got := tb.api("/api/after-expiry"); got.Status != 200 {
		t.Errorf("the API after single sign-on and an expiry = %d %s, want 200", got.Status, got.Body)
	}
}

// A login while signed in (an expired page, a bookmark of /login) makes a new
// session and ends the old one; what the issuer has for both is one grant.
func TestLoginWhileSignedIn(t *testing.T) {
	w := tlsLane.start(t).withGateway(t)
	v := newVisit(t, w)
	tb := v.first()
	tb.signIn("alice")
	old := v.checkSessionCookie()
	tb.goTo(w.app.origin + "/login?returnUrl=" + url.QueryEscape("/again"))
	tb.awaitURL(w.app.origin + "/again")
	tb.awaitSPA("signed-in")
	fresh := v.checkSessionCookie()
	if fresh.Value == old.Value {
		t.Fatal("the second login kept the session ID")
	}
	awaitTime(t, tb.session().AccessToken.ExpiresAt)
	if got := tb.api("/api/after-expiry"); got.Status != 200 {
		t.Errorf("the API after the second login and an expiry = %d %s, want 200", got.Status, got.Body)
	}
	// The old cookie opens nothing any more.
	if status := v.withCookie(old, "/auth/session"); status != 401 {
		t.Errorf("the old session's cookie: GET /auth/session = %d, want 401", status)
	}
}

// A callback URL that comes again, from history or a restored tab, neither
// redeems anything nor disturbs who is signed in.
func TestCallbackAgain(t *testing.T) {
	w := tlsLane.start(t).withGateway(t)
	v := newVisit(t, w)
	tb := v.first()
	tb.signIn("alice")
	callback := v.sent("app", "/auth/callback?").url
	cookie := v.checkSessionCookie()
	v.issuer.reset(t)

	tb.goTo(callback)
	tb.awaitSPA("signed-in")
	tb.shot("signed-in-again")
	if got := tb.url(); strings.Contains(got, "/auth/callback") || strings.Contains(got, "code=") {
		t.Errorf("a used callback, while signed in, ends at %s; want a safe page", v.blank(got))
	}
	if after := v.checkSessionCookie(); after.Value != cookie.Value {
		t.Error("a used callback changed the session")
	}

	// Somebody else's browser, or this one after signing out.
	tb.click("#sign-out-here")
	tb.awaitSPA("signed-out")
	v.awaitRevocation()
	v.issuer.reset(t)
	tb.goTo(callback)
	tb.await("an error page of the app", `document.readyState === "complete" && location.pathname === "/auth/callback"`)
	tb.shot("error")
	again := v.sent("app", "/auth/callback?")
	if again.status != 400 {
		t.Errorf("a used callback, signed out = %d, want 400", again.status)
	}
	links := run[[]string](tb, `Array.from(document.querySelectorAll("a[href]"), (a) => a.href)`)
	if !strings.Contains(strings.Join(links, " "), w.app.origin+"/login") {
		t.Errorf("the error page links to %v, want a way to try again", links)
	}
	v.checkNoSessionCookie()
	if stats := v.issuer.stats(t); len(stats.Token) != 0 || len(stats.TokenErrors) != 0 {
		t.Errorf("a used callback asked the issuer for tokens: %v, %v", stats.Token, stats.TokenErrors)
	}

	// The way that the page offers works.
	for _, link := range links {
		if strings.HasPrefix(link, w.app.origin+"/login") {
			tb.goTo(link)
			tb.awaitSPA("signed-in")
			break
		}
	}
}

// An error from the issuer is told in the app's own words.
func TestIssuerSaysNo(t *testing.T) {
	w := tlsLane.start(t).withGateway(t)
	v := newVisit(t, w)
	tb := v.first()
	tb.goTo(w.app.origin + "/login?returnUrl=/")
	tb.awaitIssuerForm()
	authorize, err := url.Parse(v.sent("issuer", "/auth?").url)
	if err != nil {
		t.Fatal(err)
	}
	const text = "words+of+a+stranger"
	tb.goTo(w.callbackURL() + "?error=access_denied&error_description=" + text +
		"&state=" + url.QueryEscape(authorize.Query().Get("state")) + "&iss=" + url.QueryEscape(w.issuerAt.origin))
	tb.shot("denied")
	denied := v.sent("app", "/auth/callback?")
	if denied.status < 400 || denied.status > 499 {
		t.Errorf("access_denied = %d, want 4xx", denied.status)
	}
	if strings.Contains(denied.respBody, strings.ReplaceAll(text, "+", " ")) || strings.Contains(denied.respBody, text) {
		t.Error("the page repeats the error_description")
	}
	v.checkNoSessionCookie()
}

// who is what /whoami says.
type who struct {
	Sub    string   `json:"sub"`
	Groups []string `json:"groups"`
}

// whoami reads the page that the tab shows.
func (tb *tab) whoami() who {
	tb.t.Helper()
	var w who
	text := run[string](tb, `document.body.innerText`)
	if err := json.Unmarshal([]byte(text), &w); err != nil {
		tb.t.Errorf("/whoami shows %q: %v", text, err)
	}
	return w
}

// sent is the last request of this visit's browser to a front, by the beginning
// of its path.
func (v *visit) sent(front, prefix string) exchange {
	v.t.Helper()
	list := v.seen.since(v.seenAt)
	for i := len(list) - 1; i >= 0; i-- {
		e := list[i]
		if u, err := url.Parse(e.url); err == nil && e.front == front && strings.HasPrefix(u.RequestURI(), prefix) {
			return e
		}
	}
	v.t.Fatalf("the browser sent nothing like %s to the %s", prefix, front)
	return exchange{}
}

// sessionCookieName is the specification's text, not the code's.
func (v *visit) sessionCookieName() string {
	if v.tls {
		return "__Host-Http-bff"
	}
	return "bff"
}

func (v *visit) isAttempt(name string) bool {
	return strings.HasPrefix(name, v.sessionCookieName()+"-login-")
}

// isSession allows for the port in a loopback name.
func (v *visit) isSession(name string) bool {
	if v.tls {
		return name == v.sessionCookieName()
	}
	port := strings.TrimPrefix(v.app.addr, "127.0.0.1:")
	return name == "bff" || name == "bff-"+port
}

// checkSessionCookie has exactly one session cookie in Chromium's store, with
// everything that protects it.
func (v *visit) checkSessionCookie() *network.Cookie {
	v.t.Helper()
	var found []*network.Cookie
	for _, c := range v.cookies(v.app.origin) {
		if v.isSession(c.Name) {
			found = append(found, c)
		}
	}
	if len(found) != 1 {
		v.t.Fatalf("%d session cookies in the browser's store, want 1", len(found))
	}
	v.checkFlags(found[0])
	return found[0]
}

func (v *visit) checkNoSessionCookie() {
	v.t.Helper()
	for _, c := range v.cookies(v.app.origin) {
		if v.isSession(c.Name) {
			v.t.Errorf("cookie %s is still in the browser's store", c.Name)
		}
	}
}

// checkAttemptCookies checks and returns the cookies of logins under way.
func (v *visit) checkAttemptCookies() []*network.Cookie {
	v.t.Helper()
	var found []*network.Cookie
	for _, c := range v.cookies(v.app.origin) {
		if !v.isAttempt(c.Name) && !(strings.Contains(c.Name, "-login-") && !v.tls) {
			continue
		}
		found = append(found, c)
		v.checkFlags(c)
		if left := time.Until(time.Unix(int64(c.Expires), 0)); c.Session || left > 15*time.Minute+time.Second {
			v.t.Errorf("cookie %s lives for another %v, want 15 minutes at most", c.Name, left)
		}
	}
	return found
}

// checkFlags is about every cookie of ours.
func (v *visit) checkFlags(c *network.Cookie) {
	v.t.Helper()
	if !c.HTTPOnly {
		v.t.Errorf("cookie %s: scripts can read it", c.Name)
	}
	if c.Secure != v.tls {
		v.t.Errorf("cookie %s: Secure = %v, want %v", c.Name, c.Secure, v.tls)
	}
	if c.SameSite != network.CookieSameSiteLax {
		v.t.Errorf("cookie %s: SameSite = %q, want Lax", c.Name, c.SameSite)
	}
	if c.Path != "/" {
		v.t.Errorf("cookie %s: Path = %q, want /", c.Name, c.Path)
	}
	if strings.HasPrefix(c.Domain, ".") {
		v.t.Errorf("cookie %s: Domain = %q, want none (host-only)", c.Name, c.Domain)
	}
}

// withCookie makes a request from outside any browser, with one cookie.
func (v *visit) withCookie(c *network.Cookie, path string) int {
	v.t.Helper()
	req, err := newRequest(v.t, "GET", v.app.origin+path)
	if err != nil {
		v.t.Fatal(err)
	}
	req.Header.Set("Cookie", c.Name+"="+c.Value)
	req.Header.Set("X-CSRF", "1")
	resp, err := v.client().Do(req)
	if err != nil {
		v.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// awaitTime waits for a moment to pass that a server has named: an expiry, not
// a guess at how long something takes. The servers speak in whole seconds, so
// the one that they name has to be over.
func awaitTime(t *testing.T, when time.Time) {
	t.Helper()
	d := time.Until(when) + time.Second + 50*time.Millisecond
	if when.IsZero() || d > 2*accessTTL*time.Second {
		t.Fatalf("the access token expires at %v, in %v; want some %d s", when, d, accessTTL)
	}
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}
