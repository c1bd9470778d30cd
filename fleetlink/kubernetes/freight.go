package kubernetes

import (
	"cmp"
	"errors"
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
	gone     int       // answers that it is not there
	denied   time.Time // since when it may not be evicted; zero: it may
}

// A mishap is what a source did not say.
type mishap struct {
	why    string
	denied time.Time // since when it may not be asked; zero: it may
}

// heard notes how a source was asked last. It returns the error where that ends the
// drain.
func (d *drain) heard(from source, err error) error {
	m := &d.mishaps[from]
	if err == nil {
		*m = mishap{}
		return nil
	}
	if m.why = err.Error(); d.ends(&m.denied, err) {
		return err
	}
	return nil
}

// ends reports whether an error ends the drain: what is settled at once, a right
// that is missing when it has been since denied, for a while.
func (d *drain) ends(denied *time.Time, err error) bool {
	now := d.link.Now()
	switch {
	case errors.Is(err, errSettled):
		return true
	case !hopeless(err):
		*denied = time.Time{}
		return false
	case denied.IsZero():
		*denied = now
	}
	return now.Sub(*denied) > denials
}

// hear takes what the list or the watch says.
func (d *drain) hear(e event) error {
	if err := d.heard(e.from, e.err); err != nil || e.err != nil {
		return err
	}
	switch {
	case e.from == ofList:
		before := d.known
		d.known, d.synced = map[types.UID]*freight{}, true
		for _, p := range e.pods {
			d.note(p, before[p.uid])
		}
	case len(e.pods) == 0: // the watch has begun
	case e.gone:
		delete(d.known, e.pods[0].uid)
	default:
		d.note(e.pods[0], d.known[e.pods[0].uid])
	}
	return d.barred()
}

// barred is the error of a drain that an operator's word forbids; nil: none does.
func (d *drain) barred() error {
	barred := len(d.s.blocked()) > 0
	for _, f := range d.known {
		w, here := d.s.still(f.pod, d.order.Force)
		barred = barred || here && w.Forbids
	}
	if !barred {
		return nil
	}
	return fleetlink.ErrForbidden
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

// left lists what is left, what forbids the drain first and then by name, and why.
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
	slices.SortFunc(left, func(a, b fleetlink.Workload) int {
		if a.Forbids != b.Forbids {
			return map[bool]int{true: -1, false: 1}[a.Forbids]
		}
		return strings.Compare(a.Name, b.Name)
	})
	if d.s != nil {
		left = append(d.s.blocked(), left...)
	}
	left = append(left, d.volumes...)
	if why := d.trouble(); why != "" {
		left = append(left, fleetlink.Workload{Name: "the Kubernetes API", Why: why})
	}
	return left
}

// trouble is why the API server is not heard; "": it is.
func (d *drain) trouble() string {
	for _, m := range d.mishaps {
		if m.why != "" {
			return m.why
		}
	}
	return ""
}

// tell tells of what is left, if that changed; before the pods are known, of what
// keeps them from being known.
func (d *drain) tell() {
	left := d.left()
	if !d.synced && len(left) == 0 || d.spoke && slices.Equal(left, d.told) {
		return
	}
	d.spoke, d.told = true, left
	d.order.Tell(left)
}
