package redisstore_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/agglestone/bff/internal/testserver"
	"github.com/agglestone/bff/store/redisstore"
)

// A tag takes no more room than what is filed under it now, and goes with the
// last.
func TestTagsArePruned(t *testing.T) {
	for _, server := range servers {
		t.Run(server, func(t *testing.T) {
			r := testserver.StartRedis(t, server)
			s := open(t, single(r), redisstore.Options{})
			soon := time.Now().Add(200 * time.Millisecond)
			for i := range 500 {
				until := soon
				if i%5 == 0 {
					until = far
				}
				if err := s.Tag(t.Context(), "t1", fmt.Sprintf("s%d", i), []byte("note"), until); err != nil {
					t.Fatal(err)
				}
			}
			testserver.Eventually(t, "expiry", func() error {
				if notes, err := s.Tagged(t.Context(), "t1"); err != nil || len(notes) != 100 {
					return fmt.Errorf("%d notes, %v", len(notes), err)
				}
				return nil
			})
			if err := s.Tag(t.Context(), "t1", "slast", nil, far.Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
			if notes, until := r.Must("HLEN", "bff:{t1}notes").(int64), r.Must("ZCARD", "bff:{t1}until").(int64); notes != 101 || until != 101 {
				t.Errorf("the tag holds %d notes and %d times, want 101 of each", notes, until)
			}
			for _, name := range []string{"bff:{t1}notes", "bff:{t1}until"} {
				if got, want := r.Must("PEXPIRETIME", name).(int64), far.Add(time.Hour).UnixMilli(); got != want {
					t.Errorf("%s expires at %d, want %d, with the last", name, got, want)
				}
			}
			// The last goes first: then the tag goes with those that remain.
			if err := s.Tag(t.Context(), "t1", "slast", nil, time.Now()); err != nil {
				t.Fatal(err)
			}
			if got, want := r.Must("PEXPIRETIME", "bff:{t1}notes").(int64), far.UnixMilli(); got != want {
				t.Errorf("without the last it expires at %d, want %d", got, want)
			}
			for i := range 500 {
				if err := s.Untag(t.Context(), "t1", fmt.Sprintf("s%d", i)); err != nil {
					t.Fatal(err)
				}
			}
			if got := r.Must("KEYS", "*").([]any); len(got) != 0 {
				t.Errorf("with nothing under it, the tag leaves %q", got)
			}
		})
	}
}

// A tag may have any character, and both its keys are in one slot.
func TestTagsOfEveryKind(t *testing.T) {
	c := testserver.StartCluster(t, testserver.RedisServer, 3, false)
	s := open(t, clustered(c), redisstore.Options{})
	for _, tag := range []string{"t", "t{", "t}", "t{}", "t{a}b", "t}{", "t{{a}}", "t" + strings.Repeat("~", 63)} {
		if err := s.Tag(t.Context(), tag, "s{1}", []byte(tag), far); err != nil {
			t.Errorf("Tag(%q): %v", tag, err)
			continue
		}
		if notes, err := s.Tagged(t.Context(), tag); err != nil || len(notes) != 1 || string(notes["s{1}"]) != tag {
			t.Errorf("Tagged(%q) = %q, %v", tag, notes, err)
		}
	}
	for _, tag := range []string{"", "}", strings.Repeat("t", 65)} {
		if err := s.Tag(t.Context(), tag, "s1", nil, far); err == nil {
			t.Errorf("Tag(%q) is allowed", tag)
		}
		if _, err := s.Tagged(t.Context(), tag); err == nil {
			t.Errorf("Tagged(%q) is allowed", tag)
		}
		if err := s.Untag(t.Context(), tag, "s1"); err == nil {
			t.Errorf("Untag(%q) is allowed", tag)
		}
	}
}

// What exceeds the contract is refused, and so are keys that could be ours.
func TestLimits(t *testing.T) {
	r := testserver.StartRedis(t, testserver.RedisServer)
	s := open(t, single(r), redisstore.Options{})
	for _, key := range []string{"", "#ended", "{t1}notes", "1", strings.Repeat("s", 65)} {
		if _, err := s.Create(t.Context(), key, nil, far, far); err == nil {
			t.Errorf("Create(%q) is allowed", key)
		}
	}
	if _, err := s.Create(t.Context(), "s1", make([]byte, 1<<20+1), far, far); err == nil {
		t.Error("a value of more than 1 MiB is allowed")
	}
	create(t, s, "s1", "one")
	for _, mark := range []string{"", strings.Repeat("m", 65)} {
		if _, err := s.End(t.Context(), "s1", 0, []byte(mark), far); err == nil {
			t.Errorf("a mark of %d bytes is allowed", len(mark))
		}
	}
	if err := s.Tag(t.Context(), "t1", "s1", make([]byte, 257), far); err == nil {
		t.Error("a note of 257 bytes is allowed")
	}
	holds(t, s, "s1", "one")
}

// What somebody else wrote under a key of ours is no absence.
func TestForeignValues(t *testing.T) {
	r := testserver.StartRedis(t, testserver.RedisServer)
	s := open(t, single(r), redisstore.Options{})
	for i, value := range []string{"", "x", "L", "M", strings.Repeat("L", 47), "L" + strings.Repeat("0", 16) + strings.Repeat("x", 30)} {
		key := "s" + strconv.Itoa(i)
		r.Must("SET", "bff:"+key, value)
		if _, _, _, ok, err := s.Load(t.Context(), key); ok || err == nil {
			t.Errorf("Load of %q = %v, %v; want an error", value, ok, err)
		}
	}
	r.Must("LPUSH", "bff:slist", "x")
	if _, _, _, ok, err := s.Load(t.Context(), "slist"); ok || err == nil || !strings.Contains(err.Error(), "WRONGTYPE") {
		t.Errorf("Load of a list = %v, %v; want WRONGTYPE", ok, err)
	}
	if ok, err := s.Touch(t.Context(), "slist", far); ok || err == nil {
		t.Errorf("Touch of a list = %v, %v; want an error", ok, err)
	}
	r.Must("HSET", "bff:{t1}notes", "s1", "short")
	if _, err := s.Tagged(t.Context(), "t1"); err == nil {
		t.Error("Tagged takes what is no note")
	}
}

// The list of ended sessions is in order whatever the server's clock does, holds
// what has a mark, and is bounded.
func TestEndedList(t *testing.T) {
	for _, server := range servers {
		t.Run(server, func(t *testing.T) {
			r := testserver.StartRedis(t, server)
			s := open(t, single(r), redisstore.Options{})
			end := func(key string, until time.Time) {
				t.Helper()
				create(t, s, key, "one")
				if ok, err := s.End(t.Context(), key, 0, []byte("bye"), until); !ok || err != nil {
					t.Fatal(ok, err)
				}
			}
			ended := func(since time.Time, want ...string) time.Time {
				t.Helper()
				keys, next, err := s.Ended(t.Context(), since)
				if err != nil || !slices.Equal(keys, want) {
					t.Fatalf("Ended = %q, %v; want %q", keys, err, want)
				}
				return next
			}
			next := ended(time.Time{})
			end("s1", far)
			end("aspent", far) // no session
			end("s2", far)
			next = ended(next, "s1", "s2")
			ended(next)

			// The clock was ahead, and has been set right.
			ahead := time.Now().Add(time.Hour).UnixMicro()
			r.Must("ZADD", "bff:#ended", strconv.FormatInt(ahead, 10), "sahead "+strconv.FormatInt(far.UnixMilli(), 10))
			next = ended(next, "sahead")
			end("s3", far)
			end("s4", far)
			next = ended(next, "s3", "s4")
			ended(next)
			// Who was told a time that is not any more, hears of all.
			ended(time.Now().Add(2*time.Hour), "s1", "s2", "sahead", "s3", "s4")

			// What has no mark any more is not told, and is removed.
			soon := time.Now().Add(100 * time.Millisecond)
			r.Must("FLUSHALL")
			next = ended(time.Time{})
			for i := range 60 {
				end(fmt.Sprintf("ssoon%d", i), soon)
			}
			testserver.Eventually(t, "expiry", func() error {
				if keys, _, err := s.Ended(t.Context(), next); err != nil || len(keys) != 0 {
					return fmt.Errorf("%q, %v", keys, err)
				}
				return nil
			})
			end("s5", far)
			end("s6", far)
			ended(next, "s5", "s6")
			if got := r.Must("ZCARD", "bff:#ended").(int64); got != 2 {
				t.Errorf("the list has %d entries, want the two that have a mark", got)
			}
			if got, want := r.Must("PEXPIRETIME", "bff:#ended").(int64), far.UnixMilli(); got != want {
				t.Errorf("the list expires at %d, want %d, with the last mark", got, want)
			}

			// A long list is told in pieces, and not kept for ever.
			r.Must("EVAL", `for i = 1, 100500 do redis.call('ZADD', KEYS[1], i, 'sold' .. i .. ' `+strconv.FormatInt(far.UnixMilli(), 10)+`') end`, "1", "bff:#ended")
			end("s7", far)
			if got := r.Must("ZCARD", "bff:#ended").(int64); got != 100_000 {
				t.Errorf("the list has %d entries, want 100,000", got)
			}
			total, since := 0, time.Unix(0, 0)
			for {
				keys, next, err := s.Ended(t.Context(), since)
				if err != nil || len(keys) > 4096 {
					t.Fatalf("Ended = %d keys, %v", len(keys), err)
				}
				if total += len(keys); len(keys) < 4096 {
					if keys[len(keys)-1] != "s7" {
						t.Errorf("the last is %q, want s7", keys[len(keys)-1])
					}
					break
				}
				since = next
			}
			if total != 100_000 {
				t.Errorf("Ended tells %d, want 100,000", total)
			}
		})
	}
}

// A server that may have forgotten something says since when it has not.
func TestSince(t *testing.T) {
	for _, server := range servers {
		t.Run(server, func(t *testing.T) {
			r := testserver.StartRedis(t, server, "appendonly yes", "appendfsync always")
			s := open(t, single(r), redisstore.Options{})
			begun := time.Now()
			create(t, s, "s1", "one") // which is the first use
			used := time.Now().Add(2 * time.Millisecond)
			ask := func(s *redisstore.Store) time.Time {
				t.Helper()
				since, err := s.Since(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return since
			}
			first := ask(open(t, single(r), redisstore.Options{}))
			if first.Before(begun) || first.After(used) {
				t.Errorf("Since = %v, want between %v and %v", first, begun, used)
			}
			if again := ask(s); !again.Equal(first) {
				t.Errorf("Since = %v, and then %v", first, again)
			}
			for what, restart := range map[string]func(){
				"a restart":         func() { r.Kill(); r.Restart() },
				"an empty restart":  func() { r.Kill(); r.Empty(); r.Restart() },
				"it was emptied":    func() { r.Must("FLUSHALL") },
				"a restart in good": func() { r.Stop(); r.Restart() },
			} {
				restart()
				recovers(t, s, time.Second)
				later := ask(s)
				if !later.After(first) {
					t.Errorf("after %s Since = %v, which is not later than %v", what, later, first)
				}
				first = later
			}
		})
	}
}

// In a Cluster any master can forget.
func TestSinceCluster(t *testing.T) {
	c := testserver.StartCluster(t, testserver.RedisServer, 3, false)
	s := open(t, clustered(c), redisstore.Options{})
	first, err := s.Since(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range c.Masters {
		r.Must("FLUSHALL")
		testserver.Eventually(t, "a later time", func() error { // an answer is kept for a second
			later, err := s.Since(t.Context())
			if err != nil || !later.After(first) {
				return fmt.Errorf("%v, %v", later, err)
			}
			first = later
			return nil
		})
	}
}
