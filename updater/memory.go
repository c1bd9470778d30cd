package updater

import (
	"fmt"
	"slices"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/updater/fetch"
)

// Memory is what a machine remembers beside disk, flags and lock: one small
// file. Losing it costs time (a release is written again, a bad one is tried
// again), never safety. Its methods return changed copies.
type Memory struct {
	Version    int            `json:"version"` // of this document: 1
	Aleph      string         `json:"aleph,omitempty"`
	Written    *Written       `json:"written,omitempty"`
	Former     *Former        `json:"former,omitempty"` // the release that was left
	Left       *Left          `json:"left,omitempty"`   // the slot that was left because it is damaged, until it is written anew
	Trial      *Trial         `json:"trial,omitempty"`
	Wish       *Wish          `json:"wish,omitempty"`
	Rejected   []Rejection    `json:"rejected,omitempty"`
	GoodAt     time.Time      `json:"good_at,omitzero"` // when the last trial ended well
	Paused     string         `json:"paused,omitempty"`
	Report     Report         `json:"report"`
	Ending     Ending         `json:"ending,omitempty"`     // how the permit that is held will end
	Detail     string         `json:"detail,omitempty"`     // why, for people
	Drain      *Begun         `json:"drain,omitempty"`      // the drain that was begun, until work is taken back
	Returning  bool           `json:"returning,omitempty"`  // work was taken back, and the permit was not yet given back
	Ill        Ill            `json:"ill,omitempty"`        // what was not well before the drain, until the permit is given back
	Unfinished int            `json:"unfinished,omitempty"` // drains in a row that did not finish
	AskAgain   time.Time      `json:"ask_again,omitzero"`   // before then no permit is asked for: the last one was not used
	Unused     string         `json:"unused,omitempty"`     // why it was not
	History    []HistoryEntry `json:"history,omitempty"`
	Poll       Poll           `json:"poll"`
}

// Ill is work that was not well before anything was done, in these words. A
// release is not guilty of it, and other machines do not wait for it.
type Ill []fleetlink.Workload

// maxIll bounds what is kept of it; of the rest a release is held guilty.
const maxIll = 100

// without leaves out what was so before.
func (i Ill) without(ails []fleetlink.Workload) []fleetlink.Workload {
	return slices.DeleteFunc(ails, func(w fleetlink.Workload) bool { return slices.Contains(i, w) })
}

// Begun says when a drain was begun, and in which boot.
type Begun struct {
	Since time.Time `json:"since"`
	Boot  string    `json:"boot"`
}

// Written says what the passive slot holds. It is saved only after the whole
// image was read back from the device and verified, and forgotten before the
// first byte of the next one.
type Written struct {
	Slot         partition.Slot   `json:"slot"`
	Version      string           `json:"version"`
	SHA256       []byte           `json:"sha256"`             // of the payload
	Size         int64            `json:"size"`               // of the payload, bytes
	Images       map[string]Image `json:"images"`             // by partition: "root", "kernel", …
	Packages     string           `json:"packages,omitempty"` // directory of the extra packages
	HookFailures int              `json:"hook_failures,omitempty"`
	Pending      bool             `json:"pending,omitempty"`   // verified, and something that belongs to it is still missing
	Downgrade    bool             `json:"downgrade,omitempty"` // an authorised caller asked for an older release
	NotBefore    time.Time        `json:"not_before,omitzero"` // its hook failed and is tried again then
	At           time.Time        `json:"at"`
}

// Image is the size in bytes and the SHA-256 of what was written and read back.
type Image struct {
	Size   int64  `json:"size"`
	SHA256 []byte `json:"sha256"`
}

// Former names the release that the last update or rollback left behind.
type Former struct {
	Slot    partition.Slot `json:"slot"`
	Version string         `json:"version"`
}

// Left names a slot that was left because it is damaged, and how. Its flags may
// still say that it was good: there is no way back to it, or two damaged slots
// would send a machine to and fro.
type Left struct {
	Slot   partition.Slot `json:"slot"`
	Reason string         `json:"reason"`
}

// Poll is what the last check said about the next one.
type Poll struct {
	Answered time.Time      `json:"answered,omitzero"` // last check that the server answered
	Interval time.Duration  `json:"interval,omitempty"`
	URLs     fetch.URLState `json:"urls"`
}

// memoryVersion is the version of the document that Memory is.
const memoryVersion = 1

// A Trial is the story of one release from its staging to a verdict.
type Trial struct {
	Slot    partition.Slot `json:"slot"`
	Version string         `json:"version"`
	SHA256  []byte         `json:"sha256"` // of its payload
	From    string         `json:"from"`   // the release that was left
	Armed   bool           `json:"armed"`  // the flags were (about to be) set
	Boot    string         `json:"boot"`   // boot-id of the staging, or of the last unexplained return
	Returns int            `json:"returns"`
	RetryAt time.Time      `json:"retry_at,omitzero"`
	Verdict string         `json:"verdict,omitempty"` // why it was rejected; "" while open
}

