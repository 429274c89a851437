package proxytest

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
)

const appURL = "https://app.example.com"

// A gateway is an application that is all proxy, with somebody signed in.
type gateway struct {
	*httptest.Server
	auth   *bff.BFF
	cookie string // the Cookie header
}

// newGateway serves a table of upstreams, over TLS with HTTP/2 if secure.
func newGateway(t *testing.T, secure bool, rows ...bff.Upstream) *gateway {
	t.Helper()
	iss := bfftest.NewIssuer(bfftest.Options{})
	auth, err := bff.New(t.Context(), bff.Config{
		Issuer:      iss.URL(),
		ClientID:    iss.ClientID(),
		RedirectURL: appURL + "/auth/callback",
		Keys:        []bff.Key{bff.NewKey()},
		HTTPClient:  iss.Client(),
		Logger:      slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{auth: auth}
	app := auth.Routes(auth.Upstreams(rows...))
	b := bfftest.NewBrowser(app, appURL, iss)
	if r := b.SignIn("alice"); r.Err != nil {
		t.Fatal(r.Err)
	}
	for _, c := range b.Cookies() {
		if c.Name == "__Host-Http-bff" {
			g.cookie = c.Name + "=" + c.Value
		}
	}
	g.Server = httptest.NewUnstartedServer(app)
	if secure {
		g.EnableHTTP2 = true
		g.StartTLS()
	} else {
		g.Start()
	}
	t.Cleanup(func() {
		g.Close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := auth.Close(ctx); err != nil {
			t.Errorf("Close = %v", err)
		}
	})
	return g
}

// h2c serves h with HTTP/2 without TLS.
func h2c(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// hasToken reports whether an authorization is a bearer token and nothing else
// came along that is ours.
func hasToken(authorization []string) bool {
	return len(authorization) == 1 && strings.HasPrefix(authorization[0], "Bearer ey")
}
