package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/agglestone/bff/store/memstore"
)

// crowded is how many sessions one subject has, and streams are open at once.
const crowded = 10_000

// BenchmarkEvents is 10,000 idle streams of GET /auth/events, each of a session
// of its own, and what they cost for twenty seconds; then all those sessions,
// which are one subject's, end. The browsers are another process. bare is a
// handler that sends as much at the start, and nothing more.
func BenchmarkEvents(b *testing.B) {
	b.Run("bare", func(b *testing.B) {
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, ":\n\n")
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		})
		cookies := signedIn(b, 1<<10).fill(b, memstore.New(memstore.Options{}), crowded)
		for b.Loop() {
			stream(b, h, cookies, func() {})
		}
	})
	b.Run("bff", func(b *testing.B) {
		t := signedIn(b, 1<<10)
		for b.Loop() {
			store := memstore.New(memstore.Options{})
			cookies := t.fillUnder(b, store, crowded, func() []string { return []string{t.tag, "t" + random()} })
			auth := newBFF(b, t.iss, store)
			stream(b, auth.Routes(nil), cookies, func() {
				began := time.Now()
				n, err := auth.EndSessionsOf(context.Background(), t.subject)
				if n != crowded || err != nil {
					b.Fatalf("EndSessionsOf = %d, %v", n, err)
				}
				b.ReportMetric(float64(time.Since(began).Milliseconds()), "end-ms")
			})
		}
	})
}

// stream serves h to a process that opens a stream with each cookie, reports
// what one of them takes, calls end, and reports when the last one has ended.
func stream(b *testing.B, h http.Handler, cookies []string, end func()) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	srv := &http.Server{Handler: h, BaseContext: func(net.Listener) context.Context { return ctx }}
	go srv.Serve(l)
	defer srv.Close()
	browsers := browse(b, l.Addr().String())

	n := float64(len(cookies))
	goroutines, before := runtime.NumGoroutine(), memory()
	browsers.open(b, cookies)
	after := memory()
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "heap-B/stream")
	b.ReportMetric(float64(after.StackInuse-before.StackInuse)/n, "stack-B/stream")
	b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/n, "goroutines/stream")

	const idle = 20 * time.Second
	cpu := cpuTime(b)
	time.Sleep(idle)
	b.ReportMetric(float64(cpuTime(b)-cpu)/idle.Seconds()/n, "cpu-ns/stream-s")

	began := time.Now()
	end()
	cancel()
	browsers.ended(b)
	b.ReportMetric(float64(time.Since(began).Milliseconds()), "closed-ms")
}

func memory() (m runtime.MemStats) {
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m
}

// BenchmarkEndSessions ends the 10,000 sessions of one subject. bare is the
// store alone, which ends them one after the other.
func BenchmarkEndSessions(b *testing.B) {
	t := signedIn(b, 1<<10)
	tags := func() []string { return []string{t.tag, "t" + random()} }
	b.Run("bare", func(b *testing.B) {
		var cpu time.Duration
		for b.Loop() {
			b.StopTimer()
			store := memstore.New(memstore.Options{})
			t.fillUnder(b, store, crowded, tags)
			until := time.Now().Add(time.Hour)
			runtime.GC()
			b.StartTimer()
			before := cpuTime(b)
			notes, err := store.Tagged(context.Background(), t.tag)
			if err != nil || len(notes) != crowded {
				b.Fatalf("Tagged = %d, %v", len(notes), err)
			}
			for key := range notes {
				if ok, err := store.End(context.Background(), key, 0, []byte("session_revoked"), until); !ok || err != nil {
					b.Fatalf("End = %v, %v", ok, err)
				}
			}
			cpu += cpuTime(b) - before
		}
		b.ReportMetric(float64(cpu)/float64(b.N), "cpu-ns/op")
	})
	b.Run("bff", func(b *testing.B) {
		var cpu time.Duration
		for b.Loop() {
			b.StopTimer()
			store := memstore.New(memstore.Options{})
			t.fillUnder(b, store, crowded, tags)
			auth := newBFF(b, t.iss, store)
			runtime.GC()
			b.StartTimer()
			before := cpuTime(b)
			if n, err := auth.EndSessionsOf(context.Background(), t.subject); n != crowded || err != nil {
				b.Fatalf("EndSessionsOf = %d, %v", n, err)
			}
			cpu += cpuTime(b) - before
		}
		b.ReportMetric(float64(cpu)/float64(b.N), "cpu-ns/op")
	})
}

// browsersVariable has the address for which this program is the browsers.
const browsersVariable = "BFF_BENCH_BROWSERS"

// browsers is this program once more.
type browsers struct {
	in  io.WriteCloser
	out *bufio.Scanner
}

// browse starts the browsers, which end with b.
func browse(b *testing.B, addr string) *browsers {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), browsersVariable+"="+addr)
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
		in.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	return &browsers{in, bufio.NewScanner(out)}
}

// open opens a stream with each cookie, and waits until all have begun.
func (br *browsers) open(b *testing.B, cookies []string) {
	for _, c := range cookies {
		fmt.Fprintln(br.in, c)
	}
	br.in.Close()
	br.await(b, "open")
}

// ended waits until all have ended.
func (br *browsers) ended(b *testing.B) { br.await(b, "ended") }

func (br *browsers) await(b *testing.B, what string) {
	b.Helper()
	if !br.out.Scan() || br.out.Text() != what {
		b.Fatalf("the browsers say %q, not %q", br.out.Text(), what)
	}
}

// playBrowsers is the main function of the process that browse started: it
// reads a cookie a line, and opens a stream with each.
func playBrowsers(addr string) {
	var begun, over sync.WaitGroup
	free := make(chan struct{}, 64) // connections that are being made
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		cookie := in.Text()
		free <- struct{}{}
		begun.Add(1)
		over.Go(func() {
			conn, err := net.Dial("tcp", addr)
			check(err)
			defer conn.Close()
			_, err = fmt.Fprintf(conn, "GET /auth/events HTTP/1.1\r\nHost: app.example.com\r\nSec-Fetch-Site: same-origin\r\nConnection: close\r\nCookie: %s\r\n\r\n", cookie)
			check(err)
			r := bufio.NewReaderSize(conn, 1<<10)
			for {
				line, err := r.ReadString('\n')
				check(err)
				if strings.HasPrefix(line, ":") {
					break
				}
			}
			begun.Done()
			<-free
			io.Copy(io.Discard, r)
		})
	}
	begun.Wait()
	fmt.Println("open")
	over.Wait()
	fmt.Println("ended")
}
