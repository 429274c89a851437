package spa

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// A policy is a Content-Security-Policy (CSP Level 3) in parts: nonces and
// hashes go into script-src and style-src, per document.
type policy struct {
	script, style string
	rest          string
	sources       map[string][]string // by directive, as configured
}

// with returns the header's value, with more for scripts and for styles. Where
// 'unsafe-inline' was chosen, that stays in force: a nonce or hash beside it
// would switch it off.
func (p *policy) with(script, style string) string {
	if p.has("script-src", "'unsafe-inline'") {
		script = ""
	}
	if p.has("style-src", "'unsafe-inline'") {
		style = ""
	}
	return "default-src 'self'; script-src " + p.script + script + "; style-src " + p.style + style + "; " + p.rest
}

// has reports whether a directive was given a source.
func (p *policy) has(directive, source string) bool {
	return slices.Contains(p.sources[directive], source)
}

type directive struct {
	name   string
	base   []string // what it has without configuration
	always bool     // is sent without configuration
	check  func(source string) bool
}

// directives are those that can be given sources, in the order of the header.
// One without a check takes them from InsecureSources only.
var directives = []directive{
	{"script-src", []string{"'self'"}, true, isScriptSource},
	{"script-src-attr", nil, false, nil},
	{"style-src", []string{"'self'"}, true, isStyleSource},
	{"style-src-attr", nil, false, func(s string) bool { return s == "'unsafe-inline'" }},
	{"img-src", []string{"'self'", "data:"}, true, isSource},
	{"font-src", []string{"'self'"}, false, isSource},
	{"media-src", []string{"'self'"}, false, isSource},
	{"connect-src", []string{"'self'"}, true, isSource},
	{"frame-src", []string{"'self'"}, false, isSource},
	{"worker-src", []string{"'self'"}, false, func(s string) bool { return s == "blob:" || isHost(s) }},
	{"manifest-src", []string{"'self'"}, false, isHost},
	{"object-src", nil, true, nil},
	{"base-uri", nil, true, func(s string) bool { return s == "'self'" }},
	{"form-action", []string{"'self'"}, true, isHost},
	{"frame-ancestors", nil, true, func(s string) bool { return s == "'self'" || isHost(s) }},
	{"require-trusted-types-for", nil, false, func(s string) bool { return s == "'script'" }},
	{"trusted-types", nil, false, trustedType.MatchString},
	{"upgrade-insecure-requests", nil, false, nil},
	{"report-uri", nil, false, isReportURI},
}

