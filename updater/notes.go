package updater

import (
	"fmt"
	"slices"
	"time"

	"github.com/drydock-os/drydock/omaha"
	"github.com/drydock-os/drydock/updater/policy"
)

// Upstream is what upstream's update_engine says of itself as
// com.coreos.update1.
type Upstream struct {
	Running     bool      `json:"running"` // somebody has its name on the bus
	Operation   Operation `json:"operation"`
	NewVersion  string    `json:"new_version,omitempty"` // "": none, or it does not say
	NewSize     int64     `json:"new_size,omitempty"`    // payload bytes
	Progress    float64   `json:"progress,omitempty"`    // of the download, 0 to 1
	LastChecked time.Time `json:"last_checked,omitzero"` // of the last check that its server answered
}

// has reports whether it has taken a release up that it was offered.
func (up Upstream) has(at Operation) bool { return up.Operation >= at && up.Operation <= NeedReboot }

// Notes are what a Shadow keeps between two looks: what it saw last, and the
// Memory that an Updater would have by now, whose history is the log of
// agreements and differences. They are a value; losing them costs that log.
type Notes struct {
	Version  int      `json:"version"` // of this document: 1
	Boot     string   `json:"boot,omitempty"`
	Upstream Upstream `json:"upstream"` // as it was last while it ran, without what moves
	Would    string   `json:"would,omitempty"`
	Why      []Reason `json:"why,omitempty"`
	Imagined Memory   `json:"imagined"`
}

// watch takes in one look at the machine and what upstream said, and returns
// what an Updater would do. It is pure.
func (n Notes) watch(o Observed, up Upstream, p policy.Policy) (Notes, view, Step) {
	if !o.Known {
		v := derive(o, n.Imagined, p)
		n.Would, n.Why = Wait.String(), v.Reasons
		return n, v, Wait
	}
	if up.Operation == NeedReboot && up.NewVersion == "" && n.Upstream.Operation == NeedReboot && n.Boot == o.BootID {
		up.NewVersion, up.NewSize = n.Upstream.NewVersion, n.Upstream.NewSize // it forgets them with a restart of its own
	}
	if up.offers() {
		o.Offer = &omaha.Offer{Update: true, Version: up.NewVersion, Size: up.NewSize}
	}
	n = n.rebooted(o, p).settled(o, p)
	n = n.reset(o, up).staged(o, up)
	v, step := n.decide(o, p)
	n = n.downloads(o, up, v, step, p)
	if step == Write && up.Operation == NeedReboot { // by now it would be written
		n.Imagined.Written = &Written{Slot: o.Booted.Other(), Version: up.NewVersion, Size: up.NewSize, At: o.Now}
		v, step = n.decide(o, p)
	}
	if step == Reject && n.Would != Reject.String() {
		n = n.log(o.Now, EventDiffered, o.Release, "release %s is not well %s after its boot: drydockd would reject it and go back to slot %s: %s",
			o.Release, o.Up.Round(time.Second), o.Booted.Other(), o.Sick)
	}
	n.Boot, n.Would, n.Why = o.BootID, step.String(), v.Reasons
	if up.Running {
		n.Upstream = Upstream{Running: true, Operation: up.Operation, NewVersion: up.NewVersion, NewSize: up.NewSize}
	}
	return n, v, step
}

// offers reports whether it has a release that its server offered.
func (up Upstream) offers() bool { return up.has(UpdateAvailable) && up.NewVersion != "" }

// rebooted compares a reboot with what an Updater would have done right before.
func (n Notes) rebooted(o Observed, p policy.Policy) Notes {
	if n.Boot == "" || n.Boot == o.BootID {
		return n
	}
	t, last := n.Imagined.Trial, n
	n.Upstream = Upstream{}
	if t == nil || !t.Armed || t.Version == "" {
		return n
	}
	at := "lately"
	if o.Up > 0 {
		at = o.Now.Add(-o.Up).UTC().Format("2006-01-02 15:04 UTC")
	}
	switch {
	case p.Reboot.Strategy == policy.External:
		return n.log(o.Now, EventAgreed, t.Version, "the machine rebooted %s for %s: strategy external leaves that to another coordinator", at, t.Version)
	case last.Would == Lock.String():
		return n.log(o.Now, EventAgreed, t.Version, "the machine rebooted %s for %s: drydockd saw nothing against it and would have asked for its permit", at, t.Version)
	case last.Would == Write.String():
		return n.log(o.Now, EventDiffered, t.Version, "the machine rebooted %s for %s: drydockd would still have been writing it", at, t.Version)
	}
	return n.log(o.Now, EventDiffered, t.Version, "the machine rebooted %s for %s: drydockd would have waited: %s", at, t.Version, whyNot(last.Why, p))
}

