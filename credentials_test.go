package bff_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
)

// inHandler runs f in a handler behind Protect, as the user who is signed in.
func inHandler(t *testing.T, s setup, user string, f func(a *app, ctx context.Context)) *app {
	t.Helper()
	ran := false
	s.mux = func(a *app, mux *http.ServeMux) {
		mux.Handle("GET /run", a.auth.ProtectFunc(func(w http.ResponseWriter, r *http.Request) {
			ran = true
			f(a, r.Context())
		}, bff.Optional()))
	}
	a := newApp(t, s)
	b := a.browser()
	if user != "" {
		b = a.signIn(user)
	}
	if r := b.Fetch("GET", "/run", nil, nil); r.Status != 200 || !ran {
		t.Fatalf("GET /run = %v", r)
	}
	return a
}

// D20: which requests Client sends, and with which token. What it refuses is in
// client_test.go.
func TestClientTokens(t *testing.T) {
	inner := &api{}
	net := bfftest.InProcess(map[string]http.Handler{"https://api.example.com": inner})
	const base = "https://api.example.com/v1"
	cfg := bff.Config{Upstreams: []bff.Upstream{
		{URL: base + "/app", Needs: bff.Client, Tokens: applicationToken{}, Transport: net},
		{URL: base + "/app/anybody", Needs: bff.Client, Tokens: applicationToken{}, InsecureAnonymousClient: true, Transport: net},
		{URL: base + "/open", Needs: bff.UserOptional, Transport: net},
		{URL: base + "/public", Needs: bff.None, Transport: net},
	}}
	check := func(a *app, ctx context.Context, path, want string) {
		a.Helper()
		before := inner.hits() + a.api.hits()
		res, err := a.auth.Client(context.Background()).Do(must(http.NewRequestWithContext(ctx, "GET", base+path, nil)))
		if want == "refused" {
			var p *bff.Problem
			if !errors.As(err, &p) || p.Reason != bff.NoSession || inner.hits()+a.api.hits() != before {
				a.Errorf("GET %s: %v, want no_session and nothing sent", path, err)
			}
			return
		}
		if err != nil {
			a.Errorf("GET %s: %v", path, err)
			return
		}
		res.Body.Close()
		up := inner
		if a.api.hits() > 0 && path == "/x" {
			up = a.api
		}
		got := up.last().Header.Get("Authorization")
		if kind := map[bool]string{true: "user's", false: got}[len(got) > 100]; kind != want {
			a.Errorf("GET %s was sent with %q, want %q", path, kind, want)
		}
	}
	const application = "Bearer of-the-application"
	inHandler(t, setup{config: cfg}, "alice", func(a *app, ctx context.Context) {
		check(a, ctx, "/x", "user's")
		check(a, ctx, "/app/x", application)
		check(a, ctx, "/app/anybody/x", application)
		check(a, ctx, "/open/x", "user's")
		check(a, ctx, "/public/x", "")
		check(a, context.WithoutCancel(ctx), "/x", "user's")
		check(a, context.Background(), "/x", "refused")
	})
	inHandler(t, setup{config: cfg}, "", func(a *app, ctx context.Context) {
		check(a, ctx, "/x", "refused")
		check(a, ctx, "/app/x", "refused")
		check(a, ctx, "/app/anybody/x", application)
		check(a, ctx, "/open/x", "")
		check(a, ctx, "/public/x", "")
	})
}

