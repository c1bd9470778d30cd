// Package host is the machine that the updater runs on: who it is, what its
// slots hold, the release's hook, and the operator's health checks.
package host

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drydock-os/drydock/updater/image"
)

// Identity is what tells a machine, and one boot of it, from others.
type Identity struct {
	MachineID string        // /etc/machine-id, 32 hexadecimal digits
	BootID    string        // /proc/sys/kernel/random/boot_id, with dashes
	Arch      string        // uname -m
	Up        time.Duration // since the boot, sleep included (/proc/uptime); 0 if that is not known
}

// maxSmallFile bounds the files read from the running system, in bytes.
const maxSmallFile = 64 << 10

// Identify returns the identity of the system whose files are under root, "/"
// for the running one. Arch is always the running kernel's.
func Identify(root string) (Identity, error) {
	machine, err := readSmall(filepath.Join(root, "etc/machine-id"))
	if err != nil {
		return Identity{}, fmt.Errorf("read machine-id: %w", err)
	}
	id := Identity{MachineID: strings.TrimSpace(string(machine))}
	if !isMachineID(id.MachineID) {
		return Identity{}, fmt.Errorf("read machine-id: %q is not 32 hexadecimal digits: see systemd-machine-id-setup(1)", id.MachineID)
	}
	boot, err := readSmall(filepath.Join(root, "proc/sys/kernel/random/boot_id"))
	if err != nil {
		return Identity{}, fmt.Errorf("read boot-id: %w", err)
	}
	if id.BootID = strings.TrimSpace(string(boot)); id.BootID == "" {
		return Identity{}, errors.New("read boot-id: the file is empty")
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return Identity{}, fmt.Errorf("read architecture: %w", err)
	}
	id.Arch = unix.ByteSliceToString(uts.Machine[:])
	id.Up = uptime(root)
	return id, nil
}

// uptime reads proc/uptime, as in "8136.21 15908.74" (proc_uptime(5)). It is
// no part of who the machine is, so what cannot be read is not known.
func uptime(root string) time.Duration {
	text, err := readSmall(filepath.Join(root, "proc/uptime"))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), " ")
	up, err := time.ParseDuration(first + "s")
	if err != nil {
		return 0
	}
	return max(up, 0)
}

// isMachineID follows machine-id(5). "uninitialized" is not one.
func isMachineID(s string) bool {
	return len(s) == 32 && strings.Trim(s, "0123456789abcdef") == ""
}

// Running returns the release of the system whose files are under root, "/"
// for the running one. As in a slot, the release's own os-release counts
// before the one in /etc, which is the operator's to change.
func Running(root string) (image.Release, error) {
	release, err := treeRelease(root)
	if err != nil {
		return image.Release{}, fmt.Errorf("read the running release: %w", err)
	}
	return release, nil
}

// treeRelease returns the release of the directory tree at dir. os.Root, and
// image.TreeRelease, keep its symbolic links from naming a file outside.
func treeRelease(dir string) (image.Release, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return image.Release{}, err
	}
	defer root.Close()
	tree, ok := root.FS().(fs.ReadLinkFS)
	if !ok {
		return image.Release{}, errors.ErrUnsupported
	}
	return image.TreeRelease(tree)
}

// readSmall returns the content of a file that should be small.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSmallFile+1))
	if err == nil && len(data) > maxSmallFile {
		err = fmt.Errorf("%s: more than %d bytes", path, maxSmallFile)
	}
	return data, err
}
