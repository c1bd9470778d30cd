package fetch

import (
	"bytes"
	"fmt"
	"testing"
	"testing/synctest"
)

// FuzzReader: whatever a server does, the reader returns the right bytes or an
// error. Each byte of script is a fault of the next request.
func FuzzReader(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, uint16(0))
	f.Add([]byte{0x31, 0x52, 0x34, 0x72, 0x98}, uint16(400))
	f.Fuzz(func(t *testing.T, script []byte, offset uint16) {
		data := payload(5000)
		kinds := []func(n int) fault{
			func(n int) fault { return cut(int64(n)) },
			func(n int) fault { return short(int64(n)) },
			func(n int) fault { return hang(int64(n)) },
			func(n int) fault { return some(n) },
			func(n int) fault { return status(500 + n%5) },
			func(n int) fault { return chunked(data[:n]) },
			func(n int) fault { return header("Content-Range", fmt.Sprintf("bytes %d-%d/5000", n, n+10)) },
			func(int) fault { return whole },
			func(int) fault { return mute },
			func(int) fault { return refused },
			func(int) fault { return well },
			func(n int) fault { return overwriteHeader(well, "ETag", fmt.Sprint(n%2)) },
		}
		synctest.Test(t, func(t *testing.T) {
			o := &origin{data: data}
			for i, b := range script[:min(len(script), 50)] {
				o.faults = append(o.faults, kinds[int(b)%len(kinds)]((int(b)*37+i*911)%5000))
			}
			s := source(o, "http://a/f", "http://b/f")
			got, err := read(s, int64(offset))
			if int(offset) > len(data) {
				checkError(t, err, ErrSize)
				return
			}
			want := data[offset:]
			if len(got) > len(want) || !bytes.Equal(got, want[:len(got)]) || err == nil && len(got) != len(want) {
				t.Errorf("%d bytes of %d, %v, asked %q", len(got), len(want), err, o.asked)
			}
		})
	})
}
