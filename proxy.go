package bff

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// An Upstream is an API that gets the user's access token.
type Upstream struct {
	// URL is where it is, https unless the host is loopback. Its path is the
	// base that requests can't climb out of.
	URL string

	// StripPrefix is removed from the front of a request's path, which is then
	// appended to URL's. A path that doesn't have it is 404.
	StripPrefix string

	// Cookies are the names of cookies that are passed to the upstream. Ours
	// never are.
	Cookies []string

	// SetCookies are the names of cookies that the upstream may set. Ours, and
	// any with the prefix __Host- or __Secure-, it may not.
	SetCookies []string

	// WebSocket admits upgrades to WebSocket, from our own origin only. No
	// other upgrade exists.
	WebSocket bool

	// Cache lets the upstream's Cache-Control stand. Without it, answers are
	// no-store, since they are one user's.
	Cache bool

	// Timeout bounds the wait for the upstream's response header. Zero means
	// 30 seconds; negative means no bound.
	Timeout time.Duration

	// Transport sends the requests. Nil means one that all upstreams share: TLS
	// 1.2 or later, 256 idle connections to a host, no proxy.
	Transport http.RoundTripper

	// InsecureHTTP admits plain http to a host that isn't loopback: tokens then
	// travel in the clear.
	InsecureHTTP bool
}

// Validate reports what is wrong with u, for programs that take URLs from
// their environment: New and Proxy insist on it.
func (u Upstream) Validate() error {
	_, err := newTarget(u)
	return err
}

// A target is an Upstream that was checked.
type target struct {
	Upstream
	url  *url.URL
	base string // of url's escaped path, without a slash at its end
}

func newTarget(up Upstream) (*target, error) {
	if rest, ok := strings.CutPrefix(up.URL, invalidTenant); ok { // check:upstream-tenant
		return nil, fmt.Errorf("URL: %q is not a tenant ID; copy it from the Agglestone portal", rest)
	}
	u, err := url.Parse(up.URL)
	switch {
	case up.URL == "":
		return nil, errors.New("URL is empty; set the upstream's base URL")
	case err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http"): // check:upstream-url
		return nil, fmt.Errorf("URL %q is not an absolute http or https URL", up.URL)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(up.URL, "#"): // check:upstream-plain
		return nil, errors.New("URL has a user, query or fragment; remove it")
	case u.Scheme == "http" && !isLoopback(u.Hostname()) && !up.InsecureHTTP: // check:upstream-https
		return nil, fmt.Errorf("URL %q is plain http; use https (plain http is for loopback hosts, or set InsecureHTTP)", up.URL)
	}
	base := strings.TrimRight(u.EscapedPath(), "/")
	if base != "" && !validTargetPath(base) { // check:upstream-path
		return nil, fmt.Errorf("URL: its path %q has dot segments, empty segments or encoded slashes; write it plainly", base)
	}
	if p := up.StripPrefix; p != "" && !validPath(strings.TrimRight(p, "/")) { // check:upstream-prefix
		return nil, fmt.Errorf("StripPrefix %q must be a plain path below /", p)
	}
	up.StripPrefix = strings.TrimRight(up.StripPrefix, "/")
	up.Cookies, up.SetCookies = slices.Clone(up.Cookies), slices.Clone(up.SetCookies)
	return &target{Upstream: up, url: u, base: base}, nil
}

// validTargetPath reports whether an escaped path means the same to us and to
// any upstream: no dot segments, and nothing that decodes to a separator, a
// control character or a second layer of escapes.
func validTargetPath(escaped string) bool {
	if !strings.HasPrefix(escaped, "/") {
		return false
	}
	for i := 0; i < len(escaped); i++ {
		c := escaped[i]
		if c == '%' {
			if i+2 >= len(escaped) {
				return false
			}
			c = unhex(escaped[i+1])<<4 | unhex(escaped[i+2])
			i += 2
			if c == '/' || c == '.' || c == '%' || c == ';' {
				return false
			}
		} else if c == ';' {
			return false
		}
		if c < ' ' || c == 0x7f || c == '\\' {
			return false
		}
	}
	segments := strings.Split(escaped[1:], "/")
	for i, s := range segments {
		if s == "." || s == ".." || s == "" && i < len(segments)-1 {
			return false
		}
	}
	return true
}

