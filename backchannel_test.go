package bff_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
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

// logout posts a form with a logout token, as the issuer does.
func (a *app) logout(token string) *httptest.ResponseRecorder {
	return a.postLogout("application/x-www-form-urlencoded", url.Values{"logout_token": {token}}.Encode())
}

func (a *app) postLogout(contentType, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "/auth/backchannel-logout", strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	w := httptest.NewRecorder()
	a.handler.ServeHTTP(w, r)
	return w
}

// checkLogoutAnswer holds an answer to OpenID Connect Back-Channel Logout 1.0,
// section 2.8.
func checkLogoutAnswer(t *testing.T, w *httptest.ResponseRecorder, want int) {
	t.Helper()
	if w.Code != want || w.Header().Get("Cache-Control") != "no-store" || w.Header()["Set-Cookie"] != nil {
		t.Errorf("answer %d %q with headers %v; want %d, no-store, no cookie", w.Code, w.Body, w.Header(), want)
	}
	if want == 400 && (w.Body.String() != `{"error":"invalid_request"}`+"\n" || w.Header().Get("Content-Type") != "application/json") {
		t.Errorf("body %q of type %q, want an RFC 6749 error", w.Body, w.Header().Get("Content-Type"))
	}
}

const logoutEvent = "http://schemas.openid.net/event/backchannel-logout"

type backchannelRow struct {
	name, rule, checks string
	edit               func(*bfftest.Token)
	symmetric          bool          // signed with the issuer's public key as a secret
	late               time.Duration // after it was made
	ok                 bool
}

