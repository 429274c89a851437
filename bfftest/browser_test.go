package bfftest_test

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff/bfftest"
)

// A failing TB keeps what it was told.
type failing struct {
	*testing.T
	message string
}

func (f *failing) Fatalf(format string, args ...any) { f.message = fmt.Sprintf(format, args...) }

func TestSignIn(t *testing.T) {
	iss := bfftest.NewIssuer(bfftest.Options{})
	app := newRP(iss)
	client := bfftest.SignIn(t, iss, app, appURL, "alice")
	do := func(method string, header http.Header) string {
		req, err := http.NewRequest(method, appURL+"/api", nil)
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(req.Header, header)
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		return string(body)
	}
	for _, row := range []struct {
		method string
		header http.Header
		want   string
	}{
		{"GET", nil, "site=same-origin mode=cors dest=empty origin="},
		{"POST", nil, "site=same-origin mode=cors dest=empty origin=https://app.example.com"},
		{"POST", http.Header{"Sec-Fetch-Site": {"cross-site"}, "Origin": {"https://evil.example"}}, "site=cross-site mode=cors dest=empty origin=https://evil.example"},
	} {
		if got := do(row.method, row.header); got != row.want {
			t.Errorf("%s %v: %s, want %s", row.method, row.header, got, row.want)
		}
	}
	if n := iss.Count("login"); n != 1 {
		t.Errorf("Count(login) = %d, want 1", n)
	}
}

// The message of a failed sign-in says what happened.
func TestSignInFails(t *testing.T) {
	for _, row := range []struct {
		name string
		app  func(*rp) http.Handler
		user string
		want []string
	}{
		{"unknown-user", func(a *rp) http.Handler { return a }, "mallory", []string{"no such user", "401"}},
		{"callback-refuses", func(a *rp) http.Handler {
			a.iss.Break("callback", bfftest.Fault{EditCallback: func(v url.Values) { v.Set("state", "x") }})
			return a
		}, "alice", []string{"400", "login_mismatch", "no such attempt"}},
		{"no-login", func(*rp) http.Handler { return http.NotFoundHandler() }, "alice", []string{"404", "didn't lead to the issuer"}},
		{"cookie-refused", func(a *rp) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/login" {
					w.Header().Add("Set-Cookie", "__Host-x=1; Path=/login; Secure")
				}
				r.Header.Del("Cookie")
				a.ServeHTTP(w, r)
			})
		}, "alice", []string{"refused the cookie __Host-x"}},
		{"issuer-down", func(a *rp) http.Handler {
			a.iss.Break("token", bfftest.Fault{CloseBeforeAnswer: true})
			return a
		}, "alice", []string{"502", "unexpected EOF"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			iss := bfftest.NewIssuer(bfftest.Options{})
			tb := &failing{T: t}
			bfftest.SignIn(tb, iss, row.app(newRP(iss)), appURL, row.user)
			for _, want := range row.want {
				if !strings.Contains(tb.message, want) {
					t.Errorf("message %q lacks %q", tb.message, want)
				}
			}
		})
	}
}

// Where a request says it comes from, hop by hop, as Chromium has it.
func TestFetchMetadata(t *testing.T) {
	iss := bfftest.NewIssuer(bfftest.Options{})
	a := newRP(iss)
	b := bfftest.NewBrowser(a, appURL, iss)
	b.Serve("https://evil.test", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }))
	sites := func(r *bfftest.Response) (sites []string) {
		for _, h := range r.Hops {
			sites = append(sites, h.Method+" "+h.URL.Path[max(0, len(h.URL.Path)-9):]+" "+h.Sent.Get("Sec-Fetch-Site"))
			if h.Sent.Get("Sec-Fetch-Mode") != "navigate" || h.Sent.Get("Sec-Fetch-Dest") != "document" {
				t.Errorf("%s %s isn't marked as a navigation", h.Method, h.URL)
			}
		}
		return sites
	}
	for _, row := range []struct {
		name string
		do   func() *bfftest.Response
		want []string
	}{
		{"typed", func() *bfftest.Response { return b.Navigate("/login") }, []string{"GET /login none", "GET authorize none"}},
		{"form", func() *bfftest.Response { return b.Choose("alice") }, []string{"POST authorize same-origin", "GET /callback cross-site", "GET / cross-site"}},
		{"link", func() *bfftest.Response { return b.Click("/x") }, []string{"GET /x same-origin"}},
		{"silent", func() *bfftest.Response { return b.Click("/login") }, []string{"GET /login same-origin", "GET authorize cross-site", "GET /callback cross-site", "GET / cross-site"}},
		{"post", func() *bfftest.Response { return b.Post("/x", nil) }, []string{"POST /x same-origin"}},
		{"evil", func() *bfftest.Response { b.Navigate("https://evil.test/"); return b.Post(appURL+"/x", nil) }, []string{"POST /x cross-site"}},
		{"sibling", func() *bfftest.Response {
			b.Serve("https://cdn.example.com", http.NotFoundHandler())
			b.Navigate("https://cdn.example.com/")
			return b.Click(appURL + "/x")
		}, []string{"GET /x same-site"}},
	} {
		if got := sites(row.do()); !reflect.DeepEqual(got, row.want) {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
	}
	if got := b.Hops()[2].Sent.Get("Origin"); got != iss.BaseURL() {
		t.Errorf("Origin of the issuer's form = %q", got)
	}
}

