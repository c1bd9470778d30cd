package bus

import (
	"context"
	"encoding/xml"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater"
	"github.com/godbus/dbus/v5"
)

// verbs are calls of every method that changes something, for busctl, and the
// polkit action that each takes.
var verbs = []struct {
	action string
	call   []string
}{
	{"io.drydock.check", []string{"Check"}},
	{"io.drydock.check", []string{"Plan"}},
	{"io.drydock.update", []string{"Update", "a{sv}", "0"}},
	{"io.drydock.downgrade", []string{"Update", "a{sv}", "1", "allow-downgrade", "b", "true"}},
	{"io.drydock.pause", []string{"Pause", "s", "x"}},
	{"io.drydock.unpause", []string{"Unpause"}},
	{"io.drydock.rollback", []string{"Rollback"}},
	{"io.drydock.reboot", []string{"Reboot", "s", "x"}},
	{"io.drydock.cancel", []string{"Cancel"}},
	{"io.drydock.retry", []string{"Retry", "s", ""}},
	{"io.drydock.mark-good", []string{"MarkGood"}},
	{"io.drydock.mark-bad", []string{"MarkBad", "s", "x"}},
	{"io.drydock.reset", []string{"Reset"}},
}

// ask calls a method of ours as another uid.
func (b *privateBus) ask(uid uint32, call ...string) (string, error) {
	return b.as(uid, "busctl", append([]string{"--allow-interactive-authorization=no", "call", Name, Path, ManagerInterface}, call...)...)
}

func TestCallerWithoutTheRightIsRefused(t *testing.T) {
	b := startBus(t) // without polkit
	y := newYard(updater.Status{Release: "1.0.0"})
	serve(t, b, &Server{Controller: y})
	for _, v := range verbs {
		out, err := b.ask(nobody, v.call...)
		if err == nil || !strings.Contains(out, "needs root: polkit is not running") {
			t.Errorf("%v as nobody: %v %s", v.call, err, out)
		}
	}
	if len(y.asked) != 0 {
		t.Fatalf("a caller without the right had %+v done", <-y.asked)
	}
	for _, v := range verbs {
		if out, err := b.ask(0, v.call...); err != nil {
			t.Errorf("%v as root: %v %s", v.call, err, out)
		}
	}
	for _, method := range []string{"Status", "History", "Explain"} { // open to everybody
		if out, err := b.ask(nobody, method); err != nil {
			t.Errorf("%s as nobody: %v %s", method, err, out)
		}
	}
	if out, err := b.as(nobody, "busctl", "get-property", Name, Path, ManagerInterface, "Release"); out != "s \"1.0.0\"\n" || err != nil {
		t.Errorf("get-property as nobody: %v %s", err, out)
	}
}

