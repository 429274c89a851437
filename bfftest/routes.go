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
// paths are those that have to be covered, as bff.Table.Paths returns them. So
// a row that somebody adds to the table makes the test fail until its answers
// are written down too.
func CheckRoutes(t TB, b *Browser, paths []string, want map[string]Answers) {
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
		if at := longest(paths, path); at >= 0 {
			covered[paths[at]] = true
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
	for _, path := range paths {
		if !covered[path] {
			wrong = append(wrong, fmt.Sprintf("nothing is said about the answers below %s", path))
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

// longest returns the index of the longest path that path is at or below, or
// -1.
func longest(paths []string, path string) int {
	at := -1
	for i, p := range paths {
		rest, ok := strings.CutPrefix(path, p)
		if ok && (rest == "" || rest[0] == '/' || rest[0] == '?') && (at < 0 || len(p) > len(paths[at])) {
			at = i
		}
	}
	return at
}
