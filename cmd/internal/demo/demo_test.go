package demo

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/drydock-os/drydock/rebootlock"
)

// hurried is the pace of a test: the same story with smaller releases, and
// without what is there for the eye.
var hurried = pace{
	image: 3 << 20, bandwidth: 64 << 20, move: 20 * time.Millisecond, slow: 30 * time.Second, off: 20 * time.Millisecond,
	settle: 0, sick: time.Second, retry: 200 * time.Millisecond, read: 50 * time.Millisecond,
}

// TestDemo runs what a newcomer runs first, and checks what it claims.
func TestDemo(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	t.Setenv("HOME", "")
	var out bytes.Buffer
	began := time.Now()
	f, err := play(context.Background(), &out, hurried)
	if err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	t.Logf("%s\n%s", time.Since(began), &out)
	checkPermits(t, f)
	checkBoots(t, f)
	checkNothingLeft(t, f)
	for _, want := range []string{
		"All 5 run 4459.2.1", "release 4502.0.0 stopped after 1 failed reboot", "The other 4 never left 4459.2.1",
		"stopped: group hosts was frozen by operator ann: the shop opens its sale", "Nothing rebooted.",
		"12 reboots, and never more than 2 of 5 were down",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the demo does not say %q", want)
		}
	}
	for line := range strings.Lines(out.String()) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > columns {
			t.Errorf("a line of %d columns: %s", n, line)
		}
	}
}

// checkPermits goes through every revision in which a permit changed.
func checkPermits(t *testing.T, f *fleet) {
	t.Helper()
	granted, frozen := 0, 0
	for _, s := range f.witness.log {
		if s.held > permits {
			t.Errorf("revision %d: %d permits are held", s.revision, s.held)
		}
		if s.phase == rebootlock.PhaseGranted {
			granted++
		}
		if s.revision < f.frozen || s.revision > f.thawed {
			continue
		}
		frozen++
		if s.phase != "" && s.phase != rebootlock.PhaseEnded {
			t.Errorf("revision %d, while the group is frozen: %s begins phase %s", s.revision, f.nameOf(s.machine), s.phase)
		}
	}
	if f.witness.maximum() != permits || f.work.maximum() > permits {
		t.Errorf("%d permits were held and %d machines away at most, want %d", f.witness.maximum(), f.work.maximum(), permits)
	}
	// Five updates, one that went back, two that were frozen, five more.
	if want := machines + 1 + permits + machines; granted != want {
		t.Errorf("%d permits were granted, want %d", granted, want)
	}
	if want := permits * 2; frozen != want { // each ended, and was booked
		t.Errorf("%d changes of permits while the group was frozen, want %d", frozen, want)
	}
	if n := f.witness.records(); n != 0 || !f.work.home() {
		t.Errorf("at the end %d permits are there, and that all work is back is %t", n, f.work.home())
	}
}

// checkBoots looks at what each machine ran.
func checkBoots(t *testing.T, f *fleet) {
	t.Helper()
	tried := 0
	for _, h := range f.hosts {
		want := []string{oldRelease, newRelease, fixedRelease}
		if ran := h.boots(); slices.Contains(ran, badRelease) {
			tried++
			want = []string{oldRelease, newRelease, badRelease, newRelease, fixedRelease}
		}
		if !slices.Equal(h.boots(), want) {
			t.Errorf("%s ran %v, want %v", h.name, h.boots(), want)
		}
	}
	if tried != 1 {
		t.Errorf("%d machines ran %s, want 1", tried, badRelease)
	}
}

// checkNothingLeft looks for files, and for servers that still listen.
func checkNothingLeft(t *testing.T, f *fleet) {
	t.Helper()
	if _, err := os.Stat(f.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left: %v", f.dir, err)
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "*")); len(left) > 0 {
		t.Errorf("files are left: %q", left)
	}
	for _, url := range []string{f.endpoint, f.server.url} {
		if c, err := net.DialTimeout("tcp", strings.TrimPrefix(url, "http://"), time.Second); err == nil {
			c.Close()
			t.Errorf("something still listens on %s", url)
		}
	}
}

// TestDemoInterrupted: Ctrl-C in the middle leaves nothing behind either.
func TestDemoInterrupted(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	ctx, cancel := context.WithCancel(context.Background())
	out := &trigger{text: "gets a permit", fire: cancel}
	f, err := play(ctx, out, hurried)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was cancelled", err)
	}
	checkNothingLeft(t, f)
}

// trigger fires once a text is written.
type trigger struct {
	text string
	fire func()
}

func (t *trigger) Write(data []byte) (int, error) {
	if bytes.Contains(data, []byte(t.text)) {
		t.fire()
	}
	return len(data), nil
}

// The board is drawn over and never wraps; the lines above it stay.
func TestScreen(t *testing.T) {
	var out bytes.Buffer
	s := newScreen(&out)
	s.live, s.width = true, 30
	s.draw([]string{"one", strings.Repeat("█", 40)})
	s.say("a sentence that is longer than the screen is wide")
	s.draw(nil)
	board := "one\n" + strings.Repeat("█", 28) + "…\n"
	want := board + "\x1b[2A\x1b[J" + "  a sentence that is longer\n  than the screen is wide\n" + board + "\x1b[2A\x1b[J"
	if out.String() != want {
		t.Errorf("got  %q\nwant %q", &out, want)
	}
}
