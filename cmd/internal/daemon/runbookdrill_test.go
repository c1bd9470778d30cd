package daemon_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/rebootlock/etcdtest"
	"github.com/drydock-os/drydock/testdata/real"
)

// A drill is a situation of the runbook on real daemons: hosts web-1, web-2, …
// that share a lock in a real etcd. What the page says of it is done, block by
// block, and what that prints is compared with the page.
//
// Each host has namespaces of its own for its name and its mounts, so that the
// commands are the page's to the letter: /etc/drydock, /var/lib/drydock and
// /boot are the host's. What is stood in for, beside what a host stands in for:
// systemctl, and the editor with which lines of the policy are changed.
type drill struct {
	*fleet
	section section
	next    int            // block
	dead    map[*host]bool // do not come back from a reboot
}

// setUp is what a drill's hosts are to be like before they start.
type setUp struct {
	hosts  int
	lines  string // further lines of [reboot]
	tables func(policy string) string
	bootKB int    // size of /boot, in KiB; 0: as the host's memory
	budget string // file of a host that keeps its work from leaving; "": there is no work
	etcd   etcdtest.Options
}

func newDrill(t *testing.T, anchor string, s setUp) *drill {
	t.Helper()
	t.Parallel() // it mostly waits
	real.Root(t)
	real.Program(t, "nsenter")
	real.Program(t, "unshare")
	all := readRunbook(t)
	i := slices.IndexFunc(all, func(s section) bool { return s.anchor == anchor })
	if i < 0 {
		t.Fatalf("runbook.md has no section #%s", anchor)
	}
	d := &drill{fleet: newFleetOf(t, s.hosts, s.etcd), section: all[i], dead: map[*host]bool{}}
	for i, h := range d.hosts {
		h.reboot = s.lines
		h.write("root/etc/machine-id", strings.Repeat(fmt.Sprint(i+1), 32)+"\n")
		d.room(h, fmt.Sprintf("web-%d", i+1), s)
	}
	t.Cleanup(func() {
		if n := len(d.section.blocks); d.next < n && !t.Failed() {
			t.Errorf("runbook.md#%s: %d of %d blocks were tried", anchor, d.next, n)
		}
	})
	return d
}

// room gives a host its name and its own /etc, /var/lib/drydock and /boot.
func (d *drill) room(h *host, name string, s setUp) {
	d.t.Helper()
	if s.bootKB > 0 {
		if err := syscall.Mount("tmpfs", h.boot, "tmpfs", 0, fmt.Sprintf("size=%dk,mode=755", s.bootKB)); err != nil {
			real.Missing(d.t, "mount tmpfs: "+err.Error())
		}
		d.t.Cleanup(func() { syscall.Unmount(h.boot, syscall.MNT_DETACH) })
	}
	const furnish = `set -e
cp -a /etc "$1/etc"
mkdir -p "$1/etc/drydock/keys" "$1/etc/drydock/health.d" "$1/state"
cp "$1/key.pem" "$1/etc/drydock/keys/release.pem"
mv "$1/root/etc/machine-id" "$1/etc/machine-id"
ln -s "$1/etc/machine-id" "$1/root/etc/machine-id"
mount --bind "$1/etc" /etc
mount -t tmpfs tmpfs /var/lib
mkdir /var/lib/drydock
mount --bind "$1/state" /var/lib/drydock
mount --bind "$2" /boot
echo "$3" > /proc/sys/kernel/hostname
echo ready
exec sleep infinity`
	keeper := exec.Command("unshare", "--mount", "--uts", "sh", "-c", furnish, "-", h.dir, h.boot, name)
	keeper.Stderr = os.Stderr
	out, err := keeper.StdoutPipe()
	if err == nil {
		err = keeper.Start()
	}
	if err != nil {
		real.Missing(d.t, "namespaces: "+err.Error())
	}
	d.t.Cleanup(func() { keeper.Process.Kill(); keeper.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		real.Missing(d.t, fmt.Sprintf("namespaces: %q, %v", line, err))
	}
	h.name = name
	h.command = func(program string, args ...string) *exec.Cmd {
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], filepath.Join(h.dir, "drydock.toml"), "/etc/drydock/drydock.toml")
		}
		c := exec.Command("nsenter", append([]string{"-t", fmt.Sprint(keeper.Process.Pid), "--mount", "--uts", program}, args...)...)
		c.Env = append(os.Environ(), "DRYDOCK_BUS="+h.address, "TZ=UTC", "PATH="+programs+":"+os.Getenv("PATH"))
		if s.budget != "" && program == h.binary {
			c.Env = append(c.Env, "DRYDOCKD_BUDGET="+filepath.Join(h.dir, s.budget))
		}
		return c
	}
	if s.budget != "" {
		if h.binary, err = os.Executable(); err != nil {
			d.t.Fatal(err)
		}
	}
	h.amend = func(text string) string { return h.settle(text, s) }
	h.policy(partition.A)
}

