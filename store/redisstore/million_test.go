package redisstore_test

import (
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/agglestone/bff/internal/testserver"
	"github.com/agglestone/bff/store/redisstore"
)

// A million sessions are on the server, and each is found as itself, alone. The
// server writes them: by one call of Create each, as the suite's rule many-keys
// does it with fewer, they would take minutes.
func TestMillionKeys(t *testing.T) {
	const many = 1_000_000
	key := func(i int) string { return fmt.Sprintf("s%07x", i) }
	r := testserver.StartRedis(t, testserver.RedisServer)
	s := open(t, single(r), redisstore.Options{})
	for from := 0; from < many; from += many / 20 {
		r.Must("EVAL", `local at = string.format('%.0f', ARGV[3])
			for i = tonumber(ARGV[1]), tonumber(ARGV[2]) - 1 do
				local key = string.format('s%07x', i)
				redis.call('SET', 'bff:' .. key, 'L0000000000000001' .. ARGV[3] .. ARGV[3] .. key, 'PXAT', at)
			end`, "0", strconv.Itoa(from), strconv.Itoa(from+many/20), fmt.Sprintf("%015d", far.UnixMilli()))
	}
	const step, workers = 997, 8
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w * step; i < many; i += workers * step {
				value, version, expires, ok, err := s.Load(t.Context(), key(i))
				if !ok || err != nil || string(value) != key(i) || expires.UnixMilli() != far.UnixMilli() {
					t.Errorf("Load(%q) = %q, %v, %v, %v", key(i), value, expires, ok, err)
					return
				}
				if ok, err := s.Create(t.Context(), key(i), nil, far, far); ok || err != nil {
					t.Errorf("Create(%q), which is there, = %v, %v", key(i), ok, err)
				}
				next, ok, err := s.Replace(t.Context(), key(i), version, []byte("two"))
				if !ok || err != nil {
					t.Errorf("Replace(%q) = %v, %v", key(i), ok, err)
				}
				if ok, err := s.End(t.Context(), key(i), next, []byte("bye"), far); !ok || err != nil {
					t.Errorf("End(%q) = %v, %v", key(i), ok, err)
				}
				if ok, err := s.Create(t.Context(), key(many+i), []byte("new"), far, far); !ok || err != nil {
					t.Errorf("Create(%q) = %v, %v", key(many+i), ok, err)
				}
			}
		})
	}
	wg.Wait()
	// What nobody asked for is what it was.
	const changed = (many + step - 1) / step
	same := r.Must("EVAL", `local n = 0
		for i = 0, tonumber(ARGV[1]) - 1 do
			local key = string.format('s%07x', i)
			if redis.call('GET', 'bff:' .. key) == 'L0000000000000001' .. ARGV[2] .. ARGV[2] .. key then n = n + 1 end
		end
		return n`, "0", strconv.Itoa(many), fmt.Sprintf("%015d", far.UnixMilli())).(int64)
	if want := int64(many - changed); same != want {
		t.Errorf("%d sessions are what they were, want %d", same, want)
	}
	if n, want := r.Must("DBSIZE").(int64), int64(many+changed+2); n != want { // and #ended and #since
		t.Errorf("the server has %d keys, want %d", n, want)
	}
}
