package sqlstore_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/store/sqlstore"
)

var (
	_ bff.Store      = (*sqlstore.Store)(nil)
	_ bff.Indexer    = (*sqlstore.Store)(nil)
	_ bff.EndLog     = (*sqlstore.Store)(nil)
	_ bff.Rememberer = (*sqlstore.Store)(nil)
)

var dialects = []sqlstore.Dialect{sqlstore.Postgres, sqlstore.MySQL, sqlstore.SQLite}

func TestNewChecks(t *testing.T) {
	db := sql.OpenDB(&database{})
	defer db.Close()
	long := "a" + strings.Repeat("0", 31)
	for _, test := range []struct {
		db      *sql.DB
		dialect sqlstore.Dialect
		prefix  string
		ok      bool
	}{
		{db, sqlstore.Postgres, "", true},
		{db, sqlstore.MySQL, "", true},
		{db, sqlstore.SQLite, "", true},
		{db, sqlstore.SQLite, "a", true},
		{db, sqlstore.Postgres, long, true},
		{db, sqlstore.Postgres, "auth.bff_", true},
		{db, sqlstore.MySQL, "auth.bff_", true},
		{db, sqlstore.MySQL, long + "." + long, true},
		{nil, sqlstore.Postgres, "", false},
		{db, 0, "", false},
		{db, 4, "", false},
		{db, -1, "", false},
		{db, sqlstore.Postgres, long + "0", false},
		{db, sqlstore.Postgres, long + "0.a", false},
		{db, sqlstore.SQLite, "auth.bff_", false},
		{db, sqlstore.Postgres, "a.b.c", false},
		{db, sqlstore.Postgres, "auth.", false},
		{db, sqlstore.Postgres, ".bff_", false},
		{db, sqlstore.Postgres, "Bff_", false},
		{db, sqlstore.Postgres, "_bff", false},
		{db, sqlstore.Postgres, "1bff", false},
		{db, sqlstore.Postgres, "bff-", false},
		{db, sqlstore.Postgres, `bff"`, false},
		{db, sqlstore.Postgres, "bff_;--", false},
		{db, sqlstore.Postgres, "bff_ ", false},
		{db, sqlstore.Postgres, "bff_?", false},
		{db, sqlstore.Postgres, "bffé", false},
	} {
		_, err := sqlstore.New(test.db, test.dialect, sqlstore.Options{Prefix: test.prefix})
		if (err == nil) != test.ok {
			t.Errorf("New(%v, %v, Prefix %q) = %v, want ok %v", test.db != nil, test.dialect, test.prefix, err, test.ok)
		}
		if test.db == nil {
			continue
		}
		if text, err := sqlstore.Schema(test.dialect, test.prefix); (err == nil) != test.ok || (text != "") != test.ok {
			t.Errorf("Schema(%v, %q) = %d bytes, %v; want ok %v", test.dialect, test.prefix, len(text), err, test.ok)
		}
	}
}

// What Schema returns is what Migrate sends, with names of that prefix only.
func TestSchema(t *testing.T) {
	for _, dialect := range dialects[1:] { // PostgreSQL's goes into a transaction
		d := &database{answer: func(context.Context, string, []driver.NamedValue) (answer, error) {
			return answer{}, nil
		}}
		s := d.store(t, dialect, sqlstore.Options{Prefix: "app_"})
		if err := s.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		text, err := sqlstore.Schema(dialect, "app_")
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(d.sent[1:], ";\n") + ";\n"; got != text {
			t.Errorf("%v: Migrate sends\n%s\nand Schema is\n%s", dialect, got, text)
		}
	}
	for _, dialect := range dialects {
		text, err := sqlstore.Schema(dialect, "auth_")
		if err != nil {
			t.Fatal(err)
		}
		for _, table := range []string{"schema", "records", "tags"} {
			if !strings.Contains(text, "CREATE TABLE IF NOT EXISTS auth_"+table+" (") {
				t.Errorf("%v: the schema lacks the table %s:\n%s", dialect, table, text)
			}
		}
		if strings.ContainsAny(text, "{}?") || strings.Contains(text, "bff_") {
			t.Errorf("%v: the schema has something to fill in:\n%s", dialect, text)
		}
	}
	text, err := sqlstore.Schema(sqlstore.Postgres, "auth.bff_")
	if err != nil {
		t.Fatal(err)
	}
	if want := "CREATE INDEX IF NOT EXISTS bff_tags_expires ON auth.bff_tags (expires);"; !strings.Contains(text, want) {
		t.Errorf("the schema lacks %q:\n%s", want, text)
	}
}

