package daemon_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
)

// A section is one situation of dist/runbook.md.
type section struct {
	anchor string
	text   string
	blocks []block // those that are tried, in order
}

// A block is a fenced block that is tried: a transcript, or lines of the policy
// file.
type block struct {
	line  int      // in the page, of its first line
	kind  string   // "console" or "toml"
	lines []string // toml
	said  []saying // console
}

// A saying is a command, where it is given, and what it says.
type saying struct {
	line    int
	where   string // a machine's name, or "" for any
	command string
	answer  []string
}

var (
	heading = regexp.MustCompile(`^## (.+)$`)
	prompt  = regexp.MustCompile(`^(?:\$|([a-z]+-[0-9]+)#) (.+)$`)
)

// slug is the anchor that GitHub and others give a heading.
func slug(title string) string {
	title = regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(title), "")
	return strings.ReplaceAll(title, " ", "-")
}

// readRunbook reads the page's situations.
func readRunbook(t *testing.T) (all []section) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(real.Module(t), "dist", "runbook.md"))
	if err != nil {
		t.Fatal(err)
	}
	fence := "" // what the block that is open is marked as
	var open block
	for i, line := range strings.Split(string(data), "\n") {
		mark, fenced := strings.CutPrefix(line, "```")
		if title := heading.FindStringSubmatch(line); title != nil && fence == "" {
			all = append(all, section{anchor: slug(title[1])})
		}
		if len(all) == 0 {
			continue
		}
		s := &all[len(all)-1]
		s.text += line + "\n"
		switch {
		case fenced && fence == "":
			fence, open = mark, block{line: i + 2, kind: mark}
		case fenced:
			if fence == "console" || fence == "toml" {
				s.blocks = append(s.blocks, open)
			}
			fence = ""
		case fence == "console":
			open.say(t, i+1, line)
		case fence == "toml":
			open.lines = append(open.lines, line)
		}
	}
	return all
}

// say adds a line of a transcript.
func (b *block) say(t *testing.T, n int, line string) {
	last := len(b.said) - 1
	switch m := prompt.FindStringSubmatch(line); {
	case m != nil:
		b.said = append(b.said, saying{line: n, where: m[1], command: m[2]})
	case last < 0:
		t.Fatalf("runbook.md:%d: %q is said before any command", n, line)
	case strings.HasSuffix(b.said[last].command, `\`):
		b.said[last].command += "\n" + line
	default:
		b.said[last].answer = append(b.said[last].answer, line)
	}
}

// changing are the parts of what a command says that are never twice the same:
// times, durations, sizes, addresses, the width of columns.
var changing = []struct {
	of   *regexp.Regexp
	word string
}{
	{regexp.MustCompile(`(?:[A-Z][a-z]{2} )?\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?(?:Z| [A-Z]{3,4})?)?`), "<time>"},
	{regexp.MustCompile(`less than a minute|\d+ days \d+ h|\d+ h \d\d min|\d+ min\b`), "<span>"},
	{regexp.MustCompile(`\b(?:\d+h)?(?:\d+m)?\d+(?:\.\d+)?(?:ms|µs|s)\b`), "<span>"},
	{regexp.MustCompile(`\b\d+(?:\.\d+)? (?:B|kB|MB|GB|KiB|MiB|GiB)\b`), "<size>"},
	{regexp.MustCompile(`\d+\.\d+\.\d+\.\d+:\d+`), "<address>"},
	{regexp.MustCompile(`[ \t]+`), " "},
}

func normal(line string) string {
	for _, c := range changing {
		line = c.of.ReplaceAllString(line, c.word)
	}
	return strings.TrimSpace(line)
}

// matches reports whether text is what a transcript says: "…" in a line stands
// for anything there, and a line of it for any number of lines.
func matches(answer []string, text string) bool {
	pattern := &strings.Builder{}
	for _, line := range answer {
		if strings.TrimSpace(line) == "…" {
			pattern.WriteString(`(?:.*\n)*?`)
			continue
		}
		pattern.WriteString(strings.ReplaceAll(regexp.QuoteMeta(normal(line)), "…", ".*") + `\n`)
	}
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, normal(line)+"\n")
	}
	return regexp.MustCompile(`^` + pattern.String() + `$`).MatchString(strings.Join(lines, ""))
}

func TestRunbookMatching(t *testing.T) {
	for _, c := range []struct {
		answer []string
		text   string
		want   bool
	}{
		{nil, "", true},
		{nil, "something\n", false},
		{[]string{"a  b", "…", "z"}, "a b\nc\nd\nz\n", true},
		{[]string{"a  b", "…", "z"}, "a b\nz\ny\n", false},
		{[]string{"since Tue 2026-03-10 11:00 UTC, 5 min ago … end"}, "since Wed 2027-01-01 23:59 CET, 3 h 00 min ago and so on to the end\n", true},
		{[]string{"a.b"}, "axb\n", false},
		{[]string{"at 10.0.0.1:2379"}, "at 127.0.0.1:40001\n", true},
	} {
		if got := matches(c.answer, c.text); got != c.want {
			t.Errorf("%q for %q: %v", c.answer, c.text, got)
		}
	}
}

// situations are the anchors that alerts, and people, link to.
var situations = []string{"machine-overdue", "group-stopped", "bad-release", "lost-key", "etcd-lost", "full-boot", "clock-wrong", "stuck-drain",
	"machine-replaced", "roll-back-the-fleet"}

// TestRunbookAndAlertsNameEachOther: every alert leads to a section, which names
// it, and every alert that a section names is one that leads there.
func TestRunbookAndAlertsNameEachOther(t *testing.T) {
	rules, err := os.ReadFile(filepath.Join(real.Module(t), "dist", "prometheus", "drydock.rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	leads := map[string][]string{} // anchor: alerts
	alert := regexp.MustCompile(`(?s)- alert: (\w+)\n.*?runbook_url: dist/runbook\.md#([a-z-]+)\n`)
	for _, m := range alert.FindAllStringSubmatch(string(rules), -1) {
		leads[m[2]] = append(leads[m[2]], m[1])
	}
	var anchors []string
	for _, s := range readRunbook(t) {
		anchors = append(anchors, s.anchor)
		var named []string
		for _, name := range regexp.MustCompile("`(Drydock[A-Z]\\w+)`").FindAllStringSubmatch(s.text, -1) {
			if !slices.Contains(named, name[1]) {
				named = append(named, name[1])
			}
		}
		want := leads[s.anchor]
		slices.Sort(named)
		slices.Sort(want)
		if !slices.Equal(named, want) {
			t.Errorf("#%s names the alerts %v; those that lead there are %v", s.anchor, named, want)
		}
		delete(leads, s.anchor)
		for _, part := range []string{"**You see**", "**It means**", "**Do**", "**It is over when**", "**Do not**"} {
			if !strings.Contains(s.text, part) {
				t.Errorf("#%s has no part %s", s.anchor, part)
			}
		}
	}
	if !slices.Equal(anchors, situations) {
		t.Errorf("sections %v, want %v", anchors, situations)
	}
	for anchor, alerts := range leads {
		t.Errorf("the alerts %v lead to #%s, which is not there", alerts, anchor)
	}
}

// at names a line of the page.
func (s saying) at() string { return fmt.Sprintf("dist/runbook.md:%d", s.line) }
