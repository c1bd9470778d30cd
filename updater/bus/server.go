package bus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/drydock-os/drydock/updater"
	"github.com/godbus/dbus/v5"
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
	// Cluster answers for the cluster that this machine belongs to; nil: to none.
	Cluster Cluster
	// Shadow leaves com.coreos.update1 to upstream's engine: its name is not
	// asked for, and its object is nowhere.
	Shadow bool
	// Authorize decides whether a caller may do an action of io.drydock.policy:
	// nil, or an error that says why not. If it is nil, uid 0 may, and polkit is
	// asked for everybody else.
	Authorize func(ctx context.Context, c Caller, action string) error
	// Trouble is told, if it is not nil, that the bus is lost or cannot be
	// reached, or that a name is taken; the same once only. The server goes on
	// by itself. It is called on Run's goroutine.
	Trouble func(error)

	update1User string // may use update1, beside root; "core" if empty

	news  queue
	jobs  jobs
	looks atomic.Int32 // at the cluster, under way

	troubled string // what Trouble was told last
}

// A Caller is who called a method, as the bus daemon tells.
type Caller struct {
	Name        string // unique name on the bus, which is never used again
	UID         uint32
	Interactive bool // the caller waits while a person is asked for a password
}

// The pauses before a bus that is not there is tried again, doubled from the
// first to the last: a restarted bus is found at once, and an absent one costs
// a connect a minute.
const (
	firstPause = time.Second
	lastPause  = time.Minute
)

// dialPatience bounds connecting to the bus: a bus that does not answer in
// this time is not there.
const dialPatience = 30 * time.Second

// writePatience bounds one write to the bus. A bus that takes nothing for so
// long is given up, and connected to again.
const writePatience = 30 * time.Second

// Observe takes an event of the updater; it returns at once. It may be called
// before Run and after it.
func (s *Server) Observe(e updater.Event) { s.news.push(notice{event: e}) }

// Run serves until ctx ends, and then waits for the jobs, whose contexts end
// with it. A bus that is not there, or that goes away, is tried again with
// growing pauses; jobs go on meanwhile.
func (s *Server) Run(ctx context.Context) error {
	if s.Controller == nil {
		return errors.New("serve on the bus: no controller")
	}
	s.jobs.open(ctx)
	defer s.jobs.close()
	pause := firstPause
	for ctx.Err() == nil {
		served, err := s.session(ctx)
		if ctx.Err() != nil {
			break
		}
		s.trouble(err)
		if served {
			pause = firstPause
		}
		wait := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-wait.C:
		}
		wait.Stop()
		pause = min(2*pause, lastPause)
	}
	return nil
}

func (s *Server) trouble(err error) {
	if s.Trouble == nil || err == nil || err.Error() == s.troubled {
		return
	}
	s.troubled = err.Error()
	s.Trouble(err)
}

// session is one stay on the bus: it connects, exports, takes the names and
// tells the news until a connection or ctx ends. It reports whether it got as
// far as serving.
//
// The two services have a connection each: dbus-daemon applies the rules for
// each name of a connection to all that is sent to it, so what upstream's
// policy denies would be denied for our name, too.
func (s *Server) session(ctx context.Context) (served bool, err error) {
	dialing, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	ours, err := s.connect(dialing)
	if err != nil {
		return false, err
	}
	defer ours.conn.Close()
	stop := context.AfterFunc(ctx, func() { ours.conn.Close() })
	defer stop()
	s.news.listen()
	defer s.news.ignore()
	if err := ours.exportOurs(); err != nil {
		return false, err
	}
	teller := teller{ours: ours.conn, jobs: &s.jobs}
	var names chan *dbus.Signal // of upstream's connection; never any without one
	rival := error(nil)
	if s.Shadow {
		err = ours.takeName(dialing)
	} else {
		names = make(chan *dbus.Signal, 16)
		if teller.upstream, rival, err = s.upstreamToo(dialing, ours, names); teller.upstream != nil {
			defer teller.upstream.Close()
			stop := context.AfterFunc(ctx, func() { teller.upstream.Close() })
			defer stop()
		}
	}
	if err != nil {
		return false, err
	}
	cancel()
	s.troubled = "" // what is said from here on is new
	s.trouble(rival)
	return true, teller.run(s.Controller.Status(), &s.news, names)
}

// upstreamToo serves upstream's clients, on a connection of their own, and takes
// both names. The rival has upstream's.
func (s *Server) upstreamToo(ctx context.Context, ours *desk, names chan *dbus.Signal) (conn *connection, rival, err error) {
	upstream, err := s.connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	upstream.conn.Signal(names)
	if err := upstream.exportUpdate1(); err != nil {
		return upstream.conn, nil, err
	}
	if err := ours.takeName(ctx); err != nil {
		return upstream.conn, nil, err
	}
	return upstream.conn, upstream.takeUpdate1(ctx), nil
}

// desk is where the callers of one connection are served.
type desk struct {
	server *Server
	conn   *connection
}

func (s *Server) connect(ctx context.Context) (*desk, error) {
	conn, err := connect(ctx, s.Address)
	if err != nil {
		return nil, err
	}
	return &desk{s, conn}, nil
}

