package rebootlock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
)

func TestAloneServesFirstComeFirst(t *testing.T) {
	ctx, l := context.Background(), &Alone{Max: 2}
	for i := range 5 {
		want := Queued
		if i < 2 {
			want = Holding
		}
		if got, err := l.Acquire(ctx, fmt.Sprint(i)); err != nil || got != want {
			t.Fatalf("machine %d: %v, %v, want %v", i, got, err, want)
		}
	}
	if got, _ := l.Acquire(ctx, "3"); got != Queued {
		t.Errorf("asking twice: %v, want still queued", got)
	}
	l.Release(ctx, "2") // leaves the queue
	l.Release(ctx, "0")
	l.Release(ctx, "0")
	if got := l.Holders(); !slices.Equal(got, []string{"1", "3"}) {
		t.Errorf("holders %v, want 1 and 3", got)
	}
	if got, _ := l.Standing(ctx, "4"); got != Queued {
		t.Errorf("4: %v, want queued", got)
	}
}

func TestAloneFreeze(t *testing.T) {
	ctx, l := context.Background(), &Alone{}
	l.Acquire(ctx, "a")
	if err := l.Fence(ctx, "b", "staging"); !errors.Is(err, ErrNotHolder) {
		t.Errorf("fence of no holder: %v", err)
	}
	l.Freeze("incident")
	if err := l.Fence(ctx, "a", "rebooting"); err == nil {
		t.Error("fence passed while frozen")
	}
	l.Acquire(ctx, "b")
	l.Release(ctx, "a")
	if got, _ := l.Standing(ctx, "b"); got != Queued {
		t.Errorf("granted while frozen: %v", got)
	}
	l.Freeze("")
	if got, _ := l.Standing(ctx, "b"); got != Holding {
		t.Errorf("after the thaw: %v, want holding", got)
	}
}
