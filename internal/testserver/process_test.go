//go:build unix

package testserver_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/agglestone/bff/internal/testserver"
)

// TestMain makes this binary the server of its own tests.
func TestMain(m *testing.M) {
	if addr := os.Getenv("TESTSERVER_ADDR"); addr != "" {
		if err := serve(addr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// serve greets whoever connects.
func serve(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		fmt.Fprint(conn, "hello")
		conn.Close()
	}
}

// greeted connects and waits for the greeting no longer than it is patient.
func greeted(addr string, patience time.Duration) error {
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	buf := make([]byte, 5)
	if _, err := conn.Read(buf); err != nil {
		return err
	}
	return nil
}

func start(t *testing.T) (*testserver.Process, string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", testserver.FreePort(t))
	return testserver.Start(t, testserver.Command{
		Path:  self,
		Dir:   t.TempDir(),
		Env:   []string{"TESTSERVER_ADDR=" + addr},
		Ready: func() error { return greeted(addr, time.Second) },
	}), addr
}

func TestLives(t *testing.T) {
	p, addr := start(t)
	for _, end := range []func(){p.Kill, p.Stop} {
		end()
		if err := greeted(addr, time.Second); err == nil {
			t.Fatal("a process that has ended answers")
		}
		p.Restart()
		if err := greeted(addr, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Count(p.Output(), "listening"); got != 3 {
		t.Errorf("the output of three lives says %d times that it listens:\n%s", got, p.Output())
	}
}

func TestPause(t *testing.T) {
	p, addr := start(t)
	p.Pause()
	if err := greeted(addr, 100*time.Millisecond); err == nil {
		t.Error("a paused process answers")
	}
	p.Resume()
	if err := greeted(addr, time.Minute); err != nil {
		t.Error(err)
	}
}

func TestKillWhilePaused(t *testing.T) {
	p, _ := start(t)
	p.Pause()
	p.Kill()
	p.Restart()
}

func TestBinary(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "v1", "bin", "our-server")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	dirs := []string{filepath.Join(dir, "*", "bin")}
	if got := testserver.Binary(t, dirs, "their-server-which-is-not-there", "our-server"); got != path {
		t.Errorf("Binary = %q, want %q", got, path)
	}
	missing := &recorder{TB: t}
	func() {
		defer func() { recover() }()
		testserver.Binary(missing, dirs, "their-server-which-is-not-there")
	}()
	if !strings.Contains(missing.fatal, "run make setup") {
		t.Errorf("a missing server makes the test fail with %q, want it to name make setup", missing.fatal)
	}
}

// A recorder is a test that notes how it failed.
type recorder struct {
	testing.TB
	fatal string
}

func (r *recorder) Helper() {}

func (r *recorder) Fatalf(format string, args ...any) {
	r.fatal = fmt.Sprintf(format, args...)
	panic(r.fatal)
}
