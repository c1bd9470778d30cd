package doctor

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/cmd/internal/daemon"
	"github.com/drydock-os/drydock/cmd/internal/survey"
	"github.com/drydock-os/drydock/testdata/real"
)

// A cluster stands in for a Kubernetes API server with one node and one pod, in
// JSON. It was modelled on kube-apiserver 1.34's answers; the driver is tested
// against the real one in its own package. It fails the test at whatever would
// change something.
type cluster struct {
	*httptest.Server
	t       *testing.T
	machine string // that the node claims
	boot    string
	word    string            // in our annotation of the node; "": in service
	ready   string            // status of the condition
	budget  string            // why the pod may not be evicted; "": it may
	denied  bool              // every right that is asked for
	status  map[string]int    // answers by path, in place of the right ones
	said    map[string]string // and what they say
}

const (
	bootID  = "00000000-0000-4000-8000-000000000001"
	kubeOn  = "kind = \"kubernetes\"\n"
	kubeHas = "kubeconfig = \"/etc/drydock/kubeconfig\"\nnode = \"web-1\"\n"
)

func newCluster(t *testing.T) *cluster {
	c := &cluster{t: t, machine: machineID, boot: bootID, ready: "True", status: map[string]int{}, said: map[string]string{}}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

// ServeHTTP implements http.Handler.
func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, dry := r.URL.Path, r.URL.Query().Get("dryRun") == "All"
	eviction, review := strings.HasSuffix(path, "/eviction"), strings.HasSuffix(path, "/selfsubjectaccessreviews")
	if r.Method != http.MethodGet && !(r.Method == http.MethodPost && (eviction && dry || review)) {
		c.t.Errorf("it changed something: %s %s", r.Method, r.URL)
	}
	meta := map[string]any{"name": "web-1", "uid": "n", "resourceVersion": "1"}
	if c.word != "" {
		meta["annotations"] = map[string]string{"drydock.io/out-of-service": c.word}
	}
	switch code := c.status[path]; {
	case code != 0:
		c.fail(w, code, c.said[path])
	case path == "/api/v1/nodes/web-1":
		c.reply(w, 200, "v1", "Node", map[string]any{"metadata": meta, "spec": map[string]any{"unschedulable": c.word != ""},
			"status": map[string]any{"nodeInfo": map[string]string{"machineID": c.machine, "bootID": c.boot}, "conditions": []any{map[string]string{"type": "Ready", "status": c.ready, "message": "disk"}}}})
	case path == "/api/v1/pods":
		owner := map[string]any{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "rs", "controller": true}
		pod := map[string]any{"metadata": map[string]any{"name": "web-x", "namespace": "shop", "uid": "p", "ownerReferences": []any{owner}}, "spec": map[string]any{"nodeName": "web-1"}}
		c.reply(w, 200, "v1", "PodList", map[string]any{"metadata": map[string]string{"resourceVersion": "1"}, "items": []any{pod}})
	case eviction && c.budget != "":
		c.fail(w, 429, c.budget)
	case eviction:
		c.reply(w, 201, "v1", "Status", map[string]any{"status": "Success"})
	case review:
		c.reply(w, 201, "authorization.k8s.io/v1", "SelfSubjectAccessReview", map[string]any{"spec": map[string]any{}, "status": map[string]bool{"allowed": !c.denied}})
	default:
		c.fail(w, 404, "not here")
	}
}

func (c *cluster) reply(w http.ResponseWriter, code int, version, kind string, body map[string]any) {
	body["apiVersion"], body["kind"] = version, kind
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(body)
}

func (c *cluster) fail(w http.ResponseWriter, code int, message string) {
	reason := map[int]string{401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 429: "TooManyRequests"}[code]
	body := map[string]any{"status": "Failure", "code": code, "reason": reason, "message": message}
	if code == 404 {
		body["details"] = map[string]string{"kind": "nodes", "name": "web-1"} // who has no such page does not say that
	}
	c.reply(w, code, "v1", "Status", body)
}

// TestMain is drydockd where it is called so: the daemon's own code, in a process
// and a root of its own. That the program hands on its arguments is tested with the
// program (cmd/internal/daemon).
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) != "drydockd" {
		os.Exit(m.Run())
	}
	o := daemon.Options{Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	flag.StringVar(&o.Config, "config", "", "")
	flag.StringVar(&o.Bus, "bus", "", "")
	flag.Parse()
	s, err := daemon.Survey(context.Background(), o)
	if err == nil && flag.Arg(0) != survey.Command {
		err = fmt.Errorf("called with %q", os.Args)
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// operate puts drydockd into the body, with the libraries that it needs there.
func (b *body) operate() {
	b.t.Helper()
	self, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	b.remove(guardDaemon)
	b.copy(self, guardDaemon)
	listed, err := exec.Command(real.Program(b.t, "ldd"), self).Output() // it fails for a static program, which needs none
	if err != nil {
		return
	}
	for _, word := range strings.Fields(string(listed)) {
		if strings.HasPrefix(word, "/") {
			b.copy(word, strings.TrimPrefix(word, "/"))
		}
	}
}

// copy makes a file of the body of one outside, by a link where that can be.
func (b *body) copy(from, to string) {
	b.t.Helper()
	source, err := filepath.EvalSymlinks(from)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(b.path(to)), 0o755)
	}
	if err == nil && os.Link(source, b.path(to)) == nil {
		return
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(source)
	}
	if err == nil {
		err = os.WriteFile(b.path(to), data, 0o755)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// enlist makes the body a node of a cluster that is well.
func (b *body) enlist() {
	b.t.Helper()
	b.operate()
	b.cluster = newCluster(b.t)
	b.write("etc/drydock/kubeconfig", kubeconfigOf(b.cluster.URL), 0o600)
	b.set("scheduler", kubeOn)
	b.set("scheduler.kubernetes", kubeHas)
}
