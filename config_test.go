package bff_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
	"github.com/agglestone/bff/store/memstore"
)

// goodConfig is what New accepts, for tests to spoil.
func goodConfig() bff.Config {
	return bff.Config{
		Issuer:      "https://op.example.com",
		ClientID:    "web",
		RedirectURL: "https://app.example.com/auth/callback",
		Keys:        []bff.Key{bff.NewKey()},
		Logger:      slog.New(slog.DiscardHandler),
	}
}

type configRow struct {
	name   string
	checks string // see TestMutants
	edit   func(*bff.Config)
	field  string // that is named; empty: New accepts it
	says   string // among what is wrong and what to do
}

func configRows() []configRow {
	// Keys of a wrong length can't be made through the API: only the zero Key.
	key := bff.NewKey()
	same, err := bff.ParseKey("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	if err != nil {
		panic(err)
	}
	upstream := func(u bff.Upstream) func(*bff.Config) {
		return func(c *bff.Config) { c.Upstreams = []bff.Upstream{u} }
	}
	return []configRow{
		{name: "good", edit: func(c *bff.Config) {}},
		{name: "good, with everything", edit: func(c *bff.Config) {
			c.ClientSecret, c.TokenAuthMethod = "x", "client_secret_post"
			c.Scopes, c.SigningAlgs = []string{"offline_access"}, []string{"ES256"}
			c.Keys = append(c.Keys, key)
			c.Store, c.SameSite, c.CookieName = memstore.New(memstore.Options{}), http.SameSiteStrictMode, "app"
			c.Paths = bff.Paths{Login: "/in", Logout: "/out", Prefix: "/me"}
			c.LoginParams, c.AuthorizationParams = []string{"prompt"}, map[string]string{"resource": "https://api.example.com"}
			c.PostLogoutURL, c.DefaultReturnURL = "https://www.example.com/bye?x", "/home?a#b"
			c.Upstreams = []bff.Upstream{{URL: "https://api.example.com/v1"}, bff.AgglestoneUsers("tenant-1", "", "/users")}
		}},
		{name: "Agglestone", edit: func(c *bff.Config) { c.Issuer, c.ClientID, c.TenantID = "", "", "tenant-1" }},
		{name: "loopback over http", edit: func(c *bff.Config) {
			c.Issuer, c.RedirectURL, c.Keys = "http://127.0.0.1:9000/x", "http://localhost:8080/auth/callback", nil
		}},
		{name: "a site under localhost over http", edit: func(c *bff.Config) { c.RedirectURL, c.Keys = "http://app.localhost:8080/auth/callback", nil }},
		{name: "a test network over http", edit: func(c *bff.Config) {
			c.Issuer, c.RedirectURL, c.InsecureHTTP = "http://op:9000", "http://app:8080/auth/callback", true
		}},

		{name: "no issuer", checks: "config-issuer", edit: func(c *bff.Config) { c.Issuer = "" }, field: "Issuer", says: "is empty"},
		{name: "issuer over http", checks: "config-issuer-https", edit: func(c *bff.Config) { c.Issuer = "http://op.example.com" }, field: "Issuer", says: "not https"},
		{name: "issuer over another scheme", checks: "config-issuer-https", edit: func(c *bff.Config) { c.Issuer = "ftp://op.example.com" }, field: "Issuer", says: "not https"},
		{name: "issuer on a host like loopback", checks: "config-issuer-https", edit: func(c *bff.Config) { c.Issuer = "http://127.0.0.1.example.com" }, field: "Issuer", says: "not https"},
		{name: "issuer under localhost over http", checks: "config-issuer-https", edit: func(c *bff.Config) { c.Issuer = "http://op.localhost:9000" }, field: "Issuer", says: "not https"},
		{name: "issuer without a host", checks: "config-issuer-url", edit: func(c *bff.Config) { c.Issuer = "https:///x" }, field: "Issuer", says: "absolute"},
		{name: "issuer with a query", checks: "config-issuer-url", edit: func(c *bff.Config) { c.Issuer += "?x" }, field: "Issuer", says: "query"},
		{name: "issuer with a fragment", checks: "config-issuer-url", edit: func(c *bff.Config) { c.Issuer += "#" }, field: "Issuer", says: "fragment"},
		{name: "issuer with a user", checks: "config-issuer-url", edit: func(c *bff.Config) { c.Issuer = "https://op.example.com@evil.example" }, field: "Issuer", says: "user"},
		{name: "an issuer of no tenant", checks: "config-issuer-tenant", edit: func(c *bff.Config) { c.Issuer = bff.AgglestoneIssuer("../x") }, field: "Issuer", says: `"../x", which is not a tenant ID`},
		{name: "no tenant ID", checks: "config-tenant", edit: func(c *bff.Config) { c.TenantID = "a/b" }, field: "TenantID", says: "not a tenant ID"},
		{name: "no client ID", checks: "config-client", edit: func(c *bff.Config) { c.ClientID = "" }, field: "ClientID", says: "is empty"},
		{name: "a client ID with a space", checks: "config-client-characters", edit: func(c *bff.Config) { c.ClientID = "a b" }, field: "ClientID", says: "spaces"},
		{name: "basic without a secret", checks: "config-auth-secret", edit: func(c *bff.Config) { c.TokenAuthMethod = "client_secret_basic" }, field: "TokenAuthMethod", says: "needs a ClientSecret"},
		{name: "none with a secret", checks: "config-auth-none", edit: func(c *bff.Config) { c.TokenAuthMethod, c.ClientSecret = "none", "x" }, field: "TokenAuthMethod", says: "unused"},
		{name: "an unknown method", edit: func(c *bff.Config) { c.TokenAuthMethod, c.ClientSecret = "client_secret_jwt", "x" }, field: "TokenAuthMethod", says: "client_secret_jwt"},
		{name: "two scopes in one", checks: "config-scope", edit: func(c *bff.Config) { c.Scopes = []string{"openid profile"} }, field: "Scopes", says: "its own element"},
		{name: "a cache too stale", checks: "config-stale", edit: func(c *bff.Config) { c.CacheMaxStale = time.Hour }, field: "CacheMaxStale", says: "more than a minute"},
		{name: "a cache of less than nothing", checks: "config-cache", edit: func(c *bff.Config) { c.CacheSize = -1 }, field: "CacheSize", says: "negative"},
		{name: "less than no sessions", checks: "config-sessions", edit: func(c *bff.Config) { c.MaxSessions = -1 }, field: "MaxSessions", says: "negative"},
		{name: "a key source without keys", checks: "config-source-empty", edit: func(c *bff.Config) {
			c.Keys, c.KeySource = nil, func(context.Context) ([]bff.Key, error) { return nil, nil }
		}, field: "KeySource", says: "returned no keys"},
		{name: "a key source that fails", edit: func(c *bff.Config) {
			c.Keys, c.KeySource = nil, func(context.Context) ([]bff.Key, error) { return nil, errors.New("no KMS") }
		}, field: "KeySource", says: "no KMS"},
		{name: "no algorithm", checks: "config-algs", edit: func(c *bff.Config) { c.SigningAlgs = []string{} }, field: "SigningAlgs", says: "is empty"},
		{name: "a symmetric algorithm", checks: "config-alg", edit: func(c *bff.Config) { c.SigningAlgs = []string{"RS256", "HS256"} }, field: "SigningAlgs", says: `"HS256"`},
		{name: "the algorithm none", checks: "config-alg", edit: func(c *bff.Config) { c.SigningAlgs = []string{"none"} }, field: "SigningAlgs", says: `"none"`},

		{name: "no redirect URL", edit: func(c *bff.Config) { c.RedirectURL = "" }, field: "RedirectURL", says: "is empty"},
		{name: "a relative redirect URL", checks: "config-redirect", edit: func(c *bff.Config) { c.RedirectURL = "/auth/callback" }, field: "RedirectURL", says: "absolute"},
		{name: "a redirect URL of an app", checks: "config-redirect", edit: func(c *bff.Config) { c.RedirectURL = "app://x/callback" }, field: "RedirectURL", says: "http or https"},
		{name: "a redirect URL with a fragment", checks: "config-redirect-plain", edit: func(c *bff.Config) { c.RedirectURL += "#x" }, field: "RedirectURL", says: "fragment"},
		{name: "a redirect URL with a query", checks: "config-redirect-plain", edit: func(c *bff.Config) { c.RedirectURL += "?x" }, field: "RedirectURL", says: "query"},
		{name: "a redirect URL on a wildcard address", checks: "config-redirect-host", edit: func(c *bff.Config) { c.RedirectURL = "https://0.0.0.0/auth/callback" }, field: "RedirectURL", says: "can't carry our cookies"},
		{name: "a redirect URL on a host with a dot at its end", checks: "config-redirect-host", edit: func(c *bff.Config) { c.RedirectURL = "https://app.example.com./auth/callback" }, field: "RedirectURL", says: "can't carry our cookies"},
		{name: "a redirect URL on a port that isn't", checks: "config-redirect-host", edit: func(c *bff.Config) { c.RedirectURL = "https://app.example.com:99999/auth/callback" }, field: "RedirectURL", says: "can't carry our cookies"},
		{name: "a redirect URL on an IPv6 address in full", checks: "config-redirect-spelling", edit: func(c *bff.Config) { c.RedirectURL = "https://[0:0:0:0:0:0:0:1]/auth/callback" }, field: "RedirectURL", says: "as browsers spell it"},
		{name: "a redirect URL on an IPv6 address with zeros in front", checks: "config-redirect-spelling", edit: func(c *bff.Config) { c.RedirectURL = "https://[2001:0db8::1]/auth/callback" }, field: "RedirectURL", says: "as browsers spell it"},
		{name: "a redirect URL on an IPv4 address within an IPv6 one", checks: "config-redirect-spelling", edit: func(c *bff.Config) { c.RedirectURL = "https://[::ffff:192.0.2.1]/auth/callback" }, field: "RedirectURL", says: "as browsers spell it"},
		{name: "a redirect URL on a short IPv4 address", checks: "config-redirect-spelling", edit: func(c *bff.Config) { c.RedirectURL = "https://127.1/auth/callback" }, field: "RedirectURL", says: "as browsers spell it"},
		{name: "a redirect URL on an IPv4 address as one number", checks: "config-redirect-spelling", edit: func(c *bff.Config) { c.RedirectURL = "https://3221225985/auth/callback" }, field: "RedirectURL", says: "as browsers spell it"},
		{name: "a redirect URL on an IPv4 address in hexadecimal", checks: "config-redirect-spelling", edit: func(c *bff.Config) { c.RedirectURL = "https://192.0.2.0X1/auth/callback" }, field: "RedirectURL", says: "as browsers spell it"},
		{name: "a redirect URL on an IPv4 address with zeros in front", checks: "config-redirect-spelling", edit: func(c *bff.Config) { c.RedirectURL = "https://192.0.2.01/auth/callback" }, field: "RedirectURL", says: "as browsers spell it"},
		{name: "a redirect URL on a port with zeros in front", checks: "config-redirect-spelling", edit: func(c *bff.Config) { c.RedirectURL = "https://app.example.com:0443/auth/callback" }, field: "RedirectURL", says: "as browsers spell it"},
		{name: "a redirect URL over http", checks: "config-redirect-https", edit: func(c *bff.Config) { c.RedirectURL = "http://app.example.com/auth/callback" }, field: "RedirectURL", says: "plain http"},
		{name: "a redirect URL without a path", checks: "config-redirect-path", edit: func(c *bff.Config) { c.RedirectURL = "https://app.example.com" }, field: "RedirectURL", says: "plain path"},
		{name: "a redirect URL with dot segments", checks: "config-redirect-path", edit: func(c *bff.Config) { c.RedirectURL = "https://app.example.com/a/../b" }, field: "RedirectURL", says: "plain path"},
		{name: "a post-logout URL that is a script", checks: "config-post-logout", edit: func(c *bff.Config) { c.PostLogoutURL = "javascript:alert(1)" }, field: "PostLogoutURL", says: "absolute"},

		{name: "a negative duration", checks: "config-negative", edit: func(c *bff.Config) { c.IdleTimeout = -1 }, field: "IdleTimeout", says: "negative"},
		{name: "a lifetime of nothing", checks: "config-lifetime", edit: func(c *bff.Config) { c.MaxLifetime, c.IdleTimeout = time.Millisecond, time.Millisecond }, field: "MaxLifetime", says: "under a second"},
		{name: "idle for longer than the lifetime", checks: "config-idle", edit: func(c *bff.Config) { c.IdleTimeout, c.MaxLifetime = 2*time.Hour, time.Hour }, field: "IdleTimeout", says: "longer than MaxLifetime"},
		{name: "a skew of an hour", checks: "config-skew", edit: func(c *bff.Config) { c.ClockSkew = time.Hour }, field: "ClockSkew", says: "set the clocks"},

		{name: "no keys", checks: "config-keys", edit: func(c *bff.Config) { c.Keys = nil }, field: "Keys", says: "openssl rand"},
		{name: "no keys, but a store", checks: "config-keys-store", edit: func(c *bff.Config) {
			c.Keys, c.RedirectURL, c.Store = nil, "http://localhost:8080/auth/callback", memstore.New(memstore.Options{})
		}, field: "Keys", says: "outlive the process"},
		{name: "an empty key", checks: "config-key-size", edit: func(c *bff.Config) { c.Keys = append(c.Keys, bff.Key{}) }, field: "Keys[1]", says: "has 0 bytes, not 32"},
		{name: "a key of zeros", checks: "config-key-weak", edit: func(c *bff.Config) { c.Keys = []bff.Key{same} }, field: "Keys[0]", says: "one byte repeated"},
		{name: "a key twice", checks: "config-key-twice", edit: func(c *bff.Config) { c.Keys = []bff.Key{key, bff.NewKey(), key} }, field: "Keys[2]", says: "the same as Keys[0]"},

		{name: "a path with a slash at its end", checks: "config-path", edit: func(c *bff.Config) { c.Paths.Login = "/login/" }, field: "Paths.Login", says: "plain path"},
		{name: "a relative path", checks: "config-path", edit: func(c *bff.Config) { c.Paths.Prefix = "auth" }, field: "Paths.Prefix", says: "plain path"},
		{name: "two routes on one path", checks: "config-path-twice", edit: func(c *bff.Config) { c.Paths.Logout = "/login" }, field: "Paths.Logout", says: "also the path of Paths.Login"},
		{name: "the callback on another route", checks: "config-path-twice", edit: func(c *bff.Config) { c.RedirectURL = "https://app.example.com/login" }, field: "Paths.Login", says: "also the path of RedirectURL"},
		{name: "the callback on a route below another", checks: "config-path-twice", edit: func(c *bff.Config) { c.RedirectURL = "https://app.example.com/auth/sessions/end-others" }, field: "Paths.Prefix", says: "also the path of RedirectURL"},
		{name: "a default return URL elsewhere", checks: "config-return", edit: func(c *bff.Config) { c.DefaultReturnURL = "//evil.example" }, field: "DefaultReturnURL", says: "local path"},
		{name: "a default return URL that signs out", checks: "config-return", edit: func(c *bff.Config) { c.DefaultReturnURL = "/logout" }, field: "DefaultReturnURL", says: "outside our own routes"},

		{name: "SameSite None", edit: func(c *bff.Config) { c.SameSite = http.SameSiteNoneMode }, field: "SameSite", says: "Lax"},
		{name: "a cookie name with a prefix", checks: "config-cookie", edit: func(c *bff.Config) { c.CookieName = "__Secure-x" }, field: "CookieName", says: "without a prefix"},
		{name: "a cookie name that is two", checks: "config-cookie", edit: func(c *bff.Config) { c.CookieName = "a; b" }, field: "CookieName", says: "letters"},
		{name: "a login parameter of the protocol", checks: "config-login-param", edit: func(c *bff.Config) { c.LoginParams = []string{"redirect_uri"} }, field: "LoginParams", says: "redirect_uri"},
		{name: "an authorization parameter of the protocol", checks: "config-authorization-param", edit: func(c *bff.Config) { c.AuthorizationParams = map[string]string{"code_challenge_method": "plain"} }, field: "AuthorizationParams", says: "protocol's own"},

		{name: "an upstream without a URL", edit: upstream(bff.Upstream{}), field: "Upstreams[0]", says: "is empty"},
		{name: "an upstream without a host", checks: "upstream-url", edit: upstream(bff.Upstream{URL: "https:///v1"}), field: "Upstreams[0]", says: "absolute"},
		{name: "an upstream over http", checks: "upstream-https", edit: upstream(bff.Upstream{URL: "http://api.example.com"}), field: "Upstreams[0]", says: "InsecureHTTP"},
		{name: "an upstream under localhost over http", checks: "upstream-https", edit: upstream(bff.Upstream{URL: "http://api.localhost:8081"}), field: "Upstreams[0]", says: "InsecureHTTP"},
		{name: "an upstream with a query", checks: "upstream-plain", edit: upstream(bff.Upstream{URL: "https://api.example.com?x"}), field: "Upstreams[0]", says: "query"},
		{name: "an upstream with a user", checks: "upstream-plain", edit: upstream(bff.Upstream{URL: "https://api.example.com@evil.example"}), field: "Upstreams[0]", says: "user"},
		{name: "an upstream with dot segments", checks: "upstream-path", edit: upstream(bff.Upstream{URL: "https://api.example.com/a/../b"}), field: "Upstreams[0]", says: "dot segments"},
		{name: "an upstream of no tenant", checks: "upstream-tenant", edit: upstream(bff.AgglestoneUsers("a/b", "", "/users")), field: "Upstreams[0]", says: `"a/b" is not a tenant ID`},
		{name: "an upstream for nobody", edit: upstream(bff.Upstream{URL: "https://api.example.com", Options: []bff.Option{bff.RequireACR("gold"), bff.RequireACR("silver")}}), field: "Upstreams[0]", says: "Options: RequireACR"},
		{name: "an upstream twice", checks: "config-upstream-twice", edit: func(c *bff.Config) {
			c.Upstreams = []bff.Upstream{{URL: "https://api.example.com/v1"}, {URL: "https://API.example.com:443/v1/"}}
		}, field: "Upstreams[1]", says: "declared twice"},
		{name: "a prefix that isn't one", checks: "upstream-prefix", edit: upstream(bff.Upstream{URL: "https://api.example.com", StripPrefix: "api"}), field: "Upstreams[0]", says: "plain path"},
		{name: "an upstream on loopback over http", edit: upstream(bff.Upstream{URL: "http://127.0.0.1:8081/v1"})},
		{name: "an upstream on a test network over http", edit: upstream(bff.Upstream{URL: "http://api:8081", InsecureHTTP: true})},
	}
}