// A Wish is what an operator asked for and policy has not allowed yet.
type Wish struct {
	Goal   Goal           `json:"goal"` // OldRelease or SameSlot
	Slot   partition.Slot `json:"slot"` // the slot that was booted when it was asked
	Boot   string         `json:"boot"` // boot-id when it was asked
	From   string         `json:"from"`
	Reason string         `json:"reason,omitempty"`
	At     time.Time      `json:"at"`
	File   bool           `json:"file,omitempty"`   // a file asks for it (reboot.required_file), for as long as it is there
	Damage bool           `json:"damage,omitempty"` // nobody asked: the slot is damaged, and Reason says how
}

// A Report is what the server is told with the next check, until it has it.
type Report struct {
	Seen       bool   `json:"seen"`                  // the server has heard of this machine once
	Previous   string `json:"previous,omitempty"`    // an update from this release is complete
	RolledBack bool   `json:"rolled_back,omitempty"` // the machine went back to the release it came from
}

// An Ending is how a permit ends.
type Ending string

// The endings of a permit. Only a release that this machine rejected ends as
// rolled back: a rollback on an operator's word is no fault of a release, and
// must not stop one; the release that was to run runs, so it ends as updated.
const (
	EndAborted    Ending = "aborted" // nothing was changed
	EndUpdated    Ending = "updated"
	EndRolledBack Ending = "rolled-back" // the old release is healthy and has its work again
	EndRebooted   Ending = "rebooted"    // into the release that ran before
)

// maxHistory bounds the history that is kept: years of a machine's life.
const maxHistory = 100

// maxRejected bounds the list of rejected releases; the oldest is forgotten.
const maxRejected = 50

func (m Memory) log(at time.Time, t EventType, version, format string, args ...any) Memory {
	entry := HistoryEntry{At: at, Type: t, Version: version, Message: fmt.Sprintf(format, args...)}
	m.History = append([]HistoryEntry{entry}, m.History[:min(len(m.History), maxHistory-1)]...)
	return m
}

// rejection returns the entry that a release was rejected with.
func (m Memory) rejection(version string, sha256 []byte) (Rejection, bool) {
	for _, r := range m.Rejected {
		if r.Version == version && (r.SHA256 == "" || len(sha256) == 0 || r.SHA256 == hexOf(sha256)) {
			return r, true
		}
	}
	return Rejection{}, false
}

// reject remembers that a release is not to be taken again.
func (m Memory) reject(version string, sha256 []byte, reason string, at time.Time) Memory {
	if _, known := m.rejection(version, sha256); known {
		return m
	}
	entry := Rejection{Version: version, SHA256: hexOf(sha256), Reason: reason, At: at}
	m.Rejected = append([]Rejection{entry}, m.Rejected[:min(len(m.Rejected), maxRejected-1)]...)
	return m.log(at, EventRejected, version, "rejected: %s", reason)
}

// retry forgets rejections of a version, or of all.
func (m Memory) retry(version string) Memory {
	var kept []Rejection
	for _, r := range m.Rejected {
		if version != "" && r.Version != version {
			kept = append(kept, r)
		}
	}
	m.Rejected = kept
	if m.Trial != nil && m.Trial.Verdict != "" && (version == "" || m.Trial.Version == version) {
		m.Trial = nil
	}
	return m
}

// judge records the verdict on the trial of the booted release, before the
// flags say so.
func (m Memory) judge(o Observed, reason string) Memory {
	t := Trial{Slot: o.Booted, Version: o.Release}
	if m.Trial != nil && m.Trial.Slot == o.Booted {
		t = *m.Trial
	}
	t.Verdict, t.Armed = reason, false
	m.Trial = &t
	m.Ending, m.Detail = EndRolledBack, reason
	return m.reject(t.Version, t.SHA256, reason, o.Now)
}

// good records that the trial of the booted release ended well.
func (m Memory) good(o Observed) Memory {
	m.GoodAt, m.Written, m.Ending, m.Detail = o.Now, nil, EndUpdated, ""
	if m.Trial != nil && m.Trial.Slot == o.Booted {
		m.Report = Report{Seen: m.Report.Seen, Previous: m.Trial.From}
		m.Former = &Former{Slot: o.Booted.Other(), Version: m.Trial.From}
		m = m.log(o.Now, EventGood, o.Release, "updated from %s", m.Trial.From)
	}
	m.Trial = nil
	return m
}

