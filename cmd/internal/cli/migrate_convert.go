package cli

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/drydock-os/drydock/cmd/internal/config"
	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/rebootlock/window"
	"github.com/drydock-os/drydock/updater/policy"
)

// convert makes a policy of what was read, and rules of a group where machines
// took turns.
func (m *migration) convert() (migratedFacts, error) {
	m.serverEntries()
	group := m.rebootEntries()
	m.leftovers()
	text, err := m.judged()
	if err != nil {
		return migratedFacts{}, err
	}
	facts := migratedFacts{Policy: text}
	if group != "" {
		if facts.Groups, err = m.groupRules(group); err != nil {
			return migratedFacts{}, err
		}
	}
	slices.SortStableFunc(m.settings, func(a, b migratedSetting) int { return strings.Compare(a.Name, b.Name) })
	facts.Settings, facts.Notes = m.settings, m.notes
	return facts, nil
}

// take returns a variable's value and has it told what it became.
func (m *migration) take(name, becomes, note string) string {
	v, ok := m.vars[name]
	if !ok {
		return ""
	}
	delete(m.vars, name)
	shown := v.value
	if strings.HasSuffix(name, "PASSWORD") && shown != "" {
		shown = "(hidden)"
	}
	m.settings = append(m.settings, migratedSetting{Name: name, Value: shown, From: v.from, Becomes: becomes, Note: note})
	return v.value
}

// serverEntries are where releases come from.
func (m *migration) serverEntries() {
	f := m.engine
	m.take("GROUP", "server.group", "")
	m.take("MACHINE_ALIAS", "server.machine_alias", "")
	m.take("PCR_POLICY_SERVER", "server.pcr_policy_server", "")
	m.take("FLATCAR_RELEASE_APPID", "server.app_id", "")
	m.take("FLATCAR_RELEASE_BOARD", "server.board", "")
	if f.Server == "" || f.Server == "disabled" {
		m.take("SERVER", "update.enabled", "")
		m.add("update.enabled", "false", "SERVER ends updates.")
	} else {
		m.take("SERVER", "server.url", "")
		m.text("server.url", f.Server)
	}
	if m.engineMasked {
		m.add("update.enabled", "false", "update-engine.service is masked: nothing was updated.")
	}
	m.text("server.group", f.Group)
	for _, e := range []struct{ key, value, usual string }{
		{"server.app_id", f.AppID, policy.DefaultAppID},
		{"server.board", f.Board, ""},
		{"server.machine_alias", f.MachineAlias, ""},
		{"server.oem", f.OEM, ""},
		{"server.oem_version", f.OEMVersion, ""},
		{"server.pcr_policy_server", f.PCRPolicyServer, ""},
	} {
		if e.value != e.usual {
			m.text(e.key, e.value)
		}
	}
	if m.take("DOWNLOAD_USER", "server.user", "") != "" {
		const file = "/etc/drydock/password"
		m.take("DOWNLOAD_PASSWORD", "server.password_file", "write the password into the first line of "+file+", for root alone to read")
		m.text("server.user", f.User)
		m.add("server.password_file", config.Quote(file), "Write the password of update.conf into its first line, for root alone to read.")
	}
	m.take("FLATCAR_RELEASE_VERSION", "", "has no counterpart: updates are offered for what runs; drydock retry takes a rejected release again")
	m.add("trust.keys", `["/usr/share/update_engine/update-payload-key.pub.pem"]`, "The key of Flatcar's own releases. For releases that you sign, name yours.")
}

// strategies are locksmith's, by ours.
var strategies = map[string]policy.Strategy{"": policy.Immediate, "reboot": policy.Immediate, "etcd-lock": policy.Coordinated, "off": policy.Off}

// rebootEntries are when and on whose word the machine reboots. It returns the
// name of its group where machines take turns.
func (m *migration) rebootEntries() (group string) {
	name := m.vars["REBOOT_STRATEGY"].value
	strategy, why := m.strategy(name)
	m.take("REBOOT_STRATEGY", "reboot.strategy", why)
	windows, bad := m.window()
	if bad != "" {
		m.notes = append(m.notes, bad)
	}
	if bad != "" && strategy != policy.Off {
		strategy, why = policy.Off, bad
	}
	m.add("reboot.strategy", config.Quote(string(strategy)), why)
	if windows != "" {
		m.add("reboot.windows", windows, "")
		m.add("reboot.timezone", `"Local"`, "locksmith goes by the machine's own zone.")
	}
	if strategy != policy.Off {
		m.add("reboot.respect_sessions", "true", "locksmith gives users five minutes to leave. This waits until they have left, or their sessions were idle for session_idle.")
	}
	if name != "etcd-lock" {
		return ""
	}
	return m.clusterEntries()
}

