package spa_test

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/agglestone/bff/spa"
)

const year = "max-age=31536000, immutable"

func TestCaching(t *testing.T) {
	h := newHandler(t, site(), spa.Options{})
	for target, want := range map[string]string{
		"/assets/index-QAG6_MKV.js":  year,
		"/assets/index-BizvCfMX.css": year,
		"/app.js":                    "no-cache",
		"/favicon.svg":               "no-cache",
		"/about.html":                "no-store",
		"/index.html":                "no-store",
	} {
		res := do(h, "GET", target, plainClient...)
		if got := res.Header.Get("Cache-Control"); res.StatusCode != 200 || got != want {
			t.Errorf("GET %s = %d, Cache-Control %q, want 200 and %q", target, res.StatusCode, got, want)
		}
		if etag := res.Header.Get("Etag"); (etag != "") != (want != "no-store") {
			t.Errorf("GET %s: ETag %q with %s", target, etag, want)
		}
	}
	all := newHandler(t, site(), spa.Options{Immutable: func(name string) bool { return name == "app.js" }})
	for target, want := range map[string]string{"/app.js": year, "/assets/index-QAG6_MKV.js": "no-cache"} {
		if got := do(all, "GET", target).Header.Get("Cache-Control"); got != want {
			t.Errorf("with Immutable: GET %s has Cache-Control %q, want %q", target, got, want)
		}
	}
}

// Behind a handler that forbids to store (as Protect does), nothing but the
// browser keeps a file; an answer that sets a cookie is kept by nobody (S370).
func TestCachingBehindProtect(t *testing.T) {
	app := newHandler(t, site(), spa.Options{})
	around := func(name, value string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "no-store")
			if name != "" {
				w.Header().Set(name, value)
			}
			app.ServeHTTP(w, r)
		})
	}
	for _, c := range []struct {
		h            http.Handler
		target, want string
	}{
		{around("", ""), "/assets/index-QAG6_MKV.js", "private, " + year},
		{around("", ""), "/app.js", "private, no-cache"},
		{around("", ""), "/", "no-store"},
		{around("Cache-Control", "private"), "/app.js", "private, no-cache"},
		{around("Set-Cookie", "a=b"), "/assets/index-QAG6_MKV.js", "no-store"},
		{around("Set-Cookie", "a=b"), "/app.js", "no-store"},
	} {
		if got := do(c.h, "GET", c.target).Header.Get("Cache-Control"); got != c.want {
			t.Errorf("GET %s: Cache-Control %q, want %q", c.target, got, c.want)
		}
	}
}

