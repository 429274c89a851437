package bff

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// Proxy forwards requests to up with the session's access token attached.
//
// Every request needs a live session and proves its origin, GET included. What
// the browser sent of cookies, Authorization and forwarding headers stays here;
// what the upstream answers of cookies and CORS headers does too. Bodies are
// streamed both ways; answers of unknown length are flushed as they come.
//
// If the upstream answers 401 to a token that the session has replaced, or that
// is older than 30 seconds, the request is sent once more with a fresh token:
// GET, HEAD and OPTIONS always, others only if the body is at most 64 KB and
// the challenge says invalid_token. A 401 that asks for a more recent or a
// stronger sign-in (RFC 9470) is answered with step_up.
//
// Proxy takes the options of [BFF.Protect], on top of what up says; with
// Optional, which an up that needs Client can't have, a request without a
// session is forwarded without a token. It panics if up is not valid, as http.ServeMux does for a bad pattern: see
// [Upstream.Validate].
func (b *BFF) Proxy(up Upstream, opts ...Option) http.Handler {
	t, err := newTarget(up, opts...)
	if err != nil {
		panic("bff: Proxy: " + err.Error())
	}
	return newTable(b, []*proxy{b.newProxy(t)})
}

// A proxy serves one upstream.
type proxy struct {
	b       *BFF
	t       *target
	rule    proofRule
	reverse *httputil.ReverseProxy
	watches watches

	// Shared by all requests; nobody changes them.
	forwardedHost  []string
	forwardedProto []string
}

func (b *BFF) newProxy(t *target) *proxy {
	if t.Needs != None {
		b.proxies(t.Path)
	}
	p := &proxy{b: b, t: t, rule: proofRule{typed: t.rt.navigation}, forwardedHost: []string{b.host}, forwardedProto: []string{b.scheme()}}
	p.reverse = &httputil.ReverseProxy{
		Rewrite:        rewrite,
		Transport:      proxyTransport{t.sender},
		ModifyResponse: b.cleanResponse,
		ErrorHandler:   b.proxyError,
		BufferPool:     buffers,
		ErrorLog:       slog.NewLogLogger(b.log.Handler(), slog.LevelDebug),
	}
	return p
}

// proxies notes that prefix leads to an upstream, where no sign-in may end.
func (b *BFF) proxies(prefix string) {
	if prefix == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	list := append(slices.Clone(*b.proxied.Load()), prefix)
	b.proxied.Store(&list)
}

// forwarded is one request on its way to an upstream. It is the context of
// that request as well, so that what ReverseProxy calls finds it there.
type forwarded struct {
	context.Context
	credential
	p       *proxy
	w       http.ResponseWriter
	in      *http.Request
	watch   watch
	path    string
	raw     string
	upgrade bool
	from    [1]string // room for X-Forwarded-For

	// What stands between the two sides, kept here to be allocated at once.
	request    requestBody
	response   responseBody
	outer      http.Header                           // what handlers around us have set
	forward1xx func(int, textproto.MIMEHeader) error // ReverseProxy's
	count1xx   int
	switched   io.Closer // the upstream's connection, if it switched protocols
}

type forwardedKey struct{}

func (f *forwarded) Value(key any) any {
	if key == (forwardedKey{}) {
		return f
	}
	return f.Context.Value(key)
}

func forwardedOf(r *http.Request) *forwarded {
	return r.Context().Value(forwardedKey{}).(*forwarded)
}

