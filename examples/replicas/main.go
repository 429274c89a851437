// Replicas is one application, served by two replicas that share nothing but a
// Redis: whichever of them a request meets knows the session, and refreshes and
// sign-outs count for both.
//
//	REDIS_URL=redis://127.0.0.1:6379 go run ./examples/replicas
//
// The replicas stand side by side in one process here, behind a round robin; in
// earnest each is a process of its own behind your load balancer, and BFF_KEYS
// comes from where your secrets are.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
	"github.com/agglestone/bff/store/redisstore"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, "127.0.0.1:8080", os.Getenv("REDIS_URL"), os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// run serves the application at addr until ctx ends.
func run(ctx context.Context, addr, redisURL string, out io.Writer) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	origin := "http://" + listener.Addr().String()
	// The issuer: yours is a service of its own.
	iss := bfftest.NewIssuer(bfftest.Options{AccessTokenLifetime: 30 * time.Second})
	stopIssuer, err := iss.Start("localhost:0")
	if err != nil {
		return err
	}
	keys, err := bff.ParseKeys(os.Getenv("BFF_KEYS"))
	if err != nil {
		return err
	}
	if keys == nil {
		keys = []bff.Key{bff.NewKey()} // sessions then end with this process
	}

	var replicas []*replica
	for i := range 2 {
		r, err := start(ctx, i+1, redisURL, bff.Config{
			Issuer: iss.URL(), ClientID: iss.ClientID(),
			RedirectURL: origin + "/auth/callback", // what browsers see: the same for both
			Keys:        keys,                      // the same for both
			CacheSize:   10_000,                    // Redis tells of changes
		})
		if err != nil {
			return err
		}
		replicas = append(replicas, r)
	}
	balancer := &http.Server{Handler: roundRobin(replicas), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- balancer.Serve(listener) }()
	fmt.Fprintf(out, "\n  Open %s and reload it: two replicas take turns. Ctrl-C stops.\n\n", origin)
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	errs := []error{err, balancer.Shutdown(drain)}
	for _, r := range replicas {
		errs = append(errs, r.stop(drain))
	}
	return errors.Join(append(errs, stopIssuer(drain))...)
}

// A replica is one server with the library in it.
type replica struct {
	url   *url.URL
	srv   *http.Server
	auth  *bff.BFF
	store *redisstore.Store
}

// start starts a replica on a free port.
func start(ctx context.Context, number int, redisURL string, cfg bff.Config) (*replica, error) {
	openCtx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	// If Redis isn't there yet, it is an error only if the URL is wrong:
	// requests are answered 503 until it is.
	store, err := redisstore.Open(openCtx, redisURL, redisstore.Options{Prefix: "replicas:"})
	if err != nil {
		return nil, err
	}
	cfg.Store = store
	auth, err := bff.New(ctx, cfg)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", auth.ProtectFunc(func(w http.ResponseWriter, r *http.Request) {
		s, _ := bff.SessionFromContext(r.Context())
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, `<!doctype html><title>Replicas</title><p>You are %s, says replica %d.</p>`+
			`<form method="post" action="/logout"><button>Sign out</button></form>`, s.Subject(), number)
	}))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	srv := &http.Server{Handler: auth.Routes(mux), ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 32 << 10}
	srv.RegisterOnShutdown(auth.Drain)
	go srv.Serve(listener) // until Shutdown
	return &replica{&url.URL{Scheme: "http", Host: listener.Addr().String()}, srv, auth, store}, nil
}

// stop lets requests finish, then what they left running, and closes the store
// after both.
func (r *replica) stop(ctx context.Context) error {
	return errors.Join(r.srv.Shutdown(ctx), r.auth.Close(ctx), r.store.Close())
}

// roundRobin is the load balancer. Like yours, it passes the Host header on.
func roundRobin(replicas []*replica) http.Handler {
	var turn atomic.Uint64
	return &httputil.ReverseProxy{Rewrite: func(pr *httputil.ProxyRequest) {
		pr.SetURL(replicas[turn.Add(1)%uint64(len(replicas))].url)
		pr.Out.Host = pr.In.Host
		pr.SetXForwarded()
	}}
}
