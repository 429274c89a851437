package main

import (
	"context"
	"html/template"
	"net/http"

	"github.com/agglestone/bff"
	"github.com/alexedwards/scs/v2"
	"github.com/alexedwards/scs/v2/memstore"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
)

type shop struct {
	sessions *scs.SessionManager // the shop's own: a cart needs no account
	auth     *bff.BFF            // new
}

func newShop(ctx context.Context, cfg bff.Config) (*shop, error) {
	s := &shop{sessions: scs.New()}
	s.sessions.Store = memstore.NewWithCleanupInterval(0) // yours is a database
	s.sessions.Cookie.Name = "shop"

	var err error
	s.auth, err = bff.New(ctx, cfg) // new
	return s, err
}

// routes returns the shop. New are auth.Routes around all of it, auth.Middleware
// where it matters who it is, and owner.
func (s *shop) routes(apiURL string) http.Handler {
	r := chi.NewRouter()
	r.Use(middleware.RequestID, middleware.Recoverer, middleware.Compress(5), s.sessions.LoadAndSave)
	r.Get("/auth/terms", terms) // below /auth, where some routes of bff are: it stays the shop's

	r.Group(func(r chi.Router) { // for everybody, signed in or not
		r.Use(s.auth.Middleware(bff.Optional()), s.owner)
		r.Get("/", s.home)
		r.Post("/cart", s.add)
	})
	r.Group(func(r chi.Router) { // for customers
		r.Use(s.auth.Middleware(), s.owner)
		r.Get("/checkout", s.checkout)
		r.Post("/checkout", s.buy)
	})
	r.With(s.auth.Middleware(bff.RequireGroup("Admin"))).Get("/admin", admin)
	r.Handle("/api/*", s.auth.Proxy(bff.Upstream{URL: apiURL, StripPrefix: "/api"}))

	return s.auth.Routes(r) // outermost: the router never sees /login, /logout and the callback
}

// owner sees to it that a cart belongs to one person. Who had one before the
// sign-in keeps it. But the shop's session outlives a sign-out, and then
// somebody else may sit down at the same browser.
func (s *shop) owner(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		user, _ := bff.SessionFromContext(ctx) // nil for nobody, whose subject is ""
		was, is := s.sessions.GetString(ctx, "owner"), user.Subject()
		if was != is {
			change := s.sessions.RenewToken // against fixation, as with any change of rights
			if was != "" {
				change = s.sessions.Destroy
			}
			if err := change(ctx); err != nil {
				http.Error(w, "the cart can't be read", http.StatusServiceUnavailable)
				return
			}
			s.sessions.Put(ctx, "owner", is)
		}
		next.ServeHTTP(w, r)
	})
}

func (s *shop) cart(ctx context.Context) []string {
	cart, _ := s.sessions.Get(ctx, "cart").([]string)
	return cart
}

func (s *shop) add(w http.ResponseWriter, r *http.Request) {
	item := r.PostFormValue("item")
	cart := s.cart(r.Context())
	if item == "" || len(item) > 64 || len(cart) >= 20 {
		http.Error(w, "one item, please, of 20 at most", http.StatusBadRequest)
		return
	}
	s.sessions.Put(r.Context(), "cart", append(cart, item))
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (s *shop) buy(w http.ResponseWriter, r *http.Request) {
	s.sessions.Remove(r.Context(), "cart")
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (s *shop) home(w http.ResponseWriter, r *http.Request)     { s.page(w, r, "home") }
func (s *shop) checkout(w http.ResponseWriter, r *http.Request) { s.page(w, r, "checkout") }

// page draws a page for whoever it is.
func (s *shop) page(w http.ResponseWriter, r *http.Request, name string) {
	user, signedIn := bff.SessionFromContext(r.Context())
	var claims struct{ Name string }
	if signedIn {
		if err := user.Claims(&claims); err != nil {
			http.Error(w, "the claims can't be read", http.StatusInternalServerError)
			return
		}
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	pages.ExecuteTemplate(w, name, map[string]any{
		"SignedIn": signedIn, "Name": claims.Name, "CSRF": user.CSRFToken(), "Cart": s.cart(r.Context()),
	})
}

// The hidden field is for browsers that don't say where a request comes from.
// Signing in is a link to any page that wants it.
var pages = template.Must(template.New("").Parse(`
{{define "home"}}<!doctype html><meta charset="utf-8"><title>Shop</title>
<h1>Shop</h1>
{{if .SignedIn}}<p>Hello {{.Name}}.</p><form method="post" action="/logout">{{template "csrf" .}}<button>Sign out</button></form>
{{else}}<p><a href="/login?returnUrl=/">Sign in</a></p>{{end}}
<ul>{{range .Cart}}<li>{{.}}</li>{{else}}<li>Your cart is empty.</li>{{end}}</ul>
<form method="post" action="/cart">{{template "csrf" .}}<input name="item" placeholder="Tea"> <button>Into the cart</button></form>
<p><a href="/checkout">Check out</a> &middot; <a href="/admin">Admin</a> &middot; <a href="/auth/terms">Terms</a></p>{{end}}

{{define "checkout"}}<!doctype html><meta charset="utf-8"><title>Check out</title>
<h1>{{.Name}}, you are buying</h1>
<ul>{{range .Cart}}<li>{{.}}</li>{{else}}<li>nothing</li>{{end}}</ul>
<form method="post" action="/checkout">{{template "csrf" .}}<button>Buy</button></form>{{end}}

{{define "csrf"}}{{with .CSRF}}<input type="hidden" name="csrf_token" value="{{.}}">{{end}}{{end}}
`))

func admin(w http.ResponseWriter, r *http.Request) { w.Write([]byte("for administrators\n")) }
func terms(w http.ResponseWriter, r *http.Request) { w.Write([]byte("the shop's terms\n")) }
