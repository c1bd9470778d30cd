package writelog

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
)

const diskSize = 1 << 20

// A session is a qemu-io that writes to a disk through blklogwrites.
type session struct {
	t         *testing.T
	cmd       *exec.Cmd
	in        io.WriteCloser
	out       *bufio.Reader
	disk, log string
	base      []byte
	unmap     bool
	overlay   bool
	model     []event
	ended     int // writes that ended
	flushed   int // those that had ended at the last flush
}

// An event is what the model knows of one operation: not how it was logged.
type event struct {
	kind     string // write, fua, discard, flush
	off, len int64
	value    byte
}

// start runs qemu-io over a disk of random sectors. The options are those of
// the filter, and unmap says whether discarded sectors read zeros afterwards.
// With ",overlay" it writes to an overlay, and the disk stays as it was.
func start(t *testing.T, unmap bool, options string) *session {
	program := real.Program(t, "qemu-io")
	dir := t.TempDir()
	s := &session{t: t, unmap: unmap, disk: filepath.Join(dir, "disk"), log: filepath.Join(dir, "log"),
		base: make([]byte, diskSize)}
	random := rand.New(rand.NewPCG(7, 7))
	for i := 0; i < len(s.base); i += 512 {
		copy(s.base[i:], fill(byte(random.Uint32()), 512))
	}
	for name, data := range map[string][]byte{s.disk: s.base, s.log: nil} {
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	discard := "ignore"
	if unmap {
		discard = "unmap"
	}
	options, s.overlay = strings.CutSuffix(options, ",overlay")
	below := ",file.driver=file,file.filename=" + s.disk
	if s.overlay {
		if out, err := exec.Command("qemu-img", "create", "-f", "qcow2", "-F", "raw", "-b", s.disk, s.disk+".qcow2").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		below = ",file.driver=qcow2,file.file.driver=file,file.file.filename=" + s.disk + ".qcow2"
	}
	s.cmd = exec.Command(program, "-t", "writeback", "-d", discard, "--image-opts",
		"driver=blklogwrites"+options+below+",file.discard="+discard+",log.driver=file,log.filename="+s.log)
	s.cmd.Stderr = os.Stderr
	var err error
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.out = bufio.NewReader(out)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.kill() })
	s.prompt()
	return s
}

// prompt reads up to the next prompt, and returns what came before it.
func (s *session) prompt() string {
	var b strings.Builder
	for !strings.HasSuffix(b.String(), "qemu-io> ") {
		c, err := s.out.ReadByte()
		if err != nil {
			s.t.Fatalf("qemu-io ended: %v after %q", err, b.String())
		}
		b.WriteByte(c)
	}
	return b.String()
}

// do runs a command, and returns once it has completed.
func (s *session) do(command string, events ...event) {
	if _, err := fmt.Fprintln(s.in, command); err != nil {
		s.t.Fatal(err)
	}
	if out := s.prompt(); strings.Contains(out, "failed") || strings.Contains(out, "rror") {
		s.t.Fatalf("%s: %s", command, out)
	}
	for _, e := range events {
		s.happened(e)
	}
}

// happened adds an event to the model, if QEMU logs it. Discards that it was
// not told to pass on it drops. A flush it drops if no write has ended since
// the last; and the write of a FUA command has not ended when its flush begins.
func (s *session) happened(e event) {
	switch {
	case e.kind == "discard" && !s.unmap:
		return
	case e.kind == "flush" && s.flushed == s.ended:
		return
	case e.kind == "flush":
		s.flushed = s.ended
	case e.kind == "fua":
		e.kind = "write"
		s.model = append(s.model, e)
		s.happened(event{kind: "flush"})
		s.ended++
		return
	default:
		s.ended++
	}
	s.model = append(s.model, e)
}

// quit ends qemu-io in order, which flushes.
func (s *session) quit() {
	fmt.Fprintln(s.in, "quit")
	if err := s.cmd.Wait(); err != nil {
		s.t.Fatal(err)
	}
}

// kill ends qemu-io at once.
func (s *session) kill() {
	if s.cmd.ProcessState == nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
	}
}

func (s *session) open() *Log {
	l, err := Open(s.log)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { l.Close() })
	return l
}

// random runs a random command, in units of bytes.
func (s *session) random(random *rand.Rand, unit int64) {
	off := random.Int64N(diskSize/unit) * unit
	size := (1 + random.Int64N(min(16, diskSize/unit-off/unit))) * unit
	value := byte(1 + random.IntN(255))
	write := event{"write", off, size, value}
	zeros := event{"write", off, size, 0}
	switch random.IntN(12) {
	case 0, 1:
		s.do("flush", event{kind: "flush"})
	case 2:
		s.do(fmt.Sprintf("discard %d %d", off, size), event{"discard", off, size, 0})
	case 3:
		s.do(fmt.Sprintf("write -f -P %d %d %d", value, off, size), event{"fua", off, size, value})
	case 4:
		s.do(fmt.Sprintf("write -z %d %d", off, size), zeros)
	case 5:
		s.do(fmt.Sprintf("write -z -u %d %d", off, size), zeros)
	default:
		s.do(fmt.Sprintf("write -P %d %d %d", value, off, size), write)
	}
}

// modelled returns the disk after the first n events by the model, with those
// that were not flushed for which keep is true.
func (s *session) modelled(n int, keep func(int) bool, discards Discards) []byte {
	disk := bytes.Clone(s.base)
	flushed := 0
	for i, e := range s.model[:n] {
		if e.kind == "flush" {
			flushed = i
		}
	}
	for i, e := range s.model[:n] {
		old := e.kind == "discard" && discards == ReadOld
		if e.kind == "flush" || old || i >= flushed && !keep(i) {
			continue
		}
		copy(disk[e.off:], bytes.Repeat([]byte{e.value}, int(e.len)))
	}
	return disk
}

// possible returns of each sector which bytes it may be filled with after the
// first n events, whatever is lost.
func (s *session) possible(n int, discards Discards) [][256]bool {
	may := make([][256]bool, diskSize/512)
	for i := range may {
		may[i][s.base[i*512]] = true
	}
	flushed := 0
	for i, e := range s.model[:n] {
		if e.kind == "flush" {
			flushed = i
		}
	}
	for i, e := range s.model[:n] {
		if e.kind == "discard" && discards == ReadOld {
			continue
		}
		for k := e.off / 512; k < (e.off+e.len)/512; k++ {
			if i < flushed && !(e.kind == "discard" && discards == ReadEither) {
				may[k] = [256]bool{}
			}
			may[k][e.value] = true
		}
	}
	return may
}

func (s *session) checkEntries(l *Log) {
	s.t.Helper()
	var want []Entry
	for _, e := range s.model {
		flags := map[string]Flags{"flush": Flush, "discard": Discard}[e.kind]
		want = append(want, Entry{Offset: e.off, Length: e.len, Flags: flags})
	}
	entries := l.Entries()
	if len(entries) < len(want) {
		s.t.Fatalf("%d entries, want %d", len(entries), len(want))
	}
	for _, more := range entries[len(want):] {
		if more.Flags != Flush {
			s.t.Errorf("another entry %+v", more)
		}
	}
	sameEntries(s.t, entries[:len(want)], want)
}