// Back-Channel Logout 1.0, sections 2.4 to 2.8: each check with a row that it
// accepts and rows that it refuses.
func backchannelRows() []backchannelRow {
	stranger := bfftest.NewKey("RS256")
	set := func(name string, value any) func(*bfftest.Token) {
		return func(t *bfftest.Token) {
			if value == nil {
				delete(t.Claims, name)
			} else {
				t.Claims[name] = value
			}
		}
	}
	at := func(name string, d time.Duration) func(*bfftest.Token) {
		return func(t *bfftest.Token) { t.Claims[name] = time.Now().Add(d).Unix() }
	}
	json := func(from, to string) func(*bfftest.Token) {
		return func(t *bfftest.Token) {
			t.EditClaimsJSON = func(b []byte) []byte {
				if !strings.Contains(string(b), from) {
					panic("no " + from + " in " + string(b))
				}
				return []byte(strings.Replace(string(b), from, to, 1))
			}
		}
	}
	head := func(name string, value any) func(*bfftest.Token) {
		return func(t *bfftest.Token) { t.Header[name] = value }
	}
	events := func(v any) func(*bfftest.Token) { return set("events", v) }
	both := func(one, other func(*bfftest.Token)) func(*bfftest.Token) {
		return func(t *bfftest.Token) { one(t); other(t) }
	}
	return []backchannelRow{
		{name: "plain", rule: "2.8, S220", ok: true},
		{name: "no typ", rule: "2.4, S231", edit: func(t *bfftest.Token) { delete(t.Header, "typ") }, ok: true},
		{name: "typ JWT", rule: "2.4, S231", edit: head("typ", "JWT"), ok: true},
		{name: "typ in full", rule: "2.4, S231", edit: head("typ", "application/Logout+JWT"), ok: true},
		{name: "typ of an access token", rule: "2.4, S231, X133", edit: head("typ", "at+jwt"), checks: "typ"},
		{name: "typ of a security event", rule: "2.4, S231, X133", edit: head("typ", "secevent+jwt"), checks: "typ"},
		{name: "alg none", rule: "2.6 (3), S211, S271", edit: func(t *bfftest.Token) { t.EditJWT = unsigned }, checks: "signature"},
		{name: "signature tampered", rule: "2.6 (2), S210", edit: func(t *bfftest.Token) { t.EditJWT = bfftest.TamperSignature }, checks: "signature"},
		{name: "signed by a stranger", rule: "2.6 (2), S210", edit: func(t *bfftest.Token) {
			kid := t.Header["kid"]
			t.SignWith(stranger)
			t.Header["kid"] = kid
		}, checks: "signature"},
		{name: "alg HS256 with the public key", rule: "2.6 (3), S211", symmetric: true, checks: "alg,alg-symmetric,signature"},
		{name: "encrypted", rule: "2.6 (1), S209", edit: func(t *bfftest.Token) { t.EditJWT = func(s string) string { return s + ".x.y" } }},
		{name: "a million dots", rule: "2.6 (1), S502", edit: func(t *bfftest.Token) { t.EditJWT = func(string) string { return strings.Repeat(".", 60000) } }},
		{name: "critical extension", rule: "RFC 7515 4.1.11, S311, X123", edit: head("crit", []string{"x"})},
		{name: "kid unknown", rule: "2.6 (2), S210", edit: head("kid", "other"), checks: "kid"},
		{name: "iss of another", rule: "2.6 (4), S212, S273", edit: set("iss", "https://evil.example"), checks: "iss"},
		{name: "iss missing", rule: "2.4, S212", edit: set("iss", nil), checks: "iss"},
		{name: "aud of another", rule: "2.6 (4), S212, S274", edit: set("aud", "other"), checks: "aud,logout-aud-extra"},
		{name: "aud missing", rule: "2.4, S212", edit: set("aud", nil), checks: "aud"},
		{name: "aud an array of us", rule: "2.4, S212", edit: func(t *bfftest.Token) { t.Claims["aud"] = []any{t.Claims["aud"]} }, ok: true},
		{name: "aud with a stranger", rule: "2.6 (4), S212", edit: func(t *bfftest.Token) { t.Claims["aud"] = []any{t.Claims["aud"], "evil"} }, checks: "logout-aud-extra"},
		{name: "iat missing", rule: "2.4, S212", edit: set("iat", nil), checks: "logout-iat,logout-iat-age,logout-exp-far"},
		{name: "iat text", rule: "2.4, S493, X125", edit: set("iat", "1700000000")},
		{name: "iat huge", rule: "2.4, S493, X125", edit: json(`"iat":`, `"iat":1e300,"x":`)},
		{name: "iat in an hour", rule: "2.6 (4), S212, X125", edit: at("iat", time.Hour), checks: "logout-iat-future"},
		{name: "iat within the skew", rule: "2.6 (4), S212", edit: at("iat", 20*time.Second), ok: true},
		{name: "iat a day ago", rule: "2.6 (4), S212, X125", edit: at("iat", -24*time.Hour), checks: "logout-iat-age,logout-exp-far"},
		{name: "iat ten minutes ago", rule: "2.6 (4), S212", edit: set("exp", nil), late: 10 * time.Minute, ok: true},
		{name: "iat eleven minutes ago", rule: "2.6 (4), S212", edit: set("exp", nil), late: 11 * time.Minute, checks: "logout-iat-age"},
		{name: "exp past", rule: "2.6 (4), S212", edit: at("exp", -31*time.Second), checks: "logout-exp"},
		{name: "exp within the skew", rule: "2.6 (4), S212", edit: at("exp", -20*time.Second), ok: true},
		{name: "exp missing", rule: "2.4, issuers, S212", edit: set("exp", nil), ok: true},
		{name: "exp null", rule: "2.4, S493, X125", edit: json(`"exp":`, `"exp":null,"x":`)},
		{name: "exp in ten years", rule: "4, S232", edit: at("exp", 87600*time.Hour), checks: "logout-exp-far"},
		{name: "nbf in an hour", rule: "RFC 7519 4.1.5, S312, X125", edit: at("nbf", time.Hour), checks: "logout-nbf"},
		{name: "sub alone", rule: "2.6 (5), S213", edit: set("sid", nil), ok: true},
		{name: "sid alone", rule: "2.6 (5), S213", edit: set("sub", nil), ok: true},
		{name: "nobody named", rule: "2.6 (5), S213", edit: func(t *bfftest.Token) { delete(t.Claims, "sub"); delete(t.Claims, "sid") }, checks: "logout-nobody"},
		{name: "both empty", rule: "2.6 (5), S213", edit: func(t *bfftest.Token) { t.Claims["sub"], t.Claims["sid"] = "", "" }, checks: "logout-name"},
		{name: "sub null beside sid", rule: "2.6 (5), S213", edit: json(`"sub":`, `"sub":null,"x":`), checks: "logout-name"},
		{name: "sid a number", rule: "2.4, S213", edit: set("sid", 7), checks: "claim-type,logout-name"},
		{name: "events missing", rule: "2.6 (6), S214, S275", edit: events(nil), checks: "logout-event"},
		{name: "events an array", rule: "2.6 (6), S214", edit: events([]any{}), checks: "logout-event"},
		{name: "events a string", rule: "2.6 (6), S214, X129", edit: events("backchannel-logout"), checks: "logout-event"},
		{name: "events empty", rule: "2.6 (6), S214, X129", edit: events(map[string]any{}), checks: "logout-event"},
		{name: "another event", rule: "2.6 (6), S214, S276", edit: events(map[string]any{"http://schemas.openid.net/event/foobar": map[string]any{}}), checks: "logout-event"},
		{name: "event null", rule: "2.6 (6), S214", edit: events(map[string]any{logoutEvent: nil}), checks: "logout-event"},
		{name: "event a string", rule: "2.6 (6), S214", edit: events(map[string]any{logoutEvent: ""}), checks: "logout-event"},
		{name: "event an array", rule: "2.6 (6), S214", edit: events(map[string]any{logoutEvent: []any{}}), checks: "logout-event"},
		{name: "event true", rule: "2.6 (6), S214, X129", edit: events(map[string]any{logoutEvent: true}), checks: "logout-event"},
		{name: "event in capitals", rule: "2.6 (6), S214, X129", edit: events(map[string]any{strings.ToUpper(logoutEvent): map[string]any{}}), checks: "logout-event"},
		{name: "event with a slash", rule: "2.6 (6), S214, X129", edit: events(map[string]any{logoutEvent + "/": map[string]any{}}), checks: "logout-event"},
		{name: "event with members", rule: "2.4, S214", edit: events(map[string]any{logoutEvent: map[string]any{"x": 1}}), ok: true},
		{name: "another event beside it", rule: "RFC 8417 2.2, S214", edit: events(map[string]any{logoutEvent: map[string]any{}, "urn:x": 1}), ok: true},
		{name: "nonce", rule: "2.6 (7), S215, S277", edit: set("nonce", "n"), checks: "logout-nonce"},
		{name: "nonce empty", rule: "2.6 (7), S215", edit: set("nonce", ""), checks: "logout-nonce"},
		{name: "nonce null", rule: "2.6 (7), S215", edit: json(`{`, `{"nonce":null,`), checks: "logout-nonce"},
		{name: "nonce in capitals", rule: "2.6 (7), S215", edit: set("NONCE", "n"), checks: "claim-case"},
		{name: "an ID token", rule: "2.6 (6, 7), 4, S222", edit: both(head("typ", "JWT"), both(events(nil), set("nonce", "n"))), checks: "logout-event,logout-nonce"},
		{name: "jti missing", rule: "2.4, S216", edit: set("jti", nil), checks: "logout-jti"},
		{name: "jti empty", rule: "2.4, S216", edit: set("jti", ""), checks: "logout-jti"},
		{name: "jti a number", rule: "2.4, S216", edit: set("jti", 7), checks: "claim-type,logout-jti"},
		{name: "sub twice", rule: "RFC 7519 4, S435", edit: json(`{`, `{"sub":"x",`), checks: "duplicate-member"},
		{name: "tenant of another", rule: "Core 5.1.2, agglestone, S334", edit: set("tenantId", "11111111-2222-3333-4444-555555555555"), checks: "logout-tenant"},
		{name: "unknown claims", rule: "2.4, S153", edit: set("x", 1), ok: true},
	}
}