// unhex returns the value of a hexadecimal digit; net/url has checked that it
// is one.
func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	}
	return c - 'a' + 10
}

// path maps the path of a request to the upstream's, or says that it can't.
func (t *target) path(u *url.URL) (path, raw string, reason Reason) {
	escaped := u.EscapedPath()
	if !validTargetPath(escaped) { // check:target-path
		return "", "", BadRequest
	}
	rest, ok := strings.CutPrefix(escaped, t.StripPrefix)
	if !ok || rest != "" && rest[0] != '/' { // check:target-prefix
		return "", "", NotFound
	}
	raw = t.base + rest
	if raw == "" {
		raw = "/"
	}
	path, err := url.PathUnescape(raw)
	if err != nil {
		return "", "", BadRequest
	}
	return path, raw, ""
}

// covers reports whether u is at the target or below it.
func (t *target) covers(u *url.URL) bool {
	if u.Scheme != t.url.Scheme || u.User != nil || !sameHost(u, t.url) { // check:client-origin
		return false
	}
	escaped := u.EscapedPath()
	if escaped == "" {
		escaped = "/"
	}
	if !validTargetPath(escaped) { // check:client-path
		return false
	}
	if t.base != "" && escaped != t.base && !strings.HasPrefix(escaped, t.base+"/") { // check:client-base
		return false
	}
	return true
}

func sameHost(a, b *url.URL) bool {
	_, x := originOf(a)
	_, y := originOf(b)
	return x == y
}

// forwarded is what Proxy knows of one request, on its way to the transport.
type forwarded struct {
	b       *BFF
	t       *target
	s       *Session // nil: nobody is signed in
	token   Secret
	given   time.Time // when the issuer gave the token
	path    string
	raw     string
	upgrade bool
}

type forwardedKey struct{}

// Proxy forwards requests to up with the session's access token attached.
//
// Every request needs a live session and proves its origin, GET included. What
// the browser sent of cookies, Authorization and forwarding headers stays here;
// what the upstream answers of cookies and CORS headers does too. Bodies are
// streamed both ways, answers flushed as they come.
//
// If the upstream answers 401 to a token that the session has replaced, or that
// is older than 30 seconds, the request is sent once more with a fresh token:
// GET, HEAD and OPTIONS always, others only if the body is at most 64 KB and
// the challenge says invalid_token.
//
// Proxy takes the options of [BFF.Protect]; with Optional, a request without a
// session is forwarded without a token. It panics if up is not valid, as
// http.ServeMux does for a bad pattern: see [Upstream.Validate].
func (b *BFF) Proxy(up Upstream, opts ...Option) http.Handler {
	t, err := newTarget(up)
	if err != nil {
		panic("bff: Proxy: " + err.Error())
	}
	rt := newRoute(opts)
	b.proxies(t.StripPrefix)
	base := t.Transport
	if base == nil {
		base = sharedTransport()
	}
	rp := &httputil.ReverseProxy{
		Rewrite:        rewrite,
		Transport:      &proxyTransport{base},
		ModifyResponse: b.cleanResponse,
		ErrorHandler:   b.proxyError,
		BufferPool:     buffers,
		FlushInterval:  -1,
		ErrorLog:       slog.NewLogLogger(b.log.Handler(), slog.LevelDebug),
	}
	rule := proofRule{typed: rt.navigation}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := &forwarded{b: b, t: t}
		if problem := b.prepare(w, r, rt, rule, f); problem != nil {
			b.refuse(w, r, problem)
			return
		}
		rp.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), forwardedKey{}, f)))
	})
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

// prepare decides whether r is forwarded, where, and with which token.
func (b *BFF) prepare(w http.ResponseWriter, r *http.Request, rt *route, rule proofRule, f *forwarded) *Problem {
	if r.Method == http.MethodConnect || r.Method == http.MethodTrace { // check:proxy-method
		return newProblem(MethodNotAllowed, nil)
	}
	var reason Reason
	if f.path, f.raw, reason = f.t.path(r.URL); reason != "" {
		return newProblem(reason, nil)
	}
	// A query that parsers read differently is not forwarded at all:
	// ReverseProxy would silently drop what it can't read.
	if strings.Contains(r.URL.RawQuery, ";") || !validQuery(r.URL.RawQuery) { // check:target-query
		return newProblem(BadRequest, nil)
	}
	f.upgrade = f.t.WebSocket && isWebSocket(r)
	if f.upgrade && (len(r.Header["Origin"]) != 1 || r.Header["Origin"][0] != b.origin) { // check:websocket-origin
		return newProblem(CSRF, nil)
	}
	s, problem := b.admit(w, r, rt, rule, true)
	if problem != nil || s == nil {
		return problem
	}
	f.s = s
	f.token, f.given, problem = b.accessToken(r.Context(), s)
	return problem
}

