package issuer_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log"
	"log/slog"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/agglestone/bff/internal/issuer"
)

const (
	testIssuer = "https://op.test/t" // of the issuer in the process
	clientID   = "client-1"
	testNonce  = "nonce-of-the-login"

	// What no error may hold, raw or encoded.
	secretCode     = "sentinel-code-8b1f"
	secretVerifier = "sentinel-verifier-77aa-77aa-77aa-77aa-77aa-77aa"
	secretRefresh  = "sentinel-refresh-41cc"
	secretAccess   = "sentinel-access-95de"
	secretClient   = "sentinel:p@ss w+rd%"
	secretText     = "sentinel-description"
)

type key struct {
	kid, alg string
	private  crypto.Signer
}

var (
	rsaKey   = key{"rs1", "RS256", mustRSA(2048)}
	otherRSA = key{"rs2", "RS256", mustRSA(2048)}
	weakRSA  = key{"weak", "RS256", mustRSA(1024)}
	ecKey    = key{"es1", "ES256", mustEC(elliptic.P256())}
	edKey    = key{"ed1", "EdDSA", mustEd()}
)

func mustRSA(bits int) crypto.Signer {
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return k
}

func mustEC(curve elliptic.Curve) crypto.Signer {
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

func mustEd() crypto.Signer {
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// jwk returns k's public half, with more members on top.
func (k key) jwk(more ...any) map[string]any {
	m := map[string]any{"kid": k.kid}
	switch pub := k.private.Public().(type) {
	case *rsa.PublicKey:
		m["kty"], m["n"], m["e"] = "RSA", b64(pub.N.Bytes()), b64(big.NewInt(int64(pub.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := pub.Bytes() // 4, x, y
		if err != nil {
			panic(err)
		}
		half := len(point) / 2
		m["kty"], m["crv"] = "EC", pub.Curve.Params().Name
		m["x"], m["y"] = b64(point[1:1+half]), b64(point[1+half:])
	case ed25519.PublicKey:
		m["kty"], m["crv"], m["x"] = "OKP", "Ed25519", b64(pub)
	}
	for i := 0; i < len(more); i += 2 {
		m[more[i].(string)] = more[i+1]
	}
	return m
}

func privateJWK(k key) map[string]any {
	p := k.private.(*rsa.PrivateKey)
	return k.jwk("d", b64(p.D.Bytes()), "p", b64(p.Primes[0].Bytes()), "q", b64(p.Primes[1].Bytes()))
}

// signature signs input as alg says, whatever suits the key.
func (k key) signature(alg, input string) []byte {
	var hash crypto.Hash
	var digest []byte
	switch alg[len(alg)-3:] {
	case "256":
		sum := sha256.Sum256([]byte(input))
		hash, digest = crypto.SHA256, sum[:]
	case "512":
		sum := sha512.Sum512([]byte(input))
		hash, digest = crypto.SHA512, sum[:]
	default:
		hash, digest = crypto.Hash(0), []byte(input)
	}
	var opts crypto.SignerOpts = hash
	if strings.HasPrefix(alg, "PS") {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash}
	}
	if private, ok := k.private.(*ecdsa.PrivateKey); ok {
		r, s, err := ecdsa.Sign(rand.Reader, private, digest)
		if err != nil {
			panic(err)
		}
		size := map[string]int{"ES256": 32, "ES512": 66}[alg]
		sig := make([]byte, 2*size)
		r.FillBytes(sig[:size])
		s.FillBytes(sig[size:])
		return sig
	}
	sig, err := k.private.Sign(rand.Reader, digest, opts)
	if err != nil {
		panic(err)
	}
	return sig
}

// jwt signs payload, with more header members on top.
func (k key) jwt(payload string, more ...any) string {
	header := map[string]any{"alg": k.alg, "kid": k.kid}
	for i := 0; i < len(more); i += 2 {
		if more[i+1] == nil {
			delete(header, more[i].(string))
			continue
		}
		header[more[i].(string)] = more[i+1]
	}
	input := b64(toJSON(header)) + "." + b64([]byte(payload))
	return input + "." + b64(k.signature(header["alg"].(string), input))
}

func hs256(secret []byte, payload string) string {
	input := b64([]byte(`{"alg":"HS256","kid":"rs1"}`)) + "." + b64([]byte(payload))
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(input))
	return input + "." + b64(mac.Sum(nil))
}

func toJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

var quiet = log.New(io.Discard, "", 0)

type object = map[string]any

// idClaims are the claims of a good ID token; the pairs in more replace some,
// and nil removes one.
func idClaims(more ...any) object {
	now := time.Now().Unix()
	c := object{"iss": testIssuer, "sub": "alice", "aud": clientID, "iat": now, "exp": now + 300, "nonce": testNonce}
	for i := 0; i < len(more); i += 2 {
		if more[i+1] == nil {
			delete(c, more[i].(string))
			continue
		}
		c[more[i].(string)] = more[i+1]
	}
	return c
}

// op is an OpenID provider. Its handlers may be replaced while it serves.
type op struct {
	issuer string
	mu     sync.Mutex
	doc    object
	keys   []any
	routes map[string]http.HandlerFunc // by path below the issuer's
	seen   []*http.Request             // forms parsed
}

func newOP(id string) *op {
	base := strings.TrimSuffix(id, "/")
	o := &op{issuer: id, keys: []any{rsaKey.jwk(), ecKey.jwk(), edKey.jwk()}}
	o.doc = object{
		"issuer": id, "authorization_endpoint": base + "/authorize", "token_endpoint": base + "/token",
		"jwks_uri": base + "/jwks", "userinfo_endpoint": base + "/userinfo", "revocation_endpoint": base + "/revoke",
		"end_session_endpoint": base + "/logout", "authorization_response_iss_parameter_supported": true,
		"response_types_supported": []string{"code"}, "id_token_signing_alg_values_supported": []string{"none", "HS256"},
	}
	o.routes = map[string]http.HandlerFunc{
		"/.well-known/openid-configuration": func(w http.ResponseWriter, r *http.Request) { writeJSON(w, 200, o.doc) },
		"/jwks":                             func(w http.ResponseWriter, r *http.Request) { writeJSON(w, 200, object{"keys": o.keys}) },
		"/token": func(w http.ResponseWriter, r *http.Request) {
			writeJSON(w, 200, grantOf("id_token", rsaKey.jwt(string(toJSON(idClaims("iss", id))))))
		},
		"/userinfo": func(w http.ResponseWriter, r *http.Request) {
			writeJSON(w, 200, object{"sub": "alice", "name": "Alice"})
		},
		"/revoke": func(w http.ResponseWriter, r *http.Request) {},
	}
	return o
}

// grantOf is a good answer of the token endpoint; the pairs in more replace
// some, and nil removes one.
func grantOf(more ...any) object {
	g := object{"access_token": secretAccess, "token_type": "Bearer", "expires_in": 900, "refresh_token": secretRefresh, "scope": "openid"}
	for i := 0; i < len(more); i += 2 {
		if more[i+1] == nil {
			delete(g, more[i].(string))
			continue
		}
		g[more[i].(string)] = more[i+1]
	}
	return g
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(toJSON(v))
}

// answer replaces the handler of a path.
func (o *op) answer(path string, h http.HandlerFunc) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.routes = maps.Clone(o.routes)
	o.routes[path] = h
}

func (o *op) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.ParseForm()
	u, _ := url.Parse(o.issuer)
	path := strings.TrimPrefix(r.URL.Path, strings.TrimSuffix(u.Path, "/"))
	o.mu.Lock()
	o.seen = append(o.seen, r)
	h := o.routes[path]
	o.mu.Unlock()
	if h == nil {
		http.NotFound(w, r)
		return
	}
	h(w, r)
}

// requests returns what came for paths with this end.
func (o *op) requests(end string) []*http.Request {
	o.mu.Lock()
	defer o.mu.Unlock()
	var some []*http.Request
	for _, r := range o.seen {
		if strings.HasSuffix(r.URL.Path, end) {
			some = append(some, r)
		}
	}
	return some
}

// RoundTrip makes the provider a transport, for tests whose clock a socket
// would stop.
func (o *op) RoundTrip(r *http.Request) (*http.Response, error) {
	done := make(chan *http.Response, 1)
	go func() {
		w := httptest.NewRecorder()
		in := r.Clone(r.Context())
		if in.Body == nil {
			in.Body = http.NoBody
		}
		o.ServeHTTP(w, in)
		done <- w.Result()
	}()
	select {
	case resp := <-done:
		return resp, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// client returns a client of the provider in the process.
func (o *op) client(t *testing.T, change ...func(*issuer.Config)) *issuer.Client {
	t.Helper()
	cfg := issuer.Config{
		Issuer: o.issuer, ClientID: clientID, AuthMethod: "none", RedirectURL: "https://app.test/auth/callback",
		Scopes: []string{"openid", "profile"}, SigningAlgs: []string{"RS256", "PS256", "ES256", "EdDSA"},
		ClockSkew: 30 * time.Second, Timeout: 10 * time.Second, HTTPClient: &http.Client{Transport: o},
		Logger: slog.New(slog.DiscardHandler),
	}
	for _, f := range change {
		f(&cfg)
	}
	c := issuer.New(cfg)
	t.Cleanup(func() {
		if err := c.Close(context.Background()); err != nil {
			t.Errorf("Close = %v, want nil", err)
		}
	})
	return c
}

// listen serves the provider on a TLS socket and returns it with a client that
// trusts it.
func listen(t *testing.T, change ...func(*issuer.Config)) (*op, *issuer.Client) {
	t.Helper()
	var o *op
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { o.ServeHTTP(w, r) }))
	srv.Config.ErrorLog = quiet // of handshakes that are meant to fail
	srv.StartTLS()
	t.Cleanup(srv.Close)
	o = newOP(srv.URL + "/t")
	change = append([]func(*issuer.Config){func(cfg *issuer.Config) { cfg.HTTPClient = srv.Client() }}, change...)
	return o, o.client(t, change...)
}

// problem asserts an *Error of this kind and check, without a secret in it.
func problem(t *testing.T, err error, kind issuer.Kind, check string) *issuer.Error {
	t.Helper()
	e, ok := errors.AsType[*issuer.Error](err)
	if !ok {
		t.Fatalf("error = %v (%T), want an *issuer.Error", err, err)
	}
	if e.Kind != kind || e.Check != check {
		t.Errorf("error = %v, kind %v, check %q; want kind %v, check %q", e, e.Kind, e.Check, kind, check)
	}
	for err := error(e); err != nil; err = errors.Unwrap(err) {
		quoted, _ := json.Marshal(err.Error())
		for _, form := range []string{err.Error(), string(quoted)} {
			plain, _ := url.QueryUnescape(form)
			if strings.Contains(form, "sentinel") || strings.Contains(plain, "sentinel") {
				t.Errorf("error text %q holds a secret", form)
			}
		}
	}
	return e
}

// logger returns a logger and what it wrote.
func logger() (*slog.Logger, func() string) {
	var mu sync.Mutex
	var b bytes.Buffer
	w := writer(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return b.Write(p)
	})
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug})), func() string {
		mu.Lock()
		defer mu.Unlock()
		return b.String()
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }
