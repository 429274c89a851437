package issuer_test

import (
	"crypto/elliptic"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff/internal/issuer"
)

var login = issuer.Expect{Nonce: testNonce, AccessToken: secretAccess}

// good returns an ID token that nothing is wrong with.
func (k key) good(more ...any) string { return k.jwt(string(toJSON(idClaims())), more...) }

// S147, S148: every algorithm that is allowed works.
func TestAlgorithms(t *testing.T) {
	c := newOP(testIssuer).client(t)
	for _, raw := range []string{
		rsaKey.good(), rsaKey.good("alg", "PS256"), ecKey.good(), edKey.good(),
		rsaKey.good("kid", nil), ecKey.good("kid", nil), edKey.good("kid", nil), // S159: all that are suited are tried
	} {
		if _, err := c.VerifyIDToken(t.Context(), raw, login); err != nil {
			t.Errorf("VerifyIDToken(%s) = %v", raw, err)
		}
	}
}

// S147, S159, S455, X153, X169: which keys verify what.
func TestKeys(t *testing.T) {
	ec256 := key{"es1", "ES512", ecKey.private}
	p384 := key{"p384", "ES256", mustEC(elliptic.P384())}
	many := make([]any, 51)
	for i := range many {
		many[i] = rsaKey.jwk("kid", fmt.Sprint("k", i))
	}
	for _, row := range []struct {
		name  string
		rule  string
		keys  []any
		token string
		kind  issuer.Kind // 0 accepts
		check string
	}{
		{"one-key-no-kid", "S159", []any{rsaKey.jwk()}, rsaKey.good("kid", nil), 0, ""},
		{"three-keys-no-kid", "S159", []any{otherRSA.jwk(), ecKey.jwk(), rsaKey.jwk()}, rsaKey.good("kid", nil), 0, ""},
		{"same-kid-twice", "RFC 7517, section 4.5", []any{otherRSA.jwk("kid", "rs1"), rsaKey.jwk()}, rsaKey.good(), 0, ""},
		{"members-for-signing", "RFC 7517", []any{rsaKey.jwk("use", "sig", "key_ops", []string{"verify"}, "alg", "RS256")}, rsaKey.good(), 0, ""},
		{"bad-among-good", "X169", []any{
			7, "x", nil, object{}, object{"kty": "RSA"}, object{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
			object{"kty": "new", "kid": "rs1"}, object{"kty": "oct", "kid": "rs1", "k": "c2VjcmV0"}, rsaKey.jwk("use", 7), rsaKey.jwk(),
		}, rsaKey.good(), 0, ""},
		{"other-key", "S147", []any{otherRSA.jwk("kid", "rs1")}, rsaKey.good(), issuer.Invalid, "signature"},
		{"other-kid", "S159", []any{rsaKey.jwk(), otherRSA.jwk()}, rsaKey.good("kid", "rs2"), issuer.Invalid, "signature"},
		{"no-kid-no-key", "S159", []any{otherRSA.jwk(), ecKey.jwk()}, rsaKey.good("kid", nil), issuer.Invalid, "signature"},
		{"unknown-kid", "S160", []any{otherRSA.jwk()}, rsaKey.good(), issuer.Invalid, "kid"},
		{"use-enc", "S159", []any{rsaKey.jwk("use", "enc"), otherRSA.jwk()}, rsaKey.good(), issuer.Invalid, "kid"},
		{"key-ops-encrypt", "S159", []any{rsaKey.jwk("key_ops", []string{"encrypt"}), otherRSA.jwk()}, rsaKey.good(), issuer.Invalid, "kid"},
		{"key-ops-empty", "S159", []any{rsaKey.jwk("key_ops", []string{}), otherRSA.jwk()}, rsaKey.good(), issuer.Invalid, "kid"},
		{"key-alg", "S159", []any{rsaKey.jwk("alg", "PS256"), otherRSA.jwk()}, rsaKey.good(), issuer.Invalid, "kid"},
		{"curve", "RFC 7518, section 3.4", []any{ec256.jwk()}, ec256.good(), issuer.Invalid, "kid"},
		{"curve-384", "RFC 7518, section 3.4", []any{p384.jwk()}, ecKey.good("kid", "p384"), issuer.Invalid, "kid"},
		{"rsa-1024", "X153", []any{weakRSA.jwk(), otherRSA.jwk()}, weakRSA.good(), issuer.Invalid, "kid"},
		{"private", "X169", []any{privateJWK(rsaKey), otherRSA.jwk()}, rsaKey.good(), issuer.Invalid, "kid"},
		{"only-oct", "X169", []any{object{"kty": "oct", "kid": "rs1", "k": "c2VjcmV0"}}, rsaKey.good(), issuer.Unreachable, ""},
		{"empty", "X169", []any{}, rsaKey.good(), issuer.Unreachable, ""},
		{"51-keys", "S455", append(many, rsaKey.jwk()), rsaKey.good(), issuer.Unreachable, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			o := newOP(testIssuer)
			o.keys = row.keys
			c := o.client(t, func(cfg *issuer.Config) { cfg.SigningAlgs = []string{"RS256", "PS256", "ES256", "ES512", "EdDSA"} })
			_, err := c.VerifyIDToken(t.Context(), row.token, login)
			if row.kind == 0 {
				if err != nil {
					t.Errorf("VerifyIDToken = %v, want nil (%s)", err, row.rule)
				}
				return
			}
			if err == nil {
				t.Fatalf("VerifyIDToken accepted it (%s)", row.rule)
			}
			if e := problem(t, err, row.kind, row.check); row.kind == issuer.Unreachable && e.Op != "keys" {
				t.Errorf("op = %s, want keys", e.Op)
			}
		})
	}
}

