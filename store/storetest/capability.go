package storetest

import (
	"context"
	"math/bits"
	"strings"
	"sync/atomic"
	"time"
)

// A Store has the methods of [github.com/agglestone/bff.Store], which says
// what they promise.
type Store interface {
	Load(ctx context.Context, key string) (value []byte, version uint64, expires time.Time, ok bool, err error)
	Create(ctx context.Context, key string, value []byte, expires, end time.Time) (ok bool, err error)
	Replace(ctx context.Context, key string, version uint64, value []byte) (next uint64, ok bool, err error)
	Touch(ctx context.Context, key string, expires time.Time) (ok bool, err error)
	End(ctx context.Context, key string, version uint64, mark []byte, until time.Time) (ok bool, err error)
}

// A Capability is a set of what a store can do beyond [Store]. Each member is
// named after the interface of package bff that says what it promises.
type Capability uint

const (
	Indexer Capability = 1 << iota
	Watcher
	EndLog
	Rememberer
)

// String returns the names of the interfaces, or "Store" if there are none.
func (c Capability) String() string {
	var names []string
	for i, name := range []string{"Indexer", "Watcher", "EndLog", "Rememberer"} {
		if c&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if names == nil {
		return "Store"
	}
	return strings.Join(names, "+")
}

// The interfaces that the capabilities are named after.
type (
	indexer interface {
		Tag(ctx context.Context, tag, key string, note []byte, until time.Time) error
		Tagged(ctx context.Context, tag string) (notes map[string][]byte, err error)
		Untag(ctx context.Context, tag, key string) error
	}
	watcher interface {
		Watch(ctx context.Context, every time.Duration, changed func(key string), synced func(upTo time.Time)) error
	}
	endLog interface {
		Ended(ctx context.Context, since time.Time) (keys []string, next time.Time, err error)
	}
	rememberer interface {
		Since(ctx context.Context) (time.Time, error)
	}
)

// capabilitiesOf looks up what s can do. Nothing else does.
func capabilitiesOf(s Store) (c Capability) {
	if _, ok := s.(indexer); ok {
		c |= Indexer
	}
	if _, ok := s.(watcher); ok {
		c |= Watcher
	}
	if _, ok := s.(endLog); ok {
		c |= EndLog
	}
	if _, ok := s.(rememberer); ok {
		c |= Rememberer
	}
	return c
}

// A spread is a store whose calls go to several handles on the same data. Watch
// is not among them: a rule says by which handle it watches.
type spread struct {
	handles []Store
	calls   atomic.Uint64
}

// next returns the handle for the next call. Of two, the Thue-Morse sequence
// chooses (0 1 1 0 1 0 0 1 ...), so that every short pattern comes up.
func (s *spread) next() Store {
	n := bits.OnesCount64(s.calls.Add(1) - 1)
	return s.handles[n%len(s.handles)]
}

func (s *spread) Load(ctx context.Context, key string) (value []byte, version uint64, expires time.Time, ok bool, err error) {
	return s.next().Load(ctx, key)
}

func (s *spread) Create(ctx context.Context, key string, value []byte, expires, end time.Time) (ok bool, err error) {
	return s.next().Create(ctx, key, value, expires, end)
}

func (s *spread) Replace(ctx context.Context, key string, version uint64, value []byte) (next uint64, ok bool, err error) {
	return s.next().Replace(ctx, key, version, value)
}

func (s *spread) Touch(ctx context.Context, key string, expires time.Time) (ok bool, err error) {
	return s.next().Touch(ctx, key, expires)
}

func (s *spread) End(ctx context.Context, key string, version uint64, mark []byte, until time.Time) (ok bool, err error) {
	return s.next().End(ctx, key, version, mark, until)
}

func (s *spread) Tag(ctx context.Context, tag, key string, note []byte, until time.Time) error {
	return s.next().(indexer).Tag(ctx, tag, key, note, until)
}

func (s *spread) Tagged(ctx context.Context, tag string) (notes map[string][]byte, err error) {
	return s.next().(indexer).Tagged(ctx, tag)
}

func (s *spread) Untag(ctx context.Context, tag, key string) error {
	return s.next().(indexer).Untag(ctx, tag, key)
}

func (s *spread) Ended(ctx context.Context, since time.Time) (keys []string, next time.Time, err error) {
	return s.next().(endLog).Ended(ctx, since)
}

func (s *spread) Since(ctx context.Context) (time.Time, error) {
	return s.next().(rememberer).Since(ctx)
}
