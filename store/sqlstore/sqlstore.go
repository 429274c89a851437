// Package sqlstore keeps session records in the application's own SQL
// database: PostgreSQL 13 or later, MySQL 8, MariaDB 10.6 or later, or SQLite.
// It uses database/sql alone; the application brings the driver and the handle.
//
//	db, err := sql.Open("pgx", os.Getenv("DATABASE_URL"))
//	...
//	store, err := sqlstore.New(db, sqlstore.Postgres, sqlstore.Options{})
//	...
//	if err := store.Migrate(ctx); err != nil { ... }
//	auth, err := bff.New(ctx, bff.Config{Store: store, ...})
//
// # Choosing
//
// Take it when there is a database already and one more server is not wanted:
// sessions then are as durable, as replicated and as well looked after as the
// rest of the application's data. A request that needs no refresh costs one
// SELECT by primary key; a sign-in some inserts; sliding and refreshing an
// UPDATE each. SQLite serves every process of one machine and nobody else.
//
// There is no [github.com/agglestone/bff.Watcher], since database/sql has no
// notifications. Who wants to learn of sign-outs elsewhere polls [Store.Ended].
//
// # Schema
//
// Three tables, named with a prefix (bff_): records, tags and schema. [Schema]
// returns their definition for the application's own migrations, and
// [Store.Migrate] creates what is missing; it may run at every start, in all
// replicas at once. A role that may only SELECT, INSERT, UPDATE and DELETE is
// enough for all else, and for a Migrate that finds nothing to do. Later
// versions of this package only add to the schema, so that replicas of two
// versions can share it during a deployment.
//
// What is deleted or overwritten lingers in a database until its vacuum, purge
// or checkpoint, and in its log and backups. Values are sealed, keys are
// digests.
//
// # The database is the primary
//
// The handle must lead to where writes go, for reads too: on a read replica an
// ended session still looks alive, and the record that a refresh just wrote
// is not there yet. The same goes for a Galera cluster: let all replicas of the
// application use one node at a time. Autocommit must be on, which it is
// unless somebody turned it off. A commit that the database acknowledged and
// lost in a failover is lost here too; synchronous replication prevents that.
//
// # Connections
//
// A call takes one connection of the handle's pool, and waits for it no longer
// than its context lasts. database/sql keeps two idle ones unless told
// otherwise, and opens and closes all beyond: call db.SetMaxIdleConns with what
// db.SetMaxOpenConns has, which in turn must fit the server's limit together
// with all other replicas. Errors say what the driver says, but repeat no key
// and no value.
//
// # Time
//
// What is live and what has expired is decided by the database's clock, in the
// statement that asks. Times are stored as microseconds since 1970 in BIGINT
// columns: an integer means the same to every driver and engine, whereas
// timestamps pass through the zones of session, driver and server on their
// way. Expiries come from the application's clock, so the two should agree to
// the second. SQLite's clock has milliseconds.
//
// # Sweeping
//
// An expired record is absent from that moment on. Its row is deleted later, by
// whoever writes: at most every ten seconds, or every 50 milliseconds while
// there is a backlog, a write leaves behind a goroutine that deletes up to 200
// rows that it finds through an index, within three seconds. It never delays
// that write and never fails it. Rows that somebody else holds are left for the
// next time, except on MySQL, where it waits for them as long. [Store.Sweep]
// does the same on demand.
//
// There is no eviction and no bound on the number of records but the disk's: a
// flood of login attempts, whose marks live 15 minutes, takes up room for as
// long and never a session's place. Alert on the table's size.
//
// # PostgreSQL and PgBouncer
//
// Statements are prepared on first use, once per connection. No statement
// depends on another, or on anything that belongs to a connection, so PgBouncer
// may work in transaction mode: set Options.Unprepared and tell the driver not
// to prepare either. (From version 1.21 with max_prepared_statements set,
// PgBouncer's and pgx's documentation say that neither is needed. What our tests
// run is 1.18.)
//
//   - pgx: default_query_exec_mode=exec in the connection string. The modes
//     cache_statement and describe_exec don't work there.
//   - lib/pq: binary_parameters=yes.
//
// PgBouncer itself waits 15 seconds before it tries a server again that was
// down (server_login_retry), and so long sessions are unavailable.
//
// A role's or database's default_transaction_isolation may be anything; what
// the database rolled back for that reason is repeated.
//
// lib/pq lets database/sql repeat a statement whose connection broke before
// the answer came: a write that was applied may then be answered with ok false.
// Callers must look anyway, but pgx doesn't do that.
//
// # MySQL and MariaDB
//
// The statements are those that both document; what our tests run is MariaDB
// 10.11. Any isolation level and either setting of clientFoundRows will do. The
// largest statement carries a value of 1 MiB, so max_allowed_packet must be
// more than that (the defaults are). With rejectReadOnly=true go-sql-driver
// leaves a server that became a replica.
//
// # SQLite
//
// Use a file in WAL mode, so that readers don't wait for the writer, and a busy
// timeout, so that writers wait for one another; and let it be shorter than
// [github.com/agglestone/bff.Config].StoreTimeout. A database that stays locked
// is an error, never absence.
//
//	modernc.org/sqlite: file:app.db?_pragma=busy_timeout(1000)&_pragma=journal_mode(wal)&_pragma=synchronous(normal)
//	mattn/go-sqlite3:   file:app.db?_busy_timeout=1000&_journal_mode=WAL&_synchronous=NORMAL
//
// With synchronous(normal) the last writes before a power failure can be lost;
// leave it out where that matters. A ":memory:" database belongs to one
// connection and is no store, unless db.SetMaxOpenConns(1) was called.
package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"
)

