package doctor

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/drydock-os/drydock/cmd/internal/config"
	"github.com/drydock-os/drydock/updater/payload"
	"github.com/drydock-os/drydock/updater/policy"
)

// policy.file is not among them: it comes before all others.
var policyChecks = []check{
	{id: "policy.sense", image: true, look: func(_ context.Context, p *patient) Finding { return judgePolicy(p.said) }},
	{id: "policy.keys", image: true, look: lookKeys},
	{id: "policy.secrets", image: true, look: lookSecrets},
	{id: "policy.certificates", image: true, look: lookCertificates},
}

// lookPolicyFile reads the policy, which the other checks go by.
func lookPolicyFile(_ context.Context, p *patient) Finding {
	said, err := config.LoadHost(p.Config, p.path())
	switch {
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0:
		return unread(p.Config, err)
	case errors.Is(err, fs.ErrNotExist):
		return Finding{Verdict: Wrong, Seen: "there is no policy file at " + p.Config, Means: "drydockd does not start, and nothing is updated",
			Mend: "write one there, from the commented example drydock.toml, or name another with --config"}
	case err != nil:
		return Finding{Verdict: Wrong, Seen: strings.ReplaceAll(err.Error(), "\n", "; "),
			Means: "drydockd does not start with this file; one that runs keeps the policy before it",
			Mend:  "correct these lines, judge the file with `drydockd --check-config --config " + p.Config + "`, then `systemctl reload drydockd`"}
	}
	p.take(said)
	if why, err := changeable(p.Config); err != nil || why != "" {
		if err != nil {
			return unread(p.Config, err)
		}
		return Finding{Verdict: Wrong, Seen: why, Means: "whoever that is decides which releases this machine trusts, and runs programs as root",
			Mend: "chown root: and chmod go-w it"}
	}
	return ok("%s reads, and every key in it is known", p.Config)
}

// judgePolicy finds values that are possible, and that nobody wants.
func judgePolicy(p policy.Policy) Finding {
	var found []complaint
	say := func(v Verdict, seen, means, mend string) { found = append(found, complaint{v, seen, means, mend}) }
	cluster, fleetlock := p.Cluster.ID != "", p.FleetLock.URL != ""
	if p.Reboot.Strategy == policy.Coordinated && !cluster && !fleetlock {
		say(Wrong, `reboot.strategy is "coordinated", and there is neither cluster.id nor fleetlock.url`, "a release is written and never booted: there is no lock to ask",
			"name the cluster in [cluster], or take another strategy")
	}
	if cluster && fleetlock {
		say(Warning, "cluster.id and fleetlock.url are both set", "permits come from the FleetLock server; the cluster does not know this machine", "drop one of them")
	}
	if cluster && p.Reboot.Strategy == policy.Immediate {
		say(Warning, `cluster.id is set, and reboot.strategy is "immediate"`, "this machine takes no turns with the others", `set reboot.strategy = "coordinated"`)
	}
	if !p.Update.Enabled {
		say(Warning, "update.enabled is false", "this machine gets no releases", "set it to true, if that is not what is wanted")
	}
	if p.Update.Enabled && p.Server.URL == "" {
		say(Wrong, "no update server is named", "this machine gets no releases", "set server.url")
	}
	if p.Update.AllowDowngrade {
		say(Warning, "update.allow_downgrade is true", "the update server can bring back an old release, with its old holes", "set it to false; `drydock update --allow-downgrade` takes one older release")
	}
	return complain(fmt.Sprintf("strategy %s", p.Reboot.Strategy), found)
}

func lookKeys(_ context.Context, p *patient) Finding {
	const mend = "put the release team's public key (PEM) there, owned by root and mode 0644, and name it in trust.keys"
	if len(p.policy.Trust.Keys) == 0 {
		return Finding{Verdict: Wrong, Seen: "trust.keys names no key", Means: "every release is refused", Mend: mend}
	}
	var found []complaint
	var good []string
	for _, path := range p.policy.Trust.Keys {
		kind, c := lookKey(path)
		if c.verdict == Wrong {
			c.means, c.mend = orElse(c.means, "no release is taken while one of the keys is not readable"), orElse(c.mend, mend)
		}
		if c.verdict != OK {
			found = append(found, c)
			continue
		}
		good = append(good, path+" ("+kind+")")
	}
	return complain(strings.Join(good, ", "), found)
}

