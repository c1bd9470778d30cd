package guest_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/drydock-os/drydock/cmd/internal/guest"
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
// to B again, with each loader.
func TestUpdates(t *testing.T) {
	for _, loader := range []guest.Loader{guest.SystemdBoot, guest.GRUB, guest.Modelled} {
		t.Run(string(loader), func(t *testing.T) {
			t.Parallel()
			l := guest.Open(t)
			l.Processors(t, 1)
			m := l.Machine(t, guest.Spec{Name: "web", Release: image(t, l, guest.Release{Version: "1.0.0", Loader: loader})})
			m.PowerOn()
			m.Settled(5*time.Minute, "1.0.0")
			for i := 1; i <= 3; i++ {
				version := fmt.Sprintf("1.0.%d", i)
				m.Server.Offer(t, image(t, l, guest.Release{Version: version, Loader: loader}))
				m.Do("drydock update --no-wait || true")
				m.Settled(8*time.Minute, version)
				guest.Count(t, "updates", 1)
			}
		})
	}
}