// New names the field and the fix of what it can't use.
func TestConfig(t *testing.T) {
	for _, row := range configRows() {
		t.Run(row.name, func(t *testing.T) {
			cfg := goodConfig()
			row.edit(&cfg)
			auth, err := bff.New(t.Context(), cfg)
			if row.field == "" {
				if err != nil {
					t.Errorf("New = %v, want nil", err)
				}
				return
			}
			if err == nil || auth != nil {
				t.Fatal("New accepts it")
			}
			var e *bff.ConfigError
			if !errors.As(err, &e) || e.Field != row.field || !strings.Contains(e.Msg, row.says) {
				t.Errorf("New = %v, want one about %s that says %q", err, row.field, row.says)
			}
			for _, k := range cfg.Keys {
				if k.Reveal() != "" && strings.Contains(err.Error(), k.Reveal()) {
					t.Errorf("New = %v, which holds a key", err)
				}
			}
		})
	}
}

// A RedirectURL that New accepts has the origin that browsers make of it, in
// whatever case it is written, and with a port that they leave out.
func TestOriginOfRedirectURL(t *testing.T) {
	for redirect, origin := range map[string]string{
		"https://APP.Example.com/cb":        "https://app.example.com",
		"HTTPS://app.example.com:443/cb":    "https://app.example.com",
		"https://app.example.com:8443/cb":   "https://app.example.com:8443",
		"https://3com.example.com/cb":       "https://3com.example.com",
		"https://0x.example.com0x/cb":       "https://0x.example.com0x",
		"https://192.0.2.1:443/cb":          "https://192.0.2.1",
		"http://127.0.0.1:80/cb":            "http://127.0.0.1",
		"http://[::1]:8080/cb":              "http://[::1]:8080",
		"https://[2001:DB8::A]:443/auth/cb": "https://[2001:db8::a]",
	} {
		cfg := goodConfig()
		cfg.RedirectURL = redirect
		auth, err := bff.New(t.Context(), cfg)
		if err != nil {
			t.Errorf("New with %s = %v", redirect, err)
			continue
		}
		r := httptest.NewRequest("POST", "/logout", nil)
		r.Header.Set("Origin", origin)
		w := httptest.NewRecorder()
		auth.Routes(nil).ServeHTTP(w, r)
		if w.Code != http.StatusSeeOther || w.Header().Get("Location") != origin+"/" {
			t.Errorf("%s: a form of %s got %d, to %q", redirect, origin, w.Code, w.Header().Get("Location"))
		}
	}
}

