package sim

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/internal/seal"
)

// A world is one run: everything in it but the library itself. Nothing in it
// is drawn one after the other from one source: luck is a function of the
// seed, of the time, and of who does what, so that it doesn't depend on which
// of two goroutines the machine runs first. Trips take times that are drawn to
// the nanosecond, so that hardly ever two things happen at once.
type world struct {
	*plan
	began time.Time
	over  chan struct{} // closed when the run ends; releases what a crash left hanging
	keys  []bff.Key
	ring  *seal.Ring
	iss   *issuer

	mu       sync.Mutex
	records  map[string]*rec
	sessions []*session
	fleet    []*replica // the present ones, by slot; nil while one is replaced
	all      []*replica
	round    int
	storming bool
	counts   [ops][steps]int // since the round began
	met      []bool          // by incident
	outage   outage
	watchers map[*watcher]struct{}

	work  sync.WaitGroup // goroutines of the world's own
	hash  uint64
	lines []string // nil unless the trace is kept
	keep  bool
	res   *Result
}

// An op is a call that a replica makes.
type op int

const (
	opLoad op = iota
	opCreate
	opReplace
	opTouch
	opEnd
	opToken
	opUserInfo
	opKeys
	opMeta
	opRevoke
	opWatch
	ops
)

func (o op) String() string {
	return [ops]string{"load", "create", "replace", "touch", "end", "token", "userinfo", "keys", "metadata", "revoke", "watch"}[o]
}

// A step is a moment in a call.
type step int

const (
	sent     step = iota // by the replica
	done                 // by the other side
	answered             // at the replica
	steps
)

func (s step) String() string { return [steps]string{"sent", "done", "answered"}[s] }

// An outage keeps replicas from the store.
type outage struct {
	who   *replica // nil: all
	until time.Duration
	way   outageWay
}

type outageWay int

const (
	refuses outageWay = iota
	hangs
	readOnly
	outageWays
)

// luck is a source of chance for one purpose.
type luck uint64

// mix is the finalizer of SplitMix64.
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func (w *world) luck(what ...int) luck {
	z := mix(w.seed ^ uint64(w.now())*0x9e3779b97f4a7c15)
	for _, v := range what {
		z = mix(z ^ uint64(v+1)*0x9e3779b97f4a7c15)
	}
	return luck(z)
}

func (l *luck) next() uint64 {
	*l += 0x9e3779b97f4a7c15
	return mix(uint64(*l))
}

func (l *luck) float() float64        { return float64(l.next()>>11) / (1 << 53) }
func (l *luck) chance(p float64) bool { return l.float() < p }
func (l *luck) n(n int) int           { return int(l.next() % uint64(n)) }

// A lane is the nanosecond, of each 4096, in which somebody's calls come to
// their ends, so that things happen at the same instant only to those who do
// the same thing, for whom it makes no difference.
type lane int

const lanes = 4096

// lane returns that of a kind of call of r's for u's session.
func (r *replica) lane(u int, o op) lane { return lane(r.id%24*128 + (u+1)*16 + int(o)) }

// tabLane returns that of one of u's tabs, and incidentLane that of an
// incident.
func tabLane(u, n int) lane         { return lane(3072 + u*16 + n) }
func incidentLane(in incident) lane { return lane(3584 + in.way%512) }

// aim returns a time that is a little longer than d and ends in a lane.
func (w *world) aim(d time.Duration, l lane) time.Duration {
	return d + 1 + (time.Duration(l)-(w.now()+d+1)%lanes+lanes)%lanes
}

// now is the time since the run began.
func (w *world) now() time.Duration { return time.Since(w.began) }

// event is a line of the trace. It holds no time of the machine's and nothing
// random, so that a seed's trace is always the same; the hash doesn't depend on
// the order of lines, which is not certain within one instant. r may be nil,
// and a negative u is nobody's session.
func (w *world) event(r *replica, u int, format string, args ...any) {
	var b [256]byte
	line := fmt.Appendf(b[:0], "%14.9f ", w.now().Seconds())
	if r != nil {
		line = fmt.Appendf(line, "r%d ", r.id)
	}
	if u >= 0 {
		line = fmt.Appendf(line, "u%d ", u)
	}
	line = fmt.Appendf(line, format, args...)
	h := fnv.New64a()
	h.Write(line)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hash += mix(h.Sum64())
	w.res.Counts.Events++
	if w.keep {
		w.lines = append(w.lines, string(line))
	}
}

