package redisstore_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/internal/testserver"
	"github.com/agglestone/bff/store/redisstore"
	"github.com/agglestone/bff/store/storetest"
)

var servers = []string{testserver.RedisServer, testserver.ValkeyServer}

// open opens a store that is closed when the test ends.
func open(t testing.TB, url string, opts redisstore.Options) *redisstore.Store {
	t.Helper()
	s, err := redisstore.Open(t.Context(), url, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func single(r *testserver.Redis) string { return "redis://" + r.Addr }

func clustered(c *testserver.Cluster) string {
	return "redis://" + strings.Replace(strings.Join(c.Addrs(), "&addr="), "&", "?", 1)
}

func watched(s *testserver.Sentinel) string {
	return "redis://" + strings.Replace(strings.Join(s.Addrs(), "&addr="), "&", "?", 1) + "&master_set=" + s.Name
}

// A Store can do all that bff can use.
var _ interface {
	bff.Store
	bff.Indexer
	bff.Watcher
	bff.EndLog
	bff.Rememberer
} = (*redisstore.Store)(nil)

// suite runs storetest against stores on one deployment, two handles each,
// which is emptied before.
func suite(t *testing.T, url string, keys int, nodes ...*testserver.Redis) {
	handle := func(t *testing.T) storetest.Store { return open(t, url, redisstore.Options{}) }
	storetest.Run(t, func(t *testing.T) storetest.Store {
		for _, node := range nodes {
			node.Must("FLUSHALL")
		}
		return handle(t)
	}, storetest.Options{
		Want:   storetest.Indexer | storetest.Watcher | storetest.EndLog | storetest.Rememberer,
		Second: func(t *testing.T, _ storetest.Store) storetest.Store { return handle(t) },
		Keys:   keys,
	})
}

func TestSingle(t *testing.T) {
	for _, server := range servers {
		t.Run(server, func(t *testing.T) {
			t.Parallel() // it waits most of the time
			r := testserver.StartRedis(t, server)
			suite(t, single(r), 50_000, r)
		})
	}
}

func TestCluster(t *testing.T) {
	for _, server := range servers {
		t.Run(server, func(t *testing.T) {
			t.Parallel() // it waits most of the time
			c := testserver.StartCluster(t, server, 3, false)
			suite(t, clustered(c), 20_000, c.Masters...)
		})
	}
}

func TestSentinel(t *testing.T) {
	for _, server := range servers {
		t.Run(server, func(t *testing.T) {
			t.Parallel() // it waits most of the time
			s := testserver.StartSentinel(t, server)
			suite(t, watched(s), 20_000, s.Nodes[0])
		})
	}
}

// within returns a context for one call of a store, as bff makes it.
func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

var far = time.Now().Add(24 * time.Hour)

// create files a record.
func create(t testing.TB, s *redisstore.Store, key, value string) {
	t.Helper()
	if ok, err := s.Create(t.Context(), key, []byte(value), far, far); !ok || err != nil {
		t.Fatalf("Create(%q) = %v, %v", key, ok, err)
	}
}

// holds checks that a live record has that value, and returns its version.
func holds(t testing.TB, s *redisstore.Store, key, want string) uint64 {
	t.Helper()
	value, version, _, ok, err := s.Load(t.Context(), key)
	if !ok || err != nil || string(value) != want {
		t.Fatalf("Load(%q) = %.40q, %v, %v; want %.40q", key, value, ok, err, want)
	}
	return version
}

// has checks that Load finds nothing but that mark; "" is for none.
func gone(t testing.TB, s *redisstore.Store, key, mark string) {
	t.Helper()
	value, _, _, ok, err := s.Load(t.Context(), key)
	if ok || err != nil || string(value) != mark {
		t.Fatalf("Load(%q) = %.40q, %v, %v; want the mark %q", key, value, ok, err, mark)
	}
}
