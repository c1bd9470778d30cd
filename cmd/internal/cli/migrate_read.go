package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/drydock-os/drydock/cmd/internal/config"
	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater/platform"
)

// A variable is one of locksmithd's environment.
type variable struct{ value, from string }

// semaphore is locksmith's record in etcd (locksmith, lock/semaphore.go).
type semaphore struct {
	Max     int      `json:"max"`
	Holders []string `json:"holders"`
}

// A migration is what was read, and on its way to what is made of it.
type migration struct {
	engine    config.Flatcar
	vars      map[string]variable
	cluster   string
	semaphore *semaphore

	sources         []string // files that were read
	engineMasked    bool     // update-engine.service cannot start
	locksmithMasked bool     // nor can locksmithd.service
	lastEndpoint    bool     // --endpoint was given more than once

	settings []migratedSetting
	notes    []string
	entries  []entry
}

// Where systemd finds units, from what counts least to what counts most.
var unitDirs = []string{"/usr/lib/systemd/system", "/run/systemd/system", "/etc/systemd/system"}

// The files that locksmithd.service takes its environment from, the later one
// over the earlier one, and both over the unit's own Environment=.
var environmentFiles = []string{"/usr/share/flatcar/update.conf", "/etc/flatcar/update.conf"}

func readLocksmith(l legacy) (*migration, error) {
	if err := rebootlock.CheckName("the cluster", l.cluster); err != nil {
		return nil, usage("--cluster: %v", err)
	}
	m := &migration{vars: map[string]variable{}, cluster: l.cluster, settings: []migratedSetting{}, notes: []string{}}
	if l.updateConf == "" && l.root == "" {
		l.root = "/"
	}
	var flags map[string]variable
	if l.root != "" {
		if info, err := os.Stat(l.root); err != nil || !info.IsDir() {
			return nil, errors.Join(fmt.Errorf("--root %s is no directory", l.root), err)
		}
		var err error
		if flags, err = m.readUnits(l.root); err != nil {
			return nil, err
		}
		m.engineMasked = masked(l.root, "update-engine.service")
		m.locksmithMasked = masked(l.root, "locksmithd.service")
	}
	if err := m.readConf(l); err != nil {
		return nil, err
	}
	maps.Copy(m.vars, flags)
	if len(m.sources) == 0 {
		return nil, fmt.Errorf("find update.conf below %s: there is none, nor settings of locksmithd.service: is this a Flatcar host? Name a file with --update-conf", l.root)
	}
	return m, m.readSemaphore(l.semaphore)
}

// readConf reads update.conf, as the update engine does and as systemd does.
func (m *migration) readConf(l legacy) (err error) {
	files := []string{l.updateConf}
	if l.updateConf != "" {
		m.engine, err = config.ReadUpdateConf(l.updateConf)
	} else {
		m.engine, err = config.ReadFlatcar(l.root)
		files = nil
		for _, name := range environmentFiles {
			files = append(files, filepath.Join(l.root, name))
		}
	}
	if err != nil {
		return err
	}
	for _, name := range files {
		data, err := readSmall(name)
		if l.updateConf == "" && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read update.conf: %w", err)
		}
		m.sources = append(m.sources, name)
		for key, value := range platform.Environment(string(data)) {
			m.vars[key] = variable{value, name}
		}
	}
	return nil
}

// readUnits reads what locksmithd.service and its drop-ins say, and returns what
// its command line does, which counts over the environment.
func (m *migration) readUnits(root string) (map[string]variable, error) {
	files := map[string]string{} // by name: one in /etc takes the place of one in /usr
	unit := ""
	for _, dir := range unitDirs {
		name := filepath.Join(root, dir, "locksmithd.service")
		if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
			unit = name
		}
		found, err := filepath.Glob(filepath.Join(name+".d", "*.conf"))
		if err != nil {
			return nil, fmt.Errorf("find drop-ins: %w", err)
		}
		for _, f := range found {
			files[filepath.Base(f)] = f
		}
	}
	paths := []string{}
	if unit != "" {
		paths = append(paths, unit)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if info, err := os.Stat(files[name]); err == nil && info.Mode().IsRegular() { // a link to /dev/null masks one
			paths = append(paths, files[name])
		}
	}
	var command variable
	for _, path := range paths {
		data, err := readSmall(path)
		if err != nil {
			return nil, fmt.Errorf("read unit: %w", err)
		}
		m.readUnit(path, string(data), &command)
	}
	return m.flags(command), nil
}

