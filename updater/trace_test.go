package updater_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/testdata/real"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/payload"
	"github.com/drydock-os/drydock/updater/policy"
)

// trace is one recorded run of the upstream daemon.
type trace struct {
	dir      string
	scenario scenario
	requests []string // in order
	statuses []string // of D-Bus, without repeats
	flags    partition.Table
	running  string // the release that ran
}

func readTrace(t *testing.T, dir string) trace {
	t.Helper()
	tr := trace{dir: dir}
	if err := json.Unmarshal(readFile(t, dir, "scenario.json"), &tr.scenario); err != nil {
		t.Fatal(err)
	}
	log := string(readFile(t, dir, "http.log"))
	for _, part := range strings.Split(log, "=== ")[1:] {
		request, _, _ := strings.Cut(part, "-> ")
		switch f := strings.Fields(request); f[0] {
		case "GET":
			ranged, _, _ := strings.Cut(strings.TrimPrefix(strings.Join(f[3:], " "), "Range: "), " UA:")
			tr.requests = append(tr.requests, "GET "+f[1]+" "+strings.TrimPrefix(ranged, "Range: "))
		case "POST":
			tr.requests = append(tr.requests, words(request))
		}
	}
	if m := regexp.MustCompile(`<app [^>]*? version="([^"]*)"`).FindStringSubmatch(log); m != nil {
		tr.running = m[1]
	}
	signals := string(readFile(t, dir, "signals.log"))
	for _, m := range regexp.MustCompile(`"(UPDATE_STATUS_[A-Z_]+)"`).FindAllStringSubmatch(signals, -1) {
		tr.statuses = appendNew(tr.statuses, m[1])
	}
	tr.flags = readFlags(t, dir)
	return tr
}

func readFlags(t *testing.T, dir string) (flags partition.Table) {
	t.Helper()
	lines := bufio.NewScanner(bytes.NewReader(readFile(t, dir, "gpt_after.txt")))
	slot := -1
	for lines.Scan() {
		if strings.Contains(lines.Text(), `Label: "USR-`) {
			slot++
		}
		var p, n, s int
		if i := strings.Index(lines.Text(), "priority="); i >= 0 && slot >= 0 {
			fmt.Sscanf(lines.Text()[i:], "priority=%d tries=%d successful=%d", &p, &n, &s)
			flags[slot] = partition.Flags{Priority: uint8(p), Tries: uint8(n), Successful: s == 1}
		}
	}
	return flags
}