// upgrade publishes a release for hosts and has them write it.
func (d *drill) upgrade(version string, names ...string) {
	d.t.Helper()
	for _, name := range names {
		h := d.host(name)
		h.publish(version)
		if out, err := d.run(h, "drydock update"); err != nil {
			d.t.Fatalf("drydock update on %s: %v\n%s", name, err, out)
		}
	}
}

// settled waits until hosts run a release, have found it good, and hold nothing.
func (d *drill) settled(version string, hosts ...*host) {
	d.t.Helper()
	d.until("they run "+version, func() bool {
		for _, h := range hosts {
			if s := h.status(); s.Release != version || s.OnTrial || s.Permit != "none" || s.StepName != "wait" {
				return false
			}
		}
		return true
	})
}

// started starts the hosts, and waits until they answer and are members.
func (d *drill) started() {
	d.t.Helper()
	for _, h := range d.hosts {
		h.start()
		d.until(h.name+" answers", func() bool { return h.status().StepName == "wait" })
	}
	d.until("all are members", func() bool {
		v, ok := d.look()
		return ok && len(v.Machines) == len(d.hosts) && v.Groups[0].Present == len(d.hosts) && v.Groups[0].Rules != nil && v.Coordinator.Machine != ""
	})
}

// script puts an executable file into a host's /etc/drydock/health.d.
func (h *host) script(name, text string) {
	h.t.Helper()
	path := filepath.Join(h.dir, "etc/drydock/health.d", name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		h.t.Fatal(err)
	}
}

