package e2e

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"
)

// The tests in this file prove the set-up, without the gateway: an issuer that
// is as strict as we say, and a browser that takes the fronts for what they
// pretend to be. A fault here makes every other result worthless.

// ownWorld starts a world for one test, whose app is a stub.
func ownWorld(t *testing.T, app http.Handler) *world {
	t.Helper()
	w := privateWorld(t, "")
	w.app.handle(app)
	return w
}

// privateWorld starts a world for one test.
func privateWorld(t *testing.T, backchannel string) *world {
	t.Helper()
	w, err := newWorld(true, backchannel)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

const verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk" // RFC 7636, appendix B

func authorizeURL(w *world, extra url.Values) string {
	sum := sha256.Sum256([]byte(verifier))
	q := url.Values{
		"client_id":             {clientID},
		"response_type":         {"code"},
		"redirect_uri":          {w.callbackURL()},
		"scope":                 {"openid profile email"},
		"state":                 {"the-state"},
		"nonce":                 {"the-nonce"},
		"code_challenge":        {base64.RawURLEncoding.EncodeToString(sum[:])},
		"code_challenge_method": {"S256"},
	}
	for name, values := range extra {
		q[name] = values
		if values[0] == "" {
			q.Del(name)
		}
	}
	return w.issuerAt.origin + "/auth?" + q.Encode()
}

// codeFor drives a login without a browser, from the authorization endpoint to
// the redirect back.
func codeFor(t *testing.T, w *world, client *http.Client, to string) url.Values {
	t.Helper()
	for range 12 {
		if strings.HasPrefix(to, w.callbackURL()) {
			u, err := url.Parse(to)
			if err != nil {
				t.Fatal(err)
			}
			return u.Query()
		}
		resp, err := client.Get(to)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK && strings.Contains(to, "/interaction/") {
			resp, err = client.PostForm(to, url.Values{"login": {"alice"}})
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		}
		next, err := resp.Location()
		if err != nil {
			t.Fatalf("GET %s: %s, no redirect; issuer log:\n%s", to, resp.Status, w.issuer.log.String())
		}
		to = next.String()
	}
	t.Fatal("the issuer redirects for ever")
	return nil
}

type tokens struct {
	Access    string `json:"access_token"`
	Refresh   string `json:"refresh_token"`
	ID        string `json:"id_token"`
	ExpiresIn int    `json:"expires_in"`
	Error     string `json:"error"`
}

func tokenRequest(t *testing.T, w *world, client *http.Client, form url.Values) tokens {
	t.Helper()
	form.Set("client_id", clientID)
	resp, err := client.PostForm(w.issuerAt.origin+"/token", form)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got tokens
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestIssuerIsStrict(t *testing.T) {
	w := ownWorld(t, http.NotFoundHandler())
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := w.client()
	client.Jar = jar

	back := codeFor(t, w, client, authorizeURL(w, url.Values{"code_challenge": {""}, "code_challenge_method": {""}}))
	if got := back.Get("error"); got != "invalid_request" {
		t.Errorf("without PKCE: error %q, want invalid_request", got)
	}
	back = codeFor(t, w, client, authorizeURL(w, url.Values{"code_challenge": {verifier}, "code_challenge_method": {"plain"}}))
	if got := back.Get("error"); got != "invalid_request" {
		t.Errorf("with the plain method: error %q, want invalid_request", got)
	}

	back = codeFor(t, w, client, authorizeURL(w, nil))
	if back.Get("state") != "the-state" || back.Get("iss") != w.issuerAt.origin || back.Get("code") == "" {
		t.Fatalf("authorization response %v, want code, state and iss", back)
	}
	grant := url.Values{
		"grant_type":    {"authorization_code"},
		"code":          {back.Get("code")},
		"redirect_uri":  {w.callbackURL()},
		"code_verifier": {verifier},
	}
	first := tokenRequest(t, w, client, grant)
	if first.Access == "" || first.Refresh == "" || first.ID == "" || first.ExpiresIn != accessTTL {
		t.Fatalf("token response: error %q, expires_in %d; want all three tokens and %d s", first.Error, first.ExpiresIn, accessTTL)
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(first.ID, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Sub    string   `json:"sub"`
		Nonce  string   `json:"nonce"`
		Email  string   `json:"email"`
		Groups []string `json:"groups"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	if claims.Sub != "alice" || claims.Nonce != "the-nonce" || claims.Email != "alice@example.com" ||
		fmt.Sprint(claims.Groups) != "[Admin Staff]" {
		t.Errorf("ID token says %+v", claims)
	}

	// A second login needs no form: redirects only.
	w.issuer.reset(t)
	if codeFor(t, w, client, authorizeURL(w, nil)).Get("code") == "" {
		t.Error("no code by single sign-on")
	}
	if got := w.issuer.stats(t).Interactions; got != 0 {
		t.Errorf("single sign-on showed the login page %d times", got)
	}

	// Rotation, then reuse: everything of this grant is gone.
	second := tokenRequest(t, w, client, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {first.Refresh}})
	if second.Refresh == "" || second.Refresh == first.Refresh || second.Access == first.Access {
		t.Fatalf("refresh: error %q; want new access and refresh tokens", second.Error)
	}
	reuse := tokenRequest(t, w, client, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {first.Refresh}})
	if reuse.Error != "invalid_grant" {
		t.Errorf("reuse of a rotated refresh token: error %q, want invalid_grant", reuse.Error)
	}
	after := tokenRequest(t, w, client, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {second.Refresh}})
	if after.Error != "invalid_grant" {
		t.Errorf("the rotated token after a reuse: error %q, want invalid_grant: the grant must die", after.Error)
	}
	stats := w.issuer.stats(t)
	if stats.Token["refresh_token"] != 1 || len(stats.TokenErrors) != 2 || stats.GrantsRevoked != 1 {
		t.Errorf("stats = %+v; want one refresh, two errors, one grant revoked", stats)
	}
}

// The browser takes the fronts for real sites: names, TLS, cookie prefixes, and
// cross-site where it says so.
func TestBrowserSeesTwoSites(t *testing.T) {
	const name = "__Host-Http-e2e"
	w := ownWorld(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		if r.URL.Path == "/set" {
			http.SetCookie(w, &http.Cookie{Name: name, Value: "strict-or-lax", Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode})
			http.SetCookie(w, &http.Cookie{Name: name + "-strict", Value: "x", Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode})
			// Refused by the browser: a prefix without what it demands.
			http.SetCookie(w, &http.Cookie{Name: "__Host-Http-wrong", Value: "x", Path: "/", Secure: true})
		}
		fmt.Fprintf(w, `<!doctype html><title>stub</title><p id=stub>%s</p>`, r.URL.Path)
	}))
	v := newVisit(t, w)
	tb := v.first()
	tb.goTo(w.app.origin + "/set")
	if got := run[bool](tb, `window.isSecureContext`); !got {
		t.Error("the app is no secure context")
	}
	names := map[string]bool{}
	for _, c := range v.cookies(w.app.origin) {
		names[c.Name] = true
	}
	if !names[name] || !names[name+"-strict"] || names["__Host-Http-wrong"] {
		t.Errorf("cookies = %v: this Chromium does not know the __Host-Http- prefix", names)
	}

	// The way back from the issuer's form is cross-site: the Lax cookie goes
	// along, the Strict one does not. That no Go cookie jar would show.
	at := w.seen.len()
	tb.goTo(authorizeURL(w, nil))
	tb.shot("issuer-form")
	tb.submitLogin("bob")
	tb.await("the callback", `document.querySelector("#stub")?.textContent === "/auth/callback"`)
	tb.shot("callback")
	callback := exchange{}
	for _, e := range w.seen.since(at) {
		if e.front == "app" && strings.HasPrefix(e.url, w.callbackURL()) {
			callback = e
		}
	}
	if got := callback.reqHeader.Get("Sec-Fetch-Site"); got != "cross-site" {
		t.Errorf("callback: Sec-Fetch-Site %q, want cross-site", got)
	}
	if got := callback.reqHeader.Get("Cookie"); got != name+"=strict-or-lax" {
		t.Errorf("callback: Cookie %q, want the Lax one alone", got)
	}
}

// The search finds a token wherever one could hide.
func TestSearchFindsTokens(t *testing.T) {
	const token = "q7Zk_3-vN0pXw2LrT8sYbEoGcHaJdKfM5uQi1WtVnRy"
	s := newSecret("access", token)
	for name, text := range map[string]string{
		"raw":          "x=" + token + ";",
		"quoted":       fmt.Sprintf("%q", token),
		"query":        url.Values{"a": {token}}.Encode(),
		"hex":          fmt.Sprintf("%x", token),
		"base64":       base64.StdEncoding.EncodeToString([]byte(token)),
		"base64-json":  base64.StdEncoding.EncodeToString([]byte(`{"access_token":"` + token + `"}`)),
		"base64-json1": base64.RawURLEncoding.EncodeToString([]byte(`{"accesstoken":"` + token + `"}`)),
		"base64-json2": base64.URLEncoding.EncodeToString([]byte(`{"acctoken":"` + token + `"}`)),
	} {
		if !s.in(text) {
			t.Errorf("%s: not found in %s", name, text)
		}
	}
	if s.in(strings.Repeat(token[1:], 3)) {
		t.Error("found where it is not")
	}
}

// The search is not blind: an app that gives tokens away is caught wherever it
// does so.
func TestSearchCatchesLeaks(t *testing.T) {
	var w *world
	var got tokens
	w = ownWorld(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		page := func(body string) {
			rw.Header().Set("Content-Type", "text/html")
			fmt.Fprint(rw, "<!doctype html><title>leaky</title><p id=done>", r.URL.Path, "</p>", body)
		}
		switch r.URL.Path {
		case "/auth/callback":
			got = tokenRequest(t, w, w.client(), url.Values{
				"grant_type":    {"authorization_code"},
				"code":          {r.URL.Query().Get("code")},
				"redirect_uri":  {w.callbackURL()},
				"code_verifier": {verifier},
			})
			http.SetCookie(rw, &http.Cookie{Name: "__Host-Http-bff", Value: strings.Repeat("session-cookie", 4), Path: "/", Secure: true, HttpOnly: true})
			page("")
		case "/body":
			page(base64.StdEncoding.EncodeToString([]byte("{" + got.Access)))
		case "/header":
			rw.Header().Set("X-Token", got.Refresh)
			page("")
		case "/cookie":
			http.SetCookie(rw, &http.Cookie{Name: "t", Value: got.Access, Path: "/cookie", Secure: true})
			page("")
		case "/redirect":
			http.Redirect(rw, r, "/landed#"+got.ID, http.StatusFound)
		case "/hint":
			// The exception is for the answer to POST /logout alone.
			http.Redirect(rw, r, w.issuerAt.origin+"/session/end?id_token_hint="+got.ID, http.StatusFound)
		case "/storage":
			half := len(got.Refresh) / 2
			page(fmt.Sprintf("<script>sessionStorage.x = %q + %q</script>", got.Refresh[:half], got.Refresh[half:]))
		case "/database":
			half := len(got.Access) / 2
			page(fmt.Sprintf(`<script>
				busy = true;
				const open = indexedDB.open("d");
				open.onupgradeneeded = () => open.result.createObjectStore("s").put({ t: new TextEncoder().encode(%q + %q) }, "k");
				open.onsuccess = () => { open.result.close(); busy = false };
			</script>`, got.Access[:half], got.Access[half:]))
		case "/caches":
			half := len(got.ID) / 2
			page(fmt.Sprintf(`<script>
				busy = true;
				caches.open("c").then((c) => c.put("/kept", new Response(%q + %q))).then(() => { busy = false });
			</script>`, got.ID[:half], got.ID[half:]))
		case "/dom":
			half := len(got.Access) / 2
			page(fmt.Sprintf("<script>document.title = %q + %q</script>", got.Access[:half], got.Access[half:]))
		case "/session":
			page(r.Header.Get("Cookie"))
		default:
			page("")
		}
	}))
	v := newVisit(t, w)
	v.leaky = true
	tb := v.first()
	tb.goTo(authorizeURL(w, nil))
	tb.submitLogin("alice")
	tb.await("the callback", `document.querySelector("#done")`)
	if got.Access == "" {
		t.Fatal("no tokens to leak")
	}
	if early := v.leaks(); len(early) != 0 {
		t.Fatalf("complaints before anything leaked: %q", early)
	}
	for _, c := range []struct{ path, kind, where string }{
		{"/body", "access token", "the body of app GET"},
		{"/header", "refresh token", "header X-Token of app GET"},
		{"/header", "refresh token", "Chromium: header x-token"},
		{"/cookie", "access token", "header Set-Cookie of app GET"},
		{"/cookie", "access token", "cookie"},
		{"/redirect", "ID token", "header Location of app GET"},
		{"/redirect", "ID token", "page " + w.app.origin + "/landed"},
		{"/hint", "ID token", "header Location of app GET"},
		{"/storage", "refresh token", "session"},
		{"/dom", "access token", "html"},
		{"/database", "access token", ": databases"},
		{"/caches", "ID token", ": caches"},
		{"/session", "session cookie's value", "the body of app GET"},
	} {
		v.seenAt = w.seen.len()
		v.mu.Lock()
		v.received, v.surfaces = nil, nil
		v.mu.Unlock()
		tb.goTo(w.app.origin + "/seed") // the session cookie is learnt from its Set-Cookie
		if c.path == "/session" {
			tb.goTo(authorizeURL(w, nil))
		}
		tb.goTo(w.app.origin + c.path)
		tb.await("what the page stores", `!self.busy`)
		tb.look("now")
		found := false
		list := v.leaks()
		for _, complaint := range list {
			found = found || strings.Contains(complaint, c.kind) && strings.Contains(strings.ToLower(complaint), strings.ToLower(c.where))
		}
		if !found {
			t.Errorf("%s leaks the %s into %q, and the search says %q", c.path, c.kind, c.where, list)
		}
	}
}

// The upstream believes no token that the issuer does not.
func TestUpstreamChecksTokens(t *testing.T) {
	w := ownWorld(t, http.NotFoundHandler())
	for _, header := range []string{"", "Bearer ", "Bearer nonsense"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.upstream.origin+"/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		if header != "" {
			req.Header.Set("Authorization", header)
		}
		resp, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("Authorization %q: %s, want 401", header, resp.Status)
		}
	}
}
