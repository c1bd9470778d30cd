// Package rebootlock bounds how many machines of a group reboot at once, across the cluster, in etcd.
//
// A machine that wants to reboot writes a ticket, which ends with its lease. An
// elected coordinator turns the first tickets that the group's rules allow into
// permits, which end only when the machine, or an operator, gives them back: a
// machine that dies while it reboots keeps its permit. Every write compares what
// it was decided upon. RECORDS.md is the normative description of the records.
package rebootlock

import (
	"errors"
	"time"
)

// Standing is where a machine is in its group's reboot lock.
type Standing uint8

// The standings.
const (
	None    Standing = iota
	Queued           // has a ticket and waits for its turn
	Holding          // has a permit
)

var standingNames = [...]string{"none", "queued", "holding"}

// String is the standing as a word.
func (s Standing) String() string { return standingNames[s] }

// ErrNotHolder refuses what only a holder may do.
var ErrNotHolder = errors.New("this machine holds no permit")

// ErrNewer refuses a record that a newer version wrote.
var ErrNewer = errors.New("the record was written by a newer version of drydock")

// ErrCorrupt refuses a record that cannot be read.
var ErrCorrupt = errors.New("the record cannot be read")

// An Obstacle is one thing that keeps a machine from its permit, or a group
// from granting one.
type Obstacle struct {
	Kind  string    `json:"kind"`           // "freeze", "stopped", "window", "pause", "full", "zone", "absent", "etcd", …
	Text  string    `json:"text"`           // a sentence: what, and what to do about it
	Until time.Time `json:"until,omitzero"` // when it ends by itself, if that is known
}

// The phases of a permit, in their order.
const (
	PhaseGranted   = "granted" // not yet collected: nothing was done with it
	PhaseDraining  = "draining"
	PhaseStaging   = "staging"
	PhaseRebooting = "rebooting" // the reboot may have begun: the machine may be down
	PhaseEnded     = "ended"     // given back; the coordinator books it and takes it away
)

// An Ending is how a permit ended.
type Ending string

// The endings. RolledBack counts towards Rules.StopAfter.
const (
	Updated    Ending = "updated"
	RolledBack Ending = "rolled-back" // the old release runs, is healthy, and its work is back
	Rebooted   Ending = "rebooted"    // into the same release, as somebody asked
	Aborted    Ending = "aborted"     // given back without a reboot
	TakenAway  Ending = "taken-away"  // by an operator, or by Rules.OnOverdue
)
