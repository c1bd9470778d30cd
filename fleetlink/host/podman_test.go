package host_test

import (
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/host"
	"github.com/drydock-os/drydock/fleetlink/host/podmantest"
	"github.com/drydock-os/drydock/fleetlink/linktest"
)

// TestRealPodman: the containers of a real engine keep the contract.
func TestRealPodman(t *testing.T) {
	linktest.Test(t, func(t *testing.T) linktest.Cluster {
		p, record := podmantest.Start(t), &note{}
		return linktest.Cluster{
			Open: func() fleetlink.Link {
				return &host.Link{Containers: p.Containers(), Record: record, Pause: 50 * time.Millisecond,
					Machine: fleetlink.Machine{BootID: func() (string, error) { return strconv.Itoa(p.Boots()), nil }}}
			},
			Place:  p.Place,
			Here:   p.Here,
			Reboot: func() { p.PowerOff(); p.Boot() },
			Silence: func() func() {
				service := children(t, p.Process())[0]
				syscall.Kill(service, syscall.SIGSTOP)
				return func() { syscall.Kill(service, syscall.SIGCONT) }
			},
			Pace: time.Second,
		}
	})
}

// TestRealContainers: what linktest does not ask of an engine.
func TestRealContainers(t *testing.T) {
	p := podmantest.Start(t)
	c, ctx := p.Containers(), t.Context()
	p.Place("work-b")
	p.Place("work-a")
	if here := p.Here(); !slices.Equal(here, []string{"work-a", "work-b"}) {
		t.Errorf("here are %v", here)
	}
	for range 2 {
		if err := c.Stop(ctx, "work-a", true); err != nil {
			t.Error(err)
		}
	}
	if u, err := c.Look(ctx, "work-a"); err != nil || u.State != host.Down || u.What != "exited (137)" {
		t.Errorf("killed: %+v, %v", u, err)
	}
	for range 2 {
		if err := c.Start(ctx, "work-a"); err != nil {
			t.Error(err)
		}
	}
	if u, err := c.Look(ctx, "work-a"); err != nil || u.State != host.Up {
		t.Errorf("started: %+v, %v", u, err)
	}
	if u, err := c.Look(ctx, "none"); err != nil || u.State != host.Absent {
		t.Errorf("one that is not there: %+v, %v", u, err)
	}
	if err := c.Start(ctx, "none"); err == nil || !strings.Contains(err.Error(), "no such container") {
		t.Errorf("one that is not there: %v", err)
	}
	if err := c.Stop(ctx, "none", false); err != nil {
		t.Errorf("what is not there does not run: %v", err)
	}
	p.PlaceDeaf("work-d") // it was not seen any more while it was being stopped
	stopped := make(chan error, 1)
	go func() { stopped <- c.Stop(ctx, "work-d", false) }()
	ending := func(u host.Unit) bool { return u.Name == "work-d" && u.State == host.Ending }
	for deadline := time.Now().Add(20 * time.Second); ; {
		running, err := c.Running(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(running, ending) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("one is being stopped, and what runs is %+v", running)
		}
		<-time.After(20 * time.Millisecond)
	}
	p.Post("/containers/work-d/kill", nil)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	c.Labels = []string{"drydock=2"}
	if running, err := c.Running(ctx); err != nil || len(running) > 0 {
		t.Errorf("of another label: %+v, %v", running, err)
	}
}
