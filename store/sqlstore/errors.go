package sqlstore

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"
)

// tries is how often a statement runs that the database rolls back each time.
const tries = 10

var errNoSchema = errors.New("the schema's first version is not there")

// A failure is what went wrong, in words that tell nothing of any record.
type failure struct {
	op   string
	text string
	err  error
}

func (f *failure) Error() string { return "sqlstore: " + f.op + ": " + f.text }
func (f *failure) Unwrap() error { return f.err }

// failed wraps a driver's error. Its text may quote the statement's arguments:
// of them nothing is repeated. What is shorter than any key tells nothing, and
// may be part of a word.
func failed(op string, err error, args ...any) error {
	text := err.Error()
	for _, arg := range args {
		var secret string
		switch arg := arg.(type) {
		case string:
			secret = arg
		case []byte:
			secret = string(arg)
		}
		if len(secret) >= 8 {
			text = strings.ReplaceAll(text, secret, "[redacted]")
		}
	}
	text = strings.Join(strings.Fields(text), " ") // on one line
	if len(text) > 300 {
		text = text[:300] + " ..."
	}
	return &failure{op, text, err}
}

// rolledBack reports whether err says that the database undid the statement to
// resolve a deadlock or a conflict, so that it may be run again.
func rolledBack(err error) bool {
	var coded interface{ SQLState() string } // pgx and lib/pq
	if errors.As(err, &coded) {
		switch coded.SQLState() {
		case "40001", "40P01": // serialization_failure, deadlock_detected
			return true
		}
		return false
	}
	// go-sql-driver's error has no method for its number.
	text := err.Error()
	return strings.HasPrefix(text, "Error 1213 ") || // ER_LOCK_DEADLOCK
		strings.HasPrefix(text, "Error 1205 ") // ER_LOCK_WAIT_TIMEOUT
}

// pause waits some milliseconds before another try. It reports false if ctx
// ended.
func pause(ctx context.Context, try int) bool {
	timer := time.NewTimer(rand.N(time.Millisecond << min(try, 6)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
