package issuer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"

	"github.com/coreos/go-oidc/v3/oidc"
)

// Metadata is what we use of the issuer's metadata. An endpoint that is not
// published, or that is optional and not usable, is empty.
type Metadata struct {
	AuthorizationEndpoint string
	TokenEndpoint         string
	JWKSURI               string
	UserInfoEndpoint      string
	EndSessionEndpoint    string
	RevocationEndpoint    string

	// IssParameter is authorization_response_iss_parameter_supported (RFC
	// 9207, section 3).
	IssParameter bool
}

// Metadata returns the issuer's metadata, which it fetches when called first.
// While the issuer can't be reached, calls fail at once with the last *Error,
// of kind Unreachable, until the pause is over: 1 second, doubling to 30.
// Metadata once seen is served for ever, and fetched again in the background
// when older than an hour.
func (c *Client) Metadata(ctx context.Context) (*Metadata, error) {
	m, err := c.metadata.get(ctx)
	if err != nil {
		return nil, err
	}
	return m, nil
}

// Known returns the last good metadata or nil. It does no I/O.
func (c *Client) Known() *Metadata { return c.metadata.known() }

// discover fetches the metadata. Whatever fails, there is none: Unreachable.
func (c *Client) discover(ctx context.Context) (*Metadata, *Error) {
	unusable := func(err error) (*Metadata, *Error) {
		return nil, &Error{Op: "discovery", Kind: Unreachable, Err: err}
	}
	err := c.checkURL(c.cfg.Issuer)
	if err != nil { // check:issuer-url
		return unusable(fmt.Errorf("issuer: %w", err))
	}
	var provider *oidc.Provider
	var failed error
	t, e := c.send(ctx, "discovery", func(ctx context.Context) error {
		provider, failed = oidc.NewProvider(ctx, c.cfg.Issuer)
		return failed
	})
	if e != nil {
		e.Kind = Unreachable
		return nil, e
	}
	if failed != nil {
		// go-oidc's other errors quote the body.
		if mismatch, ok := errors.AsType[*oidc.IssuerMismatchError](failed); ok { // check:discovery-issuer
			return unusable(fmt.Errorf("the metadata is of issuer %.300q, not %.300q (OpenID Connect Discovery 1.0, section 4.3)",
				mismatch.Discovered, mismatch.Provided))
		}
		if t.status != 200 {
			return nil, &Error{Op: "discovery", Kind: Unreachable, Status: t.status}
		}
		return unusable(errors.New("not a JSON object with the issuer's metadata"))
	}
	var doc struct {
		Authorization string `json:"authorization_endpoint"`
		Token         string `json:"token_endpoint"`
		JWKS          string `json:"jwks_uri"`
		UserInfo      string `json:"userinfo_endpoint"`
		EndSession    string `json:"end_session_endpoint"`
		Revocation    string `json:"revocation_endpoint"`
		IssParameter  bool   `json:"authorization_response_iss_parameter_supported"`
	}
	if provider.Claims(&doc) != nil {
		return unusable(errors.New("a member of the metadata has the wrong type"))
	}
	m := &Metadata{IssParameter: doc.IssParameter}
	for _, endpoint := range []struct {
		name     string
		from     string
		to       *string
		optional bool
	}{
		{"authorization_endpoint", doc.Authorization, &m.AuthorizationEndpoint, false},
		{"token_endpoint", doc.Token, &m.TokenEndpoint, false},
		{"jwks_uri", doc.JWKS, &m.JWKSURI, false},
		{"userinfo_endpoint", doc.UserInfo, &m.UserInfoEndpoint, true},
		{"end_session_endpoint", doc.EndSession, &m.EndSessionEndpoint, true},
		{"revocation_endpoint", doc.Revocation, &m.RevocationEndpoint, true},
	} {
		if endpoint.optional && endpoint.from == "" {
			continue
		}
		err := c.checkURL(endpoint.from)
		if err != nil { // check:endpoint
			if !endpoint.optional {
				return unusable(fmt.Errorf("%s: %w", endpoint.name, err))
			}
			c.log.LogAttrs(ctx, slog.LevelWarn, "an endpoint in the issuer's metadata is ignored",
				slog.String("issuer", c.cfg.Issuer), slog.String("endpoint", endpoint.name), slog.Any("err", err))
			continue
		}
		*endpoint.to = endpoint.from
	}
	return m, nil
}

// checkURL holds a URL to OpenID Connect Discovery 1.0, section 3, and RFC
// 6749, sections 3.1 and 3.2.
func (c *Client) checkURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		return errors.New("not a URL") // err quotes it
	}
	if u.Hostname() == "" { // check:endpoint-host
		return errors.New("not an absolute URL with a host")
	}
	if strings.Contains(raw, "#") { // check:endpoint-fragment
		return errors.New("has a fragment")
	}
	if u.User != nil { // check:endpoint-userinfo
		return errors.New("has a user name or password")
	}
	if !c.protected(u) { // check:endpoint-https
		return errors.New("not https")
	}
	return nil
}

// protected reports whether nobody on the way can read what is sent to u, or
// that has been allowed.
func (c *Client) protected(u *url.URL) bool {
	switch u.Scheme {
	case "https":
		return true
	case "http":
		return c.cfg.InsecureHTTP || isLoopback(u.Hostname())
	}
	return false
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}
