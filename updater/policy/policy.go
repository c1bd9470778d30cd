// Package policy says when a machine may update and when it may reboot. Its
// Policy holds plain values, read elsewhere from the operator's file; nothing
// in it asks a clock, a disk or the network, but for the zone names that
// time.LoadLocation knows.
package policy

import (
	"time"

	"github.com/drydock-os/drydock/rebootlock/window"
)

// A Policy is what an operator decides for one machine, decoded from one TOML
// file. A field's key in the file is its mapstructure tag, behind the table's:
// reboot.strategy. The zero Policy is not useful; start from Default.
type Policy struct {
	Server    Server    `mapstructure:"server"`
	Flatcar   Flatcar   `mapstructure:"flatcar"`
	Trust     Trust     `mapstructure:"trust"`
	Update    Update    `mapstructure:"update"`
	Reboot    Reboot    `mapstructure:"reboot"`
	Trial     Trial     `mapstructure:"trial"`
	Health    Health    `mapstructure:"health"`
	Hook      Hook      `mapstructure:"hook"`
	Drain     Drain     `mapstructure:"drain"`
	Scheduler Scheduler `mapstructure:"scheduler"`
	Gates     Gates     `mapstructure:"gates"`
	Cluster   Cluster   `mapstructure:"cluster"`
	// Group seeds the record of Cluster.Group where it is absent.
	Group     Group     `mapstructure:"group"`
	Platform  Platform  `mapstructure:"platform"`
	FleetLock FleetLock `mapstructure:"fleetlock"`
	Metrics   Metrics   `mapstructure:"metrics"`
	Slots     Slots     `mapstructure:"slots"`
	// Shadow only watches upstream's update_engine keep this machine, and says
	// what drydockd would do in its place. Nothing else in the policy outdoes it.
	Shadow bool `mapstructure:"shadow"`
	// State is the absolute directory of what is remembered across reboots.
	State string `mapstructure:"state"`
}

// Server names the Omaha server and what this machine tells it of itself.
type Server struct {
	URL          string `mapstructure:"url"`           // absolute http or https URL of the update check
	Group        string `mapstructure:"group"`         // channel or group, sent as track
	AppID        string `mapstructure:"app_id"`        // product, usually a GUID in braces
	Board        string `mapstructure:"board"`         // hardware, as in "amd64-usr"; empty: sent as empty
	MachineAlias string `mapstructure:"machine_alias"` // name that the server shows beside the machine-id
	OEM          string `mapstructure:"oem"`           // vendor or cloud, as in "qemu"
	OEMVersion   string `mapstructure:"oem_version"`
	User         string `mapstructure:"user"`          // for HTTP authentication, sent over https alone
	PasswordFile string `mapstructure:"password_file"` // file whose first line is the password of User
	CAFile       string `mapstructure:"ca_file"`       // PEM certificates to trust in place of the system's
	Proxy        string `mapstructure:"proxy"`         // http, https or socks5 URL; empty: as the environment says
	// PCRPolicyServer is the URL that takes a release's PCR policy by POST;
	// empty: nobody does.
	PCRPolicyServer string `mapstructure:"pcr_policy_server"`

	// Password is the one that Flatcar's update.conf gives in plain text. The
	// policy file cannot hold one: it names PasswordFile, which comes first.
	Password Secret `mapstructure:"-"`
	// Version is the version that Flatcar's files say is running, which its
	// users override to be offered a release again. Only update checks send
	// it; empty: they send what runs. Accept never sees it.
	Version string `mapstructure:"-"`
}

// Flatcar says whether Flatcar's own configuration is read as well.
type Flatcar struct {
	// ReadConf fills what [server] leaves out from /etc/flatcar/update.conf and
	// /usr/share/flatcar, as the upstream update engine reads them.
	ReadConf bool `mapstructure:"read_conf"`
}

// Trust names the keys whose signature makes a release trusted.
type Trust struct {
	// Keys are the absolute paths of PEM public keys; a valid signature by any
	// of them is enough. Without a key every release is refused.
	Keys []string `mapstructure:"keys"`
}

