package bff

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

// What this file promises: an entry is used only while it is certain that the
// record was the same at a moment no longer ago than Config.CacheMaxStale.
// That moment is when its load began, or the last one up to which the store is
// known to have reported every change.

const cacheShards = 32

// A sessionCache keeps decoded sessions by record key, a bounded number of
// them. It is the only cache there is.
type sessionCache struct {
	seed   maphash.Seed
	shards []cacheShard
}

type cacheShard struct {
	mu      sync.RWMutex
	entries map[string]*cached
	ring    []*cached // all entries, for the hand to choose from
	hand    int
	max     int

	// drops counts the drops of keys in this shard: a load during which it
	// moved may have read what was dropped, and is not kept.
	drops uint64
}

// cached is a session as it was read from the store.
type cached struct {
	key    string
	rec    *loaded
	loaded int64        // when the load began, by clock
	idle   atomic.Int64 // when the session idles out, in Unix nanoseconds
	used   atomic.Bool  // since the hand came by
	place  int          // in ring
}

func newSessionCache(size int) *sessionCache {
	c := &sessionCache{seed: maphash.MakeSeed(), shards: make([]cacheShard, min(size, cacheShards))}
	for i := range c.shards {
		c.shards[i].entries = make(map[string]*cached)
		c.shards[i].max = size / len(c.shards)
	}
	return c
}

func (c *sessionCache) shard(key string) *cacheShard {
	return &c.shards[maphash.String(c.seed, key)%uint64(len(c.shards))]
}

// get returns the session under key and when it idles out, if the entry is true
// of some moment at or after since, by what heard says was reported.
func (c *sessionCache) get(key string, since int64, heard *changes) (*loaded, time.Time, bool) {
	sh := c.shard(key)
	sh.mu.RLock()
	e := sh.entries[key]
	sh.mu.RUnlock()
	if e == nil {
		return nil, time.Time{}, false
	}
	if e.loaded < since && !heard.cover(e.loaded, since) { // check:cache-stale
		return nil, time.Time{}, false
	}
	now := time.Now()
	idle := time.Unix(0, e.idle.Load())
	if !now.Before(idle) || !now.Before(e.rec.head.End) { // check:cache-expiry another replica may have extended it
		return nil, time.Time{}, false
	}
	if !e.used.Load() {
		e.used.Store(true)
	}
	return e.rec, idle, true
}

// drops returns what put wants to know of the moment before a load.
func (c *sessionCache) drops(key string) uint64 {
	sh := c.shard(key)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return sh.drops
}

// put keeps a session that was loaded, unless anything was dropped meanwhile.
func (c *sessionCache) put(key string, rec *loaded, idle time.Time, began int64, drops uint64) {
	sh := c.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.drops != drops { // check:cache-race
		return
	}
	e := &cached{key: key, rec: rec, loaded: began}
	e.idle.Store(idle.UnixNano())
	if old := sh.entries[key]; old != nil {
		if old.rec.version > rec.version || old.loaded > began {
			return
		}
		e.place = old.place
		sh.ring[e.place] = e
	} else if len(sh.ring) < sh.max {
		e.place = len(sh.ring)
		sh.ring = append(sh.ring, e)
	} else {
		e.place = sh.evict()
		sh.ring[e.place] = e
	}
	sh.entries[key] = e
}

// evict removes an entry that was not used for a while and returns its place.
func (sh *cacheShard) evict() int {
	for {
		sh.hand = (sh.hand + 1) % len(sh.ring)
		e := sh.ring[sh.hand]
		if !e.used.Swap(false) {
			delete(sh.entries, e.key)
			return e.place
		}
	}
}

// extend notes that the session under key idles out later.
func (c *sessionCache) extend(key string, idle time.Time) {
	sh := c.shard(key)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	if e := sh.entries[key]; e != nil && e.idle.Load() < idle.UnixNano() {
		e.idle.Store(idle.UnixNano())
	}
}

// drop forgets the session under key.
func (c *sessionCache) drop(key string) {
	sh := c.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.drops++
	e := sh.entries[key]
	if e == nil {
		return
	}
	delete(sh.entries, key)
	last := sh.ring[len(sh.ring)-1]
	last.place = e.place
	sh.ring[e.place] = last
	sh.ring[len(sh.ring)-1] = nil
	sh.ring = sh.ring[:len(sh.ring)-1]
}
