package metrics

import (
	"cmp"
	"time"

	"github.com/drydock-os/drydock/updater"
)

// machineFamilies are what this machine is, does and waits for. All times are by
// its own clock, which drydock_time_seconds shows.
var machineFamilies = []family{
	{name: "drydock_info", kind: "gauge", help: "The version of drydockd; always 1.", labels: []string{"version"},
		values: func(v view, show put) { show(1, v.version) }},
	{name: "drydock_release_info", kind: "gauge", help: "The release that runs, and its slot; always 1.", labels: []string{"release", "slot"},
		values: func(v view, show put) { show(1, v.status.Release, v.status.Booted) }},
	{name: "drydock_new_release_info", kind: "gauge", help: "The release that is offered, written or staged; absent if there is none, else 1.", labels: []string{"release", "state"},
		values: newRelease},
	{name: "drydock_last_rejected_release_info", kind: "gauge", help: "The release that was rejected last and is not forgiven; absent if there is none, else 1.", labels: []string{"release"},
		values: lastRejected},
	{name: "drydock_strategy_info", kind: "gauge", help: "Who decides that the machine reboots; always 1.", labels: []string{"strategy"},
		values: func(v view, show put) { show(1, v.status.Strategy) }},
	{name: "drydock_time_seconds", kind: "gauge", help: "The machine's clock, when this was made.",
		values: func(v view, show put) { show(unix(v.now)) }},
	{name: "drydock_started_timestamp_seconds", kind: "gauge", help: "When drydockd was started.",
		values: func(v view, show put) { since(show, v.started) }},
	{name: "drydock_pulse_timestamp_seconds", kind: "gauge", help: "The updater's last sign of life; a drain, a hook or a health check may be silent for as long as it may take.",
		values: func(v view, show put) { since(show, v.beat) }},
	{name: "drydock_last_check_timestamp_seconds", kind: "gauge", help: "When the update server last answered a check; 0: never.",
		values: func(v view, show put) { show(unix(v.status.LastChecked)) }},
	{name: "drydock_next_check_timestamp_seconds", kind: "gauge", help: "When it is asked next.",
		values: func(v view, show put) { since(show, v.status.NextCheck) }},
	{name: "drydock_last_error_timestamp_seconds", kind: "gauge", help: "The last error since the start; absent: none.",
		values: func(v view, show put) { since(show, v.status.LastErrorAt) }},
	{name: "drydock_last_result_timestamp_seconds", kind: "gauge", help: "When each of these last happened to a release; absent: not that the machine remembers.", labels: []string{"result"},
		values: lastResults},
	{name: "drydock_step", kind: "gauge", help: "What is being done: 1 for one step, 0 for the others.", labels: []string{"step"},
		values: func(v view, show put) { states(show, stepNames, v.status.Step.String()) }},
	{name: "drydock_step_began_timestamp_seconds", kind: "gauge", help: "When that step began, or the daemon.",
		values: func(v view, show put) { since(show, v.began) }},
	{name: "drydock_operation", kind: "gauge", help: "What clients of com.coreos.update1 are told: 1 for one operation, 0 for the others.", labels: []string{"operation"},
		values: func(v view, show put) { states(show, operationNames, v.status.Operation.String()) }},
	{name: "drydock_waiting", kind: "gauge", help: "Why nothing (more) is done: 1 for each reason that there is, absent for the others.", labels: []string{"reason"},
		values: waiting},
	{name: "drydock_reboot_wanted", kind: "gauge", help: "A reboot is due, for one of these: 1, else 0.", labels: []string{"for"},
		values: wanted},
	{name: "drydock_written_timestamp_seconds", kind: "gauge", help: "When the release was written that waits for its reboot; absent if none waits.",
		values: writtenAt},
	{name: "drydock_on_trial", kind: "gauge", help: "The running release is not marked good yet: 1.",
		values: func(v view, show put) { show(truth(v.status.OnTrial)) }},
	{name: "drydock_paused", kind: "gauge", help: "An operator paused this machine: 1.",
		values: func(v view, show put) { show(truth(v.status.Paused != "")) }},
	{name: "drydock_drained", kind: "gauge", help: "Work was moved away and is not back: 1.",
		values: func(v view, show put) { show(truth(v.status.Drained)) }},
	{name: "drydock_drain_workloads_left", kind: "gauge", help: "Workloads that still have to leave, of a drain that was begun; absent: there is none.",
		values: func(v view, show put) {
			if d := v.status.Drain; d != nil {
				show(float64(len(d.Left)))
			}
		}},
	{name: "drydock_permit", kind: "gauge", help: "The machine's standing in its group's lock: 1 for one of these, 0 for the others.", labels: []string{"state"},
		values: func(v view, show put) { states(show, permitNames, v.status.Permit) }},
	{name: "drydock_rejected_releases", kind: "gauge", help: "Releases that this machine does not take again.",
		values: func(v view, show put) { show(float64(len(v.status.Rejected))) }},
	{name: "drydock_download_done_bytes", kind: "gauge", help: "Payload bytes of the download under way that are in the slot; absent: there is none.",
		values: func(v view, show put) { downloading(v, show, v.status.Done) }},
	{name: "drydock_download_size_bytes", kind: "gauge", help: "Payload bytes of the download under way; absent: there is none.",
		values: func(v view, show put) { downloading(v, show, v.status.Total) }},
}

