package fleetlink

import (
	"cmp"
	"context"
	"slices"
	"sync"
)

// Memory is a scheduler in the memory of one process: the others' twin in tests,
// the one of the simulator and of the demo, and, with no workloads, the one of a
// machine whose work may simply end with it.
//
// A workload that leaves a machine goes to the one in service that has the
// fewest, or, where there is none, to the rest of the cluster, which has no name
// here. It comes home when its machine is resumed.
type Memory struct {
	// Move takes the time that one workload needs to move; its error ends the drain.
	// nil: none.
	Move func(ctx context.Context) error

	mu       sync.Mutex
	machines map[string]*berth
	order    []*berth // as they came
	silent   error
	changed  chan struct{} // closed by the next change; nil: nobody waits
}

// A berth is a machine as the scheduler knows it.
type berth struct {
	name     string
	cordoned map[string]string // by whom: why
	open     bool              // somebody took all cordons off since
	ails     string
	barred   string  // why an operator has it left alone; "": nobody has
	home     []*load // its workloads
	here     []*load // those that run on it
}

func (b *berth) closed() bool { return len(b.cordoned) > 0 && !b.open }

// A load is a workload.
type load struct {
	name string
	at   *berth // that it runs on; nil: somewhere else
	held string // why it cannot leave; "": it can
}

// run has a workload run on a machine.
func (w *load) run(b *berth) {
	if w.at != nil {
		w.at.here = slices.DeleteFunc(w.at.here, func(x *load) bool { return x == w })
	}
	if w.at = b; b != nil {
		b.here = append(b.here, w)
	}
}

// ours is the cordon of Drydock among others.
const ours = "drydock"

// Place puts workloads on a machine.
func (s *Memory) Place(machine string, workloads ...string) {
	defer s.change()()
	b := s.berth(machine)
	for _, name := range workloads {
		w := &load{name: name}
		b.home = append(b.home, w)
		w.run(b)
	}
}

// Obstruct keeps all of a machine's workloads on it because of reason, until "".
func (s *Memory) Obstruct(machine, reason string) {
	defer s.change()()
	for _, w := range s.berth(machine).here {
		w.held = reason
	}
}

// Hold keeps one workload where it is because of reason, until "".
func (s *Memory) Hold(workload, reason string) {
	defer s.change()()
	for _, b := range s.order {
		for _, w := range b.home {
			if w.name == workload {
				w.held = reason
			}
		}
	}
}

// Claim is somebody's cordon of a machine, or with false its end.
func (s *Memory) Claim(machine, who string, yes bool) {
	defer s.change()()
	if b := s.berth(machine); yes {
		b.cordoned[who], b.open = "by hand", false
	} else {
		delete(b.cordoned, who)
	}
}

// Uncordon takes every cordon off a machine.
func (s *Memory) Uncordon(machine string) {
	defer s.change()()
	b := s.berth(machine)
	b.open = len(b.cordoned) > 0
	for who := range b.cordoned {
		if who != ours {
			delete(b.cordoned, who)
		}
	}
}

// Bar has a machine left alone, drained by no force, because of reason, until "".
func (s *Memory) Bar(machine, reason string) {
	defer s.change()()
	s.berth(machine).barred = reason
}

// Ail makes the scheduler see something wrong with a machine, until "".
func (s *Memory) Ail(machine, what string) {
	defer s.change()()
	s.berth(machine).ails = what
}

// Silence makes the scheduler answer nothing but err, until nil.
func (s *Memory) Silence(err error) {
	defer s.change()()
	s.silent = err
}

// Workloads returns what runs on a machine.
func (s *Memory) Workloads(machine string) (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.berth(machine).here {
		names = append(names, w.name)
	}
	return names
}

// Abroad returns where the workloads of a machine run that have left it.
func (s *Memory) Abroad(machine string) map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	where := map[string]string{}
	b := s.berth(machine)
	for _, w := range b.home {
		switch w.at {
		case b:
		case nil:
			where[w.name] = ""
		default:
			where[w.name] = w.at.name
		}
	}
	return where
}

// Cordoned reports whether a machine gets no new work.
func (s *Memory) Cordoned(machine string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.berth(machine).closed()
}

// On returns a machine's link.
func (s *Memory) On(machine string) Link {
	defer s.change()()
	s.berth(machine)
	return mooring{s, machine}
}

// change locks, and wakes who waits when what it returns is called.
func (s *Memory) change() (unlock func()) {
	s.mu.Lock()
	return func() {
		if s.changed != nil {
			close(s.changed)
			s.changed = nil
		}
		s.mu.Unlock()
	}
}