// strategy is ours for locksmith's, and why where that needs a word. Where
// locksmith would not reboot the machine, nothing does.
func (m *migration) strategy(name string) (policy.Strategy, string) {
	const choose = "so this machine does not reboot by itself, and so it stays. Choose \"coordinated\" with a [cluster], or \"immediate\""
	strategy, known := strategies[name]
	switch {
	case name == "best-effort":
		return policy.Off, "best-effort was etcd-lock where etcd ran on the machine, and reboot elsewhere; locksmith refuses it since 0.6.0, " + choose
	case !known:
		return policy.Off, fmt.Sprintf("locksmith knows no strategy %q, %s", name, choose)
	case m.locksmithMasked && strategy != policy.Off:
		const masked = "locksmithd.service is masked, " + choose
		if name == "" {
			m.notes = append(m.notes, masked)
		}
		return policy.Off, masked
	case name == "":
		return strategy, "locksmith reboots at once where REBOOT_STRATEGY is not set."
	}
	return strategy, ""
}

// window returns the reboot window as a list of TOML, "" for none, or why
// locksmith would not start with it, or never reboot.
func (m *migration) window() (list, bad string) {
	start, length := m.either("REBOOT_WINDOW_START"), m.either("REBOOT_WINDOW_LENGTH")
	switch {
	case start == "" && length == "":
		return "", ""
	case start == "" || length == "":
		return "", "the reboot window lacks its start or its length: locksmith does not start with it, so nothing reboots this machine, and so it stays. Give both, or none, and choose the strategy again"
	}
	w, err := window.Parse(start, length)
	if err != nil {
		w, err = window.Parse(lenient(start), length)
	}
	if err != nil {
		return "", fmt.Sprintf("the reboot window %q for %q is none here (%s): nothing reboots this machine until you give another and choose the strategy again", start, length, oneLine(err.Error()))
	}
	return config.WindowList([]window.Window{w}), ""
}

// lenient is a start as locksmith reads it, which takes "9:5" and "09:00x"
// (locksmith, pkg/timeutil/periodic.go: Sscanf of "%d:%d").
func lenient(start string) string {
	var hour, minute int
	fields := strings.Fields(start)
	last := len(fields) - 1
	if last < 0 || last > 1 {
		return start
	}
	if n, err := fmt.Sscanf(fields[last], "%d:%d", &hour, &minute); err != nil || n != 2 {
		return start
	}
	fields[last] = fmt.Sprintf("%02d:%02d", hour, minute)
	return strings.Join(fields, " ")
}

// either returns a variable that has an old name too, which counts where the new
// one is empty.
func (m *migration) either(old string) string {
	fallback := m.vars[old].value
	value := m.take("LOCKSMITHD_"+old, "reboot.windows", "")
	if value != "" {
		if fallback != "" {
			m.take(old, "", "LOCKSMITHD_"+old+" comes first")
		}
		return value
	}
	return m.take(old, "reboot.windows", "")
}

// clusterEntries are how the machine takes turns, and the name of its group.
func (m *migration) clusterEntries() (group string) {
	m.add("cluster.id", config.Quote(m.cluster), "locksmith had no name for it. The same on all machines that take turns on one etcd.")
	group = m.take("LOCKSMITHD_GROUP", "cluster.group", "")
	if group == "" {
		group = policy.Default().Cluster.Group
	}
	m.text("cluster.group", group)
	endpoints := m.endpoints()
	plain := !slices.ContainsFunc(endpoints, func(e string) bool { return strings.HasPrefix(e, "https:") })
	for _, file := range []string{"CAFILE", "CERTFILE", "KEYFILE"} {
		key := "cluster." + strings.TrimSuffix(strings.ToLower(file), "file") + "_file"
		name := "LOCKSMITHD_ETCD_" + file
		switch value := m.vars[name].value; {
		case value == "":
			m.take(name, "", "")
		case plain:
			m.take(name, "", "no endpoint is https, so it is not used")
		default:
			m.take(name, key, "")
			m.text(key, value)
		}
	}
	if user := m.take("LOCKSMITHD_ETCD_USERNAME", "cluster.user", ""); user != "" {
		const file = "/etc/drydock/etcd/password"
		m.take("LOCKSMITHD_ETCD_PASSWORD", "cluster.password_file", "write the password into the first line of "+file+", for root alone to read")
		m.text("cluster.user", user)
		m.add("cluster.password_file", config.Quote(file), "Write the password of LOCKSMITHD_ETCD_PASSWORD into its first line, for root alone to read.")
	}
	m.notes = append(m.notes,
		"locksmith's lock is in etcd's API of version 2, Drydock's in that of version 3, and neither sees the other: stop locksmithd on all machines of the group before the first of them takes turns by Drydock")
	return group
}

