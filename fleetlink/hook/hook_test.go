package hook_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/hook"
	"github.com/drydock-os/drydock/fleetlink/linktest"
	"github.com/drydock-os/drydock/testdata/real"
)

// note is a fleetlink.Record in memory, on a disk that may fail.
type note struct {
	mu   sync.Mutex
	data []byte
	err  error
}

func (n *note) Load() ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.data, n.err
}

func (n *note) Save(data []byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err == nil {
		n.data = slices.Clone(data)
	}
	return n.err
}

func (n *note) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.err = err
}

// example is the script of HOOKS.md.
func example(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("HOOKS.md")
	if err != nil {
		t.Fatal(err)
	}
	_, script, found := strings.Cut(string(text), "```sh\n")
	script, _, closed := strings.Cut(script, "```")
	if !found || !closed {
		t.Fatal("HOOKS.md holds no example")
	}
	return script
}

// yardctl stands in for the scheduler that the example of HOOKS.md speaks to. Its
// state is files below $yard: work/NAME holds why NAME cannot leave, cordon/WHO
// why WHO wants no work here.
const yardctl = `#!/bin/sh
set -eu
yard=@
[ ! -e $yard/silent ] || sleep 60
case $1 in
work) for f in $yard/work/*; do
	[ -e $f ] || continue
	why=$(cat $f)
	echo "${f##*/}${why:+: $why}"
done ;;
cordons) ls $yard/cordon ;;
cordon) echo "$6" > $yard/cordon/$4 ;;
uncordon) rm -f $yard/cordon/$4 ;;
move) [ ! -s $yard/work/$3 ] || exit 1; rm -f $yard/work/$3 ;;
end) rm -f $yard/work/$3 ;;
complaints) ;;
*) exit 2 ;;
esac
`

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestTheExampleOfTheDocument: the script of HOOKS.md, against a command that
// plays its scheduler, keeps the contract of a link.
func TestTheExampleOfTheDocument(t *testing.T) {
	real.Program(t, "sh")
	linktest.Test(t, func(t *testing.T) linktest.Cluster {
		dir := t.TempDir()
		yard, hooks, record := filepath.Join(dir, "yard"), filepath.Join(dir, "drain.d"), &note{}
		write(t, filepath.Join(dir, "bin", "yardctl"), strings.ReplaceAll(yardctl, "@", yard), 0o755)
		t.Setenv("PATH", filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
		write(t, filepath.Join(hooks, "50-yard"), example(t), 0o755)
		for _, sub := range []string{"work", "cordon"} {
			if err := os.MkdirAll(filepath.Join(yard, sub), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		work, cordons, silent := filepath.Join(yard, "work"), filepath.Join(yard, "cordon"), filepath.Join(yard, "silent")
		return linktest.Cluster{
			Open: func() fleetlink.Link {
				return &hook.Link{Dir: hooks, Record: record, Machine: fleetlink.Machine{ID: "0123"}, Pause: 100 * time.Millisecond, Log: func(line string) { t.Log(line) }}
			},
			Place: func(name string) string { write(t, filepath.Join(work, name), "", 0o644); return name },
			Here:  func() []string { return names(t, work) },
			Hold: func(name string) func() {
				write(t, filepath.Join(work, name), "its twin is down", 0o644)
				return func() { os.Truncate(filepath.Join(work, name), 0) }
			},
			Closed: func() bool { return len(names(t, cordons)) > 0 },
			Claim:  func() { write(t, filepath.Join(cordons, "ada"), "by hand", 0o644) },
			Uncordon: func() {
				for _, who := range names(t, cordons) {
					os.Remove(filepath.Join(cordons, who))
				}
			},
			Reboot: func() {},
			// The scheduler hangs, and the disk that the record is on fails: what no hook
			// is asked for, the record is.
			Silence: func() func() {
				write(t, silent, "", 0o644)
				record.fail(errors.New("input/output error"))
				return func() { os.Remove(silent); record.fail(nil) }
			},
			Pace: time.Second,
		}
	})
}