// D15 holds for handlers that call APIs themselves, too.
func TestClientRetries(t *testing.T) {
	for _, c := range []struct {
		name      string
		request   func(ctx context.Context) *http.Request
		challenge string
		age       time.Duration
		hits      int
		status    int
	}{
		{"get", func(ctx context.Context) *http.Request {
			return must(http.NewRequestWithContext(ctx, "GET", apiURL, nil))
		}, "", time.Minute, 2, 200},
		{"get-with-a-fresh-token", func(ctx context.Context) *http.Request {
			return must(http.NewRequestWithContext(ctx, "GET", apiURL, nil))
		}, "", time.Second, 1, 401},
		{"post-that-can-be-repeated", func(ctx context.Context) *http.Request {
			return must(http.NewRequestWithContext(ctx, "POST", apiURL, strings.NewReader("body")))
		}, `Bearer error="invalid_token"`, time.Minute, 2, 200},
		{"post-without-the-challenge", func(ctx context.Context) *http.Request {
			return must(http.NewRequestWithContext(ctx, "POST", apiURL, strings.NewReader("body")))
		}, "", time.Minute, 1, 401},
		{"post-that-can-not", func(ctx context.Context) *http.Request {
			return must(http.NewRequestWithContext(ctx, "POST", apiURL, io.MultiReader(strings.NewReader("body"))))
		}, `Bearer error="invalid_token"`, time.Minute, 1, 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				inHandler(t, setup{}, "alice", func(a *app, ctx context.Context) {
					first := ""
					a.api.set(func(w http.ResponseWriter, r *http.Request) {
						if first == "" {
							first = r.Header.Get("Authorization")
						}
						if r.Header.Get("Authorization") == first {
							w.Header().Set("WWW-Authenticate", c.challenge)
							w.WriteHeader(401)
						}
					})
					time.Sleep(c.age)
					res, err := a.auth.Client(ctx).Do(c.request(context.Background()))
					if err != nil {
						t.Fatal(err)
					}
					res.Body.Close()
					if res.StatusCode != c.status || a.api.hits() != c.hits {
						t.Errorf("%d after %d requests, want %d after %d", res.StatusCode, a.api.hits(), c.status, c.hits)
					}
					for i, body := range a.api.bodies {
						if want := map[bool]string{true: "body"}[strings.HasPrefix(c.name, "post")]; body != want {
							t.Errorf("request %d has the body %q, want %q", i, body, want)
						}
					}
				})
			})
		})
	}
}

const apiURL = "https://api.example.com/v1/x"

// Credentials have the methods that gRPC wants, and give a token to nobody else
// than Client does.
func TestCredentials(t *testing.T) {
	var _ interface {
		GetRequestMetadata(ctx context.Context, uri ...string) (map[string]string, error)
		RequireTransportSecurity() bool
	} = (*bff.Credentials)(nil)

	inHandler(t, setup{}, "alice", func(a *app, ctx context.Context) {
		c := a.auth.Credentials(context.Background())
		if !c.RequireTransportSecurity() {
			t.Error("no TLS is demanded for an https upstream")
		}
		md, err := c.GetRequestMetadata(ctx, "https://api.example.com/v1/pkg.Service")
		if err != nil || len(md) != 1 || !strings.HasPrefix(md["authorization"], "Bearer ey") {
			t.Errorf("at the upstream: %d entries, %v", len(md), err)
		}
		for _, uri := range []string{"https://evil.example/v1/pkg.Service", "https://api.example.com/pkg.Service", "http://api.example.com/v1/pkg.Service", "://", ""} {
			if md, err := c.GetRequestMetadata(ctx, uri); err == nil {
				t.Errorf("at %q: %d entries", uri, len(md))
			}
		}
		if _, err := c.GetRequestMetadata(ctx); err == nil {
			t.Error("at nothing: a token")
		}
		var p *bff.Problem
		if _, err := c.GetRequestMetadata(context.Background(), "https://api.example.com/v1/pkg.Service"); !errors.As(err, &p) || p.Reason != bff.NoSession {
			t.Errorf("without a session: %v", err)
		}
		if md, err := a.auth.Credentials(ctx).GetRequestMetadata(context.Background(), "https://api.example.com/v1/pkg.Service"); err != nil || len(md) != 1 {
			t.Errorf("with the session of its making: %v", err)
		}
	})
	loopback, err := bff.New(t.Context(), bff.Config{TenantID: "5f2b7c1e-0d4a-4c55-9a63-1f8e2d7b9c04", RedirectURL: "http://localhost/cb",
		Upstreams: []bff.Upstream{{URL: "http://127.0.0.1:50051", H2C: true}}})
	if err != nil {
		t.Fatal(err)
	}
	if loopback.Credentials(t.Context()).RequireTransportSecurity() {
		t.Error("TLS is demanded for an http upstream on loopback")
	}
}
