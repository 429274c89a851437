package bff_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
	"github.com/agglestone/bff/store/memstore"
)

// A flow is an answer that is read while it is written.
type flow struct {
	mu     sync.Mutex
	header http.Header
	status int
	body   bytes.Buffer
	done   chan struct{}
}

func (f *flow) Header() http.Header { return f.header }
func (f *flow) Flush()              {}

func (f *flow) WriteHeader(status int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status = status
}

func (f *flow) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.status == 0 {
		f.status = 200
	}
	return f.body.Write(p)
}

func (f *flow) text() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.body.String()
}

// events returns the names and data of the events so far.
func (f *flow) events(t *testing.T) (list []string) {
	t.Helper()
	for block := range strings.SplitSeq(f.text(), "\n\n") {
		var name, data string
		for line := range strings.SplitSeq(block, "\n") {
			if v, ok := strings.CutPrefix(line, "event: "); ok {
				name = v
			}
			if v, ok := strings.CutPrefix(line, "data: "); ok {
				data = v
			}
		}
		if name != "" {
			var v map[string]any
			if err := json.Unmarshal([]byte(data), &v); err != nil {
				t.Errorf("data of %s: %v", name, err)
			}
			if v["reason"] != nil {
				name += " " + v["reason"].(string)
			}
			list = append(list, name)
		}
	}
	return list
}

func (f *flow) ended() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// listen opens an events stream, which ends with the test.
func listen(t *testing.T, a *app, b *bfftest.Browser) *flow {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	return listenUntil(ctx, t, a, b)
}

// listenUntil opens an events stream, which the browser leaves when ctx ends.
func listenUntil(ctx context.Context, t *testing.T, a *app, b *bfftest.Browser) *flow {
	t.Helper()
	r := httptest.NewRequestWithContext(ctx, "GET", "/auth/events", nil)
	r.AddCookie(sessionCookie(t, b))
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	r.Header.Set("Accept", "text/event-stream")
	f := &flow{header: http.Header{}, done: make(chan struct{})}
	go func() {
		defer close(f.done)
		a.handler.ServeHTTP(f, r)
	}()
	return f
}

func want(t *testing.T, f *flow, events ...string) {
	t.Helper()
	if got := f.events(t); strings.Join(got, ", ") != strings.Join(events, ", ") {
		t.Errorf("events %q, want %q", got, events)
	}
}

// The stream tells that the session is about to end, that it isn't any more,
// and why it did; it does not extend the session, and ends with it.
func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{})
		b := a.signIn("alice")
		f := listen(t, a, b)
		time.Sleep(time.Minute)
		synctest.Wait()
		if f.header.Get("Content-Type") != "text/event-stream" || f.header.Get("X-Accel-Buffering") != "no" || f.header.Get("Cache-Control") != "no-store" {
			t.Errorf("headers %v", f.header)
		}
		if n := strings.Count(f.text(), ":\n\n"); n < 3 {
			t.Errorf("%d comments in a minute, want one each 20 s", n)
		}
		time.Sleep(55 * time.Minute)
		want(t, f, "expiring session_idle")
		page(t, b, "GET") // activity
		time.Sleep(2 * time.Second)
		want(t, f, "expiring session_idle", "extended")
		time.Sleep(56 * time.Minute)
		want(t, f, "expiring session_idle", "extended", "expiring session_idle")
		time.Sleep(5 * time.Minute)
		want(t, f, "expiring session_idle", "extended", "expiring session_idle", "ended session_idle")
		if !f.ended() {
			t.Error("the stream goes on")
		}
		if signedIn(t, b) {
			t.Error("the stream kept the session alive")
		}
	})
}

// The end that the issuer set is told as such, before and when it comes, whether
// it came with the sign-in or with a refresh.
func TestEventsOfTheIssuersEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{})
		heal := a.iss.Break("token", claimAt("session_expiry", 40*time.Minute))
		first := listen(t, a, a.signIn("alice"))
		heal()
		b := a.signIn("alice")
		second := listen(t, a, b)
		a.iss.Break("token", claimAt("session_expiry", 20*time.Minute))
		time.Sleep(20 * time.Minute)
		page(t, b, "GET") // refreshes
		time.Sleep(21 * time.Minute)
		synctest.Wait()
		want(t, first, "expiring session_expired", "ended session_expired")
		want(t, second, "expiring session_expired", "ended session_expired")
	})
}

