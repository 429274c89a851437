package bff

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// What this file promises: where the store is a Watcher, what any process
// replaces or ends is heard of here soon, and whoever relies on that knows up
// to which moment nothing was missed. Where it is none, and while its reports
// may be lost, that moment stands still: a report is a hint, never the only
// way to learn of a change.

// changes hands on what a Watcher reports.
type changes struct {
	epoch time.Time // before anything happened
	once  sync.Once

	// What was changed from the one time to the other was reported, by clock.
	// synced is 0 while nothing is known.
	from, synced atomic.Int64

	mu      sync.Mutex
	waiting map[string]map[*waiter]struct{} // by record key
}

// clock is monotonic time in nanoseconds, never 0: it doesn't jump, and costs
// no allocation to be kept.
func (c *changes) clock() int64 { return c.clockAt(time.Now()) }

func (c *changes) clockAt(t time.Time) int64 { return int64(t.Sub(c.epoch)) }

// A waiter is woken by changes of one record.
type waiter struct {
	key  string
	wake chan struct{} // holds one
}

// watch begins to listen to the store, if it can be listened to, and goes on
// until Close. It begins when somebody first needs it.
func (b *BFF) watch() {
	if b.caps.watch == nil {
		return
	}
	b.changes.once.Do(func() { b.forever(b.listen) })
}

// listen watches the store, again and again.
func (b *BFF) listen(ctx context.Context) {
	every := b.cfg.CacheMaxStale / 4
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		began := time.Now()
		err := b.caps.watch.Watch(ctx, every, b.changed, b.inSync)
		if ctx.Err() != nil {
			return
		}
		b.changes.synced.Store(0)
		b.log.LogAttrs(ctx, slog.LevelWarn, "the store's reports of changes were interrupted", slog.Any("err", err))
		b.changes.wakeAll() // something may have been missed
		if time.Since(began) > time.Minute {
			pause = 100 * time.Millisecond
		}
		if !sleep(ctx, pause) {
			return
		}
	}
}

// changed is called with the key of a record that was replaced or ended.
func (b *BFF) changed(key string) {
	if b.cache != nil {
		b.cache.drop(key)
	}
	b.changes.wakeKey(key)
	b.streams.touched(key)
}

// inSync is called with a time up to which every change was reported.
func (b *BFF) inSync(upTo time.Time) {
	c := &b.changes
	t := c.clockAt(upTo)
	switch was := c.synced.Load(); {
	case was == 0: // the first proof that this watch has begun
		c.from.Store(t)
		c.synced.Store(t)
		if b.caps.endLog == nil { // nobody else tells of what was missed
			b.streams.touchedAll()
		}
	case t > was:
		c.synced.Store(t)
	}
}

// cover reports whether all changes from the one time up to the other, or a
// later one, have been reported.
func (c *changes) cover(from, upTo int64) bool {
	synced := c.synced.Load() // read first: it is written last
	return synced >= upTo && c.from.Load() <= from
}

// listening reports whether the store's reports are known to arrive.
func (b *BFF) listening() bool {
	return b.changes.clock()-b.changes.synced.Load() < int64(2*b.cfg.CacheMaxStale)
}

// await registers for changes of the record under key. Whoever is woken looks
// for himself; what changes after await has returned wakes. Call leave when
// done.
func (c *changes) await(key string) *waiter {
	w := &waiter{key, make(chan struct{}, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == nil {
		c.waiting = make(map[string]map[*waiter]struct{})
	}
	if c.waiting[key] == nil {
		c.waiting[key] = make(map[*waiter]struct{})
	}
	c.waiting[key][w] = struct{}{}
	return w
}

func (c *changes) leave(w *waiter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting[w.key], w)
	if len(c.waiting[w.key]) == 0 {
		delete(c.waiting, w.key)
	}
}

func (c *changes) wakeKey(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := range c.waiting[key] {
		w.signal()
	}
}

func (c *changes) wakeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ws := range c.waiting {
		for w := range ws {
			w.signal()
		}
	}
}

// wait waits until the record changes, or for d, and reports whether ctx lasted
// as long.
func (w *waiter) wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-w.wake:
		return ctx.Err() == nil
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (w *waiter) signal() {
	select {
	case w.wake <- struct{}{}:
	default: // it is awake
	}
}
