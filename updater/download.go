package updater

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/drydock-os/drydock/omaha"
	"github.com/drydock-os/drydock/updater/fetch"
	"github.com/drydock-os/drydock/updater/payload"
	"github.com/drydock-os/drydock/updater/policy"
	"github.com/drydock-os/drydock/updater/state"
)

// checkpoint is where an interrupted download goes on: the newest point up to
// which everything had been synced to the slot.
type checkpoint struct {
	SHA256  []byte `json:"sha256"` // of the payload it belongs to
	Slot    string `json:"slot"`
	State   []byte `json:"state"` // the payload package's own
	Version string `json:"version"`
	Done    int64  `json:"done"`  // payload bytes
	Total   int64  `json:"total"` // payload bytes
}

// checkpoint returns the saved state that belongs to this offer and slot.
func (w *writing) checkpoint() []byte {
	c, err := (state.File[checkpoint]{Path: w.u.checkpointPath()}).Load()
	if err != nil || c.Slot != w.slot.String() || len(c.SHA256) == 0 || !bytes.Equal(c.SHA256, w.offer.SHA256) {
		return nil
	}
	return c.State
}

// interruption is the download that an earlier run of the daemon did not end;
// nil if there is none.
func (u *Updater) interruption() *checkpoint {
	c, err := (state.File[checkpoint]{Path: u.checkpointPath()}).Load()
	if err != nil || len(c.State) == 0 {
		return nil
	}
	return &c
}

func (w *writing) keepCheckpoint(s []byte) error {
	return state.File[checkpoint]{Path: w.u.checkpointPath()}.Save(checkpoint{
		SHA256: w.offer.SHA256, Slot: w.slot.String(), State: s, Version: w.offer.Version, Done: w.got, Total: w.offer.Size})
}

// prepareSource sets up the download from the offer's URLs, the one whose
// turn it is first.
func (w *writing) prepareSource(ctx context.Context) error {
	src, err := w.newSource(w.u.recall().Poll.URLs.URLs(terms(w.offer)), w.offer.Size)
	if err != nil {
		return err
	}
	src.OnRetry = func(err error) {
		if ctx.Err() == nil {
			w.u.event(EventWaiting, w.offer.Version, nil, "the download goes on after: %v", err)
		}
	}
	w.source = src
	return nil
}

func (w *writing) newSource(urls []string, size int64) (*fetch.Source, error) {
	client, err := w.u.HTTP(w.p)
	if err != nil {
		return nil, fmt.Errorf("%w: prepare HTTP: %w", payload.ErrDownload, err)
	}
	src := &fetch.Source{Client: client, URLs: urls, Size: size, Username: w.p.Server.User, Password: string(w.p.Server.Password), Now: w.u.Now, Pause: w.u.DownloadPause}
	if rate := int64(w.p.Update.Bandwidth); rate > 0 {
		src.Limit = fetch.NewLimit(rate)
	}
	return src, nil
}

// errPCRServer says that the server of PCR policies did not take one.
var errPCRServer = errors.New("the PCR policy server did not take the release's policy")

