package bff

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"
)

const (
	keepAlive     = 20 * time.Second // between two comments: proxies cut what is silent
	writeDeadline = 10 * time.Second // for one event: a browser that doesn't read is gone
)

// serveEvents answers GET /auth/events with server-sent events about the
// session: expiring, when it is about to end; extended, when it isn't any more;
// ended, with the reason. It does not extend the session, and ends with it. A
// browser that is told to reconnect, since the server shuts down, does so by
// itself.
func (b *BFF) serveEvents(w http.ResponseWriter, r *http.Request) {
	s, ok := b.own(w, r)
	if !ok {
		return
	}
	states := make(chan streamState, 1)
	x, problem := b.openStream(s, func(state streamState) {
		select { // the newest counts
		case <-states:
		default:
		}
		states <- state
	})
	if problem != nil {
		b.refuse(w, r, problem)
		return
	}
	defer b.closeStream(x)
	setPrivate(w.Header())
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	out := &eventWriter{w: w, conn: http.NewResponseController(w)}
	out.comment()

	told := false // that it is expiring
	last := minTime(s.IdleExpiresAt(), s.ExpiresAt())
	tick := time.NewTicker(keepAlive)
	defer tick.Stop()
	for out.err == nil {
		select {
		case state := <-states:
			switch {
			case state.over && state.why == nil:
				// Not all at the same moment, on the replicas that are left.
				out.reconnect(time.Second + rand.N(4*time.Second))
				return
			case state.over:
				out.event("ended", map[string]any{"reason": state.why.Reason, "loginUrl": b.paths.Login})
				return
			}
			now, was := time.Now(), last
			last = minTime(state.idle, state.end)
			switch soon := last.Sub(now) <= b.expiringNotice(); {
			case soon && !told:
				why := SessionIdle
				if !state.end.After(state.idle) {
					why = SessionExpired
				}
				out.event("expiring", map[string]any{"at": seconds(last), "reason": why})
			case !soon && told || !told && last.After(was):
				out.event("extended", map[string]any{"idleExpiresAt": seconds(state.idle), "expiresAt": seconds(state.end)})
			}
			told = last.Sub(now) <= b.expiringNotice()
		case <-tick.C:
			out.comment()
		case <-r.Context().Done():
			return
		}
	}
}

// seconds is how times are shown to browsers.
func seconds(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

// expiringNotice is how long before its end a session is said to be expiring.
func (b *BFF) expiringNotice() time.Duration { return min(5*time.Minute, b.cfg.IdleTimeout/4) }

// An eventWriter writes server-sent events until one fails.
type eventWriter struct {
	w    http.ResponseWriter
	conn *http.ResponseController
	err  error
}

func (e *eventWriter) event(name string, data any) {
	text, err := json.Marshal(data)
	if err != nil {
		e.err = err
		return
	}
	e.write(fmt.Sprintf("event: %s\ndata: %s\n\n", name, text))
}

func (e *eventWriter) comment() { e.write(":\n\n") }

func (e *eventWriter) reconnect(after time.Duration) {
	e.write(fmt.Sprintf("retry: %d\nevent: reconnect\ndata: {}\n\n", after.Milliseconds()))
}

func (e *eventWriter) write(text string) {
	if e.err != nil {
		return
	}
	e.conn.SetWriteDeadline(time.Now().Add(writeDeadline)) // a server that can't has none
	if _, e.err = e.w.Write([]byte(text)); e.err == nil {
		e.err = e.conn.Flush()
	}
}
