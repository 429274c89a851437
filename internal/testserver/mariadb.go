//go:build unix

package testserver

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"
)

// A MariaDB is a server with the user "test", the password "test" and the
// database "test", in which the user may do anything.
type MariaDB struct {
	*Process
	Addr string // host and port
	dir  string
}

// StartMariaDB installs and runs a server with these options, each
// "--name=value". It does not sync files, so a power cut would lose data, but a kill doesn't.
func StartMariaDB(t testing.TB, options ...string) *MariaDB {
	t.Helper()
	path := Binary(t, []string{"/usr/sbin"}, "mariadbd")
	install := Binary(t, nil, "mariadb-install-db")
	uid := unprivileged(t)
	dir := ownedDir(t, uid)
	data := filepath.Join(dir, "data")
	args := append([]string{
		"--no-defaults",
		"--datadir=" + data,
		"--tmpdir=" + dir, // a server that starts removes what others have there
		"--skip-name-resolve",
		"--innodb-buffer-pool-size=64M",
		"--innodb-log-file-size=32M",
		"--innodb-flush-log-at-trx-commit=2",
	}, options...)
	runAs(t, uid, dir, install, append(slices.Clone(args), "--auth-root-authentication-method=normal", "--skip-test-db")...)

	setup := filepath.Join(dir, "setup.sql")
	if err := os.WriteFile(setup, []byte("CREATE DATABASE IF NOT EXISTS test;\n"+
		"CREATE USER IF NOT EXISTS test@'127.0.0.1' IDENTIFIED BY 'test';\n"+
		"GRANT ALL ON test.* TO test@'127.0.0.1';\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	port := FreePort(t)
	m := &MariaDB{Addr: fmt.Sprintf("127.0.0.1:%d", port), dir: dir}
	args = append(args,
		"--bind-address=127.0.0.1",
		"--port="+strconv.Itoa(port),
		"--socket="+filepath.Join(dir, "socket"),
		"--pid-file="+filepath.Join(dir, "pid"),
		"--init-file="+setup,
	)
	m.Process = Start(t, Command{
		Path: path, Args: args, Dir: dir, User: uid,
		Ready: func() error { return mariadbReady(m.Addr) },
	})
	return m
}

// DSN returns the data source name of the database, as go-sql-driver takes it.
func (m *MariaDB) DSN() string { return "test:test@tcp(" + m.Addr + ")/test" }

// mariadbReady returns nil if the server greets (MySQL client/server protocol,
// HandshakeV10).
func mariadbReady(addr string) error {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	greeting := make([]byte, 5)
	if _, err := io.ReadFull(conn, greeting); err != nil {
		return err
	}
	if greeting[4] != 10 {
		return fmt.Errorf("the server greets with %d", greeting[4])
	}
	return nil
}
