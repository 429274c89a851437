package bff_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
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

// S505, X179: 200 requests on an expired token make one token request, and none
// of them fails.
func TestRefreshStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &hookedStore{Store: memstore.New(memstore.Options{})}
		a := newApp(t, setup{config: bff.Config{Store: store}})
		b := a.signIn("alice")
		a.iss.Break("token", bfftest.Fault{Delay: time.Second})
		for range 3 {
			time.Sleep(16 * time.Minute)
			var calls atomic.Int32
			store.set(func(_ string, do func() error) error {
				calls.Add(1)
				return do()
			})
			before := a.iss.Count("token:refresh_token")
			var wg sync.WaitGroup
			for range 200 {
				wg.Go(func() {
					if r := b.Fetch("GET", "/api/x", nil, nil); r.Status != 200 {
						t.Errorf("GET /api/x = %v", r)
					}
				})
			}
			wg.Wait()
			if got := a.iss.Count("token:refresh_token") - before; got != 1 {
				t.Errorf("%d token requests, want 1", got)
			}
			// Each request loads the session, and one flight does the rest.
			if n := calls.Load(); n < 200 || n > 220 {
				t.Errorf("%d calls of the store for 200 requests", n)
			}
		}
	})
}

// Inside the margin a request uses the old token while one refresh runs.
func TestRefreshAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{config: bff.Config{RefreshMargin: time.Minute}})
		b := a.signIn("alice")
		a.iss.Break("token", bfftest.Fault{Delay: 5 * time.Second})
		b.Fetch("GET", "/api/x", nil, nil)
		first := a.api.last().Header.Get("Authorization")
		time.Sleep(14*time.Minute + 30*time.Second)
		start := time.Now()
		b.Fetch("GET", "/api/x", nil, nil)
		if took := time.Since(start); took != 0 || a.api.last().Header.Get("Authorization") != first {
			t.Errorf("a request inside the margin took %v", took)
		}
		time.Sleep(6 * time.Second)
		b.Fetch("GET", "/api/x", nil, nil)
		if a.api.last().Header.Get("Authorization") == first || a.iss.Count("token:refresh_token") != 1 {
			t.Errorf("%d refreshes; the old token is still used", a.iss.Count("token:refresh_token"))
		}
	})
}

// S87: a token that is said to have expired already has, but not so that every
// request costs a token request. One of which nothing is said has not.
func TestExpiresInZero(t *testing.T) {
	for said, want := range map[any]int{0: 10, -1: 10, nil: 0} {
		synctest.Test(t, func(t *testing.T) {
			a := newApp(t, setup{})
			a.iss.Break("token", member("expires_in", said))
			b := a.signIn("alice")
			for i := range 100 {
				if r := b.Fetch("GET", "/api/x", nil, nil); r.Status != 200 {
					t.Errorf("expires_in %v: GET /api/x = %v", said, r)
				}
				if i%10 == 9 {
					time.Sleep(2 * time.Second)
				}
			}
			if n := a.iss.Count("token:refresh_token"); n > want || n < want-1 {
				t.Errorf("expires_in %v: %d refreshes for 100 requests within 20 seconds, want %d", said, n, want)
			}
		})
	}
}

// fleet returns replicas of an application that share a store, each behind a
// handler of its own, and one browser for each that shares its cookies.
func fleet(t *testing.T, n int, s setup) ([]*app, func(i int, b *bfftest.Browser) *bfftest.Browser) {
	t.Helper()
	s.config.Keys = []bff.Key{bff.NewKey()}
	if s.config.Store == nil {
		s.config.Store = memstore.New(memstore.Options{})
	}
	apps := make([]*app, n)
	for i := range apps {
		apps[i] = newApp(t, s)
		s.at = apps[0].iss
	}
	at := func(i int, b *bfftest.Browser) *bfftest.Browser {
		other := bfftest.NewBrowser(apps[i].handler, appURL, apps[0].iss)
		for _, c := range b.Cookies() {
			other.SetCookie(c)
		}
		return other
	}
	return apps, at
}

// The claim in the record makes one of the replicas refresh, and the others use
// its result (S505).
func TestInvariant4OneRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		apps, at := fleet(t, 3, setup{})
		iss := apps[0].iss
		b := apps[0].signIn("alice")
		for round := range 3 {
			time.Sleep(16 * time.Minute)
			iss.Heal()
			iss.Break("token", bfftest.Fault{Delay: time.Duration(round) * 4 * time.Second})
			before := iss.Count("token:refresh_token")
			var wg sync.WaitGroup
			for i := range apps {
				b := at(i, b)
				for range 50 {
					wg.Go(func() {
						if r := b.Fetch("GET", "/api/x", nil, nil); r.Status != 200 {
							t.Errorf("GET /api/x at replica %d = %v", i, r)
						}
					})
				}
			}
			wg.Wait()
			if got := iss.Count("token:refresh_token") - before; got != 1 {
				t.Errorf("round %d: %d token requests, want 1", round, got)
			}
		}
		if iss.LiveGrants() != 1 {
			t.Error("the grant is dead")
		}
	})
}

