package sqltest

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agglestone/bff/internal/testserver"
	"github.com/agglestone/bff/store/sqlstore"
	"github.com/agglestone/bff/store/storetest"

	_ "github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"
	_ "github.com/mattn/go-sqlite3"
	_ "modernc.org/sqlite"
)

// TestMain lets more tests run side by side than there are processors, since
// most of them wait for records to expire.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		f.Value.Set("8")
	}
	os.Exit(m.Run())
}

// An engine is a database, and how the application gets to it.
type engine struct {
	dialect sqlstore.Dialect
	driver  string
	dsn     string
	opts    sqlstore.Options
}

// with returns e with another driver, where that is not empty, and parameters
// added to its data source name.
func (e engine) with(driver, params string) engine {
	if driver != "" {
		e.driver = driver
	}
	if params == "" {
		return e
	}
	sep := "?"
	if strings.Contains(e.dsn, "?") {
		sep = "&"
	}
	e.dsn += sep + params
	return e
}

// unprepared returns e with a store that prepares nothing.
func (e engine) unprepared() engine {
	e.opts.Unprepared = true
	return e
}

func postgres(t testing.TB, settings ...string) (engine, *testserver.Postgres) {
	p := testserver.StartPostgres(t, settings...)
	return engine{dialect: sqlstore.Postgres, driver: "pgx", dsn: p.URL()}, p
}

// pgBouncer returns p behind a pooler in transaction mode, as the documentation
// says that the driver must be configured.
func pgBouncer(t testing.TB, p *testserver.Postgres, conf ...string) (engine, *testserver.PgBouncer) {
	b := testserver.StartPgBouncer(t, p, conf...)
	e := engine{dialect: sqlstore.Postgres, driver: "pgx", dsn: b.URL()}
	return e.unprepared().with("", "default_query_exec_mode=exec"), b
}

func mariaDB(t testing.TB, options ...string) (engine, *testserver.MariaDB) {
	m := testserver.StartMariaDB(t, options...)
	return engine{dialect: sqlstore.MySQL, driver: "mysql", dsn: m.DSN()}, m
}

// The parameters that the documentation recommends, but for the time-out.
const (
	moderncParams = "_pragma=busy_timeout(10000)&_pragma=journal_mode(wal)&_pragma=synchronous(normal)"
	mattnParams   = "_busy_timeout=10000&_journal_mode=WAL&_synchronous=NORMAL"
)

func sqlite(t testing.TB) engine {
	file := url.URL{Scheme: "file", Path: filepath.Join(t.TempDir(), "app.db")}
	return engine{dialect: sqlstore.SQLite, driver: "sqlite", dsn: file.String() + "?" + moderncParams}
}

func mattn(t testing.TB) engine {
	e := sqlite(t)
	return engine{dialect: sqlstore.SQLite, driver: "sqlite3", dsn: strings.Replace(e.dsn, moderncParams, mattnParams, 1)}
}

// open returns a handle of the application's, until the test ends.
func (e engine) open(t testing.TB) *sql.DB {
	t.Helper()
	db, err := sql.Open(e.driver, e.dsn)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(16)
	db.SetMaxIdleConns(16)
	t.Cleanup(func() { db.Close() })
	return db
}

var prefixes atomic.Int64

// named returns e with a name of its own for a store's tables, so that the
// store is empty.
func (e engine) named() engine {
	e.opts.Prefix = fmt.Sprintf("t%d_", prefixes.Add(1))
	return e
}