// A schema that is there, or a later one, is left as it is.
func TestMigrateLeaves(t *testing.T) {
	for _, dialect := range dialects {
		for _, version := range []int64{1, 99} {
			d := &database{answer: func(context.Context, string, []driver.NamedValue) (answer, error) {
				return answer{rows: [][]driver.Value{{version}}}, nil
			}}
			if err := d.store(t, dialect, sqlstore.Options{}).Migrate(t.Context()); err != nil {
				t.Error(err)
			}
			if len(d.sent) != 1 {
				t.Errorf("%v: Migrate on version %d sends %q", dialect, version, d.sent)
			}
		}
	}
}

// An error that repeats what it was given would put it into a log.
func TestErrorsTellNothing(t *testing.T) {
	const key, tag = "sKEYKEYKEY", "tTAGTAGTAG"
	value := []byte("VALUEVALUE")
	broken := errors.New("the driver's own")
	d := &database{answer: func(_ context.Context, _ string, args []driver.NamedValue) (answer, error) {
		var list string
		for _, arg := range args {
			list += fmt.Sprintf(" %s", arg.Value)
		}
		return answer{}, fmt.Errorf("duplicate entry%s: %w\nDETAIL:%s", list, broken, list)
	}}
	ctx, far := t.Context(), time.Now().Add(time.Hour)
	for _, dialect := range dialects {
		for _, unprepared := range []bool{true, false} {
			s := d.store(t, dialect, sqlstore.Options{Unprepared: unprepared})
			for op, f := range operations(ctx, s, key, tag, value, far) {
				ok, err := f()
				if ok || !errors.Is(err, broken) {
					t.Errorf("%v: %s = %v, %v; want false and the driver's error", dialect, op, ok, err)
					continue
				}
				text := err.Error()
				for _, secret := range []string{"KEYKEY", "TAGTAG", "VALUE", "\n"} {
					if strings.Contains(text, secret) {
						t.Errorf("%v: %s fails with %q", dialect, op, text)
					}
				}
				if !strings.HasPrefix(text, "sqlstore: ") || !strings.Contains(text, "duplicate entry") || len(text) > 400 {
					t.Errorf("%v: %s fails with %q, which should say what happened", dialect, op, text)
				}
			}
		}
	}
}

func operations(ctx context.Context, s *sqlstore.Store, key, tag string, value []byte, far time.Time) map[string]func() (bool, error) {
	return map[string]func() (bool, error){
		"Load": func() (bool, error) {
			got, _, _, ok, err := s.Load(ctx, key)
			return ok || got != nil, err
		},
		"Create": func() (bool, error) { return s.Create(ctx, key, value, far, far) },
		"Replace": func() (bool, error) {
			_, ok, err := s.Replace(ctx, key, 1, value)
			return ok, err
		},
		"Touch":       func() (bool, error) { return s.Touch(ctx, key, far) },
		"End":         func() (bool, error) { return s.End(ctx, key, 0, value, far) },
		"End-version": func() (bool, error) { return s.End(ctx, key, 1, value, far) },
		"Tag":         func() (bool, error) { return false, s.Tag(ctx, tag, key, value, far) },
		"Tagged": func() (bool, error) {
			notes, err := s.Tagged(ctx, tag)
			return notes != nil, err
		},
		"Untag": func() (bool, error) { return false, s.Untag(ctx, tag, key) },
		"Ended": func() (bool, error) {
			keys, _, err := s.Ended(ctx, time.Now())
			return keys != nil, err
		},
		"Ended-zero": func() (bool, error) {
			_, next, err := s.Ended(ctx, time.Time{})
			return !next.IsZero(), err
		},
		"Since": func() (bool, error) {
			since, err := s.Since(ctx)
			return !since.IsZero(), err
		},
	}
}

