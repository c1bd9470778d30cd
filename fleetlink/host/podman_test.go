package host_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/host"
	"github.com/drydock-os/drydock/fleetlink/linktest"
	"github.com/drydock-os/drydock/testdata/real"
)

// podman is a real Podman that serves Docker's API, in name spaces of its own,
// with nothing of the machine's own containers.
type podman struct {
	t    *testing.T
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

func startPodman(t *testing.T) *podman {
	t.Helper()
	real.Root(t)
	for _, name := range []string{"unshare", "podman", "conmon", "sh"} {
		real.Program(t, name)
	}
	dir, err := os.MkdirTemp("", "host")
	if err != nil {
		t.Fatal(err)
	}
	p := &podman{t: t, dir: dir}
	p.http.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", p.path("socket"))
	}}
	t.Cleanup(func() { p.stop(); os.RemoveAll(dir) })
	for name, data := range map[string][]byte{
		"serve.sh":        []byte(serveScript),
		"containers.conf": []byte("[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n"),
		"image.tar":       image(t, real.Program(t, "busybox")),
	} {
		if err := os.WriteFile(p.path(name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.start()
	return p
}

// image is a file system of one program, which is static (busybox-static).
func image(t *testing.T, program string) []byte {
	t.Helper()
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
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

func (p *podman) path(name string) string { return filepath.Join(p.dir, name) }

// start boots it, and waits until it answers.
func (p *podman) start() {
	p.t.Helper()
	os.Remove(p.path("socket"))
	said := new(bytes.Buffer)
	p.boot++
	p.life = exec.Command("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", p.path("serve.sh"))
	p.life.Env = append(os.Environ(), "BERTH="+p.dir, "CONTAINERS_CONF="+p.path("containers.conf"))
	p.life.Stdout, p.life.Stderr, p.life.WaitDelay = said, said, time.Second
	if err := p.life.Start(); err != nil {
		p.t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; {
		ctx, cancel := context.WithTimeout(p.t.Context(), 5*time.Second)
		_, err := host.Containers{Socket: p.path("socket")}.Running(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			p.stop()
			real.Missing(p.t, fmt.Sprintf("a Podman of a test's own does not run here: %v: %s", err, said))
		}
		<-time.After(50 * time.Millisecond)
	}
}

func (p *podman) stop() {
	if p.life != nil {
		p.life.Process.Kill()
		p.life.Wait()
		p.life = nil
	}
}

// post asks for something to be done.
func (p *podman) post(path string, body any) {
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

// place has a container run. Its program heeds no SIGTERM, so it gets another.
func (p *podman) place(name string) string {
	p.t.Helper()
	p.post("/containers/create?name="+name, map[string]any{
		"Image": "localhost/berth", "Cmd": []string{"/busybox", "sleep", "100000"}, "StopSignal": "SIGKILL",
		"Labels": map[string]string{"drydock": "1"}, "HostConfig": map[string]any{"NetworkMode": "none"},
	})
	p.post("/containers/"+name+"/start", nil)
	return name
}

func (p *podman) containers() host.Containers {
	return host.Containers{Socket: p.path("socket"), Labels: []string{"drydock=1"}}
}

func (p *podman) here() (names []string) {
	p.t.Helper()
	running, err := p.containers().Running(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	for _, u := range running {
		names = append(names, u.Name)
	}
	return names
}

// TestRealPodman: the containers of a real engine keep the contract.
func TestRealPodman(t *testing.T) {
	linktest.Test(t, func(t *testing.T) linktest.Cluster {
		p, record := startPodman(t), &note{}
		return linktest.Cluster{
			Open: func() fleetlink.Link {
				return &host.Link{Containers: p.containers(), Record: record, Pause: 50 * time.Millisecond,
					Machine: fleetlink.Machine{BootID: func() (string, error) { return strconv.Itoa(p.boot), nil }}}
			},
			Place:  p.place,
			Here:   p.here,
			Reboot: func() { p.stop(); p.start() },
			Silence: func() func() {
				service := children(t, p.life.Process.Pid)[0]
				syscall.Kill(service, syscall.SIGSTOP)
				return func() { syscall.Kill(service, syscall.SIGCONT) }
			},
			Pace: time.Second,
		}
	})
}

// TestRealContainers: what linktest does not ask of an engine.
func TestRealContainers(t *testing.T) {
	p := startPodman(t)
	c, ctx := p.containers(), t.Context()
	p.place("work-b")
	p.place("work-a")
	if here := p.here(); !slices.Equal(here, []string{"work-a", "work-b"}) {
		t.Errorf("here are %v", here)
	}
	for range 2 {
		if err := c.Stop(ctx, "work-a", true); err != nil {
			t.Error(err)
		}
	}
	if u, err := c.Look(ctx, "work-a"); err != nil || u.State != host.Down || u.What != "exited (137)" {
		t.Errorf("killed: %+v, %v", u, err)
	}
	for range 2 {
		if err := c.Start(ctx, "work-a"); err != nil {
			t.Error(err)
		}
	}
	if u, err := c.Look(ctx, "work-a"); err != nil || u.State != host.Up {
		t.Errorf("started: %+v, %v", u, err)
	}
	if u, err := c.Look(ctx, "none"); err != nil || u.State != host.Absent {
		t.Errorf("one that is not there: %+v, %v", u, err)
	}
	if err := c.Start(ctx, "none"); err == nil || !strings.Contains(err.Error(), "no such container") {
		t.Errorf("one that is not there: %v", err)
	}
	if err := c.Stop(ctx, "none", false); err != nil {
		t.Errorf("what is not there does not run: %v", err)
	}
	c.Labels = []string{"drydock=2"}
	if running, err := c.Running(ctx); err != nil || len(running) > 0 {
		t.Errorf("of another label: %+v, %v", running, err)
	}
}
