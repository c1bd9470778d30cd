package policy

import (
	"errors"
	"strings"
	"testing"
)

func TestAccept(t *testing.T) {
	plain, back := Update{}, Update{AllowDowngrade: true}
	pin := func(p string) Update { return Update{Pin: p} }
	for _, tt := range []struct {
		name             string
		update           Update
		running, offered string
		want             Reason // "" for yes
	}{
		{"newer", plain, "4459.2.0", "4459.2.1", ""},
		{"older", plain, "4459.2.1", "4459.2.0", Older},
		{"the same", plain, "4459.2.1", "4459.2.1", Same},
		{"numbers, not text", plain, "4459.9.0", "4459.10.0", ""},
		{"pre-release before its release", plain, "1.0.0-beta.2", "1.0.0", ""},
		{"pre-release after its release", plain, "1.0.0", "1.0.0-beta.2", Older},
		{"pre-releases in number", plain, "1.0.0-beta.2", "1.0.0-beta.10", ""},
		{"build metadata alone", plain, "1.1.0+2026-01-01-0000", "1.1.0+2026-01-02-0000", Same},
		{"newer with build metadata", plain, "1.0.0", "1.1.0+2026-01-01-0000", ""},
		{"two numbers", plain, "12.1", "12.2", ""},
		{"two numbers are three", plain, "12.1", "12.1.0", Same},
		{"one number", plain, "41", "42", ""},
		{"two numbers with a pre-release", plain, "12.1-rc1", "12.1", ""},
		{"dates", plain, "2026.01.05", "2026.02.01", ""},
		{"four numbers", plain, "1.2.3", "1.2.3.4", Unreadable},
		{"a letter", plain, "1.2.3", "v1.2.4", Unreadable},
		{"a sign", plain, "1.2.3", "+1.2.4", Unreadable},
		{"nothing offered", plain, "1.2.3", "", Unreadable},
		{"a gap", plain, "1.2.3", "1..4", Unreadable},
		{"spaces", plain, "1.2.3", " 1.2.4", Unreadable},
		{"past 63 bits", plain, "1.2.3", "9223372036854775808.0.0", Unreadable},
		{"bad pre-release", plain, "1.2.3", "1.2.4-ä", Unreadable},
		{"too long", plain, "1.2.3", "1.2.4-" + strings.Repeat("a.", 4000) + "a", Unreadable},
		{"running cannot be read", plain, "trunk", "1.2.3", Unreadable},
		{"running is not known", plain, "", "1.2.3", Unreadable},

		{"downgrade allowed", back, "4459.2.1", "4459.2.0", ""},
		{"downgrade to the same", back, "4459.2.1", "4459.2.1", Same},
		{"downgrade to another build", back, "1.1.0+b", "1.1.0+a", ""},
		{"downgrade from what cannot be read", back, "trunk", "1.2.3", ""},
		{"downgrade to what cannot be read", back, "1.2.3", "trunk", Unreadable},

		{"pinned", pin("4459.2.1"), "4459.2.0", "4459.2.1", ""},
		{"pinned to another", pin("4459.2.1"), "4459.2.0", "4459.2.2", Pinned},
		{"pinned, any build", pin("1.1.0"), "1.0.0", "1.1.0+x", ""},
		{"pinned to a build", pin("1.1.0+x"), "1.0.0", "1.1.0+x", ""},
		{"pinned to another build", pin("1.1.0+x"), "1.0.0", "1.1.0+y", Pinned},
		{"pinned to two numbers", pin("12.1"), "12.0", "12.1.0", ""},
		{"pinned to a line", pin("4459.*"), "4459.2.1", "4459.3.0", ""},
		{"outside the line", pin("4459.*"), "4459.2.1", "4460.0.0", Pinned},
		{"a line is a number, not text", pin("445.*"), "4459.2.1", "4459.3.0", Pinned},
		{"pinned to a patch line", pin("4459.2.*"), "4459.2.1", "4459.2.9", ""},
		{"outside the patch line", pin("4459.2.*"), "4459.2.1", "4459.3.0", Pinned},
		{"a pin lowers nothing", pin("4459.2.1"), "4460.0.0", "4459.2.1", Older},
		{"a pin and the operator's word do", Update{Pin: "4459.2.1", AllowDowngrade: true}, "4460.0.0", "4459.2.1", ""},
		{"a bad pin lets nothing pass", pin("*"), "1.0.0", "2.0.0", Pinned},
		{"too many stars", pin("1.2.3.*"), "1.0.0", "1.2.3", Pinned},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := Policy{Update: tt.update}.Accept(tt.running, tt.offered)
			var got Reason
			if r := (*Refusal)(nil); errors.As(err, &r) {
				got = r.Reason
			}
			if got != tt.want || (err == nil) != (tt.want == "") {
				t.Errorf("Accept(%q, %q) = %v, want reason %q", tt.running, tt.offered, err, tt.want)
			}
			if err != nil && len(err.Error()) > 1000 {
				t.Errorf("the message has %d bytes", len(err.Error()))
			}
		})
	}
}

func TestRefusalSaysWhatToDo(t *testing.T) {
	err := Default().Accept("4459.2.1", "4459.2.0")
	want := `release "4459.2.0" is not taken over "4459.2.1": it is older; update.allow_downgrade permits that`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// Whatever a server offers: nothing older or equal is ever taken, and of two
// versions at most one may follow the other.
func FuzzAccept(f *testing.F) {
	for _, s := range []string{"4459.2.1", "1.1.0+2026-01-01-0000", "12.1", "1.0.0-beta.2", "1.2.3.4", "v1", "", "1-+"} {
		f.Add("4459.2.1", s, "4459.*")
		f.Add(s, "1.0.0", "")
	}
	f.Fuzz(func(t *testing.T, a, b, pin string) {
		p := Policy{Update: Update{Pin: pin}}
		if p.Accept(a, a) == nil {
			t.Errorf("Accept(%q, %q): a release follows itself", a, a)
		}
		if p.Accept(a, b) == nil && p.Accept(b, a) == nil {
			t.Errorf("%q and %q follow each other", a, b)
		}
	})
}
