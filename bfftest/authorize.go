package bfftest

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A session is somebody's presence at the issuer, in one browser.
type session struct {
	id       string // the sid claim; the cookie is another secret
	user     *user
	authTime time.Time
	acr      string
}

// A code is an authorization code (RFC 6749, section 4.1.2).
type code struct {
	client, redirectURI string
	scope               []string
	nonce, challenge    string
	session             session
	expires             time.Time
	used                bool
	grant               *grant // what it was redeemed for
}

// ssoCookie is the issuer's cookie. Ports share cookies, so that its name is
// unlike one that an application would have.
const ssoCookie = "bfftest-issuer-session"

// An authorization is a checked authorization request.
type authorization struct {
	client      Client
	redirectURI string
	state       string
	nonce       string
	scope       []string
	challenge   string
	prompt      []string
	maxAge      time.Duration // negative: not asked for
	acrValues   []string
	loginHint   string
}

// authorization checks the request of RFC 6749, section 4.1.1, and OpenID
// Connect Core 1.0, section 3.1.2.1. It returns nil if it has answered.
func (iss *Issuer) authorization(x *exchange) *authorization {
	q := x.URL.Query()
	client, ok := iss.clients[q.Get("client_id")]
	redirect := q.Get("redirect_uri")
	iss.edit(x.entry, func(r *Request) { r.ClientID = q.Get("client_id") })
	// An address that isn't registered gets nothing, not even an error.
	switch {
	case !ok:
		iss.refusal(x, "This application isn't known here", "The client_id is not one of this issuer's clients.")
		return nil
	case !allowed(client.RedirectURIs, redirect):
		iss.refusal(x, "This application can't be returned to", "The redirect_uri is not one of those registered for it.")
		return nil
	}
	a := &authorization{
		client:      client,
		redirectURI: redirect,
		state:       q.Get("state"),
		nonce:       q.Get("nonce"),
		scope:       strings.Fields(q.Get("scope")),
		challenge:   q.Get("code_challenge"),
		prompt:      strings.Fields(q.Get("prompt")),
		maxAge:      -1,
		acrValues:   strings.Fields(q.Get("acr_values")),
		loginHint:   q.Get("login_hint"),
	}
	code, why := "", ""
	for name, values := range q {
		if len(values) > 1 {
			code, why = "invalid_request", name+" is repeated"
		}
	}
	if v := q.Get("max_age"); v != "" {
		n, err := strconv.ParseUint(v, 10, 31)
		if err != nil {
			code, why = "invalid_request", "max_age is not a number of seconds"
		}
		a.maxAge = time.Duration(n) * time.Second
	}
	if iss.opts.IgnoreStepUp {
		a.maxAge, a.acrValues = -1, nil
	}
	switch {
	case code != "":
	case q.Get("response_type") != "code":
		code, why = "unsupported_response_type", "response_type must be code"
	case q.Get("response_mode") != "" && q.Get("response_mode") != "query":
		code, why = "invalid_request", "response_mode must be query"
	case q.Has("request"):
		code, why = "request_not_supported", "request objects are not supported"
	case q.Has("request_uri"):
		code, why = "request_uri_not_supported", "request objects are not supported"
	case q.Get("code_challenge_method") != "S256" || len(a.challenge) != 43:
		code, why = "invalid_request", "PKCE with S256 is required"
	case slices.Contains(a.prompt, "none") && len(a.prompt) > 1:
		code, why = "invalid_request", "prompt none stands alone"
	}
	if code != "" {
		iss.respond(x, a, url.Values{"error": {code}, "error_description": {why}})
		return nil
	}
	return a
}

// serveAuthorize answers GET on the authorization endpoint: at once if this
// browser is signed in and that is enough, else with the sign-in page.
func (iss *Issuer) serveAuthorize(x *exchange) {
	a := iss.authorization(x)
	if a == nil {
		return
	}
	iss.mu.Lock()
	s := iss.session(x)
	enough := s != nil && s.suffices(a)
	var copied session
	if enough {
		copied = *s
	}
	iss.mu.Unlock()
	switch {
	case enough:
		iss.issueCode(x, a, copied)
	case slices.Contains(a.prompt, "none"):
		iss.respond(x, a, url.Values{"error": {"login_required"}})
	default:
		iss.signInPage(x, a, "")
	}
}

// session returns the session that this browser has here, or nil. The caller
// holds mu.
func (iss *Issuer) session(x *exchange) *session {
	cookie, err := x.Cookie(ssoCookie)
	if err != nil {
		return nil
	}
	s := iss.sessions[cookie.Value]
	if s == nil || s.user.Disabled {
		return nil
	}
	return s
}

