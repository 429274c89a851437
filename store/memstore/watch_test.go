package memstore_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff/store/memstore"
)

// Who is too slow to hear of everything hears that, and holds up nobody.
func TestWatchOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New(memstore.Options{})
		create(t, s, "s", time.Hour)
		_, version, _, _, _ := s.Load(t.Context(), "s")
		replace := func(n int) {
			for range n {
				var ok bool
				var err error
				if version, ok, err = s.Replace(t.Context(), "s", version, nil); !ok || err != nil {
					t.Fatalf("Replace = %v, %v", ok, err)
				}
			}
		}
		var changes, syncs int
		release := make(chan struct{})
		ended := make(chan error)
		go func() {
			ended <- s.Watch(t.Context(), time.Minute, func(string) {
				changes++
				<-release
			}, func(time.Time) { syncs++ })
		}()
		synctest.Wait()
		replace(1)
		synctest.Wait() // it reports that one and is stuck
		time.Sleep(time.Second)
		syncs = 0
		replace(1<<16 + 1)
		close(release)
		if err := <-ended; !errors.Is(err, memstore.ErrLost) {
			t.Errorf("Watch = %v, want %v", err, memstore.ErrLost)
		}
		// The synced after the one change that was reported is from before.
		if changes != 1 || syncs != 1 {
			t.Errorf("%d changes were reported and synced was called %d times, want once each", changes, syncs)
		}
	})
}

// Up to the bound, nothing is lost.
func TestWatchQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New(memstore.Options{})
		create(t, s, "s", time.Hour)
		_, version, _, _, _ := s.Load(t.Context(), "s")
		ctx, cancel := context.WithCancel(t.Context())
		var changes int
		release := make(chan struct{})
		ended := make(chan error)
		go func() {
			ended <- s.Watch(ctx, time.Minute, func(string) {
				changes++
				<-release
			}, func(time.Time) {})
		}()
		synctest.Wait()
		for i := range 1<<16 + 1 {
			version, _, _ = s.Replace(t.Context(), "s", version, nil)
			if i == 0 {
				synctest.Wait() // the first is out of the queue
			}
		}
		close(release)
		synctest.Wait()
		cancel()
		if err := <-ended; err != nil || changes != 1<<16+1 {
			t.Errorf("Watch = %v after %d changes, want nil after %d", err, changes, 1<<16+1)
		}
	})
}

func TestWatchInterval(t *testing.T) {
	s := memstore.New(memstore.Options{})
	for _, every := range []time.Duration{0, -1} {
		if err := s.Watch(t.Context(), every, func(string) {}, func(time.Time) {}); err == nil {
			t.Errorf("Watch every %v returns no error", every)
		}
	}
}

// A change that is seen after the first synced is reported, even if it was
// under way when the watch began.
func TestWatchBegins(t *testing.T) {
	s := memstore.New(memstore.Options{})
	create(t, s, "s", time.Hour)
	_, version, _, _, _ := s.Load(t.Context(), "s")
	for range 2000 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		replaced := make(chan uint64)
		go func() {
			next, _, _ := s.Replace(ctx, "s", version, nil)
			replaced <- next
		}()
		var seen, next uint64
		reported := false
		syncs := 0
		err := s.Watch(ctx, time.Hour, func(string) { reported = true }, func(time.Time) {
			switch syncs++; {
			case syncs == 1:
				_, seen, _, _, _ = s.Load(ctx, "s")
				if next = <-replaced; seen == next || reported {
					cancel()
				}
			case reported:
				cancel()
			}
		})
		if err != nil || ctx.Err() != context.Canceled {
			t.Fatalf("Watch = %v (%v), and of version %d it says nothing, after version %d was seen", err, ctx.Err(), next, seen)
		}
		version = next
	}
}

