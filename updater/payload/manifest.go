package payload

import (
	"crypto/sha256"
	"fmt"
	"regexp"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/drydock-os/drydock/updater/payload/internal/wire"
)

// plan is what a manifest asks for, checked and the same for both majors.
type plan struct {
	minor         int
	version       string
	expires       time.Time
	blockSize     int64
	partitions    []partition
	dataSize      int64 // bytes of blobs: the signatures begin there
	signatureSize int64 // 0: not signed
}

// partition is one image of a plan.
type partition struct {
	name       string // "" is a procedure that we do not know: hashed and skipped
	size       int64
	hash       []byte
	sourceSize int64 // 0: no operation reads an old image
	sourceHash []byte
	operations []operation
	inPlace    bool // reads the image that it writes: a delta of major 1
	overlaps   bool // some block is written twice
}

var partitionName = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$`)

func parseManifest(m metadata) (*plan, error) {
	if err := countMessages(m); err != nil {
		return nil, err
	}
	if m.major == 1 {
		return parseManifest1(m.manifest())
	}
	return parseManifest2(m.manifest())
}

func parseManifest1(raw []byte) (*plan, error) {
	var w wire.Manifest1
	if err := proto.Unmarshal(raw, &w); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrManifest, err)
	}
	f := &frame{major: 1}
	p := &plan{version: w.GetDrydockVersion(), expires: expiry(w.DrydockExpires)}
	if err := p.setBlockSize(f, w.GetBlockSize()); err != nil {
		return nil, err
	}
	if err := p.add(f, Root, w.OldPartitionInfo, w.NewPartitionInfo, w.PartitionOperations); err != nil {
		return nil, err
	}
	for _, proc := range w.Procedures {
		name := ""
		if proc.Type == nil {
			return nil, fmt.Errorf("%w: procedure without a type", ErrManifest)
		}
		switch proc.GetType() {
		case 0:
			name = Kernel
		case 1:
			name = PCRPolicy
		}
		if err := p.add(f, name, proc.OldInfo, proc.NewInfo, proc.Operations); err != nil {
			return nil, err
		}
	}
	return p, p.setSignatures(f, w.SignaturesOffset, w.SignaturesSize)
}

func parseManifest2(raw []byte) (*plan, error) {
	var w wire.Manifest2
	if err := proto.Unmarshal(raw, &w); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrManifest, err)
	}
	const maxMinor = 8 // ChromiumOS: REPLACE_ZSTD
	if w.GetMinorVersion() > maxMinor {
		return nil, fmt.Errorf("%w: major 2 minor %d", ErrVersion, w.GetMinorVersion())
	}
	if len(w.InstallOperations)+len(w.KernelInstallOperations) > 0 || len(w.Partitions) == 0 {
		return nil, fmt.Errorf("%w: major 2 with %d partitions and %d operations of major 1", ErrManifest,
			len(w.Partitions), len(w.InstallOperations)+len(w.KernelInstallOperations))
	}
	f := &frame{major: 2}
	p := &plan{minor: int(w.GetMinorVersion()), version: w.GetDrydockVersion(), expires: expiry(w.DrydockExpires)}
	if err := p.setBlockSize(f, w.GetBlockSize()); err != nil {
		return nil, err
	}
	for _, part := range w.Partitions {
		if !partitionName.MatchString(part.GetPartitionName()) {
			return nil, fmt.Errorf("%w: partition name %q", ErrManifest, part.GetPartitionName())
		}
		if err := p.add(f, part.GetPartitionName(), part.OldPartitionInfo, part.NewPartitionInfo, part.Operations); err != nil {
			return nil, err
		}
	}
	return p, p.setSignatures(f, w.SignaturesOffset, w.SignaturesSize)
}

func expiry(seconds *int64) time.Time {
	if seconds == nil {
		return time.Time{}
	}
	return time.Unix(*seconds, 0).UTC()
}

func (p *plan) setBlockSize(f *frame, size uint32) error {
	if size < minBlockSize || size > maxBlockSize || size&(size-1) != 0 {
		return fmt.Errorf("%w: block size %d", ErrManifest, size)
	}
	p.blockSize, f.blockSize = int64(size), int64(size)
	return nil
}

// setSignatures ends the plan: where the blobs end, the signatures begin.
func (p *plan) setSignatures(f *frame, offset, size *uint64) error {
	p.dataSize = f.next
	if offset == nil && size == nil {
		return nil
	}
	if offset == nil || size == nil || *size == 0 || *offset != uint64(f.next) {
		return fmt.Errorf("%w: signatures do not begin where the data ends, at %d", ErrManifest, f.next)
	}
	if *size > maxSignatures {
		return fmt.Errorf("%w: signatures of %d bytes, at most %d", ErrTooLarge, *size, maxSignatures)
	}
	p.signatureSize = int64(*size)
	return nil
}

// add checks one image and its operations.
func (p *plan) add(f *frame, name string, old, new *wire.ImageInfo, ops []*wire.Operation) error {
	part := partition{name: name}
	if name != "" && slices.ContainsFunc(p.partitions, func(o partition) bool { return o.name == name }) {
		return fmt.Errorf("%w: partition %s twice", ErrManifest, name)
	}
	var err error
	if new == nil {
		return fmt.Errorf("%w: %s without the new image's size and hash", ErrManifest, name)
	}
	if part.size, part.hash, err = imageInfo(new); err != nil {
		return fmt.Errorf("%w: new %s: %w", ErrManifest, name, err)
	}
	if part.sourceSize, part.sourceHash, err = imageInfo(old); err != nil {
		return fmt.Errorf("%w: old %s: %w", ErrManifest, name, err)
	}
	f.newBlocks, f.oldBlocks = p.blocks(part.size), p.blocks(part.sourceSize)
	reads := false
	for i, w := range ops {
		op, err := f.operation(w)
		if err != nil {
			return fmt.Errorf("operation %d of %s, %s: %w", i, name, op.kind, err)
		}
		reads = reads || operationRules[op.kind].source
		part.operations = append(part.operations, op)
	}
	if reads && part.sourceHash == nil {
		return fmt.Errorf("%w: %s reads an old image without naming its hash", ErrManifest, name)
	}
	part.inPlace = f.major == 1 && part.sourceHash != nil
	if part.overlaps = overlaps(part.operations); part.overlaps && f.major == 2 {
		return fmt.Errorf("%w: some block of %s is written twice", ErrOperation, name)
	}
	p.partitions = append(p.partitions, part)
	return nil
}

func (p *plan) blocks(size int64) int64 { return (size + p.blockSize - 1) / p.blockSize }

func imageInfo(w *wire.ImageInfo) (size int64, hash []byte, err error) {
	if w == nil {
		return 0, nil, nil
	}
	if w.GetSize() == 0 || w.GetSize() > maxImage {
		return 0, nil, fmt.Errorf("%w: image of %d bytes, at most %d", ErrTooLarge, w.GetSize(), int64(maxImage))
	}
	if len(w.GetHash()) != sha256.Size {
		return 0, nil, fmt.Errorf("hash of %d bytes", len(w.GetHash()))
	}
	return int64(w.GetSize()), w.GetHash(), nil
}

func overlaps(ops []operation) bool {
	var all []Extent
	for _, op := range ops {
		for _, e := range op.dst {
			if e.Start != holeStart {
				all = append(all, e)
			}
		}
	}
	slices.SortFunc(all, func(a, b Extent) int { return int(min(max(a.Start-b.Start, -1), 1)) })
	for i := 1; i < len(all); i++ {
		if all[i].Start < all[i-1].Start+all[i-1].Blocks {
			return true
		}
	}
	return false
}

// nested names the fields of a message that hold messages.
type nested map[protowire.Number]nested

var (
	operationFields = nested{4: {}, 6: {}}
	manifestFields  = [3]nested{
		1: {1: operationFields, 2: operationFields, 8: {}, 9: {}, 10: {2: operationFields}},
		2: {1: operationFields, 2: operationFields, 13: {8: operationFields}},
	}
)

// countMessages refuses a manifest that would take far more memory parsed
// than it has bytes, before it is parsed.
func countMessages(m metadata) error {
	left := maxMessages
	if !manifestFields[m.major].count(m.manifest(), &left) {
		return fmt.Errorf("%w: it is not a message", ErrManifest)
	}
	if left < 0 {
		return fmt.Errorf("%w: more than %d messages in the manifest", ErrTooLarge, maxMessages)
	}
	return nil
}

func (fields nested) count(raw []byte, left *int) bool {
	for len(raw) > 0 && *left >= 0 {
		number, kind, n := protowire.ConsumeTag(raw)
		if n < 0 {
			return false
		}
		raw = raw[n:]
		if n = protowire.ConsumeFieldValue(number, kind, raw); n < 0 {
			return false
		}
		if inner, ok := fields[number]; ok && kind == protowire.BytesType {
			*left--
			body, _ := protowire.ConsumeBytes(raw)
			if !inner.count(body, left) {
				return false
			}
		}
		raw = raw[n:]
	}
	return true
}
