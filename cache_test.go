package bff_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
	"github.com/agglestone/bff/store/memstore"
)

// A remoteStore is a store on another machine: it counts the loads of session
// records, and its reports of changes come when the test lets them.
type remoteStore struct {
	*memstore.Store
	loads atomic.Int64
	gate  func() // called in the middle of a load, if set

	mu      sync.Mutex
	watches map[*watch]bool
	lag     bool // reports are held back
	deaf    bool // and nothing arrives, synced neither
}

type watch struct {
	changed func(string)
	held    []string
	end     chan error
}

// plainStore hides what s can do beyond the contract.
type plainStore struct{ bff.Store }

func newRemoteStore() *remoteStore {
	return &remoteStore{Store: memstore.New(memstore.Options{}), watches: make(map[*watch]bool)}
}

func (s *remoteStore) Load(ctx context.Context, key string) ([]byte, uint64, time.Time, bool, error) {
	v, n, e, ok, err := s.Store.Load(ctx, key)
	if key[0] == 's' {
		s.loads.Add(1)
		if s.gate != nil {
			s.gate()
		}
	}
	return v, n, e, ok, err
}

func (s *remoteStore) Replace(ctx context.Context, key string, version uint64, value []byte) (uint64, bool, error) {
	next, ok, err := s.Store.Replace(ctx, key, version, value)
	s.report(key)
	return next, ok, err
}

func (s *remoteStore) End(ctx context.Context, key string, version uint64, mark []byte, until time.Time) (bool, error) {
	ok, err := s.Store.End(ctx, key, version, mark, until)
	s.report(key)
	return ok, err
}

func (s *remoteStore) report(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watches {
		if s.lag || s.deaf {
			w.held = append(w.held, key)
			continue
		}
		w.changed(key)
	}
}

func (s *remoteStore) Watch(ctx context.Context, every time.Duration, changed func(string), synced func(time.Time)) error {
	w := &watch{changed: changed, end: make(chan error, 1)}
	s.mu.Lock()
	s.watches[w] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.watches, w)
		s.mu.Unlock()
	}()
	for tick := time.NewTicker(every / 2); ; {
		s.mu.Lock()
		if !s.lag && !s.deaf {
			synced(time.Now())
		}
		s.mu.Unlock()
		select {
		case <-tick.C:
		case err := <-w.end:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// cut breaks the connection on which reports come.
func (s *remoteStore) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watches {
		w.end <- errors.New("connection lost")
	}
}

func (s *remoteStore) set(lag, deaf bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lag, s.deaf = lag, deaf
}

// Two replicas with the cache on, at one store.
func cachedPair(t *testing.T, store bff.Store) (a, other *app) {
	t.Helper()
	iss, key := bfftest.NewIssuer(bfftest.Options{}), bff.NewKey()
	var pair [2]*app
	for i := range pair {
		pair[i] = newApp(t, setup{at: iss, config: bff.Config{Keys: []bff.Key{key}, Store: store, CacheSize: 100}})
	}
	return pair[0], pair[1]
}

// atOther returns a browser at the other replica with b's cookies.
func atOther(t *testing.T, b *bfftest.Browser, other *app) *bfftest.Browser {
	t.Helper()
	o := other.browser()
	o.SetCookie(sessionCookie(t, b))
	return o
}

func page(t *testing.T, b *bfftest.Browser, method string) int {
	t.Helper()
	return b.Fetch(method, "/page", nil, nil).Status
}

// D16, O2: without reports, what the cache says is at most CacheMaxStale old,
// and unsafe methods read past it.
func TestCacheWithoutReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newRemoteStore()
		a, other := cachedPair(t, plainStore{store})
		b := a.signIn("alice")
		page(t, b, "GET")
		before := store.loads.Load()
		for range 50 {
			if got := page(t, b, "GET"); got != 200 {
				t.Fatalf("GET = %d", got)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if n := store.loads.Load() - before; n != 0 {
			t.Errorf("50 requests within half a second made %d loads, want 0", n)
		}
		if r := signOut(atOther(t, b, other)); r.Status != 200 {
			t.Fatalf("POST /logout = %v", r)
		}
		if got := page(t, b, "POST"); got != http.StatusUnauthorized {
			t.Errorf("POST after a sign-out elsewhere = %d, want 401", got)
		}
		b = a.signIn("bob")
		page(t, b, "GET")
		signOut(atOther(t, b, other))
		time.Sleep(time.Second + time.Millisecond)
		if got := page(t, b, "GET"); got != http.StatusUnauthorized {
			t.Errorf("GET a second after a sign-out elsewhere = %d, want 401", got)
		}
	})
}

