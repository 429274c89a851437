package bff_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
)

// A proxyRow is one thing that a client or an upstream tries.
type proxyRow struct {
	name   string
	rule   string
	checks string // see TestMutants
	target string // as in the request line
	path   string // what the API gets; empty: nothing, and 400 or 404
}

func proxyPaths() []proxyRow {
	return []proxyRow{
		{name: "plain", target: "/api/x?a=b", path: "/v1/x?a=b"},
		{name: "the prefix alone", target: "/api", path: "/v1"},
		{name: "a slash at the end", target: "/api/x/", path: "/v1/x/"},
		{name: "escapes stay", rule: "S8", target: "/api/a%20b/%C3%A4?q=%2F%3B", path: "/v1/a%20b/%C3%A4?q=%2F%3B"},
		{name: "sub-delimiters stay", target: "/api/a+b:c@d,e=f$", path: "/v1/a+b:c@d,e=f$"},
		{name: "an absolute target", rule: "S7, S456", target: "http://evil.example/api/x", path: "/v1/x"},
		{name: "dot segments", rule: "S429, X50", checks: "target-path", target: "/api/../admin"},
		{name: "dot segments that stay inside", rule: "S428", checks: "target-path", target: "/api/a/../b"},
		{name: "a dot segment", rule: "S428", checks: "target-path", target: "/api/./x"},
		{name: "escaped dot segments", rule: "S428, S429", checks: "target-path", target: "/api/%2e%2e/admin"},
		{name: "half-escaped dot segments", rule: "S428", checks: "target-path", target: "/api/.%2e/admin"},
		{name: "escaped slashes", rule: "S429, X53", checks: "target-path", target: "/api/..%2f..%2fadmin"},
		{name: "an escaped slash", rule: "S8", checks: "target-path", target: "/api/a%2Fb"},
		{name: "escaped backslashes", rule: "S8, X55", checks: "target-path", target: "/api/..%5c..%5cadmin"},
		{name: "backslashes", rule: "S8, X55", checks: "target-path", target: `/api/..\..\admin`},
		{name: "a parameter", rule: "S8, X57", checks: "target-path", target: "/api/..;/admin"},
		{name: "an escaped parameter", rule: "S8, X57", checks: "target-path", target: "/api/..%3b/admin"},
		{name: "a parameter of the prefix", rule: "S8, X57", target: "/api;x/y"},
		{name: "a NUL", rule: "S8, X59", checks: "target-path", target: "/api/x%00.png"},
		{name: "a line feed", rule: "S8, X59", checks: "target-path", target: "/api/%0d%0aX:1"},
		{name: "a DEL", rule: "S8, X59", checks: "target-path", target: "/api/%7f"},
		{name: "an escape of an escape", rule: "S8", checks: "target-path", target: "/api/%252e%252e/admin"},
		{name: "an empty segment", rule: "S8", checks: "target-path", target: "/api//evil.example/x"},
		{name: "an escaped fragment", rule: "S475, X61", target: "/api/x%23/y", path: "/v1/x%23/y"},
		{name: "no such prefix", rule: "S7", target: "/other/x"},
		{name: "a path that begins like the prefix", rule: "S7", target: "/apix/y"},
		{name: "a semicolon in the query", rule: "S430, X117", checks: "target-query", target: "/api/x?a=1;b=2"},
		{name: "a broken escape in the query", rule: "S430", checks: "target-query", target: "/api/x?a=%zz"},
		{name: "a cut escape in the query", rule: "S430", checks: "target-query", target: "/api/x?a=%2"},
		{name: "a query that parsers read alike", target: "/api/x?a=1&a=2&b", path: "/v1/x?a=1&a=2&b"},
	}
}

