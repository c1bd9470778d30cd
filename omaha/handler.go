package omaha

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Updates answers for a Handler. Its methods may be called by several
// goroutines, and get what a machine said unverified.
type Updates interface {
	// Alive notes that a machine said anything at all. It is the first call for
	// each app of a request. ErrUnknownApp, a *Refused and other errors stop the
	// rest and are told to the machine.
	Alive(ctx context.Context, app App) error
	// Event notes one event. An error means that the machine will not be told
	// that its report was taken.
	Event(ctx context.Context, app App, e Event) error
	// Offer answers an update check, after the events that came with it. nil, or
	// an Offer without Update, is no update. ErrUnknownApp and a *Refused go to
	// the machine as they are; other errors as an internal error.
	Offer(ctx context.Context, app App) (*Offer, error)
}

// Handler serves the protocol over HTTP to upstream's client and to Client.
type Handler struct {
	Updates Updates
	Server  string      // how the server names itself; "drydock" if empty
	OnError func(error) // told of errors of Updates that machines are not told, if not nil
}

// ServeHTTP answers one request: 405 to anything but POST, 413 to what is too
// long, 400 to what is not an Omaha request, and 200 to all others, in which
// each app has its own status.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "an Omaha request is a POST", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxMessage))
	var tooLong *http.MaxBytesError
	if errors.As(err, &tooLong) {
		http.Error(w, "the request is too long", http.StatusRequestEntityTooLarge)
		return
	}
	if err != nil {
		http.Error(w, "the request was cut off", http.StatusBadRequest)
		return
	}
	apps, err := parseRequest(body)
	if err != nil {
		http.Error(w, "not an Omaha request: "+err.Error(), http.StatusBadRequest)
		return
	}
	answer := wireResponse{
		Protocol: protocol, Server: or(h.Server, "drydock"),
		DayStart: &wireDayStart{ElapsedSeconds: "0"},
	}
	for _, app := range apps {
		answer.Apps = append(answer.Apps, h.serve(r.Context(), app))
	}
	out, err := encode(answer)
	if err != nil {
		h.report(err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(out)))
	_, _ = w.Write(out) // a machine that hung up asks again
}

// parseRequest reads the apps of a request.
func parseRequest(body []byte) ([]App, error) {
	var r wireRequest
	if err := decode(body, &r, "request"); err != nil {
		return nil, err
	}
	if !strings.HasPrefix(r.Protocol, "3.") {
		return nil, fmt.Errorf("protocol %.16q is not 3.0", r.Protocol)
	}
	if len(r.Apps) == 0 || len(r.Apps) > maxList {
		return nil, fmt.Errorf("%d apps", len(r.Apps))
	}
	var apps []App
	for _, w := range r.Apps {
		if len(w.Events) > maxList {
			return nil, fmt.Errorf("%d events", len(w.Events))
		}
		app, err := w.app(r)
		if err != nil {
			return nil, err
		}
		apps = append(apps, app)
	}
	return apps, nil
}

// serve answers one app. Events come before the check, so that a machine that
// reports a rollback is not offered the same release in the same breath.
func (h *Handler) serve(ctx context.Context, app App) wireAppResponse {
	out := wireAppResponse{AppID: app.AppID, Status: statusOK}
	if err := h.Updates.Alive(ctx, app); err != nil {
		h.refuse(&out, app, err)
		return out
	}
	if app.Ping {
		out.Ping = &wireStatus{statusOK}
	}
	for _, e := range app.Events {
		status := statusOK
		if err := h.Updates.Event(ctx, app, e); err != nil {
			h.report(fmt.Errorf("note event of machine %.64q: %w", app.MachineID, err))
			status = statusInternal
		}
		out.Events = append(out.Events, wireStatus{status})
	}
	if !app.Check {
		return out
	}
	offer, err := h.Updates.Offer(ctx, app)
	if err == nil {
		var check wireUpdateStatus
		if check, err = offer.wire(); err == nil {
			out.Checks = []wireUpdateStatus{check}
			return out
		}
	}
	h.refuse(&out, app, err)
	return out
}

// refuse sets the statuses that stand for err.
func (h *Handler) refuse(out *wireAppResponse, app App, err error) {
	var r *Refused
	switch {
	case errors.As(err, &r):
	case errors.Is(err, ErrUnknownApp):
		r = &Refused{AppStatus: statusUnknown}
	default:
		h.report(fmt.Errorf("answer machine %.64q: %w", app.MachineID, err))
		r = &Refused{AppStatus: statusInternal}
	}
	out.Status = or(r.AppStatus, statusOK)
	if app.Check {
		out.Checks = []wireUpdateStatus{{Status: or(r.UpdateStatus, statusInternal)}}
	}
}

func (h *Handler) report(err error) {
	if h.OnError != nil {
		h.OnError(err)
	}
}

// wire returns the updatecheck that tells an offer.
func (o *Offer) wire() (wireUpdateStatus, error) {
	if o == nil {
		return wireUpdateStatus{Status: statusNoUpdate}, nil
	}
	check := wireUpdateStatus{Status: statusNoUpdate}
	if o.PollInterval > 0 {
		check.PollInterval = strconv.FormatInt(int64(o.PollInterval/time.Second), 10)
	}
	if !o.Update {
		return check, nil
	}
	check.Status = statusOK
	check.URLs = &wireURLs{}
	for _, u := range o.URLs {
		base, ok := strings.CutSuffix(u, o.Name)
		if !ok {
			return check, fmt.Errorf("offer %s: URL %q does not end in %q", o.Version, u, o.Name)
		}
		check.URLs.URLs = append(check.URLs.URLs, wireURL{base})
	}
	action := wireAction{Event: "postinstall", SHA256: base64.StdEncoding.EncodeToString(o.SHA256)}
	if o.Delta {
		action.Delta = "true"
	}
	if o.DisableBackoff {
		action.DisableBackoff = "true"
	}
	if o.MaxFailures > 0 && o.MaxFailures != DefaultMaxFailures {
		action.MaxFailures = strconv.Itoa(o.MaxFailures)
	}
	m := wireManifest{Version: o.Version, Actions: []wireAction{action}}
	payload := Package{Name: o.Name, Size: o.Size, SHA1: o.SHA1, Required: true}
	for _, p := range append([]Package{payload}, o.Packages...) {
		m.Packages = append(m.Packages, p.wire())
	}
	check.Manifests = []wireManifest{m}
	// A server that offers what its own client would refuse is misconfigured:
	// it hears of it here rather than from the whole fleet.
	return check, new(Offer).fill(&check)
}

func (p Package) wire() wirePackage {
	return wirePackage{
		Name:     p.Name,
		Hash:     base64.StdEncoding.EncodeToString(p.SHA1),
		SHA256:   hex.EncodeToString(p.SHA256),
		Size:     strconv.FormatInt(p.Size, 10),
		Required: strconv.FormatBool(p.Required),
	}
}
