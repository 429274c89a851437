package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// The contract's limits. What exceeds them is refused.
const (
	maxKey   = 64
	maxValue = 1 << 20
	maxMark  = 64
	maxNote  = 256
)

// A record is a string, so that to load it is one GET:
//
//	L vvvvvvvvvvvvvvvv eeeeeeeeeeeeeee lllllllllllllll value
//
// without the spaces: its version (16 hexadecimal digits), its expiry and its
// latest end (15 decimal digits each, Unix milliseconds). The key's own expiry
// is the same; it is written down since GET doesn't tell. A record that was
// ended is the letter M and its mark.
const (
	live     = 'L'
	ended    = 'M'
	header   = 1 + 16 + 15 + 15
	digits   = "%015d"
	latestMS = 999999999999999 // what fits into the digits: year 33658
)

// errNoRecord is for what somebody else wrote under a key of ours.
var errNoRecord = errors.New("the key holds no record")

// A Store keeps session records in Redis or Valkey. It is safe for concurrent
// use.
type Store struct {
	prefix string
	wait   time.Duration // for a replica; 0 or less: not at all
	connector

	created atomic.Bool // a session, and so Since was asked

	memory struct { // of a Cluster's answers to Since
		sync.Mutex
		since, asked time.Time
	}
}

// Load returns the live record under key, or ok false with the mark of one
// that was ended, or ok false and nil. It sends one GET.
func (s *Store) Load(ctx context.Context, key string) (value []byte, version uint64, expires time.Time, ok bool, err error) {
	resp := s.read(ctx, func(c rueidis.Client) rueidis.RedisResult {
		return c.Do(ctx, c.B().Arbitrary("GET").Keys(s.prefix+key).Build())
	})
	b, err := resp.AsBytes()
	switch {
	case rueidis.IsRedisNil(err):
		return nil, 0, time.Time{}, false, nil
	case err != nil:
		return nil, 0, time.Time{}, false, failed(ctx, "load", err)
	case len(b) > 1 && b[0] == ended:
		return b[1:len(b):len(b)], 0, time.Time{}, false, nil
	case len(b) < header || b[0] != live:
		return nil, 0, time.Time{}, false, failed(ctx, "load", errNoRecord)
	}
	version, err1 := strconv.ParseUint(string(b[1:17]), 16, 64)
	ms, err2 := strconv.ParseInt(string(b[17:32]), 10, 64)
	if err1 != nil || err2 != nil {
		return nil, 0, time.Time{}, false, failed(ctx, "load", errNoRecord)
	}
	return b[header:len(b):len(b)], version, time.UnixMilli(ms), true, nil
}

// Create files value under key, to keep until expires and, with Touch, until
// end at most. If the key holds a live record or a mark, ok is false. A server
// that is full refuses it, and that is an error.
func (s *Store) Create(ctx context.Context, key string, value []byte, expires, end time.Time) (ok bool, err error) {
	if err := check(key, value); err != nil {
		return false, err
	}
	last := millis(end)
	until := min(millis(expires), last)
	// By the time: the next record under the key, if there ever is one, begins
	// with a greater version.
	head := fmt.Sprintf("%c%016x"+digits+digits, live, time.Now().UnixMicro(), until, last)
	record := concat(head, value)
	err = s.call(ctx, func(c rueidis.Client) rueidis.RedisResult {
		return c.Do(ctx, c.B().Set().Key(s.prefix+key).Value(record).Nx().PxatMillisecondsTimestamp(until).Build())
	}).Error()
	switch {
	case rueidis.IsRedisNil(err):
		return false, nil
	case err != nil:
		return false, failed(ctx, "create", err)
	}
	if key[0] == 's' && s.created.CompareAndSwap(false, true) {
		s.Since(ctx) // the sooner it is written down, the further back it goes
	}
	return true, nil
}

// Replace overwrites the value of the live record under key if the record still
// has that version, and returns the new version, which is greater. Where the
// server has replicas, it waits a moment until one of them has it too.
func (s *Store) Replace(ctx context.Context, key string, version uint64, value []byte) (next uint64, ok bool, err error) {
	if err := check(key, value); err != nil {
		return 0, false, err
	}
	next = version + 1
	n, err := s.write(ctx, replaceScript, key, digitsOf(version), digitsOf(next), string(value))
	if err != nil {
		return 0, false, failed(ctx, "replace", err)
	}
	if n < 0 {
		return 0, false, nil
	}
	return next, true, nil
}

