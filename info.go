package bff

import (
	"encoding/json"
	"net/http"
	"net/url"
	"time"
)

// sessionJSON is the answer of the session route. It never holds a token of
// the issuer's.
type sessionJSON struct {
	Authenticated bool            `json:"authenticated"`
	Subject       string          `json:"sub"`
	Groups        []string        `json:"groups"`
	Claims        map[string]any  `json:"claims"`
	App           any             `json:"app,omitempty"`
	Session       sessionTimes    `json:"session"`
	AccessToken   accessTokenJSON `json:"accessToken"`
	CSRFToken     string          `json:"csrfToken"`
	LoginURL      string          `json:"loginUrl"`
	LogoutURL     string          `json:"logoutUrl"`
	Now           time.Time       `json:"now"`
}

type sessionTimes struct {
	CreatedAt     time.Time  `json:"createdAt"`
	AuthTime      *time.Time `json:"authTime,omitempty"`
	IdleExpiresAt time.Time  `json:"idleExpiresAt"`
	ExpiresAt     time.Time  `json:"expiresAt"`
}

type accessTokenJSON struct {
	ExpiresAt time.Time `json:"expiresAt"`
	Renewable bool      `json:"renewable"`
}

// serveSession answers GET /auth/session: who is signed in and until when. It
// does not extend the session.
func (b *BFF) serveSession(w http.ResponseWriter, r *http.Request) { b.answerSession(w, r, false) }

// serveExtend answers POST /auth/session: it extends the session and answers
// as the GET does.
func (b *BFF) serveExtend(w http.ResponseWriter, r *http.Request) { b.answerSession(w, r, true) }

func (b *BFF) answerSession(w http.ResponseWriter, r *http.Request, extend bool) {
	id, state := b.identify(r)
	if state != cookieValid {
		if state == cookieTwice {
			b.cookies.delete(w, b.cookies.session, b.cfg.SameSite)
		}
		b.noSession(w, r, newProblem(NoSession, ErrNoSession))
		return
	}
	if !b.passes(r, &id, proofRule{}) { // check:session-proof
		b.refuse(w, r, newProblem(CSRF, nil))
		return
	}
	s, problem := b.session(r.Context(), id, !extend)
	if problem == nil && extend {
		problem = b.extend(r.Context(), s)
	}
	if problem != nil {
		b.noSession(w, r, problem)
		return
	}
	info, err := b.describe(r, s)
	if err != nil {
		b.Error(w, r, err)
		return
	}
	writeJSON(w, info)
}

// noSession answers a request for the session of nobody. A landing page asks
// for 200 instead of 401, to keep the browser's console clean.
func (b *BFF) noSession(w http.ResponseWriter, r *http.Request, problem *Problem) {
	if problem.Status == http.StatusUnauthorized && r.Method == http.MethodGet && r.URL.RawQuery != "" {
		if q, err := url.ParseQuery(r.URL.RawQuery); err == nil && one(q, "anonymous") == "200" {
			writeJSON(w, struct {
				Authenticated bool      `json:"authenticated"`
				Reason        Reason    `json:"reason"`
				LoginURL      string    `json:"loginUrl"`
				Now           time.Time `json:"now"`
			}{false, problem.Reason, b.paths.Login, seconds(time.Now())})
			return
		}
	}
	b.refuse(w, r, problem)
}

// describe says what the browser may know of s.
func (b *BFF) describe(r *http.Request, s *Session) (*sessionJSON, error) {
	h := &s.record().head
	all := map[string]json.RawMessage{} // as the issuer wrote them, numbers too
	if err := s.Claims(&all); err != nil {
		return nil, newProblem(StoreUnavailable, err)
	}
	groups := h.Groups
	if groups == nil {
		groups = []string{}
	}
	claims := map[string]any{}
	for _, name := range b.cfg.SessionClaims {
		switch v, ok := all[name]; {
		case name == "groups":
			claims[name] = groups
		case ok:
			claims[name] = v
		}
	}
	info := &sessionJSON{
		Authenticated: true,
		Subject:       h.Subject,
		Groups:        groups,
		Claims:        claims,
		Session: sessionTimes{
			CreatedAt:     seconds(s.CreatedAt()),
			IdleExpiresAt: seconds(s.IdleExpiresAt()),
			ExpiresAt:     seconds(h.End),
		},
		AccessToken: accessTokenJSON{seconds(h.AccessExpiry), h.Renewable},
		CSRFToken:   s.CSRFToken(),
		LoginURL:    b.paths.Login,
		LogoutURL:   b.paths.Logout,
		Now:         seconds(time.Now()),
	}
	if !h.AuthTime.IsZero() {
		t := seconds(h.AuthTime)
		info.Session.AuthTime = &t
	}
	if b.cfg.SessionInfo != nil {
		app, err := b.cfg.SessionInfo(r.Context(), s)
		if err != nil {
			return nil, err
		}
		info.App = app
	}
	return info, nil
}

func writeJSON(w http.ResponseWriter, v any) {
	body, err := json.Marshal(v)
	if err != nil { // only what Config.SessionInfo gave can fail
		http.Error(w, "bff: session can't be encoded", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	setPrivate(h)
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	w.Write(append(body, '\n'))
}
