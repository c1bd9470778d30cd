package platform

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/drydock-os/drydock/updater/state"
)

// maxFile bounds the bytes of a file. OpenStack's meta_data.json holds up to 128
// items of 510 bytes, keys and a seed; the others are a page.
const maxFile = 256 << 10

// afterburn reads the environment file that afterburn writes (its
// documentation, usage/attributes.md; on Flatcar the variables begin with
// COREOS_, usage/legacy-attributes.md).
func (s Source) afterburn() (Facts, error) {
	data, err := state.ReadFile(s.File, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return Facts{}, fmt.Errorf("%w: did afterburn (coreos-metadata.service) run, and before drydockd?", err)
	}
	if err != nil {
		return Facts{}, err
	}
	vars := Environment(string(data))
	var f Facts
	var errs []error
	for _, fact := range []struct {
		key   string
		value *string
	}{{s.ZoneKey, &f.Zone}, {s.RegionKey, &f.Region}, {s.InstanceKey, &f.InstanceID}, {s.TypeKey, &f.InstanceType}} {
		if fact.key == "" {
			continue
		}
		if *fact.value = vars[fact.key]; *fact.value == "" {
			errs = append(errs, fmt.Errorf("%s holds no %s: see there which variables this cloud has", s.File, fact.key))
		}
	}
	return f, errors.Join(errs...)
}

// Environment reads the assignments of an environment file as systemd does
// (systemd.exec(5), EnvironmentFile=; src/basic/env-file.c): lines of KEY=VALUE,
// comments that begin with # or ;, quotes of both kinds, backslashes, and lines
// that a backslash continues. Of two assignments the later counts.
func Environment(text string) map[string]string {
	vars := map[string]string{}
	for text = strings.TrimLeft(text, blanks+newlines); text != ""; text = strings.TrimLeft(text, blanks+newlines) {
		end := strings.IndexAny(text, "="+newlines)
		switch {
		case text[0] == '#' || text[0] == ';':
			_, text = line(text)
		case end < 0:
			return vars
		case text[end] != '=':
			text = text[end:]
		default:
			key := strings.TrimRight(text[:end], blanks)
			vars[key], text = value(text[end+1:])
		}
	}
	return vars
}

const (
	blanks   = " \t"
	newlines = "\n\r"
)

func line(text string) (string, string) {
	if i := strings.IndexAny(text, newlines); i >= 0 {
		return text[:i], text[i:]
	}
	return text, ""
}

// value reads a value: quoted parts, and what is left bare behind them up to the
// line's end. It returns the rest of the text.
func value(text string) (string, string) {
	var b strings.Builder
	for {
		text = strings.TrimLeft(text, blanks)
		switch {
		case text == "" || strings.ContainsRune(newlines, rune(text[0])):
			return b.String(), text
		case text[0] == '\'':
			part, rest, _ := strings.Cut(text[1:], "'")
			b.WriteString(part)
			text = rest
		case text[0] == '"':
			text = double(&b, text[1:])
		default:
			text = bare(&b, text)
			return b.String(), text
		}
	}
}

// double reads up to the closing double quote. In it a backslash escapes only
// what a shell would treat there.
func double(b *strings.Builder, text string) string {
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			return text[i+1:]
		case c == '\\' && i+1 < len(text):
			i++
			if next := text[i]; next != '\n' {
				if !strings.ContainsRune("\"\\`$", rune(next)) {
					b.WriteByte('\\')
				}
				b.WriteByte(next)
			}
		default:
			b.WriteByte(c)
		}
	}
	return ""
}

// bare reads up to the line's end, without the blanks before it. A backslash
// takes the next character as it is, and continues a line at its end.
func bare(b *strings.Builder, text string) string {
	var part strings.Builder
	keep := 0
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case strings.ContainsRune(newlines, rune(c)):
			b.WriteString(part.String()[:keep])
			return text[i:]
		case c == '\\' && i+1 < len(text):
			i++
			if c = text[i]; !strings.ContainsRune(newlines, rune(c)) {
				part.WriteByte(c)
				keep = part.Len()
			}
		default:
			part.WriteByte(c)
			if !strings.ContainsRune(blanks, rune(c)) {
				keep = part.Len()
			}
		}
	}
	b.WriteString(part.String()[:keep])
	return ""
}
