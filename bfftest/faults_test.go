package bfftest_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff/bfftest"
)

// What each manipulation of an ID token looks like to the relying party.
func TestForgedIDTokens(t *testing.T) {
	other := bfftest.NewKey("RS256")
	for _, row := range []struct {
		name string
		edit func(iss *bfftest.Issuer, t *bfftest.Token)
		want func(iss *bfftest.Issuer, token string) bool
	}{
		{"claim", func(_ *bfftest.Issuer, t *bfftest.Token) { t.Claims["aud"] = []string{"a", "b"} }, func(iss *bfftest.Issuer, token string) bool {
			_, c, err := claims(iss, token)
			return err == nil && len(c["aud"].([]any)) == 2
		}},
		{"no-claim", func(_ *bfftest.Issuer, t *bfftest.Token) { delete(t.Claims, "sub") }, func(iss *bfftest.Issuer, token string) bool {
			_, c, err := claims(iss, token)
			return err == nil && c["sub"] == nil
		}},
		{"huge-number", func(_ *bfftest.Issuer, t *bfftest.Token) { t.Claims["iat"] = 1e300 }, func(iss *bfftest.Issuer, token string) bool {
			_, c, err := claims(iss, token)
			return err == nil && c["iat"] == 1e300
		}},
		{"alg-none", func(_ *bfftest.Issuer, t *bfftest.Token) { t.SignWith(bfftest.NewKey("none")) }, func(_ *bfftest.Issuer, token string) bool {
			return strings.HasSuffix(token, ".") && headerOf(token)["alg"] == "none"
		}},
		{"alg-None", func(_ *bfftest.Issuer, t *bfftest.Token) { t.SignWith(bfftest.NewKey("None")) }, func(_ *bfftest.Issuer, token string) bool {
			return strings.HasSuffix(token, ".") && headerOf(token)["alg"] == "None"
		}},
		{"hs256-public-key", func(iss *bfftest.Issuer, t *bfftest.Token) {
			t.SignWith(bfftest.HMACKey("HS256", iss.Key().PublicPEM()))
		}, func(iss *bfftest.Issuer, token string) bool {
			h := headerOf(token)
			return h["alg"] == "HS256" && h["kid"] == iss.Key().ID
		}},
		{"other-key-same-kid", func(iss *bfftest.Issuer, t *bfftest.Token) {
			t.SignWith(other)
			t.Header["kid"] = iss.Key().ID
		}, refusedByKeys},
		{"other-key", func(_ *bfftest.Issuer, t *bfftest.Token) { t.SignWith(other) }, refusedByKeys},
		{"tampered", func(_ *bfftest.Issuer, t *bfftest.Token) { t.EditJWT = bfftest.TamperSignature }, refusedByKeys},
		{"wrong-alg-same-key", func(iss *bfftest.Issuer, t *bfftest.Token) {
			k := iss.Key()
			k.Alg = "RS512"
			t.SignWith(k)
		}, func(iss *bfftest.Issuer, token string) bool {
			return headerOf(token)["alg"] == "RS512"
		}},
		{"alg-lies", func(_ *bfftest.Issuer, t *bfftest.Token) { t.Header["alg"] = "ES256" }, refusedByKeys},
		{"no-kid", func(_ *bfftest.Issuer, t *bfftest.Token) { delete(t.Header, "kid") }, func(_ *bfftest.Issuer, token string) bool {
			_, ok := headerOf(token)["kid"]
			return !ok
		}},
		{"header-jwk", func(_ *bfftest.Issuer, t *bfftest.Token) { t.SignWith(other); t.Header["jwk"] = other.JWK() }, func(_ *bfftest.Issuer, token string) bool {
			return headerOf(token)["jwk"].(map[string]any)["kid"] == other.ID
		}},
		{"duplicate-claim", func(_ *bfftest.Issuer, t *bfftest.Token) {
			t.EditClaimsJSON = func(b []byte) []byte { return append([]byte(`{"sub":"eve",`), b[1:]...) }
		}, func(_ *bfftest.Issuer, token string) bool {
			payload, _ := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
			return bytes.Count(payload, []byte(`"sub":`)) == 2
		}},
		{"not-a-jwt", func(_ *bfftest.Issuer, t *bfftest.Token) { t.EditJWT = func(string) string { return "a.b" } }, func(_ *bfftest.Issuer, token string) bool {
			return token == "a.b"
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			iss := bfftest.NewIssuer(bfftest.Options{})
			iss.Break("token", bfftest.Fault{EditIDToken: func(tok *bfftest.Token) { row.edit(iss, tok) }})
			_, tok := newRP(iss).signIn(t, "alice")
			if !row.want(iss, tok.IDToken) {
				t.Errorf("header %v of %s", headerOf(tok.IDToken), tok.IDToken)
			}
			if _, _, err := claims(iss, tok.AccessToken); err != nil {
				t.Errorf("the access token was changed too: %v", err)
			}
		})
	}
}

