package omaha

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"
)

const appID = "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}"

func release() *Offer {
	sum, old := sha256.Sum256([]byte("x")), sha1.Sum([]byte("x"))
	return &Offer{
		Update: true, Version: "2.0.0", Name: "update.gz", Size: 4711, SHA256: sum[:], SHA1: old[:],
		URLs:        []string{"http://a/p/update.gz", "https://b/q/update.gz"},
		Delta:       true,
		MaxFailures: 3, PollInterval: time.Hour,
		Packages: []Package{{
			Name: "oem.gz", URLs: []string{"http://a/p/oem.gz", "https://b/q/oem.gz"},
			Size: 3, SHA256: sum[:], SHA1: old[:], Required: true,
		}},
	}
}

func serve(t *testing.T, u Updates) (*Client, *[]error) {
	t.Helper()
	var errs []error
	server := httptest.NewServer(&Handler{Updates: u, OnError: func(err error) { errs = append(errs, err) }})
	t.Cleanup(server.Close)
	return &Client{HTTP: server.Client(), URL: server.URL + "/v1/update/"}, &errs
}

// TestRoundTrip: what a server offers is what a client gets, and what a
// machine says is what the server hears.
func TestRoundTrip(t *testing.T) {
	s := &Static{AppID: strings.Trim(strings.ToUpper(appID), "{}")}
	s.Release(release())
	c, errs := serve(t, s)
	m := Machine{AppID: appID, Version: "1.0.0", MachineID: "m1", MachineAlias: `"<&>'`}

	event := CheckEvent(nil, m.Version)
	o, err := c.Check(t.Context(), m, CheckQuery{OnDemand: true, Event: &event})
	if err != nil {
		t.Fatal(err)
	}
	want := release()
	want.Raw, want.EventTaken = o.Raw, true
	if !reflect.DeepEqual(o, want) {
		t.Errorf("got\n%+v\nwant\n%+v", o, want)
	}
	done := Event{Type: EventUpdateComplete, Result: ResultError, ErrorCode: CodeOpExecution.Flagged(c.URL, true).Wire()}
	if err := c.Report(t.Context(), m, done, false); err != nil {
		t.Fatal(err)
	}
	if err := c.Ping(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	seen := []Seen{{"m1", "1.0.0", event}, {"m1", "1.0.0", done}}
	if got := s.Seen(); !reflect.DeepEqual(got, seen) {
		t.Errorf("seen %+v, want %+v", got, seen)
	}
	for version, offered := range map[string]bool{"1.9.9": true, "2.0.0": false, "2.0.1": false, "nightly": true, "2.0.0-beta": true} {
		m.Version = version
		o, err := c.Check(t.Context(), m, CheckQuery{})
		if err != nil || o.Update != offered {
			t.Errorf("%s: %+v, %v", version, o, err)
		}
	}
	s.Release(nil)
	m.Version = "1.0.0"
	if o, err := c.Check(t.Context(), m, CheckQuery{}); err != nil || o.Update {
		t.Errorf("nothing on offer: %+v, %v", o, err)
	}
	if len(*errs) != 0 {
		t.Error(*errs)
	}
}

// hears is an Updates that keeps the apps it was asked about, and fails as told.
type hears struct {
	alive, event, offer error
	apps                []App
	calls               []string
}

func (h *hears) Alive(_ context.Context, app App) error {
	h.apps, h.calls = append(h.apps, app), append(h.calls, "alive")
	return h.alive
}

func (h *hears) Event(context.Context, App, Event) error {
	h.calls = append(h.calls, "event")
	return h.event
}

func (h *hears) Offer(context.Context, App) (*Offer, error) {
	h.calls = append(h.calls, "offer")
	return nil, h.offer
}

func TestHandlerHearsTheMachine(t *testing.T) {
	u := &hears{}
	c, _ := serve(t, u)
	c.UpdaterVersion = "tester-1"
	m := Machine{
		AppID: appID, Version: "1.0.0", Track: "beta", BootID: "{b}", OEM: "qemu", OEMVersion: "0.0.1",
		AlephVersion: "0.9.0", MachineID: "m", MachineAlias: "alias", Board: "amd64-usr", Lang: "de-DE",
		HardwareClass: "h", OSPlatform: "Linux", OSVersion: "6", Arch: "x86_64", DeltaOK: true,
	}
	e := Event{Type: 3, Result: 9, ErrorCode: 40}
	if _, err := c.Check(t.Context(), m, CheckQuery{OnDemand: true, Event: &e}); err != nil {
		t.Fatal(err)
	}
	want := []App{{Machine: m, Updater: "tester-1", OnDemand: true, Ping: true, Check: true, Events: []Event{e}}}
	if !reflect.DeepEqual(u.apps, want) {
		t.Errorf("heard %+v, want %+v", u.apps, want)
	}
	if got := fmt.Sprint(u.calls); got != "[alive event offer]" {
		t.Errorf("calls %s: a rollback must be known before the next offer", got)
	}
}

func TestHandlerRefuses(t *testing.T) {
	boom := errors.New("the database is down")
	for name, tt := range map[string]struct {
		u      hears
		want   Refused
		errors int
	}{
		"unknown app":     {hears{alive: ErrUnknownApp}, Refused{"error-unknownApplication", "error-internal", false}, 0},
		"unknown channel": {hears{offer: ErrUnknownApp}, Refused{"error-unknownApplication", "error-internal", true}, 0},
		"throttled": {hears{offer: &Refused{AppStatus: "error-maxUpdatesPerPeriodLimitReached"}},
			Refused{"error-maxUpdatesPerPeriodLimitReached", "error-internal", true}, 0},
		"hash unknown":  {hears{offer: &Refused{UpdateStatus: "error-hash"}}, Refused{"ok", "error-hash", true}, 0},
		"its own fault": {hears{offer: boom}, Refused{"error-internal", "error-internal", true}, 1},
		"event lost":    {hears{event: boom, offer: ErrUnknownApp}, Refused{"error-unknownApplication", "error-internal", false}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			c, errs := serve(t, &tt.u)
			_, err := c.Check(t.Context(), Machine{AppID: appID}, CheckQuery{Event: &Event{Type: 3, Result: 2}})
			var got *Refused
			if !errors.As(err, &got) || *got != tt.want {
				t.Errorf("got %v, want %+v", err, tt.want)
			}
			if len(*errs) != tt.errors {
				t.Errorf("errors %v", *errs)
			}
		})
	}
}

