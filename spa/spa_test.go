package spa_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/agglestone/bff/spa"
)

const indexHTML = `<!doctype html><title>Shop</title><script type="module" src="/assets/index-QAG6_MKV.js"></script><div id="app"></div>`

// site is what a bundler leaves behind, and what should not be there.
func site() fstest.MapFS {
	return fstest.MapFS{
		"index.html":                      {Data: []byte(indexHTML)},
		"about.html":                      {Data: []byte("<!doctype html><title>About</title>")},
		"assets/index-QAG6_MKV.js":        {Data: []byte("console.log('index')")},
		"assets/index-BizvCfMX.css":       {Data: []byte("body{}")},
		"app.js":                          {Data: []byte("console.log('app')")},
		"app.js.br":                       {Data: []byte("brotli, 18 bytes..")},
		"app.js.gz":                       {Data: []byte("gzip.")},
		"favicon.svg":                     {Data: []byte("<svg/>")},
		"video.mp4":                       {Data: []byte("0123456789")},
		"weird.xyz":                       {Data: []byte("<script>alert(1)</script>")},
		"a b.txt":                         {Data: []byte("blank")},
		".env":                            {Data: []byte("SECRET=1")},
		".git/config":                     {Data: []byte("SECRET=1")},
		"assets/.htpasswd":                {Data: []byte("SECRET=1")},
		".well-known/security.txt":        {Data: []byte("Contact: mailto:security@example.com")},
		".well-known/.hidden":             {Data: []byte("SECRET=1")},
		"assets/deep/sub/thing.json":      {Data: []byte("{}")},
		"downloads/report.pdf":            {Data: []byte("%PDF")},
		"downloads/a\\b.txt":              {Data: []byte("SECRET=1")},
		"downloads/con:stream":            {Data: []byte("SECRET=1")},
		"downloads/report\\..\\x.txt":     {Data: []byte("SECRET=1")},
		"downloads/line\nbreak.txt":       {Data: []byte("SECRET=1")},
		"downloads/%2e%2e":                {Data: []byte("percent")},
		".well-known/dir/assetlinks.json": {Data: []byte("[]")},
	}
}