// A session that is ended by whatever means ends its streams on every replica,
// within a second where the store tells of it, within a minute where it
// can't (D31).
func TestStreamsEndWithTheSession(t *testing.T) {
	for name, c := range map[string]struct {
		store  func() bff.Store
		within time.Duration
	}{
		"watched": {func() bff.Store { return memstore.New(memstore.Options{}) }, time.Second},
		"log only": {func() bff.Store {
			s := memstore.New(memstore.Options{})
			return struct {
				bff.Store
				bff.Indexer
				bff.EndLog
			}{s, s, s}
		}, time.Second},
		"neither": {func() bff.Store { return plainStore{memstore.New(memstore.Options{})} }, time.Minute + time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, iss, key := c.store(), bfftest.NewIssuer(bfftest.Options{}), bff.NewKey()
				a := newApp(t, setup{at: iss, config: bff.Config{Store: store, Keys: []bff.Key{key}}})
				other := newApp(t, setup{at: iss, config: bff.Config{Store: store, Keys: []bff.Key{key}}})
				b, bob := a.signIn("alice"), a.signIn("bob")
				f1, f2, fb := listen(t, a, b), listen(t, other, b), listen(t, a, bob)
				time.Sleep(3 * time.Minute)
				if r := signOut(atOther(t, b, other)); r.Status != 200 {
					t.Fatal(r)
				}
				time.Sleep(c.within)
				synctest.Wait()
				for i, f := range []*flow{f1, f2} {
					if !f.ended() {
						t.Errorf("stream %d is open %v after the sign-out elsewhere", i, c.within)
					}
					want(t, f, "ended signed_out")
				}
				if fb.ended() {
					t.Error("bob's stream ended, too")
				}
			})
		})
	}
}

// A store that is down closes no stream, however long (invariant 5); the
// session's lifetime does.
func TestStreamsOutliveABrokenStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &hookedStore{Store: memstore.New(memstore.Options{})}
		a := newApp(t, setup{config: bff.Config{Store: store, MaxLifetime: 3 * time.Hour}})
		b := a.signIn("alice")
		f := listen(t, a, b)
		time.Sleep(time.Second)
		store.set(func(string, func() error) error { return errors.New("down") })
		time.Sleep(2 * time.Hour)
		if f.ended() {
			t.Fatalf("the stream ended while the store was down: %v", f.events(t))
		}
		time.Sleep(time.Hour)
		if !f.ended() {
			t.Error("the stream outlived the session's lifetime")
		}
	})
}

// A store that hangs doesn't keep many streams open for long after the end of
// their sessions' lifetime.
func TestManyStreamsAndAHangingStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &hangingStore{Store: memstore.New(memstore.Options{})}
		a := newApp(t, setup{config: bff.Config{Store: store, MaxLifetime: 30 * time.Minute, IdleTimeout: 30 * time.Minute}})
		var flows []*flow
		for range 320 {
			flows = append(flows, listen(t, a, a.signIn("alice")))
		}
		time.Sleep(20 * time.Minute)
		store.hangs.Store(true)
		time.Sleep(10*time.Minute + 10*time.Second)
		synctest.Wait()
		open := 0
		for _, f := range flows {
			if !f.ended() {
				open++
			}
		}
		if open > 0 {
			t.Errorf("%d streams are open 10 seconds after the end of their sessions", open)
		}
	})
}

// A hangingStore answers no load, on demand.
type hangingStore struct {
	*memstore.Store
	hangs atomic.Bool
}

func (s *hangingStore) Load(ctx context.Context, key string) ([]byte, uint64, time.Time, bool, error) {
	if s.hangs.Load() {
		<-ctx.Done()
		return nil, 0, time.Time{}, false, ctx.Err()
	}
	return s.Store.Load(ctx, key)
}