// Ended gives more than one answer holds in pieces, each once and in order,
// though all ended at the same moment.
func TestEndedInPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 10_000
		s := memstore.New(memstore.Options{})
		_, since, err := s.Ended(t.Context(), time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for i := range n {
			key := fmt.Sprintf("s%d", i)
			create(t, s, key, time.Hour)
			create(t, s, "a"+key, time.Hour)
			for _, key := range []string{key, "a" + key} {
				if ok, err := s.End(t.Context(), key, 0, []byte("bye"), time.Now().Add(time.Hour)); !ok || err != nil {
					t.Fatalf("End = %v, %v", ok, err)
				}
			}
			want = append(want, key)
		}
		var got []string
		for pieces := 1; ; pieces++ {
			keys, next, err := s.Ended(t.Context(), since)
			if err != nil {
				t.Fatal(err)
			}
			if got = append(got, keys...); len(keys) == 0 {
				break
			}
			if pieces > 3 || len(keys) > 4096 {
				t.Fatalf("answer %d has %d sessions, want at most 3 answers with at most 4096", pieces, len(keys))
			}
			since = next
		}
		if !slices.Equal(got, want) {
			t.Errorf("Ended lists %d sessions, want all %d in the order of their ends", len(got), n)
		}
	})
}

// What has expired is not listed, and its place in the list is given back,
// wherever that is.
func TestEndedForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New(memstore.Options{MaxSessions: 1000})
		_, since, _ := s.Ended(t.Context(), time.Time{})
		for range 20 {
			var want []string
			for i := range 1000 {
				key := fmt.Sprintf("s%d", i)
				create(t, s, key, time.Hour)
				until := time.Minute
				if i%3 == 0 {
					until = time.Hour
					want = append(want, key)
				}
				if ok, err := s.End(t.Context(), key, 0, []byte("bye"), time.Now().Add(until)); !ok || err != nil {
					t.Fatalf("End = %v, %v", ok, err)
				}
			}
			time.Sleep(time.Minute)
			for i := range 1000 { // sweep
				s.Touch(t.Context(), fmt.Sprintf("s%d", i), time.Now())
			}
			if keys, _, err := s.Ended(t.Context(), since); err != nil || !slices.Equal(keys, want) {
				t.Fatalf("Ended = %d keys, %v; want %d in order", len(keys), err, len(want))
			}
			time.Sleep(time.Hour)
			if keys, _, err := s.Ended(t.Context(), since); err != nil || len(keys) != 0 {
				t.Fatalf("Ended = %d keys, %v; want none", len(keys), err)
			}
		}
	})
}

// Nothing is kept of sessions that ended once their marks expired.
func TestEndedTakesNoMemory(t *testing.T) {
	const n = 20_000
	s := memstore.New(memstore.Options{})
	fill := func(name string) {
		for i := range n {
			key := fmt.Sprintf("s%s%d", name, i)
			create(t, s, key, time.Hour)
			if ok, err := s.End(t.Context(), key, 0, []byte("bye"), time.Now()); !ok || err != nil {
				t.Fatalf("End = %v, %v", ok, err)
			}
		}
	}
	fill("one")
	before := heap()
	for _, name := range []string{"two", "three", "four"} {
		fill(name)
	}
	if grown := heap() - before; grown > 20*n {
		t.Errorf("after 4 times %d sessions that ended the heap has grown by %d bytes since the first", n, grown)
	}
	runtime.KeepAlive(s)
}

// Nor is anything kept for those who no longer watch.
func TestWatchTakesNoMemory(t *testing.T) {
	s := memstore.New(memstore.Options{})
	create(t, s, "s", time.Hour)
	_, version, _, _, _ := s.Load(t.Context(), "s")
	for range 100 {
		ctx, cancel := context.WithCancel(t.Context())
		if err := s.Watch(ctx, time.Hour, func(string) {}, func(time.Time) { cancel() }); err != nil {
			t.Fatalf("Watch = %v", err)
		}
	}
	before := heap()
	for range 1000 {
		version, _, _ = s.Replace(t.Context(), "s", version, nil)
	}
	if grown := heap() - before; grown > 1<<20 {
		t.Errorf("the heap has grown by %d bytes, though nobody watches", grown)
	}
	runtime.KeepAlive(s)
}
