//go:build !race

package endrace_test

const raceEnabled = false
