package updater_test

import (
	"slices"
	"testing"
	"time"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/updater"
)

func TestUpdateEndToEnd(t *testing.T) {
	b := newBench(t, "1.0.0")
	b.publish("1.1.0", releasePayload(t, "1.1.0", releaseImage(t, "1.1.0")))
	b.live(func(s updater.Status) bool {
		return s.Release == "1.1.0" && s.Step == updater.Wait && s.Permit == "none"
	})
	s := b.current.Status()
	if s.Booted != "B" || s.OnTrial || s.Drained || s.Staged {
		t.Errorf("at rest: %+v", s)
	}
	want := []string{"check", "write", "lock", "drain", "stage", "reboot", "validate", "mark-good", "resume", "release", "check"}
	if got := b.steps(); !slices.Equal(got, want) {
		t.Errorf("steps %v, want %v", got, want)
	}
	if w := b.cluster.Workloads("m"); !slices.Equal(w, []string{"web", "db"}) {
		t.Errorf("workloads %v", w)
	}
	t.Log(b.reported())
}

func TestUpdateRollsBackWhatIsNotWell(t *testing.T) {
	b := newBench(t, "1.0.0")
	b.publish("1.1.0", releasePayload(t, "1.1.0", releaseImage(t, "1.1.0")))
	b.machine.Ails = func(release string) []updater.Reason {
		if release == "1.1.0" {
			return []updater.Reason{{Kind: "unit", Text: "unit web.service is failed"}}
		}
		return nil
	}
	b.policy.Health.Timeout = 100 * time.Millisecond
	b.live(func(s updater.Status) bool {
		return s.Release == "1.0.0" && len(s.Rejected) == 1 && s.Step == updater.Wait && s.Permit == "none" && !s.LastChecked.IsZero()
	})
	s := b.current.Status()
	if s.Booted != "A" || s.Drained || s.Rejected[0].Version != "1.1.0" {
		t.Errorf("at rest: %+v", s)
	}
	if table, err := b.machine.Control.Table(); err != nil || table[partition.B].Bootable() {
		t.Errorf("flags %v, %v: the rejected slot can boot", table, err)
	}
	t.Log(b.steps(), b.reported())
}
