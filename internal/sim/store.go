package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/internal/record"
)

// A rec is a record of the one store that the fleet shares. Whatever happens
// on the way, the store itself does one thing at a time.
type rec struct {
	past    []version // the last is the present one
	last    uint64    // version given
	expires time.Time
	end     time.Time
	mark    []byte // not nil: it was ended
	until   time.Time
	lost    bool // acknowledged writes were
}

// A version is what a record was from one moment on.
type version struct {
	n     uint64
	value []byte
	since time.Duration
	by    *replica // nil: somebody else
	state state    // what the value says
}

// live returns the present version of the record under key, or nil. The world
// is locked.
func (w *world) live(key string) *rec {
	c := w.records[key]
	if c == nil || c.mark != nil || !time.Now().Before(c.expires) {
		return nil
	}
	return c
}

func (c *rec) now() *version { return &c.past[len(c.past)-1] }

// at returns what a reader sees who is behind by lag.
func (c *rec) at(t time.Duration) *version {
	for i := len(c.past) - 1; i > 0; i-- {
		if c.past[i].since <= t {
			return &c.past[i]
		}
	}
	return &c.past[0]
}

// write makes value the present version of the record under key.
func (c *rec) write(w *world, by *replica, key string, value []byte, s state) {
	c.last++
	c.past = append(c.past, version{c.last, value, w.now(), by, s})
	w.report(key)
}

// A handle is the store as one replica reaches it. It is a bff.Store.
type handle struct{ r *replica }

var _ bff.Store = handle{}

var (
	errStore = errors.New("store: connection refused")
	errDead  = errors.New("store: the process is dead")
)

// A fate is what becomes of a call.
type fate int

const (
	arrives  fate = iota
	refused       // it never gets there
	unclear       // it gets there, and the answer is an error
	vanishes      // it never gets there, and there is no answer
	deaf          // it gets there, and there is no answer
	late          // it gets there after the caller has given up
)

func (f fate) String() string {
	return [...]string{"arrives", "is refused", "is unclear", "vanishes", "is done without an answer", "is done late"}[f]
}

// fate draws what becomes of a call of the store.
func (h handle) fate(o op, l *luck) fate {
	w := h.r.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if out := w.outage; w.now() < out.until && (out.who == nil || out.who == h.r) {
		switch {
		case out.way == refuses:
			return refused
		case out.way == hangs:
			return vanishes
		case o != opLoad:
			return refused
		}
	}
	if w.storming && w.kinds[storeFaults] && l.chance(w.trouble) {
		return fate(1 + l.n(int(late)))
	}
	return arrives
}

// call makes one call of the store: there, the effect, and back. do runs with
// the world locked, at most once, and returns what the trace is to show.
func (h handle) call(ctx context.Context, o op, key string, do func(l *luck) string) error {
	r, w := h.r, h.r.w
	u := w.owner(key)
	in := r.lane(u, o)
	time.Sleep(w.aim(0, in))
	l := w.luck(r.id, int(o), u)
	trip := w.store
	if w.stormy() {
		trip = w.stormStore
	}
	there, back := trip.draw(&l), trip.draw(&l)
	f := h.fate(o, &l)
	effect := func() {
		var text string
		w.lock(func() { text = do(&l) })
		w.event(r, u, "%v %s", o, text)
		w.reach(r, u, o, done)
	}

	w.reach(r, u, o, sent)
	if !r.pass(&l, in) {
		return errDead
	}
	if o == opEnd && w.plan.wake {
		there = time.Duration(1 + l.n(int(1400*time.Millisecond)))
		w.wakeAll()
	}
	if f != arrives {
		w.event(r, u, "%v %v", o, f)
		w.lock(func() { h.trouble(o, u) })
	}
	if f == late {
		time.AfterFunc(3*time.Second+there*100+time.Duration(l.n(int(5*time.Second))), effect)
	}
	err := r.travel(ctx, there, in)
	if r.isDead() {
		if f == arrives && l.chance(0.5) { // it was on its way already
			time.AfterFunc(w.aim(there, in), effect)
		}
		r.pass(&l, in)
		return errDead
	}
	if err == nil {
		switch f {
		case arrives:
			effect()
			err = r.travel(ctx, back, in)
		case refused:
			err = errStore
		case unclear:
			effect()
			if err = r.travel(ctx, back, in); err == nil {
				err = errStore
			}
		case deaf:
			effect()
			err = r.travel(ctx, time.Minute, in)
		case vanishes, late:
			err = r.travel(ctx, time.Minute, in)
		}
	} else {
		w.event(r, u, "%v given up on the way", o)
	}
	w.reach(r, u, o, answered)
	if !r.pass(&l, in) {
		return errDead
	}
	return err
}