// Invariant 12: the path that the upstream gets is the one that was asked for,
// below its base, or there is no request at all (S8, S428, S429, S430).
func TestProxyPaths(t *testing.T) {
	for _, row := range proxyPaths() {
		t.Run(row.name, func(t *testing.T) {
			a := newApp(t, setup{})
			b := a.signIn("alice")
			up := bff.Upstream{URL: "https://api.example.com/v1", StripPrefix: "/api", Transport: bfftest.InProcess(map[string]http.Handler{"https://api.example.com": a.api})}
			u, err := url.ParseRequestURI(row.target) // as net/http reads a request line
			if err != nil {
				t.Fatal(err)
			}
			r := &http.Request{Method: "GET", URL: u, RequestURI: row.target, Host: u.Host, Header: http.Header{"X-Csrf": {"1"}}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, RemoteAddr: "192.0.2.7:1234"}
			r.AddCookie(sessionCookie(t, b))
			w := &recorder{header: http.Header{}, status: 200}
			a.auth.Proxy(up).ServeHTTP(w, r.WithContext(t.Context()))
			if row.path == "" {
				if a.api.hits() != 0 || w.status != 400 && w.status != 404 {
					t.Errorf("%s: %s = %d, and the API got %d requests", row.rule, row.target, w.status, a.api.hits())
				}
				return
			}
			if w.status != 200 || a.api.hits() != 1 {
				t.Fatalf("%s = %d %s", row.target, w.status, w.body.String())
			}
			if got := a.api.last(); got.RequestURI != row.path || got.Host != "api.example.com" {
				t.Errorf("%s became %s at %s, want %s", row.target, got.RequestURI, got.Host, row.path)
			}
		})
	}
}

// S11, S12, S44, S103, S420-S422, S471-S473, X99, X103, X105: what the browser
// sends of credentials and of what proxies say stays here.
func TestProxyRequestHeaders(t *testing.T) {
	a := newApp(t, setup{api: bff.Upstream{Cookies: []string{"theme", "__Host-Http-bff", "__Host-Http-bff-signins"}}})
	b := a.signIn("alice")
	b.SetCookie(&http.Cookie{Name: "theme", Value: "dark"})
	b.SetCookie(&http.Cookie{Name: "other", Value: "sentinel"})
	h := http.Header{
		"Connection":   {"Authorization, X-Forwarded-For, X-Csrf, close"},
		"X-Request-Id": {"passes"}, "Content-Type": {"text/plain"}, "If-None-Match": {`"passes"`}, "Te": {"trailers"},
	}
	for _, name := range []string{
		"Authorization", "Proxy-Authorization", "Dpop", "Forwarded", "Via", "Client-Ip", "True-Client-Ip", "Remote-User", "X-Http-Method-Override",
		"X-Forwarded-User", "X-Forwarded-Uri", "X-Forwarded-Prefix", "X-Forwarded-Client-Cert", "X-Real-Ip", "X-Original-Url", "X-Rewrite-Url",
		"X-Auth-Request-Email", "X-Remote-User", "X-User", "X-User-Id", "X-Client-Cert", "X-Ssl-Client-Cert", "X-Envoy-External-Address",
		"Cf-Connecting-Ip", "X-Authenticated-Userid", "X-Groups", "Ssl-Client-Verify",
		"X_user", "X_forwarded_user", "Remote_user", "Authorization_", "X-Forwarded_user", "Any_name",
		"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto",
	} {
		h[name] = []string{"sentinel"}
	}
	h["Bff-Passive"] = []string{"1"}
	if r := b.Fetch("PUT", "/api/x", strings.NewReader("body"), h); r.Status != 200 {
		t.Fatal(r)
	}
	got := a.api.last()
	for name, values := range got.Header {
		if strings.Contains(strings.Join(values, ","), "sentinel") {
			t.Errorf("the API got %s: %q", name, values)
		}
	}
	want := http.Header{
		"X-Request-Id": {"passes"}, "If-None-Match": {`"passes"`}, "Cookie": {"theme=dark"},
		"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Host": {"app.example.com"}, "X-Forwarded-Proto": {"https"},
		"X-Csrf": nil, "Bff-Passive": nil, "Connection": nil, "Te": {"trailers"},
	}
	for name, values := range want {
		if !slices.Equal(got.Header[name], values) {
			t.Errorf("the API got %s: %q, want %q", name, got.Header[name], values)
		}
	}
	if auth := got.Header["Authorization"]; len(auth) != 1 || !slices.Contains(a.iss.Secrets(), strings.TrimPrefix(auth[0], "Bearer ")) {
		t.Errorf("the API got Authorization %q, want the session's token", auth)
	}
	if got.Method != "PUT" || a.api.bodies[0] != "body" {
		t.Errorf("the API got %s %q", got.Method, a.api.bodies[0])
	}
}

