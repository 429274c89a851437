package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// A heard is something that the frontend heard about its session, as watch in
// spa/app.js notes it, or about its WebSocket.
type heard struct {
	What   string    `json:"what"` // open, expiring, extended, ended, closed
	Reason string    `json:"reason"`
	Login  string    `json:"loginUrl"`
	At     time.Time `json:"at"`            // expiring
	Idle   time.Time `json:"idleExpiresAt"` // extended
	Code   int       `json:"code"`          // closed
	When   int64     `json:"when"`          // the browser's clock, in milliseconds
}

func (h heard) when() time.Time { return time.UnixMilli(h.When) }

// watch has the frontend listen to the events, and waits until it does.
func (tb *tab) watch() {
	tb.t.Helper()
	run[bool](tb, `watch(), true`)
	tb.awaitHeard("open")
}

// awaitHeard waits until the frontend has heard this, and returns what it heard.
func (tb *tab) awaitHeard(what string) heard {
	tb.t.Helper()
	tb.await("hearing "+what, fmt.Sprintf(`heard.some((h) => h.what === %s)`, quote(what)))
	all := tb.heard()
	return all[slices.IndexFunc(all, func(h heard) bool { return h.What == what })]
}

func (tb *tab) heard() (all []heard) {
	tb.t.Helper()
	decode(tb.t, run[string](tb, `JSON.stringify(heard)`), &all)
	return all
}

// kinds is what of it, in order.
func kinds(all []heard) (list []string) {
	for _, h := range all {
		list = append(list, h.What)
	}
	return list
}

// Who signs out in one tab is signed out in the other, which says why.
func TestOtherTabHearsOfSignOut(t *testing.T) {
	w := tlsLane.start(t).withGateway(t)
	v := newVisit(t, w)
	tb, other := v.first(), v.newTab()
	tb.signIn("alice")
	other.goTo(w.app.origin + "/other")
	other.awaitSPA("signed-in")
	other.watch()
	old := v.checkSessionCookie()

	tb.click("#sign-out-button")
	ended := other.awaitHeard("ended")
	if ended.Reason != "signed_out" || ended.Login != "/login" {
		t.Errorf("the other tab heard %+v; want ended, signed_out and /login", ended)
	}
	other.awaitSPA("signed-out")
	if got := run[string](other, `document.body.dataset.reason`); got != "signed_out" {
		t.Errorf("the other tab says %q", got)
	}
	if got := kinds(other.heard()); fmt.Sprint(got) != "[open ended]" {
		t.Errorf("the other tab heard %v", got)
	}
	other.shot("other-tab")
	if status := v.withCookie(old, "/auth/session"); status != 401 {
		t.Errorf("the old cookie: GET /auth/session = %d, want 401", status)
	}
	// The issuer's page still asks: the end here did not wait for it.
	tb.await("the issuer's sign-out page", `document.querySelector("#confirm")`)
}

