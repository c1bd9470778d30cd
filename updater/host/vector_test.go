package host

import (
	"compress/bzip2"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/drydock-os/drydock/testdata/real"
)

// The hooks inside the upstream payloads, run from a loop device: what upstream
// answers with error 5, and with error 19 and a false success, are failures.
func TestUpstreamHooks(t *testing.T) {
	for _, tc := range []struct {
		payload string
		code    int
	}{{"ok", 0}, {"fail", 1}, {"rc3", 3}} {
		t.Run(tc.payload, func(t *testing.T) {
			path := real.Shared(t, "vectors", "traces", "payloads", tc.payload+".crau")
			dev := real.Loop(t, unpackPayload(t, path))
			if release, err := OSRelease(dev); err != nil || release.VersionID == "" {
				t.Errorf("OSRelease = %+v, %v", release, err)
			}
			var out heard
			err := Hook{Output: out.add}.Run(t.Context(), HookArgs{Device: dev, Kernel: "/boot/flatcar/vmlinuz-b"})
			var exit *ExitError
			if errors.As(err, &exit) != (tc.code != 0) || exit != nil && exit.Code != tc.code || exit == nil && err != nil {
				t.Errorf("%v, want code %d", err, tc.code)
			}
			if got := strings.Join(out.lines, "\n"); tc.code == 0 && !strings.Contains(got, dev+" KERNEL=/boot/flatcar/vmlinuz-b") {
				t.Errorf("the hook said %q", got)
			}
		})
	}
}

// unpackPayload writes the image in a full payload of major version 1, which
// is REPLACE (0) and REPLACE_BZ (1) alone, without checking anything.
func unpackPayload(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	size := binary.BigEndian.Uint64(data[12:])
	manifest, blobs := data[20:20+size], data[20+size:]
	out, err := os.Create(filepath.Join(t.TempDir(), "img"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	fields(t, manifest, func(n protowire.Number, _ uint64, op []byte) {
		if n != 1 { // partition_operations
			return
		}
		var kind, offset, length, start uint64
		fields(t, op, func(n protowire.Number, v uint64, b []byte) {
			switch n {
			case 1:
				kind = v
			case 2:
				offset = v
			case 3:
				length = v
			case 6: // dst_extents
				fields(t, b, func(n protowire.Number, v uint64, _ []byte) {
					if n == 1 {
						start = v
					}
				})
			}
		})
		var r io.Reader = strings.NewReader(string(blobs[offset:][:length]))
		if kind == 1 {
			r = bzip2.NewReader(r)
		}
		if _, err := io.Copy(io.NewOffsetWriter(out, int64(start)*4096), r); err != nil {
			t.Fatal(err)
		}
	})
	return out.Name()
}

// fields calls f with each field of a protobuf message.
func fields(t *testing.T, msg []byte, f func(n protowire.Number, v uint64, b []byte)) {
	t.Helper()
	for len(msg) > 0 {
		n, kind, size := protowire.ConsumeTag(msg)
		msg = msg[max(size, 0):]
		var v uint64
		var b []byte
		switch kind {
		case protowire.VarintType:
			v, size = protowire.ConsumeVarint(msg)
		case protowire.BytesType:
			b, size = protowire.ConsumeBytes(msg)
		default:
			size = -1
		}
		if size < 0 {
			t.Fatal("the vector is no payload")
		}
		f(n, v, b)
		msg = msg[size:]
	}
}