// Streams are bounded per session, and a shutdown tells browsers to come back.
func TestStreamsBoundedAndDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{})
		b := a.signIn("alice")
		var flows []*flow
		for range 32 {
			flows = append(flows, listen(t, a, b))
		}
		synctest.Wait()
		if f := listen(t, a, b); !settled(f) || f.status != 429 {
			t.Errorf("one more than the limit: %d", f.status)
		}
		if f := listen(t, a, a.signIn("bob")); settled(f) {
			t.Errorf("another session's stream: %d", f.status)
		}
		a.auth.Drain()
		synctest.Wait()
		for _, f := range flows {
			if !f.ended() || !strings.Contains(f.text(), "event: reconnect") || !strings.Contains(f.text(), "retry: ") {
				t.Fatalf("after Drain: %q", f.text())
			}
		}
		if f := listen(t, a, b); !settled(f) || f.status != 503 {
			t.Errorf("a stream after Drain: %d", f.status)
		}
	})
}

func settled(f *flow) bool { synctest.Wait(); return f.ended() }

// Another site can't listen, and neither can nobody.
func TestEventsProveTheirOrigin(t *testing.T) {
	a := newApp(t, setup{})
	b := a.signIn("alice")
	if r := b.Fetch("GET", "/auth/events", nil, http.Header{"Sec-Fetch-Site": {"same-site"}}); r.Status != 403 {
		t.Errorf("from a sibling site: %v", r)
	}
	if r := a.browser().Fetch("GET", "/auth/events", nil, nil); r.Status != 401 {
		t.Errorf("nobody: %v", r)
	}
}

// A pausedStore holds up one load of a session's record, on demand.
type pausedStore struct {
	*memstore.Store
	mu            sync.Mutex
	before, after chan struct{} // not nil: the next load waits for it to be closed
}

func (s *pausedStore) Load(ctx context.Context, key string) ([]byte, uint64, time.Time, bool, error) {
	if key[0] != 's' {
		return s.Store.Load(ctx, key)
	}
	s.mu.Lock()
	before, after := s.before, s.after
	s.before, s.after = nil, nil
	s.mu.Unlock()
	if before != nil {
		<-before
	}
	v, n, e, ok, err := s.Store.Load(ctx, key)
	if after != nil {
		<-after
	}
	return v, n, e, ok, err
}

// hold has the next load wait, before or after it reads, until release is
// called.
func (s *pausedStore) hold(before bool) (release func()) {
	pause := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	if before {
		s.before = pause
	} else {
		s.after = pause
	}
	return func() { close(pause) }
}

// watchOnly is a store that reports changes and keeps no list of what ended.
func watchOnly(s interface {
	bff.Store
	bff.Indexer
	bff.Watcher
}) bff.Store {
	return struct {
		bff.Store
		bff.Indexer
		bff.Watcher
	}{s, s, s}
}

// A session that ends while it is being looked at, after its record was read,
// is looked at again.
func TestStreamIsLookedAtAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &pausedStore{Store: memstore.New(memstore.Options{})}
		iss, key := bfftest.NewIssuer(bfftest.Options{}), bff.NewKey()
		a := newApp(t, setup{at: iss, config: bff.Config{Store: watchOnly(store), Keys: []bff.Key{key}}})
		other := newApp(t, setup{at: iss, config: bff.Config{Store: store.Store, Keys: []bff.Key{key}}})
		b := a.signIn("alice")
		f := listen(t, a, b)
		time.Sleep(30 * time.Second)
		release := store.hold(false)
		time.Sleep(31 * time.Second) // the look that is due each minute has begun
		if r := signOut(atOther(t, b, other)); r.Status != 200 {
			t.Fatal(r)
		}
		synctest.Wait() // it was reported
		release()
		time.Sleep(time.Second)
		synctest.Wait()
		if !f.ended() {
			t.Error("the stream is open a second after its session ended")
		}
	})
}

