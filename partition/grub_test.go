package partition

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
)

func fragment(t *testing.T) string {
	return filepath.Join(real.Module(t), "dist/grub/drydock.cfg")
}

func TestGRUBFragmentParses(t *testing.T) {
	run(t, real.Program(t, "grub-script-check"), fragment(t))
}

// TestGRUBFragmentBootsAsWeModel runs the fragment in GRUB itself, on an ext4 in
// an image, for many tables, and compares the slot it picks and the block it
// saves with Table.Boot.
func TestGRUBFragmentBootsAsWeModel(t *testing.T) {
	emu, mkfs := real.Program(t, "grub-emu"), real.Program(t, "mkfs.ext4")
	var tables []Table
	flags := []Flags{{}, {1, 0, true}, {2, 0, true}, {1, 1, false}, {2, 1, false}, {2, 0, false}, {9, 15, false}, {10, 9, true}, {15, 10, false}}
	for _, a := range flags {
		for _, b := range flags {
			tables = append(tables, Table{a, b})
		}
	}
	dir := t.TempDir()
	boot := filepath.Join(dir, "fs")
	for _, sub := range []string{"drydock", "boot/grub"} {
		if err := os.MkdirAll(filepath.Join(boot, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := os.ReadFile(fragment(t))
	if err != nil {
		t.Fatal(err)
	}
	block, err := envBlock{}.with(tables[0])
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(dir, "disk.img")
	for name, data := range map[string][]byte{
		filepath.Join(boot, "drydock/drydock.cfg"): cfg,
		filepath.Join(boot, "drydock/grubenv"):     block,
		filepath.Join(boot, "boot/grub/grub.cfg"):  []byte(emuScript(tables)),
		filepath.Join(dir, "map"):                  []byte("(hd0) " + image + "\n"),
		image:                                      make([]byte, 8*mib),
	} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run(t, mkfs, "-q", "-d", boot, image)
	out, err := exec.Command(emu, "-m", filepath.Join(dir, "map"), "-r", "hd0", "-d", "/boot/grub").CombinedOutput()
	if err != nil {
		t.Fatalf("grub-emu: %v\n%s", err, out)
	}
	compareEmu(t, tables, string(out))
}

// emuScript sets each table, lets the fragment try, and prints what came of it.
func emuScript(tables []Table) string {
	var b strings.Builder
	b.WriteString("set drydock_root=hd0\nsource (hd0)/drydock/drydock.cfg\n")
	for _, t := range tables {
		names := []string{}
		for s, f := range t {
			p, n, g := envNames(Slot(s))
			fmt.Fprintf(&b, "set %s=%02d\nset %s=%02d\nset %s=%d\n", p, f.Priority, n, f.Tries, g, btoi(f.Successful))
			names = append(names, p, n, g)
		}
		fmt.Fprintf(&b, "save_env -f (hd0)/drydock/grubenv %s\n", strings.Join(names, " "))
		b.WriteString("drydock_try\nset slot=$drydock_slot\nset ready=$drydock_ready\ndrydock_load\n")
		b.WriteString("echo \"RESULT:$ready:$slot")
		for _, name := range names {
			b.WriteString(":$" + name)
		}
		b.WriteString(":END\"\n")
	}
	b.WriteString("exit\n")
	return b.String()
}

func compareEmu(t *testing.T, tables []Table, out string) {
	results := strings.Split(out, "RESULT:")[1:]
	if len(results) != len(tables) {
		t.Fatalf("%d results of %d tables:\n%s", len(results), len(tables), out)
	}
	for i, table := range tables {
		got, _, _ := strings.Cut(results[i], ":END")
		slot, after, ok := table.Boot()
		want := "1:" + slot.String()
		if !ok {
			want = ":"
		}
		for _, f := range after {
			want += fmt.Sprintf(":%02d:%02d:%d", f.Priority, f.Tries, btoi(f.Successful))
		}
		if got != want {
			t.Errorf("%+v: GRUB %q, our model %q", table, got, want)
		}
	}
}

func TestEnvironmentBlockBesideGrubEditenv(t *testing.T) {
	editenv := real.Program(t, "grub-editenv")
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "drydock"), 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, envFile)
	table := Table{{1, 0, true}, {2, 3, false}}
	// A block that GRUB's own tool made, with a variable that is not ours.
	run(t, editenv, path, "create")
	run(t, editenv, path, "set", "saved_entry=some \\ thing", "drydock_A_priority=1", "drydock_A_tries=0", "drydock_A_good=1",
		"drydock_B_priority=0", "drydock_B_tries=0", "drydock_B_good=0")
	boot, err := OpenPlainDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { boot.Close() })
	c := GRUB{Dir: anyFileSystem{boot}}
	if got, err := c.Table(); err != nil || got != (Table{{1, 0, true}, {}}) {
		t.Fatalf("flags %+v: %v", got, err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetTable(table); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) || after.Size() != envSize {
		t.Errorf("the block is another file, or of another size: %v", err)
	}
	out := run(t, editenv, path, "list")
	for _, want := range []string{"drydock_A_good=1\n", "drydock_B_priority=02\n", "drydock_B_tries=03\n", "saved_entry=some \\ thing\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("grub-editenv list has no %q:\n%s", want, out)
		}
	}
	if got, err := c.Table(); err != nil || got != table {
		t.Errorf("flags %+v: %v, want %+v", got, err, table)
	}
}

