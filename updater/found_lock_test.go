package updater_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/policy"
	"github.com/drydock-os/drydock/updater/sim"
)

// demanding is a host on which each boot asks for another reboot.
type demanding struct{ *sim.Machine }

func (demanding) Required(policy.Policy) string { return "/run/reboot-required asks for it" }

// TestOnePermitIsForOneReboot: a machine that is to reboot again gives its permit
// back first, healthy and with its work, and goes behind the others. Else one
// that is asked at each boot would reboot without end under one permit.
func TestOnePermitIsForOneReboot(t *testing.T) {
	b, l := newBench(t, "1.0.0"), newLedger()
	l.in(b)
	ledger := b.adjust
	b.adjust = func(u *updater.Updater) { ledger(u); u.Host = demanding{b.machine} }
	count := func(what string) int {
		return len(slices.DeleteFunc(l.noted(), func(s string) bool { return !strings.HasPrefix(s, what) }))
	}
	b.live(func(updater.Status) bool { return count("rebooting") > 2 })
	if count("rebooted") < 2 {
		t.Errorf("the lock heard %q", l.noted())
	}
}