func newHandler(t *testing.T, files fs.FS, opts spa.Options) http.Handler {
	t.Helper()
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	h, err := spa.Handler(files, opts)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// The headers of a request, as browsers send them.
var (
	navigation  = []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Accept", "text/html,*/*;q=0.8"}
	script      = []string{"Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "script", "Accept", "*/*"}
	fetching    = []string{"Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty", "Accept", "text/html, */*"}
	oldBrowser  = []string{"Accept", "text/html,application/xhtml+xml,*/*;q=0.8"}
	plainClient = []string{"Accept", "*/*"}
)

func do(h http.Handler, method, target string, headers ...string) *http.Response {
	r := httptest.NewRequest(method, target, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, res *http.Response) string {
	t.Helper()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// The index answers people who open a page, and never a script, an image or a
// fetch that asks for something that isn't there (F17).
func TestFallback(t *testing.T) {
	h := newHandler(t, site(), spa.Options{})
	for _, c := range []struct {
		name    string
		method  string
		target  string
		headers []string
		status  int
		index   bool
	}{
		{"root", "GET", "/", navigation, 200, true},
		{"root-by-anything", "GET", "/", plainClient, 200, true},
		{"root-by-head", "HEAD", "/", nil, 200, false},
		{"route", "GET", "/orders/17", navigation, 200, true},
		{"route-with-query", "GET", "/orders?page=2", navigation, 200, true},
		{"route-with-dot", "GET", "/users/jane.doe", navigation, 200, true},
		{"route-with-escaped-slash", "GET", "/files/a%2Fb", navigation, 200, true},
		{"route-with-escaped-backslash", "GET", "/files/a%5Cb", navigation, 200, true},
		{"route-with-colon", "GET", "/urn:x:1", navigation, 200, true},
		{"route-through-service-worker", "GET", "/orders", []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "empty"}, 200, true},
		{"route-in-frame", "GET", "/orders", []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe"}, 200, true},
		{"route-by-old-browser", "GET", "/orders", oldBrowser, 200, true},
		{"directory", "GET", "/assets/", navigation, 200, true},
		{"directory-without-slash", "GET", "/assets", navigation, 200, true},
		{"file-with-slash", "GET", "/app.js/", navigation, 200, true},

		{"script-typo", "GET", "/assets/index-XXXXXXXX.js", script, 404, false},
		{"image-typo", "GET", "/logo.png", []string{"Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image", "Accept", "image/*"}, 404, false},
		{"fetch-typo-under-auth", "GET", "/auth/sesion", fetching, 404, false},
		{"fetch-of-route", "GET", "/orders", fetching, 404, false},
		{"fetch-by-old-browser", "GET", "/auth/sesion", plainClient, 404, false},
		{"marked-fetch-by-old-browser", "GET", "/auth/sesion", append([]string{"X-Csrf", "1"}, oldBrowser...), 404, false},
		{"jquery", "GET", "/orders", append([]string{"X-Requested-With", "XMLHttpRequest"}, oldBrowser...), 404, false},
		{"no-headers", "GET", "/orders", nil, 404, false},
		{"object-element", "GET", "/orders", []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "object", "Accept", "text/html"}, 404, false},
		{"embed-element", "GET", "/orders", []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "embed", "Accept", "text/html"}, 404, false},
		{"directory-listing", "GET", "/assets/", plainClient, 404, false},
		{"post", "POST", "/", navigation, 405, false},
		{"put-of-file", "PUT", "/app.js", plainClient, 405, false},
		{"options", "OPTIONS", "/app.js", plainClient, 405, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			res := do(h, c.method, c.target, c.headers...)
			got := body(t, res)
			if res.StatusCode != c.status {
				t.Fatalf("%s %s = %d, want %d", c.method, c.target, res.StatusCode, c.status)
			}
			if (got == indexHTML) != c.index {
				t.Errorf("%s %s = %q, index: want %t", c.method, c.target, got, c.index)
			}
			if cc := res.Header.Get("Cache-Control"); cc != "no-store" {
				t.Errorf("Cache-Control %q, want no-store", cc)
			}
			if html := strings.HasPrefix(res.Header.Get("Content-Type"), "text/html"); html != (c.status == 200) {
				t.Errorf("status %d with Content-Type %q", c.status, res.Header.Get("Content-Type"))
			}
			if c.status == 405 && res.Header.Get("Allow") != "GET, HEAD" {
				t.Errorf("Allow %q, want GET, HEAD", res.Header.Get("Allow"))
			}
		})
	}
}

