package bff_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/agglestone/bff"
)

// A rawUpstream records the bytes that it is sent.
type rawUpstream struct {
	net.Listener
	mu       sync.Mutex
	complete []string
	partial  []string
}

func newRawUpstream(t *testing.T) *rawUpstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &rawUpstream{Listener: l}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var conns []net.Conn
		var serving sync.WaitGroup
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			conns = append(conns, c)
			serving.Go(func() { u.serve(c) })
		}
		for _, c := range conns {
			c.Close()
		}
		serving.Wait()
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return u
}

// serve answers the requests on a connection. It reads as the simplest of
// servers: a header, then as many bytes as it says, or chunks, and takes what
// comes after that for the next request.
func (u *rawUpstream) serve(c net.Conn) {
	defer c.Close()
	br := bufio.NewReader(c)
	for {
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		var raw bytes.Buffer
		err := readRaw(io.TeeReader(oneByte{br}, &raw))
		u.mu.Lock()
		if err == nil {
			u.complete = append(u.complete, raw.String())
		} else if raw.Len() > 0 {
			u.partial = append(u.partial, raw.String())
		}
		u.mu.Unlock()
		if err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
	}
}

// oneByte reads single bytes, so that a TeeReader sees no more than was used.
type oneByte struct{ r io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.r.Read(p[:min(1, len(p))]) }

func readRaw(r io.Reader) error {
	line := func() (string, error) {
		var b []byte
		for one := make([]byte, 1); ; {
			if _, err := io.ReadFull(r, one); err != nil {
				return "", err
			}
			if b = append(b, one[0]); one[0] == '\n' {
				return string(b), nil
			}
		}
	}
	length, chunked := int64(0), false
	for first := true; ; first = false {
		l, err := line()
		if err != nil {
			return err
		}
		if l == "\r\n" && !first {
			break
		}
		fmt.Sscanf(l, "Content-Length: %d\r\n", &length)
		chunked = chunked || l == "Transfer-Encoding: chunked\r\n"
	}
	if !chunked {
		_, err := io.CopyN(io.Discard, r, length)
		return err
	}
	for {
		l, err := line()
		if err != nil {
			return err
		}
		n := int64(0)
		fmt.Sscanf(l, "%x\r\n", &n)
		if _, err := io.CopyN(io.Discard, r, n); err != nil {
			return err
		}
		if l, err = line(); err != nil {
			return err
		}
		if n == 0 {
			for l != "\r\n" { // trailers
				if l, err = line(); err != nil {
					return err
				}
			}
			return nil
		}
	}
}

// take returns what came since the last call.
func (u *rawUpstream) take() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	complete := u.complete
	u.complete = nil
	return complete
}

// parts returns what came of requests that broke off.
func (u *rawUpstream) parts() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.partial
}

// A rawRow is a request as bytes, and what must become of it.
type rawRow struct {
	name string
	rule string // S- and X-rows, D, or RFC and section
	// send is the request. $H stands for the host, the cookie of somebody who
	// is signed in and the proof of origin, $C for the cookie alone.
	send string
	// want are the answers: status, reason if it is ours, and Allow.
	want []string
	// upstream is what must reach it: request line and header lines, then the
	// body, as sent returns it. Empty: nothing at all.
	upstream []string
}

// sent returns the bytes of a request as it must reach the upstream: the
// request line, what the transport puts first, and all other headers sorted,
// ours among them. An extra that begins with '-' takes one away.
func sent(line, body string, extra ...string) string {
	lines := []string{"Authorization: Bearer $TOKEN", "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: app.example.com", "X-Forwarded-Proto: https"}
	first := []string{line + " HTTP/1.1", "Host: $UPSTREAM"}
	for _, e := range extra {
		name, _, _ := strings.Cut(e, ":")
		switch {
		case strings.HasPrefix(e, "-"):
			lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, e[1:]) })
		case name == "User-Agent" || name == "Content-Length" || name == "Transfer-Encoding":
			first = append(first, e)
		default:
			lines = append(lines, e)
		}
	}
	slices.SortStableFunc(lines, func(a, b string) int {
		x, _, _ := strings.Cut(a, ":")
		y, _, _ := strings.Cut(b, ":")
		return strings.Compare(x, y)
	})
	return strings.Join(append(first, lines...), "\r\n") + "\r\n\r\n" + body
}

// req returns a request: its line, the usual headers, others, and a body.
func req(line, body string, extra ...string) string {
	return line + " HTTP/1.1\r\n$H" + strings.Join(append(extra, ""), "\r\n") + "\r\n" + body
}

// bare is req without the usual headers.
func bare(line, body string, extra ...string) string {
	return line + " HTTP/1.1\r\n" + strings.Join(append(extra, ""), "\r\n") + "\r\n" + body
}

const (
	passed    = "204"
	refused   = "400 bad_request"
	unparsed  = "400" // by net/http, before us
	nowhere   = "404 not_found"
	forged    = "403 csrf"
	anonymous = "401 no_session"
	allow     = " DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
)

