// Package storetest proves that a session store keeps its promises to
// [github.com/agglestone/bff]. A store's own tests call [Run]:
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) storetest.Store {
//			return mystore.New(freshDatabase(t))
//		}, storetest.Options{Want: storetest.Indexer | storetest.EndLog})
//	}
//
// Every rule gets a store of its own and is a subtest. One that fails prints
// what would go wrong for a user of the store. What a store can do beyond
// [Store] is looked up, and the rules for that are run too. The rules that
// concern races find more under the race detector, and with a second handle on
// the same data.
package storetest

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Options say how time passes for a store and what it has to hold. The zero
// Options are right for a store on a server of its own, whose clock is this
// machine's.
type Options struct {
	// Want names the capabilities that the store must have, so that it can't
	// lose one unnoticed.
	Want Capability

	// Second returns another handle on the data of first, which newStore
	// returned: connections of its own, as another replica has, closed by
	// t.Cleanup. Every rule then spreads its calls over the two. Nil means
	// that there is one handle.
	Second func(t *testing.T, first Store) Store

	// Synctest runs every rule in a bubble of [testing/synctest], where
	// waiting takes no time. It is for stores that read the time from
	// [time.Now] and do no I/O.
	Synctest bool

	// Advance lets d pass, for the store and for [time.Now] alike. Nil means
	// time.Sleep, in a bubble too.
	Advance func(d time.Duration)

	// Tick is the unit of all expiries that a rule waits for, some 60 in all.
	// It must be much longer than a few calls to the store take. A rule that
	// fails on a machine too slow for that is checked again, with ticks of
	// twice the length, up to eight times as long. Zero means 250 milliseconds,
	// or a minute in a bubble.
	Tick time.Duration

	// Keys is how many records the rule many-keys files. Zero means 1,000,000,
	// which takes a store on a server of its own some minutes.
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
	handles := func(t *testing.T) []Store {
		s := newStore(t)
		if o.Second == nil {
			return []Store{s}
		}
		return []Store{s, o.Second(t, s)}
	}
	within := func(t *testing.T, f func(t *testing.T)) {
		if o.Synctest {
			synctest.Test(t, f)
		} else {
			f(t)
		}
	}
	var can Capability
	within(t, func(t *testing.T) {
		for i, s := range handles(t) {
			c := capabilitiesOf(s)
			if lacks := o.Want &^ c; lacks != 0 {
				t.Errorf("the store, a %T, is not %v, as Options.Want has it", s, lacks)
			}
			if i > 0 && c != can {
				t.Errorf("the second handle, a %T, is %v, and the first %v", s, c, can)
			}
			can = c
		}
	})
	for _, r := range rules {
		if r.needs&^can != 0 {
			continue
		}
		t.Run(r.name, func(t *testing.T) {
			within(t, func(t *testing.T) {
				for _, f := range run(t.Context(), []rule{r}, func() []Store { return handles(t) }, o) {
					t.Error(f)
				}
			})
		})
	}
}

// A rule is one sentence of the contract.
type rule struct {
	name  string
	why   string
	needs Capability // or it doesn't apply
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

// run checks rules, each with a store of its own, of which handles returns the
// handles, and returns those that fail.
func run(ctx context.Context, rules []rule, handles func() []Store, o Options) []failure {
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
		if err := r.run(ctx, handles, o); err != nil {
			failed = append(failed, failure{r, err})
		}
	}
	return failed
}

// run checks r. If it fails, and waited for an expiry, but took so long besides
// that a record may have expired on its way, it is checked again with longer
// ticks. What doesn't wait, as a race, has one chance.
func (r rule) run(ctx context.Context, handles func() []Store, o Options) error {
	advance, longest := o.Advance, 8*o.Tick
	for {
		var waited atomic.Int64
		o.Advance = func(d time.Duration) {
			waited.Add(int64(d))
			advance(d)
		}
		s := &subject{spread: &spread{handles: handles()}, opts: o}
		began := time.Now()
		err := r.check(ctx, s)
		asleep := time.Duration(waited.Load())
		busy := time.Since(began) - asleep
		if err == nil || asleep < o.Tick || busy < o.Tick/2 || o.Tick >= longest {
			return err
		}
		o.Tick *= 2
	}
}
