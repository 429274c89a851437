package bff

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// What this file promises: a WebSocket or an event stream that Proxy carries
// ends with its session, on whatever replica that ends, as streams.go says. A
// browser that doesn't read is cut off some seconds later.

// bind ties an answer that lasts to the session that it is for, if to any, and
// to the process: one that switched to WebSocket is closed with code 4401 and
// the reason, or 1001 at shutdown, an event stream ends.
func (f *forwarded) bind(res *http.Response) *Problem {
	var end func(streamState)
	var closed func(func()) // wraps res.Body, to call back when it is closed
	switch {
	case res.StatusCode == http.StatusSwitchingProtocols:
		rw, ok := res.Body.(io.ReadWriteCloser)
		if !ok {
			return newProblem(BadGateway, errors.New("the upstream's connection can't be written to"))
		}
		s := newSocket(rw)
		end = func(st streamState) {
			f.watch.cut(2 * closeGrace)
			if st.why == nil {
				s.end(closeGoingAway, "reconnect")
				return
			}
			s.end(closeSessionEnded, string(st.why.Reason))
		}
		closed = func(call func()) {
			bound := &boundSocket{s, onClose{f: call}}
			res.Body, f.switched = bound, bound
		}
	case isEventStream(res):
		s := &eventStream{ReadCloser: res.Body}
		end = func(streamState) {
			s.ended.Store(true)
			f.watch.cut(closeGrace)
			f.watch.cancel(nil) // ends a Read that waits
		}
		closed = func(call func()) { s.onClose.f = call; res.Body = s }
	default:
		return nil
	}
	x, problem := f.b.openStream(f.s, func(st streamState) {
		if st.over {
			end(st)
		}
	})
	if problem != nil {
		return problem
	}
	var timer *time.Timer
	if f.t.EndStreamsWithToken && !f.given.IsZero() {
		over := streamState{over: true, why: newProblem(TokenUnavailable, nil)}
		timer = time.AfterFunc(time.Until(f.s.record().head.AccessExpiry), func() { end(over) })
	}
	closed(func() {
		if timer != nil {
			timer.Stop()
		}
		f.b.closeStream(x)
	})
	return nil
}

func isEventStream(res *http.Response) bool {
	kind, _, _ := strings.Cut(res.Header.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(kind), "text/event-stream")
}

// onClose calls a function once.
type onClose struct {
	once sync.Once
	f    func()
}

func (c *onClose) call() { c.once.Do(c.f) }

// A boundSocket is a socket that says when it is closed.
type boundSocket struct {
	*socket
	onClose onClose
}

func (s *boundSocket) Close() error {
	defer s.onClose.call()
	return s.socket.Close()
}

// CloseWrite passes on that the browser has said all.
func (s *boundSocket) CloseWrite() error {
	if c, ok := s.socket.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return s.socket.ReadWriteCloser.Close()
}

// An eventStream is the body of an event stream that can be ended from here, as
// if the upstream had said all.
type eventStream struct {
	io.ReadCloser
	onClose onClose
	ended   atomic.Bool
}

func (s *eventStream) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	if s.ended.Load() {
		return 0, io.EOF // the rest of an event that has begun is dropped
	}
	return n, err
}

func (s *eventStream) Close() error {
	defer s.onClose.call()
	return s.ReadCloser.Close()
}
