package tokens_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
	"github.com/agglestone/bff/store/memstore"
	"github.com/agglestone/bff/tokens"
)

const appURL = "https://app.example.com"

// A tap is a transport to the issuer that sees every token request, and may
// answer it in the issuer's place.
type tap struct {
	next http.RoundTripper

	mu     sync.Mutex
	forms  []url.Values
	answer func(form url.Values) (status int, body string) // status 0: the issuer's
}

func (tp *tap) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != "POST" || !strings.HasSuffix(r.URL.Path, "/token") {
		return tp.next.RoundTrip(r)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, err
	}
	tp.mu.Lock()
	tp.forms = append(tp.forms, form)
	answer := tp.answer
	tp.mu.Unlock()
	if answer != nil {
		if status, text := answer(form); status != 0 {
			w := httptest.NewRecorder()
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			io.WriteString(w, text)
			res := w.Result()
			res.Request = r
			return res, nil
		}
	}
	r = r.Clone(r.Context())
	r.Body = io.NopCloser(strings.NewReader(string(body)))
	return tp.next.RoundTrip(r)
}

// count returns how many token requests fit.
func (tp *tap) count(fits func(url.Values) bool) (n int) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	for _, f := range tp.forms {
		if fits(f) {
			n++
		}
	}
	return n
}

// An app has the API /api with the session's own token, and others by name.
type app struct {
	iss  *bfftest.Issuer
	tap  *tap
	auth *bff.BFF
	b    *bfftest.Browser

	store *witness

	mu     sync.Mutex
	tokens map[string]map[string]bool // by API, those that came
	refuse map[string]bool            // tokens that the APIs don't accept
}

func newApp(t *testing.T, sources map[string]bff.TokenSource) *app {
	t.Helper()
	a := &app{iss: bfftest.NewIssuer(bfftest.Options{}), tokens: map[string]map[string]bool{}, refuse: map[string]bool{}}
	a.tap = &tap{next: a.iss.Transport()}
	a.store = &witness{Store: memstore.New(memstore.Options{})}
	auth, err := bff.New(t.Context(), bff.Config{
		Issuer: a.iss.URL(), ClientID: a.iss.ClientID(), RedirectURL: appURL + "/auth/callback",
		Keys: []bff.Key{bff.NewKey()}, Store: a.store, HTTPClient: &http.Client{Transport: a.tap}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	a.auth = auth
	t.Cleanup(func() {
		if err := auth.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	mux := http.NewServeMux()
	sources["api"] = nil
	for name, source := range sources {
		origin := "https://" + name + ".example.com"
		mux.Handle("/"+name+"/", auth.Proxy(bff.Upstream{
			URL: origin, StripPrefix: "/" + name, Tokens: source,
			Transport: bfftest.InProcess(map[string]http.Handler{origin: a.api(name)}),
		}))
	}
	a.b = bfftest.NewBrowser(auth.Routes(mux), appURL, a.iss)
	if r := a.b.SignIn("alice"); r.Err != nil {
		t.Fatal(r.Err)
	}
	return a
}

func (a *app) api(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.refuse[token] {
			w.WriteHeader(401)
			return
		}
		if a.tokens[name] == nil {
			a.tokens[name] = map[string]bool{}
		}
		a.tokens[name][token] = true
	})
}

// got returns the tokens that came to an API since the last call.
func (a *app) got(name string) (list []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for token := range a.tokens[name] {
		list = append(list, token)
	}
	delete(a.tokens, name)
	return list
}

func resource(form url.Values) bool {
	return form.Get("grant_type") == "refresh_token" && form.Has("resource")
}

func own(form url.Values) bool {
	return form.Get("grant_type") == "refresh_token" && !form.Has("resource")
}

// D8, S128: tokens that expire together are asked for one after another, each
// once, by whatever number of requests, with an issuer that ends the grant when
// a refresh token is presented twice; and each goes to its own API.
func TestOneGrantAfterAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, map[string]bff.TokenSource{
			"files": tokens.Resource("https://files.example.com"), "mail": tokens.Resource("https://mail.example.com"),
		})
		a.iss.Break("token", bfftest.Fault{Delay: 50 * time.Millisecond})
		for round := range 4 {
			var wg sync.WaitGroup
			for _, name := range []string{"api", "files", "mail"} {
				for range 30 {
					wg.Go(func() {
						if r := a.b.Fetch("GET", "/"+name+"/x", nil, nil); r.Status != 200 {
							t.Errorf("round %d: GET /%s = %v", round, name, r)
						}
					})
				}
			}
			wg.Wait()
			seen := map[string]bool{}
			for _, name := range []string{"api", "files", "mail"} {
				list := a.got(name)
				if len(list) != 1 || seen[list[0]] {
					t.Errorf("round %d: %d tokens came to %s, or another's", round, len(list), name)
				}
				seen[list[0]] = true
			}
			if n, m := a.tap.count(resource), a.tap.count(own); n != 2*(round+1) || m != round {
				t.Errorf("round %d: %d requests for resources and %d for the session's own, want %d and %d", round, n, m, 2*(round+1), round)
			}
			time.Sleep(16 * time.Minute)
		}
		if a.iss.LiveGrants() != 1 {
			t.Error("the issuer saw a refresh token twice")
		}
	})
}

