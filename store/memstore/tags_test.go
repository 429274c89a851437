package memstore_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff/store/memstore"
)

// tag files an entry for which there must be room.
func tag(t *testing.T, s *memstore.Store, tag, key string, expires time.Duration) {
	t.Helper()
	if err := s.Tag(t.Context(), tag, key, []byte(key), time.Now().Add(expires)); err != nil {
		t.Fatalf("Tag(%q, %q) = %v", tag, key, err)
	}
}

// refuseTag files an entry for which there must be no room.
func refuseTag(t *testing.T, s *memstore.Store, tag, key string) {
	t.Helper()
	err := s.Tag(t.Context(), tag, key, nil, time.Now().Add(time.Hour))
	if !errors.Is(err, memstore.ErrFull) || !strings.Contains(err.Error(), "Options.MaxTags") {
		t.Fatalf("Tag(%q, %q) = %v, want an ErrFull that says Options.MaxTags", tag, key, err)
	}
}

// tagged returns the notes under a tag.
func tagged(t *testing.T, s *memstore.Store, tag string) map[string][]byte {
	t.Helper()
	notes, err := s.Tagged(t.Context(), tag)
	if err != nil {
		t.Fatalf("Tagged(%q): %v", tag, err)
	}
	return notes
}

// D23: a full index takes no new sign-ins, costs no session its place, and
// drops no entry that lives.
func TestIndexBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New(memstore.Options{MaxSessions: 10, MaxMarks: 10, MaxTags: 100})
		for i := range 100 {
			tag(t, s, fmt.Sprintf("t%d", i%7), fmt.Sprintf("s%d", i), time.Hour)
		}
		refuseTag(t, s, "t0", "smore")
		refuseTag(t, s, "tmore", "s0")
		n := 0
		for i := range 7 {
			n += len(tagged(t, s, fmt.Sprintf("t%d", i)))
		}
		if n != 100 {
			t.Errorf("the tags have %d entries, want 100", n)
		}
		// To file an entry again needs no room.
		if err := s.Tag(t.Context(), "t0", "s0", []byte("again"), time.Now().Add(time.Hour)); err != nil {
			t.Errorf("Tag of an entry that is there = %v", err)
		}
		if got := tagged(t, s, "t0")["s0"]; string(got) != "again" {
			t.Errorf("its note is %q, want the new one", got)
		}
		// One that is taken out makes room for one.
		if err := s.Untag(t.Context(), "t3", "s3"); err != nil {
			t.Fatal(err)
		}
		tag(t, s, "tmore", "smore", time.Hour)
		refuseTag(t, s, "tmore", "smost")
		for i := range 10 { // and the records have theirs
			create(t, s, fmt.Sprintf("s%d", i), time.Hour)
			create(t, s, fmt.Sprintf("a%d", i), time.Hour)
		}
		if got := s.Len(); got != 20 {
			t.Errorf("Len() = %d, want 20", got)
		}
	})
}

// Four entries fit for each session, whatever else is said.
func TestIndexBoundByDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New(memstore.Options{MaxSessions: 25})
		for i := range 100 {
			tag(t, s, "t", fmt.Sprintf("s%d", i), time.Hour)
		}
		refuseTag(t, s, "t", "smore")
		tag(t, memstore.New(memstore.Options{MaxSessions: 1<<63 - 1}), "t", "s", time.Hour)
	})
}

// A full index takes as many new entries as there are expired ones, in
// whatever part of it those are.
func TestFullIndexReclaimsExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 1000
		s := memstore.New(memstore.Options{MaxTags: n})
		for i := range n {
			expires := time.Hour
			if i%4 == 0 {
				expires = time.Minute
			}
			tag(t, s, fmt.Sprintf("t%d", i%50), fmt.Sprintf("s%d", i), expires)
		}
		refuseTag(t, s, "t", "smore")
		time.Sleep(time.Minute)
		for i := range n / 4 {
			tag(t, s, "tnew", fmt.Sprintf("s%d", i), time.Hour)
		}
		refuseTag(t, s, "t", "smore")
		for i := range n {
			if _, ok := tagged(t, s, fmt.Sprintf("t%d", i%50))[fmt.Sprintf("s%d", i)]; ok != (i%4 != 0) {
				t.Fatalf("entry %d is there: %v", i, ok)
			}
		}
	})
}