// endpoints takes etcd's URLs, and says which of them are on this machine.
func (m *migration) endpoints() []string {
	note := ""
	if m.lastEndpoint {
		note = "locksmith took only the last --endpoint of several: see whether the others belong here too"
	}
	var urls, local []string
	for part := range strings.SplitSeq(m.take("LOCKSMITHD_ENDPOINT", "cluster.endpoints", note), ",") {
		if part = strings.TrimSuffix(strings.TrimSpace(part), "/"); part != "" && !slices.Contains(urls, part) {
			urls = append(urls, part)
		}
	}
	why := ""
	if len(urls) == 0 {
		urls = []string{"http://127.0.0.1:2379"}
		why = "locksmith's default. (Its other one, port 4001, is that of etcd before 2.0.)"
	}
	m.list("cluster.endpoints", urls, why)
	for _, text := range urls {
		u, err := url.Parse(text)
		if err == nil && (u.Hostname() == "localhost" || strings.HasPrefix(u.Hostname(), "127.") || u.Hostname() == "::1") {
			local = append(local, text)
		}
	}
	if len(local) > 0 {
		m.list("cluster.local_etcd", local, "An etcd member on this machine reboots only while the others make a quorum. Leave this out if it is a proxy.")
	}
	return urls
}

// leftovers says of what is left that it has no counterpart.
func (m *migration) leftovers() {
	for _, name := range slices.Sorted(maps.Keys(m.vars)) {
		note := "has no counterpart"
		switch {
		case strings.HasPrefix(name, "LOCKSMITHCTL_"):
			note = "is for the command locksmithctl alone: drydock lock takes --endpoints, or DRYDOCK_ENDPOINTS"
		case name == "LOCKSMITHD_DEBUG":
			note = "has no counterpart: journalctl -u drydockd and drydock status say what happens"
		case strings.HasPrefix(name, "LOCKSMITHD_"):
			note = "counts for the strategy etcd-lock alone, or has no counterpart"
		case name == "DOWNLOAD_PASSWORD":
			note = "has no DOWNLOAD_USER to go with"
		}
		m.take(name, "", note)
	}
}

// groupRules are the group's rules as TOML. locksmith knows nothing but max.
func (m *migration) groupRules(name string) (string, error) {
	var b strings.Builder
	b.WriteString("# Made by drydock migrate locksmith, for drydock lock apply. It is one for the whole group.\n")
	limit := 1
	switch {
	case m.semaphore == nil:
		b.WriteString("# max is in locksmith's semaphore in etcd, which was not read (--semaphore): 1 is its default.\n")
		m.notes = append(m.notes, "the group's max is in etcd, and was not read: it is 1 here; give the semaphore's value with --semaphore")
	case m.semaphore.Max < 1:
		fmt.Fprintf(&b, "# locksmith had max %d, which let nothing reboot: drydock lock freeze does that, and says why.\n", m.semaphore.Max)
		m.notes = append(m.notes, fmt.Sprintf("locksmith's max is %d, which lets nothing reboot: it is 1 here; freeze the group with drydock lock freeze", m.semaphore.Max))
	default:
		limit = m.semaphore.Max
	}
	if m.semaphore != nil && len(m.semaphore.Holders) > 0 {
		m.notes = append(m.notes, fmt.Sprintf("machines that hold locksmith's lock now: %s: let them finish, or see to them, before Drydock grants permits", strings.Join(m.semaphore.Holders, ", ")))
	}
	err := config.WriteGroups(&b, []config.Group{{Name: name, Rules: rebootlock.Rules{Max: rebootlock.Max{Count: limit}}}})
	if err != nil {
		return "", fmt.Errorf("make the group's rules: %w", err)
	}
	return b.String(), nil
}

// judged renders the policy, without what a policy cannot say: that is then a
// comment and a note.
func (m *migration) judged() (string, error) {
	for range len(m.entries) + 1 {
		text := m.render()
		p, err := config.Parse("the policy made of it", []byte(text))
		if err == nil {
			return text, nil
		}
		dropped := false
		for _, err := range p.Validate() {
			var invalid *policy.Invalid
			if errors.As(err, &invalid) {
				dropped = m.drop(invalid) || dropped
			}
		}
		if !dropped {
			m.notes = append(m.notes, "drydockd --check-config will say: "+oneLine(err.Error()))
			return text, nil
		}
	}
	return m.render(), nil
}
