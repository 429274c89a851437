package sqlstore_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/agglestone/bff/store/sqlstore"
)

// A database is a driver whose answers a test makes up. It keeps the statements
// that it was sent.
type database struct {
	answer func(ctx context.Context, query string, args []driver.NamedValue) (answer, error)

	mu       sync.Mutex
	sent     []string
	prepared []string
	closed   int // of those
}

type answer struct {
	affected int64
	rows     [][]driver.Value
}

// store returns a Store on d.
func (d *database) store(t *testing.T, dialect sqlstore.Dialect, opts sqlstore.Options) *sqlstore.Store {
	t.Helper()
	db := sql.OpenDB(d)
	s, err := sqlstore.New(db, dialect, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		db.Close()
	})
	return s
}

func (d *database) run(ctx context.Context, query string, args []driver.NamedValue) (answer, error) {
	d.mu.Lock()
	d.sent = append(d.sent, query)
	d.mu.Unlock()
	return d.answer(ctx, query, args)
}

// count returns how many statements with that beginning were sent.
func (d *database) count(prefix string) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, query := range d.sent {
		if strings.HasPrefix(query, prefix) {
			n++
		}
	}
	return n
}

func (d *database) Connect(context.Context) (driver.Conn, error) { return conn{d}, nil }
func (d *database) Driver() driver.Driver                        { return nil }

type conn struct{ d *database }

func (c conn) Close() error              { return nil }
func (c conn) Begin() (driver.Tx, error) { return nil, errors.New("no transactions here") }

func (c conn) Prepare(query string) (driver.Stmt, error) {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	c.d.prepared = append(c.d.prepared, query)
	return stmt{c.d, query}, nil
}

func (c conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	a, err := c.d.run(ctx, query, args)
	return driver.RowsAffected(a.affected), err
}

func (c conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	a, err := c.d.run(ctx, query, args)
	if err != nil {
		return nil, err
	}
	return &rows{a.rows}, nil
}

type stmt struct {
	d     *database
	query string
}

func (s stmt) NumInput() int { return -1 }

func (s stmt) Close() error {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	s.d.closed++
	return nil
}

func (s stmt) Exec([]driver.Value) (driver.Result, error) {
	return nil, errors.New("without a context")
}
func (s stmt) Query([]driver.Value) (driver.Rows, error) { return nil, errors.New("without a context") }

func (s stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return conn{s.d}.ExecContext(ctx, s.query, args)
}

func (s stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return conn{s.d}.QueryContext(ctx, s.query, args)
}

type rows struct{ left [][]driver.Value }

func (r *rows) Close() error { return nil }

func (r *rows) Columns() []string {
	if len(r.left) == 0 {
		return nil
	}
	return make([]string, len(r.left[0]))
}

func (r *rows) Next(dest []driver.Value) error {
	if len(r.left) == 0 {
		return io.EOF
	}
	copy(dest, r.left[0])
	r.left = r.left[1:]
	return nil
}
