package policy

import (
	"cmp"
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/drydock-os/drydock/rebootlock/window"
)

// An Invalid is a value that a policy cannot have.
type Invalid struct {
	Key string // as in the file: "reboot.windows[1].length"
	Why string // what is wrong, and what would be right
}

// Error returns the key and why, with a colon between them.
func (i *Invalid) Error() string { return i.Key + ": " + i.Why }

// Validate returns an *Invalid for each value that is impossible, alone or
// beside another, in the order of the file. A zone is known if the machine, or
// time/tzdata in the program, knows it. No file that the policy names is opened.
func (p Policy) Validate() []error {
	var c checks
	p.Server.validate(&c, p.Update.Enabled && !p.Flatcar.ReadConf)
	for i, path := range p.Trust.Keys {
		c.absolute(fmt.Sprintf("trust.keys[%d]", i), path)
	}
	p.Update.validate(&c)
	p.Reboot.validate(&c)
	p.Trial.validate(&c)
	p.Health.validate(&c)
	if p.Trial.Deadline <= p.Health.Timeout+p.Health.Settle {
		c.add("trial.deadline", "%v leaves no time for health.timeout and health.settle (%v together)",
			p.Trial.Deadline, p.Health.Timeout+p.Health.Settle)
	}
	oneOf(&c, "hook.postinstall", p.Hook.Postinstall, PostinstallAuto, PostinstallRequire, PostinstallOff)
	c.absolute("hook.path", p.Hook.Path)
	c.between("hook.timeout", p.Hook.Timeout, time.Second, maxWait)
	c.between("drain.timeout", p.Drain.Timeout, time.Second, maxWait)
	oneOf(&c, "drain.on_timeout", p.Drain.OnTimeout, Abort, Wait, Force)
	c.between("drain.force_grace", p.Drain.ForceGrace, time.Second, maxWait)
	p.Scheduler.validate(&c)
	p.Gates.validate(&c)
	p.Cluster.validate(&c)
	if p.Group.given() {
		c.errs = append(c.errs, p.Group.Validate("group")...)
		if p.Cluster.ID == "" {
			c.add("group", "has no cluster to be in: name it in cluster.id and cluster.endpoints")
		}
	}
	p.Platform.validate(&c)
	p.FleetLock.validate(&c, p.Cluster)
	p.Metrics.validate(&c)
	p.Slots.validate(&c)
	if p.Shadow && p.Slots.Control != GPTPrio {
		c.add("shadow", "watches upstream's update_engine, which knows no slots.control but %q", string(GPTPrio))
	}
	c.absolute("state", p.State)
	return c.errs
}

// Bounds of what an operator may write. They catch a wrong unit, and keep sums
// and doublings far from overflow.
const (
	maxWait    = 7 * 24 * time.Hour   // for one thing to happen
	maxKeep    = 366 * 24 * time.Hour // of the old release
	maxRetries = 100                  // of one trial
	maxTries   = 15                   // four bits of a GPT attribute
	maxGPTName = 36                   // UTF-16 units of a GPT partition's name (UEFI 2.10, 5.3.3)
)

func (s Server) validate(c *checks, needed bool) {
	switch {
	case s.URL != "":
		c.url("server.url", s.URL, "http", "https")
	case needed:
		c.add("server.url", "is missing: name the update server, or set flatcar.read_conf = true or update.enabled = false")
	}
	c.url("server.proxy", s.Proxy, "http", "https", "socks5")
	c.url("server.pcr_policy_server", s.PCRPolicyServer, "http", "https")
	c.optional("server.password_file", s.PasswordFile)
	c.optional("server.ca_file", s.CAFile)
	if s.PasswordFile != "" && s.User == "" {
		c.add("server.password_file", "has no server.user to go with")
	}
	if needed && s.Group == "" {
		c.add("server.group", "is empty: name the group or channel, like \"stable\"")
	}
	if needed && s.AppID == "" {
		c.add("server.app_id", "is empty: name the product, like %q", DefaultAppID)
	}
}

func (u Update) validate(c *checks) {
	c.between("update.check_interval", u.CheckInterval, time.Minute, maxWait)
	c.between("update.check_jitter", u.CheckJitter, 0, 2*u.CheckInterval)
	c.between("update.first_check", u.FirstCheck, 0, maxWait)
	if _, err := parsePin(u.Pin); err != nil {
		c.add("update.pin", "%v", err)
	}
	c.windows("update.windows", u.Windows)
	if u.Timezone != "" {
		c.zone("update.timezone", u.Timezone)
	}
	if u.Bandwidth < 0 {
		c.add("update.bandwidth", "%v is below 0B, which means no limit", u.Bandwidth)
	}
	for i, pattern := range u.Packages {
		if _, err := path.Match(pattern, ""); err != nil || strings.Contains(pattern, "/") {
			c.add(fmt.Sprintf("update.packages[%d]", i), "%q is no pattern of file names, like \"oem-*.gz\"", pattern)
		}
	}
	c.absolute("update.extra_packages_dir", u.ExtraPackagesDir)
}

func (r Reboot) validate(c *checks) {
	oneOf(c, "reboot.strategy", r.Strategy, Coordinated, Immediate, External, Off)
	c.windows("reboot.windows", r.Windows)
	c.zone("reboot.timezone", r.Timezone)
	c.between("reboot.session_idle", r.SessionIdle, 0, maxWait)
	c.between("reboot.retry_pause", r.RetryPause, time.Second, maxWait)
	c.optional("reboot.required_file", r.RequiredFile)
}

