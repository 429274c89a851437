package issuer

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/coreos/go-oidc/v3/oidc"
)

// maxTokenAge is how long ago an ID token may have been issued at a login.
const maxTokenAge = 10 * time.Minute

// Expect says what an ID token must fit. Its zero value fits none.
type Expect struct {
	// Nonce is the one of the login. There the token must have it; on a
	// refresh it may be missing, but not differ (OpenID Connect Core 1.0,
	// section 12.2).
	Nonce string

	// Prior is the ID token of the login, of a session that is refreshed; nil
	// at a login.
	Prior *IDToken

	// MaxAge, unless nil, bounds the time since the user authenticated. A
	// token without auth_time then fails (section 3.1.3.7, step 13).
	MaxAge *time.Duration

	// ACR, unless empty, lists the acceptable acr values.
	ACR []string

	// AccessToken came with the ID token, whose at_hash must fit it, if it has one.
	AccessToken string
}

// An IDToken is an ID token that passed.
type IDToken struct {
	Subject         string
	SID             string // the issuer's session; empty if it didn't say
	ACR             string
	AuthorizedParty string
	Nonce           string
	Audience        []string

	IssuedAt time.Time
	Expiry   time.Time
	AuthTime time.Time // zero if absent; some issuers send 0 for absent

	// SessionExpiry is when the issuer wants sessions to end that rest on the
	// token (the IPSIE profiles' session_expiry), or zero.
	SessionExpiry time.Time

	Claims json.RawMessage // the whole payload
}

// guarded are the claims that decide something. go-oidc and others decode them
// without regard to case.
var guarded = []string{
	"iss", "sub", "aud", "exp", "iat", "nbf", "nonce", "azp", "acr", "auth_time", "at_hash", "sid", "tenantId", "events", "jti", "session_expiry",
}

func invalid(check string) *Error { return &Error{Op: "id_token", Kind: Invalid, Check: check} }

// misshapen returns the check that the form of an ID token fails, or "". Only
// a signed token in the compact form has three parts: an encrypted one has
// five, and is not supported.
func misshapen(raw string) string {
	if len(raw) > maxIDToken { // check:id-token-size
		return "id-token-size"
	}
	if strings.Count(raw, ".") != 2 { // check:id-token-parts
		return "id-token-parts"
	}
	return ""
}

// VerifyIDToken verifies an ID token by OpenID Connect Core 1.0, sections
// 3.1.3.7 and, on a refresh, 12.2. Its *Error is of kind Invalid if the token
// failed for good, and Unreachable if that can't be told now, since there are
// no keys.
func (c *Client) VerifyIDToken(ctx context.Context, raw string, want Expect) (*IDToken, error) {
	tok, err := c.verifyIDToken(ctx, raw, want)
	if err != nil {
		return nil, err
	}
	return tok, nil
}

func (c *Client) verifyIDToken(ctx context.Context, raw string, want Expect) (*IDToken, *Error) {
	if check := misshapen(raw); check != "" {
		return nil, invalid(check)
	}
	header, e := readHeader(raw, ``, `"jwt"`, `"application/jwt"`)
	if e != nil {
		return nil, e
	}
	verified, e := c.verifySigned(ctx, raw, header)
	if e != nil {
		return nil, e
	}
	var payload json.RawMessage
	if verified.Claims(&payload) != nil {
		return nil, invalid("claims")
	}
	claims, e := readClaims(payload, false)
	if e != nil {
		return nil, e
	}
	tok := &IDToken{
		Subject: claims.text["sub"], SID: claims.text["sid"], ACR: claims.text["acr"],
		AuthorizedParty: claims.text["azp"], Nonce: claims.text["nonce"],
		Audience: verified.Audience,
		IssuedAt: claims.date["iat"], Expiry: claims.date["exp"], AuthTime: claims.date["auth_time"],
		SessionExpiry: claims.date["session_expiry"],
		Claims:        payload,
	}
	if e := c.checkClaims(tok, claims); e != nil {
		return nil, e
	}
	if claims.has("at_hash") {
		if verified.VerifyAccessToken(want.AccessToken) != nil { // check:at-hash
			return nil, invalid("at-hash")
		}
	}
	if e := c.checkExpected(tok, want); e != nil {
		return nil, e
	}
	return tok, nil
}

