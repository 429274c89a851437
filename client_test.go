package bff_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
)

// withSession calls f as a handler behind Protect does, for a signed-in alice.
func (a *app) withSession(f func(ctx context.Context)) {
	a.Helper()
	ran := false
	next := a.handler
	a.handler = a.auth.Routes(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.auth.ProtectFunc(func(w http.ResponseWriter, r *http.Request) {
			ran = true
			f(r.Context())
		}).ServeHTTP(w, r)
	}))
	defer func() { a.handler = next }()
	r := a.signIn("alice").Fetch("GET", "/call", nil, nil)
	if !ran {
		a.Fatalf("GET /call = %v", r)
	}
}

// Invariant 12, D20: what is not at or below a declared upstream is refused
// before anything is sent; each row by the check that it names.
func clientRows() []struct{ name, checks, url string } {
	return []struct{ name, checks, url string }{
		{"another host", "client-origin", "https://evil.example/v1/x"},
		{"a host that begins like it", "client-origin", "https://api.example.com.evil.example/v1/x"},
		{"a host that ends like it", "client-origin", "https://evilapi.example.com/v1/x"},
		{"another port", "client-origin", "https://api.example.com:8443/v1/x"},
		{"plain http", "client-origin", "http://api.example.com/v1/x"},
		{"plain http at the port of https", "client-origin", "http://api.example.com:443/v1/x"},
		{"a user", "client-origin", "https://evil@api.example.com/v1/x"},
		{"another path", "client-base", "https://api.example.com/v2/x"},
		{"a path that begins like it", "client-base", "https://api.example.com/v1x"},
		{"the root", "client-base", "https://api.example.com/"},
		{"no path", "client-base", "https://api.example.com"},
		{"dot segments", "client-path", "https://api.example.com/v1/../admin"},
		{"escaped dot segments", "client-path", "https://api.example.com/v1/%2e%2e/admin"},
		{"an escaped slash", "client-path", "https://api.example.com/v1/..%2fadmin"},
		{"an escaped backslash", "client-path", "https://api.example.com/v1/..%5cadmin"},
		{"a parameter", "client-path", "https://api.example.com/v1/..;/admin"},
		{"an empty segment", "client-path", "https://api.example.com/v1//x"},
	}
}

func TestClient(t *testing.T) {
	for _, row := range clientRows() {
		t.Run(row.name, func(t *testing.T) {
			var sent atomic.Int32
			everywhere := roundTripper(func(r *http.Request) (*http.Response, error) {
				sent.Add(1)
				return &http.Response{StatusCode: 200, Body: http.NoBody, Request: r}, nil
			})
			a := newApp(t, setup{api: bff.Upstream{Transport: everywhere}})
			a.withSession(func(ctx context.Context) {
				body := &closer{Reader: strings.NewReader("x")}
				req, err := http.NewRequestWithContext(ctx, "POST", row.url, body)
				if err != nil {
					t.Fatal(err)
				}
				_, err = a.auth.Client(ctx).Do(req)
				if err == nil || !strings.Contains(err.Error(), "nothing was sent") || sent.Load() != 0 {
					t.Errorf("%s: %v, %d requests sent", row.url, err, sent.Load())
				}
				if !body.closed {
					t.Error("the body was not closed")
				}
			})
		})
	}
}

type closer struct {
	io.Reader
	closed bool
}

