package bff

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/agglestone/bff/internal/issuer"
	"github.com/agglestone/bff/internal/record"
	"github.com/agglestone/bff/internal/returnto"
	"github.com/agglestone/bff/internal/seal"
)

// A Login is what [Config.OnLogin] is asked about.
type Login struct {
	Issuer    string
	Subject   string
	Groups    []string
	ReturnURL string // where the user goes next; empty on a refresh
	Refresh   bool   // not a sign-in: the issuer was asked again

	claims []byte
	values []record.Pair
}

// Claims decodes the user's claims into v, as encoding/json does.
func (l *Login) Claims(v any) error { return json.Unmarshal(l.claims, v) }

// Set keeps value for the session, to be read with [Session.Value]. On a
// refresh what was set before is still there.
func (l *Login) Set(name, value string) {
	l.values = slices.DeleteFunc(l.values, func(p record.Pair) bool { return p.Name == name })
	l.values = append(l.values, record.Pair{Name: name, Value: value})
}

// Refuse returns an error with which [Config.OnLogin] refuses the user. They
// are shown message, and nothing else.
func Refuse(message string) error { return &refusal{message} }

type refusal struct{ message string }

func (e *refusal) Error() string { return "refused by OnLogin" }

// maxClaims bounds what a session keeps of the user's claims.
const maxClaims = 128 << 10

// An attempt is one login in progress, in one tab: what its cookie holds, and
// what is derived from it.
type attempt struct {
	record.Attempt
	cookie string // its name
	spent  string // key of the record that marks it spent

	state, nonce, verifier string
}