// TestEventNotTaken: a report that the server could not note is not delivered.
func TestEventNotTaken(t *testing.T) {
	u := &hears{event: errors.New("the database is down")}
	c, _ := serve(t, u)
	e := Event{Type: EventUpdateComplete, Result: ResultSuccess}
	if err := c.Report(t.Context(), Machine{AppID: appID}, e, false); err == nil {
		t.Error("a report that nobody took counts as delivered")
	}
	o, err := c.Check(t.Context(), Machine{AppID: appID}, CheckQuery{Event: &e})
	if err != nil || o.EventTaken {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestHandlerRejectsBadRequests(t *testing.T) {
	h := &Handler{Updates: &Static{AppID: appID}}
	valid := `<request protocol="3.0"><app appid="x"><ping/></app></request>`
	for _, tt := range []struct {
		method, body string
		want         int
	}{
		{"GET", "", http.StatusMethodNotAllowed},
		{"POST", "", http.StatusBadRequest},
		{"POST", "garbage", http.StatusBadRequest},
		{"POST", valid, http.StatusOK},
		{"POST", strings.Replace(valid, "3.0", "2.0", 1), http.StatusBadRequest},
		{"POST", `<request protocol="3.0"></request>`, http.StatusBadRequest},
		{"POST", `<response protocol="3.0"></response>`, http.StatusBadRequest},
		{"POST", `<!DOCTYPE x>` + valid, http.StatusBadRequest},
		{"POST", `<request protocol="3.0"><app><event eventtype="x" eventresult="1"/></app></request>`, http.StatusBadRequest},
		{"POST", `<request protocol="3.0"><app><event eventtype="3" eventresult="0" errorcode="99999999999"/></app></request>`, http.StatusBadRequest},
		{"POST", `<request protocol="3.0">` + strings.Repeat("<app/>", maxList+1) + `</request>`, http.StatusBadRequest},
		{"POST", `<request protocol="3.0"><app>` + strings.Repeat(`<event eventtype="3" eventresult="0"/>`, maxList+1) + `</app></request>`, http.StatusBadRequest},
		{"POST", valid + strings.Repeat(" ", MaxMessage), http.StatusRequestEntityTooLarge},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(tt.method, "/v1/update/", strings.NewReader(tt.body)))
		if w.Code != tt.want {
			t.Errorf("%s %.80q: HTTP %d, want %d", tt.method, tt.body, w.Code, tt.want)
		}
	}
}

func TestHandlerAnswersEachApp(t *testing.T) {
	s := &Static{AppID: appID}
	s.Release(release())
	body := `<request protocol="3.0"><app appid="` + appID + `" version="1.0.0"><updatecheck/></app><app appid="other"><ping active="1"/><updatecheck/></app></request>`
	w := httptest.NewRecorder()
	(&Handler{Updates: s}).ServeHTTP(w, httptest.NewRequest("POST", "/", strings.NewReader(body)))
	var got wireResponse
	if err := decode(w.Body.Bytes(), &got, "response"); err != nil {
		t.Fatal(err)
	}
	if len(got.Apps) != 2 || got.Apps[0].Checks[0].Status != "ok" || got.Apps[1].AppID != "other" ||
		got.Apps[1].Status != "error-unknownApplication" || got.Apps[1].Ping != nil {
		t.Errorf("%+v", got.Apps)
	}
}

// TestBadOfferIsNotSent: what every client would refuse is the server's error.
func TestBadOfferIsNotSent(t *testing.T) {
	for name, change := range map[string]func(*Offer){
		"URL of another file": func(o *Offer) { o.URLs[0] = "http://a/p/other.gz" },
		"no hash":             func(o *Offer) { o.SHA256 = nil },
		"no size":             func(o *Offer) { o.Size = 0 },
		"package outside":     func(o *Offer) { o.Packages[0].Name = "../x" },
	} {
		t.Run(name, func(t *testing.T) {
			s, o := &Static{AppID: appID}, release()
			change(o)
			s.Release(o)
			c, errs := serve(t, s)
			_, err := c.Check(t.Context(), Machine{AppID: appID, Version: "1.0.0"}, CheckQuery{})
			var refused *Refused
			if !errors.As(err, &refused) || refused.AppStatus != "error-internal" || len(*errs) != 1 {
				t.Errorf("%v, server's errors %v", err, *errs)
			}
		})
	}
}

func TestStaticForgetsOldEvents(t *testing.T) {
	s := &Static{AppID: appID}
	for i := range maxSeen + 5 {
		if err := s.Event(t.Context(), App{}, Event{ErrorCode: i}); err != nil {
			t.Fatal(err)
		}
	}
	seen := s.Seen()
	if len(seen) != maxSeen || seen[0].Event.ErrorCode != 5 {
		t.Errorf("%d events, the first %+v", len(seen), seen[0])
	}
}
