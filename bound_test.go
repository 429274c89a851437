package bff_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
)

// streamingAPI answers /ws as WebSocket, with a frame each time it is told to,
// and /events with server-sent events that go on.
func streamingAPI(t *testing.T) *httptest.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n")
		conn.Write([]byte("\x81\x05hello"))
		if r.URL.Query().Has("half") {
			conn.Write([]byte("\x81\x10only the b"))
		}
		io.Copy(conn, conn)
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: hello\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv
}

// A line is a raw connection to the application.
type line struct {
	net.Conn
	*bufio.Reader
}

func (l line) Read(p []byte) (int, error) { return l.Reader.Read(p) }

// open sends a GET as alice's browser would, on a connection of its own, and
// returns it behind the header of the answer.
func open(t *testing.T, srv *httptest.Server, b *bfftest.Browser, path string, header string) (line, string) {
	t.Helper()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	c := sessionCookie(t, b)
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: app.example.com\r\nOrigin: %s\r\nCookie: %s=%s\r\n%s\r\n", path, appURL, c.Name, c.Value, header)
	l := line{conn, bufio.NewReader(conn)}
	status, err := l.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	for {
		field, err := l.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if field == "\r\n" {
			return l, strings.TrimSpace(status)
		}
	}
}

const upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

// frame reads one frame that isn't masked.
func frame(t *testing.T, l line) (opcode byte, payload []byte) {
	t.Helper()
	var head [2]byte
	if _, err := io.ReadFull(l, head[:]); err != nil {
		t.Fatalf("no frame: %v", err)
	}
	payload = make([]byte, head[1]&0x7f)
	if _, err := io.ReadFull(l, payload); err != nil {
		t.Fatalf("half a frame: %v", err)
	}
	return head[0] & 0x0f, payload
}

// streaming returns an application with that API behind it, on a socket.
func streaming(t *testing.T, up bff.Upstream, s setup) (*app, *httptest.Server) {
	up.URL, up.StripPrefix, up.WebSocket = streamingAPI(t).URL, "/stream", true
	s.mux = func(a *app, mux *http.ServeMux) { mux.Handle("/stream/", a.auth.Proxy(up)) }
	a := newApp(t, s)
	srv := httptest.NewServer(a.handler)
	t.Cleanup(srv.Close)
	return a, srv
}

// A WebSocket is closed with 4401 and the reason when its session ends, whatever
// ends it, between two frames, and nothing more reaches the API (S459).
func TestWebSocketEndsWithTheSession(t *testing.T) {
	a, srv := streaming(t, bff.Upstream{}, setup{})
	users := []string{"alice", "carol"}
	for name, end := range map[string]func(b *bfftest.Browser){
		"signed_out": func(b *bfftest.Browser) { signOut(b) },
		"session_revoked": func(b *bfftest.Browser) {
			if _, err := a.auth.EndSessionsOf(t.Context(), must(a.subject(b))); err != nil {
				t.Error(err)
			}
		},
	} {
		b := a.signIn(users[0])
		users = users[1:]
		l, status := open(t, srv, b, "/stream/ws", upgrade)
		if status != "HTTP/1.1 101 Switching Protocols" {
			t.Fatal(status)
		}
		if op, text := frame(t, l); op != 1 || string(text) != "hello" {
			t.Fatalf("frame %d %q", op, text)
		}
		l.Write([]byte("\x81\x02hi")) // echoed
		if op, text := frame(t, l); op != 1 || string(text) != "hi" {
			t.Fatalf("frame %d %q", op, text)
		}
		ended := time.Now()
		end(b)
		op, payload := frame(t, l)
		if op != 8 || len(payload) < 2 || binary.BigEndian.Uint16(payload) != 4401 || string(payload[2:]) != name {
			t.Errorf("frame %d %q, want a close with 4401 %s", op, payload, name)
		}
		if took := time.Since(ended); took > 5*time.Second {
			t.Errorf("closed after %v", took)
		}
		l.Write([]byte{0x88, 0x80, 0, 0, 0, 0}) // the browser's answer
		if rest, _ := io.ReadAll(l); len(rest) > 0 {
			t.Errorf("after the close: %q", rest)
		}
	}
	b := a.signIn("bob")
	l, _ := open(t, srv, b, "/stream/ws?half", upgrade)
	frame(t, l)
	io.ReadFull(l, make([]byte, 12)) // what there is of the next one
	signOut(b)
	if rest, _ := io.ReadAll(l); len(rest) > 0 {
		t.Errorf("in the middle of a frame came %q", rest)
	}
}

// subject returns who is signed in at b.
func (a *app) subject(b *bfftest.Browser) (string, error) {
	s, ok := session(a.T, b)["sub"].(string)
	if !ok {
		return "", fmt.Errorf("no subject")
	}
	return s, nil
}

// An event stream that Proxy carries ends with the session, too.
func TestProxiedEventsEndWithTheSession(t *testing.T) {
	a, srv := streaming(t, bff.Upstream{}, setup{})
	b := a.signIn("alice")
	l, status := open(t, srv, b, "/stream/events", "")
	if status != "HTTP/1.1 200 OK" {
		t.Fatal(status)
	}
	for text := ""; !strings.Contains(text, "hello"); {
		part, err := l.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		text += part
	}
	signOut(b)
	rest, err := io.ReadAll(readUntil(l, "0\r\n\r\n"))
	if !strings.HasSuffix(string(rest), "0\r\n\r\n") {
		t.Errorf("the stream ended with %q, %v; want a clean end", rest, err)
	}
}

