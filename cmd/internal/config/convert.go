package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/drydock-os/drydock/updater/policy"
)

var (
	durationType = reflect.TypeFor[time.Duration]()
	maxType      = reflect.TypeFor[policy.Max]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// isText reports whether t is written as a string that its own rules read: a
// duration, a size, the start of a window.
func isText(t reflect.Type) bool {
	return t == durationType || reflect.PointerTo(t).Implements(textType)
}

// convert is the decode hook: it refuses a value of the wrong type, and reads
// text where the policy holds more than text.
func convert(_, to reflect.Type, value any) (any, error) {
	if n, ok := value.(int64); ok && to == maxType {
		return strconv.FormatInt(n, 10), nil // "2" is 2; "25%" has no other form
	}
	if !isText(to) {
		return value, fits(to, value)
	}
	text, ok := value.(string)
	if !ok {
		return nil, fmt.Errorf("wants %s, not %s", wanted(to), describe(value))
	}
	if to == durationType {
		return duration(text)
	}
	parsed := reflect.New(to)
	if err := parsed.Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text)); err != nil {
		return nil, err
	}
	return parsed.Elem().Interface(), nil
}

// duration reads a number with a unit. Go's own parser takes a bare zero too.
func duration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || text == "0" || text == "+0" || text == "-0" {
		return 0, fmt.Errorf("%q is no duration: write numbers with units, like \"90s\", \"45m\" or \"1h30m\"", text)
	}
	return d, nil
}

// fits reports a value that the decoder would take, or refuse, in other words
// than an operator uses; it takes a fraction for an integer, for one.
func fits(to reflect.Type, value any) error {
	from := reflect.ValueOf(value)
	ok := true
	switch to.Kind() {
	case reflect.String, reflect.Bool, reflect.Slice:
		ok = from.Kind() == to.Kind()
	case reflect.Int:
		ok = from.Kind() == reflect.Int64 || from.Kind() == reflect.Int
	case reflect.Struct:
		ok = from.Kind() == reflect.Map || from.Type() == to
	}
	if !ok {
		return fmt.Errorf("wants %s, not %s", wanted(to), describe(value))
	}
	return nil
}

func wanted(t reflect.Type) string {
	switch {
	case t == durationType:
		return `a duration like "90s" or "24h"`
	case t == maxType:
		return `a number like 2, or a share like "25%"`
	case isText(t) && t.Kind() == reflect.Int64:
		return `a size like "10MiB"`
	case isText(t):
		return `a start like "02:00" or "Sat 02:00"`
	}
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	case reflect.Slice:
		return "a list"
	}
	return "a table"
}

// describe names the TOML type of a decoded value.
func describe(value any) string {
	switch v := value.(type) {
	case string:
		return fmt.Sprintf("the string %q", v)
	case bool:
		return fmt.Sprintf("%t", v)
	case int64, int:
		return fmt.Sprintf("the number %d", v)
	case float64:
		return fmt.Sprintf("the number %v", v)
	case time.Time, toml.LocalDate, toml.LocalTime, toml.LocalDateTime:
		return "a date or time without quotes"
	}
	switch reflect.ValueOf(value).Kind() {
	case reflect.Slice:
		return "a list"
	case reflect.Map:
		return "a table"
	}
	return fmt.Sprintf("%T", value)
}
