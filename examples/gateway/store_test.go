package main

import (
	"context"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/agglestone/bff/bfftest"
	"github.com/agglestone/bff/internal/testserver"
)

// In every store that outlives the process, so do the sessions.
func TestSessionsOutliveTheProcess(t *testing.T) {
	stores := map[string]func(t *testing.T) string{
		"sqlite":   func(t *testing.T) string { return "sqlite:" + filepath.Join(t.TempDir(), "bff.db") },
		"redis":    func(t *testing.T) string { return "redis://" + testserver.StartRedis(t, testserver.RedisServer).Addr },
		"postgres": func(t *testing.T) string { return testserver.StartPostgres(t).URL() },
		"mysql":    func(t *testing.T) string { return "mysql://test:test@" + testserver.StartMariaDB(t).Addr + "/test" },
	}
	for name, url := range stores {
		t.Run(name, func(t *testing.T) {
			iss := bfftest.StartIssuer(t, bfftest.Options{})
			env := []string{"BFF_ISSUER=" + iss.URL(), "BFF_CLIENT_ID=" + iss.ClientID(), "BFF_KEYS=" + key, "BFF_STORE=" + url(t)}
			addr := freeAddr(t)
			first := startAt(t, addr, env...)
			b := bfftest.NewBrowser(nil, first.origin, iss)
			if r := b.SignIn("alice"); r.Err != nil {
				t.Fatal(r.Err)
			}
			first.cmd.Process.Signal(syscall.SIGTERM)
			if code := first.exitCode(); code != 0 {
				t.Fatalf("it ended with %d", code)
			}
			startAt(t, addr, env...)
			if r := b.Fetch("GET", "/whoami", nil, nil); r.Status != 200 {
				t.Errorf("GET /whoami at the next process = %v", r)
			}
		})
	}
}

// A database that isn't there yet is no reason not to start, and its tables are
// made when it is.
func TestDatabaseComesLater(t *testing.T) {
	db := testserver.StartPostgres(t)
	db.Stop()
	iss := bfftest.StartIssuer(t, bfftest.Options{})
	s := start(t, "BFF_ISSUER="+iss.URL(), "BFF_CLIENT_ID="+iss.ClientID(), "BFF_KEYS="+key, "BFF_STORE="+db.URL())
	b := bfftest.NewBrowser(nil, s.origin, iss)
	if r := b.Fetch("GET", "/readyz", nil, nil); r.Status != 503 || r.Reason() != "store_unavailable" {
		t.Errorf("GET /readyz without the database = %v, want 503 store_unavailable", r)
	}
	db.Restart()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if r := b.SignIn("alice"); r.Err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("with the database: %v", r.Err)
		}
	}
}

// What can't be a store is said without a word of it, which may be a password.
func TestBadStores(t *testing.T) {
	for _, value := range []string{
		"s3cret", "floppy:s3cret", "redis://:s3cret@[", "postgres://u:s3cret@[", "mysql://u:s3cret@", "mysql://u:s3cret@host", "mysql://u:s3cret@host/db?s3cret=1",
		"sqlite:",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, closeStore, err := openStore(ctx, value)
		cancel()
		if err == nil && !strings.HasPrefix(value, "mysql://u:s3cret@host/db") {
			closeStore()
			t.Errorf("%q was taken", value)
			continue
		}
		if err != nil && strings.Contains(err.Error(), "u:s3cret") || err != nil && strings.Contains(err.Error(), ":s3cret@") {
			t.Errorf("%q: %v", value, err)
		}
	}
}
