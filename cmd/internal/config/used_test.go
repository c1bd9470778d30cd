package config

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater/policy"
)

// slots.grub_env was documented, decoded and validated, and nothing read it: the
// block is where partition.GRUB keeps it. Every key of the policy must be read
// by more than what checks it.
func TestEveryKeyIsRead(t *testing.T) {
	read := selected(t)
	for _, f := range fields(reflect.TypeFor[policy.Policy]()) {
		if !read[f.Name] && !slices.Contains(awaited, f.Name) {
			t.Errorf("nothing reads %s (%s)", f.Name, f.Tag.Get("mapstructure"))
		}
	}
}

// awaited are keys that the daemon will read when it takes its turn in a
// cluster. The list goes with that change.
var awaited = []string{
	"RequiredFile", "Endpoints", "CertFile", "KeyFile", "Coordinate", "LocalEtcd", "AllowSingleEtcd",
	"FleetLock", "ClientCAFile", "ClientCertFile", "ClientKeyFile",
}

// fields are those of a struct and of the structs of the policy in it.
func fields(in reflect.Type) []reflect.StructField {
	var all []reflect.StructField
	for i := range in.NumField() {
		f := in.Field(i)
		inner := f.Type
		for inner.Kind() == reflect.Slice {
			inner = inner.Elem()
		}
		all = append(all, f)
		if inner.Kind() == reflect.Struct && inner.PkgPath() == reflect.TypeFor[policy.Policy]().PkgPath() {
			all = append(all, fields(inner)...)
		}
	}
	return all
}

// selected are the names behind a dot in the module's programs: not in tests,
// nor where the policy is validated.
func selected(t *testing.T) map[string]bool {
	t.Helper()
	root, names := real.Module(t), map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") ||
			strings.Contains(path, "/updater/policy/validate") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				names[s.Sel.Name] = true
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
