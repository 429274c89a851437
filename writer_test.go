package bff_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"
)

// No ResponseWriter is wrapped, so that streaming, upgrades and whatever
// else a server's writer can do just work. Nothing in the package could be one.
func TestNoResponseWriterIsWrapped(t *testing.T) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), e.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		seen++
		for _, d := range file.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv != nil && fn.Name.Name == "WriteHeader" {
				t.Errorf("%s declares a type with the method WriteHeader", e.Name())
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			s, ok := n.(*ast.StructType)
			if !ok {
				return true
			}
			for _, field := range s.Fields.List {
				if sel, ok := field.Type.(*ast.SelectorExpr); ok && len(field.Names) == 0 && sel.Sel.Name == "ResponseWriter" {
					t.Errorf("%s embeds a ResponseWriter", e.Name())
				}
			}
			return true
		})
	}
	if seen < 10 {
		t.Errorf("%d files were read", seen)
	}
}
