package bus

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater"
	"github.com/godbus/dbus/v5"
)

// engine stands in for upstream's update_engine: it has its name, answers
// GetStatus and sends what a test has it say. Whatever else it is asked fails
// the test.
type engine struct {
	t    *testing.T
	conn *connection

	mu   sync.Mutex
	says update1Status
}

func startEngine(t *testing.T, b *privateBus) *engine {
	t.Helper()
	e := &engine{t: t, conn: b.connect(), says: update1Status{Operation: "UPDATE_STATUS_IDLE", NewVersion: "0.0.0"}}
	if err := e.conn.Export(e, Update1Path, Update1Interface); err != nil {
		t.Fatal(err)
	}
	reply, err := e.conn.RequestName(Update1Name, dbus.NameFlagDoNotQueue)
	if err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("%v, %v", reply, err)
	}
	return e
}

func (e *engine) GetStatus() (int64, float64, string, string, int64, *dbus.Error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.says
	return s.LastChecked, s.Progress, s.Operation, s.NewVersion, s.NewSize, nil
}

func (e *engine) AttemptUpdate() *dbus.Error { e.t.Error("AttemptUpdate is called"); return nil }

func (e *engine) ResetStatus() *dbus.Error { e.t.Error("ResetStatus is called"); return nil }

// say changes the status and signals it.
func (e *engine) say(s update1Status) {
	e.t.Helper()
	e.mu.Lock()
	e.says = s
	e.mu.Unlock()
	if err := e.conn.Emit(Update1Path, Update1Interface+".StatusUpdate", s.LastChecked, s.Progress, s.Operation, s.NewVersion, s.NewSize); err != nil {
		e.t.Fatal(err)
	}
}

// trace are the signals that the real engine sent.
func trace(t *testing.T, file string) (all []update1Status) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`member=StatusUpdate\n +int64 (\d+)\n +double (\S+)\n +string "([^"]*)"\n +string "([^"]*)"\n +int64 (\d+)`).FindAllStringSubmatch(string(text), -1) {
		checked, err1 := strconv.ParseInt(m[1], 10, 64)
		progress, err2 := strconv.ParseFloat(m[2], 64)
		size, err3 := strconv.ParseInt(m[5], 10, 64)
		if err := errors.Join(err1, err2, err3); err != nil {
			t.Fatal(err)
		}
		all = append(all, update1Status{checked, progress, m[3], m[4], size})
	}
	return all
}

// hears runs an Upstream until the test ends, and returns its words.
func hears(t *testing.T, b *privateBus) <-chan updater.Upstream {
	t.Helper()
	words := make(chan updater.Upstream, 4096)
	u := &Upstream{Address: b.address, Hear: func(up updater.Upstream) { words <- up }}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := u.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return words
}

// until takes words up to the first that is wanted.
func until(t *testing.T, words <-chan updater.Upstream, wanted func(updater.Upstream) bool) (all []updater.Upstream) {
	t.Helper()
	for {
		all = append(all, receive(t, words))
		if wanted(all[len(all)-1]) {
			return all
		}
	}
}

func gone(up updater.Upstream) bool { return up == updater.Upstream{} }

func running(up updater.Upstream) bool { return up.Running }

// TestUpstreamIsHeard replays every recorded run of the real engine.
func TestUpstreamIsHeard(t *testing.T) {
	files, err := filepath.Glob(real.Shared(t, "vectors", "traces", "*", "signals.log"))
	if err != nil || len(files) < 20 {
		t.Fatalf("%d traces, %v", len(files), err)
	}
	b := startBus(t)
	words := hears(t, b)
	until(t, words, gone)
	total := 0
	for _, file := range files {
		signals := trace(t, file)
		total += len(signals)
		e := startEngine(t, b)
		until(t, words, running)
		const end = "99.99.99"
		for _, s := range append(signals, update1Status{Operation: "UPDATE_STATUS_IDLE", NewVersion: end}) {
			e.say(s)
		}
		got := until(t, words, func(up updater.Upstream) bool { return up.NewVersion == end })
		got = got[:len(got)-1]
		if len(got) < len(signals) {
			t.Errorf("%s: %d words, want %d", file, len(got), len(signals))
			continue
		}
		for i, s := range signals { // an answer to GetStatus may come before
			at := got[len(got)-len(signals)+i]
			want := updater.Upstream{Running: true, Operation: updater.Operation(slices.Index(update1Words[:], s.Operation)), NewSize: s.NewSize, Progress: s.Progress, LastChecked: fromUnix(s.LastChecked)}
			if s.NewVersion != "0.0.0" {
				want.NewVersion = s.NewVersion
			}
			if at != want {
				t.Errorf("%s, signal %d: %+v, want %+v", file, i, at, want)
			}
		}
		e.conn.Close()
		until(t, words, gone)
	}
	t.Logf("%d runs, %d signals", len(files), total)
}

// locksmithctl send-need-reboot sends upstream's signal in its stead.
func TestUpstreamIsNotHeardFromOthers(t *testing.T) {
	b := startBus(t)
	words := hears(t, b)
	e := startEngine(t, b)
	until(t, words, running)
	forger := b.connect()
	if err := forger.Emit(Update1Path, Update1Interface+".StatusUpdate", int64(0), 0.0, "UPDATE_STATUS_UPDATED_NEED_REBOOT", "6.6.6", int64(1)); err != nil {
		t.Fatal(err)
	}
	if err := forger.BusObject().Call("org.freedesktop.DBus.GetId", 0).Err; err != nil { // the bus has it
		t.Fatal(err)
	}
	e.say(update1Status{Operation: "UPDATE_STATUS_CHECKING_FOR_UPDATE", NewVersion: "0.0.0"})
	for _, up := range until(t, words, func(up updater.Upstream) bool { return up.Operation == updater.CheckingForUpdate }) {
		if up.NewVersion != "" || up.Operation == updater.NeedReboot {
			t.Errorf("heard %+v", up)
		}
	}
}

