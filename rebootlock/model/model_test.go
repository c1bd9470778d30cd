// Package model checks the Promela model of the reboot lock, README.md beside
// it, with spin.
package model

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
)

// A check is one search of all that the model can do.
type check struct {
	name    string
	defines string
	long    bool // only with MODEL_LONG in the environment: minutes
}

var checks = []check{
	{name: "one fault, one act of the operator", defines: "FAULTS=1 ACTS=1"},
	{name: "two faults", defines: "FAULTS=2 ACTS=0"},
	{name: "three machines, two permits, one act", defines: "N=3 MAX=2 FAULTS=0 ACTS=1"},
	{name: "the queue's order", defines: "ORDERED FAULTS=1 ACTS=0"},
	{name: "progress after a fault", defines: "PROGRESS ORDERED FAULTS=1 ACTS=0"},
	{name: "progress after an act", defines: "PROGRESS ORDERED FAULTS=0 ACTS=1"},
	{name: "progress of three machines with two permits", defines: "PROGRESS ORDERED N=3 MAX=2 FAULTS=0 ACTS=0"},
	{name: "two faults, one act", defines: "FAULTS=2 ACTS=1", long: true},
	{name: "one fault, two acts", defines: "FAULTS=1 ACTS=2", long: true},
	{name: "progress after a fault and an act", defines: "PROGRESS ORDERED FAULTS=1 ACTS=1", long: true},
	{name: "progress of three machines after an act", defines: "PROGRESS ORDERED N=3 MAX=2 FAULTS=0 ACTS=1", long: true},
}

// What pan says of a search that did not see everything, whatever it found.
var truncated = []string{"max search depth too small", "Search not completed", "out of memory", "Bit statespace", "aborting", "interrupted"}

func TestModel(t *testing.T) {
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			if c.long && os.Getenv("MODEL_LONG") == "" {
				t.Skip("MODEL_LONG is not set")
			}
			out := search(t, c.defines)
			complete := strings.Contains(out, "Full statespace search") &&
				!slices.ContainsFunc(truncated, func(s string) bool { return strings.Contains(out, s) })
			if !complete || !strings.Contains(out, "errors: 0") {
				t.Errorf("want a complete search without errors:\n%s", out)
			}
			t.Log(states(out))
		})
	}
}

// The claims, as pan names them where they are broken.
const (
	atMostMax  = "<=limit"
	noneLost   = "assertion violated (permit[j]=="
	queued     = "assertion violated (ticket[j]&&"
	afterFroze = "!(frozen)"
	counted    = "assertion violated (permit[m]==4)"
	sawNothing = "assertion violated clear[m]"
	holder     = "!=5))||taken[m])"
	permitted  = "assertion violated ((permit["
	safelyBack = "assertion violated  !((away["
	inTurn     = "assertion violated (( !((ticket[k]&&"
	granted    = "acceptance cycle"
)

