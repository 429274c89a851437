package bfftest_test

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/agglestone/bff/bfftest"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const appURL = "https://app.example.com"

// An rp is the smallest relying party that can tell whether an issuer works.
type rp struct {
	iss    *bfftest.Issuer
	origin string
	query  string // added to authorization requests
	secret string
	method string

	mu       sync.Mutex
	pending  map[string]string // verifiers by state
	sessions map[string]tokens
}

type tokens struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	IDToken      string `json:"id_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int    `json:"expires_in"`
	Scope        string `json:"scope"`
	Error        string `json:"error"`
	status       int
}

func newRP(iss *bfftest.Issuer) *rp {
	return &rp{iss: iss, origin: appURL, pending: map[string]string{}, sessions: map[string]tokens{}}
}

func (a *rp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch r.URL.Path {
	case "/login":
		state, verifier := rand.Text(), rand.Text()+rand.Text()
		a.pending[state] = verifier
		http.SetCookie(w, &http.Cookie{Name: a.name("attempt"), Value: state, Path: "/", HttpOnly: true, Secure: a.secure(), SameSite: http.SameSiteLaxMode})
		http.Redirect(w, r, a.authorizeURL(state, verifier), http.StatusFound)
	case "/auth/callback":
		state := r.FormValue("state")
		attempt, err := r.Cookie(a.name("attempt"))
		if err != nil || attempt.Value != state || a.pending[state] == "" || r.FormValue("code") == "" {
			w.Header().Set("BFF-Reason", "login_mismatch")
			http.Error(w, "no such attempt: "+r.FormValue("error"), http.StatusBadRequest)
			return
		}
		t, err := a.token(url.Values{
			"grant_type": {"authorization_code"}, "code": {r.FormValue("code")},
			"redirect_uri": {a.origin + "/auth/callback"}, "code_verifier": {a.pending[state]},
		})
		if err != nil || t.status != http.StatusOK {
			http.Error(w, fmt.Sprint(t.Error, err), http.StatusBadGateway)
			return
		}
		id := rand.Text()
		a.sessions[id] = t
		http.SetCookie(w, &http.Cookie{Name: a.name("session"), Value: id, Path: "/", HttpOnly: true, Secure: a.secure(), SameSite: http.SameSiteLaxMode})
		http.Redirect(w, r, "/", http.StatusFound)
	default:
		c, err := r.Cookie(a.name("session"))
		if err != nil || a.sessions[c.Value].AccessToken == "" {
			http.Error(w, "not signed in", http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, "site=%s mode=%s dest=%s origin=%s", r.Header.Get("Sec-Fetch-Site"), r.Header.Get("Sec-Fetch-Mode"), r.Header.Get("Sec-Fetch-Dest"), r.Header.Get("Origin"))
	}
}

func (a *rp) secure() bool { return strings.HasPrefix(a.origin, "https:") }

func (a *rp) name(s string) string {
	if a.secure() {
		return "__Host-Http-" + s
	}
	return s
}

func (a *rp) authorizeURL(state, verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return a.iss.URL() + "/authorize?" + url.Values{
		"response_type": {"code"}, "client_id": {a.iss.ClientID()}, "redirect_uri": {a.origin + "/auth/callback"},
		"scope": {"openid profile email"}, "state": {state}, "nonce": {"n-" + state},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
	}.Encode() + a.query
}

func (a *rp) token(form url.Values) (t tokens, err error) {
	if a.method != "client_secret_basic" {
		form.Set("client_id", a.iss.ClientID())
	}
	if a.method == "client_secret_post" {
		form.Set("client_secret", a.secret)
	}
	req, err := http.NewRequest("POST", a.iss.URL()+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		return t, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if a.method == "client_secret_basic" {
		req.SetBasicAuth(url.QueryEscape(a.iss.ClientID()), url.QueryEscape(a.secret))
	}
	res, err := a.iss.Client().Do(req)
	if err != nil {
		return t, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return t, err
	}
	t.status = res.StatusCode
	return t, json.Unmarshal(body, &t)
}

func (a *rp) refresh(token string) tokens {
	t, err := a.token(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}})
	if err != nil {
		t.Error = err.Error()
	}
	return t
}

// signIn signs a user in and returns the tokens that came of it.
func (a *rp) signIn(t *testing.T, user string) (*bfftest.Browser, tokens) {
	t.Helper()
	b := bfftest.NewBrowser(a, a.origin, a.iss)
	if r := b.SignIn(user); r.Err != nil {
		t.Fatal(r.Err)
	}
	return b, a.of(t, b)
}

// of returns the tokens of the session in a browser.
func (a *rp) of(t *testing.T, b *bfftest.Browser) tokens {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range b.Cookies() {
		if s, ok := a.sessions[c.Value]; ok {
			return s
		}
	}
	t.Fatal("no session in this browser")
	return tokens{}
}

var anyAlg = []jose.SignatureAlgorithm{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256"}

// claims verifies a token with the keys that the issuer publishes.
func claims(iss *bfftest.Issuer, token string) (header jose.Header, m map[string]any, err error) {
	res, err := iss.Client().Get(iss.URL() + "/jwks")
	if err != nil {
		return header, nil, err
	}
	defer res.Body.Close()
	var set jose.JSONWebKeySet
	if err := json.NewDecoder(res.Body).Decode(&set); err != nil {
		return header, nil, err
	}
	parsed, err := jwt.ParseSigned(token, anyAlg)
	if err != nil {
		return header, nil, err
	}
	header = parsed.Headers[0]
	keys := set.Key(header.KeyID)
	if len(keys) != 1 {
		return header, nil, fmt.Errorf("%d keys with ID %q", len(keys), header.KeyID)
	}
	err = parsed.Claims(keys[0], &m)
	return header, m, err
}

// unverified decodes the claims of a token.
func unverified(t *testing.T, token string) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is no JWT", token)
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]any{}
	if err := json.Unmarshal(payload, &m); err != nil {
		t.Fatal(err)
	}
	return m
}
