package config

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
)

// The table that dist/debian.md gives in place of the example's is one that
// drydockd takes.
func TestDebianPolicyIsValid(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(real.Module(t), "dist/debian.md"))
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?ms)^```toml\n(.*?)^```").FindStringSubmatch(string(text))
	if block == nil {
		t.Fatal("debian.md has no table")
	}
	lines, _ := example(t)
	before, _, found := strings.Cut(strings.Join(lines, "\n"), "\n[slots]\n")
	if !found {
		t.Fatal("the example has no table slots, or it is not the last")
	}
	path := filepath.Join(t.TempDir(), "drydock.toml")
	if err := os.WriteFile(path, []byte(before+"\n"+block[1]), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if p.Slots.Control != "systemd-boot" || p.Slots.Labels[0] != "ROOT-A" || p.Slots.BootDirectory != "/boot" {
		t.Errorf("slots %+v", p.Slots)
	}
}
