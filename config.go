package bff

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/agglestone/bff/internal/returnto"
	"github.com/agglestone/bff/internal/seal"
)

// A checker collects the mistakes in a Config.
type checker struct{ errs []error }

func (c *checker) add(field, format string, args ...any) {
	c.errs = append(c.errs, &ConfigError{field, fmt.Sprintf(format, args...)})
}

func (c *checker) err() error { return errors.Join(c.errs...) }

// config checks cfg, fills in the defaults, and sets what b draws from it.
func (c *checker) config(ctx context.Context, cfg Config, b *BFF) Config {
	cfg = clone(cfg)
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	c.party(&cfg)
	redirect := c.redirect(&cfg, b)
	c.durations(&cfg)
	c.keys(ctx, &cfg, b, redirect)
	c.paths(&cfg, b)
	c.browser(&cfg, b, redirect)
	c.login(&cfg)
	for i, up := range cfg.Upstreams {
		t, err := newTarget(up)
		if err != nil {
			for _, mistake := range parts(err) {
				c.add(fmt.Sprintf("Upstreams[%d]", i), "%v", mistake)
			}
			continue
		}
		if slices.ContainsFunc(b.upstreams, func(other *target) bool {
			return other.sameOrigin(t.url) && other.base == t.base // check:config-upstream-twice
		}) {
			c.add(fmt.Sprintf("Upstreams[%d]", i), "URL %q is declared twice; leave one, or requests could be either's", up.URL)
		}
		b.upstreams = append(b.upstreams, t)
	}
	return cfg
}

// parts returns the errors that err was joined of.
func parts(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

// clone copies what a caller could change later.
func clone(cfg Config) Config {
	cfg.Scopes = slices.Clone(cfg.Scopes)
	cfg.AuthorizationParams = maps.Clone(cfg.AuthorizationParams)
	cfg.LoginParams = slices.Clone(cfg.LoginParams)
	cfg.Keys = slices.Clone(cfg.Keys)
	cfg.SigningAlgs = slices.Clone(cfg.SigningAlgs)
	cfg.TrustedAudiences = slices.Clone(cfg.TrustedAudiences)
	cfg.SessionClaims = slices.Clone(cfg.SessionClaims)
	cfg.Upstreams = slices.Clone(cfg.Upstreams)
	return cfg
}

// party checks who the relying party is and how it authenticates.
func (c *checker) party(cfg *Config) {
	if cfg.TenantID != "" {
		if !validTenantID(cfg.TenantID) { // check:config-tenant
			c.add("TenantID", "%q is not a tenant ID; copy it from the Agglestone portal", cfg.TenantID)
		} else if cfg.Issuer == "" {
			cfg.Issuer = AgglestoneIssuer(cfg.TenantID)
		}
	}
	u, err := url.Parse(cfg.Issuer)
	if err == nil && cfg.TenantID == "" {
		cfg.TenantID = tenantOf(u)
	}
	if cfg.ClientID == "" {
		cfg.ClientID = cfg.TenantID
	}
	switch {
	case cfg.Issuer == "" && cfg.TenantID == "": // check:config-issuer
		c.add("Issuer", "is empty; set the issuer's URL, or TenantID for Agglestone")
	case cfg.Issuer == "": // TenantID was reported
	case strings.HasPrefix(cfg.Issuer, invalidTenant): // check:config-issuer-tenant
		c.add("Issuer", "AgglestoneIssuer was given %q, which is not a tenant ID; copy it from the Agglestone portal",
			strings.TrimPrefix(cfg.Issuer, invalidTenant))
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery || strings.Contains(cfg.Issuer, "#"): // check:config-issuer-url
		c.add("Issuer", "%q is not an absolute URL without query, fragment and user", cfg.Issuer)
	case u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname()) && !cfg.InsecureHTTP): // check:config-issuer-https
		c.add("Issuer", "%q is not https; plain http is only for loopback hosts (or set InsecureHTTP on a test network)", cfg.Issuer)
	}
	if cfg.ClientID == "" { // check:config-client
		c.add("ClientID", "is empty; set the client ID that the issuer gave this application")
	}
	if strings.ContainsFunc(cfg.ClientID, notVisible) { // check:config-client-characters
		c.add("ClientID", "%q has spaces, control or non-ASCII characters", cfg.ClientID)
	}
	switch cfg.TokenAuthMethod {
	case "":
		cfg.TokenAuthMethod = "none"
		if cfg.ClientSecret != "" {
			cfg.TokenAuthMethod = "client_secret_basic"
		}
	case "client_secret_basic", "client_secret_post":
		if cfg.ClientSecret == "" { // check:config-auth-secret
			c.add("TokenAuthMethod", "%s needs a ClientSecret", cfg.TokenAuthMethod)
		}
	case "none":
		if cfg.ClientSecret != "" { // check:config-auth-none
			c.add("TokenAuthMethod", "none leaves ClientSecret unused; remove one of the two")
		}
	default:
		c.add("TokenAuthMethod", "%q is not client_secret_basic, client_secret_post or empty", cfg.TokenAuthMethod)
	}
	if cfg.Scopes == nil {
		cfg.Scopes = []string{"openid", "profile", "email"}
	}
	if !slices.Contains(cfg.Scopes, "openid") {
		cfg.Scopes = append([]string{"openid"}, cfg.Scopes...)
	}
	for _, s := range cfg.Scopes {
		if s == "" || strings.ContainsFunc(s, notVisible) { // check:config-scope
			c.add("Scopes", "%q is not one scope; give each its own element", s)
		}
	}
	algs := []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
	if cfg.SigningAlgs == nil {
		cfg.SigningAlgs = algs
	} else if len(cfg.SigningAlgs) == 0 { // check:config-algs
		c.add("SigningAlgs", "is empty; leave it nil for the default")
	}
	for _, a := range cfg.SigningAlgs {
		if !slices.Contains(algs, a) { // check:config-alg
			c.add("SigningAlgs", "%q is not one of %s", a, strings.Join(algs, " "))
		}
	}
}

