package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/updater"
	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/introspect"

	"encoding/xml"
)

// full is a status in which every field says something.
func full() updater.Status {
	at := time.Date(2026, 5, 13, 1, 2, 3, 0, time.UTC)
	return updater.Status{
		Step: updater.Write, StepName: "write", Operation: updater.Downloading,
		Reasons: []updater.Reason{{Kind: "window", Text: "reboots wait", Until: at}, {Kind: "paused", Text: "by hand"}},
		Booted:  "A", Release: "1.0.0", OnTrial: true, Strategy: "coordinated",
		Slots: [2]updater.SlotStatus{
			{Slot: "A", Release: "1.0.0", Priority: 2, Successful: true}, {Slot: "B", Priority: 1, Tries: 1},
		},
		NewVersion: "1.1.0", NewSize: 808010, Written: true, Staged: true, Progress: 0.25, Done: 202002, Total: 808010,
		Permit: "held", Drained: true,
		Drain:  &updater.Draining{Since: at, Deadline: at.Add(time.Hour), Total: 3, Left: []fleetlink.Workload{{Name: "shop/db", Why: "its budget allows none"}}},
		Paused: "because", Pending: "reboot",
		LastChecked: at, NextCheck: at.Add(time.Hour), LastError: "it broke", LastErrorAt: at.Add(time.Minute),
		Shadow:   &updater.Shadowing{Upstream: updater.Upstream{Running: true, Operation: updater.Downloading}, Would: "write"},
		Rejected: []updater.Rejection{{Version: "1.0.9", SHA256: "ab", Reason: "sick", At: at}},
	}
}

func TestStatusCrossesTheBusWhole(t *testing.T) {
	b := startBus(t)
	for s := updater.Wait; s <= updater.Release; s++ {
		for _, o := range []updater.Operation{updater.Idle, updater.NeedReboot, updater.ReportingError} {
			want := full()
			want.Step, want.StepName, want.Operation = s, s.String(), o
			text, err := json.Marshal(want)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := decodeStatus(string(text)); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("decodeStatus = %+v, %v; want %+v", got, err, want)
			}
		}
	}
	serve(t, b, &Server{Controller: newYard(full())})
	got, err := b.client().Status(t.Context())
	if err != nil || !reflect.DeepEqual(got, full()) {
		t.Errorf("Status = %+v, %v; want %+v", got, err, full())
	}
}

func TestReadersGetWhatTheControllerSays(t *testing.T) {
	b := startBus(t)
	y := newYard(full())
	at := time.Date(2026, 5, 13, 1, 2, 3, 0, time.UTC)
	y.history = []updater.HistoryEntry{{At: at, Type: updater.EventGood, Version: "1.0.0", Message: "updated"}}
	y.plan = updater.Plan{Running: "1.0.0", Offered: "1.1.0", Wanted: true, URLs: []string{"http://x/"}, Download: 7, WrittenSlot: "B"}
	serve(t, b, &Server{Controller: y})
	c := b.client()
	if got, err := c.History(t.Context()); err != nil || !reflect.DeepEqual(got, y.history) {
		t.Errorf("History = %+v, %v", got, err)
	}
	if got, err := c.Plan(t.Context()); err != nil || !reflect.DeepEqual(got, y.plan) {
		t.Errorf("Plan = %+v, %v", got, err)
	}
	got, err := c.Explain(t.Context())
	want := full().Reasons
	if err != nil || len(got) != 2 || got[1] != want[1] || got[0].Text != want[0].Text || !got[0].Until.Equal(want[0].Until) {
		t.Errorf("Explain = %+v, %v", got, err)
	}
}

