package issuer

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"
)

const (
	maxToken   = 16 << 10 // an access or refresh token, or the scope, in bytes
	maxIDToken = 64 << 10
)

// An AuthorizationRequest is what differs between two of them. Extra can't
// replace what the protocol itself sends.
type AuthorizationRequest struct {
	State    string
	Nonce    string
	Verifier string
	Extra    url.Values
}

// protocol lists the parameters that are ours. A request object would
// replace them all (OpenID Connect Core 1.0, section 6).
var protocol = []string{
	"response_type", "client_id", "redirect_uri", "scope", "state", "nonce",
	"code_challenge", "code_challenge_method", "request", "request_uri",
}

// AuthorizationURL returns where to send the browser. The code challenge is
// S256 and never anything else (RFC 7636, section 7.2).
func (c *Client) AuthorizationURL(ctx context.Context, r AuthorizationRequest) (string, error) {
	meta, err := c.Metadata(ctx)
	if err != nil {
		return "", err
	}
	base, query, _ := strings.Cut(meta.AuthorizationEndpoint, "?")
	// RFC 6749, section 3.1: the endpoint's own query is kept, and no parameter
	// is sent twice.
	kept, err := url.ParseQuery(query)
	if err != nil { // check:authorize-query
		return "", &Error{Op: "authorize", Kind: Unreachable, Err: errors.New("the authorization endpoint has a malformed query")}
	}
	more := make(url.Values)
	for _, from := range []url.Values{r.Extra, kept} {
		for name, values := range from {
			if slices.Contains(protocol, name) { // check:extra-parameter
				continue
			}
			more[name] = values
		}
	}
	conf := c.client(meta)
	conf.Endpoint.AuthURL = base
	location := conf.AuthCodeURL(r.State, oauth2.SetAuthURLParam("nonce", r.Nonce), oauth2.S256ChallengeOption(r.Verifier))
	if len(more) > 0 {
		location += "&" + more.Encode()
	}
	return location, nil
}

// client never leaves the authentication style open: x/oauth2 would send the
// code a second time to find out (RFC 6749, section 2.3).
func (c *Client) client(meta *Metadata) *oauth2.Config {
	conf := &oauth2.Config{
		ClientID:    c.cfg.ClientID,
		RedirectURL: c.cfg.RedirectURL,
		Scopes:      c.cfg.Scopes,
		Endpoint:    oauth2.Endpoint{TokenURL: meta.TokenEndpoint, AuthStyle: oauth2.AuthStyleInParams},
	}
	switch c.cfg.AuthMethod {
	case "client_secret_basic":
		conf.ClientSecret, conf.Endpoint.AuthStyle = c.cfg.ClientSecret, oauth2.AuthStyleInHeader
	case "client_secret_post":
		conf.ClientSecret = c.cfg.ClientSecret
	}
	return conf
}

// A TokenResponse is what the token endpoint granted.
type TokenResponse struct {
	AccessToken  string
	RefreshToken string // empty if there was none
	IDToken      string // empty if there was none
	Scope        string // empty if there was none: what was asked for
	IssuedType   string // of a token exchange (RFC 8693, section 2.2.1)

	// Lifetime is the access token's. It is negative if the issuer didn't say
	// (RFC 6749, section 5.1), and otherwise a second at least.
	Lifetime time.Duration
}

// Exchange redeems an authorization code, by one request. The response has an
// ID token, which is not verified yet. It may fail with a response besides the
// *Error, as Refresh does.
func (c *Client) Exchange(ctx context.Context, code, verifier string) (*TokenResponse, error) {
	return c.grant(ctx, "exchange", []string{code, verifier}, func(ctx context.Context, conf *oauth2.Config) error {
		_, err := conf.Exchange(ctx, code, oauth2.VerifierOption(verifier))
		return err
	})
}

// Refresh spends a refresh token, by one request. When the answer is malformed
// but has a refresh token that is not, it returns a response with only that
// besides the *Error: the old one may be dead, so the caller keeps it.
func (c *Client) Refresh(ctx context.Context, refreshToken string) (*TokenResponse, error) {
	return c.grant(ctx, "refresh", []string{refreshToken}, func(ctx context.Context, conf *oauth2.Config) error {
		_, err := conf.TokenSource(ctx, &oauth2.Token{RefreshToken: refreshToken}).Token()
		return err
	})
}

// Grant makes a token request of another kind, by one request: form is its body
// but for the client's authentication. It may fail with a response besides the
// *Error, as Refresh does. The secrets of form are kept out of errors.
func (c *Client) Grant(ctx context.Context, form url.Values, secrets ...string) (*TokenResponse, error) {
	meta, err := c.Metadata(ctx)
	if err != nil {
		return nil, err
	}
	t, e := c.post(ctx, "grant", meta.TokenEndpoint, form)
	if e != nil {
		return nil, e
	}
	tokens, e := readTokens("grant", t, append(secrets, c.cfg.ClientSecret))
	if e != nil {
		return tokens, e
	}
	return tokens, nil
}

// grant makes a token request. x/oauth2 sends it; we judge the answer, since
// x/oauth2 takes a missing token_type for Bearer, an expires_in of zero for
// ever, and anything at all for a token.
func (c *Client) grant(ctx context.Context, op string, secrets []string, do func(context.Context, *oauth2.Config) error) (*TokenResponse, error) {
	meta, err := c.Metadata(ctx)
	if err != nil {
		return nil, err
	}
	conf := c.client(meta)
	t, e := c.send(ctx, op, func(ctx context.Context) error { return do(ctx, conf) })
	if e != nil {
		return nil, e
	}
	tokens, e := readTokens(op, t, append(secrets, c.cfg.ClientSecret))
	if e != nil {
		return tokens, e
	}
	return tokens, nil
}

