package rollout

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater"
)

func permits(n int) rebootlock.Max { return rebootlock.Max{Count: n} }

// simulate runs c, and says which seed it had.
func simulate(t *testing.T, c Config) (Result, *Timeline) {
	t.Helper()
	if c.Reboot == 0 {
		c.Reboot = 3 * time.Minute
	}
	r, line, err := Run(context.Background(), c)
	if err != nil {
		t.Fatalf("seed %d: %v", c.Seed, err)
	}
	return r, line
}

// sound reports what did not hold.
func sound(t *testing.T, r Result) {
	t.Helper()
	for _, v := range r.Violations {
		t.Errorf("seed %d: %s", r.Seed, v)
	}
	if r.Updated+r.RolledBack+r.Overdue != r.Machines {
		t.Errorf("seed %d: %d updated, %d rolled back, %d overdue of %d", r.Seed, r.Updated, r.RolledBack, r.Overdue, r.Machines)
	}
	if r.Makespan < r.Bound {
		t.Errorf("seed %d: took %v s, which nothing can: %v s", r.Seed, r.Makespan, r.Bound)
	}
}

// TestHandOversCostNothing: without faults a rollout takes what its reboots take.
func TestHandOversCostNothing(t *testing.T) {
	for _, reboot := range []time.Duration{time.Second, 3 * time.Minute, time.Hour} {
		r, _ := simulate(t, Config{Machines: 30, Max: permits(3), Reboot: reboot, Seed: 1})
		sound(t, r)
		if r.Updated != 30 || r.Makespan > 1.01*r.Bound || r.Bound != 10*reboot.Seconds() {
			t.Errorf("reboot %s: %d updated in %v s, bound %v s", reboot, r.Updated, r.Makespan, r.Bound)
		}
	}
}

// TestFaults: whatever happens, every invariant holds and everybody comes to an
// end.
func TestFaults(t *testing.T) {
	happened := map[string]int{}
	for name, c := range map[string]Config{
		"alone":     {Machines: 1, Max: permits(1)},
		"one":       {Machines: 8, Max: permits(1)},
		"some":      {Machines: 15, Max: permits(4)},
		"all":       {Machines: 12, Max: permits(15)},
		"percent":   {Machines: 14, Max: rebootlock.Max{Percent: 15}},
		"zones":     {Machines: 15, Max: permits(5), Zones: 3, ZoneMax: 2},
		"one zone":  {Machines: 12, Max: permits(4), Zones: 3, OneZone: true},
		"late":      {Machines: 12, Max: permits(4), Deadline: 3 * time.Minute},
		"every one": {Machines: 15, Max: permits(4), Faults: 1},
	} {
		if c.Faults == 0 {
			c.Faults = 0.6
		}
		for c.Seed = range uint64(2) {
			r, _ := simulate(t, c)
			t.Run(fmt.Sprint(name, " ", c.Seed), func(t *testing.T) { sound(t, r) })
			for kind, n := range r.Faults {
				happened[kind] += n
			}
		}
	}
	t.Log(happened)
	for _, k := range slices.Compact(slices.Clone(kinds)) {
		if happened[string(k)] == 0 {
			t.Errorf("%s never happened", k)
		}
	}
}

// TestSameSeedSameRollout: a seed that found something finds it again.
func TestSameSeedSameRollout(t *testing.T) {
	c := Config{Machines: 20, Max: permits(3), Faults: 0.5, Seed: 3}
	draw := func() (text, svg []byte) {
		r, line := simulate(t, c)
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := line.WriteSVG(&out); err != nil {
			t.Fatal(err)
		}
		return text, out.Bytes()
	}
	text, svg := draw()
	again, svgAgain := draw()
	if !bytes.Equal(text, again) {
		t.Errorf("%s\n%s", text, again)
	}
	if !bytes.Equal(svg, svgAgain) {
		t.Error("two timelines of one seed")
	}
	c.Seed++
	if _, other := draw(); bytes.Equal(svg, other) {
		t.Error("two seeds, one timeline")
	}
}

// lock is a lock of which a test breaks a part.
type lock struct {
	updater.RebootLock
	held bool // who waits is told so
	open bool // its fence is
}

func (l lock) Standing(ctx context.Context) (updater.Standing, error) {
	s, err := l.RebootLock.Standing(ctx)
	if l.held && s.Permit == updater.Queued {
		s.Permit = updater.Held
	}
	return s, err
}

func (l lock) Fence(ctx context.Context, phase string) error {
	if l.open {
		return nil
	}
	return l.RebootLock.Fence(ctx, phase)
}

