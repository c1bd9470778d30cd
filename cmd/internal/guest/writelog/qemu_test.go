package writelog

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
)

// What qemu-io wrote is what the log has, and any state of it is what a model
// says that heard of the commands and never saw the log.
func TestQemuAgreesWithModel(t *testing.T) {
	for _, test := range []struct {
		name    string
		unmap   bool
		unit    int64
		options string
	}{
		{"plain", true, 512, ""},
		{"without discard", false, 512, ""},
		{"log of 4096", true, 4096, ",log-sector-size=4096"},
		{"over an overlay", false, 512, ",overlay"},
		{"log flushed to memory alone", true, 512, ",log.cache.no-flush=on,log-super-update-interval=3"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := start(t, test.unmap, test.options)
			random := rand.New(rand.NewPCG(11, uint64(test.unit)))
			for range 150 {
				s.random(random, test.unit)
			}
			s.quit()
			l := s.open()
			s.checkEntries(l)
			if uint64(len(l.Entries())) != l.Claimed {
				t.Errorf("ended in order with %d entries of %d", len(l.Entries()), l.Claimed)
			}
			s.checkDisk(l, test.unmap)
			s.checkStates(l, random, 60)
		})
	}
}

// checkDisk compares the end of the log, with nothing lost, and the disk.
func (s *session) checkDisk(l *Log, unmap bool) {
	s.t.Helper()
	name := s.disk
	if s.overlay {
		name += ".raw"
		if out, err := exec.Command("qemu-img", "convert", "-O", "raw", s.disk+".qcow2", name).CombinedOutput(); err != nil {
			s.t.Fatalf("%v: %s", err, out)
		}
	}
	disk, err := os.ReadFile(name)
	if err != nil {
		s.t.Fatal(err)
	}
	p := Point{N: len(l.Entries()), Discards: ReadZero}
	if !unmap {
		p.Discards = ReadOld
	}
	if !bytes.Equal(state(s.t, l, s.base, p), disk) {
		s.t.Error("with nothing lost, it is not the disk")
	}
}

// checkStates compares states by chance with the model's.
func (s *session) checkStates(l *Log, random *rand.Rand, rounds int) {
	s.t.Helper()
	for range rounds {
		kept := map[int]bool{}
		for i := range s.model {
			kept[i] = random.IntN(2) == 0
		}
		p := Point{N: random.IntN(len(s.model) + 1), Discards: Discards(random.IntN(2)), Keep: func(i int) bool { return kept[i] }}
		if !bytes.Equal(state(s.t, l, s.base, p), s.modelled(p.N, p.Keep, p.Discards)) {
			s.t.Errorf("%v: not what the model has", p)
		}
		p = l.Pick(random)
		p.N = min(p.N, len(s.model))
		got, may := state(s.t, l, s.base, p), s.possible(p.N, p.Discards)
		for k := range may {
			sector := got[k*512 : (k+1)*512]
			if !may[k][sector[0]] || !bytes.Equal(sector, fill(sector[0], 512)) {
				s.t.Fatalf("%v: sector %d holds %#x, which it cannot", p, k, sector[0])
			}
		}
	}
}

// A QEMU that is killed leaves a superblock that is stale, or none.
func TestQemuKilled(t *testing.T) {
	for _, test := range []struct {
		name           string
		before, behind int // commands before and after the last flush
	}{{"before the first flush", 0, 20}, {"after a flush", 30, 20}, {"at a flush", 10, 0}} {
		t.Run(test.name, func(t *testing.T) {
			s := start(t, true, "")
			random := rand.New(rand.NewPCG(5, uint64(test.before)))
			for range test.before {
				s.random(random, 512)
			}
			if test.before > 0 {
				s.do("flush", event{kind: "flush"})
			}
			claimed := len(s.model)
			for i := range test.behind {
				off := int64(i * 1024)
				s.do(fmt.Sprintf("write -P %d %d 4096", i+1, off), event{"write", off, 4096, byte(i + 1)})
			}
			s.kill()
			l := s.open()
			if l.Claimed != uint64(claimed) {
				t.Errorf("superblock counts %d, want %d", l.Claimed, claimed)
			}
			s.checkEntries(l)
			s.checkDisk(l, true)
			s.checkStates(l, random, 15)
		})
	}
}

// A QEMU that is killed in the middle of a write leaves what it had
// acknowledged, and of that write the whole or nothing.
func TestQemuKilledWhileWriting(t *testing.T) {
	cut := 0
	for round := range 12 {
		s := start(t, true, "")
		random := rand.New(rand.NewPCG(13, uint64(round)))
		for range 10 {
			s.random(random, 512)
		}
		acked := len(s.model)
		size := s.logSize() // before the write, which may be over at the first look
		fmt.Fprintf(s.in, "write -P 255 0 %d\n", diskSize)
		for s.logSize() < size+int64(round)*diskSize/12 {
		}
		s.kill()
		l := s.open()
		if len(l.Entries()) == acked && l.Ended == "the data of the next entry is cut off" {
			cut++
		}
		if len(l.Entries()) > acked {
			s.model = append(s.model, event{"write", 0, diskSize, 255})
		}
		s.checkEntries(l)
		s.checkStates(l, random, 15)
	}
	t.Logf("%d of 12 writes were cut off", cut)
}

// logSize returns the log's size in bytes.
func (s *session) logSize() int64 {
	info, err := os.Stat(s.log)
	if err != nil {
		s.t.Fatal(err)
	}
	return info.Size()
}

// Commands that run at once are logged one after the other, zeros too. They do
// not overlap: which of two writes at once to one sector is the last, the disk
// and the log may decide differently.
func TestQemuConcurrent(t *testing.T) {
	s := start(t, true, "")
	for i := range 40 {
		s.do(fmt.Sprintf("aio_write -q -z %d 8192", i*24576))
		s.do(fmt.Sprintf("aio_write -q -P %d %d 8192", i+1, i*24576+12288))
	}
	s.do("aio_flush")
	s.quit()
	l := s.open()
	writes := 0
	for _, e := range l.Entries() {
		if e.Flags == 0 {
			writes++
		}
	}
	if writes != 80 || uint64(len(l.Entries())) != l.Claimed {
		t.Errorf("%d writes in %d entries of %d, want 80 and all", writes, len(l.Entries()), l.Claimed)
	}
	s.checkDisk(l, true)
}
