package returnto_test

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/agglestone/bff/internal/returnto"
)

// notPages stands for a relying party with the default routes and a proxy at
// /api/. It compares exactly; what is forgiving is Clean.
func notPages(path string) bool {
	switch path {
	case "/login", "/logout", "/auth/callback", "/auth/session", "/auth/backchannel-logout":
		return true
	}
	return strings.HasPrefix(path, "/api/")
}

func TestRefused(t *testing.T) {
	for _, tt := range []struct{ name, raw string }{
		// Other origins, written plainly.
		{"X1", "https://evil.com"},
		{"scheme-relative", "//evil.com"},
		{"X3", "/\\evil.com"},
		{"two-backslashes", "\\\\evil.com"},
		{"X5", "///evil.com"},
		{"four-slashes", "////evil.com"},
		{"X7", "/./\\evil.com"},
		{"dot-then-slashes", "/.//evil.com"},
		{"X9", "/\\/evil.com"},
		{"backslash-slash", "\\/evil.com"},
		{"one-slash-after-scheme", "https:/evil.com"},
		{"X11", "http:/evil.com"},
		{"no-slash-after-scheme", "https:evil.com"},
		{"X13", "http:\\\\evil.com"},
		{"three-slashes-after-scheme", "https:///evil.com"},

		// What a browser removes before it looks.
		{"X15", "/\n/evil.com"},
		{"tab", "/\t/evil.com"},
		{"carriage-return", "/\r/evil.com"},
		{"tab-first", "\t//evil.com"},
		{"X17", " //evil.com"},
		{"leading-space-alone", " /dash"},
		{"trailing-space", "/dash "},
		{"inner-space", "/da sh"},
		{"NUL", "/\x00/evil.com"},
		{"NUL-first", "\x00//evil.com"},
		{"unit-separator-first", "\x1f//evil.com"},
		{"DEL", "/\x7f/evil.com"},
		{"newline-in-query", "/dash?a=\r\nSet-Cookie: x=y"},
		{"newline-in-fragment", "/dash#\n"},

		// What turns when a decoded path is written back.
		{"X19", "/%09/evil.com"},
		{"escaped-newline", "/%0a//evil.com"},
		{"escaped-return", "/%0D%0ALocation:%20https://evil.com"},
		{"escaped-NUL", "/dash%00.png"},
		{"escaped-unit-separator", "/dash%1F"},
		{"escaped-DEL", "/dash%7f"},
		{"X21", "/%5cevil.com"},
		{"escaped-backslash-upper-case", "/%5C%5Cevil.com"},
		{"escaped-slash", "/%2f/evil.com"},
		{"escaped-slashes", "/%2F%2fevil.com"},
		{"escaped-slash-later", "/a/..%2f..%2fevil"},

		// Authorities.
		{"X23", "https://app.example@evil.com/"},
		{"userinfo-scheme-relative", "//app.example@evil.com/"},
		{"X25", "https://evil.com\\@app.example/"},
		{"escaped-userinfo", "//app.example%40evil.com"},
		{"X27", "https://evilapp.example/"},
		{"our-name-in-front", "https://app.example.evil.com/"},
		{"our-own-origin", "https://app.example/dash"},
		{"our-own-host", "//app.example/dash"},
		{"trailing-dot-host", "https://app.example./"},
		{"port", "https://app.example:8443/"},
		{"bad-IPv6", "https://[::1]@evil.com/"},
		{"X29", "javascript:alert(1)"},
		{"javascript-with-tab", "java\tscript:alert(1)"},
		{"javascript-that-looks-local", "javascript://app.example/%0aalert(1)"},
		{"vbscript", "vbscript:msgbox(1)"},
		{"X31", "data:text/html,<script>alert(1)</script>"},
		{"blob", "blob:https://app.example/1"},
		{"file", "file:///etc/passwd"},
		{"view-source", "view-source:https://evil.com"},
		{"X33", "http://app.example/"},
		{"X35", "https://\u0430pp.example/"},

		// Beyond ASCII: some normalise these to a slash, a dot or a colon.
		{"fullwidth-slash", "/\uff0fevil.com"},
		{"fraction-slash", "/\u2044evil.com"},
		{"division-slash", "/\u2215evil.com"},
		{"fullwidth-backslash", "/\uff3cevil.com"},
		{"ideographic-full-stop", "/\u3002/evil.com"},
		{"no-break-space", "\u00a0//evil.com"},
		{"line-separator", "/\u2028/evil.com"},
		{"byte-order-mark", "\ufeff//evil.com"},
		{"latin-1-byte", "/\xa0/evil.com"},
		{"umlaut-not-escaped", "/Ä"},

		// Dot segments, however spelt.
		{"dot", "/."},
		{"dot-dot", "/.."},
		{"dot-inside", "/a/./b"},
		{"dot-dot-inside", "/a/../b"},
		{"dot-dot-at-end", "/a/.."},
		{"escaped-dot-dot", "/%2e%2e//evil.com"},
		{"escaped-dot-dot-upper-case", "/%2E%2E/evil.com"},
		{"mixed-dot-dot", "/.%2e/evil.com"},
		{"mixed-dot-dot-2", "/a/%2E./b"},
		{"escaped-dot", "/%2e//evil.com"},
		{"dot-dot-with-parameter", "/..;/evil.com"},
		{"escaped-dot-dot-with-parameter", "/a/%2e%2e%3bx/b"},
		{"dots-in-fragment", "/a#/../logout"},
		{"dots-at-end-of-fragment", "/a#/.."},
		{"dot-in-fragment", "/a#/./x"},
		{"empty-first-with-parameter", "/;//evil.com"},
		{"empty-first-with-escaped-parameter", "/%3b//evil.com"},

		// Malformed.
		{"X45", ""},
		{"relative", "dash"},
		{"relative-dot", "./dash"},
		{"query-only", "?a=b"},
		{"fragment-only", "#a"},
		{"asterisk", "*"},
		{"escape-cut-off", "/a%"},
		{"escape-cut-short", "/a%4"},
		{"escape-not-hex", "/a%zz"},
		{"escape-not-hex-in-query", "/a?b=%g0"},
		{"escape-cut-short-in-fragment", "/a#%2"},
		{"escape-across-fragment", "/a%2#f"},
		{"escape-across-query", "/a%?41"},
		{"IIS-escape", "/%u002fevil.com"},
		{"X39", "/" + strings.Repeat("a", 9000)},
		{"one-byte-too-long", "/" + strings.Repeat("a", 256)},
		{"too-long-by-query", "/?" + strings.Repeat("a", 255)},

		// Ours, but no pages.
		{"X37-logout", "/logout"},
		{"X37-login", "/login?return=/login"},
		{"X37-callback", "/auth/callback?code=x&state=y"},
		{"own-with-fragment", "/logout#x"},
		{"own-with-slash", "/logout/"},
		{"own-with-slashes", "/auth//callback//"},
		{"own-in-capitals", "/LOGOUT"},
		{"own-in-mixed-case", "/Auth/CallBack"},
		{"own-with-parameter", "/login;x"},
		{"own-with-inner-parameter", "/auth;x=1/callback"},
		{"own-with-empty-parameter-segment", "/auth/;x/callback"},
		{"own-with-escaped-parameter", "/login%3Bx"},
		{"own-escaped", "/%6cogout"},
		{"own-escaped-in-capitals", "/%4COGOUT/;a/"},
		{"own-with-escaped-query", "/logout%3fx"},
		{"own-with-escaped-fragment", "/logout%23x"},
		{"own-with-long-s", "/auth/%C5%BFe%C5%BF%C5%BFion"},
		{"own-with-Kelvin-sign", "/auth/callbac%E2%84%AA"},
		{"proxy", "/api/export?all=1"},
		{"proxy-in-capitals", "/API/export"},
		{"proxy-with-parameter", "/api;x/export"},
		{"proxy-without-slash", "/api"},
		{"proxy-in-capitals-without-slash", "/Api?x"},
		{"proxy-with-many-slashes", "/api///"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, ok := returnto.Clean(tt.raw, notPages); ok || got != "" {
				t.Errorf("Clean(%q) = %q, %v; want refused", tt.raw, got, ok)
			}
		})
	}
}

