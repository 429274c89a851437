//go:build unix

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/storage"
	"github.com/chromedp/chromedp"

	"github.com/agglestone/bff/internal/testserver"
)

// promptly is how long after the issuer's word every tab and socket has heard
// of it, on whatever replica.
const promptly = time.Second

// Two browsers of one person, on two replicas with one Redis. The session ends
// at the issuer, which tells one replica; both tabs hear of it, and both
// WebSockets close.
func TestBackchannelLogout(t *testing.T) {
	t.Run("subject", func(t *testing.T) { testBackchannelLogout(t, "sub") })
	t.Run("session", func(t *testing.T) { testBackchannelLogout(t, "sid") })
}

func testBackchannelLogout(t *testing.T, kind string) {
	redis := testserver.StartRedis(t, testserver.RedisServer)
	w := privateWorld(t, kind)
	second, err := newFront("app", appHost, w.ca, &w.seen)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(second.close)
	for _, f := range []*front{w.app, second} {
		if err := w.startGateway(f, "BFF_STORE=redis://"+redis.Addr); err != nil {
			t.Fatal(err)
		}
	}
	visits := []*visit{newVisitAt(t, w, w.app), newVisitAt(t, w, second)}
	visits[0].first().signIn("alice")
	if kind == "sid" {
		// Both browsers have to be one session at the issuer.
		visits[1].copyCookies(visits[0], w.issuerAt.origin)
		tb := visits[1].first()
		tb.goTo(w.app.origin + "/")
		tb.awaitSPA("signed-out")
		tb.click("#sign-in")
		tb.awaitSPA("signed-in")
	} else {
		visits[1].first().signIn("alice")
	}
	// Somebody else stays signed in.
	bystander := newVisitAt(t, w, second)
	bystander.first().signIn("bob")
	for _, v := range append(visits, bystander) {
		v.first().watch()
		v.first().openSocket()
	}

	// In a tab of the first browser.
	tb := visits[0].newTab()
	tb.goTo(w.issuerAt.origin + "/session/end")
	tb.click("#confirm")
	tb.await("the issuer saying so", `document.querySelector("#issuer-signed-out")`)

	type times struct{ ended, closed heard }
	var got [2]times
	for i, v := range visits {
		tb := v.first()
		got[i] = times{tb.awaitHeard("ended"), tb.awaitHeard("closed")}
		if e := got[i].ended; e.Reason != "session_revoked" {
			t.Errorf("browser %d heard %+v, want session_revoked", i+1, e)
		}
		if c := got[i].closed; c.Code != 4401 || c.Reason != "session_revoked" {
			t.Errorf("browser %d's WebSocket closed with %d %s, want 4401 session_revoked", i+1, c.Code, c.Reason)
		}
		tb.awaitSPA("signed-out")
		tb.shot(fmt.Sprintf("browser-%d", i+1))
		if a := tb.api("/auth/session"); a.Status != 401 || a.Header["bff-reason"] != "session_revoked" {
			t.Errorf("browser %d: GET /auth/session = %d %s, want 401 session_revoked", i+1, a.Status, a.Header["bff-reason"])
		}
	}
	asked, told := w.began(t, "/session/end/confirm"), w.began(t, "/auth/backchannel-logout")
	for i, g := range got {
		for what, h := range map[string]heard{"events": g.ended, "WebSocket": g.closed} {
			t.Logf("browser %d, %s: %v after the person's click reached the issuer, %v after the issuer's request",
				i+1, what, h.when().Sub(asked).Round(time.Millisecond), h.when().Sub(told).Round(time.Millisecond))
			if late := h.when().Sub(told); late > promptly {
				t.Errorf("browser %d, %s: %v after the issuer's request, want at most %v", i+1, what, late, promptly)
			}
		}
	}

	if all := bystander.first().heard(); len(all) != 1 {
		t.Errorf("somebody else's tab heard %+v", all)
	}
	bystander.first().say("still there")
	if s := bystander.first().session(); s.Sub != "bob" {
		t.Errorf("somebody else's session is %+v", s)
	}
}

// began is when the one request for this path reached its front, which answered
// it with success or a redirect.
func (w *world) began(t *testing.T, path string) time.Time {
	t.Helper()
	var found []exchange
	for _, e := range w.seen.since(0) {
		if e.method == "POST" && strings.HasSuffix(e.url, path) {
			found = append(found, e)
		}
	}
	if len(found) != 1 || found[0].status >= 400 {
		t.Fatalf("POST %s: %v; want one, and successful", path, found)
	}
	return found[0].began
}

// openSocket has the page open a WebSocket to the API, and waits for its echo.
func (tb *tab) openSocket() {
	tb.t.Helper()
	if !run[bool](tb, `(() => {
		window.echoes = [];
		window.socket = new WebSocket(location.origin.replace("http", "ws") + "/api/echo");
		socket.onmessage = ({data}) => echoes.push(data);
		socket.onclose = ({code, reason}) => heard.push({what: "closed", code, reason, when: Date.now()});
		return new Promise((resolve) => { socket.onopen = () => resolve(true); socket.onerror = () => resolve(false); });
	})()`) {
		tb.t.Fatal("no WebSocket")
	}
	tb.say("hello")
}

// say sends text through the WebSocket and waits for it to come back.
func (tb *tab) say(text string) {
	tb.t.Helper()
	run[bool](tb, fmt.Sprintf(`socket.send(%s), true`, quote(text)))
	tb.await("the echo", fmt.Sprintf(`echoes.includes(%s)`, quote(text)))
}

// copyCookies takes over another browser's cookies for a host.
func (v *visit) copyCookies(from *visit, origin string) {
	v.t.Helper()
	var list []*network.CookieParam
	for _, c := range from.cookies(origin) {
		list = append(list, &network.CookieParam{
			Name: c.Name, Value: c.Value, URL: origin, Path: c.Path,
			Secure: c.Secure, HTTPOnly: c.HTTPOnly, SameSite: c.SameSite,
		})
	}
	ctx, cancel := context.WithTimeout(v.ctx, patience)
	defer cancel()
	if _, err := chromedp.CallBrowser(ctx, storage.SetCookies, storage.SetCookiesParams{Cookies: list}); err != nil {
		v.t.Fatal(err)
	}
}
