package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater/bus"
	"github.com/drydock-os/drydock/updater/link"
	"github.com/spf13/cobra"
)

// etcdFlags say which etcd holds the lock; without endpoints the local daemon is
// asked.
type etcdFlags struct {
	endpoints, cluster   string
	ca, cert, key        string
	user, passwordSource string
}

// variables are the environment's part of etcdFlags, by flag.
var variables = map[string]string{
	"endpoints": "DRYDOCK_ENDPOINTS", "cluster": "DRYDOCK_CLUSTER", "cacert": "DRYDOCK_CACERT", "cert": "DRYDOCK_CERT",
	"key": "DRYDOCK_KEY", "user": "DRYDOCK_USER", "password-file": "DRYDOCK_PASSWORD_FILE",
}

// etcdFlags gives a command and all below it the flags of the store.
func (s *session) etcdFlags(c *cobra.Command) {
	flags := c.PersistentFlags()
	text := func(into *string, name, usage string) {
		flags.StringVar(into, name, "", usage+" (default $"+variables[name]+")")
	}
	text(&s.etcd.endpoints, "endpoints", "ask etcd at `URLS`, not the local daemon")
	text(&s.etcd.cluster, "cluster", "`ID` of the cluster in that etcd")
	text(&s.etcd.ca, "cacert", "PEM `FILE` with the authorities that etcd's certificate is checked against")
	text(&s.etcd.cert, "cert", "PEM `FILE` with our certificate for etcd")
	text(&s.etcd.key, "key", "PEM `FILE` with its key")
	text(&s.etcd.user, "user", "etcd user's `NAME`")
	text(&s.etcd.passwordSource, "password-file", "`FILE` with that user's password")
}

// complete takes from the environment what no flag says. A flag that only etcd
// would heed is refused where the daemon is asked.
func (f *etcdFlags) complete(c *cobra.Command) error {
	fields := map[string]*string{
		"endpoints": &f.endpoints, "cluster": &f.cluster, "cacert": &f.ca, "cert": &f.cert,
		"key": &f.key, "user": &f.user, "password-file": &f.passwordSource,
	}
	for name, field := range fields {
		*field = cmp.Or(*field, os.Getenv(variables[name]))
	}
	if f.endpoints == "" {
		for name := range fields {
			if c.Flags().Changed(name) {
				return usage("--%s is for etcd: name it with --endpoints", name)
			}
		}
		return nil
	}
	if f.cluster == "" {
		return usage("--endpoints needs --cluster: one etcd may hold several")
	}
	return nil
}

// fleet is the lock of a cluster, through the daemon or in etcd.
type fleet struct{ of bus.Cluster }

// fleet reaches the lock for as long as f takes.
func (s *session) fleet(c *cobra.Command, f func(fleet) error) error {
	if err := s.etcd.complete(c); err != nil {
		return err
	}
	if s.etcd.endpoints == "" {
		return s.ask(c.Context(), func(client *bus.Client) error { return f(fleet{client}) })
	}
	store, err := rebootlock.DialEtcd(rebootlock.EtcdOptions{
		Endpoints: strings.Split(s.etcd.endpoints, ","), CAFile: s.etcd.ca, CertFile: s.etcd.cert, KeyFile: s.etcd.key,
		User: s.etcd.user, PasswordFile: s.etcd.passwordSource,
	})
	if err != nil {
		return err
	}
	defer store.Close()
	o := rebootlock.Operator{Store: store, Keys: rebootlock.Keys{Cluster: s.etcd.cluster}, Who: whoAmI(), Now: s.Now}
	err = f(fleet{link.ClusterOf(o)})
	if errors.Is(err, context.DeadlineExceeded) {
		err = advised{err, "no member of etcd answered in time (a change may have been made all the same): look whether etcd has a quorum, and at --endpoints and --cacert"}
	}
	return err
}

// whoAmI is who the journal names: "operator ann@laptop".
func whoAmI() string {
	name := "uid " + fmt.Sprint(os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		return "operator " + name
	}
	return "operator " + name + "@" + host
}

func (f fleet) look(ctx context.Context) (v rebootlock.View, err error) {
	data, err := f.of.Look(ctx)
	return v, read(data, err, &v)
}

func (f fleet) journal(ctx context.Context, group string, limit int) (entries []rebootlock.Entry, err error) {
	data, err := f.of.Journal(ctx, group, limit)
	return entries, read(data, err, &entries)
}

func (f fleet) change(ctx context.Context, verb string, ch link.Change) (done link.Outcome, err error) {
	args, err := json.Marshal(ch)
	if err != nil {
		return done, fmt.Errorf("write the arguments of %s: %w", verb, err)
	}
	data, err := f.of.Change(ctx, verb, args, "")
	return done, read(data, err, &done)
}

