package fleet

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink/fleet/etcd2"
	"github.com/drydock-os/drydock/fleetlink/fleet/fleettest"
)

// TestKeys is the v2 client against a real etcd: each condition, and a watch that
// comes too late.
func TestKeys(t *testing.T) {
	e := fleettest.StartEtcd(t)
	c, ctx := e.Client(t), t.Context()
	made, err := c.Create(ctx, "/_t/web@1.service/target", "a")
	if err != nil {
		t.Fatal(err)
	}
	_, again := c.Create(ctx, "/_t/web@1.service/target", "b")
	_, wrongValue := c.Swap(ctx, "/_t/web@1.service/target", "b", etcd2.Prev{Value: "x"})
	_, wrongIndex := c.Swap(ctx, "/_t/web@1.service/target", "b", etcd2.Prev{Index: made.ModifiedIndex + 1})
	_, absent := c.Swap(ctx, "/_t/x", "b", etcd2.Prev{Value: "x"})
	full := c.RemoveDir(ctx, "/_t")
	for code, err := range map[int]error{etcd2.NodeExist: again, etcd2.KeyNotFound: absent, etcd2.DirNotEmpty: full} {
		if !etcd2.Is(err, code) {
			t.Errorf("%v, want code %d", err, code)
		}
	}
	for _, err := range []error{wrongValue, wrongIndex, c.Delete(ctx, "/_t/web@1.service/target", etcd2.Prev{Value: "x"})} {
		if !etcd2.Is(err, etcd2.CompareFailed) {
			t.Errorf("%v, want a comparison that failed", err)
		}
	}
	swapped, err := c.Swap(ctx, "/_t/web@1.service/target", `x\x2dy`, etcd2.Prev{Value: "a", Index: made.ModifiedIndex})
	if err != nil {
		t.Fatal(err)
	}
	dir, index, err := c.Get(ctx, "/_t")
	if unit, _ := dir.Child("web@1.service"); err != nil || index < swapped.ModifiedIndex || len(unit.Nodes) != 1 || unit.Nodes[0].Value != `x\x2dy` {
		t.Errorf("%+v at %d, %v", dir, index, err)
	}
	if n, err := c.Wait(ctx, "/_t", made.ModifiedIndex); err != nil || n.ModifiedIndex != swapped.ModifiedIndex {
		t.Errorf("the first change after %d: %+v, %v", made.ModifiedIndex, n, err)
	}
	for i := range 1100 { // etcd keeps a thousand events
		if err := e.Set("/_noise", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Wait(ctx, "/_t", made.ModifiedIndex); !etcd2.Is(err, etcd2.EventIndexCleared) {
		t.Errorf("a watch from an index that was cleared: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, index, _ = c.Get(ctx, "/_t")
	if _, err := c.Wait(short, "/_t", index); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a watch of nothing: %v", err)
	}
	thaw := e.Freeze()
	frozen, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if _, _, err := c.Get(frozen, "/_t"); err == nil {
		t.Error("an etcd that stands still answered")
	}
	thaw()
	if err := c.Delete(ctx, "/_t/web@1.service/target", etcd2.Prev{Value: `x\x2dy`}); err != nil {
		t.Error(err)
	}
	for _, dir := range []string{"/_t/web@1.service", "/_t"} {
		if err := c.RemoveDir(ctx, dir); err != nil {
			t.Error(err)
		}
	}
}
