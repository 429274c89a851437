package bfftest_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/agglestone/bff/bfftest"
)

// failure is a TB that keeps what a test would fail with.
type failure struct {
	*testing.T
	text string
}

func (f *failure) Fatalf(format string, args ...any) { f.text = fmt.Sprintf(format, args...) }

// CheckRoutes tells the three callers apart, and what was forgotten.
func TestCheckRoutes(t *testing.T) {
	app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case len(r.Cookies()) == 0:
			w.Header().Set("BFF-Reason", "no_session")
			w.WriteHeader(401)
		case r.Header.Get("Sec-Fetch-Site") != "same-origin" || strings.HasPrefix(r.Header.Get("Origin"), "https://elsewhere"):
			w.Header().Set("BFF-Reason", "csrf")
			w.WriteHeader(403)
		case r.Method != "GET":
			w.WriteHeader(405)
		}
	})
	b := bfftest.NewBrowser(app, "https://app.example.com", bfftest.NewIssuer(bfftest.Options{}))
	b.SetCookie(&http.Cookie{Name: "s", Value: "1"})
	right := bfftest.Answers{Anonymous: "401 no_session", CrossSite: "403 csrf", SignedIn: "200"}
	for _, c := range []struct {
		name  string
		paths []string
		want  map[string]bfftest.Answers
		text  []string // of the failure; none: passes
	}{
		{"right", []string{"/api"}, map[string]bfftest.Answers{"GET /api/x": right}, nil},
		{"wrong", []string{"/api"}, map[string]bfftest.Answers{"GET /api": {Anonymous: "200", CrossSite: "200", SignedIn: "403"}},
			[]string{"nobody: 401 no_session; want 200", "another site: 403 csrf; want 200", "signed in: 200; want 403"}},
		{"method", nil, map[string]bfftest.Answers{"PUT /api": right}, []string{"signed in: 405; want 200"}},
		{"methods", []string{"GET HEAD /api", "PUT /api", "/"}, map[string]bfftest.Answers{"GET /api/x": right, "PUT /api/x": {Anonymous: "401 no_session", CrossSite: "403 csrf", SignedIn: "405"}, "GET /": right}, nil},
		{"forgotten-method", []string{"GET HEAD /api", "PUT /api", "/"}, map[string]bfftest.Answers{"GET /api/x": right, "GET /": right}, []string{"about the answers below PUT /api"}},
		{"method-of-no-row", []string{"GET /api/users", "/api"}, map[string]bfftest.Answers{"GET /api/users": right, "PUT /api/users": {Anonymous: "401 no_session", CrossSite: "403 csrf", SignedIn: "405"}}, []string{"about the answers below /api"}},
		{"forgotten", []string{"/api", "/api/users", ""}, map[string]bfftest.Answers{"GET /api/usersx": right, "GET /": right}, []string{"about the answers below /api/users"}},
		{"malformed", nil, map[string]bfftest.Answers{"/api": right}, []string{"no route"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &failure{T: t}
			bfftest.CheckRoutes(f, b, c.paths, c.want)
			for _, text := range c.text {
				if !strings.Contains(f.text, text) {
					t.Errorf("failed with %q, want %q in it", f.text, text)
				}
			}
			if got := strings.Count(f.text, "\n"); f.text != "" && got != len(c.text)-1 || len(c.text) == 0 && f.text != "" {
				t.Errorf("failed with %q, want %d lines", f.text, len(c.text))
			}
		})
	}
}
