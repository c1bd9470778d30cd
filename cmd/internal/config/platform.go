package config

import (
	"github.com/drydock-os/drydock/updater/platform"
	"github.com/drydock-os/drydock/updater/policy"
)

// PlatformSource returns where p wants facts about the machine to be read.
func PlatformSource(p policy.Platform) platform.Source {
	return platform.Source{
		Provider:    string(p.Provider),
		File:        p.File,
		ZoneKey:     p.ZoneKey,
		RegionKey:   p.RegionKey,
		InstanceKey: p.InstanceKey,
		TypeKey:     p.TypeKey,
		Endpoint:    p.Endpoint,
		ConfigDrive: p.ConfigDrive,
	}
}
