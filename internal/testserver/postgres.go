//go:build unix

package testserver

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A Postgres is a PostgreSQL server with the superuser "test", whom it trusts,
// and the database "test".
type Postgres struct {
	*Process
	Port int
	Addr string // host and port
}

// postgresDirs is where Debian keeps what is not in the PATH.
var postgresDirs = []string{"/usr/lib/postgresql/*/bin"}

// StartPostgres runs a server with these settings, each "name=value". It does
// not sync files, so a power cut would lose data, but a kill doesn't.
func StartPostgres(t testing.TB, settings ...string) *Postgres {
	t.Helper()
	initdb, err := filepath.EvalSymlinks(Binary(t, postgresDirs, "initdb"))
	if err != nil {
		t.Fatal(err)
	}
	uid := unprivileged(t)
	dir := ownedDir(t, uid)
	data := filepath.Join(dir, "data")
	runAs(t, uid, dir, initdb, "--pgdata="+data, "--username=test", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync")

	p := &Postgres{Port: FreePort(t)}
	p.Addr = fmt.Sprintf("127.0.0.1:%d", p.Port)
	args := []string{"-D", data}
	for _, s := range append([]string{
		"listen_addresses=127.0.0.1",
		"port=" + strconv.Itoa(p.Port),
		"unix_socket_directories=",
		"fsync=off",
		"full_page_writes=off",
		"shared_buffers=32MB",
	}, settings...) {
		args = append(args, "-c", s)
	}
	p.Process = Start(t, Command{
		Path: filepath.Join(filepath.Dir(initdb), "postgres"), Args: args, Dir: dir, User: uid,
		Ready: func() error { return postgresReady(p.Addr, "postgres") },
	})
	t.Cleanup(p.Kill)
	if err := postgresQuery(p.Addr, "postgres", "CREATE DATABASE test"); err != nil {
		t.Fatal(err)
	}
	return p
}

// URL returns the connection string of the database.
func (p *Postgres) URL() string { return postgresURL(p.Addr) }

func postgresURL(addr string) string { return "postgres://test@" + addr + "/test?sslmode=disable" }

// Exec sends SQL to the database as the superuser.
func (p *Postgres) Exec(query string) {
	p.t.Helper()
	if err := postgresQuery(p.Addr, "test", query); err != nil {
		p.t.Fatalf("%s: %v", query, err)
	}
}

// Pause stops the server with all its backends, each of which leads a process
// group of its own.
func (p *Postgres) Pause() { p.signalAll(syscall.SIGSTOP) }

// Resume lets a paused server go on.
func (p *Postgres) Resume() { p.signalAll(syscall.SIGCONT) }

// Kill ends the server and its backends as a power cut would.
func (p *Postgres) Kill() {
	p.t.Helper()
	if p.run == nil {
		return
	}
	p.signalAll(syscall.SIGKILL)
	p.Process.Kill()
}

// Stop ends the server, its clients' transactions too.
func (p *Postgres) Stop() { p.end(syscall.SIGINT) }

func (p *Postgres) signalAll(sig syscall.Signal) {
	p.t.Helper()
	if p.run == nil {
		p.t.Fatalf("%s is not running", p.cmd.Path)
	}
	// The first one forks the others, so it goes first.
	pid := p.run.cmd.Process.Pid
	syscall.Kill(pid, sig)
	for _, child := range children(pid) {
		syscall.Kill(child, sig)
	}
}

// children returns the processes that pid started.
func children(pid int) []int {
	var pids []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it is gone
		}
		// pid (name) state ppid: the name may hold anything (proc(5)).
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			if child, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}

// postgresReady returns nil if the server lets user "test" in.
func postgresReady(addr, database string) error {
	conn, _, err := postgresConnect(addr, database)
	if err == nil {
		conn.Close()
	}
	return err
}

// postgresConnect opens a session, as far as that "test" is trusted (PostgreSQL
// documentation, "Message Flow").
func postgresConnect(addr, database string) (net.Conn, *bufio.Reader, error) {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return nil, nil, err
	}
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	body := binary.BigEndian.AppendUint32(nil, 3<<16) // the protocol's version
	body = append(body, "user\x00test\x00database\x00"+database+"\x00\x00"...)
	in := bufio.NewReader(conn)
	if _, err = conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body)+4)), body...)); err == nil {
		err = postgresAwait(in)
	}
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, in, nil
}

// postgresAwait reads until the server is ready for a query.
func postgresAwait(in *bufio.Reader) error {
	var failed error
	for {
		head := make([]byte, 5)
		if _, err := io.ReadFull(in, head); err != nil {
			return errors.Join(failed, err)
		}
		body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
		if _, err := io.ReadFull(in, body); err != nil {
			return errors.Join(failed, err)
		}
		switch head[0] {
		case 'E':
			failed = fmt.Errorf("%q", body)
		case 'Z':
			return failed
		}
	}
}

func postgresQuery(addr, database, query string) error {
	conn, in, err := postgresConnect(addr, database)
	if err != nil {
		return err
	}
	defer conn.Close()
	message := binary.BigEndian.AppendUint32([]byte{'Q'}, uint32(len(query)+5))
	if _, err := conn.Write(append(message, query+"\x00"...)); err != nil {
		return err
	}
	return postgresAwait(in)
}
