package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// What go test prints becomes a row: medians, and each pass's own ratio.
func TestTable(t *testing.T) {
	var passes []pass
	for _, v := range [][2]float64{{1000, 4000}, {3000, 6000}, {2000, 20000}} {
		p := pass{}
		for _, r := range rows {
			p[r.ours] = 7
			if r.baseline != (figure{}) {
				p[r.baseline] = 7
			}
		}
		p.read("goos: linux")
		p.read(fmt.Sprintf("BenchmarkProxy/bff-2   \t 100\t 9 ns/op\t %v cpu-ns/op\t 17 B/op", v[0]))
		p.read(fmt.Sprintf("BenchmarkProxy/bare   \t 100\t 9 ns/op\t %v cpu-ns/op", v[1]))
		p.read("BenchmarkRefreshStorm/bff-2  5  9 ns/op  0 failed/op  1.000 token-requests/op")
		p.read("BenchmarkRefreshStorm/oauth2-2  5  9 ns/op  0 failed/op  1200 token-requests/op")
		passes = append(passes, p)
	}
	var out bytes.Buffer
	if err := writeTable(&out, passes); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Medians of 3 passes with go",
		"| `Proxy`, 1 KB | 0.25 (0.10, 0.50) | 2.00 µs | 6.00 µs | `httputil.ReverseProxy`, tuned |\n",
		"token requests | 0.00 (0.00, 0.00) | 1 | 1,200 | x/oauth2 by hand |\n",
		"| of them failed |  | 0 | 0 | x/oauth2 by hand |\n", // no ratio to nothing
		"sessions' end |  | 7.00 ms |  |  |\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("there is no %q in\n%s", want, &out)
		}
	}
	delete(passes[1], figure{"Proxy/bare", "cpu-ns/op"})
	if err := writeTable(&out, passes); err == nil || !strings.Contains(err.Error(), "Proxy/bare") {
		t.Errorf("without a baseline: %v, want an error that names it", err)
	}
}

func TestReplace(t *testing.T) {
	got, err := replace([]byte("a\n"+begin+"old\n"+end+"b\n"), []byte("new\n"))
	if want := "a\n" + begin + "new\n" + end + "b\n"; err != nil || string(got) != want {
		t.Errorf("replace = %q, %v; want %q", got, err, want)
	}
	for _, text := range []string{"", begin, end + begin} {
		if got, err := replace([]byte(text), nil); err == nil {
			t.Errorf("replace(%q) = %q, want an error", text, got)
		}
	}
}

func TestShow(t *testing.T) {
	for _, c := range []struct {
		v          float64
		unit, want string
	}{
		{999, "ns/op", "999 ns"}, {1234, "cpu-ns/op", "1.23 µs"}, {45_600_000, "Load-ns", "45.6 ms"}, {2.5e9, "ns/op", "2.50 s"},
		{559, "closed-ms", "559 ms"}, {1374.6, "heap-B/stream", "1,375 B"}, {-12, "stack-B/stream", "-12 B"},
		{-1234567, "B/op", "-1,234,567 B"}, {10, "allocs/op", "10"},
	} {
		if got := show(c.v, c.unit); got != c.want {
			t.Errorf("show(%v, %q) = %q, want %q", c.v, c.unit, got, c.want)
		}
	}
}
