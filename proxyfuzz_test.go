package bff_test

import (
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
)

// Whatever is asked for, what reaches the upstream is at or below its base, to
// us and to servers that decode, resolve and split as they like.
func FuzzUpstreamPath(f *testing.F) {
	for _, row := range rawRows() {
		if target, _, ok := strings.Cut(strings.TrimPrefix(row.send, "GET "), " HTTP/1.1"); ok && strings.HasPrefix(target, "/") && len(target) < 1000 {
			f.Add(target)
		}
	}
	a, cookie := fuzzed(f)
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target) // as net/http reads a request line
		if err != nil || u.Host != "" {
			return
		}
		a.api.forget()
		w := &recorder{header: http.Header{}, status: 200}
		r := &http.Request{Method: "GET", URL: u, RequestURI: target, Header: http.Header{"X-Csrf": {"1"}}, ProtoMajor: 1, ProtoMinor: 1, RemoteAddr: "192.0.2.7:1"}
		r.AddCookie(cookie)
		a.handler.ServeHTTP(w, r.WithContext(t.Context()))
		if a.api.hits() == 0 {
			if w.status < 400 {
				t.Fatalf("%q = %d without the API", target, w.status)
			}
			return
		}
		got := a.api.last().RequestURI
		path, _, _ := strings.Cut(got, "?")
		if path != "/v1" && !strings.HasPrefix(path, "/v1/") {
			t.Fatalf("%q became %q", target, got)
		}
		plain, err := url.PathUnescape(path)
		if err != nil || strings.ContainsAny(plain, "\\;%\x00\r\n") || strings.Count(plain, "/") != strings.Count(path, "/") || strings.Contains(plain, "//") {
			t.Fatalf("%q became %q, decoded %q, %v", target, got, plain, err)
		}
		for segment := range strings.SplitSeq(plain, "/") {
			if segment != "" && strings.Trim(segment, ". ") == "" {
				t.Fatalf("%q became %q, with the segment %q", target, got, segment)
			}
		}
	})
}

// Whatever an upstream challenges with, a step_up leads to our login with
// max_age and acr_values alone, and these are well formed.
func FuzzChallenge(f *testing.F) {
	for _, s := range []string{
		`Bearer error="insufficient_user_authentication", acr_values="a b", max_age=5`,
		`Basic realm="a, b\"c", Negotiate YWJj==, bearer error=insufficient_user_authentication,max_age="0"`,
		`Bearer error="insufficient_user_authentication", acr_values="x&prompt=none", max_age="-1"`,
		`DPoP algs="ES256", error="insufficient_user_authentication", acr_values="` + "\x80" + `"`, `Bearer`, `,`, `=`, `a=b`, `Bearer a="`, `Bearer a="\`,
	} {
		f.Add(s)
	}
	a, cookie := fuzzed(f)
	f.Fuzz(func(t *testing.T, challenge string) {
		a.api.forget()
		a.api.set(func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Www-Authenticate"] = []string{challenge}
			w.WriteHeader(401)
		})
		w := &recorder{header: http.Header{}, status: 200}
		r, _ := http.NewRequestWithContext(t.Context(), "PATCH", "/api/x", nil) // which no fresher token repeats
		r.RequestURI, r.Header = "/api/x", http.Header{"X-Csrf": {"1"}}
		r.AddCookie(cookie)
		a.handler.ServeHTTP(w, r)
		switch reason := w.header.Get("Bff-Reason"); {
		case w.status != 401 || reason != "upstream_unauthorized" && reason != "step_up":
			t.Fatalf("%q = %d %s", challenge, w.status, reason)
		case reason == "step_up":
			r := &bfftest.Response{Body: []byte(w.body.String())}
			var body struct {
				LoginURL  string
				ACRValues string
				MaxAge    *uint32
			}
			if err := r.JSON(&body); err != nil {
				t.Fatalf("%q = %s: %v", challenge, w.body.String(), err)
			}
			u, err := url.Parse(body.LoginURL)
			if err != nil || u.Path != "/login" || u.Host != "" || u.Fragment != "" || body.ACRValues == "" && body.MaxAge == nil {
				t.Fatalf("%q = %s", challenge, w.body.String())
			}
			for name, values := range u.Query() {
				if name != "acr_values" && name != "max_age" || len(values) != 1 || len(values[0]) > 256 || strings.ContainsFunc(values[0], func(r rune) bool { return r < ' ' || r > '~' }) {
					t.Fatalf("%q leads to %s", challenge, body.LoginURL)
				}
			}
		}
	})
}

// forget drops what was recorded.
func (u *api) forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.got, u.bodies = nil, nil
}

// fuzzed returns an app for a fuzz target, and the cookie of somebody who is
// signed in.
func fuzzed(f *testing.F) (*app, *http.Cookie) {
	f.Helper()
	iss := bfftest.NewIssuer(bfftest.Options{})
	a := &app{iss: iss, api: &api{}, log: &logBuffer{}}
	auth, err := bff.New(f.Context(), bff.Config{
		Issuer: iss.URL(), ClientID: iss.ClientID(), RedirectURL: appURL + "/auth/callback", Keys: []bff.Key{bff.NewKey()}, HTTPClient: iss.Client(), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		f.Fatal(err)
	}
	a.auth = auth
	a.handler = auth.Routes(auth.Proxy(bff.Upstream{URL: "https://api.example.com/v1", StripPrefix: "/api", Transport: bfftest.InProcess(map[string]http.Handler{"https://api.example.com": a.api})}))
	b := a.browser()
	if r := b.SignIn("alice"); r.Err != nil {
		f.Fatal(r.Err)
	}
	for _, c := range b.Cookies() {
		if c.Name == "__Host-Http-bff" {
			return a, c
		}
	}
	f.Fatal("no session cookie")
	return nil, nil
}