// A session that nobody uses ends, polled as it may be, and its tab hears of
// that; one request that a person made is enough to keep it.
func TestIdleExpiryWithPolling(t *testing.T) {
	w := privateWorld(t, "")
	const idle = 8 * time.Second // and so the notice is 2 s
	if err := w.startGateway(w.app, "BFF_IDLE_TIMEOUT="+idle.String()); err != nil {
		t.Fatal(err)
	}
	v := newVisit(t, w)
	tb := v.first()
	tb.signIn("alice")
	tb.watch()

	// Every quarter of a second the tab asks who is signed in, and the API. At
	// the first notice it makes a request that is not passive.
	run[bool](tb, `(() => {
		window.polls = [];
		const poll = async () => {
			const init = {headers: {"X-CSRF": "1", "BFF-Passive": "1"}};
			const asked = Date.now();
			const [session, api] = [await fetch("/auth/session", init), await fetch("/api/poll", init)];
			const body = await session.json();
			polls.push({asked, session: session.status, api: api.status, idleExpiresAt: body.session?.idleExpiresAt,
				reason: session.headers.get("BFF-Reason")});
			if (session.ok) setTimeout(poll, 250);
		};
		poll();
		const until = setInterval(() => {
			if (!heard.some((h) => h.what === "expiring")) return;
			clearInterval(until);
			fetch("/api/by-hand", {headers: {"X-CSRF": "1"}});
		}, 20);
		return true;
	})()`)
	tb.awaitHeard("extended")
	ended := tb.awaitHeard("ended")
	tb.await("the last poll's answer", `polls.at(-1).session !== 200`)
	tb.shot("ended")
	all := tb.heard()
	if got := kinds(all); fmt.Sprint(got) != "[open expiring extended expiring ended]" {
		t.Fatalf("the tab heard %v", got)
	}
	first, extended, second := all[1], all[2], all[3]
	if ended.Reason != "session_idle" || first.Reason != "session_idle" || second.Reason != "session_idle" {
		t.Errorf("the reasons are %s, %s and %s, want session_idle", first.Reason, second.Reason, ended.Reason)
	}
	if !second.At.Equal(extended.Idle) || !extended.Idle.After(first.At) {
		t.Errorf("expiring at %v, extended to %v, expiring at %v", first.At, extended.Idle, second.At)
	}
	// Times are told in whole seconds, rounded down.
	if late := ended.when().Sub(extended.Idle); late < 0 || late > 5*time.Second {
		t.Errorf("ended %v after the time that was told", late)
	}

	var polls []struct {
		Asked         int64
		Session, API  int
		IdleExpiresAt time.Time
		Reason        string
	}
	decode(t, run[string](tb, `JSON.stringify(polls)`), &polls)
	var ends []time.Time
	late := 0 // polls in the second half, when any other request would extend
	for _, p := range polls[:len(polls)-1] {
		if p.Session != 200 || p.API != 200 && p.API != 401 {
			t.Errorf("a poll while signed in = %+v", p)
		}
		if len(ends) == 0 || !ends[len(ends)-1].Equal(p.IdleExpiresAt) {
			ends = append(ends, p.IdleExpiresAt)
		}
		if left := extended.Idle.Sub(time.UnixMilli(p.Asked)); left > 0 && left < idle/2 {
			late++
		}
	}
	if len(ends) != 2 || !ends[1].Equal(extended.Idle) {
		t.Errorf("the polls saw the session end at %v; want two times, the second %v", ends, extended.Idle)
	}
	if late == 0 {
		t.Error("no poll in the second half of the idle time: this test has not seen what it is for")
	}
	if last := polls[len(polls)-1]; last.Session != 401 || last.Reason != "session_idle" {
		t.Errorf("the last poll = %+v; want 401 session_idle", last)
	}
	calls := map[string]int{}
	for _, c := range v.upstream.since(v.callsAt) {
		calls[c.path]++
	}
	if calls["/by-hand"] != 1 || calls["/poll"] < len(polls)-2 {
		t.Errorf("%d polls, and the upstream saw %v", len(polls), calls)
	}
}

// The quickstart's page, with its client: it says when the session is about to
// end, keeps it for who asks for that, and says why it has ended.
func TestQuickstartPageHearsOfEnd(t *testing.T) {
	w := privateWorld(t, "")
	pages, err := filepath.Abs(filepath.Join("..", "..", "examples", "quickstart", "static"))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.startGateway(w.app, "BFF_IDLE_TIMEOUT=8s", "BFF_SPA_DIR="+pages); err != nil {
		t.Fatal(err)
	}
	v := newVisit(t, w)
	tb := v.first()
	is := func(state string) string { return fmt.Sprintf(`document.body?.dataset.state === %s`, quote(state)) }
	const notice = `document.getElementById("notice").checkVisibility()`

	tb.goTo(w.app.origin + "/")
	tb.await("the page, signed out", is("out"))
	// A stream that is refused is not tried for ever: the client asks why.
	if got := run[string](tb, `import("/bff.js").then(({watch}) => new Promise((done) =>
		watch((what, {reason}) => done(what + " " + reason))))`); got != "ended no_session" {
		t.Errorf("watching nothing tells %q, want ended no_session", got)
	}
	tb.click("#login")
	tb.submitLogin("alice")
	tb.await("the page, signed in", is("in"))
	if run[bool](tb, notice) {
		t.Error("there is a notice at once")
	}
	until := tb.idleEnd()
	tb.await("the notice", notice)
	tb.shot("notice")
	tb.click("#keep")
	tb.await("no notice", "!"+notice)
	tb.shot("kept")
	if now := tb.idleEnd(); !now.After(until) {
		t.Errorf("kept until %v, no later than %v", now, until)
	}
	tb.await("the end", is("out"))
	tb.shot("ended")
	const reason = `document.getElementById("reason").textContent`
	if got := run[string](tb, reason); !strings.HasSuffix(got, ": session_idle") {
		t.Errorf("the page says %q", got)
	}

	tb.click("#login") // the issuer knows her still
	tb.await("the page, signed in again", is("in"))
	other := v.newTab()
	other.goTo(w.app.origin + "/")
	other.await("the other tab, signed in", is("in"))
	tb.click("#logout")
	other.await("the other tab, signed out", is("out"))
	if got := run[string](other, reason); !strings.HasSuffix(got, ": signed_out") {
		t.Errorf("the other tab says %q", got)
	}
	other.shot("other-tab")
}

// idleEnd asks, passively, when the session ends if nothing happens.
func (tb *tab) idleEnd() time.Time {
	tb.t.Helper()
	var s session
	decode(tb.t, tb.fetch("/auth/session", `{headers: {"X-CSRF": "1", "BFF-Passive": "1"}}`).Body, &s)
	return s.Session.IdleExpiresAt
}
