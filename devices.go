package bff

import (
	"net/http"
	"strings"
	"time"

	"github.com/agglestone/bff/internal/seal"
)

// deviceJSON is one session of the list that its user sees.
type deviceJSON struct {
	Handle    string    `json:"handle"`
	CreatedAt time.Time `json:"createdAt"`
	LastSeen  time.Time `json:"lastSeenAt"`
	ExpiresAt time.Time `json:"idleExpiresAt"`
	Device    string    `json:"device"`
	Current   bool      `json:"current"`
}

// own admits a request to one of our routes about its user's sessions. Its
// session is not extended by it, and not taken from the cache. None of them needs
// a token, and to sign out elsewhere can't fail because the issuer does.
func (b *BFF) own(w http.ResponseWriter, r *http.Request) (*Session, bool) {
	s, problem := b.admit(w, r, &route{passive: true, fresh: true, tokenless: true}, proofRule{}, true)
	if problem != nil {
		b.refuse(w, r, problem)
		return nil, false
	}
	return s, true
}

// serveSessions answers GET /auth/sessions: where this user is signed in.
func (b *BFF) serveSessions(w http.ResponseWriter, r *http.Request) {
	s, ok := b.own(w, r)
	if !ok {
		return
	}
	infos, err := b.SessionsOf(r.Context(), s.Subject())
	if err != nil {
		b.Error(w, r, err)
		return
	}
	list := make([]deviceJSON, len(infos))
	for i, info := range infos {
		list[i] = deviceJSON{
			info.Handle, seconds(info.CreatedAt), seconds(info.LastSeen), seconds(info.ExpiresAt), info.Device, info.filed.key == s.key,
		}
	}
	writeJSON(w, map[string]any{"sessions": list})
}

// serveEndSession answers DELETE /auth/sessions/{handle}: one of this user's
// sessions ends, perhaps the one that asks.
func (b *BFF) serveEndSession(w http.ResponseWriter, r *http.Request) {
	s, ok := b.own(w, r)
	if !ok {
		return
	}
	handle := strings.TrimPrefix(r.URL.Path, b.sessionsAt+"/")
	ctx, cancel := b.detached(r.Context(), endingTakes)
	defer cancel()
	ended, err := b.endHandle(ctx, s.Subject(), handle, Event{By: ByUser, Request: requestInfo(r)})
	switch {
	case err != nil:
		b.Error(w, r, err)
		return
	case !ended:
		b.refuse(w, r, newProblem(NotFound, nil))
		return
	}
	if handle == seal.Handle(s.key) {
		b.forget(w, r)
	}
	setPrivate(w.Header())
	w.WriteHeader(http.StatusNoContent)
}

// serveEndOthers answers POST /auth/sessions/end-others.
func (b *BFF) serveEndOthers(w http.ResponseWriter, r *http.Request) {
	s, ok := b.own(w, r)
	if !ok {
		return
	}
	ctx, cancel := b.detached(r.Context(), endingTakes)
	defer cancel()
	n, err := b.endOthers(ctx, s, Event{By: ByUser, Request: requestInfo(r)})
	if err != nil {
		b.Error(w, r, err)
		return
	}
	writeJSON(w, map[string]int{"ended": n})
}

// device names a browser and a system as a person would, from the User-Agent
// header, or is empty. It is a hint for the user's own list and decides
// nothing.
func device(agent string) string {
	first := func(table [][2]string) string {
		for _, row := range table {
			if strings.Contains(agent, row[0]) {
				return row[1]
			}
		}
		return ""
	}
	browser := first([][2]string{
		{"Edg", "Edge"}, {"OPR/", "Opera"}, {"SamsungBrowser/", "Samsung Internet"}, {"Firefox/", "Firefox"}, {"FxiOS/", "Firefox"},
		{"CriOS/", "Chrome"}, {"Chrome/", "Chrome"}, {"Safari/", "Safari"},
	})
	system := first([][2]string{
		{"Windows", "Windows"}, {"Android", "Android"}, {"iPhone", "iOS"}, {"iPad", "iPadOS"}, {"Mac OS X", "macOS"},
		{"CrOS", "ChromeOS"}, {"Linux", "Linux"},
	})
	switch {
	case browser == "":
		return system
	case system == "":
		return browser
	}
	return browser + " on " + system
}