// What is refused is 400, and everybody stays.
func TestBackchannelLogoutTokens(t *testing.T) {
	for _, row := range backchannelRows() {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newApp(t, setup{})
				b := a.signIn("alice")
				g := a.iss.Grants()[0]
				token := a.iss.LogoutToken(func(t *bfftest.Token) {
					t.Claims["sub"], t.Claims["sid"] = g.Subject, g.SID
					if row.edit != nil {
						row.edit(t)
					}
					if row.symmetric {
						t.SignWith(bfftest.HMACKey("HS256", a.iss.Key().PublicPEM()))
					}
				})
				time.Sleep(row.late)
				w := a.logout(token)
				want := 400
				if row.ok {
					want = 200
				}
				checkLogoutAnswer(t, w, want)
				if in := signedIn(t, b); in == row.ok {
					t.Errorf("%s: signed in afterwards is %v", row.rule, in)
				}
			})
		})
	}
}

// Section 2.5, S206 to S208: what is no logout request.
func TestBackchannelLogoutRequests(t *testing.T) {
	a := newApp(t, setup{})
	b := a.signIn("alice")
	token := a.iss.LogoutToken(func(t *bfftest.Token) { t.Claims["sub"] = a.iss.Grants()[0].Subject })
	const form = "application/x-www-form-urlencoded"
	for name, w := range map[string]*httptest.ResponseRecorder{
		"json":        a.postLogout("application/json", `{"logout_token":"`+token+`"}`),
		"multipart":   a.postLogout("multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"logout_token\"\r\n\r\n"+token+"\r\n--x--\r\n"),
		"no type":     a.postLogout("", "logout_token="+token),
		"two":         a.postLogout(form, "logout_token="+token+"&logout_token="+token),
		"empty":       a.postLogout(form, ""),
		"empty token": a.postLogout(form, "logout_token="),
		"large":       a.postLogout(form, "logout_token="+token+"&x="+strings.Repeat("x", 70<<10)),
		"semicolon":   a.postLogout(form, "x=1;logout_token="+token),
	} {
		t.Run(name, func(t *testing.T) { checkLogoutAnswer(t, w, 400) })
	}
	for _, method := range []string{"GET", "PUT", "DELETE", "HEAD"} {
		r := httptest.NewRequest(method, "/auth/backchannel-logout?logout_token="+token, nil)
		w := httptest.NewRecorder()
		a.handler.ServeHTTP(w, r)
		if w.Code != http.StatusMethodNotAllowed {
			t.Errorf("%s = %d, want 405", method, w.Code)
		}
	}
	r := httptest.NewRequest("POST", "/auth/backchannel-logout?logout_token="+token, nil)
	r.Header.Set("Content-Type", form)
	w := httptest.NewRecorder()
	a.handler.ServeHTTP(w, r)
	checkLogoutAnswer(t, w, 400)
	if !signedIn(t, b) {
		t.Error("one of these ended the session")
	}
	// S207, X139: unknown fields, foreign origins and cookies don't matter.
	r = httptest.NewRequest("POST", "/auth/backchannel-logout", strings.NewReader("ignored=1&logout_token="+token))
	r.Header.Set("Content-Type", form+"; charset=utf-8")
	r.Header.Set("Origin", "https://evil.example")
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	r.AddCookie(sessionCookie(t, b))
	w = httptest.NewRecorder()
	a.handler.ServeHTTP(w, r)
	checkLogoutAnswer(t, w, 200)
	if signedIn(t, b) {
		t.Error("the session lives")
	}
}

