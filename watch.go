package bff

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// A watch ends a proxied request on which nothing moves for too long, whoever
// is to blame. It owns one timer.
type watch struct {
	header, idle time.Duration // not positive: no bound
	deadline     time.Time     // of the whole request; zero: no bound
	cancel       context.CancelCauseFunc
	w            http.ResponseWriter

	mu      sync.Mutex
	timer   *time.Timer // nil: no bound at all, or over
	phase   phase
	reading bool // the browser is to send the next byte
}

type phase int

const (
	sending  phase = iota // the request
	awaiting              // the response header
	passing               // the response
)

var (
	errNoHeader   = errors.New("no response header in time")
	errNotTaken   = errors.New("the upstream doesn't take the request body")
	errNotSent    = errors.New("the browser doesn't send the request body")
	errNoProgress = errors.New("nothing moved for IdleTimeout")
	errTooLong    = errors.New("it took longer than MaxDuration")
)

// start begins to watch. A request without a body is sent at once.
func (w *watch) start(r *http.Request, t *target) {
	w.header, w.idle = t.Timeout, t.IdleTimeout
	if t.MaxDuration > 0 {
		w.deadline = time.Now().Add(t.MaxDuration)
	}
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		w.phase = awaiting
	}
	if w.header > 0 || w.idle > 0 || !w.deadline.IsZero() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.timer = time.AfterFunc(w.patience(), w.expire)
	}
}

// stop ends the watch. The response writer is not touched afterwards.
func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
}

// enter notes that the request has come this far.
func (w *watch) enter(p phase) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p > w.phase {
		w.phase = p
	}
	w.reset()
}

// moved notes that bytes moved.
func (w *watch) moved() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.phase != awaiting {
		w.reset()
	}
}

// reads notes whether the browser is being waited for.
func (w *watch) reads(now bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reading = now
	if w.phase != awaiting {
		w.reset()
	}
}

func (w *watch) reset() {
	if w.timer != nil {
		w.timer.Reset(w.patience())
	}
}

// patience is how long the present phase may go on without a change.
func (w *watch) patience() time.Duration {
	d := w.idle
	if w.phase == awaiting {
		d = w.header
	}
	if d <= 0 {
		d = 1<<63 - 1
	}
	if !w.deadline.IsZero() {
		d = min(d, time.Until(w.deadline))
	}
	return d
}

// expire ends the request, and says who was to blame.
func (w *watch) expire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer == nil {
		return
	}
	p := newProblem(UpstreamTimeout, errNoHeader)
	switch {
	case !w.deadline.IsZero() && !time.Now().Before(w.deadline):
		p.Err = errTooLong
	case w.phase == sending && w.reading:
		p = newProblem(RequestTimeout, errNotSent)
	case w.phase == sending:
		p.Err = errNotTaken
	case w.phase == passing:
		p.Err = errNoProgress
	}
	w.end(p)
}

// end ends the request: with p if there is no answer yet, else by breaking it
// off. To cancel its context is not enough: net/http waits for a read of the
// browser's body, or a write to it, without a bound. w.mu is held.
func (w *watch) end(p *Problem) {
	w.cancel(p)
	conn, now := http.NewResponseController(w.w), time.Now()
	if w.reading {
		conn.SetReadDeadline(now) // no matter if the server can't
	}
	if w.phase == passing {
		conn.SetWriteDeadline(now)
	}
}

// A requestBody tells the watch how the browser's body goes.
type requestBody struct {
	io.ReadCloser
	w *watch
}

func (b *requestBody) Read(p []byte) (int, error) {
	b.w.reads(true)
	n, err := b.ReadCloser.Read(p)
	b.w.reads(false)
	if err == io.EOF {
		b.w.enter(awaiting)
	}
	return n, err
}

// A responseBody tells the watch how the upstream's body goes, and cleans the
// trailers once they have been read.
type responseBody struct {
	io.ReadCloser
	f   *forwarded
	res *http.Response
}

func (b *responseBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.f.watch.moved()
	if err != nil && len(b.res.Trailer) > 0 {
		b.f.cleanTrailer(b.res.Trailer)
	}
	return n, err
}

// A tunnel is the body of an answer that switched protocols: the connection.
type tunnel struct {
	io.ReadWriteCloser
	w *watch
}

func (t *tunnel) Read(p []byte) (int, error) {
	n, err := t.ReadWriteCloser.Read(p)
	t.w.moved()
	return n, err
}

func (t *tunnel) Write(p []byte) (int, error) {
	n, err := t.ReadWriteCloser.Write(p)
	t.w.moved()
	return n, err
}

// CloseWrite passes on that one side has said all.
func (t *tunnel) CloseWrite() error {
	if c, ok := t.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return t.Close()
}
