package storetest

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"time"
)

// A model is the simplest store there is, with a bug if it has a name for one.
type model struct {
	bug   string
	since time.Time
	gone  chan struct{} // closed when nothing of it may go on

	mu      sync.Mutex
	records map[string]*entry
	tags    map[string]map[string]*filed
	watches []*watch
}

type entry struct {
	value        []byte
	version      uint64
	expires, end time.Time
	ended        bool
	at           time.Time // when it ended
}

func newModel(bug string) *model {
	return &model{
		bug:     bug,
		since:   time.Now(),
		gone:    make(chan struct{}),
		records: make(map[string]*entry),
		tags:    make(map[string]map[string]*filed),
	}
}

func (m *model) is(bug string) bool { return m.bug == bug }

// between makes one atomic step two, if the store has that bug: in a bubble,
// everybody else takes their first step before anybody takes the second.
func (m *model) between(bug string) {
	if m.is(bug) {
		m.mu.Unlock()
		time.Sleep(time.Microsecond)
		m.mu.Lock()
	}
}

func (m *model) begin(ctx context.Context, key string) (string, error) {
	if err := m.refuse(ctx); err != nil {
		return "", err
	}
	switch {
	case m.is("keys fold case"):
		key = strings.ToLower(key)
	case m.is("keys are cut at 63 bytes"):
		key = key[:min(63, len(key))]
	case m.is("keys are at most 44 bytes") && len(key) > 44:
		return "", errors.New("key too long")
	case m.is("keys end at a colon"):
		key, _, _ = strings.Cut(key, ":")
	case m.is("keys must not have wildcards") && strings.ContainsAny(key, "*%"):
		return "", errors.New("bad key")
	}
	return key, nil
}

func (m *model) refuse(ctx context.Context) error {
	if m.is("cancelled contexts are ignored") || m.is("cancelled calls take effect") {
		return nil
	}
	return ctx.Err()
}

func (m *model) done(ctx context.Context) error {
	if m.is("cancelled calls take effect") {
		return ctx.Err()
	}
	return nil
}

func (m *model) copy(b []byte) []byte {
	switch {
	case m.is("values are cut at 65535 bytes"):
		b = b[:min(len(b), 65535)]
	case m.is("empty values are lost") && len(b) == 0:
		b = []byte("null")
	case m.is("values are text"):
		b = bytes.ToValidUTF8(b, []byte("?"))
	}
	return bytes.Clone(b)
}

// get returns what is under key, unless it expired.
func (m *model) get(key string) *entry {
	e := m.records[key]
	if e == nil || !time.Now().Before(e.expires) {
		return nil
	}
	return e
}