// on returns a store in db, whose tables may be there.
func (e engine) on(t testing.TB, db *sql.DB) *sqlstore.Store {
	t.Helper()
	s, err := sqlstore.New(db, e.dialect, e.opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.Migrate(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	return s
}

// store returns an empty store with a handle of its own.
func (e engine) store(t testing.TB) *sqlstore.Store {
	t.Helper()
	return e.named().on(t, e.open(t))
}

// within returns a context that ends after d, or with the test.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// far is a time that no test waits for.
func far() time.Time { return time.Now().Add(24 * time.Hour) }

// contract runs the whole suite on e, as two replicas that share it, and beside
// others, since most of it waits. The million keys are TestMillionKeys' here.
func contract(t *testing.T, e engine) {
	t.Parallel()
	first, second := e.open(t), e.open(t)
	var current engine
	newStore := func(t *testing.T) storetest.Store {
		current = e.named()
		return current.on(t, first)
	}
	storetest.Run(t, newStore, storetest.Options{
		Want:   storetest.Indexer | storetest.EndLog | storetest.Rememberer,
		Second: func(t *testing.T, _ storetest.Store) storetest.Store { return current.on(t, second) },
		Keys:   5000,
		Tick:   500 * time.Millisecond,
	})
}

// life files, changes, reads and ends one record in the store, which is empty,
// by every statement there is.
func life(t *testing.T, s *sqlstore.Store) {
	t.Helper()
	ctx := within(t, time.Minute)
	expires := time.Now().Add(time.Hour)
	check := func(op string, ok bool, err error) {
		t.Helper()
		if !ok || err != nil {
			t.Errorf("%s = %v, %v; want true, nil", op, ok, err)
		}
	}
	value := make([]byte, 256)
	for i := range value {
		value[i] = byte(i)
	}
	// A record that expired is in the way.
	ok, err := s.Create(ctx, "s", nil, time.Now().Add(-time.Hour), far())
	check("Create", ok, err)
	ok, err = s.Create(ctx, "s", value, expires, far())
	check("Create", ok, err)
	if ok, err := s.Create(ctx, "s", nil, far(), far()); ok || err != nil {
		t.Errorf("Create on a live record = %v, %v; want false, nil", ok, err)
	}
	got, version, at, ok, err := s.Load(ctx, "s")
	check("Load", ok && string(got) == string(value) && at.Sub(expires).Abs() < time.Millisecond, err)
	version, ok, err = s.Replace(ctx, "s", version, []byte{})
	check("Replace", ok, err)
	got, _, _, ok, err = s.Load(ctx, "s")
	check("Load", ok && len(got) == 0, err)
	ok, err = s.Touch(ctx, "s", expires.Add(time.Hour))
	check("Touch", ok, err)
	ok, err = s.Touch(ctx, "s", expires)
	check("Touch back", ok, err)
	_, next, err := s.Ended(ctx, time.Time{})
	check("Ended", true, err)
	ok, err = s.End(ctx, "s", version, []byte("gone"), far())
	check("End", ok, err)
	if ok, err := s.End(ctx, "s", 0, []byte("again"), far()); ok || err != nil {
		t.Errorf("End again = %v, %v; want false, nil", ok, err)
	}
	got, _, _, ok, err = s.Load(ctx, "s")
	check("Load", !ok && string(got) == "gone", err)
	keys, _, err := s.Ended(ctx, next)
	check("Ended", len(keys) == 1 && keys[0] == "s", err)
	check("Tag", true, s.Tag(ctx, "t", "s", nil, far()))
	check("Tag", true, s.Tag(ctx, "t", "s", value, far()))
	notes, err := s.Tagged(ctx, "t")
	check("Tagged", len(notes) == 1 && string(notes["s"]) == string(value), err)
	check("Untag", true, s.Untag(ctx, "t", "s"))
	notes, err = s.Tagged(ctx, "t")
	check("Tagged", len(notes) == 0, err)
	since, err := s.Since(ctx)
	check("Since", time.Since(since).Abs() < time.Minute, err)
	ok, err = s.Create(ctx, "sold", nil, time.Now().Add(-time.Hour), far())
	check("Create", ok, err)
	check("Tag", true, s.Tag(ctx, "t", "sold", nil, time.Now().Add(-time.Hour)))
	n, err := s.Sweep(ctx)
	check("Sweep", n <= 2, err) // the writes above may have been first
}

// crowd is life, and then eight at once who change the same record, so that a
// pooler hands their statements to one connection after another.
func crowd(t *testing.T, s *sqlstore.Store) {
	t.Helper()
	life(t, s)
	ctx := within(t, time.Minute)
	if ok, err := s.Create(ctx, "scount", []byte{0}, far(), far()); !ok || err != nil {
		t.Fatalf("Create = %v, %v", ok, err)
	}
	const workers, each = 8, 25
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for done := 0; done < each; {
				value, version, _, ok, err := s.Load(ctx, "scount")
				if !ok || err != nil {
					t.Errorf("Load = %v, %v", ok, err)
					return
				}
				_, ok, err = s.Replace(ctx, "scount", version, []byte{value[0] + 1})
				if err != nil {
					t.Errorf("Replace: %v", err)
					return
				}
				if ok {
					done++
				}
			}
		})
	}
	wg.Wait()
	if value, _, _, _, err := s.Load(ctx, "scount"); err != nil || value[0] != workers*each {
		t.Errorf("%d changes were counted as %v, %v", workers*each, value, err)
	}
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	e, _ := postgres(t)
	t.Run("contract", func(t *testing.T) { contract(t, e) })
	// As some databases are set up for all that they do.
	t.Run("serializable", func(t *testing.T) { crowd(t, e.with("", "default_transaction_isolation=serializable").store(t)) })
	t.Run("repeatable-read", func(t *testing.T) { crowd(t, e.with("", "default_transaction_isolation=repeatable%20read").store(t)) })
	t.Run("pq", func(t *testing.T) { life(t, e.with("postgres", "").store(t)) })
	t.Run("pgx-exec", func(t *testing.T) { life(t, e.with("", "default_query_exec_mode=exec").unprepared().store(t)) })
	t.Run("pgx-unprepared", func(t *testing.T) { life(t, e.unprepared().store(t)) })
}

