package host

import (
	"fmt"
	"slices"

	"github.com/drydock-os/drydock/fleetlink"
)

// record is what a Link keeps.
type record struct {
	Ours    bool      `json:"ours"` // Cordon was called, and Resume was not, or did not end well
	Why     string    `json:"why,omitempty"`
	Boot    string    `json:"boot,omitempty"` // in which Resume ended well
	Stopped []stopped `json:"stopped,omitempty"`
}

// stopped is a workload that ran, and that we had end or were about to.
type stopped struct {
	Of   string `json:"of"` // units or containers
	Name string `json:"name"`
}

// The kinds of workloads, as records and sentences have them.
const (
	units      = "units"
	containers = "containers"
)

// with is a record with one workload more, and whether that is news.
func (r record) with(s stopped) (record, bool) {
	if slices.Contains(r.Stopped, s) {
		return r, false
	}
	r.Stopped = append(slices.Clone(r.Stopped), s)
	return r, true
}

func (l *Link) load() (r record, err error) {
	if err := fleetlink.Recall(l.Record, &r); err != nil {
		return record{}, fmt.Errorf("read what was stopped for a reboot: %w", err)
	}
	return r, nil
}

func (l *Link) save(r record) error {
	if err := fleetlink.Remember(l.Record, r); err != nil {
		return fmt.Errorf("remember what is stopped for a reboot: %w", err)
	}
	return nil
}
