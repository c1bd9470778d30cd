package demo

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/sim"
)

// screen tells the demo: lines, and on a terminal a bar that moves.
type screen struct {
	mu      sync.Mutex
	out     io.Writer
	live    bool // the bar can be drawn over
	began   time.Time
	quarter int // of the download that was told last, where nothing can be drawn over
	drawn   bool
	last    string
}

func newScreen(out io.Writer) *screen {
	f, ok := out.(*os.File)
	return &screen{out: out, live: ok && term.IsTerminal(int(f.Fd())), began: time.Now()}
}

func (s *screen) title(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line("")
	s.line(fmt.Sprintf(format, args...))
	s.line(strings.Repeat("─", len(fmt.Sprintf(format, args...))))
}

func (s *screen) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line("  " + fmt.Sprintf(format, args...))
}

// line ends a bar that is being drawn, and writes a line.
func (s *screen) line(text string) {
	if s.drawn {
		fmt.Fprintln(s.out)
		s.drawn = false
	}
	fmt.Fprintln(s.out, text)
}

func (s *screen) boot(m *sim.Machine) {
	slot, err := m.Booted()
	id, _ := m.Identity()
	if err == nil {
		s.say("%s  power on: the firmware picks slot %s, release %s boots", s.clock(), slot, id.Release)
	}
}

func (s *screen) clock() string { return fmt.Sprintf("%5.1fs", time.Since(s.began).Seconds()) }

// Observe implements updater.Observer.
func (s *screen) Observe(e updater.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch e.Type {
	case updater.EventProgress:
		s.bar(e.Status)
	case updater.EventStep, updater.EventHook, updater.EventStarted, updater.EventChecked, updater.EventWaiting:
		if text := told[e.Status.Step]; e.Type == updater.EventStep && text != "" && text != s.last {
			s.last = text
			s.line(fmt.Sprintf("  %s  %s", s.clock(), text))
		}
	default:
		s.line(fmt.Sprintf("  %s  → %s", s.clock(), e.Message))
	}
}

// told says a step in a person's words; the events tell the rest.
var told = map[updater.Step]string{
	updater.Check:    "ask the update server",
	updater.Write:    "make the passive slot unbootable, then write and verify it",
	updater.Lock:     "ask the group's lock for a permit to reboot",
	updater.Drain:    "have the workloads moved away",
	updater.Stage:    "read the slot once more, then set the boot flags: on trial",
	updater.Validate: "judge the health of this boot",
	updater.MarkGood: "end the trial",
	updater.Reject:   "remember the verdict, then point the flags at the old slot",
	updater.Resume:   "take the workloads back",
	updater.Release:  "give the permit back, last of all",
}

const barWidth = 40

func (s *screen) bar(st updater.Status) {
	if st.Total == 0 {
		return
	}
	full := int(st.Progress * barWidth)
	text := fmt.Sprintf("         [%s%s] %3.0f %%  %d of %d MiB", strings.Repeat("█", full), strings.Repeat("·", barWidth-full), st.Progress*100, st.Done>>20, st.Total>>20)
	if s.live {
		fmt.Fprint(s.out, "\r"+text)
		s.drawn = true
		return
	}
	if q := int(st.Progress * 4); q != s.quarter {
		s.quarter = q
		fmt.Fprintln(s.out, text)
	}
}
