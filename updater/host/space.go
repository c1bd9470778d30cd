package host

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrNoSpace is what every error of a full disk is, whoever met it: ENOSPC.
var ErrNoSpace error = syscall.ENOSPC

// SpaceError says how much room is missing where. It is ErrNoSpace.
type SpaceError struct {
	Dir       string
	Need      int64 // bytes that were to be written, 0 if unknown
	Available int64 // bytes left for root
}

// Error is for an operator: what is full, what it means, what to do.
func (e *SpaceError) Error() string {
	if e.Need == 0 {
		return fmt.Sprintf("%s is full: %s left; the release cannot be stored; free space there", e.Dir, mib(e.Available))
	}
	return fmt.Sprintf("%s is too full: %s needed, %s left; the release cannot be stored; free %s there",
		e.Dir, mib(e.Need), mib(e.Available), mib(e.Need-e.Available))
}

// Unwrap makes the error an ErrNoSpace.
func (e *SpaceError) Unwrap() error { return ErrNoSpace }

// mib writes a size for people, rounded up.
func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(max(n, 0))/(1<<20)) }

// Available returns how many bytes root may still write below dir.
func Available(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("ask for free space of %s: %w", dir, err)
	}
	return int64(st.Bfree) * st.Bsize, nil
}

// Space returns a SpaceError if fewer than need bytes are left below dir, /boot
// most of all: ask before the first byte is written.
func Space(dir string, need int64) error {
	left, err := Available(dir)
	if err != nil {
		return err
	}
	if left < need {
		return &SpaceError{Dir: dir, Need: need, Available: left}
	}
	return nil
}

// NoSpace explains an error of writing below dir: if it is ErrNoSpace, as a
// SpaceError that wraps it; any other comes back as it is. A disk may fill up
// between Space and the last byte.
func NoSpace(dir string, err error) error {
	var already *SpaceError
	if !errors.Is(err, ErrNoSpace) || errors.As(err, &already) {
		return err
	}
	left, _ := Available(dir)
	return fmt.Errorf("%w (%w)", &SpaceError{Dir: dir, Available: left}, err)
}
