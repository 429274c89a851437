package spa_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/agglestone/bff/spa"
)

// A devServer does what Vite does: modules by their path, the index for all
// else, and a WebSocket that echoes lines.
type devServer struct {
	*httptest.Server
	mu   sync.Mutex
	seen []*http.Request
}

func newDevServer(t *testing.T) *devServer {
	t.Helper()
	d := &devServer{}
	d.Server = httptest.NewServer(d)
	t.Cleanup(d.Close)
	return d
}

func (d *devServer) requests() []*http.Request {
	d.mu.Lock()
	defer d.mu.Unlock()
	seen := d.seen
	d.seen = nil
	return seen
}

func (d *devServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	d.seen = append(d.seen, r)
	d.mu.Unlock()
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Allow-Credentials", "true")
	h.Set("Clear-Site-Data", `"cookies"`)
	h.Set("Strict-Transport-Security", "max-age=1")
	h.Set("Cache-Control", "no-cache")
	h.Add("Set-Cookie", "bff-8080=planted; Path=/")
	h.Add("Set-Cookie", "other=x")
	switch {
	case strings.EqualFold(r.Header.Get("Upgrade"), "websocket"):
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSet-Cookie: bff-8080=planted\r\n\r\n")
		line, err := rw.ReadString('\n')
		if err == nil {
			fmt.Fprintf(conn, "echo %s", line)
		}
	case strings.HasPrefix(r.URL.Path, "/src/"), strings.HasPrefix(r.URL.Path, "/node_modules/"), strings.HasPrefix(r.URL.Path, "/@"):
		h.Set("Content-Type", "text/javascript")
		fmt.Fprintf(w, "module %s", r.URL.RequestURI())
	case r.URL.Path == "/moved":
		http.Redirect(w, r, d.URL+"/base/?x=1", http.StatusFound)
	case r.URL.Path == "/elsewhere":
		http.Redirect(w, r, "https://docs.example.com/", http.StatusFound)
	default:
		h.Set("Content-Type", "text/html")
		io.WriteString(w, indexHTML)
	}
}

// serve runs Dev on a socket, as requests are judged by where they come from.
func serveDev(t *testing.T, server string, opts spa.Options) *httptest.Server {
	t.Helper()
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	h, err := spa.Dev(server, opts)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}

var noRedirects = &http.Client{
	Timeout:       10 * time.Second,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func send(t *testing.T, method, target string, headers ...string) *http.Response {
	t.Helper()
	r, err := http.NewRequest(method, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
			continue
		}
		r.Header.Add(headers[i], headers[i+1])
	}
	res, err := noRedirects.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res
}

func TestDevForwards(t *testing.T) {
	d := newDevServer(t)
	srv := serveDev(t, d.URL, spa.Options{EndSession: "https://login.example.com", Sources: map[string][]string{"script-src": {"'strict-dynamic'", "'sha256-AAAA'", "https://cdn.example.com"}}})
	for target, want := range map[string]string{
		"/src/main.ts":                            "module /src/main.ts",
		"/src/a%2Fb.ts?t=1&import":                "module /src/a%2Fb.ts?t=1&import",
		"/node_modules/.vite/deps/vue.js?v=1;2%x": "module /node_modules/.vite/deps/vue.js?v=1;2%x",
		"/@id/__x00__plugin":                      "module /@id/__x00__plugin",
	} {
		res := send(t, "GET", srv.URL+target, script...)
		if got := body(t, res); res.StatusCode != 200 || got != want {
			t.Errorf("GET %s = %d %q, want %q", target, res.StatusCode, got, want)
		}
	}
	d.requests()

	// What the dev server gets of a request, and the browser of an answer.
	res := send(t, "GET", srv.URL+"/orders", append([]string{
		"Cookie", "bff-8080=session; theme=dark", "Cookie", "__Host-Http-bff=session", "Authorization", "Bearer x", "Proxy-Authorization", "Basic x",
		"X-Forwarded-For", "127.0.0.1", "X-Forwarded-Host", "localhost:1", "X-Real-Ip", "127.0.0.1",
		"Sec-Fetch-Site", "cross-site", // the issuer leads back here
	}, navigation...)...)
	if got := body(t, res); res.StatusCode != 200 || got != indexHTML {
		t.Errorf("a navigation = %d %q", res.StatusCode, got)
	}
	seen := d.requests()
	if len(seen) != 1 {
		t.Fatalf("the dev server saw %d requests, want 1", len(seen))
	}
	if "http://"+seen[0].Host != d.URL {
		t.Errorf("the dev server saw Host %q", seen[0].Host)
	}
	for _, name := range []string{"Cookie", "Authorization", "Proxy-Authorization", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip"} {
		if got := seen[0].Header.Values(name); len(got) > 0 {
			t.Errorf("the dev server saw %s %q", name, got)
		}
	}
	for _, name := range []string{"Set-Cookie", "Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Clear-Site-Data", "Strict-Transport-Security"} {
		if got := res.Header.Values(name); len(got) > 0 {
			t.Errorf("the browser got %s %q", name, got)
		}
	}
	csp := split(t, res.Header.Get("Content-Security-Policy"))
	for name, want := range map[string]string{
		"script-src":      "'self' https://cdn.example.com 'unsafe-inline' 'unsafe-eval'",
		"style-src":       "'self' 'unsafe-inline'",
		"worker-src":      "'self' blob:",
		"form-action":     "'self' https://login.example.com",
		"object-src":      "'none'",
		"frame-ancestors": "'none'",
	} {
		if csp[name] != want {
			t.Errorf("%s is %q, want %q", name, csp[name], want)
		}
	}
	if res.Header.Get("X-Content-Type-Options") != "nosniff" || res.Header.Get("Cross-Origin-Resource-Policy") != "same-origin" || res.Header.Get("Cache-Control") != "no-cache" {
		t.Errorf("the headers are %v", res.Header)
	}
	for target, want := range map[string]string{"/moved": "/base/?x=1", "/elsewhere": "https://docs.example.com/"} {
		if got := send(t, "GET", srv.URL+target, navigation...).Header.Get("Location"); got != want {
			t.Errorf("GET %s leads to %q, want %q", target, got, want)
		}
	}
}