// serve forwards r, whose escaped path was checked.
func (p *proxy) serve(w http.ResponseWriter, r *http.Request, escaped string) {
	f := &forwarded{credential: credential{b: p.b, t: p.t}, p: p, w: w, in: r}
	if problem := p.prepare(w, r, escaped, f); problem != nil {
		p.b.refuse(w, r, problem)
		return
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	f.Context, f.watch.cancel, f.watch.w = ctx, cancel, w
	p.watches.start(&f.watch, r, p.t)
	defer f.watch.stop()
	out := r.WithContext(f)
	if p.t.MaxRequestBody > 0 {
		out.Body = http.MaxBytesReader(w, r.Body, p.t.MaxRequestBody)
	}
	if len(w.Header()) > 0 {
		f.outer = w.Header().Clone()
	}
	defer f.hangUp()
	p.reverse.ServeHTTP(w, out)
}

// restore brings back what handlers around us have set. ReverseProxy clears it
// for informational answers.
func (f *forwarded) restore() {
	h := f.w.Header()
	for name, values := range f.outer {
		if _, ok := h[name]; !ok {
			h[name] = values
		}
	}
}

// hangUp closes what an upstream switched protocols on. ReverseProxy doesn't if
// it can't pass the switch on: the protocol is not the one that was asked for,
// or the writer is no http.Hijacker.
func (f *forwarded) hangUp() {
	if f.switched != nil {
		f.switched.Close()
	}
}

// prepare decides whether r is forwarded, where, and with which token.
func (p *proxy) prepare(w http.ResponseWriter, r *http.Request, escaped string, f *forwarded) *Problem {
	var reason Reason
	if f.path, f.raw, reason = p.t.path(escaped); reason != "" {
		return newProblem(reason, nil)
	}
	if !validQuery(r.URL.RawQuery) { // check:target-query
		return newProblem(BadRequest, nil)
	}
	if len(r.Header["Content-Type"]) > 1 { // check:content-type-twice
		return newProblem(BadRequest, errors.New("two Content-Type headers"))
	}
	if r.Method == http.MethodOptions && len(r.Header["Access-Control-Request-Method"]) > 0 { // check:preflight
		return newProblem(CSRF, errors.New("CORS preflights are not forwarded"))
	}
	f.upgrade = p.t.WebSocket && isWebSocket(r)
	if f.upgrade && !p.b.isOurs(r) { // check:websocket-origin
		return newProblem(CSRF, nil)
	}
	if p.t.MaxRequestBody > 0 && r.ContentLength > p.t.MaxRequestBody { // check:request-size
		return newProblem(RequestTooLarge, nil)
	}
	if p.t.Needs != None {
		var problem *Problem
		if f.s, problem = p.b.admit(w, r, p.t.rt, p.rule, true); problem != nil {
			return problem
		}
		if p.t.RequireCSRFToken && f.s != nil && !isSafe(r.Method) && !p.b.tokenProves(r, &f.s.id, p.rule) { // check:upstream-csrf-token
			return newProblem(CSRF, nil)
		}
	}
	return f.fetch(r.Context())
}

// maxQueryParams is how many parameters net/url reads.
const maxQueryParams = 10000

// validQuery reports whether all parsers read a query in the same way.
// ReverseProxy would silently drop what it can't read.
func validQuery(raw string) bool {
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case c == '%':
			if i+2 >= len(raw) || !isHex(raw[i+1]) || !isHex(raw[i+2]) {
				return false
			}
		case c == ';' || c <= ' ' || c >= 0x7f:
			return false
		}
	}
	return strings.Count(raw, "&") < maxQueryParams
}

// isWebSocket reports whether r asks for WebSocket and nothing else (RFC 6455,
// section 4.1). Without Connection naming it, Upgrade is a header like any other
// (RFC 9110, section 7.8), and goes no further.
func isWebSocket(r *http.Request) bool {
	return r.Method == http.MethodGet && len(r.Header["Upgrade"]) == 1 && strings.EqualFold(r.Header["Upgrade"][0], "websocket") &&
		connects(r.Header)
}

// connects reports whether Connection names Upgrade.
func connects(h http.Header) bool {
	for _, line := range h["Connection"] {
		for option := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.Trim(option, " \t"), "upgrade") {
				return true
			}
		}
	}
	return false
}