// Update says when releases are looked for, and which are taken.
type Update struct {
	Enabled        bool            `mapstructure:"enabled"`         // false: never check, never write
	CheckInterval  time.Duration   `mapstructure:"check_interval"`  // between two checks
	CheckJitter    time.Duration   `mapstructure:"check_jitter"`    // width of the spread around CheckInterval and FirstCheck
	FirstCheck     time.Duration   `mapstructure:"first_check"`     // after the daemon's start
	Pin            string          `mapstructure:"pin"`             // "4459.2.1" or "4459.*"; empty: any. See Accept
	AllowDowngrade bool            `mapstructure:"allow_downgrade"` // take older releases as well
	Windows        []window.Window `mapstructure:"windows"`         // when downloads may run; empty: always
	Timezone       string          `mapstructure:"timezone"`        // of Windows; empty: as Reboot.Timezone
	Bandwidth      Size            `mapstructure:"bandwidth"`       // bytes a second of all downloads together; 0: no limit
	// Packages are patterns (path.Match) of a release's extra packages (OEM,
	// system extensions) that are fetched with it. Those that the server calls
	// required always are.
	Packages []string `mapstructure:"packages"`
	// ExtraPackagesDir is the absolute directory to which a release's extra
	// packages (OEM, system extensions) are fetched.
	ExtraPackagesDir string `mapstructure:"extra_packages_dir"`
}

// Strategy says who decides that a machine reboots into a new release.
type Strategy string

const (
	Coordinated Strategy = "coordinated" // the group's reboot lock
	Immediate   Strategy = "immediate"   // the machine itself, inside its windows
	External    Strategy = "external"    // another coordinator: hook and flags follow writing at once
	Off         Strategy = "off"         // an operator, by hand; a release is written and waits
)

// Reboot says when and on whose word the machine reboots.
type Reboot struct {
	Strategy          Strategy        `mapstructure:"strategy"`
	Windows           []window.Window `mapstructure:"windows"`            // empty: always
	Timezone          string          `mapstructure:"timezone"`           // IANA name, "UTC" or "Local"
	RespectInhibitors bool            `mapstructure:"respect_inhibitors"` // logind's "shutdown" inhibitors of mode block
	RespectSessions   bool            `mapstructure:"respect_sessions"`   // users who are logged in
	SessionIdle       time.Duration   `mapstructure:"session_idle"`       // a session idle for this long no longer counts; 0: it always counts
	RetryPause        time.Duration   `mapstructure:"retry_pause"`        // after a reboot that was refused or did not happen
	RequiredFile      string          `mapstructure:"required_file"`      // its existence asks for a reboot; empty: none does
}

// Trial says how often and how long a new release may try to come up.
type Trial struct {
	Retries       int           `mapstructure:"retries"`        // further trials after a return that nothing explains, before the release is rejected
	RetryBackoff  time.Duration `mapstructure:"retry_backoff"`  // before the first of them; doubles each time
	FirmwareTries int           `mapstructure:"firmware_tries"` // boots that the firmware grants one trial, 1 to 15
	KeepPrevious  time.Duration `mapstructure:"keep_previous"`  // after good, how long the old release's slot is not written
	Deadline      time.Duration `mapstructure:"deadline"`       // after the boot, when a trial that is not good is rejected
}

// Health says what must hold before a trial is good.
type Health struct {
	Units        []string      `mapstructure:"units"`         // systemd units that must be active
	Directory    string        `mapstructure:"directory"`     // each executable in it must exit 0; need not exist
	Scheduler    bool          `mapstructure:"scheduler"`     // the cluster's scheduler must find this machine well
	Timeout      time.Duration `mapstructure:"timeout"`       // for everything to become healthy
	CheckTimeout time.Duration `mapstructure:"check_timeout"` // for one executable
	Settle       time.Duration `mapstructure:"settle"`        // how long all of it must stay healthy
}

// Postinstall says whether a release's own hook runs before it is staged.
type Postinstall string

const (
	PostinstallAuto    Postinstall = "auto"    // where the image holds one
	PostinstallRequire Postinstall = "require" // an image without one is refused
	PostinstallOff     Postinstall = "off"     // never
)

// Hook says how a release's post-install hook runs.
type Hook struct {
	Postinstall Postinstall   `mapstructure:"postinstall"`
	Path        string        `mapstructure:"path"`    // absolute, inside the release's image
	Timeout     time.Duration `mapstructure:"timeout"` // then it is killed and has failed
}

// OnTimeout says what follows a drain that does not finish in time.
type OnTimeout string