// What is 404 in production is 404 here, though the dev server sends its index.
func TestDevFallback(t *testing.T) {
	d := newDevServer(t)
	srv := serveDev(t, d.URL, spa.Options{})
	for _, c := range []struct {
		method, target string
		headers        []string
		status         int
	}{
		{"GET", "/", plainClient, 200},
		{"GET", "/orders", navigation, 200},
		{"GET", "/orders", oldBrowser, 200},
		{"GET", "/partial.html", fetching, 200},
		{"GET", "/auth/sesion", fetching, 404},
		{"GET", "/assets/typo.js", script, 404},
		{"GET", "/orders", plainClient, 404},
		{"HEAD", "/orders", plainClient, 404},
		{"POST", "/orders", navigation, 405},
	} {
		res := send(t, c.method, srv.URL+c.target, c.headers...)
		got := body(t, res)
		if res.StatusCode != c.status {
			t.Errorf("%s %s = %d, want %d", c.method, c.target, res.StatusCode, c.status)
		}
		if c.status == 404 && (c.method == "GET" && got != "404 not found\n" || res.Header.Get("Content-Type") != "text/plain; charset=utf-8" ||
			!strings.HasPrefix(res.Header.Get("Content-Security-Policy"), "default-src 'none'") || res.Header.Get("Access-Control-Allow-Origin") != "") {
			t.Errorf("%s %s = %q %v", c.method, c.target, got, res.Header)
		}
	}
}

