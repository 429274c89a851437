package bff_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
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

// devices asks for the list of sessions.
func devices(t *testing.T, b *bfftest.Browser) (list []map[string]any) {
	t.Helper()
	r := b.Fetch("GET", "/auth/sessions", nil, nil)
	var v struct{ Sessions []map[string]any }
	if r.Status != 200 || r.JSON(&v) != nil {
		t.Fatalf("GET /auth/sessions = %v %s", r, r.Body)
	}
	return v.Sessions
}

// A user sees where they are signed in and can end it, there and nowhere else
// (ASVS 7.5.2, 7.4.3).
func TestOwnSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{})
		phone := a.signIn("alice")
		time.Sleep(20 * time.Minute)
		laptop, bob := a.signIn("alice"), a.signIn("bob")
		time.Sleep(25 * time.Minute)
		page(t, phone, "GET") // extends: half of the idle time has passed
		list := devices(t, laptop)
		if len(list) != 2 || list[0]["current"] != true || list[1]["current"] != false {
			t.Fatalf("sessions = %v, want the laptop's and then the phone's", list)
		}
		last, err := time.Parse(time.RFC3339, list[1]["lastSeenAt"].(string))
		if err != nil || time.Since(last) > time.Minute {
			t.Errorf("the phone was last seen %v ago, want just now", time.Since(last))
		}
		text, _ := json.Marshal(list)
		for _, secret := range append(a.iss.Secrets(), sessionCookie(t, phone).Value, sessionCookie(t, laptop).Value) {
			if len(secret) > 8 && strings.Contains(string(text), secret) {
				t.Error("the list holds a secret")
			}
		}
		theirs := devices(t, bob)[0]["handle"].(string)
		for path, want := range map[string]int{
			"/auth/sessions/" + theirs:        404, // another subject's
			"/auth/sessions/nothing":          404,
			"/auth/sessions/" + theirs + "/x": 404,
		} {
			if r := laptop.Fetch("DELETE", path, nil, nil); r.Status != want {
				t.Errorf("DELETE %s = %v, want %d", path, r, want)
			}
		}
		if !signedIn(t, bob) {
			t.Error("alice ended bob's session")
		}
		handle := list[1]["handle"].(string)
		if r := laptop.Fetch("DELETE", "/auth/sessions/"+handle, nil, http.Header{"Sec-Fetch-Site": {"cross-site"}}); r.Status != 403 {
			t.Errorf("DELETE from another site = %v, want 403", r)
		}
		if r := laptop.Fetch("DELETE", "/auth/sessions/"+handle, nil, nil); r.Status != 204 {
			t.Errorf("DELETE = %v, want 204", r)
		}
		if r := phone.Fetch("GET", "/auth/session", nil, nil); r.Reason() != "session_revoked" {
			t.Errorf("the phone gets %v, want session_revoked", r)
		}
		for range 3 {
			a.signIn("alice")
			time.Sleep(time.Minute)
		}
		r := laptop.Fetch("POST", "/auth/sessions/end-others", nil, nil)
		if r.Status != 200 || strings.TrimSpace(string(r.Body)) != `{"ended":3}` {
			t.Errorf("end-others = %v %s, want 3 ended", r, r.Body)
		}
		if list := devices(t, laptop); len(list) != 1 || !signedIn(t, laptop) || !signedIn(t, bob) {
			t.Errorf("after end-others: %v", list)
		}
		if r := laptop.Fetch("DELETE", "/auth/sessions/"+devices(t, laptop)[0]["handle"].(string), nil, nil); r.Status != 204 || signedIn(t, laptop) {
			t.Errorf("ending one's own session = %v", r)
		}
		// A list does not keep a session alive (S338).
		carol := a.signIn("carol")
		for range 8 {
			time.Sleep(10 * time.Minute)
			if r := carol.Fetch("GET", "/auth/sessions", nil, nil); r.Status == 401 {
				return
			}
		}
		t.Error("asking for the list kept the session alive")
	})
}

