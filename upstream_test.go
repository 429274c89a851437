package bff_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
)

// A mistake in an Upstream is found before anything is served, and said in a
// way that leads to its mending.
func TestUpstreamValidate(t *testing.T) {
	const api = "https://api.example.com/v1"
	for _, c := range []struct {
		name string
		up   bff.Upstream
		want string // empty: valid
	}{
		{"plain", bff.Upstream{URL: api}, ""},
		{"loopback", bff.Upstream{URL: "http://127.0.0.1:8080", StripPrefix: "/api/"}, ""},
		{"url-missing", bff.Upstream{}, "URL is empty"},
		{"url-relative", bff.Upstream{URL: "/v1"}, "not an absolute"},
		{"url-scheme", bff.Upstream{URL: "ftp://api.example.com"}, "not an absolute"},
		{"url-user", bff.Upstream{URL: "https://u:p@api.example.com"}, "user, query or fragment"},
		{"url-query", bff.Upstream{URL: api + "?x"}, "user, query or fragment"},
		{"url-fragment", bff.Upstream{URL: api + "#"}, "user, query or fragment"},
		{"url-plain", bff.Upstream{URL: "http://api.example.com"}, "plain http"},
		{"url-plain-admitted", bff.Upstream{URL: "http://api.example.com", InsecureHTTP: true}, ""},
		{"url-dots", bff.Upstream{URL: "https://api.example.com/a/../b"}, "write it plainly"},
		{"url-slashes", bff.Upstream{URL: "https://api.example.com//a"}, "write it plainly"},
		{"prefix-odd", bff.Upstream{URL: api, StripPrefix: "api"}, "StripPrefix"},
		{"path-odd", bff.Upstream{URL: api, Path: "/a/../b"}, "Path"},
		{"path-outside", bff.Upstream{URL: api, Path: "/b", StripPrefix: "/a"}, "not at or below StripPrefix"},
		{"path-beside", bff.Upstream{URL: api, Path: "/ab", StripPrefix: "/a"}, "not at or below StripPrefix"},
		{"path-below", bff.Upstream{URL: api, Path: "/a/b", StripPrefix: "/a"}, ""},
		{"methods-none", bff.Upstream{URL: api, Methods: []string{}}, "Methods is empty"},
		{"methods-trace", bff.Upstream{URL: api, Methods: []string{"TRACE"}}, "never forwarded"},
		{"methods-connect", bff.Upstream{URL: api, Methods: []string{"CONNECT"}}, "never forwarded"},
		{"methods-small", bff.Upstream{URL: api, Methods: []string{"get"}}, "in capitals"},
		{"methods-webdav", bff.Upstream{URL: api, Methods: []string{"PROPFIND", "VERSION-CONTROL"}}, ""},
		{"needs-odd", bff.Upstream{URL: api, Needs: 7}, "Needs is 7"},
		{"client-without-tokens", bff.Upstream{URL: api, Needs: bff.Client}, "Tokens is nil"},
		{"client", bff.Upstream{URL: api, Needs: bff.Client, Tokens: applicationToken{}}, ""},
		{"client-optional", bff.Upstream{URL: api, Needs: bff.Client, Tokens: applicationToken{}, Options: []bff.Option{bff.Optional()}}, "InsecureAnonymousClient"},
		{"client-anonymous", bff.Upstream{URL: api, Needs: bff.Client, Tokens: applicationToken{}, InsecureAnonymousClient: true}, ""},
		{"anonymous-user", bff.Upstream{URL: api, InsecureAnonymousClient: true}, "InsecureAnonymousClient"},
		{"none-with-groups", bff.Upstream{URL: api, Needs: bff.None, Groups: []string{"Admin"}}, "Needs is None"},
		{"none-with-options", bff.Upstream{URL: api, Needs: bff.None, Options: []bff.Option{bff.RequireGroup("Admin")}}, "Needs is None"},
		{"none-with-cookies", bff.Upstream{URL: api, Needs: bff.None, Cookies: []string{"a"}}, "Needs is None"},
		{"none-with-identity", bff.Upstream{URL: api, Needs: bff.None, UserIDHeader: "X-User-Id"}, "Needs is None"},
		{"none-with-tokens", bff.Upstream{URL: api, Needs: bff.None, Tokens: applicationToken{}}, "Needs is None"},
		{"stream-token-of-tokens", bff.Upstream{URL: api, Tokens: applicationToken{}, EndStreamsWithToken: true}, "EndStreamsWithToken"},
		{"stream-token-of-none", bff.Upstream{URL: api, Needs: bff.None, EndStreamsWithToken: true}, "EndStreamsWithToken"},
		{"options-apart", bff.Upstream{URL: api, Options: []bff.Option{bff.RequireACR("gold"), bff.RequireACR("silver")}}, "Options: RequireACR: no sign-in has"},
		{"options-overlapping", bff.Upstream{URL: api, Options: []bff.Option{bff.RequireACR("gold", "silver"), bff.RequireACR("silver")}}, ""},
		{"identity-odd", bff.Upstream{URL: api, UserIDHeader: "X User"}, "can't be a header"},
		{"identity-underscore", bff.Upstream{URL: api, UserIDHeader: "X_User"}, "can't be a header"},
		{"identity-authorization", bff.Upstream{URL: api, UserGroupsHeader: "authorization"}, "can't be a header"},
		{"identity-framing", bff.Upstream{URL: api, UserIDHeader: "host"}, "can't be a header"},
		{"identity-twice", bff.Upstream{URL: api, UserIDHeader: "X-User", UserGroupsHeader: "x-user"}, "are the same"},
		{"pass-cookie", bff.Upstream{URL: api, RequestHeaders: bff.HeaderRules{Pass: []string{"cookie"}}}, "RequestHeaders"},
		{"pass-authorization", bff.Upstream{URL: api, RequestHeaders: bff.HeaderRules{Pass: []string{"Authorization"}}}, "RequestHeaders"},
		{"pass-underscore", bff.Upstream{URL: api, RequestHeaders: bff.HeaderRules{Pass: []string{"X_Y"}}}, "RequestHeaders"},
		{"pass-and-drop", bff.Upstream{URL: api, RequestHeaders: bff.HeaderRules{Pass: []string{"X-Y"}, Drop: []string{"x-y"}}}, "both Pass and Drop"},
		{"drop-framing", bff.Upstream{URL: api, RequestHeaders: bff.HeaderRules{Drop: []string{"Content-Length"}}}, "can't be dropped"},
		{"pass-cors", bff.Upstream{URL: api, ResponseHeaders: bff.HeaderRules{Pass: []string{"Access-Control-Allow-Origin"}}}, "ResponseHeaders"},
		{"pass-reason", bff.Upstream{URL: api, ResponseHeaders: bff.HeaderRules{Pass: []string{"BFF-Reason"}}}, "ResponseHeaders"},
		{"pass-clear-site-data", bff.Upstream{URL: api, ResponseHeaders: bff.HeaderRules{Pass: []string{"Clear-Site-Data"}}}, "ResponseHeaders"},
		{"negative-duration", bff.Upstream{URL: api, MaxDuration: -time.Second}, "negative"},
		{"negative-body", bff.Upstream{URL: api, MaxRequestBody: -1}, "negative"},
		{"own-transport", bff.Upstream{URL: api, Transport: http.DefaultTransport, MaxResponseHeader: 1}, "nil Transport"},
		{"h2c-over-tls", bff.Upstream{URL: api, H2C: true}, "H2C"},
		{"h2c-websocket", bff.Upstream{URL: "http://127.0.0.1", H2C: true, WebSocket: true}, "H2C"},
		{"h2c", bff.Upstream{URL: "http://127.0.0.1", H2C: true}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.up.Validate()
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("Validate = %v, want %q", err, c.want)
			}
		})
	}
}

