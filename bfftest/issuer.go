// Package bfftest has what tests of a backend-for-frontend need: an OpenID
// provider in the process, and a browser that signs in to it.
//
//	iss := bfftest.NewIssuer(bfftest.Options{})
//	auth, err := bff.New(ctx, bff.Config{
//		Issuer:      iss.URL(),
//		ClientID:    iss.ClientID(),
//		RedirectURL: "https://app.example.com/auth/callback",
//		HTTPClient:  iss.Client(),
//		// ...
//	})
//	app := auth.Routes(mux)
//	alice := bfftest.SignIn(t, iss, app, "https://app.example.com", "alice")
//	res, err := alice.Get("https://app.example.com/api/users")
//
// # The issuer
//
// An [Issuer] is shaped like a tenant of the Agglestone Authentication and
// User Management Service: the same addresses, a client ID that is the tenant
// ID, no client secret, refresh tokens that rotate, group names in the tokens,
// and a Users API that wants the group Admin. [Options] turns it into other
// issuers. It never asks for a real password: its sign-in page has one button
// per user. Nobody should reach it from a network.
//
// It needs no socket. [Issuer.Transport] calls it directly, which also works
// in a testing/synctest bubble, where the tests own the clock. For a real
// browser there is [Issuer.Start].
//
// # Misbehaviour
//
// [Issuer.Break] spoils what an endpoint does: slow, huge, cut-off, lost and
// forged answers, tokens with any header, claims and signature, and any answer
// to the callback. [Issuer.Count], [Issuer.Log], [Issuer.Grants] and
// [Issuer.Secrets] tell what a relying party did about it.
//
// # The browser
//
// [SignIn] returns an [http.Client] that is signed in, and sends what the
// fetch of a page in a browser sends. A [Browser] goes step by step. It keeps
// the rules on cookies that net/http/cookiejar doesn't have: SameSite, and
// name prefixes such as __Host-. For a test of one handler there is
// [NewContext].
//
// The package doesn't import testing, so that programs can embed the issuer.
package bfftest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// TB is what this package wants of a *testing.T.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Cleanup(func())
}

// Options says what kind of issuer [NewIssuer] makes. The zero Options are an
// Agglestone tenant with the users alice (in the groups Admin and Users), bob
// and carol (in Users).
type Options struct {
	// BaseURL is the origin of the issuer. Empty means
	// https://auth.bfftest.example until [Issuer.Start], and the address of
	// the listener from then on.
	BaseURL string

	// TenantID is part of every path and the ID of the default client. Empty
	// means a fixed one.
	TenantID string

	// UsersPath is the path of the Users API below /tenant/{id}. Empty means
	// /v2.0/Users.
	UsersPath string

	// Users can sign in, and are listed by the Users API. Nil means alice, bob
	// and carol.
	Users []User

	// Clients may use the issuer. Nil means one public client whose ID is the
	// tenant ID.
	Clients []Client

	// AccessTokenLifetime is 15 minutes if zero.
	AccessTokenLifetime time.Duration

	// RefreshTokenLifetime counts from each rotation. Zero means 30 days.
	RefreshTokenLifetime time.Duration

	// NoRotation leaves a refresh token valid after its use, and new ones out
	// of the answer to a refresh.
	NoRotation bool

	// ReuseRefused has the second use of a refresh token refused and nothing
	// else. Otherwise it ends the whole grant (RFC 9700, section 4.14.2).
	ReuseRefused bool

	// NoRefreshToken leaves refresh tokens out altogether;
	// RefreshNeedsOfflineAccess leaves them out unless the scope
	// offline_access was asked for.
	NoRefreshToken            bool
	RefreshNeedsOfflineAccess bool

	// NoIDTokenOnRefresh leaves the ID token out of the answer to a refresh.
	NoIDTokenOnRefresh bool

	// StrictAccessTokens has access tokens end with their grant, and when a
	// refresh replaces them. Otherwise they are good until they expire, as
	// signed tokens are that nobody looks up.
	StrictAccessTokens bool

	// NoUserInfo, NoEndSession and NoRevocation take the endpoint away: it is
	// not in the metadata and answers 404.
	NoUserInfo   bool
	NoEndSession bool
	NoRevocation bool

	// IssParameter adds iss to authorization responses, and says so in the
	// metadata (RFC 9207).
	IssParameter bool

	// GroupsAsString writes the groups claim of a user with a single group as
	// a string instead of an array.
	GroupsAsString bool

	// ClaimsAtUserInfoOnly keeps name, email and groups out of ID tokens.
	ClaimsAtUserInfoOnly bool

	// AccessTokenHash adds at_hash to ID tokens.
	AccessTokenHash bool

	// IgnoreStepUp has max_age and acr_values ignored, and auth_time and acr
	// left out of tokens.
	IgnoreStepUp bool

	// TLS makes [Issuer.Start] serve https, with a certificate that
	// [Issuer.CertPool] vouches for.
	TLS bool
}

