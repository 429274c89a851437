package issuer_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff/internal/issuer"
)

// S91, S95, S139, S70: what the browser is sent with.
func TestAuthorizationURL(t *testing.T) {
	o := newOP(testIssuer)
	o.doc["authorization_endpoint"] = testIssuer + "/authorize?tenant=a&state=theirs&prompt=none"
	location, err := o.client(t).AuthorizationURL(t.Context(), issuer.AuthorizationRequest{
		State: "st", Nonce: "no", Verifier: secretVerifier,
		Extra: url.Values{
			"prompt": {"login"}, "resource": {"https://a.test", "https://b.test"}, "login_hint": {"al&ice"},
			"state": {"evil"}, "nonce": {"evil"}, "client_id": {"evil"}, "redirect_uri": {"https://evil.test"},
			"response_type": {"token"}, "scope": {"evil"}, "code_challenge": {"evil"}, "code_challenge_method": {"plain"},
			"request": {"evil"}, "request_uri": {"https://evil.test"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(location)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(secretVerifier))
	want := url.Values{
		"response_type": {"code"}, "client_id": {clientID}, "redirect_uri": {"https://app.test/auth/callback"},
		"scope": {"openid profile"}, "state": {"st"}, "nonce": {"no"}, "code_challenge_method": {"S256"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])},
		"tenant":         {"a"}, "prompt": {"none"}, "resource": {"https://a.test", "https://b.test"}, "login_hint": {"al&ice"},
	}
	if got := u.Query(); !reflect.DeepEqual(got, want) {
		t.Errorf("query = %v\nwant %v", got, want)
	}
	if u.Host != "op.test" || u.Path != "/t/authorize" {
		t.Errorf("location = %s", location)
	}
	if strings.Contains(location, secretVerifier) { // S94
		t.Errorf("location %s holds the verifier", location)
	}
}

// S67, S68, S72, S75, S93, S162: one request, with one authentication method.
func TestTokenRequest(t *testing.T) {
	for _, row := range []struct {
		method string
		id     string
		header string // the Authorization header, decoded
		form   url.Values
	}{
		{"none", clientID, "", url.Values{"client_id": {clientID}}},
		{"client_secret_post", clientID, "", url.Values{"client_id": {clientID}, "client_secret": {secretClient}}},
		{"client_secret_basic", "client: 1", "client%3A+1:sentinel%3Ap%40ss+w%2Brd%25", url.Values{}},
	} {
		t.Run(row.method, func(t *testing.T) {
			o, c := listen(t, func(cfg *issuer.Config) {
				cfg.AuthMethod, cfg.ClientSecret, cfg.ClientID = row.method, secretClient, row.id
			})
			check := func(end string, form url.Values) {
				t.Helper()
				requests := o.requests(end)
				if len(requests) != 1 {
					t.Fatalf("%d requests, want 1", len(requests))
				}
				r := requests[0]
				for name, values := range row.form {
					form[name] = values
				}
				if !reflect.DeepEqual(r.PostForm, form) || r.Method != http.MethodPost || r.URL.RawQuery != "" {
					t.Errorf("request = %s %s %v, want the form %v", r.Method, r.URL, r.PostForm, form)
				}
				header := r.Header.Get("Authorization")
				if row.header != "" {
					row := "Basic " + base64.StdEncoding.EncodeToString([]byte(row.header))
					if header != row {
						t.Errorf("Authorization = %q, want %q", header, row)
					}
				} else if header != "" {
					t.Errorf("Authorization = %q, want none", header)
				}
				o.mu.Lock()
				o.seen = nil
				o.mu.Unlock()
			}
			if _, err := c.Exchange(t.Context(), secretCode, secretVerifier); err != nil {
				t.Fatal(err)
			}
			check("/token", url.Values{
				"grant_type": {"authorization_code"}, "code": {secretCode}, "code_verifier": {secretVerifier},
				"redirect_uri": {"https://app.test/auth/callback"},
			})
			if _, err := c.Refresh(t.Context(), secretRefresh); err != nil {
				t.Fatal(err)
			}
			check("/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {secretRefresh}}) // S79: no scope
			if err := c.Revoke(t.Context(), secretRefresh, "refresh_token"); err != nil {
				t.Fatal(err)
			}
			check("/revoke", url.Values{"token": {secretRefresh}, "token_type_hint": {"refresh_token"}})
		})
	}
}

// S76, S77, S87, S142, S444, S446, S447, X159, X161: the token response.
func TestTokenResponse(t *testing.T) {
	id := rsaKey.jwt(string(toJSON(idClaims())))
	dots := id + ".e30.e30"
	tooLong := strings.Repeat("x", 16<<10+1)
	for _, row := range []struct {
		name  string
		rule  string
		more  []any
		check string // "" accepts
		kept  bool   // the refresh token is returned with the error
	}{
		{"plain", "S141", nil, "", false},
		{"type-case", "S76", []any{"token_type", "bEaReR"}, "", false},
		{"unknown-members", "S76", []any{"foo", object{"a": 1}, "session_state", "x"}, "", false},
		{"refresh-token-null", "RFC 6749, section 5.1", []any{"refresh_token", json.RawMessage("null")}, "", false},
		{"refresh-token-space", "RFC 6749, appendix A.17", []any{"refresh_token", "a b"}, "", false},
		{"error-null", "RFC 6749, section 5.1", []any{"error", json.RawMessage("null")}, "", false},
		{"type-missing", "S77", []any{"token_type", nil}, "token-type", true},
		{"type-mac", "S77", []any{"token_type", "mac"}, "token-type", true},
		{"type-na", "S77", []any{"token_type", "N_A"}, "token-type", true},
		{"type-dpop", "S77", []any{"token_type", "DPoP"}, "token-type", true},
		{"access-token-missing", "S447", []any{"access_token", nil}, "access-token", true},
		{"access-token-empty", "S447", []any{"access_token", ""}, "access-token", true},
		{"access-token-crlf", "S447", []any{"access_token", "a\r\nX: y"}, "access-token", true},
		{"access-token-space", "S447", []any{"access_token", "a b"}, "access-token", true},
		{"access-token-unicode", "S447", []any{"access_token", "aé"}, "access-token", true},
		{"access-token-long", "S447", []any{"access_token", tooLong}, "access-token", true},
		{"access-token-number", "S447", []any{"access_token", 7}, "token-member-type", true},
		{"refresh-token-crlf", "D28", []any{"refresh_token", "a\r\nb"}, "refresh-token", false},
		{"refresh-token-long", "D28", []any{"refresh_token", tooLong}, "refresh-token", false},
		{"refresh-token-array", "D28", []any{"refresh_token", []string{"a"}}, "token-member-type", false},
		{"id-token-object", "S142", []any{"id_token", object{"a": 1}}, "token-member-type", true},
		{"id-token-jwe", "S143", []any{"id_token", dots}, "id-token-parts", true},
		{"id-token-two-parts", "S143", []any{"id_token", "a.b"}, "id-token-parts", true},
		{"id-token-json", "S143", []any{"id_token", `{"payload":"","signature":""}`}, "id-token-parts", true},
		{"id-token-long", "X155", []any{"id_token", "a.b." + strings.Repeat("c", 64<<10)}, "id-token-size", true},
		{"scope-long", "S502", []any{"scope", strings.Repeat("s ", 10<<10)}, "scope-size", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			o := newOP(testIssuer)
			o.answer("/token", func(w http.ResponseWriter, r *http.Request) {
				writeJSON(w, 200, grantOf(append([]any{"id_token", id}, row.more...)...))
			})
			c := o.client(t)
			for op, call := range map[string]func() (*issuer.TokenResponse, error){
				"exchange": func() (*issuer.TokenResponse, error) {
					return c.Exchange(t.Context(), secretCode, secretVerifier)
				},
				"refresh": func() (*issuer.TokenResponse, error) { return c.Refresh(t.Context(), secretRefresh) },
			} {
				tokens, err := call()
				if row.check == "" {
					if err != nil {
						t.Errorf("%s = %v, want tokens (%s)", op, err, row.rule)
					}
					continue
				}
				if err == nil {
					t.Errorf("%s accepted it (%s)", op, row.rule)
					continue
				}
				if e := problem(t, err, issuer.Malformed, row.check); e.Op != op {
					t.Errorf("op = %s, want %s", e.Op, op)
				}
				if !row.kept && tokens != nil {
					t.Errorf("%s = %v, want nothing", op, tokens)
				}
				if row.kept && (tokens == nil || *tokens != issuer.TokenResponse{RefreshToken: secretRefresh, Lifetime: -1}) {
					t.Errorf("%s = %v, want the refresh token alone (D28)", op, tokens)
				}
			}
		})
	}
}

// S142, S163: the ID token and the refresh token may be missing on a refresh,
// the ID token not at a login.
func TestTokenResponseBare(t *testing.T) {
	for _, absent := range []any{nil, "", json.RawMessage("null")} {
		o := newOP(testIssuer)
		o.answer("/token", func(w http.ResponseWriter, r *http.Request) {
			writeJSON(w, 200, grantOf("refresh_token", nil, "scope", nil, "expires_in", nil, "id_token", absent))
		})
		c := o.client(t)
		tokens, err := c.Exchange(t.Context(), secretCode, secretVerifier)
		problem(t, err, issuer.Malformed, "id-token-present")
		if tokens != nil {
			t.Errorf("Exchange = %v, want nothing", tokens)
		}
		tokens, err = c.Refresh(t.Context(), secretRefresh)
		if err != nil {
			t.Fatal(err)
		}
		if want := (issuer.TokenResponse{AccessToken: secretAccess, Lifetime: -1}); tokens.Lifetime >= 0 || tokens.AccessToken != want.AccessToken ||
			tokens.RefreshToken+tokens.IDToken+tokens.Scope != "" {
			t.Errorf("Refresh = %+v, want an access token alone", tokens)
		}
	}
}

// S87, S444: expires_in.
func TestLifetime(t *testing.T) {
	for _, row := range []struct {
		raw  string
		want time.Duration // -1: any negative one
	}{
		{`900`, 900 * time.Second},
		{`"900"`, 900 * time.Second},
		{`3600.5`, 3600 * time.Second},
		{`1`, time.Second},
		{`0`, time.Second},
		{`"0"`, time.Second},
		{`0.9`, time.Second},
		{`-5`, time.Second},
		{`-1e999`, time.Second},
		{`1e300`, math.MaxInt32 * time.Second},
		{`1e999`, math.MaxInt32 * time.Second},
		{`9223372036854775807`, math.MaxInt32 * time.Second},
		{`null`, -1},
		{`""`, -1},
		{`"soon"`, -1},
		{`"Inf"`, -1},
		{`"NaN"`, -1},
		{`"0x10"`, -1},
		{`true`, -1},
		{`{}`, -1},
	} {
		o := newOP(testIssuer)
		o.answer("/token", func(w http.ResponseWriter, r *http.Request) {
			writeJSON(w, 200, grantOf("expires_in", json.RawMessage(row.raw)))
		})
		if strings.Contains(row.raw, `1e999`) { // which encoding/json refuses to write
			o.answer("/token", func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprintf(w, `{"access_token":"a","token_type":"Bearer","expires_in":%s}`, row.raw)
			})
		}
		tokens, err := o.client(t).Refresh(t.Context(), secretRefresh)
		if err != nil {
			t.Errorf("expires_in %s: %v", row.raw, err)
			continue
		}
		if got := max(tokens.Lifetime, -1); got != row.want {
			t.Errorf("expires_in %s = %v, want %v", row.raw, tokens.Lifetime, row.want)
		}
	}
}

