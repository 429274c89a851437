package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// The keys that are filed under a tag are in two places, of one slot: a sorted
// set has them by the time until which they are filed, and a hash has their
// notes, each behind that time (15 digits). Whoever files a key removes those
// whose time has passed, and both go when the last one's has. So a tag takes no
// more room than the sessions that it leads to, or did when it was last used.

// Arguments: the key, its note, until when.
var tagScript = newScript(`#!lua
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
for _ = 1, 20 do
	local gone = redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE', 'LIMIT', 0, 100)
	if #gone == 0 then break end
	redis.call('ZREM', KEYS[1], unpack(gone))
	redis.call('HDEL', KEYS[2], unpack(gone))
end
if tonumber(ARGV[3]) > now then
	redis.call('ZADD', KEYS[1], tonumber(ARGV[3]), ARGV[1])
	redis.call('HSET', KEYS[2], ARGV[1], ARGV[3] .. ARGV[2])
else
	redis.call('ZREM', KEYS[1], ARGV[1])
	redis.call('HDEL', KEYS[2], ARGV[1])
end
local last = redis.call('ZRANGE', KEYS[1], 0, 0, 'REV', 'WITHSCORES')
if last[2] then
	redis.call('PEXPIREAT', KEYS[1], tonumber(last[2]))
	redis.call('PEXPIREAT', KEYS[2], tonumber(last[2]))
end
return 1`)

// Argument: the key.
var untagScript = newScript(`#!lua flags=allow-oom
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return 1`)

// tagKeys returns the names of the sorted set and the hash. What is between the
// braces decides on the slot, and is the same in both.
func (s *Store) tagKeys(tag string) []string {
	name := s.prefix + "{" + tag + "}"
	return []string{name + "until", name + "notes"}
}

func checkTag(tag string) error {
	if len(tag) == 0 || len(tag) > maxKey || tag[0] == '}' {
		return fmt.Errorf("redisstore: a tag of %d bytes; 1 to %d are allowed, the first no brace", len(tag), maxKey)
	}
	return nil
}

// Tag files key under tag with note, until the given time, or gives what is
// filed already that note and time.
func (s *Store) Tag(ctx context.Context, tag, key string, note []byte, until time.Time) error {
	if err := errors.Join(checkTag(tag), check(key, nil)); err != nil {
		return err
	}
	if len(note) > maxNote {
		return fmt.Errorf("redisstore: a note of %d bytes; %d are allowed", len(note), maxNote)
	}
	err := s.run(ctx, tagScript, s.tagKeys(tag), key, string(note), fmt.Sprintf(digits, millis(until))).Error()
	if err != nil {
		return failed(ctx, "tag", err)
	}
	return nil
}

// Untag takes key out of tag, if it is there.
func (s *Store) Untag(ctx context.Context, tag, key string) error {
	if err := errors.Join(checkTag(tag), check(key, nil)); err != nil {
		return err
	}
	if err := s.run(ctx, untagScript, s.tagKeys(tag), key).Error(); err != nil {
		return failed(ctx, "untag", err)
	}
	return nil
}

// Tagged returns the notes of the keys that are filed under tag.
func (s *Store) Tagged(ctx context.Context, tag string) (notes map[string][]byte, err error) {
	if err := checkTag(tag); err != nil {
		return nil, err
	}
	hash := s.tagKeys(tag)[1]
	var clock rueidis.RedisResult
	resp := s.read(ctx, func(c rueidis.Client) rueidis.RedisResult {
		resps := c.DoMulti(ctx,
			c.B().Arbitrary("HGETALL").Keys(hash).Build(),
			c.B().Arbitrary("TIME").Build())
		clock = resps[1]
		return resps[0]
	})
	filed, err := resp.AsMap()
	if err != nil {
		return nil, failed(ctx, "tagged", err)
	}
	now, err := serverTime(clock)
	if err != nil {
		return nil, failed(ctx, "tagged", err)
	}
	notes = make(map[string][]byte, len(filed))
	for key, m := range filed {
		entry, err := m.ToString()
		if err == nil && len(entry) < 15 {
			err = errors.New("a tag holds no note")
		}
		if err != nil {
			return nil, failed(ctx, "tagged", err)
		}
		until, err := strconv.ParseInt(entry[:15], 10, 64)
		if err != nil {
			return nil, failed(ctx, "tagged", errors.New("a tag holds no note"))
		}
		if now.Before(time.UnixMilli(until)) {
			notes[strings.Clone(key)] = []byte(entry[15:])
		}
	}
	return notes, nil
}

// serverTime reads the answer to TIME.
func serverTime(resp rueidis.RedisResult) (time.Time, error) {
	parts, err := resp.AsStrSlice()
	if err != nil {
		return time.Time{}, err
	}
	if len(parts) != 2 {
		return time.Time{}, errors.New("the server tells no time")
	}
	sec, err1 := strconv.ParseInt(parts[0], 10, 64)
	usec, err2 := strconv.ParseInt(parts[1], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return time.Time{}, errors.New("the server tells no time")
	}
	return time.Unix(sec, usec*1000), nil
}
