package bff_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
)

// The program of README.md, which serves until it is stopped.
func ExampleNew() {
	ctx := context.Background()
	tenantID, apiURL := os.Getenv("TENANT_ID"), os.Getenv("API_URL")
	admin := http.FileServer(http.Dir("admin"))
	keys, err := bff.ParseKeys(os.Getenv("BFF_KEYS"))
	if err != nil {
		log.Fatal(err)
	}

	auth, err := bff.New(ctx, bff.Config{
		TenantID:    tenantID, // Agglestone; or Issuer and ClientID for any other
		RedirectURL: "https://app.example.com/auth/callback",
		Keys:        keys, // bff.ParseKeys(os.Getenv("BFF_KEYS")); one is: openssl rand -base64 32
	})
	if err != nil {
		log.Fatal(err) // every mistake at once, each with its field and its fix
	}
	mux := http.NewServeMux()
	mux.Handle("GET /dashboard", auth.ProtectFunc(dashboard)) // a page: off to login; a fetch: 401
	mux.Handle("/admin/", auth.Protect(admin, bff.RequireGroup("Admin")))
	mux.Handle("/api/", auth.Proxy(bff.Upstream{URL: apiURL, StripPrefix: "/api"})) // cookie in, bearer out
	http.ListenAndServe(":8080", auth.Routes(mux))                                  // adds /login, /logout, /auth/…
}

func dashboard(w http.ResponseWriter, r *http.Request) {
	s, _ := bff.SessionFromContext(r.Context()) // subject, groups, claims, expiry
	fmt.Fprintf(w, "Hello %s", s.Subject())
}

// An application from end to end, at the issuer of package bfftest instead of
// one of yours.
func Example() {
	iss := bfftest.NewIssuer(bfftest.Options{})
	auth, err := bff.New(context.Background(), bff.Config{
		Issuer:      iss.URL(),
		ClientID:    iss.ClientID(),
		RedirectURL: "https://app.example.com/auth/callback",
		Keys:        []bff.Key{bff.NewKey()}, // yours is the same at each start
		HTTPClient:  iss.Client(),            // which needs no network
		Logger:      slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /hello", auth.ProtectFunc(func(w http.ResponseWriter, r *http.Request) {
		s, _ := bff.SessionFromContext(r.Context())
		var claims struct{ Name string }
		if err := s.Claims(&claims); err != nil {
			http.Error(w, "unreadable claims", http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, "Hello %s, in %v", claims.Name, s.Groups())
	}))
	app := auth.Routes(mux)

	browser := bfftest.NewBrowser(app, "https://app.example.com", iss)
	fmt.Println(browser.Fetch("GET", "/hello", nil, nil).Status)
	browser.SignIn("alice")
	fmt.Println(string(browser.Fetch("GET", "/hello", nil, nil).Body))
	// Output:
	// 401
	// Hello Alice Archer, in [Admin Users]
}

// To mount the routes on a mux rather than around it.
func ExampleBFF_Patterns() {
	auth, err := bff.New(context.Background(), bff.Config{
		TenantID:    "5f2b7c1e-0d4a-4c55-9a63-1f8e2d7b9c04",
		RedirectURL: "https://app.example.com/auth/callback",
		Keys:        []bff.Key{bff.NewKey()},
		Logger:      slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	for _, p := range auth.Patterns() {
		mux.Handle(p, auth.Routes(nil))
	}
	_, pattern := mux.Handler(httptest.NewRequest("GET", "/auth/callback", nil))
	fmt.Println(pattern)
	// Output:
	// GET /auth/callback
}

// The API gets the access token, and the browser's cookies stay here.
func ExampleBFF_Proxy() {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %.7s… %d cookies", r.Method, r.URL, r.Header.Get("Authorization"), len(r.Cookies()))
	}))
	defer api.Close()

	iss := bfftest.NewIssuer(bfftest.Options{})
	auth, err := bff.New(context.Background(), bff.Config{
		Issuer:      iss.URL(),
		ClientID:    iss.ClientID(),
		RedirectURL: "https://app.example.com/auth/callback",
		Keys:        []bff.Key{bff.NewKey()},
		HTTPClient:  iss.Client(),
		Logger:      slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/api/", auth.Proxy(bff.Upstream{URL: api.URL + "/v1", StripPrefix: "/api"}))

	browser := bfftest.NewBrowser(auth.Routes(mux), "https://app.example.com", iss)
	browser.SignIn("alice")
	fmt.Println(string(browser.Fetch("GET", "/api/orders?page=2", nil, nil).Body))
	// Output:
	// GET /v1/orders?page=2 Bearer … 0 cookies
}

// A handler calls an API itself, as the user who is signed in.
func ExampleBFF_Client() {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "3 orders, since there is a %.6s token", r.Header.Get("Authorization"))
	}))
	defer api.Close()

	iss := bfftest.NewIssuer(bfftest.Options{})
	auth, err := bff.New(context.Background(), bff.Config{
		Issuer:      iss.URL(),
		ClientID:    iss.ClientID(),
		RedirectURL: "https://app.example.com/auth/callback",
		Keys:        []bff.Key{bff.NewKey()},
		HTTPClient:  iss.Client(),
		Logger:      slog.New(slog.DiscardHandler),
		Upstreams:   []bff.Upstream{{URL: api.URL}}, // the token goes nowhere else
	})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /orders", auth.ProtectFunc(func(w http.ResponseWriter, r *http.Request) {
		res, err := auth.Client(r.Context()).Get(api.URL + "/orders")
		if err != nil {
			auth.Error(w, r, err) // 401, 502 or 503, with its reason
			return
		}
		defer res.Body.Close()
		io.Copy(w, res.Body)
	}))

	browser := bfftest.NewBrowser(auth.Routes(mux), "https://app.example.com", iss)
	browser.SignIn("alice")
	fmt.Println(string(browser.Fetch("GET", "/orders", nil, nil).Body))
	// Output:
	// 3 orders, since there is a Bearer token
}

