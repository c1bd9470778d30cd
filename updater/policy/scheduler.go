package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// SchedulerKind names who runs the work of a cluster.
type SchedulerKind string

const (
	NoScheduler SchedulerKind = "none"       // nobody: what runs here ends with the machine, but for what [scheduler.none] stops in order
	Kubernetes  SchedulerKind = "kubernetes" // the API server of a cluster that this machine is a node of
	Nomad       SchedulerKind = "nomad"
	Fleet       SchedulerKind = "fleet" // of CoreOS
	Hooks       SchedulerKind = "hook"  // executables
)

// Scheduler says who is asked to take the work off this machine before a reboot,
// and to bring it back. Only the table of its kind is read.
type Scheduler struct {
	Kind       SchedulerKind  `mapstructure:"kind"`
	Kubernetes KubernetesLink `mapstructure:"kubernetes"`
	Nomad      NomadLink      `mapstructure:"nomad"`
	Fleet      FleetLink      `mapstructure:"fleet"`
	Hook       HookLink       `mapstructure:"hook"`
	None       HostLink       `mapstructure:"none"`
}

// Place says which scheduler of its kind it is, and as what it knows this machine,
// as the policy names them. While a machine is out of service it must not change.
func (s Scheduler) Place() string {
	var parts []string
	switch s.Kind {
	case Kubernetes:
		parts = []string{s.Kubernetes.Kubeconfig, s.Kubernetes.Node}
	case Nomad:
		parts = []string{s.Nomad.Address, s.Nomad.Region, s.Nomad.Node}
	case Fleet:
		parts = append(slices.Clone(s.Fleet.Etcd), s.Fleet.Prefix)
	case Hooks:
		parts = []string{s.Hook.Directory}
	}
	return strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "" }), " ")
}

// HookLink is a directory of executables.
type HookLink struct {
	Directory  string        `mapstructure:"directory"`
	AskTimeout time.Duration `mapstructure:"ask_timeout"` // of one that is only asked
	ActTimeout time.Duration `mapstructure:"act_timeout"` // of one that cordons or resumes
	Pause      time.Duration `mapstructure:"pause"`       // before one that answered "not yet" is called again
}

// HostLink is what runs on this host by itself and is to end in order.
type HostLink struct {
	Units        []string      `mapstructure:"units"`         // names or globs of systemd units, in the order in which they are stopped
	Containers   []string      `mapstructure:"containers"`    // labels, "name" or "name=value"
	Socket       string        `mapstructure:"socket"`        // of Docker's API, or Podman's
	Grace        time.Duration `mapstructure:"grace"`         // for one to end, in a drain by force
	StartTimeout time.Duration `mapstructure:"start_timeout"` // for one to start
}

// KubernetesLink is this machine as a node of Kubernetes.
type KubernetesLink struct {
	Kubeconfig string `mapstructure:"kubeconfig"` // absolute path; empty: the kubelet's own
	Node       string `mapstructure:"node"`       // empty: the credential's, or the one with this machine-id, or this host name

	Unmanaged  bool          `mapstructure:"unmanaged"`  // evict pods that nothing makes anew
	EmptyDir   bool          `mapstructure:"empty_dir"`  // evict pods that lose data in an emptyDir
	DaemonSets bool          `mapstructure:"daemonsets"` // pods of DaemonSets end with the machine; false: they forbid the drain
	Finished   bool          `mapstructure:"finished"`   // remove pods that have ended
	Grace      time.Duration `mapstructure:"grace"`      // for pods to end; 0: each pod's own
	SkipStuck  time.Duration `mapstructure:"skip_stuck"` // pods that should have ended so long ago do not count; 0: they do

	BlockingPods  string        `mapstructure:"blocking_pods"`  // label selector
	BlockingNode  string        `mapstructure:"blocking_node"`  // label selector
	LoadBalancers bool          `mapstructure:"load_balancers"` // exclude the node from external ones meanwhile
	BalancerWait  time.Duration `mapstructure:"balancer_wait"`  // from then to the first eviction
	Volumes       bool          `mapstructure:"volumes"`        // wait until they are detached
	Surge         bool          `mapstructure:"surge"`          // one pod of a workload at a time, the next when all are ready elsewhere
	Budgets       bool          `mapstructure:"budgets"`        // read budgets in advance
	InFlight      int           `mapstructure:"in_flight"`      // evictions at a time
	Retry         time.Duration `mapstructure:"retry"`          // after an eviction that a budget refused, about
	Timeout       time.Duration `mapstructure:"timeout"`        // of one request to the API server
}

