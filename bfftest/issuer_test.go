package bfftest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff/bfftest"
)

// get requests url with an optional bearer token and decodes the answer.
func get(t *testing.T, iss *bfftest.Issuer, url, bearer string) (status int, header http.Header, body map[string]any) {
	t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	res, err := iss.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	json.Unmarshal(text, &body)
	return res.StatusCode, res.Header, body
}

func TestDiscovery(t *testing.T) {
	iss := bfftest.NewIssuer(bfftest.Options{TenantID: "11111111-2222-3333-4444-555555555555"})
	want := "https://auth.bfftest.example/tenant/11111111-2222-3333-4444-555555555555/v2.0/Auth"
	if iss.URL() != want {
		t.Errorf("URL() = %s, want %s", iss.URL(), want)
	}
	status, _, meta := get(t, iss, want+"/.well-known/openid-configuration", "")
	if status != 200 || meta["issuer"] != want || meta["authorization_endpoint"] != want+"/authorize" ||
		meta["end_session_endpoint"] != want+"/endsession" || meta["revocation_endpoint"] != want+"/revoke" {
		t.Errorf("metadata = %d %v", status, meta)
	}
	if _, ok := meta["authorization_response_iss_parameter_supported"]; ok {
		t.Error("the iss parameter is advertised without the option")
	}
	bare := bfftest.NewIssuer(bfftest.Options{NoEndSession: true, NoRevocation: true, NoUserInfo: true, IssParameter: true})
	_, _, meta = get(t, bare, bare.URL()+"/.well-known/openid-configuration", "")
	if meta["authorization_response_iss_parameter_supported"] != true {
		t.Error("the iss parameter isn't advertised")
	}
	for name, path := range map[string]string{"end_session_endpoint": "/endsession", "revocation_endpoint": "/revoke", "userinfo_endpoint": "/userinfo"} {
		if _, ok := meta[name]; ok {
			t.Errorf("%s is published though it was switched off", name)
		}
		if status, _, _ := get(t, bare, bare.URL()+path, ""); status != 404 {
			t.Errorf("GET %s = %d, want 404", path, status)
		}
	}
}

func TestTokens(t *testing.T) {
	iss := bfftest.NewIssuer(bfftest.Options{AccessTokenHash: true})
	_, tok := newRP(iss).signIn(t, "alice")
	alice, _ := iss.User("alice")
	if tok.TokenType != "Bearer" || tok.ExpiresIn != 900 || tok.Scope != "openid profile email" || tok.RefreshToken == "" {
		t.Errorf("token response = %+v", tok)
	}
	header, id, err := claims(iss, tok.IDToken)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{
		"iss": iss.URL(), "aud": iss.ClientID(), "sub": alice.ID, "userId": alice.ID, "tenantId": iss.TenantID(),
		"email": "alice@example.com", "name": "Alice Archer", "groups": []any{"Admin", "Users"}, "sid": iss.Grants()[0].SID,
	} {
		if !reflect.DeepEqual(id[name], want) {
			t.Errorf("ID token: %s = %v, want %v", name, id[name], want)
		}
	}
	for _, name := range []string{"iat", "exp", "auth_time", "nonce", "at_hash"} {
		if id[name] == nil {
			t.Errorf("ID token: no %s", name)
		}
	}
	if header.Algorithm != "RS256" {
		t.Errorf("alg = %s, want RS256", header.Algorithm)
	}
	_, access, err := claims(iss, tok.AccessToken)
	if err != nil || !reflect.DeepEqual(access["groups"], []any{"Admin", "Users"}) || access["sub"] != alice.ID {
		t.Errorf("access token = %v, %v", access, err)
	}

	one := bfftest.NewIssuer(bfftest.Options{GroupsAsString: true, ClaimsAtUserInfoOnly: true, IgnoreStepUp: true})
	_, tok = newRP(one).signIn(t, "bob")
	if got := unverified(t, tok.AccessToken)["groups"]; got != "Users" {
		t.Errorf("groups = %v, want the string Users", got)
	}
	id = unverified(t, tok.IDToken)
	for _, name := range []string{"groups", "email", "auth_time"} {
		if id[name] != nil {
			t.Errorf("ID token: %s = %v, want none", name, id[name])
		}
	}
	if status, _, info := get(t, one, one.URL()+"/userinfo", tok.AccessToken); status != 200 || info["groups"] != "Users" || info["email"] != "bob@example.com" {
		t.Errorf("userinfo = %d %v", status, info)
	}
}

