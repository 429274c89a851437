package issuer_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agglestone/bff/internal/issuer"
)

const wellKnown = "/.well-known/openid-configuration"

// S187, S192: the issuer's own trailing slash stays, and is not doubled.
func TestMetadata(t *testing.T) {
	for _, id := range []string{"https://op.test", "https://op.test/", "https://op.test/t", "https://op.test/t/"} {
		o := newOP(id)
		c := o.client(t)
		if got := c.Known(); got != nil {
			t.Errorf("Known before the first use = %v, want nil", got)
		}
		m, err := c.Metadata(t.Context())
		if err != nil {
			t.Errorf("Metadata of %s = %v", id, err)
			continue
		}
		base := strings.TrimSuffix(id, "/")
		want := issuer.Metadata{
			AuthorizationEndpoint: base + "/authorize", TokenEndpoint: base + "/token", JWKSURI: base + "/jwks",
			UserInfoEndpoint: base + "/userinfo", EndSessionEndpoint: base + "/logout", RevocationEndpoint: base + "/revoke",
			IssParameter: true,
		}
		if *m != want {
			t.Errorf("Metadata of %s = %+v, want %+v", id, *m, want)
		}
		if c.Known() != m {
			t.Errorf("Known = %v, want what Metadata returned", c.Known())
		}
		if got := o.requests("")[0].URL.Path; got != strings.TrimPrefix(base, "https://op.test")+wellKnown {
			t.Errorf("asked for %s", got)
		}
	}
}

// S186, S190, S191, X167: metadata that fails a check is not used.
func TestMetadataRefused(t *testing.T) {
	set := func(name string, value any) func(*op) {
		return func(o *op) { o.doc[name] = value }
	}
	body := func(status int, body string) func(*op) {
		return func(o *op) {
			o.answer(wellKnown, func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(status)
				w.Write([]byte(body))
			})
		}
	}
	for _, row := range []struct {
		name   string
		rule   string
		change func(*op)
		text   string
	}{
		{"issuer-suffix", "S186", set("issuer", testIssuer+"INVALID"), testIssuer + "INVALID"},
		{"issuer-slash", "S186", set("issuer", testIssuer+"/"), `not "https://op.test/t" (`},
		{"issuer-case", "S186", set("issuer", "https://OP.test/t"), "OP.test"},
		{"issuer-missing", "S186", func(o *op) { delete(o.doc, "issuer") }, "issuer"},
		{"token-http", "S191", set("token_endpoint", "http://op.test/token"), "token_endpoint: not https"},
		{"token-missing", "S191", func(o *op) { delete(o.doc, "token_endpoint") }, "token_endpoint"},
		{"token-no-host", "S191", set("token_endpoint", "https:///token"), "host"},
		{"token-relative", "S191", set("token_endpoint", "/token"), "host"},
		{"token-type", "S191", set("token_endpoint", 7), "JSON"},
		{"token-user", "S191", set("token_endpoint", "https://sentinel:sentinel@op.test/token"), "user name"},
		{"token-fragment", "S70", set("token_endpoint", "https://op.test/token#x"), "fragment"},
		{"token-empty-fragment", "S70", set("token_endpoint", "https://op.test/token#"), "fragment"},
		{"token-not-a-url", "S191", set("token_endpoint", "https://op.test/%zzsentinel"), "not a URL"},
		{"authorize-javascript", "S191", set("authorization_endpoint", "javascript:alert(1)"), "host"},
		{"authorize-javascript-host", "S191", set("authorization_endpoint", "javascript://op.test/%0aalert(1)"), "not https"},
		{"jwks-file", "S191", set("jwks_uri", "file://op.test/etc/passwd"), "not https"},
		{"jwks-missing", "S191", func(o *op) { delete(o.doc, "jwks_uri") }, "jwks_uri"},
		{"optional-type", "S190", set("end_session_endpoint", 7), "type"},
		{"status-500", "S190", body(500, secretText), "500"},
		{"status-404", "S190", body(404, secretText), "404"},
		{"array", "S190", body(200, `[{"issuer":"sentinel"}]`), "JSON object"},
		{"null", "S190", body(200, `null`), "issuer"},
		{"html", "S190", body(200, `<html>sentinel`), "JSON object"},
		{"deep", "S190", body(200, strings.Repeat(`{"a":`, 20000)), "JSON object"},
		{"large", "S439", body(200, strings.Repeat(" ", 2<<20)), "1 MiB"},
	} {
		t.Run(row.name, func(t *testing.T) {
			o := newOP(testIssuer)
			row.change(o)
			m, err := o.client(t).Metadata(t.Context())
			if m != nil {
				t.Errorf("Metadata = %+v, want none (%s)", m, row.rule)
			}
			e := problem(t, err, issuer.Unreachable, "")
			if e.Op != "discovery" || !strings.Contains(e.Error(), row.text) {
				t.Errorf("error = %v, op %s; want op discovery and %q", e, e.Op, row.text)
			}
		})
	}
}

