package hook_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/hook"
	"github.com/drydock-os/drydock/testdata/real"
)

// yard is a directory of hooks, and what they had logged.
type yard struct {
	hook.Link
	note
	mu  sync.Mutex
	log []string
}

// hooks makes a directory with shell scripts, by their names.
func hooks(t *testing.T, scripts map[string]string) *yard {
	t.Helper()
	real.Program(t, "sh")
	y := &yard{}
	y.Link = hook.Link{Dir: filepath.Join(t.TempDir(), "drain.d"), Record: &y.note, Pause: 20 * time.Millisecond, Log: func(line string) {
		y.mu.Lock()
		defer y.mu.Unlock()
		y.log = append(y.log, line)
	}}
	for name, script := range scripts {
		write(t, filepath.Join(y.Dir, name), "#!/bin/sh\n"+script+"\n", 0o755)
	}
	return y
}

func (y *yard) file(name string) string { return filepath.Join(y.Dir, name) }

// TestWhatIsNoHookIsRefusedAndNamed: nothing is asked, and nobody is told that
// the machine could be drained.
func TestWhatIsNoHookIsRefusedAndNamed(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(y *yard) error
		want  string
		root  bool
	}{
		"not executable":  {func(y *yard) error { return os.Chmod(y.file("20-db"), 0o644) }, "hook 20-db: refused", false},
		"world-writable":  {func(y *yard) error { return os.Chmod(y.file("20-db"), 0o757) }, "others than root may write to it", false},
		"somebody else's": {func(y *yard) error { return os.Chown(y.file("20-db"), 65534, 0) }, "it belongs to user 65534", true},
		"a group's": {func(y *yard) error {
			return errors.Join(os.Chown(y.file("20-db"), 0, 100), os.Chmod(y.file("20-db"), 0o775))
		}, "others than root", true},
		"directory writable":     {func(y *yard) error { return os.Chmod(y.Dir, 0o777) }, "others than root", false},
		"directory of somebody":  {func(y *yard) error { return os.Chown(y.Dir, 65534, 0) }, "it belongs to user 65534", true},
		"a link into nothing":    {func(y *yard) error { return os.Symlink("nowhere", y.file("30-x")) }, "30-x", false},
		"a directory":            {func(y *yard) error { return os.Mkdir(y.file("30-x"), 0o755) }, "is not a file", false},
		"no hook at all":         {func(y *yard) error { return errors.Join(os.Remove(y.file("10-lb")), os.Remove(y.file("20-db"))) }, "holds no hook", false},
		"no directory":           {func(y *yard) error { return os.RemoveAll(y.Dir) }, "list hooks", false},
		"no such interpreter":    {func(y *yard) error { return os.WriteFile(y.file("20-db"), []byte("#!/no/such\n"), 0o755) }, "hook 20-db: preflight: start it", false},
		"a link to what is open": {func(y *yard) error { return linkToOpen(y) }, "others than root", false},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.root {
				real.Root(t)
			}
			y := hooks(t, map[string]string{"10-lb": "exit 0", "20-db": "exit 0", "20-db.bak": "exit 1", ".hidden": "exit 1"})
			if _, err := y.Preflight(t.Context()); err != nil {
				t.Fatalf("before: %v", err)
			}
			if err := tt.spoil(y); err != nil {
				t.Fatal(err)
			}
			if _, err := y.Preflight(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("preflight: %v, want %q", err, tt.want)
			}
		})
	}
}

// linkToOpen makes a hook of a link into a directory that anybody can write to.
func linkToOpen(y *yard) error {
	open := filepath.Join(filepath.Dir(y.Dir), "open")
	return errors.Join(os.Mkdir(open, 0o755), os.WriteFile(filepath.Join(open, "x"), []byte("#!/bin/sh\n"), 0o755),
		os.Chmod(open, 0o777), os.Symlink(filepath.Join(open, "x"), y.file("30-x")))
}

