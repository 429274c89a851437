package storetest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// How often a race is run, and by how many.
const (
	rounds = 50
	racers = 8
)

var (
	v1, v2, v3 = []byte("one"), []byte("two"), []byte("three")
	mark       = []byte("session_revoked")
)

var rules = []rule{

	// Load and Create.

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
				key := fmt.Sprintf("a%d", round)
				var winner atomic.Int64
				err := oneOf(func(i int) (bool, error) {
					ok, err := s.Create(ctx, key, []byte{byte(i)}, far, far)
					if ok {
						winner.Store(int64(i))
					}
					return ok, err
				})
				if err := cmp.Or(err, s.holds(ctx, key, []byte{byte(winner.Load())}, far)); err != nil {
					return err
				}
			}
			return nil
		},
	},

	// Values.

	{
		name: "values-of-every-size",
		why:  "a session with large tokens is as good as any other",
		check: func(ctx context.Context, s *subject) error {
			far := s.far()
			if err := cmp.Or(s.create(ctx, "snil", nil, far, far), s.holds(ctx, "snil", nil, far)); err != nil {
				return err
			}
			for _, size := range []int{0, 1, 64 << 10, 1 << 20} {
				key := fmt.Sprintf("s%d", size)
				value := bytes.Repeat([]byte{0xa5}, size)
				if err := cmp.Or(s.create(ctx, key, value, far, far), s.holds(ctx, key, value, far)); err != nil {
					return err
				}
				was, err := s.live(ctx, key)
				if err != nil {
					return err
				}
				value = bytes.Repeat([]byte{0x5a}, size)
				_, err = s.replace(ctx, key, was.version, value)
				if err := cmp.Or(err, s.holds(ctx, key, value, far)); err != nil {
					return err
				}
			}
			return nil
		},
	},
	{
		name: "values-are-bytes",
		why:  "a sealed record is no text: changed by one byte, it never opens again",
		check: func(ctx context.Context, s *subject) error {
			value := []byte("\x00\r\n'\\\"%s\xff\xfe\xc3\x28\xed\xa0\x80 ")
			for b := range 256 {
				value = append(value, byte(b))
			}
			far := s.far()
			return cmp.Or(
				s.create(ctx, "s", value, far, far),
				s.holds(ctx, "s", value, far),
				s.end(ctx, "s", 0, value[:64], far),
				s.marked(ctx, "s", value[:64]),
			)
		},
	},
	{
		name: "values-are-copied",
		why:  "the caller's buffers are used again, for other sessions",
		check: func(ctx context.Context, s *subject) error {
			far := s.far()
			buf := append(make([]byte, 0, 64), v1...)
			err := s.create(ctx, "s", buf, far, far)
			_ = append(buf, "more"...)
			clear(buf)
			if err := cmp.Or(err, s.holds(ctx, "s", v1, far)); err != nil {
				return err
			}
			was, err := s.live(ctx, "s")
			if err != nil {
				return err
			}
			buf = append(buf[:0], v2...)
			_, err = s.replace(ctx, "s", was.version, buf)
			clear(buf)
			if err := cmp.Or(err, s.holds(ctx, "s", v2, far)); err != nil {
				return err
			}
			buf = append(buf[:0], mark...)
			err = s.end(ctx, "s", 0, buf, far)
			clear(buf)
			return cmp.Or(err, s.marked(ctx, "s", mark))
		},
	},
	{
		name: "loaded-values-stay",
		why:  "a request works with the record it loaded while others replace and end it",
		check: func(ctx context.Context, s *subject) error {
			far := s.far()
			if err := s.create(ctx, "s", v1, far, far); err != nil {
				return err
			}
			first, err := s.live(ctx, "s")
			if err != nil {
				return err
			}
			_ = append(first.value, "more"...)
			if _, err := s.replace(ctx, "s", first.version, v2); err != nil {
				return err
			}
			second, err := s.live(ctx, "s")
			if err := cmp.Or(err, s.end(ctx, "s", 0, mark, far)); err != nil {
				return err
			}
			if !bytes.Equal(first.value, v1) || !bytes.Equal(second.value, v2) {
				return fmt.Errorf("the values loaded became %s and %s, want %s and %s",
					short(first.value), short(second.value), short(v1), short(v2))
			}
			return nil
		},
	},

	// Replace.

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

	// Touch.

	{
		name: "touch-forward",
		why:  "who is active stays signed in",
		check: func(ctx context.Context, s *subject) error {
			err := s.create(ctx, "s", v1, s.in(2), s.far())
			to := s.in(4)
			err = cmp.Or(err, s.touch(ctx, "s", to), s.holds(ctx, "s", v1, to))
			s.wait(3)
			err = cmp.Or(err, s.holds(ctx, "s", v1, to))
			s.wait(1)
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

	// End and marks.

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
				s.end(ctx, "s", 0, mark, s.in(4)),
			)
			s.wait(3)
			err = cmp.Or(err, s.marked(ctx, "s", mark), s.taken(ctx, "s"))
			s.wait(1)
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
		name:  "dead-stays-dead",
		why:   "once End has returned, no refresh, slide or load that was under way shows or revives the session",
		check: deadStaysDead,
	},

	// Time.

	{
		name:  "expired-is-absent",
		why:   "a session is there until its time and never a moment longer, swept or not",
		check: expiredIsAbsent,
	},

	// Contexts.

	{
		name:  "cancelled-context",
		why:   "a request that was given up is not waited for, and its error is no answer",
		check: cancelledContext,
	},

	// Keys.

	{
		name:  "keys-of-every-kind",
		why:   "a key may have any printable ASCII character anywhere and 64 of them",
		check: keysOfEveryKind,
	},
	{
		name:  "keys-apart",
		why:   "what happens to one session happens to no other, however alike the keys are",
		check: keysApart,
	},
	{
		name:  "many-keys",
		why:   "a store holds as many sessions as it says, and mixes up none",
		check: manyKeys,
	},
}

