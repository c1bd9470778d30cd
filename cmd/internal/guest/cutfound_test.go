package guest_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"

	"github.com/drydock-os/drydock/cmd/internal/guest"
)

// outcomes counts what was found on the disk, by the phase that a cut was aimed
// at.
var outcomes = struct {
	sync.Mutex
	count map[phase]map[string]int
}{count: map[phase]map[string]int{}}

// checkpoints counts the cuts in the middle of a download that was so far that it
// should have one, and those that found one.
var checkpoints struct{ due, found atomic.Int64 }

// inspect looks at the disk after a cut: whatever can be booted is a whole
// release, and one of the two. It returns whether the next boot is a trial.
func (c *cutter) inspect(p phase) bool {
	table, found, err := c.known.bootable(c.Disk, c.Release.Release.Loader)
	if err != nil {
		c.t.Fatalf("after a power cut in phase %s: %v", p, err)
	}
	what, err := outcome(table, found, c.slot, c.images[c.runs].Release.Version, c.images[c.runs+1].Release.Version)
	if err != nil {
		c.t.Fatalf("after a power cut in phase %s: %v", p, err)
	}
	outcomes.Lock()
	defer outcomes.Unlock()
	if outcomes.count[p] == nil {
		outcomes.count[p] = map[string]int{}
	}
	outcomes.count[p][what]++
	return what == onTrial
}

// finish waits until the new release is good, and looks at what the cuts left.
func (c *cutter) finish(cuts []cut) {
	c.Settled(phaseLimit, c.images[c.runs+1].Release.Version)
	guest.Count(c.t, "updates", 1)
	if names := c.Do("ls -A /var/lib/drydock"); !readable(names) {
		c.t.Errorf("drydockd could not read what it had remembered:\n%s", names)
	}
	served := c.Server.Served()
	var total int64
	for _, s := range served[c.requests:] {
		total += s.To - s.From
	}
	c.t.Logf("%s: %d bytes were served for a payload of %d, over %d cuts", c.images[c.runs+1].Release.Version, total, c.payload, len(cuts))
	for i, cut := range cuts {
		until := len(served)
		if i+1 < len(cuts) {
			until = cuts[i+1].requests
		}
		from, begun := int64(-1), int64(0)
		for _, s := range served[cut.requests:until] {
			from, begun = max(from, s.From), begun+s.To-s.From
		}
		if from < 0 || from == 0 && begun < opening { // it was complete, or cut again before it went on
			continue
		}
		c.t.Logf("the power failed with %d bytes served; the download went on at %d", cut.reached, from)
		if from == 0 && cut.reached == c.payload && c.nameless(cut.phase) {
			continue
		}
		if cut.reached > checkpoint && cut.reached < c.payload {
			if checkpoints.due.Add(1); cut.kept > 0 {
				checkpoints.found.Add(1)
			}
		}
		if from < cut.kept {
			c.t.Errorf("%d bytes were served when the power failed, the checkpoint on the disk says %d, and the download went on at %d", cut.reached, cut.kept, from)
		}
	}
	c.runs++
	c.slot = c.slot.Other()
}

// checkpoint reads off the disk where the download of the next release goes on;
// 0 if it does not say.
func (c *cutter) checkpoint(p phase) int64 {
	if p != writing && p != written {
		return 0
	}
	var saved struct {
		Version, Slot string
		State         []byte
	}
	if data := remembered(c.t, c.Disk, "download.json"); len(data) == 0 || json.Unmarshal(data, &saved) != nil {
		return 0
	}
	var state struct{ Offset int64 } // behind its own hash
	if saved.Version != c.images[c.runs+1].Release.Version || saved.Slot != c.slot.String() || len(saved.State) < sha256.Size ||
		json.Unmarshal(saved.State[sha256.Size:], &state) != nil {
		return 0
	}
	return state.Offset
}

// opening bounds what is served, in bytes, to who only wants to read again what
// the payload begins with, before it goes on in the middle: as much as the
// sockets and buffers between hold.
const opening = 16 << 20

// nameless tells whether a cut in a phase may have cost a kernel on trial its name:
// systemd-boot counts a boot by renaming it, which FAT does not in one write. fsck
// frees what has no name, and the release is fetched again.
func (c *cutter) nameless(p phase) bool {
	return c.Release.Release.Loader == guest.SystemdBoot && (p == trial || p == judging || p == marking)
}

// kept is how much of the payload a cut now would not cost.
func (c *cutter) kept() int64 {
	return max(0, min(furthest(c.Server.Served()[c.requests:]), c.payload-1)-checkpoint)
}

// furthest is the end of what was served of a payload, in bytes.
func furthest(served []guest.Served) int64 {
	var end int64
	for _, s := range served {
		end = max(end, s.To)
	}
	return end
}

// flagsNow are the bytes of the disk that change with the flags.
func (c *cutter) flagsNow() string {
	b := make([]byte, c.watch.size)
	f, err := os.Open(c.Disk)
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(b, c.watch.at); err != nil {
		c.t.Fatal(err)
	}
	return string(b)
}

// outcomeTable shows what was found after the cuts.
func outcomeTable() string {
	outcomes.Lock()
	defer outcomes.Unlock()
	all := map[string]int{}
	for _, row := range outcomes.count {
		maps.Copy(all, row)
	}
	columns := slices.Sorted(maps.Keys(all))
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "cut in\t%s\t\n", strings.Join(columns, "\t"))
	for _, p := range phases {
		fmt.Fprintf(w, "%s\t", p.phase)
		for _, column := range columns {
			fmt.Fprintf(w, "%d\t", outcomes.count[p.phase][column])
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	return b.String()
}