// A replica that stops between its claim and the token request holds the others
// up for the length of the claim, and no longer.
func TestClaimOfDeadReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &hookedStore{Store: memstore.New(memstore.Options{})}
		apps, at := fleet(t, 2, setup{config: bff.Config{Store: store}})
		iss := apps[0].iss
		b := apps[0].signIn("alice")
		time.Sleep(16 * time.Minute)

		// Its request never gets there, and neither does the write after it.
		heal := iss.Break("token", bfftest.Fault{Hang: true, BeforeProcessing: true})
		go b.Fetch("GET", "/api/x", nil, nil)
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
		defer cancel()
		store.failWrites(true)
		apps[0].auth.Close(ctx) // killed
		store.failWrites(false)
		heal()

		b = at(1, b)
		start := time.Now()
		for {
			r := b.Fetch("GET", "/api/x", nil, nil)
			if r.Status == 200 {
				break
			}
			if r.Status != 503 || r.Reason() != "issuer_unavailable" || r.Header.Get("Retry-After") == "" {
				t.Fatalf("GET /api/x = %v", r)
			}
			time.Sleep(time.Second)
		}
		if took := time.Since(start); took < 17*time.Second || took > 20*time.Second {
			t.Errorf("taken over after %v, want the 16 s of the claim and 2 s for its holder", took)
		}
		if got := iss.Count("token:refresh_token"); got != 2 {
			t.Errorf("%d token requests, want 2: the one that hung and one more", got)
		}
	})
}

// D17: one table of what ends a session, what leaves it in doubt and what
// keeps it, with the refusals of real issuers (reference: dex, LemonLDAP,
// Hydra, glewlwyd).
func TestRefusals(t *testing.T) {
	const (
		ends  = "ends"
		doubt = "doubt"
		keeps = "keeps"
	)
	for _, c := range []struct {
		status int
		body   string
		want   string
	}{
		{400, `{"error":"invalid_grant"}`, ends},
		{401, `{"error":"invalid_grant"}`, ends},
		{401, `{"error":"token_inactive"}`, ends},
		{400, `{"error":"invalid_token"}`, ends},
		{400, `{"error":"invalid_request"}`, doubt},
		{401, `{"error":"something_new"}`, doubt},
		{400, ``, doubt},
		{400, `<html>bad gateway</html>`, doubt},
		{401, `{"error":"invalid_client"}`, keeps},
		{400, `{"error":"unauthorized_client"}`, keeps},
		{400, `{"error":"temporarily_unavailable"}`, keeps},
		{403, `{"error":"invalid_grant"}`, keeps},
		{404, ``, keeps},
		{408, ``, keeps},
		{425, ``, keeps},
		{429, `{"error":"slow_down"}`, keeps},
		{500, `{"error":"invalid_grant"}`, keeps},
		{502, `<html>`, keeps},
		{503, ``, keeps},
	} {
		t.Run(fmt.Sprintf("%d_%.20s", c.status, strings.Map(onlyWord, c.body)), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				a := newApp(t, setup{})
				b := a.signIn("alice")
				time.Sleep(16 * time.Minute)
				heal := a.iss.Break("token", bfftest.Fault{BeforeProcessing: true, Status: c.status, Body: c.body})
				r := b.Fetch("GET", "/api/x", nil, nil)
				switch c.want {
				case ends:
					if r.Status != 401 || r.Reason() != "refresh_rejected" {
						t.Fatalf("refused: %v, want 401 refresh_rejected", r)
					}
					heal()
					if r := b.Fetch("GET", "/auth/session", nil, nil); r.Status != 401 || r.Reason() != "refresh_rejected" {
						t.Errorf("afterwards: %v, want 401 refresh_rejected from the mark", r)
					}
					return
				case doubt:
					if r.Status != 503 || r.Reason() != "issuer_unavailable" {
						t.Fatalf("refused once: %v, want 503 issuer_unavailable", r)
					}
					time.Sleep(31 * time.Second)
					if r := b.Fetch("GET", "/api/x", nil, nil); r.Status != 401 || r.Reason() != "refresh_rejected" {
						t.Errorf("refused twice, 30 s apart: %v, want 401 refresh_rejected", r)
					}
				case keeps:
					if r.Status != 503 || r.Reason() != "issuer_unavailable" || r.Header.Get("Retry-After") == "" {
						t.Fatalf("refused: %v, want 503 issuer_unavailable", r)
					}
				}
				if n := a.iss.Count("token:refresh_token"); n > 2 {
					t.Errorf("%d token requests", n)
				}
				if r := b.Fetch("GET", "/auth/session", nil, nil); r.Status != 200 {
					t.Errorf("the session is gone: %v", r)
				}
				heal()
				time.Sleep(time.Minute)
				if r := b.Fetch("GET", "/api/x", nil, nil); r.Status != 200 {
					t.Errorf("once the issuer is well again: %v", r)
				}
			})
		})
	}
}

func onlyWord(r rune) rune {
	if r == '_' || 'a' <= r && r <= 'z' {
		return r
	}
	return -1
}

