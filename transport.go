package bff

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// newTransport returns a transport to upstreams. The default transport keeps
// two idle connections to a host and dials the rest anew for each request.
//
// A request of a method that is idempotent by RFC 9110, section 9.2.2, and
// finds that its connection died idle is sent once more, without a body by the
// transport itself. Connections beyond the idle ones are not bounded: as many
// are open as there are requests.
func newTransport() *http.Transport {
	return &http.Transport{
		DialContext:            dialUpstream,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           1024,
		MaxIdleConnsPerHost:    256,
		IdleConnTimeout:        90 * time.Second,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		DisableCompression:     true, // bodies pass as they are
		// A connection that has died without a word would fail all requests
		// until TCP noticed, a quarter of an hour later. gRPC's servers close
		// one that is asked more often than every 5 minutes, streams and all.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 6 * time.Minute, PingTimeout: 15 * time.Second},
	}
}

var sharedTransport = sync.OnceValue(newTransport)

func dialUpstream(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return newUpstreamConn(c), nil
}

// answerGrace is how long there is to read an answer that came before the
// connection was reset.
const answerGrace = time.Second

// An upstreamConn lets such an answer be read: a server that closes with
// something of the request unread resets the connection behind its answer, and
// Transport drops what can't be written to, answer and all. Here that fails no
// sooner than reading, as far as answerGrace goes.
type upstreamConn struct {
	net.Conn
	reset atomic.Bool // writing has failed
	once  sync.Once
	over  chan struct{} // closed when reading has failed, or the connection is closed
}

func newUpstreamConn(c net.Conn) *upstreamConn {
	return &upstreamConn{Conn: c, over: make(chan struct{})}
}

func (c *upstreamConn) end() { c.once.Do(func() { close(c.over) }) }

// errCutOff is no io.EOF, nor io.ErrUnexpectedEOF, which tls.Conn takes for one
// between records.
var errCutOff = errors.New("connection reset by peer")

// Read fails after a reset, which the system tells once: where Write has heard
// of it, all that would be left is an end as if the other side had said all.
func (c *upstreamConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == io.EOF && c.reset.Load() {
		err = &net.OpError{Op: "read", Net: "tcp", Err: errCutOff}
	}
	if err != nil {
		c.end()
	}
	return n, err
}

// Write fails with the reading side: at once where nothing has come, since
// nothing more can. HTTP/2 reads and writes in one goroutine, and so does a TLS
// handshake: hence the bound.
func (c *upstreamConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.reset.Store(true)
		select {
		case <-c.over:
		case <-time.After(answerGrace):
		}
	}
	return n, err
}

// lastWord is how long a TLS connection that is closed has to say so.
const lastWord = 100 * time.Millisecond

// SetWriteDeadline is called by a tls.Conn alone, which closes: it would wait 5
// seconds for room for its alert, and whoever closes it, with locks held, with
// it. Where there is room, none of that is needed. Nor does an alert that fails
// wait for an answer to be read.
func (c *upstreamConn) SetWriteDeadline(t time.Time) error {
	c.end()
	if soon := time.Now().Add(lastWord); t.After(soon) {
		t = soon
	}
	return c.Conn.SetWriteDeadline(t)
}

func (c *upstreamConn) Close() error {
	c.end()
	return c.Conn.Close()
}

