package bff_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff"
)

// A faulty upstream does to each connection what a function says, and counts
// the connections.
type faulty struct {
	url      string
	conns    atomic.Int32
	rambling atomic.Int32 // of them

	mu    sync.Mutex
	serve func(c *net.TCPConn, br *bufio.Reader)
}

func newFaulty(t *testing.T) *faulty {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &faulty{url: "http://" + l.Addr().String()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var conns []net.Conn
		var serving sync.WaitGroup
		defer serving.Wait()
		for {
			c, err := l.Accept()
			if err != nil {
				for _, c := range conns {
					c.Close()
				}
				return
			}
			conns = append(conns, c)
			f.conns.Add(1)
			f.mu.Lock()
			serve := f.serve
			f.mu.Unlock()
			serving.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(30 * time.Second))
				serve(c.(*net.TCPConn), bufio.NewReader(c))
			})
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return f
}

func (f *faulty) set(serve func(c *net.TCPConn, br *bufio.Reader)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.serve = serve
}

// request reads a request whole.
func readRequest(br *bufio.Reader) (*http.Request, error) {
	r, err := http.ReadRequest(br)
	if err == nil {
		_, err = io.Copy(io.Discard, r.Body)
	}
	return r, err
}

// says returns a function that reads a request, writes bytes and closes.
func says(answer string) func(*net.TCPConn, *bufio.Reader) {
	return func(c *net.TCPConn, br *bufio.Reader) {
		if _, err := readRequest(br); err == nil {
			io.WriteString(c, answer)
		}
	}
}

// rambles is says, but stays until the other side has closed the connection.
func (f *faulty) rambles(answer string) func(*net.TCPConn, *bufio.Reader) {
	return func(c *net.TCPConn, br *bufio.Reader) {
		f.rambling.Add(1)
		defer f.rambling.Add(-1)
		says(answer)(c, br)
		ended(c)
	}
}

// ended waits until the other side has closed the connection.
func ended(c io.Reader) { io.Copy(io.Discard, c) }

