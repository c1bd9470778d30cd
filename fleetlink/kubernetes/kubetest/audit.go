package kubetest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// auditPolicy has the API server write down who reads and changes nodes, and who
// makes, evicts and deletes pods (audit.k8s.io/v1).
const auditPolicy = `{"apiVersion":"audit.k8s.io/v1","kind":"Policy","omitStages":["RequestReceived"],"rules":[
{"level":"Request","verbs":["patch"],"resources":[{"resources":["nodes"]}]},
{"level":"Metadata","verbs":["get"],"resources":[{"resources":["nodes"]}]},
{"level":"Metadata","verbs":["create","delete"],"resources":[{"resources":["pods","pods/eviction"]}]},
{"level":"None"}]}`

// A Deed is something that the API server was asked for, and did.
type Deed struct {
	At     time.Time // when the request came
	User   string
	Verb   string // "get", "patch", "create", "delete"
	Object string // "nodes/NAME", "pods/NAMESPACE/NAME", with "/eviction" behind
	Body   string // of a patch of a node
}

func (p *Plane) auditFlags() []string {
	policy := filepath.Join(p.dir, "audit-policy.json")
	p.must("write the audit policy", os.WriteFile(policy, []byte(auditPolicy), 0o600))
	return []string{"--audit-policy-file=" + policy, "--audit-log-path=" + filepath.Join(p.dir, "audit.log"), "--audit-log-mode=blocking"}
}

// Audit is the API server's own record of what it was asked for, in the order in which
// it was done with each.
func (p *Plane) Audit() (deeds []Deed) {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(p.dir, "audit.log"))
	p.must("read the audit log", err)
	for line := range strings.Lines(string(text)) {
		if !strings.HasSuffix(line, "\n") {
			break // it is being written
		}
		var e struct {
			Verb                     string
			RequestReceivedTimestamp time.Time
			User                     struct{ Username string }
			ObjectRef                struct{ Resource, Subresource, Namespace, Name string }
			ResponseStatus           struct{ Code int }
			RequestObject            json.RawMessage
		}
		p.must("read the audit log", json.Unmarshal([]byte(line), &e))
		if e.ResponseStatus.Code/100 != 2 {
			continue
		}
		parts := []string{e.ObjectRef.Resource, e.ObjectRef.Namespace, e.ObjectRef.Name, e.ObjectRef.Subresource}
		object := strings.Trim(strings.ReplaceAll(strings.Join(parts, "/"), "//", "/"), "/")
		deeds = append(deeds, Deed{e.RequestReceivedTimestamp, e.User.Username, e.Verb, object, string(e.RequestObject)})
	}
	return deeds
}
