package issuer_test

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff/internal/issuer"
)

func atHash(sum []byte) string { return base64.RawURLEncoding.EncodeToString(sum[:len(sum)/2]) }

// merge adds members to claims as they are written, duplicates included.
func merge(c object, members string) string {
	s := string(toJSON(c))
	return s[:len(s)-1] + "," + members + "}"
}

// A hostile issuer, one row for each rule of OpenID Connect Core 1.0, sections
// 2 and 3.1.3.7, and its neighbours.
func TestIDToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		at := func(d time.Duration) int64 { return now.Add(d).Unix() }
		claims := func(more ...any) string { return rsaKey.jwt(string(toJSON(idClaims(more...)))) }
		payload := func(s string) string { return rsaKey.jwt(s) }
		flip := func(raw string) string {
			// A bit of the signature's last whole byte.
			c := byte('A')
			if raw[len(raw)-4] == c {
				c = 'B'
			}
			return raw[:len(raw)-4] + string(c) + raw[len(raw)-3:]
		}
		der, err := x509.MarshalPKIXPublicKey(rsaKey.private.Public())
		if err != nil {
			t.Fatal(err)
		}
		publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
		sum256, sum512 := sha256.Sum256([]byte(secretAccess)), sha512.Sum512([]byte(secretAccess))
		body := string(toJSON(idClaims()))
		none := func(alg string) string {
			return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"`+alg+`"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(body)) + "."
		}
		b64false := func() string {
			header := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","kid":"rs1","b64":false,"crit":["b64"]}`))
			return header + "." + base64.RawURLEncoding.EncodeToString([]byte(body)) + "." + base64.RawURLEncoding.EncodeToString(rsaKey.signature("RS256", header+"."+body))
		}

		for _, row := range []struct {
			name  string
			rule  string
			raw   string
			check string // "" accepts
		}{
			{"plain", "Core 3.1.3.7", claims(), ""},
			{"unknown-claims", "S153", claims("foo", object{"sub": "x"}, "Name", "x", "_claim_names", object{"a": "s"}, "_claim_sources", object{"s": object{"endpoint": "https://evil.test"}}), ""},
			{"typ-jwt", "Core 2", rsaKey.good("typ", "JWT"), ""},
			{"typ-jwt-case", "RFC 7519, section 5.1", rsaKey.good("typ", "jwt"), ""},
			{"embedded-key-ignored", "RFC 8725, section 3.10", rsaKey.good("jwk", otherRSA.jwk(), "jku", "https://evil.test", "x5u", "https://evil.test"), ""},

			{"size", "X155", claims("pad", strings.Repeat("x", 64<<10)), "id-token-size"},
			{"jwe", "S143", "a.b.c.d.e", "id-token-parts"},
			{"two-parts", "S143", "a.b", "id-token-parts"},
			{"empty", "S142", "", "id-token-parts"},
			{"no-base64", "X155", "!.!.!", "format"},
			{"no-json", "X155", "e30x.e30.e30", "format"},
			{"header-array", "X155", "W10.e30.e30", "format"},
			{"header-duplicate", "X155", base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","alg":"RS256"}`)) + ".e30.e30", "format"},
			{"header-whitespace", "X155", " " + claims(), "format"},

			{"alg-none", "S148", none("none"), "alg"},
			{"alg-None", "S148", none("None"), "alg"},
			{"alg-nOnE", "S148", none("nOnE"), "alg"},
			{"alg-missing", "S148", "e30.e30.e30", "alg"},
			{"alg-hs256-public-key", "S148", hs256(publicPEM, body), "alg"},
			{"alg-hs256-secret", "S148", hs256([]byte(secretClient), body), "alg"},
			{"alg-not-allowed", "S148", rsaKey.good("alg", "RS512"), "alg"},
			{"signature-flipped", "S147", flip(claims()), "signature"},
			{"signature-flipped-ps", "S147", flip(rsaKey.good("alg", "PS256")), "signature"},
			{"signature-flipped-ec", "S147", flip(ecKey.good()), "signature"},
			{"signature-flipped-ed", "S147", flip(edKey.good()), "signature"},
			{"signature-embedded-key", "S147", otherRSA.good("kid", "rs1", "jwk", otherRSA.jwk()), "signature"},
			{"signature-of-another-payload", "S147", strings.Join([]string{strings.Split(claims(), ".")[0], strings.Split(claims("sub", "bob"), ".")[1], strings.Split(claims(), ".")[2]}, "."), "signature"},
			{"signature-absent", "S147", claims()[:strings.LastIndex(claims(), ".")+1], "signature"},
			{"typ-logout", "S231", rsaKey.good("typ", "logout+jwt"), "typ"},
			{"typ-access", "RFC 9068, section 4", rsaKey.good("typ", "at+jwt"), "typ"},
			{"typ-access-full", "RFC 9068, section 4", rsaKey.good("typ", "application/AT+JWT"), "typ"},
			{"typ-number", "RFC 8725, section 3.11", rsaKey.good("typ", 7), "typ"},
			{"crit", "RFC 7515, section 4.1.11", rsaKey.good("crit", []string{"exp"}, "exp", 1), "crit"},
			{"crit-b64", "RFC 7797, section 7", b64false(), "crit"},

			{"iss-slash", "S144", claims("iss", testIssuer+"/"), "iss"},
			{"iss-case", "S144", claims("iss", "https://OP.test/t"), "iss"},
			{"iss-port", "S144", claims("iss", "https://op.test:443/t"), "iss"},
			{"iss-suffix", "S144", claims("iss", testIssuer+"INVALID"), "iss"},
			{"iss-missing", "S144", claims("iss", nil), "iss"},
			{"iss-number", "S144", claims("iss", 7), "iss"},

			{"aud-array", "S146", claims("aud", []string{clientID}), ""},
			{"aud-twice", "S146", claims("aud", []string{clientID, clientID}), ""},
			{"aud-trusted", "S146", claims("aud", []string{clientID, "trusted"}), ""},
			{"aud-missing", "S145", claims("aud", nil), "aud"},
			{"aud-null", "S145", claims("aud", json.RawMessage("null")), "aud"},
			{"aud-empty", "S145", claims("aud", ""), "aud"},
			{"aud-empty-array", "S145", claims("aud", []string{}), "aud"},
			{"aud-other", "S145", claims("aud", "other"), "aud"},
			{"aud-other-array", "S145", claims("aud", []string{"other"}), "aud"},
			{"aud-only-trusted", "S145", claims("aud", "trusted"), "aud"},
			{"aud-object", "S145", claims("aud", object{clientID: 1}), "aud"},
			{"aud-extra", "S146", claims("aud", []string{clientID, "evil"}), "aud-extra"},
			{"azp", "S177", claims("azp", clientID), ""},
			{"azp-null", "S177", claims("azp", json.RawMessage("null")), ""},
			{"azp-other", "S177", claims("azp", "other"), "azp"},
			{"azp-empty", "S177", claims("azp", ""), "azp"},
			{"azp-number", "S177", claims("azp", 7), "claim-type"},

			{"sub-255", "S151", claims("sub", strings.Repeat("s", 255)), ""},
			{"sub-missing", "S151", claims("sub", nil), "sub"},
			{"sub-empty", "S151", claims("sub", ""), "sub"},
			{"sub-null", "S151", claims("sub", json.RawMessage("null")), "sub"},
			{"sub-number", "S151", claims("sub", 7), "claims"},
			{"sub-256", "S151", claims("sub", strings.Repeat("s", 256)), "sub"},
			{"sub-nul", "S151", claims("sub", "a\x00b"), "sub"},
			{"sub-unicode", "S151", claims("sub", "alicé"), "sub"},

			{"exp-skew", "S149", claims("exp", at(-25*time.Second)), ""},
			{"exp-past", "S149", claims("exp", at(-31*time.Second)), "exp"},
			{"exp-missing", "S149", claims("exp", nil), "exp"},
			{"exp-null", "S149", claims("exp", json.RawMessage("null")), "claims"},
			{"exp-zero", "S149", claims("exp", 0), "exp"},
			{"exp-negative", "S149", claims("exp", -1), "numeric-date"},
			{"exp-huge", "S149", claims("exp", 1e300), "numeric-date"},
			{"exp-year-10000", "S149", claims("exp", 253402300800), "numeric-date"},
			{"exp-fraction", "S149", claims("exp", json.RawMessage("99999999999.5")), "numeric-date"},
			{"exp-string", "S149", claims("exp", "99999999999"), "numeric-date"},
			{"exp-text", "S149", claims("exp", "x"), "claims"},
			{"iat-30s-old", "S175", claims("iat", at(-30*time.Second)), ""},
			{"iat-30s-ahead", "S175", claims("iat", at(30*time.Second)), ""},
			{"iat-10m-old", "S175", claims("iat", at(-10*time.Minute)), ""},
			{"iat-11m-old", "S175", claims("iat", at(-11*time.Minute)), "iat-age"},
			{"iat-1d-old", "S175", claims("iat", at(-24*time.Hour)), "iat-age"},
			{"iat-31s-ahead", "S175", claims("iat", at(31*time.Second)), "iat-future"},
			{"iat-1y-ahead", "S175", claims("iat", at(365*24*time.Hour)), "iat-future"},
			{"iat-missing", "S150", claims("iat", nil), "iat"},
			{"iat-zero", "S150", claims("iat", 0), "iat"},
			{"iat-text", "S150", claims("iat", "x"), "claims"},
			{"iat-huge", "S150", claims("iat", 1e300), "numeric-date"},
			{"nbf-past", "S149", claims("nbf", at(-time.Hour)), ""},
			{"nbf-skew", "S149", claims("nbf", at(30*time.Second)), ""},
			{"nbf-31s", "X149", claims("nbf", at(31*time.Second)), "nbf"},
			{"nbf-10m", "X149", claims("nbf", at(10*time.Minute)), "nbf"},
			{"nbf-huge", "X149", claims("nbf", 1e300), "numeric-date"},

			{"nonce-missing", "S152", claims("nonce", nil), "nonce"},
			{"nonce-empty", "S152", claims("nonce", ""), "nonce"},
			{"nonce-other", "S176", claims("nonce", "nonce-of-another"), "nonce"},
			{"nonce-longer", "S152", claims("nonce", testNonce+"x"), "nonce"},
			{"nonce-array", "S152", claims("nonce", []string{testNonce}), "claims"},

			{"at-hash", "S180", claims("at_hash", atHash(sum256[:])), ""},
			{"at-hash-ed", "S180", edKey.jwt(string(toJSON(idClaims("at_hash", atHash(sum512[:]))))), ""},
			{"at-hash-other", "S180", claims("at_hash", atHash(sum512[:])), "at-hash"},
			{"at-hash-empty", "S180", claims("at_hash", ""), "at-hash"},
			{"at-hash-number", "S180", claims("at_hash", 7), "claims"},

			{"tenant", "agglestone", claims("tenantId", "tenant-1"), ""},
			{"tenant-other", "agglestone", claims("tenantId", "tenant-2"), "tenant"},
			{"tenant-empty", "agglestone", claims("tenantId", ""), "tenant"},
			{"tenant-array", "agglestone", claims("tenantId", []string{"tenant-1"}), "claim-type"},
			{"acr-number", "Core 2", claims("acr", 7), "claim-type"},
			{"sid-object", "Back-Channel 2.1", claims("sid", object{}), "claim-type"},
			{"auth-time-text", "S179", claims("auth_time", "x"), "numeric-date"},
			{"auth-time-zero", "issuers", claims("auth_time", 0), ""},

			{"sub-upper", "S435", payload(merge(idClaims(), `"SUB":"bob"`)), "claim-case"},
			{"iss-upper", "S435", payload(merge(idClaims(), `"Iss":"`+testIssuer+`"`)), "claim-case"},
			{"tenant-lower", "S435", payload(merge(idClaims(), `"tenantid":"tenant-1"`)), "claim-case"},
			{"sub-long-s", "S435", payload(merge(idClaims(), `"ſub":"bob"`)), "claim-case"},
			{"sub-twice", "S435", payload(merge(idClaims(), `"sub":"alice"`)), "duplicate-member"},
			{"sub-twice-escaped", "S435", payload(merge(idClaims(), `"\u0073ub":"alice"`)), "duplicate-member"},
			{"groups-twice", "RFC 7519, section 4", payload(merge(idClaims(), `"groups":[],"groups":["Admin"]`)), "duplicate-member"},
			{"events", "S222", claims("events", object{"http://schemas.openid.net/event/backchannel-logout": object{}}), "events"},
			{"events-null", "S222", claims("events", json.RawMessage("null")), "events"},
			{"utf8", "X155", payload(merge(idClaims(), "\"name\":\"a\xff\"")), "utf8"},
			{"claims-array", "X155", payload(`[]`), "claims"},
			{"claims-deep", "X155", payload(merge(idClaims(), `"a":`+strings.Repeat("[", 11000)+strings.Repeat("]", 11000))), "claims"},
			{"claims-trailing", "X155", payload(body + "{}"), "claims"},
		} {
			o := newOP(testIssuer)
			c := o.client(t, func(cfg *issuer.Config) {
				cfg.TenantID, cfg.TrustedAudiences = "tenant-1", []string{"trusted"}
				cfg.ClientSecret = secretClient
			})
			tok, err := c.VerifyIDToken(t.Context(), row.raw, login)
			if row.check == "" {
				if err != nil {
					t.Errorf("%s: VerifyIDToken = %v, want nil (%s)", row.name, err, row.rule)
				}
				continue
			}
			if err == nil || tok != nil {
				t.Errorf("%s: VerifyIDToken accepted it (%s)", row.name, row.rule)
				continue
			}
			if e := err.(*issuer.Error); e.Kind != issuer.Invalid || e.Check != row.check || e.Op != "id_token" {
				t.Errorf("%s: error = %v, op %s, kind %v, check %q; want check %q", row.name, e, e.Op, e.Kind, e.Check, row.check)
			}
			if strings.Contains(err.Error(), "sentinel") || strings.Contains(err.Error(), "ey") {
				t.Errorf("%s: error %v holds a token", row.name, err)
			}
		}
	})
}

