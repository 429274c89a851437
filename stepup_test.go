package bff_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
	"github.com/agglestone/bff/store/memstore"
)

// stepUps are routes that want more than a session.
func stepUps(a *app, mux *http.ServeMux) {
	mux.Handle("GET /recent", a.auth.ProtectFunc(whoami, bff.MaxAuthAge(5*time.Minute)))
	mux.Handle("GET /gold", a.auth.ProtectFunc(whoami, bff.RequireACR("gold", "platinum")))
	mux.Handle("GET /both", a.auth.ProtectFunc(whoami, bff.Optional(), bff.MaxAuthAge(5*time.Minute), bff.RequireACR("gold")))
}

// A route that wants a recent sign-in (RFC 9470, S130, S168, S336, S344): a
// refresh is none.
func TestMaxAuthAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{mux: stepUps})
		b := a.signIn("alice")
		if r := b.Fetch("GET", "/recent", nil, nil); r.Status != 200 {
			t.Fatalf("right after the sign-in: %v", r)
		}
		time.Sleep(20 * time.Minute)
		b.Fetch("GET", "/api/x", nil, nil) // refreshes
		if a.iss.Count("token:refresh_token") == 0 {
			t.Fatal("no refresh")
		}
		r := b.Fetch("GET", "/recent", nil, nil)
		var p map[string]any
		if r.JSON(&p) != nil || r.Status != 401 || p["reason"] != "step_up" || p["maxAge"] != 300.0 || p["loginUrl"] != "/login?max_age=300" {
			t.Fatalf("20 minutes later: %v %s", r, r.Body)
		}
		old := sessionCookie(t, b).Value
		b.Navigate("/recent?x=1")
		if !strings.Contains(b.Page().URL.String(), "max_age=300") {
			t.Fatalf("a page does not lead to a login with max_age: %v", b.Page())
		}
		if r := b.Choose("alice"); r.Status != 200 || b.Page().URL.Path != "/recent" || b.Page().URL.RawQuery != "x=1" {
			t.Fatalf("after the step-up: %v at %v", r, b.Page().URL)
		}
		if sessionCookie(t, b).Value == old {
			t.Error("a step-up kept the session ID")
		}
	})
}

// What the callback takes for recent enough the route takes, too: however little
// is allowed, and however far the issuer's clock is behind, nobody is sent to
// sign in again and again.
func TestMaxAuthAgeAndTheClocks(t *testing.T) {
	for name, c := range map[string]struct {
		age    time.Duration
		behind time.Duration // the issuer's clock
		rests  time.Duration // between the sign-in and the page
	}{
		"just now":                   {age: 0, rests: 1800300 * time.Millisecond},
		"just now, issuer behind":    {age: 0, behind: 20 * time.Second, rests: 30 * time.Minute},
		"seconds, issuer behind":     {age: 10 * time.Second, behind: 20 * time.Second, rests: 30 * time.Minute},
		"not yet old for the issuer": {age: 5 * time.Minute, behind: 20 * time.Second, rests: 290 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newApp(t, setup{mux: func(a *app, mux *http.ServeMux) {
					mux.Handle("GET /recent", a.auth.ProtectFunc(whoami, bff.MaxAuthAge(c.age)))
				}})
				var signedInAt time.Time
				a.iss.Break("token", idToken(func(t *bfftest.Token) { t.Claims["auth_time"] = signedInAt.Add(-c.behind).Unix() }))
				signedInAt = time.Now()
				b := a.signIn("alice")
				time.Sleep(c.rests)
				b.Navigate("/recent")
				if strings.HasPrefix(b.Page().URL.String(), a.iss.URL()) {
					signedInAt = time.Now()
					b.Choose("alice")
				}
				if r := b.Page(); r.Status != 200 || !strings.HasPrefix(r.URL.String(), appURL+"/recent") {
					t.Errorf("ends at %v with %v after %d authorization requests", r.URL, r, a.iss.Count("authorize"))
				}
				time.Sleep(c.age + 31*time.Second)
				if r := b.Fetch("GET", "/recent", nil, nil); r.Reason() != "step_up" {
					t.Errorf("31 seconds too late: %v, want step_up", r)
				}
			})
		})
	}
}