// Of what lies in the directory, files with plain names are served, and nothing
// by a path that means something else to somebody (S397).
func TestPaths(t *testing.T) {
	h := newHandler(t, site(), spa.Options{})
	for _, c := range []struct {
		target string
		status int
		body   string
	}{
		{"/app.js", 200, "console.log('app')"},
		{"/%61pp.js", 200, "console.log('app')"},
		{"/a%20b.txt", 200, "blank"},
		{"/assets/deep/sub/thing.json", 200, "{}"},
		{"/about.html", 200, "<!doctype html><title>About</title>"},
		{"/.well-known/security.txt", 200, "Contact: mailto:security@example.com"},
		{"/.well-known/dir/assetlinks.json", 200, "[]"},
		{"/downloads/%252e%252e", 200, "percent"}, // what a file is really called
	} {
		res := do(h, "GET", c.target, plainClient...)
		if got := body(t, res); res.StatusCode != c.status || got != c.body {
			t.Errorf("GET %s = %d %q, want %d %q", c.target, res.StatusCode, got, c.status, c.body)
		}
	}
	// Neither to a script nor, where the path is a trick, to a person.
	for _, target := range []string{
		"/.env", "/%2eenv", "/.git/config", "/.git%2fconfig", "/assets/.htpasswd", "/assets/%2ehtpasswd",
		"/.well-known/.hidden", "/.well-known/change-password", "/.well-known/", "/.well-known/x%2fy", "/x/.well-known/security.txt",
		"/../spa.go", "/assets/../app.js", "/assets/%2e%2e/app.js", "/assets/..%2fapp.js", "/assets/..%5capp.js", "/assets/.%2e/app.js",
		"/./app.js", "/assets/./index-QAG6_MKV.js", "/..", "/%2e", "/...",
	} {
		for _, headers := range [][]string{plainClient, navigation} {
			if res := do(h, "GET", target, headers...); res.StatusCode != 404 {
				t.Errorf("GET %s = %d %q, want 404", target, res.StatusCode, body(t, res))
			}
		}
	}
	// No file, but perhaps a route.
	for _, target := range []string{
		"//app.js", "/assets//index-QAG6_MKV.js", "/app.js/", "/assets%2findex-QAG6_MKV.js", "/assets%2Findex-QAG6_MKV.js", "/assets%5Cindex-QAG6_MKV.js",
		"/app.js%00", "/app.js%0a", "/downloads/con:stream", "/downloads/a%5Cb.txt", "/downloads/a\\b.txt", "/downloads/con%3Astream", "/downloads/line%0Abreak.txt", "/app.js;x", "/app.js%3b", "/%ff",
	} {
		if res := do(h, "GET", target, plainClient...); res.StatusCode != 404 {
			t.Errorf("GET %s by a script = %d %q, want 404", target, res.StatusCode, body(t, res))
		}
		res := do(h, "GET", target, navigation...)
		if got := body(t, res); res.StatusCode != 200 || got != indexHTML {
			t.Errorf("GET %s by a person = %d %q, want the index", target, res.StatusCode, got)
		}
	}
}

// The same over a socket, where nothing cleans the target beforehand.
func TestRawTargets(t *testing.T) {
	srv := httptest.NewServer(newHandler(t, site(), spa.Options{}))
	defer srv.Close()
	for _, target := range []string{
		"/../.env", "/assets/../../.env", "/..%2f.env", "/..\\.env", "/assets\\..\\.env", "/%2e%2e/.env", "/.%2fenv",
		"http://other.example/.env", "//other.example/../.env", "/.env?x", "/.env#x", "/\x7f.env/..",
	} {
		conn, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nAccept: text/html\r\nConnection: close\r\n\r\n", target)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("GET %q: %v", target, err)
		}
		if got := body(t, res); res.StatusCode != 404 && res.StatusCode != 400 || strings.Contains(got, "SECRET") {
			t.Errorf("GET %q = %d %q, want 404 or 400", target, res.StatusCode, got)
		}
		conn.Close()
	}
}

// A directory opened as a root is not left by a symbolic link.
func TestSymlink(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	dist := filepath.Join(dir, "dist")
	if err := os.Mkdir(dist, 0o755); err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(dir, "secret.txt"), "SECRET=1")
	write(filepath.Join(dist, "index.html"), indexHTML)
	write(filepath.Join(dist, "real.txt"), "real")
	for link, to := range map[string]string{"out.txt": "../secret.txt", "in.txt": "real.txt", "loop.txt": "loop.txt"} {
		if err := os.Symlink(to, filepath.Join(dist, link)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dist)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	h := newHandler(t, root.FS(), spa.Options{})
	for target, want := range map[string]int{
		"/out.txt": 404, "/in.txt": 200, "/loop.txt": 404, "/real.txt": 200, "/real.txt/x": 404, "/" + strings.Repeat("x", 5000): 404,
	} {
		if res := do(h, "GET", target, plainClient...); res.StatusCode != want {
			t.Errorf("GET %.20s = %d, want %d", target, res.StatusCode, want)
		}
	}
}