func (c *closer) Close() error {
	c.closed = true
	return nil
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// What is at or below the upstream gets the token, in the header and nowhere
// else, whatever the caller set.
func TestClientAttachesToken(t *testing.T) {
	a := newApp(t, setup{})
	a.withSession(func(ctx context.Context) {
		s, _ := bff.SessionFromContext(ctx)
		token, err := s.AccessToken(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, target := range []string{"https://api.example.com/v1/x?a=b", "https://api.example.com/v1", "https://API.example.com:443/v1/x"} {
			req, _ := http.NewRequestWithContext(ctx, "GET", target, nil)
			req.Host = "evil.example"
			req.Header.Set("Authorization", "Bearer mine")
			res, err := a.auth.Client(context.Background()).Do(req)
			if err != nil {
				t.Errorf("%s: %v", target, err)
				continue
			}
			res.Body.Close()
			got := a.api.last()
			if h := got.Header["Authorization"]; len(h) != 1 || h[0] != "Bearer "+token.Reveal() || strings.Contains(strings.ToLower(got.Host), "evil") || strings.Contains(got.URL.String(), token.Reveal()) {
				t.Errorf("%s: the API got %s of %s with %q", target, got.URL, got.Host, h)
			}
			if req.Header.Get("Authorization") != "Bearer mine" {
				t.Error("the caller's request was changed")
			}
		}
	})
}

// S46: a redirect to elsewhere ends the request; one within the upstream is
// followed, with the token.
func TestClientRedirects(t *testing.T) {
	a := newApp(t, setup{})
	a.api.set(func(w http.ResponseWriter, r *http.Request) {
		if to := r.FormValue("to"); to != "" {
			http.Redirect(w, r, to, http.StatusTemporaryRedirect)
		}
	})
	a.withSession(func(ctx context.Context) {
		client := a.auth.Client(ctx)
		for _, to := range []string{"https://evil.example/", "http://api.example.com/v1/x", "https://api.example.com/admin"} {
			before := a.api.hits()
			if _, err := client.Get("https://api.example.com/v1/x?to=" + to); err == nil || !strings.Contains(err.Error(), "nothing was sent") || a.api.hits() != before+1 {
				t.Errorf("redirect to %s: %v", to, err)
			}
		}
		res, err := client.Get("https://api.example.com/v1/x?to=/v1/y")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if got := a.api.last(); got.URL.Path != "/v1/y" || got.Header.Get("Authorization") == "" {
			t.Errorf("redirect within the upstream led to %s", got.URL)
		}
	})
}

// Without a session of this relying party nothing is sent, and the error says
// why.
func TestClientNeedsSession(t *testing.T) {
	a, other := newApp(t, setup{}), newApp(t, setup{})
	_, err := a.auth.Client(t.Context()).Get("https://api.example.com/v1/x")
	var p *bff.Problem
	if !errors.As(err, &p) || p.Reason != bff.NoSession || !errors.Is(err, bff.ErrNoSession) {
		t.Errorf("without a session: %v", err)
	}
	other.withSession(func(ctx context.Context) {
		if _, err := a.auth.Client(ctx).Get("https://api.example.com/v1/x"); err == nil || !strings.Contains(err.Error(), "another relying party") {
			t.Errorf("with another relying party's session: %v", err)
		}
	})
	if a.api.hits() != 0 {
		t.Error("the API was called")
	}
}

// The token is live, or the error says what BFF.Error answers with; it holds no
// secret.
func TestClientRefreshes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failed error
		a := newApp(t, setup{mux: func(a *app, mux *http.ServeMux) {
			mux.Handle("GET /call", a.auth.ProtectFunc(func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(20 * time.Minute) // the token dies meanwhile
				res, err := a.auth.Client(r.Context()).Get("https://api.example.com/v1/x")
				if failed = err; err != nil {
					a.auth.Error(w, r, err)
					return
				}
				res.Body.Close()
			}))
		}})
		b := a.signIn("alice")
		if r := b.Fetch("GET", "/call", nil, nil); r.Status != 200 || a.iss.Count("token:refresh_token") != 1 {
			t.Errorf("GET /call = %v after %d refreshes", r, a.iss.Count("token:refresh_token"))
		}
		a.iss.Break("token", bfftest.Fault{BeforeProcessing: true})
		r := b.Fetch("GET", "/call", nil, nil)
		if r.Status != 503 || r.Reason() != "issuer_unavailable" || a.api.hits() != 1 {
			t.Errorf("GET /call with the issuer down = %v", r)
		}
		for _, secret := range a.iss.Secrets() {
			if strings.Contains(failed.Error(), secret) {
				t.Errorf("the error holds a secret: %v", failed)
			}
		}
	})
}