// derive computes what the authorization request carries from the secret, so
// that the cookie stays small.
func (at *attempt) derive() {
	value := func(purpose string) string {
		b, err := hkdf.Expand(sha256.New, at.Secret[:], purpose, 32)
		if err != nil {
			panic(err) // only for more than 255*32 bytes
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	// The time in front of the state tells an attempt whose cookie has gone
	// from one that was never ours. It decides no more than that.
	at.state = fmt.Sprintf("%08x", uint32(at.Began.Unix())) + value("state")
	at.nonce, at.verifier = value("nonce"), value("code verifier")
}

// stateLen is the length of every state that derive makes.
const stateLen = 8 + 43

// attemptCookie returns the name of the cookie of the attempt that has this
// state. Names sort by age.
func (b *BFF) attemptCookie(state string) string {
	digest := sha256.Sum256([]byte(state))
	return b.cookies.attempt + state[:8] + "-" + base64.RawURLEncoding.EncodeToString(digest[:6])
}

// serveLogin answers GET /login: it leads to the issuer.
func (b *BFF) serveLogin(w http.ResponseWriter, r *http.Request) {
	page := isNavigation(r)
	fail := func(p *Problem) {
		p.Page = page
		b.refuse(w, r, p)
	}
	if !isTopLevel(r) { // check:login-navigation
		p := newProblem(BadRequest, nil)
		p.Detail = "Open this address as a page: a sign-in can't start in a frame, a prefetch or a script's request."
		fail(p)
		return
	}
	if host := r.Host; !b.isOurHost(r) { // check:wrong-host
		p := newProblem(WrongHost, nil)
		p.Detail = fmt.Sprintf("This request came for %.100q, but RedirectURL is on %q, where the cookie of this sign-in would be missing. Open the site under that name.", host, b.host)
		fail(p)
		return
	}
	if wait := b.loginLoop(r); wait > 0 {
		p := newProblem(LoginLoop, nil)
		p.RetryAfter = wait
		b.emit(r.Context(), r, Event{Kind: LoginLoopStopped, Reason: LoginLoop})
		fail(p)
		return
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		query = nil
	}
	at := &attempt{Attempt: record.Attempt{Began: time.Now(), MaxAge: -time.Second}}
	rand.Read(at.Secret[:])
	at.derive()
	at.ReturnURL = b.returnURL(r.Context(), query["returnUrl"])
	extra := b.loginParams(query, at)
	if at.MaxAge >= 0 || at.ACRValues != "" {
		s, problem := b.present(r)
		if problem != nil { // check:step-up-outage
			fail(problem)
			return
		}
		at.Subject = s.Subject()
	}

	location, err := b.issuer.AuthorizationURL(r.Context(), issuer.AuthorizationRequest{
		State: at.state, Nonce: at.nonce, Verifier: at.verifier, Extra: extra,
	})
	if err != nil {
		fail(issuerProblem(err))
		return
	}
	name := b.attemptCookie(at.state)
	sealed, err := b.ring.Load().SealAttempt(name, at.Append(nil))
	if err != nil {
		fail(newProblem(BadRequest, err))
		return
	}
	b.trim(w, r, len(name)+len(sealed)+3)
	b.cookies.set(w, name, sealed, http.SameSiteLaxMode, int(seal.AttemptAge/time.Second))
	setPrivate(w.Header())
	w.Header().Set("Location", location)
	w.WriteHeader(http.StatusFound)
}

// isOurHost reports whether r came for RedirectURL's host, as far as proxies
// in between tell. It decides no more than whether to explain a mistake.
func (b *BFF) isOurHost(r *http.Request) bool {
	for _, host := range []string{r.Host, r.Header.Get("X-Forwarded-Host")} {
		if _, h := originOf(&url.URL{Scheme: b.scheme(), Host: host}); h == b.host {
			return true
		}
	}
	return false
}

func (b *BFF) scheme() string {
	if b.cookies.secure {
		return "https"
	}
	return "http"
}

// returnURL returns where a sign-in leads: the one value asked for, if it is a
// page of ours, or the default.
func (b *BFF) returnURL(ctx context.Context, asked []string) string {
	if len(asked) == 0 || len(asked) == 1 && asked[0] == "" {
		return b.cfg.DefaultReturnURL
	}
	if len(asked) == 1 {
		if clean, ok := returnto.Clean(asked[0], b.ownPath); ok {
			return clean
		}
	}
	place, _, _ := strings.Cut(asked[0], "?") // behind it there may be a code
	place, _, _ = strings.Cut(place, "#")
	b.log.LogAttrs(ctx, slog.LevelWarn, "returnUrl is not a page of this site; the default is used",
		slog.String("return_url", fmt.Sprintf("%.100q", place)))
	return b.cfg.DefaultReturnURL
}

// loginParams returns the parameters of the authorization request beyond the
// protocol's own, and notes in at what the answer will be held to.
func (b *BFF) loginParams(query url.Values, at *attempt) url.Values {
	extra := url.Values{}
	if slices.Contains(b.cfg.Scopes, "offline_access") {
		extra.Set("prompt", "consent") // OpenID Connect Core 1.0, section 11
	}
	for name, value := range b.cfg.AuthorizationParams {
		extra.Set(name, value)
	}
	for _, name := range b.cfg.LoginParams {
		value := one(query, name)
		if value == "" || len(value) > 256 || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) { // check:login-param
			continue
		}
		if name == "prompt" && !slices.Contains([]string{"none", "login", "consent", "select_account"}, value) { // check:login-prompt
			continue
		}
		extra.Set(name, value)
	}
	for _, asked := range []string{extra.Get("max_age"), one(query, "max_age")} { // the stricter of the two
		if age, ok := parseMaxAge(asked); ok && (at.MaxAge < 0 || age < at.MaxAge) {
			extra.Set("max_age", strconv.FormatInt(int64(age/time.Second), 10))
			at.MaxAge = age
		}
	}
	if acr := strings.Fields(one(query, "acr_values")); len(acr) > 0 {
		if joined := strings.Join(acr, " "); len(joined) <= 256 && !strings.ContainsFunc(strings.Join(acr, ""), notVisible) {
			extra.Set("acr_values", joined)
			at.ACRValues = joined
		}
	}
	for name, values := range extra {
		if values[0] == "" {
			extra.Del(name)
		}
	}
	return extra
}

// one returns the value of a parameter that comes once, or "".
func one(query url.Values, name string) string {
	if len(query[name]) != 1 {
		return ""
	}
	return query[name][0]
}

// present returns the session that this browser has, without extending it, or
// nil if there is none. The problem says that nobody can tell.
func (b *BFF) present(r *http.Request) (*Session, *Problem) {
	id, state := b.identify(r)
	if state != cookieValid {
		return nil, nil
	}
	s, problem := b.session(r.Context(), id, false)
	if problem != nil && problem.Status == http.StatusUnauthorized {
		return nil, nil
	}
	return s, problem
}

// serveCallback answers GET on RedirectURL's path: it makes the session, or
// says why there is none.
func (b *BFF) serveCallback(w http.ResponseWriter, r *http.Request) {
	if !isTopLevel(r) { // check:callback-navigation
		b.refuse(w, r, newProblem(BadRequest, nil))
		return
	}
	if b.hop(w, r) {
		return
	}
	problem := b.finishLogin(w, r)
	if problem == nil {
		return
	}
	problem.Page = true
	problem.LoginURL = b.paths.Login
	e := Event{Kind: SignInRefused, Subject: problem.subject, Reason: problem.Reason, Err: problem.Err}
	switch problem.Reason {
	case LoginExpired, LoginReplayed, LoginMismatch, BadRequest:
		if problem.subject != "" { // it came as far as to a session
			b.emit(r.Context(), r, e)
			break
		}
		// A tab left over from another sign-in: whoever is signed in needs no
		// explanation.
		if s, _ := b.present(r); s != nil {
			b.redirect(w, b.cfg.DefaultReturnURL)
			return
		}
		b.emitCounted(r, e) // anybody can cause these
	default:
		b.emit(r.Context(), r, e)
	}
	b.refuse(w, r, problem)
}

// redirect leads to a place of ours that is known to be safe.
func (b *BFF) redirect(w http.ResponseWriter, to string) {
	setPrivate(w.Header())
	w.Header().Set("Location", to) // not http.Redirect, which cleans paths after we checked
	w.WriteHeader(http.StatusFound)
}

// hop answers the callback with a page that leads to the same address, so that
// a Strict session cookie comes along the second time. It reports whether it
// did. The parameter keeps a browser without Fetch Metadata from hopping on.
// The page holds the code, which this browser has just sent in the same URL.
func (b *BFF) hop(w http.ResponseWriter, r *http.Request) bool {
	const hopped = "&bff_hop=1"
	if b.cfg.SameSite != http.SameSiteStrictMode || strings.HasSuffix(r.URL.RawQuery, hopped) || r.Header.Get("Sec-Fetch-Site") == "same-origin" {
		return false
	}
	setPrivate(w.Header())
	to := b.callback + "?" + r.URL.RawQuery + hopped
	writePage(w, http.StatusOK, page{Title: "Signing in", Refresh: to, Action: to, Button: "Continue"})
	return true
}

// finishLogin takes a login from the issuer's answer to the session and the
// redirect, or returns why it can't. The order of the checks is the order in
// which they cost something: nothing is asked of the store or the issuer
// before the cookie of the attempt was found.
func (b *BFF) finishLogin(w http.ResponseWriter, r *http.Request) *Problem {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil { // check:callback-query
		return newProblem(BadRequest, nil)
	}
	for _, name := range []string{"state", "code", "iss", "error"} {
		// RFC 6749, section 3.1: parameters must not be repeated.
		if len(query[name]) > 1 { // check:duplicate-parameter
			return newProblem(LoginMismatch, fmt.Errorf("%s is repeated", name))
		}
	}
	at, problem := b.openAttempt(r, query.Get("state"))
	if problem != nil {
		return problem
	}
	meta, err := b.issuer.Metadata(r.Context())
	if err != nil {
		return issuerProblem(err)
	}
	// RFC 9207, section 2.4: a mix-up attack changes only this, in error
	// responses too.
	iss := query.Get("iss")
	if iss != "" && iss != b.cfg.Issuer { // check:iss-parameter
		return newProblem(LoginMismatch, errors.New("iss parameter is another issuer's"))
	}
	if iss == "" && meta.IssParameter { // check:iss-parameter-missing
		return newProblem(LoginMismatch, errors.New("iss parameter is missing, though the issuer's metadata promises it"))
	}
	if problem := b.spend(r.Context(), at); problem != nil {
		return problem
	}
	b.cookies.delete(w, at.cookie, http.SameSiteLaxMode)
	if code := query.Get("error"); code != "" { // check:error-response
		return authorizationProblem(code)
	}
	code := query.Get("code")
	if code == "" { // check:code
		return newProblem(LoginMismatch, errors.New("no code"))
	}
	return b.redeem(w, r, at, code)
}

// openAttempt finds the login attempt that state belongs to among the cookies.
func (b *BFF) openAttempt(r *http.Request, state string) (*attempt, *Problem) {
	began, err := strconv.ParseUint(state[:min(8, len(state))], 16, 32)
	if len(state) != stateLen || err != nil { // check:state-form
		return nil, newProblem(LoginMismatch, errors.New("state is not one of ours"))
	}
	gone := newProblem(LoginMismatch, errors.New("no cookie for this state"))
	if time.Since(time.Unix(int64(began), 0)) >= seal.AttemptAge {
		gone = newProblem(LoginExpired, nil)
	}
	name := b.attemptCookie(state)
	c, err := r.Cookie(name)
	if err != nil {
		return nil, gone
	}
	value, spent, ok := b.ring.Load().OpenAttempt(name, c.Value)
	if !ok { // check:attempt-cookie
		return nil, gone
	}
	rec, err := record.ParseAttempt(value)
	if err != nil {
		return nil, newProblem(LoginMismatch, errors.New("the cookie for this state holds no attempt"))
	}
	at := &attempt{Attempt: rec, cookie: name}
	at.derive()
	if subtle.ConstantTimeCompare([]byte(at.state), []byte(state)) != 1 { // check:state
		return nil, newProblem(LoginMismatch, errors.New("state is another attempt's"))
	}
	at.spent = spent(state)
	return at, nil
}

// spend marks the attempt as used, once in the whole fleet: a second
// redemption of the code can make the issuer revoke what the first one got.
func (b *BFF) spend(ctx context.Context, at *attempt) *Problem {
	until := time.Now().Add(seal.AttemptAge + time.Minute)
	ctx, cancel := b.storeContext(ctx)
	defer cancel()
	ok, err := b.store.Create(ctx, at.spent, []byte{1}, until, until)
	if err != nil {
		return newProblem(StoreUnavailable, err)
	}
	if !ok { // check:spent
		return newProblem(LoginReplayed, nil)
	}
	return nil
}

// authorizationProblem says what an error response means (RFC 6749, section
// 4.1.2.1; OpenID Connect Core 1.0, section 3.1.2.6). Its text is the issuer's
// and not shown.
func authorizationProblem(code string) *Problem {
	err := fmt.Errorf("issuer answered error %.64q", code)
	switch code {
	case "access_denied", "login_required", "interaction_required", "consent_required", "account_selection_required":
		return newProblem(LoginDenied, err)
	case "temporarily_unavailable":
		return newProblem(IssuerUnavailable, err)
	}
	return newProblem(IssuerError, err)
}

// redeem spends the code and files the session. It goes on when the browser
// gives up, since a code can be redeemed once; a session whose cookie nobody
// received is ended again.
func (b *BFF) redeem(w http.ResponseWriter, r *http.Request, at *attempt, code string) *Problem {
	// Each step has its own deadline: the exchange, the keys, userinfo.
	ctx, cancel := b.detached(r.Context(), 4*b.cfg.IssuerTimeout+b.cfg.StoreTimeout)
	defer cancel()
	began := time.Now()
	select {
	case b.redemptions <- struct{}{}:
	case <-time.After(b.cfg.IssuerTimeout):
		return newProblem(IssuerUnavailable, errors.New("too many token requests in flight"))
	}
	tokens, err := b.issuer.Exchange(ctx, code, at.verifier)
	<-b.redemptions
	if err != nil {
		b.abandon(ctx, r, tokens)
		return issuerProblem(err)
	}
	c, problem := b.signIn(ctx, at, tokens)
	if problem != nil {
		b.abandon(ctx, r, tokens)
		if c != nil {
			problem.subject = c.head.Subject
		}
		return problem
	}
	id := b.ring.Load().NewID(time.Now())
	if end := id.SignedIn().Add(b.cfg.MaxLifetime); c.head.End.IsZero() || end.Before(c.head.End) {
		c.head.End = end
	}
	if problem := b.file(ctx, &id, c, device(r.UserAgent()), began); problem != nil {
		b.abandon(ctx, r, tokens)
		problem.subject = c.head.Subject
		return problem
	}
	key := id.RecordKey()
	if r.Context().Err() != nil { // check:client-gone
		b.endKey(ctx, key, SessionRevoked)
		b.abandon(ctx, r, tokens)
		p := newProblem(LoginExpired, r.Context().Err())
		p.subject = c.head.Subject
		return p
	}
	// Invariant 6. The refresh token of the old session is not revoked: at
	// some issuers all sign-ins of one browser share a grant.
	if old, state := b.identify(r); state == cookieValid { // check:old-session
		oldKey, subject := old.RecordKey(), ""
		if rec, _, problem := b.load(ctx, &old, oldKey); problem == nil {
			subject = rec.head.Subject
		}
		ended, err := b.endKey(ctx, oldKey, Replaced)
		if err != nil {
			b.log.LogAttrs(ctx, slog.LevelWarn, "the browser's old session was not ended", slog.Any("err", err))
		}
		if ended {
			b.emit(ctx, r, Event{Kind: SessionEnded, Subject: subject, Session: seal.Handle(oldKey), Reason: Replaced, By: ByUser})
		}
	}
	b.limitSessions(ctx, r, c.head.Subject, key)
	b.setSession(w, &id, c.head.End)
	b.countSignIn(w, r)
	b.emit(ctx, r, Event{Kind: SignedIn, Subject: c.head.Subject, Session: seal.Handle(key)})
	if !c.head.Renewable {
		b.log.LogAttrs(ctx, slog.LevelInfo, "no refresh token: the session outlives its access token; many issuers want the scope offline_access",
			slog.String("issuer", b.cfg.Issuer))
	}
	to := at.ReturnURL
	if at.Subject != "" && at.Subject != c.head.Subject { // check:other-subject
		to = b.cfg.DefaultReturnURL // a colleague must not go on in the first user's form
	}
	if clean, ok := returnto.Clean(to, b.ownPath); ok {
		b.redirect(w, clean)
	} else {
		b.redirect(w, b.cfg.DefaultReturnURL)
	}
	return nil
}

// signIn makes the content of a session of a token response: it validates the
// ID token, fetches userinfo, and asks the application. With a problem it returns
// what there is as soon as the ID token said who it is.
func (b *BFF) signIn(ctx context.Context, at *attempt, tokens *issuer.TokenResponse) (*content, *Problem) {
	want := issuer.Expect{Nonce: at.nonce, AccessToken: tokens.AccessToken, ACR: strings.Fields(at.ACRValues)}
	if at.MaxAge >= 0 {
		want.MaxAge = &at.MaxAge
	}
	tok, err := b.issuer.VerifyIDToken(ctx, tokens.IDToken, want)
	if err != nil {
		return nil, issuerProblem(err)
	}
	c := &content{
		access: Secret(tokens.AccessToken),
		grant: record.Grant{
			RefreshToken: tokens.RefreshToken, IDToken: tokens.IDToken, Nonce: tok.Nonce, Audience: tok.Audience,
			AuthorizedParty: tok.AuthorizedParty, IssuedAt: tok.IssuedAt, AuthTime: tok.AuthTime,
		},
	}
	c.head.Subject, c.head.SID, c.head.ACR, c.head.AuthTime = tok.Subject, tok.SID, tok.ACR, tok.AuthTime
	c.head.Renewable = tokens.RefreshToken != ""
	rand.Read(c.head.TokenID[:])
	b.lend(&c.head, tokens, time.Now())
	c.head.End = tok.SessionExpiry
	if err := b.learn(ctx, c, tok.Claims, tokens.AccessToken, false); err != nil {
		return c, issuerProblem(err)
	}
	if err := b.ask(ctx, c, &Login{ReturnURL: at.ReturnURL}); err != nil { // check:on-login
		var no *refusal
		if errors.As(err, &no) {
			p := newProblem(LoginRefused, err)
			p.Detail = no.message
			return c, p
		}
		return c, newProblem(IssuerUnavailable, fmt.Errorf("OnLogin: %w", err))
	}
	return c, nil
}

// lend notes how long the access token of a response that came at now lives.
func (b *BFF) lend(h *record.Head, tokens *issuer.TokenResponse, now time.Time) {
	life := tokens.Lifetime
	if life < 0 {
		life = b.cfg.AccessTokenLifetime
	}
	h.AccessObtained, h.AccessExpiry = now, now.Add(life)
}

// learn takes the user's claims and groups from an ID token's payload and,
// where configured, from userinfo, which adds what the ID token lacks. With an
// old ID token it is the other way round: the later word counts, and of what
// userinfo had before, its silence does too.
func (b *BFF) learn(ctx context.Context, c *content, idToken json.RawMessage, accessToken string, old bool) error {
	claims := map[string]json.RawMessage{}
	if err := json.Unmarshal(idToken, &claims); err != nil {
		return &issuer.Error{Op: "claims", Kind: issuer.Malformed}
	}
	if b.cfg.UserInfo {
		answer, err := b.issuer.UserInfo(ctx, accessToken, c.head.Subject)
		if err != nil {
			return err
		}
		info := map[string]json.RawMessage{}
		if err := json.Unmarshal(answer, &info); err != nil {
			return &issuer.Error{Op: "claims", Kind: issuer.Malformed}
		}
		// A null says nothing (OpenID Connect Core 1.0, section 5.3.2).
		null := func(_ string, v json.RawMessage) bool { return string(v) == "null" }
		maps.DeleteFunc(info, null)
		maps.DeleteFunc(claims, null)
		if old {
			for _, name := range c.grant.AtUserInfo {
				delete(claims, name)
			}
			maps.Copy(claims, info)
		} else {
			c.grant.AtUserInfo = slices.Sorted(maps.Keys(info))
			maps.Copy(info, claims)
			claims = info
		}
	}
	merged, err := json.Marshal(claims)
	if err != nil || len(merged) > maxClaims { // check:claims-size
		return &issuer.Error{Op: "userinfo", Kind: issuer.Malformed, Err: errors.New("too many claims")}
	}
	c.claims.JSON = merged
	c.head.Groups = groupsOf(claims["groups"])
	return nil
}

// payload returns the claims in an ID token that was verified before.
func payload(idToken string) json.RawMessage {
	_, rest, _ := strings.Cut(idToken, ".")
	middle, _, _ := strings.Cut(rest, ".")
	text, err := base64.RawURLEncoding.DecodeString(middle)
	if err != nil {
		return nil // which is no JSON
	}
	return text
}

// groupsOf reads a groups claim, a string or an array of strings, as a set.
func groupsOf(claim json.RawMessage) []string {
	var list []string
	var single string
	if json.Unmarshal(claim, &single) == nil && single != "" {
		return []string{single}
	}
	if json.Unmarshal(claim, &list) != nil {
		return nil
	}
	var set []string
	for _, g := range list {
		if g != "" && !slices.Contains(set, g) {
			set = append(set, g)
		}
	}
	return set
}

// ask calls the application's hook and keeps what it set.
func (b *BFF) ask(ctx context.Context, c *content, l *Login) error {
	if b.cfg.OnLogin == nil {
		return nil
	}
	l.Issuer, l.Subject, l.Groups = b.cfg.Issuer, c.head.Subject, slices.Clone(c.head.Groups)
	l.claims, l.values = c.claims.JSON, slices.Clone(c.claims.Values)
	if err := b.call(ctx, "OnLogin", func() error { return b.cfg.OnLogin(ctx, l) }); err != nil {
		return err
	}
	c.claims.Values = l.values
	return nil
}

// call calls a hook of the application. A panic in it is reported and counts as
// an error: much of what calls hooks runs in the background, where it would end
// the process, again and again for the same user.
func (b *BFF) call(ctx context.Context, name string, hook func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			b.log.LogAttrs(ctx, slog.LevelError, "a hook panicked",
				slog.String("hook", name), slog.String("panic", fmt.Sprintf("%.200v", p)), slog.String("stack", string(debug.Stack())))
			err = errors.New("it panicked")
		}
	}()
	return hook()
}

