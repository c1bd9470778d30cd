package guest_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/drydock-os/drydock/cmd/internal/guest"
	"github.com/drydock-os/drydock/cmd/internal/guest/writelog"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/updater"
)

// TestDriveCache records what a machine writes through a whole update, and
// looks at the disk as a power failure at any moment could have left it, with
// any part lost of what the drive had in its cache: always a whole release can
// be booted, and never another one. Some of those disks are booted, to the end.
func TestDriveCache(t *testing.T) {
	guest.Open(t)
	type plan struct {
		loader                   guest.Loader
		points, memories, booted int
	}
	plans := []plan{{guest.Modelled, 50_000, 40, 3}}
	if guest.Full() {
		plans = []plan{{guest.Modelled, 500_000, 300, 8}, {guest.SystemdBoot, 1000, 50, 4}, {guest.GRUB, 1000, 50, 4}}
	}
	seed := cutSeed(t)
	for _, p := range plans {
		t.Run(string(p.loader), func(t *testing.T) {
			t.Parallel()
			d := recordUpdate(t, p.loader, rand.New(rand.NewPCG(seed, 2)))
			d.look(p.points)
			d.remember(p.memories)
			d.boot(p.booted)
		})
	}
}

// A drive is a disk in all the states that a power failure could have left it
// in.
type drive struct {
	t        *testing.T
	dir      string
	random   *rand.Rand
	old, new guest.Image
	known    releases
	server   *guest.Server
	slot     partition.Slot // that the update was written into
	runs     []run          // of QEMU
	sums     map[content]string
	byClass  map[string][]state
}

// A run is what one QEMU wrote.
type run struct {
	*writelog.Log
	base  *os.File
	size  int64
	tense []int // the moments at which flags are in the drive's cache
}

// A state is a disk.
type state struct {
	run int
	writelog.Point
}

// recordUpdate takes a machine through an update.
func recordUpdate(t *testing.T, loader guest.Loader, random *rand.Rand) *drive {
	l := guest.Open(t)
	d := &drive{t: t, dir: t.TempDir(), random: random, slot: partition.B, sums: map[content]string{}, byClass: map[string][]state{}}
	d.old = image(t, l, guest.Release{Version: "1.0.0", Loader: loader})
	d.new = image(t, l, guest.Release{Version: "1.0.1", Loader: loader})
	d.known = releasesOf(t, d.old, d.new)
	l.Processor(t)
	m := l.Machine(t, guest.Spec{Name: "drive", Release: d.old, Record: true, Policy: cutPolicy(1)})
	secondSlot(t, m)
	d.server = m.Server
	d.server.Offer(t, d.new)
	m.Start(phaseLimit, "1.0.1")
	guest.Count(t, "updates", 1)
	m.Quit()
	flags := flagPlaces(t, m.Disk, loader)
	for _, r := range m.Recordings() {
		log, err := writelog.Open(r.Log)
		if err != nil {
			t.Fatal(err)
		}
		base, err := os.Open(r.Base)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { log.Close(); base.Close() })
		info, err := base.Stat()
		if err != nil {
			t.Fatal(err)
		}
		d.runs = append(d.runs, run{Log: log, base: base, size: info.Size(), tense: tense(log, flags)})
		t.Logf("run %d: %d writes, %d flushes' worth of epochs, %d moments with flags in the cache", len(d.runs), len(log.Entries()), len(log.Epochs()), len(d.runs[len(d.runs)-1].tense))
	}
	return d
}

// tense are the moments at which something of the flags is not yet flushed.
func tense(log *writelog.Log, flags []place) []int {
	var moments []int
	for i, e := range log.Entries() {
		if !slices.ContainsFunc(flags, func(p place) bool { return p.overlaps(e.Offset, e.Length) }) {
			continue
		}
		for n := i + 1; n <= len(log.Entries()) && slices.Contains(log.Unflushed(n), i); n++ {
			moments = append(moments, n)
		}
	}
	slices.Sort(moments)
	return slices.Compact(moments)
}

// pick is a state by chance: each third time one in which flags change.
func (d *drive) pick() state {
	i := d.random.IntN(len(d.runs))
	s := state{i, d.runs[i].Pick(d.random)}
	if tense := d.runs[i].tense; len(tense) > 0 && d.random.IntN(3) == 0 {
		s.N = tense[d.random.IntN(len(tense))]
	}
	return s
}

// look checks so many states.
func (d *drive) look(points int) {
	began := time.Now()
	copies := map[string]int{}
	for range points {
		s := d.pick()
		class, err := d.class(s)
		if err != nil {
			d.t.Fatalf("run %d, %v: %v", s.run+1, s.Point, err)
		}
		d.byClass[class] = append(d.byClass[class], s)
		if g, err := partition.ReadGPT(d.device(s)); err == nil {
			copies[fmt.Sprintf("primary %v, backup %v", intact(g.Primary), intact(g.Backup))]++
		}
	}
	for _, class := range slices.Sorted(maps.Keys(d.byClass)) {
		d.t.Logf("%6d states boot %s", len(d.byClass[class]), class)
	}
	d.t.Logf("%d states in %.0f s, %d images hashed; the partition table: %v", points, time.Since(began).Seconds(), len(d.sums), copies)
	for _, class := range []string{onOld, onSpent, onTrial, onNew} {
		if len(d.byClass[class]) == 0 {
			d.t.Errorf("no state boots %s", class)
		}
	}
}

func intact(err error) string {
	switch {
	case err == nil:
		return "intact"
	case errors.Is(err, partition.ErrStale):
		return "stale"
	}
	return "damaged"
}