// A Client is a relying party that the issuer knows.
type Client struct {
	ID string

	// Secret makes it a confidential client. Empty means a public one, which
	// must not authenticate.
	Secret string

	// AuthMethod is the only one accepted: client_secret_basic or
	// client_secret_post. Empty means either.
	AuthMethod string

	// RedirectURIs and PostLogoutURIs are compared exactly. Nil means any URI
	// whose host is loopback or a name reserved for tests (RFC 2606: .test,
	// .example, .localhost, example.com, .net and .org).
	RedirectURIs   []string
	PostLogoutURIs []string
}

const defaultTenant = "5f2b7c1e-0d4a-4c55-9a63-1f8e2d7b9c04"

// An Issuer is an OpenID provider. Its methods run concurrently.
type Issuer struct {
	opts    Options
	tenant  string // /tenant/{id}
	auth    string // the path of the issuer identifier
	clients map[string]Client

	mu       sync.Mutex // not held while a Fault's functions run
	base     string
	socket   *socket // nil: not started
	down     bool
	users    []*user
	keys     []Key // the first signs, all are published; made when first needed
	sessions map[string]*session
	codes    map[string]*code
	refresh  map[string]*refreshToken
	access   map[string]*accessToken
	hints    map[string]string // who an ID token was issued to
	grants   []*grant
	faults   []*brokenness
	counts   map[string]int
	log      []*Request
	secrets  []string
}

// NewIssuer returns an issuer that is ready to serve. It panics if opts make
// no sense.
func NewIssuer(opts Options) *Issuer {
	if opts.TenantID == "" {
		opts.TenantID = defaultTenant
	}
	if opts.UsersPath == "" {
		opts.UsersPath = "/v2.0/Users"
	}
	if opts.AccessTokenLifetime == 0 {
		opts.AccessTokenLifetime = 15 * time.Minute
	}
	if opts.RefreshTokenLifetime == 0 {
		opts.RefreshTokenLifetime = 30 * 24 * time.Hour
	}
	if opts.Clients == nil {
		opts.Clients = []Client{{ID: opts.TenantID}}
	}
	if opts.Users == nil {
		opts.Users = []User{
			{Name: "alice", DisplayName: "Alice Archer", Groups: []string{"Admin", "Users"}},
			{Name: "bob", DisplayName: "Bob Baker", Groups: []string{"Users"}},
			{Name: "carol", DisplayName: "Carol Cooper", Groups: []string{"Users"}},
		}
	}
	iss := &Issuer{
		opts:     opts,
		base:     "https://auth.bfftest.example",
		tenant:   "/tenant/" + opts.TenantID,
		clients:  map[string]Client{},
		sessions: map[string]*session{},
		codes:    map[string]*code{},
		refresh:  map[string]*refreshToken{},
		access:   map[string]*accessToken{},
		hints:    map[string]string{},
		counts:   map[string]int{},
	}
	if opts.BaseURL != "" {
		u, err := url.Parse(opts.BaseURL)
		if err != nil || u.Host == "" || u.Path != "" {
			panic(fmt.Sprintf("bfftest: BaseURL %q is not an origin such as https://auth.example.com", opts.BaseURL))
		}
		iss.base = opts.BaseURL
	}
	iss.auth = iss.tenant + "/v2.0/Auth"
	for _, c := range opts.Clients {
		iss.clients[c.ID] = c
	}
	for _, u := range opts.Users {
		iss.AddUser(u)
	}
	return iss
}

