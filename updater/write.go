package updater

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/drydock-os/drydock/omaha"
	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/updater/fetch"
	"github.com/drydock-os/drydock/updater/payload"
	"github.com/drydock-os/drydock/updater/policy"
)

// writing is one download into the passive slot.
type writing struct {
	u       *Updater
	p       policy.Policy
	offer   *omaha.Offer
	slot    partition.Slot
	booted  partition.Slot
	source  *fetch.Source
	resume  []byte
	open    []io.Closer
	got     int64  // payload bytes applied so far
	applied bool   // the payload is in the slot, verified
	release string // that runs
	older   bool
}

// write brings the offered release into the passive slot: nothing is touched
// before keys and manifest say that it may be; then the slot is made
// unbootable, durably, before its first byte; and only what was read back and
// verified is remembered as written.
func (u *Updater) write(ctx context.Context, o Observed) error {
	ctx, cancel := u.downloadWindow(ctx, o)
	defer cancel()
	w := &writing{u: u, p: u.Policy(), offer: o.Offer, booted: o.Booted, slot: o.Booted.Other(), release: o.Release, older: o.Older}
	defer w.close()
	u.run.interrupted = nil
	err := w.run(ctx, o)
	switch {
	case err == nil:
		return w.done(ctx)
	case errors.Is(context.Cause(ctx), errWindowShut):
		u.operation(Idle)
		u.event(EventWaiting, w.offer.Version, nil, "the window for downloads has shut; the download goes on in the next one")
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return w.failed(ctx, err)
}

// done remembers a release that is written, and tells it.
func (w *writing) done(ctx context.Context) error {
	u, m := w.u, w.u.recall()
	written := *m.Written
	written.Pending, written.At = false, u.Now()
	m.Written = &written
	m.Poll.URLs = m.Poll.URLs.Succeeded(terms(w.offer), u.Now(), u.fuzz())
	m = m.log(u.Now(), EventWritten, written.Version, "written into slot %s and verified", written.Slot)
	if err := u.remember(m); err != nil {
		return err
	}
	os.Remove(u.checkpointPath()) // a stale one is only ever refused
	external := w.p.Reboot.Strategy == policy.External
	if !external { // there, upstream's clients hear it after the hook
		u.report(ctx, omaha.EventUpdateComplete, omaha.ResultSuccess, omaha.CodeOK, w.resume != nil)
	}
	u.event(EventWritten, written.Version, nil, "release %s is written into slot %s and verified", written.Version, written.Slot)
	if !external {
		u.settleUpdate(nil)
	}
	return nil
}

// errWindowShut ends a download at the end of its window.
var errWindowShut = errors.New("the window for downloads has shut")

// downloadWindow bounds a download by its window, unless somebody asked for it.
func (u *Updater) downloadWindow(ctx context.Context, o Observed) (context.Context, context.CancelFunc) {
	s, err := u.Policy().Downloads()
	if closes := s.Until(o.Now); err == nil && !o.Asked && !closes.IsZero() {
		return context.WithTimeoutCause(ctx, closes.Sub(o.Now), errWindowShut)
	}
	return context.WithCancel(ctx)
}

// run is the way from the first byte to a verified slot with all that belongs
// to it.
func (w *writing) run(ctx context.Context, o Observed) error {
	u := w.u
	keys, err := u.Keys(w.p.Trust)
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return payload.ErrNoKey
	}
	u.report(ctx, omaha.EventUpdateDownloadStarted, omaha.ResultSuccess, omaha.CodeOK, false)
	if m := u.recall(); m.Written == nil || !m.Written.Pending || !m.holds(w.offer) || u.reread(m.Written) != nil {
		if err := w.download(ctx, o, keys); err != nil {
			return err
		}
		u.report(ctx, omaha.EventUpdateDownloadFinished, omaha.ResultSuccess, omaha.CodeOK, w.resume != nil)
	}
	w.applied = true
	u.operation(Finalizing)
	return w.accept(ctx)
}

// download brings the payload into the slot and verifies it. It is remembered
// as pending then: should what belongs to it fail, nothing is downloaded twice.
func (w *writing) download(ctx context.Context, o Observed, keys payload.Keys) error {
	u := w.u
	if err := w.prepareSource(ctx); err != nil {
		return err
	}
	pay, err := payload.Open(ctx, w.source, keys)
	if !errors.Is(err, payload.ErrDownload) {
		u.operation(Downloading) // upstream's clients hear it with the first bytes
	}
	if err != nil {
		return err
	}
	defer pay.Close()
	info := pay.Info()
	if info.Version != "" && info.Version != w.offer.Version {
		return fmt.Errorf("%w: the server offers %s and the payload is signed for %s", errWrongRelease, w.offer.Version, info.Version)
	}
	w.resume = w.checkpoint()
	if err := w.clear(o); err != nil {
		return err
	}
	result, err := w.apply(ctx, pay)
	if errors.Is(err, payload.ErrResume) { // start again without it
		os.Remove(u.checkpointPath())
		w.resume = nil
		w.close()
		if pay, err = payload.Open(ctx, w.source, keys); err == nil {
			defer pay.Close()
			result, err = w.apply(ctx, pay)
		}
	}
	if err != nil {
		return err
	}
	m := u.recall()
	m.Written = &Written{Slot: w.slot, Version: w.offer.Version, SHA256: w.offer.SHA256, Size: w.offer.Size,
		Images: map[string]Image{}, Pending: true, Downgrade: w.older, At: u.Now()}
	for _, part := range info.Partitions {
		m.Written.Images[part.Name] = Image{Size: part.Size, SHA256: result.Partitions[part.Name]}
	}
	return u.remember(m)
}