// trouble notes that a write of r's was troubled by a fault. The world is
// locked.
func (h handle) trouble(o op, u int) {
	if o != opLoad && u >= 0 {
		h.r.troubled[u] = append(h.r.troubled[u], h.r.w.now())
	}
}

func (h handle) Load(ctx context.Context, key string) ([]byte, uint64, time.Time, bool, error) {
	w := h.r.w
	// Of the call alone: one that was given up on may have its effect later.
	var value []byte
	var n uint64
	var expires time.Time
	var ok bool
	err := h.call(ctx, opLoad, key, func(l *luck) string {
		c := w.records[key]
		live := w.live(key)
		switch {
		case live == nil && c != nil && c.mark != nil && time.Now().Before(c.until):
			value = slices.Clone(c.mark)
			return fmt.Sprintf("finds the mark %s", c.mark)
		case live == nil:
			return "finds nothing"
		}
		v, note := live.now(), ""
		if w.storming && w.kinds[staleReads] && l.chance(max(0.3, w.trouble)) {
			// Of a live record only: what has ended, everybody sees.
			v = live.at(w.now() - time.Duration(l.float()*float64(w.lag)))
			if v.n != live.now().n {
				note = fmt.Sprintf(" though it is at %d", live.now().n)
			}
		}
		value, n, expires, ok = slices.Clone(v.value), v.n, live.expires, true
		return fmt.Sprintf("finds %d%s: %v", n, note, &v.state)
	})
	if err != nil {
		return nil, 0, time.Time{}, false, err
	}
	return value, n, expires, ok, nil
}

func (h handle) Create(ctx context.Context, key string, value []byte, expires, end time.Time) (bool, error) {
	w, ok := h.r.w, false
	err := h.call(ctx, opCreate, key, func(*luck) string {
		c := w.records[key]
		if w.live(key) != nil || c != nil && c.mark != nil && time.Now().Before(c.until) {
			return "finds the key taken"
		}
		c = &rec{expires: expires, end: end}
		if c.expires.After(end) {
			c.expires = end
		}
		c.write(w, h.r, key, slices.Clone(value), state{})
		w.records[key] = c
		ok = true
		return "files"
	})
	if err != nil {
		return false, err
	}
	return ok, nil
}

func (h handle) Replace(ctx context.Context, key string, n uint64, value []byte) (uint64, bool, error) {
	w, next, ok := h.r.w, uint64(0), false
	value = slices.Clone(value)
	err := h.call(ctx, opReplace, key, func(*luck) string {
		c := w.live(key)
		if c == nil {
			return fmt.Sprintf("of %d finds nothing", n)
		}
		s := w.read(key, value)
		if c.now().n != n {
			return fmt.Sprintf("of %d finds %d, and doesn't make it %v", n, c.now().n, &s)
		}
		before := c.now().state
		c.write(w, h.r, key, value, s)
		next, ok = c.last, true
		w.wrote(h.r, key, &before, &s)
		return fmt.Sprintf("of %d by %d: %v", n, next, &s)
	})
	if err != nil {
		return 0, false, err
	}
	return next, ok, nil
}

func (h handle) Touch(ctx context.Context, key string, expires time.Time) (bool, error) {
	w, ok := h.r.w, false
	err := h.call(ctx, opTouch, key, func(*luck) string {
		c := w.live(key)
		if c == nil {
			return "finds nothing"
		}
		ok = true
		if expires.After(c.end) {
			expires = c.end
		}
		if expires.After(c.expires) {
			c.expires = expires
		}
		return fmt.Sprintf("to %v", expires.Sub(w.began))
	})
	if err != nil {
		return false, err
	}
	return ok, nil
}

