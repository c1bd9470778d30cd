// Package etcdtest runs etcd clusters of real processes for tests, whose members can be killed, stopped, paused and cut off.
package etcdtest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// How clients reach the members.
type TLS uint8

// The ways of a client.
const (
	Plain  TLS = iota // http
	Server            // https; members have certificates
	Mutual            // https; clients must have certificates too
)

// Options say what cluster to start. The zero value is one member without TLS
// and without users.
type Options struct {
	Members int  // 0: 1
	TLS     TLS  // of clients; members speak http to each other
	Auth    bool // users and roles are on; User is root
	// Direct lets clients and members reach members without a proxy between, for
	// what is measured. Cut does nothing then.
	Direct bool
	Flags  []string // of every member, besides those that Start needs
}

// startTimeout is how long a cluster may take to answer: on a busy machine with
// two cores, three members need some seconds.
const startTimeout = 60 * time.Second

// RootPassword is the password of the user root where Options.Auth is set.
const RootPassword = "not-a-secret"

// A Cluster is a running etcd cluster. It ends with its test; its logs are
// printed if that has failed. Members are counted from 0. Methods other than
// Start may be called from any goroutine, and report what does not work with
// t.Errorf.
type Cluster struct {
	// CAFile signed the members' certificates; CertFile and KeyFile are a
	// client's. "" without TLS.
	CAFile, CertFile, KeyFile string
	// User and PasswordFile are of the user root. "" without Auth.
	User, PasswordFile string

	t       testing.TB
	options Options
	dir     string // keys and logs
	data    string // of members, in memory where possible
	pki     *pki
	members []*member
	net     *network
	running sync.WaitGroup
}

// Start runs a cluster and returns when all members answer.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	o.Members = max(o.Members, 1)
	c := &Cluster{t: t, options: o, dir: t.TempDir(), data: dataDir(t)}
	binary := build(t)
	c.certificates()
	c.net = newNetwork()
	t.Cleanup(c.end)
	for i := range o.Members {
		m, err := newMember(c, i, binary)
		if err != nil {
			t.Fatalf("prepare etcd member: %v", err)
		}
		c.members = append(c.members, m)
	}
	for _, m := range c.members {
		if err := m.start(); err != nil {
			t.Fatalf("start etcd: %v", err)
		}
	}
	for i := range c.members {
		c.await(i)
	}
	if t.Failed() {
		t.FailNow()
	}
	if o.Auth {
		c.enableAuth()
	}
	return c
}

// dataDir is in memory, if the machine has such a place: what etcd waits for
// most is its disk.
func dataDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "drydock-etcd-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (c *Cluster) end() {
	for _, m := range c.members {
		m.kill()
	}
	c.running.Wait()
	c.net.close()
	if c.t.Failed() {
		for _, m := range c.members {
			c.t.Logf("last log of etcd member %d:\n%s", m.index, m.lastLog())
		}
	}
}

// Endpoints are the URLs under which clients reach the members.
func (c *Cluster) Endpoints() []string {
	var urls []string
	for _, m := range c.members {
		urls = append(urls, m.clientURL())
	}
	return urls
}

