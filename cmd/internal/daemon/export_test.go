package daemon

import "github.com/drydock-os/drydock/updater"

// Schedule has a daemon that does not run yet ask another scheduler.
func (d *Daemon) Schedule(s updater.Scheduler) { d.updater.Scheduler = s }
