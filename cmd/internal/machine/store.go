package machine

import (
	"path/filepath"

	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/host"
)

// Store is the machine's memory in the state directory, and says so when that
// is full. It implements updater.Store.
type Store struct{ File updater.MemoryFile }

// Load implements updater.Store.
func (s Store) Load() (updater.Memory, error) { return s.File.Load() }

// Save implements updater.Store.
func (s Store) Save(m updater.Memory) error {
	return host.NoSpace(filepath.Dir(s.File.Path), s.File.Save(m))
}
