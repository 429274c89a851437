package bfftest

import (
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const pageStyle = `
:root{color-scheme:light dark;--bg:#f1f4f9;--card:#fff;--ink:#182230;--dim:#5b6778;--line:#d9dfe9;--hover:#eef4ff;--blue:#1d4ed8;--red:#b42318}
@media(prefers-color-scheme:dark){:root{--bg:#0d131d;--card:#161e2b;--ink:#e7ecf4;--dim:#98a4b7;--line:#2b3648;--hover:#1d2b45;--blue:#82aaff;--red:#ff9b90}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:grid;place-items:center;padding:1.5rem;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{width:100%;max-width:25rem;background:var(--card);border:1px solid var(--line);border-radius:1rem;padding:2rem;box-shadow:0 12px 32px rgb(10 20 40/.09)}
h1{font-size:1.35rem;line-height:1.3;margin:0}
p{margin:.35rem 0 1.25rem;color:var(--dim);overflow-wrap:anywhere}
p.error{color:var(--red)}
button{display:flex;align-items:center;gap:.85rem;width:100%;margin:.5rem 0;padding:.7rem .9rem;border:1px solid var(--line);border-radius:.7rem;background:none;color:inherit;font:inherit;text-align:left;cursor:pointer}
button:hover{background:var(--hover);border-color:var(--blue)}
button:focus-visible,input:focus-visible{outline:2px solid var(--blue);outline-offset:2px}
.face{flex:none;width:2.3rem;height:2.3rem;border-radius:50%;display:grid;place-items:center;background:var(--blue);color:var(--card);font-weight:600}
.who{min-width:0}.who b,.who small{display:block;overflow:hidden;text-overflow:ellipsis}.who small{color:var(--dim)}
label{display:block;margin:.75rem 0;font-size:.9rem;color:var(--dim)}
input{display:block;width:100%;margin-top:.25rem;padding:.6rem .75rem;border:1px solid var(--line);border-radius:.6rem;background:none;color:var(--ink);font:inherit}
.main{justify-content:center;background:var(--blue);color:var(--card);border-color:var(--blue);font-weight:600}
.main:hover{background:var(--blue);filter:brightness(1.1)}
.quiet{justify-content:center;border:0;color:var(--dim)}
fieldset{border:0;border-top:1px solid var(--line);margin:1.25rem 0 0;padding:.5rem 0 0}
footer{margin-top:1.25rem;font-size:.8rem;color:var(--dim);text-align:center}
`

var pageTemplate = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">
<title>{{.Title}}</title><style>` + pageStyle + `</style></head>
<body><main>
<h1>{{.Title}}</h1>
<p>{{.Text}}</p>
{{with .Error}}<p class="error" role="alert">{{.}}</p>{{end}}
{{if .Action}}<form method="post" action="{{.Action}}">
{{range $i, $u := .Users}}<button name="user" value="{{.Name}}"{{if eq $i 0}} autofocus{{end}}><span class="face" aria-hidden="true">{{.Initial}}</span><span class="who"><b>{{.DisplayName}}</b><small>{{.Email}}{{with .Group}} &middot; {{.}}{{end}}</small></span></button>
{{end}}{{if not .Password}}<button class="quiet" name="action" value="cancel">Cancel</button>
{{end}}</form>{{end}}
{{if .Password}}<form method="post" action="{{.Action}}"><fieldset>
<label>User name<input name="username" value="{{.Hint}}" autocomplete="username" required></label>
<label>Password<input name="password" type="password" autocomplete="current-password" required></label>
<button class="main">Sign in</button>
<button class="quiet" name="action" value="cancel" formnovalidate>Cancel</button>
</fieldset></form>{{end}}
<footer>A test issuer. Nothing typed here is kept.</footer>
</main></body></html>
`))

var pagePolicy = func() string {
	sum := sha256.Sum256([]byte(pageStyle))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; frame-ancestors 'none'"
}()

type pageData struct {
	Title, Text, Error string
	Action             string
	Users              []pageUser
	Password           bool
	Hint               string
}

type pageUser struct {
	Name, DisplayName, Email, Initial, Group string
}

func (x *exchange) page(status int, p pageData, formAction string) {
	var text strings.Builder
	if err := pageTemplate.Execute(&text, p); err != nil {
		panic(err) // the template takes any page
	}
	x.header.Set("Content-Type", "text/html; charset=utf-8")
	x.header.Set("Content-Security-Policy", pagePolicy+formAction)
	x.header.Set("Referrer-Policy", "same-origin")
	x.status = status
	x.body.Reset()
	x.body.WriteString(text.String())
}

// signInPage asks who the user is.
func (iss *Issuer) signInPage(x *exchange, a *authorization, problem string) {
	redirect, err := url.Parse(a.redirectURI)
	if err != nil {
		panic(err) // it was checked
	}
	p := pageData{
		Title:  "Who is signing in?",
		Text:   "Choose a user to continue to " + redirect.Host + ". No password is needed.",
		Error:  problem,
		Action: x.URL.Path + "?" + x.URL.RawQuery,
		Hint:   a.loginHint,
	}
	status := http.StatusOK
	if problem != "" {
		status = http.StatusUnauthorized
	}
	iss.mu.Lock()
	for _, u := range iss.users {
		switch {
		case u.Disabled:
		case u.Password != "":
			p.Password = true
		default:
			first, _ := utf8.DecodeRuneInString(u.DisplayName)
			pu := pageUser{Name: u.Name, DisplayName: u.DisplayName, Email: u.Email, Initial: string(unicode.ToUpper(first))}
			if slices.Contains(u.Groups, "Admin") {
				pu.Group = "Admin"
			}
			if a.loginHint != "" && u.is(a.loginHint) {
				p.Users = slices.Insert(p.Users, 0, pu) // the first has the focus
			} else {
				p.Users = append(p.Users, pu)
			}
		}
	}
	iss.mu.Unlock()
	if p.Password {
		p.Text = "Continue to " + redirect.Host + " as:"
	}
	// The answer to the form leads to the application, and browsers apply
	// form-action to redirects too. It has no way to write an IPv6 address.
	policy := ""
	if !strings.Contains(redirect.Host, "[") {
		policy = "; form-action 'self' " + redirect.Scheme + "://" + redirect.Host
	}
	x.page(status, p, policy)
}

// refusal says that nobody can be signed in.
func (iss *Issuer) refusal(x *exchange, title, text string) {
	x.page(http.StatusBadRequest, pageData{Title: title, Text: text}, "; form-action 'none'")
}