// S439: a body over the limit is an error, never a truncation: cut off after
// 1 MiB this one is good.
func TestMetadataPadded(t *testing.T) {
	o := newOP(testIssuer)
	o.answer(wellKnown, func(w http.ResponseWriter, r *http.Request) {
		w.Write(append(toJSON(o.doc), strings.Repeat(" ", 1<<20)...))
	})
	_, err := o.client(t).Metadata(t.Context())
	problem(t, err, issuer.Unreachable, "")
}

// S118, S191: optional endpoints that can't be used are as if unpublished.
func TestOptionalEndpointIgnored(t *testing.T) {
	log, wrote := logger()
	o := newOP(testIssuer)
	o.doc["revocation_endpoint"] = "http://op.test/revoke?sentinel"
	o.doc["end_session_endpoint"] = "javascript://op.test/"
	o.doc["userinfo_endpoint"] = "https://op.test/userinfo#sentinel"
	c := o.client(t, func(cfg *issuer.Config) { cfg.Logger = log })
	m, err := c.Metadata(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if m.RevocationEndpoint+m.EndSessionEndpoint+m.UserInfoEndpoint != "" {
		t.Errorf("Metadata = %+v, want the three endpoints empty", m)
	}
	if got := wrote(); strings.Count(got, "level=WARN") != 3 || strings.Contains(got, "sentinel") {
		t.Errorf("log = %s, want three warnings without the URLs", got)
	}
	problem(t, c.Revoke(t.Context(), secretRefresh, "refresh_token"), issuer.Unreachable, "")
	_, err = c.UserInfo(t.Context(), secretAccess, "alice")
	problem(t, err, issuer.Unreachable, "")
}

// S189: http only on loopback, or where allowed by name.
func TestPlainHTTP(t *testing.T) {
	for _, row := range []struct {
		id       string
		insecure bool
		ok       bool
	}{
		{"http://op.test/t", false, false},
		{"http://op.test/t", true, true},
		{"http://localhost:8080/t", false, true},
		{"http://127.0.0.1:8080/t", false, true},
		{"http://[::1]:8080/t", false, true},
		{"http://127.0.0.1.op.test/t", false, false},
		{"http://localhost.op.test/t", false, false},
	} {
		o := newOP(row.id)
		// Endpoints over TLS: it is the issuer that is judged.
		for name, value := range newOP("https://op.test").doc {
			if name != "issuer" {
				o.doc[name] = value
			}
		}
		_, err := o.client(t, func(cfg *issuer.Config) { cfg.InsecureHTTP = row.insecure }).Metadata(t.Context())
		if (err == nil) != row.ok {
			t.Errorf("Metadata of %s, insecure %v = %v, want ok %v", row.id, row.insecure, err, row.ok)
		}
		if n := len(o.requests("")); !row.ok && n != 0 {
			t.Errorf("%s was asked %d times, want none", row.id, n)
		}
	}
}

// S72, S158, S189: an issuer whose certificate nobody vouches for.
func TestSelfSigned(t *testing.T) {
	o, c := listen(t, func(cfg *issuer.Config) { cfg.HTTPClient = nil })
	_, err := c.Metadata(t.Context())
	e := problem(t, err, issuer.Unreachable, "")
	if !strings.Contains(e.Error(), "certificate") || len(o.requests("")) != 0 {
		t.Errorf("error = %v after %d requests, want one about the certificate and none", e, len(o.requests("")))
	}
}

// S189, X167: discovery follows no redirect.
func TestDiscoveryRedirect(t *testing.T) {
	elsewhere := newOP(testIssuer)
	srv := httptest.NewServer(elsewhere)
	defer srv.Close()
	o, c := listen(t)
	o.answer(wellKnown, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, srv.URL+"/t"+wellKnown+"?sentinel", http.StatusFound)
	})
	_, err := c.Metadata(t.Context())
	if e := problem(t, err, issuer.Unreachable, ""); e.Status != 302 {
		t.Errorf("status = %d, want 302", e.Status)
	}
	if n := len(elsewhere.requests("")); n != 0 {
		t.Errorf("the redirect was followed %d times", n)
	}
}

// S193: fifty callers make one request, and one who gives up fails nobody.
func TestDiscoverySingleFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOP(testIssuer)
		slow := o.routes[wellKnown]
		o.answer(wellKnown, func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(5 * time.Second)
			slow(w, r)
		})
		c := o.client(t)
		var wg sync.WaitGroup
		wg.Go(func() { // the first one, and so the one that begins the fetch
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := c.Metadata(ctx)
			problem(t, err, issuer.Unreachable, "")
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error = %v, want the caller's deadline", err)
			}
		})
		synctest.Wait()
		for range 50 {
			wg.Go(func() {
				if _, err := c.Metadata(t.Context()); err != nil {
					t.Errorf("Metadata = %v", err)
				}
			})
		}
		wg.Wait()
		if n := len(o.requests(wellKnown)); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
	})
}

