package bfftest_test

import (
	"net/url"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff/bfftest"
)

const picker = "Who is signing in?"

func shown(r *bfftest.Response) bool { return strings.Contains(string(r.Body), picker) }

// The second sign-in is redirects only, unless the request wants more.
func TestSingleSignOn(t *testing.T) {
	for _, row := range []struct {
		query string
		page  bool
		code  string // of the error at the callback
	}{
		{"", false, ""},
		{"&prompt=none", false, ""},
		{"&prompt=login", true, ""},
		{"&prompt=consent", true, ""},
		{"&prompt=select_account", true, ""},
		{"&prompt=none+login", false, "invalid_request"},
		{"&max_age=3600", false, ""},
		{"&max_age=599", true, ""},
		{"&max_age=0", true, ""},
		{"&max_age=0&prompt=none", false, "login_required"},
		{"&max_age=x", false, "invalid_request"},
		{"&login_hint=alice@example.com", false, ""},
		{"&login_hint=bob", true, ""},
		{"&login_hint=bob&prompt=none", false, "login_required"},
		{"&acr_values=gold", true, ""},
		{"&state=again", false, "invalid_request"},
		{"&request=x", false, "request_not_supported"},
		{"&response_mode=form_post", false, "invalid_request"},
	} {
		t.Run(strings.TrimPrefix(row.query, "&"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				iss := bfftest.NewIssuer(bfftest.Options{})
				a := newRP(iss)
				b, _ := a.signIn(t, "alice")
				time.Sleep(10 * time.Minute)
				a.query = row.query
				r := b.Navigate("/login")
				if shown(r) != row.page {
					t.Errorf("page shown: %v, want %v: %v", shown(r), row.page, r)
				}
				if got := r.URL.Query().Get("error"); got != row.code {
					t.Errorf("error = %q, want %q", got, row.code)
				}
				if !row.page {
					return
				}
				signedIn := time.Now().Unix()
				if r := b.Choose("alice"); r.Status != 200 {
					t.Fatal(r)
				}
				if got := unverified(t, a.of(t, b).IDToken)["auth_time"]; got != float64(signedIn) {
					t.Errorf("auth_time = %v, want %d", got, signedIn)
				}
				if g := iss.Grants(); g[0].SID != g[1].SID {
					t.Error("the sid changed when the same user signed in again")
				}
			})
		})
	}
}

func TestStepUp(t *testing.T) {
	iss := bfftest.NewIssuer(bfftest.Options{})
	a := newRP(iss)
	b, tok := a.signIn(t, "alice")
	if acr := unverified(t, tok.IDToken)["acr"]; acr != nil {
		t.Errorf("acr = %v, want none", acr)
	}
	a.query = "&acr_values=gold+silver"
	b.Navigate("/login")
	b.Choose("alice")
	if acr := unverified(t, a.of(t, b).IDToken)["acr"]; acr != "gold" {
		t.Errorf("acr = %v, want gold", acr)
	}
	if r := b.Navigate("/login"); shown(r) {
		t.Error("the page is shown though the session is strong enough")
	}
	deaf := newRP(bfftest.NewIssuer(bfftest.Options{IgnoreStepUp: true}))
	b, _ = deaf.signIn(t, "alice")
	deaf.query = "&max_age=0&acr_values=gold"
	if r := b.Navigate("/login"); shown(r) || r.Err != nil {
		t.Errorf("an issuer that ignores step-up shows its page: %v", r)
	}
}

func TestNobodyToAsk(t *testing.T) {
	iss := bfftest.NewIssuer(bfftest.Options{IssParameter: true})
	a := newRP(iss)
	a.query = "&prompt=none"
	r := bfftest.NewBrowser(a, appURL, iss).Navigate("/login")
	if q := r.URL.Query(); q.Get("error") != "login_required" || q.Get("iss") != iss.URL() || q.Get("state") == "" {
		t.Errorf("prompt=none led to %s", r.URL)
	}
	a.query = ""
	b := bfftest.NewBrowser(a, appURL, iss)
	b.Navigate("/login")
	if r := b.Submit(url.Values{"action": {"cancel"}}); r.URL.Query().Get("error") != "access_denied" {
		t.Errorf("cancelling led to %s", r.URL)
	}
}

