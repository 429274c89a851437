package storetest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// runModel runs the rule of that name on a store with that bug.
func runModel(t *testing.T, bug, name string) (failures []failure) {
	t.Helper()
	i := slices.IndexFunc(rules, func(r rule) bool { return r.name == name })
	if i < 0 {
		t.Fatalf("there is no rule %s", name)
	}
	synctest.Test(t, func(t *testing.T) {
		failures = run(t.Context(), rules[i:i+1], func() []Store {
			m := newModel(bug)
			t.Cleanup(func() { close(m.gone) })
			return []Store{m}
		}, Options{Synctest: true, Keys: 2000})
	})
	return failures
}

// A right store passes.
func TestModel(t *testing.T) {
	Run(t, func(t *testing.T) Store { return newModel("") }, Options{Synctest: true, Keys: 2000, Want: everything})
}

const everything = Indexer | Watcher | EndLog | Rememberer

// A wrong one fails, for the right reason.
func TestBugs(t *testing.T) {
	for _, b := range bugs {
		t.Run(strings.ReplaceAll(b.bug, " ", "-")+"/"+b.rule, func(t *testing.T) {
			if len(runModel(t, b.bug, b.rule)) == 0 {
				t.Errorf("a store where %q passes the rule %s", b.bug, b.rule)
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
	failures := runModel(t, "Replace creates", "replace-never-creates")
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

// Whatever a rule waits for, it lets pass by Options.Advance.
func TestAdvance(t *testing.T) {
	for _, r := range rules {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			var passed atomic.Int64
			failures := run(t.Context(), []rule{r}, func() []Store {
				m := newModel("")
				t.Cleanup(func() { close(m.gone) })
				return []Store{m}
			}, Options{Synctest: true, Keys: 100, Advance: func(d time.Duration) {
				passed.Add(int64(d))
				time.Sleep(d)
			}})
			for _, f := range failures {
				t.Error(f)
			}
			if took, moved := time.Since(began), time.Duration(passed.Load()); took != moved {
				t.Errorf("%s took %v, of which it let %v pass by Advance", r.name, took, moved)
			}
		})
	}
}

// A rule gets longer ticks only where that may be what it lacks.
func TestSlowMachine(t *testing.T) {
	const tick = time.Minute
	for _, tt := range []struct {
		name       string
		busy       time.Duration
		wait       int
		enough     time.Duration // the tick with which it passes
		times      int
		wantFailed bool
	}{
		{"passes", time.Hour, 1, tick, 1, false},
		{"slow", tick, 1, 4 * tick, 3, false},
		{"always-slow", time.Hour, 1, 100 * tick, 4, true},
		{"fast", tick / 3, 1, 4 * tick, 1, true},
		{"race", time.Hour, 0, 4 * tick, 1, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				times := 0
				slow := rule{name: tt.name, check: func(ctx context.Context, s *subject) error {
					times++
					time.Sleep(tt.busy)
					if tt.wait > 0 {
						s.wait(tt.wait)
					}
					if s.opts.Tick < tt.enough {
						return errors.New("expired too early")
					}
					return nil
				}}
				failed := run(t.Context(), []rule{slow}, func() []Store { return []Store{newModel("")} }, Options{Tick: tick})
				if times != tt.times || (failed != nil) != tt.wantFailed {
					t.Errorf("checked %d times, failures %v; want %d, and some: %v", times, failed, tt.times, tt.wantFailed)
				}
			})
		})
	}
}

// Two handles find what one hides: a replica that does not see what another
// one did.
func TestSecond(t *testing.T) {
	for _, tt := range []struct {
		name, rule string
		handle     func(m *model) Store
	}{
		{"caches", "dead-stays-dead", func(m *model) Store { return &caching{model: m, cache: make(map[string]found)} }},
		{"hears-only-itself", "watch-reports-end", func(m *model) Store { return &deaf{model: m} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for handles := 1; handles <= 2; handles++ {
				synctest.Test(t, func(t *testing.T) {
					var names []string
					for _, f := range run(t.Context(), rules, func() []Store {
						m := newModel("")
						return []Store{tt.handle(m), tt.handle(m)}[:handles]
					}, Options{Synctest: true, Keys: 2000}) {
						names = append(names, f.rule.name)
					}
					if handles == 1 && names != nil {
						t.Errorf("with one handle the store breaks the rules %q", names)
					}
					if handles == 2 && !slices.Contains(names, tt.rule) {
						t.Errorf("with two handles the store breaks the rules %q, want %s among them", names, tt.rule)
					}
				})
			}
		})
	}
}

// A right store passes by two handles too, and each is asked.
func TestSecondOfModel(t *testing.T) {
	var first, second atomic.Int64
	Run(t, func(t *testing.T) Store {
		return &counting{newModel(""), &first}
	}, Options{Synctest: true, Keys: 2000, Want: everything, Second: func(t *testing.T, s Store) Store {
		return &counting{s.(*counting).model, &second}
	}})
	if n, m := first.Load(), second.Load(); n < m/2 || m < n/2 {
		t.Errorf("the handles had %d and %d calls of Load, want half of them each", n, m)
	}
}