// S193, S194: while the issuer is down calls fail at once, it is asked less and
// less often, and found again without a restart.
func TestDiscoveryBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOP(testIssuer)
		good := o.routes[wellKnown]
		o.answer(wellKnown, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) })
		c := o.client(t)
		began := time.Now()
		_, first := c.Metadata(t.Context())
		_, again := c.Metadata(t.Context())
		problem(t, again, issuer.Unreachable, "")
		if n := len(o.requests(wellKnown)); n != 1 || first != again {
			t.Errorf("%d requests, errors %v and %v; want 1 and the same error", n, first, again)
		}
		var asked []time.Duration
		for seen := 1; time.Since(began) < 5*time.Minute; time.Sleep(50 * time.Millisecond) {
			c.Metadata(t.Context())
			if n := len(o.requests(wellKnown)); n > seen {
				seen = n
				asked = append(asked, time.Since(began))
				began = began.Add(asked[len(asked)-1])
				if len(asked) == 8 {
					break
				}
			}
		}
		for i, pause := range []time.Duration{1, 2, 4, 8, 16, 30, 30, 30} {
			pause *= time.Second
			if len(asked) <= i || asked[i] < pause*3/4 || asked[i] > pause+100*time.Millisecond {
				t.Fatalf("pauses = %v, want the %dth about %v", asked, i+1, pause)
			}
		}
		o.answer(wellKnown, good)
		time.Sleep(30 * time.Second)
		if _, err := c.Metadata(t.Context()); err != nil {
			t.Errorf("Metadata of the issuer that is back = %v", err)
		}
	})
}

// S188, S193: the last good metadata stays, is fetched again after an hour, and
// never gives way to another issuer's or to none.
func TestMetadataRefetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, wrote := logger()
		o := newOP(testIssuer)
		good := o.routes[wellKnown]
		c := o.client(t, func(cfg *issuer.Config) { cfg.Logger = log })
		old, err := c.Metadata(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(59 * time.Minute)
		c.Metadata(t.Context())
		synctest.Wait()
		if n := len(o.requests(wellKnown)); n != 1 {
			t.Errorf("%d requests within the hour, want 1", n)
		}
		for i, bad := range []http.HandlerFunc{
			func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) },
			func(w http.ResponseWriter, r *http.Request) {
				other := newOP(testIssuer).doc
				other["issuer"] = "https://evil.test"
				writeJSON(w, 200, other)
			},
		} {
			o.answer(wellKnown, bad)
			time.Sleep(2 * time.Minute)
			for range 10 {
				if m, err := c.Metadata(t.Context()); m != old || err != nil {
					t.Errorf("Metadata during the refetch = %p, %v; want the old one", m, err)
				}
			}
			synctest.Wait()
			if m, err := c.Metadata(t.Context()); m != old || err != nil {
				t.Errorf("Metadata after a failed refetch = %p, %v; want the old one", m, err)
			}
			if n := len(o.requests(wellKnown)); n != i+2 {
				t.Errorf("%d requests, want %d", n, i+2)
			}
			if n := strings.Count(wrote(), "level=WARN"); n != i+1 {
				t.Errorf("%d warnings, want %d: %s", n, i+1, wrote())
			}
		}
		o.answer(wellKnown, good)
		o.doc["token_endpoint"] = testIssuer + "/token2"
		time.Sleep(time.Minute)
		c.Metadata(t.Context())
		synctest.Wait()
		if got := c.Known().TokenEndpoint; got != testIssuer+"/token2" {
			t.Errorf("token endpoint after the refetch = %s", got)
		}
	})
}

// S194: nothing waits longer than the time-out, a body that drips included.
func TestSlowBody(t *testing.T) {
	release := make(chan struct{})
	o, c := listen(t, func(cfg *issuer.Config) { cfg.Timeout = 200 * time.Millisecond })
	t.Cleanup(func() { close(release) })
	o.answer(wellKnown, func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte(`{"issuer":`))
		w.(http.Flusher).Flush()
		<-release
	})
	_, err := c.Metadata(t.Context())
	problem(t, err, issuer.Unreachable, "")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error = %v, want a deadline", err)
	}
}

// Close waits for the fetch under way; nothing begins after it.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOP(testIssuer)
		o.answer(wellKnown, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		c := o.client(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c.Metadata(ctx)
		began := time.Now()
		if err := c.Close(t.Context()); err != nil {
			t.Errorf("Close = %v, want nil", err)
		}
		if d := time.Since(began); d != 9*time.Second {
			t.Errorf("Close took %v, want the 9 s that the fetch had left", d)
		}
		time.Sleep(time.Minute)
		_, err := c.Metadata(t.Context())
		problem(t, err, issuer.Unreachable, "")
		if n := len(o.requests("")); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
	})
}

// Close gives up when its context ends, and takes the fetch along.
func TestCloseImpatient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOP(testIssuer)
		o.answer(wellKnown, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		c := o.client(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c.Metadata(ctx)
		if err := c.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close = %v, want its context's error", err)
		}
		synctest.Wait() // and the bubble ends only without goroutines
	})
}
