package sim

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/agglestone/bff"
)

// A replica is one process of the application: a BFF with its own memory, its
// own way to the store and to the issuer.
type replica struct {
	w       *world
	id      int
	slot    int
	auth    *bff.BFF
	handler http.Handler
	dead    chan struct{}

	// Guarded by the world's lock.
	killed  bool
	diedAt  time.Duration
	leaving bool // no new requests
	serving int
	pauses  []span
	resumed chan struct{} // closed when a pause ends before its time
	claims  []claim       // the last that it wrote, by user

	// When a write of its in a user's record met with a fault.
	troubled [][]time.Duration
}

// A span is a time of the run.
type span struct{ from, to time.Duration }

// A claim is one that a replica has written.
type claim struct {
	n     int
	since time.Duration
}

const appURL = "https://app.example.com"

// start puts a new replica into a slot of the fleet.
func (w *world) start(slot int) *replica {
	r := &replica{w: w, slot: slot, dead: make(chan struct{}), resumed: make(chan struct{}), claims: make([]claim, w.users), troubled: make([][]time.Duration, w.users)}
	w.lock(func() {
		r.id = len(w.all)
		w.all = append(w.all, r)
	})
	api := bff.Upstream{URL: "https://api.example.com/v1", StripPrefix: "/api", Transport: upstream{r}}
	var at bff.Store = handle{r}
	if w.watch {
		at = watchedHandle{handle{r}}
	}
	cacheSize := 0
	if w.cache {
		cacheSize = 100
	}
	auth, err := bff.New(context.Background(), bff.Config{
		Issuer:      issuerURL,
		ClientID:    clientID,
		RedirectURL: appURL + "/auth/callback",
		Keys:        w.keys,
		Store:       at,
		CacheSize:   cacheSize,
		IdleTimeout: w.idle,

		CacheMaxStale: maxStale,

		UserInfo:   w.userInfo,
		HTTPClient: &http.Client{Transport: wire{r}},
		Logger:     slog.New(logger{w: w, r: r}),
		// The store of the simulation has no tags.
		NoBackchannelLogout: true,
	})
	if err != nil {
		panic(err) // the configuration is ours
	}
	r.auth = auth
	mux := http.NewServeMux()
	mux.Handle("/page", auth.ProtectFunc(page))
	mux.Handle("/api/", auth.Proxy(api))
	r.handler = auth.Routes(mux)
	if w.kinds[lateValidation] {
		// It must know the keys: the time of a first attempt that fails
		// would be followed by one that the library's jitter decides.
		w.signIn(r, -1)
	}
	w.lock(func() { w.fleet[slot] = r })
	w.event(r, -1, "starts")
	return r
}

// page answers with the access token, as a handler would use it.
func page(w http.ResponseWriter, r *http.Request) {
	s, _ := bff.SessionFromContext(r.Context())
	token, err := s.AccessToken(r.Context())
	if err != nil {
		p, ok := err.(*bff.Problem)
		if !ok {
			panic(err)
		}
		p.ServeHTTP(w, r)
		return
	}
	io.WriteString(w, token.Reveal())
}

// An upstream is the API behind the proxy. It answers with the token.
type upstream struct{ r *replica }

func (t upstream) RoundTrip(req *http.Request) (*http.Response, error) {
	w := t.r.w
	token := strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
	res := &http.Response{
		StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: req,
		Header: http.Header{"Content-Type": {"text/plain"}}, ContentLength: int64(len(token)), Body: io.NopCloser(strings.NewReader(token)),
	}
	l := w.luck(t.r.id, int(ops), len(token))
	if w.kinds[fickleAPI] && w.stormy() && l.chance(0.1) {
		w.event(t.r, -1, "the API refuses %s", token)
		res.StatusCode = http.StatusUnauthorized
	}
	return res, nil
}

func (r *replica) isDead() bool {
	select {
	case <-r.dead:
		return true
	default:
		return false
	}
}

// pass holds a goroutine of the replica's as long as the process is stopped. It
// reports false if it won't go on: then the goroutine waited for the end of the
// run, and whatever it does has no effect.
func (r *replica) pass(l *luck, in lane) bool {
	w := r.w
	for held := false; ; held = true {
		w.mu.Lock()
		dead, until, resumed := r.killed, time.Duration(0), r.resumed
		if n := len(r.pauses); n > 0 {
			until = r.pauses[n-1].to
		}
		w.mu.Unlock()
		switch {
		case dead:
			<-w.over
			return false
		case w.now() >= until:
			if held { // those that were held go on one after the other
				time.Sleep(w.aim(time.Duration(l.n(int(time.Millisecond))), in))
			}
			return true
		}
		timer := time.NewTimer(until - w.now())
		select {
		case <-timer.C:
		case <-resumed:
		case <-r.dead:
		}
		timer.Stop()
	}
}

// travel lets the time of a trip pass. It returns early when ctx ends, with its
// error, and when the replica dies.
func (r *replica) travel(ctx context.Context, d time.Duration, in lane) error {
	timer := time.NewTimer(r.w.aim(d, in))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-r.dead:
		return nil
	}
}

// kill ends a replica for ever: nothing that it does has an effect any more. A
// new one takes its slot after a while.
func (w *world) kill(r *replica, after time.Duration) {
	gone := false
	w.lock(func() {
		if gone = r.killed; gone {
			return
		}
		r.killed, r.diedAt = true, w.now()
		if w.fleet[r.slot] == r {
			w.fleet[r.slot] = nil
		} else {
			gone = true // another is there already
		}
		close(r.dead)
	})
	w.event(r, -1, "is killed")
	if gone {
		return
	}
	w.spawn(func() {
		time.Sleep(after)
		w.start(r.slot)
	})
}

// pause stops a replica for d.
func (r *replica) pause(d time.Duration) {
	r.w.lock(func() { r.pauses = append(r.pauses, span{r.w.now(), r.w.now() + d}) })
	r.w.event(r, -1, "is stopped for %v", d)
}

// wakeAll ends all pauses and outages.
func (w *world) wakeAll() {
	w.event(nil, -1, "whoever was stopped or cut off is back")
	w.mu.Lock()
	defer w.mu.Unlock()
	w.outage.until = min(w.outage.until, w.now())
	for _, r := range w.all {
		if n := len(r.pauses); n > 0 && r.pauses[n-1].to > w.now() {
			r.pauses[n-1].to = w.now()
			close(r.resumed)
			r.resumed = make(chan struct{})
		}
	}
}

// replace shuts a replica down as a deployment does, with a new one in its
// slot: it takes no more requests, ends those that it has, and closes.
func (w *world) replace(r *replica) {
	skip := false
	w.lock(func() {
		skip = r.killed || r.leaving
		r.leaving = true
	})
	if skip {
		return
	}
	w.event(r, -1, "is told to stop")
	w.start(r.slot)
	w.shut(r)
}

// shut waits for a replica's requests and closes it.
func (w *world) shut(r *replica) {
	for {
		serving := 0
		w.lock(func() { serving = r.serving })
		if serving == 0 || r.isDead() {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if r.isDead() {
		cancel() // a dead process doesn't wait
	}
	err := r.auth.Close(ctx)
	if err != nil && !r.isDead() {
		w.fail("replica %d: Close = %v", r.id, err)
	}
	if !r.isDead() {
		w.event(r, -1, "is closed")
	}
}