// clear makes the passive slot unbootable and forgets what it held, durably,
// in the order in which a power cut does no harm.
func (w *writing) clear(o Observed) error {
	m := w.u.recall()
	m.Written, m.Former, m.Left = nil, nil, nil
	if err := w.u.remember(m); err != nil {
		return err
	}
	w.prunePackages()
	if err := w.u.Control.SetTable(o.Flags.Discard(w.slot)); err != nil {
		return fmt.Errorf("%w: make slot %s unbootable before writing it: %w", payload.ErrWrite, w.slot, err)
	}
	got, err := w.u.Control.Table()
	if err != nil || got[w.slot].Bootable() {
		return fmt.Errorf("%w: slot %s is still bootable after its flags were cleared: %v, %w", payload.ErrWrite, w.slot, got, err)
	}
	return nil
}

func (w *writing) apply(ctx context.Context, pay *payload.Payload) (payload.Result, error) {
	targets, err := w.targets(pay.Info())
	if err != nil {
		return payload.Result{}, err
	}
	report := &progress{u: w.u, w: w}
	return pay.Apply(ctx, targets, payload.Options{
		Size: w.offer.Size, SHA256: w.offer.SHA256, Now: w.u.Now(), Resume: w.resume,
		Checkpoint: w.keepCheckpoint, CheckpointBytes: w.u.CheckpointBytes, Progress: report.report,
	})
}

// targets opens what each of the payload's partitions is written to.
func (w *writing) targets(info payload.Info) (map[string]payload.Target, error) {
	targets := map[string]payload.Target{}
	for _, part := range info.Partitions {
		t, err := w.target(part)
		if err != nil {
			return nil, fmt.Errorf("open target %s: %w", part.Name, err)
		}
		targets[part.Name] = t
	}
	return targets, nil
}

func (w *writing) target(part payload.PartitionInfo) (payload.Target, error) {
	switch part.Name {
	case payload.Kernel:
		return w.kernelTarget(part)
	case payload.PCRPolicy:
		f, err := createFile(w.u.pcrPath(w.slot), w.resume != nil)
		if err != nil {
			return payload.Target{}, err
		}
		w.open = append(w.open, f)
		return payload.Target{Device: f}, nil
	case payload.Root, "usr":
		d, err := w.u.Disk.Slot(w.slot)
		if err != nil {
			return payload.Target{}, err
		}
		w.open = append(w.open, d)
		t := payload.Target{Device: d}
		if part.SourceHash != nil {
			old, err := w.u.Disk.Slot(w.booted)
			if err != nil {
				return t, err
			}
			w.open = append(w.open, old)
			t.Source, t.SourceSize = old, old.Size()
		}
		return t, nil
	}
	return payload.Target{}, fmt.Errorf("%w: this machine has no partition %q", payload.ErrNoTarget, part.Name)
}

func (w *writing) kernelTarget(part payload.PartitionInfo) (payload.Target, error) {
	if !w.p.Slots.Kernel {
		return payload.Target{}, fmt.Errorf("%w: slots.kernel is false and the release brings a kernel", payload.ErrNoTarget)
	}
	var k partition.File
	err := error(os.ErrNotExist)
	if w.resume != nil {
		k, err = w.u.Control.OpenKernel(w.slot)
	}
	if err != nil {
		w.resume = nil // its beginning is gone
		if k, err = w.u.Control.CreateKernel(w.slot); err != nil {
			return payload.Target{}, fmt.Errorf("%w: %w", payload.ErrWrite, err)
		}
	}
	w.open = append(w.open, k)
	t := payload.Target{Device: k}
	if part.SourceHash == nil {
		return t, nil
	}
	old, err := w.u.Control.OpenKernel(w.booted)
	if err != nil {
		return t, fmt.Errorf("%w: the running kernel: %w", payload.ErrSourceMismatch, err)
	}
	w.open = append(w.open, old)
	t.Source, t.SourceSize = old, part.SourceSize
	return t, nil
}

// errWrongRelease says that a payload is not the release that was offered.
var errWrongRelease = errors.New("not the release that was offered")

// errNoRelease says that the written image's own version could not be read.
var errNoRelease = errors.New("the written image does not say which release it is")