// Section 2.7, S218, S219, S226 to S228: whom a logout token ends.
func TestBackchannelLogoutScope(t *testing.T) {
	store := memstore.New(memstore.Options{})
	iss := bfftest.NewIssuer(bfftest.Options{Clients: []bfftest.Client{{ID: "one"}, {ID: "two"}}})
	key := bff.NewKey()
	one := newApp(t, setup{at: iss, config: bff.Config{ClientID: "one", Store: store, Keys: []bff.Key{key}}})
	two := newApp(t, setup{at: iss, config: bff.Config{ClientID: "two", Store: store, Keys: []bff.Key{key}}})
	alice1, alice2, alice3, bob, other := one.signIn("alice"), one.signIn("alice"), one.signIn("alice"), one.signIn("bob"), two.signIn("alice")
	grants := iss.Grants()
	expect := func(step string, want ...bool) {
		t.Helper()
		for i, b := range []*bfftest.Browser{alice1, alice2, alice3, bob, other} {
			if got := signedIn(t, b); got != want[i] {
				t.Errorf("%s: browser %d is signed in: %v", step, i, got)
			}
		}
	}
	send := func(claims map[string]any) {
		t.Helper()
		checkLogoutAnswer(t, one.logout(iss.LogoutToken(func(t *bfftest.Token) {
			for k, v := range claims {
				t.Claims[k] = v
			}
		})), 200)
	}
	send(map[string]any{"sid": "unknown"})
	send(map[string]any{"sub": "unknown"})
	send(map[string]any{"sid": grants[0].SID, "sub": grants[3].Subject}) // S227: of two people
	expect("nobody's", true, true, true, true, true)
	send(map[string]any{"sid": grants[0].SID})
	expect("by sid", false, true, true, true, true)
	send(map[string]any{"sid": grants[1].SID, "sub": grants[1].Subject})
	expect("by both", false, false, true, true, true)
	alice2 = one.signIn("alice")
	send(map[string]any{"sub": grants[0].Subject})
	expect("by sub", false, false, false, true, true)
	send(map[string]any{"sub": grants[0].Subject}) // already out
	if r := alice1.Fetch("GET", "/auth/session", nil, nil); r.Reason() != "session_revoked" {
		t.Errorf("reason %q, want session_revoked", r.Reason())
	}
}

