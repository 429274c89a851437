//go:build !race

package sim_test

const standardSeeds = 15000