// postPCR gives the release's PCR policy to the server that the operator named
// for it, as upstream does: a machine whose disk key is sealed to the running
// release could not open it after the reboot otherwise.
func (w *writing) postPCR(ctx context.Context, written *Written) error {
	url := w.p.Server.PCRPolicyServer
	if _, has := written.Images[payload.PCRPolicy]; url == "" || !has {
		return nil
	}
	data, err := os.ReadFile(w.u.pcrPath(w.slot))
	if err != nil {
		return fmt.Errorf("%w: %w", errPCRServer, err)
	}
	client, err := w.u.HTTP(w.p)
	if err != nil {
		return fmt.Errorf("%w: %w", errPCRServer, err)
	}
	ctx, cancel := context.WithTimeout(ctx, pcrTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("%w: %w", errPCRServer, err)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	answer, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("%w: %w", errPCRServer, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return fmt.Errorf("%w: it answered %s", errPCRServer, answer.Status)
	}
	return nil
}

// pcrTimeout bounds the exchange with the PCR policy server: a policy has a
// few KiB.
const pcrTimeout = 2 * time.Minute

// packages fetches what belongs to the release beside its payload, into a
// directory of its own, and returns that; "" if there is nothing.
func (w *writing) packages(ctx context.Context) (string, error) {
	if len(w.offer.Packages) == 0 {
		return "", nil
	}
	dir := filepath.Join(w.p.Update.ExtraPackagesDir, packagesPrefix+w.offer.Version)
	if !filepath.IsLocal(w.offer.Version) {
		return "", fmt.Errorf("fetch packages: version %q cannot name a directory", w.offer.Version)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("fetch packages: %w", err)
	}
	for _, pkg := range w.offer.Packages {
		if !chosen(pkg, w.p) {
			continue
		}
		if err := w.onePackage(ctx, dir, pkg); err != nil {
			return "", fmt.Errorf("fetch package %s: %w", pkg.Name, err)
		}
	}
	return dir, syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// terms are what the server says of the payload, for the URLs' state.
func terms(o *omaha.Offer) fetch.Terms {
	return fetch.Terms{URLs: o.URLs, Size: o.Size, SHA256: o.SHA256, Delta: o.Delta, MaxFailures: o.MaxFailures, DisableBackoff: o.DisableBackoff}
}

// chosen says whether this machine wants a package: what the server requires,
// and what the policy's patterns name.
func chosen(pkg omaha.Package, p policy.Policy) bool {
	if pkg.Required {
		return true
	}
	for _, pattern := range p.Update.Packages {
		if ok, _ := path.Match(pattern, pkg.Name); ok {
			return true
		}
	}
	return false
}

// packagesPrefix begins the names of our directories of packages, so that none
// but ours is ever removed.
const packagesPrefix = "release-"

// prunePackages removes the packages of releases that are no longer in a slot.
// What cannot be removed only takes room.
func (w *writing) prunePackages() {
	entries, err := os.ReadDir(w.p.Update.ExtraPackagesDir)
	if err != nil {
		return
	}
	for _, e := range entries {
		version, ours := strings.CutPrefix(e.Name(), packagesPrefix)
		if ours && e.IsDir() && version != w.release && version != w.offer.Version {
			os.RemoveAll(filepath.Join(w.p.Update.ExtraPackagesDir, e.Name()))
		}
	}
}

// onePackage fetches one package; it has its name only once it was verified
// and synced.
func (w *writing) onePackage(ctx context.Context, dir string, pkg omaha.Package) error {
	if !filepath.IsLocal(pkg.Name) || filepath.Base(pkg.Name) != pkg.Name {
		return fmt.Errorf("name %q leaves its directory", pkg.Name)
	}
	src, err := w.newSource(pkg.URLs, pkg.Size)
	if err != nil {
		return err
	}
	part := filepath.Join(dir, "."+pkg.Name+".part")
	f, err := createFile(part, false)
	if err != nil {
		return err
	}
	defer f.Close()
	defer os.Remove(part)
	if err := fetch.Package(ctx, src, f, fetch.Sum{Size: pkg.Size, SHA256: pkg.SHA256, SHA1: pkg.SHA1}); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(part, filepath.Join(dir, pkg.Name))
}

// keepResponse saves the server's answer as it came, for the hook of the
// release: upstream's reads the packages' places in it.
func (u *Updater) keepResponse(offer *omaha.Offer) error {
	if !offer.Update {
		return nil
	}
	if err := state.Write(u.responsePath(), offer.Raw, 0o600); err != nil {
		return fmt.Errorf("keep the server's answer: %w", err)
	}
	return nil
}

// file is a regular file as a payload's target.
type file struct{ *os.File }

func createFile(name string, keep bool) (*file, error) {
	flags := os.O_RDWR | os.O_CREATE
	if !keep {
		flags |= os.O_TRUNC
	}
	f, err := os.OpenFile(name, flags, 0o600)
	if err != nil {
		return nil, err
	}
	return &file{f}, nil
}

// Size is the file's present size in bytes, 0 if it cannot be read.
func (f *file) Size() int64 {
	info, err := f.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

// MemoryFile is a Store in one file.
type MemoryFile struct{ Path string }

// Load reads the memory. A file that is missing is the zero Memory; one that
// is damaged too, with the error.
func (f MemoryFile) Load() (Memory, error) {
	m, err := (state.File[Memory]{Path: f.Path}).Load()
	if m.Version > memoryVersion {
		return m, errors.Join(err, fmt.Errorf("%s was written by a newer drydockd (version %d): what it knows and this one does not is kept", f.Path, m.Version))
	}
	return m, err
}

// Save writes the memory durably.
func (f MemoryFile) Save(m Memory) error { return state.File[Memory]{Path: f.Path}.Save(m) }
