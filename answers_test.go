package bff_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
)

// A scripted upstream answers each connection's first request with bytes, and
// closes the connection.
func scripted(t *testing.T, answer func() string) (base string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var serving sync.WaitGroup
		defer serving.Wait()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(10 * time.Second))
				r, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil {
					return
				}
				token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
				io.WriteString(c, strings.ReplaceAll(answer(), "$TOKEN", token))
			})
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return "http://" + l.Addr().String()
}

// A served app listens on a socket; its browsers' cookies come along by hand.
type served struct {
	*app
	srv    *httptest.Server
	cookie *http.Cookie
	client *http.Client
}

// serve has a table of upstreams served on a socket, and alice signed in.
func serve(t *testing.T, rows ...bff.Upstream) *served {
	t.Helper()
	a := newApp(t, setup{})
	s := &served{app: a, srv: httptest.NewServer(a.auth.Routes(a.auth.Upstreams(rows...))), client: &http.Client{
		Transport:     &http.Transport{DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	t.Cleanup(s.srv.Close)
	t.Cleanup(s.client.CloseIdleConnections)
	s.cookie = sessionCookie(t, a.signIn("alice"))
	return s
}

// request returns a script's request, with the session and the proof.
func (s *served) request(method, path string, body io.Reader) *http.Request {
	s.Helper()
	r, err := http.NewRequestWithContext(s.Context(), method, s.srv.URL+path, body)
	if err != nil {
		s.Fatal(err)
	}
	r.AddCookie(s.cookie)
	r.Header.Set("X-Csrf", "1")
	return r
}

// get returns the answer to a GET, body and trailers included, or the error
// with which reading it ended.
func (s *served) get(path string) (*http.Response, string, error) {
	s.Helper()
	res, err := s.client.Do(s.request("GET", path, nil))
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res, string(body), err
}

// S14, S371, S423, S424, X171-X175: what may pass of an upstream's answer. Each
// row is what it sends after the status line, and what of it arrives.
func TestResponseHygiene(t *testing.T) {
	var mu sync.Mutex
	var answer string
	base := scripted(t, func() string {
		mu.Lock()
		defer mu.Unlock()
		return answer
	})
	row := func(path string, edit func(*bff.Upstream)) bff.Upstream {
		up := bff.Upstream{URL: base + "/v1", Path: path, StripPrefix: path}
		if edit != nil {
			edit(&up)
		}
		return up
	}
	s := serve(t,
		row("/api", nil),
		row("/cached", func(up *bff.Upstream) { up.Cache = true }),
		row("/cookies", func(up *bff.Upstream) {
			up.SetCookies = []string{"theme", "__Host-Http-bff", "__host-x", "bff"}
		}),
		row("/few", func(up *bff.Upstream) {
			up.ResponseHeaders = bff.HeaderRules{Drop: []string{"*"}, Pass: []string{"content-type", "Www-Authenticate"}}
		}),
		row("/as-is", func(up *bff.Upstream) { up.PassLocation = true }),
		row("/part", func(up *bff.Upstream) { up.URL, up.StripPrefix = base, "" }),
	)
	for _, c := range []struct {
		name, rule, path string
		status           string
		send, want       []string // header lines; want without Date and Content-Length
	}{
		{"plain", "", "/api", "200 OK", []string{"Content-Type: a/b", "ETag: \"x\"", "Vary: Accept", "X-Custom: 1", "Link: </x>; rel=preload", "Content-Disposition: attachment"},
			[]string{"Cache-Control: no-store", "Content-Disposition: attachment", "Content-Type: a/b", "Etag: \"x\"", "Link: </x>; rel=preload", "Vary: Accept", "X-Custom: 1"}},
		{"untyped", "S488", "/api", "200 OK", nil, []string{"Cache-Control: no-store", "X-Content-Type-Options: nosniff"}},
		{"type-empty", "S488", "/api", "200 OK", []string{"Content-Type:"}, []string{"Cache-Control: no-store", "Content-Type: ", "X-Content-Type-Options: nosniff"}},
		{"type-that-is-none", "S488", "/api", "200 OK", []string{"Content-Type: json; charset=utf-8"}, []string{"Cache-Control: no-store", "Content-Type: json; charset=utf-8", "X-Content-Type-Options: nosniff"}},
		{"type-unknown", "S488", "/api", "200 OK", []string{"Content-Type: Application/Unknown"}, []string{"Cache-Control: no-store", "Content-Type: Application/Unknown", "X-Content-Type-Options: nosniff"}},
		{"type-any", "S488", "/api", "200 OK", []string{"Content-Type: */*"}, []string{"Cache-Control: no-store", "Content-Type: */*", "X-Content-Type-Options: nosniff"}},
		{"type-twice", "S488", "/api", "200 OK", []string{"Content-Type: a/b; x", "Content-Type: text/html"}, []string{"Cache-Control: no-store", "Content-Type: a/b; x", "Content-Type: text/html", "X-Content-Type-Options: nosniff"}},
		{"cookies", "X171, S423", "/api", "200 OK", []string{"Set-Cookie: __Host-Http-bff=evil; Path=/; Secure; HttpOnly", "Set-Cookie: a=b", "set-cookie2: x"}, []string{"Cache-Control: no-store"}},
		{"cookies-by-name", "S423", "/cookies", "200 OK", []string{"Set-Cookie: theme=dark; Path=/", "Set-Cookie: THEME=x", "Set-Cookie: __Host-Http-bff=evil; Path=/", "Set-Cookie: __HOST-x=1", "Set-Cookie: __host-x=1",
			"Set-Cookie: __Secure-theme=1", "Set-Cookie:  __Host-Http-bff=evil", "Set-Cookie: =__Host-Http-bff=evil", "Set-Cookie: __Host-Http-bff", "Set-Cookie: bff=1"},
			[]string{"Cache-Control: no-store", "Set-Cookie: bff=1", "Set-Cookie: theme=dark; Path=/"}},
		{"cors", "S14, D2", "/api", "200 OK", []string{"Access-Control-Allow-Origin: *", "Access-Control-Allow-Credentials: true", "access-control-allow-headers: x-csrf", "Access-Control-Max-Age: 600", "Access-Control-Expose-Headers: *", "Access-Control-Allow-Private-Network: true"},
			[]string{"Cache-Control: no-store"}},
		{"acts-on-our-origin", "S423", "/api", "200 OK", []string{"Clear-Site-Data: \"*\"", "Service-Worker-Allowed: /", "Strict-Transport-Security: max-age=0", "Refresh: 0;url=https://evil", "Alt-Svc: h2=\"evil:443\"", "NEL: {}", "Report-To: {}",
			"Public-Key-Pins: x", "Set-Login: logged-out", "Sec-Session-Registration: x", "Secure-Session-Registration: x", "Use-As-Dictionary: match=\"/*\""}, []string{"Cache-Control: no-store"}},
		{"what-a-server-in-front-obeys", "S423", "/api", "200 OK", []string{"X-Accel-Redirect: /secret", "X-Sendfile: /etc/passwd", "X-Accel-Buffering: no"}, []string{"Cache-Control: no-store", "X-Accel-Buffering: no"}},
		{"our-own-word", "D15", "/api", "200 OK", []string{"BFF-Reason: signed_out"}, []string{"Cache-Control: no-store"}},
		{"credentials", "S423", "/api", "200 OK", []string{"Authorization: Bearer x", "WWW-Authenticate: Basic", "Proxy-Authenticate: Basic"}, []string{"Cache-Control: no-store"}},
		{"cache", "X173, S371, D33", "/api", "200 OK", []string{"Cache-Control: public, max-age=600", "Expires: Thu, 01 Jan 2099 00:00:00 GMT", "CDN-Cache-Control: max-age=600", "Surrogate-Control: max-age=600", "Pragma: x", "X-Accel-Expires: 600"}, []string{"Cache-Control: no-store"}},
		{"cache-twice", "D33", "/api", "200 OK", []string{"Cache-Control: no-store", "Cache-Control: public"}, []string{"Cache-Control: no-store"}},
		{"cache-tighter", "D33", "/api", "200 OK", []string{"Cache-Control: private, no-store, no-transform"}, []string{"Cache-Control: private, no-store, no-transform"}},
		{"cache-where-admitted", "D33", "/cached", "200 OK", []string{"Cache-Control: public, max-age=600", "Surrogate-Control: max-age=600"}, []string{"Cache-Control: public, max-age=600", "Surrogate-Control: max-age=600"}},
		{"hop-by-hop", "RFC 9110 7.6.1", "/api", "200 OK", []string{"Connection: X-Hop, keep-alive", "X-Hop: 1", "Keep-Alive: 1", "Proxy-Connection: x", "Upgrade: h2c"}, []string{"Cache-Control: no-store"}},
		{"few", "issue 5", "/few", "200 OK", []string{"Content-Type: a/b", "ETag: x", "X-Custom: 1", "WWW-Authenticate: Basic", "Set-Cookie: a=b"}, []string{"Cache-Control: no-store", "Content-Type: a/b", "Www-Authenticate: Basic"}},
		{"401", "D15", "/api", "401 Unauthorized", []string{"WWW-Authenticate: Bearer realm=\"x\"", "Content-Type: application/problem+json"}, []string{"Bff-Reason: upstream_unauthorized", "Cache-Control: no-store", "Content-Type: application/problem+json"}},
		{"403", "issue 5", "/api", "403 Forbidden", []string{"Content-Type: application/problem+json"}, []string{"Cache-Control: no-store", "Content-Type: application/problem+json"}},
		{"redirect-elsewhere", "X175, S46", "/api", "302 Found", []string{"Location: https://evil.example/a?b#c"}, []string{"Cache-Control: no-store", "Location: https://evil.example/a?b#c"}},
		{"redirect-within", "issue 5", "/api", "302 Found", []string{"Location: " + base + "/v1/a%20b?c=d&e#f"}, []string{"Cache-Control: no-store", "Location: /api/a%20b?c=d&e#f"}},
		{"redirect-within-by-path", "issue 5", "/api", "201 Created", []string{"Location: /v1/things/7"}, []string{"Cache-Control: no-store", "Location: /api/things/7"}},
		{"redirect-relative", "issue 5", "/api", "307 Temporary Redirect", []string{"Location: y?z"}, []string{"Cache-Control: no-store", "Location: /api/y?z"}},
		{"redirect-to-the-base", "issue 5", "/api", "302 Found", []string{"Location: /v1"}, []string{"Cache-Control: no-store", "Location: /api"}},
		{"redirect-beside-the-base", "issue 5", "/api", "302 Found", []string{"Location: /logout"}, []string{"Cache-Control: no-store"}},
		{"redirect-beside-the-base-in-full", "issue 5", "/api", "302 Found", []string{"Location: " + base + "/v12/x"}, []string{"Cache-Control: no-store"}},
		{"redirect-out-of-the-base", "issue 5", "/api", "302 Found", []string{"Location: /v1/%2e%2e/logout"}, []string{"Cache-Control: no-store"}},
		{"redirect-to-a-script", "issue 5", "/api", "302 Found", []string{"Location: javascript:alert(1)"}, []string{"Cache-Control: no-store"}},
		{"redirect-twice", "issue 5", "/api", "302 Found", []string{"Location: /v1/a", "Location: https://evil.example/"}, []string{"Cache-Control: no-store"}},
		{"redirect-malformed", "issue 5", "/api", "302 Found", []string{"Location: http://[::1"}, []string{"Cache-Control: no-store"}},
		{"redirect-to-what-we-proxy", "issue 5", "/part", "302 Found", []string{"Location: /part/y"}, []string{"Cache-Control: no-store", "Location: /part/y"}},
		{"redirect-to-what-we-proxy-not", "issue 5", "/part", "302 Found", []string{"Location: /logout"}, []string{"Cache-Control: no-store"}},
		{"redirect-beside-what-we-proxy", "issue 5", "/part", "302 Found", []string{"Location: /party"}, []string{"Cache-Control: no-store"}},
		{"redirect-as-it-is", "issue 5", "/as-is", "302 Found", []string{"Location: /elsewhere"}, []string{"Cache-Control: no-store", "Location: /elsewhere"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			mu.Lock()
			answer = "HTTP/1.1 " + c.status + "\r\n"
			if !strings.Contains(fmt.Sprint(c.send), "Content-Type") && c.name != "untyped" {
				answer += "Content-Type: a/b\r\n"
			}
			answer += strings.Join(append(c.send, ""), "\r\n") + "Content-Length: 4\r\n\r\nbody"
			mu.Unlock()
			res, body, err := s.get(c.path + "/x")
			if err != nil || body != "body" || res.Status != c.status {
				t.Fatalf("%s: %v, body %q, %v", c.rule, res, body, err)
			}
			var got []string
			for name, values := range res.Header {
				for _, v := range values {
					if own := name == "Content-Type" && v == "a/b" && !slices.Contains(c.want, "Content-Type: a/b"); !own && name != "Date" && name != "Content-Length" {
						got = append(got, name+": "+v)
					}
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, c.want) {
				t.Errorf("%s: arrived\n%q\nwant\n%q", c.rule, got, c.want)
			}
		})
	}
}

// X171, S424, D33: neither informational answers nor trailers bring in what
// may not be in a header; what may, they bring.
func TestInformationalAnswersAndTrailers(t *testing.T) {
	base := scripted(t, func() string {
		return "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nSet-Cookie: __Host-Http-bff=evil; Path=/; Secure\r\nAccess-Control-Allow-Origin: *\r\nBFF-Reason: x\r\n\r\n" +
			"HTTP/1.1 102 Processing\r\nClear-Site-Data: \"*\"\r\n\r\n" +
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Set-Cookie\r\nConnection: close\r\n\r\n4\r\nbody\r\n0\r\n" +
			"X-Sum: 7\r\nSet-Cookie: __Host-Http-bff=evil; Path=/; Secure\r\nClear-Site-Data: \"*\"\r\nX-Unannounced: 1\r\nAccess-Control-Allow-Origin: *\r\n\r\n"
	})
	s := serve(t, bff.Upstream{URL: base})
	var hints []string
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		hints = append(hints, fmt.Sprint(code, " ", h))
		return nil
	}}
	r := s.request("GET", "/x", nil)
	res, err := s.client.Do(r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if string(body) != "body" || err != nil {
		t.Errorf("body %q, %v", body, err)
	}
	if got, want := strings.Join(hints, "; "), "103 map[Link:[</a.css>; rel=preload]]; 102 map[]"; got != want {
		t.Errorf("informational answers %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(res.Trailer), "map[X-Sum:[7] X-Unannounced:[1]]"; got != want {
		t.Errorf("trailers %s, want %s", got, want)
	}
	if len(res.Header["Set-Cookie"]) > 0 {
		t.Errorf("header %v", res.Header)
	}
}

// What handlers around us have set stands, though ReverseProxy clears it for
// informational answers: an upstream could take security headers off otherwise.
func TestInformationalAnswersAndOuterHeaders(t *testing.T) {
	for rest, status := range map[string]int{"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Inner: 1\r\n\r\n": 200, "": 502} {
		base := scripted(t, func() string { return "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + rest })
		s := serve(t, bff.Upstream{URL: base})
		inner := s.srv.Config.Handler
		s.srv.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Strict-Transport-Security", "max-age=1")
			w.Header().Set("Cache-Control", "max-age=5")
			inner.ServeHTTP(w, r)
		})
		res, _, err := s.get("/x")
		if err != nil || res.StatusCode != status {
			t.Fatalf("%v, %v; want %d", res, err, status)
		}
		if h := res.Header; h.Get("Strict-Transport-Security") != "max-age=1" || strings.Join(h["Cache-Control"], "; ") != "no-store" || len(h["Link"]) > 0 {
			t.Errorf("%d has %v", status, h)
		}
	}
}

// By choice, an answer that repeats the token is broken off before the token is
// out, wherever in the answer it is and however it is cut.
func TestTokenEcho(t *testing.T) {
	var answer string
	base := scripted(t, func() string { return answer })
	s := serve(t, bff.Upstream{URL: base, BlockTokenEcho: true, WebSocket: true}, bff.Upstream{URL: base, Path: "/open"})
	const head = "HTTP/1.1 200 OK\r\nConnection: close\r\n"
	chunks := func(s string, n int) string {
		var b strings.Builder
		for s != "" {
			k := min(n, len(s))
			fmt.Fprintf(&b, "%x\r\n%s\r\n", k, s[:k])
			s = s[k:]
		}
		return head + "Transfer-Encoding: chunked\r\n\r\n" + b.String() + "0\r\n\r\n"
	}
	secrets := s.iss.Secrets()
	leaks := func(text string) bool {
		return slices.ContainsFunc(secrets, func(secret string) bool { return len(secret) > 100 && strings.Contains(text, secret) })
	}
	for _, c := range []struct {
		name, answer string
		blocked      bool
	}{
		{"clean", head + "\r\nnothing here", false},
		{"header", head + "X-Debug: got $TOKEN\r\n\r\n", true},
		{"location", "HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: https://elsewhere.example/?t=$TOKEN\r\n\r\n", true},
		{"early-hint", "HTTP/1.1 103 Early Hints\r\nLink: <$TOKEN>\r\n\r\n" + head + "\r\n", true},
		{"body", head + "\r\n" + strings.Repeat("x", 100<<10) + "$TOKEN and more", true},
		{"body-compressed", head + "Content-Encoding: gzip\r\n\r\nxxxx", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			answer = c.answer
			res, body, err := s.get("/x")
			text := body
			if res != nil {
				text += fmt.Sprint(res.Header)
			}
			if leaks(text) {
				t.Fatal("the token is out")
			}
			if got := err != nil || res.StatusCode == 502 && res.Header.Get("Bff-Reason") == "bad_gateway"; got != c.blocked {
				t.Errorf("blocked %v, want %v: %v %.100q", got, c.blocked, err, body)
			}
		})
	}
	// Cut anywhere, with beginnings of the token in between.
	token := bearer(t, s)
	for _, n := range []int{1, 2, 7, len(token) - 1, len(token), len(token) + 1, 5000} {
		answer = chunks("a"+token[:20]+token[:5]+token[:len(token)-1]+"-"+token+"tail", n)
		if _, body, err := s.get("/x"); err == nil || leaks(body) {
			t.Errorf("in chunks of %d: %v, and the token out: %v", n, err, leaks(body))
		}
		clean := "a" + token[:20] + token[:5] + token[:len(token)-1] + "-" + token[1:] + token[:9]
		answer = chunks(clean, n)
		if _, body, err := s.get("/x"); err != nil || body != clean {
			t.Errorf("in chunks of %d, clean: %v, %d bytes of %d", n, err, len(body), len(clean))
		}
	}
	// An answer that refuses to switch to WebSocket is one like any other.
	answer = head + "\r\n$TOKEN"
	c, br := s.dial()
	s.upgrade(c, "/x")
	if all, err := io.ReadAll(br); err != nil || leaks(string(all)) {
		t.Errorf("to a WebSocket: %v, and the token out: %v", err, leaks(string(all)))
	}
	if _, body, err := s.get("/open"); err != nil || !leaks(body) {
		t.Errorf("without the choice: %v, %.50q; is the test able to see a token?", err, body)
	}
}

// bearer returns the access token that an upstream is sent for s.
func bearer(t *testing.T, s *served) string {
	t.Helper()
	for _, secret := range s.iss.Secrets() {
		if strings.Count(secret, ".") == 2 && s.isAccessToken(secret) {
			return secret
		}
	}
	t.Fatal("no access token")
	return ""
}

func (s *served) isAccessToken(secret string) bool {
	r, _ := http.NewRequest("GET", s.iss.URL()+"/x", nil)
	r.Header.Set("Authorization", "Bearer "+secret)
	r.URL.Path = ""
	users, _ := http.NewRequest("GET", s.iss.UsersURL(), nil)
	users.Header.Set("Authorization", "Bearer "+secret)
	res, err := s.iss.Client().Do(users)
	if err != nil {
		return false
	}
	res.Body.Close()
	return res.StatusCode == 200
}

// D15: a 401 from upstream. With the clock of a bubble.
func TestUpstreamSays401(t *testing.T) {
	const invalid = `Bearer realm="api", error="invalid_token"`
	for _, c := range []struct {
		name      string
		method    string
		body      int // bytes
		header    http.Header
		challenge string
		age       time.Duration // of the token
		accepts   bool          // any but the first token
		hits      int
		refreshes int
		status    int
		reason    string
	}{
		{"old-token", "GET", 0, nil, "", time.Minute, true, 2, 1, 200, ""},
		{"old-token-head", "HEAD", 0, nil, "", time.Minute, true, 2, 1, 200, ""},
		{"old-token-options", "OPTIONS", 0, nil, "", time.Minute, true, 2, 1, 200, ""},
		{"fresh-token", "GET", 0, nil, invalid, 29 * time.Second, true, 1, 0, 401, "upstream_unauthorized"},
		{"refused-again", "GET", 0, nil, invalid, time.Minute, false, 2, 1, 401, "upstream_unauthorized"},
		{"post-without-challenge", "POST", 10, nil, "", time.Minute, true, 1, 0, 401, "upstream_unauthorized"},
		{"post-with-another-error", "POST", 10, nil, `Bearer error="insufficient_scope"`, time.Minute, true, 1, 0, 401, "upstream_unauthorized"},
		{"post-with-the-word-elsewhere", "POST", 10, nil, `Bearer error_description="error=\"invalid_token\""`, time.Minute, true, 1, 0, 401, "upstream_unauthorized"},
		{"post-with-a-broken-challenge", "POST", 10, nil, invalid + ` x`, time.Minute, true, 1, 0, 401, "upstream_unauthorized"},
		{"post-with-the-error-twice", "POST", 10, nil, invalid + `, error="x"`, time.Minute, true, 1, 0, 401, "upstream_unauthorized"},
		{"post", "POST", 10, nil, invalid, time.Minute, true, 2, 1, 200, ""},
		{"post-second-challenge", "POST", 10, nil, `Basic realm="a, b", Negotiate YWJj==, bearer error=invalid_token`, time.Minute, true, 2, 1, 200, ""},
		{"post-no-body", "POST", 0, nil, invalid, time.Minute, true, 2, 1, 200, ""},
		{"post-64-KB", "POST", 64 << 10, nil, invalid, time.Minute, true, 2, 1, 200, ""},
		{"post-larger", "POST", 64<<10 + 1, nil, invalid, time.Minute, true, 1, 0, 401, "upstream_unauthorized"},
		{"put", "PUT", 10, nil, invalid, time.Minute, true, 2, 1, 200, ""},
		{"delete-without-challenge", "DELETE", 0, nil, "", time.Minute, true, 1, 0, 401, "upstream_unauthorized"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newApp(t, setup{})
				first := ""
				a.api.set(func(w http.ResponseWriter, r *http.Request) {
					if token := r.Header.Get("Authorization"); first == "" || token == first || !c.accepts {
						if first == "" {
							first = token
						}
						if c.challenge != "" {
							w.Header().Set("WWW-Authenticate", c.challenge)
						}
						w.Header().Set("Content-Type", "application/problem+json")
						w.WriteHeader(401)
						io.WriteString(w, `{"title":"the API's own words"}`)
					}
				})
				b := a.signIn("alice")
				time.Sleep(c.age)
				fetch := func() *bfftest.Response {
					var body io.Reader
					if c.body > 0 {
						body = strings.NewReader(strings.Repeat("x", c.body))
					}
					return b.Fetch(c.method, "/api/x", body, c.header)
				}
				r := fetch()
				if r.Status != c.status || r.Reason() != c.reason || a.api.hits() != c.hits || a.iss.Count("token:refresh_token") != c.refreshes {
					t.Errorf("%v with %d requests and %d refreshes; want %d %s with %d and %d",
						r, a.api.hits(), a.iss.Count("token:refresh_token"), c.status, c.reason, c.hits, c.refreshes)
				}
				for i, body := range a.api.bodies {
					if len(body) != c.body {
						t.Errorf("request %d has %d bytes, want %d", i, len(body), c.body)
					}
				}
				if c.status == 401 && c.method != "HEAD" && !strings.Contains(string(r.Body), "own words") {
					t.Errorf("the API's body is lost: %s", r.Body)
				}
				if strings.Contains(string(r.Body), "loginUrl") {
					t.Errorf("a login would not help: %s", r.Body)
				}
				// An upstream that refuses every token spends no more of them.
				if !c.accepts {
					for range 5 {
						fetch()
					}
					if n := a.iss.Count("token:refresh_token"); n != c.refreshes {
						t.Errorf("%d refreshes, want %d", n, c.refreshes)
					}
				}
			})
		})
	}
}

