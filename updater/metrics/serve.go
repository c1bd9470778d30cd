package metrics

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/common/expfmt"
	"golang.org/x/net/netutil"
)

// What a scraper may take of the daemon: an answer is some 20 kB and made in a
// millisecond, so whoever needs more than this is none.
const (
	maxConnections = 8
	maxAtOnce      = 2 // answers that are being made
	maxHeader      = 8 << 10
	readTime       = 5 * time.Second
	writeTime      = 10 * time.Second
	idleTime       = 2 * time.Minute // longer than anybody's interval, so that a connection serves many scrapes
	farewell       = 2 * time.Second // for answers under way when the server ends
)

// Serve answers GET /metrics on l until ctx ends, and closes l. It returns nil
// then, and else what went wrong.
func (e *Exporter) Serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", e.handler())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: readTime, ReadTimeout: readTime, WriteTimeout: writeTime, IdleTimeout: idleTime,
		MaxHeaderBytes: maxHeader}
	server.Protocols = new(http.Protocols)
	server.Protocols.SetHTTP1(true)
	stopped, stop := context.WithCancel(ctx)
	var closing sync.WaitGroup
	defer closing.Wait()
	defer stop()
	closing.Go(func() {
		<-stopped.Done()
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
		defer cancel()
		if server.Shutdown(bounded) != nil {
			server.Close()
		}
	})
	if err := server.Serve(netutil.LimitListener(l, maxConnections)); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// handler answers in the text format, uncompressed: promhttp offers more, which
// takes 0.6 MiB that stay, and more with each scrape that is compressed.
func (e *Exporter) handler() http.Handler {
	turns := make(chan struct{}, maxAtOnce)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case turns <- struct{}{}:
		default:
			http.Error(w, "others are being answered", http.StatusServiceUnavailable)
			return
		}
		text, err := e.text()
		<-turns // before it is written: a reader may be slow
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", string(expfmt.NewFormat(expfmt.TypeTextPlain)))
		_, _ = w.Write(text) // who does not wait for the answer has none
	})
}

// text is all of it in the text format.
func (e *Exporter) text() ([]byte, error) {
	families, err := e.registered().Gather()
	if err != nil {
		return nil, fmt.Errorf("gather metrics: %w", err)
	}
	var text bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&text, f); err != nil {
			return nil, fmt.Errorf("write metrics: %w", err)
		}
	}
	return text.Bytes(), nil
}

// WriteFile writes all into a file for node_exporter's textfile collector, which
// sees the old one or the new one. It is not synced: a machine that lost its power
// has newer numbers before anybody reads it.
func (e *Exporter) WriteFile(path string) error {
	text, err := e.text()
	if err != nil {
		return err
	}
	part := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".part") // the collector reads *.prom
	if err := replace(part, path, text); err != nil {
		return fmt.Errorf("write metrics: %w", err)
	}
	return nil
}

// replace writes a new file and puts it in the place of path. Whoever owns the
// directory, often the collector's user, cannot have it written through a link.
func replace(part, path string, data []byte) error {
	if err := os.Remove(part); err != nil && !errors.Is(err, os.ErrNotExist) { // of a run that was killed
		return err
	}
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(part))
	}
	return os.Rename(part, path)
}