func mustPanic(t *testing.T, what, want string, f func()) {
	t.Helper()
	defer func() {
		if got := fmt.Sprint(recover()); !strings.Contains(got, want) {
			t.Errorf("%s: panic %s, want %q", what, got, want)
		}
	}()
	f()
}

// A table is printed as it is served, and refuses to be ambiguous.
func TestTable(t *testing.T) {
	a := newApp(t, setup{})
	api := bfftest.InProcess(map[string]http.Handler{"https://api.example.com": a.api})
	const base = "https://api.example.com"
	rows := []bff.Upstream{
		{URL: base + "/v1", Path: "/api/", StripPrefix: "/api", Transport: api},
		{URL: base + "/v1", Path: "/api/users", StripPrefix: "/api", Methods: []string{"GET"}, Groups: []string{"Users", "Admin"}, Transport: api},
		{URL: base + "/v1", Path: "/api/users", StripPrefix: "/api", Methods: []string{"DELETE", "PUT"}, Options: []bff.Option{bff.RequireGroup("Admin")}, RequireCSRFToken: true, Transport: api},
		{URL: base, Path: "/hub", WebSocket: true, Passive: true, Transport: api},
		{URL: base + "/static", Path: "/assets", StripPrefix: "/assets", Needs: bff.None, Cache: true, Methods: []string{"GET"}, Transport: api},
		{URL: base + "/jobs", StripPrefix: "/jobs", Needs: bff.Client, Tokens: applicationToken{}, AllowNavigation: true, Transport: api,
			Options: []bff.Option{bff.Authorize(func(r *http.Request, s *bff.Session) error { return errors.New("no") })}},
		{URL: base + "/x", StripPrefix: "/x", RewritePath: func(p string) string { return "/y" + p }, Needs: bff.UserOptional, Transport: api},
	}
	table := a.auth.Upstreams(rows...)
	const want = `
PATH        METHODS     NEEDS           ALSO                      UPSTREAM
/api/users  DELETE PUT  user            group Admin, csrf token   https://api.example.com/v1/users
/api/users  GET HEAD    user            group Users|Admin         https://api.example.com/v1/users
/assets     GET HEAD    none            cache                     https://api.example.com/static
/jobs       *           client          authorize, navigation     https://api.example.com/jobs
/api        *           user            -                         https://api.example.com/v1
/hub        *           user            passive, websocket        https://api.example.com/hub
/x          *           user, optional  -                         https://api.example.com/x (rewritten)
`
	if got := "\n" + table.String(); strings.Join(strings.Fields(got), " ") != strings.Join(strings.Fields(want), " ") {
		t.Errorf("String() = %s\nwant %s", got, want)
	}
	if got, want := table.Paths(), []string{"/api/users", "/assets", "/jobs", "/api", "/hub", "/x"}; !slices.Equal(got, want) {
		t.Errorf("Paths() = %q, want %q", got, want)
	}
	if got, want := table.Routes()[:3], []string{"DELETE PUT /api/users", "GET HEAD /api/users", "GET HEAD /assets"}; !slices.Equal(got, want) {
		t.Errorf("Routes() = %q, want %q", got, want)
	}
	said := a.auth.Upstreams(
		bff.Upstream{URL: base, Path: "/a", Options: []bff.Option{bff.RequireACR("gold", "silver"), bff.MaxAuthAge(5 * time.Minute)}},
		bff.Upstream{URL: base, Path: "/b", Options: []bff.Option{bff.Optional()}, Cookies: []string{"theme"}, SetCookies: []string{"theme", "lang"}},
		bff.Upstream{URL: base, Path: "/c", UserIDHeader: "X-User-Id", UserGroupsHeader: "X-User-Groups", BlockTokenEcho: true},
	).String()
	for _, want := range []string{"  acr gold|silver, sign-in within 5m0s  ", "  OPTIONAL, cookies theme, sets theme|lang  ", "  user in X-User-Id, groups in X-User-Groups, no echo  "} {
		if !strings.Contains(said, want) {
			t.Errorf("String() = %s\nwant %q in it", said, want)
		}
	}
	a.handler = a.auth.Routes(table)
	bob, alice := a.signIn("bob"), a.signIn("alice")
	token := http.Header{"X-Csrf-Token": {session(t, alice)["csrfToken"].(string)}}
	for _, c := range []struct {
		b      *bfftest.Browser
		method string
		path   string
		header http.Header
		status int
		reason string
		at     string // where it arrives
	}{
		{bob, "GET", "/api/things", nil, 200, "", "/v1/things"},
		{bob, "GET", "/api/users/1", nil, 200, "", "/v1/users/1"},
		{bob, "DELETE", "/api/users/1", token, 403, "forbidden", ""},
		{alice, "DELETE", "/api/users/1", nil, 403, "csrf", ""},
		{alice, "DELETE", "/api/users/1", token, 200, "", "/v1/users/1"},
		{alice, "POST", "/api/users/1", nil, 405, "method_not_allowed", ""},
		{alice, "GET", "/assets/x.js", nil, 200, "", "/static/x.js"},
		{alice, "POST", "/assets/x.js", nil, 405, "method_not_allowed", ""},
		{alice, "GET", "/jobs/1", nil, 403, "forbidden", ""},
		{alice, "GET", "/x/1", nil, 200, "", "/x/y/1"},
		{alice, "GET", "/hub", nil, 200, "", "/hub"},
		{alice, "GET", "/", nil, 404, "not_found", ""},
	} {
		before := a.api.hits()
		r := c.b.Fetch(c.method, c.path, nil, c.header)
		if r.Status != c.status || r.Reason() != c.reason {
			t.Errorf("%s %s = %v, want %d %s", c.method, c.path, r, c.status, c.reason)
		}
		if c.status == 405 && r.Header.Get("Allow") == "" {
			t.Errorf("%s %s: 405 without Allow", c.method, c.path)
		}
		switch n := a.api.hits() - before; {
		case c.at == "" && n != 0:
			t.Errorf("%s %s reached the API", c.method, c.path)
		case c.at != "" && (n != 1 || a.api.last().URL.Path != c.at):
			t.Errorf("%s %s arrived %d times, at %s; want once, at %s", c.method, c.path, n, a.api.last().URL, c.at)
		}
	}
	bfftest.CheckRoutes(t, alice, table.Routes(), map[string]bfftest.Answers{
		"GET /api":       {Anonymous: "401 no_session", CrossSite: "403 csrf", SignedIn: "200"},
		"GET /api/users": {Anonymous: "401 no_session", CrossSite: "403 csrf", SignedIn: "200"},
		"PUT /api/users": {Anonymous: "401 no_session", CrossSite: "403 csrf", SignedIn: "403 csrf"},
		"GET /assets":    {Anonymous: "200", CrossSite: "200", SignedIn: "200"},
		"GET /jobs":      {Anonymous: "401 no_session", CrossSite: "403 csrf", SignedIn: "403 forbidden"},
		"GET /hub":       {Anonymous: "401 no_session", CrossSite: "403 csrf", SignedIn: "200"},
		"GET /x":         {Anonymous: "200", CrossSite: "403 csrf", SignedIn: "200"},
	})
	if got := alice.Fetch("POST", "/api/users/1", nil, nil).Header.Get("Allow"); got != "DELETE, GET, HEAD, PUT" {
		t.Errorf("Allow = %q", got)
	}
	// What a row says is its own: later changes to what it was made of are not.
	rows[1].Groups[0], rows[1].Methods[0] = "Nobody", "PATCH"
	if r := bob.Fetch("GET", "/api/users/1", nil, nil); r.Status != 200 {
		t.Errorf("after a change of the rows: %v", r)
	}
	mustPanic(t, "two rows alike", "method in common", func() { a.auth.Upstreams(rows[0], rows[0]) })
	mustPanic(t, "bad row", "row 1", func() { a.auth.Upstreams(rows[0], bff.Upstream{}) })
	mustPanic(t, "bad upstream", "Proxy: URL", func() { a.auth.Proxy(bff.Upstream{}) })
	a.handler = a.auth.Routes(a.auth.Upstreams())
	if r := a.browser().Fetch("GET", "/api", nil, nil); r.Status != 404 || r.Reason() != "not_found" {
		t.Errorf("an empty table = %v", r)
	}
}

