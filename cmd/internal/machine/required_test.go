package machine

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drydock-os/drydock/updater/policy"
)

// TestRequiredFile: only a regular file that was written since the boot asks
// for a reboot; one that outlives reboots would ask without end.
func TestRequiredFile(t *testing.T) {
	root := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("etc/machine-id", strings.Repeat("ab", 16)+"\n")
	write("proc/sys/kernel/random/boot_id", "one\n")
	uptime := write("proc/uptime", "3600.00 1.00\n")
	path := write("run/reboot-required", "")
	now := time.Now()
	h := &Host{Root: root, Now: func() time.Time { return now }}
	p := policy.Policy{Reboot: policy.Reboot{RequiredFile: "/run/reboot-required"}}
	for _, c := range []struct {
		name, content, want string
		at                  time.Time
	}{
		{"touched", "", "/run/reboot-required asks for it", now.Add(-time.Minute)},
		{"with text", "*** System restart required ***\nlinux-image\n", "/run/reboot-required asks for it: *** System restart required ***", now.Add(-time.Minute)},
		{"odd bytes", "a\x1b[31m\xffb\n", "/run/reboot-required asks for it: a[31mb", now},
		{"long", strings.Repeat("x", 10_000), "/run/reboot-required asks for it: " + strings.Repeat("x", maxRequired), now},
		{"older than the boot", "", "", now.Add(-2 * time.Hour)},
		{"from the future", "", "", now.Add(time.Hour)},
	} {
		write("run/reboot-required", c.content)
		if err := os.Chtimes(path, c.at, c.at); err != nil {
			t.Fatal(err)
		}
		if got := h.Required(p); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	if err := os.Chtimes(path, now, now); err != nil {
		t.Fatal(err)
	}
	if got := h.Required(policy.Policy{}); got != "" {
		t.Errorf("no file is named: %q", got)
	}
	if err := os.Remove(uptime); err != nil {
		t.Fatal(err)
	}
	if got := h.Required(p); got != "" {
		t.Errorf("the time of the boot is not known: %q", got)
	}
	write("proc/uptime", "3600.00 1.00\n")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := h.Required(p); got != "" {
		t.Errorf("no file: %q", got)
	}
	if err := syscall.Mkfifo(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := h.Required(p); got != "" {
		t.Errorf("a FIFO: %q", got)
	}
}