func TestEveryRequestArrives(t *testing.T) {
	b := startBus(t)
	y := newYard(updater.Status{})
	serve(t, b, &Server{Controller: y})
	c := b.client()
	for _, want := range []updater.Request{
		{Action: updater.ActCheck, OnDemand: true},
		{Action: updater.ActUpdate},
		{Action: updater.ActUpdate, AllowDowngrade: true, OnDemand: true},
		{Action: updater.ActPause, Reason: "a fair is on"},
		{Action: updater.ActUnpause},
		{Action: updater.ActRollback, OnDemand: true},
		{Action: updater.ActReboot, Reason: "new firmware", OnDemand: true},
		{Action: updater.ActCancel},
		{Action: updater.ActRetry, Version: "1.1.0"},
		{Action: updater.ActMarkGood, OnDemand: true},
		{Action: updater.ActMarkBad, Reason: "it smells", OnDemand: true},
		{Action: updater.ActReset, OnDemand: true},
	} {
		job, err := c.Start(t.Context(), want)
		if err != nil {
			t.Errorf("%s: %v", want.Action, err)
			continue
		}
		if outcome, err := job.Wait(t.Context(), nil); outcome != updater.Done || err != nil {
			t.Errorf("%s: %q, %v", want.Action, outcome, err)
		}
		if got := receive(t, y.asked); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	if _, err := c.Start(t.Context(), updater.Request{Action: "sing"}); err == nil {
		t.Error("a request that is not known was started")
	}
}

func TestOutcomesAndErrorsCrossTheBus(t *testing.T) {
	b := startBus(t)
	y := newYard(updater.Status{})
	serve(t, b, &Server{Controller: y})
	c := b.client()
	for _, test := range []struct {
		outcome updater.Outcome
		err     error
		want    error
	}{
		{outcome: updater.Updated},
		{outcome: updater.NothingToDo},
		{outcome: updater.Accepted},
		{err: fmt.Errorf("update: %w", updater.ErrBusy), want: updater.ErrBusy},
		{err: fmt.Errorf("update: %w: the slot is kept", updater.ErrRefused), want: updater.ErrRefused},
		{err: context.Canceled, want: ErrCancelled},
		{err: errors.New("the server is on fire")},
	} {
		y.do = func(context.Context, updater.Request) (updater.Outcome, error) { return test.outcome, test.err }
		for _, action := range []updater.Action{updater.ActUpdate, updater.ActPause} { // a job, and one that is over at once
			var outcome updater.Outcome
			job, err := c.Start(t.Context(), updater.Request{Action: action})
			if err == nil {
				outcome, err = job.Wait(t.Context(), nil)
			}
			switch {
			case outcome != test.outcome:
				t.Errorf("%s, %q, %v: outcome %q", action, test.outcome, test.err, outcome)
			case (err == nil) != (test.err == nil), test.err != nil && err.Error() != test.err.Error():
				t.Errorf("%s: got error %v, want %v", action, err, test.err)
			case test.want != nil && !errors.Is(err, test.want):
				t.Errorf("%s: %v is not %v", action, err, test.want)
			}
		}
	}
}

func TestWaitShowsProgressAndCancelStopsTheJob(t *testing.T) {
	b := startBus(t)
	y := newYard(updater.Status{Operation: updater.Downloading, StepName: "write"})
	s := &Server{Controller: y}
	y.do = func(ctx context.Context, _ updater.Request) (updater.Outcome, error) {
		<-ctx.Done()
		return "", fmt.Errorf("write release: %w", ctx.Err())
	}
	serve(t, b, s)
	job, err := b.client().Start(t.Context(), updater.Request{Action: updater.ActUpdate})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1e9, 0)
	s.Observe(y.change(at, updater.EventProgress, func(s *updater.Status) { s.Progress = 0.5 }))
	var seen []float64
	_, err = job.Wait(t.Context(), func(status updater.Status) {
		seen = append(seen, status.Progress)
		if err := job.Cancel(t.Context()); err != nil {
			t.Error(err)
		}
	})
	if !errors.Is(err, ErrCancelled) {
		t.Errorf("Wait: %v", err)
	}
	if len(seen) == 0 || seen[0] != 0.5 {
		t.Errorf("progress %v", seen)
	}
	if err := job.Cancel(t.Context()); err != nil {
		t.Errorf("cancel of a job that has ended: %v", err)
	}
}

