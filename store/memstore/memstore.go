// Package memstore keeps session records in this process's memory. It is what
// a BFF uses when its configuration names no store.
//
// Sessions live and die with the process: a restart signs everybody out, and a
// second replica knows none of them. Once there are two replicas, or a
// deployment should not end sessions, use a store that they share.
//
// # Bounds
//
// A record takes its value and key, each rounded up by Go's allocator, and
// less than 200 bytes more; an entry under a tag its note, tag and key, and
// less than 300 more. The number of each is bounded, sessions, marks and
// entries by themselves, so that a flood of login attempts costs no session
// its place. A full store refuses what is new with [ErrFull]. It never drops
// what is live.
//
// # Expiry
//
// There is no sweep and no goroutine. What expired is absent from that moment
// on, and its memory is reclaimed by the writes that follow: each removes a
// few records that are due from its part of the store, and one that finds the
// store full looks for a due one in every part.
//
// # Capabilities
//
// A Store can do all that bff knows of beyond its Store: it finds records by
// tags, reports changes and what ended lately, and knows since when it has
// forgotten nothing.
package memstore

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The contract's limits. What exceeds them is refused, since the bound on the
// memory rests on them.
const (
	maxKey   = 64
	maxValue = 1 << 20
	maxMark  = 64
	maxNote  = 256
)

// ErrFull is what Create and Tag return, wrapped, when there is no room for
// another record of its kind. The text says which bound was reached.
var ErrFull = errors.New("memstore: full")

// Options bound a Store. The zero Options are good for a process with 4 GB.
type Options struct {
	// MaxSessions is how many sessions fit, the marks of ended ones included
	// until they expire: records whose key begins with "s". Zero or less means
	// 1,000,000. A session's value is seldom more than 4 KB.
	MaxSessions int

	// MaxMarks is how many records of all other kinds fit together, such as
	// the marks of spent login attempts. Zero or less means 100,000.
	MaxMarks int

	// MaxTags is how many entries fit under all tags together. A session has
	// two, which may outlast it: they stay as long as it could have lasted,
	// unless they are taken out. Zero or less means four for each of
	// MaxSessions.
	MaxTags int
}

// A Store keeps records in memory. It is safe for concurrent use and needs no
// closing.
type Store struct {
	seed     maphash.Seed
	since    time.Time
	watchers atomic.Pointer[[]*watcher] // nil, or never written to
	watching sync.Mutex                 // held to replace watchers
	shards   [64]shard
	index    [16]shard    // of the entries under tags, all of one tag in one
	bounds   [kinds]bound // behind the shards: it changes, and the seed is read all the time
	ticked   atomic.Int64
}

// The kinds of records that are bounded by themselves.
const (
	sessions = iota
	marks
	tags // whose records are entries, in the index
	kinds
)

// A bound counts the records of one kind. Slots are taken before a record is
// filed, so that used never exceeds max.
type bound struct {
	max  int64
	used atomic.Int64
}

// A shard is a part of the store with a lock of its own.
type shard struct {
	mu      sync.RWMutex
	records map[string]*record
	expiry  [kinds]expiry
	version uint64           // the last one given; so the next record under a key begins with another
	ended   list             // the marks of sessions, the latest last
	tags    map[string]*list // in the index, the entries under each tag
	_       [56]byte         // up to 192: no cache line holds parts of two shards
}

// A record's times are Unix nanoseconds on the wall clock: a machine that was
// suspended must not have stopped its sessions' time.
type record struct {
	key        string // of an entry: the tag, a space, the key
	value      []byte // never written to, since Load hands it out
	version    uint64
	expires    int64
	end        int64   // of a mark: when it was left, on the clock of [Store.tick]
	prev, next *record // in a list, if it is a session's mark or an entry
	place      int32   // in its expiry heap
	kind       uint8
	ended      bool // and value is the mark
}

// New returns an empty Store.
func New(opts Options) *Store {
	s := &Store{seed: maphash.MakeSeed(), since: time.Now()}
	for i := range s.shards {
		s.shards[i].records = make(map[string]*record)
	}
	for i := range s.index {
		s.index[i].records = make(map[string]*record)
		s.index[i].tags = make(map[string]*list)
	}
	s.bounds[sessions].max = 1_000_000
	if opts.MaxSessions > 0 {
		s.bounds[sessions].max = int64(opts.MaxSessions)
	}
	s.bounds[marks].max = 100_000
	if opts.MaxMarks > 0 {
		s.bounds[marks].max = int64(opts.MaxMarks)
	}
	s.bounds[tags].max = 4 * min(s.bounds[sessions].max, math.MaxInt64/4)
	if opts.MaxTags > 0 {
		s.bounds[tags].max = int64(opts.MaxTags)
	}
	return s
}

