package daemon_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/bus"
)

// engine stands in for upstream's update_engine on the host's bus. It says what
// a recorded run of the real one said, and does to slots and flags what that,
// flatcar-postinst and flatcar-setgoodroot do.
type engine struct {
	h    *host
	conn *dbus.Conn

	mu    sync.Mutex
	says  said
	asked []string // beside GetStatus
}

func (h *host) engine() *engine {
	h.t.Helper()
	conn, err := dbus.Connect(h.address)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	e := &engine{h: h, conn: conn, says: said{Operation: "UPDATE_STATUS_IDLE", NewVersion: "0.0.0"}}
	asked := func(what string) *dbus.Error {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.asked = append(e.asked, what)
		return nil
	}
	err = conn.ExportMethodTable(map[string]any{
		"GetStatus": func() (int64, float64, string, string, int64, *dbus.Error) {
			e.mu.Lock()
			defer e.mu.Unlock()
			return e.says.LastChecked, e.says.Progress, e.says.Operation, e.says.NewVersion, e.says.NewSize, nil
		},
		"AttemptUpdate": func() *dbus.Error { return asked("AttemptUpdate") },
		"ResetStatus":   func() *dbus.Error { return asked("ResetStatus") },
	}, bus.Update1Path, bus.Update1Interface)
	if err != nil {
		h.t.Fatal(err)
	}
	if reply, err := conn.RequestName(bus.Update1Name, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		h.t.Fatalf("the engine does not get its name: %v, %v", reply, err)
	}
	return e
}

func (e *engine) say(s said) {
	e.h.t.Helper()
	e.mu.Lock()
	e.says = s
	e.mu.Unlock()
	if err := e.conn.Emit(bus.Update1Path, bus.Update1Interface+".StatusUpdate", s.LastChecked, s.Progress, s.Operation, s.NewVersion, s.NewSize); err != nil {
		e.h.t.Fatal(err)
	}
}

// recorded are the signals of a run of the real engine.
func recorded(t *testing.T, name string) (all []said) {
	t.Helper()
	text, err := os.ReadFile(real.Shared(t, "vectors", "traces", name, "signals.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`member=StatusUpdate\n +int64 (\d+)\n +double (\S+)\n +string "([^"]*)"\n +string "([^"]*)"\n +int64 (\d+)`).FindAllStringSubmatch(string(text), -1) {
		checked, err1 := strconv.ParseInt(m[1], 10, 64)
		progress, err2 := strconv.ParseFloat(m[2], 64)
		size, err3 := strconv.ParseInt(m[5], 10, 64)
		if err := errors.Join(err1, err2, err3); err != nil {
			t.Fatal(err)
		}
		all = append(all, said{checked, progress, m[3], m[4], size})
	}
	return all
}

// flags changes the boot flags as another program does.
func (h *host) flags(f func(partition.Table) partition.Table) {
	h.t.Helper()
	h.opened(func(d *partition.Disk) {
		c := partition.GPTPrio{Disk: d}
		table, err := c.Table()
		if err == nil {
			err = c.SetTable(f(table))
		}
		if err != nil {
			h.t.Fatal(err)
		}
	})
}

// untouched is all that a drydockd could change: the disk's bytes, how many
// sectors were ever written to it, and which files there are.
func (h *host) untouched() string {
	h.t.Helper()
	for _, node := range []string{h.disk, h.disk + "p3", h.disk + "p4"} { // each has a cache of its own
		f, err := os.OpenFile(node, os.O_RDONLY, 0)
		if err != nil {
			h.t.Fatal(err)
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			h.t.Fatal(err)
		}
	}
	stat, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(h.disk), "stat"))
	if err != nil {
		h.t.Fatal(err)
	}
	sum := sha256.New()
	disk, err := os.Open(filepath.Join(h.dir, "disk.img")) // behind the loop device
	if err != nil {
		h.t.Fatal(err)
	}
	defer disk.Close()
	if _, err := io.Copy(sum, disk); err != nil {
		h.t.Fatal(err)
	}
	var names []string
	for _, dir := range []string{h.boot, filepath.Join(h.dir, "root"), filepath.Join(h.dir, "state"), filepath.Join(h.dir, "packages")} {
		filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() && !strings.HasPrefix(filepath.Base(path), "shadow.json") {
				names = append(names, path)
			}
			return nil
		})
	}
	return fmt.Sprintf("%x, %s sectors written, %q", sum.Sum(nil), strings.Fields(string(stat))[6], names)
}

