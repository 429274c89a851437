// Gateway is the library as a program: it signs people in, serves a directory
// as a single-page application, and proxies an API. The environment configures
// it; see --help.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/agglestone/bff"
)

const help = `Usage: gateway

A Backend-for-Frontend in front of an API and a single-page application.
The environment configures it:

  BFF_LISTEN           address to listen on            (127.0.0.1:4180)
  BFF_ISSUER           issuer's URL, or instead of it:
  BFF_TENANT_ID        Agglestone tenant ID
  BFF_CLIENT_ID        client ID                       (the tenant ID)
  BFF_CLIENT_SECRET    client secret                   (public client)
  BFF_REDIRECT_URL     public URL of the callback      (http://BFF_LISTEN/auth/callback)
  BFF_SCOPES           scopes, separated by spaces     (openid profile email)
  BFF_KEYS             keys in base64, separated by commas; the first seals.
                       openssl rand -base64 32 makes one. (fresh ones on loopback)
  BFF_STORE            memory                          (memory)
  BFF_UPSTREAM         API that is proxied at /api/, prefix stripped
  BFF_SPA_DIR          directory served at /, falling back to its index.html
  BFF_IDLE_TIMEOUT     session's idle time-out         (1h)
  BFF_MAX_LIFETIME     session's greatest age          (12h)
  BFF_REFRESH_MARGIN   refresh this long before expiry (a tenth of the token's life)
  BFF_POST_LOGOUT_URL  where a sign-out ends           (the site's root)

It also serves GET /whoami (protected, JSON) and GET /healthz.
TLS ends in front of it; BFF_REDIRECT_URL is what browsers see.
`

func main() {
	if len(os.Args) > 1 {
		if arg := os.Args[1]; arg != "--help" && arg != "-help" && arg != "-h" {
			fmt.Fprintf(os.Stderr, "gateway: unknown argument %q\n\n%s", arg, help)
			os.Exit(2)
		}
		fmt.Print(help)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	gw, err := configure(ctx, os.Getenv)
	if err != nil {
		fmt.Fprintf(os.Stderr, "gateway: the environment can't be used:\n%v\n", err)
		os.Exit(2)
	}
	if err := gw.run(ctx); err != nil {
		slog.Error("gateway failed", "err", err)
		os.Exit(1)
	}
}

type gateway struct {
	listen  string
	auth    *bff.BFF
	handler http.Handler
}

// configure reads the environment and reports all that is wrong with it.
func configure(ctx context.Context, getenv func(string) string) (*gateway, error) {
	var errs []error
	fail := func(name string, err error) { errs = append(errs, fmt.Errorf("%s: %w", name, err)) }
	duration := func(name string) time.Duration {
		v := getenv(name)
		if v == "" {
			return 0
		}
		d, err := time.ParseDuration(v)
		if err != nil {
			fail(name, fmt.Errorf("%q is not a duration such as 90s or 1h30m", v))
		}
		return d
	}

	listen := getenv("BFF_LISTEN")
	if listen == "" {
		listen = "127.0.0.1:4180"
	}
	if _, _, err := net.SplitHostPort(listen); err != nil {
		fail("BFF_LISTEN", fmt.Errorf("%q is not host:port", listen))
	}
	cfg := bff.Config{
		Issuer:        getenv("BFF_ISSUER"),
		TenantID:      getenv("BFF_TENANT_ID"),
		ClientID:      getenv("BFF_CLIENT_ID"),
		ClientSecret:  bff.Secret(getenv("BFF_CLIENT_SECRET")),
		RedirectURL:   getenv("BFF_REDIRECT_URL"),
		PostLogoutURL: getenv("BFF_POST_LOGOUT_URL"),
		IdleTimeout:   duration("BFF_IDLE_TIMEOUT"),
		MaxLifetime:   duration("BFF_MAX_LIFETIME"),
		RefreshMargin: duration("BFF_REFRESH_MARGIN"),
	}
	if cfg.RedirectURL == "" {
		cfg.RedirectURL = "http://" + listen + "/auth/callback"
	}
	if scopes := strings.Fields(getenv("BFF_SCOPES")); len(scopes) > 0 {
		cfg.Scopes = scopes
	}
	var err error
	if cfg.Keys, err = bff.ParseKeys(getenv("BFF_KEYS")); err != nil {
		fail("BFF_KEYS", err)
		cfg.Keys = []bff.Key{bff.NewKey()} // so that New reports the rest
	}
	switch store := getenv("BFF_STORE"); store {
	case "", "memory":
	default:
		fail("BFF_STORE", fmt.Errorf("%q is not memory", store))
	}
	upstream := bff.Upstream{URL: getenv("BFF_UPSTREAM"), StripPrefix: "/api", WebSocket: true}
	if upstream.URL != "" {
		if err := upstream.Validate(); err != nil {
			fail("BFF_UPSTREAM", err)
		}
	}
	dir := getenv("BFF_SPA_DIR")
	if dir != "" {
		if _, err := os.Stat(dir + "/index.html"); err != nil {
			fail("BFF_SPA_DIR", errors.New("has no index.html"))
		}
	}
	auth, err := bff.New(ctx, cfg)
	if err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}

	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "ok") })
	mux.Handle("GET /whoami", auth.ProtectFunc(whoami))
	if upstream.URL != "" {
		mux.Handle("/api/", auth.Proxy(upstream))
	}
	if dir != "" {
		root, err := os.OpenRoot(dir)
		if err != nil {
			return nil, fmt.Errorf("BFF_SPA_DIR: %w", err)
		}
		mux.Handle("/", spa(root))
	}
	return &gateway{listen, auth, auth.Routes(mux)}, nil
}

// run serves until ctx ends, then finishes what is in progress.
func (gw *gateway) run(ctx context.Context) error {
	listener, err := net.Listen("tcp", gw.listen)
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler:           gw.handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
	}
	slog.Info("listening", "address", listener.Addr().String())
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err = srv.Shutdown(drain)
	return errors.Join(err, gw.auth.Close(drain))
}

func whoami(w http.ResponseWriter, r *http.Request) {
	s, _ := bff.SessionFromContext(r.Context())
	groups := s.Groups()
	if groups == nil {
		groups = []string{}
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	json.NewEncoder(w).Encode(map[string]any{"sub": s.Subject(), "groups": groups})
}

// spa serves the files of root. A path that a browser navigates to and that is
// no file is the application's own, and gets index.html.
func spa(root *os.Root) http.Handler {
	files := http.FileServerFS(root.FS())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.Trim(r.URL.Path, "/")
		info, err := root.Stat(name)
		isFile := name != "" && err == nil && !info.IsDir()
		navigates := strings.Contains(r.Header.Get("Accept"), "text/html")
		if !isFile && name != "" && !navigates {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Content-Security-Policy", "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'")
		w.Header().Set("Referrer-Policy", "same-origin")
		if !isFile {
			w.Header().Set("Cache-Control", "no-store")
			http.ServeFileFS(w, r, root.FS(), "index.html")
			return
		}
		files.ServeHTTP(w, r)
	})
}
