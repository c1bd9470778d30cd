// Package fleetlink asks the cluster's scheduler to take the work off this
// machine and to bring it back.
package fleetlink

import (
	"context"
	"fmt"
	"sync"
)

// Memory is a scheduler in the memory of one process, and, with no workloads,
// the one of a machine that has none.
type Memory struct {
	mu       sync.Mutex
	obstacle map[string]string   // machine: what stands in the way of a drain
	work     map[string][]string // machine: its workloads
	away     map[string][]string // machine: workloads that were moved off it
	drained  map[string]bool
}

// Place puts workloads on a machine.
func (s *Memory) Place(machine string, workloads ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.work == nil {
		s.work = map[string][]string{}
	}
	s.work[machine] = append(s.work[machine], workloads...)
}

// Obstruct makes a machine's drain fail because of reason, until "".
func (s *Memory) Obstruct(machine, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.obstacle == nil {
		s.obstacle = map[string]string{}
	}
	s.obstacle[machine] = reason
}

// Preflight says what stands in the way of a drain now; "" if nothing does.
func (s *Memory) Preflight(_ context.Context, machine string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.obstacle[machine], nil
}

// Drain moves a machine's workloads away. Draining a drained machine is
// success.
func (s *Memory) Drain(_ context.Context, machine string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if reason := s.obstacle[machine]; reason != "" {
		return fmt.Errorf("drain: %s", reason)
	}
	if s.drained == nil {
		s.drained, s.away = map[string]bool{}, map[string][]string{}
	}
	s.drained[machine] = true
	s.away[machine] = append(s.away[machine], s.work[machine]...)
	delete(s.work, machine)
	return nil
}

// Drained reports whether a machine was drained and not resumed.
func (s *Memory) Drained(_ context.Context, machine string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drained[machine], nil
}

// Resume brings back what Drain moved away, and only that.
func (s *Memory) Resume(_ context.Context, machine string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drained[machine] && len(s.away[machine]) > 0 {
		if s.work == nil {
			s.work = map[string][]string{}
		}
		s.work[machine] = append(s.work[machine], s.away[machine]...)
	}
	delete(s.drained, machine)
	delete(s.away, machine)
	return nil
}

// Workloads returns what runs on a machine.
func (s *Memory) Workloads(machine string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.work[machine]...)
}
