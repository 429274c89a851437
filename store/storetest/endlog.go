package storetest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

var endLogRules = []rule{
	{
		name:  "ended-from-zero",
		needs: EndLog,
		why:   "a replica that starts asks what ends from now on, and is not told of an hour of sign-outs",
		check: func(ctx context.Context, s *subject) error {
			err := cmp.Or(
				s.create(ctx, "s", v1, s.far(), s.far()),
				s.end(ctx, "s", 0, mark, s.far()),
			)
			_, err2 := s.follow(ctx)
			return cmp.Or(err, err2)
		},
	},
	{
		name:  "ended-lists",
		needs: EndLog,
		why:   "a stream of a session that was ended, and of no other, is closed within a second (D31)",
		check: func(ctx context.Context, s *subject) error {
			f, err := s.follow(ctx)
			if err != nil {
				return err
			}
			for _, key := range []string{"scommand", "sconclusion", "srefused", "sreplaced", "stouched", "slive"} {
				if err := s.create(ctx, key, v1, s.in(1000), s.far()); err != nil {
					return err
				}
			}
			err = s.create(ctx, "sexpired", v1, s.in(1), s.far())
			concluded, err2 := s.live(ctx, "sconclusion")
			was, err3 := s.live(ctx, "sreplaced")
			if err := cmp.Or(err, err2, err3); err != nil {
				return err
			}
			_, err = s.replace(ctx, "sreplaced", was.version, v2)
			s.wait(1)
			return cmp.Or(err,
				s.touch(ctx, "stouched", s.far()),
				s.refuseEnd(ctx, "srefused", was.version+1000),
				s.refuseEnd(ctx, "sabsent", 0),
				s.refuseEnd(ctx, "sexpired", 0),
				s.end(ctx, "scommand", 0, mark, s.far()),
				s.end(ctx, "sconclusion", concluded.version, mark, s.far()),
				f.lists(ctx, "scommand", "sconclusion"),
			)
		},
	},
	{
		name:  "ended-in-order",
		needs: EndLog,
		why:   "who is told a part of what ended must be told the first part, or the time to ask from next skips the rest",
		check: func(ctx context.Context, s *subject) error {
			f, err := s.follow(ctx)
			if err != nil {
				return err
			}
			since := f.next
			order := []string{"s5", "s1", "s9", "s0", "s7", "s3"}
			for _, key := range order {
				if err := s.create(ctx, key, v1, s.far(), s.far()); err != nil {
					return err
				}
			}
			for _, key := range order {
				if err := s.end(ctx, key, 0, mark, s.far()); err != nil {
					return err
				}
				s.opts.Advance(2 * precision)
			}
			if err := f.lists(ctx, order...); err != nil {
				return err
			}
			got, _, err := s.Ended(ctx, since)
			if err == nil && !slices.Equal(got, order) {
				err = fmt.Errorf("Ended = %q, want %q", got, order)
			}
			return err
		},
	},
	{
		name:  "ended-while-marked",
		needs: EndLog,
		why:   "what ended is listed as long as its mark is kept, and is then forgotten",
		check: func(ctx context.Context, s *subject) error {
			f, err := s.follow(ctx)
			if err != nil {
				return err
			}
			since := f.next
			for _, key := range []string{"sshort", "slong"} {
				if err := s.create(ctx, key, v1, s.in(1), s.far()); err != nil {
					return err
				}
			}
			err = cmp.Or(
				s.end(ctx, "sshort", 0, mark, s.in(2)),
				s.end(ctx, "slong", 0, mark, s.far()),
				f.lists(ctx, "sshort", "slong"),
			)
			s.wait(2)
			f = &follower{s: s, next: since}
			return cmp.Or(err, f.lists(ctx, "slong"))
		},
	},
	{
		name:  "ended-for-everybody",
		needs: EndLog,
		why:   "every replica has streams to close, and each asks for itself",
		check: func(ctx context.Context, s *subject) error {
			first, err := s.follow(ctx)
			second, err2 := s.follow(ctx)
			if err := cmp.Or(err, err2); err != nil {
				return err
			}
			late := &follower{s: s, next: second.next}
			return cmp.Or(
				s.create(ctx, "s1", v1, s.far(), s.far()),
				s.create(ctx, "s2", v1, s.far(), s.far()),
				s.end(ctx, "s1", 0, mark, s.far()),
				first.lists(ctx, "s1"),
				second.lists(ctx, "s1"),
				s.end(ctx, "s2", 0, mark, s.far()),
				first.lists(ctx, "s1", "s2"),
				second.lists(ctx, "s1", "s2"),
				late.lists(ctx, "s1", "s2"),
			)
		},
	},
	{
		name:  "ended-moves-on",
		needs: EndLog,
		why:   "the answer to what is asked every second must not grow to an hour of sign-outs",
		check: func(ctx context.Context, s *subject) error {
			f, err := s.follow(ctx)
			if err != nil {
				return err
			}
			err = cmp.Or(
				s.create(ctx, "s", v1, s.far(), s.far()),
				s.end(ctx, "s", 0, mark, s.far()),
				f.lists(ctx, "s"),
			)
			quiet := s.until(func() bool {
				f.seen = nil
				err = cmp.Or(err, f.ask(ctx))
				return err != nil || len(f.seen) == 0
			})
			if err == nil && !quiet {
				err = fmt.Errorf("Ended lists %q again and again, whatever it is asked", f.seen)
			}
			return err
		},
	},
	{
		name:  "ended-misses-none",
		needs: EndLog,
		why:   "a session that ends while somebody asks is in this answer or in the next",
		check: func(ctx context.Context, s *subject) error {
			const each = 20
			key := func(i, n int) string { return fmt.Sprintf("s%d-%d", i, n) }
			var all []string
			for i := range racers {
				for n := range each {
					all = append(all, key(i, n))
					if err := s.create(ctx, key(i, n), v1, s.far(), s.far()); err != nil {
						return err
					}
				}
			}
			f, err := s.follow(ctx)
			if err != nil {
				return err
			}
			var busy atomic.Int64
			busy.Store(racers)
			err = together(racers+1, func(i int) error {
				if i == racers {
					for busy.Load() > 0 {
						if err := f.ask(ctx); err != nil {
							return err
						}
						s.opts.Advance(precision / 10)
					}
					return nil
				}
				defer busy.Add(-1)
				for n := range each {
					if err := s.end(ctx, key(i, n), 0, mark, s.far()); err != nil {
						return err
					}
				}
				return nil
			})
			return cmp.Or(err, f.lists(ctx, all...))
		},
	},
	{
		name:  "ended-misses-none-of-many",
		needs: EndLog,
		why:   "if more ended than one answer holds, the next ones hold the rest",
		check: func(ctx context.Context, s *subject) error {
			const n, batch = 5000, 100
			f, err := s.follow(ctx)
			if err != nil {
				return err
			}
			var all []string
			for i := range n {
				all = append(all, fmt.Sprintf("s%d", i))
			}
			for batch := range slices.Chunk(all, batch) {
				err := together(racers, func(w int) error {
					for i := w; i < len(batch); i += racers {
						err := cmp.Or(
							s.create(ctx, batch[i], v1, s.far(), s.far()),
							s.end(ctx, batch[i], 0, mark, s.far()),
						)
						if err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					return err
				}
				s.opts.Advance(2 * precision) // not all at the same time
			}
			return f.lists(ctx, all...)
		},
	},
	{
		name:  "ended-cancelled-context",
		needs: EndLog,
		why:   "a question that was given up is not waited for, and its error is no answer",
		check: func(ctx context.Context, s *subject) error {
			f, err := s.follow(ctx)
			err = cmp.Or(err,
				s.create(ctx, "s", v1, s.far(), s.far()),
				s.end(ctx, "s", 0, mark, s.far()),
			)
			if err != nil {
				return err
			}
			cancelled, cancel := context.WithCancel(ctx)
			cancel()
			if got, _, err := s.Ended(cancelled, f.next); err == nil || len(got) > 0 {
				return fmt.Errorf("Ended with a cancelled context = %d keys, %v; want none and an error", len(got), err)
			}
			return nil
		},
	},
}

// A follower asks again and again what ended.
type follower struct {
	s    *subject
	next time.Time
	seen []string // each key once
}

// follow returns a follower of what ends from now on.
func (s *subject) follow(ctx context.Context) (*follower, error) {
	keys, next, err := s.Ended(ctx, time.Time{})
	switch {
	case err != nil:
		return nil, fmt.Errorf("Ended(zero): %w", err)
	case len(keys) > 0 || next.IsZero():
		return nil, fmt.Errorf("Ended(zero) = %d keys, next %v; want none, and a time", len(keys), next)
	}
	return &follower{s: s, next: next}, nil
}

func (f *follower) ask(ctx context.Context) error {
	keys, next, err := f.s.Ended(ctx, f.next)
	if err != nil {
		return fmt.Errorf("Ended(%v): %w", f.next, err)
	}
	f.next = next
	known := make(map[string]bool, len(f.seen))
	for _, key := range f.seen {
		known[key] = true
	}
	for _, key := range keys {
		if !known[key] {
			known[key] = true
			f.seen = append(f.seen, key)
		}
	}
	return nil
}

// lists asks until these keys have been listed, and wants no others.
func (f *follower) lists(ctx context.Context, want ...string) error {
	var err error
	f.s.until(func() bool {
		err = f.ask(ctx)
		return err != nil || len(f.seen) >= len(want)
	})
	if err != nil {
		return err
	}
	got, want := slices.Sorted(slices.Values(f.seen)), slices.Sorted(slices.Values(want))
	for _, key := range want {
		if _, ok := slices.BinarySearch(got, key); !ok {
			return fmt.Errorf("Ended lists %d of %d keys, and never %q", len(got), len(want), key)
		}
	}
	for _, key := range got {
		if _, ok := slices.BinarySearch(want, key); !ok {
			return fmt.Errorf("Ended lists %q, which it should not", key)
		}
	}
	return nil
}
