package mutate_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/agglestone/bff/internal/mutate/mutate"
)

const guard = "testdata/guard"

// Without a mutant all is green; with one, the rows that need its check go
// red, all of them, and of the others only those that share a line of defence.
func TestMutantsAreRed(t *testing.T) {
	out := t.TempDir()
	overlay, names, err := mutate.Build(guard, out)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"age", "badge", "bags", "case", "cases", "else-if", "else-if.init", "inner", "limit", "map-entry",
		"name", "one-line-literal", "outer", "shared", "spans-lines_1", "spans-lines_2", "word",
	}
	if !slices.Equal(names, want) {
		t.Errorf("Build(%s) finds %q, want %q", guard, names, want)
	}

	binary := filepath.Join(out, "guard.test")
	compile := exec.Command("go", "test", "-c", "-overlay", overlay, "-o", binary, ".")
	compile.Dir = guard
	compile.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	if output, err := compile.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", compile, err, output)
	}

	red := func(name string) (failed []string, output []byte) {
		run := exec.Command(binary, "-test.v")
		run.Env = append(os.Environ(), "BFF_MUTANT="+name)
		output, err := run.CombinedOutput()
		for _, m := range regexp.MustCompile(`--- FAIL: TestEnter/(\S+)`).FindAllSubmatch(output, -1) {
			row, _, _ := strings.Cut(string(m[1]), "#") // the second of a name is name#01
			failed = append(failed, row)
		}
		if (err != nil) != (len(failed) > 0) {
			t.Errorf("with %q off: %v\n%s", name, err, output)
		}
		return failed, output
	}
	for _, name := range []string{"", "no-such-check"} {
		if failed, output := red(name); len(failed) > 0 {
			t.Errorf("with %q off, red: %q\n%s", name, failed, output)
		}
	}
	// Rows that also need another check than their own.
	also := map[string][]string{
		"bags":  {"bags", "limit"},
		"limit": {"bags", "limit", "shared"},
		"inner": {"inner", "outer"},
		"outer": {"inner", "outer", "outer"},
		"cases": {"cases", "cases"}, "spans-lines_1": {"spans-lines_1", "spans-lines_1"},
		"spans-lines_2": {"spans-lines_2", "spans-lines_2"}, "shared": {"shared", "shared"},
	}
	for _, name := range names {
		want, ok := also[name]
		if !ok {
			want = []string{name}
		}
		failed, output := red(name)
		slices.Sort(failed)
		if !slices.Equal(failed, want) {
			t.Errorf("with %s off, red: %q, want %q\n%s", name, failed, want, output)
		}
	}
}

// The copies differ from the originals in the marked lines alone.
func TestRewriteIsPrecise(t *testing.T) {
	out := t.TempDir()
	overlayPath, _, err := mutate.Build(guard, out)
	if err != nil {
		t.Fatal(err)
	}
	var overlay struct{ Replace map[string]string }
	content, err := os.ReadFile(overlayPath)
	if err == nil {
		err = json.Unmarshal(content, &overlay)
	}
	if err != nil {
		t.Fatal(err)
	}
	abs, err := filepath.Abs(guard)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"guard.go", "limit/limit.go", "zz_mutants.go", "limit/zz_mutants.go"} {
		if to := overlay.Replace[filepath.Join(abs, name)]; to != filepath.Join(out, name) {
			t.Errorf("overlay replaces %s by %q", name, to)
		}
	}
	if len(overlay.Replace) != 4 {
		t.Errorf("overlay replaces %d files, want 4: %v", len(overlay.Replace), overlay.Replace)
	}

	got := changed(t, filepath.Join(guard, "guard.go"), filepath.Join(out, "guard.go"))
	want := map[string]string{
		"skipBadge: false, // check:badge":                                 `skipBadge: mutantOff("badge"), // check:badge`,
		"needWord:  true,  // check:word the other way round":              `needWord:  !mutantOff("word"),  // check:word the other way round`,
		`"mallory": true, // check:map-entry`:                              `"mallory": !mutantOff("map-entry"), // check:map-entry`,
		`if v.Name == "" { // check:name`:                                  `if !mutantOff("name") && (v.Name == "") { // check:name`,
		"if v.Age < 18 { // check:age RFC 1: only this keeps children out": `if !mutantOff("age") && (v.Age < 18) { // check:age RFC 1: only this keeps children out`,
		"} else if v.Age > 120 { // check:else-if":                         `} else if !mutantOff("else-if") && (v.Age > 120) { // check:else-if`,
		"} else if err := old(v.Age); err != nil { // check:else-if.init":  `} else if err := old(v.Age); !mutantOff("else-if.init") && (err != nil) { // check:else-if.init`,
		"if err := limit.Check(v.Bags); err != nil { // check:limit":       `if err := limit.Check(v.Bags); !mutantOff("limit") && (err != nil) { // check:limit`,
		"if v.Banned ||": `if !mutantOff("spans-lines_1") && (v.Banned ||`,
		`v.Name == "eve" { // check:spans-lines_1`:                                        `v.Name == "eve") { // check:spans-lines_1`,
		`if v.Badge == "forged" || // check:spans-lines_2`:                                `if !mutantOff("spans-lines_2") && (v.Badge == "forged" || // check:spans-lines_2`,
		`v.Badge == "copied" {`:                                                           `v.Badge == "copied") {`,
		"if some(v.Name, func(r rune) bool {":                                             `if !mutantOff("outer") && (some(v.Name, func(r rune) bool {`,
		"if r == 'ß' { // check:inner":                                                    `if !mutantOff("inner") && (r == 'ß') { // check:inner`,
		"}) { // check:outer":                                                             `})) { // check:outer`,
		`case v.Word == "abracadabra": // check:case`:                                     `case !mutantOff("case") && (v.Word == "abracadabra"): // check:case`,
		`case v.Word == "sesame",`:                                                        `case !mutantOff("cases") && (v.Word == "sesame"),`,
		`v.Word == "open": // check:cases`:                                                `!mutantOff("cases") && (v.Word == "open"): // check:cases`,
		`if func() bool { return v.Word == "please" }() { // check:one-line-literal`:      `if !mutantOff("one-line-literal") && (func() bool { return v.Word == "please" }()) { // check:one-line-literal`,
		`if ok := v.Bags&1 == 0; !ok && v.Name == "thief" { /* before */ // check:shared`: `if ok := v.Bags&1 == 0; !mutantOff("shared") && (!ok && v.Name == "thief") { /* before */ // check:shared`,
	}
	for from, to := range want {
		if got[from] != to {
			t.Errorf("%s\nbecomes %s\nwant    %s", from, got[from], to)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d lines changed, want %d", len(got), len(want))
	}
}

