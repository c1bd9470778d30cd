package host

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// SpaceError says which file system is full. It is ENOSPC.
type SpaceError struct {
	Dir       string
	Available int64 // bytes left for root
	Err       error // of the write that found no room
}

// Error is for an operator: what is full, what it means, what to do.
func (e *SpaceError) Error() string {
	return fmt.Sprintf("%s is full, %.1f MiB left: free space there (%v)", e.Dir, float64(e.Available)/(1<<20), e.Err)
}

// Unwrap gives the error of the write.
func (e *SpaceError) Unwrap() error { return e.Err }

// NoSpace explains an error of writing below dir: ENOSPC comes back as a
// SpaceError that names dir, any other as it is.
func NoSpace(dir string, err error) error {
	var already *SpaceError
	if !errors.Is(err, syscall.ENOSPC) || errors.As(err, &already) {
		return err
	}
	var st unix.Statfs_t
	if statErr := unix.Statfs(dir, &st); statErr != nil {
		return fmt.Errorf("%w (and asking for the free space of %s: %w)", err, dir, statErr)
	}
	return &SpaceError{Dir: dir, Available: int64(st.Bfree) * st.Bsize, Err: err}
}
