package bff

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// Client returns an *http.Client for handlers that call APIs themselves: it
// attaches the access token of the session in each request's own context, or
// else of the one in ctx. So it can be made per request, or once at start with
// context.Background(), and handed to a generated API client.
//
// It sends requests only to the upstreams named in Config.Upstreams, at or
// below their URL; any other request, a redirect to elsewhere included, fails
// before it is sent. It fails with a *Problem (see [Session.AccessToken]),
// which errors.As finds in the *url.Error and [BFF.Error] answers with.
//
// A request's context ends the request, not the refresh that it waits for. The
// client has no time-out of its own: give requests a deadline.
func (b *BFF) Client(ctx context.Context) *http.Client {
	s, _ := SessionFromContext(ctx)
	return &http.Client{Transport: &tokenTransport{b, s}}
}

var errUndeclared = errors.New("bff: Client: request is not to one of Config.Upstreams; nothing was sent")

type tokenTransport struct {
	b *BFF
	s *Session // for requests whose context has none
}

func (t *tokenTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	fail := func(err error) (*http.Response, error) {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, err
	}
	var up *target
	for _, u := range t.b.upstreams {
		if u.covers(r.URL) { // each hop of a redirect comes here anew
			up = u
			break
		}
	}
	if up == nil {
		return fail(errUndeclared)
	}
	s, ok := SessionFromContext(r.Context())
	if !ok {
		s = t.s
	}
	if s != nil && s.b != t.b { // check:client-party
		return fail(errors.New("bff: Client: the session is another relying party's"))
	}
	token, err := s.AccessToken(r.Context())
	if err != nil {
		return fail(err)
	}
	out := r.Clone(r.Context())
	out.Host = "" // what is attached goes to the host in the URL
	out.Header.Set("Authorization", "Bearer "+token.Reveal())
	base := up.Transport
	if base == nil {
		base = sharedTransport()
	}
	return base.RoundTrip(out)
}

// sharedTransport is what upstreams without a transport of their own use. The
// default transport keeps two idle connections to a host and dials the rest
// anew for each request.
var sharedTransport = sync.OnceValue(func() http.RoundTripper {
	return &http.Transport{
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           1024,
		MaxIdleConnsPerHost:    256,
		IdleConnTimeout:        90 * time.Second,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		DisableCompression:     true, // bodies pass as they are
	}
})