func validQuery(raw string) bool {
	for i := 0; i < len(raw); i++ {
		if raw[i] == '%' && (i+2 >= len(raw) || !isHex(raw[i+1]) || !isHex(raw[i+2])) {
			return false
		}
	}
	return true
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// isWebSocket reports whether r asks for WebSocket and nothing else (RFC 6455,
// section 4.1).
func isWebSocket(r *http.Request) bool {
	return r.Method == http.MethodGet && len(r.Header["Upgrade"]) == 1 && strings.EqualFold(r.Header["Upgrade"][0], "websocket")
}

// rewrite makes the upstream's request of the browser's. ReverseProxy has
// removed the hop-by-hop headers already, those that Connection names included,
// so what is set here stays.
func rewrite(pr *httputil.ProxyRequest) {
	f := pr.In.Context().Value(forwardedKey{}).(*forwarded)
	out := pr.Out
	out.URL.Scheme, out.URL.Host = f.t.url.Scheme, f.t.url.Host
	out.URL.Path, out.URL.RawPath, out.URL.RawQuery = f.path, f.raw, pr.In.URL.RawQuery
	out.Host = "" // the upstream's own

	h := out.Header
	cookies := f.cookies(pr.In)
	for name := range h {
		if droppedHeader(name) { // check:request-header
			delete(h, name)
		}
	}
	if len(cookies) > 0 {
		h["Cookie"] = []string{strings.Join(cookies, "; ")}
	}
	if !f.upgrade { // check:upgrade-header
		delete(h, "Upgrade")
		delete(h, "Connection")
	}
	if f.token != "" {
		h["Authorization"] = []string{"Bearer " + f.token.Reveal()}
	}
	if ip, _, err := net.SplitHostPort(pr.In.RemoteAddr); err == nil {
		h["X-Forwarded-For"] = []string{ip}
	}
	h["X-Forwarded-Host"] = []string{f.b.host}
	h["X-Forwarded-Proto"] = []string{f.b.scheme()}
}

// cookies returns the cookies that may pass.
func (f *forwarded) cookies(in *http.Request) []string {
	if len(f.t.Cookies) == 0 {
		return nil
	}
	var pass []string
	for _, c := range in.Cookies() {
		if f.b.cookies.ours(c.Name) { // check:own-cookie
			continue
		}
		if slices.Contains(f.t.Cookies, c.Name) {
			pass = append(pass, c.Name+"="+c.Value)
		}
	}
	return pass
}

// ours reports whether a cookie of this name is one of ours, in any spelling
// that a browser or a server could take for it.
func (c *cookieNames) ours(name string) bool {
	return strings.HasPrefix(strings.ToLower(strings.TrimSpace(name)), strings.ToLower(c.session))
}

// droppedHeader reports whether a request header stays here: credentials,
// whatever could pass for what a proxy in front of the upstream says, and names
// with underscores, which some servers take for dashes.
func droppedHeader(name string) bool {
	switch name {
	case "Accept", "Accept-Encoding", "Accept-Language", "User-Agent", "Content-Type", "Content-Length", "Origin", "Referer",
		"Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest", "Te":
		return false // the common ones, without a closer look
	case "Cookie", "Authorization", "Proxy-Authorization", "Forwarded", "Dpop", "Via", "X-Csrf", "X-Csrf-Token", "Bff-Passive",
		"Http2-Settings", "Client-Ip", "True-Client-Ip", "Remote-User", "X-Http-Method-Override", "X-Method-Override", "X-Http-Method":
		return true
	}
	if strings.Contains(name, "_") { // check:header-underscore
		return true
	}
	lower := strings.ToLower(name)
	for _, prefix := range []string{
		"x-forwarded", "x-real-", "x-original-", "x-rewrite-", "x-auth-", "x-remote-", "x-user", "x-client-cert", "x-ssl-",
		"x-envoy-", "x-cluster-client-", "cf-connecting-", "x-authenticated-", "x-authorization", "x-groups", "ssl-client-",
	} {
		if strings.HasPrefix(lower, prefix) { // check:header-prefix
			return true
		}
	}
	// A spelling that isn't canonical got past the table above.
	return textproto.CanonicalMIMEHeaderKey(name) != name
}

// cleanResponse removes from an upstream's answer what would act on our origin.
func (b *BFF) cleanResponse(res *http.Response) error {
	f := res.Request.Context().Value(forwardedKey{}).(*forwarded)
	if res.StatusCode == http.StatusSwitchingProtocols && !f.upgrade { // check:upgrade
		res.Body.Close()
		return newProblem(BadGateway, errors.New("the upstream switched protocols unasked"))
	}
	h := res.Header
	f.cleanHeader(h)
	if !f.t.Cache && !strictCache(h["Cache-Control"]) { // check:proxy-cache
		h["Cache-Control"] = noStore
	}
	if res.StatusCode == http.StatusUnauthorized && f.token != "" {
		h.Set(reasonHeader, string(UpstreamUnauthorized))
	}
	cleanTrailer(res.Trailer) // what is announced; upstreamBody does the rest
	return nil
}

// strictCache reports whether the upstream itself forbids to store the answer.
func strictCache(values []string) bool {
	for _, v := range values {
		if strings.Contains(strings.ToLower(v), "no-store") {
			return true
		}
	}
	return false
}

// cleanHeader removes response headers, of an answer, a 1xx or a trailer.
func (f *forwarded) cleanHeader(h http.Header) {
	if cookies := h["Set-Cookie"]; len(cookies) > 0 { // check:set-cookie
		cookies = slices.DeleteFunc(slices.Clone(cookies), func(line string) bool { return !f.maySet(line) })
		if len(cookies) > 0 {
			h["Set-Cookie"] = cookies
		} else {
			delete(h, "Set-Cookie")
		}
	}
	for name := range h {
		if droppedResponse(name) { // check:response-header
			delete(h, name)
		}
	}
}

// droppedResponse reports whether a response header is the upstream's to send,
// but not on our origin.
func droppedResponse(name string) bool {
	switch name {
	case "Content-Type", "Content-Length", "Date", "Cache-Control", "Set-Cookie", "Etag", "Vary", "Content-Encoding":
		return false // the common ones, without a closer look
	case reasonHeader, "Clear-Site-Data", "Service-Worker-Allowed", "Strict-Transport-Security", "Www-Authenticate",
		"Proxy-Authenticate", "Authorization", "Set-Cookie2", "Alt-Svc", "Nel", "Report-To", "Refresh":
		return true
	}
	return strings.HasPrefix(strings.ToLower(name), "access-control-")
}

// maySet reports whether the upstream may set the cookie of a Set-Cookie line.
func (f *forwarded) maySet(line string) bool {
	name, _, _ := strings.Cut(line, "=")
	name = strings.TrimSpace(name)
	lower := strings.ToLower(name)
	if f.b.cookies.ours(name) || strings.HasPrefix(lower, "__host-") || strings.HasPrefix(lower, "__secure-") { // check:set-own-cookie
		return false
	}
	return slices.Contains(f.t.SetCookies, name)
}

// cleanTrailer removes what an upstream may not send after the body either.
// ReverseProxy forwards trailers that were never announced, too.
func cleanTrailer(h http.Header) {
	for name := range h {
		if name == "Set-Cookie" || droppedResponse(name) { // check:trailer
			delete(h, name)
		}
	}
}

// proxyError answers where the upstream didn't.
func (b *BFF) proxyError(w http.ResponseWriter, r *http.Request, err error) {
	var p *Problem
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &p):
	case errors.As(err, &timeout) && timeout.Timeout():
		p = newProblem(UpstreamTimeout, errors.New("no answer in time"))
	case r.Context().Err() != nil:
		p = newProblem(BadGateway, r.Context().Err())
	default:
		p = newProblem(BadGateway, upstreamError(err))
	}
	b.refuse(w, r, p)
}