func TestNobodyButRootOwnsTheNames(t *testing.T) {
	b := startBus(t)
	for _, name := range []string{Name, Update1Name} {
		out, err := b.as(nobody, "busctl", "call", "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "RequestName", "su", name, "0")
		if err == nil {
			t.Errorf("nobody owns %s: %s", name, out)
		}
	}
}

func TestCancellingAJobTakesTheRightToIt(t *testing.T) {
	b := startBus(t)
	y := newYard(updater.Status{})
	y.do = func(ctx context.Context, _ updater.Request) (updater.Outcome, error) {
		<-ctx.Done()
		return "", ctx.Err()
	}
	var mu sync.Mutex
	var actions []string
	serve(t, b, &Server{Controller: y, Authorize: func(_ context.Context, c Caller, action string) error {
		mu.Lock()
		defer mu.Unlock()
		actions = append(actions, action)
		if c.UID != 0 {
			return errors.New("not you")
		}
		return nil
	}})
	job, err := b.client().Start(t.Context(), updater.Request{Action: updater.ActUpdate, AllowDowngrade: true})
	if err != nil {
		t.Fatal(err)
	}
	out, err := b.as(nobody, "busctl", "call", Name, string(job.path), JobInterface, "Cancel")
	if err == nil || !strings.Contains(out, "not you") {
		t.Errorf("cancel as nobody: %v %s", err, out)
	}
	if err := job.Cancel(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := job.Wait(t.Context(), nil); !errors.Is(err, ErrCancelled) {
		t.Errorf("Wait: %v", err)
	}
	if want := []string{"io.drydock.downgrade", "io.drydock.downgrade", "io.drydock.downgrade"}; !slices.Equal(actions, want) {
		t.Errorf("asked for %v", actions)
	}
}

// authority stands in for polkitd: it answers as the test says.
type authority struct {
	mu      sync.Mutex
	answer  func(flags uint32) (authorization, *dbus.Error)
	action  string // asked for last
	subject subject
}

// CheckAuthorization is polkit's method.
func (a *authority) CheckAuthorization(s subject, action string, _ map[string]string, flags uint32, _ string) (authorization, *dbus.Error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.action, a.subject = action, s
	return a.answer(flags)
}

func (a *authority) last() (string, subject) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.action, a.subject
}

func TestPolkitDecides(t *testing.T) {
	b := startBus(t)
	y := newYard(updater.Status{})
	serve(t, b, &Server{Controller: y})
	yes, no, challenge := authorization{Authorized: true}, authorization{}, authorization{Challenge: true}
	a := &authority{}
	if err := b.own(polkitName).Export(a, polkitPath, polkitAuthority); err != nil {
		t.Fatal(err)
	}
	set := func(f func(uint32) (authorization, *dbus.Error)) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.answer = f
	}
	say := func(answer authorization) func(uint32) (authorization, *dbus.Error) {
		return func(uint32) (authorization, *dbus.Error) { return answer, nil }
	}
	set(say(yes))
	for _, v := range verbs {
		if out, err := b.ask(nobody, v.call...); err != nil {
			t.Errorf("%v: %v %s", v.call, err, out)
		}
		if got, _ := a.last(); got != v.action {
			t.Errorf("%v asks for %s, want %s", v.call, got, v.action)
		}
		if v.call[0] != "Plan" {
			receive(t, y.asked)
		}
	}
	if _, s := a.last(); s.Kind != "system-bus-name" || !strings.HasPrefix(s.Details["name"].Value().(string), ":") {
		t.Errorf("subject %+v", s)
	}
	for name, answer := range map[string]func(uint32) (authorization, *dbus.Error){
		"no":        say(no),
		"challenge": say(challenge),
		"an error": func(uint32) (authorization, *dbus.Error) {
			return no, failure("org.freedesktop.PolicyKit1.Error.Failed", "broken")
		},
		"no such action": func(uint32) (authorization, *dbus.Error) {
			return no, failure("org.freedesktop.PolicyKit1.Error.Failed", "Action io.drydock.update is not registered")
		},
	} {
		set(answer)
		out, err := b.ask(nobody, "Update", "a{sv}", "0")
		if err == nil {
			t.Errorf("polkit says %s, and it was done", name)
		}
		if name == "challenge" && !strings.Contains(out, "needs a password") {
			t.Errorf("challenge: %s", out)
		}
	}
	// A caller that lets a password be asked for.
	set(func(flags uint32) (authorization, *dbus.Error) {
		return authorization{Authorized: flags == allowUserInteraction}, nil
	})
	if out, err := b.as(nobody, "busctl", "--allow-interactive-authorization=yes", "call", Name, Path, ManagerInterface, "Check"); err != nil {
		t.Errorf("interactive: %v %s", err, out)
	}
	receive(t, y.asked)
	if len(y.asked) != 0 {
		t.Errorf("done without a right: %+v", <-y.asked)
	}
	set(func(uint32) (authorization, *dbus.Error) { t.Error("polkit was asked about root"); return no, nil })
	if out, err := b.ask(0, "Check"); err != nil {
		t.Errorf("root: %v %s", err, out)
	}
}

