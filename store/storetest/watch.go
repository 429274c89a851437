package storetest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

var watchRules = []rule{
	{
		name:  "watch-reports-replace",
		needs: Watcher,
		why:   "what one replica refreshed is not served from another's cache until it is spent",
		check: func(ctx context.Context, s *subject) error {
			return s.reports(ctx, func(h Store, key string, version uint64) error {
				_, ok, err := h.Replace(ctx, key, version, v2)
				return verdict("Replace", key, ok, err, true)
			})
		},
	},
	{
		name:  "watch-reports-end",
		needs: Watcher,
		why:   "who signed out at one replica is not let in by another's cache",
		check: func(ctx context.Context, s *subject) error {
			conclude := true
			return s.reports(ctx, func(h Store, key string, version uint64) error {
				if conclude = !conclude; !conclude {
					version = 0
				}
				ok, err := h.End(ctx, key, version, mark, s.far())
				return verdict("End", key, ok, err, true)
			})
		},
	},
	{
		name:  "watch-reports-afterwards",
		needs: Watcher,
		why:   "who is told of a change and loads the record again must not find, and keep, the old one",
		check: reportsAfterwards,
	},
	{
		name:  "watch-synced-is-true",
		needs: Watcher,
		why:   "an entry is served from the cache because synced says that nothing was missed",
		check: func(ctx context.Context, s *subject) error {
			versions := make([]uint64, racers)
			key := func(i int) string { return fmt.Sprintf("s%d", i) }
			for i := range racers {
				if err := s.create(ctx, key(i), v1, s.far(), s.far()); err != nil {
					return err
				}
				was, err := s.live(ctx, key(i))
				if err != nil {
					return err
				}
				versions[i] = was.version
			}
			w := s.watch(ctx, s.handles[0], s.opts.Tick/2, nil)
			err := s.begun(w)
			var mu sync.Mutex
			var changes []change
			for round := range 20 {
				err = cmp.Or(err, together(racers, func(i int) (err error) {
					began := time.Now()
					if round == 19 {
						err = s.end(ctx, key(i), 0, mark, s.far())
					} else {
						versions[i], err = s.replace(ctx, key(i), versions[i], v2)
					}
					mu.Lock()
					defer mu.Unlock()
					changes = append(changes, change{key(i), began, time.Now()})
					return err
				}))
				s.opts.Advance(s.opts.Tick / 7) // so that they meet every phase of the interval
			}
			return cmp.Or(err, s.sees(w, changes), s.stop(w))
		},
	},
	{
		name:  "watch-synced-in-time",
		needs: Watcher,
		why:   "without a synced in every interval a cache trusts nothing that it holds, and every request goes to the store",
		check: func(ctx context.Context, s *subject) error {
			w := s.watch(ctx, s.handles[0], s.opts.Tick, nil)
			err := s.begun(w)
			s.wait(8)
			now := time.Now()
			err = cmp.Or(err, s.stop(w))
			allowed := 4 * s.opts.Tick // a machine may be slow
			if s.opts.Synctest {
				allowed = 2 * s.opts.Tick // from the first moment of one interval to the last of the next
			}
			var last time.Time
			for _, r := range w.all() {
				if gap := r.upTo.Sub(last); r.key == "" && !last.IsZero() && gap > allowed {
					err = cmp.Or(err, fmt.Errorf("synced(%v) came after synced(%v), %v later, where every %v was asked for", r.upTo, last, gap, s.opts.Tick))
				}
				if r.key == "" {
					last = r.upTo
				}
			}
			if gap := now.Sub(last); gap > allowed {
				err = cmp.Or(err, fmt.Errorf("the last synced is %v old, where every %v was asked for", gap, s.opts.Tick))
			}
			return err
		},
	},
	{
		name:  "watch-slow",
		needs: Watcher,
		why:   "who is slow to hear of sign-outs must neither hold them up nor be told that it has heard of them",
		check: watchSlow,
	},
	{
		name:  "watch-two",
		needs: Watcher,
		why:   "every replica's cache hears of every change, whoever else listens or stops to",
		check: func(ctx context.Context, s *subject) error {
			for _, key := range []string{"s1", "s2"} {
				if err := s.create(ctx, key, v1, s.far(), s.far()); err != nil {
					return err
				}
			}
			first := s.watch(ctx, s.handles[0], s.opts.Tick, nil)
			second := s.watch(ctx, s.handles[len(s.handles)-1], s.opts.Tick, nil)
			third := s.watch(ctx, s.handles[0], s.opts.Tick, nil)
			err := cmp.Or(s.begun(first), s.begun(second), s.begun(third))
			began := time.Now()
			err = cmp.Or(err, s.end(ctx, "s1", 0, mark, s.far()))
			changes := []change{{"s1", began, time.Now()}}
			err = cmp.Or(err, s.sees(first, changes), s.sees(second, changes), s.sees(third, changes), s.stop(first))
			began = time.Now()
			err = cmp.Or(err, s.end(ctx, "s2", 0, mark, s.far()))
			changes = append(changes, change{"s2", began, time.Now()})
			return cmp.Or(err, s.sees(second, changes), s.sees(third, changes), s.stop(second), s.stop(third))
		},
	},
	{
		name:  "watch-ends",
		needs: Watcher,
		why:   "a process that shuts down is not held up, and one that watches again and again keeps nothing of it",
		check: watchEnds,
	},
}

