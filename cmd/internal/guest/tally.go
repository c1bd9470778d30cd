package guest

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
)

// tally counts what the machines of each test did.
var tally struct {
	sync.Mutex
	tests map[string]map[string]int
	began map[string]time.Time
	took  map[string]time.Duration
}

// columns of the table, in order.
var columns = []string{"boots", "updates", "power cuts", "rollbacks", "lost"}

func (l *Lab) count(t testing.TB, what string) { Count(t, what, 1) }

// Count notes that a test's machines did n of what: "boots", "updates", "power
// cuts", "rollbacks", or "lost", which nothing may be.
func Count(t testing.TB, what string, n int) {
	tally.Lock()
	defer tally.Unlock()
	if tally.tests == nil {
		tally.tests, tally.began, tally.took = map[string]map[string]int{}, map[string]time.Time{}, map[string]time.Duration{}
	}
	if tally.tests[t.Name()] == nil {
		tally.tests[t.Name()] = map[string]int{}
		tally.began[t.Name()] = time.Now()
	}
	tally.tests[t.Name()][what] += n
	tally.took[t.Name()] = time.Since(tally.began[t.Name()])
}

// WriteTable prints what was counted, a line for each test.
func WriteTable(w io.Writer) {
	tally.Lock()
	defer tally.Unlock()
	if len(tally.tests) == 0 {
		return
	}
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(out, "test\t")
	for _, c := range columns {
		fmt.Fprint(out, c, "\t")
	}
	fmt.Fprintln(out, "minutes\t")
	sum := map[string]int{}
	for _, name := range slices.Sorted(maps.Keys(tally.tests)) {
		fmt.Fprint(out, name, "\t")
		for _, c := range columns {
			n := tally.tests[name][c]
			sum[c] += n
			fmt.Fprint(out, n, "\t")
		}
		fmt.Fprintf(out, "%.1f\t\n", tally.took[name].Minutes())
	}
	fmt.Fprint(out, "all\t")
	for _, c := range columns {
		fmt.Fprint(out, sum[c], "\t")
	}
	fmt.Fprintln(out, "\t")
	out.Flush()
}