// A dev server gives away source code: nobody elsewhere sees it, and no page of
// another origin.
func TestDevIsLocal(t *testing.T) {
	d := newDevServer(t)
	srv := serveDev(t, d.URL, spa.Options{})
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	for _, c := range []struct {
		name    string
		headers []string
		status  int
	}{
		{"address", nil, 200},
		{"localhost", []string{"Host", "localhost:" + port}, 200},
		{"subdomain", []string{"Host", "shop.localhost:" + port}, 200},
		{"ipv6", []string{"Host", "[::1]:" + port}, 200},
		{"own-origin", []string{"Host", "localhost:8080", "Origin", "http://localhost:8080", "Sec-Fetch-Site", "same-origin"}, 200},
		{"own-https-origin", []string{"Host", "localhost:8080", "Origin", "https://localhost:8080"}, 200},
		{"typed", append([]string{"Sec-Fetch-Site", "none"}, navigation...), 200},
		{"link-elsewhere", append([]string{"Sec-Fetch-Site", "cross-site"}, navigation...), 200},
		{"proxy-here", []string{"X-Forwarded-For", "127.0.0.1, ::1", "X-Forwarded-Host", "localhost"}, 200},

		{"public-host", []string{"Host", "shop.example.com"}, 403},
		{"rebinding", []string{"Host", "evil.example:" + port}, 403},
		{"lookalike-host", []string{"Host", "localhost.example.com"}, 403},
		{"lan-host", []string{"Host", "192.168.1.7:" + port}, 403},
		{"proxied-client", []string{"X-Forwarded-For", "203.0.113.9"}, 403},
		{"proxied-client-behind-another", []string{"X-Forwarded-For", "203.0.113.9, 127.0.0.1"}, 403},
		{"proxied-client-twice", []string{"X-Forwarded-For", "127.0.0.1", "X-Forwarded-For", "203.0.113.9"}, 403},
		{"proxied-host", []string{"X-Forwarded-Host", "shop.example.com"}, 403},
		{"proxied-real-ip", []string{"X-Real-Ip", "203.0.113.9"}, 403},
		{"proxied-by-the-standard", []string{"Forwarded", "for=203.0.113.9"}, 403},
		{"foreign-origin", []string{"Origin", "https://evil.example"}, 403},
		{"null-origin", []string{"Origin", "null"}, 403},
		{"other-port", []string{"Host", "localhost:8080", "Origin", "http://localhost:5173"}, 403},
		{"two-origins", []string{"Host", "localhost:8080", "Origin", "http://localhost:8080", "Origin", "https://evil.example"}, 403},
		{"cross-site-script", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "script"}, 403},
		{"same-site-fetch", []string{"Sec-Fetch-Site", "same-site", "Sec-Fetch-Mode", "cors"}, 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			d.requests()
			res := send(t, "GET", srv.URL+"/src/main.ts", c.headers...)
			got := body(t, res)
			if res.StatusCode != c.status {
				t.Fatalf("GET with %q = %d %q, want %d", c.headers, res.StatusCode, got, c.status)
			}
			if n := len(d.requests()); (n == 1) != (c.status == 200) {
				t.Errorf("the dev server saw %d requests", n)
			}
			if c.status == 403 && (!strings.HasPrefix(res.Header.Get("Content-Security-Policy"), "default-src 'none'") || res.Header.Get("Cache-Control") != "no-store") {
				t.Errorf("the refusal has the headers %v", res.Header)
			}
		})
	}
	// From another machine, whatever it claims.
	h, err := spa.Dev(d.URL, spa.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]int{"192.0.2.7:1234": 403, "[2001:db8::1]:1": 403, "": 403, "@": 403, "127.0.0.1:1": 200, "[::1]:1": 200} {
		r := httptest.NewRequest("GET", "http://localhost:8080/src/main.ts", nil)
		r.RemoteAddr = addr
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("GET from %q = %d, want %d", addr, w.Code, want)
		}
	}
	// The page says what to do, in words that the request has no part in.
	res := send(t, "GET", srv.URL+"/", append([]string{"Host", "<script>.example"}, navigation...)...)
	if got := body(t, res); strings.Contains(got, "<script>") {
		t.Errorf("the page is %q", got)
	}
}

// The WebSocket for hot reloading passes, for pages of our own only.
func TestDevWebSocket(t *testing.T) {
	d := newDevServer(t)
	srv := serveDev(t, d.URL, spa.Options{})
	addr := srv.Listener.Addr().String()
	dial := func(origin string) (net.Conn, *bufio.Reader, *http.Response) {
		t.Helper()
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		if origin != "" {
			origin = "Origin: " + origin + "\r\n"
		}
		fmt.Fprintf(conn, "GET /?token=x HTTP/1.1\r\nHost: %s\r\n%sConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: vite-hmr\r\nCookie: bff-8080=session\r\n\r\n", addr, origin)
		in := bufio.NewReader(conn)
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		return conn, in, res
	}
	conn, in, res := dial("http://" + addr)
	if res.StatusCode != 101 || len(res.Header["Set-Cookie"]) > 0 {
		t.Fatalf("the handshake = %d %v, want 101", res.StatusCode, res.Header)
	}
	fmt.Fprintf(conn, "hello\n")
	if got, err := in.ReadString('\n'); err != nil || got != "echo hello\n" {
		t.Errorf("the socket answers %q, %v", got, err)
	}
	seen := d.requests()
	if len(seen) != 1 || seen[0].Header.Get("Cookie") != "" || seen[0].Header.Get("Origin") != d.URL ||
		seen[0].Header.Get("Sec-Websocket-Protocol") != "vite-hmr" || seen[0].URL.RawQuery != "token=x" {
		t.Errorf("the dev server saw %v", seen)
	}
	for _, origin := range []string{"", "https://evil.example", "null", "http://localhost:1"} {
		if _, _, res := dial(origin); res.StatusCode != 403 {
			t.Errorf("the handshake with Origin %q = %d, want 403", origin, res.StatusCode)
		}
	}
	if n := len(d.requests()); n != 0 {
		t.Errorf("the dev server saw %d of the refused", n)
	}
}

