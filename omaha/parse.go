package omaha

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Limits on messages, whichever side reads them.
const (
	// MaxMessage bounds a message's bytes. Real ones take one to ten KiB;
	// Nebraska and go-omaha refuse more than this, too.
	MaxMessage = 1 << 20
	// maxDepth bounds the nesting of elements: the protocol's deepest is 6.
	maxDepth = 16
	// maxAttrs bounds the attributes of an element: an app has 13 to 20.
	maxAttrs = 64
	// maxElements bounds the elements of a message, and with them the memory it
	// takes: a release with all its extensions has about a hundred.
	maxElements = 4096
	// maxList bounds each list of a message (apps, events, URLs, packages).
	// Flatcar's releases have some 20 packages.
	maxList = 256
	// maxName bounds a package's name, which becomes a file name.
	maxName = 255
)

// DefaultMaxFailures is how often a URL may fail before the next one is
// tried, if the server does not say.
const DefaultMaxFailures = 10

// A guard reads the tokens of an XML document and refuses what the protocol
// never needs: directives (document types, entities), deep nesting, repeated
// attributes, and anything after the root element.
type guard struct {
	from     *xml.Decoder
	depth    int
	elements int
}

// Token implements xml.TokenReader.
func (g *guard) Token() (xml.Token, error) {
	t, err := g.from.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case xml.Directive:
		return nil, errors.New("document types and entities are not accepted")
	case xml.StartElement:
		g.depth++
		g.elements++
		switch {
		case g.depth > maxDepth:
			return nil, fmt.Errorf("elements are nested deeper than %d", maxDepth)
		case g.elements > maxElements:
			return nil, fmt.Errorf("more than %d elements", maxElements)
		case g.depth == 1 && g.elements > 1:
			return nil, errors.New("more than one root element")
		}
		if err := checkAttrs(t.Attr); err != nil {
			return nil, fmt.Errorf("element %.32q: %w", t.Name.Local, err)
		}
	case xml.EndElement:
		g.depth--
	case xml.CharData:
		if g.depth == 0 && len(bytes.TrimSpace(t)) > 0 {
			return nil, errors.New("text outside the root element")
		}
	}
	return t, nil
}

func checkAttrs(attrs []xml.Attr) error {
	if len(attrs) > maxAttrs {
		return fmt.Errorf("more than %d attributes", maxAttrs)
	}
	for i, a := range attrs {
		for _, b := range attrs[:i] {
			if a.Name == b.Name {
				return fmt.Errorf("attribute %.32q is repeated", a.Name.Local)
			}
		}
	}
	return nil
}

// decode reads the one message that body holds. Its error wraps ErrEmpty,
// ErrXML, or ErrInvalid where the root element is another message's.
func decode(body []byte, message any, root string) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return ErrEmpty
	}
	d := xml.NewTokenDecoder(&guard{from: xml.NewDecoder(bytes.NewReader(body))})
	start, err := rootElement(d)
	if err != nil {
		return err
	}
	if start.Name.Local != root {
		return fmt.Errorf("%w: the root element is %.32q, not %q", ErrInvalid, start.Name.Local, root)
	}
	if err := d.DecodeElement(message, &start); err != nil {
		return fmt.Errorf("%w: %w", ErrXML, err)
	}
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("%w: %w", ErrXML, err)
		}
	}
}

func rootElement(d *xml.Decoder) (xml.StartElement, error) {
	for {
		t, err := d.Token()
		if err != nil {
			return xml.StartElement{}, fmt.Errorf("%w: %w", ErrXML, err)
		}
		if start, ok := t.(xml.StartElement); ok {
			return start, nil
		}
	}
}

