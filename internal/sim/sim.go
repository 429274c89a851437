// Package sim is a deterministic simulator of a fleet: some replicas of an
// application that share a store and an issuer, and users who keep them busy.
// The replicas run the library itself; store, issuer, network and processes
// are simulated, and a seed decides how long everything takes and what goes
// wrong. [Run] makes one run of one seed, in a testing/synctest bubble, whose
// clock costs nothing. It must hold that
//
//   - a refresh token is presented once, unless one of the named cases struck
//     that no implementation can prevent (DECISIONS.md, D29), and where nothing
//     is in the way there is one token request for each access token;
//   - nobody is signed out but by a command, by the issuer's decision, or
//     because of such a case;
//   - what has ended stays ended, and nobody is given a token of a session that
//     had ended before they asked;
//   - tokens are lent out only once they are stored, none that arrived is
//     dropped, nothing is revoked while its session lives, and what arrives for
//     a session that has ended is revoked;
//   - a 401 and a 503 have their reasons, and once the faults are over everybody
//     is served again;
//   - no goroutine is left.
package sim

import (
	"context"
	"encoding/base64"
	"slices"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/internal/seal"
)

// A Result is what came of a run.
type Result struct {
	Plan     string
	Failures []string // the broken promises
	Trace    []string // what happened, if it was kept
	Hash     uint64   // of what happened
	Counts   Counts
}

// Counts say how much happened.
type Counts struct {
	Runs, Events, Requests, TokenRequests int

	Incidents map[string]int // by kind
	Cases     map[string]int // refresh tokens that were presented twice, by named case
	SignOuts  map[string]int // sessions that were ended as a conclusion, by reason
}

// Add adds d to c.
func (c *Counts) Add(d *Counts) {
	c.Runs += d.Runs
	c.Events += d.Events
	c.Requests += d.Requests
	c.TokenRequests += d.TokenRequests
	for _, m := range []struct {
		to   *map[string]int
		from map[string]int
	}{{&c.Incidents, d.Incidents}, {&c.Cases, d.Cases}, {&c.SignOuts, d.SignOuts}} {
		if *m.to == nil {
			*m.to = map[string]int{}
		}
		for k, n := range m.from {
			(*m.to)[k] += n
		}
	}
}

// Run makes the run of a seed, and keeps its trace if asked to. It must be
// called in a testing/synctest bubble.
func Run(seed uint64, keep bool) *Result {
	w := &world{
		plan: newPlan(seed), began: time.Now(), over: make(chan struct{}), keep: keep,
		records: map[string]*rec{}, watchers: map[*watcher]struct{}{}, res: &Result{},
	}
	w.res.Plan = w.plan.String()
	w.res.Counts = Counts{Runs: 1, Incidents: map[string]int{}, Cases: map[string]int{}, SignOuts: map[string]int{}}
	w.iss = newIssuer(w)
	w.iss.families = make([]*family, w.users)
	w.sessions = make([]*session, w.users)
	w.fleet = make([]*replica, w.replicas)
	w.met = make([]bool, len(w.incidents))
	key := bff.NewKey()
	w.keys = []bff.Key{key}
	raw, err := base64.StdEncoding.DecodeString(key.Reveal())
	if err != nil {
		panic(err)
	}
	if w.ring, err = seal.NewRing([][]byte{raw}, issuerURL, clientID); err != nil {
		panic(err)
	}

	for i := range w.fleet {
		w.start(i)
	}
	for u := range w.users {
		l := w.luck(-4, u)
		w.signIn(w.serving(&l), u)
	}
	for round := range w.rounds {
		w.play(round)
	}
	w.close()
	w.lock(w.audit)
	w.res.Hash, w.res.Trace = w.hash, w.lines
	return w.res
}

// play is one round: quiet until the access tokens run out, a storm of
// requests and faults, and the calm after it.
func (w *world) play(round int) {
	l := w.luck(-5, round)
	var due time.Duration
	w.lock(func() {
		for _, s := range w.sessions {
			if s.over == 0 {
				due = max(due, w.records[s.key].now().state.expiry)
			}
		}
	})
	margin := float64(min(w.life/10, time.Minute))
	switch l.n(4) {
	case 0: // while it still serves
		due -= time.Duration(l.float() * margin)
	case 1: // while it ends
		due -= time.Duration(l.float() * 0.1 * margin)
	default:
		due += time.Duration(l.float() * float64(min(w.life, time.Minute)))
	}
	time.Sleep(max(0, due-w.now()))

	w.lock(func() {
		w.round, w.storming = round, true
		w.counts = [ops][steps]int{}
	})
	w.event(nil, -1, "round %d: storm", round)
	until := w.now() + w.storm
	done := make(chan struct{})
	tabs := 0
	for u := range w.users {
		if w.isOver(u) {
			continue
		}
		for n := range w.tabs {
			tabs++
			go func() {
				w.tab(u, n, until)
				done <- struct{}{}
			}()
		}
	}
	for range tabs {
		<-done
	}
	time.Sleep(time.Duration(1 + l.n(int(time.Millisecond)))) // not while their answers arrive
	w.lock(func() {
		w.storming = false
		w.outage.until = min(w.outage.until, w.now())
	})
	w.event(nil, -1, "round %d: calm", round)
	for u := range w.users {
		w.probe(u)
	}
}

// probe asks until u is served again.
func (w *world) probe(u int) {
	for limit := w.now() + 4*time.Minute; !w.isOver(u); {
		l := w.luck(-6, u)
		if w.now() > limit {
			w.fail("u%d: not well again 4 minutes after the storm", u)
			return
		}
		if r := w.serving(&l); r != nil && w.ask(context.Background(), r, u, "GET", "/page").status == 200 {
			return
		}
		time.Sleep(time.Duration((1 + l.float()) * float64(time.Second)))
	}
}

// close ends the run.
func (w *world) close() {
	time.Sleep(90 * time.Second) // nothing is in flight for longer
	var all []*replica
	w.lock(func() { all = slices.Clone(w.all) })
	for _, r := range all {
		if !r.isDead() {
			w.shut(r)
		}
	}
	close(w.over)
	for _, r := range all {
		if r.isDead() {
			w.shut(r)
		}
	}
	w.work.Wait()
	time.Sleep(time.Minute) // what the dead left goes home
}
