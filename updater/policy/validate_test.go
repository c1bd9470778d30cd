package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock/window"
)

// useful is the least policy of a machine that updates.
func useful() Policy {
	p := Default()
	p.Server.URL = "https://updates.example.com/v1/update/"
	p.Trust.Keys = []string{"/etc/drydock/keys/release.pem"}
	return p
}

func cluster() Cluster {
	c := Default().Cluster
	c.ID, c.Endpoints = "prod", []string{"https://10.0.0.1:2379"}
	return c
}

func TestValidateAccepts(t *testing.T) {
	for name, change := range map[string]func(*Policy){
		"the least":            func(*Policy) {},
		"Flatcar's server":     func(p *Policy) { p.Server = Server{}; p.Flatcar.ReadConf = true },
		"no updates":           func(p *Policy) { p.Server = Server{}; p.Update.Enabled = false },
		"no key":               func(p *Policy) { p.Trust.Keys = nil },
		"an IPv6 server":       func(p *Policy) { p.Server.URL = "http://[::1]:8000/" },
		"a proxy with a user":  func(p *Policy) { p.Server.Proxy = "http://me:secret@proxy:3128" },
		"the machine's zone":   func(p *Policy) { p.Reboot.Timezone = "Local" },
		"no health directory":  func(p *Policy) { p.Health.Directory = "" },
		"an instance of units": func(p *Policy) { p.Health.Units = []string{"getty@tty1.service", "multi-user.target"} },
		"pinned":               func(p *Policy) { p.Update.Pin = "4459.*" },
		"no cluster":           func(p *Policy) { p.Reboot.Strategy = Coordinated },
		"a cluster":            func(p *Policy) { p.Cluster = cluster() },
		"a cluster with TLS": func(p *Policy) {
			p.Cluster = cluster()
			p.Cluster.CAFile, p.Cluster.CertFile, p.Cluster.KeyFile = "/ca", "/cert", "/key"
			p.Cluster.User, p.Cluster.PasswordFile = "me", "/password"
		},
		"a password on loopback": func(p *Policy) {
			p.Cluster = cluster()
			p.Cluster.Endpoints = []string{"http://127.0.0.1:2379", "http://[::1]:2379", "http://localhost:2379"}
			p.Cluster.User, p.Cluster.PasswordFile = "me", "/password"
		},
		"names in any script": func(p *Policy) { p.Cluster = cluster(); p.Cluster.ID, p.Cluster.Zone = "produktion/süd", "机架 7" },
		"labels":              func(p *Policy) { p.Cluster.Labels = []string{"role=web", "empty=", "a=b=c"} },
		"a group":             func(p *Policy) { p.Cluster = cluster(); p.Group.Max = "25%" },
		"afterburn":           func(p *Policy) { p.Platform.Provider, p.Platform.TypeKey = Afterburn, "COREOS_GCE_MACHINE_TYPE" },
		"a FleetLock server": func(p *Policy) {
			p.Cluster, p.FleetLock.Listen = cluster(), ":9999"
			p.FleetLock.CertFile, p.FleetLock.KeyFile, p.FleetLock.ClientCAFile = "/cert", "/key", "/ca"
		},
		"a FleetLock client": func(p *Policy) { p.FleetLock.URL = "http://fleetlock.example.com/base" },
	} {
		p := useful()
		change(&p)
		if errs := p.Validate(); len(errs) > 0 {
			t.Errorf("%s: %v", name, errs)
		}
	}
}

