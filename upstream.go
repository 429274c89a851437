package bff

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// An Upstream is an API that gets the user's access token: where it is, which
// requests lead there, and what passes in either direction. It is data, to be
// given to [BFF.Proxy], to [BFF.Upstreams] as one row of a table, or to
// Config.Upstreams for [BFF.Client].
type Upstream struct {
	// URL is where it is, https unless the host is loopback. Its path is the
	// base that requests can't climb out of.
	URL string

	// Path is the prefix of the requests that lead here: /api stands for /api
	// itself and for all below it. Empty means StripPrefix, or every path.
	Path string

	// StripPrefix is removed from the front of a request's path, which is then
	// appended to URL's. A path that doesn't have it is 404.
	StripPrefix string

	// RewritePath, if set, maps what is left after StripPrefix, escaped, to what
	// is appended to URL's path. What it returns is checked as a request's path
	// is, so it can't leave the base; 404 if it fails that.
	RewritePath func(path string) string

	// Methods are the methods that are forwarded; GET admits HEAD. Others are
	// 405. Nil means GET, POST, PUT, PATCH, DELETE and OPTIONS. CONNECT, TRACE
	// and CORS preflights never are.
	Methods []string

	// Needs says whose request it must be and whose token it is given.
	Needs Need

	// InsecureAnonymousClient lets anybody on the network use the application's
	// own token at an upstream that needs Client. Only for what is public.
	InsecureAnonymousClient bool

	// Tokens gives the token instead of the session. An upstream that needs
	// Client must have one.
	Tokens TokenSource

	// Groups, if not empty, are those of which the user must be in at least one.
	Groups []string

	// Options are more of what the route asks for, as for [BFF.Protect].
	Options []Option

	// AllowNavigation admits a GET that the browser makes for its address bar,
	// such as a download: see the [AllowNavigation] option.
	AllowNavigation bool

	// RequireCSRFToken demands the session's CSRF token with every unsafe
	// method, on top of the proof of origin.
	RequireCSRFToken bool

	// Passive requests don't extend the session.
	Passive bool

	// UserIDHeader and UserGroupsHeader are headers that name the user to the
	// upstream, such as X-User-Id and X-User-Groups. What the browser sends
	// under these names is dropped. Characters that a header can't carry, and
	// '%', are percent-encoded as in a URL's path; groups are separated by
	// commas, a comma in one's name encoded. Empty means none.
	UserIDHeader     string
	UserGroupsHeader string

	// RequestHeaders and ResponseHeaders change which headers pass.
	RequestHeaders  HeaderRules
	ResponseHeaders HeaderRules

	// Cookies are the names of cookies that are passed to the upstream. Ours
	// never are.
	Cookies []string

	// SetCookies are the names of cookies that the upstream may set. Ours, and
	// any with the prefix __Host- or __Secure-, it may not.
	SetCookies []string

	// DropQuery are the names of query parameters that stay here. Unless Needs
	// is None, access_token is one: SignalR's client would send it.
	DropQuery []string

	// PassLocation leaves the Location of an answer as it is. Without it, one
	// under URL is mapped to the path that leads there through us, one elsewhere
	// on the upstream's own origin, or beside Path, is dropped, and one to
	// another origin is passed on. Redirects are never followed.
	PassLocation bool

	// BlockTokenEcho breaks off an answer that repeats the token it was sent, in
	// a header or the body, before the token leaves. For that, ranges and
	// compression are not asked for. It does not look into WebSockets.
	BlockTokenEcho bool

	// WebSocket admits upgrades to WebSocket, from our own origin only. No
	// other upgrade exists.
	WebSocket bool

	// EndStreamsWithToken ends WebSockets and event streams when the access
	// token that they began with expires, for upstreams that look at it once.
	// They always end with the session. It is for the session's own access
	// token, not for that of Tokens.
	EndStreamsWithToken bool

	// Cache lets the upstream's Cache-Control stand. Without it, answers are
	// no-store, since they are one user's.
	Cache bool

	// Timeout bounds the wait for the upstream's response header, from the last
	// byte of the request on. Zero means 30 seconds; negative means no bound.
	// This and the next two are kept to a fifth of a second.
	Timeout time.Duration

	// IdleTimeout ends a request on which no byte has moved in either direction
	// for this long, be it an upload, a download, a stream of events or a
	// WebSocket. Zero means 5 minutes; negative means no bound.
	IdleTimeout time.Duration

	// MaxDuration bounds the whole request, streams included. Zero means no
	// bound.
	MaxDuration time.Duration

	// MaxRequestBody is the greatest request body in bytes; more is 413. Zero
	// means no bound: bodies are streamed, not kept.
	MaxRequestBody int64

	// MaxResponseHeader is the greatest response header in bytes; more is 502.
	// Zero means 256 KiB. It needs a nil Transport.
	MaxResponseHeader int64

	// H2C speaks HTTP/2 without TLS to an http URL, as a gRPC server on loopback
	// may want. It needs a nil Transport, and excludes WebSocket.
	H2C bool

	// Transport sends the requests. Nil means one of ours: TLS 1.2 or later,
	// HTTP/2 where the upstream offers it, 10 seconds to connect and 10 for the
	// TLS handshake, up to 256 idle connections to a host for 90 seconds, no
	// proxy, and HTTP/2 connections that are silent for 6 minutes asked whether
	// they are alive. Upstreams share it, unless one has MaxResponseHeader or H2C.
	// One of your own is taken as it is: an http.Transport loses the answer of
	// an upstream that refuses an upload and resets the connection.
	Transport http.RoundTripper

	// InsecureHTTP admits plain http to a host that isn't loopback: tokens then
	// travel in the clear.
	InsecureHTTP bool
}

