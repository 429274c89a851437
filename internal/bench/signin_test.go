package bench

import (
	"context"
	"net/http"
	"testing"

	"github.com/agglestone/bff/bfftest"
	"github.com/agglestone/bff/store/memstore"
	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// A handRolled relying party is what its parts alone make: x/oauth2 and
// go-oidc with state, nonce and PKCE in cookies, and nothing of what comes
// when something goes wrong.
type handRolled struct {
	config   oauth2.Config
	verifier *oidc.IDTokenVerifier
	ctx      context.Context // carries the client to the issuer
	done     func(w http.ResponseWriter, subject string, tok *oauth2.Token)
}

func newHandRolled(b *testing.B, iss *bfftest.Issuer) *handRolled {
	b.Helper()
	ctx := oidc.ClientContext(context.Background(), iss.Client())
	p, err := oidc.NewProvider(ctx, iss.URL())
	if err != nil {
		b.Fatal(err)
	}
	endpoint := p.Endpoint()
	endpoint.AuthStyle = oauth2.AuthStyleInParams
	return &handRolled{
		config: oauth2.Config{
			ClientID: iss.ClientID(), Endpoint: endpoint, RedirectURL: appURL + "/auth/callback",
			Scopes: []string{"openid", "profile", "email"},
		},
		verifier: p.Verifier(&oidc.Config{ClientID: iss.ClientID()}),
		ctx:      ctx,
		done:     func(http.ResponseWriter, string, *oauth2.Token) {},
	}
}

func (h *handRolled) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/login":
		state, nonce, verifier := random(), random(), oauth2.GenerateVerifier()
		for name, value := range map[string]string{"state": state, "nonce": nonce, "verifier": verifier} {
			http.SetCookie(w, &http.Cookie{Name: name, Value: value, Path: "/", MaxAge: 600, HttpOnly: true, Secure: true, SameSite: http.SameSiteLaxMode})
		}
		http.Redirect(w, r, h.config.AuthCodeURL(state, oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier)), http.StatusFound)
	case "/auth/callback":
		if status := h.callback(w, r); status != 0 {
			http.Error(w, http.StatusText(status), status)
			return
		}
		http.Redirect(w, r, "/", http.StatusSeeOther)
	default:
		http.NotFound(w, r)
	}
}

func (h *handRolled) callback(w http.ResponseWriter, r *http.Request) (status int) {
	cookie := func(name string) string {
		c, err := r.Cookie(name)
		if err != nil {
			return ""
		}
		return c.Value
	}
	if s := cookie("state"); s == "" || r.FormValue("state") != s {
		return http.StatusBadRequest
	}
	tok, err := h.config.Exchange(h.ctx, r.FormValue("code"), oauth2.VerifierOption(cookie("verifier")))
	if err != nil {
		return http.StatusBadGateway
	}
	raw, _ := tok.Extra("id_token").(string)
	id, err := h.verifier.Verify(h.ctx, raw)
	if err != nil || id.Nonce != cookie("nonce") {
		return http.StatusBadRequest
	}
	var claims struct{ Email string }
	if id.Claims(&claims) != nil {
		return http.StatusBadRequest
	}
	h.done(w, id.Subject, tok)
	return 0
}

// memberOf returns what a hand-rolled sign-in leaves for scs to keep.
func memberOf(b *testing.B, size int) (u member) {
	b.Helper()
	iss := newIssuer(size)
	h := newHandRolled(b, iss)
	h.done = func(_ http.ResponseWriter, subject string, tok *oauth2.Token) {
		id, _ := tok.Extra("id_token").(string)
		u = member{subject, "alice@example.com", []string{"Admin", "Users"}, tok.AccessToken, tok.RefreshToken, id, tok.Expiry}
	}
	signIn(b, h, iss)
	return u
}

func signIn(b *testing.B, app http.Handler, iss *bfftest.Issuer) *bfftest.Browser {
	b.Helper()
	br := bfftest.NewBrowser(app, appURL, iss)
	if r := br.SignIn("alice"); r.Err != nil {
		b.Fatal(r.Err)
	}
	return br
}

// BenchmarkSignIn is a whole sign-in: the application's redirect, the issuer's
// page and its form, the callback with token request and ID token, and the
// page that it leads to. The issuer and the browser take part in both.
func BenchmarkSignIn(b *testing.B) {
	measure := func(b *testing.B, app http.Handler, iss *bfftest.Issuer) {
		b.ReportAllocs()
		before := cpuTime(b)
		for b.Loop() {
			signIn(b, app, iss)
		}
		b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
	}
	b.Run("oauth2", func(b *testing.B) {
		iss := newIssuer(1 << 10)
		measure(b, newHandRolled(b, iss), iss)
	})
	b.Run("bff", func(b *testing.B) {
		iss := newIssuer(1 << 10)
		measure(b, newBFF(b, iss, memstore.New(memstore.Options{})).Routes(http.NotFoundHandler()), iss)
	})
}
