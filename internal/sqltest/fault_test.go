package sqltest

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agglestone/bff/internal/testserver"
	"github.com/agglestone/bff/store/sqlstore"
)

// A server can be hurt.
type server interface {
	Kill()
	Restart()
	Pause()
	Resume()
}

// bound is how long the callers below wait for an answer.
const bound = time.Second

// slack is what a machine with much else to do may add to that.
const slack = 5 * time.Second

// A load is callers who use one session each, over and over, as a replica's
// requests do, and check what they are told.
type load struct {
	t       *testing.T
	s       *sqlstore.Store
	stop    chan struct{}
	done    sync.WaitGroup
	workers [8]worker
}

type worker struct {
	key       string
	succeeded atomic.Int64 // rounds without an error
	failed    atomic.Int64 // and with one
}

func startLoad(t *testing.T, s *sqlstore.Store) *load {
	t.Helper()
	l := &load{t: t, s: s, stop: make(chan struct{})}
	for i := range l.workers {
		w := &l.workers[i]
		w.key = fmt.Sprintf("s%d", i)
		if ok, err := s.Create(t.Context(), w.key, make([]byte, 8), far(), far().Add(time.Hour)); !ok || err != nil {
			t.Fatalf("Create = %v, %v", ok, err)
		}
		l.done.Go(func() { l.work(w) })
	}
	t.Cleanup(l.end)
	return l
}

// end waits for the callers. It may be called again.
func (l *load) end() {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.done.Wait()
}

// work counts in the record. What was acknowledged is there, and besides only
// what was unclear: nothing is lost, made up, or done twice. Absence is an
// answer that nobody may give, since no session ends here.
func (l *load) work(w *worker) {
	var count uint64 // acknowledged
	var late uint64  // the version for which a write may yet be applied, unless there is another: a paused server has it in a buffer
	for round := 0; ; round++ {
		select {
		case <-l.stop:
			return
		default:
		}
		failed := false
		call := func(op string, f func(ctx context.Context) (bool, error)) (ok bool) {
			ctx, cancel := context.WithTimeout(context.Background(), bound)
			defer cancel()
			began := time.Now()
			ok, err := f(ctx)
			took := time.Since(began)
			if took > bound+slack {
				l.t.Errorf("%s took %v, with %v to go", op, took, bound)
			}
			if err != nil {
				failed = true
				if ok {
					l.t.Errorf("%s = ok, %v", op, err)
				}
			} else if !ok && op != "Replace" {
				l.t.Errorf("%s says that the session is gone", op)
			}
			return ok && err == nil
		}
		var version, value uint64
		loaded := call("Load", func(ctx context.Context) (bool, error) {
			b, v, _, ok, err := l.s.Load(ctx, w.key)
			if ok {
				version, value = v, binary.BigEndian.Uint64(b)
			}
			return ok, err
		})
		if loaded {
			if value != count && (value != count+1 || late == 0) {
				l.t.Errorf("%d writes were acknowledged, the one for version %d is unclear, and the record says %d", count, late, value)
			}
			count = value
			if version != late {
				late = 0
			}
			before := failed
			next := binary.BigEndian.AppendUint64(nil, value+1)
			if call("Replace", func(ctx context.Context) (bool, error) {
				_, ok, err := l.s.Replace(ctx, w.key, version, next)
				return ok, err
			}) {
				count++
				late = 0
			} else if failed && !before {
				late = version
			} else if late == 0 {
				l.t.Error("Replace says that somebody else was first")
			}
			call("Touch", func(ctx context.Context) (bool, error) { return l.s.Touch(ctx, w.key, far()) })
			call("Create and End", func(ctx context.Context) (bool, error) {
				key := fmt.Sprintf("%sx%d", w.key, round)
				if ok, err := l.s.Create(ctx, key, nil, far(), far()); !ok || err != nil {
					return ok, err
				}
				return l.s.End(ctx, key, 0, []byte("m"), far())
			})
		}
		if failed {
			w.failed.Add(1)
			time.Sleep(5 * time.Millisecond) // a server that is down refuses at once
		} else {
			w.succeeded.Add(1)
		}
	}
}

// await waits until every caller has succeeded, or failed, once more.
func (l *load) await(what string, counter func(*worker) *atomic.Int64) {
	l.t.Helper()
	for i := range l.workers {
		c := counter(&l.workers[i])
		was := c.Load()
		testserver.Eventually(l.t, what, func() error {
			if c.Load() == was {
				return errors.New("no caller did")
			}
			return nil
		})
	}
}

func (l *load) awaitFailures() {
	l.t.Helper()
	l.await("failures", func(w *worker) *atomic.Int64 { return &w.failed })
}

// awaitRecovery waits until every caller succeeds again, which must not take
// more than a second longer than it takes to connect anew.
func (l *load) awaitRecovery(e engine) {
	l.t.Helper()
	began := time.Now()
	db := e.open(l.t)
	testserver.Eventually(l.t, "connect", func() error { return db.PingContext(within(l.t, bound)) })
	fresh := time.Since(began)
	l.await("recovery", func(w *worker) *atomic.Int64 { return &w.succeeded })
	took := time.Since(began)
	db.Close()
	l.t.Logf("all callers succeed %v after the server's return, a new connection after %v", took.Round(time.Millisecond), fresh.Round(time.Millisecond))
	// A round is six statements, and every caller's must have begun since.
	if took > time.Second+10*fresh+slack {
		l.t.Errorf("back to normal only %v after the server's return", took)
	}
}

// hurt kills, pauses and restarts a server under load. Then everything is as
// it was, no session ended, no write is lost, and nothing is left running.
func hurt(t *testing.T, e engine, victims ...server) {
	before := runtime.NumGoroutine()
	db, err := sql.Open(e.driver, e.dsn)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(16)
	db.SetMaxIdleConns(16)
	s := e.on(t, db)
	l := startLoad(t, s)
	succeeded := func(w *worker) *atomic.Int64 { return &w.succeeded }
	l.await("success", succeeded)
	for _, victim := range victims {
		for range 2 {
			victim.Kill()
			l.awaitFailures()
			victim.Restart()
			l.awaitRecovery(e)
		}
		victim.Pause()
		l.awaitFailures()
		victim.Resume()
		l.awaitRecovery(e)
	}
	// And the first call too, of somebody who was idle in the meantime.
	l.end()
	for _, victim := range victims {
		victim.Kill()
		victim.Restart()
	}
	testserver.Eventually(t, "first call", func() error {
		_, _, _, ok, err := s.Load(within(t, bound), "s0")
		if err == nil && !ok {
			t.Error("Load says that the session is gone")
		}
		return err
	})
	if err := s.Close(); err != nil {
		t.Logf("Close: %v", err) // connections that are gone already
	}
	db.Close()
	testserver.Eventually(t, "goroutines", func() error {
		if now := runtime.NumGoroutine(); now > before {
			return fmt.Errorf("%d goroutines, %d before", now, before)
		}
		return nil
	})
}

func TestPostgresFaults(t *testing.T) {
	e, p := postgres(t)
	hurt(t, e, p)
}

func TestPgBouncerFaults(t *testing.T) {
	_, p := postgres(t)
	e, b := pgBouncer(t, p)
	hurt(t, e, b, p)
}

func TestMariaDBFaults(t *testing.T) {
	e, m := mariaDB(t)
	hurt(t, e, m)
}
