package rebootlock

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock/window"
	"github.com/drydock-os/drydock/testdata/real"
)

// faults are those that were seen in locksmith, airlock, FleetLock's clients
// and servers, rebootmgr and the operators of Kubernetes, each with the tests
// that show that this lock, or this updater, does not have it.
var faults = []struct {
	issues []string // as GitHub names them; others by their document
	fault  string
	tests  []string // package directory and name
}{
	// Stuck locks, and wrong unlocks.
	{[]string{"flatcar/Flatcar#408"}, "the lock is kept outside the window by a machine that restarts its daemon",
		[]string{"updater.TestPermitFromBeforeIsGivenBack", "updater.TestDecideEveryWorld"}},
	{[]string{"coreos/bugs#1219"}, "strategy off never unlocks; one window alone",
		[]string{"updater/link.TestPermitOfTheGroupIsGivenBackAfterTheStrategyChanged", "rebootlock/window.TestNightBelongsToTheDayItBegins"}},
	{[]string{"coreos/locksmith#58"}, "a holder cannot lock again", []string{"rebootlock.TestLocksmith58HolderAsksAgain", "rebootlock.TestSemaphoreOfLocksmith"}},
	{[]string{"coreos/locksmith#34", "coreos/locksmith#64"}, "stale reads: unlocked, but is not", []string{"rebootlock.TestLocksmith34StaleReadsDisagree", "rebootlock.TestLinearizable"}},
	{[]string{"kubereboot/kured#137", "jackfrancis/kamino#74"}, "the lock is held by a node that no longer exists", []string{"rebootlock.TestGhostNode"}},
	{[]string{"kubereboot/kured#63", "mysticaltech/terraform-hcloud-kube-hetzner#1497", "bottlerocket-os/bottlerocket-update-operator#691"}, "a node stays cordoned after its reboot",
		[]string{"updater.TestKured63WorkComesBackAfterTheReboot", "updater.TestDecideEveryWorld"}},
	{[]string{"kubereboot/kured#1129", "kubereboot/kured#1409"}, "work comes back only a delay after a drain that failed",
		[]string{"updater.TestDrainThatDoesNotFinish", "updater.TestFreezeEndsADrainInItsMiddle"}},
	{[]string{"coreos/airlock#81"}, "limits in two places; nobody sees who holds",
		[]string{"rebootlock.TestAirlock81LimitsInTwoPlaces", "rebootlock.TestLimitsAreInOnePlace", "rebootlock.TestViewAsJSON"}},
	{[]string{"poseidon/fleetlock README"}, "a failed update keeps its lease until somebody deletes it",
		[]string{"rebootlock.TestPoseidonFailedUpdateGivesItsPermitBack", "updater.TestEveryEndingOfAPermit"}},

	// Released too early.
	{[]string{"coreos/bugs#1782", "coreos/bugs#861", "coreos/docs#825"}, "released before the services are up",
		[]string{"rebootlock.TestCoreosBugs1782BackIsNotReleased", "updater.TestCoreosBugs1782HeldUntilHealthy", "cmd/internal/daemon.TestFleetReboots"}},
	{[]string{"flatcar/Flatcar#1367"}, "the members of etcd go down one after another",
		[]string{"rebootlock.TestFlatcar1367EtcdMembersGoDownOneByOne", "rebootlock.TestOneVoterOfAnEtcdClusterAtATimeAcrossGroups", "updater.TestCoreosBugs1782HeldUntilHealthy"}},
	{[]string{"flatcar/flatcar-linux-update-operator#167", "kubereboot/kured#277", "kubereboot/kured#874", "coreos/container-linux-update-operator#155"}, "no least time between reboots",
		[]string{"rebootlock.TestKured277PauseBetweenReboots", "rebootlock.TestWindowAndPause", "rebootlock.TestPauseBeginsWhateverTheMachinesClockSays"}},

	// Several at once.
	{[]string{"coreos/container-linux-update-operator#45"}, "several at once after the operator restarts, or where a reboot takes over an hour",
		[]string{"rebootlock.TestCLUO45CoordinatorRestartsWhileAMachineIsDown", "rebootlock.TestLateGrantOfDeposedCoordinator"}},
	{[]string{"flatcar/flatcar-linux-update-operator#38", "coreos/container-linux-update-operator#17", "coreos/container-linux-update-operator#105"}, "one at a time and no more; no groups with limits of their own",
		[]string{"rebootlock.TestFLUO38GroupsHaveTheirOwnLimits", "rebootlock.TestManyGrantsStayUnderEtcdsLimit"}},
	{[]string{"kubereboot/kured#660"}, "no limit for each zone", []string{"rebootlock.TestZoneLimit", "rebootlock.TestOneZoneAtATimeStarvesNobody"}},
	{[]string{"kubereboot/kured#620"}, "a weekend is too short for a large pool", []string{"rebootlock.TestKured620LargePoolInOneWeekend", "rebootlock.TestPercentRoundsDownAndIsAtLeastOne"}},
	{[]string{"kubereboot/kured#102"}, "no limit across clusters of Kubernetes", []string{"rebootlock.TestKured102OneLimitAcrossSchedulers", "rebootlock/fleetlock.TestManyMachinesNeverTwoAtOnce"}},

	// Windows and inhibitors.
	{[]string{"coreos/bugs#1886"}, "the window is looked at once, before the lock is waited for", []string{"updater.TestCoreosBugs1886WindowShutsWhileItWaitsForTheLock"}},
	{[]string{"flatcar/flatcar-linux-update-operator#201"}, "reboots outside the window", []string{"updater.TestFLUO201WindowShutsDuringTheDrain", "updater.TestDecideEveryWorld"}},
	{[]string{"kubereboot/kured#204"}, "a window that wraps around midnight", []string{"rebootlock.TestKured204WindowPastMidnight", "rebootlock/window.TestNightBelongsToTheDayItBegins"}},
	{[]string{"coreos/airlock#13"}, "no windows for a group; in whose time zone",
		[]string{"rebootlock.TestAirlock13WindowsOfAGroupInItsTimeZone", "rebootlock/window.TestClockChanges"}},
	{[]string{"SUSE/rebootmgr#4"}, "the lock is taken, and then the window waited for: all others are blocked",
		[]string{"rebootlock.TestRebootmgr4NobodyHoldsWhileTheWindowIsShut", "updater.TestCoreosBugs1886WindowShutsWhileItWaitsForTheLock", "updater.TestWindowShutWritesAndWaits"}},
	{[]string{"coreos/bugs#1111"}, "the lock would be held until an inhibitor is gone", []string{"updater.TestInhibitorAfterTheDrain", "updater.TestPermitIsNotHeldDuringALogin"}},
	{[]string{"coreos/zincati#562", "systemd/systemd#949", "systemd/systemd#30307", "systemd/systemd#34086"}, "inhibitors that root's reboot runs over, or that refuse it at the last moment",
		[]string{"updater/bus.TestInhibitorsAreThoseThatBlockAShutdown", "updater/bus.TestRebootAsksLogind", "updater.TestRefusedRebootIsTakenBack", "updater.TestRespectInhibitorsFalseGoesOverThem"}},
}

