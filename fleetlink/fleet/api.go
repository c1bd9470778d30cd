package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"
)

const (
	// maxPageBytes bounds a page: fleet's own have 100 entries, and a unit file has
	// some kilobytes.
	maxPageBytes = 16 << 20
	// maxPages bounds a list, so that a server that always has another page does not
	// hold a drain up.
	maxPages = 2000
	// maxEntries bounds a list: the largest fleets had some thousand units.
	maxEntries = 50000
	// maxNameBytes is systemd's limit of a unit's name.
	maxNameBytes = 256
	// maxMessage bounds what is repeated of a server's message.
	maxMessage = 300
)

// An api is fleet's HTTP API, version 1 (Documentation/api-v1.md of fleet).
type api struct {
	base    string // "http://host:port/fleet/v1", without a slash at its end
	http    *http.Client
	timeout time.Duration // for one request
}

// openAPI makes an api of an endpoint as fleetctl takes it:
// "unix:///var/run/fleet.sock" or "http://host:port".
func openAPI(endpoint string, timeout time.Duration) (*api, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("fleet endpoint: %w", err)
	}
	// No proxy and no redirect: the endpoint is where it was configured.
	transport := &http.Transport{IdleConnTimeout: time.Minute}
	a := &api{timeout: timeout, http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	switch {
	case u.Scheme == "unix" && u.Host == "" && strings.HasPrefix(u.Path, "/"):
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", u.Path)
		}
		a.base = "http://fleet/fleet/v1"
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && strings.Trim(u.Path, "/") == "" && u.RawQuery == "" && u.User == nil:
		a.base = u.Scheme + "://" + u.Host + "/fleet/v1"
	default:
		return nil, fmt.Errorf("fleet endpoint %q is not like unix:///var/run/fleet.sock or http://host:49153", u.Redacted())
	}
	return a, nil
}

// A statusError is an answer of fleet's API that is none.
type statusError struct {
	code    int
	message string
}

// Error says what fleet said.
func (e *statusError) Error() string {
	return strings.TrimRight(fmt.Sprintf("fleet answers %d %s: %s", e.code, http.StatusText(e.code), e.message), ": ")
}

type machineDoc struct {
	ID       string            `json:"id"`
	IP       string            `json:"primaryIP"`
	Metadata map[string]string `json:"metadata"`
}

type unitDoc struct {
	Name    string   `json:"name"`
	Options []option `json:"options"`
}

// An option is a line of a unit file.
type option struct {
	Section string `json:"section"`
	Name    string `json:"name"`
	Value   string `json:"value"`
}

// A state is what systemd on one machine says of a unit.
type state struct {
	Name      string `json:"name"`
	MachineID string `json:"machineID"`
	Active    string `json:"systemdActiveState"`
	Sub       string `json:"systemdSubState"`
}

// runs reports whether something of the unit is up, or on its way up or down; not
// if nothing is known of it.
func (s state) runs() bool { return s.Active != "" && s.Active != "inactive" && s.Active != "failed" }

// steady reports whether the unit is as it should be for good.
func (s state) steady() bool { return s.Active == "active" || s.Active == "reloading" }

// starting reports whether the unit is the work of one long start, as a
// Type=oneshot is.
func (s state) starting() bool { return s.Active == "activating" && s.Sub == "start" }

// failed reports whether the unit did not stay up, against its will: one that is
// inactive has not started yet, or has ended well.
func (s state) failed() bool { return s.Active == "failed" || s.Sub == "auto-restart" }

// String is the state as fleetctl shows it.
func (s state) String() string { return s.Active + "/" + s.Sub }

// page is a page of any list.
type page struct {
	Machines []machineDoc `json:"machines"`
	Units    []unitDoc    `json:"units"`
	States   []state      `json:"states"`
	Next     string       `json:"nextPageToken"`
}

// machines lists the machines that fleet sees, and their metadata.
func (a *api) machines(ctx context.Context) (map[string]map[string]string, error) {
	all, err := a.list(ctx, "machines", nil)
	if err != nil {
		return nil, err
	}
	found, addresses := map[string]map[string]string{}, map[string]string{}
	for _, m := range all.Machines {
		if !validName(m.ID) {
			return nil, fmt.Errorf("fleet lists a machine by an id that is none: %.40q", m.ID)
		}
		// Whoever comes between two pages moves the last of the one onto the other.
		if _, twice := found[m.ID]; twice && (addresses[m.ID] != m.IP || !maps.Equal(found[m.ID], m.Metadata)) {
			return nil, fmt.Errorf("fleet lists machine %s twice, at %s and %s: two machines have the same machine-id, and which one a unit runs on cannot be told; give one of them another (systemd-machine-id-setup)", m.ID, addresses[m.ID], m.IP)
		}
		found[m.ID], addresses[m.ID] = m.Metadata, m.IP
	}
	return found, nil
}