// Since returns the time since when s has forgotten nothing: that of its
// creation. A session from before it may have been lost with another process.
func (s *Store) Since(context.Context) (time.Time, error) { return s.since, nil }

// Len returns the number of records that take up room: live ones, marks, and
// expired ones that no write has come across yet. Entries under tags are not
// among them.
func (s *Store) Len() int {
	return int(s.bounds[sessions].used.Load() + s.bounds[marks].used.Load())
}

// Load returns the live record under key, or ok false with the mark of one
// that was ended, or ok false and nil. The value is the store's own and must
// not be modified; it stays as it is when the record changes.
func (s *Store) Load(ctx context.Context, key string) (value []byte, version uint64, expires time.Time, ok bool, err error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, time.Time{}, false, err
	}
	now := time.Now().UnixNano()
	sh := s.shard(key)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	r := sh.records[key]
	switch {
	case r == nil || r.expires <= now:
		return nil, 0, time.Time{}, false, nil
	case r.ended:
		return r.value, 0, time.Time{}, false, nil
	}
	return r.value, r.version, time.Unix(0, r.expires), true, nil
}

// Create files a copy of value under key, to keep until expires and, with
// Touch, until end at most. If the key holds a live record or a mark, ok is
// false. If there is no room, the error wraps [ErrFull].
func (s *Store) Create(ctx context.Context, key string, value []byte, expires, end time.Time) (ok bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if len(key) == 0 || len(key) > maxKey {
		return false, fmt.Errorf("memstore: a key of %d bytes; 1 to %d are allowed", len(key), maxKey)
	}
	if len(value) > maxValue {
		return false, fmt.Errorf("memstore: a value of %d bytes; %d are allowed", len(value), maxValue)
	}
	now := time.Now().UnixNano()
	r := &record{
		key:   strings.Clone(key), // which may be a piece of something large
		value: clone(value),
		end:   nanos(end),
		kind:  kindOf(key),
	}
	r.expires = min(nanos(expires), r.end)
	ok, full := s.file(r, now, false)
	if full {
		if !s.reclaim(r.kind, now) {
			return false, s.errFull(r.kind)
		}
		ok, _ = s.file(r, now, true)
	}
	return ok, nil
}

// Replace overwrites the value of the live record under key with a copy of
// value if the record still has that version, and returns the new version,
// which is greater.
func (s *Store) Replace(ctx context.Context, key string, version uint64, value []byte) (next uint64, ok bool, err error) {
	if err := ctx.Err(); err != nil {
		return 0, false, err
	}
	if len(value) > maxValue {
		return 0, false, fmt.Errorf("memstore: a value of %d bytes; %d are allowed", len(value), maxValue)
	}
	value = clone(value)
	now := time.Now().UnixNano()
	sh := s.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s.sweep(sh, now)
	r := sh.live(key, now)
	if r == nil || r.version != version {
		return 0, false, nil
	}
	sh.version++
	r.value, r.version = value, sh.version
	s.changed(r)
	return r.version, true, nil
}

// Touch moves the expiry of the live record under key forward to expires, or
// to its end if that is earlier. ok is false if there is no live record.
func (s *Store) Touch(ctx context.Context, key string, expires time.Time) (ok bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	now := time.Now().UnixNano()
	sh := s.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s.sweep(sh, now)
	r := sh.live(key, now)
	if r == nil {
		return false, nil
	}
	if to := min(nanos(expires), r.end); to > r.expires {
		sh.reschedule(r, to)
	}
	return true, nil
}

// End replaces the live record under key by a copy of mark, to keep until the
// given time, if the record has that version or the version is 0. Nothing of
// its value is kept. The mark takes the record's place in the bound.
func (s *Store) End(ctx context.Context, key string, version uint64, mark []byte, until time.Time) (ok bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if len(mark) == 0 || len(mark) > maxMark {
		return false, fmt.Errorf("memstore: a mark of %d bytes; 1 to %d are allowed", len(mark), maxMark)
	}
	now := time.Now().UnixNano()
	sh := s.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s.sweep(sh, now)
	r := sh.live(key, now)
	if r == nil || version != 0 && r.version != version {
		return false, nil
	}
	r.value, r.ended = clone(mark), true
	sh.reschedule(r, nanos(until))
	if r.kind == sessions {
		r.end = s.tick()
		sh.ended.push(r)
	}
	s.changed(r)
	return true, nil
}

func (s *Store) shard(key string) *shard {
	return &s.shards[maphash.String(s.seed, key)%uint64(len(s.shards))]
}

// live returns the live record under key, or nil.
func (sh *shard) live(key string, now int64) *record {
	r := sh.records[key]
	if r == nil || r.ended || r.expires <= now {
		return nil
	}
	return r
}