func (m *model) Load(ctx context.Context, key string) (value []byte, version uint64, expires time.Time, ok bool, err error) {
	if key, err = m.begin(ctx, key); err != nil {
		return nil, 0, time.Time{}, false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.get(key)
	switch {
	case m.is("Load slides") && e != nil:
		e.expires = e.expires.Add(time.Second)
	case m.is("Load returns the expired") && m.records[key] != nil && !m.records[key].ended:
		e = m.records[key]
	case m.is("Load returns expired marks") && m.records[key] != nil && m.records[key].ended:
		e = m.records[key]
	case m.is("Load is 3 ms late") && e == nil && m.records[key] != nil && time.Since(m.records[key].expires) < 3*time.Millisecond:
		e = m.records[key]
	case m.is("absence is an error") && e == nil:
		return nil, 0, time.Time{}, false, errors.New("not found")
	case m.is("absence is empty") && e == nil:
		return []byte{}, 0, time.Time{}, false, nil
	case m.is("marks are live") && e != nil:
		return e.value, e.version, e.expires, true, nil
	case m.is("marks aren't shown") && e != nil && e.ended:
		e = nil
	}
	if e == nil {
		return nil, 0, time.Time{}, false, m.done(ctx)
	}
	if e.ended {
		return e.value, 0, time.Time{}, false, m.done(ctx)
	}
	value = e.value
	m.between("Load takes two steps")
	return value, e.version, e.expires, true, m.done(ctx)
}

func (m *model) Create(ctx context.Context, key string, value []byte, expires, end time.Time) (ok bool, err error) {
	if key, err = m.begin(ctx, key); err != nil {
		return false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.get(key)
	switch {
	case m.is("Create overwrites") && e != nil && !e.ended,
		m.is("Create overwrites marks") && e != nil && e.ended:
		e = nil
	case m.is("Create refuses the expired") && m.records[key] != nil && !m.records[key].ended,
		m.is("Create refuses expired marks") && m.records[key] != nil && m.records[key].ended:
		e = m.records[key]
	}
	m.between("Create takes two steps")
	if m.records[key] != nil && e == nil {
		m.between("Create clears away what expired, then files")
	}
	if e != nil {
		if m.is("a taken key is an error") {
			return false, errors.New("duplicate key")
		}
		if m.is("a refused Create slides") {
			e.expires = expires
		}
		return false, nil
	}
	if m.is("the oldest make room") && len(m.records) >= 1000 {
		for old := range m.records {
			delete(m.records, old)
			break
		}
	}
	old := m.records[key]
	e = &entry{value: m.copy(value), version: 1, expires: expires, end: end}
	switch {
	case m.is("Create keeps the caller's slice"):
		e.value = value
	case m.is("Create rounds to seconds"):
		e.expires = expires.Truncate(time.Second)
	case m.is("versions begin at 0"):
		e.version = 0
	case m.is("Create keeps the old end") && old != nil:
		e.end = old.end
	case m.is("Create keeps an old mark") && old != nil:
		e.ended = old.ended
	}
	m.records[key] = e
	return true, m.done(ctx)
}

func (m *model) Replace(ctx context.Context, key string, version uint64, value []byte) (next uint64, ok bool, err error) {
	if key, err = m.begin(ctx, key); err != nil {
		return 0, false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.get(key)
	switch {
	case m.is("Replace creates") && e == nil:
		m.records[key] = &entry{value: m.copy(value), version: 1, expires: time.Now().Add(time.Hour), end: time.Now().Add(time.Hour)}
		return 1, true, nil
	case m.is("Replace ignores expiry"):
		e = m.records[key]
	}
	m.between("Replace forgets what happened meanwhile")
	if e == nil || e.ended && !m.is("Replace revives the ended") && !m.is("Replace forgets what happened meanwhile") {
		return 0, false, nil
	}
	if e.version != version && !m.is("Replace ignores the version") {
		return 0, false, nil
	}
	if m.is("Replace of the same bytes is no change") && bytes.Equal(e.value, value) {
		return e.version, true, nil
	}
	m.between("Replace takes two steps")
	m.early(key)
	e.ended = e.ended && m.is("Replace takes two steps")
	e.version++
	switch {
	case m.is("Replace keeps the caller's slice"):
		e.value = value
	case m.is("Replace writes in place") && len(value) == len(e.value):
		copy(e.value, value)
	case m.is("Replace writes nothing"):
	default:
		e.value = m.copy(value)
	}
	if !m.is("Watch misses Replace") {
		m.late(key)
	}
	if m.is("Ended lists what was replaced") {
		e.at = time.Now()
	}
	switch {
	case m.is("Replace resets the expiry"):
		e.expires = e.end
	case m.is("Replace drops the end"):
		e.end = e.end.Add(time.Hour)
	case m.is("versions are used again"):
		e.version = 3 - version // 1, 2, 1, ...
	case m.is("Replace returns the old version"):
		return version, true, m.done(ctx)
	case m.is("Replace returns a wrong version"):
		return e.version + 1, true, m.done(ctx)
	}
	return e.version, true, m.done(ctx)
}

func (m *model) Touch(ctx context.Context, key string, expires time.Time) (ok bool, err error) {
	if key, err = m.begin(ctx, key); err != nil {
		return false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.get(key)
	switch {
	case m.is("Touch creates") && e == nil:
		m.records[key] = &entry{version: 1, expires: expires, end: expires}
		return true, nil
	case m.is("Touch of the absent is ok") && m.records[key] == nil:
		return true, nil
	case m.is("Touch ignores expiry"):
		e = m.records[key]
	}
	if e == nil {
		return false, nil
	}
	if e.ended && !m.is("Touch revives the ended") {
		if m.is("Touch keeps marks") {
			e.expires = expires
		}
		return false, nil
	}
	e.ended = false
	if expires.After(e.end) && !m.is("Touch passes the end") {
		if m.is("Touch past the end is refused") {
			return false, nil
		}
		expires = e.end
	}
	m.between("Touch looks, then writes")
	if !expires.After(e.expires) && !m.is("Touch looks, then writes") {
		if m.is("Touch refuses to go back") {
			return false, nil
		}
		if !m.is("Touch goes back") {
			return true, nil
		}
	}
	switch {
	case m.is("Touch makes a version"):
		e.version++
	case m.is("Touch does nothing"):
		return true, nil
	case m.is("Touch writes back what it read"):
		was := *e
		m.between(m.bug)
		*e = was
	}
	e.expires = expires
	return true, m.done(ctx)
}

func (m *model) End(ctx context.Context, key string, version uint64, mark []byte, until time.Time) (ok bool, err error) {
	if key, err = m.begin(ctx, key); err != nil {
		return false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.get(key)
	switch {
	case m.is("End marks the absent") && m.records[key] == nil:
		m.records[key] = &entry{value: mark, expires: until, ended: true}
		return false, nil
	case m.is("End ignores expiry"):
		e = m.records[key]
	}
	if m.is("Ended lists refused ends") && e != nil {
		e.at = time.Now()
	}
	if e == nil || e.ended && !m.is("End ends again") {
		return false, nil
	}
	if e.version != version && (version != 0 || m.is("End always wants the version")) && !m.is("End ignores the version") {
		return false, nil
	}
	if m.is("End removes, then marks") {
		delete(m.records, key)
		m.between(m.bug)
		m.records[key] = e
	}
	m.between("End takes two steps")
	m.early(key)
	at := time.Now()
	if m.is("Ended goes by when End began") {
		m.mu.Unlock()
		time.Sleep(time.Millisecond)
		m.mu.Lock()
	}
	value := bytes.Clone(mark)
	switch {
	case m.is("End keeps the caller's slice"):
		value = mark
	case m.is("End keeps the rest of the value") && len(e.value) > len(mark):
		value = append(value, e.value[len(mark):]...)
	}
	*e = entry{value: value, version: e.version, expires: until, ended: true, at: at}
	if m.is("Ended misses commands") && version == 0 {
		e.at = time.Time{}
	}
	if !m.is("Watch misses End") && (version == 0 || !m.is("Watch misses conclusions")) {
		m.late(key)
	}
	if m.is("marks go with the expiry") {
		e.expires = time.Now().Add(time.Minute)
	}
	if m.is("marks stay a day") {
		e.expires = time.Now().Add(24 * time.Hour)
	}
	if m.is("End comes late") {
		*e = entry{value: []byte("one"), version: e.version, expires: until}
		time.AfterFunc(time.Microsecond, func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			e.value, e.ended = value, true
		})
	}
	return true, m.done(ctx)
}
