package writelog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"

	"github.com/drydock-os/drydock/partition"
)

// A device shows a View to package partition.
type device struct {
	io.ReaderAt
	size int64
}

func (d device) WriteAt([]byte, int64) (int, error) { return 0, errors.New("a view cannot be written") }
func (d device) Sync() error                        { return nil }
func (d device) Size() int64                        { return d.size }

// While flags change, wherever the power fails and whatever the drive loses, a
// loader finds those of before or those of after.
func ExampleLog_View() {
	good := partition.Flags{Priority: 2, Tries: 0, Successful: true}
	disk := newRecorder(1<<20, 512)
	err := partition.Format(disk, []partition.Entry{
		{Type: partition.TypeUSR, Label: "USR-A", First: 64, Last: 127},
		{Type: partition.TypeUSR, Label: "USR-B", First: 128, Last: 191},
	})
	if err != nil {
		log.Fatal(err)
	}
	before := partition.Table{good, {}}
	if err := (partition.GPTPrio{Disk: disk}).SetTable(before); err != nil {
		log.Fatal(err)
	}
	base := bytes.NewReader(bytes.Clone(disk.disk)) // the log begins here
	disk.log, disk.entries = disk.log[:512], 0
	after := before.Stage(partition.B, 1)
	if err := (partition.GPTPrio{Disk: disk}).SetTable(after); err != nil {
		log.Fatal(err)
	}

	l, err := read(bytes.NewReader(disk.log), int64(len(disk.log))) // or Open
	if err != nil {
		log.Fatal(err)
	}
	look := func(p Point) string {
		t, err := partition.GPTPrio{Disk: device{l.View(base, p), base.Size()}}.Table()
		switch {
		case err != nil:
			return fmt.Sprintf("%v: %v", p, err)
		case t.Same(before):
			return "before"
		case t.Same(after):
			return "after"
		}
		return fmt.Sprintf("%v: %v", p, t)
	}
	// Every subset of the unflushed writes at every point, then torn ones too.
	found := map[string]bool{}
	for n := range len(l.Entries()) + 1 {
		cached := l.Unflushed(n)
		for kept := range 1 << len(cached) {
			found[look(Point{N: n, Keep: func(entry int) bool { return kept>>(entry-cached[0])&1 == 1 }})] = true
		}
	}
	random := rand.New(rand.NewPCG(1, 1))
	for range 5000 {
		found[look(l.Pick(random))] = true
	}
	fmt.Println(found)
	fmt.Println("at the end:", look(Point{N: len(l.Entries()), Loss: Loss{Lost: 1}}))
	// Output:
	// map[after:true before:true]
	// at the end: after
}