func readFile(t *testing.T, elem ...string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func appendNew(list []string, s string) []string {
	if len(list) > 0 && list[len(list)-1] == s {
		return list
	}
	return append(list, s)
}

var update1Names = map[updater.Operation]string{
	updater.Idle: "UPDATE_STATUS_IDLE", updater.CheckingForUpdate: "UPDATE_STATUS_CHECKING_FOR_UPDATE",
	updater.UpdateAvailable: "UPDATE_STATUS_UPDATE_AVAILABLE", updater.Downloading: "UPDATE_STATUS_DOWNLOADING",
	updater.Finalizing: "UPDATE_STATUS_FINALIZING", updater.NeedReboot: "UPDATE_STATUS_UPDATED_NEED_REBOOT",
	updater.ReportingError: "UPDATE_STATUS_REPORTING_ERROR_EVENT",
}

// traceBench is a machine as the harness of the traces had it, with strategy
// external, which stages at once as upstream does.
func traceBench(t *testing.T, tr trace, srv *traceServer) *bench {
	t.Helper()
	b := newBench(t, "1.0.0")
	img, err := exec.Command(real.Program(t, "xz"), "-dc", real.Shared(t, "vectors", "crau", map[bool]string{true: "old.ext2.img.xz", false: "new.ext2.img.xz"}[tr.running != "1.1.0"])).Output()
	if err != nil {
		t.Fatal(err)
	}
	if tr.scenario.Payload == "delta_signed.crau" {
		img[3<<20] ^= 1 // not the source that the delta wants
	}
	if err := b.machine.Install(partition.A, bytes.NewReader(img)); err != nil {
		t.Fatal(err)
	}
	b.policy.Server.URL = srv.URL + "/v1/update/"
	b.policy.Reboot.Strategy = policy.External
	b.policy.Update.FirstCheck = time.Hour // the recorded runs were asked on demand
	b.keys = readKeys(t, "signer-a.pub.pem")
	b.pause = 10 * time.Millisecond
	// The image's own hook is a script: sim cannot mount, so its exit code is
	// stood in for here. The daemon's test on a loop device runs it for real.
	b.machine.PostInstall = func(context.Context, updater.HookRun) error {
		if code := map[string]int{"fail.crau": 1, "rc3.crau": 3}[tr.scenario.Payload]; code != 0 {
			return fmt.Errorf("post-install hook: exit status %d", code)
		}
		return nil
	}
	return b
}

func readKeys(t *testing.T, name string) payload.Keys {
	t.Helper()
	keys, err := payload.ParseKeys(readFile(t, real.Shared(t, "vectors", "keys", name)))
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// exception is where we do otherwise than the recorded upstream, and why.
type exception struct {
	why      string
	requests []string // nil: as recorded
	statuses []string
	flags    *partition.Table
	goesOn   bool // the recording ends in the middle: what comes after it is ours alone
}

var (
	untouched = partition.Table{{Priority: 1, Successful: true}, {}}
	staged    = partition.Table{{Priority: 1, Successful: true}, {Priority: 2, Tries: 1}}
	refusedAt = []string{"UPDATE_STATUS_IDLE", "UPDATE_STATUS_CHECKING_FOR_UPDATE", "UPDATE_STATUS_UPDATE_AVAILABLE", "UPDATE_STATUS_DOWNLOADING", "UPDATE_STATUS_REPORTING_ERROR_EVENT", "UPDATE_STATUS_IDLE"}
	stagedAt  = []string{"UPDATE_STATUS_IDLE", "UPDATE_STATUS_CHECKING_FOR_UPDATE", "UPDATE_STATUS_UPDATE_AVAILABLE", "UPDATE_STATUS_DOWNLOADING", "UPDATE_STATUS_FINALIZING", "UPDATE_STATUS_UPDATED_NEED_REBOOT"}
	checkPost = `POST ping check eventtype="3" eventresult="2" previousversion="0.0.0.0"`
	laterPost = `POST ping check eventtype="3" eventresult="2" previousversion=""`
	startPost = `POST eventtype="13" eventresult="1"`
	endPost   = `POST eventtype="14" eventresult="1"`
	donePost  = `POST eventtype="3" eventresult="1"`
	wholeGET  = "GET /p/update.gz None"
)

func failPost(code int) string {
	return fmt.Sprintf(`POST eventtype="3" eventresult="0" errorcode="%d"`, 1<<28+code)
}

// exceptions lists every trace that we do not follow, each with its reason
// (the numbers are those of the defects list in the reference).
var exceptions = map[string]exception{
	"cut": {why: "the recording ends while upstream waits its 20 s after the cut; here the download goes on, and the release is staged", goesOn: true, flags: &staged},
	"no_pubkey_wrong_sig": {why: "defect 1: upstream accepts an unverified payload when it has no key; we refuse before the first byte is even asked for",
		requests: []string{checkPost, failPost(18)},
		statuses: slices.Delete(slices.Clone(refusedAt), 3, 4), flags: &untouched},
	"postinst_rc3": {why: "defect 17: exit code 3 of the hook is a failure like any other, and stages nothing",
		requests: []string{checkPost, startPost, wholeGET, endPost, failPost(5)},
		statuses: slices.Insert(slices.Clone(refusedAt), 4, "UPDATE_STATUS_FINALIZING"), flags: &untouched},
	"backoff_2": {why: "upstream would have to download again and is held back from it; here the release is still written, nothing is downloaded again, and its hook is tried again after a pause",
		requests: []string{laterPost},
		statuses: []string{"UPDATE_STATUS_IDLE", "UPDATE_STATUS_CHECKING_FOR_UPDATE", "UPDATE_STATUS_IDLE"}},
	"wrong_size": {why: "the server's size is held against its own answer, so the payload is not read at all",
		statuses: slices.Delete(slices.Clone(refusedAt), 3, 4)},
	"resume2_2": {why: "the manifest is read again from the start of the payload and compared with the first one (upstream neither compares nor hashes it), so the first request has no range",
		requests: []string{laterPost, startPost, wholeGET, "GET /p/update.gz bytes=N-", endPost, donePost}},
	"resume3_2_ignore_range": {why: "defect 5: upstream dies of a server that ignores Range; we pass over what we have and go on",
		requests: []string{laterPost, startPost, wholeGET, "GET /p/update.gz bytes=N-", endPost, donePost},
		statuses: stagedAt, flags: &staged},
	"reset": {why: "ResetStatus takes the flags back too, and says so: upstream leaves them, and the next boot takes the release all the same",
		statuses: append(slices.Clone(stagedAt), "UPDATE_STATUS_IDLE"), flags: &untouched},
	"rebooted_ok":         {why: "the recorded machine never went through a boot loader: its flags are those of before the update with slot A marked good once more", flags: &untouched},
	"rebooted_ok_second":  {why: "as rebooted_ok", flags: &untouched},
	"rebooted_rolledback": {why: "as rebooted_ok", flags: &untouched},
	"setgood_45s":         {why: "upstream marks the booted slot good whether or not it is on trial, and so puts the other one behind; a slot that is good already is left alone", flags: &untouched},
}

// chains are the traces, those that were recorded on one machine together.
var chains = [][]string{
	{"alias_quote"}, {"backoff_1", "backoff_2"}, {"bad_magic"}, {"bad_manifest"}, {"bad_status"}, {"corrupt_op"}, {"cut"}, {"delta"},
	{"full_ok", "need_reboot_restart"}, {"full_ok2"}, {"get404"}, {"no_pubkey_wrong_sig"}, {"no_updatecheck"}, {"pcr"}, {"pollinterval"},
	{"post500"}, {"postinst_fail"}, {"postinst_rc3"}, {"rebooted_ok", "rebooted_ok_second"}, {"rebooted_rolledback"}, {"reset"},
	{"resume_1_killed", "resume_2"}, {"resume2_1_killed", "resume2_2"}, {"resume3_1_killed", "resume3_2_ignore_range"},
	{"server_disabled"}, {"setgood_45s"}, {"twourls_1", "twourls_2"}, {"unsigned"}, {"wrong_key"}, {"wrong_sha"}, {"wrong_size"},
}

// TestTraces replays every recorded run of the upstream daemon: the same
// requests in the same order, the same statuses, the same flags, but for the
// exceptions.
func TestTraces(t *testing.T) {
	root := real.Shared(t, "vectors", "traces")
	covered := map[string]bool{"payloads": true}
	for _, chain := range chains {
		t.Run(chain[0], func(t *testing.T) {
			srv := newTraceServer(t)
			var b *bench
			for _, name := range chain {
				tr := readTrace(t, filepath.Join(root, name))
				srv.play(tr.scenario, tracePayload(t, tr.scenario))
				if b == nil {
					b = traceBench(t, tr, srv)
				}
				if name == "server_disabled" {
					srv.Close()
				}
				t.Run(name, func(t *testing.T) { b.replay(t, name, tr, srv) })
			}
		})
		for _, name := range chain {
			covered[name] = true
		}
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !covered[e.Name()] {
			t.Errorf("trace %s is not replayed", e.Name())
		}
	}
}

func tracePayload(t *testing.T, s scenario) []byte {
	t.Helper()
	if s.Payload == "" {
		return nil
	}
	path := filepath.Join(real.Shared(t, "vectors", "traces", "payloads"), s.Payload)
	if _, err := os.Stat(path); err != nil {
		path = real.Shared(t, "vectors", "crau", s.Payload)
	}
	data := readFile(t, path)
	if s.CorruptAt > 0 {
		data[s.CorruptAt] ^= 0xff
	}
	return data
}

// replay runs the daemon once against the trace's server and compares.
func (b *bench) replay(t *testing.T, name string, tr trace, srv *traceServer) {
	b.prepare(t, name)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	run, stop := context.WithCancel(ctx)
	b.mu.Lock()
	b.events = nil
	b.mu.Unlock()
	u := b.daemon()
	var wg sync.WaitGroup
	wg.Go(func() { u.Run(run) })
	b.wait(ctx, func() bool { return u.Status().StepName != "" })
	if name != "need_reboot_restart" {
		asked, giveUp := context.WithCancel(ctx)
		if tr.scenario.Slow > 0 { // killed in the middle of the download
			wg.Go(func() {
				b.wait(ctx, func() bool { return u.Status().Progress > 0.55 })
				stop()
				giveUp()
			})
		}
		outcome, err := u.Do(asked, updater.Request{Action: updater.ActUpdate, OnDemand: true})
		t.Logf("%s %v", outcome, err)
		giveUp()
	}
	if name == "reset" {
		if _, err := u.Do(ctx, updater.Request{Action: updater.ActReset}); err != nil {
			t.Error(err)
		}
	}
	b.wait(ctx, func() bool { return u.Status().Step == updater.Wait || run.Err() != nil })
	stop()
	wg.Wait()
	b.compare(t, name, tr, srv)
}

// prepare sets the machine up as the recorded one was before the run.
func (b *bench) prepare(t *testing.T, name string) {
	t.Helper()
	boot := !strings.Contains(name, "_2") && name != "need_reboot_restart" && name != "rebooted_ok_second"
	if boot {
		if _, err := b.machine.PowerOn(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	switch name {
	case "alias_quote":
		b.policy.Server.MachineAlias = `a"b<c&d`
	case "no_pubkey_wrong_sig":
		b.keys = nil
	case "rebooted_ok", "rebooted_rolledback":
		m := updater.Memory{Version: 1, Report: updater.Report{Seen: true, Previous: "1.0.0"}}
		if name == "rebooted_rolledback" {
			m.Report = updater.Report{Seen: true, RolledBack: true}
		}
		if err := (updater.MemoryFile{Path: filepath.Join(b.dir, "memory.json")}).Save(m); err != nil {
			t.Fatal(err)
		}
	case "resume2_1_killed", "resume3_1_killed":
		b.piece = 64 << 10
	}
}

var rangePattern = regexp.MustCompile(`bytes=\d+-`)

// compare holds what was asked, said and left behind against the trace.
func (b *bench) compare(t *testing.T, name string, tr trace, srv *traceServer) {
	e := exceptions[name]
	wantRequests, wantStatuses, wantFlags := tr.requests, tr.statuses, tr.flags
	if e.requests != nil {
		wantRequests = e.requests
	}
	if e.statuses != nil {
		wantStatuses = e.statuses
	}
	if e.flags != nil {
		wantFlags = *e.flags
	}
	if e.why != "" {
		t.Logf("not as upstream: %s", e.why)
	}
	got := srv.recorded()
	for _, list := range [][]string{got, wantRequests} {
		for i := range list {
			list[i] = rangePattern.ReplaceAllString(list[i], "bytes=N-")
		}
	}
	var statuses []string
	b.mu.Lock()
	for _, ev := range b.events {
		statuses = appendNew(statuses, update1Names[ev.Status.Operation])
	}
	b.mu.Unlock()
	flags, err := b.machine.Control.Table()
	if err != nil {
		t.Fatal(err)
	}
	if e.goesOn {
		got, statuses = got[:min(len(got), len(wantRequests))], statuses[:min(len(statuses), len(wantStatuses))]
	}
	if !slices.Equal(got, wantRequests) {
		t.Errorf("requests:\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(wantRequests, "\n     "))
	}
	if !slices.Equal(statuses, wantStatuses) {
		t.Errorf("statuses:\n got %v\nwant %v", statuses, wantStatuses)
	}
	if flags != wantFlags {
		t.Errorf("flags: got %v, want %v", flags, wantFlags)
	}
}

func sum(data []byte) []byte {
	s := sha256.Sum256(data)
	return s[:]
}
