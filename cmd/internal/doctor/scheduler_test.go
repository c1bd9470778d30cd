package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/cmd/internal/survey"
	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/fleet"
	"github.com/drydock-os/drydock/fleetlink/fleet/etcd2"
	"github.com/drydock-os/drydock/fleetlink/hook"
	"github.com/drydock-os/drydock/fleetlink/host"
	"github.com/drydock-os/drydock/fleetlink/kubernetes"
	"github.com/drydock-os/drydock/fleetlink/nomad"
	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater/policy"
)

const ourWord = `{"by":"drydock","machine":"` + machineID + `","boot":"` + bootID + `","why":"a reboot","cordoned":true}`

const lacksList = `pods is forbidden: User "x" cannot list resource "pods" in API group "" at the cluster scope`

// schedulerIlls begin with a machine that is a node of a cluster that is well.
var schedulerIlls = []ill{
	{id: "scheduler.credential", what: "none", make: gone("etc/drydock/kubeconfig"), verdict: Wrong, seen: "no such file", mend: "scheduler.kubernetes.kubeconfig"},
	{id: "scheduler.credential", what: "the kubelet's is not there", make: func(b *body) { b.set("scheduler.kubernetes", "") }, verdict: Wrong, seen: "has not joined a cluster", mend: "have the kubelet join"},
	{id: "scheduler.credential", what: "garbage", make: put("etc/drydock/kubeconfig", "hello"), verdict: Wrong, seen: "read kubeconfig", mend: "kubectl --kubeconfig"},
	{id: "scheduler.credential", what: "writable", make: func(b *body) { b.mode("etc/drydock/kubeconfig", 0o666) }, verdict: Wrong, seen: "written by others", mend: "chmod go-w"},
	{id: "scheduler.credential", what: "expired", make: func(b *body) { b.cluster.status["/api/v1/nodes/web-1"] = 401 }, verdict: Wrong, seen: "does not accept the credential", mend: "renew it"},
	{id: "scheduler.answers", what: "away", make: func(b *body) { b.cluster.Close() }, verdict: Wrong, seen: "does not answer", mend: "API server"},
	{id: "scheduler.answers", what: "500", make: func(b *body) { b.cluster.status["/api/v1/nodes/web-1"] = 500 }, verdict: Wrong, seen: "get nodes web-1", mend: "API server"},
	{id: "scheduler.answers", what: "no drydockd", make: gone(guardDaemon), verdict: Unknown, seen: "no such file", mend: "install drydockd"},
	{id: "scheduler.answers", what: "anybody's drydockd", make: func(b *body) { b.remove(guardDaemon); b.write(guardDaemon, "#!/bin/sh\n", 0o777) }, verdict: Unknown, seen: "was not run", mend: "install drydockd"},
	{id: "scheduler.node", what: "deleted", make: func(b *body) { b.cluster.status["/api/v1/nodes/web-1"] = 404 }, verdict: Wrong, seen: "is not in the cluster", mend: "systemctl restart kubelet"},
	{id: "scheduler.node", what: "another's", make: func(b *body) { b.cluster.machine = strings.Repeat("f", 32) }, verdict: Wrong, seen: "two machines use its name", mend: "systemd-machine-id-setup"},
	{id: "scheduler.node", what: "with a word that is not ours", make: func(b *body) { b.cluster.word = "hello" }, verdict: Wrong, seen: "is not one of ours", mend: "kubectl describe node"},
	{id: "scheduler.node", what: "of the boot before", make: func(b *body) { b.cluster.boot = "another" }, verdict: Wrong, seen: "was last reported by boot", mend: "systemctl status kubelet"},
	{id: "scheduler.rights", what: "none", make: func(b *body) { b.cluster.denied = true }, verdict: Wrong, seen: "patch nodes web-1 (to cordon it); list pods", mend: "rbac.yaml"},
	{id: "scheduler.rights", what: "of a drain by force", make: func(b *body) { b.cluster.denied = true; b.set("drain", "on_timeout = \"force\"\n") }, verdict: Wrong, seen: "delete pods (for a drain by force)", mend: "rbac.yaml"},
	{id: "scheduler.rights", what: "to list", make: func(b *body) { b.cluster.status["/api/v1/pods"], b.cluster.said["/api/v1/pods"] = 403, lacksList }, verdict: Wrong, seen: "lacks the right to list pods", mend: "rbac.yaml"},
	{id: "scheduler.rights", what: "cannot be asked for", make: func(b *body) {
		b.cluster.status["/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"] = 500
	}, verdict: Unknown, seen: "which rights", mend: "rbac.yaml"},
	{id: "scheduler.standing", what: "at another scheduler", make: put("var/lib/drydock/scheduler.json", `{"version":1,"kind":"nomad"}`), verdict: Wrong, seen: "out of service at nomad, and the policy now names kubernetes (/etc/drydock/kubeconfig web-1)", mend: "name nomad in [scheduler]"},
	{id: "scheduler.standing", what: "as another node", make: put("var/lib/drydock/scheduler.json", `{"version":1,"kind":"kubernetes","place":"/etc/drydock/kubeconfig web-2"}`), verdict: Wrong, seen: "kubernetes (/etc/drydock/kubeconfig web-2)", mend: "remove"},
	{id: "scheduler.standing", what: "damaged", make: put("var/lib/drydock/scheduler.json", `{`), verdict: Wrong, seen: "scheduler.json", mend: "kubectl uncordon"},
	{id: "scheduler.standing", what: "nobody gives it back", make: func(b *body) {
		b.cluster.word = ourWord
		setUnit(daemonUnit, func(u *unit) { u.active = "failed" })(b)
	}, verdict: Wrong, seen: "drydockd does not run", mend: "start drydockd"},
	{id: "scheduler.drain", what: "a budget", make: func(b *body) { b.cluster.budget = "the budget web needs 1 healthy pod" }, verdict: Warning, seen: "shop/web-x (the budget web needs 1 healthy pod)", mend: "another budget"},
	{id: "scheduler.work", what: "not ready", make: func(b *body) { b.cluster.ready = "False" }, verdict: Warning, seen: "node web-1 (it is not ready: disk)", mend: "scheduler's own tools"},

	{id: "scheduler.hooks", what: "not executable", make: hooked("10-app", 0o644), verdict: Wrong, seen: "10-app: refused", mend: "chmod 0755"},
	{id: "scheduler.hooks", what: "writable", make: hooked("10-app", 0o777), verdict: Wrong, seen: "others than root may write", mend: "chown root"},
	{id: "scheduler.hooks", what: "of a user", make: func(b *body) {
		hooked("10-app", 0o755)(b)
		os.Chown(b.path("etc/drydock/drain.d/10-app"), 1000, 0)
	}, verdict: Wrong, seen: "belongs to user 1000", mend: "chown root"},
	{id: "scheduler.hooks", what: "in a directory that is writable", make: func(b *body) { hooked("10-app", 0o755)(b); b.mode("etc/drydock/drain.d", 0o777) }, verdict: Wrong, seen: "drain.d: others than root", mend: "directories above"},
	{id: "scheduler.hooks", what: "none", make: hooked("10-app.bak", 0o755), verdict: Wrong, seen: "holds no hook", mend: "/etc/drydock/drain.d"},

	{id: "gates.exec", what: "not executable", make: func(b *body) { b.write("gate", "", 0o644); b.set("gates", "exec = [{ path = \"/gate\" }]\n") }, verdict: Wrong, seen: "gates.exec[0]", mend: "chmod 0755"},
	{id: "gates.answer", what: "away", make: func(b *body) { b.set("gates", "alerts = [{ url = \"http://127.0.0.1:9\" }]\n") }, verdict: Wrong, seen: "gates.alerts[0]: alerts of http://127.0.0.1:9 cannot be asked", mend: "correct its url"},
	{id: "gates.answer", what: "another CA", make: func(b *body) { b.set("gates", fmt.Sprintf("http = [{ url = %q }]\n", b.server.URL)) }, verdict: Wrong, seen: "gates.http[0]", mend: "ca_file"},
	{id: "gates.open", what: "shut", make: func(b *body) { b.set("gates", fmt.Sprintf("http = [{ url = %q, status = 204 }]\n", b.cluster.URL)) }, verdict: Warning, seen: "answers 404, not 204", mend: "see to what they name"},
	{id: "policy.secrets", what: "a token that others read", make: func(b *body) {
		b.write("etc/drydock/token", "t\n", 0o644)
		b.set("gates", "http = [{ url = \"http://127.0.0.1:9\", token_file = \"/etc/drydock/token\" }]\n")
	}, verdict: Wrong, seen: "token can be read by others", mend: "chmod 0600"},
	{id: "daemon.sandbox", what: "a kubeconfig at home", make: func(b *body) { b.set("scheduler.kubernetes", "kubeconfig = \"/root/.kube/config\"\n") }, verdict: Wrong, seen: "/root/.kube/config", mend: "/etc/drydock"},
}