// S67, S88, S448, X163: refusals are told apart by status and code, come after
// one request, and quote nothing.
func TestRefusal(t *testing.T) {
	good := string(toJSON(grantOf("id_token", rsaKey.jwt(string(toJSON(idClaims()))))))
	for _, row := range []struct {
		name   string
		status int
		kind   string
		body   string
		code   string
	}{
		{"invalid-grant", 400, "application/json", `{"error":"invalid_grant","error_description":"sentinel-description"}`, "invalid_grant"},
		{"no-content-type", 400, "", `{"error":"invalid_grant"}`, "invalid_grant"},
		{"token-inactive", 401, "application/json", `{"error":"token_inactive"}`, "token_inactive"},
		{"empty", 400, "", ``, ""},
		{"text", 400, "text/plain", `sentinel-description`, ""},
		{"form", 400, "application/x-www-form-urlencoded", `error=sentinel&error_description=sentinel`, ""},
		{"html", 502, "text/html", `<html>sentinel-description`, ""},
		{"array", 400, "application/json", `["sentinel"]`, ""},
		{"code-long", 400, "application/json", `{"error":"` + strings.Repeat("sentinel", 9) + `"}`, ""},
		{"code-quote", 400, "application/json", `{"error":"sentinel\""}`, ""},
		{"code-control", 400, "application/json", `{"error":"sentinel\n"}`, ""},
		{"code-unicode", 400, "application/json", `{"error":"sentinelé"}`, ""},
		{"code-object", 400, "application/json", `{"error":{"sentinel":1}}`, ""},
		{"code-echoes-the-secret", 400, "application/json", `{"error":"no such: ECHO"}`, ""},
		{"error-in-200", 200, "application/json", `{"error":"invalid_grant","error_description":"sentinel",` + good[1:], "invalid_grant"},
		{"tokens-in-400", 400, "application/json", good, ""},
		{"tokens-in-503", 503, "application/json", good, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			o, c := listen(t, func(cfg *issuer.Config) {
				cfg.AuthMethod, cfg.ClientSecret = "client_secret_basic", secretClient
			})
			o.answer("/token", func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", row.kind)
				w.WriteHeader(row.status)
				io.WriteString(w, strings.Replace(row.body, "ECHO", r.PostForm.Get("code")+r.PostForm.Get("refresh_token"), 1))
			})
			_, err := c.Exchange(t.Context(), secretCode, secretVerifier)
			_, again := c.Refresh(t.Context(), secretRefresh)
			for _, err := range []error{err, again} {
				e := problem(t, err, issuer.Answered, "")
				if e.Status != row.status || e.Code != row.code {
					t.Errorf("error = %v, status %d, code %q; want %d, %q", e, e.Status, e.Code, row.status, row.code)
				}
			}
			if n := len(o.requests("/token")); n != 2 {
				t.Errorf("%d requests for two calls, want 2", n)
			}
		})
	}
}

