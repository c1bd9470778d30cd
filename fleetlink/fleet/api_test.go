package fleet

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/fleet/etcd2"
)

// TestLyingFleet: what a server says that cannot be is an error, and soon.
func TestLyingFleet(t *testing.T) {
	units := func(a *api) error { _, err := a.units(t.Context()); return err }
	machines := func(a *api) error { _, err := a.machines(t.Context()); return err }
	states := func(a *api) error { _, err := a.states(t.Context(), "a.service", idA); return err }
	for name, test := range map[string]struct {
		code int
		body string
		call func(*api) error
		want string
	}{
		"a page for ever":     {200, `{"units":[],"nextPageToken":"x"}`, units, "same next page twice"},
		"no JSON":             {200, `<html>`, units, "list units"},
		"half an answer":      {200, `{"units":[{"name":`, units, "list units"},
		"a huge page":         {200, `{"units":[` + strings.Repeat(" ", maxPageBytes) + `]}`, units, "more than 16 MiB"},
		"a path for a name":   {200, `{"units":[{"name":"../machines"}]}`, units, "by a name that is none"},
		"no name":             {200, `{"units":[{"options":null}]}`, units, "by a name that is none"},
		"null":                {200, `{"units":[null]}`, units, "by a name that is none"},
		"503":                 {503, `{"error":{"code":503,"message":"fleet server unable to communicate with etcd"}}`, units, "fleet answers 503 Service Unavailable: fleet server unable to communicate with etcd"},
		"500 without a word":  {500, ``, units, "fleet answers 500 Internal Server Error"},
		"a redirect":          {302, ``, units, "fleet answers 302"},
		"a terminal's escape": {500, "\x1b[2Jgone", units, "500 Internal Server Error: [2Jgone"},
		"two machines, an id": {200, `{"machines":[{"id":"a","primaryIP":"192.0.2.1"},{"id":"a","primaryIP":"192.0.2.2"}]}`, machines, "two machines have the same machine-id"},
		"a machine's path":    {200, `{"machines":[{"id":"a/b"}]}`, machines, "by an id that is none"},
		"another unit":        {200, `{"states":[{"name":"b.service","machineID":"` + idA + `","systemdActiveState":"active"}]}`, states, "tells of \"b.service\""},
		"another machine":     {200, `{"states":[{"name":"a.service","machineID":"` + idB + `","systemdActiveState":"active"}]}`, states, "tells of \"a.service\" on"},
		"no state":            {200, `{"states":[{"name":"a.service","machineID":"` + idA + `"}]}`, states, "without saying its state"},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Location", "/elsewhere")
			rw.WriteHeader(test.code)
			fmt.Fprint(rw, test.body)
		}))
		a, err := openAPI(server.URL, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if err := test.call(a); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
		server.Close()
	}
}

// TestLists: an unbounded list is an error, one that shifted between two pages is
// none, and older releases' form of a patch is known.
func TestLists(t *testing.T) {
	n := 0
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		switch n++; {
		case req.Method == http.MethodPatch && n == 1:
			http.Error(rw, `{"error":{"code":400,"message":"json: cannot unmarshal object into Go value of type string"}}`, 400)
		case req.Method == http.MethodPatch:
			rw.WriteHeader(http.StatusNoContent)
		case strings.HasSuffix(req.URL.Path, "/units"):
			fmt.Fprintf(rw, `{"units":[%s{"name":"z.service"}],"nextPageToken":"%d"}`, strings.Repeat(`{"name":"a.service"},`, 99), n)
		case n%2 == 1:
			fmt.Fprint(rw, `{"machines":[{"id":"a"},{"id":"b"}],"nextPageToken":"2"}`)
		default:
			fmt.Fprint(rw, `{"machines":[{"id":"b"},{"id":"c"}]}`)
		}
	}))
	defer server.Close()
	a, err := openAPI(server.URL, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.setMetadata(t.Context(), idA, "reboot", "x"); err != nil || n != 2 {
		t.Errorf("patch: %v after %d requests", err, n)
	}
	if all, err := a.machines(t.Context()); err != nil || len(all) != 3 {
		t.Errorf("machines: %v, %v", all, err)
	}
	if _, err := a.units(t.Context()); err == nil || !strings.Contains(err.Error(), "more than 50000") {
		t.Errorf("a list without an end: %v", err)
	}
}