// An embedded file has no time: its ETag is what tells that it is the same, and
// is the same on every replica.
func TestConditional(t *testing.T) {
	files := site()
	h, replica := newHandler(t, files, spa.Options{}), newHandler(t, site(), spa.Options{})
	first := do(h, "GET", "/app.js")
	etag := first.Header.Get("Etag")
	if len(etag) < 20 || etag[0] != '"' {
		t.Fatalf("ETag %q, want a strong one", etag)
	}
	if first.Header.Get("Last-Modified") != "" {
		t.Errorf("Last-Modified %q of a file without a time", first.Header.Get("Last-Modified"))
	}
	if got := do(replica, "GET", "/app.js").Header.Get("Etag"); got != etag {
		t.Errorf("another replica's ETag is %q, want %q", got, etag)
	}
	if got := do(h, "GET", "/favicon.svg").Header.Get("Etag"); got == etag {
		t.Error("two files have the same ETag")
	}
	again := do(h, "GET", "/app.js", "If-None-Match", etag)
	if again.StatusCode != 304 || body(t, again) != "" || again.Header.Get("Etag") != etag || again.Header.Get("Cache-Control") != "no-cache" || again.Header.Get("Vary") != "Accept-Encoding" {
		t.Errorf("GET If-None-Match = %d %v", again.StatusCode, again.Header)
	}
	if res := do(h, "GET", "/app.js", "If-None-Match", `"other"`); res.StatusCode != 200 {
		t.Errorf("GET with another ETag = %d, want 200", res.StatusCode)
	}
	// Another content of the same name is noticed by its size,
	files["app.js"] = &fstest.MapFile{Data: []byte("console.log('new')")}
	files["app.js"].Data = append(files["app.js"].Data, ';')
	if res := do(h, "GET", "/app.js", "If-None-Match", etag); res.StatusCode != 200 {
		t.Errorf("GET of the new file = %d, want 200", res.StatusCode)
	}
	// or by its time.
	etag = do(h, "GET", "/app.js").Header.Get("Etag")
	at := time.Date(2026, 5, 4, 3, 2, 1, 5e8, time.UTC)
	files["app.js"] = &fstest.MapFile{Data: []byte("console.log('NEW');"), ModTime: at}
	res := do(h, "GET", "/app.js", "If-None-Match", etag)
	if res.StatusCode != 200 || res.Header.Get("Etag") == etag || res.Header.Get("Last-Modified") != "Mon, 04 May 2026 03:02:01 GMT" {
		t.Errorf("GET of the new file = %d %v", res.StatusCode, res.Header)
	}
	if res := do(h, "GET", "/app.js", "If-Modified-Since", "Mon, 04 May 2026 03:02:01 GMT"); res.StatusCode != 304 {
		t.Errorf("GET If-Modified-Since = %d, want 304", res.StatusCode)
	}
	// The ETag decides where both are sent (RFC 9110, section 13.1.3).
	if res := do(h, "GET", "/app.js", "If-None-Match", etag, "If-Modified-Since", "Mon, 04 May 2026 03:02:01 GMT"); res.StatusCode != 200 {
		t.Errorf("GET with an old ETag and the time = %d, want 200", res.StatusCode)
	}
	// A document comes whole, whatever is asked.
	for _, headers := range [][]string{{"If-None-Match", "*"}, {"Range", "bytes=0-1"}, {"If-Match", `"x"`}, {"If-Modified-Since", "Mon, 04 May 2099 03:02:01 GMT"}} {
		res := do(h, "GET", "/index.html", headers...)
		if got := body(t, res); res.StatusCode != 200 || got != indexHTML || res.ContentLength != int64(len(indexHTML)) {
			t.Errorf("GET /index.html with %s = %d %q", headers, res.StatusCode, got)
		}
	}
}

func TestRangesAndHead(t *testing.T) {
	h := newHandler(t, site(), spa.Options{})
	etag := do(h, "GET", "/video.mp4").Header.Get("Etag")
	for _, c := range []struct {
		headers []string
		status  int
		body    string
	}{
		{[]string{"Range", "bytes=2-4"}, 206, "234"},
		{[]string{"Range", "bytes=-3"}, 206, "789"},
		{[]string{"Range", "bytes=2-4", "If-Range", etag}, 206, "234"},
		{[]string{"Range", "bytes=2-4", "If-Range", `"other"`}, 200, "0123456789"},
		{[]string{"Range", "bytes=20-"}, 416, "invalid range: failed to overlap\n"},
		{[]string{"Range", "lines=1"}, 416, "invalid range\n"},
	} {
		res := do(h, "GET", "/video.mp4", c.headers...)
		if got := body(t, res); res.StatusCode != c.status || got != c.body {
			t.Errorf("GET %q = %d %q, want %d %q", c.headers, res.StatusCode, got, c.status, c.body)
		}
	}
	res := do(h, "HEAD", "/video.mp4")
	if got := body(t, res); res.StatusCode != 200 || got != "" || res.Header.Get("Content-Length") != "10" || res.Header.Get("Etag") != etag || res.Header.Get("Content-Type") != "video/mp4" {
		t.Errorf("HEAD = %d %q %v", res.StatusCode, got, res.Header)
	}
	res = do(h, "HEAD", "/app.js", "Accept-Encoding", "br")
	if got := body(t, res); got != "" || res.Header.Get("Content-Length") != "18" || res.Header.Get("Content-Encoding") != "br" {
		t.Errorf("HEAD of a compressed file = %q %v", got, res.Header)
	}
}

