package rebootlock

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"
)

// version is the version of the records that this program writes. It reads
// those of the version before, and refuses newer ones (ErrNewer).
const version = 1

// maxRecord bounds one record, in bytes: a status with many reasons takes a few
// thousand, and etcd takes no request over 1.5 MiB.
const maxRecord = 256 << 10

// Extra is what a record holds beside the fields that this version knows. It is
// written back as it was read.
type Extra map[string]json.RawMessage

// Duration is a time.Duration that JSON has as text: "1h30m0s".
type Duration time.Duration

// MarshalText returns d as text.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads a number with a unit.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// encode writes a record: its own fields, and those that it does not know.
func encode[T any](record T, extra Extra) []byte {
	data, err := json.Marshal(record)
	if err != nil {
		panic("rebootlock: a record does not marshal: " + err.Error()) // plain fields always do
	}
	if len(extra) == 0 {
		return data
	}
	all := map[string]json.RawMessage{}
	if err := json.Unmarshal(data, &all); err != nil {
		panic("rebootlock: a record is no object: " + err.Error())
	}
	for name, value := range extra {
		if _, known := all[name]; !known {
			all[name] = value
		}
	}
	data, _ = json.Marshal(all)
	return data
}

// decode reads a record of any kind, and returns what it holds beside the fields
// of T. After an error record is zero: nothing is gone by that was refused.
func decode[T any](data []byte, record *T) (extra Extra, err error) {
	defer func() {
		if err != nil {
			*record = *new(T)
		}
	}()
	if len(data) > maxRecord {
		return nil, fmt.Errorf("%w: %d bytes, %d are the most", ErrCorrupt, len(data), maxRecord)
	}
	err = json.Unmarshal(data, record)
	if err != nil && !json.Valid(data) {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	fields := known(reflect.TypeFor[T]())
	of, strange := survey(data, fields)
	switch {
	case of > version:
		return nil, fmt.Errorf("%w: version %d, this program knows %d", ErrNewer, of, version)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	case of < 1:
		return nil, fmt.Errorf("%w: it has no version", ErrCorrupt)
	case !strange:
		return nil, nil
	}
	all := Extra{}
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	for name := range fields {
		delete(all, name)
	}
	return all, nil
}

// survey walks once over a valid JSON document and returns the version of the
// object that it is, 0 if it has none, and whether it has fields that are not
// known. Records are read in their thousands; a map of each would cost as much
// as the record.
func survey(data []byte, fields map[string]bool) (version int, strange bool) {
	depth, field := 0, false // field: the next text at depth 1 is a field's name
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '{', '[':
			depth++
			field = depth == 1 && data[i] == '{'
		case '}', ']':
			depth--
		case ',':
			field = depth == 1
		case '"':
			from := i + 1
			for i++; data[i] != '"'; i++ {
				if data[i] == '\\' {
					i++
				}
			}
			if depth != 1 || !field {
				continue
			}
			field = false
			switch name := data[from:i]; {
			case !fields[string(name)]:
				strange = true
			case string(name) == "version":
				version = number(data[i+1:])
			}
		}
	}
	return version, strange
}

// number reads the integer behind a field's name.
func number(data []byte) (n int) {
	data = bytes.TrimLeft(data, ": \t\r\n")
	if end := bytes.IndexAny(data, ",} \t\r\n"); end > 0 {
		data = data[:end]
	}
	n, _ = strconv.Atoi(string(data)) // anything else is no version
	return n
}

var fieldNames sync.Map // reflect.Type: map[string]bool

// known returns the names that JSON has for the fields of t.
func known(t reflect.Type) map[string]bool {
	if names, ok := fieldNames.Load(t); ok {
		return names.(map[string]bool)
	}
	names := map[string]bool{}
	for _, f := range reflect.VisibleFields(t) {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
			names[name] = true
		}
	}
	fieldNames.Store(t, names)
	return names
}

// decodeInto reads a record and keeps in it what it does not know.
func decodeInto[T any](data []byte, record *T) error {
	extra, err := decode(data, record)
	if err == nil && extra != nil {
		reflect.ValueOf(record).Elem().FieldByName("Extra").Set(reflect.ValueOf(extra))
	}
	return err
}
