package policy

import (
	"fmt"
	"time"

	"github.com/drydock-os/drydock/rebootlock/window"
)

// Reboots returns when p lets the machine reboot.
func (p Policy) Reboots() (window.Schedule, error) {
	return schedule(p.Reboot.Windows, p.Reboot.Timezone)
}

// Downloads returns when p lets the machine download.
func (p Policy) Downloads() (window.Schedule, error) {
	zone := p.Update.Timezone
	if zone == "" {
		zone = p.Reboot.Timezone
	}
	return schedule(p.Update.Windows, zone)
}

func schedule(windows []window.Window, zone string) (window.Schedule, error) {
	loc, err := time.LoadLocation(zone)
	if err != nil {
		return window.Schedule{}, fmt.Errorf("load time zone: %w", err)
	}
	return window.Schedule{Windows: windows, Location: loc}, nil
}
