package guest_test

import (
	"context"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/drydock-os/drydock/cmd/internal/guest"
	"github.com/drydock-os/drydock/partition"
)

// A phase is a stretch of an update in which the power is cut.
type phase string

const (
	writing phase = "writing" // the payload is being served
	written phase = "written" // all of it was; it is read back, kept in mind, and hashed once more
	staging phase = "staging" // the flags that select the new release are being written
	leaving phase = "reboot"  // they are, and the system goes down
	trial   phase = "trial"   // the new release boots
	judging phase = "health"  // its services run, and it is not good yet
	marking phase = "marking" // the flags that make it good are being written
)

// phases are all of them, as an update passes them, with how long each lasts on
// an emulated machine, about: the cut comes after a random part of it. While
// flags are written that is a matter of milliseconds. How much was served is
// counted in bytes.
var phases = []struct {
	phase
	lasts time.Duration
}{
	{writing, 0}, {written, 8 * time.Second}, {staging, 8 * time.Millisecond}, {leaving, 8 * time.Second},
	{trial, 20 * time.Second}, {judging, 8 * time.Second}, {marking, 8 * time.Millisecond},
}

// rounds are the cuts of one update, in turn. While the firmware has tries left, a
// trial is cut again and again; without, the old release boots and begins it anew.
// A cut while flags are written leaves the system with them or without, so the
// reboot has a round of its own.
var rounds = [][]phase{
	{writing, writing, written, staging, trial, trial, judging, trial, judging, trial, judging, marking},
	{writing, writing, written, leaving, trial, trial, judging, marking},
}

const (
	// checkpoint is how many bytes of a download an interruption may cost: 32 MiB
	// between two checkpoints, and what was under way in the sockets and buffers.
	checkpoint = 40 << 20
	// phaseLimit is how long a machine may take from its power-on into a phase: a
	// boot, a payload, a boot, several times as long as on an idle host.
	phaseLimit = 8 * time.Minute
)

// outcomes counts what was found on the disk, by the phase that a cut was aimed
// at.
var outcomes = struct {
	sync.Mutex
	count map[phase]map[string]int
}{count: map[phase]map[string]int{}}

// A victim is a machine whose power is cut.
type victim struct {
	loader guest.Loader
	tries  int // that the firmware has for a trial
	cuts   int
}

// TestPowerCuts cuts the power of machines that update again and again, at
// random moments in each phase. They always boot a whole release, and always
// end on the new one.
func TestPowerCuts(t *testing.T) {
	guest.Open(t)
	machines := []victim{{guest.Modelled, 15, 12}, {guest.Modelled, 2, 8}}
	if guest.Full() {
		machines = slices.Repeat([]victim{{guest.Modelled, 15, 17}, {guest.Modelled, 1, 17}, {guest.SystemdBoot, 4, 17}, {guest.GRUB, 2, 17}}, 3)
	}
	seed := cutSeed(t)
	t.Cleanup(func() { t.Log("\n" + outcomeTable()) })
	for i, m := range machines {
		t.Run(fmt.Sprintf("%s-%d", m.loader, i+1), func(t *testing.T) {
			t.Parallel()
			h := fnv.New64()
			fmt.Fprint(h, t.Name())
			c := newCutter(t, m, rand.New(rand.NewPCG(seed, h.Sum64())))
			for round := i; m.cuts > 0; round++ {
				m.cuts -= c.update(rounds[round%len(rounds)], m.cuts)
			}
		})
	}
}

// cutSeed is what decides where the power fails, as it is now or was then.
func cutSeed(t testing.TB) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("DRYDOCK_CUT_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("DRYDOCK_CUT_SEED=%d", seed)
	return seed
}

// cutPolicy gives the firmware so many tries for a trial, and no number of cuts
// is a verdict on the release.
func cutPolicy(tries int) map[string]string {
	return map[string]string{"trial.retries": "100", "trial.retry_backoff": `"1s"`, "trial.firmware_tries": strconv.Itoa(tries)}
}

// A cutter is a machine, and what is known of it without asking it.
type cutter struct {
	*guest.Machine
	t        *testing.T
	random   *rand.Rand
	images   []guest.Image // one after the other
	known    releases
	runs     int            // the image that it runs
	slot     partition.Slot // that the next one is written into
	payload  int64          // its size in bytes
	requests int            // for payloads, before this update
	watch    place          // where on the disk it is seen that flags change

	// Of the present boot:
	flags   string // the bytes there
	onTrial bool   // it is the new release's
	boots   int    // of the machine until then
	alive   int    // the boot in which the agent answered
}

func newCutter(t *testing.T, v victim, random *rand.Rand) *cutter {
	l := guest.Open(t)
	c := &cutter{t: t, random: random, slot: partition.B}
	for i := range 3 + v.cuts/8 { // a round has eight cuts, or more; some may be missed
		c.images = append(c.images, image(t, l, guest.Release{Version: fmt.Sprintf("1.0.%d", i), Loader: v.loader}))
	}
	c.known = releasesOf(t, c.images...)
	l.Processor(t)
	c.Machine = l.Machine(t, guest.Spec{Name: "cut", Release: c.images[0], Policy: cutPolicy(v.tries)})
	secondSlot(t, c.Machine)
	c.watch = flagPlaces(t, c.Disk, v.loader)[0]
	return c
}