// file creates the session's record, and ends it again if it was to end
// meanwhile: since its sign-in began, by our clock, or by the issuer's since its
// ID token was issued.
func (b *BFF) file(ctx context.Context, id *seal.ID, c *content, device string, began time.Time) *Problem {
	now := time.Now()
	value, err := c.seal(id)
	if err != nil {
		return newProblem(IssuerError, err)
	}
	expires := now.Add(b.cfg.IdleTimeout)
	if expires.After(c.head.End) {
		expires = c.head.End
	}
	key := id.RecordKey()
	if err := b.fileTags(ctx, id, key, c, device, now); err != nil {
		return newProblem(StoreUnavailable, err)
	}
	storeCtx, cancel := b.storeContext(ctx)
	ok, err := b.store.Create(storeCtx, key, value, expires, c.head.End)
	cancel()
	if err == nil && !ok { // 256 random bits are taken only if the write was repeated
		err = errors.New("record key is taken")
	}
	if err != nil {
		// Perhaps it was written: nobody can open it, but it would be listed.
		b.background(ctx, func(ctx context.Context) { b.endKey(ctx, key, SessionRevoked) })
		return newProblem(StoreUnavailable, err)
	}
	ended, err := b.overtaken(ctx, id, c, began)
	switch {
	case err != nil:
		b.endKey(ctx, key, SessionRevoked)
		return newProblem(StoreUnavailable, err)
	case ended:
		if _, err := b.endKey(ctx, key, SessionRevoked); err != nil {
			return newProblem(StoreUnavailable, err)
		}
		return newProblem(SessionRevoked, errors.New("the issuer ended the sign-in meanwhile"))
	}
	return nil
}

