package bff_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agglestone/bff"
)

// dial opens a connection to the application.
func (s *served) dial() (net.Conn, *bufio.Reader) {
	s.Helper()
	c, err := net.Dial("tcp", s.srv.Listener.Addr().String())
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	return c, bufio.NewReader(c)
}

// upgrade asks for a WebSocket at path, as a browser does.
func (s *served) upgrade(c net.Conn, path string) {
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: app.example.com\r\nOrigin: %s\r\nCookie: %s=%s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: chat\r\n\r\n",
		path, appURL, s.cookie.Name, s.cookie.Value)
}

const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" +
	"Sec-WebSocket-Protocol: chat\r\nSet-Cookie: __Host-Http-bff=evil; Path=/; Secure\r\n\r\n"

// A WebSocket carries bytes both ways, with the token in its handshake and
// nothing of the upstream's that may not pass, and ends with either side.
func TestWebSocket(t *testing.T) {
	f := newFaulty(t)
	s := serve(t, bff.Upstream{URL: f.url, WebSocket: true},
		bff.Upstream{URL: f.url, Path: "/short", WebSocket: true, IdleTimeout: time.Second})
	open := func(t *testing.T, path string) (net.Conn, *bufio.Reader) {
		t.Helper()
		c, br := s.dial()
		s.upgrade(c, path)
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != 101 || res.Header.Get("Upgrade") != "WebSocket" || res.Header.Get("Sec-Websocket-Accept") == "" ||
			res.Header.Get("Sec-Websocket-Protocol") != "chat" || len(res.Header["Set-Cookie"]) > 0 || res.Header.Get("Cache-Control") != "no-store" {
			t.Fatalf("handshake: %s %v", res.Status, res.Header)
		}
		return c, br
	}
	line := func(t *testing.T, br *bufio.Reader, want string) {
		t.Helper()
		if got, err := br.ReadString('\n'); got != want {
			t.Fatalf("read %q, %v; want %q", got, err, want)
		}
	}
	handshake := make(chan *http.Request, 1)
	gone := make(chan struct{}, 1)
	echo := func(c *net.TCPConn, br *bufio.Reader) {
		r, err := readRequest(br)
		if err != nil {
			return
		}
		handshake <- r
		io.WriteString(c, switching+"hello\n") // with the first bytes right behind
		io.Copy(c, br)
		gone <- struct{}{}
	}
	closed := func(t *testing.T, br *bufio.Reader) {
		t.Helper()
		if _, err := br.ReadByte(); err == nil {
			t.Error("the browser's side is still open")
		}
		select {
		case <-gone:
		case <-time.After(10 * time.Second):
			t.Error("the upstream's side is still open")
		}
	}
	t.Run("echo", func(t *testing.T) {
		f.set(echo)
		c, br := open(t, "/hub?id=1")
		if r := <-handshake; r.URL.Path != "/hub" || !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ey") || r.Header.Get("Cookie") != "" ||
			r.Header.Get("Origin") != appURL || r.Header.Get("Sec-Websocket-Key") == "" {
			t.Errorf("the upstream's handshake: %s %v", r.URL, r.Header)
		}
		line(t, br, "hello\n")
		for i := range 3 {
			fmt.Fprintf(c, "%d\n", i)
			line(t, br, fmt.Sprintf("%d\n", i))
		}
		c.Close()
		select {
		case <-gone:
		case <-time.After(10 * time.Second):
			t.Error("the upstream's side is still open")
		}
	})
	t.Run("upstream-closes", func(t *testing.T) {
		f.set(func(c *net.TCPConn, br *bufio.Reader) {
			readRequest(br)
			io.WriteString(c, switching+"bye\n")
			gone <- struct{}{}
		})
		_, br := open(t, "/hub")
		line(t, br, "bye\n")
		closed(t, br)
	})
	t.Run("idle", func(t *testing.T) {
		f.set(echo)
		_, br := open(t, "/short")
		<-handshake
		line(t, br, "hello\n")
		closed(t, br)
	})
	t.Run("another-protocol", func(t *testing.T) {
		f.set(says(strings.Replace(switching, "WebSocket", "h2c", 1)))
		c, br := s.dial()
		s.upgrade(c, "/hub")
		if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != 502 || res.Header.Get("Bff-Reason") != "bad_gateway" {
			t.Errorf("answer %v, %v", res, err)
		}
	})
	t.Run("refused-by-the-upstream", func(t *testing.T) {
		f.set(says("HTTP/1.1 426 Upgrade Required\r\nContent-Type: a/b\r\nContent-Length: 2\r\n\r\nno"))
		c, br := s.dial()
		s.upgrade(c, "/hub")
		if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != 426 || res.Header.Get("Bff-Reason") != "" {
			t.Errorf("answer %v, %v", res, err)
		}
	})
}

