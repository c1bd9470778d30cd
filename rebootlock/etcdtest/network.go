package etcdtest

import (
	"io"
	"net"
	"sync"
)

// A network is the proxies before the members' ports. It passes on what
// arrives, unless one of the two ends is cut off: then it holds what there is
// and tells nobody, as a broken network does.
type network struct {
	mu      sync.Mutex
	isCut   map[int]bool
	pids    map[int]int // of the members' processes
	changed chan struct{}
	ended   chan struct{}
	closers map[io.Closer]struct{}
	work    sync.WaitGroup
}

// outside is the index of a sender that is no member.
const outside = -1

func newNetwork() *network {
	return &network{isCut: map[int]bool{}, pids: map[int]int{}, changed: make(chan struct{}),
		ended: make(chan struct{}), closers: map[io.Closer]struct{}{}}
}

func (n *network) cut(i int, off bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.isCut[i] = off
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *network) setPID(i, pid int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pids[i] = pid
}

// pass waits until nothing is cut between two ends. It is false when the
// network has ended.
func (n *network) pass(from, to int) bool {
	for {
		n.mu.Lock()
		blocked, changed := n.isCut[from] || n.isCut[to], n.changed
		n.mu.Unlock()
		if !blocked {
			return true
		}
		select {
		case <-changed:
		case <-n.ended:
			return false
		}
	}
}

// keep notes what must be closed in the end. It is false after that.
func (n *network) keep(c io.Closer) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	select {
	case <-n.ended:
		c.Close()
		return false
	default:
	}
	n.closers[c] = struct{}{}
	return true
}

func (n *network) drop(c io.Closer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.closers, c)
	c.Close()
}

func (n *network) close() {
	n.mu.Lock()
	close(n.ended)
	for c := range n.closers {
		c.Close()
	}
	n.mu.Unlock()
	n.work.Wait()
}

// serve listens before a port of m, and returns the address.
func (n *network) serve(m *member, behind func() string) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	n.keep(l)
	n.work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			n.work.Go(func() { n.relay(m, conn, behind()) })
		}
	})
	return l.Addr().String(), nil
}

// relay joins a connection with the member behind it.
func (n *network) relay(m *member, conn net.Conn, address string) {
	if !n.keep(conn) {
		return
	}
	defer n.drop(conn)
	from := n.sender(conn)
	if !n.pass(from, m.index) {
		return
	}
	behind, err := net.Dial("tcp", address)
	if err != nil || !n.keep(behind) {
		return
	}
	defer n.drop(behind)
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{conn, behind}, {behind, conn}} {
		both.Go(func() {
			n.copy(way[1], way[0], from, m.index)
			conn.Close()
			behind.Close()
		})
	}
	both.Wait()
}

func (n *network) copy(dst io.Writer, src io.Reader, from, to int) {
	buf := make([]byte, 32<<10)
	for {
		size, err := src.Read(buf)
		if size > 0 {
			if !n.pass(from, to) {
				return
			}
			if _, err := dst.Write(buf[:size]); err != nil {
				return
			}
		}
		if err != nil {
			n.pass(from, to) // the end of a connection does not get through a cut either
			return
		}
	}
}

// sender is the member whose process has the other end of conn.
func (n *network) sender(conn net.Conn) int {
	n.mu.Lock()
	pids := make(map[int]int, len(n.pids))
	for i, pid := range n.pids {
		pids[i] = pid
	}
	n.mu.Unlock()
	socket := socketOf(conn.RemoteAddr(), conn.LocalAddr())
	for i, pid := range pids {
		if socket != "" && owns(pid, socket) {
			return i
		}
	}
	return outside
}
