package bfftest

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Answers are what one route answers to three callers, each as a status with
// the reason where it has one, such as "401 no_session" or "200".
type Answers struct {
	Anonymous string // nobody is signed in
	CrossSite string // a page of another site, in a browser that is signed in
	SignedIn  string // a script of the application's own
}

// CheckRoutes asks the application for each of the given routes, such as "GET
// /api/users", as three callers, and compares what they get. b is a browser in
// which somebody is signed in.
//
// rows are what has to be covered, as bff.Table.Routes returns them: a path and
// before it the methods, or none for any. So a row that somebody adds to the
// table makes the test fail until its answers are written down too.
func CheckRoutes(t TB, b *Browser, rows []string, want map[string]Answers) {
	t.Helper()
	anonymous := b.Tab()
	anonymous.jar = &jar{}
	var wrong []string
	foreign := http.Header{"Origin": {"https://elsewhere.example"}, "Sec-Fetch-Site": {"cross-site"}, "X-Csrf": {"1"}}
	covered := map[string]bool{}
	for _, route := range sorted(want) {
		method, path, ok := strings.Cut(route, " ")
		if !ok || !strings.HasPrefix(path, "/") {
			wrong = append(wrong, fmt.Sprintf("%q is no route such as GET /api/users", route))
			continue
		}
		if at := rowOf(rows, method, path); at >= 0 {
			covered[rows[at]] = true
		}
		for _, c := range []struct {
			caller, want string
			answer       *Response
		}{
			{"nobody", want[route].Anonymous, anonymous.Fetch(method, path, nil, nil)},
			{"another site", want[route].CrossSite, b.Fetch(method, path, nil, foreign)},
			{"somebody signed in", want[route].SignedIn, b.Fetch(method, path, nil, nil)},
		} {
			got := strings.TrimSpace(fmt.Sprint(c.answer.Status, " ", c.answer.Reason()))
			if c.answer.Err != nil {
				got = c.answer.Err.Error()
			}
			if got != c.want {
				wrong = append(wrong, fmt.Sprintf("%s, for %s: %s; want %s", route, c.caller, got, c.want))
			}
		}
	}
	for _, row := range rows {
		if !covered[row] {
			wrong = append(wrong, fmt.Sprintf("nothing is said about the answers below %s", row))
		}
	}
	if len(wrong) > 0 {
		t.Fatalf("%s", strings.Join(wrong, "\n"))
	}
}

func sorted(want map[string]Answers) []string {
	var routes []string
	for route := range want {
		routes = append(routes, route)
	}
	slices.Sort(routes)
	return routes
}

// rowOf returns the index of the row that serves a request: the one with the
// longest path that path is at or below, and with the method; or -1.
func rowOf(rows []string, method, path string) int {
	at, length := -1, -1
	for i, row := range rows {
		methods := strings.Fields(row)
		prefix := ""
		if n := len(methods) - 1; n >= 0 {
			methods, prefix = methods[:n], strings.TrimSuffix(methods[n], "/")
		}
		rest, ok := strings.CutPrefix(path, prefix)
		if !ok || rest != "" && rest[0] != '/' && rest[0] != '?' || len(prefix) < length {
			continue
		}
		if len(prefix) > length {
			at, length = -1, len(prefix)
		}
		if len(methods) == 0 || slices.Contains(methods, method) {
			at = i
		}
	}
	return at
}
