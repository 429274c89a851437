package bfftest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// InProcess returns a transport that serves each of the given origins, such as
// "https://api.example.com", by calling its handler, without a socket. So it
// works in a testing/synctest bubble, where a socket would stop the clock.
// Bodies stream in both directions, and contexts cancel what they should. A
// request to any other host fails as if the name did not exist.
//
// Of HTTP it has what net/http/httputil needs, informational answers and
// trailers included, but no protocol upgrades.
func InProcess(origins map[string]http.Handler) http.RoundTripper {
	n := &network{handlers: map[string]http.Handler{}}
	for origin, h := range origins {
		u, err := url.Parse(origin)
		if err != nil || u.Host == "" {
			panic(fmt.Sprintf("bfftest: %q is not an origin such as https://api.example.com", origin))
		}
		n.handlers[originOf(u)] = h
	}
	return n
}

// originOf returns the origin of u, without a default port.
func originOf(u *url.URL) string {
	scheme, host := strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	if scheme == "https" {
		host = strings.TrimSuffix(host, ":443")
	} else if scheme == "http" {
		host = strings.TrimSuffix(host, ":80")
	}
	return scheme + "://" + host
}

type network struct {
	handlers map[string]http.Handler
	next     http.RoundTripper // for all other hosts; nil: there are none
}

func (n *network) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL == nil {
		closeBody(req)
		return nil, errors.New("bfftest: nil Request.URL")
	}
	if h := n.handlers[originOf(req.URL)]; h != nil {
		return call(h, req)
	}
	if n.next != nil {
		return n.next.RoundTrip(req)
	}
	closeBody(req)
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{
		Err: "no such host in this test", Name: req.URL.Host, IsNotFound: true,
	}}
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}

// refusedConnection is what a handler panics with to have the connection
// refused.
type refusedConnection struct{}

type inProcess struct{}

// refuseConnection ends the request as if nothing listened, as far as the
// connection allows.
func refuseConnection(r *http.Request) {
	if r.Context().Value(inProcess{}) != nil {
		panic(refusedConnection{})
	}
	panic(http.ErrAbortHandler)
}

// server stands for the http.Server that handlers find in their context:
// httputil.ReverseProxy aborts a broken answer only if there is one.
var server = &http.Server{}

// call serves req with h.
func call(h http.Handler, req *http.Request) (*http.Response, error) {
	if err := req.Context().Err(); err != nil {
		closeBody(req)
		return nil, err
	}
	// The server's context is its own: no value of the client's crosses the wire.
	ctx := context.WithValue(context.Background(), http.ServerContextKey, server)
	ctx, cancel := context.WithCancel(context.WithValue(ctx, inProcess{}, true))
	in, err := inbound(req)
	if err != nil {
		cancel()
		closeBody(req)
		return nil, err
	}
	w := newWire(req, cancel)
	stop := context.AfterFunc(req.Context(), func() {
		w.breakOff(context.Cause(req.Context()))
		in.Body.Close() // wakes a handler that reads it
	})
	go func() {
		defer func() {
			// What is wrong with the handler is the client's error: the test sees it.
			var err error
			switch p := recover(); p := p.(type) {
			case nil:
			case refusedConnection:
				err = &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
			case error:
				if err = fmt.Errorf("bfftest: the connection broke: %w", io.ErrUnexpectedEOF); !errors.Is(p, http.ErrAbortHandler) {
					err = fmt.Errorf("bfftest: the handler panicked: %w\n%s", p, debug.Stack())
				}
			default:
				err = fmt.Errorf("bfftest: the handler panicked: %v\n%s", p, debug.Stack())
			}
			w.finish(err)
			in.Body.Close()
			cancel()
			stop()
		}()
		h.ServeHTTP(w, in.WithContext(ctx))
	}()
	<-w.headed
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status == 0 {
		return nil, w.err
	}
	return w.response(req), nil
}

