package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/fleet"
	"github.com/drydock-os/drydock/fleetlink/fleet/etcd2"
	"github.com/drydock-os/drydock/fleetlink/hook"
	"github.com/drydock-os/drydock/fleetlink/host"
	"github.com/drydock-os/drydock/fleetlink/kubernetes"
	"github.com/drydock-os/drydock/fleetlink/nomad"
	"github.com/drydock-os/drydock/updater/bus"
	"github.com/drydock-os/drydock/updater/policy"
	"github.com/drydock-os/drydock/updater/state"
)

// scheduler is the link to the scheduler that the policy names. It is opened when
// it is first needed, and again where that went wrong: a daemon whose scheduler
// cannot be asked goes on to check, write and judge releases.
//
// Which scheduler was told that this machine is out of service is written down
// before it is told: a policy that names another one by then would leave the first
// with a machine that nobody gives back.
type scheduler struct {
	at   outOfService
	open func() (fleetlink.Link, error)
	file state.File[outOfService]

	mu   sync.Mutex
	link fleetlink.Link
}

// outOfService is what is written down.
type outOfService struct {
	Kind  policy.SchedulerKind `json:"kind,omitempty"`
	Place string               `json:"place,omitempty"` // which one of that kind, and as what: policy.Scheduler.Place
}

// String is the kind, and where there is one the place.
func (o outOfService) String() string {
	if o.Place == "" {
		return string(o.Kind)
	}
	return fmt.Sprintf("%s (%s)", o.Kind, o.Place)
}

// somewhere stands for what was written down and cannot be read any more.
const somewhere = policy.SchedulerKind("a scheduler that is not known any more")

func (d *Daemon) newScheduler(p policy.Policy) *scheduler {
	s := &scheduler{at: outOfService{Kind: p.Scheduler.Kind, Place: p.Scheduler.Place()}, file: state.File[outOfService]{Path: filepath.Join(p.State, "scheduler.json"), Version: 1}}
	s.open = func() (fleetlink.Link, error) {
		m, err := d.identity()
		if err != nil {
			return nil, err
		}
		return d.openLink(p, m, shelf{recordPath(p), func() (string, error) { return state.InstanceID(p.State) }})
	}
	return s
}

// A shelf is what a link finds of the time before, and where it puts what is to
// outlive a reboot.
type shelf struct {
	record   fleetlink.Record
	instance func() (string, error) // instance-id
}

// recordPath is the record of the link to the scheduler that a policy names.
func recordPath(p policy.Policy) recordFile {
	return recordFile(filepath.Join(p.State, string(p.Scheduler.Kind)+".record"))
}

// identity is this machine as schedulers know it.
func (d *Daemon) identity() (fleetlink.Machine, error) {
	id, err := d.who()
	if err != nil {
		return fleetlink.Machine{}, err
	}
	name, err := os.Hostname()
	if err != nil {
		return fleetlink.Machine{}, err
	}
	return fleetlink.Machine{ID: id.MachineID, Hostname: name, BootID: func() (string, error) {
		id, err := d.who()
		return id.BootID, err
	}}, nil
}

// openLink opens the link to the scheduler that a policy names.
func (d *Daemon) openLink(p policy.Policy, m fleetlink.Machine, s shelf) (fleetlink.Link, error) {
	switch p.Scheduler.Kind {
	case policy.Kubernetes:
		k := p.Scheduler.Kubernetes
		o := kubernetes.Options{
			Kubeconfig: k.Kubeconfig, Node: k.Node, Unmanaged: k.Unmanaged, EmptyDir: k.EmptyDir, RefuseDaemonSets: !k.DaemonSets,
			KeepFinished: !k.Finished, GracePeriod: k.Grace, SkipOverdue: k.SkipStuck, BlockingPods: k.BlockingPods, BlockingNode: k.BlockingNode,
			LeaveLoadBalancers: k.LoadBalancers, LoadBalancerWait: k.BalancerWait, IgnoreVolumes: !k.Volumes, Surge: k.Surge, Budgets: k.Budgets,
			InFlight: k.InFlight, Retry: k.Retry, Timeout: k.Timeout, Now: time.Now,
		}
		if err := o.Validate(); err != nil {
			return nil, err
		}
		return kubernetes.New(m, o), nil
	case policy.Nomad:
		n := p.Scheduler.Nomad
		return nomad.New(nomad.Options{
			Address: n.Address, Region: n.Region, Node: n.Node, TokenFile: n.TokenFile, CAFile: n.CAFile, CertFile: n.CertFile, KeyFile: n.KeyFile,
			ServerName: n.ServerName, IgnoreSystemJobs: !n.SystemJobs, EndAtDeadline: n.EndAtDeadline, Now: time.Now,
		}, m, s.record)
	case policy.Fleet:
		f := p.Scheduler.Fleet
		instance, err := s.instance()
		if err != nil {
			return nil, err
		}
		return fleet.Open(fleet.Options{
			Endpoint: f.Endpoint, Prefix: f.Prefix, CordonKey: f.CordonKey, CordonValue: f.CordonValue, Heartbeat: f.Heartbeat, Linger: f.Linger, Stop: f.Stop,
			Etcd:  etcd2.Options{Endpoints: f.Etcd, CAFile: f.CAFile, CertFile: f.CertFile, KeyFile: f.KeyFile, User: f.User, PasswordFile: f.PasswordFile},
			Units: bus.UnitStates{Address: d.Bus}, Machine: m, Instance: instance, Record: s.record, Now: time.Now,
		})
	case policy.Hooks:
		h := p.Scheduler.Hook
		return &hook.Link{Dir: h.Directory, Record: s.record, Machine: m, Ask: h.AskTimeout, Act: h.ActTimeout, Pause: h.Pause, Log: d.hookSaid}, nil
	}
	n := p.Scheduler.None
	l := &host.Link{Record: s.record, Machine: m, Grace: n.Grace, Each: n.StartTimeout, Now: time.Now}
	if len(n.Units) > 0 {
		l.Units = bus.Units{Address: d.Bus, Patterns: n.Units}
	}
	if len(n.Containers) > 0 {
		l.Containers = &host.Containers{Socket: n.Socket, Labels: n.Containers}
	}
	return l, nil
}

