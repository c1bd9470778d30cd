package guest_test

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
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
	// checkpoint is how many bytes of a download an interruption costs: 32 MiB
	// between two checkpoints, and what was under way in the sockets and buffers. It
	// is more where a checkpoint has to wait for a slow disk to flush.
	checkpoint = 40 << 20
	// phaseLimit is how long a machine may take from its power-on into a phase: a
	// boot, a payload, a boot, several times as long as on an idle host.
	phaseLimit = 8 * time.Minute
)

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
	t.Cleanup(func() {
		t.Log("\n" + outcomeTable())
		due, found := checkpoints.due.Load(), checkpoints.found.Load()
		if t.Logf("%d of %d downloads that the power failed in late enough went on from a checkpoint", found, due); due >= 4 && found == 0 {
			t.Error("no download goes on where it was: none of its checkpoints is on a disk")
		}
	})
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
	kept     int64 // where the checkpoint on the disk has the download go on; 0: there is none
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
		cuts = append(cuts, cut{furthest(served[c.requests:]), len(served), p, c.checkpoint(p)})
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