// Sections 2.4 and 2.7: an issuer may name the session in its logout tokens
// though its ID tokens don't. Then all of the subject's sessions that could be
// meant end, the ones whose login is under way included (D9).
func TestBackchannelLogoutWithoutSID(t *testing.T) {
	token := func(a *app, sub, sid string) string {
		return a.iss.LogoutToken(func(t *bfftest.Token) { t.Claims["sub"], t.Claims["sid"] = sub, sid })
	}
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, setup{})
		alice, other := a.signIn("alice"), a.signIn("bob") // with a sid
		heal := a.iss.Break("token", claim("sid", nil))
		without, too, bob := a.signIn("alice"), a.signIn("alice"), a.signIn("bob")
		g := a.iss.Grants()
		expect := func(step string, want ...bool) {
			t.Helper()
			for i, b := range []*bfftest.Browser{alice, other, without, too, bob} {
				if got := signedIn(t, b); got != want[i] {
					t.Errorf("%s: browser %d is signed in: %v", step, i, got)
				}
			}
		}
		late := token(a, g[2].Subject, g[2].SID)
		checkLogoutAnswer(t, a.logout(a.iss.LogoutToken(func(t *bfftest.Token) { t.Claims["sid"] = g[2].SID })), 200)
		expect("by a sid that nobody knows", true, true, true, true, true)
		checkLogoutAnswer(t, a.logout(token(a, g[2].Subject, g[2].SID)), 200)
		expect("by both", true, true, false, false, true)
		time.Sleep(2 * time.Second)
		without = a.signIn("alice")
		checkLogoutAnswer(t, a.logout(late), 200)
		expect("late", true, true, true, false, true)
		checkLogoutAnswer(t, a.logout(token(a, g[0].Subject, g[0].SID)), 200)
		expect("by both, of a session that is known", false, true, false, false, true)
		heal()
	})
	for name, sid := range map[string]any{"in flight": nil, "in flight with another sid": "another"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &gatedStore{Store: memstore.New(memstore.Options{})}
				a := newApp(t, setup{config: bff.Config{Store: store}})
				a.iss.Break("token", claim("sid", sid))
				store.before(func() {
					g := a.iss.Grants()[0]
					checkLogoutAnswer(t, a.logout(token(a, g.Subject, g.SID)), 200)
				})
				b := a.browser()
				r := b.SignIn("alice")
				if in := signedIn(t, b); in != (sid != nil) {
					t.Errorf("signed in is %v: %v", in, r.Err)
				}
			})
		})
	}
	// What could not be done is tried again, and the token isn't used up.
	synctest.Test(t, func(t *testing.T) {
		store := &brokenStore{Store: memstore.New(memstore.Options{})}
		a := newApp(t, setup{config: bff.Config{Store: store}})
		a.iss.Break("token", claim("sid", nil))
		b := a.signIn("alice")
		g := a.iss.Grants()[0]
		both, op := token(a, g.Subject, g.SID), "End"
		store.fails.Store(&op)
		checkLogoutAnswer(t, a.logout(both), 400)
		store.fails.Store(new(string))
		checkLogoutAnswer(t, a.logout(both), 200)
		if signedIn(t, b) {
			t.Error("the session lives")
		}
	})
}

