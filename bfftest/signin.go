package bfftest

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
)

// A SignInOption changes what [SignIn] does.
type SignInOption func(*signIn)

type signIn struct{ path string }

// LoginPath has SignIn start at this path of the application, which may have a
// query, instead of /login.
func LoginPath(path string) SignInOption { return func(s *signIn) { s.path = path } }

// SignIn signs a user of the issuer in to the application at appURL, in a new
// browser, and returns [Browser.Client]. See [NewBrowser] for where app and the
// issuer are served. If the sign-in fails the test does.
func SignIn(t TB, iss *Issuer, app http.Handler, appURL, user string, opts ...SignInOption) *http.Client {
	t.Helper()
	b := NewBrowser(app, appURL, iss)
	if r := b.SignIn(user, opts...); r.Err != nil {
		t.Fatalf("%v", r.Err)
	}
	return b.Client()
}

// SignIn signs a user in: from /login of the application through the issuer's
// page, if it shows one, to where the application leads afterwards. If that
// fails, Err of the response says at which step, also when there was an answer.
func (b *Browser) SignIn(user string, opts ...SignInOption) *Response {
	s := signIn{path: "/login"}
	for _, o := range opts {
		o(&s)
	}
	r := b.Navigate(s.path)
	hops := r.Hops
	if r.Err == nil && b.isIssuer(r.URL) && r.Status == http.StatusOK {
		r = b.Choose(user)
		hops = append(hops, r.Hops...)
		r.Hops = hops
	}
	if why := b.unfinished(r, hops, user); why != "" {
		r.Err = errors.New("bfftest: signing in " + user + ": " + why)
	}
	return r
}

// Choose picks a user on the issuer's sign-in page, which must be the present
// page.
func (b *Browser) Choose(user string) *Response {
	fields := url.Values{"user": {user}}
	if u, ok := b.iss.User(user); ok {
		fields.Set("user", u.Name)
		if u.Password != "" {
			fields = url.Values{"username": {u.Name}, "password": {u.Password}}
		}
	}
	return b.Submit(fields)
}

func (b *Browser) isIssuer(u *url.URL) bool {
	return strings.HasPrefix(u.String(), b.iss.BaseURL()+"/")
}

// unfinished says what kept a sign-in from its end, or "".
func (b *Browser) unfinished(r *Response, hops []Hop, user string) string {
	if r.Err != nil {
		return r.Err.Error()
	}
	last := -1
	for i, h := range hops {
		if b.isIssuer(h.URL) {
			last = i
		}
	}
	if last < 0 {
		return "the application didn't lead to the issuer: " + r.String()
	}
	if b.isIssuer(r.URL) {
		if _, ok := b.iss.User(user); !ok {
			return "the issuer has no such user: " + r.String()
		}
		return "the issuer didn't lead back: " + r.String()
	}
	// The callback answers with a redirect to wherever the user wanted to go.
	for _, h := range hops[last+1:] {
		if h.Status >= 300 && h.Status < 400 {
			return ""
		}
	}
	text := "the callback failed: " + r.String()
	for _, h := range hops {
		for _, refused := range h.Refused {
			text += "; the browser refused the cookie " + refused
		}
	}
	return text
}