// The contract's limits.
const (
	maxKey   = 64
	maxValue = 1 << 20
	maxMark  = 64
	maxNote  = 256
)

// Options change how a Store works. The zero Options are good for a database
// that the application reaches without a pooler in between.
type Options struct {
	// Prefix begins the tables' names. Empty means "bff_". It is a lower-case
	// letter and up to 31 lower-case letters, digits and underscores; for
	// PostgreSQL and MySQL a schema's or database's name of the same form and a
	// dot may stand in front: "auth.bff_".
	Prefix string

	// Unprepared sends every statement as it is instead of preparing it first.
	// It is for poolers that give each transaction another connection. See the
	// package's documentation for what the drivers need besides.
	Unprepared bool
}

// A Store keeps records in a database. It is safe for concurrent use.
type Store struct {
	db         *sql.DB
	dialect    Dialect
	prefix     string
	unprepared bool

	load, create, takeOver, replace, touch, live, end, endAt,
	tag, tagged, untag, ended, now, since statement

	sweeps  []sweep
	sweeper sweeper
}

// A statement is one that is sent often.
type statement struct {
	op       string // for errors
	text     string
	prepared atomic.Pointer[sql.Stmt]
}

// New returns a Store that keeps its records in db, which speaks dialect. It
// does no I/O. The error says what is wrong with the arguments.
func New(db *sql.DB, dialect Dialect, opts Options) (*Store, error) {
	if db == nil {
		return nil, errors.New("sqlstore: no database")
	}
	if opts.Prefix == "" {
		opts.Prefix = "bff_"
	}
	if err := check(dialect, opts.Prefix); err != nil {
		return nil, err
	}
	s := &Store{db: db, dialect: dialect, prefix: opts.Prefix, unprepared: opts.Unprepared}
	texts := statements(dialect, opts.Prefix)
	for op, st := range s.statements() {
		st.op, st.text = op, texts[op]
	}
	s.sweeps = sweepsOf(dialect, opts.Prefix)
	s.sweeper.init()
	return s, nil
}

func (s *Store) statements() map[string]*statement {
	return map[string]*statement{
		"load": &s.load, "create": &s.create, "take over": &s.takeOver, "replace": &s.replace, "touch": &s.touch,
		"live": &s.live, "end": &s.end, "end at": &s.endAt, "tag": &s.tag, "tagged": &s.tagged, "untag": &s.untag,
		"ended": &s.ended, "now": &s.now, "since": &s.since,
	}
}

