package partition

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// GRUB keeps the flags in an environment block of GRUB, which the fragment of
// grub.cfg in dist/grub reads and spends. The block is six variables, two digits
// each or one:
//
//	drydock_A_priority=01  drydock_A_tries=00  drydock_A_good=1  and for B
//
// GRUB writes to the sectors in which it finds the file, and reads file systems
// without replaying their journals. So the block is made once, by Init, and then
// only overwritten in place. The variables stand first in it, always as long, so
// that they lie in the block's first 512 bytes: one sector, which is written
// whole or not at all. And what is written is pushed through to where GRUB looks
// for it (BootDir.Sync).
//
// GRUB writes only to a plain partition: not to btrfs, ZFS, LVM or RAID, where it
// would boot an update on trial for ever. Such a file system is refused; LVM and
// RAID below it are the operator's to avoid, dist/grub/README.md says how.
type GRUB struct {
	Dir BootDir // holds the directory drydock with the block and the kernels
}

var (
	_ Control  = GRUB{}
	_ Firmware = GRUB{}
)

const (
	grubDir = "drydock"
	envFile = grubDir + "/grubenv"
)

// read reads the block and the flags in it.
func (c GRUB) read() (envBlock, Table, error) {
	data, err := readFile(c.Dir, envFile)
	if err != nil {
		return envBlock{}, Table{}, fmt.Errorf("read environment block: %w", err)
	}
	env, err := parseEnv(data)
	if err != nil {
		return envBlock{}, Table{}, err
	}
	t, err := env.table()
	return env, t, err
}

// Table reads the flags from the block.
func (c GRUB) Table() (Table, error) {
	_, t, err := c.read()
	return t, err
}

// Init makes the block of a new machine, or a new one for a block that cannot be
// read; variables of others in it stay. It refuses, as fs.ErrExist, to touch a
// block that says which slots boot: SetTable is for that.
func (c GRUB) Init(t Table) error {
	if err := c.Supported(); err != nil {
		return err
	}
	env, err := c.unread()
	if err != nil {
		return fmt.Errorf("make environment block: %w", err)
	}
	data, err := env.with(t)
	if err != nil {
		return err
	}
	if err := replaceFile(c.Dir, envFile, envFile+".new", data); err != nil {
		return fmt.Errorf("make environment block: %w", err)
	}
	return c.Dir.Sync()
}

// unread is what is worth keeping of a block that does not hold the flags: one
// that is missing, torn, or of another's making.
func (c GRUB) unread() (envBlock, error) {
	data, err := readFile(c.Dir, envFile)
	if errors.Is(err, fs.ErrNotExist) {
		return envBlock{}, nil
	}
	if err != nil {
		return envBlock{}, err
	}
	env, err := parseEnv(data)
	if err != nil {
		return envBlock{}, nil
	}
	if _, err := env.table(); err == nil {
		return envBlock{}, fmt.Errorf("%s: %w", envFile, fs.ErrExist)
	}
	return env, nil
}

// SetTable overwrites the block in place.
func (c GRUB) SetTable(t Table) error {
	if err := c.Supported(); err != nil {
		return fmt.Errorf("set flags: %w", err)
	}
	env, old, err := c.read()
	if err != nil {
		return fmt.Errorf("set flags: %w", err)
	}
	if err := c.kernels().newlyBootable(old, t); err != nil {
		return err
	}
	return c.write(env, t)
}

// write changes the sectors of the block that differ.
func (c GRUB) write(env envBlock, t Table) error {
	next, err := env.with(t)
	if err != nil {
		return fmt.Errorf("set flags: %w", err)
	}
	f, err := c.Dir.Open(envFile)
	if err != nil {
		return err
	}
	defer f.Close()
	for at := 0; at < envSize; at += envSector {
		sector := next[at : at+envSector]
		if bytes.Equal(sector, env.data[at:at+envSector]) {
			continue
		}
		if _, err := f.WriteAt(sector, int64(at)); err != nil {
			return fmt.Errorf("write environment block: %w", err)
		}
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync environment block: %w", err)
	}
	return c.Dir.Sync()
}

func (c GRUB) kernels() kernels { return kernels{boot: c.Dir, dir: grubDir} }

// CreateKernel implements Control.
func (c GRUB) CreateKernel(s Slot) (File, error) {
	t, err := c.Table()
	if err != nil {
		return nil, err
	}
	if t[s].Bootable() {
		return nil, fmt.Errorf("create kernel of slot %s: %w", s, ErrBootable)
	}
	return c.kernels().create(s)
}

// OpenKernel implements Control.
func (c GRUB) OpenKernel(s Slot) (File, error) { return c.kernels().open(s) }