// redirect checks RedirectURL, what follows from it, and PostLogoutURL.
func (c *checker) redirect(cfg *Config, b *BFF) *url.URL {
	if p, err := url.Parse(cfg.PostLogoutURL); cfg.PostLogoutURL != "" &&
		(err != nil || p.Host == "" || (p.Scheme != "https" && p.Scheme != "http") || p.User != nil) { // check:config-post-logout
		c.add("PostLogoutURL", "%q is not an absolute http or https URL", cfg.PostLogoutURL)
	}
	u, err := url.Parse(cfg.RedirectURL)
	switch {
	case cfg.RedirectURL == "":
		c.add("RedirectURL", "is empty; set the public URL of the callback, such as https://app.example.com/auth/callback")
		return nil
	case err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http"): // check:config-redirect
		c.add("RedirectURL", "%q is not an absolute http or https URL", cfg.RedirectURL)
		return nil
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(cfg.RedirectURL, "#"): // check:config-redirect-plain
		c.add("RedirectURL", "%q has a user, query or fragment; remove it", cfg.RedirectURL)
		return nil
	case !validHost(u): // check:config-redirect-host
		c.add("RedirectURL", "its host %q can't carry our cookies; use the name that browsers see, in ASCII, and no wildcard address", u.Host)
		return nil
	case !plainHost(u): // check:config-redirect-spelling
		c.add("RedirectURL", "its host %q is not spelled as browsers spell it, and so would be no Origin of theirs; write an address in its usual short form, such as 127.0.0.1 or [::1], and a port without zeros in front", u.Host)
		return nil
	case u.Scheme == "http" && !isLocalSite(u.Hostname()) && !cfg.InsecureHTTP: // check:config-redirect-https
		c.add("RedirectURL", "%q is plain http, which can't carry our Secure cookies; use https (plain http is for loopback hosts, or set InsecureHTTP on a test network)", cfg.RedirectURL)
		return nil
	case !validPath(u.EscapedPath()): // check:config-redirect-path
		c.add("RedirectURL", "its path %q must be a plain path below /, such as /auth/callback", u.EscapedPath())
		return nil
	}
	b.origin, b.host = originOf(u)
	b.callback = u.Path
	if cfg.PostLogoutURL == "" {
		cfg.PostLogoutURL = b.origin + "/"
	}
	return u
}