// X161: 200 and no tokens.
func TestMalformed(t *testing.T) {
	for _, body := range []string{
		``, `sentinel`, `[]`, `null`, `"sentinel"`, `{`, `{"access_token":"sentinel"} {}`, `{"access_token"}`,
		`access_token=sentinel&token_type=Bearer`,
		`{"access_token":"sentinel","token_type":"Bearer","access_token":"sentinel"}`,
		`{"ACCESS_TOKEN":"sentinel","token_type":"Bearer"}`,
	} {
		o := newOP(testIssuer)
		o.answer("/token", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, body) })
		tokens, err := o.client(t).Refresh(t.Context(), secretRefresh)
		e, ok := errors.AsType[*issuer.Error](err)
		if !ok || e.Kind != issuer.Malformed || tokens != nil {
			t.Errorf("Refresh answered by %q = %v, %v; want a malformed answer", body, tokens, err)
			continue
		}
		problem(t, err, issuer.Malformed, e.Check)
	}
}

// S72, S373, S442: the code and the refresh token follow no redirect.
func TestTokenRedirect(t *testing.T) {
	elsewhere := newOP(testIssuer)
	srv := httptest.NewServer(elsewhere)
	defer srv.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		o, c := listen(t)
		for _, path := range []string{"/token", "/userinfo", "/revoke"} {
			o.answer(path, func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, srv.URL+"/t"+path+"?sentinel", status)
			})
		}
		_, exchange := c.Exchange(t.Context(), secretCode, secretVerifier)
		_, refresh := c.Refresh(t.Context(), secretRefresh)
		_, userinfo := c.UserInfo(t.Context(), secretAccess, "alice")
		for _, err := range []error{exchange, refresh, userinfo, c.Revoke(t.Context(), secretRefresh, "refresh_token")} {
			if e := problem(t, err, issuer.Answered, ""); e.Status != status {
				t.Errorf("status = %d, want %d", e.Status, status)
			}
		}
	}
	if n := len(elsewhere.requests("")); n != 0 {
		t.Errorf("%d redirects were followed", n)
	}
}