func rawRows() []rawRow {
	var rows []rawRow
	add := func(name, rule, send, want string, upstream ...string) {
		rows = append(rows, rawRow{name, rule, send, []string{want}, upstream})
	}
	get := func(name, rule, target, want string, upstream ...string) {
		add(name, rule, req("GET "+target, ""), want, upstream...)
	}
	with := func(name, rule string, header ...string) { // a header that must not arrive
		add(name, rule, req("GET /api/x", "", header...), passed, sent("GET /v1/x", ""))
	}
	host, cookie, proof := "Host: app.example.com", "Cookie: __Host-Http-bff=$C", "X-CSRF: 1"

	// Paths: X50-X62, S428, S429, S475, S476, S8, S512.
	get("plain", "D2", "/api/x?a=b", passed, sent("GET /v1/x?a=b", ""))
	get("root-of-the-prefix", "invariant 12", "/api", passed, sent("GET /v1", ""))
	get("trailing-slash", "invariant 12", "/api/x/", passed, sent("GET /v1/x/", ""))
	get("escaped-space", "X43", "/api/a%20b", passed, sent("GET /v1/a%20b", ""))
	get("plus", "X43", "/api/a+b", passed, sent("GET /v1/a+b", ""))
	get("escaped-utf8", "X43", "/api/caf%C3%A9", passed, sent("GET /v1/caf%C3%A9", ""))
	get("raw-utf8", "RFC 3986 2", "/api/caf\u00e9", passed, sent("GET /v1/caf%C3%A9", ""))
	get("escaped-hash", "S475", "/api/x%23y", passed, sent("GET /v1/x%23y", ""))
	get("escaped-question-mark", "S428", "/api/x%3Fy", passed, sent("GET /v1/x%3Fy", ""))
	get("file-name-with-dots", "S428", "/api/..x/a..b/.c.", passed, sent("GET /v1/..x/a..b/.c.", ""))
	get("at-and-colon", "S428", "/api/@x:y", passed, sent("GET /v1/@x:y", ""))
	get("beside-the-prefix", "S428", "/apix", nowhere)
	get("nowhere", "issue 5", "/other", nowhere)
	get("root", "issue 5", "/", nowhere)
	for i, target := range []string{
		"/public/..%2fapi/x", "/public/%2e%2e/api/x", "/public/../api/x", "/public/%2E%2E/api/x", "/public/.%2e/api/x",
		"/api/..%2f..%2fadmin", "/api/%2e%2e%2fadmin", "/api/%2e%2e/%2e%2e/admin", "/api/../../admin", "/api/x/../../../admin",
		"/api/..%5c..%5cadmin", `/api/..\..\admin`, `/api\x`, "/api%5Cx", "/api/..;/admin", "/public/;/../api/x", "/api;x/y", "/api/x%3by",
		"/api/x%00.png", "/api/%0d%0aX:1", "/api/%7f", "/api/%09x", "/public%23/../api/x", "/api/x#/public", "/api#/public",
		"/api//x", "//api/x", "/api/./x", "/api/.", "/api/..", "/api/...", "/api/%20", "/api/.%20/x", "/api/..%20/x", "/api/%20./x",
		"/api/%252e%252e/x", "/api/%252fx", "/api/%25", "/api/%c0%ae%c0%ae/x", "/api/%c0%af", "/api/%ff", "/api/%e0%80%af", "/api/%2f", "/api%2fx",
	} {
		get(fmt.Sprintf("path-%d", i), "X51-X61, S8, S428, S429, S475, S476: "+target, target, refused)
	}
	get("bad-escape", "RFC 3986 2.1", "/api/%zz", unparsed)
	get("half-an-escape", "RFC 3986 2.1", "/api/%", unparsed)

	// A row of the table can't be avoided by spelling it differently.
	get("stricter-row", "issue 5", "/api/admin/x", "403 forbidden")
	get("stricter-row-itself", "issue 5", "/api/admin", "403 forbidden")
	get("longer-segment", "issue 5", "/api/administrator", passed, sent("GET /v1/administrator", ""))
	get("stricter-row-in-capitals", "S512", "/api/ADMIN/x", nowhere)
	get("stricter-row-escaped", "S512", "/api/%61dmin/x", nowhere)
	get("stricter-row-folded", "S512", "/api/mas\u212a/x", nowhere) // the Kelvin sign is a k to case folding
	get("stricter-row-with-a-dot", "S512", "/api/admin./x", nowhere)
	get("stricter-row-with-a-space", "S512", "/api/admin%20", nowhere)
	get("stricter-row-behind-a-dot", "S512", "/api./admin/x", nowhere)
	get("row-in-capitals", "S512", "/API/x", nowhere)
	get("row-escaped", "S512", "/%61pi/x", nowhere)
	get("row-named-in-the-query", "S474", "/other?/public/", nowhere)

	// Forms of the target: S456, RFC 9112, section 3.2.
	add("absolute-form", "S456", req("GET http://evil.example/api/x?y", ""), passed, sent("GET /v1/x?y", ""))
	add("absolute-form-with-user", "S456", req("GET http://user:pw@evil.example/api/x", ""), passed, sent("GET /v1/x", ""))
	add("absolute-form-of-the-upstream", "S456", req("GET http://$UPSTREAM/v1/x", ""), nowhere)
	add("absolute-form-no-path", "S456", req("GET http://app.example.com", ""), refused)
	add("authority-form", "RFC 9112 3.2.3", req("GET evil.example:80", ""), refused)
	add("connect", "X111", req("CONNECT evil.example:443", ""), refused)
	add("connect-path", "X111", req("CONNECT /api/x", ""), "405 method_not_allowed"+allow)
	add("asterisk-form", "RFC 9112 3.2.4", req("OPTIONS *", ""), "200")
	add("asterisk-form-get", "RFC 9112 3.2.4", req("GET *", ""), refused)
	add("no-slash", "RFC 9112 3.2", req("GET api/x", ""), unparsed)
	add("http-1.0", "RFC 9112 2.5", "GET /api/x HTTP/1.0\r\n"+cookie+"\r\nX-CSRF: 1\r\n\r\n", passed, sent("GET /v1/x", ""))
	add("http-2-preface", "S518", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", refused)
	add("http-3", "RFC 9110 15.6.6", "GET /api/x HTTP/3.0\r\n"+host+"\r\n\r\n", "505")
	add("space-in-target", "RFC 9112 3", req("GET /api/x /y", ""), unparsed)

	// Methods: X111, X99, S26, S450.
	add("head", "S450", req("HEAD /api/x", ""), passed, sent("HEAD /v1/x", ""))
	add("options", "D2", req("OPTIONS /api/x", ""), passed, sent("OPTIONS /v1/x", ""))
	add("delete", "S26", req("DELETE /api/x", ""), passed, sent("DELETE /v1/x", ""))
	for _, m := range []string{"TRACE", "PROPFIND", "get", "GET_", strings.Repeat("X", 1000)} {
		add("method-"+m[:min(10, len(m))], "X111", req(m+" /api/x", ""), "405 method_not_allowed"+allow)
	}
	add("method-of-no-row", "issue 5", req("DELETE /reports/x", ""), "405 method_not_allowed GET, HEAD, POST")
	add("method-override", "X99", req("POST /api/x?_method=DELETE", "", "Content-Length: 0", "X-HTTP-Method-Override: DELETE", "X-Method-Override: DELETE", "X-HTTP-Method: DELETE"),
		passed, sent("POST /v1/x?_method=DELETE", "", "Content-Length: 0"))
	preflight := []string{"Origin: https://evil.example", "Access-Control-Request-Method: DELETE", "Access-Control-Request-Headers: x-csrf"}
	add("preflight", "D2, S14", bare("OPTIONS /api/x", "", append(preflight, host)...), forged)
	add("preflight-with-cookie", "D2, S14", req("OPTIONS /api/x", "", preflight...), forged)
	add("preflight-of-a-public-row", "D2, S14", bare("OPTIONS /public/x", "", append(preflight, host)...), forged)
	add("preflight-of-ours", "D2", req("OPTIONS /api/x", "", "Origin: https://app.example.com", "Access-Control-Request-Method: DELETE"), forged)

	// Queries: S430, S497, S474, X117.
	get("semicolon", "S430", "/api/x?a=1;b=2", refused)
	get("query-bad-escape", "S430", "/api/x?a=%zz", refused)
	get("query-half-an-escape", "S430", "/api/x?a=%2", refused)
	get("query-raw-utf8", "RFC 3986 3.4", "/api/x?a=\u00e9", refused)
	get("query-of-20000", "X117, S497", "/api/x?"+strings.Repeat("a=1&", 20000), refused)
	get("query-in-query", "S430", "/api/x?a=b?c&a=d%26e", passed, sent("GET /v1/x?a=b?c&a=d%26e", ""))
	get("empty-query", "S430", "/api/x?", passed, sent("GET /v1/x", ""))
	get("encoded-nul-in-query", "S430", "/api/x?a=%00", passed, sent("GET /v1/x?a=%00", ""))
	get("dropped-parameter", "issue 5", "/ws/x?id=1&access_token=t&x=2", passed, sent("GET /ws/x?id=1&x=2", ""))
	get("dropped-parameter-escaped", "issue 5", "/ws/x?%61ccess%5Ftoken=t&x=2", passed, sent("GET /ws/x?x=2", ""))
	get("dropped-parameter-in-capitals", "issue 5", "/ws/x?Access_Token=t", passed, sent("GET /ws/x", ""))
	get("dropped-parameter-by-row", "issue 5", "/ws/x?Api-key=t&x=2&api%2Dkey", passed, sent("GET /ws/x?x=2", ""))
	get("dropped-parameter-to-php", "issue 5", "/ws/x?access.token=t&access+token=t&%20access_token=t&access%5Btoken=t&access_token%00x=t&x=2", passed, sent("GET /ws/x?x=2", ""))
	get("dropped-parameter-in-brackets", "issue 5", "/ws/x?access_token[]=t&access%5Ftoken%5B0%5D=t&[access_token]=t&access_token]=t&%5b%5daccess.token[a][b]=t&Api-Key[]=t&x[access_token]=1&x=2", passed,
		sent("GET /ws/x?x[access_token]=1&x=2", ""))
	get("token-in-the-query", "RFC 6750 2", "/api/x?a=1&access_token=t&api-key=2", passed, sent("GET /v1/x?a=1&api-key=2", ""))
	add("token-in-the-query-of-nobody", "RFC 6750 2", bare("GET /open/x?ACCESS_TOKEN=t", "", host), passed, sent("GET /open/x", "", "-Authorization"))
	add("token-in-the-query-of-a-public-row", "issue 5", bare("GET /public/x?access_token=t", "", host), passed, sent("GET /pub/x?access_token=t", "", "-Authorization"))
	get("dropped-parameter-bare", "issue 5", "/ws/x?access_token&access_token=t&xaccess_token=1", passed, sent("GET /ws/x?xaccess_token=1", ""))

	// Headers: X103, X105, S420-S422, S471-S473, S8.
	with("connection-names-ours", "X103, S420, S472", "Connection: Authorization, X-Forwarded-For, X-CSRF, Cookie, X-Forwarded-Host, X-Forwarded-Proto, Host")
	with("connection-in-small-letters", "S472", "connection: x-forwarded-host, authorization", "CONNECTION: close")
	with("connection-names-another", "RFC 9110 7.6.1", "Connection: X-Custom, keep-alive", "X-Custom: 1", "Keep-Alive: timeout=5", "Proxy-Connection: keep-alive")
	with("who-a-proxy-says-it-is", "X105, S421", "X-Forwarded-User: admin", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Host: evil", "X-Forwarded-Proto: http",
		"X-Forwarded-Prefix: /x", "X-Forwarded-Uri: /public", "X-Real-IP: 1.2.3.4", "X-Remote-User: admin", "X-Auth-Request-Email: a@b", "X-User-Id: admin", "X-User: admin",
		"X-User-Groups: Admin", "X-Groups: Admin", "Remote-User: admin", "X-Client-Cert: x", "X-Original-URL: /admin", "X-Rewrite-URL: /admin", "X-Authenticated-User: admin",
		"X-Amzn-Oidc-Identity: admin", "X-MS-CLIENT-PRINCIPAL-ID: admin", "X-Goog-Authenticated-User-Email: admin", "X-WEBAUTH-USER: admin", "Tailscale-User-Login: admin",
		"Cf-Access-Authenticated-User-Email: admin", "X-Envoy-Original-Path: /admin", "Ssl-Client-Cert: x", "Client-Cert: :x:", "X-Host: evil", "X-Proxy-User: admin")
	with("who-others-say-it-is", "X105, S421", "Remote-Groups: admin", "Remote-Email: a@b", "Remote-Name: admin", "Oidc-Claim-Sub: admin", "SM-User: admin", "iv-user: admin",
		"Mellon-Name-Id: admin", "Shib-Identity-Provider: x", "WL-Proxy-Client-Cert: x", "Fly-Client-IP: 1.2.3.4", "X-Amzn-Mtls-Clientcert-Subject: CN=admin", "X-ARR-ClientCert: x",
		"X-Azure-ClientIP: 1.2.3.4", "X-MS-Token-AAD-Id-Token: x", "X-AppEngine-User-Email: a@b", "X-Vouch-User: admin")
	with("in-small-letters", "S422", "x-forwarded-user: admin", "x-uSeR-iD: admin", "remote-user: admin")
	with("with-underscores", "S422, S471", "X_Forwarded_User: admin", "X-Forwarded_User: admin", "x-forwarded_user: admin", "X_User_Id: admin", "Authorization_: x", "Content_Length: 4", "Remote_User: admin", "HTTP_X_USER: x")
	with("with-other-characters", "S422", "X.User.Id: admin", "X!User: admin", "X~User~Id: admin", "X'User: admin", "X|User: admin")
	with("credentials", "S12, S485", "Authorization: Bearer mine", "Authorization: Basic eDp5", "Proxy-Authorization: Basic eDp5", "DPoP: x", "Proxy: http://evil")
	with("forwarding", "S28, S473", "Forwarded: for=1.2.3.4;host=evil", "Via: 1.1 evil", "True-Client-IP: 1.2.3.4", "CF-Connecting-IP: 1.2.3.4", "X-Cluster-Client-IP: 1.2.3.4", "X-Client-IP: 1.2.3.4")
	with("our-own", "D8", "BFF-Passive: 1", "X-CSRF-Token: x")
	with("h2c", "S425, S518, D12", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
	with("websocket-where-not-enabled", "D12", "Connection: Upgrade", "Upgrade: websocket")
	with("other-upgrades", "D12", "Connection: Upgrade", "Upgrade: TLS/1.0, h2c, websocket, foo")
	with("cookies", "S11", "Cookie: a=b", "Cookie: c=d; e=f", "Cookie2: $Version=1")
	with("te", "RFC 9110 10.1.4", "TE: gzip, deflate")
	with("trailer-announced-without-body", "RFC 9110 6.6.2", "Trailer: X-User-Id")
	add("te-trailers", "RFC 9110 10.1.4", req("GET /api/x", "", "TE: gzip, trailers"), passed, sent("GET /v1/x", "", "Te: trailers"))
	add("what-passes", "S421", req("GET /api/x", "", "User-Agent: x/1", "Accept: */*", "Accept-Encoding: gzip, br", "Range: bytes=0-1", "If-None-Match: \"x\"", "Traceparent: 00-1-2-01", "X-Custom: 1"), passed,
		sent("GET /v1/x", "", "User-Agent: x/1", "Accept: */*", "Accept-Encoding: gzip, br", "Range: bytes=0-1", "If-None-Match: \"x\"", "Traceparent: 00-1-2-01", "X-Custom: 1"))
	add("a-header-twice", "RFC 9110 5.3", req("GET /api/x", "", "X-Custom: 1", "X-Other: o", "x-custom: 2"), passed,
		sent("GET /v1/x", "", "X-Custom: 1", "X-Custom: 2", "X-Other: o"))
	add("latin-1-value", "RFC 9110 5.5", req("GET /api/x", "", "X-Custom: caf\xe9"), passed, sent("GET /v1/x", "", "X-Custom: caf\xe9"))
	add("folded-line", "RFC 9112 5.2", req("GET /api/x", "", "X-Custom: a", " b"), passed, sent("GET /v1/x", "", "X-Custom: a b"))
	add("folded-into-ours", "RFC 9112 5.2", req("GET /api/x", "", "X-Custom:", "\tX-User-Id: admin"), passed, sent("GET /v1/x", "", "X-Custom: X-User-Id: admin"))
	add("lines-without-cr", "RFC 9112 2.2", strings.ReplaceAll(req("GET /api/x", "", "X-Custom: 1"), "\r\n", "\n"), passed, sent("GET /v1/x", "", "X-Custom: 1"))
	add("space-before-colon", "S422, RFC 9112 5.1", req("GET /api/x", "", "X-User : admin"), unparsed)
	add("space-first", "RFC 9112 2.2", "GET /api/x HTTP/1.1\r\n X-User: admin\r\n$H\r\n", unparsed)
	add("cr-in-value", "S447", req("GET /api/x", "", "X-Custom: a\rX-User-Id: admin"), unparsed)
	add("nul-in-value", "RFC 9110 5.5", req("GET /api/x", "", "X-Custom: a\x00b"), unparsed)
	add("no-colon", "RFC 9112 5.1", req("GET /api/x", "", "X-User admin"), unparsed)
	add("no-name", "RFC 9112 5.1", req("GET /api/x", "", ": admin"), unparsed)
	add("non-ascii-name", "RFC 9110 5.1", req("GET /api/x", "", "X-\u00dcser: admin"), unparsed)
	add("header-of-2-MiB", "X117, S461", req("GET /api/x", "", "X-Custom: "+strings.Repeat("a", 2<<20)), "431")
	add("content-type-twice", "RFC 9110 5.3", req("POST /api/x", "a", "Content-Type: text/plain", "Content-Type: application/json", "Content-Length: 1"), refused)
	add("identity-by-row", "issue 5", req("GET /named/x", "", "X-User-Id: admin", "X_User_Id: admin", "X-User-Groups: Admin", "Who: admin"), passed,
		sent("GET /named/x", "", "Who: $BOB", "X-User-Groups: Users"))
	add("pass-and-drop-by-row", "issue 5", req("GET /listed/x", "", "X-Original-Filename: a.txt", "X-Original-Url: /admin", "User-Agent: x", "X-Custom: 1", "Cookie: a=1; b=2; theme=\"dark\"; __host-http-BFF=x; a2=3", "Authorization: x"), passed,
		sent("GET /listed/x", "", "User-Agent: x", "X-Original-Filename: a.txt", "Cookie: a=1; theme=\"dark\""))

	// Host: X107, S30, S456.
	for _, h := range []string{"evil.example", "app.example.com:99999", "", "127.0.0.1", "[::1]:80"} {
		add("host-"+h, "X107, S456", bare("GET /api/x", "", "Host: "+h, cookie, proof), passed, sent("GET /v1/x", ""))
	}
	add("host-with-space", "X107", bare("GET /api/x", "", "Host: a b", cookie, proof), unparsed)
	add("host-twice", "X107", bare("GET /api/x", "", host, "Host: evil.example", cookie, proof), unparsed)
	add("host-missing", "RFC 9112 3.2", bare("GET /api/x", "", cookie, proof), unparsed)

	// Framing: S332, S499, RFC 9112, sections 6 and 11.2.
	post := func(name, rule, body, want string, header []string, upstream ...string) {
		add(name, rule, req("POST /api/x", body, header...), want, upstream...)
	}
	post("body", "RFC 9112 6", "hello", passed, []string{"Content-Length: 5", "Content-Type: text/plain"}, sent("POST /v1/x", "hello", "Content-Length: 5", "Content-Type: text/plain"))
	post("no-body", "RFC 9112 6", "", passed, nil, sent("POST /v1/x", "", "Content-Length: 0"))
	post("chunked", "RFC 9112 7.1", "5\r\nhello\r\n0\r\n\r\n", passed, []string{"Transfer-Encoding: chunked"}, sent("POST /v1/x", "5\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding: chunked"))
	post("chunk-extensions", "RFC 9112 7.1.1", "5;a=b;c=\"d\"\r\nhello\r\n00000;x\r\n\r\n", passed, []string{"Transfer-Encoding: chunked"}, sent("POST /v1/x", "5\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding: chunked"))
	post("trailers", "issue 5", "5\r\nhello\r\n0\r\nX-User-Id: admin\r\nAuthorization: x\r\n\r\n", passed, []string{"Transfer-Encoding: chunked", "Trailer: X-User-Id, X-Other"}, sent("POST /v1/x", "5\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding: chunked"))
	post("length-and-chunks", "S499, RFC 9112 6.3", "0\r\n\r\n", passed, []string{"Content-Length: 5", "Transfer-Encoding: chunked"}, sent("POST /v1/x", "0\r\n\r\n", "Transfer-Encoding: chunked"))
	post("two-lengths", "S499", "hello", unparsed, []string{"Content-Length: 5", "Content-Length: 6"})
	post("one-length-twice", "RFC 9110 8.6", "hello", passed, []string{"Content-Length: 5", "Content-Length: 5"}, sent("POST /v1/x", "hello", "Content-Length: 5"))
	for _, length := range []string{"+5", "-5", "0x5", "5, 5", "5 5", "99999999999999999999", "", "5a"} {
		post("length-"+length, "S499, RFC 9110 8.6", "hello", unparsed, []string{"Content-Length: " + length})
	}
	for _, te := range []string{"xchunked", "chunked, identity", "identity, chunked", "gzip, chunked", "chunked, chunked", "cow"} {
		post("encoding-"+strings.TrimSpace(te), "S499, RFC 9112 6.1", "0\r\n\r\n", "501", []string{"Transfer-Encoding: " + te})
	}
	post("two-encodings", "S499", "0\r\n\r\n", "501", []string{"Transfer-Encoding: chunked", "Transfer-Encoding: identity"})
	post("encoding-with-control-character", "S499", "0\r\n\r\n", unparsed, []string{"Transfer-Encoding: \x0bchunked"})
	post("encoding-with-space", "S499", "0\r\n\r\n", unparsed, []string{"Transfer-Encoding : chunked"})
	post("chunk-size-bare-lf", "S499", "5\nhello\r\n0\r\n\r\n", "502 bad_gateway", []string{"Transfer-Encoding: chunked"})
	post("chunk-size-too-large", "S499", "ffffffffffffffffff\r\nhello\r\n0\r\n\r\n", "502 bad_gateway", []string{"Transfer-Encoding: chunked"})
	post("chunk-size-signed", "S499", "+5\r\nhello\r\n0\r\n\r\n", "502 bad_gateway", []string{"Transfer-Encoding: chunked"})
	post("chunk-without-end", "S499", "5\r\nhelloX0\r\n\r\n", "502 bad_gateway", []string{"Transfer-Encoding: chunked"})
	post("expectation", "RFC 9110 10.1.1", "hello", "417", []string{"Content-Length: 5", "Expect: 200-ok"})
	post("over-the-limit", "issue 5", "hello", passed, []string{"Content-Length: 5"}, sent("POST /v1/x", "hello", "Content-Length: 5"))
	add("limited", "issue 5", req("POST /reports/x", "0123456789", "Content-Length: 10"), passed, sent("POST /reports/x", "0123456789", "Content-Length: 10"))
	add("too-large", "issue 5", req("POST /reports/x", "01234567890", "Content-Length: 11"), "413 request_too_large")
	add("too-large-in-chunks", "issue 5", req("POST /reports/x", "b\r\n01234567890\r\n0\r\n\r\n", "Transfer-Encoding: chunked"), "413 request_too_large")
	add("get-with-body", "RFC 9110 9.3.1", req("GET /api/x", "hello", "Content-Length: 5"), passed, sent("GET /v1/x", "hello", "Content-Length: 5"))
	rows = append(rows, rawRow{"two-in-a-row", "S499", req("GET /api/1", "") + req("GET /api/2", ""), []string{passed, passed}, []string{sent("GET /v1/1", ""), sent("GET /v1/2", "")}})
	rows = append(rows, rawRow{"hidden-in-a-body", "S499", req("POST /api/1", "GET /v1/admin HTTP/1.1\r\nHost: x\r\n\r\n", "Content-Length: 35"), []string{passed},
		[]string{sent("POST /v1/1", "GET /v1/admin HTTP/1.1\r\nHost: x\r\n\r\n", "Content-Length: 35")}})
	rows = append(rows, rawRow{"hidden-behind-an-empty-chunk", "S499", req("POST /api/1", "0\r\n\r\n", "Transfer-Encoding: chunked") + req("GET /api/admin/x", ""), []string{passed, "403 forbidden"},
		[]string{sent("POST /v1/1", "0\r\n\r\n", "Transfer-Encoding: chunked")}})

	// Whose request it is: X95, X97, X101, X109, S6, D22, D36.
	add("nobody", "S6, D22", bare("GET /api/x", "", host, proof), anonymous)
	add("health-check", "X109, S477", bare("GET /api/x", "", host, "User-Agent: kube-probe/1.30"), anonymous)
	add("bearer-instead-of-a-cookie", "S485", bare("GET /api/x", "", host, proof, "Authorization: Bearer x"), anonymous)
	add("no-proof", "X95", bare("GET /api/x", "", host, cookie), forged)
	add("proof-in-the-query", "X95", bare("POST /api/x?X-CSRF=1", "", host, cookie, "Content-Length: 0"), forged)
	add("proof-empty", "X95", bare("POST /api/x", "", host, cookie, "X-CSRF:", "Content-Length: 0"), forged)
	for _, h := range []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site", "Sec-Fetch-Site: none", "Origin: https://evil.com", "Origin: http://app.example.com", "Origin: https://app.example.com.evil.com", "Origin: https://app.example.com:444"} {
		add("from-"+h, "X97, S13, S426", req("POST /api/x", "", h, "Content-Length: 0"), forged)
	}
	add("null-origin", "X97", req("POST /api/x", "", "Origin: null", "Content-Length: 0"), forged)
	add("two-origins", "X97", req("POST /api/x", "", "Origin: https://app.example.com", "Origin: https://evil.com", "Content-Length: 0"), forged)
	add("two-session-cookies", "X81, S406", bare("GET /api/x", "", host, proof, cookie, "Cookie: __Host-Http-bff=x"), anonymous)
	add("navigation", "D3", bare("GET /api/x", "", host, cookie, "Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: navigate"), forged)
	add("navigation-where-admitted", "D3", bare("GET /reports/x", "", host, cookie, "Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate"), passed, sent("GET /reports/x", "", "Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate"))
	add("navigation-from-elsewhere", "D3", bare("GET /reports/x", "", host, cookie, "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"), forged)
	add("public", "D36", bare("GET /public/x", "", host), passed, sent("GET /pub/x", "", "-Authorization"))
	add("public-with-a-session", "D36", bare("GET /public/x", "", host, cookie, "Authorization: x", "Sec-Fetch-Site: cross-site"), passed, sent("GET /pub/x", "", "-Authorization", "Sec-Fetch-Site: cross-site"))
	add("optional-nobody", "D36", bare("GET /open/x", "", host), passed, sent("GET /open/x", "", "-Authorization"))
	add("optional-somebody", "D36", req("GET /open/x", ""), passed, sent("GET /open/x", ""))
	add("optional-somebody-from-elsewhere", "D36", req("GET /open/x", "", "Sec-Fetch-Site: cross-site"), forged)
	add("client-nobody", "D36", bare("GET /app/x", "", host), anonymous)
	add("client-somebody", "D36", req("GET /app/x", ""), passed, sent("GET /app/x", "", "-Authorization", "Authorization: Bearer of-the-application"))
	add("client-somebody-from-elsewhere", "D36", req("GET /app/x", "", "Sec-Fetch-Site: cross-site"), forged)
	add("client-anybody", "D36", bare("GET /anybody/x", "", host), passed, sent("GET /anybody/x", "", "-Authorization", "Authorization: Bearer of-the-application"))

	// WebSocket: X101, S333, S507, D12.
	upgrade := []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"}
	add("websocket", "D12", bare("GET /ws/x", "", append(upgrade, host, cookie, "Origin: https://app.example.com")...), passed,
		sent("GET /ws/x", "", "Connection: Upgrade", "Upgrade: websocket", "Sec-Websocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-Websocket-Version: 13", "Origin: https://app.example.com"))
	for _, origin := range []string{"https://evil.example", "null", "https://sibling.example.com", "http://app.example.com"} {
		add("websocket-from-"+origin, "X101", bare("GET /ws/x", "", append(upgrade, host, cookie, proof, "Origin: "+origin)...), forged)
	}
	add("websocket-without-origin", "X101", bare("GET /ws/x", "", append(upgrade, host, cookie, proof)...), forged)
	add("websocket-with-a-list", "D12", req("GET /ws/x", "", "Connection: Upgrade", "Upgrade: websocket, h2c"), passed, sent("GET /ws/x", ""))
	add("websocket-twice", "D12", req("GET /ws/x", "", "Connection: Upgrade", "Upgrade: websocket", "Upgrade: h2c"), passed, sent("GET /ws/x", ""))
	add("websocket-by-post", "D12", req("POST /ws/x", "", "Connection: Upgrade", "Upgrade: websocket", "Content-Length: 0"), passed, sent("POST /ws/x", "", "Content-Length: 0"))
	return rows
}

// applicationToken is a TokenSource of one token.
type applicationToken struct{}

func (applicationToken) Token(context.Context, *bff.Session, bff.Secret) (bff.Secret, error) {
	return "of-the-application", nil
}

// S8, S420-S430, S456, S471-S477, S499, S512, X50-X62, X95-X117: what hostile
// and odd requests, sent over a socket, become on their way to the upstream,
// byte for byte, or how they are refused, and then nothing reaches it.
func TestRawRequests(t *testing.T) {
	up := newRawUpstream(t)
	base := "http://" + up.Addr().String()
	a := newApp(t, setup{})
	row := func(path, target string, edit func(*bff.Upstream)) bff.Upstream {
		u := bff.Upstream{URL: base + target, Path: path, StripPrefix: path}
		if edit != nil {
			edit(&u)
		}
		return u
	}
	table := a.auth.Upstreams(
		row("/api", "/v1", nil),
		row("/api/admin", "/v1/admin", func(u *bff.Upstream) { u.Groups = []string{"Admin"} }),
		row("/api/mask", "/v1/mask", func(u *bff.Upstream) { u.Groups = []string{"Admin"} }),
		row("/public", "/pub", func(u *bff.Upstream) { u.Needs = bff.None }),
		row("/open", "/open", func(u *bff.Upstream) { u.Needs = bff.UserOptional }),
		row("/app", "/app", func(u *bff.Upstream) { u.Needs, u.Tokens = bff.Client, applicationToken{} }),
		row("/anybody", "/anybody", func(u *bff.Upstream) {
			u.Needs, u.Tokens, u.InsecureAnonymousClient = bff.Client, applicationToken{}, true
		}),
		row("/ws", "/ws", func(u *bff.Upstream) { u.WebSocket, u.DropQuery = true, []string{"api-Key"} }),
		row("/reports", "/reports", func(u *bff.Upstream) {
			u.Methods, u.AllowNavigation, u.MaxRequestBody = []string{"GET", "POST"}, true, 10
		}),
		row("/named", "/named", func(u *bff.Upstream) { u.UserIDHeader, u.UserGroupsHeader = "Who", "x-user-groups" }),
		row("/listed", "/listed", func(u *bff.Upstream) {
			u.RequestHeaders = bff.HeaderRules{Pass: []string{"x-original-filename", "User-Agent"}, Drop: []string{"*"}}
			u.Cookies = []string{"a", "theme", "__Host-Http-bff", "__host-http-BFF"}
		}),
	)
	srv := httptest.NewServer(a.auth.Routes(table))
	defer srv.Close()
	b := a.signIn("bob")
	user, _ := a.iss.User("bob")
	cookie := sessionCookie(t, b).Value
	rows := rawRows()
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			c, err := net.Dial("tcp", srv.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(30 * time.Second))
			send := strings.ReplaceAll(row.send, "$H", "Host: app.example.com\r\nCookie: __Host-Http-bff=$C\r\nX-CSRF: 1\r\n")
			send = strings.NewReplacer("$C", cookie, "$UPSTREAM", up.Addr().String()).Replace(send)
			go io.WriteString(c, send) // net/http may answer before it has read all
			br := bufio.NewReader(c)
			for i, want := range row.want {
				method, _, _ := strings.Cut(send, " ")
				res, err := http.ReadResponse(br, &http.Request{Method: method})
				if err != nil {
					t.Fatalf("%s: answer %d: %v", row.rule, i, err)
				}
				io.Copy(io.Discard, res.Body)
				got := strings.TrimSpace(fmt.Sprintf("%d %s %s", res.StatusCode, res.Header.Get("Bff-Reason"), res.Header.Get("Allow")))
				if strings.Join(strings.Fields(got), " ") != want {
					t.Errorf("%s: answer %q, want %q", row.rule, got, want)
				}
			}
			complete := up.take()
			for i, raw := range complete {
				for _, secret := range a.iss.Secrets() {
					raw = strings.ReplaceAll(raw, "Bearer "+secret, "Bearer $TOKEN")
				}
				complete[i] = strings.NewReplacer(up.Addr().String(), "$UPSTREAM", user.ID, "$BOB").Replace(raw)
			}
			if !slices.Equal(complete, row.upstream) {
				t.Errorf("%s: the upstream got\n%q\nwant\n%q", row.rule, complete, row.upstream)
			}
		})
	}
	// Bodies that broke off on the way may have begun to arrive, nothing else.
	for _, part := range up.parts() {
		if !strings.HasPrefix(part, "POST ") || strings.HasSuffix(part, "0\r\n\r\n") {
			t.Errorf("the upstream got a part of %q", part)
		}
	}
	if len(rows) < 80 {
		t.Errorf("%d rows, want at least 80", len(rows))
	}
}