// What a row says of activity and of the sign-in holds for what it serves.
func TestRowsAndTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{})
		row := func(path string, passive bool, opts ...bff.Option) bff.Upstream {
			return bff.Upstream{URL: "https://api.example.com", Path: path, Passive: passive, Options: opts,
				Transport: bfftest.InProcess(map[string]http.Handler{"https://api.example.com": a.api})}
		}
		a.handler = a.auth.Routes(a.auth.Upstreams(row("/active", false), row("/passive", true),
			row("/recent", false, bff.MaxAuthAge(5*time.Minute)), row("/gold", false, bff.RequireACR("gold"))))
		b := a.signIn("alice")
		fetch := func(path string, status int, reason string) {
			t.Helper()
			before := a.api.hits()
			if r := b.Fetch("GET", path, nil, nil); r.Status != status || r.Reason() != reason || (a.api.hits() > before) != (status == 200) {
				t.Errorf("GET %s = %v with %d requests to the API, want %d %s", path, r, a.api.hits()-before, status, reason)
			}
		}
		fetch("/recent", 200, "")
		fetch("/gold", 401, "step_up")
		time.Sleep(6 * time.Minute)
		fetch("/recent", 401, "step_up")
		time.Sleep(44 * time.Minute)
		fetch("/active", 200, "") // and the hour of idling begins anew
		time.Sleep(50 * time.Minute)
		fetch("/passive", 200, "")
		time.Sleep(11 * time.Minute)
		fetch("/passive", 401, "session_idle")
	})
}

