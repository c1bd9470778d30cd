package payload

import (
	"bytes"
	"io"
	"testing"
)

// FuzzPayload reads anything as a payload and applies it without looking at
// signatures, so that all that stands behind them is reached.
func FuzzPayload(f *testing.F) {
	image := bytes.Repeat([]byte("ship "), 2*BlockSize/5+1)[:2*BlockSize]
	f.Add([]byte(single(f, image, Replace, image).bytes(f)))
	f.Add([]byte(single(f, image, ReplaceZstd, packZstd(f, image)).bytes(f)))
	f.Add([]byte(single1(f, image, ReplaceBZ, packBzip2(f, image)).bytes(f)))
	f.Add([]byte(single(f, make([]byte, BlockSize), Zero, nil).bytes(f)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := read(t.Context(), bytesSource(raw), nil)
		if err != nil {
			return
		}
		targets := map[string]Target{}
		for _, part := range p.Info().Partitions {
			device := &memory{b: make([]byte, 16*BlockSize)}
			targets[part.Name] = Target{Device: device, Source: bytes.NewReader(image), SourceSize: int64(len(image))}
		}
		if _, err := p.Apply(t.Context(), targets, Options{Workers: 2}); err == nil {
			t.Error("a payload was applied that no key signed")
		}
	})
}

// FuzzManifest checks what holds of every plan that passes.
func FuzzManifest(f *testing.F) {
	image := make([]byte, 2*BlockSize)
	for _, src := range []bytesSource{single(f, image, Replace, image).bytes(f), single1(f, image, Replace, image).bytes(f)} {
		m, err := readMetadata(bytes.NewReader(src))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(m.major == 1, m.manifest())
	}
	f.Fuzz(func(t *testing.T, first bool, raw []byte) {
		m := metadata{header: header{major: 2, manifestSize: int64(len(raw))}}
		if first {
			m.major = 1
		}
		m.raw = append(make([]byte, m.size()), raw...)
		p, err := parseManifest(m)
		if err != nil {
			return
		}
		var next int64
		for _, part := range p.partitions {
			limit := max(p.blocks(part.size), p.blocks(part.sourceSize))
			for _, op := range part.operations {
				if op.length < 0 || op.offset != next {
					t.Fatalf("blob of %d bytes at %d, want %d", op.length, op.offset, next)
				}
				next += op.length
				var room int64
				for _, e := range op.dst {
					if e.Blocks <= 0 || e.Start != holeStart && (e.Start < 0 || e.Start+e.Blocks > limit) {
						t.Fatalf("extent %+v of an image of %d blocks", e, limit)
					}
					room += e.Blocks * p.blockSize
				}
				if room != op.room || op.dstBytes > room || op.dstBytes < 0 || op.srcBytes < 0 {
					t.Fatalf("operation %+v writes %d bytes", op, room)
				}
			}
		}
		if next != p.dataSize {
			t.Fatalf("%d bytes of data, want %d", p.dataSize, next)
		}
	})
}

func FuzzPatch(f *testing.F) {
	old := bytes.Repeat([]byte("plank"), 100)
	f.Add(makePatch(f, 100, [][3]int64{{60, 40, -10}}, make([]byte, 60), make([]byte, 40)))
	f.Add(makePatch(f, 100, [][3]int64{{0, 0, -10}, {50, 0, 400}, {50, 0, 0}}, make([]byte, 100), nil))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if got, err := patch(old, raw, 100); err == nil && len(got) != 100 {
			t.Errorf("%d bytes", len(got))
		}
	})
}

func FuzzXZ(f *testing.F) {
	f.Add(squeezeXZ(f, bytes.Repeat([]byte("rope"), 1000)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := newXZReader(raw, 1<<16)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, io.LimitReader(r, 1<<16)); err != nil {
			return
		}
	})
}
