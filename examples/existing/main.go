// Existing is a shop that was there before: on the router chi, with sessions of
// its own (scs) that hold the cart of whoever walks in. It has sign-in now.
// What that took is in shop.go.
//
//	go run ./examples/existing
//
// It brings an issuer of its own, so it needs no account and no network.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	err := run(ctx, "127.0.0.1:8080", func(origin string) {
		fmt.Printf("\n  Open %s and put something into the cart. Ctrl-C stops.\n\n", origin)
	})
	if err != nil {
		log.Fatal(err)
	}
}

// run serves the shop at addr until ctx ends, and says when it is there.
func run(ctx context.Context, addr string, ready func(origin string)) error {
	iss := bfftest.NewIssuer(bfftest.Options{}) // yours is a service of its own
	stopIssuer, err := iss.Start("localhost:0")
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	origin := "http://" + listener.Addr().String()

	s, err := newShop(ctx, bff.Config{
		Issuer:      iss.URL(),
		ClientID:    iss.ClientID(),
		RedirectURL: origin + "/auth/callback",
	})
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: s.routes(iss.UsersURL()), ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 32 << 10}
	srv.RegisterOnShutdown(s.auth.Drain)
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(listener) }()
	ready(origin)

	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return errors.Join(err, srv.Shutdown(drain), s.auth.Close(drain), stopIssuer(drain))
}
