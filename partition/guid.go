package partition

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
)

// A GUID is a globally unique identifier in the byte order of a GPT: the first
// three groups are little-endian (UEFI 2.10, appendix A).
type GUID [16]byte

// guidText maps the bytes of a GUID to their places in its written form.
var guidText = [16]int{3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15}

// ParseGUID reads the written form, 8-4-4-4-12 hexadecimal digits.
func ParseGUID(text string) (GUID, error) {
	var g GUID
	digits, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(text) != 36 || len(digits) != 16 || g.from(digits).String() != strings.ToLower(text) {
		return GUID{}, fmt.Errorf("parse GUID %q: want 8-4-4-4-12 hexadecimal digits", text)
	}
	return g.from(digits), nil
}

func (g GUID) from(digits []byte) GUID {
	for i, j := range guidText {
		g[i] = digits[j]
	}
	return g
}

// String is the written form in lower case, as /dev/disk/by-partuuid has it.
func (g GUID) String() string {
	var digits [16]byte
	for i, j := range guidText {
		digits[j] = g[i]
	}
	d := hex.EncodeToString(digits[:])
	return strings.Join([]string{d[:8], d[8:12], d[12:16], d[16:20], d[20:]}, "-")
}

// randomGUID makes a GUID of version 4.
func randomGUID() GUID {
	var g GUID
	rand.Read(g[:])
	g[7] = g[7]&0x0f | 0x40
	g[8] = g[8]&0x3f | 0x80
	return g
}

// mustGUID reads a GUID that stands in this package's source.
func mustGUID(text string) GUID {
	g, err := ParseGUID(text)
	if err != nil {
		panic(err)
	}
	return g
}

// Types and identities of the partitions of a Flatcar disk
// (flatcar/scripts build_library/disk_layout.json).
var (
	TypeESP    = mustGUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
	TypeUSR    = mustGUID("5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6")
	TypeRoot   = mustGUID("3884dd41-8582-4404-b9a8-e9b84f2df50e")
	UniqueUSRA = mustGUID("7130c94a-213a-4e5a-8e26-6cce9662f132")
	UniqueUSRB = mustGUID("e03dd35c-7c2d-4a47-b3fe-27f15780a57c")
)
