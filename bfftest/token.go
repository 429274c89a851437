package bfftest

import (
	"crypto/subtle"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// A grant is what one code was redeemed for, through all its refreshes.
type grant struct {
	client    string
	user      *user
	session   session
	scope     []string
	created   time.Time
	refreshes int
	expires   time.Time // when nothing of it can be used any more
	why       string    // it ended
}

type refreshToken struct {
	grant   *grant
	expires time.Time
	used    bool
}

type accessToken struct {
	grant             *grant
	groups            []string
	expires           time.Time
	replaced, revoked bool
}

// Why a grant ended.
const (
	EndedByCodeReuse    = "code used twice"
	EndedByRefreshReuse = "refresh token used twice"
	EndedByRevocation   = "revoked by the client"
	EndedByAdmin        = "revoked by an administrator"
)

// GrantInfo says how one grant is doing.
type GrantInfo struct {
	ClientID  string
	User      string // the name
	Subject   string
	SID       string
	Scope     []string
	Created   time.Time
	Refreshes int

	// Live reports whether anybody who has its tokens can still use them or
	// get new ones.
	Live bool

	// Ended says why the grant ended before its time: one of the EndedBy
	// constants, or empty.
	Ended string
}

// Grants returns all grants, the oldest first.
func (iss *Issuer) Grants() []GrantInfo {
	iss.mu.Lock()
	defer iss.mu.Unlock()
	now := time.Now()
	var infos []GrantInfo
	for _, g := range iss.grants {
		infos = append(infos, GrantInfo{
			ClientID: g.client, User: g.user.Name, Subject: g.user.ID, SID: g.session.id,
			Scope: slices.Clone(g.scope), Created: g.created, Refreshes: g.refreshes,
			Live: g.why == "" && now.Before(g.expires), Ended: g.why,
		})
	}
	return infos
}

// LiveGrants returns how many grants are live.
func (iss *Issuer) LiveGrants() int {
	n := 0
	for _, g := range iss.Grants() {
		if g.Live {
			n++
		}
	}
	return n
}

// Revoke ends all grants of a user, given by name or ID, as an administrator
// does who wants them to sign in anew on all devices. It returns how many there
// were. The user's sessions at the issuer stay: see [Issuer.EndSessions].
func (iss *Issuer) Revoke(user string) int {
	iss.mu.Lock()
	defer iss.mu.Unlock()
	u, n := iss.user(user), 0
	for _, g := range iss.grants {
		if g.user == u && g.why == "" {
			g.why = EndedByAdmin
			n++
		}
	}
	return n
}

// client authenticates the client (RFC 6749, section 2.3). It returns nil if
// it has answered.
func (iss *Issuer) client(x *exchange) *Client {
	id, secret, basic := x.BasicAuth()
	fail := func(why string) *Client {
		if basic {
			x.header.Set("WWW-Authenticate", `Basic realm="token"`)
		}
		x.oauthError(http.StatusUnauthorized, "invalid_client", why)
		return nil
	}
	posted := x.PostForm.Has("client_secret")
	method := "none"
	switch {
	case basic && posted:
		iss.edit(x.entry, func(r *Request) { r.Auth = "client_secret_basic client_secret_post" })
		return fail("two ways of authentication at once")
	case basic:
		method = "client_secret_basic"
		var err1, err2 error
		id, err1 = url.QueryUnescape(id) // section 2.3.1
		secret, err2 = url.QueryUnescape(secret)
		if err1 != nil || err2 != nil {
			id = ""
		}
		if form := x.PostForm.Get("client_id"); form != "" && form != id {
			id = ""
		}
	case posted:
		method = "client_secret_post"
		id, secret = x.PostForm.Get("client_id"), x.PostForm.Get("client_secret")
	default:
		id = x.PostForm.Get("client_id")
	}
	iss.edit(x.entry, func(r *Request) {
		r.Auth, r.ClientID = method, id
		iss.note(secret)
	})
	c, ok := iss.clients[id]
	switch {
	case !ok:
		return fail("no such client")
	case c.Secret == "" && method != "none":
		return fail("a public client doesn't authenticate")
	case c.Secret != "" && method == "none":
		return fail("the client must authenticate")
	case c.AuthMethod != "" && c.AuthMethod != method:
		return fail("the client must use " + c.AuthMethod)
	case subtle.ConstantTimeCompare([]byte(c.Secret), []byte(secret)) != 1:
		return fail("wrong secret")
	}
	return &c
}

// serveToken is the token endpoint (RFC 6749, section 3.2).
func (iss *Issuer) serveToken(x *exchange) {
	if x.Method != http.MethodPost {
		x.header.Set("Allow", "POST")
		x.oauthError(http.StatusMethodNotAllowed, "invalid_request", "POST only")
		return
	}
	if x.URL.RawQuery != "" {
		x.oauthError(http.StatusBadRequest, "invalid_request", "parameters belong into the body")
		return
	}
	for name, values := range x.PostForm {
		if len(values) > 1 {
			x.oauthError(http.StatusBadRequest, "invalid_request", name+" is repeated")
			return
		}
	}
	c := iss.client(x)
	if c == nil {
		return
	}
	switch x.PostForm.Get("grant_type") {
	case "authorization_code":
		iss.redeem(x, c)
	case "refresh_token":
		iss.renew(x, c)
	default:
		x.oauthError(http.StatusBadRequest, "unsupported_grant_type", "authorization_code and refresh_token are supported")
	}
}

// redeem exchanges a code for tokens (RFC 6749, section 4.1.3).
func (iss *Issuer) redeem(x *exchange, c *Client) {
	verifier := x.PostForm.Get("code_verifier")
	iss.mu.Lock()
	iss.note(verifier)
	code := iss.codes[x.PostForm.Get("code")]
	why := ""
	switch {
	case code == nil || code.client != c.ID:
		why = "no such code"
	case code.used:
		why = "the code was used before"
		// Section 4.1.2: what it was redeemed for SHOULD be revoked.
		if code.grant != nil && code.grant.why == "" {
			code.grant.why = EndedByCodeReuse
		}
	case !time.Now().Before(code.expires):
		why = "the code has expired"
	case code.redirectURI != x.PostForm.Get("redirect_uri"):
		why = "the redirect_uri is another"
	case !verifies(code.challenge, verifier):
		why = "the code_verifier doesn't match"
	}
	if code != nil && code.client == c.ID {
		code.used = true // a failed attempt uses it up too
	}
	if why != "" {
		iss.mu.Unlock()
		x.oauthError(http.StatusBadRequest, "invalid_grant", why)
		return
	}
	g := &grant{
		client: c.ID, user: code.session.user, session: code.session,
		scope: code.scope, created: time.Now(),
	}
	code.grant = g
	iss.grants = append(iss.grants, g)
	iss.mu.Unlock()
	iss.answerTokens(x, g, code.nonce, true)
}

// renew exchanges a refresh token for new tokens (RFC 6749, section 6).
func (iss *Issuer) renew(x *exchange, c *Client) {
	iss.mu.Lock()
	t := iss.refresh[x.PostForm.Get("refresh_token")]
	why, code := "", "invalid_grant"
	switch {
	case t == nil || t.grant.client != c.ID:
		why = "no such refresh token"
	case t.grant.why != "":
		why = "the grant has ended"
	case t.used:
		why = "the refresh token was used before"
		if !iss.opts.ReuseRefused {
			t.grant.why = EndedByRefreshReuse
		}
	case !time.Now().Before(t.expires):
		why = "the refresh token has expired"
	case t.grant.user.Disabled:
		why = "the user is disabled"
	}
	if why == "" {
		for _, s := range strings.Fields(x.PostForm.Get("scope")) {
			if !slices.Contains(t.grant.scope, s) {
				why, code = "the scope exceeds the one granted", "invalid_scope"
			}
		}
	}
	if why != "" {
		iss.mu.Unlock()
		x.oauthError(http.StatusBadRequest, code, why)
		return
	}
	t.used = !iss.opts.NoRotation
	t.grant.refreshes++
	t.grant.user.lastRefresh = time.Now()
	for _, at := range iss.access {
		if at.grant == t.grant {
			at.replaced = true
		}
	}
	iss.mu.Unlock()
	iss.answerTokens(x, t.grant, "", false)
}

// answerTokens answers with new tokens for g (RFC 6749, section 5.1; OpenID
// Connect Core 1.0, sections 3.1.3.3 and 12.2).
func (iss *Issuer) answerTokens(x *exchange, g *grant, nonce string, first bool) {
	now := time.Now()
	lifetime := iss.opts.AccessTokenLifetime
	issuer := iss.URL()
	iss.mu.Lock()
	id := map[string]any{
		"iss": issuer,
		"aud": g.client,
		"iat": now.Unix(),
		"exp": now.Add(5 * time.Minute).Unix(),
		"amr": []string{"pwd"},
	}
	access := map[string]any{
		"iss":       issuer,
		"aud":       strings.TrimSuffix(issuer, "/v2.0/Auth"),
		"iat":       now.Unix(),
		"exp":       now.Add(lifetime).Unix(),
		"jti":       random(),
		"client_id": g.client,
		"scope":     strings.Join(g.scope, " "),
		"groups":    iss.groups(g.user),
	}
	for _, claims := range []map[string]any{id, access} {
		claims["sub"] = g.user.ID
		claims["userId"] = g.user.ID
		claims["tenantId"] = iss.opts.TenantID
		claims["sid"] = g.session.id
		if !iss.opts.IgnoreStepUp {
			claims["auth_time"] = g.session.authTime.Unix()
			if g.session.acr != "" {
				claims["acr"] = g.session.acr
			}
		}
	}
	if nonce != "" {
		id["nonce"] = nonce
	}
	if !iss.opts.ClaimsAtUserInfoOnly {
		for name, value := range iss.claims(g.user) {
			if _, taken := id[name]; !taken {
				id[name] = value
			}
		}
	}
	groups := slices.Clone(g.user.Groups)
	iss.mu.Unlock()

	token := iss.newToken("at+jwt", access)
	for _, f := range x.faults {
		if f.EditAccessToken != nil {
			f.EditAccessToken(token)
		}
	}
	bearer := token.Sign()
	answer := map[string]any{
		"access_token": bearer,
		"token_type":   "Bearer",
		"expires_in":   int64(lifetime / time.Second),
		"scope":        strings.Join(g.scope, " "),
	}
	secrets := []string{bearer}
	if slices.Contains(g.scope, "openid") && (first || !iss.opts.NoIDTokenOnRefresh) {
		if iss.opts.AccessTokenHash {
			id["at_hash"] = iss.Key().halfHash(bearer)
		}
		token := iss.newToken("JWT", id)
		for _, f := range x.faults {
			if f.EditIDToken != nil {
				f.EditIDToken(token)
			}
		}
		jwt := token.Sign()
		answer["id_token"] = jwt
		secrets = append(secrets, jwt)
		iss.mu.Lock()
		iss.hints[jwt] = g.client
		iss.mu.Unlock()
	}
	refreshable := !iss.opts.NoRefreshToken && (!iss.opts.RefreshNeedsOfflineAccess || slices.Contains(g.scope, "offline_access"))
	iss.mu.Lock()
	defer iss.mu.Unlock()
	expires := now.Add(lifetime)
	iss.access[bearer] = &accessToken{grant: g, groups: groups, expires: expires}
	if refreshable && (first || !iss.opts.NoRotation) {
		t := random() + random()
		answer["refresh_token"] = t
		secrets = append(secrets, t)
		rt := &refreshToken{grant: g, expires: now.Add(iss.opts.RefreshTokenLifetime)}
		iss.refresh[t] = rt
		expires = rt.expires
	}
	if expires.After(g.expires) {
		g.expires = expires
	}
	iss.note(secrets...)
	iss.sweep()
	x.json(http.StatusOK, answer)
}

// serveRevoke is the revocation endpoint (RFC 7009). With a refresh token the
// whole grant ends.
func (iss *Issuer) serveRevoke(x *exchange) {
	if x.Method != http.MethodPost {
		x.header.Set("Allow", "POST")
		x.oauthError(http.StatusMethodNotAllowed, "invalid_request", "POST only")
		return
	}
	c := iss.client(x)
	if c == nil {
		return
	}
	token := x.PostForm.Get("token")
	if token == "" {
		x.oauthError(http.StatusBadRequest, "invalid_request", "token is missing")
		return
	}
	iss.mu.Lock()
	defer iss.mu.Unlock()
	if t := iss.refresh[token]; t != nil && t.grant.client == c.ID && t.grant.why == "" {
		t.grant.why = EndedByRevocation
	}
	if t := iss.access[token]; t != nil && t.grant.client == c.ID {
		t.revoked = true
		if !iss.refreshable(t.grant) && t.grant.why == "" {
			t.grant.why = EndedByRevocation // there was nothing else to it
		}
	}
	// Section 2.2: an unknown token is as good as revoked.
	x.status = http.StatusOK
}

// refreshable reports whether g has a refresh token. The caller holds mu.
func (iss *Issuer) refreshable(g *grant) bool {
	for _, t := range iss.refresh {
		if t.grant == g {
			return true
		}
	}
	return false
}