// upstreamError strips what a transport's error quotes of the request.
func upstreamError(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return fmt.Errorf("%s: %w", op.Op, op.Err)
	}
	return fmt.Errorf("%.200v", err)
}

// proxyTransport sends a request, a second time if the token was too old.
type proxyTransport struct{ base http.RoundTripper }

const (
	maxReplay   = 64 << 10         // of a body that is held for a second time
	replayAfter = 30 * time.Second // of a token's life
)

func (pt *proxyTransport) RoundTrip(out *http.Request) (*http.Response, error) {
	f := out.Context().Value(forwardedKey{}).(*forwarded)
	// The hook runs before ReverseProxy's own, which forwards 1xx headers.
	out = out.WithContext(httptrace.WithClientTrace(out.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
			f.cleanHeader(http.Header(h))
			return nil
		},
	}))
	body, held, err := hold(out)
	if err != nil {
		return nil, err
	}
	res, err := f.send(pt.base, out)
	if err != nil || res.StatusCode != http.StatusUnauthorized || f.token == "" || f.upgrade {
		return res, err
	}
	if !held || !isRead(out.Method) && out.Method != http.MethodOptions && !challenges(res.Header, "invalid_token") { // check:replay
		return res, nil
	}
	token, given, ok := f.b.fresher(out.Context(), f.s, f.given)
	if !ok {
		return res, nil
	}
	again := out.Clone(out.Context())
	again.Header["Authorization"] = []string{"Bearer " + token.Reveal()}
	if body != nil {
		again.Body = io.NopCloser(bytes.NewReader(body))
	}
	res.Body.Close()
	f.given = given
	return f.send(pt.base, again)
}

