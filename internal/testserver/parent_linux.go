package testserver

import "syscall"

// dieWithParent makes a child end when the test binary does, however that ends.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