// readUntil reads up to and including the text.
func readUntil(l line, text string) io.Reader {
	var all strings.Builder
	for !strings.HasSuffix(all.String(), text) {
		c, err := l.ReadByte()
		if err != nil {
			break
		}
		all.WriteByte(c)
	}
	return strings.NewReader(all.String())
}

// By choice, streams end with the access token that they began with.
func TestStreamsEndWithTheToken(t *testing.T) {
	a, srv := streaming(t, bff.Upstream{EndStreamsWithToken: true}, setup{issuer: bfftest.Options{AccessTokenLifetime: time.Second}})
	b := a.signIn("alice")
	l, _ := open(t, srv, b, "/stream/ws", upgrade)
	frame(t, l)
	if op, payload := frame(t, l); op != 8 || string(payload[2:]) != "token_unavailable" {
		t.Errorf("frame %d %q, want a close with token_unavailable", op, payload)
	}
	if !signedIn(t, b) {
		t.Error("the session ended with the token")
	}
}

// A process has a bound of its own, for streams of every kind.
func TestStreamsBoundedPerProcess(t *testing.T) {
	a, srv := streaming(t, bff.Upstream{}, setup{})
	b := a.signIn("alice")
	a.auth.FillStreams()
	for path, header := range map[string]string{"/stream/ws": upgrade, "/stream/events": "", "/auth/events": ""} {
		if _, status := open(t, srv, b, path, header); status != "HTTP/1.1 429 Too Many Requests" {
			t.Errorf("GET %s = %s, want 429", path, status)
		}
	}
}

// Drain closes WebSockets with 1001, so that browsers come back.
func TestDrainClosesWebSockets(t *testing.T) {
	a, srv := streaming(t, bff.Upstream{}, setup{})
	l, _ := open(t, srv, a.signIn("alice"), "/stream/ws", upgrade)
	frame(t, l)
	a.auth.Drain()
	if op, payload := frame(t, l); op != 8 || binary.BigEndian.Uint16(payload) != 1001 {
		t.Errorf("frame %d %q, want a close with 1001", op, payload)
	}
}

// Drain ends all that lasts, nobody's streams too, so that the server's Shutdown
// comes to an end, and lets none begin.
func TestDrainEndsStreams(t *testing.T) {
	for _, needs := range []bff.Need{bff.User, bff.UserOptional, bff.None} {
		t.Run(needs.String(), func(t *testing.T) {
			a, srv := streaming(t, bff.Upstream{Needs: needs}, setup{})
			cookie := ""
			if needs == bff.User {
				cookie = "Cookie: __Host-Http-bff=" + sessionCookie(t, a.signIn("alice")).Value + "\r\n"
			}
			dial := func(path, header string) *bufio.Reader {
				conn, err := net.Dial("tcp", srv.Listener.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close() })
				conn.SetDeadline(time.Now().Add(20 * time.Second))
				fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: app.example.com\r\nOrigin: %s\r\n%s%s\r\n", path, appURL, cookie, header)
				return bufio.NewReader(conn)
			}
			until := func(br *bufio.Reader, text string) string {
				all := ""
				for !strings.HasSuffix(all, text) {
					c, err := br.ReadByte()
					if err != nil {
						t.Fatalf("%q, %v; want %q", all, err, text)
					}
					all += string(rune(c))
				}
				return all
			}
			ws, events := dial("/stream/ws", upgrade), dial("/stream/events", "")
			until(ws, "hello")
			until(events, "hello\n\n")
			a.auth.Drain()
			until(ws, "\u0088\u000b\u0003\u00e9reconnect")
			until(events, "0\r\n\r\n")
			for path, header := range map[string]string{"/stream/ws": upgrade, "/stream/events": ""} {
				if got := until(dial(path, header), "\r\n\r\n"); !strings.Contains(got, "503") || !strings.Contains(got, "shutting_down") {
					t.Errorf("%s after Drain: %s", path, got)
				}
			}
		})
	}
}

// A browser that reads nothing of a stream does not keep it open after the end
// of its session, however much is under way.
func TestStreamsEndThoughNobodyReads(t *testing.T) {
	flood := make([]byte, 1<<20) // of frames without a payload, or of no sense
	for i := 0; i < len(flood); i += 2 {
		flood[i] = 0x82
	}
	var sent atomic.Int64
	api := http.NewServeMux()
	api.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n")
		for n := 0; err == nil; sent.Add(int64(n)) {
			n, err = conn.Write(flood)
		}
	})
	api.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		var err error
		for n := 0; err == nil; sent.Add(int64(n)) {
			n, err = w.Write(flood)
		}
	})
	up := httptest.NewServer(api)
	defer up.Close()
	a := newApp(t, setup{mux: func(a *app, mux *http.ServeMux) {
		mux.Handle("/stream/", a.auth.Proxy(bff.Upstream{URL: up.URL, StripPrefix: "/stream", WebSocket: true}))
	}})
	returned := make(chan struct{}, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { returned <- struct{}{} }()
		a.handler.ServeHTTP(w, r)
	}))
	defer srv.Close()
	for path, header := range map[string]string{"/stream/ws": upgrade, "/stream/events": ""} {
		b := a.signIn("alice")
		l, status := open(t, srv, b, path, header)
		if !strings.Contains(status, "101") && !strings.Contains(status, "200") {
			t.Fatal(status)
		}
		eventually(t, "the connection is full", func() bool {
			before := sent.Load()
			time.Sleep(200 * time.Millisecond)
			return before > 0 && sent.Load() == before
		})
		signOut(b)
		select {
		case <-returned:
		case <-time.After(15 * time.Second):
			t.Errorf("%s is open 15 seconds after its session ended", path)
			l.Close()
			<-returned
		}
	}
}