// Whoever wants to sign out elsewhere doesn't wait for the issuer, nor does a tab
// that listens. What the issuer refuses ends the session as anywhere.
func TestOwnSessionsWithIssuerDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{})
		phone, laptop := a.signIn("alice"), a.signIn("alice")
		time.Sleep(16 * time.Minute) // the access tokens have expired
		a.iss.Down(true)
		if r := laptop.Fetch("GET", "/api/x", nil, nil); r.Reason() != "issuer_unavailable" {
			t.Fatalf("the API: %v, want issuer_unavailable", r)
		}
		f := listen(t, a, laptop)
		synctest.Wait()
		if f.ended() || f.status != 200 {
			t.Errorf("GET /auth/events = %d", f.status)
		}
		if list := devices(t, laptop); len(list) != 2 {
			t.Errorf("%d sessions are listed, want 2", len(list))
		}
		if r := laptop.Fetch("POST", "/auth/sessions/end-others", nil, nil); r.Status != 200 || signedIn(t, phone) {
			t.Errorf("end-others = %v; the phone is signed in: %v", r, signedIn(t, phone))
		}
		// Refusals that don't name the grant end nothing (D17).
		a.iss.Down(false)
		heal := a.iss.Break("token", bfftest.Fault{Status: 400, BeforeProcessing: true})
		for range 4 {
			time.Sleep(time.Minute)
			laptop.Fetch("GET", "/api/x", nil, nil)
		}
		if r := laptop.Fetch("GET", "/api/x", nil, nil); r.Reason() != "refresh_rejected" {
			t.Fatalf("the API: %v, want refresh_rejected", r)
		}
		if list := devices(t, laptop); len(list) != 1 {
			t.Errorf("%d sessions are listed, want 1", len(list))
		}
		heal()
		a.iss.Revoke("alice")
		time.Sleep(time.Minute)
		if r := laptop.Fetch("GET", "/auth/sessions", nil, nil); r.Reason() != "refresh_rejected" {
			t.Errorf("revoked at the issuer: %v, want refresh_rejected", r)
		}
	})
}

// An administrator ends sessions (S308, S342), with nothing but the subject.
func TestAdministratorEndsSessions(t *testing.T) {
	synctest.Test(t, testAdministratorEndsSessions)
}

func testAdministratorEndsSessions(t *testing.T) {
	store, iss, key := memstore.New(memstore.Options{}), bfftest.NewIssuer(bfftest.Options{}), bff.NewKey()
	a := newApp(t, setup{at: iss, config: bff.Config{Store: store, Keys: []bff.Key{key}}})
	admin := newApp(t, setup{at: iss, config: bff.Config{Store: store, Keys: []bff.Key{key}}})
	one, two, bob := a.signIn("alice"), a.signIn("alice"), a.signIn("bob")
	alice, ctx := iss.Grants()[0].Subject, t.Context()
	infos, err := admin.auth.SessionsOf(ctx, alice)
	if err != nil || len(infos) != 2 {
		t.Fatalf("SessionsOf = %v, %v", infos, err)
	}
	if ok, err := admin.auth.EndSession(ctx, alice, infos[0].Handle); !ok || err != nil {
		t.Errorf("EndSession = %v, %v", ok, err)
	}
	if ok, err := admin.auth.EndSession(ctx, alice, infos[0].Handle); ok || err != nil {
		t.Errorf("EndSession again = %v, %v", ok, err)
	}
	if n := len(must(admin.auth.SessionsOf(ctx, alice))); n != 1 {
		t.Errorf("%d sessions are left, want 1", n)
	}
	if n, err := admin.auth.EndSessionsOf(ctx, alice); n != 1 || err != nil {
		t.Errorf("EndSessionsOf = %d, %v", n, err)
	}
	if signedIn(t, one) || signedIn(t, two) || !signedIn(t, bob) {
		t.Error("the wrong ones are signed in")
	}
	time.Sleep(time.Second) // ID tokens count in seconds
	if b := a.signIn("alice"); !signedIn(t, b) {
		t.Error("the user can't sign in again")
	}
}