// CloseWrite passes on that one side of a WebSocket has said all.
func (c *upstreamConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// transport returns what sends requests to t.
func (t *target) transport() http.RoundTripper {
	if t.Transport != nil {
		return t.Transport
	}
	if t.MaxResponseHeader == 0 && !t.H2C {
		return sharedTransport()
	}
	own := newTransport()
	if t.MaxResponseHeader > 0 {
		own.MaxResponseHeaderBytes = t.MaxResponseHeader
	}
	if t.H2C {
		own.Protocols = new(http.Protocols)
		own.Protocols.SetUnencryptedHTTP2(true)
	}
	return own
}

// A credential is the access token of one request.
type credential struct {
	b      *BFF
	t      *target
	s      *Session  // nil: nobody is signed in
	bearer Secret    // the Authorization header; empty: none
	given  time.Time // when the issuer gave the session's token
	line   [1]string // room for the header
}

// token returns the access token, or "".
func (c *credential) token() Secret {
	if c.bearer == "" {
		return ""
	}
	return c.bearer[len(bearerPrefix):]
}

// fetch gets the token that t wants for s.
func (c *credential) fetch(ctx context.Context) (problem *Problem) {
	switch {
	case c.t.Needs == None, c.s == nil && c.t.Needs != Client:
		return nil
	case c.t.Tokens == nil:
		c.bearer, c.given, problem = c.b.authorization(ctx, c.s)
		return problem
	}
	token, err := c.t.Tokens.Token(ctx, c.s, "")
	if err != nil {
		if errors.As(err, &problem) {
			return problem
		}
		return newProblem(IssuerUnavailable, err)
	}
	c.take(token)
	return nil
}

// take makes a source's token the one that is sent.
func (c *credential) take(token Secret) {
	if c.bearer = token; token != "" {
		c.bearer = bearerPrefix + token
	}
}

// renew gets another token than the one that the upstream did not accept.
func (c *credential) renew(ctx context.Context) bool {
	if c.t.Tokens == nil {
		bearer, given, ok := c.b.fresher(ctx, c.s, c.given)
		if ok {
			c.bearer, c.given = bearer, given
		}
		return ok
	}
	token, err := c.t.Tokens.Token(ctx, c.s, c.token())
	if err != nil || token == c.token() {
		return false
	}
	c.take(token)
	return true
}

// attach sets the Authorization header.
func (c *credential) attach(out *http.Request) {
	if c.bearer == "" {
		return
	}
	line := c.line[:]
	if line[0] != "" { // an earlier request of c's may still be read
		line = make([]string, 1)
	}
	line[0] = c.bearer.Reveal()
	out.Header["Authorization"] = line
}

const (
	maxReplay   = 64 << 10         // of a body that is held for a second time
	replayAfter = 30 * time.Second // of a token's life
)

// send sends out, which has the token, and once more if the upstream says 401
// and there is a newer one. A read is repeated always; what may change things
// only if the upstream says that the token was the reason.
func (c *credential) send(base http.RoundTripper, out *http.Request) (*http.Response, error) {
	res, err := roundTrip(base, out)
	if err != nil || res.StatusCode != http.StatusUnauthorized || c.bearer == "" || !rewindable(out) ||
		names(res.Header, "insufficient_user_authentication") { // which a refresh doesn't change
		return res, err
	}
	if !isRead(out.Method) && out.Method != http.MethodOptions && !names(res.Header, "invalid_token") { // check:replay
		return res, nil
	}
	if !c.renew(out.Context()) {
		return res, nil
	}
	again, err := rewind(out)
	if err != nil {
		return res, nil
	}
	c.attach(again)
	res.Body.Close()
	return roundTrip(base, again)
}

// roundTrip is one round trip. Transport repeats one whose connection died idle
// only for methods that are safe; PUT and DELETE are idempotent as well.
func roundTrip(base http.RoundTripper, out *http.Request) (*http.Response, error) {
	if out.Method != http.MethodPut && out.Method != http.MethodDelete || !rewindable(out) {
		return base.RoundTrip(out)
	}
	var mu sync.Mutex
	reused, answered := false, false
	first := out.WithContext(httptrace.WithClientTrace(out.Context(), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			mu.Lock()
			reused = info.Reused
			mu.Unlock()
		},
		GotFirstResponseByte: func() {
			mu.Lock()
			answered = true
			mu.Unlock()
		},
	}))
	res, err := base.RoundTrip(first)
	mu.Lock()
	stale := err != nil && reused && !answered
	mu.Unlock()
	if !stale || out.Context().Err() != nil {
		return res, err
	}
	again, rewindErr := rewind(out)
	if rewindErr != nil {
		return res, err
	}
	return base.RoundTrip(again)
}

// rewindable reports whether out can be sent a second time.
func rewindable(out *http.Request) bool {
	return out.Body == nil || out.Body == http.NoBody || out.GetBody != nil
}

// rewind returns a copy of out to be sent again.
func rewind(out *http.Request) (*http.Request, error) {
	again := out.Clone(out.Context())
	if out.GetBody != nil {
		body, err := out.GetBody()
		if err != nil {
			return nil, err
		}
		again.Body = body
	}
	return again, nil
}