// changed returns the lines that differ, without their indentation.
func changed(t *testing.T, from, to string) map[string]string {
	t.Helper()
	var lines [2][]string
	for i, path := range []string{from, to} {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines[i] = strings.Split(string(content), "\n")
	}
	if len(lines[0]) != len(lines[1]) {
		t.Fatalf("%d lines become %d", len(lines[0]), len(lines[1]))
	}
	diff := map[string]string{}
	for i := range lines[0] {
		if lines[0][i] != lines[1][i] {
			diff[strings.TrimSpace(lines[0][i])] = strings.TrimSpace(lines[1][i])
		}
	}
	return diff
}

func TestList(t *testing.T) {
	markers, err := mutate.List(guard)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range markers {
		got = append(got, m.String())
	}
	for _, want := range []string{"badge\tguard.go:24", "shared\tguard.go:85", "bags\tlimit/limit.go:8", "shared\tlimit/limit.go:11"} {
		if !slices.Contains(got, want) {
			t.Errorf("List lacks %q:\n%s", want, strings.Join(got, "\n"))
		}
	}
	if len(got) != 18 {
		t.Errorf("List finds %d markers, want 18", len(got))
	}
}

// A marker that changes nothing would be a check that nobody tests.
func TestUnusableMarkers(t *testing.T) {
	for _, tt := range []struct{ name, body, want string }{
		{"return", "return // check:x", "g.go:4: check:x: no if"},
		{"call", "f() // check:x", "no if"},
		{"for", "for a { // check:x\n}", "no if"},
		{"switch", "switch a { // check:x\n}", "no if"},
		{"case-with-tag", "switch a {\ncase b: // check:x\n}", "no if"},
		{"type-case", "switch any(a).(type) {\ncase bool: // check:x\n}", "no if"},
		{"default", "switch {\ndefault: // check:x\n}", "no if"},
		{"else", "if a {\n} else { // check:x\n}", "g.go:5: check:x: no if"},
		{"inside-the-if", "if a {\nf() // check:x\n}", "no if"},
		{"closing-brace", "if a {\n} // check:x", "no if"},
		{"assignment", "a = true // check:x", "no if"},
		{"field-of-another-value", "_ = T{A: a, // check:x\n}", "no if"},
		{"field-that-is-a-string", "_ = T{S: \"true\", // check:x\n}", "no if"},
		{"element-without-key", "_ = []bool{true, // check:x\n}", "no if"},
		{"key-on-another-line", "_ = T{\nA: true,\n// check:x\n}", "g.go:6: check:x stands on a line of its own"},
		{"line-before", "// check:x\nif a {\n}", "g.go:4: check:x stands on a line of its own"},
		{"line-inside-the-header", "if a ||\n// check:x\nb {\n}", "line of its own"},
		{"two-fields", "_ = T{A: true, B: false, // check:x\n}", "more than one thing"},
		{"two-ifs", "if a { if b { f() } } // check:x", "more than one thing"},
		{"if-and-field", "if t == (T{A: true}) { // check:x\n}", "more than one thing"},
		{"two-markers-on-one-if", "if a || // check:x\nb { // check:y\n}", "g.go:5: check:y marks what is marked already"},
		{"two-names", "if a { // check:x check:y\n}", "not a marker"},
		{"no-name", "if a { // check:\n}", "not a marker"},
		{"name-after-space", "if a { // check: x\n}", "not a marker"},
		{"comma", "if a { // check:x, since\n}", "not a marker"},
		{"prose-first", "if a { // a reason. check:x\n}", "not a marker"},
		{"block-comment", "if a { /* check:x */\n}", "not a marker"},
		{"two-spaces", "if a { //  check:x\n}", "not a marker"},
		{"malformed-on-its-own-line", "// check:\nif a {\n}", "g.go:4: not a marker"},
		{"after-raw-string", "_ = `\n` // check:x", "g.go:5: check:x: no if"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := module(t, map[string]string{"g.go": "package g\n\nfunc g() {\n" + tt.body + "\n}\n"})
			_, err := mutate.List(dir)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("List: %v; want an error with %q", err, tt.want)
			}
			if _, _, err := mutate.Build(dir, t.TempDir()); err == nil {
				t.Error("Build succeeds")
			}
		})
	}
}