// All mistakes are reported at once.
func TestConfigMistakes(t *testing.T) {
	_, err := bff.New(t.Context(), bff.Config{
		Issuer: "http://op.example.com", RedirectURL: "/cb", Keys: []bff.Key{{}}, IdleTimeout: -1, Paths: bff.Paths{Login: "x"},
		Upstreams: []bff.Upstream{{URL: "https://api.example.com"}, {URL: "http://api.example.com", StripPrefix: "x", Methods: []string{"TRACE"}}}, Logger: slog.New(slog.DiscardHandler),
	})
	for _, field := range []string{"Issuer", "ClientID", "RedirectURL", "Keys[0]", "IdleTimeout", "Paths.Login", "Upstreams[1]: URL", "Upstreams[1]: StripPrefix", "Upstreams[1]: Methods"} {
		if err == nil || strings.Count(err.Error(), "bff: Config."+field) != 1 {
			t.Errorf("New = %v, want it to name %s once", err, field)
		}
	}
	// Even those that only a good RedirectURL would excuse.
	for _, redirect := range []string{"", "/cb", "https://app.example.com"} {
		_, err := bff.New(t.Context(), bff.Config{RedirectURL: redirect, Logger: slog.New(slog.DiscardHandler)})
		for _, field := range []string{"Issuer", "ClientID", "RedirectURL", "Keys"} {
			if err == nil || strings.Count(err.Error(), "bff: Config."+field+": ") != 1 {
				t.Errorf("New with RedirectURL %q = %v, want it to name %s once", redirect, err, field)
			}
		}
	}
}