// newPolicy makes the policy that opts ask for.
func newPolicy(opts Options) (policy, error) {
	p := policy{sources: map[string][]string{}}
	var errs []error
	add := func(field, name string, sources []string, insecure bool) {
		i := slices.IndexFunc(directives, func(d directive) bool { return d.name == name })
		if i < 0 {
			errs = append(errs, fmt.Errorf("Options.%s: %q is not a directive that takes sources here", field, name))
			return
		}
		p.sources[name] = append(p.sources[name], sources...)
		for _, s := range sources {
			switch check := directives[i].check; {
			case !isToken(s) || strings.HasPrefix(s, "'nonce-"): // a nonce that stays is none
				errs = append(errs, fmt.Errorf("Options.%s: %s: %q is not a source expression", field, name, s))
			case !insecure && (check == nil || !check(s)):
				errs = append(errs, fmt.Errorf("Options.%s: %s: %q is not admitted here; if it is meant, use InsecureSources", field, name, s))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(opts.Sources)) {
		add("Sources", name, opts.Sources[name], false)
	}
	for _, name := range slices.Sorted(maps.Keys(opts.InsecureSources)) {
		add("InsecureSources", name, opts.InsecureSources[name], true)
	}
	if opts.EndSession != "" {
		if origin, err := formTarget(opts.EndSession); err != nil {
			errs = append(errs, fmt.Errorf("Options.EndSession: %w", err))
		} else {
			p.sources["form-action"] = append(p.sources["form-action"], origin)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return policy{sources: p.sources}, err
	}
	var rest []string
	for _, d := range directives {
		more, given := p.sources[d.name]
		if !given && !d.always {
			continue
		}
		var list []string
		for _, s := range slices.Concat(d.base, more) {
			if !slices.Contains(list, s) {
				list = append(list, s)
			}
		}
		if list == nil && d.always {
			list = []string{"'none'"}
		}
		value := strings.Join(list, " ")
		switch d.name {
		case "script-src":
			p.script = value
		case "style-src":
			p.style = value
		default:
			rest = append(rest, strings.TrimSuffix(d.name+" "+value, " "))
		}
	}
	p.rest = strings.Join(rest, "; ")
	return p, nil
}

// formTarget returns the origin of an URL, as a source expression.
func formTarget(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil {
		return "", fmt.Errorf("%q is not an absolute URL", s)
	}
	origin := strings.ToLower(u.Scheme + "://" + u.Host)
	// Whether plain http will do is decided where the issuer is named.
	rest, ok := cutScheme(origin, "https", "http")
	if !ok || !hostSource.MatchString(rest) || strings.HasPrefix(rest, "*") {
		return "", fmt.Errorf("%q is not https with a host name, which is what a policy can say", s)
	}
	return origin, nil
}

// hostSource is CSP's host-source (CSP Level 3, section 2.3.1) with a host that
// names something, and of the schemes only those that are encrypted.
var hostSource = regexp.MustCompile(`^((?i:https|wss)://)?(\*\.)?([A-Za-z0-9-]+\.)*[A-Za-z0-9-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~!$&()*+=:@%/-]*)?$`)

// isHost reports whether s names a host. Plain http is for loopback.
func isHost(s string) bool {
	if rest, ok := cutScheme(s, "http", "ws"); ok {
		host, _, _ := strings.Cut(rest, "/")
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		return isLoopback(host) && hostSource.MatchString(rest)
	}
	if _, ok := cutScheme(s, "https", "wss"); !ok && !strings.Contains(s, ".") && !strings.HasPrefix(s, "localhost:") {
		return false // self without its quotes would be a host
	}
	return hostSource.MatchString(s)
}

func cutScheme(s string, schemes ...string) (rest string, ok bool) {
	for _, scheme := range schemes {
		if n := len(scheme + "://"); len(s) > n && strings.EqualFold(s[:n], scheme+"://") {
			return s[n:], true
		}
	}
	return s, false
}

// isSource reports whether s is a source of what can't run.
func isSource(s string) bool {
	switch s {
	case "data:", "blob:", "mediastream:", "https:", "wss:":
		return true
	}
	return isHost(s)
}

var hashSource = regexp.MustCompile(`^'sha(256|384|512)-[A-Za-z0-9+/_-]+={0,2}'$`)

func isScriptSource(s string) bool {
	switch s {
	case "'strict-dynamic'", "'wasm-unsafe-eval'", "'report-sample'", "'inline-speculation-rules'":
		return true
	}
	return isHost(s) || hashSource.MatchString(s)
}

// isStyleSource admits 'unsafe-inline': libraries that make style elements in
// the browser need it, and a style runs no script.
func isStyleSource(s string) bool {
	return s == "'unsafe-inline'" || s == "'report-sample'" || isHost(s) || hashSource.MatchString(s)
}

var trustedType = regexp.MustCompile(`^([A-Za-z0-9#=_/@.%-]+|'allow-duplicates'|'none')$`)

func isReportURI(s string) bool {
	return strings.HasPrefix(s, "/") || isHost(s)
}

// isToken reports whether s can stand in a policy as one word: header values
// end at line breaks, policies at commas and directives at semicolons.
func isToken(s string) bool {
	return s != "" && printable(s) && !strings.ContainsAny(s, " ;,")
}

// printable reports whether s is of ASCII that can be seen, blanks included.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// isLoopback reports whether host names this machine.
func isLoopback(host string) bool {
	host = strings.ToLower(host)
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// features are the powerful ones that no page gets unless they are named
// (Permissions Policy). Browsers complain of each that they don't know, so the
// list has none that is new or of one browser alone.
var features = []string{
	"accelerometer", "camera", "display-capture", "geolocation", "gyroscope", "hid", "idle-detection",
	"magnetometer", "microphone", "midi", "payment", "serial", "usb", "xr-spatial-tracking",
}

// permissionsPolicy denies the features, but for the ones that are used.
func permissionsPolicy(used []string) (string, error) {
	var errs []error
	for _, name := range used {
		if !slices.Contains(features, name) {
			errs = append(errs, fmt.Errorf("Options.Permissions: %q is not %s", name, strings.Join(features, ", ")))
		}
	}
	list := make([]string, len(features))
	for i, name := range features {
		if list[i] = name + "=()"; slices.Contains(used, name) {
			list[i] = name + "=(self)"
		}
	}
	return strings.Join(list, ", "), errors.Join(errs...)
}
