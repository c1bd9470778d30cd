package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/cmd/internal/config"
	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/rebootlock/window"
	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater/policy"
)

// migrate runs drydock migrate locksmith on one update.conf, and returns its
// facts and what it said on stderr.
func migrate(t testing.TB, conf string, args ...string) (migratedFacts, string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "update.conf")
	if err := os.WriteFile(name, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, err bytes.Buffer
	p := Program{In: strings.NewReader(""), Out: &out, Err: &err, Now: clock}
	if code := p.Run(context.Background(), append([]string{"migrate", "locksmith", "--json", "--update-conf", name}, args...)); code != 0 {
		t.Fatalf("%q: exit code %d: %s", conf, code, err.String())
	}
	var facts migratedFacts
	if err := json.Unmarshal(out.Bytes(), &facts); err != nil {
		t.Fatal(err)
	}
	return facts, err.String()
}

const lock = "REBOOT_STRATEGY=etcd-lock\n"

// What update.conf says and the keys of the policy that say the same. Each
// policy passes drydockd --check-config.
var migrations = map[string]struct {
	conf string
	want func(*policy.Policy) // over the policy of an empty update.conf
	note string               // on stderr
}{
	"nothing":       {"", func(*policy.Policy) {}, ""},
	"reboot":        {"REBOOT_STRATEGY=reboot", func(*policy.Policy) {}, ""},
	"off":           {"REBOOT_STRATEGY=off", func(p *policy.Policy) { p.Reboot.Strategy = policy.Off }, ""},
	"quoted":        {"REBOOT_STRATEGY=\"off\"  \n", func(p *policy.Policy) { p.Reboot.Strategy = policy.Off }, ""},
	"best-effort":   {"REBOOT_STRATEGY=best-effort", func(p *policy.Policy) { p.Reboot.Strategy = policy.Off }, "refuses it since 0.6.0"},
	"case matters":  {"REBOOT_STRATEGY=Reboot", func(p *policy.Policy) { p.Reboot.Strategy = policy.Off }, "knows no strategy \"Reboot\""},
	"group":         {"GROUP=beta", func(p *policy.Policy) { p.Server.Group = "beta" }, ""},
	"no updates":    {"SERVER=disabled", func(p *policy.Policy) { p.Server.URL, p.Update.Enabled = "", false }, ""},
	"a server":      {"SERVER=http://nebraska:8000/v1/update/", func(p *policy.Policy) { p.Server.URL = "http://nebraska:8000/v1/update/" }, ""},
	"an alias":      {"MACHINE_ALIAS=a \"b\" \\ #c", func(p *policy.Policy) { p.Server.MachineAlias = "a \"b\" \\ #c" }, ""},
	"a PCR server":  {"PCR_POLICY_SERVER=https://pcr/", func(p *policy.Policy) { p.Server.PCRPolicyServer = "https://pcr/" }, ""},
	"a product":     {"FLATCAR_RELEASE_APPID={a}\nFLATCAR_RELEASE_BOARD=arm64-usr", func(p *policy.Policy) { p.Server.AppID, p.Server.Board = "{a}", "arm64-usr" }, ""},
	"a password":    {"DOWNLOAD_USER=me\nDOWNLOAD_PASSWORD=geheim", func(p *policy.Policy) { p.Server.User, p.Server.PasswordFile = "me", "/etc/drydock/password" }, "first line of /etc/drydock/password"},
	"only half":     {"DOWNLOAD_PASSWORD=geheim", func(*policy.Policy) {}, "DOWNLOAD_PASSWORD=(hidden)"},
	"a version":     {"FLATCAR_RELEASE_VERSION=0.0.0", func(*policy.Policy) {}, "FLATCAR_RELEASE_VERSION=0.0.0"},
	"a window":      {"LOCKSMITHD_REBOOT_WINDOW_START=Thu 04:00\nLOCKSMITHD_REBOOT_WINDOW_LENGTH=90m", windowed("Thu 04:00", "90m"), ""},
	"an old window": {"REBOOT_WINDOW_START=9:00\nREBOOT_WINDOW_LENGTH=23h59m", windowed("09:00", "23h59m"), ""},
	"a mixed window": {
		"LOCKSMITHD_REBOOT_WINDOW_START=14:00\nREBOOT_WINDOW_START=15:00\nREBOOT_WINDOW_LENGTH=1h", windowed("14:00", "1h"), "LOCKSMITHD_REBOOT_WINDOW_START comes first"},
	"an empty window":         {"LOCKSMITHD_REBOOT_WINDOW_START=\nREBOOT_WINDOW_START=15:00\nREBOOT_WINDOW_LENGTH=1h", windowed("15:00", "1h"), ""},
	"a sloppy window":         {"REBOOT_WINDOW_START=sat 9:5x\nREBOOT_WINDOW_LENGTH=1h", windowed("Sat 09:05", "1h"), ""},
	"half a window":           {"REBOOT_WINDOW_START=9:00", func(p *policy.Policy) { p.Reboot.Strategy = policy.Off }, "lacks its start or its length"},
	"a window of a day":       {"REBOOT_WINDOW_START=9:00\nREBOOT_WINDOW_LENGTH=24h", func(p *policy.Policy) { p.Reboot.Strategy = policy.Off }, "is none here"},
	"a window of no length":   {"REBOOT_WINDOW_START=9:00\nREBOOT_WINDOW_LENGTH=0s", func(p *policy.Policy) { p.Reboot.Strategy = policy.Off }, "is none here"},
	"a bad window and a lock": {lock + "REBOOT_WINDOW_START=9\nREBOOT_WINDOW_LENGTH=1h", func(p *policy.Policy) { locked(p); p.Reboot.Strategy = policy.Off }, "is none here"},
	"etcd-lock":               {lock, locked, "stop locksmithd on all machines"},
	"endpoints": {lock + "LOCKSMITHD_ENDPOINT=https://10.0.0.1:2379, https://10.0.0.2:2379/", func(p *policy.Policy) {
		locked(p)
		p.Cluster.Endpoints, p.Cluster.LocalEtcd = []string{"https://10.0.0.1:2379", "https://10.0.0.2:2379"}, nil
	}, ""},
	"a group of machines": {lock + "LOCKSMITHD_GROUP=prod/db", func(p *policy.Policy) { locked(p); p.Cluster.Group = "prod/db" }, ""},
	"certificates": {lock + "LOCKSMITHD_ENDPOINT=https://[::1]:2379\nLOCKSMITHD_ETCD_CAFILE=/ca\nLOCKSMITHD_ETCD_CERTFILE=/c\nLOCKSMITHD_ETCD_KEYFILE=/k", func(p *policy.Policy) {
		locked(p)
		p.Cluster.Endpoints, p.Cluster.LocalEtcd = []string{"https://[::1]:2379"}, []string{"https://[::1]:2379"}
		p.Cluster.CAFile, p.Cluster.CertFile, p.Cluster.KeyFile = "/ca", "/c", "/k"
	}, ""},
	"a CA alone": {lock + "LOCKSMITHD_ENDPOINT=https://a:1\nLOCKSMITHD_ETCD_CAFILE=/ca", func(p *policy.Policy) {
		locked(p)
		p.Cluster.Endpoints, p.Cluster.LocalEtcd, p.Cluster.CAFile = []string{"https://a:1"}, nil, "/ca"
	}, ""},
	"certificates for nothing": {lock + "LOCKSMITHD_ETCD_CAFILE=/ca", locked, "no endpoint is https"},
	"half a certificate": {lock + "LOCKSMITHD_ENDPOINT=https://a:1\nLOCKSMITHD_ETCD_CERTFILE=/c", func(p *policy.Policy) {
		locked(p)
		p.Cluster.Endpoints, p.Cluster.LocalEtcd = []string{"https://a:1"}, nil
	}, "has no cluster.key_file"},
	"one bad endpoint": {lock + "LOCKSMITHD_ENDPOINT=https://a:1,b:1", func(p *policy.Policy) {
		locked(p)
		p.Cluster.Endpoints, p.Cluster.LocalEtcd = []string{"https://a:1"}, nil
	}, "\"b:1\" is no URL of etcd"},
	"bad endpoints": {lock + "LOCKSMITHD_ENDPOINT=b:1", func(p *policy.Policy) { // in no cluster it waits
		locked(p)
		p.Cluster.ID, p.Cluster.Endpoints, p.Cluster.LocalEtcd = "", nil, nil
	}, "\"b:1\" is no URL of etcd"},
	"etcd's user": {lock + "LOCKSMITHD_ETCD_USERNAME=me\nLOCKSMITHD_ETCD_PASSWORD=geheim", func(p *policy.Policy) {
		locked(p)
		p.Cluster.User, p.Cluster.PasswordFile = "me", "/etc/drydock/etcd/password"
	}, "first line of /etc/drydock/etcd/password"},
	"the command's":      {"LOCKSMITHCTL_ENDPOINT=http://a:1", func(*policy.Policy) {}, "is for the command locksmithctl alone"},
	"of no use":          {"LOCKSMITHD_GROUP=a\nLOCKSMITHD_DEBUG=true\nCOLOUR=blue", func(*policy.Policy) {}, "COLOUR=blue"},
	"an unusable server": {"SERVER=nebraska", nil, "drydockd --check-config will say"},
}