// settled brings the imagined memory in line with the boot, and compares what
// upstream made of it.
func (n Notes) settled(o Observed, p policy.Policy) Notes {
	before := n.Imagined.Trial
	m := n.Imagined.reconcile(o, patience{Retries: p.Trial.Retries, Backoff: p.Trial.RetryBackoff, Pause: p.Reboot.RetryPause})
	m.History = n.Imagined.History
	n.Imagined = m
	switch t := m.Trial; {
	case before == nil:
	case t == nil && o.Booted == before.Slot && o.Sick != "":
		return n.log(o.Now, EventDiffered, o.Release, "update_engine marked slot %s (%s) good; drydockd would not yet: %s", o.Booted, o.Release, o.Sick)
	case t == nil && o.Booted == before.Slot:
		return n.log(o.Now, EventAgreed, o.Release, "update_engine marked slot %s (%s) good; nothing ails it, and drydockd would do so, too", o.Booted, o.Release)
	case t == nil:
		return n.log(o.Now, EventRejected, before.Version, "the machine is back on %s for the last time: drydockd would reject %s now; update_engine takes it again", o.Release, before.Version)
	case t.Returns > before.Returns:
		return n.log(o.Now, EventReturned, t.Version, "the machine is back on %s and did not find %s good: drydockd would try it again after %s, and reject it after %d such returns; update_engine takes it again each time",
			o.Release, t.Version, p.Trial.RetryBackoff, p.Trial.Retries+1)
	}
	return n
}

// reset notices upstream's ResetStatus, which forgets a release and leaves the
// boot flags as they are.
func (n Notes) reset(o Observed, up Upstream) Notes {
	t := n.Imagined.Trial
	if !up.Running || up.Operation != Idle || n.Upstream.Operation != NeedReboot || t == nil || !t.Armed {
		return n
	}
	n.Imagined = n.Imagined.disarm()
	n.Imagined.Written = nil
	if next, ok := o.Flags.Next(); !ok || next != t.Slot {
		return n
	}
	return n.log(o.Now, EventDiffered, t.Version, "update_engine forgot %s on somebody's word (ResetStatus) and the next boot takes it all the same: drydockd would take the boot flags back", t.Version)
}

// staged compares upstream's "need reboot" with the boot flags.
func (n Notes) staged(o Observed, up Upstream) Notes {
	passive, version := o.Booted.Other(), cmpOr(up.NewVersion, n.Upstream.NewVersion)
	next, ok := o.Flags.Next()
	switch {
	case up.Operation != NeedReboot || n.Upstream.Operation == NeedReboot:
		return n
	case !ok || next != passive:
		return n.log(o.Now, EventDiffered, version, "update_engine says that %s waits for a reboot, and the boot flags still select slot %s: the next boot does not take it", cmpOr(version, "a release"), o.Booted)
	}
	m, f := n.Imagined, o.Flags[passive]
	written := m.Written
	m.Written = &Written{Slot: passive, Version: version}
	m = m.arm(o)
	m.Written = written
	n.Imagined = m
	return n.log(o.Now, EventAgreed, version, "update_engine staged %s in slot %s, and the boot flags say so: priority %d, tries %d, not good yet", cmpOr(version, "a release"), passive, f.Priority, f.Tries)
}

// decide is what an Updater would do. It would not have staged yet what upstream
// stages at once, unless it were to.
func (n Notes) decide(o Observed, p policy.Policy) (view, Step) {
	t, passive := n.Imagined.Trial, o.Booted.Other()
	early := p.Reboot.Strategy != policy.External || n.Imagined.Written == nil
	if t != nil && t.Armed && t.Slot == passive && o.Flags[o.Booted].Successful && early {
		o.Flags = o.Flags.Unstage(passive)
	}
	v := derive(o, n.Imagined, p)
	return v, Decide(v.Facts)
}

// downloads compares a download of upstream's with what an Updater would do.
func (n Notes) downloads(o Observed, up Upstream, v view, step Step, p policy.Policy) Notes {
	last := n.Upstream
	known := n.Boot != "" && (!last.has(Downloading) || up.NewVersion != last.NewVersion)
	failed := up.Operation == ReportingError && last.Operation != ReportingError && last.NewVersion != ""
	w := n.Imagined.Written
	switch {
	case failed:
		return n.log(o.Now, EventReturned, last.NewVersion, "update_engine reports that %s went wrong", last.NewVersion)
	case !up.has(Downloading) || !up.offers() || !known:
		return n
	case step == Write, w != nil && w.Version == up.NewVersion:
		return n.log(o.Now, EventAgreed, up.NewVersion, "update_engine downloads %s (%d bytes): drydockd would do so now, too", up.NewVersion, up.NewSize)
	case step != Wait:
		return n.log(o.Now, EventDiffered, up.NewVersion, "update_engine downloads %s (%d bytes): drydockd would %s first", up.NewVersion, up.NewSize, deeds[step])
	}
	return n.log(o.Now, EventDiffered, up.NewVersion, "update_engine downloads %s (%d bytes): drydockd would not now: %s", up.NewVersion, up.NewSize, whyNot(v.Reasons, p))
}

// whyNot is the first reason of those why nothing would be done.
func whyNot(reasons []Reason, p policy.Policy) string {
	reasons = append(slices.Clip(reasons), standing(p)...)
	if len(reasons) == 0 {
		return "nothing calls for it"
	}
	text := reasons[0].Text
	if until := reasons[0].Until; !until.IsZero() {
		text += " (until " + until.UTC().Format("2006-01-02 15:04 UTC") + ")"
	}
	return text
}

// anew is how long the same word is not said again: upstream tries what fails
// every 45 minutes, and the log must not be full of that.
const anew = 12 * time.Hour

func (n Notes) log(at time.Time, t EventType, version, format string, args ...any) Notes {
	text := fmt.Sprintf(format, args...)
	if slices.ContainsFunc(n.Imagined.History, func(h HistoryEntry) bool {
		return h.Message == text && !h.At.Add(anew).Before(at)
	}) {
		return n
	}
	n.Imagined = n.Imagined.log(at, t, version, "%s", text)
	return n
}