// What no sign-in can satisfy is a mistake in the program, and said at once:
// whoever came there would sign in again and again.
func TestStepUpThatNobodyCanTake(t *testing.T) {
	a := newApp(t, setup{})
	mustPanic(t, "a negative age", "MaxAuthAge: -1s is negative", func() { bff.MaxAuthAge(-time.Second) })
	for name, acr := range map[string][]string{
		"none": nil, "an empty one": {"gold", ""}, "two in one": {"gold platinum"}, "not ASCII": {"göld"}, "too long": {strings.Repeat("x", 257)},
	} {
		mustPanic(t, name, "can't be asked for", func() { bff.RequireACR(acr...) })
	}
	mustPanic(t, "two that exclude each other", "no sign-in has", func() {
		a.auth.ProtectFunc(whoami, bff.RequireACR("gold"), bff.RequireACR("silver"))
	})
	mustPanic(t, "an option of Proxy that excludes the upstream's", "bff: Proxy: Options: RequireACR: no sign-in has", func() {
		a.auth.Proxy(bff.Upstream{URL: "https://api.example.com", Options: []bff.Option{bff.RequireACR("gold")}}, bff.RequireACR("silver"))
	})
}

// Of two ages the shorter counts, in whichever order they are given: an option of
// Proxy can't loosen the upstream's.
func TestMaxAuthAgeTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hour, minute := bff.MaxAuthAge(time.Hour), bff.MaxAuthAge(time.Minute)
		a := newApp(t, setup{mux: func(a *app, mux *http.ServeMux) {
			mux.Handle("GET /longer-first", a.auth.ProtectFunc(whoami, hour, minute))
			mux.Handle("GET /shorter-first", a.auth.ProtectFunc(whoami, minute, hour))
		}})
		b := a.signIn("alice")
		time.Sleep(10 * time.Minute)
		for _, path := range []string{"/longer-first", "/shorter-first"} {
			var p map[string]any
			if r := b.Fetch("GET", path, nil, nil); r.Reason() != "step_up" || r.JSON(&p) != nil || p["maxAge"] != 60.0 {
				t.Errorf("GET %s = %v, max age %v; want step_up with 60", path, r, p["maxAge"])
			}
		}
	})
}

// Of two demands that overlap, what both admit is asked for: an issuer that
// grants the first of what it is asked would please one after the other.
func TestRequireACRTwice(t *testing.T) {
	a := newApp(t, setup{mux: func(a *app, mux *http.ServeMux) {
		mux.Handle("GET /both", a.auth.ProtectFunc(whoami, bff.RequireACR("gold", "platinum"), bff.RequireACR("titanium", "platinum")))
	}})
	b := a.signIn("alice")
	var p map[string]any
	if r := b.Fetch("GET", "/both", nil, nil); r.JSON(&p) != nil || p["acrValues"] != "platinum" {
		t.Errorf("asked for is %v, want platinum", p["acrValues"])
	}
	b.Navigate("/both")
	if r := b.Choose("alice"); r.Status != 200 || b.Page().URL.Path != "/both" {
		t.Errorf("ends at %v with %v after %d authorization requests", b.Page().URL, r, a.iss.Count("authorize"))
	}
}

// D26: what was asked for is sealed into the attempt. An issuer that ignores it
// leads to an error page, not to a loop, and the old session stays.
func TestStepUpIgnoredByIssuer(t *testing.T) {
	for path, query := range map[string]string{"/recent": "max_age=300", "/gold": "acr_values="} {
		synctest.Test(t, func(t *testing.T) {
			a := newApp(t, setup{mux: stepUps, issuer: bfftest.Options{IgnoreStepUp: true}})
			b := a.signIn("alice")
			time.Sleep(20 * time.Minute)
			r := b.Navigate(path)
			if r.Status != 401 || r.Reason() != "step_up" || a.iss.Count("authorize") > 2 {
				t.Errorf("%s: %v after %d authorization requests", path, r, a.iss.Count("authorize"))
			}
			found := false
			for _, e := range a.iss.Log() {
				found = found || e.Endpoint == "authorize" && strings.Contains(e.Query.Encode(), query)
			}
			if !found {
				t.Errorf("%s was not asked for", query)
			}
			if !signedIn(t, b) || a.iss.LiveGrants() == 0 {
				t.Error("the session that wanted more was ended")
			}
		})
	}
}