func (h handle) End(ctx context.Context, key string, n uint64, mark []byte, until time.Time) (bool, error) {
	w, ok := h.r.w, false
	err := h.call(ctx, opEnd, key, func(*luck) string {
		c := w.live(key)
		switch {
		case c == nil:
			return fmt.Sprintf("of %d finds nothing", n)
		case n != 0 && c.now().n != n:
			return fmt.Sprintf("of %d finds %d", n, c.now().n)
		}
		c.mark, c.until, ok = slices.Clone(mark), until, true
		w.ended(h.r, key, n, string(mark))
		w.report(key)
		return fmt.Sprintf("of %d leaves the mark %s", n, mark)
	})
	if err != nil {
		return false, err
	}
	return ok, nil
}

// A state is what a version of a session's record says, in words that are the
// same in every run of the seed.
type state struct {
	refresh, access  string
	tokenID, claim   int // by their order of appearance; 0: none
	contested        bool
	obtained, expiry time.Duration
	notBefore        time.Duration // no attempt before; 0: none
	doubts           uint32
}

func (s *state) String() string {
	text := fmt.Sprintf("%s %s until %v", s.refresh, s.access, s.expiry)
	if s.claim != 0 {
		text += fmt.Sprintf(", claim %d", s.claim)
	}
	if s.contested {
		text += ", contested"
	}
	if s.notBefore != 0 {
		text += fmt.Sprintf(", not before %v", s.notBefore)
	}
	if s.doubts != 0 {
		text += fmt.Sprintf(", %d doubts", s.doubts)
	}
	return text
}

// read opens a session's record, as nobody but the session's own requests can.
// The world is locked.
func (w *world) read(key string, value []byte) (s state) {
	o := w.sessionAt(key)
	if o == nil {
		return s
	}
	sealed, err := o.id.Open(key, value, record.Parts)
	if err != nil {
		panic("sim: a record doesn't open: " + err.Error())
	}
	part := func(i int) []byte {
		plain, err := sealed.Part(nil, i)
		if err != nil {
			panic("sim: a record's part doesn't open: " + err.Error())
		}
		return plain
	}
	head, err1 := record.ParseHead(part(record.PartHead))
	grant, err2 := record.ParseGrant(part(record.PartGrant))
	if err := errors.Join(err1, err2); err != nil {
		panic("sim: " + err.Error())
	}
	since := func(t time.Time) time.Duration {
		if t.IsZero() {
			return 0
		}
		return t.Sub(w.began)
	}
	return state{
		refresh: grant.RefreshToken, access: string(part(record.PartAccess)),
		tokenID: o.ordinal(head.TokenID), claim: o.ordinal(head.Claim.Holder), contested: head.Claim.Contested,
		obtained: since(head.AccessObtained), expiry: since(head.AccessExpiry),
		notBefore: since(head.Failure.NotBefore), doubts: head.Failure.Doubts,
	}
}

// rewrite writes u's record anew as it is, as anybody may by the contract. The
// world is not locked.
func (w *world) rewrite(u int) {
	text := ""
	w.lock(func() {
		key := w.sessions[u].key
		c := w.live(key)
		if c == nil {
			return
		}
		v := c.now()
		c.write(w, nil, key, v.value, v.state)
		text = fmt.Sprintf("somebody writes %d as %d", v.n, c.last)
	})
	if text != "" {
		w.event(nil, u, "%s", text)
	}
}

// lose takes the last write of u's record back, though it was acknowledged. As
// after a failover, versions may then be given a second time.
func (w *world) lose(u int, again bool) {
	text := ""
	w.lock(func() {
		c := w.live(w.sessions[u].key)
		if c == nil || len(c.past) < 2 {
			return
		}
		gone := c.now()
		c.past = c.past[:len(c.past)-1]
		c.lost = true
		for x := range w.watchers {
			x.broken = true // as its connection is, to the server that failed
		}
		if again {
			c.last = c.now().n
		}
		text = fmt.Sprintf("the store loses %d: %v again", gone.n, &c.now().state)
	})
	if text != "" {
		w.event(nil, u, "%s", text)
	}
}

// owner returns whose session's record key is, or -1.
func (w *world) owner(key string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.sessionAt(key); s != nil {
		return s.u
	}
	return -1
}

// ordinal names a random ID by its order of appearance in the session's
// record.
func (s *session) ordinal(id [8]byte) int {
	if id == [8]byte{} {
		return 0
	}
	if _, ok := s.ordinals[id]; !ok {
		s.ordinals[id] = len(s.ordinals) + 1
	}
	return s.ordinals[id]
}
