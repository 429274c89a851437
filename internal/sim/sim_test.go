package sim_test

import (
	"fmt"
	"maps"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/agglestone/bff/internal/sim"
)

// The environment chooses the seeds: BFF_SIM_SEEDS of them, from BFF_SIM_FIRST
// on, until BFF_SIM_MOST of them have failed, or BFF_SIM_SEED alone, with its
// trace.
func fromEnv(name string, otherwise uint64) uint64 {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		panic(name + ": " + err.Error())
	}
	return n
}

func TestMain(m *testing.M) {
	debug.SetGCPercent(400) // a run leaves nothing behind
	os.Exit(m.Run())
}

// run makes one run in a bubble of its own, which fails if a goroutine is left.
func run(t *testing.T, seed uint64, keep bool) (res *sim.Result) {
	synctest.Test(t, func(*testing.T) { res = sim.Run(seed, keep) })
	return res
}

// Replay is how to see one seed alone.
func replay(seed uint64) string {
	return fmt.Sprintf("BFF_SIM_SEED=%d go test -count=1 -run 'TestSeeds$' ./internal/sim", seed)
}

// D29, D30, invariants 3, 4 and 5: what the package comment promises holds in
// every run.
func TestSeeds(t *testing.T) {
	if os.Getenv("BFF_SIM_SEED") != "" {
		res := run(t, fromEnv("BFF_SIM_SEED", 0), true)
		t.Logf("%s\n%s", res.Plan, strings.Join(res.Trace, "\n"))
		for _, f := range res.Failures {
			t.Error(f)
		}
		return
	}
	seeds := uint64(standardSeeds)
	if testing.Short() {
		seeds = min(seeds, 300)
	}
	seeds = fromEnv("BFF_SIM_SEEDS", seeds)
	first, most := fromEnv("BFF_SIM_FIRST", 0), int(fromEnv("BFF_SIM_MOST", 5))

	var mu sync.Mutex
	var total sim.Counts
	var bad []uint64
	next := first
	take := func() (uint64, bool) {
		mu.Lock()
		defer mu.Unlock()
		if next == first+seeds || len(bad) >= most {
			return 0, false
		}
		next++
		return next - 1, true
	}
	t.Run("runs", func(t *testing.T) {
		for range runtime.GOMAXPROCS(0) {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for {
					seed, ok := take()
					if !ok {
						return
					}
					res := run(t, seed, false)
					mu.Lock()
					total.Add(&res.Counts)
					if len(res.Failures) > 0 {
						bad = append(bad, seed)
						t.Errorf("%s\n%s\nto see it alone: %s", strings.Join(res.Failures, "\n"), res.Plan, replay(seed))
					}
					mu.Unlock()
				}
			})
		}
	})
	if len(bad) > 0 {
		seed := slices.Min(bad)
		t.Logf("the trace of seed %d:\n%s", seed, strings.Join(run(t, seed, true).Trace, "\n"))
	}
	t.Logf("%d runs: %d requests, %d token requests, %d events", total.Runs, total.Requests, total.TokenRequests, total.Events)
	t.Logf("what happened to them: %s", counts(total.Incidents))
	t.Logf("refresh tokens that were presented a second time, by named case: %s", counts(total.Cases))
	t.Logf("sessions that were ended as a conclusion, by reason: %s", counts(total.SignOuts))
	if seeds >= 1000 && len(bad) == 0 {
		for _, c := range sim.Cases {
			if total.Cases[c] == 0 {
				t.Errorf("no run met with %s", c)
			}
		}
	}
}

func counts(m map[string]int) string {
	var s []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		s = append(s, fmt.Sprintf("%s: %d", k, m[k]))
	}
	return strings.Join(s, ", ")
}

// A seed is a run: nothing in it is left to the machine.
func TestSameSeedSameRun(t *testing.T) {
	for seed := range fromEnv("BFF_SIM_TWICE", standardSeeds/60) {
		first, second := run(t, seed, false), run(t, seed, false)
		if first.Hash != second.Hash || first.Counts.Events != second.Counts.Events {
			t.Errorf("seed %d: %d events with hash %x, then %d with hash %x\n%s", seed,
				first.Counts.Events, first.Hash, second.Counts.Events, second.Hash, first.Plan)
		}
	}
}
