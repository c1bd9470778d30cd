package metrics

import (
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/drydock-os/drydock/updater"
)

// A put shows one value, with a value for each of the family's labels.
type put func(value float64, labels ...string)

// A family is one metric: dist/prometheus/METRICS.md has a line for each.
type family struct {
	name   string
	kind   string // "gauge", "counter", "histogram"
	help   string
	labels []string
	values func(v view, show put)
	desc   *prometheus.Desc
}

// families are all that is shown.
var families = described(machineFamilies, countFamilies, lockFamilies, groupFamilies)

func described(tables ...[]family) []family {
	all := slices.Concat(tables...)
	for i, f := range all {
		all[i].desc = prometheus.NewDesc(f.name, f.help, f.labels, nil)
	}
	return all
}

// collect sends what a family has to show.
func (f family) collect(v view, ch chan<- prometheus.Metric) {
	if f.kind == "histogram" {
		ch <- drainHistogram(f.desc, v.counts.Drains)
		return
	}
	kind := prometheus.GaugeValue
	if f.kind == "counter" {
		kind = prometheus.CounterValue
	}
	f.values(v, func(value float64, labels ...string) {
		for i := range labels {
			labels[i] = clean(labels[i])
		}
		ch <- prometheus.MustNewConstMetric(f.desc, kind, value, labels...)
	})
}

func drainHistogram(desc *prometheus.Desc, d Drains) prometheus.Metric {
	buckets := map[float64]uint64{}
	for _, bound := range drainBounds {
		buckets[bound] = d.Within[boundName(bound)]
	}
	return prometheus.MustNewConstHistogram(desc, d.Count, d.Seconds, buckets)
}

// maxLabel bounds a label's value in bytes: versions and names come from a server,
// a cluster or a disk.
const maxLabel = 128

// clean makes a label's value of what came from outside.
func clean(s string) string {
	if len(s) > maxLabel {
		s = s[:maxLabel]
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// Reasons are the words that say why nothing is done, or granted: kinds of
// updater.Reason. Any other is shown as "other", so that their number is bounded.
var Reasons = []string{
	"absent", "booking", "bus", "by-hand", "check", "clock", "clone", "cluster", "coordinator", "current", "damage", "disabled", "download-window", "drain",
	"etcd", "failed", "flatcar", "fleetlock", "freeze", "full", "gate", "gpt", "group", "health", "hook", "http", "inhibitor", "keep-previous", "keys",
	"lock", "logind", "member", "memory", "metrics", "notes", "operator", "overdue", "pause", "paused", "permit", "platform", "policy", "queued",
	"reinstalled", "rejected", "retry", "return", "rollback", "rules", "scheduler", "server", "session", "shadow", "staged", "stopped", "strategy", "stuck",
	"unit", "unknown", "upstream", "version", "window", "zone", other,
}

const other = "other"

// known is the reasons among kinds, each once, in order.
func known(kinds []string) []string {
	kinds = slices.Clone(kinds)
	for i, kind := range kinds {
		kinds[i] = among(Reasons, kind)
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}

// among is a word, if it is one of words.
func among(words []string, word string) string {
	if slices.Contains(words, word) {
		return word
	}
	return other
}

// states shows each word of a closed set, 1 for the one that holds.
func states(show put, words []string, holds string) {
	for _, word := range words {
		show(truth(word == holds), word)
	}
}

// each shows a counter for each word of a closed set.
func each(show put, words []string, counts map[string]uint64) {
	for _, word := range words {
		show(float64(counts[word]), word)
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// unix is a time in Unix seconds; 0 for the zero time.
func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// since shows a time that has come.
func since(show put, t time.Time, labels ...string) {
	if !t.IsZero() {
		show(unix(t), labels...)
	}
}

var (
	stepNames      = words(updater.Wait, updater.Release)
	operationNames = words(updater.Idle, updater.ReportingError)
	permitNames    = []string{"none", "queued", "held", "unknown"}
	pendingNames   = []string{"update", "rollback", "reboot"}
)

// words are the names of all values from first to last.
func words[T interface {
	~uint8
	String() string
}](first, last T) (names []string) {
	for w := first; w <= last; w++ {
		names = append(names, w.String())
	}
	return names
}
