// Table runs the benchmarks of this module and of the stores several times and
// prints the table of README.md: each figure beside its baseline's of the same
// passes.
//
//	go run ./internal/bench/table [-passes 3] [-write README.md]
//
// A pass runs every benchmark once, so that the passes of each are minutes
// apart. A ratio is the median of the passes' ratios, with the lowest and the
// highest; what is absolute is a median by itself. The absolute figures are the
// machine's; the ratios travel further.
package main

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"log"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

func main() {
	log.SetFlags(0)
	count := flag.Int("passes", 3, "how often each benchmark is run")
	write := flag.String("write", "", "file whose table is replaced")
	flag.Parse()

	var passes []pass
	for i := range *count {
		p := pass{}
		for _, g := range groups {
			log.Printf("pass %d of %d: %s %s", i+1, *count, g.dir, g.pattern)
			if err := p.measure(g); err != nil {
				log.Fatal(err)
			}
		}
		passes = append(passes, p)
	}
	var out bytes.Buffer
	if err := writeTable(&out, passes); err != nil {
		log.Fatal(err)
	}
	if *write == "" {
		os.Stdout.Write(out.Bytes())
		return
	}
	text, err := os.ReadFile(*write)
	if err != nil {
		log.Fatal(err)
	}
	if text, err = replace(text, out.Bytes()); err != nil {
		log.Fatalf("%s: %v", *write, err)
	}
	if err := os.WriteFile(*write, text, 0o644); err != nil {
		log.Fatal(err)
	}
}

// A pass is what go test printed.
type pass map[figure]float64

// measure runs a group's benchmarks.
func (p pass) measure(g group) error {
	cmd := exec.Command("go", "test", "-run", "^$", "-bench", g.pattern, "-benchmem", "-benchtime", g.benchtime, "-timeout", "1h", ".")
	cmd.Dir, cmd.Stderr = g.dir, os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%s: %s: %w\n%s", g.dir, g.pattern, err, text)
	}
	for in := bufio.NewScanner(bytes.NewReader(text)); in.Scan(); {
		p.read(in.Text())
	}
	return nil
}

// read takes one line of go test's output.
func (p pass) read(line string) {
	fields := strings.Fields(line)
	if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
		return
	}
	name := strings.TrimPrefix(fields[0], "Benchmark")
	if i := strings.LastIndex(name, "-"); i > 0 { // the processors, if more than one
		if _, err := strconv.Atoi(name[i+1:]); err == nil {
			name = name[:i]
		}
	}
	for i := 2; i+1 < len(fields); i += 2 {
		if v, err := strconv.ParseFloat(fields[i], 64); err == nil {
			p[figure{name, fields[i+1]}] = v
		}
	}
}

// writeTable writes the table.
func writeTable(out *bytes.Buffer, passes []pass) error {
	fmt.Fprintf(out, "Medians of %d passes with %s on %s, %d processors.\n\n", len(passes), runtime.Version(), processor(), runtime.NumCPU())
	out.WriteString("| | ratio (lowest, highest) | bff | baseline | which is |\n|---|---|--:|--:|---|\n")
	for _, r := range rows {
		ours, base, ratios, err := r.collect(passes)
		if err != nil {
			return err
		}
		ratio, baseline := "", ""
		if len(base) > 0 {
			baseline = show(median(base), r.baseline.unit)
		}
		if len(ratios) > 0 {
			ratio = fmt.Sprintf("%s (%s, %s)", digits(median(ratios)), digits(slices.Min(ratios)), digits(slices.Max(ratios)))
		}
		fmt.Fprintf(out, "| %s | %s | %s | %s | %s |\n", r.what, ratio, show(median(ours), r.ours.unit), baseline, r.than)
	}
	return nil
}

// collect returns the figures of all passes, and the ratio of each pass unless
// the baseline is nothing.
func (r row) collect(passes []pass) (ours, base, ratios []float64, err error) {
	for _, p := range passes {
		v, ok := p[r.ours]
		if !ok {
			return nil, nil, nil, fmt.Errorf("there is no %s of Benchmark%s", r.ours.unit, r.ours.name)
		}
		ours = append(ours, v)
		if r.baseline == (figure{}) {
			continue
		}
		b, ok := p[r.baseline]
		if !ok {
			return nil, nil, nil, fmt.Errorf("there is no %s of Benchmark%s", r.baseline.unit, r.baseline.name)
		}
		base = append(base, b)
		if b > 0 {
			ratios = append(ratios, v/b)
		}
	}
	return ours, base, ratios, nil
}

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	if n := len(values); n%2 == 0 {
		return (values[n/2-1] + values[n/2]) / 2
	}
	return values[len(values)/2]
}

// show writes a figure with its unit: times in the unit that fits, bytes, or a
// number.
func show(v float64, unit string) string {
	switch {
	case strings.Contains(unit, "ms"):
		v *= 1e6
	case strings.Contains(unit, "ns"):
	case strings.Contains(unit, "B/"):
		return thousands(v) + " B"
	default:
		return thousands(v)
	}
	switch {
	case v >= 1e9:
		return digits(v/1e9) + " s"
	case v >= 1e6:
		return digits(v/1e6) + " ms"
	case v >= 1e3:
		return digits(v/1e3) + " µs"
	}
	return digits(v) + " ns"
}

// digits writes v with two or three of them.
func digits(v float64) string {
	switch {
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// thousands writes v without a fraction and with commas.
func thousands(v float64) string {
	s := strconv.FormatInt(int64(math.Round(v)), 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
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

// The table stands between these.
const begin, end = "<!-- figures -->\n", "<!-- /figures -->\n"

// replace returns text with another table.
func replace(text, table []byte) ([]byte, error) {
	before, rest, ok := bytes.Cut(text, []byte(begin))
	_, after, ok2 := bytes.Cut(rest, []byte(end))
	if !ok || !ok2 {
		return nil, fmt.Errorf("there is no %q followed by %q", begin, end)
	}
	return slices.Concat(before, []byte(begin), table, []byte(end), after), nil
}
