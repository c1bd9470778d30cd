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

// An event is what the list or the watch says of the node's pods.
type event struct {
	all  bool   // pods are all there are
	gone bool   // pods[0] is not there any more
	pods []*pod // else pods[0] is so now
	err  error  // nothing is heard
}

// watchFor is how long one watch lasts, and up to as much again: a stream that
// says nothing because it is dead is replaced then.
const watchFor = 3 * time.Minute

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
	wait := firstPause
	for ctx.Err() == nil {
		heard, err := s.spell(ctx, send)
		if heard {
			wait = firstPause
		}
		if err != nil && !send(event{err: err}) {
			return
		}
		if pause(ctx, jitter(wait)) != nil {
			return
		}
		if err != nil {
			wait = min(2*wait, lastPause)
		}
	}
}

// spell is one list and one watch, which goes on where it ended as long as the
// server ends it in order. It reports whether anything was heard.
func (s *session) spell(ctx context.Context, send func(event) bool) (heard bool, err error) {
	pods, version, err := s.pods(ctx)
	if err != nil || !send(event{all: true, pods: pods}) {
		return false, err
	}
	for {
		w, stop, err := s.watchPods(ctx, s.node, version, watchFor+time.Duration(rand.Int64N(int64(watchFor))))
		if err != nil {
			return true, err
		}
		next, err := s.hear(ctx, w, version, send)
		stop()
		if err != nil || next == version {
			return true, err // also where a watch ended and had nothing to say: the list is read anew
		}
		version = next
	}
}

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
				if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
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
			if !send(event{gone: e.Type == watch.Deleted, pods: []*pod{s.link.judge(o)}}) {
				return version, ctx.Err()
			}
		}
	}
}