// S437: the configuration says which algorithms, not the metadata.
func TestAlgorithmAllowed(t *testing.T) {
	o := newOP(testIssuer)
	o.doc["id_token_signing_alg_values_supported"] = []string{"RS256", "ES256"}
	c := o.client(t, func(cfg *issuer.Config) { cfg.SigningAlgs = []string{"ES256"} })
	_, err := c.VerifyIDToken(t.Context(), rsaKey.good(), login)
	problem(t, err, issuer.Invalid, "alg")
	if _, err := c.VerifyIDToken(t.Context(), ecKey.good(), login); err != nil {
		t.Errorf("VerifyIDToken = %v", err)
	}
	// Whatever the configuration says: no symmetric one, and none is not RS256.
	for _, algs := range [][]string{{"HS256"}, {"none"}, nil} {
		c := o.client(t, func(cfg *issuer.Config) { cfg.SigningAlgs, cfg.ClientSecret = algs, secretClient })
		for _, raw := range []string{rsaKey.good(), hs256([]byte(secretClient), string(toJSON(idClaims())))} {
			_, err := c.VerifyIDToken(t.Context(), raw, login)
			problem(t, err, issuer.Invalid, "alg")
		}
	}
}

// What a caller gets.
func TestIDTokenContent(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	body := string(toJSON(idClaims("aud", []string{clientID}, "azp", clientID, "sid", "s1", "acr", "high",
		"iat", now.Unix(), "exp", now.Unix()+60, "auth_time", now.Unix()-5, "groups", []string{"Admin"})))
	tok, err := newOP(testIssuer).client(t).VerifyIDToken(t.Context(), rsaKey.jwt(body), login)
	if err != nil {
		t.Fatal(err)
	}
	want := &issuer.IDToken{
		Subject: "alice", SID: "s1", ACR: "high", AuthorizedParty: clientID, Nonce: testNonce, Audience: []string{clientID},
		IssuedAt: now, Expiry: now.Add(time.Minute), AuthTime: now.Add(-5 * time.Second), Claims: json.RawMessage(body),
	}
	if !reflect.DeepEqual(tok, want) {
		t.Errorf("VerifyIDToken = %+v\nwant %+v", tok, want)
	}
}

