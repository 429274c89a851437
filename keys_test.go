package bff_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
	"github.com/agglestone/bff/store/memstore"
)

// signedIn reports whether a's session route knows the browser's user.
func signedIn(t *testing.T, b *bfftest.Browser) bool {
	t.Helper()
	switch r := b.Fetch("GET", "/auth/session", nil, nil); r.Status {
	case http.StatusOK:
		return true
	case http.StatusUnauthorized:
		return false
	default:
		t.Fatalf("GET /auth/session = %v", r)
		return false
	}
}

// D11: a rotation in three steps over two replicas, one after the other, signs
// nobody out, whichever replica the browser meets; what is removed at the end
// ends only what it alone can open.
func TestKeyRotationOverReplicas(t *testing.T) {
	iss, store := bfftest.NewIssuer(bfftest.Options{}), memstore.New(memstore.Options{})
	k1, k2 := bff.NewKey(), bff.NewKey()
	var replicas [2]*app
	for i := range replicas {
		replicas[i] = newApp(t, setup{at: iss, config: bff.Config{Keys: []bff.Key{k1}, Store: store}})
	}
	turn := 0
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // round robin
		turn++
		replicas[turn%2].handler.ServeHTTP(w, r)
	})
	newcomer := func() *bfftest.Browser {
		t.Helper()
		b := bfftest.NewBrowser(handler, appURL, iss)
		if r := b.SignIn("alice"); r.Err != nil {
			t.Fatalf("sign-in: %v", r.Err)
		}
		return b
	}
	set := func(replica int, keys ...bff.Key) {
		t.Helper()
		if err := replicas[replica].auth.SetKeys(keys...); err != nil {
			t.Fatal(err)
		}
	}
	users := []*bfftest.Browser{newcomer()}
	stillIn := func(step string) {
		t.Helper()
		users = append(users, newcomer())
		for i, b := range users {
			for range 4 {
				if !signedIn(t, b) {
					t.Fatalf("%s: user %d is signed out", step, i)
				}
			}
		}
	}
	for _, step := range []struct {
		name string
		keys []bff.Key
	}{{"added at the end", []bff.Key{k1, k2}}, {"moved to the front", []bff.Key{k2, k1}}} {
		set(0, step.keys...)
		stillIn(step.name + " at one replica")
		set(1, step.keys...)
		stillIn(step.name + " at both")
	}
	last := len(users) - 1 // signed in with k2 in front everywhere
	set(0, k2)
	set(1, k2)
	if signedIn(t, users[0]) {
		t.Error("a session under the removed key is still let in")
	}
	if !signedIn(t, users[last]) {
		t.Error("a session under the other key was ended by the removal")
	}
	if cookie := sessionCookie(t, users[0]); cookie.Value == "" {
		t.Error("the cookie of an unknown key was deleted")
	}
	for name, keys := range map[string][]bff.Key{"none": nil, "short": {{}}, "twice": {k2, k1, k2}} {
		var e *bff.ConfigError
		if err := replicas[0].auth.SetKeys(keys...); !errors.As(err, &e) {
			t.Errorf("SetKeys(%s) = %v, want a ConfigError", name, err)
		}
	}
	if !signedIn(t, users[last]) {
		t.Error("keys that were refused took effect")
	}
}

// D11: a key that the source brings opens at once and seals after two periods;
// what the source can't say changes nothing.
func TestKeySource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		iss, store := bfftest.NewIssuer(bfftest.Options{}), memstore.New(memstore.Options{})
		k1, k2 := bff.NewKey(), bff.NewKey()
		type answer struct {
			keys []bff.Key
			err  error
		}
		var source atomic.Pointer[answer]
		source.Store(&answer{keys: []bff.Key{k1}})
		a := newApp(t, setup{at: iss, config: bff.Config{
			Keys: []bff.Key{}, Store: store, KeySourceEvery: time.Minute,
			KeySource: func(context.Context) ([]bff.Key, error) { s := source.Load(); return s.keys, s.err },
		}})
		only := func(k bff.Key) *app {
			return newApp(t, setup{at: iss, config: bff.Config{Keys: []bff.Key{k}, Store: store}})
		}
		a1, a2 := only(k1), only(k2)
		// opens reports whether a browser that signs in at a is known at other.
		opens := func(other *app) bool {
			t.Helper()
			b := a.signIn("alice")
			c := sessionCookie(t, b)
			r := bfftest.NewBrowser(other.handler, appURL, iss)
			r.SetCookie(c)
			return signedIn(t, r)
		}
		if !opens(a1) {
			t.Fatal("the source's key was not used at the start")
		}
		source.Store(&answer{keys: []bff.Key{k2, k1}})
		time.Sleep(time.Minute + time.Second) // seen once
		theirs := a2.signIn("bob")
		mine := a.browser()
		mine.SetCookie(sessionCookie(t, theirs))
		if !signedIn(t, mine) {
			t.Error("a key that was seen once does not open")
		}
		if !opens(a1) {
			t.Error("a key that was seen once seals")
		}
		time.Sleep(time.Minute) // seen twice: one period
		if !opens(a1) {
			t.Error("a key that was seen for one period seals")
		}
		source.Store(&answer{err: errors.New("down")})
		time.Sleep(5 * time.Minute)
		if !opens(a1) {
			t.Error("a source that failed changed the keys")
		}
		source.Store(&answer{keys: []bff.Key{{}}})
		time.Sleep(time.Minute)
		if !opens(a1) || !strings.Contains(a.log.String(), "the keys stay") {
			t.Error("keys that can't be used were used, or nobody was told")
		}
		source.Store(&answer{keys: []bff.Key{k2, k1}})
		time.Sleep(3 * time.Minute)
		if !opens(a2) {
			t.Error("a key that was seen for two periods does not seal")
		}
	})
}
