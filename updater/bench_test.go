package updater_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/omaha"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/fetch"
	"github.com/drydock-os/drydock/updater/image"
	"github.com/drydock-os/drydock/updater/link"
	"github.com/drydock-os/drydock/updater/payload"
	"github.com/drydock-os/drydock/updater/policy"
	"github.com/drydock-os/drydock/updater/sim"
)

const slotSize = 8 << 20

// releaseKey signs the releases of these tests.
var releaseKey = sync.OnceValue(func() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
})

// releaseImage is a small file system image of a release.
func releaseImage(t *testing.T, version string) []byte {
	t.Helper()
	filler := make([]byte, 1<<20)
	rand.Read(filler)
	return imageWith(t, version, filler)
}

func imageWith(t *testing.T, version string, filler []byte) []byte {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "image")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := image.Create(f, image.File{Name: "lib/os-release", Data: []byte(sim.OSRelease(version))}, image.File{Name: "filler", Data: filler}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return append(data, make([]byte, (4096-len(data)%4096)%4096)...)
}

func kernelText(version string) string { return strings.Repeat("kernel "+version+"\n", 1000) }

// releasePayload is a signed payload of major 2 with that image and a kernel.
func releasePayload(t *testing.T, version string, img []byte) []byte {
	t.Helper()
	kernel := []byte(kernelText(version))
	out := filepath.Join(t.TempDir(), "payload")
	f, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	spec := payload.Spec{Major: 2, Version: version, Signers: signers(), TempDir: t.TempDir(), Partitions: []payload.Image{
		{Name: payload.Root, Image: bytes.NewReader(img), Size: int64(len(img))},
		{Name: payload.Kernel, Image: bytes.NewReader(kernel), Size: int64(len(kernel))},
	}}
	if err := payload.Create(context.Background(), f, spec); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// bench is a machine with its updater, and a server with releases.
type bench struct {
	t       *testing.T
	dir     string
	machine *sim.Machine
	boot    context.Context // ends when the running system does
	group   *rebootlock.Alone
	cluster *fleetlink.Memory
	server  *httptest.Server
	updates *omaha.Static
	files   map[string][]byte
	policy  policy.Policy
	current *updater.Updater
	keys    payload.Keys
	pause   time.Duration
	piece   int64 // of a checkpoint
	quiet   bool

	ask           *updater.Request          // asked once, on the next start
	dark          func(release string) bool // the power fails when this boots
	refuse        bool                      // logind says no
	anyVersion    bool                      // the server offers older releases too
	deaf          bool                      // the server's answers get lost
	deafAfterBoot bool                      // from the first reboot on
	skew          time.Duration             // of the machine's clock
	swap          func()                    // done once, between the first reboot and the next boot
	stuck         bool                      // drains do not end
	drains        int
	drainsNeeded  int // the drain that does end; 0: none
	ranges, paths []string
	pollInterval  time.Duration
	adjust        func(*updater.Updater) // of each daemon

	mu     sync.Mutex
	events []updater.Event
}

func newBench(t *testing.T, running string) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), group: &rebootlock.Alone{}, cluster: &fleetlink.Memory{},
		updates: &omaha.Static{AppID: policy.DefaultAppID}, files: map[string][]byte{}}
	var err error
	if b.machine, err = sim.NewMachine(b.dir, strings.Repeat("0123456789abcdef", 2), slotSize); err != nil {
		t.Fatal(err)
	}
	if err := b.machine.Install(partition.A, bytes.NewReader(releaseImage(t, running))); err != nil {
		t.Fatal(err)
	}
	b.cluster.Place("m", "web", "db")
	mux := http.NewServeMux()
	handler := &omaha.Handler{Updates: anyVersion{b.updates, b}}
	mux.HandleFunc("/v1/update/", func(w http.ResponseWriter, r *http.Request) {
		if b.deaf {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		handler.ServeHTTP(w, r)
	})
	mux.HandleFunc("/p/", func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		data := b.files[filepath.Base(r.URL.Path)]
		b.ranges, b.paths = append(b.ranges, r.Header.Get("Range")), append(b.paths, filepath.Base(r.URL.Path))
		b.mu.Unlock()
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	})
	b.server = httptest.NewServer(mux)
	t.Cleanup(b.server.Close)
	b.keys = payload.Keys{releaseKey().Public()}
	b.policy = policy.Default()
	b.policy.Server.URL = b.server.URL + "/v1/update/"
	b.policy.Reboot.Strategy = policy.Coordinated
	b.policy.Health.Settle, b.policy.Health.Timeout = 0, 2*time.Second
	b.policy.Update.FirstCheck, b.policy.Update.CheckJitter = 0, 0
	b.policy.Trial.KeepPrevious = 0
	return b
}

// anyVersion offers a release to every machine that does not run it.
type anyVersion struct {
	*omaha.Static
	b *bench
}

func (a anyVersion) Offer(ctx context.Context, app omaha.App) (*omaha.Offer, error) {
	if a.b.anyVersion && app.Version != "0.0.1" {
		real := app.Version
		app.Version = "0.0.1"
		o, err := a.Static.Offer(ctx, app)
		if o != nil && o.Version == real {
			return nil, err
		}
		return o, err
	}
	o, err := a.Static.Offer(ctx, app)
	if a.b.pollInterval > 0 && o == nil && err == nil {
		o = &omaha.Offer{}
	}
	if o != nil && a.b.pollInterval > 0 {
		o.PollInterval = a.b.pollInterval
	}
	return o, err
}

// stubborn is a machine whose logind may refuse a reboot at the last moment.
type stubborn struct {
	*sim.Machine
	refuse bool
}

