package storetest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A model is the simplest store there is, with a bug if it has a name for one.
type model struct {
	bug string

	mu      sync.Mutex
	records map[string]*entry
}

type entry struct {
	value        []byte
	version      uint64
	expires, end time.Time
	ended        bool
}

func newModel(bug string) *model { return &model{bug: bug, records: make(map[string]*entry)} }

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
	if ctx.Err() != nil && !m.is("cancelled contexts are ignored") && !m.is("cancelled calls take effect") {
		return "", ctx.Err()
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
	return e.value, e.version, e.expires, true, m.done(ctx)
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
	if !expires.After(e.expires) {
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
	value := bytes.Clone(mark)
	switch {
	case m.is("End keeps the caller's slice"):
		value = mark
	case m.is("End keeps the rest of the value") && len(e.value) > len(mark):
		value = append(value, e.value[len(mark):]...)
	}
	*e = entry{value: value, version: e.version, expires: until, ended: true}
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

// Every bug, with a rule that names it. The suite is as good as this list is
// long.
var bugs = []struct{ bug, rule string }{
	{"absence is an error", "load-absent"},
	{"absence is empty", "load-absent"},
	{"Load returns the expired", "expired-is-absent"},
	{"Load returns expired marks", "expired-is-absent"},
	{"Load is 3 ms late", "expired-is-absent"},
	{"Load slides", "create-then-load"},
	{"Create rounds to seconds", "create-then-load"},
	{"versions begin at 0", "create-then-load"},
	{"Create overwrites", "create-refuses-live"},
	{"a refused Create slides", "create-refuses-live"},
	{"a taken key is an error", "create-refuses-live"},
	{"Create overwrites marks", "create-refuses-mark"},
	{"Create refuses the expired", "create-after-expiry"},
	{"Create keeps the old end", "create-after-expiry"},
	{"Create refuses expired marks", "create-after-mark"},
	{"Create keeps an old mark", "create-after-mark"},
	{"Create takes two steps", "create-one-winner"},
	{"values are cut at 65535 bytes", "values-of-every-size"},
	{"empty values are lost", "values-of-every-size"},
	{"values are text", "values-are-bytes"},
	{"Create keeps the caller's slice", "values-are-copied"},
	{"Replace keeps the caller's slice", "values-are-copied"},
	{"End keeps the caller's slice", "values-are-copied"},
	{"Replace writes in place", "loaded-values-stay"},
	{"Replace writes nothing", "replace"},
	{"Replace returns the old version", "replace"},
	{"Replace returns a wrong version", "replace"},
	{"Replace ignores the version", "replace-wrong-version"},
	{"Replace creates", "replace-never-creates"},
	{"Replace revives the ended", "replace-not-after-end"},
	{"Replace ignores expiry", "replace-not-after-expiry"},
	{"Replace resets the expiry", "replace-keeps-expiry"},
	{"Replace drops the end", "replace-keeps-expiry"},
	{"Replace takes two steps", "replace-one-winner"},
	{"versions are used again", "versions-grow"},
	{"Replace of the same bytes is no change", "versions-grow"},
	{"Touch does nothing", "touch-forward"},
	{"Touch goes back", "touch-never-back"},
	{"Touch refuses to go back", "touch-never-back"},
	{"Touch passes the end", "touch-stops-at-end"},
	{"Touch past the end is refused", "touch-stops-at-end"},
	{"Touch creates", "touch-never-creates"},
	{"Touch of the absent is ok", "touch-never-creates"},
	{"Touch revives the ended", "touch-not-after-end"},
	{"Touch keeps marks", "touch-not-after-end"},
	{"Touch ignores expiry", "touch-not-after-expiry"},
	{"Touch makes a version", "touch-leaves-the-rest"},
	{"Touch writes back what it read", "touch-beside-replace"},
	{"End ignores the version", "end-by-version"},
	{"End always wants the version", "end-by-command"},
	{"marks are live", "end-by-command"},
	{"marks aren't shown", "end-by-command"},
	{"End marks the absent", "end-absent"},
	{"End ignores expiry", "end-not-after-expiry"},
	{"End ends again", "end-once"},
	{"End keeps the rest of the value", "end-keeps-nothing"},
	{"marks go with the expiry", "mark-outlives-expiry"},
	{"marks stay a day", "mark-expires-first"},
	{"End takes two steps", "end-one-winner"},
	{"End removes, then marks", "dead-stays-dead"},
	{"End comes late", "dead-stays-dead"},
	{"Replace forgets what happened meanwhile", "dead-stays-dead"},
	{"cancelled contexts are ignored", "cancelled-context"},
	{"cancelled calls take effect", "cancelled-context"},
	{"keys are at most 44 bytes", "keys-of-every-kind"},
	{"keys must not have wildcards", "keys-of-every-kind"},
	{"keys fold case", "keys-apart"},
	{"keys are cut at 63 bytes", "keys-apart"},
	{"keys end at a colon", "keys-apart"},
	{"the oldest make room", "many-keys"},
}

// runModel returns the rules that a store with that bug breaks.
func runModel(t *testing.T, bug string) (failures []failure) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		failures = run(t.Context(), rules, func() Store { return newModel(bug) }, Options{Synctest: true, Keys: 2000})
	})
	return failures
}

// A right store passes.
func TestModel(t *testing.T) {
	Run(t, func(t *testing.T) Store { return newModel("") }, Options{Synctest: true, Keys: 2000})
}

// A wrong one fails, and for the right reason.
func TestBugs(t *testing.T) {
	for _, b := range bugs {
		t.Run(strings.ReplaceAll(b.bug, " ", "-"), func(t *testing.T) {
			var names []string
			for _, f := range runModel(t, b.bug) {
				names = append(names, f.rule.name)
			}
			if !slices.Contains(names, b.rule) {
				t.Errorf("a store where %q breaks the rules %q, want %s among them", b.bug, names, b.rule)
			}
		})
	}
}

// No rule is there that nothing can break.
func TestEveryRuleFindsABug(t *testing.T) {
	for _, r := range rules {
		if !slices.ContainsFunc(bugs, func(b struct{ bug, rule string }) bool { return b.rule == r.name }) {
			t.Errorf("no bug is found by the rule %s", r.name)
		}
	}
	for i, r := range rules {
		if r.why == "" || strings.ContainsAny(r.name, " /_") {
			t.Errorf("rule %q has no reason, or no name for a subtest", r.name)
		}
		if slices.ContainsFunc(rules[:i], func(other rule) bool { return other.name == r.name }) {
			t.Errorf("two rules are called %s", r.name)
		}
	}
}

// A failure tells what would go wrong for a user of the store.
func TestFailureSaysWhy(t *testing.T) {
	failures := runModel(t, "Replace creates")
	if len(failures) == 0 {
		t.Fatal("no rule fails")
	}
	got := failures[0].String()
	for _, want := range []string{
		"replace-never-creates",
		`Replace("s") = ok true, <nil>; want ok false, nil`,
		"a refresh that ends after logout must not bring the session back",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the failure %q does not say %q", got, want)
		}
	}
}

// The same rules hold when time really passes.
func TestRealTime(t *testing.T) {
	Run(t, func(t *testing.T) Store { return newModel("") }, Options{Tick: 20 * time.Millisecond, Keys: 2000})
}
