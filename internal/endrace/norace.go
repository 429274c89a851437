//go:build !race

package endrace

// standardRounds are what a run without further words has.
const standardRounds = 10_000
