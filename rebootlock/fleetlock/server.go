package fleetlock

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
)

// Locks is what the server asks of the lock.
type Locks interface {
	// Lock asks for a permit for a machine and waits up to wait for it. Where it is
	// not granted, why says what it waits for: it is queued, and keeps its place as
	// long as it asks again within the ticket's life. Granted means that it may go
	// down now. rebootlock.ErrUnknownGroup and ErrOtherWay refuse it for good; any
	// other error says that the lock cannot tell.
	Lock(ctx context.Context, group, machine string, wait time.Duration) (granted bool, why string, err error)
	// Unlock gives permit and ticket back. Not held: success.
	Unlock(ctx context.Context, group, machine string) error
}

// A Server answers FleetLock's clients.
type Server struct {
	Locks Locks
	// Hold is how long a pre-reboot is held open until the permit is there; 0: it is
	// answered at once, and the client asks again. Clients wait up to 30 minutes.
	Hold time.Duration
	// Identity asks every client for a certificate, verified by the listener's
	// tls.Config, that names it. One that is there is looked at in any case.
	Identity bool

	mu     sync.Mutex
	counts Counts
	held   int
}

// Counts is what a server has done since it was made.
type Counts struct {
	PreReboot   uint64            // requests for a permit
	SteadyState uint64            // requests to give one back
	Granted     uint64            // pre-reboots answered with 200
	Released    uint64            // steady-states answered with 200
	Held        int               // pre-reboots that are held open now
	Errors      map[string]uint64 // answers by kind
}

// Counts returns a copy.
func (s *Server) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.counts
	c.Held, c.Errors = s.held, maps.Clone(c.Errors)
	return c
}

func (s *Server) count(change func(*Counts)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.counts.Errors == nil {
		s.counts.Errors = map[string]uint64{}
	}
	change(&s.counts)
}

// The limits of a server.
const (
	maxHeld     = 2000             // pre-reboots held open at once, each with a watch in etcd; the others are answered at once
	readTimeout = 20 * time.Second // for a request of a few hundred bytes
	idleTimeout = 2 * time.Minute  // of a connection that is kept
	answerTime  = time.Minute      // to look at the lock and to answer, beside Hold
	maxHeader   = 16 << 10         // bytes
)

// HTTP returns the HTTP server that suits s, for the caller to give an address,
// TLS and a BaseContext: with the end of that, what is held open is answered.
func (s *Server) HTTP() *http.Server {
	return &http.Server{
		Handler: s.Handler(), ReadTimeout: readTimeout, WriteTimeout: s.Hold + answerTime,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
	}
}

// Handler returns the handler of both endpoints, below any base path. It must
// not stand behind an http.ServeMux, which answers a doubled slash with a
// redirect that loses the body (PROTOCOL.md, section 3).
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.serve(w, r); err != nil {
			s.count(func(c *Counts) { c.Errors[err.Kind]++ })
			answer(w, err)
		}
	})
}

func answer(w http.ResponseWriter, e *Error) {
	data, err := json.Marshal(e)
	if err != nil {
		panic("fleetlock: an error does not marshal: " + err.Error()) // two strings always do
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	if e.Status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", http.MethodPost)
	}
	w.WriteHeader(e.Status)
	_, _ = w.Write(data) // a client that is gone asks again
}

// serve answers 200 with an empty body, or returns what it answers instead.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) *Error {
	what, ok := endpoint(r.URL.Path)
	switch {
	case !ok:
		return refuse(http.StatusNotFound, kindNotFound, "this is a FleetLock server: it answers to %s and %s", preReboot, steadyState)
	case r.Method != http.MethodPost:
		return refuse(http.StatusMethodNotAllowed, kindMethod, "%s takes POST", what)
	case r.Header.Get(header) != "true":
		return refuse(http.StatusBadRequest, kindHeader, "the header \"fleet-lock-protocol: true\" is missing")
	}
	p, refused := s.read(w, r)
	if refused == nil {
		refused = s.identify(r.TLS, p.ID)
	}
	if refused != nil {
		return refused
	}
	if what == steadyState {
		refused = s.steady(r.Context(), p)
	} else {
		refused = s.reboot(r.Context(), p)
	}
	if refused == nil {
		w.WriteHeader(http.StatusOK)
	}
	return refused
}

func (s *Server) read(w http.ResponseWriter, r *http.Request) (params, *Error) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return params{}, refuse(http.StatusRequestEntityTooLarge, kindTooLarge, "the body is larger than %d bytes", maxBody)
	case err != nil:
		return params{}, refuse(http.StatusBadRequest, kindIncomplete, "the body ends early: %v", err)
	}
	return parse(data)
}

func (s *Server) steady(ctx context.Context, p params) *Error {
	s.count(func(c *Counts) { c.SteadyState++ })
	if err := s.Locks.Unlock(ctx, p.Group, p.ID); err != nil {
		return cannot(err)
	}
	s.count(func(c *Counts) { c.Released++ })
	return nil
}

func (s *Server) reboot(ctx context.Context, p params) *Error {
	s.count(func(c *Counts) { c.PreReboot++ })
	granted, why, err := s.lock(ctx, p)
	switch {
	case err != nil:
		return cannot(err)
	case !granted:
		if why == "" {
			why = "waits for its turn"
		}
		return refuse(http.StatusLocked, kindQueued, "%s", why)
	}
	s.count(func(c *Counts) { c.Granted++ })
	return nil
}

// lock asks, and holds the request open while there is room for that.
func (s *Server) lock(ctx context.Context, p params) (granted bool, why string, err error) {
	s.mu.Lock()
	wait := s.Hold
	if s.held >= maxHeld {
		wait = 0
	}
	s.held++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.held--
		s.mu.Unlock()
	}()
	return s.Locks.Lock(ctx, p.Group, p.ID, wait)
}

// cannot is the answer where the lock did not say yes or no.
func cannot(err error) *Error {
	var answered *Error
	switch {
	case errors.As(err, &answered):
		return answered
	case errors.Is(err, rebootlock.ErrUnknownGroup):
		return refuse(http.StatusBadRequest, kindGroup, "%v", err)
	case errors.Is(err, rebootlock.ErrOtherWay):
		return refuse(http.StatusConflict, kindOtherWay, "%v", err)
	}
	return refuse(http.StatusServiceUnavailable, kindStore, "the reboot lock cannot be asked, so nothing reboots; ask again: %v", err)
}