// Whoever isn't registered is told nothing at their address.
func TestNoOpenRedirect(t *testing.T) {
	registered := bfftest.NewIssuer(bfftest.Options{Clients: []bfftest.Client{{ID: "app", RedirectURIs: []string{appURL + "/auth/callback"}}}})
	anyTest := bfftest.NewIssuer(bfftest.Options{})
	for _, row := range []struct {
		iss      *bfftest.Issuer
		redirect string
		ok       bool
	}{
		{registered, appURL + "/auth/callback", true},
		{registered, appURL + "/auth/callback/", false},
		{registered, "http://localhost:8080/auth/callback", false},
		{anyTest, "http://localhost:8080/auth/callback", true},
		{anyTest, "http://[::1]:8080/cb", true},
		{anyTest, "https://app.test/cb", true},
		{anyTest, "https://real.com/cb", false},
		{anyTest, "https://example.com.evil.org/cb", false},
		{anyTest, "https://u@app.test/cb", false},
		{anyTest, "javascript://app.test/%0aalert(1)", false},
		{anyTest, "", false},
	} {
		q := url.Values{"client_id": {row.iss.ClientID()}, "redirect_uri": {row.redirect}, "response_type": {"code"}, "scope": {"openid"},
			"code_challenge": {strings.Repeat("c", 43)}, "code_challenge_method": {"S256"}}
		b := bfftest.NewBrowser(newRP(row.iss), appURL, row.iss)
		r := b.Navigate(row.iss.URL() + "/authorize?" + q.Encode())
		if shown(r) != row.ok || !row.ok && r.Status != 400 {
			t.Errorf("redirect_uri %s: %v", row.redirect, r)
		}
	}
}

func TestPKCERequired(t *testing.T) {
	iss := bfftest.NewIssuer(bfftest.Options{})
	a := newRP(iss)
	b := bfftest.NewBrowser(a, appURL, iss)
	good := a.authorizeURL("s", strings.Repeat("v", 43))
	for _, target := range []string{
		strings.Replace(good, "S256", "plain", 1),
		strings.Replace(good, "code_challenge=", "x=", 1),
		strings.Replace(good, "code_challenge_method=", "x=", 1),
	} {
		if r := b.Navigate(target); r.URL.Query().Get("error") != "invalid_request" {
			t.Errorf("%s led to %s", target, r.URL)
		}
	}
}

// The page works without scripts, loads nothing, and escapes what it shows.
func TestPage(t *testing.T) {
	iss := bfftest.NewIssuer(bfftest.Options{Users: []bfftest.User{
		{Name: "alice"}, {Name: "eve", DisplayName: `<img src=x onerror=alert(1)>`}, {Name: "dave", Password: "pass word"}, {Name: "gone", Disabled: true},
	}})
	a := newRP(iss)
	a.query = "&login_hint=" + url.QueryEscape(`"><script>alert(1)</script>`)
	b := bfftest.NewBrowser(a, appURL, iss)
	r := b.Navigate("/login")
	page := string(r.Body)
	if regexp.MustCompile(`(?i)<(script|img|link|iframe|object)|<[^>]* (on\w+|src|style)=|url\(`).MatchString(page) {
		t.Errorf("the page has more than text: %s", page)
	}
	policy := r.Header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "style-src 'sha256-", "form-action 'self' " + appURL, "base-uri 'none'", "frame-ancestors 'none'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("policy %q lacks %q", policy, want)
		}
	}
	if strings.Contains(page, "gone") {
		t.Error("a disabled user is offered")
	}
	if r := b.Submit(url.Values{"username": {"dave"}, "password": {"wrong"}}); r.Status != 401 || !shown(r) {
		t.Errorf("a wrong password: %v", r)
	}
	for _, user := range []string{"dave", "eve"} {
		if r := bfftest.NewBrowser(a, appURL, iss).SignIn(user); r.Err != nil {
			t.Error(r.Err)
		}
	}
	for _, user := range []string{"gone", "nobody"} {
		if r := bfftest.NewBrowser(a, appURL, iss).SignIn(user); r.Err == nil {
			t.Errorf("%s signed in", user)
		}
	}
}

func TestEndSessions(t *testing.T) {
	iss := bfftest.NewIssuer(bfftest.Options{})
	a := newRP(iss)
	b, _ := a.signIn(t, "alice")
	c, _ := a.signIn(t, "bob")
	iss.EndSessions("alice")
	if !shown(b.Navigate("/login")) || shown(c.Navigate("/login")) {
		t.Error("EndSessions(alice) didn't end hers alone")
	}
	iss.EndSessions("")
	if iss.Sessions() != 0 {
		t.Errorf("Sessions() = %d, want 0", iss.Sessions())
	}
}
