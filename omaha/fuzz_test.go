package omaha

import (
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzOffer: no answer makes the client panic, and an offer that it accepts
// keeps the promises of Offer and survives being offered again.
func FuzzOffer(f *testing.F) {
	f.Add(sample(f, "flatcar.xml"))
	f.Add(sample(f, "floors.xml"))
	f.Add([]byte(update("http://h/", "a.gz", "1", sumBase)))
	f.Fuzz(func(t *testing.T, body []byte) {
		o, err := parseOffer(body)
		if err != nil {
			CodeOf(err)
			return
		}
		if !o.Update {
			return
		}
		files := append([]Package{{Name: o.Name, URLs: o.URLs, Size: o.Size}}, o.Packages...)
		for _, p := range files {
			if strings.ContainsAny(p.Name, "/\\\x00") || strings.Contains(p.Name, "..") || p.Name == "" || p.Size <= 0 {
				t.Errorf("file %+v", p)
			}
			for _, u := range p.URLs {
				if !strings.HasPrefix(strings.ToLower(u), "http") || !strings.HasSuffix(u, "/"+p.Name) {
					t.Errorf("URL %q", u)
				}
			}
		}
		if len(o.SHA256) != 32 || len(o.URLs) == 0 || o.MaxFailures < 1 || o.PollInterval < 0 {
			t.Errorf("offer %+v", o)
		}
		check, err := o.wire()
		if err != nil {
			t.Fatalf("offer it again: %v", err)
		}
		again, err := encode(wireResponse{Apps: []wireAppResponse{{Status: statusOK, Checks: []wireUpdateStatus{check}}}})
		if err != nil {
			t.Fatal(err)
		}
		o2, err := parseOffer(again)
		if err != nil {
			t.Fatalf("%v: %s", err, again)
		}
		o.Raw, o2.Raw, o.EventTaken, o2.EventTaken = nil, nil, false, false
		if !reflect.DeepEqual(o, o2) {
			t.Errorf("got\n%+v\nwant\n%+v", o2, o)
		}
	})
}

// FuzzHandler: no request makes the server panic, and what it answers with
// 200 is an Omaha response.
func FuzzHandler(f *testing.F) {
	for _, name := range []string{"full_ok.log", "alias_quote.log"} {
		_, request, _ := strings.Cut(string(sample(f, name)), "\n")
		request, _, _ = strings.Cut(request, "\n-> ")
		f.Add([]byte(request))
	}
	s := &Static{AppID: appID}
	s.Release(release())
	f.Fuzz(func(t *testing.T, body []byte) {
		w := httptest.NewRecorder()
		(&Handler{Updates: s}).ServeHTTP(w, httptest.NewRequest("POST", "/", strings.NewReader(string(body))))
		if w.Code != 200 {
			return
		}
		var r wireResponse
		if err := decode(w.Body.Bytes(), &r, "response"); err != nil {
			t.Errorf("%v: %s", err, w.Body)
		}
	})
}

// FuzzMachine: whatever a machine is called, the server reads the same.
func FuzzMachine(f *testing.F) {
	f.Add(`a"b<c&d`, "1.0.0", "x86_64")
	f.Add("\x00\xff]]>\r\n\t", "", "")
	f.Fuzz(func(t *testing.T, alias, version, arch string) {
		m := Machine{MachineAlias: alias, Version: version, Arch: arch}
		body, err := encode((&Client{}).request(m, false))
		if err != nil {
			t.Fatal(err)
		}
		apps, err := parseRequest(body)
		if err != nil {
			t.Fatalf("%v: %q", err, body)
		}
		if utf8.ValidString(alias) && strings.ToValidUTF8(alias, "") == alias && !strings.ContainsFunc(alias, notXML) && apps[0].MachineAlias != alias {
			t.Errorf("got %q, want %q", apps[0].MachineAlias, alias)
		}
	})
}

// notXML is what XML 1.0 cannot hold (section 2.2).
func notXML(r rune) bool {
	return r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r == 0xfffe || r == 0xffff
}
