package bff

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// watchTick is how often all of a proxy's requests are looked at. A request may
// last two ticks longer than its bounds say.
const watchTick = 100 * time.Millisecond

// watches are the requests that are under way at one proxy. One timer serves
// them all: one for each request would cost a twentieth of what a request costs
// altogether. It is armed while there are requests, and for a second after.
type watches struct {
	clock atomic.Int64 // as of the last tick, since base

	mu    sync.Mutex
	base  time.Time
	timer *time.Timer
	first *watch
	quiet int // ticks without a request; the timer is not armed after quietTicks
}

const quietTicks = 10

// A watch ends a proxied request on which nothing moves for too long, whoever
// is to blame.
type watch struct {
	all          *watches
	header, idle time.Duration // not positive: no bound
	deadline     int64         // of the whole request, by the clock
	cancel       context.CancelCauseFunc
	w            http.ResponseWriter

	due     atomic.Int64 // when it has been too long, by the clock
	phase   atomic.Int32
	reading atomic.Bool // the browser is to send the next byte

	mu         sync.Mutex // held while the response writer is used, and to change phase
	over       bool
	prev, next *watch // under all.mu
}

const (
	sending  = iota // the request
	awaiting        // the response header
	passing         // the response
)

var (
	errNoHeader   = errors.New("no response header in time")
	errNotTaken   = errors.New("the upstream doesn't take the request body")
	errNotSent    = errors.New("the browser doesn't send the request body")
	errNoProgress = errors.New("nothing moved for IdleTimeout")
	errTooLong    = errors.New("it took longer than MaxDuration")
)

// start begins to watch a request. One without a body is sent at once.
func (all *watches) start(w *watch, r *http.Request, t *target) {
	w.all, w.header, w.idle = all, t.Timeout, t.IdleTimeout
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		w.phase.Store(awaiting)
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.timer == nil {
		all.base = time.Now()
		all.timer = time.AfterFunc(watchTick, all.tick)
	} else if all.quiet > quietTicks {
		all.clock.Store(int64(time.Since(all.base)))
		all.timer.Reset(watchTick)
	}
	all.quiet = 0
	if w.next = all.first; w.next != nil {
		w.next.prev = w
	}
	all.first = w
	w.deadline = all.in(t.MaxDuration)
	w.renew()
}

// in returns the time by the clock, which may be a tick behind, by which d has
// passed, or that it never does.
func (all *watches) in(d time.Duration) int64 {
	if d <= 0 || d > math.MaxInt64/2 {
		return math.MaxInt64
	}
	return all.clock.Load() + int64(d+watchTick)
}

// stop ends the watch. The response writer is not touched afterwards.
func (w *watch) stop() {
	w.all.mu.Lock()
	if w.next != nil {
		w.next.prev = w.prev
	}
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		w.all.first = w.next
	}
	w.all.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
}

// tick looks at all requests.
func (all *watches) tick() {
	all.mu.Lock()
	now := int64(time.Since(all.base))
	all.clock.Store(now)
	var late []*watch
	for w := all.first; w != nil; w = w.next {
		if w.due.Load() < now {
			late = append(late, w)
		}
	}
	if all.first == nil {
		all.quiet++
	}
	if all.quiet <= quietTicks {
		all.timer.Reset(watchTick)
	}
	all.mu.Unlock()
	for _, w := range late {
		w.expire(now)
	}
}

// enter notes that the request has come this far.
func (w *watch) enter(phase int32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if phase > w.phase.Load() {
		w.phase.Store(phase)
	}
	w.renew()
}

// moved notes that bytes moved.
func (w *watch) moved() {
	if w.phase.Load() != awaiting {
		w.renew()
	}
}

// renew sets how long the present phase may go on without a change.
func (w *watch) renew() {
	d := w.idle
	if w.phase.Load() == awaiting {
		d = w.header
	}
	w.due.Store(min(w.all.in(d), w.deadline))
}

// expire ends the request, and says who was to blame.
func (w *watch) expire(now int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over || w.due.Load() >= now {
		return
	}
	p := newProblem(UpstreamTimeout, errNoHeader)
	switch phase := w.phase.Load(); {
	case w.deadline < now:
		p.Err = errTooLong
	case phase == sending && w.reading.Load():
		p = newProblem(RequestTimeout, errNotSent)
	case phase == sending:
		p.Err = errNotTaken
	case phase == passing:
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
	if w.reading.Load() {
		conn.SetReadDeadline(now) // no matter if the server can't
	}
	if w.phase.Load() == passing {
		conn.SetWriteDeadline(now)
	}
}

// cut bounds what is still written to the browser: one that doesn't read holds
// up the end of its request otherwise.
func (w *watch) cut(after time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		http.NewResponseController(w.w).SetWriteDeadline(time.Now().Add(after))
	}
}

// A requestBody tells the watch how the browser's body goes.
type requestBody struct {
	io.ReadCloser
	w *watch
}

func (b *requestBody) Read(p []byte) (int, error) {
	b.w.moved()
	b.w.reading.Store(true)
	n, err := b.ReadCloser.Read(p)
	b.w.reading.Store(false)
	b.w.moved()
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
