package partition

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

const (
	loaderConf    = "loader/loader.conf"
	loaderConfNew = "loader/drydock.new"
	// efiVariables is where the kernel shows the firmware's variables.
	efiVariables = "/sys/firmware/efi/efivars"
	// loaderVendor is systemd-boot's vendor GUID (Boot Loader Interface).
	loaderVendor = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
)

// A selection is what our lines of loader.conf say: a slot, and whether it has no
// boot counter.
type selection struct {
	slot Slot
	good bool
}

const selectionComment = "# Drydock selects a slot with these two lines, and changes them in place.\n"

// value is that of the line "default". The comment of SystemdBoot says what it
// matches, and must not.
func (s selection) value() string {
	if s.good {
		return "drydock-" + s.slot.letter() + ".efi"
	}
	return "drydock-" + s.slot.letter() + "+[1-9]*"
}

// text are the lines, the same number of bytes whatever they select.
func (s selection) text() string {
	return fmt.Sprintf("%sdefault %-16s\npreferred drydock-%s.efi\n", selectionComment, s.value(), s.slot.letter())
}

// conf is loader.conf.
type conf struct {
	data                 []byte
	byDefault, preferred string // the last lines of these keys, which count
}

func readConf(dir BootDir) (conf, error) {
	data, err := readFile(dir, loaderConf)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return conf{}, fmt.Errorf("read loader.conf: %w", err)
	}
	return parseConf(data), nil
}

// parseConf reads as systemd-boot does (config_defaults_load_from_file,
// line_get_key_value).
func parseConf(data []byte) conf {
	c := conf{data: data}
	for _, line := range strings.FieldsFunc(string(data), func(r rune) bool { return r == '\n' || r == '\r' }) {
		switch key, value := parseConfLine(line); key {
		case "default":
			c.byDefault = value
		case "preferred":
			c.preferred = value
		}
	}
	return c
}

func parseConfLine(line string) (key, value string) {
	line = strings.Trim(line, " \t")
	end := strings.IndexAny(line, " \t")
	if end < 0 {
		return "", ""
	}
	return line[:end], strings.Trim(line[end:], " \t\"")
}

// selected is what the lines say, if they are ours.
func (c conf) selected() (selection, bool) {
	for _, s := range []selection{{A, false}, {A, true}, {B, false}, {B, true}} {
		if c.byDefault == s.value() && c.preferred == "drydock-"+s.slot.letter()+".efi" {
			return s, true
		}
	}
	return selection{}, false
}

// foreign is a line that selects something and is not ours, "" if there is none.
func (c conf) foreign() string {
	if _, ours := c.selected(); ours {
		return ""
	}
	if c.byDefault != "" {
		return "default " + c.byDefault
	}
	if c.preferred != "" {
		return "preferred " + c.preferred
	}
	return ""
}

// choose writes the selection. Where the lines stand at the head of the file they
// are overwritten in place: within one sector, which is written whole or not at
// all. Otherwise the file is replaced; a power cut may leave the old one, the new
// one or none, and the loader then takes the newest of the UKIs.
func choose(dir BootDir, s selection) error {
	c, err := readConf(dir)
	if err != nil {
		return err
	}
	old, ours := c.selected()
	if ours && old == s || c.foreign() != "" {
		return nil // a foreign line is left alone: pinned refuses what it would spoil
	}
	if !ours || !strings.HasPrefix(string(c.data), old.text()) {
		return replaceFile(dir, loaderConf, loaderConfNew, []byte(s.text()+c.rest()))
	}
	f, err := dir.Open(loaderConf)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(s.text()), 0)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// rest is the file without our lines.
func (c conf) rest() string {
	var rest strings.Builder
	for line := range strings.Lines(string(c.data)) {
		if key, _ := parseConfLine(strings.TrimRight(line, "\r\n")); key == "default" || key == "preferred" || line == selectionComment {
			continue
		}
		rest.WriteString(line)
	}
	return rest.String()
}

// replaceFile writes a file durably under another name first.
func replaceFile(dir BootDir, name, temporary string, data []byte) error {
	f, err := dir.Create(temporary)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return dir.Rename(temporary, name)
}

// pinned says whether something selects a boot entry past our lines: other lines,
// or a variable of the firmware.
func pinned(dir BootDir, variables fs.FS) error {
	c, err := readConf(dir)
	if err != nil {
		return err
	}
	if line := c.foreign(); line != "" {
		return fmt.Errorf("%w: loader.conf says %q: remove that line, or a release on trial is never booted, or for ever", ErrPinned, line)
	}
	for _, name := range []string{"OneShot", "Default", "Preferred"} {
		value, err := variable(variables, "LoaderEntry"+name)
		if err != nil {
			return err
		}
		if value != "" {
			return fmt.Errorf("%w: the EFI variable LoaderEntry%s says %q: clear it with bootctl set-%s ''", ErrPinned, name, value, strings.ToLower(name))
		}
	}
	return nil
}

// variable reads a variable of the Boot Loader Interface, "" where there is none.
func variable(variables fs.FS, name string) (string, error) {
	if variables == nil {
		variables = os.DirFS(efiVariables)
	}
	data, err := fs.ReadFile(variables, name+"-"+loaderVendor)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read EFI variable: %w", err)
	}
	return utf16Variable(data), nil
}

// loaderVersion is the version of systemd-boot that started this machine, by the
// variable LoaderInfo ("systemd-boot 257.7-1"); unknown, it counts as the newest.
func loaderVersion(variables fs.FS) (int, error) {
	info, err := variable(variables, "LoaderInfo")
	if err != nil {
		return 0, err
	}
	var version int
	if _, err := fmt.Sscanf(info, "systemd-boot %d", &version); err != nil {
		return knowsPreferred, nil
	}
	return version, nil
}

// utf16Variable is the text of a variable as efivarfs shows it: four bytes of
// attributes, then UTF-16.
func utf16Variable(data []byte) string {
	if len(data) < 4 {
		return ""
	}
	return decodeLabel(data[4:])
}