// Each way to redeem a code wrongly is refused, and reuse ends the grant.
func TestCode(t *testing.T) {
	iss := bfftest.NewIssuer(bfftest.Options{Clients: []bfftest.Client{{ID: "app"}, {ID: "other"}}})
	a := newRP(iss)
	verifier := strings.Repeat("v", 43)
	code := func() string {
		b := bfftest.NewBrowser(a, appURL, iss)
		b.Navigate(a.authorizeURL("s", verifier))
		r := b.Choose("alice")
		return r.URL.Query().Get("code")
	}
	for _, row := range []struct {
		name, field, value string
	}{
		{"no-verifier", "code_verifier", ""},
		{"wrong-verifier", "code_verifier", strings.Repeat("w", 43)},
		{"other-redirect", "redirect_uri", appURL + "/other"},
		{"no-redirect", "redirect_uri", ""},
		{"unknown-code", "code", "x"},
	} {
		t.Run(row.name, func(t *testing.T) {
			form := url.Values{"grant_type": {"authorization_code"}, "code": {code()}, "redirect_uri": {appURL + "/auth/callback"}, "code_verifier": {verifier}}
			form.Set(row.field, row.value)
			if tok, err := a.token(form); err != nil || tok.status != 400 || tok.Error != "invalid_grant" {
				t.Errorf("token = %+v, %v; want 400 invalid_grant", tok, err)
			}
		})
	}
	before := len(iss.Grants())
	form := url.Values{"grant_type": {"authorization_code"}, "code": {code()}, "redirect_uri": {appURL + "/auth/callback"}, "code_verifier": {verifier}}
	if tok, err := a.token(form); err != nil || tok.status != 200 {
		t.Fatalf("token = %+v, %v", tok, err)
	}
	if n := iss.LiveGrants(); n != before+1 {
		t.Errorf("live grants = %d, want %d", n, before+1)
	}
	if tok, err := a.token(form); err != nil || tok.Error != "invalid_grant" {
		t.Errorf("second redemption = %+v, %v", tok, err)
	}
	if g := iss.Grants()[before]; g.Live || g.Ended != bfftest.EndedByCodeReuse {
		t.Errorf("grant = %+v, want it ended by reuse", g)
	}
}

