//go:build !race

package sim_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/agglestone/bff/internal/sim/plant"
)

// D30: each of the bugs that its list names, and each that the simulator once
// found, is found within the standard seeds. What it says of the unchanged code
// is worth that much.
func TestPlantedBugs(t *testing.T) {
	dir := t.TempDir()
	overlay, err := plant.Build("../..", dir, plant.Bugs)
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "sim.test")
	if out, err := exec.Command("go", "test", "-c", "-overlay", overlay, "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("the bugs don't build: %v\n%s", err, out)
	}
	found := regexp.MustCompile(`(\d+) runs: `)
	failed := regexp.MustCompile(`after [0-9.]+ s: .*`)
	for _, bug := range plant.Bugs {
		start := time.Now()
		cmd := exec.Command(binary, "-test.run", "^TestSeeds$", "-test.v")
		cmd.Env = append(os.Environ(), plant.Env+"="+bug.Name, "BFF_SIM_MOST=1", "BFF_SIM_SEEDS="+strconv.Itoa(standardSeeds))
		out, err := cmd.CombinedOutput()
		runs, what := found.FindSubmatch(out), failed.Find(out)
		switch {
		case err == nil:
			t.Errorf("%q is not found within %d seeds: %s", bug.Name, standardSeeds, bug.Why)
		case runs == nil || what == nil:
			t.Errorf("%q: %v\n%s", bug.Name, err, out)
		default:
			t.Logf("%q: found within %s seeds, in %v: %s", bug.Name, runs[1], time.Since(start).Round(time.Millisecond), what)
		}
	}
}
