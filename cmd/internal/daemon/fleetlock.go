package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/rebootlock/fleetlock"
	"github.com/drydock-os/drydock/updater/host"
	"github.com/drydock-os/drydock/updater/link"
	"github.com/drydock-os/drydock/updater/policy"
)

// fleetLockTime is how long a FleetLock server may hold one request open: some
// drain meanwhile. The updater waits with it, so it is less than their half hour.
const fleetLockTime = 5 * time.Minute

// fleetLockOf is the lock of a FleetLock server that somebody else runs.
func fleetLockOf(w wiring, root string) (link.FleetLock, error) {
	id, err := host.Identify(root)
	if err != nil {
		return link.FleetLock{}, err
	}
	name, err := fleetlock.AppID(id.MachineID)
	if err != nil {
		return link.FleetLock{}, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	f := w.FleetLock
	if f.CAFile != "" {
		if config.RootCAs, err = readPool(f.CAFile); err != nil {
			return link.FleetLock{}, fmt.Errorf("fleetlock.ca_file: %w", err)
		}
	}
	if f.ClientCertFile != "" {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(f.ClientCertFile, f.ClientKeyFile) // renewed ones are used
			return &pair, err
		}
	}
	client := fleetlock.Client{URL: f.URL, Group: w.Cluster.Group, ID: name, Timeout: fleetLockTime,
		HTTP: &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, ForceAttemptHTTP2: true, IdleConnTimeout: time.Minute}}}
	return link.FleetLock{Lock: &fleetlock.Lock{Client: client}}, client.Check()
}

// readPool reads certificates that vouch for others.
func readPool(path string) (*x509.CertPool, error) {
	data, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s holds no PEM certificate", path)
	}
	return pool, nil
}

// serveFleetLock serves this cluster's permits to hosts that speak FleetLock,
// until ctx ends. What keeps it from that is said with every status, and tried
// again.
func (c *cluster) serveFleetLock(ctx context.Context, f policy.FleetLock, store rebootlock.Store, keys rebootlock.Keys) {
	permits := &fleetlock.Permits{Store: store, Keys: keys, Now: time.Now}
	server := &fleetlock.Server{Locks: permits, Hold: f.Hold, Identity: f.ClientCAFile != ""}
	ticker := time.NewTicker(c.pauses.parts)
	defer ticker.Stop()
	for {
		err := c.listenFleetLock(ctx, f, server)
		if ctx.Err() != nil {
			return
		}
		c.trouble("fleetlock", fmt.Errorf("FleetLock is not served: %w", err))
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// farewell is how long requests have to be answered when the server ends.
const farewell = 5 * time.Second

func (c *cluster) listenFleetLock(ctx context.Context, f policy.FleetLock, s *fleetlock.Server) error {
	config, err := fleetLockTLS(f)
	if err != nil {
		return err
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", f.Listen)
	if err != nil {
		return err
	}
	if config != nil {
		listener = tls.NewListener(listener, config)
	}
	server := s.HTTP()
	server.ErrorLog = slog.NewLogLogger(c.log.Handler(), slog.LevelInfo) // who shows no certificate, say
	held, let := context.WithCancel(ctx)                                 // what is held open ends first
	server.BaseContext = func(net.Listener) context.Context { return held }
	var closing sync.WaitGroup
	defer closing.Wait()
	defer let()
	closing.Go(func() {
		<-held.Done()
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
		defer cancel()
		if server.Shutdown(bounded) != nil {
			server.Close()
		}
	})
	c.trouble("fleetlock", nil)
	c.log.Info("FleetLock is served", "address", listener.Addr())
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// fleetLockTLS is how the server proves itself and its clients, nil for plain
// HTTP. The server's certificate, and who vouches for clients, are read with each
// connection.
func fleetLockTLS(f policy.FleetLock) (*tls.Config, error) {
	if f.CertFile == "" {
		return nil, nil
	}
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(f.CertFile, f.KeyFile)
		return &pair, err
	}
	if _, err := load(); err != nil {
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return load() }}
	if f.ClientCAFile == "" {
		return config, nil
	}
	config.ClientAuth, config.SessionTicketsDisabled = tls.RequireAndVerifyClientCert, true // no session outlives the trust in a CA
	asking := func(*tls.ClientHelloInfo) (*tls.Config, error) {
		pool, err := readPool(f.ClientCAFile)
		if err != nil {
			return nil, fmt.Errorf("fleetlock.client_ca_file: %w", err)
		}
		own := config.Clone()
		own.ClientCAs, own.GetConfigForClient = pool, nil
		return own, nil
	}
	if _, err := asking(nil); err != nil {
		return nil, err
	}
	config.GetConfigForClient = asking
	return config, nil
}
