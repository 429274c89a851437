package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/rueidis"
)

// failed returns the error of an operation. It tells what the server or the
// network said, and never holds a key, a value or a password.
func failed(ctx context.Context, op string, err error) error {
	if cause := ctx.Err(); cause != nil {
		return fmt.Errorf("redisstore: %s: %w", op, cause)
	}
	if errors.Is(err, context.DeadlineExceeded) { // the connection's clock was first
		return fmt.Errorf("redisstore: %s: %w", op, context.DeadlineExceeded)
	}
	if errors.Is(err, ErrClosed) || errors.Is(err, rueidis.ErrClosing) {
		return fmt.Errorf("redisstore: %s: %w", op, ErrClosed)
	}
	var e *rueidis.RedisError
	if errors.As(err, &e) {
		return fmt.Errorf("redisstore: %s: the server says: %s", op, said(e))
	}
	// Not wrapped: perhaps it is another caller's context that ended while
	// it was connecting for us too.
	return fmt.Errorf("redisstore: %s: %v", op, err)
}

// said returns an error reply without what it quotes of the command: a server
// that doesn't know a command repeats its arguments.
func said(e *rueidis.RedisError) string {
	text, _, _ := strings.Cut(e.Error(), ", with args")
	text, _, _ = strings.Cut(text, "\n")
	return text[:min(len(text), 200)]
}