// Of many who want the last places in the index, exactly as many get one.
func TestIndexBoundIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const room, expired, wanted = 100, 40, 400
		s := memstore.New(memstore.Options{MaxTags: room})
		for i := range expired {
			tag(t, s, "told", fmt.Sprintf("s%d", i), time.Minute)
		}
		time.Sleep(time.Minute)
		var wg sync.WaitGroup
		start := make(chan struct{})
		for i := range wanted {
			wg.Go(func() {
				<-start
				key := fmt.Sprintf("s%d", i/2) // two for each key
				if err := s.Tag(t.Context(), "t", key, nil, time.Now().Add(time.Hour)); err != nil && !errors.Is(err, memstore.ErrFull) {
					t.Errorf("Tag = %v", err)
				}
			})
		}
		close(start)
		wg.Wait()
		if got := len(tagged(t, s, "t")); got != room {
			t.Errorf("%d entries were filed, want %d", got, room)
		}
	})
}

// Who makes room for an entry that somebody else files meanwhile gives it back.
func TestIndexGivesBackRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 500 {
			s := memstore.New(memstore.Options{MaxTags: 4})
			for i := range 4 {
				tag(t, s, fmt.Sprintf("told%d", i), "s", time.Minute)
			}
			time.Sleep(time.Minute)
			var wg sync.WaitGroup
			start := make(chan struct{})
			for range 4 {
				wg.Go(func() {
					<-start
					tag(t, s, "t", "s", time.Hour)
				})
			}
			close(start)
			wg.Wait()
			for i := range 3 {
				tag(t, s, "tnew", fmt.Sprintf("s%d", i), time.Hour)
			}
			refuseTag(t, s, "tnew", "smore")
		}
	})
}

// Whatever is filed and taken out in whatever order, the index is what a map
// of maps would be, and no slot is lost or won.
func TestIndexIsAMap(t *testing.T) {
	type entry struct {
		note  string
		until time.Time
	}
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			const room = 60
			rng := rand.New(rand.NewPCG(seed, 0))
			s := memstore.New(memstore.Options{MaxTags: room})
			want := make(map[string]map[string]entry)
			for step := range 5000 {
				tag, key := fmt.Sprintf("t%d", rng.IntN(10)), fmt.Sprintf("s%d", rng.IntN(12))
				now := time.Now()
				for _, entries := range want {
					maps.DeleteFunc(entries, func(_ string, e entry) bool { return !now.Before(e.until) })
				}
				switch rng.IntN(8) {
				case 0, 1, 2, 3:
					e := entry{fmt.Sprint(step), now.Add(time.Duration(rng.IntN(300)-20) * time.Second)}
					full := 0
					for _, entries := range want {
						full += len(entries)
					}
					_, again := want[tag][key]
					err := s.Tag(t.Context(), tag, key, []byte(e.note), e.until)
					switch {
					case err == nil:
						if want[tag] == nil {
							want[tag] = make(map[string]entry)
						}
						want[tag][key] = e
					case !errors.Is(err, memstore.ErrFull):
						t.Fatal(err)
					case again || full < room:
						t.Fatalf("Tag(%q, %q) = %v with %d entries, filed before: %v", tag, key, err, full, again)
					}
				case 4, 5:
					if err := s.Untag(t.Context(), tag, key); err != nil {
						t.Fatal(err)
					}
					delete(want[tag], key)
				case 6:
					got := tagged(t, s, tag)
					for key, note := range got {
						if e, ok := want[tag][key]; !ok || e.note != string(note) {
							t.Fatalf("Tagged(%q) has %q with the note %q, want %q, %v", tag, key, note, e.note, ok)
						}
					}
					if len(got) != len(want[tag]) {
						t.Fatalf("Tagged(%q) has %d keys, want %d", tag, len(got), len(want[tag]))
					}
				case 7:
					time.Sleep(time.Duration(rng.IntN(10)) * time.Second)
				}
			}
			time.Sleep(time.Hour)
			for i := range room {
				tag(t, s, "tnew", fmt.Sprintf("s%d", i), time.Hour)
			}
			refuseTag(t, s, "tnew", "smore")
		})
	}
}

