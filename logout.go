package bff

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"strings"

	"github.com/agglestone/bff/internal/seal"
)

// serveLogout answers POST /logout: the local session goes first, then the
// refresh token, and the browser is led to the issuer's end-session endpoint
// (OpenID Connect RP-Initiated Logout 1.0), or to PostLogoutURL where there is
// none. It never fails because the issuer does.
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
	to := b.cfg.PostLogoutURL
	if state == cookieValid {
		hint, subject, problem := b.signOut(r.Context(), &id)
		if problem != nil {
			problem.Page = !wantsJSON(r)
			b.refuse(w, r, problem)
			return
		}
		if subject != "" {
			b.forget(w, r)
			// The hint is an ID token: it goes to the issuer, in a redirect that
			// no script can read, and nowhere else.
			if wantsJSON(r) || b.cfg.OmitIDTokenHint { // check:hint
				hint = ""
			}
			to = b.endSessionURL(hint)
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

// signOut ends the session of id and revokes its refresh token. It returns the
// ID token for the hint, and whose session it was: nobody's if there was none.
func (b *BFF) signOut(ctx context.Context, id *seal.ID) (idToken, subject string, problem *Problem) {
	key := id.RecordKey()
	rec, _, problem := b.load(ctx, id, key)
	if problem != nil && problem.Status == http.StatusUnauthorized {
		return "", "", nil
	}
	if problem != nil {
		return "", "", problem
	}
	// From here on the browser's wish to leave doesn't hang on its patience.
	ctx = context.WithoutCancel(ctx)
	if err := b.end(ctx, key, SignedOut); err != nil {
		return "", "", newProblem(StoreUnavailable, err)
	}
	b.log.LogAttrs(ctx, slog.LevelInfo, "signed out",
		slog.String("issuer", b.cfg.Issuer), slog.String("subject", rec.head.Subject), slog.String("session", logKey(key)))
	grant, err := rec.grant()
	if err != nil {
		return "", rec.head.Subject, nil
	}
	access, err := rec.access()
	if err != nil {
		access = ""
	}
	b.revoke(ctx, grant.RefreshToken, access.Reveal())
	return grant.IDToken, rec.head.Subject, nil
}

// forget deletes all cookies of ours.
func (b *BFF) forget(w http.ResponseWriter, r *http.Request) {
	b.cookies.delete(w, b.cookies.session, b.cfg.SameSite)
	for _, c := range r.Cookies() {
		if strings.HasPrefix(c.Name, b.cookies.attempt) {
			b.cookies.delete(w, c.Name, http.SameSiteLaxMode)
		}
	}
}

// endSessionURL returns where the issuer ends its own session, or PostLogoutURL
// if it doesn't say or can't be asked now.
func (b *BFF) endSessionURL(idToken string) string {
	meta := b.issuer.Known()
	if meta == nil || meta.EndSessionEndpoint == "" {
		return b.cfg.PostLogoutURL
	}
	u, err := url.Parse(meta.EndSessionEndpoint)
	if err != nil {
		return b.cfg.PostLogoutURL
	}
	q := u.Query()
	q.Set("client_id", b.cfg.ClientID)
	q.Set("post_logout_redirect_uri", b.cfg.PostLogoutURL)
	q.Set("state", rand.Text())
	if idToken != "" {
		q.Set("id_token_hint", idToken)
	}
	u.RawQuery = q.Encode()
	return u.String()
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