// A Need says whose request may be forwarded, and whose access token it is
// given.
type Need int

const (
	// User is a signed-in user's request, with the user's token.
	User Need = iota

	// UserOptional is anybody's: with the user's token if somebody is signed
	// in, else with none.
	UserOptional

	// Client is a signed-in user's request too, but with the application's own
	// token, from Upstream.Tokens. It replaces the token, not the sign-in:
	// otherwise any visitor could do what the application may.
	Client

	// None is anybody's. No session is looked at, and neither token nor cookies
	// nor identity are passed on.
	None
)

func (n Need) String() string {
	switch n {
	case User:
		return "user"
	case UserOptional:
		return "user, optional"
	case Client:
		return "client"
	case None:
		return "none"
	}
	return fmt.Sprintf("Need(%d)", int(n))
}

// A TokenSource gives access tokens that are not simply the session's: the
// application's own, or some made for one upstream. Its method runs
// concurrently, on the path of every request, and should answer from memory.
type TokenSource interface {
	// Token returns the token to send. s is nil if nobody is signed in. refused
	// is empty, or a token that the upstream has just answered 401 to: a source
	// that has no other one returns it again. A *Problem is answered as it is,
	// any other error with 503 issuer_unavailable.
	Token(ctx context.Context, s *Session, refused Secret) (Secret, error)
}

// HeaderRules change which headers pass between a browser and an [Upstream].
// What frames a message (Content-Length, Connection, ...) is not theirs.
type HeaderRules struct {
	// Pass are headers that pass although they are dropped by default. Those
	// that carry credentials, cookies, CORS or our own word never do.
	Pass []string

	// Drop are headers that don't pass, "*" all that Pass doesn't name.
	Drop []string
}

// Validate reports what is wrong with u, for programs that take their upstreams
// from the environment: New, Proxy and Upstreams insist on it.
func (u Upstream) Validate() error {
	_, err := newTarget(u)
	return err
}

// A target is an Upstream that was checked.
type target struct {
	Upstream
	url      *url.URL
	base     string // of url's escaped path, without a slash at its end
	request  headerRules
	response headerRules
	rt       *route // of the fields that are options, too
	sender   http.RoundTripper
}

var defaultMethods = []string{"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"}

const (
	defaultHeaderTimeout = 30 * time.Second
	defaultIdleTimeout   = 5 * time.Minute
)

