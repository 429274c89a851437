package bff

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/agglestone/bff/internal/seal"
)

// An Option changes what a route behind [BFF.Protect] or [BFF.Proxy] asks for.
type Option func(*route)

// route is what a route asks for.
type route struct {
	optional   bool
	answer     answer
	groups     [][]string
	authorize  []func(*http.Request, *Session) error
	navigation bool
	passive    bool
	fresh      bool // the cache may not answer
	tokenless  bool // as long as the session lives, its access token doesn't matter
	maxAuthAge *time.Duration
	acr        []string // any of them; nil: any at all
	err        error    // of options that exclude each other
}

// answer is how somebody who isn't signed in is told.
type answer int

const (
	answerFits answer = iota // as the request looks
	answerPage
	answerAPI
)

func newRoute(opts []Option) (*route, error) {
	rt := &route{}
	for _, o := range opts {
		o(rt)
	}
	return rt, rt.err
}

// Optional admits requests without a session. The handler then finds none in
// the context. A store that can't tell still answers 503.
func Optional() Option { return func(rt *route) { rt.optional = true } }

// Page answers everybody who isn't signed in as a page would: a GET is led to
// the login, whatever it looks like.
func Page() Option { return func(rt *route) { rt.answer = answerPage } }

// API answers everybody who isn't signed in with 401, never with a redirect.
func API() Option { return func(rt *route) { rt.answer = answerAPI } }

// RequireGroup admits users who are in any of the groups. Given twice, both
// must hold. Others get 403 forbidden.
func RequireGroup(anyOf ...string) Option {
	anyOf = slices.Clone(anyOf)
	return func(rt *route) { rt.groups = append(rt.groups, anyOf) }
}

// Authorize admits a request for which check returns nil. Its error answers 403
// forbidden and its text is only logged; a *Problem is answered as it is, with
// the status of its Reason where it has none, or 403. The session is nil where
// Optional admits a request without one.
func Authorize(check func(*http.Request, *Session) error) Option {
	return func(rt *route) { rt.authorize = append(rt.authorize, check) }
}

// AllowNavigation lets [BFF.Proxy] answer a GET that the browser makes for its
// address bar, such as a download: from the site itself, or typed. Links on
// other sites still don't get through.
func AllowNavigation() Option { return func(rt *route) { rt.navigation = true } }

// Passive makes the route's requests not extend the session.
func Passive() Option { return func(rt *route) { rt.passive = true } }

// Protect lets requests through to next that have a live session and, for an
// unsafe method or a WebSocket, prove their origin. The handler finds the session
// with [SessionFromContext].
//
// Without a session, a GET by which a browser opens a page is led to the login,
// and anything else is 401. The access token is kept fresh on the way: a
// request waits for a refresh only if the token has expired.
//
// Answers are Cache-Control: no-store unless next says otherwise.
//
// Protect panics if opts exclude each other, as http.ServeMux does for patterns
// that do: see [RequireACR].
func (b *BFF) Protect(next http.Handler, opts ...Option) http.Handler {
	rt, err := newRoute(opts)
	if err != nil {
		panic("bff: Protect: " + err.Error())
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Cache-Control"] = noStore
		s, problem := b.admit(w, r, rt, proofRule{navigate: true, form: true}, false)
		if problem != nil {
			b.turnAway(w, r, rt, problem)
			return
		}
		if s != nil || r.Context().Value(sessionKey{}) != nil { // nil hides what a Protect around us found
			r = r.WithContext(context.WithValue(r.Context(), sessionKey{}, s))
		}
		next.ServeHTTP(w, r)
	})
}

var noStore = []string{"no-store"} // shared: Header.Set replaces it

// ProtectFunc is Protect for a function.
func (b *BFF) ProtectFunc(next http.HandlerFunc, opts ...Option) http.Handler {
	return b.Protect(next, opts...)
}

// Middleware returns Protect with options as middleware, for routers that take
// func(http.Handler) http.Handler.
func (b *BFF) Middleware(opts ...Option) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler { return b.Protect(next, opts...) }
}