// D26, S133: another user who answers the step-up starts at the default page.
func TestStepUpByAnotherUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{mux: stepUps})
		b := a.signIn("alice")
		time.Sleep(20 * time.Minute)
		b.Navigate("/recent")
		if r := b.Choose("bob"); r.Status != 200 || b.Page().URL.Path != "/" {
			t.Errorf("bob goes on at %v", b.Page().URL)
		}
	})
}

// S178: the acr is checked, and asked for.
func TestRequireACR(t *testing.T) {
	a := newApp(t, setup{mux: stepUps})
	b := a.signIn("alice")
	r := b.Fetch("GET", "/gold", nil, nil)
	var p map[string]any
	if r.JSON(&p) != nil || p["reason"] != "step_up" || p["acrValues"] != "gold platinum" || p["loginUrl"] != "/login?acr_values=gold+platinum" {
		t.Fatalf("without acr: %v %s", r, r.Body)
	}
	b.Navigate("/gold")
	if r := b.Choose("alice"); r.Status != 200 {
		t.Fatalf("after the step-up: %v", r)
	}
	if r := b.Fetch("GET", "/both", nil, nil); r.Status != 200 {
		t.Errorf("both: %v", r)
	}
	if r := a.browser().Fetch("GET", "/both", nil, nil); r.Status != 401 || r.Reason() != "no_session" {
		t.Errorf("nobody, where a session is optional: %v", r)
	}
}

// A session never outlives what the issuer said (IPSIE's session_expiry), at
// the sign-in and at a refresh.
func TestSessionExpiryOfTheIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{})
		heal := a.iss.Break("token", claimAt("session_expiry", -time.Second))
		b := a.browser()
		if r := b.SignIn("alice"); r.Err == nil || signedIn(t, b) {
			t.Error("a sign-in that has ended already was taken")
		}
		heal()
		heal = a.iss.Break("token", claimAt("session_expiry", 40*time.Minute))
		b = a.signIn("alice")
		heal()
		time.Sleep(25 * time.Minute)
		if s := page(t, b, "GET"); s != 200 { // refreshes, and says no more about it
			t.Fatalf("after 25 minutes: %d", s)
		}
		cookie := sessionCookie(t, b)
		time.Sleep(16 * time.Minute)
		b.SetCookie(cookie) // which the browser has dropped
		if r := b.Fetch("GET", "/page", nil, nil); r.Status != 401 {
			t.Errorf("after 41 minutes: %v, want 401", r)
		}
		b = a.signIn("alice")
		a.iss.Break("token", claimAt("session_expiry", 10*time.Minute))
		time.Sleep(16 * time.Minute)
		page(t, b, "GET")
		time.Sleep(11 * time.Minute)
		if r := b.Fetch("GET", "/page", nil, nil); r.Reason() != "session_expired" {
			t.Errorf("11 minutes after the refresh: %v, want session_expired", r)
		}
	})
}

// D26: who steps up is bound to the attempt, or the attempt isn't begun. A store
// that can't tell is no proof that nobody is signed in.
func TestStepUpWhileTheStoreIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &hookedStore{Store: memstore.New(memstore.Options{})}
		a := newApp(t, setup{mux: stepUps, config: bff.Config{Store: store}})
		b := a.signIn("alice")
		time.Sleep(time.Minute)
		store.set(func(string, func() error) error { return errStore })
		r := b.Navigate("/login?max_age=0&returnUrl=/page")
		store.set(nil)
		if r.Status == 200 { // the issuer's page
			b.Choose("bob")
			t.Fatalf("bob goes on at %v", b.Page().URL)
		}
		if r.Status != 503 || r.Reason() != "store_unavailable" {
			t.Errorf("a step-up with the store down = %v", r)
		}
	})
}

// A max_age that the configuration asks for is checked like one that a request
// asks for (OpenID Connect Core 1.0, section 3.1.3.7, step 13).
func TestConfiguredMaxAge(t *testing.T) {
	a := newApp(t, setup{config: bff.Config{AuthorizationParams: map[string]string{"max_age": "600"}}})
	b := a.browser()
	if r := b.SignIn("alice"); r.Err != nil {
		t.Fatal(r.Err)
	}
	a.iss.Break("token", claimAt("auth_time", -time.Hour))
	b = a.browser()
	if r := b.SignIn("alice"); r.Err == nil || signedIn(t, b) || !strings.Contains(r.Err.Error(), "step_up") {
		t.Errorf("a sign-in of an hour ago = %v, want step_up", r)
	}
}
