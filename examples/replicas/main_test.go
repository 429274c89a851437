package main

import (
	"bytes"
	"context"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/agglestone/bff/internal/testserver"
)

// A log that can be read while it is written.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Signed in at one replica, known at both, signed out at both.
func TestReplicas(t *testing.T) {
	redis := testserver.StartRedis(t, testserver.RedisServer)
	ctx, cancel := context.WithCancel(t.Context())
	var out output
	done := make(chan error, 1)
	go func() { done <- run(ctx, "127.0.0.1:0", "redis://"+redis.Addr, &out) }()
	var origin string
	for deadline := time.Now().Add(20 * time.Second); origin == ""; time.Sleep(10 * time.Millisecond) {
		if m := regexp.MustCompile(`Open (http://\S+) `).FindStringSubmatch(out.String()); m != nil {
			origin = m[1]
		}
		if time.Now().After(deadline) {
			t.Fatalf("it didn't start: %s", out.String())
		}
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar, Timeout: 20 * time.Second}
	page := func(res *http.Response, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	get := func(accept string) *http.Request {
		r, err := http.NewRequest("GET", origin+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", accept)
		return r
	}
	res, err := client.Do(get("text/html"))
	if err != nil {
		t.Fatal(err)
	}
	at := res.Request.URL // the issuer's login page
	text := page(res, nil)
	form := regexp.MustCompile(`action="([^"]+)"`).FindStringSubmatch(text)
	if form == nil {
		t.Fatalf("no form at %s", at)
	}
	action, err := at.Parse(html.UnescapeString(form[1]))
	if err != nil {
		t.Fatal(err)
	}
	text = page(client.PostForm(action.String(), url.Values{"user": {"alice"}}))
	seen := map[string]bool{}
	for range 6 {
		m := regexp.MustCompile(`replica (\d)`).FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("a replica doesn't know the session: %.300s", text)
		}
		seen[m[1]] = true
		text = page(client.Do(get("text/html")))
	}
	if len(seen) != 2 {
		t.Errorf("replicas %v answered, want both", seen)
	}
	logout, err := http.NewRequest("POST", origin+"/logout", nil)
	if err != nil {
		t.Fatal(err)
	}
	logout.Header.Set("Origin", origin)
	logout.Header.Set("Accept", "application/json")
	page(client.Do(logout))
	for range 4 {
		if res, err := client.Do(get("application/json")); err != nil || res.StatusCode != http.StatusUnauthorized {
			t.Errorf("after the sign-out: %v, %v", res, err)
		} else {
			res.Body.Close()
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("run = %v", err)
	}
}
