package spa_test

import (
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/agglestone/bff/spa"
)

// directivesOf returns the policy that opts make, by directive.
func directivesOf(t *testing.T, opts spa.Options) map[string]string {
	t.Helper()
	res := do(newHandler(t, site(), opts), "GET", "/", navigation...)
	return split(t, res.Header.Get("Content-Security-Policy"))
}

func split(t *testing.T, policy string) map[string]string {
	t.Helper()
	got := map[string]string{}
	for part := range strings.SplitSeq(policy, "; ") {
		name, value, _ := strings.Cut(part, " ")
		if _, twice := got[name]; twice {
			t.Errorf("the policy %q has %s twice, and browsers read the first only", policy, name)
		}
		got[name] = value
	}
	return got
}

func TestSources(t *testing.T) {
	for _, c := range []struct {
		name      string
		opts      spa.Options
		directive string
		want      string
	}{
		{"image", spa.Options{Sources: map[string][]string{"img-src": {"https://img.example.com"}}}, "img-src", "'self' data: https://img.example.com"},
		{"wildcard", spa.Options{Sources: map[string][]string{"img-src": {"*.example.com", "https://*.example.org:8443/a/"}}}, "img-src", "'self' data: *.example.com https://*.example.org:8443/a/"},
		{"socket", spa.Options{Sources: map[string][]string{"connect-src": {"wss://live.example.com"}}}, "connect-src", "'self' wss://live.example.com"},
		{"loopback", spa.Options{Sources: map[string][]string{"connect-src": {"http://localhost:9000", "ws://127.0.0.1:9"}}}, "connect-src", "'self' http://localhost:9000 ws://127.0.0.1:9"},
		{"font", spa.Options{Sources: map[string][]string{"font-src": {"data:"}}}, "font-src", "'self' data:"},
		{"worker", spa.Options{Sources: map[string][]string{"worker-src": {"blob:"}}}, "worker-src", "'self' blob:"},
		{"frame", spa.Options{Sources: map[string][]string{"frame-src": {"https://www.youtube-nocookie.com"}}}, "frame-src", "'self' https://www.youtube-nocookie.com"},
		{"wasm", spa.Options{Sources: map[string][]string{"script-src": {"'wasm-unsafe-eval'"}}}, "script-src", "'self' 'wasm-unsafe-eval'"},
		{"hash", spa.Options{Sources: map[string][]string{"script-src": {"'sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA='"}}}, "script-src", "'self' 'sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA='"},
		{"styles", spa.Options{Sources: map[string][]string{"style-src": {"'unsafe-inline'"}}}, "style-src", "'self' 'unsafe-inline'"},
		{"style-attributes", spa.Options{Sources: map[string][]string{"style-src-attr": {"'unsafe-inline'"}}}, "style-src-attr", "'unsafe-inline'"},
		{"base", spa.Options{Sources: map[string][]string{"base-uri": {"'self'"}}}, "base-uri", "'self'"},
		{"framed", spa.Options{Sources: map[string][]string{"frame-ancestors": {"'self'", "https://portal.example.com"}}}, "frame-ancestors", "'self' https://portal.example.com"},
		{"form", spa.Options{Sources: map[string][]string{"form-action": {"https://idp.example.org"}}}, "form-action", "'self' https://idp.example.org"},
		{"end-session", spa.Options{EndSession: "https://LOGIN.example.com:8443/oidc/logout?x=y#z"}, "form-action", "'self' https://login.example.com:8443"},
		{"end-session-origin", spa.Options{EndSession: "https://login.example.com"}, "form-action", "'self' https://login.example.com"},
		{"end-session-loopback", spa.Options{EndSession: "http://127.0.0.1:9000/end"}, "form-action", "'self' http://127.0.0.1:9000"},
		{"end-session-in-a-test-network", spa.Options{EndSession: "http://issuer:9000/end"}, "form-action", "'self' http://issuer:9000"},
		{"end-session-and-more", spa.Options{EndSession: "https://login.example.com", Sources: map[string][]string{"form-action": {"https://b.example", "https://login.example.com"}}}, "form-action", "'self' https://b.example https://login.example.com"},
		{"trusted-types", spa.Options{Sources: map[string][]string{"require-trusted-types-for": {"'script'"}}}, "require-trusted-types-for", "'script'"},
		{"trusted-type-names", spa.Options{Sources: map[string][]string{"trusted-types": {"default", "dompurify"}}}, "trusted-types", "default dompurify"},
		{"no-value", spa.Options{Sources: map[string][]string{"upgrade-insecure-requests": nil}}, "upgrade-insecure-requests", ""},
		{"report", spa.Options{Sources: map[string][]string{"report-uri": {"/csp-reports"}}}, "report-uri", "/csp-reports"},
		{"insecure", spa.Options{InsecureSources: map[string][]string{"script-src": {"'unsafe-eval'"}}}, "script-src", "'self' 'unsafe-eval'"},
		{"insecure-object", spa.Options{InsecureSources: map[string][]string{"object-src": {"'self'"}}}, "object-src", "'self'"},
		{"both", spa.Options{Sources: map[string][]string{"script-src": {"https://a.example"}}, InsecureSources: map[string][]string{"script-src": {"https:"}}}, "script-src", "'self' https://a.example https:"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := directivesOf(t, c.opts)
			if value, ok := got[c.directive]; !ok || value != c.want {
				t.Errorf("%s is %q, want %q", c.directive, value, c.want)
			}
			for name, want := range map[string]string{"default-src": "'self'", "object-src": "'none'", "base-uri": "'none'", "frame-ancestors": "'none'"} {
				if name != c.directive && got[name] != want {
					t.Errorf("%s is %q, want %q", name, got[name], want)
				}
			}
		})
	}
}