func TestEveryUnusableMarkerIsNamed(t *testing.T) {
	dir := module(t, map[string]string{
		"g.go":   "package g\n\nfunc g() {\n\tg() // check:x\n\tg() // check:y\n}\n",
		"h/h.go": "package h\n\nfunc h() {\n\th() // check:z\n}\n",
	})
	_, err := mutate.List(dir)
	for _, want := range []string{"g.go:4: check:x", "g.go:5: check:y", "h/h.go:4: check:z"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("List: %v; want an error with %q", err, want)
		}
	}
}

func TestUnusableModules(t *testing.T) {
	const marked = "package g\n\nfunc g(a bool) {\n\tif a { // check:x\n\t}\n}\n"
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"no-marker", map[string]string{"g.go": "package g\n"}, "no check is marked"},
		{"no-file", nil, "no check is marked"},
		{"syntax", map[string]string{"g.go": "package g\n\nfunc {"}, "g.go:3"},
		{"two-packages", map[string]string{"a.go": marked, "b.go": "//go:build ignore\n\n" + strings.Replace(marked, "package g", "package main", 1)}, "both package"},
		{"generated-name-taken", map[string]string{"g.go": marked, "zz_mutants.go": "package g\n"}, "zz_mutants.go is in the way"},
		{"function-taken", map[string]string{"g.go": marked, "h.go": "package g\n\nfunc mutantOff() {}\n"}, "h.go declares mutantOff"},
		{"variable-taken", map[string]string{"g.go": marked, "h.go": "package g\n\nvar a, mutantName = 1, 2\n"}, "h.go declares mutantName"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := mutate.Build(module(t, tt.files), t.TempDir())
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Build: %v; want an error with %q", err, tt.want)
			}
		})
	}
	t.Run("output-inside", func(t *testing.T) {
		dir := module(t, map[string]string{"g.go": marked})
		if _, _, err := mutate.Build(dir, filepath.Join(dir, "out")); err == nil {
			t.Error("Build writes into the module")
		}
	})
}

// What is not production code of this module may say what it likes.
func TestLeftAlone(t *testing.T) {
	const bad = "package g\n\nfunc g() {\n\tg() // check:bad\n}\n"
	dir := module(t, map[string]string{
		"g.go": "// Package g double-checks: see check:y and\n//\n//\tif a { // check:z\npackage g\n\n" +
			"// no check:x here\nfunc g(a bool) {\n\tif a { // check:good\n\t}\n\ts := \"// check:w\"; _ = s\n}\n",
		"g_test.go":         bad,
		"testdata/g.go":     bad,
		"vendor/v/v.go":     bad,
		"_old/g.go":         bad,
		".hidden/g.go":      bad,
		"_g.go":             bad,
		"node_modules/n.go": bad,
		"nested/go.mod":     "module nested\n",
		"nested/g.go":       bad,
		"main_ignored.go":   "//go:build ignore\n\npackage main\n\nfunc mutantOff() {}\n",
	})
	out := t.TempDir()
	_, names, err := mutate.Build(dir, out)
	if err != nil || !slices.Equal(names, []string{"good"}) {
		t.Fatalf("Build = %q, %v; want good alone", names, err)
	}
	content, err := os.ReadFile(filepath.Join(out, "g.go"))
	if err != nil || bytes.Count(content, []byte("mutantOff")) != 1 {
		t.Errorf("g.go becomes %s, %v", content, err)
	}
}

// Line endings and positions survive //line directives and CRLF.
func TestPositions(t *testing.T) {
	dir := module(t, map[string]string{"g.go": "package g\r\n\r\n//line other.go:100\r\nfunc g(ä bool) {\r\n\tif ä { // check:x\r\n\t}\r\n}\r\n"})
	markers, err := mutate.List(dir)
	if err != nil || fmt.Sprint(markers) != "[x\tg.go:5]" {
		t.Fatalf("List = %v, %v; want x at g.go:5", markers, err)
	}
	out := t.TempDir()
	if _, _, err := mutate.Build(dir, out); err != nil {
		t.Fatal(err)
	}
	content, _ := os.ReadFile(filepath.Join(out, "g.go"))
	if !bytes.Contains(content, []byte("\tif !mutantOff(\"x\") && (ä) { // check:x\r\n")) {
		t.Errorf("g.go becomes %q", content)
	}
}

// module writes a module to a temporary directory.
func module(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for path, content := range files {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