const (
	Abort OnTimeout = "abort" // resume the workloads, release the permit, queue again
	Wait  OnTimeout = "wait"  // keep the permit and go on draining
	Force OnTimeout = "force" // reboot with what is still running
)

// Drain bounds how long the machine's workloads may take to leave.
type Drain struct {
	Timeout    time.Duration `mapstructure:"timeout"`
	OnTimeout  OnTimeout     `mapstructure:"on_timeout"`
	ForceGrace time.Duration `mapstructure:"force_grace"` // for what is ended by force
}

// Control names what chooses the slot at boot.
type Control string

const (
	GPTPrio     Control = "gptprio"      // GPT attributes, as Flatcar's GRUB reads them
	SystemdBoot Control = "systemd-boot" // boot counting in file names
	GRUB        Control = "grub"         // the GRUB environment block
)

// Metrics says where Prometheus finds this machine's numbers; nowhere unless one
// of the two is named.
type Metrics struct {
	Listen   string `mapstructure:"listen"`   // "host:port" of an HTTP server; empty: none
	Textfile string `mapstructure:"textfile"` // absolute path of a file for node_exporter's collector, "….prom"; empty: none
}

// Slots says where the two OS slots are and what chooses between them.
type Slots struct {
	Control       Control  `mapstructure:"control"`
	Disk          string   `mapstructure:"disk"`           // block device or disk image; empty: the one that the system runs from
	Labels        []string `mapstructure:"labels"`         // GPT names of slot A and slot B, in this order
	Booted        string   `mapstructure:"booted"`         // "auto", "A" or "B"
	BootDirectory string   `mapstructure:"boot_directory"` // where the boot partition is mounted
	Kernel        bool     `mapstructure:"kernel"`         // write a release's kernel or UKI below BootDirectory; false: refuse a release that brings one
}

// DefaultAppID is Flatcar's product (update_engine, omaha_request_params.cc).
const DefaultAppID = "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}"

// Default returns what holds where the policy file is silent. It lacks a
// server's URL and a key: without the one nothing is asked, without the other
// no release is taken.
func Default() Policy {
	return Policy{
		Server: Server{Group: "stable", AppID: DefaultAppID},
		Update: Update{
			Enabled:          true,
			CheckInterval:    45 * time.Minute,
			CheckJitter:      10 * time.Minute,
			FirstCheck:       7 * time.Minute,
			Packages:         []string{"*"},
			ExtraPackagesDir: "/var/lib/drydock/packages",
		},
		Reboot: Reboot{
			Strategy:          Coordinated,
			Timezone:          "UTC",
			RespectInhibitors: true,
			RespectSessions:   true,
			SessionIdle:       30 * time.Minute,
			RetryPause:        10 * time.Minute,
		},
		Trial: Trial{
			Retries:       2,
			RetryBackoff:  15 * time.Minute,
			FirmwareTries: 1,
			KeepPrevious:  24 * time.Hour,
			Deadline:      15 * time.Minute,
		},
		Health: Health{
			Scheduler:    true,
			Directory:    "/etc/drydock/health.d",
			Timeout:      5 * time.Minute,
			CheckTimeout: time.Minute,
			Settle:       45 * time.Second,
		},
		Hook:      Hook{Postinstall: PostinstallAuto, Path: "/postinst", Timeout: 10 * time.Minute},
		Drain:     Drain{Timeout: 30 * time.Minute, OnTimeout: Abort, ForceGrace: 2 * time.Minute},
		Scheduler: defaultScheduler(),
		Gates:     Gates{Every: 30 * time.Second, Timeout: 10 * time.Second},
		Cluster:   Cluster{Group: "default", Coordinate: true},
		Group:     DefaultGroup(),
		Platform:  Platform{File: "/run/metadata/flatcar"},
		FleetLock: FleetLock{Hold: 25 * time.Second},
		Slots: Slots{
			Control:       GPTPrio,
			Labels:        []string{"USR-A", "USR-B"},
			Booted:        "auto",
			BootDirectory: "/boot",
			Kernel:        true,
		},
		State: "/var/lib/drydock",
	}
}

// A Secret prints as a placeholder, so that no log or event shows it.
type Secret string

// String returns "(hidden)", or "" for no secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "(hidden)"
}

// GoString returns what String does.
func (s Secret) GoString() string { return s.String() }

// MarshalText returns what String does.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