// oneOf runs f by racers goroutines at once and wants exactly one true.
func oneOf(f func(i int) (bool, error)) error {
	var winners atomic.Int64
	err := together(racers, func(i int) error {
		ok, err := f(i)
		if ok {
			winners.Add(1)
		}
		return err
	})
	if err == nil && winners.Load() != 1 {
		err = fmt.Errorf("%d of %d at once were ok, want 1", winners.Load(), racers)
	}
	return err
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

func keysOfEveryKind(ctx context.Context, s *subject) error {
	var keys []string
	for _, kind := range "satj" {
		for c := '!'; c <= '~'; c++ {
			keys = append(keys, fmt.Sprintf("%c%c", kind, c))
		}
		long := []byte{byte(kind)}
		for i := range 63 {
			long = append(long, byte('~'-i))
		}
		keys = append(keys, string(kind), string(long))
	}
	far := s.far()
	for _, key := range keys {
		if err := cmp.Or(s.create(ctx, key, []byte(key), far, far), s.taken(ctx, key)); err != nil {
			return err
		}
	}
	for _, key := range keys {
		if err := s.holds(ctx, key, []byte(key), far); err != nil {
			return err
		}
	}
	return nil
}

func keysApart(ctx context.Context, s *subject) error {
	long := string(bytes.Repeat([]byte("x"), 62))
	alike := []string{
		"sAb", "sab", "sAB", // letters matter
		"sab-", "sab_", "sab%", "sab*", "sab?", "s[ab]", // and wildcards are none
		"sa", "sabc", "s:ab", "s:ab:", // parts of one another
		"aAb", "tab", "jab", // of other kinds
		"s" + long + "1", "s" + long + "2", // 64 bytes, all of them
		"sa'b", `sa"b`, "sa`b", `sa\b`, "sa;b", "sa{b}c", "sa{b}d",
	}
	far := s.far()
	var records []found
	for _, key := range alike {
		if err := s.create(ctx, key, []byte(key), s.in(1000), far); err != nil {
			return err
		}
		r, err := s.live(ctx, key)
		if err != nil {
			return err
		}
		records = append(records, r)
	}
	for i, key := range alike {
		next, err := s.replace(ctx, key, records[i].version, v2)
		err = cmp.Or(err,
			s.touch(ctx, key, far),
			s.same(ctx, key, found{v2, next, far}),
			s.end(ctx, key, next, mark, far),
			s.marked(ctx, key, mark),
		)
		if err != nil {
			return err
		}
		for j := i + 1; j < len(alike); j++ {
			if err := s.same(ctx, alike[j], records[j]); err != nil {
				return fmt.Errorf("after changes to %q: %w", key, err)
			}
		}
	}
	for _, key := range alike {
		if err := s.marked(ctx, key, mark); err != nil {
			return err
		}
	}
	return nil
}

func manyKeys(ctx context.Context, s *subject) error {
	far := s.far()
	key := func(i int) string { return fmt.Sprintf("s%07x", i) }
	const workers = 16
	each := func(f func(i int) error) error {
		return together(workers, func(w int) error {
			for i := w; i < s.opts.Keys; i += workers {
				if err := f(i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return cmp.Or(
		each(func(i int) error {
			return s.create(ctx, key(i), []byte(key(i)), far, far)
		}),
		each(func(i int) error {
			if i%10 != 0 {
				return nil
			}
			return s.end(ctx, key(i), 0, mark, far)
		}),
		each(func(i int) error {
			if i%10 == 0 {
				return s.marked(ctx, key(i), mark)
			}
			return s.holds(ctx, key(i), []byte(key(i)), far)
		}),
	)
}