// Touch moves the expiry of the live record under key forward to expires, or
// to its end if that is earlier. ok is false if there is no live record.
func (s *Store) Touch(ctx context.Context, key string, expires time.Time) (ok bool, err error) {
	if err := check(key, nil); err != nil {
		return false, err
	}
	n, err := s.run(ctx, touchScript, []string{s.prefix + key}, fmt.Sprintf(digits, millis(expires))).AsInt64()
	if err != nil {
		return false, failed(ctx, "touch", err)
	}
	return n == 1, nil
}

// End replaces the live record under key by mark, to keep until the given time,
// if the record has that version or the version is 0. Where the server has
// replicas, it waits a moment until one of them has it too. It works on a
// server that is full.
func (s *Store) End(ctx context.Context, key string, version uint64, mark []byte, until time.Time) (ok bool, err error) {
	if err := check(key, nil); err != nil {
		return false, err
	}
	if len(mark) == 0 || len(mark) > maxMark {
		return false, fmt.Errorf("redisstore: a mark of %d bytes; 1 to %d are allowed", len(mark), maxMark)
	}
	judged := ""
	if version != 0 {
		judged = digitsOf(version)
	}
	keep := strconv.FormatInt(millis(until), 10)
	n, err := s.write(ctx, endScript, key, judged, keep, string(mark))
	if err != nil {
		return false, failed(ctx, "end", err)
	}
	if n < 0 {
		return false, nil
	}
	if key[0] == 's' {
		s.log(ctx, key, keep)
	}
	return true, nil
}

// write runs a script that changes the record under key and returns -1 if it
// refused, else how many replicas the server has. If there are any, it then
// waits until one has the change.
func (s *Store) write(ctx context.Context, script *script, key string, args ...string) (int64, error) {
	count := "0"
	if s.wait > 0 {
		count = "1"
	}
	name := s.prefix + key
	n, err := s.run(ctx, script, []string{name}, append(args, count)...).AsInt64()
	if err == nil && n > 0 {
		s.settle(ctx, name)
	}
	return n, err
}

// settle waits until a replica has what was written to the key, if that takes
// no longer than the store's bound. It is done whether or not one has.
//
// WAIT speaks of what was written by its own connection, and the one that wrote
// is shared with everybody's reads, which must not wait. So another connection
// writes once more what is there.
func (s *Store) settle(ctx context.Context, name string) {
	bound := s.wait
	if deadline, ok := ctx.Deadline(); ok {
		bound = min(bound, time.Until(deadline)/2)
	}
	if bound < time.Millisecond {
		return
	}
	s.call(ctx, func(c rueidis.Client) rueidis.RedisResult {
		return c.DoMulti(ctx,
			c.B().Eval().Script(settleScript).Numkeys(1).Key(name).Build(),
			c.B().Wait().Numreplicas(1).Timeout(bound.Milliseconds()).Build())[1]
	})
}

func check(key string, value []byte) error {
	if len(key) == 0 || len(key) > maxKey {
		return fmt.Errorf("redisstore: a key of %d bytes; 1 to %d are allowed", len(key), maxKey)
	}
	if key[0] < 'a' || key[0] > 'z' { // which are for keys that are not records
		return errors.New("redisstore: a key that begins with no small letter")
	}
	if len(value) > maxValue {
		return fmt.Errorf("redisstore: a value of %d bytes; %d are allowed", len(value), maxValue)
	}
	return nil
}

func digitsOf(version uint64) string { return fmt.Sprintf("%016x", version) }

// millis returns t in Unix milliseconds, or the nearest that can be kept.
func millis(t time.Time) int64 { return min(max(t.UnixMilli(), 1), latestMS) }

func concat(head string, value []byte) string {
	var b strings.Builder
	b.Grow(len(head) + len(value))
	b.WriteString(head)
	b.Write(value)
	return b.String()
}
