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

// A hostile row is one thing that an issuer, or who stands between, may do
// wrong, and the rule that says what a relying party does about it.
type hostile struct {
	name string
	rule string // section and S-row

	// checks are the mutants, comma-separated, in which this row is red: see
	// TestMutants. Several are needed where two checks stand behind each other.
	checks string

	issuer  bfftest.Options
	config  bff.Config
	login   string // the query of /login
	refresh bool   // it happens to a refresh instead of a sign-in

	fault    bfftest.Fault
	endpoint string // of fault; token if empty

	want bff.Reason
	// live: what the issuer granted can't be revoked, since we have no handle
	// on it. kept: the failed refresh has not ended the session. unspent: no
	// token request is made.
	live, kept, unspent bool
}

// claim returns a fault that sets one claim of the ID token, or removes it if
// value is nil.
func claim(name string, value any) bfftest.Fault {
	return idToken(func(t *bfftest.Token) {
		if value == nil {
			delete(t.Claims, name)
		} else {
			t.Claims[name] = value
		}
	})
}

// claimAt sets one claim of the ID token to a time from now.
func claimAt(name string, d time.Duration) bfftest.Fault {
	return idToken(func(t *bfftest.Token) { t.Claims[name] = time.Now().Add(d).Unix() })
}

func header(name string, value any) bfftest.Fault {
	return idToken(func(t *bfftest.Token) { t.Header[name] = value })
}

func idToken(edit func(*bfftest.Token)) bfftest.Fault { return bfftest.Fault{EditIDToken: edit} }

// member sets one member of a JSON answer, or removes it if value is nil.
func member(name string, value any) bfftest.Fault {
	return bfftest.Fault{EditJSON: func(m map[string]any) {
		if value == nil {
			delete(m, name)
		} else {
			m[name] = value
		}
	}}
}

func callback(edit func(url.Values)) bfftest.Fault { return bfftest.Fault{EditCallback: edit} }

// unsigned replaces a token's header by one with alg none.
func unsigned(jwt string) string {
	parts := strings.Split(jwt, ".")
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."
}

