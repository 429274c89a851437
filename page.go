package bff

import (
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"net/http"
	"strings"
)

// A page is one of the few small pages of ours. They load nothing.
type page struct {
	Title, Text string
	Action      string // where the button leads
	Button      string
	Post        bool   // the button submits a form
	Token       string // its csrf_token
	Refresh     string // go there at once
	Reason      Reason
	RequestID   string
}

const pageStyle = `:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:28rem;margin:18vh auto;padding:0 1.5rem}` +
	`h1{font-size:1.4rem}a,button{display:inline-block;font:inherit;padding:.5rem 1rem;border:0;border-radius:.4rem;background:#1d4ed8;color:#fff;text-decoration:none;cursor:pointer}` +
	`small{display:block;margin-top:2rem;opacity:.6}`

var pageTemplate = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">
{{with .Refresh}}<meta http-equiv="refresh" content="0;url={{.}}">{{end}}
<title>{{.Title}}</title><style>` + pageStyle + `</style></head>
<body><h1>{{.Title}}</h1>{{with .Text}}<p>{{.}}</p>{{end}}
{{if .Post}}<form method="post" action="{{.Action}}">{{with .Token}}<input type="hidden" name="csrf_token" value="{{.}}">{{end}}<button>{{.Button}}</button></form>{{else if .Action}}<p><a href="{{.Action}}">{{.Button}}</a></p>{{end}}
{{with .Reason}}<small>{{.}}{{with $.RequestID}} &middot; {{.}}{{end}}</small>{{end}}
</body></html>
`))

// pagePolicy allows the style above and nothing else. form-action is left
// open: signing out is a form whose answer leads to the issuer, and browsers
// apply form-action to that redirect too.
var pagePolicy = func() string {
	sum := sha256.Sum256([]byte(pageStyle))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; frame-ancestors 'none'"
}()

// writePage answers with p.
func writePage(w http.ResponseWriter, status int, p page) {
	var text strings.Builder
	if err := pageTemplate.Execute(&text, p); err != nil {
		http.Error(w, p.Title, status) // can't be: the template takes any page
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	w.WriteHeader(status)
	w.Write([]byte(text.String()))
}

// pageTexts says what a person can do about a problem.
var pageTexts = map[Reason]string{
	LoginExpired:      "It was started too long ago. Please try again.",
	LoginReplayed:     "Each sign-in can be used once. Please try again.",
	LoginMismatch:     "It may have been started in another browser, or its cookie was lost. Please try again.",
	LoginDenied:       "The sign-in service reported that it was cancelled or not possible.",
	LoginLoop:         "This browser signed in several times within a minute and came back each time. Likely causes: cookies are blocked for this site, the clock of this computer is wrong, or the site is reached under two names. Please wait a minute and try again.",
	StoreUnavailable:  "Please try again in a moment. Nobody was signed out.",
	IssuerUnavailable: "Please try again in a moment. Nobody was signed out.",
	IssuerError:       "Please try again. If it stays like this, tell the people who run this site.",
	StepUp:            "The sign-in service did not sign you in as recently or as strongly as this page asks for.",
	NoSession:         "Please sign in.",
}

// problemPage draws p for a person, in our own words: none of the issuer's.
func problemPage(p *Problem) page {
	text := p.Detail
	if text == "" {
		text = pageTexts[p.Reason]
	}
	pg := page{Title: p.Title, Text: text, Reason: p.Reason, RequestID: p.RequestID}
	if p.LoginURL != "" {
		pg.Action, pg.Button = p.LoginURL, "Try again"
	}
	return pg
}
