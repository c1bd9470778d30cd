package bus

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater"
)

// units copies the units to a directory, with what they start pointing to
// files that exist here.
func units(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(distFile(t, "systemd/system/drydock*"))
	if err != nil || len(files) < 4 {
		t.Fatalf("%d units, %v", len(files), err)
	}
	dir := t.TempDir()
	var copies []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		text = bytes.ReplaceAll(text, []byte("/usr/bin/drydockd"), []byte("/bin/true"))
		text = bytes.ReplaceAll(text, []byte("/usr/lib/drydock/trial-guard"), []byte(distFile(t, "lib/trial-guard")))
		copies = append(copies, filepath.Join(dir, filepath.Base(f)))
		if err := os.WriteFile(copies[len(copies)-1], text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return copies
}

func TestSystemdTakesTheUnits(t *testing.T) {
	analyze := real.Program(t, "systemd-analyze")
	out, err := exec.Command(analyze, append([]string{"verify", "--man=no"}, units(t)...)...).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// TestTheDaemonIsSandboxed keeps the exposure from growing unseen. 2.9 is what
// a root program that writes disks and mounts comes to; most of the rest is
// its capabilities, the block devices and the network.
func TestTheDaemonIsSandboxed(t *testing.T) {
	analyze := real.Program(t, "systemd-analyze")
	out, err := exec.Command(analyze, "security", "--offline=true", "--no-pager", "--threshold=30", distFile(t, "systemd/system/drydockd.service")).CombinedOutput()
	found := regexp.MustCompile(`Overall exposure level for drydockd.service: (\S+)`).FindSubmatch(out)
	if err != nil || found == nil {
		t.Fatalf("systemd-analyze security: %v\n%s", err, out)
	}
	t.Logf("exposure %s", found[1])
}

func TestXMLIsValid(t *testing.T) {
	xmllint := real.Program(t, "xmllint")
	const dtd = "/usr/share/polkit-1/policyconfig-1.dtd"
	if _, err := os.Stat(dtd); err != nil {
		real.Missing(t, "polkit's DTD is not installed (package polkitd)")
	}
	args := []string{"--noout", "--nonet", "--dtdvalid", dtd, distFile(t, "polkit-1/actions/io.drydock.policy")}
	if out, err := exec.Command(xmllint, args...).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	files, _ := filepath.Glob(distFile(t, "dbus-1/system.d/*.conf"))
	described, _ := filepath.Glob("*.xml")
	for _, f := range append(files, described...) {
		if out, err := exec.Command(xmllint, "--noout", "--nonet", f).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
}

// setting is the value of a key in a unit.
func setting(t *testing.T, unit, key string) string {
	t.Helper()
	text, err := os.ReadFile(distFile(t, "systemd/system/"+unit))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^` + key + `=(.*)$`).FindSubmatch(text)
	if found == nil {
		return ""
	}
	return string(found[1])
}

// TestNobodyBlessesTheBootBeforeUs: systemd-bless-boot.service waits for
// boot-complete.target, and that waits for our verdict.
func TestNobodyBlessesTheBootBeforeUs(t *testing.T) {
	const unit = "drydock-good.service"
	if before, by := setting(t, unit, "Before"), setting(t, unit, "RequiredBy"); before != "boot-complete.target" || by != before {
		t.Errorf("Before=%s RequiredBy=%s", before, by)
	}
	if kind := setting(t, unit, "Type"); kind != "oneshot" { // anything else is "started" before the verdict
		t.Errorf("Type=%s", kind)
	}
	if keep := setting(t, "drydockd.service", "RuntimeDirectoryPreserve"); keep != "yes" {
		t.Error("stopping drydockd would take /run/drydock/good away")
	}
}

// TestTheGuardComesAfterTheDaemonsOwnDeadline compares the timer with the
// example configuration.
func TestTheGuardComesAfterTheDaemonsOwnDeadline(t *testing.T) {
	guard, err := time.ParseDuration(strings.TrimSuffix(setting(t, "drydock-trial.timer", "OnBootSec"), "in"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(distFile(t, "drydock.toml"))
	if err != nil {
		t.Fatal(err)
	}
	trial := regexp.MustCompile(`(?m)^\[trial\]$(?:\n[^\[]*?)*?^# ?deadline = "([^"]+)"|^deadline = "([^"]+)"`).FindSubmatch(text)
	if trial == nil {
		t.Fatal("no deadline in drydock.toml")
	}
	deadline, err := time.ParseDuration(string(trial[1]) + string(trial[2]))
	if err != nil || guard <= deadline {
		t.Errorf("the guard reboots after %s, the daemon judges after %s (%v)", guard, deadline, err)
	}
}

// TestTrialGuard runs the script as the timer would, on a machine that is a
// directory. Its drydockd is a script that exits with a given status.
func TestTrialGuard(t *testing.T) {
	trial := &updater.Trial{Slot: partition.B, Version: "1.1.0", SHA256: []byte{1, 2}, From: "1.0.0", Armed: true, Boot: "b"}
	judged := &updater.Trial{Slot: partition.B, Version: "1.1.0", From: "1.0.0", Verdict: `unit "etcd.service" failed, twice`}
	returned := &updater.Trial{Slot: partition.B, Version: "1.1.0", From: "1.0.0", Returns: 1}
	for _, test := range []struct {
		name    string
		good    bool
		daemon  string // its whole script; "" for none
		trial   *updater.Trial
		state   string // in place of trial
		running string // VERSION_ID line
		want    bool
	}{
		{name: "good, whatever else says", good: true, daemon: "exit 3", trial: trial, running: "VERSION_ID=1.1.0"},
		{name: "the flags say on trial", daemon: "exit 3", running: "VERSION_ID=1.1.0", want: true},
		{name: "the flags say good, the record is stale", daemon: "exit 0", trial: trial, running: "VERSION_ID=1.1.0"},
		{name: "the daemon cannot tell", daemon: "exit 1", trial: trial, running: "VERSION_ID=1.1.0", want: true},
		{name: "the daemon crashes", daemon: "kill -SEGV $$", trial: trial, running: "VERSION_ID=1.1.0", want: true},
		{name: "there is no daemon", trial: trial, running: `VERSION_ID="1.1.0"`, want: true},
		{name: "only a VERSION", trial: trial, running: "VERSION='1.1.0'", want: true},
		{name: "the old release runs", trial: trial, running: "VERSION_ID=1.0.0"},
		{name: "judged bad, and still here", trial: judged, running: "VERSION_ID=1.1.0", want: true},
		{name: "judged bad, and left", trial: judged, running: "VERSION_ID=1.0.0"},
		{name: "not armed", trial: returned, running: "VERSION_ID=1.1.0"},
		{name: "no trial", running: "VERSION_ID=1.1.0"},
		{name: "no state, no version", state: "\x00"},
		{name: "a torn state file", state: "{\n  \"trial\": {\n    \"version\": \"1.1.0\",\n    \"arm", running: "VERSION_ID=1.1.0"},
		{name: "an empty version", trial: &updater.Trial{Armed: true}, running: "VERSION_ID="},
		{name: "a version that is no version", trial: trial, running: "VERSION_ID=$(reboot)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := newGuard(t, test.running)
			if test.good {
				g.write("run/good", "")
			}
			if test.daemon != "" {
				g.write("drydockd", "#!/bin/sh\n[ \"$1\" = trial-state ] || exit 9\n"+test.daemon+"\n")
			}
			g.remember(test.trial, test.state)
			if got := g.reboots(); got != test.want {
				t.Errorf("reboots: %v", got)
			}
		})
	}
}

// TestTheGuardStopsRebootingOnAStaleRecord: the power failed between the mark
// and the record, and the good release's daemon is dead.
func TestTheGuardStopsRebootingOnAStaleRecord(t *testing.T) {
	g := newGuard(t, "VERSION_ID=1.1.0")
	g.remember(&updater.Trial{Version: "1.1.0", Armed: true}, "")
	n := 0
	for ; g.reboots(); n++ {
		if n > partition.MaxTries {
			t.Fatal("it goes on")
		}
	}
	if n != partition.MaxTries {
		t.Errorf("%d reboots", n)
	}
	g.remember(&updater.Trial{Version: "1.2.0", Armed: true}, "")
	g.write("root/etc/os-release", "VERSION_ID=1.2.0\n")
	if !g.reboots() {
		t.Error("the next release is not guarded")
	}
	g.write("trial-guard", "1.2.0 many\n")
	if !g.reboots() {
		t.Error("a count that is no number ends the guard")
	}
}

// guard is the trial guard on a machine that is a directory.
type guard struct {
	t   *testing.T
	dir string
}

func newGuard(t *testing.T, running string) guard {
	g := guard{t, t.TempDir()}
	g.write("run/x", "")
	g.write("root/etc/os-release", "NAME=Test\n"+running+"\nID=test\n")
	return g
}

func (g guard) write(name, content string) {
	g.t.Helper()
	path := filepath.Join(g.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		g.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		g.t.Fatal(err)
	}
}

// remember writes the state file as the daemon does: indented JSON of Memory.
func (g guard) remember(trial *updater.Trial, text string) {
	g.t.Helper()
	if text == "" {
		data, err := json.MarshalIndent(updater.Memory{Version: 1, Trial: trial, Paused: "x"}, "", "  ")
		if err != nil {
			g.t.Fatal(err)
		}
		text = string(data)
	}
	g.write("state.json", text)
}

func (g guard) reboots() bool {
	g.t.Helper()
	cmd := exec.Command(real.Program(g.t, "sh"), distFile(g.t, "lib/trial-guard"))
	cmd.Env = append(os.Environ(), "DRYDOCK_RUN="+g.dir+"/run", "DRYDOCK_STATE="+g.dir+"/state.json",
		"DRYDOCK_ROOT="+g.dir+"/root", "DRYDOCK_DAEMON="+g.dir+"/drydockd")
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		g.t.Fatalf("%v: %s", err, &said)
	}
	if complaint := regexp.MustCompile(`(?m)^.*trial-guard: .*`).Find(said.Bytes()); complaint != nil {
		g.t.Errorf("the shell complains: %s", complaint) // on a console that a person reads to learn what happened
	}
	switch string(out) {
	case "reboot\n":
		return true
	case "":
		return false
	}
	g.t.Fatalf("it says %q", out)
	return false
}
