package metrics

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/updater"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// full is an exporter that has a value for each of its families: a coordinator
// that downloads while a release waits, with every counter counted. No machine is
// all of that at once.
func full() *Exporter {
	e := &Exporter{
		Version: "1.2.3", Now: func() time.Time { return noon },
		Beat: func() time.Time { return noon.Add(-time.Second) },
		Status: func() updater.Status {
			return updater.Status{
				Step: updater.Wait, StepName: "wait", Operation: updater.Downloading, Booted: "A", Release: "1.0.0", Strategy: "coordinated",
				Reasons:    []updater.Reason{{Kind: "window"}, {Kind: "queued"}, {Kind: "window"}, {Kind: "of a newer drydockd"}},
				NewVersion: "1.1.0", Written: true, Permit: "held", Drained: true, Drain: &updater.Draining{Total: 2, Left: []fleetlink.Workload{{Name: "db"}}}, OnTrial: true, Paused: "fair", Done: 5, Total: 10,
				LastChecked: noon.Add(-time.Hour), NextCheck: noon.Add(time.Hour), LastErrorAt: noon.Add(-time.Minute),
				Rejected: []updater.Rejection{{Version: "0.9.0"}, {Version: "0.8.0"}},
			}
		},
		History: func() []updater.HistoryEntry {
			return []updater.HistoryEntry{
				{At: noon.Add(-time.Hour), Type: updater.EventWritten, Version: "1.1.0"},
				{At: noon.Add(-2 * time.Hour), Type: updater.EventRejected, Version: "0.9.0"},
				{At: noon.Add(-3 * time.Hour), Type: updater.EventWritten, Version: "0.9.0"},
			}
		},
		Lock: func() *Lock {
			return &Lock{
				Cluster: "harbour", Group: "web", Zone: "rack-1", Read: noon, Pass: noon.Add(-time.Second), Trouble: true, Off: 6 * time.Minute,
				Asked: noon, Granted: noon, Deadline: noon.Add(time.Hour), Phase: "draining", PhaseSince: noon, Coordinates: true,
				Groups: []Group{
					{Group: "db", Max: 1, Members: 3, Held: 1, Overdue: 1, Stopped: 1, Blocked: []string{"full", "stopped"}},
					{Group: "web", Max: 2, Members: 9, Absent: 1, Held: 1, Waiting: 4, Frozen: true, Blocked: []string{"freeze"}},
				},
			}
		},
	}
	for _, ev := range []updater.Event{
		{At: noon, Type: updater.EventStarted},
		{At: noon, Type: updater.EventStep, Status: updater.Status{Step: updater.Drain}},
		{At: noon.Add(45 * time.Second), Type: updater.EventStep, Status: updater.Status{Step: updater.Stage}},
	} {
		e.Observe(ev)
	}
	return e
}

// shown are the series of an exporter, as "name{label="value"}" in the order of
// their labels, with their values.
func shown(t *testing.T, e *Exporter) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(e)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			name := f.GetName()
			if labels != nil {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			all[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetHistogram().GetSampleSum()
		}
	}
	return all
}