// settle writes the policy file where the host looks for it. What is there
// already stays, but for the slot that was booted.
func (h *host) settle(text string, s setUp) string {
	path := filepath.Join(h.dir, "etc/drydock/drydock.toml")
	if old, err := os.ReadFile(path); err == nil {
		booted := regexp.MustCompile(`(?m)^booted = .*$`)
		text = booted.ReplaceAllString(string(old), booted.FindString(text))
	} else {
		for from, to := range map[string]string{h.dir + "/key.pem": "/etc/drydock/keys/release.pem", h.dir + "/state": "/var/lib/drydock", h.dir + "/health.d": "/etc/drydock/health.d", h.boot: "/boot"} {
			text = strings.ReplaceAll(text, from, to)
		}
		if s.tables != nil {
			text = s.tables(text)
		}
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
	return text
}

// buildCommand builds drydock once, where drydockd is.
var buildCommand = sync.OnceValues(func() (string, error) {
	path := filepath.Join(programs, "drydock")
	out, err := exec.Command("go", "build", "-o", path, "github.com/drydock-os/drydock/cmd/drydock").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return path, err
})

// host is the host of a name, and with "" one whose daemon runs.
func (d *drill) host(name string) *host {
	d.t.Helper()
	for _, h := range d.hosts {
		if h.name == name || name == "" && h.daemon != nil {
			return h
		}
	}
	d.t.Fatalf("there is no host %q", name)
	return nil
}

// turn takes the steps of the hosts' loaders where they are due.
func (d *drill) turn() {
	for _, h := range d.hosts {
		select {
		case <-h.rebooted:
			h.shutDown()
			if !d.dead[h] {
				h.powerOn()
				h.start()
			}
		default:
		}
	}
}

// until takes turns until something holds.
func (d *drill) until(what string, cond func() bool) {
	d.t.Helper()
	if !d.within(fleetPatience, cond) {
		for _, h := range d.hosts {
			d.t.Logf("%s: %+v\n%s", h.name, h.status(), h.output)
		}
		d.t.Fatalf("never: %s", what)
	}
}

func (d *drill) within(patience time.Duration, cond func() bool) bool {
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		d.turn()
		if cond() {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

// play tries so many of the section's blocks.
func (d *drill) play(n int) {
	d.t.Helper()
	for range n {
		if d.next >= len(d.section.blocks) {
			d.t.Fatalf("runbook.md#%s has only %d blocks to be tried", d.section.anchor, d.next)
		}
		b := d.section.blocks[d.next]
		d.next++
		if b.kind != "console" {
			d.t.Fatalf("runbook.md:%d: a transcript was to be next", b.line)
		}
		for _, s := range b.said {
			d.give(s)
		}
	}
}

// edit makes the next block's lines those of the policy file of hosts, as a
// person does with an editor.
func (d *drill) edit(names ...string) {
	d.t.Helper()
	b := d.section.blocks[d.next]
	d.next++
	if b.kind != "toml" {
		d.t.Fatalf("runbook.md:%d: lines of the policy were to be next", b.line)
	}
	for _, name := range names {
		d.set(d.host(name), b.lines)
	}
}

// set makes lines, below their [table], those of a host's policy.
func (d *drill) set(h *host, lines []string) {
	d.t.Helper()
	path := filepath.Join(h.dir, "etc/drydock/drydock.toml")
	data, err := os.ReadFile(path)
	if err != nil {
		d.t.Fatal(err)
	}
	text, table := string(data), ""
	for _, line := range lines {
		if strings.HasPrefix(line, "[") {
			table = line + "\n"
			if !strings.Contains(text, "\n"+table) {
				text += table
			}
			continue
		}
		key, _, ok := strings.Cut(line, " = ")
		if !ok || table == "" {
			d.t.Fatalf("%q is no line of a table", line)
		}
		before, after, _ := strings.Cut(text, "\n"+table)
		rest := ""
		if i := strings.Index(after, "\n["); i >= 0 {
			after, rest = after[:i+1], after[i+1:]
		}
		after = regexp.MustCompile(`(?m)^`+key+` = .*\n`).ReplaceAllString(after, "")
		text = before + "\n" + table + line + "\n" + after + rest
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		d.t.Fatal(err)
	}
}

// answerPatience is how long what a command only shows may take to be as the
// page has it: a machine is missed after a minute.
const answerPatience = 90 * time.Second

// give gives a command. One that only asks is given again until it says what
// the page says; one that does something, once.
func (d *drill) give(s saying) {
	d.t.Helper()
	h := d.host(s.where)
	if m := regexp.MustCompile(`^systemctl (reload|restart|stop|start) drydockd$`).FindStringSubmatch(s.command); m != nil {
		h.systemctl(m[1])
		return
	}
	patience := time.Duration(0)
	if regexp.MustCompile(`^(drydock (status|explain|history|doctor|(lock|fleet) (status|queue|journal|show|explain))|df|ls|cat|grep)\b`).MatchString(s.command) {
		patience = answerPatience
	}
	var text string
	var err error
	ok := d.within(patience, func() bool {
		text, err = d.run(h, s.command)
		return (err == nil || len(s.answer) > 0) && matches(s.answer, text)
	})
	if os.Getenv("RUNBOOK_SHOW") != "" {
		d.t.Logf("%s# %s\n%s", h.name, s.command, text)
	}
	if !ok {
		d.t.Errorf("%s: on %s: %s\nprints (%v)\n%s\nand the page has\n%s", s.at(), h.name, s.command, err, text, strings.Join(s.answer, "\n"))
	}
}

func (h *host) systemctl(verb string) {
	h.t.Helper()
	if verb == "reload" {
		h.daemon.Process.Signal(syscall.SIGHUP)
		return
	}
	if verb != "start" {
		h.shutDown()
	}
	if verb != "stop" {
		h.start()
	}
}

// run runs a command on a host, and returns all that it prints.
func (d *drill) run(h *host, command string) (string, error) {
	if _, err := buildCommand(); err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(d.t.Context(), time.Minute)
	defer cancel()
	c := h.command("sh", "-c", command)
	out := new(strings.Builder)
	c.Stdout, c.Stderr = out, out
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.WaitDelay = time.Second
	if err := c.Start(); err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, func() { syscall.Kill(-c.Process.Pid, syscall.SIGKILL) })
	defer stop()
	err := c.Wait()
	return out.String(), err
}
