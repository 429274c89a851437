package bff_test

import (
	"context"
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

// A trail keeps events.
type trail struct {
	mu   sync.Mutex
	list []bff.Event
}

func (tr *trail) add(_ context.Context, e bff.Event) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.list = append(tr.list, e)
}

func (tr *trail) take() []bff.Event {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	list := tr.list
	tr.list = nil
	return list
}

// A life is told in events, with who, where and why, and no secret (S376,
// S377).
func TestEventsOfALife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := &trail{}
		a := newApp(t, setup{config: bff.Config{OnEvent: tr.add, OnLogin: func(_ context.Context, l *bff.Login) error {
			if l.Groups == nil {
				return bff.Refuse("no group")
			}
			return nil
		}}})
		var all []bff.Event
		expect := func(step string, want ...string) {
			t.Helper()
			synctest.Wait()
			list := tr.take()
			all = append(all, list...)
			var got []string
			for _, e := range list {
				got = append(got, strings.Trim(fmt.Sprintf("%s %s %s", e.Kind, e.Reason, e.By), " "))
				if e.Issuer != a.iss.URL() || e.Time.IsZero() || e.Count != 1 {
					t.Errorf("%s: event %+v", step, e)
				}
			}
			if strings.Join(got, ", ") != strings.Join(want, ", ") {
				t.Errorf("%s: events %q, want %q", step, got, want)
			}
		}
		b := a.signIn("alice")
		expect("sign-in", "signed_in")
		alice := a.iss.Grants()[0].Subject
		infos := must(a.auth.SessionsOf(t.Context(), alice))
		if e := all[0]; e.Subject != alice || e.Session != infos[0].Handle || e.Request == nil || e.Request.Path != "/auth/callback" {
			t.Errorf("sign-in: %+v with %+v", e, e.Request)
		}
		time.Sleep(16 * time.Minute)
		b.Fetch("GET", "/api/x", nil, nil)
		expect("refresh", "refreshed")
		heal := a.iss.Break("token", bfftest.Fault{Status: 500})
		time.Sleep(16 * time.Minute)
		b.Fetch("GET", "/api/x", nil, nil)
		expect("outage", "refresh_failed issuer_unavailable")
		heal()
		b.Fetch("POST", "/page", nil, http.Header{"Sec-Fetch-Site": {"cross-site"}})
		expect("another site", "csrf_refused csrf")
		if e := all[len(all)-1]; e.Request == nil || e.Request.Method != "POST" || e.Request.ID == "" || e.Session != infos[0].Handle {
			t.Errorf("csrf: %+v with %+v", e, e.Request)
		}
		b.SignIn("alice")
		expect("again", "session_ended replaced user", "signed_in")
		signOut(b)
		expect("sign-out", "session_ended signed_out user")
		a.signIn("alice")
		a.logout(a.iss.LogoutToken(func(t *bfftest.Token) { t.Claims["sub"] = alice }))
		expect("the issuer", "signed_in", "session_ended session_revoked issuer", "backchannel_logout session_revoked issuer")
		a.logout("nonsense")
		expect("nonsense", "backchannel_refused")
		time.Sleep(time.Second) // ID tokens and logout tokens count in seconds
		b = a.signIn("alice")
		a.iss.Revoke("alice")
		time.Sleep(16 * time.Minute)
		b.Fetch("GET", "/api/x", nil, nil)
		expect("revoked at the issuer", "signed_in", "session_ended refresh_rejected issuer")
		a.auth.SetKeys(bff.NewKey())
		expect("keys", "keys_changed")
		var text strings.Builder
		for _, e := range all {
			fmt.Fprintf(&text, "%+v %+v\n", e, e.Request)
		}
		for _, secret := range a.iss.Secrets() {
			if len(secret) > 11 && strings.Contains(text.String(), secret) {
				t.Error("an event holds a secret")
			}
		}
		for kind, level := range map[bff.EventKind]string{ // as documented
			bff.SignedIn: "INFO", bff.Refreshed: "DEBUG", bff.RefreshFailed: "WARN", bff.SessionEnded: "INFO", bff.CSRFRefused: "WARN",
			bff.BackchannelLogout: "INFO", bff.BackchannelRefused: "WARN", bff.KeysChanged: "INFO",
		} {
			if line := fmt.Sprintf(`"level":%q,"msg":%q,"issuer"`, level, strings.ReplaceAll(string(kind), "_", " ")); !strings.Contains(a.log.String(), line) {
				t.Errorf("the log lacks %s", line)
			}
		}
	})
}

