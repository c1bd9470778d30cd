package kubernetes

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/drydock-os/drydock/fleetlink"
)

func stuck(p *corev1.Pod) { p.Finalizers = []string{"example.com/backup"} }

// TestClockAhead: this machine's clock does not make a pod overdue that was told to
// end by the API server's.
func TestClockAhead(t *testing.T) {
	a := newTwin(t)
	a.place(nodeName, "db", stuck, func(p *corev1.Pod) { p.DeletionTimestamp = at(time.Now().Add(-time.Minute)) })
	for _, off := range []time.Duration{24 * time.Hour, -24 * time.Hour} {
		l := a.link(t, Options{SkipOverdue: time.Hour, Now: func() time.Time { return time.Now().Add(off) }})
		if err := l.Cordon(soon(t), "test"); err != nil {
			t.Fatal(err)
		}
		s, err := l.Standing(soon(t))
		if err != nil || s.Drained() {
			t.Errorf("clock off by %s: %+v, %v; want shop/db left, which is overdue for a minute", off, s, err)
		}
		l = a.link(t, Options{SkipOverdue: 10 * time.Second, Now: l.Now})
		if s, err = l.Standing(soon(t)); err != nil || !s.Drained() {
			t.Errorf("clock off by %s: %+v, %v; want shop/db not to count", off, s, err)
		}
	}
}

// TestStuck: a pod that does not end stops to count when its time is over, also
// where nothing more is heard of it.
func TestStuck(t *testing.T) {
	t.Parallel()
	a := newTwin(t)
	a.place(nodeName, "db", stuck)
	log, done, _ := begin(t, a.link(t, Options{SkipOverdue: 2 * time.Second}), fleetlink.Order{})
	log.says(t, "shop/db", "it was told to end")
	if err := wait(t, done); err != nil {
		t.Fatal(err)
	}
	if got := a.on(nodeName); len(got) != 1 {
		t.Errorf("%v are here", got)
	}
}