// send is one round trip, with a bound on the wait for the response header.
func (f *forwarded) send(base http.RoundTripper, out *http.Request) (*http.Response, error) {
	timeout := f.t.Timeout
	if timeout == 0 {
		timeout = 30 * time.Second
	}
	if f.upgrade { // its body is the connection
		return base.RoundTrip(out)
	}
	ctx, cancel := context.WithCancel(out.Context())
	late := false
	var timer *time.Timer
	if timeout > 0 {
		timer = time.AfterFunc(timeout, cancel)
	}
	res, err := base.RoundTrip(out.WithContext(ctx))
	if timer != nil {
		late = !timer.Stop()
	}
	if err != nil {
		cancel()
		if late && out.Context().Err() == nil {
			err = newProblem(UpstreamTimeout, errors.New("no response header in time"))
		}
		return nil, err
	}
	res.Body = &upstreamBody{res.Body, res, cancel}
	return res, nil
}

// An upstreamBody cleans the trailers once they have been read, and ends the
// request's context when it is closed.
type upstreamBody struct {
	io.ReadCloser
	res    *http.Response
	cancel context.CancelFunc
}

func (b *upstreamBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		cleanTrailer(b.res.Trailer)
	}
	return n, err
}

func (b *upstreamBody) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}

// hold reads a small body of known length, so that it can be sent twice.
func hold(out *http.Request) (body []byte, held bool, err error) {
	if out.Body == nil || out.Body == http.NoBody || out.ContentLength == 0 {
		return nil, true, nil
	}
	if out.ContentLength < 0 || out.ContentLength > maxReplay || out.Header.Get("Expect") != "" {
		return nil, false, nil
	}
	body = make([]byte, out.ContentLength)
	if _, err := io.ReadFull(out.Body, body); err != nil {
		return nil, false, newProblem(BadRequest, errors.New("the request body ended early"))
	}
	out.Body = io.NopCloser(bytes.NewReader(body))
	return body, true, nil
}

// challenges reports whether a 401 names this error (RFC 6750, section 3.1).
func challenges(h http.Header, code string) bool {
	for _, c := range h["Www-Authenticate"] {
		if strings.Contains(c, `error="`+code+`"`) || strings.HasSuffix(c, "error="+code) || strings.Contains(c, "error="+code+",") {
			return true
		}
	}
	return false
}

// fresher returns a token newer than the one that the issuer gave at the given
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
	token, obtained, problem := b.accessToken(ctx, s)
	return token, obtained, problem == nil && obtained.After(given)
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