// S225, X127, D9: a token works once in the whole fleet; one that comes late,
// for the first time, does not end the session that began since.
func TestBackchannelLogoutReplayAndLateness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, iss, key := memstore.New(memstore.Options{}), bfftest.NewIssuer(bfftest.Options{}), bff.NewKey()
		var fleet [2]*app
		for i := range fleet {
			fleet[i] = newApp(t, setup{at: iss, config: bff.Config{Store: store, Keys: []bff.Key{key}}})
		}
		b := fleet[0].signIn("alice")
		subject := iss.Grants()[0].Subject
		token := func() string {
			return iss.LogoutToken(func(t *bfftest.Token) { t.Claims["sub"] = subject })
		}
		first, late := token(), token()
		checkLogoutAnswer(t, fleet[0].logout(first), 200)
		if signedIn(t, b) {
			t.Fatal("the session lives")
		}
		time.Sleep(2 * time.Second)
		b = fleet[1].signIn("alice")
		checkLogoutAnswer(t, fleet[1].logout(first), 400)
		checkLogoutAnswer(t, fleet[1].logout(late), 200)
		if !signedIn(t, b) {
			t.Error("a late token ended the next session")
		}
		time.Sleep(time.Second)
		var wg sync.WaitGroup
		same := token()
		for i := range 50 {
			wg.Go(func() { fleet[i%2].logout(same) })
		}
		wg.Wait()
		if signedIn(t, b) {
			t.Error("50 deliveries at once had no effect")
		}
	})
}

// Section 2.8, D9: what can't be done now is 400 like what never can, but says
// that trying again helps; then the same token does it all.
func TestBackchannelLogoutAgain(t *testing.T) {
	for _, op := range []string{"Load", "Tag", "Tagged", "End", "Create", "jwks"} {
		t.Run(op, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &brokenStore{Store: memstore.New(memstore.Options{})}
				iss, key := bfftest.NewIssuer(bfftest.Options{}), bff.NewKey()
				b := newApp(t, setup{at: iss, config: bff.Config{Store: store, Keys: []bff.Key{key}}}).signIn("alice")
				// A replica that has no keys of the issuer's yet.
				a := newApp(t, setup{at: iss, config: bff.Config{Store: store, Keys: []bff.Key{key}}})
				token := iss.LogoutToken(func(t *bfftest.Token) { t.Claims["sub"] = iss.Grants()[0].Subject })
				var w *httptest.ResponseRecorder
				if op == "jwks" {
					heal := iss.Break("jwks", bfftest.Fault{Status: 500})
					w = a.logout(token)
					heal()
				} else {
					store.fails.Store(&op)
					w = a.logout(token)
					store.fails.Store(new(string))
				}
				checkLogoutAnswer(t, w, 400)
				if w.Header().Get("Retry-After") == "" {
					t.Error("no Retry-After")
				}
				time.Sleep(time.Minute)
				w = a.logout(token)
				checkLogoutAnswer(t, w, 200)
				if signedIn(t, b) {
					t.Error("the session lives")
				}
				w = a.logout(token)
				checkLogoutAnswer(t, w, 400)
				if w.Header().Get("Retry-After") != "" {
					t.Error("a token that was used up is worth trying again")
				}
			})
		})
	}
}

// A brokenStore fails calls of one method.
type brokenStore struct {
	*memstore.Store
	fails atomic.Pointer[string]
}

func (s *brokenStore) broken(op string) error {
	if fails := s.fails.Load(); fails != nil && *fails == op {
		return errStore
	}
	return nil
}

