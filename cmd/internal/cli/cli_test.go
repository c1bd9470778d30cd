package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater"
)

// run runs one command line in this process.
func run(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = Program{In: strings.NewReader(""), Out: &out, Err: &err, Now: clock}.Run(ctx, args)
	return code, out.String(), err.String()
}

// workshop is a directory with what scripts begin with and a payload of
// new.img.
func workshop(t *testing.T) func(name string) string {
	t.Helper()
	dir := t.TempDir()
	if err := furnish(dir); err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	if code, _, err := run(t.Context(), "payload", "create", "--key", in("a.pem"), "--version", "2.0.0", "--image", in("new.img"), "--out", in("p.crau")); code != 0 {
		t.Fatalf("payload create: exit %d: %s", code, err)
	}
	return in
}

func sameFile(t *testing.T, got, want string) {
	t.Helper()
	a, err := os.ReadFile(got)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(want)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a[:min(len(a), len(b))], b) {
		t.Errorf("%s does not hold %s", got, want)
	}
}

// A payload may be at a URL; a server that cuts the transfer is asked for the
// rest.
func TestPayloadFromURL(t *testing.T) {
	in := workshop(t)
	var once sync.Once
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/p.crau" {
			http.NotFound(w, r)
			return
		}
		cut := false
		once.Do(func() { cut = r.Method == http.MethodGet })
		if cut {
			w = &shortWriter{ResponseWriter: w, left: 1 << 20}
		}
		http.ServeFile(w, r, in("p.crau"))
	}))
	defer server.Close()
	code, out, errs := run(t.Context(), "payload", "apply", "--key", in("a.pub"), "--target", in("out.img"), server.URL+"/p.crau")
	if code != 0 || !strings.Contains(out, "root written to") {
		t.Fatalf("apply: exit %d: %s%s", code, out, errs)
	}
	if !strings.Contains(errs, "trying again") {
		t.Errorf("the cut was not told: %q", errs)
	}
	sameFile(t, in("out.img"), in("new.img"))
	for _, verb := range []string{"info", "verify"} {
		args := []string{"payload", verb, server.URL + "/p.crau"}
		if verb == "verify" {
			args = append(args, "--key", in("a.pub"))
		}
		if code, _, errs := run(t.Context(), args...); code != 0 {
			t.Errorf("%s: exit %d: %s", verb, code, errs)
		}
	}
	if code, _, errs := run(t.Context(), "payload", "info", server.URL+"/missing"); code != 1 || !strings.Contains(errs, "404") {
		t.Errorf("missing: exit %d: %s", code, errs)
	}
}

// shortWriter breaks the connection after some bytes.
type shortWriter struct {
	http.ResponseWriter
	left int
}

func (s *shortWriter) Write(p []byte) (int, error) {
	n, err := s.ResponseWriter.Write(p[:min(len(p), s.left)])
	if s.left -= n; s.left == 0 && err == nil {
		panic(http.ErrAbortHandler)
	}
	return n, err
}

