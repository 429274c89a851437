package bff_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff"
)

// wsFrame makes a frame (RFC 6455, section 5.2) with its length in 1, 3 or 9
// bytes, masked if it comes from a browser. Its payload is made of bytes that
// look like the start of a close frame.
func wsFrame(opcode byte, size, lengthBytes int, masked bool) []byte {
	frame := []byte{0x80 | opcode}
	mask := byte(0)
	if masked {
		mask = 0x80
	}
	switch lengthBytes {
	case 1:
		frame = append(frame, mask|byte(size))
	case 3:
		frame = binary.BigEndian.AppendUint16(append(frame, mask|126), uint16(size))
	case 9:
		frame = binary.BigEndian.AppendUint64(append(frame, mask|127), uint64(size))
	}
	if masked {
		frame = append(frame, 1, 2, 3, 4)
	}
	return append(frame, bytes.Repeat([]byte{0x88}, size)...)
}

// A frame is known to be complete when its last byte has passed, and not before,
// however the stream is cut; a close frame when its header has.
func TestFrames(t *testing.T) {
	for name, frames := range map[string][][]byte{
		"empty":       {wsFrame(1, 0, 1, false), wsFrame(9, 0, 1, true)},
		"small":       {wsFrame(1, 1, 1, false), wsFrame(2, 125, 1, false), wsFrame(2, 125, 1, true)},
		"16-bit":      {wsFrame(2, 126, 3, false), wsFrame(2, 300, 3, true), wsFrame(2, 65535, 3, false)},
		"64-bit":      {wsFrame(2, 65536, 9, false), wsFrame(2, 65537, 9, true)},
		"not minimal": {wsFrame(1, 5, 3, false), wsFrame(1, 5, 9, true), wsFrame(1, 0, 9, false)},
		"fragments":   {{0x01, 3, 'a', 'b', 'c'}, wsFrame(9, 4, 1, false), {0x00, 2, 'd', 'e'}, {0x80, 1, 'f'}},
		"extension":   {{0xf2, 1, 'x'}},
		"close":       {wsFrame(1, 2, 1, true), wsFrame(8, 2, 1, true)},
	} {
		t.Run(name, func(t *testing.T) {
			stream := slices.Concat(frames...)
			ends := map[int]bool{0: true}
			closes, n := len(stream)+1, 0
			for _, f := range frames {
				if f[0]&0x0f == 8 {
					closes = n + len(f) - 2 // its payload
				}
				n += len(f)
				ends[n] = true
			}
			cuts := []int{1, 2, 3, 7, 4096, len(stream)}
			for _, size := range cuts {
				var f bff.FrameReader
				for at := 0; at < len(stream); {
					if f.Between() != ends[at] || f.Closed() != (at >= closes) {
						t.Fatalf("in pieces of %d, after %d bytes of %d: between frames is %v, closed %v", size, at, len(stream), f.Between(), f.Closed())
					}
					next := min(at+size, len(stream))
					f.Pass(stream[at:next])
					at = next
				}
				if !f.Between() {
					t.Errorf("in pieces of %d: not between frames at the end", size)
				}
			}
		})
	}
	// A length of 2^63 and more does not exist: what follows is no WebSocket.
	var f bff.FrameReader
	f.Pass([]byte{0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0})
	f.Pass(make([]byte, 100))
	if f.Between() || f.Held() > 14 {
		t.Errorf("after nonsense: between frames is %v, %d bytes are held", f.Between(), f.Held())
	}
	// The greatest that does is not a number below zero.
	f = bff.FrameReader{}
	f.Pass([]byte{0x82, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Pass(make([]byte, 1<<16))
	if f.Between() {
		t.Error("the largest frame is over after 64 KB")
	}
}

// frameEnds returns where the frames of a stream end, by a parser of another
// make, and whether a close frame's header is among them.
func frameEnds(stream []byte) (ends map[int]bool, closed, broken bool) {
	ends = map[int]bool{0: true}
	for at := 0; ; ends[at] = true {
		r := bytes.NewReader(stream[at:])
		var head [2]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return ends, closed, false
		}
		length := uint64(head[1] & 0x7f)
		var short uint16
		var err error
		switch length {
		case 126:
			err = binary.Read(r, binary.BigEndian, &short)
			length = uint64(short)
		case 127:
			err = binary.Read(r, binary.BigEndian, &length)
		}
		if err != nil {
			return ends, closed, false
		}
		if head[1]&0x80 != 0 {
			if _, err := io.CopyN(io.Discard, r, 4); err != nil {
				return ends, closed, false
			}
		}
		if length >= 1<<63 {
			return ends, closed, true
		}
		closed = closed || head[0]&0x0f == 8
		if length > uint64(r.Len()) {
			return ends, closed, false
		}
		at = len(stream) - r.Len() + int(length)
	}
}

// Whatever an upstream sends, however it is cut: nothing panics, nothing is kept
// but a header, and frames end where they end.
func FuzzFrames(f *testing.F) {
	for _, seed := range [][]byte{
		nil, {0x81}, {0x88, 0x80, 0, 0, 0, 0}, {0x82, 127, 0xff, 0, 0, 0, 0, 0, 0, 0}, {0x82, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 9, 9, 9},
		wsFrame(1, 5, 1, false), wsFrame(2, 200, 3, true), wsFrame(2, 200, 9, true), slices.Concat(wsFrame(1, 0, 1, false), wsFrame(8, 2, 1, false)),
	} {
		f.Add(seed, uint64(1))
	}
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 0))
		ends, closed, broken := frameEnds(stream)
		var r bff.FrameReader
		for at := 0; at < len(stream); {
			n := 1 + rng.IntN(min(20, len(stream)-at))
			r.Pass(stream[at : at+n])
			at += n
			if r.Between() != ends[at] && !broken {
				t.Fatalf("after %d bytes of %x: between frames is %v", at, stream, r.Between())
			}
			if r.Between() && !ends[at] || r.Held() > 14 {
				t.Fatalf("after %d bytes of %x: between frames is %v, %d bytes are held", at, stream, r.Between(), r.Held())
			}
		}
		if r.Closed() != closed {
			t.Errorf("%x: closed is %v", stream, r.Closed())
		}
	})
}

