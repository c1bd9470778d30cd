package daemon

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drydock-os/drydock/updater/policy"
)

// systemd is the other end of NOTIFY_SOCKET.
type systemd struct {
	t    *testing.T
	conn *net.UnixConn
}

func listen(t *testing.T, watchdog string) *systemd {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", watchdog)
	t.Setenv("WATCHDOG_PID", "")
	os.Unsetenv("WATCHDOG_PID")
	return &systemd{t: t, conn: conn}
}

// next is the next message, or "" when none comes in time.
func (s *systemd) next(within time.Duration) string {
	s.conn.SetReadDeadline(time.Now().Add(within))
	buf := make([]byte, 1024)
	n, err := s.conn.Read(buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

// expect skips what is fed to the watchdog up to a message that begins so.
func (s *systemd) expect(begin string) string {
	s.t.Helper()
	for {
		got := s.next(10 * time.Second)
		if strings.HasPrefix(got, begin) {
			return got
		}
		if got != "WATCHDOG=1" {
			s.t.Fatalf("systemd hears %q, want %s", got, begin)
		}
	}
}

// TestSystemdIsTold runs the daemon with a socket where systemd's would be.
func TestSystemdIsTold(t *testing.T) {
	s := listen(t, "40000")
	p := prepare(t, noServer)
	stop := p.build().run()
	s.expect("READY=1")
	s.expect("WATCHDOG=1")
	p.reload <- os.Interrupt
	if got := s.expect("RELOADING=1"); !regexp.MustCompile(`^RELOADING=1\nMONOTONIC_USEC=[1-9][0-9]*$`).MatchString(got) {
		t.Errorf("systemd hears %q", got)
	}
	s.expect("READY=1")
	s.expect("WATCHDOG=1")
	if err := stop(); err != nil {
		t.Error(err)
	}
	s.expect("STOPPING=1")
}

// heart is a pulse that a test sets, in nanoseconds since 1970.
type heart struct{ last atomic.Int64 }

func (h *heart) Beat() time.Time { return time.Unix(0, h.last.Load()) }

func (h *heart) beat(ago time.Duration) { h.last.Store(time.Now().Add(-ago).UnixNano()) }

// The watchdog asked for a status, which an updater that hangs gives as well.
func TestStuckUpdaterIsNoLongerFed(t *testing.T) {
	s := listen(t, "40000")
	p := prepare(t, noServer).build()
	h := new(heart)
	p.pulse = h
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { p.notify(ctx) })
	defer wg.Wait()
	defer cancel()
	s.expect("READY=1")
	bound := silence(p.updater.Policy())
	for _, ago := range []time.Duration{0, bound - time.Minute} { // a drain may take its time
		h.beat(ago)
		s.expect("WATCHDOG=1")
		s.expect("WATCHDOG=1")
	}
	h.beat(bound + time.Minute)
	for range 10 { // what was under way
		if s.next(100*time.Millisecond) == "" {
			break
		}
	}
	if got := s.next(200 * time.Millisecond); got != "" {
		t.Errorf("an updater that hangs: systemd hears %q", got)
	}
	if text := p.log.String(); strings.Count(text, "no sign of life") != 1 {
		t.Errorf("the log says\n%s", text)
	}
	h.beat(0) // it was only very slow
	s.expect("WATCHDOG=1")
	cancel()
	s.expect("STOPPING=1")
}

func TestSilenceIsThatOfTheLongestStep(t *testing.T) {
	p := policy.Default()
	for _, timeout := range []*time.Duration{&p.Drain.Timeout, &p.Hook.Timeout, &p.Health.Timeout} {
		*timeout = 3 * time.Hour
		if got := silence(p); got != 3*time.Hour+hashTime {
			t.Errorf("%s for %+v", got, p)
		}
		*timeout = time.Minute
	}
}
