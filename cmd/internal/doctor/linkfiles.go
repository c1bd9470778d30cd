package doctor

import (
	"slices"

	"github.com/drydock-os/drydock/updater/policy"
)

// linkFiles are the files that the link to the scheduler of a policy and its gates
// read: those that nobody else may, and certificates. A kubeconfig is none: it may
// hold no secret, only the names of such files.
func linkFiles(p policy.Policy) (secrets, certificates []string) {
	switch n, f := p.Scheduler.Nomad, p.Scheduler.Fleet; p.Scheduler.Kind {
	case policy.Nomad:
		secrets, certificates = present(n.TokenFile, n.KeyFile), present(n.CAFile, n.CertFile)
	case policy.Fleet:
		secrets, certificates = present(f.PasswordFile, f.KeyFile), present(f.CAFile, f.CertFile)
	}
	for _, a := range p.Gates.Alerts {
		secrets, certificates = append(secrets, a.TokenFile, a.KeyFile), append(certificates, a.CAFile, a.CertFile)
	}
	for _, h := range p.Gates.HTTP {
		secrets, certificates = append(secrets, h.TokenFile, h.KeyFile), append(certificates, h.CAFile, h.CertFile)
	}
	return present(secrets...), present(certificates...)
}

// linkPrograms are what is run to ask or to drain, and a kubeconfig.
func linkPrograms(p policy.Policy) (paths []string) {
	switch p.Scheduler.Kind {
	case policy.Kubernetes:
		paths = present(p.Scheduler.Kubernetes.Kubeconfig)
	case policy.Hooks:
		paths = present(p.Scheduler.Hook.Directory)
	}
	for _, e := range p.Gates.Exec {
		paths = add(paths, e.Path)
	}
	return paths
}

// linkPaths are all paths of [scheduler] and [gates], to be changed: the lists are
// made p's own.
func linkPaths(p *policy.Policy) []*string {
	s, g := &p.Scheduler, &p.Gates
	paths := []*string{&s.Kubernetes.Kubeconfig, &s.Hook.Directory, &s.Nomad.TokenFile, &s.Nomad.CAFile, &s.Nomad.CertFile, &s.Nomad.KeyFile,
		&s.Fleet.CAFile, &s.Fleet.CertFile, &s.Fleet.KeyFile, &s.Fleet.PasswordFile}
	g.Alerts, g.HTTP, g.Exec = slices.Clone(g.Alerts), slices.Clone(g.HTTP), slices.Clone(g.Exec)
	for i := range g.Alerts {
		a := &g.Alerts[i]
		paths = append(paths, &a.CAFile, &a.CertFile, &a.KeyFile, &a.TokenFile)
	}
	for i := range g.HTTP {
		h := &g.HTTP[i]
		paths = append(paths, &h.CAFile, &h.CertFile, &h.KeyFile, &h.TokenFile)
	}
	for i := range g.Exec {
		paths = append(paths, &g.Exec[i].Path)
	}
	return paths
}
