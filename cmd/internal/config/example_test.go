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
			if v.Type().Field(i).Tag.Get("mapstructure") == part {
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
	for _, key := range knownKeys().names {
		if inList := strings.Count(key, ".") == 2; !inList && !slices.Contains(shown, key) {
			t.Errorf("%s is not in the example", key)
		}
	}
}

// Each other value that the example offers loads too, in its key's place.
func TestExamplesOtherValuesLoad(t *testing.T) {
	lines, _ := example(t)
	last, tried := -1, 0
	for i, line := range lines {
		m := assignment.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		if m[1] == "" {
			last = i
			continue
		}
		tried++
		if last < 0 || !strings.HasPrefix(lines[last], m[2]+" = ") {
			t.Errorf("%s: does not follow its key", line)
			continue
		}
		changed := slices.Clone(lines)
		changed[last] = line[1:]
		text := strings.Join(changed, "\n")
		if m[2] == "password_file" {
			text = strings.Replace(text, "user = \"\"", "user = \"me\"", 1)
		}
		if _, err := Load(write(t, text)); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	if tried < 8 {
		t.Errorf("%d other values found", tried)
	}
}
