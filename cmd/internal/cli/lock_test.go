package cli

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater/policy"
)

// TestTableOfLocksmithIsTrue looks up everything that dist/locksmith.md says of
// ours: each command with its flags and arguments, each variable, each key of
// the policy file.
func TestTableOfLocksmithIsTrue(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(real.Module(t), "dist", "locksmith.md"))
	if err != nil {
		t.Fatal(err)
	}
	keys := policyKeys(reflect.TypeFor[policy.Policy](), "")
	known := map[string]bool{}
	for _, name := range variables {
		known[name] = true
	}
	commands, named, vars := 0, 0, 0
	for _, span := range regexp.MustCompile("`[^`]+`").FindAllString(string(text), -1) {
		span = strings.Trim(span, "`")
		switch {
		case strings.HasPrefix(span, "drydock "):
			commands++
			checkCommand(t, strings.Fields(span)[1:])
		case strings.HasPrefix(span, "DRYDOCK_"):
			if vars++; !known[span] {
				t.Errorf("the variable %s is not read", span)
			}
		case regexp.MustCompile(`^[a-z]+\.[a-z_]+$`).MatchString(span):
			if named++; !keys[span] {
				t.Errorf("the policy has no key %s", span)
			}
		}
	}
	if commands < 25 || named < 10 || vars != len(variables) {
		t.Errorf("only %d commands, %d keys and %d variables were found", commands, named, vars)
	}
}

// checkCommand parses a command line without running it.
func checkCommand(t *testing.T, words []string) {
	t.Helper()
	root := (&session{Program: Program{Now: clock}}).root()
	c, rest, err := root.Find(words)
	switch {
	case err != nil:
	case c == root:
		root.InitDefaultVersionFlag()
		err = root.ParseFlags(words)
	default:
		c.InitDefaultHelpFlag()
		if err = c.ParseFlags(rest); err == nil && c.RunE != nil {
			if c.Flags().Changed("help") {
				return
			}
			if err = c.ValidateArgs(c.Flags().Args()); err == nil {
				err = c.ValidateRequiredFlags()
			}
		}
	}
	if err != nil {
		t.Errorf("drydock %s: %v", strings.Join(words, " "), err)
	}
}

// policyKeys are the keys of the policy file, dotted.
func policyKeys(of reflect.Type, before string) map[string]bool {
	keys := map[string]bool{}
	for i := range of.NumField() {
		field := of.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("mapstructure"), ",")
		keys[before+name] = true
		if field.Type.Kind() == reflect.Struct && before == "" {
			for key := range policyKeys(field.Type, name+".") {
				keys[key] = true
			}
		}
	}
	return keys
}

// TestRunbookNamesCommandsThatAre parses each command that dist/runbook.md names
// in its text. Those of its transcripts are run, by the daemon's tests.
func TestRunbookNamesCommandsThatAre(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(real.Module(t), "dist", "runbook.md"))
	if err != nil {
		t.Fatal(err)
	}
	prose := regexp.MustCompile("(?s)```.*?```").ReplaceAllString(string(text), "")
	n := 0
	for _, span := range regexp.MustCompile("`drydock ([^`]+)`").FindAllStringSubmatch(prose, -1) {
		words := strings.Fields(strings.ReplaceAll(span[1], "--reason …", "--reason why"))
		switch strings.Join(words, " ") {
		case "retry": // the word alone, as a verb
			continue
		case "lock take-away", "lock set-max", "pause": // without what they need
			words = append(words, "--help")
		}
		n++
		checkCommand(t, words)
	}
	if n < 20 {
		t.Errorf("only %d commands were found", n)
	}
}