// S294, S325-S327, S381, S382: each answer has the headers, refusals included.
func TestHeadersEverywhere(t *testing.T) {
	h := newHandler(t, site(), spa.Options{})
	for _, c := range []struct {
		method, target string
		headers        []string
		status         int
	}{
		{"GET", "/", navigation, 200},
		{"HEAD", "/", navigation, 200},
		{"GET", "/about.html", navigation, 200},
		{"GET", "/assets/index-QAG6_MKV.js", script, 200},
		{"GET", "/favicon.svg", plainClient, 200},
		{"GET", "/video.mp4", []string{"Range", "bytes=2-3"}, 206},
		{"GET", "/video.mp4", []string{"Range", "bytes=90-"}, 416},
		{"GET", "/video.mp4", []string{"If-None-Match", "*"}, 304},
		{"GET", "/video.mp4", []string{"If-Match", `"x"`}, 412},
		{"GET", "/nothing", script, 404},
		{"GET", "/.env", navigation, 404},
		{"POST", "/", navigation, 405},
	} {
		res := do(h, c.method, c.target, c.headers...)
		if res.StatusCode != c.status {
			t.Errorf("%s %s = %d, want %d", c.method, c.target, res.StatusCode, c.status)
		}
		for name, want := range map[string]string{
			"X-Content-Type-Options":       "nosniff",
			"Referrer-Policy":              "same-origin",
			"Cross-Origin-Opener-Policy":   "same-origin",
			"Cross-Origin-Resource-Policy": "same-origin",
		} {
			if got := res.Header.Values(name); len(got) != 1 || got[0] != want {
				t.Errorf("%s %s (%d): %s %q, want %q", c.method, c.target, c.status, name, got, want)
			}
		}
		csp := res.Header.Values("Content-Security-Policy")
		if len(csp) != 1 {
			t.Fatalf("%s %s: Content-Security-Policy %q, want one", c.method, c.target, csp)
		}
		for _, want := range []string{"frame-ancestors 'none'", "base-uri 'none'"} {
			if !strings.Contains(csp[0], want) {
				t.Errorf("%s %s: the policy %q lacks %s", c.method, c.target, csp[0], want)
			}
		}
		if p := res.Header.Get("Permissions-Policy"); !strings.Contains(p, "camera=()") || !strings.Contains(p, "geolocation=()") {
			t.Errorf("%s %s: Permissions-Policy %q", c.method, c.target, p)
		}
		if c.status >= 400 && c.status != 412 && c.status != 416 && !strings.HasPrefix(csp[0], "default-src 'none'") {
			t.Errorf("%s %s: a refusal with the policy %q", c.method, c.target, csp[0])
		}
	}
	want := "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
	if got := do(h, "GET", "/", navigation...).Header.Get("Content-Security-Policy"); got != want {
		t.Errorf("the policy is\n%s, want\n%s", got, want)
	}
}

// S296
func TestHSTS(t *testing.T) {
	app := newHandler(t, site(), spa.Options{})
	for _, c := range []struct {
		maxAge     time.Duration
		subdomains bool
		want       string
	}{
		{365 * 24 * time.Hour, true, "max-age=31536000; includeSubDomains"},
		{5 * time.Minute, false, "max-age=300"},
		{0, false, "max-age=0"},
		{-time.Hour, false, "max-age=0"},
	} {
		h := spa.HSTS(app, c.maxAge, c.subdomains)
		for _, res := range []*http.Response{do(h, "GET", "/", navigation...), do(h, "GET", "/nothing", script...), do(h, "POST", "/")} {
			if got := res.Header.Values("Strict-Transport-Security"); len(got) != 1 || got[0] != c.want {
				t.Errorf("HSTS(%v, %t) = %q, want %q", c.maxAge, c.subdomains, got, c.want)
			}
		}
	}
	if got := do(app, "GET", "/", navigation...).Header.Get("Strict-Transport-Security"); got != "" {
		t.Errorf("Strict-Transport-Security %q without being asked", got)
	}
}