// What would let foreign scripts in, end the header or the directive, or was
// meant differently, is refused.
func TestSourcesRefused(t *testing.T) {
	for _, c := range []struct {
		directive string
		sources   []string
	}{
		{"script-src", []string{"'unsafe-inline'", "'unsafe-eval'", "'unsafe-hashes'", "*", "https:", "http:", "data:", "blob:", "http://cdn.example.com", "https://*", "'none'", "self", "none", "'nonce-abc'"}},
		{"script-src-attr", []string{"'unsafe-inline'", "'unsafe-hashes'"}},
		{"style-src", []string{"*", "data:", "https:", "'unsafe-eval'", "'nonce-abc'"}},
		{"img-src", []string{"*", "http:", "http://img.example.com", "'unsafe-inline'", "self", "filesystem:"}},
		{"connect-src", []string{"*", "ws:", "ws://live.example.com", "http://localhost.example.com", "http://127.0.0.1.example.com", "http://localhost@example.com"}},
		{"worker-src", []string{"data:", "https:"}},
		{"object-src", []string{"'self'", "https://a.example"}},
		{"base-uri", []string{"https://a.example"}},
		{"form-action", []string{"https:", "*", "http://a.example"}},
		{"frame-ancestors", []string{"*", "https:"}},
		{"require-trusted-types-for", []string{"'style'"}},
		{"upgrade-insecure-requests", []string{"x"}},
		{"default-src", []string{"'self'"}},
		{"script-src-elem", []string{"'self'"}},
		{"scripts-src", []string{"'self'"}},
		{"img-src; script-src", []string{"https://a.example"}},
		{"", []string{"'self'"}},
		{"img-src", []string{
			"https://a.example; script-src *", "https://a.example, script-src *", "https://a.example\r\nX-Evil: 1", "https://a.example\nx", "https://a.example\x00",
			"https://a.example *", "", " ", "https://a.exämple", "https://a.example/\u2028", "https://a.example/;x", "https://a.example/,x", "https://a.example?x", "https://a.example#x", "https://user@a.example", "https:///x", "https://",
		}},
	} {
		for _, source := range c.sources {
			opts := spa.Options{Sources: map[string][]string{c.directive: {source}}}
			if _, err := spa.Handler(site(), opts); err == nil {
				t.Errorf("Sources[%q] = %q is accepted", c.directive, source)
			} else if strings.ContainsAny(err.Error(), "\r\x00") {
				t.Errorf("the error %q has what it complains of", err)
			}
		}
	}
	for _, source := range []string{"a;b", "a,b", "a b", "a\r\nb", "", "\x7f", "é", "'nonce-abc'"} {
		if _, err := spa.Handler(site(), spa.Options{InsecureSources: map[string][]string{"script-src": {source}}}); err == nil {
			t.Errorf("InsecureSources: %q is accepted", source)
		}
	}
	for _, u := range []string{"login.example.com", "/logout", "ftp://x.example", "https://", "https://*.example.com", "https://[::1]:9000", "https://u:p@x.example", "https://x.example;y", "https://*.example.com/\r\n", "javascript:alert(1)", "https://a.example b"} {
		if _, err := spa.Handler(site(), spa.Options{EndSession: u}); err == nil {
			t.Errorf("EndSession %q is accepted", u)
		}
	}
}

