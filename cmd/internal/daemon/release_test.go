package daemon_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/drydock-os/drydock/omaha"
	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater/image"
	"github.com/drydock-os/drydock/updater/payload"
	"github.com/drydock-os/drydock/updater/policy"
	"github.com/drydock-os/drydock/updater/sim"
)

func (h *host) serve() {
	h.updates = &omaha.Static{AppID: policy.DefaultAppID}
	mux := http.NewServeMux()
	mux.Handle("/v1/update/", &omaha.Handler{Updates: h.updates})
	mux.HandleFunc("/p/", func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		data := h.files[filepath.Base(r.URL.Path)]
		h.mu.Unlock()
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	})
	h.server = httptest.NewServer(mux)
	h.t.Cleanup(h.server.Close)
}

// image is a release with a post-install hook that says on the test's disk
// what it was told.
func (h *host) image(version string) []byte {
	h.t.Helper()
	f, err := os.CreateTemp(h.t.TempDir(), "image")
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	filler := make([]byte, 3<<20)
	rand.Read(filler)
	hook := fmt.Sprintf("#!/bin/sh\necho \"$DRYDOCK_VERSION $DRYDOCK_SLOT $*\" >> %s\n", filepath.Join(h.dir, "hook.log"))
	err = image.Create(f, image.File{Name: "lib/os-release", Data: []byte(sim.OSRelease(version))},
		image.File{Name: "postinst", Mode: 0o755, Data: []byte(hook)}, image.File{Name: "filler", Data: filler})
	if err != nil {
		h.t.Fatal(err)
	}
	data, err := os.ReadFile(f.Name())
	if err != nil {
		h.t.Fatal(err)
	}
	return append(data, make([]byte, (4096-len(data)%4096)%4096)...)
}

// publish signs and offers a release.
func (h *host) publish(version string) {
	h.t.Helper()
	img := h.image(version)
	h.releases[version] = img
	kernel := strings.Repeat("kernel "+version+"\n", 5000)
	path := filepath.Join(h.t.TempDir(), version)
	f, err := os.Create(path)
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	spec := payload.Spec{Major: 2, Version: version, Signers: []crypto.Signer{h.key}, TempDir: h.dir, Partitions: []payload.Image{
		{Name: payload.Root, Image: bytes.NewReader(img), Size: int64(len(img))},
		{Name: payload.Kernel, Image: strings.NewReader(kernel), Size: int64(len(kernel))},
	}}
	if err := payload.Create(context.Background(), f, spec); err != nil {
		h.t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	h.mu.Lock()
	h.files[version] = data
	h.mu.Unlock()
	sum := sha256.Sum256(data)
	h.updates.Release(&omaha.Offer{Version: version, Name: version, URLs: []string{h.server.URL + "/p/" + version},
		Size: int64(len(data)), SHA256: sum[:], DisableBackoff: true})
}

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy>
</busconfig>`

func (h *host) startBus() {
	h.t.Helper()
	socket := filepath.Join(h.dir, "bus")
	config := h.write("bus.conf", fmt.Sprintf(busConfig, socket))
	cmd := exec.Command(real.Program(h.t, "dbus-daemon"), "--config-file="+config, "--nofork", "--nopidfile")
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	h.address = "unix:path=" + socket
	h.until("the bus is up", func() bool {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	})
}

// login stands in for logind: nobody is logged in, nothing inhibits, and a
// reboot is agreed to.
func (h *host) login() {
	h.t.Helper()
	conn, err := dbus.Connect(h.address)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	type inhibitor struct {
		What, Who, Why, Mode string
		UID, PID             uint32
	}
	type session struct {
		ID   string
		UID  uint32
		User string
		Seat string
		Path dbus.ObjectPath
	}
	err = conn.ExportMethodTable(map[string]any{
		"ListInhibitors": func() ([]inhibitor, *dbus.Error) { return nil, nil },
		"ListSessions":   func() ([]session, *dbus.Error) { return nil, nil },
		"RebootWithFlags": func(uint64) *dbus.Error {
			if h.asked != nil {
				h.asked()
			}
			h.rebooted <- struct{}{}
			return nil
		},
	}, "/org/freedesktop/login1", "org.freedesktop.login1.Manager")
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := conn.RequestName("org.freedesktop.login1", dbus.NameFlagDoNotQueue); err != nil {
		h.t.Fatal(err)
	}
}
