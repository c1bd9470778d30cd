package fleet

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/fleet/fleettest"
)

// slow has a unit take its time to end.
func (s *scene) slow(name string, d time.Duration) {
	s.f.Lock()
	defer s.f.Unlock()
	s.f.Slow[name] = d
}

func (s *scene) testSlow() {
	a, b := s.place("a"), s.place("b")
	s.slow(a, time.Hour)
	s.unfinished(a+" (it has not ended here yet: systemd calls it deactivating (stop-sigterm))", 16*fleettest.Heartbeat)
	if s.target(a) == idA || s.target(b) != idA {
		s.Errorf("%s is scheduled to %s, and %s, which was to wait, to %s", a, s.target(a), b, s.target(b))
	}
	if st, err := s.open().Standing(s.within(enough)); err != nil || !strings.Contains(fleetlink.Names(st.Left), a+" (it has not been seen to end here yet)") {
		s.Errorf("standing %+v, %v", st, err)
	}
	err := s.cordon().Drain(s.within(20*fleettest.Heartbeat), fleetlink.Order{Force: true})
	if !errors.Is(err, context.DeadlineExceeded) {
		s.Errorf("drain by force while %s ends: %v", a, err)
	}
	s.f.Agents[idA].End(a)
	s.drain(fleetlink.Order{})
	s.resume()
}

func (s *scene) testUnasked() {
	s.o.Stop = 6 * fleettest.Heartbeat
	for i, units := range []Units{s.f.Agents[idA], nil} {
		name := s.place([]string{"a", "b"}[i])
		s.slow(name, time.Hour)
		s.o.Units = units
		s.f.Lock()
		s.f.Systemd = errors.New("no bus")
		s.f.Unlock()
		began, told := now(), ""
		s.cordon()
		o := fleetlink.Order{Force: i == 0, Progress: func(left []fleetlink.Workload) { told += fleetlink.Names(left) }}
		if err := s.open().Drain(s.within(enough), o); err != nil {
			s.Fatal(err)
		}
		if took := time.Since(began); took < s.o.Stop+s.o.Heartbeat || !strings.Contains(told, "whether it has ended here is not known") {
			s.Errorf("the drain took %s, and told: %s", took, told)
		}
		s.resume()
	}
}

// ailing names what does not come back.
func (s *scene) ailing() string {
	s.Helper()
	found, err := s.open().Ailments(s.within(enough))
	if err != nil {
		s.Fatal(err)
	}
	return fleetlink.Names(found)
}

// ends has a unit end well by itself, once it is seen up on a machine.
func (s *scene) ends(name, machine string) {
	s.Helper()
	s.up(name, machine)
	s.f.Agents[machine].Finish(name)
}

func (s *scene) testEnds() {
	boot := "1"
	s.o.Machine.BootID = func() (string, error) { return boot, nil }
	name := s.place("a")
	s.unit("everywhere.service", launched, "X-Fleet:Global=true")
	s.up("everywhere.service", idA)
	wait := s.during(name, func(to string) { s.ends(name, to) }) // before it was up for as long as it would have to be
	s.drain(fleetlink.Order{})
	wait()
	to := s.target(name)
	boot = "2"
	s.f.Agents[idA].Vanish()
	s.f.Agents[idA].Start()
	s.until("the Global unit is up", func() bool { return s.ailing() == "" })
	s.ends("everywhere.service", idA)
	if ails := s.ailing(); ails != "" {
		s.Errorf("a Global unit was up after the reboot and ended well: %s", ails)
	}
	s.resume()
	if ails := s.ailing(); ails != "" || s.target(name) != to {
		s.Errorf("units were up again and ended well: %s; %s is on %s", ails, name, s.target(name))
	}
	boot = "3"
	if ails := s.ailing(); ails != "everywhere.service (it was up on this machine before, and is inactive/dead)" {
		s.Errorf("in a boot in which nothing was seen up here: %s", ails)
	}
}

func (s *scene) testStoppedEnds() {
	s.unit("pinned.service", launched, "X-Fleet:MachineID="+idA)
	s.up("pinned.service", idA)
	s.drain(fleetlink.Order{Force: true})
	s.resume()
	s.until("it is up", func() bool { return s.ailing() == "" })
	s.ends("pinned.service", idA)
	if ails := s.ailing(); ails != "" {
		s.Errorf("a unit was up again and ended well: %s", ails)
	}
}

func (s *scene) testStaysEnded() {
	name := s.place("a")
	l := s.cordon()
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	wait := s.during(name, func(string) { cancel() }) // nobody sees it up
	if err := l.Drain(ctx, fleetlink.Order{}); err == nil {
		s.Fatal("the drain was not cut off")
	}
	wait()
	to := s.target(name)
	if s.ends(name, to); to == idA {
		s.Fatalf("%s was not moved", name)
	}
	if s.resume(); s.target(name) != to {
		s.Errorf("%s ended well on %s and was brought back to %s, which starts it again", name, to, s.target(name))
	}
}

