package memstore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff/store/memstore"
	"github.com/agglestone/bff/store/storetest"
)

const everything = storetest.Indexer | storetest.Watcher | storetest.EndLog | storetest.Rememberer

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Store {
		return memstore.New(memstore.Options{})
	}, storetest.Options{Synctest: true, Want: everything})
}

// The same rules hold when time really passes.
func TestStoreInRealTime(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Store {
		return memstore.New(memstore.Options{})
	}, storetest.Options{Keys: 10_000, Want: everything})
}

// create files a record that must fit.
func create(t *testing.T, s *memstore.Store, key string, expires time.Duration) {
	t.Helper()
	at := time.Now().Add(expires)
	if ok, err := s.Create(t.Context(), key, []byte(key), at, at.Add(24*time.Hour)); !ok || err != nil {
		t.Fatalf("Create(%q) = %v, %v; want true, nil", key, ok, err)
	}
}

// refuse files a record for which there must be no room.
func refuse(t *testing.T, s *memstore.Store, key, says string) {
	t.Helper()
	at := time.Now().Add(time.Hour)
	ok, err := s.Create(t.Context(), key, nil, at, at)
	if ok || !errors.Is(err, memstore.ErrFull) || !strings.Contains(err.Error(), says) {
		t.Fatalf("Create(%q) = %v, %v; want an ErrFull that says %q", key, ok, err, says)
	}
	if value, _, _, ok, err := s.Load(t.Context(), key); ok || value != nil || err != nil {
		t.Fatalf("Load(%q) after ErrFull = %q, %v, %v; want nil, false, nil", key, value, ok, err)
	}
}

// D23: sessions and marks are bounded by themselves, and no live one is
// dropped to make room.
func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New(memstore.Options{MaxSessions: 100, MaxMarks: 50})
		for i := range 50 {
			create(t, s, fmt.Sprintf("%c%d", "atj"[i%3], i), time.Hour)
		}
		refuse(t, s, "amore", "Options.MaxMarks")
		for i := range 100 {
			create(t, s, fmt.Sprintf("s%d", i), time.Hour)
		}
		refuse(t, s, "smore", "Options.MaxSessions")
		refuse(t, s, "amore", "Options.MaxMarks")
		if got := s.Len(); got != 150 {
			t.Errorf("Len() = %d, want 150", got)
		}
		for i := range 100 {
			key := fmt.Sprintf("s%d", i)
			if value, _, _, ok, err := s.Load(t.Context(), key); string(value) != key || !ok || err != nil {
				t.Fatalf("Load(%q) = %q, %v, %v", key, value, ok, err)
			}
			// A taken key is an answer, full or not.
			if ok, err := s.Create(t.Context(), key, nil, time.Now().Add(time.Hour), time.Now().Add(time.Hour)); ok || err != nil {
				t.Fatalf("Create(%q) = %v, %v; want false, nil", key, ok, err)
			}
		}
	})
}

// A full store takes as many new records as there are expired ones, in
// whatever part of it those are.
func TestFullReclaimsExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 1000
		s := memstore.New(memstore.Options{MaxSessions: n})
		for i := range n {
			expires := time.Hour
			if i%4 == 0 {
				expires = time.Minute
			}
			create(t, s, fmt.Sprintf("s%d", i), expires)
		}
		refuse(t, s, "smore", "1000 sessions")
		for i := range n {
			if i%4 == 0 && i%8 != 0 { // half of the short ones live on
				if ok, err := s.Touch(t.Context(), fmt.Sprintf("s%d", i), time.Now().Add(time.Hour)); !ok || err != nil {
					t.Fatalf("Touch = %v, %v", ok, err)
				}
			}
		}
		time.Sleep(time.Minute)
		for i := range n / 8 {
			create(t, s, fmt.Sprintf("snew%d", i), time.Hour)
		}
		refuse(t, s, "smore", "1000 sessions")
		if got := s.Len(); got != n {
			t.Errorf("Len() = %d, want %d", got, n)
		}
		for i := range n {
			key := fmt.Sprintf("s%d", i)
			if _, _, _, ok, err := s.Load(t.Context(), key); ok != (i%8 != 0) || err != nil {
				t.Fatalf("Load(%q) = %v, %v", key, ok, err)
			}
		}
	})
}

// The mark of an ended session holds its slot until it expires.
func TestMarkHoldsSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New(memstore.Options{MaxSessions: 1})
		create(t, s, "s1", 10*time.Hour)
		if ok, err := s.End(t.Context(), "s1", 0, []byte("bye"), time.Now().Add(time.Hour)); !ok || err != nil {
			t.Fatalf("End = %v, %v", ok, err)
		}
		refuse(t, s, "s2", "MaxSessions")
		time.Sleep(time.Hour)
		create(t, s, "s2", time.Hour)
	})
}

