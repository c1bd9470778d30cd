package guest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/drydock-os/drydock/cmd/internal/guest"
	"github.com/drydock-os/drydock/rebootlock"
)

// A fleet is two machines of one group, one of them with the version before.
type fleet struct {
	harbour
	current, former host
}

// TestMixedFleet has a fleet of two versions updated, once by a coordinator of each.
func TestMixedFleet(t *testing.T) {
	t.Parallel()
	l := guest.Open(t)
	deb := l.Former(t, formerCommit, formerVersion).Deb
	images := map[string][]guest.Image{}
	for i := range 3 {
		version := fmt.Sprintf("1.0.%d", i)
		images["current"] = append(images["current"], image(t, l, guest.Release{Version: version, Loader: guest.Modelled}))
		images["former"] = append(images["former"], image(t, l, guest.Release{Version: version, Loader: guest.Modelled, Deb: deb}))
	}
	f := fleet{harbour: openHarbour(t, l)}
	l.Processor(t)
	machine := func(name, coordinate string) host {
		m := l.Machine(t, guest.Spec{Name: name, Release: images[name][0], Files: tmp,
			Policy: f.policy(map[string]string{"cluster.coordinate": coordinate})})
		m.PowerOn()
		return host{m, t}
	}
	f.current, f.former = machine("current", "true"), machine("former", "false")
	for h, version := range map[host]string{f.current: guest.Version, f.former: formerVersion} {
		h.Settled(5*time.Minute, "1.0.0")
		h.runs(version)
	}
	for round, coordinator := range []host{f.current, f.former} {
		f.elect(coordinator)
		for _, h := range []host{f.current, f.former} {
			h.Server.Offer(t, images[h.Name][round+1])
			h.Do("drydock update --no-wait || true")
		}
		for _, h := range []host{f.current, f.former} {
			h.Settled(8*time.Minute, fmt.Sprintf("1.0.%d", round+1))
			guest.Count(t, "updates", 1)
		}
		f.inTurn(round + 1)
		f.legible()
	}
}

// elect has one machine be the coordinator, and no other.
func (f fleet) elect(h host) {
	f.t.Helper()
	for _, m := range []host{f.current, f.former} {
		m.Do(fmt.Sprintf("sed -i 's/^coordinate = .*/coordinate = %t/' /etc/drydock/drydock.toml && "+reload, m.Name == h.Name))
	}
	h.Until(3*time.Minute, "it is the coordinator", func(context.Context) bool {
		v := f.look()
		return v.Coordinator.Machine == h.ID() && !v.Coordinator.Stalled && len(v.Machines) == 2
	})
}

// inTurn checks by the lock's journal that each machine has updated so many times,
// and never two at once.
func (f fleet) inTurn(times int) {
	f.t.Helper()
	f.ended(2*times, "updated")
	holder, updated := "", map[string]int{}
	for _, e := range f.journal() {
		switch e.What {
		case "granted":
			if holder != "" {
				f.t.Errorf("a permit was granted to %s while %s had it", e.Machine, holder)
			}
			holder = e.Machine
		case "updated":
			updated[e.Machine]++
			holder = ""
		case "joined", "rules":
		default:
			f.t.Errorf("the journal says %+v", e)
		}
	}
	if updated[f.current.ID()] != times || updated[f.former.ID()] != times {
		guest.Count(f.t, "lost", 1)
		f.t.Errorf("updated %v, want each %d times", updated, times)
	}
}

// legible checks that both versions read all records, and the same in them.
func (f fleet) legible() {
	f.t.Helper()
	var texts []string
	for _, h := range []host{f.current, f.former} {
		var v rebootlock.View
		text := h.Do("drydock lock status --json")
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			f.t.Fatalf("%s: %v: %s", h.Name, err, text)
		}
		if len(v.Unreadable) > 0 || len(v.Machines) != 2 || len(v.Groups) != 1 || v.Groups[0].Rules == nil {
			f.t.Errorf("%s reads %s", h.Name, text)
		}
		said := fmt.Sprint(v.UID, v.Coordinator.Machine, v.Groups[0].Rules, v.Groups[0].Members, v.Groups[0].Failures)
		for _, m := range v.Machines {
			if m.Status == nil {
				f.t.Errorf("%s does not read the status of %s", h.Name, m.Hostname)
				continue
			}
			said += fmt.Sprint(" ", m.Member.Machine, m.Status.Release, m.Status.Slot)
		}
		texts = append(texts, said)
	}
	if texts[0] != texts[1] {
		f.t.Errorf("two versions read\n%s\n%s", texts[0], texts[1])
	}
}
