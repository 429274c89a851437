package bff

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/agglestone/bff/internal/seal"
)

// A Reason says why a request was refused. The list is closed; docs/reasons.md
// says what each means and what to do about it.
type Reason string

// The reasons, with the status each comes with.
const (
	// 401: sign in (again).
	NoSession        Reason = "no_session"
	SessionIdle      Reason = "session_idle"
	SessionExpired   Reason = "session_expired"
	SessionRevoked   Reason = "session_revoked"
	SignedOut        Reason = "signed_out"
	Replaced         Reason = "replaced"
	RefreshRejected  Reason = "refresh_rejected"
	TokenUnavailable Reason = "token_unavailable"
	StepUp           Reason = "step_up"

	// 401 from an upstream: signing in again would not help.
	UpstreamUnauthorized Reason = "upstream_unauthorized"

	// 403.
	Forbidden    Reason = "forbidden"
	CSRF         Reason = "csrf"
	LoginRefused Reason = "login_refused"

	// 400, 404, 405, 408, 413 and 429.
	LoginExpired     Reason = "login_expired"
	LoginReplayed    Reason = "login_replayed"
	LoginMismatch    Reason = "login_mismatch"
	LoginDenied      Reason = "login_denied"
	LoginLoop        Reason = "login_loop"
	WrongHost        Reason = "wrong_host"
	BadRequest       Reason = "bad_request"
	NotFound         Reason = "not_found"
	MethodNotAllowed Reason = "method_not_allowed"
	RequestTimeout   Reason = "request_timeout"
	RequestTooLarge  Reason = "request_too_large"
	TooManyStreams   Reason = "too_many_streams"

	// 502, 503 and 504: try again later; nobody was signed out.
	BadGateway        Reason = "bad_gateway"
	IssuerError       Reason = "issuer_error"
	StoreUnavailable  Reason = "store_unavailable"
	IssuerUnavailable Reason = "issuer_unavailable"
	UpstreamTimeout   Reason = "upstream_timeout"
	ShuttingDown      Reason = "shutting_down"
)

// reasons gives each reason its status and title.
var reasons = map[Reason]struct {
	status int
	title  string
}{
	NoSession:            {401, "Not signed in"},
	SessionIdle:          {401, "Signed out after a time without activity"},
	SessionExpired:       {401, "Signed out: the session reached its greatest age"},
	SessionRevoked:       {401, "The session was ended"},
	SignedOut:            {401, "Signed out"},
	Replaced:             {401, "Signed out: a new session took this one's place"},
	RefreshRejected:      {401, "Signed out: the issuer ended the sign-in"},
	TokenUnavailable:     {401, "There is no valid access token"},
	StepUp:               {401, "A recent or stronger sign-in is needed"},
	UpstreamUnauthorized: {401, "The API did not accept the access token"},
	Forbidden:            {403, "Not allowed"},
	CSRF:                 {403, "The request did not prove that it comes from this site"},
	LoginRefused:         {403, "Sign-in refused"},
	LoginExpired:         {400, "The sign-in took too long"},
	LoginReplayed:        {400, "This sign-in was already used"},
	LoginMismatch:        {400, "This sign-in was not started in this browser"},
	LoginDenied:          {400, "The sign-in was not completed"},
	LoginLoop:            {429, "Too many sign-ins in a short time"},
	WrongHost:            {400, "Sign-in was started on another host name"},
	BadRequest:           {400, "The request makes no sense"},
	NotFound:             {404, "Not found"},
	MethodNotAllowed:     {405, "Method not allowed"},
	RequestTimeout:       {408, "The request did not arrive in time"},
	RequestTooLarge:      {413, "The request is too large"},
	TooManyStreams:       {429, "Too many streams are open"},
	BadGateway:           {502, "The API could not be reached"},
	IssuerError:          {502, "The sign-in service gave an unusable answer"},
	StoreUnavailable:     {503, "Sessions can't be read at the moment"},
	IssuerUnavailable:    {503, "The sign-in service can't be reached at the moment"},
	ShuttingDown:         {503, "The server is shutting down"},
	UpstreamTimeout:      {504, "The API took too long to answer"},
}

// reasonHeader tells our refusals from an upstream's without a look at bodies.
const reasonHeader = "Bff-Reason"

const reasonDocs = "https://github.com/agglestone/bff/blob/main/docs/reasons.md#"

// ErrNoSession is wrapped by every *Problem that says that nobody is signed in.
var ErrNoSession = errors.New("bff: no session")

// A Problem is a refusal of ours: an error, and a handler that answers with it
// as application/problem+json (RFC 9457), or as a small page if Page is set.
// It is always a pointer. Nothing in it but Err needs to be kept from the user.
// One of an application's own needs no more than a Reason.
type Problem struct {
	Status     int
	Reason     Reason
	Title      string
	Detail     string        // more for the user, often empty
	LoginURL   string        // where signing in would help
	RetryAfter time.Duration // zero: no Retry-After header
	RequestID  string        // the same in the log
	Page       bool          // for a person's eyes: answer with a page

	// ACRValues and MaxAge are what step_up demands of the next sign-in, as in
	// an authentication request (RFC 9470; OpenID Connect Core 1.0, section
	// 3.1.2.1): empty and nil for nothing. LoginURL asks for it already.
	ACRValues string
	MaxAge    *time.Duration

	// Err is the cause, for logs. It is never shown. It holds no secret.
	Err error

	subject string // whose sign-in was refused, for the event
}