// Whatever an upstream does wrong is answered for what it is, or breaks the
// answer off where that has begun; it is never taken for a whole answer, ends no
// session, names no address, and leaves nothing behind.
func TestFaultyUpstream(t *testing.T) {
	f := newFaulty(t)
	s := serve(t,
		bff.Upstream{URL: f.url, WebSocket: true, MaxResponseHeader: 16 << 10},
		bff.Upstream{URL: f.url, Path: "/slow", Timeout: 300 * time.Millisecond},
		bff.Upstream{URL: "http://127.0.0.1:1", Path: "/down"},
		bff.Upstream{URL: "https://" + strings.TrimPrefix(f.url, "http://"), Path: "/tls"},
		bff.Upstream{URL: "https://" + strings.TrimPrefix(f.url, "http://"), Path: "/slow-tls", Timeout: 300 * time.Millisecond})
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	flood := func(line string) func(*net.TCPConn, *bufio.Reader) {
		return func(c *net.TCPConn, br *bufio.Reader) {
			if _, err := readRequest(br); err != nil {
				return
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			for {
				if _, err := io.WriteString(c, line); err != nil {
					return
				}
			}
		}
	}
	before := runtime.NumGoroutine()
	for _, c := range []struct {
		name   string
		path   string
		serve  func(*net.TCPConn, *bufio.Reader)
		status int
		reason string
		broken bool // the answer breaks off
	}{
		{"nobody-listens", "/down", nil, 502, "bad_gateway", false},
		{"no-tls", "/tls", says(ok), 502, "bad_gateway", false},
		{"never-shakes-hands", "/slow-tls", func(c *net.TCPConn, br *bufio.Reader) { ended(c) }, 504, "upstream_timeout", false},
		{"closes-at-once", "", func(*net.TCPConn, *bufio.Reader) {}, 502, "bad_gateway", false},
		{"closes-after-the-request", "", says(""), 502, "bad_gateway", false},
		{"resets-at-once", "", func(c *net.TCPConn, _ *bufio.Reader) { c.SetLinger(0) }, 502, "bad_gateway", false},
		{"resets-after-the-request", "", func(c *net.TCPConn, br *bufio.Reader) {
			readRequest(br)
			c.SetLinger(0)
		}, 502, "bad_gateway", false},
		{"never-answers", "/slow", func(c *net.TCPConn, br *bufio.Reader) {
			readRequest(br)
			ended(c)
		}, 504, "upstream_timeout", false},
		{"answers-by-drops", "/slow", func(c *net.TCPConn, br *bufio.Reader) {
			readRequest(br)
			io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			for {
				if _, err := io.WriteString(c, "X"); err != nil {
					return
				}
				if _, err := io.WriteString(c, "-A: b\r\n"); err != nil {
					return
				}
				c.SetReadDeadline(time.Now().Add(time.Millisecond))
				if _, err := br.ReadByte(); err == io.EOF {
					return
				}
			}
		}, 504, "upstream_timeout", false},
		{"half-closed-in-the-status", "", func(c *net.TCPConn, br *bufio.Reader) {
			readRequest(br)
			io.WriteString(c, "HTTP/1.1 20")
			c.CloseWrite()
			ended(c)
		}, 502, "bad_gateway", false},
		{"half-closed-in-the-header", "", func(c *net.TCPConn, br *bufio.Reader) {
			readRequest(br)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Le")
			c.CloseWrite()
			ended(c)
		}, 502, "bad_gateway", false},
		{"half-closed-after-the-answer", "", func(c *net.TCPConn, br *bufio.Reader) {
			readRequest(br)
			io.WriteString(c, ok)
			c.CloseWrite()
			ended(c)
		}, 200, "", false},
		{"half-closed-in-the-body", "", func(c *net.TCPConn, br *bufio.Reader) {
			readRequest(br)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok")
			c.CloseWrite()
			ended(c)
		}, 200, "", true},
		{"not-http", "", says("SSH-2.0-OpenSSH_9.2\r\n"), 502, "bad_gateway", false},
		{"http-0.9", "", says("<html>ok</html>"), 502, "bad_gateway", false},
		{"status-000", "", says("HTTP/1.1 000 No\r\nContent-Length: 0\r\n\r\n"), 502, "bad_gateway", false},
		{"status-099", "", says("HTTP/1.1 099 No\r\nContent-Length: 0\r\n\r\n"), 502, "bad_gateway", false},
		{"status-1000", "", says("HTTP/1.1 1000 No\r\nContent-Length: 0\r\n\r\n"), 502, "bad_gateway", false},
		{"status-negative", "", says("HTTP/1.1 -20 No\r\nContent-Length: 0\r\n\r\n"), 502, "bad_gateway", false},
		{"status-999", "", says("HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\nok"), 999, "", false},
		{"switches-protocols-unasked", "", says("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"), 502, "bad_gateway", false},
		{"length-too-long", "", says("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok"), 200, "", true},
		{"length-too-short", "", f.rambles("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"), 200, "", false},
		{"lengths-differ", "", says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"), 502, "bad_gateway", false},
		{"length-negative", "", says("HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok"), 502, "bad_gateway", false},
		{"encoding-unknown", "", says("HTTP/1.1 200 OK\r\nTransfer-Encoding: cow\r\n\r\nok"), 502, "bad_gateway", false},
		{"chunk-malformed", "", says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n"), 200, "", true},
		{"chunk-cut", "", says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok"), 200, "", true},
		{"last-chunk-missing", "", says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"), 200, "", true},
		{"reset-in-the-body", "", func(c *net.TCPConn, br *bufio.Reader) {
			readRequest(br)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
			c.SetLinger(0)
		}, 200, "", true},
		{"header-name-malformed", "", says("HTTP/1.1 200 OK\r\nX Y: z\r\nContent-Length: 2\r\n\r\nok"), 200, "", false},
		{"header-too-large", "", says("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 17<<10) + "\r\nContent-Length: 2\r\n\r\nok"), 502, "bad_gateway", false},
		{"header-without-end", "", flood("X-A: b\r\n"), 502, "bad_gateway", false},
		{"line-without-end", "", flood("aaaaaaaa"), 502, "bad_gateway", false},
		{"informational-without-end", "", func(c *net.TCPConn, br *bufio.Reader) {
			readRequest(br)
			for {
				if _, err := io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"); err != nil {
					return
				}
			}
		}, 502, "bad_gateway", false},
		{"body-with-204", "", f.rambles("HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nevil"), 204, "", false},
		{"body-with-304", "", f.rambles("HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nevil"), 304, "", false},
		{"fine-after-all", "", says(ok), 200, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.set(c.serve)
			res, err := s.client.Do(s.request("GET", c.path+"/x", nil))
			for err == nil && res.StatusCode >= 100 && res.StatusCode < 200 {
				t.Fatalf("answer %s", res.Status)
			}
			if err != nil {
				// net/http breaks off an answer of which nothing was flushed.
				if !c.broken {
					t.Errorf("no answer: %v", err)
				}
				return
			}
			defer res.Body.Close()
			for name := range res.Header {
				if strings.Contains(name, " ") {
					t.Errorf("header %q", name)
				}
			}
			body, err := io.ReadAll(res.Body)
			if res.StatusCode != c.status || res.Header.Get("Bff-Reason") != c.reason || (err != nil) != c.broken {
				t.Errorf("%s %s, %v; want %d %s, broken off: %v", res.Status, res.Header.Get("Bff-Reason"), err, c.status, c.reason, c.broken)
			}
			if strings.Contains(string(body), "127.0.0.1") || strings.Contains(string(body), "evil") {
				t.Errorf("body %q", body)
			}
			if c.status < 500 && !c.broken && c.status != 204 && c.status != 304 && string(body) != "ok" {
				t.Errorf("body %q, want ok", body)
			}
			// What came unasked is no answer to the next request.
			for deadline := time.Now().Add(20 * time.Second); f.rambling.Load() > 0; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the connection is still open")
				}
			}
		})
	}
	for _, secret := range s.iss.Secrets() {
		if len(secret) > 12 && strings.Contains(s.log.String(), secret) {
			t.Error("a secret is in the log")
		}
	}
	res, err := s.client.Do(s.request("GET", "/auth/session", nil))
	if err != nil || res.StatusCode != 200 {
		t.Errorf("afterwards, GET /auth/session = %v, %v", res, err)
	}
	res.Body.Close()
	s.client.CloseIdleConnections()
	eventually(t, "all goroutines have ended", func() bool { return runtime.NumGoroutine() <= before+8 })
}

// What follows an answer on its connection is nobody's: the connection is
// closed, and not used for another request.
func TestSurplusOfAnAnswer(t *testing.T) {
	log.SetOutput(io.Discard) // to which net/http complains
	defer log.SetOutput(os.Stderr)
	f := newFaulty(t)
	s := serve(t, bff.Upstream{URL: f.url})
	closed := make(chan struct{})
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
	} {
		f.set(func(c *net.TCPConn, br *bufio.Reader) {
			if _, err := readRequest(br); err != nil {
				return
			}
			io.WriteString(c, answer+"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
			ended(c)
			closed <- struct{}{}
		})
		for range 3 {
			res, body, err := s.get("/x")
			if err != nil || body == "evil" {
				t.Errorf("answered with %v %q, %v", res, body, err)
			}
			select {
			case <-closed:
			case <-time.After(10 * time.Second):
				t.Fatal("the connection is still open")
			}
		}
	}
}

// A connection that died while it was idle costs an idempotent request one
// repetition, and nothing else one.
func TestConnectionDiedIdle(t *testing.T) {
	small, large := strings.Repeat("x", 1000), strings.Repeat("x", 100<<10)
	for _, c := range []struct {
		name, method, body string
		header             http.Header
		repeated           bool
	}{
		{"get", "GET", "", nil, true},
		{"head", "HEAD", "", nil, true},
		{"options", "OPTIONS", "", nil, true},
		{"delete", "DELETE", "", nil, true},
		{"put", "PUT", small, nil, true},
		{"put-empty", "PUT", "", nil, true},
		{"put-large", "PUT", large, nil, false},
		{"post", "POST", small, nil, false},
		{"post-empty", "POST", "", nil, false},
		{"patch", "PATCH", small, nil, false},
		{"post-with-a-key", "POST", small, http.Header{"Idempotency-Key": {"1"}}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFaulty(t)
			s := serve(t, bff.Upstream{URL: f.url})
			var got []string
			var mu sync.Mutex
			f.set(func(c *net.TCPConn, br *bufio.Reader) {
				for n := 0; ; n++ {
					r, err := http.ReadRequest(br)
					if err != nil {
						return
					}
					body, err := io.ReadAll(r.Body)
					if err != nil {
						return
					}
					if n > 0 { // as if it had just timed out
						return
					}
					mu.Lock()
					got = append(got, string(body))
					mu.Unlock()
					io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
				}
			})
			if res, _, err := s.get("/first"); err != nil || res.StatusCode != 204 {
				t.Fatalf("the first request: %v, %v", res, err)
			}
			r := s.request(c.method, "/x", strings.NewReader(c.body))
			for name, values := range c.header {
				r.Header[name] = values
			}
			res, err := s.client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			want := map[bool]int{true: 204, false: 502}[c.repeated]
			if res.StatusCode != want {
				t.Errorf("%s, want %d", res.Status, want)
			}
			if wantConns := map[bool]int32{true: 2, false: 1}[c.repeated]; f.conns.Load() != wantConns {
				t.Errorf("%d connections, want %d", f.conns.Load(), wantConns)
			}
			if c.repeated && got[1] != c.body {
				t.Errorf("the second time, the body has %d bytes, want %d", len(got[1]), len(c.body))
			}
		})
	}
}

// An upstream that dies with every connection is asked twice, not for ever.
func TestConnectionDiesAgain(t *testing.T) {
	f := newFaulty(t)
	s := serve(t, bff.Upstream{URL: f.url})
	var first atomic.Bool
	f.set(func(c *net.TCPConn, br *bufio.Reader) {
		if _, err := readRequest(br); err == nil && first.CompareAndSwap(false, true) {
			io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
			readRequest(br)
		}
	})
	if res, _, err := s.get("/first"); err != nil || res.StatusCode != 204 {
		t.Fatalf("the first request: %v, %v", res, err)
	}
	res, err := s.client.Do(s.request("PUT", "/x", strings.NewReader("body")))
	if err != nil || res.StatusCode != 502 || f.conns.Load() != 2 {
		t.Errorf("%v, %v after %d connections; want 502 after 2", res, err, f.conns.Load())
	}
	res.Body.Close()
}

// Bodies that stall are ended from either side, and the answer says who was
// to blame.
func TestStalledBodies(t *testing.T) {
	f := newFaulty(t)
	s := serve(t, bff.Upstream{URL: f.url, IdleTimeout: time.Second, Timeout: 20 * time.Second})
	raw := func(t *testing.T, head, body string) net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", s.srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(30 * time.Second))
		fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: x\r\nCookie: %s=%s\r\nX-CSRF: 1\r\n%s", head, s.cookie.Name, s.cookie.Value, body)
		return c
	}
	answer := func(t *testing.T, c net.Conn, status int, reason string) {
		t.Helper()
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode != status || res.Header.Get("Bff-Reason") != reason {
			t.Errorf("%s %s, want %d %s", res.Status, res.Header.Get("Bff-Reason"), status, reason)
		}
	}
	swallow := func(c *net.TCPConn, br *bufio.Reader) { io.Copy(io.Discard, br) }
	for _, c := range []struct{ name, body string }{
		{"small", "Content-Length: 10\r\n\r\n123"},
		{"large", "Content-Length: 1000000\r\n\r\n123"},
		{"chunked", "Transfer-Encoding: chunked\r\n\r\n3\r\n123\r\n"},
	} {
		t.Run("browser-stops-sending-"+c.name, func(t *testing.T) {
			f.set(swallow)
			answer(t, raw(t, "POST /x", c.body), 408, "request_timeout")
		})
	}
	t.Run("upstream-stops-taking", func(t *testing.T) {
		done := make(chan struct{})
		defer close(done)
		f.set(func(c *net.TCPConn, br *bufio.Reader) {
			http.ReadRequest(br)
			<-done
		})
		c := raw(t, "POST /x", "Content-Length: 1073741824\r\n\r\n")
		go io.Copy(c, zeros{}) // until it is closed
		answer(t, c, 504, "upstream_timeout")
	})
	t.Run("upstream-stops-sending", func(t *testing.T) {
		f.set(func(c *net.TCPConn, br *bufio.Reader) {
			readRequest(br)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
			ended(c)
		})
		res, body, err := s.get("/x")
		if err == nil || res.StatusCode != 200 || body != "data: 1\n\n" {
			t.Errorf("%v, %q, %v; want what came, and an end that is none", res, body, err)
		}
	})
	t.Run("browser-stops-taking", func(t *testing.T) {
		closed := make(chan struct{})
		f.set(func(c *net.TCPConn, br *bufio.Reader) {
			readRequest(br)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
			io.Copy(c, zeros{})
			close(closed)
		})
		raw(t, "GET /x", "\r\n") // and never reads
		select {
		case <-closed:
		case <-time.After(20 * time.Second):
			t.Error("the upstream is still sending")
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// An upstream that answers before it has taken the body is heard.
func TestEarlyAnswer(t *testing.T) {
	f := newFaulty(t)
	s := serve(t, bff.Upstream{URL: f.url, IdleTimeout: 10 * time.Second})
	f.set(func(c *net.TCPConn, br *bufio.Reader) {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfull")
		io.Copy(io.Discard, r.Body) // and hears the rest out
	})
	c, err := net.Dial("tcp", s.srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	fmt.Fprintf(c, "POST /x HTTP/1.1\r\nHost: x\r\nCookie: %s=%s\r\nX-CSRF: 1\r\nContent-Length: 1073741824\r\n\r\n", s.cookie.Name, s.cookie.Value)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		io.CopyN(c, zeros{}, 1<<30)
	}()
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(res.Body); res.StatusCode != 413 || string(body) != "full" {
		t.Errorf("%s %q, %v", res.Status, body, err)
	}
	c.Close()
	<-sent
}

// It is heard, too, if it resets the connection behind its answer, as servers
// do that close it with something unread: the answer has arrived by then.
func TestEarlyAnswerBeforeReset(t *testing.T) {
	f := newFaulty(t)
	s := serve(t, bff.Upstream{URL: f.url, IdleTimeout: 10 * time.Second})
	full := strings.Repeat("full", 10<<10)
	f.set(func(c *net.TCPConn, br *bufio.Reader) {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, r.Body, 1<<20); err == nil {
			fmt.Fprintf(c, "HTTP/1.1 413 Too Large\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(full), full)
		}
	})
	for i := range 30 {
		c, br := s.dial()
		fmt.Fprintf(c, "POST /x HTTP/1.1\r\nHost: x\r\nCookie: %s=%s\r\nX-CSRF: 1\r\nContent-Length: 1073741824\r\n\r\n", s.cookie.Name, s.cookie.Value)
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			io.CopyN(c, zeros{}, 1<<30)
		}()
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(res.Body); res.StatusCode != 413 || string(body) != full {
			t.Errorf("request %d: %s %d bytes, %v", i, res.Status, len(body), err)
		}
		c.Close()
		<-sent
	}
}

// A cut connection is one that its other end has reset, of which the system
// told who wrote: to who reads, it ends as if all had been said.
type cut struct{ net.Conn }

func (cut) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// What a reset cut off is not taken for the whole.
func TestReadAfterReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		conn := bff.NewUpstreamConn(cut{near})
		wrote := make(chan error, 1)
		go func() {
			_, err := conn.Write([]byte("x"))
			wrote <- err
		}()
		go func() {
			io.WriteString(far, "half")
			far.Close()
		}()
		synctest.Wait()
		all, err := io.ReadAll(conn)
		if string(all) != "half" || err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("read %q, %v", all, err)
		}
		if err := <-wrote; err == nil {
			t.Error("Write did not fail")
		}
		conn.Close()
	})
}