// shadow puts shadow mode on or off in the policy file.
func (h *host) shadow(on bool) {
	h.t.Helper()
	path := filepath.Join(h.dir, "drydock.toml")
	text, err := os.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "#\n")
	if !found {
		rest = string(text)
	}
	h.write("drydock.toml", fmt.Sprintf("shadow = %v\n#\n%s", on, rest))
}

// asks is what a client of ours is told.
func (h *host) asks() (s updater.Status, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := bus.Dial(ctx, h.address)
	if err != nil {
		return s, err
	}
	defer c.Close()
	return c.Status(ctx)
}

func (h *host) sees(what string, seen func(updater.Status) bool) (s updater.Status) {
	h.t.Helper()
	h.until(what, func() bool {
		var err error
		s, err = h.asks()
		return err == nil && s.Shadow != nil && seen(s)
	})
	return s
}

// TestShadowBesideUpstream runs the real drydockd in shadow mode through a whole
// update of a recorded upstream: download, staging, a reboot outside the window,
// the trial, good. Between upstream's own steps the disk stays as it was, byte
// for byte.
func TestShadowBesideUpstream(t *testing.T) {
	h := newHost(t)
	var requests atomic.Int32
	h.server.Config.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) })
	h.first = "0s"
	h.reboot = fmt.Sprintf("windows = [{ start = %q, length = \"1h\" }]\n", time.Now().UTC().Add(12*time.Hour).Format("15:04"))
	h.policy(partition.A)
	h.shadow(true)
	h.releases["1.1.0"] = h.image("1.1.0")
	e := h.engine()
	was := h.untouched()
	same := func(when string) {
		t.Helper()
		if now := h.untouched(); now != was {
			t.Errorf("%s: drydockd changed something:\n%s\nwas\n%s", when, now, was)
		}
	}
	h.start()
	h.sees("it hears upstream", func(s updater.Status) bool { return s.Shadow.Upstream.Running })
	signals := recorded(t, "full_ok")
	for i, s := range signals {
		switch {
		case s.Operation == "UPDATE_STATUS_DOWNLOADING" && signals[i-1].Operation != s.Operation:
			same("until the download")
			h.install(partition.B, h.releases["1.1.0"])
			was = h.untouched()
		case s.Operation == "UPDATE_STATUS_UPDATED_NEED_REBOOT":
			h.sees("the download", func(s updater.Status) bool { return s.Operation == updater.Finalizing })
			same("while it was downloaded")
			h.flags(func(t partition.Table) partition.Table { return t.Stage(partition.B, 1) })
			was = h.untouched()
		}
		e.say(s)
	}
	s := h.sees("the staged release", func(s updater.Status) bool { return len(s.Shadow.Log) == 2 && s.Staged })
	if s.NewVersion != "1.1.0" || s.NewSize != signals[len(signals)-1].NewSize || s.Permit != "none" || s.StepName != "wait" || s.Shadow.Would != "wait" {
		t.Errorf("status %+v", s)
	}
	same("while it was staged")
	h.refuses()
	h.cli()
	same("after everything was asked of it")

	h.kill()
	e.conn.Close()
	if slot, version := h.powerOn(); slot != partition.B || version != "1.1.0" {
		t.Fatalf("slot %s boots with %s", slot, version)
	}
	h.shadow(true)
	was = h.untouched()
	h.start()
	h.sees("the trial", func(s updater.Status) bool { return s.OnTrial && s.Booted == "B" })
	out, err := exec.Command(h.binary, "-config", filepath.Join(h.dir, "drydock.toml"), "-root", filepath.Join(h.dir, "root"), "trial-state").CombinedOutput()
	if err != nil {
		t.Errorf("the trial guard would reboot: %v, %s", err, out)
	}
	e = h.engine()
	same("during the trial")
	h.flags(func(t partition.Table) partition.Table { return t.Good(partition.B) })
	was = h.untouched()
	s = h.sees("the good release", func(s updater.Status) bool { return !s.OnTrial && len(s.Shadow.Log) == 4 })
	same("at rest")
	for i, want := range []string{"agreed: marked slot B (1.1.0) good", "differed: for 1.1.0: drydockd would have waited: reboots wait for their window",
		"agreed: staged 1.1.0 in slot B, and the boot flags say so: priority 2, tries 1", "agreed: downloads 1.1.0 (808010 bytes)"} {
		kind, text, _ := strings.Cut(want, ": ")
		if got := s.Shadow.Log[i]; string(got.Type) != kind || !strings.Contains(got.Message, text) {
			t.Errorf("log %d: %s: %s", i, got.Type, got.Message)
		}
	}
	if len(h.rebooted) > 0 || requests.Load() > 0 || len(e.asked) > 0 {
		t.Errorf("%d reboots, %d requests to the update server, upstream was asked %q", len(h.rebooted), requests.Load(), e.asked)
	}
	h.leaves(e)
}