type stateError string

func (e stateError) Error() string    { return "ERROR: " + string(e) }
func (e stateError) SQLState() string { return string(e) }

// A statement that the database surely undid is repeated, and no other: a
// commit that nobody knows about is for the caller to look into (D7).
func TestRepeats(t *testing.T) {
	for _, test := range []struct {
		err     error
		repeats bool
	}{
		{stateError("40001"), true},
		{fmt.Errorf("wrapped: %w", stateError("40P01")), true},
		{errors.New("Error 1213 (40001): Deadlock found when trying to get lock; try restarting transaction"), true},
		{errors.New("Error 1205 (HY000): Lock wait timeout exceeded; try restarting transaction"), true},
		{stateError("40003"), false}, // statement_completion_unknown
		{stateError("57P01"), false}, // admin_shutdown
		{errors.New("Error 12130: something else"), false},
		{errors.New("Error 2013: Lost connection to server during query"), false},
		{errors.New("database is locked (5) (SQLITE_BUSY)"), false},
		{io.ErrUnexpectedEOF, false},
		{context.DeadlineExceeded, false},
	} {
		for _, failures := range []int{2, math.MaxInt} {
			synctest.Test(t, func(t *testing.T) {
				left := failures
				d := &database{answer: func(context.Context, string, []driver.NamedValue) (answer, error) {
					if left > 0 {
						left--
						return answer{}, test.err
					}
					return answer{affected: 1}, nil
				}}
				s := d.store(t, sqlstore.Postgres, sqlstore.Options{})
				_, ok, err := s.Replace(t.Context(), "s", 1, nil)
				s.Close()
				sent := d.count("UPDATE")
				wantSent, wantOK := 1, false
				if test.repeats && failures == 2 {
					wantSent, wantOK = 3, true
				} else if test.repeats {
					wantSent = 10
				}
				if ok != wantOK || (err == nil) != wantOK || sent != wantSent {
					t.Errorf("Replace after %q = %v, %v after %d statements; want %v after %d", test.err, ok, err, sent, wantOK, wantSent)
				}
			})
		}
	}
}

// A statement is prepared once on a connection, however often it is sent, and
// given back by Close; with Unprepared none is.
func TestPrepares(t *testing.T) {
	for _, dialect := range dialects {
		for _, unprepared := range []bool{false, true} {
			d := &database{answer: func(_ context.Context, query string, _ []driver.NamedValue) (answer, error) {
				if strings.HasPrefix(query, "SELECT value") {
					return answer{rows: [][]driver.Value{{[]byte("v"), int64(1), int64(1), nil}}}, nil
				}
				return answer{affected: 1}, nil
			}}
			s := d.store(t, dialect, sqlstore.Options{Unprepared: unprepared})
			ctx := t.Context()
			const times = 5
			for range times {
				_, _, _, _, err1 := s.Load(ctx, "s")
				_, err2 := s.Create(ctx, "s", nil, time.Now(), time.Now())
				_, _, err3 := s.Replace(ctx, "s", 1, nil)
				_, err4 := s.Touch(ctx, "s", time.Now())
				_, err5 := s.End(ctx, "s", 0, []byte("m"), time.Now())
				_, err6 := s.End(ctx, "s", 1, []byte("m"), time.Now())
				_, err7 := s.Tagged(ctx, "t")
				err := errors.Join(err1, err2, err3, err4, err5, err6, err7, s.Tag(ctx, "t", "s", nil, time.Now()), s.Untag(ctx, "t", "s"))
				if err != nil {
					t.Fatal(err)
				}
			}
			s.Close()
			d.mu.Lock()
			want := 9
			if unprepared {
				want = 0
			}
			// While a sweep has the one connection, another is opened, and each
			// statement prepared on that, too.
			distinct := slices.Compact(slices.Sorted(slices.Values(d.prepared)))
			if len(distinct) != want || len(d.prepared) > 2*want || d.closed != len(d.prepared) {
				t.Errorf("%v, unprepared %v: %d statements were prepared %d times for %d calls each, and given back %d times; want %d",
					dialect, unprepared, len(distinct), len(d.prepared), times, d.closed, want)
			}
			d.mu.Unlock()
		}
	}
}