// Invariant 5: an issuer that is down costs nothing while the access token
// lives, and 503 after that; nobody is signed out, and the issuer is not
// hammered.
func TestIssuerDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{})
		b := a.signIn("alice")
		a.iss.Break("token", bfftest.Fault{Status: 503, BeforeProcessing: true})
		time.Sleep(14*time.Minute + 30*time.Second)
		for range 100 {
			if r := b.Fetch("GET", "/api/x", nil, nil); r.Status != 200 {
				t.Fatalf("while the token lives: %v", r)
			}
			synctest.Wait()
		}
		if got := a.iss.Count("token:refresh_token"); got != 1 {
			t.Errorf("%d token requests for 100 requests within a second, want 1", got)
		}
		time.Sleep(time.Minute)
		for range 100 {
			r := b.Fetch("GET", "/page", nil, nil)
			if r.Status != 503 || r.Reason() != "issuer_unavailable" || r.Header.Get("Retry-After") == "" || r.Header.Get("Set-Cookie") != "" {
				t.Fatalf("after the token's end: %v", r)
			}
		}
		if got := a.iss.Count("token:refresh_token"); got > 3 {
			t.Errorf("%d token requests, want a pause after each", got)
		}
		a.iss.Heal()
		time.Sleep(30 * time.Second)
		if r := b.Fetch("GET", "/page", nil, nil); r.Status != 200 {
			t.Errorf("once it is back: %v", r)
		}
	})
}

// D29: a request that may have been processed is not repeated while the access
// token still serves.
func TestLostAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		fault bfftest.Fault
		other bool // somebody else writes the record before the failure is noted
	}{
		"broken-connection": {fault: bfftest.Fault{Times: 1, CloseBeforeAnswer: true}},
		"bad-gateway":       {fault: bfftest.Fault{Times: 1, Status: 502}},
		"another-writer":    {fault: bfftest.Fault{Times: 1, CloseBeforeAnswer: true}, other: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &rewrittenStore{Store: memstore.New(memstore.Options{})}
				a := newApp(t, setup{issuer: bfftest.Options{NoRotation: true}, config: bff.Config{Store: store}})
				b := a.signIn("alice")
				c.fault.After = func(*http.Request) { store.next.Store(c.other) }
				a.iss.Break("token", c.fault)
				time.Sleep(14*time.Minute + 10*time.Second)
				for range 45 {
					if r := b.Fetch("GET", "/api/x", nil, nil); r.Status != 200 {
						t.Fatal(r)
					}
					time.Sleep(time.Second)
				}
				if got := a.iss.Count("token:refresh_token"); got != 1 || store.next.Load() {
					t.Errorf("%d token requests before the token's end, want 1", got)
				}
				time.Sleep(10 * time.Second)
				if r := b.Fetch("GET", "/api/x", nil, nil); r.Status != 200 || a.iss.Count("token:refresh_token") != 2 {
					t.Errorf("after the token's end: %v, %d token requests", r, a.iss.Count("token:refresh_token"))
				}
			})
		})
	}
}

// A rewrittenStore is one in which somebody else writes a record anew, as it is,
// just before the next Replace.
type rewrittenStore struct {
	bff.Store
	next atomic.Bool
}

func (s *rewrittenStore) Replace(ctx context.Context, key string, version uint64, value []byte) (uint64, bool, error) {
	if s.next.Swap(false) {
		now, at, _, _, err := s.Store.Load(ctx, key)
		if err != nil {
			return 0, false, err
		}
		if _, _, err := s.Store.Replace(ctx, key, at, now); err != nil {
			return 0, false, err
		}
	}
	return s.Store.Replace(ctx, key, version, value)
}

// Invariant 4: the refresh goes on when the request that caused it has gone.
func TestClosedTab(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{})
		b := a.signIn("alice")
		time.Sleep(16 * time.Minute)
		a.iss.Break("token", bfftest.Fault{Delay: 5 * time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, "GET", appURL+"/api/x", nil)
		if _, err := b.Client().Do(req); err == nil {
			t.Fatal("the request did not end with its context")
		}
		time.Sleep(10 * time.Second)
		if r := b.Fetch("GET", "/api/x", nil, nil); r.Status != 200 {
			t.Errorf("GET /api/x = %v", r)
		}
		if got := a.iss.Count("token:refresh_token"); got != 1 {
			t.Errorf("%d token requests, want 1", got)
		}
	})
}

