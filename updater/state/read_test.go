package state

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, text := range map[string]string{"whole": "1234", "over": "12345"} {
		if err := os.WriteFile(at(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(at("fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("whole", at("link")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"whole": "1234", "link": "1234", "over": "larger than 4 bytes", "fifo": "no regular file", ".": "no regular file", "missing": "no such file"} {
		data, err := ReadFile(at(name), 4)
		if got := string(data); err == nil && got != want || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
}
