package bench

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/internal/testserver"
	"github.com/agglestone/bff/store/redisstore"
)

func startRedis(b *testing.B) (*testserver.Redis, *redisstore.Store) {
	b.Helper()
	server := testserver.StartRedis(b, testserver.RedisServer)
	store, err := redisstore.Open(b.Context(), "redis://"+server.Addr, redisstore.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { store.Close() })
	return server, store
}

// BenchmarkProtectRedis is BenchmarkProtect on a Redis server, with the cache
// and without, beside a handler that asks the same server for as many bytes.
func BenchmarkProtectRedis(b *testing.B) {
	const sessions = 1000
	server, store := startRedis(b)
	t := signedIn(b, 1<<10)
	cookies := t.fill(b, store, sessions)

	b.Run("bare", func(b *testing.B) {
		client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{server.Addr}, DisableCache: true, AlwaysPipelining: true})
		if err != nil {
			b.Fatal(err)
		}
		defer client.Close()
		value := rueidis.BinaryString(make([]byte, t.size))
		if err := client.Do(b.Context(), client.B().Set().Key("bare").Value(value).Build()).Error(); err != nil {
			b.Fatal(err)
		}
		serve(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), 3*time.Second)
			defer cancel()
			got, err := client.Do(ctx, client.B().Get().Key("bare").Build()).AsBytes()
			if err == nil && len(got) == t.size {
				w.WriteHeader(http.StatusNoContent)
			}
		}), []string{"a=b"}, http.StatusNoContent)
	})
	b.Run("bff", func(b *testing.B) {
		serve(b, newBFF(b, t.iss, store).ProtectFunc(bySession), cookies, http.StatusNoContent)
	})
	b.Run("cached", func(b *testing.B) {
		h := newBFF(b, t.iss, store, func(cfg *bff.Config) { cfg.CacheSize = 2 * sessions }).ProtectFunc(bySession)
		// An entry from before the watch began lasts for CacheMaxStale.
		for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); {
			visit(b, h, cookies)
		}
		serve(b, h, cookies, http.StatusNoContent)
	})
}

// BenchmarkEndSessionsRedis ends the 10,000 sessions of one subject that are on
// a Redis server.
func BenchmarkEndSessionsRedis(b *testing.B) {
	t := signedIn(b, 1<<10)
	tags := func() []string { return []string{t.tag, "t" + random()} }
	for b.Loop() {
		b.StopTimer()
		_, store := startRedis(b)
		t.fillUnder(b, store, crowded, tags)
		auth := newBFF(b, t.iss, store)
		b.StartTimer()
		if n, err := auth.EndSessionsOf(context.Background(), t.subject); n != crowded || err != nil {
			b.Fatalf("EndSessionsOf = %d, %v", n, err)
		}
	}
}