// verifySigned has go-oidc check signature, algorithm, issuer and audience. It
// does no more, so it serves for every token of the issuer's that is for us.
func (c *Client) verifySigned(ctx context.Context, raw string, header map[string]json.RawMessage) (*oidc.IDToken, *Error) {
	algs := c.allowed()
	if len(algs) == 0 { // check:alg-any go-oidc takes none for RS256
		return nil, invalid("alg")
	}
	keys := &verification{keys: c.keys}
	conf := &oidc.Config{
		SupportedSigningAlgs:       algs,
		ClientID:                   c.cfg.ClientID,
		SkipClientIDCheck:          false, // check:aud
		SkipIssuerCheck:            false, // check:iss
		InsecureSkipSignatureCheck: false, // check:signature
		SkipExpiryCheck:            true,  // go-oidc allows for no skew: see readClaims
	}
	verified, err := oidc.NewVerifier(c.cfg.Issuer, keys, conf).Verify(ctx, raw)
	if err != nil {
		return nil, c.why(header, keys)
	}
	return verified, nil
}

// allowed returns the algorithms that may sign an ID token: those of the
// configuration, and never a symmetric one, whose key is no secret of the
// issuer's.
func (c *Client) allowed() []string {
	var algs []string
	for _, alg := range []string{
		"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512",
	} {
		if strings.HasPrefix(alg, "HS") { // check:alg-symmetric
			continue
		}
		if !slices.Contains(c.cfg.SigningAlgs, alg) { // check:alg
			continue
		}
		algs = append(algs, alg)
	}
	return algs
}

// readHeader decodes the header (RFC 7515, section 4) of a token of one of the
// given types, each a JSON string in lower case, and refuses what it doesn't
// understand. No type at all is "".
func readHeader(raw string, types ...string) (map[string]json.RawMessage, *Error) {
	first, _, _ := strings.Cut(raw, ".")
	data, undecoded := base64.RawURLEncoding.DecodeString(first)
	header, err := members(data)
	if undecoded != nil || err != nil { // check:header-form go-jose skips white space
		return nil, invalid("format")
	}
	// RFC 8725, section 3.11: a logout token or a JWT access token of the same
	// issuer, for the same client, is no ID token.
	typ := strings.ToLower(string(header["typ"]))
	if !slices.Contains(types, typ) { // check:typ
		return nil, invalid("typ")
	}
	// RFC 7515, section 4.1.11: we understand no extension. go-jose
	// understands b64, which RFC 7797 forbids in a JWT.
	_, critical := header["crit"]
	if critical { // check:crit
		return nil, invalid("crit")
	}
	return header, nil
}

// why names the check that go-oidc failed, since its errors are only text, and
// quote the token.
func (c *Client) why(header map[string]json.RawMessage, keys *verification) *Error {
	if keys.failure != nil {
		return keys.failure
	}
	if !keys.asked {
		if alg, _ := text(header["alg"]); !slices.Contains(c.allowed(), alg) {
			return invalid("alg")
		}
		return invalid("format")
	}
	m, err := members(keys.payload)
	if err != nil {
		return invalid("claims")
	}
	if iss, _ := text(m["iss"]); iss != c.cfg.Issuer {
		return invalid("iss")
	}
	var audience []string
	if json.Unmarshal(m["aud"], &audience) != nil {
		one, _ := text(m["aud"])
		audience = []string{one}
	}
	if !slices.Contains(audience, c.cfg.ClientID) {
		return invalid("aud")
	}
	return invalid("claims")
}

// claims are an ID token's, with those that decide something decoded.
type claims struct {
	raw  map[string]json.RawMessage
	text map[string]string
	date map[string]time.Time
}

// has reports whether there is a claim: null is none.
func (c *claims) has(name string) bool {
	raw, ok := c.raw[name]
	return ok && string(raw) != "null"
}

// readClaims decodes a payload strictly, that of a logout token or of any other.
// Nothing it refuses is ever valid.
func readClaims(payload []byte, logout bool) (*claims, *Error) {
	if !utf8.Valid(payload) { // check:utf8
		return nil, invalid("utf8")
	}
	raw, err := members(payload)
	if err == errDuplicate {
		return nil, invalid("duplicate-member")
	}
	if err != nil {
		return nil, invalid("claims")
	}
	c := &claims{raw: raw, text: make(map[string]string), date: make(map[string]time.Time)}
	for name := range raw {
		if variant(name) { // check:claim-case
			return nil, invalid("claim-case")
		}
	}
	// OpenID Connect Back-Channel Logout 1.0, section 2.4.
	_, events := raw["events"]
	if events && !logout { // check:events
		return nil, invalid("events")
	}
	texts := []string{"sub", "sid", "acr", "azp", "nonce", "tenantId"}
	if logout {
		texts = append(texts, "jti")
	}
	for _, name := range texts {
		value, ok := text(raw[name])
		if !ok { // check:claim-type
			return nil, invalid("claim-type")
		}
		c.text[name] = value
	}
	for _, name := range []string{"exp", "iat", "nbf", "auth_time", "session_expiry"} {
		if !c.has(name) {
			continue
		}
		value, ok := numericDate(raw[name])
		if !ok { // check:numeric-date
			return nil, invalid("numeric-date")
		}
		c.date[name] = value
	}
	return c, nil
}

