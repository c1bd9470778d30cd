package config

import (
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock/window"
	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater/policy"
)

var update = flag.Bool("update", false, "write the golden error texts anew")

func files(t testing.TB, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(real.Module(t), "testdata", "config", pattern))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no files at %s: %v", pattern, err)
	}
	return paths
}

func TestGoldenErrors(t *testing.T) {
	for _, path := range files(t, "bad/*.toml") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			_, err := Load(path)
			golden(t, path, err)
		})
	}
	for _, path := range files(t, "groups/bad/*.toml") {
		t.Run("groups/"+filepath.Base(path), func(t *testing.T) {
			_, err := ReadGroups(path)
			golden(t, path, err)
		})
	}
}

// golden compares an error with the text beside the file that it is about.
func golden(t *testing.T, path string, err error) {
	t.Helper()
	if err == nil {
		t.Fatal("loads, want an error")
	}
	got := strings.ReplaceAll(err.Error(), path, filepath.Base(path)) + "\n"
	golden := strings.TrimSuffix(path, ".toml") + ".txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}

func TestGoodFilesLoad(t *testing.T) {
	for _, path := range files(t, "good/*.toml") {
		if _, err := Load(path); err != nil {
			t.Error(err)
		}
	}
}

func write(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "drydock.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadKeepsDefaults(t *testing.T) {
	got, err := Load(filepath.Join(real.Module(t), "testdata", "config", "good", "windows.toml"))
	if err != nil {
		t.Fatal(err)
	}
	want := policy.Default()
	want.Server.URL = "https://updates.example.com/v1/update/"
	want.Update.Bandwidth = 5 << 20
	want.Update.Windows = []window.Window{{Start: window.Start{Hour: 22}, Length: 8 * time.Hour}}
	want.Reboot.Strategy = policy.Immediate
	want.Reboot.Timezone = "Europe/Berlin"
	want.Reboot.Windows = []window.Window{
		{Start: window.Start{Days: 1 << time.Saturday, Hour: 2}, Length: 4 * time.Hour},
		{Start: window.Start{Days: 0b0011110, Hour: 22}, Length: 90 * time.Minute},
	}
	want.Slots.Labels = []string{"root-a", "root-b"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestEnvironmentChangesNothing(t *testing.T) {
	for _, name := range []string{"SERVER_URL", "SERVER.URL", "DRYDOCK_SERVER_URL", "STATE"} {
		t.Setenv(name, "/elsewhere")
	}
	p, err := Load(write(t, `server.url = "http://a/"`))
	if err != nil || p.Server.URL != "http://a/" || p.State != policy.Default().State {
		t.Errorf("got %+v, %v", p, err)
	}
}

func TestSymlinksAreFollowed(t *testing.T) {
	path := write(t, `server.url = "http://a/"`)
	link := filepath.Join(t.TempDir(), "link.toml")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(link); err != nil {
		t.Error(err)
	}
}

func TestMissingFileSaysWhatToDo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "drydock.toml")
	_, err := Load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v, want fs.ErrNotExist", err)
	}
	for _, want := range []string{path, "no such file", "write one there", "--config"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v: does not say %q", err, want)
		}
	}
}

func TestUnreadableFiles(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ path, want string }{
		"a directory":    {dir, "no regular file"},
		"a FIFO":         {fifo, "no regular file"},
		"a device":       {"/dev/zero", "no regular file"},
		"too large":      {write(t, strings.Repeat("# comment\n", maxFile/10+1)), "larger than 65536 bytes"},
		"a NUL":          {write(t, "# a\x00b\n"), "NUL"},
		"not UTF-8":      {write(t, "state = \"\xff\"\n"), "is no TOML"},
		"Latin-1 remark": {write(t, "# gr\xfc\xdfe\n"), "is no TOML"},
	} {
		if _, err := Load(tt.path); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	full := "server.url = \"http://a/\"\n"
	full += strings.Repeat("#", maxFile-len(full))
	if _, err := Load(write(t, full)); err != nil {
		t.Errorf("a file of just the limit: %v", err)
	}
}

// A hostile file costs neither memory nor patience, nor a page of messages.
func TestHostileFiles(t *testing.T) {
	for name, text := range map[string]string{
		"a long dotted key":   strings.Repeat("a.", 30000) + "a = 1",
		"a long table":        "[" + strings.Repeat("a.", 30000) + "a]",
		"nested lists":        "state = " + strings.Repeat("[", 30000) + strings.Repeat("]", 30000),
		"nested tables":       "state = " + strings.Repeat("{a=", 15000) + "1" + strings.Repeat("}", 15000),
		"a long name":         strings.Repeat("a", 60000) + " = 1",
		"a long value":        "reboot.timezone = \"" + strings.Repeat("a", 60000) + "\"",
		"many unknown keys":   many(5000, "k%d = 1\n"),
		"many unknown tables": many(5000, "[t%d]\n"),
		"many windows":        many(3000, "[[reboot.windows]]\n#%d\n"),
	} {
		start := time.Now()
		_, err := Load(write(t, text))
		if err == nil {
			t.Errorf("%s: loads", name)
			continue
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("%s: took %v", name, took)
		}
		if len(err.Error()) > 50_000 {
			t.Errorf("%s: a message of %d bytes", name, len(err.Error()))
		}
	}
}

func TestNearest(t *testing.T) {
	names := knownKeys[policy.Policy]().names
	for key, want := range map[string]string{
		"server.ulr":             "server.url",
		"sever":                  "server",
		"reboot.stratgy":         "reboot.strategy",
		"update.strategy":        "reboot.strategy",
		"strategy":               "reboot.strategy",
		"update.check-interval":  "update.check_interval",
		"Server":                 "server",
		"SERVER.URL":             "server.url",
		"reboot.windows.lenght":  "reboot.windows.length",
		"update.windows.lenght":  "update.windows.length",
		"reboot.window":          "reboot.windows",
		"health.unit":            "health.units",
		"health.timeouts":        "health.timeout",
		"drain.timout":           "drain.timeout",
		"reboot.time_zone":       "reboot.timezone",
		"trust.key":              "trust.keys",
		"server.password":        "server.password_file",
		"update.interval":        "update.check_interval",
		"interval":               "update.check_interval",
		"health.retries":         "trial.retries",
		"reboot.colour":          "",
		"x":                      "",
		"":                       "",
		"mesos":                  "",
		strings.Repeat("a", 999): "",
	} {
		if got := Nearest(key, names); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", key, got, want)
		}
	}
	if got := Nearest("a", nil); got != "" {
		t.Errorf("Nearest among none = %q", got)
	}
}
