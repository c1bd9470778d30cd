package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// A Recording is what one QEMU wrote to the disk of a machine.
type Recording struct {
	Base string // the disk as it was when QEMU started
	Log  string // what was written since; see package writelog
}

// record returns the options of a QEMU that records what it writes, and keeps
// the disk as it is now. m.mu is held.
func (m *Machine) record() ([]string, error) {
	base := filepath.Join(m.Dir, fmt.Sprintf("run%d", len(m.recordings)))
	r := Recording{Base: base + ".img", Log: base + ".log"}
	if _, err := run("cp", "--sparse=always", m.Disk, r.Base); err != nil {
		return nil, err
	}
	if err := os.WriteFile(r.Log, nil, 0o644); err != nil {
		return nil, err
	}
	m.recordings = append(m.recordings, r)
	return []string{
		"-blockdev", "driver=file,node-name=file,filename=" + m.Disk + ",cache.no-flush=on,discard=unmap",
		"-blockdev", "driver=raw,node-name=raw,file=file,discard=unmap",
		"-blockdev", "driver=file,node-name=log,filename=" + r.Log + ",cache.no-flush=on",
		"-blockdev", "driver=blklogwrites,node-name=disk,file=raw,log=log,discard=unmap",
		"-device", "virtio-blk-pci,drive=disk,write-cache=on,write-zeroes=off",
	}, nil
}

// Recordings are those of a machine that is off, one for each QEMU, the oldest
// first. They are gone when the test ends.
func (m *Machine) Recordings() []Recording {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.recordings
}

// Quit ends QEMU in order, so that its log is complete. The guest does not hear
// of it: to it the power was cut.
func (m *Machine) Quit() {
	m.t.Helper()
	m.mu.Lock()
	p, ended, wasOn := m.process, m.ended, m.on
	m.on = false
	if p != nil {
		p.Process.Signal(syscall.SIGTERM)
	}
	m.mu.Unlock()
	if !wasOn {
		return
	}
	select {
	case <-ended:
	case <-time.After(time.Minute): // it has nothing to wait for but the host's disk
		p.Process.Kill()
		<-ended
		m.t.Fatalf("%s: QEMU does not end", m.Name)
	}
}
