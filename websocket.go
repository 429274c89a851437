package bff

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"time"
)

// closeSessionEnded is the WebSocket close code that says that the session has
// ended, of the range for private use (RFC 6455, section 7.4.2); its reason is
// ours. closeGoingAway is the one for a server that shuts down (section 7.4.1).
const (
	closeSessionEnded = 4401
	closeGoingAway    = 1001
)

// closeGrace is how long a browser has to answer our close frame.
const closeGrace = 2 * time.Second

// A socket is the upstream's side of a WebSocket that is being proxied. It can
// be closed from here with a code and a reason: between two frames of the
// upstream, as far as it has sent whole ones, a close frame of ours goes to the
// browser (RFC 6455, section 5.5.1), and nothing more to the upstream.
type socket struct {
	io.ReadWriteCloser
	down frameReader // what the upstream sends; used by Read alone
	up   frameReader // what the browser sends; used by Write alone

	mu      sync.Mutex
	closing []byte // our close frame, once it is decided
	sent    bool
	answer  chan struct{} // closed when the browser has closed
	shut    sync.Once
}

var errSocketClosed = errors.New("the session ended")

func newSocket(upstream io.ReadWriteCloser) *socket {
	return &socket{ReadWriteCloser: upstream, answer: make(chan struct{})}
}

// end closes the socket with a code and a reason of at most 123 bytes. It
// returns at once, or in a tenth of a second where TLS can't say so.
func (s *socket) end(code uint16, reason string) {
	s.mu.Lock()
	if s.closing == nil {
		frame := append([]byte{0x88, byte(2 + len(reason))}, byte(code>>8), byte(code))
		s.closing = append(frame, reason...)
	}
	s.mu.Unlock()
	s.ReadWriteCloser.Close() // ends a Read that waits for the upstream
}

// Read reads what goes to the browser.
func (s *socket) Read(p []byte) (int, error) {
	if n, err, ended := s.farewell(p); ended {
		return n, err
	}
	n, err := s.ReadWriteCloser.Read(p)
	s.down.pass(p[:n])
	if n > 0 || err == nil {
		return n, nil // an error comes again
	}
	if n, err, ended := s.farewell(p); ended {
		return n, err
	}
	return n, err
}

// farewell reads our close frame, if there is one, and then an error, when the
// browser has answered or had time to.
func (s *socket) farewell(p []byte) (n int, err error, ended bool) {
	s.mu.Lock()
	frame, sent := s.closing, s.sent
	if frame == nil {
		s.mu.Unlock()
		return 0, nil, false
	}
	if !sent && s.down.between() && !s.down.closed && len(p) >= len(frame) {
		s.sent = true
		s.mu.Unlock()
		return copy(p, frame), nil, true
	}
	s.mu.Unlock()
	if sent {
		select {
		case <-s.answer:
		case <-time.After(closeGrace):
		}
	}
	// An error, and not io.EOF: the other direction must not be waited for.
	return 0, errSocketClosed, true
}

// Write takes what comes from the browser. Once the socket is closing, that
// goes nowhere.
func (s *socket) Write(p []byte) (int, error) {
	if s.up.pass(p); s.up.closed {
		s.shut.Do(func() { close(s.answer) })
	}
	s.mu.Lock()
	closing := s.closing != nil
	s.mu.Unlock()
	if !closing {
		n, err := s.ReadWriteCloser.Write(p)
		s.mu.Lock()
		closing = s.closing != nil
		s.mu.Unlock()
		if !closing {
			return n, err
		}
	}
	return len(p), nil
}

// A frameReader follows the frames in a stream (RFC 6455, section 5.2), to tell
// whether one has begun that isn't complete.
type frameReader struct {
	header []byte // of the frame that has begun, as far as it is there
	left   uint64 // bytes of its payload that are to come
	closed bool   // a close frame has begun, or passed
	broken bool   // this isn't WebSocket
}

// between reports whether the last frame is complete.
func (f *frameReader) between() bool { return len(f.header) == 0 && f.left == 0 && !f.broken }

// pass follows the next bytes of the stream.
func (f *frameReader) pass(p []byte) {
	for len(p) > 0 && !f.broken {
		if f.left > 0 {
			n := min(f.left, uint64(len(p)))
			f.left -= n
			p = p[n:]
			continue
		}
		f.header = append(f.header, p[0])
		p = p[1:]
		size, length, ok := frameHeader(f.header)
		if !ok {
			f.broken = true
		}
		if size > 0 {
			f.closed = f.closed || f.header[0]&0x0f == 8
			f.header, f.left = f.header[:0], length
		}
	}
}

// frameHeader reads a frame's header. size is 0 as long as it isn't complete.
func frameHeader(h []byte) (size int, length uint64, ok bool) {
	if len(h) < 2 {
		return 0, 0, true
	}
	size, length = 2, uint64(h[1]&0x7f)
	switch length {
	case 126:
		size = 4
	case 127:
		size = 10
	}
	mask := 0
	if h[1]&0x80 != 0 {
		mask = 4
	}
	if len(h) < size+mask {
		return 0, 0, true
	}
	switch size {
	case 4:
		length = uint64(binary.BigEndian.Uint16(h[2:]))
	case 10:
		length = binary.BigEndian.Uint64(h[2:])
		if length>>63 != 0 {
			return 0, 0, false
		}
	}
	return size + mask, length, true
}
