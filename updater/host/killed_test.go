package host

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// deviceVariable turns the test binary into a daemon that runs a hook.
const deviceVariable = "DRYDOCK_TEST_HOOK_DEVICE"

func TestMain(m *testing.M) {
	if device := os.Getenv(deviceVariable); device != "" {
		runHookForTest(device)
		return
	}
	os.Exit(m.Run())
}

// A daemon that is killed in the middle of a hook leaves no hook that goes on
// changing flags, and no mount that holds the slot.
func TestKilledDaemonLeavesNothing(t *testing.T) {
	dev := ext2Slot(t, "echo $$; exec sleep 1000")
	daemon := exec.Command(os.Args[0])
	daemon.Env = append(os.Environ(), deviceVariable+"="+dev, "TMPDIR="+t.TempDir())
	out, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	pid, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if fd, err := unix.Open(dev, unix.O_RDWR|unix.O_EXCL, 0); err == nil {
		unix.Close(fd)
		t.Error("the slot is not mounted while its hook runs")
	}
	daemon.Process.Kill()
	daemon.Wait()
	checkDies(t, strings.TrimSpace(pid))

	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 500 {
		fd, err := unix.Open(dev, unix.O_RDWR|unix.O_EXCL, 0)
		if err == nil {
			unix.Close(fd)
			return
		}
		<-tick.C
	}
	t.Error("the slot is still held")
}