// hold reads a small body of known length, so that out can be sent twice, and
// reports whether it did. It doesn't touch one that the sender waits to be
// asked for.
func hold(out *http.Request) (bool, error) {
	if out.Body == nil || out.Body == http.NoBody || out.GetBody != nil || out.ContentLength <= 0 || out.ContentLength > maxReplay ||
		len(out.Header["Expect"]) > 0 {
		return false, nil
	}
	body := make([]byte, out.ContentLength)
	if _, err := io.ReadFull(out.Body, body); err != nil {
		return false, newProblem(BadRequest, fmt.Errorf("the request body ended early: %w", err))
	}
	out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	out.Body, _ = out.GetBody()
	return true, nil
}

// fresher returns the Authorization header for a token newer than the one that the issuer gave at the given
// time and an upstream did not accept: the one that the session holds by now,
// or one that is asked for, if the old one isn't fresh itself. Each token is
// replaced once, so an upstream that refuses every token spends nothing.
func (b *BFF) fresher(ctx context.Context, s *Session, given time.Time) (Secret, time.Time, bool) {
	rec, _, problem := b.load(ctx, &s.id, s.key)
	if problem != nil {
		return "", time.Time{}, false
	}
	s.adopt(rec)
	if !rec.head.AccessObtained.After(given) {
		if !rec.head.Renewable || time.Since(given) < replayAfter || time.Now().Before(rec.head.Failure.NotBefore) { // check:replay-once
			return "", time.Time{}, false
		}
		if problem := b.waitFor(ctx, s, b.refresh(ctx, s, given)); problem != nil {
			return "", time.Time{}, false
		}
	}
	bearer, obtained, problem := b.authorization(ctx, s)
	return bearer, obtained, problem == nil && obtained.After(given)
}

// proxyTransport sends what ReverseProxy has made of a request.
type proxyTransport struct{ base http.RoundTripper }

// max1xx is how many informational answers an upstream may send to a request.
const max1xx = 8

func (pt proxyTransport) RoundTrip(out *http.Request) (*http.Response, error) {
	f := forwardedOf(out)
	f.cleanInformational(out)
	if out.Body != nil && out.Body != http.NoBody {
		f.request = requestBody{out.Body, &f.watch}
		out.Body = &f.request
	}
	if f.bearer != "" || out.Method == http.MethodPut || out.Method == http.MethodDelete {
		held, err := hold(out)
		if err != nil {
			return nil, f.cause(err)
		}
		if held {
			f.watch.enter(awaiting)
		}
	}
	res, err := f.send(pt.base, out)
	if err != nil {
		return nil, f.cause(err)
	}
	f.watch.enter(passing)
	if rw, ok := res.Body.(io.ReadWriteCloser); ok && res.StatusCode == http.StatusSwitchingProtocols {
		f.switched = rw
		res.Body = &tunnel{rw, &f.watch}
	} else {
		f.response = responseBody{res.Body, f, res}
		res.Body = &f.response
	}
	return res, nil
}

// cause returns why the request was ended, if it was, and else err.
func (f *forwarded) cause(err error) error {
	var p *Problem
	if cause := context.Cause(f); errors.As(cause, &p) {
		return p
	}
	return err
}

// cleanInformational has the headers of 1xx answers cleaned before
// ReverseProxy's own hook forwards them. The trace is ReverseProxy's, made for
// this one request, so it can be changed in place: to compose two is costly.
func (f *forwarded) cleanInformational(out *http.Request) {
	trace := httptrace.ContextClientTrace(out.Context())
	if trace == nil || trace.Got1xxResponse == nil { // then nobody forwards them
		return
	}
	f.forward1xx = trace.Got1xxResponse
	trace.Got1xxResponse = f.got1xx
}

// got1xx cleans an informational answer and passes it on.
func (f *forwarded) got1xx(code int, h textproto.MIMEHeader) error {
	if f.count1xx++; f.count1xx > max1xx { // check:informational
		return newProblem(BadGateway, errors.New("the upstream sends one informational answer after another"))
	}
	if f.t.BlockTokenEcho {
		for _, values := range h {
			if f.echoes(values) { // check:echo-informational
				return newProblem(BadGateway, errEcho)
			}
		}
	}
	f.cleanHeader(http.Header(h))
	return f.forward1xx(code, h)
}