// Close waits for a sweep under way, which it cuts short, and gives back the
// prepared statements. The database stays open. A Store that lives as long as
// its process needs no closing; one that was closed returns errors.
func (s *Store) Close() error {
	s.sweeper.close()
	var errs []error
	for _, st := range s.statements() {
		if p := st.prepared.Load(); p != nil {
			errs = append(errs, p.Close())
		}
	}
	if err := errors.Join(errs...); err != nil {
		return failed("close", err)
	}
	return nil
}

// Load returns the live record under key, or ok false with the mark of one
// that was ended, or ok false and nil.
func (s *Store) Load(ctx context.Context, key string) (value []byte, version uint64, expires time.Time, ok bool, err error) {
	var v, e int64
	var ended sql.NullInt64
	switch err := s.row(ctx, &s.load, []any{key}, &value, &v, &e, &ended); {
	case err == sql.ErrNoRows:
		return nil, 0, time.Time{}, false, nil
	case err != nil:
		return nil, 0, time.Time{}, false, err
	case ended.Valid:
		return value, 0, time.Time{}, false, nil
	}
	return value, uint64(v), time.UnixMicro(e), true, nil
}

// Create files value under key, to keep until expires and, with Touch, until
// end at most. If the key holds a live record or a mark, ok is false.
//
// A version begins with the time, or behind that of the expired record in whose
// place it comes: so the next record under a key begins with a greater version
// than any before it had.
func (s *Store) Create(ctx context.Context, key string, value []byte, expires, end time.Time) (ok bool, err error) {
	if err := checkKey("key", key); err != nil {
		return false, err
	}
	if err := checkLen("value", value, 0, maxValue); err != nil {
		return false, err
	}
	deadline := micros(end)
	until := min(micros(expires), deadline)
	args := []any{key, bytes(value), until, deadline}
	if s.takeOver.text == "" {
		n, err := s.exec(ctx, &s.create, args...)
		return n != 0, err
	}
	// MySQL's upsert can't say what it did if the driver counts found rows. So
	// insert; if there is a row, and it has expired, overwrite that; if there is
	// no such row either, insert again, since it may have been swept in between.
	// Each step is atomic and leaves the answer to the next only if it changed
	// nothing. If all three did that, somebody else's record was there.
	for _, step := range []*statement{&s.create, &s.takeOver, &s.create} {
		if step == &s.takeOver {
			args = []any{bytes(value), until, deadline, key}
		} else {
			args = []any{key, bytes(value), until, deadline}
		}
		if n, err := s.exec(ctx, step, args...); n != 0 || err != nil {
			return n != 0, err
		}
	}
	return false, nil
}

// Replace overwrites the value of the live record under key if the record
// still has that version, and returns the new version, which is the next one.
func (s *Store) Replace(ctx context.Context, key string, version uint64, value []byte) (next uint64, ok bool, err error) {
	if err := checkLen("value", value, 0, maxValue); err != nil {
		return 0, false, err
	}
	// A version past the greatest int64 becomes negative, as no record's is.
	n, err := s.exec(ctx, &s.replace, bytes(value), key, int64(version))
	if n == 0 || err != nil {
		return 0, false, err
	}
	return version + 1, true, nil
}

// Touch moves the expiry of the live record under key forward to expires, or
// to its end if that is earlier. ok is false if there is no live record.
func (s *Store) Touch(ctx context.Context, key string, expires time.Time) (ok bool, err error) {
	n, err := s.exec(ctx, &s.touch, micros(expires), key)
	if n != 0 || err != nil {
		return n != 0, err
	}
	if s.dialect != MySQL {
		return false, nil
	}
	// MySQL may count only rows that changed: so is there one that didn't?
	switch err := s.row(ctx, &s.live, []any{key}, &n); {
	case err == sql.ErrNoRows:
		return false, nil
	case err != nil:
		return false, err
	}
	return true, nil
}

// End replaces the live record under key by mark, to keep until the given
// time, if the record has that version or the version is 0.
func (s *Store) End(ctx context.Context, key string, version uint64, mark []byte, until time.Time) (ok bool, err error) {
	if err := checkLen("mark", mark, 1, maxMark); err != nil {
		return false, err
	}
	var n int64
	if version == 0 {
		n, err = s.exec(ctx, &s.end, mark, micros(until), key)
	} else {
		n, err = s.exec(ctx, &s.endAt, mark, micros(until), key, int64(version))
	}
	return n != 0, err
}