// Config.MaxSessions: the oldest end first, and are told why (S337).
func TestMaxSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{config: bff.Config{MaxSessions: 2}})
		var all []*bfftest.Browser
		for range 4 {
			all = append(all, a.signIn("alice"))
			time.Sleep(time.Minute)
		}
		for i, b := range all {
			r := b.Fetch("GET", "/auth/session", nil, nil)
			if i < 2 && r.Reason() != "replaced" || i >= 2 && r.Status != 200 {
				t.Errorf("session %d: %v", i, r)
			}
		}
	})
}

// Ending many sessions takes bounded steps, and tells of each.
func TestManySessionsEnd(t *testing.T) {
	const many = 300
	var mu sync.Mutex
	var ended []string
	store := memstore.New(memstore.Options{})
	a := newApp(t, setup{config: bff.Config{Store: store, OnEvent: func(_ context.Context, e bff.Event) {
		mu.Lock()
		defer mu.Unlock()
		if e.Kind == bff.SessionEnded && e.Reason == bff.SessionRevoked && e.By == bff.ByApplication {
			ended = append(ended, e.Session)
		}
	}}})
	for range many {
		a.signIn("alice")
	}
	n, err := a.auth.EndSessionsOf(t.Context(), a.iss.Grants()[0].Subject)
	slices.Sort(ended)
	if n != many || err != nil || len(slices.Compact(ended)) != many {
		t.Errorf("EndSessionsOf = %d, %v with %d events, want %d of each", n, err, len(ended), many)
	}
}

// A store that can't find by tags is an error of New where that is needed, and
// of the methods otherwise.
func TestStoreWithoutIndex(t *testing.T) {
	plain := plainStore{memstore.New(memstore.Options{})}
	cfg := bff.Config{
		Issuer: "https://login.example.com", ClientID: "web", RedirectURL: appURL + "/auth/callback",
		Keys: []bff.Key{bff.NewKey()}, Store: plain, MaxSessions: 3, IdleTimeout: -1,
	}
	_, err := bff.New(t.Context(), cfg)
	for _, field := range []string{"Config.Store", "Config.MaxSessions", "Config.IdleTimeout"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("New = %v, want a word on %s", err, field)
		}
	}
	var e *bff.ConfigError
	if !errors.As(err, &e) {
		t.Errorf("New = %v, want a ConfigError", err)
	}
	a := newApp(t, setup{config: bff.Config{Store: plain}})
	b := a.signIn("alice")
	if _, err := a.auth.EndSessionsOf(t.Context(), "x"); err == nil {
		t.Error("EndSessionsOf = nil")
	}
	if _, err := a.auth.SessionsOf(t.Context(), "x"); err == nil {
		t.Error("SessionsOf = nil")
	}
	for _, path := range []string{"/auth/sessions", "/auth/backchannel-logout"} {
		if r := b.Fetch("GET", path, nil, nil); r.Status != 404 {
			t.Errorf("GET %s = %v, want 404", path, r)
		}
	}
}

// A command ends every session that there is, whatever the issuer's clock says
// of their ID tokens, and a sign-in that began before it.
func TestCommandGoesByOurClock(t *testing.T) {
	for name, skew := range map[string]time.Duration{"ahead": 25 * time.Second, "behind": -25 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &gatedStore{Store: memstore.New(memstore.Options{})}
				a := newApp(t, setup{config: bff.Config{Store: store}})
				a.iss.Break("token", claimAt("iat", skew))
				b := a.signIn("alice")
				alice := a.iss.Grants()[0].Subject
				if n, err := a.auth.EndSessionsOf(t.Context(), alice); n != 1 || err != nil || signedIn(t, b) {
					t.Errorf("EndSessionsOf = %d, %v; the user is signed in: %v", n, err, signedIn(t, b))
				}
				time.Sleep(time.Millisecond)
				if b = a.signIn("alice"); !signedIn(t, b) {
					t.Error("the user can't sign in again")
				}
				time.Sleep(time.Minute)
				store.before(func() { a.auth.EndSessionsOf(t.Context(), alice) })
				other := a.browser()
				if r := other.SignIn("alice"); signedIn(t, other) || !strings.Contains(r.Err.Error(), "session_revoked") {
					t.Errorf("a sign-in that was under way survived: %v", r)
				}
				if signedIn(t, b) {
					t.Error("the session from before lives")
				}
			})
		})
	}
}