// TestHangingEtcd: calls end with their context.
func TestHangingEtcd(t *testing.T) {
	stop := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		select {
		case <-stop:
		case <-req.Context().Done():
		}
	}))
	defer server.Close()
	defer close(stop)
	l, err := Open(Options{Endpoint: server.URL, Etcd: etcd2.Options{Endpoints: []string{server.URL, server.URL}}, Machine: fleetlink.Machine{ID: idA}, Record: &notes{}})
	if err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func(context.Context) error{
		"standing": func(ctx context.Context) error { _, err := l.Standing(ctx); return err },
		"resume":   l.Resume,
		"drain":    func(ctx context.Context) error { return l.Drain(ctx, fleetlink.Order{}) },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		began := now()
		if err := call(ctx); err == nil || time.Since(began) > 3*time.Second {
			t.Errorf("%s: %v after %s", name, err, time.Since(began))
		}
		cancel()
	}
}

// TestOldNews: a watch that tells of a change that is known already, at once and
// again and again, is not asked again before the next look.
func TestOldNews(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		asked++
		rw.Header().Set("X-Etcd-Index", "9")
		fmt.Fprint(rw, `{"action":"set","node":{"key":"/f/states/a.service/m","value":"{}","modifiedIndex":7}}`)
	}))
	defer server.Close()
	l, err := Open(Options{Endpoint: server.URL, Etcd: etcd2.Options{Endpoints: []string{server.URL}}, Machine: fleetlink.Machine{ID: "m"}, Record: &notes{}, Poll: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	d := &drain{Link: l}
	began := now()
	d.pause(t.Context(), &view{stray: map[string]string{"a.service": "x"}, index: 8})
	if took := time.Since(began); asked != 1 || took < l.o.Poll {
		t.Errorf("it was asked %d times in %s", asked, took)
	}
}

// TestRecords: a record that cannot be read, or that a newer Drydock or another
// machine wrote, is an error that says what to do.
func TestRecords(t *testing.T) {
	l := &Link{o: Options{Instance: "one", Prefix: "/f", Machine: fleetlink.Machine{ID: "m"}}}
	for value, want := range map[string]string{
		`{"version":1,"instance":"one"}`:                                                      "",
		`{"version":2,"instance":"one"}`:                                                      "of a newer Drydock",
		`{"version":1,"instance":"two","hostname":"web-2"}`:                                   "`etcdctl rm /drydock/x` does it",
		`{"version":1,"instance":"two","cordon":{"key":"reboot","value":"no","before":null}}`: "`etcdctl rm /f/machines/m/metadata/reboot && etcdctl rm /drydock/x`",
		`{"version":1,"instance":"two","cordon":{"key":"reboot","value":"no","before":"ok"}}`: "`etcdctl set /f/machines/m/metadata/reboot 'ok' && etcdctl rm /drydock/x`",
		`{}`:    "it has no version",
		`[]`:    "cannot be read",
		``:      "cannot be read",
		`{"ver`: "cannot be read",
	} {
		_, err := l.decode(etcd2.Node{Key: "/drydock/x", Value: value})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", value, err, want)
		}
	}
}

func TestOptions(t *testing.T) {
	good := Options{Etcd: etcd2.Options{Endpoints: []string{"http://127.0.0.1:2379"}}, Machine: fleetlink.Machine{ID: idA}, Record: &notes{}}
	if _, err := Open(good); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*Options){
		"no etcd endpoint":    func(o *Options) { o.Etcd.Endpoints = nil },
		"no record":           func(o *Options) { o.Record = nil },
		"machine-id":          func(o *Options) { o.Machine.ID = "a/b" },
		"both a key and":      func(o *Options) { o.CordonKey = "reboot" },
		"fleet takes letters": func(o *Options) { o.CordonKey, o.CordonValue = "a/b", "x" },
		"begin with a slash":  func(o *Options) { o.Prefix = "x" },
		"negative":            func(o *Options) { o.Heartbeat = -1 },
		"is not like unix":    func(o *Options) { o.Endpoint = "/var/run/fleet.sock" },
		"write https":         func(o *Options) { o.Etcd.CAFile = "/ca.pem" },
	} {
		o := good
		change(&o)
		if _, err := Open(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