// S477, S485: nothing but a session is a session, and the API hears of nobody
// else.
func TestProxyWithoutSession(t *testing.T) {
	a := newApp(t, setup{})
	for _, h := range []http.Header{
		nil, {"Authorization": {"Bearer x"}}, {"User-Agent": {"kube-probe/1.30"}}, {"X-Forwarded-Uri": {"/public"}}, {"X-Forwarded-User": {"admin"}},
	} {
		if r := a.browser().Fetch("GET", "/api/x?/public/", nil, h); r.Status != 401 || r.Reason() != "no_session" {
			t.Errorf("with %v = %v", h, r)
		}
	}
	if a.api.hits() != 0 {
		t.Error("the API was called")
	}
	optional := newApp(t, setup{apiOpt: []bff.Option{bff.Optional()}})
	if r := optional.browser().Fetch("GET", "/api/x", nil, http.Header{"Authorization": {"Bearer x"}}); r.Status != 200 {
		t.Errorf("optional = %v", r)
	}
	if got := optional.api.last(); got.Header["Authorization"] != nil || got.Header["Cookie"] != nil {
		t.Errorf("the API got %v", got.Header)
	}
}

// S26, X111: methods that would show the request, or open a tunnel.
func TestProxyMethods(t *testing.T) {
	a := newApp(t, setup{})
	b := a.signIn("alice")
	for method, want := range map[string]int{"TRACE": 405, "CONNECT": 405, "PROPFIND": 405, "PATCH": 200, "DELETE": 200} {
		before := a.api.hits()
		w := a.get(method, "/api/x", http.Header{"X-Csrf": {"1"}}, sessionCookie(t, b))
		if w.status != want || (a.api.hits() > before) != (want == 200) {
			t.Errorf("%s = %d, want %d", method, w.status, want)
		}
	}
}

