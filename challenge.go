package bff

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// A challenge is one of those in a WWW-Authenticate header (RFC 9110, section
// 11.6.1).
type challenge struct {
	scheme string            // in small letters
	params map[string]string // by name in small letters
}

const (
	maxChallengeHeader = 4 << 10
	maxChallengeParams = 32
)

// challenges parses the WWW-Authenticate headers of h. One that isn't well
// formed in every character, or has a parameter twice, counts as absent: what
// could be read in two ways is not acted upon.
func challenges(h http.Header) []challenge {
	var all []challenge
	for _, field := range h["Www-Authenticate"] {
		if list, ok := parseChallenges(field); ok {
			all = append(all, list...)
		}
	}
	return all
}

func parseChallenges(field string) (list []challenge, ok bool) {
	if len(field) > maxChallengeHeader { // check:challenge-size
		return nil, false
	}
	p := challengeParser{field}
	params := 0
	for {
		p.separators()
		if p.rest == "" {
			return list, true
		}
		name := p.token()
		if name == "" {
			return nil, false
		}
		if value, ok := p.value(); ok {
			if len(list) == 0 {
				return nil, false
			}
			if params++; params > maxChallengeParams { // check:challenge-params
				return nil, false
			}
			name = strings.ToLower(name)
			c := &list[len(list)-1]
			if _, twice := c.params[name]; twice { // check:challenge-twice
				return nil, false
			}
			c.params[name] = value
		} else {
			list = append(list, challenge{strings.ToLower(name), map[string]string{}})
			if p.rest != "" && p.rest[0] == ' ' {
				p.rest = strings.TrimLeft(p.rest, " ")
				p.token68()
				continue // a parameter may follow without a comma
			}
		}
		if rest := strings.TrimLeft(p.rest, " \t"); rest != "" && rest[0] != ',' {
			return nil, false
		}
	}
}

type challengeParser struct{ rest string }

func (p *challengeParser) separators() { p.rest = strings.TrimLeft(p.rest, " \t,") }

func (p *challengeParser) token() string {
	n := 0
	for n < len(p.rest) && isTokenChar(p.rest[n]) {
		n++
	}
	token := p.rest[:n]
	p.rest = p.rest[n:]
	return token
}

// value reads what makes a name a parameter: '=' and a token or quoted string.
// If there is none, nothing is read.
func (p *challengeParser) value() (string, bool) {
	rest, ok := strings.CutPrefix(strings.TrimLeft(p.rest, " \t"), "=")
	if !ok {
		return "", false
	}
	at := challengeParser{strings.TrimLeft(rest, " \t")}
	if !strings.HasPrefix(at.rest, `"`) {
		value := at.token()
		p.rest = at.rest
		return value, value != ""
	}
	var b strings.Builder
	for i := 1; i < len(at.rest); i++ {
		switch c := at.rest[i]; {
		case c == '"':
			p.rest = at.rest[i+1:]
			return b.String(), true
		case c == '\\' && i+1 < len(at.rest):
			i++
			b.WriteByte(at.rest[i])
		case c < ' ' && c != '\t' || c == 0x7f:
			return "", false
		default:
			b.WriteByte(c)
		}
	}
	return "", false
}

// token68 skips what some schemes have in the place of parameters.
func (p *challengeParser) token68() {
	n := 0
	for n < len(p.rest) && (isTokenChar(p.rest[n]) || p.rest[n] == '/') {
		n++
	}
	rest := strings.TrimLeft(p.rest[n:], "=")
	if n > 0 && (rest == "" || strings.TrimLeft(rest, " \t") == "" || strings.TrimLeft(rest, " \t")[0] == ',') {
		p.rest = rest
	}
}

func isTokenChar(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// names reports whether an answer's challenges name this error (RFC 6750,
// section 3.1).
func names(h http.Header, code string) bool {
	for _, c := range challenges(h) {
		if c.bearer() && c.params["error"] == code {
			return true
		}
	}
	return false
}

func (c *challenge) bearer() bool { return c.scheme == "bearer" || c.scheme == "dpop" }

// demanded returns the step_up that an upstream's 401 asks for (RFC 9470,
// section 3), or nil. What it asks for goes no further than login parameters
// that anybody could have put into /login.
func demanded(h http.Header) *Problem {
	for _, c := range challenges(h) {
		if !c.bearer() || c.params["error"] != "insufficient_user_authentication" {
			continue
		}
		p := newProblem(StepUp, errors.New("demanded by the upstream"))
		p.ACRValues = cleanACR(c.params["acr_values"])
		if age, ok := parseMaxAge(c.params["max_age"]); ok {
			p.MaxAge = &age
		}
		if p.ACRValues == "" && p.MaxAge == nil {
			return nil // a new sign-in would be no different
		}
		return p
	}
	return nil
}

// cleanACR returns acr_values with single spaces, or "" if they are not
// printable ASCII of at most 256 characters.
func cleanACR(s string) string {
	joined := strings.Join(strings.Fields(s), " ")
	if len(joined) > 256 || strings.ContainsFunc(joined, func(r rune) bool { return r != ' ' && notVisible(r) }) {
		return ""
	}
	return joined
}

// parseMaxAge reads max_age: a number of seconds of digits alone.
func parseMaxAge(s string) (time.Duration, bool) {
	n, err := strconv.ParseUint(s, 10, 31)
	return time.Duration(n) * time.Second, err == nil
}

// stepUpQuery returns what /login needs to ask the issuer for what p demands,
// with the '?', or "".
func (p *Problem) stepUpQuery() string {
	q := url.Values{}
	if p.ACRValues != "" {
		q.Set("acr_values", p.ACRValues)
	}
	if p.MaxAge != nil {
		q.Set("max_age", strconv.FormatInt(int64(*p.MaxAge/time.Second), 10))
	}
	if len(q) == 0 {
		return ""
	}
	return "?" + q.Encode()
}
