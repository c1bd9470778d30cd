package bus

import "github.com/drydock-os/drydock/updater"

// isJob are the actions that take long enough to be jobs.
var isJob = map[updater.Action]bool{
	updater.ActCheck: true, updater.ActUpdate: true, updater.ActRollback: true, updater.ActReboot: true,
	updater.ActMarkGood: true, updater.ActMarkBad: true, updater.ActReset: true,
}