// S152, S164-S169, S178, S179, S183, S184, D26: what depends on the request.
func TestExpect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		hour, none := time.Hour, time.Duration(0)
		prior := func(change ...func(*issuer.IDToken)) issuer.Expect {
			p := &issuer.IDToken{Subject: "alice", Audience: []string{clientID, "trusted"}, IssuedAt: now.Add(-time.Hour), AuthTime: now.Add(-2 * time.Hour), Nonce: testNonce}
			for _, f := range change {
				f(p)
			}
			return issuer.Expect{Nonce: testNonce, Prior: p, AccessToken: secretAccess}
		}
		both := []string{"trusted", clientID} // the other way round
		at := func(d time.Duration) int64 { return now.Add(d).Unix() }
		for _, row := range []struct {
			name  string
			rule  string
			more  []any
			want  issuer.Expect
			check string
		}{
			{"zero-expect", "S152", []any{"nonce", nil}, issuer.Expect{}, "nonce-expected"},
			{"acr", "S178", []any{"acr", "high"}, issuer.Expect{Nonce: testNonce, ACR: []string{"low", "high"}}, ""},
			{"acr-other", "S178", []any{"acr", "none"}, issuer.Expect{Nonce: testNonce, ACR: []string{"low", "high"}}, "acr"},
			{"acr-missing", "X151", nil, issuer.Expect{Nonce: testNonce, ACR: []string{"low", "high"}}, "acr"},
			{"max-age", "S179", []any{"auth_time", at(-59 * time.Minute)}, issuer.Expect{Nonce: testNonce, MaxAge: &hour}, ""},
			{"max-age-skew", "S179", []any{"auth_time", at(-hour - 30*time.Second)}, issuer.Expect{Nonce: testNonce, MaxAge: &hour}, ""},
			{"max-age-old", "S179", []any{"auth_time", at(-hour - 31*time.Second)}, issuer.Expect{Nonce: testNonce, MaxAge: &hour}, "max-age"},
			{"max-age-zero", "S179", []any{"auth_time", at(0)}, issuer.Expect{Nonce: testNonce, MaxAge: &none}, ""},
			{"max-age-zero-stale", "S179", []any{"auth_time", at(-time.Minute)}, issuer.Expect{Nonce: testNonce, MaxAge: &none}, "max-age"},
			{"max-age-no-auth-time", "S179", nil, issuer.Expect{Nonce: testNonce, MaxAge: &hour}, "max-age"},
			{"max-age-auth-time-zero", "S179", []any{"auth_time", 0}, issuer.Expect{Nonce: testNonce, MaxAge: &hour}, "max-age"},

			{"refresh", "S163", []any{"aud", both}, prior(), ""},
			{"refresh-no-nonce", "S183", []any{"aud", both, "nonce", nil}, prior(), ""},
			{"refresh-old-iat", "S175", []any{"aud", both, "iat", at(-30 * time.Minute)}, prior(), ""},
			{"refresh-nonce", "S183", []any{"aud", both, "nonce", "other"}, prior(), "refresh-nonce"},
			{"refresh-sub", "S165", []any{"aud", both, "sub", "bob"}, prior(), "refresh-sub"},
			{"refresh-sub-case", "S165", []any{"aud", both, "sub", "Alice"}, prior(), "refresh-sub"},
			{"refresh-aud-less", "S167", nil, prior(), "refresh-aud"},
			{"refresh-aud-more", "S167", []any{"aud", both}, prior(func(p *issuer.IDToken) { p.Audience = []string{clientID} }), "refresh-aud"},
			{"refresh-azp-new", "S184", []any{"aud", both, "azp", clientID}, prior(), ""},
			{"refresh-azp-same", "S184", []any{"aud", both, "azp", clientID}, prior(func(p *issuer.IDToken) { p.AuthorizedParty = clientID }), ""},
			{"refresh-azp-changed", "S184", []any{"aud", both, "azp", clientID}, prior(func(p *issuer.IDToken) { p.AuthorizedParty = "other" }), "refresh-azp"},
			{"refresh-auth-time-same", "S168", []any{"aud", both, "auth_time", at(-2 * time.Hour)}, prior(), ""},
			{"refresh-auth-time-new", "S168", []any{"aud", both, "auth_time", at(-time.Minute)}, prior(), "refresh-auth-time"},
			{"refresh-auth-time-first", "S168", []any{"aud", both, "auth_time", at(-time.Minute)}, prior(func(p *issuer.IDToken) { p.AuthTime = time.Time{} }), ""},
			{"refresh-iat-same", "S166", []any{"aud", both, "iat", at(-time.Hour)}, prior(), ""},
			{"refresh-iat-older", "S166", []any{"aud", both, "iat", at(-time.Hour - 31*time.Second)}, prior(), "refresh-iat"},
			{"refresh-iat-missing", "S166", []any{"aud", both, "iat", nil}, prior(func(p *issuer.IDToken) { p.IssuedAt = time.Time{} }), "iat"},
			{"refresh-exp", "S169", []any{"aud", both, "exp", at(-time.Minute)}, prior(), "exp"},
			{"refresh-iss", "S164", []any{"aud", both, "iss", "https://evil.test"}, prior(), "iss"},
		} {
			c := newOP(testIssuer).client(t, func(cfg *issuer.Config) { cfg.TrustedAudiences = []string{"trusted"} })
			_, err := c.VerifyIDToken(t.Context(), rsaKey.jwt(string(toJSON(idClaims(row.more...)))), row.want)
			if row.check == "" {
				if err != nil {
					t.Errorf("%s: VerifyIDToken = %v, want nil (%s)", row.name, err, row.rule)
				}
				continue
			}
			if err == nil {
				t.Errorf("%s: VerifyIDToken accepted it (%s)", row.name, row.rule)
				continue
			}
			if e := err.(*issuer.Error); e.Kind != issuer.Invalid || e.Check != row.check {
				t.Errorf("%s: error = %v, want check %q (%s)", row.name, e, row.check, row.rule)
			}
		}
	})
}