// D16: each kind of step-up reads past the cache.
func TestCacheIsNotAskedForAStepUp(t *testing.T) {
	for _, path := range []string{"/recent", "/gold"} {
		synctest.Test(t, func(t *testing.T) {
			store, iss, key := newRemoteStore(), bfftest.NewIssuer(bfftest.Options{}), bff.NewKey()
			s := setup{at: iss, mux: stepUps, config: bff.Config{Keys: []bff.Key{key}, Store: plainStore{store}, CacheSize: 100}}
			a, other := newApp(t, s), newApp(t, s)
			b := a.signIn("alice")
			page(t, b, "GET")
			if r := signOut(atOther(t, b, other)); r.Status != 200 {
				t.Fatalf("POST /logout = %v", r)
			}
			if got := page(t, b, "GET"); got != 200 {
				t.Fatalf("GET /page = %d: this is about a session in the cache", got)
			}
			if r := b.Fetch("GET", path, nil, nil); r.Status != 401 || r.Reason() != "signed_out" {
				t.Errorf("GET %s after a sign-out elsewhere = %v, want 401 signed_out", path, r)
			}
		})
	}
}

// With reports, a warm read costs no round trip however long ago the record was
// read, and a sign-out elsewhere is known as soon as it is reported.
func TestCacheWithReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newRemoteStore()
		a, other := cachedPair(t, store)
		b := a.signIn("alice")
		page(t, b, "GET")
		time.Sleep(2 * time.Second) // the watch has begun
		page(t, b, "GET")
		before := store.loads.Load()
		for range 100 {
			if got := page(t, b, "GET"); got != 200 {
				t.Fatalf("GET = %d", got)
			}
			time.Sleep(time.Second)
		}
		if n := store.loads.Load() - before; n != 0 {
			t.Errorf("100 requests in 100 s made %d loads, want 0", n)
		}
		signOut(atOther(t, b, other))
		if got := page(t, b, "GET"); got != http.StatusUnauthorized {
			t.Errorf("GET after a reported sign-out = %d, want 401", got)
		}
	})
}

// An idle time-out and the end of a lifetime are no changes that a store would
// report. A request that only looks, and so asks the store for nothing, is
// turned away all the same.
func TestCacheExpires(t *testing.T) {
	for name, alive := range map[string]time.Duration{"idle": 0, "lifetime": 20 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newRemoteStore()
				// Without a refresh token, which would have to be looked up.
				a := newApp(t, setup{issuer: bfftest.Options{NoRefreshToken: true}, config: bff.Config{Store: store, CacheSize: 100, MaxLifetime: 90 * time.Minute}})
				b := a.signIn("alice")
				cookie := sessionCookie(t, b)
				for start := time.Now(); alive > 0 && time.Since(start) < 80*time.Minute; time.Sleep(alive) {
					page(t, b, "GET")
				}
				page(t, b, "GET")
				time.Sleep(61 * time.Minute)
				b.SetCookie(cookie) // which the browser may have dropped
				if r := b.Fetch("GET", "/page", nil, http.Header{"Bff-Passive": {"1"}}); r.Status != 401 {
					t.Errorf("GET /page = %v", r)
				}
			})
		})
	}
}

// A report that doesn't come is no promise: not one that is late, not one on a
// connection that is half open, and not one that was lost with it.
func TestCacheDistrustsLostReports(t *testing.T) {
	for name, lose := range map[string]func(*remoteStore){
		"late":      func(s *remoteStore) { s.set(true, false) },
		"half open": func(s *remoteStore) { s.set(false, true) },
		"cut":       func(s *remoteStore) { s.set(false, true); s.cut() },
		"cut and back": func(s *remoteStore) {
			s.set(false, true)
			s.cut()
			time.AfterFunc(500*time.Millisecond, func() { s.set(false, false) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newRemoteStore()
				a, other := cachedPair(t, store)
				b := a.signIn("alice")
				page(t, b, "GET")
				time.Sleep(2 * time.Second)
				page(t, b, "GET")
				time.Sleep(2 * time.Second)
				lose(store)
				signOut(atOther(t, b, other)) // unreported
				time.Sleep(time.Second + time.Millisecond)
				if got := page(t, b, "GET"); got != http.StatusUnauthorized {
					t.Errorf("GET a second after an unreported sign-out = %d, want 401", got)
				}
			})
		})
	}
}