func newTarget(up Upstream, opts ...Option) (*target, error) {
	u, err := upstreamURL(up)
	errs := []error{err}
	if err != nil {
		u = &url.URL{} // what else is wrong is reported too
	}
	t := &target{Upstream: up, url: u, base: strings.TrimRight(u.EscapedPath(), "/")}
	if t.base != "" && !validTargetPath(t.base) { // check:upstream-path
		errs = append(errs, fmt.Errorf("URL: its path %q has dot segments, empty segments or encoded slashes; write it plainly", t.base))
	}
	t.clone(opts)
	for _, check := range []func() error{t.checkPaths, t.checkMethods, t.checkNeeds, t.checkHeaders, t.checkLimits} {
		errs = append(errs, check())
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	t.sender = t.transport()
	return t, nil
}

func upstreamURL(up Upstream) (*url.URL, error) {
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
	return u, nil
}

// clone copies what a caller could change later.
func (t *target) clone(opts []Option) {
	for _, s := range []*[]string{&t.Methods, &t.Groups, &t.Cookies, &t.SetCookies, &t.DropQuery} {
		*s = slices.Clone(*s)
	}
	t.Options = append(slices.Clone(t.Options), opts...)
}

func (t *target) checkPaths() error {
	for _, f := range []struct {
		name string
		path *string
	}{{"Path", &t.Path}, {"StripPrefix", &t.StripPrefix}} {
		*f.path = strings.TrimRight(*f.path, "/")
		if p := *f.path; p != "" && !validPath(p) { // check:upstream-prefix
			return fmt.Errorf("%s %q must be a plain path below /", f.name, p)
		}
	}
	if t.Path == "" {
		t.Path = t.StripPrefix
	}
	if _, ok := below(t.Path, t.StripPrefix); !ok {
		return fmt.Errorf("Path %q is not at or below StripPrefix %q, so nothing would get through", t.Path, t.StripPrefix)
	}
	return nil
}

func (t *target) checkMethods() error {
	if t.Methods == nil {
		t.Methods = defaultMethods
		return nil
	}
	if len(t.Methods) == 0 {
		return errors.New("Methods is empty; leave it nil for the default")
	}
	for _, m := range t.Methods {
		if m == http.MethodConnect || m == http.MethodTrace { // check:upstream-method
			return fmt.Errorf("Methods: %s is never forwarded", m)
		}
		if m == "" || strings.ContainsFunc(m, func(r rune) bool { return (r < 'A' || r > 'Z') && r != '-' }) {
			return fmt.Errorf("Methods: %q is not a method's name in capitals", m)
		}
	}
	if slices.Contains(t.Methods, http.MethodGet) {
		t.Methods = append(t.Methods, http.MethodHead)
	}
	slices.Sort(t.Methods)
	t.Methods = slices.Compact(t.Methods)
	return nil
}

func (t *target) checkNeeds() error {
	var err error
	if t.rt, err = newRoute(t.Options); err != nil {
		return fmt.Errorf("Options: %w", err)
	}
	if v, ok := t.Tokens.(interface{ Validate() error }); ok {
		if err := v.Validate(); err != nil {
			return fmt.Errorf("Tokens: %w", err)
		}
	}
	switch t.Needs {
	case User:
	case UserOptional:
		t.rt.optional = true
	case Client:
		if t.Tokens == nil { // check:upstream-tokens
			return errors.New("Tokens is nil; an upstream that needs Client must say where the application's own token comes from")
		}
		if t.rt.optional && !t.InsecureAnonymousClient { // check:upstream-client-optional
			return errors.New("Options has Optional; to let anybody use the application's own token, set InsecureAnonymousClient")
		}
		t.rt.optional = t.InsecureAnonymousClient
	case None:
		if t.Tokens != nil || len(t.Groups)+len(t.Options)+len(t.Cookies)+len(t.SetCookies) > 0 || t.RequireCSRFToken ||
			t.UserIDHeader != "" || t.UserGroupsHeader != "" { // check:upstream-none
			return errors.New("Needs is None, so there is nobody to ask for Groups, Options, Cookies, Tokens or the like; remove them, or need UserOptional")
		}
	default:
		return fmt.Errorf("Needs is %d, which is none of User, UserOptional, Client and None", t.Needs)
	}
	if t.InsecureAnonymousClient && t.Needs != Client { // check:upstream-anonymous
		return errors.New("InsecureAnonymousClient is for upstreams that need Client")
	}
	if t.EndStreamsWithToken && (t.Tokens != nil || t.Needs == None) { // check:upstream-stream-token
		return errors.New("EndStreamsWithToken is for upstreams that get the session's own access token; without Tokens, and unless Needs is None")
	}
	if len(t.Groups) > 0 {
		t.rt.groups = append(t.rt.groups, t.Groups)
	}
	t.rt.navigation = t.rt.navigation || t.AllowNavigation
	t.rt.passive = t.rt.passive || t.Passive
	return nil
}

func (t *target) checkHeaders() error {
	for _, name := range []*string{&t.UserIDHeader, &t.UserGroupsHeader} {
		if *name == "" {
			continue
		}
		*name = textproto.CanonicalMIMEHeaderKey(*name)
		if !validHeaderName(*name) || frames(*name) || *name == "Authorization" || *name == "Cookie" { // check:upstream-user-header
			return fmt.Errorf("%q can't be a header that names the user", *name)
		}
	}
	if t.UserIDHeader != "" && t.UserIDHeader == t.UserGroupsHeader {
		return errors.New("UserIDHeader and UserGroupsHeader are the same")
	}
	var err error
	if t.request, err = newHeaderRules(t.Upstream.RequestHeaders, requestFate); err != nil {
		return fmt.Errorf("RequestHeaders: %w", err)
	}
	if t.response, err = newHeaderRules(t.Upstream.ResponseHeaders, responseFate); err != nil {
		return fmt.Errorf("ResponseHeaders: %w", err)
	}
	for _, name := range []string{t.UserIDHeader, t.UserGroupsHeader} {
		if name != "" {
			t.request.never(name)
		}
	}
	return nil
}

func (t *target) checkLimits() error {
	switch {
	case t.MaxDuration < 0 || t.MaxRequestBody < 0 || t.MaxResponseHeader < 0:
		return errors.New("MaxDuration, MaxRequestBody or MaxResponseHeader is negative; leave it zero for the default")
	case t.MaxResponseHeader > 0 && t.Transport != nil:
		return errors.New("MaxResponseHeader needs a nil Transport; bound it there")
	case t.H2C && (t.Transport != nil || t.url.Scheme == "https" || t.WebSocket):
		return errors.New("H2C is for http URLs, with a nil Transport and without WebSocket")
	}
	if t.Timeout == 0 {
		t.Timeout = defaultHeaderTimeout
	}
	if t.IdleTimeout == 0 {
		t.IdleTimeout = defaultIdleTimeout
	}
	return nil
}

// validTargetPath reports whether an escaped path means the same to us and to
// any upstream: no dot segments, and nothing that decodes to a separator, a
// control character or a second layer of escapes, or isn't UTF-8, of which
// lenient decoders make any of these.
func validTargetPath(escaped string) bool {
	if escaped == "" || escaped[0] != '/' {
		return false
	}
	// Of the segment: its length, and whether it is dots and spaces only, which
	// some file systems take for a dot segment.
	length, dots, ascii := 0, true, true
	for i := 1; i < len(escaped); i++ {
		c := escaped[i]
		switch c {
		case '/':
			if dots { // empty, too
				return false
			}
			length, dots = 0, true
			continue
		case '%':
			if i+2 >= len(escaped) || !isHex(escaped[i+1]) || !isHex(escaped[i+2]) {
				return false
			}
			c = unhex(escaped[i+1])<<4 | unhex(escaped[i+2])
			i += 2
			if c == '/' || c == '.' || c == '%' {
				return false
			}
		}
		if c < ' ' || c == 0x7f || c == '\\' || c == ';' {
			return false
		}
		length++
		dots = dots && (c == '.' || c == ' ')
		ascii = ascii && c < utf8.RuneSelf
	}
	if dots && length > 0 {
		return false
	}
	if ascii {
		return true
	}
	plain, err := url.PathUnescape(escaped)
	return err == nil && utf8.ValidString(plain)
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// unhex returns the value of a hexadecimal digit.
func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	}
	return c - 'a' + 10
}

