//go:build unix

// Package testserver runs real servers for tests: on a free port of the
// loopback interface, with their data in the test's own directory, to be
// killed, paused and started again, and gone when the test is.
//
// A server that is not installed fails the test that wants it.
package testserver

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a server may take for anything. It is for machines with
// much else to do; nothing takes that long unless something is wrong.
const patience = 60 * time.Second

// Binary returns the path of the first of names that is installed, in the PATH
// or in any of dirs, which may be patterns of [filepath.Glob]. If there is none
// the test fails.
func Binary(t testing.TB, dirs []string, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
		for _, dir := range dirs {
			found, err := filepath.Glob(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range found {
				if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
					return path
				}
			}
		}
	}
	t.Fatalf("none of %q is installed: run make setup", names)
	return ""
}

// FreePort returns a TCP port of 127.0.0.1 that nobody listens on. Somebody
// else may take it before it is used; then the server doesn't start, and its
// output says so.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Eventually waits until condition returns nil, and fails the test if it
// doesn't within a minute. It asks every few milliseconds.
func Eventually(t testing.TB, what string, condition func() error) {
	t.Helper()
	if err := poll(condition); err != nil {
		t.Fatalf("%s: not within %v: %v", what, patience, err)
	}
}

func poll(condition func() error) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		err := condition()
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// A Command says how to run a server.
type Command struct {
	Path string
	Args []string
	Dir  string   // it runs there
	Env  []string // added to this process's own

	// User is who runs it, for servers that refuse to be root. Zero means who
	// runs the test.
	User uint32

	// Ready returns nil once the server serves.
	Ready func() error
}

// A Process is a server that a test runs. Its methods are for one goroutine.
type Process struct {
	t      testing.TB
	cmd    Command
	output buffer
	run    *run // nil if it was stopped
}

// A run is one life of a Process.
type run struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has exited
	err  error         // after done
}

// Start runs a server until the test ends, and returns when it is ready. What
// it wrote is logged if the test has failed.
func Start(t testing.TB, cmd Command) *Process {
	t.Helper()
	p := &Process{t: t, cmd: cmd}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("%s %q wrote:\n%s", cmd.Path, cmd.Args, p.Output())
		}
	})
	p.Restart()
	return p
}

// Restart starts the server again, which has been stopped or killed, and
// returns when it is ready.
func (p *Process) Restart() {
	p.t.Helper()
	p.RestartUnready()
	p.AwaitReady()
}

// RestartUnready starts the server again and does not wait for it.
func (p *Process) RestartUnready() {
	p.t.Helper()
	if p.run != nil {
		p.t.Fatalf("%s runs already", p.cmd.Path)
	}
	cmd := exec.Command(p.cmd.Path, p.cmd.Args...)
	cmd.Dir = p.cmd.Dir
	cmd.Env = append(os.Environ(), p.cmd.Env...)
	cmd.Stdout, cmd.Stderr = &p.output, &p.output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if p.cmd.User != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: p.cmd.User, Gid: p.cmd.User}
	}
	dieWithParent(cmd.SysProcAttr)
	if err := start(cmd); err != nil {
		p.t.Fatalf("start %s: %v", p.cmd.Path, err)
	}
	r := &run{cmd: cmd, done: make(chan struct{})}
	go func() { // until the process has exited, which Kill sees to
		r.err = cmd.Wait()
		close(r.done)
	}()
	p.run = r
}

// AwaitReady waits until the server is ready.
func (p *Process) AwaitReady() {
	p.t.Helper()
	r := p.run
	var died error
	err := poll(func() error {
		select {
		case <-r.done:
			died = fmt.Errorf("it exited: %v", r.err)
			return nil
		default:
			return p.cmd.Ready()
		}
	})
	if died != nil {
		err = died
	}
	if err != nil {
		p.t.Fatalf("%s %q is not ready: %v\n%s", p.cmd.Path, p.cmd.Args, err, p.Output())
	}
}

// Kill ends the server as a power cut would, with its children, and returns
// when it is gone. A server that is not running stays so.
func (p *Process) Kill() { p.end(syscall.SIGKILL) }

// Stop asks the server to end, and returns when it has.
func (p *Process) Stop() { p.end(syscall.SIGTERM) }

func (p *Process) end(sig syscall.Signal) {
	p.t.Helper()
	if p.run == nil {
		return
	}
	r := p.run
	p.run = nil
	if sig != syscall.SIGKILL {
		r.cmd.Process.Signal(sig)
		select {
		case <-r.done:
		case <-time.After(patience):
			p.t.Errorf("%s does not end on %v", p.cmd.Path, sig)
		}
	}
	// Its children too, which may outlive it.
	syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL)
	<-r.done
}

// Pause stops the server in the middle of whatever it does: its connections
// stay open, and nothing answers.
func (p *Process) Pause() { p.signal(syscall.SIGSTOP) }

// Resume lets a paused server go on.
func (p *Process) Resume() { p.signal(syscall.SIGCONT) }

func (p *Process) signal(sig syscall.Signal) {
	p.t.Helper()
	if p.run == nil {
		p.t.Fatalf("%s is not running", p.cmd.Path)
	}
	if err := syscall.Kill(-p.run.cmd.Process.Pid, sig); err != nil {
		p.t.Fatalf("%v to %s: %v", sig, p.cmd.Path, err)
	}
}

// Output returns what the server has written so far, in all its lives.
func (p *Process) Output() string { return p.output.String() }

// Wipe removes what is in the directory of the server, which has been stopped,
// but for the names to keep.
func (p *Process) Wipe(keep ...string) {
	p.t.Helper()
	entries, err := os.ReadDir(p.cmd.Dir)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, e := range entries {
		if slices.Contains(keep, e.Name()) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(p.cmd.Dir, e.Name())); err != nil {
			p.t.Fatal(err)
		}
	}
}

// A buffer may be read while it is written.
type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

var starter = sync.OnceValue(func() chan<- func() {
	c := make(chan func())
	go func() {
		// A child dies with the thread that started it, so this one must last
		// as long as the test binary.
		runtime.LockOSThread()
		for f := range c {
			f()
		}
	}()
	return c
})

func start(cmd *exec.Cmd) error {
	err := make(chan error, 1)
	starter() <- func() { err <- cmd.Start() }
	return <-err
}
