package config

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater/policy"
)

// example returns the lines of dist/drydock.toml and its path.
func example(t *testing.T) ([]string, string) {
	t.Helper()
	path := filepath.Join(real.Module(t), "dist", "drydock.toml")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(data), "\n"), path
}

var assignment = regexp.MustCompile(`^(#?)([a-z_]+) = (.*)$`)

// value returns what p holds at a key that is no list's.
func value(p policy.Policy, key string) reflect.Value {
	v := reflect.ValueOf(p)
	for part := range strings.SplitSeq(key, ".") {
		for i := range v.NumField() {
			if tag, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("mapstructure"), ","); tag == part {
				v = v.Field(i)
				break
			}
		}
	}
	return v
}

// The example names every key, and shows the default of each but of those that
// it marks as examples.
func TestExampleShowsEveryKeyAndDefault(t *testing.T) {
	lines, path := example(t)
	p, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	defaults := policy.Default()
	var shown []string
	table := ""
	for _, line := range lines {
		if strings.HasPrefix(line, "[") {
			table = strings.Trim(line, "[]")
			shown = append(shown, table)
			continue
		}
		m := assignment.FindStringSubmatch(line)
		if m == nil || m[1] == "#" {
			continue
		}
		key := join(table, m[2])
		if table == "" {
			key = m[2]
		}
		shown = append(shown, key)
		got, want := value(p, key), value(defaults, key)
		same := reflect.DeepEqual(got.Interface(), want.Interface()) || got.Kind() == reflect.Slice && got.Len()+want.Len() == 0
		if same == strings.HasSuffix(line, "# example") {
			t.Errorf("%s: it shows %v and the default is %v; only what differs is marked as an example", line, got, want)
		}
	}
	for _, key := range knownKeys[policy.Policy]().names {
		if !inList(defaults, key) && !slices.Contains(shown, key) {
			t.Errorf("%s is not in the example", key)
		}
	}
}

// inList reports whether a key is one of a list's elements, which has no default.
func inList(p policy.Policy, key string) bool {
	i := strings.LastIndex(key, ".")
	return i > 0 && value(p, key[:i]).Kind() == reflect.Slice
}

// company is what a value needs beside it, by its key or its table.
var company = map[string][]string{
	"server.password_file":       {`server.user = "me"`},
	"cluster.id":                 {`cluster.endpoints = ["https://[::1]:2379"]`},
	"cluster.endpoints":          {`cluster.id = "a"`},
	"cluster.cert_file":          {`cluster.key_file = "/k"`},
	"cluster.key_file":           {`cluster.cert_file = "/c"`},
	"cluster.user":               {`cluster.password_file = "/p"`},
	"cluster.password_file":      {`cluster.user = "me"`},
	"group":                      {`cluster.id = "a"`, `cluster.endpoints = ["https://[::1]:2379"]`, `group.max = "1"`},
	"fleetlock.listen":           {`cluster.id = "a"`, `cluster.endpoints = ["https://[::1]:2379"]`},
	"fleetlock.cert_file":        {`fleetlock.key_file = "/k"`},
	"fleetlock.key_file":         {`fleetlock.cert_file = "/c"`},
	"fleetlock.client_ca_file":   {`fleetlock.cert_file = "/c"`, `fleetlock.key_file = "/k"`},
	"fleetlock.client_cert_file": {`fleetlock.client_key_file = "/k"`},
	"fleetlock.client_key_file":  {`fleetlock.client_cert_file = "/c"`},
}

// set writes an assignment over the one in its table that has its key.
func set(t *testing.T, lines []string, assignment string) {
	t.Helper()
	key, value, _ := strings.Cut(assignment, " = ")
	table := ""
	for i, line := range lines {
		if strings.HasPrefix(line, "[") {
			table = strings.Trim(line, "[]")
		}
		if name, _, ok := strings.Cut(line, " = "); ok && join(table, name) == key {
			lines[i] = name + " = " + value
			return
		}
	}
	t.Fatalf("no key %s in the example", key)
}

// Each other value that the example offers loads too, in its key's place.
func TestExamplesOtherValuesLoad(t *testing.T) {
	lines, _ := example(t)
	table, last, tried := "", "", 0
	for _, line := range lines {
		if strings.HasPrefix(line, "[") {
			table = strings.Trim(line, "[]")
		}
		m := assignment.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		if m[1] == "" {
			last = m[2]
			continue
		}
		tried++
		if last != m[2] {
			t.Errorf("%s: does not follow its key", line)
			continue
		}
		changed, key := slices.Clone(lines), join(table, m[2])
		for _, other := range append(company[table], company[key]...) {
			set(t, changed, other)
		}
		set(t, changed, key+" = "+m[3])
		p, err := Load(write(t, strings.Join(changed, "\n")))
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		if got, want := value(p, key), value(policy.Default(), key); reflect.DeepEqual(got.Interface(), want.Interface()) {
			t.Errorf("%s: is the default", line)
		}
	}
	if tried < 50 {
		t.Errorf("%d other values found", tried)
	}
}