// A muted connection is one whose other end has gone without a word: what is
// written is lost.
type muted struct {
	net.Conn
	now atomic.Bool
}

func (m *muted) Write(p []byte) (int, error) {
	if m.now.Load() {
		return len(p), nil
	}
	return m.Conn.Write(p)
}

// pipes is a listener of connections that are made in the process.
type pipes struct {
	net.Listener
	conns chan net.Conn
}

func (l *pipes) Accept() (net.Conn, error) {
	if c, ok := <-l.conns; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (l *pipes) Close() error   { return nil }
func (l *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// HTTP/2 has one connection for all: one that has died without a word is found
// out, and not used until TCP notices.
func TestSilentHTTP2Connection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		protocols := new(http.Protocols)
		protocols.SetUnencryptedHTTP2(true)
		l := &pipes{conns: make(chan net.Conn)}
		srv := &http.Server{Protocols: protocols, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
		go srv.Serve(l)
		var first atomic.Pointer[muted]
		tr := bff.NewTransport()
		tr.Protocols = protocols
		tr.DialContext = func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			l.conns <- far
			c := &muted{Conn: near}
			first.CompareAndSwap(nil, c)
			return c, nil
		}
		get := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			res, err := tr.RoundTrip(must(http.NewRequestWithContext(ctx, "GET", "http://api.example.com/", nil)))
			if err == nil {
				res.Body.Close()
			}
			return err
		}
		if err := get(); err != nil {
			t.Fatal(err)
		}
		first.Load().now.Store(true)
		died := time.Now()
		for get() != nil && time.Since(died) < 20*time.Minute { // it is never idle
		}
		if after := time.Since(died); after < 10*time.Second || after > 7*time.Minute {
			t.Errorf("requests fail for %v", after)
		}
		tr.CloseIdleConnections()
		close(l.conns)
		srv.Close()
	})
}