// hooked has the body drained by hooks, of which there is one.
func hooked(name string, mode os.FileMode) func(*body) {
	return func(b *body) {
		b.write("etc/drydock/drain.d/"+name, "#!/bin/sh\n", mode)
		b.set("scheduler", "kind = \"hook\"\n")
	}
}

// TestNodeOfACluster: a machine that is well, and what is wrong with it, as the
// real drydockd in the machine's own root finds by asking. Whatever changes
// something fails the test.
func TestNodeOfACluster(t *testing.T) {
	b := newBody(t, "gptprio")
	b.enlist()
	b.set("gates", fmt.Sprintf("http = [{ url = %q, status = 404 }]\n", b.cluster.URL))
	r := b.examine()
	healthy(t, r)
	for _, c := range append(schedulerChecks, gateChecks...) {
		if c.applies == nil || c.id != "scheduler.hooks" && c.id != "gates.exec" {
			finding(t, r, c.id)
		}
	}
	b.cluster.word = ourWord
	put("var/lib/drydock/scheduler.json", `{"version":1,"kind":"kubernetes","place":"/etc/drydock/kubeconfig web-1"}`)(b)
	if f := finding(t, b.examine(), "scheduler.standing"); f.Verdict != OK || !strings.Contains(f.Seen, "1 workloads left") {
		t.Errorf("while drydockd drains: %+v", f)
	}
	for _, i := range schedulerIlls {
		t.Run(i.id+"/"+i.what, func(t *testing.T) {
			b := newBody(t, "gptprio")
			b.enlist()
			i.make(b)
			i.found(t, b.examine())
		})
	}
}

