package fleetlock

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/testdata/real"
)

const (
	vectorMachine = "1c09ca98649c4c7abc779cd04c96812e" // poseidon/fleetlock, internal/nodes_test.go
	vectorID      = "978a225b3d7b40e9acd7ce9b62f68444"
)

// yard is a cluster with a coordinator, and a FleetLock server before it.
type yard struct {
	t     *testing.T
	store rebootlock.Store
	keys  rebootlock.Keys
}

// newYard makes a group of each name, with one permit.
func newYard(t *testing.T, store rebootlock.Store, groups ...string) *yard {
	y := &yard{t: t, store: store, keys: rebootlock.Keys{Cluster: "test"}}
	for _, g := range groups {
		if _, _, err := y.operator().Apply(t.Context(), g, rebootlock.Rules{Version: 1, Max: rebootlock.Max{Count: 1}}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	c := &rebootlock.Coordinator{Store: store, Keys: y.keys, Machine: "coordinator", Now: time.Now, Spread: time.Millisecond}
	running.Go(func() {
		if err := c.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("coordinator: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	return y
}

func (y *yard) operator() rebootlock.Operator {
	return rebootlock.Operator{Store: y.store, Keys: y.keys, Now: time.Now, Who: "ann"}
}

// serve starts another server of the same cluster, and returns its address.
func (y *yard) serve(s *Server) string {
	y.t.Helper()
	if s.Locks == nil {
		s.Locks = &Permits{Store: y.store, Keys: y.keys, Now: time.Now}
	}
	return listen(y.t, s.HTTP())
}

func listen(t *testing.T, server *http.Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		if server.TLSConfig != nil {
			_ = server.ServeTLS(l, "", "")
			return
		}
		_ = server.Serve(l)
	})
	t.Cleanup(func() { server.Close(); running.Wait() })
	return l.Addr().String()
}

// phase is that of a machine's permit; "" where it has none.
func (y *yard) phase(group, machine string) string {
	y.t.Helper()
	p, err := permitOf(y.t.Context(), y.store, y.keys.Permit(group, machine))
	if err != nil {
		y.t.Fatal(err)
	}
	return p.Phase
}

func permitOf(ctx context.Context, store rebootlock.Store, key string) (p rebootlock.Permit, err error) {
	s, err := store.Read(ctx, rebootlock.Range{Key: key})
	if err != nil || len(s.KVs) == 0 {
		return p, err
	}
	return p, jsonInto(s.KVs[0].Value, &p)
}

// golden is a request as it goes over the wire.
func golden(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(real.Module(t), "testdata", "fleetlock", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// send sends bytes over a connection of their own, and returns the answer.
func send(addr string, request []byte) (*http.Response, error) {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return nil, err
	}
	if _, err := c.Write(request); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return nil, err
	}
	return resp, readAll(resp)
}

// eventually waits until what is true.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for range 500 {
		if is() {
			return
		}
		select {
		case <-t.Context().Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Fatalf("never came: %s", what)
}