// Of many who want the last places, exactly as many get one.
func TestBoundIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const room, expired, wanted = 100, 40, 400
		s := memstore.New(memstore.Options{MaxSessions: room})
		for i := range expired {
			create(t, s, fmt.Sprintf("sold%d", i), time.Minute)
		}
		time.Sleep(time.Minute)
		var got atomic.Int64
		var wg sync.WaitGroup
		start := make(chan struct{})
		for i := range wanted {
			wg.Go(func() {
				<-start
				at := time.Now().Add(time.Hour)
				ok, err := s.Create(t.Context(), fmt.Sprintf("s%d", i/2), nil, at, at) // two for each key
				switch {
				case ok && err == nil:
					got.Add(1)
				case err != nil && !errors.Is(err, memstore.ErrFull):
					t.Errorf("Create = %v, %v", ok, err)
				}
			})
		}
		close(start)
		wg.Wait()
		if got.Load() != room || s.Len() != room {
			t.Errorf("%d records were filed and Len() is %d, want %d", got.Load(), s.Len(), room)
		}
	})
}

// Writes reclaim what expired, a few records each, so that no reader waits
// for many.
func TestWritesReclaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 5000
		s := memstore.New(memstore.Options{})
		for i := range n {
			create(t, s, fmt.Sprintf("s%d", i), time.Minute)
			create(t, s, fmt.Sprintf("a%d", i), time.Minute)
		}
		time.Sleep(time.Minute)
		if got := s.Len(); got != 2*n {
			t.Fatalf("Len() = %d before any write, want %d", got, 2*n)
		}
		for i := range n {
			before := s.Len()
			create(t, s, fmt.Sprintf("snew%d", i), time.Hour)
			if dropped := before + 1 - s.Len(); dropped > 4 {
				t.Fatalf("one write removed %d records, want at most 4", dropped)
			}
		}
		if got := s.Len(); got > n+n/4 {
			t.Errorf("Len() = %d after %d writes, want little more than those", got, n)
		}
		for _, write := range map[string]func(key string) error{
			"Replace": func(key string) error { _, _, err := s.Replace(t.Context(), key, 1, nil); return err },
			"Touch":   func(key string) error { _, err := s.Touch(t.Context(), key, time.Now()); return err },
			"End":     func(key string) error { _, err := s.End(t.Context(), key, 0, []byte("x"), time.Now()); return err },
		} {
			create(t, s, "aold", time.Second)
			time.Sleep(time.Second)
			before := s.Len()
			if err := write("aold"); err != nil {
				t.Fatal(err)
			}
			if s.Len() >= before {
				t.Errorf("a write leaves %d records of %d, want fewer", s.Len(), before)
			}
		}
	})
}

// Whatever happens in whatever order, no slot is lost and none is won.
func TestSlotsAddUp(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			const room = 50
			rng := rand.New(rand.NewPCG(seed, 0))
			s := memstore.New(memstore.Options{MaxSessions: room, MaxMarks: room})
			ctx := t.Context()
			for range 5000 {
				key := fmt.Sprintf("%c%d", "sa"[rng.IntN(2)], rng.IntN(2*room))
				in := func() time.Time { return time.Now().Add(time.Duration(rng.IntN(200)-20) * time.Second) }
				var err error
				switch rng.IntN(6) {
				case 0, 1:
					_, err = s.Create(ctx, key, nil, in(), in())
				case 2:
					_, version, _, _, _ := s.Load(ctx, key)
					_, _, err = s.Replace(ctx, key, version, nil)
				case 3:
					_, err = s.Touch(ctx, key, in())
				case 4:
					_, err = s.End(ctx, key, 0, []byte("mark"), in())
				case 5:
					time.Sleep(time.Duration(rng.IntN(10)) * time.Second)
				}
				if err != nil && !errors.Is(err, memstore.ErrFull) {
					t.Fatal(err)
				}
				if n := s.Len(); n < 0 || n > 2*room {
					t.Fatalf("Len() = %d, want 0 to %d", n, 2*room)
				}
			}
			time.Sleep(time.Hour)
			for _, kind := range "sa" {
				for i := range room {
					create(t, s, fmt.Sprintf("%cnew%d", kind, i), time.Hour)
				}
				refuse(t, s, fmt.Sprintf("%cmore", kind), "memstore: full")
			}
			if got := s.Len(); got != 2*room {
				t.Errorf("Len() = %d, want %d", got, 2*room)
			}
		})
	}
}

// A version that was read from an expired record is no good for the next one
// under that key.
func TestVersionsOfTheNextRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New(memstore.Options{})
		create(t, s, "s", time.Minute)
		_, old, _, _, _ := s.Load(t.Context(), "s")
		time.Sleep(time.Minute)
		create(t, s, "s", time.Minute)
		if _, ok, err := s.Replace(t.Context(), "s", old, nil); ok || err != nil {
			t.Errorf("Replace with the old record's version = %v, %v; want false, nil", ok, err)
		}
	})
}

