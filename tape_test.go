package bff_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
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

// A tape keeps all that an application answered, and the errors behind it, to
// be searched for secrets (D30). Every app of these tests has one.
type tape struct {
	mu      sync.Mutex
	text    bytes.Buffer
	cookies []string // Set-Cookie fields: a cookie's value is the browser's
}

func (tp *tape) note(format string, args ...any) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	fmt.Fprintf(&tp.text, format+"\n", args...)
}

// all returns what was answered.
func (tp *tape) all() string {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	return tp.text.String()
}

// refusal is an ErrorHandler.
func (tp *tape) refusal(w http.ResponseWriter, r *http.Request, p *bff.Problem) {
	tp.note("%v %+v %#v %q %v %v", p, p, p.Err, p.Error(), p.Unwrap(), *p)
	p.ServeHTTP(w, r)
}

func (tp *tape) record(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tw := &taped{ResponseWriter: w, tape: tp, r: r}
		defer tw.head(0) // with the trailers
		next.ServeHTTP(tw, r)
	})
}

// taped is a ResponseWriter that keeps what it passes on.
type taped struct {
	http.ResponseWriter
	tape *tape
	r    *http.Request
	kept int
}

func (w *taped) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *taped) WriteHeader(status int) {
	w.head(status)
	w.ResponseWriter.WriteHeader(status)
}

func (w *taped) Write(p []byte) (int, error) {
	if w.kept < 1<<20 {
		w.kept += len(p)
		text := string(p)
		// The hop of a Strict cookie repeats the code to the browser that has
		// just sent it (O1).
		if code := w.r.URL.Query().Get("code"); code != "" && w.r.URL.Path == "/auth/callback" && strings.Contains(text, "bff_hop=1") {
			text = strings.ReplaceAll(text, code, "$CODE")
		}
		w.tape.note("%s", text)
	}
	return w.ResponseWriter.Write(p)
}

func (w *taped) head(status int) {
	h := w.Header().Clone()
	w.tape.mu.Lock()
	w.tape.cookies = append(w.tape.cookies, h["Set-Cookie"]...)
	w.tape.mu.Unlock()
	h.Del("Set-Cookie")
	// The one exception to invariant 1: to the issuer only, in a redirect that
	// no script can read.
	if u, err := url.Parse(h.Get("Location")); err == nil && w.r.URL.Path == "/logout" && strings.HasSuffix(u.Path, "/endsession") {
		q := u.Query()
		q.Del("id_token_hint")
		u.RawQuery = q.Encode()
		h.Set("Location", u.String())
	}
	w.tape.note("%s %s: %d %v", w.r.Method, w.r.URL.Path, status, h)
}

// leaks returns what of secrets is in text, in each form that it could have
// been written in.
func leaks(text string, secrets []string) (found []string) {
	// A needle is the start of a form: what is cut short is found as well.
	const needle = 12
	needles := map[string]string{}
	for _, secret := range secrets {
		// The first parts of a JWT are no secret, nor those of a cookie's value.
		if i := strings.LastIndexByte(secret, '.'); i >= 0 {
			secret = secret[i+1:]
		}
		if len(secret) < needle {
			continue // found by chance
		}
		for form, s := range forms(secret) {
			needles[s[:needle]] = form
		}
	}
	for i := 0; i+needle <= len(text); i++ {
		if form, ok := needles[text[i:i+needle]]; ok {
			found = append(found, fmt.Sprintf("%s after %q", form, text[max(0, i-80):i]))
		}
	}
	return found
}

// forms returns the ways in which a secret might be written.
func forms(secret string) map[string]string {
	quoted := strconv.Quote(secret)
	list := map[string]string{
		"raw":    secret,
		"URL":    url.QueryEscape(secret),
		"quoted": quoted[1 : len(quoted)-1],
		"hex":    fmt.Sprintf("%x", secret),
	}
	for before := range 3 { // bytes of something else, in the same base64
		b := append(make([]byte, before), secret...)
		first, last := (before*8+5)/6, len(b)*8/6
		list[fmt.Sprint("base64 ", before)] = base64.RawStdEncoding.EncodeToString(b)[first:last]
		list[fmt.Sprint("base64url ", before)] = base64.RawURLEncoding.EncodeToString(b)[first:last]
	}
	return list
}