func (s *brokenStore) Load(ctx context.Context, key string) ([]byte, uint64, time.Time, bool, error) {
	if err := s.broken("Load"); err != nil {
		return nil, 0, time.Time{}, false, err
	}
	return s.Store.Load(ctx, key)
}

func (s *brokenStore) Create(ctx context.Context, key string, value []byte, expires, end time.Time) (bool, error) {
	if err := s.broken("Create"); err != nil {
		return false, err
	}
	return s.Store.Create(ctx, key, value, expires, end)
}

func (s *brokenStore) End(ctx context.Context, key string, version uint64, mark []byte, until time.Time) (bool, error) {
	if err := s.broken("End"); err != nil {
		return false, err
	}
	return s.Store.End(ctx, key, version, mark, until)
}

func (s *brokenStore) Tag(ctx context.Context, tag, key string, note []byte, until time.Time) error {
	if err := s.broken("Tag"); err != nil {
		return err
	}
	return s.Store.Tag(ctx, tag, key, note, until)
}

func (s *brokenStore) Tagged(ctx context.Context, tag string) (map[string][]byte, error) {
	if err := s.broken("Tagged"); err != nil {
		return nil, err
	}
	return s.Store.Tagged(ctx, tag)
}

// D9, D10: a login that is under way when the logout token comes does not
// survive it, at whatever point it is.
func TestBackchannelLogoutOfLoginInFlight(t *testing.T) {
	for _, by := range []string{"sid", "sub"} {
		for _, point := range []string{"token", "create"} {
			t.Run(by+" at "+point, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					store := &gatedStore{Store: memstore.New(memstore.Options{})}
					a := newApp(t, setup{config: bff.Config{Store: store}})
					end := func() {
						g := a.iss.Grants()
						claims := map[string]string{"sid": g[0].SID, "sub": g[0].Subject}
						time.Sleep(time.Second)
						checkLogoutAnswer(t, a.logout(a.iss.LogoutToken(func(t *bfftest.Token) { t.Claims[by] = claims[by] })), 200)
					}
					switch point {
					case "token":
						a.iss.Break("token", bfftest.Fault{DelayAnswer: 5 * time.Second})
						time.AfterFunc(2*time.Second, end)
					case "create":
						store.before(end)
					}
					b := a.browser()
					r := b.SignIn("alice")
					if signedIn(t, b) || !strings.Contains(fmt.Sprint(r.Err), "session_revoked") {
						t.Errorf("the login survived: %v", r.Err)
					}
					if n := len(must(a.auth.SessionsOf(t.Context(), a.iss.Grants()[0].Subject))); n != 0 {
						t.Errorf("%d sessions are left", n)
					}
				})
			})
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A gatedStore calls a function once before the next session is created.
type gatedStore struct {
	*memstore.Store
	gate atomic.Pointer[func()]
}

func (s *gatedStore) before(f func()) { s.gate.Store(&f) }

func (s *gatedStore) Create(ctx context.Context, key string, value []byte, expires, end time.Time) (bool, error) {
	if key[0] == 's' {
		if f := s.gate.Swap(nil); f != nil {
			(*f)()
		}
	}
	return s.Store.Create(ctx, key, value, expires, end)
}

// Whoever sends half a body does not keep us waiting for the rest: it is the
// one route of ours that reads what a stranger sends.
func TestBackchannelLogoutBodyHasADeadline(t *testing.T) {
	a := newApp(t, setup{})
	r := httptest.NewRequest("POST", "/auth/backchannel-logout", strings.NewReader("logout_token=x"))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := &deadlined{ResponseRecorder: httptest.NewRecorder()}
	start := time.Now()
	a.handler.ServeHTTP(w, r)
	if w.read.Before(start) || w.read.After(start.Add(time.Minute)) {
		t.Errorf("the body is read with a deadline of %v, want one within a minute", w.read)
	}
}

// deadlined keeps the deadline for reading.
type deadlined struct {
	*httptest.ResponseRecorder
	read time.Time
}

func (w *deadlined) SetReadDeadline(t time.Time) error { w.read = t; return nil }