func refusedByKeys(iss *bfftest.Issuer, token string) bool {
	_, _, err := claims(iss, token)
	return err != nil
}

func headerOf(token string) (h map[string]any) {
	text, _ := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[0])
	json.Unmarshal(text, &h)
	return h
}

// Each algorithm is one that others can verify.
func TestKeys(t *testing.T) {
	iss := bfftest.NewIssuer(bfftest.Options{AccessTokenHash: true})
	a := newRP(iss)
	weak := bfftest.NewRSAKey("RS256", 1024)
	rsa := bfftest.NewKey("RS384")
	keys := []bfftest.Key{weak, rsa}
	for _, alg := range []string{"RS512", "PS256", "PS384", "PS512"} {
		k := rsa
		k.Alg, k.ID = alg, alg
		keys = append(keys, k)
	}
	for _, alg := range []string{"ES256", "ES384", "ES512", "EdDSA"} {
		keys = append(keys, bfftest.NewKey(alg))
	}
	for _, k := range keys {
		iss.UseKey(k)
		_, tok := a.signIn(t, "alice")
		if header, _, err := claims(iss, tok.IDToken); err != nil || header.Algorithm != k.Alg || header.KeyID != k.ID {
			t.Errorf("%s: header %v, %v", k.Alg, header, err)
		}
		_, _, meta := get(t, iss, iss.URL()+"/.well-known/openid-configuration", "")
		if algs := meta["id_token_signing_alg_values_supported"].([]any); algs[0] != k.Alg {
			t.Errorf("metadata names %v, want %s", algs, k.Alg)
		}
	}
}

func TestEditAnswers(t *testing.T) {
	iss := bfftest.NewIssuer(bfftest.Options{})
	discovery := iss.URL() + "/.well-known/openid-configuration"
	heal := iss.Break("discovery", bfftest.Fault{EditJSON: func(m map[string]any) { m["issuer"] = m["issuer"].(string) + "INVALID" }})
	if _, _, m := get(t, iss, discovery, ""); m["issuer"] != iss.URL()+"INVALID" {
		t.Errorf("issuer = %v", m["issuer"])
	}
	heal()
	if _, _, m := get(t, iss, discovery, ""); m["issuer"] != iss.URL() {
		t.Errorf("issuer after heal = %v", m["issuer"])
	}
	iss.Break("jwks", bfftest.Fault{EditJSON: func(m map[string]any) {
		m["keys"] = append(m["keys"].([]any), bfftest.HMACKey("HS256", []byte("secret")).JWK())
	}})
	if _, _, m := get(t, iss, iss.URL()+"/jwks", ""); len(m["keys"].([]any)) != 2 {
		t.Errorf("keys = %v, want 2", m["keys"])
	}
	iss.Break("jwks", bfftest.Fault{Times: 1, Status: 500, Header: http.Header{"Content-Type": {"text/plain"}, "Cache-Control": nil}, Body: "no"})
	status, header, _ := get(t, iss, iss.URL()+"/jwks", "")
	if status != 500 || header.Get("Content-Type") != "text/plain" || header.Get("Cache-Control") != "" {
		t.Errorf("jwks = %d %v", status, header)
	}
	if status, _, _ := get(t, iss, iss.URL()+"/jwks", ""); status != 200 {
		t.Errorf("jwks after the fault's time = %d, want 200", status)
	}
	iss.Break("jwks", bfftest.Fault{EditBody: func([]byte) []byte { return []byte(`[]`) }})
	if _, _, m := get(t, iss, iss.URL()+"/jwks", ""); m != nil {
		t.Errorf("jwks = %v, want an array", m)
	}
	iss.Heal()
	if _, _, m := get(t, iss, iss.URL()+"/jwks", ""); len(m["keys"].([]any)) != 1 {
		t.Errorf("keys after Heal = %v, want 1", m["keys"])
	}
}

