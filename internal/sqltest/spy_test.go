package sqltest

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"slices"
	"sync"
	"testing"
)

// A spy stands between database/sql and a driver and notes what is sent.
type spy struct {
	driver driver.Driver
	dsn    string

	mu   sync.Mutex
	sent []sent
}

type sent struct {
	query string
	args  []any
}

// watched opens a handle as e.open does, and the spy in it.
func (e engine) watched(t testing.TB) (*sql.DB, *spy) {
	t.Helper()
	s := &spy{driver: e.open(t).Driver(), dsn: e.dsn}
	db := sql.OpenDB(s)
	t.Cleanup(func() { db.Close() })
	return db, s
}

// take returns what was sent since the last call.
func (s *spy) take() []sent {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.sent
	s.sent = nil
	return taken
}

func (s *spy) note(query string, args []driver.NamedValue) {
	var values []any
	for _, arg := range args {
		value := arg.Value
		if b, ok := value.([]byte); ok {
			value = slices.Clone(b)
		}
		values = append(values, value)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, sent{query, values})
}

func (s *spy) Driver() driver.Driver { return s.driver }

func (s *spy) Connect(context.Context) (driver.Conn, error) {
	conn, err := s.driver.Open(s.dsn)
	if err != nil {
		return nil, err
	}
	return spyConn{conn, s}, nil
}

// A spyConn has what database/sql asks for, and the drivers here all do.
type spyConn struct {
	driver.Conn
	spy *spy
}

func (c spyConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	stmt, err := c.Conn.(driver.ConnPrepareContext).PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	return spyStmt{stmt, query, c.spy}, nil
}

func (c spyConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	result, err := c.Conn.(driver.ExecerContext).ExecContext(ctx, query, args)
	if err != driver.ErrSkip {
		c.spy.note(query, args)
	}
	return result, err
}

func (c spyConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := c.Conn.(driver.QueryerContext).QueryContext(ctx, query, args)
	if err != driver.ErrSkip {
		c.spy.note(query, args)
	}
	return rows, err
}

func (c spyConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	return c.Conn.(driver.ConnBeginTx).BeginTx(ctx, opts)
}

type spyStmt struct {
	driver.Stmt
	query string
	spy   *spy
}

func (s spyStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	s.spy.note(s.query, args)
	return s.Stmt.(driver.StmtExecContext).ExecContext(ctx, args)
}

func (s spyStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	s.spy.note(s.query, args)
	return s.Stmt.(driver.StmtQueryContext).QueryContext(ctx, args)
}