// arm records that the written release is about to be staged.
func (m Memory) arm(o Observed) Memory {
	t := Trial{From: o.Release}
	if m.Trial != nil && m.Trial.Version == m.Written.Version {
		t = *m.Trial
	}
	t.Slot, t.Version, t.SHA256 = m.Written.Slot, m.Written.Version, m.Written.SHA256
	t.Armed, t.Boot, t.Verdict = true, o.BootID, ""
	m.Trial = &t
	m.Ending, m.Detail = EndAborted, ""
	return m
}

// disarm records that the staged release was taken back before any reboot.
func (m Memory) disarm() Memory {
	if m.Trial == nil {
		return m
	}
	t := *m.Trial
	t.Armed = false
	m.Trial = &t
	if t.Returns == 0 {
		m.Trial = nil
	}
	return m
}

// patience is how a policy treats a trial that comes back unexplained.
type patience struct {
	Retries int           // how often it is tried again
	Backoff time.Duration // before the first retry; doubled for each further one
	Pause   time.Duration // before a hook that failed is tried again, or a permit asked for after one that was not used
}

// before is how long the retry after so many returns waits.
func (p patience) before(returns int) time.Duration { return p.Backoff << min(max(returns-1, 0), 10) }

// reconcile brings the memory in line with what a boot has changed: a trial
// that ended, one that came back without a verdict, a wish that was fulfilled.
// It is idempotent.
func (m Memory) reconcile(o Observed, p patience) Memory {
	if !o.Known {
		return m
	}
	m = m.reconcileClock(o, p).reconcileWish(o).reconcileFile(o).reconcileDamage(o)
	t := m.Trial
	switch {
	case t == nil:
	case o.Booted == t.Slot && o.Flags[o.Booted].Successful && t.Verdict == "" && t.Armed:
		return m.good(o) // marked good, and the power failed before it was written down
	case o.Booted != t.Slot && t.Verdict != "": // back on the old release, as was meant
		m.Report = Report{Seen: m.Report.Seen, RolledBack: true}
		m.Trial, m.Written = nil, nil
		return m.log(o.Now, EventRolledBack, o.Release, "back from %s: %s", t.Version, t.Verdict)
	case o.Booted != t.Slot && t.Armed && t.Boot != o.BootID:
		return m.returned(o, p)
	}
	return m
}

// returned counts an unexplained return. No verdict was recorded: a power cut
// or a pulled cable says nothing about the release, so it is tried again.
func (m Memory) returned(o Observed, p patience) Memory {
	t := *m.Trial
	t.Boot, t.Armed = o.BootID, false
	t.Returns++
	m.Trial = &t
	if t.Returns > p.Retries {
		reason := fmt.Sprintf("came back to %s %d times without a verdict", o.Release, t.Returns)
		m = m.reject(t.Version, t.SHA256, reason, o.Now)
		m.Report = Report{Seen: m.Report.Seen, RolledBack: true}
		m.Trial, m.Written, m.Ending, m.Detail = nil, nil, EndRolledBack, reason
		return m
	}
	t.RetryAt = o.Now.Add(p.before(t.Returns))
	return m.log(o.Now, EventReturned, t.Version, "%s is booted again and nobody recorded why; %s is tried again", o.Release, t.Version)
}

// reconcileClock puts right what was written down while the clock was ahead:
// nothing lies in the future by more than the pause that put it there.
func (m Memory) reconcileClock(o Observed, p patience) Memory {
	if m.GoodAt.After(o.Now) {
		m.GoodAt = o.Now
	}
	if t := m.Trial; t != nil && t.RetryAt.After(o.Now.Add(p.before(t.Returns))) {
		c := *t
		c.RetryAt = o.Now.Add(p.before(t.Returns))
		m.Trial = &c
	}
	if at := o.Now.Add(m.unused(p.Pause)); m.AskAgain.After(at) {
		m.AskAgain = at
	}
	if w := m.Written; w != nil && w.NotBefore.After(o.Now.Add(p.Pause)) {
		c := *w
		c.NotBefore = o.Now.Add(p.Pause)
		m.Written = &c
	}
	return m
}

// reconcileWish drops a wish that a reboot has fulfilled.
func (m Memory) reconcileWish(o Observed) Memory {
	w := m.Wish
	switch {
	case w == nil:
	case w.Goal == OldRelease && o.Booted != w.Slot:
		m.Wish, m.Written, m.Ending, m.Detail = nil, nil, EndUpdated, "rolled back from "+w.From+" on an operator's word: "+cmpOr(w.Reason, "no reason given")
		if w.Damage {
			m.Detail = "back from " + w.From + ": " + w.Reason
			m.Left = &Left{Slot: w.Slot, Reason: w.Reason}
		}
		m.Report = Report{Seen: m.Report.Seen, RolledBack: true}
		m = m.log(o.Now, EventRolledBack, o.Release, "rolled back from %s: %s", w.From, cmpOr(w.Reason, "no reason given"))
	case w.Goal == SameSlot && o.BootID != w.Boot:
		m.Wish, m.Ending, m.Detail = nil, EndRebooted, w.Reason
		m = m.log(o.Now, EventRebooting, o.Release, "rebooted: %s", w.Reason)
	}
	return m
}

