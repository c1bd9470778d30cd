package guest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/cmd/internal/guest"
	"github.com/drydock-os/drydock/testdata/real"
)

// The version before: the last commit that had no packages.
const (
	formerCommit  = "244b2c0"
	formerVersion = "1.3.0"
)

// A host is a machine whose drydock is changed by a package manager. The guests'
// root is read-only, so what packages bring lies in memory, over it, until the
// next boot; the rest, dpkg's own records too, lies where it does on any machine.
type host struct {
	*guest.Machine
	t testing.TB
}

// writable lays memory over the directories of /usr that packages write to. /usr
// itself stays the slot's, by which drydockd knows which one runs.
const writable = `mountpoint -q /mnt || { mount -t tmpfs -o mode=755 tmpfs /mnt
	for d in bin lib share; do
		mkdir /mnt/$d /mnt/work-$d && mount -t overlay -o lowerdir=/usr/$d,upperdir=/mnt/$d,workdir=/mnt/work-$d overlay /usr/$d || exit 1
	done; }; `

// tmp is for the version before: it mounts slots below /tmp, which is read-only
// here unless it is memory.
var tmp = map[string]string{"etc/fstab": "tmpfs /tmp tmpfs mode=1777 0 0\n"}

func (h host) dpkg(args string) { h.t.Helper(); h.Do(writable + "dpkg " + args) }

// units are what `systemctl is-*` says of ours.
func (h host) units(verb string) string {
	h.t.Helper()
	return strings.Join(strings.Fields(h.Do("systemctl "+verb+" drydockd.service drydock-trial.timer drydock-good.service || true")), " ")
}

