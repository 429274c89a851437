package bff_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
)

// A csrfRow is a request with a valid session cookie and the evidence of where
// it comes from.
type csrfRow struct {
	name   string
	rule   string
	checks string // see TestMutants

	method string // GET if empty
	path   string
	header http.Header // beside the cookie; $TOKEN stands for the session's
	body   string
	config bff.Config
	status int  // want
	unread bool // the body is not looked at
}

func csrfRows() []csrfRow {
	const (
		ours  = "https://app.example.com"
		form  = "application/x-www-form-urlencoded"
		page  = "/form"         // Protect
		api   = "/api/x"        // Proxy
		files = "/files/x"      // Proxy with AllowNavigation
		me    = "/auth/session" // our own JSON
		out   = "/logout"
	)
	// h makes a header of names and values; a name may come twice.
	h := func(pairs ...string) http.Header {
		h := http.Header{}
		for i := 0; i < len(pairs); i += 2 {
			h.Add(pairs[i], pairs[i+1])
		}
		return h
	}
	fetch := func(site string, more ...string) http.Header {
		return h(append([]string{"Sec-Fetch-Site", site, "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"}, more...)...)
	}
	navigate := func(site string, more ...string) http.Header {
		return h(append([]string{"Sec-Fetch-Site", site, "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}, more...)...)
	}
	demanding := bff.Config{RequireCSRFToken: true}
	return []csrfRow{
		// No evidence: an unsafe method, and at the proxy and the JSON routes
		// every request, needs some (S5, S6, X95).
		{name: "nothing, GET of a page", rule: "7", path: page, status: 200},
		{name: "nothing, POST to a page", rule: "7, S5", checks: "proof", method: "POST", path: page, status: 403},
		{name: "nothing, an unknown method", rule: "7, X111", method: "PROPFIND", path: page, status: 403},
		{name: "nothing, GET of the API", rule: "7, S6", checks: "csrf", path: api, status: 403},
		{name: "nothing, HEAD of the API", rule: "7, S6", checks: "csrf", method: "HEAD", path: api, status: 403},
		{name: "nothing, OPTIONS of the API", rule: "D2", checks: "csrf", method: "OPTIONS", path: api, status: 403},
		{name: "nothing, POST to the API", rule: "7, S5", checks: "csrf", method: "POST", path: api, status: 403},
		{name: "nothing, GET of the session", rule: "7, S6", checks: "session-proof", path: me, status: 403},
		{name: "nothing, POST to the session", rule: "7", checks: "session-proof", method: "POST", path: me, status: 403},
		{name: "nothing, sign-out", rule: "D14, S199", checks: "logout-proof", method: "POST", path: out, status: 403},

		// What no foreign page can send without a preflight.
		{name: "X-CSRF, GET of the API", rule: "7, S21", path: api, header: h("X-CSRF", "1"), status: 200},
		{name: "X-CSRF, POST to a page", rule: "7, S21", method: "POST", path: page, header: h("X-CSRF", "1"), status: 200},
		{name: "X-CSRF, GET of the session", rule: "7, S21", path: me, header: h("X-CSRF", "1"), status: 200},
		{name: "X-CSRF empty", rule: "X95", checks: "csrf", method: "POST", path: api, header: h("X-CSRF", ""), status: 403},
		{name: "X-CSRF another value", rule: "X95", checks: "csrf", path: api, header: h("X-CSRF", "true"), status: 403},
		{name: "X-CSRF in the query", rule: "X95", checks: "csrf", path: api + "?X-CSRF=1&csrf_token=$TOKEN", status: 403},

		// Origin: ours alone, exactly (S13, S426, X97).
		{name: "our Origin, POST to the API", rule: "7", method: "POST", path: api, header: h("Origin", ours), status: 200},
		{name: "our Origin, GET of the session", rule: "7", path: me, header: h("Origin", ours), status: 200},
		{name: "a foreign Origin", rule: "X97", checks: "origin-foreign", method: "POST", path: api, header: h("Origin", "https://evil.example"), status: 403},
		{name: "a foreign Origin beside X-CSRF", rule: "D2, X97", checks: "origin-foreign", method: "DELETE", path: api, header: h("Origin", "https://blog.example.com", "X-CSRF", "1"), status: 403},
		{name: "a foreign Origin beside the token", rule: "D2", checks: "origin-foreign", method: "POST", path: page, header: h("Origin", "https://evil.example", "X-CSRF-Token", "$TOKEN"), status: 403},
		{name: "a foreign Origin beside same-origin", rule: "D2", checks: "origin-foreign", method: "POST", path: api, header: fetch("same-origin", "Origin", "https://evil.example"), status: 403},
		{name: "our Origin over http", rule: "S426, X97", checks: "origin-foreign", method: "POST", path: page, header: h("Origin", "http://app.example.com"), status: 403},
		{name: "our Origin at another port", rule: "X97", checks: "origin-foreign", method: "POST", path: page, header: h("Origin", ours+":8443"), status: 403},
		{name: "our Origin as a prefix", rule: "S467, X97", checks: "origin-foreign", method: "POST", path: page, header: h("Origin", ours+".evil.example"), status: 403},
		{name: "our Origin with a slash", rule: "RFC 6454 6.2", checks: "origin-foreign", method: "POST", path: page, header: h("Origin", ours+"/"), status: 403},
		{name: "two Origins", rule: "X97", checks: "origin-twice", method: "POST", path: page, header: h("Origin", ours, "Origin", "https://evil.example", "X-CSRF", "1"), status: 403},
		{name: "our Origin twice", rule: "X97", checks: "origin-twice", method: "POST", path: page, header: h("Origin", ours, "Origin", ours, "X-CSRF", "1"), status: 403},
		{name: "Origin null", rule: "X97", checks: "origin-null", method: "POST", path: page, header: h("Origin", "null"), status: 403},
		{name: "Origin null beside X-CSRF", rule: "D2, X97", checks: "origin-null", method: "POST", path: api, header: h("Origin", "null", "X-CSRF", "1"), status: 403},
		{name: "Origin null beside same-origin", rule: "measured: Referrer-Policy no-referrer", method: "POST", path: page, header: navigate("same-origin", "Origin", "null"), status: 200},

		// Fetch Metadata: same-origin alone (S13, X97).
		{name: "same-origin, GET of the API", rule: "7", path: api, header: fetch("same-origin"), status: 200},
		{name: "same-origin, POST to the API", rule: "7", method: "POST", path: api, header: fetch("same-origin", "Origin", ours), status: 200},
		{name: "an image of the API", rule: "7", path: api, header: h("Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"), status: 200},
		{name: "cross-site, GET of the API", rule: "X97", checks: "fetch-site", path: api, header: fetch("cross-site"), status: 403},
		{name: "same-site, GET of the API", rule: "S13, X97", checks: "fetch-site", path: api, header: fetch("same-site"), status: 403},
		{name: "same-site beside X-CSRF", rule: "D2, S13", checks: "fetch-site", method: "POST", path: api, header: fetch("same-site", "X-CSRF", "1"), status: 403},
		{name: "cross-site beside our Origin", rule: "D2", checks: "fetch-site", method: "POST", path: page, header: fetch("cross-site", "Origin", ours), status: 403},
		{name: "cross-site beside the token", rule: "D2", checks: "fetch-site", method: "POST", path: page, header: fetch("cross-site", "X-CSRF-Token", "$TOKEN"), status: 403},
		{name: "none beside X-CSRF", rule: "D2", checks: "fetch-site", method: "POST", path: page, header: fetch("none", "X-CSRF", "1"), status: 403},
		{name: "a word that is not in the standard", rule: "D2", checks: "fetch-site", method: "POST", path: page, header: fetch("Same-Origin"), status: 403},
		{name: "same-origin and cross-site", rule: "X97", checks: "fetch-site", method: "POST", path: page, header: fetch("same-origin", "Sec-Fetch-Site", "cross-site"), status: 403},
		{name: "cross-site, GET of a page", rule: "7: a link", path: page, header: navigate("cross-site"), status: 200},
		{name: "a foreign form", rule: "7, S5", checks: "csrf", method: "POST", path: page, header: navigate("cross-site", "Origin", "https://evil.example"), body: "a=b", status: 403},
		{name: "our own form", rule: "7", method: "POST", path: page, header: navigate("same-origin", "Origin", ours, "Content-Type", form), body: "a=b", status: 200},

		// A WebSocket of a page's own is a GET, which any page can open and then
		// read (D2, D12). There is no Fetch Metadata in it, only Origin.
		{name: "our WebSocket", rule: "7, D2", path: page, header: h("Origin", ours, "Connection", "Upgrade", "Upgrade", "websocket"), status: 200},
		{name: "a WebSocket from a sibling", rule: "7, D2, S333", checks: "socket-origin", path: page, header: h("Origin", "https://blog.example.com", "Connection", "Upgrade", "Upgrade", "websocket"), status: 403},
		{name: "a WebSocket among others", rule: "7, D2", checks: "socket-origin", path: page, header: h("Origin", "https://evil.example", "Connection", "Upgrade", "Upgrade", "h2c, WebSocket"), status: 403},
		{name: "a WebSocket without Origin", rule: "7, D2, X101", checks: "socket-origin", path: page, header: h("X-CSRF", "1", "Connection", "Upgrade", "Upgrade", "websocket"), status: 403},

		// A navigation proves nothing where scripts call (D3).
		{name: "a navigation within the site to the API", rule: "D3", checks: "navigate-no-proof", path: api, header: navigate("same-origin"), status: 403},
		{name: "a form of ours to the API", rule: "D3", checks: "navigate-no-proof", method: "POST", path: api, header: navigate("same-origin", "Origin", ours), status: 403},
		{name: "a navigation within the site to the session", rule: "D3", checks: "navigate-no-proof", path: me, header: navigate("same-origin"), status: 403},
		{name: "the session in the address bar", rule: "D3", checks: "csrf", path: me, header: navigate("none"), status: 403},
		{name: "a download within the site", rule: "D3", path: files, header: navigate("same-origin"), status: 200},
		{name: "a download in the address bar", rule: "D3", path: files, header: navigate("none"), status: 200},
		{name: "a link to a download on another site", rule: "D3", checks: "csrf", path: files, header: navigate("cross-site"), status: 403},
		{name: "a link to a download on a sibling", rule: "D3, S13", checks: "csrf", path: files, header: navigate("same-site"), status: 403},
		{name: "a form of ours to a download", rule: "D3", checks: "csrf", method: "POST", path: files, header: navigate("same-origin", "Origin", ours), status: 403},
		{name: "a download with a foreign Origin", rule: "D3", checks: "origin-foreign", path: files, header: navigate("none", "Origin", "https://evil.example"), status: 403},

		// The session's CSRF token, where there is nothing else.
		{name: "the token in the header", rule: "7, S31", method: "POST", path: api, header: h("X-CSRF-Token", "$TOKEN"), status: 200},
		{name: "another session's token", rule: "S31", checks: "csrf", method: "POST", path: page, header: h("X-CSRF-Token", "$OTHER"), status: 403},
		{name: "the token, cut short", rule: "S31", checks: "csrf", method: "POST", path: page, header: h("X-CSRF-Token", "A"), status: 403},
		{name: "the token in a form", rule: "D34", method: "POST", path: page, header: h("Content-Type", form), body: "a=b&csrf_token=$TOKEN", status: 200},
		{name: "another session's token in a form", rule: "D34, S31", checks: "csrf", method: "POST", path: page, header: h("Content-Type", form), body: "csrf_token=$OTHER", status: 403},
		{name: "the token in a form twice", rule: "D34", checks: "csrf", method: "POST", path: page, header: h("Content-Type", form), body: "csrf_token=$TOKEN&csrf_token=$TOKEN", status: 403},
		{name: "the token in the query of a form", rule: "D34, X95", checks: "csrf", method: "POST", path: page + "?csrf_token=$TOKEN", header: h("Content-Type", form), body: "a=b", status: 403},
		{name: "the token in a large form", rule: "D34", checks: "form-size", method: "POST", path: page, header: h("Content-Type", form), body: "csrf_token=$TOKEN&a=" + strings.Repeat("a", 64<<10), status: 403, unread: true},
		{name: "the token in a multipart form", rule: "D34", checks: "form-type", method: "POST", path: page, header: h("Content-Type", "multipart/form-data; boundary=x"), body: "--x\r\nContent-Disposition: form-data; name=\"csrf_token\"\r\n\r\n$TOKEN\r\n--x--\r\n", status: 403, unread: true},
		{name: "the token in a form to the API", rule: "D34", checks: "csrf", method: "POST", path: api, header: h("Content-Type", form), body: "csrf_token=$TOKEN", status: 403, unread: true},
		{name: "the token in a form to the sign-out", rule: "D34", method: "POST", path: out, header: h("Content-Type", form), body: "csrf_token=$TOKEN", status: 303},

		// The token, always.
		{name: "always: same-origin without the token", rule: "7", checks: "csrf-token", method: "POST", path: page, header: fetch("same-origin"), config: demanding, status: 403},
		{name: "always: X-CSRF without the token", rule: "7", checks: "csrf-token", method: "POST", path: api, header: h("X-CSRF", "1"), config: demanding, status: 403},
		{name: "always: sign-out without the token", rule: "7", checks: "csrf-token", method: "POST", path: out, header: fetch("same-origin"), config: demanding, status: 403},
		{name: "always: same-origin with the token", rule: "7", method: "POST", path: api, header: fetch("same-origin", "X-CSRF-Token", "$TOKEN"), config: demanding, status: 200},
		{name: "always: our form with the token", rule: "7", method: "POST", path: page, header: navigate("same-origin", "Content-Type", form), body: "csrf_token=$TOKEN", config: demanding, status: 200},
		{name: "always: the token from elsewhere", rule: "7", checks: "csrf", method: "POST", path: page, header: fetch("cross-site", "X-CSRF-Token", "$TOKEN"), config: demanding, status: 403},
		{name: "always: GET of the API", rule: "7", path: api, header: fetch("same-origin"), config: demanding, status: 200},

		// Protect around Proxy: a GET that Protect let pass has proved nothing.
		{name: "nested: GET without evidence", rule: "7", checks: "proof", path: "/nested/x", status: 403},
		{name: "nested: POST of ours", rule: "7", method: "POST", path: "/nested/x", header: fetch("same-origin"), status: 200},
		{name: "nested: POST from elsewhere", rule: "7", checks: "csrf", method: "POST", path: "/nested/x", header: fetch("cross-site"), status: 403},
	}
}

// Invariant 7: the first evidence that is present decides, and no positive one
// outweighs a negative (D2, D3, D14, D22, D34).
func TestCSRF(t *testing.T) {
	for _, row := range csrfRows() {
		t.Run(row.name, func(t *testing.T) {
			form := ""
			a := newApp(t, setup{config: row.config, mux: func(a *app, mux *http.ServeMux) {
				up := bff.Upstream{URL: "https://api.example.com/v1", Transport: bfftest.InProcess(map[string]http.Handler{"https://api.example.com": a.api})}
				up.StripPrefix = "/files"
				mux.Handle("/files/", a.auth.Proxy(up, bff.AllowNavigation()))
				up.StripPrefix = "/nested"
				mux.Handle("/nested/", a.auth.Protect(a.auth.Proxy(up)))
				mux.Handle("/form", a.auth.ProtectFunc(func(w http.ResponseWriter, r *http.Request) {
					body, _ := io.ReadAll(r.Body)
					form = string(body)
				}))
			}})
			b, other := a.signIn("alice"), a.signIn("bob")
			words := strings.NewReplacer("$TOKEN", session(t, b)["csrfToken"].(string), "$OTHER", session(t, other)["csrfToken"].(string))
			if row.method == "" {
				row.method = "GET"
			}
			body := words.Replace(row.body)
			sent := strings.NewReader(body)
			r, _ := http.NewRequest(row.method, words.Replace(row.path), sent)
			for name, values := range row.header {
				for _, v := range values {
					r.Header.Add(name, words.Replace(v))
				}
			}
			r.AddCookie(sessionCookie(t, b))
			w := &recorder{header: http.Header{}, status: 200}
			a.handler.ServeHTTP(w, r)
			if w.status != row.status {
				t.Fatalf("%s: %s %s with %v = %d %s, want %d", row.rule, row.method, row.path, row.header, w.status, w.body.String(), row.status)
			}
			if w.status != 403 {
				if row.path == "/form" && form != body {
					t.Errorf("the handler read %q of %q", form, body)
				}
				return
			}
			if w.header.Get("Bff-Reason") != "csrf" || len(w.header["Set-Cookie"]) > 0 || w.header.Get("Location") != "" {
				t.Errorf("403 with %v", w.header)
			}
			if row.unread && sent.Len() != len(body) {
				t.Error("the body was read before anybody was let in")
			}
			if a.api.hits() != 0 || form != "" {
				t.Error("it got through")
			}
			if r := b.Fetch("GET", "/page", nil, nil); r.Status != 200 {
				t.Errorf("afterwards: %v", r)
			}
		})
	}
}

// D22: without a session there is no authority to borrow, and the answer is
// 401, so that a signed-out frontend finds its way.
func TestNoSessionBeforeCSRF(t *testing.T) {
	a := newApp(t, setup{})
	b := a.browser()
	for _, value := range []string{"", "x", strings.Repeat("A", 76)} {
		if value != "" {
			b.SetCookie(&http.Cookie{Name: "__Host-Http-bff", Value: value})
		}
		for _, c := range []struct{ method, path string }{{"GET", "/api/x"}, {"POST", "/api/x"}, {"POST", "/page"}, {"GET", "/auth/session"}} {
			r := b.Fetch(c.method, c.path, nil, http.Header{"Origin": {"https://evil.example"}, "Sec-Fetch-Site": {"cross-site"}})
			if r.Status != 401 || r.Reason() != "no_session" || len(r.Header["Set-Cookie"]) > 0 {
				t.Errorf("%s %s with cookie %q = %v", c.method, c.path, value, r)
			}
		}
	}
}
