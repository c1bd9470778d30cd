package policy

import (
	"strings"
	"testing"
	"time"
)

// Each scheduler can be named with no more than it must be told: fleet's own
// default, a socket, was refused as a URL without a host.
func TestEachSchedulerByItsDefaults(t *testing.T) {
	for kind, change := range map[SchedulerKind]func(*Scheduler){
		NoScheduler: func(*Scheduler) {},
		Kubernetes:  func(s *Scheduler) { s.Kubernetes.Retry, s.Kubernetes.Timeout = time.Second, 10*time.Minute },
		Nomad:       func(s *Scheduler) { s.Nomad.Address = "unix:///run/nomad.sock" },
		Fleet:       func(s *Scheduler) { s.Fleet.Etcd = []string{"http://127.0.0.1:2379"} },
		Hooks:       func(*Scheduler) {},
	} {
		p := useful()
		p.Scheduler.Kind = kind
		change(&p.Scheduler)
		if errs := p.Validate(); len(errs) > 0 {
			t.Errorf("%s: %v", kind, errs)
		}
	}
}

func TestValidateNamesTheSchedulersKey(t *testing.T) {
	in := func(kind SchedulerKind, change func(*Scheduler)) func(*Policy) {
		return func(p *Policy) {
			p.Scheduler.Kind, p.Scheduler.Fleet.Etcd = kind, []string{"http://127.0.0.1:2379"}
			change(&p.Scheduler)
		}
	}
	for _, tt := range []struct {
		want   string
		change func(*Policy)
	}{
		{"scheduler.kind: \"swarm\" is none of", in("swarm", func(*Scheduler) {})},
		{"scheduler.fleet.endpoint: \"unix://run/fleet.sock\" names no socket", in(Fleet, func(s *Scheduler) { s.Fleet.Endpoint = "unix://run/fleet.sock" })},
		{"scheduler.fleet.endpoint: \"unix://\" names no socket", in(Fleet, func(s *Scheduler) { s.Fleet.Endpoint = "unix://" })},
		{"scheduler.nomad.address: \"nomad:4646\" is no URL", in(Nomad, func(s *Scheduler) { s.Nomad.Address = "nomad:4646" })},
		{"scheduler.nomad.address: \"unix:/run/nomad.sock\" is no URL", in(Nomad, func(s *Scheduler) { s.Nomad.Address = "unix:/run/nomad.sock" })},
		{"scheduler.kubernetes.retry: ", in(Kubernetes, func(s *Scheduler) { s.Kubernetes.Retry = 0 })},
		{"scheduler.kubernetes.retry: ", in(Kubernetes, func(s *Scheduler) { s.Kubernetes.Retry = 5*time.Minute + 1 })},
		{"scheduler.kubernetes.timeout: ", in(Kubernetes, func(s *Scheduler) { s.Kubernetes.Timeout = time.Second - 1 })},
		{"scheduler.kubernetes.timeout: ", in(Kubernetes, func(s *Scheduler) { s.Kubernetes.Timeout = 11 * time.Minute })},
		{"scheduler.fleet.etcd: is empty", in(Fleet, func(s *Scheduler) { s.Fleet.Etcd = nil })},
	} {
		p := useful()
		tt.change(&p)
		if errs := p.Validate(); len(errs) != 1 || !strings.HasPrefix(errs[0].Error(), tt.want) {
			t.Errorf("got %v, want one error %q", errs, tt.want)
		}
	}
}
