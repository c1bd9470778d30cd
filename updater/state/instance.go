package state

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// instanceFile is the instance-id's name in the state directory.
const instanceFile = "instance-id"

// InstanceID returns the random instance-id kept in dir, 32 hexadecimal
// digits, and makes it, and dir, on first use. It tells this installation from
// a reinstalled or cloned one with the same machine-id.
//
// What is not an instance-id is put aside with the suffix ".bad" and a new one
// is made: the cluster then sees another machine, which inherits no permit.
func InstanceID(dir string) (string, error) {
	path := filepath.Join(dir, instanceFile)
	data, err := os.ReadFile(path)
	if err == nil {
		id := strings.TrimSpace(string(data))
		if raw, err := hex.DecodeString(id); err == nil && len(raw) == 16 {
			return id, nil
		}
		err = os.Rename(path, path+".bad")
	} else if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(dir, 0o700); err == nil {
			err = disk{}.SyncDir(filepath.Dir(filepath.Clean(dir)))
		}
	}
	if err != nil {
		return "", fmt.Errorf("read instance-id: %w", err)
	}
	raw := make([]byte, 16)
	rand.Read(raw) // never fails: crypto/rand ends the program instead
	id := hex.EncodeToString(raw)
	if err := Write(path, []byte(id+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("make instance-id: %w", err)
	}
	return id, nil
}
