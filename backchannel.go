package bff

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"time"

	"github.com/agglestone/bff/internal/issuer"
)

// maxLogoutForm bounds the body of a logout request.
const maxLogoutForm = 64 << 10

// logoutBodyWait bounds the wait for it: anybody can send one.
const logoutBodyWait = 10 * time.Second

// serveBackchannel answers POST /auth/backchannel-logout: the issuer ends the
// sessions of a subject, or of one of its own sessions (OpenID Connect
// Back-Channel Logout 1.0). If the token names both, it ends those sessions of
// the subject, too, whose ID token didn't say of which session it was. It reads and sets no cookie, and asks for no proof
// of origin but the token's signature. The answer is 200, or 400 whatever went
// wrong (section 2.8), with Retry-After where trying again may help.
func (b *BFF) serveBackchannel(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	tok, err := b.logoutToken(w, r)
	if err == nil {
		err = b.obey(r, tok)
	}
	if err == nil {
		w.WriteHeader(http.StatusOK)
		return
	}
	var p *Problem
	var e *issuer.Error
	transient := errors.As(err, &p) || errors.As(err, &e) && e.Kind != issuer.Invalid
	if transient {
		w.Header().Set("Retry-After", "5")
	}
	b.emitCounted(r, Event{Kind: BackchannelRefused, Err: err})
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusBadRequest)
	io.WriteString(w, `{"error":"invalid_request"}`+"\n")
}

// logoutToken reads and verifies the token of r (sections 2.5 and 2.6).
func (b *BFF) logoutToken(w http.ResponseWriter, r *http.Request) (*issuer.LogoutToken, error) {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/x-www-form-urlencoded" { // check:logout-content-type
		return nil, errors.New("not a form")
	}
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(logoutBodyWait)) // a server that can't has none
	body, err := io.ReadAll(io.LimitReader(r.Body, maxLogoutForm+1))
	if err != nil {
		return nil, errors.New("the body ended early")
	}
	if len(body) > maxLogoutForm { // check:logout-size
		return nil, errors.New("the body is too large")
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, errors.New("the form can't be read")
	}
	if len(form["logout_token"]) != 1 { // check:logout-once
		return nil, errors.New("not one logout_token")
	}
	return b.issuer.VerifyLogoutToken(r.Context(), form["logout_token"][0])
}

// obey ends what tok names. Its jti is remembered after that, so that a token
// whose effect failed half-way can be delivered again.
func (b *BFF) obey(r *http.Request, tok *issuer.LogoutToken) error {
	// An issuer that doesn't wait for the end of it must not leave half of them.
	ctx, cancel := b.detached(r.Context(), endingTakes)
	defer cancel()
	for _, key := range b.ring.Load().Once("jti", tok.ID) {
		ctx, cancel := b.storeContext(ctx)
		_, _, _, used, err := b.store.Load(ctx, key)
		cancel()
		if err != nil {
			return newProblem(StoreUnavailable, err)
		}
		if used { // check:logout-replay
			return &issuer.Error{Op: "logout_token", Kind: issuer.Invalid, Check: "logout-replay"}
		}
	}
	e := ending{kind: tagSubject, value: tok.Subject, upTo: tok.IssuedAt}
	e.event = Event{Subject: tok.Subject, Reason: SessionRevoked, By: ByIssuer, Request: requestInfo(r)}
	var failed error
	if tok.SID != "" {
		// Of the subject's sessions whose ID token had no sid nobody can say that
		// they are not meant. One with another sid isn't.
		if tok.Subject != "" {
			e.noSID = true
			_, failed = b.endTagged(ctx, e)
			e.noSID = false
		}
		e.kind, e.value, e.subject = tagSID, tok.SID, tok.Subject
	}
	if _, err := b.endTagged(ctx, e); err != nil {
		failed = err
	}
	if failed != nil {
		return newProblem(StoreUnavailable, failed)
	}
	b.emit(ctx, r, Event{Kind: BackchannelLogout, Subject: tok.Subject, Reason: SessionRevoked, By: ByIssuer})
	until := time.Now().Add(issuer.LogoutTokenKept + 2*b.cfg.ClockSkew)
	storeCtx, cancel := b.storeContext(ctx)
	defer cancel()
	if _, err := b.store.Create(storeCtx, b.ring.Load().Once("jti", tok.ID)[0], []byte{1}, until, until); err != nil {
		return newProblem(StoreUnavailable, err)
	}
	return nil
}
