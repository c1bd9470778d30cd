package daemon

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drydock-os/drydock/cmd/internal/machine"
	"github.com/drydock-os/drydock/partition"
)

// process is a daemon in this process, on a disk image, with no bus and no
// server to be had.
type process struct {
	*Daemon
	t      *testing.T
	dir    string
	disk   string
	reload chan os.Signal
	log    *journalText

	top    string // lines before the first table
	reboot string // lines of [reboot]
}

// journalText is what the daemon logged.
type journalText struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journalText) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journalText) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// noServer names an update server that does not answer.
const noServer = "[server]\nurl = \"http://127.0.0.1:1/\"\n"

// prepare makes everything that a daemon needs; extra are lines of the policy
// file, tables first.
func prepare(t *testing.T, extra string) *process {
	t.Helper()
	p := &process{t: t, dir: t.TempDir(), reload: make(chan os.Signal), log: new(journalText), reboot: "strategy = \"immediate\"\n"}
	p.disk = p.write("disk.img", "")
	entries := partition.Flatcar(1<<20, 1<<20, 1<<20, 512)
	if err := os.Truncate(p.disk, partition.FlatcarSize(entries, 512)); err != nil {
		t.Fatal(err)
	}
	d, err := partition.OpenDisk(p.disk)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := partition.Format(d, entries); err != nil {
		t.Fatal(err)
	}
	p.write("root/etc/machine-id", strings.Repeat("0123456789abcdef", 2)+"\n")
	p.write("root/usr/lib/os-release", "VERSION_ID=1.0.0\n")
	p.write("root/proc/sys/kernel/random/boot_id", "00000000-0000-4000-8000-000000000001\n")
	p.policy(extra)
	return p
}

func (p *process) policy(extra string) {
	p.write("drydock.toml", fmt.Sprintf(`
%sstate = %q
[update]
first_check = "1h"
[reboot]
%s[slots]
disk = %q
booted = "A"
boot_directory = %q
kernel = false
%s`, p.top, filepath.Join(p.dir, "state"), p.reboot, p.disk, filepath.Join(p.dir, "root"), extra))
}

func (p *process) write(name, content string) string {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return path
}

// build makes the daemon, which does not run yet.
func (p *process) build() *process {
	p.t.Helper()
	d, err := New(Options{Config: filepath.Join(p.dir, "drydock.toml"), Root: filepath.Join(p.dir, "root"),
		Bus: "unix:path=" + filepath.Join(p.dir, "no-bus"), Version: "test", Reload: p.reload, Log: slog.New(slog.NewTextHandler(p.log, nil))})
	if err != nil {
		p.t.Fatal(err)
	}
	p.Daemon = d
	return p
}

// run runs the daemon until the test ends, or until the returned function is
// called, which returns what Run did.
func (p *process) run() (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	var err error
	var wg sync.WaitGroup
	wg.Go(func() { err = p.Run(ctx) })
	stop = func() error {
		cancel()
		wg.Wait()
		return err
	}
	p.t.Cleanup(func() { stop() })
	return stop
}

// trouble is what the status says of a kind.
func (p *process) trouble(kind string) string {
	for _, r := range p.updater.Status().Reasons {
		if r.Kind == kind {
			return r.Text
		}
	}
	return ""
}

func (p *process) until(what string, cond func() bool) {
	p.t.Helper()
	late := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-late:
			p.t.Fatalf("never: %s\n%s", what, p.log)
		case <-tick.C:
		}
	}
}

// What is told to hooks follows the policy in force.
func TestHostKnowsThePolicyInForce(t *testing.T) {
	p := prepare(t, noServer).build()
	h, ok := p.updater.Host.(*machine.Host)
	if !ok || h.Policy == nil {
		t.Fatalf("host %T knows no policy", p.updater.Host)
	}
	for _, proxy := range []string{"http://p:1", "http://p:2"} {
		p.policy(noServer + "proxy = \"" + proxy + "\"\n")
		p.reread()
		if got := h.Policy().Server.Proxy; got != proxy {
			t.Errorf("proxy %q, want %q", got, proxy)
		}
	}
}

// The daemon noticed a damaged copy of the partition table only when it wrote
// flags.
func TestDamagedTableIsMendedByARunningDaemon(t *testing.T) {
	p := prepare(t, noServer)
	f, err := os.OpenFile(p.disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("overwritten"), 512+60); err != nil {
		t.Fatal(err)
	}
	stop := p.build().run()
	p.until("the status tells of the damage", func() bool { return strings.Contains(p.trouble("gpt"), "primary copy") })
	settled := time.After(2 * time.Second)
	<-settled
	p.reload <- os.Interrupt // whatever has the updater look
	p.until("it is repaired", func() bool { return p.trouble("gpt") == "" })
	if err := stop(); err != nil {
		t.Error(err)
	}
	d, err := partition.ReadDisk(p.disk)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if g, err := partition.ReadGPT(d); err != nil || g.Primary != nil || g.Backup != nil {
		t.Errorf("table: %+v, %v", g, err)
	}
	if text := p.log.String(); !strings.Contains(text, "one good copy left") || !strings.Contains(text, "whole again") {
		t.Errorf("the log says\n%s", text)
	}
}
