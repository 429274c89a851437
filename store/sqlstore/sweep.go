package sqlstore

import (
	"context"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// How expired rows are deleted. A row that expired is left for a minute, so
// that a clock which is set back by less finds its version still there: the
// next record under that key must begin with a greater one.
const (
	sweepBatch   = 200
	sweepEvery   = 10 * time.Second
	sweepAgain   = 50 * time.Millisecond // while batches are full
	sweepTimeout = 3 * time.Second
	sweepGrace   = time.Minute
)

// A sweeper runs one sweep at a time, and none after it was closed.
type sweeper struct {
	started time.Time
	due     atomic.Int64 // since started; the greatest while a sweep runs
	ctx     context.Context
	stop    context.CancelFunc

	mu     sync.Mutex
	closed bool
	work   sync.WaitGroup
}

func (w *sweeper) init() {
	w.started = time.Now()
	w.ctx, w.stop = context.WithCancel(context.Background())
}

func (w *sweeper) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.stop()
	w.work.Wait()
}

// sweepIfDue starts a sweep of one batch if it is time for one. Nobody waits
// for it, and its failure concerns nobody: the rows are absent anyway, and the
// next one finds them.
func (s *Store) sweepIfDue() {
	w := &s.sweeper
	due := w.due.Load()
	if int64(time.Since(w.started)) < due || !w.due.CompareAndSwap(due, math.MaxInt64) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	w.work.Go(func() {
		ctx, cancel := context.WithTimeout(w.ctx, sweepTimeout)
		defer cancel()
		_, more, err := s.sweep(ctx)
		// At different times in different processes.
		wait := sweepEvery + rand.N(sweepEvery/4)
		if more && err == nil {
			wait = sweepAgain
		}
		w.due.Store(int64(time.Since(w.started) + wait))
	})
}

// Sweep deletes the rows that expired more than a minute ago, in batches, until
// none is left or ctx ends, and returns how many there were. Writes do so all
// the time; this is for a job that runs while there are none, and to see why
// rows stay.
func (s *Store) Sweep(ctx context.Context) (removed int64, err error) {
	for {
		n, more, err := s.sweep(ctx)
		removed += n
		if err != nil {
			return removed, failed("sweep", err)
		}
		if !more {
			return removed, nil
		}
	}
}

// sweep deletes one batch from each table. more says that there may be more.
func (s *Store) sweep(ctx context.Context) (removed int64, more bool, err error) {
	for _, t := range s.sweeps {
		n, err := s.sweepTable(ctx, t)
		if removed += n; err != nil {
			return removed, false, err
		}
		more = more || n == sweepBatch
	}
	return removed, more, nil
}

// A sweep is how one table is swept. Where find is set it reads the primary
// keys of rows that are due, and remove deletes those, with a condition each.
type sweep struct {
	find      string
	columns   int // of the primary key
	condition string
	remove    string
}

func (s *Store) sweepTable(ctx context.Context, t sweep) (int64, error) {
	remove := t.remove
	var keys []any
	if t.find != "" {
		rows, err := s.db.QueryContext(ctx, t.find)
		if err != nil {
			return 0, err
		}
		defer rows.Close()
		for rows.Next() {
			key, dest := make([]string, t.columns), make([]any, t.columns)
			for i := range key {
				dest[i] = &key[i]
			}
			if err := rows.Scan(dest...); err != nil {
				return 0, err
			}
			for i := range key {
				keys = append(keys, key[i])
			}
		}
		if err := rows.Err(); err != nil || keys == nil {
			return 0, err
		}
		conditions := strings.Repeat(" OR "+t.condition, len(keys)/t.columns)
		remove += " AND (" + conditions[len(" OR "):] + ")"
	}
	result, err := s.db.ExecContext(ctx, remove, keys...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// sweepsOf returns how the tables are swept. None of the statements reads more
// rows than it deletes, which it finds by their expiry, nor waits for one that
// somebody else holds: on MySQL, where DELETE can't skip those, it waits for
// nothing else and holds only what is due, since it locks by primary key, as
// every other statement does.
func sweepsOf(d Dialect, prefix string) []sweep {
	var s sweep
	switch d {
	case Postgres:
		// ARRAY: the inner SELECT runs once, whatever the planner thinks.
		s.remove = `DELETE FROM {table} WHERE ctid = ANY (ARRAY(
				SELECT ctid FROM {table} WHERE expires <= {due} ORDER BY expires LIMIT {batch} FOR UPDATE SKIP LOCKED))
			AND expires <= {due}`
	case SQLite:
		s.remove = `DELETE FROM {table} WHERE rowid IN (
				SELECT rowid FROM {table} WHERE expires <= {due} ORDER BY expires LIMIT {batch})`
	case MySQL:
		s.find = `SELECT {key} FROM {table} WHERE expires <= {due} ORDER BY expires LIMIT {batch}`
		// Not by key, MySQL would rather read, and lock, all of a small table.
		s.remove = `DELETE t FROM {table} AS t{by key} WHERE expires <= {due}`
	}
	fill := func(text, table, key string) string {
		return expand(d, prefix, strings.NewReplacer(
			"{table}", "{prefix}"+table,
			"{key}", key,
			"{due}", "{steady} - "+strconv.FormatInt(sweepGrace.Microseconds(), 10),
			"{batch}", strconv.Itoa(sweepBatch),
		).Replace(text))
	}
	return []sweep{
		{fill(s.find, "records", "record_key"), 1, "record_key = ?", fill(s.remove, "records", "")},
		{fill(s.find, "tags", "tag, record_key"), 2, "tag = ? AND record_key = ?", fill(s.remove, "tags", "")},
	}
}