// A report is one call of changed or, with no key, of synced.
type report struct {
	key  string
	upTo time.Time
	at   time.Time
}

// A change was made between two times.
type change struct {
	key         string
	began, done time.Time
}

// A watching is one call of Watch.
type watching struct {
	cancel    context.CancelFunc
	onChange  func(key string)
	mu        sync.Mutex
	reports   []report
	reporting bool
	returned  bool
	err       error // what Watch returned
	wrong     error // the first thing that it did and must not do
}

// watch watches by that handle. Its caller calls stop, whatever happens.
func (s *subject) watch(ctx context.Context, h Store, every time.Duration, onChange func(key string)) *watching {
	if onChange == nil {
		onChange = func(string) {}
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &watching{cancel: cancel, onChange: onChange}
	go func() {
		err := h.(watcher).Watch(ctx, every, w.changed, w.synced)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.returned, w.err = true, err
	}()
	return w
}

func (w *watching) changed(key string) {
	now := time.Now()
	w.report(report{key: key, at: now})
	w.onChange(key)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reporting = false
}

func (w *watching) synced(upTo time.Time) {
	now := time.Now()
	w.report(report{upTo: upTo, at: now})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reporting = false
	if upTo.After(now) {
		w.wrong = cmp.Or(w.wrong, fmt.Errorf("synced(%v) was called %v before that", upTo, upTo.Sub(now)))
	}
}

func (w *watching) report(r report) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.returned:
		w.wrong = cmp.Or(w.wrong, errors.New("Watch called back after it had returned"))
	case w.reporting:
		w.wrong = cmp.Or(w.wrong, errors.New("Watch called back while another call was under way"))
	}
	w.reporting = true
	w.reports = append(w.reports, r)
}

// all returns what was reported so far.
func (w *watching) all() []report {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.reports)
}

func (w *watching) over() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.returned
}

// begun waits for the first synced, after which changes are reported.
func (s *subject) begun(w *watching) error {
	return s.syncedPast(w, time.Time{})
}

// syncedPast waits for a synced of a time after t.
func (s *subject) syncedPast(w *watching, t time.Time) error {
	past := false
	s.until(func() bool {
		returned := w.over()
		past = slices.ContainsFunc(w.all(), func(r report) bool { return r.upTo.After(t) })
		return past || returned
	})
	switch {
	case past:
		return nil
	case w.over():
		return fmt.Errorf("Watch returned %v while its context was live", w.err)
	}
	return fmt.Errorf("%d intervals or more went by without a synced(%v or later)", patience, t)
}