// RFC 6749, section 6; RFC 8707, section 2.2: what each grant asks for, said once
// and for all when the source is made; and that the store sees no token.
func TestGrants(t *testing.T) {
	uris, scopes := []string{"https://a.example.com", "https://b.example.com"}, []string{"read", "write"}
	config := tokens.ExchangeConfig{Resources: slices.Clone(uris)}
	a := newApp(t, map[string]bff.TokenSource{
		"resource": tokens.Resource(uris...), "scope": tokens.Scope(scopes...), "audience": tokens.Audience("them"), "exchange": tokens.Exchange(config),
	})
	uris[0], scopes[0], config.Resources[0] = "https://evil.example", "admin", "https://evil.example"
	a.tap.answer = func(form url.Values) (int, string) {
		if form.Get("grant_type") == "refresh_token" && !form.Has("resource") && !form.Has("scope") && !form.Has("audience") {
			return 0, ""
		}
		return 200, fmt.Sprintf(`{"access_token":"granted-%d","token_type":"Bearer","expires_in":600,"issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}`, a.tap.count(all))
	}
	for name, want := range map[string]url.Values{
		"resource": {"grant_type": {"refresh_token"}, "resource": {"https://a.example.com", "https://b.example.com"}},
		"scope":    {"grant_type": {"refresh_token"}, "scope": {"read write"}},
		"audience": {"grant_type": {"refresh_token"}, "audience": {"them"}},
		"exchange": {"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "resource": {"https://a.example.com", "https://b.example.com"}},
	} {
		for range 2 {
			if r := a.b.Fetch("GET", "/"+name+"/x", nil, nil); r.Status != 200 {
				t.Errorf("GET /%s = %v", name, r)
			}
		}
		form := a.tap.forms[len(a.tap.forms)-1]
		for _, param := range []string{"grant_type", "resource", "scope", "audience"} {
			if !slices.Equal(form[param], want[param]) {
				t.Errorf("%s: %s is %q, want %q", name, param, form[param], want[param])
			}
		}
		token := fmt.Sprintf("granted-%d", a.tap.count(all))
		if got := a.got(name); len(got) != 1 || got[0] != token {
			t.Errorf("%s: the API got %q, want %s", name, got, token)
		}
		if a.store.saw(token) {
			t.Errorf("%s: the store has the token in the clear", name)
		}
	}
	if n := len(a.store.values); n < 5 || a.tap.count(all) != 5 {
		t.Errorf("%d values written and %d token requests; want one for the sign-in and each grant", n, a.tap.count(all))
	}
}

func all(url.Values) bool { return true }

// A witness is a store that keeps what was written to it.
type witness struct {
	*memstore.Store
	mu     sync.Mutex
	values []string
}

func (w *witness) note(value []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.values = append(w.values, string(value))
}

func (w *witness) Create(ctx context.Context, key string, value []byte, expires, end time.Time) (bool, error) {
	w.note(value)
	return w.Store.Create(ctx, key, value, expires, end)
}

func (w *witness) Replace(ctx context.Context, key string, version uint64, value []byte) (uint64, bool, error) {
	w.note(value)
	return w.Store.Replace(ctx, key, version, value)
}

func (w *witness) saw(token string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.values, func(value string) bool {
		return strings.Contains(value, token) || strings.Contains(value, base64.StdEncoding.EncodeToString([]byte(token))[:10])
	})
}

