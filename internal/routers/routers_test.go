package routers

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	"github.com/gorilla/mux"
	"github.com/labstack/echo/v5"
)

const origin = "https://app.example.com"

// hello is what the pages of all routers answer.
func hello(w http.ResponseWriter, r *http.Request) {
	s, ok := bff.SessionFromContext(r.Context())
	fmt.Fprintf(w, "%t %s", ok, strings.Join(s.Groups(), " "))
}

// The function of README.md.
func protect(auth *bff.BFF, opts ...bff.Option) gin.HandlerFunc {
	return func(c *gin.Context) {
		passed := false
		auth.Protect(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			passed, c.Request = true, r
		}), opts...).ServeHTTP(c.Writer, c.Request)
		if !passed {
			c.Abort()
		}
	}
}

// Each router has /page for everybody who is signed in, /admin for a group, an
// API below /api/, and a route of its own below /auth.
var routers = map[string]func(*bff.BFF, bff.Upstream) http.Handler{
	"ServeMux": func(auth *bff.BFF, api bff.Upstream) http.Handler {
		r := http.NewServeMux()
		r.Handle("GET /page", auth.ProtectFunc(hello))
		r.Handle("GET /admin", auth.ProtectFunc(hello, bff.RequireGroup("Admin")))
		r.Handle("/api/", auth.Proxy(api))
		r.HandleFunc("/auth/own", own)
		return auth.Routes(r)
	},
	"ServeMux-mounted": func(auth *bff.BFF, api bff.Upstream) http.Handler {
		r := http.NewServeMux()
		for _, p := range auth.Patterns() {
			r.Handle(p, auth.Routes(nil))
		}
		r.Handle("GET /page", auth.ProtectFunc(hello))
		r.Handle("GET /admin", auth.ProtectFunc(hello, bff.RequireGroup("Admin")))
		r.Handle("/api/", auth.Proxy(api))
		r.HandleFunc("/auth/", own)
		return r
	},
	"chi": func(auth *bff.BFF, api bff.Upstream) http.Handler {
		r := chi.NewRouter()
		r.Use(auth.Routes)
		r.With(auth.Middleware()).Get("/page", hello)
		r.Group(func(r chi.Router) {
			r.Use(auth.Middleware(bff.RequireGroup("Admin")))
			r.Get("/admin", hello)
		})
		r.Handle("/api/*", auth.Proxy(api))
		r.Get("/auth/own", own)
		return r
	},
	"gorilla": func(auth *bff.BFF, api bff.Upstream) http.Handler {
		r := mux.NewRouter()
		r.Handle("/page", auth.ProtectFunc(hello))
		admin := r.PathPrefix("/admin").Subrouter()
		admin.Use(auth.Middleware(bff.RequireGroup("Admin")))
		admin.HandleFunc("", hello)
		r.PathPrefix("/api/").Handler(auth.Proxy(api))
		r.HandleFunc("/auth/own", own)
		return auth.Routes(r)
	},
	"echo": func(auth *bff.BFF, api bff.Upstream) http.Handler {
		e := echo.New()
		e.GET("/page", echo.WrapHandler(http.HandlerFunc(hello)), echo.WrapMiddleware(auth.Middleware()))
		e.GET("/admin", func(c *echo.Context) error {
			hello(c.Response(), c.Request())
			return nil
		}, echo.WrapMiddleware(auth.Middleware(bff.RequireGroup("Admin"))))
		e.Any("/api/*", echo.WrapHandler(auth.Proxy(api)))
		e.GET("/auth/own", echo.WrapHandler(http.HandlerFunc(own)))
		return auth.Routes(e)
	},
	"gin": func(auth *bff.BFF, api bff.Upstream) http.Handler {
		gin.SetMode(gin.ReleaseMode)
		r := gin.New()
		r.GET("/page", protect(auth), func(c *gin.Context) { hello(c.Writer, c.Request) })
		admin := r.Group("/admin", protect(auth, bff.RequireGroup("Admin")))
		admin.GET("", func(c *gin.Context) { hello(c.Writer, c.Request) })
		r.Any("/api/*path", gin.WrapH(auth.Proxy(api)))
		r.GET("/auth/own", gin.WrapF(own))
		return auth.Routes(r)
	},
}

func own(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "the application's own") }

func TestRouters(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %.7s%d", r.Method, r.RequestURI, r.Header.Get("Authorization"), len(r.Cookies()))
	}))
	defer api.Close()
	for name, build := range routers {
		t.Run(name, func(t *testing.T) {
			iss := bfftest.NewIssuer(bfftest.Options{})
			auth, err := bff.New(t.Context(), bff.Config{
				Issuer: iss.URL(), ClientID: iss.ClientID(), HTTPClient: iss.Client(), Logger: slog.New(slog.DiscardHandler),
				RedirectURL: origin + "/auth/callback", Keys: []bff.Key{bff.NewKey()},
			})
			if err != nil {
				t.Fatal(err)
			}
			b := bfftest.NewBrowser(build(auth, bff.Upstream{URL: api.URL + "/v1", StripPrefix: "/api"}), origin, iss)
			ask := func(method, path string, status int, text string) {
				t.Helper()
				if r := b.Fetch(method, path, nil, nil); r.Status != status || !strings.Contains(string(r.Body), text) {
					t.Errorf("%s %s = %v, want %d and %q", method, path, r, status, text)
				}
			}
			ask("GET", "/page", 401, "no_session")
			ask("GET", "/admin", 401, "no_session")
			ask("GET", "/api/x", 401, "no_session")
			ask("GET", "/auth/own", 200, "the application's own")
			b.Navigate("/page")
			if r := b.Choose("bob"); r.Status != 200 || r.URL.String() != origin+"/page" || string(r.Body) != "true Users" {
				t.Fatalf("signing in at /page = %v", r)
			}
			ask("GET", "/page", 200, "true Users")
			ask("GET", "/admin", 403, "forbidden")
			ask("GET", "/api/a/b?c=d", 200, "GET /v1/a/b?c=d Bearer 0")
			ask("DELETE", "/api/a", 200, "DELETE /v1/a Bearer 0")
			ask("GET", "/auth/session", 200, `"authenticated":true`)
			ask("POST", "/logout", 200, "redirectUrl")
			ask("GET", "/page", 401, "")
			b.ClearCookies()
			if r := b.SignIn("alice", bfftest.LoginPath("/admin")); r.Err != nil || string(r.Body) != "true Admin Users" {
				t.Errorf("alice at /admin = %v", r)
			}
		})
	}
}

// The function that README.md shows is the one above.
func TestREADMEIsTrue(t *testing.T) {
	fields := func(file string) string {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(strings.Fields(string(text)), " ")
	}
	_, block, ok := strings.Cut(fields("../../README.md"), "```go func protect(")
	block, _, ok2 := strings.Cut(block, "```")
	if !ok || !ok2 || !strings.Contains(fields("routers_test.go"), "func protect("+block) {
		t.Errorf("README.md shows another function: func protect(%s", block)
	}
}