// sees waits until all changes must have been reported, and checks that they
// were, each before the first synced that says so.
func (s *subject) sees(w *watching, changes []change) error {
	var last time.Time
	for _, c := range changes {
		if c.done.After(last) {
			last = c.done
		}
	}
	return cmp.Or(s.syncedPast(w, last), w.honest(changes))
}

// honest checks that no synced claims a change that was not reported before.
func (w *watching) honest(changes []change) error {
	all := w.all()
	for _, c := range changes {
		reported := slices.IndexFunc(all, func(r report) bool { return r.key == c.key && !r.at.Before(c.began) })
		claimed := slices.IndexFunc(all, func(r report) bool { return r.upTo.After(c.done) })
		if claimed >= 0 && (reported < 0 || claimed < reported) {
			return fmt.Errorf("synced(%v) was called before changed(%q), which happened at %v", all[claimed].upTo, c.key, c.done)
		}
	}
	return nil
}

// stop ends the watch and wants Watch to return nil.
func (s *subject) stop(w *watching) error {
	w.cancel()
	if !s.until(w.over) {
		return errors.New("Watch does not return when its context ends")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return fmt.Errorf("Watch = %w when its context ends, want nil", w.err)
	}
	return w.wrong
}

// reports checks that a change is reported that is made by whichever handle.
func (s *subject) reports(ctx context.Context, change1 func(h Store, key string, version uint64) error) error {
	w := s.watch(ctx, s.handles[0], s.opts.Tick, nil)
	err := s.begun(w)
	var changes []change
	for i, h := range slices.Concat(s.handles, s.handles) {
		key := fmt.Sprintf("s%d", i)
		err = cmp.Or(err, s.create(ctx, key, v1, s.far(), s.far()))
		was, err2 := s.live(ctx, key)
		began := time.Now()
		err = cmp.Or(err, err2, change1(h, key, was.version))
		changes = append(changes, change{key, began, time.Now()})
	}
	return cmp.Or(err, s.sees(w, changes), s.stop(w))
}

func reportsAfterwards(ctx context.Context, s *subject) error {
	const n = 10
	told := make(chan string, 100*n)
	enough := make(chan struct{})
	latest := make(map[string]uint64) // 0 for one that ended
	var loadErr error
	load := func(key string) {
		_, version, _, ok, err := s.handles[0].Load(ctx, key)
		if !ok {
			version = 0
		}
		latest[key] = version
		loadErr = cmp.Or(loadErr, err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case key := <-told:
				load(key)
			case <-enough:
				return
			}
		}
	})
	w := s.watch(ctx, s.handles[0], s.opts.Tick, func(key string) {
		select {
		case told <- key:
		default: // more than anybody asked for
		}
	})
	err := s.begun(w)
	want := make(map[string]uint64)
	for i := range n {
		key := fmt.Sprintf("s%d", i)
		err = cmp.Or(err, s.create(ctx, key, v1, s.far(), s.far()))
		was, err2 := s.live(ctx, key)
		err = cmp.Or(err, err2)
		if i%2 == 0 {
			want[key], err2 = s.replace(ctx, key, was.version, v2)
		} else {
			want[key], err2 = 0, s.end(ctx, key, 0, mark, s.far())
		}
		err = cmp.Or(err, err2)
	}
	err = cmp.Or(err, s.syncedPast(w, time.Now()), s.stop(w))
	close(enough)
	wg.Wait()
	for len(told) > 0 {
		load(<-told)
	}
	err = cmp.Or(err, loadErr)
	for key, version := range want {
		if got, ok := latest[key]; !ok || got != version {
			err = cmp.Or(err, fmt.Errorf("after changed(%q) Load has version %d, want %d (0 is its mark)", key, got, version))
		}
	}
	return err
}