// opened is the link, if this machine is not out of service at another scheduler.
func (s *scheduler) opened() (fleetlink.Link, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was, err := s.file.Load()
	if errors.Is(err, state.ErrCorrupt) { // it was put aside, and would be forgotten by the next call
		err = errors.Join(err, s.file.Save(outOfService{Kind: somewhere}))
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: read which one has this machine out of service: %w", fleetlink.ErrNotAsked, err)
	case was != outOfService{} && was != s.at:
		return nil, fmt.Errorf("%w: this machine was taken out of service at %s, and the policy now names %s: name the former again until it is back, or give it back there by hand and remove %s",
			fleetlink.ErrNotAsked, was, s.at, s.file.Path)
	}
	if s.link == nil {
		if s.link, err = s.open(); err != nil {
			return nil, fmt.Errorf("%w: %w", fleetlink.ErrNotAsked, err)
		}
	}
	return s.link, nil
}

// Preflight implements fleetlink.Link.
func (s *scheduler) Preflight(ctx context.Context) ([]fleetlink.Workload, error) {
	l, err := s.opened()
	if err != nil {
		return nil, err
	}
	return l.Preflight(ctx)
}

// Standing implements fleetlink.Link.
func (s *scheduler) Standing(ctx context.Context) (fleetlink.Standing, error) {
	l, err := s.opened()
	if err != nil {
		return fleetlink.Standing{}, err
	}
	return l.Standing(ctx)
}

// Cordon implements fleetlink.Link.
func (s *scheduler) Cordon(ctx context.Context, why string) error {
	l, err := s.opened()
	if err != nil {
		return err
	}
	if err := s.note(s.at); err != nil {
		return err
	}
	return l.Cordon(ctx, why)
}

// Drain implements fleetlink.Link.
func (s *scheduler) Drain(ctx context.Context, o fleetlink.Order) error {
	l, err := s.opened()
	if err != nil {
		return err
	}
	return l.Drain(ctx, o)
}

// Resume implements fleetlink.Link.
func (s *scheduler) Resume(ctx context.Context) error {
	l, err := s.opened()
	if err != nil {
		return err
	}
	if err := l.Resume(ctx); err != nil {
		return err
	}
	return s.note(outOfService{})
}

// Ailments implements fleetlink.Link.
func (s *scheduler) Ailments(ctx context.Context) ([]fleetlink.Workload, error) {
	l, err := s.opened()
	if err != nil {
		return nil, err
	}
	return l.Ailments(ctx)
}

// note writes down at which scheduler this machine is out of service.
func (s *scheduler) note(at outOfService) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if was, err := s.file.Load(); err == nil && was == at {
		return nil
	}
	if err := s.file.Save(at); err != nil {
		return fmt.Errorf("write down at which scheduler this machine is out of service: %w", err)
	}
	return nil
}

// recordFile is a fleetlink.Record in a file.
type recordFile string

// maxRecord bounds a record, in bytes: it names at most some hundred units.
const maxRecord = 1 << 20

// Load implements fleetlink.Record.
func (r recordFile) Load() ([]byte, error) {
	data, err := state.ReadFile(string(r), maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if len(data) == 0 {
		return nil, err
	}
	return data, err
}

// Save implements fleetlink.Record. An empty file is none.
func (r recordFile) Save(data []byte) error { return state.Write(string(r), data, 0o600) }