// newProblem returns the problem for reason, caused by err, which may be nil.
func newProblem(reason Reason, err error) *Problem {
	p := &Problem{Status: reasons[reason].status, Reason: reason, Title: reasons[reason].title, Err: err}
	if p.Status == http.StatusServiceUnavailable {
		p.RetryAfter = time.Second
	}
	return p
}

// complete returns a copy of p that has the status and title of its reason where
// it has none of its own, and the given status if there is no such reason: an
// application may make one of its own.
func (p *Problem) complete(status int) *Problem {
	q := *p
	if known, ok := reasons[q.Reason]; ok {
		status, q.Title = known.status, cmp.Or(q.Title, known.title)
	}
	q.Status = cmp.Or(q.Status, status)
	return &q
}

// Error says what happened, without secrets.
func (p *Problem) Error() string {
	if p.Err != nil {
		return fmt.Sprintf("bff: %s: %v", p.Reason, p.Err)
	}
	return fmt.Sprintf("bff: %s", p.Reason)
}

// Unwrap returns the cause.
func (p *Problem) Unwrap() error { return p.Err }

// Is reports whether target is ErrNoSession and p says that nobody is signed in.
func (p *Problem) Is(target error) bool {
	if target != ErrNoSession {
		return false
	}
	switch p.Reason {
	case NoSession, SessionIdle, SessionExpired, SessionRevoked, SignedOut, Replaced, RefreshRejected:
		return true
	}
	return false
}

type problemJSON struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail,omitempty"`
	Reason    Reason `json:"reason"`
	LoginURL  string `json:"loginUrl,omitempty"`
	ACRValues string `json:"acrValues,omitempty"`
	MaxAge    *int64 `json:"maxAge,omitempty"` // in seconds
	RequestID string `json:"requestId,omitempty"`
}

// ServeHTTP answers with the problem.
func (p *Problem) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p = p.complete(http.StatusInternalServerError)
	h := w.Header()
	setPrivate(h)
	h.Set(reasonHeader, string(p.Reason))
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((p.RetryAfter+time.Second-1)/time.Second)))
	}
	if p.Page {
		writePage(w, p.Status, problemPage(p))
		return
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	w.WriteHeader(p.Status)
	body := problemJSON{
		reasonDocs + string(p.Reason), p.Title, p.Status, p.Detail, p.Reason, p.LoginURL, p.ACRValues, nil, p.RequestID,
	}
	if p.MaxAge != nil {
		body.MaxAge = new(int64(*p.MaxAge / time.Second))
	}
	json.NewEncoder(w).Encode(body)
}

// setPrivate sets the headers of every answer of ours: it is for one reader,
// who must not keep it, and says nothing to other sites.
func setPrivate(h http.Header) {
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
}

// Error answers with err: a *Problem in its chain as it is, any other error as
// 502 bad_gateway. It is for handlers that got err from [Session.AccessToken]
// or from a [BFF.Client].
func (b *BFF) Error(w http.ResponseWriter, r *http.Request, err error) {
	var p *Problem
	if !errors.As(err, &p) {
		p = newProblem(BadGateway, err)
	}
	b.refuse(w, r, p)
}

// refuse answers with p and logs it: one line explains every refusal.
func (b *BFF) refuse(w http.ResponseWriter, r *http.Request, problem *Problem) {
	p := problem.complete(http.StatusInternalServerError)
	p.RequestID = rand.Text()[:16]
	if p.Status == http.StatusUnauthorized && p.Reason != UpstreamUnauthorized && p.LoginURL == "" {
		p.LoginURL = b.paths.Login + p.stepUpQuery()
	}
	level := slog.LevelDebug
	switch p.Reason {
	case StoreUnavailable:
		level = slog.LevelError
	case IssuerUnavailable, IssuerError, BadGateway, UpstreamTimeout, LoginLoop, WrongHost, CSRF, UpstreamUnauthorized:
		level = slog.LevelWarn
	case LoginExpired, LoginReplayed, LoginMismatch, LoginDenied, LoginRefused:
		level = slog.LevelInfo
	}
	if errors.Is(p.Err, context.Canceled) && r.Context().Err() != nil {
		level = slog.LevelDebug // the client went away; nothing is broken
	}
	attrs := []slog.Attr{
		slog.String("reason", string(p.Reason)),
		slog.Int("status", p.Status),
		slog.String("request_id", p.RequestID),
		slog.String("method", r.Method),
		slog.String("path", r.URL.Path),
	}
	if p.Err != nil {
		attrs = append(attrs, slog.String("err", p.Err.Error()))
	}
	b.log.LogAttrs(r.Context(), level, "request refused", attrs...)
	if p.Reason == CSRF {
		e := Event{Kind: CSRFRefused, Reason: CSRF}
		if id, state := b.identify(r); state == cookieValid {
			e.Session, e.Request = seal.Handle(id.RecordKey()), requestInfo(r)
			e.Request.ID = p.RequestID
			b.emit(r.Context(), r, e)
		} else {
			b.emitCounted(r, e)
		}
	}
	if b.cfg.ErrorHandler != nil {
		b.cfg.ErrorHandler(w, r, p)
		return
	}
	p.ServeHTTP(w, r)
}