// TestWhatIsShown: the values of one view, those that matter to an alert.
func TestWhatIsShown(t *testing.T) {
	got := shown(t, full())
	at := func(d time.Duration) float64 { return float64(noon.Add(d).Unix()) }
	want := map[string]float64{
		`drydock_info{version="1.2.3"}`: 1, `drydock_release_info{release="1.0.0",slot="A"}`: 1,
		`drydock_new_release_info{release="1.1.0",state="written"}`: 1, `drydock_last_rejected_release_info{release="0.9.0"}`: 1,
		`drydock_time_seconds`: at(0), `drydock_last_check_timestamp_seconds`: at(-time.Hour), `drydock_pulse_timestamp_seconds`: at(-time.Second),
		`drydock_written_timestamp_seconds`:                       at(-time.Hour),
		`drydock_last_result_timestamp_seconds{result="written"}`: at(-time.Hour), `drydock_last_result_timestamp_seconds{result="rejected"}`: at(-2 * time.Hour),
		`drydock_results_total{result="written"}`: 2, `drydock_results_total{result="rejected"}`: 1, `drydock_results_total{result="updated"}`: 0,
		`drydock_step{step="wait"}`: 1, `drydock_step{step="drain"}`: 0, `drydock_operation{operation="downloading"}`: 1,
		`drydock_waiting{reason="window"}`: 1, `drydock_waiting{reason="queued"}`: 1, `drydock_waiting{reason="other"}`: 1,
		`drydock_reboot_wanted{for="update"}`: 1, `drydock_reboot_wanted{for="rollback"}`: 0,
		`drydock_permit{state="held"}`: 1, `drydock_permit{state="queued"}`: 0, `drydock_rejected_releases`: 2,
		`drydock_on_trial`: 1, `drydock_paused`: 1, `drydock_drained`: 1, `drydock_drain_workloads_left`: 1,
		`drydock_drain_duration_seconds`: 45, `drydock_step_began_timestamp_seconds`: at(45 * time.Second),
		`drydock_cluster_info{cluster="harbour",group="web",zone="rack-1"}`: 1, `drydock_lock_clock_offset_seconds`: 360,
		`drydock_lock_phase_timestamp_seconds{phase="draining"}`: at(0), `drydock_lock_deadline_timestamp_seconds`: at(time.Hour),
		`drydock_lock_coordinates{cluster="harbour"}`: 1, `drydock_lock_coordinator_trouble{cluster="harbour"}`: 1,
		`drydock_lock_group_overdue{cluster="harbour",group="db"}`: 1, `drydock_lock_group_overdue{cluster="harbour",group="web"}`: 0,
		`drydock_lock_group_max{cluster="harbour",group="web"}`: 2, `drydock_lock_group_frozen{cluster="harbour",group="web"}`: 1,
		`drydock_lock_group_stopped_releases{cluster="harbour",group="db"}`: 1, `drydock_lock_group_waiting{cluster="harbour",group="web"}`: 4,
		`drydock_lock_group_blocked{cluster="harbour",group="db",reason="full"}`: 1,
	}
	for name, value := range want {
		if v, there := got[name]; !there || v != value {
			t.Errorf("%s is %v (%t), want %v", name, v, there, value)
		}
	}
	for name := range got {
		if strings.HasPrefix(name, "drydock_waiting") && want[name] == 0 {
			t.Errorf("%s is shown", name)
		}
	}
}

// TestMachineThatKnowsNothing: at the start, and in no cluster, nothing is made
// up: no time of 1970 but where 0 is said to mean never.
func TestMachineThatKnowsNothing(t *testing.T) {
	e := &Exporter{Now: func() time.Time { return noon }, Beat: func() time.Time { return time.Time{} },
		Status: func() updater.Status { return updater.Status{} }, History: func() []updater.HistoryEntry { return nil }}
	for name, value := range shown(t, e) {
		switch {
		case strings.HasPrefix(name, "drydock_lock"), strings.HasPrefix(name, "drydock_cluster"):
			t.Errorf("%s without a cluster", name)
		case strings.Contains(name, "timestamp") && (value != 0 || !strings.HasPrefix(name, "drydock_last_check")):
			t.Errorf("%s is %v", name, value)
		}
	}
	e.Lock = func() *Lock { return &Lock{Cluster: "c", Group: "g"} }
	got := shown(t, e)
	if v, there := got["drydock_lock_read_timestamp_seconds"]; !there || v != 0 {
		t.Error("an etcd that was never reached does not show")
	}
	for name := range got {
		if strings.HasPrefix(name, "drydock_lock_group") {
			t.Errorf("%s, and nothing was read", name)
		}
	}
}

