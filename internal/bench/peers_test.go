package bench

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	texttemplate "text/template"
	"time"
)

// A peer is a proxy to compare with. To add one, add a row: start it in front
// of the upstream, on loopback, with TLS and HTTP/2 if tlsDir is not empty, and
// say where it listens and how much processor time it has used.
type peer struct {
	name  string
	start func(b *testing.B, upstream, tlsDir string) *running
}

type running struct {
	url    string
	cookie string
	cpu    func() time.Duration
	allocs func() int64 // nil: can't be told
}

var peers = []peer{
	{"bare", startRole("bare")},     // httputil.ReverseProxy, tuned: the limit
	{"bearer", startRole("bearer")}, // and with a header as long as a token
	{"bff", startRole("bff")},       // ours
	{"cached", startRole("cached")}, // ours, with a cache of decoded sessions
	{"nginx", startNginx},           // proxy_pass, with a header as long as a token
}

// BenchmarkPeers is requests for bodies of three sizes, over one connection and
// 256, to a proxy that speaks HTTP/1.1 or HTTP/2 (over TLS) and asks its
// upstream over HTTP/1.1. Client, proxy and upstream are processes of their own
// on one machine, so cpu-ns/op is what compares: the proxy's processor time for
// a request, in user and kernel mode. The latencies are those of a closed loop,
// in which 256 connections measure a queue.
//
// One run says little. From this directory, for medians of rounds that are
// interleaved:
//
//	go test -c -o /tmp/bench.test
//	for i in 1 2 3 4 5; do /tmp/bench.test -test.run '^$' -test.bench Peers; done >/tmp/peers.txt
//	go run golang.org/x/perf/cmd/benchstat@latest -col /peer /tmp/peers.txt
//
// nginx is left out where it isn't installed.
func BenchmarkPeers(b *testing.B) {
	upstream := start(b, "upstream", "")
	dir := b.TempDir()
	roots := makeCertificate(b, dir)
	for _, protocol := range []string{"h1", "h2"} {
		tlsDir := map[string]string{"h2": dir}[protocol]
		for _, size := range []int{1 << 10, 100 << 10, 10 << 20} {
			for _, conns := range []int{1, 256} {
				for _, p := range peers {
					b.Run(fmt.Sprintf("protocol=%s/size=%dKB/conns=%d/peer=%s", protocol, size>>10, conns, p.name), func(b *testing.B) {
						measure(b, p.start(b, upstream.URL, tlsDir), size, conns, roots)
					})
				}
			}
		}
	}
}

