package demo

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater"
)

// redraw is how often the board is drawn.
const redraw = 200 * time.Millisecond

// draw shows every machine on a line of a board, where there is a terminal to
// draw over, until ctx ends.
func (f *fleet) draw(ctx context.Context) {
	if !f.screen.live {
		return
	}
	defer f.screen.draw(nil)
	for nap(ctx, redraw) {
		if v, err := f.operator.Look(ctx); err == nil {
			f.screen.draw(f.rows(v))
		}
	}
}

// rows are the lines of the board.
func (f *fleet) rows(v rebootlock.View) []string {
	const beside = 54 // columns that all but DOES take
	width := max(f.screen.width-beside, 16)
	row := func(host, runs, does, work string) string {
		return fmt.Sprintf("  %-7s %-13s %-*s %s", host, runs, width, clip(does, width), work)
	}
	rows := []string{"", f.heading(v), row("HOST", "RUNS", "DOES", "WORK ON IT")}
	phases := f.witness.holders()
	for _, h := range f.hosts {
		s, on := h.status()
		runs := "-"
		if on && s.Release != "" {
			runs = fmt.Sprintf("%s (%s)", s.Release, s.Booted)
		}
		does := does(h, v, width)
		if phases[h.name] != "" {
			does = "● " + does
		}
		rows = append(rows, row(h.name, runs, does, strings.Join(f.work.Workloads(h.name), " ")))
	}
	return rows
}

// heading is what concerns all of them.
func (f *fleet) heading(v rebootlock.View) string {
	if len(v.Groups) == 0 {
		return ""
	}
	g := v.Groups[0]
	text := fmt.Sprintf("  %d of %d permits held (●)", len(f.witness.holders()), g.Max)
	if c := v.Coordinator.Hostname; c != "" {
		text += "; " + c + " grants them"
	}
	if g.Rules != nil && g.Rules.Freeze != nil {
		text += "; FROZEN: " + g.Rules.Freeze.Reason
	}
	for _, stop := range g.Stops {
		text += "; " + stop.Release + " STOPPED"
	}
	return text
}

// does says what a machine does, or what it waits for, in about width columns.
func does(h *host, v rebootlock.View, width int) string {
	s, on := h.status()
	switch {
	case !on:
		return "off: it reboots"
	case s.Operation == updater.Downloading && s.Total > 0:
		all := min(max(width-24, 2), 20)
		full := int(s.Progress * float64(all))
		return fmt.Sprintf("writes %s %s%s %3.0f %%", s.NewVersion, strings.Repeat("█", full), strings.Repeat("·", all-full), 100*s.Progress)
	case steps[s.Step] != "":
		return steps[s.Step]
	case s.Permit == "queued":
		return queues(h.machine.ID, v)
	case rejected(s, v) != "":
		return "went back from " + rejected(s, v)
	case len(s.Reasons) > 0 && s.Reasons[0].Kind != "current":
		return "waits: " + s.Reasons[0].Text
	}
	return "is up to date"
}

// queues says what a machine in the queue waits for.
func queues(machine string, v rebootlock.View) string {
	for _, g := range v.Groups {
		for _, w := range g.Queue {
			switch {
			case w.Machine != machine:
			case len(w.Waits) == 0 || w.Waits[0].Kind == "full":
				return fmt.Sprintf("waits: number %d in the queue", w.Place)
			default:
				return "waits: " + w.Waits[0].Text
			}
		}
	}
	return "waits for a permit"
}

// rejected names the release that stopped and that a machine went back from.
func rejected(s updater.Status, v rebootlock.View) string {
	for _, g := range v.Groups {
		for _, stop := range g.Stops {
			if slices.ContainsFunc(s.Rejected, func(r updater.Rejection) bool { return r.Version == stop.Release }) {
				return stop.Release
			}
		}
	}
	return ""
}

// steps says a step in a person's words.
var steps = map[updater.Step]string{
	updater.Check:    "asks the update server",
	updater.Write:    "clears its passive slot",
	updater.Drain:    "drains: its work moves away",
	updater.Stage:    "stages: reads the slot again, sets the flags",
	updater.Unstage:  "takes the flags back",
	updater.Reboot:   "reboots",
	updater.Validate: "judges the health of this boot",
	updater.MarkGood: "marks its release good",
	updater.Reject:   "rejects its release",
	updater.Resume:   "takes its work back",
	updater.Release:  "gives its permit back",
}