// units lists the units and their files.
func (a *api) units(ctx context.Context) ([]unitDoc, error) {
	all, err := a.list(ctx, "units", nil)
	if err != nil {
		return nil, err
	}
	for _, u := range all.Units {
		if !validName(u.Name) {
			return nil, fmt.Errorf("fleet lists a unit by a name that is none: %.40q", u.Name)
		}
	}
	return all.Units, nil
}

// states lists what machines say of units; of one unit or one machine where these
// are not "".
func (a *api) states(ctx context.Context, unit, machine string) ([]state, error) {
	query := url.Values{}
	if unit != "" {
		query.Set("unitName", unit)
	}
	if machine != "" {
		query.Set("machineID", machine)
	}
	all, err := a.list(ctx, "state", query)
	if err != nil {
		return nil, err
	}
	for _, s := range all.States { // a server that does not filter must not make a machine look full or empty
		if unit != "" && s.Name != unit || machine != "" && s.MachineID != machine {
			return nil, fmt.Errorf("fleet was asked for the state of %s%s and tells of %.40q on %.40q", unit, machine, s.Name, s.MachineID)
		}
		if s.Active == "" {
			return nil, fmt.Errorf("fleet tells of %.40q without saying its state", s.Name)
		}
	}
	return all.States, nil
}

// setMetadata overrides a key of a machine's metadata. Documentation and older
// releases have the value plain, releases since 1.0 wrapped.
func (a *api) setMetadata(ctx context.Context, machine, key, value string) error {
	type op struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value"`
	}
	patch := op{"replace", "/" + machine + "/metadata/" + key, map[string]string{"value": value}}
	_, err := a.do(ctx, http.MethodPatch, "machines", nil, []op{patch})
	if refusal := (*statusError)(nil); errors.As(err, &refusal) && refusal.code == http.StatusBadRequest {
		patch.Value = value
		_, err = a.do(ctx, http.MethodPatch, "machines", nil, []op{patch})
	}
	if err != nil {
		return fmt.Errorf("set metadata %s of this machine: %w", key, err)
	}
	return nil
}

// list reads all pages of a list.
func (a *api) list(ctx context.Context, what string, query url.Values) (all page, err error) {
	pages, tokens := query, map[string]bool{}
	for range maxPages {
		body, err := a.do(ctx, http.MethodGet, what, pages, nil)
		if err != nil {
			return page{}, fmt.Errorf("list %s: %w", what, err)
		}
		p := page{}
		if err := json.Unmarshal(body, &p); err != nil {
			return page{}, fmt.Errorf("list %s: %w", what, err)
		}
		all.Machines, all.Units, all.States = append(all.Machines, p.Machines...), append(all.Units, p.Units...), append(all.States, p.States...)
		switch n := max(len(all.Machines), len(all.Units), len(all.States)); {
		case n > maxEntries:
			return page{}, fmt.Errorf("list %s: more than %d", what, maxEntries)
		case p.Next == "":
			return all, nil
		case tokens[p.Next]:
			return page{}, fmt.Errorf("list %s: fleet gives the same next page twice", what)
		}
		// The token stands for the page alone: what is asked for is said again.
		tokens[p.Next], pages = true, url.Values{"nextPageToken": {p.Next}}
		maps.Copy(pages, query)
	}
	return page{}, fmt.Errorf("list %s: more than %d pages", what, maxPages)
}

// do makes one request.
func (a *api) do(ctx context.Context, method, what string, query url.Values, body any) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	sent, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	if body == nil {
		sent = nil
	}
	req, err := http.NewRequestWithContext(ctx, method, a.base+"/"+what+"?"+query.Encode(), bytes.NewReader(sent))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxPageBytes+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > maxPageBytes:
		return nil, fmt.Errorf("fleet's answer has more than %d MiB", maxPageBytes>>20)
	case resp.StatusCode/100 != 2:
		return nil, &statusError{resp.StatusCode, message(data)}
	}
	return data, nil
}

// message is what a server says besides its status.
func message(body []byte) string {
	doc := struct {
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
	}{}
	text := string(body)
	if json.Unmarshal(body, &doc) == nil && doc.Error.Message != "" {
		text = doc.Error.Message
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text[:min(len(text), maxMessage)])
	return strings.TrimSpace(text)
}

// validName reports whether a name can stand in one element of a key.
func validName(name string) bool {
	return name != "" && len(name) <= maxNameBytes && name != "." && name != ".." &&
		!strings.ContainsFunc(name, func(r rune) bool { return r == '/' || !unicode.IsPrint(r) })
}
