package e2e

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// A secret is something that the browser must never hold, in all the ways in
// which it could be written down.
type secret struct {
	kind  string // access, refresh, id, code
	forms []string
}

func newSecret(kind, value string) secret {
	s := secret{kind: kind, forms: []string{
		value,
		url.QueryEscape(value),
		url.PathEscape(value),
		hex.EncodeToString([]byte(value)),
	}}
	// In base64 a value looks in three ways, by its place in what was encoded.
	// The characters at either end that depend on the neighbours are cut off.
	for shift := range 3 {
		in := strings.Repeat("x", shift) + value
		std := base64.RawStdEncoding.EncodeToString([]byte(in))
		cut := []int{0, 2, 3}[shift]
		std = std[cut : len(std)-1]
		s.forms = append(s.forms, std, strings.NewReplacer("+", "-", "/", "_").Replace(std))
	}
	return s
}

func (s secret) in(text string) bool {
	for _, form := range s.forms {
		if strings.Contains(text, form) {
			return true
		}
	}
	return false
}

// secrets lists what the issuer has issued since it started.
func (v *visit) secrets() []secret {
	var list []secret
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	stats, err := v.issuer.ask(ctx, http.MethodGet, "/stats")
	if err != nil {
		v.t.Error(err)
	}
	for _, i := range stats.Issued {
		list = append(list, newSecret(i.Kind, i.Value))
		if i.Kind == "id" {
			// Parts of it would do for many purposes.
			parts := strings.Split(i.Value, ".")
			list = append(list, newSecret("id", parts[1]), newSecret("id", parts[2]))
		}
	}
	return list
}

// checkLeaks searches everything that this visit left behind.
//
// A token may be in none of it. The one exception is id_token_hint, in the
// redirect that answers the sign-out form and in the issuer's own URL that it
// leads to. A code may be in the issuer's redirect and the callback's URL, where
// the protocol puts it, but in nothing that the app says.
func (v *visit) checkLeaks() {
	v.t.Helper()
	for _, complaint := range v.leaks() {
		v.t.Error(complaint)
	}
}

// leaks is checkLeaks' list of complaints, one for one place.
func (v *visit) leaks() (complaints []string) {
	for _, tb := range v.tabs {
		tb.look("at the end")
	}
	secrets := v.secrets()
	if len(secrets) == 0 {
		return nil // nobody signed in, so nothing can have leaked
	}
	hintURL := v.issuerAt.origin + "/session/end?"
	// withoutHint drops the value of the one parameter that may be there.
	withoutHint := func(text string) string {
		if !strings.HasPrefix(text, hintURL) {
			return text
		}
		base, query, _ := strings.Cut(text, "?")
		values, err := url.ParseQuery(query)
		if err != nil {
			return text
		}
		values.Del("id_token_hint")
		return base + "?" + values.Encode()
	}
	complain := func(kind, where string) {
		line := fmt.Sprintf("the %s is in %s", map[string]string{
			"access": "access token", "refresh": "refresh token", "id": "ID token",
			"code": "authorization code", "cookie": "session cookie's value",
		}[kind], v.blank(where))
		if !slices.Contains(complaints, line) {
			complaints = append(complaints, line)
		}
	}
	// search complains about tokens, and with codes set about codes as well.
	search := func(where, text string, codes bool) {
		for _, s := range secrets {
			if (s.kind != "code" || codes) && s.in(text) {
				complain(s.kind, where)
			}
		}
	}

	var cookies []secret // the values of session cookies seen in this visit
	exchanges := v.seen.since(v.seenAt)
	for _, e := range exchanges {
		for _, c := range e.respHeader.Values("Set-Cookie") {
			name, value, _ := strings.Cut(c, "=")
			value, _, _ = strings.Cut(value, ";")
			if e.front == "app" && len(value) > 20 && !strings.Contains(name, "-login-") {
				cookies = append(cookies, newSecret("cookie", value))
			}
		}
	}
	noCookie := func(where, text string) {
		for _, c := range cookies {
			if c.in(text) {
				complain("cookie", where)
			}
		}
	}

	answers := 0
	for _, e := range exchanges {
		if e.front == "backchannel" {
			continue // between servers: this is where tokens belong
		}
		app := e.front == "app"
		if app {
			answers++
		}
		search("the URL of "+e.String(), withoutHint(e.url), false)
		search("the body sent with "+e.String(), e.reqBody, false)
		for name, values := range e.reqHeader {
			for _, value := range values {
				if name == "Referer" && e.front == "issuer" {
					value = withoutHint(value) // from the issuer's page to itself
				}
				search("request header "+name+" of "+e.String(), value, false)
				if name != "Cookie" {
					noCookie("request header "+name+" of "+e.String(), value)
				}
			}
		}
		for name, values := range e.respHeader {
			for _, value := range values {
				if name == "Location" && app && e.method == "POST" && e.status == 303 {
					value = withoutHint(value)
				}
				search("header "+name+" of "+e.String(), value, app)
				if name != "Set-Cookie" {
					noCookie("header "+name+" of "+e.String(), value)
				}
			}
		}
		search("the body of "+e.String(), e.respBody, app)
		noCookie("the body of "+e.String(), e.respBody)
	}
	if len(v.gateways) > 0 && answers == 0 {
		complaints = append(complaints, "the fronts saw no answer of the app: this search is looking in the wrong place")
	}

	v.mu.Lock()
	received, surfaces := v.received, v.surfaces
	v.mu.Unlock()
	if len(received) == 0 {
		complaints = append(complaints, "Chromium reported no network events: this search is looking in the wrong place")
	}
	for _, i := range append(received, surfaces...) {
		text := i.text
		// The same exception, seen from the browser: the redirect, the issuer's
		// URL, and that URL as the referrer of the issuer's own page.
		switch {
		case strings.HasPrefix(i.where, "Chromium: request URL"),
			strings.HasPrefix(i.where, "Chromium: document URL"),
			strings.HasPrefix(strings.ToLower(i.where), "chromium: header location"), // whose, the fronts know better
			strings.HasPrefix(i.where, "page "+v.issuerAt.origin+"/session/end"):
			text = withoutHint(text)
			if strings.HasPrefix(i.where, "page ") && strings.HasSuffix(i.where, ": entries") {
				text = "" // the page's own URL again, in a list
			}
		}
		search(i.where, text, false)
		if !strings.HasPrefix(strings.ToLower(i.where), "chromium: header set-cookie") {
			noCookie(i.where, text)
		}
	}

	for _, c := range v.upstream.since(v.callsAt) {
		if got := c.header.Get("Cookie"); got != "" {
			complaints = append(complaints, fmt.Sprintf("%s %s reached the upstream with a Cookie header", c.method, c.path))
		}
		for name, values := range c.header {
			for _, value := range values {
				noCookie("upstream request header "+name, value)
				if name != "Authorization" {
					search("upstream request header "+name, value, true)
				}
			}
		}
	}
	for i, at := range v.logAt {
		log := v.gateways[i].log.String()[at:]
		search("the gateway's log", log, true)
		noCookie("the gateway's log", log)
	}
	return complaints
}
