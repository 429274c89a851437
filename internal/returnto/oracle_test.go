package returnto_test

import (
	"errors"
	"strings"
)

// A browser resolves a Location against this page.
const (
	ours    = "https://app.example"
	opaque  = "null" // the origin of data:, javascript: and their like
	baseDir = "/auth"
)

var errUnresolvable = errors.New("a browser does not follow this")

// browse says where a browser goes from https://app.example/auth/callback when
// told ref: the origin and the path, dot segments removed, escapes untouched.
// It follows the URL standard of the WHATWG, section 4.4 (basic URL parser,
// states in its order) and shares no code with net/url. It simplifies where the
// answer is "not ours" in any case: hosts are decoded and folded, but neither
// mapped by IDNA nor checked, so that an odd spelling of our own host counts
// as foreign.
func browse(ref string) (origin, path string, err error) {
	ref = strings.TrimFunc(ref, func(r rune) bool { return r <= ' ' })
	ref = strings.NewReplacer("\t", "", "\n", "", "\r", "").Replace(ref)

	// Scheme start state, scheme state.
	scheme, rest, ok := cutScheme(ref)
	if !ok {
		return browseRelative(ref)
	}
	switch scheme {
	case "https":
		// Special relative or authority state: the base has this scheme.
		if !strings.HasPrefix(rest, "//") {
			return browseRelative(rest)
		}
		return browseAuthority(scheme, rest)
	case "http", "ws", "wss", "ftp":
		return browseAuthority(scheme, rest)
	default:
		return opaque, "", nil
	}
}

// Relative state and relative slash state.
func browseRelative(ref string) (origin, path string, err error) {
	if len(ref) >= 2 && isSlash(ref[0]) && isSlash(ref[1]) {
		return browseAuthority("https", ref)
	}
	if ref == "" || ref[0] == '#' || ref[0] == '?' {
		return ours, baseDir + "/callback", nil
	}
	if isSlash(ref[0]) {
		return ours, walk(nil, ref[1:]), nil
	}
	return ours, walk([]string{baseDir[1:]}, ref), nil
}

// Special authority ignore slashes state, authority state, host state, port state.
func browseAuthority(scheme, ref string) (origin, path string, err error) {
	ref = strings.TrimLeft(ref, `/\`)
	end := strings.IndexAny(ref, `/\?#`)
	if end < 0 {
		end = len(ref)
	}
	authority, ref := ref[:end], ref[end:]
	authority = authority[strings.LastIndexByte(authority, '@')+1:]
	host := strings.ToLower(unescape(authority))
	host = strings.TrimSuffix(host, ":")
	if scheme == "https" {
		host = strings.TrimSuffix(host, ":443")
	}
	if host == "" || strings.HasPrefix(host, ":") {
		return "", "", errUnresolvable
	}
	if ref != "" && isSlash(ref[0]) {
		ref = ref[1:]
	}
	return scheme + "://" + host, walk(nil, ref), nil
}

// Path state.
func walk(path []string, ref string) string {
	if i := strings.IndexAny(ref, "?#"); i >= 0 {
		ref = ref[:i]
	}
	for {
		i := strings.IndexAny(ref, `/\`)
		segment := ref
		if i >= 0 {
			segment = ref[:i]
		}
		switch strings.ReplaceAll(strings.ToLower(segment), "%2e", ".") {
		case "..":
			path = path[:max(len(path)-1, 0)]
			if i < 0 {
				path = append(path, "")
			}
		case ".":
			if i < 0 {
				path = append(path, "")
			}
		default:
			path = append(path, segment)
		}
		if i < 0 {
			return "/" + strings.Join(path, "/")
		}
		ref = ref[i+1:]
	}
}

func cutScheme(ref string) (scheme, rest string, ok bool) {
	for i := range len(ref) {
		c := ref[i]
		switch {
		case 'a' <= c|0x20 && c|0x20 <= 'z':
		case i > 0 && ('0' <= c && c <= '9' || c == '+' || c == '-' || c == '.'):
		case i > 0 && c == ':':
			return strings.ToLower(ref[:i]), ref[i+1:], true
		default:
			return "", "", false
		}
	}
	return "", "", false
}

func isSlash(c byte) bool { return c == '/' || c == '\\' }

// unescape decodes once and leaves alone what is no escape.
func unescape(s string) string {
	const digits = "0123456789abcdef"
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			hi := strings.IndexByte(digits, lower(s[i+1]))
			lo := strings.IndexByte(digits, lower(s[i+2]))
			if hi >= 0 && lo >= 0 {
				b.WriteByte(byte(hi<<4 | lo))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
