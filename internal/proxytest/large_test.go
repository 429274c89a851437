package proxytest

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/agglestone/bff"
)

const piece = 1 << 20

// pattern is a body of size bytes, each MiB of which is filled with a byte of
// its own. It calls every before each 64 of them.
type pattern struct {
	size  int64
	at    int64
	fill  []byte
	every func()
}

func (p *pattern) Read(b []byte) (int, error) {
	if p.at == p.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), p.size-p.at, piece-p.at%piece))
	b = b[:n]
	if p.at%(64*piece) == 0 && p.every != nil {
		p.every()
	}
	if p.at%piece == 0 {
		p.fill = bytes.Repeat([]byte{byte(p.at / piece)}, 64<<10)
	}
	n = copy(b, p.fill)
	p.at += int64(n)
	return n, nil
}

// check is a sink that fails at the first byte that pattern would not have.
type check struct {
	at    int64
	every func()
}

func (c *check) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		n := int(min(int64(len(rest)), piece-c.at%piece))
		want := byte(c.at / piece)
		if rest[0] != want || rest[n-1] != want || bytes.IndexByte(rest[:n], want+1) >= 0 {
			return 0, fmt.Errorf("wrong bytes at %d", c.at)
		}
		if c.every != nil && c.at%(64*piece) == 0 {
			c.every()
		}
		c.at += int64(n)
		rest = rest[n:]
	}
	return len(b), nil
}

// Two gigabytes each way over HTTP/1.1, and less over HTTP/2, with a length and
// in chunks, need no more memory than a few buffers: client, proxy and upstream
// together.
func TestLargeBodies(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" {
			size, _ := strconv.ParseInt(r.URL.Query().Get("size"), 10, 64)
			if r.URL.Query().Get("framing") == "length" {
				w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
			}
			io.Copy(w, &pattern{size: size})
			return
		}
		c := &check{}
		_, err := io.Copy(c, r.Body)
		fmt.Fprintf(w, "%d %v", c.at, err)
	}))
	defer up.Close()
	for _, secure := range []bool{false, true} {
		g := newGateway(t, secure, bff.Upstream{URL: up.URL})
		request := func(method, path string, body io.Reader, length int64) *http.Response {
			t.Helper()
			r, err := http.NewRequestWithContext(t.Context(), method, g.URL+path, body)
			if err != nil {
				t.Fatal(err)
			}
			r.ContentLength = length
			r.Header.Set("Cookie", g.cookie)
			r.Header.Set("X-CSRF", "1")
			res, err := g.Client().Do(r)
			if err != nil {
				t.Fatal(err)
			}
			return res
		}
		protocol, size := "http1", int64(2<<30)
		if secure {
			protocol, size = "http2", 256<<20
		}
		upload, download := "length", "chunks"
		if secure {
			upload, download = download, upload
		}
		t.Run(protocol+"-upload-"+upload, func(t *testing.T) {
			m := newMeter(t)
			length := map[string]int64{"length": size, "chunks": -1}[upload]
			res := request("POST", "/x", &pattern{size: size, every: m.look}, length)
			defer res.Body.Close()
			if body, err := io.ReadAll(res.Body); string(body) != fmt.Sprint(size, " <nil>") {
				t.Errorf("the upstream got %s; %v", body, err)
			}
			m.report()
		})
		t.Run(protocol+"-download-"+download, func(t *testing.T) {
			m := newMeter(t)
			res := request("GET", fmt.Sprintf("/x?size=%d&framing=%s", size, download), nil, 0)
			defer res.Body.Close()
			if want := map[string]int64{"length": size, "chunks": -1}[download]; res.ContentLength != want {
				t.Errorf("the answer has length %d, want %d", res.ContentLength, want)
			}
			c := &check{every: m.look}
			if _, err := io.Copy(c, res.Body); err != nil || c.at != size {
				t.Errorf("%d bytes, %v", c.at, err)
			}
			m.report()
		})
	}
}

// A meter sees the most memory that the process held on to.
type meter struct {
	t           *testing.T
	heap0, heap uint64
	rss0, rss   int64
}

func newMeter(t *testing.T) *meter {
	m := &meter{t: t}
	m.heap0, m.rss0 = memory(t)
	return m
}

func (m *meter) look() {
	heap, rss := memory(m.t)
	m.heap, m.rss = max(m.heap, heap), max(m.rss, rss)
}

func (m *meter) report() {
	m.t.Logf("heap grew by %d KiB at most, resident memory by %d KiB", (int64(m.heap)-int64(m.heap0))>>10, (m.rss-m.rss0)>>10)
	if m.heap == 0 {
		m.t.Fatal("nobody looked")
	}
	if grown := int64(m.heap) - int64(m.heap0); grown > 16<<20 {
		m.t.Errorf("the heap grew by %d MiB, want at most 16", grown>>20)
	}
	if grown := m.rss - m.rss0; grown > 128<<20 {
		m.t.Errorf("resident memory grew by %d MiB, want at most 128", grown>>20)
	}
}

// memory returns the live heap and the resident memory of this process.
func memory(t *testing.T) (heap uint64, rss int64) {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	// Where there is no /proc, the heap alone counts.
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		fields := strings.Fields(string(b))
		if pages, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
			rss = pages * int64(os.Getpagesize())
		}
	}
	return s.HeapAlloc, rss
}
