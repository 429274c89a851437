package bench

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/agglestone/bff"
	"github.com/agglestone/bff/bfftest"
	"github.com/agglestone/bff/internal/record"
	"github.com/agglestone/bff/internal/seal"
	"github.com/agglestone/bff/store/memstore"
)

const appURL = "https://app.example.com"

// key seals everything here, so that a session can be moved from one store to
// another.
var key = bff.NewKey()

// visited is how many different sessions the requests of a benchmark belong
// to, where there are that many: more than the processor's caches hold.
const visited = 1 << 16

// newIssuer returns an issuer whose access tokens have about size bytes.
func newIssuer(size int) *bfftest.Issuer {
	iss := bfftest.NewIssuer(bfftest.Options{AccessTokenLifetime: time.Hour})
	iss.Break("token", bfftest.Fault{EditAccessToken: func(t *bfftest.Token) {
		// The rest of the token has 1160 bytes, and base64 makes four of three.
		t.Claims["pad"] = strings.Repeat("x", max(0, size-1200)*3/4)
	}})
	return iss
}

// newBFF returns a relying party at iss that keeps its sessions in store. No
// refresh and no extension falls due while a benchmark runs.
func newBFF(b *testing.B, iss *bfftest.Issuer, store bff.Store, opts ...func(*bff.Config)) *bff.BFF {
	b.Helper()
	cfg := bff.Config{
		Issuer:       iss.URL(),
		ClientID:     iss.ClientID(),
		RedirectURL:  appURL + "/auth/callback",
		Keys:         []bff.Key{key},
		Store:        store,
		IdleTimeout:  4 * time.Hour,
		RefreshEvery: time.Hour,
		HTTPClient:   iss.Client(),
		Logger:       slog.New(slog.DiscardHandler),
	}
	for _, o := range opts {
		o(&cfg)
	}
	auth, err := bff.New(context.Background(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { auth.Close(context.Background()) })
	return auth
}

// A recorder is a store that notes the last session created in it.
type recorder struct {
	*memstore.Store
	key          string
	value        []byte
	expires, end time.Time
	tag          string // of the subject
	note         []byte
}

func (s *recorder) Create(ctx context.Context, key string, value []byte, expires, end time.Time) (bool, error) {
	if key[0] == 's' {
		s.key, s.value, s.expires, s.end = key, value, expires, end
	}
	return s.Store.Create(ctx, key, value, expires, end)
}

func (s *recorder) Tag(ctx context.Context, tag, key string, note []byte, until time.Time) error {
	if s.tag == "" {
		s.tag, s.note = tag, note
	}
	return s.Store.Tag(ctx, tag, key, note, until)
}

// A template is a session that was signed in, to make others of: to sign in a
// million users would take an hour.
type template struct {
	iss          *bfftest.Issuer
	ring         *seal.Ring
	cookie       string // the session cookie's name
	others       string // other cookies of ours
	size         int    // of the record's value
	parts        [][]byte
	expires, end time.Time
	subject, tag string
	note         []byte
}

var templates = map[int]*template{}

// signedIn returns the session of somebody who went through the whole sign-in
// and has an access token of about size bytes.
func signedIn(b *testing.B, size int) *template {
	b.Helper()
	if t := templates[size]; t != nil {
		return t
	}
	iss := newIssuer(size)
	store := &recorder{Store: memstore.New(memstore.Options{})}
	app := newBFF(b, iss, store).Routes(http.NotFoundHandler())
	session, others, _ := strings.Cut(cookieHeader(signIn(b, app, iss)), "; ")
	name, value, _ := strings.Cut(session, "=")
	raw, err := base64.StdEncoding.DecodeString(key.Reveal())
	if err != nil {
		b.Fatal(err)
	}
	ring, err := seal.NewRing([][]byte{raw}, iss.URL(), iss.ClientID())
	if err != nil {
		b.Fatal(err)
	}
	id, ok := ring.ParseCookie(value)
	if !ok || id.RecordKey() != store.key {
		b.Fatalf("session cookie %q doesn't belong to record %q", value, store.key)
	}
	t := &template{iss: iss, ring: ring, cookie: name, others: others, size: len(store.value), expires: store.expires, end: store.end, tag: store.tag}
	if t.note, ok = ring.OpenNote(store.tag, store.key, store.note); !ok {
		b.Fatal("the session's note doesn't open")
	}
	rec, err := id.Open(store.key, store.value, record.Parts)
	if err != nil {
		b.Fatal(err)
	}
	for i := range record.Parts {
		part, err := rec.Part(nil, i)
		if err != nil {
			b.Fatal(err)
		}
		t.parts = append(t.parts, part)
	}
	head, err := record.ParseHead(t.parts[record.PartHead])
	if err != nil {
		b.Fatal(err)
	}
	if t.subject = head.Subject; id.Tag("sub", t.subject) != t.tag {
		b.Fatal("the session's first tag is not its subject's")
	}
	templates[size] = t
	return t
}

// fill files n sessions like t in store, each under a session ID of its own,
// and returns the Cookie headers of visited of them, or of all, as inLine does.
func (t *template) fill(b *testing.B, store bff.Store, n int) (cookies []string) {
	b.Helper()
	return t.fillUnder(b, store, n, nil)
}

// fillUnder does the same, and files each session under the tags that are
// returned for it, as a sign-in does.
func (t *template) fillUnder(b *testing.B, store bff.Store, n int, tags func() []string) (cookies []string) {
	b.Helper()
	if tags == nil {
		tags = func() []string { return nil }
	}
	now := time.Now()
	for i := range n {
		id := t.ring.NewID(now)
		value, err := id.Seal(t.parts...)
		if err != nil {
			b.Fatal(err)
		}
		key := id.RecordKey()
		for _, tag := range tags() {
			if err := store.(bff.Indexer).Tag(context.Background(), tag, key, id.SealNote(tag, key, t.note), t.end); err != nil {
				b.Fatal(err)
			}
		}
		if ok, err := store.Create(context.Background(), key, value, t.expires, t.end); !ok || err != nil {
			b.Fatalf("session %d: %v, %v", i, ok, err)
		}
		if spread(i, n) {
			cookies = append(cookies, t.cookie+"="+id.Cookie()+"; "+t.others)
		}
	}
	return inLine(cookies)
}

// inLine returns the strings in random order, but in one piece of memory, so
// that the processor has fetched the next when it is asked for: the header of
// a request that was just read is at hand, too.
func inLine(list []string) []string {
	mathrand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	all, at := strings.Join(list, ""), 0
	for i, s := range list {
		list[i] = all[at : at+len(s)]
		at += len(s)
	}
	return list
}

// spread reports whether the i-th of n sessions is visited: as many as are to
// be, evenly.
func spread(i, n int) bool { return n <= visited || i*visited/n != (i+1)*visited/n }

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

// A sink is a ResponseWriter that costs nothing and keeps the status.
type sink struct {
	header http.Header
	status int
}

func (w *sink) Header() http.Header         { return w.header }
func (w *sink) WriteHeader(status int)      { w.status = status }
func (w *sink) Write(p []byte) (int, error) { return len(p), nil }

// serve sends requests with one cookie after the other to h, round and round,
// which must answer each with the status want.
func serve(b *testing.B, h http.Handler, cookies []string, want int) {
	b.Helper()
	w := &sink{header: http.Header{}}
	r := request("")
	header := r.Header["Cookie"]
	i := 0
	next := func() {
		w.status = 0
		clear(w.header)
		header[0] = cookies[i]
		h.ServeHTTP(w, r)
		if w.status != want {
			b.Fatalf("status %d, not %d", w.status, want)
		}
		if i++; i == len(cookies) {
			i = 0
		}
	}
	runtime.GC() // of what was needed to get here
	b.ReportAllocs()
	before := cpuTime(b)
	for b.Loop() {
		next()
	}
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
}

// visit sends one request with each cookie to h.
func visit(b *testing.B, h http.Handler, cookies []string) {
	b.Helper()
	w := &sink{header: http.Header{}}
	r := request("")
	for _, c := range cookies {
		clear(w.header)
		r.Header["Cookie"][0] = c
		if h.ServeHTTP(w, r); w.status != http.StatusNoContent {
			b.Fatalf("status %d", w.status)
		}
	}
}

// cpuTime returns the processor time that this process has used, the garbage
// collector's included. Unlike the time of day it doesn't go on while other
// processes run.
func cpuTime(b *testing.B) time.Duration {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// TestMain is also the main function of the processes that benchmarks start.
func TestMain(m *testing.M) {
	if addr := os.Getenv(browsersVariable); addr != "" {
		playBrowsers(addr)
		return
	}
	if role := os.Getenv(roleVariable); role != "" {
		play(role)
		return
	}
	os.Exit(m.Run())
}