// Who has no time left waits for no other try.
func TestRepeatsWithinContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	d := &database{answer: func(context.Context, string, []driver.NamedValue) (answer, error) {
		cancel()
		return answer{}, stateError("40001")
	}}
	s := d.store(t, sqlstore.Postgres, sqlstore.Options{})
	if ok, err := s.Touch(ctx, "s", time.Now()); ok || err == nil || d.count("UPDATE") != 1 {
		t.Errorf("Touch = %v, %v after %d statements; want false, an error and 1", ok, err, d.count("UPDATE"))
	}
}

// What a database would cut or refuse, or another would find under another key,
// doesn't get there.
func TestLimits(t *testing.T) {
	d := &database{answer: func(context.Context, string, []driver.NamedValue) (answer, error) {
		return answer{affected: 1}, nil
	}}
	far := time.Now().Add(time.Hour)
	for _, dialect := range dialects {
		s := d.store(t, dialect, sqlstore.Options{})
		for op, f := range map[string]func(key string, b []byte) error{
			"Create": func(key string, b []byte) error {
				_, err := s.Create(t.Context(), key, b, far, far)
				return err
			},
			"Replace": func(_ string, b []byte) error {
				_, _, err := s.Replace(t.Context(), "s", 1, b)
				return err
			},
			"End": func(_ string, b []byte) error {
				_, err := s.End(t.Context(), "s", 0, b, far)
				return err
			},
			"Tag":     func(key string, b []byte) error { return s.Tag(t.Context(), key, "s", b, far) },
			"Tag-key": func(key string, b []byte) error { return s.Tag(t.Context(), "t", key, b, far) },
		} {
			least, most := 0, 1<<20
			switch op {
			case "End":
				least, most = 1, 64
			case "Tag", "Tag-key":
				most = 256
			}
			for _, size := range []int{0, least, most, most + 1} {
				if err := f("s", make([]byte, size)); (err == nil) != (size >= least && size <= most) {
					t.Errorf("%v: %s of %d bytes: %v; %d to %d are allowed", dialect, op, size, err, least, most)
				}
			}
			if op == "Replace" || op == "End" {
				continue
			}
			for _, key := range []string{"", strings.Repeat("s", 65), "s ", "s\x00", "s\x7f", "sé", "s\xff", "s\n"} {
				if err := f(key, []byte("v")); err == nil {
					t.Errorf("%v: %s of %q: no error", dialect, op, key)
				}
			}
		}
		for _, query := range d.sent {
			if strings.ContainsAny(query, "{}") || strings.Contains(query, "?") == (dialect == sqlstore.Postgres) && strings.Contains(query, "VALUES") {
				t.Errorf("%v: %s", dialect, query)
			}
		}
		d.sent = nil
	}
}

// Times that a column can't hold become the nearest that it can.
func TestFarTimes(t *testing.T) {
	var got []driver.NamedValue
	d := &database{answer: func(_ context.Context, query string, args []driver.NamedValue) (answer, error) {
		if strings.HasPrefix(query, "UPDATE") {
			got = args
		}
		return answer{affected: 1}, nil
	}}
	s := d.store(t, sqlstore.SQLite, sqlstore.Options{})
	for _, test := range []struct {
		at   time.Time
		want int64
	}{
		{time.Unix(1, 2345), 1000002},
		{time.Time{}, -62135596800000000},
		{time.Unix(math.MaxInt64>>1, 0), math.MaxInt64},
		{time.Unix(math.MinInt64>>1, 0), math.MinInt64},
	} {
		if _, err := s.Touch(t.Context(), "s", test.at); err != nil {
			t.Fatal(err)
		}
		if got[0].Value != test.want {
			t.Errorf("%v is sent as %v, want %d", test.at, got[0].Value, test.want)
		}
	}
}