// NomadLink is this machine as a node of Nomad.
type NomadLink struct {
	Address    string `mapstructure:"address"` // URL of an agent
	Region     string `mapstructure:"region"`  // empty: the agent's own
	Node       string `mapstructure:"node"`    // ID or name; empty: the local agent's, or the one of this host name
	TokenFile  string `mapstructure:"token_file"`
	CAFile     string `mapstructure:"ca_file"`
	CertFile   string `mapstructure:"cert_file"`
	KeyFile    string `mapstructure:"key_file"`
	ServerName string `mapstructure:"server_name"`

	SystemJobs    bool `mapstructure:"system_jobs"`     // stop those, too, last
	EndAtDeadline bool `mapstructure:"end_at_deadline"` // tell Nomad the deadline, for it to end then what has not left
}

// FleetLink is this machine as one of CoreOS fleet's.
type FleetLink struct {
	Endpoint     string        `mapstructure:"endpoint"`  // unix:///path or http://host:port
	Etcd         []string      `mapstructure:"etcd"`      // URLs of fleet's etcd (v2 API)
	Prefix       string        `mapstructure:"prefix"`    // fleet's etcd_key_prefix
	CAFile       string        `mapstructure:"ca_file"`   // as fleet's etcd_cafile
	CertFile     string        `mapstructure:"cert_file"` // as fleet's etcd_certfile
	KeyFile      string        `mapstructure:"key_file"`  // as fleet's etcd_keyfile
	User         string        `mapstructure:"user"`      // of fleet's etcd
	PasswordFile string        `mapstructure:"password_file"`
	CordonKey    string        `mapstructure:"cordon_key"`   // of the metadata that closes a machine
	CordonValue  string        `mapstructure:"cordon_value"` //
	Heartbeat    time.Duration `mapstructure:"heartbeat"`    // for so long what fleet tells after a move may be wrong
	Linger       time.Duration `mapstructure:"linger"`       // between a unit's announcement and the unit
	Stop         time.Duration `mapstructure:"stop"`         // for an announcement to end
}

func defaultScheduler() Scheduler {
	return Scheduler{
		Kind:       NoScheduler,
		Kubernetes: KubernetesLink{DaemonSets: true, Finished: true, BalancerWait: 30 * time.Second, Volumes: true, InFlight: 16, Retry: 5 * time.Second, Timeout: 30 * time.Second},
		Nomad:      NomadLink{Address: "http://127.0.0.1:4646", SystemJobs: true},
		Hook:       HookLink{Directory: "/etc/drydock/drain.d", AskTimeout: 8 * time.Second, ActTimeout: 2 * time.Minute, Pause: 5 * time.Second},
		None:       HostLink{Socket: "/run/docker.sock", Grace: 90 * time.Second, StartTimeout: 90 * time.Second},
		Fleet:      FleetLink{Endpoint: "unix:///var/run/fleet.sock", Prefix: "/_coreos.com/fleet/", Heartbeat: 24 * time.Second, Stop: 90 * time.Second},
	}
}

const (
	maxInFlight = 100              // evictions: an API server has other clients, too
	maxPatterns = 32               // of units, or labels of containers
	maxAsk      = 15 * time.Second // the updater's whole look may take 20
	maxRetry    = 5 * time.Minute  // a budget that is looked at more seldom is a drain that nobody understands
	maxRequest  = 10 * time.Minute // as fleetlink/kubernetes has it: a request that hangs must not hang the daemon
)

