package issuer

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	maxAge      = time.Hour        // older values are fetched again in the background
	minInterval = 10 * time.Second // between two fetches that callers insist on
	firstPause  = time.Second      // after a failed fetch, doubling …
	maxPause    = 30 * time.Second // … up to this
)

var errRecent = errors.New("asked a moment ago")

// A published value is something the issuer publishes: its metadata, its keys.
// It is fetched when first needed, once for all who wait, and on nobody's
// context, so that no caller's cancellation fails another. The last good value
// is kept for ever.
type published[T any] struct {
	owner *Client
	op    string
	fetch func(context.Context) (*T, *Error)

	mu       sync.Mutex
	value    *T
	began    time.Time // the fetch of value
	current  *flight[T]
	failure  *Error // of the last fetch, nil if it went well
	failures int
	retry    time.Time // after a failure no fetch begins before
	renewed  time.Time // the last fetch that somebody insisted on
}

type flight[T any] struct {
	done  chan struct{}
	value *T
	err   *Error
}

// known returns the last good value or nil.
func (p *published[T]) known() *T {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.value
}

// get returns the value. One that is too old is fetched again, but the caller
// doesn't wait for that.
func (p *published[T]) get(ctx context.Context) (*T, *Error) {
	p.mu.Lock()
	if p.value != nil {
		defer p.mu.Unlock()
		if time.Since(p.began) > maxAge {
			p.begin()
		}
		return p.value, nil
	}
	f, _, err := p.begin()
	p.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return p.wait(ctx, f)
}

// renew fetches the value again, but not too often. It reports whether the
// fetch began after the call.
func (p *published[T]) renew(ctx context.Context) (value *T, fresh bool, err *Error) {
	p.mu.Lock()
	if p.current == nil && time.Since(p.renewed) < minInterval { // check:refetch-interval
		p.mu.Unlock()
		return nil, false, &Error{Op: p.op, Kind: Unreachable, Err: errRecent}
	}
	f, fresh, err := p.begin()
	if fresh {
		p.renewed = time.Now()
	}
	p.mu.Unlock()
	if err != nil {
		return nil, false, err
	}
	value, err = p.wait(ctx, f)
	return value, fresh, err
}

func (p *published[T]) wait(ctx context.Context, f *flight[T]) (*T, *Error) {
	select {
	case <-f.done:
	case <-ctx.Done():
		return nil, &Error{Op: p.op, Kind: Unreachable, Err: ctx.Err()}
	}
	return f.value, f.err
}

// begin joins the fetch under way or begins one, and reports which. p is locked.
func (p *published[T]) begin() (f *flight[T], began bool, err *Error) {
	if p.current != nil {
		return p.current, false, nil
	}
	now := time.Now()
	if p.failure != nil && now.Before(p.retry) { // check:fetch-pause
		return nil, false, p.failure
	}
	f = &flight[T]{done: make(chan struct{})}
	if !p.owner.background(func(ctx context.Context) { p.fly(ctx, f, now) }) {
		return nil, false, &Error{Op: p.op, Kind: Unreachable, Err: errClosed}
	}
	p.current = f
	return f, true, nil
}

func (p *published[T]) fly(ctx context.Context, f *flight[T], began time.Time) {
	f.value, f.err = p.fetch(ctx)
	if f.err != nil && p.known() != nil {
		p.owner.log.LogAttrs(ctx, slog.LevelWarn, "what the issuer publishes could not be fetched again: the last good answer stays",
			slog.String("issuer", p.owner.cfg.Issuer), slog.String("op", p.op), slog.Any("err", f.err))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	defer close(f.done)
	p.current, p.failure = nil, f.err
	if f.err == nil {
		p.value, p.began, p.failures = f.value, began, 0
		return
	}
	pause := min(firstPause<<min(p.failures, 5), maxPause)
	p.failures++
	if p.value != nil {
		pause = max(pause, minInterval)
	}
	// Jitter, so that a fleet doesn't come back in step.
	p.retry = time.Now().Add(pause - rand.N(pause/4))
}