// TestObserverNotices: the checks of a simulation can fail.
func TestObserverNotices(t *testing.T) {
	fenceless := func(l updater.RebootLock) updater.RebootLock { return lock{RebootLock: l, open: true} }
	lockless := func(l updater.RebootLock) updater.RebootLock { return lock{RebootLock: l, open: true, held: true} }
	for name, test := range map[string]struct {
		config   Config
		sabotage sabotage
		want     string
	}{
		"one permit too many": {Config{Max: permits(2)}, sabotage{rules: func(r *rebootlock.Rules) { r.Max.Count++ }}, "machines hold permits, 2 are the most"},
		"a percentage of too many": {Config{Max: rebootlock.Max{Percent: 20}}, sabotage{rules: func(r *rebootlock.Rules) { r.Max.Percent = 40 }},
			"machines hold permits, 2 are the most"},
		"a full zone":                  {Config{Max: permits(4), Zones: 2, ZoneMax: 1}, sabotage{rules: func(r *rebootlock.Rules) { r.ZoneMax = 2 }}, "machines of zone-"},
		"two zones":                    {Config{Max: permits(4), Zones: 2, OneZone: true}, sabotage{rules: func(r *rebootlock.Rules) { r.OneZone = false }}, "machines of 2 zones"},
		"no permit":                    {Config{Max: permits(2)}, sabotage{lock: lockless}, "is draining without a permit"},
		"no fence":                     {Config{Max: permits(2)}, sabotage{lock: fenceless}, "and its permit says granted"},
		"a torn slot":                  {Config{Max: permits(2)}, sabotage{boot: tear}, "holds no whole release"},
		"a freeze that is no fence":    {Config{Max: permits(2), Faults: 1, kinds: []kind{freeze}}, sabotage{read: thaw}, "begins phase staging in a freeze"},
		"a freeze that stops no grant": {Config{Max: permits(2), Reboot: 5 * time.Second, Faults: 1, kinds: []kind{freeze}}, sabotage{read: thaw}, "a permit comes to be in a freeze"},
		"a machine that hears nothing": {Config{Max: permits(2)}, sabotage{deaf: 1}, "waits for ever"},
	} {
		t.Run(name, func(t *testing.T) {
			c := test.config
			c.Machines, c.Seed, c.sabotage = 10, 1, test.sabotage
			r, _ := simulate(t, c)
			if !slices.ContainsFunc(r.Violations, func(v string) bool { return strings.Contains(v, test.want) }) {
				t.Errorf("violations %q, want one with %q", r.Violations, test.want)
			}
		})
	}
}

// thaw leaves no freeze in what is read of a record.
func thaw(kv *rebootlock.KV) {
	var record map[string]json.RawMessage
	if json.Unmarshal(kv.Value, &record) != nil || record["freeze"] == nil {
		return
	}
	delete(record, "freeze")
	kv.Value, _ = json.Marshal(record)
}

// tear changes a byte of what the first machine has in slot A.
func tear(m *machine) {
	if m.index != 0 || m.boots > 0 {
		return
	}
	slot, err := partition.SlotOf(m.disk.Disk, partition.Layout{}, partition.A)
	if err == nil {
		_, err = slot.WriteAt([]byte{1}, m.s.factory.size-1)
	}
	if err != nil {
		m.s.fail(err)
	}
}

func TestTimelineIsAnImage(t *testing.T) {
	_, line := simulate(t, Config{Machines: 15, Max: permits(3), Seed: 1, Faults: 0.4})
	var svg bytes.Buffer
	if err := line.WriteSVG(&svg); err != nil {
		t.Fatal(err)
	}
	text := svg.String()
	for _, want := range []string{"15 machines, 3 permits", "seed 1", "reboots", "updated", looks[rebooting].colour} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in it", want)
		}
	}
	for d := xml.NewDecoder(&svg); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// TestTimelineOfManyStaysSmall: 10,000 machines are drawn in less than 2 MB.
func TestTimelineOfManyStaysSmall(t *testing.T) {
	line := newTimeline(Config{Machines: 10_000, Max: permits(50)})
	for m := range 10_000 {
		for i := range 40 {
			line.mark(m, step(i%len(looks)), start.Add(time.Duration(m+100*i)*time.Second))
		}
	}
	var svg bytes.Buffer
	if err := line.WriteSVG(&svg); err != nil || svg.Len() > 2<<20 {
		t.Errorf("%d bytes, %v", svg.Len(), err)
	}
}

func TestBound(t *testing.T) {
	for _, test := range []struct {
		machines, dead, permits int
		want                    time.Duration
	}{
		{10, 0, 2, 5 * time.Minute},
		{11, 0, 2, 6 * time.Minute},
		{1, 0, 50, time.Minute},
		{10, 1, 2, 6 * time.Minute}, // 9 minutes, and 3 for the one that died
		{6, 1, 5, 3 * time.Minute},  // nobody is done before the deadline of the one
		{100, 4, 10, 10*time.Minute + 48*time.Second},
	} {
		if got := bound(test.machines, test.dead, test.permits, time.Minute, 3*time.Minute); got != test.want {
			t.Errorf("%+v: %s", test, got)
		}
	}
}

func TestCheck(t *testing.T) {
	good := Config{Machines: 1, Max: permits(1), Reboot: time.Minute}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*Config){
		"no machine":        func(c *Config) { c.Machines = 0 },
		"too many":          func(c *Config) { c.Machines = MaxMachines + 1 },
		"no permit":         func(c *Config) { c.Max = permits(0) },
		"101 percent":       func(c *Config) { c.Max = rebootlock.Max{Percent: 101} },
		"no time":           func(c *Config) { c.Reboot = 0 },
		"a chance of 2":     func(c *Config) { c.Faults = 2 },
		"less than none":    func(c *Config) { c.Faults = -0.1 },
		"no zones":          func(c *Config) { c.ZoneMax = 1 },
		"an early deadline": func(c *Config) { c.Deadline = time.Second },
	} {
		c := good
		if spoil(&c); c.Check() == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, _, err := Run(context.Background(), c); err == nil {
			t.Errorf("%s: simulated", name)
		}
	}
}

func TestEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	c := Config{Machines: 60, Max: permits(2), Reboot: time.Minute, Progress: func(int, time.Duration) { cancel() }}
	if _, _, err := Run(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// BenchmarkRollout is what one machine's rollout costs.
func BenchmarkRollout(b *testing.B) {
	c := Config{Machines: max(b.N, 20), Max: permits(20), Reboot: 3 * time.Minute, Faults: 0.01, Seed: 1}
	if _, _, err := Run(context.Background(), c); err != nil {
		b.Fatal(err)
	}
}