// What upstream says is from another program, and is bounded.
func TestUpstreamsWordsAreBounded(t *testing.T) {
	b := startBus(t)
	words := hears(t, b)
	e := startEngine(t, b)
	until(t, words, running)
	e.say(update1Status{LastChecked: 1 << 62, Progress: -3, Operation: "UPDATE_STATUS_OF_TOMORROW", NewVersion: strings.Repeat("1", 1000), NewSize: -1})
	e.say(update1Status{LastChecked: -5, Progress: 7, Operation: "UPDATE_STATUS_DOWNLOADING", NewVersion: "1.0\x1b[2J", NewSize: 5})
	got := until(t, words, func(up updater.Upstream) bool { return up.Operation == updater.Downloading })
	if up := got[len(got)-1]; up != (updater.Upstream{Running: true, Operation: updater.Downloading, NewSize: 5, Progress: 1}) {
		t.Errorf("heard %+v", up)
	}
	if up := got[len(got)-2]; up != (updater.Upstream{Running: true}) {
		t.Errorf("heard %+v", up)
	}
	if err := e.conn.Emit(Update1Path, Update1Interface+".StatusUpdate", "nonsense"); err != nil {
		t.Fatal(err)
	}
	if up := receive(t, words); up != (updater.Upstream{Running: true}) {
		t.Errorf("heard %+v", up)
	}
}

func TestUpstreamIsHeardAfterTheBusWasAway(t *testing.T) {
	b := startBus(t)
	words := hears(t, b)
	until(t, words, gone)
	b.stop()
	until(t, words, gone)
	b.start()
	startEngine(t, b)
	until(t, words, running)
}

// TestShadowLeavesUpstreamsNameAlone: neither taken nor queued for, before
// upstream is there and after it went.
func TestShadowLeavesUpstreamsNameAlone(t *testing.T) {
	b := startBus(t)
	y := newYard(updater.Status{Shadow: &updater.Shadowing{Would: "lock"}})
	s := &Server{Controller: y, Shadow: true, Address: b.address}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	awaitOwner(t, b, Name)
	conn := b.connect()
	owned := func() (is bool) {
		if err := conn.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, Update1Name).Store(&is); err != nil {
			t.Fatal(err)
		}
		return is
	}
	if owned() {
		t.Error("com.coreos.update1 is taken")
	}
	e := startEngine(t, b)
	var queue []string
	if err := conn.BusObject().Call("org.freedesktop.DBus.ListQueuedOwners", 0, Update1Name).Store(&queue); err != nil || len(queue) != 1 {
		t.Errorf("it waits for upstream's name: %v, %v", queue, err)
	}
	s.Observe(y.change(time.Unix(1, 0), updater.EventStep, func(s *updater.Status) { s.Operation = updater.NeedReboot })) // tells no client of upstream's
	e.conn.Close()
	if err := conn.Object(Name, Update1Path).Call(Update1Interface+".AttemptUpdate", 0).Err; err == nil {
		t.Error("upstream's object is served under our name")
	}
	c := b.client()
	if status, err := c.Status(t.Context()); err != nil || status.Shadow == nil || status.Shadow.Would != "lock" {
		t.Errorf("status %+v, %v", status, err)
	}
	if owned() {
		t.Error("com.coreos.update1 is taken once it is free")
	}
}

func TestShadowRefusesOverTheBus(t *testing.T) {
	b := startBus(t)
	y := newYard(updater.Status{Shadow: &updater.Shadowing{Would: "wait"}})
	s := &Server{Controller: y, Shadow: true, Address: b.address}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	awaitOwner(t, b, Name)
	c := b.client()
	for _, a := range []updater.Action{updater.ActCheck, updater.ActUpdate, updater.ActPause, updater.ActUnpause, updater.ActRollback, updater.ActReboot,
		updater.ActCancel, updater.ActRetry, updater.ActMarkGood, updater.ActMarkBad, updater.ActReset} {
		if _, err := c.Start(t.Context(), updater.Request{Action: a, Reason: "x"}); !errors.Is(err, updater.ErrRefused) || !strings.Contains(err.Error(), "shadow mode") {
			t.Errorf("%s: %v", a, err)
		}
	}
	if len(y.asked) > 0 {
		t.Errorf("%d requests reached the shadow", len(y.asked))
	}
}

func TestRival(t *testing.T) {
	b := startBus(t)
	if err := Rival(t.Context(), b.address, 1); err != nil {
		t.Errorf("nobody is there: %v", err)
	}
	e := startEngine(t, b)
	if err := Rival(t.Context(), b.address, os.Getpid()); err != nil {
		t.Errorf("this process itself: %v", err)
	}
	if err := Rival(t.Context(), b.address, 1); err == nil || !strings.Contains(err.Error(), "systemctl stop update-engine") {
		t.Errorf("another engine: %v", err)
	}
	e.conn.Close()
	if err := Rival(t.Context(), "unix:path=/nonexistent", 1); err != nil {
		t.Errorf("no bus: %v", err)
	}
}
