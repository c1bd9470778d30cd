// Package fleetlock speaks the FleetLock protocol, as a server over a reboot lock and as a client of another's.
//
// PROTOCOL.md is the normative description; comments cite its sections.
package fleetlock

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/drydock-os/drydock/rebootlock"
)

// The two things that a client may ask for (PROTOCOL.md, section 2).
const (
	preReboot   = "v1/pre-reboot"
	steadyState = "v1/steady-state"
)

// header keeps a request that a browser or a redirect sends here by accident
// from having an effect.
const header = "Fleet-Lock-Protocol"

// maxBody bounds a request and an error's body, in bytes: a request is 100 to
// 400 bytes, an error a sentence or two.
const maxBody = 16 << 10

// A params is what a request says of its client.
type params struct {
	ID    string `json:"id"`
	Group string `json:"group"`
}

// body is a request's.
type body struct {
	Params params `json:"client_params"`
}

// The kinds of errors that the server answers with; there are no others, so
// that clients can count by them (PROTOCOL.md, section 4).
const (
	kindNotFound   = "not_found"
	kindMethod     = "method_not_allowed"
	kindHeader     = "missing_header"
	kindDecode     = "decode_error"
	kindTooLarge   = "too_large"
	kindIdentity   = "invalid_client_identity"
	kindForbidden  = "identity_mismatch"
	kindGroup      = "unknown_group"
	kindOtherWay   = "other_way"
	kindQueued     = "queued"
	kindTooMany    = "too_many_machines"
	kindStore      = "store_unavailable"
	kindIncomplete = "request_incomplete"
)

// An Error is an answer other than success.
type Error struct {
	Kind   string `json:"kind"`  // a short identifier, one of few
	Value  string `json:"value"` // a sentence for people
	Status int    `json:"-"`     // HTTP status
}

// Error is what the server said, for people.
func (e *Error) Error() string {
	return fmt.Sprintf("FleetLock server answered %d %s: %s", e.Status, e.Kind, e.Value)
}

func refuse(status int, kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Value: fmt.Sprintf(format, args...), Status: status}
}

var groupName = regexp.MustCompile(`^[a-zA-Z0-9.-]+$`)

// maxGroup bounds a group's name as rebootlock does, in bytes.
const maxGroup = 128

// check says why a client cannot be called so.
func (p params) check() error {
	if p.ID == "" {
		return errors.New("client_params.id is missing")
	}
	if err := rebootlock.CheckName("client_params.id", p.ID); err != nil {
		return err
	}
	if !groupName.MatchString(p.Group) || len(p.Group) > maxGroup {
		return fmt.Errorf("client_params.group is %.40q: it is 1 to %d of the characters a-z A-Z 0-9 . -", p.Group, maxGroup)
	}
	return nil
}

// parse reads a request's body (PROTOCOL.md, section 2): one JSON object, with
// or without blanks. Fields that it does not know are passed over.
func parse(data []byte) (params, *Error) {
	if !utf8.Valid(data) {
		return params{}, refuse(http.StatusBadRequest, kindDecode, "the body is not UTF-8")
	}
	var b body
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(&b); err != nil {
		return params{}, refuse(http.StatusBadRequest, kindDecode, "the body is not the JSON of a request: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return params{}, refuse(http.StatusBadRequest, kindDecode, "something follows the JSON of the request")
	}
	if err := b.Params.check(); err != nil {
		return params{}, refuse(http.StatusBadRequest, kindIdentity, "%v", err)
	}
	return b.Params, nil
}

// endpoint returns what a path asks for: its last two segments, whatever the
// base before them and however many slashes between (PROTOCOL.md, section 3).
func endpoint(path string) (string, bool) {
	segments := strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
	if len(segments) < 2 {
		return "", false
	}
	last := strings.Join(segments[len(segments)-2:], "/")
	return last, last == preReboot || last == steadyState
}
