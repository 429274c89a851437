package bff

import (
	"fmt"
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
// 13; RFC 9470). Given twice, both must hold.
//
// Config.ClockSkew is allowed for, as it is when the sign-in is checked: what
// the one takes the other must not refuse, or an issuer whose clock is behind
// would be asked again and again. So 0 stands for a sign-in just now. MaxAuthAge
// panics if d is negative.
func MaxAuthAge(d time.Duration) Option {
	if d < 0 {
		panic("bff: MaxAuthAge: " + d.String() + " is negative")
	}
	return func(rt *route) {
		rt.fresh = true
		if rt.maxAuthAge == nil || d < *rt.maxAuthAge {
			rt.maxAuthAge = &d
		}
	}
}

// RequireACR admits users whose sign-in has one of the acr values. Others are
// answered step_up, a page by a sign-in with acr_values. Given twice, both must
// hold, and what both admit is asked for.
//
// RequireACR panics if it is given no values, or some that can't be asked for:
// each is visible ASCII, all together are 256 characters at most. If nobody
// could get in by all that a route is given, [BFF.Protect] panics, and an
// [Upstream] is not valid.
func RequireACR(anyOf ...string) Option {
	anyOf = slices.Clone(anyOf)
	joined := strings.Join(anyOf, " ")
	if joined == "" || cleanACR(joined) != joined || len(strings.Fields(joined)) != len(anyOf) {
		panic(fmt.Sprintf("bff: RequireACR: %q can't be asked for by acr_values", anyOf))
	}
	return func(rt *route) {
		rt.fresh = true
		if rt.acr == nil {
			rt.acr = anyOf
			return
		}
		both := slices.DeleteFunc(slices.Clone(rt.acr), func(acr string) bool { return !slices.Contains(anyOf, acr) })
		if len(both) == 0 {
			rt.err = fmt.Errorf("RequireACR: no sign-in has one of %q and one of %q", rt.acr, anyOf)
			return
		}
		rt.acr = both
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
		if time.Since(h.AuthTime)-s.b.cfg.ClockSkew > *d { // check:max-auth-age
			p.MaxAge, lacks = d, true
		}
	}
	if rt.acr != nil {
		if !slices.Contains(rt.acr, h.ACR) { // check:require-acr
			p.ACRValues, lacks = strings.Join(rt.acr, " "), true
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