// An indexStore lets a test decide what a call of the index comes to.
type indexStore struct {
	*memstore.Store
	full atomic.Bool // no entry is taken
	torn atomic.Bool // notes come back damaged
}

func (s *indexStore) Tag(ctx context.Context, tag, key string, note []byte, until time.Time) error {
	if s.full.Load() {
		return memstore.ErrFull
	}
	return s.Store.Tag(ctx, tag, key, note, until)
}

func (s *indexStore) Tagged(ctx context.Context, tag string) (map[string][]byte, error) {
	notes, err := s.Store.Tagged(ctx, tag)
	if s.torn.Load() {
		for key := range notes {
			notes[key] = []byte("damaged")
		}
	}
	return notes, err
}

// What can be ended is, though the index is full or what it noted can't be
// read.
func TestEndingWithADamagedIndex(t *testing.T) {
	synctest.Test(t, testEndingWithADamagedIndex)
}

func testEndingWithADamagedIndex(t *testing.T) {
	store := &indexStore{Store: memstore.New(memstore.Options{})}
	a := newApp(t, setup{config: bff.Config{Store: store}})
	one, two := a.signIn("alice"), a.signIn("alice")
	alice, ctx := a.iss.Grants()[0].Subject, t.Context()
	store.torn.Store(true)
	if list := devices(t, one); len(list) != 2 {
		t.Errorf("%d sessions are listed, want 2", len(list))
	}
	if n, err := a.auth.EndSessionsOf(ctx, alice); n != 2 || err != nil || signedIn(t, one) || signedIn(t, two) {
		t.Errorf("EndSessionsOf without readable notes = %d, %v", n, err)
	}
	store.torn.Store(false)
	time.Sleep(2 * time.Millisecond)
	one = a.signIn("alice")
	store.full.Store(true)
	if n, err := a.auth.EndSessionsOf(ctx, alice); n != 1 || err == nil || signedIn(t, one) {
		t.Errorf("EndSessionsOf without room for a mark = %d, %v; want 1 and an error", n, err)
	}
	store.full.Store(false)
	time.Sleep(2 * time.Millisecond)
	one = a.signIn("alice")
	store.torn.Store(true)
	checkLogoutAnswer(t, a.logout(a.iss.LogoutToken(func(t *bfftest.Token) { t.Claims["sub"] = alice })), 200)
	if signedIn(t, one) {
		t.Error("a logout token left a session whose note can't be read")
	}
}

// A leavingStore calls a function in the middle of the first ending.
type leavingStore struct {
	*memstore.Store
	leave func()
}

func (s *leavingStore) End(ctx context.Context, key string, version uint64, mark []byte, until time.Time) (bool, error) {
	s.leave()
	return s.Store.End(ctx, key, version, mark, until)
}

// Whoever asks for the end of many sessions and doesn't wait for it, leaves none
// of them: an issuer with a short time-out, a closed tab.
func TestEndingIsNotLeftHalfDone(t *testing.T) {
	for name, request := range map[string]func(a *app, b *bfftest.Browser) *http.Request{
		"issuer": func(a *app, _ *bfftest.Browser) *http.Request {
			token := a.iss.LogoutToken(func(t *bfftest.Token) { t.Claims["sub"] = a.iss.Grants()[0].Subject })
			r := httptest.NewRequest("POST", "/auth/backchannel-logout", strings.NewReader("logout_token="+token))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			return r
		},
		"tab": func(a *app, b *bfftest.Browser) *http.Request {
			r := httptest.NewRequest("POST", "/auth/sessions/end-others", nil)
			r.AddCookie(sessionCookie(a.T, b))
			r.Header.Set("Sec-Fetch-Site", "same-origin")
			return r
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			a := newApp(t, setup{config: bff.Config{Store: &leavingStore{memstore.New(memstore.Options{}), leave}}})
			var others []*bfftest.Browser
			for range 50 {
				others = append(others, a.signIn("alice"))
			}
			b := a.signIn("alice")
			a.handler.ServeHTTP(httptest.NewRecorder(), request(a, b).WithContext(ctx))
			alive := 0
			for _, o := range others {
				if signedIn(t, o) {
					alive++
				}
			}
			if ctx.Err() == nil || alive > 0 {
				t.Errorf("%d of 50 sessions live on", alive)
			}
		})
	}
}