// reconcileFile makes a wish of the file that asks for a reboot, and drops it
// when the file is gone.
func (m Memory) reconcileFile(o Observed) Memory {
	switch w := m.Wish; {
	case w == nil && o.Required != "":
		m.Wish = &Wish{Goal: SameSlot, Slot: o.Booted, Boot: o.BootID, From: o.Release, Reason: o.Required, At: o.Now, File: true}
	case w != nil && w.File && o.Required == "":
		m.Wish = nil
	}
	return m
}

// reconcileDamage makes a wish of damage to the slot that runs: back to the
// release before, where that was good. The damage outlives the boot in which it
// was met, so the wish does, too. What is on its trial ends otherwise.
func (m Memory) reconcileDamage(o Observed) Memory {
	before := o.Flags[o.Booted.Other()]
	whole := before.Successful && before.Bootable() && (m.Left == nil || m.Left.Slot != o.Booted.Other())
	switch w := m.Wish; {
	case w != nil && w.Damage && !whole: // nothing is left to go back to, so what is offered may be written there
		m.Wish = nil
	case o.Damage == "" || o.onTrial() || !whole || w != nil && w.Goal == OldRelease:
	default:
		return m.Damaged(o)
	}
	return m
}

// Damaged is the memory with the wish to leave the booted slot, whose damage o
// says. It is for who finds it where no Updater runs.
func (m Memory) Damaged(o Observed) Memory {
	m.Version = memoryVersion
	m.Wish = &Wish{Goal: OldRelease, Slot: o.Booted, Boot: o.BootID, From: o.Release, Reason: o.Damage, At: o.Now, Damage: true}
	return m
}

// intent is what a permit is asked for, and what the reboot is told.
func (m Memory) intent(o Observed) Intent {
	i := Intent{Reason: "reboot", From: o.Release, To: o.Release}
	switch {
	case m.Trial != nil && m.Trial.Verdict != "":
		i.Reason, i.To = "release "+m.Trial.Version+" was rejected: "+m.Trial.Verdict, m.Trial.From
	case m.Wish != nil && m.Wish.Goal == OldRelease:
		i.Reason, i.To = "rollback from "+m.Wish.From, ""
		if m.Wish.Damage {
			i.Reason = "back from " + m.Wish.From + ": " + m.Wish.Reason
		}
		if m.Former != nil && m.Former.Slot == o.Booted.Other() {
			i.To = m.Former.Version
		}
	case m.Written != nil && m.Wish != nil:
		i.Reason, i.To = "update to "+m.Written.Version+", and reboot: "+m.Wish.Reason, m.Written.Version
	case m.Written != nil:
		i.Reason, i.To = "update to "+m.Written.Version, m.Written.Version
	case m.Wish != nil:
		i.Reason = "reboot: " + m.Wish.Reason
	}
	return i
}

// lost is what is remembered of a permit that was taken away on the way.
func (m Memory) lost(o Observed, pause time.Duration) Memory {
	o.Permit = Held // it was
	return m.released(o, pause, "it was taken away")
}

// released is what is remembered once permit or ticket are back. Who did not
// use a permit waits for a pause before it asks again: it goes behind the others.
func (m Memory) released(o Observed, pause time.Duration, why string) Memory {
	unused := m.Ending == "" || m.Ending == EndAborted
	if m.AskAgain, m.Unused = (time.Time{}), ""; o.Permit == Held && unused && !o.Perhaps {
		m.AskAgain, m.Unused = o.Now.Add(m.unused(pause)), why
	}
	m.Ending, m.Detail, m.Returning, m.Ill = "", "", false, nil
	return m
}

// unused is the pause after a permit that was not used: it doubles with each
// drain in a row that did not finish, up to maxUnused.
func (m Memory) unused(pause time.Duration) time.Duration {
	for range m.Unfinished - 1 {
		if pause >= maxUnused {
			break
		}
		pause = min(2*pause, maxUnused)
	}
	return pause
}

// maxUnused bounds the pause after drains that do not finish: what keeps the work
// here may be mended at any time.
const maxUnused = 4 * time.Hour

func hexOf(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	return fmt.Sprintf("%x", b)
}