// S10, S14, S423, S424, X171: what an upstream may not do on our origin, in the
// answer, in an informational one before it, and in trailers after it.
func TestProxyResponseHeaders(t *testing.T) {
	evil := []string{
		"__Host-Http-bff=evil; Path=/; Secure; HttpOnly", "__host-http-bff-login-x=evil; Path=/", " __Host-Http-bff =evil", "__Host-x=evil; Path=/; Secure",
		"__Secure-x=evil; Secure", "other=evil",
	}
	for _, allow := range [][]string{nil, {"pref", "__Host-Http-bff", "__host-http-bff-login-x", "__Host-x", "__Secure-x"}} {
		a := newApp(t, setup{api: bff.Upstream{SetCookies: allow}})
		spoil := func(h http.Header) {
			h["Set-Cookie"] = append(slices.Clone(evil), "pref=dark")
			for _, name := range []string{
				"Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Access-Control-Anything", "Clear-Site-Data", "Strict-Transport-Security",
				"Www-Authenticate", "Proxy-Authenticate", "Service-Worker-Allowed", "Bff-Reason", "Refresh", "Set-Cookie2", "Authorization", "Alt-Svc", "Nel", "Report-To",
			} {
				h.Set(name, "evil")
			}
		}
		a.api.set(func(w http.ResponseWriter, r *http.Request) {
			h := w.Header()
			spoil(h)
			h.Set("Link", "</style.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			h.Del("Link")
			h.Set("X-Passes", "yes")
			h.Set("Trailer", "Announced, Set-Cookie, Clear-Site-Data")
			io.WriteString(w, "body")
			w.(http.Flusher).Flush()
			h.Set("Announced", "yes")
			for _, name := range []string{"Set-Cookie", "Clear-Site-Data", "Access-Control-Allow-Origin"} {
				h.Set(http.TrailerPrefix+name, "other=evil")
				h.Set(name, "other=evil")
			}
			h.Set(http.TrailerPrefix+"Unannounced", "yes")
		})
		b := a.signIn("alice")
		var early []http.Header
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
			early = append(early, http.Header(h).Clone())
			return nil
		}})
		req, _ := http.NewRequestWithContext(ctx, "GET", appURL+"/api/x", nil)
		res, err := b.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil || string(body) != "body" || res.Header.Get("X-Passes") != "yes" {
			t.Errorf("%q, %v, %v", body, err, res.Header)
		}
		if len(early) != 1 || early[0].Get("Link") == "" {
			t.Errorf("informational answers: %v", early)
		}
		if res.Trailer.Get("Announced") != "yes" || res.Trailer.Get("Unannounced") != "yes" {
			t.Errorf("trailers: %v", res.Trailer)
		}
		var cookies []string
		if allow != nil {
			cookies = []string{"pref=dark"}
		}
		for where, h := range map[string]http.Header{"the answer": res.Header, "an informational answer": early[0], "the trailers": res.Trailer} {
			want := cookies
			if where == "the trailers" {
				want = nil
			}
			if !slices.Equal(h["Set-Cookie"], want) {
				t.Errorf("%s sets %q, want %q", where, h["Set-Cookie"], want)
			}
			for name, values := range h {
				if strings.Contains(strings.Join(values, ","), "evil") {
					t.Errorf("%s has %s: %q", where, name, values)
				}
			}
		}
	}
}

// S371, S469, X173, D33: answers are no-store, unless the upstream is stricter
// or the route's configuration says otherwise.
func TestProxyCache(t *testing.T) {
	for _, cache := range []bool{false, true} {
		a := newApp(t, setup{api: bff.Upstream{Cache: cache}})
		b := a.signIn("alice")
		for sent, want := range map[string]string{"": "no-store", "public, max-age=600": "no-store", "private": "no-store", "Private, No-Store": "Private, No-Store"} {
			a.api.set(func(w http.ResponseWriter, r *http.Request) {
				if sent != "" {
					w.Header().Set("Cache-Control", sent)
				}
			})
			if cache {
				want = sent
			}
			if got := b.Fetch("GET", "/api/x", nil, nil).Header.Get("Cache-Control"); got != want {
				t.Errorf("with Cache %v, %q became %q, want %q", cache, sent, got, want)
			}
		}
	}
}

// tunnel is an upstream on a socket that switches protocols whatever it is
// asked, and echoes from then on.
type tunnel struct {
	*httptest.Server
	mu   sync.Mutex
	seen []http.Header
	// unasked switches though nobody asked, without a word to what.
	unasked bool
}

func newTunnel(t *testing.T) *tunnel {
	tn := &tunnel{}
	tn.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tn.mu.Lock()
		tn.seen = append(tn.seen, r.Header.Clone())
		unasked := tn.unasked
		tn.mu.Unlock()
		protocol := r.Header.Get("Upgrade")
		if protocol == "" && !unasked {
			io.WriteString(w, "no upgrade")
			return
		}
		conn, buffered, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n")
		if protocol != "" {
			io.WriteString(conn, "Connection: Upgrade\r\nUpgrade: "+protocol+"\r\n")
		}
		io.WriteString(conn, "Set-Cookie: __Host-Http-bff=evil\r\n\r\n")
		io.Copy(conn, buffered)
	}))
	t.Cleanup(tn.Close)
	return tn
}