// Compressed siblings go to who takes them (RFC 9110, section 12.5.3).
func TestEncodings(t *testing.T) {
	h := newHandler(t, site(), spa.Options{})
	for _, c := range []struct{ accept, want string }{
		{"gzip, deflate, br, zstd", "br"},
		{"gzip", "gzip"},
		{"x-gzip", "gzip"},
		{"GZIP", "gzip"},
		{"br;q=0.5, gzip;q=0.8", "gzip"},
		{"br;q=0.5,gzip;q=0.5", "br"},
		{"br;q=0, gzip", "gzip"},
		{"br; q=0, gzip ; q=0", ""},
		{"*", "br"},
		{"*;q=0", ""},
		{"br;q=0, *", "gzip"},
		{"*, br;q=0", "gzip"},
		{"identity, br;q=0.5", ""},
		{"identity;q=0.5, gzip;q=0.9", "gzip"},
		{"identity;q=0", ""}, // nothing fits: the plain file does no harm
		{"deflate, zstd", ""},
		{"brotli", ""},
		{"br;q=2", ""},
		{"br;q=x", ""},
		{"", ""},
	} {
		res := do(h, "GET", "/app.js", "Accept-Encoding", c.accept)
		want := map[string]string{"br": "brotli, 18 bytes..", "gzip": "gzip.", "": "console.log('app')"}[c.want]
		if got := body(t, res); res.Header.Get("Content-Encoding") != c.want || got != want || res.ContentLength != int64(len(want)) {
			t.Errorf("Accept-Encoding %q: Content-Encoding %q, %q of %d bytes, want %q", c.accept, res.Header.Get("Content-Encoding"), got, res.ContentLength, c.want)
		}
		if res.Header.Get("Vary") != "Accept-Encoding" || res.Header.Get("Content-Type") != "text/javascript; charset=utf-8" {
			t.Errorf("Accept-Encoding %q: %v", c.accept, res.Header)
		}
	}
	if vary := do(h, "GET", "/favicon.svg", "Accept-Encoding", "br").Header.Get("Vary"); vary != "" {
		t.Errorf("Vary %q of a file that has no other form", vary)
	}
	plain, br := do(h, "GET", "/app.js"), do(h, "GET", "/app.js", "Accept-Encoding", "br")
	if plain.Header.Get("Etag") == br.Header.Get("Etag") {
		t.Error("two forms have the same strong ETag (RFC 9110, section 8.8.3.3)")
	}
	if res := do(h, "GET", "/app.js", "Accept-Encoding", "br", "If-None-Match", br.Header.Get("Etag")); res.StatusCode != 304 {
		t.Errorf("GET of the compressed form again = %d, want 304", res.StatusCode)
	}
	if res := do(h, "GET", "/app.js", "Accept-Encoding", "br", "If-Match", `"x"`); res.StatusCode != 412 || res.ContentLength > 0 {
		t.Errorf("GET with a precondition that fails = %d, %d bytes", res.StatusCode, res.ContentLength)
	}
	res := do(h, "GET", "/app.js", "Accept-Encoding", "br", "Range", "bytes=0-6")
	if got := body(t, res); res.StatusCode != 206 || got != "console" || res.Header.Get("Content-Encoding") != "" {
		t.Errorf("a range = %d %q %v, want one of the plain file", res.StatusCode, got, res.Header)
	}
}

// A sibling that is older than its file was made of another one.
func TestStaleSibling(t *testing.T) {
	at := time.Unix(1_790_000_000, 700_000_000)
	for _, c := range []struct {
		name string
		at   time.Time
		want string
	}{
		{"older", at.Add(-time.Second), ""},
		{"without-fractions", at.Truncate(time.Second), "gzip"},
		{"same", at, "gzip"},
		{"newer", at.Add(time.Hour), "gzip"},
	} {
		files := site()
		files["app.js"].ModTime, files["app.js.gz"].ModTime = at, c.at
		delete(files, "app.js.br")
		if got := do(newHandler(t, files, spa.Options{}), "GET", "/app.js", "Accept-Encoding", "gzip").Header.Get("Content-Encoding"); got != c.want {
			t.Errorf("%s: Content-Encoding %q, want %q", c.name, got, c.want)
		}
	}
	files := site()
	delete(files, "app.js.gz")
	delete(files, "app.js.br")
	files["app.js.gz/x"] = &fstest.MapFile{}
	if res := do(newHandler(t, files, spa.Options{}), "GET", "/app.js", "Accept-Encoding", "gzip"); res.StatusCode != 200 || res.Header.Get("Content-Encoding") != "" {
		t.Errorf("a directory for a sibling: %d %v", res.StatusCode, res.Header)
	}
}