// Each mutant leaves out one thing that the lock does, and breaks a claim.
var mutants = []struct {
	name    string
	defines string
	claim   string
}{
	{"WITHOUT_LEADERSHIP", "FAULTS=1 ACTS=0", atMostMax},
	{"BOOK_BEFORE_ELECTION", "FAULTS=1 ACTS=0", atMostMax},
	{"GO_ON_AFTER_UNKNOWN", "FAULTS=1 ACTS=0", atMostMax},
	{"GRANT_APART", "FAULTS=0 ACTS=0", atMostMax},
	{"OLD_EVENT", "FAULTS=0 ACTS=0", atMostMax},
	{"GRANT_WITHOUT_RULES", "FAULTS=0 ACTS=1", afterFroze},
	{"GRANT_WITHOUT_TICKET", "FAULTS=1 ACTS=0", queued},
	{"END_WITHOUT_PERMIT", "FAULTS=0 ACTS=0", noneLost},
	{"PERMIT_LEASED", "FAULTS=1 ACTS=0", holder},
	{"FENCE_WITHOUT_FREEZE", "FAULTS=1 ACTS=1", afterFroze},
	{"FENCE_WITHOUT_PERMIT", "FAULTS=1 ACTS=0", permitted},
	{"FENCE_WITHOUT_WRITE", "FAULTS=1 ACTS=0", holder},
	{"PHASE_IS_ENOUGH", "FAULTS=1 ACTS=1", sawNothing},
	{"TAKE_AWAY_WITHOUT_PERMIT", "FAULTS=0 ACTS=1", counted},
	{"BOOT_OF_THE_GRANT", "FAULTS=1 ACTS=1", counted},
	{"RELEASE_EARLY", "FAULTS=0 ACTS=0", safelyBack},
	{"WATCH_OF_EACH_KEY", "ORDERED FAULTS=0 ACTS=0", inTurn},
	{"LAST_COME_FIRST", "ORDERED FAULTS=0 ACTS=0", inTurn},
	{"NOBODY_CLEARS_UP", "PROGRESS ORDERED FAULTS=1 ACTS=0", granted},
	{"LEADERSHIP_WITHOUT_LEASE", "PROGRESS ORDERED FAULTS=1 ACTS=0", granted},
}

func TestMutantsBreakTheClaims(t *testing.T) {
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			out := search(t, m.defines+" MUTANT_"+m.name)
			if !strings.Contains(out, "errors: 1") || !strings.Contains(out, m.claim) {
				t.Errorf("want a broken claim %q:\n%s", m.claim, out)
			}
		})
	}
}

// TestMutantsAreInTheModel keeps a name that nothing in the model knows from
// passing as a mutant, and a mutant of the model from being forgotten.
func TestMutantsAreInTheModel(t *testing.T) {
	files, err := filepath.Glob("*.pml")
	if err != nil {
		t.Fatal(err)
	}
	inModel := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range strings.Fields(string(text)) {
			if name, ok := strings.CutPrefix(word, "MUTANT_"); ok {
				inModel[name] = true
			}
		}
	}
	for _, m := range mutants {
		if !inModel[m.name] {
			t.Errorf("the model has no mutant %s", m.name)
		}
		delete(inModel, m.name)
	}
	for name := range inModel {
		t.Errorf("mutant %s is in no test", name)
	}
}

// search makes a verifier of the model with some macros defined, and returns
// what it says.
func search(t *testing.T, defines string) string {
	t.Helper()
	spin, cc := real.Program(t, "spin"), real.Program(t, "gcc")
	source, err := filepath.Abs("lock.pml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	args := []string{"-a"}
	for _, d := range strings.Fields(defines) {
		args = append(args, "-D"+d)
	}
	run(t, dir, spin, append(args, source)...)
	compile := []string{"-O2", "-w", "-DMEMLIM=1000"} // MiB
	if strings.Contains(defines, "MUTANT") {
		compile[0] = "-O1" // found in less time than it takes to compile
	}
	pan := []string{"-m1000000", "-n"}
	if strings.Contains(defines, "PROGRESS") {
		compile, pan = append(compile, "-DNFAIR=3"), append(pan, "-a", "-f") // weakly fair
	} else {
		compile = append(compile, "-DSAFETY")
	}
	if os.Getenv("MODEL_LONG") != "" {
		compile = append(compile, "-DCOLLAPSE") // slower, in less memory
		compile[2] = "-DMEMLIM=4000"
	}
	run(t, dir, cc, append(compile, "-o", "pan", "pan.c")...)
	return run(t, dir, filepath.Join(dir, "pan"), pan...)
}

func run(t *testing.T, dir, program string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(program), strings.Join(args, " "), err, out)
	}
	return string(out)
}

// states is how much a search saw and took.
func states(out string) string {
	var lines []string
	for line := range strings.Lines(out) {
		if strings.Contains(line, "states, stored") || strings.Contains(line, "total actual memory") || strings.Contains(line, "elapsed time") {
			lines = append(lines, strings.Join(strings.Fields(line), " "))
		}
	}
	return strings.Join(lines, "; ")
}
