package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/drydock-os/drydock/updater"
	"github.com/godbus/dbus/v5"
)

// isJob are the actions that may take long: they are jobs, and their methods
// return at once.
var isJob = map[updater.Action]bool{
	updater.ActCheck: true, updater.ActUpdate: true, updater.ActRollback: true, updater.ActReboot: true,
	updater.ActMarkGood: true, updater.ActMarkBad: true, updater.ActReset: true,
}

// maxRunning bounds the requests that are carried out at a time, so that
// callers cannot pile them up. The updater does one of a kind at a time.
const maxRunning = 16

var (
	errTooMany  = fmt.Errorf("%w: %d requests are under way", updater.ErrBusy, maxRunning)
	errStopping = fmt.Errorf("%w: drydockd is stopping", updater.ErrRefused)
)

// jobs are the requests that are being carried out.
type jobs struct {
	mu      sync.Mutex
	ctx     context.Context // of Run: a request outlives the connection on which it came
	running map[uint32]*job
	last    uint32 // the id given last
	wg      sync.WaitGroup
}

// job is one request that is being carried out.
type job struct {
	id        uint32
	request   updater.Request
	action    string // the polkit action that it took, and that cancelling it takes; "" for one that is no object
	cancel    context.CancelFunc
	cancelled bool
}

// removal is the end of a job.
type removal struct {
	id              uint32
	result, message string
}

func (j *jobs) open(ctx context.Context) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.ctx, j.running = ctx, map[uint32]*job{}
}

// close takes no more jobs and waits for those that run.
func (j *jobs) close() {
	j.mu.Lock()
	for _, job := range j.running {
		job.cancel()
	}
	j.ctx = nil
	j.mu.Unlock()
	j.wg.Wait()
}

// add registers a request, and returns the context in which to do it.
func (j *jobs) add(r updater.Request, action string) (*job, context.Context, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.ctx == nil || j.ctx.Err() != nil {
		return nil, nil, errStopping
	}
	if len(j.running) >= maxRunning {
		return nil, nil, errTooMany
	}
	ctx, cancel := context.WithCancel(j.ctx)
	j.last++
	if j.last == 0 { // after four thousand million
		j.last = 1
	}
	job := &job{id: j.last, request: r, action: action, cancel: cancel}
	j.running[job.id] = job
	j.wg.Add(1) // under mu, so that close does not miss it
	return job, ctx, nil
}

// remove takes a job that has ended off the list, and reports whether the
// daemon goes on.
func (j *jobs) remove(job *job) bool {
	job.cancel()
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.running, job.id)
	j.wg.Done()
	return j.ctx != nil && j.ctx.Err() == nil
}

// find returns the job whose object path is path.
func (j *jobs) find(path dbus.ObjectPath) (job, *dbus.Error) {
	name, _ := strings.CutPrefix(string(path), jobsPath+"/")
	id, err := strconv.ParseUint(name, 10, 32)
	j.mu.Lock()
	defer j.mu.Unlock()
	if found, ok := j.running[uint32(id)]; ok && err == nil && found.action != "" {
		return *found, nil
	}
	return job{}, failure(errorNoSuchJob, fmt.Sprintf("no job at %s: it has ended", path))
}

func (j *jobs) markCancelled(id uint32) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if found, ok := j.running[id]; ok {
		found.cancelled = true
		found.cancel()
	}
}

// ids are those of the jobs that run, in order.
func (j *jobs) ids() []uint32 {
	j.mu.Lock()
	defer j.mu.Unlock()
	var ids []uint32
	for id, job := range j.running {
		if job.action != "" {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func jobPath(id uint32) dbus.ObjectPath {
	return dbus.ObjectPath(jobsPath + "/" + strconv.FormatUint(uint64(id), 10))
}

// start begins a request as a job and returns at once.
func (s *Server) start(r updater.Request, action string) (dbus.ObjectPath, error) {
	job, ctx, err := s.jobs.add(r, action)
	if err != nil {
		return "", err
	}
	s.jobs.wg.Go(func() {
		outcome, err := s.Controller.Do(ctx, r)
		end := &removal{id: job.id, result: string(outcome)}
		if err != nil {
			end.result, end.message = resultWord(err), err.Error()
		}
		if s.jobs.remove(job) { // else the daemon is stopping, and its leaving the bus says more
			s.news.push(notice{removed: end})
		}
	})
	return jobPath(job.id), nil
}

// do carries out a request while its caller waits.
func (s *Server) do(r updater.Request) (updater.Outcome, error) {
	job, ctx, err := s.jobs.add(r, "")
	if err != nil {
		return "", err
	}
	defer s.jobs.remove(job)
	return s.Controller.Do(ctx, r)
}

// jobObject is io.drydock.Drydock1.Job, for every job.
type jobObject struct{ *desk }

// Cancel stops a job. It takes the right to what the job does.
func (o *jobObject) Cancel(msg dbus.Message) *dbus.Error {
	job, err := o.server.jobs.find(pathOf(msg))
	if err != nil {
		return err
	}
	if err := o.authorize(msg, job.action); err != nil {
		return err
	}
	o.server.jobs.markCancelled(job.id)
	o.server.news.push(notice{cancelling: job.id})
	return nil
}

// The states of a job; one that has ended is gone.
const (
	stateRunning    = "running"
	stateCancelling = "cancelling"
)

// jobProperties are those of every job.
type jobProperties struct{ *desk }

// GetAll gives all properties of a job.
func (p jobProperties) GetAll(msg dbus.Message, iface string) (map[string]dbus.Variant, *dbus.Error) {
	job, err := p.server.jobs.find(pathOf(msg))
	if err != nil {
		return nil, err
	}
	if iface != JobInterface && iface != "" {
		return map[string]dbus.Variant{}, nil
	}
	state := stateRunning
	if job.cancelled {
		state = stateCancelling
	}
	return map[string]dbus.Variant{
		"Id":       dbus.MakeVariant(job.id),
		"Type":     dbus.MakeVariant(string(job.request.Action)),
		"Progress": dbus.MakeVariant(p.server.Controller.Status().Progress),
		"State":    dbus.MakeVariant(state),
	}, nil
}

// Get gives one property of a job.
func (p jobProperties) Get(msg dbus.Message, iface, name string) (dbus.Variant, *dbus.Error) {
	all, err := p.GetAll(msg, iface)
	if err != nil {
		return dbus.Variant{}, err
	}
	if value, ok := all[name]; ok {
		return value, nil
	}
	return dbus.Variant{}, unknownProperty(iface, name)
}

// Set refuses: all are read-only.
func (p jobProperties) Set(iface, name string, _ dbus.Variant) *dbus.Error {
	return readOnly(iface, name)
}

func readOnly(iface, name string) *dbus.Error {
	return failure("org.freedesktop.DBus.Error.PropertyReadOnly", fmt.Sprintf("property %s.%s is read-only", iface, name))
}

func pathOf(msg dbus.Message) dbus.ObjectPath {
	path, _ := msg.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	return path
}

var errBusLost = errors.New("the connection to the bus was lost")