// TestMachineThatDoesNotCoordinate knows three things of its own group.
func TestMachineThatDoesNotCoordinate(t *testing.T) {
	e := full()
	e.Lock = func() *Lock { return &Lock{Cluster: "c", Group: "g", Read: noon, Queue: 3, Frozen: true, Stopped: 1} }
	var got []string
	for name := range shown(t, e) {
		if strings.HasPrefix(name, "drydock_lock_group") {
			got = append(got, name)
		}
	}
	want := []string{`drydock_lock_group_frozen{cluster="c",group="g"}`, `drydock_lock_group_stopped_releases{cluster="c",group="g"}`, `drydock_lock_group_waiting{cluster="c",group="g"}`}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestHostileNames: a server, a cluster's records and a disk choose words that are
// shown: they must not break a scrape, nor fill a database.
func TestHostileNames(t *testing.T) {
	e := full()
	bad := strings.Repeat("\"\\\n\xff", 100)
	e.Version = bad
	e.Status = func() updater.Status {
		s := updater.Status{Release: bad, NewVersion: bad, Booted: bad, Strategy: bad, Permit: bad, Pending: bad, Rejected: []updater.Rejection{{Version: bad}}}
		for i := range 1000 {
			s.Reasons = append(s.Reasons, updater.Reason{Kind: fmt.Sprint(bad, i)})
		}
		return s
	}
	e.Lock = func() *Lock {
		return &Lock{Cluster: bad, Group: bad, Zone: bad, Phase: bad, PhaseSince: noon, Coordinates: true, Groups: []Group{{Group: bad, Blocked: []string{bad, "x", "y"}}}}
	}
	got := shown(t, e)
	for name := range got {
		if len(name) > 4*maxLabel*4 {
			t.Errorf("%d bytes: %.80s", len(name), name)
		}
	}
	if n := len(got); n > 150 {
		t.Errorf("%d series of one machine", n)
	}
}

func TestSeriesOfOneMachine(t *testing.T) {
	if n := len(shown(t, full())); n > 150 {
		t.Errorf("%d series: each is one for every machine of a fleet", n)
	}
}

// status is a status in a step.
func status(step updater.Step) updater.Status {
	return updater.Status{Step: step, StepName: step.String()}
}

// TestCounts: each event, and what it counts.
func TestCounts(t *testing.T) {
	failed := errors.New("full")
	for _, tt := range []struct {
		name  string
		event updater.Event
		want  string // the series that grew by one; "" for none
	}{
		{"an offer", updater.Event{Type: updater.EventChecked, Version: "2", Status: status(updater.Check)}, `drydock_checks_total{result="offered"}`},
		{"no offer", updater.Event{Type: updater.EventChecked, Status: status(updater.Check)}, `drydock_checks_total{result="none"}`},
		{"a failed check", updater.Event{Type: updater.EventError, Err: failed, Status: status(updater.Check)}, `drydock_checks_total{result="failed"} drydock_errors_total{step="check"}`},
		{"a failed write", updater.Event{Type: updater.EventError, Err: failed, Status: status(updater.Write)}, `drydock_errors_total{step="write"} drydock_write_failures_total{cause="space"}`},
		{"a failed drain", updater.Event{Type: updater.EventError, Err: failed, Status: status(updater.Drain)}, `drydock_errors_total{step="drain"}`},
		{"a sick boot", updater.Event{Type: updater.EventError, Status: status(updater.Validate)}, `drydock_errors_total{step="validate"}`},
		{"a lost memory", updater.Event{Type: updater.EventError, Err: failed, Status: status(updater.Wait)}, ""},
		{"a reboot", updater.Event{Type: updater.EventRebooting, Status: status(updater.Reboot)}, "drydock_reboots_total"},
		{"a reboot that was", updater.Event{Type: updater.EventRebooting, Status: status(updater.Wait)}, ""},
		{"a hook that failed", updater.Event{Type: updater.EventStep, Status: updater.Status{Step: updater.Stage, Operation: updater.ReportingError}}, "drydock_hook_failures_total"},
		{"a download that failed", updater.Event{Type: updater.EventStep, Status: updater.Status{Step: updater.Write, Operation: updater.ReportingError}}, ""},
		{"a line of the hook", updater.Event{Type: updater.EventHook, Status: status(updater.Stage)}, ""},
	} {
		e := full()
		e.Cause = func(error) string { return CauseSpace }
		e.Observe(updater.Event{Type: updater.EventWaiting, At: noon.Add(time.Minute), Status: tt.event.Status}) // the step is not what is tested
		before := shown(t, e)
		e.Observe(tt.event)
		var grown []string
		for name, value := range shown(t, e) {
			if strings.Contains(name, "_total") && value != before[name] {
				if value != before[name]+1 {
					t.Errorf("%s: %s grew by %v", tt.name, name, value-before[name])
				}
				grown = append(grown, name)
			}
		}
		if slices.Sort(grown); strings.Join(grown, " ") != tt.want {
			t.Errorf("%s: %s grew, want %s", tt.name, grown, tt.want)
		}
	}
}

// TestDownloadedBytes: what came, whether or not a download goes on from a
// checkpoint, of this run or of the one before.
func TestDownloadedBytes(t *testing.T) {
	e := &Exporter{}
	started := updater.Status{NewVersion: "2", Done: 40}
	e.Observe(updater.Event{Type: updater.EventStarted, Status: started})
	for _, step := range []struct {
		version string
		done    int64
		want    uint64
	}{
		{"2", 45, 5},   // from the checkpoint of the last run
		{"2", 60, 20},  //
		{"2", 50, 20},  // again from a checkpoint
		{"2", 100, 70}, //
		{"3", 10, 80},  // another release
		{"4", 30, 110}, // and one that came further with its first word
	} {
		e.Observe(updater.Event{Type: updater.EventProgress, Version: step.version, Status: updater.Status{Done: step.done}})
		if e.counts.Downloaded != step.want {
			t.Errorf("%s at %d: %d bytes, want %d", step.version, step.done, e.counts.Downloaded, step.want)
		}
	}
}

// TestDrains: by the time that passed, not by a clock that was set meanwhile, and
// each in the buckets that it is within.
func TestDrains(t *testing.T) {
	e := &Exporter{}
	for _, took := range []time.Duration{2 * time.Second, 45 * time.Second, 2 * time.Hour, -time.Hour} {
		e.Observe(updater.Event{Type: updater.EventStep, At: noon, Status: status(updater.Drain)})
		e.Observe(updater.Event{Type: updater.EventWaiting, At: noon.Add(took / 2), Status: status(updater.Drain)})
		e.Observe(updater.Event{Type: updater.EventStep, At: noon.Add(took), Status: status(updater.Stage)})
	}
	want := Drains{Count: 4, Seconds: 2 + 45 + 7200, Within: map[string]uint64{"5": 2, "30": 2, "60": 3, "300": 3, "600": 3, "1800": 3, "3600": 3}}
	if !reflect.DeepEqual(e.counts.Drains, want) {
		t.Errorf("got %+v, want %+v", e.counts.Drains, want)
	}
}

// memory is a Store in memory.
type memory struct {
	kept  Counts
	saves int
	err   error
}

func (m *memory) Load() (Counts, error) { return m.kept, m.err }

func (m *memory) Save(c Counts) error {
	m.saves++
	m.kept = c
	return m.err
}

// TestCountsSurviveAReboot: what was counted before is there after, once, and what
// the history learned while nobody kept anything is counted as well.
func TestCountsSurviveAReboot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &memory{}
		history := full().History()
		run := func(events ...updater.Event) map[string]float64 {
			e := full()
			e.History = func() []updater.HistoryEntry { return history }
			e.counts = Counts{}
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan struct{})
			for _, ev := range events[:1] {
				e.Observe(ev) // before anything was loaded
			}
			if err := e.Load(store); err != nil {
				t.Fatal(err)
			}
			if err := e.Load(store); err != nil { // as after a reload of the policy
				t.Fatal(err)
			}
			go func() {
				e.Keep(ctx, store, func(err error) {
					if err != nil {
						t.Error(err)
					}
				})
				close(done)
			}()
			for _, ev := range events[1:] {
				e.Observe(ev)
			}
			stop()
			<-done
			return shown(t, e)
		}
		check := updater.Event{Type: updater.EventChecked, Status: status(updater.Check)}
		run(check, check)
		history = append([]updater.HistoryEntry{{At: noon, Type: updater.EventGood, Version: "1.1.0"}}, history...)
		got := run(check, check)
		for name, want := range map[string]float64{
			`drydock_checks_total{result="none"}`: 4, `drydock_results_total{result="written"}`: 2,
			`drydock_results_total{result="updated"}`: 1, `drydock_results_total{result="rejected"}`: 1,
		} {
			if got[name] != want {
				t.Errorf("%s is %v after the reboot, want %v", name, got[name], want)
			}
		}
		if store.saves != 2 || store.kept.Version != countsVersion {
			t.Errorf("%d saves of version %d", store.saves, store.kept.Version)
		}
	})
}