func (c *checker) durations(cfg *Config) {
	for _, d := range []struct {
		name  string
		value *time.Duration
		zero  time.Duration
	}{
		{"IdleTimeout", &cfg.IdleTimeout, defaultIdle},
		{"MaxLifetime", &cfg.MaxLifetime, defaultLifetime},
		{"RefreshMargin", &cfg.RefreshMargin, 0},
		{"RefreshEvery", &cfg.RefreshEvery, 15 * time.Minute},
		{"AccessTokenLifetime", &cfg.AccessTokenLifetime, 5 * time.Minute},
		{"IssuerTimeout", &cfg.IssuerTimeout, 10 * time.Second},
		{"StoreTimeout", &cfg.StoreTimeout, 3 * time.Second},
		{"ClockSkew", &cfg.ClockSkew, 30 * time.Second},
		{"KeySourceEvery", &cfg.KeySourceEvery, time.Minute},
		{"CacheMaxStale", &cfg.CacheMaxStale, time.Second},
	} {
		switch {
		case *d.value < 0: // check:config-negative
			c.add(d.name, "%v is negative; leave it zero for the default", *d.value)
		case *d.value == 0:
			*d.value = d.zero
		}
	}
	if cfg.MaxLifetime > 0 && cfg.MaxLifetime < time.Second { // check:config-lifetime
		c.add("MaxLifetime", "%v is under a second, the resolution of a cookie", cfg.MaxLifetime)
	}
	if cfg.IdleTimeout > cfg.MaxLifetime && cfg.MaxLifetime > 0 { // check:config-idle
		c.add("IdleTimeout", "%v is longer than MaxLifetime, %v; shorten it or lengthen MaxLifetime", cfg.IdleTimeout, cfg.MaxLifetime)
	}
	if cfg.CacheMaxStale > time.Minute { // check:config-stale
		c.add("CacheMaxStale", "%v is more than a minute; a sign-out elsewhere would go unnoticed for as long", cfg.CacheMaxStale)
	}
	if cfg.CacheSize < 0 { // check:config-cache
		c.add("CacheSize", "%d is negative; leave it zero for no cache", cfg.CacheSize)
	}
	if cfg.MaxSessions < 0 { // check:config-sessions
		c.add("MaxSessions", "%d is negative; leave it zero for any number", cfg.MaxSessions)
	}
	if cfg.ClockSkew > 5*time.Minute { // check:config-skew
		c.add("ClockSkew", "%v is more than 5 minutes; set the clocks instead", cfg.ClockSkew)
	}
}

func (c *checker) keys(ctx context.Context, cfg *Config, b *BFF, redirect *url.URL) {
	if cfg.KeySource != nil && len(cfg.Keys) == 0 {
		askCtx, cancel := context.WithTimeout(ctx, keySourceTimeout)
		keys, err := cfg.KeySource(askCtx)
		cancel()
		if err != nil {
			c.add("KeySource", "%v; it must answer once, or set Keys for the start", err)
			return
		}
		cfg.Keys = slices.Clone(keys)
	}
	if len(cfg.Keys) == 0 {
		switch {
		case cfg.KeySource != nil: // check:config-source-empty
			c.add("KeySource", "returned no keys; make one with openssl rand -base64 32")
			return
		case cfg.Store != nil: // check:config-keys-store
			c.add("Keys", "is empty; sessions in a Store outlive the process, so their keys must: make one with openssl rand -base64 32")
			return
		case redirect == nil && strings.HasPrefix(cfg.RedirectURL, "http://"): // perhaps on loopback
			return
		case redirect == nil || redirect.Scheme != "http" || !isLocalSite(redirect.Hostname()): // check:config-keys
			c.add("Keys", "is empty; make a key with openssl rand -base64 32 (only a RedirectURL on loopback can do without)")
			return
		}
		cfg.Keys = []Key{NewKey()}
		cfg.Logger.Warn("no Keys: sessions end with this process")
	}
	b.ring.Store(c.ring(cfg.Keys, cfg.Issuer, cfg.ClientID))
}