// berth finds a machine, or enters it.
func (s *Memory) berth(name string) *berth {
	b := s.machines[name]
	if b == nil {
		b = &berth{name: name, cordoned: map[string]string{}}
		if s.machines == nil {
			s.machines = map[string]*berth{}
		}
		s.machines[name], s.order = b, append(s.order, b)
	}
	return b
}

// refuge is the machine that has the fewest workloads of those in service; nil
// if there is none.
func (s *Memory) refuge() (best *berth) {
	for _, b := range s.order {
		if !b.closed() && (best == nil || len(b.here) < len(best.here)) {
			best = b
		}
	}
	return best
}

// left lists what runs on a machine, and its first workload that can leave.
func (s *Memory) left(machine string) (left []Workload, next *load) {
	b := s.berth(machine)
	if b.barred != "" {
		left = append(left, Workload{Name: "machine " + machine, Why: b.barred, Forbids: true})
	}
	for _, w := range b.here {
		left = append(left, Workload{Name: w.name, Why: w.held})
		if next == nil && w.held == "" {
			next = w
		}
	}
	return left, next
}

// A mooring is a machine's side of a Memory.
type mooring struct {
	*Memory
	machine string
}

// Preflight implements Link.
func (m mooring) Preflight(ctx context.Context) (held []Workload, err error) {
	left, err := m.look(ctx)
	for _, w := range left {
		if w.Why != "" {
			held = append(held, w)
		}
	}
	return held, err
}

func (m mooring) look(ctx context.Context) ([]Workload, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	left, _ := m.left(m.machine)
	return left, cmp.Or(ctx.Err(), m.silent)
}

// Standing implements Link.
func (m mooring) Standing(ctx context.Context) (Standing, error) {
	left, err := m.look(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, cordoned := m.berth(m.machine).cordoned[ours]; !cordoned || err != nil {
		return Standing{}, err
	}
	return Standing{Ours: true, Open: m.berth(m.machine).open, Left: left}, nil
}

// Cordon implements Link.
func (m mooring) Cordon(ctx context.Context, why string) error {
	defer m.change()()
	if err := cmp.Or(ctx.Err(), m.silent); err != nil {
		return err
	}
	b := m.berth(m.machine)
	b.cordoned[ours], b.open = why, false
	return nil
}

// Drain implements Link.
func (m mooring) Drain(ctx context.Context, o Order) error {
	told := []Workload{{}}
	for {
		m.mu.Lock()
		left, next := m.left(m.machine)
		err := cmp.Or(ctx.Err(), m.silent)
		if next == nil && len(left) > 0 && o.Force {
			next = m.berth(m.machine).here[0]
		}
		if m.changed == nil {
			m.changed = make(chan struct{})
		}
		changed := m.changed
		m.mu.Unlock()
		if !slices.Equal(left, told) {
			o.Tell(left)
			told = left
		}
		switch {
		case err == nil && len(Forbidding(left)) > 0:
			err = ErrForbidden
		case err == nil && len(left) == 0:
			return nil
		case err == nil && next != nil:
			err = m.move(ctx, next)
		case err == nil:
			select {
			case <-ctx.Done():
			case <-changed:
			}
		}
		if err != nil {
			return Unfinished{left, err}
		}
	}
}

// move has one workload leave.
func (m mooring) move(ctx context.Context, w *load) error {
	if m.Move != nil {
		if err := m.Move(ctx); err != nil {
			return err
		}
	}
	defer m.change()()
	w.run(m.refuge())
	return nil
}

// Resume implements Link.
func (m mooring) Resume(ctx context.Context) error {
	defer m.change()()
	if err := cmp.Or(ctx.Err(), m.silent); err != nil {
		return err
	}
	b := m.berth(m.machine)
	if _, cordoned := b.cordoned[ours]; !cordoned {
		return nil
	}
	delete(b.cordoned, ours)
	b.open = false
	if len(b.cordoned) > 0 { // somebody else's
		return nil
	}
	for _, w := range b.home {
		if w.at != b {
			w.run(b)
		}
	}
	return nil
}

// Ailments implements Link.
func (m mooring) Ailments(ctx context.Context) ([]Workload, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := cmp.Or(ctx.Err(), m.silent); err != nil {
		return nil, err
	}
	if ails := m.berth(m.machine).ails; ails != "" {
		return []Workload{{Name: m.machine, Why: ails}}, nil
	}
	return nil, nil
}
