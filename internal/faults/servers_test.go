package faults_test

import (
	"context"
	"database/sql"
	"net"
	"strconv"
	"testing"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/internal/testserver"
	"github.com/agglestone/bff/store/redisstore"
	"github.com/agglestone/bff/store/sqlstore"

	_ "github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"
)

// A server keeps sessions, and what it has acknowledged survives its death.
type server struct {
	process
	addr string
	open func(t *testing.T, addr string) (bff.Store, func())

	// restartEmpty starts it again, once it was killed, without what it had.
	restartEmpty func()

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
			process: r, addr: r.Addr,
			open: func(t *testing.T, addr string) (bff.Store, func()) {
				return openRedis(t, "redis://"+addr, redisstore.Options{})
			},
			restartEmpty: func() {
				r.Empty()
				r.Restart()
			},
			limit: func() func() {
				const few = 4
				r.Must("CONFIG", "SET", "maxclients", strconv.Itoa(few))
				lift := fill(t, few, r.Addr)
				return func() {
					lift()
					r.Must("CONFIG", "SET", "maxclients", "10000")
				}
			},
		}
	}},
	{"postgres", func(t *testing.T) *server {
		p := testserver.StartPostgres(t, "max_connections=48", "superuser_reserved_connections=0")
		return sqlServer(t, p, p.Addr, sqlstore.Postgres, "pgx", func(addr string) string {
			return "postgres://test@" + addr + "/test?sslmode=disable"
		})
	}},
	{"mariadb", func(t *testing.T) *server {
		m := testserver.StartMariaDB(t, "--max-connections=48")
		return sqlServer(t, m, m.Addr, sqlstore.MySQL, "mysql", func(addr string) string {
			return "test:test@tcp(" + addr + ")/test"
		})
	}},
}

func sqlServer(t *testing.T, p process, addr string, dialect sqlstore.Dialect, driver string, dsn func(addr string) string) *server {
	t.Helper()
	handle := func(t *testing.T, addr string) *sql.DB {
		t.Helper()
		db, err := sql.Open(driver, dsn(addr))
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	open := func(t *testing.T, addr string) (bff.Store, func()) {
		t.Helper()
		db := handle(t, addr)
		db.SetMaxOpenConns(16)
		db.SetMaxIdleConns(16)
		s, err := sqlstore.New(db, dialect, sqlstore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*storeTimeout)
		defer cancel()
		if err := s.Migrate(ctx); err != nil {
			t.Logf("Migrate: %v", err) // it is down, then: the tables are there
		}
		return s, func() {
			s.Close()
			db.Close()
		}
	}
	return &server{
		process: p, addr: addr, open: open,
		restartEmpty: func() {
			p.Restart()
			db := handle(t, addr)
			defer db.Close()
			if _, err := db.ExecContext(t.Context(), "DROP TABLE bff_records, bff_tags, bff_schema"); err != nil {
				t.Fatal(err)
			}
			_, done := open(t, addr)
			done()
		},
		limit: func() func() {
			db := handle(t, addr)
			var conns []*sql.Conn
			for {
				conn, err := db.Conn(t.Context())
				if err != nil {
					t.Logf("%d connections fill it: %v", len(conns), err)
					break
				}
				conns = append(conns, conn)
			}
			return func() {
				for _, conn := range conns {
					conn.Close()
				}
				db.Close()
			}
		},
	}
}

// fill opens so many connections and keeps them until they are lifted.
func fill(t *testing.T, n int, addr string) (lift func()) {
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
	}
}

func openRedis(t *testing.T, url string, opts redisstore.Options) (bff.Store, func()) {
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