func (tn *tunnel) last() http.Header {
	tn.mu.Lock()
	defer tn.mu.Unlock()
	if len(tn.seen) == 0 {
		return nil
	}
	return tn.seen[len(tn.seen)-1]
}

type upgradeRow struct {
	name      string
	rule      string
	checks    string
	websocket bool // the route admits it
	unasked   bool
	header    string
	status    int // 101: and it echoes; 200: as an ordinary request
}

func upgradeRows() []upgradeRow {
	const (
		ours = "Origin: https://app.example.com\r\n"
		ws   = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
		csrf = "X-CSRF: 1\r\n"
	)
	return []upgradeRow{
		{name: "websocket with our Origin", rule: "D12", websocket: true, header: ws + ours, status: 101},
		{name: "websocket without an Origin", rule: "X101", checks: "websocket-origin", websocket: true, header: ws + csrf, status: 403},
		{name: "websocket with Origin null", rule: "X101", checks: "websocket-origin", websocket: true, header: ws + "Origin: null\r\nSec-Fetch-Site: same-origin\r\n", status: 403},
		{name: "websocket with a foreign Origin", rule: "S333, S507, X101", checks: "websocket-origin,origin-foreign", websocket: true, header: ws + "Origin: https://evil.example\r\n" + csrf, status: 403},
		{name: "websocket with a sibling's Origin", rule: "X101", checks: "websocket-origin,origin-foreign", websocket: true, header: ws + "Origin: https://blog.example.com\r\n" + csrf, status: 403},
		{name: "websocket with our Origin over http", rule: "S426", checks: "websocket-origin,origin-foreign", websocket: true, header: ws + "Origin: http://app.example.com\r\n" + csrf, status: 403},
		{name: "websocket with two Origins", rule: "X101", checks: "websocket-origin,origin-twice", websocket: true, header: ws + ours + "Origin: https://evil.example\r\n" + csrf, status: 403},
		{name: "websocket where it isn't enabled", rule: "D12", checks: "upgrade-header", header: ws + ours, status: 200},
		{name: "h2c", rule: "D12, S425, S518", checks: "upgrade-header", websocket: true, header: "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n" + ours + csrf, status: 200},
		{name: "websocket or h2c", rule: "D12", checks: "upgrade-header", websocket: true, header: "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n" + ours + csrf, status: 200},
		{name: "websocket and h2c", rule: "D12", checks: "upgrade-header", websocket: true, header: "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n" + ours + csrf, status: 200},
		{name: "websocket that Connection doesn't name", rule: "RFC 9110 7.8", websocket: true, header: "Connection: keep-alive, x-upgrade\r\nUpgrade: websocket\r\n" + csrf, status: 200},
		{name: "a protocol of their own", rule: "D12", checks: "upgrade-header", websocket: true, header: "Connection: Upgrade\r\nUpgrade: shell\r\n" + ours + csrf, status: 200},
		{name: "an upstream that switches unasked", rule: "D12, S425", checks: "upgrade", websocket: true, unasked: true, header: csrf, status: 502},
	}
}