// Run fails with a broken store, with one that lacks what is wanted, and with
// a second handle that can do less. Since a failure in here would be one of
// this test, another process has it.
func TestRunFails(t *testing.T) {
	for name, says := range map[string][]string{
		"bug": {
			`replace-never-creates: Replace("s") = ok true, <nil>; want ok false, nil`,
			"a refresh that ends after logout must not bring the session back",
		},
		"bare":    {"is not Watcher+EndLog, as Options.Want has it"},
		"unequal": {"the second handle", "is Store, and the first Indexer+Watcher+EndLog+Rememberer"},
	} {
		t.Run(name, func(t *testing.T) {
			exe, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestBroken$", "-test.timeout=1m")
			cmd.Env = append(os.Environ(), "STORETEST_BROKEN="+name)
			out, err := cmd.CombinedOutput()
			if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("the test process ended with %v, want exit status 1", err)
			}
			for _, want := range says {
				if !strings.Contains(string(out), want) {
					t.Errorf("it does not say %q:\n%s", want, out)
				}
			}
		})
	}
}

// TestBroken fails if TestRunFails asks for it.
func TestBroken(t *testing.T) {
	o := Options{Synctest: true, Keys: 2000}
	switch os.Getenv("STORETEST_BROKEN") {
	case "bug":
		Run(t, func(t *testing.T) Store { return newModel("Replace creates") }, o)
	case "bare":
		o.Want = Watcher | EndLog
		Run(t, func(t *testing.T) Store { return bare{newModel("")} }, o)
	case "unequal":
		o.Second = func(t *testing.T, first Store) Store { return bare{first} }
		Run(t, func(t *testing.T) Store { return newModel("") }, o)
	}
}

// What starts and stays in the process meanwhile is not taken for what Watch
// left behind.
func TestWatchEndsInABusyProcess(t *testing.T) {
	i := slices.IndexFunc(rules, func(r rule) bool { return r.name == "watch-ends" })
	synctest.Test(t, func(t *testing.T) {
		failures := run(t.Context(), rules[i:i+1], func() []Store {
			m := newModel("")
			t.Cleanup(func() { close(m.gone) })
			return []Store{&growing{m}}
		}, Options{Synctest: true})
		for _, f := range failures {
			t.Error(f)
		}
	})
}

// growing keeps a goroutine for each call of Replace, as a client may for each
// connection.
type growing struct{ *model }

func (g *growing) Replace(ctx context.Context, key string, version uint64, value []byte) (uint64, bool, error) {
	go func() { <-g.gone }()
	return g.model.Replace(ctx, key, version, value)
}

// A store that is only a store passes the rules for that.
func TestBare(t *testing.T) {
	Run(t, func(t *testing.T) Store { return bare{newModel("")} }, Options{Synctest: true, Keys: 2000})
}

// bare hides what a store can do beyond Store.
type bare struct{ Store }

// counting counts its calls of Load.
type counting struct {
	*model
	loads *atomic.Int64
}

func (c *counting) Load(ctx context.Context, key string) ([]byte, uint64, time.Time, bool, error) {
	c.loads.Add(1)
	return c.model.Load(ctx, key)
}

// caching keeps what it loaded until it changes that itself.
type caching struct {
	*model
	mu    sync.Mutex
	cache map[string]found
}

func (c *caching) Load(ctx context.Context, key string) (value []byte, version uint64, expires time.Time, ok bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f, ok := c.cache[key]; ok && time.Now().Before(f.expires) && ctx.Err() == nil {
		return f.value, f.version, f.expires, true, nil
	}
	value, version, expires, ok, err = c.model.Load(ctx, key)
	if ok && err == nil {
		c.cache[key] = found{value, version, expires}
	}
	return value, version, expires, ok, err
}

func (c *caching) Replace(ctx context.Context, key string, version uint64, value []byte) (uint64, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.cache, key)
	return c.model.Replace(ctx, key, version, value)
}

func (c *caching) Touch(ctx context.Context, key string, expires time.Time) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.cache, key)
	return c.model.Touch(ctx, key, expires)
}

func (c *caching) End(ctx context.Context, key string, version uint64, mark []byte, until time.Time) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.cache, key)
	return c.model.End(ctx, key, version, mark, until)
}

// deaf reports only what was changed by it.
type deaf struct {
	*model
	own sync.Map
}

func (d *deaf) Replace(ctx context.Context, key string, version uint64, value []byte) (uint64, bool, error) {
	d.own.Store(key, true)
	return d.model.Replace(ctx, key, version, value)
}

func (d *deaf) End(ctx context.Context, key string, version uint64, mark []byte, until time.Time) (bool, error) {
	d.own.Store(key, true)
	return d.model.End(ctx, key, version, mark, until)
}

func (d *deaf) Watch(ctx context.Context, every time.Duration, changed func(key string), synced func(upTo time.Time)) error {
	return d.model.Watch(ctx, every, func(key string) {
		if _, ok := d.own.Load(key); ok {
			changed(key)
		}
	}, synced)
}
