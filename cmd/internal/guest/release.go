package guest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
)

// A Loader is what picks the slot to boot.
type Loader string

const (
	// SystemdBoot is OVMF with systemd-boot, which counts boots.
	SystemdBoot Loader = "systemd-boot"
	// GRUB is SeaBIOS with GRUB, its environment block and our fragment.
	GRUB Loader = "grub"
	// Modelled is a direct kernel boot: the test does the step of a firmware that
	// knows the GPT's priorities, as partition.GPTPrio models it.
	Modelled Loader = "gptprio"
)

// A Release is what a payload brings.
type Release struct {
	Version string
	Loader  Loader
	// Files are put over Debian's tree and our package: content by path. A path
	// that ends in "*" is executable (the star is no part of it), and content
	// "-> TARGET" makes a symbolic link.
	Files map[string]string
	// Options are added to the kernel's command line.
	Options string
	// Verity makes a hash tree behind the file system, and a root that is verified.
	Verity bool
	// Deb is another package than the repository's.
	Deb string
	// NoPackage leaves it out.
	NoPackage bool
}

const (
	mib         = 1 << 20
	slotSize    = 96 * mib
	commandLine = "console=ttyS0 quiet loglevel=4 mitigations=off nokaslr tsc=reliable random.trust_cpu=on audit=0 selinux=0 apparmor=0 net.ifnames=0 systemd.show_status=no panic=5 systemd.watchdog_sec=60 rootfstype=squashfs"
)

// An Image is a built release.
type Image struct {
	Release Release
	Root    string // the slot's content
	Kernel  string // the UKI; "" where the kernel lies in the slot
	Payload string // the signed payload
	Hash    string // dm-verity's root hash, or ""
	Tree    int64  // where the hash tree begins in the slot, in bytes
}

// Image builds a release, or takes it from the cache.
func (l *Lab) Image(r Release) (Image, error) {
	if r.Deb == "" {
		r.Deb = l.tools.packages.Deb
	}
	var names []string
	for n := range r.Files {
		names = append(names, n)
	}
	sort.Strings(names)
	recipe := fmt.Sprint(l.base, r.Version, r.Loader, r.Options, r.Verity, r.Deb, r.NoPackage, commandLine, assemble, guarded, slotOptions, uki, l.key())
	for _, n := range names {
		recipe += n + "\x00" + r.Files[n] + "\x00"
	}
	dir, err := l.cached("release-"+r.Version, recipe, func(path string) error { return l.makeRelease(path, r, names) })
	if err != nil {
		return Image{}, err
	}
	img := Image{Release: r, Root: filepath.Join(dir, "root.img"), Payload: filepath.Join(dir, "payload")}
	if r.Loader == SystemdBoot {
		img.Kernel = filepath.Join(dir, "uki.efi")
	}
	if r.Verity {
		options, err := os.ReadFile(filepath.Join(dir, "verity"))
		if err != nil {
			return Image{}, err
		}
		if _, err := fmt.Sscanf(string(options), verityOptions, &img.Hash, &img.Tree); err != nil {
			return Image{}, fmt.Errorf("read verity options %q: %w", options, err)
		}
	}
	return img, nil
}

// assemble makes the tree of a release: Debian's, with our package installed
// as an image builder does, without a running systemd.
const assemble = `
cp -a --reflink=auto "$1" "$2"; cp "$3" "$2/drydock.deb"
chroot "$2" dpkg --force-depends --force-unsafe-io -i /drydock.deb >/dev/null; rm "$2/drydock.deb"
rm -rf "$2"/usr/share/doc/drydock "$2"/usr/share/man
`

// release of the tree, and its size.
const osRelease = "NAME=Guest\nID=guest\nVERSION_ID=%s\nVERSION=%s\n"

// installed is the tree of a release before its own files.
func (l *Lab) installed(r Release) (string, error) {
	bare := filepath.Join(l.base, "root")
	if r.NoPackage {
		return bare, nil
	}
	return l.cached("installed", l.base+r.Deb+assemble, func(path string) error {
		_, err := shell(assemble, bare, path, r.Deb)
		return err
	})
}