// Mistakes are found at start, all at once.
func TestOptionErrors(t *testing.T) {
	for _, c := range []struct {
		name  string
		files fs.FS
		opts  spa.Options
		want  []string
	}{
		{"no-index", fstest.MapFS{}, spa.Options{}, []string{"no index", "index.html"}},
		{"other-index", site(), spa.Options{Index: "main.html"}, []string{"main.html"}},
		{"index-outside", site(), spa.Options{Index: "../index.html"}, []string{`"../index.html"`}},
		{"index-no-document", site(), spa.Options{Index: "app.js"}, []string{`"app.js" is not the name of an HTML file`}},
		{"index-directory", fstest.MapFS{"index.html/x": {}}, spa.Options{}, []string{"spa: "}},
		{"index-huge", fstest.MapFS{"index.html": {Data: make([]byte, 4<<20+1)}}, spa.Options{}, []string{"larger than 4 MiB"}},
		{"short-nonce", site(), spa.Options{Nonce: "nonce"}, []string{"at least 8"}},
		{"quoted-nonce", site(), spa.Options{Nonce: `"NONCE_NONCE"`}, []string{"without blanks, quotes"}},
		{"absent-nonce", site(), spa.Options{Nonce: "__CSP_NONCE__"}, []string{`"__CSP_NONCE__" of Options.Nonce is not in it`}},
		{"referrer", site(), spa.Options{ReferrerPolicy: "unsafe-url"}, []string{"ReferrerPolicy", "unsafe-url"}},
		{"opener", site(), spa.Options{OpenerPolicy: "unsafe-none"}, []string{"OpenerPolicy"}},
		{"resource", site(), spa.Options{ResourcePolicy: "same-origin\r\nX: y"}, []string{"ResourcePolicy"}},
		{"permission", site(), spa.Options{Permissions: []string{"camera", "kamera"}}, []string{"Permissions", `"kamera"`}},
		{"several", fstest.MapFS{}, spa.Options{OpenerPolicy: "x", EndSession: "x"}, []string{"OpenerPolicy", "EndSession", "no index"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, err := spa.Handler(c.files, c.opts)
			if err == nil || h != nil {
				t.Fatalf("Handler = %v, %v; want an error", h, err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error %q does not say %q", err, want)
				}
			}
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !strings.HasPrefix(line, "spa: ") {
					t.Errorf("the line %q does not say whose it is", line)
				}
			}
		})
	}
}

// A mistake in one option does not make others look like mistakes.
func TestOnlyMistakes(t *testing.T) {
	_, err := spa.Handler(index("<base href=/><script>x</script>"), spa.Options{
		HashInline: true,
		Sources:    map[string][]string{"base-uri": {"'self'"}, "img-src": {"*"}},
	})
	if err == nil || !strings.HasPrefix(err.Error(), `spa: Options.Sources: img-src: "*"`) || strings.Contains(err.Error(), "\n") {
		t.Errorf("Handler says %v, want that img-src is wrong and nothing else", err)
	}
}

func TestOptionsBecomeHeaders(t *testing.T) {
	h := newHandler(t, site(), spa.Options{
		ReferrerPolicy: "strict-origin",
		OpenerPolicy:   "same-origin-allow-popups",
		ResourcePolicy: "cross-origin",
		Permissions:    []string{"camera"},
	})
	res := do(h, "GET", "/", navigation...)
	for name, want := range map[string]string{
		"Referrer-Policy":              "strict-origin",
		"Cross-Origin-Opener-Policy":   "same-origin-allow-popups",
		"Cross-Origin-Resource-Policy": "cross-origin",
	} {
		if got := res.Header.Get(name); got != want {
			t.Errorf("%s %q, want %q", name, got, want)
		}
	}
	if p := res.Header.Get("Permissions-Policy"); !strings.Contains(p, "camera=(self)") || !strings.Contains(p, "microphone=()") {
		t.Errorf("Permissions-Policy %q", p)
	}
}