// D7: a write that fails after the issuer's answer, whether or not it was done,
// is looked up and repeated, and the tokens are not forgotten.
func TestUnclearWrites(t *testing.T) {
	for _, fault := range []string{"before", "after", "once-after"} {
		t.Run(fault, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &hookedStore{Store: memstore.New(memstore.Options{})}
				a := newApp(t, setup{config: bff.Config{Store: store}})
				b := a.signIn("alice")
				time.Sleep(16 * time.Minute)
				// From the moment the issuer has answered, the store fails.
				a.iss.Break("token", bfftest.Fault{Times: 1, After: func(*http.Request) {
					store.set(func(op string, do func() error) error {
						if op != "Replace" && fault != "once-after" {
							return errStore
						}
						if fault != "before" {
							do()
						}
						if fault == "once-after" {
							store.set(nil)
						}
						return errStore
					})
				}})
				first := make(chan *bfftest.Response, 1)
				go func() { first <- b.Fetch("GET", "/api/x", nil, nil) }()
				time.Sleep(8 * time.Second)
				store.set(nil)
				if r := <-first; r.Status != 200 {
					t.Errorf("the request that waited: %v", r)
				}
				if got := a.iss.Count("token:refresh_token"); got != 1 {
					t.Errorf("%d token requests, want 1", got)
				}
				time.Sleep(16 * time.Minute)
				if r := b.Fetch("GET", "/api/x", nil, nil); r.Status != 200 {
					t.Errorf("at the next expiry: %v", r)
				}
				if a.iss.LiveGrants() != 1 {
					t.Error("a refresh token was lost and the old one spent again: the grant is dead")
				}
			})
		})
	}
}

// A store that fails before anybody can tell whether a claim was written leaves
// nobody waiting for that claim, neither here nor at another replica.
func TestUnclearClaim(t *testing.T) {
	for _, written := range []string{"before", "after", "late"} {
		t.Run(written, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &hookedStore{Store: memstore.New(memstore.Options{})}
				apps, at := fleet(t, 2, setup{config: bff.Config{Store: store}})
				iss := apps[0].iss
				b := apps[0].signIn("alice")
				other := at(1, b)
				time.Sleep(16 * time.Minute)
				var late func() error
				down := func(op string, do func() error) error { return errStore }
				store.set(func(op string, do func() error) error {
					if op != "Replace" {
						return do()
					}
					switch store.set(down); written {
					case "after":
						do()
					case "late":
						late = do // the server does it when it has time again
					}
					return errStore
				})
				if r := b.Fetch("GET", "/api/x", nil, nil); r.Status != 503 || r.Reason() != "store_unavailable" {
					t.Errorf("GET /api/x while the store is down = %v", r)
				}
				time.Sleep(5 * time.Second)
				store.set(nil)
				if late != nil {
					time.Sleep(2 * time.Second) // the claim isn't there yet
					late()
				}
				time.Sleep(time.Second)
				start := time.Now()
				if r := other.Fetch("GET", "/api/x", nil, nil); r.Status != 200 {
					t.Errorf("GET /api/x at another replica = %v", r)
				}
				if took := time.Since(start); took > 0 {
					t.Errorf("GET /api/x took %v", took)
				}
				if got := iss.Count("token:refresh_token"); got != 1 || iss.LiveGrants() != 1 {
					t.Errorf("%d token requests and %d live grants, want one of each", got, iss.LiveGrants())
				}
			})
		})
	}
}

// A claim that was to be taken over, and perhaps was, is not given back: whoever
// comes next must wait for its last holder, who may have the rotated token.
func TestUnclearTakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		records := memstore.New(memstore.Options{})
		keys := []bff.Key{bff.NewKey()}
		one, two := &hookedStore{Store: records}, &hookedStore{Store: records}
		first := newApp(t, setup{config: bff.Config{Store: one, Keys: keys}})
		second := newApp(t, setup{at: first.iss, config: bff.Config{Store: two, Keys: keys}})
		b := first.signIn("alice")
		other := second.browser()
		for _, c := range b.Cookies() {
			other.SetCookie(c)
		}
		time.Sleep(16 * time.Minute)

		down := func(string, func() error) error { return errStore }
		heal := first.iss.Break("token", bfftest.Fault{Times: 1, After: func(*http.Request) { one.set(down) }})
		var wg sync.WaitGroup
		wg.Go(func() { b.Fetch("GET", "/api/x", nil, nil) })
		time.Sleep(time.Second)
		heal()
		tookOver := make(chan struct{})
		two.set(func(op string, do func() error) error {
			err := do()
			if op == "Replace" {
				two.set(down)
				close(tookOver)
				return errStore
			}
			return err
		})
		wg.Go(func() { other.Fetch("GET", "/api/x", nil, nil) })
		<-tookOver
		time.Sleep(300 * time.Millisecond)
		two.set(nil)
		time.Sleep(300 * time.Millisecond)
		wg.Go(func() { other.Fetch("GET", "/api/x", nil, nil) })
		time.Sleep(100 * time.Millisecond)
		one.set(nil) // no later than the other's
		wg.Wait()
		if r := other.Fetch("GET", "/api/x", nil, nil); r.Status != 200 {
			t.Errorf("GET /api/x = %v", r)
		}
		if got := first.iss.Count("token:refresh_token"); got != 1 || first.iss.LiveGrants() != 1 {
			t.Errorf("%d token requests and %d live grants, want one of each", got, first.iss.LiveGrants())
		}
	})
}

