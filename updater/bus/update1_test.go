package bus

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater"
	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/introspect"
)

// locksmithRule is what locksmith adds as its match rule
// (flatcar/locksmith, updateengine/client.go).
const locksmithRule = "type='signal',interface='com.coreos.update1.Manager',member='StatusUpdate'"

func TestUpdate1IntrospectionIsUpstreams(t *testing.T) {
	b := startBus(t)
	serve(t, b, &Server{Controller: newYard(updater.Status{})})
	var text string
	if err := b.connect().Object(Update1Name, Update1Path).Call(introspectInterface+".Introspect", 0).Store(&text); err != nil {
		t.Fatal(err)
	}
	recorded, err := os.ReadFile(filepath.Join(real.Module(t), "testdata", "bus", "update1-introspect.xml"))
	if err != nil {
		t.Fatal(err)
	}
	var got, want introspect.Node
	if err := errors.Join(xml.Unmarshal([]byte(text), &got), xml.Unmarshal(recorded, &want)); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestUpdate1ToldToLocksmith(t *testing.T) {
	b := startBus(t)
	y := newYard(updater.Status{})
	s := &Server{Controller: y}
	signals := listen(t, b.connect(), locksmithRule) // before the daemon starts
	serve(t, b, s)
	if got, want := statusUpdate(t, signals), (update1Status{0, 0, "UPDATE_STATUS_IDLE", "0.0.0", 0}); got != want {
		t.Errorf("at the start: %+v", got)
	}
	checked := time.Unix(1795294327, 0)
	at := checked
	observe := func(kind updater.EventType, f func(*updater.Status)) { s.Observe(y.change(at, kind, f)) }
	observe(updater.EventStep, func(s *updater.Status) { s.Operation = updater.CheckingForUpdate })
	observe(updater.EventOffered, func(s *updater.Status) {
		s.Operation, s.NewVersion, s.NewSize, s.LastChecked = updater.UpdateAvailable, "1.1.0", 808010, checked
	})
	observe(updater.EventWaiting, func(s *updater.Status) { s.Reasons = []updater.Reason{{Kind: "x"}} }) // nothing for upstream
	observe(updater.EventStep, func(s *updater.Status) { s.Operation, s.Progress = updater.Downloading, 0 })
	awaitIdle(t, b) // progress that follows closely may be told as one
	observe(updater.EventProgress, func(s *updater.Status) { s.Progress = 0.5 })
	awaitIdle(t, b)
	observe(updater.EventProgress, func(s *updater.Status) { s.Progress = 0.505 }) // too little, too soon
	awaitIdle(t, b)
	observe(updater.EventProgress, func(s *updater.Status) { s.Progress = 1 })
	observe(updater.EventWritten, func(s *updater.Status) { s.Operation, s.Written = updater.Finalizing, true })
	observe(updater.EventStaged, func(s *updater.Status) { s.Operation, s.Staged = updater.NeedReboot, true })
	for i, want := range []update1Status{
		{0, 0, "UPDATE_STATUS_CHECKING_FOR_UPDATE", "0.0.0", 0},
		{1795294327, 0, "UPDATE_STATUS_UPDATE_AVAILABLE", "1.1.0", 808010},
		{1795294327, 0, "UPDATE_STATUS_DOWNLOADING", "1.1.0", 808010},
		{1795294327, 0.5, "UPDATE_STATUS_DOWNLOADING", "1.1.0", 808010},
		{1795294327, 1, "UPDATE_STATUS_DOWNLOADING", "1.1.0", 808010},
		{1795294327, 0, "UPDATE_STATUS_FINALIZING", "1.1.0", 808010},
		{1795294327, 0, "UPDATE_STATUS_UPDATED_NEED_REBOOT", "1.1.0", 808010},
	} {
		if got := statusUpdate(t, signals); got != want {
			t.Errorf("signal %d: %+v, want %+v", i, got, want)
		}
	}
	// What locksmith asks when it starts.
	var got update1Status
	err := b.connect().Object(Update1Name, Update1Path).Call(Update1Interface+".GetStatus", 0).
		Store(&got.LastChecked, &got.Progress, &got.Operation, &got.NewVersion, &got.NewSize)
	if want := (update1Status{1795294327, 0, "UPDATE_STATUS_UPDATED_NEED_REBOOT", "1.1.0", 808010}); got != want || err != nil {
		t.Errorf("GetStatus = %+v, %v", got, err)
	}
}

// awaitIdle waits until the daemon has told what was observed before: signals
// of a connection keep their order, so one more of ours comes last.
func awaitIdle(t *testing.T, b *privateBus) {
	t.Helper()
	c := b.client()
	job, err := c.Start(t.Context(), updater.Request{Action: updater.ActCheck})
	if err == nil {
		_, err = job.Wait(t.Context(), nil)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// statusUpdate is the next StatusUpdate of signals.
func statusUpdate(t *testing.T, signals <-chan *dbus.Signal) (u update1Status) {
	t.Helper()
	for {
		signal := receive(t, signals)
		if signal.Name != Update1Interface+".StatusUpdate" {
			continue
		}
		if signal.Path != Update1Path {
			t.Errorf("from %s", signal.Path)
		}
		if err := dbus.Store(signal.Body, &u.LastChecked, &u.Progress, &u.Operation, &u.NewVersion, &u.NewSize); err != nil {
			t.Fatal(err)
		}
		return u
	}
}

// TestUpdate1SaysWhatUpstreamSaid replays the operations that a recorded run
// of upstream's daemon went through, and wants its signals.
func TestUpdate1SaysWhatUpstreamSaid(t *testing.T) {
	trace, err := os.ReadFile(real.Shared(t, "vectors", "traces", "full_ok", "signals.log"))
	if err != nil {
		t.Fatal(err)
	}
	recorded := regexp.MustCompile(`member=StatusUpdate\n +int64 (\d+)\n +double (\S+)\n +string "(\w+)"\n +string "([^"]*)"\n +int64 (\d+)`).FindAllStringSubmatch(string(trace), -1)
	if len(recorded) < 10 {
		t.Fatalf("%d signals in the trace", len(recorded))
	}
	b := startBus(t)
	y := newYard(updater.Status{})
	s := &Server{Controller: y}
	signals := listen(t, b.connect(), locksmithRule)
	serve(t, b, s)
	for i, r := range recorded {
		var want update1Status
		if _, err := fmt.Sscan(strings.Join(r[1:], " "), &want.LastChecked, &want.Progress, &want.Operation, &want.NewVersion, &want.NewSize); err != nil {
			t.Fatal(err)
		}
		if i > 0 { // the first is told at the start
			s.Observe(y.change(time.Unix(0, 0), updater.EventStep, func(s *updater.Status) {
				s.Progress = want.Progress
				s.Operation = updater.Operation(indexOf(update1Words[:], want.Operation))
				if want.LastChecked != 0 {
					s.LastChecked = time.Unix(want.LastChecked, 0)
				}
				if want.NewVersion != "0.0.0" {
					s.NewVersion, s.NewSize = want.NewVersion, want.NewSize
				}
			}))
		}
		if got := statusUpdate(t, signals); got != want {
			t.Errorf("signal %d: %+v, upstream %+v", i, got, want)
		}
	}
}

func indexOf(words []string, word string) int {
	for i, w := range words {
		if w == word {
			return i
		}
	}
	return -1
}

func TestStatusUpdateIsDue(t *testing.T) {
	status := func(operation updater.Operation, progress float64) update1Status {
		return update1Of(updater.Status{Operation: operation, Progress: progress, NewVersion: "1"})
	}
	for _, test := range []struct {
		name        string
		before, now update1Status
		ago         time.Duration
		want        bool
	}{
		{"the same", status(updater.Idle, 0), status(updater.Idle, 0), time.Hour, false},
		{"another operation", status(updater.Idle, 0), status(updater.Finalizing, 0), 0, true},
		{"a hundredth", status(updater.Downloading, 0.28), status(updater.Downloading, 0.29), 0, true},
		{"less than a hundredth", status(updater.Downloading, 0.28), status(updater.Downloading, 0.289), 9 * time.Second, false},
		{"little, after ten seconds", status(updater.Downloading, 0.28), status(updater.Downloading, 0.281), 10 * time.Second, true},
		{"nothing, after ten seconds", status(updater.Downloading, 0.28), status(updater.Downloading, 0.28), 10 * time.Second, false},
		{"the end", status(updater.Downloading, 0.999), status(updater.Downloading, 1), 0, true},
		{"another attempt", status(updater.Downloading, 0.9), status(updater.Downloading, 0.899), 0, true},
		{"progress of no download", status(updater.Finalizing, 0.1), status(updater.Finalizing, 0.9), time.Hour, false},
	} {
		if got := test.now.due(test.before, test.ago); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}

func TestResetStatus(t *testing.T) {
	b := startBus(t)
	y := newYard(updater.Status{})
	serve(t, b, &Server{Controller: y})
	object := b.connect().Object(Update1Name, Update1Path)
	reset := func(o updater.Operation) error {
		y.change(time.Time{}, updater.EventStep, func(s *updater.Status) { s.Operation = o })
		return object.Call(Update1Interface+".ResetStatus", 0).Err
	}
	for o := updater.Idle; o <= updater.ReportingError; o++ {
		err := reset(o)
		if fine := o == updater.Idle || o == updater.NeedReboot; fine != (err == nil) {
			t.Errorf("%s: %v", o, err)
		}
	}
	if got := receive(t, y.asked); got != (updater.Request{Action: updater.ActReset}) || len(y.asked) != 0 {
		t.Errorf("asked for %+v and %d more", got, len(y.asked))
	}
	y.do = func(context.Context, updater.Request) (updater.Outcome, error) { return "", updater.ErrRefused }
	if err := reset(updater.NeedReboot); errorName(err) != errorRefused {
		t.Errorf("a reset that fails: %v", err)
	}
}

func TestAttemptUpdateReturnsAtOnceAndOnlyWhenIdle(t *testing.T) {
	b := startBus(t)
	y := newYard(updater.Status{})
	y.do = func(ctx context.Context, _ updater.Request) (updater.Outcome, error) {
		<-ctx.Done()
		return "", ctx.Err()
	}
	serve(t, b, &Server{Controller: y})
	object := b.connect().Object(Update1Name, Update1Path)
	for o := updater.Idle; o <= updater.ReportingError; o++ {
		y.change(time.Time{}, updater.EventStep, func(s *updater.Status) { s.Operation = o })
		if err := object.Call(Update1Interface+".AttemptUpdate", 0).Err; err != nil {
			t.Errorf("%s: %v", o, err)
		}
	}
	if got := receive(t, y.asked); got != (updater.Request{Action: updater.ActUpdate, OnDemand: true}) || len(y.asked) != 0 {
		t.Errorf("asked for %+v and %d more", got, len(y.asked))
	}
}

func TestUpdate1IsTakenOverWhenUpdateEngineEnds(t *testing.T) {
	b := startBus(t)
	engine := b.own(Update1Name)
	var told []error
	s := &Server{Controller: newYard(updater.Status{}), Trouble: func(err error) { told = append(told, err) }}
	signals := listen(t, b.connect(), locksmithRule)
	serve(t, b, s) // our own name is served meanwhile
	if _, err := b.client().Status(t.Context()); err != nil {
		t.Error(err)
	}
	if len(told) != 1 || !strings.Contains(told[0].Error(), "update-engine.service") {
		t.Errorf("told %v", told)
	}
	engine.Close()
	if got := statusUpdate(t, signals); got.Operation != "UPDATE_STATUS_IDLE" {
		t.Errorf("after the takeover: %+v", got)
	}
}

// TestUpdate1Rights asks as root, as the user that the policy file names, and
// as anybody else. There is no user core on a test machine: the file is taken
// with another name in its place.
func TestUpdate1Rights(t *testing.T) {
	text, err := os.ReadFile(distFile(t, "dbus-1/system.d/com.coreos.update1.conf"))
	if err != nil {
		t.Fatal(err)
	}
	policy := filepath.Join(t.TempDir(), "update1.conf")
	text = []byte(strings.Replace(string(text), `user="core"`, `user="daemon"`, 1))
	if err := os.WriteFile(policy, text, 0o600); err != nil {
		t.Fatal(err)
	}
	b := startBus(t, distFile(t, "dbus-1/system.d/io.drydock.Drydock1.conf"), policy)
	serve(t, b, &Server{Controller: newYard(updater.Status{}), update1User: "daemon"})
	const daemon = 1
	for uid, may := range map[uint32]bool{0: true, daemon: true, nobody: false} {
		for _, method := range []string{"GetStatus", "AttemptUpdate", "ResetStatus"} {
			out, err := b.as(uid, "busctl", "call", Update1Name, Update1Path, Update1Interface, method)
			if (err == nil) != may {
				t.Errorf("uid %d, %s: %v %s", uid, method, err, out)
			}
		}
		out, err := b.as(uid, "busctl", "call", Update1Name, Update1Path, introspectInterface, "Introspect")
		if (err == nil) != (uid == 0) {
			t.Errorf("uid %d, Introspect: %v %s", uid, err, out)
		}
	}
}

// TestUpdate1RightsWithoutThePolicyFile: a bus that lets everybody in is no
// reason to reset a machine for them.
func TestUpdate1RightsWithoutThePolicyFile(t *testing.T) {
	policy := filepath.Join(t.TempDir(), "open.conf")
	open := `<busconfig><policy context="default"><allow own="com.coreos.update1"/><allow own="io.drydock.Drydock1"/>
	<allow send_destination="com.coreos.update1"/><allow send_destination="io.drydock.Drydock1"/></policy></busconfig>`
	if err := os.WriteFile(policy, []byte(open), 0o600); err != nil {
		t.Fatal(err)
	}
	b := startBus(t, policy)
	y := newYard(updater.Status{})
	serve(t, b, &Server{Controller: y})
	for _, method := range []string{"AttemptUpdate", "ResetStatus"} {
		out, err := b.as(nobody, "busctl", "call", Update1Name, Update1Path, Update1Interface, method)
		if err == nil || !strings.Contains(out, "Access denied") {
			t.Errorf("%s: %v %s", method, err, out)
		}
	}
	if len(y.asked) != 0 {
		t.Errorf("asked for %+v", <-y.asked)
	}
}