// readUnit takes Environment= and ExecStart= from the [Service] of a unit
// (systemd.exec(5)).
func (m *migration) readUnit(path, text string, command *variable) {
	section, used := "", false
	for line := range strings.SplitSeq(strings.ReplaceAll(text, "\\\n", " "), "\n") {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			section = line
		}
		key, value, _ := strings.Cut(line, "=")
		if section != "[Service]" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "Environment":
			used = m.environment(path, value) || used
		case "ExecStart":
			*command = variable{value, path}
		case "EnvironmentFile":
			if name := strings.TrimPrefix(value, "-"); name != "" && !slices.Contains(environmentFiles, name) {
				m.notes = append(m.notes, fmt.Sprintf("%s: EnvironmentFile=%s is not read: name it with --update-conf if it holds settings", path, value))
			}
		}
	}
	if used {
		m.sources = append(m.sources, path)
	}
}

// environment takes a line's assignments; an empty line drops those before it.
func (m *migration) environment(path, value string) bool {
	if value == "" {
		clear(m.vars)
	}
	for _, word := range words(value) {
		if key, value, ok := strings.Cut(word, "="); ok {
			m.vars[key] = variable{strings.ReplaceAll(value, "%%", "%"), path}
		}
	}
	return value != ""
}

// flags returns locksmithd's flags as the variables that mean the same.
func (m *migration) flags(command variable) map[string]variable {
	found := map[string]variable{}
	args := words(command.value)
	for i := 1; i < len(args); i++ {
		name, value, ok := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		if !strings.HasPrefix(args[i], "-") {
			break // Go's flags end here
		}
		switch {
		case ok:
		case name == "debug" || name == "version":
			value = "true"
		case i+1 < len(args):
			i++
			value = args[i]
		}
		key := "LOCKSMITHD_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		if _, again := found[key]; again && name == "endpoint" {
			m.lastEndpoint = true
		}
		found[key] = variable{value, command.from}
	}
	if len(found) > 0 && !slices.Contains(m.sources, command.from) {
		m.sources = append(m.sources, command.from)
	}
	return found
}

// words splits as systemd does: at blanks that are in no quotes.
func words(s string) []string {
	var all []string
	var word strings.Builder
	var quote byte
	begun := false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && i+1 < len(s):
			i++
			word.WriteByte(s[i])
			begun = true
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote, begun = c, true
		case quote == 0 && (c == ' ' || c == '\t'):
			if begun {
				all = append(all, word.String())
			}
			word.Reset()
			begun = false
		default:
			word.WriteByte(c)
			begun = true
		}
	}
	if begun {
		all = append(all, word.String())
	}
	return all
}

// masked reports whether a unit cannot start: it is a link to /dev/null.
func masked(root, unit string) bool {
	for _, dir := range unitDirs {
		if to, err := os.Readlink(filepath.Join(root, dir, unit)); err == nil && to == "/dev/null" {
			return true
		}
	}
	return false
}

func (m *migration) readSemaphore(name string) error {
	if name == "" {
		return nil
	}
	data, err := readSmall(name)
	if err != nil {
		return fmt.Errorf("read semaphore: %w", err)
	}
	m.semaphore = &semaphore{}
	if err := json.Unmarshal(data, m.semaphore); err != nil {
		return fmt.Errorf("read semaphore %s: %w: it is the value of locksmith's key in etcd, like {\"semaphore\":1,\"max\":1,\"holders\":null}", name, err)
	}
	return nil
}
