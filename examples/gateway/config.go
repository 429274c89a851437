package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/agglestone/bff"
)

// configure reads the environment and reports all that is wrong with it, each
// mistake under the name of its variable.
func configure(ctx context.Context, getenv func(string) string) (*gateway, error) {
	e := &environment{get: getenv}
	gw := &gateway{listen: e.listen(ctx)}
	cfg := bff.Config{
		Issuer:        getenv("BFF_ISSUER"),
		TenantID:      getenv("BFF_TENANT_ID"),
		ClientID:      getenv("BFF_CLIENT_ID"),
		ClientSecret:  bff.Secret(getenv("BFF_CLIENT_SECRET")),
		RedirectURL:   getenv("BFF_REDIRECT_URL"),
		PostLogoutURL: getenv("BFF_POST_LOGOUT_URL"),
		IdleTimeout:   e.duration("BFF_IDLE_TIMEOUT"),
		MaxLifetime:   e.duration("BFF_MAX_LIFETIME"),
		RefreshMargin: e.duration("BFF_REFRESH_MARGIN"),
		InsecureHTTP:  e.bool("BFF_INSECURE_HTTP"),
	}
	if cfg.RedirectURL == "" && onLoopback(gw.listen) {
		cfg.RedirectURL = "http://" + gw.listen + "/auth/callback"
	}
	if scopes := strings.Fields(getenv("BFF_SCOPES")); len(scopes) > 0 {
		cfg.Scopes = scopes
	}
	var err error
	if cfg.Keys, err = bff.ParseKeys(getenv("BFF_KEYS")); err != nil {
		e.fail("BFF_KEYS", inEnvironment(err))
		cfg.Keys = []bff.Key{bff.NewKey()} // so that New finds nothing wrong with them
	}
	if cfg.Store, gw.closeStore, err = openStore(ctx, getenv("BFF_STORE")); err != nil {
		e.fail("BFF_STORE", err)
	}
	gw.upstream = bff.Upstream{URL: getenv("BFF_UPSTREAM"), StripPrefix: "/api", WebSocket: true, InsecureHTTP: cfg.InsecureHTTP}
	if gw.upstream.URL != "" {
		if err := gw.upstream.Validate(); err != nil {
			e.fail("BFF_UPSTREAM", inEnvironment(err))
		}
	}
	issuer := cfg.Issuer
	if issuer == "" {
		issuer = bff.AgglestoneIssuer(cfg.TenantID)
	}
	if gw.auth, err = bff.New(ctx, cfg); err != nil {
		e.errs = append(e.errs, inEnvironment(err))
		issuer = "" // it may be what is wrong
	}
	if dir := getenv("BFF_SPA_DIR"); dir != "" {
		if gw.site, err = openSPA(dir, issuer, getenv("BFF_SPA_SOURCES")); err != nil {
			e.fail("BFF_SPA_DIR", err)
		}
	}
	return gw, errors.Join(e.errs...)
}

// An environment reads variables and collects what is wrong with them.
type environment struct {
	get  func(string) string
	errs []error
}

func (e *environment) fail(name string, err error) {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range several.Unwrap() {
			e.fail(name, err)
		}
		return
	}
	e.errs = append(e.errs, fmt.Errorf("%s: %w", name, err))
}

func (e *environment) listen(ctx context.Context) string {
	addr := e.get("BFF_LISTEN")
	if addr == "" {
		return "127.0.0.1:4180"
	}
	_, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = net.DefaultResolver.LookupPort(ctx, "tcp", port)
	}
	if err != nil {
		e.fail("BFF_LISTEN", fmt.Errorf("%q is not an address such as 127.0.0.1:4180 or :8080", addr))
	}
	return addr
}

func (e *environment) duration(name string) time.Duration {
	v := e.get(name)
	if v == "" {
		return 0
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		e.fail(name, fmt.Errorf("%q is not a duration such as 90s or 1h30m", v))
	}
	return d
}

func (e *environment) bool(name string) bool {
	v := e.get(name)
	if v == "" {
		return false
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		e.fail(name, fmt.Errorf("%q is not 1 or 0", v))
	}
	return b
}

// onLoopback reports whether what listens at addr is this machine's alone, so
// that browsers reach it at addr too.
func onLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// fields says which variable sets a field of bff.Config.
var fields = map[string]string{
	"Issuer":        "BFF_ISSUER",
	"TenantID":      "BFF_TENANT_ID",
	"ClientID":      "BFF_CLIENT_ID",
	"ClientSecret":  "BFF_CLIENT_SECRET",
	"RedirectURL":   "BFF_REDIRECT_URL",
	"PostLogoutURL": "BFF_POST_LOGOUT_URL",
	"Scopes":        "BFF_SCOPES",
	"Keys":          "BFF_KEYS",
	"Store":         "BFF_STORE",
	"IdleTimeout":   "BFF_IDLE_TIMEOUT",
	"MaxLifetime":   "BFF_MAX_LIFETIME",
	"RefreshMargin": "BFF_REFRESH_MARGIN",
	"InsecureHTTP":  "BFF_INSECURE_HTTP",
}

var word = regexp.MustCompile(`\b[A-Za-z]+\b`)

// inEnvironment says err, which speaks of fields of bff.Config, in the words of
// the one who wrote the environment.
func inEnvironment(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var errs []error
		for _, e := range joined.Unwrap() {
			errs = append(errs, inEnvironment(e))
		}
		return errors.Join(errs...)
	}
	text := strings.TrimPrefix(err.Error(), "bff: ")
	var wrong *bff.ConfigError
	if errors.As(err, &wrong) {
		text = wrong.Field + ": " + wrong.Msg
	}
	return errors.New(word.ReplaceAllStringFunc(text, func(w string) string {
		if name, ok := fields[w]; ok {
			return name
		}
		return w
	}))
}
