//go:build unix

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

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
