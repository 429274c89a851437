package main

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/store/redisstore"
	"github.com/agglestone/bff/store/sqlstore"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"
)

// openTimeout is how long a start waits for the store. It goes on without it
// then: requests are answered 503 until the store is there.
const openTimeout = 3 * time.Second

// connections is how many a gateway has to its database. More make a database
// slower, not faster, and without a bound a burst of requests takes all that
// the database allows. As many are kept: to open one costs more than a query.
const connections = 24

// openStore opens the store that BFF_STORE names. Nil is the one in memory that
// bff brings along. The store is closed after everything that uses it. No error
// quotes the value, which may hold a password.
func openStore(ctx context.Context, value string) (store bff.Store, closeStore func() error, err error) {
	nothing := func() error { return nil }
	switch scheme, rest, _ := strings.Cut(value, ":"); scheme {
	case "", "memory":
		return nil, nothing, nil
	case "redis", "rediss", "valkey", "valkeys":
		ctx, cancel := context.WithTimeout(ctx, openTimeout)
		defer cancel()
		s, err := redisstore.Open(ctx, value, redisstore.Options{})
		if err != nil {
			return nil, nothing, err
		}
		return s, s.Close, nil
	case "postgres", "postgresql":
		config, err := pgx.ParseConfig(value)
		if err != nil {
			return nil, nothing, errors.New("is not postgres://user:password@host:port/database")
		}
		return openSQL(ctx, sqlstore.Postgres, stdlib.OpenDB(*config))
	case "mysql", "mariadb":
		dsn, err := mysqlDSN(value)
		if err != nil {
			return nil, nothing, err
		}
		db, err := sql.Open("mysql", dsn)
		if err != nil {
			return nil, nothing, errors.New("is not mysql://user:password@host:port/database")
		}
		return openSQL(ctx, sqlstore.MySQL, db)
	case "sqlite":
		if rest == "" {
			return nil, nothing, errors.New("names no file: sqlite:PATH")
		}
		// Readers don't wait for the writer, and writers wait for one another.
		db, err := sql.Open("sqlite", "file:"+rest+"?_pragma=busy_timeout(1000)&_pragma=journal_mode(wal)&_pragma=synchronous(normal)")
		if err != nil {
			return nil, nothing, err
		}
		return openSQL(ctx, sqlstore.SQLite, db)
	}
	return nil, nothing, errors.New("is not memory, redis://…, rediss://…, postgres://…, mysql://… or sqlite:PATH")
}

// openSQL opens a store in a database and sees to its tables, now or when the
// database is there.
func openSQL(ctx context.Context, dialect sqlstore.Dialect, db *sql.DB) (bff.Store, func() error, error) {
	nothing := func() error { return nil }
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	store, err := sqlstore.New(db, dialect, sqlstore.Options{})
	if err != nil {
		return nil, nothing, errors.Join(err, db.Close())
	}
	migrate := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, openTimeout)
		defer cancel()
		return store.Migrate(ctx)
	}
	if migrate(ctx) == nil {
		return store, db.Close, nil
	}
	slog.Warn("the database can't be reached, or has no tables of ours and won't have them made: trying again")
	ctx, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for pause := time.Second; ; pause = min(2*pause, 30*time.Second) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			if err := migrate(ctx); err == nil {
				slog.Info("the database is there")
				return
			}
		}
	}()
	return store, func() error {
		stop()
		<-done
		return db.Close()
	}, nil
}

// mysqlDSN makes a data source name, as the driver reads it, of a URL.
func mysqlDSN(value string) (string, error) {
	u, err := url.Parse(value)
	if err != nil || u.Host == "" || strings.Trim(u.Path, "/") == "" {
		return "", errors.New("is not mysql://user:password@host:port/database")
	}
	c := mysql.NewConfig()
	c.Net, c.Addr, c.User, c.DBName = "tcp", u.Host, u.User.Username(), strings.Trim(u.Path, "/")
	c.Passwd, _ = u.User.Password()
	if u.Port() == "" {
		c.Addr += ":3306"
	}
	c.RejectReadOnly = true // leave a server that became a replica
	c.Timeout, c.ReadTimeout, c.WriteTimeout = openTimeout, 10*time.Second, 10*time.Second
	for name, values := range u.Query() {
		if name != "tls" {
			return "", errors.New("has a parameter besides tls")
		}
		c.TLSConfig = values[0]
	}
	return c.FormatDSN(), nil
}
