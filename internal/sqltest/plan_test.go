package sqltest

import (
	"context"
	"database/sql"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/agglestone/bff/store/sqlstore"
)

// bulk fills the tables behind the store's back: n rows of each kind, of which
// a tenth has expired and a tenth has ended, the tags evenly among 100.
func bulk(t testing.TB, db *sql.DB, e engine, n int) {
	t.Helper()
	now := time.Now()
	const chunk = 500
	for from := 0; from < n; from += chunk {
		var records, tags []string
		for i := from; i < min(n, from+chunk); i++ {
			expires, ended := now.Add(time.Hour), "NULL"
			switch i % 10 {
			case 0:
				expires = now.Add(-time.Hour)
			case 1:
				ended = fmt.Sprint(now.Add(-time.Hour + time.Duration(i)*time.Millisecond).UnixMicro())
			}
			expires = expires.Add(time.Duration(i) * time.Millisecond)
			value := "X'" + strings.Repeat("a5", 300) + "'"
			if e.dialect == sqlstore.Postgres {
				value = `'\x` + strings.Repeat("a5", 300) + "'"
			}
			records = append(records, fmt.Sprintf("('s%07x', %s, 1, %d, %d, %s)", i*7919%n, value, expires.UnixMicro(), far().UnixMicro(), ended))
			tags = append(tags, fmt.Sprintf("('t%d', 's%07x', '', %d)", i%100, i, expires.UnixMicro()))
		}
		for _, text := range []string{
			"INSERT INTO " + e.opts.Prefix + "records (record_key, value, version, expires, deadline, ended) VALUES " + strings.Join(records, ","),
			"INSERT INTO " + e.opts.Prefix + "tags (tag, record_key, note, expires) VALUES " + strings.Join(tags, ","),
		} {
			if _, err := db.ExecContext(t.Context(), text); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, table := range []string{"records", "tags"} {
		analyze := map[sqlstore.Dialect]string{sqlstore.Postgres: "ANALYZE ", sqlstore.MySQL: "ANALYZE TABLE ", sqlstore.SQLite: "ANALYZE "}
		if _, err := db.ExecContext(t.Context(), analyze[e.dialect]+e.opts.Prefix+table); err != nil {
			t.Fatal(err)
		}
	}
}

// everything calls every method there is.
func everything(ctx context.Context, s *sqlstore.Store) error {
	key := "s0000001"
	_, version, _, _, err := s.Load(ctx, key)
	if err != nil {
		return err
	}
	for _, f := range []func() error{
		func() error { _, err := s.Create(ctx, key, []byte("v"), far(), far()); return err },
		func() error { _, err := s.Create(ctx, "snew", []byte("v"), far(), far()); return err },
		func() error { _, _, err := s.Replace(ctx, key, version, []byte("v")); return err },
		func() error { _, err := s.Touch(ctx, key, time.Now()); return err },
		func() error { _, err := s.Touch(ctx, "sabsent", time.Now()); return err },
		func() error { _, err := s.End(ctx, "snew", 99, []byte("m"), far()); return err },
		func() error { _, err := s.End(ctx, "snew", 0, []byte("m"), far()); return err },
		func() error { return s.Tag(ctx, "t1", key, []byte("n"), far()) },
		func() error { _, err := s.Tagged(ctx, "t2"); return err },
		func() error { return s.Untag(ctx, "t1", key) },
		func() error { _, _, err := s.Ended(ctx, time.Time{}); return err },
		func() error { _, _, err := s.Ended(ctx, time.Now().Add(-time.Minute)); return err },
		func() error { _, err := s.Since(ctx); return err },
		func() error { _, err := s.Sweep(ctx); return err },
	} {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// No statement reads a table from end to end, the sweep included: each finds
// its rows through an index. On MySQL each that writes finds them, and so locks
// them, by primary key.
func TestPlans(t *testing.T) {
	t.Parallel()
	p, _ := postgres(t)
	m, _ := mariaDB(t)
	for name, e := range map[string]engine{"postgres": p, "mariadb": m, "sqlite": sqlite(t)} {
		t.Run(name, func(t *testing.T) {
			e := e.named()
			db, spy := e.watched(t)
			s := e.on(t, db)
			bulk(t, db, e, 20000)
			spy.take()
			ctx := within(t, time.Minute)
			if err := everything(ctx, s); err != nil {
				t.Fatal(err)
			}
			s.Close()
			plain := e.open(t)
			seen := map[string]bool{}
			for _, st := range spy.take() {
				query := strings.Join(strings.Fields(st.query), " ")
				if seen[query] || !strings.Contains(query, e.opts.Prefix) {
					continue
				}
				seen[query] = true
				for _, line := range explain(ctx, t, plain, e, st) {
					if bad := badPlan(e, query, line); bad != "" {
						t.Errorf("%s: %s\n%.300s", bad, line, query)
					}
				}
			}
			if least := 13; len(seen) < least {
				t.Errorf("%d different statements were sent, want %d or more", len(seen), least)
			}
		})
	}
}

// explain returns the plan of a statement, a step in each line.
func explain(ctx context.Context, t *testing.T, db *sql.DB, e engine, st sent) (plan []string) {
	t.Helper()
	explain := "EXPLAIN "
	if e.dialect == sqlstore.SQLite {
		explain = "EXPLAIN QUERY PLAN "
	}
	rows, err := db.QueryContext(ctx, explain+st.query, st.args...)
	if err != nil {
		t.Fatalf("%v: %s", err, st.query)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		fields, dest := make([]sql.NullString, len(columns)), make([]any, len(columns))
		for i := range fields {
			dest[i] = &fields[i]
		}
		if err := rows.Scan(dest...); err != nil {
			t.Fatal(err)
		}
		var line string
		for i, column := range columns {
			line += fmt.Sprintf("%s=%s ", column, fields[i].String)
		}
		plan = append(plan, line)
	}
	if err := rows.Err(); err != nil || len(plan) == 0 && e.dialect != sqlstore.SQLite { // which has none for an INSERT
		t.Fatalf("the plan has %d steps, %v", len(plan), err)
	}
	return plan
}

var scans = map[sqlstore.Dialect]*regexp.Regexp{
	sqlstore.Postgres: regexp.MustCompile(`Seq Scan on t\d+_(records|tags)`),
	// A derived table of one row, and what is no table at all, may be read whole.
	sqlstore.MySQL:  regexp.MustCompile(`table=(t|r|t\d+_records|t\d+_tags) .*type=(ALL|index) `),
	sqlstore.SQLite: regexp.MustCompile(`SCAN (r|t\d+_records|t\d+_tags)\b`),
}

// badPlan says what is wrong with a step of a plan, or "".
func badPlan(e engine, query, line string) string {
	if strings.Contains(line, "select_type=INSERT") {
		return ""
	}
	verb, _, _ := strings.Cut(query, " ")
	switch {
	case scans[e.dialect].MatchString(line):
		return "a scan"
	case e.dialect == sqlstore.MySQL && verb != "SELECT" && !strings.Contains(line, " key=PRIMARY "):
		return "locks not by primary key"
	}
	return ""
}