func windowed(start, length string) func(*policy.Policy) {
	return func(p *policy.Policy) {
		w, err := window.Parse(start, length)
		if err != nil {
			panic(err)
		}
		p.Reboot.Windows, p.Reboot.Timezone = []window.Window{w}, "Local"
	}
}

func locked(p *policy.Policy) {
	p.Reboot.Strategy = policy.Coordinated
	p.Cluster.ID = "default"
	p.Cluster.Endpoints, p.Cluster.LocalEtcd = []string{"http://127.0.0.1:2379"}, []string{"http://127.0.0.1:2379"}
}

func TestMigrations(t *testing.T) {
	build := exec.Command("go", "build", "-o", t.TempDir(), "./cmd/drydockd")
	build.Dir = real.Module(t)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	daemon := filepath.Join(build.Args[3], "drydockd")
	for _, name := range slices.Sorted(maps.Keys(migrations)) {
		tt := migrations[name]
		facts, said := migrate(t, tt.conf)
		if tt.note == "" && !strings.Contains(tt.conf, "etcd-lock") && said != "" || !strings.Contains(said, tt.note) {
			t.Errorf("%s: it said %q, want %q", name, said, tt.note)
		}
		if strings.Contains(facts.Policy+facts.Groups+said, "geheim") {
			t.Errorf("%s: shows a password", name)
		}
		file := filepath.Join(t.TempDir(), "drydock.toml")
		if err := os.WriteFile(file, []byte(facts.Policy), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(daemon, "--config", file, "--check-config").CombinedOutput()
		if (err == nil) != (tt.want != nil) {
			t.Errorf("%s: drydockd says %v: %s\n%s", name, err, out, facts.Policy)
		}
		if tt.want == nil {
			continue
		}
		want := policy.Default()
		want.Server.URL = "https://public.update.flatcar-linux.net/v1/update/"
		want.Trust.Keys = []string{"/usr/share/update_engine/update-payload-key.pub.pem"}
		want.Reboot.Strategy = policy.Immediate
		tt.want(&want)
		if got, err := config.Load(file); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v\nwant %+v\n%s", name, got, err, want, facts.Policy)
		}
	}
}

