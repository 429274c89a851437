// Table runs the benchmarks of this module and of the stores several times and
// prints the table of README.md: the median of each figure beside that of its
// baseline in the same runs.
//
//	go run ./internal/bench/table [-count 5] [-write README.md]
//
// The absolute figures are the machine's; the ratios travel further.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// A row is one comparison.
type row struct {
	what           string
	ours, baseline string // benchmarks, without "Benchmark" and the processors
	than           string
	unit           string
	digits         int
	scale          float64 // of the unit, to what is shown
	shown          string
	baseUnit       string // of the baseline, where one benchmark measures both
}

// A group is what one go test command measures.
type group struct {
	dir, pattern, benchtime string
	rows                    []row
}

var groups = []group{
	{"internal/bench", "^BenchmarkProtect$", "1s", []row{
		{"`Protect`, 1,000 sessions", "Protect/bff/token=1KB/sessions=1000", "Protect/scs/token=1KB/sessions=1000", "alexedwards/scs", "ns/op", 2, 1e-3, "µs", ""},
		{"the same, 1,000,000 sessions", "Protect/bff/token=1KB/sessions=1000000", "Protect/scs/token=1KB/sessions=1000000", "alexedwards/scs", "ns/op", 2, 1e-3, "µs", ""},
		{"the same, access tokens of 16 KB", "Protect/bff/token=16KB/sessions=1000", "Protect/scs/token=16KB/sessions=1000", "alexedwards/scs", "ns/op", 2, 1e-3, "µs", ""},
		{"`Protect`, allocations", "Protect/bff/token=1KB/sessions=1000", "Protect/scs/token=1KB/sessions=1000", "alexedwards/scs", "allocs/op", 0, 1, "", ""},
		{"`Protect`, over the bare handler", "Protect/bff/token=1KB/sessions=1000000", "Protect/bare", "the bare handler", "ns/op", 2, 1e-3, "µs", ""},
	}},
	{"internal/bench", "^BenchmarkForged$", "1s", []row{
		{"a forged cookie", "Forged/bff", "Forged/scs", "a look-up in scs", "ns/op", 2, 1e-3, "µs", ""},
	}},
	{"internal/bench", "^BenchmarkProxy$", "3s", []row{
		{"`Proxy`, 1 KB, CPU", "Proxy/bff", "Proxy/bare", "a tuned `httputil.ReverseProxy`", "cpu-ns/op", 1, 1e-3, "µs", ""},
		{"`Proxy`, allocations", "Proxy/bff", "Proxy/bare", "a tuned `httputil.ReverseProxy`", "allocs/op", 0, 1, "", ""},
	}},
	{"internal/bench", "^BenchmarkSignIn$", "1s", []row{
		{"a sign-in, CPU of both sides", "SignIn/bff", "SignIn/oauth2", "x/oauth2 and go-oidc by hand", "cpu-ns/op", 2, 1e-6, "ms", ""},
	}},
	{"internal/bench", "^BenchmarkRefreshStorm$", "20x", []row{
		{"200 requests on an expired token: token requests", "RefreshStorm/bff", "RefreshStorm/oauth2", "x/oauth2 by hand", "token-requests/op", 0, 1, "", ""},
		{"of them failed", "RefreshStorm/bff", "RefreshStorm/oauth2", "x/oauth2 by hand", "failed/op", 0, 1, "", ""},
	}},
	{"internal/bench", "^BenchmarkMemory$", "1x", []row{
		{"memory per session, 100,000 of them, beyond the record", "Memory/bff", "Memory/scs", "alexedwards/scs, beyond its record", "heap-B/session", 0, 1, "B", ""},
	}},
	{"store/redisstore", "^BenchmarkLoad$", "20000x", []row{
		{"Redis: a `Load` that isn't cached, 1 goroutine", "Load/1", "Load/1", "the client's GET", "ns/op", 1, 1e-3, "µs", "bare-ns/op"},
		{"Redis: the same, 64 goroutines", "Load/64", "Load/64", "the client's GET", "ns/op", 1, 1e-3, "µs", "bare-ns/op"},
	}},
	{"internal/sqltest", "^BenchmarkLoad$", "5000x", []row{
		{"PostgreSQL: a `Load`, 1 goroutine", "Load/postgres/1", "Load/postgres/1", "the driver's SELECT", "Load-ns", 1, 1e-3, "µs", "bare-ns"},
		{"PostgreSQL: the same, 64 goroutines", "Load/postgres/64", "Load/postgres/64", "the driver's SELECT", "Load-ns", 1, 1e-3, "µs", "bare-ns"},
	}},
}

