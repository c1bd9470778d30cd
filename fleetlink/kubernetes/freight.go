package kubernetes

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/drydock-os/drydock/fleetlink"
)

// A freight is a pod on its way.
type freight struct {
	*pod
	why      string
	due      time.Time // when it may be asked again
	flying   bool
	failures int
	gone     int // answers that it is not there
}

// hear takes what the list or the watch says.
func (d *drain) hear(e event) error {
	switch {
	case e.err != nil:
		d.trouble = e.err.Error()
		if d.ends(e.err) {
			return e.err
		}
		return nil
	case e.all:
		before := d.known
		d.denied = time.Time{}
		d.known, d.synced = map[types.UID]*freight{}, true
		for _, p := range e.pods {
			d.note(p, before[p.uid])
		}
	case e.gone:
		delete(d.known, e.pods[0].uid)
	default:
		d.note(e.pods[0], d.known[e.pods[0].uid])
	}
	d.trouble = ""
	return nil
}

// note keeps a pod as it is now, and what was known of it.
func (d *drain) note(p *pod, f *freight) {
	if f == nil {
		f = &freight{}
	}
	f.pod = p
	d.known[p.uid] = f
}

// empty reports whether nothing is known to be left.
func (d *drain) empty() bool {
	if !d.synced || d.flying > 0 {
		return false
	}
	for _, f := range d.known {
		if _, here := d.s.still(f.pod, d.order.Force); here {
			return false
		}
	}
	return true
}

// left lists what is left, by name, and why.
func (d *drain) left() (left []fleetlink.Workload) {
	for _, f := range d.known {
		w, here := d.s.still(f.pod, d.order.Force)
		if !here {
			continue
		}
		if w.Why = cmp.Or(w.Why, f.why); w.Why == "" && d.link.Now().Before(d.from) {
			w.Why = "load balancers are given until " + d.from.UTC().Format(time.TimeOnly) + " UTC to leave this node"
		}
		left = append(left, w)
	}
	slices.SortFunc(left, func(a, b fleetlink.Workload) int { return strings.Compare(a.Name, b.Name) })
	left = append(left, d.volumes...)
	if d.trouble != "" {
		left = append(left, fleetlink.Workload{Name: "the Kubernetes API", Why: d.trouble})
	}
	return left
}

// tell tells of what is left, if that changed.
func (d *drain) tell() {
	left := d.left()
	if d.synced && (!d.spoke || !slices.Equal(left, d.told)) {
		d.spoke, d.told = true, left
		d.order.Tell(left)
	}
}
