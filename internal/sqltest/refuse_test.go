package sqltest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/agglestone/bff/internal/testserver"
	"github.com/agglestone/bff/store/sqlstore"
)

// A call is one of a session that lives. It returns ok if that was seen.
type call struct {
	op string
	do func(ctx context.Context, s *sqlstore.Store) (ok bool, err error)
}

// The calls that write, in an order in which all are ok, and those that read.
var (
	writes = []call{
		{"Create", func(ctx context.Context, s *sqlstore.Store) (bool, error) {
			return s.Create(ctx, "snewsession", nil, far(), far())
		}},
		{"Replace", func(ctx context.Context, s *sqlstore.Store) (bool, error) {
			// Its version, which has never changed, is the time of its creation.
			_, version, _, _, err := s.Load(ctx, "slivesession")
			if err != nil {
				version = 1
			}
			_, ok, err := s.Replace(ctx, "slivesession", version, []byte("replaced"))
			return ok, err
		}},
		{"Touch", touch},
		{"Tag", func(ctx context.Context, s *sqlstore.Store) (bool, error) {
			return true, s.Tag(ctx, "talice@example.com", "snewsession", nil, far())
		}},
		{"Untag", func(ctx context.Context, s *sqlstore.Store) (bool, error) {
			return true, s.Untag(ctx, "talice@example.com", "snewsession")
		}},
		{"End", end},
	}
	reads = []call{
		{"Load", func(ctx context.Context, s *sqlstore.Store) (bool, error) {
			_, _, _, ok, err := s.Load(ctx, "slivesession")
			return ok, err
		}},
		{"Tagged", func(ctx context.Context, s *sqlstore.Store) (bool, error) {
			notes, err := s.Tagged(ctx, "talice@example.com")
			return len(notes) == 1, err
		}},
		{"Ended", func(ctx context.Context, s *sqlstore.Store) (bool, error) {
			keys, _, err := s.Ended(ctx, time.Now().Add(-time.Hour))
			return len(keys) == 0, err
		}},
		{"Since", func(ctx context.Context, s *sqlstore.Store) (bool, error) {
			since, err := s.Since(ctx)
			return !since.IsZero(), err
		}},
	}
)

func touch(ctx context.Context, s *sqlstore.Store) (bool, error) {
	return s.Touch(ctx, "slivesession", far())
}

func end(ctx context.Context, s *sqlstore.Store) (bool, error) {
	return s.End(ctx, "slivesession", 0, []byte("signed_out"), far())
}

// live files the session that the calls are about.
func live(t *testing.T, s *sqlstore.Store) {
	t.Helper()
	if ok, err := s.Create(t.Context(), "slivesession", []byte("v"), far(), far().Add(time.Hour)); !ok || err != nil {
		t.Fatalf("Create = %v, %v", ok, err)
	}
	if err := s.Tag(t.Context(), "talice@example.com", "slivesession", nil, far()); err != nil {
		t.Fatal(err)
	}
}

// work wants an answer of each call.
func work(t *testing.T, s *sqlstore.Store, calls []call) {
	t.Helper()
	for _, c := range calls {
		if ok, err := c.do(within(t, 30*time.Second), s); !ok || err != nil {
			t.Errorf("%s = %v, %v; want true, nil", c.op, ok, err)
		}
	}
}

// fail wants an error of each call within the bound, that says what is wrong
// and nothing of the session or a password.
func fail(t *testing.T, s *sqlstore.Store, calls []call, bound time.Duration, says string) {
	t.Helper()
	for _, c := range calls {
		began := time.Now()
		_, err := c.do(within(t, bound), s)
		if took := time.Since(began); took > bound+slack {
			t.Errorf("%s took %v, with %v to go", c.op, took, bound)
		}
		if err == nil {
			t.Errorf("%s: no error, want one that says %q", c.op, says)
			continue
		}
		text := err.Error()
		if !strings.Contains(strings.ToLower(text), says) {
			t.Errorf("%s = %s; want an error that says %q", c.op, text, says)
		}
		for _, secret := range []string{"session", "alice", "sesame", "replaced", "signed_out"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s = %s; that has %q", c.op, text, secret)
			}
		}
	}
}

// A database with no connection to spare is an error at once, and one that has
// again is back.
func TestConnectionLimit(t *testing.T) {
	t.Parallel()
	p, _ := postgres(t, "max_connections=6", "superuser_reserved_connections=0", "max_wal_senders=0", "autovacuum=off")
	m, _ := mariaDB(t, "--max-connections=10")
	for _, test := range []struct {
		engine
		says string
	}{{p, "too many clients"}, {m, "too many connections"}} {
		e := test.named()
		s := e.on(t, e.open(t))
		live(t, s)
		s.Close()
		ctx := within(t, time.Minute)
		hog, db := e.open(t), e.open(t)
		db.SetMaxIdleConns(0)
		var held []*sql.Conn
		for {
			conn, err := hog.Conn(ctx)
			if err != nil {
				break
			}
			held = append(held, conn)
		}
		s = mustNew(t, db, e)
		fail(t, s, writes, 30*time.Second, test.says)
		fail(t, s, reads, 30*time.Second, test.says)
		for _, conn := range held {
			conn.Close()
		}
		hog.Close()
		testserver.Eventually(t, "recovery", func() error {
			_, _, _, ok, err := s.Load(ctx, "slivesession")
			if err == nil && !ok {
				t.Error("Load says that the session is gone")
			}
			return err
		})
	}
}