// D12, S333, S425, S426: of upgrades only WebSocket exists, where it is enabled,
// from our own origin; any other is not forwarded, whatever proof the request
// has.
func TestUpgrades(t *testing.T) {
	for _, row := range upgradeRows() {
		t.Run(row.name, func(t *testing.T) {
			tn := newTunnel(t)
			tn.unasked = row.unasked
			a := newApp(t, setup{mux: func(a *app, mux *http.ServeMux) {
				mux.Handle("/ws/", a.auth.Proxy(bff.Upstream{URL: tn.URL, WebSocket: row.websocket}))
			}})
			b := a.signIn("alice")
			srv := httptest.NewServer(a.handler)
			defer srv.Close()
			conn, err := net.Dial("tcp", srv.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			fmt.Fprintf(conn, "GET /ws/x HTTP/1.1\r\nHost: app.example.com\r\nCookie: %s=%s\r\n%s\r\n", "__Host-Http-bff", sessionCookie(t, b).Value, row.header)
			in := bufio.NewReader(conn)
			res, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != row.status || res.Header.Get("Set-Cookie") != "" {
				body, _ := io.ReadAll(res.Body)
				t.Fatalf("%s: %d %v %s; want %d", row.rule, res.StatusCode, res.Header, body, row.status)
			}
			got := tn.last()
			switch row.status {
			case 101:
				io.WriteString(conn, "hello\n")
				if line, err := in.ReadString('\n'); line != "hello\n" {
					t.Errorf("the connection echoes %q, %v", line, err)
				}
				if got.Get("Authorization") == "" || got.Get("Cookie") != "" || got.Get("Upgrade") != "websocket" {
					t.Errorf("the API got %v", got)
				}
			case 200:
				if got == nil || got["Upgrade"] != nil || got["Http2-Settings"] != nil || got["Connection"] != nil {
					t.Errorf("the API got %v", got)
				}
			case 403:
				if got != nil || res.Header.Get("Bff-Reason") != "csrf" {
					t.Errorf("%v, and the API got %v", res.Header, got)
				}
			case 502:
				if res.Header.Get("Bff-Reason") != "bad_gateway" || !strings.Contains(a.log.String(), "switched protocols unasked") {
					t.Errorf("502 with %v, and in the log: %s", res.Header, a.log)
				}
			}
		})
	}
}

// D15, S89, S460: a token that the API refuses is replaced once, where nothing
// can be done twice by it, and an API that refuses every token spends nothing.
func TestUpstreamUnauthorized(t *testing.T) {
	const challenge = `Bearer realm="api", error="invalid_token"`
	large := strings.Repeat("x", 64<<10+1)
	for _, c := range []struct {
		name      string
		method    string
		body      string
		stream    bool
		challenge string
		young     bool // the token is fresh
		always    bool // every token is refused
		status    int
		hits      int
		refreshes int
	}{
		{name: "get", method: "GET", status: 200, hits: 2, refreshes: 1},
		{name: "head", method: "HEAD", status: 200, hits: 2, refreshes: 1},
		{name: "post-with-challenge", method: "POST", body: "once", challenge: challenge, status: 200, hits: 2, refreshes: 1},
		{name: "post-without-challenge", method: "POST", body: "once", status: 401, hits: 1},
		{name: "post-with-another-challenge", method: "POST", body: "once", challenge: `Bearer error="insufficient_scope"`, status: 401, hits: 1},
		{name: "post-of-unknown-length", method: "POST", body: "once", stream: true, challenge: challenge, status: 401, hits: 1},
		{name: "post-too-large-to-hold", method: "POST", body: large, challenge: challenge, status: 401, hits: 1},
		{name: "young-token", method: "GET", young: true, status: 401, hits: 1},
		{name: "every-token", method: "GET", always: true, status: 401, hits: 2, refreshes: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newApp(t, setup{})
				b := a.signIn("alice")
				b.Fetch("GET", "/api/x", nil, nil)
				old := a.api.last().Header.Get("Authorization")
				if !c.young {
					time.Sleep(time.Minute)
				}
				a.api.set(func(w http.ResponseWriter, r *http.Request) {
					if c.always || r.Header.Get("Authorization") == old {
						if c.challenge != "" {
							w.Header().Set("Www-Authenticate", c.challenge)
						}
						w.WriteHeader(401)
						io.WriteString(w, "the API's own words")
						return
					}
					body, _ := io.ReadAll(r.Body)
					if string(body) != c.body {
						t.Errorf("the second time, the API got %.20q of %.20q", body, c.body)
					}
				})
				before := a.api.hits()
				var body io.Reader
				if c.stream {
					body = io.MultiReader(strings.NewReader(c.body))
				} else if c.body != "" {
					body = strings.NewReader(c.body)
				}
				r := b.Fetch(c.method, "/api/x", body, nil)
				if r.Status != c.status || a.api.hits()-before != c.hits || a.iss.Count("token:refresh_token") != c.refreshes {
					t.Errorf("%v after %d requests and %d refreshes; want %d after %d and %d", r, a.api.hits()-before, a.iss.Count("token:refresh_token"), c.status, c.hits, c.refreshes)
				}
				if c.status == 401 && (r.Reason() != "upstream_unauthorized" || !bytes.Contains(r.Body, []byte("own words")) || bytes.Contains(r.Body, []byte("loginUrl"))) {
					t.Errorf("401 with %v %s; want the API's own, without a loginUrl", r.Header, r.Body)
				}
				if c.always || c.young { // a frontend that polls
					for range 20 {
						b.Fetch("GET", "/api/x", nil, nil)
						time.Sleep(time.Second)
					}
					if n := a.iss.Count("token:refresh_token"); n != c.refreshes {
						t.Errorf("%d refreshes after 20 more requests", n)
					}
				}
				if a.iss.LiveGrants() != 1 {
					t.Error("the grant is dead")
				}
			})
		})
	}
}

