// Postgres is an application that keeps its sessions where it keeps everything
// else: in its own PostgreSQL, through its own *sql.DB. It can run as several
// replicas.
//
//	DATABASE_URL=postgres://app@127.0.0.1/app go run ./examples/postgres
//
// The environment says the rest: ISSUER, CLIENT_ID and CLIENT_SECRET name your
// issuer (without them an embedded one serves), REDIRECT_URL is the callback as
// browsers see it, and BFF_KEYS the keys (openssl rand -base64 32).
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
	"github.com/agglestone/bff/store/sqlstore"

	_ "github.com/jackc/pgx/v5/stdlib"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, "127.0.0.1:8080", os.Getenv, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// run serves the application at addr until ctx ends.
func run(ctx context.Context, addr string, getenv func(string) string, out io.Writer) error {
	db, err := sql.Open("pgx", getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(20) // what the server can spare this replica
	db.SetMaxIdleConns(20) // or all but two are opened anew all the time

	// The application's own tables, and ours beside them.
	start, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := migrate(start, db); err != nil {
		return err
	}
	store, err := sqlstore.New(db, sqlstore.Postgres, sqlstore.Options{})
	if err != nil {
		return err
	}
	if err := store.Migrate(start); err != nil {
		return err
	}

	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	cfg := bff.Config{
		Issuer: getenv("ISSUER"), ClientID: getenv("CLIENT_ID"), ClientSecret: bff.Secret(getenv("CLIENT_SECRET")),
		RedirectURL: getenv("REDIRECT_URL"),
		Store:       store,
	}
	if cfg.RedirectURL == "" {
		cfg.RedirectURL = "http://" + listener.Addr().String() + "/auth/callback"
	}
	stopIssuer := func(context.Context) error { return nil }
	if cfg.Issuer == "" {
		iss := bfftest.NewIssuer(bfftest.Options{})
		if stopIssuer, err = iss.Start("localhost:0"); err != nil {
			return err
		}
		cfg.Issuer, cfg.ClientID = iss.URL(), iss.ClientID()
	}
	if cfg.Keys, err = bff.ParseKeys(getenv("BFF_KEYS")); err != nil {
		return err
	}
	if cfg.Keys == nil {
		cfg.Keys = []bff.Key{bff.NewKey()} // the next start opens no session of this one
	}
	auth, err := bff.New(ctx, cfg)
	if err != nil {
		return err
	}

	mux := http.NewServeMux()
	mux.Handle("GET /{$}", auth.ProtectFunc(func(w http.ResponseWriter, r *http.Request) {
		s, _ := bff.SessionFromContext(r.Context())
		var n int
		err := db.QueryRowContext(r.Context(), `INSERT INTO visits VALUES ($1, 1)
			ON CONFLICT (subject) DO UPDATE SET n = visits.n + 1 RETURNING n`, s.Subject()).Scan(&n)
		if err != nil {
			http.Error(w, "the database doesn't answer", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintf(w, "Hello %s, this is your visit number %d.\n", s.Subject(), n)
	}))
	srv := &http.Server{Handler: auth.Routes(mux), ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 32 << 10}
	srv.RegisterOnShutdown(auth.Drain)
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(listener) }()
	fmt.Fprintf(out, "\n  Open http://%s . Ctrl-C stops.\n\n", listener.Addr())
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	drain, cancelDrain := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancelDrain()
	return errors.Join(err, srv.Shutdown(drain), auth.Close(drain), stopIssuer(drain))
}

// migrate creates the application's own table. Replicas that start at once take
// turns, since IF NOT EXISTS alone fails for one of them.
func migrate(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for _, statement := range []string{
		`SELECT pg_advisory_xact_lock(20260101)`,
		`CREATE TABLE IF NOT EXISTS visits (subject text PRIMARY KEY, n bigint NOT NULL)`,
	} {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return tx.Commit()
}