// A pool that is used up is waited for, as long as the caller has time.
func TestPoolExhausted(t *testing.T) {
	t.Parallel()
	e := sqlite(t)
	db := e.open(t)
	s := e.on(t, db)
	live(t, s)
	s.Close()
	db.SetMaxOpenConns(1)
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s = mustNew(t, db, e)
	fail(t, s, reads, 50*time.Millisecond, "deadline exceeded")
	fail(t, s, writes, 50*time.Millisecond, "deadline exceeded")
	conn.Close()
	work(t, s, reads)
	work(t, s, writes)
}

func mustNew(t *testing.T, db *sql.DB, e engine) *sqlstore.Store {
	t.Helper()
	s, err := sqlstore.New(db, e.dialect, e.opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// A database that became read-only serves who is signed in, and can't tell the
// others.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	p, server := postgres(t)
	m, maria := mariaDB(t)
	lite := sqlite(t)
	for _, test := range []struct {
		engine
		readOnly func() engine
		says     string
	}{
		{p, func() engine {
			server.Exec("ALTER DATABASE test SET default_transaction_read_only = on")
			return p
		}, "read-only transaction"},
		{m, func() engine {
			if _, err := rootOf(t, maria).ExecContext(t.Context(), "SET GLOBAL read_only = 1"); err != nil {
				t.Fatal(err)
			}
			return m
		}, "read-only option"},
		{lite, func() engine { return lite.with("", "mode=ro&_pragma=query_only(1)") }, "readonly database"},
	} {
		e := test.engine
		s := e.on(t, e.open(t))
		live(t, s)
		s.Close()
		e = test.readOnly()
		s = e.on(t, e.open(t)) // Migrate only reads
		work(t, s, reads)
		fail(t, s, writes, 30*time.Second, test.says)
		work(t, s, reads)
	}
}

// A database that was emptied, or where somebody may not do something, can't
// tell. It doesn't say that a session is absent.
func TestTablesGone(t *testing.T) {
	quiet(t, func(t *testing.T, e engine) {
		e = e.named()
		db := e.open(t)
		s := e.on(t, db)
		live(t, s)
		work(t, s, reads) // and has prepared its statements
		before, err := s.Since(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, table := range []string{"records", "tags", "schema"} {
			if _, err := db.ExecContext(t.Context(), "DROP TABLE "+e.opts.Prefix+table); err != nil {
				t.Fatal(err)
			}
		}
		says := map[sqlstore.Dialect]string{
			sqlstore.Postgres: "does not exist", sqlstore.MySQL: "doesn't exist", sqlstore.SQLite: "no such table",
		}[e.dialect]
		fail(t, s, reads, 30*time.Second, says)
		fail(t, s, writes, 30*time.Second, says)
		if _, err := s.Sweep(t.Context()); err == nil {
			t.Error("Sweep of no tables: no error")
		}
		// Made anew it is a store that has forgotten all before.
		if err := s.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		since, err := s.Since(t.Context())
		if err != nil || !since.After(before) {
			t.Errorf("Since = %v, %v; want after %v", since, err, before)
		}
		if value, _, _, ok, err := s.Load(t.Context(), "slivesession"); ok || value != nil || err != nil {
			t.Errorf("Load = %q, %v, %v; want nothing", value, ok, err)
		}
		live(t, s)
		work(t, s, reads)
		work(t, s, writes)
	})
}

// Rights that are taken away.
func TestPermissionDenied(t *testing.T) {
	t.Parallel()
	p, server := postgres(t)
	p = p.named()
	live(t, p.on(t, p.open(t)))
	server.Exec("CREATE ROLE app LOGIN PASSWORD 'sesame'")
	server.Exec("GRANT SELECT ON ALL TABLES IN SCHEMA public TO app")
	p.dsn = strings.Replace(p.dsn, "test@", "app:sesame@", 1)
	s := p.on(t, p.open(t))
	work(t, s, reads)
	fail(t, s, writes, 30*time.Second, "permission denied")
	server.Exec("REVOKE ALL ON ALL TABLES IN SCHEMA public FROM app")
	fail(t, s, reads, 30*time.Second, "permission denied")
}

// Nobody listens, or nobody lets us in: the error says so, and not with what
// password it was tried.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	m, _ := mariaDB(t)
	for _, test := range []struct {
		engine
		says string
	}{
		{engine{dialect: sqlstore.Postgres, driver: "pgx", dsn: "postgres://app:sesame@127.0.0.1:1/test"}, "refused"},
		{engine{dialect: sqlstore.Postgres, driver: "postgres", dsn: "postgres://app:sesame@127.0.0.1:1/test"}, "refused"},
		{engine{dialect: sqlstore.MySQL, driver: "mysql", dsn: "app:sesame@tcp(127.0.0.1:1)/test"}, "refused"},
		{engine{dialect: sqlstore.MySQL, driver: "mysql", dsn: strings.Replace(m.dsn, "test:test@", "test:sesame@", 1)}, "access denied"},
		{engine{dialect: sqlstore.SQLite, driver: "sqlite", dsn: filepath.Join(t.TempDir(), "none", "app.db")}, "unable to open database file"},
		{engine{dialect: sqlstore.SQLite, driver: "sqlite3", dsn: filepath.Join(t.TempDir(), "none", "app.db")}, "unable to open database file"},
	} {
		s := mustNew(t, test.open(t), test.engine)
		fail(t, s, reads, 30*time.Second, test.says)
		fail(t, s, writes, 30*time.Second, test.says)
		if err := s.Migrate(within(t, 30*time.Second)); err == nil || strings.Contains(err.Error(), "sesame") {
			t.Errorf("Migrate = %v; want an error", err)
		}
	}
}

// A full disk refuses new sessions and keeps those there are. Where it doesn't
// let them end either, that is an error.
func TestFull(t *testing.T) {
	t.Parallel()
	m, _ := mariaDB(t, "--innodb-file-per-table=0", "--innodb-data-file-path=ibdata1:24M")
	for _, test := range []struct {
		engine
		says string
	}{
		{m, "is full"},
		{sqlite(t).with("", "_pragma=max_page_count(500)"), "is full"},
	} {
		e := test.engine
		s := e.on(t, e.open(t))
		live(t, s)
		ctx := within(t, time.Minute)
		var err error
		for i := 0; err == nil; i++ {
			var ok bool
			if ok, err = s.Create(ctx, fmt.Sprintf("s%d", i), make([]byte, 1<<16), far(), far()); !ok && err == nil {
				t.Fatal("Create says that the key is taken")
			}
		}
		if !strings.Contains(err.Error(), test.says) {
			t.Errorf("Create = %v; want an error that says %q", err, test.says)
		}
		work(t, s, reads)
		for _, f := range []func(context.Context, *sqlstore.Store) (bool, error){touch, end} {
			if ok, err := f(ctx, s); !ok && err == nil {
				t.Error("Touch or End says that the session is gone")
			}
		}
	}
}

// A database that somebody else has locked is no empty one.
func TestSQLiteLocked(t *testing.T) {
	t.Parallel()
	for _, driver := range []string{"sqlite", "sqlite3"} {
		for _, mode := range []string{"wal", "delete"} {
			t.Run(driver+"-"+mode, func(t *testing.T) {
				dsn := "file:" + filepath.Join(t.TempDir(), "app.db")
				if driver == "sqlite" {
					dsn += "?_pragma=busy_timeout(100)&_pragma=journal_mode(" + mode + ")"
				} else {
					dsn += "?_busy_timeout=100&_journal_mode=" + mode
				}
				e := engine{dialect: sqlstore.SQLite, driver: driver, dsn: dsn}
				s := e.on(t, e.open(t))
				live(t, s)
				conn, err := e.open(t).Conn(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				// The store's own sweep may be first, for a moment.
				testserver.Eventually(t, "lock", func() error {
					_, err := conn.ExecContext(t.Context(), "BEGIN EXCLUSIVE")
					return err
				})
				fail(t, s, writes, 30*time.Second, "locked")
				if mode == "wal" {
					work(t, s, reads)
				} else {
					fail(t, s, reads, 30*time.Second, "locked")
				}
				if _, err := conn.ExecContext(t.Context(), "COMMIT"); err != nil {
					t.Fatal(err)
				}
				work(t, s, reads)
				work(t, s, writes)
			})
		}
	}
}

// Who has little time doesn't wait as long as the busy timeout says.
func TestSQLiteLockedWithinContext(t *testing.T) {
	t.Parallel()
	e := sqlite(t) // ten seconds
	s := e.on(t, e.open(t))
	live(t, s)
	s.Close() // and with it its sweep
	conn, err := e.open(t).Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	s = mustNew(t, e.open(t), e)
	ok, err := s.Touch(within(t, 100*time.Millisecond), "slivesession", far())
	if ok || !errors.Is(err, context.DeadlineExceeded) && !strings.Contains(err.Error(), "interrupt") {
		t.Errorf("Touch = %v, %v; want that its time is up", ok, err)
	}
}

// What is no database, or half of one, can't tell either.
func TestSQLiteDamaged(t *testing.T) {
	t.Parallel()
	e := sqlite(t)
	path := strings.TrimSuffix(strings.TrimPrefix(e.dsn, "file://"), "?"+moderncParams)
	s := e.on(t, e.open(t))
	live(t, s)
	s.Close()
	if err := os.WriteFile(path, []byte(strings.Repeat("no database", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	os.Remove(path + "-wal")
	s = mustNew(t, e.open(t), e)
	fail(t, s, reads, 30*time.Second, "not a database")
	fail(t, s, writes, 30*time.Second, "not a database")
}
