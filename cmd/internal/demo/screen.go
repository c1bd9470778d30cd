package demo

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// columns is how wide a line may be.
const columns = 100

// screen tells the demo: lines, and below them, on a terminal, a board that is
// drawn over and over.
type screen struct {
	mu    sync.Mutex
	out   io.Writer
	live  bool // what was drawn can be drawn over
	width int
	began time.Time
	board []string // as it stands below the lines
}

func newScreen(out io.Writer) *screen {
	s := &screen{out: out, width: columns, began: time.Now()}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		s.live = true
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			s.width = min(w, columns)
		}
	}
	return s
}

func (s *screen) title(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.print("", text, strings.Repeat("─", utf8.RuneCountInString(text)))
}

// say prints a sentence.
func (s *screen) say(format string, args ...any) {
	s.print(fold("  ", fmt.Sprintf(format, args...), s.width)...)
}

// command prints what an operator types.
func (s *screen) command(format string, args ...any) {
	s.print("", "  $ "+fmt.Sprintf(format, args...))
}

// item prints one line of a command's answer.
func (s *screen) item(text string) { s.print(fold("    - ", text, s.width)...) }

// tell prints what happens on a machine.
func (s *screen) tell(host, format string, args ...any) {
	s.print(fold(fmt.Sprintf("  %5.1fs  %s  ", time.Since(s.began).Seconds(), host), fmt.Sprintf(format, args...), s.width)...)
}

// print writes lines above the board.
func (s *screen) print(lines ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.write(lines, s.board)
}

// draw puts another board in the place of the last.
func (s *screen) draw(board []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, line := range board {
		board[i] = clip(line, s.width-1) // a line that wraps could not be drawn over
	}
	s.write(nil, board)
}

// write takes the board away, writes lines and the next board, in one piece.
func (s *screen) write(lines, board []string) {
	var b strings.Builder
	if n := len(s.board); n > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\x1b[J", n)
	}
	for _, line := range append(append([]string(nil), lines...), board...) {
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	s.board = board
	io.WriteString(s.out, b.String())
}

// fold breaks a text into lines of at most width columns; what follows the
// first begins below its text.
func fold(head, text string, width int) (lines []string) {
	if utf8.RuneCountInString(head)+utf8.RuneCountInString(text) <= width {
		return []string{head + text}
	}
	line, indent := head, strings.Repeat(" ", utf8.RuneCountInString(head))
	for _, word := range strings.Fields(text) {
		if utf8.RuneCountInString(line)+utf8.RuneCountInString(word) > width && line != indent && line != head {
			lines = append(lines, line)
			line = indent
		}
		line += word + " "
	}
	return append(lines, line)
}

// clip cuts a text at a column.
func clip(text string, width int) string {
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	return string([]rune(text)[:max(width-1, 0)]) + "…"
}
