package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"
)

// Sessions that were ended are on one list, a sorted set in one slot, by the
// microsecond at which they were put on it. That is done by a second command,
// since the list is not in the slot of the session: a process that dies in
// between has ended the session and not listed it. So the list is a hint, for
// those who may have missed a report of Watch. An entry is the key, a space and
// the time until which the mark is kept.
//
// Each entry's time is greater than all before, also when the server's clock is
// set back or a replica whose clock is behind takes over. So who asks for what
// came at or after the time that they were told misses nothing.
//
// The list goes with the last mark. Whoever puts something on it removes
// entries whose mark has gone, and the oldest beyond a hundred thousand.
const (
	maxListed = 100_000
	maxEnded  = 4096 // that Ended returns at once
)

// Arguments: the session's key, until when its mark is kept (Unix milliseconds).
var listScript = newScript(fmt.Sprintf(`#!lua flags=allow-oom
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local at = now
local last = redis.call('ZRANGE', KEYS[1], 0, 0, 'REV', 'WITHSCORES')
if last[2] and tonumber(last[2]) >= at then at = tonumber(last[2]) + 1 end
redis.call('ZADD', KEYS[1], at, ARGV[1] .. ' ' .. ARGV[2])
for _, entry in ipairs(redis.call('ZRANGE', KEYS[1], 0, 49)) do
	if tonumber(string.match(entry, ' (%%d+)$')) * 1000 > now then break end
	redis.call('ZREM', KEYS[1], entry)
end
local more = redis.call('ZCARD', KEYS[1]) - %d
if more > 0 then redis.call('ZREMRANGEBYRANK', KEYS[1], 0, more - 1) end
if redis.call('PEXPIRETIME', KEYS[1]) < tonumber(ARGV[2]) then
	redis.call('PEXPIREAT', KEYS[1], ARGV[2])
end
return 1`, maxListed))

// Argument: since when (Unix microseconds), or nothing. It returns the time to
// ask from next, and the keys.
//
// Who asks from a time that has yet to come was told it by a clock that has
// gone: they are told everything again.
var endedScript = newScript(fmt.Sprintf(`#!lua flags=no-writes,allow-oom
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local next = now
local last = redis.call('ZRANGE', KEYS[1], 0, 0, 'REV', 'WITHSCORES')
if last[2] and tonumber(last[2]) >= now then next = tonumber(last[2]) + 1 end
local found = {''}
if ARGV[1] ~= '' then
	local since = ARGV[1]
	if tonumber(since) > next then since = '-inf' end
	local entries = redis.call('ZRANGE', KEYS[1], since, '+inf', 'BYSCORE', 'LIMIT', 0, %[1]d, 'WITHSCORES')
	for i = 1, #entries, 2 do
		local key, keep = string.match(entries[i], '^(%%S+) (%%d+)$')
		if tonumber(keep) * 1000 > now then found[#found + 1] = key end
	end
	if #entries == 2 * %[1]d then next = tonumber(entries[#entries]) + 1 end
end
found[1] = string.format('%%.0f', next)
return found`, maxEnded))

func (s *Store) listKey() string { return s.prefix + "#ended" }

// log puts a session that was ended on the list.
func (s *Store) log(ctx context.Context, key, keep string) {
	// Not to list it is no failure to end it.
	s.run(ctx, listScript, []string{s.listKey()}, key, keep)
}

// Ended returns the keys of up to 4,096 sessions that were ended at or after
// since and whose marks are still kept, the earliest first, and the time to ask
// from next. A session whose process died while it ended it may be missing, and
// so may all but the last hundred thousand.
func (s *Store) Ended(ctx context.Context, since time.Time) (keys []string, next time.Time, err error) {
	from := ""
	if !since.IsZero() {
		from = strconv.FormatInt(since.UnixMicro(), 10)
	}
	found, err := s.run(ctx, endedScript, []string{s.listKey()}, from).AsStrSlice()
	if err == nil && len(found) == 0 {
		err = errors.New("no answer")
	}
	if err != nil {
		return nil, time.Time{}, failed(ctx, "ended", err)
	}
	us, err := strconv.ParseInt(found[0], 10, 64)
	if err != nil {
		return nil, time.Time{}, failed(ctx, "ended", errors.New("no time"))
	}
	return found[1:], time.UnixMicro(us), nil
}

// Argument: none. It returns since when (Unix milliseconds) this server process
// has held the key. Another process, whether restarted or a replica that took
// over, may lack the last that was written.
var sinceScript = newScript(`#!lua flags=allow-oom
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local was = redis.call('GET', KEYS[1])
if was then
	local by, since = string.match(was, '^(%x+) (%d+)$')
	if by == run then return since end
end
local t = redis.call('TIME')
local since = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000) + 1)
redis.call('SET', KEYS[1], run .. ' ' .. since)
return since`)

// A Cluster's masters fail one by one, so there the time is written down in
// that many slots, some of which every master of a usual Cluster has, and the
// latest counts. It is asked for whoever comes back with an old cookie, so one
// answer serves for a second.
const (
	sinceSlots = 128
	sinceKept  = time.Second
)

// Since returns the time since when the server has surely forgotten nothing:
// when it was first used, or was first used again after it was restarted,
// emptied or replaced by its replica.
func (s *Store) Since(ctx context.Context) (since time.Time, err error) {
	client, err := s.client(ctx)
	switch {
	case err != nil:
	case client.Mode() == rueidis.ClientModeCluster:
		since, err = s.sinceAnywhere(ctx)
	default:
		since, err = s.sinceAt(ctx, "#since")
	}
	if err != nil {
		return time.Time{}, failed(ctx, "since", err)
	}
	return since, nil
}

func (s *Store) sinceAt(ctx context.Context, key string) (time.Time, error) {
	ms, err := s.run(ctx, sinceScript, []string{s.prefix + key}).AsInt64()
	return time.UnixMilli(ms), err
}

func (s *Store) sinceAnywhere(ctx context.Context) (latest time.Time, err error) {
	asked := time.Now()
	s.memory.Lock()
	since, at := s.memory.since, s.memory.asked
	s.memory.Unlock()
	if !at.IsZero() && asked.Sub(at) < sinceKept {
		return since, nil
	}
	type answer struct {
		since time.Time
		err   error
	}
	answers := make(chan answer, sinceSlots)
	for i := range sinceSlots { // each ends with its call
		go func() {
			since, err := s.sinceAt(ctx, "#since"+strconv.Itoa(i))
			answers <- answer{since, err}
		}()
	}
	for range sinceSlots {
		a := <-answers
		if a.err != nil {
			err = a.err
		}
		if a.since.After(latest) {
			latest = a.since
		}
	}
	if err != nil {
		return time.Time{}, err
	}
	s.memory.Lock()
	defer s.memory.Unlock()
	s.memory.since, s.memory.asked = latest, asked
	return latest, nil
}
