package machine

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/drydock-os/drydock/updater/host"
	"github.com/drydock-os/drydock/updater/policy"
)

// maxRequired bounds what is read of the file that asks for a reboot, in bytes:
// its first line is shown to people.
const maxRequired = 200

// Required implements updater.Host. The file must have been written since the
// boot: one that outlives a reboot (it is not in /run, say) would have the
// machine reboot without end. So a clock that is not to be trusted asks for
// nothing.
func (h *Host) Required(p policy.Policy) string {
	name := p.Reboot.RequiredFile
	if name == "" {
		return ""
	}
	f, err := os.OpenFile(filepath.Join(h.root(), name), os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO must not hold the updater up
	if err != nil {
		return ""
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return ""
	}
	id, err := host.Identify(h.root())
	now := h.Now()
	if err != nil || id.Up <= 0 || info.ModTime().Before(now.Add(-id.Up)) || info.ModTime().After(now.Add(clockSlack)) {
		return ""
	}
	data, err := io.ReadAll(io.LimitReader(f, maxRequired))
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(data), "\n")
	line = strings.TrimSpace(strings.Map(printable, strings.ToValidUTF8(line, "")))
	if line == "" {
		return name + " asks for it"
	}
	return name + " asks for it: " + line
}

// clockSlack is how far a file's time may lie ahead of the clock: file systems
// stamp with a clock of their own that ticks coarsely.
const clockSlack = time.Second

func printable(r rune) rune {
	if !unicode.IsPrint(r) {
		return -1
	}
	return r
}
