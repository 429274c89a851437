package storetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"
)

var timeRules = []rule{
	{
		name:  "expired-is-absent",
		why:   "a session is there until its time and never a moment longer, swept or not",
		check: expiredIsAbsent,
	},

	{
		name:  "cancelled-context",
		why:   "a request that was given up is not waited for, and its error is no answer",
		check: cancelledContext,
	},
}

func expiredIsAbsent(ctx context.Context, s *subject) error {
	expires := s.in(2)
	until := s.in(3)
	err := cmp.Or(
		s.create(ctx, "s", v1, expires, s.far()),
		s.create(ctx, "sended", v1, s.far(), s.far()),
		s.end(ctx, "sended", 0, mark, until),
	)
	if err != nil {
		return err
	}
	look := func(int) error {
		before := time.Now()
		value, _, _, ok, err := s.Load(ctx, "s")
		after := time.Now()
		switch {
		case err != nil:
			return err
		case ok && !before.Before(expires.Add(precision)):
			return fmt.Errorf("Load returns a record %v past its expiry", before.Sub(expires))
		case !ok && after.Before(expires.Add(-precision)):
			return fmt.Errorf("Load misses a record %v before its expiry", expires.Sub(after))
		case !ok && value != nil:
			return fmt.Errorf("Load returns %s with an expired record", short(value))
		}
		before = time.Now()
		value, _, _, ok, err = s.Load(ctx, "sended")
		after = time.Now()
		switch {
		case err != nil:
			return err
		case ok:
			return errors.New("Load shows an ended record")
		case value != nil && !before.Before(until.Add(precision)):
			return fmt.Errorf("Load returns a mark %v past its expiry", before.Sub(until))
		case value == nil && after.Before(until.Add(-precision)):
			return fmt.Errorf("Load misses a mark %v before its expiry", until.Sub(after))
		}
		return nil
	}
	for _, moment := range []time.Time{expires, until} {
		for steps := -4; steps <= 4; steps++ {
			if d := time.Until(moment.Add(time.Duration(steps) * precision)); d > 0 {
				s.opts.Advance(d)
			}
			if err := together(racers, look); err != nil {
				return err
			}
		}
	}
	s.wait(1)
	return cmp.Or(s.absent(ctx, "s"), s.absent(ctx, "sended"))
}

func cancelledContext(ctx context.Context, s *subject) error {
	far := s.far()
	if err := s.create(ctx, "s", v1, s.in(1000), far); err != nil {
		return err
	}
	was, err := s.live(ctx, "s")
	if err != nil {
		return err
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	for op, f := range map[string]func() (bool, error){
		"Load": func() (bool, error) {
			_, _, _, ok, err := s.Load(cancelled, "s")
			return ok, err
		},
		"Create": func() (bool, error) {
			return s.Create(cancelled, "sother", v2, far, far)
		},
		"Replace": func() (bool, error) {
			_, ok, err := s.Replace(cancelled, "s", was.version, v2)
			return ok, err
		},
		"Touch": func() (bool, error) {
			return s.Touch(cancelled, "s", far)
		},
		"End": func() (bool, error) {
			return s.End(cancelled, "s", 0, mark, far)
		},
	} {
		if ok, err := f(); ok || err == nil {
			return fmt.Errorf("%s with a cancelled context = ok %v, %v; want ok false and an error", op, ok, err)
		}
	}
	return cmp.Or(s.same(ctx, "s", was), s.absent(ctx, "sother"))
}
