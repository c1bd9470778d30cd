package hook

import (
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/drydock-os/drydock/fleetlink"
)

func TestLists(t *testing.T) {
	for _, tt := range []struct {
		text string
		want []fleetlink.Workload
		told int
	}{
		{"", nil, 0},
		{"a\nb: why: so\n", []fleetlink.Workload{{Name: "a"}, {Name: "b", Why: "why: so"}}, 0},
		{"a\nb\n\na\n\n", []fleetlink.Workload{{Name: "a"}}, 2},
		{"a\n\nb", []fleetlink.Workload{{Name: "b"}}, 1},
		{"a\n\n\n", nil, 2},
		{` {"name":"x: y","why":"é","more":[1]} `, []fleetlink.Workload{{Name: "x: y", Why: "é"}}, 0},
		{`{"name":"db","why":"w","forbids":true}`, []fleetlink.Workload{{Name: "db", Why: "w", Forbids: true}}, 0},
		{"\x1b[31mred\x00: \x07bell", []fleetlink.Workload{{Name: "[31mred", Why: "bell"}}, 0},
	} {
		told := 0
		l := lists{told: func([]fleetlink.Workload) { told++ }}
		for line := range strings.SplitSeq(strings.TrimSuffix(tt.text, "\n"), "\n") {
			if tt.text != "" {
				l.line(line)
			}
		}
		if got := l.end(); !slices.Equal(got, tt.want) || told != tt.told || l.err != nil {
			t.Errorf("%q: %+v, told %d, %v", tt.text, got, told, l.err)
		}
	}
}

// FuzzLists: whatever a hook writes, what is shown of it is short, on one line,
// and has a name.
func FuzzLists(f *testing.F) {
	for _, seed := range []string{"a: b\n\nc", `{"name":"a"}`, `{"name":""}`, "\xff: \xfe", strings.Repeat("é", 200)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l := lists{}
		for line := range strings.SplitSeq(text, "\n") {
			l.line(line)
		}
		for _, w := range l.end() {
			if w.Name == "" || len(w.Name) > maxName || len(w.Why) > maxWhy || strings.ContainsFunc(w.String(), func(r rune) bool { return !unicode.IsGraphic(r) }) {
				t.Errorf("%q of %q", w, text)
			}
		}
	})
}
