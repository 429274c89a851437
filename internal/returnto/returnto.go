// Package returnto says which URLs a browser may be sent to after it signed
// in or out: pages of this application, and nothing else.
//
// The test is what a browser makes of the value (the WHATWG URL standard), not
// what net/url does: to a browser a backslash is a slash, and a tab or newline
// is nothing at all. So [Clean] accepts a narrow grammar on which all parsers
// agree, and changes nothing: what it accepts is written as it came.
package returnto

import (
	"net/url"
	"strings"
)

// MaxLen is the longest value accepted, in bytes: it travels in the cookie of
// the login attempt.
const MaxLen = 256

// Clean returns raw, byte for byte, if it names a page of this application:
// a local path with an optional query and fragment. The result may be written
// into a Location header by hand or by [net/http.Redirect], whose own path
// cleaning can't turn it into something else. It may not be decoded first.
//
// Denied, if not nil, says which paths are no pages although they are ours:
// the routes of this library and the prefixes of its proxies. It is asked with
// the decoded path, exactly as [net/http] will later have it in URL.Path. Then,
// because a router behind us may be more forgiving than we are, it is asked
// with [Plain] of that path and with Plain and a slash at its end. So for
//
//	/Logout/;x  it is asked with  /Logout/;x, /logout, /logout/
//	/%41pi      it is asked with  /Api, /api, /api/
//
// and one that knows "/logout" and the prefix "/api/" refuses them both. Paths
// that come from configuration go through Plain before denied compares them.
func Clean(raw string, denied func(path string) bool) (string, bool) {
	if len(raw) > MaxLen { // check:return-length
		return "", false
	}
	if !strings.HasPrefix(raw, "/") { // check:return-local
		return "", false
	}
	for i := range len(raw) {
		// No controls, no space, nothing beyond ASCII, and nowhere a
		// backslash. What else a browser would escape (quotes, angle
		// brackets, braces) can't move it to another origin.
		if c := raw[i]; c <= ' ' || c >= 0x7f || c == '\\' { // check:return-character
			return "", false
		}
	}
	if !validEscapes(raw) { // check:return-escape
		return "", false
	}

	rest, fragment, _ := strings.Cut(raw, "#")
	// http.Redirect cleans all that stands before the first question mark,
	// fragment included: it makes /logout of /x#/../logout. To it, what comes
	// before the fragment's first slash belongs to the path's last segment.
	for i, segment := range strings.Split(fragment, "/") {
		if i > 0 && (segment == "." || segment == "..") { // check:return-fragment
			return "", false
		}
	}

	// The lines above and below leave this nothing to refuse. It stands here
	// for the day when net/url and we disagree.
	u, err := url.ParseRequestURI(rest)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || u.Opaque != "" { // check:return-local
		return "", false
	}
	escaped, _, _ := strings.Cut(rest, "?")
	if hasEscapedDelimiter(escaped) { // check:return-delimiter
		return "", false
	}
	for i, segment := range strings.Split(u.Path[1:], "/") {
		// With parameters and without: some servers read /..;x/ as /../.
		name, _, _ := strings.Cut(segment, ";")
		if name == "." || name == ".." { // check:return-dots
			return "", false
		}
		// //evil.com, and /;//evil.com where parameters are dropped.
		if i == 0 && name == "" && u.Path != "/" { // check:return-authority
			return "", false
		}
	}

	if denied != nil {
		plain := Plain(u.Path)
		if denied(u.Path) || denied(plain) || plain != "/" && denied(plain+"/") { // check:return-denied
			return "", false
		}
	}
	return raw, true
}

// Plain reduces a decoded path to the one spelling that a forgiving router
// might give it: no query or fragment that was hidden by an escape, no
// parameters (;x), no empty segments, no slash at the end, all letters folded.
// It resolves no dot segments; Clean has refused them. It is for comparison
// only: distinct pages may share it.
func Plain(path string) string {
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		path = path[:i]
	}
	var b strings.Builder
	for segment := range strings.SplitSeq(path, "/") {
		if name, _, _ := strings.Cut(segment, ";"); name != "" {
			b.WriteByte('/')
			b.WriteString(name)
		}
	}
	if b.Len() == 0 {
		return "/"
	}
	// By way of upper case, so that the long s and the Kelvin sign fold too,
	// as they do in strings.EqualFold.
	return strings.ToLower(strings.ToUpper(b.String()))
}

func validEscapes(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			continue
		}
		if i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2]) {
			return false
		}
		i += 2
	}
	return true
}

// hasEscapedDelimiter reports whether a path hides a slash, a backslash or a
// control character in an escape: /%09/evil.com and /%5cevil.com turn on
// whoever writes a decoded path back. Its escapes are valid.
func hasEscapedDelimiter(path string) bool {
	for {
		i := strings.IndexByte(path, '%')
		if i < 0 {
			return false
		}
		switch c := unhex(path[i+1])<<4 | unhex(path[i+2]); {
		case c == '/', c == '\\', c < ' ', c == 0x7f:
			return true
		}
		path = path[i+3:]
	}
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 10
	}
	if c >= 'A' {
		return c - 'A' + 10
	}
	return c - '0'
}
