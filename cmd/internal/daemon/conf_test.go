package daemon

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drydock-os/drydock/updater"
)

const readConfOn = "[flatcar]\nread_conf = true\n"

func (p *process) updateConf(text string) { p.write("root/etc/flatcar/update.conf", text) }

// update.conf was read at the start and at a reload, and Flatcar's tools tell
// nobody that they wrote it.
func TestUpdateConfIsReadAgain(t *testing.T) {
	p := prepare(t, readConfOn)
	p.updateConf("GROUP=stable\nSERVER=http://127.0.0.1:1/\n")
	p.build()
	if s := p.updater.Policy().Server; s.Group != "stable" || s.URL != "http://127.0.0.1:1/" {
		t.Fatalf("at the start: %+v", s)
	}
	synctest.Test(t, func(t *testing.T) {
		group := func() string { return p.updater.Policy().Server.Group }
		p.Daemon.Reload = nil // made outside the bubble
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { p.Daemon.reload(ctx) })
		defer wg.Wait()
		defer cancel()
		p.updateConf("GROUP=beta\nSERVER=http://127.0.0.1:1/\n")
		<-time.After(confEvery - time.Second)
		if group() != "stable" {
			t.Error("read more often than each minute")
		}
		<-time.After(2 * time.Second)
		synctest.Wait()
		if group() != "beta" {
			t.Errorf("group %q after a minute", group())
		}
		p.updateConf("GROUP=\"beta\"\nSERVER=disabled\n")
		<-time.After(confEvery)
		synctest.Wait()
		if p.updater.Policy().Update.Enabled {
			t.Error("SERVER=disabled is not obeyed")
		}
	})
}

// Whoever writes update.conf and asks for a check is served by what is written.
func TestUpdateConfIsReadBeforeAnAskedCheck(t *testing.T) {
	requests := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		requests <- string(body)
	}))
	defer server.Close()
	p := prepare(t, readConfOn)
	p.updateConf("GROUP=stable\nSERVER=http://127.0.0.1:1/\n")
	p.build().run()
	c := p.server.Controller
	for group, ask := range map[string]func(context.Context){
		"alpha": func(ctx context.Context) { c.Do(ctx, updater.Request{Action: updater.ActCheck}) },
		"beta":  func(ctx context.Context) { c.Do(ctx, updater.Request{Action: updater.ActUpdate}) },
		"edge":  func(ctx context.Context) { c.Plan(ctx) },
	} {
		p.updateConf("GROUP=" + group + "\nSERVER=" + server.URL + "/\n")
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { ask(ctx) })
		select {
		case got := <-requests:
			if !strings.Contains(got, `track="`+group+`"`) {
				t.Errorf("want group %s, the server is asked\n%s", group, got)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("group %s: the server is not asked", group)
		}
		cancel()
		wg.Wait()
		for len(requests) > 0 {
			<-requests
		}
	}
}

func TestBadUpdateConfKeepsTheOldPolicy(t *testing.T) {
	p := prepare(t, readConfOn)
	p.updateConf("GROUP=stable\nSERVER=http://127.0.0.1:1/\n")
	p.build().run()
	p.updateConf("GROUP=beta\nSERVER=ftp://127.0.0.1/\n")
	p.refresh()
	p.until("the status complains", func() bool { return strings.Contains(p.trouble("flatcar"), "server.url") })
	if s := p.updater.Policy().Server; s.Group != "stable" || s.URL != "http://127.0.0.1:1/" {
		t.Errorf("a bad file is in force: %+v", s)
	}
	// A policy file that comes meanwhile is taken once both are well.
	p.policy(readConfOn + "[drain]\ntimeout = \"7m\"\n")
	p.reread()
	if got := p.updater.Policy().Drain.Timeout; got != 30*time.Minute {
		t.Errorf("drain.timeout %s: half of a policy is in force", got)
	}
	p.updateConf("GROUP=stable\nSERVER=http://127.0.0.1:1/\n")
	p.refresh()
	p.until("the complaint ends", func() bool { return p.trouble("flatcar") == "" })
	if got := p.updater.Policy(); got.Drain.Timeout != 7*time.Minute || got.Server.Group != "stable" {
		t.Errorf("policy %+v", got)
	}
}

// Without read_conf nobody looks at Flatcar's files.
func TestUpdateConfIsNotReadUnasked(t *testing.T) {
	p := prepare(t, noServer)
	p.updateConf("GROUP=beta\nSERVER=disabled\n")
	p.build().refresh()
	if got := p.updater.Policy(); got.Server.Group != "stable" || !got.Update.Enabled {
		t.Errorf("policy %+v", got)
	}
}

func TestReloadTakesKeysAndPasswordsAnew(t *testing.T) {
	p := prepare(t, noServer)
	password := filepath.Join(p.dir, "password")
	p.policy("[server]\nurl = \"https://127.0.0.1:1/\"\nuser = \"me\"\npassword_file = \"" + password + "\"\n")
	p.build()
	p.write("password", "secret\nnotes\n")
	p.reread()
	if got := string(p.updater.Policy().Server.Password); got != "secret" {
		t.Errorf("password %q", got)
	}
}