// The index has siblings too, unless each response is another.
func TestEncodedIndex(t *testing.T) {
	files := site()
	files["index.html.gz"] = &fstest.MapFile{Data: []byte("zipped index")}
	res := do(newHandler(t, files, spa.Options{}), "GET", "/orders", append([]string{"Accept-Encoding", "gzip", "Range", "bytes=0-1"}, navigation...)...)
	if got := body(t, res); res.StatusCode != 200 || got != "zipped index" || res.Header.Get("Content-Encoding") != "gzip" || res.Header.Get("Content-Length") != "12" || res.Header.Get("Vary") != "Accept-Encoding" {
		t.Errorf("GET = %d %q %v", res.StatusCode, got, res.Header)
	}
	files["index.html"] = &fstest.MapFile{Data: []byte(`<script nonce="__CSP_NONCE__">1</script>`)}
	res = do(newHandler(t, files, spa.Options{Nonce: "__CSP_NONCE__"}), "GET", "/", "Accept-Encoding", "gzip")
	if got := body(t, res); res.Header.Get("Content-Encoding") != "" || !strings.HasPrefix(got, "<script nonce=") {
		t.Errorf("with a nonce: %q %v", got, res.Header)
	}
}

// Types come from our own table, whatever the system's says, and are never
// guessed from the content.
func TestTypes(t *testing.T) {
	for _, ext := range []string{".js", ".css", ".wasm", ".svg"} {
		if err := mime.AddExtensionType(ext, "application/x-wrong"); err != nil {
			t.Fatal(err)
		}
	}
	files := site()
	want := map[string]string{
		"a.js": "text/javascript; charset=utf-8", "a.mjs": "text/javascript; charset=utf-8", "a.css": "text/css; charset=utf-8",
		"a.wasm": "application/wasm", "a.svg": "image/svg+xml", "a.json": "application/json", "a.map": "application/json",
		"a.webmanifest": "application/manifest+json", "a.woff2": "font/woff2", "a.ICO": "image/x-icon", "a.JPG": "image/jpeg",
		"a.txt": "text/plain; charset=utf-8", "a.pdf": "application/pdf", "a.html": "text/html; charset=utf-8", "a.HTM": "text/html; charset=utf-8",
		"noext": "application/octet-stream", "a.unknown": "application/octet-stream", "weird.xyz": "application/octet-stream",
		".well-known/apple-app-site-association": "application/json",
	}
	for name := range want {
		files[name] = &fstest.MapFile{Data: []byte("<html><script>alert(1)</script>")}
	}
	h := newHandler(t, files, spa.Options{})
	for name, want := range want {
		res := do(h, "GET", "/"+name)
		if got := res.Header.Values("Content-Type"); len(got) != 1 || got[0] != want {
			t.Errorf("GET /%s: Content-Type %q, want %q", name, got, want)
		}
	}
}

// counting counts what is read, and has files that can't seek.
type counting struct {
	fs.FS
	reads atomic.Int64
	seeks bool
}

type countingFile struct {
	fs.File
	c *counting
}

type seekingFile struct{ countingFile }

func (c *counting) Stat(name string) (fs.FileInfo, error) { return fs.Stat(c.FS, name) }

func (c *counting) Open(name string) (fs.File, error) {
	f, err := c.FS.Open(name)
	if err != nil {
		return nil, err
	}
	if c.seeks {
		return seekingFile{countingFile{f, c}}, nil
	}
	return countingFile{f, c}, nil
}

func (f countingFile) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	f.c.reads.Add(int64(n))
	return n, err
}

func (f seekingFile) Seek(offset int64, whence int) (int64, error) {
	return f.File.(io.Seeker).Seek(offset, whence)
}

