package bff

import (
	"net/http"
	"net/textproto"
	"strings"
	"time"

	"github.com/agglestone/bff/internal/seal"
)

// cookieNames are the names of our cookies. Those with the prefix
// __Host-Http- can be set by no script and no other host (RFC 6265bis and
// layered cookies); over plain http on loopback browsers refuse the prefix.
type cookieNames struct {
	secure  bool
	session string
	attempt string // prefix of the name of each login attempt's cookie
	signins string // the loop breaker's
	logout  string // of a sign-out at the issuer
}

func newCookieNames(name string, secure bool) cookieNames {
	if secure {
		name = "__Host-Http-" + name
	}
	return cookieNames{secure, name, name + "-login-", name + "-signins", name + "-logout"}
}

// set sets a cookie. Every cookie of ours, set or deleted, comes from here:
// browsers ignore a deletion whose attributes differ.
func (c *cookieNames) set(w http.ResponseWriter, name, value string, sameSite http.SameSite, maxAge int) {
	http.SetCookie(w, &http.Cookie{
		Name: name, Value: value, Path: "/", MaxAge: maxAge,
		HttpOnly: true, Secure: c.secure, SameSite: sameSite,
	})
	w.Header().Set("Cache-Control", "no-store")
}

func (c *cookieNames) delete(w http.ResponseWriter, name string, sameSite http.SameSite) {
	c.set(w, name, "", sameSite, -1)
}

// setSession sets the session cookie, to last as long as the session can.
func (b *BFF) setSession(w http.ResponseWriter, id *seal.ID, end time.Time) {
	maxAge := 0
	if !b.cfg.BrowserSessionCookie {
		maxAge = max(1, int(time.Until(end)/time.Second))
	}
	b.cookies.set(w, b.cookies.session, id.Cookie(), b.cfg.SameSite, maxAge)
}

// cookieState says what a request's session cookie is worth.
type cookieState int

const (
	cookieAbsent cookieState = iota
	cookieForeign
	cookieTwice
	cookieValid
)

// identify reads the session cookie of r. It does no I/O. A second cookie of
// the name makes both worthless: one of them may be planted.
func (b *BFF) identify(r *http.Request) (seal.ID, cookieState) {
	value, found := "", 0
	for _, line := range r.Header["Cookie"] {
		for line != "" {
			var pair string
			pair, line, _ = strings.Cut(line, ";")
			name, v, _ := strings.Cut(textproto.TrimString(pair), "=")
			if name == b.cookies.session {
				value = v
				found++
			}
		}
	}
	switch {
	case found == 0:
		return seal.ID{}, cookieAbsent
	case found > 1: // check:cookie-twice
		return seal.ID{}, cookieTwice
	}
	id, ok := b.ring.Load().ParseCookie(value)
	if !ok {
		return seal.ID{}, cookieForeign
	}
	return id, cookieValid
}
