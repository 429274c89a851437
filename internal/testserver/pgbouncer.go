//go:build unix

package testserver

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// A PgBouncer is a pooler in front of a PostgreSQL server.
type PgBouncer struct {
	*Process
	Addr string // host and port
}

// StartPgBouncer runs a pooler in front of p, in transaction mode and with four
// connections to it, unless these lines of configuration say otherwise.
func StartPgBouncer(t testing.TB, p *Postgres, conf ...string) *PgBouncer {
	t.Helper()
	uid := unprivileged(t)
	dir := ownedDir(t, uid)
	port := FreePort(t)
	b := &PgBouncer{Addr: fmt.Sprintf("127.0.0.1:%d", port)}
	lines := append([]string{
		"[databases]",
		fmt.Sprintf("test = host=127.0.0.1 port=%d dbname=test user=test", p.Port),
		"[pgbouncer]",
		"listen_addr = 127.0.0.1",
		"listen_port = " + strconv.Itoa(port),
		"unix_socket_dir =",
		"auth_type = any",
		"pool_mode = transaction",
		"default_pool_size = 4",
		"max_client_conn = 1000",
		"ignore_startup_parameters = extra_float_digits",
		"server_login_retry = 0.2",
	}, conf...)
	file := filepath.Join(dir, "pgbouncer.ini")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.Process = Start(t, Command{
		Path: Binary(t, []string{"/usr/sbin"}, "pgbouncer"), Args: []string{file}, Dir: dir, User: uid,
		Ready: func() error { return postgresReady(b.Addr, "test") },
	})
	return b
}

// URL returns the connection string of the database behind the pooler.
func (b *PgBouncer) URL() string { return postgresURL(b.Addr) }
