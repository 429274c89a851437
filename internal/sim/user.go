package sim

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/agglestone/bff/internal/seal"
)

// A session is a user's sign-in here.
type session struct {
	u        int
	cookie   string
	id       seal.ID
	key      string
	ordinals map[[8]byte]int

	// Guarded by the world's lock.
	over    time.Duration            // when it ended; 0: not yet
	mark    string                   // that it left
	leaving time.Duration            // when the first command was given; 0: none
	excused string                   // the last named case that struck
	refused int                      // how often the issuer refused vaguely
	access  map[string]time.Duration // every access token that was stored, and its end
}

// An exchange is one request to the application and its answer.
type exchange struct {
	u          int
	method     string
	path       string
	by         *replica
	from, to   time.Duration
	status     int
	reason     string
	retryAfter time.Duration
	token      string
	location   string
	cookies    []*http.Cookie
	gone       bool // the replica died, or the client gave up
}

// A recorder keeps an answer.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header { return r.header }
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}
func (r *recorder) Write(p []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(p)
}

// send sends a request to a replica and waits for the answer, as long as ctx
// and the replica last.
func (w *world) send(ctx context.Context, r *replica, u int, method, path string, header http.Header) *exchange {
	x := &exchange{u: u, method: method, path: path, by: r, from: w.now()}
	target, err := url.ParseRequestURI(path)
	if err != nil {
		panic(err)
	}
	req := (&http.Request{
		Method: method, URL: target, RequestURI: path, Host: "app.example.com", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Body: http.NoBody, RemoteAddr: "192.0.2.1:49152",
	}).WithContext(ctx)
	w.lock(func() { r.serving++ })
	rec, served := &recorder{header: http.Header{}}, make(chan struct{})
	go func() {
		defer func() {
			if p := recover(); p != nil {
				w.fail("u%d: %s %s at replica %d: the handler panicked: %v\n%s", u, method, path, r.id, p, debug.Stack())
			}
			w.lock(func() { r.serving-- })
			close(served)
		}()
		r.handler.ServeHTTP(rec, req)
	}()
	select {
	case <-served:
	case <-r.dead:
	case <-ctx.Done():
	}
	x.to = w.now()
	if x.gone = r.isDead() || ctx.Err() != nil; x.gone {
		return x
	}
	x.status, x.reason = rec.status, rec.header.Get("Bff-Reason")
	if s, err := strconv.Atoi(rec.header.Get("Retry-After")); err == nil {
		x.retryAfter = time.Duration(s) * time.Second
	}
	x.location = rec.header.Get("Location")
	x.cookies = (&http.Response{Header: rec.header}).Cookies()
	if x.status == http.StatusOK && strings.HasPrefix(rec.body.String(), "at") {
		x.token = strings.TrimSpace(rec.body.String())
	}
	return x
}

