package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/updater"
)

// page writes what the daemon says in words for people. Texts that come from
// servers and images are cleaned of what would steer a terminal.
type page struct {
	w   io.Writer
	now time.Time
}

func (p page) line(label, format string, args ...any) {
	fmt.Fprintf(p.w, "%-10s%s\n", label, clean(fmt.Sprintf(format, args...)))
}

// status is the whole view.
func (p page) status(s updater.Status) {
	p.running(s)
	p.slots(s)
	if s.Shadow != nil {
		p.shadow(s)
		return
	}
	p.update(s)
	p.line("Now", "%s", p.doing(s))
	if s.Total > 0 && s.Step == updater.Write {
		p.line("", "%s", gauge(s.Done, s.Total))
	}
	p.reasons(s.Reasons)
	p.drain(s.Drain)
	p.line("Checked", "%s", p.checked(s))
	if s.Strategy != "" {
		p.line("Reboots", "strategy %s, permit %s%s", s.Strategy, orDash(s.Permit), drained(s.Drained))
	}
	if s.Pending != "" {
		p.line("Pending", "%s, as an operator asked (drydock cancel drops it)", s.Pending)
	}
	if s.Paused != "" {
		p.line("Paused", "%s (drydock unpause ends it)", s.Paused)
	}
	if s.LastError != "" {
		p.line("Error", "%s%s", s.LastError, p.ago(s.LastErrorAt))
	}
	for _, r := range s.Rejected {
		p.line("Rejected", "%s: %s (drydock retry %s takes it again)", r.Version, r.Reason, r.Version)
	}
}

// maxShown is how many agreements and differences the status shows; drydock
// history has them all.
const maxShown = 5

// shadow is the view of a machine that update_engine keeps.
func (p page) shadow(s updater.Status) {
	up, text := s.Shadow.Upstream, "does not run"
	if up.Running {
		text = up.Operation.String()
	}
	if s.NewVersion != "" {
		text += ", " + s.NewVersion + " (" + amount(s.NewSize) + ")"
	}
	if up.Operation == updater.Downloading {
		text += fmt.Sprintf(", %.0f %%", 100*up.Progress)
	}
	p.line("Upstream", "update_engine: %s", text)
	p.line("Shadow", "drydockd only watches, and changes nothing:")
	p.reasons(s.Reasons)
	p.line("Checked", "%s", p.checked(s))
	p.line("Reboots", "would go by strategy %s", orDash(s.Strategy))
	label := "Seen"
	for _, e := range s.Shadow.Log[:min(len(s.Shadow.Log), maxShown)] {
		p.line(label, "%s  %s: %s", stamp(e.At), e.Type, e.Message)
		label = ""
	}
	if s.LastError != "" {
		p.line("Error", "%s%s", s.LastError, p.ago(s.LastErrorAt))
	}
}

// maxLeft is how many workloads the status names; --json has them all.
const maxLeft = 20

// drain is how far a drain is that was begun.
func (p page) drain(d *updater.Draining) {
	switch {
	case d == nil:
	case len(d.Left) == 0:
		p.line("Drain", "begun %s%s; nothing that has to leave is known to be here", stamp(d.Since), p.ago(d.Since))
	default:
		p.line("Drain", "%d of %d workloads have left; begun %s%s, may last until %s%s", d.Total-len(d.Left), d.Total,
			stamp(d.Since), p.ago(d.Since), stamp(d.Deadline), p.in(d.Deadline))
		for _, w := range d.Left[:min(len(d.Left), maxLeft)] {
			p.line("", "%s", w)
		}
	}
}

func (p page) running(s updater.Status) {
	trial := "marked good"
	if s.OnTrial {
		trial = "on trial: not marked good yet"
	}
	if s.Booted == "" {
		p.line("Release", "%s; which slot it was booted from is not known", orUnknown(s.Release))
		return
	}
	p.line("Release", "%s, booted from slot %s, %s", orUnknown(s.Release), s.Booted, trial)
}

func (p page) slots(s updater.Status) {
	var table partition.Table
	for i, slot := range s.Slots {
		table[i] = partition.Flags{Priority: slot.Priority, Tries: slot.Tries, Successful: slot.Successful}
	}
	next, ok := table.Next()
	text := &strings.Builder{}
	w := tabwriter.NewWriter(text, 0, 0, 2, ' ', 0)
	for i, slot := range s.Slots {
		if slot.Slot == "" {
			continue
		}
		f := slotFacts{Slot: slot.Slot, Tries: slot.Tries, Successful: slot.Successful, Bootable: table[i].Bootable()}
		is := f.state("")
		if table[i].OnTrial() {
			is += fmt.Sprintf(", tries left %d", slot.Tries)
		}
		if slot.Slot == s.Booted {
			is += ", booted"
		}
		if ok && partition.Slot(i) == next {
			is += ", next"
		}
		fmt.Fprintf(w, "%s\t%s\tpriority %d\t%s\n", slot.Slot, orDash(clean(slot.Release)), slot.Priority, is)
	}
	w.Flush()
	label := "Slots"
	for line := range strings.Lines(text.String()) {
		p.line(label, "%s", line)
		label = ""
	}
}

