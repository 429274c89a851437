package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
	"github.com/agglestone/bff/store/memstore"
)

// connections is how many requests are under way at once.
const connections = 16

// BenchmarkProxy is GET requests for 1 KB of JSON, over loopback. Client, proxy
// and upstream are a process each, so that cpu-ns/op, B/op and allocs/op are
// the proxy's own; ns/op is what three processes get out of the machine.
//
// bare is httputil.ReverseProxy with our transport and buffers; bearer is the
// same with a constant of an access token's length in the Authorization header,
// which costs every proxy what it costs; bff is ours, and cached is ours with a
// cache of decoded sessions.
func BenchmarkProxy(b *testing.B) {
	upstream := start(b, "upstream", "")
	for _, role := range []string{"bare", "bearer", "bff", "cached"} {
		b.Run(role, func(b *testing.B) {
			proxy := start(b, role, upstream.URL)
			client := &http.Client{Transport: transport()}
			defer client.CloseIdleConnections()
			get := func() error {
				r := request(proxy.Cookie)
				r.RequestURI = ""
				r.URL, _ = url.Parse(proxy.URL + "/api/things?page=2")
				res, err := client.Do(r)
				if err != nil {
					return err
				}
				defer res.Body.Close()
				n, err := io.Copy(io.Discard, res.Body)
				if err != nil || n != bodySize || res.StatusCode != http.StatusOK {
					return fmt.Errorf("%s, %d bytes, %v", res.Status, n, err)
				}
				return nil
			}
			b.SetParallelism(max(1, connections/runtime.GOMAXPROCS(0)))
			for range 20 { // connections open, pools fill
				var wg sync.WaitGroup
				for range connections {
					wg.Go(func() {
						if err := get(); err != nil {
							b.Error(err)
						}
					})
				}
				wg.Wait()
			}
			before := proxy.usage(b)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := get(); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.StopTimer()
			after, n := proxy.usage(b), float64(b.N)
			b.ReportMetric(float64(after.CPU-before.CPU)/n, "cpu-ns/op")
			b.ReportMetric(float64(after.Bytes-before.Bytes)/n, "B/op")
			b.ReportMetric(float64(after.Allocs-before.Allocs)/n, "allocs/op")
		})
	}
}

const (
	bodySize  = 1 << 10
	tokenSize = 1 << 10
)

// transport is what both proxies and the client use: as many idle connections
// as there are requests, and bodies as they are.
func transport() *http.Transport {
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		MaxIdleConns:        1024,
		MaxIdleConnsPerHost: 256,
		DisableCompression:  true,
	}
}

// A hello is the first line that a process writes; a usage is its answer to
// each line that it reads.
type hello struct{ URL, Cookie string }

type usage struct{ CPU, Bytes, Allocs int64 }

// A process is this program once more, in another role.
type process struct {
	hello
	in  io.Writer
	out *bufio.Scanner
}

const (
	roleVariable     = "BFF_BENCH_ROLE"
	upstreamVariable = "BFF_BENCH_UPSTREAM"
)

// start starts a process, which ends with b.
func start(b *testing.B, role, upstream string, env ...string) *process {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), append(env, roleVariable+"="+role, upstreamVariable+"="+upstream)...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close() // which ends it
		cmd.Wait()
	})
	p := &process{in: in, out: bufio.NewScanner(out)}
	p.read(b, &p.hello)
	return p
}

func (p *process) read(b *testing.B, v any) {
	b.Helper()
	if !p.out.Scan() {
		b.Fatalf("the process ended: %v", p.out.Err())
	}
	if err := json.Unmarshal(p.out.Bytes(), v); err != nil {
		b.Fatal(err)
	}
}

func (p *process) usage(b *testing.B) (u usage) {
	b.Helper()
	fmt.Fprintln(p.in)
	p.read(b, &u)
	return u
}

// play is the main function of a process that start started.
func play(role string) {
	upstream := os.Getenv(upstreamVariable)
	var h http.Handler
	var cookie string
	switch role {
	case "upstream":
		h = http.HandlerFunc(serveBody)
	case "bare", "bearer":
		u, err := url.Parse(upstream)
		check(err)
		bearer := "Bearer " + strings.Repeat("x", tokenSize)
		h = http.StripPrefix("/api", &httputil.ReverseProxy{
			Rewrite: func(pr *httputil.ProxyRequest) {
				pr.SetURL(u)
				pr.SetXForwarded()
				if role == "bearer" {
					pr.Out.Header.Del("Cookie")
					pr.Out.Header["Authorization"] = []string{bearer}
				}
			},
			Transport:  transport(),
			BufferPool: &bufferPool{},
		})
		cookie = "__Host-Http-bff=" + strings.Repeat("x", 76)
	case "bff":
		h, cookie = newGateway(upstream, 0)
	case "cached":
		h, cookie = newGateway(upstream, 1000)
	default:
		check(fmt.Errorf("no role is called %q", role))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	scheme := "http"
	if dir := os.Getenv(tlsVariable); dir != "" && role != "upstream" {
		scheme = "https"
		go func() { check(http.ServeTLS(l, h, certFile(dir), keyFile(dir))) }()
	} else {
		go func() { check(http.Serve(l, h)) }()
	}

	answer := json.NewEncoder(os.Stdout)
	check(answer.Encode(hello{scheme + "://" + l.Addr().String(), cookie}))
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var ru syscall.Rusage
		check(syscall.Getrusage(syscall.RUSAGE_SELF, &ru))
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		check(answer.Encode(usage{ru.Utime.Nano() + ru.Stime.Nano(), int64(m.TotalAlloc), int64(m.Mallocs)}))
	}
}

// serveBody is the upstream: it answers with as many bytes of JSON as ?size=
// asks for, or bodySize.
func serveBody(w http.ResponseWriter, r *http.Request) {
	size := bodySize
	if n, err := strconv.Atoi(r.URL.Query().Get("size")); err == nil {
		size = n
	}
	w.Header()["Content-Type"] = []string{"application/json"}
	w.Header()["Content-Length"] = []string{strconv.Itoa(size)}
	io.WriteString(w, `{"items":"`)
	for left := size - 12; left > 0; left -= len(filler) {
		io.WriteString(w, filler[:min(left, len(filler))])
	}
	io.WriteString(w, `"}`)
}

var filler = strings.Repeat("x", 64<<10)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// newGateway returns a proxy of ours, and the cookie of somebody signed in.
func newGateway(upstream string, cache int) (http.Handler, string) {
	iss := newIssuer(tokenSize)
	auth, err := bff.New(context.Background(), bff.Config{
		Issuer:       iss.URL(),
		ClientID:     iss.ClientID(),
		RedirectURL:  appURL + "/auth/callback",
		Keys:         []bff.Key{key},
		Store:        memstore.New(memstore.Options{}),
		RefreshEvery: time.Hour,
		CacheSize:    cache,
		HTTPClient:   iss.Client(),
		Logger:       slog.New(slog.DiscardHandler),
	})
	check(err)
	mux := http.NewServeMux()
	mux.Handle("/api/", auth.Proxy(bff.Upstream{URL: upstream, StripPrefix: "/api"}))
	app := auth.Routes(mux)
	br := bfftest.NewBrowser(app, appURL, iss)
	if r := br.SignIn("alice"); r.Err != nil {
		check(r.Err)
	}
	return app, cookieHeader(br)
}

type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) Get() []byte {
	if b, ok := p.pool.Get().(*[32 << 10]byte); ok {
		return b[:]
	}
	return new([32 << 10]byte)[:]
}

func (p *bufferPool) Put(b []byte) { p.pool.Put((*[32 << 10]byte)(b)) }