func TestPgBouncer(t *testing.T) {
	t.Parallel()
	_, p := postgres(t)
	e, _ := pgBouncer(t, p)
	t.Run("contract", func(t *testing.T) { contract(t, e) })
	for mode, driver := range map[string]string{
		"default_query_exec_mode=simple_protocol": "pgx",
		"default_query_exec_mode=cache_describe":  "pgx",
		"binary_parameters=yes":                   "postgres",
	} {
		t.Run(mode, func(t *testing.T) {
			e := e
			e.driver, e.dsn = driver, strings.Replace(e.dsn, "default_query_exec_mode=exec", mode, 1)
			crowd(t, e.store(t))
		})
	}
}

func TestMariaDB(t *testing.T) {
	t.Parallel()
	e, _ := mariaDB(t)
	t.Run("contract", func(t *testing.T) { contract(t, e) })
	t.Run("found-rows", func(t *testing.T) { contract(t, e.with("", "clientFoundRows=true")) })
	for _, level := range []string{"READ-UNCOMMITTED", "READ-COMMITTED", "SERIALIZABLE"} {
		t.Run(level, func(t *testing.T) { crowd(t, e.with("", "tx_isolation=%27"+level+"%27").store(t)) })
	}
	t.Run("interpolated", func(t *testing.T) { life(t, e.with("", "interpolateParams=true").unprepared().store(t)) })
	t.Run("unprepared", func(t *testing.T) { life(t, e.unprepared().store(t)) })
}

func TestSQLite(t *testing.T) {
	t.Parallel()
	t.Run("contract", func(t *testing.T) { contract(t, sqlite(t)) })
	t.Run("mattn", func(t *testing.T) { contract(t, mattn(t)) })
	t.Run("rollback-journal", func(t *testing.T) {
		e := sqlite(t)
		e.dsn = strings.Replace(e.dsn, "journal_mode(wal)", "journal_mode(delete)", 1)
		crowd(t, e.store(t))
	})
	for _, driver := range []string{"sqlite", "sqlite3"} {
		t.Run("memory-"+driver, func(t *testing.T) {
			e := engine{dialect: sqlstore.SQLite, driver: driver, dsn: ":memory:"}
			db := e.open(t)
			db.SetMaxOpenConns(1)
			crowd(t, e.on(t, db))
		})
	}
}
