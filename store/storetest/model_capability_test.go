package storetest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"
)

// What a model can do beyond Store.

type filed struct {
	note    []byte
	until   time.Time
	visible time.Time
}

func (m *model) tagName(tag string) (string, error) {
	switch {
	case m.is("tags fold case"):
		tag = strings.ToLower(tag)
	case m.is("tags are cut at 63 bytes"):
		tag = tag[:min(63, len(tag))]
	case m.is("tags are at most 44 bytes") && len(tag) > 44:
		return "", errors.New("tag too long")
	case m.is("tags have no braces") && strings.ContainsAny(tag, "{}"):
		return "", errors.New("bad tag")
	}
	return tag, nil
}

func (m *model) Tag(ctx context.Context, tag, key string, note []byte, until time.Time) error {
	tag, err := m.tagName(tag)
	if err := cmp.Or(m.refuse(ctx), err); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.is("Tag wants a record") && m.get(key) == nil {
		return nil
	}
	if m.is("a tag is joined to its key by a colon") {
		tag, key, _ = strings.Cut(tag+":"+key, ":")
	}
	if m.is("keys fold case under a tag") {
		key = strings.ToLower(key)
	}
	entries := m.tags[tag]
	if m.is("Tag writes back what it read") {
		entries = maps.Clone(entries)
		m.between(m.bug)
	}
	if entries == nil {
		entries = make(map[string]*filed)
	}
	f := &filed{note: bytes.Clone(note), until: until}
	old := entries[key]
	switch {
	case m.is("Tag keeps the first note") && old != nil:
		f.note = old.note
	case m.is("Tag keeps the later time") && old != nil && old.until.After(until):
		f.until = old.until
	case m.is("Tag keeps the first time") && old != nil:
		f.until = old.until
	case m.is("Tag keeps the caller's slice"):
		f.note = note
	case m.is("notes are text"):
		f.note = bytes.ToValidUTF8(note, []byte("?"))
	case m.is("notes are cut at 255 bytes"):
		f.note = f.note[:min(255, len(f.note))]
	case m.is("Tag comes late"):
		f.visible = time.Now().Add(time.Microsecond)
	}
	entries[key] = f
	m.tags[tag] = entries
	if !m.is("a tag goes with its first entry") && !m.is("a tag goes with its last entry") && !m.is("entries last as long as their tag") {
		return m.done(ctx)
	}
	for _, other := range entries {
		switch earlier := other.until.Before(f.until); {
		case m.is("a tag goes with its first entry") && earlier:
			f.until = other.until
		case m.is("a tag goes with its last entry"), m.is("entries last as long as their tag") && earlier:
			other.until = f.until
		}
	}
	return m.done(ctx)
}

func (m *model) Tagged(ctx context.Context, tag string) (notes map[string][]byte, err error) {
	tag, err = m.tagName(tag)
	if err := cmp.Or(m.refuse(ctx), err); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.is("Tagged of nothing is an error") && m.tags[tag] == nil {
		return nil, errors.New("not found")
	}
	if m.is("a tag is joined to its key by a colon") {
		var rest string
		if tag, rest, _ = strings.Cut(tag, ":"); rest != "" {
			notes = make(map[string][]byte)
			for key, f := range m.tags[tag] {
				if key, ok := strings.CutPrefix(key, rest+":"); ok {
					notes[key] = f.note
				}
			}
			return notes, nil
		}
	}
	notes = make(map[string][]byte)
	for key, f := range m.tags[tag] {
		switch {
		case time.Now().Before(f.visible):
		case !time.Now().Before(f.until) && !m.is("Tagged lists the expired"):
		case m.is("Tagged hides what leads to nothing") && m.get(key) == nil:
		case m.is("empty notes are lost") && len(f.note) == 0:
		case m.is("Tagged lists a thousand") && len(notes) == 1000:
		default:
			notes[key] = f.note
		}
	}
	return notes, m.done(ctx)
}

func (m *model) Untag(ctx context.Context, tag, key string) error {
	tag, err := m.tagName(tag)
	if err := cmp.Or(m.refuse(ctx), err); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	entries := m.tags[tag]
	switch {
	case m.is("Untag of the absent is an error") && entries[key] == nil:
		return errors.New("not found")
	case m.is("Untag does nothing"):
		return nil
	case m.is("Untag takes the whole tag"):
		delete(m.tags, tag)
		return nil
	case m.is("Untag writes back what it read"):
		entries = maps.Clone(entries)
		m.between(m.bug)
		m.tags[tag] = entries
	}
	delete(entries, key)
	return m.done(ctx)
}

