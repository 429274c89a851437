package spa

import (
	"path"
	"strings"
)

// wholeDirs hold files that are named by their content, whatever they look
// like, but for some JSON: those of SvelteKit, Next.js, Nuxt and Astro.
var wholeDirs = []string{"_app/immutable/", "_next/static/", "_nuxt/", "_astro/"}

// codeTypes are the extensions of what bundlers make, where a word rarely looks
// like a digest.
var codeTypes = []string{".js", ".mjs", ".css", ".wasm"}

// Hashed reports whether a file's name looks as if a bundler had put a digest
// of the content into it: app-DaPb_T6L.js (Vite, Rollup), main-5QKBJFRB.js
// (esbuild, Angular), main.0c2e8ab4.css (webpack).
//
// Names are all there is to go by, and a file that is kept for a year by mistake
// does harm, where one that isn't costs a 304. So it rather says no: of Vite's
// scripts and styles it misses about one in seventeen, of its other files one in
// four. Options.Immutable can know better, for instance that everything in
// assets/ is named so.
func Hashed(name string) bool {
	for _, dir := range wholeDirs {
		if strings.HasPrefix(name, dir) && path.Ext(name) != ".json" {
			return true
		}
	}
	base := strings.TrimSuffix(path.Base(name), ".map")
	ext := path.Ext(base)
	stem := strings.TrimSuffix(base, ext)
	for _, word := range []string{".chunk", ".bundle", ".min"} { // main.0c2e8ab4.chunk.js
		stem = strings.TrimSuffix(stem, word)
	}
	changes := 4
	for _, code := range codeTypes {
		if ext == code {
			changes = 2
		}
	}
	if looksHashed(stem[strings.LastIndexAny(stem, "-.")+1:], changes) && strings.ContainsAny(stem, "-.") {
		return true
	}
	// Rollup's digests are 8 characters, of which a dash may be one.
	n := len(stem) - 8
	return n > 1 && (stem[n-1] == '-' || stem[n-1] == '.') && looksHashed(stem[n:], max(changes, 3))
}

// looksHashed reports whether s is a digest rather than words: hexadecimal or
// base32 with letters and digits, or base64url that goes back and forth between
// kinds of characters at least so often.
func looksHashed(s string, changes int) bool {
	if len(s) < 8 {
		return false
	}
	var lower, upper, digit, hex, base32 int
	seen, last := 0, byte(0)
	camel := true // each capital is followed by a small letter, as in words
	for i := 0; i < len(s); i++ {
		c, kind := s[i], byte(0)
		switch {
		case 'a' <= c && c <= 'z':
			lower++
			kind = 'a'
		case 'A' <= c && c <= 'Z':
			upper++
			kind = 'A'
			camel = camel && i+1 < len(s) && 'a' <= s[i+1] && s[i+1] <= 'z'
		case '0' <= c && c <= '9':
			digit++
			kind = '0'
		case c == '_' || c == '-':
			kind = '-'
		default:
			return false
		}
		if '0' <= c && c <= '9' || 'a' <= c && c <= 'f' {
			hex++
		}
		if 'A' <= c && c <= 'Z' || '2' <= c && c <= '7' {
			base32++
		}
		if last != 0 && kind != last {
			seen++
		}
		last = kind
	}
	switch {
	case lower+upper == 0: // a date
		return false
	case hex == len(s) && digit > 0, base32 == len(s) && digit > 0:
		return true
	case upper == 0: // v12-bold, 1280x720
		return false
	case digit == 0 && camel: // DarkMode
		return false
	}
	return seen >= changes
}
