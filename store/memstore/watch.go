package memstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// ErrLost is what Watch returns when its caller was too slow to be told of
// every change.
var ErrLost = errors.New("memstore: changes were not reported, since a watcher is too slow")

const (
	maxReports = 1 << 16 // that wait for one watcher
	maxEnded   = 4096    // that Ended returns at once
)

// A watcher is one call of Watch, with the changes that it has yet to report.
type watcher struct {
	wake chan struct{} // holds one token if there is something new

	mu   sync.Mutex
	keys []string
	lost bool
}

// Watch calls changed with the key of every session's record that is replaced
// or ended, and synced at once, after each batch of those, and whenever the
// given interval passed. It does so on the caller's goroutine, and holds up no
// writer: after 65,536 changes that it could not report it returns [ErrLost].
// It returns nil when ctx ends.
func (s *Store) Watch(ctx context.Context, every time.Duration, changed func(key string), synced func(upTo time.Time)) error {
	if every <= 0 {
		return fmt.Errorf("memstore: can't report every %v", every)
	}
	w := &watcher{wake: make(chan struct{}, 1)}
	s.enlist(w)
	defer s.dismiss(w)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for ctx.Err() == nil {
		// What was changed before now is among the keys: a change is queued
		// before its shard is unlocked, and so before anybody can see it.
		now := time.Now()
		keys, lost := w.take()
		for _, key := range keys {
			changed(key)
		}
		if lost {
			return ErrLost
		}
		synced(now)
		select {
		case <-ctx.Done():
		case <-w.wake:
		case <-ticker.C:
		}
	}
	return nil
}

// enlist makes w hear of every change from now on.
func (s *Store) enlist(w *watcher) {
	s.setWatchers(func(ws []*watcher) []*watcher { return append(ws, w) })
	// A writer that looked for watchers before must be done, or its change
	// would be seen after the first synced, and never be reported.
	for i := range s.shards {
		s.shards[i].settle()
	}
}

// settle waits until whoever has locked sh is done.
func (sh *shard) settle() {
	sh.mu.RLock()
	defer sh.mu.RUnlock()
}

func (s *Store) dismiss(w *watcher) {
	s.setWatchers(func(ws []*watcher) []*watcher {
		return slices.DeleteFunc(ws, func(other *watcher) bool { return other == w })
	})
}

func (s *Store) setWatchers(change func([]*watcher) []*watcher) {
	s.watching.Lock()
	defer s.watching.Unlock()
	var ws []*watcher
	if p := s.watchers.Load(); p != nil {
		ws = slices.Clone(*p)
	}
	if ws = change(ws); len(ws) == 0 {
		s.watchers.Store(nil)
		return
	}
	s.watchers.Store(&ws)
}

// changed tells every watcher that r changed. Its shard is locked.
func (s *Store) changed(r *record) {
	ws := s.watchers.Load()
	if ws == nil || r.kind != sessions {
		return
	}
	for _, w := range *ws {
		w.report(r.key)
	}
}

func (w *watcher) report(key string) {
	w.mu.Lock()
	if w.lost = w.lost || len(w.keys) == maxReports; w.lost {
		w.keys = nil
	} else {
		w.keys = append(w.keys, key)
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default: // it is about to look
	}
}

// take returns what there is to report, and whether that is not all.
func (w *watcher) take() (keys []string, lost bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	keys, w.keys = w.keys, nil
	return keys, w.lost
}

// Ended returns the keys of up to 4,096 sessions that were ended at or after
// since and whose marks are still kept, in the order of their ends, and the
// time to ask from next. It costs as much as there are sessions that were ended
// since.
func (s *Store) Ended(ctx context.Context, since time.Time) (keys []string, next time.Time, err error) {
	if err := ctx.Err(); err != nil {
		return nil, time.Time{}, err
	}
	// Whoever ends a session from here on does so later than this, and who did
	// earlier holds a lock until it is on the list.
	upTo := s.tick()
	if since.IsZero() {
		return nil, time.Unix(0, upTo), nil
	}
	type end struct {
		key string
		at  int64
	}
	var ends []end
	now, from := time.Now().UnixNano(), nanos(since)
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.RLock()
		for r := sh.ended.last; r != nil && from <= r.end; r = r.prev {
			if now < r.expires {
				ends = append(ends, end{r.key, r.end})
			}
		}
		sh.mu.RUnlock()
	}
	slices.SortFunc(ends, func(a, b end) int { return cmp.Compare(a.at, b.at) })
	if len(ends) > maxEnded {
		upTo = ends[maxEnded].at
		ends = ends[:maxEnded]
	}
	for _, e := range ends {
		keys = append(keys, e.key)
	}
	return keys, time.Unix(0, upTo), nil
}

// tick returns a time, in Unix nanoseconds, that is later than all it returned
// before. It counts from the store's creation on the monotonic clock, which is
// never set back.
func (s *Store) tick() int64 {
	now := s.since.Add(time.Since(s.since)).UnixNano()
	for {
		last := s.ticked.Load()
		t := max(now, last+1)
		if s.ticked.CompareAndSwap(last, t) {
			return t
		}
	}
}
