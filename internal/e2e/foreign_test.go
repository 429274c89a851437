package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// Pages of other origins, one of them on the same site, try what they can with
// a signed-in person's browser.
func TestForeignPages(t *testing.T) {
	w := tlsLane.start(t).withGateway(t)
	v := newVisit(t, w)
	tb := v.first()
	tb.signIn("alice")
	cookie := v.checkSessionCookie()

	blank := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Referrer-Policy", r.URL.Query().Get("policy"))
		fmt.Fprint(w, `<!doctype html><title>foreign</title><link rel=icon href="data:,"><p id=foreign>here</p>`)
	})
	for _, f := range []*front{w.stranger, w.sibling} {
		t.Run(f.name, func(t *testing.T) {
			f.handle(blank)
			defer func(parent *testing.T) { v.t, tb.t = parent, parent }(v.t)
			v.t, tb.t = t, t
			for _, policy := range []string{"strict-origin-when-cross-origin", "no-referrer"} {
				home := f.origin + "/?policy=" + policy
				calls := v.upstream.len()

				// Scripts: whatever they send, they neither read nor change.
				tb.goTo(home)
				for _, path := range []string{"/api/x", "/auth/session", "/whoami"} {
					for _, init := range []string{
						`{credentials: "include"}`,
						`{credentials: "include", headers: {"X-CSRF": "1"}}`,
						`{credentials: "include", method: "POST", body: "a=b", headers: {"Content-Type": "text/plain"}}`,
						`{credentials: "include", method: "DELETE", headers: {"X-CSRF": "1"}}`,
					} {
						if got := tb.fetch(w.app.origin+path, init); got.Error == "" {
							t.Errorf("fetch %s %s from %s could read the answer: %d", path, init, f.origin, got.Status)
						}
					}
					tb.fetch(w.app.origin+path, `{credentials: "include", mode: "no-cors"}`)
					tb.fetch(w.app.origin+path, `{credentials: "include", mode: "no-cors", method: "POST", body: "a=b"}`)
				}

				// Forms: a POST to the API, and the classic forced sign-out.
				for _, path := range []string{"/api/x", "/logout"} {
					tb.goTo(home)
					at := w.seen.len()
					run[bool](tb, fmt.Sprintf(`(() => {
						const form = document.createElement("form");
						form.method = "post";
						form.action = %s;
						document.body.append(form);
						setTimeout(() => form.submit());
						return true;
					})()`, quote(w.app.origin+path)))
					tb.await("leaving for "+path, fmt.Sprintf(`!document.querySelector("#foreign") && location.origin !== %s`, quote(f.origin)))
					for _, e := range w.seen.since(at) {
						if strings.HasPrefix(e.url, w.issuerAt.origin) {
							t.Errorf("a foreign form reached %s", v.blank(e.url))
						}
						for _, c := range e.respHeader.Values("Set-Cookie") {
							if name, _, _ := strings.Cut(c, "="); e.front == "app" && v.isSession(name) {
								t.Errorf("the answer to a foreign form, %s, sets the session cookie", e)
							}
						}
					}
				}
				// A link to the API is no proof either.
				tb.goTo(home)
				tb.leave(w.app.origin + "/api/export")
				tb.await("leaving for /api/export", fmt.Sprintf(`location.origin !== %s`, quote(f.origin)))

				if got := v.upstream.since(calls); len(got) != 0 {
					t.Errorf("%d requests from %s reached the upstream: %+v", len(got), f.origin, got[0].path)
				}
				if now := v.checkSessionCookie(); now.Value != cookie.Value {
					t.Error("the session cookie changed")
				}
			}
		})
	}

	// The person notices nothing of all that.
	tb.goTo(w.app.origin + "/")
	tb.awaitSPA("signed-in")
	if got := tb.api("/api/still-here"); got.Status != 200 {
		t.Errorf("the API afterwards = %d %s, want 200", got.Status, got.Body)
	}

	// A link from elsewhere to a protected page works: the cookie is Lax.
	tb.goTo(w.stranger.origin + "/")
	tb.leave(w.app.origin + "/whoami?linked")
	tb.awaitURL(w.app.origin + "/whoami?linked")
	if who := tb.whoami(); who.Sub != "alice" {
		t.Errorf("GET /whoami by a link from elsewhere = %+v", who)
	}
	if got := v.sent("app", "/whoami?linked").reqHeader.Get("Sec-Fetch-Site"); got != "cross-site" {
		t.Errorf("Sec-Fetch-Site %q, want cross-site: this test does not test what it says", got)
	}
}

// After a login nobody is led to another site, whatever returnUrl says.
func TestReturnURLStaysHere(t *testing.T) {
	w := tlsLane.start(t).withGateway(t)
	v := newVisit(t, w)
	tb := v.first()
	tb.signIn("alice")
	w.stranger.handle(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, `<!doctype html><title>stranger</title>`)
	}))
	for _, returnURL := range []string{
		w.stranger.origin + "/",
		"//" + strangerHost + "/",
		`/\` + strangerHost + "/",
		`\\` + strangerHost + "/",
		"/\t/" + strangerHost + "/",
		"https:" + strangerHost + "/",
		"javascript:document.title='x'",
		"/api/export?all=1",
		"/logout",
	} {
		v.forget(w.app.origin) // a new visitor each time: nobody signs in nine times a minute
		tb.goTo(w.app.origin + "/login?returnUrl=" + url.QueryEscape(returnURL))
		tb.awaitSPA("signed-in")
		if got := tb.url(); got != w.app.origin+"/" {
			t.Errorf("returnUrl %q leads to %s, want the default page", returnURL, v.blank(got))
		}
		if t.Failed() {
			break
		}
	}
	for _, e := range v.seen.since(v.seenAt) {
		if e.front == "stranger" {
			t.Errorf("the browser was led to %s", e.url)
		}
	}
	if n := len(v.upstream.since(v.callsAt)); n != 0 {
		t.Errorf("a returnUrl made %d requests to the upstream", n)
	}
}

// The upstream sees the token and none of the browser's authority; the browser
// sees the upstream's answer and none of its.
func TestProxyStripsBothWays(t *testing.T) {
	w := tlsLane.start(t).withGateway(t)
	v := newVisit(t, w)
	tb := v.first()
	tb.signIn("alice")
	cookie := v.checkSessionCookie()
	got := tb.fetch("/api/echo?a=1&b=2", `{method: "POST", body: "{}", headers: {
		"X-CSRF": "1", "Content-Type": "application/json", "Authorization": "Bearer mine"}}`)
	if got.Status != 200 {
		t.Fatalf("POST /api/echo = %d %s, want 200", got.Status, got.Body)
	}
	var said struct {
		Method, Path, Sub string
		Cookie            bool
	}
	decode(t, got.Body, &said)
	if said.Method != "POST" || said.Path != "/echo?a=1&b=2" || said.Sub != "alice" || said.Cookie {
		t.Errorf("the upstream saw %+v", said)
	}
	for name := range got.Header {
		if strings.HasPrefix(name, "access-control-") {
			t.Errorf("the upstream's %s came through", name)
		}
	}
	// Upstream sets a cookie of our name in each of its answers.
	if now := v.checkSessionCookie(); now.Value != cookie.Value {
		t.Error("the upstream replaced the session cookie")
	}
	if status := tb.api("/auth/session").Status; status != 200 {
		t.Errorf("GET /auth/session afterwards = %d, want 200", status)
	}
}
