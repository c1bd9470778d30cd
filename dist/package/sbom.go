package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
)

// A bill is the list of what the programs were built of, growing.
type bill struct {
	doc  *v2_3.Document
	seen map[string]bool // modules, by identifier
}

// Bill is the software bill of materials of the programs in dir, as SPDX 2.3 in
// JSON: each program with its SHA-256, and every module that the Go linker wrote
// into it, with its version and hash. A program that is no Go program is listed
// with nothing in it.
func Bill(r Release, dir string) ([]byte, error) {
	b := bill{seen: map[string]bool{}, doc: &v2_3.Document{
		SPDXVersion: v2_3.Version, DataLicense: v2_3.DataLicense, SPDXIdentifier: "DOCUMENT",
		DocumentName: "drydock-" + r.Version.String(),
		CreationInfo: &v2_3.CreationInfo{
			Creators: []common.Creator{{CreatorType: "Tool", Creator: "drydock-dist-package"}},
			Created:  r.Time.Format(time.RFC3339),
		},
	}}
	top := b.add("drydock", r.Version.String(), "pkg:generic/drydock@"+r.Version.String())
	top.PrimaryPackagePurpose = "APPLICATION"
	b.relate("DOCUMENT", "DESCRIBES", top.PackageSPDXIdentifier)
	all := sha256.New()
	for _, name := range names {
		path := filepath.Join(dir, name)
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("list modules: %w", err)
		}
		all.Write(data)
		program := b.add("cmd/"+name, r.Version.String(), "")
		program.PackageFileName = "/usr/bin/" + name
		program.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: fmt.Sprintf("%x", sha256.Sum256(data))}}
		b.relate(top.PackageSPDXIdentifier, "CONTAINS", program.PackageSPDXIdentifier)
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			program.PackageComment = "no Go build information, so its parts are not known: " + err.Error()
			continue
		}
		b.modules(program.PackageSPDXIdentifier, info)
	}
	// A namespace names one document for ever: other programs, another name.
	b.doc.DocumentNamespace = fmt.Sprintf("https://github.com/drydock-os/drydock/spdx/%s-%x", r.Version, all.Sum(nil)[:16])
	text := &bytes.Buffer{}
	if err := json.Write(b.doc, text, json.Indent("  "), json.EscapeHTML(false)); err != nil {
		return nil, fmt.Errorf("write SBOM: %w", err)
	}
	return text.Bytes(), nil
}

// modules lists what is linked into one program.
func (b *bill) modules(program common.ElementID, info *debug.BuildInfo) {
	deps := slices.Clone(info.Deps)
	deps = append(deps, &debug.Module{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")})
	slices.SortFunc(deps, func(x, y *debug.Module) int { return cmp.Compare(x.Path, y.Path) })
	for _, m := range deps {
		if m.Replace != nil {
			m = m.Replace
		}
		id := b.module(m)
		b.relate(program, "STATIC_LINK", id)
	}
}

// module lists one module, once.
func (b *bill) module(m *debug.Module) common.ElementID {
	id := identifier(m.Path, m.Version)
	if b.seen[string(id)] {
		return id
	}
	b.seen[string(id)] = true
	p := b.add(m.Path, m.Version, "pkg:golang/"+m.Path+"@"+m.Version)
	p.PrimaryPackagePurpose = "LIBRARY"
	if m.Sum != "" {
		p.PackageSourceInfo = "go.sum " + m.Sum
	}
	return id
}

// add lists a package; url is its package URL, if it has one.
func (b *bill) add(name, version, url string) *v2_3.Package {
	p := &v2_3.Package{
		PackageName: name, PackageVersion: version, PackageSPDXIdentifier: identifier(name, version),
		PackageDownloadLocation: "NOASSERTION", PackageLicenseConcluded: "NOASSERTION",
		PackageLicenseDeclared: "NOASSERTION", PackageCopyrightText: "NOASSERTION",
		IsFilesAnalyzedTagPresent: true,
	}
	if url != "" {
		p.PackageExternalReferences = []*v2_3.PackageExternalReference{{
			Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: strings.ReplaceAll(url, "+", "%2B"),
		}}
	}
	b.doc.Packages = append(b.doc.Packages, p)
	return p
}

func (b *bill) relate(from common.ElementID, how string, to common.ElementID) {
	b.doc.Relationships = append(b.doc.Relationships, &v2_3.Relationship{
		RefA: common.DocElementID{ElementRefID: from}, RefB: common.DocElementID{ElementRefID: to}, Relationship: how,
	})
}

// notInIdentifiers is what SPDX 2.3, section 3.2, does not allow in one.
var notInIdentifiers = regexp.MustCompile(`[^a-zA-Z0-9.-]+`)

func identifier(name, version string) common.ElementID {
	return common.ElementID("Package-" + notInIdentifiers.ReplaceAllString(name+"-"+version, "-"))
}
