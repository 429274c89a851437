package spa_test

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/agglestone/bff/spa"
)

func index(html string) fstest.MapFS {
	files := site()
	files["index.html"] = &fstest.MapFile{Data: []byte(html)}
	return files
}

func sha(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// As Vite writes it with html.cspNonce.
const nonceHTML = `<!doctype html><script nonce="__CSP_NONCE__">early()</script><style nonce="__CSP_NONCE__">p{}</style>` +
	`<meta property="csp-nonce" nonce="__CSP_NONCE__"><script type="module" src="/assets/index-QAG6_MKV.js" nonce="__CSP_NONCE__"></script>`

// Each response has its own nonce, in the page and in the policy.
func TestNonce(t *testing.T) {
	files := index(nonceHTML)
	h := newHandler(t, files, spa.Options{Nonce: "__CSP_NONCE__"})
	seen := map[string]bool{}
	for range 50 {
		res := do(h, "GET", "/orders", navigation...)
		got := body(t, res)
		m := regexp.MustCompile(`<script nonce="([A-Za-z0-9+/_-]{22,})">`).FindStringSubmatch(got)
		if m == nil {
			t.Fatalf("the page is %q", got)
		}
		nonce := m[1]
		if seen[nonce] {
			t.Fatalf("the nonce %s came twice", nonce)
		}
		seen[nonce] = true
		if got != strings.ReplaceAll(nonceHTML, "__CSP_NONCE__", nonce) || res.ContentLength != int64(len(got)) {
			t.Errorf("the page is %q of %d bytes", got, res.ContentLength)
		}
		csp := split(t, res.Header.Get("Content-Security-Policy"))
		if csp["script-src"] != "'self' 'nonce-"+nonce+"'" || csp["style-src"] != "'self' 'nonce-"+nonce+"'" || csp["object-src"] != "'none'" {
			t.Errorf("the policy is %q", csp)
		}
		if res.Header.Get("Cache-Control") != "no-store" || res.Header.Get("Etag") != "" || res.Header.Get("Last-Modified") != "" {
			t.Errorf("a page with a nonce can be kept: %v", res.Header)
		}
	}
	head := do(h, "HEAD", "/", navigation...)
	if got := body(t, head); got != "" || !strings.Contains(head.Header.Get("Content-Security-Policy"), "'nonce-") {
		t.Errorf("HEAD = %q %v", got, head.Header)
	}
	for _, target := range []string{"/favicon.svg", "/about.html", "/nothing"} {
		if csp := do(h, "GET", target).Header.Get("Content-Security-Policy"); strings.Contains(csp, "nonce-") {
			t.Errorf("GET %s, which has no placeholder, has a nonce in its policy: %q", target, csp)
		}
	}
	// A new build is seen.
	files["index.html"] = &fstest.MapFile{Data: []byte(nonceHTML + "<!-- 2 -->")}
	if got := body(t, do(h, "GET", "/", navigation...)); !strings.HasSuffix(got, "<!-- 2 -->") || strings.Contains(got, "__CSP_NONCE__") {
		t.Errorf("the new page is %q", got)
	}
}

// Inline scripts and styles are hashed as the browser's parser sees them.
func TestHashInline(t *testing.T) {
	html := "<!doctype html><script>early()\r\nlate()</script>\n" +
		"<SCRIPT TYPE=module\n>import './x.js'</SCRIPT >" +
		`<script type="application/json">{"a":1}</script>` +
		`<script src="/assets/index-QAG6_MKV.js">ignored</script>` +
		`<script type="importmap">{}</script>` +
		"<style media='print'>p > a{}</style>" +
		"<!-- <script>commented()</script> -->" +
		"<title><script>titled()</script></title>" +
		`<p title="<script>quoted()</script>">` +
		"<noscript><style>unseen{}</style></noscript>" +
		"<script>a</scripty>b</script>"
	h := newHandler(t, index(html), spa.Options{HashInline: true})
	res := do(h, "GET", "/", navigation...)
	if body(t, res) != html {
		t.Error("the page was changed")
	}
	csp := split(t, res.Header.Get("Content-Security-Policy"))
	want := strings.Join([]string{"'self'", sha("early()\nlate()"), sha("import './x.js'"), sha("{}"), sha("a</scripty>b")}, " ")
	if csp["script-src"] != want {
		t.Errorf("script-src is\n%s, want\n%s", csp["script-src"], want)
	}
	if want := "'self' " + sha("p > a{}"); csp["style-src"] != want {
		t.Errorf("style-src is %s, want %s", csp["style-src"], want)
	}
	if csp := do(h, "GET", "/favicon.svg").Header.Get("Content-Security-Policy"); strings.Contains(csp, "sha256") {
		t.Errorf("a file that is no document has hashes in its policy: %q", csp)
	}
	// A choice for 'unsafe-inline' stays in force: a hash would switch it off.
	h = newHandler(t, index(html), spa.Options{HashInline: true, Sources: map[string][]string{"style-src": {"'unsafe-inline'"}}})
	csp = split(t, do(h, "GET", "/", navigation...).Header.Get("Content-Security-Policy"))
	if csp["style-src"] != "'self' 'unsafe-inline'" || !strings.Contains(csp["script-src"], "sha256") {
		t.Errorf("the policy is %q", csp)
	}
	h = newHandler(t, index(html), spa.Options{HashInline: true, InsecureSources: map[string][]string{"script-src": {"'unsafe-inline'"}}})
	csp = split(t, do(h, "GET", "/", navigation...).Header.Get("Content-Security-Policy"))
	if csp["script-src"] != "'self' 'unsafe-inline'" || !strings.Contains(csp["style-src"], "sha256") {
		t.Errorf("the policy is %q", csp)
	}
	// Both at once: the nonce for some, hashes for the others.
	h = newHandler(t, index(`<script nonce="__CSP_NONCE__">a</script><script>b</script>`), spa.Options{HashInline: true, Nonce: "__CSP_NONCE__"})
	csp = split(t, do(h, "GET", "/", navigation...).Header.Get("Content-Security-Policy"))
	if !strings.Contains(csp["script-src"], "'nonce-") || !strings.Contains(csp["script-src"], sha("b")) {
		t.Errorf("the policy is %q", csp)
	}
}

// What the policy would block in the index is found at start, with its line and
// what helps; what it admits is not complained of.
func TestIndexProblems(t *testing.T) {
	const nonce = "__CSP_NONCE__"
	sources := func(directive, source string) spa.Options {
		return spa.Options{Sources: map[string][]string{directive: {source}}}
	}
	insecure := func(directive, source string) spa.Options {
		return spa.Options{InsecureSources: map[string][]string{directive: {source}}}
	}
	for _, c := range []struct {
		name string
		html string
		opts spa.Options
		want string // empty: no problem
	}{
		{"inline-script", "<!doctype html>\n\n<script>x</script>", spa.Options{}, "line 3: an inline script"},
		{"inline-script-after-crlf", "\r\n\r\n<script>x</script>", spa.Options{}, "line 3: an inline script"},
		{"inline-script-hashed", "<script>x</script>", spa.Options{HashInline: true}, ""},
		{"inline-script-nonce", `<script nonce="` + nonce + `">x</script>`, spa.Options{Nonce: nonce}, ""},
		{"inline-script-without-nonce", `<link nonce="` + nonce + `"><script>x</script>`, spa.Options{Nonce: nonce}, "an inline script"},
		{"inline-script-admitted", "<script>x</script>", insecure("script-src", "'unsafe-inline'"), ""},
		{"empty-src", "<script src>x</script>", spa.Options{}, ""},
		{"old-type", "<script type='text/javascript'>x</script>", spa.Options{}, "an inline script"},
		{"import-map", `<script type="importmap">{}</script>`, spa.Options{}, "an inline script"},
		{"data-block", `<script type="application/ld+json">{}</script>`, spa.Options{}, ""},
		{"comment-in-script", "<script><!-- x --></script>", spa.Options{HashInline: true}, "in a way of its own"},
		{"inline-style", "<style>p{}</style>", spa.Options{}, "line 1: an inline style"},
		{"inline-style-hashed", "<style>p{}</style>", spa.Options{HashInline: true}, ""},
		{"inline-style-nonce", `<style nonce=` + nonce + `>p{}</style>`, spa.Options{Nonce: nonce}, ""},
		{"inline-style-admitted", "<style>p{}</style>", sources("style-src", "'unsafe-inline'"), ""},
		{"style-attribute", `<div STYLE="height:1px">`, spa.Options{HashInline: true}, "a style attribute"},
		{"style-attribute-admitted", `<div style="height:1px">`, sources("style-src-attr", "'unsafe-inline'"), ""},
		{"style-attribute-admitted-too", `<div style="height:1px">`, sources("style-src", "'unsafe-inline'"), ""},
		{"handler", `<link rel="stylesheet" href="/x.css" media="print" onload="this.media='all'">`, spa.Options{HashInline: true}, "the attribute onload"},
		{"handler-admitted", `<body onload=go()>`, insecure("script-src-attr", "'unsafe-inline'"), ""},
		{"no-handler", `<x-list once only on>`, spa.Options{}, ""},
		{"base", `<base href="/">`, spa.Options{}, `Options.Sources["base-uri"]`},
		{"base-admitted", `<base href="/">`, sources("base-uri", "'self'"), ""},
		{"base-target", `<base target="_blank">`, spa.Options{}, ""},
		{"strict-dynamic", `<script src=/x.js></script><i nonce=` + nonce + `>`, spa.Options{Nonce: nonce, Sources: map[string][]string{"script-src": {"'strict-dynamic'"}}}, "without the nonce"},
		{"strict-dynamic-nonce", `<script src=/x.js nonce=` + nonce + `></script>`, spa.Options{Nonce: nonce, Sources: map[string][]string{"script-src": {"'strict-dynamic'"}}}, ""},
		{"commented", "<!-- > <script>x</script> --><!--><!---><p>", spa.Options{}, ""},
		{"comment-ends-early", "<!--><script>x</script> -->", spa.Options{}, "an inline script"},
		{"comment-ends-oddly", "<!-- --!><script>x</script>", spa.Options{}, "an inline script"},
		{"in-title", "<title><script>x</script></title>", spa.Options{}, ""},
		{"in-attribute", `<p title='<script>x</script>'>`, spa.Options{}, ""},
		{"odd-attributes", `<p =x a=b>c / d = "e>f" g><script>x</script>`, spa.Options{}, "an inline script"},
		{"first-attribute-counts", `<script nonce=` + nonce + ` nonce=x>x</script>`, spa.Options{Nonce: nonce}, ""},
		{"less-than", "a < b <3 <script>x</script>", spa.Options{}, "an inline script"},
		{"cut-off", "<script", spa.Options{}, ""},
		{"cut-off-comment", "<!-- <script>x</script>", spa.Options{}, ""},
		{"cut-off-attribute", `<p title="<script>x</script>`, spa.Options{}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := spa.Handler(index(c.html), c.opts)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("Handler complains: %v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("Handler says %v, want %q", err, c.want)
			}
		})
	}
	_, err := spa.Handler(index("<base href=/>\n<script>x</script>\n<p onclick=x style=x>"), spa.Options{})
	for _, want := range []string{"line 1: a base", "line 2: an inline script", "line 3: a style attribute", "line 3: the attribute onclick"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Handler says %v, want all at once, %q among them", err, want)
		}
	}
}