// The cookie rules that net/http/cookiejar doesn't have.
func TestCookies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := []string{}
		var seen string
		app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/set" {
				for _, c := range set {
					w.Header().Add("Set-Cookie", c)
				}
			}
			seen = r.Header.Get("Cookie")
		})
		page := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
		b := bfftest.NewBrowser(app, appURL, nil)
		b.Serve("https://evil.test", page)
		set = []string{
			"strict=1; Path=/; SameSite=Strict", "lax=1; Path=/; SameSite=Lax", "unset=1; Path=/", "none=1; Path=/; SameSite=None; Secure",
			"__Host-Http-ok=1; Path=/; Secure; HttpOnly", "sub=1; Path=/sub", "old=1; Path=/; Max-Age=60",
			"__Host-path=1; Path=/sub; Secure", "__Host-domain=1; Path=/; Secure; Domain=example.com", "__Secure-x=1; Path=/",
			"__Host-Http-script=1; Path=/; Secure", "__host-case=1; Path=/", "none2=1; SameSite=None", "foreign=1; Domain=other.com",
		}
		r := b.Navigate("/set")
		if n := len(r.Hops[0].Refused); n != 7 {
			t.Errorf("refused %d: %q, want 7", n, r.Hops[0].Refused)
		}
		check := func(what, want string) {
			t.Helper()
			if seen != want {
				t.Errorf("%s: %q, want %q", what, seen, want)
			}
		}
		b.Click("/")
		check("link", "strict=1; lax=1; unset=1; none=1; __Host-Http-ok=1; old=1")
		b.Click("/sub/x")
		check("path", "sub=1; strict=1; lax=1; unset=1; none=1; __Host-Http-ok=1; old=1")
		b.Navigate("https://evil.test/")
		b.Click(appURL + "/")
		check("link from elsewhere", "lax=1; unset=1; none=1; __Host-Http-ok=1; old=1")
		b.Navigate("https://evil.test/")
		b.Post(appURL+"/", nil)
		check("form from elsewhere", "none=1")
		time.Sleep(time.Minute)
		b.Navigate("/")
		check("typed, a minute later", "strict=1; lax=1; unset=1; none=1; __Host-Http-ok=1")
		set = []string{"lax=; Path=/; Max-Age=-1", "none=; Path=/; Secure; Expires=Thu, 01 Jan 1970 00:00:00 GMT"}
		b.Navigate("/set")
		b.Fetch("GET", "/", nil, nil)
		check("after deletion", "strict=1; unset=1; __Host-Http-ok=1")
		b.Fetch("GET", "/", nil, http.Header{"Cookie": {"own=1"}})
		check("own Cookie header", "own=1")
		b.SetCookie(&http.Cookie{Name: "unset", Value: "evil"})
		b.Tab().Navigate("/")
		check("another tab", "strict=1; __Host-Http-ok=1; unset=evil")
		if n := len(b.Cookies()); n != 4 { // and sub
			t.Errorf("%d cookies, want 4: %v", n, b.Cookies())
		}
		b.ClearCookies()
		b.Navigate("/")
		check("cleared", "")

		plain := bfftest.NewBrowser(app, "http://localhost:8080", nil)
		set = []string{"a=1; Secure", "b=1"}
		if r := plain.Navigate("/set"); len(r.Hops[0].Refused) != 1 || len(plain.Cookies()) != 1 {
			t.Errorf("over plain http: refused %q, kept %v", r.Hops[0].Refused, plain.Cookies())
		}
	})
}

// A page can lead on without a script.
func TestPages(t *testing.T) {
	app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/refresh":
			fmt.Fprint(w, `<meta http-equiv="refresh" content="0;url=/next?a=1&amp;b=2">`)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/keep":
			http.Redirect(w, r, "/next", http.StatusTemporaryRedirect)
		case "/form":
			fmt.Fprint(w, `<form action='/next' method=post><input type=hidden name=csrf value="a&amp;b"><input name=q value=x><button name=go value=1>Go</button></form>`)
		default:
			r.ParseForm()
			fmt.Fprintf(w, "%s %s %v %s", r.Method, r.URL, r.PostForm, r.Header.Get("Sec-Fetch-Site"))
		}
	})
	b := bfftest.NewBrowser(app, appURL, nil)
	if r := b.Submit(nil); r.Err == nil {
		t.Error("Submit without a page passed")
	}
	for _, row := range []struct {
		r    *bfftest.Response
		want string
	}{
		{b.Navigate("/refresh"), "GET /next?a=1&b=2 map[] same-origin"},
		{b.Post("/keep", url.Values{"a": {"1"}}), "POST /next map[a:[1]] same-origin"},
		{func() *bfftest.Response { b.Navigate("/form"); return b.Submit(url.Values{"q": {"y"}, "go": {"1"}}) }(), "POST /next map[csrf:[a&b] go:[1] q:[y]] same-origin"},
	} {
		if row.r.Err != nil || string(row.r.Body) != row.want {
			t.Errorf("got %v, want %s", row.r, row.want)
		}
	}
	if r := b.Navigate("/loop"); r.Err == nil || len(r.Hops) != 20 || r.Status != 0 && r.Err == nil {
		t.Errorf("a redirect loop: %v after %d hops", r.Err, len(r.Hops))
	}
	b.Navigate("/form")
	if r := b.Submit(url.Values{"nothing": {"1"}}); r.Err == nil {
		t.Error("Submit of a form that isn't there passed")
	}
	if r := b.Fetch("GET", "/keep", nil, nil); r.Status != 307 {
		t.Errorf("Fetch followed a redirect: %v", r)
	}
}

// Fetches run concurrently.
func TestConcurrentFetches(t *testing.T) {
	iss := bfftest.NewIssuer(bfftest.Options{})
	b, _ := newRP(iss).signIn(t, "alice")
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if r := b.Fetch("POST", "/api", strings.NewReader("{}"), nil); r.Status != 200 {
				t.Error(r)
			}
		})
	}
	wg.Wait()
}
