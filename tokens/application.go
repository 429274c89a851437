package tokens

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/agglestone/bff"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// ApplicationConfig says who the application is at a token endpoint.
type ApplicationConfig struct {
	// TokenURL is the token endpoint, https unless the host is loopback.
	TokenURL string

	ClientID     string
	ClientSecret bff.Secret

	// AuthMethod is client_secret_basic (the default) or client_secret_post.
	AuthMethod string

	// Scopes and Params, such as audience or resource, are what is asked for.
	Scopes []string
	Params url.Values

	// HTTPClient's transport is used. Nil means http.DefaultTransport.
	HTTPClient *http.Client

	// Timeout bounds one token request. Zero means 10 seconds.
	Timeout time.Duration

	// Lifetime is assumed where the answer doesn't say how long the token lives.
	// Zero means 5 minutes.
	Lifetime time.Duration
}

// application is a source of the application's own token, one for the process.
type application struct {
	config   clientcredentials.Config
	client   *http.Client
	timeout  time.Duration
	lifetime time.Duration
	err      error

	mu      sync.Mutex
	token   bff.Secret
	got     time.Time
	expires time.Time
	pause   time.Time // after a failure no request before it
	failure error
	flight  chan struct{} // closed when the request under way is done; nil if there is none
}

// Application asks for the application's own token by its client credentials
// (RFC 6749, section 4.4), once per process and expiry, ahead of it by a tenth
// of its life and at most a minute. It is for upstreams that need
// [bff.Client]: what the token allows, every user who may use the route can do.
func Application(c ApplicationConfig) bff.TokenSource {
	a := &application{err: c.check(), timeout: c.Timeout, lifetime: c.Lifetime}
	if a.timeout <= 0 {
		a.timeout = 10 * time.Second
	}
	if a.lifetime <= 0 {
		a.lifetime = 5 * time.Minute
	}
	params := url.Values{}
	for name, values := range c.Params {
		params[name] = slices.Clone(values)
	}
	a.config = clientcredentials.Config{
		ClientID: c.ClientID, ClientSecret: c.ClientSecret.Reveal(), TokenURL: c.TokenURL,
		Scopes: slices.Clone(c.Scopes), EndpointParams: params, AuthStyle: oauth2.AuthStyleInHeader,
	}
	if c.AuthMethod == "client_secret_post" {
		a.config.AuthStyle = oauth2.AuthStyleInParams
	}
	a.client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if c.HTTPClient != nil {
		a.client.Transport = c.HTTPClient.Transport
	}
	return a
}

func (c *ApplicationConfig) check() error {
	u, err := url.Parse(c.TokenURL)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "":
		return fmt.Errorf("tokens: TokenURL %q is not an absolute URL", c.TokenURL)
	case u.Scheme != "https" && !(u.Scheme == "http" && isLoopback(u.Hostname())):
		return fmt.Errorf("tokens: TokenURL %q is not https; plain http is only for loopback hosts", c.TokenURL)
	case c.ClientID == "":
		return errors.New("tokens: ClientID is empty")
	case c.ClientSecret == "":
		return errors.New("tokens: ClientSecret is empty")
	case c.AuthMethod != "" && c.AuthMethod != "client_secret_basic" && c.AuthMethod != "client_secret_post":
		return fmt.Errorf("tokens: AuthMethod %q is not client_secret_basic or client_secret_post", c.AuthMethod)
	}
	return checkScopes(c.Scopes, false)
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// Validate reports what is wrong with the source. bff.New and Proxy ask.
func (a *application) Validate() error { return a.err }

// Token implements [bff.TokenSource].
func (a *application) Token(ctx context.Context, _ *bff.Session, refused bff.Secret) (bff.Secret, error) {
	if a.err != nil {
		return "", a.err
	}
	for {
		a.mu.Lock()
		now := time.Now()
		margin := min(a.expires.Sub(a.got)/10, time.Minute)
		live := a.token != "" && now.Before(a.expires)
		// A token that was not accepted is replaced once it isn't fresh.
		stale := live && refused != "" && refused == a.token && now.Sub(a.got) >= 30*time.Second
		if (!live || stale || !now.Before(a.expires.Add(-margin))) && a.flight == nil && !now.Before(a.pause) {
			a.flight = make(chan struct{})
			go a.ask(context.WithoutCancel(ctx), a.flight) // it ends by its own deadline
		}
		token, flight, failure := a.token, a.flight, a.failure
		a.mu.Unlock()
		switch {
		case live && !stale:
			return token, nil
		case flight == nil:
			if live {
				return token, nil
			}
			return "", fmt.Errorf("tokens: %w", failure)
		}
		select {
		case <-flight:
			refused = "" // whatever there is now
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// ask makes the token request and notes what came of it.
func (a *application) ask(ctx context.Context, flight chan struct{}) {
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, oauth2.HTTPClient, a.client), a.timeout)
	defer cancel()
	t, err := a.config.Token(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	defer close(flight)
	a.flight = nil
	now := time.Now()
	if err == nil && !strings.EqualFold(t.Type(), "Bearer") {
		err = errors.New("the token is of another type than Bearer")
	}
	if err == nil && strings.ContainsFunc(t.AccessToken, func(r rune) bool { return r <= ' ' || r > '~' }) {
		err = errors.New("the token has characters that no token has")
	}
	if err != nil {
		var refusal *oauth2.RetrieveError
		if errors.As(err, &refusal) { // whose text quotes the answer
			err = fmt.Errorf("the token endpoint answered %d %.64q", refusal.Response.StatusCode, refusal.ErrorCode)
		}
		a.failure, a.pause = err, now.Add(time.Second)
		return
	}
	a.token, a.got, a.failure = bff.Secret(t.AccessToken), now, nil
	a.expires = now.Add(a.lifetime)
	// 0 among it, or less: not for every request. Of a form "" is what isn't there.
	if said := t.Extra("expires_in"); said != nil && said != "" {
		a.expires = now.Add(max(t.Expiry.Sub(now), time.Second))
	}
}
