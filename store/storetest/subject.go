package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// A subject is a store under test, with the words that rules are made of.
type subject struct {
	*spread
	opts Options
}

// precision is how exactly a store keeps time: databases round.
const precision = time.Millisecond

// in returns the time that many ticks from now.
func (s *subject) in(ticks int) time.Time {
	return time.Now().Add(time.Duration(ticks) * s.opts.Tick)
}

// far returns a time that no rule waits for.
func (s *subject) far() time.Time { return time.Now().Add(24 * time.Hour) }

// wait lets that many ticks pass, and what the precision takes.
func (s *subject) wait(ticks int) {
	s.opts.Advance(time.Duration(ticks)*s.opts.Tick + 2*precision)
}

// until waits for what the store does by itself, and returns cond's verdict:
// true before many ticks have passed, or false after.
func (s *subject) until(cond func() bool) bool {
	for range 20 * patience {
		if cond() {
			return true
		}
		s.opts.Advance(s.opts.Tick / 20)
	}
	return cond()
}

// patience is how many ticks a rule waits for what has no time of its own.
const patience = 20

// A found is what Load says of a live record.
type found struct {
	value   []byte
	version uint64
	expires time.Time
}

// is reports whether f is the same version of a record, with the same value.
func (f found) is(other found) bool {
	return f.version == other.version && bytes.Equal(f.value, other.value)
}

// live returns the record under key, which must be live.
func (s *subject) live(ctx context.Context, key string) (found, error) {
	value, version, expires, ok, err := s.Load(ctx, key)
	switch {
	case err != nil:
		return found{}, fmt.Errorf("Load(%q): %w", key, err)
	case !ok && value == nil:
		return found{}, fmt.Errorf("Load(%q) finds nothing, want a live record", key)
	case !ok:
		return found{}, fmt.Errorf("Load(%q) finds the mark %s, want a live record", key, short(value))
	case version == 0:
		return found{}, fmt.Errorf("Load(%q) has version 0, which End takes for any", key)
	}
	return found{value, version, expires}, nil
}

// holds checks that a live record under key has that value and expiry.
func (s *subject) holds(ctx context.Context, key string, value []byte, expires time.Time) error {
	got, err := s.live(ctx, key)
	if err != nil {
		return err
	}
	if !bytes.Equal(got.value, value) {
		return fmt.Errorf("Load(%q) = %s, want %s", key, short(got.value), short(value))
	}
	return sameTime(key, got.expires, expires)
}

// same checks that the record under key is still what it was.
func (s *subject) same(ctx context.Context, key string, was found) error {
	if err := s.holds(ctx, key, was.value, was.expires); err != nil {
		return err
	}
	got, err := s.live(ctx, key)
	if err == nil && got.version != was.version {
		err = fmt.Errorf("Load(%q) has version %d, want %d as before", key, got.version, was.version)
	}
	return err
}

// absent checks that there is neither a record nor a mark under key.
func (s *subject) absent(ctx context.Context, key string) error {
	value, _, _, ok, err := s.Load(ctx, key)
	if ok || value != nil || err != nil {
		return fmt.Errorf("Load(%q) = %s, ok %v, %v; want nil, ok false, nil", key, short(value), ok, err)
	}
	return nil
}

// marked checks that the record under key was ended with that mark.
func (s *subject) marked(ctx context.Context, key string, mark []byte) error {
	value, _, _, ok, err := s.Load(ctx, key)
	if ok || !bytes.Equal(value, mark) || err != nil {
		return fmt.Errorf("Load(%q) = %s, ok %v, %v; want the mark %s, ok false, nil", key, short(value), ok, err, short(mark))
	}
	return nil
}

// create calls Create and wants ok.
func (s *subject) create(ctx context.Context, key string, value []byte, expires, end time.Time) error {
	ok, err := s.Create(ctx, key, value, expires, end)
	return verdict("Create", key, ok, err, true)
}

// taken calls Create and wants it refused.
func (s *subject) taken(ctx context.Context, key string) error {
	ok, err := s.Create(ctx, key, []byte("another"), s.far(), s.far())
	return verdict("Create", key, ok, err, false)
}

