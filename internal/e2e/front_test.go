package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// An exchange is one request and its answer as a front saw them.
type exchange struct {
	began      time.Time
	front      string // the front's name; "backchannel" for what no browser sent
	method     string
	url        string // absolute, as the client asked for it
	reqHeader  http.Header
	reqBody    string
	status     int
	respHeader http.Header
	respBody   string
}

func (e exchange) String() string {
	return fmt.Sprintf("%s %s %s = %d", e.front, e.method, e.url, e.status)
}

// A transcript keeps exchanges in the order in which they ended.
type transcript struct {
	mu   sync.Mutex
	list []exchange
}

func (t *transcript) add(e exchange) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = append(t.list, e)
}

func (t *transcript) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.list)
}

// since returns what was recorded after the first n exchanges.
func (t *transcript) since(n int) []exchange {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.list[n:])
}

// A front stands where a load balancer stands: it ends TLS, says so in
// X-Forwarded-*, and passes requests on to a server on loopback. It also keeps
// a copy of everything in a transcript.
type front struct {
	name   string
	origin string // scheme://host[:port], as the client sees it
	addr   string // where it listens
	server *http.Server

	mu      sync.Mutex
	handler http.Handler
}

// newFront listens on loopback. With a host it speaks TLS as that host on port
// 443 (clients are told to dial addr instead), else plain http as its address.
func newFront(name, host string, ca *ca, tr *transcript) (*front, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f := &front{name: name, addr: ln.Addr().String()}
	f.origin = "http://" + f.addr
	f.server = &http.Server{
		Handler:           f.record(tr),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0), // clients that hang up
	}
	if host != "" {
		cert, err := ca.leaf(host)
		if err != nil {
			return nil, err
		}
		f.origin = "https://" + host
		f.server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
		go f.server.ServeTLS(ln, "", "")
	} else {
		go f.server.Serve(ln)
	}
	return f, nil
}

func (f *front) close() { f.server.Close() }

// to sends everything on to the server at addr from now on.
func (f *front) to(addr string) {
	target := &url.URL{Scheme: "http", Host: addr}
	f.handle(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
			r.Out.Header.Del("X-Forwarded-For")
			r.SetXForwarded()
		},
		ErrorLog: log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, "front: "+err.Error(), http.StatusBadGateway)
		},
	})
}

func (f *front) handle(h http.Handler) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.handler = h
}

// record runs the front's handler and files what came and went before the
// client gets to see it. Event streams and WebSockets are not held back; what
// was said is filed when they end, of a WebSocket no more than that it was there.
func (f *front) record(tr *transcript) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		h := f.handler
		f.mu.Unlock()
		if h == nil {
			http.Error(w, "front: nothing behind it yet", http.StatusBadGateway)
			return
		}
		began := time.Now()
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err != nil {
			return // the client is gone
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		r.Header.Del("Accept-Encoding") // answers must be legible to the search
		e := exchange{
			began:     began,
			front:     f.name,
			method:    r.Method,
			url:       f.origin + r.RequestURI,
			reqHeader: r.Header.Clone(),
			reqBody:   string(body),
		}
		e.reqHeader.Set("Host", r.Host)
		if !strings.HasPrefix(r.UserAgent(), "Mozilla/") {
			e.front = "backchannel"
		}
		if r.Header.Get("Upgrade") != "" || r.Header.Get("Accept") == "text/event-stream" {
			p := &passed{ResponseWriter: w, status: http.StatusOK}
			defer func() {
				e.status, e.respHeader, e.respBody = p.status, p.header, p.body.String()
				tr.add(e)
			}()
			h.ServeHTTP(p, r)
			return
		}
		buf := &buffered{header: make(http.Header), status: http.StatusOK}
		h.ServeHTTP(buf, r)
		e.status = buf.status
		e.respHeader = buf.header.Clone()
		e.respBody = buf.body.String()
		tr.add(e)
		for key, values := range buf.header {
			w.Header()[key] = values
		}
		w.WriteHeader(buf.status)
		w.Write(buf.body.Bytes())
	})
}

// A buffered is a ResponseWriter that holds the answer back.
type buffered struct {
	header http.Header
	status int
	wrote  bool
	body   bytes.Buffer
}

func (b *buffered) Header() http.Header { return b.header }

func (b *buffered) WriteHeader(status int) {
	if status >= 200 && !b.wrote {
		b.status, b.wrote = status, true
	}
}

func (b *buffered) Write(p []byte) (int, error) {
	b.wrote = true
	return b.body.Write(p)
}

// A passed is a ResponseWriter that holds nothing back and keeps a copy.
type passed struct {
	http.ResponseWriter
	status int
	header http.Header
	body   bytes.Buffer
}

func (p *passed) WriteHeader(status int) {
	if status >= 200 {
		p.status, p.header = status, p.Header().Clone()
	}
	p.ResponseWriter.WriteHeader(status)
}

func (p *passed) Write(b []byte) (int, error) {
	n, err := p.ResponseWriter.Write(b)
	p.body.Write(b[:n])
	return n, err
}

func (p *passed) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	p.status = http.StatusSwitchingProtocols
	return http.NewResponseController(p.ResponseWriter).Hijack()
}

func (p *passed) Unwrap() http.ResponseWriter { return p.ResponseWriter }

// A tunnel is the egress proxy of the gateway: it takes CONNECT for the hosts
// it knows and leads them to a front. That is how a process that resolves names
// by itself finds hosts that exist in this test only.
type tunnel struct {
	addr   string
	server *http.Server

	mu      sync.Mutex
	routes  map[string]string // host:port -> address
	refused []string
}

func newTunnel(routes map[string]string) (*tunnel, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	t := &tunnel{addr: ln.Addr().String(), routes: routes}
	t.server = &http.Server{
		Handler:           http.HandlerFunc(t.connect),
		ReadHeaderTimeout: 10 * time.Second,
	}
	go t.server.Serve(ln)
	return t, nil
}

func (t *tunnel) close() { t.server.Close() }

// strays lists what was asked for and is none of the gateway's business.
func (t *tunnel) strays() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.refused)
}

func (t *tunnel) connect(w http.ResponseWriter, r *http.Request) {
	t.mu.Lock()
	addr, ok := t.routes[r.Host]
	if r.Method != http.MethodConnect || !ok {
		t.refused = append(t.refused, r.Method+" "+r.Host)
		t.mu.Unlock()
		http.Error(w, "no such host here", http.StatusForbidden)
		return
	}
	t.mu.Unlock()
	var d net.Dialer
	server, err := d.DialContext(r.Context(), "tcp", addr)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer server.Close()
	client, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer client.Close()
	if _, err := io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	done := make(chan struct{}, 2)
	go func() { io.Copy(server, rw); done <- struct{}{} }()
	go func() { io.Copy(client, server); done <- struct{}{} }()
	<-done
}

// dialer gives a dial function that leads the routes' hosts to their fronts and
// refuses every address that is not on loopback.
func dialer(routes map[string]string) func(context.Context, string, string) (net.Conn, error) {
	var d net.Dialer
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if to, ok := routes[addr]; ok {
			addr = to
		}
		if !strings.HasPrefix(addr, "127.0.0.1:") {
			return nil, fmt.Errorf("e2e: %s is outside this test", addr)
		}
		return d.DialContext(ctx, network, addr)
	}
}
