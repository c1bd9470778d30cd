// Package podmantest runs a real Podman for tests, beside the machine's own.
package podmantest

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink/host"
	"github.com/drydock-os/drydock/testdata/real"
)

// Podman is a real Podman that serves Docker's API, in name spaces of its own,
// with nothing of the machine's own containers.
type Podman struct {
	t    testing.TB
	dir  string
	life *exec.Cmd
	boot int
	http http.Client
}

// serveScript runs Podman on a /run of its own, as after a boot. It takes no
// hybrid of cgroup versions, which some container hosts have.
const serveScript = `set -e
umount /sys/fs/cgroup/unified 2>/dev/null || true
mount -t tmpfs tmpfs /run
podman="podman --root $BERTH/root --runroot /run/containers --tmpdir /run/tmp --storage-driver vfs --cgroup-manager cgroupfs --events-backend none"
$podman image exists localhost/berth || $podman import $BERTH/image.tar berth
exec $podman system service --time 0 unix://$BERTH/socket
`

func now() time.Time { return time.Now() }

// Start boots one, which ends with the test.
func Start(t testing.TB) *Podman {
	t.Helper()
	real.Root(t)
	for _, name := range []string{"unshare", "podman", "conmon", "sh"} {
		real.Program(t, name)
	}
	dir, err := os.MkdirTemp("", "host")
	if err != nil {
		t.Fatal(err)
	}
	p := &Podman{t: t, dir: dir}
	p.http.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", p.Socket())
	}}
	t.Cleanup(func() { p.PowerOff(); os.RemoveAll(dir) })
	for name, data := range map[string][]byte{
		"serve.sh":        []byte(serveScript),
		"containers.conf": []byte("[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n"),
		"image.tar":       image(t, real.Program(t, "busybox")),
	} {
		if err := os.WriteFile(p.path(name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.Boot()
	return p
}

// image is a file system of one program, which is static (busybox-static).
func image(t testing.TB, program string) []byte {
	t.Helper()
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if f, err := elf.NewFile(bytes.NewReader(data)); err != nil || slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		real.Missing(t, program+" needs libraries, which a container of it alone has not: install busybox-static")
	}
	out := new(bytes.Buffer)
	w := tar.NewWriter(out)
	if err = w.WriteHeader(&tar.Header{Name: "busybox", Mode: 0o755, Size: int64(len(data))}); err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func (p *Podman) path(name string) string { return filepath.Join(p.dir, name) }

// Socket is where it serves Docker's API.
func (p *Podman) Socket() string { return p.path("socket") }

// Boots counts them.
func (p *Podman) Boots() int { return p.boot }

// Process is the one that all of it hangs on.
func (p *Podman) Process() int { return p.life.Process.Pid }

// Boot boots it, and waits until it answers.
func (p *Podman) Boot() {
	p.t.Helper()
	os.Remove(p.Socket())
	said := new(bytes.Buffer)
	p.boot++
	p.life = exec.Command("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", p.path("serve.sh"))
	p.life.Env = append(os.Environ(), "BERTH="+p.dir, "CONTAINERS_CONF="+p.path("containers.conf"))
	p.life.Stdout, p.life.Stderr, p.life.WaitDelay = said, said, time.Second
	if err := p.life.Start(); err != nil {
		p.t.Fatal(err)
	}
	for deadline := now().Add(time.Minute); ; {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_, err := host.Containers{Socket: p.Socket()}.Running(ctx)
		cancel()
		if err == nil {
			return
		}
		if now().After(deadline) {
			p.PowerOff()
			real.Missing(p.t, fmt.Sprintf("a Podman of a test's own does not run here: %v: %s", err, said))
		}
		<-time.After(50 * time.Millisecond)
	}
}

// PowerOff has everything end at once.
func (p *Podman) PowerOff() {
	if p.life != nil {
		p.life.Process.Kill()
		p.life.Wait()
		p.life = nil
	}
}

// Post asks for something to be done.
func (p *Podman) Post(path string, body any) {
	p.t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		p.t.Fatal(err)
	}
	response, err := p.http.Post("http://podman"+path, "application/json", bytes.NewReader(data))
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	if said, _ := io.ReadAll(response.Body); response.StatusCode >= 300 {
		p.t.Fatalf("%s: %d: %s", path, response.StatusCode, said)
	}
}

// Place has a container run, with the label drydock=1. Its program heeds no
// SIGTERM, so it gets another.
func (p *Podman) Place(name string) string {
	return p.place(name, map[string]any{"StopSignal": "SIGKILL"})
}

// PlaceDeaf has a container run that does not end within an hour but by SIGKILL.
func (p *Podman) PlaceDeaf(name string) string {
	return p.place(name, map[string]any{"StopTimeout": 3600})
}

func (p *Podman) place(name string, how map[string]any) string {
	p.t.Helper()
	spec := map[string]any{
		"Image": "localhost/berth", "Cmd": []string{"/busybox", "sleep", "100000"},
		"Labels": map[string]string{"drydock": "1"}, "HostConfig": map[string]any{"NetworkMode": "none"},
	}
	maps.Copy(spec, how)
	p.Post("/containers/create?name="+name, spec)
	p.Post("/containers/"+name+"/start", nil)
	return name
}

// Times are when a container was started last, and when it ended last, by
// Podman's own record.
func (p *Podman) Times(name string) (started, ended time.Time) {
	p.t.Helper()
	response, err := p.http.Get("http://podman/containers/" + name + "/json")
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	var container struct {
		State struct{ StartedAt, FinishedAt time.Time }
	}
	if err := json.NewDecoder(response.Body).Decode(&container); err != nil {
		p.t.Fatal(err)
	}
	return container.State.StartedAt, container.State.FinishedAt
}

// Containers are those that Place had run.
func (p *Podman) Containers() host.Containers {
	return host.Containers{Socket: p.Socket(), Labels: []string{"drydock=1"}}
}

// Here lists those of them that run.
func (p *Podman) Here() (names []string) {
	p.t.Helper()
	running, err := p.Containers().Running(context.Background())
	if err != nil {
		p.t.Fatal(err)
	}
	for _, u := range running {
		names = append(names, u.Name)
	}
	return names
}