// An answer that switched protocols and can't be passed on is closed, and its
// stream with it, whatever keeps it from being passed on.
func TestSwitchedForNothing(t *testing.T) {
	for _, c := range []struct {
		name   string
		needs  bff.Need
		answer string
		wrap   func(http.Handler) http.Handler
	}{
		{"another-protocol", bff.User, strings.Replace(switching, "WebSocket", "h2c", 1), nil},
		{"no-protocol", bff.User, "HTTP/1.1 101 Switching Protocols\r\n\r\n", nil},
		{"another-protocol-for-nobody", bff.None, strings.Replace(switching, "WebSocket", "h2c", 1), nil},
		{"a-writer-that-can-not", bff.User, switching, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(struct{ http.ResponseWriter }{w}, r) })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFaulty(t)
			closed := make(chan struct{}, 40)
			f.set(func(conn *net.TCPConn, br *bufio.Reader) {
				if _, err := readRequest(br); err != nil {
					return
				}
				io.WriteString(conn, c.answer)
				ended(br)
				closed <- struct{}{}
			})
			s := serve(t, bff.Upstream{URL: f.url, WebSocket: true, Needs: c.needs})
			if c.wrap != nil {
				s.srv.Config.Handler = c.wrap(s.srv.Config.Handler)
			}
			for i := range 40 { // more than a session may have streams
				conn, br := s.dial()
				s.upgrade(conn, "/hub")
				if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != 502 {
					t.Fatalf("request %d: %v, %v; want 502", i, res, err)
				}
				select {
				case <-closed:
				case <-time.After(10 * time.Second):
					t.Fatal("the upstream's side is still open")
				}
				conn.Close()
			}
		})
	}
}

// Events arrive as they are sent, over HTTP/1.1 and HTTP/2.
func TestServerSentEvents(t *testing.T) {
	next := make(chan struct{})
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			http.NewResponseController(w).Flush()
			select {
			case <-next: // the last one has arrived
			case <-r.Context().Done():
				return
			}
		}
	}))
	defer up.Close()
	for _, h2 := range []bool{false, true} {
		t.Run(map[bool]string{false: "http1", true: "http2"}[h2], func(t *testing.T) {
			s := serveWith(t, h2, bff.Upstream{URL: up.URL})
			res, err := s.client.Do(s.request("GET", "/events", nil))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			br := bufio.NewReader(res.Body)
			for i := range 3 {
				got, err := br.ReadString('\n')
				if want := fmt.Sprintf("data: %d\n", i); got != want || err != nil {
					t.Fatalf("event %q, %v; want %q", got, err, want)
				}
				br.ReadString('\n')
				next <- struct{}{}
			}
			if rest, err := io.ReadAll(br); len(rest) > 0 || err != nil {
				t.Errorf("then %q, %v", rest, err)
			}
		})
	}
}

// serveWith is serve, over TLS with HTTP/2 if h2.
func serveWith(t *testing.T, h2 bool, rows ...bff.Upstream) *served {
	t.Helper()
	s := serve(t, rows...)
	if h2 {
		srv := httptest.NewUnstartedServer(s.srv.Config.Handler)
		srv.EnableHTTP2 = true
		srv.StartTLS()
		t.Cleanup(srv.Close)
		s.srv, s.client = srv, srv.Client()
	}
	return s
}

