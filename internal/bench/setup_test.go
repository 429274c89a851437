package bench

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
	"github.com/agglestone/bff/store/memstore"
)

const appURL = "https://app.example.com"

// key seals everything here, so that a session can be moved from one store to
// another.
var key = bff.NewKey()

// visited is how many different sessions the requests of a benchmark belong
// to, where there are that many. All of them were signed in; what else is in
// the store only takes up room.
const visited = 4096

// newIssuer returns an issuer whose access tokens have about size bytes.
func newIssuer(size int) *bfftest.Issuer {
	iss := bfftest.NewIssuer(bfftest.Options{AccessTokenLifetime: time.Hour})
	iss.Break("token", bfftest.Fault{EditAccessToken: func(t *bfftest.Token) {
		// The rest of the token has 650 bytes, and base64 makes four of three.
		t.Claims["pad"] = strings.Repeat("x", max(0, size-650)*3/4)
	}})
	return iss
}

// newBFF returns a relying party at iss that keeps its sessions in store. No
// refresh and no extension falls due while a benchmark runs.
func newBFF(b *testing.B, iss *bfftest.Issuer, store bff.Store) *bff.BFF {
	b.Helper()
	auth, err := bff.New(context.Background(), bff.Config{
		Issuer:       iss.URL(),
		ClientID:     iss.ClientID(),
		RedirectURL:  appURL + "/auth/callback",
		Keys:         []bff.Key{key},
		Store:        store,
		IdleTimeout:  4 * time.Hour,
		RefreshEvery: time.Hour,
		HTTPClient:   iss.Client(),
		Logger:       slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { auth.Close(context.Background()) })
	return auth
}

// A filed record is one that the library created.
type filed struct {
	key          string
	value        []byte
	expires, end time.Time
}

// A recorder is a store that notes the sessions created in it.
type recorder struct {
	*memstore.Store
	mu    sync.Mutex
	filed []filed
}

func (s *recorder) Create(ctx context.Context, key string, value []byte, expires, end time.Time) (bool, error) {
	if key[0] == 's' {
		s.mu.Lock()
		s.filed = append(s.filed, filed{key, value, expires, end})
		s.mu.Unlock()
	}
	return s.Store.Create(ctx, key, value, expires, end)
}

// A crowd is users who are signed in.
type crowd struct {
	iss     *bfftest.Issuer
	cookies []string // the Cookie header of each
	records []filed
}

var crowds = map[int]*crowd{}

// signedIn returns visited users who went through the whole sign-in, each in a
// browser of their own, and have access tokens of about size bytes.
func signedIn(b *testing.B, size int) *crowd {
	b.Helper()
	if c := crowds[size]; c != nil {
		return c
	}
	c := &crowd{iss: newIssuer(size)}
	store := &recorder{Store: memstore.New(memstore.Options{})}
	app := newBFF(b, c.iss, store).Routes(http.NotFoundHandler())
	began := time.Now()
	for range visited {
		br := bfftest.NewBrowser(app, appURL, c.iss)
		if r := br.SignIn("alice"); r.Err != nil {
			b.Fatal(r.Err)
		}
		c.cookies = append(c.cookies, cookieHeader(br))
	}
	c.records = store.filed
	if len(c.records) != visited {
		b.Fatalf("%d sign-ins filed %d sessions", visited, len(c.records))
	}
	b.Logf("%d sign-ins in %v; a record has %d bytes", visited, time.Since(began).Round(time.Millisecond), len(c.records[0].value))
	crowds[size] = c
	return c
}

// cookieHeader returns what br sends to the application.
func cookieHeader(br *bfftest.Browser) string {
	var pairs []string
	for _, c := range br.Cookies() {
		if strings.HasPrefix(c.Name, "__Host-Http-bff") {
			pairs = append(pairs, c.Name+"="+c.Value)
		}
	}
	return strings.Join(pairs, "; ")
}

// fill puts n sessions into store: those of c, as many as fit, evenly among
// copies of them under other keys. A copy takes as much room as a session but
// opens for nobody; to sign in a million users would take half an hour.
func (c *crowd) fill(b *testing.B, store bff.Store, n int) (cookies []string) {
	b.Helper()
	own := min(n, visited)
	each := n / own
	for i, r := range c.records[:own] {
		for j := range each {
			key := r.key
			if j > 0 {
				key = "s" + random()
			}
			if ok, err := store.Create(context.Background(), key, r.value, r.expires, r.end); !ok || err != nil {
				b.Fatalf("session %d: %v, %v", i, ok, err)
			}
		}
	}
	for range n - own*each {
		r := &c.records[0]
		store.Create(context.Background(), "s"+random(), r.value, r.expires, r.end)
	}
	return c.cookies[:own]
}

// random returns 43 characters, as record keys and scs tokens have.
func random() string {
	var b [32]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// request returns a script's request from the application's own page.
func request(cookie string) *http.Request {
	r, err := http.NewRequest("GET", appURL+"/api/things?page=2", nil)
	if err != nil {
		panic(err)
	}
	r.RequestURI = "/api/things?page=2"
	r.RemoteAddr = "192.0.2.1:1234"
	r.Header = http.Header{
		"Accept":          {"application/json"},
		"Accept-Encoding": {"gzip, deflate, br, zstd"},
		"Accept-Language": {"en-GB,en;q=0.9"},
		"Cookie":          {cookie},
		"Sec-Fetch-Dest":  {"empty"},
		"Sec-Fetch-Mode":  {"cors"},
		"Sec-Fetch-Site":  {"same-origin"},
		"User-Agent":      {"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36"},
	}
	return r
}

func requests(cookies []string) []*http.Request {
	rs := make([]*http.Request, len(cookies))
	for i, c := range cookies {
		rs[i] = request(c)
	}
	return rs
}

// A sink is a ResponseWriter that costs nothing and keeps the status.
type sink struct {
	header http.Header
	status int
}

func (w *sink) Header() http.Header         { return w.header }
func (w *sink) WriteHeader(status int)      { w.status = status }
func (w *sink) Write(p []byte) (int, error) { return len(p), nil }

// serve sends the requests round and round to h, which must answer each with
// the status want.
func serve(b *testing.B, h http.Handler, rs []*http.Request, want int) {
	b.Helper()
	runtime.GC() // of what was needed to get here
	w := &sink{header: http.Header{}}
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		w.status = 0
		clear(w.header)
		h.ServeHTTP(w, rs[i])
		if w.status != want {
			b.Fatalf("status %d, not %d", w.status, want)
		}
		if i++; i == len(rs) {
			i = 0
		}
	}
}

// TestMain is also the main function of the processes that BenchmarkProxy
// starts.
func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		play(role)
		return
	}
	os.Exit(m.Run())
}