// loaded submits a unit that fleet is not to start, and waits until it is loaded here.
func (s *scene) loaded(name string, lines ...string) {
	s.Helper()
	s.unit(name, loaded, lines...)
	s.until(name+" is loaded", func() bool {
		states, _ := s.api.states(s.Context(), name, idA)
		return len(states) == 1
	})
}

func (s *scene) testJob() {
	for _, force := range []bool{false, true} {
		s.unit("job.timer", launched)
		s.until("the timer is somewhere", func() bool { return len(s.where("job.timer")) == 1 })
		s.f.Etcd.Set(s.f.Key("job/job.timer/target"), idA)
		s.up("job.timer", idA)
		s.loaded("job.service", "X-Fleet:MachineOf=job.timer")
		s.f.Agents[idA].Run("job.service")
		s.until("the job runs", func() bool { return len(s.where("job.service")) == 1 })
		const why = "job.service is at work, and was not started by fleet (its desired state is loaded): to move it is to cut it off, so it is waited for until it ends"
		want := []fleetlink.Workload{{Name: "job.service", Why: why}, {Name: "job.timer", Why: why}}
		held := s.held()
		slices.SortFunc(held, func(a, b fleetlink.Workload) int { return strings.Compare(a.Name, b.Name) })
		if !slices.Equal(held, want) {
			s.Errorf("preflight %v, want %v", held, want)
		}
		if force {
			s.drain(fleetlink.Order{Force: true})
			s.resume()
			return
		}
		if s.unfinished("job.service ("+why+")", 6*fleettest.Heartbeat); s.target("job.service") != idA || s.target("job.timer") != idA {
			s.Errorf("the job is on %s, its timer on %s", s.target("job.service"), s.target("job.timer"))
		}
		s.f.Agents[idA].Finish("job.service")
		s.drain(fleetlink.Order{})
		to := s.target("job.timer")
		s.up("job.timer", to)
		if s.target("job.service") != to {
			s.Errorf("the timer is on %s, its job on %s", to, s.target("job.service"))
		}
		s.resume()
		s.f.Etcd.Set(s.f.Key("job/job.timer/target"), idA)
		s.f.Etcd.Set(s.f.Key("job/job.service/target"), idA)
		s.up("job.timer", idA)
	}
}

func (s *scene) testSocket() {
	s.unit("web.socket", launched)
	s.until("the socket is somewhere", func() bool { return len(s.where("web.socket")) == 1 })
	s.f.Etcd.Set(s.f.Key("job/web.socket/target"), idA)
	s.up("web.socket", idA)
	s.loaded("web.service", "X-Fleet:MachineOf=web.socket")
	s.f.Agents[idA].Run("web.service")
	s.until("the daemon runs", func() bool { return len(s.where("web.service")) == 1 })
	if held := s.held(); len(held) > 0 {
		s.Errorf("preflight %v", held)
	}
	s.drain(fleetlink.Order{})
	if to := s.target("web.socket"); to == idA || s.target("web.service") != to {
		s.Errorf("the socket is on %s, its daemon on %s", to, s.target("web.service"))
	}
	s.resume()
	if ails := s.ailing(); ails != "" {
		s.Errorf("a daemon that nobody has used yet ails: %s", ails)
	}
}

// testStopped: a person stops what the drain stopped as well.
func (s *scene) testStopped() {
	for _, name := range []string{"one.service", "two.service"} {
		s.unit(name, launched, "X-Fleet:MachineID="+idA)
		s.up(name, idA)
	}
	s.drain(fleetlink.Order{Force: true})
	s.wish("one.service", loaded)
	s.resume()
	s.up("two.service", idA)
	if n, _, err := s.f.Keys.Get(s.Context(), s.f.Key("job/one.service/target-state")); err != nil || n.Value != loaded {
		s.Errorf("resume started what a person had stopped: %+v, %v", n, err)
	}
	if ails := s.ailing(); ails != "" {
		s.Errorf("what a person stopped ails: %s", ails)
	}
}

// testLag: fleet's API tells of our cordon late.
func (s *scene) testLag() {
	s.f.Etcd.Set(s.f.Key("machines", idA, "metadata", "reboot"), "blue")
	s.until("it is seen", func() bool { return s.metadata("reboot") == "blue" })
	s.f.Lag(true)
	s.cordon()
	s.cordon()
	s.f.Lag(false)
	if s.metadata("reboot") != "draining" {
		s.Errorf("after the cordon: %q", s.metadata("reboot"))
	}
	s.resume()
	if n, _, err := s.f.Keys.Get(s.Context(), s.f.Key("machines", idA, "metadata", "reboot")); err != nil || n.Value != "blue" {
		s.Errorf("it was overridden with blue, and is %+v, %v", n, err)
	}
}
