package sqlstore_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff/store/sqlstore"
)

// sweeping returns a database whose sweeps are answered by sweep, and all else
// at once.
func sweeping(sweep func(ctx context.Context) (answer, error)) *database {
	return &database{answer: func(ctx context.Context, query string, args []driver.NamedValue) (answer, error) {
		if strings.HasPrefix(query, "DELETE") && len(args) == 0 {
			return sweep(ctx)
		}
		return answer{affected: 1}, nil
	}}
}

// Two statements make a sweep, one for each table.
const perSweep = 2

// A process that writes all the time sweeps every ten seconds, or more often
// while it finds that much.
func TestSweepPace(t *testing.T) {
	for _, test := range []struct {
		found       int64
		least, most int
	}{
		{0, 5, 7},         // every 10 to 12.5 seconds
		{199, 5, 7},       // not a full batch
		{200, 1000, 1201}, // every 50 milliseconds
	} {
		synctest.Test(t, func(t *testing.T) {
			d := sweeping(func(context.Context) (answer, error) { return answer{affected: test.found}, nil })
			s := d.store(t, sqlstore.Postgres, sqlstore.Options{})
			for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
				if ok, err := s.Touch(t.Context(), "s", time.Now()); !ok || err != nil {
					t.Fatal(ok, err)
				}
			}
			s.Close()
			if sweeps := d.count("DELETE") / perSweep; sweeps < test.least || sweeps > test.most {
				t.Errorf("%d sweeps in a minute that found %d rows each, want %d to %d", sweeps, test.found, test.least, test.most)
			}
		})
	}
}

// Nobody sweeps who only reads.
func TestReadsDontSweep(t *testing.T) {
	d := &database{answer: func(context.Context, string, []driver.NamedValue) (answer, error) { return answer{}, nil }}
	s := d.store(t, sqlstore.Postgres, sqlstore.Options{})
	s.Load(t.Context(), "s")
	s.Tagged(t.Context(), "t")
	s.Since(t.Context())
	s.Ended(t.Context(), time.Now())
	s.Ended(t.Context(), time.Time{})
	s.Close()
	if n := d.count("DELETE"); n != 0 || len(d.sent) != 5 {
		t.Errorf("five reads sent %q", d.sent)
	}
}

// A sweep that hangs delays no write, is alone, and is given up in time; one
// that fails is tried again later; and Close ends it.
func TestSweepHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, most atomic.Int64
		hang := func(ctx context.Context) (answer, error) {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			<-ctx.Done()
			return answer{}, ctx.Err()
		}
		d := sweeping(hang)
		s := d.store(t, sqlstore.Postgres, sqlstore.Options{})
		start := time.Now()
		write := func() {
			t.Helper()
			at := time.Now()
			if ok, err := s.Create(t.Context(), "s", nil, at, at); !ok || err != nil || time.Since(at) != 0 {
				t.Fatalf("Create beside a sweep = %v, %v after %v; want true at once", ok, err, time.Since(at))
			}
			synctest.Wait()
		}
		for range 3 {
			write()
		}
		if running.Load() != 1 || d.count("DELETE") != 1 {
			t.Fatalf("%d sweeps run after three writes, want 1", running.Load())
		}
		time.Sleep(3*time.Second - time.Nanosecond)
		synctest.Wait()
		if running.Load() != 1 {
			t.Fatalf("the sweep ended %v after it began", time.Since(start))
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if running.Load() != 0 {
			t.Fatal("a sweep hangs for longer than three seconds")
		}
		write()
		if running.Load() != 0 {
			t.Error("a sweep begins right after one that failed")
		}
		time.Sleep(12500 * time.Millisecond)
		write()
		if running.Load() != 1 {
			t.Error("no sweep begins long after one that failed")
		}
		at := time.Now()
		if err := s.Close(); err != nil || running.Load() != 0 || time.Since(at) != 0 {
			t.Errorf("Close = %v after %v, with %d sweeps left", err, time.Since(at), running.Load())
		}
		if most.Load() != 1 {
			t.Errorf("%d sweeps ran at once", most.Load())
		}
	})
}

// A closed store starts nothing.
func TestClosedSweepsNot(t *testing.T) {
	d := sweeping(func(context.Context) (answer, error) { return answer{}, nil })
	s := d.store(t, sqlstore.Postgres, sqlstore.Options{Unprepared: true})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s.Untag(t.Context(), "t", "s") // works, since nothing is prepared
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if d.count("DELETE") != 1 {
		t.Errorf("a closed store sent %q", d.sent)
	}
}

// Sweep goes on until nothing is left, and says what it did and what went
// wrong.
func TestSweepOnDemand(t *testing.T) {
	left := int64(450) // in each table
	tables := map[string]int64{}
	d := &database{answer: func(_ context.Context, query string, _ []driver.NamedValue) (answer, error) {
		table := strings.Fields(query)[2]
		n := min(200, left-tables[table])
		tables[table] += n
		return answer{affected: n}, nil
	}}
	s := d.store(t, sqlstore.SQLite, sqlstore.Options{})
	if n, err := s.Sweep(t.Context()); n != 2*left || err != nil || len(tables) != 2 {
		t.Errorf("Sweep = %d, %v from %v; want %d from two tables", n, err, tables, 2*left)
	}
	broken := errors.New("permission denied for table bff_records")
	d.answer = func(context.Context, string, []driver.NamedValue) (answer, error) { return answer{}, broken }
	if _, err := s.Sweep(t.Context()); !errors.Is(err, broken) || err.Error() != "sqlstore: sweep: "+broken.Error() {
		t.Errorf("Sweep = %v", err)
	}
}
