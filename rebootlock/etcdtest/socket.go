package etcdtest

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// socketOf is the link that /proc shows for the socket of a loopback connection
// from local to remote, like "socket:[4711]" (proc_net_tcp.rst); "" if it is
// gone.
func socketOf(local, remote net.Addr) string {
	f, err := os.Open("/proc/net/tcp")
	if err != nil {
		return ""
	}
	defer f.Close()
	from, to := hexAddress(local), hexAddress(remote)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) > 9 && fields[1] == from && fields[2] == to {
			return "socket:[" + fields[9] + "]"
		}
	}
	return ""
}

// hexAddress is an IPv4 address as /proc/net/tcp writes it on a little-endian
// machine.
func hexAddress(a net.Addr) string {
	tcp, ok := a.(*net.TCPAddr)
	if !ok || tcp.IP.To4() == nil {
		return ""
	}
	ip := tcp.IP.To4()
	return fmt.Sprintf("%02X%02X%02X%02X:%04X", ip[3], ip[2], ip[1], ip[0], tcp.Port)
}

func owns(pid int, socket string) bool {
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return false
	}
	for _, fd := range fds {
		if link, err := os.Readlink(fd); err == nil && link == socket {
			return true
		}
	}
	return false
}