// exec runs a statement that writes, and returns the number of rows it wrote.
// It repeats one that the database rolled back, as it does with one side of a
// deadlock: that has changed nothing for sure. Whatever else happens is the
// caller's to look into, since the write may have been applied.
func (s *Store) exec(ctx context.Context, st *statement, args ...any) (rows int64, err error) {
	for try := 1; ; try++ {
		rows, err = s.execOnce(ctx, st, args)
		if err == nil {
			s.sweepIfDue()
			return rows, nil
		}
		if try == tries || !rolledBack(err) || !pause(ctx, try) {
			return 0, failed(st.op, err, args...)
		}
	}
}

func (s *Store) execOnce(ctx context.Context, st *statement, args []any) (int64, error) {
	var result sql.Result
	stmt, err := s.prepare(ctx, st)
	switch {
	case err != nil:
		return 0, err
	case stmt != nil:
		result, err = stmt.ExecContext(ctx, args...)
	default:
		result, err = s.db.ExecContext(ctx, st.text, args...)
	}
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// row runs a statement that reads one row. The error is sql.ErrNoRows, as it
// is, if there is none.
func (s *Store) row(ctx context.Context, st *statement, args []any, dest ...any) error {
	stmt, err := s.prepare(ctx, st)
	switch {
	case err != nil:
	case stmt != nil:
		err = stmt.QueryRowContext(ctx, args...).Scan(dest...)
	default:
		err = s.db.QueryRowContext(ctx, st.text, args...).Scan(dest...)
	}
	if err == nil || err == sql.ErrNoRows {
		return err
	}
	return failed(st.op, err, args...)
}

// rows runs a statement that reads any number of rows, and calls scan for each.
func (s *Store) rows(ctx context.Context, st *statement, args []any, scan func(*sql.Rows) error) error {
	var rows *sql.Rows
	stmt, err := s.prepare(ctx, st)
	switch {
	case err != nil:
	case stmt != nil:
		rows, err = stmt.QueryContext(ctx, args...)
	default:
		rows, err = s.db.QueryContext(ctx, st.text, args...)
	}
	if err != nil {
		return failed(st.op, err, args...)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return failed(st.op, err, args...)
		}
	}
	if err := rows.Err(); err != nil {
		return failed(st.op, err, args...)
	}
	return nil
}

// prepare returns the prepared statement, or nil if there shall be none. The
// sql.Stmt prepares itself anew on each connection that the pool opens.
func (s *Store) prepare(ctx context.Context, st *statement) (*sql.Stmt, error) {
	if s.unprepared {
		return nil, nil
	}
	if p := st.prepared.Load(); p != nil {
		return p, nil
	}
	// Several may get here at once. Nobody waits for another's connection.
	p, err := s.db.PrepareContext(ctx, st.text)
	if err != nil {
		return nil, err
	}
	if !st.prepared.CompareAndSwap(nil, p) {
		p.Close()
		p = st.prepared.Load()
	}
	return p, nil
}

// checkKey checks what would not be found again as it was filed.
func checkKey(what, key string) error {
	if len(key) == 0 || len(key) > maxKey {
		return fmt.Errorf("sqlstore: a %s of %d bytes; 1 to %d are allowed", what, len(key), maxKey)
	}
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' {
			return fmt.Errorf("sqlstore: a %s with byte %#x; printable ASCII is allowed", what, key[i])
		}
	}
	return nil
}

func checkLen(what string, b []byte, least, most int) error {
	if len(b) < least || len(b) > most {
		return fmt.Errorf("sqlstore: a %s of %d bytes; %d to %d are allowed", what, len(b), least, most)
	}
	return nil
}

// bytes returns b, which drivers must not take for NULL.
func bytes(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

var (
	earliest = time.UnixMicro(math.MinInt64)
	latest   = time.UnixMicro(math.MaxInt64)
)

// micros returns t in Unix microseconds, or the nearest that there is.
func micros(t time.Time) int64 {
	switch {
	case t.Before(earliest):
		return math.MinInt64
	case t.After(latest):
		return math.MaxInt64
	}
	return t.UnixMicro()
}
