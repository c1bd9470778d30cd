package partition

import (
	"fmt"
	"strings"
)

// A Layout says how the slots are recognised in a partition table. The zero
// value looks for USR-A and USR-B of Flatcar's type, else for ROOT-A and ROOT-B
// of any type.
type Layout struct {
	Type   GUID      // of both slots; zero: any
	Labels [2]string // of A and B
}

// Flatcar's layout, and that of images which keep the whole root in a slot.
var layouts = []Layout{
	{Type: TypeUSR, Labels: [2]string{"USR-A", "USR-B"}},
	{Labels: [2]string{"ROOT-A", "ROOT-B"}},
}

// FindSlots finds the two slots in a table. It refuses a label that is there
// twice, and slots that share sectors with another partition: a write to one
// would destroy the other.
func (g *GPT) FindSlots(l Layout) ([2]Entry, error) {
	if l != (Layout{}) {
		return g.findSlots(l)
	}
	var tried []string
	for _, l := range layouts {
		if g.has(l) {
			return g.findSlots(l)
		}
		tried = append(tried, strings.Join(l.Labels[:], " and "))
	}
	return [2]Entry{}, fmt.Errorf("find slots: no partitions %s", strings.Join(tried, ", nor "))
}

func (g *GPT) has(l Layout) bool {
	for _, e := range g.Entries {
		if l.matches(e, A) || l.matches(e, B) {
			return true
		}
	}
	return false
}

func (l Layout) matches(e Entry, s Slot) bool {
	return e.Label == l.Labels[s] && (l.Type == GUID{} || l.Type == e.Type)
}

func (g *GPT) findSlots(l Layout) ([2]Entry, error) {
	var slots [2]Entry
	for s := range slots {
		for _, e := range g.Entries {
			if !l.matches(e, Slot(s)) {
				continue
			}
			if slots[s].Number != 0 {
				return slots, fmt.Errorf("find slots: partitions %d and %d are both %s", slots[s].Number, e.Number, e.Label)
			}
			slots[s] = e
		}
		if slots[s].Number == 0 {
			return slots, fmt.Errorf("find slots: no partition %s", l.Labels[s])
		}
	}
	for _, slot := range slots {
		for _, e := range g.Entries {
			if e.Number != slot.Number && e.overlaps(slot) {
				return slots, fmt.Errorf("find slots: partition %d overlaps %s", e.Number, slot.Label)
			}
		}
	}
	return slots, nil
}
