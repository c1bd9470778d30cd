package policy

import (
	"strings"
	"time"

	"github.com/drydock-os/drydock/rebootlock/window"
)

// Cluster names the machines that this one takes turns with, and the etcd that
// they share. The zero Cluster is none: under Coordinated the machine then
// waits, and says why.
type Cluster struct {
	ID           string   `mapstructure:"id"`        // empty: in no cluster
	Group        string   `mapstructure:"group"`     // the machines that share a lock
	Endpoints    []string `mapstructure:"endpoints"` // etcd's client URLs
	CAFile       string   `mapstructure:"ca_file"`   // PEM certificates that vouch for etcd; empty: the system's
	CertFile     string   `mapstructure:"cert_file"` // PEM, this machine's own, with KeyFile
	KeyFile      string   `mapstructure:"key_file"`
	User         string   `mapstructure:"user"`          // of etcd's authentication, with PasswordFile
	PasswordFile string   `mapstructure:"password_file"` // file whose first line is the password of User
	Coordinate   bool     `mapstructure:"coordinate"`    // may grant permits to the cluster's machines
	Zone         string   `mapstructure:"zone"`          // failure domain; empty: as the platform says
	Labels       []string `mapstructure:"labels"`        // "role=web"; see LabelValues
	// LocalEtcd are client URLs of an etcd member that runs on this machine,
	// reached with the certificates and the user above.
	LocalEtcd []string `mapstructure:"local_etcd"`
	// AllowSingleEtcd lets the machine reboot although it is the only member of
	// that etcd, which is away meanwhile.
	AllowSingleEtcd bool `mapstructure:"allow_single_etcd"`
}

// LabelValues returns c.Labels as a map, and an empty value for a label without
// "=". It is nil where there are none.
func (c Cluster) LabelValues() map[string]string {
	var values map[string]string
	for _, label := range c.Labels {
		if values == nil {
			values = make(map[string]string, len(c.Labels))
		}
		name, value, _ := strings.Cut(label, "=")
		values[name] = value
	}
	return values
}

// Max is a number of permits in decimal, or a share of the group's members with
// "%" behind it.
type Max string

// Group is what a group's lock goes by where the store holds nothing of it yet:
// the first machine that comes with one writes it. See rebootlock.Rules. A Max
// of "" is no group: nothing is written then.
type Group struct {
	Max       Max             `mapstructure:"max"`
	ZoneMax   int             `mapstructure:"zone_max,omitempty"`   // permits in one zone; 0: no limit
	OneZone   bool            `mapstructure:"one_zone,omitempty"`   // all holders are in one zone
	Pause     time.Duration   `mapstructure:"pause,omitempty"`      // between the end of a reboot and the next grant
	Windows   []window.Window `mapstructure:"windows,omitempty"`    // when permits are granted; empty: always
	Timezone  string          `mapstructure:"timezone,omitempty"`   // of Windows: IANA name, not "Local"
	Deadline  time.Duration   `mapstructure:"deadline,omitempty"`   // for a holder, from the grant
	OnOverdue string          `mapstructure:"on_overdue,omitempty"` // "stop", "wait" or "take-away"
	StopAfter int             `mapstructure:"stop_after,omitempty"` // failures of one release that stop it; 0: never
}

// DefaultGroup returns what holds for a group where a file is silent. It lacks
// the one thing that nothing can be assumed of: Max.
func DefaultGroup() Group {
	return Group{Timezone: "UTC", Deadline: 2 * time.Hour, OnOverdue: "stop", StopAfter: 1}
}

// Provider names where facts about this machine are read.
type Provider string

// The providers.
const (
	NoPlatform Provider = ""          // nowhere
	Afterburn  Provider = "afterburn" // the environment file that afterburn writes for every cloud
	OpenStack  Provider = "openstack" // its metadata service, or config drive
	EC2        Provider = "ec2"       // its metadata service (IMDSv2)
)

// Platform says where zone and instance of this machine are known.
type Platform struct {
	Provider    Provider `mapstructure:"provider"`
	File        string   `mapstructure:"file"`         // afterburn's environment file
	ZoneKey     string   `mapstructure:"zone_key"`     // the variable in it that holds the zone; empty: none
	RegionKey   string   `mapstructure:"region_key"`   // the region
	InstanceKey string   `mapstructure:"instance_key"` // the instance's id
	TypeKey     string   `mapstructure:"type_key"`     // its type, or flavour
	Endpoint    string   `mapstructure:"endpoint"`     // URL of the metadata service; empty: the provider's own
	ConfigDrive string   `mapstructure:"config_drive"` // where openstack's is mounted; empty: /media/configdrive
}

// FleetLock says whether this machine speaks FleetLock: as a server for hosts
// that speak nothing else, or as a client of a server that is there.
type FleetLock struct {
	Listen       string        `mapstructure:"listen"`         // host:port to serve on; empty: none
	CertFile     string        `mapstructure:"cert_file"`      // the server's, PEM, with KeyFile; empty: plain http
	KeyFile      string        `mapstructure:"key_file"`       // PEM
	ClientCAFile string        `mapstructure:"client_ca_file"` // certificates that vouch for clients; empty: none is asked for one
	Hold         time.Duration `mapstructure:"hold"`           // how long a request may wait for its permit
	// URL is the base of a FleetLock server that this machine takes its permits
	// from, in the place of [cluster]; empty: it does not.
	URL            string `mapstructure:"url"`
	CAFile         string `mapstructure:"ca_file"`          // certificates that vouch for that server; empty: the system's
	ClientCertFile string `mapstructure:"client_cert_file"` // this machine's own, PEM, with ClientKeyFile
	ClientKeyFile  string `mapstructure:"client_key_file"`  // PEM
}
