//go:build unix

package e2e

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/agglestone/bff/internal/seal"
	"github.com/agglestone/bff/internal/testserver"
)

// TestFleet has many people work on three gateways, which share a store, while
// one after another is replaced. The environment sizes it:
//
//	E2E_FLEET_CLIENTS   people (300)
//	E2E_FLEET_SECONDS   for how long: half of it for each way to end a gateway (60)
//
// An access token lasts 3 seconds, and a refresh token that comes twice ends
// the grant. So what the issuer and the store wrote down tells of every token
// spent twice, and of every one lost.
const (
	fleetSize     = 3
	fleetTTL      = 3 * time.Second
	fleetMargin   = 300 * time.Millisecond // the default: a tenth
	replaceEvery  = 5 * time.Second
	fleetPace     = time.Second // between two rounds of one person
	fleetIssuer   = "http://login.idp-e2e.org"
	claimLength   = 16 * time.Second // at the default timeouts of 10 s and twice 3 s
	claimHandover = 2 * time.Second
)

func TestFleet(t *testing.T) {
	t.Run("redis", func(t *testing.T) {
		r := testserver.StartRedis(t, testserver.RedisServer, "notify-keyspace-events E$")
		testFleet(t, "redis://"+r.Addr, newRedisLog(t, r.Addr))
	})
	t.Run("postgres", func(t *testing.T) {
		p := testserver.StartPostgres(t, "log_line_prefix=%n ", "max_connections=300")
		testFleet(t, p.URL(), &postgresLog{p: p})
	})
}

func fromEnv(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n <= 0 {
		t.Fatalf("%s = %q", name, text)
	}
	return n
}

func testFleet(t *testing.T, store string, writes storeLog) {
	f := newFleet(t, store)
	writes.begin()
	n := fromEnv(t, "E2E_FLEET_CLIENTS", 300)
	start := time.Now()
	f.signIn(n)
	t.Logf("%d people signed in within %v", n, time.Since(start).Round(time.Second))
	for _, how := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		f.phase(t, how, time.Duration(fromEnv(t, "E2E_FLEET_SECONDS", 60))*time.Second/2, writes)
	}
}

// A fleet is the gateways, what is before them and what is behind.
type fleet struct {
	t         *testing.T
	origin    string
	issuer    *issuer
	slots     []*slot
	next      atomic.Uint64
	transport *http.Transport
	ring      *seal.Ring
	keys      string
	people    []*person
	api       api
}

// newFleet starts everything.
func newFleet(t *testing.T, store string) *fleet {
	t.Helper()
	f := &fleet{t: t, api: api{seen: map[string]use{}}}
	key := make([]byte, 32)
	for i := range key {
		key[i] = byte(rand.Int())
	}
	f.keys = base64.StdEncoding.EncodeToString(key)
	var err error
	if f.ring, err = seal.NewRing([][]byte{key}, fleetIssuer, clientID); err != nil {
		t.Fatal(err)
	}
	f.origin = "http://" + serve(t, http.HandlerFunc(f.balance))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	f.issuer, err = startIssuer(ctx, fleetIssuer, clientID, f.origin+"/auth/callback", f.origin+"/",
		fmt.Sprintf("ACCESS_TTL=%d", int(fleetTTL.Seconds())), "BEHIND_PROXY=", "KEEP_ALL=1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.issuer.stop() })
	f.transport = &http.Transport{
		MaxIdleConnsPerHost: 1000,
		DialContext:         dialer(map[string]string{strings.TrimPrefix(fleetIssuer, "http://") + ":80": f.issuer.addr}),
	}
	t.Cleanup(f.transport.CloseIdleConnections)
	upstream := "http://" + serve(t, &f.api)
	path := buildFleetGateway(t)
	for i := range fleetSize {
		s := &slot{t: t, name: fmt.Sprintf("gateway%d", i), addr: fmt.Sprintf("127.0.0.1:%d", testserver.FreePort(t))}
		s.proxy = &httputil.ReverseProxy{
			Rewrite: func(r *httputil.ProxyRequest) {
				r.SetURL(&url.URL{Scheme: "http", Host: s.addr})
				r.Out.Host = r.In.Host
			},
			Transport: &http.Transport{MaxIdleConnsPerHost: 1000},
			ErrorLog:  log.New(io.Discard, "", 0),
			ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
				w.Header().Set("X-Balancer", s.name)
				http.Error(w, err.Error(), http.StatusBadGateway)
			},
		}
		out := "http://" + serve(t, &httputil.ReverseProxy{
			Rewrite: func(r *httputil.ProxyRequest) {
				r.Out.URL.Scheme, r.Out.URL.Host = "http", f.issuer.addr
				r.Out.Host = r.In.Host
				r.Out.Header.Set("X-Via", s.life())
			},
			// Node closes a connection that is idle for 5 seconds, and what was
			// sent on it a moment before is lost.
			Transport: &http.Transport{MaxIdleConnsPerHost: 1000, IdleConnTimeout: 2 * time.Second},
			ErrorLog:  log.New(io.Discard, "", 0),
		})
		s.command = func() *exec.Cmd {
			cmd := exec.Command(path)
			cmd.Env = []string{
				"BFF_LISTEN=" + s.addr,
				"BFF_ISSUER=" + fleetIssuer,
				"BFF_CLIENT_ID=" + clientID,
				"BFF_REDIRECT_URL=" + f.origin + "/auth/callback",
				"BFF_KEYS=" + f.keys,
				"BFF_STORE=" + store,
				"BFF_UPSTREAM=" + upstream,
				"BFF_INSECURE_HTTP=1",
				"HTTP_PROXY=" + out,
			}
			return cmd
		}
		s.start()
		f.slots = append(f.slots, s)
	}
	t.Cleanup(func() {
		for _, s := range f.slots {
			s.process.cmd.Process.Kill()
			<-s.process.done
			s.log.Write([]byte(s.process.log.String()))
		}
		if t.Failed() {
			text := f.issuer.log.String()
			t.Logf("the issuer wrote:\n%s", text[:min(len(text), 2000)])
			for _, s := range f.slots {
				t.Logf("%s wrote:\n%s", s.name, strings.Join(warnings.FindAllString(s.log.String(), 20), "\n"))
			}
		}
	})
	return f
}