// Client returns a client of all members, as root where users are on. It ends
// with t.
func (c *Cluster) Client(t testing.TB) *clientv3.Client {
	t.Helper()
	client, err := c.client(c.Endpoints()...)
	if err != nil {
		t.Fatalf("connect to etcd: %v", err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func (c *Cluster) client(endpoints ...string) (*clientv3.Client, error) {
	config := clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop(), DialTimeout: startTimeout,
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 3 * time.Second}
	if c.User != "" {
		config.Username, config.Password = c.User, RootPassword
	}
	if c.options.TLS != Plain {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		pool.AddCert(c.pki.ca)
		config.TLS = &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	}
	return clientv3.New(config)
}

// await waits until member i answers a linearizable read.
func (c *Cluster) await(i int) {
	c.t.Helper()
	client, err := c.client(c.members[i].clientURL())
	if err != nil {
		c.t.Errorf("connect to etcd member %d: %v", i, err)
		return
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		attempt, done := context.WithTimeout(ctx, 2*time.Second)
		_, err := client.Get(attempt, "/")
		done()
		if err == nil {
			return
		}
		if ctx.Err() != nil || c.members[i].exited() {
			c.t.Errorf("etcd member %d does not answer: %v\n%s", i, err, c.members[i].lastLog())
			return
		}
	}
}

// Leader is the member that leads, as the members that answer say; -1: none.
func (c *Cluster) Leader() int {
	for i := range c.members {
		if resp, err := c.status(i); err == nil && resp.Leader == resp.Header.MemberId {
			return i
		}
	}
	return -1
}

func (c *Cluster) status(i int) (*clientv3.StatusResponse, error) {
	client, err := c.client(c.members[i].clientURL())
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return client.Status(ctx, c.members[i].clientURL())
}

// Kill ends member i at once, as a power cut would (but what it had written to
// its disk stays). It returns when the process is gone.
func (c *Cluster) Kill(i int) { c.members[i].kill() }

// Stop ends member i in order. It returns when the process is gone.
func (c *Cluster) Stop(i int) { c.members[i].stop() }

// Restart starts member i again, with its data, and returns when it answers;
// of a cluster that has no majority, use Launch.
func (c *Cluster) Restart(i int) {
	c.Launch(i)
	c.await(i)
}

// Launch starts member i again, with its data, and does not wait for it.
func (c *Cluster) Launch(i int) {
	if err := c.members[i].start(); err != nil {
		c.t.Errorf("start etcd again: %v", err)
	}
}

// Pause stops member i's process; its connections stay open (SIGSTOP). It
// returns when the process stands still.
func (c *Cluster) Pause(i int) { c.members[i].pause() }

// Continue lets a paused member i go on (SIGCONT).
func (c *Cluster) Continue(i int) { c.members[i].resume() }

// Cut takes member i off the network: nothing arrives at it or comes from it,
// neither of other members nor of clients, and nobody is told.
func (c *Cluster) Cut(i int) { c.net.cut(i, true) }

// Heal ends a Cut. What was under way arrives.
func (c *Cluster) Heal(i int) { c.net.cut(i, false) }

// certificates makes the keys of members and of one client.
func (c *Cluster) certificates() {
	c.t.Helper()
	if c.options.TLS == Plain {
		return
	}
	var err error
	if c.pki, err = newPKI(c.dir); err != nil {
		c.t.Fatalf("make certificates: %v", err)
	}
	c.CAFile = filepath.Join(c.dir, "ca.pem")
	c.CertFile, c.KeyFile = c.Certificate("client")
}

// Certificate makes a client certificate with a common name, and returns the
// files of it and of its key. Where users are on and TLS is Mutual, etcd takes
// the common name for the user's.
func (c *Cluster) Certificate(name string) (certFile, keyFile string) {
	c.t.Helper()
	certFile, keyFile, err := c.pki.issue(name)
	if err != nil {
		c.t.Errorf("make certificate: %v", err)
	}
	return certFile, keyFile
}

// enableAuth makes the user root and switches users and roles on.
func (c *Cluster) enableAuth() {
	c.t.Helper()
	client := c.Client(c.t)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	_, err := client.UserAdd(ctx, "root", RootPassword)
	if err == nil {
		_, err = client.UserGrantRole(ctx, "root", "root")
	}
	if err == nil {
		_, err = client.AuthEnable(ctx)
	}
	file := filepath.Join(c.dir, "root.password")
	if err == nil {
		err = os.WriteFile(file, []byte(RootPassword+"\n"), 0o600)
	}
	if err != nil {
		c.t.Fatalf("switch users and roles on: %v", err)
	}
	c.User, c.PasswordFile = "root", file
}

// A Permission is what a role may do with a key, or with all that begin with it.
type Permission struct {
	Key    string
	Prefix bool
	Write  bool // besides reading; false: read only
}

// AddUser makes a user with a role of the same name that has the permissions,
// and returns the file of its password. An existing role gets them besides.
func (c *Cluster) AddUser(name string, permissions ...Permission) (passwordFile string) {
	c.t.Helper()
	client := c.Client(c.t)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if _, err := client.UserAdd(ctx, name, name+"-password"); err != nil {
		c.t.Fatalf("add user: %v", err)
	}
	if _, err := client.RoleAdd(ctx, name); err != nil && !strings.Contains(err.Error(), "already exists") {
		c.t.Fatalf("add role: %v", err)
	}
	for _, p := range permissions {
		end, kind := "", clientv3.PermRead
		if p.Prefix {
			end = clientv3.GetPrefixRangeEnd(p.Key)
		}
		if p.Write {
			kind = clientv3.PermReadWrite
		}
		if _, err := client.RoleGrantPermission(ctx, name, p.Key, end, clientv3.PermissionType(kind)); err != nil {
			c.t.Fatalf("grant permission: %v", err)
		}
	}
	if _, err := client.UserGrantRole(ctx, name, name); err != nil {
		c.t.Fatalf("grant role: %v", err)
	}
	file := filepath.Join(c.dir, fmt.Sprintf("%x.password", name))
	if err := os.WriteFile(file, []byte(name+"-password\n"), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return file
}
