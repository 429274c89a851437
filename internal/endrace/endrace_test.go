package endrace_test

import (
	"context"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/internal/endrace"
	"github.com/agglestone/bff/store/memstore"
)

func TestEndRace(t *testing.T) {
	s := memstore.New(memstore.Options{})
	endrace.Run(t, func(int) bff.Store { return s }, endrace.Options{})
}

// A farStore is one whose answers are under way for a while.
type farStore struct{ *memstore.Store }

func (s farStore) Load(ctx context.Context, key string) ([]byte, uint64, time.Time, bool, error) {
	value, version, expires, ok, err := s.Store.Load(ctx, key)
	for range rand.IntN(200) {
		runtime.Gosched()
	}
	return value, version, expires, ok, err
}

// With reports, and with none but the bound.
func TestEndRaceWithCache(t *testing.T) {
	for name, store := range map[string]func() bff.Store{
		"watched": func() bff.Store { return farStore{memstore.New(memstore.Options{})} },
		"unwatched": func() bff.Store {
			s := farStore{memstore.New(memstore.Options{})}
			return struct {
				bff.Store
				bff.Indexer
			}{s, s}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := store()
			endrace.Run(t, func(int) bff.Store { return s }, endrace.Options{
				CacheMaxStale: 20 * time.Millisecond, Workers: 8,
			})
		})
	}
}