// A conversation: request and answer run at the same time, and trailers end it,
// as gRPC has it. From HTTP/2 to each kind of upstream that speaks HTTP/2.
func TestConversation(t *testing.T) {
	talk := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 || r.Header.Get("Te") != "trailers" || !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ey") {
			http.Error(w, fmt.Sprint(r.Proto, r.Header), 400)
			return
		}
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		rc := http.NewResponseController(w)
		rc.Flush()
		for br := bufio.NewReader(r.Body); ; {
			line, err := br.ReadString('\n')
			if err != nil {
				break
			}
			io.WriteString(w, strings.ToUpper(line))
			rc.Flush()
		}
		w.Header().Set("Grpc-Status", "0")
		w.Header().Set(http.TrailerPrefix+"Grpc-Message", "done")
		w.Header().Set(http.TrailerPrefix+"Set-Cookie", "a=b")
	})
	h2c := httptest.NewUnstartedServer(talk)
	h2c.Config.Protocols = new(http.Protocols)
	h2c.Config.Protocols.SetUnencryptedHTTP2(true)
	h2c.Start()
	defer h2c.Close()
	overTLS := httptest.NewUnstartedServer(talk)
	overTLS.EnableHTTP2 = true
	overTLS.StartTLS()
	defer overTLS.Close()
	for name, up := range map[string]bff.Upstream{
		"h2c": {URL: h2c.URL, H2C: true},
		"h2":  {URL: overTLS.URL, Transport: overTLS.Client().Transport},
	} {
		t.Run(name, func(t *testing.T) {
			s := serveWith(t, true, up)
			pr, pw := io.Pipe()
			r := s.request("POST", "/pkg.Service/Talk", pr)
			r.Header.Set("Te", "trailers")
			r.Header.Set("Content-Type", "application/grpc")
			res, err := s.client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			br := bufio.NewReader(res.Body)
			for i := range 3 {
				fmt.Fprintf(pw, "line %d\n", i)
				if got, err := br.ReadString('\n'); got != fmt.Sprintf("LINE %d\n", i) {
					t.Fatalf("%s: read %q, %v", res.Status, got, err)
				}
			}
			pw.Close()
			if rest, err := io.ReadAll(br); len(rest) > 0 || err != nil {
				t.Errorf("then %q, %v", rest, err)
			}
			if res.Trailer.Get("Grpc-Status") != "0" || res.Trailer.Get("Grpc-Message") != "done" || res.Trailer.Get("Set-Cookie") != "" {
				t.Errorf("trailers %v", res.Trailer)
			}
		})
	}
}

// RFC 9110, section 10.1.1: who waits to be asked for a body is asked by the
// upstream, or not at all.
func TestExpectContinue(t *testing.T) {
	f := newFaulty(t)
	s := serve(t, bff.Upstream{URL: f.url})
	ask := func(t *testing.T) (net.Conn, *bufio.Reader) {
		t.Helper()
		c, br := s.dial()
		fmt.Fprintf(c, "PUT /x HTTP/1.1\r\nHost: x\r\nCookie: %s=%s\r\nX-CSRF: 1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", s.cookie.Name, s.cookie.Value)
		return c, br
	}
	t.Run("wanted", func(t *testing.T) {
		asked := make(chan string, 1)
		f.set(func(c *net.TCPConn, br *bufio.Reader) {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
			body, _ := io.ReadAll(r.Body)
			asked <- r.Header.Get("Expect") + " " + string(body)
			io.WriteString(c, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
		})
		c, br := ask(t)
		if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != 100 {
			t.Fatalf("answer %v, %v; want 100", res, err)
		}
		io.WriteString(c, "hello")
		if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != 204 {
			t.Fatalf("answer %v, %v; want 204", res, err)
		}
		if got := <-asked; got != "100-continue hello" {
			t.Errorf("the upstream got %q", got)
		}
	})
	t.Run("not-wanted", func(t *testing.T) {
		f.set(func(c *net.TCPConn, br *bufio.Reader) {
			if _, err := http.ReadRequest(br); err == nil {
				io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			}
		})
		_, br := ask(t)
		if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != 413 {
			t.Fatalf("answer %v, %v; want 413", res, err)
		}
	})
}

// Ranges and HEAD mean the same through us.
func TestRangesAndHead(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		http.ServeContent(w, r, "x.txt", time.Time{}, strings.NewReader("0123456789"))
	}))
	defer up.Close()
	s := serve(t, bff.Upstream{URL: up.URL})
	for _, c := range []struct {
		method string
		header map[string]string
		status int
		want   map[string]string
		body   string
	}{
		{"GET", nil, 200, map[string]string{"Content-Length": "10", "Accept-Ranges": "bytes"}, "0123456789"},
		{"HEAD", nil, 200, map[string]string{"Content-Length": "10", "Content-Type": "text/plain; charset=utf-8"}, ""},
		{"GET", map[string]string{"Range": "bytes=2-4"}, 206, map[string]string{"Content-Length": "3", "Content-Range": "bytes 2-4/10"}, "234"},
		{"GET", map[string]string{"Range": "bytes=20-"}, 416, map[string]string{"Content-Range": "bytes */10"}, "invalid range: failed to overlap\n"},
		{"GET", map[string]string{"Range": "bytes=2-4", "If-Range": `"v0"`}, 200, map[string]string{"Content-Length": "10"}, "0123456789"},
		{"GET", map[string]string{"If-None-Match": `"v1"`}, 304, map[string]string{"Etag": `"v1"`}, ""},
	} {
		r := s.request(c.method, "/x", nil)
		for name, value := range c.header {
			r.Header.Set(name, value)
		}
		res, err := s.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != c.status || string(body) != c.body || err != nil {
			t.Errorf("%s %v: %s %q, %v; want %d %q", c.method, c.header, res.Status, body, err, c.status, c.body)
		}
		for name, want := range c.want {
			if got := res.Header.Get(name); got != want {
				t.Errorf("%s %v: %s is %q, want %q", c.method, c.header, name, got, want)
			}
		}
	}
}