// scan searches all that left the application, and its log, for what must not
// be there.
func (tp *tape) scan(a *app) {
	a.Helper()
	tp.mu.Lock()
	defer tp.mu.Unlock()
	issued := append(a.iss.Secrets(), a.secrets...)
	var cookies []string
	for _, line := range tp.cookies {
		_, value, _ := strings.Cut(line, "=")
		value, _, _ = strings.Cut(value, ";")
		if strings.HasPrefix(line, "__Host-Http-bff") && len(value) > 40 {
			// Behind the version, the key's ID and the time, which are no secret.
			cookies = append(cookies, value[16:])
		}
	}
	for _, leak := range leaks(tp.text.String(), append(issued, cookies...)) {
		a.Errorf("a secret was answered: %s", leak)
	}
	for _, leak := range leaks(a.log.String(), append(issued, cookies...)) {
		a.Errorf("a secret is in the log: %s", leak)
	}
	for _, leak := range leaks(strings.Join(tp.cookies, "\n"), issued) {
		a.Errorf("a secret is in a cookie: %s", leak)
	}
}

// The scan finds what it is for.
func TestLeaksAreFound(t *testing.T) {
	const (
		secret = "s3cret+/with=odd&bytes"
		jwt    = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg"
	)
	for name, text := range map[string]string{
		"raw":      "x" + secret,
		"cut":      secret[:15],
		"URL":      "https://x/?a=" + url.QueryEscape(secret),
		"quoted":   fmt.Sprintf("%q", secret),
		"hex":      fmt.Sprintf("%x", "ab"+secret),
		"base64":   base64.StdEncoding.EncodeToString([]byte(secret)),
		"base64-1": base64.StdEncoding.EncodeToString([]byte(`{"access_token":"` + secret + `"}`)),
		"base64-2": base64.URLEncoding.EncodeToString([]byte("a" + secret)),
		"base64-3": base64.RawURLEncoding.EncodeToString([]byte("ab" + secret + "c")),
		"JWT":      `{"id_token":"` + jwt + `"}`,
		"signed":   strings.SplitAfterN(jwt, ".", 3)[2],
	} {
		if len(leaks(text, []string{"another-secret", secret, jwt})) == 0 {
			t.Errorf("%s: nothing found in %s", name, text)
		}
	}
	if found := leaks("eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0. s3cret "+strings.Repeat("a", 100), []string{secret, jwt}); len(found) != 0 {
		t.Errorf("found %q where nothing is", found)
	}
}

// 1: no token leaves. A whole life with its failures: sign-in, API, refresh,
// refused requests, outages, sign-out. The one exception is the id_token_hint
// in the redirect that follows a form to POST /logout. The search itself is
// done at the end of every test, see newApp.
func TestInvariant1NoTokenLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const secret = "a-client-secret-of-some-length"
		a := newApp(t, setup{config: bff.Config{UserInfo: true, ClientSecret: secret},
			issuer: bfftest.Options{Clients: []bfftest.Client{{ID: "web", Secret: secret}}}})
		b := a.signIn("alice")
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
		a.signIn("bob").Post("/logout", nil)
		if a.iss.Count("token:refresh_token") < 3 {
			t.Errorf("%d refreshes: that was no whole life", a.iss.Count("token:refresh_token"))
		}
		kinds := map[string]bool{}
		for _, s := range a.iss.Secrets() {
			kinds[fmt.Sprint(len(s), strings.Count(s, "."))] = true
		}
		if len(kinds) < 4 || len(a.tape.cookies) < 4 || len(a.tape.all()) < 10000 {
			t.Errorf("kinds of secrets %v, %d cookies, %d bytes: there is too little to search", kinds, len(a.tape.cookies), len(a.tape.all()))
		}
	})
}
