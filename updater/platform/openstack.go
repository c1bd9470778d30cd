package platform

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/drydock-os/drydock/updater/state"
)

// openStack reads nova's metadata (nova, user/metadata.rst): from the config
// drive where one is mounted, else from the service. A drive that is there and
// cannot be read is an error, and no reason to ask elsewhere.
func (s Source) openStack(ctx context.Context) (Facts, error) {
	drive := s.ConfigDrive
	if drive == "" {
		drive = DefaultConfigDrive
	}
	name := filepath.Join(drive, "openstack", "latest", "meta_data.json")
	data, err := state.ReadFile(name, maxFile)
	if err == nil {
		f, err := novaFacts(name, data)
		f.InstanceType = driveType(drive)
		return f, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return Facts{}, err
	}
	service, err := s.service()
	if err != nil {
		return Facts{}, err
	}
	var f Facts
	err = service.try(ctx, func() error {
		const path = "/openstack/latest/meta_data.json"
		data, err := service.do(ctx, http.MethodGet, path, nil)
		if err == nil {
			f, err = novaFacts("GET "+service.base+path, data)
		}
		return err
	})
	if err != nil {
		return f, fmt.Errorf("no config drive at %s, and the service: %w", drive, err)
	}
	// The flavour is in the part that is like EC2's alone, and not on every
	// cloud: without it the facts are still good.
	if data, err := service.do(ctx, http.MethodGet, "/latest/meta-data/instance-type", nil); err == nil {
		f.InstanceType = plain(data)
	}
	return f, nil
}

// novaFacts reads meta_data.json, and says in errors where it is from.
func novaFacts(from string, data []byte) (Facts, error) {
	var m struct {
		UUID string `json:"uuid"`
		Zone string `json:"availability_zone"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return Facts{}, fmt.Errorf("%s: %w: %w", from, errAnswer, err)
	}
	f := Facts{Zone: m.Zone, InstanceID: m.UUID}
	switch {
	case f.InstanceID == "":
		return Facts{}, fmt.Errorf("%s: %w: it names no instance", from, errAnswer)
	case f.Zone == "":
		return f, fmt.Errorf("%s: %w: %w", from, errAnswer, errNoZone)
	}
	return f, nil
}

// driveType returns the flavour that a config drive says, or "".
func driveType(drive string) string {
	data, err := state.ReadFile(filepath.Join(drive, "ec2", "latest", "meta-data.json"), maxFile)
	if err != nil {
		return ""
	}
	var m struct {
		Type string `json:"instance-type"`
	}
	if json.Unmarshal(data, &m) != nil {
		return ""
	}
	return plain([]byte(m.Type))
}

// plain returns an answer of one line, or "" for what is none.
func plain(data []byte) string {
	s := strings.TrimSpace(string(data))
	if odd(s) != "" {
		return ""
	}
	return s
}