func TestEditCallback(t *testing.T) {
	for _, row := range []struct {
		name string
		edit func(url.Values)
		want string
	}{
		{"wrong-iss", func(v url.Values) { v.Set("iss", "https://evil.example") }, "iss=https%3A%2F%2Fevil.example"},
		{"no-iss", func(v url.Values) { v.Del("iss") }, ""},
		{"two-codes", func(v url.Values) { v.Add("code", "x") }, "&code=x"},
		{"error", func(v url.Values) { v.Set("error", "access_denied") }, "error=access_denied"},
	} {
		t.Run(row.name, func(t *testing.T) {
			iss := bfftest.NewIssuer(bfftest.Options{IssParameter: true})
			iss.Break("callback", bfftest.Fault{EditCallback: row.edit})
			b := bfftest.NewBrowser(newRP(iss), appURL, iss)
			b.SignIn("alice")
			var query string
			for _, h := range b.Hops() {
				if h.URL.Path == "/auth/callback" {
					query = h.URL.RawQuery
				}
			}
			if n := iss.Count("callback"); n != 1 {
				t.Errorf("Count(callback) = %d, want 1", n)
			}
			if query == "" || !strings.Contains(query, row.want) || row.want == "" && strings.Contains(query, "iss=") {
				t.Errorf("callback with %q, want %q in it", query, row.want)
			}
		})
	}
}

// A lost answer and a request that never arrived differ in what was spent.
func TestLostAnswers(t *testing.T) {
	for _, row := range []struct {
		name  string
		fault bfftest.Fault
		after string // the answer to the second refresh with the same token
	}{
		{"lost", bfftest.Fault{CloseBeforeAnswer: true}, "invalid_grant"},
		{"cut-off", bfftest.Fault{CloseAfter: 10}, "invalid_grant"},
		{"never-arrived", bfftest.Fault{CloseBeforeAnswer: true, BeforeProcessing: true}, ""},
		{"down", bfftest.Fault{Status: 503, BeforeProcessing: true}, ""},
		{"refused", bfftest.Fault{Error: "temporarily_unavailable", BeforeProcessing: true}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			iss := bfftest.NewIssuer(bfftest.Options{})
			a := newRP(iss)
			_, tok := a.signIn(t, "bob")
			row.fault.Times = 1
			iss.Break("token:refresh_token", row.fault)
			if first := a.refresh(tok.RefreshToken); first.Error == "" {
				t.Errorf("first refresh = %+v, want an error", first)
			}
			if second := a.refresh(tok.RefreshToken); second.Error != row.after {
				t.Errorf("second refresh = %+v, want %q", second, row.after)
			}
		})
	}
}

// Skip and Times make sequences, and several faults add up.
func TestSequence(t *testing.T) {
	iss := bfftest.NewIssuer(bfftest.Options{})
	iss.Break("jwks", bfftest.Fault{Skip: 1, Times: 2, Status: 500})
	iss.Break("jwks", bfftest.Fault{Skip: 2, Times: 1, Status: 404})
	iss.Break("jwks", bfftest.Fault{When: func(r *http.Request) bool { return r.FormValue("x") != "" }, Status: 418})
	for i, want := range []int{200, 500, 404, 200} {
		if got, _, _ := get(t, iss, iss.URL()+"/jwks", ""); got != want {
			t.Errorf("request %d = %d, want %d", i, got, want)
		}
	}
	if got, _, _ := get(t, iss, iss.URL()+"/jwks?x=1", ""); got != 418 {
		t.Errorf("request with x = %d, want 418", got)
	}
	if n := iss.Count("jwks"); n != 5 {
		t.Errorf("Count(jwks) = %d, want 5", n)
	}
}

// Slow, hanging and huge answers, by the bubble's clock.
func TestSlowAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		iss := bfftest.NewIssuer(bfftest.Options{})
		timed := func(timeout time.Duration) (time.Duration, int64, error) {
			start := time.Now()
			client := iss.Client()
			client.Timeout = timeout
			res, err := client.Get(iss.URL() + "/jwks")
			if err != nil {
				return time.Since(start), 0, err
			}
			defer res.Body.Close()
			n, err := io.Copy(io.Discard, res.Body)
			return time.Since(start), n, err
		}
		iss.Break("jwks", bfftest.Fault{Times: 1, Delay: time.Second, DelayAnswer: time.Minute})
		if took, _, err := timed(0); took != 61*time.Second || err != nil {
			t.Errorf("delayed: %v, %v; want 61 s", took, err)
		}
		iss.Break("jwks", bfftest.Fault{Times: 1, Hang: true})
		if took, _, err := timed(5 * time.Second); took != 5*time.Second || err == nil {
			t.Errorf("hanging: %v, %v; want a time-out after 5 s", took, err)
		}
		iss.Break("jwks", bfftest.Fault{Times: 1, Drip: time.Second})
		if took, _, err := timed(20 * time.Second); took != 20*time.Second || err == nil {
			t.Errorf("dripping: %v, %v; want a time-out after 20 s", took, err)
		}
		iss.Break("jwks", bfftest.Fault{Times: 1, BodySize: 100 << 20})
		if took, n, err := timed(0); took != 0 || n != 100<<20 || err != nil {
			t.Errorf("huge: %d bytes, %v; want 100 MiB", n, err)
		}
		iss.Break("jwks", bfftest.Fault{Times: 1, Header: http.Header{"Content-Length": {"9999"}}})
		if _, _, err := timed(0); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("short body: %v, want unexpected EOF", err)
		}
	})
}

