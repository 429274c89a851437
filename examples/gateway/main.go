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
The environment configures it; in brackets is what holds without:

  BFF_LISTEN           address to listen on            (127.0.0.1:4180)
  BFF_ISSUER           issuer's URL, or instead of it:
  BFF_TENANT_ID        Agglestone tenant ID
  BFF_CLIENT_ID        client ID                       (the tenant ID)
  BFF_CLIENT_SECRET    client secret                   (public client)
  BFF_REDIRECT_URL     public URL of the callback      (http://BFF_LISTEN/auth/callback)
  BFF_SCOPES           scopes, separated by spaces     (openid profile email)
  BFF_KEYS             keys in base64, separated by commas; the first seals, all
                       open. openssl rand -base64 32 makes one.
                       (on loopback: a new one at each start; else needed)
  BFF_STORE            where sessions are kept: memory, or redis://…, rediss://…,
                       postgres://…, mysql://… or sqlite:PATH
                       for replicas that share them (memory)
  BFF_UPSTREAM         URL of the API, which is proxied at /api/ with that
                       prefix stripped                 (no API)
  BFF_SPA_DIR          directory served at /. What is no file there and was
                       navigated to gets index.html    (nothing)
  BFF_SPA_SOURCES      what its pages may use besides this site, as in a
                       Content-Security-Policy: img-src https://img.example.com;
                       style-src-attr 'unsafe-inline'  (nothing)
  BFF_IDLE_TIMEOUT     a session ends this long after its last request  (1h)
  BFF_MAX_LIFETIME     a session ends this long after the sign-in       (12h)
  BFF_REFRESH_MARGIN   an access token is refreshed this long before its end
                       (a tenth of its life, at most 1m)
  BFF_POST_LOGOUT_URL  where a sign-out ends           (the site's root)
  BFF_INSECURE_HTTP    1 admits plain http off loopback, for test networks:
                       cookies and tokens then travel in the clear

Durations are written like 90s or 1h30m. Files of BFF_SPA_DIR are served with a
Content-Security-Policy of default-src 'self', inline scripts and styles by their
hashes, and no hidden ones. Those whose names have a hash are cached for a year.

Beside /login, /logout and /auth/… there are:

  GET /whoami          a protected page: {"sub":"…","groups":["…"]}
  GET /healthz         200 while the process lives
  GET /readyz          200 if issuer and store can be reached, else 503

TLS ends in front of it; BFF_REDIRECT_URL is what browsers see. SIGTERM and
SIGINT stop it once requests in progress are done, after 15s at most. Exit
status: 0 stopped, 1 failed, 2 the environment can't be used.
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
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, "BFF_") && !strings.Contains(help, "  "+name+" ") {
			slog.Warn("unknown variable is ignored; see --help", "name", name)
		}
	}
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

// A gateway is all that configure made.
type gateway struct {
	listen     string
	auth       *bff.BFF
	closeStore func() error
	upstream   bff.Upstream // none without URL
	site       http.Handler // nil: none
}

// handler returns what the gateway serves.
func (gw *gateway) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", gw.ready)
	mux.Handle("GET /whoami", gw.auth.ProtectFunc(whoami))
	if gw.upstream.URL != "" {
		mux.Handle("/api/", gw.auth.Proxy(gw.upstream))
	}
	if gw.site != nil {
		mux.Handle("/", gw.site)
	}
	return gw.auth.Routes(mux)
}

// ready says whether issuer and store can be reached. What is not ready is
// still alive: a restart would not help.
func (gw *gateway) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	if err := gw.auth.Ready(ctx); err != nil {
		gw.auth.Error(w, r, err)
		return
	}
	fmt.Fprintln(w, "ready")
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

// run serves until ctx ends, then finishes what is in progress.
func (gw *gateway) run(ctx context.Context) error {
	listener, err := net.Listen("tcp", gw.listen)
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler:           gw.handler(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
	}
	slog.Info("listening", "address", listener.Addr().String())
	srv.RegisterOnShutdown(gw.auth.Drain)
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(listener) }()
	select {
	case err = <-failed:
	case <-ctx.Done():
		slog.Info("stopping")
	}
	drain, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	if srv.Shutdown(drain) != nil {
		slog.Warn("requests that were still in progress are cut off")
		err = errors.Join(err, srv.Close())
	}
	// Refreshes have a time of their own, however long the requests took: what
	// the issuer answered must be stored, or the session is lost.
	settle, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	return errors.Join(err, gw.auth.Close(settle), gw.closeStore())
}