// exportOurs puts our objects on the connection, before it has a name.
func (d *desk) exportOurs() error {
	jobPaths := dbus.ObjectPath(jobsPath)
	return errors.Join(
		d.conn.Export(&manager{d}, Path, ManagerInterface),
		d.conn.Export(&cluster{d}, Path, ClusterInterface),
		d.conn.Export(managerProperties{d}, Path, propertiesInterface),
		d.conn.Export(introspection(managerXML), Path, introspectInterface),
		d.conn.ExportSubtree(&jobObject{d}, jobPaths, JobInterface),
		d.conn.ExportSubtree(jobProperties{d}, jobPaths, propertiesInterface),
		d.conn.ExportSubtree(jobIntrospection{d}, jobPaths, introspectInterface),
	)
}

// exportUpdate1 puts upstream's object on the connection.
func (d *desk) exportUpdate1() error {
	return errors.Join(
		d.conn.Export(&update1{d}, Update1Path, Update1Interface),
		d.conn.Export(noProperties{}, Update1Path, propertiesInterface),
		d.conn.Export(introspection(update1XML), Update1Path, introspectInterface),
	)
}

// takeName asks for our name, which must be free.
func (d *desk) takeName(ctx context.Context) error {
	reply, err := d.requestName(ctx, Name, dbus.NameFlagDoNotQueue)
	if err != nil {
		return fmt.Errorf("take the bus name %s (is its policy file installed?): %w", Name, err)
	}
	if reply != dbus.RequestNameReplyPrimaryOwner {
		return fmt.Errorf("take the bus name %s: another drydockd has it", Name)
	}
	return nil
}

// takeUpdate1 asks for upstream's name. While somebody else has it we stay in
// its queue: the bus hands it over when update_engine ends. Without it our own
// service goes on.
func (d *desk) takeUpdate1(ctx context.Context) error {
	reply, err := d.requestName(ctx, Update1Name, 0)
	if err != nil {
		return fmt.Errorf("take the bus name %s; its clients are not served: %w", Update1Name, err)
	}
	if reply == dbus.RequestNameReplyInQueue {
		return fmt.Errorf("take the bus name %s: another program has it (update-engine.service?); its clients are served once it ends", Update1Name)
	}
	return nil
}

func (d *desk) requestName(ctx context.Context, name string, flags dbus.RequestNameFlags) (reply dbus.RequestNameReply, err error) {
	err = d.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.RequestName", 0, name, uint32(flags)).Store(&reply)
	return reply, err
}

// caller finds out who sent a message, from the bus daemon.
func (d *desk) caller(ctx context.Context, msg dbus.Message) (Caller, error) {
	name, _ := msg.Headers[dbus.FieldSender].Value().(string)
	c := Caller{Name: name, Interactive: msg.Flags&dbus.FlagAllowInteractiveAuthorization != 0}
	err := d.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetConnectionUnixUser", 0, name).Store(&c.UID)
	if err != nil {
		return Caller{}, fmt.Errorf("find out who is calling: %w", err)
	}
	return c, nil
}

// authorize lets the sender of msg do action, or says why not. What cannot be
// found out is not allowed.
func (d *desk) authorize(msg dbus.Message, action string) *dbus.Error {
	ctx := d.conn.Context() // the question ends with the connection on which it came
	c, err := d.caller(ctx, msg)
	if err == nil {
		ask := d.server.Authorize
		if ask == nil {
			ask = polkit{d.conn}.authorize
		}
		err = ask(ctx, c, action)
	}
	if err == nil {
		return nil
	}
	if e := new(dbus.Error); errors.As(err, &e) {
		return e
	}
	return failure(errorNotAuthorized, err.Error())
}

// queue hands what is new from the updater's goroutine to the teller's. It
// holds nothing while nobody listens: a new connection begins with the status
// as it is.
type queue struct {
	mu        sync.Mutex
	listening bool
	waiting   []notice
	wake      chan struct{} // buffered; holds one token when something waits
}

// A notice is something to tell: an event, or the end of a job, or that a job
// (its id) is being cancelled.
type notice struct {
	event      updater.Event
	removed    *removal
	cancelling uint32
}

// maxWaiting bounds the queue. So many changes in the time that one write may
// take are a machine gone mad; the connection is then given up, and the next
// begins with the status as it is.
const maxWaiting = 4096

func (q *queue) push(n notice) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.listening {
		return
	}
	last := len(q.waiting) - 1
	switch {
	case last >= 0 && n.coalesces(q.waiting[last]):
		q.waiting[last] = n
	case len(q.waiting) < maxWaiting:
		q.waiting = append(q.waiting, n)
	default:
		q.waiting, q.listening = nil, false
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// coalesces says whether n makes before, right in front of it, superfluous.
func (n notice) coalesces(before notice) bool {
	return n.event.Type == updater.EventProgress && before.event.Type == updater.EventProgress &&
		n.event.Status.Operation == before.event.Status.Operation
}

func (q *queue) listen() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting, q.listening, q.wake = nil, true, make(chan struct{}, 1)
}

func (q *queue) ignore() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting, q.listening = nil, false
}

// take returns what waits, and false once the queue has run over.
func (q *queue) take() ([]notice, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	waiting := q.waiting
	q.waiting = nil
	return waiting, q.listening
}
