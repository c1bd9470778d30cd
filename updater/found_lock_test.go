package updater_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

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

// mumbling is a host whose answer to the reboot is lost, and that reboots a
// moment later.
type mumbling struct{ *sim.Machine }

func (m mumbling) Reboot(ctx context.Context, why string, forced bool) error {
	time.AfterFunc(300*time.Millisecond, func() { m.Machine.Reboot(context.Background(), why, forced) })
	return errors.New("reboot through logind: no reply")
}

// TestRebootWithoutAnAnswerMayBeUnderWay: the permit of a machine that may go
// down any moment is not given back, and its flags stay.
func TestRebootWithoutAnAnswerMayBeUnderWay(t *testing.T) {
	b, l := ready(t), newLedger()
	l.in(b)
	ledger := b.adjust
	b.adjust = func(u *updater.Updater) { ledger(u); u.Host = mumbling{b.machine} }
	b.live(updated("1.1.0"))
	if want := []string{"draining", "staging", "staging", "rebooting", "updated: "}; !slices.Equal(l.noted(), want) {
		t.Errorf("the lock heard %q, want %q", l.noted(), want)
	}
}