// Ten requests at once on a token that the API refuses make one refresh.
func TestUpstreamUnauthorizedStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{})
		b := a.signIn("alice")
		b.Fetch("GET", "/api/x", nil, nil)
		old := a.api.last().Header.Get("Authorization")
		time.Sleep(time.Minute)
		a.api.set(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Second)
			if r.Header.Get("Authorization") == old {
				w.WriteHeader(401)
			}
		})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if r := b.Fetch("GET", "/api/x", nil, nil); r.Status != 200 {
					t.Error(r)
				}
			})
		}
		wg.Wait()
		if n := a.iss.Count("token:refresh_token"); n != 1 {
			t.Errorf("%d refreshes, want 1", n)
		}
	})
}

// S458: an upstream that doesn't answer is told from one that says no, and its
// address stays here.
func TestUpstreamDown(t *testing.T) {
	for _, c := range []struct {
		name   string
		api    func(http.ResponseWriter, *http.Request)
		broken http.RoundTripper
		status int
		reason string
	}{
		{"unreachable", nil, bfftest.InProcess(nil), 502, "bad_gateway"},
		{"hangs-up", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, nil, 502, "bad_gateway"},
		{"never-answers", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, nil, 504, "upstream_timeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newApp(t, setup{api: bff.Upstream{Transport: c.broken}})
				a.api.set(c.api)
				r := a.signIn("alice").Fetch("GET", "/api/x", nil, nil)
				if r.Status != c.status || r.Reason() != c.reason || !strings.Contains(r.Header.Get("Content-Type"), "problem+json") || strings.Contains(string(r.Body), "api.example.com") {
					t.Errorf("GET /api/x = %v %s", r, r.Body)
				}
			})
		})
	}
}

// Bodies stream both ways, and a browser that leaves ends the API's request.
func TestProxyStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended atomic.Bool
		a := newApp(t, setup{mux: func(a *app, mux *http.ServeMux) {
			stream := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, "data: 1\n\n")
				w.(http.Flusher).Flush()
				<-r.Context().Done()
				ended.Store(true)
			})
			mux.Handle("/stream/", a.auth.Proxy(bff.Upstream{URL: "https://stream.example.com", IdleTimeout: -1, Transport: bfftest.InProcess(map[string]http.Handler{"https://stream.example.com": stream})}))
		}})
		res, err := a.signIn("alice").Client().Get(appURL + "/stream/x")
		if err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(res.Body).ReadString('\n')
		if line != "data: 1\n" {
			t.Errorf("the first event is %q, %v", line, err)
		}
		time.Sleep(time.Hour) // there is no bound on the body
		if ended.Load() {
			t.Error("the stream ended by itself")
		}
		res.Body.Close()
		synctest.Wait()
		if !ended.Load() {
			t.Error("the API's request goes on")
		}
	})
}
