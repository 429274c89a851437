package faults_test

import (
	"database/sql"
	"path/filepath"
	"testing"

	"github.com/agglestone/bff/store/sqlstore"

	_ "modernc.org/sqlite"
)

// Another process has the file to itself for a while, as a copy or a repair of
// it does.
func TestSQLiteLocked(t *testing.T) {
	name := "file:" + filepath.Join(t.TempDir(), "sessions.db") + "?_pragma=busy_timeout(500)"
	open := func() *sql.DB {
		db, err := sql.Open("sqlite", name)
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	db, other := open(), open()
	defer other.Close()
	store, err := sqlstore.New(db, sqlstore.SQLite, sqlstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := newSite(t)
	s.deploy(store, func() {
		store.Close()
		db.Close()
	})
	users := s.signIn(crowd + 1)
	idle, users := users[crowd], users[:crowd]
	work := s.traffic(users)
	conn, err := other.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 3 {
		work.flows()
		s.refreshed(crowd / 2)
		lock(t, conn)
		work.stalls()
		s.unavailable(idle, all...)
		s.strangersPass()
		if _, err := conn.ExecContext(t.Context(), "ROLLBACK"); err != nil {
			t.Fatal(err)
		}
		s.recovers(users)
	}
	work.stop()
	s.recovers(append(users, idle))
	s.nobodyLost(users)
}

// lock takes the file from everybody, as soon as they let it go.
func lock(t *testing.T, conn *sql.Conn) {
	t.Helper()
	for {
		_, err := conn.ExecContext(t.Context(), "BEGIN EXCLUSIVE")
		if err == nil {
			return
		}
		if t.Context().Err() != nil {
			t.Fatal(err)
		}
		t.Logf("not yet: %v", err)
	}
}