func (s stubborn) Reboot(ctx context.Context, reason string, forced bool) error {
	if s.refuse {
		return fmt.Errorf("%w: backup.service is running", updater.ErrRefused)
	}
	return s.Machine.Reboot(ctx, reason, forced)
}

// useRSA has the machine trust the key of majorOne.
func (b *bench) useRSA() { b.keys = payload.Keys{rsaKey().Public()} }

var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// majorOne is a signed payload of major 1.
func majorOne(t *testing.T, img []byte) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "payload")
	f, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	spec := payload.Spec{Major: 1, Signers: []crypto.Signer{rsaKey()}, TempDir: t.TempDir(),
		Partitions: []payload.Image{{Name: payload.Root, Image: bytes.NewReader(img), Size: int64(len(img))}}}
	if err := payload.Create(context.Background(), f, spec); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// publish offers a release.
func (b *bench) publish(version string, data []byte) {
	b.offer(version, data)
}

// offer is publish with what else the offer says.
func (b *bench) offer(version string, data []byte, packages ...omaha.Package) {
	b.mu.Lock()
	b.files[version] = data
	b.mu.Unlock()
	sum := sha256.Sum256(data)
	b.updates.Release(&omaha.Offer{Update: true, Version: version, Name: version, URLs: []string{b.server.URL + "/p/" + version},
		Size: int64(len(data)), SHA256: sum[:], DisableBackoff: true, Packages: packages})
}

// file serves a file beside the payloads, and returns it as a package.
func (b *bench) file(name string, data []byte) omaha.Package {
	b.mu.Lock()
	b.files[name] = data
	b.mu.Unlock()
	return omaha.Package{Name: name, URLs: []string{b.server.URL + "/p/" + name}, Size: int64(len(data)), SHA256: sum(data)}
}

// daemon is a fresh run of the updater on the machine.
func (b *bench) daemon() *updater.Updater {
	u := &updater.Updater{
		Disk: b.machine, Control: b.machine.Control, Host: stubborn{b.machine, b.refuse},
		Lock:      link.Lock{Group: b.group, Machine: "m"},
		Scheduler: b.scheduler(),
		Store:     updater.MemoryFile{Path: filepath.Join(b.dir, "memory.json")},
		Scratch:   b.dir, Program: "drydock-test", Now: func() time.Time { return time.Now().Add(b.skew) },
		Observers: []updater.Observer{updater.ObserverFunc(b.observe)},
		Keys:      func(policy.Trust) (payload.Keys, error) { return b.keys, nil },
		HTTP:      func(policy.Policy) (*http.Client, error) { return fetch.NewClient(fetch.Config{Direct: true}), nil },
	}
	u.DownloadPause, u.CheckpointBytes = b.pause, b.piece
	u.SetPolicy(b.policy)
	if b.adjust != nil {
		b.adjust(u)
	}
	b.mu.Lock()
	b.current = u
	b.mu.Unlock()
	return u
}

func (b *bench) observe(e updater.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, e)
	if e.Type != updater.EventProgress && !b.quiet && testing.Verbose() {
		b.t.Logf("%-10s %-10s %s", e.Type, e.Status.StepName, e.Message)
	}
}

// live boots the machine again and again, with the daemon on it, until done
// says that it has come to rest as the test wants it.
func (b *bench) live(done func(updater.Status) bool) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		if b.boot == nil || b.boot.Err() != nil {
			boot, err := b.machine.PowerOn(context.Background())
			if err != nil {
				b.t.Fatal(err)
			}
			b.boot = boot
		}
		boot := b.boot
		run, stop := context.WithCancel(boot)
		context.AfterFunc(ctx, stop)
		if b.dark != nil && b.dark(b.running()) {
			b.machine.PowerOff()
			stop()
			continue
		}
		u := b.daemon()
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := u.Run(run); err != nil {
				b.t.Error(err)
			}
		})
		if r := b.ask; r != nil {
			b.ask = nil
			if _, err := u.Do(run, *r); err != nil {
				b.t.Error(err)
			}
		}
		b.wait(run, func() bool { return done(u.Status()) })
		rebooted := boot.Err() != nil && ctx.Err() == nil
		b.deaf = b.deaf || rebooted && b.deafAfterBoot
		if rebooted && b.swap != nil {
			b.swap()
			b.swap = nil
		}
		stop()
		wg.Wait()
		if !rebooted {
			break
		}
	}
	if ctx.Err() != nil {
		b.t.Fatalf("did not come to rest: %+v", b.current.Status())
	}
}

func (b *bench) scheduler() fleetlink.Link {
	s := b.cluster.On("m")
	if b.stuck {
		return stuck{s, b}
	}
	return s
}

func (b *bench) bootID() string {
	id, err := b.machine.Identity()
	if err != nil {
		b.t.Fatal(err)
	}
	return id.BootID
}

func (b *bench) running() string {
	id, err := b.machine.Identity()
	if err != nil {
		b.t.Fatal(err)
	}
	return id.Release
}

// wait polls until cond holds or ctx ends.
func (b *bench) wait(ctx context.Context, cond func() bool) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// steps are the steps in order, without repeats and waits.
func (b *bench) steps() (names []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.events {
		if n := e.Status.StepName; e.Type == updater.EventStep && n != "wait" && n != "" && (len(names) == 0 || names[len(names)-1] != n) {
			names = append(names, n)
		}
	}
	return names
}

func (b *bench) reported() (codes []string) {
	for _, s := range b.updates.Seen() {
		codes = append(codes, fmt.Sprintf("%d/%d", s.Event.Type, s.Event.Result))
	}
	return codes
}

func signers() []crypto.Signer { return []crypto.Signer{releaseKey()} }
