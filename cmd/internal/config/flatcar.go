package config

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/drydock-os/drydock/updater/policy"
)

// Flatcar holds what Flatcar's own files say of updates (update_engine,
// omaha_request_params.cc), with upstream's defaults for what they leave out.
type Flatcar struct {
	Group           string // GROUP
	Server          string // SERVER; "disabled" by convention for no updates
	Version         string // FLATCAR_RELEASE_VERSION
	Board           string // FLATCAR_RELEASE_BOARD
	AppID           string // FLATCAR_RELEASE_APPID
	MachineAlias    string // MACHINE_ALIAS
	PCRPolicyServer string // PCR_POLICY_SERVER
	User            string // DOWNLOAD_USER
	Password        policy.Secret
	OEM             string // ID of oem-release
	OEMVersion      string // VERSION_ID of oem-release
}

// In these files a key is looked up, in this order; the first file that has
// the key decides, even with an empty value.
var (
	confFiles = []string{"/etc/flatcar/update.conf", "/usr/share/flatcar/update.conf", "/usr/share/flatcar/release"}
	oemFiles  = []string{"/etc/oem-release", "/usr/share/oem/oem-release"}
)

const flatcarServer = "https://public.update.flatcar-linux.net/v1/update/"

// ReadFlatcar reads Flatcar's files below root, "/" on a host. Missing files
// are usual. One that is there and cannot be read is an error, where upstream
// goes on without it: it may be the one that says SERVER=disabled.
func ReadFlatcar(root string) (Flatcar, error) {
	conf, err := readAll(root, confFiles)
	if err != nil {
		return Flatcar{}, fmt.Errorf("read Flatcar's configuration: %w", err)
	}
	oem, err := readAll(root, oemFiles)
	if err != nil {
		return Flatcar{}, fmt.Errorf("read Flatcar's configuration: %w", err)
	}
	return flatcar(conf, oem), nil
}

// ReadUpdateConf reads one file as the update.conf of a host that has no others:
// Board, OEM and OEMVersion come from those.
func ReadUpdateConf(path string) (Flatcar, error) {
	data, err := read(path)
	if err != nil {
		return Flatcar{}, fmt.Errorf("read update.conf: %w", err)
	}
	return flatcar([]map[string]string{assignments(string(data))}, nil), nil
}

func flatcar(conf, oem []map[string]string) Flatcar {
	return Flatcar{
		Group:           first(conf, "GROUP", "stable"),
		Server:          first(conf, "SERVER", flatcarServer),
		Version:         first(conf, "FLATCAR_RELEASE_VERSION", ""),
		Board:           first(conf, "FLATCAR_RELEASE_BOARD", ""),
		AppID:           first(conf, "FLATCAR_RELEASE_APPID", policy.DefaultAppID),
		MachineAlias:    first(conf, "MACHINE_ALIAS", ""),
		PCRPolicyServer: first(conf, "PCR_POLICY_SERVER", ""),
		User:            first(conf, "DOWNLOAD_USER", ""),
		Password:        policy.Secret(first(conf, "DOWNLOAD_PASSWORD", "")),
		OEM:             first(oem, "ID", ""),
		OEMVersion:      first(oem, "VERSION_ID", ""),
	}
}

// Apply returns p with what its [server] leaves empty filled in from f. An
// empty SERVER, or "disabled", ends updates whatever the policy file says:
// Flatcar's tools write it to stop them.
func Apply(p policy.Policy, f Flatcar) policy.Policy {
	s := &p.Server
	if f.Server == "" || f.Server == "disabled" {
		p.Update.Enabled = false
	} else {
		fill(&s.URL, f.Server)
	}
	fill(&s.Group, f.Group)
	fill(&s.Version, f.Version)
	fill(&s.Board, f.Board)
	fill(&s.AppID, f.AppID)
	fill(&s.MachineAlias, f.MachineAlias)
	fill(&s.PCRPolicyServer, f.PCRPolicyServer)
	fill(&s.OEM, f.OEM)
	fill(&s.OEMVersion, f.OEMVersion)
	// A password goes with its own user alone.
	if s.User == "" {
		s.User, s.Password = f.User, f.Password
	}
	return p
}

func fill(field *string, value string) {
	if *field == "" {
		*field = value
	}
}

// readAll returns what each file that is there holds, in order.
func readAll(root string, files []string) ([]map[string]string, error) {
	var all []map[string]string
	for _, name := range files {
		data, err := read(filepath.Join(root, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, assignments(string(data)))
	}
	return all, nil
}

// first returns the value of key in the first file that has it.
func first(files []map[string]string, key, missing string) string {
	for _, f := range files {
		if value, ok := f[key]; ok {
			return value
		}
	}
	return missing
}

// assignments reads lines of KEY=VALUE as upstream does (update_engine,
// simple_key_value_store.cc): nothing is trimmed, nothing is a comment, a later
// line wins, and one pair of quotes around the whole value goes.
func assignments(text string) map[string]string {
	values := map[string]string{}
	for line := range strings.SplitSeq(text, "\n") {
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			continue
		}
		if n := len(value); n >= 2 && value[0] == value[n-1] && (value[0] == '"' || value[0] == '\'') {
			value = value[1 : n-1]
		}
		values[key] = value
	}
	return values
}