func TestAccepted(t *testing.T) {
	for _, tt := range []struct{ name, raw string }{
		{"root", "/"},
		{"page", "/dash"},
		{"page-with-slash", "/dash/"},
		{"X41", "/dash?tab=1&x=%2F#sec"},
		{"X43", "/a%20b/%C3%A4"},
		{"query-of-root", "/?a=b"},
		{"fragment-of-root", "/#top"},
		{"hash-router", "/#/users/7?tab=a"},
		{"hash-bang", "/#!/users//7"},
		{"hidden-file", "/.well-known/x"},
		{"three-dots", "/a/.../b"},
		{"dots-in-name", "/v1..v2/a.b."},
		{"dots-in-query", "/diff?path=../x/./y"},
		{"dot-after-hash", "/a#.."},
		{"url-in-query", "/share?u=https://evil.com//x"},
		{"escapes-in-query", "/a?b=%0d%0a%00%5c%2f%2e%2e"},
		{"escapes-in-fragment", "/a#%0a%2f"},
		{"second-question-mark", "/a?b?c#d?e"},
		{"user-page", "/@alice"},
		{"colon", "/a:b/https:x"},
		{"looks-like-a-host", "/evil.com"},
		{"empty-segment-later", "/a//b"},
		{"parameters", "/a;v=1/b;w=2"},
		{"percent", "/100%25"},
		{"escaped-twice", "/%252f%252fevil.com"},
		{"quotes", "/items('a')?$filter=name%20eq%20'b'&q=\"c\""},
		{"brackets", "/a[0]?f[x]={y}|z^`<>"},
		{"plus", "/a+b?c+d"},
		{"longest", "/" + strings.Repeat("a", 255)},
		{"own-path-as-prefix", "/loginhelp"},
		{"own-path-below", "/logout/help"},
		{"own-path-in-query", "/dash?next=/logout"},
		{"proxy-prefix-as-word", "/apidocs"},
		{"proxy-prefix-below", "/docs/api/x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := returnto.Clean(tt.raw, notPages)
			if !ok || got != tt.raw {
				t.Fatalf("Clean(%q) = %q, %v; want it unchanged", tt.raw, got, ok)
			}
			check(t, tt.raw)
		})
	}
}