func TestWaitEndsWhenTheDaemonDies(t *testing.T) {
	b := startBus(t)
	y := newYard(updater.Status{})
	y.do = func(ctx context.Context, _ updater.Request) (updater.Outcome, error) {
		<-ctx.Done()
		return "", ctx.Err()
	}
	ctx, cancel := context.WithCancel(t.Context())
	s := &Server{Controller: y, Address: b.address}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	awaitOwner(t, b, Name)
	c := b.client()
	job, err := c.Start(t.Context(), updater.Request{Action: updater.ActUpdate})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := receive(t, done); err != nil {
		t.Error(err)
	}
	if _, err := job.Wait(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "drydockd ended") {
		t.Errorf("Wait: %v", err)
	}
}

func TestAForgedJobRemovedEndsNothing(t *testing.T) {
	b := startBus(t)
	y := newYard(updater.Status{})
	release := make(chan struct{})
	y.do = func(context.Context, updater.Request) (updater.Outcome, error) {
		<-release
		return updater.NothingToDo, nil
	}
	serve(t, b, &Server{Controller: y})
	c := b.client()
	job, err := c.Start(t.Context(), updater.Request{Action: updater.ActUpdate})
	if err != nil {
		t.Fatal(err)
	}
	// Anybody may send a signal to anybody on the system bus.
	out, err := b.as(nobody, "dbus-send", "--system", "--type=signal", "--dest="+c.conn.Names()[0], Path, ManagerInterface+".JobRemoved",
		"uint32:1", "objpath:"+string(job.path), "string:updated", "string:")
	if err != nil {
		t.Fatal(out, err)
	}
	close(release)
	if outcome, err := job.Wait(t.Context(), nil); outcome != updater.NothingToDo || err != nil {
		t.Errorf("Wait = %q, %v", outcome, err)
	}
}

func TestWatchTellsEachChangeAndOutlivesARestart(t *testing.T) {
	b := startBus(t)
	run := func(version string) (*Server, *yard, func()) {
		y := newYard(updater.Status{Release: version})
		s := &Server{Controller: y, Address: b.address}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		awaitOwner(t, b, Name)
		return s, y, func() { cancel(); receive(t, done) }
	}
	s, y, stop := run("1.0.0")
	ctx, cancel := context.WithCancel(t.Context())
	seen := make(chan updater.Status, 16)
	done := make(chan error, 1)
	c := b.client()
	go func() { done <- c.Watch(ctx, func(s updater.Status) { seen <- s }) }()
	if got := receive(t, seen); got.Release != "1.0.0" {
		t.Errorf("first status %+v", got)
	}
	s.Observe(y.change(time.Unix(1, 0), updater.EventOperator, func(s *updater.Status) { s.Paused = "lunch" }))
	if got := receive(t, seen); got.Paused != "lunch" {
		t.Errorf("after a change %+v", got)
	}
	stop()
	_, _, stop = run("1.1.0")
	defer stop()
	for got := receive(t, seen); got.Release != "1.1.0"; got = receive(t, seen) {
	}
	cancel()
	if err := receive(t, done); !errors.Is(err, context.Canceled) {
		t.Errorf("Watch: %v", err)
	}
}

func TestManagerXMLSaysWhatThePropertiesAre(t *testing.T) {
	var node introspect.Node
	if err := xml.Unmarshal([]byte(managerXML), &node); err != nil {
		t.Fatal(err)
	}
	described := map[string]string{}
	for _, i := range node.Interfaces {
		for _, p := range i.Properties {
			described[p.Name] = p.Type
		}
	}
	actual := map[string]string{}
	for name, value := range propertiesOf(updater.Status{}) {
		actual[name] = value.Signature().String()
	}
	if !reflect.DeepEqual(described, actual) {
		t.Errorf("manager.xml says\n%v\nthe properties are\n%v", described, actual)
	}
}