func (p page) update(s updater.Status) {
	other := otherSlot(s)
	switch {
	case s.NewVersion == "":
		p.line("Update", "none")
	case s.Staged:
		p.line("Update", "%s is staged: the next boot takes slot %s", s.NewVersion, other)
	case s.Written:
		p.line("Update", "%s is written to slot %s and verified; nothing boots it yet", s.NewVersion, other)
	case s.Step == updater.Write:
		p.line("Update", "%s (%s) is being written to slot %s", s.NewVersion, amount(s.NewSize), other)
	default:
		p.line("Update", "%s (%s) is offered", s.NewVersion, amount(s.NewSize))
	}
}

// steps are what the daemon does, in words.
var steps = map[updater.Step]string{
	updater.Wait:     "waiting",
	updater.Check:    "asking the update server",
	updater.Write:    "downloading, writing and verifying",
	updater.Lock:     "asking for a permit to reboot",
	updater.Drain:    "moving the work off this machine",
	updater.Stage:    "selecting the other slot for the next boot",
	updater.Unstage:  "taking the selection of the other slot back",
	updater.Reboot:   "rebooting",
	updater.Validate: "judging the health of this boot",
	updater.MarkGood: "marking the running release good",
	updater.Reject:   "rejecting the running release",
	updater.Resume:   "taking work again",
	updater.Release:  "giving the permit back",
}

// doing says what the daemon does now, and where that is nothing, why.
func (p page) doing(s updater.Status) string {
	text := steps[s.Step]
	switch {
	case s.Step != updater.Wait:
		return text
	case s.StepName != "" && s.StepName != updater.Wait.String():
		return s.StepName // a step of a newer daemon
	case len(s.Reasons) > 0:
		return text + ", because:"
	case s.Staged:
		return text + " for the reboot that takes the new release"
	case s.NewVersion != "":
		return text + ": nothing is in the way, the next step begins shortly"
	case s.LastChecked.IsZero():
		return text + ": the update server has not been asked yet"
	}
	return text + ": no newer release is offered"
}

// reasons lists what stands in the way, most important first.
func (p page) reasons(reasons []updater.Reason) {
	for _, r := range reasons {
		until := ""
		if !r.Until.IsZero() {
			until = fmt.Sprintf(" (until %s%s)", stamp(r.Until), p.in(r.Until))
		}
		p.line("", "- %s%s", r.Text, until)
	}
}

func (p page) checked(s updater.Status) string {
	text := "never"
	if !s.LastChecked.IsZero() {
		text = stamp(s.LastChecked) + p.ago(s.LastChecked)
	}
	if !s.NextCheck.IsZero() {
		text += "; next " + stamp(s.NextCheck) + p.in(s.NextCheck)
	}
	return text
}

func (p page) in(t time.Time) string {
	if !t.After(p.now) {
		return ""
	}
	return ", in " + span(t.Sub(p.now))
}

func (p page) ago(t time.Time) string {
	if t.IsZero() || t.After(p.now) {
		return ""
	}
	return ", " + span(p.now.Sub(t)) + " ago"
}

func (p page) history(entries []updater.HistoryEntry) {
	if len(entries) == 0 {
		fmt.Fprintln(p.w, "nothing has happened yet")
		return
	}
	w := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', 0)
	for _, e := range entries {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", stamp(e.At), e.Type, orDash(clean(e.Version)), clean(e.Message))
	}
	w.Flush()
}

func otherSlot(s updater.Status) string {
	booted, err := partition.ParseSlot(s.Booted)
	if err != nil {
		return "?"
	}
	return booted.Other().String()
}

func drained(yes bool) string {
	if yes {
		return ", work moved away"
	}
	return ""
}

func orUnknown(release string) string {
	if release == "" {
		return "unknown release"
	}
	return release
}

// gauge is a bar that needs no terminal.
func gauge(done, total int64) string {
	const width = 30
	done = min(max(done, 0), total)
	full := int(float64(done) / float64(total) * width)
	return fmt.Sprintf("[%s%s] %3.0f %%  %s of %s", strings.Repeat("#", full), strings.Repeat("-", width-full),
		100*float64(done)/float64(total), amount(done), amount(total))
}
