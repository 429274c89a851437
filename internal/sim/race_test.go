//go:build race

package sim_test

// Under the race detector it is about races, and some runs show them.
const standardSeeds = 600
