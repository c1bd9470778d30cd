package platform

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
)

func file(t testing.TB, elem ...string) string {
	return filepath.Join(append([]string{real.Module(t), "testdata", "platform"}, elem...)...)
}

func text(t testing.TB, elem ...string) string {
	t.Helper()
	data, err := os.ReadFile(file(t, elem...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

var m6i = Facts{Provider: "afterburn", Zone: "eu-central-1b", Region: "eu-central-1", InstanceID: "i-0123456789abcdef0", InstanceType: "m6i.large"}

func TestAfterburn(t *testing.T) {
	for name, prefix := range map[string]string{"flatcar": "COREOS_EC2_", "fedora-coreos": "AFTERBURN_AWS_"} {
		s := Source{
			Provider: "afterburn", File: file(t, name), ZoneKey: prefix + "AVAILABILITY_ZONE", RegionKey: prefix + "REGION",
			InstanceKey: prefix + "INSTANCE_ID", TypeKey: prefix + "INSTANCE_TYPE",
		}
		if got, err := s.Read(context.Background()); err != nil || got != m6i {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
}

// What is not in the file is an error that names it, and the rest is known.
func TestAfterburnWithoutTheKey(t *testing.T) {
	s := Source{Provider: "afterburn", File: file(t, "flatcar"), ZoneKey: "COREOS_OPENSTACK_AVAILABILITY_ZONE", InstanceKey: "COREOS_EC2_INSTANCE_ID"}
	got, err := s.Read(context.Background())
	if want := (Facts{Provider: "afterburn", InstanceID: m6i.InstanceID}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if err == nil || !strings.Contains(err.Error(), s.ZoneKey) || !strings.Contains(err.Error(), s.File) {
		t.Errorf("got %v, want the key and the file", err)
	}
}

func TestAfterburnsFileCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	fifo, large := filepath.Join(dir, "fifo"), filepath.Join(dir, "large")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(large, []byte(strings.Repeat("#", maxFile+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		filepath.Join(dir, "missing"): "did afterburn",
		fifo:                          "no regular file",
		dir:                           "no regular file",
		large:                         "larger than",
	} {
		got, err := Source{Provider: "afterburn", File: name, ZoneKey: "Z"}.Read(context.Background())
		if err == nil || !strings.Contains(err.Error(), want) || got.Zone != "" {
			t.Errorf("%s: got %+v, %v, want %q", name, got, err, want)
		}
		if missing := strings.HasSuffix(name, "missing"); missing != errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A value that cannot be a fact is none: it would stand in records that all
// machines read, and in tables on terminals.
func TestOddValuesAreUnknown(t *testing.T) {
	for _, value := range []string{"a\x1b[2Jb", "a\x00b", "\xff", strings.Repeat("a", maxFact+1), "<html>", `"a "`, "a\u202eb"} {
		name := filepath.Join(t.TempDir(), "env")
		if err := os.WriteFile(name, []byte("Z="+value+"\nI=i-1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := Source{Provider: "afterburn", File: name, ZoneKey: "Z", InstanceKey: "I"}.Read(context.Background())
		if err == nil || !strings.Contains(err.Error(), "zone") || got.Zone != "" || got.InstanceID != "i-1" {
			t.Errorf("%q: got %+v, %v", value, got, err)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\x1b\x00") {
			t.Errorf("%q: the message steers a terminal", value)
		}
	}
}

func TestEnvironment(t *testing.T) {
	want := map[string]string{
		"PLAIN": "a b", "SPACED": "x", "SINGLE": `a "b" \n`, "DOUBLE": `a "b" $x \n`, "TWO": "abc", "LONG": "one   two", "ESCAPED": `a b\c`,
		"EMPTY": "", "HASH": "a # b", "export X": "1", "TWICE": "2", "MULTI": "first\nsecond", "MIDDLE": `a"b"`, "LAST": "open\n",
	}
	got := Environment(text(t, "quoted"))
	if !maps.Equal(got, want) {
		for key := range want {
			if got[key] != want[key] {
				t.Errorf("%s: got %q, want %q", key, got[key], want[key])
			}
		}
		t.Errorf("got %q", got)
	}
	for _, nothing := range []string{"", "\n\n", "#", "A", "A\nB", "#A=b", " ;A=b", "\r"} {
		if got := Environment(nothing); len(got) > 0 {
			t.Errorf("%q: got %q", nothing, got)
		}
	}
}

// Whatever the file says: no panic, an end, and no byte of a value that the
// file does not hold.
func FuzzEnvironment(f *testing.F) {
	for _, name := range []string{"flatcar", "quoted"} {
		f.Add(text(f, name))
	}
	f.Add("A='\nB=\"\\\nC=\\")
	f.Fuzz(func(t *testing.T, text string) {
		total := 0
		for key, value := range Environment(text) {
			total += len(key) + len(value)
			if strings.ContainsAny(key, "=\n\r") || !strings.Contains(text, key) {
				t.Errorf("%q is no key of %q", key, text)
			}
		}
		if total > len(text) {
			t.Errorf("%d bytes read from %d", total, len(text))
		}
	})
}
