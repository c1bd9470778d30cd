package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// extension is the tree in the system extension.
func extension(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	command(t, "unsquashfs", "-no-progress", "-no-xattrs", "-dest", dir, one(t, packages(t), "*.raw"))
	return dir
}

func TestExtensionHoldsUsrAlone(t *testing.T) {
	entries, err := os.ReadDir(extension(t))
	if err != nil || len(entries) != 1 || entries[0].Name() != "usr" {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestExtensionRelease(t *testing.T) {
	got, err := os.ReadFile(filepath.Join(extension(t), "usr/lib/extension-release.d/extension-release.drydock"))
	want := "ID=_any\nARCHITECTURE=" + architecture(runtime.GOARCH) + "\nEXTENSION_RELOAD_MANAGER=1\nDRYDOCK_VERSION=1.4.0\n"
	if err != nil || string(got) != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

// TestExtensionStartsWhatAPresetWould: each unit of the preset is pulled in.
func TestExtensionStartsWhatAPresetWould(t *testing.T) {
	tree := extension(t)
	preset, err := os.ReadFile("../systemd/system-preset/80-drydock.preset")
	if err != nil {
		t.Fatal(err)
	}
	target, err := os.ReadFile(filepath.Join(tree, "usr/lib/systemd/system/drydock.target"))
	if err != nil {
		t.Fatal(err)
	}
	_, wants, _ := strings.Cut(string(target), "\nWants=")
	wanted := strings.Fields(wants)
	dropIn, err := os.ReadFile(filepath.Join(tree, "usr/lib/systemd/system/sysinit.target.d/10-drydock.conf"))
	if err != nil || !strings.HasSuffix(string(dropIn), "[Unit]\nUpholds=drydock.target\n") {
		t.Errorf("%s, %v", dropIn, err)
	}
	count := 0
	for _, l := range strings.Split(string(preset), "\n") {
		unit, ok := strings.CutPrefix(l, "enable ")
		if !ok {
			continue
		}
		count++
		links, _ := filepath.Glob(filepath.Join(tree, "usr/lib/systemd/system/*.target.*/"+unit))
		if len(links) == 1 {
			if _, err := os.Stat(links[0]); err != nil {
				t.Errorf("the link to %s leads nowhere: %v", unit, err)
			}
		} else if !slices.Contains(wanted, unit) {
			t.Errorf("nothing starts %s", unit)
		}
	}
	if count != 3 {
		t.Errorf("%d units in the preset", count)
	}
}

// TestSystemdMergesTheExtension merges it, with the real systemd-sysext, over a
// /usr of a system of another name, in a mount namespace of its own.
func TestSystemdMergesTheExtension(t *testing.T) {
	root(t)
	unshare, merger := program(t, "unshare"), program(t, "systemd-sysext")
	h := host{t, t.TempDir()}
	h.write("usr/lib/os-release", "ID=flatcar\nVERSION_ID=4459.2.1\nSYSEXT_LEVEL=1.0\n")
	h.write("usr/share/dbus-1/system.d/com.coreos.update1.conf", "upstream's")
	h.write("usr/bin/upstream", "")
	h.write("run/none", "")
	h.do(os.MkdirAll(h.path("var/lib/extensions"), 0o755))
	h.do(copyFile(one(t, packages(t), "*.raw"), h.path("var/lib/extensions/drydock.raw")))
	c := exec.Command(unshare, "--mount", "sh", "-ec", `
		mount --bind "$1" "$1"
		mount -t tmpfs tmpfs /run
		mount --make-rshared /
		"$2" --root="$1" merge >&2
		"$1/usr/bin/drydockd" --version
		ls "$1/usr/bin"
		cat "$1/usr/share/dbus-1/system.d/com.coreos.update1.conf"
		"$2" --root="$1" unmerge >&2
	`, "sh", h.dir, merger)
	said := &strings.Builder{}
	c.Stderr = said
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, said)
	}
	ours, err := os.ReadFile("../dbus-1/system.d/com.coreos.update1.conf")
	if err != nil {
		t.Fatal(err)
	}
	if want := "drydockd 1.4.0\ndrydock\ndrydockd\nupstream\n" + string(ours); string(out) != want {
		t.Errorf("got %s, want %s", out, want)
	}
}

// TestBillListsWhatIsLinked compares the SBOM with what the go command says of
// the programs in the package.
func TestBillListsWhatIsLinked(t *testing.T) {
	data, err := os.ReadFile(one(t, packages(t), "*.spdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		SPDXVersion string
		Packages    []struct {
			SPDXID, Name, VersionInfo, SourceInfo, PackageFileName string
			Checksums                                              []struct{ ChecksumValue string }
		}
		Relationships []struct{ SpdxElementID, RelationshipType, RelatedSpdxElement string }
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.SPDXVersion != "SPDX-2.3" {
		t.Errorf("it is %s", doc.SPDXVersion)
	}
	tree := unpacked(t)
	linked := map[string][]string{} // program's identifier to modules' identifiers
	for _, r := range doc.Relationships {
		if r.RelationshipType == "STATIC_LINK" {
			linked[r.SpdxElementID] = append(linked[r.SpdxElementID], r.RelatedSpdxElement)
		}
	}
	ids := map[string]string{} // module and version to identifier
	for _, p := range doc.Packages {
		if ids[p.Name+" "+p.VersionInfo] != "" {
			t.Errorf("%s is listed twice", p.Name)
		}
		ids[p.Name+" "+p.VersionInfo] = p.SPDXID
	}
	programs := 0
	for _, p := range doc.Packages {
		if p.PackageFileName == "" {
			continue
		}
		programs++
		path := filepath.Join(tree, p.PackageFileName)
		if sum := strings.Fields(command(t, "sha256sum", path))[0]; len(p.Checksums) != 1 || p.Checksums[0].ChecksumValue != sum {
			t.Errorf("%s has sum %s, the SBOM says %v", p.PackageFileName, sum, p.Checksums)
		}
		count := 1 // the standard library
		for _, l := range strings.Split(command(t, "go", "version", "-m", path), "\n") {
			f := strings.Fields(l)
			if len(f) < 3 || f[0] != "dep" {
				continue
			}
			count++
			if id := ids[f[1]+" "+f[2]]; id == "" || !slices.Contains(linked[p.SPDXID], id) {
				t.Errorf("%s: %s %s is not in the SBOM", p.Name, f[1], f[2])
			}
		}
		if count < 10 || count != len(linked[p.SPDXID]) {
			t.Errorf("%s: %d modules linked, %d in the SBOM", p.Name, count, len(linked[p.SPDXID]))
		}
	}
	if programs != len(names) {
		t.Errorf("%d programs", programs)
	}
}

// TestAProgramThatIsNotGoIsListedAllTheSame: --bin takes what it is given.
func TestAProgramThatIsNotGoIsListedAllTheSame(t *testing.T) {
	dir := t.TempDir()
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Open(t.Context(), "../..", "1.4.0")
	if err != nil {
		t.Fatal(err)
	}
	text, err := Bill(r, dir)
	if err != nil || strings.Count(string(text), "no Go build information") != len(names) {
		t.Errorf("%v\n%s", err, text)
	}
}