// The group's record reads back, with max from the semaphore.
func TestMigratedGroups(t *testing.T) {
	for name, tt := range map[string]struct {
		conf, semaphore string
		want            config.Group
		note            string
	}{
		"unknown": {lock, "", config.Group{Name: "default", Rules: rebootlock.Rules{Max: rebootlock.Max{Count: 1}}}, "was not read"},
		"three":   {lock + "LOCKSMITHD_GROUP=prod \"x\"", `{"semaphore":3,"max":3,"holders":null}`, config.Group{Name: "prod \"x\"", Rules: rebootlock.Rules{Max: rebootlock.Max{Count: 3}}}, ""},
		"none":    {lock, `{"semaphore":-2,"max":-2,"holders":[]}`, config.Group{Name: "default", Rules: rebootlock.Rules{Max: rebootlock.Max{Count: 1}}}, "freeze the group"},
		"held":    {lock, `{"semaphore":0,"max":1,"holders":["69d27b356a94476da859461d3a3bc6fd"]}`, config.Group{Name: "default", Rules: rebootlock.Rules{Max: rebootlock.Max{Count: 1}}}, "69d27b356a94476da859461d3a3bc6fd"},
	} {
		var args []string
		if tt.semaphore != "" {
			file := filepath.Join(t.TempDir(), "semaphore.json")
			if err := os.WriteFile(file, []byte(tt.semaphore), 0o600); err != nil {
				t.Fatal(err)
			}
			args = []string{"--semaphore", file}
		}
		facts, said := migrate(t, tt.conf, args...)
		if !strings.Contains(said, tt.note) {
			t.Errorf("%s: it said %q, want %q", name, said, tt.note)
		}
		file := filepath.Join(t.TempDir(), "groups.toml")
		if err := os.WriteFile(file, []byte(facts.Groups), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := config.ReadGroups(file)
		if err != nil || !reflect.DeepEqual(got, []config.Group{tt.want}) {
			t.Errorf("%s: got %+v, %v\n%s", name, got, err, facts.Groups)
		}
	}
	if facts, _ := migrate(t, "REBOOT_STRATEGY=reboot"); facts.Groups != "" {
		t.Errorf("a machine that takes no turns has a group: %s", facts.Groups)
	}
}

func TestWords(t *testing.T) {
	for text, want := range map[string][]string{
		"":                       nil,
		"  ":                     nil,
		"a b\tc":                 {"a", "b", "c"},
		`"A=b c" 'D="e"' F=g\ h`: {"A=b c", `D="e"`, "F=g h"},
		`A="b c"d ""`:            {"A=b cd", ""},
		`"open`:                  {"open"},
		`end\`:                   {`end\`},
	} {
		if got := words(text); !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// Whatever update.conf says: no panic, and a policy that the daemon takes or a
// line that says what it will say of it.
func FuzzMigrate(f *testing.F) {
	for _, tt := range migrations {
		f.Add(tt.conf)
	}
	f.Fuzz(func(t *testing.T, conf string) {
		if len(conf) > 4096 || strings.ContainsRune(conf, 0) {
			return
		}
		name := filepath.Join(t.TempDir(), "update.conf")
		if err := os.WriteFile(name, []byte(conf), 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := readLocksmith(legacy{updateConf: name, cluster: "default"})
		if err != nil {
			t.Fatal(err)
		}
		facts, err := m.convert()
		if err != nil {
			return // a group that cannot be called so
		}
		if _, err := config.Parse("policy", []byte(facts.Policy)); err != nil && !strings.Contains(strings.Join(facts.Notes, "\n"), "--check-config will say") {
			t.Errorf("%v, and it does not say so\n%s", err, facts.Policy)
		}
	})
}