// TestEveryFaultHasItsTests: each test that is named above exists.
func TestEveryFaultHasItsTests(t *testing.T) {
	declared := map[string]bool{}
	for _, f := range faults {
		for _, test := range f.tests {
			dir, name, _ := strings.Cut(test, ".")
			if _, seen := declared[dir]; !seen {
				declared[dir] = true
				for _, found := range testsIn(t, dir) {
					declared[dir+"."+found] = true
				}
			}
			if !declared[test] {
				t.Errorf("%v: there is no test %s in %s", f.issues, name, dir)
			}
		}
		if len(f.tests) == 0 {
			t.Errorf("%v: no test shows it", f.issues)
		}
	}
}

var testName = regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)

func testsIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(real.Module(t), dir, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s has no tests: %v", dir, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range testName.FindAllStringSubmatch(string(data), -1) {
			names = append(names, m[1])
		}
	}
	return names
}

// TestEveryFaultThatWasSeenIsListed: what the reference material tells of stuck
// locks, early releases, concurrency and windows is in the list.
func TestEveryFaultThatWasSeenIsListed(t *testing.T) {
	data, err := os.ReadFile(real.Shared(t, "spec", "reboot-coordination.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(data), "\n### 6.1")
	text, _, cut := strings.Cut(text, "\n### 6.5")
	found := regexp.MustCompile(`https://github\.com/([\w.-]+/[\w.-]+)/(?:issues|pull)/(\d+)`).FindAllStringSubmatch(text, -1)
	if !cut || len(found) < 30 {
		t.Fatalf("%d issues in sections 6.1 to 6.4: that is not all of them", len(found))
	}
	var listed []string
	for _, f := range faults {
		listed = append(listed, f.issues...)
	}
	for _, m := range found {
		if issue := m[1] + "#" + m[2]; !slices.Contains(listed, issue) {
			t.Errorf("%s is not listed", issue)
		}
	}
}

// TestPoseidonFailedUpdateGivesItsPermitBack: a machine that rolled back, and
// is well, gives its permit back by itself. That release stops, and a fixed one
// goes on, where there the lease stayed until somebody deleted it.
func TestPoseidonFailedUpdateGivesItsPermitBack(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	a, b := y.ship(1), y.ship(2)
	a.hold()
	a.fence(PhaseRebooting)
	a.release(RolledBack)
	b.ask()
	y.want()
	if s := b.state(); !has(s.Stops, "stopped") {
		t.Errorf("the others are not told: %+v", s)
	}
	if _, err := b.Acquire(t.Context(), Request{Reason: "update", From: "1", To: "3"}); err != nil {
		t.Fatal(err)
	}
	y.want(b.self.Machine)
}

// TestCoreosBugs1782BackIsNotReleased: that a machine is there again says
// nothing of its services. Its permit ends when it says so, and with nothing else.
func TestCoreosBugs1782BackIsNotReleased(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	a, b := y.ship(1), y.ship(2)
	a.hold()
	b.ask()
	a.fence(PhaseRebooting)
	if err := a.leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.boot(a.self.Instance)
	for range 10 {
		if err := a.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		y.now = y.now.Add(5 * time.Minute)
		y.want(a.self.Machine)
	}
	a.is(Holding)
	a.release(Updated)
	y.want(b.self.Machine)
}

// TestKured277PauseBetweenReboots: the group's pause is from the end of one
// reboot, its health with it, to the next grant.
func TestKured277PauseBetweenReboots(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}, Pause: Duration(20 * time.Minute)})
	y.join("", "a", "b")
	y.ask("a", "b")
	y.want("a")
	y.phase("a", PhaseRebooting)
	y.now = y.now.Add(90 * time.Minute)
	y.end("a", Updated)
	y.want()
	y.now = y.now.Add(19 * time.Minute)
	y.want()
	y.now = y.now.Add(time.Minute + time.Second)
	y.want("b")
}