// class says what a state boots, after it made sure that this and all else
// that its flags let the firmware boot is a whole release.
func (d *drive) class(s state) (string, error) {
	loader := d.old.Release.Loader
	if loader != guest.Modelled {
		disk := d.image(s)
		defer os.Remove(disk)
		table, found, err := d.known.bootable(disk, loader)
		if err != nil {
			return "", err
		}
		return outcome(table, found, d.slot, d.old.Release.Version, d.new.Release.Version)
	}
	dev := d.device(s)
	table, err := partition.GPTPrio{Disk: dev, Layout: guest.Layout()}.Table()
	if err != nil {
		return "", err
	}
	if _, ok := table.Next(); !ok {
		return "", fmt.Errorf("nothing can be booted: %+v", table)
	}
	var found [2]string
	for i, f := range table {
		if !f.Bootable() {
			continue
		}
		if found[i], err = d.release(s, dev, partition.Slot(i)); err != nil {
			return "", err
		}
		if found[i] == "" {
			return "", fmt.Errorf("slot %v can be booted with %+v and holds no whole release", partition.Slot(i), table)
		}
	}
	return outcome(table, found, d.slot, d.old.Release.Version, d.new.Release.Version)
}

// A content is a stretch of the disk after so many writes to it, all flushed.
type content struct {
	run, writes int
	slot        partition.Slot
}

// release names the release that a slot holds. States in which everything in the
// slot is flushed, and the same, are hashed once.
func (d *drive) release(s state, dev device, slot partition.Slot) (string, error) {
	section, err := partition.SlotOf(dev, guest.Layout(), slot)
	if err != nil {
		return "", err
	}
	g, err := partition.ReadGPT(dev)
	if err != nil {
		return "", err
	}
	slots, err := g.FindSlots(guest.Layout())
	if err != nil {
		return "", err
	}
	where := place{int64(slots[slot].First) * g.SectorSize, slots[slot].Size(g.SectorSize)}
	key := content{run: s.run, slot: slot}
	log := d.runs[s.run]
	inside := func(i int) bool {
		return where.overlaps(log.Entries()[i].Offset, log.Entries()[i].Length)
	}
	for i := range s.N {
		if inside(i) {
			key.writes++
			if log.Entries()[i].Flags&writelog.Discard != 0 && s.Discards != writelog.ReadZero {
				return d.known.find(section)
			}
		}
	}
	if slices.ContainsFunc(log.Unflushed(s.N), inside) {
		return d.known.find(section)
	}
	version, done := d.sums[key]
	if !done {
		if version, err = d.known.find(section); err == nil {
			d.sums[key] = version
		}
	}
	return version, err
}

// remember reads what drydockd finds of its memory in so many states: nothing,
// or what it understands and what is true.
func (d *drive) remember(states int) {
	none, holding := 0, 0
	for range states {
		s := d.pick()
		disk := d.image(s)
		data := remembered(d.t, disk, "memory.json")
		os.Remove(disk)
		if data == nil {
			none++
			continue
		}
		var m updater.Memory
		if err := json.Unmarshal(data, &m); err != nil || m.Version != 1 {
			d.t.Errorf("run %d, %v: the memory cannot be read: %v: %q", s.run+1, s.Point, err, data)
		}
		if m.Written == nil {
			continue
		}
		held, err := d.release(s, d.device(s), m.Written.Slot)
		if err != nil || held != m.Written.Version {
			d.t.Errorf("run %d, %v: slot %v holds %q, and drydockd remembers it as written with %s: %v", s.run+1, s.Point, m.Written.Slot, held, m.Written.Version, err)
		}
		holding++
	}
	d.t.Logf("%d states have a memory that is read, %d of them with a release that is in its slot, %d have none", states-none, holding, none)
}

// boot boots so many states, of each class in turn: each ends on the new
// release.
func (d *drive) boot(states int) {
	if states == 0 {
		return
	}
	m := guest.Open(d.t).Machine(d.t, guest.Spec{Name: "drive", Release: d.old, Server: d.server, Policy: cutPolicy(1)})
	classes := []string{onTrial, onSpent, onOld, onNew}
	for i := 0; i < states; i++ {
		all := d.byClass[classes[i%len(classes)]]
		if len(all) == 0 {
			continue
		}
		s := all[d.random.IntN(len(all))]
		disk := d.image(s)
		if err := os.Rename(disk, m.Disk); err != nil {
			d.t.Fatal(err)
		}
		d.t.Logf("boots run %d, %v: %s", s.run+1, s.Point, classes[i%len(classes)])
		m.PowerOn()
		guest.Count(d.t, "power cuts", 1)
		m.Settled(phaseLimit, d.new.Release.Version)
		if names := m.Do("ls -A /var/lib/drydock"); !readable(names) {
			d.t.Errorf("run %d, %v: drydockd could not read what it had remembered:\n%s", s.run+1, s.Point, names)
		}
		m.Cut()
	}
}

// image makes a disk of a state.
func (d *drive) image(s state) string {
	path := filepath.Join(d.dir, "disk.img")
	r := d.runs[s.run]
	if err := r.Image(path, r.base, r.size, s.Point); err != nil {
		d.t.Fatal(err)
	}
	return path
}

func (d *drive) device(s state) device {
	r := d.runs[s.run]
	return device{r.View(r.base, s.Point), r.size}
}

// A device shows a state to package partition.
type device struct {
	io.ReaderAt
	size int64
}

func (d device) WriteAt([]byte, int64) (int, error) {
	return 0, errors.New("a state cannot be written")
}
func (d device) Sync() error { return nil }
func (d device) Size() int64 { return d.size }