// Each impossible value is one error, and its message begins with the key.
func TestValidateNamesTheKey(t *testing.T) {
	for _, tt := range []struct {
		want   string // the message's beginning
		change func(*Policy)
	}{
		{"server.url: is missing", func(p *Policy) { p.Server.URL = "" }},
		{"server.url: \"updates.example.com\" is no URL", func(p *Policy) { p.Server.URL = "updates.example.com" }},
		{"server.url: \"disabled\" is no URL", func(p *Policy) { p.Server.URL = "disabled" }},
		{"server.url: \"ftp://a/\" is no URL", func(p *Policy) { p.Server.URL = "ftp://a/" }},
		{"server.url: \"http://:80/\" is no URL", func(p *Policy) { p.Server.URL = "http://:80/" }},
		{"server.url: holds a user", func(p *Policy) { p.Server.URL = "https://me:secret@a/" }},
		{"server.proxy: \"host:bad\" is no URL", func(p *Policy) { p.Server.Proxy = "http://me:secret@host:bad" }},
		{"server.pcr_policy_server: ", func(p *Policy) { p.Server.PCRPolicyServer = "x" }},
		{"server.ca_file: \"ca.pem\" is not an absolute path", func(p *Policy) { p.Server.CAFile = "ca.pem" }},
		{"server.password_file: has no server.user", func(p *Policy) { p.Server.PasswordFile = "/p" }},
		{"server.group: is empty", func(p *Policy) { p.Server.Group = "" }},
		{"server.app_id: is empty", func(p *Policy) { p.Server.AppID = "" }},
		{"trust.keys[1]: \"../key\" is not an absolute path", func(p *Policy) { p.Trust.Keys = append(p.Trust.Keys, "../key") }},
		{"update.check_interval: 10s is not from 1m0s to 168h0m0s", func(p *Policy) { p.Update.CheckInterval, p.Update.CheckJitter = 10*time.Second, 0 }},
		{"update.check_jitter: 2h0m0s is not from 0s to 1h30m0s", func(p *Policy) { p.Update.CheckJitter = 2 * time.Hour }},
		{"update.first_check: -1s", func(p *Policy) { p.Update.FirstCheck = -time.Second }},
		{"update.pin: \"*\"", func(p *Policy) { p.Update.Pin = "*" }},
		{"update.pin: \"latest\"", func(p *Policy) { p.Update.Pin = "latest" }},
		{"update.pin: \"1.2.3.*\" is no pin", func(p *Policy) { p.Update.Pin = "1.2.3.*" }},
		{"update.windows[0].length: 24h0m0s is too long", func(p *Policy) { p.Update.Windows = []window.Window{{Length: 24 * time.Hour}} }},
		{"update.timezone: \"Mars/Base\" is no time zone", func(p *Policy) { p.Update.Timezone = "Mars/Base" }},
		{"update.bandwidth: -1B is below 0B", func(p *Policy) { p.Update.Bandwidth = -1 }},
		{"update.extra_packages_dir: \"\" is not", func(p *Policy) { p.Update.ExtraPackagesDir = "" }},
		{"reboot.strategy: \"coordinate\" is none of \"coordinated\", \"immediate\", \"external\", \"off\"", func(p *Policy) { p.Reboot.Strategy = "coordinate" }},
		{"reboot.windows[1].length: 0s is not a length", func(p *Policy) { p.Reboot.Windows = []window.Window{{Length: time.Hour}, {}} }},
		{"reboot.windows[0].length: 168h0m0s is too long", func(p *Policy) {
			p.Reboot.Windows = []window.Window{{Start: window.Start{Days: 1}, Length: 7 * 24 * time.Hour}}
		}},
		{"reboot.timezone: is empty", func(p *Policy) { p.Reboot.Timezone = "" }},
		{"reboot.timezone: \"../../etc/passwd\" is no time zone", func(p *Policy) { p.Reboot.Timezone = "../../etc/passwd" }},
		{"reboot.session_idle: -1s", func(p *Policy) { p.Reboot.SessionIdle = -time.Second }},
		{"reboot.retry_pause: 0s", func(p *Policy) { p.Reboot.RetryPause = 0 }},
		{"reboot.required_file: \"run/reboot-required\"", func(p *Policy) { p.Reboot.RequiredFile = "run/reboot-required" }},
		{"shadow: watches upstream's update_engine", func(p *Policy) { p.Shadow, p.Slots.Control = true, GRUB }},
		{"trial.retries: -1 is not from 0 to 100", func(p *Policy) { p.Trial.Retries = -1 }},
		{"trial.retry_backoff: -1s", func(p *Policy) { p.Trial.RetryBackoff = -time.Second }},
		{"trial.firmware_tries: 0 is not from 1 to 15", func(p *Policy) { p.Trial.FirmwareTries = 0 }},
		{"trial.firmware_tries: 16 is not from 1 to 15", func(p *Policy) { p.Trial.FirmwareTries = 16 }},
		{"trial.keep_previous: -1s", func(p *Policy) { p.Trial.KeepPrevious = -time.Second }},
		{"trial.deadline: 5m45s leaves no time", func(p *Policy) { p.Trial.Deadline = 5*time.Minute + 45*time.Second }},
		{"health.units[0]: \"kubelet\" is no systemd unit", func(p *Policy) { p.Health.Units = []string{"kubelet"} }},
		{"health.units[0]: \".service\" is no systemd unit", func(p *Policy) { p.Health.Units = []string{".service"} }},
		{"health.directory: \"/etc/../x\"", func(p *Policy) { p.Health.Directory = "/etc/../x" }},
		{"health.timeout: 0s", func(p *Policy) { p.Health.Timeout = 0 }},
		{"health.check_timeout: 0s", func(p *Policy) { p.Health.CheckTimeout = 0 }},
		{"health.settle: -1s", func(p *Policy) { p.Health.Settle = -time.Second }},
		{"hook.postinstall: \"yes\" is none of", func(p *Policy) { p.Hook.Postinstall = "yes" }},
		{"hook.path: \"postinst\"", func(p *Policy) { p.Hook.Path = "postinst" }},
		{"hook.timeout: 0s", func(p *Policy) { p.Hook.Timeout = 0 }},
		{"drain.timeout: 192h0m0s", func(p *Policy) { p.Drain.Timeout = 8 * 24 * time.Hour }},
		{"drain.on_timeout: \"\" is none of", func(p *Policy) { p.Drain.OnTimeout = "" }},
		{"slots.control: \"uboot\" is none of", func(p *Policy) { p.Slots.Control = "uboot" }},
		{"slots.disk: \"sda\"", func(p *Policy) { p.Slots.Disk = "sda" }},
		{"slots.labels: [\"A\" \"A\"] are not two different", func(p *Policy) { p.Slots.Labels = []string{"A", "A"} }},
		{"slots.labels: [\"A\"] are not two different", func(p *Policy) { p.Slots.Labels = []string{"A"} }},
		{"slots.labels[1]: \"\" is no GPT partition name", func(p *Policy) { p.Slots.Labels = []string{"A", ""} }},
		{"slots.booted: \"a\" is none of", func(p *Policy) { p.Slots.Booted = "a" }},
		{"slots.boot_directory: \"/boot/\"", func(p *Policy) { p.Slots.BootDirectory = "/boot/" }},
		{"state: \"var\" is not an absolute path", func(p *Policy) { p.State = "var" }},
	} {
		p := useful()
		tt.change(&p)
		errs := p.Validate()
		if len(errs) != 1 || !strings.HasPrefix(errs[0].Error(), tt.want) {
			t.Errorf("got %v, want one that begins with %s", errs, tt.want)
			continue
		}
		var invalid *Invalid
		if key, _, _ := strings.Cut(tt.want, ":"); !errors.As(errs[0], &invalid) || invalid.Key != key {
			t.Errorf("the key is %q, want %q", invalid.Key, key)
		}
		if strings.Contains(errs[0].Error(), "secret") {
			t.Errorf("%v: shows a password", errs[0])
		}
	}
}

