package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/agglestone/bff/bfftest"
)

// start runs the quickstart at addr until the test ends, and returns what it
// printed first and where it says that it is.
func start(t *testing.T, addr string) (said, origin string) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, addr, in)
		in.Close()
		ended <- err
	}()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("run = %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("still running a minute after it was stopped")
		}
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		said += lines.Text() + "\n"
		if _, rest, ok := strings.Cut(lines.Text(), "Open http://"); ok {
			go io.Copy(io.Discard, out) // until run returns
			host, _, _ := strings.Cut(rest, " ")
			return said, "http://" + host
		}
	}
	t.Fatalf("it ended without an address: %s", said)
	return "", ""
}

// What a person does, over sockets.
func TestQuickstart(t *testing.T) {
	_, origin := start(t, "127.0.0.1:0")
	b := bfftest.NewBrowser(nil, origin, nil)

	page := b.Navigate("/")
	if page.Status != 200 || !strings.Contains(string(page.Body), `<button id="login"`) {
		t.Fatalf("GET / = %v", page)
	}
	if csp := page.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'self'; script-src 'self';") {
		t.Errorf("the page's policy is %q", csp)
	}
	for file, kind := range map[string]string{"/app.js": "text/javascript", "/bff.js": "text/javascript", "/style.css": "text/css", "/icon.svg": "image/svg+xml"} {
		if r := b.Fetch("GET", file, nil, nil); r.Status != 200 || !strings.HasPrefix(r.Header.Get("Content-Type"), kind) {
			t.Errorf("GET %s = %v, %v", file, r, r.Header)
		}
	}
	var nobody struct {
		Authenticated bool
		Reason        string
	}
	if r := b.Fetch("GET", "/auth/session?anonymous=200", nil, nil); r.Status != 200 || r.JSON(&nobody) != nil || nobody.Authenticated || nobody.Reason != "no_session" {
		t.Errorf("the session of nobody = %v", r)
	}
	if r := b.Fetch("GET", "/api/users", nil, nil); r.Status != 401 || r.Reason() != "no_session" {
		t.Errorf("the Users API, signed out = %v, want 401 no_session", r)
	}

	// A protected page leads to the issuer, and the issuer back to it.
	if r := b.Navigate("/admin"); r.Status != 200 || strings.HasPrefix(r.URL.String(), origin) {
		t.Fatalf("GET /admin, signed out = %v, want the issuer's page", r)
	}
	if r := b.Submit(url.Values{"user": {"alice"}}); r.Status != 200 || r.URL.String() != origin+"/admin" || !strings.Contains(string(r.Body), "Hello Alice Archer.") {
		t.Fatalf("after the sign-in: %v", r)
	}

	var s struct {
		Authenticated bool
		Groups        []string
		Claims        struct{ Name, Email string }
		Session       struct{ CreatedAt, IdleExpiresAt, ExpiresAt time.Time }
	}
	r := b.Fetch("GET", "/auth/session?anonymous=200", nil, nil)
	if r.Status != 200 || r.JSON(&s) != nil || !s.Authenticated || s.Claims.Email != "alice@example.com" || len(s.Groups) != 2 {
		t.Errorf("GET /auth/session = %v", r)
	}
	if left := s.Session.ExpiresAt.Sub(s.Session.CreatedAt).Round(time.Minute); left != time.Hour {
		t.Errorf("the session lasts %v, want 1h", left)
	}
	if left := s.Session.IdleExpiresAt.Sub(s.Session.CreatedAt).Round(time.Minute); left != 5*time.Minute {
		t.Errorf("the session idles out after %v, want 5m", left)
	}
	if r := b.Fetch("POST", "/auth/session", nil, nil); r.Status != 200 || r.JSON(&s) != nil || !s.Authenticated {
		t.Errorf("POST /auth/session = %v", r)
	}
	var users struct {
		Data []struct{ UserID, Email string }
	}
	if r := b.Fetch("GET", "/api/users", nil, nil); r.Status != 200 || r.JSON(&users) != nil || len(users.Data) != 3 {
		t.Fatalf("GET /api/users = %v", r)
	}
	if r := b.Fetch("GET", "/api/users/"+users.Data[1].UserID, nil, nil); r.Status != 200 || !strings.Contains(string(r.Body), "bob@example.com") {
		t.Errorf("GET of one user = %v", r)
	}

	// Sign-out ends the issuer's session too: it asks again.
	var out struct{ RedirectURL string }
	if r := b.Fetch("POST", "/logout", nil, http.Header{"Accept": {"application/json"}}); r.Status != 200 || r.JSON(&out) != nil {
		t.Fatalf("POST /logout = %v", r)
	}
	if r := b.Navigate(out.RedirectURL); r.Status != 200 || r.URL.Path != "/" || r.URL.Scheme+"://"+r.URL.Host != origin {
		t.Errorf("after the sign-out: %v", r)
	}
	if r := b.Fetch("GET", "/api/users", nil, nil); r.Status != 401 {
		t.Errorf("the Users API after the sign-out = %v", r)
	}
	b.Navigate("/admin")
	if r := b.Submit(url.Values{"user": {"bob"}}); r.Status != 403 || r.Reason() != "forbidden" {
		t.Errorf("the page for Admin as bob = %v, want 403 forbidden", r)
	}
	if r := b.Fetch("GET", "/api/users", nil, nil); r.Status != 403 || r.Reason() != "" {
		t.Errorf("the Users API as bob = %v, want the API's own 403", r)
	}
}

// Somebody else has the port: another is found, and named.
func TestPortTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	said, origin := start(t, l.Addr().String())
	if !strings.Contains(said, l.Addr().String()+": ") || !strings.Contains(said, "taking a free port instead") {
		t.Errorf("it said %q, and nothing of %v", said, l.Addr())
	}
	if r := bfftest.NewBrowser(nil, origin, nil).Navigate("/"); r.Status != 200 {
		t.Errorf("GET / = %v", r)
	}
}

// The client in static is the README's, without the types.
func TestClientIsREADMEs(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(readme), "```ts\n")
	want, _, ok := strings.Cut(rest, "```")
	_, want, ok2 := strings.Cut(want, "expiresAt?: string };\n") // the end of the types
	if !ok || !ok2 {
		t.Fatal("README.md has no TypeScript client")
	}
	want = regexp.MustCompile(`: (string|RequestInit|Promise<Session>|EventSource|Told|\(what: string, event: Told\) => void)`).ReplaceAllString(want, "")
	got, err := static.ReadFile("static/bff.js")
	if err != nil {
		t.Fatal(err)
	}
	_, client, _ := strings.Cut(string(got), "\n") // the first line is a comment
	if client != want {
		t.Errorf("static/bff.js differs from README.md: got\n%s\nwant\n%s", client, want)
	}
}