func TestAnAnswerThatIsNoAnswerAllowsNothing(t *testing.T) {
	b := startBus(t)
	y := newYard(updater.Status{})
	serve(t, b, &Server{Controller: y})
	conn := b.own(polkitName)
	methods := map[string]any{"CheckAuthorization": func(subject, string, map[string]string, uint32, string) (string, *dbus.Error) {
		return "certainly", nil
	}}
	if err := conn.ExportMethodTable(methods, polkitPath, polkitAuthority); err != nil {
		t.Fatal(err)
	}
	if out, err := b.ask(nobody, "Update", "a{sv}", "0"); err == nil || len(y.asked) != 0 {
		t.Errorf("allowed: %s", out)
	}
}

// TestRealPolkitKnowsOurActions runs the real polkitd on the private bus with
// our actions file in place of the machine's (in a mount namespace of its own).
func TestRealPolkitKnowsOurActions(t *testing.T) {
	polkitd := "/usr/lib/polkit-1/polkitd"
	if _, err := os.Stat(polkitd); err != nil {
		real.Missing(t, "polkitd is not installed")
	}
	b := startBus(t, distFile(t, "dbus-1/system.d/io.drydock.Drydock1.conf"), distFile(t, "dbus-1/system.d/com.coreos.update1.conf"),
		"/usr/share/dbus-1/system.d/org.freedesktop.PolicyKit1.conf")
	y := newYard(updater.Status{})
	h := &harbour{}
	serve(t, b, &Server{Controller: y, Cluster: h})
	actions := filepath.Dir(distFile(t, "polkit-1/actions/io.drydock.policy"))
	cmd := exec.Command(real.Program(t, "unshare"), "--mount", "sh", "-c",
		`mount -t tmpfs none /usr/share/polkit-1/actions && cp "$1"/*.policy /usr/share/polkit-1/actions/ && exec "$2" --no-debug`, "sh", actions, polkitd)
	cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+b.address)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	awaitOwner(t, b, polkitName)
	for _, v := range verbs {
		out, err := b.ask(nobody, v.call...)
		// Known to polkit, and nobody needs to be an administrator for it.
		if err == nil || !strings.Contains(out, "needs a password") && !strings.Contains(out, "does not allow "+v.action) {
			t.Errorf("%v: %v %s", v.call, err, out)
		}
	}
	out, err := b.askCluster(nobody, "Change", "ss", "freeze", "{}")
	if err == nil || !strings.Contains(out, "needs a password") && !strings.Contains(out, "does not allow "+clusterAction) || h.last() != "" {
		t.Errorf("%s: %v %s", clusterAction, err, out)
	}
	if len(y.asked) != 0 {
		t.Errorf("done: %+v", <-y.asked)
	}
}

// TestThePolicyFileHasEveryAction compares the file with the code, and wants
// the strong answer where a version may become lower.
func TestThePolicyFileHasEveryAction(t *testing.T) {
	data, err := os.ReadFile(distFile(t, "polkit-1/actions/io.drydock.policy"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Actions []struct {
			ID     string `xml:"id,attr"`
			Any    string `xml:"defaults>allow_any"`
			Active string `xml:"defaults>allow_active"`
		} `xml:"action"`
	}
	if err := xml.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	var inFile, inCode []string
	for _, a := range file.Actions {
		inFile = append(inFile, a.ID)
		if strong := slices.Contains([]string{"io.drydock.downgrade", "io.drydock.rollback", "io.drydock.mark-good", "io.drydock.mark-bad", clusterAction}, a.ID); strong && (a.Any != "auth_admin" || a.Active != "auth_admin") {
			t.Errorf("%s: %s, %s", a.ID, a.Any, a.Active)
		}
	}
	for _, v := range verbs {
		inCode = append(inCode, v.action)
	}
	inCode = append(inCode, clusterAction)
	slices.Sort(inFile)
	slices.Sort(inCode)
	if inCode = slices.Compact(inCode); !slices.Equal(inFile, inCode) {
		t.Errorf("the policy file has %v, the code asks for %v", inFile, inCode)
	}
}
