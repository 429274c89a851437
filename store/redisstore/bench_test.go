package redisstore_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/agglestone/bff/internal/testserver"
	"github.com/agglestone/bff/store/redisstore"
)

// A record of a session with usual tokens.
var benchValue = bytes.Repeat([]byte("v"), 3072)

const benchKeys = 10_000

func benchKey(i int64) string { return fmt.Sprintf("s%043d", i%benchKeys) }

func benchStore(b *testing.B) (*redisstore.Store, *testserver.Redis) {
	r := testserver.StartRedis(b, testserver.RedisServer)
	s := open(b, "redis://"+r.Addr, redisstore.Options{})
	far := time.Now().Add(24 * time.Hour)
	for i := range int64(benchKeys) {
		if ok, err := s.Create(b.Context(), benchKey(i), benchValue, far, far); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
	return s, r
}

// spread runs f(i) for n numbers by that many goroutines, as requests do: each
// call has a deadline. It returns how long it took.
func spread(b *testing.B, goroutines, n int, f func(ctx context.Context, i int64) error) time.Duration {
	b.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range goroutines {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
				err := f(ctx, i)
				cancel()
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(start)
}

// beside runs base and f by turns, so that both meet the same machine, and
// reports how long each took and their ratio.
func beside(b *testing.B, goroutines int, base, f func(ctx context.Context, i int64) error) {
	b.Helper()
	const turn = 2000
	spread(b, goroutines, turn, base) // connections are made, and pipelines
	spread(b, goroutines, turn, f)
	b.ResetTimer()
	var baseTook, took time.Duration
	for done := 0; done < b.N; done += turn {
		n := min(turn, b.N-done)
		baseTook += spread(b, goroutines, n, base)
		took += spread(b, goroutines, n, f)
	}
	b.ReportMetric(float64(baseTook.Nanoseconds())/float64(b.N), "bare-ns/op")
	b.ReportMetric(float64(took.Nanoseconds())/float64(b.N), "ns/op")
	b.ReportMetric(float64(took)/float64(baseTook), "x")
}

// Load beside the bare client's GET of the same bytes.
func BenchmarkLoad(b *testing.B) {
	s, r := benchStore(b)
	bare, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{r.Addr}, DisableCache: true, AlwaysPipelining: true})
	if err != nil {
		b.Fatal(err)
	}
	defer bare.Close()
	for _, goroutines := range []int{1, 64} {
		b.Run(fmt.Sprint(goroutines), func(b *testing.B) {
			beside(b, goroutines, func(ctx context.Context, i int64) error {
				got, err := bare.Do(ctx, bare.B().Get().Key("bff:"+benchKey(i)).Build()).AsBytes()
				if err == nil && len(got) < len(benchValue) {
					err = fmt.Errorf("GET = %d bytes", len(got))
				}
				return err
			}, func(ctx context.Context, i int64) error {
				value, _, _, ok, err := s.Load(ctx, benchKey(i))
				if err == nil && (!ok || len(value) != len(benchValue)) {
					err = fmt.Errorf("Load = %d bytes, %v", len(value), ok)
				}
				return err
			})
		})
	}
}

// The writes: a claim and a refresh are a Replace each, a slide is a Touch, a
// sign-in a Create. Beside them the bare client's SET of the same bytes.
func BenchmarkWrite(b *testing.B) {
	s, r := benchStore(b)
	bare, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{r.Addr}, DisableCache: true, AlwaysPipelining: true})
	if err != nil {
		b.Fatal(err)
	}
	defer bare.Close()
	set := func(ctx context.Context, i int64) error {
		return bare.Do(ctx, bare.B().Set().Key("bare:"+benchKey(i)).Value(string(benchValue)).ExSeconds(3600).Build()).Error()
	}
	far := time.Now().Add(24 * time.Hour)
	var created atomic.Int64
	versions := make([]atomic.Uint64, benchKeys)
	for i := range versions {
		_, version, _, ok, err := s.Load(b.Context(), benchKey(int64(i)))
		if !ok || err != nil {
			b.Fatal(ok, err)
		}
		versions[i].Store(version)
	}
	for _, bench := range []struct {
		name string
		f    func(ctx context.Context, i int64) error
	}{
		{"Create", func(ctx context.Context, _ int64) error {
			_, err := s.Create(ctx, fmt.Sprintf("snew%d", created.Add(1)), benchValue, time.Now().Add(time.Minute), far)
			return err
		}},
		{"Replace", func(ctx context.Context, i int64) error {
			version := &versions[i%benchKeys]
			next, ok, err := s.Replace(ctx, benchKey(i), version.Load(), benchValue)
			if err == nil && !ok {
				err = fmt.Errorf("Replace(%d) = false", i)
			}
			version.Store(next)
			return err
		}},
		{"Touch", func(ctx context.Context, i int64) error {
			_, err := s.Touch(ctx, benchKey(i), far.Add(time.Duration(i)*time.Millisecond))
			return err
		}},
	} {
		for _, goroutines := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/%d", bench.name, goroutines), func(b *testing.B) {
				beside(b, goroutines, set, bench.f)
			})
		}
	}
}

// Many replicas want the same claim, and one of them gets it. Beside them the
// bare client's SET of the same bytes under the same key.
func BenchmarkContendedClaim(b *testing.B) {
	s, r := benchStore(b)
	bare, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{r.Addr}, DisableCache: true, AlwaysPipelining: true})
	if err != nil {
		b.Fatal(err)
	}
	defer bare.Close()
	_, version, _, _, err := s.Load(b.Context(), benchKey(0))
	if err != nil {
		b.Fatal(err)
	}
	var current atomic.Uint64
	current.Store(version)
	beside(b, 64, func(ctx context.Context, _ int64) error {
		return bare.Do(ctx, bare.B().Set().Key("bare:"+benchKey(0)).Value(string(benchValue)).ExSeconds(3600).Build()).Error()
	}, func(ctx context.Context, _ int64) error {
		next, ok, err := s.Replace(ctx, benchKey(0), current.Load(), benchValue)
		if ok {
			current.Store(next)
		}
		return err
	})
}

// One subject with ten thousand sessions: to find them, and to end them all.
func BenchmarkTagged(b *testing.B) {
	s, _ := benchStore(b)
	far := time.Now().Add(24 * time.Hour)
	spread(b, 64, benchKeys, func(ctx context.Context, i int64) error {
		return s.Tag(ctx, "tsubject", benchKey(i), []byte("a note of some forty bytes, sealed already"), far)
	})
	b.Run("Tagged", func(b *testing.B) {
		for b.Loop() {
			if notes, err := s.Tagged(b.Context(), "tsubject"); err != nil || len(notes) != benchKeys {
				b.Fatal(len(notes), err)
			}
		}
	})
	b.Run("End", func(b *testing.B) {
		n := 0
		for b.Loop() {
			b.StopTimer()
			n++
			prefix := fmt.Sprintf("s%d-", n)
			spread(b, 64, benchKeys, func(ctx context.Context, i int64) error {
				_, err := s.Create(ctx, fmt.Sprint(prefix, i), benchValue, far, far)
				return err
			})
			b.StartTimer()
			spread(b, 64, benchKeys, func(ctx context.Context, i int64) error {
				ok, err := s.End(ctx, fmt.Sprint(prefix, i), 0, []byte("session_revoked"), far)
				if err == nil && !ok {
					err = fmt.Errorf("End(%d) = false", i)
				}
				return err
			})
		}
	})
}
