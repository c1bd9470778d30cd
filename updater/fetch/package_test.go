package fetch

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
)

func TestPackage(t *testing.T) {
	data := payload(size)
	sum256, sum1 := sha256.Sum256(data), sha1.Sum(data)
	good := Sum{Size: size, SHA256: sum256[:], SHA1: sum1[:]}
	flipped := bytes.Clone(data)
	flipped[4711] ^= 1
	for name, tt := range map[string]struct {
		want   Sum
		faults []fault
		sized  bool // the Source knows the size
		err    error
	}{
		"right":               {good, nil, true, nil},
		"size from the sum":   {good, nil, false, nil},
		"SHA-256 alone":       {Sum{Size: size, SHA256: sum256[:]}, nil, true, nil},
		"SHA-1 alone":         {Sum{Size: size, SHA1: sum1[:]}, nil, true, nil},
		"cut":                 {good, []fault{cut(100)}, true, nil},
		"one bit":             {good, []fault{chunked(flipped)}, true, ErrHash},
		"one bit, SHA-1":      {Sum{Size: size, SHA1: sum1[:]}, []fault{chunked(flipped)}, true, ErrHash},
		"only one hash right": {Sum{Size: size, SHA256: sum256[:], SHA1: make([]byte, 20)}, nil, true, ErrHash},
		"too long":            {good, []fault{chunked(append(bytes.Clone(data), 1))}, false, ErrSize},
		"too short":           {good, []fault{chunked(data[1:])}, false, ErrSize},
		"no hash":             {Sum{Size: size}, nil, true, ErrHash},
		"empty hash":          {Sum{Size: size, SHA256: []byte{}}, nil, true, ErrHash},
		"no size":             {Sum{SHA256: sum256[:]}, nil, true, ErrHash},
		"not there":           {good, []fault{status(http.StatusNotFound)}, true, &StatusError{URL: "http://a/f", HTTP: 404}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := source(&origin{data: data, faults: tt.faults})
				if !tt.sized {
					s.Size = 0
				}
				var out bytes.Buffer
				err := Package(t.Context(), s, &out, tt.want)
				checkError(t, err, tt.err)
				if tt.err == nil && !bytes.Equal(out.Bytes(), data) {
					t.Error("wrong bytes")
				}
				if out.Len() > size+1 {
					t.Errorf("%d bytes written", out.Len())
				}
			})
		})
	}
	full := errors.New("no space left on device")
	if err := Package(t.Context(), source(&origin{data: data}), failing2{full}, good); !errors.Is(err, full) {
		t.Error(err)
	}
}

type failing2 struct{ err error }

func (f failing2) Write([]byte) (int, error) { return 0, f.err }