func (l *Lab) makeRelease(dir string, r Release, names []string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	installed, err := l.installed(r)
	if err != nil {
		return err
	}
	tree := filepath.Join(dir, "tree")
	if _, err := run("cp", "-a", "--reflink=auto", installed, tree); err != nil {
		return err
	}
	defer os.RemoveAll(tree)
	if err := writeFiles(tree, map[string]string{"usr/lib/os-release": fmt.Sprintf(osRelease, r.Version, r.Version), "etc/os-release": "-> ../usr/lib/os-release"}); err != nil {
		return err
	}
	if err := writeFiles(tree, guestFiles); err != nil {
		return err
	}
	if err := writeFiles(tree, r.Files); err != nil {
		return err
	}
	if r.Verity {
		if _, err := shell(guarded, tree); err != nil {
			return err
		}
	}
	options := commandLine + " " + r.Options
	root := filepath.Join(dir, "root.img")
	// GRUB 2.06 reads no zstd.
	compressor := []string{"-comp", "zstd", "-Xcompression-level", "3"}
	if r.Loader == GRUB {
		compressor = []string{"-comp", "gzip", "-Xcompression-level", "6"}
	}
	if r.Loader == SystemdBoot { // its kernel lies beside the slot
		compressor = append(compressor, "-wildcards", "-e", "boot/*")
	}
	if _, err := run("mksquashfs", append([]string{tree, root, "-quiet", "-no-progress", "-noappend", "-all-time", "0", "-mkfs-time", "0"}, compressor...)...); err != nil {
		return err
	}
	if r.Verity {
		told, err := seal(root, r.Loader)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "verity"), []byte(told), 0o644); err != nil {
			return err
		}
		options += " " + told
	}
	args := []string{"payload", "create", "--key", l.key(), "--version", r.Version, "--image", root, "--out", filepath.Join(dir, "payload")}
	if err := os.WriteFile(filepath.Join(dir, "cmdline"), []byte(options), 0o644); err != nil {
		return err
	}
	if r.Loader == SystemdBoot {
		kernel := filepath.Join(dir, "uki.efi")
		if _, err := shell(uki, tree, filepath.Join(dir, "cmdline"), kernel); err != nil {
			return err
		}
		args = append(args, "--kernel", kernel)
	}
	_, err = run(l.tools.drydock, args...)
	return err
}

// uki makes a unified kernel image out of the tree's kernel and initrd, as
// systemd-stub(7) describes its sections.
const uki = `
stub=$1/usr/lib/systemd/boot/efi/linuxx64.efi.stub
objcopy \
	--add-section .osrel="$1/usr/lib/os-release" --change-section-vma .osrel=0x20000 \
	--add-section .cmdline="$2" --change-section-vma .cmdline=0x30000 \
	--add-section .linux="$1/boot/vmlinuz" --change-section-vma .linux=0x2000000 \
	--add-section .initrd="$1/boot/initrd.img" --change-section-vma .initrd=0x4000000 \
	"$stub" "$3"
`

// guestFiles are what a test's machine has and a user's has not: an agent that
// runs commands for the test, and shorter times, since emulation is slow but
// nobody wants to wait twenty minutes for the trial guard.
var guestFiles = map[string]string{
	"etc/systemd/system/drydock-trial.timer.d/guest.conf":      "[Timer]\nOnBootSec=\nOnBootSec=4min\n",
	"etc/systemd/system/drydockd.service.d/guest.conf":         "[Service]\nRestartSec=3s\n",
	"etc/systemd/system.conf.d/90-guest.conf":                  "[Manager]\nDefaultTimeoutStopSec=20s\n",
	"etc/systemd/system/multi-user.target.wants/agent.service": "-> ../agent.service",
	"etc/systemd/system/agent.service": `[Unit]
Description=Runs commands for a test
DefaultDependencies=no
After=local-fs.target systemd-tmpfiles-setup-dev.service
[Service]
ExecStart=/usr/sbin/qemu-ga --method=virtio-serial --path=/dev/vport0p1
Restart=always
RestartSec=1
StandardOutput=null
StandardError=null
`,
	"usr/lib/udev/rules.d/60-qemu-guest-agent.rules": "",
}

// writeFiles writes files below a tree; see Release.Files for their form.
func writeFiles(tree string, files map[string]string) error {
	for name, content := range files {
		mode := os.FileMode(0o644)
		if cut, ok := strings.CutSuffix(name, "*"); ok {
			name, mode = cut, 0o755
		}
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		target, link := strings.CutPrefix(content, "-> ")
		var err error
		if link {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(content), mode)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// key is the private key that the lab's releases are signed with.
func (l *Lab) key() string { return filepath.Join(l.Module, "testdata/payload/rsa2048.pem") }

// buildTools builds the command for the test, and the packages for the guests.
func (l *Lab) buildTools() (tools, error) {
	dir, err := os.MkdirTemp(l.Dir, "build-")
	if err != nil {
		return tools{}, err
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "drydock"), "./cmd/drydock")
	build.Dir = l.Module
	if out, err := build.CombinedOutput(); err != nil {
		return tools{}, fmt.Errorf("go build: %w: %s", err, out)
	}
	drydock, err := l.keep(filepath.Join(dir, "drydock"))
	if err != nil {
		return tools{}, err
	}
	packages, err := l.pack(Version, "")
	return tools{drydock, packages}, err
}
