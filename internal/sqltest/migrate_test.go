package sqltest

import (
	"database/sql"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/agglestone/bff/internal/testserver"
	"github.com/agglestone/bff/store/sqlstore"
)

// quiet are the tests that leave the server as it was, on every engine.
func quiet(t *testing.T, f func(t *testing.T, e engine)) {
	t.Helper()
	t.Parallel()
	p, server := postgres(t)
	b, _ := pgBouncer(t, server)
	m, _ := mariaDB(t)
	for _, e := range []struct {
		name string
		engine
	}{{"postgres", p}, {"pgbouncer", b}, {"mariadb", m}, {"sqlite", sqlite(t)}} {
		t.Run(e.name, func(t *testing.T) { f(t, e.engine) })
	}
}

// Replicas that start at once all find the schema made, once.
func TestMigrateTogether(t *testing.T) {
	quiet(t, func(t *testing.T, e engine) {
		for range 5 {
			e := e.named()
			var wg sync.WaitGroup
			stores := make([]*sqlstore.Store, 8)
			for i := range stores {
				s, err := sqlstore.New(e.open(t), e.dialect, e.opts)
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				stores[i] = s
			}
			for _, s := range stores {
				wg.Go(func() {
					if err := s.Migrate(within(t, time.Minute)); err != nil {
						t.Errorf("Migrate: %v", err)
					}
				})
			}
			wg.Wait()
			life(t, stores[0])
			first, err := stores[0].Since(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range stores {
				if err := s.Migrate(t.Context()); err != nil {
					t.Errorf("Migrate again: %v", err)
				}
				if since, err := s.Since(t.Context()); !since.Equal(first) || err != nil {
					t.Errorf("Since = %v, %v; want %v as before", since, err, first)
				}
			}
		}
	})
}

// A schema that is there costs one SELECT, whoever made it.
func TestMigrateReads(t *testing.T) {
	quiet(t, func(t *testing.T, e engine) {
		e = e.named()
		text, err := sqlstore.Schema(e.dialect, e.opts.Prefix)
		if err != nil {
			t.Fatal(err)
		}
		db, spy := e.watched(t)
		for range 2 {
			for statement := range strings.SplitSeq(text, ";\n") {
				if strings.TrimSpace(statement) == "" {
					continue
				}
				if _, err := db.ExecContext(t.Context(), statement); err != nil {
					t.Fatalf("%v: %s", err, statement)
				}
			}
		}
		spy.take()
		s := e.on(t, db)
		if sent := spy.take(); len(sent) != 1 || !strings.HasPrefix(sent[0].query, "SELECT") {
			t.Errorf("Migrate on Schema's text sends %q", sent)
		}
		life(t, s)
		// One that a later release made is no error: replicas of both run.
		if _, err := db.ExecContext(t.Context(), "INSERT INTO "+e.opts.Prefix+"schema (version, applied) VALUES (99, 1)"); err != nil {
			t.Fatal(err)
		}
		since, err := s.Since(t.Context())
		if err := s.Migrate(t.Context()); err != nil {
			t.Errorf("Migrate on a later version: %v", err)
		}
		if time.Since(since) > time.Minute || err != nil {
			t.Errorf("Since = %v, %v", since, err)
		}
	})
}

// A schema or database of its own.
func TestQualifiedPrefix(t *testing.T) {
	t.Parallel()
	p, server := postgres(t)
	server.Exec("CREATE SCHEMA auth")
	p.opts.Prefix = "auth.bff_"
	crowd(t, p.on(t, p.open(t)))
	m, _ := mariaDB(t)
	m.opts.Prefix = "test.bff_"
	crowd(t, m.on(t, m.open(t)))
}

// A role that can't create tables is enough once they are there.
func TestLeastPrivilege(t *testing.T) {
	t.Parallel()
	p, server := postgres(t)
	p = p.named()
	p.on(t, p.open(t))
	server.Exec("CREATE ROLE app LOGIN")
	server.Exec("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
	server.Exec("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO app")
	m, root := mariaDB(t)
	m = m.named()
	m.on(t, m.open(t))
	admin := rootOf(t, root)
	for _, text := range []string{
		"CREATE USER app@'127.0.0.1' IDENTIFIED BY 'sesame'",
		"GRANT SELECT, INSERT, UPDATE, DELETE ON test.* TO app@'127.0.0.1'",
	} {
		if _, err := admin.ExecContext(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range []engine{
		{p.dialect, p.driver, strings.Replace(p.dsn, "test@", "app@", 1), p.opts},
		{m.dialect, m.driver, strings.Replace(m.dsn, "test:test@", "app:sesame@", 1), m.opts},
	} {
		life(t, e.on(t, e.open(t)))
		s, err := sqlstore.New(e.open(t), e.dialect, e.named().opts)
		if err != nil {
			t.Fatal(err)
		}
		err = s.Migrate(within(t, time.Minute))
		if err == nil || !strings.Contains(err.Error(), "denied") || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%v: Migrate without the right to = %v; want an error that says so", e.dialect, err)
		}
	}
}

// rootOf returns a handle of the server's administrator.
func rootOf(t testing.TB, m *testserver.MariaDB) *sql.DB {
	return engine{driver: "mysql", dsn: "root@tcp(" + m.Addr + ")/"}.open(t)
}
