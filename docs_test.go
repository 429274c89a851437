package bff_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

func text(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What README.md shows is the code of the examples, but for spaces. (That for
// gin is in internal/routers.)
func TestREADMEIsTrue(t *testing.T) {
	words := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	code := words(text(t, "example_test.go") + text(t, "spa/example_test.go") +
		text(t, "store/redisstore/example_test.go") + text(t, "store/sqlstore/example_test.go"))
	blocks := strings.Split(text(t, "README.md"), "```go\n")[1:]
	for _, b := range blocks {
		b, _, _ = strings.Cut(b, "```")
		if !strings.Contains(b, "gin.") && !strings.Contains(code, words(b)) {
			t.Errorf("README.md shows code that is in no example_test.go:\n%s", b)
		}
	}
	if len(blocks) < 4 {
		t.Errorf("README.md has %d blocks of Go", len(blocks))
	}
}

// Every reason has its place in docs/reasons.md and README.md, with its status,
// and there are no others.
func TestReasonsAreDocumented(t *testing.T) {
	source, docs, readme := text(t, "problem.go"), text(t, "docs/reasons.md"), text(t, "README.md")
	status := map[string]string{} // by the constant's name
	for _, m := range regexp.MustCompile(`(?m)^\t(\w+):\s+\{(\d{3}), "`).FindAllStringSubmatch(source, -1) {
		status[m[1]] = m[2]
	}
	reasons := regexp.MustCompile(`(?m)^\t(\w+)\s+Reason = "(\w+)"`).FindAllStringSubmatch(source, -1)
	for _, m := range reasons {
		name, reason := m[1], m[2]
		if want := "\n### " + reason + "\n\n**Status** " + status[name]; status[name] == "" || !strings.Contains(docs, want) {
			t.Errorf("docs/reasons.md has no %q", want)
		}
		if !strings.Contains(docs, "["+reason+"](#"+reason+")") {
			t.Errorf("the table of docs/reasons.md lacks %s", reason)
		}
		if !strings.Contains(readme, "`"+reason+"`") {
			t.Errorf("README.md lacks %s", reason)
		}
	}
	if sections := strings.Count(docs, "\n### "); len(reasons) < 20 || sections != len(reasons) {
		t.Errorf("docs/reasons.md has %d sections for %d reasons", sections, len(reasons))
	}
}
