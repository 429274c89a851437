package issuer

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// How long a logout token is good for. OpenID Connect Back-Channel Logout 1.0,
// section 4, wants at most 2 minutes of validity, its example has an hour, and
// some issuers leave exp out: then its age alone decides.
const (
	maxLogoutAge      = 10 * time.Minute
	maxLogoutValidity = time.Hour
)

// LogoutTokenKept is how long a logout token could be accepted at most, before
// the clock skew: so long its jti must be remembered.
const LogoutTokenKept = maxLogoutAge

// A LogoutToken is a logout token that passed.
type LogoutToken struct {
	Subject  string // empty if it names only a session of the issuer's
	SID      string // empty if it names all of the subject's
	ID       string // the jti claim
	IssuedAt time.Time
}

const logoutEvent = "http://schemas.openid.net/event/backchannel-logout"

// VerifyLogoutToken verifies a logout token by OpenID Connect Back-Channel
// Logout 1.0, section 2.6, but for step 8 and later, which need to know what
// was received before and who is signed in. Its *Error is as VerifyIDToken's.
func (c *Client) VerifyLogoutToken(ctx context.Context, raw string) (*LogoutToken, error) {
	tok, err := c.verifyLogoutToken(ctx, raw)
	if err != nil {
		e := *err // which others may have as well, if it is about the keys
		e.Op = "logout_token"
		return nil, &e
	}
	return tok, nil
}

func (c *Client) verifyLogoutToken(ctx context.Context, raw string) (*LogoutToken, *Error) {
	if check := misshapen(raw); check != "" {
		return nil, invalid(check)
	}
	// Section 2.4: logout+jwt is recommended, and seldom sent.
	header, e := readHeader(raw, ``, `"jwt"`, `"logout+jwt"`, `"application/logout+jwt"`)
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
	claims, e := readClaims(payload, true)
	if e != nil {
		return nil, e
	}
	// Step 7. An ID token must never pass for a logout token.
	_, nonce := claims.raw["nonce"]
	if nonce { // check:logout-nonce
		return nil, invalid("logout-nonce")
	}
	if !isLogout(claims.raw["events"]) { // check:logout-event
		return nil, invalid("logout-event")
	}
	for _, aud := range verified.Audience {
		if aud != c.cfg.ClientID && !slices.Contains(c.cfg.TrustedAudiences, aud) { // check:logout-aud-extra
			return nil, invalid("logout-aud-extra")
		}
	}
	tok := &LogoutToken{Subject: claims.text["sub"], SID: claims.text["sid"], ID: claims.text["jti"], IssuedAt: claims.date["iat"]}
	if e := c.checkLogoutTimes(claims); e != nil {
		return nil, e
	}
	// Step 5, and null or the empty string is no name.
	named := false
	for _, name := range []string{"sub", "sid"} {
		if _, there := claims.raw[name]; !there {
			continue
		}
		named = true
		if !within(claims.text[name], '!', 255) { // check:logout-name
			return nil, invalid("logout-name")
		}
	}
	if !named { // check:logout-nobody
		return nil, invalid("logout-nobody")
	}
	if !within(tok.ID, ' ', 255) { // check:logout-jti
		return nil, invalid("logout-jti")
	}
	if c.cfg.TenantID != "" && claims.has("tenantId") {
		if claims.text["tenantId"] != c.cfg.TenantID { // check:logout-tenant
			return nil, invalid("logout-tenant")
		}
	}
	return tok, nil
}

// checkLogoutTimes is step 4, with iat as the specification's ID tokens have
// it, and bounds on how long the token can be used.
func (c *Client) checkLogoutTimes(claims *claims) *Error {
	now, skew := time.Now(), c.cfg.ClockSkew
	iat, exp := claims.date["iat"], claims.date["exp"]
	if iat.IsZero() { // check:logout-iat
		return invalid("logout-iat")
	}
	if iat.After(now.Add(skew)) { // check:logout-iat-future
		return invalid("logout-iat-future")
	}
	if now.After(iat.Add(maxLogoutAge + skew)) { // check:logout-iat-age
		return invalid("logout-iat-age")
	}
	if _, there := claims.raw["exp"]; there { // Hydra and glewlwyd send none
		if !now.Before(exp.Add(skew)) { // check:logout-exp
			return invalid("logout-exp")
		}
		if exp.Sub(iat) > maxLogoutValidity { // check:logout-exp-far
			return invalid("logout-exp-far")
		}
	}
	if claims.date["nbf"].After(now.Add(skew)) { // check:logout-nbf
		return invalid("logout-nbf")
	}
	return nil
}

// isLogout reports whether an events claim has the one event, spelt exactly,
// whose value is an object (step 6). go-oidc takes null and strings for one.
func isLogout(raw json.RawMessage) bool {
	events, err := members(raw)
	if err != nil {
		return false
	}
	value, err := members(events[logoutEvent])
	if err != nil || value == nil {
		return false
	}
	return !slices.ContainsFunc(keysOf(events), func(name string) bool {
		return name != logoutEvent && strings.EqualFold(name, logoutEvent)
	})
}

func keysOf(m map[string]json.RawMessage) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	return names
}
