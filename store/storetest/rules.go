package storetest

import (
	"fmt"
	"slices"
	"sync/atomic"
)

// How often a race is run, and by how many.
const (
	rounds = 50
	racers = 8
)

var (
	v1, v2, v3 = []byte("one"), []byte("two"), []byte("three")
	mark       = []byte("session_revoked")
)

var rules = slices.Concat(
	createRules,
	valueRules,
	replaceRules,
	touchRules,
	endRules,
	timeRules,
	keyRules,
	indexRules,
	watchRules,
	endLogRules,
	sinceRules,
)

// oneOf runs f by racers goroutines at once and wants exactly one true.
func oneOf(f func(i int) (bool, error)) error {
	var winners atomic.Int64
	err := together(racers, func(i int) error {
		ok, err := f(i)
		if ok {
			winners.Add(1)
		}
		return err
	})
	if err == nil && winners.Load() != 1 {
		err = fmt.Errorf("%d of %d at once were ok, want 1", winners.Load(), racers)
	}
	return err
}