// variant reports whether name is a guarded claim in another case. encoding/json
// takes "ſub" for "sub" too, and so does EqualFold.
func variant(name string) bool {
	return slices.ContainsFunc(guarded, func(g string) bool { return name != g && strings.EqualFold(name, g) })
}

// numericDate reads seconds since the epoch (RFC 7519, section 2), whole ones
// before the year 10000. Zero stands for absent.
func numericDate(raw json.RawMessage) (t time.Time, ok bool) {
	seconds, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil || seconds < 0 || seconds > 253402300799 {
		return time.Time{}, false
	}
	if seconds == 0 {
		return time.Time{}, true
	}
	return time.Unix(seconds, 0), true
}

// checkClaims judges what doesn't depend on the request.
func (c *Client) checkClaims(tok *IDToken, claims *claims) *Error {
	now, skew := time.Now(), c.cfg.ClockSkew
	if !within(tok.Subject, '!', 255) { // check:sub
		return invalid("sub")
	}
	// Step 3: an audience that we don't trust could use this token with us.
	for _, aud := range tok.Audience {
		if aud == c.cfg.ClientID {
			continue
		}
		if !slices.Contains(c.cfg.TrustedAudiences, aud) { // check:aud-extra
			return invalid("aud-extra")
		}
	}
	if claims.has("azp") {
		if tok.AuthorizedParty != c.cfg.ClientID { // check:azp
			return invalid("azp")
		}
	}
	// A token without exp is one of the year 1.
	if !now.Before(tok.Expiry.Add(skew)) { // check:exp
		return invalid("exp")
	}
	if tok.IssuedAt.IsZero() { // check:iat
		return invalid("iat")
	}
	if tok.IssuedAt.After(now.Add(skew)) { // check:iat-future
		return invalid("iat-future")
	}
	if claims.date["nbf"].After(now.Add(skew)) { // check:nbf
		return invalid("nbf")
	}
	if end := tok.SessionExpiry; !end.IsZero() {
		if !now.Before(end) { // check:session-expiry
			return invalid("session-expiry")
		}
	}
	if c.cfg.TenantID != "" && claims.has("tenantId") {
		if claims.text["tenantId"] != c.cfg.TenantID { // check:tenant
			return invalid("tenant")
		}
	}
	return nil
}

// checkExpected judges the token by the request that it answers.
func (c *Client) checkExpected(tok *IDToken, want Expect) *Error {
	now, skew := time.Now(), c.cfg.ClockSkew
	sameNonce := subtle.ConstantTimeCompare([]byte(tok.Nonce), []byte(want.Nonce)) == 1
	if prior := want.Prior; prior == nil {
		// A caller's mistake must not let every token without a nonce in.
		if want.Nonce == "" { // check:nonce-expected
			return invalid("nonce-expected")
		}
		if !sameNonce { // check:nonce
			return invalid("nonce")
		}
		if tok.IssuedAt.Before(now.Add(-maxTokenAge - skew)) { // check:iat-age
			return invalid("iat-age")
		}
	} else {
		if tok.Nonce != "" {
			if !sameNonce { // check:refresh-nonce
				return invalid("refresh-nonce")
			}
		}
		if tok.Subject != prior.Subject { // check:refresh-sub
			return invalid("refresh-sub")
		}
		if !sameSet(tok.Audience, prior.Audience) { // check:refresh-aud
			return invalid("refresh-aud")
		}
		if tok.AuthorizedParty != "" && prior.AuthorizedParty != "" {
			if tok.AuthorizedParty != prior.AuthorizedParty { // check:refresh-azp
				return invalid("refresh-azp")
			}
		}
		if !tok.AuthTime.IsZero() && !prior.AuthTime.IsZero() {
			if !tok.AuthTime.Equal(prior.AuthTime) { // check:refresh-auth-time
				return invalid("refresh-auth-time")
			}
		}
		if tok.IssuedAt.Before(prior.IssuedAt.Add(-skew)) { // check:refresh-iat
			return invalid("refresh-iat")
		}
	}
	if want.MaxAge != nil {
		// A token without auth_time is one of the year 1.
		if now.After(tok.AuthTime.Add(*want.MaxAge + skew)) { // check:max-age
			return invalid("max-age")
		}
	}
	if len(want.ACR) > 0 {
		if !slices.Contains(want.ACR, tok.ACR) { // check:acr
			return invalid("acr")
		}
	}
	return nil
}

func sameSet(a, b []string) bool {
	in := func(list []string) func(string) bool {
		return func(s string) bool { return !slices.Contains(list, s) }
	}
	return !slices.ContainsFunc(a, in(b)) && !slices.ContainsFunc(b, in(a))
}