// inbound returns req as a server would read it.
func inbound(req *http.Request) (*http.Request, error) {
	target := req.URL.RequestURI()
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return nil, fmt.Errorf("bfftest: %w", err)
	}
	in := &http.Request{
		Method: req.Method, URL: u, RequestURI: target, Host: req.Host,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: req.Header.Clone(), Body: req.Body, ContentLength: req.ContentLength,
		TransferEncoding: req.TransferEncoding, Trailer: req.Trailer,
		RemoteAddr: "192.0.2.1:49152", // RFC 5737: for documentation
	}
	if in.Method == "" {
		in.Method = http.MethodGet
	}
	if in.Host == "" {
		in.Host = req.URL.Host
	}
	if in.Header == nil {
		in.Header = http.Header{}
	}
	delete(in.Header, "Host")
	for name, values := range in.Header {
		for _, v := range values {
			if strings.ContainsAny(name+v, "\r\n\x00") {
				return nil, fmt.Errorf("bfftest: invalid header field %q", name)
			}
		}
	}
	if _, ok := in.Header["User-Agent"]; !ok {
		in.Header.Set("User-Agent", "Go-http-client/1.1")
	}
	if in.Body == nil {
		in.Body, in.ContentLength = http.NoBody, 0
	} else if in.ContentLength == 0 && in.Body != http.NoBody {
		in.ContentLength = -1 // RoundTrippers take it so
	}
	if req.URL.Scheme == "https" {
		in.TLS = &tls.ConnectionState{Version: tls.VersionTLS13, HandshakeComplete: true, ServerName: req.URL.Hostname()}
	}
	return in, nil
}

// A wire carries one answer: the handler's http.ResponseWriter and the
// client's body. It buffers about as much as a socket does, so that a handler
// can finish before anybody reads.
type wire struct {
	method string
	trace  *httptrace.ClientTrace
	cancel context.CancelFunc // of the server's context

	mu      sync.Mutex
	cond    sync.Cond
	header  http.Header // the handler's
	headed  chan struct{}
	status  int         // 0: no header was written
	sent    http.Header // the header as written
	trailer http.Header // as declared, and complete once ended
	length  int64       // declared, or -1
	written int64
	buf     []byte
	ended   bool  // by the handler
	closed  bool  // by the client
	err     error // that reads end with, once buf is empty; nil: io.EOF
}

const wireBuffer = 64 << 10

func newWire(req *http.Request, cancel context.CancelFunc) *wire {
	w := &wire{
		method: req.Method, trace: httptrace.ContextClientTrace(req.Context()), cancel: cancel,
		header: http.Header{}, headed: make(chan struct{}), length: -1,
	}
	w.cond.L = &w.mu
	return w
}

func (w *wire) Header() http.Header { return w.header }

func (w *wire) WriteHeader(status int) {
	if status < 100 || status > 999 {
		panic(fmt.Sprintf("invalid WriteHeader code %v", status))
	}
	if status >= 100 && status < 200 && status != http.StatusSwitchingProtocols {
		if w.trace != nil && w.trace.Got1xxResponse != nil {
			w.trace.Got1xxResponse(status, map[string][]string(clean(w.header)))
		}
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writeHeader(status)
}

func (w *wire) writeHeader(status int) {
	if w.status != 0 || w.ended || w.closed {
		return
	}
	w.status = status
	w.sent = clean(w.header)
	for name := range w.sent {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			delete(w.sent, name)
		}
	}
	if n, err := strconv.ParseInt(w.sent.Get("Content-Length"), 10, 64); err == nil {
		w.length = n
	}
	w.trailer = http.Header{}
	for _, list := range w.sent["Trailer"] {
		for name := range strings.SplitSeq(list, ",") {
			w.trailer[http.CanonicalHeaderKey(strings.TrimSpace(name))] = nil
		}
	}
	delete(w.sent, "Trailer")
	close(w.headed)
}

// clean returns h as net/http sends it: a line break in a value is a space.
func clean(h http.Header) http.Header {
	h = h.Clone()
	for name, values := range h {
		if len(values) == 0 {
			delete(h, name)
		}
		for i, v := range values {
			values[i] = strings.TrimSpace(strings.NewReplacer("\n", " ", "\r", " ").Replace(v))
		}
	}
	return h
}

func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status == 0 {
		_, typed := w.header["Content-Type"]
		if !typed && w.header.Get("Content-Encoding") == "" && len(p) > 0 {
			w.header.Set("Content-Type", http.DetectContentType(p))
		}
		w.writeHeader(http.StatusOK)
	}
	if w.closed || w.ended {
		return 0, net.ErrClosed
	}
	if w.method == http.MethodHead {
		return len(p), nil
	}
	if w.status == http.StatusNoContent || w.status == http.StatusNotModified {
		return 0, http.ErrBodyNotAllowed
	}
	if w.length >= 0 && w.written+int64(len(p)) > w.length {
		return 0, http.ErrContentLength
	}
	n := 0
	for n < len(p) {
		for len(w.buf) >= wireBuffer && !w.closed {
			w.cond.Wait()
		}
		if w.closed {
			return n, net.ErrClosed
		}
		k := min(len(p)-n, wireBuffer-len(w.buf))
		w.buf = append(w.buf, p[n:n+k]...)
		n += k
		w.written += int64(k)
		w.cond.Broadcast()
	}
	return n, nil
}