// A TLS upstream that takes nothing more, or that has reset the connection while
// nobody read from it, holds up nobody who closes that.
func TestCloseOfADeadTLSConnection(t *testing.T) {
	srv := httptest.NewTLSServer(nil)
	defer srv.Close()
	for name, die := range map[string]func(net.Conn){
		"stuck": func(net.Conn) {},
		"reset": func(far net.Conn) { far.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				defer far.Close()
				server := tls.Server(far, &tls.Config{Certificates: srv.TLS.Certificates})
				shaken := make(chan error, 1)
				go func() { shaken <- server.Handshake() }()
				conn := tls.Client(bff.NewUpstreamConn(near), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
				if err := errors.Join(conn.Handshake(), <-shaken); err != nil {
					t.Fatal(err)
				}
				die(far)
				began := time.Now()
				conn.Close()
				if took := time.Since(began); took > 100*time.Millisecond {
					t.Errorf("Close took %v", took)
				}
			})
		})
	}
}

// The time-outs, by the clock of a bubble: how long each is, from when it
// counts, and that each can be turned off.
func TestUpstreamTimeouts(t *testing.T) {
	for _, c := range []struct {
		name   string
		up     bff.Upstream
		serve  func(w http.ResponseWriter, r *http.Request)
		upload time.Duration // how long the body takes, a byte every 4 minutes
		reason string
		after  time.Duration
	}{
		{"header", bff.Upstream{}, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 0, "upstream_timeout", 30 * time.Second},
		{"header-by-choice", bff.Upstream{Timeout: 7 * time.Second}, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 0, "upstream_timeout", 7 * time.Second},
		{"header-off", bff.Upstream{Timeout: -1}, func(w http.ResponseWriter, r *http.Request) { time.Sleep(time.Hour) }, 0, "", time.Hour},
		{"header-counts-from-the-end-of-the-body", bff.Upstream{}, func(w http.ResponseWriter, r *http.Request) { time.Sleep(29 * time.Second) }, 8 * time.Minute, "", 8*time.Minute + 29*time.Second},
		{"header-after-a-body", bff.Upstream{}, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 8 * time.Minute, "upstream_timeout", 8*time.Minute + 30*time.Second},
		{"duration", bff.Upstream{MaxDuration: time.Second}, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 0, "upstream_timeout", time.Second},
		{"duration-of-an-upload", bff.Upstream{MaxDuration: time.Minute}, func(w http.ResponseWriter, r *http.Request) {}, 8 * time.Minute, "upstream_timeout", time.Minute},
		{"stream", bff.Upstream{}, func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, 0, "broken", 5 * time.Minute},
		{"stream-by-choice", bff.Upstream{IdleTimeout: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
			for range 3 {
				w.Write([]byte("x"))
				http.NewResponseController(w).Flush()
				time.Sleep(59 * time.Second)
			}
			<-r.Context().Done()
		}, 0, "broken", 2*59*time.Second + time.Minute},
		{"stream-off", bff.Upstream{IdleTimeout: -1}, func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).Flush()
			time.Sleep(time.Hour)
		}, 0, "", time.Hour},
		{"duration-of-a-stream", bff.Upstream{MaxDuration: 3 * time.Minute}, func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				w.Write([]byte("x"))
				http.NewResponseController(w).Flush()
				time.Sleep(time.Second)
			}
		}, 0, "broken", 3 * time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newApp(t, setup{api: c.up})
				a.api.set(c.serve)
				b := a.signIn("alice")
				began := time.Now()
				var body io.Reader
				method := "GET"
				if c.upload > 0 {
					method, body = "POST", &drip{n: int(c.upload / (4 * time.Minute))}
				}
				r := b.Fetch(method, "/api/x", body, nil)
				got := r.Reason()
				if r.Err != nil {
					got = "broken"
				}
				took := time.Since(began)
				time.Sleep(10 * time.Minute) // until whoever sends has noticed
				if got != c.reason || took < c.after || took > c.after+250*time.Millisecond {
					t.Errorf("%q after %v, want %q after %v (%v)", got, took, c.reason, c.after, r)
				}
			})
		})
	}
}

// A drip is a body of n bytes, one every four minutes.
type drip struct{ n int }

func (d *drip) Read(p []byte) (int, error) {
	if d.n == 0 {
		return 0, io.EOF
	}
	d.n--
	time.Sleep(4 * time.Minute)
	p[0] = 'x'
	return 1, nil
}