// TestAHookThatMisbehavesIsKilledAndNamed, in each of the verbs, and soon.
func TestAHookThatMisbehavesIsKilledAndNamed(t *testing.T) {
	for name, tt := range map[string]struct{ script, want string }{
		"never ends":            {`trap "" TERM; while :; do sleep 60; done`, "did not end within 2s and was killed"},
		"ends well when killed": {`trap "exit 0" TERM; sleep 60 & wait`, "did not end within 2s and was killed"},
		"writes a gigabyte":     {`head -c 1073741824 /dev/zero | tr '\0' x`, "was killed"},
		"lists a gigabyte":      {`yes work`, "named more than 4096 workloads"},
		"complains a gigabyte":  {`yes complaint >&2`, "wrote more than 64 MiB and was killed"},
		"exits with 3":          {`echo no yard today >&2; exit 3`, "exited with code 3: no yard today"},
		"is ended by a signal":  {`kill -9 $$`, "ended by signal: killed"},
		"writes half a list":    {`echo '{"name":'`, "names no workload"},
		"names nothing":         {`echo '{"why":"x"}'`, "names no workload"},
	} {
		t.Run(name, func(t *testing.T) {
			y := hooks(t, map[string]string{"10-fine": "exit 0", "20-db": tt.script})
			if y.Ask = time.Minute; strings.Contains(tt.want, "within") {
				y.Ask = 2 * time.Second
			}
			began := time.Now()
			_, err := y.Preflight(t.Context())
			if err == nil || !strings.Contains(err.Error(), "hook 20-db: preflight: ") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("preflight: %v, want %q", err, tt.want)
			}
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// TestWhatAHookStartedIsKilled: nothing of its process group outlives a call, and
// what left the group does not hold the call up.
func TestWhatAHookStartedIsKilled(t *testing.T) {
	y := hooks(t, map[string]string{"10-x": `sleep 1000 & echo $! >"$HOME/pid"; setsid sleep 7 & exit 0`})
	home := t.TempDir()
	t.Setenv("HOME", home)
	began := time.Now()
	if _, err := y.Preflight(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 6*time.Second {
		t.Errorf("it waited %s for what the hook left behind", took)
	}
	pid, err := os.ReadFile(filepath.Join(home, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	gone := func() bool {
		status, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
		return err != nil || strings.Contains(string(status), ") Z ")
	}
	for deadline := time.Now().Add(10 * time.Second); !gone(); {
		if time.Now().After(deadline) {
			t.Fatal("what the hook started still runs")
		}
		<-time.After(10 * time.Millisecond)
	}
}

// journal is a hook that writes down how it was called, and does as a file of its
// verb's name says.
const journal = `echo "${0##*/} $1" >> "$HOME/calls"; [ ! -e "$HOME/$1" ] || . "$HOME/$1"`

// calls is what the journal hooks wrote.
func calls(t *testing.T, home string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(home, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(home, "calls"))
	return strings.Fields(strings.ReplaceAll(string(text), " ", ":"))
}

// TestHooksAreCalledInOrder, resumed in the reverse one, called again when they
// say so, and told why.
func TestHooksAreCalledInOrder(t *testing.T) {
	ctx, home := t.Context(), t.TempDir()
	t.Setenv("HOME", home)
	y := hooks(t, map[string]string{"10-lb": journal, "50-db": journal})
	y.Machine = fleetlink.Machine{ID: "0123", Hostname: "web-1", BootID: func() (string, error) { return "b00t", nil }}
	write(t, filepath.Join(home, "cordon"), `[ $DRYDOCK_ATTEMPT = 2 ] || exit 75
		echo "$DRYDOCK_PROTOCOL $DRYDOCK_MACHINE_ID $DRYDOCK_HOSTNAME $DRYDOCK_BOOT_ID $DRYDOCK_REASON" >&2; cat >&2`, 0o644)
	if err := y.Cordon(ctx, "a reboot"); err != nil {
		t.Fatal(err)
	}
	if got := calls(t, home); !slices.Equal(got, []string{"10-lb:cordon", "10-lb:cordon", "50-db:cordon", "50-db:cordon"}) {
		t.Errorf("cordon: %v", got)
	}
	told := strings.Join(y.log, "\n")
	for _, want := range []string{"hook 10-lb: cordon: 1 0123 web-1 b00t a reboot", `{"protocol":1,"verb":"cordon","hook":"50-db","machine_id":"0123","hostname":"web-1","boot_id":"b00t","reason":"a reboot","force":false,"attempt":2,"timeout_seconds":120}`} {
		if !strings.Contains(told, want) {
			t.Errorf("hooks were told\n%s\nwant %s", told, want)
		}
	}
	// Neither hook lists anything: each is what is left until it has drained.
	if s, err := y.Standing(ctx); err != nil || len(s.Left) != 2 || s.Left[0].Name != "10-lb" {
		t.Errorf("after the cordon: %+v, %v", s, err)
	}
	calls(t, home)
	write(t, filepath.Join(home, "drain"), `[ "$DRYDOCK_DEADLINE" = 1000 ] && [ $DRYDOCK_FORCE = 1 ] || exit 1`, 0o644)
	if err := y.Drain(ctx, fleetlink.Order{Why: "a reboot", Force: true, Deadline: time.Unix(1000, 5)}); err != nil {
		t.Fatal(err)
	}
	if got := calls(t, home); !slices.Equal(got, []string{"10-lb:standing", "50-db:standing", "10-lb:drain", "50-db:drain"}) {
		t.Errorf("drain: %v", got)
	}
	if s, err := y.Standing(ctx); err != nil || !s.Drained() {
		t.Errorf("after the drain: %+v, %v", s, err)
	}
	calls(t, home)
	write(t, filepath.Join(home, "resume"), `[ ${0##*/} = 50-db ] || exit 1`, 0o644)
	if err := y.Resume(ctx); err == nil || !strings.Contains(err.Error(), "hook 10-lb: resume: exited with code 1") {
		t.Errorf("resume: %v", err)
	}
	if s, err := y.Standing(ctx); err != nil || !s.Ours {
		t.Errorf("after a resume that failed: %+v, %v", s, err)
	}
	os.Remove(filepath.Join(home, "resume"))
	calls(t, home)
	if err := y.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	if got := calls(t, home); !slices.Equal(got, []string{"50-db:resume", "10-lb:resume"}) {
		t.Errorf("resume: %v", got)
	}
}

// TestAHookThatWentAwayIsNamed: what it did stays done, and the machine says so.
func TestAHookThatWentAwayIsNamed(t *testing.T) {
	y := hooks(t, map[string]string{"10-lb": "exit 0", "50-db": "exit 0"})
	if err := y.Cordon(t.Context(), "a reboot"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(y.file("50-db")); err != nil {
		t.Fatal(err)
	}
	_, standing := y.Standing(t.Context())
	for what, err := range map[string]error{
		"standing": standing, "resume": y.Resume(t.Context()), "cordon": y.Cordon(t.Context(), ""), "drain": y.Drain(t.Context(), fleetlink.Order{}),
	} {
		if err == nil || !strings.Contains(err.Error(), "hook 50-db took work off this machine and is not in") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestOnlyWhatWasCordonedIsDrained, and a record that cannot be read is no
// machine in service.
func TestOnlyWhatWasCordonedIsDrained(t *testing.T) {
	y := hooks(t, map[string]string{"10-lb": "exit 0"})
	if err := y.Drain(t.Context(), fleetlink.Order{}); err == nil {
		t.Error("drained without a cordon")
	}
	y.data = []byte(`{"why":`)
	if s, err := y.Standing(t.Context()); err == nil {
		t.Errorf("a torn record: %+v", s)
	}
	y.data = nil
	y.fail(errors.New("read-only file system"))
	if err := y.Cordon(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "read-only file system") {
		t.Errorf("cordoned, and nobody would know: %v", err)
	}
}

// TestProgressIsToldWhileADrainRuns: a list that an empty line ends is told at
// once, not when the hook ends.
func TestProgressIsToldWhileADrainRuns(t *testing.T) {
	y := hooks(t, map[string]string{"10-x": `[ $1 = drain ] || exit 0
		echo 'a: it hesitates'; echo b; echo; exec sleep 60`, "20-y": "exit 0"})
	if err := y.Cordon(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var told []string
	err := y.Drain(ctx, fleetlink.Order{Progress: func(left []fleetlink.Workload) {
		if told = append(told, fmt.Sprint(left)); len(told) == 2 {
			cancel()
		}
	}})
	mute := "its drain has not ended, and it does not say what is left"
	want := []string{"[10-x: " + mute + " 20-y: " + mute + "]", "[a: it hesitates b 20-y: " + mute + "]"}
	if !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
	if left := (fleetlink.Unfinished{}); !errors.As(err, &left) || !errors.Is(err, context.Canceled) || len(left.Left) != 3 {
		t.Errorf("drain: %v", err)
	}
}

// TestGate: open only where an executable says so.
func TestGate(t *testing.T) {
	for name, tt := range map[string]struct {
		script string
		mode   os.FileMode
		want   string
	}{
		"open":           {"[ $1 = gate ]", 0o755, ""},
		"shut":           {"echo backup: it runs", 0o755, "backup: it runs (@)"},
		"shut, mute":     {"exit 75", 0o755, `gate @ says "not yet", and not why`},
		"fails":          {"exit 1", 0o755, "gate @ is shut: hook 10-x: gate: exited with code 1"},
		"never ends":     {"sleep 60", 0o755, "gate @ is shut: hook 10-x: gate: it did not end within 2s and was killed"},
		"not executable": {"exit 0", 0o644, "gate @ is refused, and shut: @ is not executable: chmod +x it, or move it away"},
	} {
		t.Run(name, func(t *testing.T) {
			y := hooks(t, map[string]string{"10-x": tt.script})
			path := y.file("10-x")
			if err := os.Chmod(path, tt.mode); err != nil {
				t.Fatal(err)
			}
			g := hook.Gate{Path: path}
			if name == "never ends" {
				g.Timeout = 2 * time.Second
			}
			if got := strings.Join(g.Shut(t.Context()), "; "); got != strings.ReplaceAll(tt.want, "@", path) {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

// TestJudgeNamesAllThatIsWrong: one look is enough to mend a directory, and runs
// nothing of it.
func TestJudgeNamesAllThatIsWrong(t *testing.T) {
	ran := filepath.Join(t.TempDir(), "ran")
	y := hooks(t, map[string]string{"10-app": "touch " + ran, "20-db": "touch " + ran, "30-net": "touch " + ran, "40-old.bak": ""})
	if names, wrong := hook.Judge(y.Dir); len(wrong) > 0 || !slices.Equal(names, []string{"10-app", "20-db", "30-net"}) {
		t.Errorf("%v, %v", names, wrong)
	}
	if err := errors.Join(os.Chmod(y.file("10-app"), 0o644), os.Chmod(y.file("30-net"), 0o777)); err != nil {
		t.Fatal(err)
	}
	_, wrong := hook.Judge(y.Dir)
	if len(wrong) != 2 || !strings.Contains(wrong[0].Error(), "10-app") || !strings.Contains(wrong[0].Error(), "not executable") ||
		!strings.Contains(wrong[1].Error(), "30-net") || !strings.Contains(wrong[1].Error(), "others than root may write") {
		t.Errorf("%v", wrong)
	}
	if _, wrong := hook.Judge(t.TempDir()); len(wrong) != 1 || !strings.Contains(wrong[0].Error(), "holds no hook") {
		t.Errorf("an empty one: %v", wrong)
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("a hook was run")
	}
}

// TestAHookForbids: what an operator forbids ends a drain at once, by force or
// without, said before it or in its middle.
func TestAHookForbids(t *testing.T) {
	const word = `{"name":"db","why":"its owner said so","forbids":true}`
	barred := fleetlink.Workload{Name: "db", Why: "its owner said so", Forbids: true}
	for verb, script := range map[string]string{
		"standing": `[ $1 != preflight ] && [ $1 != standing ] || echo '` + word + `'; [ $1 != drain ] || echo moved >&2`,
		"drain":    `[ $1 != preflight ] || echo '` + word + `'; [ $1 != drain ] || { echo '` + word + `'; echo; sleep 60; }`,
	} {
		for _, force := range []bool{false, true} {
			y := hooks(t, map[string]string{"10-x": script})
			if held, err := y.Preflight(t.Context()); err != nil || !slices.Equal(held, []fleetlink.Workload{barred}) {
				t.Errorf("preflight: %v, %v", held, err)
			}
			if err := y.Cordon(t.Context(), "a reboot"); err != nil {
				t.Fatal(err)
			}
			var unfinished fleetlink.Unfinished
			err := y.Drain(t.Context(), fleetlink.Order{Force: force})
			if !errors.Is(err, fleetlink.ErrForbidden) || !errors.As(err, &unfinished) || !slices.Equal(unfinished.Left, []fleetlink.Workload{barred}) {
				t.Errorf("said in %s, force %t: %v", verb, force, err)
			}
			if slices.ContainsFunc(y.log, func(line string) bool { return strings.Contains(line, "moved") }) {
				t.Errorf("said in %s, force %t: its drain was called: %q", verb, force, y.log)
			}
		}
	}
}