// abandon revokes what a failed sign-in got from the issuer, in the
// background, unless this browser has a session here: both may hang on one
// grant, and a failed step-up must not end the session it came from.
func (b *BFF) abandon(ctx context.Context, r *http.Request, tokens *issuer.TokenResponse) {
	if tokens == nil {
		return
	}
	// r's own context may have ended, and that is no answer about the session.
	if s, problem := b.present(r.WithContext(ctx)); s != nil || problem != nil { // check:shared-grant
		return
	}
	b.revoke(ctx, tokens.RefreshToken, tokens.AccessToken)
}

// revoke revokes the refresh token, or the access token if there is no other,
// where the issuer publishes revocation (RFC 7009): in the background, a few
// times, and without a promise.
func (b *BFF) revoke(ctx context.Context, refreshToken, accessToken string) {
	unpublished := func() bool {
		meta := b.issuer.Known() // perhaps nothing yet, in a process that has just started
		return meta != nil && meta.RevocationEndpoint == ""
	}
	if unpublished() {
		return
	}
	token, hint := refreshToken, "refresh_token"
	if token == "" {
		token, hint = accessToken, "access_token"
	}
	if token == "" {
		return
	}
	work := func(ctx context.Context) {
		for pause := time.Second; ; pause *= 4 {
			err := b.issuer.Revoke(ctx, token, hint)
			if err == nil || unpublished() {
				return
			}
			var e *issuer.Error
			refused := errors.As(err, &e) && e.Kind == issuer.Answered && e.Status < 500
			if refused || pause > 20*time.Second {
				b.log.LogAttrs(ctx, slog.LevelWarn, "token not revoked", slog.Any("err", err))
				return
			}
			if !sleep(ctx, pause) {
				return
			}
		}
	}
	if !b.background(ctx, work) {
		work(ctx) // Close waits for whoever asks
	}
}