// D15: ten requests that all meet a 401 make one refresh between them, and one
// that comes late uses its result.
func TestUpstreamUnauthorizedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{})
		b := a.signIn("alice")
		stale := a.iss.Secrets()
		a.api.set(func(w http.ResponseWriter, r *http.Request) {
			if slices.Contains(stale, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")) {
				w.WriteHeader(401)
			}
		})
		time.Sleep(time.Minute)
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if r := b.Fetch("GET", "/api/x", nil, nil); r.Status != 200 {
					t.Errorf("GET /api/x = %v", r)
				}
			})
		}
		wg.Wait()
		if n := a.iss.Count("token:refresh_token"); n != 1 {
			t.Errorf("%d refreshes, want 1", n)
		}
	})
}

// numbered returns format with 0 to n-1 in it, joined.
func numbered(format string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// RFC 9470, S130, S131, X177: an upstream's challenge becomes a step_up that
// asks for what it asked, as far as that is well formed.
func TestUpstreamStepUp(t *testing.T) {
	const e = `error="insufficient_user_authentication"`
	a := newApp(t, setup{mux: func(a *app, mux *http.ServeMux) {
		mux.Handle("/open/", a.auth.Proxy(bff.Upstream{URL: "https://api.example.com", Path: "/open", Needs: bff.UserOptional,
			Transport: bfftest.InProcess(map[string]http.Handler{"https://api.example.com": a.api})}))
	}})
	b := a.signIn("alice")
	for _, c := range []struct {
		name       string
		challenges []string
		loginURL   string // empty: no step_up
		members    string
	}{
		{"max-age", []string{`Bearer ` + e + `, error_description="x", max_age="300"`}, "/login?max_age=300", `"maxAge":300`},
		{"max-age-token", []string{`Bearer ` + e + `, max_age=0`}, "/login?max_age=0", `"maxAge":0`},
		{"acr", []string{`Bearer ` + e + `, acr_values="urn:a  urn:b"`}, "/login?acr_values=urn%3Aa+urn%3Ab", `"acrValues":"urn:a urn:b"`},
		{"both", []string{`bearer realm=x,` + e + `,acr_values="a" , max_age=5`}, "/login?acr_values=a&max_age=5", `"acrValues":"a","maxAge":5`},
		{"dpop", []string{`DPoP algs="ES256", ` + e + `, max_age=5`}, "/login?max_age=5", `"maxAge":5`},
		{"among-others", []string{`Basic realm="x", Bearer ` + e + `, max_age=5`, `Negotiate`}, "/login?max_age=5", `"maxAge":5`},
		{"injection", []string{`Bearer ` + e + `, acr_values="x&prompt=none", max_age="-1"`}, "/login?acr_values=x%26prompt%3Dnone", `"acrValues":"x\u0026prompt=none"`},
		{"age-with-sign", []string{`Bearer ` + e + `, acr_values=a, max_age="+5"`}, "/login?acr_values=a", `"acrValues":"a"`},
		{"age-in-exponents", []string{`Bearer ` + e + `, acr_values=a, max_age=9e9`}, "/login?acr_values=a", `"acrValues":"a"`},
		{"age-of-centuries", []string{`Bearer ` + e + `, acr_values=a, max_age=99999999999`}, "/login?acr_values=a", `"acrValues":"a"`},
		{"acr-of-10-KB", []string{`Bearer ` + e + `, max_age=5, acr_values="` + strings.Repeat("a", 10<<10) + `"`}, "", ""},
		{"acr-of-300", []string{`Bearer ` + e + `, max_age=5, acr_values="` + strings.Repeat("a", 300) + `"`}, "/login?max_age=5", `"maxAge":5`},
		{"acr-not-ascii", []string{`Bearer ` + e + `, max_age=5, acr_values="caf` + "\xe9" + `"`}, "/login?max_age=5", `"maxAge":5`},
		{"nothing-asked", []string{`Bearer ` + e}, "", ""},
		{"another-scheme", []string{`Basic ` + e + `, max_age=5`}, "", ""},
		{"another-error", []string{`Bearer error="insufficient_scope", max_age=5`}, "", ""},
		{"parameter-twice", []string{`Bearer ` + e + `, max_age=5, MAX_AGE=6`}, "", ""},
		{"unclosed", []string{`Bearer ` + e + `, max_age="5`}, "", ""},
		{"no-comma", []string{`Bearer ` + e + ` max_age=5`}, "", ""},
		{"no-scheme", []string{e + `, max_age=5`}, "", ""},
		{"40-parameters", []string{`Bearer ` + e + `, max_age=5` + numbered(", a%d=b", 40)}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a.api.set(func(w http.ResponseWriter, r *http.Request) {
				w.Header()["Www-Authenticate"] = c.challenges
				w.WriteHeader(401)
			})
			r := b.Fetch("GET", "/api/x", nil, nil)
			if c.loginURL == "" {
				if r.Status != 401 || r.Reason() != "upstream_unauthorized" {
					t.Errorf("%v, want the upstream's 401", r)
				}
				return
			}
			var body struct{ LoginURL string }
			if r.Status != 401 || r.Reason() != "step_up" || r.JSON(&body) != nil || body.LoginURL != c.loginURL || !strings.Contains(string(r.Body), c.members) {
				t.Errorf("%v %s; want step_up with %s and %s", r, r.Body, c.loginURL, c.members)
			}
			if r := a.browser().Fetch("GET", "/open/x", nil, nil); r.Status != 401 || r.Reason() != "" {
				t.Errorf("nobody, at a route for anybody: %v", r)
			}
		})
	}
	if n := a.iss.Count("token:refresh_token"); n != 0 {
		t.Errorf("%d refreshes for what no refresh changes", n)
	}
	// The login that it leads to is held to what was asked (D26).
	a.api.set(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer `+e+`, acr_values="gold", max_age=0`)
		w.WriteHeader(401)
	})
	var body struct{ LoginURL string }
	if err := b.Fetch("GET", "/api/x", nil, nil).JSON(&body); err != nil {
		t.Fatal(err)
	}
	r := b.Navigate(body.LoginURL + "&returnUrl=/page")
	last := r.Hops[len(r.Hops)-1].URL.Query()
	if last.Get("acr_values") != "gold" || last.Get("max_age") != "0" {
		t.Errorf("the issuer was asked %s", last.Encode())
	}
}

// Identity headers say who it is, for any subject and any group, in one way.
func TestIdentityHeaders(t *testing.T) {
	a := newApp(t, setup{api: bff.Upstream{UserIDHeader: "x-user-id", UserGroupsHeader: "X-User-Groups"}})
	for _, c := range []struct {
		sub    string
		groups []string
		wantID string
		want   string
	}{
		{"auth0|1@x.example", []string{"Admin", "Ops team"}, "auth0|1@x.example", "Admin,Ops team"},
		{"100%", []string{"a,b", "100%", " x", "y ", "caf\u00e9"}, "100%25", "a%2Cb,100%25,%20x,y%20,caf%C3%A9"},
		{"x,y", []string{"a\r\nX-Admin: 1", "b\x00"}, "x,y", "a%0D%0AX-Admin: 1,b%00"},
	} {
		a.iss.AddUser(bfftest.User{Name: "someone", ID: c.sub, Groups: c.groups})
		b := a.browser()
		if r := b.SignIn("someone"); r.Err != nil {
			t.Fatalf("sign-in as %q: %v\n%s", c.sub, r.Err, a.log)
		}
		r := b.Fetch("GET", "/api/x", nil, http.Header{"X-User-Id": {"admin"}, "X-User-Groups": {"Admin"}, "X_user_id": {"admin"}})
		h := a.api.last().Header
		if r.Status != 200 || h.Get("X-User-Id") != c.wantID || len(h["X-User-Id"]) != 1 || h.Get("X-User-Groups") != c.want || len(h["X-User-Groups"]) != 1 {
			t.Errorf("%q %q: %v, the upstream got %q", c.sub, c.groups, r, h)
		}
	}
}

// The context of a request to the upstream ends with the browser's.
func TestBrowserGoesAway(t *testing.T) {
	ended := make(chan struct{})
	a := newApp(t, setup{})
	a.api.set(func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(ended)
	})
	b := a.signIn("alice")
	ctx, cancel := context.WithCancel(t.Context())
	r, _ := http.NewRequestWithContext(ctx, "GET", appURL+"/api/x", nil)
	res, err := b.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	cancel()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the upstream's request goes on")
	}
}