// Flush is for http.Flusher: what was written can be read already.
func (w *wire) Flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status == 0 {
		w.writeHeader(http.StatusOK)
	}
}

// EnableFullDuplex is for http.ResponseController: a wire always is.
func (w *wire) EnableFullDuplex() error { return nil }

// finish ends the answer, with err if the handler failed.
func (w *wire) finish(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended || w.closed {
		return
	}
	if err == nil {
		if w.status == 0 {
			if w.method != http.MethodHead && w.header.Get("Content-Length") == "" {
				w.header.Set("Content-Length", "0")
			}
			w.writeHeader(http.StatusOK)
		}
		if w.length > w.written && w.method != http.MethodHead && w.status != http.StatusNotModified {
			err = io.ErrUnexpectedEOF
		}
		for name, values := range clean(w.header) {
			if bare, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
				w.trailer[bare] = values
			} else if _, declared := w.trailer[name]; declared {
				w.trailer[name] = values
			}
		}
	}
	w.ended, w.err = true, err
	if w.status == 0 {
		close(w.headed)
	}
	w.cond.Broadcast()
}

// breakOff ends the answer because the client gave up.
func (w *wire) breakOff(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cancel()
	if w.closed || w.ended && len(w.buf) == 0 {
		return
	}
	w.closed, w.err, w.buf = true, err, nil
	if w.status == 0 && !w.ended {
		close(w.headed)
	}
	w.cond.Broadcast()
}

// response returns what the client sees. The caller holds mu.
func (w *wire) response(req *http.Request) *http.Response {
	res := &http.Response{
		Status: strconv.Itoa(w.status) + " " + http.StatusText(w.status), StatusCode: w.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, ContentLength: w.length, Request: req,
	}
	if len(w.trailer) > 0 {
		res.Trailer = http.Header{}
		for name := range w.trailer {
			res.Trailer[name] = nil
		}
	}
	res.Body = &wireBody{w, res}
	if w.method == http.MethodHead || w.status == http.StatusNoContent || w.status == http.StatusNotModified {
		res.Body = http.NoBody
		if w.method != http.MethodHead {
			res.ContentLength = 0
		}
	}
	if req.URL.Scheme == "https" {
		res.TLS = &tls.ConnectionState{Version: tls.VersionTLS13, HandshakeComplete: true, ServerName: req.URL.Hostname()}
	}
	return res
}

// wireBody is the client's end of a wire.
type wireBody struct {
	w   *wire
	res *http.Response
}

func (b *wireBody) Read(p []byte) (int, error) {
	w := b.w
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.buf) == 0 && !w.ended && !w.closed {
		w.cond.Wait()
	}
	switch {
	case len(w.buf) > 0:
		n := copy(p, w.buf)
		w.buf = w.buf[n:]
		w.cond.Broadcast()
		return n, nil
	case w.err != nil:
		return 0, w.err
	case w.closed:
		return 0, errors.New("bfftest: read on a closed body")
	}
	for name, values := range w.trailer {
		if values == nil {
			continue
		}
		if b.res.Trailer == nil {
			b.res.Trailer = http.Header{}
		}
		b.res.Trailer[name] = values // as net/http does, when the body was read
	}
	return 0, io.EOF
}

// Close breaks the connection if the answer is still coming, as net/http does.
func (b *wireBody) Close() error {
	b.w.breakOff(errors.New("bfftest: read on a closed body"))
	return nil
}

// Transport returns a transport that reaches the issuer and nothing else: in
// the process, see [InProcess], or over its socket once it was started.
func (iss *Issuer) Transport() http.RoundTripper { return issuerTransport{iss} }

// Client returns a client with [Issuer.Transport].
func (iss *Issuer) Client() *http.Client { return &http.Client{Transport: iss.Transport()} }

// issuerTransport looks the issuer's address up anew each time, since
// starting it changes that.
type issuerTransport struct{ iss *Issuer }

func (t issuerTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	t.iss.mu.Lock()
	base, socket := t.iss.base, t.iss.socket
	t.iss.mu.Unlock()
	if u, err := url.Parse(base); err == nil && socket != nil && req.URL != nil && originOf(u) == originOf(req.URL) {
		return socket.transport.RoundTrip(req)
	}
	return InProcess(map[string]http.Handler{base: t.iss}).RoundTrip(req)
}
