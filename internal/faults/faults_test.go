package faults_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/internal/testserver"
)

const crowd = 6

// all are the requests that an outage refuses.
var all = slices.Concat(reads, writes, []visit{events})

// A process that starts while the store is away serves as soon as it is there.
func TestDownAtStart(t *testing.T) {
	eachServer(t, func(t *testing.T, srv *server) {
		s, users := begin(t, srv, crowd)
		srv.Kill()
		store, done := srv.open(t, srv.addr)
		auth := s.deploy(store, done)
		s.unavailable(users[0], all...)
		s.strangersPass()
		if err := auth.Ready(t.Context()); err == nil {
			t.Error("Ready = nil while the store is down")
		}
		srv.Restart()
		s.recovers(users)
		if err := auth.Ready(t.Context()); err != nil {
			t.Errorf("Ready = %v", err)
		}
		s.nobodyLost(users)
	})
}

// The store dies under load, again and again.
func TestKilledInFlight(t *testing.T) {
	eachServer(t, func(t *testing.T, srv *server) {
		s, users := begin(t, srv, crowd+1)
		idle, users := users[crowd], users[:crowd]
		work := s.traffic(users)
		for range 4 {
			work.flows()
			s.refreshed(crowd / 2) // some are under way, or about to be
			srv.Kill()
			work.stalls()
			s.unavailable(idle, all...)
			s.strangersPass()
			died := time.Now()
			testserver.Eventually(t, "every access token to expire", func() error {
				if left := tokenLife - time.Since(died); left > 0 {
					return fmt.Errorf("%v left", left)
				}
				return nil
			})
			srv.Restart()
			s.recovers(users)
		}
		work.stop()
		s.recovers(append(users, idle))
		s.nobodyLost(users)
	})
}

// The store stops answering, and keeps its connections.
func TestPaused(t *testing.T) {
	eachServer(t, func(t *testing.T, srv *server) {
		s, users := begin(t, srv, crowd+1)
		idle, users := users[crowd], users[:crowd]
		work := s.traffic(users)
		for range 3 {
			work.flows()
			s.refreshed(crowd / 2)
			srv.Pause()
			work.stalls()
			s.unavailable(idle, all...)
			// A crowd waits no longer than one.
			var wg sync.WaitGroup
			start := time.Now()
			for range 200 {
				wg.Go(func() {
					if why := idle.refused(idle.Fetch("GET", "/page", nil, nil)); why != "" {
						t.Error(why)
					}
				})
			}
			wg.Wait()
			if took := time.Since(start); took > storeTimeout+2*slack {
				t.Errorf("200 requests took %v, and a call of the store has %v", took, storeTimeout)
			}
			srv.Resume()
			s.recovers(users)
		}
		work.stop()
		s.recovers(append(users, idle))
		s.nobodyLost(users)
	})
}

// A store that is slow is waited for, as long as it may take.
func TestSlow(t *testing.T) {
	eachServer(t, func(t *testing.T, srv *server) {
		line := newLine(t, srv.addr)
		srv.addr = line.addr
		s, users := begin(t, srv, crowd)
		work := s.traffic(users)
		work.flows()
		line.delay(storeTimeout / 10)
		from := work.bad.Load()
		work.flows()
		s.refreshed(crowd)
		if got := work.bad.Load() - from; got != 0 {
			t.Errorf("%d requests were refused though the store was in time", got)
		}
		line.delay(2 * storeTimeout)
		work.stalls()
		s.unavailable(users[0], all...)
		line.delay(0)
		s.recovers(users)
		work.stop()
		s.nobodyLost(users)
	})
}

// A store that was lost has no sessions, and doesn't call them idle. Everybody
// can sign in again.
func TestRestartedEmpty(t *testing.T) {
	eachServer(t, func(t *testing.T, srv *server) {
		const idle = 6 * time.Second
		s, users := begin(t, srv, crowd, func(cfg *bff.Config) { cfg.IdleTimeout = idle })
		work := s.traffic(users)
		s.refreshed(crowd)
		// Later than the store's first second: a cookie knows the sign-in to the second.
		forgotten := s.signIn(1)[0]
		// The control: who idles out while the store remembers is told so.
		testserver.Eventually(t, "an idle session", func() error {
			r := forgotten.Fetch("GET", "/page", nil, http.Header{"Bff-Passive": {"1"}}) // which doesn't count as activity
			if r.Status != http.StatusUnauthorized || r.Reason() != "session_idle" {
				return fmt.Errorf("%s; want 401 session_idle", r)
			}
			return nil
		})
		work.stop()
		srv.Kill()
		s.unavailable(users[0], all...)
		srv.restartEmpty()
		for _, u := range append(users, forgotten) {
			testserver.Eventually(t, "an empty store", func() error {
				if r := u.Fetch("GET", "/page", nil, nil); r.Status != http.StatusUnauthorized || r.Reason() != "no_session" {
					return fmt.Errorf("%s; want 401 no_session", r)
				}
				return nil
			})
		}
		for _, u := range users {
			u.in()
		}
		s.recovers(users)
	})
}

// A store that takes no more connections refuses who is new, and serves who is
// connected.
func TestConnectionLimit(t *testing.T) {
	eachServer(t, func(t *testing.T, srv *server) {
		s, users := begin(t, srv, crowd)
		lift := srv.limit()
		lifted := false
		defer func() {
			if !lifted {
				lift()
			}
		}()
		store, done := srv.open(t, srv.addr)
		s.deploy(store, done)
		s.unavailable(users[0], all...)
		s.strangersPass()
		lift()
		lifted = true
		s.recovers(users)
		s.nobodyLost(users)
	})
}

// A line is what connects to a server, and can be slow.
type line struct {
	addr string
	late atomic.Int64 // nanoseconds
}

func (l *line) delay(d time.Duration) { l.late.Store(int64(d)) }

// newLine passes bytes on to a server until the test ends.
func newLine(t *testing.T, to string) *line {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &line{addr: listener.Addr().String()}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	t.Cleanup(func() {
		listener.Close()
		mu.Lock()
		for _, conn := range conns {
			conn.Close()
		}
		mu.Unlock()
		l.delay(0)
		wg.Wait()
	})
	wg.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				client.Close()
				continue
			}
			mu.Lock()
			conns = append(conns, client, server)
			mu.Unlock()
			wg.Go(func() {
				defer server.Close()
				io.Copy(server, client)
			})
			wg.Go(func() {
				defer client.Close()
				l.carry(client, server)
			})
		}
	})
	return l
}

// carry passes the server's answers on, each as late as it is now.
func (l *line) carry(client io.Writer, server io.Reader) {
	type chunk struct {
		data []byte
		read time.Time
	}
	chunks := make(chan chunk, 4096)
	go func() { // until the server's connection is closed
		defer close(chunks)
		for {
			buf := make([]byte, 64<<10)
			n, err := server.Read(buf)
			if n > 0 {
				chunks <- chunk{bytes.Clone(buf[:n]), time.Now()}
			}
			if err != nil {
				return
			}
		}
	}()
	for c := range chunks {
		for time.Since(c.read) < time.Duration(l.late.Load()) {
			time.Sleep(time.Millisecond)
		}
		if _, err := client.Write(c.data); err != nil {
			for range chunks { // until it ends
			}
			return
		}
	}
}
