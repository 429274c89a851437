package bff

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// MaxAuthAge admits users who authenticated at the issuer no longer than d ago,
// by the ID token's auth_time: a refresh doesn't count. Others are answered
// step_up, a page by a sign-in with max_age. An issuer that ignores max_age
// leaves them at an error page (OpenID Connect Core 1.0, section 3.1.3.7, step
// 13; RFC 9470).
func MaxAuthAge(d time.Duration) Option {
	return func(rt *route) {
		rt.maxAuthAge = &d
		rt.fresh = true
	}
}

// RequireACR admits users whose sign-in has one of the acr values. Others are
// answered step_up, a page by a sign-in with acr_values. Given twice, both must
// hold, and the second is asked for.
func RequireACR(anyOf ...string) Option {
	anyOf = slices.Clone(anyOf)
	return func(rt *route) {
		rt.acr = append(rt.acr, anyOf)
		rt.fresh = true
	}
}

// stepUp returns what s lacks in recency or strength, or nil.
func (rt *route) stepUp(s *Session) *Problem {
	if rt.maxAuthAge == nil && rt.acr == nil {
		return nil
	}
	h := s.record().head
	p := newProblem(StepUp, nil)
	lacks := false
	if d := rt.maxAuthAge; d != nil {
		// A session without auth_time is one of the year 1.
		if time.Since(h.AuthTime) > *d { // check:max-auth-age
			p.MaxAge, lacks = d, true
		}
	}
	for _, anyOf := range rt.acr {
		if !slices.Contains(anyOf, h.ACR) { // check:require-acr
			p.ACRValues, lacks = strings.Join(anyOf, " "), true
		}
	}
	if !lacks {
		return nil
	}
	return p
}

// loginURL returns where r's user signs in, as p demands, to come back here. It
// goes by what the browser sent: StripPrefix may have shortened r.URL.
func (b *BFF) loginURL(r *http.Request, p *Problem) string {
	login := b.paths.Login + p.stepUpQuery()
	target := r.RequestURI
	if !strings.HasPrefix(target, "/") {
		target = r.URL.RequestURI()
	}
	if len(target) > 1024 {
		return login
	}
	sep := "?"
	if strings.Contains(login, "?") {
		sep = "&"
	}
	return login + sep + "returnUrl=" + url.QueryEscape(target)
}