// URL returns the issuer identifier: the value of iss.
func (iss *Issuer) URL() string { return iss.BaseURL() + iss.auth }

// BaseURL returns the origin of the issuer.
func (iss *Issuer) BaseURL() string {
	iss.mu.Lock()
	defer iss.mu.Unlock()
	return iss.base
}

// UsersURL returns the address of the Users API.
func (iss *Issuer) UsersURL() string { return iss.BaseURL() + iss.tenant + iss.opts.UsersPath }

// TenantID returns the tenant's ID.
func (iss *Issuer) TenantID() string { return iss.opts.TenantID }

// ClientID returns the ID of the first client.
func (iss *Issuer) ClientID() string { return iss.opts.Clients[0].ID }

// Handler returns iss, for those who look for a handler.
func (iss *Issuer) Handler() http.Handler { return iss }

// Down makes the issuer unreachable, or reachable again. In the process,
// connections are refused; over a socket they break without an answer.
func (iss *Issuer) Down(down bool) {
	iss.mu.Lock()
	defer iss.mu.Unlock()
	iss.down = down
}

// An exchange is one request as the endpoints see it. What they write is held
// until the faults had their turn.
type exchange struct {
	*http.Request
	endpoint string
	entry    *Request // in the log
	faults   []*Fault

	status int
	header http.Header
	body   bytes.Buffer
}

func (x *exchange) Header() http.Header         { return x.header }
func (x *exchange) Write(p []byte) (int, error) { return x.body.Write(p) }
func (x *exchange) WriteHeader(status int)      { x.status = status }

// json answers with v.
func (x *exchange) json(status int, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // what we answer can be marshalled
	}
	x.header.Set("Content-Type", "application/json")
	x.status = status
	x.body.Reset()
	x.body.Write(text)
}

// oauthError answers as RFC 6749, section 5.2 says.
func (x *exchange) oauthError(status int, code, description string) {
	x.json(status, map[string]any{"error": code, "error_description": description})
}

// maxBody bounds what the issuer reads of a request.
const maxBody = 1 << 20

