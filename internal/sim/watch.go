package sim

import (
	"context"
	"time"

	"github.com/agglestone/bff"
)

// A watchedHandle is the store as one replica reaches it, where the store
// reports what is changed in it.
type watchedHandle struct{ handle }

var _ bff.Watcher = watchedHandle{}

// A watcher is one replica that listens. It is guarded by the world's lock.
type watcher struct {
	keys   []string // changed, and not reported yet
	news   chan struct{}
	broken bool
}

// report tells all who listen that the record under key was changed. The world
// is locked.
func (w *world) report(key string) {
	for x := range w.watchers {
		x.keys = append(x.keys, key)
		select {
		case x.news <- struct{}{}:
		default:
		}
	}
}

// Watch reports changes soon after they were made, and breaks off when the
// store is out of reach.
func (h watchedHandle) Watch(ctx context.Context, every time.Duration, changed func(key string), synced func(upTo time.Time)) error {
	r, w := h.r, h.r.w
	in := r.lane(-1, opWatch)
	x := &watcher{news: make(chan struct{}, 1)}
	w.lock(func() { w.watchers[x] = struct{}{} })
	defer w.lock(func() { delete(w.watchers, x) })
	for {
		timer := time.NewTimer(w.aim(every/2, in))
		select {
		case <-timer.C:
		case <-x.news:
		case <-ctx.Done():
		case <-r.dead:
		}
		timer.Stop()
		time.Sleep(w.aim(0, in))
		l := w.luck(r.id, int(opWatch))
		r.travel(ctx, time.Duration(l.n(int(every/4))), in)
		if !r.pass(&l, in) {
			return errDead
		}
		if ctx.Err() != nil {
			return nil
		}
		var keys []string
		var upTo time.Time
		broken := false
		w.lock(func() {
			keys, x.keys, upTo = x.keys, nil, time.Now()
			out := w.outage
			broken = x.broken || w.now() < out.until && (out.who == nil || out.who == r) ||
				w.storming && w.kinds[storeFaults] && l.chance(w.trouble/4)
		})
		if broken {
			w.event(r, -1, "hears no more of changes")
			return errStore
		}
		for _, key := range keys {
			changed(key)
		}
		synced(upTo)
	}
}