// A load that began before a sign-out and ended after its report must not fill
// the cache with what it read.
func TestCacheKeepsNoOvertakenLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newRemoteStore()
		a, other := cachedPair(t, store)
		b := a.signIn("alice")
		page(t, b, "GET")
		time.Sleep(2 * time.Second)
		o := atOther(t, b, other)
		var passed atomic.Bool // the sign-out loads, too
		store.gate = func() {
			if passed.Swap(true) {
				return
			}
			if r := signOut(o); r.Status != 200 {
				t.Errorf("POST /logout = %v", r)
			}
		}
		page(t, b, "POST") // reads past the cache, and what it read is overtaken
		store.gate = nil
		for range 3 {
			if got := page(t, b, "GET"); got != http.StatusUnauthorized {
				t.Errorf("GET after the sign-out = %d, want 401", got)
			}
		}
	})
}

// Who waits for another replica's refresh is woken by the report of it, and asks
// the store itself no more than once a second. Where nothing is known to be
// reported, though the process is young, it asks more often than that.
func TestWaiterIsWoken(t *testing.T) {
	for name, tt := range map[string]struct {
		deaf        bool
		late        time.Duration
		least, most int64
	}{
		"reports":    {false, 0, 8, 16},
		"no-reports": {true, 250 * time.Millisecond, 30, 60},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newRemoteStore()
				store.set(false, tt.deaf)
				apps, at := fleet(t, 2, setup{
					issuer: bfftest.Options{AccessTokenLifetime: 10 * time.Second},
					config: bff.Config{Store: store, CacheMaxStale: time.Minute},
				})
				b := apps[0].signIn("alice")
				other := at(1, b)
				time.Sleep(11 * time.Second)
				apps[0].iss.Break("token", bfftest.Fault{Times: 1, DelayAnswer: 8500 * time.Millisecond})
				go b.Fetch("GET", "/api/x", nil, nil)
				time.Sleep(100 * time.Millisecond)
				start, before := time.Now(), store.loads.Load()
				if r := other.Fetch("GET", "/api/x", nil, nil); r.Status != 200 {
					t.Fatalf("GET /api/x = %v", r)
				}
				const wait = 8400 * time.Millisecond
				if took := time.Since(start); took < wait || took > wait+tt.late {
					t.Errorf("it took %v, want %v and %v at most", took, wait, tt.late)
				}
				if n := store.loads.Load() - before; n < tt.least || n > tt.most {
					t.Errorf("it made %d loads, want %d to %d", n, tt.least, tt.most)
				}
				if n := apps[0].iss.Count("token:refresh_token"); n != 1 {
					t.Errorf("%d token requests, want 1", n)
				}
			})
		})
	}
}

// The cache holds no more than it was given room for, and one user's session
// is never another's, under many goroutines.
func TestCacheIsBoundedAndUnmixed(t *testing.T) {
	const size, many = 8, 40
	var known []bfftest.User
	for i := range many {
		known = append(known, bfftest.User{Name: fmt.Sprintf("user%d", i)})
	}
	store := newRemoteStore()
	a := newApp(t, setup{issuer: bfftest.Options{Users: known}, config: bff.Config{
		Keys: []bff.Key{bff.NewKey()}, Store: plainStore{store}, CacheSize: size, CacheMaxStale: time.Minute}})
	type user struct {
		b    *bfftest.Browser
		want string
	}
	var users []user
	for _, u := range known {
		b := a.signIn(u.Name)
		users = append(users, user{b, string(b.Fetch("GET", "/page", nil, nil).Body)})
	}
	if users[0].want == users[1].want {
		t.Fatal("the users can't be told apart")
	}
	before := store.loads.Load()
	for _, u := range users {
		u.b.Fetch("GET", "/page", nil, nil)
	}
	if n := store.loads.Load() - before; n < many-size {
		t.Errorf("%d users were read with %d loads, though the cache holds %d", many, n, size)
	}
	var wg sync.WaitGroup
	for _, u := range users {
		wg.Go(func() {
			for range 50 {
				if r := u.b.Fetch("GET", "/page", nil, nil); string(r.Body) != u.want {
					t.Errorf("got %q, want %q", r.Body, u.want)
					return
				}
			}
		})
	}
	wg.Wait()
}