// broken fails to open or to read what it lists.
type broken struct {
	fs.FS
	open func(name string) (fs.File, error)
}

func (b *broken) Open(name string) (fs.File, error) {
	if b.open != nil {
		return b.open(name)
	}
	return b.FS.Open(name)
}

func (b *broken) Stat(name string) (fs.FileInfo, error) { return fs.Stat(b.FS, name) }

// A file that is there and can't be read is 503, says so in the log and nothing
// to the client, and is not remembered as broken.
func TestUnreadable(t *testing.T) {
	var log strings.Builder
	b := &broken{FS: site()}
	h, err := spa.Handler(b, spa.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	failing := map[string]func(string) (fs.File, error){
		"open": func(string) (fs.File, error) { return nil, errors.New("the disk is on fire") },
		"read": func(name string) (fs.File, error) {
			f, err := b.FS.Open(name)
			return &badReader{f}, err
		},
	}
	for kind, open := range failing {
		for _, target := range []string{"/favicon.svg", "/about.html"} {
			log.Reset()
			b.open = open
			res := do(h, "GET", target, navigation...)
			if got := body(t, res); res.StatusCode != 503 || got != "503 service unavailable\n" {
				t.Errorf("%s fails: GET %s = %d %q, want 503", kind, target, res.StatusCode, got)
			}
			for _, name := range []string{"Etag", "Last-Modified", "Content-Encoding"} {
				if got := res.Header.Get(name); got != "" {
					t.Errorf("%s fails: GET %s: %s %q", kind, target, name, got)
				}
			}
			if res.Header.Get("Cache-Control") != "no-store" || res.Header.Get("Retry-After") == "" {
				t.Errorf("%s fails: GET %s: %v", kind, target, res.Header)
			}
			if !strings.Contains(log.String(), "on fire") {
				t.Errorf("%s fails: the log says %q", kind, log.String())
			}
			b.open = nil
			if res := do(h, "GET", target, navigation...); res.StatusCode != 200 {
				t.Errorf("after %s failed: GET %s = %d, want 200", kind, target, res.StatusCode)
			}
			delete(b.FS.(fstest.MapFS), strings.TrimPrefix(target, "/")) // anew for the next kind
			b.FS.(fstest.MapFS)[strings.TrimPrefix(target, "/")] = &fstest.MapFile{Data: []byte("new " + kind)}
		}
	}
}

type badReader struct{ fs.File }

func (badReader) Read([]byte) (int, error)       { return 0, errors.New("the disk is on fire") }
func (badReader) Seek(int64, int) (int64, error) { return 0, nil }

// An index that vanishes is an outage, not a page.
func TestIndexVanishes(t *testing.T) {
	files := site()
	h := newHandler(t, files, spa.Options{})
	delete(files, "index.html")
	if res := do(h, "GET", "/orders", navigation...); res.StatusCode != 503 {
		t.Errorf("GET /orders = %d, want 503", res.StatusCode)
	}
	files["index.html"] = &fstest.MapFile{Data: []byte("<!doctype html>back")}
	if res := do(h, "GET", "/orders", navigation...); res.StatusCode != 200 || body(t, res) != "<!doctype html>back" {
		t.Errorf("GET /orders = %d, want the new index", res.StatusCode)
	}
}

// Under a prefix, paths are what is left of them.
func TestStripPrefix(t *testing.T) {
	h := http.StripPrefix("/shop/", newHandler(t, site(), spa.Options{}))
	for target, want := range map[string]string{"/shop/": indexHTML, "/shop/app.js": "console.log('app')", "/shop/orders": indexHTML} {
		if got := body(t, do(h, "GET", target, navigation...)); got != want {
			t.Errorf("GET %s = %q, want %q", target, got, want)
		}
	}
}