// sleep waits for d and reports whether ctx lasted as long.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// issuerProblem says what an error of the wire protocol means for a sign-in.
func issuerProblem(err error) *Problem {
	var e *issuer.Error
	if !errors.As(err, &e) {
		return newProblem(IssuerUnavailable, err)
	}
	switch {
	case e.Kind == issuer.Unreachable || e.Kind == issuer.Lost || e.Kind == issuer.Answered && e.Status >= 500:
		return newProblem(IssuerUnavailable, err)
	case e.Kind == issuer.Invalid && (e.Check == "max-age" || e.Check == "auth-time" || e.Check == "acr"):
		return newProblem(StepUp, err)
	}
	return newProblem(IssuerError, err)
}

// maxCookies bounds our cookies in one request, in bytes: servers in front
// refuse headers of 8 KB and less.
const maxCookies = 2 << 10

// trimAttempts deletes the oldest attempts' cookies if ours together are large.
func (b *BFF) trimAttempts(w http.ResponseWriter, r *http.Request) { b.trim(w, r, 0) }

// trim is trimAttempts with room for reserve more bytes.
func (b *BFF) trim(w http.ResponseWriter, r *http.Request, reserve int) {
	total := reserve
	var attempts []*http.Cookie
	for _, c := range r.Cookies() {
		if strings.HasPrefix(c.Name, b.cookies.session) {
			total += len(c.Name) + len(c.Value) + 3
		}
		if strings.HasPrefix(c.Name, b.cookies.attempt) {
			attempts = append(attempts, c)
		}
	}
	if total <= maxCookies {
		return
	}
	answered := "" // this very request's attempt, whose cookie a hop needs again
	if state := r.URL.Query().Get("state"); r.URL.Path == b.callback && len(state) == stateLen {
		answered = b.attemptCookie(state)
	}
	slices.SortFunc(attempts, func(a, b *http.Cookie) int { return strings.Compare(a.Name, b.Name) })
	for _, c := range attempts {
		if total <= maxCookies {
			return
		}
		if c.Name == answered {
			continue
		}
		b.cookies.delete(w, c.Name, http.SameSiteLaxMode)
		total -= len(c.Name) + len(c.Value) + 3
	}
}