// countFamilies are what is counted, across restarts and reboots.
var countFamilies = []family{
	{name: "drydock_checks_total", kind: "counter", help: "Checks with the update server.", labels: []string{"result"},
		values: func(v view, show put) { each(show, checkResults, v.counts.Checks) }},
	{name: "drydock_downloaded_bytes_total", kind: "counter", help: "Payload bytes that were downloaded and written.",
		values: func(v view, show put) { show(float64(v.counts.Downloaded)) }},
	{name: "drydock_results_total", kind: "counter", help: "What became of releases on this machine.", labels: []string{"result"},
		values: func(v view, show put) { each(show, resultNames, v.counts.Results) }},
	{name: "drydock_errors_total", kind: "counter", help: "Errors, by the step in which they came.", labels: []string{"step"},
		values: func(v view, show put) { each(show, stepNames[1:], v.counts.Errors) }}, // not of waiting
	{name: "drydock_write_failures_total", kind: "counter", help: "Releases that were not written, by what stood in the way.", labels: []string{"cause"},
		values: func(v view, show put) { each(show, Causes, v.counts.Writes) }},
	{name: "drydock_hook_failures_total", kind: "counter", help: "Post-install hooks of releases that failed.",
		values: func(v view, show put) { show(float64(v.counts.Hooks)) }},
	{name: "drydock_reboots_total", kind: "counter", help: "Reboots that drydockd asked for.",
		values: func(v view, show put) { show(float64(v.counts.Reboots)) }},
	{name: "drydock_drain_duration_seconds", kind: "histogram", help: "How long drains took, however they ended."},
}

func newRelease(v view, show put) {
	s := v.status
	state := "offered"
	switch {
	case s.NewVersion == "":
		return
	case s.Staged:
		state = "staged"
	case s.Written:
		state = "written"
	}
	show(1, s.NewVersion, state)
}

// lastRejected shows the newest: the list is newest first.
func lastRejected(v view, show put) {
	if len(v.status.Rejected) > 0 {
		show(1, v.status.Rejected[0].Version)
	}
}

func lastResults(v view, show put) {
	shown := map[string]bool{}
	for _, h := range v.history {
		if result := results[h.Type]; result != "" && !shown[result] {
			shown[result] = true
			since(show, h.At, result)
		}
	}
}

func waiting(v view, show put) {
	var kinds []string
	for _, r := range v.status.Reasons {
		kinds = append(kinds, r.Kind)
	}
	for _, reason := range known(kinds) {
		show(1, reason)
	}
}

func wanted(v view, show put) {
	what := v.status.Pending
	if v.status.Written || v.status.Staged {
		what = cmp.Or(what, "update")
	}
	states(show, pendingNames, what)
}

func writtenAt(v view, show put) {
	if !v.status.Written {
		return
	}
	since(show, newest(v.history, updater.EventWritten, v.status.NewVersion))
}

func newest(history []updater.HistoryEntry, t updater.EventType, version string) time.Time {
	for _, h := range history {
		if h.Type == t && h.Version == version {
			return h.At
		}
	}
	return time.Time{}
}

func downloading(v view, show put, bytes int64) {
	if v.status.Operation == updater.Downloading {
		show(float64(bytes))
	}
}
