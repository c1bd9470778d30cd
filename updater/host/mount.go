package host

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drydock-os/drydock/updater/image"
)

// ErrNoMount says that the slot cannot be mounted here: it is a plain file, or
// we are not root. The caller decides what that means.
var ErrNoMount = errors.New("slot cannot be mounted here")

// ErrTwin says that a file system with the same UUID is mounted already, which
// btrfs refuses for another device: nothing is known of the slot's content.
var ErrTwin = errors.New("a btrfs with the same UUID is mounted already, and this kernel mounts no second one")

// OSRelease returns the release that a slot holds, by reading the image, or,
// where no reader knows its file system and the slot is a device, by mounting
// it (read-only, nothing on it may run). What cannot be read either way is
// image.ErrFormat; a slot whose twin is mounted is ErrTwin, which says nothing
// about the image.
func OSRelease(device string) (image.Release, error) {
	f, err := os.Open(device)
	if err != nil {
		return image.Release{}, fmt.Errorf("read os-release of slot: %w", err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return image.Release{}, fmt.Errorf("read os-release of slot: %w", err)
	}
	release, formatErr := image.OSRelease(f, size)
	if !errors.Is(formatErr, image.ErrFormat) {
		return release, formatErr
	}
	err = withMount(mount{Device: device, Flags: unix.MS_NOEXEC}, func(dir string) error {
		var err error
		if release, err = treeRelease(dir); err != nil {
			return fmt.Errorf("read os-release of slot: %w", err)
		}
		return nil
	})
	return readRelease(device, release, formatErr, err)
}

// readRelease says what came of mounting a slot that no reader could read.
func readRelease(device string, release image.Release, formatErr, err error) (image.Release, error) {
	switch {
	case errors.Is(err, ErrTwin):
		return image.Release{}, fmt.Errorf("which release slot %s holds cannot be read while its twin is mounted: %w", device, err)
	case errors.Is(err, ErrNoMount):
		return image.Release{}, fmt.Errorf("%w (%w)", formatErr, err)
	}
	return release, err
}

// mount is one mounting of a slot.
type mount struct {
	Device string
	Dir    string  // where to make the mount point; see mountDir if empty
	Flags  uintptr // besides read-only, no devices, no set-user-ID
}

// mountDir is the service's directory below /run (systemd.exec(5),
// "RuntimeDirectory="), which is there and writable where /tmp need not be: on a
// root that is read-only, PrivateTmp= gives a /tmp that is read-only too. Without
// it, the temporary directory.
func mountDir() string {
	dir, _, _ := strings.Cut(os.Getenv("RUNTIME_DIRECTORY"), ":")
	return dir
}

// withMount runs use with m's slot mounted read-only at dir. The mount lives in
// a mount namespace of its own where the kernel allows one: nobody else sees
// it, and it is gone with us even if we are killed. It is taken down in any
// case, lazily if something still holds it.
func withMount(m mount, use func(dir string) error) error {
	kind, err := m.kind()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(cmp.Or(m.Dir, mountDir()), "drydock-slot-")
	if err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	// Not RemoveAll: should the unmount fail, nothing on the slot may be hit.
	defer os.Remove(dir)
	return onThread(func() error {
		// Without a namespace the mount is merely visible to others.
		if unix.Unshare(unix.CLONE_NEWNS) == nil {
			// Slave: what the host mounts meanwhile (an automounted /boot)
			// still arrives here, and nothing of ours leaves.
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
				return fmt.Errorf("make mounts private: %w", err)
			}
		}
		if err := m.attach(kind, dir); err != nil {
			return err
		}
		return errors.Join(use(dir), detach(dir))
	})
}

// kind returns the slot's file system, or ErrNoMount.
func (m mount) kind() (string, error) {
	if os.Geteuid() != 0 {
		return "", fmt.Errorf("%w: not root", ErrNoMount)
	}
	f, err := os.Open(m.Device)
	if err != nil {
		return "", fmt.Errorf("mount slot: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("mount slot: %w", err)
	}
	if info.Mode()&(fs.ModeDevice|fs.ModeCharDevice) != fs.ModeDevice {
		return "", fmt.Errorf("%w: %s is not a block device", ErrNoMount, m.Device)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return "", fmt.Errorf("mount slot: %w", err)
	}
	kind := image.Kind(f, size)
	if kind == "" {
		return "", fmt.Errorf("mount slot %s: %w", m.Device, image.ErrFormat)
	}
	return kind, nil
}

// mountOptions keep each file system from replaying a journal onto a slot
// whose content is verified: read-only alone does not.
var mountOptions = map[string]string{
	"ext4":  "noload",
	"btrfs": "rescue=nologreplay",
	"xfs":   "norecovery,nouuid",
}

func (m mount) attach(kind, dir string) error {
	flags := m.Flags | unix.MS_RDONLY | unix.MS_NODEV | unix.MS_NOSUID
	err := unix.Mount(m.Device, dir, kind, flags, mountOptions[kind])
	if kind == "ext4" && err != nil {
		// A kernel may have the older drivers alone. They take no journal.
		if unix.Mount(m.Device, dir, "ext2", flags, "") == nil {
			err = nil
		}
	}
	if kind == "btrfs" && errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("mount slot %s: %w", m.Device, ErrTwin)
	}
	if err != nil {
		return fmt.Errorf("mount slot %s as %s: %w", m.Device, kind, err)
	}
	return nil
}

const (
	// A killed process lets go of its files a moment after the kill.
	detachTries = 50
	detachEvery = 20 * time.Millisecond
)

func detach(dir string) error {
	err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
	tick := time.NewTicker(detachEvery)
	defer tick.Stop()
	for try := 1; errors.Is(err, unix.EBUSY) && try < detachTries; try++ {
		<-tick.C
		err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
	}
	if err == nil {
		return nil
	}
	// A process that left the hook's group still holds it. Detached, the mount
	// ends with that process.
	if lazy := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); lazy != nil {
		return fmt.Errorf("unmount slot: %w (%w)", lazy, err)
	}
	return nil
}

// onThread runs f on a thread of its own, which ends with f, so that what f
// does to the thread's namespaces is seen by nobody else.
func onThread(f func() error) (err error) {
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread() // and never unlocked: the thread ends
		if unix.Gettid() != os.Getpid() {
			err = f()
			return
		}
		// The main thread would not end, and /proc/self shows its view. Hold
		// it here while another one does the work.
		err = onThread(f)
		runtime.UnlockOSThread()
	})
	wg.Wait()
	return err
}
