package cli

import (
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// redraw is how often a bar moves at most: no faster than eyes do.
const redraw = 100 * time.Millisecond

// bar shows the progress of something measured in bytes: a line that moves on
// a terminal, and nothing elsewhere.
type bar struct {
	out  io.Writer // nil: silent
	what string
	bar  *progressbar.ProgressBar
}

// bar begins a progress bar on Err, so that Out holds facts alone.
func (s *session) bar(what string) *bar {
	b := &bar{what: what}
	if isTerminal(s.Err) && !s.json {
		b.out = s.Err
	}
	return b
}

// show draws the bar at done of total.
func (b *bar) show(done, total int64) {
	if b.out == nil || total <= 0 {
		return
	}
	if b.bar == nil { // what was there before it began is not its speed
		b.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(b.out), progressbar.OptionSetDescription(b.what),
			progressbar.OptionShowBytes(true), progressbar.OptionShowCount(), progressbar.OptionSetWidth(30),
			progressbar.OptionThrottle(redraw), progressbar.OptionClearOnFinish())
		return
	}
	b.bar.ChangeMax64(total)
	b.bar.Set64(min(done, total))
}

// end takes the bar away.
func (b *bar) end() {
	if b.bar != nil {
		b.bar.Clear()
	}
}

// isTerminal reports whether a stream of this program is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