// New sends nothing, unless it is to fail without the issuer.
func TestNewWithoutIssuer(t *testing.T) {
	iss := bfftest.NewIssuer(bfftest.Options{})
	iss.Down(true)
	cfg := goodConfig()
	cfg.Issuer, cfg.ClientID, cfg.HTTPClient = iss.URL(), iss.ClientID(), iss.Client()
	auth, err := bff.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := auth.Ready(t.Context()); err == nil {
		t.Error("Ready without an issuer")
	}
	if err := auth.Close(context.Background()); err != nil {
		t.Error(err)
	}
	cfg.FailFast = true
	if _, err := bff.New(t.Context(), cfg); err == nil {
		t.Error("New with FailFast succeeds without an issuer")
	}
}

func TestParseKey(t *testing.T) {
	k := bff.NewKey()
	for _, s := range []string{k.Reveal(), " " + k.Reveal() + "\n", strings.TrimRight(k.Reveal(), "="), strings.NewReplacer("+", "-", "/", "_").Replace(k.Reveal())} {
		if got, err := bff.ParseKey(s); err != nil || got.Reveal() != k.Reveal() {
			t.Errorf("ParseKey of another spelling: %v", err)
		}
	}
	for _, s := range []string{"", "sentinel!", "c2VudGluZWwtc2VudGluZWw=", k.Reveal() + "AAAA"} {
		if _, err := bff.ParseKey(s); err == nil || !strings.Contains(err.Error(), "openssl rand") || s != "" && strings.Contains(err.Error(), s) {
			t.Errorf("ParseKey(%q) = %v", s, err)
		}
	}
	if keys, err := bff.ParseKeys(k.Reveal() + "," + bff.NewKey().Reveal()); err != nil || len(keys) != 2 || keys[0].Reveal() != k.Reveal() {
		t.Errorf("ParseKeys of two: %d keys, %v", len(keys), err)
	}
	if _, err := bff.ParseKeys(k.Reveal() + ",x,AAAA"); err == nil || !strings.Contains(err.Error(), "key 2\n") || !strings.HasSuffix(err.Error(), "key 3") {
		t.Errorf("ParseKeys with two bad ones: %v", err)
	}
}