func lookKey(path string) (kind string, c complaint) {
	data, err := document(path)
	if err != nil {
		f := unread("key "+path, err)
		if errors.Is(err, fs.ErrNotExist) {
			f.Verdict = Wrong
		}
		return "", complaint{verdict: f.Verdict, seen: f.Seen}
	}
	keys, err := payload.ParseKeys(data)
	if err != nil {
		return "", complaint{verdict: Wrong, seen: fmt.Sprintf("key %s: %v", path, err)}
	}
	if why, err := changeable(path); err != nil || why != "" {
		return "", complaint{Wrong, "key " + path + ": " + why, "whoever that is decides which releases this machine boots", "chown root: and chmod go-w it"}
	}
	switch key := keys[0].(type) {
	case *rsa.PublicKey:
		kind = fmt.Sprintf("RSA, %d bits", key.N.BitLen())
	case *ecdsa.PublicKey:
		kind = "ECDSA " + key.Params().Name
	}
	return kind, complaint{verdict: OK}
}

// secrets are the files of a policy that nobody else may read.
func secrets(p policy.Policy) []string {
	own := []string{p.Server.PasswordFile, p.Cluster.PasswordFile, p.Cluster.KeyFile, p.FleetLock.KeyFile, p.FleetLock.ClientKeyFile}
	link, _ := linkFiles(p)
	return present(append(own, link...)...)
}

func present(paths ...string) (list []string) {
	for _, path := range paths {
		if path != "" {
			list = add(list, path)
		}
	}
	return list
}

func lookSecrets(_ context.Context, p *patient) Finding {
	var found []complaint
	files := secrets(p.policy)
	for _, path := range files {
		data, err := document(path)
		if err != nil {
			f := unread(path, err)
			if errors.Is(err, fs.ErrNotExist) {
				f.Verdict = Wrong
			}
			found = append(found, complaint{f.Verdict, f.Seen, "whoever asks for it is not told who this machine is, and refuses it", "put it there, owned by root, mode 0600"})
			continue
		}
		info, err := os.Stat(path)
		switch why, _ := changeable(path); {
		case strings.TrimSpace(string(data)) == "":
			found = append(found, complaint{Wrong, path + " is empty", "whoever asks for it refuses this machine", "write the secret into it"})
		case err == nil && info.Mode().Perm()&0o044 != 0:
			found = append(found, complaint{Wrong, fmt.Sprintf("%s can be read by others (mode %04o)", path, info.Mode().Perm()), "every user of this machine can speak in its name", "chmod 0600 it, and change the secret"})
		case why != "":
			found = append(found, complaint{Wrong, why, "others can change who this machine speaks as", "chown root: and chmod go-w it"})
		}
	}
	if len(files) == 0 {
		return ok("the policy names none")
	}
	return complain(fmt.Sprintf("%d files, readable by root alone", len(files)), found)
}

// renewal is how long before its end a certificate is worth a word.
const renewal = 14 * 24 * time.Hour

func lookCertificates(_ context.Context, p *patient) Finding {
	here := p.policy
	_, link := linkFiles(here)
	files := present(append(link, here.Server.CAFile, here.Cluster.CAFile, here.Cluster.CertFile, here.FleetLock.CAFile, here.FleetLock.ClientCertFile, here.FleetLock.CertFile, here.FleetLock.ClientCAFile)...)
	if len(files) == 0 {
		return ok("the policy names none: the system's are trusted")
	}
	var found []complaint
	for _, path := range files {
		data, err := document(path)
		if err != nil {
			f := unread(path, err)
			if errors.Is(err, fs.ErrNotExist) {
				f.Verdict = Wrong
			}
			found = append(found, complaint{f.Verdict, f.Seen, "who this file vouches for is not trusted", "put the PEM certificates there"})
			continue
		}
		found = append(found, judgeCertificates(path, data, p.now)...)
	}
	return complain(fmt.Sprintf("%d files of certificates that are valid now", len(files)), found)
}

// judgeCertificates judges a PEM file. Of a bundle the last one that ends counts:
// an old CA may stand beside its successor.
func judgeCertificates(path string, data []byte, now time.Time) []complaint {
	var last, first time.Time
	n := 0
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return []complaint{{Wrong, fmt.Sprintf("%s: %v", path, err), "nobody is trusted by it", "put the PEM certificates there"}}
		}
		if n++; cert.NotAfter.After(last) {
			last, first = cert.NotAfter, cert.NotBefore
		}
	}
	const means = "connections that go by it are refused"
	switch {
	case n == 0:
		return []complaint{{Wrong, path + " holds no PEM certificate", means, "put the PEM certificates there"}}
	case now.After(last):
		return []complaint{{Wrong, fmt.Sprintf("%s ended on %s", path, last.Format(time.DateOnly)), means, "renew it (and look at this machine's clock)"}}
	case now.Before(first):
		return []complaint{{Wrong, fmt.Sprintf("%s begins on %s only", path, first.Format(time.DateTime)), means, "look at this machine's clock"}}
	case now.Add(renewal).After(last):
		return []complaint{{Warning, fmt.Sprintf("%s ends on %s", path, last.Format(time.DateOnly)), means + " from then on", "renew it; files are read again with each connection"}}
	}
	return nil
}

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}
