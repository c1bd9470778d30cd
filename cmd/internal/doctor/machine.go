package doctor

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/host"
	"github.com/drydock-os/drydock/updater/policy"
)

var machineChecks = []check{
	{id: "machine.id", bare: true, look: lookMachineID},
	{id: "machine.instance", applies: inCluster, look: lookInstance},
	{id: "machine.release", image: true, look: lookRelease},
	{id: "machine.memory", look: lookMemory},
}

func inCluster(p policy.Policy) bool { return p.Cluster.ID != "" && p.FleetLock.URL == "" }

func lookMachineID(_ context.Context, p *patient) Finding {
	text, err := p.read("etc/machine-id")
	id := strings.TrimSpace(text)
	if err == nil {
		err = rebootlock.CheckMachineID(id)
	}
	if err != nil {
		return Finding{Verdict: Wrong, Seen: "/etc/machine-id: " + err.Error(), Means: "the machine has no name: it asks for no update, and takes no part in the lock",
			Mend: "systemd-machine-id-setup, on a root file system that keeps it"}
	}
	if _, err := host.Identify(p.path()); err != nil {
		return unread("who this machine is", err)
	}
	return ok("%s", id)
}

// lookInstance reads the instance-id; state.InstanceID would make one.
func lookInstance(_ context.Context, p *patient) Finding {
	path := filepath.Join(p.policy.State, "instance-id")
	data, err := document(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Finding{Verdict: Warning, Seen: "there is no " + path, Means: "drydockd has not joined a cluster yet: it makes the file when it does",
			Mend: "start drydockd; where it ran before, see that the state directory outlives reboots"}
	case err != nil:
		return unread(path, err)
	}
	if id, err := hex.DecodeString(strings.TrimSpace(string(data))); err != nil || len(id) != 16 {
		return Finding{Verdict: Wrong, Seen: path + " holds no instance-id (32 hexadecimal digits)", Means: "drydockd makes a new one, and the cluster sees a reinstalled machine, which must be healthy before it gets its old permit back",
			Mend: "look for what damaged it (fsck of that file system), then restart drydockd"}
	}
	return ok("%s is there", path)
}

func lookRelease(_ context.Context, p *patient) Finding {
	release, err := host.Running(p.path())
	if err != nil {
		return Finding{Verdict: Wrong, Seen: err.Error(), Means: "what runs is not known, so no release counts as newer", Mend: "the image must hold /usr/lib/os-release with VERSION_ID"}
	}
	// What runs is refused as the same; a version that cannot be read is refused as
	// that.
	var refusal *policy.Refusal
	if err := p.said.Accept(release.Number(), "999999.0.0"); errors.As(err, &refusal) && refusal.Reason == policy.Unreadable {
		return Finding{Verdict: Wrong, Seen: fmt.Sprintf("VERSION_ID %q is no version: %s", release.Number(), refusal.Detail), Means: "every release is refused: it cannot be told which is newer",
			Mend: "give the image's os-release a VERSION_ID of one to three numbers, like 4459.2.1"}
	}
	return ok("%s", release.Number())
}

// lookMemory reads what drydockd remembers, without putting a bad file aside as
// it does.
func lookMemory(_ context.Context, p *patient) Finding {
	path := filepath.Join(p.policy.State, "memory.json")
	data, err := document(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ok("nothing is remembered yet")
	}
	if err != nil {
		return unread(path, err)
	}
	var m updater.Memory
	if err := json.Unmarshal(data, &m); err != nil {
		return Finding{Verdict: Warning, Seen: fmt.Sprintf("%s: %v", path, err), Means: "drydockd puts it aside when it starts: a written release is downloaded again, and rejected ones are forgotten",
			Mend: "look for what damaged it (fsck of that file system)"}
	}
	if len(m.Rejected) > 0 {
		return ok("%d releases are rejected: drydock status names them", len(m.Rejected))
	}
	return ok("%s reads", path)
}
