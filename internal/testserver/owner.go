//go:build unix

package testserver

import (
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
	"testing"
)

// unprivileged returns whom a server runs as that refuses to be root, or 0 if
// the test isn't root either.
func unprivileged(t testing.TB) uint32 {
	t.Helper()
	if os.Geteuid() != 0 {
		return 0
	}
	for _, name := range []string{"postgres", "nobody"} {
		if u, err := user.Lookup(name); err == nil {
			uid, err := strconv.ParseUint(u.Uid, 10, 32)
			if err == nil && uid != 0 {
				return uint32(uid)
			}
		}
	}
	t.Fatal("there is neither a user postgres nor nobody to run the server as")
	return 0
}

// ownedDir returns a directory for the test that uid owns and can get to: the
// one above t.TempDir's is closed to others.
func ownedDir(t testing.TB, uid uint32) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "testserver")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// A server that was killed may still be going.
		Eventually(t, "remove "+dir, func() error { return os.RemoveAll(dir) })
	})
	if uid != 0 {
		if err := os.Chown(dir, int(uid), int(uid)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// runAs runs a program to its end, which must be a good one.
func runAs(t testing.TB, uid uint32, dir, path string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", path, err, out)
	}
}