func hostileRows() []hostile {
	stranger := bfftest.NewKey("RS256")
	tampered := idToken(func(t *bfftest.Token) { t.EditJWT = bfftest.TamperSignature })
	none := idToken(func(t *bfftest.Token) { t.EditJWT = unsigned })
	more := func(f func(*bfftest.Token)) bfftest.Fault { return idToken(f) }
	userinfo := bff.Config{UserInfo: true}
	return []hostile{
		// OpenID Connect Core 1.0, sections 2 and 3.1.3.7, at the sign-in.
		{name: "iss of another", rule: "Core 3.1.3.7 (2), S144", checks: "iss", fault: claim("iss", "https://evil.example"), want: bff.IssuerError},
		{name: "iss missing", rule: "Core 2, S144", checks: "iss", fault: claim("iss", nil), want: bff.IssuerError},
		{name: "iss with a slash", rule: "Core 3.1.3.7 (2), S144", checks: "iss", fault: more(func(t *bfftest.Token) { t.Claims["iss"] = t.Claims["iss"].(string) + "/" }), want: bff.IssuerError},
		{name: "aud of another", rule: "Core 3.1.3.7 (3), S145", checks: "aud,aud-extra", fault: claim("aud", "other"), want: bff.IssuerError},
		{name: "aud missing", rule: "Core 3.1.3.7 (3), S145", checks: "aud", fault: claim("aud", nil), want: bff.IssuerError},
		{name: "aud empty", rule: "Core 3.1.3.7 (3), S145", checks: "aud", fault: claim("aud", []string{}), want: bff.IssuerError},
		{name: "aud with a stranger", rule: "Core 3.1.3.7 (3), S146", checks: "aud-extra", fault: more(func(t *bfftest.Token) { t.Claims["aud"] = []any{t.Claims["aud"], "evil"} }), want: bff.IssuerError},
		{name: "azp of another", rule: "Core 3.1.3.7 (5), S177", checks: "azp", fault: claim("azp", "other"), want: bff.IssuerError},
		{name: "signature tampered", rule: "Core 3.1.3.7 (6), S147", checks: "signature", fault: tampered, want: bff.IssuerError},
		{name: "signed by a stranger under a known kid", rule: "Core 3.1.3.7 (6), S147", checks: "signature", fault: more(func(t *bfftest.Token) {
			kid := t.Header["kid"]
			t.SignWith(stranger)
			t.Header["kid"] = kid
		}), want: bff.IssuerError},
		{name: "signed under an unknown kid", rule: "Core 10.1, S159", checks: "kid", fault: header("kid", "other"), want: bff.IssuerError},
		{name: "alg none", rule: "Core 2, 3.1.3.7 (7), S148", checks: "signature", fault: none, want: bff.IssuerError},
		{name: "alg HS256", rule: "Core 3.1.3.7 (7), S148", checks: "signature", fault: more(func(t *bfftest.Token) { t.SignWith(bfftest.NewKey("HS256")) }), want: bff.IssuerError},
		{name: "alg not the registered one", rule: "Core 3.1.3.7 (7), S148", checks: "alg", config: bff.Config{SigningAlgs: []string{"ES256"}}, want: bff.IssuerError},
		{name: "exp past", rule: "Core 3.1.3.7 (9), S149", checks: "exp", fault: claimAt("exp", -31*time.Second), want: bff.IssuerError},
		{name: "exp missing", rule: "Core 2, S149", checks: "exp", fault: claim("exp", nil), want: bff.IssuerError},
		{name: "iat missing", rule: "Core 2, S150", checks: "iat", fault: claim("iat", nil), want: bff.IssuerError},
		{name: "iat in a year", rule: "Core 3.1.3.7 (10), S175", checks: "iat-future", fault: claimAt("iat", 365*24*time.Hour), want: bff.IssuerError},
		{name: "iat yesterday", rule: "Core 3.1.3.7 (10), S175", checks: "iat-age", fault: claimAt("iat", -24*time.Hour), want: bff.IssuerError},
		{name: "nbf ahead", rule: "RFC 7519 4.1.5", checks: "nbf", fault: claimAt("nbf", time.Hour), want: bff.IssuerError},
		{name: "sub missing", rule: "Core 2, S151", checks: "sub", fault: claim("sub", nil), want: bff.IssuerError},
		{name: "sub empty", rule: "Core 2, S151", checks: "sub", fault: claim("sub", ""), want: bff.IssuerError},
		{name: "sub of 256 characters", rule: "Core 2, S151", checks: "sub", fault: claim("sub", strings.Repeat("a", 256)), want: bff.IssuerError},
		{name: "sub not ASCII", rule: "Core 2, S151", checks: "sub", fault: claim("sub", "ålice"), want: bff.IssuerError},
		{name: "sid a number", rule: "Back-Channel Logout 2.1", checks: "claim-type", fault: claim("sid", 7), want: bff.IssuerError},
		{name: "nonce of another attempt", rule: "Core 3.1.3.7 (11), S39, S152", checks: "nonce", fault: claim("nonce", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"), want: bff.IssuerError},
		{name: "nonce missing", rule: "Core 3.1.3.7 (11), S152", checks: "nonce", fault: claim("nonce", nil), want: bff.IssuerError},
		{name: "acr not the one asked for", rule: "Core 3.1.3.7 (12), S178", checks: "acr", login: "?acr_values=gold", issuer: bfftest.Options{IgnoreStepUp: true}, want: bff.StepUp},
		{name: "auth_time missing after max_age", rule: "Core 3.1.3.7 (13), S179", checks: "max-age", login: "?max_age=60", issuer: bfftest.Options{IgnoreStepUp: true}, want: bff.StepUp},
		{name: "auth_time too old", rule: "Core 3.1.3.7 (13), S179", checks: "max-age", login: "?max_age=60", fault: claimAt("auth_time", -2*time.Minute), want: bff.StepUp},
		{name: "auth_time negative", rule: "RFC 7519 2", checks: "numeric-date", fault: claim("auth_time", -5), want: bff.IssuerError},
		{name: "at_hash of another token", rule: "Core 3.1.3.8, S180", checks: "at-hash", fault: claim("at_hash", "AAAAAAAAAAAAAAAAAAAAAA"), want: bff.IssuerError},
		{name: "a logout token", rule: "RFC 8725 3.11", checks: "typ", fault: header("typ", "logout+jwt"), want: bff.IssuerError},
		{name: "a logout token without a type", rule: "Back-Channel Logout 2.4", checks: "events", fault: claim("events", map[string]any{}), want: bff.IssuerError},
		{name: "sub twice", rule: "RFC 8725 2.4; RFC 7519 4", checks: "duplicate-member", fault: more(func(t *bfftest.Token) {
			t.EditClaimsJSON = func(b []byte) []byte { return append([]byte(`{"sub":"mallory",`), b[1:]...) }
		}), want: bff.IssuerError},
		{name: "sub in two cases", rule: "RFC 7519 4", checks: "claim-case", fault: claim("SUB", "mallory"), want: bff.IssuerError},
		{name: "tenant of another", rule: "agglestone", checks: "tenant", fault: claim("tenantId", "11111111-2222-3333-4444-555555555555"), want: bff.IssuerError},

		// The token response: RFC 6749, section 5, and Core 3.1.3.3.
		{name: "id_token missing", rule: "Core 3.1.3.3, S142", checks: "id-token-present,id-token-parts", fault: member("id_token", nil), want: bff.IssuerError},
		{name: "id_token a number", rule: "Core 3.1.3.3, S142", checks: "token-member-type,id-token-present", fault: member("id_token", 7), want: bff.IssuerError},
		{name: "token_type mac", rule: "RFC 6749 7.1, S77", checks: "token-type", fault: member("token_type", "mac"), want: bff.IssuerError},
		{name: "token_type missing", rule: "RFC 6749 5.1, S77", checks: "token-type", fault: member("token_type", nil), want: bff.IssuerError},
		{name: "access_token missing", rule: "RFC 6749 5.1, S141", checks: "access-token", fault: member("access_token", nil), want: bff.IssuerError},
		{name: "access_token with a line feed", rule: "RFC 6749 A.12, S141", checks: "access-token", fault: member("access_token", "a\r\nX: y"), want: bff.IssuerError},
		{name: "refresh_token with a line feed", rule: "RFC 6749 A.17, S141", checks: "refresh-token", fault: member("refresh_token", "a\nb"), want: bff.IssuerError, live: true},
		{name: "tokens with status 400", rule: "RFC 6749 5.2, S141", checks: "token-status", fault: bfftest.Fault{Status: 400}, want: bff.IssuerError, live: true},
		{name: "tokens beside an error", rule: "RFC 6749 5.2, S141", checks: "token-error", fault: member("error", "access_denied"), want: bff.IssuerError, live: true},
		{name: "2 MB", rule: "DESIGN invariant 10", checks: "body-limit", fault: bfftest.Fault{BodySize: 2 << 20}, want: bff.IssuerError, live: true},

		// Userinfo: Core 5.3.
		{name: "userinfo of another", rule: "Core 5.3.2, S155", checks: "userinfo-sub", config: userinfo, endpoint: "userinfo", fault: member("sub", "mallory"), want: bff.IssuerError},
		{name: "userinfo without sub", rule: "Core 5.3.2, S155", checks: "userinfo-sub", config: userinfo, endpoint: "userinfo", fault: member("sub", nil), want: bff.IssuerError},
		{name: "userinfo signed", rule: "Core 5.3.2, S157", checks: "userinfo-type", config: userinfo, endpoint: "userinfo", fault: bfftest.Fault{Header: http.Header{"Content-Type": {"application/jwt"}}}, want: bff.IssuerError},
		{name: "userinfo with status 500", rule: "Core 5.3.3", checks: "userinfo-status", config: userinfo, endpoint: "userinfo", fault: bfftest.Fault{Status: 500}, want: bff.IssuerUnavailable},

		// The authorization response: RFC 6749, section 4.1.2, RFC 9207, RFC
		// 9700, RFC 7636.
		{name: "iss parameter of another", rule: "RFC 9207 2.4, S96, S97", checks: "iss-parameter", endpoint: "callback", fault: callback(func(v url.Values) { v.Set("iss", "https://evil.example") }), want: bff.LoginMismatch, unspent: true},
		{name: "iss parameter with a slash", rule: "RFC 9207 2.4, S96", checks: "iss-parameter", issuer: bfftest.Options{IssParameter: true}, endpoint: "callback", fault: callback(func(v url.Values) { v.Set("iss", v.Get("iss")+"/") }), want: bff.LoginMismatch, unspent: true},
		{name: "iss parameter of another with an error", rule: "RFC 9207 2.4, S98", checks: "iss-parameter", endpoint: "callback", fault: callback(func(v url.Values) {
			v.Del("code")
			v.Set("error", "access_denied")
			v.Set("iss", "https://evil.example")
		}), want: bff.LoginMismatch, unspent: true},
		{name: "iss parameter missing though promised", rule: "RFC 9207 2.4, S99", checks: "iss-parameter-missing", issuer: bfftest.Options{IssParameter: true}, endpoint: "callback", fault: callback(func(v url.Values) { v.Del("iss") }), want: bff.LoginMismatch, unspent: true},
		{name: "iss parameter twice", rule: "RFC 9207 4, S100", checks: "duplicate-parameter", issuer: bfftest.Options{IssParameter: true}, endpoint: "callback", fault: callback(func(v url.Values) { v.Add("iss", "https://evil.example") }), want: bff.LoginMismatch, unspent: true},
		{name: "code twice", rule: "RFC 6749 3.1, S69", checks: "duplicate-parameter", endpoint: "callback", fault: callback(func(v url.Values) { v.Add("code", "other") }), want: bff.LoginMismatch, unspent: true},
		{name: "state changed", rule: "RFC 9700 4.7.1, S33, S40", checks: "state", endpoint: "callback", fault: callback(func(v url.Values) {
			s := []byte(v.Get("state"))
			s[len(s)-1] ^= 1
			v.Set("state", string(s))
		}), want: bff.LoginMismatch, unspent: true},

		// A refresh: Core 12.2, RFC 6749, section 6.
		{name: "refresh: iss of another", rule: "Core 12.2, S164", checks: "iss", refresh: true, fault: claim("iss", "https://evil.example"), want: bff.RefreshRejected},
		{name: "refresh: sub of another", rule: "Core 12.2, S165", checks: "refresh-sub", refresh: true, fault: claim("sub", "mallory"), want: bff.RefreshRejected},
		{name: "refresh: iat before the sign-in", rule: "Core 12.2, S166", checks: "refresh-iat", refresh: true, fault: claimAt("iat", -time.Hour), want: bff.RefreshRejected},
		{name: "refresh: iat missing", rule: "Core 12.2, S166", checks: "iat,refresh-iat", refresh: true, fault: claim("iat", nil), want: bff.RefreshRejected},
		{name: "refresh: aud grown", rule: "Core 12.2, S167", checks: "refresh-aud", refresh: true, config: bff.Config{TrustedAudiences: []string{"friend"}}, fault: more(func(t *bfftest.Token) { t.Claims["aud"] = []any{t.Claims["aud"], "friend"} }), want: bff.RefreshRejected},
		{name: "refresh: auth_time moved", rule: "Core 12.2, S168", checks: "refresh-auth-time", refresh: true, fault: claimAt("auth_time", -time.Minute), want: bff.RefreshRejected},
		{name: "refresh: nonce of another", rule: "Core 12.2, S183", checks: "refresh-nonce", refresh: true, fault: claim("nonce", "other"), want: bff.RefreshRejected},
		{name: "refresh: azp of another", rule: "Core 12.2, S184", checks: "azp", refresh: true, fault: claim("azp", "other"), want: bff.RefreshRejected},
		{name: "refresh: signature tampered", rule: "Core 12.2, S169", checks: "signature", refresh: true, fault: tampered, want: bff.RefreshRejected},
		{name: "refresh: alg none", rule: "Core 12.2, S169", checks: "signature", refresh: true, fault: none, want: bff.RefreshRejected},
		{name: "refresh: exp past", rule: "Core 12.2, S169", checks: "exp", refresh: true, fault: claimAt("exp", -31*time.Second), want: bff.RefreshRejected},
		{name: "refresh: at_hash of another token", rule: "Core 12.2, S169, S180", checks: "at-hash", refresh: true, fault: claim("at_hash", "AAAAAAAAAAAAAAAAAAAAAA"), want: bff.RefreshRejected},
		{name: "refresh: tenant of another", rule: "agglestone", checks: "tenant", refresh: true, fault: claim("tenantId", "11111111-2222-3333-4444-555555555555"), want: bff.RefreshRejected},
		{name: "refresh: userinfo of another", rule: "Core 5.3.2, S155", checks: "userinfo-sub", refresh: true, config: userinfo, endpoint: "userinfo", fault: member("sub", "mallory"), want: bff.RefreshRejected},
		{name: "refresh: token_type mac", rule: "RFC 6749 7.1, S77", checks: "token-type", refresh: true, fault: member("token_type", "mac"), want: bff.IssuerUnavailable, kept: true},
		{name: "refresh: access_token with a line feed", rule: "RFC 6749 A.12", checks: "access-token", refresh: true, fault: member("access_token", "a\r\nX: y"), want: bff.IssuerUnavailable, kept: true},
		{name: "refresh: refresh_token with a line feed", rule: "D28", checks: "refresh-token", refresh: true, fault: member("refresh_token", "a\nb"), want: bff.IssuerUnavailable, kept: true},
		{name: "refresh: tokens with status 500", rule: "RFC 6749 5.2, S88", checks: "token-status", refresh: true, fault: bfftest.Fault{Status: 500}, want: bff.IssuerUnavailable, kept: true},
		{name: "refresh: 2 MB", rule: "DESIGN invariant 10", checks: "body-limit", refresh: true, fault: bfftest.Fault{BodySize: 2 << 20}, want: bff.IssuerUnavailable, kept: true},
	}
}

// Each thing that a hostile issuer does is refused for its reason: there is no
// session, nothing that it granted stays alive, the answer says no more than
// the reason, and no secret is in any answer or log line.
func TestHostileIssuer(t *testing.T) {
	rows := hostileRows()
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { row.run(t) })
		})
	}
	if len(rows) < 40 {
		t.Errorf("%d rows, want at least 40", len(rows))
	}
}