func (t Trial) validate(c *checks) {
	c.count("trial.retries", t.Retries, 0, maxRetries)
	c.between("trial.retry_backoff", t.RetryBackoff, 0, maxWait)
	c.count("trial.firmware_tries", t.FirmwareTries, 1, maxTries)
	c.between("trial.keep_previous", t.KeepPrevious, 0, maxKeep)
	c.between("trial.deadline", t.Deadline, time.Second, maxWait)
}

// unitTypes are the suffixes of systemd.unit(5).
var unitTypes = []string{".service", ".socket", ".target", ".mount", ".automount", ".timer", ".path", ".device", ".swap", ".slice", ".scope"}

func (h Health) validate(c *checks) {
	for i, name := range h.Units {
		suffix := filepath.Ext(name)
		if !slices.Contains(unitTypes, suffix) || name == suffix || strings.ContainsAny(name, "/ \t\n") {
			c.add(fmt.Sprintf("health.units[%d]", i), "%q is no systemd unit: write its full name, like \"kubelet.service\"", name)
		}
	}
	c.optional("health.directory", h.Directory)
	c.between("health.timeout", h.Timeout, time.Second, maxWait)
	c.between("health.check_timeout", h.CheckTimeout, time.Second, maxWait)
	c.between("health.settle", h.Settle, 0, maxWait)
}

func (s Slots) validate(c *checks) {
	oneOf(c, "slots.control", s.Control, GPTPrio, SystemdBoot, GRUB)
	c.optional("slots.disk", s.Disk)
	if len(s.Labels) != 2 || s.Labels[0] == s.Labels[1] {
		c.add("slots.labels", "%q are not two different partition names, of slot A and of slot B", s.Labels)
	}
	for i, label := range s.Labels {
		if label == "" || len(label) > maxGPTName {
			c.add(fmt.Sprintf("slots.labels[%d]", i), "%q is no GPT partition name of 1 to %d characters", label, maxGPTName)
		}
	}
	oneOf(c, "slots.booted", s.Booted, "auto", "A", "B")
	c.absolute("slots.boot_directory", s.BootDirectory)
}

// checks collects what is wrong.
type checks struct{ errs []error }

func (c *checks) add(key, format string, args ...any) {
	c.errs = append(c.errs, &Invalid{Key: key, Why: fmt.Sprintf(format, args...)})
}

func (c *checks) between(key string, d, low, high time.Duration) { bounded(c, key, d, low, high) }

func (c *checks) count(key string, n, low, high int) { bounded(c, key, n, low, high) }

func bounded[T cmp.Ordered](c *checks, key string, value, low, high T) {
	if value < low || value > high {
		c.add(key, "%v is not from %v to %v", value, low, high)
	}
}

func (c *checks) windows(key string, windows []window.Window) {
	for i, w := range windows {
		if err := w.Check(); err != nil {
			c.add(fmt.Sprintf("%s[%d].length", key, i), "%v", err)
		}
	}
}

// zone reports what names no time zone; a machine's own may be its own.
func (c *checks) zone(key, name string) {
	c.zoneLike(key, name, "\"Europe/Berlin\", \"UTC\", or \"Local\" for the machine's own")
}

// sharedZone is zone, for a group: its machines may have several of their own.
func (c *checks) sharedZone(key, name string) {
	const like = "\"Europe/Berlin\" or \"UTC\""
	if name == "Local" {
		c.add(key, "is \"Local\", which differs from machine to machine: name a zone, like %s", like)
		return
	}
	c.zoneLike(key, name, like)
}

func (c *checks) zoneLike(key, name, like string) {
	if name == "" {
		c.add(key, "is empty: name a zone, like %s", like)
		return
	}
	if _, err := time.LoadLocation(name); err != nil {
		c.add(key, "%q is no time zone: write a name of the IANA database, like %s", name, like)
	}
}

// absolute reports a path that a daemon cannot rely on: relative ones depend on
// where it was started.
func (c *checks) absolute(key, path string) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || strings.ContainsRune(path, 0) {
		c.add(key, "%q is not an absolute path without \".\", \"..\", \"//\" and a slash at its end", path)
	}
}

func (c *checks) optional(key, path string) {
	if path != "" {
		c.absolute(key, path)
	}
}

func (c *checks) url(key, text string, schemes ...string) {
	if text == "" {
		return
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || !slices.Contains(schemes, u.Scheme):
		shown := text[strings.LastIndexByte(text, '@')+1:] // not the password
		c.add(key, "%q is no URL with a host that begins with %s://", shown, strings.Join(schemes, ":// or "))
	case u.User != nil && key != "server.proxy":
		where := "write it in server.user and server.password_file"
		if !strings.HasPrefix(key, "server.") {
			where = "leave it out"
		}
		c.add(key, "holds a user: %s", where)
	}
}

// endpoint is a URL, or a socket of this machine: unix:///path.
func (c *checks) endpoint(key, text string) {
	socket, isSocket := strings.CutPrefix(text, "unix://")
	switch {
	case !isSocket:
		c.url(key, text, "http", "https")
	case !path.IsAbs(socket) || strings.ContainsAny(socket, "?#%"):
		c.add(key, "%q names no socket: write unix:///run/NAME.sock", text)
	}
}

func oneOf[T ~string](c *checks, key string, value T, known ...T) {
	if slices.Contains(known, value) {
		return
	}
	words := make([]string, len(known))
	for i, k := range known {
		words[i] = fmt.Sprintf("%q", string(k))
	}
	c.add(key, "%q is none of %s", string(value), strings.Join(words, ", "))
}
