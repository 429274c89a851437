package bff

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/agglestone/bff/internal/seal"
)

// What this file promises: an answer that goes on after its session has ended
// is closed, with the reason, within a second of the end where the store is a
// Watcher or an EndLog, and within a minute elsewhere (D31). A report is a
// hint: besides, each process asks once in less than a second which sessions
// ended, and looks at each session with a stream once a minute and when it is
// known to expire. A store that can't tell closes nothing.

const (
	endedEvery  = 750 * time.Millisecond // so that all is done within a second
	checkEvery  = time.Minute
	checkFailed = 5 * time.Second
	streamLimit = 32     // per session
	streamsMost = 20_000 // per process
)

// streams are the open streams of a BFF, by session.
type streams struct {
	once sync.Once
	wake chan struct{} // holds one: a session is due

	mu       sync.Mutex
	sessions map[string]*watched // by record key
	nobodys  map[*stream]bool    // those that are for no session
	open     int                 // of sessions
	drained  bool
}

// A watched session has open streams.
type watched struct {
	id      seal.ID
	key     string
	streams map[*stream]struct{}
	due     time.Time // when it is to be looked at
	again   bool      // something happened since it was last picked for that
	idle    time.Time // when it idles out, as far as is known
	end     time.Time
}

// A stream is an answer that lasts.
type stream struct {
	key string // not the session: what was decoded of it need not stay in memory
	// tell is called when the session has changed, with what is known of it,
	// and last when the stream is to end, with why. It takes a tenth of a second
	// at most.
	tell func(streamState)

	mu   sync.Mutex
	over bool // and it was told so
}

// say tells x, one thing at a time, and nothing after its end: a look at the
// session may still be under way then.
func (x *stream) say(state streamState) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.over {
		x.over = state.over
		x.tell(state)
	}
}

// A streamState is what a stream is told of its session.
type streamState struct {
	idle, end time.Time // when it ends
	over      bool      // and it is over
	why       *Problem  // nil: the server shuts down
}

// openStream registers a stream, or says why it can't be had. Call close when
// it has ended. One without a session is told of Drain alone, and not counted.
func (b *BFF) openStream(s *Session, tell func(streamState)) (*stream, *Problem) {
	st := &b.streams
	if s == nil {
		st.mu.Lock()
		defer st.mu.Unlock()
		if st.drained {
			return nil, newProblem(ShuttingDown, nil)
		}
		x := &stream{tell: tell}
		st.nobodys[x] = true
		return x, nil
	}
	st.once.Do(func() { b.forever(b.keepStreams) })
	b.watch()
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.drained {
		return nil, newProblem(ShuttingDown, nil)
	}
	w := st.sessions[s.key]
	if st.open >= streamsMost || w != nil && len(w.streams) >= streamLimit { // check:stream-limit
		return nil, newProblem(TooManyStreams, nil)
	}
	if w == nil {
		w = &watched{id: s.id, key: s.key, streams: make(map[*stream]struct{}), idle: s.IdleExpiresAt(), end: s.ExpiresAt()}
		// Not before long: it may have ended since it was admitted.
		w.due = time.Now()
		st.sessions[s.key] = w
		st.nudge()
	}
	x := &stream{key: s.key, tell: tell}
	w.streams[x] = struct{}{}
	st.open++
	return x, nil
}

// closeStream forgets a stream.
func (b *BFF) closeStream(x *stream) {
	st := &b.streams
	st.mu.Lock()
	defer st.mu.Unlock()
	delete(st.nobodys, x)
	w := st.sessions[x.key]
	if w == nil {
		return
	}
	if _, there := w.streams[x]; there {
		delete(w.streams, x)
		st.open--
	}
	if len(w.streams) == 0 {
		delete(st.sessions, x.key)
	}
}

// touched has the session under key looked at, if it has streams.
func (st *streams) touched(key string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if w := st.sessions[key]; w != nil {
		w.due, w.again = time.Now(), true
		st.nudge()
	}
}

// touchedAll has every session with streams looked at.
func (st *streams) touchedAll() {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, w := range st.sessions {
		w.due, w.again = time.Now(), true
	}
	st.nudge()
}

func (st *streams) nudge() {
	select {
	case st.wake <- struct{}{}:
	default: // somebody did
	}
}

// keepStreams looks after the streams until ctx ends.
func (b *BFF) keepStreams(ctx context.Context) {
	tick := time.NewTicker(endedEvery)
	defer tick.Stop()
	var since time.Time
	for {
		select {
		case <-b.streams.wake:
		case <-tick.C:
			since = b.askEnded(ctx, since)
		case <-ctx.Done():
			return
		}
		b.checkStreams(ctx)
	}
}