// accept judges what was written by its own word, since nothing signs what the
// server claims, and fetches what belongs to the release.
func (w *writing) accept(ctx context.Context) error {
	u := w.u
	w.close() // the host may have to mount it
	version, err := u.Host.ImageRelease(w.slot)
	if err != nil { // unknown is no verdict: it is refused and not rejected
		return fmt.Errorf("%w: %w", errNoRelease, err)
	}
	if version != w.offer.Version {
		return fmt.Errorf("%w: the server offers %s and the written image says that it is %s", errWrongRelease, w.offer.Version, version)
	}
	m := u.recall()
	if err := w.postPCR(ctx, m.Written); err != nil {
		return err
	}
	packages, err := w.packages(ctx)
	if err != nil {
		return err
	}
	written := *m.Written
	written.Packages = packages
	m.Written = &written
	return u.remember(m)
}

// failed reports what went wrong, in the codes that upstream's servers know,
// and plans the next attempt.
func (w *writing) failed(ctx context.Context, err error) error {
	u := w.u
	code := codeOf(err)
	if errors.Is(err, syscall.ENOSPC) {
		err = fmt.Errorf("a disk is full (the boot partition, the state directory or that of the extra packages); the running release is not touched, make room and try again: %w", err)
	}
	if errors.Is(err, payload.ErrSignature) || errors.Is(err, payload.ErrUnsigned) {
		err = fmt.Errorf("it is not signed with a key that this machine trusts (trust.keys), so nothing of it is booted; put the release team's key there, or have the release taken off the server: %w", err)
	}
	m := u.recall()
	ours := w.applied || errors.Is(err, payload.ErrNoKey) || errors.Is(err, payload.ErrNoTarget) || errors.Is(err, syscall.ENOSPC)
	if !ours { // else it says nothing about the download
		if w.got > 0 { // upstream: any byte takes a URL's failures back
			m.Poll.URLs = m.Poll.URLs.Received()
		}
		m.Poll.URLs = m.Poll.URLs.Failed(terms(w.offer), fetch.FailureOf(int(code)), u.Now(), u.fuzz())
	}
	if errors.Is(err, errWrongRelease) {
		m.Written = nil
		m = m.reject(w.offer.Version, w.offer.SHA256, err.Error(), u.Now())
	}
	if !ours && !errors.Is(err, payload.ErrDownload) {
		os.Remove(u.checkpointPath())
	}
	kept := u.remember(m)
	u.operation(ReportingError)
	u.report(ctx, omaha.EventUpdateComplete, omaha.ResultError, code, w.resume != nil)
	u.operation(Idle)
	u.settleUpdate(err)
	return errors.Join(fmt.Errorf("write release %s into slot %s: %w", w.offer.Version, w.slot, err), kept)
}

// codes maps what can go wrong to Omaha's error codes, first match first.
var codes = []struct {
	err  error
	code omaha.Code
}{
	{errWrongRelease, omaha.CodePayloadVerification},
	{errNoRelease, omaha.CodeNewRootfsVerification},
	{errPCRServer, omaha.CodePCRPolicyHTTP},
	{fetch.ErrSize, omaha.CodePayloadSizeMismatch},
	{payload.ErrNoKey, omaha.CodePubKeyVerification},
	{payload.ErrUnsigned, omaha.CodeSignedPayloadExpected},
	{payload.ErrSignature, omaha.CodePubKeyVerification},
	{payload.ErrExpired, omaha.CodePubKeyVerification},
	{payload.ErrBadMagic, omaha.CodeBadMagic},
	{payload.ErrOperationHashMissing, omaha.CodeOpHashMissing},
	{payload.ErrOperationHash, omaha.CodeOpHashMismatch},
	{payload.ErrPayloadHash, omaha.CodePayloadHashMismatch},
	{payload.ErrPayloadSize, omaha.CodePayloadSizeMismatch},
	{payload.ErrSourceMismatch, omaha.CodeStateInitialization},
	{payload.ErrKernelHash, omaha.CodeNewKernelVerification},
	{payload.ErrImageHash, omaha.CodeNewRootfsVerification},
	{payload.ErrManifest, omaha.CodeManifestParse},
	{payload.ErrVersion, omaha.CodeManifestParse},
	{payload.ErrTooLarge, omaha.CodeManifestParse},
	{payload.ErrWrite, omaha.CodeDownloadWrite},
	{payload.ErrTargetTooSmall, omaha.CodeOpExecution},
	{payload.ErrNoTarget, omaha.CodeOpExecution},
	{payload.ErrOperation, omaha.CodeOpExecution},
	{payload.ErrDownload, omaha.CodeDownloadTransfer},
}

func codeOf(err error) omaha.Code {
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return omaha.CodeError
}

func (w *writing) close() {
	for _, c := range w.open {
		c.Close()
	}
	w.open = nil
}

func (u *Updater) checkpointPath() string { return filepath.Join(u.Scratch, "download.json") }
