package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// document is a semaphore in one JSON record, changed by compare-and-swap, as
// locksmith (lock/semaphore.go) and airlock (internal/lock) keep it.
type document struct {
	clients []*clientv3.Client
	key     string
	slots   int
	count   atomic.Int64
	pause   func(tries int) time.Duration // before the next try
}

type semaphore struct {
	Max     int      `json:"max"`
	Holders []string `json:"holders"`
}

var errBusy = errors.New("no slot is free")

// connections is over how many connections a fleet is spread: as many machines
// share one as a process of the benchmark can bear.
const connections = 20

func openDocument(ctx context.Context, s *server, l load_, pause func(int) time.Duration) (fleet, error) {
	d := &document{key: fmt.Sprintf("bench/%d", rand.Int64()), slots: l.permits, pause: pause}
	for range min(connections, l.machines) {
		c, err := s.dial(&d.count)
		if err != nil {
			return nil, err
		}
		d.clients = append(d.clients, c)
	}
	data, _ := json.Marshal(semaphore{Max: l.permits})
	_, err := s.client.Put(ctx, d.key, string(data))
	return d, err
}

// openLocksmith: 5 s, doubled before the first pause, at most 5 min, no jitter
// (locksmithctl/daemon.go).
func openLocksmith(ctx context.Context, s *server, l load_) (fleet, error) {
	return openDocument(ctx, s, l, func(tries int) time.Duration {
		return min(5*time.Second<<min(tries+1, 10), 5*time.Minute) / scale
	})
}

// openAirlock: zincati asks every 5 min with up to a tenth of jitter; the server
// tries once.
func openAirlock(ctx context.Context, s *server, l load_) (fleet, error) {
	return openDocument(ctx, s, l, func(int) time.Duration {
		return (5*time.Minute + rand.N(30*time.Second)) / scale
	})
}

// openPoller is as eager as a poller can be.
func openPoller(ctx context.Context, s *server, l load_) (fleet, error) {
	return openDocument(ctx, s, l, func(int) time.Duration { return time.Millisecond + rand.N(49*time.Millisecond) })
}

func (d *document) acquire(ctx context.Context, i int) error {
	for tries := 0; ; tries++ {
		err := d.swap(ctx, i, func(s *semaphore, me string) error {
			if len(s.Holders) >= s.Max {
				return errBusy
			}
			s.Holders = append(s.Holders, me)
			return nil
		})
		if err == nil || ctx.Err() != nil {
			return err
		}
		if err := wait(ctx, d.pause(tries)); err != nil {
			return err
		}
	}
}

func (d *document) release(ctx context.Context, i int) error {
	for tries := 0; ; tries++ {
		err := d.swap(ctx, i, func(s *semaphore, me string) error {
			s.Holders = slices.DeleteFunc(s.Holders, func(h string) bool { return h == me })
			return nil
		})
		if err == nil || ctx.Err() != nil {
			return err
		}
		if err := wait(ctx, d.pause(tries)); err != nil {
			return err
		}
	}
}

// swap is one try: a read, and a write that compares what was read.
func (d *document) swap(ctx context.Context, i int, change func(*semaphore, string) error) error {
	c := d.clients[i%len(d.clients)]
	got, err := c.Get(ctx, d.key)
	if err != nil {
		return err
	}
	var s semaphore
	if err := json.Unmarshal(got.Kvs[0].Value, &s); err != nil {
		return err
	}
	if err := change(&s, fmt.Sprintf("%032x", i+1)); err != nil {
		return err
	}
	data, _ := json.Marshal(s)
	res, err := c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(d.key), "=", got.Kvs[0].ModRevision)).Then(clientv3.OpPut(d.key, string(data))).Commit()
	if err == nil && !res.Succeeded {
		return errBusy
	}
	return err
}

func (d *document) disorder(context.Context) int { return -1 }
func (d *document) requests() int64              { return d.count.Load() }
func (d *document) close() {
	for _, c := range d.clients {
		_ = c.Close()
	}
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