// Events of an ending say whose session it was, and what request asked for it.
func TestEventsOfEndings(t *testing.T) {
	synctest.Test(t, testEventsOfEndings)
}

func testEventsOfEndings(t *testing.T) {
	tr := &trail{}
	a := newApp(t, setup{config: bff.Config{OnEvent: tr.add, MaxSessions: 2}})
	expect := func(step, path string) {
		t.Helper()
		n := 0
		for _, e := range tr.take() {
			if e.Kind != bff.SessionEnded {
				continue
			}
			n++
			got := ""
			if e.Request != nil {
				got = e.Request.Path
			}
			if e.Subject != a.iss.Grants()[0].Subject || e.Session == "" || got != path {
				t.Errorf("%s: session %q of %q was ended by a request for %q, want one for %q", step, e.Session, e.Subject, got, path)
			}
		}
		if n == 0 {
			t.Errorf("%s: no event", step)
		}
	}
	one, two := a.signIn("alice"), a.signIn("alice")
	two.SignIn("alice")
	expect("a sign-in in the same browser", "/auth/callback")
	two.Fetch("POST", "/auth/sessions/end-others", nil, nil)
	expect("end-others", "/auth/sessions/end-others")
	handle := devices(t, two)[0]["handle"].(string)
	two.Fetch("DELETE", "/auth/sessions/"+handle, nil, nil)
	expect("delete", "/auth/sessions/"+handle)
	for range 3 {
		one = a.signIn("alice")
		time.Sleep(2 * time.Millisecond)
	}
	expect("too many", "/auth/callback")
	signOut(one)
	expect("sign-out", "/logout")
	a.logout(a.iss.LogoutToken(func(t *bfftest.Token) { t.Claims["sub"] = a.iss.Grants()[0].Subject }))
	expect("logout token", "/auth/backchannel-logout")
	time.Sleep(time.Second) // ID tokens and logout tokens count in seconds
	a.signIn("alice")
	a.auth.EndSessionsOf(t.Context(), a.iss.Grants()[0].Subject)
	expect("command", "")
}

// A meetingStore has sessions that are created at the same time wait for each
// other.
type meetingStore struct {
	*memstore.Store
	meet atomic.Pointer[sync.WaitGroup]
}

func (s *meetingStore) Create(ctx context.Context, key string, value []byte, expires, end time.Time) (bool, error) {
	ok, err := s.Store.Create(ctx, key, value, expires, end)
	if wg := s.meet.Load(); wg != nil && key[0] == 's' {
		wg.Done()
		wg.Wait()
	}
	return ok, err
}

// Of sign-ins at the same moment, as many stay as may: they don't end each
// other.
func TestMaxSessionsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &meetingStore{Store: memstore.New(memstore.Options{})}
		a := newApp(t, setup{config: bff.Config{MaxSessions: 2, Store: store}})
		for _, at := range []int{2, 3, 5} {
			old := a.signIn("alice")
			time.Sleep(time.Hour / 2)
			meet := new(sync.WaitGroup)
			meet.Add(at)
			store.meet.Store(meet)
			browsers := make([]*bfftest.Browser, at)
			var wg sync.WaitGroup
			for i := range browsers {
				browsers[i] = a.browser()
				wg.Go(func() { browsers[i].SignIn("alice") })
			}
			wg.Wait()
			store.meet.Store(nil)
			alive := 0
			for _, b := range browsers {
				if signedIn(t, b) {
					alive++
				}
			}
			if alive != 2 || signedIn(t, old) {
				t.Errorf("of %d sign-ins at once %d stay, want 2; the one from before is there: %v", at, alive, signedIn(t, old))
			}
			time.Sleep(time.Minute)
		}
	})
}
