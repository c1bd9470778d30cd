package doctor

import (
	"os"
	"strings"

	"github.com/drydock-os/drydock/updater/policy"
)

// A linkFault is why a scheduler did not answer, the check whose business that is,
// and how to mend it.
type linkFault struct{ check, seen, mend string }

func (l linkFault) finding(means string) Finding {
	if strings.Contains(l.seen, "permission denied") && os.Geteuid() != 0 {
		return Finding{Verdict: Unknown, Seen: l.seen, Mend: "run drydock doctor as root"}
	}
	return Finding{Verdict: Wrong, Seen: l.seen, Means: means, Mend: l.mend}
}

// linkChecks are in the order in which one needs the other: who has no credential
// is not answered, and who is not answered is not known. A credential that was
// read is said to be, whatever comes of it.
var linkChecks = []string{"scheduler.credential", "scheduler.answers", "scheduler.node", "scheduler.rights"}

// knownFaults are what the drivers say, and what to do about it. The first that
// fits counts: what is said of a right or of a node stands in longer sentences than
// that a server is away.
var knownFaults = []struct {
	kind              policy.SchedulerKind // "": any
	part, check, mend string
}{
	{policy.Kubernetes, "this machine has not joined a cluster", "scheduler.credential", "have the kubelet join the cluster, which makes its kubeconfig, or name one in scheduler.kubernetes.kubeconfig"},
	{policy.Kubernetes, "read kubeconfig ", "scheduler.credential", "`kubectl --kubeconfig FILE get --raw /version` tries it; correct it, or scheduler.kubernetes.kubeconfig"},
	{policy.Kubernetes, "use kubeconfig ", "scheduler.credential", "`kubectl --kubeconfig FILE get --raw /version` tries it; the certificate and the key that it names must be there"},
	{policy.Kubernetes, "does not accept the credential", "scheduler.credential", "renew it: the kubelet does so by itself (systemctl status kubelet), a service account needs a new token; it must be of this cluster"},
	{policy.Kubernetes, "lacks the right to ", "scheduler.rights", rightsMend[policy.Kubernetes]},
	{policy.Kubernetes, "find this machine's node", "scheduler.node", "name this machine's node in scheduler.kubernetes.node (kubectl get nodes)"},
	{policy.Kubernetes, "is not in the cluster", "scheduler.node", "have the kubelet register it (systemctl restart kubelet), or correct scheduler.kubernetes.node"},
	{policy.Kubernetes, "is cordoned, by us, and annotation", "scheduler.node", "kubectl uncordon gives the node back; kubectl cordon after that keeps it"},
	{policy.Kubernetes, "two machines use its name", "scheduler.node", "give each machine its own name and its own machine-id (systemd-machine-id-setup), or correct scheduler.kubernetes.node"},
	{policy.Kubernetes, "annotation drydock.io/out-of-service", "scheduler.node", "kubectl describe node shows its annotations and its cordon: do what is said of them"},
	{policy.Kubernetes, "was last reported by boot", "scheduler.node", "systemctl status kubelet: it has to report this boot"},

	{policy.Nomad, "lacks the right ", "scheduler.rights", rightsMend[policy.Nomad]},
	{policy.Nomad, "refuses this machine's token", "scheduler.credential", "put a token that is valid into scheduler.nomad.token_file (nomad acl token self tries one)"},
	{policy.Nomad, "token for Nomad", "scheduler.credential", "the first line of scheduler.nomad.token_file is the token, and nothing else"},
	{policy.Nomad, "vouch for Nomad", "scheduler.credential", "scheduler.nomad.ca_file must hold PEM certificates"},
	{policy.Nomad, "certificate for Nomad", "scheduler.credential", "scheduler.nomad.cert_file and key_file must be a pair (PEM)"},
	{policy.Nomad, "start the Nomad agent of this machine", "scheduler.node", "systemctl status nomad; nomad node status; or name the node in scheduler.nomad.node"},
	{policy.Nomad, "in the policy", "scheduler.node", "nomad node status shows them; name this machine's in scheduler.nomad.node"},

	{policy.Fleet, "etcd: 110:", "scheduler.rights", rightsMend[policy.Fleet]},
	{policy.Fleet, "read etcd password", "scheduler.credential", "put the password into scheduler.fleet.password_file"},
	{policy.Fleet, "read CA file", "scheduler.credential", "scheduler.fleet.ca_file must hold PEM certificates"},
	{policy.Fleet, "read client ", "scheduler.credential", "scheduler.fleet.cert_file and key_file must be a pair (PEM)"},
	{policy.Fleet, "fleet does not see this machine", "scheduler.node", "systemctl status fleet; fleetctl list-machines"},
	{policy.Fleet, "etcd does not have it", "scheduler.node", "scheduler.fleet.etcd and prefix must be fleet's own (etcd_servers and etcd_key_prefix of fleet.conf)"},
	{policy.Fleet, "two machines have the same", "scheduler.node", "give one of them another machine-id (systemd-machine-id-setup); what it says besides, do first"},
	{policy.Fleet, "--enable-v2", "scheduler.answers", "scheduler.fleet.etcd must be the etcd of fleet, with its v2 API on"},

	{policy.Hooks, "refused, and nothing is drained", "scheduler.answers", "see scheduler.hooks"},
	{policy.Hooks, "hook ", "scheduler.answers", "run that hook by hand as hooks.md says, with DRYDOCK_VERB=preflight; a slow one needs scheduler.hook.ask_timeout"},

	{"", "x509:", "scheduler.answers", "the server's certificate is not trusted: name the CA that signed it (ca_file, or the kubeconfig's), and look at this machine's clock"},
	{"", "no such host", "scheduler.answers", "name resolution does not know that host: correct the address, or DNS (resolvectl query)"},
	{"", "permission denied", "scheduler.answers", "see whose it is, and run drydock doctor as root"},
}

// awayMend is what to do about a scheduler that does not answer, or errs.
var awayMend = map[policy.SchedulerKind]string{
	policy.Kubernetes:  "see that the API server that the kubeconfig names runs and is reached from here (curl -k https://HOST:PORT/healthz)",
	policy.Nomad:       "systemctl status nomad; scheduler.nomad.address must be an agent's",
	policy.Fleet:       "systemctl status fleet.socket fleet; scheduler.fleet.endpoint and etcd must be where fleet and its etcd are",
	policy.Hooks:       "see scheduler.hooks",
	policy.NoScheduler: "systemctl status docker (or podman.socket); scheduler.none.socket must be where its API is",
}

// linkFaultOf finds what an error of a driver is about.
func linkFaultOf(kind policy.SchedulerKind, said string) linkFault {
	for _, known := range knownFaults {
		if (known.kind == "" || known.kind == kind) && strings.Contains(said, known.part) {
			return linkFault{known.check, said, known.mend}
		}
	}
	return linkFault{"scheduler.answers", said, awayMend[kind]}
}