// refuses asks everything of drydockd that changes something.
func (h *host) refuses() {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := bus.Dial(ctx, h.address)
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close()
	for _, a := range []updater.Action{updater.ActCheck, updater.ActUpdate, updater.ActPause, updater.ActRollback, updater.ActReboot, updater.ActMarkGood, updater.ActMarkBad, updater.ActReset} {
		if _, err := c.Start(ctx, updater.Request{Action: a, Reason: "x"}); !errors.Is(err, updater.ErrRefused) || !strings.Contains(err.Error(), "shadow mode") {
			h.t.Errorf("%s: %v", a, err)
		}
	}
	if plan, err := c.Plan(ctx); err != nil || plan.Offered != "1.1.0" {
		h.t.Errorf("plan %+v, %v", plan, err)
	}
	reasons, err := c.Explain(ctx)
	if err != nil || !slices.ContainsFunc(reasons, func(r updater.Reason) bool { return r.Kind == "window" }) || reasons[0].Kind != "shadow" {
		h.t.Errorf("explain: %v, %v", reasons, err)
	}
}

// cli shows the status as an operator sees it.
func (h *host) cli() {
	h.t.Helper()
	path := filepath.Join(programs, "drydock")
	if out, err := exec.Command("go", "build", "-o", path, "github.com/drydock-os/drydock/cmd/drydock").CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command(path, "status")
	cmd.Env = append(os.Environ(), "DRYDOCK_BUS="+h.address)
	out, err := cmd.CombinedOutput()
	for _, want := range []string{"update_engine: need-reboot, 1.1.0", "drydockd only watches", "reboots wait for their window", "agreed: update_engine staged 1.1.0"} {
		if err != nil || !bytes.Contains(out, []byte(want)) {
			h.t.Fatalf("no %q in (%v)\n%s", want, err, out)
		}
	}
	h.t.Logf("drydock status says\n%s", out)
}

// leaves ends shadow mode: not while upstream's engine runs, and then drydockd
// serves its clients.
func (h *host) leaves(e *engine) {
	h.t.Helper()
	h.kill()
	h.shadow(false)
	h.start()
	done := make(chan error, 1)
	go func(cmd *exec.Cmd) { done <- cmd.Wait() }(h.daemon)
	select {
	case err := <-done:
		if err == nil || !strings.Contains(h.output.String(), "systemctl stop update-engine") {
			h.t.Errorf("beside upstream's engine drydockd ends with %v\n%s", err, h.output)
		}
	case <-time.After(patience):
		h.t.Fatalf("drydockd runs beside upstream's engine\n%s", h.output)
	}
	h.daemon = nil
	e.conn.Close()
	h.start()
	h.until("drydockd keeps the machine", func() bool {
		s, err := h.asks()
		return err == nil && s.Shadow == nil && s.Booted == "B"
	})
	h.until("it serves upstream's clients", func() bool {
		conn, err := dbus.Connect(h.address)
		if err != nil {
			return false
		}
		defer conn.Close()
		return coordinator{h, conn}.status().Operation == "UPDATE_STATUS_IDLE"
	})
}
