package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/store/redisstore"
)

// openTimeout is how long a start waits for the store. It goes on without it
// then: requests are answered 503 until the store is there.
const openTimeout = 3 * time.Second

// openStore opens the store that BFF_STORE names. Nil is the one in memory that
// bff brings along. The store is closed after everything that uses it. No error
// quotes the value, which may hold a password.
func openStore(ctx context.Context, value string) (store bff.Store, closeStore func() error, err error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	nothing := func() error { return nil }
	switch scheme, _, _ := strings.Cut(value, ":"); scheme {
	case "", "memory":
		return nil, nothing, nil
	case "redis", "rediss", "valkey", "valkeys":
		s, err := redisstore.Open(ctx, value, redisstore.Options{})
		if err != nil {
			return nil, nothing, err
		}
		return s, s.Close, nil
	}
	return nil, nothing, errors.New("is not memory, redis://… or rediss://…")
}
