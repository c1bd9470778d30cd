package fleet

import (
	"context"
	"math"

	"github.com/drydock-os/drydock/fleetlink/fleet/etcd2"
)

// A right is one to write in fleet's etcd.
type right struct{ key, use string }

// rights are what a drain writes. Metadata is set through fleet's API, which asks
// nobody who he is; what stood there before is put back in etcd.
func (l *Link) rights() []right {
	list := []right{
		{l.recordKey(), "to write down what is done"},
		{l.key("job", askedUnit, "target"), "to move units"},
	}
	if l.o.CordonKey != "" {
		list = append(list, right{l.key("machines", l.o.Machine.ID, "metadata", l.o.CordonKey), "to take the cordon back"})
	}
	return list
}

// askedUnit is a unit that no fleet has: systemd knows no such type.
const askedUnit = "drydock.asks"

// Lacking names the rights that this machine lacks in fleet's etcd: "write
// /_coreos.com/fleet/job (to move units)". etcd judges the right to a write before
// the write's condition, and that never holds: no key has such an index, so nothing
// is written. Reading is not asked for: Preflight reads all that there is. A drain by
// force needs no more than another.
func (l *Link) Lacking(ctx context.Context, _ bool) (lacking []string, err error) {
	for _, r := range l.rights() {
		_, err := l.etcd.Swap(ctx, r.key, "", etcd2.Prev{Index: math.MaxInt64})
		switch {
		case etcd2.Is(err, etcd2.KeyNotFound), etcd2.Is(err, etcd2.CompareFailed):
		case etcd2.Is(err, etcd2.Unauthorized):
			lacking = append(lacking, "write "+r.key+" ("+r.use+")")
		default:
			return nil, wrap("ask for rights", err)
		}
	}
	return lacking, nil
}
