package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

func newRequest(t *testing.T, method, to string) (*http.Request, error) {
	return http.NewRequestWithContext(t.Context(), method, to, nil)
}

// Signing out by a form goes through the issuer's end-session page and comes
// back. After that neither the back button nor the old cookie shows anything.
func TestSignOutByForm(t *testing.T) {
	w := tlsLane.start(t).withGateway(t)
	v := newVisit(t, w)
	tb := v.first()
	tb.signIn("alice")
	secretPage := w.app.origin + "/whoami?secret"
	tb.goTo(secretPage)
	tb.whoami()
	spa := w.app.origin + "/account"
	tb.goTo(spa)
	tb.awaitSPA("signed-in")
	tb.click("#call")
	tb.await("the API's answer", `document.getElementById("api").textContent.startsWith("200 ")`)
	tb.shot("before")
	old := v.checkSessionCookie()

	tb.click("#sign-out-button")
	tb.await("the issuer's sign-out page", fmt.Sprintf(
		`location.origin === %s && document.querySelector("#confirm")`, quote(w.issuerAt.origin)))
	tb.shot("issuer-asks")

	out := v.sent("app", "/logout")
	if out.method != "POST" || out.status != 303 {
		t.Errorf("%s; want POST and 303", out)
	}
	end, err := url.Parse(out.respHeader.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	if got := end.Scheme + "://" + end.Host + end.Path; got != w.issuerAt.origin+"/session/end" {
		t.Errorf("sign-out leads to %s, want the issuer's end_session_endpoint", got)
	}
	q := end.Query()
	if q.Get("id_token_hint") == "" || q.Get("client_id") != clientID || q.Get("post_logout_redirect_uri") != w.postLogoutURL() {
		t.Errorf("end-session request: hint of %d characters, client_id %q, post_logout_redirect_uri %q",
			len(q.Get("id_token_hint")), q.Get("client_id"), q.Get("post_logout_redirect_uri"))
	}
	// The local session went first, before the person said yes.
	v.checkNoSessionCookie()
	if status := v.withCookie(old, "/auth/session"); status != 401 {
		t.Errorf("the old cookie while the issuer still asks: GET /auth/session = %d, want 401", status)
	}
	v.awaitRevocation()

	tb.click("#confirm")
	tb.awaitSPA("signed-out")
	if got := tb.url(); !strings.HasPrefix(got, w.postLogoutURL()) {
		t.Errorf("back at %s, want %s", v.blank(got), w.postLogoutURL())
	}
	tb.shot("signed-out")
	if got := v.issuer.stats(t).EndSessions; got != 1 {
		t.Errorf("the issuer ended %d sessions, want 1", got)
	}
	if n := len(v.checkAttemptCookies()); n != 0 {
		t.Errorf("%d login-attempt cookies after signing out", n)
	}

	// Back to the frontend's page: nobody is signed in there.
	tb.back(spa)
	tb.await("the page from history", `location.pathname === "/account"`)
	tb.awaitSPA("signed-out")
	tb.shot("back-to-frontend")
	if text := run[string](tb, `document.documentElement.outerHTML`); strings.Contains(text, "Alice") || strings.Contains(text, "alice") {
		t.Errorf("the page from history names the person who signed out:\n%s", text)
	}

	// Back to the protected page: it is asked for again, and leads to the
	// issuer's form, since that session is over as well.
	at := w.seen.len()
	tb.back(secretPage)
	tb.awaitIssuerForm()
	tb.shot("back-to-protected")
	asked := false
	for _, e := range w.seen.since(at) {
		if e.front == "app" && strings.HasSuffix(e.url, "/whoami?secret") {
			asked = asked || e.status == 302
		}
	}
	if !asked {
		t.Error("the protected page came out of a cache")
	}

	// A second sign-out has nothing to end and is no error.
	tb.goTo(spa)
	tb.awaitSPA("signed-out")
	again := tb.fetch("/logout", `{method: "POST", headers: {"X-CSRF": "1", "Accept": "application/json"}}`)
	if again.Status != 200 {
		t.Errorf("a second sign-out = %d %s, want 200", again.Status, again.Body)
	}
}

// Signing out by fetch answers where to go, without the hint, and is effective
// at once, in every tab.
func TestSignOutByFetch(t *testing.T) {
	w := tlsLane.start(t).withGateway(t)
	v := newVisit(t, w)
	tb, other := v.first(), v.newTab()
	tb.signIn("alice")
	other.goTo(w.app.origin + "/other")
	other.awaitSPA("signed-in")
	old := v.checkSessionCookie()

	got := tb.fetch("/logout", `{method: "POST", headers: {"X-CSRF": "1", "Accept": "application/json"}}`)
	var to struct {
		RedirectURL string `json:"redirectUrl"`
	}
	if err := json.Unmarshal([]byte(got.Body), &to); got.Status != 200 || err != nil {
		t.Fatalf("POST /logout by fetch = %d %s (%v), want 200 and JSON", got.Status, got.Body, err)
	}
	u, err := url.Parse(to.RedirectURL)
	if err != nil {
		t.Fatal(err)
	}
	if u.Scheme+"://"+u.Host+u.Path != w.issuerAt.origin+"/session/end" || u.Query().Has("id_token_hint") {
		t.Errorf("redirectUrl = %s; want the end_session_endpoint without id_token_hint", v.blank(to.RedirectURL))
	}
	v.checkNoSessionCookie()
	if status := v.withCookie(old, "/auth/session"); status != 401 {
		t.Errorf("the old cookie: GET /auth/session = %d, want 401", status)
	}
	if got := other.api("/api/x"); got.Status != 401 {
		t.Errorf("another tab's API call after sign-out = %d, want 401", got.Status)
	}

	tb.goTo(to.RedirectURL)
	tb.click("#confirm")
	tb.awaitSPA("signed-out")
	if got := tb.url(); !strings.HasPrefix(got, w.postLogoutURL()) {
		t.Errorf("back at %s, want %s", v.blank(got), w.postLogoutURL())
	}
	if got := v.issuer.stats(t).EndSessions; got != 1 {
		t.Errorf("the issuer ended %d sessions, want 1", got)
	}
}

// A person who answers the issuer's question with no is signed out here all
// the same, and the issuer knows them still.
func TestSignOutHereOnly(t *testing.T) {
	w := tlsLane.start(t).withGateway(t)
	v := newVisit(t, w)
	tb := v.first()
	tb.signIn("bob")
	tb.click("#sign-out-button")
	tb.await("the issuer's sign-out page", `document.querySelector("#stay")`)
	tb.click("#stay")
	tb.awaitSPA("signed-out")
	v.checkNoSessionCookie()
	tb.goTo(w.app.origin + "/whoami")
	tb.awaitURL(w.app.origin + "/whoami")
	if who := tb.whoami(); who.Sub != "bob" {
		t.Errorf("GET /whoami = %+v", who)
	}
}

// awaitRevocation waits until the issuer was told, which may happen in the
// background, and expects that it was told once.
func (v *visit) awaitRevocation() {
	v.t.Helper()
	for deadline := time.Now().Add(patience); v.issuer.stats(v.t).Revocations == 0 && time.Now().Before(deadline); {
		time.Sleep(30 * time.Millisecond)
	}
	if got := v.issuer.stats(v.t).Revocations; got != 1 {
		v.t.Errorf("%d requests to the revocation endpoint, want 1", got)
	}
}

func decode(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
}