func (h host) is(what, got, want string) {
	h.t.Helper()
	if got != want {
		h.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// runs compares the version of the drydockd that runs.
func (h host) runs(version string) {
	h.t.Helper()
	h.is("drydockd that runs", strings.TrimSpace(h.Do("$(readlink /proc/$(systemctl show -P MainPID drydockd.service)/exe) --version")), "drydockd "+version)
}

// holds waits until a release is written and waits for its reboot.
func (h host) holds(img guest.Image) {
	h.t.Helper()
	h.Server.Offer(h.t, img)
	h.Do("drydock update --no-wait || true")
	h.waits(img.Release.Version)
}

func (h host) waits(version string) {
	h.t.Helper()
	h.Until(6*time.Minute, version+" is written, and waits", func(ctx context.Context) bool {
		s, err := h.Status(ctx)
		return err == nil && s.Written && s.NewVersion == version && s.StepName == "wait" && !s.Staged
	})
}

// memory is what must not be lost, as drydockd keeps it.
func (h host) memory() map[string]any {
	h.t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(h.Do("cat /var/lib/drydock/memory.json")), &m); err != nil {
		h.t.Fatal(err)
	}
	delete(m, "poll") // each check changes it
	return m
}

// replaced has another version installed while a release waits, which must wait
// on, and boots into it when that is allowed.
func (h host) replaced(deb, version, release string) {
	h.t.Helper()
	before, served, boots := h.memory(), h.Server.Bytes.Load(), h.Boots()
	h.dpkg("-i /var/opt/" + deb)
	h.runs(version)
	h.waits(release)
	h.is("units", h.units("is-enabled"), "enabled enabled enabled")
	if after := h.memory(); !reflect.DeepEqual(before, after) {
		guest.Count(h.t, "lost", 1)
		h.t.Errorf("%s remembers %v, and before %v", version, after, before)
	}
	if more := h.Server.Bytes.Load() - served; more != 0 || h.Boots() != boots {
		guest.Count(h.t, "lost", 1)
		h.t.Errorf("%d bytes were fetched again, and %d boots more", more, h.Boots()-boots)
	}
	h.strategy("immediate")
	h.Settled(6*time.Minute, release)
	guest.Count(h.t, "updates", 1)
	h.is("boots", fmt.Sprint(h.Boots()), fmt.Sprint(boots+1))
	h.runs(version)
	h.strategy("off")
}

func (h host) strategy(s string) {
	h.t.Helper()
	h.Do(`sed -i 's/^strategy = .*/strategy = "` + s + `"/' /etc/drydock/drydock.toml && ` + reload)
}

// TestPackages takes a machine from the version before to this one, and back,
// each time with an update written and waiting; and then removes drydock,
// installs it again, and purges it, by dpkg and by rpm, under the real systemd.
func TestPackages(t *testing.T) {
	t.Parallel()
	l := guest.Open(t)
	former, current := l.Former(t, formerCommit, formerVersion), l.Packages()
	release := func(version, deb string) guest.Image {
		return image(t, l, guest.Release{Version: version, Loader: guest.Modelled, Deb: deb})
	}
	old, fresh, back := release("1.0.0", former.Deb), release("1.0.1", ""), release("1.0.2", former.Deb)
	files := map[string]string{
		"var/opt/former.deb": guest.Put(t, former.Deb), "var/opt/current.deb": guest.Put(t, current.Deb), "etc/fstab": tmp["etc/fstab"],
		"var/opt/former.rpm": guest.Put(t, former.RPM), "var/opt/current.rpm": guest.Put(t, current.RPM),
	}
	for name, content := range manager(t) {
		files[name] = content
	}
	l.Processor(t)
	m := l.Machine(t, guest.Spec{Name: "web", Release: old, Policy: map[string]string{"reboot.strategy": `"off"`}, Files: files})
	m.Start(5*time.Minute, "1.0.0")
	h := host{m, t}
	h.runs(formerVersion)
	h.holds(fresh)
	h.replaced("current.deb", guest.Version, "1.0.1")
	h.holds(back)
	h.replaced("former.deb", formerVersion, "1.0.2")
	h.removed()
	h.byRPM()
}

// removed takes drydock away and brings it back.
func (h host) removed() {
	h.t.Helper()
	kept := h.memory()
	h.dpkg("-r drydock")
	h.gone("dpkg -r")
	if after := h.memory(); !reflect.DeepEqual(kept, after) {
		h.t.Errorf("dpkg -r changed the memory to %v from %v", after, kept)
	}
	h.dpkg("-i /var/opt/current.deb")
	h.is("units after an installation", h.units("is-enabled"), "enabled enabled enabled")
	h.is("drydockd after an installation", strings.Fields(h.units("is-active"))[0], "inactive")
	h.Do("systemctl start drydockd.service")
	h.Settled(2*time.Minute, "1.0.2")
	h.runs(guest.Version)
	if text := h.Do("drydock history"); !strings.Contains(text, "1.0.1") {
		h.t.Errorf("the history was lost:\n%s", text)
	}
	h.dpkg("--purge drydock")
	h.gone("dpkg --purge")
	h.Do("test ! -e /var/lib/drydock && test -s /etc/drydock/drydock.toml")
}

// gone checks that nothing of drydock runs or would start, and that the policy is
// where it was.
func (h host) gone(how string) {
	h.t.Helper()
	h.is("units after "+how, h.units("is-active"), "inactive inactive inactive")
	h.Do("test ! -e /usr/bin/drydockd && test ! -e /usr/lib/systemd/system/drydockd.service && test -s /etc/drydock/drydock.toml")
	if links := h.Do("find /etc/systemd/system -path '*.*/drydock*' -type l"); links != "" {
		h.t.Errorf("%s leaves links:\n%s", how, links)
	}
}

var library = regexp.MustCompile(`/\S+\.so\S*`)

// manager are the host's rpm, which Debian's guests have not, and what it needs,
// below /var/opt/rpm of a machine.
func manager(t testing.TB) map[string]string {
	t.Helper()
	program := real.Program(t, "rpm")
	files := map[string]string{"var/opt/rpm/rpm*": guest.Put(t, program)}
	out, err := exec.Command("ldd", program).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, lib := range library.FindAllString(string(out), -1) {
		files["var/opt/rpm/lib/"+filepath.Base(lib)+"*"] = guest.Put(t, lib)
	}
	for _, name := range []string{"rpmrc", "macros", "platform/x86_64-linux/macros"} {
		files["var/opt/rpm/etc/"+name] = guest.Put(t, filepath.Join("/usr/lib/rpm", name))
	}
	return files
}

// rpm runs the host's in the guest, by its own loader. What dpkg installed it does
// not know, hence no dependencies.
func (h host) rpm(args string) {
	h.t.Helper()
	h.Do(writable + "cd /var/opt/rpm && RPM_CONFIGDIR=$PWD/etc lib/ld-linux-x86-64.so.2 --library-path $PWD/lib ./rpm --dbpath /var/lib/rpm --nodeps " + args)
}

// byRPM installs, upgrades and removes drydock as an rpm.
func (h host) byRPM() {
	h.t.Helper()
	h.rpm("-i /var/opt/former.rpm")
	h.is("units after an installation", h.units("is-enabled"), "enabled enabled enabled")
	h.is("drydockd after an installation", strings.Fields(h.units("is-active"))[0], "inactive")
	h.Do("systemctl start drydockd.service")
	h.Settled(2*time.Minute, "1.0.2")
	h.runs(formerVersion)
	h.rpm("-U /var/opt/current.rpm")
	h.Settled(2*time.Minute, "1.0.2")
	h.runs(guest.Version)
	h.is("units after an upgrade", h.units("is-enabled"), "enabled enabled enabled")
	h.rpm("-e drydock")
	h.gone("rpm -e")
	h.Do("test -s /var/lib/drydock/memory.json")
}

// extended is what Flatcar's ensure-sysext.service does where systemd is older than
// 255: it has what the extensions bring started.
const extended = `[Unit]
BindsTo=systemd-sysext.service
After=systemd-sysext.service
DefaultDependencies=no
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/systemctl daemon-reload
ExecStart=/usr/bin/systemctl restart --no-block sockets.target timers.target multi-user.target
`

// TestSystemExtension updates a machine whose releases hold no drydock: it comes as
// a system extension, merged at each boot, as dist/flatcar.md has it.
func TestSystemExtension(t *testing.T) {
	t.Parallel()
	l := guest.Open(t)
	if !guest.Full() {
		t.Skip("DRYDOCK_BOOT=full runs it: nothing here depends on the loader or on an update's faults")
	}
	const wants = "etc/systemd/system/sysinit.target.wants/"
	release := func(version string) guest.Image {
		return image(t, l, guest.Release{Version: version, Loader: guest.Modelled, NoPackage: true, Files: map[string]string{
			"etc/systemd/system/ensure-sysext.service": extended,
			wants + "ensure-sysext.service":            "-> ../ensure-sysext.service",
			wants + "systemd-sysext.service":           "-> /usr/lib/systemd/system/systemd-sysext.service",
		}})
	}
	old, fresh := release("1.0.0"), release("1.0.1")
	l.Processor(t)
	m := l.Machine(t, guest.Spec{Name: "web", Release: old, Files: map[string]string{
		"etc/extensions/drydock.raw": guest.Put(t, l.Packages().Extension), "etc/fstab": tmp["etc/fstab"]}}) // systemd-sysext, too, mounts below /tmp
	m.Start(5*time.Minute, "1.0.0")
	h := host{m, t}
	merged := func() {
		h.is("what lies at /usr", strings.TrimSpace(h.Do("findmnt -n -o FSTYPE --target /usr/bin/drydockd")), "overlay")
		h.runs(guest.Version)
		h.is("trial guard", strings.TrimSpace(h.Do("systemctl is-active drydock-trial.timer")), "active")
	}
	merged()
	m.Server.Offer(t, fresh)
	m.Do("drydock update --no-wait || true")
	m.Settled(8*time.Minute, "1.0.1")
	guest.Count(t, "updates", 1)
	merged()
}