func (row *hostile) run(t *testing.T) {
	tape := &tape{}
	cfg := row.config
	cfg.ErrorHandler = tape.refusal
	a := newApp(t, setup{issuer: row.issuer, config: cfg})
	a.handler = tape.record(a.handler)
	b := a.browser()
	endpoint := row.endpoint
	if endpoint == "" {
		endpoint = "token"
	}

	if row.refresh {
		row.runRefresh(t, a, endpoint)
	} else {
		a.iss.Break(endpoint, row.fault)
		b.Navigate("/login" + row.login)
		r := b.Choose("alice")
		if r.Reason() != string(row.want) {
			t.Errorf("%s: %v; want %s", row.rule, r, row.want)
		}
		if want := map[bool]int{false: 1, true: 0}[row.unspent]; a.iss.Count("token") != want {
			t.Errorf("%d token requests, want %d", a.iss.Count("token"), want)
		}
		for _, c := range b.Cookies() {
			if c.Name == "__Host-Http-bff" {
				t.Error("a session cookie was set")
			}
		}
		if r := b.Fetch("GET", "/auth/session", nil, nil); r.Status != http.StatusUnauthorized {
			t.Errorf("GET /auth/session = %v, want 401", r)
		}
		synctest.Wait() // for the revocation
		if n := a.iss.LiveGrants(); n != 0 && !row.live {
			t.Errorf("%d live grants are left behind (D32)", n)
		}
		// The way back: once the issuer behaves, this browser signs in.
		a.iss.Heal()
		if row.issuer.IgnoreStepUp || row.checks == "alg" {
			row.scan(t, a, tape, b)
			return
		}
		if r := b.SignIn("alice"); r.Err != nil {
			t.Errorf("afterwards: %v", r.Err)
		}
	}
	row.scan(t, a, tape, b)
}

func (row *hostile) runRefresh(t *testing.T, a *app, endpoint string) {
	b := a.signIn("alice")
	a.iss.Break(endpoint, row.fault)
	time.Sleep(16 * time.Minute)
	r := b.Fetch("GET", "/api/x", nil, nil)
	if r.Reason() != string(row.want) || a.api.hits() != 0 {
		t.Errorf("%s: %v, and %d requests reached the API; want %s and none", row.rule, r, a.api.hits(), row.want)
	}
	if n := a.iss.Count("token:refresh_token"); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
	synctest.Wait()
	a.iss.Heal()
	r = b.Fetch("GET", "/auth/session", nil, nil)
	switch {
	case row.kept && r.Status != http.StatusOK:
		t.Errorf("GET /auth/session = %v, want 200", r)
	case !row.kept && (r.Status != http.StatusUnauthorized || a.iss.LiveGrants() != 0):
		t.Errorf("GET /auth/session = %v with %d live grants, want 401 and none", r, a.iss.LiveGrants())
	}
}

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
