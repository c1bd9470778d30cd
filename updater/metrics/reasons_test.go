package metrics

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
)

// sayers are the functions whose first argument is the kind of a reason.
var sayers = []string{"because", "add", "stop", "no", "Trouble", "trouble", "refuse", "inTrouble"}

// speakers are where reasons are made.
var speakers = []string{"updater", "updater/link", "rebootlock", "rebootlock/fleetlock", "cmd/internal/daemon", "cmd/internal/machine", "updater/bus", "fleetlink"}

var kind = regexp.MustCompile(`^[a-z][a-z-]+$`)

// TestEveryReasonIsKnown reads the program for the words of its reasons: one that
// is not in Reasons would be shown as "other".
func TestEveryReasonIsKnown(t *testing.T) {
	used := map[string]string{}
	note := func(fset *token.FileSet, e ast.Expr) {
		if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if word := strings.Trim(lit.Value, `"`); kind.MatchString(word) {
				used[word] = fset.Position(lit.Pos()).String()
			}
		}
	}
	for _, dir := range speakers {
		fset := token.NewFileSet()
		files, err := filepath.Glob(filepath.Join(real.Module(t), dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", dir, files, err)
		}
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CallExpr:
					if len(n.Args) > 0 && slices.Contains(sayers, called(n.Fun)) {
						note(fset, n.Args[0])
					}
				case *ast.KeyValueExpr:
					if key, ok := n.Key.(*ast.Ident); ok && key.Name == "Kind" {
						note(fset, n.Value)
					}
				}
				return true
			})
		}
	}
	if len(used) < 40 {
		t.Errorf("only %d reasons found: they are said in another way than this test looks for", len(used))
	}
	for word, where := range used {
		if !slices.Contains(Reasons, word) && !slices.Contains(noReasons, word) {
			t.Errorf("%s: the reason %q is not in Reasons", where, word)
		}
	}
	for _, word := range Reasons {
		if _, said := used[word]; !said && word != other {
			t.Errorf("nobody gives the reason %q", word)
		}
	}
}

// noReasons are words in such places that are no reasons: what a number is wrong
// with is one word, "metrics".
var noReasons = []string{"counts", "listen", "textfile"}

func called(f ast.Expr) string {
	switch f := f.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}
