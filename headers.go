package bff

import (
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
)

// What this file promises: no header that a browser sends can pass for what a
// proxy in front of the upstream says, and none that an upstream sends acts on
// our origin beyond its own answer.

// A fate is what becomes of a header at an upstream's boundary.
type fate int

const (
	passes  fate = iota
	dropped      // unless HeaderRules.Pass names it
	never
)

// headerRules are HeaderRules that were checked.
type headerRules struct {
	fates   map[string]fate // of the headers that the rules name
	dropAll bool
}

func newHeaderRules(rules HeaderRules, byDefault func(string) fate) (headerRules, error) {
	r := headerRules{fates: map[string]fate{}}
	for _, name := range rules.Drop {
		if name == "*" {
			r.dropAll = true
			continue
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		if !validHeaderName(name) || frames(name) { // check:rule-drop
			return r, fmt.Errorf("%q can't be dropped", name)
		}
		r.fates[name] = dropped
	}
	for _, name := range rules.Pass {
		name = textproto.CanonicalMIMEHeaderKey(name)
		if !validHeaderName(name) || frames(name) || byDefault(name) == never { // check:rule-pass
			return r, fmt.Errorf("%q can't be passed", name)
		}
		if r.fates[name] == dropped {
			return r, fmt.Errorf("%q is in both Pass and Drop", name)
		}
		r.fates[name] = passes
	}
	return r, nil
}

// never has name dropped whatever the rules said of it.
func (r *headerRules) never(name string) { r.fates[name] = never }

// drops reports whether a header is dropped that byDefault would meet the
// given fate.
func (r *headerRules) drops(name string, byDefault fate) bool {
	if byDefault == never {
		return true
	}
	if len(r.fates) > 0 {
		if own, ok := r.fates[name]; ok {
			return own != passes
		}
	}
	return byDefault == dropped || r.dropAll && !frames(name)
}

// frames reports whether a header belongs to the message's framing, or to the
// connection. ReverseProxy and Transport see to those.
func frames(name string) bool {
	switch name {
	case "Connection", "Content-Length", "Date", "Expect", "Host", "Keep-Alive", "Proxy-Connection", "Te", "Trailer",
		"Transfer-Encoding", "Upgrade", "Sec-Websocket-Accept", "Sec-Websocket-Extensions", "Sec-Websocket-Key",
		"Sec-Websocket-Protocol", "Sec-Websocket-Version":
		return true
	}
	return false
}

// validHeaderName reports whether name is spelt in the canonical way and of
// letters, digits and dashes alone. CGI and its heirs make underscores of
// dashes, and some make them of all the rest, so that X_User.Id would be
// X-User-Id to them.
func validHeaderName(name string) bool {
	for i := range len(name) {
		c := name[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-') {
			return false
		}
	}
	return name != "" && textproto.CanonicalMIMEHeaderKey(name) == name
}

// requestFate says what becomes of a header that the browser sent.
func requestFate(name string) fate {
	switch name {
	case "Accept", "Accept-Encoding", "Accept-Language", "User-Agent", "Content-Type", "Content-Length", "Origin", "Referer",
		"Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest", "Te":
		return passes // the common ones, without a closer look
	case "Cookie", "Cookie2", "Authorization", "Dpop", "Forwarded", "Http2-Settings", "X-Csrf", "X-Csrf-Token", "Bff-Passive",
		"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto":
		return never
	case "Via", "Client-Ip", "Client-Cert", "Client-Cert-Chain", "True-Client-Ip", "Proxy",
		"Fastly-Client-Ip", "X-Host", "X-Http-Host-Override", "X-Http-Method", "X-Http-Method-Override", "X-Method-Override",
		"X-Http-Path-Override", "X-Wap-Profile", "X-Role", "X-Roles", "X-Scope", "X-Scopes", "X-Id-Token", "X-Access-Token",
		"X-Email", "X-Subject":
		return dropped
	}
	if !validHeaderName(name) { // check:header-name
		return never
	}
	prefixes := otherPrefixes
	if strings.HasPrefix(name, "X-") {
		prefixes = xPrefixes
	}
	for _, p := range prefixes {
		if strings.HasPrefix(name, p) { // check:header-prefix
			return dropped
		}
	}
	return passes
}

// What proxies, load balancers and API gateways tell upstreams.
var (
	otherPrefixes = []string{
		"Access-Control-", "Cf-Access-", "Cf-Connecting-", "Fly-Client-", "Iv-", "Mellon-", "Oidc-", "Proxy-", "Remote-", "Shib-", "Sm-",
		"Ssl-", "Tailscale-", "Wl-Proxy-",
	}
	xPrefixes = []string{
		"X-Amzn-Mtls-", "X-Amzn-Oidc-", "X-Anonymous-", "X-Apigateway-", "X-Appengine-", "X-Arr-", "X-Auth", "X-Azure-", "X-Client-Cert", "X-Client-Ip", "X-Cluster-Client-",
		"X-Consumer-", "X-Credential-", "X-Endpoint-Api-", "X-Envoy-", "X-Forwarded", "X-Goog-", "X-Group", "X-Jwt-",
		"X-Ms-Client-Principal", "X-Ms-Token-", "X-Original-", "X-Originating-", "X-Pomerium-", "X-Proxy", "X-Real-", "X-Remote-",
		"X-Rewrite-", "X-Ssl-", "X-Tls-", "X-True-Client-", "X-User", "X-Vouch-", "X-Webauth-",
	}
)

// responseFate says what becomes of a header that the upstream sent. Cookies
// have rules of their own.
func responseFate(name string) fate {
	switch name {
	case "Content-Type", "Content-Length", "Date", "Cache-Control", "Set-Cookie", "Etag", "Vary", "Content-Encoding":
		return passes // the common ones, without a closer look
	case reasonHeader, "Authorization", "Clear-Site-Data", "Set-Cookie2", "Proxy-Authenticate", "Proxy-Authentication-Info":
		return never
	case "Www-Authenticate", "Authentication-Info", "Service-Worker-Allowed", "Strict-Transport-Security", "Alt-Svc", "Nel",
		"Report-To", "Refresh", "Public-Key-Pins", "Expect-Ct", "Set-Login", "Use-As-Dictionary",
		// What a web server in front of us would act on, instead of passing on.
		"X-Accel-Redirect", "X-Sendfile", "X-Lighttpd-Send-File", "X-Litespeed-Location", "X-Reproxy-Url":
		return dropped
	}
	switch {
	case strings.HasPrefix(name, "Access-Control-"):
		return never
	case strings.HasPrefix(name, "Sec-Session-"), strings.HasPrefix(name, "Secure-Session-"):
		return dropped
	}
	return passes
}

// cacheHeader reports whether a header tells a cache in between what
// Cache-Control tells all, and would be obeyed first.
func cacheHeader(name string) bool {
	switch name {
	case "Expires", "Pragma", "Surrogate-Control", "Cdn-Cache-Control", "Cloudflare-Cdn-Cache-Control", "X-Accel-Expires":
		return true
	}
	return false
}

// strictCache reports whether the upstream's Cache-Control forbids all caching.
func strictCache(values []string) bool {
	return len(values) == 1 && strings.Contains(strings.ToLower(values[0]), "no-store")
}

// cleanRequest takes from the browser's headers what the upstream must not see.
func (f *forwarded) cleanRequest(h http.Header) {
	for name := range h {
		if f.t.request.drops(name, requestFate(name)) { // check:request-header
			delete(h, name)
		}
	}
	if f.t.BlockTokenEcho {
		// Half a token is none that could be found, nor is a compressed one.
		delete(h, "Range")
		delete(h, "If-Range")
		h["Accept-Encoding"] = identityEncoding
	}
}

var ( // shared: nobody changes them
	identityEncoding = []string{"identity"}
	noSniff          = []string{"nosniff"}
)

// cookies returns the Cookie header's pairs that may pass, as they came.
func (f *forwarded) cookies(in http.Header) (pass string) {
	if len(f.t.Cookies) == 0 {
		return ""
	}
	for _, line := range in["Cookie"] {
		for pair := range strings.SplitSeq(line, ";") {
			pair = strings.Trim(pair, " \t")
			name, _, _ := strings.Cut(pair, "=")
			if f.b.cookies.ours(name) { // check:own-cookie
				continue
			}
			if slices.Contains(f.t.Cookies, name) {
				if pass != "" {
					pass += "; "
				}
				pass += pair
			}
		}
	}
	return pass
}

// ours reports whether a cookie of this name is one of ours, in any spelling
// that a browser or a server could take for it.
func (c *cookieNames) ours(name string) bool {
	return strings.HasPrefix(strings.ToLower(strings.TrimSpace(name)), strings.ToLower(c.session))
}

// name tells the upstream who the user is, where it wants to know.
func (f *forwarded) name(h http.Header) {
	if f.s == nil {
		return
	}
	if f.t.UserIDHeader != "" {
		h[f.t.UserIDHeader] = []string{headerValue(f.s.Subject(), false)}
	}
	if f.t.UserGroupsHeader != "" {
		groups := f.s.Groups()
		for i, g := range groups {
			groups[i] = headerValue(g, true)
		}
		h[f.t.UserGroupsHeader] = []string{strings.Join(groups, ",")}
	}
}

// headerValue writes s so that no header can be split by it and no two values
// become one: what is not a visible character, a space at an end, '%', and in a
// list ',', is percent-encoded.
func headerValue(s string, list bool) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c < ' ' || c > '~' || c == '%' || c == ',' && list || c == ' ' && (i == 0 || i == len(s)-1) {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// cleanResponse removes from an upstream's answer what would act on our origin.
func (b *BFF) cleanResponse(res *http.Response) error {
	f := forwardedOf(res.Request)
	f.restore()
	if res.StatusCode == http.StatusSwitchingProtocols && !f.upgrade { // check:upgrade
		return newProblem(BadGateway, errors.New("the upstream switched protocols unasked"))
	}
	if res.StatusCode < http.StatusOK && res.StatusCode != http.StatusSwitchingProtocols || res.StatusCode > 999 { // check:upstream-status
		return newProblem(BadGateway, fmt.Errorf("the upstream answered with status %d", res.StatusCode))
	}
	h := res.Header
	if res.StatusCode == http.StatusUnauthorized && f.s != nil {
		if p := demanded(h); p != nil {
			return p
		}
	}
	if f.t.BlockTokenEcho { // check:token-echo
		if err := f.guard(res); err != nil {
			return err
		}
	}
	f.mapLocation(res)
	f.cleanHeader(h)
	f.cleanTrailer(res.Trailer) // the names that it announces
	if untyped(h["Content-Type"]) {
		// Neither net/http nor a browser is to guess: what an API answers would
		// be taken for a page of ours.
		if len(h["Content-Type"]) == 0 {
			f.w.Header()["Content-Type"] = nil
		}
		h["X-Content-Type-Options"] = noSniff
	}
	if !f.t.Cache {
		for name := range h {
			if cacheHeader(name) {
				delete(h, name)
			}
		}
		if !strictCache(h["Cache-Control"]) { // check:proxy-cache
			h["Cache-Control"] = noStore
		}
	}
	delete(f.w.Header(), "Cache-Control") // a Protect's around us; ReverseProxy adds to it
	if res.StatusCode == http.StatusUnauthorized && f.bearer != "" {
		h[reasonHeader] = []string{string(UpstreamUnauthorized)}
	}
	if problem := f.bind(res); problem != nil {
		return problem
	}
	return nil
}

// untyped reports whether a browser would guess what an answer is (MIME
// Sniffing, section 7): it has no type, one that is none, or several.
func untyped(types []string) bool {
	if len(types) != 1 {
		return true
	}
	kind, _, _ := strings.Cut(types[0], ";")
	major, minor, _ := strings.Cut(strings.ToLower(strings.TrimSpace(kind)), "/")
	return major == "" || minor == "" || major == "*" || minor == "unknown"
}

// cleanHeader removes what may not pass from the header of an answer.
func (f *forwarded) cleanHeader(h http.Header) {
	if lines := h["Set-Cookie"]; len(lines) > 0 { // check:set-cookie
		lines = slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return !f.maySet(line) })
		if h["Set-Cookie"] = lines; len(lines) == 0 {
			delete(h, "Set-Cookie")
		}
	}
	for name := range h {
		if name != "Set-Cookie" && f.t.response.drops(name, responseFate(name)) { // check:response-header
			delete(h, name)
		}
	}
}