// Who could neither validate nor write for longer than its claim hands on what
// another replica has got meanwhile.
func TestOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		records := memstore.New(memstore.Options{})
		keys := []bff.Key{bff.NewKey()}
		var undecided atomic.Bool
		one := &hookedStore{Store: records}
		first := newApp(t, setup{config: bff.Config{Store: one, Keys: keys, OnLogin: func(context.Context, *bff.Login) error {
			if undecided.Load() {
				one.failWrites(true)
				return errors.New("can't tell")
			}
			return nil
		}}})
		second := newApp(t, setup{at: first.iss, config: bff.Config{Store: records, Keys: keys}})
		b := first.signIn("alice")
		other := second.browser()
		for _, c := range b.Cookies() {
			other.SetCookie(c)
		}
		time.Sleep(16 * time.Minute)

		undecided.Store(true)
		go b.Fetch("GET", "/api/x", nil, nil)
		time.Sleep(time.Second)
		go other.Fetch("GET", "/api/x", nil, nil) // sees the claim from now on
		time.Sleep(14 * time.Second)
		waits := make(chan *bfftest.Response, 1)
		go func() { waits <- b.Fetch("GET", "/api/x", nil, nil) }()
		time.Sleep(6 * time.Second)
		if got := first.iss.Count("token:refresh_token"); got != 2 {
			t.Fatalf("%d token requests, want 2: this is about the second", got)
		}
		one.failWrites(false)
		if r := <-waits; r.Status != 200 {
			t.Errorf("the request that waited at the first replica: %v", r)
		}
		if first.iss.LiveGrants() != 1 {
			t.Error("the grant is dead")
		}
	})
}

// D5: where an issuer refuses only the loser of two redemptions, the loser does
// not end the winner's session, though the winner has not written yet: neither
// before its claim has run out, nor if the winner writes at the last moment.
func TestRefusedLoser(t *testing.T) {
	for name, release := range map[string]struct {
		after time.Duration // the winner's write goes through
		atEnd bool          // or when the loser is about to end the session
	}{
		"soon": {after: 20 * time.Second}, "at-the-last-moment": {after: time.Hour, atEnd: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &hookedStore{Store: memstore.New(memstore.Options{})}
				apps, at := fleet(t, 2, setup{issuer: bfftest.Options{ReuseRefused: true}, config: bff.Config{Store: store}})
				iss := apps[0].iss
				b := apps[0].signIn("alice")
				time.Sleep(16 * time.Minute)

				// Replica 0 redeems the token and can't write for longer than
				// its claim, so that replica 1 redeems it again.
				written := make(chan struct{})
				iss.Break("token", bfftest.Fault{Times: 1, After: func(*http.Request) {
					var replaces, ends atomic.Int32
					store.set(func(op string, do func() error) error {
						switch {
						case op == "Replace" && replaces.Add(1) == 1:
							select {
							case <-written:
							case <-time.After(release.after):
							}
						case op == "End" && ends.Add(1) == 1 && release.atEnd:
							close(written)
							time.Sleep(2 * time.Second)
						}
						return do()
					})
				}})
				go b.Fetch("GET", "/api/x", nil, nil)
				time.Sleep(time.Second)
				other := at(1, b)
				for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Second) {
					r := other.Fetch("GET", "/api/x", nil, nil)
					if r.Status == 200 {
						break
					}
					if r.Status != 503 || time.Now().After(deadline) {
						t.Fatalf("GET /api/x at replica 1 = %v", r)
					}
				}
				if got := iss.Count("token:refresh_token"); got != 2 {
					t.Errorf("%d token requests, want 2: this is about the second", got)
				}
			})
		})
	}
}

// Invariant 4: when the issuer refuses, the loser looks once more. Here the
// winner has stored the rotated token and nothing else, since it could not
// validate the rest before it died: the session goes on with that token.
func TestRefusedLoserFindsRotatedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &hookedStore{Store: memstore.New(memstore.Options{})}
		apps, at := fleet(t, 2, setup{issuer: bfftest.Options{ReuseRefused: true}, config: bff.Config{Store: store}})
		iss := apps[0].iss
		b := apps[0].signIn("alice")
		time.Sleep(16 * time.Minute)
		iss.RotateKeys()
		iss.Break("jwks", bfftest.Fault{Status: 503})
		// Replica 0 can't write for longer than its claim, so that replica 1
		// spends the token again, and is refused.
		iss.Break("token", bfftest.Fault{Times: 1, After: func(*http.Request) {
			var replaces atomic.Int32
			store.set(func(op string, do func() error) error {
				if op == "Replace" && replaces.Add(1) == 1 {
					time.Sleep(20 * time.Second)
				}
				return do()
			})
		}})
		go b.Fetch("GET", "/api/x", nil, nil)
		time.Sleep(time.Second)
		other := at(1, b)
		go other.Fetch("GET", "/api/x", nil, nil)
		time.Sleep(26 * time.Second)
		if got := iss.Count("token:refresh_token"); got != 2 {
			t.Fatalf("%d token requests, want 2", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
		defer cancel()
		store.failWrites(true)
		apps[0].auth.Close(ctx) // killed
		store.failWrites(false)
		iss.Heal()
		for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Second) {
			r := other.Fetch("GET", "/api/x", nil, nil)
			if r.Status == 200 {
				break
			}
			if r.Status != 503 || time.Now().After(deadline) {
				t.Fatalf("GET /api/x at replica 1 = %v", r)
			}
		}
		if iss.LiveGrants() != 1 {
			t.Error("the grant is dead")
		}
	})
}

