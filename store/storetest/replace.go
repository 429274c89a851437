package storetest

import (
	"cmp"
	"context"
	"fmt"
	"sync/atomic"
)

var replaceRules = []rule{
	{
		name: "replace",
		why:  "a refreshed token is there for the next request",
		check: func(ctx context.Context, s *subject) error {
			far := s.far()
			if err := s.create(ctx, "s", v1, far, far); err != nil {
				return err
			}
			was, err := s.live(ctx, "s")
			if err != nil {
				return err
			}
			next, err := s.replace(ctx, "s", was.version, v2)
			return cmp.Or(err, s.same(ctx, "s", found{v2, next, far}))
		},
	},
	{
		name: "replace-wrong-version",
		why:  "who acts on an old reading spends a refresh token that is spent",
		check: func(ctx context.Context, s *subject) error {
			far := s.far()
			if err := s.create(ctx, "s", v1, far, far); err != nil {
				return err
			}
			was, err := s.live(ctx, "s")
			if err != nil {
				return err
			}
			next, err := s.replace(ctx, "s", was.version, v2)
			if err != nil {
				return err
			}
			for _, wrong := range []uint64{was.version, next + 1, 1 << 63, 0} {
				if err := cmp.Or(s.refuseReplace(ctx, "s", wrong), s.same(ctx, "s", found{v2, next, far})); err != nil {
					return fmt.Errorf("version %d instead of %d: %w", wrong, next, err)
				}
			}
			return nil
		},
	},
	{
		name: "replace-never-creates",
		why:  "a refresh that ends after logout must not bring the session back",
		check: func(ctx context.Context, s *subject) error {
			for _, version := range []uint64{0, 1} {
				if err := cmp.Or(s.refuseReplace(ctx, "s", version), s.absent(ctx, "s")); err != nil {
					return err
				}
			}
			return nil
		},
	},
	{
		name: "replace-not-after-end",
		why:  "a refresh that ends after logout must not bring the session back",
		check: func(ctx context.Context, s *subject) error {
			if err := s.create(ctx, "s", v1, s.far(), s.far()); err != nil {
				return err
			}
			was, err := s.live(ctx, "s")
			if err := cmp.Or(err, s.end(ctx, "s", was.version, mark, s.far())); err != nil {
				return err
			}
			for _, version := range []uint64{was.version, was.version + 1, was.version + 2, 1, 0} { // the mark may have one
				if err := s.refuseReplace(ctx, "s", version); err != nil {
					return err
				}
			}
			return s.marked(ctx, "s", mark)
		},
	},
	{
		name: "replace-not-after-expiry",
		why:  "an expired session is over, even if its record is still around",
		check: func(ctx context.Context, s *subject) error {
			err := s.create(ctx, "s", v1, s.in(1), s.far())
			was, err2 := s.live(ctx, "s")
			s.wait(1)
			return cmp.Or(err, err2, s.refuseReplace(ctx, "s", was.version), s.absent(ctx, "s"))
		},
	},
	{
		name: "replace-keeps-expiry",
		why:  "a refresh must neither undo a slide nor extend a session that nobody uses",
		check: func(ctx context.Context, s *subject) error {
			expires, end := s.in(2), s.in(4)
			err := s.create(ctx, "s", v1, expires, end)
			was, err2 := s.live(ctx, "s")
			if err := cmp.Or(err, err2); err != nil {
				return err
			}
			version, err := s.replace(ctx, "s", was.version, v2)
			if err := cmp.Or(err, s.holds(ctx, "s", v2, expires)); err != nil {
				return err
			}
			expires = s.in(3)
			err = s.touch(ctx, "s", expires)
			_, err2 = s.replace(ctx, "s", version, v3)
			if err := cmp.Or(err, err2, s.holds(ctx, "s", v3, expires)); err != nil {
				return err
			}
			// And the end is still the one that Create fixed.
			return cmp.Or(s.touch(ctx, "s", s.far()), s.holds(ctx, "s", v3, end))
		},
	},
	{
		name: "replace-one-winner",
		why:  "the right to refresh is a claim written with Replace: two winners make two refreshes, and the issuer ends the grant",
		check: func(ctx context.Context, s *subject) error {
			if err := s.create(ctx, "s", v1, s.far(), s.far()); err != nil {
				return err
			}
			for range rounds {
				was, err := s.live(ctx, "s")
				if err != nil {
					return err
				}
				var winner, next atomic.Uint64
				err = oneOf(func(i int) (bool, error) {
					version, ok, err := s.Replace(ctx, "s", was.version, []byte{byte(i)})
					if ok {
						winner.Store(uint64(i))
						next.Store(version)
					}
					return ok, err
				})
				if err != nil {
					return err
				}
				if err := s.same(ctx, "s", found{[]byte{byte(winner.Load())}, next.Load(), was.expires}); err != nil {
					return err
				}
			}
			return nil
		},
	},
	{
		name: "load-is-one-reading",
		why:  "who loads one version's tokens under another's number may then overwrite tokens that nobody has read",
		check: func(ctx context.Context, s *subject) error {
			if err := s.create(ctx, "s", []byte{0}, s.far(), s.far()); err != nil {
				return err
			}
			was, err := s.live(ctx, "s")
			if err != nil {
				return err
			}
			for n := byte(1); n <= rounds; n++ {
				var next uint64
				seen := make([]found, racers)
				err := together(racers, func(i int) (err error) {
					if i == int(n)%racers {
						next, err = s.replace(ctx, "s", was.version, []byte{n})
						return err
					}
					seen[i], err = s.live(ctx, "s")
					return err
				})
				if err != nil {
					return err
				}
				now := found{[]byte{n}, next, was.expires}
				for _, f := range seen {
					if f.value != nil && !f.is(was) && !f.is(now) {
						return fmt.Errorf("Load has %s as version %d, which is neither %s as version %d nor %s as version %d",
							short(f.value), f.version, short(was.value), was.version, short(now.value), now.version)
					}
				}
				was = now
			}
			return nil
		},
	},
	{
		name: "versions-grow",
		why:  "a version that comes back lets through what was decided on an older record; the newer of two readings is the one with the greater version",
		check: func(ctx context.Context, s *subject) error {
			if err := s.create(ctx, "s", v1, s.in(100), s.far()); err != nil {
				return err
			}
			was, err := s.live(ctx, "s")
			if err != nil {
				return err
			}
			for i := range 20 {
				// The same value again is a new version too.
				next, err := s.replace(ctx, "s", was.version, v2)
				if err := cmp.Or(err, s.touch(ctx, "s", s.in(101+i))); err != nil {
					return err
				}
				got, err := s.live(ctx, "s")
				if err != nil {
					return err
				}
				if got.version != next {
					return fmt.Errorf("Replace made version %d, Load says %d", next, got.version)
				}
				was = got
			}
			return nil
		},
	},
}