// replace calls Replace and wants ok and a greater version.
func (s *subject) replace(ctx context.Context, key string, version uint64, value []byte) (next uint64, err error) {
	next, ok, err := s.Replace(ctx, key, version, value)
	if err := verdict("Replace", key, ok, err, true); err != nil {
		return 0, err
	}
	if next <= version {
		return 0, fmt.Errorf("Replace(%q) made version %d of version %d, want a greater one", key, next, version)
	}
	return next, nil
}

// refuseReplace calls Replace and wants it refused.
func (s *subject) refuseReplace(ctx context.Context, key string, version uint64) error {
	_, ok, err := s.Replace(ctx, key, version, []byte("replaced"))
	return verdict("Replace", key, ok, err, false)
}

// touch calls Touch and wants ok.
func (s *subject) touch(ctx context.Context, key string, expires time.Time) error {
	ok, err := s.Touch(ctx, key, expires)
	return verdict("Touch", key, ok, err, true)
}

// refuseTouch calls Touch and wants it refused.
func (s *subject) refuseTouch(ctx context.Context, key string) error {
	ok, err := s.Touch(ctx, key, s.far())
	return verdict("Touch", key, ok, err, false)
}

// end calls End and wants ok.
func (s *subject) end(ctx context.Context, key string, version uint64, mark []byte, until time.Time) error {
	ok, err := s.End(ctx, key, version, mark, until)
	return verdict("End", key, ok, err, true)
}

// refuseEnd calls End and wants it refused.
func (s *subject) refuseEnd(ctx context.Context, key string, version uint64) error {
	ok, err := s.End(ctx, key, version, []byte("refused"), s.far())
	return verdict("End", key, ok, err, false)
}

// tag calls Tag.
func (s *subject) tag(ctx context.Context, tag, key string, note []byte, until time.Time) error {
	if err := s.Tag(ctx, tag, key, note, until); err != nil {
		return fmt.Errorf("Tag(%q, %q): %w", tag, key, err)
	}
	return nil
}

// untag calls Untag.
func (s *subject) untag(ctx context.Context, tag, key string) error {
	if err := s.Untag(ctx, tag, key); err != nil {
		return fmt.Errorf("Untag(%q, %q): %w", tag, key, err)
	}
	return nil
}

// under checks that these keys are filed under tag, with these notes, and no
// others.
func (s *subject) under(ctx context.Context, tag string, want map[string][]byte) error {
	got, err := s.Tagged(ctx, tag)
	if err != nil {
		return fmt.Errorf("Tagged(%q): %w", tag, err)
	}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		note, ok := got[key]
		switch {
		case !ok:
			return fmt.Errorf("Tagged(%q) lacks %q; it has %d of %d keys", tag, key, len(got), len(want))
		case !bytes.Equal(note, want[key]):
			return fmt.Errorf("Tagged(%q) has %q with the note %s, want %s", tag, key, short(note), short(want[key]))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[key]; !ok {
			return fmt.Errorf("Tagged(%q) has %q, which is not filed there", tag, key)
		}
	}
	return nil
}

func verdict(op, key string, ok bool, err error, want bool) error {
	if ok != want || err != nil {
		return fmt.Errorf("%s(%q) = ok %v, %v; want ok %v, nil", op, key, ok, err, want)
	}
	return nil
}

func sameTime(key string, got, want time.Time) error {
	if d := got.Sub(want).Abs(); d > precision {
		return fmt.Errorf("Load(%q) expires at %v, want %v (off by %v)", key, got, want, d)
	}
	return nil
}

// together runs f(0) to f(n-1) at the same time.
func together(n int, f func(i int) error) error {
	var wg sync.WaitGroup
	start := make(chan struct{})
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() {
			<-start
			errs[i] = f(i)
		})
	}
	close(start)
	wg.Wait()
	return errors.Join(errs...)
}

func short(b []byte) string {
	if len(b) > 40 {
		return fmt.Sprintf("%q... (%d bytes)", b[:40], len(b))
	}
	return fmt.Sprintf("%q", b)
}
