package updater

import "time"

// A HistoryEntry is one thing that happened to this machine's releases. The
// newest hundred are kept in the state file.
type HistoryEntry struct {
	At      time.Time `json:"at"`
	Type    EventType `json:"type"`
	Version string    `json:"version,omitempty"`
	Message string    `json:"message"`
}
