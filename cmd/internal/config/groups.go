package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/viper"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/rebootlock/window"
	"github.com/drydock-os/drydock/updater/policy"
)

// A Group is a group of machines, and the rules of its lock.
type Group struct {
	Name  string
	Rules rebootlock.Rules
}

// groupsFile is a file of groups: [[group]] tables, each what a policy's [group]
// is, and a name.
type groupsFile struct {
	Group []groupTable `mapstructure:"group"`
}

type groupTable struct {
	Name         string `mapstructure:"name"`
	policy.Group `mapstructure:",squash"`
}

// ReadGroups reads the groups in the TOML file at path, in its order. Each has a
// name of its own and passes Rules.Check; what a table leaves out is zero in its
// Rules, and so is what says the lock's own default in words. Rules.Freeze and
// the version are not in files.
//
// The error lists every problem as Load's does; a file without a group has one.
func ReadGroups(path string) ([]Group, error) {
	data, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read groups: %w: drydock lock show prints what is in force in the same form", err)
	}
	if err != nil {
		return nil, fmt.Errorf("read groups: %w", err)
	}
	groups, found := parseGroups(data)
	if len(found) > 0 {
		return nil, found.in(path)
	}
	return groups, nil
}

func parseGroups(data []byte) ([]Group, problems) {
	var f groupsFile
	s, found := decode(data, knownKeys[groupsFile](), func(v *viper.Viper) any {
		tables, _ := v.Get("group").([]any) // of another type: the decoder says so
		for range tables {
			f.Group = append(f.Group, groupTable{Group: policy.DefaultGroup()})
		}
		return &f
	})
	if s == nil {
		return nil, found
	}
	if len(f.Group) == 0 && len(found) == 0 {
		return nil, problems{{why: "holds no group: a group is a table [[group]] with name and max"}}
	}
	groups := make([]Group, len(f.Group))
	seen := map[string]bool{}
	for i, t := range f.Group {
		key := fmt.Sprintf("group[%d]", i)
		errs := t.Group.Validate(key)
		if why := checkGroupName(t.Name, seen); why != "" {
			errs = append(errs, &policy.Invalid{Key: key + ".name", Why: why})
		}
		rules, err := GroupRules(t.Group)
		if err != nil && len(errs) == 0 {
			errs = append(errs, &policy.Invalid{Key: key, Why: err.Error()})
		}
		found = s.judge(found, errs)
		groups[i] = Group{Name: t.Name, Rules: rules}
	}
	return groups, found
}

func checkGroupName(name string, seen map[string]bool) string {
	if err := rebootlock.CheckName("a group", name); err != nil {
		return err.Error()
	}
	if seen[name] {
		return fmt.Sprintf("%q is given twice: a group has one set of rules", name)
	}
	seen[name] = true
	return ""
}

// GroupRules returns the rules that g stands for, and the error of Rules.Check.
// What is the lock's own default in g is left out of them, so that two files
// that mean the same give the same rules.
func GroupRules(g policy.Group) (rebootlock.Rules, error) {
	limit, err := rebootlock.ParseMax(string(g.Max))
	if err != nil {
		return rebootlock.Rules{}, fmt.Errorf("max: %w", err)
	}
	r := rebootlock.Rules{
		Max:     limit,
		ZoneMax: g.ZoneMax,
		OneZone: g.OneZone,
		Pause:   rebootlock.Duration(g.Pause),
		Windows: g.Windows,
	}
	d := policy.DefaultGroup()
	if len(r.Windows) == 0 {
		r.Windows = nil
	}
	if g.Timezone != d.Timezone {
		r.Timezone = g.Timezone
	}
	if g.Deadline != rebootlock.DefaultDeadline {
		r.Deadline = rebootlock.Duration(g.Deadline)
	}
	if on := rebootlock.OnOverdue(g.OnOverdue); on != rebootlock.StopOverdue {
		r.OnOverdue = on
	}
	if g.StopAfter != d.StopAfter {
		r.StopAfter = &g.StopAfter
	}
	return r, r.Check()
}

// WriteGroups writes groups as ReadGroups reads them, defaults left out. A
// freeze is in no file: it is a comment.
func WriteGroups(w io.Writer, groups []Group) error {
	var b strings.Builder
	for i, g := range groups {
		if i > 0 {
			b.WriteByte('\n')
		}
		if err := writeGroup(&b, g); err != nil {
			return fmt.Errorf("write group %q: %w", g.Name, err)
		}
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write groups: %w", err)
	}
	return nil
}

func writeGroup(b *strings.Builder, g Group) error {
	if err := errors.Join(rebootlock.CheckName("a group", g.Name), g.Rules.Check()); err != nil {
		return err
	}
	r := g.Rules
	b.WriteString("[[group]]\n")
	if r.Freeze != nil {
		b.WriteString("# frozen: drydock lock thaw ends it\n")
	}
	line := func(key, value string) { fmt.Fprintf(b, "%s = %s\n", key, value) }
	line("name", Quote(g.Name))
	if r.Max.Percent > 0 {
		line("max", Quote(r.Max.String()))
	} else {
		line("max", r.Max.String())
	}
	if r.ZoneMax > 0 {
		line("zone_max", strconv.Itoa(r.ZoneMax))
	}
	if r.OneZone {
		line("one_zone", "true")
	}
	if r.Pause > 0 {
		line("pause", Quote(time.Duration(r.Pause).String()))
	}
	if len(r.Windows) > 0 {
		line("windows", WindowList(r.Windows))
	}
	if r.Timezone != "" {
		line("timezone", Quote(r.Timezone))
	}
	if r.Deadline > 0 {
		line("deadline", Quote(time.Duration(r.Deadline).String()))
	}
	if r.OnOverdue != "" {
		line("on_overdue", Quote(string(r.OnOverdue)))
	}
	if r.StopAfter != nil {
		line("stop_after", strconv.Itoa(*r.StopAfter))
	}
	return nil
}

// WindowList returns windows as a list of TOML: [{ start = "02:00", length = "4h0m0s" }].
func WindowList(windows []window.Window) string {
	items := make([]string, len(windows))
	for i, w := range windows {
		items[i] = fmt.Sprintf("{ start = %s, length = %s }", Quote(w.Start.String()), Quote(w.Length.String()))
	}
	return "[" + strings.Join(items, ", ") + "]"
}

// Quote returns s as a basic string of TOML (v1.0.0, String), which is read
// back as s if s is UTF-8.
func Quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