// S439: the token response is bounded.
func TestTokenResponseLarge(t *testing.T) {
	o := newOP(testIssuer)
	o.answer("/token", func(w http.ResponseWriter, r *http.Request) {
		w.Write(append(toJSON(grantOf()), strings.Repeat(" ", 1<<20)...))
	})
	_, err := o.client(t).Refresh(t.Context(), secretRefresh)
	problem(t, err, issuer.Malformed, "")
}

// D29: a request that surely was not sent is told from one that may have been
// processed.
func TestSentOrNot(t *testing.T) {
	for _, row := range []struct {
		name  string
		spoil func(t *testing.T, o *op)
		want  issuer.Kind
	}{
		{"refused-connection", func(t *testing.T, o *op) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			l.Close()
			o.doc["token_endpoint"] = "https://" + l.Addr().String() + "/token?sentinel"
		}, issuer.Unreachable},
		{"unknown-host", func(t *testing.T, o *op) {
			o.doc["token_endpoint"] = "https://op.invalid/token?sentinel"
		}, issuer.Unreachable},
		{"bad-certificate", func(t *testing.T, o *op) {
			o.doc["token_endpoint"] = strings.Replace(o.issuer, "127.0.0.1", "localhost", 1) + "/token?sentinel"
		}, issuer.Unreachable},
		{"not-tls", func(t *testing.T, o *op) {
			srv := httptest.NewServer(nil)
			srv.Config.ErrorLog = quiet
			t.Cleanup(srv.Close)
			o.doc["token_endpoint"] = strings.Replace(srv.URL, "http:", "https:", 1)
		}, issuer.Unreachable},
		{"broken-before-the-answer", func(t *testing.T, o *op) {
			o.answer("/token", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
		}, issuer.Lost},
		{"broken-body", func(t *testing.T, o *op) {
			o.answer("/token", func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", "1000")
				io.WriteString(w, `{"access_token":"sentinel"`)
			})
		}, issuer.Lost},
		{"no-http", func(t *testing.T, o *op) {
			o.answer("/token", func(w http.ResponseWriter, r *http.Request) {
				conn, _, err := w.(http.Hijacker).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				io.WriteString(conn, "sentinel\r\n\r\n") // which net/http quotes
				conn.Close()
			})
		}, issuer.Lost},
		{"time-out", func(t *testing.T, o *op) {
			o.answer("/token", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		}, issuer.Lost},
	} {
		t.Run(row.name, func(t *testing.T) {
			o, c := listen(t, func(cfg *issuer.Config) { cfg.Timeout = time.Second })
			row.spoil(t, o)
			_, err := c.Exchange(t.Context(), secretCode, secretVerifier)
			problem(t, err, row.want, "")
			if n := len(o.requests("/token")); n > 1 {
				t.Errorf("%d requests, want at most 1", n)
			}
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// D29: a transport that reports no progress leaves it open, unless the error
// itself says that nothing was sent.
func TestSentOrNotUntraced(t *testing.T) {
	for _, row := range []struct {
		err  error
		want issuer.Kind
	}{
		{&net.OpError{Op: "dial", Net: "tcp", Err: errors.New("refused")}, issuer.Unreachable},
		{&net.DNSError{Err: "no such host", Name: "op.test"}, issuer.Unreachable},
		{&net.OpError{Op: "read", Net: "tcp", Err: errors.New("reset")}, issuer.Lost},
		{io.ErrUnexpectedEOF, issuer.Lost},
		{errors.New("sentinel " + secretRefresh), issuer.Lost},
		{&url.Error{Op: "Post", URL: "https://op.test/?sentinel", Err: errors.New("sentinel")}, issuer.Lost},
	} {
		o := newOP(testIssuer)
		c := o.client(t, func(cfg *issuer.Config) {
			cfg.HTTPClient.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
				if strings.HasSuffix(r.URL.Path, "/token") {
					return nil, row.err
				}
				return o.RoundTrip(r)
			})
		})
		_, err := c.Refresh(t.Context(), secretRefresh)
		problem(t, err, row.want, "")
	}
}

// S194: the time-out holds for a transport in the process too, whose body
// never ends.
func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOP(testIssuer)
		var body io.Reader
		c := o.client(t, func(cfg *issuer.Config) {
			cfg.HTTPClient.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
				if !strings.HasSuffix(r.URL.Path, "/token") {
					return o.RoundTrip(r)
				}
				pipe, _ := io.Pipe()
				body = pipe
				return &http.Response{StatusCode: 200, Body: pipe, Request: r, Header: http.Header{}}, nil
			})
		})
		if _, err := c.Metadata(t.Context()); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err := c.Refresh(t.Context(), secretRefresh)
		problem(t, err, issuer.Lost, "")
		if d := time.Since(began); d != 10*time.Second || body == nil {
			t.Errorf("Refresh took %v, want 10s", d)
		}
	})
}

