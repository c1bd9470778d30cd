package powercut

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/drydock-os/drydock/partition"
)

// A Dir is the boot directory of a Machine, a partition.BootDir. Its operations
// are durable when they return, as the contract has it, and as the fsync of
// directories makes them on a real system. A rename that the power fails in has
// on vfat any of the outcomes that the two directory entries allow, which the
// kernel writes one by one: the old name, the new one, both, or none; of both,
// fsck may have emptied one. On ext4 and xfs the journal leaves the old or the
// new.
type Dir struct {
	m             *Machine
	kind          string
	view, durable map[string]*store
	loader        map[string]*store // as a loader finds it that replays no journal
	pending       []naming
}

// A naming is a change to names that is not durable yet.
type naming struct {
	from, to string // creation: no from; removal: no to
	file     *store
}

func newDir(m *Machine, kind string) *Dir {
	return &Dir{m: m, kind: kind, view: map[string]*store{}, durable: map[string]*store{}, loader: map[string]*store{}}
}

func (d *Dir) clone(m *Machine) *Dir {
	c := newDir(m, d.kind)
	copies := map[*store]*store{nil: nil}
	of := func(s *store) *store {
		if copies[s] == nil && s != nil {
			copies[s] = s.clone()
		}
		return copies[s]
	}
	for name, s := range d.view {
		c.view[name] = of(s)
	}
	for name, s := range d.durable {
		c.durable[name] = of(s)
	}
	for name, s := range d.loader {
		c.loader[name] = of(s)
	}
	for _, n := range d.pending {
		c.pending = append(c.pending, naming{n.from, n.to, of(n.file)})
	}
	return c
}

// FileSystem is the type that New was told.
func (d *Dir) FileSystem() (string, error) { return d.kind, nil }

// Path is the name under /boot.
func (d *Dir) Path(name string) string { return path.Join("/boot", name) }

// Close does nothing.
func (d *Dir) Close() error { return nil }

// ReadDir implements partition.BootDir.
func (d *Dir) ReadDir(name string) ([]string, error) {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	if err := d.m.powered(); err != nil {
		return nil, err
	}
	var names []string
	found := name == "."
	for file := range d.view {
		found = found || strings.HasPrefix(file, name+"/")
		if path.Dir(file) == name {
			names = append(names, path.Base(file))
		}
	}
	if !found {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	slices.Sort(names)
	return names, nil
}

// Open implements partition.BootDir.
func (d *Dir) Open(name string) (partition.File, error) {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	if err := d.m.powered(); err != nil {
		return nil, err
	}
	s, ok := d.view[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &file{d, name, s}, nil
}

// Create implements partition.BootDir. The name is durable with the file's Sync.
func (d *Dir) Create(name string) (partition.File, error) {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrInvalid}
	}
	torn, err := d.m.step()
	if err != nil {
		return nil, err
	}
	s, ok := d.view[name]
	if ok {
		s.truncate(0)
	} else {
		s = newStore(0)
		d.change(naming{to: name, file: s})
	}
	if torn {
		return nil, ErrPower
	}
	return &file{d, name, s}, nil
}