// fail reports a broken promise.
func (w *world) fail(format string, args ...any) {
	w.lock(func() { w.failLocked(format, args...) })
}

func (w *world) failLocked(format string, args ...any) {
	text := fmt.Sprintf("after %.9f s: ", w.now().Seconds()) + fmt.Sprintf(format, args...)
	w.res.Failures = append(w.res.Failures, text)
	if w.keep {
		w.lines = append(w.lines, "FAILURE: "+text)
	}
}

// lock runs f with the world locked.
func (w *world) lock(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// spawn runs f in a goroutine that the run waits for.
func (w *world) spawn(f func()) { w.work.Go(f) }

// stormy reports whether chance may strike.
func (w *world) stormy() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.storming
}

// sessionAt returns the session whose record is under key, or nil. The world is
// locked.
func (w *world) sessionAt(key string) *session {
	for _, s := range w.sessions {
		if s != nil && s.key == key {
			return s
		}
	}
	return nil
}

// reach notes that a call has come to a step, and lets happen what was planned
// for this moment.
func (w *world) reach(r *replica, u int, o op, s step) {
	w.mu.Lock()
	w.counts[o][s]++
	var due []incident
	if w.storming {
		for i, in := range w.incidents {
			if !w.met[i] && in.round == w.round && in.op == o && in.step == s && in.nth == w.counts[o][s] {
				w.met[i] = true
				due = append(due, in)
			}
		}
	}
	w.mu.Unlock()
	for _, in := range due {
		w.happen(r, u, in)
	}
}

// happen makes an incident happen, to the replica and the session that came to
// its moment.
func (w *world) happen(r *replica, u int, in incident) {
	l := w.luck(-1, int(in.kind), in.way, u)
	if u < 0 {
		u = l.n(w.users)
	}
	now := func() {
		w.lock(func() { w.res.Counts.Incidents[in.kind.String()]++ })
		switch in.kind {
		case crashes:
			w.kill(r, time.Second+in.length)
		case pauses:
			r.pause(in.length)
		case restarts:
			w.spawn(func() { w.replace(r) })
		case cuts:
			w.lock(func() { w.outage = outage{r, w.now() + in.length, outageWay(in.way) % outageWays} })
			w.event(r, -1, "is cut off from the store for %v (%d)", in.length, in.way%int(outageWays))
		case outages:
			w.lock(func() { w.outage = outage{nil, w.now() + in.length, outageWay(in.way) % outageWays} })
			w.event(nil, -1, "the store is away for %v (%d)", in.length, in.way%int(outageWays))
		case lostWrites:
			w.lose(u, in.way%2 == 0)
		case lateValidation:
			w.iss.rotateKeys(min(in.length, 35*time.Second))
		case forgedTokens:
			w.lock(func() { w.iss.forgeNext[u] = true })
		case commands:
			w.command(u, in.way)
		case otherWriters:
			w.rewrite(u)
		}
	}
	switch in.kind {
	case commands, restarts:
	default:
		if in.delay == 0 {
			now()
			return
		}
	}
	// Not at this very instant: it would be left to the machine who is first.
	delay := in.delay + time.Duration(1+l.n(int(time.Millisecond)))
	w.spawn(func() {
		time.Sleep(w.aim(delay, incidentLane(in)))
		now()
	})
}

// A logger writes the library's log into the trace.
type logger struct {
	w *world
	r *replica
}

func (l logger) Enabled(context.Context, slog.Level) bool { return l.w.keep }

func (l logger) Handle(_ context.Context, rec slog.Record) error {
	var s strings.Builder
	rec.Attrs(func(a slog.Attr) bool { fmt.Fprintf(&s, " %v", a); return true })
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	// Not by event: what it says of keys and times is different each time.
	l.w.lines = append(l.w.lines, fmt.Sprintf("%14.9f r%d     %v %s%s", l.w.now().Seconds(), l.r.id, rec.Level, rec.Message, s.String()))
	return nil
}

func (l logger) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l logger) WithGroup(string) slog.Handler      { return l }
