package faults_test

import (
	"context"
	"net"
	"strconv"
	"testing"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/internal/testserver"
	"github.com/agglestone/bff/store/redisstore"
)

// A server keeps sessions, and what it has acknowledged survives its death.
type server struct {
	process
	addr  string
	open  func(t *testing.T, addr string) (bff.Store, func())
	empty func() // once it was stopped: what it had is lost

	// limit has it take no connections any more, until lifted.
	limit func() (lift func())
}

type process interface {
	Kill()
	Restart()
	Pause()
	Resume()
}

// servers are the kinds of them.
var servers = []struct {
	name  string
	start func(t *testing.T) *server
}{
	{"redis", func(t *testing.T) *server {
		r := testserver.StartRedis(t, testserver.RedisServer, "appendonly yes", "appendfsync always")
		return &server{
			process: r.Process, addr: r.Addr, empty: r.Empty,
			open: func(t *testing.T, addr string) (bff.Store, func()) { return openRedis(t, "redis://"+addr) },
			limit: func() func() {
				const few = 4
				r.Must("CONFIG", "SET", "maxclients", strconv.Itoa(few))
				return fill(t, few, r.Addr, func() { r.Must("CONFIG", "SET", "maxclients", "10000") })
			},
		}
	}},
}

// fill opens so many connections and keeps them until they are lifted.
func fill(t *testing.T, n int, addr string, after func()) (lift func()) {
	t.Helper()
	var conns []net.Conn
	for range n {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	return func() {
		for _, conn := range conns {
			conn.Close()
		}
		if after != nil {
			after()
		}
	}
}

func openRedis(t *testing.T, url string) (bff.Store, func()) {
	return openRedisWith(t, url, redisstore.Options{})
}

func openRedisWith(t *testing.T, url string, opts redisstore.Options) (bff.Store, func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), storeTimeout)
	defer cancel()
	s, err := redisstore.Open(ctx, url, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s, func() { s.Close() }
}

// eachServer runs a test on every kind of server.
func eachServer(t *testing.T, test func(t *testing.T, srv *server)) {
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) { test(t, s.start(t)) })
	}
}

// begin starts the server's site with so many users who are at work.
func begin(t *testing.T, srv *server, n int, edit ...func(*bff.Config)) (*site, []*user) {
	t.Helper()
	s := newSite(t)
	store, done := srv.open(t, srv.addr)
	s.deploy(store, done, edit...)
	return s, s.signIn(n)
}
