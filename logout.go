package bff

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/agglestone/bff/internal/returnto"
	"github.com/agglestone/bff/internal/seal"
)

// serveLogout answers POST /logout: the local session goes first, then the
// refresh token, and the browser is led to the issuer's end-session endpoint
// (OpenID Connect RP-Initiated Logout 1.0), or to PostLogoutURL where there is
// none. It never fails because the issuer does. With the parameter onlyHere=1
// the issuer's own session is left alone; returnUrl says where to end.
//
// The proof of origin is demanded with or without a session: the answer deletes
// cookies, and a foreign page may not make us do that.
func (b *BFF) serveLogout(w http.ResponseWriter, r *http.Request) {
	id, state := b.identify(r)
	rule := proofRule{navigate: true, form: true}
	if !b.passes(r, &id, rule) { // check:logout-proof
		p := newProblem(CSRF, nil)
		p.Page = r.Header.Get("Sec-Fetch-Mode") == "navigate"
		b.refuse(w, r, p)
		return
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		query = nil
	}
	home := b.cfg.PostLogoutURL
	if clean, ok := returnto.Clean(one(query, "returnUrl"), b.ownPath); ok {
		home = clean
	}
	to := home
	if state == cookieValid {
		who, problem := b.signOut(r, &id)
		if problem != nil {
			problem.Page = !wantsJSON(r)
			b.refuse(w, r, problem)
			return
		}
		if who != nil {
			b.forget(w, r)
			if one(query, "onlyHere") != "1" {
				to = b.endSession(w, r, who, home, wantsJSON(r))
			}
		}
	}
	setPrivate(w.Header())
	if wantsJSON(r) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		json.NewEncoder(w).Encode(map[string]string{"redirectUrl": to})
		return
	}
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusSeeOther)
}

// A leaver is who has just signed out, as the issuer wants to know it.
type leaver struct {
	idToken string // for id_token_hint
	hint    string // for logout_hint
}

// signOut ends the session of id and revokes its refresh token. It returns nil
// if there was none.
func (b *BFF) signOut(r *http.Request, id *seal.ID) (*leaver, *Problem) {
	key, ctx := id.RecordKey(), r.Context()
	rec, _, problem := b.load(ctx, id, key)
	if problem != nil && problem.Status == http.StatusUnauthorized {
		return nil, nil
	}
	if problem != nil {
		return nil, problem
	}
	// From here on the browser's wish to leave doesn't hang on its patience.
	ctx = context.WithoutCancel(ctx)
	ended, err := b.endKey(ctx, key, SignedOut)
	if err != nil {
		return nil, newProblem(StoreUnavailable, err)
	}
	if ended {
		b.emit(ctx, r, Event{Kind: SessionEnded, Subject: rec.head.Subject, Session: seal.Handle(key), Reason: SignedOut, By: ByUser})
	}
	b.untag(ctx, id, key, &rec.head)
	who := &leaver{hint: rec.hint(b.cfg.LogoutHint)}
	grant, err := rec.grant()
	if err != nil {
		return who, nil
	}
	who.idToken = grant.IDToken
	access, err := rec.access()
	if err != nil {
		access = ""
	}
	b.revoke(ctx, grant.RefreshToken, access.Reveal())
	if b.cfg.RevokeAccessToken && grant.RefreshToken != "" {
		b.revoke(ctx, "", access.Reveal())
	}
	return who, nil
}

// hint returns the claim of that name, if it is text.
func (r *loaded) hint(name string) string {
	c, err := r.claims()
	if err != nil || name == "" {
		return ""
	}
	all := map[string]any{}
	if json.Unmarshal(c.JSON, &all) != nil {
		return ""
	}
	text, _ := all[name].(string)
	return text
}

// forget deletes the cookies of the session and of sign-ins under way.
func (b *BFF) forget(w http.ResponseWriter, r *http.Request) {
	b.cookies.delete(w, b.cookies.session, b.cfg.SameSite)
	for _, c := range r.Cookies() {
		if strings.HasPrefix(c.Name, b.cookies.attempt) {
			b.cookies.delete(w, c.Name, http.SameSiteLaxMode)
		}
	}
}

// logoutStateLen is the length of what rand.Text returns: a part of a state
// must not match it.
const logoutStateLen = 26

// maxLogoutURL bounds the end-session request: servers refuse a longer line.
const maxLogoutURL = 8000