// Offer is a server's answer to an update check: an update, or none. A client
// has it from Client.Check, a server gives it from its Updates.
type Offer struct {
	Update  bool     // there is an update; the fields up to Packages say which
	Version string   // the release, as the server claims: nothing signs it
	URLs    []string // where the payload is, each a codebase and Name, in the server's order
	Name    string   // file name of the payload, safe to use as one
	Size    int64    // bytes of the payload
	SHA256  []byte   // of the whole payload, 32 bytes
	SHA1    []byte   // of the whole payload, 20 bytes, or nil; nobody should rely on it

	Delta          bool // the payload only applies to the release it was made from
	DisableBackoff bool // a failed download may be tried again at once
	MaxFailures    int  // failures of one URL before the next is tried, at least 1

	Packages []Package // what comes with the payload: the packages after the first

	PollInterval time.Duration // pause until the next check as the server wishes it, unbounded; 0 if it does not say; also without an update
	EventTaken   bool          // the server has the event sent along, if there was one
	Raw          []byte        // the response as received, at most MaxMessage bytes, for a post-install hook
}

// Package is a file that comes with a payload, as an OEM's or a system
// extension.
type Package struct {
	Name     string   // safe to use as a file name
	URLs     []string // where it is, one for each codebase, in the server's order
	Size     int64    // bytes
	SHA256   []byte   // 32 bytes, or nil if the server does not say
	SHA1     []byte   // 20 bytes, or nil if the server does not say
	Required bool     // the server says that the update makes no sense without it
}

// parseOffer reads a response to an update check. What counts is the first
// updatecheck, its first manifest, and that one's first package and first
// "postinstall" action, whatever the app's id (PROTOCOL.md, section 2).
func parseOffer(body []byte) (*Offer, error) {
	var r wireResponse
	if err := decode(body, &r, "response"); err != nil {
		return nil, err
	}
	app, check, err := firstCheck(r.Apps)
	if err != nil {
		return nil, err
	}
	o := &Offer{Raw: body, PollInterval: pollInterval(check.PollInterval), EventTaken: app.eventTaken()}
	switch check.Status {
	case statusNoUpdate:
		return o, nil
	case statusOK:
		o.Update = true
		if err := o.fill(check); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		return o, nil
	case "":
		return nil, fmt.Errorf("%w: the updatecheck has no status", ErrInvalid)
	}
	return nil, &Refused{AppStatus: app.Status, UpdateStatus: check.Status, EventTaken: o.EventTaken}
}

// firstCheck returns the first updatecheck and its app. Without any, the
// first app's status says whether the server refused or the answer is wrong.
func firstCheck(apps []wireAppResponse) (*wireAppResponse, *wireUpdateStatus, error) {
	if len(apps) == 0 || len(apps) > maxList {
		return nil, nil, fmt.Errorf("%w: %d apps", ErrInvalid, len(apps))
	}
	for i := range apps {
		if len(apps[i].Checks) > 0 {
			return &apps[i], &apps[i].Checks[0], nil
		}
	}
	if r := apps[0].refusal(); r != nil {
		return nil, nil, r
	}
	return nil, nil, fmt.Errorf("%w: no updatecheck (app status %.64q)", ErrInvalid, apps[0].Status)
}

// refusal returns the app's status as an error if it is one.
func (a *wireAppResponse) refusal() error {
	r := &Refused{AppStatus: a.Status, EventTaken: a.eventTaken()}
	if !r.Deliberate() {
		return nil
	}
	return r
}

// eventTaken reports whether the server has the event sent along: it says so,
// or finds nothing wrong and does not answer events one by one.
func (a *wireAppResponse) eventTaken() bool {
	if len(a.Events) > 0 {
		return a.Events[0].Status == statusOK
	}
	return a.Status == "" || a.Status == statusOK
}

func pollInterval(seconds string) time.Duration {
	n, err := strconv.ParseInt(seconds, 10, 32)
	if err != nil || n < 0 {
		return 0 // upstream ignores what it cannot read
	}
	return time.Duration(n) * time.Second
}