// TestEveryFieldOfTheStatusIsAProperty makes sure that Watch and foreign
// clients hear of every change: what is no property changes silently.
func TestEveryFieldOfTheStatusIsAProperty(t *testing.T) {
	before := propertiesOf(updater.Status{})
	now := full()
	for i := range reflect.TypeFor[updater.Status]().NumField() {
		field := reflect.TypeFor[updater.Status]().Field(i)
		if field.Name == "Step" { // told as StepName
			continue
		}
		var one updater.Status
		reflect.ValueOf(&one).Elem().Field(i).Set(reflect.ValueOf(now).Field(i))
		if len(changed(before, propertiesOf(one))) == 0 {
			t.Errorf("a change of %s is not told", field.Name)
		}
	}
}

func TestPropertiesChangedCarriesTheDifference(t *testing.T) {
	b := startBus(t)
	y := newYard(full())
	s := &Server{Controller: y}
	serve(t, b, s)
	signals := listen(t, b.connect(), "type='signal',interface='"+propertiesInterface+"',path='"+Path+"'")
	s.Observe(y.change(time.Unix(1, 0), updater.EventStep, func(s *updater.Status) { s.StepName = "lock"; s.Permit = "queued" }))
	for {
		signal := receive(t, signals)
		if signal.Name != propertiesChanged {
			continue
		}
		diff := signal.Body[1].(map[string]dbus.Variant)
		if len(diff) != 2 || diff["Step"].Value() != "lock" || diff["Permit"].Value() != "queued" {
			t.Errorf("changed %v", diff)
		}
		break
	}
	object := b.connect().Object(Name, Path)
	if err := object.SetProperty(ManagerInterface+".Paused", "x"); errorName(err) != "org.freedesktop.DBus.Error.PropertyReadOnly" {
		t.Errorf("Set: %v", err)
	}
	if _, err := object.GetProperty(ManagerInterface + ".Nonsense"); errorName(err) != "org.freedesktop.DBus.Error.UnknownProperty" {
		t.Errorf("Get: %v", err)
	}
	if all, err := getAll(t.Context(), object, ManagerInterface); err != nil || len(all) != len(properties) {
		t.Errorf("GetAll: %d properties, %v", len(all), err)
	}
}

func TestBadArgumentsAreRefused(t *testing.T) {
	b := startBus(t)
	serve(t, b, &Server{Controller: newYard(updater.Status{})})
	object := b.connect().Object(Name, Path)
	call := func(method string, args ...any) string {
		return errorName(object.Call(ManagerInterface+"."+method, 0, args...).Err)
	}
	for name, got := range map[string]string{
		"unknown option":     call("Update", map[string]dbus.Variant{"force": dbus.MakeVariant(true)}),
		"option of a string": call("Update", map[string]dbus.Variant{optionDowngrade: dbus.MakeVariant("yes")}),
		"long reason":        call("Pause", strings.Repeat("x", maxArgument+1)),
		"line feed":          call("Reboot", "one\ntwo"),
		"escape sequence":    call("Retry", "1.0\x1b[31m"),
	} {
		if got != errorInvalid {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestTooManyRequestsAreRefused(t *testing.T) {
	b := startBus(t)
	y := newYard(updater.Status{})
	y.do = func(ctx context.Context, _ updater.Request) (updater.Outcome, error) {
		<-ctx.Done()
		return "", ctx.Err()
	}
	serve(t, b, &Server{Controller: y})
	c := b.client()
	for range maxRunning {
		if _, err := c.Start(t.Context(), updater.Request{Action: updater.ActCheck}); err != nil {
			t.Fatal(err)
		}
	}
	for _, action := range []updater.Action{updater.ActCheck, updater.ActPause} {
		if _, err := c.Start(t.Context(), updater.Request{Action: action}); !errors.Is(err, updater.ErrBusy) {
			t.Errorf("%s: %v", action, err)
		}
	}
	if _, err := c.Status(t.Context()); err != nil {
		t.Errorf("Status while all are busy: %v", err)
	}
}
