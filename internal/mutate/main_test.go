package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestList(t *testing.T) {
	var out strings.Builder
	if err := run([]string{"-list", "-module", "mutate/testdata/guard"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	if want := "badge\tguard.go:24\n"; !strings.HasPrefix(out.String(), want) {
		t.Errorf("-list prints\n%s\nwant it to begin with %q", out.String(), want)
	}
}

func TestOut(t *testing.T) {
	dir := t.TempDir()
	var out strings.Builder
	if err := run([]string{"-out", dir, "-module", "mutate/testdata/guard"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(dir, "overlay.json")
	if want := "17 mutants: " + overlay + "\n"; out.String() != want {
		t.Errorf("-out prints %q, want %q", out.String(), want)
	}
	if _, err := os.Stat(overlay); err != nil {
		t.Error(err)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"-list", "-out", "x"}, {"-list", "x"}, {"-x"}, {"-list", "-module", "absent"}} {
		if err := run(args, io.Discard, io.Discard); err == nil {
			t.Errorf("run(%q) succeeds", args)
		}
	}
}
