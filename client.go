package bff

import (
	"context"
	"errors"
	"net/http"
	"net/url"
)

// Client returns an *http.Client for handlers that call APIs themselves. It is
// [BFF.Transport] with nothing around it.
func (b *BFF) Client(ctx context.Context) *http.Client {
	return &http.Client{Transport: b.Transport(ctx)}
}

// Transport returns a transport for handlers that call APIs themselves: it
// attaches the access token of the session in each request's own context, or
// else of the one in ctx. So it can be made per request, or once at start with
// context.Background(), and handed to a generated API client.
//
// It sends requests only to the upstreams named in Config.Upstreams, at or
// below their URL, each with the token that the upstream's Needs and Tokens
// call for; of several the one with the longest URL counts. Any other request,
// a redirect to elsewhere included, fails before it is sent. It fails with a
// *Problem (see [Session.AccessToken]), which errors.As finds in the *url.Error
// and [BFF.Error] answers with.
//
// A 401 is answered as [BFF.Proxy] answers one: by one more request with a newer
// token, where there is one and the request has no body or a GetBody.
//
// A request's context ends the request, not the refresh that it waits for. The
// transport has no time-out of its own but those of connecting: give requests a
// deadline.
func (b *BFF) Transport(ctx context.Context) http.RoundTripper {
	s, _ := SessionFromContext(ctx)
	return &tokenTransport{b, s}
}

var errUndeclared = errors.New("bff: Client: request is not to one of Config.Upstreams; nothing was sent")

type tokenTransport struct {
	b *BFF
	s *Session // for requests whose context has none
}

func (t *tokenTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	c, err := t.b.credentialFor(r.Context(), t.s, r.URL)
	if err != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, err
	}
	out := r.Clone(r.Context())
	out.Host = "" // what is attached goes to the host in the URL
	if out.Header == nil {
		out.Header = http.Header{}
	}
	c.attach(out)
	return c.send(c.t.sender, out)
}

// credentialFor returns the credential for a request to u.
func (b *BFF) credentialFor(ctx context.Context, otherwise *Session, u *url.URL) (*credential, error) {
	var up *target
	for _, t := range b.upstreams {
		if t.covers(u) && (up == nil || len(t.base) > len(up.base)) { // each hop of a redirect comes here anew
			up = t
		}
	}
	if up == nil {
		return nil, errUndeclared
	}
	s, ok := SessionFromContext(ctx)
	if !ok {
		s = otherwise
	}
	if s != nil && s.b != b { // check:client-party
		return nil, errors.New("bff: Client: the session is another relying party's")
	}
	if s == nil && !up.rt.optional && up.Needs != None { // check:client-session
		return nil, newProblem(NoSession, ErrNoSession)
	}
	c := &credential{b: b, t: up, s: s}
	if problem := c.fetch(ctx); problem != nil {
		return nil, problem
	}
	return c, nil
}

// A Credentials attaches the access token to gRPC calls. It has the methods of
// google.golang.org/grpc/credentials.PerRPCCredentials, for
// grpc.WithPerRPCCredentials, without importing that module.
type Credentials struct {
	b   *BFF
	s   *Session
	tls bool
}

// Credentials returns credentials for gRPC calls, with the token of the session
// in each call's context, or else of the one in ctx. Like [BFF.Transport] they
// give it only to the upstreams named in Config.Upstreams. A call that the
// server refuses with UNAUTHENTICATED is not repeated.
//
// They demand TLS, unless every upstream in Config.Upstreams has an http URL.
func (b *BFF) Credentials(ctx context.Context) *Credentials {
	s, _ := SessionFromContext(ctx)
	c := &Credentials{b: b, s: s, tls: len(b.upstreams) == 0}
	for _, up := range b.upstreams {
		c.tls = c.tls || up.url.Scheme == "https"
	}
	return c
}

// GetRequestMetadata returns the authorization metadata of a call. uri is that
// of its service, as gRPC gives it: https whatever the connection is.
func (c *Credentials) GetRequestMetadata(ctx context.Context, uri ...string) (map[string]string, error) {
	if len(uri) != 1 {
		return nil, errUndeclared
	}
	u, err := url.Parse(uri[0])
	if err != nil {
		return nil, errUndeclared
	}
	if !c.tls {
		u.Scheme = "http"
	}
	cred, err := c.b.credentialFor(ctx, c.s, u)
	if err != nil {
		return nil, err
	}
	if cred.bearer == "" {
		return nil, nil
	}
	return map[string]string{"authorization": cred.bearer.Reveal()}, nil
}

// RequireTransportSecurity reports whether gRPC must refuse connections without
// TLS.
func (c *Credentials) RequireTransportSecurity() bool { return c.tls }