// measure sends b.N requests over conns connections.
func measure(b *testing.B, p *running, size, conns int, roots *x509.CertPool) {
	clients := make([]*http.Client, conns)
	for i := range clients {
		clients[i] = &http.Client{Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true, DisableCompression: true, MaxConnsPerHost: 1,
		}}
		defer clients[i].CloseIdleConnections()
	}
	get := func(c *http.Client) error {
		r, err := http.NewRequest("GET", fmt.Sprintf("%s/api/things?size=%d", p.url, size), nil)
		if err != nil {
			return err
		}
		r.Header = request(p.cookie).Header
		res, err := c.Do(r)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		n, err := io.Copy(io.Discard, res.Body)
		if wanted := strings.HasPrefix(p.url, "https:"); err != nil || n != int64(size) || res.StatusCode != http.StatusOK || wanted != (res.ProtoMajor == 2) {
			return fmt.Errorf("%s %s, %d bytes, %v", res.Proto, res.Status, n, err)
		}
		return nil
	}
	each := func(do func(c *http.Client) error) {
		var wg sync.WaitGroup
		for _, c := range clients {
			wg.Go(func() {
				if err := do(c); err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
	}
	for range 3 {
		each(get) // connections open, pools fill
	}
	if b.Failed() {
		return
	}
	var next atomic.Int64
	var mu sync.Mutex
	var took []time.Duration
	var allocs int64
	if p.allocs != nil {
		allocs = p.allocs()
	}
	cpu := p.cpu()
	b.ResetTimer()
	each(func(c *http.Client) error {
		var own []time.Duration
		for next.Add(1) <= int64(b.N) {
			began := time.Now()
			if err := get(c); err != nil {
				return err
			}
			own = append(own, time.Since(began))
		}
		mu.Lock()
		defer mu.Unlock()
		took = append(took, own...)
		return nil
	})
	b.StopTimer()
	if len(took) == 0 {
		return
	}
	n := float64(b.N)
	b.ReportMetric(float64(p.cpu()-cpu)/n, "cpu-ns/op")
	if p.allocs != nil {
		b.ReportMetric(float64(p.allocs()-allocs)/n, "allocs/op")
	}
	slices.SortFunc(took, cmp.Compare[time.Duration])
	for _, q := range []int{50, 99} {
		b.ReportMetric(float64(took[len(took)*q/100].Microseconds()), fmt.Sprintf("p%d-µs", q))
	}
}

// startRole starts a proxy that is this program in another role.
func startRole(role string) func(*testing.B, string, string) *running {
	return func(b *testing.B, upstream, tlsDir string) *running {
		p := start(b, role, upstream, tlsVariable+"="+tlsDir)
		return &running{
			url: p.URL, cookie: p.Cookie,
			cpu:    func() time.Duration { return time.Duration(p.usage(b).CPU) },
			allocs: func() int64 { return p.usage(b).Allocs },
		}
	}
}

const tlsVariable = "BFF_BENCH_TLS"

func certFile(dir string) string { return filepath.Join(dir, "cert.pem") }
func keyFile(dir string) string  { return filepath.Join(dir, "key.pem") }

// makeCertificate files a certificate for 127.0.0.1 in dir, and returns the
// pool that trusts it.
func makeCertificate(b *testing.B, dir string) *x509.CertPool {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	if err != nil {
		b.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		b.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	for file, data := range map[string][]byte{
		certFile(dir): certPEM,
		keyFile(dir):  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certPEM)
	return roots
}

var nginxConfig = texttemplate.Must(texttemplate.New("").Parse(`
daemon off;
worker_processes auto;
pid {{.Dir}}/nginx.pid;
error_log {{.Dir}}/error.log;
events { worker_connections 2048; }
http {
	access_log off;
	client_body_temp_path {{.Dir}}/body;
	proxy_temp_path {{.Dir}}/proxy;
	fastcgi_temp_path {{.Dir}}/fastcgi;
	uwsgi_temp_path {{.Dir}}/uwsgi;
	scgi_temp_path {{.Dir}}/scgi;
	proxy_max_temp_file_size 0;
	keepalive_requests 1000000000;
	upstream api { server {{.Upstream}}; keepalive 256; keepalive_requests 1000000000; }
	server {
		listen {{.Listen}}{{if .TLS}} ssl http2{{end}};
		{{if .TLS}}ssl_certificate {{.TLS}}/cert.pem; ssl_certificate_key {{.TLS}}/key.pem;{{end}}
		location /api/ {
			proxy_pass http://api/;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_set_header Cookie "";
			proxy_set_header Authorization "Bearer {{.Token}}";
			proxy_set_header X-Forwarded-For $remote_addr;
			proxy_set_header X-Forwarded-Host $host;
			proxy_set_header X-Forwarded-Proto $scheme;
		}
	}
}
`))

func startNginx(b *testing.B, upstream, tlsDir string) *running {
	b.Helper()
	path, err := exec.LookPath("nginx")
	if err != nil {
		b.Skip("nginx is not installed")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free
	if err != nil {
		b.Fatal(err)
	}
	listen := l.Addr().String()
	l.Close()
	dir := b.TempDir()
	var config bytes.Buffer
	if err := nginxConfig.Execute(&config, map[string]string{
		"Dir": dir, "Listen": listen, "Upstream": strings.TrimPrefix(upstream, "http://"), "TLS": tlsDir, "Token": strings.Repeat("x", tokenSize),
	}); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "nginx.conf"), config.Bytes(), 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(path, "-p", dir, "-c", filepath.Join(dir, "nginx.conf"), "-g", "user root;")
	if os.Getuid() != 0 {
		cmd.Args = cmd.Args[:len(cmd.Args)-2]
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt) // which ends its workers, too
		cmd.Wait()
	})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", listen)
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			b.Fatalf("nginx doesn't listen: %v", err)
		}
	}
	scheme := "http://"
	if tlsDir != "" {
		scheme = "https://"
	}
	return &running{url: scheme + listen, cookie: "__Host-Http-bff=" + strings.Repeat("x", 76), cpu: func() time.Duration { return cpuOf(b, cmd.Process.Pid) }}
}

// cpuOf returns the processor time of a process and its children, from /proc.
func cpuOf(b *testing.B, pid int) time.Duration {
	b.Helper()
	const tick = 10 * time.Millisecond // USER_HZ, which Linux has fixed
	var sum time.Duration
	all, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range all {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// The name in parentheses may hold anything.
		own, rest, ok := strings.Cut(string(data), " (")
		fields := strings.Fields(rest[strings.LastIndex(rest, ")")+1:])
		if !ok || len(fields) < 13 || own != strconv.Itoa(pid) && fields[1] != strconv.Itoa(pid) {
			continue
		}
		for _, f := range fields[11:13] {
			n, err := strconv.ParseInt(f, 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			sum += time.Duration(n) * tick
		}
	}
	return sum
}