// read reads an answer, if there is one.
func read(data []byte, err error, into any) error {
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("read the answer about the cluster: %w", err)
	}
	return nil
}

// group is the group that is meant: the one that is named, or the only one.
func groupOf(v rebootlock.View, named string) (string, error) {
	if named != "" {
		return named, nil
	}
	var names []string
	for _, g := range v.Groups {
		names = append(names, g.Group)
	}
	switch len(names) {
	case 0:
		return "", fmt.Errorf("cluster %s has no group yet: drydock lock apply writes one", v.Cluster)
	case 1:
		return names[0], nil
	}
	return "", usage("there are several groups (%s): say which with --group", strings.Join(names, ", "))
}

// A subject is a machine of which something is said or done.
type subject struct{ machine, hostname, group string }

// String is the machine as people know it.
func (s subject) String() string { return orElse(s.hostname, s.machine) }

func orElse(text, other string) string { return cmp.Or(text, other) }

// subjects are the members, and whoever else waits or holds.
func subjects(v rebootlock.View) (all []subject) {
	known := map[string]bool{}
	add := func(machine, hostname, group string) {
		if !known[machine+"\n"+group] {
			known[machine+"\n"+group] = true
			all = append(all, subject{machine, hostname, group})
		}
	}
	for _, m := range v.Machines {
		add(m.Machine, m.Hostname, m.Group)
	}
	for _, g := range v.Groups {
		for _, h := range g.Holders {
			add(h.Machine, h.Hostname, g.Group)
		}
		for _, w := range g.Queue {
			add(w.Machine, w.Hostname, g.Group)
		}
	}
	return all
}

// errUnknown says that a view holds no such machine.
var errUnknown = errors.New("is no machine of this cluster")

// find finds the machine that is named by its machine-id, by its hostname, or
// by a beginning of the machine-id that no other has; in group, if one is named.
func find(v rebootlock.View, name, group string) (subject, error) {
	all := subjects(v)
	for _, same := range []func(subject) bool{
		func(s subject) bool { return s.machine == name },
		func(s subject) bool { return s.hostname == name },
		func(s subject) bool { return strings.HasPrefix(s.machine, name) },
	} {
		var found []subject
		for _, s := range all {
			if name != "" && same(s) && (group == "" || s.group == group) {
				found = append(found, s)
			}
		}
		switch {
		case len(found) == 0:
		case !slices.ContainsFunc(found, func(s subject) bool { return s.machine != found[0].machine }):
			return found[0], nil // a member's own group comes first
		default:
			return subject{}, usage("%q names %d machines: %s in group %s, %s in group %s, …", name, len(found),
				found[0].machine, found[0].group, found[1].machine, found[1].group)
		}
	}
	return subject{}, fmt.Errorf("%q %w: drydock fleet status lists them", name, errUnknown)
}

// hereID is the machine on which the command runs (machine-id(5)).
func hereID() (string, error) {
	data, err := os.ReadFile("/etc/machine-id")
	if err != nil {
		return "", fmt.Errorf("read this machine's name: %w", err)
	}
	id := strings.TrimSpace(string(data))
	if err := rebootlock.CheckMachineID(id); err != nil {
		return "", fmt.Errorf("/etc/machine-id: %w", err)
	}
	return id, nil
}

// glance is how often a watch looks: a person waits, and each look reads the
// whole lock.
const glance = 2 * time.Second

// watchFleet shows the lock again and again, whenever it looks different, until
// it is interrupted. A look that fails after the first is tried again.
func (s *session) watchFleet(ctx context.Context, f fleet, show func(rebootlock.View) error) error {
	last, trouble := "", ""
	for first := true; ; first = false {
		v, err := f.look(ctx)
		switch {
		case ctx.Err() != nil:
			return nil // this is how a watch ends
		case err != nil && first:
			return err
		case err != nil:
			if err.Error() != trouble {
				trouble = err.Error()
				fmt.Fprintf(s.Err, "drydock %s: %s; trying again\n", s.name, oneLine(withAdvice(err)))
			}
		case unlike(v, &last):
			trouble = ""
			if err := show(v); err != nil {
				return err
			}
		}
		timer := time.NewTimer(glance)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// unlike reports whether a view differs from the last by more than its time.
func unlike(v rebootlock.View, last *string) bool {
	v.At, v.Revision, v.Coordinator.Pass, v.Coordinator.At = time.Time{}, 0, 0, time.Time{}
	data, _ := json.Marshal(v) // it came as JSON
	if string(data) == *last {
		return false
	}
	*last = string(data)
	return true
}
