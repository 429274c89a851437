package sqltest

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/agglestone/bff/internal/testserver"
	"github.com/agglestone/bff/store/sqlstore"
)

// count returns the number of rows in a table.
func count(t testing.TB, db *sql.DB, e engine, table, where string) (n int) {
	t.Helper()
	text := fmt.Sprintf("SELECT COUNT(*) FROM %s%s WHERE %s", e.opts.Prefix, table, where)
	if err := db.QueryRowContext(t.Context(), text).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// A sweep takes what expired more than a minute ago, all of that, and nothing
// else.
func TestSweep(t *testing.T) {
	quiet(t, func(t *testing.T, e engine) {
		e = e.named()
		db := e.open(t)
		s := e.on(t, db)
		bulk(t, db, e, 5000)
		ctx := within(t, time.Minute)
		just := time.Now().Add(-50 * time.Second)
		if ok, err := s.Create(ctx, "sjust", nil, just, far()); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if err := s.Tag(ctx, "tjust", "s", nil, just); err != nil {
			t.Fatal(err)
		}
		s.Close() // with the sweeps that these left behind
		s = e.on(t, db)
		if _, err := s.Sweep(ctx); err != nil {
			t.Fatal(err)
		}
		for _, table := range []string{"records", "tags"} {
			old := count(t, db, e, table, fmt.Sprintf("expires < %d", just.UnixMicro()))
			all := count(t, db, e, table, "1 = 1")
			if old != 0 || all != 4501 {
				t.Errorf("%s has %d rows, %d of which expired long ago; want 4501 and 0", table, all, old)
			}
		}
		if n, err := s.Sweep(ctx); n != 0 || err != nil {
			t.Errorf("another sweep = %d, %v", n, err)
		}
		if value, _, _, ok, err := s.Load(ctx, "sjust"); ok || value != nil || err != nil {
			t.Errorf("Load of a record that is expired and not swept = %q, %v, %v", value, ok, err)
		}
	})
}

// A record in the place of an expired one has a greater version, even if the
// database's clock was set back since: what was decided on the old one must not
// fit the new.
func TestVersionAfterClockStep(t *testing.T) {
	quiet(t, func(t *testing.T, e engine) {
		e = e.named()
		db := e.open(t)
		s, ctx := e.on(t, db), within(t, time.Minute)
		if ok, err := s.Create(ctx, "s", nil, time.Now().Add(-time.Second), far()); !ok || err != nil {
			t.Fatalf("Create = %v, %v", ok, err)
		}
		old := far().UnixMicro()
		if _, err := db.ExecContext(ctx, fmt.Sprintf("UPDATE %srecords SET version = %d", e.opts.Prefix, old)); err != nil {
			t.Fatal(err)
		}
		if ok, err := s.Create(ctx, "s", nil, far(), far()); !ok || err != nil {
			t.Fatalf("Create = %v, %v", ok, err)
		}
		if _, version, _, ok, err := s.Load(ctx, "s"); !ok || err != nil || version <= uint64(old) {
			t.Errorf("Load = version %d, %v, %v; want more than %d", version, ok, err, old)
		}
	})
}

// One write leaves one sweep behind, of at most 200 rows in each table.
func TestSweepIsBounded(t *testing.T) {
	quiet(t, func(t *testing.T, e engine) {
		e = e.named()
		db := e.open(t)
		s := e.on(t, db)
		bulk(t, db, e, 5000)
		if err := s.Untag(within(t, time.Minute), "tnone", "s"); err != nil {
			t.Fatal(err)
		}
		for _, table := range []string{"records", "tags"} { // in this order
			testserver.Eventually(t, "sweep", func() error {
				if count(t, db, e, table, "1 = 1") == 5000 {
					return errors.New("nothing is swept yet")
				}
				return nil
			})
			if left := count(t, db, e, table, "1 = 1"); left != 4800 {
				t.Errorf("%s has %d rows after one sweep, want 4800", table, left)
			}
		}
	})
}

// Whoever writes sweeps, until a backlog is gone.
func TestWritesSweep(t *testing.T) {
	quiet(t, func(t *testing.T, e engine) {
		e = e.named()
		db := e.open(t)
		s := e.on(t, db)
		bulk(t, db, e, 10000)
		ctx := within(t, time.Minute)
		for i := 0; ; i++ {
			if err := s.Untag(ctx, "tnone", "s"); err != nil {
				t.Fatalf("a write beside a sweep: %v", err)
			}
			if i%10 == 0 && count(t, db, e, "records", "1 = 1") == 9000 && count(t, db, e, "tags", "1 = 1") == 9000 {
				break
			}
			time.Sleep(10 * time.Millisecond) // until ctx ends
		}
	})
}

// What somebody holds keeps no sweep from the rest, and a sweep keeps nobody
// from anything.
func TestSweepBesideLocks(t *testing.T) {
	t.Parallel()
	p, _ := postgres(t)
	m, _ := mariaDB(t)
	for name, e := range map[string]engine{"postgres": p, "mariadb": m} {
		t.Run(name, func(t *testing.T) {
			e = e.named()
			db := e.open(t)
			s := e.on(t, db)
			bulk(t, db, e, 1000)
			ctx := within(t, time.Minute)
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback()
			// The one that expired first, and the live one that will expire next.
			for _, where := range []string{"expires <= %d ORDER BY expires LIMIT 1", "expires > %d ORDER BY expires LIMIT 1"} {
				var key string
				where = fmt.Sprintf(where, time.Now().UnixMicro())
				if err := tx.QueryRowContext(ctx, "SELECT record_key FROM "+e.opts.Prefix+"records WHERE "+where).Scan(&key); err != nil {
					t.Fatal(err)
				}
				if err := tx.QueryRowContext(ctx, "SELECT record_key FROM "+e.opts.Prefix+"records WHERE record_key = '"+key+"' FOR UPDATE").Scan(&key); err != nil {
					t.Fatal(err)
				}
			}
			done := make(chan error, 1)
			go func() {
				_, err := s.Sweep(ctx)
				done <- err
			}()
			// Meanwhile everything else goes on, on new records and on all that
			// are live but the one that is held.
			other := e.on(t, e.open(t))
			for i := range 200 {
				key := fmt.Sprintf("snew%d", i)
				if ok, err := other.Create(ctx, key, []byte("v"), far(), far()); !ok || err != nil {
					t.Fatalf("Create beside a sweep = %v, %v", ok, err)
				}
				if ok, err := other.Touch(ctx, key, far()); !ok || err != nil {
					t.Fatalf("Touch beside a sweep = %v, %v", ok, err)
				}
				if ok, err := other.End(ctx, key, 0, []byte("m"), far()); !ok || err != nil {
					t.Fatalf("End beside a sweep = %v, %v", ok, err)
				}
			}
			if e.dialect == sqlstore.MySQL {
				// It waits for the one expired row, and nobody waits for it.
				tx.Rollback()
			}
			if err := <-done; err != nil {
				t.Errorf("Sweep: %v", err)
			}
			left := 0
			if e.dialect == sqlstore.Postgres {
				left = 1 // the one that is held
			}
			expired := fmt.Sprintf("expires < %d", time.Now().UnixMicro())
			if got := count(t, db, e, "records", expired) + count(t, db, e, "tags", expired); got != left {
				t.Errorf("the sweep left %d expired rows, want %d", got, left)
			}
		})
	}
}

// Who was away for an hour is told of all that ended meanwhile, in pages, and
// of what may still be on its way.
func TestEndedInPages(t *testing.T) {
	quiet(t, func(t *testing.T, e engine) {
		e = e.named()
		db := e.open(t)
		s := e.on(t, db)
		from := time.Now().Add(-time.Hour)
		for i := 0; i < 10000; i += 500 {
			var rows []string
			for j := i; j < i+500; j++ {
				ended := from.Add(time.Duration(j) * time.Millisecond).UnixMicro()
				rows = append(rows, fmt.Sprintf("('s%07x', 'v', 1, %d, %d, %d)", j, far().UnixMicro(), far().UnixMicro(), ended))
			}
			_, err := db.ExecContext(t.Context(), "INSERT INTO "+e.opts.Prefix+
				"records (record_key, value, version, expires, deadline, ended) VALUES "+strings.Join(rows, ","))
			if err != nil {
				t.Fatal(err)
			}
		}
		ctx := within(t, time.Minute)
		since := time.Now().Add(-2 * time.Hour)
		seen := map[string]bool{}
		for pages := 1; ; pages++ {
			keys, next, err := s.Ended(ctx, since)
			if err != nil || len(keys) > 4000 {
				t.Fatalf("Ended = %d keys, %v", len(keys), err)
			}
			for _, key := range keys {
				seen[key] = true
			}
			if age := time.Since(next); age < time.Minute {
				if age < 4*time.Second || pages != 3 || len(seen) != 10000 {
					t.Errorf("%d keys in %d pages, and to go on from %v ago; want 10,000 in 3, and from 5s ago", len(seen), pages, age)
				}
				return
			}
			if !next.After(since) {
				t.Fatalf("the time to ask from next, %v, is no later than %v", next, since)
			}
			since = next
		}
	})
}