func TestRefresh(t *testing.T) {
	t.Run("rotation", func(t *testing.T) {
		iss := bfftest.NewIssuer(bfftest.Options{})
		a := newRP(iss)
		_, first := a.signIn(t, "bob")
		second := a.refresh(first.RefreshToken)
		if second.status != 200 || second.RefreshToken == "" || second.RefreshToken == first.RefreshToken || second.IDToken == "" {
			t.Fatalf("refresh = %+v", second)
		}
		if n := unverified(t, second.IDToken)["nonce"]; n != nil {
			t.Errorf("nonce after a refresh = %v, want none", n)
		}
		if reuse := a.refresh(first.RefreshToken); reuse.Error != "invalid_grant" {
			t.Errorf("reuse = %+v", reuse)
		}
		if g := iss.Grants()[0]; g.Live || g.Ended != bfftest.EndedByRefreshReuse || g.Refreshes != 1 {
			t.Errorf("grant = %+v", g)
		}
		if dead := a.refresh(second.RefreshToken); dead.Error != "invalid_grant" {
			t.Errorf("refresh after reuse = %+v", dead)
		}
	})
	t.Run("reuse-refused", func(t *testing.T) {
		iss := bfftest.NewIssuer(bfftest.Options{ReuseRefused: true})
		a := newRP(iss)
		_, first := a.signIn(t, "bob")
		second := a.refresh(first.RefreshToken)
		if reuse := a.refresh(first.RefreshToken); reuse.Error != "invalid_grant" {
			t.Errorf("reuse = %+v", reuse)
		}
		if third := a.refresh(second.RefreshToken); third.status != 200 {
			t.Errorf("refresh after reuse = %+v, want 200", third)
		}
	})
	t.Run("no-rotation", func(t *testing.T) {
		iss := bfftest.NewIssuer(bfftest.Options{NoRotation: true, NoIDTokenOnRefresh: true})
		a := newRP(iss)
		_, first := a.signIn(t, "bob")
		for range 2 {
			if again := a.refresh(first.RefreshToken); again.status != 200 || again.RefreshToken != "" || again.IDToken != "" {
				t.Errorf("refresh = %+v, want only an access token", again)
			}
		}
	})
	t.Run("none", func(t *testing.T) {
		for _, opts := range []bfftest.Options{{NoRefreshToken: true}, {RefreshNeedsOfflineAccess: true}} {
			if _, tok := newRP(bfftest.NewIssuer(opts)).signIn(t, "bob"); tok.RefreshToken != "" {
				t.Errorf("%+v: a refresh token", opts)
			}
		}
	})
	t.Run("administrator", func(t *testing.T) {
		iss := bfftest.NewIssuer(bfftest.Options{})
		a := newRP(iss)
		_, tok := a.signIn(t, "bob")
		if n := iss.Revoke("alice"); n != 0 {
			t.Errorf("Revoke(alice) = %d, want 0", n)
		}
		if n := iss.Revoke("bob"); n != 1 {
			t.Errorf("Revoke(bob) = %d, want 1", n)
		}
		if tok = a.refresh(tok.RefreshToken); tok.Error != "invalid_grant" {
			t.Errorf("refresh = %+v", tok)
		}
	})
	t.Run("concurrent", func(t *testing.T) {
		iss := bfftest.NewIssuer(bfftest.Options{ReuseRefused: true})
		a := newRP(iss)
		_, tok := a.signIn(t, "bob")
		var wg sync.WaitGroup
		var mu sync.Mutex
		won := 0
		for range 50 {
			wg.Go(func() {
				if a.refresh(tok.RefreshToken).status == 200 {
					mu.Lock()
					won++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if won != 1 || iss.Count("token:refresh_token") != 50 {
			t.Errorf("%d of %d refreshes passed, want 1 of 50", won, iss.Count("token:refresh_token"))
		}
	})
}

func TestClientAuthentication(t *testing.T) {
	for _, row := range []struct {
		name, accepts, method, secret, want, log string
	}{
		{"basic", "client_secret_basic", "client_secret_basic", "s:3 %é", "", "client_secret_basic"},
		{"post", "client_secret_post", "client_secret_post", "s:3 %é", "", "client_secret_post"},
		{"either", "", "client_secret_post", "s:3 %é", "", "client_secret_post"},
		{"wrong-secret", "", "client_secret_basic", "guess", "invalid_client", "client_secret_basic"},
		{"wrong-method", "client_secret_basic", "client_secret_post", "s:3 %é", "invalid_client", "client_secret_post"},
		{"none", "", "", "", "invalid_client", "none"},
	} {
		t.Run(row.name, func(t *testing.T) {
			iss := bfftest.NewIssuer(bfftest.Options{Clients: []bfftest.Client{{ID: "web app", Secret: "s:3 %é", AuthMethod: row.accepts}}})
			a := newRP(iss)
			a.method, a.secret = row.method, row.secret
			r := bfftest.NewBrowser(a, appURL, iss).SignIn("carol")
			if (r.Err == nil) != (row.want == "") || r.Err != nil && !strings.Contains(r.Err.Error(), row.want) {
				t.Errorf("sign-in: %v, want %q", r.Err, row.want)
			}
			for _, req := range iss.Log() {
				if req.Endpoint == "token" && (req.Auth != row.log || req.ClientID != "web app") {
					t.Errorf("logged as %q %q, want %q", req.Auth, req.ClientID, row.log)
				}
			}
		})
	}
	public := bfftest.NewIssuer(bfftest.Options{})
	a := newRP(public)
	a.method = "client_secret_basic"
	if r := bfftest.NewBrowser(a, appURL, public).SignIn("carol"); r.Err == nil {
		t.Error("a public client passed with a Basic header")
	}
}

func TestUsersAPI(t *testing.T) {
	iss := bfftest.NewIssuer(bfftest.Options{})
	for i := range 10 {
		iss.AddUser(bfftest.User{Name: fmt.Sprintf("user%d", i)})
	}
	a := newRP(iss)
	_, alice := a.signIn(t, "alice")
	_, bob := a.signIn(t, "bob")
	users := iss.UsersURL()
	if !strings.HasSuffix(users, "/tenant/"+iss.TenantID()+"/v2.0/Users") {
		t.Errorf("UsersURL() = %s", users)
	}
	status, _, page := get(t, iss, users, alice.AccessToken)
	if status != 200 || page["totalRecords"] != 13.0 || page["pageNumber"] != 1.0 || page["pageSize"] != 10.0 || len(page["data"].([]any)) != 10 {
		t.Fatalf("GET Users = %d %v", status, page)
	}
	first := page["data"].([]any)[0].(map[string]any)
	if first["email"] != "alice@example.com" || first["displayName"] != "Alice Archer" || first["enabled"] != true || first["userType"] != "User" || first["lastLoggedIn"] == nil {
		t.Errorf("first user = %v", first)
	}
	if _, _, page = get(t, iss, users+"?pageNumber=2&pageSize=12", alice.AccessToken); len(page["data"].([]any)) != 1 {
		t.Errorf("second page = %v, want one user", page)
	}
	for target, want := range map[string]int{
		users + "?pageSize=101":                    400,
		users + "?pageNumber=x":                    400,
		users + "/" + first["userId"].(string):     200,
		users + "/nobody":                          404,
		iss.BaseURL() + "/tenant/other/v2.0/Users": 404,
	} {
		if status, _, _ := get(t, iss, target, alice.AccessToken); status != want {
			t.Errorf("GET %s = %d, want %d", target, status, want)
		}
	}
	if status, _, _ := get(t, iss, users, bob.AccessToken); status != 403 {
		t.Errorf("GET Users as bob = %d, want 403", status)
	}
	for _, token := range []string{"forged", alice.IDToken, alice.RefreshToken} {
		status, header, _ := get(t, iss, users, token)
		if status != 401 || !strings.Contains(header.Get("WWW-Authenticate"), `Bearer error="invalid_token"`) {
			t.Errorf("GET Users with a bad token = %d %q", status, header.Get("WWW-Authenticate"))
		}
	}
	if status, header, _ := get(t, iss, users, ""); status != 401 || header.Get("WWW-Authenticate") != "Bearer" {
		t.Errorf("GET Users without a token = %d %q", status, header.Get("WWW-Authenticate"))
	}
}

// Tokens expire by the bubble's clock.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		iss := bfftest.NewIssuer(bfftest.Options{AccessTokenLifetime: 2 * time.Second, RefreshTokenLifetime: time.Hour})
		a := newRP(iss)
		_, tok := a.signIn(t, "alice")
		if status, _, _ := get(t, iss, iss.UsersURL(), tok.AccessToken); status != 200 {
			t.Errorf("GET Users at once = %d, want 200", status)
		}
		time.Sleep(2 * time.Second)
		if status, _, _ := get(t, iss, iss.UsersURL(), tok.AccessToken); status != 401 {
			t.Errorf("GET Users after 2 s = %d, want 401", status)
		}
		tok = a.refresh(tok.RefreshToken)
		if status, _, _ := get(t, iss, iss.UsersURL(), tok.AccessToken); status != 200 {
			t.Errorf("GET Users after a refresh = %d, want 200", status)
		}
		time.Sleep(time.Hour)
		if iss.LiveGrants() != 0 {
			t.Error("the grant lives though its refresh token has expired")
		}
		if tok = a.refresh(tok.RefreshToken); tok.Error != "invalid_grant" {
			t.Errorf("refresh with an expired token = %+v", tok)
		}
	})
}

// A refresh makes the old access token useless where the issuer looks it up,
// and nowhere else.
func TestStrictAccessTokens(t *testing.T) {
	for strict, want := range map[bool]int{true: 401, false: 200} {
		iss := bfftest.NewIssuer(bfftest.Options{StrictAccessTokens: strict})
		a := newRP(iss)
		_, tok := a.signIn(t, "bob")
		a.refresh(tok.RefreshToken)
		if status, _, _ := get(t, iss, iss.URL()+"/userinfo", tok.AccessToken); status != want {
			t.Errorf("strict %v: userinfo with the old token = %d, want %d", strict, status, want)
		}
	}
}

func TestRevocation(t *testing.T) {
	iss := bfftest.NewIssuer(bfftest.Options{})
	a := newRP(iss)
	_, tok := a.signIn(t, "bob")
	revoke := func(form url.Values) int {
		res, err := iss.Client().PostForm(iss.URL()+"/revoke", form)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	client := iss.ClientID()
	for _, row := range []struct {
		form url.Values
		want int
		live int
	}{
		{url.Values{"client_id": {client}}, 400, 1},
		{url.Values{"client_id": {"other"}, "token": {tok.RefreshToken}}, 401, 1},
		{url.Values{"client_id": {client}, "token": {"unknown"}}, 200, 1},
		{url.Values{"client_id": {client}, "token": {tok.AccessToken}}, 200, 1},
		{url.Values{"client_id": {client}, "token": {tok.RefreshToken}}, 200, 0},
	} {
		if got := revoke(row.form); got != row.want || iss.LiveGrants() != row.live {
			t.Errorf("revoke %v = %d with %d live grants, want %d with %d", row.form, got, iss.LiveGrants(), row.want, row.live)
		}
	}
	if status, _, _ := get(t, iss, iss.URL()+"/userinfo", tok.AccessToken); status != 401 {
		t.Errorf("userinfo with a revoked token = %d, want 401", status)
	}
	if g := iss.Grants()[0]; g.Ended != bfftest.EndedByRevocation {
		t.Errorf("grant = %+v", g)
	}
}

func TestEndSession(t *testing.T) {
	iss := bfftest.NewIssuer(bfftest.Options{})
	a := newRP(iss)
	b, tok := a.signIn(t, "bob")
	end := iss.URL() + "/endsession?"
	for _, bad := range []url.Values{
		{"id_token_hint": {"forged"}},
		{"post_logout_redirect_uri": {appURL + "/bye"}}, // of which client?
		{"client_id": {iss.ClientID()}, "post_logout_redirect_uri": {"https://real.com/"}},
		{"client_id": {"other"}, "id_token_hint": {tok.IDToken}},
	} {
		if r := b.Navigate(end + bad.Encode()); r.Status != 400 || iss.Sessions() != 1 {
			t.Errorf("end_session %v = %d, want 400", bad, r.Status)
		}
	}
	r := b.Navigate(end + url.Values{"id_token_hint": {tok.IDToken}, "post_logout_redirect_uri": {appURL + "/bye"}, "state": {"s&1"}}.Encode())
	if got, want := r.URL.String(), appURL+"/bye?state=s%261"; got != want {
		t.Errorf("sign-out led to %s, want %s", got, want)
	}
	if iss.Sessions() != 0 || iss.LiveGrants() != 1 {
		t.Errorf("%d sessions, %d live grants; want 0, 1", iss.Sessions(), iss.LiveGrants())
	}
	if r := b.Navigate("/login"); !strings.Contains(string(r.Body), "Who is signing in?") {
		t.Errorf("a sign-in after the sign-out shows %v", r)
	}
}

func TestLogoutToken(t *testing.T) {
	iss := bfftest.NewIssuer(bfftest.Options{})
	token := iss.LogoutToken(func(t *bfftest.Token) { t.Claims["sid"] = "s1"; delete(t.Claims, "exp") })
	header, c, err := claims(iss, token)
	if err != nil || c["sid"] != "s1" || c["exp"] != nil || c["aud"] != iss.ClientID() || header.ExtraHeaders["typ"] != "logout+jwt" {
		t.Errorf("logout token = %v %v, %v", header, c, err)
	}
	if c["events"].(map[string]any)["http://schemas.openid.net/event/backchannel-logout"] == nil {
		t.Errorf("events = %v", c["events"])
	}
}

// Tests search logs for these.
func TestSecrets(t *testing.T) {
	iss := bfftest.NewIssuer(bfftest.Options{})
	b, tok := newRP(iss).signIn(t, "alice")
	all := strings.Join(iss.Secrets(), "\n")
	for _, secret := range []string{tok.AccessToken, tok.RefreshToken, tok.IDToken, b.Hops()[3].URL.Query().Get("code")} {
		if secret == "" || !strings.Contains(all, secret) {
			t.Errorf("Secrets() lacks %q", secret)
		}
	}
	if len(iss.Secrets()) != 5 { // and the verifier
		t.Errorf("%d secrets, want 5", len(iss.Secrets()))
	}
	for _, r := range iss.Log() {
		if text := fmt.Sprint(r); strings.Contains(text, tok.RefreshToken) || strings.Contains(text, tok.AccessToken) {
			t.Errorf("the log has a token: %s", text)
		}
	}
}

func TestKeyRotation(t *testing.T) {
	iss := bfftest.NewIssuer(bfftest.Options{})
	a := newRP(iss)
	_, before := a.signIn(t, "alice")
	old := iss.Key().ID
	iss.RotateKeys()
	_, after := a.signIn(t, "alice")
	for token, kid := range map[string]string{before.IDToken: old, after.IDToken: iss.Key().ID} {
		if header, _, err := claims(iss, token); err != nil || header.KeyID != kid {
			t.Errorf("kid %s, %v; want %s", header.KeyID, err, kid)
		}
	}
	if old == iss.Key().ID {
		t.Error("the key is the same after RotateKeys")
	}
	if bfftest.NewIssuer(bfftest.Options{TenantID: "t2"}).Key().ID == old {
		t.Error("two tenants share a key")
	}
}

// Over a socket everything is as in the process.
func TestStart(t *testing.T) {
	for _, withTLS := range []bool{false, true} {
		iss := bfftest.StartIssuer(t, bfftest.Options{TLS: withTLS})
		if got := strings.HasPrefix(iss.URL(), "https://127.0.0.1:"); got != withTLS {
			t.Errorf("URL() = %s with TLS %v", iss.URL(), withTLS)
		}
		a := newRP(iss)
		srv := httptest.NewUnstartedServer(a)
		srv.Start()
		defer srv.Close()
		a.origin = srv.URL
		client := bfftest.SignIn(t, iss, nil, srv.URL, "alice")
		res, err := client.Get(srv.URL + "/")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != 200 || string(body) != "site=same-origin mode=cors dest=empty origin=" {
			t.Errorf("GET / = %d %s", res.StatusCode, body)
		}
		if (len(iss.CertPEM()) > 0) != withTLS {
			t.Errorf("CertPEM() = %q with TLS %v", iss.CertPEM(), withTLS)
		}
		iss.Break("jwks", bfftest.Fault{Times: 1, CloseBeforeAnswer: true})
		if _, err := iss.Client().Post(iss.URL()+"/jwks", "", nil); err == nil {
			t.Error("an answer came though the connection was to break")
		}
		iss.Break("jwks", bfftest.Fault{Hang: true})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		req, _ := http.NewRequestWithContext(ctx, "GET", iss.URL()+"/jwks", nil)
		if _, err := iss.Client().Do(req); err == nil {
			t.Error("an answer came though the issuer was to hang")
		}
		cancel()
	}
}

func TestStop(t *testing.T) {
	iss := bfftest.NewIssuer(bfftest.Options{})
	stop, err := iss.Start("localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(iss.BaseURL(), "http://localhost:") {
		t.Errorf("BaseURL() = %s", iss.BaseURL())
	}
	if status, _, _ := get(t, iss, iss.URL()+"/jwks", ""); status != 200 {
		t.Errorf("GET jwks = %d", status)
	}
	if err := stop(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := iss.Client().Get(iss.URL() + "/jwks"); err == nil {
		t.Error("the issuer answers after it was stopped")
	}
}

// Programs embed the issuer: they must not link testing.
func TestImports(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range parsed.Imports {
			if path := strings.Trim(spec.Path.Value, `"`); path == "testing" || strings.HasPrefix(path, "testing/") || path == "net/http/httptest" {
				t.Errorf("%s imports %s", f.Name(), path)
			}
		}
	}
}
