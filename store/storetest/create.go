package storetest

import (
	"cmp"
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

var createRules = []rule{
	{
		name: "load-absent",
		why:  "absence is an answer: an error would be 503 for everybody with an old cookie",
		check: func(ctx context.Context, s *subject) error {
			return s.absent(ctx, "sabsent")
		},
	},
	{
		name: "create-then-load",
		why:  "what was filed at login is the session, until the time that was said",
		check: func(ctx context.Context, s *subject) error {
			expires := time.Now().Add(time.Hour + 123456789*time.Nanosecond)
			return cmp.Or(
				s.create(ctx, "s", v1, expires, s.far()),
				s.holds(ctx, "s", v1, expires),
				s.holds(ctx, "s", v1, expires), // to load it changes nothing
			)
		},
	},
	{
		name: "create-refuses-live",
		why:  "a spent login attempt is known by its record: filed twice, a code is redeemed twice",
		check: func(ctx context.Context, s *subject) error {
			if err := s.create(ctx, "s", v1, s.in(1000), s.far()); err != nil {
				return err
			}
			was, err := s.live(ctx, "s")
			return cmp.Or(err, s.taken(ctx, "s"), s.same(ctx, "s", was))
		},
	},
	{
		name: "create-refuses-mark",
		why:  "an ended session is not filed anew by a request that was on its way",
		check: func(ctx context.Context, s *subject) error {
			return cmp.Or(
				s.create(ctx, "s", v1, s.far(), s.far()),
				s.end(ctx, "s", 0, mark, s.far()),
				s.taken(ctx, "s"),
				s.marked(ctx, "s", mark),
			)
		},
	},
	{
		name: "create-after-expiry",
		why:  "a key is free once its record expired, swept or not, and nothing of the old record clings to the new one",
		check: func(ctx context.Context, s *subject) error {
			err := s.create(ctx, "s", v1, s.in(1), s.in(2))
			s.wait(1)
			far := s.far()
			return cmp.Or(err,
				s.create(ctx, "s", v2, s.in(2), far),
				s.touch(ctx, "s", far), // the old end binds no longer
				s.holds(ctx, "s", v2, far),
			)
		},
	},
	{
		name: "create-after-mark",
		why:  "a key is free once its mark expired, and the new record is a live one",
		check: func(ctx context.Context, s *subject) error {
			err := cmp.Or(
				s.create(ctx, "s", v1, s.far(), s.far()),
				s.end(ctx, "s", 0, mark, s.in(1)),
			)
			s.wait(1)
			far := s.far()
			return cmp.Or(err, s.create(ctx, "s", v2, far, far), s.holds(ctx, "s", v2, far))
		},
	},
	{
		name: "create-one-winner",
		why:  "of all replicas that are sent the same login response, one redeems the code",
		check: func(ctx context.Context, s *subject) error {
			far := s.far()
			for round := range rounds {
				if err := s.createOne(ctx, fmt.Sprintf("a%d", round), far); err != nil {
					return err
				}
			}
			return nil
		},
	},
	{
		name: "create-one-winner-after-expiry",
		why:  "a key that is free again is free for one: the next attempt must not find two winners either",
		check: func(ctx context.Context, s *subject) error {
			expires := s.in(2)
			for round := range rounds {
				if err := s.create(ctx, fmt.Sprintf("a%d", round), v1, expires, expires); err != nil {
					return err
				}
			}
			s.wait(2)
			far := s.far()
			for round := range rounds {
				if err := s.createOne(ctx, fmt.Sprintf("a%d", round), far); err != nil {
					return err
				}
			}
			return nil
		},
	},
}

// createOne has many create the record under key at once, of whom one may.
func (s *subject) createOne(ctx context.Context, key string, expires time.Time) error {
	var winner atomic.Int64
	err := oneOf(func(i int) (bool, error) {
		ok, err := s.Create(ctx, key, []byte{byte(i)}, expires, expires)
		if ok {
			winner.Store(int64(i))
		}
		return ok, err
	})
	return cmp.Or(err, s.holds(ctx, key, []byte{byte(winner.Load())}, expires))
}
