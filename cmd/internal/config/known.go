package config

import (
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// known are the keys that a file may hold, tables among them, in the order of
// the type that it is decoded into. The tables of a list have no index:
// reboot.windows.start.
type known struct {
	names    []string
	lists    []string // those of names that hold tables
	optional []string // those of names that a list's table may leave out
}

func knownKeys[T any]() known {
	var k known
	k.add("", reflect.TypeFor[T]())
	return k
}

func (k *known) add(table string, t reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag, option, _ := strings.Cut(f.Tag.Get("mapstructure"), ",")
		if tag == "-" {
			continue
		}
		if option == "squash" {
			k.add(table, f.Type)
			continue
		}
		key := join(table, tag)
		k.names = append(k.names, key)
		if option == "omitempty" {
			k.optional = append(k.optional, key)
		}
		inner := f.Type
		if inner.Kind() == reflect.Slice {
			inner = inner.Elem()
		}
		if inner.Kind() != reflect.Struct || isText(inner) {
			continue
		}
		if inner != f.Type {
			k.lists = append(k.lists, key)
		}
		k.add(key, inner)
	}
}

// needs returns what a table of the list must hold.
func (k known) needs(list string) []string {
	var names []string
	for _, key := range k.names {
		name, ok := strings.CutPrefix(key, list+".")
		if ok && !strings.Contains(name, ".") && !slices.Contains(k.optional, key) {
			names = append(names, name)
		}
	}
	return names
}

// has reports whether key, with or without indexes, is known. The file as a
// whole, "", is.
func (k known) has(key string) bool {
	key = unindexed(key)
	return key == "" || slices.Contains(k.names, key)
}

var index = regexp.MustCompile(`\[[0-9]+\]`)

// unindexed returns a key without its indexes.
func unindexed(key string) string { return index.ReplaceAllString(key, "") }

// maxDistance is from where on a key is another key, and no slip.
const maxDistance = 4

// Nearest returns the known key that key most likely stands for, or "" where
// none is near: a slip or two, the right name in the wrong table, or a part of
// the name.
func Nearest(key string, known []string) string {
	best, least := "", min(1+len(lastPart(key))/3, maxDistance)
	for _, name := range known {
		if d := distance(strings.ToLower(key), name); d <= least {
			best, least = name, d-1
		}
	}
	return best
}

// distance counts the slips between two keys. The same slips in another table
// are one more, whatever the tables are called.
func distance(key, name string) int {
	d := slips(key, name)
	part, known := lastPart(key), lastPart(name)
	if len(part) < 3 || known == name {
		return d
	}
	away := 1
	if strings.TrimSuffix(key, part) == strings.TrimSuffix(name, known) {
		away = 0
	}
	if strings.HasPrefix(known, part+"_") || strings.HasSuffix(known, "_"+part) {
		return min(d, away+1)
	}
	return min(d, away+slips(part, known))
}

func lastPart(key string) string {
	return strings.Trim(key[strings.LastIndexByte(key, '.')+1:], `"`)
}

// maxSlips bounds the length of what is compared: no known key is as long.
const maxSlips = 64

// slips is the optimal string alignment distance: insertions, deletions,
// substitutions and swaps of neighbours, where - and _ are the same.
func slips(a, b string) int {
	if len(a) > maxSlips || len(b) > maxSlips {
		return maxSlips
	}
	a, b = strings.ReplaceAll(a, "-", "_"), strings.ReplaceAll(b, "-", "_")
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
