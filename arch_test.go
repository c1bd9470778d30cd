// Package drydock holds no code, only the test that keeps the house rules.
package drydock

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/drydock-os/drydock"

// layers lists what each package of ours may import of ours: values know
// nothing of each other, the core imports values, edges import the core. A
// package in no row may not exist.
var layers = map[string][]string{
	// values
	"partition":                     {},
	"partition/powercut":            {"partition"},
	"partition/partitiontest":       {"partition"},
	"omaha":                         {},
	"rebootlock":                    {"rebootlock/window"},
	"rebootlock/fleetlock":          {"rebootlock"},
	"rebootlock/window":             {},
	"rebootlock/etcdtest":           {"testdata/real"},
	"rebootlock/locktest":           {"rebootlock"},
	"rebootlock/etcdtest/etcd":      {},
	"fleetlink":                     {},
	"fleetlink/linktest":            {"fleetlink"},
	"fleetlink/nomad":               {"fleetlink"},
	"fleetlink/nomad/nomadtest":     {},
	"fleetlink/hook":                {"fleetlink"},
	"fleetlink/gate":                {},
	"fleetlink/fleet":               {"fleetlink", "fleetlink/fleet/etcd2"},
	"fleetlink/fleet/etcd2":         {},
	"fleetlink/fleet/fleettest":     {"fleetlink/fleet/etcd2", "testdata/real"},
	"fleetlink/host":                {"fleetlink"},
	"fleetlink/host/podmantest":     {"fleetlink/host", "testdata/real"},
	"fleetlink/kubernetes":          {"fleetlink"},
	"fleetlink/kubernetes/kubetest": {"rebootlock/etcdtest", "testdata/real"},
	"updater/payload":               {"updater/payload/internal/wire"},
	"updater/payload/internal/wire": {},
	"updater/fetch":                 {},
	"updater/image":                 {},
	"updater/host":                  {"updater/image"},
	"updater/state":                 {},
	"updater/policy":                {"rebootlock/window"},
	"updater/platform":              {"updater/state"},
	// core
	"updater": {"fleetlink", "omaha", "partition", "updater/fetch", "updater/payload", "updater/policy", "updater/state"},
	// edges
	"updater/bus":     {"fleetlink", "fleetlink/host", "updater"},
	"updater/metrics": {"updater"},
	"updater/link":    {"rebootlock", "rebootlock/fleetlock", "updater", "updater/policy"},
	"updater/sim":     {"partition", "updater", "updater/image", "updater/policy"},
	"updater/sim/rollout": {"fleetlink", "omaha", "partition", "partition/powercut", "rebootlock", "updater", "updater/image", "updater/link",
		"updater/payload", "updater/policy", "updater/sim"},
	"cmd/internal/config":         {"rebootlock", "rebootlock/window", "updater/platform", "updater/policy", "updater/state"},
	"cmd/internal/guest/writelog": {},
	"cmd/internal/journal":        {"updater"},
	"cmd/internal/survey":         {"fleetlink"},
	"cmd/internal/machine":        {"partition", "updater", "updater/bus", "updater/host", "updater/image", "updater/policy"},
	"cmd/internal/daemon":         {"*"},
	"cmd/internal/doctor": {"cmd/internal/config", "cmd/internal/machine", "cmd/internal/survey", "fleetlink", "fleetlink/hook", "partition", "rebootlock",
		"updater", "updater/bus", "updater/fetch", "updater/host", "updater/payload", "updater/policy", "updater/state"},
	"cmd/internal/demo": {"*"},
	"cmd/internal/cli":  {"*"},
	"cmd/drydock":       {"*"},
	"cmd/drydockd":      {"*"},
	// modules of their own
	"dist/package":                       {},
	"fleetlink/kubernetes/kubetest/kube": {},
	// tests
	"testdata/real":      {},
	"cmd/internal/guest": {"omaha", "partition", "updater", "updater/image", "testdata/real"},
}

