package main

import (
	"context"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
	"github.com/agglestone/bff/internal/testserver"
)

// A session outlives the process that made it, in the application's database.
func TestPostgres(t *testing.T) {
	db := testserver.StartPostgres(t)
	iss := bfftest.StartIssuer(t, bfftest.Options{})
	env := map[string]string{"DATABASE_URL": db.URL(), "ISSUER": iss.URL(), "CLIENT_ID": iss.ClientID(), "BFF_KEYS": bff.NewKey().Reveal()}
	addr := "127.0.0.1:0"
	var b *bfftest.Browser
	for visit := range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		out, in := io.Pipe()
		go func() { done <- run(ctx, addr, func(name string) string { return env[name] }, in) }()
		said := make([]byte, 200)
		n, err := out.Read(said)
		m := regexp.MustCompile(`http://(\S+)`).FindStringSubmatch(string(said[:n]))
		if err != nil || m == nil {
			t.Fatalf("it said %q, %v", said[:n], err)
		}
		addr = m[1] // the same at the next start
		if b == nil {
			b = bfftest.NewBrowser(nil, "http://"+addr, iss)
			if r := b.SignIn("alice"); r.Err != nil {
				t.Fatal(r.Err)
			}
		}
		r := b.Navigate("/")
		if want := []string{"number 2", "number 3"}[visit]; r.Status != 200 || !strings.Contains(string(r.Body), want) {
			t.Errorf("visit: %v %s, want %s", r, r.Body, want)
		}
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("run = %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("it doesn't stop")
		}
	}
}