// cleanTrailer removes what an upstream may not send after the body either.
// ReverseProxy forwards trailers that were never announced, too.
func (f *forwarded) cleanTrailer(h http.Header) {
	delete(h, "Set-Cookie")
	for name, values := range h {
		if f.t.response.drops(name, responseFate(name)) || f.t.BlockTokenEcho && f.echoes(values) { // check:trailer
			delete(h, name)
		}
	}
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

// mapLocation makes a Location within the upstream's base one that leads there
// through us, and drops one that says where else on its origin something is:
// on our origin the same path would be something else.
func (f *forwarded) mapLocation(res *http.Response) {
	values := res.Header["Location"]
	if len(values) == 0 || f.t.PassLocation {
		return
	}
	delete(res.Header, "Location")
	u, err := res.Request.URL.Parse(values[0])
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || len(values) > 1 {
		return
	}
	if !f.t.sameOrigin(u) {
		res.Header["Location"] = []string{u.String()} // relayed, not followed
		return
	}
	if f.t.RewritePath != nil || !f.t.covers(u) { // check:location
		return
	}
	rest, _ := below(u.EscapedPath(), f.t.base)
	location := f.t.StripPrefix + rest
	if _, ok := below(location, f.t.Path); !ok { // check:location-path
		return
	}
	if location == "" {
		location = "/"
	}
	if u.RawQuery != "" || u.ForceQuery {
		location += "?" + u.RawQuery
	}
	if u.Fragment != "" {
		location += "#" + u.EscapedFragment()
	}
	res.Header["Location"] = []string{location}
}
