package rollout

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/drydock-os/drydock/omaha"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/partition/powercut"
	"github.com/drydock-os/drydock/updater/image"
	"github.com/drydock-os/drydock/updater/payload"
	"github.com/drydock-os/drydock/updater/policy"
	"github.com/drydock-os/drydock/updater/sim"
)

// The release that all machines run, and the one that goes through the fleet.
const (
	oldRelease = "1.0.0"
	newRelease = "1.1.0"
)

const (
	slotSize   = 32 << 10
	sectorSize = 512
)

// A factory has what all machines begin with, and the server that they ask.
type factory struct {
	blank    *powercut.Machine // a disk with the old release in slot A
	size     int64             // of a release's image, in bytes
	releases map[[sha256.Size]byte]string
	keys     payload.Keys
	server   http.Handler
}

func newFactory(ctx context.Context, dir string) (*factory, error) {
	f := &factory{releases: map[[sha256.Size]byte]string{}}
	before, err := releaseImage(dir, oldRelease)
	if err != nil {
		return nil, err
	}
	after, err := releaseImage(dir, newRelease)
	if err != nil {
		return nil, err
	}
	f.size = int64(len(after))
	if len(before) != len(after) || f.size > slotSize {
		return nil, fmt.Errorf("images of %d and %d bytes: a slot has %d", len(before), len(after), slotSize)
	}
	f.releases[sha256.Sum256(before)], f.releases[sha256.Sum256(after)] = oldRelease, newRelease
	if f.blank, err = blank(before); err != nil {
		return nil, fmt.Errorf("make a disk: %w", err)
	}
	data, key, err := signed(ctx, dir, after)
	if err != nil {
		return nil, err
	}
	f.keys = payload.Keys{key}
	f.serve(data)
	return f, nil
}

// releaseImage is a file system that says which release it is.
func releaseImage(dir, version string) ([]byte, error) {
	path := filepath.Join(dir, version+".img")
	out, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	if err := image.Create(out, image.File{Name: "lib/os-release", Data: []byte(sim.OSRelease(version))}); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	const block = 4096
	return append(data, make([]byte, (block-len(data)%block)%block)...), nil
}

// blank is a machine's disk as it leaves the factory: slot A is good.
func blank(img []byte) (*powercut.Machine, error) {
	first := uint64(partition.FirstUsable(sectorSize))
	entry := func(number int, label string) partition.Entry {
		start := first + uint64(number-1)*slotSize/sectorSize
		return partition.Entry{Number: number, Label: label, Type: partition.TypeUSR, First: start, Last: start + slotSize/sectorSize - 1}
	}
	entries := []partition.Entry{entry(1, "USR-A"), entry(2, "USR-B")}
	m := powercut.New(partition.FlatcarSize(entries, sectorSize), "ext4")
	if err := partition.Format(m.Disk, entries); err != nil {
		return nil, err
	}
	slot, err := partition.SlotOf(m.Disk, partition.Layout{}, partition.A)
	if err != nil {
		return nil, err
	}
	if _, err := slot.WriteAt(img, 0); err != nil {
		return nil, err
	}
	control := partition.GPTPrio{Disk: m.Disk}
	if err := control.SetTable((partition.Table{}).Stage(partition.A, 1).Good(partition.A)); err != nil {
		return nil, err
	}
	return m, m.Disk.Sync()
}

// signed is the new release's payload, and the key that it is signed with.
func signed(ctx context.Context, dir string, img []byte) ([]byte, crypto.PublicKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	var out bytes.Buffer
	spec := payload.Spec{Major: 2, Version: newRelease, Signers: []crypto.Signer{key}, TempDir: dir,
		Partitions: []payload.Image{{Name: payload.Root, Image: bytes.NewReader(img), Size: int64(len(img))}}}
	if err := payload.Create(ctx, &out, spec); err != nil {
		return nil, nil, fmt.Errorf("make a payload: %w", err)
	}
	return out.Bytes(), key.Public(), nil
}

const serverURL = "http://server.simulated"

// serve makes the server that offers the release, and gives it out.
func (f *factory) serve(data []byte) {
	sum := sha256.Sum256(data)
	updates := &omaha.Static{AppID: policy.DefaultAppID}
	updates.Release(&omaha.Offer{Version: newRelease, Name: newRelease, URLs: []string{serverURL + "/payloads/" + newRelease},
		Size: int64(len(data)), SHA256: sum[:], DisableBackoff: true})
	mux := http.NewServeMux()
	mux.Handle("/v1/update/", &omaha.Handler{Updates: updates})
	mux.HandleFunc("/payloads/"+newRelease, func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	})
	f.server = mux
}

// ask has the server answer a request, with no network between.
func (f *factory) ask(r *http.Request) *http.Response {
	if r.Body == nil {
		r.Body = http.NoBody
	}
	w := &answer{header: http.Header{}, status: http.StatusOK}
	f.server.ServeHTTP(w, r)
	return &http.Response{Status: http.StatusText(w.status), StatusCode: w.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.header, Body: io.NopCloser(&w.body), ContentLength: int64(w.body.Len()), Request: r}
}

// answer is an http.ResponseWriter in memory.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) { a.status = status }

// Write implements http.ResponseWriter.
func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }

// holds says which release is in a slot of a disk, by every byte of it; "" for
// none that was ever made.
func (f *factory) holds(disk partition.Device, s partition.Slot) string {
	slot, err := partition.SlotOf(disk, partition.Layout{}, s)
	if err != nil {
		return ""
	}
	data := make([]byte, f.size)
	if _, err := slot.ReadAt(data, 0); err != nil {
		return ""
	}
	return f.releases[sha256.Sum256(data)]
}
