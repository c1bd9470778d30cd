package daemon

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/linktest"
	"github.com/drydock-os/drydock/updater/policy"
	"github.com/drydock-os/drydock/updater/state"
)

func schedulerIn(dir string, kind policy.SchedulerKind, open func() (fleetlink.Link, error)) *scheduler {
	return &scheduler{kind: kind, open: open, file: state.File[outOfService]{Path: filepath.Join(dir, "scheduler.json"), Version: 1}}
}

// TestSchedulerKeepsTheContract: what is written down about the link breaks
// nothing of it.
func TestSchedulerKeepsTheContract(t *testing.T) {
	linktest.Test(t, func(t *testing.T) linktest.Cluster {
		m, dir := &fleetlink.Memory{}, t.TempDir()
		m.On("b")
		return linktest.Cluster{
			Open: func() fleetlink.Link {
				return schedulerIn(dir, policy.Nomad, func() (fleetlink.Link, error) { return m.On("a"), nil })
			},
			Place:    func(name string) string { m.Place("a", name); return name },
			Here:     func() []string { return m.Workloads("a") },
			Hold:     func(name string) func() { m.Hold(name, "no room"); return func() { m.Hold(name, "") } },
			Closed:   func() bool { return m.Cordoned("a") },
			Claim:    func() { m.Claim("a", "ada", true) },
			Uncordon: func() { m.Uncordon("a") },
			Reboot:   func() {},
		}
	})
}

// TestSchedulerThatIsAnotherNow: the policy names another scheduler while this
// machine is out of service at the first. Nobody would give it back there.
func TestSchedulerThatIsAnotherNow(t *testing.T) {
	ctx, dir, m := t.Context(), t.TempDir(), &fleetlink.Memory{}
	open := func() (fleetlink.Link, error) { return m.On("a"), nil }
	nomad := schedulerIn(dir, policy.Nomad, open)
	if err := nomad.Cordon(ctx, "a reboot"); err != nil {
		t.Fatal(err)
	}
	other := schedulerIn(dir, policy.Kubernetes, open)
	if _, err := other.Standing(ctx); err == nil || !strings.Contains(err.Error(), "out of service at nomad, and scheduler.kind is now kubernetes") {
		t.Errorf("standing at another scheduler: %v", err)
	}
	for name, err := range map[string]error{"cordon": other.Cordon(ctx, ""), "drain": other.Drain(ctx, fleetlink.Order{}), "resume": other.Resume(ctx)} {
		if err == nil {
			t.Errorf("%s at another scheduler: no error", name)
		}
	}
	if err := schedulerIn(dir, policy.Nomad, open).Resume(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := schedulerIn(dir, policy.Kubernetes, open).Standing(ctx); err != nil {
		t.Errorf("after the resume at the first: %v", err)
	}
}

// TestSchedulerIsOpenedAgain: a kubeconfig that comes late, a certificate that is
// renewed, need no restart.
func TestSchedulerIsOpenedAgain(t *testing.T) {
	tries, missing := 0, errors.New("no such file")
	s := schedulerIn(t.TempDir(), policy.Kubernetes, func() (fleetlink.Link, error) {
		if tries++; tries < 3 {
			return nil, missing
		}
		return (&fleetlink.Memory{}).On("a"), nil
	})
	for i := range 2 {
		if _, err := s.Standing(context.Background()); !errors.Is(err, missing) {
			t.Errorf("try %d: %v", i, err)
		}
	}
	for range 2 {
		if _, err := s.Standing(context.Background()); err != nil {
			t.Errorf("then: %v", err)
		}
	}
	if tries != 3 {
		t.Errorf("opened %d times", tries)
	}
}

// TestRecordFile: a record is what was saved last, and nothing before that.
func TestRecordFile(t *testing.T) {
	r := recordFile(filepath.Join(t.TempDir(), "nomad.record"))
	for _, want := range []string{"", "one", "two", ""} {
		if err := r.Save([]byte(want)); err != nil {
			t.Fatal(err)
		}
		got, err := r.Load()
		if string(got) != want || err != nil || want == "" && got != nil {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	if got, err := recordFile(filepath.Join(t.TempDir(), "none")).Load(); got != nil || err != nil {
		t.Errorf("where there is none: %q, %v", got, err)
	}
}
