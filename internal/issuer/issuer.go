// Package issuer is the wire protocol: a client of one OpenID Connect issuer.
// It knows the issuer's metadata, its token, userinfo and revocation endpoints
// and its keys, and nothing of sessions, cookies or browsers.
//
// Two rules shape it. Whatever the issuer sends is bounded in size and time
// and judged before anything uses it. And an error says what is known about the
// request, not only that it failed: whether it surely was not sent, may have
// been processed, or was answered, since a refresh token that may have been
// spent must not be spent again.
//
// Every security check is one if statement, or one line of a verifier's
// configuration, that ends in a check comment with a name of its own, so that
// tests can be held to notice when it is missing.
package issuer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Config says who the issuer is and who we are to it. The caller has checked
// it and filled in the defaults, but for HTTPClient and Logger.
type Config struct {
	// Issuer is the issuer identifier, compared byte for byte.
	Issuer string

	// ClientID and ClientSecret are ours; AuthMethod is how we use them at the
	// issuer's endpoints: "none", "client_secret_basic" or "client_secret_post".
	ClientID     string
	ClientSecret string
	AuthMethod   string

	// RedirectURL is the redirect_uri of both requests of the code flow.
	RedirectURL string

	// Scopes are asked for at the authorization endpoint.
	Scopes []string

	// TenantID, when not empty, must be the tenantId claim of an ID token or a
	// userinfo answer that has one.
	TenantID string

	// SigningAlgs are the algorithms that may sign an ID token: asymmetric
	// ones, and never none of them.
	SigningAlgs []string

	// TrustedAudiences may stand beside the client ID in an ID token.
	TrustedAudiences []string

	// ClockSkew is how far the issuer's clock may be off.
	ClockSkew time.Duration

	// Timeout bounds one request to the issuer, the body included.
	Timeout time.Duration

	// HTTPClient's Transport carries the requests; nothing else of it is used.
	// Nil means a transport of our own: TLS 1.2 at least, and the proxy that
	// the environment names.
	HTTPClient *http.Client

	// InsecureHTTP allows http endpoints on hosts other than loopback.
	InsecureHTTP bool

	// Logger takes what goes wrong in the background. Nil means slog.Default().
	Logger *slog.Logger
}

// A Client talks to one issuer. It is safe for concurrent use.
type Client struct {
	cfg  Config
	http *http.Client
	log  *slog.Logger
	own  *http.Transport // nil if the caller brought one

	metadata *published[Metadata]
	keys     *published[keySet]

	life context.Context // of the work in the background
	kill context.CancelFunc

	mu      sync.Mutex
	running int           // fetches in the background
	closed  bool          // no new one begins
	idle    chan struct{} // closed once closed and none is left
}

// New returns a client for cfg's issuer. It sends nothing: metadata and keys
// are fetched when first needed.
func New(cfg Config) *Client {
	c := &Client{cfg: cfg, log: cfg.Logger, idle: make(chan struct{})}
	if c.log == nil {
		c.log = slog.Default()
	}
	var base http.RoundTripper = http.DefaultTransport
	switch {
	case cfg.HTTPClient == nil:
		c.own = newTransport()
		base = c.own
	case cfg.HTTPClient.Transport != nil:
		base = cfg.HTTPClient.Transport
	}
	c.http = &http.Client{Transport: transport{base}}
	c.life, c.kill = context.WithCancel(context.Background())
	c.metadata = &published[Metadata]{owner: c, op: "discovery", fetch: c.discover}
	c.keys = &published[keySet]{owner: c, op: "keys", fetch: c.fetchKeys}
	return c
}

func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    5 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConns:           64,
		MaxIdleConnsPerHost:    32,
		IdleConnTimeout:        90 * time.Second,
		ForceAttemptHTTP2:      true,
	}
}

// background runs work unless the client is closed, and reports whether it does.
func (c *Client) background(work func(context.Context)) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.running++
	go func() {
		defer func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.running--
			if c.closed && c.running == 0 {
				close(c.idle)
			}
		}()
		work(c.life)
	}()
	return true
}

// Close waits for the fetches in the background, until ctx ends: then it
// cancels them and returns ctx's error. No fetch begins after it. Calls that
// need none, since metadata and keys are known, still work.
func (c *Client) Close(ctx context.Context) error {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		if c.running == 0 {
			close(c.idle)
		}
	}
	idle := c.running == 0
	c.mu.Unlock()
	var err error
	if !idle {
		select {
		case <-c.idle:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	c.kill()
	if c.own != nil {
		c.own.CloseIdleConnections()
	}
	return err
}

// A Kind says what is known about a request that failed.
type Kind int

const (
	// Unreachable: it surely was not sent (no connection, no metadata, no
	// keys), so it may be repeated.
	Unreachable Kind = iota + 1

	// Lost: it may have been processed; a time-out or a broken connection ate
	// the answer.
	Lost

	// Answered: the issuer refused, or answered with an HTTP error.
	Answered

	// Malformed: the answer is of no use.
	Malformed

	// Invalid: a token failed a check for good.
	Invalid
)

func (k Kind) String() string {
	names := [...]string{Unreachable: "unreachable", Lost: "answer lost", Answered: "refused", Malformed: "malformed answer", Invalid: "invalid"}
	if k < Unreachable || int(k) >= len(names) {
		return "Kind(" + strconv.Itoa(int(k)) + ")"
	}
	return names[k]
}

// An Error, always a pointer, reports a request or a token that failed. Its
// text holds no token, code, response body, error_description or query, and
// neither does the text of what it wraps.
type Error struct {
	Op     string // discovery, keys, authorize, exchange, refresh, id_token, userinfo or revoke
	Kind   Kind
	Status int    // of the HTTP answer, if it was an error
	Code   string // RFC 6749, section 5.2; chosen by the issuer
	Check  string // the check that failed
	Err    error  // may be nil
}

func (e *Error) Error() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s: %s", e.Op, e.Kind)
	if e.Status != 0 {
		fmt.Fprintf(&s, " %d", e.Status)
	}
	if e.Code != "" {
		fmt.Fprintf(&s, " %q", e.Code)
	}
	if e.Check != "" {
		fmt.Fprintf(&s, " (%s)", e.Check)
	}
	if e.Err != nil {
		fmt.Fprintf(&s, ": %v", e.Err)
	}
	return s.String()
}

func (e *Error) Unwrap() error { return e.Err }

var errClosed = errors.New("closed")
