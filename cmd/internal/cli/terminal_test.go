package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater"
)

// terminal opens a pseudo-terminal of 80 columns (pts(4)). What is written to
// tty is in what screen returns, once tty is closed.
func terminal(t *testing.T) (tty *os.File, screen func() string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		real.Missing(t, "a pseudo-terminal: "+err.Error())
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		real.Missing(t, "a pseudo-terminal: "+err.Error())
	}
	t.Cleanup(func() { tty.Close() })
	if err := unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); err != nil {
		t.Fatal(err)
	}
	var shown bytes.Buffer
	done := make(chan struct{})
	go func() {
		io.Copy(&shown, master) // ends with EIO when the last one closes tty
		close(done)
	}()
	return tty, func() string {
		tty.Close()
		<-done
		return shown.String()
	}
}

// slowly serves a file in pieces, so that a bar has something to show.
func slowly(t *testing.T, path string, pieces int) (url string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		tick := time.NewTicker(redraw + redraw/2)
		defer tick.Stop()
		for rest := data; len(rest) > 0; {
			n := min(len(rest), len(data)/pieces+1)
			w.Write(rest[:n])
			w.(http.Flusher).Flush()
			rest = rest[n:]
			<-tick.C
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// The bar was drawn in no test: tests have no terminal.
func TestBarIsDrawnOnATerminal(t *testing.T) {
	in := workshop(t)
	image := make([]byte, 6<<20)
	mathrand.NewChaCha8([32]byte{2}).Read(image)
	if err := os.WriteFile(in("large.img"), image, 0o644); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := run(t.Context(), "payload", "create", "--key", in("a.pem"), "--version", "2", "--image", in("large.img"), "--out", in("large.crau")); code != 0 {
		t.Fatal(errs)
	}
	url := slowly(t, in("large.crau"), 6)
	percents := regexp.MustCompile(`applying +(\d+)%`)
	for name, flags := range map[string][]string{"text": nil, "json": {"--json"}} {
		t.Run(name, func(t *testing.T) {
			tty, screen := terminal(t)
			var out bytes.Buffer
			args := append([]string{"payload", "apply", "--key", in("a.pub"), "--target", in("out.img"), url}, flags...)
			code := Program{In: strings.NewReader(""), Out: &out, Err: tty, Now: clock}.Run(context.Background(), args)
			shown := screen()
			if code != 0 || strings.ContainsRune(out.String(), '\r') || out.Len() == 0 {
				t.Fatalf("exit %d: %q, on the terminal %q", code, out.String(), shown)
			}
			if flags != nil {
				if shown != "" {
					t.Errorf("a bar beside JSON: %q", shown)
				}
				return
			}
			drawn := map[string]bool{}
			for _, m := range percents.FindAllStringSubmatch(shown, -1) {
				drawn[m[1]] = true
			}
			if len(drawn) < 3 {
				t.Errorf("a bar at %d places: %q", len(drawn), shown)
			}
			if last := shown[strings.LastIndex(strings.TrimRight(shown, "\r"), "\r")+1:]; strings.TrimSpace(last) != "" {
				t.Errorf("the bar is left behind: %q", last)
			}
			if strings.ContainsRune(shown, '\n') {
				t.Errorf("the bar takes more than its line: %q", shown)
			}
		})
	}
}

// On a terminal the progress of an update is a bar, and no line at each tenth.
func TestFollowOnATerminal(t *testing.T) {
	tty, screen := terminal(t)
	f := (&session{Program: Program{Err: tty, Now: clock}}).follow()
	for _, done := range []int64{0, 75_000_000, 300_000_000} {
		f.show(updater.Status{Step: updater.Write, StepName: "write", NewVersion: "2.0.0", Done: done, Total: 300_000_000})
	}
	f.show(updater.Status{StepName: "wait"})
	f.end()
	shown := screen()
	if !strings.HasPrefix(shown, "downloading, writing and verifying\r\n") || !regexp.MustCompile(`\r2\.0\.0 +\d+% `).MatchString(shown) {
		t.Errorf("no bar: %q", shown)
	}
	if strings.Contains(shown, " %,") || strings.Count(shown, "\n") != 1 {
		t.Errorf("lines beside the bar: %q", shown)
	}
}
