package daemon

import "github.com/drydock-os/drydock/fleetlink"

// Schedule has a daemon that does not run yet ask another scheduler.
func (d *Daemon) Schedule(s fleetlink.Link) { d.updater.Scheduler = s }