// The scanner takes any file, and finds no script that isn't written in it.
func FuzzIndex(f *testing.F) {
	for _, html := range []string{indexHTML, nonceHTML, "<script", "<!--", "<!-->", "<p a='", "</", "<a/b=c>", "<style>x</style", "<script>\r\r\n</script >"} {
		f.Add(html)
	}
	f.Fuzz(func(t *testing.T, html string) {
		h, err := spa.Handler(index(html), spa.Options{
			HashInline:      true,
			Sources:         map[string][]string{"base-uri": {"'self'"}, "style-src-attr": {"'unsafe-inline'"}},
			InsecureSources: map[string][]string{"script-src-attr": {"'unsafe-inline'"}},
		})
		if err != nil {
			if !strings.Contains(html, "<!--") {
				t.Fatalf("%q: %v", html, err)
			}
			return
		}
		res := do(h, "GET", "/", navigation...)
		if got := body(t, res); got != html {
			t.Fatalf("the page is %q, want %q", got, html)
		}
		csp := split(t, res.Header.Get("Content-Security-Policy"))
		if n := strings.Count(csp["script-src"], "'sha256-"); n > strings.Count(strings.ToLower(html), "<script") {
			t.Fatalf("%q has %d scripts: %s", html, n, csp["script-src"])
		}
		for _, kind := range []string{"script-src", "style-src"} {
			for source := range strings.FieldsSeq(csp[kind]) {
				if source != "'self'" && !regexp.MustCompile(`^'sha256-[A-Za-z0-9+/]{43}='$`).MatchString(source) {
					t.Fatalf("%q made %s %q", html, kind, csp[kind])
				}
			}
		}
	})
}

func ExampleOptions_nonce() {
	files := fstest.MapFS{"index.html": {Data: []byte(`<script nonce="__CSP_NONCE__">start()</script>`)}}
	h, err := spa.Handler(files, spa.Options{Nonce: "__CSP_NONCE__"})
	if err != nil {
		fmt.Println(err)
		return
	}
	res := do(h, "GET", "/", navigation...)
	nonce := regexp.MustCompile(`'nonce-(\w+)'`).FindStringSubmatch(res.Header.Get("Content-Security-Policy"))[1]
	page := make([]byte, res.ContentLength)
	res.Body.Read(page)
	fmt.Println(strings.ReplaceAll(string(page), nonce, "…"))
	// Output: <script nonce="…">start()</script>
}