// metadataWait bounds how long a sign-out waits for the issuer's metadata, in a
// process that has none yet.
const metadataWait = 2 * time.Second

// endSession returns where the issuer ends its own session and sends the
// browser back to us, or home if it doesn't say or can't be asked now.
//
// The hint is an ID token: it goes to the issuer, in a redirect that no script
// can read, and nowhere else. One that would make the request too long is left
// out, and the issuer may have to ask the user.
func (b *BFF) endSession(w http.ResponseWriter, r *http.Request, who *leaver, home string, script bool) string {
	ctx, cancel := context.WithTimeout(r.Context(), metadataWait)
	defer cancel()
	meta, err := b.issuer.Metadata(ctx)
	if err != nil || meta.EndSessionEndpoint == "" {
		return home
	}
	u, err := url.Parse(meta.EndSessionEndpoint)
	if err != nil {
		return home
	}
	state := rand.Text()
	q := u.Query()
	q.Set("client_id", b.cfg.ClientID)
	q.Set("post_logout_redirect_uri", b.cfg.PostLogoutURL)
	q.Set("state", state)
	if b.cfg.PostLogoutURL == b.origin+b.loggedOutAt {
		b.rememberLogout(w, state, home)
	}
	hint := who.idToken
	if script || b.cfg.OmitIDTokenHint { // check:hint
		hint = ""
	}
	if hint != "" {
		q.Set("id_token_hint", hint)
		u.RawQuery = q.Encode()
		if long := u.String(); len(long) <= maxLogoutURL {
			return long
		}
		q.Del("id_token_hint")
	}
	if who.hint != "" {
		q.Set("logout_hint", who.hint)
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// rememberLogout sets the cookie by which the browser's return from the issuer
// is known.
func (b *BFF) rememberLogout(w http.ResponseWriter, state, home string) {
	if home == b.cfg.PostLogoutURL {
		home = ""
	}
	sealed, err := b.ring.Load().SealAttempt(b.cookies.logout, []byte(state+home))
	if err != nil {
		return // too long a path: the root will do
	}
	b.cookies.set(w, b.cookies.logout, sealed, http.SameSiteLaxMode, int(seal.AttemptAge/time.Second))
}

// serveLoggedOut answers GET /auth/logged-out, where the issuer sends the
// browser after a sign-out if PostLogoutURL says so. It leads to where the
// sign-out was to end, if the state is the one that this browser was sent off
// with (OpenID Connect RP-Initiated Logout 1.0, section 2), and else to
// DefaultReturnURL: a missing or wrong state is no error, and never a place.
func (b *BFF) serveLoggedOut(w http.ResponseWriter, r *http.Request) {
	to := b.cfg.DefaultReturnURL
	if c, err := r.Cookie(b.cookies.logout); err == nil {
		value, _, ok := b.ring.Load().OpenAttempt(c.Name, c.Value)
		state := r.URL.Query().Get("state")
		if home, same := strings.CutPrefix(string(value), state); ok && same && len(state) == logoutStateLen { // check:logout-state
			if clean, ok := returnto.Clean(home, b.ownPath); ok {
				to = clean
			}
		}
		b.cookies.delete(w, b.cookies.logout, http.SameSiteLaxMode)
	}
	b.redirect(w, to)
}

// wantsJSON reports whether a script asks: it can't follow a redirect to
// another origin.
func wantsJSON(r *http.Request) bool {
	if mode := r.Header.Get("Sec-Fetch-Mode"); mode != "" && mode != "navigate" {
		return true
	}
	accept := r.Header.Get("Accept")
	return strings.Contains(accept, "application/json") && !strings.Contains(accept, "text/html")
}

// serveLogoutPage answers GET /logout with a page with a button: a GET changes
// nothing, since any site can make one.
func (b *BFF) serveLogoutPage(w http.ResponseWriter, r *http.Request) {
	setPrivate(w.Header())
	// no-referrer would make the form's Origin null, which proves nothing in
	// browsers without Fetch Metadata.
	w.Header().Set("Referrer-Policy", "same-origin")
	pg := page{Title: "Sign out?", Action: b.paths.Logout, Button: "Sign out", Post: true}
	if id, state := b.identify(r); state == cookieValid && b.cfg.RequireCSRFToken {
		pg.Token = id.CSRFToken()
	}
	writePage(w, http.StatusOK, pg)
}
