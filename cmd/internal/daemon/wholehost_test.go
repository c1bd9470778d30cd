package daemon_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink/host/podmantest"
	"github.com/drydock-os/drydock/testdata/real"
)

// balancer is a hook over a scheduler that is a directory: work/NAME is work, and
// says why it cannot leave; cordon is there while nothing new comes; ailments is
// what is not well, and later what will not be once the machine is back in service.
// It keeps a record.
const balancer = `#!/bin/sh
set -eu
yard=@
say() { echo "$(date +%s.%N) $*" >> $yard/record; }
list() {
	for f in $yard/work/*; do
		[ -e "$f" ] || continue
		why=$(cat "$f")
		echo "${f##*/}${why:+: $why}"
	done
}
case $1 in
standing)
	list
	[ -e $yard/cordon ] || exit 75
	;;
cordon)
	[ -e $yard/cordon ] || say "cordon: $DRYDOCK_REASON"
	echo "$DRYDOCK_REASON" > $yard/cordon
	;;
drain)
	for f in $yard/work/*; do
		[ -e "$f" ] && [ ! -s "$f" ] || continue
		rm "$f"
		say "${f##*/} has left"
	done
	list
	[ -z "$(ls $yard/work)" ] || exit 75
	;;
resume)
	[ ! -e $yard/cordon ] || say "in service again"
	rm -f $yard/cordon
	[ ! -e $yard/later ] || mv $yard/later $yard/ailments
	;;
ailments)
	[ ! -e $yard/ailments ] || cat $yard/ailments
	;;
esac
`

func hookDock(t *testing.T, h *host) dock {
	real.Program(t, "sh")
	yard := filepath.Join(h.dir, "yard")
	hook := h.write("drain.d/50-balancer", strings.Replace(balancer, "@", yard, 1))
	if err := os.Chmod(hook, 0o755); err != nil {
		t.Fatal(err)
	}
	h.write("yard/work/db", "")
	h.write("yard/work/web", "")
	there := func(name string) bool { _, err := os.Stat(filepath.Join(yard, name)); return err == nil }
	return dock{
		tables: fmt.Sprintf("[scheduler]\nkind = \"hook\"\n[scheduler.hook]\ndirectory = %q\npause = \"100ms\"\n", filepath.Dir(hook)),
		work:   []string{"db", "web"}, why: "its twin is down",
		keep: func() func() {
			h.write("yard/work/web", "its twin is down")
			return func() { h.write("yard/work/web", "") }
		},
		here: func() (names []string) {
			entries, err := os.ReadDir(filepath.Join(yard, "work"))
			if err != nil {
				t.Error(err)
			}
			for _, e := range entries {
				names = append(names, e.Name())
			}
			return names
		},
		closed: func() bool { return there("cordon") },
		down:   func() { h.write("yard/ailments", "this machine: its link is down\n") },
		phases: []phase{
			{reason: "its link is down", closed: true},
			{begin: func() {
				h.write("yard/later", "db: 0 of 1 replicas are up\n")
				os.Remove(filepath.Join(yard, "ailments"))
			}, reason: "the permit is kept until the work is back: db (0 of 1 replicas are up)"},
		},
		last: func() { os.Remove(filepath.Join(yard, "ailments")) },
		record: func() (all []moment) {
			text, err := os.ReadFile(filepath.Join(yard, "record"))
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(text)) {
				at, what, _ := strings.Cut(strings.TrimSpace(line), " ")
				seconds, rest, _ := strings.Cut(at, ".")
				sec, err := strconv.ParseInt(seconds, 10, 64)
				nsec, err2 := strconv.ParseInt(rest, 10, 64)
				if err != nil || err2 != nil {
					t.Fatalf("the record has %q", line)
				}
				all = append(all, moment{time.Unix(sec, nsec), what})
			}
			return all
		},
		story: []string{"permit: granted", "cordon: drydock: update to 1.1.0", "db has left", "web has left",
			"the reboot is asked for", "the machine is down", "in service again", "permit: updated"},
	}
}

// podmanDock is a host without a scheduler, whose containers are of a real Podman.
func podmanDock(t *testing.T, h *host) dock {
	p := podmantest.Start(t)
	p.Place("work-a")
	p.PlaceDeaf("work-z")
	look := func() (all []moment) {
		for _, name := range []string{"work-a", "work-z"} {
			started, ended := p.Times(name)
			all = append(all, moment{ended, name + " has ended"}, moment{started, name + " is started"})
		}
		return all
	}
	var before []moment // the reboot
	return dock{
		tables: fmt.Sprintf("[scheduler.none]\ncontainers = [\"drydock=1\"]\nsocket = %q\n", p.Socket()),
		work:   []string{"work-a", "work-z"}, why: "it is being stopped", holds: true,
		keep: func() func() { return func() { p.Post("/containers/work-z/kill", nil) } }, // it is deaf
		here: p.Here,
		closed: func() bool {
			var record struct{ Ours bool }
			text, err := os.ReadFile(filepath.Join(h.dir, "state", "none.record"))
			return err == nil && json.Unmarshal(text, &record) == nil && record.Ours
		},
		down: func() {
			before = look()
			p.Post("/containers/work-a/rename?name=lost", nil)
			p.PowerOff()
		},
		phases: []phase{
			{reason: "the scheduler cannot be asked: list the containers of this machine", closed: true},
			{begin: p.Boot, reason: "work-a was stopped for the reboot and is not on this machine any more", closed: true},
		},
		last: func() { p.Post("/containers/lost/rename?name=work-a", nil) },
		record: func() []moment {
			all := []moment{before[0], before[2]} // when they ended
			for _, m := range look() {
				if strings.HasSuffix(m.what, "is started") {
					all = append(all, m)
				}
			}
			return all
		},
		story: []string{"permit: granted", "work-a has ended", "work-z has ended", "the reboot is asked for", "the machine is down",
			"work-z is started", "work-a is started", "permit: updated"},
	}
}

// TestWholeMachineWithHooks: executables take the work off the machine before the
// reboot is asked for, and the permit is kept until they find all well.
func TestWholeMachineWithHooks(t *testing.T) {
	t.Parallel() // it mostly waits
	newWhole(t, "", hookDock).updates()
}

// TestWholeMachineWithHooksAborts: one names what does not leave, and the machine
// is given back.
func TestWholeMachineWithHooksAborts(t *testing.T) {
	t.Parallel() // it mostly waits
	newWhole(t, retriesLate, hookDock).aborts()
}

// TestWholeMachineOfContainers: without a scheduler, containers of a real Podman
// end in order before the reboot is asked for, and the permit is kept until they
// run again.
func TestWholeMachineOfContainers(t *testing.T) {
	t.Parallel() // it mostly waits
	newWhole(t, "", podmanDock).updates()
}

// TestWholeMachineOfContainersAborts: a container that does not end is named, and
// once it can be started again, the machine is given back.
func TestWholeMachineOfContainersAborts(t *testing.T) {
	t.Parallel() // it mostly waits
	newWhole(t, retriesLate, podmanDock).aborts()
}

// retriesLate keeps a drain that was given up from being begun again in the test.
const retriesLate = "retry_pause = \"1h\"\n"