// S129: an issuer that refuses the resource says nothing about the session, and
// is not asked again at once.
func TestRefusedResource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, map[string]bff.TokenSource{"files": tokens.Resource("https://files.example.com")})
		a.tap.answer = func(form url.Values) (int, string) {
			if resource(form) {
				return 400, `{"error":"invalid_target"}`
			}
			return 0, ""
		}
		for range 20 {
			if r := a.b.Fetch("GET", "/files/x", nil, nil); r.Status != 502 || r.Reason() != "issuer_error" {
				t.Fatalf("GET /files = %v, want 502 issuer_error", r)
			}
		}
		if n := a.tap.count(resource); n != 1 {
			t.Errorf("%d requests for what was refused, want 1", n)
		}
		if r := a.b.Fetch("GET", "/api/x", nil, nil); r.Status != 200 {
			t.Errorf("GET /api = %v", r)
		}
		a.tap.answer = nil
		time.Sleep(31 * time.Second)
		if r := a.b.Fetch("GET", "/files/x", nil, nil); r.Status != 200 {
			t.Errorf("GET /files, later = %v", r)
		}
	})
}

// The refresh token's end is learnt from any grant that presents it.
func TestResourceOfADeadGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, map[string]bff.TokenSource{"files": tokens.Resource("https://files.example.com")})
		a.iss.Revoke("alice")
		if r := a.b.Fetch("GET", "/files/x", nil, nil); r.Status != 401 || r.Reason() != "refresh_rejected" {
			t.Errorf("GET /files = %v, want 401 refresh_rejected", r)
		}
	})
}

// S89, D15: a token that its API doesn't accept is replaced when it isn't fresh,
// once.
func TestTokenNotAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, map[string]bff.TokenSource{"files": tokens.Resource("https://files.example.com")})
		a.b.Fetch("GET", "/files/x", nil, nil)
		first := a.got("files")[0]
		a.refuse[first] = true
		if r := a.b.Fetch("GET", "/files/x", nil, nil); r.Status != 401 || a.tap.count(resource) != 1 {
			t.Errorf("a fresh token: %v after %d token requests, want 401 after 1", r, a.tap.count(resource))
		}
		time.Sleep(31 * time.Second)
		if r := a.b.Fetch("GET", "/files/x", nil, nil); r.Status != 200 || a.tap.count(resource) != 2 {
			t.Errorf("an older one: %v after %d token requests, want 200 after 2", r, a.tap.count(resource))
		}
	})
}

// Many tokens of one session are bounded in the record, and all of them served.
func TestManyResources(t *testing.T) {
	sources := map[string]bff.TokenSource{}
	for i := range 24 {
		sources[fmt.Sprintf("api%d", i)] = tokens.Resource(fmt.Sprintf("https://api%d.example.com", i))
	}
	a := newApp(t, sources)
	for range 2 {
		for i := range 24 {
			if r := a.b.Fetch("GET", fmt.Sprintf("/api%d/x", i), nil, nil); r.Status != 200 {
				t.Fatalf("GET /api%d = %v", i, r)
			}
		}
	}
	if n := a.tap.count(resource); n <= 24 || n > 48 {
		t.Errorf("%d token requests for 24 resources asked for twice: the session holds more than it may, or nothing", n)
	}
}

// S124, S125: token exchange, and what it must not bring.
func TestExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, map[string]bff.TokenSource{"files": tokens.Exchange(tokens.ExchangeConfig{Audience: "files", Scopes: []string{"read", "write"}})})
		a.b.Fetch("GET", "/api/x", nil, nil)
		subject := a.got("api")[0]
		answers := []struct {
			status int
			body   string
			want   int
		}{
			{200, `{"access_token":"exchanged","issued_token_type":"urn:ietf:params:oauth:token-type:jwt","token_type":"Bearer","expires_in":60}`, 503},
			{200, `{"access_token":"exchanged","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"N_A","expires_in":60}`, 503},
			{200, `{"access_token":"exchanged","token_type":"Bearer","expires_in":60}`, 503},
			{400, `{"error":"invalid_grant"}`, 502},
			{200, `{"access_token":"exchanged","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"bearer","expires_in":60,"refresh_token":"another"}`, 200},
		}
		for i, answer := range answers {
			a.tap.answer = func(form url.Values) (int, string) {
				if form.Get("grant_type") != "urn:ietf:params:oauth:grant-type:token-exchange" {
					return 0, ""
				}
				return answer.status, answer.body
			}
			if r := a.b.Fetch("GET", "/files/x", nil, nil); r.Status != answer.want {
				t.Errorf("answer %d: %v, want %d", i, r, answer.want)
			}
			time.Sleep(31 * time.Second)
		}
		if got := a.got("files"); len(got) != 1 || got[0] != "exchanged" {
			t.Errorf("the API got %q", got)
		}
		form := a.tap.forms[len(a.tap.forms)-1]
		want := url.Values{
			"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token": {subject}, "client_id": {a.iss.ClientID()},
			"subject_token_type":   {"urn:ietf:params:oauth:token-type:access_token"},
			"requested_token_type": {"urn:ietf:params:oauth:token-type:access_token"}, "audience": {"files"}, "scope": {"read write"},
		}
		if form.Encode() != want.Encode() {
			t.Errorf("the request was %v, want %v", form, want)
		}
		a.tap.answer = nil
		time.Sleep(15 * time.Minute)
		if r := a.b.Fetch("GET", "/api/x", nil, nil); r.Status != 200 {
			t.Errorf("the session's own token is lost: %v", r)
		}
	})
}

