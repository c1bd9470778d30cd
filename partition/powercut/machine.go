// Package powercut is a machine in memory, a disk and a boot directory, whose
// power can be cut after any operation, and whose disk can fail.
package powercut

import (
	"errors"
	"math/rand/v2"
	"sync"
)

// What operations return from then on.
var (
	// ErrPower says that the power is cut: every operation, reading too, ends
	// with it until Restart.
	ErrPower = errors.New("power is cut")
	// ErrFault says that the storage fails: every operation that changes
	// something ends with it until Continue.
	ErrFault = errors.New("storage fails")
)

// A Survival says what of the unsynced survives a power cut.
type Survival uint64

// Nothing and Everything are the extremes. Any other value is a seed: an
// arbitrary subset of the unsynced sectors survives, and a directory operation
// that was under way has one of the outcomes that its file system allows.
const (
	Nothing    Survival = 0
	Everything Survival = 1
)

// Survivals are the two extremes and n seeds, to range over.
func Survivals(n int) []Survival {
	all := []Survival{Nothing, Everything}
	for i := range n {
		all = append(all, Survival(2+i))
	}
	return all
}

// dice decides what survives.
type dice struct {
	survival Survival
	random   *rand.Rand
}

func (s Survival) dice() dice {
	return dice{s, rand.New(rand.NewPCG(uint64(s), 0x6472796b))}
}

// keep chooses among n versions of something, 0 the oldest and n-1 the newest.
func (d dice) keep(n int) int {
	switch d.survival {
	case Nothing:
		return 0
	case Everything:
		return n - 1
	}
	return d.random.IntN(n)
}

// A Machine is a disk and a boot directory that share a power cord. An operation
// is a write, a truncation, a sync, a creation, a rename or a removal on either.
// Make one with New, or from another with Clone or Restart.
type Machine struct {
	Disk *Disk // the whole disk
	Boot *Dir  // what the boot loader reads

	mu      sync.Mutex
	ops     int
	limit   int   // operations until err; negative: no limit
	err     error // ErrPower or ErrFault
	stopped bool
}

// New makes a machine with an empty disk of so many bytes in sectors of 512, and
// an empty boot directory on a file system ("vfat", "ext4", "xfs").
func New(diskSize int64, fileSystem string) *Machine {
	m := &Machine{limit: -1}
	m.Disk = &Disk{m: m, sector: 512, store: newStore(diskSize)}
	m.Boot = newDir(m, fileSystem)
	return m
}

// Ops is the number of operations so far.
func (m *Machine) Ops() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ops
}

// CutAfter lets n more operations through and cuts the power inside the next.
func (m *Machine) CutAfter(n int) { m.stop(n, ErrPower) }

// FailAfter lets n more operations through; those after them fail and have no
// effect, as on a disk that has died but can still be read.
func (m *Machine) FailAfter(n int) { m.stop(n, ErrFault) }

func (m *Machine) stop(n int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.limit, m.err, m.stopped = n, err, false
}

// Continue ends a limit: power and storage are well again, and nothing was lost.
// After CutAfter that is what the next process finds where one was killed.
func (m *Machine) Continue() { m.stop(-1, nil) }

// Stopped reports whether the limit was reached: the power is cut, or the
// storage fails.
func (m *Machine) Stopped() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stopped
}

// Clone is a machine of its own in the same state, unsynced changes included,
// without a limit. What neither changes is shared.
func (m *Machine) Clone() *Machine {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &Machine{limit: -1}
	c.Disk = &Disk{m: c, sector: m.Disk.sector, store: m.Disk.store.clone()}
	c.Boot = m.Boot.clone(c)
	return c
}

// Restart is the machine after a power cut, now or where CutAfter made it: what
// was synced, and of the rest what survives. The machine itself stays as it was,
// so that it can be restarted in other ways.
func (m *Machine) Restart(s Survival) *Machine {
	c := m.Clone()
	d := s.dice()
	c.Disk.survive(d)
	c.Boot.survive(d)
	return c
}

// step counts an operation that changes something. With cut it is the one that
// the power fails in: it has begun, and does not return.
func (m *Machine) step() (cut bool, err error) {
	if m.stopped {
		return false, m.err
	}
	if m.limit == 0 {
		m.stopped = true
		if errors.Is(m.err, ErrFault) {
			return false, m.err
		}
		return true, nil
	}
	m.limit = max(m.limit-1, -1)
	m.ops++
	return false, nil
}

// powered says whether storage can be read.
func (m *Machine) powered() error {
	if m.stopped && errors.Is(m.err, ErrPower) {
		return m.err
	}
	return nil
}
