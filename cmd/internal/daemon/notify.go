package daemon

import (
	"context"
	"fmt"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// notify tells systemd that the daemon is up, and feeds its watchdog for as
// long as the updater answers.
func (d *Daemon) notify(ctx context.Context) error {
	d.ready()
	interval, err := sd.SdWatchdogEnabled(false)
	if err != nil || interval <= 0 {
		<-ctx.Done()
		return d.say(sd.SdNotifyStopping)
	}
	ticker := time.NewTicker(interval / 2)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return d.say(sd.SdNotifyStopping)
		case <-ticker.C:
			d.updater.Status() // hangs where the updater does, and the watchdog bites
			d.say(sd.SdNotifyWatchdog)
		}
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
func (d *Daemon) say(state string) error {
	if _, err := sd.SdNotify(false, state); err != nil {
		d.Log.Warn("systemd does not hear", "error", err)
	}
	return nil
}