// ring makes a ring of keys, or reports why it can't.
func (c *checker) ring(keys []Key, issuer, clientID string) *seal.Ring {
	before := len(c.errs)
	raw := make([][]byte, len(keys))
	for i, k := range keys {
		raw[i] = k.bytes
		if len(k.bytes) != seal.KeySize { // check:config-key-size
			c.add(fmt.Sprintf("Keys[%d]", i), "has %d bytes, not %d; make one with openssl rand -base64 32", len(k.bytes), seal.KeySize)
			continue
		}
		if weak(k.bytes) { // check:config-key-weak
			c.add(fmt.Sprintf("Keys[%d]", i), "is one byte repeated; make one with openssl rand -base64 32")
		}
		for j := range i {
			if string(raw[j]) == string(k.bytes) { // check:config-key-twice
				c.add(fmt.Sprintf("Keys[%d]", i), "is the same as Keys[%d]; use each key once", j)
			}
		}
	}
	if len(c.errs) > before {
		return nil
	}
	ring, err := seal.NewRing(raw, issuer, clientID)
	if err != nil {
		c.add("Keys", "%v", err)
		return nil
	}
	return ring
}

// weak reports whether k is one byte repeated, such as all zeros.
func weak(k []byte) bool {
	for _, x := range k {
		if x != k[0] {
			return false
		}
	}
	return true
}

// capabilities checks that b's store can do what is asked of it. That is said
// here, and not when the issuer first calls.
func (c *checker) capabilities(b *BFF) {
	if b.caps.index != nil {
		return
	}
	if !b.cfg.NoBackchannelLogout { // check:config-index
		c.add("Store", "can't find sessions by tags (it is no Indexer), which back-channel logout needs; use a store that can, or set NoBackchannelLogout")
	}
	if b.cfg.MaxSessions > 0 {
		c.add("MaxSessions", "needs a Store that can find sessions by tags (an Indexer)")
	}
}

func (c *checker) paths(cfg *Config, b *BFF) {
	p := &cfg.Paths
	for _, f := range []struct {
		name  string
		value *string
		zero  string
	}{
		{"Paths.Login", &p.Login, "/login"},
		{"Paths.Logout", &p.Logout, "/logout"},
		{"Paths.Prefix", &p.Prefix, "/auth"},
	} {
		if *f.value == "" {
			*f.value = f.zero
		}
		if !validPath(*f.value) { // check:config-path
			c.add(f.name, "%q must be a plain path below /, without a slash at its end", *f.value)
		}
	}
	b.paths = *p
	b.sessionAt, b.sessionsAt = p.Prefix+"/session", p.Prefix+"/sessions"
	b.eventsAt, b.backchannelAt = p.Prefix+"/events", p.Prefix+"/backchannel-logout"
	b.loggedOutAt = p.Prefix + "/logged-out"
	routes := []struct{ field, path string }{
		{"RedirectURL", b.callback}, {"Paths.Login", p.Login}, {"Paths.Logout", p.Logout},
		{"Paths.Prefix", b.sessionAt}, {"Paths.Prefix", b.sessionsAt}, {"Paths.Prefix", b.sessionsAt + "/end-others"}, {"Paths.Prefix", b.eventsAt}, {"Paths.Prefix", b.loggedOutAt}, {"Paths.Prefix", b.backchannelAt},
	}
	for i, r := range routes {
		for _, other := range routes[:i] {
			if r.path == other.path && r.path != "" { // check:config-path-twice
				c.add(r.field, "its path %s is also the path of %s; move one", r.path, other.field)
			}
		}
	}
	if cfg.DefaultReturnURL == "" {
		cfg.DefaultReturnURL = "/"
	}
	isRoute := func(path string) bool {
		return slices.ContainsFunc(routes, func(r struct{ field, path string }) bool {
			return r.path != "" && returnto.Plain(r.path) == path
		})
	}
	if _, ok := returnto.Clean(cfg.DefaultReturnURL, isRoute); !ok { // check:config-return
		c.add("DefaultReturnURL", "%q is not a local path outside our own routes", cfg.DefaultReturnURL)
	}
}