// ServeHTTP answers requests to the issuer and to its Users API.
func (iss *Issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	iss.mu.Lock()
	down := iss.down
	iss.mu.Unlock()
	if down {
		refuseConnection(r)
	}
	endpoint, serve := iss.route(r)
	if serve == nil {
		http.NotFound(w, r)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if err := r.ParseForm(); err != nil {
		http.Error(w, "the form can't be read", http.StatusBadRequest)
		return
	}
	x := &exchange{Request: r, endpoint: endpoint, status: http.StatusOK, header: http.Header{}}
	x.entry, x.faults = iss.arrived(x)
	// None of the answers may be kept, least of all tokens (RFC 6749, section
	// 5.1). JWKS and metadata are fetched anew too, so that tests see changes.
	x.header.Set("Cache-Control", "no-store")
	x.header.Set("X-Content-Type-Options", "nosniff")
	iss.serve(w, x, serve)
}

// route returns the name of the endpoint that r is for, and the endpoint; nil
// if there is none.
func (iss *Issuer) route(r *http.Request) (string, func(*exchange)) {
	if path, ok := strings.CutPrefix(r.URL.Path, iss.auth); ok {
		switch {
		case path == "/.well-known/openid-configuration":
			return "discovery", iss.serveDiscovery
		case path == "/jwks":
			return "jwks", iss.serveJWKS
		case path == "/authorize" && r.Method == http.MethodPost:
			return "login", iss.serveLogin
		case path == "/authorize":
			return "authorize", iss.serveAuthorize
		case path == "/token":
			return "token", iss.serveToken
		case path == "/userinfo" && !iss.opts.NoUserInfo:
			return "userinfo", iss.serveUserInfo
		case path == "/endsession" && !iss.opts.NoEndSession:
			return "endsession", iss.serveEndSession
		case path == "/revoke" && !iss.opts.NoRevocation:
			return "revoke", iss.serveRevoke
		}
	}
	if path, ok := strings.CutPrefix(r.URL.Path, iss.tenant+iss.opts.UsersPath); ok {
		if path == "" || path[0] == '/' {
			return "users", func(x *exchange) { iss.serveUsers(x, strings.TrimPrefix(path, "/")) }
		}
	}
	return "", nil
}

// serveDiscovery answers with the metadata of OpenID Connect Discovery 1.0,
// section 3.
func (iss *Issuer) serveDiscovery(x *exchange) {
	issuer := iss.URL()
	methods := []string{}
	for _, c := range iss.opts.Clients {
		switch {
		case c.Secret == "":
			methods = append(methods, "none")
		case c.AuthMethod != "":
			methods = append(methods, c.AuthMethod)
		default:
			methods = append(methods, "client_secret_basic", "client_secret_post")
		}
	}
	slices.Sort(methods)
	meta := map[string]any{
		"issuer":                                issuer,
		"authorization_endpoint":                issuer + "/authorize",
		"token_endpoint":                        issuer + "/token",
		"jwks_uri":                              issuer + "/jwks",
		"response_types_supported":              []string{"code"},
		"response_modes_supported":              []string{"query"},
		"grant_types_supported":                 []string{"authorization_code", "refresh_token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{iss.Key().Alg},
		"scopes_supported":                      []string{"openid", "profile", "email", "offline_access"},
		"token_endpoint_auth_methods_supported": slices.Compact(methods),
		"code_challenge_methods_supported":      []string{"S256"},
		"claims_supported":                      []string{"sub", "sid", "auth_time", "acr", "name", "email", "groups", "tenantId", "userId"},
		"prompt_values_supported":               []string{"none", "login", "consent", "select_account"},
		"request_uri_parameter_supported":       false,
	}
	if !iss.opts.NoUserInfo {
		meta["userinfo_endpoint"] = issuer + "/userinfo"
	}
	if !iss.opts.NoEndSession {
		meta["end_session_endpoint"] = issuer + "/endsession"
	}
	if !iss.opts.NoRevocation {
		meta["revocation_endpoint"] = issuer + "/revoke"
	}
	if iss.opts.IssParameter {
		meta["authorization_response_iss_parameter_supported"] = true
	}
	x.json(http.StatusOK, meta)
}

// allowed reports whether uri is one of those registered, or, with none
// registered, one that only tests can have.
func allowed(registered []string, uri string) bool {
	if registered != nil {
		return slices.Contains(registered, uri)
	}
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.Fragment != "" {
		return false
	}
	host := strings.ToLower(u.Hostname())
	return isLoopback(host) || isReserved(host)
}

func isLoopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// isReserved reports whether host is a name that nobody can own (RFC 2606).
func isReserved(host string) bool {
	for _, name := range []string{"test", "example", "example.com", "example.net", "example.org"} {
		if host == name || strings.HasSuffix(host, "."+name) {
			return true
		}
	}
	return false
}

// sweepAt is how many codes or tokens are kept before expired ones go.
const sweepAt = 4096

// sweep forgets what has expired, when there is much of it. The caller holds mu.
func (iss *Issuer) sweep() {
	now := time.Now()
	if len(iss.codes) > sweepAt {
		maps.DeleteFunc(iss.codes, func(_ string, c *code) bool { return now.After(c.expires.Add(time.Hour)) })
	}
	if len(iss.sessions) > sweepAt {
		maps.DeleteFunc(iss.sessions, func(_ string, s *session) bool { return now.Sub(s.authTime) > 24*time.Hour })
	}
	if len(iss.grants) > sweepAt {
		iss.grants = slices.DeleteFunc(iss.grants, func(g *grant) bool { return now.After(g.expires) && !g.expires.IsZero() })
	}
	if len(iss.refresh) > sweepAt {
		maps.DeleteFunc(iss.refresh, func(_ string, t *refreshToken) bool { return now.After(t.expires) })
	}
	for hint := range iss.hints { // any of them: it is forgotten that they were ours
		if len(iss.hints) <= sweepAt {
			break
		}
		delete(iss.hints, hint)
	}
	if len(iss.access) > sweepAt {
		maps.DeleteFunc(iss.access, func(_ string, t *accessToken) bool { return now.After(t.expires) })
	}
}
