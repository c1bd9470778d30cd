package daemon

import (
	"context"
	"fmt"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/drydock-os/drydock/updater/policy"
)

// pulse is an updater whose loop can be seen to live.
type pulse interface {
	// Beat is the time of the last sign of life, zero before the first: a look,
	// a step that began, a piece of progress.
	Beat() time.Time
}

// hashTime is how long a slot may take to be read and hashed, the longest thing
// that the updater does in silence and that no policy bounds: 4 GiB from a card
// that reads 7 MB a second.
const hashTime = 10 * time.Minute

// silence is how long an updater that is well may give no sign of life under a
// policy: while it waits for workloads to leave, for the release's hook or for
// the health checks. Longer than that it hangs.
func silence(p policy.Policy) time.Duration {
	return max(p.Drain.Timeout, p.Drain.ForceGrace, p.Hook.Timeout, p.Health.Timeout) + hashTime
}

// notify tells systemd that the daemon is up, and feeds its watchdog for as
// long as the updater lives.
func (d *Daemon) notify(ctx context.Context) error {
	d.ready()
	interval, err := sd.SdWatchdogEnabled(false)
	if err != nil || interval <= 0 {
		<-ctx.Done()
		d.say(sd.SdNotifyStopping)
		return nil
	}
	began, stuck := time.Now(), false
	ticker := time.NewTicker(interval / 2)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			d.say(sd.SdNotifyStopping)
			return nil
		case <-ticker.C:
		}
		last := d.pulse.Beat()
		if last.IsZero() {
			last = began
		}
		quiet, bound := time.Since(last), silence(d.keeper.Policy())
		if quiet < bound {
			d.say(sd.SdNotifyWatchdog)
		} else if !stuck {
			d.Log.Error("the updater gives no sign of life, the watchdog is left to bite", "for", quiet, "longest", bound)
		}
		stuck = quiet >= bound
	}
}

func (d *Daemon) ready() { d.say(sd.SdNotifyReady) }

// reloading says, as Type=notify-reload wants it, when the reload began.
func (d *Daemon) reloading() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return
	}
	d.say(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", sd.SdNotifyReloading, now.Nano()/1000))
}

// say passes a state on. A machine whose systemd cannot be told goes on.
func (d *Daemon) say(state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		d.Log.Warn("systemd does not hear", "error", err)
	}
}
