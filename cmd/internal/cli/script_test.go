package cli

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater/payload"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/ulikunitz/xz"
)

// now is the time of all tests.
var now = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

func clock() time.Time { return now }

func TestMain(m *testing.M) {
	time.Local = time.UTC // goldens hold local times
	os.Exit(m.Run())
}

// drydock builds the command, as it is shipped.
func drydock(t *testing.T) (dir string) {
	t.Helper()
	build := exec.Command("go", "build", "-o", t.TempDir(), "./cmd/drydock")
	build.Dir = real.Module(t)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return build.Args[3]
}

// TestScripts runs the scripts in testdata/cli against the command as it is
// shipped. README.md there says what they find.
func TestScripts(t *testing.T) {
	if os.Getenv("REQUIRE_REAL") == "1" {
		real.Program(t, "dbus-daemon") // else its scripts skip
	}
	module := real.Module(t)
	bin := drydock(t)
	vectors := filepath.Join(module, "..", "shared", "vectors")
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join(module, "testdata", "cli"),
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("UPDATE") != "",
		Setup: func(e *testscript.Env) error {
			e.Setenv("TZ", "UTC")
			e.Values["harbour"] = new(*harbour)
			e.Setenv("PATH", bin+string(filepath.ListSeparator)+e.Getenv("PATH"))
			e.Setenv("MACHINES", filepath.Join(module, "testdata", "cli", "machines"))
			e.Setenv("VECTORS", vectors)
			e.Setenv("KEYS", filepath.Join(vectors, "keys"))
			e.Setenv("DRYDOCK_BUS", "unix:path="+filepath.Join(e.WorkDir, "nobody"))
			return furnish(e.WorkDir)
		},
		Condition: func(cond string) (bool, error) {
			if cond != "vectors" {
				return false, errors.New("unknown condition")
			}
			_, err := os.Stat(vectors)
			return err == nil, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":   exits,
			"unxz":    unxz,
			"flip":    flip,
			"daemon":  daemon,
			"cluster": cluster,
			"pass":    pass,
			"nothere": nothere,
		},
	})
}

// exits CODE PROGRAM ARGS... runs a program that must exit with the code, and
// have one line to say if it failed.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if neg || got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
	if got == exitFailed || got == exitUsage {
		if lines := bytes.Count([]byte(ts.ReadFile("stderr")), []byte("\n")); lines != 1 {
			ts.Fatalf("%d lines on stderr, want 1", lines)
		}
	}
}

// unxz FILE.xz FILE decompresses.
func unxz(ts *testscript.TestScript, _ bool, args []string) {
	f, err := os.Open(args[0])
	ts.Check(err)
	defer f.Close()
	r, err := xz.NewReader(f)
	ts.Check(err)
	data, err := io.ReadAll(r)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), data, 0o644))
}

// flip FILE OFFSET changes one bit; a negative offset counts from the end.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	offset, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	path := ts.MkAbs(args[0])
	data, err := os.ReadFile(path)
	ts.Check(err)
	if offset < 0 {
		offset += int64(len(data))
	}
	data[offset] ^= 1
	ts.Check(os.WriteFile(path, data, 0o644))
}

// nothere PATTERN fails if a file matches: a temporary one that was left.
func nothere(ts *testscript.TestScript, _ bool, args []string) {
	found, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(found) > 0 {
		ts.Fatalf("left behind: %q", found)
	}
}

// signers are the keys of all scripts, made once: a key of RSA takes a while.
var signers = sync.OnceValues(func() (map[string]crypto.Signer, error) {
	a, err1 := rsa.GenerateKey(rand.Reader, 2048)
	b, err2 := rsa.GenerateKey(rand.Reader, 2048)
	c, err3 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return map[string]crypto.Signer{"a": a, "b": b, "ec": c}, errors.Join(err1, err2, err3)
})

// furnish puts into dir what scripts begin with.
func furnish(dir string) error {
	keys, err := signers()
	if err != nil {
		return err
	}
	for name, key := range keys {
		if err := writeKey(filepath.Join(dir, name), key); err != nil {
			return err
		}
	}
	old, next := images()
	kernel, oldKernel := bytes.Repeat([]byte("kernel "), 1000), bytes.Repeat([]byte("older "), 1000)
	for name, data := range map[string][]byte{"old.img": old, "new.img": next, "kernel": kernel, "old.kernel": oldKernel} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	if err := writeDelta(filepath.Join(dir, "delta.crau"), keys["a"], [2][]byte{old, oldKernel}, [2][]byte{next, kernel}); err != nil {
		return err
	}
	return writeDisk(filepath.Join(dir, "disk.img"))
}

func writeKey(path string, key crypto.Signer) error {
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	if err := os.WriteFile(path+".pem", text, 0o600); err != nil {
		return err
	}
	return os.WriteFile(path+".pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o644)
}

// images are an old and a new image of 3 MiB: the second chunk is zeros in
// both, the others nothing can compress, so that a payload's size does not
// depend on how well that is done. The new one has four blocks moved and four
// others.
func images() (old, next []byte) {
	const chunk = 1 << 20
	old = make([]byte, 3*chunk)
	random := mathrand.NewChaCha8([32]byte{1})
	random.Read(old[:chunk])
	random.Read(old[2*chunk:])
	next = bytes.Clone(old)
	copy(next[4*payload.BlockSize:], old[:4*payload.BlockSize])
	random.Read(next[:4*payload.BlockSize])
	return old, next
}

// writeDelta makes a delta of major 1 as upstream's generator does: in place,
// of the image and of the kernel.
func writeDelta(path string, key crypto.Signer, from, to [2][]byte) error {
	old, next, kernel := from[0], to[0], to[1]
	w, err := payload.NewWriter(payload.Header{Major: 1, Version: "2.0.0", Signers: []crypto.Signer{key}})
	if err != nil {
		return err
	}
	defer w.Close()
	sum := func(p []byte) []byte { h := sha256.Sum256(p); return h[:] }
	w.Partition(payload.Root, int64(len(next)), sum(next), int64(len(old)), sum(old))
	err = errors.Join(
		w.Add(payload.Operation{Type: payload.Move, Source: []payload.Extent{{Start: 0, Blocks: 4}}, Target: []payload.Extent{{Start: 4, Blocks: 4}}}),
		w.Add(payload.Operation{Type: payload.Replace, Data: next[:4*payload.BlockSize], Target: []payload.Extent{{Start: 0, Blocks: 4}}}))
	w.Partition(payload.Kernel, int64(len(kernel)), sum(kernel), int64(len(from[1])), sum(from[1]))
	blocks := int64(math.Ceil(float64(len(kernel)) / payload.BlockSize))
	err = errors.Join(err, w.Add(payload.Operation{Type: payload.Replace, Data: kernel, Target: []payload.Extent{{Start: 0, Blocks: blocks}}}))
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return w.Write(context.Background(), f)
}

// writeDisk makes a disk with two slots, the first one good.
func writeDisk(path string) error {
	const mebi = 1 << 20
	entries := partition.Flatcar(mebi, 4*mebi, mebi, 512)
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		return err
	}
	if err := os.Truncate(path, partition.FlatcarSize(entries, 512)); err != nil {
		return err
	}
	d, err := partition.OpenDisk(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return partition.Format(d, entries)
}
