package bff

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf8"
)

// Upstreams serves a table of upstreams as one handler: a request goes to the
// row with the longest Path that it is at or below, and of those with the same
// Path to the one with its method. Each row is served as [BFF.Proxy] serves it.
//
// What no row declares is not proxied: 404 not_found, or 405 method_not_allowed
// where only the method is missing. A path that differs from a row's only in
// the case of letters, in escapes where none are needed, or by dots or spaces
// at the end of a name is nobody's either: to an upstream it may well be the
// same.
//
// Upstreams panics if a row is not valid, or two have the same Path and a
// method in common.
func (b *BFF) Upstreams(rows ...Upstream) *Table {
	proxies := make([]*proxy, len(rows))
	for i, up := range rows {
		t, err := newTarget(up)
		if err != nil {
			panic(fmt.Sprintf("bff: Upstreams: row %d: %v", i, err))
		}
		for _, other := range proxies[:i] {
			if other.t.Path == t.Path && slices.ContainsFunc(t.Methods, func(m string) bool { return slices.Contains(other.t.Methods, m) }) {
				panic(fmt.Sprintf("bff: Upstreams: row %d: Path %q is another row's too, with a method in common", i, t.Path))
			}
		}
		proxies[i] = b.newProxy(t)
	}
	return newTable(b, proxies)
}

// A Table is the handler that [BFF.Upstreams] returns.
type Table struct {
	b    *BFF
	rows []*proxy // the longest paths first
}

func newTable(b *BFF, rows []*proxy) *Table {
	slices.SortStableFunc(rows, func(x, y *proxy) int {
		return cmp.Or(cmp.Compare(len(y.t.Path), len(x.t.Path)), cmp.Compare(x.t.Path, y.t.Path), cmp.Compare(x.t.Methods[0], y.t.Methods[0]))
	})
	return &Table{b, rows}
}

// ServeHTTP forwards r by the row that it belongs to.
func (t *Table) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	escaped := r.URL.EscapedPath()
	// A '#' was taken for a part of the path; upstreams may end it there.
	if !validTargetPath(escaped) || strings.Contains(r.RequestURI, "#") { // check:target-path
		t.b.refuse(w, r, newProblem(BadRequest, nil))
		return
	}
	p, allow, reason := t.find(r.URL.Path, escaped, r.Method)
	if reason != "" {
		if len(allow) > 0 {
			w.Header().Set("Allow", strings.Join(allow, ", "))
		}
		t.b.refuse(w, r, newProblem(reason, nil))
		return
	}
	p.serve(w, r, escaped)
}

// find returns the row for a request, or why there is none.
func (t *Table) find(path, escaped, method string) (p *proxy, allow []string, reason Reason) {
	for i, p := range t.rows {
		if !resembles(path, p.t.Path) {
			continue
		}
		// The same to a careless router, but not as it is written here.
		if _, ok := below(escaped, p.t.Path); !ok { // check:row-spelling
			return nil, nil, NotFound
		}
		for _, other := range t.rows[i:] {
			if other.t.Path != p.t.Path {
				continue
			}
			if slices.Contains(other.t.Methods, method) {
				return other, nil, ""
			}
			allow = append(allow, other.t.Methods...)
		}
		slices.Sort(allow)
		return nil, slices.Compact(allow), MethodNotAllowed
	}
	return nil, nil, NotFound
}

// resembles reports whether a decoded path is at prefix or below it to a server
// that ignores the case of letters, and dots and spaces where a name ends.
func resembles(path, prefix string) bool {
	for i := range len(prefix) {
		if prefix[i] == '/' {
			path = strings.TrimLeft(path, ". ")
		}
		if path == "" {
			return false
		}
		if path[0] == prefix[i] {
			path = path[1:]
			continue
		}
		r, n := utf8.DecodeRuneInString(path)
		if !foldsTo(r, rune(prefix[i])) {
			return false
		}
		path = path[n:]
	}
	path = strings.TrimLeft(path, ". ")
	return path == "" || path[0] == '/'
}

// foldsTo reports whether r and an ASCII letter are one but for their case.
func foldsTo(r, letter rune) bool {
	for f := unicode.SimpleFold(letter); f != letter; f = unicode.SimpleFold(f) {
		if f == r {
			return true
		}
	}
	return false
}

// Paths returns the paths of the rows, each once, the longest first.
func (t *Table) Paths() []string {
	var paths []string
	for _, p := range t.rows {
		paths = append(paths, p.t.Path)
	}
	return slices.Compact(paths)
}

// Routes returns the rows, each as its methods and its path, such as
// "GET HEAD /api/users", in the order in which they are tried.
func (t *Table) Routes() []string {
	var routes []string
	for _, p := range t.rows {
		routes = append(routes, strings.Join(p.t.Methods, " ")+" "+cmp.Or(p.t.Path, "/"))
	}
	return routes
}

// String returns the table as text, a row a line, in the order in which they
// are tried: for a log at start-up, or a golden file in a test.
func (t *Table) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "PATH\tMETHODS\tNEEDS\tALSO\tUPSTREAM")
	for _, p := range t.rows {
		methods := strings.Join(p.t.Methods, " ")
		if slices.Equal(p.t.Methods, defaultMethods) {
			methods = "*"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", cmp.Or(p.t.Path, "/"), methods, p.t.Needs, cmp.Or(p.t.notes(), "-"), p.t.maps())
	}
	w.Flush()
	return b.String()
}

// notes says what sets the row apart.
func (t *target) notes() string {
	var notes []string
	for _, anyOf := range t.rt.groups {
		notes = append(notes, "group "+strings.Join(anyOf, "|"))
	}
	if t.rt.acr != nil {
		notes = append(notes, "acr "+strings.Join(t.rt.acr, "|"))
	}
	if t.rt.maxAuthAge != nil {
		notes = append(notes, "sign-in within "+t.rt.maxAuthAge.String())
	}
	for _, n := range []struct {
		is   bool
		text string
	}{
		{len(t.rt.authorize) > 0, "authorize"},
		{t.rt.optional && t.Needs == User, "OPTIONAL"},
		{t.InsecureAnonymousClient, "ANONYMOUS CLIENT"},
		{t.Tokens != nil && t.Needs != Client, "own tokens"},
		{t.rt.navigation, "navigation"},
		{t.RequireCSRFToken, "csrf token"},
		{t.rt.passive, "passive"},
		{t.WebSocket, "websocket"},
		{t.H2C, "h2c"},
		{t.Cache, "cache"},
		{len(t.Cookies) > 0, "cookies " + strings.Join(t.Cookies, "|")},
		{len(t.SetCookies) > 0, "sets " + strings.Join(t.SetCookies, "|")},
		{t.UserIDHeader != "", "user in " + t.UserIDHeader},
		{t.UserGroupsHeader != "", "groups in " + t.UserGroupsHeader},
		{t.BlockTokenEcho, "no echo"},
	} {
		if n.is {
			notes = append(notes, n.text)
		}
	}
	return strings.Join(notes, ", ")
}

// maps says where a path leads.
func (t *target) maps() string {
	to := t.url.Scheme + "://" + t.url.Host + t.base
	if t.RewritePath != nil {
		return to + " (rewritten)"
	}
	rest, _ := below(t.Path, t.StripPrefix)
	return to + rest
}
