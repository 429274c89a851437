package bff_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
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
	rule string // section and S-row: see TestHostileRows

	// checks are the mutants, comma-separated, in which this row is red: see
	// TestMutants. Several are needed where nothing tells which of two refused.
	checks string

	issuer  bfftest.Options
	prepare func(*bfftest.Issuer)
	config  bff.Config
	login   string // the query of /login
	refresh bool   // it happens to a refresh instead of a sign-in

	fault    bfftest.Fault
	endpoint string // of fault; token if empty

	want bff.Reason // empty: it is accepted
	says string     // and the log names the cause

	live    bool // what was granted can't be revoked: we have no handle on it
	kept    bool // the failed refresh has not ended the session
	unspent bool // no token request is made
	lasting bool // it is no fault that could heal
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

// claims sets what a claim can't be set to: the members are added as they are
// written.
func claims(members string) bfftest.Fault {
	return idToken(func(t *bfftest.Token) {
		t.EditClaimsJSON = func(b []byte) []byte { return append([]byte("{"+members+","), b[1:]...) }
	})
}

func header(name string, value any) bfftest.Fault {
	return idToken(func(t *bfftest.Token) {
		if value == nil {
			delete(t.Header, name)
		} else {
			t.Header[name] = value
		}
	})
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

// jwk changes each key of the key set.
func jwk(edit func(map[string]any)) bfftest.Fault {
	return keys(func(list []any) []any {
		for _, k := range list {
			edit(k.(map[string]any))
		}
		return list
	})
}

func keys(edit func([]any) []any) bfftest.Fault {
	return bfftest.Fault{EditJSON: func(m map[string]any) { m["keys"] = edit(m["keys"].([]any)) }}
}

func callback(edit func(url.Values)) bfftest.Fault { return bfftest.Fault{EditCallback: edit} }

func body(s string) bfftest.Fault { return bfftest.Fault{Body: s} }

// to redirects to an address below the issuer's own, where all would be well.
func to(status int, path string) bfftest.Fault {
	return bfftest.Fault{Times: 1, BeforeProcessing: true, Status: status, Header: http.Header{"Location": {path}}}
}

// unsigned replaces a token's header by one without a signature.
func unsigned(jwt string) string {
	parts := strings.Split(jwt, ".")
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."
}

// stranger is a key that the issuer never published.
var stranger = sync.OnceValue(func() bfftest.Key { return bfftest.NewKey("RS256") })

// symmetric signs with the issuer's public key, for verifiers that take it for
// an HMAC secret because the header says so.
func symmetric(secret func(*bfftest.Issuer) []byte) func(*bfftest.Issuer) {
	return func(iss *bfftest.Issuer) {
		key := bfftest.HMACKey("HS256", secret(iss))
		iss.Break("token", idToken(func(t *bfftest.Token) { t.SignWith(key) }))
	}
}

func hostileRows() []hostile {
	tampered := idToken(func(t *bfftest.Token) { t.EditJWT = bfftest.TamperSignature })
	none := idToken(func(t *bfftest.Token) { t.EditJWT = unsigned })
	audience := func(others ...any) bfftest.Fault {
		return idToken(func(t *bfftest.Token) { t.Claims["aud"] = append([]any{t.Claims["aud"]}, others...) })
	}
	userinfo := bff.Config{UserInfo: true}
	const secret = "a-client-secret-of-some-length"
	confidential := bfftest.Options{Clients: []bfftest.Client{{ID: "web", Secret: secret}}}
	rows := []hostile{
		// OpenID Connect Core 1.0, sections 2 and 3.1.3.7, at the sign-in.
		{name: "iss of another", rule: "Core 3.1.3.7 (2), S144", checks: "iss", fault: claim("iss", "https://evil.example"), says: "(iss)"},
		{name: "iss missing", rule: "Core 2, S144", checks: "iss", fault: claim("iss", nil), says: "(iss)"},
		{name: "iss with a slash", rule: "Core 3.1.3.7 (2), S144", checks: "iss", fault: idToken(func(t *bfftest.Token) { t.Claims["iss"] = t.Claims["iss"].(string) + "/" }), says: "(iss)"},
		{name: "iss in two cases", rule: "RFC 7519 4, S435", checks: "claim-case", fault: claim("ISS", "https://evil.example"), says: "(claim-case)"},
		{name: "aud of another", rule: "Core 3.1.3.7 (3), S145", checks: "aud,aud-extra", fault: claim("aud", "other")},
		{name: "aud missing", rule: "Core 3.1.3.7 (3), S145", checks: "aud", fault: claim("aud", nil), says: "(aud)"},
		{name: "aud null", rule: "Core 3.1.3.7 (3), S145, X143", checks: "aud", fault: claim("aud", []any(nil)), says: "(aud)"},
		{name: "aud the empty string", rule: "Core 3.1.3.7 (3), S145, X143", checks: "aud", fault: claim("aud", ""), says: "(aud)"},
		{name: "aud empty", rule: "Core 3.1.3.7 (3), S145", checks: "aud", fault: claim("aud", []string{}), says: "(aud)"},
		{name: "aud others", rule: "Core 3.1.3.7 (3), S145, X143", checks: "aud", fault: claim("aud", []string{"other", "another"}), says: "(aud)"},
		{name: "aud with a stranger", rule: "Core 3.1.3.7 (3), S146", checks: "aud-extra", fault: audience("evil"), says: "(aud-extra)"},
		{name: "aud as an array", rule: "Core 2, S146, X143", fault: audience()},
		{name: "aud with a friend", rule: "Core 3.1.3.7 (3), S146", config: bff.Config{TrustedAudiences: []string{"friend"}}, fault: audience("friend")},
		{name: "azp of another", rule: "Core 3.1.3.7 (5), S177", checks: "azp", fault: claim("azp", "other"), says: "(azp)"},
		{name: "azp ours", rule: "Core 3.1.3.7 (5), S177", fault: idToken(func(t *bfftest.Token) { t.Claims["azp"] = t.Claims["aud"] })},
		{name: "signature tampered", rule: "Core 3.1.3.7 (6), S147", checks: "signature", fault: tampered, says: "(signature)"},
		{name: "signed by a stranger under a known kid", rule: "Core 3.1.3.7 (6), S147", checks: "signature", fault: idToken(func(t *bfftest.Token) {
			kid := t.Header["kid"]
			t.SignWith(stranger())
			t.Header["kid"] = kid
		}), says: "(signature)"},
		{name: "signed by the key in its header", rule: "RFC 8725 3.10, S311", checks: "signature", fault: idToken(func(t *bfftest.Token) {
			kid := t.Header["kid"]
			t.SignWith(stranger())
			t.Header["kid"], t.Header["jwk"] = kid, stranger().JWK()
		}), says: "(signature)"},
		{name: "signed under an unknown kid", rule: "Core 10.1, S159", checks: "kid", fault: header("kid", "other"), says: "(kid)"},
		{name: "alg none", rule: "Core 2, 3.1.3.7 (7), S148", checks: "signature", fault: none, says: "(alg)"},
		{name: "alg HS256 with the public key", rule: "Core 3.1.3.7 (7), S148, X141", checks: "alg,alg-symmetric,signature",
			prepare: symmetric(func(iss *bfftest.Issuer) []byte { return iss.Key().PublicPEM() }), says: "(alg)"},
		{name: "alg HS256 with the client secret", rule: "Core 3.1.3.7 (7), S148, X141", checks: "alg,alg-symmetric,signature",
			issuer: confidential, config: bff.Config{ClientSecret: secret},
			prepare: symmetric(func(*bfftest.Issuer) []byte { return []byte(secret) }), says: "(alg)"},
		{name: "alg not the registered one", rule: "Core 3.1.3.7 (7), S148, S272", checks: "alg", config: bff.Config{SigningAlgs: []string{"ES256"}}, says: "(alg)", lasting: true},
		{name: "a header extension", rule: "RFC 7515 4.1.11, S311, X123", checks: "crit", fault: header("crit", []string{"exp"}), says: "(crit)"},
		{name: "exp past", rule: "Core 3.1.3.7 (9), S149", checks: "exp", fault: claimAt("exp", -31*time.Second), says: "(exp)"},
		{name: "exp past, within the skew", rule: "Core 3.1.3.7 (9), S149, S454", fault: claimAt("exp", -25*time.Second)},
		{name: "exp missing", rule: "Core 2, S149", checks: "exp", fault: claim("exp", nil), says: "(exp)"},
		{name: "exp in text", rule: "RFC 7519 2, S493", checks: "numeric-date", fault: claim("exp", "99999999999"), says: "(numeric-date)"},
		{name: "exp beyond time", rule: "RFC 7519 2, S493", checks: "numeric-date", fault: claim("exp", 1e300), says: "(numeric-date)"},
		{name: "iat missing", rule: "Core 2, S150", checks: "iat", fault: claim("iat", nil), says: "(iat)"},
		{name: "iat in an hour", rule: "Core 3.1.3.7 (10), S175, X147", checks: "iat-future", fault: claimAt("iat", time.Hour), says: "(iat-future)"},
		{name: "iat in a year", rule: "Core 3.1.3.7 (10), S175", checks: "iat-future", fault: claimAt("iat", 365*24*time.Hour), says: "(iat-future)"},
		{name: "iat yesterday", rule: "Core 3.1.3.7 (10), S175", checks: "iat-age", fault: claimAt("iat", -24*time.Hour), says: "(iat-age)"},
		{name: "iat beyond time", rule: "RFC 7519 2, S493, X147", checks: "numeric-date", fault: claim("iat", 1e300), says: "(numeric-date)"},
		{name: "iat a bit behind", rule: "Core 3.1.3.7 (10), S175, X147", fault: claimAt("iat", -30*time.Second)},
		{name: "iat a bit ahead", rule: "Core 3.1.3.7 (10), S175, X147", fault: claimAt("iat", 30*time.Second)},
		{name: "nbf ahead", rule: "RFC 7519 4.1.5, S312", checks: "nbf", fault: claimAt("nbf", time.Hour), says: "(nbf)"},
		{name: "nbf in ten minutes", rule: "RFC 7519 4.1.5, S312, X149", checks: "nbf", fault: claimAt("nbf", 10*time.Minute), says: "(nbf)"},
		{name: "sub missing", rule: "Core 2, S151", checks: "sub", fault: claim("sub", nil), says: "(sub)"},
		{name: "sub empty", rule: "Core 2, S151", checks: "sub", fault: claim("sub", ""), says: "(sub)"},
		{name: "sub of 256 characters", rule: "Core 2, S151", checks: "sub", fault: claim("sub", strings.Repeat("a", 256)), says: "(sub)"},
		{name: "sub of 255 characters", rule: "Core 2, S151", fault: claim("sub", strings.Repeat("a", 255))},
		{name: "sub not ASCII", rule: "Core 2, S151", checks: "sub", fault: claim("sub", "ålice"), says: "(sub)"},
		{name: "sub with a NUL", rule: "Core 2, S151, X145", checks: "sub", fault: claim("sub", "a\x00b"), says: "(sub)"},
		{name: "sub twice", rule: "RFC 8725 2.4; RFC 7519 4, S435", checks: "duplicate-member", fault: claims(`"sub":"mallory"`), says: "(duplicate-member)"},
		{name: "sub in two cases", rule: "RFC 7519 4, S435", checks: "claim-case", fault: claim("SUB", "mallory"), says: "(claim-case)"},
		{name: "sid a number", rule: "Back-Channel Logout 2.1, S493", checks: "claim-type", fault: claim("sid", 7), says: "(claim-type)"},
		{name: "nonce of another attempt", rule: "Core 3.1.3.7 (11), S39, S152", checks: "nonce", fault: claim("nonce", strings.Repeat("A", 43)), says: "(nonce)"},
		{name: "nonce missing", rule: "Core 3.1.3.7 (11), S152", checks: "nonce", fault: claim("nonce", nil), says: "(nonce)"},
		{name: "acr not the one asked for", rule: "Core 3.1.3.7 (12), S178", checks: "acr", login: "?acr_values=gold", issuer: bfftest.Options{IgnoreStepUp: true}, want: bff.StepUp, says: "(acr)", lasting: true},
		{name: "acr another", rule: "Core 3.1.3.7 (12), S178, X151", checks: "acr", login: "?acr_values=gold", fault: claim("acr", "bronze"), want: bff.StepUp, says: "(acr)"},
		{name: "auth_time missing after max_age", rule: "Core 3.1.3.7 (13), S179", checks: "max-age", login: "?max_age=60", issuer: bfftest.Options{IgnoreStepUp: true}, want: bff.StepUp, says: "(max-age)", lasting: true},
		{name: "auth_time too old", rule: "Core 3.1.3.7 (13), S179", checks: "max-age", login: "?max_age=60", fault: claimAt("auth_time", -2*time.Minute), want: bff.StepUp, says: "(max-age)"},
		{name: "auth_time negative", rule: "RFC 7519 2, S493", checks: "numeric-date", fault: claim("auth_time", -5), says: "(numeric-date)"},
		{name: "auth_time zero", rule: "Core 2, issuers, S179", fault: claim("auth_time", 0)},
		{name: "at_hash of another token", rule: "Core 3.1.3.8, S180", checks: "at-hash", fault: claim("at_hash", strings.Repeat("A", 22)), says: "(at-hash)"},
		{name: "a logout token", rule: "RFC 8725 3.11, S222", checks: "typ", fault: header("typ", "logout+jwt"), says: "(typ)"},
		{name: "an access token", rule: "RFC 9068 4, RFC 8725 3.11, S434", checks: "typ", fault: header("typ", "at+jwt"), says: "(typ)"},
		{name: "a logout token without a type", rule: "Back-Channel Logout 2.4, S222", checks: "events", fault: claim("events", map[string]any{}), says: "(events)"},
		{name: "claims not UTF-8", rule: "RFC 7519 7.2 (10), S502, X155", checks: "utf8", fault: claims("\"name\":\"a\xff\""), says: "(utf8)"},
		{name: "claims nested without end", rule: "RFC 8259 9, S502, X155", fault: claims(`"a":` + strings.Repeat("[", 11000) + strings.Repeat("]", 11000)), says: "(claims)"},
		{name: "claims that nobody knows", rule: "Core 2, S153", fault: idToken(func(t *bfftest.Token) {
			t.Claims["x"], t.Claims["_claim_names"] = []any{map[string]any{"sub": "mallory"}}, map[string]any{"a": "s"}
			t.Claims["_claim_sources"] = map[string]any{"s": map[string]any{"endpoint": "https://evil.example"}}
		})},
		{name: "an ID token of 60 KB", rule: "DESIGN invariant 10, S502", fault: claim("x", strings.Repeat("x", 40<<10))},
		{name: "an ID token of 100 KB", rule: "DESIGN invariant 10, S502, X155", checks: "id-token-size", fault: claim("x", strings.Repeat("x", 70<<10)), says: "(id-token-size)"},
		{name: "an encrypted ID token", rule: "Core 3.1.3.7 (1), S143", checks: "id-token-parts", fault: idToken(func(t *bfftest.Token) {
			t.EditJWT = func(jwt string) string { return jwt + ".x.y" }
		}), says: "(id-token-parts)"},
		{name: "tenant of another", rule: "Core 5.1.2, agglestone, S334", checks: "tenant", fault: claim("tenantId", "11111111-2222-3333-4444-555555555555"), says: "(tenant)"},
		{name: "tenant missing", rule: "Core 5.1.2, agglestone, S334", fault: claim("tenantId", nil)},

		// The token response: RFC 6749, section 5, and Core 3.1.3.3.
		{name: "id_token missing", rule: "Core 3.1.3.3, S142", checks: "id-token-present", fault: member("id_token", nil), says: "(id-token-present)"},
		{name: "id_token empty", rule: "Core 3.1.3.3, S142", checks: "id-token-present", fault: member("id_token", ""), says: "(id-token-present)"},
		{name: "id_token a number", rule: "Core 3.1.3.3, S142", checks: "token-member-type", fault: member("id_token", 7), says: "(token-member-type)"},
		{name: "id_token an object", rule: "Core 3.1.3.3, S142, X161", checks: "token-member-type", fault: member("id_token", map[string]any{"sub": "mallory"}), says: "(token-member-type)"},
		{name: "token_type mac", rule: "RFC 6749 7.1, S77", checks: "token-type", fault: member("token_type", "mac"), says: "(token-type)"},
		{name: "token_type N_A", rule: "RFC 6749 7.1, S77, X159", checks: "token-type", fault: member("token_type", "N_A"), says: "(token-type)"},
		{name: "token_type DPoP", rule: "RFC 9449 5, S77, X159", checks: "token-type", fault: member("token_type", "DPoP"), says: "(token-type)"},
		{name: "token_type missing", rule: "RFC 6749 5.1, S77", checks: "token-type", fault: member("token_type", nil), says: "(token-type)"},
		{name: "token_type in any case", rule: "RFC 6749 5.1, S76, X159", fault: member("token_type", "bEaReR")},
		{name: "access_token missing", rule: "RFC 6749 5.1, S141", checks: "access-token", fault: member("access_token", nil), says: "(access-token)"},
		{name: "access_token empty", rule: "RFC 6749 5.1, S141, X161", checks: "access-token", fault: member("access_token", ""), says: "(access-token)"},
		{name: "access_token with a line feed", rule: "RFC 6749 A.12, S141, S447", checks: "access-token", fault: member("access_token", "a\r\nX: y"), says: "(access-token)"},
		{name: "access_token of 100 KB", rule: "DESIGN invariant 10, S385, X161", checks: "access-token", fault: member("access_token", strings.Repeat("a", 100<<10)), says: "(access-token)"},
		{name: "refresh_token with a line feed", rule: "RFC 6749 A.17, S141", checks: "refresh-token", fault: member("refresh_token", "a\nb"), says: "(refresh-token)", live: true},
		{name: "scope of 20 KB", rule: "DESIGN invariant 10, S82", checks: "scope-size", fault: member("scope", strings.Repeat("openid ", 3<<10)), says: "(scope-size)"},
		{name: "tokens with status 400", rule: "RFC 6749 5.2, S141", checks: "token-status", fault: bfftest.Fault{Status: 400}, says: "refused 400", live: true},
		{name: "tokens beside an error", rule: "RFC 6749 5.2, S141", checks: "token-error", fault: member("error", "access_denied"), says: `"access_denied"`, live: true},
		{name: "members that nobody knows", rule: "RFC 6749 5.1, S76", fault: member("x", map[string]any{"access_token": "x"})},
		{name: "2 MB", rule: "DESIGN invariant 10, S439", checks: "body-limit", fault: bfftest.Fault{BodySize: 2 << 20}, says: "1 MiB", live: true},

		// What becomes of the sign-in when the token endpoint fails.
		{name: "token endpoint refuses", rule: "RFC 6749 5.2, S67, X163", fault: bfftest.Fault{BeforeProcessing: true, Error: "invalid_grant"}, says: `refused 400 "invalid_grant"`},
		{name: "token endpoint can't be authenticated to", rule: "RFC 6749 5.2, S67", fault: bfftest.Fault{BeforeProcessing: true, Status: 401, Error: "invalid_client"}, says: `refused 401 "invalid_client"`},
		{name: "token endpoint fails", rule: "RFC 6749 5.2, S88", fault: bfftest.Fault{BeforeProcessing: true, Status: 500}, want: bff.IssuerUnavailable, says: "refused 500"},
		{name: "token endpoint busy", rule: "RFC 6749 5.2, S88", fault: bfftest.Fault{BeforeProcessing: true}, want: bff.IssuerUnavailable, says: "refused 503"},
		{name: "token endpoint talks garbage", rule: "RFC 6749 5.1, S141, S448", fault: bfftest.Fault{BeforeProcessing: true, Status: 200, Body: "<html>sentinel</html>"}, says: "malformed answer"},
		{name: "token endpoint sends an array", rule: "RFC 6749 5.1, S141", fault: body(`[{"access_token":"sentinel"}]`), says: "malformed answer", live: true},
		{name: "token endpoint sends a form", rule: "RFC 6749 5.1, S141", fault: body("access_token=sentinel&token_type=Bearer"), says: "malformed answer", live: true},
		{name: "token endpoint sends nothing", rule: "RFC 6749 5.1, S141", fault: bfftest.Fault{EditBody: func([]byte) []byte { return nil }}, says: "malformed answer", live: true},
		{name: "token endpoint sends 50 MB", rule: "DESIGN invariant 10, S439", fault: bfftest.Fault{BodySize: 50 << 20}, says: "1 MiB", live: true},
		{name: "token endpoint never answers", rule: "DESIGN invariant 10, S194, S443", fault: bfftest.Fault{Hang: true}, want: bff.IssuerUnavailable, says: "answer lost", live: true},
		{name: "token endpoint answers by the second", rule: "DESIGN invariant 10, S194, S443", fault: bfftest.Fault{Drip: time.Second}, want: bff.IssuerUnavailable, says: "answer lost", live: true},
		{name: "token endpoint hangs up", rule: "RFC 9112 8, S194", fault: bfftest.Fault{CloseBeforeAnswer: true}, want: bff.IssuerUnavailable, says: "answer lost", live: true},
		{name: "token endpoint hangs up half-way", rule: "RFC 9112 8, S194", fault: bfftest.Fault{CloseAfter: 100}, want: bff.IssuerUnavailable, says: "answer lost", live: true},
		{name: "token endpoint redirects", rule: "RFC 9700 4.12, S72, S442", checks: "redirect", fault: to(307, "token"), says: "redirects are not followed"},
		{name: "token endpoint redirects away", rule: "RFC 9700 4.12, S72, S442", fault: to(307, "https://evil.example/token"), says: "redirects are not followed"},

		// Userinfo: Core 5.3.
		{name: "userinfo of another", rule: "Core 5.3.2, S155", checks: "userinfo-sub", config: userinfo, endpoint: "userinfo", fault: member("sub", "mallory"), says: "(userinfo-sub)"},
		{name: "userinfo without sub", rule: "Core 5.3.2, S155", checks: "userinfo-sub", config: userinfo, endpoint: "userinfo", fault: member("sub", nil), says: "(userinfo-sub)"},
		{name: "userinfo with sub in another case", rule: "Core 5.3.2, S155, X157", checks: "userinfo-sub", config: userinfo, endpoint: "userinfo", fault: bfftest.Fault{EditJSON: func(m map[string]any) {
			m["sub"] = strings.ToUpper(m["sub"].(string))
		}}, says: "(userinfo-sub)"},
		{name: "userinfo of another tenant", rule: "Core 5.1.2, agglestone, S334", checks: "userinfo-tenant", config: userinfo, endpoint: "userinfo", fault: member("tenantId", "11111111-2222-3333-4444-555555555555"), says: "(userinfo-tenant)"},
		{name: "userinfo with a number for a tenant", rule: "Core 5.1.2, agglestone, S334, S493", checks: "userinfo-tenant", config: userinfo, endpoint: "userinfo", fault: member("tenantId", 7), says: "(userinfo-tenant)"},
		{name: "userinfo without a tenant", rule: "Core 5.3.2, agglestone, S181", config: userinfo, endpoint: "userinfo", fault: member("tenantId", nil)},
		{name: "userinfo in an array", rule: "Core 5.3.2, S493, X157", checks: "userinfo-object", config: userinfo, endpoint: "userinfo", fault: bfftest.Fault{EditBody: func(b []byte) []byte {
			return []byte("[" + string(b) + "]")
		}}, says: "not a JSON object"},
		{name: "userinfo signed", rule: "Core 5.3.2, S157", checks: "userinfo-type", config: userinfo, endpoint: "userinfo", fault: bfftest.Fault{Header: http.Header{"Content-Type": {"application/jwt"}}}, says: "(userinfo-type)"},
		{name: "userinfo in HTML", rule: "Core 5.3.2, S157, X157", checks: "userinfo-type", config: userinfo, endpoint: "userinfo", fault: bfftest.Fault{Header: http.Header{"Content-Type": {"text/html"}}}, says: "(userinfo-type)"},
		{name: "userinfo with status 500", rule: "Core 5.3.3, S379", checks: "userinfo-status", config: userinfo, endpoint: "userinfo", fault: bfftest.Fault{Status: 500}, want: bff.IssuerUnavailable, says: "refused 500"},
		{name: "userinfo with status 401", rule: "Core 5.3.3, S379", checks: "userinfo-status", config: userinfo, endpoint: "userinfo", fault: bfftest.Fault{Status: 401}, says: "refused 401"},
		{name: "userinfo redirects", rule: "RFC 9700 4.9.1, S46, X157", checks: "redirect", config: userinfo, endpoint: "userinfo", fault: to(302, "userinfo?x"), says: "redirects are not followed"},
		{name: "userinfo redirects away", rule: "RFC 9700 4.9.1, S46, S496, X157", config: userinfo, endpoint: "userinfo", fault: to(302, "https://evil.example/"), says: "redirects are not followed"},
		{name: "userinfo of 100 MB", rule: "DESIGN invariant 10, S439, X157", config: userinfo, endpoint: "userinfo", fault: bfftest.Fault{BodySize: 100 << 20}, says: "1 MiB"},
		{name: "userinfo of 2 MB", rule: "DESIGN invariant 10, S439, X157", checks: "body-limit", config: userinfo, endpoint: "userinfo", fault: bfftest.Fault{BodySize: 2 << 20}, says: "1 MiB"},
		{name: "userinfo with 200 KB of claims", rule: "DESIGN invariant 10, S514", checks: "claims-size", config: userinfo, endpoint: "userinfo", fault: member("x", strings.Repeat("x", 200<<10)), says: "too many claims"},
		{name: "userinfo only with sub", rule: "Core 5.3.2, S181", config: userinfo, endpoint: "userinfo", fault: bfftest.Fault{EditJSON: func(m map[string]any) {
			for name := range m {
				if name != "sub" {
					delete(m, name)
				}
			}
		}}},

		// The key set: Core 10.1, RFC 7517.
		{name: "kid missing, one key", rule: "Core 10.1, S159, X153", fault: header("kid", nil)},
		{name: "kid missing, three keys", rule: "Core 10.1, S159, X153", prepare: func(iss *bfftest.Issuer) {
			iss.Break("jwks", keys(func(list []any) []any {
				return append([]any{bfftest.NewKey("ES256").JWK(), stranger().JWK()}, list...)
			}))
		}, fault: header("kid", nil)},
		{name: "key for encryption", rule: "RFC 7517 4.2, S159, X153", checks: "key-use", endpoint: "jwks", fault: jwk(func(k map[string]any) { k["use"] = "enc" }), want: bff.IssuerUnavailable, says: "no key that can verify"},
		{name: "key not for verifying", rule: "RFC 7517 4.3, S159", checks: "key-ops", endpoint: "jwks", fault: jwk(func(k map[string]any) { k["key_ops"] = []string{"encrypt"} }), want: bff.IssuerUnavailable, says: "no key that can verify"},
		{name: "key for another algorithm", rule: "RFC 7517 4.4, S159", checks: "key-alg", endpoint: "jwks", fault: jwk(func(k map[string]any) { k["alg"] = "PS256" }), says: "(kid)"},
		{name: "key of 1024 bits", rule: "RFC 7518 3.3, S366, X153", checks: "key-size", prepare: func(iss *bfftest.Issuer) { iss.UseKey(bfftest.NewRSAKey("RS256", 1024)) }, says: "(kid)", lasting: true},
		{name: "51 keys", rule: "DESIGN invariant 10, S455, X153", checks: "key-count", endpoint: "jwks", fault: keys(func(list []any) []any {
			for len(list) < 51 {
				list = append(list, list[0])
			}
			return list
		}), want: bff.IssuerUnavailable, says: "more than 50 keys"},
		{name: "keys with status 500", rule: "Core 10.1.1, S182, X169", checks: "keys-status", endpoint: "jwks", fault: bfftest.Fault{Status: 500}, want: bff.IssuerUnavailable, says: "keys: unreachable 500"},
		{name: "no keys", rule: "RFC 7517 5.1, S182, X169", endpoint: "jwks", fault: keys(func([]any) []any { return []any{} }), want: bff.IssuerUnavailable, says: "no key that can verify"},
		{name: "an array of keys", rule: "RFC 7517 5, S190", endpoint: "jwks", fault: body("[]"), want: bff.IssuerUnavailable, says: "not a JSON object"},
		{name: "keys twice", rule: "RFC 7517 5, S435", checks: "duplicate-member", endpoint: "jwks", fault: bfftest.Fault{EditBody: func(b []byte) []byte {
			return append([]byte(`{"keys":[],`), b[1:]...)
		}}, want: bff.IssuerUnavailable, says: "a member appears twice"},
		{name: "100 MB of keys", rule: "DESIGN invariant 10, S439, X169", endpoint: "jwks", fault: bfftest.Fault{BodySize: 100 << 20}, want: bff.IssuerUnavailable, says: "1 MiB"},
		{name: "2 MB of keys", rule: "DESIGN invariant 10, S439, X169", checks: "body-limit", endpoint: "jwks", fault: bfftest.Fault{BodySize: 2 << 20}, want: bff.IssuerUnavailable, says: "1 MiB"},
		{name: "keys elsewhere", rule: "Discovery 7.1, S189, S442", checks: "redirect", endpoint: "jwks", fault: to(302, "?x"), want: bff.IssuerUnavailable, says: "redirects are not followed"},
		{name: "good keys among bad", rule: "RFC 7517 5, S182, X169", endpoint: "jwks", fault: keys(func(list []any) []any {
			return append([]any{7, nil, map[string]any{"kty": "new"}, map[string]any{"kty": "RSA"}, bfftest.HMACKey("HS256", []byte("x")).JWK()}, list...)
		})},

		// The metadata: OpenID Connect Discovery 1.0, RFC 8414.
		{name: "metadata of another", rule: "Discovery 4.3, RFC 8414 3.3, S186, X167", checks: "discovery-issuer", endpoint: "discovery",
			fault: member("issuer", "https://evil.example"), says: `"https://evil.example", not "https://auth.bfftest.example/`},
		{name: "metadata with a slash", rule: "Discovery 4.3, S186, X167", checks: "discovery-issuer", endpoint: "discovery", fault: bfftest.Fault{EditJSON: func(m map[string]any) {
			m["issuer"] = m["issuer"].(string) + "/"
		}}, says: `/Auth/", not "https://auth.bfftest.example/`},
		{name: "metadata without an issuer", rule: "Discovery 4.3, S186", checks: "discovery-issuer", endpoint: "discovery", fault: member("issuer", nil), says: `"", not "https://auth.bfftest.example/`},
		{name: "token endpoint over http", rule: "RFC 6749 3.2, S191, X167", checks: "endpoint", endpoint: "discovery", fault: member("token_endpoint", "http://auth.bfftest.example/token"), says: "token_endpoint: not https"},
		{name: "authorization endpoint over http", rule: "RFC 6749 3.1, S191, X167", checks: "endpoint-https", endpoint: "discovery", fault: member("authorization_endpoint", "http://auth.bfftest.example/authorize"), says: "authorization_endpoint: not https"},
		{name: "authorization endpoint a script", rule: "Discovery 3, S191, X167", checks: "endpoint-https", endpoint: "discovery", fault: member("authorization_endpoint", "javascript://x/%0aalert(1)"), says: "authorization_endpoint: not https"},
		{name: "keys from a file", rule: "Discovery 3, S191, X167", checks: "endpoint-host", endpoint: "discovery", fault: member("jwks_uri", "file:///etc/passwd"), says: "jwks_uri: not an absolute URL with a host"},
		{name: "token endpoint without a host", rule: "Discovery 3, S191, X167", checks: "endpoint-host", endpoint: "discovery", fault: member("token_endpoint", "/token"), says: "token_endpoint: not an absolute URL with a host"},
		{name: "token endpoint with a fragment", rule: "RFC 6749 3.2, S70, X167", checks: "endpoint-fragment", endpoint: "discovery", fault: member("token_endpoint", "https://auth.bfftest.example/token#x"), says: "token_endpoint: has a fragment"},
		{name: "token endpoint with a user", rule: "RFC 9110 4.2.4, S482", checks: "endpoint-userinfo", endpoint: "discovery", fault: member("token_endpoint", "https://auth.bfftest.example@evil.example/token"), says: "token_endpoint: has a user name"},
		{name: "token endpoint missing", rule: "Discovery 3, S191", endpoint: "discovery", fault: member("token_endpoint", nil), says: "token_endpoint"},
		{name: "authorization endpoint with a query", rule: "RFC 6749 3.1, S70, X167", endpoint: "discovery", fault: bfftest.Fault{EditJSON: func(m map[string]any) {
			m["authorization_endpoint"] = m["authorization_endpoint"].(string) + "?tenant=a"
		}}},
		{name: "authorization endpoint with a broken query", rule: "RFC 6749 3.1, S70", checks: "authorize-query", endpoint: "discovery", fault: bfftest.Fault{EditJSON: func(m map[string]any) {
			m["authorization_endpoint"] = m["authorization_endpoint"].(string) + "?a=1;b=2"
		}}, says: "malformed query", lasting: true},
		{name: "userinfo endpoint over http", rule: "Core 5.3, S118, S191", checks: "endpoint", config: userinfo, endpoint: "discovery", fault: member("userinfo_endpoint", "http://auth.bfftest.example/userinfo"), says: "no userinfo_endpoint", lasting: true},
		{name: "metadata with status 500", rule: "Discovery 4.2, S190", endpoint: "discovery", fault: bfftest.Fault{Status: 500}, says: "discovery: unreachable 500"},
		{name: "metadata in an array", rule: "Discovery 4.2, S190, X167", endpoint: "discovery", fault: body("[]"), says: "not a JSON object"},
		{name: "metadata in HTML", rule: "Discovery 4.2, S190", endpoint: "discovery", fault: body("<html>sentinel</html>"), says: "not a JSON object"},
		{name: "metadata of 50 MB", rule: "DESIGN invariant 10, S439, X167", endpoint: "discovery", fault: bfftest.Fault{BodySize: 50 << 20}, says: "1 MiB"},
		{name: "metadata of 2 MB", rule: "DESIGN invariant 10, S439, X167", checks: "body-limit", endpoint: "discovery", fault: bfftest.Fault{BodySize: 2 << 20}, says: "1 MiB"},
		{name: "metadata elsewhere", rule: "Discovery 7.1, S189, X167", checks: "redirect", endpoint: "discovery", fault: to(302, "?x"), says: "redirects are not followed"},
		{name: "metadata at another host", rule: "Discovery 7.1, S189, X167", endpoint: "discovery", fault: to(302, "https://evil.example/"), says: "redirects are not followed"},

		// The authorization response: RFC 6749, section 4.1.2, RFC 9207, RFC
		// 9700.
		{name: "iss parameter of another", rule: "RFC 9207 2.4, S96, S97, S102", checks: "iss-parameter", endpoint: "callback", fault: callback(func(v url.Values) { v.Set("iss", "https://evil.example") }), says: "iss parameter"},
		{name: "iss parameter with a slash", rule: "RFC 9207 2.4, S96", checks: "iss-parameter", issuer: bfftest.Options{IssParameter: true}, endpoint: "callback", fault: callback(func(v url.Values) { v.Set("iss", v.Get("iss")+"/") }), says: "iss parameter"},
		{name: "iss parameter in capitals", rule: "RFC 9207 2.4, S96", checks: "iss-parameter", issuer: bfftest.Options{IssParameter: true}, endpoint: "callback", fault: callback(func(v url.Values) { v.Set("iss", strings.ToUpper(v.Get("iss"))) }), says: "iss parameter"},
		{name: "iss parameter of another with an error", rule: "RFC 9207 2.4, S98", checks: "iss-parameter", endpoint: "callback", fault: callback(func(v url.Values) {
			v.Del("code")
			v.Set("error", "access_denied")
			v.Set("iss", "https://evil.example")
		}), says: "iss parameter"},
		{name: "iss parameter missing though promised", rule: "RFC 9207 2.4, S99, X69", checks: "iss-parameter-missing", issuer: bfftest.Options{IssParameter: true}, endpoint: "callback", fault: callback(func(v url.Values) { v.Del("iss") }), says: "iss parameter is missing"},
		{name: "iss parameter twice", rule: "RFC 9207 4, S100", checks: "duplicate-parameter", issuer: bfftest.Options{IssParameter: true}, endpoint: "callback", fault: callback(func(v url.Values) { v.Add("iss", "https://evil.example") }), says: "iss is repeated"},
		{name: "iss parameter right though not promised", rule: "RFC 9207 2.4, S102", prepare: func(iss *bfftest.Issuer) {
			iss.Break("callback", callback(func(v url.Values) { v.Set("iss", iss.URL()) }))
		}},
		{name: "code twice", rule: "RFC 6749 3.1, S69", checks: "duplicate-parameter", endpoint: "callback", fault: callback(func(v url.Values) { v.Add("code", "other") }), says: "code is repeated"},
		{name: "code missing", rule: "RFC 6749 4.1.2, S69, X67", checks: "code", endpoint: "callback", fault: callback(func(v url.Values) { v.Del("code") }), says: "no code"},
		{name: "code empty", rule: "RFC 6749 3.1, S69, X67", checks: "code", endpoint: "callback", fault: callback(func(v url.Values) { v.Set("code", "") }), says: "no code"},
		{name: "code beside an error", rule: "RFC 6749 4.1.2.1, S74, X73", checks: "error-response", endpoint: "callback", fault: callback(func(v url.Values) { v.Set("error", "access_denied") }), want: bff.LoginDenied, says: "access_denied"},
		{name: "access denied", rule: "RFC 6749 4.1.2.1, S174", checks: "error-response", endpoint: "callback", fault: callback(func(v url.Values) {
			v.Del("code")
			v.Set("error", "access_denied")
			v.Set("error_description", "sentinel <img src=x onerror=alert(1)>")
		}), want: bff.LoginDenied, says: "access_denied"},
		{name: "error a script", rule: "RFC 6749 10.14, S82, S488, X71", checks: "error-response", endpoint: "callback", fault: callback(func(v url.Values) { v.Set("error", "<script>alert(1)</script>") }), want: bff.IssuerError, says: "issuer answered error", unspent: true},
		{name: "state changed", rule: "RFC 9700 4.7.1, S33, S40", checks: "state-form", endpoint: "callback", fault: callback(func(v url.Values) { v.Set("state", v.Get("state")+"x") }), says: "state is not one of ours"},
		{name: "state missing", rule: "RFC 9700 4.7.1, S33, X67", checks: "state-form", endpoint: "callback", fault: callback(func(v url.Values) { v.Del("state") }), says: "state is not one of ours"},
		{name: "state of a megabyte", rule: "RFC 6749 10.14, S82", checks: "state-form", endpoint: "callback", fault: callback(func(v url.Values) { v.Set("state", strings.Repeat("a", 1<<20)) }), says: "state is not one of ours"},
		{name: "state of another attempt", rule: "RFC 9700 4.7.1, S33, S40", endpoint: "callback", fault: callback(func(v url.Values) {
			s := []byte(v.Get("state"))
			s[len(s)-1] ^= 1
			v.Set("state", string(s))
		}), says: "no cookie for this state"},
		{name: "state twice", rule: "RFC 6749 3.1, S69", checks: "duplicate-parameter", endpoint: "callback", fault: callback(func(v url.Values) { v.Add("state", "x") }), says: "state is repeated"},
		{name: "parameters that nobody knows", rule: "RFC 6749 4.1.2, S73", endpoint: "callback", fault: callback(func(v url.Values) { v.Set("session_state", "x"); v.Set("foo", "bar") })},

		// A refresh: Core 12.2, RFC 6749, section 6.
		{name: "refresh: iss of another", rule: "Core 12.2, S164", checks: "iss", refresh: true, fault: claim("iss", "https://evil.example"), says: "(iss)"},
		{name: "refresh: sub of another", rule: "Core 12.2, S165", checks: "refresh-sub", refresh: true, fault: claim("sub", "mallory"), says: "(refresh-sub)"},
		{name: "refresh: sub in another case", rule: "Core 12.2, S165", checks: "refresh-sub", refresh: true, fault: idToken(func(t *bfftest.Token) { t.Claims["sub"] = strings.ToUpper(t.Claims["sub"].(string)) }), says: "(refresh-sub)"},
		{name: "refresh: iat before the sign-in", rule: "Core 12.2, S166", checks: "refresh-iat", refresh: true, fault: claimAt("iat", -time.Hour), says: "(refresh-iat)"},
		{name: "refresh: iat missing", rule: "Core 12.2, S166", checks: "iat", refresh: true, fault: claim("iat", nil), says: "(iat)"},
		{name: "refresh: iat ahead", rule: "Core 12.2, S166, S175", checks: "iat-future", refresh: true, fault: claimAt("iat", time.Hour), says: "(iat-future)"},
		{name: "refresh: aud grown", rule: "Core 12.2, S167", checks: "refresh-aud", refresh: true, config: bff.Config{TrustedAudiences: []string{"friend"}}, fault: audience("friend"), says: "(refresh-aud)"},
		{name: "refresh: aud with a stranger", rule: "Core 12.2, S167", checks: "aud-extra", refresh: true, fault: audience("evil"), says: "(aud-extra)"},
		{name: "refresh: aud missing", rule: "Core 12.2, S167", checks: "aud", refresh: true, fault: claim("aud", nil), says: "(aud)"},
		{name: "refresh: auth_time moved", rule: "Core 12.2, S168", checks: "refresh-auth-time", refresh: true, fault: claimAt("auth_time", -time.Minute), says: "(refresh-auth-time)"},
		{name: "refresh: nonce of another", rule: "Core 12.2, S183", checks: "refresh-nonce", refresh: true, fault: claim("nonce", "other"), says: "(refresh-nonce)"},
		{name: "refresh: nonce missing", rule: "Core 12.2, S183", refresh: true, fault: claim("nonce", nil)},
		{name: "refresh: azp of another", rule: "Core 12.2, S184", checks: "azp", refresh: true, fault: claim("azp", "other"), says: "(azp)"},
		{name: "refresh: signature tampered", rule: "Core 12.2, S169", checks: "signature", refresh: true, fault: tampered, says: "(signature)"},
		{name: "refresh: alg none", rule: "Core 12.2, S169", checks: "signature", refresh: true, fault: none, says: "(alg)"},
		{name: "refresh: exp past", rule: "Core 12.2, S169", checks: "exp", refresh: true, fault: claimAt("exp", -31*time.Second), says: "(exp)"},
		{name: "refresh: a logout token", rule: "Core 12.2, S169", checks: "typ", refresh: true, fault: header("typ", "logout+jwt"), says: "(typ)"},
		{name: "refresh: sub twice", rule: "Core 12.2, S169", checks: "duplicate-member", refresh: true, fault: claims(`"sub":"mallory"`), says: "(duplicate-member)"},
		{name: "refresh: at_hash of another token", rule: "Core 12.2, S169, S180", checks: "at-hash", refresh: true, fault: claim("at_hash", strings.Repeat("A", 22)), says: "(at-hash)"},
		{name: "refresh: refused ID token", rule: "Core 12.2, S165, D28", checks: "condemn", refresh: true, fault: claim("sub", "mallory"), says: "session ended"},
		{name: "refresh: tenant of another", rule: "Core 5.1.2, agglestone, S334", checks: "tenant", refresh: true, fault: claim("tenantId", "11111111-2222-3333-4444-555555555555"), says: "(tenant)"},
		{name: "refresh: userinfo of another", rule: "Core 5.3.2, S155", checks: "userinfo-sub", refresh: true, config: userinfo, endpoint: "userinfo", fault: member("sub", "mallory"), says: "(userinfo-sub)"},
		{name: "refresh: userinfo of another tenant", rule: "Core 5.1.2, agglestone, S334", checks: "userinfo-tenant", refresh: true, config: userinfo, endpoint: "userinfo", fault: member("tenantId", "11111111-2222-3333-4444-555555555555"), says: "(userinfo-tenant)"},
		{name: "refresh: signed by a new key", rule: "Core 10.1.1, S160, X153", refresh: true, prepare: (*bfftest.Issuer).RotateKeys},
		{name: "refresh: signed by a known key while the key set is down", rule: "Core 10.1.1, S182, X169", refresh: true, endpoint: "jwks", fault: bfftest.Fault{Status: 503}},
		{name: "refresh: signed under an unknown kid", rule: "Core 10.1, S160", checks: "kid", refresh: true, fault: header("kid", "other"), says: "(kid)"},
		{name: "refresh: id_token missing", rule: "Core 12.2, S163", refresh: true, fault: member("id_token", nil)},
		{name: "refresh: refresh_token missing", rule: "RFC 6749 6, S78", refresh: true, issuer: bfftest.Options{NoRotation: true}, fault: member("refresh_token", nil)},
		{name: "refresh: token_type mac", rule: "RFC 6749 7.1, S77", checks: "token-type", refresh: true, fault: member("token_type", "mac"), kept: true, says: "(token-type)"},
		{name: "refresh: access_token with a line feed", rule: "RFC 6749 A.12, S447", checks: "access-token", refresh: true, fault: member("access_token", "a\r\nX: y"), kept: true, says: "(access-token)"},
		{name: "refresh: refresh_token with a line feed", rule: "RFC 6749 A.17, S447, D28", checks: "refresh-token", refresh: true, fault: member("refresh_token", "a\nb"), kept: true, says: "(refresh-token)"},
		{name: "refresh: tokens with status 500", rule: "RFC 6749 5.2, S88", checks: "token-status", refresh: true, fault: bfftest.Fault{Status: 500}, kept: true, says: "refused 500"},
		{name: "refresh: redirect", rule: "RFC 9700 4.12, S72", checks: "redirect", refresh: true, fault: to(307, "token"), kept: true, says: "redirects are not followed"},
		{name: "refresh: garbage", rule: "RFC 6749 5.1, S141, S448", refresh: true, fault: body("<html>sentinel</html>"), kept: true, says: "malformed answer"},
		{name: "refresh: no answer", rule: "DESIGN invariant 10, S194, D29", refresh: true, fault: bfftest.Fault{Hang: true}, kept: true, says: "answer lost"},
		{name: "refresh: 2 MB", rule: "DESIGN invariant 10, S439", checks: "body-limit", refresh: true, fault: bfftest.Fault{BodySize: 2 << 20}, kept: true, says: "1 MiB"},
	}
	for i := range rows {
		row := &rows[i]
		accepted := row.says == ""
		switch {
		case row.want != "" || accepted && row.checks == "":
		case row.endpoint == "discovery":
			row.want = bff.IssuerUnavailable
		case row.endpoint == "callback":
			row.want = bff.LoginMismatch
		case row.kept:
			row.want = bff.IssuerUnavailable
		case row.refresh:
			row.want = bff.RefreshRejected
		default:
			row.want = bff.IssuerError
		}
		if row.endpoint == "" {
			row.endpoint = "token"
		}
		refused := row.want != ""
		row.unspent = row.unspent || refused && (row.endpoint == "callback" || row.endpoint == "discovery" && !row.config.UserInfo)
	}
	return rows
}

// Each thing that a hostile issuer does is refused for its reason: there is no
// session, nothing that it granted stays alive, the answer says no more than
// the reason, and no secret is in any answer or log line.
func TestHostileIssuer(t *testing.T) {
	proved := map[string]bool{}
	for _, row := range hostileRows() {
		t.Run(row.name, func(t *testing.T) {
			if row.rule == "" || proved[row.name] {
				t.Fatal("a row needs a rule and a name of its own")
			}
			proved[row.name] = row.checks != ""
			synctest.Test(t, func(t *testing.T) { row.run(t) })
		})
	}
}

// A rule has the section that demands it and the number of a requirement, the
// nearest where none is about just that.
var (
	section     = regexp.MustCompile(`(^|[ .])[1-9]`)
	requirement = regexp.MustCompile(`\bS[1-9]`)
)

// The tables are long enough, most of the rows are held to their checks, and
// each names the rule that it is about.
func TestHostileRows(t *testing.T) {
	proved := 0
	for _, row := range backchannelRows() {
		if !section.MatchString(row.rule) || !requirement.MatchString(row.rule) {
			t.Errorf("%s: %q is not a section and the number of a requirement", row.name, row.rule)
		}
	}
	for _, row := range hostileRows() {
		if !section.MatchString(row.rule) || !requirement.MatchString(row.rule) {
			t.Errorf("%s: %q is not a section and the number of a requirement", row.name, row.rule)
		}
		if row.checks != "" {
			proved++
		}
		if (row.want == "") != (row.says == "" && row.checks == "") {
			t.Errorf("%s: is it accepted or refused?", row.name)
		}
	}
	if proved < 100 {
		t.Errorf("%d rows are red without a check, want at least 100", proved)
	}
}

func (row *hostile) run(t *testing.T) {
	a := newApp(t, setup{issuer: row.issuer, config: row.config})
	b := a.browser()
	if row.refresh {
		if r := b.SignIn("alice"); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	if row.prepare != nil {
		row.prepare(a.iss)
	}
	if f := row.fault; row.endpoint != "callback" || f.EditCallback != nil {
		a.iss.Break(row.endpoint, f)
	}
	if row.refresh {
		row.runRefresh(t, a, b)
	} else {
		row.runSignIn(t, a, b)
	}
	if log := strings.ReplaceAll(a.log.String(), `\"`, `"`); !strings.Contains(log, row.says) {
		t.Errorf("%s: the log doesn't say %s:\n%s", row.rule, row.says, log)
	}
	// The issuer's own words are nobody's business.
	if all := a.tape.all() + a.log.String(); strings.Contains(all, "sentinel") || strings.Contains(all, "as the test wants") {
		t.Errorf("the issuer's text is shown: %s", all)
	}
	if len(a.iss.Secrets()) == 0 && !row.lasting {
		t.Error("there was nothing that could have leaked")
	}
}

// statuses are those of the reasons for which a sign-in fails.
var statuses = map[bff.Reason]int{
	bff.IssuerError: 502, bff.IssuerUnavailable: 503, bff.StepUp: 401, bff.LoginMismatch: 400, bff.LoginDenied: 400,
	bff.LoginExpired: 400, bff.LoginReplayed: 400, bff.LoginRefused: 403, bff.LoginLoop: 429, bff.StoreUnavailable: 503,
	bff.BadRequest: 400, bff.WrongHost: 400,
}

func (row *hostile) runSignIn(t *testing.T, a *app, b *bfftest.Browser) {
	start := time.Now() // on the bubble's clock
	r := b.Navigate("/login" + row.login)
	if r.Status == http.StatusOK {
		r = b.Choose("alice")
	}
	if took := time.Since(start); took > 11*time.Second {
		t.Errorf("the answer took %v, want no more than the issuer's 10 s", took)
	}
	if row.want == "" {
		if r.Status != http.StatusOK || r.Reason() != "" {
			t.Errorf("%s: %v; want it accepted", row.rule, r)
		}
		if r := b.Fetch("GET", "/api/x", nil, nil); r.Status != http.StatusOK {
			t.Errorf("GET /api/x = %v", r)
		}
		return
	}
	signInFailed(t, a, b, r, row.want)
	if want := map[bool]int{false: 1, true: 0}[row.unspent]; a.iss.Count("token") != want || a.iss.Count("authorize") > 1 {
		t.Errorf("%d token and %d authorization requests, want %d and at most 1", a.iss.Count("token"), a.iss.Count("authorize"), want)
	}
	synctest.Wait() // for the revocation
	if n := a.iss.LiveGrants(); (n != 0) != row.live {
		t.Errorf("%d live grants are left behind (D32)", n)
	}
	if row.lasting {
		return
	}
	// The way back: once the issuer behaves, this browser signs in.
	a.iss.Heal()
	time.Sleep(time.Minute)
	if r := b.SignIn("alice"); r.Err != nil {
		t.Errorf("afterwards: %v", r.Err)
	}
}

// signInFailed asserts that a sign-in ended with r: a page with its reason, its
// status and a way to try again, one line in the log, no redirect and no
// session.
func signInFailed(t *testing.T, a *app, b *bfftest.Browser, r *bfftest.Response, want bff.Reason) {
	t.Helper()
	if r.Err != nil || r.Reason() != string(want) || r.Status != statuses[want] {
		t.Errorf("sign-in ended with %v; want %d %s", r, statuses[want], want)
		return
	}
	h := r.Header
	if h.Get("Location") != "" || h.Get("Cache-Control") != "no-store" || h.Get("Content-Type") != "text/html; charset=utf-8" ||
		h.Get("Referrer-Policy") != "no-referrer" || h.Get("X-Content-Type-Options") != "nosniff" ||
		!strings.Contains(h.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("the page has %v", h)
	}
	if page := string(r.Body); !strings.Contains(page, "<small>"+string(want)) || r.URL.Path == "/auth/callback" && !strings.Contains(page, `<a href="/login">`) {
		t.Errorf("the page is %s", page)
	}
	line := fmt.Sprintf(`"msg":"request refused","reason":"%s","status":%d,`, want, statuses[want])
	if log := a.log.String(); strings.Count(log, `"msg":"request refused"`) != 1 || strings.Count(log, line) != 1 {
		t.Errorf("want one line with %s in the log:\n%s", line, log)
	}
	for _, c := range b.Cookies() {
		if c.Name == "__Host-Http-bff" {
			t.Error("a session cookie was set")
		}
	}
	if r := b.Fetch("GET", "/auth/session", nil, nil); r.Status != http.StatusUnauthorized {
		t.Errorf("GET /auth/session = %v, want 401", r)
	}
}

func (row *hostile) runRefresh(t *testing.T, a *app, b *bfftest.Browser) {
	time.Sleep(16 * time.Minute)
	start := time.Now()
	r := b.Fetch("GET", "/api/x", nil, nil)
	if took := time.Since(start); took > 14*time.Second {
		t.Errorf("the answer took %v, want no more than the issuer's 10 s and the store's 3", took)
	}
	if row.want == "" {
		if r.Status != http.StatusOK || a.iss.Count("token:refresh_token") != 1 {
			t.Errorf("%s: %v after %d refreshes; want it accepted after one", row.rule, r, a.iss.Count("token:refresh_token"))
		}
		return
	}
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
