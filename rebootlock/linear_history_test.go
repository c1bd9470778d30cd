package rebootlock

import (
	"math"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// What a machine saw happen.
type testimony uint8

const (
	acquired testimony = iota
	fenced             // it held
	denied             // it did not
	released
)

// An operation is what one machine saw; open says that it does not know
// whether it took place.
type operation struct {
	machine int
	saw     testimony
	open    bool
}

// A chronicle is what the machines saw in one round.
type chronicle struct {
	limit int

	mu      sync.Mutex
	ops     []porcupine.Operation
	longest time.Duration // that anybody waited
}

func (h *chronicle) add(machine int, saw testimony, call, end time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	op := porcupine.Operation{ClientId: machine, Input: operation{machine: machine, saw: saw, open: end.IsZero()}, Call: call.UnixNano(), Return: math.MaxInt64}
	if !end.IsZero() {
		op.Return = end.UnixNano()
	}
	h.ops = append(h.ops, op)
}

func (h *chronicle) waited(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.longest = max(h.longest, d)
}

// holders is the state of the model: who holds, in order, -1 being nobody. No
// round has a higher max.
type holders [8]int

func nobody() holders {
	h := holders{}
	for i := range h {
		h[i] = -1
	}
	return h
}

func (h holders) taken() (n int) {
	for _, machine := range h {
		if machine >= 0 {
			n++
		}
	}
	return n
}

// with puts one in the place of another.
func (h holders) with(old, machine int) holders {
	h[slices.Index(h[:], old)] = machine
	slices.Sort(h[:])
	return h
}

// semaphoreOf is a lock of which limit machines may be holders at a time.
func semaphoreOf(limit int) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return nobody() },
		Step: func(state, input, _ any) (bool, any) {
			h, op := state.(holders), input.(operation)
			holds := slices.Contains(h[:], op.machine)
			may := op.saw == acquired && !holds && h.taken() < limit ||
				(op.saw == fenced || op.saw == released) && holds || op.saw == denied && !holds
			switch {
			case !may:
				return op.open, h // it need not have taken place
			case op.saw == acquired:
				return true, h.with(-1, op.machine)
			case op.saw == released:
				return true, h.with(op.machine, -1)
			}
			return true, h
		},
	}
}

func (h *chronicle) check(limit time.Duration) porcupine.CheckResult {
	h.mu.Lock()
	defer h.mu.Unlock()
	return porcupine.CheckOperationsTimeout(semaphoreOf(h.limit), h.ops, limit)
}