// askEnded asks the store which sessions ended since, and has those looked at.
// It returns the time to ask from next.
func (b *BFF) askEnded(ctx context.Context, since time.Time) time.Time {
	b.streams.mu.Lock()
	idle := b.streams.open == 0
	b.streams.mu.Unlock()
	if b.caps.endLog == nil || idle {
		return time.Time{} // whoever comes next is looked at when it comes
	}
	ctx, cancel := b.storeContext(ctx)
	defer cancel()
	keys, next, err := b.caps.endLog.Ended(ctx, since)
	if err != nil {
		b.log.LogAttrs(ctx, slog.LevelWarn, "the store can't tell which sessions ended", slog.Any("err", err))
		return since
	}
	if since.IsZero() { // what ended up to next was not asked for
		b.streams.touchedAll()
	}
	for _, key := range keys {
		b.streams.touched(key)
	}
	return next
}

// checkStreams looks at the sessions that are due, many at once. It takes no
// longer than one call of the store may: what it didn't come to is looked at
// later.
func (b *BFF) checkStreams(ctx context.Context) {
	ctx, cancel := b.storeContext(ctx)
	defer cancel()
	now := time.Now()
	var due []*watched
	b.streams.mu.Lock()
	for _, w := range b.streams.sessions {
		if !now.Before(w.due) {
			w.due, w.again = now.Add(checkEvery), false
			due = append(due, w)
		}
	}
	b.streams.mu.Unlock()
	var wg sync.WaitGroup
	next := make(chan *watched)
	for range min(atOnce, len(due)) {
		wg.Go(func() {
			for w := range next {
				b.check(ctx, w)
			}
		})
	}
	for _, w := range due {
		next <- w
	}
	close(next)
	wg.Wait()
}

// check looks at one session and tells its streams.
func (b *BFF) check(ctx context.Context, w *watched) {
	id := w.id
	rec, idle, problem := b.load(ctx, &id, w.key)
	if !b.ring.Load().Opens(&id) { // check:stream-key
		problem = newProblem(NoSession, ErrNoSession)
	}
	now := time.Now()
	st := &b.streams
	st.mu.Lock()
	if st.sessions[w.key] != w { // its streams were closed meanwhile, and others may have taken its place
		st.mu.Unlock()
		return
	}
	state := streamState{idle: w.idle, end: w.end}
	switch {
	case problem == nil:
		w.idle, w.end = idle, rec.head.End
		state.idle, state.end = w.idle, w.end
		last := minTime(w.idle, w.end)
		w.due = minTime(now.Add(checkEvery), last.Add(time.Millisecond))
		if soon := last.Add(-b.expiringNotice()); soon.After(now) {
			w.due = minTime(w.due, soon)
		}
	case problem.Status == http.StatusUnauthorized:
		state.over, state.why = true, problem
		if unmarked := problem.Reason == SessionIdle || problem.Reason == NoSession; unmarked && !now.Before(w.end) {
			// The end that the issuer sets isn't in the cookie.
			state.why = newProblem(SessionExpired, ErrNoSession)
		}
		delete(st.sessions, w.key)
		st.open -= len(w.streams)
	case !now.Before(w.end): // check:stream-lifetime whatever the store would say
		state.over, state.why = true, newProblem(SessionExpired, ErrNoSession)
		delete(st.sessions, w.key)
		st.open -= len(w.streams)
	default:
		w.due = minTime(now.Add(checkFailed), w.end)
	}
	if w.again { // since the record was read, perhaps
		w.due = now
	}
	tell := make([]*stream, 0, len(w.streams))
	for x := range w.streams {
		tell = append(tell, x)
	}
	st.mu.Unlock()
	sayAll(tell, state)
}

// sayAll tells all of xs at the same time: the end of a socket whose upstream
// takes nothing takes a moment.
func sayAll(xs []*stream, state streamState) {
	var wg sync.WaitGroup
	for _, x := range xs {
		wg.Go(func() { x.say(state) })
	}
	wg.Wait()
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// Drain ends the streams that last (WebSockets, events), whether they are for a
// session or for nobody, and lets no new one begin, so that
// [http.Server.Shutdown] need not wait for them: browsers come back to another
// replica. Give it to [http.Server.RegisterOnShutdown]. Close does it, too.
func (b *BFF) Drain() {
	st := &b.streams
	st.mu.Lock()
	st.drained = true
	var all []*stream
	for _, w := range st.sessions {
		for x := range w.streams {
			all = append(all, x)
		}
	}
	for x := range st.nobodys {
		all = append(all, x)
	}
	clear(st.sessions)
	clear(st.nobodys)
	st.open = 0
	st.mu.Unlock()
	sayAll(all, streamState{over: true})
}