// A context that has ended sends nothing.
func TestEndedContext(t *testing.T) {
	o := newOP(testIssuer)
	c := o.client(t)
	if _, err := c.Metadata(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.Refresh(ctx, secretRefresh)
	problem(t, err, issuer.Unreachable, "")
	if n := len(o.requests("/token")); n != 0 {
		t.Errorf("%d requests, want none", n)
	}
}

// While there is no metadata, nothing that needs it is sent.
func TestNoMetadata(t *testing.T) {
	o := newOP(testIssuer)
	o.answer(wellKnown, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) })
	c := o.client(t)
	_, exchange := c.Exchange(t.Context(), secretCode, secretVerifier)
	_, refresh := c.Refresh(t.Context(), secretRefresh)
	_, userinfo := c.UserInfo(t.Context(), secretAccess, "alice")
	_, authorize := c.AuthorizationURL(t.Context(), issuer.AuthorizationRequest{})
	_, verify := c.VerifyIDToken(t.Context(), rsaKey.jwt(string(toJSON(idClaims()))), issuer.Expect{Nonce: testNonce})
	for _, err := range []error{exchange, refresh, userinfo, authorize, verify, c.Revoke(t.Context(), secretRefresh, "refresh_token")} {
		problem(t, err, issuer.Unreachable, "")
	}
	if n := len(o.requests("")); n != 1 {
		t.Errorf("%d requests, want 1 for the metadata", n)
	}
}

// S119, S120, S121: revocation.
func TestRevoke(t *testing.T) {
	for _, row := range []struct {
		status int
		body   string
		ok     bool
		code   string
	}{
		{200, "", true, ""},
		{204, "", true, ""},
		{400, `{"error":"unsupported_token_type"}`, false, "unsupported_token_type"},
		{401, `{"error":"invalid_client","error_description":"sentinel"}`, false, "invalid_client"},
		{400, `{"error":"` + secretRefresh + `"}`, false, ""},
		{503, secretText, false, ""},
	} {
		o := newOP(testIssuer)
		o.answer("/revoke", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(row.status)
			io.WriteString(w, row.body)
		})
		err := o.client(t).Revoke(t.Context(), secretRefresh, "refresh_token")
		if row.ok != (err == nil) {
			t.Errorf("Revoke answered by %d = %v", row.status, err)
		}
		if !row.ok && err != nil {
			if e := problem(t, err, issuer.Answered, ""); e.Status != row.status || e.Code != row.code {
				t.Errorf("error = %v, want status %d, code %q", e, row.status, row.code)
			}
		}
		if n := len(o.requests("/revoke")); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
	}
}