// TestCLUO45CoordinatorRestartsWhileAMachineIsDown: coordinators come and go
// while a machine takes five hours to reboot, and none of them forgets it.
func TestCLUO45CoordinatorRestartsWhileAMachineIsDown(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}, Deadline: Duration(10 * time.Hour)})
	y.join("", "a", "b", "c")
	y.ask("a", "b", "c")
	y.want("a")
	y.phase("a", PhaseRebooting)
	y.write(y.keys.Presence("a", "boot"), nil)
	for range 5 {
		y.now = y.now.Add(time.Hour)
		y.write(y.reign.lead.Key, nil) // its lease ended
		y.elect("another")
		y.want("a")
	}
	y.end("a", Updated)
	y.write(y.keys.Presence("a", "boot"), encode(Presence{Version: 1, Machine: "a", Boot: "boot"}, nil))
	y.want("b")
}

// TestFLUO38GroupsHaveTheirOwnLimits: two of one group, and one of another, at
// once.
func TestFLUO38GroupsHaveTheirOwnLimits(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 2}})
	y.write(y.keys.Rules("db"), encode(Rules{Version: 1, Max: Max{Count: 1}}, nil))
	var ships []*ship
	for n := range 6 {
		s := y.ship(n + 1)
		if n%2 == 1 {
			s.self.Group = "db"
		}
		s.ask()
		ships = append(ships, s)
	}
	y.held()
	for n, want := range []Standing{Holding, Holding, Holding, Queued, Queued, Queued} {
		ships[n].is(want)
	}
}

// TestKured620LargePoolInOneWeekend: 200 machines of which a tenth may be down,
// half an hour each, are through between Saturday and Monday.
func TestKured620LargePoolInOneWeekend(t *testing.T) {
	weekend := windowOf(t, "Sat 00:00", "48h")
	y := newYard(t, Rules{Max: Max{Percent: 10}, Windows: []window.Window{weekend}})
	y.now = time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC) // a Saturday
	var names []string
	for n := range 200 {
		names = append(names, "m"+string(rune('a'+n/26))+string(rune('a'+n%26)))
	}
	y.join("", names...)
	y.ask(names...)
	begun, done := y.now, 0
	for done < len(names) && y.now.Sub(begun) < 48*time.Hour {
		holders := y.held()
		if len(holders) > 20 {
			t.Fatalf("%d hold, 20 may", len(holders))
		}
		y.now = y.now.Add(30 * time.Minute)
		for _, m := range holders {
			y.end(m, Updated)
			done++
		}
	}
	if passed := y.now.Sub(begun); done < len(names) || passed > 6*time.Hour {
		t.Errorf("%d of %d in %s", done, len(names), passed)
	}
}

