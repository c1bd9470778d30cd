package updater

import (
	"fmt"
	"time"
)

// event tells every observer what happened, with the status as it is now.
func (u *Updater) event(t EventType, version string, err error, format string, args ...any) {
	u.beat()
	e := Event{At: u.Now(), Type: t, Version: version, Err: err, Message: fmt.Sprintf(format, args...)}
	u.mu.Lock()
	if t == EventError {
		u.status.LastError, u.status.LastErrorAt = e.Message, e.At
	}
	e.Status = u.status
	u.mu.Unlock()
	for _, o := range u.Observers {
		o.Observe(e)
	}
}

// operation moves what update1's clients see, and tells it.
func (u *Updater) operation(op Operation) {
	u.mu.Lock()
	changed := u.status.Operation != op
	u.status.Operation = op
	version := u.status.NewVersion
	if changed {
		u.status.Progress = 0
	}
	u.mu.Unlock()
	if changed {
		u.event(EventStep, version, nil, "%s", op)
	}
}

// progress is told when a hundredth more is done, after ten seconds, and at
// the end: as often as upstream's clients expect it.
type progress struct {
	u    *Updater
	w    *writing
	last float64
	at   time.Time
}

func (p *progress) report(done, total int64) {
	if total <= 0 {
		return
	}
	p.w.got = done
	p.u.beat()
	f, now := float64(done)/float64(total), p.u.Now()
	if f < p.last+0.01 && done < total && now.Sub(p.at) < 10*time.Second {
		return
	}
	if f == p.last {
		return
	}
	p.last, p.at = f, now
	p.u.mu.Lock()
	s := &p.u.status
	s.Progress, s.Done, s.Total = f, done, total
	s.Operation = Downloading
	version := s.NewVersion
	p.u.mu.Unlock()
	p.u.event(EventProgress, version, nil, "%d of %d bytes", done, total)
}