// What denied is told is what net/http would route, and its plain spellings.
func TestDeniedIsAsked(t *testing.T) {
	for _, tt := range []struct {
		raw  string
		want []string
	}{
		{"/", []string{"/", "/"}},
		{"/?x", []string{"/", "/"}},
		{"/dash?a#b", []string{"/dash", "/dash", "/dash/"}},
		{"/Logout/;x", []string{"/Logout/;x", "/logout", "/logout/"}},
		{"/%41pi", []string{"/Api", "/api", "/api/"}},
		{"/a%20b//%C3%84;c/", []string{"/a b//Ä;c/", "/a b/ä", "/a b/ä/"}},
		{"/a%3Fb/c", []string{"/a?b/c", "/a", "/a/"}},
		{"/a%252fb", []string{"/a%2fb", "/a%2fb", "/a%2fb/"}},
		{"//evil.com", nil},
		{"/../x", nil},
	} {
		var asked []string
		returnto.Clean(tt.raw, func(path string) bool {
			asked = append(asked, path)
			return false
		})
		if !slices.Equal(asked, tt.want) {
			t.Errorf("Clean(%q) asks about %q, want %q", tt.raw, asked, tt.want)
		}
	}
}

func TestNilDenied(t *testing.T) {
	if got, ok := returnto.Clean("/logout", nil); got != "/logout" || !ok {
		t.Errorf("Clean(/logout, nil) = %q, %v; want /logout, true", got, ok)
	}
}

func TestPlain(t *testing.T) {
	for _, tt := range []struct{ path, want string }{
		{"/", "/"},
		{"", "/"},
		{"//", "/"},
		{"/;x", "/"},
		{"/api/", "/api"},
		{"/Api/V1/", "/api/v1"},
		{"/auth//callback;x", "/auth/callback"},
	} {
		if got := returnto.Plain(tt.path); got != tt.want {
			t.Errorf("Plain(%q) = %q, want %q", tt.path, got, tt.want)
		}
		if got := returnto.Plain(returnto.Plain(tt.path)); got != tt.want {
			t.Errorf("Plain(Plain(%q)) = %q, want %q", tt.path, got, tt.want)
		}
	}
}

// Every payload, and every payload with something in front, stays at home.
func TestPayloads(t *testing.T) {
	for _, raw := range payloads(t) {
		for _, prefix := range []string{"", "/", "/a", "/a/", "/a?", "/a#", "/a/..", "/;", "/%2e/"} {
			check(t, prefix+raw)
		}
	}
}

