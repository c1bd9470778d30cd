package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/testdata/real"
)

func TestChecksRunInOrder(t *testing.T) {
	dir := t.TempDir()
	ok, fail := "#!/bin/sh\nexit 0\n", "#!/bin/sh\necho out of disk\necho really >&2\nexit 7\n"
	put(t, dir, "20-second", fail, 0o755)
	put(t, dir, "10-first", ok, 0o755)
	put(t, dir, "30-env", "#!/bin/sh\necho $DRYDOCK_RELEASE:$HOME:${PATH:+path}; exit 1\n", 0o755)
	put(t, dir, "40-killed", "#!/bin/sh\nkill -KILL $$\n", 0o755)
	put(t, dir, "50-no-interpreter", "no script", 0o755)
	for _, name := range []string{".hidden", "editor~", "#editor#", "old.dpkg-old", "x.rpmnew", "y.swp"} {
		put(t, dir, name, fail, 0o755)
	}
	put(t, dir, "README", fail, 0o644)
	put(t, dir, "subdir/check", fail, 0o755)
	if err := os.Symlink("nothing", filepath.Join(dir, "60-dangling")); err != nil {
		t.Fatal(err)
	}

	got, err := RunChecks(t.Context(), dir, []string{"DRYDOCK_RELEASE=1.2.3"}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	want := []struct{ name, reason string }{
		{"10-first", ""},
		{"20-second", "20-second exited with code 7\nout of disk\nreally"},
		{"30-env", "30-env exited with code 1\n1.2.3::path"},
		{"40-killed", "40-killed was ended by signal: killed"},
		{"50-no-interpreter", "exec format error"},
		{"60-dangling", "no such file"},
	}
	if len(got) != len(want) {
		t.Fatalf("%d checks, want %d: %+v", len(got), len(want), got)
	}
	for i, w := range want {
		c := got[i]
		if c.Name != w.name || !strings.Contains(c.Reason, w.reason) || c.Healthy != (w.reason == "") {
			t.Errorf("check %d: %+v, want %+v", i, c, w)
		}
		if c.Elapsed < 0 || c.Elapsed > time.Minute {
			t.Errorf("%s took %v", c.Name, c.Elapsed)
		}
	}
}

func TestNoDirectoryNoChecks(t *testing.T) {
	got, err := RunChecks(t.Context(), filepath.Join(t.TempDir(), "health.d"), nil, time.Second)
	if err != nil || len(got) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := RunChecks(t.Context(), put(t, t.TempDir(), "file", "", 0o644), nil, time.Second); err == nil {
		t.Error("a file in place of the directory was taken for no checks")
	}
}

// A check that hangs, and what it started, ends with its time.
func TestCheckTimeoutKillsItsGroup(t *testing.T) {
	t.Parallel() // it mostly waits
	dir, marks := t.TempDir(), t.TempDir()
	pid := filepath.Join(marks, "pid")
	put(t, dir, "hang", "#!/bin/sh\ntrap '' TERM\nsleep 1000 & echo $! > "+pid+"; wait; wait; sleep 1000\n", 0o755)
	got, err := RunChecks(t.Context(), dir, nil, 300*time.Millisecond)
	if err != nil || len(got) != 1 || got[0].Healthy || !strings.Contains(got[0].Reason, "within 300ms") {
		t.Fatalf("got %+v, %v", got, err)
	}
	data, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	// A kill takes a moment to be felt.
	checkDies(t, strings.TrimSpace(string(data)))
}

// checkDies waits for a process to be gone, or a zombie.
func checkDies(t *testing.T, pid string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	state := ""
	for range 500 {
		if state = processState(pid); state == "" || state == "Z" {
			return
		}
		<-tick.C
	}
	t.Errorf("process %s goes on in state %s", pid, state)
}

// processState returns the letter of /proc/PID/stat, or "" for no process.
func processState(pid string) string {
	data, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	return rest[:1]
}

// A service that a check starts keeps its output open: the check has ended.
func TestCheckWithBackgroundProcess(t *testing.T) {
	t.Parallel() // it mostly waits
	dir := t.TempDir()
	put(t, dir, "daemonizes", "#!/bin/sh\nsleep 1000 &\nexit 0\n", 0o755)
	got, err := RunChecks(t.Context(), dir, nil, time.Minute)
	if err != nil || len(got) != 1 || !got[0].Healthy {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestCheckOutputIsBounded(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "chatty", "#!/bin/sh\nhead -c 3000000 /dev/zero | tr '\\0' x\nseq 100000\nexit 1\n", 0o755)
	put(t, dir, "binary", "#!/bin/sh\nprintf 'a\\377b\\r\\nlast line'\nexit 1\n", 0o755)
	got, err := RunChecks(t.Context(), dir, nil, time.Minute)
	if err != nil || len(got) != 2 {
		t.Fatalf("got %+v, %v", got, err)
	}
	if !strings.HasSuffix(got[0].Reason, "a?b\nlast line") {
		t.Errorf("binary: %q", got[0].Reason)
	}
	if n := len(got[1].Reason); n > maxReason+100 || !strings.Contains(got[1].Reason, "dropped") {
		t.Errorf("chatty: %d bytes: %.200q", n, got[1].Reason)
	}
}

func TestCancelEndsChecks(t *testing.T) {
	dir := t.TempDir()
	mark := filepath.Join(t.TempDir(), "second")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	put(t, dir, "1", "#!/bin/sh\nexec sleep 1000\n", 0o755)
	put(t, dir, "2", "#!/bin/sh\ntouch "+mark+"\n", 0o755)
	if _, err := RunChecks(ctx, dir, nil, time.Minute); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("err = %v", err)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("the second check ran after the context's end")
	}
}

// What another user could have written is not run by root, and not healthy.
func TestRootRunsOnlyRootsChecks(t *testing.T) {
	real.Root(t)
	for _, tc := range []struct {
		name     string
		mode     os.FileMode
		uid, gid int
		healthy  bool
	}{
		{"root's", 0o755, 0, 0, true},
		{"group root", 0o775, 0, 0, true},
		{"world writable", 0o757, 0, 0, false},
		{"group writable", 0o775, 0, 100, false},
		{"another's", 0o755, 1000, 0, false},
	} {
		dir := t.TempDir()
		mark := filepath.Join(t.TempDir(), "ran")
		path := put(t, dir, "check", "#!/bin/sh\ntouch "+mark+"\n", tc.mode)
		if err := os.Chown(path, tc.uid, tc.gid); err != nil {
			t.Fatal(err)
		}
		got, err := RunChecks(t.Context(), dir, nil, time.Minute)
		if err != nil || len(got) != 1 || got[0].Healthy != tc.healthy {
			t.Errorf("%s: %+v, %v", tc.name, got, err)
		}
		if _, err := os.Stat(mark); (err == nil) != tc.healthy {
			t.Errorf("%s: ran %v", tc.name, err == nil)
		}
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		if _, err := RunChecks(t.Context(), dir, nil, time.Minute); err == nil {
			t.Errorf("%s: checks of a directory that all may write to were run", tc.name)
		}
	}
}

func TestTooManyChecks(t *testing.T) {
	dir := t.TempDir()
	for i := range maxChecks + 1 {
		put(t, dir, fmt.Sprintf("check-%03d", i), "", 0o755)
	}
	if _, err := RunChecks(t.Context(), dir, nil, time.Minute); err == nil {
		t.Error("accepted")
	}
}