// TestKeepWritesSeldom: a disk is not written for each of many events, and not at
// all for none; one that fails is said, and tried with the next.
func TestKeepWritesSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, e := &memory{}, full()
		e.changed = false
		<-e.woken()
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		var told []error
		go func() {
			e.Keep(ctx, store, func(err error) { told = append(told, err) })
			close(done)
		}()
		time.Sleep(time.Hour)
		for range 100 {
			e.Observe(updater.Event{Type: updater.EventChecked, Status: status(updater.Check)})
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if store.saves != 1 || store.kept.Checks[checkNone] != 100 {
			t.Errorf("%d saves, %v", store.saves, store.kept.Checks)
		}
		store.err = errors.New("no space")
		e.Observe(updater.Event{Type: updater.EventChecked, Status: status(updater.Check)})
		time.Sleep(time.Minute)
		synctest.Wait()
		store.err = nil
		stop()
		<-done
		if store.kept.Checks[checkNone] != 101 || len(told) != 3 || told[0] != nil || told[1] == nil || told[2] != nil {
			t.Errorf("%v, told %v", store.kept.Checks, told)
		}
	})
}

// TestCountsOfAHistoryThatWasLost: counters go up, whatever becomes of it.
func TestCountsOfAHistoryThatWasLost(t *testing.T) {
	entry := func(n int) updater.HistoryEntry {
		return updater.HistoryEntry{At: noon.Add(time.Duration(n)), Type: updater.EventGood, Version: "2"}
	}
	c := Counts{}.releases([]updater.HistoryEntry{entry(2), entry(1)})
	c = c.releases(nil)
	c = c.releases([]updater.HistoryEntry{entry(3)}) // another state directory
	c = c.releases([]updater.HistoryEntry{entry(3)})
	c = c.releases([]updater.HistoryEntry{entry(4), {At: noon, Type: updater.EventOperator}, entry(3)})
	if got := c.Results["updated"]; got != 4 {
		t.Errorf("%d updates, want 4", got)
	}
	if keys := slices.Collect(maps.Keys(c.Results)); len(keys) != 1 {
		t.Errorf("counted %v", keys)
	}
}
