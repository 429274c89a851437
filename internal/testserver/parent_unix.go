//go:build unix && !linux

package testserver

import "syscall"

// dieWithParent can do nothing here: a test binary that is killed leaves its
// servers behind.
func dieWithParent(*syscall.SysProcAttr) {}
