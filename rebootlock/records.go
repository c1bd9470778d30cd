package rebootlock

import "time"

// Cluster is the cluster's own record (RECORDS.md, section 2).
type Cluster struct {
	Version int       `json:"version"`
	ID      string    `json:"id"`  // as the policy files have it
	UID     string    `json:"uid"` // made at random with the record: an etcd that was wiped is another cluster
	Created time.Time `json:"created"`
	Freeze  *Freeze   `json:"freeze,omitempty"` // of every group
	Extra   Extra     `json:"-"`
}

// A Freeze is an operator's stop: no grant, and no phase of a permit begins.
type Freeze struct {
	Reason string    `json:"reason"`
	By     string    `json:"by"`
	Since  time.Time `json:"since"`
}

// An EtcdMember is a voter of an etcd cluster that runs on a machine.
type EtcdMember struct {
	Cluster string `json:"cluster"` // etcd's cluster ID, hex
	Member  string `json:"member"`  // etcd's member ID, hex
}

// A Ticket is a machine's place in a group's queue: first come, first served,
// by the revision in which its key came to be (RECORDS.md, section 4). It hangs
// on the machine's lease.
type Ticket struct {
	Version  int          `json:"version"`
	Machine  string       `json:"machine"`
	Instance string       `json:"instance,omitempty"`
	Boot     string       `json:"boot,omitempty"`
	Group    string       `json:"group"`
	Zone     string       `json:"zone,omitempty"`
	Asked    time.Time    `json:"asked"` // by the machine's clock
	Reason   string       `json:"reason"`
	From     string       `json:"from,omitempty"` // release that runs
	To       string       `json:"to,omitempty"`   // release that is to run; From for another reboot
	Etcd     []EtcdMember `json:"etcd,omitempty"`
	Via      string       `json:"via,omitempty"` // "fleetlock", "operator"; "" for drydockd itself
	Extra    Extra        `json:"-"`
}

// A Permit is the right to reboot (RECORDS.md, section 5). It hangs on no lease.
type Permit struct {
	Version    int          `json:"version"`
	Machine    string       `json:"machine"`
	Instance   string       `json:"instance,omitempty"`
	Boot       string       `json:"boot,omitempty"` // at the grant
	Group      string       `json:"group"`
	Zone       string       `json:"zone,omitempty"`
	Reason     string       `json:"reason"`
	From       string       `json:"from,omitempty"`
	To         string       `json:"to,omitempty"`
	Etcd       []EtcdMember `json:"etcd,omitempty"`
	Via        string       `json:"via,omitempty"`
	Asked      time.Time    `json:"asked"`
	Granted    time.Time    `json:"granted"`
	GrantedBy  string       `json:"granted_by"` // machine-id of the coordinator
	Deadline   time.Time    `json:"deadline"`   // overdue after it
	Phase      string       `json:"phase"`
	PhaseSince time.Time    `json:"phase_since"`
	Ending     Ending       `json:"ending,omitempty"` // in PhaseEnded
	Detail     string       `json:"detail,omitempty"` // of the ending, for people
	Extra      Extra        `json:"-"`
}

// A Member is a machine that the cluster knows, present or not, until an
// operator removes it (RECORDS.md, section 3).
type Member struct {
	Version  int               `json:"version"`
	Machine  string            `json:"machine"`
	Instance string            `json:"instance,omitempty"`
	Group    string            `json:"group"`
	Hostname string            `json:"hostname,omitempty"`
	Zone     string            `json:"zone,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Platform map[string]string `json:"platform,omitempty"` // instance facts: "instance_id", "instance_type", …
	Etcd     []EtcdMember      `json:"etcd,omitempty"`
	Via      string            `json:"via,omitempty"` // "fleetlock": nobody knows whether it is there
	Joined   time.Time         `json:"joined"`
	Extra    Extra             `json:"-"`
}

// A Presence says that one boot of a machine is there, for as long as its lease.
type Presence struct {
	Version  int       `json:"version"`
	Machine  string    `json:"machine"`
	Instance string    `json:"instance"`
	Boot     string    `json:"boot"`
	Since    time.Time `json:"since"`
	Program  string    `json:"program,omitempty"` // "drydock-1.2"
	Extra    Extra     `json:"-"`
}

// A Status is what a machine last said of itself.
type Status struct {
	Version    int               `json:"version"`
	Machine    string            `json:"machine"`
	At         time.Time         `json:"at"`
	Group      string            `json:"group"`
	Zone       string            `json:"zone,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Hostname   string            `json:"hostname,omitempty"`
	Release    string            `json:"release"`
	Slot       string            `json:"slot"` // "A", "B" or ""
	OnTrial    bool              `json:"on_trial,omitempty"`
	Step       string            `json:"step"`
	Operation  string            `json:"operation,omitempty"`
	Progress   float64           `json:"progress,omitempty"` // 0 to 1
	NewVersion string            `json:"new_version,omitempty"`
	Permit     string            `json:"permit,omitempty"`
	Strategy   string            `json:"strategy,omitempty"`
	Waits      []Obstacle        `json:"waits,omitempty"` // why nothing more is done
	LastError  string            `json:"last_error,omitempty"`
	Rejected   []string          `json:"rejected,omitempty"` // releases
	Extra      Extra             `json:"-"`
}

// Failures are the reboots of a group that went wrong and were not forgiven.
type Failures struct {
	Version int       `json:"version"`
	Failed  []Failure `json:"failed"`
	Extra   Extra     `json:"-"`
}

// A Failure is one reboot that went wrong.
type Failure struct {
	Release string    `json:"release"` // that was to run; "" if none was named
	Machine string    `json:"machine"`
	How     string    `json:"how"` // "rolled-back", "overdue"
	At      time.Time `json:"at"`
}

// A Ledger is the coordinator's book of a group.
type Ledger struct {
	Version   int        `json:"version"`
	LastGrant time.Time  `json:"last_grant,omitzero"`
	LastEnd   time.Time  `json:"last_end,omitzero"`    // of a permit that was used
	Zone      string     `json:"zone,omitempty"`       // that has its turn, with Rules.OneZone
	ZoneUntil int64      `json:"zone_until,omitempty"` // its tickets up to this revision go first
	Queue     int        `json:"queue"`                // tickets, about
	Blocked   []Obstacle `json:"blocked,omitempty"`    // why nothing is granted
	At        time.Time  `json:"at"`
	Extra     Extra      `json:"-"`
}

// A Stamp is written by the coordinator with every pass, at least every
// stampInterval.
type Stamp struct {
	Version     int       `json:"version"`
	Coordinator string    `json:"coordinator"` // machine-id
	Pass        int64     `json:"pass"`
	At          time.Time `json:"at"`
	Trouble     string    `json:"trouble,omitempty"` // why the last coordinator resigned, or cannot go on
	Extra       Extra     `json:"-"`
}

// An Entry is one line of the journal.
type Entry struct {
	Version int       `json:"version"`
	At      time.Time `json:"at"`
	Group   string    `json:"group,omitempty"`
	Machine string    `json:"machine,omitempty"` // that it is about
	Who     string    `json:"who"`               // "coordinator 1f2e…", "operator ann@laptop"
	What    string    `json:"what"`              // "granted", "updated", "rolled-back", "aborted", "taken-away", "overdue", "stopped", "frozen", "thawed", "rules", "joined", "removed", …
	Why     string    `json:"why,omitempty"`
	Release string    `json:"release,omitempty"`
	Extra   Extra     `json:"-"`
}
