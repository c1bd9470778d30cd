package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"unicode/utf8"
)

// Release is what an os-release file says of the system it belongs to.
type Release struct {
	ID        string // ID, "linux" if not set
	Version   string // VERSION, for people
	VersionID string // VERSION_ID, for comparing
	Name      string // NAME, "Linux" if not set
	Pretty    string // PRETTY_NAME, "Linux" if not set
	Fields    map[string]string
}

const (
	// maxRelease bounds an os-release file, in bytes. Real ones have some
	// hundreds.
	maxRelease = 64 << 10
	// maxFields bounds the fields of an os-release file.
	maxFields = 256
)

// releaseNames are where an os-release file stands in an image of /usr and in
// one of a whole system. /etc is last: it is the operator's, the others came
// with the release.
var releaseNames = []string{"lib/os-release", "usr/lib/os-release", "etc/os-release"}

// OSRelease returns the release that the file system in img says it is, by
// lib/os-release, usr/lib/os-release or etc/os-release: the first that is there
// counts, also if it cannot be read. None is fs.ErrNotExist.
func OSRelease(img io.ReaderAt, size int64) (Release, error) {
	root, err := open(img, size)
	if err != nil {
		return Release{}, fmt.Errorf("read os-release from image: %w", err)
	}
	return findRelease(root)
}

// TreeRelease is OSRelease for a directory tree: a mounted slot, or a running
// system. Symbolic links are followed as if the tree's root were the root
// directory.
func TreeRelease(tree fs.ReadLinkFS) (Release, error) {
	return findRelease(treeNode{fsys: tree, path: ".", mode: fs.ModeDir})
}

func findRelease(root node) (Release, error) {
	for _, name := range releaseNames {
		data, err := read(root, name, maxRelease)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Release{}, fmt.Errorf("read %s: %w", name, err)
		}
		return ParseOSRelease(data)
	}
	return Release{}, fmt.Errorf("read os-release: %w", fs.ErrNotExist)
}

// Number is the version that tells a release from others: VERSION_ID, or
// VERSION where there is none.
func (r Release) Number() string {
	if r.VersionID != "" {
		return r.VersionID
	}
	return r.Version
}

// ParseOSRelease parses an os-release file (os-release(5)): shell-compatible
// assignments, one a line, without expansion of any kind. The last assignment
// of a name counts. A line that is neither an assignment nor a comment is an
// error, because a shell would not read past it either.
func ParseOSRelease(data []byte) (Release, error) {
	if len(data) > maxRelease {
		return Release{}, fmt.Errorf("parse os-release: %d bytes, limit %d", len(data), maxRelease)
	}
	if !utf8.Valid(data) {
		return Release{}, errors.New("parse os-release: not UTF-8")
	}
	fields := map[string]string{}
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		key, raw, ok := strings.Cut(line, "=")
		if !ok || !isName(key) {
			return Release{}, fmt.Errorf("parse os-release: line %d is not an assignment", i+1)
		}
		value, err := unquote(raw)
		if err != nil {
			return Release{}, fmt.Errorf("parse os-release: line %d: %w", i+1, err)
		}
		if fields[key] = value; len(fields) > maxFields {
			return Release{}, fmt.Errorf("parse os-release: more than %d fields", maxFields)
		}
	}
	return release(fields), nil
}

func release(fields map[string]string) Release {
	or := func(key, fallback string) string {
		if v := fields[key]; v != "" {
			return v
		}
		return fallback
	}
	return Release{
		ID:        or("ID", "linux"),
		Version:   fields["VERSION"],
		VersionID: fields["VERSION_ID"],
		Name:      or("NAME", "Linux"),
		Pretty:    or("PRETTY_NAME", "Linux"),
		Fields:    fields,
	}
}

// isName says whether s may be the name of a shell variable.
func isName(s string) bool {
	for i, c := range s {
		letter := c == '_' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// unquote returns the value that a shell would assign for raw. What a shell
// would expand, or end the assignment at, is an error.
func unquote(raw string) (string, error) {
	var out strings.Builder
	var quote byte // the quote we are in, or 0
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		switch {
		case c == '\\' && quote != '\'':
			if i++; i == len(raw) {
				return "", errors.New("ends in a backslash")
			}
			if quote == '"' && !strings.ContainsRune("\"$`\\", rune(raw[i])) {
				out.WriteByte('\\')
			}
			out.WriteByte(raw[i])
		case c == quote && quote != 0:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote == 0 && strings.ContainsRune(" \t;&|<>()", rune(c)):
			return "", fmt.Errorf("%q stands outside quotes", c)
		case quote != '\'' && (c == '$' || c == '`'):
			return "", fmt.Errorf("%q would be expanded", c)
		default:
			out.WriteByte(c)
		}
	}
	if quote != 0 {
		return "", errors.New("quote is not closed")
	}
	return out.String(), nil
}
