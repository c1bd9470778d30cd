package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A problem is one thing that is wrong with a policy file.
type problem struct {
	line  int    // from 1; 0: of no line
	key   string // "" for the file as a whole
	why   string
	fatal bool // so wrong that nothing else in the file can be judged
}

type problems []problem

// Bounds of one error: past so many problems it is the wrong file, and a message
// that is so long quotes too much of it.
const (
	maxProblems = 50
	maxWhy      = 400 // bytes
)

// in returns one error that lists ps in the order of the file's lines.
func (ps problems) in(path string) error {
	slices.SortStableFunc(ps, func(a, b problem) int {
		return cmp.Or(cmp.Compare(a.line, b.line), cmp.Compare(a.key, b.key))
	})
	var errs []error
	for i, p := range ps {
		if i == maxProblems {
			errs = append(errs, fmt.Errorf("%s: and %d more", path, len(ps)-i))
			break
		}
		where := path
		if p.line > 0 {
			where = fmt.Sprintf("%s:%d", path, p.line)
		}
		if p.key != "" {
			where += ": " + p.key
		}
		if len(p.why) > maxWhy {
			p.why = strings.ToValidUTF8(p.why[:maxWhy], "") + "…"
		}
		errs = append(errs, fmt.Errorf("%s: %s", where, p.why))
	}
	return errors.Join(errs...)
}

// touches reports whether ps says something of key, or of what holds it or is
// held by it.
func (ps problems) touches(key string) bool {
	return ps.below(key) || slices.ContainsFunc(ps, func(p problem) bool { return within(key, p.key) })
}

// below reports whether ps says something of key or of what it holds.
func (ps problems) below(key string) bool {
	return slices.ContainsFunc(ps, func(p problem) bool { return within(p.key, key) })
}

// within reports whether key is table or inside of it.
func within(key, table string) bool {
	rest, ok := strings.CutPrefix(key, table)
	return ok && (rest == "" || table == "" || rest[0] == '.' || rest[0] == '[')
}

// strip takes go-toml's name from its messages.
func strip(message string) string { return strings.TrimPrefix(message, "toml: ") }
