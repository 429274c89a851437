package bff

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"
)

// An EventKind says what happened.
type EventKind string

// The kinds of events, with the level at which each is logged: the message is
// the kind, with spaces.
const (
	SignedIn           EventKind = "signed_in"           // Info
	SignInRefused      EventKind = "sign_in_refused"     // Info
	LoginLoopStopped   EventKind = "login_loop_stopped"  // Warn
	Refreshed          EventKind = "refreshed"           // Debug
	RefreshFailed      EventKind = "refresh_failed"      // Warn
	SessionEnded       EventKind = "session_ended"       // Info
	CSRFRefused        EventKind = "csrf_refused"        // Warn
	BackchannelLogout  EventKind = "backchannel_logout"  // Info
	BackchannelRefused EventKind = "backchannel_refused" // Warn
	KeysChanged        EventKind = "keys_changed"        // Info
)

var eventLevels = map[EventKind]slog.Level{
	Refreshed:          slog.LevelDebug,
	LoginLoopStopped:   slog.LevelWarn,
	RefreshFailed:      slog.LevelWarn,
	CSRFRefused:        slog.LevelWarn,
	BackchannelRefused: slog.LevelWarn,
}

// An Actor is who ended a session.
type Actor string

// The actors.
const (
	ByUser        Actor = "user"        // signed out, or in again, here or from another device
	ByIssuer      Actor = "issuer"      // a logout token, or a refresh that was refused
	ByApplication Actor = "application" // a method of BFF, or Config.OnLogin
	BySystem      Actor = "system"      // a limit that Config sets
)

// An Event is something that an audit trail wants to know (ASVS 16.3). It holds
// no secret.
type Event struct {
	Kind    EventKind
	Time    time.Time
	Issuer  string
	Subject string // empty if it isn't known
	Session string // the session's handle, as in [SessionInfo]; empty if there is none
	Reason  Reason // why it was refused, or ended
	By      Actor  // who ended it

	// Count is how many like it this event stands for: refusals that anybody
	// can cause, without a valid cookie, are reported at most once a second for
	// each kind and reason. Then the rest of the event is the last one's.
	Count int

	Request *RequestInfo // nil: no request caused it
	Err     error        // the cause, as in [Problem]; often nil
}

// RequestInfo is what an event tells of the request behind it.
type RequestInfo struct {
	ID         string // the request_id of the refusal, if it was refused
	Method     string
	Path       string
	RemoteAddr string // of the connection: a proxy's, where one is in front
	UserAgent  string // at most 256 bytes
}

// emit reports an event: to the log, and to Config.OnEvent, at once and always.
// A time-out is no event: nobody is there to see it happen.
func (b *BFF) emit(ctx context.Context, r *http.Request, e Event) {
	e.Time, e.Issuer = time.Now(), b.cfg.Issuer
	if e.Count == 0 {
		e.Count = 1
	}
	if r != nil && e.Request == nil {
		e.Request = requestInfo(r)
	}
	attrs := []slog.Attr{slog.String("issuer", e.Issuer)}
	add := func(name, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(name, value))
		}
	}
	add("subject", e.Subject)
	add("session", e.Session)
	add("reason", string(e.Reason))
	add("by", string(e.By))
	if e.Count > 1 {
		attrs = append(attrs, slog.Int("count", e.Count))
	}
	if e.Request != nil {
		add("request_id", e.Request.ID)
		add("remote_addr", e.Request.RemoteAddr)
	}
	if e.Err != nil {
		add("err", e.Err.Error())
	}
	b.log.LogAttrs(ctx, eventLevels[e.Kind], strings.ReplaceAll(string(e.Kind), "_", " "), attrs...)
	if b.cfg.OnEvent != nil {
		b.call(ctx, "OnEvent", func() error { b.cfg.OnEvent(ctx, e); return nil })
	}
}

func requestInfo(r *http.Request) *RequestInfo {
	agent := r.UserAgent()
	return &RequestInfo{Method: r.Method, Path: r.URL.Path, RemoteAddr: r.RemoteAddr, UserAgent: agent[:min(len(agent), 256)]}
}

// A throttle reports events of one sort that strangers can cause: the first at
// once, and then at most one a second, with their number.
type throttle struct {
	mu    sync.Mutex
	last  time.Time // when one was reported
	held  *Event    // the last one since
	timer *time.Timer
}

// An eventSort tells what is counted apart: of the few there are, a flood of one must
// not hide another.
type eventSort struct {
	kind   EventKind
	reason Reason
}

// tally is the throttles of a BFF.
type tally struct {
	mu     sync.Mutex
	bySort map[eventSort]*throttle
}

func (t *tally) of(s eventSort) *throttle {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.bySort == nil {
		t.bySort = make(map[eventSort]*throttle)
	}
	if t.bySort[s] == nil {
		t.bySort[s] = &throttle{}
	}
	return t.bySort[s]
}

// emitCounted reports an event that a stranger can cause.
func (b *BFF) emitCounted(r *http.Request, e Event) {
	th := b.tally.of(eventSort{e.Kind, e.Reason})
	e.Request, e.Count = requestInfo(r), 1
	th.mu.Lock()
	// After Close nobody waits for a timer.
	if wait := time.Until(th.last.Add(time.Second)); wait > 0 && b.quit.Err() == nil {
		if th.held != nil {
			e.Count = th.held.Count + 1
		} else {
			// Close waits for what has begun, and reports what has not itself.
			th.timer = time.AfterFunc(wait, func() { b.background(context.Background(), func(context.Context) { b.flush(th) }) })
		}
		th.held = &e
		th.mu.Unlock()
		return
	}
	th.last = time.Now()
	th.mu.Unlock()
	b.emit(r.Context(), nil, e)
}

// flush reports what th holds.
func (b *BFF) flush(th *throttle) {
	th.mu.Lock()
	e := th.held
	th.held = nil
	if e != nil {
		th.last = time.Now()
	}
	if th.timer != nil {
		th.timer.Stop()
	}
	th.mu.Unlock()
	if e != nil {
		b.emit(context.Background(), nil, *e)
	}
}

// flushAll reports everything that is held. Close calls it.
func (b *BFF) flushAll() {
	b.tally.mu.Lock()
	all := make([]*throttle, 0, len(b.tally.bySort))
	for _, th := range b.tally.bySort {
		all = append(all, th)
	}
	b.tally.mu.Unlock()
	for _, th := range all {
		b.flush(th)
	}
}