func TestValidateReportsAllAtOnce(t *testing.T) {
	if errs := (Policy{}).Validate(); len(errs) < 15 {
		t.Errorf("%d errors for the zero policy: %v", len(errs), errs)
	}
}

func TestDefaultLacksOnlyAServer(t *testing.T) {
	errs := Default().Validate()
	if len(errs) != 1 || !strings.HasPrefix(errs[0].Error(), "server.url: is missing") {
		t.Errorf("got %v, want server.url alone", errs)
	}
}

func TestUpdateTimezone(t *testing.T) {
	p := useful()
	p.Reboot.Timezone = "Europe/Berlin"
	if s, err := p.Downloads(); err != nil || s.Location.String() != "Europe/Berlin" {
		t.Errorf("Downloads = %v, %v, want the zone of reboots", s, err)
	}
	p.Update.Timezone = "Asia/Tokyo"
	if s, err := p.Downloads(); err != nil || s.Location.String() != "Asia/Tokyo" {
		t.Errorf("Downloads = %v, %v, want its own zone", s, err)
	}
	if s, err := p.Reboots(); err != nil || s.Location.String() != "Europe/Berlin" {
		t.Errorf("Reboots = %v, %v, want its own zone", s, err)
	}
	p.Reboot.Timezone = "Mars/Base"
	if _, err := p.Reboots(); err == nil {
		t.Error("Reboots in an unknown zone: want an error")
	}
}

func TestSecretIsNeverPrinted(t *testing.T) {
	p := useful()
	p.Server.Password = "hunter2"
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	all := fmt.Sprintf("%v %+v %#v %s %q %x ", p, p, p, p.Server.Password, p.Server.Password, p.Server.Password) + string(text)
	if strings.Contains(all, "hunter2") || strings.Contains(all, fmt.Sprintf("%x", "hunter2")) {
		t.Error("a password is printed")
	}
}
