package cli

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/omaha"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater/image"
	"github.com/drydock-os/drydock/updater/policy"
)

// TestMachine has the command ask a real drydockd, which keeps a disk image
// current from a real update server on loopback. Only the files of /etc, /usr
// and /proc that say who the machine is are a test's, and the policy says what
// is booted; nothing reboots, by the strategy off.
func TestMachine(t *testing.T) {
	real.Root(t) // polkit is not asked for root
	in := workshop(t)
	updates := &omaha.Static{AppID: policy.DefaultAppID}
	mux := http.NewServeMux()
	mux.Handle("/v1/update/", &omaha.Handler{Updates: updates})
	mux.Handle("/p/", http.StripPrefix("/p/", http.FileServer(http.Dir(in("served")))))
	server := httptest.NewServer(mux)
	defer server.Close()
	address := startDaemon(t, in, server.URL)
	ask := func(want int, args ...string) string {
		t.Helper()
		code, out, errs := run(t.Context(), append([]string{"--bus", address}, args...)...)
		if code != want {
			t.Fatalf("drydock %s: exit %d, want %d: %s%s", strings.Join(args, " "), code, want, out, errs)
		}
		return out + errs
	}
	said := func(out string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("got\n%swhich does not say %q", out, w)
			}
		}
	}
	becomes := func(want string) { // the daemon looks again shortly after a request
		t.Helper()
		for range 500 {
			if strings.Contains(ask(exitDone, "status"), want) {
				return
			}
			<-time.After(10 * time.Millisecond)
		}
		t.Errorf("the status never says %q", want)
	}

	said(ask(exitNothing, "update"), "nothing to do: 1.0.0 stays")
	said(ask(exitNothing, "update", "--dry-run"), "nothing newer")
	said(ask(exitFailed, "rollback"), "refused")

	updates.Release(release(t, in, server.URL, "2.0.0"))
	said(ask(exitDone, "update", "--dry-run"), "Running   1.0.0", "Offered   2.0.0", server.URL+"/p/2.0.0", "slot B")
	said(ask(exitDone, "status"), "1.0.0, booted from slot A, marked good")
	said(ask(exitDone, "update"), "2.0.0 is written to slot B and verified")
	said(ask(exitDone, "update"), "2.0.0 is written to slot B and verified") // asking for what is so is success
	said(ask(exitDone, "explain"), "waiting, because:")
	said(ask(exitDone, "history"), "2.0.0")
	said(ask(exitDone, "slots", "show", in("disk.img")), "Next boot: slot A")
	sameSlot(t, in("disk.img"), in("2.0.0.img"))

	said(ask(exitDone, "pause", "--reason", "trade fair"), "paused")
	becomes("Paused    trade fair")
	ask(exitDone, "unpause")
	said(ask(exitDone, "mark", "bad", "--reason", "it smells"), "rejected")
	becomes("Rejected  2.0.0: marked bad by an operator: it smells")
	said(ask(exitNothing, "update"), "nothing to do")
	ask(exitDone, "retry", "2.0.0")
	said(ask(exitDone, "update"), "2.0.0 is written to slot B and verified")

	var status struct {
		NewVersion string `json:"new_version"`
		Written    bool   `json:"written"`
	}
	if err := json.Unmarshal([]byte(ask(exitDone, "status", "--json")), &status); err != nil || status.NewVersion != "2.0.0" || !status.Written {
		t.Errorf("status --json: %v, %+v", err, status)
	}
}

// startDaemon starts dbus-daemon and drydockd, and returns the bus's address.
func startDaemon(t *testing.T, in func(string) string, url string) (address string) {
	t.Helper()
	write := func(name, text string) string {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(in(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(in(name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return in(name)
	}
	write("root/etc/machine-id", strings.Repeat("0123456789abcdef", 2)+"\n")
	write("root/usr/lib/os-release", "ID=test\nVERSION_ID=1.0.0\n")
	write("root/proc/sys/kernel/random/boot_id", "00000000-0000-4000-8000-000000000001\n")
	write("boot/README", "")
	config := write("drydock.toml", fmt.Sprintf(`
state = %q
[server]
url = "%s/v1/update/"
[trust]
keys = [%q]
[reboot]
strategy = "off"
[slots]
disk = %q
booted = "A"
boot_directory = %q
`, in("state"), url, in("a.pub"), in("disk.img"), in("boot")))
	binary := in("drydockd")
	build := exec.Command("go", "build", "-o", binary, "./cmd/drydockd")
	build.Dir = real.Module(t)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	address = startBus(t)
	log := new(bytes.Buffer)
	daemon := exec.Command(binary, "-config", config, "-root", in("root"), "-bus", address)
	daemon.Stderr = log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		daemon.Process.Kill()
		daemon.Wait()
		if t.Failed() {
			t.Logf("drydockd: %s", log)
		}
	})
	if err := answers(address); err != nil {
		t.Fatalf("drydockd: %v\n%s", err, log)
	}
	return address
}

// release makes and serves a release whose image says its version.
func release(t *testing.T, in func(string) string, url, version string) *omaha.Offer {
	t.Helper()
	f, err := os.Create(in(version + ".img"))
	if err != nil {
		t.Fatal(err)
	}
	err = image.Create(f, image.File{Name: "usr/lib/os-release", Data: []byte("ID=test\nVERSION_ID=" + version + "\n")})
	if err := errors.Join(err, f.Close(), os.MkdirAll(in("served"), 0o755)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(in("served"), version)
	if code, _, errs := run(t.Context(), "payload", "create", "--key", in("a.pem"), "--version", version, "--image", f.Name(), "--out", path); code != 0 {
		t.Fatal(errs)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return &omaha.Offer{
		Version: version, Name: version, URLs: []string{url + "/p/" + version}, Size: int64(len(data)), SHA256: sum[:], DisableBackoff: true,
	}
}

// sameSlot compares slot B of a disk with an image.
func sameSlot(t *testing.T, disk, img string) {
	t.Helper()
	d, err := partition.ReadDisk(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	slot, err := d.Slot(partition.B)
	if err != nil {
		t.Fatal(err)
	}
	defer slot.Close()
	want, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := slot.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("slot B does not hold the release (%v)", err)
	}
}
