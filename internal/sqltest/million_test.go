package sqltest

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/agglestone/bff/store/sqlstore"
)

// A million sessions are in the tables, and each is found as itself, alone. The
// database writes them: by one call of Create each, as the suite's rule
// many-keys does it, they would take minutes and show the disk's speed.
func TestMillionKeys(t *testing.T) {
	t.Parallel()
	const many = 1_000_000
	key := func(i int) string { return fmt.Sprintf("s%07x", i) }
	sources := map[sqlstore.Dialect]string{
		sqlstore.Postgres: `SELECT 's' || lpad(to_hex(i), 7, '0') AS k FROM generate_series(0, 999999) AS i`,
		sqlstore.MySQL:    `SELECT CONCAT('s', LPAD(LOWER(HEX(seq)), 7, '0')) AS k FROM seq_0_to_999999`,
		sqlstore.SQLite: `WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 999999)
			SELECT printf('s%07x', i) AS k FROM n`,
	}
	bytesOf := map[sqlstore.Dialect]string{
		sqlstore.Postgres: "convert_to(k, 'UTF8')", sqlstore.MySQL: "CAST(k AS BINARY)", sqlstore.SQLite: "CAST(k AS BLOB)",
	}
	test := func(t *testing.T, e engine) {
		e = e.named()
		db := e.open(t)
		s := e.on(t, db)
		ctx := within(t, 5*time.Minute)
		until := far().UnixMicro()
		_, err := db.ExecContext(ctx, fmt.Sprintf(`INSERT INTO %srecords (record_key, value, version, expires, deadline)
			SELECT k, %s, 1, %d, %d FROM (%s) AS keys_`, e.opts.Prefix, bytesOf[e.dialect], until, until, sources[e.dialect]))
		if err != nil {
			t.Fatal(err)
		}
		// Every 997th, which meets every page of the index, by eight callers.
		const step, workers = 997, 8
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				for i := w * step; i < many; i += workers * step {
					value, version, _, ok, err := s.Load(ctx, key(i))
					if !ok || err != nil || string(value) != key(i) {
						t.Errorf("Load(%q) = %q, %v, %v", key(i), value, ok, err)
						return
					}
					if ok, err := s.Create(ctx, key(i), nil, far(), far()); ok || err != nil {
						t.Errorf("Create(%q), which is there, = %v, %v", key(i), ok, err)
					}
					next, ok, err := s.Replace(ctx, key(i), version, []byte("two"))
					if !ok || err != nil {
						t.Errorf("Replace(%q) = %v, %v", key(i), ok, err)
					}
					if ok, err := s.End(ctx, key(i), next, []byte("bye"), far()); !ok || err != nil {
						t.Errorf("End(%q) = %v, %v", key(i), ok, err)
					}
					if ok, err := s.Create(ctx, key(many+i), []byte("new"), far(), far()); !ok || err != nil {
						t.Errorf("Create(%q) = %v, %v", key(many+i), ok, err)
					}
				}
			})
		}
		wg.Wait()
		changed := (many + step - 1) / step
		if n := count(t, db, e, "records", "value = "+literal(e, "bye")+" AND ended IS NOT NULL"); n != changed {
			t.Errorf("%d sessions were ended, want %d", n, changed)
		}
		if n := count(t, db, e, "records", "version = 1 AND ended IS NULL"); n != many-changed {
			t.Errorf("%d sessions are what they were, want %d", n, many-changed)
		}
		if n := count(t, db, e, "records", "value = "+literal(e, "new")); n != changed {
			t.Errorf("%d sessions are new, want %d", n, changed)
		}
	}
	p, _ := postgres(t)
	m, _ := mariaDB(t)
	for name, e := range map[string]engine{"postgres": p, "mariadb": m, "sqlite": mattn(t)} {
		t.Run(name, func(t *testing.T) { test(t, e) })
	}
}

// literal returns a value as the dialect's SQL writes it.
func literal(e engine, value string) string {
	if e.dialect == sqlstore.Postgres {
		return fmt.Sprintf(`'\x%x'`, value)
	}
	return fmt.Sprintf("X'%x'", value)
}