// The oracle is only worth something if it sees the attacks.
func TestOracle(t *testing.T) {
	for _, tt := range []struct{ ref, want string }{
		{"/dash", "https://app.example"},
		{"dash", "https://app.example"},
		{"?x", "https://app.example"},
		{"https:evil.com", "https://app.example"}, // relative, since the base is https
		{"https:/evil.com", "https://app.example"},
		{"https:\\evil.com", "https://app.example"},
		{"/%09/evil.com", "https://app.example"},
		{"/.//evil.com", "https://app.example"},
		{"https://app.example@evil.com/", "https://evil.com"},
		{"https://evil.com\\@app.example/", "https://evil.com"},
		{"https://app.example:443/", "https://app.example"},
		{"HTTPS://APP.EXAMPLE", "https://app.example"},
		{"http:/evil.com", "http://evil.com"},
		{"http:evil.com", "http://evil.com"},
		{"http:\\\\evil.com", "http://evil.com"},
		{"http://app.example/", "http://app.example"},
		{"https:\\\\evil.com", "https://evil.com"},
		{"https:///evil.com", "https://evil.com"},
		{"//evil.com", "https://evil.com"},
		{"/\\evil.com", "https://evil.com"},
		{"\\/evil.com", "https://evil.com"},
		{"////evil.com", "https://evil.com"},
		{"/\t/evil.com", "https://evil.com"},
		{"/\n\\evil.com", "https://evil.com"},
		{" //evil.com", "https://evil.com"},
		{"\x00//evil.com", "https://evil.com"},
		{"//app.example.evil.com", "https://app.example.evil.com"},
		{"//evil%2ecom", "https://evil.com"},
		{"javascript:alert(1)", "null"},
		{"java\tscript:alert(1)", "null"},
		{"data:,x", "null"},
	} {
		if got, _, err := browse(tt.ref); got != tt.want || err != nil {
			t.Errorf("browse(%q) = %q, %v; want %q", tt.ref, got, err, tt.want)
		}
	}
	for _, tt := range []struct{ ref, want string }{
		{"/a/../b", "/b"},
		{"/../..", "/"},
		{"/a/%2E./b/.", "/b/"},
		{"/a\\b", "/a/b"},
		{"/a//b?c/../d", "/a//b"},
		{"x", "/auth/x"},
		{"", "/auth/callback"},
	} {
		if _, got, err := browse(tt.ref); got != tt.want || err != nil {
			t.Errorf("browse(%q) goes to %q, %v; want %q", tt.ref, got, err, tt.want)
		}
	}
}

func FuzzClean(f *testing.F) {
	for _, raw := range payloads(f) {
		f.Add(raw)
		f.Add("/a" + raw)
	}
	f.Fuzz(func(t *testing.T, raw string) { check(t, raw) })
}

// check holds Clean to its promises for one input, whatever that is.
func check(t *testing.T, raw string) {
	t.Helper()
	var asked []string
	got, ok := returnto.Clean(raw, func(path string) bool {
		asked = append(asked, path)
		return notPages(path)
	})
	if !ok {
		if got != "" {
			t.Errorf("Clean(%q) = %q, false; want nothing", raw, got)
		}
		return
	}
	if got != raw {
		t.Errorf("Clean(%q) = %q; want it unchanged", raw, got)
	}
	if len(got) > 256 {
		t.Errorf("Clean accepts %d bytes", len(got))
	}
	if strings.ContainsAny(got, "\r\n\t \x00\\") {
		t.Errorf("Clean(%q) lets control characters or backslashes pass", raw)
	}
	if again, ok := returnto.Clean(got, notPages); again != got || !ok {
		t.Errorf("Clean(%q) accepts, then gives %q, %v", raw, again, ok)
	}

	// As it is, and as http.Redirect rewrites it.
	w := httptest.NewRecorder()
	r := &http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/auth/callback"}}
	http.Redirect(w, r, got, http.StatusFound)
	for _, location := range []string{got, w.Header().Get("Location")} {
		origin, path, err := browse(location)
		if err != nil || origin != "https://app.example" {
			t.Errorf("Clean(%q) accepts, but Location: %s leads to %q, %v", raw, location, origin, err)
			continue
		}
		if path := unescape(path); notPages(path) || notPages(strings.ToLower(path)) {
			t.Errorf("Clean(%q) accepts, but Location: %s leads to %s, which is no page", raw, location, path)
		}
	}
	if _, path, _ := browse(got); len(asked) == 0 || asked[0] != unescape(path) {
		t.Errorf("Clean(%q) asks about %q; a browser goes to %q", raw, asked, unescape(path))
	}
	// A caller that decodes the path in spite of the contract.
	if origin, _, err := browse(asked[0]); err != nil || origin != "https://app.example" {
		t.Errorf("Clean(%q) accepts, but decoded it leads to %q, %v", raw, origin, err)
	}
}

// payloads reads testdata/payloads.txt: one Go string literal per line.
func payloads(t testing.TB) []string {
	file, err := os.Open("testdata/payloads.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var all []string
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		line := lines.Text()
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		raw, err := strconv.Unquote(line)
		if err != nil {
			t.Fatalf("payloads.txt: %s: %v", line, err)
		}
		all = append(all, raw)
	}
	if lines.Err() != nil || len(all) < 100 {
		t.Fatalf("payloads.txt: %d lines, %v", len(all), lines.Err())
	}
	return all
}