// S80, S522: what is secret in a configuration doesn't print.
func TestSecretsDontPrint(t *testing.T) {
	cfg := goodConfig()
	cfg.ClientSecret = "sentinel-secret"
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", cfg.ClientSecret, "key", cfg.Keys[0])
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", cfg.ClientSecret, "key", cfg.Keys[0])
	encoded, err := json.Marshal(map[string]any{"secret": cfg.ClientSecret, "key": cfg.Keys[0], "config": struct {
		Secret bff.Secret
		Keys   []bff.Key
	}{cfg.ClientSecret, cfg.Keys}})
	if err != nil {
		t.Fatal(err)
	}
	text := log.String() + string(encoded) + fmt.Sprintf("%v %+v %#v %s %q %x %d", cfg, cfg, cfg.ClientSecret, cfg.Keys, cfg.ClientSecret, cfg.ClientSecret, cfg.Keys[0])
	raw := cfg.Keys[0].Reveal()
	for _, s := range []string{"sentinel", fmt.Sprintf("%x", "sentinel"), raw} {
		if strings.Contains(text, s) {
			t.Errorf("%q is in %s", s, text)
		}
	}
	if !strings.Contains(text, "[redacted]") || cfg.ClientSecret.Reveal() != "sentinel-secret" {
		t.Error("nothing was printed, or there is no way to read it")
	}
}
