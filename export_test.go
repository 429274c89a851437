package bff

import (
	"io"
	"net"
	"net/http"
)

// What tests of single parts need of the inside.

type (
	FrameReader = frameReader
	Socket      = socket
)

func (f *frameReader) Pass(p []byte) { f.pass(p) }
func (f *frameReader) Between() bool { return f.between() }
func (f *frameReader) Closed() bool  { return f.closed }
func (f *frameReader) Held() int     { return len(f.header) }

func NewSocket(upstream io.ReadWriteCloser) *Socket { return newSocket(upstream) }

func (s *socket) End(code uint16, reason string) { s.end(code, reason) }

// FillStreams makes as many streams open as a process may have.
func (b *BFF) FillStreams() {
	b.streams.mu.Lock()
	defer b.streams.mu.Unlock()
	b.streams.open = streamsMost
}

func NewUpstreamConn(c net.Conn) net.Conn { return newUpstreamConn(c) }

func NewTransport() *http.Transport { return newTransport() }

// OpenStream opens a stream for nobody, which Drain ends by a call of end.
func (b *BFF) OpenStream(end func()) { b.openStream(nil, func(streamState) { end() }) }