// fill reads the first manifest of an updatecheck.
func (o *Offer) fill(check *wireUpdateStatus) error {
	if len(check.Manifests) == 0 {
		return errors.New("no manifest")
	}
	m := check.Manifests[0]
	o.Version = m.Version
	bases, err := codebases(check.URLs)
	if err != nil {
		return err
	}
	if len(m.Packages) == 0 || len(m.Packages) > maxList {
		return fmt.Errorf("%d packages", len(m.Packages))
	}
	first, err := m.Packages[0].located(bases)
	if err != nil {
		return err
	}
	o.Name, o.URLs, o.Size = first.Name, first.URLs, first.Size
	// Upstream never looks at this hash: a wrong one is no reason to stop.
	o.SHA1, _ = digest(m.Packages[0].Hash, sha1.Size)
	for _, w := range m.Packages[1:] {
		p, err := w.located(bases)
		if err == nil {
			err = p.digests(w)
		}
		if err != nil {
			return err
		}
		o.Packages = append(o.Packages, p)
	}
	return o.act(m.Actions)
}

// act reads the first action for the event "postinstall", which holds what
// the protocol has no better place for.
func (o *Offer) act(actions []wireAction) (err error) {
	for _, a := range actions {
		if a.Event != "postinstall" {
			continue
		}
		if o.SHA256, err = digest(a.SHA256, sha256.Size); err != nil {
			return fmt.Errorf("payload's sha256: %w", err)
		}
		if o.SHA256 == nil {
			return errors.New("the payload has no sha256")
		}
		o.Delta = a.Delta == "true"
		o.DisableBackoff = a.DisableBackoff == "true"
		o.MaxFailures = DefaultMaxFailures
		if n, err := strconv.ParseUint(a.MaxFailures, 10, 31); err == nil {
			o.MaxFailures = max(int(n), 1) // to upstream 0 means the same as 1
		}
		return nil
	}
	return errors.New(`no action for the event "postinstall"`)
}

// codebases returns the base URLs of a response, each with a final slash.
func codebases(urls *wireURLs) ([]string, error) {
	if urls == nil || len(urls.URLs) == 0 || len(urls.URLs) > maxList {
		return nil, errors.New("no URLs, or too many")
	}
	var bases []string
	for _, w := range urls.URLs {
		u, err := url.Parse(w.Codebase)
		if err != nil {
			return nil, fmt.Errorf("codebase: %w", err)
		}
		if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Fragment != "" {
			return nil, fmt.Errorf("codebase %.128q is not an http or https URL", w.Codebase)
		}
		base := w.Codebase
		if !strings.HasSuffix(base, "/") {
			base += "/"
		}
		bases = append(bases, base)
	}
	return bases, nil
}

// plainName is what a package may be called: a file name that means nothing
// else to a URL, a shell or a file system.
var plainName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+~@=:,-]*$`)

func checkName(name string) error {
	if len(name) > maxName || !plainName.MatchString(name) || strings.Contains(name, "..") {
		return fmt.Errorf("package name %.64q is not a plain file name", name)
	}
	return nil
}

func (w wirePackage) located(bases []string) (Package, error) {
	p := Package{Name: w.Name, Required: w.Required == "true"}
	if err := checkName(w.Name); err != nil {
		return p, err
	}
	size, err := strconv.ParseInt(strings.TrimSpace(w.Size), 10, 64)
	if err != nil || size <= 0 {
		return p, fmt.Errorf("package %s: size %.32q is not a positive number", w.Name, w.Size)
	}
	p.Size = size
	for _, base := range bases {
		p.URLs = append(p.URLs, base+w.Name)
	}
	return p, nil
}

func (p *Package) digests(w wirePackage) (err error) {
	if p.SHA1, err = digest(w.Hash, sha1.Size); err != nil {
		return fmt.Errorf("package %s: hash: %w", p.Name, err)
	}
	if p.SHA256, err = digest(w.SHA256, sha256.Size); err != nil {
		return fmt.Errorf("package %s: hash_sha256: %w", p.Name, err)
	}
	return nil
}

// digest reads a hash of size bytes, in hexadecimal as Flatcar's servers
// write it or in base64 as go-omaha does. The lengths tell them apart. An
// empty text is no hash: nil.
func digest(text string, size int) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	read := base64.StdEncoding.DecodeString
	if len(text) == hex.EncodedLen(size) {
		read = hex.DecodeString
	}
	sum, err := read(text)
	if err != nil || len(sum) != size {
		return nil, fmt.Errorf("%.80q is not a hash of %d bytes", text, size)
	}
	return sum, nil
}