func readTokens(op string, t *trip, secrets []string) (*TokenResponse, *Error) {
	if t.status/100 != 2 { // check:token-status
		return nil, refusal(op, t, secrets)
	}
	m, err := members(t.body)
	if err != nil {
		return nil, &Error{Op: op, Kind: Malformed, Err: err}
	}
	// Some issuers refuse with status 200.
	if present(m["error"]) { // check:token-error
		return nil, refusal(op, t, secrets)
	}
	r := &TokenResponse{Lifetime: lifetime(m["expires_in"])}
	malformed := func(check string) (*TokenResponse, *Error) {
		var kept *TokenResponse
		if r.RefreshToken != "" {
			kept = &TokenResponse{RefreshToken: r.RefreshToken, Lifetime: -1}
		}
		return kept, &Error{Op: op, Kind: Malformed, Check: check}
	}
	// The refresh token comes first, since it is kept whatever the rest is.
	var tokenType string
	for _, member := range []struct {
		name string
		to   *string
	}{
		{"refresh_token", &r.RefreshToken}, {"access_token", &r.AccessToken}, {"token_type", &tokenType},
		{"id_token", &r.IDToken}, {"scope", &r.Scope}, {"issued_token_type", &r.IssuedType},
	} {
		value, ok := text(m[member.name])
		if !ok { // check:token-member-type
			return malformed("token-member-type")
		}
		if member.name == "refresh_token" && value != "" {
			if !within(value, ' ', maxToken) { // check:refresh-token
				return malformed("refresh-token")
			}
		}
		*member.to = value
	}
	// RFC 6749, section 7.1: a token of a type we don't know is not to be used.
	if !strings.EqualFold(tokenType, "Bearer") { // check:token-type
		return malformed("token-type")
	}
	if !within(r.AccessToken, '!', maxToken) { // check:access-token
		return malformed("access-token")
	}
	if len(r.Scope) > maxToken { // check:scope-size
		return malformed("scope-size")
	}
	if op == "exchange" {
		if r.IDToken == "" { // check:id-token-present
			return malformed("id-token-present")
		}
	}
	if r.IDToken != "" {
		if check := misshapen(r.IDToken); check != "" {
			return malformed(check)
		}
	}
	return r, nil
}

// lifetime reads expires_in: a number, or a string of one. What can't be read
// counts as absent, and the caller falls back on its configuration. No life is
// shorter than a second: of a token that was born expired every request would
// make a new one.
func lifetime(raw json.RawMessage) time.Duration {
	if s, ok := text(raw); ok {
		raw = json.RawMessage(s)
	}
	seconds, err := strconv.ParseFloat(string(raw), 64)
	if !json.Valid(raw) || err != nil && !errors.Is(err, strconv.ErrRange) {
		return -1
	}
	return time.Duration(min(max(seconds, 1), math.MaxInt32)) * time.Second
}

// refusal makes an error of an answer that grants nothing.
func refusal(op string, t *trip, secrets []string) *Error {
	e := &Error{Op: op, Kind: Answered, Status: t.status}
	m, _ := members(t.body)
	code, _ := text(m["error"])
	// RFC 6749, section 5.2, without the quotation mark and the backslash.
	if !within(code, ' ', 64) || strings.ContainsAny(code, `"\`) { // check:error-code
		return e
	}
	for _, secret := range secrets {
		if secret != "" && strings.Contains(code, secret) { // check:error-code-echo
			return e
		}
	}
	e.Code = code
	return e
}

// Revoke asks the issuer to revoke token (RFC 7009), once. hint is
// "refresh_token" or "access_token". Where no revocation endpoint is
// published, it fails with an *Error of kind Unreachable.
func (c *Client) Revoke(ctx context.Context, token, hint string) error {
	meta, err := c.Metadata(ctx)
	if err != nil {
		return err
	}
	if meta.RevocationEndpoint == "" {
		return &Error{Op: "revoke", Kind: Unreachable, Err: errors.New("no revocation_endpoint in the issuer's metadata")}
	}
	t, e := c.post(ctx, "revoke", meta.RevocationEndpoint, url.Values{"token": {token}, "token_type_hint": {hint}})
	if e != nil {
		return e
	}
	if t.status/100 != 2 { // check:revoke-status
		return refusal("revoke", t, []string{token, c.cfg.ClientSecret})
	}
	return nil
}

// post sends a form with the client's authentication (RFC 6749, section 2.3).
func (c *Client) post(ctx context.Context, op, endpoint string, form url.Values) (*trip, *Error) {
	if c.cfg.AuthMethod != "client_secret_basic" {
		form.Set("client_id", c.cfg.ClientID)
	}
	if c.cfg.AuthMethod == "client_secret_post" {
		form.Set("client_secret", c.cfg.ClientSecret)
	}
	req, err := http.NewRequest(http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, &Error{Op: op, Kind: Unreachable, Err: plain(err)}
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if c.cfg.AuthMethod == "client_secret_basic" {
		// RFC 6749, section 2.3.1: both parts are form-encoded first.
		req.SetBasicAuth(url.QueryEscape(c.cfg.ClientID), url.QueryEscape(c.cfg.ClientSecret))
	}
	return c.do(ctx, op, req)
}
