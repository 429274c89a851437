package sim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"
)

// A kind is one of the ways in which the world can be unkind. A run has few of
// them, mostly one or none: what is left must then account for everything.
type kind int

const (
	slowTrips      kind = iota // the store and the issuer, within their time-outs
	storeFaults                // calls of the store fail, before or after they had their effect, or hang
	staleReads                 // loads give older versions of a live record
	grantFaults                // token requests fail, before or after the issuer granted them, or hang
	vagueRefusals              // the issuer refuses without naming the grant
	lateValidation             // what came can't be validated for a while, or is malformed
	forgedTokens               // what came fails validation for good
	crashes                    // replicas stop for ever
	pauses                     // replicas stop for a while
	restarts                   // replicas are told to stop, and are replaced
	cuts                       // a replica is cut off from the store
	outages                    // the store is away, or refuses writes, for everybody
	lostWrites                 // the store loses writes that it has acknowledged
	commands                   // sessions are ended from outside while they are refreshed
	otherWriters               // somebody else writes records
	fickleAPI                  // the API refuses a token that is good
	kinds
)

var kindNames = [kinds]string{
	"slow trips", "store faults", "stale reads", "grant faults", "vague refusals", "late validation", "forged tokens", "crashes",
	"pauses", "restarts", "cuts", "outages", "lost writes", "commands", "other writers", "fickle API",
}

func (k kind) String() string { return kindNames[k] }

// often says how often each kind is drawn, relative to the others.
var often = [kinds]int{
	slowTrips: 9, storeFaults: 14, staleReads: 8, grantFaults: 8, vagueRefusals: 3, lateValidation: 10, forgedTokens: 2, crashes: 8,
	pauses: 12, restarts: 5, cuts: 6, outages: 6, lostWrites: 3, commands: 8, otherWriters: 8, fickleAPI: 3,
}

// A reuse is what the issuer makes of a refresh token that it sees again.
type reuse int

const (
	endsGrant reuse = iota // the whole family dies (RFC 9700, section 4.14.2)
	isRefused              // the second request is refused, and nothing else
	isWelcome              // there is no rotation
	reuseKinds
)

func (r reuse) String() string {
	return [reuseKinds]string{"ends the grant", "is refused", "is welcome"}[r]
}

// A speed is the range of a one-way trip, from which trips are drawn with equal
// chances for each order of magnitude.
type speed struct{ least, most time.Duration }

func (s speed) draw(l *luck) time.Duration {
	return time.Duration(float64(s.least) * math.Pow(float64(s.most)/float64(s.least), l.float()))
}

// A plan is all that a seed decides before the run begins.
type plan struct {
	seed  uint64
	kinds [kinds]bool

	replicas, users, tabs, rounds int

	reuse    reuse
	idToken  bool // comes with each refresh
	userInfo bool // is asked with each refresh
	life     time.Duration
	idle     time.Duration

	store, wire           speed
	stormStore, stormWire speed
	storm                 time.Duration // how long a round's faults and requests last
	trouble               float64       // the chance of a fault, where there is a kind that has chances
	lag                   time.Duration // of stale reads
	think                 speed         // between two requests of a tab
	wake                  bool          // whoever is stopped or cut off is back when somebody else is about to end the session

	watch bool // the store reports changes
	cache bool // replicas keep what they read, for maxStale

	incidents []incident
}

// maxStale is how old what a replica's cache says may be.
const maxStale = 4 * time.Second

// An incident is something that happens once: when the given step of the given
// call is reached for the nth time in a round, anywhere in the fleet.
type incident struct {
	kind   kind
	round  int
	op     op
	step   step
	nth    int
	delay  time.Duration // after that
	length time.Duration
	way    int // which of several
}

