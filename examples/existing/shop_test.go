package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
)

const origin = "https://shop.example.com"

// newTestShop returns the shop in the process, its issuer, and what a browser
// there sees.
func newTestShop(t *testing.T, api string) (*bfftest.Issuer, http.Handler) {
	t.Helper()
	iss := bfftest.NewIssuer(bfftest.Options{})
	s, err := newShop(t.Context(), bff.Config{
		Issuer: iss.URL(), ClientID: iss.ClientID(), HTTPClient: iss.Client(),
		RedirectURL: origin + "/auth/callback", Keys: []bff.Key{bff.NewKey()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := s.auth.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return iss, s.routes(api)
}

func shows(t *testing.T, r *bfftest.Response, text string, want bool) {
	t.Helper()
	if r.Status != 200 || strings.Contains(string(r.Body), text) != want {
		t.Errorf("%v; want %q on the page: %t", r, text, want)
	}
}

func cookie(b *bfftest.Browser, name string) string {
	for _, c := range b.Cookies() {
		if c.Name == name {
			return c.Value
		}
	}
	return ""
}

// The cart of a visitor becomes the customer's, and nobody else's.
func TestCart(t *testing.T) {
	iss, app := newTestShop(t, "https://api.example.com")
	b := bfftest.NewBrowser(app, origin, iss)
	b.Navigate("/")
	shows(t, b.Submit(url.Values{"item": {"tea"}}), "<li>tea</li>", true)
	visitor := cookie(b, "shop")
	if visitor == "" || len(b.Cookies()) != 1 {
		t.Fatalf("a visitor has the cookies %v", b.Cookies())
	}

	if r := b.Click("/checkout"); r.Status != 200 || r.URL.Host == "shop.example.com" {
		t.Fatalf("checking out as a visitor = %v, want the issuer's page", r)
	}
	r := b.Choose("alice")
	shows(t, r, "Alice Archer, you are buying", true)
	shows(t, r, "<li>tea</li>", true)
	if got := cookie(b, "shop"); got == "" || got == visitor {
		t.Error("the shop's session has the ID that it had before the sign-in")
	}
	shows(t, b.Navigate("/"), "Hello Alice Archer.", true)
	shows(t, b.Submit(url.Values{"item": {"milk"}}), "<li>milk</li>", true)
	customer := cookie(b, "shop")

	// The next one at this browser starts with nothing, and so does whoever
	// kept the shop's cookie.
	b.Navigate("/")
	if r := b.Post("/logout", nil); r.Status != 200 || r.URL.Host != "shop.example.com" {
		t.Fatalf("signing out = %v", r)
	}
	shows(t, b.Page(), "Your cart is empty.", true)
	b.Navigate("/login")
	b.Choose("bob")
	shows(t, b.Navigate("/"), "Hello Bob Baker.", true)
	shows(t, b.Page(), "tea", false)
	thief := bfftest.NewBrowser(app, origin, iss)
	thief.SetCookie(&http.Cookie{Name: "shop", Value: customer})
	shows(t, thief.Navigate("/"), "tea", false)

	// Bob buys.
	shows(t, b.Submit(url.Values{"item": {"coffee"}}), "<li>coffee</li>", true)
	b.Click("/checkout")
	shows(t, b.Submit(nil), "Your cart is empty.", true)
}

// Pages lead to the login, scripts get 401, and what was the shop's stays so.
func TestRoutes(t *testing.T) {
	iss, app := newTestShop(t, "https://api.example.com")
	b := bfftest.NewBrowser(app, origin, iss)
	get := func(path string, status int, text string) {
		t.Helper()
		if r := b.Fetch("GET", path, nil, nil); r.Status != status || !strings.Contains(string(r.Body), text) {
			t.Errorf("GET %s = %v, want %d and %q", path, r, status, text)
		}
	}
	get("/auth/terms", 200, "the shop's terms")
	get("/auth/nothing", 404, "")
	get("/checkout", 401, "no_session")
	get("/admin", 401, "no_session")
	get("/api/users", 401, "no_session")
	if r := b.SignIn("bob"); r.Err != nil {
		t.Fatal(r.Err)
	}
	get("/admin", 403, "forbidden")
	get("/checkout", 200, "Bob Baker")
	if r := b.Fetch("POST", "/checkout", nil, http.Header{"Origin": {"https://evil.example.com"}}); r.Status != 403 || r.Reason() != "csrf" {
		t.Errorf("buying from another site = %v, want 403 csrf", r)
	}
	alice := bfftest.NewBrowser(app, origin, iss)
	if r := alice.SignIn("alice", bfftest.LoginPath("/admin")); r.Err != nil {
		t.Fatal(r.Err)
	}
	shows(t, alice.Page(), "for administrators", true)
}

// The API gets the token and none of the cookies, and its events come one by
// one through all the middleware.
func TestAPI(t *testing.T) {
	more := make(chan struct{})
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, "data: %s %.7s %d\n\n", r.URL.Path, r.Header.Get("Authorization"), len(r.Cookies()))
		http.NewResponseController(w).Flush()
		select {
		case <-more:
			io.WriteString(w, "data: more\n\n")
		case <-r.Context().Done():
		}
	}))
	defer api.Close()
	iss, app := newTestShop(t, api.URL)
	b := bfftest.NewBrowser(app, origin, iss)
	b.Navigate("/")
	b.Submit(url.Values{"item": {"tea"}}) // so that the shop has a cookie too
	b.Navigate("/login")
	if r := b.Choose("alice"); r.Status != 200 {
		t.Fatal(r)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", origin+"/api/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := b.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	if !lines.Scan() || lines.Text() != "data: /events Bearer  0" {
		t.Fatalf("the first event is %q, %v", lines.Text(), lines.Err())
	}
	close(more) // only now is there a second one
	lines.Scan()
	if !lines.Scan() || lines.Text() != "data: more" {
		t.Errorf("the second event is %q, %v", lines.Text(), lines.Err())
	}
}

// The program itself, over sockets.
func TestRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	at, ended := make(chan string, 1), make(chan error, 1)
	go func() { ended <- run(ctx, "127.0.0.1:0", func(origin string) { at <- origin }) }()
	select {
	case origin := <-at:
		b := bfftest.NewBrowser(nil, origin, nil)
		b.Navigate("/checkout")
		shows(t, b.Submit(url.Values{"user": {"carol"}}), "Carol Cooper, you are buying", true)
	case err := <-ended:
		t.Fatalf("run = %v", err)
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("run = %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("it doesn't end")
	}
}