// Invariant 3, S224, X181: a sign-out wins over the refresh in flight, and what
// comes for it is revoked.
func TestSignOutDuringRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{})
		b := a.signIn("alice")
		time.Sleep(16 * time.Minute)
		a.iss.Break("token", bfftest.Fault{DelayAnswer: 2 * time.Second})
		// What the sign-out itself revokes is the token from before.
		a.iss.Break("revoke", bfftest.Fault{Times: 1, Status: 400, BeforeProcessing: true})
		done := make(chan *bfftest.Response, 1)
		cookies := b.Tab()
		go func() { done <- cookies.Fetch("GET", "/api/x", nil, nil) }()
		time.Sleep(time.Second)
		kept := b.Cookies()
		if r := b.Fetch("POST", "/logout", nil, http.Header{"Accept": {"application/json"}}); r.Status != 200 {
			t.Fatal(r)
		}
		if r := <-done; r.Status != 401 || r.Reason() != "signed_out" || a.api.hits() != 0 {
			t.Errorf("the request that waited for the refresh: %v", r)
		}
		thief := a.browser()
		for _, c := range kept {
			thief.SetCookie(c)
		}
		if r := thief.Fetch("GET", "/page", nil, nil); r.Status != 401 || r.Reason() != "signed_out" {
			t.Errorf("the old cookie: %v", r)
		}
		time.Sleep(10 * time.Second)
		if a.iss.LiveGrants() != 0 {
			t.Error("the refreshed grant lives on")
		}
	})
}

// D28: keys that can't be fetched keep the session in doubt, and the token
// response is not asked for a second time.
func TestKeysDownAtRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{})
		b := a.signIn("alice")
		a.iss.RotateKeys()
		a.iss.Break("jwks", bfftest.Fault{Status: 503})
		time.Sleep(16 * time.Minute)
		if r := b.Fetch("GET", "/api/x", nil, nil); r.Status != 503 || r.Reason() != "issuer_unavailable" {
			t.Fatalf("GET /api/x = %v", r)
		}
		a.iss.Heal()
		time.Sleep(40 * time.Second)
		if r := b.Fetch("GET", "/api/x", nil, nil); r.Status != 200 {
			t.Errorf("with the keys back: %v", r)
		}
		if got := a.iss.Count("token:refresh_token"); got != 1 {
			t.Errorf("%d token requests, want 1", got)
		}
	})
}

// S494, D13: claims and groups are taken from each refresh, and the hook is
// asked again.
func TestGroupsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var refused atomic.Bool
		a := newApp(t, setup{config: bff.Config{OnLogin: func(_ context.Context, l *bff.Login) error {
			if refused.Load() && l.Refresh {
				return bff.Refuse("no more")
			}
			return nil
		}}})
		b := a.signIn("alice")
		if r := b.Fetch("GET", "/admin", nil, nil); r.Status != 200 {
			t.Fatal(r)
		}
		a.iss.AddUser(bfftest.User{Name: "alice", Groups: []string{"Users"}})
		time.Sleep(16 * time.Minute)
		if r := b.Fetch("GET", "/admin", nil, nil); r.Status != 403 || r.Reason() != "forbidden" {
			t.Errorf("after leaving the group: %v", r)
		}
		refused.Store(true)
		time.Sleep(16 * time.Minute)
		if r := b.Fetch("GET", "/page", nil, nil); r.Status != 401 || r.Reason() != "session_revoked" {
			t.Errorf("refused by the hook at a refresh: %v", r)
		}
		if a.iss.LiveGrants() != 0 {
			time.Sleep(time.Second)
			if a.iss.LiveGrants() != 0 {
				t.Error("the grant lives on")
			}
		}
	})
}

// D13: a revocation is noticed by sessions that only use Protect, also where
// tokens live long.
func TestRevokedUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{issuer: bfftest.Options{AccessTokenLifetime: 10 * time.Hour}})
		b := a.signIn("alice")
		a.iss.Revoke("alice")
		time.Sleep(16 * time.Minute)
		b.Fetch("GET", "/page", nil, nil) // asks in the background
		synctest.Wait()
		if r := b.Fetch("GET", "/page", nil, nil); r.Status != 401 || r.Reason() != "refresh_rejected" {
			t.Errorf("16 minutes after the revocation: %v", r)
		}
	})
}

// Without a refresh token the session stays; what needs a token says so.
func TestNoRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{issuer: bfftest.Options{NoRefreshToken: true}})
		b := a.signIn("alice")
		time.Sleep(16 * time.Minute)
		if r := b.Fetch("GET", "/page", nil, nil); r.Status != 200 {
			t.Errorf("GET /page = %v", r)
		}
		if r := b.Fetch("GET", "/api/x", nil, nil); r.Status != 401 || r.Reason() != "token_unavailable" || a.api.hits() != 0 {
			t.Errorf("GET /api/x = %v", r)
		}
		if s := session(t, b); s["accessToken"].(map[string]any)["renewable"] != false {
			t.Errorf("session = %v", s)
		}
	})
}

var errStore = errors.New("store: connection refused")