func (s Scheduler) validate(c *checks) {
	oneOf(c, "scheduler.kind", s.Kind, NoScheduler, Kubernetes, Nomad, Fleet, Hooks)
	switch s.Kind {
	case Kubernetes:
		s.Kubernetes.validate(c)
	case Nomad:
		s.Nomad.validate(c)
	case Fleet:
		s.Fleet.validate(c)
	case Hooks:
		c.absolute("scheduler.hook.directory", s.Hook.Directory)
		c.between("scheduler.hook.ask_timeout", s.Hook.AskTimeout, time.Second, maxAsk)
		c.between("scheduler.hook.act_timeout", s.Hook.ActTimeout, time.Second, time.Hour)
		c.between("scheduler.hook.pause", s.Hook.Pause, 100*time.Millisecond, 5*time.Minute)
	case NoScheduler:
		s.None.validate(c)
	}
}

func (h HostLink) validate(c *checks) {
	c.count("scheduler.none.units", len(h.Units), 0, maxPatterns)
	c.count("scheduler.none.containers", len(h.Containers), 0, maxPatterns)
	for i, pattern := range h.Units {
		if strings.Trim(pattern, "*") == "" {
			c.add(fmt.Sprintf("scheduler.none.units[%d]", i), "%q names every unit of the system: name those that are to end", pattern)
		}
	}
	c.absolute("scheduler.none.socket", h.Socket)
	c.between("scheduler.none.grace", h.Grace, time.Second, 30*time.Minute)
	c.between("scheduler.none.start_timeout", h.StartTimeout, time.Second, 30*time.Minute)
}

func (k KubernetesLink) validate(c *checks) {
	c.optional("scheduler.kubernetes.kubeconfig", k.Kubeconfig)
	c.between("scheduler.kubernetes.grace", k.Grace, 0, maxWait)
	c.between("scheduler.kubernetes.skip_stuck", k.SkipStuck, 0, maxWait)
	c.between("scheduler.kubernetes.balancer_wait", k.BalancerWait, 0, maxWait)
	c.count("scheduler.kubernetes.in_flight", k.InFlight, 1, maxInFlight)
	c.between("scheduler.kubernetes.retry", k.Retry, time.Second, maxRetry)
	c.between("scheduler.kubernetes.timeout", k.Timeout, time.Second, maxRequest)
}

func (n NomadLink) validate(c *checks) {
	c.endpoint("scheduler.nomad.address", n.Address)
	c.optional("scheduler.nomad.token_file", n.TokenFile)
	c.optional("scheduler.nomad.ca_file", n.CAFile)
	c.pair("scheduler.nomad.cert_file", n.CertFile, "scheduler.nomad.key_file", n.KeyFile)
}

func (f FleetLink) validate(c *checks) {
	c.endpoint("scheduler.fleet.endpoint", f.Endpoint)
	if len(f.Etcd) == 0 {
		c.add("scheduler.fleet.etcd", "is empty: name the etcd that fleet keeps its schedule in (etcd_servers of fleet.conf), like \"http://127.0.0.1:2379\"")
	}
	c.etcd("scheduler.fleet.etcd", f.Etcd, f.CAFile != "" || f.CertFile != "", f.User != "")
	c.optional("scheduler.fleet.ca_file", f.CAFile)
	c.pair("scheduler.fleet.cert_file", f.CertFile, "scheduler.fleet.key_file", f.KeyFile)
	c.optional("scheduler.fleet.password_file", f.PasswordFile)
	c.between("scheduler.fleet.heartbeat", f.Heartbeat, time.Second, 10*time.Minute)
	c.between("scheduler.fleet.linger", f.Linger, 0, 5*time.Minute)
	c.between("scheduler.fleet.stop", f.Stop, time.Second, 30*time.Minute)
	if (f.CordonKey == "") != (f.CordonValue == "") {
		c.add("scheduler.fleet.cordon_key", "goes with scheduler.fleet.cordon_value: write both or none")
	}
}