// suffices reports whether s answers a without asking the user.
func (s *session) suffices(a *authorization) bool {
	for _, p := range a.prompt {
		if p != "none" {
			return false
		}
	}
	if a.maxAge >= 0 && (a.maxAge == 0 || time.Since(s.authTime) > a.maxAge) {
		return false
	}
	if len(a.acrValues) > 0 && !slices.Contains(a.acrValues, s.acr) {
		return false
	}
	return a.loginHint == "" || s.user.is(a.loginHint)
}

// is reports whether hint names u.
func (u *user) is(hint string) bool {
	return hint == u.ID || strings.EqualFold(hint, u.Name) || strings.EqualFold(hint, u.Email)
}

// serveLogin answers the form of the sign-in page.
func (iss *Issuer) serveLogin(x *exchange) {
	// Signing a stranger in is an attack too: the form is ours.
	if site := x.Request.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" {
		http.Error(x, "this form is sent from its own page only", http.StatusForbidden)
		return
	}
	a := iss.authorization(x)
	if a == nil {
		return
	}
	if x.PostForm.Get("action") == "cancel" {
		iss.respond(x, a, url.Values{"error": {"access_denied"}, "error_description": {"the user cancelled"}})
		return
	}
	name := x.PostForm.Get("user")
	if name == "" {
		name = x.PostForm.Get("username")
	}
	iss.mu.Lock()
	u := iss.user(name)
	if u == nil || u.Disabled || u.Password != x.PostForm.Get("password") {
		iss.mu.Unlock()
		iss.signInPage(x, a, "That didn't match a user who can sign in.")
		return
	}
	s := session{id: random(), user: u, authTime: time.Now()}
	if len(a.acrValues) > 0 {
		s.acr = a.acrValues[0]
	}
	if cookie, err := x.Cookie(ssoCookie); err == nil {
		if old := iss.sessions[cookie.Value]; old != nil && old.user == u {
			s.id = old.id // the same session, with a newer sign-in
		}
		delete(iss.sessions, cookie.Value)
	}
	secret := random()
	iss.sessions[secret] = &s
	u.lastLogin = s.authTime
	secure := strings.HasPrefix(iss.base, "https:")
	copied := s
	iss.mu.Unlock()
	http.SetCookie(x, &http.Cookie{
		Name: ssoCookie, Value: secret, Path: iss.tenant + "/",
		HttpOnly: true, Secure: secure, SameSite: http.SameSiteLaxMode,
	})
	iss.issueCode(x, a, copied)
}

// issueCode answers a with a code for s.
func (iss *Issuer) issueCode(x *exchange, a *authorization, s session) {
	secret := random()
	iss.mu.Lock()
	iss.codes[secret] = &code{
		client: a.client.ID, redirectURI: a.redirectURI, scope: a.scope,
		nonce: a.nonce, challenge: a.challenge, session: s,
		expires: time.Now().Add(time.Minute),
	}
	iss.note(secret)
	iss.sweep()
	iss.mu.Unlock()
	iss.respond(x, a, url.Values{"code": {secret}})
}

// respond leads back to the relying party with an authorization response.
func (iss *Issuer) respond(x *exchange, a *authorization, answer url.Values) {
	if a.state != "" {
		answer.Set("state", a.state)
	}
	if iss.opts.IssParameter {
		answer.Set("iss", iss.URL()) // RFC 9207, section 2: in errors too
	}
	for _, f := range iss.meet(x, "callback") {
		f.EditCallback(answer)
	}
	to, sep := a.redirectURI, "?"
	if strings.Contains(to, "?") {
		sep = "&"
	}
	x.header.Set("Location", to+sep+answer.Encode())
	x.header.Set("Referrer-Policy", "no-referrer")
	x.status = http.StatusFound
	if x.Method == http.MethodPost {
		x.status = http.StatusSeeOther // RFC 9700, section 4.12: never 307
	}
}

// random returns a secret that nobody guesses.
func random() string { return rand.Text() }

// verifies reports whether verifier belongs to challenge (RFC 7636, section 4.6).
func verifies(challenge, verifier string) bool {
	sum := sha256.Sum256([]byte(verifier))
	return len(verifier) >= 43 && len(verifier) <= 128 && base64.RawURLEncoding.EncodeToString(sum[:]) == challenge
}

// EndSessions ends the sessions that a user, given by name or ID, has at the
// issuer: the next sign-in shows the page again. Empty means everybody's.
// Tokens stay as they are; for those see [Issuer.Revoke].
func (iss *Issuer) EndSessions(user string) {
	iss.mu.Lock()
	defer iss.mu.Unlock()
	u := iss.user(user)
	for cookie, s := range iss.sessions {
		if user == "" || s.user == u {
			delete(iss.sessions, cookie)
		}
	}
}

// Sessions returns how many browsers are signed in at the issuer.
func (iss *Issuer) Sessions() int {
	iss.mu.Lock()
	defer iss.mu.Unlock()
	return len(iss.sessions)
}
