package bfftest

import (
	"net/http"
	"net/url"
	"strings"
	"time"
)

// serveEndSession signs the browser out at the issuer (OpenID Connect
// RP-Initiated Logout 1.0). It never asks back. Grants live on: revoking them
// is the relying party's business.
func (iss *Issuer) serveEndSession(x *exchange) {
	if x.Method != http.MethodGet && x.Method != http.MethodPost {
		x.header.Set("Allow", "GET, POST")
		x.status = http.StatusMethodNotAllowed
		return
	}
	clientID := x.Form.Get("client_id")
	if hint := x.Form.Get("id_token_hint"); hint != "" {
		iss.mu.Lock()
		audience, ok := iss.hints[hint] // good though it has expired, section 2
		iss.mu.Unlock()
		if !ok || clientID != "" && clientID != audience {
			iss.refusal(x, "You could not be signed out", "The id_token_hint is not a token of this issuer for that application.")
			return
		}
		clientID = audience
	}
	iss.edit(x.entry, func(r *Request) { r.ClientID = clientID })
	client, known := iss.clients[clientID]
	to := x.Form.Get("post_logout_redirect_uri")
	// Section 3: without a client, or unregistered, the address isn't used.
	if to != "" && (!known || !allowed(client.PostLogoutURIs, to)) {
		iss.refusal(x, "You could not be signed out", "The post_logout_redirect_uri is not one of those registered.")
		return
	}
	if cookie, err := x.Cookie(ssoCookie); err == nil {
		iss.mu.Lock()
		delete(iss.sessions, cookie.Value)
		secure := strings.HasPrefix(iss.base, "https:")
		iss.mu.Unlock()
		http.SetCookie(x, &http.Cookie{
			Name: ssoCookie, Path: iss.tenant + "/", MaxAge: -1,
			HttpOnly: true, Secure: secure, SameSite: http.SameSiteLaxMode,
		})
	}
	if to == "" {
		x.page(http.StatusOK, pageData{Title: "Signed out", Text: "You are signed out here."}, "; form-action 'none'")
		return
	}
	if state := x.Form.Get("state"); state != "" {
		sep := "?"
		if strings.Contains(to, "?") {
			sep = "&"
		}
		to += sep + "state=" + url.QueryEscape(state)
	}
	x.header.Set("Location", to)
	x.status = http.StatusSeeOther
}

// LogoutToken returns a token for OpenID Connect Back-Channel Logout 1.0,
// section 2.4, addressed to [Issuer.ClientID] and good for two minutes. It
// names nobody: edit, which may also spoil it, sets the claim sub or sid.
//
//	token := iss.LogoutToken(func(t *bfftest.Token) { t.Claims["sid"] = iss.Grants()[0].SID })
func (iss *Issuer) LogoutToken(edit func(*Token)) string {
	now := time.Now()
	t := iss.newToken("logout+jwt", map[string]any{
		"iss":    iss.URL(),
		"aud":    iss.ClientID(),
		"iat":    now.Unix(),
		"exp":    now.Add(2 * time.Minute).Unix(),
		"jti":    random(),
		"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}},
	})
	if edit != nil {
		edit(t)
	}
	return t.Sign()
}
