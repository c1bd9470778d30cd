package rebootlock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/drydock-os/drydock/rebootlock/etcdtest"
	"github.com/drydock-os/drydock/testdata/real"
)

// The names that dist/etcd-roles.md uses.
const (
	roleCluster = "prod"
	roleGroup   = "web"
	roleMachine = "4c0f9fbd2b3e4b2f8f6a1d7c5e903a11"
	rolePass    = "a-password"
)

// others are machines whose commands dist/etcd/roles prints: one that
// coordinates and serves FleetLock, and one of which nothing is allowed.
const (
	roleCoordinator = "00000000000000000000000000000c01"
	roleOther       = "00000000000000000000000000000c02"
)

// documented returns the etcdctl commands of dist/etcd-roles.md, in order, but
// those of a machine that is gone.
func documented(t *testing.T) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(real.Module(t), "dist/etcd-roles.md"))
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(data), -1) {
		for line := range strings.Lines(block[1]) {
			if line = strings.TrimSpace(line); line != "" && !strings.Contains(line, " delete ") {
				commands = append(commands, line)
			}
		}
	}
	return commands
}

// printed returns what dist/etcd/roles prints.
func printed(t *testing.T, args ...string) []string {
	t.Helper()
	cmd := exec.Command(real.Program(t, "sh"), append([]string{filepath.Join(real.Module(t), "dist/etcd/roles")}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("roles %q: %v", args, err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// TestRolesScriptPrintsWhatIsDocumented: the document and the script are one.
func TestRolesScriptPrintsWhatIsDocumented(t *testing.T) {
	var want []string
	for _, args := range [][]string{
		{"cluster", roleCluster}, {"host", roleCluster, roleGroup, roleMachine, roleMachine + ".password"}, {"host", roleCluster, roleGroup, roleMachine},
		{"may", "drydock-" + roleMachine, roleCluster, "coordinator"}, {"may", "drydock-" + roleMachine, roleCluster, "fleetlock"},
	} {
		want = append(want, printed(t, args...)...)
	}
	got := slices.DeleteFunc(documented(t), func(s string) bool {
		return s == "etcdctl auth enable" || strings.Contains(s, " root")
	})
	for _, list := range []*[]string{&got, &want} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	if !slices.Equal(got, want) {
		t.Errorf("documented:\n%s\nprinted:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestRolesScriptRefuses: what it prints is run by a shell, as root of etcd.
func TestRolesScriptRefuses(t *testing.T) {
	script := filepath.Join(real.Module(t), "dist/etcd/roles")
	for _, args := range [][]string{
		{}, {"cluster"}, {"cluster", ""}, {"cluster", "a b"}, {"cluster", "a;reboot"}, {"cluster", "prod/db"}, {"cluster", "$(reboot)"}, {"cluster", "a\nb"}, {"cluster", "prod", "x"},
		{"host", "prod", "web"}, {"host", "prod", "we*b", roleMachine}, {"host", "prod", "web", "a`b`"}, {"host", "prod", "web", roleMachine, "it's"},
		{"may", "ann", "prod"}, {"may", "ann", "prod", "x y"}, {"usage"}, {"plain", "a", "b"},
	} {
		if out, err := exec.Command(real.Program(t, "sh"), append([]string{script}, args...)...).Output(); err == nil || len(out) > 0 {
			t.Errorf("roles %q: %v, printed %q", args, err, out)
		}
	}
}

// etcdctl does what commands of etcdctl do, through etcd's API. Of users it adds
// those with a password, or those without.
func etcdctl(t *testing.T, client *clientv3.Client, passwords bool, commands []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, command := range commands {
		args := strings.Fields(command)
		prefix := slices.Contains(args, "--prefix")
		words := slices.DeleteFunc(args, func(a string) bool { return strings.HasPrefix(a, "--") })
		var err error
		switch what := strings.Join(words[:3], " "); {
		case what == "etcdctl role add":
			_, err = client.RoleAdd(ctx, words[3])
		case what == "etcdctl role grant-permission":
			end, kind := "", map[string]clientv3.PermissionType{"read": clientv3.PermissionType(clientv3.PermRead), "readwrite": clientv3.PermissionType(clientv3.PermReadWrite)}
			if prefix {
				end = clientv3.GetPrefixRangeEnd(words[5])
			}
			if _, known := kind[words[4]]; !known {
				t.Fatalf("%s: a kind of permission that nobody knows", command)
			}
			_, err = client.RoleGrantPermission(ctx, words[3], words[5], end, kind[words[4]])
		case what == "etcdctl user add" && words[3] != "root" && strings.Contains(command, "--no-password") != passwords:
			_, err = client.UserAddWithOptions(ctx, words[3], rolePass, &clientv3.UserAddOptions{NoPassword: !passwords})
		case what == "etcdctl user grant-role":
			_, err = client.UserGrantRole(ctx, words[3], words[4])
		case what == "etcdctl user add", what == "etcdctl auth enable": // of the other kind, or done
		default:
			t.Fatalf("%s: nobody knows how", command)
		}
		if err != nil && !errors.Is(err, rpctypes.ErrUserAlreadyExist) {
			t.Fatalf("%s: %v", command, err)
		}
	}
}

// roleYard is an etcd with the roles of the document.
type roleYard struct {
	*etcdtest.Cluster
	t     *testing.T
	certs bool // users are known by their certificates
	keys  Keys
	ctx   context.Context
}

func newRoleYard(t *testing.T, certs bool) *roleYard {
	t.Helper()
	o := etcdtest.Options{TLS: etcdtest.Server, Auth: true, Flags: []string{"--unsafe-no-fsync"}}
	if certs {
		o.TLS = etcdtest.Mutual
	}
	y := &roleYard{Cluster: etcdtest.Start(t, o), t: t, certs: certs, keys: Keys{Cluster: roleCluster}, ctx: t.Context()}
	root := y.Client(t)
	etcdctl(t, root, !certs, documented(t))
	for _, machine := range []string{roleCoordinator, roleOther} {
		args := []string{"host", roleCluster, roleGroup, machine}
		if !certs {
			args = append(args, "file")
		}
		etcdctl(t, root, !certs, printed(t, args...))
	}
	for _, role := range []string{"coordinator", "fleetlock"} { // the document gives both to its machine
		etcdctl(t, root, !certs, printed(t, "may", "drydock-"+roleCoordinator, roleCluster, role))
		if _, err := root.UserRevokeRole(y.ctx, "drydock-"+roleMachine, "drydock-"+roleCluster+"-"+role); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := root.UserAddWithOptions(y.ctx, "ann", rolePass, &clientv3.UserAddOptions{NoPassword: certs}); err != nil {
		t.Fatal(err)
	}
	etcdctl(t, root, !certs, printed(t, "may", "ann", roleCluster, "operator"))
	return y
}

// as is a store as a user has it: known by a password over TLS with a CA
// alone, or by a certificate.
func (y *roleYard) as(user string) *Etcd {
	y.t.Helper()
	o := EtcdOptions{Endpoints: y.Endpoints(), CAFile: y.CAFile}
	if y.certs {
		o.CertFile, o.KeyFile = y.Certificate(user)
	} else {
		o.User, o.PasswordFile = user, passwordFile(y.t, rolePass)
	}
	return dialled(y.t, o)
}

func passwordFile(t *testing.T, password string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(name, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func dialled(t *testing.T, o EtcdOptions) *Etcd {
	t.Helper()
	e, err := DialEtcd(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// host is a machine's client with the rights of a user; it is not running.
func (y *roleYard) host(machine string, store Store) *Client {
	self := Self{Machine: machine, Instance: "i", Boot: "b", Group: roleGroup, Hostname: machine[:4]}
	return &Client{Store: store, Keys: y.keys, Self: func() Self { return self }, Now: time.Now,
		Seed: func() *Rules { return &Rules{Max: Max{Count: 7}} }, Rand: func(n int64) int64 { return n / 50 }}
}

// during runs what belongs to the test's time, and ends it.
func during(t *testing.T, runs ...func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for _, run := range runs {
		all.Go(func() { _ = run(ctx) })
	}
	t.Cleanup(func() { cancel(); all.Wait() })
}

// TestEtcdRoles applies the commands of dist/etcd-roles.md to a real etcd:
// with them a machine takes its whole turn, a coordinator grants, an operator
// has every verb and a FleetLock server its clients, and none of them can do more.
func TestEtcdRoles(t *testing.T) {
	for name, certs := range map[string]bool{"by password": false, "by certificate": true} {
		t.Run(name, func(t *testing.T) {
			y := newRoleYard(t, certs)
			operator := Operator{Store: y.as("ann"), Keys: y.keys, Who: "operator ann", Now: time.Now}
			host := y.host(roleMachine, y.as("drydock-"+roleMachine))
			y.needsAnOperator(host, operator)

			coordinates := y.as("drydock-" + roleCoordinator)
			during(t, host.Run, y.host(roleCoordinator, coordinates).Run,
				(&Coordinator{Store: coordinates, Keys: y.keys, Machine: roleCoordinator, Now: time.Now, Spread: time.Millisecond}).Run)
			y.takesItsTurn(host)
			y.maySayNothingElse(host, operator)
			y.isNoCoordinator(host.Store)
			y.servesFleetLock(Proxy{Store: coordinates, Keys: y.keys, Now: time.Now, TTL: time.Minute})
			y.hasEveryVerb(operator)
		})
	}
}

// needsAnOperator: a machine makes neither cluster nor rules, and says who does.
func (y *roleYard) needsAnOperator(host *Client, operator Operator) {
	y.t.Helper()
	_, err := host.Standing(y.ctx)
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "drydock lock apply") {
		y.t.Errorf("there is no cluster yet: %v", err)
	}
	if _, _, err := operator.Apply(y.ctx, "another", Rules{Version: version, Max: Max{Count: 1}}); err != nil {
		y.t.Fatal(err)
	}
	s, err := host.Standing(y.ctx)
	said := slices.ContainsFunc(s.Waits, func(o Obstacle) bool {
		return o.Kind == "rules" && strings.Contains(o.Text, "may not write them") && strings.Contains(o.Text, "drydock lock apply")
	})
	if err != nil || !said {
		y.t.Errorf("there are no rules yet: %v, %v", s.Waits, err)
	}
	if _, _, err := operator.Apply(y.ctx, roleGroup, Rules{Version: version, Max: Max{Count: 1}}); err != nil {
		y.t.Fatal(err)
	}
}

func (y *roleYard) takesItsTurn(host *Client) {
	y.t.Helper()
	patiently(y.t, func(ctx context.Context) error { _, err := host.Acquire(ctx, Request{To: "2"}); return err })
	patiently(y.t, func(ctx context.Context) error { return expect(Holding)(host.Standing(ctx)) })
	for what, call := range map[string]func() error{
		"publish": func() error { return host.Publish(y.ctx, Status{Release: "1"}) },
		"fence":   func() error { return host.Fence(y.ctx, PhaseDraining) },
		"refresh": func() error { return host.Refresh(y.ctx) },
	} {
		if err := call(); err != nil {
			y.t.Errorf("%s: %v", what, err)
		}
	}
	if err := host.Release(y.ctx, Updated, ""); err != nil {
		y.t.Fatal(err)
	}
	y.isFree(host.Store, roleMachine)
}

// isFree waits until the coordinator has booked a machine's permit.
func (y *roleYard) isFree(store Store, machine string) {
	y.t.Helper()
	patiently(y.t, func(ctx context.Context) error {
		s, err := store.Read(ctx, Range{Key: y.keys.Permit(roleGroup, machine)})
		if err == nil && len(s.KVs) > 0 {
			err = fmt.Errorf("the permit is still there: %s", s.KVs[0].Value)
		}
		return err
	})
}

// denied checks that a store may not write keys, nor delete them.
func (y *roleYard) denied(store Store, who string, keys ...string) {
	y.t.Helper()
	for _, key := range keys {
		for _, op := range []Op{{Key: key, Value: []byte("{}")}, {Key: key, Delete: true}} {
			if _, err := store.Commit(y.ctx, Txn{Then: []Op{op}}); !errors.Is(err, ErrRefused) {
				y.t.Errorf("%s may write %s (delete: %t): %v", who, key, op.Delete, err)
			}
		}
	}
}

// maySayNothingElse: neither a machine nor an operator can write what is
// another's, and no other cluster is seen.
func (y *roleYard) maySayNothingElse(host *Client, operator Operator) {
	y.t.Helper()
	k, other := y.keys, Keys{Cluster: roleCluster + "uction"}
	coordinators := []string{k.Ledger(roleGroup), k.Stamp(), k.Election() + "/1", k.Presence(roleMachine, "x"), other.Member(roleMachine)}
	y.denied(operator.Store, "an operator", coordinators...)
	y.denied(host.Store, "a machine", append(coordinators[:3:3],
		k.Permit(roleGroup, roleOther), k.Ticket(roleGroup, roleOther), k.Member(roleOther), k.Presence(roleOther, "b"), k.Status(roleOther), k.OwnEntry(roleOther, "1"),
		k.Entry("1"), k.Rules(roleGroup), k.Failures(roleGroup), k.ClusterRecord(), k.Permit("another", roleMachine), k.Member(roleMachine+"0"), other.Member(roleMachine))...)
	y.denied(y.as("drydock-"+roleCoordinator), "a coordinator", k.Rules(roleGroup), k.ClusterRecord(), k.Status(roleMachine), k.Presence(roleMachine, "b"))
	if _, err := host.Store.Read(y.ctx, other.everything()); !errors.Is(err, ErrRefused) {
		y.t.Errorf("a machine reads another cluster: %v", err)
	}
	usurper := Operator{Store: host.Store, Keys: k, Who: "operator", Now: time.Now}
	for what, err := range map[string]error{"freeze a group": usurper.Freeze(y.ctx, roleGroup, "x"), "freeze the cluster": usurper.Freeze(y.ctx, "", "x"),
		"take a permit away": usurper.Acquire(y.ctx, roleGroup, roleOther, "x")} {
		if !errors.Is(err, ErrRefused) {
			y.t.Errorf("a machine may %s: %v", what, err)
		}
	}
}

// isNoCoordinator: a machine that is to coordinate, and may not, says what to
// do, and does not try again at once.
func (y *roleYard) isNoCoordinator(store Store) {
	y.t.Helper()
	told := make(chan error, 100)
	during(y.t, (&Coordinator{Store: store, Keys: y.keys, Machine: roleMachine, Now: time.Now, Spread: time.Millisecond, Trouble: func(err error) { told <- err }}).Run)
	err := <-told
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "cluster.coordinate = false") {
		y.t.Errorf("it is told %v", err)
	}
	rest(y.ctx, 300*time.Millisecond)
	if len(told) > 0 {
		y.t.Errorf("it tried again at once: %v", <-told)
	}
}

func (y *roleYard) servesFleetLock(p Proxy) {
	y.t.Helper()
	const machine = "zincati-1"
	patiently(y.t, func(ctx context.Context) error {
		a, err := p.Ask(ctx, roleGroup, machine, 5*time.Second)
		if err == nil && !a.Granted {
			err = fmt.Errorf("it waits: %v", a.Why)
		}
		return err
	})
	if err := p.Return(y.ctx, roleGroup, machine); err != nil {
		y.t.Error(err)
	}
	y.isFree(p.Store, machine)
}

// hasEveryVerb: an operator's role is enough for all that an operator does.
func (y *roleYard) hasEveryVerb(o Operator) {
	y.t.Helper()
	ctx := y.ctx
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"set max", func() error { _, err := o.SetMax(ctx, roleGroup, Max{Count: 2}); return err }},
		{"freeze a group", func() error { return o.Freeze(ctx, roleGroup, "x") }},
		{"thaw it", func() error { return o.Thaw(ctx, roleGroup) }},
		{"freeze the cluster", func() error { return o.Freeze(ctx, "", "x") }},
		{"thaw it", func() error { return o.Thaw(ctx, "") }},
		{"forgive", func() error { return o.Forgive(ctx, roleGroup, "") }},
		{"acquire", func() error { return o.Acquire(ctx, roleGroup, roleOther, "x") }},
		{"see it granted", func() error {
			patiently(y.t, func(ctx context.Context) error {
				s, err := o.Store.Read(ctx, Range{Key: y.keys.Permit(roleGroup, roleOther)})
				if err == nil && len(s.KVs) == 0 {
					err = errors.New("nothing is granted")
				}
				return err
			})
			return nil
		}},
		{"take away", func() error { return o.TakeAway(ctx, roleGroup, roleOther, "x", false) }},
		{"acquire again", func() error { return o.Acquire(ctx, roleGroup, roleOther, "x") }},
		{"release", func() error { return o.Release(ctx, roleGroup, roleOther, "x") }},
		{"remove", func() error { return o.Remove(ctx, "zincati-1", "gone", true) }},
		{"look", func() error { _, err := o.Look(ctx); return err }},
		{"read the journal", func() error { _, err := o.Journal(ctx, roleGroup, 0); return err }},
	} {
		if err := step.do(); err != nil {
			y.t.Errorf("%s: %v", step.what, err)
		}
	}
}