// A watch is one call of Watch.
type watch struct {
	wake chan struct{}
	keys []string
	at   []time.Time
}

// tell reports a change to all who watch.
func (m *model) tell(key string) {
	for _, w := range m.watches {
		for m.is("a slow watcher holds up others") && len(w.keys) > 10 {
			m.mu.Unlock()
			time.Sleep(time.Second)
			m.mu.Lock()
		}
		if m.is("a slow watcher is told a part") && len(w.keys) > 10 {
			continue
		}
		w.keys, w.at = append(w.keys, key), append(w.at, time.Now())
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// late reports a change after it was made. A model with that bug does so
// before, by early.
func (m *model) late(key string) {
	if !m.is("Watch reports what is about to happen") {
		m.tell(key)
	}
}

func (m *model) early(key string) {
	if m.is("Watch reports what is about to happen") {
		m.tell(key)
		m.between(m.bug)
	}
}

// take returns what w has not reported yet, and the time that goes with it.
func (m *model) take(w *watch, every time.Duration) (keys []string, upTo time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := len(w.keys)
	if m.is("synced is ahead of changed") {
		n, _ = slices.BinarySearchFunc(w.at, time.Now().Add(-every/2), time.Time.Compare)
	}
	keys, w.keys, w.at = w.keys[:n:n], w.keys[n:], w.at[n:]
	return keys, time.Now()
}

func (m *model) Watch(ctx context.Context, every time.Duration, changed func(key string), synced func(upTo time.Time)) error {
	w := &watch{wake: make(chan struct{}, 1)}
	m.mu.Lock()
	if m.is("one watcher replaces another") {
		m.watches = nil
	}
	m.watches = append(m.watches, w)
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.watches = slices.DeleteFunc(m.watches, func(other *watch) bool {
			return other == w || m.is("who stops to watch stops all")
		})
	}()
	if m.is("Watch leaves a goroutine") {
		go func() { <-m.gone }()
	}
	began, calls := time.Now(), 0
	for {
		keys, upTo := m.take(w, every)
		for _, key := range keys {
			if m.is("Watch calls from many goroutines") {
				go changed(key)
				continue
			}
			changed(key)
		}
		switch calls++; {
		case m.is("synced is called once") && calls > 1:
		case m.is("synced is called on changes only") && len(keys) == 0 && calls > 1:
		case m.is("synced is the time of the start"):
			synced(began)
		case m.is("synced is the time after the reports"):
			synced(time.Now())
		case m.is("synced is a promise"):
			synced(upTo.Add(every))
		default:
			synced(upTo)
		}
		select {
		case <-w.wake:
			continue
		case <-time.After(every):
			continue
		case <-ctx.Done():
		}
		switch {
		case m.is("Watch outlives its context"):
			<-m.gone
		case m.is("Watch returns its context's error"):
			return ctx.Err()
		case m.is("Watch calls back later"):
			time.AfterFunc(time.Microsecond, func() { synced(upTo) })
		}
		return nil
	}
}

func (m *model) Ended(ctx context.Context, since time.Time) (keys []string, next time.Time, err error) {
	if err := m.refuse(ctx); err != nil {
		return nil, time.Time{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	next = time.Now()
	if since.IsZero() && !m.is("Ended lists all from zero") {
		return nil, next, m.done(ctx)
	}
	for key, e := range m.records {
		recent := !e.at.Before(since)
		if m.is("Ended lists only what is later") {
			recent = e.at.After(since)
		}
		if !e.at.IsZero() && recent && (time.Now().Before(e.expires) || m.is("Ended lists what is no longer marked")) {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b string) int {
		if m.is("Ended is sorted by key") {
			return cmp.Compare(a, b)
		}
		return m.records[a].at.Compare(m.records[b].at)
	})
	switch {
	case m.is("Ended is told once"):
		for _, key := range keys {
			m.records[key].at = time.Time{}
		}
	case m.is("Ended skips what is too much"):
		keys = keys[:min(1000, len(keys))]
	case m.is("Ended does not move on"):
		next = since
	}
	return keys, next, m.done(ctx)
}

func (m *model) Since(context.Context) (time.Time, error) {
	switch {
	case m.is("Since is now"):
		return time.Now(), nil
	case m.is("Since is zero"):
		return time.Time{}, nil
	case m.is("Since is to come"):
		return m.since.Add(time.Hour), nil
	}
	return m.since, nil
}