// A hookedStore lets a test decide what a call of the store comes to.
type hookedStore struct {
	bff.Store
	mu   sync.Mutex
	hook func(op string, do func() error) error
}

func (s *hookedStore) set(hook func(op string, do func() error) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = hook
}

func (s *hookedStore) failWrites(fail bool) {
	if !fail {
		s.set(nil)
		return
	}
	s.set(func(op string, do func() error) error {
		if op != "Load" {
			return errStore
		}
		return do()
	})
}

func (s *hookedStore) call(op string, do func() error) error {
	s.mu.Lock()
	hook := s.hook
	s.mu.Unlock()
	if hook == nil {
		return do()
	}
	return hook(op, do)
}

func (s *hookedStore) Load(ctx context.Context, key string) (value []byte, version uint64, expires time.Time, ok bool, err error) {
	err = s.call("Load", func() (err error) {
		value, version, expires, ok, err = s.Store.Load(ctx, key)
		return err
	})
	return value, version, expires, ok, err
}

func (s *hookedStore) Create(ctx context.Context, key string, value []byte, expires, end time.Time) (ok bool, err error) {
	err = s.call("Create", func() (err error) {
		ok, err = s.Store.Create(ctx, key, value, expires, end)
		return err
	})
	return ok, err
}

func (s *hookedStore) Replace(ctx context.Context, key string, version uint64, value []byte) (next uint64, ok bool, err error) {
	err = s.call("Replace", func() (err error) {
		// What was sent is done, whether or not somebody still waits for it.
		next, ok, err = s.Store.Replace(context.WithoutCancel(ctx), key, version, value)
		return err
	})
	return next, ok, err
}

func (s *hookedStore) Touch(ctx context.Context, key string, expires time.Time) (ok bool, err error) {
	err = s.call("Touch", func() (err error) {
		ok, err = s.Store.Touch(ctx, key, expires)
		return err
	})
	return ok, err
}

func (s *hookedStore) End(ctx context.Context, key string, version uint64, mark []byte, until time.Time) (ok bool, err error) {
	err = s.call("End", func() (err error) {
		ok, err = s.Store.End(ctx, key, version, mark, until)
		return err
	})
	return ok, err
}

// D13: where userinfo is asked at each refresh, what it says counts, also where
// the issuer sends no new ID token: what it said before does not.
func TestGroupsChangeAtUserInfo(t *testing.T) {
	for name, groups := range map[string][]string{"fewer": {"Users"}, "none": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newApp(t, setup{
					issuer: bfftest.Options{ClaimsAtUserInfoOnly: true, NoIDTokenOnRefresh: true},
					config: bff.Config{UserInfo: true},
				})
				b := a.signIn("alice")
				if r := b.Fetch("GET", "/admin", nil, nil); r.Status != 200 {
					t.Fatal(r)
				}
				a.iss.AddUser(bfftest.User{Name: "alice", Email: "new@example.com", Groups: groups})
				time.Sleep(16 * time.Minute)
				if r := b.Fetch("GET", "/admin", nil, nil); r.Status != 403 || r.Reason() != "forbidden" {
					t.Errorf("after leaving the group: %v", r)
				}
				if got := session(t, b)["claims"].(map[string]any)["email"]; got != "new@example.com" {
					t.Errorf("email %v, want the new one", got)
				}
			})
		})
	}
}

// Groups come from the ID token, then from userinfo: a string or an array, and
// null is neither.
func TestGroupsFromEither(t *testing.T) {
	for _, c := range []struct {
		idToken, userinfo any
		want              string
	}{
		{[]string{"A", "B", "A"}, []string{"C"}, "[A B]"},
		{"A", []string{"C"}, "[A]"},
		{[]string{}, []string{"C"}, "[]"},
		{nil, []string{"C"}, "[C]"},
		{nil, "C", "[C]"},
		{[]any(nil), "C", "[C]"}, // null
		{[]any{"A", 1}, "C", "[]"},
		{nil, nil, "[]"},
	} {
		a := newApp(t, setup{config: bff.Config{UserInfo: true}})
		a.iss.Break("token", claim("groups", c.idToken))
		a.iss.Break("userinfo", member("groups", c.userinfo))
		if got := fmt.Sprint(session(t, a.signIn("alice"))["groups"]); got != c.want {
			t.Errorf("groups %v in the ID token and %v at userinfo: %s, want %s", c.idToken, c.userinfo, got, c.want)
		}
	}
}

// D13: what userinfo had and is silent about later is gone, though the ID token
// of the sign-in said it too. Of what userinfo never had, its silence says
// nothing. To say null is to be silent (OpenID Connect Core 1.0, section 5.3.2).
func TestGroupsVanishFromUserInfo(t *testing.T) {
	for name, silent := range map[string]any{"absent": nil, "null": []any(nil)} {
		for _, had := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/%v", name, had), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a := newApp(t, setup{issuer: bfftest.Options{NoIDTokenOnRefresh: true}, config: bff.Config{UserInfo: true}})
					if !had {
						a.iss.Break("userinfo", member("groups", silent))
					}
					b := a.signIn("alice")
					if had {
						a.iss.Break("userinfo", member("groups", silent))
					}
					want := map[bool]int{true: 403, false: 200}[had]
					for range 3 {
						time.Sleep(16 * time.Minute)
						if r := b.Fetch("GET", "/admin", nil, nil); r.Status != want {
							t.Errorf("userinfo without groups, where it had some before: %v; GET /admin = %v, want %d", had, r, want)
						}
					}
					if got := session(t, b)["claims"].(map[string]any)["name"]; got != "Alice Archer" {
						t.Errorf("name %v", got)
					}
				})
			})
		}
	}
}