// signIn signs user u in at r; a negative u is a visitor.
func (w *world) signIn(r *replica, u int) {
	header := http.Header{"Sec-Fetch-Site": {"none"}, "Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"document"}}
	x := w.send(context.Background(), r, u, "GET", "/login", header.Clone())
	to, err := url.Parse(x.location)
	if x.gone || err != nil || len(x.cookies) == 0 {
		return
	}
	name := fmt.Sprintf("code-%d-%d", u, r.id)
	w.lock(func() { w.iss.codes[name] = code{u, to.Query().Get("nonce")} })
	header.Set("Cookie", x.cookies[0].Name+"="+x.cookies[0].Value)
	x = w.send(context.Background(), r, u, "GET", "/auth/callback?code="+name+"&state="+to.Query().Get("state"), header)
	if u < 0 {
		return
	}
	for _, c := range x.cookies {
		if c.Name != "__Host-Http-bff" {
			continue
		}
		id, ok := w.ring.ParseCookie(c.Value)
		if !ok {
			panic("sim: the session cookie doesn't parse")
		}
		s := &session{u: u, cookie: c.Name + "=" + c.Value, id: id, ordinals: map[[8]byte]int{}, access: map[string]time.Duration{}}
		s.key = s.id.RecordKey()
		w.lock(func() {
			w.sessions[u] = s
			v := w.records[s.key].now()
			v.state = w.read(s.key, v.value)
			s.access[v.state.access] = v.state.expiry
		})
		w.event(r, u, "signed in")
		return
	}
	panic(fmt.Sprintf("sim: the sign-in failed: %d %s", x.status, x.reason))
}

// ask sends one of a session's requests to a replica and judges the answer.
func (w *world) ask(ctx context.Context, r *replica, u int, method, path string) *exchange {
	header := http.Header{"Sec-Fetch-Site": {"same-origin"}, "Sec-Fetch-Mode": {"cors"}, "Accept": {"application/json"}, "Cookie": {w.sessions[u].cookie}}
	w.event(r, u, "gets %s %s", method, path)
	x := w.send(ctx, r, u, method, path, header)
	if x.gone {
		w.event(r, u, "%s %s has no answer", method, path)
		return x
	}
	w.event(r, u, "answers %s %s: %d %s %s", method, path, x.status, x.reason, x.token)
	w.lock(func() { w.res.Counts.Requests++ })
	w.check(x)
	return x
}

// serving returns a replica that takes requests, or nil.
func (w *world) serving(l *luck) *replica {
	w.mu.Lock()
	defer w.mu.Unlock()
	first := l.n(len(w.fleet))
	for i := range w.fleet {
		if r := w.fleet[(first+i)%len(w.fleet)]; r != nil && !r.leaving {
			return r
		}
	}
	return nil
}

// tab sends requests of one session until the storm is over: some in quick
// succession, and then as people do.
func (w *world) tab(u, n int, until time.Duration) {
	for i := 0; ; i++ {
		l := w.luck(-2, u, n)
		think := w.think
		if i >= 8 {
			think = speed{200 * time.Millisecond, 5 * time.Second}
		}
		time.Sleep(w.aim(think.draw(&l), tabLane(u, n)))
		if w.now() >= until {
			return
		}
		r := w.serving(&l)
		if r == nil {
			continue
		}
		ctx, cancel := context.Background(), func() {}
		if l.chance(0.15) { // a tab that is closed
			ctx, cancel = context.WithTimeout(ctx, time.Duration(l.n(int(4*time.Second))))
		}
		method, path := "GET", "/page"
		switch l.n(10) {
		case 0:
			path = "/auth/session"
		case 1:
			method, path = "POST", "/auth/session"
		case 2:
			method = "POST"
		case 3, 4, 5, 6:
			path = "/api/x"
		}
		x := w.ask(ctx, r, u, method, path)
		cancel()
		if x.status == http.StatusUnauthorized && w.isOver(u) {
			return
		}
		if x.status == http.StatusServiceUnavailable {
			time.Sleep(w.aim(time.Duration(l.float()*float64(max(x.retryAfter, time.Second))), tabLane(u, n)))
		}
	}
}

func (w *world) isOver(u int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sessions[u].over != 0
}

// command ends u's session from outside.
func (w *world) command(u, way int) {
	l := w.luck(-3, u, way)
	r := w.serving(&l)
	s := w.sessions[u]
	w.lock(func() {
		if s.leaving == 0 {
			s.leaving = w.now()
		}
	})
	switch {
	case way%3 == 0 && r != nil:
		w.ask(context.Background(), r, u, "POST", "/logout")
	case way%3 == 1:
		text := "an administrator finds no session"
		w.lock(func() {
			if c := w.live(s.key); c != nil {
				c.mark, c.until = []byte("session_revoked"), time.Now().Add(time.Hour)
				w.ended(nil, s.key, 0, "session_revoked")
				w.report(s.key)
				text = "an administrator ends the session"
			}
		})
		w.event(nil, u, "%s", text)
	default:
		w.lock(func() {
			if f := w.iss.families[u]; f.dead == "" {
				f.dead = "revoked by an administrator"
			}
		})
		w.event(nil, u, "the issuer ends the grant")
	}
}