// A block device is held while it is written, keeps what lies behind the image,
// and is not touched while somebody else holds it.
func TestApplyToDevice(t *testing.T) {
	real.Root(t)
	in := workshop(t)
	dev := real.Loop(t, in("disk.img"))
	slot := dev + "p4"
	held, err := os.OpenFile(slot, os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		real.Missing(t, "partitions of loop devices: "+err.Error())
	}
	before, err := os.ReadFile(slot)
	if err != nil {
		t.Fatal(err)
	}
	apply := func(payload string) (int, string) {
		code, _, errs := run(t.Context(), "payload", "apply", "--key", in("a.pub"), "--target", slot, payload)
		return code, errs
	}
	if code, errs := apply(in("p.crau")); code != 1 || !strings.Contains(errs, "in use") {
		t.Errorf("a held device: exit %d: %s", code, errs)
	}
	after, err := os.ReadFile(slot)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("a held device was written to (%v)", err)
	}
	held.Close()
	if code, errs := apply(in("p.crau")); code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	sameFile(t, slot, in("new.img"))

	// A damaged payload leaves a device of which that is said.
	data, err := os.ReadFile(in("p.crau"))
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-200_000] ^= 1
	if err := os.WriteFile(in("bad.crau"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	if code, errs := apply(in("bad.crau")); code != 1 || !strings.Contains(errs, slot+" may be written in part and must not be booted") {
		t.Errorf("a damaged payload: exit %d: %s", code, errs)
	}
	if code, _, errs := run(t.Context(), "payload", "create", "--key", in("a.pem"), "--version", "3", "--image", in("disk.img"), "--out", in("large.crau")); code != 0 {
		t.Fatal(errs)
	}
	if code, errs := apply(in("large.crau")); code != 1 || !strings.Contains(errs, "target is smaller than the image") || !strings.Contains(errs, "nothing was written") {
		t.Errorf("a large image: exit %d: %s", code, errs)
	}

	// A delta in place, which takes no source that is itself the target.
	old, err := os.ReadFile(in("old.img"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(slot, old, 0); err != nil {
		t.Fatal(err)
	}
	args := []string{"payload", "apply", "--key", in("a.pub"), "--target", slot, "--kernel", in("old.kernel"), in("delta.crau")}
	if code, _, errs := run(t.Context(), append(args, "--source", slot)...); code != 1 || !strings.Contains(errs, "is both source and target of root; nothing was written") {
		t.Errorf("source is target: exit %d: %s", code, errs)
	}
	if code, _, errs := run(t.Context(), args...); code != 0 {
		t.Errorf("delta in place: exit %d: %s", code, errs)
	}
	sameFile(t, slot, in("new.img"))
	sameFile(t, in("old.kernel"), in("kernel"))
	code, _, errs := run(t.Context(), "slots", "show", dev)
	if code != 0 {
		t.Errorf("slots show: exit %d: %s", code, errs)
	}
}

// A full file system is said, and costs nothing that was there.
func TestFullFileSystem(t *testing.T) {
	real.Root(t)
	in := workshop(t)
	if err := os.Mkdir(in("small"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(real.Program(t, "mount"), "-t", "tmpfs", "-o", "size=1m", "tmpfs", in("small")).CombinedOutput(); err != nil {
		real.Missing(t, "mount of tmpfs: "+string(out))
	}
	t.Cleanup(func() { exec.Command("umount", in("small")).Run() })
	if err := os.WriteFile(in("small/root"), []byte("as it was"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"payload", "apply", "--key", in("a.pub"), "--target", in("small/root"), in("p.crau")},
		{"payload", "create", "--key", in("a.pem"), "--version", "3", "--image", in("new.img"), "--out", in("small/out")},
	} {
		if code, _, errs := run(t.Context(), args...); code != 1 || !strings.Contains(errs, "no space left on device") || !strings.Contains(errs, "make room") {
			t.Errorf("%s: exit %d: %s", args[1], code, errs)
		}
	}
	left, err := os.ReadDir(in("small"))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if data, err := os.ReadFile(in("small/root")); string(data) != "as it was" {
		t.Errorf("the target is %d bytes (%v)", len(data), err)
	}
}

// A watch shows the status and each change, and ends with the interrupt.
func TestStatusWatch(t *testing.T) {
	s := &standIn{Now: json.RawMessage(`{"step":"wait","release":"1.0.0"}`)}
	address := serve(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, w := io.Pipe()
	code := make(chan int, 1)
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() {
		code <- Program{Out: w, Err: io.Discard, Now: clock}.Run(ctx, []string{"--bus", address, "status", "--watch", "--json"})
		w.Close()
	})
	lines := bufio.NewScanner(r)
	for _, want := range []string{`"step":"wait"`, `"step":"check"`, `"step":"write"`} {
		if !lines.Scan() || !strings.Contains(lines.Text(), want) {
			t.Fatalf("got %q, want %s", lines.Text(), want)
		}
		next := map[string]string{`"step":"wait"`: "check", `"step":"check"`: "write"}[want]
		if next == "" {
			break
		}
		if err := s.become(json.RawMessage(`{"step":"` + next + `","release":"1.0.0"}`)); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	group.Go(func() { io.Copy(io.Discard, r) })
	if got := <-code; got != 0 {
		t.Errorf("exit %d, want 0", got)
	}
}

// Who interrupts an update cancels it.
func TestUpdateInterrupted(t *testing.T) {
	s := &standIn{
		Now: json.RawMessage(`{"step":"wait"}`), Steps: []json.RawMessage{json.RawMessage(`{"step":"write"}`)}, hold: make(chan struct{}),
	}
	address := serve(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	errs := &interrupter{cancel: cancel}
	code := Program{Out: io.Discard, Err: errs, Now: clock}.Run(ctx, []string{"--bus", address, "update", "--allow-downgrade"})
	if code != exitFailed || !strings.Contains(errs.String(), "interrupted and cancelled; nothing is lost") {
		t.Errorf("exit %d: %s", code, errs)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	want := updater.Request{Action: updater.ActUpdate, AllowDowngrade: true, OnDemand: true}
	if len(s.asked) != 1 || s.asked[0] != want {
		t.Errorf("asked for %+v, want %+v", s.asked, want)
	}
}

// interrupter is a person who sees the first line and has seen enough.
type interrupter struct {
	bytes.Buffer
	cancel func()
}

func (i *interrupter) Write(p []byte) (int, error) {
	i.cancel()
	return i.Buffer.Write(p)
}

// Off a terminal the progress of an update is a line at each step and each
// tenth.
func TestFollow(t *testing.T) {
	var errs bytes.Buffer
	f := (&session{Program: Program{Err: &errs, Now: clock}}).follow()
	f.show(updater.Status{Step: updater.Check, StepName: "check"})
	for done := int64(0); done <= 300_000_000; done += 75_000_000 {
		f.show(updater.Status{Step: updater.Write, StepName: "write", NewVersion: "2.0.0", Done: done, Total: 300_000_000})
	}
	f.show(updater.Status{StepName: "wait"})
	f.end()
	const want = `asking the update server
downloading, writing and verifying
2.0.0: 20 %, 75.0 MB of 300.0 MB
2.0.0: 50 %, 150.0 MB of 300.0 MB
2.0.0: 70 %, 225.0 MB of 300.0 MB
2.0.0: 100 %, 300.0 MB of 300.0 MB
`
	if errs.String() != want {
		t.Errorf("got\n%swant\n%s", errs.String(), want)
	}
}

// TestStaysSmall keeps heavy libraries out of the programs that do not need
// them. The operator's command speaks to etcd (--endpoints), reads files of groups
// (viper) and brings a whole etcd for its demo; the daemon on every host has
// etcd's client and nothing of its server.
func TestStaysSmall(t *testing.T) {
	for program, heavy := range map[string][]string{
		"./cmd/drydock":  {"k8s.io/client-go", "github.com/hashicorp/"},
		"./cmd/drydockd": {"go.etcd.io/etcd/server", "go.etcd.io/bbolt", "go.etcd.io/raft", "github.com/spf13/cobra", "k8s.io/kubernetes", "k8s.io/apiserver", "k8s.io/kubectl", "github.com/hashicorp/"},
	} {
		cmd := exec.Command("go", "list", "-deps", program)
		cmd.Dir = real.Module(t)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		for _, name := range heavy {
			if i := strings.Index(string(out), name); i >= 0 {
				name, _, _ := strings.Cut(string(out[i:]), "\n")
				t.Errorf("%s links %s", program, name)
			}
		}
	}
}

// The pages of each machine in testdata/cli/machines are as they were. UPDATE=1
// writes them anew.
func TestPages(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(real.Module(t), "testdata", "cli", "machines", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("machines: %d, %v", len(files), err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var s standIn
		if err := json.Unmarshal(text, &s); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		status, err := decodeStatus(s.Now)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		var page1, page2 bytes.Buffer
		page{&page1, now}.status(status)
		golden(t, strings.TrimSuffix(file, "json")+"status", page1.String())
		if s.Planned.Running != "" {
			page{&page2, now}.plan(s.Planned)
			golden(t, strings.TrimSuffix(file, "json")+"plan", page2.String())
		}
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%swant\n%s", filepath.Base(file), got, want)
	}
}

func TestSpan(t *testing.T) {
	for text, want := range map[string]string{"59s": "less than a minute", "61m": "1 h 01 min", "5m": "5 min", "26h": "26 h 00 min", "49h": "2 days 1 h", "-3h": "3 h 00 min"} {
		if got := span(duration(t, text)); got != want {
			t.Errorf("span(%s) = %q, want %q", text, got, want)
		}
	}
}

func duration(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