// admit decides whether r may go on: the cookie first, then the proof of origin
// (of every request, or of unsafe methods only), and only then the store. The
// session is nil for a request that rt admits without one.
func (b *BFF) admit(w http.ResponseWriter, r *http.Request, rt *route, rule proofRule, every bool) (*Session, *Problem) {
	s, outer := SessionFromContext(r.Context())
	outer = outer && s.b == b // admitted once already, by a Protect around us
	var id seal.ID
	if outer {
		id = s.id
	} else {
		var state cookieState
		if id, state = b.identify(r); state != cookieValid {
			// Not where the handler answers, which may let caches keep it.
			if state == cookieTwice && !rt.optional {
				b.cookies.delete(w, b.cookies.session, b.cfg.SameSite)
			}
			return b.anonymous(r, rt, newProblem(NoSession, ErrNoSession))
		}
	}
	unsafe := !isSafe(r.Method)
	if (every || unsafe) && !b.passes(r, &id, rule) { // check:proof a Protect around us may take less for a proof
		return nil, newProblem(CSRF, nil)
	}
	if !every && asksForSocket(r) && !b.isOurs(r) { // check:socket-origin Proxy takes away what it doesn't enable
		return nil, newProblem(CSRF, nil)
	}
	if !outer || rt.fresh && !s.fresh {
		var problem *Problem
		if s, problem = b.session(r.Context(), id, !unsafe && !rt.fresh); problem != nil {
			return b.anonymous(r, rt, problem)
		}
		now := time.Now()
		if s.idle.Sub(now) < b.cfg.IdleTimeout/2 && !rt.passive && !isPassive(r) {
			if problem := b.extend(r.Context(), s); problem != nil {
				return b.anonymous(r, rt, problem)
			}
			now = time.Now()
		}
		if problem := b.keepFresh(r.Context(), s, now); problem != nil && (!rt.tokenless || problem.Err == ErrNoSession) {
			return b.anonymous(r, rt, problem)
		}
	}
	return s, rt.permits(r, s)
}

// anonymous lets a request without a session go on where rt admits that. A
// part that is broken is no reason to treat anybody as signed out.
func (b *BFF) anonymous(r *http.Request, rt *route, problem *Problem) (*Session, *Problem) {
	if !rt.optional {
		return nil, problem
	}
	if problem.Status != http.StatusUnauthorized { // check:optional-outage
		return nil, problem
	}
	return nil, rt.permits(r, nil)
}

// permits asks what the route demands of the user. s may be nil.
func (rt *route) permits(r *http.Request, s *Session) *Problem {
	for _, anyOf := range rt.groups {
		if s == nil || !s.inGroup(anyOf) { // check:group
			return newProblem(Forbidden, nil)
		}
	}
	if s != nil {
		if p := rt.stepUp(s); p != nil {
			return p
		}
	} else if rt.maxAuthAge != nil || rt.acr != nil { // check:step-up-anonymous
		return newProblem(NoSession, ErrNoSession)
	}
	for _, check := range rt.authorize {
		if err := check(r, s); err != nil { // check:authorize
			var p *Problem
			if errors.As(err, &p) {
				return p.complete(http.StatusForbidden)
			}
			return newProblem(Forbidden, err)
		}
	}
	return nil
}

// turnAway answers a request that was not admitted.
func (b *BFF) turnAway(w http.ResponseWriter, r *http.Request, rt *route, problem *Problem) {
	b.trimAttempts(w, r)
	page := isNavigation(r)
	switch rt.answer {
	case answerPage:
		page = true
	case answerAPI:
		page = false
	}
	if page && problem.Status == http.StatusUnauthorized && r.Method == http.MethodGet {
		setPrivate(w.Header())
		w.Header().Set("Location", b.loginURL(r, problem))
		w.WriteHeader(http.StatusFound)
		return
	}
	p := *problem
	p.Page = page
	b.refuse(w, r, &p)
}

// isNavigation reports whether a browser opens a page with r, in a tab: by
// Fetch Metadata where it is sent, else by what scripts do differently. A
// frame can't show the issuer's login, so it gets the 401.
func isNavigation(r *http.Request) bool {
	if r.Method != http.MethodGet || isPrefetch(r) {
		return false
	}
	if mode := r.Header.Get("Sec-Fetch-Mode"); mode != "" {
		return mode == "navigate" && isDocument(r)
	}
	if r.Header.Get("X-Requested-With") != "" || r.Header.Get("X-Csrf") != "" {
		return false
	}
	return strings.Contains(r.Header.Get("Accept"), "text/html")
}

// isDocument reports whether r's destination is a tab, as far as the browser
// says: document, or empty if a service worker passed it through.
func isDocument(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Dest") {
	case "", "document", "empty":
		return true
	}
	return false
}

// isTopLevel reports whether r can be a person opening a page, for routes that
// act on nothing else. Browsers that send no Fetch Metadata pass.
func isTopLevel(r *http.Request) bool {
	mode := r.Header.Get("Sec-Fetch-Mode")
	return !isPrefetch(r) && (mode == "" || mode == "navigate") && isDocument(r)
}
