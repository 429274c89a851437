package bff_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
)

// scan searches all that left the application for what must not.
func (row *hostile) scan(t *testing.T, a *app, tape *tape, browsers ...*bfftest.Browser) {
	t.Helper()
	secrets := a.iss.Secrets()
	for _, b := range browsers {
		for _, c := range b.Cookies() {
			secrets = append(secrets, c.Value)
		}
	}
	tape.scan(t, a, secrets)
}

// A tape keeps what an application answered, and the errors behind it.
type tape struct {
	mu      sync.Mutex
	answers []string
	cookies []string // Set-Cookie fields
}

// all returns what was answered.
func (tp *tape) all() string {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	return strings.Join(tp.answers, "\n")
}

// refusal is an ErrorHandler.
func (tp *tape) refusal(w http.ResponseWriter, r *http.Request, p *bff.Problem) {
	tp.mu.Lock()
	tp.answers = append(tp.answers, fmt.Sprintf("%v %+v %#v %q %v", p, p, p.Err, p.Error(), p.Unwrap()))
	tp.mu.Unlock()
	p.ServeHTTP(w, r)
}

func (tp *tape) record(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		res := rec.Result()
		body, _ := io.ReadAll(res.Body)
		var fields bytes.Buffer
		h := res.Header.Clone()
		h.Del("Set-Cookie")
		h.Write(&fields)
		tp.mu.Lock()
		tp.answers = append(tp.answers, r.Method+" "+r.URL.Path+": "+fields.String()+string(body))
		tp.cookies = append(tp.cookies, res.Header["Set-Cookie"]...)
		tp.mu.Unlock()
		for name, values := range res.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(res.StatusCode)
		w.Write(body)
	})
}

// scan looks for secrets, in each form that they could have been written in,
// in what was answered and logged. Cookies' values are the browser's, so they
// may be set, and nothing else.
func (tp *tape) scan(t *testing.T, a *app, secrets []string) {
	t.Helper()
	tp.mu.Lock()
	defer tp.mu.Unlock()
	if len(secrets) == 0 || len(tp.answers) == 0 {
		t.Fatal("nothing to look for, or nowhere to look")
	}
	set := strings.Join(tp.cookies, "\n")
	haystack := strings.Join(tp.answers, "\n") + "\n" + a.log.String()
	for _, secret := range secrets {
		if len(secret) < 12 {
			continue
		}
		for form, needle := range forms(secret) {
			if i := strings.Index(haystack, needle); i >= 0 {
				t.Errorf("a secret (%s) is in %q", form, haystack[max(0, i-80):i])
			}
		}
	}
	for _, secret := range a.iss.Secrets() {
		for form, needle := range forms(secret) {
			if len(secret) >= 12 && strings.Contains(set, needle) {
				t.Errorf("a token, code or verifier (%s) is in a cookie", form)
			}
		}
	}
}

// forms returns the ways in which a secret might be written.
func forms(secret string) map[string]string {
	quoted := strconv.Quote(secret)
	return map[string]string{
		"raw":        secret,
		"URL":        url.QueryEscape(secret),
		"base64":     base64.RawStdEncoding.EncodeToString([]byte(secret)),
		"base64 URL": base64.RawURLEncoding.EncodeToString([]byte(secret)),
		"quoted":     quoted[1 : len(quoted)-1],
		"hex":        fmt.Sprintf("%x", secret),
	}
}

// 1: no token leaves. A whole life with its failures: sign-in, API, refresh,
// refused requests, outages, sign-out. The one exception is the id_token_hint
// in the redirect that follows a form to POST /logout.
func TestInvariant1NoTokenLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tape := &tape{}
		a := newApp(t, setup{config: bff.Config{ErrorHandler: tape.refusal, UserInfo: true, ClientSecret: "a-client-secret-of-some-length"},
			issuer: bfftest.Options{Clients: []bfftest.Client{{ID: "web", Secret: "a-client-secret-of-some-length"}}}})
		a.handler = tape.record(a.handler)
		b := a.signIn("alice")
		cookies := b.Cookies()
		b.Fetch("GET", "/auth/session", nil, nil)
		b.Fetch("POST", "/auth/session", nil, nil)
		b.Fetch("GET", "/api/x", nil, nil)
		b.Navigate("/page")
		for _, fault := range []bfftest.Fault{{Error: "invalid_request"}, {Status: 500}, {Body: "garbage"}, {CloseBeforeAnswer: true}, {}} {
			heal := a.iss.Break("token", fault)
			time.Sleep(16 * time.Minute)
			b.Fetch("GET", "/api/x", nil, nil)
			heal()
			b.Fetch("GET", "/api/x", nil, nil)
		}
		b.Fetch("GET", "/api/x", nil, http.Header{"Sec-Fetch-Site": {"cross-site"}})
		a.api.set(func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
		b.Fetch("GET", "/api/x", nil, nil)
		b.Fetch("POST", "/logout", nil, http.Header{"Accept": {"application/json"}})
		secrets := append(a.iss.Secrets(), "a-client-secret-of-some-length")
		for _, c := range cookies {
			secrets = append(secrets, c.Value)
		}
		tape.scan(t, a, secrets)
		if a.iss.Count("token:refresh_token") < 3 {
			t.Errorf("%d refreshes: that was no whole life", a.iss.Count("token:refresh_token"))
		}
	})
}
