package bfftest_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
)

// A handler sees in the context what it would see after a sign-in.
func TestNewContext(t *testing.T) {
	type key struct{}
	parent, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "kept"))
	ctx := bfftest.NewContext(parent, bfftest.User{
		Name: "alice", Groups: []string{"Admin"}, Password: "unused", Disabled: true,
		Claims: map[string]any{"plan": "pro"}, Values: map[string]string{"account": "7"},
	})
	s, ok := bff.SessionFromContext(ctx)
	if !ok {
		t.Fatal("there is no session")
	}
	iss := bfftest.NewIssuer(bfftest.Options{})
	alice, _ := iss.User("alice")
	var claims struct{ Sub, Name, Email, Plan string }
	if err := s.Claims(&claims); err != nil {
		t.Fatal(err)
	}
	if s.Subject() != alice.ID || claims.Sub != alice.ID || s.Issuer() != iss.URL() || claims.Email != "alice@example.com" || claims.Plan != "pro" {
		t.Errorf("the session is %s's at %s, with %+v", s.Subject(), s.Issuer(), claims)
	}
	if !slices.Equal(s.Groups(), []string{"Admin"}) || s.Value("account") != "7" || s.CSRFToken() == "" {
		t.Errorf("groups %v, value %q, CSRF token %q", s.Groups(), s.Value("account"), s.CSRFToken())
	}
	if left := time.Until(s.ExpiresAt()).Round(time.Hour); left != 12*time.Hour {
		t.Errorf("it ends in %v, want 12h", left)
	}
	if token, err := s.AccessToken(ctx); err != nil || strings.Count(token.Reveal(), ".") != 2 {
		t.Errorf("AccessToken = %v, %v", token, err)
	}
	if ctx.Value(key{}) != "kept" {
		t.Error("the values of the context are lost")
	}
	cancel()
	if ctx.Err() == nil {
		t.Error("the end of the context is lost")
	}
	again, _ := bff.SessionFromContext(bfftest.NewContext(ctx, bfftest.User{ID: "bob-7"}))
	if again.Subject() != "bob-7" || again.Groups() != nil {
		t.Errorf("a second session is %s's, in %v", again.Subject(), again.Groups())
	}
	if s, ok := bff.SessionFromContext(parent); ok {
		t.Errorf("the parent has the session of %s", s.Subject())
	}
}

// The token is renewed like any other, and the clock is the test's.
func TestNewContextRefreshes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := bff.SessionFromContext(bfftest.NewContext(t.Context(), bfftest.User{Name: "alice"}))
		first, err := s.AccessToken(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Minute)
		if second, err := s.AccessToken(t.Context()); err != nil || second == first {
			t.Errorf("half an hour later: the same token %t, %v", second == first, err)
		}
	})
}

// Such a context is no key to an application, whoever the user is.
func TestNewContextOpensNothing(t *testing.T) {
	iss := bfftest.NewIssuer(bfftest.Options{})
	api := bff.Upstream{URL: "https://api.example.com", StripPrefix: "/api"}
	auth, err := bff.New(t.Context(), bff.Config{
		Issuer: iss.URL(), ClientID: iss.ClientID(), HTTPClient: iss.Client(), Keys: []bff.Key{bff.NewKey()},
		RedirectURL: "https://app.example.com/auth/callback", Upstreams: []bff.Upstream{api},
	})
	if err != nil {
		t.Fatal(err)
	}
	reached := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, there := bff.SessionFromContext(r.Context())
		t.Errorf("%s %s reached the handler; a session is there: %t", r.Method, r.URL, there)
	})
	mux := http.NewServeMux()
	mux.Handle("/page", auth.Protect(reached, bff.RequireGroup("Admin")))
	mux.Handle("/open", auth.Protect(reached, bff.Optional(), bff.RequireGroup("Admin")))
	mux.Handle("/api/", auth.Proxy(api))
	app := auth.Routes(mux)
	ctx := bfftest.NewContext(t.Context(), bfftest.User{Name: "alice", Groups: []string{"Admin"}})
	s, _ := bff.SessionFromContext(ctx)
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/page", 401}, {"POST", "/page", 401}, {"GET", "/open", 403}, {"GET", "/api/x", 401},
		{"GET", "/auth/session", 401}, {"POST", "/auth/session", 401},
	} {
		r := httptest.NewRequestWithContext(ctx, c.method, c.path, nil)
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		r.Header.Set("X-CSRF-Token", s.CSRFToken())
		w := httptest.NewRecorder()
		app.ServeHTTP(w, r)
		if w.Code != c.status {
			t.Errorf("%s %s = %d, want %d", c.method, c.path, w.Code, c.status)
		}
	}
	if res, err := auth.Client(ctx).Get("https://api.example.com/x"); err == nil {
		res.Body.Close()
		t.Error("Client sent its token to an upstream of ours")
	} else if !strings.Contains(err.Error(), "another relying party's") {
		t.Errorf("Client: %v", err)
	}
}

func BenchmarkNewContext(b *testing.B) {
	for b.Loop() {
		bfftest.NewContext(b.Context(), bfftest.User{Name: "alice"})
	}
}