// The caller's options are not changed, nor read after the start.
func TestOptionsAreCopied(t *testing.T) {
	list := []string{"https://a.example", "https://b.example"}
	scripts := []string{"'sha256-AAAA'", "https://a.example"}
	opts := spa.Options{Sources: map[string][]string{"form-action": list[:1], "script-src": scripts}, EndSession: "https://login.example.com", Logger: slog.New(slog.DiscardHandler)}
	h := newHandler(t, site(), opts)
	dev, err := spa.Dev("http://localhost:1", opts)
	if err != nil || dev == nil {
		t.Fatal(err)
	}
	if !slices.Equal(list, []string{"https://a.example", "https://b.example"}) || !slices.Equal(scripts, []string{"'sha256-AAAA'", "https://a.example"}) || len(opts.Sources) != 2 {
		t.Errorf("the caller's sources became %q", opts.Sources)
	}
	list[0] = "https://c.example"
	opts.Sources["img-src"] = []string{"https://d.example"}
	csp := do(h, "GET", "/", navigation...).Header.Get("Content-Security-Policy")
	if !strings.Contains(csp, "form-action 'self' https://a.example https://login.example.com;") || strings.Contains(csp, "d.example") {
		t.Errorf("the policy is %q", csp)
	}
}

// No source that is accepted can do more than be one.
func FuzzSources(f *testing.F) {
	for _, s := range []string{"https://a.example", "'self'", "data:", "a;b", "a,b", "a\r\nb", "*.x.y:1/z", "http://localhost:1", "'sha256-AA=='"} {
		for _, d := range []string{"script-src", "img-src", "form-action", "report-uri", "trusted-types"} {
			f.Add(d, s)
		}
	}
	f.Fuzz(func(t *testing.T, directive, source string) {
		for _, opts := range []spa.Options{
			{Sources: map[string][]string{directive: {source}}},
			{InsecureSources: map[string][]string{directive: {source}}},
			{EndSession: source},
		} {
			h, err := spa.Handler(site(), opts)
			if err != nil {
				continue
			}
			csp := do(h, "GET", "/favicon.svg").Header.Get("Content-Security-Policy")
			if strings.ContainsFunc(csp, func(r rune) bool { return r < ' ' || r > '~' || r == ',' }) {
				t.Fatalf("%q made the policy %q", source, csp)
			}
			got := split(t, csp)
			names := 9 // those that are always there
			if _, extra := got[directive]; extra && !strings.Contains("default-src script-src style-src img-src connect-src object-src base-uri form-action frame-ancestors", directive) {
				names++
			}
			if len(got) != names {
				t.Fatalf("%q for %q made the policy %q of %d directives, want %d", source, directive, csp, len(got), names)
			}
			if opts.InsecureSources == nil && (got["object-src"] != "'none'" || strings.Contains(got["script-src"], "'unsafe-inline'")) {
				t.Fatalf("%q for %q made the policy %q", source, directive, csp)
			}
		}
	})
}