// TestKured102OneLimitAcrossSchedulers: the lock knows machines and no
// schedulers: hosts of two clusters of Kubernetes, one of Nomad, and one that
// speaks FleetLock share a limit where they share a group.
func TestKured102OneLimitAcrossSchedulers(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}})
	for n, of := range []string{"kubernetes=a", "kubernetes=b", "nomad=c"} {
		s := y.ship(n + 1)
		name, value, _ := strings.Cut(of, "=")
		s.self.Labels = map[string]string{name: value}
		s.ask()
	}
	p := Proxy{Store: y.store, Keys: y.keys, Now: func() time.Time { return y.now }, TTL: time.Hour}
	if a, err := p.Ask(t.Context(), testGroup, "zincati", 0); err != nil || a.Granted {
		t.Fatalf("%+v, %v", a, err)
	}
	for range 4 {
		holders := y.held()
		if len(holders) != 1 {
			t.Fatalf("%v hold, one may", holders)
		}
		y.end(holders[0], Updated)
	}
	y.want()
}

func windowOf(t *testing.T, start, length string) window.Window {
	t.Helper()
	w, err := window.Parse(start, length)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// opens asks for a permit at a time, and reports whether it is granted.
func opens(t *testing.T, r Rules, at time.Time) bool {
	t.Helper()
	y := newYard(t, r)
	y.now = at
	y.join("", "a")
	y.ask("a")
	return len(y.held()) == 1
}

// TestKured204WindowPastMidnight: the night from Friday to Saturday is one
// window, with Saturday named nowhere, and Friday's first hours are not in it.
func TestKured204WindowPastMidnight(t *testing.T) {
	r := Rules{Max: Max{Count: 1}, Windows: []window.Window{windowOf(t, "Fri 22:00", "4h")}}
	friday := time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC)
	for hours, want := range map[float64]bool{1: false, 21.9: false, 22: true, 23.9: true, 24: true, 25.9: true, 26.1: false, 46: false, 49: false} {
		if got := opens(t, r, friday.Add(time.Duration(hours*float64(time.Hour)))); got != want {
			t.Errorf("%.1f h after Friday's midnight: granted %t", hours, got)
		}
	}
}

// TestAirlock13WindowsOfAGroupInItsTimeZone: windows are the group's, and by the
// clock that its rules name, whatever the coordinator's zone; also where that
// clock is changed.
func TestAirlock13WindowsOfAGroupInItsTimeZone(t *testing.T) {
	r := Rules{Max: Max{Count: 1}, Windows: []window.Window{windowOf(t, "02:00", "1h")}, Timezone: "America/New_York"}
	for text, want := range map[string]bool{
		"2026-07-01T02:30:00Z": false, "2026-07-01T06:30:00Z": true, // summer: UTC-4
		"2026-12-01T06:30:00Z": false, "2026-12-01T07:30:00Z": true, // winter: UTC-5
		"2026-07-01T15:30:00+09:00": true, // the coordinator is in Tokyo
	} {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		if got := opens(t, r, at); got != want {
			t.Errorf("%s: granted %t", text, got)
		}
	}
}

// TestRebootmgr4NobodyHoldsWhileTheWindowIsShut: outside the windows there are
// tickets and no new permits, so nobody blocks the others until one opens.
func TestRebootmgr4NobodyHoldsWhileTheWindowIsShut(t *testing.T) {
	y := newYard(t, Rules{Max: Max{Count: 1}, Windows: []window.Window{windowOf(t, "20:00", "2h")}}) // it is noon
	a, b := y.ship(1), y.ship(2)
	a.ask()
	b.ask()
	y.want()
	a.release(Aborted) // it no longer wants to
	y.now = time.Date(2026, 11, 22, 20, 0, 0, 0, time.UTC)
	if err := b.Refresh(context.Background()); err != nil {
		t.Fatal(err)
	}
	b.ask() // by its lease of now
	y.want(b.self.Machine)
}
