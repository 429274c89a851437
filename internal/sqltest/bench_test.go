package sqltest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agglestone/bff/store/sqlstore"
)

type named struct {
	name string
	engine
}

func engines(b *testing.B) []named {
	p, server := postgres(b)
	pooled, _ := pgBouncer(b, server, "default_pool_size = 16")
	m, _ := mariaDB(b)
	return []named{{"postgres", p}, {"pgbouncer", pooled}, {"mariadb", m}, {"sqlite", sqlite(b)}}
}

// fill files n sessions with values of 2,000 bytes and returns their keys.
func fill(b *testing.B, s *sqlstore.Store, n int) (keys []string) {
	b.Helper()
	value := make([]byte, 2000)
	rand.Read(value)
	far := time.Now().Add(24 * time.Hour)
	for range n {
		var id [32]byte
		rand.Read(id[:])
		key := "s" + base64.RawURLEncoding.EncodeToString(id[:])
		if ok, err := s.Create(context.Background(), key, value, far, far); !ok || err != nil {
			b.Fatalf("Create = %v, %v", ok, err)
		}
		keys = append(keys, key)
	}
	return keys
}

// BenchmarkLoad compares Load with the same driver's SELECT of a value by its
// key, in turns: from the same rows, and by a prepared statement if Load has
// one. It reports the mean latency of each and their ratio.
func BenchmarkLoad(b *testing.B) {
	for _, e := range engines(b) {
		e.engine = e.named()
		db := e.open(b)
		db.SetMaxOpenConns(64)
		db.SetMaxIdleConns(64)
		s := e.on(b, db)
		keys := fill(b, s, 2000)
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		b.Cleanup(cancel)
		param := "?"
		if e.dialect == sqlstore.Postgres {
			param = "$1"
		}
		text := fmt.Sprintf("SELECT value FROM %srecords WHERE record_key = %s", e.opts.Prefix, param)
		query := func(key string) *sql.Row { return db.QueryRowContext(ctx, text, key) }
		if !e.opts.Unprepared {
			stmt, err := db.PrepareContext(ctx, text)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { stmt.Close() })
			query = func(key string) *sql.Row { return stmt.QueryRowContext(ctx, key) }
		}
		bare := func(key string) error {
			var value []byte
			return query(key).Scan(&value)
		}
		load := func(key string) error {
			_, _, _, ok, err := s.Load(ctx, key)
			if err == nil && !ok {
				err = sql.ErrNoRows
			}
			return err
		}
		for _, workers := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/%d", e.name, workers), func(b *testing.B) {
				var i, tookBare, tookLoad atomic.Int64
				var wg sync.WaitGroup
				timed := func(took *atomic.Int64, f func(string) error, key string) {
					began := time.Now()
					if err := f(key); err != nil {
						b.Error(err)
					}
					took.Add(int64(time.Since(began)))
				}
				for range workers {
					wg.Go(func() {
						for n := i.Add(1); n <= int64(b.N); n = i.Add(1) {
							key := keys[n%int64(len(keys))]
							if n%2 == 0 {
								timed(&tookBare, bare, key)
								timed(&tookLoad, load, key)
							} else {
								timed(&tookLoad, load, key)
								timed(&tookBare, bare, key)
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(float64(tookBare.Load())/float64(b.N), "bare-ns")
				b.ReportMetric(float64(tookLoad.Load())/float64(b.N), "Load-ns")
				b.ReportMetric(float64(tookLoad.Load())/float64(tookBare.Load()), "ratio")
			})
		}
	}
}

// BenchmarkEndTagged ends all of a user's 10,000 sessions, as a logout token
// asks for: one Tagged, and an End for each, 16 at a time.
func BenchmarkEndTagged(b *testing.B) {
	const sessions, workers = 10000, 16
	for _, e := range engines(b) {
		b.Run(e.name, func(b *testing.B) {
			ctx := context.Background()
			s := e.store(b)
			each := func(keys []string, f func(key string) error) {
				var i atomic.Int64
				var wg sync.WaitGroup
				for range workers {
					wg.Go(func() {
						for n := i.Add(1); n <= int64(len(keys)); n = i.Add(1) {
							if err := f(keys[n-1]); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
			}
			for round := range b.N {
				b.StopTimer()
				tag := fmt.Sprintf("t%d", round)
				keys := make([]string, sessions)
				for i := range keys {
					keys[i] = fmt.Sprintf("s%d-%d", round, i)
				}
				value := make([]byte, 2000)
				rand.Read(value)
				each(keys, func(key string) error {
					if err := s.Tag(ctx, tag, key, value[:100], far()); err != nil {
						return err
					}
					_, err := s.Create(ctx, key, value, far(), far())
					return err
				})
				b.StartTimer()
				notes, err := s.Tagged(ctx, tag)
				if err != nil || len(notes) != sessions {
					b.Fatalf("Tagged = %d, %v; want %d", len(notes), err, sessions)
				}
				found := slices.Collect(maps.Keys(notes))
				each(found, func(key string) error {
					ok, err := s.End(ctx, key, 0, []byte("session_revoked"), far())
					if err == nil && !ok {
						err = fmt.Errorf("a session was not there")
					}
					return err
				})
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/sessions, "µs/session")
		})
	}
}