// Who is refused is named as soon as it is known who it is, and each is told of
// by itself.
func TestEventsOfRefusedSignIns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := &trail{}
		store := &hookedStore{Store: memstore.New(memstore.Options{})}
		a := newApp(t, setup{config: bff.Config{Store: store, OnEvent: tr.add, OnLogin: func(_ context.Context, l *bff.Login) error {
			if len(l.Groups) == 0 {
				return bff.Refuse("no group")
			}
			return nil
		}}})
		expect := func(step string, reason bff.Reason, user string) {
			t.Helper()
			subject := ""
			if user != "" {
				grants := a.iss.Grants()
				subject = grants[len(grants)-1].Subject
			}
			list := tr.take()
			if len(list) != 1 || list[0].Kind != bff.SignInRefused || list[0].Reason != reason || list[0].Subject != subject ||
				list[0].Request == nil || list[0].Request.Path != "/auth/callback" {
				t.Errorf("%s: events %+v; want one, sign_in_refused %s of %q", step, list, reason, subject)
			}
		}
		a.iss.AddUser(bfftest.User{Name: "nobody"})
		for range 3 {
			a.browser().SignIn("nobody")
			expect("OnLogin", bff.LoginRefused, "nobody")
		}
		heal := a.iss.Break("token", claim("iss", "https://evil.example"))
		a.browser().SignIn("alice")
		expect("an ID token of another issuer", bff.IssuerError, "")
		heal()
		created := 0
		store.set(func(op string, do func() error) error {
			if op == "Create" {
				if created++; created == 2 { // after the mark of the attempt
					return errStore
				}
			}
			return do()
		})
		a.browser().SignIn("alice")
		store.set(nil)
		expect("the store", bff.StoreUnavailable, "alice")
		a.browser().Navigate("/auth/callback?code=x&state=y")
		expect("a stranger", bff.LoginMismatch, "")
		if !strings.Contains(a.log.String(), `"level":"INFO","msg":"sign in refused","issuer"`) {
			t.Error("the log lacks it")
		}
	})
}

// D35: what a stranger can cause is counted, and nothing else waits behind it.
func TestEventsOfStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := &trail{}
		a := newApp(t, setup{config: bff.Config{OnEvent: tr.add}})
		stranger := a.browser()
		const each, seconds = 500, 10
		for range seconds {
			for range each {
				stranger.Fetch("POST", "/logout", nil, http.Header{"Sec-Fetch-Site": {"cross-site"}})
			}
			a.signIn("alice")
			time.Sleep(time.Second)
		}
		time.Sleep(2 * time.Second)
		reported, counted, signedIn := 0, 0, 0
		for _, e := range tr.take() {
			switch e.Kind {
			case bff.CSRFRefused:
				reported++
				counted += e.Count
			case bff.SignedIn:
				signedIn++
			}
		}
		if counted != each*seconds || reported > 2*seconds+1 || signedIn != seconds {
			t.Errorf("%d refusals in %d events, want %d in at most one a second; %d sign-ins, want %d", counted, reported, each*seconds, signedIn, seconds)
		}
	})
}