// Rename implements partition.BootDir.
func (d *Dir) Rename(from, to string) error {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	s, ok := d.view[from]
	if !ok || !fs.ValidPath(to) {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	return d.commit(naming{from, to, s})
}

// Remove implements partition.BootDir.
func (d *Dir) Remove(name string) error {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	s, ok := d.view[name]
	if !ok {
		return d.m.powered()
	}
	return d.commit(naming{from: name, file: s})
}

// Sync implements partition.BootDir.
func (d *Dir) Sync() error {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	torn, err := d.m.step()
	if err != nil {
		return err
	}
	if torn {
		return ErrPower
	}
	for _, s := range d.view {
		s.sync()
	}
	d.flush()
	d.loader = maps.Clone(d.durable)
	return nil
}

// Loader is the directory as a boot loader finds it at power-on that replays no
// journal, GRUB for one: names made since the last Sync need not be there.
func (d *Dir) Loader() *Dir {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	if d.kind == "vfat" {
		return d
	}
	return &Dir{m: d.m, kind: d.kind, view: d.loader, durable: d.loader, loader: d.loader}
}

func (d *Dir) change(n naming) {
	d.pending = append(d.pending, n)
	n.apply(d.view)
}

func (n naming) apply(names map[string]*store) {
	delete(names, n.from)
	if n.to != "" {
		names[n.to] = n.file
	}
}

// commit makes a change, and makes it and those before it durable unless the
// power fails.
func (d *Dir) commit(n naming) error {
	torn, err := d.m.step()
	if err != nil {
		return err
	}
	d.change(n)
	if torn {
		return ErrPower
	}
	d.flush()
	return nil
}

func (d *Dir) flush() {
	for _, n := range d.pending {
		n.apply(d.durable)
	}
	d.pending = nil
	if d.kind == "vfat" {
		d.loader = maps.Clone(d.durable)
	}
}

// survive applies outcomes of the pending changes, and then to each file that
// still has a name.
func (d *Dir) survive(dice dice) {
	for _, n := range d.pending {
		if d.kind == "vfat" {
			n.onFAT(d.durable, dice)
		} else if dice.keep(2) == 1 {
			n.apply(d.durable)
		}
	}
	d.pending = nil
	done := map[*store]bool{}
	for _, name := range slices.Sorted(maps.Keys(d.durable)) {
		if s := d.durable[name]; !done[s] {
			s.survive(dice)
			done[s] = true
		}
	}
	d.view = maps.Clone(d.durable)
	if d.kind == "vfat" || dice.keep(2) == 1 {
		d.loader = maps.Clone(d.durable) // the journal was written back in time
	}
	for _, s := range d.loader {
		if !done[s] {
			s.survive(dice)
			done[s] = true
		}
	}
}

// onFAT applies an outcome of a change to two directory entries.
func (n naming) onFAT(names map[string]*store, d dice) {
	if n.from == "" || n.to == "" {
		if d.keep(2) == 1 {
			n.apply(names)
		}
		return
	}
	old, replaced := names[n.from], names[n.to]
	if old == nil {
		return // its creation did not survive
	}
	const (
		nothing = iota
		both
		none
		oldEmptied
		newEmptied
		done
		outcomes
	)
	switch d.keep(outcomes) {
	case both:
		names[n.to] = old.clone()
	case none:
		delete(names, n.from)
		if replaced == nil {
			delete(names, n.to)
		}
	case oldEmptied:
		names[n.to], names[n.from] = old, newStore(0)
	case newEmptied:
		names[n.to] = newStore(0)
	case done:
		n.apply(names)
	}
}

// A file is an open file of a Dir.
type file struct {
	dir  *Dir
	name string
	*store
}

// Name is the name that the file was opened by.
func (f *file) Name() string { return f.name }

// Size implements partition.Device.
func (f *file) Size() int64 {
	f.dir.m.mu.Lock()
	defer f.dir.m.mu.Unlock()
	return f.size
}

// Close implements io.Closer.
func (f *file) Close() error { return nil }

// ReadAt implements io.ReaderAt.
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	f.dir.m.mu.Lock()
	defer f.dir.m.mu.Unlock()
	if err := f.dir.m.powered(); err != nil {
		return 0, err
	}
	return f.read(p, off)
}

// WriteAt implements io.WriterAt.
func (f *file) WriteAt(p []byte, off int64) (int, error) {
	f.dir.m.mu.Lock()
	defer f.dir.m.mu.Unlock()
	if off < 0 {
		return 0, fmt.Errorf("write at %d", off)
	}
	torn, err := f.dir.m.step()
	if err != nil {
		return 0, err
	}
	f.write(p, off)
	if torn {
		return 0, ErrPower
	}
	return len(p), nil
}

// Truncate implements partition.File.
func (f *file) Truncate(size int64) error {
	f.dir.m.mu.Lock()
	defer f.dir.m.mu.Unlock()
	if size < 0 {
		return fmt.Errorf("truncate to %d", size)
	}
	torn, err := f.dir.m.step()
	if err != nil {
		return err
	}
	f.truncate(size)
	if torn {
		return ErrPower
	}
	return nil
}

// Sync makes the file's bytes durable, and its name.
func (f *file) Sync() error {
	f.dir.m.mu.Lock()
	defer f.dir.m.mu.Unlock()
	torn, err := f.dir.m.step()
	if err != nil {
		return err
	}
	if torn {
		return ErrPower
	}
	f.sync()
	f.dir.flush()
	return nil
}