// TestSchedulerThatHangs: what hangs is told within a check's time, and nothing
// that hangs on it is called well.
func TestSchedulerThatHangs(t *testing.T) {
	b := newBody(t, "gptprio")
	b.enlist()
	hang := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	t.Cleanup(func() { close(hang); silent.Close() })
	b.write("etc/drydock/kubeconfig", kubeconfigOf(silent.URL), 0o600)
	began := time.Now()
	r := b.examine()
	if f := finding(t, r, "scheduler.answers"); f.Verdict != Wrong || !strings.Contains(f.Seen, "does not answer") || time.Since(began) > 2*defaultPatience {
		t.Errorf("after %v: %+v", time.Since(began), f)
	}
	for _, id := range []string{"scheduler.node", "scheduler.rights", "scheduler.standing", "scheduler.drain", "scheduler.work"} {
		if f := finding(t, r, id); f.Verdict != Unknown || f.Because != "scheduler.answers" {
			t.Errorf("%+v", f)
		}
	}
}

// TestHostWithoutAScheduler: nothing is asked, and drydockd is not run for it.
func TestHostWithoutAScheduler(t *testing.T) {
	b := newBody(t, "gptprio") // its drydockd is an empty script
	r := b.examine()
	if f := finding(t, r, "scheduler.standing"); f.Verdict != OK || !strings.Contains(f.Seen, "no scheduler is named") {
		t.Errorf("%+v", f)
	}
	for _, f := range r.Checks {
		if strings.HasPrefix(f.ID, "gates.") || strings.HasPrefix(f.ID, "scheduler.") && f.ID != "scheduler.standing" {
			t.Errorf("%s was looked at", f.ID)
		}
	}
	put("var/lib/drydock/scheduler.json", `{"version":1,"kind":"nomad"}`)(b)
	if f := finding(t, b.examine(), "scheduler.standing"); f.Verdict != Wrong || !strings.Contains(f.Seen, "the policy now names none") {
		t.Errorf("%+v", f)
	}
}

// noRecord is a record of nothing.
type noRecord struct{}

func (noRecord) Load() ([]byte, error) { return nil, nil }
func (noRecord) Save([]byte) error     { return errors.New("it is written to") }

