//go:build unix

package e2e

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/cookiejar"
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
//	E2E_FLEET_SECONDS   how long for each way to end a gateway (60)
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
		f.phase(t, how, time.Duration(fromEnv(t, "E2E_FLEET_SECONDS", 60))*time.Second, writes)
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

// A person is one client, signed in once.
type person struct {
	name   string
	client *http.Client
	key    string // of the record
	gone   bool   // signed out; for the one who runs it
}

func nameOf(i int) string {
	return "p" + string([]byte{'a' + byte(i/676%26), 'a' + byte(i/26%26), 'a' + byte(i%26)})
}

// signIn signs n people in, each at the issuer's own page.
func (f *fleet) signIn(n int) {
	f.t.Helper()
	todo := make(chan int)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range todo {
				p, err := f.newPerson(nameOf(i))
				if err != nil {
					f.t.Errorf("%s: %v", nameOf(i), err)
					continue
				}
				mu.Lock()
				f.people = append(f.people, p)
				mu.Unlock()
			}
		})
	}
	for i := range n {
		todo <- i
	}
	close(todo)
	wg.Wait()
	if f.t.Failed() {
		f.t.FailNow()
	}
}

func (f *fleet) newPerson(name string) (*person, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	p := &person{name: name, client: &http.Client{Transport: f.transport, Jar: jar, Timeout: time.Minute}}
	resp, err := p.client.Get(f.origin + "/login?returnUrl=/whoami")
	if err != nil {
		return nil, err
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Request.URL.String(), fleetIssuer+"/interaction/") {
		return nil, fmt.Errorf("/login led to %s %s", resp.Status, resp.Request.URL.Redacted())
	}
	resp, err = p.client.PostForm(resp.Request.URL.String(), url.Values{"login": {name}})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var who struct{ Sub string }
	if err := json.NewDecoder(resp.Body).Decode(&who); err != nil || who.Sub != name || resp.Request.URL.String() != f.origin+"/whoami" {
		return nil, fmt.Errorf("the sign-in led to %s, %q, %v", resp.Request.URL.Path, who.Sub, err)
	}
	at, err := url.Parse(f.origin)
	if err != nil {
		return nil, err
	}
	for _, c := range jar.Cookies(at) {
		if id, ok := f.ring.ParseCookie(c.Value); ok {
			p.key = id.RecordKey()
		}
	}
	if p.key == "" {
		return nil, fmt.Errorf("no session cookie in %v", jar.Cookies(at))
	}
	return p, nil
}

// A refusal is an answer that nobody should get without a reason.
type refusal struct {
	who      *person
	status   int
	reason   string
	balancer string // the gateway that could not be reached
	from, to time.Time
}

// A tally is what a phase brought.
type tally struct {
	mu       sync.Mutex
	good     int
	refusals []refusal
	longest  time.Duration
}

