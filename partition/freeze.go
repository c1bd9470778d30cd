package partition

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// Sync implements BootDir. A loader replays no journal, so on ext4 and XFS what
// fsync made durable in the journal alone does not exist for it. Freezing the
// file system writes the journal back; it is thawed at once. (ostree does the
// same for GRUB: ostree-sysroot-deploy.c, fsfreeze_thaw_cycle.)
func (d *osBootDir) Sync() error {
	f, err := d.root.Open(".")
	if err != nil {
		return fmt.Errorf("sync boot directory: %w", err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync boot file system: %w", err)
	}
	kind, err := fileSystem(f)
	if err != nil || d.plain || os.Geteuid() != 0 || kind != "ext4" && kind != "xfs" {
		return err // without root it is no loader's directory, and cannot be frozen
	}
	return freezeAndThaw(f, d.path)
}

// The ioctls of fs/ioctl.c, _IOWR('X', 119, int) and 120.
const (
	ioctlFreeze = 0xC0045877
	ioctlThaw   = 0xC0045878
)

// maxFreezes bounds how often a file system may be found frozen by another.
const maxFreezes = 16

func freezeAndThaw(dir *os.File, path string) error {
	guard, err := guardFreeze(path)
	if err != nil {
		return err
	}
	if err := freeze(dir); err != nil {
		return errors.Join(fmt.Errorf("freeze %s: %w", path, err), guard.stop("thawed\n"))
	}
	if err := unix.IoctlSetInt(int(dir.Fd()), ioctlThaw, 0); err != nil {
		// The guard's try is the last: without its word it thaws.
		return errors.Join(fmt.Errorf("thaw %s: %w", path, err), guard.stop(""))
	}
	return guard.stop("thawed\n")
}

// freeze waits for another that has frozen the file system: to change the
// directory, if only to what it is already, blocks until it is thawed.
func freeze(dir *os.File) error {
	info, err := dir.Stat()
	if err != nil {
		return err
	}
	for range maxFreezes {
		err = unix.IoctlSetInt(int(dir.Fd()), ioctlFreeze, 0)
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		if err := dir.Chmod(info.Mode()); err != nil {
			return err
		}
	}
	return err
}

// A freezeGuard is a process that thaws a file system whose freezer dies, is
// stopped, or takes longer than ten seconds. A frozen file system stops all that
// write to it, for ever: no process that can be killed may be alone with that.
type freezeGuard struct {
	cmd *exec.Cmd
	in  io.WriteCloser
}

// guardScript says "ready" once all that it needs is there, waits for one line
// or the end of its input, and thaws unless the line says that it is done.
const guardScript = `command -v fsfreeze >/dev/null && command -v timeout >/dev/null && echo ready
word=$(timeout 10 head -n 1)
[ "$word" = thawed ] || fsfreeze --unfreeze "$0"`

func guardFreeze(path string) (*freezeGuard, error) {
	cmd := exec.Command("/bin/sh", "-c", guardScript, path)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true} // what ends us must not end it
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start freeze guard: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start freeze guard: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start freeze guard: %w", err)
	}
	guard := &freezeGuard{cmd, in}
	line, _ := bufio.NewReader(io.LimitReader(out, 64)).ReadString('\n')
	if strings.TrimSpace(line) != "ready" {
		guard.stop("thawed\n")
		return nil, fmt.Errorf("freeze %s: fsfreeze and timeout are needed to thaw it in an emergency", path)
	}
	return guard, nil
}

// stop ends the guard with a word.
func (g *freezeGuard) stop(word string) error {
	_, err := io.WriteString(g.in, word)
	err = errors.Join(err, g.in.Close(), g.cmd.Wait())
	if err != nil {
		return fmt.Errorf("end freeze guard: %w", err)
	}
	return nil
}
