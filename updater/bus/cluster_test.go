package bus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/user"
	"strings"
	"sync"
	"testing"

	"github.com/drydock-os/drydock/updater"
	"github.com/godbus/dbus/v5"
)

// harbour is a Cluster that a test plays: it says what it was asked.
type harbour struct {
	mu    sync.Mutex
	asked []string
	fail  error
	look  func(ctx context.Context) ([]byte, error)
}

func (h *harbour) note(format string, args ...any) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked = append(h.asked, fmt.Sprintf(format, args...))
	return fmt.Appendf(nil, "%q", h.asked[len(h.asked)-1]), h.fail
}

func (h *harbour) last() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.asked) == 0 {
		return ""
	}
	return h.asked[len(h.asked)-1]
}

func (h *harbour) Look(ctx context.Context) ([]byte, error) {
	if h.look != nil {
		return h.look(ctx)
	}
	return h.note("look")
}

func (h *harbour) Journal(_ context.Context, group string, limit int) ([]byte, error) {
	return h.note("journal of %s, %d", group, limit)
}

func (h *harbour) Change(_ context.Context, verb string, args []byte, who string) ([]byte, error) {
	return h.note("%s %s by %s", verb, args, who)
}

// askCluster calls a method of the cluster as another uid.
func (b *privateBus) askCluster(uid uint32, call ...string) (string, error) {
	return b.as(uid, "busctl", append([]string{"--allow-interactive-authorization=no", "call", Name, Path, ClusterInterface}, call...)...)
}

func TestClusterCrossesTheBus(t *testing.T) {
	b := startBus(t)
	h := &harbour{}
	serve(t, b, &Server{Controller: newYard(updater.Status{}), Cluster: h})
	c := b.client()
	for _, test := range []struct {
		ask  func() ([]byte, error)
		want string
	}{
		{func() ([]byte, error) { return c.Look(t.Context()) }, `"look"`},
		{func() ([]byte, error) { return c.Journal(t.Context(), "web/1", 7) }, `"journal of web/1, 7"`},
		{func() ([]byte, error) { return c.Journal(t.Context(), "", -1) }, `"journal of , 0"`},
		{func() ([]byte, error) {
			return c.Change(t.Context(), "freeze", []byte(`{"reason":"ü"}`), "operator mallory")
		}, `freeze {\"reason\":\"ü\"} by operator `},
	} {
		if got, err := test.ask(); err != nil || !strings.Contains(string(got), test.want) || strings.Contains(string(got), "mallory") {
			t.Errorf("%s, %v; want %s", got, err, test.want)
		}
	}
	h.fail = errors.New("etcd is away")
	if _, err := c.Look(t.Context()); err == nil || err.Error() != "etcd is away" {
		t.Errorf("%v", err)
	}
	h.fail = nil
	h.look = func(context.Context) ([]byte, error) { return bytes.Repeat([]byte("x"), maxDocument+1), nil }
	if _, err := c.Look(t.Context()); err == nil || !strings.Contains(err.Error(), "too much for D-Bus") {
		t.Errorf("%v", err)
	}
	h.look = func(context.Context) ([]byte, error) { return bytes.Repeat([]byte("x"), maxDocument), nil }
	if got, err := c.Look(t.Context()); err != nil || len(got) != maxDocument {
		t.Errorf("the largest: %d bytes, %v", len(got), err)
	}
	if _, err := c.Change(t.Context(), "apply", bytes.Repeat([]byte("x"), maxChange+1), ""); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("%v", err)
	}
	if _, err := c.Journal(t.Context(), strings.Repeat("x", maxArgument+1), 0); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("%v", err)
	}
}

// TestChangeTakesItsOwnRight: who may not change the lock may look at it, and
// the journal hears who the caller is from the bus, not from the caller.
func TestChangeTakesItsOwnRight(t *testing.T) {
	b := startBus(t)
	h := &harbour{}
	var mu sync.Mutex
	var actions []string
	serve(t, b, &Server{Controller: newYard(updater.Status{}), Cluster: h, Authorize: func(_ context.Context, c Caller, action string) error {
		mu.Lock()
		defer mu.Unlock()
		actions = append(actions, action)
		if c.UID != 0 {
			return errors.New("not you")
		}
		return nil
	}})
	if out, err := b.askCluster(nobody, "Change", "ss", "freeze", "{}"); err == nil || !strings.Contains(out, "not you") || h.last() != "" {
		t.Errorf("as nobody: %v %s, did %q", err, out, h.last())
	}
	for _, call := range [][]string{{"Look"}, {"Journal", "su", "", "0"}} {
		if out, err := b.askCluster(nobody, call...); err != nil {
			t.Errorf("%v as nobody: %v %s", call, err, out)
		}
	}
	root, err := user.LookupId("0")
	if err != nil {
		t.Skip(err)
	}
	if out, err := b.askCluster(0, "Change", "ss", "freeze", "{}"); err != nil || !strings.HasPrefix(h.last(), "freeze {} by operator "+root.Username) {
		t.Errorf("as root: %v %s, did %q", err, out, h.last())
	}
	if want := "io.drydock.lock-manage io.drydock.lock-manage"; strings.Join(actions, " ") != want {
		t.Errorf("asked for %v", actions)
	}
}

func TestWithoutAClusterTheBusSaysSo(t *testing.T) {
	b := startBus(t)
	serve(t, b, &Server{Controller: newYard(updater.Status{})})
	c := b.client()
	_, err1 := c.Look(t.Context())
	_, err2 := c.Journal(t.Context(), "", 0)
	_, err3 := c.Change(t.Context(), "freeze", []byte("{}"), "")
	for _, err := range []error{err1, err2, err3} {
		if !errors.Is(err, ErrNoCluster) {
			t.Errorf("%v", err)
		}
	}
}

// TestLooksAreBounded: anybody may look, and nobody can make the daemon read the
// whole lock any number of times at once.
func TestLooksAreBounded(t *testing.T) {
	b := startBus(t)
	begun, release := make(chan struct{}, 2*maxLooks), make(chan struct{})
	h := &harbour{look: func(ctx context.Context) ([]byte, error) {
		begun <- struct{}{}
		select {
		case <-release:
			return []byte("{}"), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}}
	serve(t, b, &Server{Controller: newYard(updater.Status{}), Cluster: h})
	c := b.client()
	var wg sync.WaitGroup
	for range maxLooks {
		wg.Go(func() {
			if _, err := c.Look(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	for range maxLooks {
		receive(t, begun)
	}
	if _, err := c.Look(t.Context()); !errors.Is(err, updater.ErrBusy) {
		t.Errorf("one more: %v", err)
	}
	close(release)
	wg.Wait()
	if _, err := c.Look(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestLookEndsWithTheConnection: a daemon that leaves the bus waits for no etcd.
func TestLookEndsWithTheConnection(t *testing.T) {
	b := startBus(t)
	begun, ended := make(chan struct{}, 1), make(chan error, 1)
	h := &harbour{look: func(ctx context.Context) ([]byte, error) {
		begun <- struct{}{}
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	}}
	serve(t, b, &Server{Controller: newYard(updater.Status{}), Cluster: h})
	conn := b.connect()
	call := conn.Object(Name, Path).Go(ClusterInterface+".Look", 0, make(chan *dbus.Call, 1))
	receive(t, begun)
	b.stop()
	if err := receive(t, ended); err == nil {
		t.Error("it goes on")
	}
	<-call.Done
}