// anyFileSystem passes a directory of the test off as one that GRUB writes to.
type anyFileSystem struct{ BootDir }

func (anyFileSystem) FileSystem() (string, error) { return "vfat", nil }

func TestGRUBRefusesFileSystemsThatItCannotWrite(t *testing.T) {
	boot, err := OpenPlainDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { boot.Close() })
	c := GRUB{Dir: btrfs{boot}}
	if err := c.Init(Table{}); err == nil || !strings.Contains(err.Error(), "btrfs") {
		t.Errorf("Init on btrfs: %v", err)
	}
	if err := c.SetTable(Table{}); err == nil || !strings.Contains(err.Error(), "btrfs") {
		t.Errorf("SetTable on btrfs: %v", err)
	}
}

type btrfs struct{ BootDir }

func (btrfs) FileSystem() (string, error) { return "btrfs", nil }

// Init is the way out when the block is torn, and must not be a way to forget
// which slot is good.
func TestGRUBInitReplacesOnlyWhatCannotBeRead(t *testing.T) {
	good := Table{{1, 0, true}, {}}
	held, err := envBlock{}.with(Table{{1, 0, true}, {2, 0, true}})
	if err != nil {
		t.Fatal(err)
	}
	others := []byte(envSignature + "saved_entry=x\n")
	others = append(others, bytes.Repeat([]byte("#"), envSize-len(others))...)
	for _, test := range []struct {
		name   string
		block  []byte // nil: none
		want   error
		remain string
	}{
		{"none", nil, nil, ""},
		{"torn", held[:envSector], nil, ""},
		{"empty", []byte{}, nil, ""},
		{"of grub-editenv", others, nil, "saved_entry=x\n"},
		{"whole", held, fs.ErrExist, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			boot, err := OpenPlainDir(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { boot.Close() })
			if test.block != nil {
				if err := replaceFile(boot, envFile, "new", test.block); err != nil {
					t.Fatal(err)
				}
			}
			c := GRUB{Dir: anyFileSystem{boot}}
			if err := c.Init(good); !errors.Is(err, test.want) {
				t.Fatalf("Init: %v, want %v", err, test.want)
			}
			data, err := readFile(boot, envFile)
			if err != nil {
				t.Fatal(err)
			}
			if test.want != nil {
				if !bytes.Equal(data, test.block) {
					t.Errorf("the block was changed to %q", data)
				}
				return
			}
			if got, err := c.Table(); err != nil || got != good || !strings.Contains(string(data), test.remain) {
				t.Errorf("flags %+v: %v; block %q", got, err, data)
			}
		})
	}
}

func TestEnvironmentBlockRefused(t *testing.T) {
	whole := func(text string) []byte {
		return append([]byte(text), strings.Repeat("#", envSize-len(text))...)
	}
	ours := "drydock_A_priority=01\ndrydock_A_tries=00\ndrydock_A_good=1\ndrydock_B_priority=00\ndrydock_B_tries=00\ndrydock_B_good=0\n"
	for name, data := range map[string][]byte{
		"empty":         {},
		"short":         []byte(envSignature),
		"long":          append(whole(envSignature+ours), '#'),
		"no signature":  whole("# nothing\n" + ours),
		"no variables":  whole(envSignature),
		"twice":         whole(envSignature + ours + "drydock_A_good=0\n"),
		"past a sector": whole(envSignature + "x=" + strings.Repeat("y", 450) + "\n" + ours),
		"no number":     whole(envSignature + strings.Replace(ours, "=01", "=zz", 1)),
		"out of range":  whole(envSignature + strings.Replace(ours, "=01", "=16", 1)),
		"no newline":    whole(envSignature + ours + "x=y"),
	} {
		env, err := parseEnv(data)
		if err == nil {
			_, err = env.table()
		}
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if env, err := parseEnv(whole(envSignature + ours)); err != nil {
		t.Error(err)
	} else if _, err := env.table(); err != nil {
		t.Error(err)
	}
}