// A cut is one that was made.
type cut struct {
	reached  int64 // the end of what was served of the payload before it, in bytes
	requests int   // for payloads before it
	phase    phase
}

// update offers the next release and cuts the power in the phases of a round,
// at most limit times. It returns how often.
func (c *cutter) update(round []phase, limit int) int {
	if c.runs+1 == len(c.images) {
		c.t.Fatal("no release is left to update to: too many phases were over before they were seen")
	}
	next := c.images[c.runs+1]
	info, err := os.Stat(next.Payload)
	if err != nil {
		c.t.Fatal(err)
	}
	c.payload, c.requests = info.Size(), len(c.Server.Served())
	c.Server.Offer(c.t, next)
	if c.On() {
		c.boots, c.onTrial, c.flags = c.Boots(), false, c.flagsNow()
		c.Do("drydock update --no-wait || true")
	} else {
		c.powerOn(false)
	}
	var cuts []cut
	for _, p := range round {
		if len(cuts) == limit {
			break
		}
		if !c.reach(p) {
			c.t.Logf("%s: %s was over before it was seen", next.Release.Version, p)
			continue
		}
		c.Cut()
		guest.Count(c.t, "power cuts", 1)
		served := c.Server.Served()
		cuts = append(cuts, cut{furthest(served[c.requests:]), len(served), p})
		c.powerOn(c.inspect(p))
	}
	c.finish(cuts)
	return len(cuts)
}

// powerOn switches the machine on, and notes what there is to see of it.
func (c *cutter) powerOn(onTrial bool) {
	c.PowerOn()
	c.boots, c.onTrial, c.flags = c.Boots(), onTrial, c.flagsNow()
}

// reach waits until the machine is in a phase, and a random part of it longer.
// It returns false if the phase is over.
func (c *cutter) reach(p phase) bool {
	began, asked := time.Now(), time.Now()
	goal := c.Server.Bytes.Load() + c.random.Int64N(c.payload-c.kept())
	for !c.sees(p) && (p != writing || c.Server.Bytes.Load() < goal) {
		now := time.Now()
		if now.Sub(began) > phaseLimit {
			c.t.Fatalf("%s: it is not seen in phase %s after %v", c.Name, p, phaseLimit)
		}
		if !c.On() {
			c.t.Fatalf("%s went off before phase %s", c.Name, p)
		}
		if now.Sub(asked) > time.Second {
			if c.past(p) {
				return false
			}
			asked = time.Now()
		}
		time.Sleep(2 * time.Millisecond)
	}
	for _, known := range phases {
		if known.phase == p && known.lasts > 0 {
			time.Sleep(time.Duration(c.random.Int64N(int64(known.lasts))))
		}
	}
	c.t.Logf("%s: the power fails in phase %s, %.1f s after it was waited for, %d of %d bytes served", c.images[c.runs+1].Release.Version, p, time.Since(began).Seconds(),
		furthest(c.Server.Served()[c.requests:]), c.payload)
	return true
}

// sees tells whether the machine is in a phase.
func (c *cutter) sees(p phase) bool {
	complete := furthest(c.Server.Served()[c.requests:]) >= c.payload
	switch p {
	case writing, written: // there may have been less to write than was thought
		return complete && c.up()
	case staging, leaving:
		return complete && c.flagsNow() != c.flags
	case trial:
		return c.inTrial()
	case judging:
		return c.inTrial() && c.up()
	case marking:
		return c.inTrial() && c.up() && c.flagsNow() != c.flags
	}
	return false
}

// inTrial tells whether the new release's boot has begun.
func (c *cutter) inTrial() bool { return c.onTrial || c.Boots() > c.boots }

// past tells whether a phase cannot come any more.
func (c *cutter) past(p phase) bool {
	if c.onTrial && slices.Contains([]phase{writing, written, staging, leaving}, p) {
		return true
	}
	f, err := openFlags(c.Disk, c.Release.Release.Loader)
	if err != nil {
		return false // it is being written
	}
	defer f.close()
	table, err := f.Table()
	next, ok := table.Next()
	return err == nil && ok && next == c.slot && table[c.slot].Successful
}

// up tells whether the agent answers, and makes sure that the right release
// does.
func (c *cutter) up() bool {
	boot := c.Boots()
	if c.alive == boot {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	got, err := c.Run(ctx, "/bin/cat", "/usr/lib/os-release")
	if err != nil || c.Boots() != boot {
		return false
	}
	want := c.images[c.runs].Release.Version
	if c.inTrial() {
		want = c.images[c.runs+1].Release.Version
	}
	if !strings.Contains(got.Out, "VERSION_ID="+want+"\n") {
		c.t.Fatalf("%s: release %s was to boot: %s", c.Name, want, got.Out)
	}
	c.alive, c.flags = boot, c.flagsNow()
	return true
}

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
		from := int64(-1)
		for _, s := range served[cut.requests:until] {
			from = max(from, s.From)
		}
		if from < 0 { // it was complete, or cut again before it asked
			continue
		}
		c.t.Logf("the power failed with %d bytes served; the download went on at %d", cut.reached, from)
		if from == 0 && cut.reached == c.payload && c.nameless(cut.phase) {
			continue
		}
		if cut.reached-from > checkpoint {
			c.t.Errorf("%d bytes were served when the power failed, and the download went on at %d: more than %d were lost", cut.reached, from, checkpoint)
		}
	}
	c.runs++
	c.slot = c.slot.Other()
}

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
