package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drydock-os/drydock/updater/fetch"
	"github.com/drydock-os/drydock/updater/policy"
)

var spaceChecks = []check{
	{id: "space.state", look: func(_ context.Context, p *patient) Finding { return lookSpace(p.policy.State, minState, true) }},
	{id: "space.packages", look: func(_ context.Context, p *patient) Finding {
		return lookSpace(p.policy.Update.ExtraPackagesDir, minPackages, false)
	}},
}

// What is to be free, in bytes. State is small files that are written anew
// beside the old ones; Flatcar's extensions have some hundred megabytes.
const (
	minState    = 16 << 20
	minPackages = 512 << 20
)

// spaceFacts are what is known of a directory that must take files.
type spaceFacts struct {
	path, of string // of: the directory above it that is there
	free     int64  // bytes for root
	inodes   uint64 // that are free
	counted  bool   // the file system has a number of inodes
	readOnly bool
	needed   int64
	crucial  bool
}

func lookSpace(path string, needed int64, crucial bool) Finding {
	f := spaceFacts{path: path, of: path, needed: needed, crucial: crucial}
	for { // drydockd makes it when it starts
		info, err := os.Stat(f.of)
		if err == nil && !info.IsDir() {
			return Finding{Verdict: Wrong, Seen: f.of + " is no directory", Means: "drydockd cannot keep what must survive a reboot", Mend: "move it away"}
		}
		if err == nil || !errors.Is(err, fs.ErrNotExist) || f.of == "/" {
			break
		}
		f.of = filepath.Dir(f.of)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(f.of, &st); err != nil {
		return unread(f.of, err)
	}
	f.free, f.inodes, f.counted = int64(st.Bfree)*st.Bsize, st.Ffree, st.Files > 0
	f.readOnly = st.Flags&unix.ST_RDONLY != 0
	return judgeSpace(f)
}

func judgeSpace(f spaceFacts) Finding {
	means, full := "a release's extra packages do not fit, and the update fails", Warning
	if f.crucial {
		means, full = "drydockd cannot keep what must survive a reboot, and begins no update", Wrong
	}
	switch {
	case f.readOnly:
		return Finding{Verdict: Wrong, Seen: f.of + " is read-only", Means: means, Mend: "put it on a file system that is written (and look at dmesg, if the kernel did it)"}
	case f.free < f.needed:
		return Finding{Verdict: full, Seen: fmt.Sprintf("%s has %s left; %s are to be free", f.of, amount(f.free), amount(f.needed)), Means: means, Mend: "free space there"}
	case f.counted && f.inodes < 100:
		return Finding{Verdict: full, Seen: fmt.Sprintf("%s has %d inodes left", f.of, f.inodes), Means: means, Mend: "remove files there"}
	}
	return ok("%s: %s free", f.path, amount(f.free))
}

var clockChecks = []check{
	{id: "clock.synchronised", bare: true, look: lookClock},
	{id: "clock.sane", look: lookTime},
}

func lookClock(_ context.Context, p *patient) Finding {
	var t unix.Timex
	state, err := unix.Adjtimex(&t) // with no modes it only reads
	if err != nil {
		return unread("whether the clock is synchronised", err)
	}
	return judgeClock(state, t.Status)
}

// judgeClock judges what adjtimex(2) says.
func judgeClock(state int, status int32) Finding {
	if state == unix.TIME_ERROR || status&unix.STA_UNSYNC != 0 {
		return Finding{Verdict: Warning, Seen: "the kernel says that nobody keeps the clock", Means: "past 5 minutes of difference to the coordinator this machine does not reboot; windows open at the wrong time; certificates are judged wrongly",
			Mend: "run systemd-timesyncd, chrony or another NTP client (timedatectl set-ntp true)"}
	}
	return ok("kept by NTP")
}

// lookTime finds a clock that went back: it is before this program was made, or
// before files were written.
func lookTime(_ context.Context, p *patient) Finding {
	latest, what := p.Built, "this program was made"
	for _, path := range []string{p.Config, p.path("etc/machine-id"), filepath.Join(p.policy.State, "memory.json"), filepath.Join(p.policy.State, "cluster.json")} {
		if info, err := os.Stat(path); err == nil && info.ModTime().After(latest) {
			latest, what = info.ModTime(), path+" was written"
		}
	}
	return judgeTime(p.now, latest, what)
}

func judgeTime(now, latest time.Time, what string) Finding {
	if behind := latest.Sub(now); behind > time.Minute {
		return Finding{Verdict: Wrong, Seen: fmt.Sprintf("it is %s, and %s at %s", now.UTC().Format(time.DateTime), what, latest.UTC().Format(time.DateTime)),
			Means: "the clock went back: certificates are refused, windows open at the wrong time, and the lock refuses this machine", Mend: "set the clock (timedatectl set-time, or an NTP client), also the hardware's (hwclock --systohc)"}
	}
	return ok("%s, later than all that is known", now.UTC().Format(time.DateTime))
}

var serverChecks = []check{
	{id: "server.reachable", applies: func(p policy.Policy) bool { return p.Update.Enabled && p.Server.URL != "" }, look: lookServer},
}

// lookServer connects to the update server, and says nothing: an update check
// would count in its statistics.
func lookServer(ctx context.Context, p *patient) Finding {
	s := p.policy.Server
	if err := reach(ctx, s.URL, s.Proxy, s.CAFile); err != nil {
		return Finding{Verdict: Wrong, Seen: "the update server " + s.URL + ": " + err.Error(), Means: "this machine gets no releases", Mend: mendURL(err, "server.url", "server.ca_file")}
	}
	if s.Proxy != "" {
		return ok("the proxy %s answers; what is behind it was not asked", hostOf(s.Proxy))
	}
	return ok("%s answers", hostOf(s.URL))
}

// hostOf leaves the password of a URL out.
func hostOf(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "(no URL)"
	}
	return u.Scheme + "://" + u.Host
}

// ports are where a scheme is served.
var ports = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}

// reach connects to the server of a URL, or to the proxy before it, and with
// https shakes hands. It sends no request.
func reach(ctx context.Context, target, proxy, caFile string) error {
	if proxy != "" {
		target, caFile = proxy, ""
	}
	u, err := url.Parse(target)
	if err != nil {
		return err
	}
	port := u.Port()
	if port == "" {
		port = ports[u.Scheme]
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return err
	}
	defer conn.Close()
	if u.Scheme != "https" {
		return nil
	}
	settings := &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
	if caFile != "" {
		if settings.RootCAs, err = fetch.ReadRoots(caFile); err != nil {
			return err
		}
	}
	return tls.Client(conn, settings).HandshakeContext(ctx)
}

// mendURL says what to do about a server that cannot be reached.
func mendURL(err error, key, caKey string) string {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return "name resolution does not know that host: correct " + key + ", or DNS (resolvectl query)"
	case strings.Contains(err.Error(), "x509:") || strings.Contains(err.Error(), "tls:"):
		return "its certificate is not trusted: " + caKey + " must hold the CA that signed it; and look at this machine's clock"
	}
	return "see that it runs and that no firewall is between; a proxy is named in server.proxy; or correct " + key
}