// below returns what is left of path after prefix, if path is at it or below.
func below(path, prefix string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(path, prefix)
	return rest, ok && (rest == "" || rest[0] == '/')
}

// path maps the escaped path of a request, which was checked, to the
// upstream's, or says that it can't.
func (t *target) path(escaped string) (path, raw string, reason Reason) {
	rest, ok := below(escaped, t.StripPrefix)
	if !ok { // check:target-prefix the table has seen to it
		return "", "", NotFound
	}
	if t.RewritePath != nil {
		rest = t.RewritePath(rest)
		if rest != "" && !validTargetPath(rest) { // check:rewritten-path
			return "", "", NotFound
		}
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
	if !t.sameOrigin(u) { // check:client-origin
		return false
	}
	escaped := u.EscapedPath()
	if escaped == "" {
		escaped = "/"
	}
	if !validTargetPath(escaped) { // check:client-path
		return false
	}
	_, ok := below(escaped, t.base)
	if !ok { // check:client-base
		return false
	}
	return true
}

// sameOrigin reports whether u has the target's origin, and no user.
func (t *target) sameOrigin(u *url.URL) bool {
	if u.Scheme != t.url.Scheme || u.User != nil {
		return false
	}
	_, x := originOf(u)
	_, y := originOf(t.url)
	return x == y
}