// S439, D28, X169: without keys it can't be told whether a token is good.
func TestKeysUnreachable(t *testing.T) {
	padded := append(toJSON(object{"keys": []any{rsaKey.jwk()}}), strings.Repeat(" ", 1<<20)...)
	for name, answer := range map[string]http.HandlerFunc{
		"500":     func(w http.ResponseWriter, r *http.Request) { writeJSON(w, 500, object{"keys": []any{rsaKey.jwk()}}) },
		"large":   func(w http.ResponseWriter, r *http.Request) { w.Write(padded) },
		"array":   func(w http.ResponseWriter, r *http.Request) { writeJSON(w, 200, []any{rsaKey.jwk()}) },
		"no-keys": func(w http.ResponseWriter, r *http.Request) { writeJSON(w, 200, object{"keys": "sentinel"}) },
		"html":    func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>sentinel") },
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/t/jwks2?sentinel", http.StatusFound)
		},
		"nonsense":  func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"keys":[{}]} {}`) },
		"keys-case": func(w http.ResponseWriter, r *http.Request) { writeJSON(w, 200, object{"KEYS": []any{rsaKey.jwk()}}) },
	} {
		o := newOP(testIssuer)
		o.answer("/jwks2", o.routes["/jwks"])
		o.answer("/jwks", answer)
		c := o.client(t)
		_, err := c.VerifyIDToken(t.Context(), rsaKey.good(), login)
		if e, ok := err.(*issuer.Error); !ok || e.Op != "keys" {
			t.Errorf("%s: error = %v, want an *Error of op keys", name, err)
			continue
		}
		problem(t, err, issuer.Unreachable, "")
	}
}

// S160, S182, S438: a new key is found at once; keys that nobody knows cost a
// request every ten seconds; and a refetch that fails loses nothing.
func TestKeyRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOP(testIssuer)
		o.keys = []any{rsaKey.jwk()}
		c := o.client(t)
		verify := func(raw string, kind issuer.Kind, check string) {
			t.Helper()
			_, err := c.VerifyIDToken(t.Context(), raw, login)
			if kind == 0 && err != nil {
				t.Errorf("VerifyIDToken = %v, want nil", err)
			}
			if kind != 0 {
				problem(t, err, kind, check)
			}
		}
		asked := func(want int) {
			t.Helper()
			if n := len(o.requests("/jwks")); n != want {
				t.Errorf("%d requests for the keys, want %d", n, want)
			}
		}
		verify(rsaKey.good(), 0, "")
		asked(1)
		o.keys = []any{rsaKey.jwk(), otherRSA.jwk()}
		verify(otherRSA.good(), 0, "") // at once, a moment after the first fetch
		asked(2)
		for i := range 1000 {
			verify(rsaKey.good("kid", fmt.Sprint("unknown-", i)), issuer.Unreachable, "")
		}
		asked(2)
		time.Sleep(10 * time.Second)
		verify(rsaKey.good("kid", "unknown"), issuer.Invalid, "kid")
		asked(3)

		good := o.routes["/jwks"]
		for i, bad := range []http.HandlerFunc{
			func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) },
			func(w http.ResponseWriter, r *http.Request) {
				writeJSON(w, 200, object{"keys": []any{privateJWK(rsaKey), object{"kty": "oct", "k": "AAAA"}}})
			},
		} {
			time.Sleep(time.Minute)
			o.answer("/jwks", bad)
			verify(rsaKey.good("kid", "unknown"), issuer.Unreachable, "")
			verify(rsaKey.good(), 0, "") // S182
			asked(4 + i)
		}
		o.answer("/jwks", good)
		time.Sleep(time.Minute)
		verify(rsaKey.good("kid", "unknown"), issuer.Invalid, "kid")
		asked(6)

		// A kid that is used again for a key of another kind is a new key.
		o.keys = []any{ecKey.jwk("kid", "rs1")}
		time.Sleep(time.Minute)
		verify(ecKey.good("kid", "rs1"), 0, "")
		asked(7)

		// A key that is withdrawn is forgotten in the hour.
		time.Sleep(time.Hour + time.Second)
		o.keys = []any{edKey.jwk()}
		verify(ecKey.good("kid", "rs1"), 0, "")
		synctest.Wait()
		asked(8)
		verify(ecKey.good("kid", "rs1"), issuer.Invalid, "kid")
	})
}

// S160: fifty tokens and no keys yet make one request.
func TestKeysSingleFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOP(testIssuer)
		answer := o.routes["/jwks"]
		o.answer("/jwks", func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Second)
			answer(w, r)
		})
		c := o.client(t)
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if _, err := c.VerifyIDToken(t.Context(), rsaKey.good(), login); err != nil {
					t.Errorf("VerifyIDToken = %v", err)
				}
			})
		}
		wg.Wait()
		if n := len(o.requests("/jwks")); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
	})
}

// An error that many calls share, since they waited for one fetch, is nobody's
// to change.
func TestSharedErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOP(testIssuer)
		o.answer("/jwks", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) })
		c := o.client(t)
		_, err := c.VerifyIDToken(t.Context(), rsaKey.good(), issuer.Expect{Nonce: "n"})
		before := problem(t, err, issuer.Unreachable, "")
		op := before.Op
		_, err = c.VerifyLogoutToken(t.Context(), rsaKey.good())
		if e := problem(t, err, issuer.Unreachable, ""); e.Op != "logout_token" {
			t.Errorf("Op %q, want logout_token", e.Op)
		}
		if before.Op != op {
			t.Errorf("the first call's error has become one of %q", before.Op)
		}
	})
}
