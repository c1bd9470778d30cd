package guest

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/updater/image"
)

// behind is where a slot has what its release tells the boot loader, in the last
// 4 KiB: a file of a file system cannot hold the hash of the file system
// (dist/debian.md, "dm-verity").
const behind = slotSize - 4096

// verityOptions are the words that the initrd is told: the root hash, and where
// the hash tree begins.
const verityOptions = "roothash=%s hashoffset=%d"

// seal puts the hash tree behind a file system, and returns what the initrd is to
// be told.
func seal(root string, loader Loader) (options string, err error) {
	info, err := os.Stat(root)
	if err != nil {
		return "", err
	}
	out, err := run("veritysetup", "format", root, root, fmt.Sprintf("--hash-offset=%d", info.Size()), fmt.Sprintf("--data-blocks=%d", info.Size()/4096),
		"--data-block-size=4096", "--salt=00", "--uuid=6f1d0c0e-0000-4000-8000-000000000000")
	if err != nil {
		return "", err
	}
	hash := ""
	for line := range strings.Lines(out) {
		if text, ok := strings.CutPrefix(line, "Root hash:"); ok {
			hash = strings.TrimSpace(text)
		}
	}
	if hash == "" {
		return "", fmt.Errorf("veritysetup format: no root hash in %q", out)
	}
	options = fmt.Sprintf(verityOptions, hash, info.Size())
	if loader == SystemdBoot { // its UKI says it
		return options, nil
	}
	f, err := os.OpenFile(root, os.O_WRONLY, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() > behind {
		return "", fmt.Errorf("%s leaves no room in a slot of %d bytes: %w", root, slotSize, err)
	}
	tail := make([]byte, 4096)
	copy(tail, fmt.Sprintf(slotOptions, options))
	_, err = f.WriteAt(tail, behind)
	return options, err
}

// slotOptions is what GRUB reads there.
const slotOptions = "set drydock_slot_options=\"%s\"\n"

// ownOptions are what the release in a slot adds to the kernel's command line, ""
// for none.
func ownOptions(slot io.ReaderAt) (string, error) {
	tail := make([]byte, 4096)
	if _, err := slot.ReadAt(tail, behind); err != nil && err != io.EOF {
		return "", err
	}
	before, after, _ := strings.Cut(slotOptions, "%s")
	text, ok := bytes.CutPrefix(tail, []byte(before))
	if !ok {
		return "", nil
	}
	options, _, ok := bytes.Cut(text, []byte(after))
	if !ok {
		return "", fmt.Errorf("the last 4 KiB of the slot begin %.60q", tail)
	}
	return string(options), nil
}

// guarded adds to the tree's initrd what our package's hook puts into
// initramfs-tools': verity-guard, and what it runs. The kernel unpacks one archive
// after the other.
const guarded = `
cd "$1"; d=$(mktemp -d); mkdir -p "$d/usr/lib/drydock"
cp usr/lib/drydock/verity-guard usr/lib/drydock/boot-slot usr/bin/drydockd "$d/usr/lib/drydock/"
(cd "$d" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 | gzip -1) > "$d.gz"
cat "$d.gz" >> boot/initrd.img; rm -r "$d" "$d.gz"
`

// Place is where in the slot the first block of a file's content lies, in bytes: a
// place in its middle. The file is larger than a block of 128 KiB.
func (img Image) Place(file string) (int64, error) {
	f, err := os.Open(img.Root)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	watched := &firstBlock{r: f}
	if _, err := image.ReadFile(watched, slotSize, file, 64*mib); err != nil {
		return 0, err
	}
	if watched.at == 0 {
		return 0, fmt.Errorf("%s has no block of its own", file)
	}
	return watched.at, nil
}

// firstBlock notes the first read that is larger than squashfs's metadata, which
// has blocks of 8 KiB.
type firstBlock struct {
	r  io.ReaderAt
	at int64
}

func (b *firstBlock) ReadAt(p []byte, at int64) (int, error) {
	if b.at == 0 && len(p) > 10<<10 {
		b.at = at + int64(len(p))/2
	}
	return b.r.ReadAt(p, at)
}

// Flip changes a byte of a slot of a machine that is off.
func (m *Machine) Flip(slot partition.Slot, at int64) {
	m.t.Helper()
	f, err := os.OpenFile(m.Disk, os.O_RDWR, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	at += offset("ROOT-" + slot.String())
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		m.t.Fatal(err)
	}
	b[0] ^= 0xff
	if _, err := f.WriteAt(b[:], at); err != nil {
		m.t.Fatal(err)
	}
}

// FlipRunning changes a byte of a slot that holds a release, from inside of a
// machine that is on.
func (m *Machine) FlipRunning(slot partition.Slot, img Image, at int64) {
	m.t.Helper()
	data, err := os.ReadFile(filepath.Clean(img.Root))
	if err != nil {
		m.t.Fatal(err)
	}
	m.Do(fmt.Sprintf(`printf '\%03o' | dd of=/dev/disk/by-partlabel/ROOT-%s bs=1 seek=%d conv=notrunc,fsync 2>&1 && echo 3 >/proc/sys/vm/drop_caches`, data[at]^0xff, slot, at))
}
