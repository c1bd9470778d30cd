package partition

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

const (
	loaderConf    = "loader/loader.conf"
	loaderConfNew = "loader/drydock.new"
	// selection is the pattern of loader.conf that selects a slot while it is
	// good or has tries left. %s is the slot's letter.
	selection = "drydock-%s[.+][e1-9]*"
	// efiVariables is where the kernel shows the firmware's variables.
	efiVariables = "/sys/firmware/efi/efivars"
	// loaderVendor is systemd-boot's vendor GUID (Boot Loader Interface).
	loaderVendor = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
)

// conf is loader.conf.
type conf struct {
	data []byte
	// at is where the value of the last line "default" begins, -1 without one.
	at    int
	value string
}

func readConf(dir BootDir) (conf, error) {
	data, err := readFile(dir, loaderConf)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return conf{}, fmt.Errorf("read loader.conf: %w", err)
	}
	return parseConf(data), nil
}

// parseConf finds the last line "default", which counts
// (config_defaults_load_from_file, line_get_key_value).
func parseConf(data []byte) conf {
	c := conf{data: data, at: -1}
	for at := 0; at < len(data); {
		line := data[at:]
		if i := bytes.IndexAny(line, "\r\n"); i >= 0 {
			line = line[:i]
		}
		key := bytes.TrimLeft(line, " \t")
		rest, ok := bytes.CutPrefix(key, []byte("default"))
		if ok && len(rest) > 0 && (rest[0] == ' ' || rest[0] == '\t') {
			value := bytes.TrimLeft(rest, " \t")
			c.at = at + len(line) - len(value)
			c.value = string(bytes.Trim(value, " \t\""))
		}
		at += len(line) + 1
	}
	return c
}

// selected is the slot that our line names.
func (c conf) selected() (Slot, bool) {
	for _, s := range []Slot{A, B} {
		if c.value == fmt.Sprintf(selection, s.letter()) {
			return s, true
		}
	}
	return A, false
}

// selectSlot writes the selection. Where the line is there already one byte
// changes, in place: a single sector, which is written whole or not at all.
// Otherwise the file is replaced; a power cut may leave the old one, the new one
// or none, and the loader then takes the newest of the UKIs, which are intact.
func selectSlot(dir BootDir, s Slot) error {
	c, err := readConf(dir)
	if err != nil {
		return err
	}
	old, ok := c.selected()
	if ok && old == s {
		return nil
	}
	if ok {
		f, err := dir.Open(loaderConf)
		if err != nil {
			return err
		}
		at := c.at + bytes.Index(c.data[c.at:], []byte("drydock-")) + len("drydock-")
		_, err = f.WriteAt([]byte(s.letter()), int64(at))
		if err == nil {
			err = f.Sync()
		}
		return errors.Join(err, f.Close())
	}
	line := fmt.Sprintf("# The next line is Drydock's: its letter selects the slot.\ndefault "+selection+"\n", s.letter())
	data := c.data
	if len(data) > 0 && data[len(data)-1] != '\n' {
		data = append(data, '\n')
	}
	return replaceFile(dir, loaderConf, loaderConfNew, append(data, line...))
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

// pinned says whether something selects a boot entry past our line: another
// line "default", or a variable of the firmware.
func pinned(dir BootDir, variables fs.FS) error {
	c, err := readConf(dir)
	if err != nil {
		return err
	}
	if _, ours := c.selected(); c.at >= 0 && !ours {
		return fmt.Errorf("%w: loader.conf says \"default %s\", which boots it whether it has tries left or not: remove that line", ErrPinned, c.value)
	}
	if variables == nil {
		variables = os.DirFS(efiVariables)
	}
	for _, name := range []string{"LoaderEntryOneShot", "LoaderEntryDefault", "LoaderEntryPreferred"} {
		data, err := fs.ReadFile(variables, name+"-"+loaderVendor)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read EFI variable: %w", err)
		}
		if value := utf16Variable(data); value != "" {
			return fmt.Errorf("%w: the EFI variable %s says %q: clear it with bootctl set-%s ''", ErrPinned, name, value, strings.ToLower(strings.TrimPrefix(name, "LoaderEntry")))
		}
	}
	return nil
}

// utf16Variable is the text of a variable as efivarfs shows it: four bytes of
// attributes, then UTF-16.
func utf16Variable(data []byte) string {
	if len(data) < 4 {
		return ""
	}
	return decodeLabel(data[4:])
}
