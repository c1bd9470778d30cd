package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater/policy"
)

func host(t testing.TB, name string) string {
	return filepath.Join(real.Module(t), "testdata", "config", "flatcar", name)
}

func TestReadFlatcar(t *testing.T) {
	for _, tt := range []struct {
		name string
		want Flatcar
	}{
		{"alias-quote", Flatcar{
			Group: "beta # trailing", Server: "http://127.0.0.1:8080/v1/update/", Version: "1.0.0", Board: "amd64-usr",
			AppID: policy.DefaultAppID, MachineAlias: `a"b<c&d`, OEM: "qemu", OEMVersion: "0.0.1",
		}},
		{"layers", Flatcar{
			Group: "second", Server: "https://vendor.example.com/v1/update/", Version: "4459.2.1", Board: "arm64-usr", AppID: "{custom}",
			PCRPolicyServer: "https://pcr.example.com/", User: "me", Password: "a=b", OEM: "first-oem", OEMVersion: "7",
		}},
		{"disabled", Flatcar{Group: "stable", Server: "disabled", AppID: policy.DefaultAppID}},
		{"no such host", Flatcar{Group: "stable", Server: flatcarServer, AppID: policy.DefaultAppID}},
	} {
		got, err := ReadFlatcar(host(t, tt.name))
		if err != nil || got != tt.want {
			t.Errorf("%s: got %+v, %v\nwant %+v", tt.name, got, err, tt.want)
		}
	}
}

// What upstream sent in its run of that name is what is read here.
func TestReadsGroupAsUpstreamSentIt(t *testing.T) {
	log, err := os.ReadFile(real.Shared(t, "vectors", "traces", "alias_quote", "http.log"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := ReadFlatcar(host(t, "alias-quote"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`track="` + f.Group + `"`, `oem="` + f.OEM + `"`, `oemversion="` + f.OEMVersion + `"`, `board="` + f.Board + `"`,
		`machinealias="` + strings.NewReplacer("<", "&lt;", "&", "&amp;").Replace(f.MachineAlias) + `"`} {
		if !strings.Contains(string(log), want) {
			t.Errorf("upstream did not send %s", want)
		}
	}
}

func TestAssignments(t *testing.T) {
	for line, want := range map[string]string{
		`K=v`: `v`, `K=`: ``, `K="v"`: `v`, `K='v'`: `v`, `K="v'`: `"v'`, `K="`: `"`, `K=""`: ``, `K= "v"`: ` "v"`,
		`K="a"b"`: `a"b`, `K=""v""`: `"v"`, `K=a=b`: `a=b`, "K=v\r": "v\r", "K=\"v\"\r": "\"v\"\r", "K=1\nK=2": "2", `K=v # remark`: `v # remark`,
	} {
		if got := assignments(line)["K"]; got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
	for _, line := range []string{"#K=v", " K=v", "K =v", "K", "export K=v"} {
		if got, ok := assignments(line)["K"]; ok {
			t.Errorf("%q: %q, want nothing", line, got)
		}
	}
}

// Not to know whether an operator has disabled updates is no reason to go on.
func TestUnreadableUpdateConfIsAnError(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, confFiles[0]), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFlatcar(root); err == nil || !strings.Contains(err.Error(), confFiles[0]) {
		t.Errorf("got %v, want an error that names the file", err)
	}
	root = t.TempDir()
	path := filepath.Join(root, oemFiles[0])
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("#", maxFile+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFlatcar(root); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v, want an error of size", err)
	}
}

func TestApplyFillsWhatThePolicyLeavesEmpty(t *testing.T) {
	f, err := ReadFlatcar(host(t, "layers"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := Load(write(t, "flatcar.read_conf = true\n[server]\ngroup = \"mine\"\nuser = \"my\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	got := Apply(p, f).Server
	want := policy.Server{
		URL: f.Server, Group: "mine", AppID: "{custom}", Board: "arm64-usr", OEM: "first-oem", OEMVersion: "7",
		User: "my", PCRPolicyServer: "https://pcr.example.com/", Version: "4459.2.1",
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	p.Server.User = ""
	if got := Apply(p, f).Server; got.User != "me" || got.Password != "a=b" {
		t.Errorf("got user %q, want Flatcar's with its password", got.User)
	}
}

func TestServerDisabledEndsUpdates(t *testing.T) {
	for _, text := range []string{"flatcar.read_conf = true", "flatcar.read_conf = true\nserver.url = \"http://a/\""} {
		for _, name := range []string{"disabled", "empty-server"} {
			p, err := LoadHost(write(t, text), host(t, name))
			if err != nil || p.Update.Enabled {
				t.Errorf("%s, %q: enabled %t, %v, want updates disabled", name, text, p.Update.Enabled, err)
			}
		}
	}
	p, err := LoadHost(write(t, "server.url = \"http://a/\""), host(t, "disabled"))
	if err != nil || !p.Update.Enabled {
		t.Errorf("without read_conf: enabled %t, %v, want the file left alone", p.Update.Enabled, err)
	}
}

func TestLoadHostJudgesFlatcarsValues(t *testing.T) {
	root := t.TempDir()
	path := filepath.Join(root, confFiles[0])
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("SERVER=updates.example.com\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := LoadHost(write(t, "flatcar.read_conf = true"), root)
	var invalid *policy.Invalid
	if !errors.As(err, &invalid) || invalid.Key != "server.url" {
		t.Errorf("got %v, want server.url to be refused", err)
	}
}
