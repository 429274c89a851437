package storetest

import (
	"cmp"
	"context"
	"time"
)

var touchRules = []rule{
	{
		name: "touch-forward",
		why:  "who is active stays signed in",
		check: func(ctx context.Context, s *subject) error {
			err := s.create(ctx, "s", v1, s.in(2), s.far())
			to := s.in(5)
			err = cmp.Or(err, s.touch(ctx, "s", to), s.holds(ctx, "s", v1, to))
			s.wait(2)
			err = cmp.Or(err, s.holds(ctx, "s", v1, to))
			s.wait(3)
			return cmp.Or(err, s.absent(ctx, "s"))
		},
	},
	{
		name: "touch-never-back",
		why:  "a replica whose clock is behind must not sign anybody out early, and needs no error",
		check: func(ctx context.Context, s *subject) error {
			expires := s.in(5)
			return cmp.Or(
				s.create(ctx, "s", v1, expires, s.far()),
				s.touch(ctx, "s", s.in(1)),
				s.holds(ctx, "s", v1, expires),
				s.touch(ctx, "s", expires),
				s.holds(ctx, "s", v1, expires),
				s.touch(ctx, "s", time.Now().Add(-time.Hour)),
				s.holds(ctx, "s", v1, expires),
			)
		},
	},
	{
		name: "touch-stops-at-end",
		why:  "no activity keeps a session alive beyond its lifetime",
		check: func(ctx context.Context, s *subject) error {
			end := s.in(2)
			err := cmp.Or(
				s.create(ctx, "s", v1, s.in(1), end),
				s.touch(ctx, "s", s.far()),
				s.holds(ctx, "s", v1, end),
				s.touch(ctx, "s", s.far()),
				s.holds(ctx, "s", v1, end),
			)
			s.wait(2)
			return cmp.Or(err, s.absent(ctx, "s"))
		},
	},
	{
		name: "touch-never-creates",
		why:  "a request on its way during logout must not bring the session back",
		check: func(ctx context.Context, s *subject) error {
			return cmp.Or(s.refuseTouch(ctx, "s"), s.absent(ctx, "s"))
		},
	},
	{
		name: "touch-not-after-end",
		why:  "a request on its way during logout must neither bring the session back nor keep its mark for ever",
		check: func(ctx context.Context, s *subject) error {
			err := cmp.Or(
				s.create(ctx, "s", v1, s.far(), s.far()),
				s.end(ctx, "s", 0, mark, s.in(1)),
				s.refuseTouch(ctx, "s"),
				s.marked(ctx, "s", mark),
			)
			s.wait(1)
			return cmp.Or(err, s.absent(ctx, "s"))
		},
	},
	{
		name: "touch-not-after-expiry",
		why:  "who comes back after the idle timeout signs in again",
		check: func(ctx context.Context, s *subject) error {
			err := s.create(ctx, "s", v1, s.in(1), s.far())
			s.wait(1)
			return cmp.Or(err, s.refuseTouch(ctx, "s"), s.absent(ctx, "s"))
		},
	},
	{
		name: "touch-leaves-the-rest",
		why:  "sliding must not make a refresh under way fail, nor undo one",
		check: func(ctx context.Context, s *subject) error {
			if err := s.create(ctx, "s", v1, s.in(10), s.far()); err != nil {
				return err
			}
			was, err := s.live(ctx, "s")
			if err != nil {
				return err
			}
			was.expires = s.in(20)
			return cmp.Or(s.touch(ctx, "s", was.expires), s.same(ctx, "s", was))
		},
	},
	{
		name: "touch-together",
		why:  "of many requests at once the one that keeps the session longest counts, whichever the store sees last",
		check: func(ctx context.Context, s *subject) error {
			start := time.Now()
			at := func(n int) time.Time { return start.Add(time.Hour + time.Duration(n)*time.Minute) }
			if err := s.create(ctx, "s", v1, at(0), s.far()); err != nil {
				return err
			}
			for round := range rounds {
				err := together(racers, func(i int) error {
					return s.touch(ctx, "s", at(round*racers+(i+round)%racers))
				})
				if err := cmp.Or(err, s.holds(ctx, "s", v1, at(round*racers+racers-1))); err != nil {
					return err
				}
			}
			return nil
		},
	},
	{
		name: "touch-beside-replace",
		why:  "sliding and refreshing the same session at the same time lose neither the new expiry nor the new tokens",
		check: func(ctx context.Context, s *subject) error {
			start := time.Now()
			at := func(i int) time.Time { return start.Add(time.Hour + time.Duration(i)*time.Minute) }
			if err := s.create(ctx, "s", []byte{0}, at(0), s.far()); err != nil {
				return err
			}
			was, err := s.live(ctx, "s")
			if err != nil {
				return err
			}
			for n := 1; n <= rounds; n++ {
				var next uint64
				err := together(2, func(i int) (err error) {
					if (n+i)%2 == 0 { // by turns, who starts first
						return s.touch(ctx, "s", at(n))
					}
					next, err = s.replace(ctx, "s", was.version, []byte{byte(n)})
					return err
				})
				was = found{[]byte{byte(n)}, next, at(n)}
				if err := cmp.Or(err, s.same(ctx, "s", was)); err != nil {
					return err
				}
			}
			return nil
		},
	},
}