// An upstreamEnd is the upstream's side of a WebSocket.
type upstreamEnd struct {
	io.Reader
	pipe *io.PipeReader

	mu     sync.Mutex
	got    bytes.Buffer
	stuck  chan struct{} // not nil: writes wait until it is closed
	closed bool
}

var errBroken = errors.New("connection reset")

func (u *upstreamEnd) Write(p []byte) (int, error) {
	u.mu.Lock()
	stuck := u.stuck
	u.mu.Unlock()
	if stuck != nil {
		<-stuck
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return 0, errBroken
	}
	return u.got.Write(p)
}

func (u *upstreamEnd) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	return u.pipe.CloseWithError(errBroken)
}

func (u *upstreamEnd) received() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.got.String()
}

// A tube is a socket whose both ends are the test's.
type tube struct {
	*bff.Socket
	up   *upstreamEnd
	send *io.PipeWriter // as the upstream

	mu      sync.Mutex
	browser bytes.Buffer // what it got
	err     error        // why there is no more
	over    time.Duration
}

func newTube() *tube {
	r, w := io.Pipe()
	up := &upstreamEnd{Reader: r, pipe: r}
	tb := &tube{Socket: bff.NewSocket(up), up: up, send: w}
	start := time.Now()
	go func() { // as ReverseProxy does
		buf := make([]byte, 32<<10)
		for {
			n, err := tb.Read(buf)
			tb.mu.Lock()
			tb.browser.Write(buf[:n])
			tb.err, tb.over = err, time.Since(start)
			tb.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return tb
}

// state returns what the browser got, and why and when that ended.
func (tb *tube) state() (got string, over time.Duration, err error) {
	synctest.Wait()
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return tb.browser.String(), tb.over, tb.err
}

const (
	helloFrame  = "\x81\x05hello"
	closeFrame  = "\x88\x0c\x11\x31signed_out" // 4401
	answerFrame = "\x88\x8c\x00\x00\x00\x00\x11\x31signed_out"
)

// A socket is closed with a frame of ours between two frames, or with none in
// the middle of one. The browser has two seconds to answer, and nothing that it
// sends reaches the upstream.
func TestSocketEnds(t *testing.T) {
	for name, c := range map[string]struct {
		before []string // of the upstream, before the end
		after  []string // of the browser, after it
		want   string   // the browser gets
		within time.Duration
	}{
		"answered":                 {before: []string{helloFrame}, after: []string{answerFrame}, want: helloFrame + closeFrame},
		"answered in pieces":       {after: []string{answerFrame[:1], answerFrame[1:7], answerFrame[7:]}, want: closeFrame},
		"answered behind data":     {after: []string{"\x81\x82\x01\x02\x03\x04ab" + answerFrame}, want: closeFrame},
		"never answered":           {before: []string{helloFrame}, want: helloFrame + closeFrame, within: 2 * time.Second},
		"data that looks like one": {after: []string{"\x82\xfe\x01\x00\x01\x02\x03\x04", "\x88\x80\x00\x00\x00\x00"}, want: closeFrame, within: 2 * time.Second},
		"a ping":                   {after: []string{"\x89\x80\x01\x02\x03\x04"}, want: closeFrame, within: 2 * time.Second},
		"half a frame":             {before: []string{helloFrame + "\x81\x10half"}, want: helloFrame + "\x81\x10half"},
		"half a header":            {before: []string{helloFrame + "\x82\x7e\x01"}, want: helloFrame + "\x82\x7e\x01"},
		"half a frame, completed":  {before: []string{"\x81\x05he", "llo"}, after: []string{answerFrame}, want: helloFrame + closeFrame},
		"between fragments":        {before: []string{"\x01\x02he"}, after: []string{answerFrame}, want: "\x01\x02he" + closeFrame},
		"no WebSocket at all":      {before: []string{"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xffx"}, want: "\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xffx"},
		"closed by the upstream":   {before: []string{helloFrame + "\x88\x02\x03\xe8"}, want: helloFrame + "\x88\x02\x03\xe8"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tb := newTube()
				if n, err := tb.Write([]byte("\x81\x82abcdxy")); n != 8 || err != nil {
					t.Fatalf("Write before the end = %d, %v", n, err)
				}
				for _, text := range c.before {
					io.WriteString(tb.send, text)
				}
				synctest.Wait()
				tb.End(4401, "signed_out")
				tb.End(1001, "reconnect") // the first one counts
				synctest.Wait()
				for _, text := range c.after {
					if n, err := tb.Write([]byte(text)); n != len(text) || err != nil {
						t.Errorf("Write after the end = %d, %v; want it taken", n, err)
					}
				}
				time.Sleep(3 * time.Second)
				got, took, err := tb.state()
				if got != c.want {
					t.Errorf("the browser gets %q, want %q", got, c.want)
				}
				if err == nil || err == io.EOF || took != c.within {
					t.Errorf("it ends with %v after %v; want an error, that isn't io.EOF, after %v", err, took, c.within)
				}
				if got := tb.up.received(); got != "\x81\x82abcdxy" {
					t.Errorf("the upstream gets %q", got)
				}
			})
		})
	}
}

