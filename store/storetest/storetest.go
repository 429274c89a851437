// Package storetest proves that a session store keeps its promises to
// [github.com/agglestone/bff]. A store's own tests call [Run]:
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) storetest.Store {
//			return mystore.New(freshDatabase(t))
//		})
//	}
//
// Every rule gets a store of its own and is a subtest. One that fails prints
// what would go wrong for a user of the store. The rules that concern races
// find more under the race detector.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A Store has the methods of [github.com/agglestone/bff.Store], which says
// what they promise.
type Store interface {
	Load(ctx context.Context, key string) (value []byte, version uint64, expires time.Time, ok bool, err error)
	Create(ctx context.Context, key string, value []byte, expires, end time.Time) (ok bool, err error)
	Replace(ctx context.Context, key string, version uint64, value []byte) (next uint64, ok bool, err error)
	Touch(ctx context.Context, key string, expires time.Time) (ok bool, err error)
	End(ctx context.Context, key string, version uint64, mark []byte, until time.Time) (ok bool, err error)
}

// Options say how time passes for a store and how much it has to hold. The
// zero Options are right for a store on a server of its own, whose clock is
// this machine's.
type Options struct {
	// Synctest runs every rule in a bubble of [testing/synctest], where
	// waiting takes no time. It is for stores that read the time from
	// [time.Now] and do no I/O.
	Synctest bool

	// Advance lets d pass, for the store and for [time.Now] alike. Nil means
	// time.Sleep, in a bubble too.
	Advance func(d time.Duration)

	// Tick is the unit of all expiries that a rule waits for, some 60 in all.
	// It must be much longer than a few calls to the store take, or rules fail
	// on a slow machine. Zero means 250 milliseconds, or a minute in a bubble.
	Tick time.Duration

	// Keys is how many records the rule many-keys files. Zero means 1,000,000.
	Keys int
}

// Run tests the stores that newStore returns, each empty, against every rule.
// At most one Options may be given.
func Run(t *testing.T, newStore func(t *testing.T) Store, opts ...Options) {
	t.Helper()
	var o Options
	switch len(opts) {
	case 0:
	case 1:
		o = opts[0]
	default:
		t.Fatalf("storetest.Run got %d Options, want at most one", len(opts))
	}
	for _, r := range rules {
		check := func(t *testing.T) {
			for _, f := range run(t.Context(), []rule{r}, func() Store { return newStore(t) }, o) {
				t.Error(f)
			}
		}
		t.Run(r.name, func(t *testing.T) {
			if o.Synctest {
				synctest.Test(t, check)
			} else {
				check(t)
			}
		})
	}
}

// A rule is one sentence of the contract.
type rule struct {
	name  string
	why   string
	check func(ctx context.Context, s *subject) error
}

// A failure is a rule that a store broke.
type failure struct {
	rule rule
	err  error
}

func (f failure) String() string {
	return fmt.Sprintf("%s: %v\n%s", f.rule.name, f.err, f.rule.why)
}

// run checks rules, each with a store of its own, and returns those that fail.
func run(ctx context.Context, rules []rule, newStore func() Store, o Options) []failure {
	if o.Advance == nil {
		o.Advance = time.Sleep
	}
	if o.Tick == 0 {
		o.Tick = 250 * time.Millisecond
		if o.Synctest {
			o.Tick = time.Minute
		}
	}
	if o.Keys == 0 {
		o.Keys = 1_000_000
	}
	var failed []failure
	for _, r := range rules {
		if err := r.check(ctx, &subject{newStore(), o}); err != nil {
			failed = append(failed, failure{r, err})
		}
	}
	return failed
}

// A subject is a store under test, with the words that rules are made of.
type subject struct {
	Store
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

// A found is what Load says of a live record.
type found struct {
	value   []byte
	version uint64
	expires time.Time
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