// Writes reclaim what expired in the index, and the tags that nothing is under
// any more.
func TestWritesReclaimTags(t *testing.T) {
	const n = 50_000
	s := memstore.New(memstore.Options{})
	fill := func(name string, until time.Time) {
		for i := range n {
			if err := s.Tag(t.Context(), fmt.Sprintf("t%s%d", name, i), "s", nil, until); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill("one", time.Now()) // expired when it is filed
	before := heap()
	for _, name := range []string{"two", "three", "four"} {
		fill(name, time.Now())
	}
	if grown := heap() - before; grown > 20*n {
		t.Errorf("after 4 times %d entries that expired the heap has grown by %d bytes since the first", n, grown)
	}
	runtime.KeepAlive(s)
}

func TestTagLimits(t *testing.T) {
	s := memstore.New(memstore.Options{})
	long, at := strings.Repeat("s", 65), time.Now().Add(time.Hour)
	for name, f := range map[string]func() error{
		"an empty tag":     func() error { return s.Tag(t.Context(), "", "s", nil, at) },
		"a long tag":       func() error { return s.Tag(t.Context(), long, "s", nil, at) },
		"a tag in two":     func() error { return s.Tag(t.Context(), "t s", "s", nil, at) },
		"an empty key":     func() error { return s.Tag(t.Context(), "t", "", nil, at) },
		"a long key":       func() error { return s.Tag(t.Context(), "t", long, nil, at) },
		"a key in two":     func() error { return s.Tag(t.Context(), "t", "s s", nil, at) },
		"a note too large": func() error { return s.Tag(t.Context(), "t", "s", make([]byte, 257), at) },
	} {
		if err := f(); err == nil || errors.Is(err, memstore.ErrFull) {
			t.Errorf("Tag with %s = %v, want an error of its own", name, err)
		}
	}
	if got := tagged(t, s, "t"); len(got) != 0 {
		t.Errorf("Tagged has %d keys, want none", len(got))
	}
}

// An entry is no record, whatever it is asked for by.
func TestEntryIsNoRecord(t *testing.T) {
	s := memstore.New(memstore.Options{})
	tag(t, s, "t", "s", time.Hour)
	for _, key := range []string{"t", "s", "t s"} {
		if value, _, _, ok, err := s.Load(t.Context(), key); ok || value != nil || err != nil {
			t.Errorf("Load(%q) = %q, %v, %v; want nil, false, nil", key, value, ok, err)
		}
	}
}

// An entry takes less than 300 bytes beside its note, tag and key, even if it
// is the only one under its tag.
func TestMemoryOfEntries(t *testing.T) {
	const n = 100_000
	before := heap()
	s := memstore.New(memstore.Options{})
	at, note := time.Now().Add(time.Hour), make([]byte, 64)
	for i := range n {
		if err := s.Tag(t.Context(), fmt.Sprintf("t%047d", i), fmt.Sprintf("s%047d", i), note, at); err != nil {
			t.Fatal(err)
		}
	}
	if got := (heap()-before)/n - 64 - 2*48; got > 300 {
		t.Errorf("an entry takes %d bytes beside its note, tag and key, want at most 300", got)
	}
	runtime.KeepAlive(s)
}
