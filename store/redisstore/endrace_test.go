package redisstore_test

import (
	"testing"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/internal/endrace"
	"github.com/agglestone/bff/internal/testserver"
	"github.com/agglestone/bff/store/redisstore"
)

// Ends of sessions win over whatever is under way, on replicas with a connection
// each.
func TestEndRace(t *testing.T) {
	r := testserver.StartRedis(t, testserver.RedisServer)
	handle := func(int) bff.Store { return open(t, single(r), redisstore.Options{}) }
	for name, opts := range map[string]endrace.Options{
		"read anew": {Replicas: 3},
		"cached":    {Replicas: 3, CacheMaxStale: 200 * time.Millisecond, Workers: 8},
	} {
		t.Run(name, func(t *testing.T) { endrace.Run(t, handle, opts) })
	}
}
