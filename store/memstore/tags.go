package memstore

import (
	"container/heap"
	"context"
	"fmt"
	"hash/maphash"
	"strings"
	"time"
)

// Tag files key under tag with a copy of note, until the given time, or gives
// the entry that is there that note and time. If there is no room, the error
// wraps [ErrFull].
func (s *Store) Tag(ctx context.Context, tag, key string, note []byte, until time.Time) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	switch {
	case len(tag) == 0 || len(tag) > maxKey || strings.Contains(tag, " "):
		return fmt.Errorf("memstore: a tag of %d bytes; 1 to %d are allowed, without spaces", len(tag), maxKey)
	case len(key) == 0 || len(key) > maxKey || strings.Contains(key, " "):
		return fmt.Errorf("memstore: a key of %d bytes; 1 to %d are allowed, without spaces", len(key), maxKey)
	case len(note) > maxNote:
		return fmt.Errorf("memstore: a note of %d bytes; %d are allowed", len(note), maxNote)
	}
	now := time.Now().UnixNano()
	e := &record{key: entryKey(tag, key), value: clone(note), expires: nanos(until), kind: tags}
	if s.enter(tag, e, now, false) {
		return nil
	}
	if !s.reclaim(tags, now) {
		return s.errFull(tags)
	}
	s.enter(tag, e, now, true)
	return nil
}

// Tagged returns the notes of the keys that are filed under tag. The notes are
// the store's own and must not be modified; the map is the caller's.
func (s *Store) Tagged(ctx context.Context, tag string) (notes map[string][]byte, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	now := time.Now().UnixNano()
	sh := s.indexShard(tag)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	l := sh.tags[tag]
	if l == nil {
		return nil, nil
	}
	notes = make(map[string][]byte)
	for e := l.first; e != nil; e = e.next {
		if now < e.expires {
			notes[e.key[len(tag)+1:]] = e.value
		}
	}
	return notes, nil
}

// Untag takes key out of tag, if it is there.
func (s *Store) Untag(ctx context.Context, tag, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	now := time.Now().UnixNano()
	sh := s.indexShard(tag)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s.sweep(sh, now)
	if e := sh.records[entryKey(tag, key)]; e != nil {
		sh.remove(e)
		s.bounds[tags].used.Add(-1)
	}
	return nil
}

// entryKey returns the key of an entry's record. It is no other entry's, since
// neither tag nor key has a space.
func entryKey(tag, key string) string { return tag + " " + key }

func (s *Store) indexShard(tag string) *shard {
	return &s.index[maphash.String(s.seed, tag)%uint64(len(s.index))]
}

// enter adds e to the index, or its note and time to the entry that is there.
// It doesn't, and returns false, if no slot was set aside for e and all are in
// use.
func (s *Store) enter(tag string, e *record, now int64, slot bool) bool {
	sh := s.indexShard(tag)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s.sweep(sh, now)
	b := &s.bounds[tags]
	if old := sh.records[e.key]; old != nil {
		if slot {
			b.used.Add(-1)
		}
		old.value = e.value
		sh.reschedule(old, e.expires)
		return true
	}
	if !slot && !b.take() {
		return false
	}
	sh.records[e.key] = e
	heap.Push(&sh.expiry[tags], e)
	l := sh.tags[tag]
	if l == nil {
		l = new(list)
		sh.tags[e.key[:len(tag)]] = l // for most tags it is the only entry's
	}
	l.push(e)
	return true
}

// unlist takes e off the list of its tag.
func (sh *shard) unlist(e *record) {
	tag, _, _ := strings.Cut(e.key, " ")
	l := sh.tags[tag]
	l.remove(e)
	if l.first == nil {
		delete(sh.tags, tag)
	}
}