// The functions of a fault may call the issuer: here it rotates its keys
// between two steps, and ends the user while an answer is on its way.
func TestHooks(t *testing.T) {
	iss := bfftest.NewIssuer(bfftest.Options{})
	a := newRP(iss)
	first := iss.Key().ID
	iss.Break("token", bfftest.Fault{Times: 1, Before: func(*http.Request) { iss.RotateKeys() }})
	_, tok := a.signIn(t, "alice")
	if kid := headerOf(tok.IDToken)["kid"]; kid == first {
		t.Error("signed with the old key")
	}
	gate, entered := make(chan struct{}), make(chan struct{})
	iss.Break("token:refresh_token", bfftest.Fault{After: func(*http.Request) { close(entered); <-gate }})
	answer := make(chan tokens)
	go func() { answer <- a.refresh(tok.RefreshToken) }()
	<-entered
	iss.Revoke("alice")
	close(gate)
	if got := <-answer; got.status != 200 || iss.LiveGrants() != 0 {
		t.Errorf("refresh = %+v with %d live grants", got, iss.LiveGrants())
	}
}

func TestDown(t *testing.T) {
	iss := bfftest.NewIssuer(bfftest.Options{})
	iss.Down(true)
	_, err := iss.Client().Get(iss.URL() + "/jwks")
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "dial" || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("GET from an issuer that is down: %v, want connection refused", err)
	}
	iss.Down(false)
	if status, _, _ := get(t, iss, iss.URL()+"/jwks", ""); status != 200 {
		t.Errorf("GET after that = %d", status)
	}
	started := bfftest.StartIssuer(t, bfftest.Options{})
	started.Down(true)
	if _, err := started.Client().Get(started.URL() + "/jwks"); err == nil {
		t.Error("an issuer that is down answers over its socket")
	}
}

// A client that gives up before the request is processed spends nothing.
func TestGivingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		iss := bfftest.NewIssuer(bfftest.Options{})
		a := newRP(iss)
		_, tok := a.signIn(t, "alice")
		iss.Break("token", bfftest.Fault{Times: 1, Delay: time.Minute})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		form := url.Values{"grant_type": {"refresh_token"}, "client_id": {iss.ClientID()}, "refresh_token": {tok.RefreshToken}}
		req, err := http.NewRequestWithContext(ctx, "POST", iss.URL()+"/token", strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if _, err := iss.Client().Do(req); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("refresh = %v, want a time-out", err)
		}
		if again := a.refresh(tok.RefreshToken); again.status != 200 {
			t.Errorf("refresh after that = %+v", again)
		}
	})
}

// A mistake in a test is not a test that passes.
func TestBreakPanics(t *testing.T) {
	iss := bfftest.NewIssuer(bfftest.Options{})
	for endpoint, f := range map[string]bfftest.Fault{
		"tokens":                {Hang: true},
		"login":                 {EditCallback: func(url.Values) {}},
		"callback":              {Hang: true},
		"jwks":                  {EditIDToken: func(*bfftest.Token) {}},
		"refresh:refresh_token": {},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Break(%q) passed", endpoint)
				}
			}()
			iss.Break(endpoint, f)
		}()
	}
}

// One answer without body and type, as some issuers refuse a refresh token.
func TestEmptyAnswer(t *testing.T) {
	for _, iss := range []*bfftest.Issuer{bfftest.NewIssuer(bfftest.Options{}), bfftest.StartIssuer(t, bfftest.Options{})} {
		iss.Break("jwks", bfftest.Fault{Status: 400, Header: http.Header{"Content-Type": nil}, EditBody: func([]byte) []byte { return nil }})
		res, err := iss.Client().Get(iss.URL() + "/jwks")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != 400 || len(body) != 0 || res.Header["Content-Type"] != nil {
			t.Errorf("jwks = %d %q %v", res.StatusCode, body, res.Header)
		}
	}
}