func (i incident) String() string {
	return fmt.Sprintf("%v(%d) for %v, round %d, %v after %v %v %d", i.kind, i.way, i.length, i.round, i.delay, i.op, i.step, i.nth)
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// newPlan returns the plan of a seed.
func newPlan(seed uint64) *plan {
	r := rand.New(rand.NewPCG(seed, 0x5eed))
	p := &plan{
		seed:     seed,
		replicas: 2 + r.IntN(3),
		users:    pick(r, 1, 1, 2),
		tabs:     2 + r.IntN(4),
		rounds:   2 + r.IntN(3),
		reuse:    pick(r, endsGrant, endsGrant, endsGrant, endsGrant, isRefused, isRefused, isWelcome),
		idToken:  r.IntN(2) == 0,
		userInfo: r.IntN(5) == 0,
		life:     pick(r, 3*time.Second, 3*time.Second, 20*time.Second, 90*time.Second, 15*time.Minute),
		store:    pick(r, speed{50 * time.Microsecond, 2 * time.Millisecond}, speed{time.Millisecond, 80 * time.Millisecond}),
		wire:     pick(r, speed{2 * time.Millisecond, 50 * time.Millisecond}, speed{50 * time.Millisecond, 800 * time.Millisecond}),
		storm:    pick(r, 2*time.Second, 8*time.Second, 25*time.Second),
		trouble:  pick(r, 0.03, 0.1, 0.3),
		lag:      pick(r, 20*time.Millisecond, 300*time.Millisecond, 3*time.Second, 8*time.Second),
		think:    pick(r, speed{time.Microsecond, 20 * time.Millisecond}, speed{10 * time.Millisecond, 2 * time.Second}, speed{time.Millisecond, 8 * time.Second}),
	}
	// Half of it is sure, from any request on: longer than from one round to
	// the next.
	p.idle = 2*p.life + time.Duration((5+10*r.Float64())*float64(time.Minute))
	for range pick(r, 0, 1, 1, 1, 1, 1, 2, 2, 3) {
		p.add(r, drawKind(r))
	}
	if p.kinds[lateValidation] && !p.idToken && !p.userInfo {
		p.idToken = true
	}
	if p.kinds[staleReads] && r.IntN(2) == 0 {
		p.add(r, otherWriters) // so that there is more to be behind of
	}
	if p.kinds[restarts] && r.IntN(2) == 0 {
		p.add(r, commands) // so that there is more to be done while closing
	}
	p.stormStore, p.stormWire = p.store, p.wire
	if p.kinds[slowTrips] {
		p.stormStore = pick(r, speed{time.Millisecond, 1400 * time.Millisecond}, speed{1100 * time.Millisecond, 1450 * time.Millisecond})
		p.stormWire = pick(r, speed{50 * time.Millisecond, 4900 * time.Millisecond}, speed{4 * time.Second, 4950 * time.Millisecond})
		if r.IntN(2) == 0 {
			p.add(r, storeFaults)
		}
	}
	p.wake = r.IntN(2) == 0
	// Whoever hears of a change finds it; and to listen for hours takes time.
	p.watch = !p.kinds[staleReads] && p.life < 10*time.Minute && r.IntN(3) == 0
	p.cache = p.users == 1 && r.IntN(3) == 0 // which part of it a session is kept in is left to chance
	return p
}

func drawKind(r *rand.Rand) kind {
	total := 0
	for _, n := range often {
		total += n
	}
	n := r.IntN(total)
	for k := kind(0); ; k++ {
		if n -= often[k]; n < 0 {
			return k
		}
	}
}

// add adds a kind and what happens once because of it.
func (p *plan) add(r *rand.Rand, k kind) {
	if p.kinds[k] {
		return
	}
	p.kinds[k] = true
	times := 0
	switch k {
	case lateValidation, cuts, outages, lostWrites, forgedTokens:
		times = 1 + r.IntN(2)
	case crashes, pauses, restarts, commands:
		times = 1 + r.IntN(3)
	case otherWriters:
		times = 3 + r.IntN(10)
	}
	for range times {
		i := incident{kind: k, round: r.IntN(p.rounds), way: r.IntN(1 << 16)}
		i.op, i.step = pick(r, opReplace, opReplace, opToken, opToken, opToken, opLoad, opUserInfo, opKeys), step(r.IntN(int(steps)))
		i.nth = 1 + r.IntN(3)
		if i.op == opLoad {
			i.nth = 1 + r.IntN(12)
		}
		if r.IntN(2) == 0 {
			i.delay = time.Duration(r.Int64N(int64(20 * time.Millisecond)))
		}
		claim := 15 * time.Second
		i.length = pick(r,
			time.Duration(r.Int64N(int64(5*time.Second))),
			claim+time.Duration(r.Int64N(int64(4*time.Second)))-2*time.Second,
			claim+time.Duration(r.Int64N(int64(30*time.Second))))
		p.incidents = append(p.incidents, i)
	}
}

func (p *plan) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "seed %d: %d replicas, %d users with %d tabs, %d rounds of %v; tokens of %v, ID token %v, userinfo %v, reuse %v; idle time-out %v; store %v-%v, wire %v-%v, in a storm %v-%v and %v-%v, think %v-%v; kinds:",
		p.seed, p.replicas, p.users, p.tabs, p.rounds, p.storm, p.life, p.idToken, p.userInfo, p.reuse, p.idle,
		p.store.least, p.store.most, p.wire.least, p.wire.most,
		p.stormStore.least, p.stormStore.most, p.stormWire.least, p.stormWire.most, p.think.least, p.think.most)
	calm := true
	for k, on := range p.kinds {
		if on {
			calm = false
			fmt.Fprintf(&s, " %v,", kind(k))
		}
	}
	if calm {
		s.WriteString(" none")
	}
	fmt.Fprintf(&s, "; trouble %v, lag %v, wake %v, watch %v, cache %v", p.trouble, p.lag, p.wake, p.watch, p.cache)
	for _, i := range p.incidents {
		fmt.Fprintf(&s, "\n  %v", i)
	}
	return s.String()
}