func watchSlow(ctx context.Context, s *subject) error {
	const n = 300
	key := func(i int) string { return fmt.Sprintf("s%d", i) }
	for i := range n {
		if err := s.create(ctx, key(i), v1, s.far(), s.far()); err != nil {
			return err
		}
	}
	release := make(chan struct{})
	w := s.watch(ctx, s.handles[0], s.opts.Tick, func(string) { <-release })
	err := s.begun(w)
	var changes []change
	end := func(from, to int) error {
		for i := from; i < to; i++ {
			began := time.Now()
			ok, err := s.handles[len(s.handles)-1].End(ctx, key(i), 0, mark, s.far())
			if err := verdict("End", key(i), ok, err, true); err != nil {
				return err
			}
			changes = append(changes, change{key(i), began, time.Now()})
		}
		return nil
	}
	ended := make(chan error, 1)
	go func() { ended <- end(0, 1) }()
	stuck := s.until(func() bool {
		return len(ended) > 0 && slices.ContainsFunc(w.all(), func(r report) bool { return r.key != "" })
	})
	if stuck {
		err = cmp.Or(err, <-ended)
		go func() { ended <- end(1, n) }()
		if !s.until(func() bool { return len(ended) > 0 }) {
			err = cmp.Or(err, fmt.Errorf("after %v the watcher still holds up those who end sessions", patience*s.opts.Tick))
		}
		s.opts.Advance(precision) // and it falls behind
	} else {
		err = cmp.Or(err, fmt.Errorf("after %v End has not returned or was not reported", patience*s.opts.Tick))
	}
	close(release)
	err = cmp.Or(<-ended, err)
	if err == nil {
		// Now it has either all of them, or an error.
		if err = s.sees(w, changes); w.over() {
			err = w.honest(changes)
			if w.err == nil {
				err = cmp.Or(err, errors.New("Watch returned nil while its context was live"))
			}
			w.cancel()
			return cmp.Or(err, w.wrong)
		}
	}
	return cmp.Or(err, s.stop(w))
}

const watchLabel = "storetest-watch"

func watchEnds(ctx context.Context, s *subject) error {
	if err := s.create(ctx, "s", v1, s.far(), s.far()); err != nil {
		return err
	}
	was, err := s.live(ctx, "s")
	if err != nil {
		return err
	}
	version := was.version
	// By a label, which goes over to whatever Watch starts: what else runs in
	// this process, such as other tests, comes and goes as it likes.
	name := fmt.Sprintf("%p", s)
	cycle := func() error {
		var w *watching
		pprof.Do(ctx, pprof.Labels(watchLabel, name), func(ctx context.Context) {
			w = s.watch(ctx, s.handles[0], s.opts.Tick/4, nil)
		})
		if err := cmp.Or(s.begun(w), s.stop(w)); err != nil {
			return err
		}
		version, err = s.replace(ctx, "s", version, v2)
		s.opts.Advance(s.opts.Tick / 2)
		return cmp.Or(err, s.stop(w)) // and nothing was reported since
	}
	const cycles = 10
	for range cycles {
		if err := cycle(); err != nil {
			return err
		}
	}
	var left int
	var err2 error
	few := s.until(func() bool {
		left, err2 = labelled(watchLabel, name)
		return err2 != nil || left < cycles/2
	})
	switch {
	case err2 != nil:
		return err2
	case !few:
		return fmt.Errorf("after %d calls of Watch, which have returned, %d goroutines that they started go on", cycles, left)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	return s.stop(s.watch(cancelled, s.handles[0], s.opts.Tick, nil))
}

// labelled returns how many goroutines have that label.
func labelled(key, value string) (n int, err error) {
	var profile bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		return 0, err
	}
	// Goroutines that are alike are told together, as "2 @ 0x43a5f6 ..." and a
	// line with their labels.
	alike := 0
	for line := range strings.Lines(profile.String()) {
		if count, _, ok := strings.Cut(line, " @ "); ok {
			if alike, err = strconv.Atoi(count); err != nil {
				return 0, err
			}
		}
		if labels, ok := strings.CutPrefix(line, "# labels: "); ok && strings.Contains(labels, fmt.Sprintf("%q:%q", key, value)) {
			n += alike
		}
	}
	return n, nil
}