// file adds r to its shard. It doesn't if the key is taken, or if no slot was
// set aside for r and all are in use: then full is true.
func (s *Store) file(r *record, now int64, slot bool) (ok, full bool) {
	sh := s.shard(r.key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s.sweep(sh, now)
	b := &s.bounds[r.kind]
	if old := sh.records[r.key]; old != nil {
		if now < old.expires {
			if slot {
				b.used.Add(-1)
			}
			return false, false
		}
		sh.remove(old)
		b.used.Add(-1)
	}
	if !slot && !b.take() {
		return false, true
	}
	sh.version++
	r.version = sh.version
	sh.records[r.key] = r
	heap.Push(&sh.expiry[r.kind], r)
	return true, false
}

// sweep removes up to two expired records of each kind from sh. That is more
// than a write can add, so what has expired doesn't pile up, and few enough
// for readers to wait for.
func (s *Store) sweep(sh *shard, now int64) {
	for kind := range sh.expiry {
		for range 2 {
			r := sh.expiry[kind].due(now)
			if r == nil {
				break
			}
			sh.remove(r)
			s.bounds[kind].used.Add(-1)
		}
	}
}

// reclaim removes one expired record of that kind, wherever it is, and leaves
// its slot to the caller. Its cost doesn't grow with the number of records.
func (s *Store) reclaim(kind uint8, now int64) bool {
	shards := s.shards[:]
	if kind == tags {
		shards = s.index[:]
	}
	for i := range shards {
		if shards[i].reclaim(kind, now) {
			return true
		}
	}
	return false
}

func (sh *shard) reclaim(kind uint8, now int64) bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	r := sh.expiry[kind].due(now)
	if r == nil {
		return false
	}
	sh.remove(r)
	return true
}

func (sh *shard) remove(r *record) {
	delete(sh.records, r.key)
	heap.Remove(&sh.expiry[r.kind], int(r.place))
	switch {
	case r.kind == tags:
		sh.unlist(r)
	case r.kind == sessions && r.ended:
		sh.ended.remove(r)
	}
}

func (sh *shard) reschedule(r *record, expires int64) {
	r.expires = expires
	heap.Fix(&sh.expiry[r.kind], int(r.place))
}

// take takes a slot, unless all are in use.
func (b *bound) take() bool {
	for {
		used := b.used.Load()
		if used >= b.max {
			return false
		}
		if b.used.CompareAndSwap(used, used+1) {
			return true
		}
	}
}

func (s *Store) errFull(kind uint8) error {
	what := [kinds]string{
		sessions: "sessions, and Options.MaxSessions",
		marks:    "marks, and Options.MaxMarks",
		tags:     "entries under tags, and Options.MaxTags",
	}
	return fmt.Errorf("%w: %d %s allows no more", ErrFull, s.bounds[kind].max, what[kind])
}

// expiry is a heap of records, the one that expires first on top. Touch keeps
// it exact, at some microseconds each time, so that the top alone tells
// whether anything is due.
type expiry []*record

// due returns the record that expired first, or nil if none has.
func (e expiry) due(now int64) *record {
	if len(e) == 0 || e[0].expires > now {
		return nil
	}
	return e[0]
}

func (e expiry) Len() int           { return len(e) }
func (e expiry) Less(i, j int) bool { return e[i].expires < e[j].expires }

func (e expiry) Swap(i, j int) {
	e[i], e[j] = e[j], e[i]
	e[i].place, e[j].place = int32(i), int32(j)
}

func (e *expiry) Push(x any) {
	r := x.(*record)
	r.place = int32(len(*e))
	*e = append(*e, r)
}

func (e *expiry) Pop() any {
	last := len(*e) - 1
	r := (*e)[last]
	(*e)[last] = nil
	*e = (*e)[:last]
	return r
}

// A list is of records in the order in which they joined.
type list struct{ first, last *record }

func (l *list) push(r *record) {
	r.prev = l.last
	if l.last == nil {
		l.first = r
	} else {
		l.last.next = r
	}
	l.last = r
}

func (l *list) remove(r *record) {
	if r.prev == nil {
		l.first = r.next
	} else {
		r.prev.next = r.next
	}
	if r.next == nil {
		l.last = r.prev
	} else {
		r.next.prev = r.prev
	}
	r.prev, r.next = nil, nil
}

func kindOf(key string) uint8 {
	if key[0] == 's' {
		return sessions
	}
	return marks
}

// clone copies b, with no capacity to spare: a reader's append must not write
// into the record, and bytes.Clone would keep what it rounds up.
func clone(b []byte) []byte {
	c := make([]byte, len(b))
	copy(c, b)
	return c
}

var (
	earliest = time.Unix(0, math.MinInt64)
	latest   = time.Unix(0, math.MaxInt64)
)

// nanos returns t in Unix nanoseconds, or the nearest that there is.
func nanos(t time.Time) int64 {
	switch {
	case t.Before(earliest):
		return math.MinInt64
	case t.After(latest):
		return math.MaxInt64
	}
	return t.UnixNano()
}
