package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/kubernetes"
	"github.com/drydock-os/drydock/fleetlink/linktest"
	"github.com/drydock-os/drydock/updater/policy"
	"github.com/drydock-os/drydock/updater/state"
)

func schedulerIn(dir string, kind policy.SchedulerKind, open func() (fleetlink.Link, error)) *scheduler {
	return &scheduler{at: outOfService{Kind: kind}, open: open, file: state.File[outOfService]{Path: filepath.Join(dir, "scheduler.json"), Version: 1}}
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
	if _, err := other.Standing(ctx); err == nil || !strings.Contains(err.Error(), "out of service at nomad, and the policy now names kubernetes") || !errors.Is(err, fleetlink.ErrNotAsked) {
		t.Errorf("standing at another scheduler: %v", err)
	}
	elsewhere := schedulerIn(dir, policy.Nomad, open)
	elsewhere.at.Place = "http://127.0.0.1:4646 west"
	_, ailments := elsewhere.Ailments(ctx)
	for name, err := range map[string]error{"cordon": other.Cordon(ctx, ""), "drain": other.Drain(ctx, fleetlink.Order{}), "resume": other.Resume(ctx),
		"another of its kind": elsewhere.Resume(ctx), "its ailments": ailments} {
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

// TestSchedulerThatWasForgotten: what was written down cannot be read. Nobody
// knows where this machine is out of service, at the next call no more than at
// the first, nor after a restart.
func TestSchedulerThatWasForgotten(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "scheduler.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func() (fleetlink.Link, error) { return (&fleetlink.Memory{}).On("a"), nil }
	for i := range 2 {
		s := schedulerIn(dir, policy.Nomad, open)
		for range 2 {
			if _, err := s.Standing(t.Context()); !errors.Is(err, fleetlink.ErrNotAsked) {
				t.Errorf("run %d: %v", i, err)
			}
		}
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

// TestKubernetesOptionsAreThePolicys: what an operator writes of the Kubernetes
// link reaches it.
func TestKubernetesOptionsAreThePolicys(t *testing.T) {
	p := policy.Default()
	p.Scheduler.Kind = policy.Kubernetes
	p.Scheduler.Kubernetes.Retry, p.Scheduler.Kubernetes.Timeout = 7*time.Second, 11*time.Second
	open := func() (*kubernetes.Link, error) {
		l, err := (&Daemon{}).openLink(p, fleetlink.Machine{ID: "m"}, shelf{})
		if err != nil {
			return nil, err
		}
		return l.(*kubernetes.Link), nil
	}
	if l, err := open(); err != nil || l.Retry != 7*time.Second || l.Timeout != 11*time.Second || l.InFlight != 16 || l.RefuseDaemonSets {
		t.Errorf("%+v, %v", l, err)
	}
	p.Scheduler.Kubernetes.Timeout = time.Millisecond // the driver has the last word
	if _, err := open(); err == nil {
		t.Error("a timeout of a millisecond is taken")
	}
}
