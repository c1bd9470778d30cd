package config

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// maxDepth bounds the nesting of keys. The deepest known key has three parts,
// and viper spends memory on the square of the depth.
const maxDepth = 8

// A place knows where each key of a file stands, to the line. It serves messages
// alone: what the file says is viper's to decode.
type place struct {
	known known
	lines map[string]int // line by key, as in reboot.windows[1].length
	lists map[string]int // tables so far in each [[list]]
	items []string       // the keys of all tables in lists
	found problems

	parser unstable.Parser
	offset int // up to where lines are counted
	line   int // at offset
}

// survey walks through the syntax of a file and returns where its keys are, and
// a problem for each key that is not known and for each that a list's table
// lacks. It stops silently at what is no TOML: the decoder says that better.
func survey(data []byte, k known) (*place, problems) {
	s := &place{known: k, lines: map[string]int{}, lists: map[string]int{}, line: 1}
	s.parser.Reset(data)
	table := ""
	for s.parser.NextExpression() {
		switch e := s.parser.Expression(); e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = s.header(e)
		case unstable.KeyValue:
			s.keyValue(table, e)
		}
		if n := len(s.found); n > 0 && s.found[n-1].fatal {
			return s, s.found[n-1:]
		}
	}
	if s.parser.Error() == nil {
		s.missing()
	}
	return s, s.found
}

// header notes a table's name and returns it.
func (s *place) header(e *unstable.Node) string {
	table := ""
	keys := e.Key()
	for keys.Next() {
		if deep(table) {
			s.tooDeep(keys.Node())
			return ""
		}
		table = s.note(table, keys.Node())
		n, listed := s.lists[table]
		switch {
		case keys.IsLast() && e.Kind == unstable.ArrayTable:
			s.lists[table]++
			table = fmt.Sprintf("%s[%d]", table, n)
			s.lines[table] = s.line
			s.items = append(s.items, table)
		case listed: // [list.sub] is part of the list's last table
			table = fmt.Sprintf("%s[%d]", table, n-1)
		}
	}
	return table
}

// keyValue notes a key below table, and what its value holds.
func (s *place) keyValue(table string, e *unstable.Node) {
	keys := e.Key()
	for keys.Next() {
		if deep(table) {
			s.tooDeep(keys.Node())
			return
		}
		table = s.note(table, keys.Node())
	}
	s.value(table, e.Value(), 0)
}

func (s *place) value(key string, v *unstable.Node, depth int) {
	if depth == maxDepth {
		s.tooDeep(v)
		return
	}
	children := v.Children()
	for i := 0; children.Next(); i++ {
		switch child := children.Node(); v.Kind {
		case unstable.InlineTable:
			s.keyValue(key, child)
		case unstable.Array:
			element := fmt.Sprintf("%s[%d]", key, i)
			s.count(child)
			s.lines[element] = s.line
			if child.Kind == unstable.InlineTable {
				s.items = append(s.items, element)
			}
			s.value(element, child, depth+1)
		}
	}
}

// note remembers the line of one part of a key and returns the key so far. The
// first unknown part is a problem; what is below it is not looked at.
func (s *place) note(table string, part *unstable.Node) string {
	s.count(part)
	key := join(table, string(part.Data))
	if _, seen := s.lines[key]; seen {
		return key
	}
	s.lines[key] = s.line
	if s.known.has(table) && !s.known.has(key) {
		s.found = append(s.found, problem{line: s.line, key: key, why: s.unknown(key)})
	}
	return key
}

func (s *place) unknown(key string) string {
	if len(s.found) < maxProblems { // nobody reads further
		if near := Nearest(unindexed(key), s.known.names); near != "" {
			return fmt.Sprintf("unknown key: did you mean %s?", near)
		}
	}
	return "unknown key"
}

// count brings the line up to where a key or a value stands.
func (s *place) count(n *unstable.Node) {
	if at := int(n.Raw.Offset); at > s.offset {
		s.line += bytes.Count(s.parser.Data()[s.offset:at], []byte("\n"))
		s.offset = at
	}
}

func (s *place) tooDeep(n *unstable.Node) {
	s.count(n)
	s.found = append(s.found, problem{line: s.line, why: "tables and lists are nested too deeply", fatal: true})
}

// deep reports whether a key has as many parts as any may have.
func deep(key string) bool { return strings.Count(key, ".") >= maxDepth-1 }

// missing adds a problem for each key that a table in a list lacks: there is no
// default for one window's start.
func (s *place) missing() {
	for _, table := range s.items {
		base := unindexed(table)
		if !slices.Contains(s.known.lists, base) {
			continue
		}
		for _, name := range s.known.needs(base) {
			if _, there := s.lines[join(table, name)]; !there {
				s.found = append(s.found, problem{line: s.lines[table], key: join(table, name), why: "is missing"})
			}
		}
	}
}

// locate returns p with the line of its key, or of what holds it.
func (s *place) locate(p problem) problem {
	for key := p.key; key != "" && p.line == 0; key = key[:max(strings.LastIndexAny(key, ".["), 0)] {
		p.line = s.lines[key]
	}
	return p
}

// join adds a part to a key, in quotes where TOML would need them, and cut
// short where no known key is as long.
func join(table, part string) string {
	if len(part) > maxSlips {
		part = part[:maxSlips] + "…"
	}
	if part == "" || strings.ContainsFunc(part, func(r rune) bool { return !bare(r) }) {
		part = strconv.Quote(part)
	}
	if table == "" {
		return part
	}
	return table + "." + part
}

func bare(r rune) bool {
	return r == '-' || r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
}
