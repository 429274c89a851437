//go:build race

package endrace

// standardRounds are what a run without further words has: fewer where the race
// detector, whose own finds don't take as many, makes each one slower.
const standardRounds = 400
