package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/drydock-os/drydock/cmd/internal/config"
	"github.com/drydock-os/drydock/updater/policy"
)

// An entry is one key of the policy that is made.
type entry struct {
	key   string   // server.url
	value string   // as TOML has it
	items []string // of a list of strings, in the place of value
	why   string   // a comment before it
	off   bool     // it is a comment itself
}

// add sets a key; of two values the later counts.
func (m *migration) add(key, value, why string) {
	m.put(entry{key: key, value: value, why: why})
}

func (m *migration) text(key, value string) { m.put(entry{key: key, value: config.Quote(value)}) }

func (m *migration) list(key string, items []string, why string) {
	m.put(entry{key: key, items: items, why: why})
}

func (m *migration) put(e entry) {
	if i := slices.IndexFunc(m.entries, func(o entry) bool { return o.key == e.key }); i >= 0 {
		m.entries[i] = e
		return
	}
	m.entries = append(m.entries, e)
}

// drop makes a comment of what the policy cannot say, an item or a key, and
// reports whether there was one. Without endpoints there is no cluster to name.
func (m *migration) drop(invalid *policy.Invalid) bool {
	key, rest, indexed := strings.Cut(invalid.Key, "[")
	if key == "cluster.endpoints" && !indexed {
		key = "cluster.id"
	}
	i := slices.IndexFunc(m.entries, func(e entry) bool { return e.key == key && !e.off })
	if i < 0 {
		return false
	}
	e := &m.entries[i]
	note := fmt.Sprintf("%s is left out: %s", key, invalid.Why)
	if n, err := strconv.Atoi(strings.TrimSuffix(rest, "]")); indexed && err == nil && n < len(e.items) && len(e.items) > 1 {
		note = fmt.Sprintf("%s in %s is left out: %s", e.items[n], key, invalid.Why)
		e.items = slices.Delete(slices.Clone(e.items), n, n+1)
	} else {
		e.off = true
	}
	e.why = strings.TrimSpace(e.why + " " + note)
	m.notes = append(m.notes, note)
	return true
}

// tables are the policy's, in the order of the example that is shipped.
var tables = []string{"server", "trust", "update", "reboot", "cluster"}

// render returns the policy's text.
func (m *migration) render() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Drydock's policy for this machine, made by drydock migrate locksmith from\n")
	for _, source := range m.sources {
		fmt.Fprintf(&b, "#   %s\n", clean(source))
	}
	b.WriteString("# What is not here has its default: the example drydock.toml shows every key.\n")
	for _, s := range m.settings {
		if s.Becomes == "" && s.Note != "" {
			comment(&b, fmt.Sprintf("%s=%s: %s.", s.Name, s.Value, s.Note))
		}
	}
	for _, table := range tables {
		begun := false
		for _, e := range m.entries {
			name, ok := strings.CutPrefix(e.key, table+".")
			if !ok {
				continue
			}
			if !begun {
				fmt.Fprintf(&b, "\n[%s]\n", table)
			}
			begun = true
			comment(&b, e.why)
			off := map[bool]string{true: "#"}[e.off]
			fmt.Fprintf(&b, "%s%s = %s\n", off, name, e.toml())
		}
	}
	return b.String()
}

func (e entry) toml() string {
	if e.items == nil {
		return e.value
	}
	quoted := make([]string, len(e.items))
	for i, item := range e.items {
		quoted[i] = config.Quote(item)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// commentWidth is where a comment's lines end.
const commentWidth = 98

// comment writes text as lines of a comment. What steers a terminal, or would
// end the line, is gone.
func comment(b *strings.Builder, text string) {
	line := "#"
	for _, word := range strings.Fields(clean(strings.ToValidUTF8(text, "?"))) {
		if len(line)+len(word) >= commentWidth && line != "#" {
			b.WriteString(line + "\n")
			line = "#"
		}
		line += " " + word
	}
	if line != "#" {
		b.WriteString(line + "\n")
	}
}