// A digest is made once for a file, however many ask at once.
func TestDigestOnce(t *testing.T) {
	const size = 1 << 20
	c := &counting{FS: fstest.MapFS{
		"index.html": {Data: []byte(indexHTML)},
		"big.bin":    {Data: make([]byte, size)},
	}, seeks: true}
	h := newHandler(t, c, spa.Options{})
	c.reads.Store(0)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if res := do(h, "HEAD", "/big.bin"); res.StatusCode != 200 || res.Header.Get("Etag") == "" {
				t.Errorf("HEAD = %d %v", res.StatusCode, res.Header)
			}
		})
	}
	wg.Wait()
	if got := c.reads.Load(); got != size {
		t.Errorf("20 requests read %d bytes, want %d", got, size)
	}
	// Nor is the index read for each navigation.
	c.reads.Store(0)
	do(h, "GET", "/orders", navigation...)
	if got := c.reads.Load(); got != 0 {
		t.Errorf("a navigation read %d bytes", got)
	}
}

// numbers has a file for every number, and an index.
type numbers struct{}

func (numbers) Open(name string) (fs.File, error) {
	if _, err := strconv.Atoi(name); err != nil && name != "index.html" {
		return nil, fs.ErrNotExist
	}
	return fstest.MapFS{name: {Data: []byte(name)}}.Open(name)
}

// What is remembered of files is bounded by forgetting.
func TestManyFiles(t *testing.T) {
	c := &counting{FS: numbers{}, seeks: true}
	h := newHandler(t, c, spa.Options{})
	tags := map[string]bool{}
	ask := func(i int) (read int64) {
		before := c.reads.Load()
		tags[do(h, "HEAD", fmt.Sprintf("/%d", i)).Header.Get("Etag")] = true
		return c.reads.Load() - before
	}
	const few, many = 1000, 5000
	for i := range many {
		ask(i)
		if i == few && ask(0) != 0 {
			t.Errorf("the first file was read again after %d others", few)
		}
	}
	if ask(0) == 0 {
		t.Errorf("the first file is still remembered after %d others", many)
	}
	if len(tags) != many {
		t.Errorf("%d files have %d ETags", many, len(tags))
	}
}

// A file system whose files can't seek, such as a zip archive's, works within
// the bound; a large file has no ETag and goes by its time.
func TestFileSystems(t *testing.T) {
	at := time.Unix(1_790_000_000, 0)
	files := site()
	const limit = 64 << 20
	files["large.bin"] = &fstest.MapFile{Data: make([]byte, limit+1), ModTime: at}
	c := &counting{FS: files}
	h := newHandler(t, c, spa.Options{})
	res := do(h, "GET", "/video.mp4", "Range", "bytes=2-4")
	if got := body(t, res); res.StatusCode != 206 || got != "234" || res.Header.Get("Etag") == "" {
		t.Errorf("a range of a file that can't seek = %d %q", res.StatusCode, got)
	}
	c.reads.Store(0)
	if res := do(h, "HEAD", "/large.bin"); res.StatusCode != 503 || c.reads.Load() != 0 {
		t.Errorf("a large file that can't seek = %d after %d bytes, want 503 at once", res.StatusCode, c.reads.Load())
	}
	c.seeks = true
	c.reads.Store(0)
	res = do(h, "HEAD", "/large.bin")
	if res.StatusCode != 200 || res.Header.Get("Etag") != "" || res.Header.Get("Last-Modified") == "" || c.reads.Load() != 0 {
		t.Errorf("a large file = %d %v after %d bytes", res.StatusCode, res.Header, c.reads.Load())
	}
}

