package storetest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"sync/atomic"
)

var endRules = []rule{
	{
		name: "end-by-version",
		why:  "who concludes from a refusal that the session is over must have judged the record that is there",
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
			return cmp.Or(err,
				s.refuseEnd(ctx, "s", was.version),
				s.refuseEnd(ctx, "s", next+1),
				s.same(ctx, "s", found{v2, next, far}),
				s.end(ctx, "s", next, mark, far),
				s.marked(ctx, "s", mark),
			)
		},
	},
	{
		name: "end-by-command",
		why:  "signing out works whatever a refresh does meanwhile",
		check: func(ctx context.Context, s *subject) error {
			if err := s.create(ctx, "s", v1, s.far(), s.far()); err != nil {
				return err
			}
			was, err := s.live(ctx, "s")
			if err != nil {
				return err
			}
			_, err = s.replace(ctx, "s", was.version, v2)
			return cmp.Or(err, s.end(ctx, "s", 0, mark, s.far()), s.marked(ctx, "s", mark))
		},
	},
	{
		name: "end-absent",
		why:  "there is nothing to leave a mark for",
		check: func(ctx context.Context, s *subject) error {
			return cmp.Or(s.refuseEnd(ctx, "s", 0), s.refuseEnd(ctx, "s", 1), s.absent(ctx, "s"))
		},
	},
	{
		name: "end-not-after-expiry",
		why:  "an expired session ended by itself and leaves no mark",
		check: func(ctx context.Context, s *subject) error {
			err := s.create(ctx, "s", v1, s.in(1), s.far())
			was, err2 := s.live(ctx, "s")
			s.wait(1)
			return cmp.Or(err, err2, s.refuseEnd(ctx, "s", 0), s.refuseEnd(ctx, "s", was.version), s.absent(ctx, "s"))
		},
	},
	{
		name: "end-once",
		why:  "the first reason is the true one: a logout after a revocation doesn't hide it",
		check: func(ctx context.Context, s *subject) error {
			if err := s.create(ctx, "s", v1, s.far(), s.far()); err != nil {
				return err
			}
			was, err := s.live(ctx, "s")
			err = cmp.Or(err,
				s.end(ctx, "s", 0, mark, s.in(1)),
				s.refuseEnd(ctx, "s", 0),
				s.refuseEnd(ctx, "s", was.version),
				s.refuseEnd(ctx, "s", was.version+1),
				s.marked(ctx, "s", mark),
			)
			s.wait(1)
			return cmp.Or(err, s.absent(ctx, "s"))
		},
	},
	{
		name: "end-keeps-nothing",
		why:  "an ended session's tokens are gone, not hidden, however short the mark",
		check: func(ctx context.Context, s *subject) error {
			for _, mark := range [][]byte{[]byte("x"), bytes.Repeat([]byte("m"), 64)} {
				key := fmt.Sprintf("s%d", len(mark))
				err := cmp.Or(
					s.create(ctx, key, bytes.Repeat([]byte("token"), 100), s.far(), s.far()),
					s.end(ctx, key, 0, mark, s.far()),
					s.marked(ctx, key, mark),
				)
				if err != nil {
					return err
				}
			}
			return nil
		},
	},
	{
		name: "mark-outlives-expiry",
		why:  "a mark is kept as long as was said, not as long as the record would have been",
		check: func(ctx context.Context, s *subject) error {
			err := cmp.Or(
				s.create(ctx, "s", v1, s.in(1), s.in(2)),
				s.end(ctx, "s", 0, mark, s.in(5)),
			)
			s.wait(2)
			err = cmp.Or(err, s.marked(ctx, "s", mark), s.taken(ctx, "s"))
			s.wait(3)
			return cmp.Or(err, s.absent(ctx, "s"))
		},
	},
	{
		name: "mark-expires-first",
		why:  "when the mark is gone there is nothing, however long the record would have lived",
		check: func(ctx context.Context, s *subject) error {
			err := s.create(ctx, "s", v1, s.in(10), s.far())
			was, err2 := s.live(ctx, "s")
			err = cmp.Or(err, err2, s.end(ctx, "s", 0, mark, s.in(1)), s.marked(ctx, "s", mark))
			s.wait(1)
			return cmp.Or(err,
				s.absent(ctx, "s"),
				s.refuseReplace(ctx, "s", was.version),
				s.refuseTouch(ctx, "s"),
				s.refuseEnd(ctx, "s", 0),
				s.absent(ctx, "s"),
			)
		},
	},
	{
		name: "end-one-winner",
		why:  "a session ends once, for one reason, and one caller revokes its tokens",
		check: func(ctx context.Context, s *subject) error {
			for round := range rounds {
				key := fmt.Sprintf("s%d", round)
				if err := s.create(ctx, key, v1, s.far(), s.far()); err != nil {
					return err
				}
				was, err := s.live(ctx, key)
				if err != nil {
					return err
				}
				var winner atomic.Int64
				err = oneOf(func(i int) (bool, error) {
					version := uint64(0) // half of them by command
					if i%2 == 0 {
						version = was.version
					}
					ok, err := s.End(ctx, key, version, []byte{byte(i + 1)}, s.far())
					if ok {
						winner.Store(int64(i + 1))
					}
					return ok, err
				})
				if err := cmp.Or(err, s.marked(ctx, key, []byte{byte(winner.Load())})); err != nil {
					return err
				}
			}
			return nil
		},
	},
	{
		name: "end-or-replace",
		why:  "who concludes that a session is over, while another has just refreshed it, must lose: a healthy session would end (D5)",
		check: func(ctx context.Context, s *subject) error {
			for round := range rounds {
				key := fmt.Sprintf("s%d", round)
				far := s.far()
				if err := s.create(ctx, key, v1, far, far); err != nil {
					return err
				}
				was, err := s.live(ctx, key)
				if err != nil {
					return err
				}
				var refreshed atomic.Bool
				err = oneOf(func(i int) (ok bool, err error) {
					if (i+round)%2 == 0 { // by turns, who starts first
						return s.End(ctx, key, was.version, mark, far)
					}
					_, ok, err = s.Replace(ctx, key, was.version, v2)
					if ok {
						refreshed.Store(true)
					}
					return ok, err
				})
				if refreshed.Load() {
					err = cmp.Or(err, s.holds(ctx, key, v2, far))
				} else {
					err = cmp.Or(err, s.marked(ctx, key, mark))
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	},
	{
		name:  "dead-stays-dead",
		why:   "once End has returned, no refresh, slide or load that was under way shows or revives the session",
		check: deadStaysDead,
	},
}

func deadStaysDead(ctx context.Context, s *subject) error {
	for round := range rounds {
		key := fmt.Sprintf("s%d", round)
		if err := s.create(ctx, key, v1, s.in(1000), s.far()); err != nil {
			return err
		}
		was, err := s.live(ctx, key)
		if err != nil {
			return err
		}
		ended := make(chan struct{})
		err = together(racers, func(i int) error {
			if i == round%racers {
				defer close(ended)
				for range round {
					if _, err := s.live(ctx, key); err != nil {
						return err
					}
				}
				return s.end(ctx, key, 0, mark, s.far())
			}
			version := was.version
			for range 20 {
				var err error
				if version, err = s.survive(ctx, key, version, i%2 == 0, ended); err != nil {
					return err
				}
			}
			<-ended
			_, err := s.survive(ctx, key, version, i%2 == 0, ended)
			return err
		})
		if err := cmp.Or(err, s.marked(ctx, key, mark)); err != nil {
			return err
		}
	}
	return nil
}

// survive tries once to load and then to touch or replace a record, and wants
// each refused if it began after End had returned.
func (s *subject) survive(ctx context.Context, key string, version uint64, touch bool, ended <-chan struct{}) (uint64, error) {
	dead := isClosed(ended)
	value, current, _, ok, err := s.Load(ctx, key)
	switch {
	case err != nil || ok && dead:
		return 0, fmt.Errorf("Load(%q) = ok %v, %v; End had returned: %v", key, ok, err, dead)
	case !ok && !bytes.Equal(value, mark):
		return 0, fmt.Errorf("Load(%q) = %s, ok false; want a live record or its mark", key, short(value))
	case ok:
		version = current
	}
	dead = isClosed(ended)
	op := "Replace"
	if touch {
		op = "Touch"
		ok, err = s.Touch(ctx, key, s.far())
	} else {
		_, ok, err = s.Replace(ctx, key, version, v2)
	}
	if err != nil || ok && dead {
		return 0, fmt.Errorf("%s(%q) = ok %v, %v; End had returned: %v", op, key, ok, err, dead)
	}
	return version, nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
