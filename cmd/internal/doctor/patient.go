package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/drydock-os/drydock/cmd/internal/survey"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/bus"
	"github.com/drydock-os/drydock/updater/policy"
	"github.com/drydock-os/drydock/updater/state"
)

// A patient is the host that is examined, and what is known of it. What takes
// time to find out is a function that finds it out once.
type patient struct {
	Doctor
	image  bool
	now    time.Time
	said   policy.Policy // as the file says it; zero while it does not read
	policy policy.Policy // with every path below Root

	slots  func() slotFacts
	boot   func() bootFacts
	units  func() (map[string]bus.UnitSetup, error)
	status func() (updater.Status, error)
	names  func() (map[string]bus.NameState, error)
	etcd   func() etcdFacts
	survey func() (survey.Survey, error)
}

// meet makes a patient of which nothing is known but whether it runs.
func (d Doctor) meet(ctx context.Context) *patient {
	p := &patient{Doctor: d, now: d.Now()}
	if d.Root != "" && d.Bus == "" {
		_, err := os.Stat(p.path("proc/self/mountinfo"))
		p.image = err != nil
	}
	p.slots = sync.OnceValue(func() slotFacts { return gatherSlots(p) })
	p.boot = sync.OnceValue(func() bootFacts { return gatherBoot(p) })
	p.units = sync.OnceValues(func() (map[string]bus.UnitSetup, error) { return gatherUnits(ctx, p) })
	p.status = sync.OnceValues(func() (updater.Status, error) { return gatherStatus(ctx, p) })
	p.names = sync.OnceValues(func() (map[string]bus.NameState, error) { return gatherNames(ctx, p) })
	p.etcd = sync.OnceValue(func() etcdFacts { return gatherEtcd(ctx, p) })
	p.survey = sync.OnceValues(func() (survey.Survey, error) { return gatherSurvey(ctx, p) })
	return p
}

// path is where a file of the host is.
func (p *patient) path(elem ...string) string {
	root := p.Root
	if root == "" {
		root = "/"
	}
	return filepath.Join(append([]string{root}, elem...)...)
}

// take makes a policy the patient's.
func (p *patient) take(said policy.Policy) {
	p.said, p.policy = said, said
	if p.Root == "" {
		return
	}
	here := &p.policy
	here.Trust.Keys = append([]string(nil), said.Trust.Keys...)
	paths := []*string{&here.State, &here.Update.ExtraPackagesDir, &here.Health.Directory, &here.Slots.BootDirectory, &here.Server.PasswordFile, &here.Server.CAFile,
		&here.Cluster.CAFile, &here.Cluster.CertFile, &here.Cluster.KeyFile, &here.Cluster.PasswordFile,
		&here.FleetLock.CertFile, &here.FleetLock.KeyFile, &here.FleetLock.ClientCAFile, &here.FleetLock.CAFile, &here.FleetLock.ClientCertFile, &here.FleetLock.ClientKeyFile}
	for i := range here.Trust.Keys {
		paths = append(paths, &here.Trust.Keys[i])
	}
	paths = append(paths, linkPaths(here)...)
	for _, path := range paths {
		if *path != "" {
			*path = p.path(*path)
		}
	}
}

// errNoBus says that there is none to ask.
var errNoBus = errors.New("no bus was named beside --root (name the one of the system that runs there with --bus)")

// maxText bounds the files of the system that are read, in bytes.
const maxText = 256 << 10

// read returns a text file of the host.
func (p *patient) read(elem ...string) (string, error) {
	data, err := os.ReadFile(p.path(elem...)) // of proc and sys: state.ReadFile takes regular files of a known size
	if len(data) > maxText {
		return "", fmt.Errorf("%s has more than %d bytes", p.path(elem...), maxText)
	}
	return string(data), err
}

// document returns a file that somebody else wrote and that the policy names.
func document(path string) ([]byte, error) { return state.ReadFile(path, maxText) }

// unread is the verdict on what could not be read.
func unread(what string, err error) Finding {
	if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
		return Finding{Verdict: Unknown, Seen: what + ": needs root", Mend: "run drydock doctor as root"}
	}
	return Finding{Verdict: Unknown, Seen: what + ": " + err.Error(), Means: "what cannot be read allows no reboot", Mend: "make it readable, and run drydock doctor again"}
}

// because is the verdict where another check comes first.
func because(id string) Finding {
	return Finding{Verdict: Unknown, Seen: "not looked at", Because: id}
}

// ok is a good verdict.
func ok(format string, args ...any) Finding {
	return Finding{Verdict: OK, Seen: fmt.Sprintf(format, args...)}
}

// A complaint is one of several things that a check may find wrong.
type complaint struct {
	verdict           Verdict
	seen, means, mend string
}

// complain is the verdict of a check that found these, and good where it found
// none. The worst one counts.
func complain(good string, found []complaint) Finding {
	f := Finding{Verdict: OK, Seen: good}
	rank := map[Verdict]int{OK: 0, Warning: 1, Unknown: 2, Wrong: 3}
	var seen, means, mend []string
	for _, c := range found {
		if rank[c.verdict] > rank[f.Verdict] {
			f.Verdict = c.verdict
		}
		seen, means, mend = add(seen, c.seen), add(means, c.means), add(mend, c.mend)
	}
	if len(found) > 0 {
		f.Seen = strings.Join(seen, "; ")
	}
	f.Means, f.Mend = strings.Join(means, "; "), strings.Join(mend, "; ")
	return f
}

// add appends a text that is not there yet.
func add(list []string, text string) []string {
	for _, t := range list {
		if t == text {
			return list
		}
	}
	if text == "" {
		return list
	}
	return append(list, text)
}

// changeable says why somebody other than root could change a file, "" if nobody
// can.
func changeable(path string) (why string, err error) {
	for _, name := range []string{path, filepath.Dir(path)} {
		info, err := os.Stat(name)
		if err != nil {
			return "", err
		}
		owner, known := info.Sys().(*syscall.Stat_t)
		switch mode := info.Mode(); {
		case known && owner.Uid != 0:
			return fmt.Sprintf("%s belongs to user %d", name, owner.Uid), nil
		case mode.Perm()&0o022 != 0 && mode&fs.ModeSticky == 0:
			return fmt.Sprintf("%s can be written by others (mode %04o)", name, mode.Perm()), nil
		}
	}
	return "", nil
}

// amount is a number of bytes for people.
func amount(n int64) string {
	switch {
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}