func TestHashed(t *testing.T) {
	for _, name := range []string{
		// Vite, Rollup
		"assets/index-QAG6_MKV.js", "assets/index-BizvCfMX.css", "assets/late-Cv_QU6CG.css", "assets/late-DaPb_T6L.js", "assets/logo-B1x-Q9_k.svg",
		"assets/a-D-aPb_T6.js", "assets/vendor-react-dom-BxQ3k2aZ.js", "assets/worker-BxQ3k2aZ.js.map", "assets/jsx-runtime.BxQ3k2aZ.mjs",
		// webpack, Create React App, Parcel
		"static/js/main.0c2e8ab4.js", "static/css/main.f855e6bc.css", "static/media/logo.6ce24c58023cc2f8fd88fe9d219db6c6.svg",
		"static/js/787.1f0f6cd4.chunk.js", "index.5b4d0c1f.js",
		// esbuild, Angular
		"main-5QKBJFRB.js", "polyfills-FFHMD2TL.js", "styles-5INURTSO.css", "media/roboto-UYZNKZQ7.woff2", "main.3f8c1bb4ad5ee4e9.js",
		// whole directories
		"_app/immutable/entry/start.abc.js", "_next/static/chunks/webpack.js", "_astro/hoisted.js", "_nuxt/entry.js",
	} {
		if !spa.Hashed(name) {
			t.Errorf("Hashed(%q) = false", name)
		}
	}
	for _, name := range []string{
		"index.html", "app.js", "sw.js", "service-worker.js", "workbox-window.prod.js", "jquery-3.7.1.min.js", "bootstrap.bundle.min.js",
		"vendor-document.js", "chunk-Dashboard.js", "pages-UserSettings.js", "polyfill-webworkers.js", "app-VERSIONS.js",
		"logo-document.svg", "logo-Inverted.svg", "logo-DarkMode.svg", "hero-Desktop2x.png", "photo-1280x720.jpg", "photo-1920x1080.jpg",
		"report-20261124.pdf", "report-2026-11-24.pdf", "fonts/inter-v12-bold.woff2", "fonts/inter-v12-latin-regular.woff2", "roboto-v30-latin.woff2",
		"favicon-32x32.png", "android-chrome-512x512.png", "apple-touch-icon.png", "manifest.webmanifest", "site.webmanifest", "robots.txt",
		"_nuxt/builds/latest.json", "_app/version.json", "assets/QAG6_MKV", "downloads/Handbook-2026.pdf", "a-b", "", "-.js", "x-.js",
		"deadbeef.js", "2026-11-24.js", "main-\xff\xfe\xfd12345678.js",
	} {
		if spa.Hashed(name) {
			t.Errorf("Hashed(%q) = true", name)
		}
	}
}

// How often digests are not taken for one, per kind: what the documentation of
// Hashed says.
func TestHashedRates(t *testing.T) {
	const base64url = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	random := rand.New(rand.NewPCG(1, 2))
	digest := func(alphabet string, n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = alphabet[random.IntN(len(alphabet))]
		}
		return string(b)
	}
	const n = 20000
	for _, c := range []struct {
		name, alphabet, format string
		length                 int
		atMost                 float64
	}{
		{"vite-code", base64url, "assets/index-%s.js", 8, 0.06},
		{"vite-other", base64url, "assets/photo-%s.png", 8, 0.30},
		{"webpack", "0123456789abcdef", "static/js/main.%s.js", 8, 0.04},
		{"webpack-long", "0123456789abcdef", "main.%s.js", 20, 0.001},
		{"esbuild", "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", "main-%s.js", 8, 0.22},
	} {
		missed := 0
		for range n {
			if !spa.Hashed(fmt.Sprintf(c.format, digest(c.alphabet, c.length))) {
				missed++
			}
		}
		rate := float64(missed) / n
		t.Logf("%s: %.2f%% missed", c.name, 100*rate)
		if rate > c.atMost {
			t.Errorf("%s: %.2f%% missed, want at most %.2f%%", c.name, 100*rate, 100*c.atMost)
		}
	}
}

// Every file of a directory can be had by its name.
func TestEveryFile(t *testing.T) {
	files := site()
	h := newHandler(t, files, spa.Options{})
	for _, name := range slices.Sorted(maps.Keys(files)) {
		plain := !strings.ContainsAny(name, "\\:\n") &&
			!strings.Contains("/"+strings.TrimPrefix(name, ".well-known/"), "/.")
		target := "/" + strings.NewReplacer("%", "%25", " ", "%20", "\n", "%0A").Replace(name)
		res := do(h, "GET", target)
		if got := body(t, res); (res.StatusCode == 200 && got == string(files[name].Data)) != plain {
			t.Errorf("GET %q = %d %q, served: want %t", target, res.StatusCode, got, plain)
		}
	}
}
