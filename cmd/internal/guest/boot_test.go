package guest_test

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/drydock-os/drydock/cmd/internal/guest"
	"github.com/drydock-os/drydock/omaha"
)

func TestMain(m *testing.M) {
	code := m.Run()
	guest.WriteTable(os.Stdout)
	os.Exit(code)
}

// image builds a release, or fails the test.
func image(t testing.TB, l *guest.Lab, r guest.Release) guest.Image {
	t.Helper()
	img, err := l.Image(r)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// TestUpdates takes one machine through three releases, from A to B, to A, and
// to B again, with each loader. Each takes one boot, and the server hears of each.
func TestUpdates(t *testing.T) {
	for _, loader := range []guest.Loader{guest.SystemdBoot, guest.GRUB, guest.Modelled} {
		t.Run(string(loader), func(t *testing.T) {
			t.Parallel()
			l := guest.Open(t)
			if loader == guest.Modelled && !guest.Full() {
				t.Skip("the other tests update with it; DRYDOCK_BOOT=full runs it")
			}
			l.Processor(t)
			m := l.Machine(t, guest.Spec{Name: "web", Release: image(t, l, guest.Release{Version: "1.0.0", Loader: loader})})
			m.Start(10*time.Minute, "1.0.0")
			for i := 1; i <= 3; i++ {
				version := fmt.Sprintf("1.0.%d", i)
				m.Server.Offer(t, image(t, l, guest.Release{Version: version, Loader: loader}))
				m.Do("drydock check")
				m.Settled(20*time.Minute, version)
				guest.Count(t, "updates", 1)
				if s, err := m.Status(t.Context()); err != nil || s.Booted != string("AB"[i%2]) {
					t.Errorf("release %s runs from slot %q: %v", version, s.Booted, err)
				}
				if m.Boots() != i+1 {
					t.Errorf("%d boots for %d updates", m.Boots(), i)
				}
			}
			completed(t, m, "1.0.1", "1.0.2", "1.0.3")
			if loader == guest.SystemdBoot {
				if names := m.Do("ls /boot/EFI/Linux"); names != "drydock-a.efi\ndrydock-b.efi\n" {
					t.Errorf("two good slots have the names %q", names)
				}
			}
		})
	}
}

// completed checks that the server heard of each update that it succeeded, from
// the release that it brought.
func completed(t *testing.T, m *guest.Machine, versions ...string) {
	t.Helper()
	var heard []string
	for _, seen := range m.Server.Updates.Seen() {
		e := seen.Event
		// Each check comes with such an event; only the one after an update names
		// the release before, and the very first one "0.0.0.0" (PROTOCOL.md, section 3).
		before := e.PreviousVersion != nil && *e.PreviousVersion != "" && *e.PreviousVersion != "0.0.0.0"
		if e.Type == omaha.EventUpdateComplete && e.Result == omaha.ResultSuccessReboot && before {
			heard = append(heard, seen.Version)
		}
	}
	if !slices.Equal(heard, versions) {
		t.Errorf("the server heard that %v run, want %v", heard, versions)
	}
}
