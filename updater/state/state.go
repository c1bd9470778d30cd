// Package state keeps the little that the updater must remember across a
// crash, in files that are either the old content or the new one, never a mix.
package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"strings"
)

// ErrCorrupt says that a state file could not be read as what it should hold:
// damaged, too large, or written by a newer release whose meaning is unknown.
// The file was put aside with the suffix ".bad"; the caller goes on with
// nothing remembered, which costs time and never safety.
var ErrCorrupt = errors.New("state file is corrupt and was put aside")

// maxDocument bounds a document whose File names no limit, in bytes. The
// updater's own is a few kilobytes.
const maxDocument = 1 << 20

// File holds one JSON document of T, a struct.
//
// Fields of the document that T does not know survive Save: after a rollback
// an older release saves its state without losing what the newer one noted.
// This holds for the fields of the document itself, not of values inside it.
// A field that T leaves out by omitempty is removed, not kept.
type File[T any] struct {
	Path  string
	Limit int64 // bytes read at most; maxDocument if zero

	// Version is written as the field "version" if it is not zero. Raise it
	// only for a change that an older release would misread: fields that are
	// merely added need no new version.
	Version int
}

// Load reads the document. A missing or empty file is the zero T and no error.
// What cannot be understood is the zero T and ErrCorrupt, and the file is then
// kept aside. Any other error is of the file system: the caller knows nothing.
func (f File[T]) Load() (T, error) {
	var v, zero T
	data, err := f.read()
	if err != nil || len(data) == 0 {
		return zero, err
	}
	if err := f.decode(data, &v); err != nil {
		return zero, f.aside(err)
	}
	return v, nil
}

// Save makes v the document, durably (see Write). Fields that T does not know
// are taken over from the file as it stands.
func (f File[T]) Save(v T) error {
	doc, err := f.unknown()
	if err != nil {
		return err
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode state %s: %w", f.Path, err)
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return fmt.Errorf("encode state %s: %w", f.Path, err)
	}
	if f.Version != 0 {
		doc["version"] = json.RawMessage(fmt.Sprint(f.Version))
	}
	if data, err = json.MarshalIndent(doc, "", "  "); err != nil {
		return fmt.Errorf("encode state %s: %w", f.Path, err)
	}
	if limit := f.limit(); int64(len(data)) >= limit {
		return fmt.Errorf("save state %s: %d bytes, limit %d", f.Path, len(data)+1, limit)
	}
	return Write(f.Path, append(data, '\n'), 0o600)
}

func (f File[T]) limit() int64 {
	if f.Limit > 0 {
		return f.Limit
	}
	return maxDocument
}

// read returns the file's bytes, nil for a missing one. A file over the limit
// is put aside.
func (f File[T]) read() ([]byte, error) {
	file, err := os.Open(f.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	defer file.Close()
	limit := f.limit()
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	if int64(len(data)) > limit {
		return nil, f.aside(fmt.Errorf("larger than %d bytes", limit))
	}
	return bytes.TrimSpace(data), nil
}

func (f File[T]) decode(data []byte, v *T) error {
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, v); err != nil {
		return err
	}
	if f.Version == 0 {
		return nil
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return err
	}
	if head.Version > f.Version {
		return fmt.Errorf("version %d, this release knows %d", head.Version, f.Version)
	}
	return nil
}

// aside keeps a file that Load cannot understand for whoever wants to look,
// and says why it did so. The rename is not synced: after a power cut it is
// merely found, and put aside, again.
func (f File[T]) aside(why error) error {
	if err := os.Rename(f.Path, f.Path+".bad"); err != nil {
		return fmt.Errorf("%w: %s: %w (%w)", ErrCorrupt, f.Path, why, err)
	}
	return fmt.Errorf("%w: %s: %w", ErrCorrupt, f.Path, why)
}

// unknown returns those fields of the file that T has no field for. Of a file
// that cannot be understood there are none.
func (f File[T]) unknown() (map[string]json.RawMessage, error) {
	doc := map[string]json.RawMessage{}
	data, err := f.read()
	if errors.Is(err, ErrCorrupt) {
		return doc, nil
	}
	if err != nil {
		return nil, err
	}
	if json.Unmarshal(data, &doc) != nil || doc == nil {
		return map[string]json.RawMessage{}, nil
	}
	for _, name := range fieldNames(reflect.TypeFor[T]()) {
		for key := range doc {
			// encoding/json matches names without regard to case.
			if strings.EqualFold(key, name) {
				delete(doc, key)
			}
		}
	}
	return doc, nil
}

// fieldNames lists the names under which encoding/json writes t's fields.
func fieldNames(t reflect.Type) []string {
	if t.Kind() != reflect.Struct {
		return nil
	}
	var names []string
	for _, field := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "" {
			name = field.Name
		}
		names = append(names, name)
	}
	return names
}
