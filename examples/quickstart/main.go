// Quickstart is a whole application with the library in it: sign in, see who
// you are and for how long, call an API through the proxy, sign out.
//
//	go run ./examples/quickstart
//
// It needs no account and no network, since it brings an issuer of its own,
// with a Users API behind it. All that it knows is gone when it stops.
package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
	"github.com/agglestone/bff/spa"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	if err := run(ctx, "127.0.0.1:8080", os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// run serves the application at addr, or at a free port if that one is taken,
// until ctx ends. It tells out where.
func run(ctx context.Context, addr string, out io.Writer) error {
	// The issuer. Yours is a service of its own, so leave this out, and name
	// yours in the Config below. It is at localhost and we are at 127.0.0.1,
	// which are two sites to a browser, as an issuer and an application are.
	iss := bfftest.NewIssuer(bfftest.Options{AccessTokenLifetime: time.Minute})
	stopIssuer, err := iss.Start("localhost:0")
	if err != nil {
		return err
	}
	listener, err := listen(addr, out)
	if err != nil {
		return err
	}
	origin := "http://" + listener.Addr().String()

	// The relying party. Off loopback it also wants Keys, and from two replicas
	// on a Store that they share.
	auth, err := bff.New(ctx, bff.Config{
		Issuer:      iss.URL(),
		ClientID:    iss.ClientID(),
		RedirectURL: origin + "/auth/callback",
		IdleTimeout: 5 * time.Minute, // the default is 1 hour, too long to watch
		MaxLifetime: time.Hour,
	})
	if err != nil {
		return err
	}

	// What the application serves: its pages, one that only administrators may
	// see, and the API, to which the proxy adds the user's access token.
	site, err := pages(iss.URL())
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/", site)
	mux.Handle("GET /admin", auth.ProtectFunc(admin, bff.RequireGroup("Admin")))
	users := auth.Proxy(bff.Upstream{URL: iss.UsersURL(), StripPrefix: "/api/users"})
	mux.Handle("/api/users", users)
	mux.Handle("/api/users/", users)

	srv := &http.Server{
		Handler:           auth.Routes(mux), // outermost; adds /login, /logout and /auth/…
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    32 << 10,
	}
	srv.RegisterOnShutdown(auth.Drain)
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(listener) }()
	fmt.Fprintf(out, "\n  Open %s and sign in as alice, bob or carol. Ctrl-C stops.\n\n", origin)

	select {
	case err = <-failed:
	case <-ctx.Done():
		fmt.Fprintln(out, "Stopping.")
	}
	// First the requests, then what they left running, such as a refresh, and
	// at last what both may need.
	drain, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return errors.Join(err, srv.Shutdown(drain), auth.Close(drain), stopIssuer(drain))
}

// listen listens at addr, or at a free port of the same host.
func listen(addr string, out io.Writer) (net.Listener, error) {
	listener, err := net.Listen("tcp", addr)
	if err == nil {
		return listener, nil
	}
	host, _, splitErr := net.SplitHostPort(addr)
	if splitErr != nil {
		return nil, err
	}
	fmt.Fprintf(out, "%v: taking a free port instead\n", err)
	return net.Listen("tcp", net.JoinHostPort(host, "0"))
}

// admin is a page for administrators. Protect lets nobody else through.
func admin(w http.ResponseWriter, r *http.Request) {
	s, _ := bff.SessionFromContext(r.Context())
	var claims struct{ Name string }
	if err := s.Claims(&claims); err != nil {
		http.Error(w, "the claims can't be read", http.StatusInternalServerError)
		return
	}
	fmt.Fprintf(w, "Hello %s. You are in %v, and this page is for Admin only.\n", claims.Name, s.Groups())
}

//go:embed static
var static embed.FS

// pages serves the files in static. The policy lets them load and call nothing
// but this server, and a form that signs out go on to the issuer.
func pages(issuer string) (http.Handler, error) {
	files, err := fs.Sub(static, "static")
	if err != nil {
		return nil, err
	}
	return spa.Handler(files, spa.Options{EndSession: issuer})
}
