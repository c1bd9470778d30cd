package hook

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"

	"github.com/drydock-os/drydock/fleetlink"
)

const (
	// maxList bounds the workloads of one list: kubelet's limit of pods on a node
	// is 110, and no machine runs thousands.
	maxList = 4096
	// maxName and maxWhy bound a workload's name and reason, in bytes, as status
	// and the fleet's view show them; what is longer is cut.
	maxName = 253
	maxWhy  = 512
)

// lists reads the lists of workloads that a hook writes (HOOKS.md, section 5).
type lists struct {
	told func([]fleetlink.Workload) // each that ends with an empty line; may be nil
	list []fleetlink.Workload       // that is being read
	last []fleetlink.Workload       // that was complete
	some bool                       // a line of list was read
	err  error                      // what is no list
}

// line reads one line.
func (l *lists) line(text string) {
	text = strings.TrimSpace(text)
	if l.err != nil {
		return
	}
	if text == "" {
		l.last, l.list, l.some = l.list, nil, false
		if l.told != nil {
			l.told(l.last)
		}
		return
	}
	w, err := parse(text)
	switch {
	case err != nil:
		l.err = err
	case len(l.list) == maxList:
		l.err = fmt.Errorf("it named more than %d workloads", maxList)
	default:
		l.list, l.some = append(l.list, w), true
	}
}

// end is the list that a hook ended with: the one that it did not complete, or
// else the last.
func (l *lists) end() []fleetlink.Workload {
	if l.some {
		return l.list
	}
	return l.last
}

// parse reads a line that names a workload: "shop/web: its budget allows none",
// or {"name":"shop/web","why":"its budget allows none","forbids":true}.
func parse(text string) (w fleetlink.Workload, err error) {
	if strings.HasPrefix(text, "{") {
		if err := json.Unmarshal([]byte(text), &w); err != nil {
			return w, fmt.Errorf("it wrote %q, which names no workload: %w", clip(text, maxName), err)
		}
	} else {
		w.Name, w.Why, _ = strings.Cut(text, ": ")
	}
	w.Name, w.Why = clip(w.Name, maxName), clip(w.Why, maxWhy)
	if w.Name == "" {
		return w, fmt.Errorf("it wrote %q, which names no workload", clip(text, maxName))
	}
	return w, nil
}

// clip is text that a page can show: on one line, and not too long.
func clip(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsGraphic(r) {
			return ' '
		}
		return r
	}, text)
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most-len("…")], "") + "…"
	}
	return strings.TrimSpace(text)
}
