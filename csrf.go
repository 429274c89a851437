package bff

import (
	"bytes"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/agglestone/bff/internal/seal"
)

// maxForm bounds the form that is read for its csrf_token.
const maxForm = 64 << 10

// A proofRule says which evidence a route takes for a request's origin.
type proofRule struct {
	navigate bool // a navigation within the site proves as much as a fetch
	typed    bool // a GET that the user typed or bookmarked is admitted
	form     bool // csrf_token may be a form field
}

// proves reports whether r proves that it comes from our own origin. Evidence
// is judged in this order, and the first that is present decides: a foreign
// Origin refuses; Sec-Fetch-Site passes only as same-origin; else our Origin
// passes; only a request with neither may prove itself by a header that no
// foreign page can set, or by the session's CSRF token. A zero id has none.
//
// These are not the rules of http.CrossOriginProtection, which passes every
// GET, requests without evidence, and an Origin that equals the Host header.
func (b *BFF) proves(r *http.Request, id *seal.ID, rule proofRule) bool {
	origins := r.Header["Origin"]
	if len(origins) > 1 { // check:origin-twice
		return false
	}
	origin := ""
	if len(origins) == 1 {
		origin = origins[0]
	}
	if origin != "" && origin != "null" && origin != b.origin { // check:origin-foreign
		return false
	}
	if site := r.Header["Sec-Fetch-Site"]; len(site) > 0 {
		if r.Header.Get("Sec-Fetch-Mode") == "navigate" && !rule.navigate { // check:navigate-no-proof
			return rule.typed && isRead(r.Method) && len(site) == 1 && (site[0] == "same-origin" || site[0] == "none")
		}
		if len(site) != 1 || site[0] != "same-origin" { // check:fetch-site
			return false
		}
		return true
	}
	if origin == "null" { // check:origin-null
		return false
	}
	return origin != "" || r.Header.Get("X-Csrf") == "1" || b.tokenProves(r, id, rule)
}

// tokenProves reports whether r carries the session's CSRF token.
func (b *BFF) tokenProves(r *http.Request, id *seal.ID, rule proofRule) bool {
	if *id == (seal.ID{}) {
		return false
	}
	if token := r.Header.Get("X-Csrf-Token"); token != "" {
		return id.ValidCSRFToken(token)
	}
	if !rule.form || isSafe(r.Method) || r.ContentLength <= 0 {
		return false
	}
	if r.ContentLength > maxForm { // check:form-size
		return false
	}
	// Not multipart: an upload is not read before anybody is authenticated.
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/x-www-form-urlencoded" { // check:form-type
		return false
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxForm))
	if err != nil {
		return false
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	err = r.ParseForm() // the handler finds it in r.PostForm
	r.Body = io.NopCloser(bytes.NewReader(body))
	if err != nil {
		return false
	}
	tokens := r.PostForm["csrf_token"]
	return len(tokens) == 1 && id.ValidCSRFToken(tokens[0])
}

// passes reports whether r, which carries a valid session cookie, may go on.
func (b *BFF) passes(r *http.Request, id *seal.ID, rule proofRule) bool {
	if !b.proves(r, id, rule) { // check:csrf
		return false
	}
	if b.cfg.RequireCSRFToken && !isSafe(r.Method) && !b.tokenProves(r, id, rule) { // check:csrf-token
		return false
	}
	return true
}

// isOurs reports whether r has our Origin and no other: the one proof that a
// browser gives for a WebSocket, in which it sends no Fetch Metadata.
func (b *BFF) isOurs(r *http.Request) bool {
	return len(r.Header["Origin"]) == 1 && r.Header["Origin"][0] == b.origin
}

// asksForSocket reports whether r may be taken for a WebSocket handshake by
// somebody. It is a GET, but one that any page can make with our cookie, and
// then it reads what comes.
func asksForSocket(r *http.Request) bool {
	for _, v := range r.Header["Upgrade"] {
		if strings.Contains(strings.ToLower(v), "websocket") {
			return true
		}
	}
	return false
}

// isSafe reports whether method is safe (RFC 9110, section 9.2.1).
func isSafe(method string) bool {
	return isRead(method) || method == http.MethodOptions || method == http.MethodTrace
}

func isRead(method string) bool { return method == http.MethodGet || method == http.MethodHead }