func main() {
	log.SetFlags(0)
	count := flag.Int("count", 5, "how often each benchmark is run")
	write := flag.String("write", "", "file whose table is replaced")
	flag.Parse()

	var out bytes.Buffer
	fmt.Fprintf(&out, "Medians of %d runs with %s on %s, %d processors.\n\n", *count, runtime.Version(), processor(), runtime.NumCPU())
	out.WriteString("| what | bff | baseline | | ratio |\n|---|--:|--:|---|--:|\n")
	for _, g := range groups {
		figures, err := measure(g, *count)
		if err != nil {
			log.Fatal(err)
		}
		for _, r := range g.rows {
			ours, err := figures.median(r.ours, r.unit)
			if err != nil {
				log.Fatal(err)
			}
			base, err := figures.median(r.baseline, cmp.Or(r.baseUnit, r.unit))
			if err != nil {
				log.Fatal(err)
			}
			if strings.HasPrefix(r.ours, "Memory") { // what the record itself takes is no overhead
				a, errA := figures.median(r.ours, "value-B/session")
				b, errB := figures.median(r.baseline, "value-B/session")
				if errA != nil || errB != nil {
					log.Fatal(errA, errB)
				}
				ours, base = ours-a, base-b
			}
			ratio := "–"
			if base > 0 {
				ratio = fmt.Sprintf("%.2f", ours/base)
			}
			fmt.Fprintf(&out, "| %s | %.*f %s | %.*f %s | %s | %s |\n",
				r.what, r.digits, ours*r.scale, r.shown, r.digits, base*r.scale, r.shown, r.than, ratio)
		}
	}
	if *write == "" {
		os.Stdout.Write(out.Bytes())
		return
	}
	if err := replace(*write, out.String()); err != nil {
		log.Fatal(err)
	}
}

// figures are what go test printed: values by benchmark and unit.
type figures map[string]map[string][]float64

// measure runs a group's benchmarks, each pass beside its baseline's.
func measure(g group, count int) (figures, error) {
	f := figures{}
	for range count { // one after another, so that noise meets all of them
		cmd := exec.Command("go", "test", "-run", "^$", "-bench", g.pattern, "-benchmem", "-benchtime", g.benchtime, ".")
		cmd.Dir, cmd.Stderr = g.dir, os.Stderr
		text, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("%s: %w\n%s", g.pattern, err, text)
		}
		for in := bufio.NewScanner(bytes.NewReader(text)); in.Scan(); {
			f.read(in.Text())
		}
	}
	return f, nil
}

// read takes one line of go test's output.
func (f figures) read(line string) {
	fields := strings.Fields(line)
	if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
		return
	}
	name := strings.TrimPrefix(fields[0], "Benchmark")
	if i := strings.LastIndex(name, "-"); i > 0 { // the processors
		name = name[:i]
	}
	if f[name] == nil {
		f[name] = map[string][]float64{}
	}
	for i := 2; i+1 < len(fields); i += 2 {
		if v, err := strconv.ParseFloat(fields[i], 64); err == nil {
			f[name][fields[i+1]] = append(f[name][fields[i+1]], v)
		}
	}
}

func (f figures) median(name, unit string) (float64, error) {
	values := slices.Clone(f[name][unit])
	if len(values) == 0 {
		return 0, fmt.Errorf("there is no %s of Benchmark%s", unit, name)
	}
	slices.Sort(values)
	return values[len(values)/2], nil
}

// processor names the machine's, as far as it says.
func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// The table stands between these in README.md.
const begin, end = "<!-- figures -->\n", "<!-- /figures -->\n"

func replace(file, table string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no %q and %q", file, begin, end)
	}
	return os.WriteFile(file, []byte(before+begin+table+end+after), 0o644)
}