func TestLimits(t *testing.T) {
	s := memstore.New(memstore.Options{})
	ctx, at := t.Context(), time.Now().Add(time.Hour)
	large := make([]byte, 1<<20+1)
	for name, f := range map[string]func() (bool, error){
		"Create without a key":      func() (bool, error) { return s.Create(ctx, "", nil, at, at) },
		"Create with a long key":    func() (bool, error) { return s.Create(ctx, strings.Repeat("s", 65), nil, at, at) },
		"Create with a large value": func() (bool, error) { return s.Create(ctx, "slarge", large, at, at) },
		"Replace with a large value": func() (bool, error) {
			create(t, s, "s", time.Hour)
			_, version, _, _, _ := s.Load(ctx, "s")
			_, ok, err := s.Replace(ctx, "s", version, large)
			return ok, err
		},
		"End without a mark":    func() (bool, error) { return s.End(ctx, "s", 0, nil, at) },
		"End with a large mark": func() (bool, error) { return s.End(ctx, "s", 0, large[:65], at) },
	} {
		if ok, err := f(); ok || err == nil || errors.Is(err, memstore.ErrFull) {
			t.Errorf("%s = %v, %v; want false and an error of its own", name, ok, err)
		}
	}
}

// Times that don't fit into nanoseconds mean never, and long ago.
func TestFarTimes(t *testing.T) {
	s := memstore.New(memstore.Options{})
	never, ago := time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC), time.Time{}
	if ok, err := s.Create(t.Context(), "s", nil, never, never); !ok || err != nil {
		t.Fatalf("Create = %v, %v", ok, err)
	}
	if _, _, expires, ok, err := s.Load(t.Context(), "s"); !ok || err != nil || expires.Year() < 2262 {
		t.Errorf("Load = expires %v, %v, %v; want the far future", expires, ok, err)
	}
	if ok, err := s.Touch(t.Context(), "s", ago); !ok || err != nil {
		t.Errorf("Touch = %v, %v", ok, err)
	}
	if ok, err := s.End(t.Context(), "s", 0, []byte("x"), ago); !ok || err != nil {
		t.Errorf("End = %v, %v", ok, err)
	}
	if value, _, _, ok, err := s.Load(t.Context(), "s"); ok || value != nil || err != nil {
		t.Errorf("Load = %q, %v, %v; want nil, false, nil", value, ok, err)
	}
}

// An expiry past the end is the end.
func TestCreateStopsAtEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New(memstore.Options{})
		end := time.Now().Add(time.Hour)
		if ok, err := s.Create(t.Context(), "s", nil, end.Add(time.Hour), end); !ok || err != nil {
			t.Fatalf("Create = %v, %v", ok, err)
		}
		if _, _, expires, ok, _ := s.Load(t.Context(), "s"); !ok || !expires.Equal(end) {
			t.Errorf("Load = expires %v, %v; want %v", expires, ok, end)
		}
	})
}

func TestSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		s := memstore.New(memstore.Options{})
		time.Sleep(time.Hour)
		create(t, s, "s", time.Hour)
		if got, err := s.Since(t.Context()); err != nil || !got.Equal(start) {
			t.Errorf("Since() = %v, %v, want %v", got, err, start)
		}
	})
}

func TestCancelledContext(t *testing.T) {
	s := memstore.New(memstore.Options{})
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if _, _, _, _, err := s.Load(ctx, "s"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Load = %v, want %v", err, context.DeadlineExceeded)
	}
}

// Ending a session gives its tokens to the garbage collector, though its mark
// stays.
func TestEndFreesTheValue(t *testing.T) {
	s := memstore.New(memstore.Options{})
	at := time.Now().Add(time.Hour)
	before := heap()
	for i := range 64 {
		if ok, err := s.Create(t.Context(), fmt.Sprintf("s%d", i), make([]byte, 1<<20), at, at); !ok || err != nil {
			t.Fatalf("Create = %v, %v", ok, err)
		}
	}
	full := heap() - before
	for i := range 64 {
		if ok, err := s.End(t.Context(), fmt.Sprintf("s%d", i), 0, []byte("x"), at); !ok || err != nil {
			t.Fatalf("End = %v, %v", ok, err)
		}
	}
	if ended := heap() - before; ended > full/8 {
		t.Errorf("64 sessions of 1 MB take %d bytes, and ended %d", full, ended)
	}
	runtime.KeepAlive(s)
}

// A record takes less than 200 bytes beside its key and value.
func TestMemory(t *testing.T) {
	const n = 100_000
	before := heap()
	s := memstore.New(memstore.Options{})
	at := time.Now().Add(time.Hour)
	value := make([]byte, 64)
	for i := range n {
		if ok, err := s.Create(t.Context(), fmt.Sprintf("s%047d", i), value, at, at); !ok || err != nil {
			t.Fatalf("Create = %v, %v", ok, err)
		}
	}
	if got := (heap()-before)/n - 64 - 48; got > 200 {
		t.Errorf("a record takes %d bytes beside its key and value, want at most 200", got)
	}
	runtime.KeepAlive(s)
}

func TestLoadDoesNotAllocate(t *testing.T) {
	s := memstore.New(memstore.Options{})
	create(t, s, "s", time.Hour)
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() { s.Load(ctx, "s"); s.Load(ctx, "absent") }); n != 0 {
		t.Errorf("Load makes %v allocations, want 0", n)
	}
}

// heap returns the bytes of live objects.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
