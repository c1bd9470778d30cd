package metrics

import "time"

// A Lock is what this machine knows of its cluster's reboot lock.
type Lock struct {
	Cluster, Group, Zone string
	Read                 time.Time // when it was last read, by this machine's clock; zero: not since the start
	Pass                 time.Time // the coordinator's last stamp, by its own clock; zero: none is known
	Trouble              bool      // the coordinator says that it cannot go on
	Off                  time.Duration
	Asked                time.Time // of this machine's ticket; zero: it does not wait
	Granted              time.Time // of its permit; zero: it has none
	Deadline             time.Time // of the permit
	Phase                string    // of the permit
	PhaseSince           time.Time
	Queue                int // of its group, as the coordinator last counted
	Frozen               bool
	Stopped              int     // releases that may not go on in its group
	Coordinates          bool    // this machine is the coordinator
	Groups               []Group // all of the cluster, by name, while it coordinates
}

// A Group is one group as its coordinator counts it; the fields are those of
// rebootlock.Tally.
type Group struct {
	Group   string
	Max     int
	Members int
	Absent  int
	Held    int
	Overdue int
	Waiting int
	Stopped int
	Frozen  bool
	Blocked []string
}

var phaseNames = []string{"granted", "draining", "staging", "rebooting", other}

// lockFamilies are this machine's part in the lock; absent without a cluster.
var lockFamilies = []family{
	{name: "drydock_cluster_info", kind: "gauge", help: "The machines that this one takes turns with; 1, absent without a cluster.", labels: []string{"cluster", "group", "zone"},
		values: ofLock(func(l Lock, show put) { show(1, l.Cluster, l.Group, l.Zone) })},
	{name: "drydock_lock_read_timestamp_seconds", kind: "gauge", help: "When the lock was last read from etcd; 0: not since the start.",
		values: ofLock(func(l Lock, show put) { show(unix(l.Read)) })},
	{name: "drydock_lock_clock_offset_seconds", kind: "gauge", help: "This clock minus the coordinator's, where that is more than can be explained, else 0.",
		values: ofLock(func(l Lock, show put) { show(l.Off.Seconds()) })},
	{name: "drydock_lock_asked_timestamp_seconds", kind: "gauge", help: "When the machine asked for the permit that it waits for; absent: it does not wait.",
		values: ofLock(func(l Lock, show put) { since(show, l.Asked) })},
	{name: "drydock_lock_granted_timestamp_seconds", kind: "gauge", help: "When the permit was granted that the machine holds, by the coordinator's clock; absent: it has none.",
		values: ofLock(func(l Lock, show put) { since(show, l.Granted) })},
	{name: "drydock_lock_deadline_timestamp_seconds", kind: "gauge", help: "When that permit is overdue; absent: there is none.",
		values: ofLock(func(l Lock, show put) { since(show, l.Deadline) })},
	{name: "drydock_lock_phase_timestamp_seconds", kind: "gauge", help: "Since when the permit is in its phase; absent: there is none.", labels: []string{"phase"},
		values: ofLock(func(l Lock, show put) { since(show, l.PhaseSince, among(phaseNames, l.Phase)) })},
	{name: "drydock_lock_coordinator_pass_timestamp_seconds", kind: "gauge", help: "When the cluster's coordinator last said that it is at work, by its clock, as this machine read it; 0: none is known.", labels: []string{"cluster"},
		values: ofLock(func(l Lock, show put) { show(unix(l.Pass), l.Cluster) })},
	{name: "drydock_lock_coordinator_trouble", kind: "gauge", help: "The coordinator says that it cannot go on: 1.", labels: []string{"cluster"},
		values: ofLock(func(l Lock, show put) { show(truth(l.Trouble), l.Cluster) })},
	{name: "drydock_lock_coordinates", kind: "gauge", help: "This machine is the cluster's coordinator: 1.", labels: []string{"cluster"},
		values: ofLock(func(l Lock, show put) { show(truth(l.Coordinates), l.Cluster) })},
}

// groupFamilies are the groups: three things that each machine knows of its own
// group, and the rest from the coordinator alone, for all of them.
var groupFamilies = []family{
	{name: "drydock_lock_group_frozen", kind: "gauge", help: "An operator froze the group, or the cluster: 1. From each machine of the group, and the coordinator.", labels: []string{"cluster", "group"},
		values: ofGroups(func(g Group) float64 { return truth(g.Frozen) })},
	{name: "drydock_lock_group_stopped_releases", kind: "gauge", help: "Releases that failed too often in the group and may not go on. From each machine of the group, and the coordinator.", labels: []string{"cluster", "group"},
		values: ofGroups(func(g Group) float64 { return float64(g.Stopped) })},
	{name: "drydock_lock_group_waiting", kind: "gauge", help: "Machines in the group's queue. From each machine of the group, and the coordinator.", labels: []string{"cluster", "group"},
		values: ofGroups(func(g Group) float64 { return float64(g.Waiting) })},
	{name: "drydock_lock_group_max", kind: "gauge", help: "Permits that the group has now; 0: it has no rules. From the coordinator.", labels: []string{"cluster", "group"},
		values: counted(func(g Group) int { return g.Max })},
	{name: "drydock_lock_group_members", kind: "gauge", help: "Machines that the cluster knows in the group. From the coordinator.", labels: []string{"cluster", "group"},
		values: counted(func(g Group) int { return g.Members })},
	{name: "drydock_lock_group_absent", kind: "gauge", help: "Members that are not there and hold no permit: each uses up a permit. From the coordinator.", labels: []string{"cluster", "group"},
		values: counted(func(g Group) int { return g.Absent })},
	{name: "drydock_lock_group_held", kind: "gauge", help: "Permits in use. From the coordinator.", labels: []string{"cluster", "group"},
		values: counted(func(g Group) int { return g.Held })},
	{name: "drydock_lock_group_overdue", kind: "gauge", help: "Permits in use past their deadline. From the coordinator.", labels: []string{"cluster", "group"},
		values: counted(func(g Group) int { return g.Overdue })},
	{name: "drydock_lock_group_blocked", kind: "gauge", help: "Why no (more) permits are granted: 1 for each reason that there is, absent for the others. From the coordinator.", labels: []string{"cluster", "group", "reason"},
		values: ofLock(blocked)},
}

// ofLock shows what is known of the lock, where there is one.
func ofLock(f func(Lock, put)) func(view, put) {
	return func(v view, show put) {
		if v.lock != nil {
			f(*v.lock, show)
		}
	}
}

// ofGroups shows a value of each group that is known.
func ofGroups(value func(Group) float64) func(view, put) {
	return ofLock(func(l Lock, show put) {
		groups := l.Groups
		if !l.Coordinates && !l.Read.IsZero() {
			groups = []Group{{Group: l.Group, Frozen: l.Frozen, Stopped: l.Stopped, Waiting: l.Queue}}
		}
		for _, g := range groups {
			show(value(g), l.Cluster, g.Group)
		}
	})
}

// counted shows a value of each group that this machine coordinates.
func counted(value func(Group) int) func(view, put) {
	return ofLock(func(l Lock, show put) {
		for _, g := range l.Groups {
			show(float64(value(g)), l.Cluster, g.Group)
		}
	})
}

func blocked(l Lock, show put) {
	for _, g := range l.Groups {
		for _, reason := range known(g.Blocked) {
			show(1, l.Cluster, g.Group, reason)
		}
	}
}
