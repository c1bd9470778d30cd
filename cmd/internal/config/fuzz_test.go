package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
)

func many(n int, format string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// Whatever the file says: no panic, and either a policy that is valid or
// problems, in their order, that all say something.
func FuzzPolicyFile(f *testing.F) {
	for _, pattern := range []string{"good/*.toml", "bad/*.toml"} {
		for _, path := range files(f, pattern) {
			data, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	example, err := os.ReadFile(filepath.Join(real.Module(f), "dist", "drydock.toml"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > maxFile {
			return
		}
		p, found := parse(data)
		if len(found) == 0 {
			if err := errors.Join(p.Validate()...); err != nil {
				t.Errorf("loads, and is not valid: %v", err)
			}
			return
		}
		for _, problem := range found {
			if problem.why == "" {
				t.Errorf("a problem of %q says nothing", problem.key)
			}
		}
		if found.in("f.toml") == nil {
			t.Error("problems are no error")
		}
	})
}

// Whatever the file says: no panic, and no value that the file does not hold.
func FuzzUpdateConf(f *testing.F) {
	for _, pattern := range []string{"flatcar/*/etc/flatcar/update.conf", "flatcar/*/usr/share/flatcar/release"} {
		for _, path := range files(f, pattern) {
			data, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(string(data))
		}
	}
	f.Add("A=\"\nB=''\n=x\nC=\"'\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		for key, value := range assignments(text) {
			if !strings.Contains(text, key+"=") || !strings.Contains(text, value) || strings.Contains(key, "\n") || strings.Contains(value, "\n") {
				t.Errorf("%q: %q is not in %q", key, value, text)
			}
		}
	})
}
