package bfftest

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"

	"github.com/agglestone/bff"
)

// NewContext returns a copy of ctx in which u is signed in, for a handler that
// is tested by itself:
//
//	r := httptest.NewRequest("GET", "/dashboard", nil)
//	r = r.WithContext(bfftest.NewContext(r.Context(), bfftest.User{Name: "alice", Groups: []string{"Admin"}}))
//	dashboard(httptest.NewRecorder(), r)
//
// The handler finds with [bff.SessionFromContext] what it would find had u
// signed in at an issuer with the zero Options: the same subject and claims,
// and an access token. [User].Values are what Config.OnLogin would have set.
//
// The session opens nothing. It belongs to a relying party of its own, which
// ends with it, so that Protect and Proxy of any other take a request with this
// context for a request of nobody, and Client refuses it: they look for a
// cookie, as ever. For tests that go through them there is [SignIn].
//
// NewContext panics if u can't sign in, because a claim can't be marshalled.
func NewContext(ctx context.Context, u User) context.Context {
	const app = "https://app.example.com"
	u.Name = cmp.Or(u.Name, u.ID, "user")
	u.Password, u.Disabled = "", false
	iss := NewIssuer(Options{Users: []User{u}})
	auth, err := bff.New(ctx, bff.Config{
		Issuer:      iss.URL(),
		ClientID:    iss.ClientID(),
		RedirectURL: app + "/auth/callback",
		Keys:        []bff.Key{bff.NewKey()},
		HTTPClient:  iss.Client(),
		Logger:      slog.New(slog.DiscardHandler),
		OnLogin: func(_ context.Context, l *bff.Login) error {
			for name, value := range u.Values {
				l.Set(name, value)
			}
			return nil
		},
	})
	if err != nil {
		panic("bfftest: " + err.Error()) // it is right as it stands
	}
	c := signedIn{Context: ctx}
	page := auth.ProtectFunc(func(_ http.ResponseWriter, r *http.Request) { c.session = r.Context() })
	if r := NewBrowser(auth.Routes(page), app, iss).SignIn(u.Name); r.Err != nil || c.session == nil {
		panic("bfftest: NewContext: " + r.String())
	}
	return c
}

// signedIn is a context with the session of another one, and nothing else of
// it. So package bff needs no door for tests: it made the session itself, for a
// request with a cookie.
type signedIn struct {
	context.Context
	session context.Context
}

func (c signedIn) Value(key any) any {
	if s, ok := c.session.Value(key).(*bff.Session); ok {
		return s
	}
	return c.Context.Value(key)
}