// TestFaultsAreWhatDriversSay: each driver's own words lead to the check that
// they belong to. A driver that says it otherwise fails here.
func TestFaultsAreWhatDriversSay(t *testing.T) {
	real.Program(t, "sh")
	m := fleetlink.Machine{ID: machineID, Hostname: "web-1", BootID: func() (string, error) { return bootID, nil }}
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	server := func(code int, body string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Etcd-Index", "1")
			w.WriteHeader(code)
			w.Write([]byte(body))
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	throughNomad := func(o nomad.Options) survey.Scheduler { return asks(nomad.New(o, m, noRecord{})) }
	throughFleet := func(o fleet.Options) survey.Scheduler {
		o.Machine, o.Record = m, noRecord{}
		return asks(fleet.Open(o))
	}
	etcdAt := func(url string) etcd2.Options { return etcd2.Options{Endpoints: []string{url}} }
	const machines = `{"machines":[]}`
	for what, c := range map[string]struct {
		kind        policy.SchedulerKind
		said        survey.Scheduler
		check, mend string
	}{
		"no API server":           {policy.Kubernetes, survey.AskLink(t.Context(), kubernetes.New(m, kubernetes.Options{Kubeconfig: file("k", kubeconfigOf("http://127.0.0.1:9"), 0o600), Node: "web-1"}), false), "scheduler.answers", "API server"},
		"a kubeconfig of nothing": {policy.Kubernetes, survey.AskLink(t.Context(), kubernetes.New(m, kubernetes.Options{Kubeconfig: file("e", "", 0o600)}), false), "scheduler.credential", "kubectl"},
		"no agent":                {policy.Nomad, throughNomad(nomad.Options{Address: "http://127.0.0.1:9"}), "scheduler.answers", "systemctl status nomad"},
		"no socket":               {policy.Nomad, throughNomad(nomad.Options{Address: "unix:///nonexistent"}), "scheduler.answers", "scheduler.nomad.address"},
		"no token":                {policy.Nomad, throughNomad(nomad.Options{TokenFile: "/nonexistent"}), "scheduler.credential", "scheduler.nomad.token_file"},
		"two words":               {policy.Nomad, throughNomad(nomad.Options{TokenFile: file("t", "two words\n", 0o600)}), "scheduler.credential", "scheduler.nomad.token_file"},
		"a CA that is none":       {policy.Nomad, throughNomad(nomad.Options{Address: "https://127.0.0.1:9", CAFile: file("ca", "x", 0o600)}), "scheduler.credential", "ca_file"},
		"no pair":                 {policy.Nomad, throughNomad(nomad.Options{Address: "https://127.0.0.1:9", CertFile: "/nonexistent", KeyFile: "/nonexistent"}), "scheduler.credential", "cert_file"},
		"a token without rights":  {policy.Nomad, throughNomad(nomad.Options{Address: server(403, "Permission denied")}), "scheduler.rights", "node:write"},
		"a token that expired":    {policy.Nomad, throughNomad(nomad.Options{Address: server(403, "ACL token expired")}), "scheduler.credential", "token_file"},
		"no node of that name":    {policy.Nomad, throughNomad(nomad.Options{Address: server(200, "[]"), Node: "web-1"}), "scheduler.node", "nomad node status"},

		"no fleet":                {policy.Fleet, throughFleet(fleet.Options{Endpoint: "unix:///nonexistent", Etcd: etcdAt(server(404, `{"errorCode":100,"message":"Key not found"}`))}), "scheduler.answers", "systemctl status fleet"},
		"no machine":              {policy.Fleet, throughFleet(fleet.Options{Endpoint: server(200, machines), Etcd: etcdAt(server(404, `{"errorCode":100,"message":"Key not found"}`))}), "scheduler.node", "fleetctl list-machines"},
		"no password":             {policy.Fleet, throughFleet(fleet.Options{Etcd: etcd2.Options{Endpoints: []string{"http://127.0.0.1:9"}, User: "me", PasswordFile: "/nonexistent"}}), "scheduler.credential", "password_file"},
		"no CA":                   {policy.Fleet, throughFleet(fleet.Options{Etcd: etcd2.Options{Endpoints: []string{"https://127.0.0.1:9"}, CAFile: "/nonexistent"}}), "scheduler.credential", "ca_file"},
		"no certificate":          {policy.Fleet, throughFleet(fleet.Options{Etcd: etcd2.Options{Endpoints: []string{"https://127.0.0.1:9"}, CertFile: "/nonexistent", KeyFile: "/nonexistent"}}), "scheduler.credential", "cert_file"},
		"etcd without the v2 API": {policy.Fleet, throughFleet(fleet.Options{Endpoint: server(200, machines), Etcd: etcdAt(server(404, "404 page not found"))}), "scheduler.answers", "v2 API"},
		"etcd that refuses":       {policy.Fleet, throughFleet(fleet.Options{Endpoint: server(200, machines), Etcd: etcdAt(server(401, `{"errorCode":110,"message":"The request requires user authentication","cause":"Insufficient credentials"}`))}), "scheduler.rights", "role"},

		"a hook that fails": {policy.Hooks, survey.AskLink(t.Context(), &hook.Link{Dir: filepath.Dir(file("d/10-app", "#!/bin/sh\nexit 1\n", 0o755)), Record: noRecord{}, Machine: m}, false), "scheduler.answers", "DRYDOCK_VERB=preflight"},
		"no Docker":         {policy.NoScheduler, survey.AskLink(t.Context(), &host.Link{Record: noRecord{}, Machine: m, Containers: &host.Containers{Socket: "/nonexistent", Labels: []string{"x"}}}, false), "scheduler.answers", "scheduler.none.socket"},
	} {
		t.Run(what, func(t *testing.T) {
			f := schedulerFacts{kind: c.kind, Scheduler: c.said}
			judged := map[string]Finding{"scheduler.credential": judgeCredential(f), "scheduler.answers": judgeAnswers(f), "scheduler.node": judgeNode(f), "scheduler.rights": judgeSchedulerRights(f)}
			if got := judged[c.check]; got.Verdict != Wrong || !strings.Contains(got.Mend, c.mend) || got.Means == "" {
				t.Errorf("%s is %+v, want mend %q; of %+v", c.check, got, c.mend, c.said)
			}
			after := false
			for _, check := range linkChecks {
				if after && judged[check].Because != c.check {
					t.Errorf("%s is %+v, after %s", check, judged[check], c.check)
				}
				after = after || check == c.check
			}
		})
	}
}

func kubeconfigOf(url string) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c","clusters":[{"name":"k","cluster":{"server":%q}}],
"contexts":[{"name":"c","context":{"cluster":"k","user":"u"}}],"users":[{"name":"u","user":{"token":"t"}}]}`, url)
}

// asks asks a link that may not have opened.
func asks[L fleetlink.Link](l L, err error) survey.Scheduler {
	if err != nil {
		return survey.Scheduler{Opened: err.Error()}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return survey.AskLink(ctx, l, false)
}

// TestHookDirectoryOfAnImage: hooks are looked at before an image is shipped.
func TestHookDirectoryOfAnImage(t *testing.T) {
	b := newBody(t, "gptprio")
	b.remove("proc")
	hooked("10-app", 0o755)(b)
	image := func(d *Doctor) { d.Bus = "" }
	if f := finding(t, b.examine(image), "scheduler.hooks"); f.Verdict != OK || !strings.Contains(f.Seen, "10-app") {
		t.Errorf("%+v", f)
	}
	b.mode("etc/drydock/drain.d/10-app", 0o600)
	r := b.examine(image)
	if f := finding(t, r, "scheduler.hooks"); f.Verdict != Wrong {
		t.Errorf("%+v", f)
	}
	for _, f := range r.Checks {
		if f.ID == "scheduler.answers" {
			t.Error("a tree that does not run was asked")
		}
	}
}

// A machine out of service on our word that somebody uncordoned is worth a word.
func TestStandings(t *testing.T) {
	standing := func(s fleetlink.Standing) schedulerFacts {
		return schedulerFacts{kind: policy.Nomad, Scheduler: survey.Scheduler{Standing: survey.Answer[fleetlink.Standing]{Value: s}}}
	}
	for what, c := range map[string]struct {
		standing fleetlink.Standing
		daemon   bool
		want     Verdict
	}{
		"in service":             {fleetlink.Standing{}, false, OK},
		"out of service":         {fleetlink.Standing{Ours: true}, true, OK},
		"somebody took it back":  {fleetlink.Standing{Ours: true, Open: true}, true, Warning},
		"nobody gives it back":   {fleetlink.Standing{Ours: true}, false, Wrong},
		"somebody else's cordon": {fleetlink.Standing{Open: false}, false, OK},
	} {
		if f := judgeStanding(standing(c.standing), c.daemon); f.Verdict != c.want {
			t.Errorf("%s: %+v", what, f)
		}
	}
}