var warnings = regexp.MustCompile(`(?m)^.*(?:WARN|ERROR|panic).*$`)

// buildFleetGateway builds the gateway without the race detector: three of
// those and the issuer are too much for two processors.
func buildFleetGateway(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "gateway")
	cmd := exec.Command("go", "build", "-o", path, "./examples/gateway")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build ./examples/gateway: %v\n%s", err, out)
	}
	return path
}

// serve runs a server on loopback until the test ends, and returns its address.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	go srv.Serve(l) // until Close
	t.Cleanup(func() { srv.Close() })
	return l.Addr().String()
}

// balance is a plain round-robin that tries nothing twice, and goes on sending
// to who is away.
func (f *fleet) balance(w http.ResponseWriter, r *http.Request) {
	f.slots[f.next.Add(1)%fleetSize].proxy.ServeHTTP(w, r)
}

// A slot is the place of one gateway, and of those that take its place.
type slot struct {
	t       *testing.T
	name    string
	addr    string
	proxy   http.Handler
	command func() *exec.Cmd
	process *process
	log     logBuffer // of all its gateways

	mu    sync.Mutex
	lives int
	away  []span // from the signal until the next one answered
}

type span struct {
	life     string
	from, to time.Time // to is zero while it lasts
	how      syscall.Signal
}

// life names the gateway that is in the slot now.
func (s *slot) life() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf("%s.%d", s.name, s.lives)
}

// start starts the next gateway and waits until it answers.
func (s *slot) start() {
	s.t.Helper()
	s.mu.Lock()
	s.lives++
	s.mu.Unlock()
	p, err := startProcess(s.name, s.command())
	if err != nil {
		s.t.Fatal(err)
	}
	if s.process != nil {
		s.log.Write([]byte(s.process.log.String()))
	}
	s.process = p
	testserver.Eventually(s.t, s.name, func() error {
		select {
		case <-p.done:
			s.t.Fatalf("%s ended at once:\n%s", s.name, p.log.String())
		default:
		}
		resp, err := http.Get("http://" + s.addr + "/healthz")
		if err != nil {
			return err
		}
		resp.Body.Close()
		return nil
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.away); n > 0 {
		s.away[n-1].to = time.Now()
	}
}

// replace ends the gateway and starts another.
func (s *slot) replace(how syscall.Signal) {
	s.t.Helper()
	life := s.life()
	s.mu.Lock()
	s.away = append(s.away, span{life: life, from: time.Now(), how: how})
	s.mu.Unlock()
	s.process.cmd.Process.Signal(how)
	select {
	case <-s.process.done:
	case <-time.After(time.Minute):
		s.t.Errorf("%s does not end on %v", life, how)
		s.process.cmd.Process.Kill()
		<-s.process.done
	}
	if code := s.process.cmd.ProcessState.ExitCode(); how == syscall.SIGTERM && code != 0 {
		s.t.Errorf("%s ended with %d:\n%s", life, code, s.process.log.String())
	}
	s.start()
}

// wasAway reports whether the slot was without a gateway at some moment.
func (s *slot) wasAway(from, to time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.away, func(a span) bool {
		return a.from.Before(to) && (a.to.IsZero() || a.to.After(from))
	})
}

// killed returns when the gateway of that name was killed, if it was.
func (f *fleet) killed(life string) (time.Time, bool) {
	for _, s := range f.slots {
		s.mu.Lock()
		away := slices.Clone(s.away)
		s.mu.Unlock()
		for _, a := range away {
			if a.life == life && a.how == syscall.SIGKILL {
				return a.from, true
			}
		}
	}
	return time.Time{}, false
}

// kills returns the names of those that were killed, and when.
func (f *fleet) kills() map[string]time.Time {
	kills := map[string]time.Time{}
	for _, s := range f.slots {
		s.mu.Lock()
		for _, a := range s.away {
			if a.how == syscall.SIGKILL {
				kills[a.life] = a.from
			}
		}
		s.mu.Unlock()
	}
	return kills
}