// What is wrong with a source is said when it is declared.
func TestValidate(t *testing.T) {
	app := tokens.ApplicationConfig{TokenURL: "https://op.example.com/token", ClientID: "x", ClientSecret: "y"}
	spoilt := func(f func(*tokens.ApplicationConfig)) bff.TokenSource {
		c := app
		f(&c)
		return tokens.Application(c)
	}
	for name, c := range map[string]struct {
		source bff.TokenSource
		says   string
	}{
		"resource":           {tokens.Resource("https://a.example.com/x"), ""},
		"no resource":        {tokens.Resource(), "names none"},
		"relative resource":  {tokens.Resource("/x"), "absolute"},
		"resource fragment":  {tokens.Resource("https://a#f"), "fragment"},
		"scope":              {tokens.Scope("a", "b:c"), ""},
		"no scope":           {tokens.Scope(), "names none"},
		"two scopes in one":  {tokens.Scope("a b"), "its own argument"},
		"audience":           {tokens.Audience("x"), ""},
		"no audience":        {tokens.Audience(""), "empty"},
		"exchange":           {tokens.Exchange(tokens.ExchangeConfig{Resources: []string{"https://a"}}), ""},
		"exchange of naught": {tokens.Exchange(tokens.ExchangeConfig{}), "nothing"},
		"application":        {tokens.Application(app), ""},
		"plain http":         {spoilt(func(c *tokens.ApplicationConfig) { c.TokenURL = "http://op.example.com/token" }), "not https"},
		"no URL":             {spoilt(func(c *tokens.ApplicationConfig) { c.TokenURL = "" }), "absolute"},
		"no client":          {spoilt(func(c *tokens.ApplicationConfig) { c.ClientID = "" }), "ClientID"},
		"no secret":          {spoilt(func(c *tokens.ApplicationConfig) { c.ClientSecret = "" }), "ClientSecret"},
		"an unknown method":  {spoilt(func(c *tokens.ApplicationConfig) { c.AuthMethod = "none" }), "AuthMethod"},
	} {
		needs := bff.User
		if strings.HasPrefix(name, "application") {
			needs = bff.Client
		}
		err := bff.Upstream{URL: "https://api.example.com", Needs: needs, Tokens: c.source}.Validate()
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

// RFC 6749, section 2.3.1: the secret goes into the form if the endpoint wants
// it there, and nowhere else.
func TestApplicationSecretInTheForm(t *testing.T) {
	endpoint := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, _, basic := r.BasicAuth(); basic || r.PostFormValue("client_id") != "app" || r.PostFormValue("client_secret") != "s3cret" || r.URL.RawQuery != "" {
			t.Errorf("token request %s %v, Basic %v", r.URL, r.PostForm, basic)
		}
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"access_token":"token","token_type":"Bearer"}`)
	})
	source := tokens.Application(tokens.ApplicationConfig{
		TokenURL: "https://op.example.com/token", ClientID: "app", ClientSecret: "s3cret", AuthMethod: "client_secret_post",
		HTTPClient: &http.Client{Transport: bfftest.InProcess(map[string]http.Handler{"https://op.example.com": endpoint})},
	})
	if got, err := source.Token(t.Context(), nil, ""); err != nil || got != "token" {
		t.Errorf("Token = %q, %v", got.Reveal(), err)
	}
}

// The application's own token: one request per expiry, none that hammers.
func TestApplication(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		requests, status := 0, 200
		endpoint := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			requests++
			id, secret, _ := r.BasicAuth()
			if r.FormValue("grant_type") != "client_credentials" || id != "app" || secret != "s3cret" || r.FormValue("scope") != "jobs" || r.FormValue("audience") != "them" {
				t.Errorf("token request %v as %s", r.Form, id)
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			if status != 200 {
				io.WriteString(w, `{"error":"invalid_client","error_description":"s3cret"}`)
				return
			}
			fmt.Fprintf(w, `{"access_token":"token-%d","token_type":"Bearer","expires_in":600}`, requests)
		})
		params := url.Values{"audience": {"them"}}
		source := tokens.Application(tokens.ApplicationConfig{
			TokenURL: "https://op.example.com/token", ClientID: "app", ClientSecret: "s3cret", Scopes: []string{"jobs"}, Params: params,
			HTTPClient: &http.Client{Transport: bfftest.InProcess(map[string]http.Handler{"https://op.example.com": endpoint})},
		})
		params["audience"][0] = "others"
		all := func(want string) {
			t.Helper()
			var wg sync.WaitGroup
			for range 100 {
				wg.Go(func() {
					got, err := source.Token(t.Context(), nil, "")
					if err != nil || got.Reveal() != want {
						t.Errorf("Token = %q, %v; want %q", got.Reveal(), err, want)
					}
				})
			}
			wg.Wait()
			synctest.Wait()
		}
		all("token-1")
		time.Sleep(9 * time.Minute)
		// Ahead of the expiry nobody waits for the next one.
		if got, err := source.Token(t.Context(), nil, ""); err != nil || got != "token-1" {
			t.Errorf("ahead of the expiry: %q, %v", got.Reveal(), err)
		}
		synctest.Wait()
		all("token-2")
		if got, err := source.Token(t.Context(), nil, "token-2"); err != nil || got != "token-2" {
			t.Errorf("a refused token that is fresh: %v", err)
		}
		time.Sleep(time.Minute)
		if got, err := source.Token(t.Context(), nil, "token-2"); err != nil || got != "token-3" {
			t.Errorf("a refused token that isn't fresh: %q, %v", got.Reveal(), err)
		}
		status = 401
		time.Sleep(time.Hour)
		for range 50 {
			_, err := source.Token(t.Context(), nil, "")
			if err == nil || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), "invalid_client") {
				t.Fatalf("Token = %v", err)
			}
		}
		if requests != 4 {
			t.Errorf("%d requests, want 4", requests)
		}
		status = 200
		time.Sleep(2 * time.Second)
		all("token-5")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := source.Token(ctx, nil, ""); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("Token with a cancelled context = %v", err)
		}
	})
}

// S87: a token that is said to have expired already is asked for once a second.
func TestApplicationExpiresIn(t *testing.T) {
	for _, said := range []string{"0", "-1"} {
		synctest.Test(t, func(t *testing.T) {
			requests := 0
			source := tokens.Application(tokens.ApplicationConfig{
				TokenURL: "https://op.example.com/token", ClientID: "app", ClientSecret: "s3cret",
				HTTPClient: &http.Client{Transport: bfftest.InProcess(map[string]http.Handler{"https://op.example.com": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					requests++
					w.Header().Set("Content-Type", "application/json")
					fmt.Fprintf(w, `{"access_token":"t","token_type":"Bearer","expires_in":%s}`, said)
				})})},
			})
			for i := range 40 {
				if token, err := source.Token(t.Context(), nil, ""); err != nil || token != "t" {
					t.Errorf("expires_in %s: %q, %v", said, token.Reveal(), err)
				}
				if i%10 == 9 {
					time.Sleep(2 * time.Second)
				}
			}
			if requests != 4 {
				t.Errorf("expires_in %s: %d token requests in 8 seconds, want 4", said, requests)
			}
		})
	}
}

// An answer that doesn't say how long its token lives is asked for again after
// ApplicationConfig.Lifetime, be it JSON or a form, which some endpoints send.
func TestApplicationLifetimeUnsaid(t *testing.T) {
	for kind, body := range map[string]string{
		"application/json":                  `{"access_token":"t","token_type":"Bearer"}`,
		"application/json; charset=utf-8":   `{"access_token":"t","token_type":"Bearer","expires_in":null}`,
		"application/x-www-form-urlencoded": "access_token=t&token_type=Bearer",
	} {
		synctest.Test(t, func(t *testing.T) {
			requests := 0
			source := tokens.Application(tokens.ApplicationConfig{
				TokenURL: "https://op.example.com/token", ClientID: "app", ClientSecret: "s3cret", Lifetime: time.Hour,
				HTTPClient: &http.Client{Transport: bfftest.InProcess(map[string]http.Handler{"https://op.example.com": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					requests++
					w.Header().Set("Content-Type", kind)
					io.WriteString(w, body)
				})})},
			})
			for range 10 {
				if token, err := source.Token(t.Context(), nil, ""); err != nil || token != "t" {
					t.Errorf("%s: %q, %v", kind, token.Reveal(), err)
				}
				time.Sleep(5 * time.Minute)
			}
			if requests != 1 {
				t.Errorf("%s: %d token requests in 50 minutes, want 1", kind, requests)
			}
		})
	}
}
