package hook

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// maxHooks bounds the hooks of a directory: each is a process at every look.
const maxHooks = 64

// A hook is an executable that may be run.
type hook struct {
	name string // of its file, for people and for the record
	path string
}

// hooks lists the hooks of the directory, in the order of their names. What is
// not to be trusted, or cannot be run, is an error: a hook that is passed over is
// work that nobody takes off the machine.
func (l *Link) hooks() ([]hook, error) {
	hooks, wrong := list(l.Dir)
	if len(wrong) > 0 {
		return nil, wrong[0]
	}
	return hooks, nil
}

// Judge names the hooks of a directory, in the order in which they are called, and
// says all that is wrong with it and with them: with any of that, no hook is called.
// It runs none.
func Judge(dir string) (names []string, wrong []error) {
	hooks, wrong := list(dir)
	for _, h := range hooks {
		names = append(names, h.name)
	}
	return names, wrong
}

// list lists the hooks of a directory, and what is wrong with any.
func list(dir string) (hooks []hook, wrong []error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, []error{fmt.Errorf("list hooks: %w", err)}
	}
	for _, e := range entries {
		if passedOver(e.Name()) {
			continue
		}
		h := hook{e.Name(), filepath.Join(dir, e.Name())}
		if err := Trusted(h.path); err != nil {
			wrong = append(wrong, fmt.Errorf("hook %s: refused, and nothing is drained without it: %w", h.name, err))
		}
		hooks = append(hooks, h)
	}
	switch {
	case len(hooks) == 0:
		wrong = append(wrong, fmt.Errorf("%s holds no hook, so nothing takes work off this machine: "+
			"put one there, or name another scheduler in the policy", dir))
	case len(hooks) > maxHooks:
		wrong = append(wrong, fmt.Errorf("%s holds %d hooks, limit %d", dir, len(hooks), maxHooks))
	}
	return hooks, wrong
}

// leftOver are endings of files that no one meant to be run (run-parts(8)).
var leftOver = []string{"~", "#", ".bak", ".orig", ".rej", ".swp", ".tmp", ".rpmsave", ".rpmorig", ".rpmnew", ".dpkg-old", ".dpkg-new", ".dpkg-dist", ".dpkg-tmp"}

func passedOver(name string) bool {
	for _, end := range leftOver {
		if strings.HasSuffix(name, end) {
			return true
		}
	}
	return name[0] == '.' || name[0] == '#'
}

// Trusted refuses what is no executable file, and what others than root, or the
// user that we run as, could have written or put in its place: the file, and each
// directory above it, links followed.
func Trusted(path string) error {
	resolved, err := filepath.EvalSymlinks(path)
	if err == nil {
		resolved, err = filepath.Abs(resolved)
	}
	if err != nil {
		return err
	}
	info, err := os.Stat(resolved)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a file", path)
	case info.Mode()&0o111 == 0:
		return fmt.Errorf("%s is not executable: chmod +x it, or move it away", path)
	}
	for ; ; resolved = filepath.Dir(resolved) {
		info, err := os.Stat(resolved)
		if err != nil {
			return err
		}
		if err := owned(info); err != nil {
			return fmt.Errorf("%s: %w", resolved, err)
		}
		if resolved == filepath.Dir(resolved) {
			return nil
		}
	}
}

// owned refuses a file or directory that others can change. In a directory with
// the sticky bit they cannot replace what is not theirs.
func owned(info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	sticky := info.IsDir() && info.Mode()&fs.ModeSticky != 0
	switch {
	case !ok:
		return errors.New("its owner is not known")
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("it belongs to user %d, not to root", st.Uid)
	case sticky:
		return nil
	case info.Mode()&0o002 != 0, info.Mode()&0o020 != 0 && st.Gid != 0:
		return fmt.Errorf("others than root may write to it (mode %#o)", info.Mode().Perm())
	}
	return nil
}
