package e2e

import (
	"fmt"
	"testing"
)

// The same way through plain http on 127.0.0.1, as during development: cookies
// without prefix and Secure, everything else alike.
func TestLoopback(t *testing.T) {
	w := loopbackLane.start(t).withGateway(t)
	v := newVisit(t, w)
	tb := v.first()
	deep := w.app.origin + "/orders/7#top"
	tb.goTo(deep)
	tb.awaitSPA("signed-out")
	tb.click("#sign-in")
	tb.awaitIssuerForm()
	if got := len(v.checkAttemptCookies()); got != 1 {
		t.Errorf("%d login-attempt cookies during a login, want 1", got)
	}
	tb.submitLogin("alice")
	tb.awaitSPA("signed-in")
	tb.awaitURL(deep)
	tb.shot("signed-in")
	v.checkSessionCookie()

	for range 2 {
		awaitTime(t, tb.session().AccessToken.ExpiresAt)
		if got := tb.api("/api/x"); got.Status != 200 {
			t.Errorf("GET /api/x after an expiry = %d %s, want 200", got.Status, got.Body)
		}
	}
	if stats := v.issuer.stats(t); stats.Token["refresh_token"] != 2 || len(stats.TokenErrors) != 0 {
		t.Errorf("issuer: %d refreshes, errors %v; want 2 and none", stats.Token["refresh_token"], stats.TokenErrors)
	}
	tb.goTo(w.app.origin + "/whoami")
	if who := tb.whoami(); who.Sub != "alice" || fmt.Sprint(who.Groups) != "[Admin Staff]" {
		t.Errorf("GET /whoami = %+v", who)
	}

	tb.goTo(w.app.origin + "/")
	tb.awaitSPA("signed-in")
	tb.click("#sign-out-button")
	tb.await("the issuer's sign-out page", `document.querySelector("#confirm")`)
	tb.click("#confirm")
	tb.awaitSPA("signed-out")
	v.checkNoSessionCookie()
	tb.shot("signed-out")
}
