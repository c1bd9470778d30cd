package metrics

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
)

// dist reads a file below dist.
func dist(t *testing.T, elem ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(append([]string{real.Module(t), "dist"}, elem...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// promtool runs Prometheus' own checker, with input on its standard input.
func promtool(t *testing.T, input string, args ...string) {
	t.Helper()
	cmd := exec.Command(real.Program(t, "promtool"), args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil || input != "" && len(out) > 0 {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// TestMetricsDocument: METRICS.md has a line for each metric that the registry
// gives, with its type, its labels and its help, and for no other.
func TestMetricsDocument(t *testing.T) {
	row := regexp.MustCompile("(?m)^\\| `(drydock_[a-z_]+)` \\| (\\w+) \\| (.*?) \\| (.*?) \\|$")
	documented := map[string]string{}
	for _, m := range row.FindAllStringSubmatch(dist(t, "prometheus", "METRICS.md"), -1) {
		documented[m[1]] = strings.Join(m[2:], " | ")
	}
	gathered, err := full().registered().Gather()
	if err != nil {
		t.Fatal(err)
	}
	exported := map[string]bool{}
	for _, f := range gathered {
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, "`"+l.GetName()+"`")
		}
		exported[f.GetName()] = true
		want := fmt.Sprintf("%s | %s | %s", strings.ToLower(f.GetType().String()), strings.Join(labels, ", "), f.GetHelp())
		if got := documented[f.GetName()]; got != want {
			t.Errorf("METRICS.md says of %s\n%s\nand it is\n%s", f.GetName(), got, want)
		}
	}
	for name := range documented {
		if !exported[name] {
			t.Errorf("METRICS.md has %s, which is not exported", name)
		}
	}
	for _, f := range families {
		if !exported[f.name] {
			t.Errorf("%s has no value in this test", f.name)
		}
	}
}

// closed are the labels whose values are from a closed set, by metric.
func closed(metric, label string) []string {
	switch {
	case label == "step":
		return stepNames
	case label == "operation":
		return operationNames
	case label == "reason":
		return Reasons
	case label == "cause":
		return Causes
	case label == "phase":
		return phaseNames
	case label == "for":
		return pendingNames
	case label == "result" && metric == "drydock_checks_total":
		return checkResults
	case label == "result":
		return resultNames
	case label == "state" && metric == "drydock_permit":
		return permitNames
	case label == "state":
		return []string{"offered", "written", "staged"}
	}
	return nil
}

// TestClosedSetsAreDocumented: METRICS.md lists every value of those labels.
func TestClosedSetsAreDocumented(t *testing.T) {
	doc := dist(t, "prometheus", "METRICS.md")
	for heading, words := range map[string][]string{
		"`step`": stepNames, "`operation`": operationNames, "`result` of a check": checkResults, "`result` of a release": resultNames,
		"`cause`": Causes, "`state` of a permit": permitNames, "`for`": pendingNames, "`phase`": phaseNames, "`reason`": Reasons,
	} {
		_, line, ok := strings.Cut(doc, "\n| "+heading+" | ")
		line, _, _ = strings.Cut(line, "\n")
		if !ok {
			t.Errorf("no line for %s", heading)
		}
		var listed []string
		for _, m := range regexp.MustCompile("`([a-z-]+)`").FindAllStringSubmatch(line, -1) {
			listed = append(listed, m[1])
		}
		if slices.Sort(listed); !slices.Equal(listed, slices.Sorted(slices.Values(words))) {
			t.Errorf("%s: METRICS.md lists %v, and they are %v", heading, listed, words)
		}
	}
}

// asks checks that a query asks for metrics that there are, by labels that they
// have, with values that these can have.
func asks(t *testing.T, where, query string) {
	t.Helper()
	for _, m := range regexp.MustCompile(`\b(drydock_[a-z_]+)(?:\{([^}]*)\})?`).FindAllStringSubmatch(query, -1) {
		name := m[1]
		if base := strings.TrimSuffix(name, "_bucket"); base != name {
			name = base
		}
		i := slices.IndexFunc(families, func(f family) bool { return f.name == name })
		if i < 0 {
			t.Errorf("%s asks for %s, which is not exported", where, m[1])
			continue
		}
		for _, l := range regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"`).FindAllStringSubmatch(m[2], -1) {
			label, value := l[1], l[2]
			if !slices.Contains(families[i].labels, label) && label != "job" && label != "instance" {
				t.Errorf("%s: %s has no label %s", where, name, label)
			}
			for word := range strings.SplitSeq(value, "|") {
				if set := closed(name, label); set != nil && !slices.Contains(set, word) {
					t.Errorf("%s: %s is never %q in %s", where, label, word, name)
				}
			}
		}
	}
}

// TestRules: each alert asks for what there is, says what to do and where to read
// on, and has a test that it fires in.
func TestRules(t *testing.T) {
	rules, tests := dist(t, "prometheus", "drydock.rules.yml"), dist(t, "prometheus", "drydock.test.yml")
	asks(t, "drydock.rules.yml", rules)
	asks(t, "drydock.test.yml", tests)
	alerts := strings.Split(rules, "- alert: ")[1:]
	if len(alerts) < 20 {
		t.Fatalf("%d alerts", len(alerts))
	}
	sections := map[string]bool{}
	for _, alert := range alerts {
		name, _, _ := strings.Cut(alert, "\n")
		for _, part := range []string{"expr: ", "severity: ", "summary: ", "description: "} {
			if !strings.Contains(alert, part) {
				t.Errorf("%s has no %s", name, part)
			}
		}
		if !strings.Contains(tests, `ALERTS{alertname="`+name+`",alertstate="firing"`) {
			t.Errorf("%s fires in no test", name)
		}
		m := regexp.MustCompile(`runbook_url: dist/runbook\.md#([a-z-]+)\n`).FindStringSubmatch(alert)
		if m == nil || !slices.Contains(runbook, m[1]) {
			t.Errorf("%s names no section of the runbook: %v", name, m)
			continue
		}
		sections[m[1]] = true
	}
	for _, section := range runbook {
		if !sections[section] {
			t.Errorf("no alert leads to runbook.md#%s", section)
		}
	}
	dir := filepath.Join(real.Module(t), "dist", "prometheus")
	promtool(t, "", "check", "rules", filepath.Join(dir, "drydock.rules.yml"))
	promtool(t, "", "test", "rules", filepath.Join(dir, "drydock.test.yml"))
}

// runbook are the sections of dist/runbook.md.
var runbook = []string{"machine-overdue", "group-stopped", "bad-release", "lost-key", "etcd-lost", "full-boot", "clock-wrong", "stuck-drain",
	"machine-replaced", "roll-back-the-fleet"}

// TestRunbookHasTheSections that alerts lead to.
func TestRunbookHasTheSections(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(real.Module(t), "dist", "runbook.md"))
	if os.IsNotExist(err) {
		t.Skip("there is no dist/runbook.md yet")
	}
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(data), -1) { // as GitHub makes anchors
		found = append(found, strings.ReplaceAll(regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	for _, section := range runbook {
		if !slices.Contains(found, section) {
			t.Errorf("runbook.md has no section %s", section)
		}
	}
}

// TestScrapeIsWhatPrometheusLikes: names, units and help, by its own checker.
func TestScrapeIsWhatPrometheusLikes(t *testing.T) {
	scraped, err := full().text()
	if err != nil {
		t.Fatal(err)
	}
	promtool(t, string(scraped), "check", "metrics")
}

// dashboard is what Grafana's import needs of a dashboard.
type dashboard struct {
	Inputs []struct {
		Name, Type, PluginID string
	} `json:"__inputs"`
	ID            *int   `json:"id"`
	UID           string `json:"uid"`
	Title         string `json:"title"`
	SchemaVersion int    `json:"schemaVersion"`
	Templating    struct {
		List []struct {
			Name       string
			Datasource source
			Query      struct{ Query string }
		}
	}
	Panels []panel
}

type source struct{ Type, UID string }

type panel struct {
	ID         int
	Type       string
	Title      string
	Datasource *source
	GridPos    struct{ H, W, X, Y int }
	Targets    []struct {
		RefID      string
		Datasource source
		Expr       string
	}
}

// TestDashboard: Grafana is not here to import it, so its structure is judged by
// what its import reads, and its queries by Prometheus' own parser.
func TestDashboard(t *testing.T) {
	data := dist(t, "grafana", "drydock.json")
	var d dashboard
	if err := json.Unmarshal([]byte(data), &d); err != nil {
		t.Fatal(err)
	}
	if d.ID != nil || d.UID == "" || d.Title == "" || d.SchemaVersion < 36 || len(d.Inputs) != 1 || d.Inputs[0].Type != "datasource" || d.Inputs[0].PluginID != "prometheus" {
		t.Errorf("dashboard %+v", d.Inputs)
	}
	prometheus := source{"prometheus", "${" + d.Inputs[0].Name + "}"}
	for _, v := range d.Templating.List {
		if v.Datasource != prometheus {
			t.Errorf("variable %s asks %v", v.Name, v.Datasource)
		}
		asks(t, "variable "+v.Name, v.Query.Query)
	}
	var rules strings.Builder
	rules.WriteString("groups:\n- name: dashboard\n  rules:\n")
	ids, taken := map[int]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if p.ID == 0 || ids[p.ID] || p.Title == "" {
			t.Errorf("panel %d %q: its id is 0 or another's, or it has no title", p.ID, p.Title)
		}
		ids[p.ID] = true
		occupy(t, p, taken)
		if p.Type == "row" {
			continue
		}
		if p.Datasource == nil || *p.Datasource != prometheus || len(p.Targets) == 0 {
			t.Errorf("panel %q asks %v", p.Title, p.Datasource)
		}
		refs := map[string]bool{}
		for _, target := range p.Targets {
			if target.Datasource != prometheus || target.RefID == "" || refs[target.RefID] {
				t.Errorf("panel %q: target %q asks %v", p.Title, target.RefID, target.Datasource)
			}
			refs[target.RefID] = true
			asks(t, fmt.Sprintf("panel %q", p.Title), target.Expr)
			for _, m := range regexp.MustCompile(`\$(\w+)`).FindAllStringSubmatch(target.Expr, -1) {
				if !strings.Contains(data, `"name": "`+m[1]+`"`) {
					t.Errorf("panel %q: no variable %s", p.Title, m[1])
				}
			}
			fmt.Fprintf(&rules, "  - record: dashboard:%d:%s\n    expr: %q\n", p.ID, strings.ToLower(target.RefID), target.Expr)
		}
	}
	if len(ids) < 20 || strings.Count(data, `"uid": "${`) != strings.Count(data, `"type": "prometheus",`) {
		t.Errorf("%d panels; data sources by their variable %d, in all %d", len(ids), strings.Count(data, `"uid": "${`), strings.Count(data, `"type": "prometheus",`))
	}
	path := filepath.Join(t.TempDir(), "dashboard.yml")
	if err := os.WriteFile(path, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "", "check", "rules", path)
}

// occupy fails the test where a panel lies over another, or leaves the grid.
func occupy(t *testing.T, p panel, taken map[[2]int]string) {
	t.Helper()
	g := p.GridPos
	if g.W < 1 || g.H < 1 || g.X+g.W > 24 {
		t.Errorf("panel %q is at %+v", p.Title, g)
	}
	for x := range g.W {
		for y := range g.H {
			at := [2]int{g.X + x, g.Y + y}
			if other := taken[at]; other != "" {
				t.Fatalf("panel %q lies over %q", p.Title, other)
			}
			taken[at] = p.Title
		}
	}
}
