package omaha

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/testdata/real"
)

const (
	sumHex  = "644f8fbe91e262a567d385f44c9c9509d7c0dcf1abd81ecb8ba930c5a32a6c8f"
	sumBase = "ZE+PvpHiYqVn04X0TJyVCdfA3PGr2B7Li6kwxaMqbI8="
)

// response builds an answer to a check around what stands in updatecheck.
func response(updatecheck string) string {
	return `<?xml version="1.0" encoding="UTF-8"?><response protocol="3.0" server="s"><app appid="other" status="ok">` +
		updatecheck + `<event status="ok"></event></app></response>`
}

// update builds an answer that offers one package.
func update(codebase, name, size, sha256 string) string {
	return response(fmt.Sprintf(`<updatecheck status="ok"><urls><url codebase="%s"/></urls><manifest version="2.0.0">`+
		`<packages><package name="%s" size="%s"/></packages><actions><action event="postinstall" sha256="%s"/></actions></manifest></updatecheck>`,
		codebase, name, size, sha256))
}

func sample(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(real.Module(t), "testdata", "omaha", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestFlatcarResponse(t *testing.T) {
	o, err := parseOffer(sample(t, "flatcar.xml"))
	if err != nil {
		t.Fatal(err)
	}
	sum, _ := hex.DecodeString(sumHex)
	sha1, _ := hex.DecodeString("c0b29052a37e68552ad5a44cb02ea9a7661e0604")
	payloadSHA1, _ := hex.DecodeString("f366cf0dbc1ac18f0e68c4235c10f1bb5f7cadbe")
	base := "https://update.example/amd64-usr/4230.2.0/"
	want := &Offer{
		Update: true, Version: "4230.2.0", Name: "flatcar_production_update.gz", Size: 808010,
		URLs:   []string{base + "flatcar_production_update.gz"},
		SHA256: sum, SHA1: payloadSHA1, DisableBackoff: true, MaxFailures: 3, Raw: o.Raw, EventTaken: true,
		Packages: []Package{
			{Name: "oem-azure.gz", URLs: []string{base + "oem-azure.gz"}, Size: 4711, SHA256: sum, SHA1: sha1},
			{Name: "flatcar-zfs.gz", URLs: []string{base + "flatcar-zfs.gz"}, Size: 815, SHA256: sum},
		},
	}
	if !reflect.DeepEqual(o, want) {
		t.Errorf("got\n%+v\nwant\n%+v", o, want)
	}
}

// TestFloors: of several manifests the first is the one to install.
func TestFloors(t *testing.T) {
	o, err := parseOffer(sample(t, "floors.xml"))
	if err != nil {
		t.Fatal(err)
	}
	if o.Version != "3033.2.0" || o.Name != "floor.gz" || o.Size != 808010 || len(o.Packages) != 0 {
		t.Errorf("offer %+v", o)
	}
}

func TestOffer(t *testing.T) {
	tests := map[string]struct {
		body string
		want Offer
	}{
		"no update": {response(`<updatecheck status="noupdate"/>`), Offer{}},
		"no update from a server that says so of the app, too": {
			`<response><app status="error-unknownApplication"><updatecheck status="noupdate"/></app></response>`, Offer{}},
		"poll interval without update": {response(`<updatecheck status="noupdate" PollInterval="120"/>`), Offer{PollInterval: 2 * time.Minute}},
		"poll interval that is none":   {response(`<updatecheck status="noupdate" PollInterval="soon"/>`), Offer{}},
		"poll interval below zero":     {response(`<updatecheck status="noupdate" PollInterval="-5"/>`), Offer{}},
		"poll interval beyond 32 bits": {response(`<updatecheck status="noupdate" PollInterval="99999999999999"/>`), Offer{}},
		"sha256 in hexadecimal": {update("http://h/p", "a.gz", "1", sumHex),
			Offer{Update: true, Version: "2.0.0", Name: "a.gz", URLs: []string{"http://h/p/a.gz"}, Size: 1}},
		"codebase with a query": {update("http://h/p?x=", "a.gz", "1", sumBase),
			Offer{Update: true, Version: "2.0.0", Name: "a.gz", URLs: []string{"http://h/p?x=/a.gz"}, Size: 1}},
		"the app with the check is not the first": {
			`<response><app status="ok"><ping status="ok"/></app><app status="ok"><updatecheck status="noupdate"/></app></response>`, Offer{}},
		"comments and processing instructions": {
			`<?xml version="1.0"?><!-- a --><?x y?><response><app status="ok"><!-- b --><updatecheck status="noupdate"/></app></response><!-- c -->`, Offer{}},
		"predefined entities": {
			`<response><app status="ok"><updatecheck status="&#110;oupdate" x="&lt;&amp;&quot;"/></app></response>`, Offer{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			o, err := parseOffer([]byte(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if o.Update {
				if hex.EncodeToString(o.SHA256) != sumHex || o.MaxFailures != DefaultMaxFailures {
					t.Errorf("sha256 %x, failures %d", o.SHA256, o.MaxFailures)
				}
			}
			o.SHA256, o.MaxFailures, o.Raw, o.EventTaken = nil, 0, nil, false
			if !reflect.DeepEqual(*o, tt.want) {
				t.Errorf("got %+v, want %+v", *o, tt.want)
			}
		})
	}
}

func TestOfferRefused(t *testing.T) {
	manifest := func(s string) string {
		return response(`<updatecheck status="ok"><urls><url codebase="http://h/"/></urls>` + s + `</updatecheck>`)
	}
	tests := map[string]struct {
		body string
		want error
	}{
		"nothing":              {"", ErrEmpty},
		"white space":          {" \n\t", ErrEmpty},
		"a captive portal":     {"<html><body>Please log in</body></html>", ErrInvalid},
		"plain text":           {"hello", ErrXML},
		"cut short":            {`<response><app status="ok"><updatecheck`, ErrXML},
		"tags that cross":      {`<response><app></response></app>`, ErrXML},
		"a request":            {`<request protocol="3.0"></request>`, ErrInvalid},
		"no app":               {`<response></response>`, ErrInvalid},
		"document type":        {`<!DOCTYPE response SYSTEM "http://h/x.dtd"><response><app><updatecheck status="noupdate"/></app></response>`, ErrXML},
		"entities":             {`<!DOCTYPE r [<!ENTITY a "b"><!ENTITY c "&a;&a;">]><response><app><updatecheck status="noupdate"/></app></response>`, ErrXML},
		"directive inside":     {`<response><!ENTITY a "b"><app><updatecheck status="noupdate"/></app></response>`, ErrXML},
		"undefined entity":     {`<response><app><updatecheck status="&noupdate;"/></app></response>`, ErrXML},
		"repeated attribute":   {`<response><app><updatecheck status="noupdate" status="ok"/></app></response>`, ErrXML},
		"second root element":  {`<response><app><updatecheck status="noupdate"/></app></response><response/>`, ErrXML},
		"text after the end":   {`<response><app><updatecheck status="noupdate"/></app></response>x`, ErrXML},
		"other encoding":       {`<?xml version="1.0" encoding="UTF-7"?><response><app><updatecheck status="noupdate"/></app></response>`, ErrXML},
		"not UTF-8":            {"<response><app><updatecheck status=\"\xff\xfe\"/></app></response>", ErrXML},
		"deep nesting":         {strings.Repeat("<response>", 10000) + strings.Repeat("</response>", 10000), ErrXML},
		"many attributes":      {`<response ` + manyAttrs() + `><app><updatecheck status="noupdate"/></app></response>`, ErrXML},
		"many elements":        {`<response>` + strings.Repeat(`<a/>`, maxElements) + `</response>`, ErrXML},
		"many apps":            {`<response>` + strings.Repeat(`<app/>`, maxList+1) + `</response>`, ErrInvalid},
		"no updatecheck":       {response(""), ErrInvalid},
		"no status":            {response(`<updatecheck/>`), ErrInvalid},
		"no manifest":          {manifest(""), ErrInvalid},
		"no packages":          {manifest(`<manifest version="1"><packages></packages></manifest>`), ErrInvalid},
		"no actions":           {manifest(`<manifest><packages><package name="a" size="1"/></packages></manifest>`), ErrInvalid},
		"no postinstall":       {manifest(`<manifest><packages><package name="a" size="1"/></packages><actions><action event="install" sha256="` + sumHex + `"/></actions></manifest>`), ErrInvalid},
		"no urls":              {response(`<updatecheck status="ok"><manifest><packages><package name="a" size="1"/></packages></manifest></updatecheck>`), ErrInvalid},
		"empty codebase":       {update("", "a", "1", sumHex), ErrInvalid},
		"codebase of a file":   {update("file:///etc", "a", "1", sumHex), ErrInvalid},
		"codebase of no host":  {update("http:///x", "a", "1", sumHex), ErrInvalid},
		"relative codebase":    {update("/p/", "a", "1", sumHex), ErrInvalid},
		"codebase that hides":  {update("http://h/x#", "a", "1", sumHex+"0"), ErrInvalid},
		"codebase fragment":    {update("http://h/#x", "a", "1", sumHex), ErrInvalid},
		"no name":              {update("http://h/", "", "1", sumHex), ErrInvalid},
		"name with a slash":    {update("http://h/", "a/b", "1", sumHex), ErrInvalid},
		"name above":           {update("http://h/", "../b", "1", sumHex), ErrInvalid},
		"name of the parent":   {update("http://h/", "..", "1", sumHex), ErrInvalid},
		"name with dots":       {update("http://h/", "a..b", "1", sumHex), ErrInvalid},
		"absolute name":        {update("http://h/", "/etc/passwd", "1", sumHex), ErrInvalid},
		"encoded slash":        {update("http://h/", "..%2f..%2fb", "1", sumHex), ErrInvalid},
		"backslash":            {update("http://h/", `a\b`, "1", sumHex), ErrInvalid},
		"name like an option":  {update("http://h/", "-rf", "1", sumHex), ErrInvalid},
		"hidden file":          {update("http://h/", ".bashrc", "1", sumHex), ErrInvalid},
		"name with a NUL":      {update("http://h/", "a&#0;b", "1", sumHex), ErrXML},
		"name with a newline":  {update("http://h/", "a&#10;", "1", sumHex), ErrInvalid},
		"long name":            {update("http://h/", strings.Repeat("a", 256), "1", sumHex), ErrInvalid},
		"no size":              {update("http://h/", "a", "", sumHex), ErrInvalid},
		"size 0":               {update("http://h/", "a", "0", sumHex), ErrInvalid},
		"negative size":        {update("http://h/", "a", "-1", sumHex), ErrInvalid},
		"size beyond 63 bits":  {update("http://h/", "a", "9223372036854775808", sumHex), ErrInvalid},
		"no sha256":            {update("http://h/", "a", "1", ""), ErrInvalid},
		"short sha256":         {update("http://h/", "a", "1", sumHex[:62]), ErrInvalid},
		"sha256 of no letters": {update("http://h/", "a", "1", strings.Repeat("!", 64)), ErrInvalid},
		"sha1 for a sha256":    {update("http://h/", "a", "1", "82bPDbwawY8OaMQjXBDxu198rb4="), ErrInvalid},
		"extra package outside": {strings.Replace(update("http://h/", "a", "1", sumHex), "</packages>",
			`<package name="../../etc/x" size="1" hash_sha256="`+sumHex+`"/></packages>`, 1), ErrInvalid},
		"extra package with a wrong hash": {strings.Replace(update("http://h/", "a", "1", sumHex), "</packages>",
			`<package name="x" size="1" hash="nonsense"/></packages>`, 1), ErrInvalid},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			o, err := parseOffer([]byte(tt.body))
			if !errors.Is(err, tt.want) {
				t.Errorf("got %+v, %v, want %v", o, err, tt.want)
			}
		})
	}
}

func manyAttrs() string {
	var b strings.Builder
	for i := range maxAttrs + 1 {
		fmt.Fprintf(&b, `a%d="" `, i)
	}
	return b.String()
}

// TestThrottlingIsNotAClientFault: upstream reports error 34 back to a server
// that asked for patience, and the server then counts a failed machine.
func TestThrottlingIsNotAClientFault(t *testing.T) {
	tests := []struct {
		body   string
		want   Refused
		report bool
	}{
		{`<response><app status="error-maxUpdatesPerPeriodLimitReached"><updatecheck status="error-internal"/><event status="ok"/></app></response>`,
			Refused{"error-maxUpdatesPerPeriodLimitReached", "error-internal", true}, false},
		{`<response><app status="error-unknownApplicationOrGroup"><updatecheck status="error-internal"/></app></response>`,
			Refused{"error-unknownApplicationOrGroup", "error-internal", false}, false},
		{`<response><app status="error-updatesDisabled"></app></response>`,
			Refused{"error-updatesDisabled", "", false}, false},
		{response(`<updatecheck status="error-internal"/>`),
			Refused{"ok", "error-internal", true}, true},
	}
	for _, tt := range tests {
		_, err := parseOffer([]byte(tt.body))
		var got *Refused
		if !errors.As(err, &got) {
			t.Errorf("%s: %v", tt.body, err)
			continue
		}
		code, report := CodeOf(err)
		if *got != tt.want || report != tt.report || code != CodeResponseInvalid {
			t.Errorf("%s: %+v, code %v reported %v", tt.body, got, code, report)
		}
	}
}

func TestCheckEvent(t *testing.T) {
	text := func(s string) *string { return &s }
	for _, tt := range []struct {
		previous *string
		want     Event
	}{
		{nil, Event{3, 2, 0, text("0.0.0.0")}},
		{text(""), Event{3, 2, 0, text("")}},
		{text("1.0.0"), Event{3, 0, 44, nil}},
		{text("0.9.0"), Event{3, 2, 0, text("0.9.0")}},
	} {
		if got := CheckEvent(tt.previous, "1.0.0"); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("got %+v, want %+v", got, tt.want)
		}
	}
	if got := CheckEvent(text(""), ""); got.Result != ResultSuccessReboot {
		t.Errorf("no version known: %+v", got)
	}
}

func TestCode(t *testing.T) {
	own := "https://updates.example/v1/update/"
	for _, tt := range []struct {
		code Code
		wire int
		text string
	}{
		{CodeDeferredForBackoff.Flagged(own, false), 268435496, "DeferredForBackoff|server"},
		{CodePostinstall.Flagged(own, false), 268435461, "Postinstall|server"},
		{(CodeHTTPBase + 500).Flagged(own, false), 268437956, "HTTP500|server"},
		{CodeOpHashMismatch.Flagged(ProductionURL, true), 1073741853, "OpHashMismatch|resumed"},
		{CodeRollback.Flagged(own, true), 44, "Rollback"},
		{CodeError | FlagDevMode, -2147483647, "Error|dev"},
		{Code(99), 99, "Code99"},
		{(&StatusError{HTTP: 1234}).Code(), 2999, "HTTP999"},
		{CodeHTTPBase, 2000, "HTTP0"},
	} {
		if tt.code.Wire() != tt.wire || tt.code.String() != tt.text || FromWire(tt.wire) != tt.code {
			t.Errorf("%v = %d, want %s = %d", tt.code, tt.code.Wire(), tt.text, tt.wire)
		}
	}
	for code, name := range codeNames {
		if code.Base() != code || code.String() != name {
			t.Errorf("%d: %s", code, name)
		}
	}
}