// A rewritten path can't leave the base, whatever the function makes of it.
func TestRewritePath(t *testing.T) {
	a := newApp(t, setup{api: bff.Upstream{RewritePath: func(p string) string {
		if to, ok := strings.CutPrefix(p, "/to"); ok {
			return strings.NewReplacer("~", "..", "!", "%2e", "_", "/").Replace(to)
		}
		return p
	}}})
	b := a.signIn("alice")
	for path, want := range map[string]string{
		"/api/x": "/v1/x", "/api/to/x": "/v1/x", "/api/to": "/v1",
		"/api/to/~/admin": "", "/api/to/!!/admin": "", "/api/tox": "", "/api/to__x": "", "/api/to_x/~": "",
	} {
		before := a.api.hits()
		r := b.Fetch("GET", path, nil, nil)
		if want == "" && (r.Status != 404 || a.api.hits() != before) || want != "" && (r.Status != 200 || a.api.last().URL.EscapedPath() != want) {
			t.Errorf("GET %s = %v, arrived at %s; want %q", path, r, a.api.last().URL.EscapedPath(), want)
		}
	}
}

// A sign-in doesn't end at an upstream (D3), unless that is public.
func TestReturnURLAtUpstream(t *testing.T) {
	a := newApp(t, setup{})
	a.handler = a.auth.Routes(a.auth.Upstreams(
		bff.Upstream{URL: "https://api.example.com", Path: "/data"},
		bff.Upstream{URL: "https://api.example.com", Path: "/site", Needs: bff.None, Transport: bfftest.InProcess(map[string]http.Handler{"https://api.example.com": a.api})},
	))
	for path, want := range map[string]string{"/data/x": "/", "/site/x": "/site/x"} {
		if r := a.browser().SignIn("alice", bfftest.LoginPath("/login?returnUrl="+path)); r.URL.Path != want {
			t.Errorf("sign-in with returnUrl=%s ends at %s, want %s", path, r.URL.Path, want)
		}
	}
}