// A stream that is opened while its session is being looked at on behalf of
// another, which is closed meanwhile, ends with the session like any other.
func TestStreamOpenedDuringALook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &pausedStore{Store: memstore.New(memstore.Options{})}
		a := newApp(t, setup{config: bff.Config{Store: store}})
		b := a.signIn("alice")
		ctx, leave := context.WithCancel(t.Context())
		first := listenUntil(ctx, t, a, b)
		time.Sleep(30 * time.Second)
		release := store.hold(true)
		time.Sleep(31 * time.Second)
		leave()
		synctest.Wait()
		second := listen(t, a, b)
		synctest.Wait()
		if !first.ended() || second.ended() {
			t.Fatalf("the first stream has ended: %v, the second: %v", first.ended(), second.ended())
		}
		signOut(b)
		release()
		time.Sleep(time.Second)
		synctest.Wait()
		if !second.ended() {
			t.Error("the second stream is open a second after its session ended")
		}
	})
}

// Where only a list of what ended tells, a session that ends right after the
// first stream was opened, before the list was asked for the first time, is
// not missed.
func TestStreamEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New(memstore.Options{})
		iss, key := bfftest.NewIssuer(bfftest.Options{}), bff.NewKey()
		logged := struct {
			bff.Store
			bff.Indexer
			bff.EndLog
		}{s, s, s}
		a := newApp(t, setup{at: iss, config: bff.Config{Store: logged, Keys: []bff.Key{key}}})
		other := newApp(t, setup{at: iss, config: bff.Config{Store: s, Keys: []bff.Key{key}}})
		b := a.signIn("alice")
		f := listen(t, a, b)
		time.Sleep(300 * time.Millisecond)
		signOut(atOther(t, b, other))
		time.Sleep(time.Second)
		synctest.Wait()
		if !f.ended() {
			t.Error("the stream is open a second after its session ended")
		}
	})
}

// Where only reports tell, what was not reported while the connection was down
// is found when it is back.
func TestStreamsAfterLostReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newRemoteStore()
		iss, key := bfftest.NewIssuer(bfftest.Options{}), bff.NewKey()
		a := newApp(t, setup{at: iss, config: bff.Config{Store: watchOnly(store), Keys: []bff.Key{key}}})
		other := newApp(t, setup{at: iss, config: bff.Config{Store: plainStore{store.Store}, Keys: []bff.Key{key}}})
		b := a.signIn("alice")
		f := listen(t, a, b)
		time.Sleep(2 * time.Second)
		signOut(atOther(t, b, other)) // at the store itself: it isn't reported
		store.cut()
		time.Sleep(time.Second)
		synctest.Wait()
		if !f.ended() {
			t.Error("the stream is open a second after reports were lost and came back")
		}
	})
}

// After Close no stream begins that nobody would look after, whether there were
// any before or not.
func TestNoStreamAfterClose(t *testing.T) {
	a := newApp(t, setup{})
	b := a.signIn("alice")
	if err := a.auth.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	f := listenUntil(ctx, t, a, b)
	select {
	case <-f.done:
		if f.status != 503 {
			t.Errorf("status %d, want 503", f.status)
		}
	case <-time.After(5 * time.Second):
		t.Error("the stream goes on")
	}
}

// A session whose key is taken out of the ring ends, and its streams with it.
func TestStreamsEndWithTheirKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := bff.NewKey(), bff.NewKey()
		a := newApp(t, setup{config: bff.Config{Keys: []bff.Key{first}}})
		old := listen(t, a, a.signIn("alice"))
		if err := a.auth.SetKeys(second, first); err != nil {
			t.Fatal(err)
		}
		b := a.signIn("alice")
		f := listen(t, a, b)
		time.Sleep(2 * time.Second)
		if old.ended() {
			t.Fatal("a stream ended though its key is in the ring")
		}
		if err := a.auth.SetKeys(second); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if !old.ended() || f.ended() {
			t.Errorf("the stream under the removed key has ended: %v, the other one: %v", old.ended(), f.ended())
		}
		want(t, old, "ended no_session")
	})
}

// One stream that takes a moment to end keeps no other from it.
func TestDrainTellsAllAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{})
		const n = 100
		var met sync.WaitGroup
		met.Add(n)
		for range n {
			a.auth.OpenStream(func() {
				met.Done()
				met.Wait() // for the others; for ever if they come one by one
			})
		}
		a.auth.Drain()
	})
}
