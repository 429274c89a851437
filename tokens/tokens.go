// Package tokens gives upstreams access tokens that are not simply the
// session's: one for another resource, scope or audience, one by token exchange,
// or the application's own.
//
//	mux.Handle("/files/", auth.Proxy(bff.Upstream{
//		URL: "https://files.example.com", StripPrefix: "/files",
//		Tokens: tokens.Resource("https://files.example.com"),
//	}))
//	mux.Handle("/reports/", auth.Proxy(bff.Upstream{
//		URL: "https://reports.example.com", StripPrefix: "/reports", Needs: bff.Client,
//		Tokens: tokens.Application(tokens.ApplicationConfig{TokenURL: tokenURL, ClientID: id, ClientSecret: secret}),
//	}))
//
// A user's token is kept in the session's record, sealed like the session's own,
// and asked for once by the whole fleet, never while another request presents
// the session's refresh token. It goes to the upstream that it was declared for
// and nowhere else.
package tokens

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/agglestone/bff"
)

// user is a source of tokens for the user.
type user struct {
	grant bff.Grant
	err   error
}

// Token implements [bff.TokenSource].
func (u *user) Token(ctx context.Context, s *bff.Session, refused bff.Secret) (bff.Secret, error) {
	if u.err != nil {
		return "", u.err
	}
	if s == nil {
		return "", errors.New("tokens: nobody is signed in whose token this could be")
	}
	return s.GrantToken(ctx, u.grant, refused)
}

// Validate reports what is wrong with the source. bff.New and Proxy ask.
func (u *user) Validate() error { return u.err }

// source makes a source of what has no more than one name: its parameters.
func source(exchange bool, params url.Values, err error) bff.TokenSource {
	kind := "refresh "
	if exchange {
		kind = "exchange "
	}
	digest := sha256.Sum256([]byte(kind + params.Encode()))
	u := &user{err: err, grant: bff.Grant{
		Name: base64.RawURLEncoding.EncodeToString(digest[:]), Params: params, Exchange: exchange,
	}}
	if err == nil {
		u.err = u.grant.Validate()
	}
	return u
}

// Resource asks for a token for the resources, by a refresh with the parameter
// resource (RFC 8707, section 2.2). Each is an absolute URI without a fragment.
func Resource(uris ...string) bff.TokenSource {
	return source(false, url.Values{"resource": slices.Clone(uris)}, checkResources(uris, true))
}

// Scope asks for a token of these scopes, by a refresh. They must be among those
// that the sign-in was granted (RFC 6749, section 6).
func Scope(scopes ...string) bff.TokenSource {
	return source(false, url.Values{"scope": {strings.Join(scopes, " ")}}, checkScopes(scopes, true))
}

// Audience asks for a token for an audience, by a refresh with the parameter
// audience, as some issuers have it instead of resource.
func Audience(audience string) bff.TokenSource {
	var err error
	if audience == "" {
		err = errors.New("tokens: Audience is empty")
	}
	return source(false, url.Values{"audience": {audience}}, err)
}

// ExchangeConfig says what a token exchange asks for. At least one of Audience,
// Resources and Scopes is needed.
type ExchangeConfig struct {
	Audience  string
	Resources []string
	Scopes    []string
}

// Exchange asks for a token by token exchange (RFC 8693) with the session's
// access token as the subject.
func Exchange(c ExchangeConfig) bff.TokenSource {
	params := url.Values{}
	if c.Audience != "" {
		params.Set("audience", c.Audience)
	}
	if len(c.Resources) > 0 {
		params["resource"] = slices.Clone(c.Resources)
	}
	if len(c.Scopes) > 0 {
		params.Set("scope", strings.Join(c.Scopes, " "))
	}
	err := errors.Join(checkResources(c.Resources, false), checkScopes(c.Scopes, false))
	if len(params) == 0 {
		err = errors.New("tokens: Exchange asks for nothing; set Audience, Resources or Scopes")
	}
	return source(true, params, err)
}

func checkResources(uris []string, needed bool) error {
	if needed && len(uris) == 0 {
		return errors.New("tokens: Resource names none")
	}
	for _, uri := range uris {
		if u, err := url.Parse(uri); err != nil || !u.IsAbs() || strings.Contains(uri, "#") {
			return fmt.Errorf("tokens: resource %q is not an absolute URI without a fragment", uri)
		}
	}
	return nil
}

func checkScopes(scopes []string, needed bool) error {
	if needed && len(scopes) == 0 {
		return errors.New("tokens: Scope names none")
	}
	for _, s := range scopes {
		if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
			return fmt.Errorf("tokens: %q is not one scope; give each its own argument", s)
		}
	}
	return nil
}