// Bodies are streamed, not kept: the first bytes are there before the last are
// made, whichever way, whatever the length.
func TestBodiesAreStreamed(t *testing.T) {
	got := make(chan int64, 1)
	more := make(chan struct{})
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" {
			w.Header().Set("Content-Length", "2000000")
			w.Write(bytes.Repeat([]byte("x"), 1000000))
			http.NewResponseController(w).Flush()
			<-more
			w.Write(bytes.Repeat([]byte("x"), 1000000))
			return
		}
		n, _ := io.ReadFull(r.Body, make([]byte, 1000000))
		got <- int64(n)
		rest, _ := io.Copy(io.Discard, r.Body)
		got <- rest
	}))
	defer up.Close()
	for _, h2 := range []bool{false, true} {
		s := serveWith(t, h2, bff.Upstream{URL: up.URL})
		for _, length := range []int64{2000000, -1} {
			pr, pw := io.Pipe()
			r := s.request("POST", "/x", pr)
			r.ContentLength = length
			go func() {
				pw.Write(make([]byte, 1000000))
				if n := <-got; n != 1000000 {
					t.Errorf("the first half has %d bytes", n)
				}
				pw.Write(make([]byte, 1000000))
				pw.Close()
			}()
			res, err := s.client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if n := <-got; n != 1000000 {
				t.Errorf("the second half has %d bytes", n)
			}
		}
		res, err := s.client.Do(s.request("GET", "/x", nil))
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.ReadFull(res.Body, make([]byte, 900000)); err != nil {
			t.Errorf("%d bytes of the first half, %v", n, err)
		}
		more <- struct{}{}
		if n, err := io.Copy(io.Discard, res.Body); n != 1100000 || err != nil {
			t.Errorf("then %d bytes, %v", n, err)
		}
		res.Body.Close()
	}
}

// Requests share connections to an upstream, as many as there are at once.
func TestConnectionsAreShared(t *testing.T) {
	var opened atomic.Int32
	arrived, answer := make(chan struct{}), make(chan struct{})
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/together" {
			arrived <- struct{}{}
			<-answer
		}
	}))
	up.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	up.Start()
	defer up.Close()
	s := serve(t, bff.Upstream{URL: up.URL})
	together := func(n int) {
		t.Helper()
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				if res, _, err := s.get("/together"); err != nil || res.StatusCode != 200 {
					t.Errorf("%v, %v", res, err)
				}
			})
		}
		for range n {
			<-arrived
		}
		for range n {
			answer <- struct{}{}
		}
		wg.Wait()
	}
	for range 20 {
		if res, _, err := s.get("/alone"); err != nil || res.StatusCode != 200 {
			t.Fatalf("%v, %v", res, err)
		}
	}
	if n := opened.Load(); n != 1 {
		t.Errorf("one after another opened %d connections, want 1", n)
	}
	together(20)
	together(20)
	if n := opened.Load(); n > 21 {
		t.Errorf("20 at once, twice, opened %d connections, want 20", n)
	}
}