// The same of sign-ins that were never begun, and of logout tokens.
func TestEventsOfStrangersByKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := &trail{}
		a := newApp(t, setup{config: bff.Config{OnEvent: tr.add}})
		stranger := a.browser()
		for _, kind := range []bff.EventKind{bff.SignInRefused, bff.BackchannelRefused} {
			const many = 500
			for i := range many {
				if kind == bff.SignInRefused {
					stranger.Navigate("/auth/callback?code=x&state=y")
					if i == many/2 { // of another sort, and not to be lost among them
						stranger.Navigate("/auth/callback?%zz")
					}
				} else {
					a.logout("nonsense")
				}
			}
			time.Sleep(2 * time.Second)
			reported, counted, other := 0, 0, 0
			for _, e := range tr.take() {
				if e.Reason == bff.BadRequest && e.Count == 1 && e.Request.Path == "/auth/callback" {
					other++
				} else if e.Kind == kind && e.Session == "" && e.Subject == "" {
					reported++
					counted += e.Count
				}
			}
			if counted != many || reported != 2 || kind == bff.SignInRefused && other != 1 {
				t.Errorf("%s: %d are counted in %d events, want %d in 2; %d of another sort, want 1", kind, counted, reported, many, other)
			}
		}
	})
}

// Close reports what is held, and nothing is held after it: OnEvent is not
// called behind the back of a program that has ended.
func TestEventsAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := &trail{}
		a := newApp(t, setup{config: bff.Config{OnEvent: tr.add}})
		stranger := a.browser()
		refused := func() {
			for range 5 {
				stranger.Fetch("POST", "/logout", nil, http.Header{"Sec-Fetch-Site": {"cross-site"}})
			}
		}
		counted := func() (n int) {
			for _, e := range tr.take() {
				n += e.Count
			}
			return n
		}
		refused()
		if err := a.auth.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := counted(); n != 5 {
			t.Errorf("%d refusals are counted when Close returns, want 5", n)
		}
		refused()
		if n := counted(); n != 5 {
			t.Errorf("%d refusals after Close are counted at once, want 5", n)
		}
		time.Sleep(5 * time.Second)
		if n := counted(); n != 0 {
			t.Errorf("%d are reported later", n)
		}
	})
}

// Close returns when OnEvent has, if that is being told of what was counted.
func TestCloseWaitsForOnEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var counted atomic.Int32
		a := newApp(t, setup{config: bff.Config{OnEvent: func(_ context.Context, e bff.Event) {
			if e.Count > 1 {
				time.Sleep(5 * time.Second)
			}
			counted.Add(int32(e.Count))
		}}})
		stranger := a.browser()
		for range 5 {
			stranger.Fetch("POST", "/logout", nil, http.Header{"Sec-Fetch-Site": {"cross-site"}})
		}
		time.Sleep(2 * time.Second) // OnEvent is being told of four
		if err := a.auth.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := counted.Load(); n != 5 {
			t.Errorf("OnEvent was told of %d refusals when Close returned, want 5", n)
		}
	})
}

// A log line names a session as the events do.
func TestLogNamesSessionsByTheirHandle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &hookedStore{Store: memstore.New(memstore.Options{})}
		tr := &trail{}
		a := newApp(t, setup{config: bff.Config{Store: store, OnEvent: tr.add}})
		b := a.signIn("alice")
		handle := tr.take()[0].Session
		a.iss.Break("token", bfftest.Fault{Status: 500})
		time.Sleep(31 * time.Minute)
		store.set(func(op string, do func() error) error {
			if op == "Touch" {
				return errStore
			}
			return do()
		})
		b.Fetch("GET", "/page", nil, nil)
		synctest.Wait()
		for _, message := range []string{"session not extended", "refresh failed"} {
			found := false
			for line := range strings.SplitSeq(a.log.String(), "\n") {
				if strings.Contains(line, `"`+message+`"`) {
					found = true
					if !strings.Contains(line, `"session":"`+handle+`"`) {
						t.Errorf("%s; want session %s", line, handle)
					}
				}
			}
			if !found {
				t.Errorf("no line %q", message)
			}
		}
	})
}