// The application has the last word on who may sign in.
func ExampleRefuse() {
	accounts := map[string]string{"alice@example.com": "account-7"}

	iss := bfftest.NewIssuer(bfftest.Options{})
	auth, err := bff.New(context.Background(), bff.Config{
		Issuer:      iss.URL(),
		ClientID:    iss.ClientID(),
		RedirectURL: "https://app.example.com/auth/callback",
		Keys:        []bff.Key{bff.NewKey()},
		HTTPClient:  iss.Client(),
		Logger:      slog.New(slog.DiscardHandler),
		OnLogin: func(ctx context.Context, l *bff.Login) error {
			var claims struct{ Email string }
			if err := l.Claims(&claims); err != nil {
				return err
			}
			account, ok := accounts[claims.Email]
			if !ok {
				return bff.Refuse("You have no account here. Ask your administrator for one.")
			}
			l.Set("account", account) // Session.Value("account") has it
			return nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /account", auth.ProtectFunc(func(w http.ResponseWriter, r *http.Request) {
		s, _ := bff.SessionFromContext(r.Context())
		io.WriteString(w, s.Value("account"))
	}))

	for _, user := range []string{"alice", "bob"} {
		browser := bfftest.NewBrowser(auth.Routes(mux), "https://app.example.com", iss)
		r := browser.SignIn(user, bfftest.LoginPath("/account"))
		fmt.Printf("%s: %d %q\n", user, r.Status, r.Reason())
	}
	// Output:
	// alice: 200 ""
	// bob: 403 "login_refused"
}

// The tests of README.md.

// One handler, without a server: alice is signed in.
func TestDashboard(t *testing.T) {
	r := httptest.NewRequest("GET", "/dashboard", nil)
	r = r.WithContext(bfftest.NewContext(t.Context(), bfftest.User{Name: "alice", Groups: []string{"Admin"}}))
	w := httptest.NewRecorder()
	dashboard(w, r)
	if w.Code != http.StatusOK {
		t.Errorf("GET /dashboard = %d, want 200", w.Code)
	}
}

// The whole application, without a socket: a client that signed in.
func TestApplication(t *testing.T) {
	iss := bfftest.NewIssuer(bfftest.Options{})
	app := newServer(t, bff.Config{
		Issuer: iss.URL(), ClientID: iss.ClientID(), HTTPClient: iss.Client(),
		RedirectURL: "https://app.example.com/auth/callback", Keys: []bff.Key{bff.NewKey()},
	})
	alice := bfftest.SignIn(t, iss, app, "https://app.example.com", "alice")
	iss.Down(true) // an outage signs nobody out
	res, err := alice.Get("https://app.example.com/dashboard")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("GET /dashboard = %s, want 200", res.Status)
	}
}

// newServer is the application's own.
func newServer(t *testing.T, cfg bff.Config) http.Handler {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	auth, err := bff.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /dashboard", auth.ProtectFunc(dashboard))
	return auth.Routes(mux)
}

// Several APIs are a table. What no row declares is not proxied.
func ExampleBFF_Upstreams() {
	const users, admin, hub, assets = "https://users.example.com", "https://admin.example.com", "https://hub.example.com", "https://cdn.example.com"
	auth, err := bff.New(context.Background(), bff.Config{
		Issuer: "https://login.example.com", ClientID: "my-app",
		RedirectURL: "https://app.example.com/auth/callback", Keys: []bff.Key{bff.NewKey()},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	table := auth.Upstreams(
		bff.Upstream{URL: users, StripPrefix: "/api/users", Methods: []string{"GET"}},
		bff.Upstream{URL: admin, StripPrefix: "/api/admin", Groups: []string{"Admin"}, RequireCSRFToken: true},
		bff.Upstream{URL: hub, Path: "/hub", WebSocket: true},                           // SignalR
		bff.Upstream{URL: assets, StripPrefix: "/assets", Needs: bff.None, Cache: true}, // public
	)
	fmt.Print(table)
	mux.Handle("/", table)
	// Output:
	// PATH        METHODS   NEEDS  ALSO                     UPSTREAM
	// /api/admin  *         user   group Admin, csrf token  https://admin.example.com
	// /api/users  GET HEAD  user   -                        https://users.example.com
	// /assets     *         none   cache                    https://cdn.example.com
	// /hub        *         user   websocket                https://hub.example.com/hub
}