// work has one person do something on two gateways at a time, again and again.
func (f *fleet) work(ctx context.Context, p *person, sum *tally) {
	tick := time.NewTicker(fleetPace)
	defer tick.Stop()
	for {
		var wg sync.WaitGroup
		var out atomic.Bool
		for _, path := range []string{"/whoami", "/api/" + p.name} {
			wg.Go(func() {
				if f.ask(p, path, sum) == http.StatusUnauthorized {
					out.Store(true)
				}
			})
		}
		wg.Wait()
		if out.Load() {
			p.gone = true
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// ask makes one request and judges the answer.
func (f *fleet) ask(p *person, path string, sum *tally) int {
	req, err := http.NewRequest(http.MethodGet, f.origin+path, nil)
	if err != nil {
		f.t.Error(err)
		return 0
	}
	req.Header.Set("X-CSRF", "1")
	from := time.Now()
	resp, err := p.client.Do(req)
	if err != nil {
		f.t.Errorf("GET %s: %v", path, err)
		return 0
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	to := time.Now()
	if err != nil {
		// The answer broke off: its gateway was killed.
		resp.StatusCode = http.StatusBadGateway
	}
	sum.mu.Lock()
	defer sum.mu.Unlock()
	sum.longest = max(sum.longest, to.Sub(from))
	if resp.StatusCode == http.StatusOK {
		sum.good++
		if !strings.Contains(string(body), `"sub":"`+p.name+`"`) && string(body) != p.name {
			f.t.Errorf("GET %s as %s = %q: that is somebody else's", path, p.name, body)
		}
		return resp.StatusCode
	}
	sum.refusals = append(sum.refusals, refusal{p, resp.StatusCode, resp.Header.Get("Bff-Reason"), resp.Header.Get("X-Balancer"), from, to})
	return resp.StatusCode
}

// phase has everybody work while one gateway after another is replaced.
func (f *fleet) phase(t *testing.T, how syscall.Signal, d time.Duration, writes storeLog) {
	t.Helper()
	before := len(f.issuer.stats(t).Refreshes)
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	sum := &tally{}
	var wg sync.WaitGroup
	working := 0
	for _, p := range f.people {
		if !p.gone {
			working++
			wg.Go(func() { f.work(ctx, p, sum) })
		}
	}
	replaced := 0
	for tick := time.NewTicker(replaceEvery); ; {
		select {
		case <-tick.C:
			f.slots[replaced%fleetSize].replace(how)
			replaced++
			continue
		case <-ctx.Done():
			tick.Stop()
		}
		break
	}
	wg.Wait()
	stats := f.issuer.stats(t)
	refreshes := stats.Refreshes[before:]
	if n := stats.Token["authorization_code"]; n != len(f.people) {
		t.Errorf("the issuer gave %d people tokens, want %d", n, len(f.people))
	}
	f.judge(t, how, sum, refreshes, stats, writes)
	failed := 0
	for _, r := range refreshes {
		if r.Error != "" {
			failed++
		}
	}
	t.Logf("%v: %d people for %v, %d gateways replaced: %d requests answered well, the slowest in %v; %d refreshes (%.0f a second), %d refused",
		how, working, d, replaced, sum.good, sum.longest.Round(time.Millisecond), len(refreshes)-failed, float64(len(refreshes)-failed)/d.Seconds(), failed)
	// Everybody needed a token every three seconds, or the test proves little.
	if least := working * int(d/fleetTTL) / 2; len(refreshes)-failed < least {
		t.Errorf("%d refreshes, want %d at least: this machine can't carry so many people", len(refreshes)-failed, least)
	}
}

// judge checks every answer that was not good, and every refresh.
func (f *fleet) judge(t *testing.T, how syscall.Signal, sum *tally, refreshes []issuerRefresh, stats issuerStats, writes storeLog) {
	t.Helper()
	when := writes.writes(t)
	out, waited, unreachable := 0, 0, 0
	told := map[*person]bool{}
	for _, r := range sum.refusals {
		switch {
		case r.status == http.StatusBadGateway && r.reason == "":
			unreachable++
			s := f.slots[slices.IndexFunc(f.slots, func(s *slot) bool { return r.balancer == "" || s.name == r.balancer })]
			if r.balancer != "" && !s.wasAway(r.from, r.to) {
				t.Errorf("%s was there and not reached at %v", s.name, r.to)
			}
		case r.status == http.StatusUnauthorized:
			if told[r.who] {
				continue
			}
			told[r.who] = true
			out++
			why, ok := "", false
			if how == syscall.SIGKILL && r.reason == "refresh_rejected" {
				why, ok = f.whyLost(r.who, refreshes, when[r.who.key])
			}
			if !ok {
				t.Errorf("%s was signed out (%s) at %v: %s", r.who.name, r.reason, r.to, why)
			} else {
				t.Logf("%s was signed out: %s", r.who.name, why)
			}
		case how == syscall.SIGKILL && r.status == http.StatusServiceUnavailable && r.reason == "issuer_unavailable":
			waited++
			if why, ok := f.whyWaited(r, when[r.who.key]); !ok {
				t.Errorf("%s was refused (%d %s) at %v: %s", r.who.name, r.status, r.reason, r.to, why)
			}
		default:
			t.Errorf("%s was refused: %d %s after %v", r.who.name, r.status, r.reason, r.to.Sub(r.from))
		}
	}
	t.Logf("%v: %d requests met a gateway that was away, %d waited in vain for a killed one, %d people were signed out", how, unreachable, waited, out)

	// One refresh per session and expiry: between two there is a token's life.
	last := map[string]issuerRefresh{}
	for _, r := range refreshes {
		if r.Error != "" {
			if how == syscall.SIGTERM {
				t.Errorf("the issuer refused %s's refresh by %s: %s", r.Account, r.Via, r.Error)
			}
			continue
		}
		if prev, ok := last[r.Account]; ok {
			if apart := time.Duration(r.Ended-prev.Began) * time.Millisecond; apart < fleetTTL-fleetMargin {
				t.Errorf("%s's token was refreshed twice within %v, by %s and %s", r.Account, apart, prev.Via, r.Via)
			}
		}
		last[r.Account] = r
	}
	f.api.check(t, stats)
}

// settle is how long after a process was killed what it had sent may still
// arrive.
const settle = 2 * time.Second

// whyLost finds the named case (DECISIONS.md, D29) that ended a session: the
// issuer answered a gateway that was killed before it could store the answer.
func (f *fleet) whyLost(p *person, refreshes []issuerRefresh, writes []time.Time) (string, bool) {
	var last *issuerRefresh
	for _, r := range refreshes {
		if r.Account != p.name {
			continue
		}
		if r.Error == "" {
			last = &r
			continue
		}
		if last == nil {
			return "the issuer refused a token without having replaced it", false
		}
		break
	}
	if last == nil {
		return "the issuer refused nothing", false
	}
	answered := time.UnixMilli(last.Ended)
	died, ok := f.killed(last.Via)
	if !ok {
		return fmt.Sprintf("the last answer went to %s, which was not killed", last.Via), false
	}
	// Stored is an answer that was followed by a write before its gateway died.
	for _, w := range writes {
		if w.After(answered) && w.Before(died) {
			return fmt.Sprintf("%s, killed at %v, had stored the answer of %v at %v", last.Via, died, answered, w), false
		}
	}
	began := time.UnixMilli(last.Began)
	if began.After(died.Add(settle)) {
		return fmt.Sprintf("%s asked at %v and was killed at %v", last.Via, began, died), false
	}
	if answered.After(died) {
		return fmt.Sprintf("the answer to %s was lost: it was killed %v before", last.Via, answered.Sub(died)), true
	}
	return fmt.Sprintf("%s was killed %v after the issuer's answer, and before it was stored", last.Via, died.Sub(answered)), true
}

// whyWaited reports whether a session's claim was held by a gateway that was
// killed: nobody wrote to the record from then on until the claim ran out.
func (f *fleet) whyWaited(r refusal, writes []time.Time) (string, bool) {
	for _, died := range f.kills() {
		if r.to.Before(died) || r.from.After(died.Add(claimLength+claimHandover+settle)) {
			continue
		}
		quiet := !slices.ContainsFunc(writes, func(w time.Time) bool {
			return w.After(died.Add(settle)) && w.Before(r.to) && w.Before(died.Add(claimLength-settle))
		})
		if quiet {
			return "", true
		}
	}
	return fmt.Sprintf("no claim of a killed gateway explains it; writes at %v", writes), false
}

// An api is what the gateways proxy to. It notes which token came for whom.
type api struct {
	mu   sync.Mutex
	seen map[string]use // by token
}

type use struct {
	name string
	last time.Time
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/")
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	a.mu.Lock()
	u := a.seen[token]
	if u.name != "" && u.name != name {
		ok = false
	}
	a.seen[token] = use{name, time.Now()}
	a.mu.Unlock()
	if !ok {
		http.Error(w, "not your token", http.StatusForbidden)
		return
	}
	io.WriteString(w, name)
}

// check compares what came with what the issuer gave, and to whom.
func (a *api) check(t *testing.T, stats issuerStats) {
	t.Helper()
	issued := map[string]bool{}
	for _, i := range stats.Issued {
		if i.Kind == "access" {
			issued[i.Value] = true
			if u, ok := a.used(i.Value); ok && i.Account != u.name {
				t.Errorf("the API got %s's token for %s", i.Account, u.name)
			} else if ok {
				if late := u.last.Sub(time.UnixMilli(i.At)); late > fleetTTL+settle {
					t.Errorf("the API got %s's token %v after it was issued", i.Account, late)
				}
			}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for token, u := range a.seen {
		if !issued[token] {
			t.Errorf("the API got a token for %s that the issuer never gave", u.name)
		}
	}
}

func (a *api) used(token string) (use, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	u, ok := a.seen[token]
	return u, ok
}

// A storeLog tells when which session's record was written.
type storeLog interface {
	begin() // once the gateways run
	writes(t *testing.T) map[string][]time.Time
}

// A redisLog listens to Redis's own events.
type redisLog struct {
	conn net.Conn
	mu   sync.Mutex
	list map[string][]time.Time
}

func newRedisLog(t *testing.T, addr string) *redisLog {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	l := &redisLog{conn: conn, list: map[string][]time.Time{}}
	if _, err := io.WriteString(conn, "SUBSCRIBE __keyevent@0__:set\r\n"); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // until the connection is closed
		defer close(done)
		in := bufio.NewScanner(conn)
		for in.Scan() {
			if key, ok := strings.CutPrefix(in.Text(), "bff:s"); ok {
				l.mu.Lock()
				l.list["s"+key] = append(l.list["s"+key], time.Now())
				l.mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return l
}

func (l *redisLog) begin() {}

func (l *redisLog) writes(t *testing.T) map[string][]time.Time {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	list := map[string][]time.Time{}
	for key, times := range l.list {
		list[key] = slices.Clone(times)
	}
	return list
}

// A postgresLog has a trigger write to the server's log.
type postgresLog struct{ p *testserver.Postgres }

func (l *postgresLog) begin() {
	l.p.Exec(`CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN RAISE LOG 'wrote %', NEW.record_key; RETURN NULL; END $$`)
	l.p.Exec(`CREATE TRIGGER tell AFTER UPDATE OF version ON bff_records FOR EACH ROW EXECUTE FUNCTION tell()`)
}

var wrote = regexp.MustCompile(`(?m)^(\d+)\.(\d{3}) LOG:  wrote (s\S+)$`)

func (l *postgresLog) writes(t *testing.T) map[string][]time.Time {
	t.Helper()
	list := map[string][]time.Time{}
	for _, m := range wrote.FindAllStringSubmatch(l.p.Output(), -1) {
		ms, err := strconv.ParseInt(m[1]+m[2], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		list[m[3]] = append(list[m[3]], time.UnixMilli(ms))
	}
	if len(list) == 0 {
		t.Error("PostgreSQL's log tells of no write")
	}
	return list
}