// homes lists the only packages that may import a heavy dependency, by the
// beginning of its path.
var homes = map[string][]string{
	"github.com/godbus/dbus/":                  {"updater/bus"},
	"github.com/spf13/viper":                   {"cmd/internal/config"},
	"github.com/pelletier/go-toml/":            {"cmd/internal/config"},
	"github.com/go-viper/mapstructure/":        {"cmd/internal/config"},
	"github.com/spf13/cobra":                   {"cmd/internal/cli", "fleetlink/kubernetes/kubetest/kube"},
	"k8s.io/":                                  {"fleetlink/kubernetes", "fleetlink/kubernetes/kubetest", "fleetlink/kubernetes/kubetest/kube"},
	"go.etcd.io/":                              {"rebootlock", "rebootlock/etcdtest", "rebootlock/etcdtest/etcd", "omaha/depot", "cmd/internal/demo"},
	"github.com/coreos/go-semver/":             {"updater/policy", "omaha"},
	"github.com/coreos/go-systemd/v22/journal": {"cmd/internal/journal"},
	"github.com/coreos/go-systemd/v22/daemon":  {"cmd/internal/daemon"},
	"github.com/klauspost/compress/":           {"updater/payload", "updater/image"},
	"github.com/ulikunitz/xz":                  {"updater/payload", "updater/image"},
	"github.com/dsnet/compress/":               {"updater/payload"},
	"github.com/erofs/go-erofs":                {"updater/image"},
	"google.golang.org/protobuf/":              {"updater/payload", "updater/payload/internal/wire"},
	"golang.org/x/time/":                       {"updater/fetch"},
	"github.com/prometheus/":                   {"updater/metrics"},
	"github.com/goreleaser/nfpm/":              {"dist/package"},
	"github.com/spdx/":                         {"dist/package"},
}

// topLevel is what may stand at the repository's root, dot files apart.
var topLevel = []string{"cmd", "updater", "partition", "rebootlock", "omaha", "fleetlink", "testdata", "go.mod", "go.sum", "README.md", "DESIGN.md", "dist", "arch_test.go"}

func TestHouseRules(t *testing.T) {
	fset := token.NewFileSet()
	comments := map[string]int{}
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" && name != "testdata" || strings.HasPrefix(name, "testdata/") && name != "testdata/real") {
			return fs.SkipDir
		}
		if path.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		checkFile(t, fset, filepath.ToSlash(filepath.Dir(name)), f, comments)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for dir, n := range comments {
		if n != 1 {
			t.Errorf("%s: %d files with a package comment, want 1", dir, n)
		}
	}
	for dir := range layers {
		if _, exists := comments[dir]; !exists {
			t.Errorf("%s has a row and does not exist", dir)
		}
	}
}

func checkFile(t *testing.T, fset *token.FileSet, dir string, f *ast.File, comments map[string]int) {
	file := fset.File(f.Pos()).Name()
	if comments[dir] += 0; f.Doc != nil {
		comments[dir]++
	}
	allowed, listed := layers[dir]
	if !listed {
		t.Errorf("%s: package is in no row", dir)
	}
	for _, spec := range f.Imports {
		p := strings.Trim(spec.Path.Value, `"`)
		if own, ok := strings.CutPrefix(p, module+"/"); ok && !slices.Contains(allowed, own) && !slices.Contains(allowed, "*") {
			t.Errorf("%s: %s may not import %s", file, dir, own)
		}
		for prefix, home := range homes {
			if strings.HasPrefix(p+"/", prefix) && !slices.Contains(home, dir) {
				t.Errorf("%s: only %v may import %s", file, home, p)
			}
		}
	}
	if dir == "testdata/real" || dir == "cmd/internal/guest" {
		return
	}
	ast.Inspect(f, func(n ast.Node) bool { return checkNode(t, fset, dir, n) })
}

// checkNode refuses what the style forbids in code that is no test: bare go
// statements, sleeping, and the clock below cmd.
func checkNode(t *testing.T, fset *token.FileSet, dir string, n ast.Node) bool {
	switch n := n.(type) {
	case *ast.FuncDecl:
		return n.Name.Name != "now" // a Now field's default
	case *ast.GoStmt:
		t.Errorf("%s: bare go statement; use sync.WaitGroup.Go or errgroup", fset.Position(n.Pos()))
	case *ast.SelectorExpr:
		x, ok := n.X.(*ast.Ident)
		if !ok || x.Name != "time" {
			break
		}
		if n.Sel.Name == "Sleep" {
			t.Errorf("%s: time.Sleep", fset.Position(n.Pos()))
		}
		if n.Sel.Name == "Now" && !strings.HasPrefix(dir, "cmd") {
			t.Errorf("%s: time.Now below cmd; time comes in as a value", fset.Position(n.Pos()))
		}
	}
	return true
}

func TestTopLevel(t *testing.T) {
	entries, err := filepath.Glob("*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range entries {
		if !strings.HasPrefix(name, ".") && !slices.Contains(topLevel, name) {
			t.Errorf("%s does not belong at the top level", name)
		}
	}
}
