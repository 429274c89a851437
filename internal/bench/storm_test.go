package bench

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
	"github.com/agglestone/bff/store/memstore"
	"golang.org/x/oauth2"
)

const crowdSize = 200

// BenchmarkRefreshStorm is 200 requests at once on one session whose access
// token has expired. The token endpoint takes 50 ms, rotates refresh tokens,
// and ends the grant when one is used twice.
func BenchmarkRefreshStorm(b *testing.B) {
	b.Run("oauth2", func(b *testing.B) {
		iss := stormIssuer()
		h := newHandRolled(b, iss)
		sessions := map[string]*oauth2.Token{}
		var mu sync.Mutex
		h.done = func(w http.ResponseWriter, _ string, tok *oauth2.Token) {
			id := random()
			mu.Lock()
			sessions[id] = tok
			mu.Unlock()
			http.SetCookie(w, &http.Cookie{Name: "__Host-Http-bff", Value: id, Path: "/", HttpOnly: true, Secure: true})
		}
		protected := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := r.Cookie("__Host-Http-bff")
			if err != nil {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			mu.Lock()
			tok := sessions[c.Value]
			mu.Unlock()
			if tok, err = h.config.TokenSource(h.ctx, tok).Token(); err != nil {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			mu.Lock()
			sessions[c.Value] = tok
			mu.Unlock()
			w.WriteHeader(http.StatusNoContent)
		})
		storm(b, iss, h, protected)
	})
	b.Run("bff", func(b *testing.B) {
		iss := stormIssuer()
		auth := newBFF(b, iss, memstore.New(memstore.Options{}))
		protected := auth.ProtectFunc(func(w http.ResponseWriter, r *http.Request) {
			s, _ := bff.SessionFromContext(r.Context())
			if _, err := s.AccessToken(r.Context()); err != nil {
				auth.Error(w, r, err)
				return
			}
			w.WriteHeader(http.StatusNoContent)
		})
		requests, failed := storm(b, iss, auth.Routes(http.NotFoundHandler()), protected)
		if requests != int64(b.N) || failed != 0 {
			b.Fatalf("%d storms made %d token requests, and %d requests failed", b.N, requests, failed)
		}
	})
}

// stormIssuer returns an issuer whose first access tokens live for a second.
func stormIssuer() *bfftest.Issuer {
	iss := newIssuer(1 << 10)
	iss.Break("token:authorization_code", bfftest.Fault{EditJSON: func(v map[string]any) { v["expires_in"] = 1 }})
	iss.Break("token:refresh_token", bfftest.Fault{Delay: 50 * time.Millisecond})
	return iss
}

// storm signs b.N users in, lets their tokens expire, and sends the requests of
// one after the other, crowdSize at once.
func storm(b *testing.B, iss *bfftest.Issuer, app, protected http.Handler) (requests, failed int64) {
	b.Helper()
	cookies := make([]string, b.N)
	for i := range cookies {
		cookies[i] = cookieHeader(signIn(b, app, iss))
	}
	time.Sleep(1100 * time.Millisecond) // that is how long they live
	before := iss.Count("token:refresh_token")
	var lost atomic.Int64
	b.ResetTimer()
	for _, cookie := range cookies {
		begin := make(chan struct{})
		var wg sync.WaitGroup
		for range crowdSize {
			r := request(cookie)
			wg.Go(func() {
				<-begin
				w := httptest.NewRecorder()
				protected.ServeHTTP(w, r)
				if w.Code != http.StatusNoContent {
					lost.Add(1)
				}
			})
		}
		close(begin)
		wg.Wait()
	}
	b.StopTimer()
	requests, failed = int64(iss.Count("token:refresh_token")-before), lost.Load()
	b.ReportMetric(float64(requests)/float64(b.N), "token-requests/op")
	b.ReportMetric(float64(failed)/float64(b.N), "failed/op")
	return requests, failed
}