type scriptedSource struct {
	give func(*bff.Session, bff.Secret) (bff.Secret, error)
}

func (s *scriptedSource) Token(_ context.Context, session *bff.Session, refused bff.Secret) (bff.Secret, error) {
	return s.give(session, refused)
}

// A route's own token: what the source is asked, and what its errors mean.
func TestTokenSource(t *testing.T) {
	source := &scriptedSource{}
	a := newApp(t, setup{api: bff.Upstream{Tokens: source}})
	b := a.signIn("alice")
	source.give = func(s *bff.Session, refused bff.Secret) (bff.Secret, error) {
		if s.Subject() == "" {
			t.Error("no session")
		}
		return bff.Secret(fmt.Sprintf("other-than-%s", refused.Reveal())), nil
	}
	if r := b.Fetch("GET", "/api/x", nil, nil); r.Status != 200 || a.api.last().Header.Get("Authorization") != "Bearer other-than-" {
		t.Errorf("with a token of its own: %v, %q", r, a.api.last().Header)
	}
	a.api.set(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer other-than-other-than-" {
			w.WriteHeader(401)
		}
	})
	if r := b.Fetch("GET", "/api/x", nil, nil); r.Status != 200 {
		t.Errorf("after a 401: %v, %q", r, a.api.last().Header)
	}
	source.give = func(*bff.Session, bff.Secret) (bff.Secret, error) { return "stays", nil }
	before := a.api.hits()
	if r := b.Fetch("GET", "/api/x", nil, nil); r.Status != 401 || r.Reason() != "upstream_unauthorized" || a.api.hits() != before+1 {
		t.Errorf("without another token: %v after %d requests", r, a.api.hits()-before)
	}
	source.give = func(*bff.Session, bff.Secret) (bff.Secret, error) { return "", errors.New("down") }
	if r := b.Fetch("GET", "/api/x", nil, nil); r.Status != 503 || r.Reason() != "issuer_unavailable" {
		t.Errorf("with a source that fails: %v", r)
	}
	source.give = func(*bff.Session, bff.Secret) (bff.Secret, error) {
		return "", &bff.Problem{Status: 403, Reason: bff.Forbidden}
	}
	if r := b.Fetch("GET", "/api/x", nil, nil); r.Status != 403 || r.Reason() != "forbidden" {
		t.Errorf("with a source that refuses: %v", r)
	}
}