// PlaceKernel implements Control: drydock/vmlinuz-a or -b, for the fragment.
func (c GRUB) PlaceKernel(s Slot) (string, error) { return c.kernels().place(s) }

// Boot does what the fragment in dist/grub does: it picks a slot, spends a try,
// and saves the block.
func (c GRUB) Boot() (Slot, error) {
	env, old, err := c.read()
	if err != nil {
		return 0, err
	}
	s, t, ok := old.Boot()
	if !ok {
		return 0, ErrNoSlot
	}
	if t == old {
		return s, nil
	}
	return s, c.write(env, t)
}

// An environment block (GRUB manual, "Environment block"; grub-core/lib/envblk.c):
// 1,024 bytes, lines of name=value, padded with "#".
const (
	envSize      = 1024
	envSector    = 512
	envSignature = "# GRUB Environment Block\n"
	envPrefix    = "drydock_"
)

// An envBlock is a block as read. Lines that are not ours are kept as they are.
type envBlock struct {
	data  []byte
	lines []string // all but the signature and the padding, unparsed
}

// parseEnv splits a block into lines. A backslash takes its special meaning from
// the character behind it, a newline too.
func parseEnv(data []byte) (envBlock, error) {
	if len(data) != envSize {
		return envBlock{}, fmt.Errorf("environment block of %d bytes, want %d", len(data), envSize)
	}
	if !bytes.HasPrefix(data, []byte(envSignature)) {
		return envBlock{}, fmt.Errorf("environment block begins with %.25q", data)
	}
	env := envBlock{data: data}
	start := len(envSignature)
	for i := start; i < envSize; i++ {
		switch {
		case data[i] == '\\':
			i++
		case data[i] == '\n':
			env.lines = append(env.lines, string(data[start:i+1]))
			start = i + 1
		}
	}
	if tail := strings.TrimLeft(string(data[start:]), "#"); tail != "" {
		return envBlock{}, fmt.Errorf("environment block ends in the middle of %.20q", tail)
	}
	return env, nil
}

// names of a slot's variables.
func envNames(s Slot) (priority, tries, good string) {
	p := envPrefix + s.String()
	return p + "_priority", p + "_tries", p + "_good"
}

// table reads the flags. All six must be there, in the first sector.
func (env envBlock) table() (Table, error) {
	values, at := map[string]string{}, len(envSignature)
	for _, line := range env.lines {
		at += len(line)
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if !ok || !strings.HasPrefix(name, envPrefix) {
			continue
		}
		if _, twice := values[name]; twice || at > envSector {
			return Table{}, fmt.Errorf("environment block: %s is there twice, or past byte %d", name, envSector)
		}
		values[name] = value
	}
	var t Table
	for s := range t {
		priority, tries, good := envNames(Slot(s))
		p, errP := strconv.ParseUint(values[priority], 10, 8)
		n, errN := strconv.ParseUint(values[tries], 10, 8)
		g := values[good]
		if errP != nil || errN != nil || p > MaxPriority || n > MaxTries || g != "0" && g != "1" {
			return Table{}, fmt.Errorf("environment block: slot %s has priority %q, tries %q, good %q", Slot(s), values[priority], values[tries], g)
		}
		t[s] = Flags{Priority: uint8(p), Tries: uint8(n), Successful: g == "1"}
	}
	return t, nil
}

// with is the block's bytes with other flags: comments, ours, the other lines.
func (env envBlock) with(t Table) ([]byte, error) {
	var head, rest, ours strings.Builder
	for _, line := range env.lines {
		switch {
		case strings.HasPrefix(line, envPrefix):
		case strings.HasPrefix(line, "#"):
			head.WriteString(line)
		default:
			rest.WriteString(line)
		}
	}
	for s, f := range t {
		if f.Priority > MaxPriority || f.Tries > MaxTries {
			return nil, fmt.Errorf("priority %d, tries %d: at most %d", f.Priority, f.Tries, MaxTries)
		}
		priority, tries, good := envNames(Slot(s))
		fmt.Fprintf(&ours, "%s=%02d\n%s=%02d\n%s=%d\n", priority, f.Priority, tries, f.Tries, good, btoi(f.Successful))
	}
	text := envSignature + head.String() + ours.String() + rest.String()
	if len(envSignature)+head.Len()+ours.Len() > envSector || len(text) > envSize {
		return nil, fmt.Errorf("environment block has no room: %d bytes of other variables", head.Len()+rest.Len())
	}
	return append([]byte(text), bytes.Repeat([]byte("#"), envSize-len(text))...), nil
}
