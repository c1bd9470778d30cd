package updater

import (
	"context"
	"io"
	"time"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/updater/policy"
)

// Disk gives the two slots of this machine.
type Disk interface {
	// Slot opens the slot's bytes. Whoever opened a slot closes it: what is held
	// cannot be mounted for the release's hook.
	Slot(s partition.Slot) (SlotDevice, error)
	// Booted says which slot the running system came from. What cannot be found
	// out is an error, never a guess.
	Booted() (partition.Slot, error)
}

// A SlotDevice is an opened slot.
type SlotDevice interface {
	partition.Device
	io.Closer
}

// RebootLock bounds how many machines of a group reboot at once. Each call may run
// twice; what cannot be read is an error, and allows nothing. Whoever implements
// it calls Updater.Wake when something may have changed.
type RebootLock interface {
	// Standing says where this machine stands, without asking for anything.
	Standing(ctx context.Context) (Standing, error)
	// Acquire asks for a permit and returns at once: Held, Queued, or NoPermit
	// where the machine may not even ask; Standing says why.
	Acquire(ctx context.Context, i Intent) (Permit, error)
	// Fence confirms in one transaction that the permit is still ours and that
	// nothing was frozen, and moves its phase on. An error forbids the phase.
	Fence(ctx context.Context, phase string) error
	// Release gives permit or ticket back, saying how it ended, and in detail why,
	// for people.
	Release(ctx context.Context, ending Ending, detail string) error
}

// The phases of a holder that the lock is told, each fenced.
const (
	PhaseDraining  = "draining"
	PhaseStaging   = "staging"
	PhaseRebooting = "rebooting"
)

// An Intent is what a permit is asked for.
type Intent struct {
	Reason string // a sentence for people
	From   string // the release that runs
	To     string // the release that is to run; From for another reboot; "" if it is not known
}

// Standing is a machine's place in its group.
type Standing struct {
	Permit  Permit
	Perhaps bool     // Held is only feared: nobody could be asked since the start
	Begun   bool     // the permit was used: a drain was begun, or more
	Stopped []Reason // a freeze, a stopped group: no reboot, permit or not
	Waits   []Reason // why the permit is not granted yet, for people
}

// Gates are what else must be well in the cluster before this machine asks for a
// permit, and before it gives one back that it has used: alerts, checks. They
// change nothing.
type Gates interface {
	// Shut says of each gate that is not open why, in a sentence. What could not be
	// asked is not open.
	Shut(ctx context.Context) []string
}

// Host is the running system.
type Host interface {
	// Identity reads what the system says about itself.
	Identity() (Identity, error)
	// Blockers lists inhibitors and sessions in the way of a reboot. What could
	// not be read is in the way.
	Blockers(ctx context.Context, p policy.Policy) []Reason
	// Required says who asks for a reboot through the file that the policy names
	// (reboot.required_file); "" when nobody does, or when it cannot be told.
	Required(p policy.Policy) string
	// Ailments lists what is not well with this boot: units, checks. None means
	// healthy.
	Ailments(ctx context.Context, p policy.Policy) []Reason
	// ImageRelease reads the version that the image in a slot says it is.
	ImageRelease(s partition.Slot) (string, error)
	// Hook runs the post-install hook of the release in a slot. Lines that it
	// prints go to line.
	Hook(ctx context.Context, h HookRun, line func(string)) error
	// Reboot asks for the reboot and returns when it is under way. A refusal is
	// a normal answer: ErrRefused. After any other error it may be under way.
	// Forced goes over inhibitors: a rejected release is left whatever somebody
	// wants.
	Reboot(ctx context.Context, reason string, forced bool) error
}

// Identity is what the running system says about itself.
type Identity struct {
	Release   string // VERSION_ID, or VERSION, of its os-release
	MachineID string
	BootID    string
	Arch      string        // as uname(2) says
	Up        time.Duration // since the boot; 0 if that is not known
	Damage    string        // what is wrong with the bytes that it runs from; "" while nothing is known to be
}

// HookRun is what a post-install hook is told.
type HookRun struct {
	Slot      partition.Slot // the written one
	Version   string
	Kernel    string // path of the kernel that was written; "" if none
	PCRPolicy string // path of the PCR policy; "" if none
	Packages  string // directory of the extra packages; "" if none
	Response  string // path of the server's last answer, as it came
	Policy    policy.Hook
}
