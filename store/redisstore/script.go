package redisstore

import (
	"context"
	"crypto/sha1" // the name that Redis knows a script by, no secret
	"encoding/hex"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// A script is what the server does in one atomic step. All of them decide by
// the server's clock, and touch the keys of one slot.
type script struct {
	text   string
	digest func() string
}

func newScript(text string) *script {
	return &script{text, sync.OnceValue(func() string {
		sum := sha1.Sum([]byte(text))
		return hex.EncodeToString(sum[:])
	})}
}

// run runs a script. It is sent again only if the server surely didn't run it:
// to a node that the first one named, because the server had forgotten it, or
// because its two keys are on the move and not in one place.
func (s *Store) run(ctx context.Context, script *script, keys []string, args ...string) rueidis.RedisResult {
	for {
		resp := s.call(ctx, func(c rueidis.Client) rueidis.RedisResult {
			return script.run(ctx, c, keys, args)
		})
		if e, ok := rueidis.IsRedisErr(resp.Error()); !ok || !e.IsTryAgain() {
			return resp
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return rueidis.NewErrorResult(ctx.Err())
		}
	}
}

func (s *script) run(ctx context.Context, c rueidis.Client, keys, args []string) rueidis.RedisResult {
	resp := c.Do(ctx, c.B().Evalsha().Sha1(s.digest()).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build())
	if e, ok := rueidis.IsRedisErr(resp.Error()); ok && e.IsNoScript() {
		return c.Do(ctx, c.B().Eval().Script(s.text).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build())
	}
	return resp
}

// What ends a session, extends it or stores a rotated token may not fail
// because the server is full (allow-oom): it needs no more room than there was.
// The replicas are counted only if the last argument asks for it.
const replicas = `
if ARGV[#ARGV] ~= '1' then return 0 end
return tonumber(string.match(redis.call('INFO', 'replication'), 'connected_slaves:(%d+)') or '0')`

// Arguments: the version judged, the new one, the new value.
var replaceScript = newScript(`#!lua flags=allow-oom
local head = redis.call('GETRANGE', KEYS[1], 0, 46)
if string.sub(head, 1, 17) ~= 'L' .. ARGV[1] then return -1 end
redis.call('SET', KEYS[1], 'L' .. ARGV[2] .. string.sub(head, 18) .. ARGV[3], 'KEEPTTL')` + replicas)

// Arguments: the version judged or nothing, until when to keep the mark, the mark.
var endScript = newScript(`#!lua flags=allow-oom
local head = redis.call('GETRANGE', KEYS[1], 0, 46)
if string.sub(head, 1, 1) ~= 'L' then return -1 end
if ARGV[1] ~= '' and string.sub(head, 2, 17) ~= ARGV[1] then return -1 end
redis.call('SET', KEYS[1], 'M' .. ARGV[3], 'PXAT', ARGV[2])` + replicas)

// Argument: the new expiry, of 15 digits.
var touchScript = newScript(`#!lua flags=allow-oom
local head = redis.call('GETRANGE', KEYS[1], 0, 46)
if string.sub(head, 1, 1) ~= 'L' then return 0 end
local to, last = ARGV[1], string.sub(head, 33, 47)
if tonumber(to) > tonumber(last) then to = last end
if tonumber(to) > tonumber(string.sub(head, 18, 32)) then
	redis.call('SETRANGE', KEYS[1], 17, to)
	redis.call('PEXPIREAT', KEYS[1], tonumber(to))
end
return 1`)

// settleScript writes the expiry that the key has.
const settleScript = `#!lua flags=allow-oom
local at = redis.call('PEXPIRETIME', KEYS[1])
if at > 0 then redis.call('PEXPIREAT', KEYS[1], at) end
return 1`