// The loop breaker counts sign-ins that were completed, in a cookie without
// authority: a browser that loses its session cookie each time would bounce
// between us and the issuer for ever.
const (
	loopLimit  = 5
	loopWindow = time.Minute
)

// recentSignIns returns the times of this browser's last sign-ins, oldest
// first.
func (b *BFF) recentSignIns(r *http.Request) []time.Time {
	c, err := r.Cookie(b.cookies.signins)
	if err != nil {
		return nil
	}
	value, _, ok := b.ring.Load().OpenAttempt(c.Name, c.Value)
	if !ok || len(value) > 4*loopLimit {
		return nil
	}
	var times []time.Time
	for ; len(value) >= 4; value = value[4:] {
		t := time.Unix(int64(binary.BigEndian.Uint32(value)), 0)
		if time.Since(t) < loopWindow {
			times = append(times, t)
		}
	}
	return times
}

// loginLoop returns how long this browser must wait before it may sign in.
func (b *BFF) loginLoop(r *http.Request) time.Duration {
	times := b.recentSignIns(r)
	if len(times) >= loopLimit { // check:login-loop
		return max(time.Second, loopWindow-time.Since(times[len(times)-loopLimit]))
	}
	return 0
}

// countSignIn notes a completed sign-in.
func (b *BFF) countSignIn(w http.ResponseWriter, r *http.Request) {
	times := append(b.recentSignIns(r), time.Now())
	times = times[max(0, len(times)-loopLimit):]
	var value []byte
	for _, t := range times {
		value = binary.BigEndian.AppendUint32(value, uint32(t.Unix()))
	}
	sealed, err := b.ring.Load().SealAttempt(b.cookies.signins, value)
	if err != nil {
		return // it would have failed for the attempt already
	}
	b.cookies.set(w, b.cookies.signins, sealed, http.SameSiteLaxMode, int(loopWindow/time.Second))
}
