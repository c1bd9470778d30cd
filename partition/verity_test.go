package partition

import (
	"encoding/binary"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/testdata/real"
)

// verityReply is what the kernel returns behind the header.
func verityReply(status int32, kind, text string) []byte {
	data := make([]byte, dmTarget)
	binary.NativeEndian.PutUint32(data[16:], uint32(status))
	copy(data[24:], kind)
	return append(data, text+"\x00and more"...)
}

func TestVerityStatus(t *testing.T) {
	for _, c := range []struct {
		name    string
		reply   []byte
		damaged bool
		refused string // part of the error
	}{
		{"verified", verityReply(0, "verity", "V"), false, ""},
		{"corrupted", verityReply(0, "verity", "C"), true, ""},
		{"with what later kernels add", verityReply(0, "verity", "C 17 4"), true, ""},
		{"another target", verityReply(0, "linear", ""), false, `target "linear"`},
		{"target in trouble", verityReply(-5, "verity", "V"), false, "is -5"},
		{"another word", verityReply(0, "verity", "?"), false, `"?"`},
		{"nothing", verityReply(0, "verity", ""), false, `""`},
		{"cut short", make([]byte, dmTarget-1), false, "39 bytes"},
	} {
		got, err := parseVerityStatus(c.reply)
		if c.refused == "" && err != nil || c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)) || got != c.damaged {
			t.Errorf("%s: %v, %v; want %v, %q", c.name, got, err, c.damaged, c.refused)
		}
	}
}

func TestVerityDevicesAreFoundBelowTheRoot(t *testing.T) {
	for machine, want := range map[string][]string{"flatcar-verity-b": {"253:0"}, "verity-hash-apart": {"253:0"}, "root-b": nil, "plain-usr-a": nil} {
		sys := System{filepath.Join(real.Module(t), "testdata/partition/booted", machine)}
		number, err := sys.usrDevice()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := sys.verity(sys.path("sys/dev/block", number), 0); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v; want %v", machine, got, err, want)
		}
	}
}

// Where nothing is verified device mapper is not asked, and need not be there.
func TestNothingVerifiedIsNotDamaged(t *testing.T) {
	for _, machine := range []string{"root-b", "overlay-named"} {
		sys := System{filepath.Join(real.Module(t), "testdata/partition/booted", machine)}
		if damaged, err := sys.Damaged(); damaged || err != nil {
			t.Errorf("%s: %v, %v", machine, damaged, err)
		}
	}
	verified := System{filepath.Join(real.Module(t), "testdata/partition/booted/flatcar-verity-b")}
	if _, err := verified.Damaged(); err == nil || !strings.Contains(err.Error(), "dm-verity of device") {
		t.Errorf("no device mapper to ask: %v", err)
	}
}