// Until it is ended from here, a socket passes everything on, ends and errors
// too.
func TestSocketPasses(t *testing.T) {
	for _, end := range []error{io.EOF, errBroken} {
		synctest.Test(t, func(t *testing.T) {
			tb := newTube()
			var sent []byte
			for i := range 200 {
				frame := wsFrame(byte(1+i%2), i*i, 9, false)
				sent = append(sent, frame...)
				tb.send.Write(frame)
				tb.Write([]byte(answerFrame))
			}
			tb.send.CloseWithError(end)
			got, _, err := tb.state()
			if got != string(sent) || err != end {
				t.Errorf("the browser gets %d bytes and %v, want %d and %v", len(got), err, len(sent), end)
			}
			if n := len(tb.up.received()); n != 200*len(answerFrame) {
				t.Errorf("the upstream gets %d bytes, want %d", n, 200*len(answerFrame))
			}
			tb.Close()
			if _, err := tb.Write([]byte("x")); err != errBroken {
				t.Errorf("Write after the upstream has gone = %v, want %v", err, errBroken)
			}
		})
	}
}

// An upstream that doesn't take what the browser sends doesn't hold up the end.
func TestSocketEndsThoughTheUpstreamIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := newTube()
		tb.up.stuck = make(chan struct{})
		wrote := make(chan error, 1)
		go func() {
			_, err := tb.Write([]byte("\x81\x82abcdxy"))
			wrote <- err
		}()
		synctest.Wait()
		tb.End(4401, "signed_out")
		close(tb.up.stuck) // as Close does at a connection
		if err := <-wrote; err != nil {
			t.Errorf("a Write that the end interrupted = %v", err)
		}
		tb.Write([]byte(answerFrame))
		if got, took, err := tb.state(); got != closeFrame || err == nil || took != 0 {
			t.Errorf("the browser gets %q and %v after %v", got, err, took)
		}
	})
}

// Both directions at full speed, ended at any moment: what the browser gets is
// whole frames and one close frame, or a stream that breaks off in a frame.
func TestSocketEndsAtAnyMoment(t *testing.T) {
	for round := range 300 {
		synctest.Test(t, func(t *testing.T) {
			tb := newTube()
			stop := make(chan struct{})
			var both sync.WaitGroup
			both.Go(func() {
				for i := 0; ; i++ {
					frame := wsFrame(2, i%300, 3, false)
					for len(frame) > 0 {
						n := min(len(frame), 1+(i*7+round)%50)
						if _, err := tb.send.Write(frame[:n]); err != nil {
							return
						}
						frame = frame[n:]
					}
				}
			})
			both.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						tb.Write([]byte("\x82\x82abcdxy"))
						time.Sleep(time.Millisecond)
					}
				}
			})
			go func() {
				for range round {
					runtime.Gosched()
				}
				tb.End(4401, "signed_out")
			}()
			time.Sleep(3 * time.Second)
			close(stop)
			both.Wait()
			got, _, err := tb.state()
			if err == nil || err == io.EOF {
				t.Fatalf("round %d: it ends with %v", round, err)
			}
			ends, closed, _ := frameEnds([]byte(got))
			if whole := ends[len(got)]; whole != closed || closed && got[len(got)-len(closeFrame):] != closeFrame {
				t.Errorf("round %d: %d bytes that end with a whole frame: %v, with a close frame: %v", round, len(got), whole, closed)
			}
		})
	}
}
