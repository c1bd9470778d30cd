package rollout

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// looks are the steps as a timeline shows them: their names, and their colours
// on white.
var looks = [...]struct{ name, colour string }{
	idle:       {"not asked yet", "#eceff1"},
	writing:    {"writes the release", "#b39ddb"},
	queued:     {"waits in the queue", "#cfd8dc"},
	draining:   {"drains", "#ffca28"},
	staging:    {"stages", "#fb8c00"},
	rebooting:  {"reboots", "#1e88e5"},
	validating: {"on trial", "#4dd0e1"},
	off:        {"without power", "#37474f"},
	good:       {"updated", "#66bb6a"},
	back:       {"rolled back", "#ab47bc"},
	lost:       {"died with a permit", "#e53935"},
}

// The drawing, in pixels.
const (
	plotLeft, plotTop   = 70, 70
	plotWidth           = 1100
	leastHeight         = 200
	mostRows            = 800 // more machines than that: each n-th is drawn
	legendRow, legendAt = 24, 46
	legendColumns       = 6
)

// WriteSVG draws the timeline as an SVG 1.1 image: a row for each machine, or
// for each n-th of many, in the order in which they got their first permits; time
// goes to the right.
func (t *Timeline) WriteSVG(w io.Writer) error {
	rows := min(len(t.lines), mostRows)
	tall := min(max(leastHeight/rows, 1), 16)
	d := drawing{t: t, order: t.order(), rows: rows, tall: tall, out: bufio.NewWriter(w), span: max(t.end, time.Second)}
	d.head()
	d.axis()
	for s := range looks {
		d.steps(step(s))
	}
	d.legend()
	d.printf("</svg>\n")
	if err := d.out.Flush(); err != nil {
		return fmt.Errorf("write timeline: %w", err)
	}
	return nil
}

type drawing struct {
	t     *Timeline
	order []int // machines
	rows  int
	tall  int // of a row
	span  time.Duration
	out   *bufio.Writer // keeps its first error
}

// order is the machines in the order in which each first began to drain.
func (t *Timeline) order() []int {
	order := make([]int, len(t.lines))
	first := make([]time.Duration, len(t.lines))
	for i, line := range t.lines {
		order[i], first[i] = i, t.end
		if at := slices.IndexFunc(line, func(m mark) bool { return m.step == draining }); at >= 0 {
			first[i] = line[at].at
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(first[a], first[b]) })
	return order
}

func (d *drawing) printf(format string, args ...any) { fmt.Fprintf(d.out, format, args...) }

func (d *drawing) bottom() int { return plotTop + d.rows*d.tall }

func (d *drawing) head() {
	c := d.t.config
	lines := (len(looks) + legendColumns - 1) / legendColumns
	width, height := plotLeft+plotWidth+30, d.bottom()+legendAt+lines*legendRow
	d.printf("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n")
	d.printf("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %[1]d %[2]d\" font-family=\"sans-serif\" font-size=\"13\">\n", width, height)
	title := fmt.Sprintf("Rollout of %d machines, %s permits, %s a reboot, faults %g, seed %d", c.Machines, c.Max, c.Reboot, c.Faults, c.Seed)
	d.printf("<title>%s</title>\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n", title)
	d.printf("<text x=\"%d\" y=\"28\" font-size=\"17\">%s</text>\n", plotLeft, title)
	if n := len(d.t.lines); n > d.rows {
		d.printf("<text x=\"%d\" y=\"48\" fill=\"#555\">%d of them are drawn</text>\n", plotLeft, d.rows)
	}
}

// place is which machine, in their order, a row shows.
func (d *drawing) place(row int) int { return row * len(d.t.lines) / d.rows }

func (d *drawing) x(at time.Duration) float64 {
	return plotLeft + float64(at)/float64(d.span)*plotWidth
}

// units are what ticks of the axis may be apart.
var units = []time.Duration{time.Second, 5 * time.Second, 15 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour, 7 * 24 * time.Hour}

func (d *drawing) axis() {
	apart := units[len(units)-1]
	for _, u := range units {
		if d.span/u <= 12 {
			apart = u
			break
		}
	}
	for apart < d.span/20 {
		apart *= 2
	}
	for at := time.Duration(0); at <= d.span; at += apart {
		d.printf("<path d=\"M%.1f %dV%d\" stroke=\"#ddd\"/><text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\" fill=\"#555\">%s</text>\n",
			d.x(at), plotTop-4, d.bottom()+4, d.x(at), d.bottom()+20, brief(at))
	}
	for _, row := range []int{0, d.rows / 2, d.rows - 1} {
		y := plotTop + row*d.tall + d.tall/2 + 4
		d.printf("<text x=\"%d\" y=\"%d\" text-anchor=\"end\" fill=\"#555\">%d</text>\n", plotLeft-8, y, d.place(row)+1)
	}
	middle := (plotTop + d.bottom()) / 2
	d.printf("<text transform=\"translate(20 %d) rotate(-90)\" text-anchor=\"middle\" fill=\"#555\">machines, by their turn</text>\n", middle)
}

// brief is a duration without the units that are zero.
func brief(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// steps draws all stretches of one step as one path, which keeps the file small.
func (d *drawing) steps(s step) {
	d.printf("<path fill=\"%s\" d=\"", looks[s].colour)
	for row := range d.rows {
		line := d.t.lines[d.order[d.place(row)]]
		for i, m := range line {
			if m.step != s {
				continue
			}
			until := d.span
			if i+1 < len(line) {
				until = line[i+1].at
			}
			from, to := d.x(m.at), d.x(until)
			if to-from < 0.05 {
				continue
			}
			d.printf("M%.1f %dH%.1fv%dH%.1fz", from, plotTop+row*d.tall, to, max(d.tall-d.tall/8, 1), from)
		}
	}
	d.printf("\"><title>%s</title></path>\n", looks[s].name)
}

func (d *drawing) legend() {
	for i, l := range looks {
		x, y := plotLeft+i%legendColumns*plotWidth/legendColumns, d.bottom()+legendAt+i/legendColumns*legendRow
		d.printf("<rect x=\"%d\" y=\"%d\" width=\"14\" height=\"14\" fill=\"%s\" stroke=\"#999\"/><text x=\"%d\" y=\"%d\">%s</text>\n",
			x, y-12, l.colour, x+20, y, l.name)
	}
}
