package partition

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
)

// kernels keeps the two kernels of a boot loader that finds them by fixed names
// (gptprio, GRUB). A pending one stands beside its place under a name that no
// loader is told of.
type kernels struct {
	boot BootDir
	dir  string // in boot
}

func (k kernels) placed(s Slot) string  { return k.dir + "/vmlinuz-" + s.letter() }
func (k kernels) pending(s Slot) string { return k.dir + "/.drydock-pending-" + s.letter() }

func (k kernels) has(name string) (bool, error) {
	f, err := k.boot.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, f.Close()
}

// create frees the space of the old kernel of s before the new one takes its
// own: /boot rarely holds three.
func (k kernels) create(s Slot) (File, error) {
	for _, name := range []string{k.placed(s), k.pending(s)} {
		if err := k.boot.Remove(name); err != nil {
			return nil, err
		}
	}
	return k.boot.Create(k.pending(s))
}

// pends says whether the pending kernel of s is the one that counts. Beside a
// placed one an empty pending one does not: it is what fsck left of a rename.
func (k kernels) pends(s Slot) (bool, error) {
	f, err := k.boot.Open(k.pending(s))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	empty := f.Size() == 0
	if err := f.Close(); err != nil || !empty {
		return true, err
	}
	placed, err := k.has(k.placed(s))
	return !placed, err
}

func (k kernels) open(s Slot) (File, error) {
	pending, err := k.pends(s)
	if err != nil {
		return nil, err
	}
	if pending {
		return k.boot.Open(k.pending(s))
	}
	return k.boot.Open(k.placed(s))
}

// place moves the pending kernel. Where it is placed already the directory is
// synced all the same: the power may have failed between the two.
func (k kernels) place(s Slot) (string, error) {
	pending, err := k.pends(s)
	if err != nil {
		return "", err
	}
	if pending {
		err = k.boot.Rename(k.pending(s), k.placed(s))
	} else {
		err = k.boot.Remove(k.pending(s))
	}
	if err != nil {
		return "", err
	}
	placed, err := k.has(k.placed(s))
	if err != nil || !placed {
		return "", err
	}
	return k.boot.Path(k.placed(s)), k.boot.Sync()
}

// newlyBootable refuses flags that would boot a slot whose kernel still stands
// under its pending name: the loader would find an old kernel or none.
func (k kernels) newlyBootable(old, next Table) error {
	for s := range next {
		if old[s].Bootable() || !next[s].Bootable() {
			continue
		}
		pending, err := k.pends(Slot(s))
		if err != nil {
			return err
		}
		if pending {
			return fmt.Errorf("set flags: the kernel of slot %s is not placed yet", Slot(s))
		}
	}
	return nil
}

// flatcarKernels finds where a Flatcar machine keeps its kernels: coreos/ if one
// of them is there already, pending or placed, else flatcar/ (UE:omaha_response_handler_action.cc).
func flatcarKernels(boot BootDir) (kernels, error) {
	names, err := boot.ReadDir("coreos")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return kernels{}, err
	}
	old := kernels{boot, "coreos"}
	for _, s := range []Slot{A, B} {
		if slices.Contains(names, path.Base(old.placed(s))) || slices.Contains(names, path.Base(old.pending(s))) {
			return old, nil
		}
	}
	return kernels{boot, "flatcar"}, nil
}