// Without a dev server, a person reads what to do and the page tries again.
func TestDevServerDown(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	var log strings.Builder
	srv := serveDev(t, "http://"+addr, spa.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	res := send(t, "GET", srv.URL+"/orders", navigation...)
	page := body(t, res)
	if res.StatusCode != 502 || res.Header.Get("Content-Type") != "text/html; charset=utf-8" || res.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("GET = %d %v", res.StatusCode, res.Header)
	}
	for _, want := range []string{"Nothing answers at http://" + addr, "npm run dev", `http-equiv="refresh"`} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
	if !strings.Contains(res.Header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("its policy is %q", res.Header.Get("Content-Security-Policy"))
	}
	res = send(t, "GET", srv.URL+"/src/main.ts", script...)
	if got := body(t, res); res.StatusCode != 502 || !strings.Contains(got, addr) || strings.Contains(got, "<") {
		t.Errorf("GET of a script = %d %q", res.StatusCode, got)
	}
	srv.Close()
	if !strings.Contains(log.String(), "not for production") || !strings.Contains(log.String(), "can't be reached") {
		t.Errorf("the log is %q", log.String())
	}
}

func TestDevAddresses(t *testing.T) {
	for _, server := range []string{"http://localhost:5173", "http://localhost:5173/", "http://127.0.0.1:5173", "http://[::1]:5173", "http://vite.localhost:1", "http://localhost"} {
		if _, err := spa.Dev(server, spa.Options{Logger: slog.New(slog.DiscardHandler)}); err != nil {
			t.Errorf("Dev(%q): %v", server, err)
		}
	}
	for _, server := range []string{"", "localhost:5173", "https://localhost:5173", "http://192.168.1.7:5173", "http://vite.example.com", "http://localhost.example.com",
		"http://localhost@evil.example", "http://localhost:5173/app", "http://localhost:5173/?x", "http://localhost:5173/#x", "http://u@localhost", "//localhost", "http://0.0.0.0:5173"} {
		if h, err := spa.Dev(server, spa.Options{Logger: slog.New(slog.DiscardHandler)}); err == nil || h != nil {
			t.Errorf("Dev(%q) is accepted", server)
		} else if !strings.HasPrefix(err.Error(), "spa: Dev: ") {
			t.Errorf("Dev(%q): %v", server, err)
		}
	}
	if _, err := spa.Dev("http://example.com", spa.Options{OpenerPolicy: "x"}); err == nil || !strings.Contains(err.Error(), "OpenerPolicy") || !strings.Contains(err.Error(), "example.com") {
		t.Errorf("not all mistakes at once: %v", err)
	}
}

// localhost is what the resolver says, and a resolver may lie.
func TestDevDialsLoopbackOnly(t *testing.T) {
	target, err := url.Parse("http://elsewhere.localhost:9")
	if err != nil {
		t.Fatal(err)
	}
	// With a resolver of our own, the name leads to a documentation address.
	old := net.DefaultResolver
	defer func() { net.DefaultResolver = old }()
	net.DefaultResolver = liar()
	srv := serveDev(t, target.String(), spa.Options{})
	res := send(t, "GET", srv.URL+"/orders", navigation...)
	if got := body(t, res); res.StatusCode != 502 || !strings.Contains(got, "192.0.2.1:9 is not on this machine") {
		t.Errorf("GET = %d %q", res.StatusCode, got)
	}
}

// liar resolves every name to 192.0.2.1 (RFC 5737).
func liar() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe() // no packets: messages have their length before them
		ours.SetDeadline(time.Now().Add(10 * time.Second))
		go func() {
			defer ours.Close()
			query := make([]byte, 512)
			n, err := io.ReadAtLeast(ours, query, 2+12)
			if err != nil {
				return
			}
			query = query[2:n]
			end := 12
			for query[end] != 0 { // the question's name
				end += int(query[end]) + 1
			}
			question := query[12 : end+5]
			reply := slices.Concat(query[:2], []byte{0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0}, question,
				[]byte{0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1})
			if question[len(question)-3] != 1 { // not for an A record: no answer
				reply = slices.Concat(query[:2], []byte{0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, question)
			}
			ours.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
		}()
		return theirs, nil
	}}
}