// D1: a session whose place a new sign-in of the same browser takes, while its
// refresh is under way, ends without a revocation: at some issuers both hang on
// one grant, and it would take the new session's tokens along.
func TestNewSignInDuringRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{})
		b := a.signIn("alice")
		time.Sleep(16 * time.Minute)
		a.iss.Break("token:refresh_token", bfftest.Fault{DelayAnswer: 5 * time.Second})
		done := make(chan *bfftest.Response, 1)
		tab := b.Tab()
		go func() { done <- tab.Fetch("GET", "/api/x", nil, nil) }()
		time.Sleep(time.Second)
		if r := b.SignIn("alice"); r.Err != nil {
			t.Fatal(r.Err)
		}
		if r := <-done; r.Status != 401 || r.Reason() != "replaced" {
			t.Errorf("the request that waited for the old session's refresh: %v", r)
		}
		time.Sleep(time.Minute)
		if n := a.iss.Count("revoke"); n != 0 {
			t.Errorf("%d revocations, want none", n)
		}
	})
}

// A margin that is longer than the tokens of the issuer live doesn't make each
// request a refresh.
func TestRefreshMarginLongerThanTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{issuer: bfftest.Options{AccessTokenLifetime: time.Minute}, config: bff.Config{RefreshMargin: 2 * time.Minute}})
		b := a.signIn("alice")
		for range 120 {
			if r := b.Fetch("GET", "/api/x", nil, nil); r.Status != 200 {
				t.Fatal(r)
			}
			synctest.Wait()
			time.Sleep(time.Second)
		}
		if n := a.iss.Count("token:refresh_token"); n < 2 || n > 4 {
			t.Errorf("%d refreshes in two minutes with tokens of one, want one each half minute", n)
		}
	})
}

// A hook that panics on what the issuer says of a user costs that user a 503,
// as a handler that panics costs one request: not the process, and no grant.
func TestHooksThatPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events atomic.Bool
		a := newApp(t, setup{config: bff.Config{
			OnLogin: func(_ context.Context, l *bff.Login) error {
				l.Set("first", l.Groups[0])
				return nil
			},
			OnEvent: func(context.Context, bff.Event) {
				if events.Load() {
					panic("full")
				}
			},
		}})
		b := a.signIn("alice")
		a.iss.AddUser(bfftest.User{Name: "alice"})
		time.Sleep(16 * time.Minute)
		if r := b.Fetch("GET", "/page", nil, nil); r.Status != 503 || r.Reason() != "issuer_unavailable" {
			t.Errorf("with a hook that panics at a refresh: %v", r)
		}
		other := a.browser()
		if r := other.SignIn("alice"); r.Err == nil || !strings.Contains(r.Err.Error(), "issuer_unavailable") {
			t.Errorf("with a hook that panics at a sign-in: %v", r)
		}
		synctest.Wait()
		if n := a.iss.Count("revoke"); n != 1 {
			t.Errorf("%d revocations, want that of the failed sign-in's grant", n)
		}
		a.iss.AddUser(bfftest.User{Name: "alice", Groups: []string{"Users"}})
		events.Store(true)
		time.Sleep(6 * time.Minute) // the tokens that could not be judged are given up
		if r := b.Fetch("GET", "/page", nil, nil); r.Status != 200 {
			t.Errorf("once the hook works again: %v", r)
		}
		if log := a.log.String(); !strings.Contains(log, `"hook":"OnLogin"`) || !strings.Contains(log, `"hook":"OnEvent"`) {
			t.Error("nobody was told")
		}
	})
}

// Close does not wait for an issuer whose keys are away: the rotated token is
// stored, and another replica goes on from there.
func TestCloseWhileKeysAreDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		apps, at := fleet(t, 2, setup{})
		iss := apps[0].iss
		b := apps[0].signIn("alice")
		iss.RotateKeys()
		heal := iss.Break("jwks", bfftest.Fault{Status: 503})
		time.Sleep(16 * time.Minute)
		if r := b.Fetch("GET", "/api/x", nil, nil); r.Status != 503 {
			t.Fatalf("GET /api/x = %v", r)
		}
		start := time.Now()
		if err := apps[0].auth.Close(t.Context()); err != nil || time.Since(start) > 10*time.Second {
			t.Errorf("Close = %v after %v", err, time.Since(start))
		}
		heal()
		time.Sleep(30 * time.Second)
		if r := at(1, b).Fetch("GET", "/api/x", nil, nil); r.Status != 200 || iss.LiveGrants() != 1 {
			t.Errorf("at another replica: %v, with %d live grants", r, iss.LiveGrants())
		}
	})
}
