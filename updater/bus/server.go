package bus

import (
	"context"
	"sync"

	"github.com/drydock-os/drydock/updater"
)

// A Server is the daemon on the bus: io.drydock.Drydock1, and
// com.coreos.update1 as upstream's clients expect it. It is an
// updater.Observer. Set the fields, then call Run.
type Server struct {
	// Address is of a unix socket, as the D-Bus specification writes it; empty
	// for the system bus.
	Address string
	// Controller does what callers ask for.
	Controller updater.Controller
	// Authorize decides whether a caller may do an action of io.drydock.policy:
	// nil, or an error that says why not. If it is nil, uid 0 may, and polkit is
	// asked for everybody else.
	Authorize func(ctx context.Context, c Caller, action string) error
	// Trouble is told, if it is not nil, that the bus is lost or cannot be
	// reached, once for each different error. The server goes on by itself.
	Trouble func(error)

	mu sync.Mutex
}

// A Caller is who called a method, as the bus daemon tells.
type Caller struct {
	Name        string // unique name on the bus, which is never used again
	UID         uint32
	Interactive bool // the caller waits while a person is asked for a password
}

// Observe takes an event of the updater; it returns at once.
func (s *Server) Observe(e updater.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
}

// Run serves until ctx ends. A bus that is not there, or that goes away, is
// tried again with growing pauses.
func (s *Server) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