// browser checks what concerns cookies.
func (c *checker) browser(cfg *Config, b *BFF, redirect *url.URL) {
	switch cfg.SameSite {
	case 0:
		cfg.SameSite = http.SameSiteLaxMode
	case http.SameSiteLaxMode, http.SameSiteStrictMode:
	default:
		c.add("SameSite", "must be http.SameSiteLaxMode or http.SameSiteStrictMode")
	}
	if cfg.SessionClaims == nil {
		cfg.SessionClaims = []string{"name", "email", "picture", "preferred_username", "groups"}
	}
	name := cfg.CookieName
	if name == "" {
		name = "bff"
		if redirect != nil && isLocalSite(redirect.Hostname()) && redirect.Port() != "" {
			name += "-" + redirect.Port()
		}
	}
	if len(name) > 40 || strings.ContainsFunc(name, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_' || r == '.')
	}) || strings.HasPrefix(name, "__") { // check:config-cookie
		c.add("CookieName", "%q must be 1 to 40 letters, digits, '-', '_' or '.', without a prefix", name)
	}
	b.cookies = newCookieNames(name, redirect != nil && redirect.Scheme == "https")
}

// login checks what goes into authorization requests.
func (c *checker) login(cfg *Config) {
	for _, p := range cfg.LoginParams {
		if !slices.Contains([]string{"prompt", "login_hint", "ui_locales"}, p) { // check:config-login-param
			c.add("LoginParams", "%q is not prompt, login_hint or ui_locales", p)
		}
	}
	reserved := []string{"response_type", "client_id", "redirect_uri", "scope", "state", "nonce", "code_challenge", "code_challenge_method", "response_mode"}
	for name := range cfg.AuthorizationParams {
		if slices.Contains(reserved, name) || name == "" { // check:config-authorization-param
			c.add("AuthorizationParams", "%q is the protocol's own parameter; remove it", name)
		}
	}
}

// isLoopback reports whether host names this machine to whoever looks it up
// (RFC 8252, section 7.3).
func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && addr.IsLoopback()
}

// isLocalSite reports whether browsers take host for this machine: all names
// under localhost too (RFC 6761, section 6.3). We would ask the DNS for those,
// so what we send to them is not safe in the clear.
func isLocalSite(host string) bool {
	return isLoopback(host) || strings.HasSuffix(strings.ToLower(host), ".localhost")
}

// validHost reports whether a browser can hold cookies for u's host.
func validHost(u *url.URL) bool {
	host := u.Hostname()
	if port := u.Port(); port != "" {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return false
		}
	} else if strings.HasSuffix(u.Host, ":") {
		return false
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return !addr.IsUnspecified() && addr.Zone() == ""
	}
	if host == "" || len(host) > 253 || strings.HasSuffix(host, ".") || strings.Contains(host, "..") || host[0] == '.' {
		return false
	}
	return !strings.ContainsFunc(host, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_' || r == '.')
	})
}

// plainHost reports whether u's valid host is spelled as browsers spell it in an
// Origin, but for the case of letters and a port that goes without saying,
// which originOf sees to. A name whose last label is a number is an IPv4 address
// to them, and may stand for another than it shows: 127.1, 0x7f.1, 2130706433,
// 010.0.0.1 (WHATWG URL, section 3.5).
func plainHost(u *url.URL) bool {
	host := strings.ToLower(u.Hostname())
	if strings.HasPrefix(u.Port(), "0") {
		return false
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.String() == host && !addr.Is4In6() // which is best written as the IPv4 address it is
	}
	label := host[strings.LastIndexByte(host, '.')+1:]
	if digits, ok := strings.CutPrefix(label, "0x"); ok {
		return strings.Trim(digits, "0123456789abcdef") != ""
	}
	return strings.Trim(label, "0123456789") != ""
}

// validPath reports whether p is a path that means the same to every router.
func validPath(p string) bool {
	if len(p) < 2 || p[0] != '/' || strings.HasSuffix(p, "/") {
		return false
	}
	for segment := range strings.SplitSeq(p[1:], "/") {
		if segment == "" || segment == "." || segment == ".." {
			return false
		}
	}
	return !strings.ContainsFunc(p, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("/-_.~", r))
	})
}

// notVisible reports whether r is not a visible ASCII character.
func notVisible(r rune) bool { return r <= ' ' || r > '~' }
