package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"
)

// A source is what a drain listens to.
type source uint8

const (
	ofNode    source = iota
	ofList           // of the pods
	ofWatch          // of the same
	ofVolumes        // that are attached
	sources   = iota
)

// An event is what the list or the watch says of the node's pods.
type event struct {
	from source // list: pods are all there are; watch: pods[0], if any, is so now
	gone bool   // or is not there any more
	pods []*pod
	err  error // nothing is heard
}

// watchFor is how long one watch lasts, and up to as much again: a stream that
// says nothing because it is dead is replaced then.
const watchFor = 3 * time.Minute

// lively is how long a watch lasts, at least, that was worth its list although it
// said nothing. After others the pauses grow.
const lively = 10 * time.Second

// follow sends the node's pods, and what becomes of them, until ctx ends.
func (s *session) follow(ctx context.Context, events chan<- event) {
	send := func(e event) bool {
		select {
		case events <- e:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for wait := firstPause; ctx.Err() == nil; wait = min(2*wait, lastPause) {
		if s.spell(ctx, send) {
			wait = firstPause
		}
		if pause(ctx, jitter(wait)) != nil {
			return
		}
	}
}

// spell is one list and one watch, which goes on where it ended as long as the
// server ends it in order. It reports whether the watch was worth its list.
func (s *session) spell(ctx context.Context, send func(event) bool) (worth bool) {
	pods, version, err := s.pods(ctx)
	if !send(event{from: ofList, pods: pods, err: err}) || err != nil {
		return false
	}
	for {
		began := s.link.Now()
		w, stop, err := s.watchPods(ctx, s.node, version, watchFor+time.Duration(rand.Int64N(int64(watchFor))))
		if expired(err) {
			return false
		}
		if !send(event{from: ofWatch, err: err}) || err != nil {
			return false
		}
		next, err := s.hear(ctx, w, version, send)
		stop()
		lasted := s.link.Now().Sub(began) >= lively
		if err != nil {
			send(event{from: ofWatch, err: err})
		}
		if err != nil || !lasted || next == version {
			return lasted || next != version // the list is read anew
		}
		version = next
	}
}

// expired reports whether a server has forgotten a version.
func expired(err error) bool { return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) }

// hear sends what a watch says until it ends, and returns the version it came to.
func (s *session) hear(ctx context.Context, w watch.Interface, version string, send func(event) bool) (string, error) {
	for {
		select {
		case <-ctx.Done():
			return version, ctx.Err()
		case e, open := <-w.ResultChan():
			if !open {
				return version, nil
			}
			if e.Type == watch.Error {
				err := apierrors.FromObject(e.Object)
				if expired(err) {
					return version, nil
				}
				return version, fmt.Errorf("watch pods of node %s: %w", s.node, err)
			}
			o, isPod := e.Object.(*corev1.Pod)
			if !isPod {
				return version, errors.New("watch pods: what the API server sent is no pod")
			}
			version = o.ResourceVersion
			if e.Type == watch.Bookmark {
				continue
			}
			// A pod that no longer matches the selector is told as deleted, too.
			if !send(event{from: ofWatch, gone: e.Type == watch.Deleted, pods: []*pod{s.link.judge(o)}}) {
				return version, ctx.Err()
			}
		}
	}
}