// rewrite makes the upstream's request of the browser's. ReverseProxy has
// removed the hop-by-hop headers already, those that Connection names included,
// so what is set here stays.
func rewrite(pr *httputil.ProxyRequest) {
	f := forwardedOf(pr.In)
	out := pr.Out
	out.URL.Scheme, out.URL.Host, out.URL.User = f.t.url.Scheme, f.t.url.Host, nil
	out.URL.Path, out.URL.RawPath = f.path, f.raw
	out.URL.RawQuery, out.URL.ForceQuery = f.query(pr.In.URL.RawQuery), false
	out.Host = ""     // the upstream's own
	out.Trailer = nil // some servers take trailers for headers

	h := out.Header
	cookies := f.cookies(h)
	f.cleanRequest(h)
	if cookies != "" {
		h["Cookie"] = []string{cookies}
	}
	if !f.upgrade { // check:upgrade-header
		delete(h, "Upgrade")
		delete(h, "Connection")
	}
	f.name(h)
	f.attach(out)
	if ip, _, err := net.SplitHostPort(pr.In.RemoteAddr); err == nil {
		f.from[0] = ip
		h["X-Forwarded-For"] = f.from[:]
	}
	h["X-Forwarded-Host"] = f.p.forwardedHost
	h["X-Forwarded-Proto"] = f.p.forwardedProto
}

// query returns the query without the parameters that stay here, the others as
// they came.
func (f *forwarded) query(raw string) string {
	drops := false
	for pair := range strings.SplitSeq(raw, "&") {
		drops = drops || f.t.dropsParam(pair)
	}
	if !drops {
		return raw
	}
	return strings.Join(slices.DeleteFunc(strings.Split(raw, "&"), f.t.dropsParam), "&")
}

// dropsParam reports whether a parameter of a query stays here. A token there
// would be a second one beside ours (RFC 6750, section 2), and some servers
// prefer it.
func (t *target) dropsParam(pair string) bool {
	name, _, _ := strings.Cut(pair, "=")
	if plain, err := url.QueryUnescape(name); err == nil {
		name = plain
	}
	// Some frameworks read Access_Token for access_token, PHP access.token, and
	// Rack and Express access_token[] and [access_token].
	name, _, _ = strings.Cut(strings.TrimLeft(name, " "), "\x00")
	inner := strings.TrimLeft(name, " []")
	if i := strings.IndexAny(inner, "[]"); i >= 0 {
		inner = inner[:i]
	}
	name, inner = phpNames.Replace(name), phpNames.Replace(inner)
	is := func(drop string) bool {
		drop = phpNames.Replace(drop)
		return strings.EqualFold(name, drop) || strings.EqualFold(inner, drop)
	}
	if t.Needs != None && is("access_token") { // check:query-token
		return true
	}
	if slices.ContainsFunc(t.DropQuery, is) { // check:drop-query
		return true
	}
	return false
}

var phpNames = strings.NewReplacer(".", "_", " ", "_", "[", "_")

// proxyError answers where the upstream didn't.
func (b *BFF) proxyError(w http.ResponseWriter, out *http.Request, err error) {
	f := forwardedOf(out)
	f.restore()
	var p *Problem
	var timeout interface{ Timeout() bool }
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &p):
	case errors.As(err, &tooLarge):
		p = newProblem(RequestTooLarge, nil)
	case f.in.Context().Err() != nil:
		p = newProblem(BadGateway, f.in.Context().Err())
	case errors.As(err, &timeout) && timeout.Timeout():
		p = newProblem(UpstreamTimeout, errors.New("no answer in time"))
	default:
		p = newProblem(BadGateway, upstreamError(err))
	}
	b.refuse(w, f.in, p) // out has the token
}

// upstreamError strips what a transport's error quotes of the request.
func upstreamError(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return fmt.Errorf("%s: %w", op.Op, op.Err)
	}
	return fmt.Errorf("%.200v", err)
}

// buffers is the pool that all proxies copy with.
var buffers = &bufferPool{}

type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) Get() []byte {
	if b, ok := p.pool.Get().(*[32 << 10]byte); ok {
		return b[:]
	}
	return new([32 << 10]byte)[:]
}

func (p *bufferPool) Put(b []byte) { p.pool.Put((*[32 << 10]byte)(b)) }
