package demo

import (
	"context"
	"fmt"
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
	rows := []string{"", f.heading(v), fmt.Sprintf("  %-7s %-13s %-46s %s", "HOST", "RUNS", "DOES", "WORK ON IT")}
	phases := f.witness.holders()
	for _, h := range f.hosts {
		s, on := h.status()
		runs := "-"
		if on && s.Release != "" {
			runs = fmt.Sprintf("%s (%s)", s.Release, s.Booted)
		}
		does := f.does(h, v)
		if phases[h.name] != "" {
			does = "● " + does
		}
		rows = append(rows, fmt.Sprintf("  %-7s %-13s %-46s %s", h.name, runs, clip(does, 46), strings.Join(f.work.on(h.name), " ")))
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

const barWidth = 16

// does says what a machine does, or what it waits for.
func (f *fleet) does(h *host, v rebootlock.View) string {
	s, on := h.status()
	switch {
	case !on:
		return "off: it reboots"
	case s.Operation == updater.Downloading && s.Total > 0:
		full := int(s.Progress * barWidth)
		return fmt.Sprintf("writes %s %s%s %3.0f %%", s.NewVersion, strings.Repeat("█", full), strings.Repeat("·", barWidth-full), 100*s.Progress)
	case steps[s.Step] != "":
		return steps[s.Step]
	case s.Permit == "queued":
		if why := rebootlock.Explain(v, h.machine.ID); len(why) > 0 {
			return "waits: " + why[0].Text
		}
		return "waits for a permit"
	case len(s.Reasons) > 0 && s.Reasons[0].Kind != "current":
		return "waits: " + s.Reasons[0].Text
	}
	return "is up to date"
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
