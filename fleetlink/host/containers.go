package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Containers are the containers that have one of some labels, of Docker or of
// Podman, which serves the same API (Docker Engine API; podman-system-service(1)).
// A container is known by its name, which outlives that it is made anew.
type Containers struct {
	Socket string   // "/run/docker.sock", "/run/podman/podman.sock"
	Labels []string // "name" or "name=value", in the order in which to stop
}

const (
	// maxContainers bounds how many containers are looked at, and maxAnswer an
	// answer, in bytes: an inspection has some ten thousand.
	maxContainers = 512
	maxAnswer     = 16 << 20
	// enginePatience bounds a question whose caller set no closer bound. A stop or
	// start has its own time, and is bounded by its caller alone.
	enginePatience = 30 * time.Second
	// endPoll is how often a container is looked at that was killed: its engine
	// answers before it has ended.
	endPoll = 200 * time.Millisecond
	// maxMessage is how much of an engine's message is told, in bytes.
	maxMessage = 200
)

// Running implements Keeper.
func (c Containers) Running(ctx context.Context) (running []Unit, err error) {
	if len(c.Labels) == 0 { // still: can it be asked?
		_, err := c.ask(ctx, http.MethodGet, "/_ping", nil, nil)
		return nil, err
	}
	for _, label := range c.Labels {
		names, err := c.labelled(ctx, label)
		if err != nil {
			return nil, fmt.Errorf("containers with label %s: %w", label, err)
		}
		for _, name := range names {
			if slices.ContainsFunc(running, func(u Unit) bool { return u.Name == name }) {
				continue
			}
			u, err := c.Look(ctx, name)
			if err != nil {
				return nil, err
			}
			if u.State.Runs() {
				running = append(running, u)
			}
		}
		if len(running) > maxContainers {
			return nil, fmt.Errorf("the labels name more than %d containers", maxContainers)
		}
	}
	return running, nil
}

// labelled lists the names of the containers with a label that have not ended, as
// far as the list says.
func (c Containers) labelled(ctx context.Context, label string) (names []string, err error) {
	filters, err := json.Marshal(map[string][]string{"label": {label}})
	if err != nil {
		return nil, err
	}
	var list []struct {
		ID    string `json:"Id"`
		Names []string
		State string
	}
	// By itself Podman lists what is "running" alone: not what it is stopping, which
	// a reboot would cut off.
	query := url.Values{"filters": {string(filters)}, "all": {"true"}}
	if _, err := c.ask(ctx, http.MethodGet, "/containers/json", query, &list); err != nil {
		return nil, err
	}
	for _, l := range list {
		if l.State != "" && !containerState(l.State).Runs() {
			continue
		}
		// A container has also the names that others link to it by, behind a slash.
		name := l.ID
		for _, n := range l.Names {
			if n = strings.TrimPrefix(n, "/"); n != "" && !strings.Contains(n, "/") {
				name = n
			}
		}
		if name == "" {
			return nil, errors.New("the engine lists one without a name")
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

// Look implements Keeper.
func (c Containers) Look(ctx context.Context, name string) (Unit, error) {
	var wire struct {
		State *struct {
			Status   string
			ExitCode int
		}
		HostConfig struct{ AutoRemove bool }
	}
	status, err := c.ask(ctx, http.MethodGet, containerPath(name, "json"), nil, &wire)
	switch {
	case status == http.StatusNotFound:
		return Unit{Name: name}, nil
	case err == nil && wire.State == nil:
		err = errors.New("the engine does not say in what state it is")
	}
	if err != nil {
		return Unit{}, fmt.Errorf("container %s: %w", name, err)
	}
	u := Unit{Name: name, State: containerState(wire.State.Status), What: shown(wire.State.Status)}
	if wire.HostConfig.AutoRemove {
		u.Once, u.Kept = true, "it is run with --rm and could not be started again: name the systemd unit that runs it instead"
	}
	if u.State == Down {
		u.What = fmt.Sprintf("%s (%d)", u.What, wire.State.ExitCode)
	}
	return u, nil
}

// containerState reads a container's status, of Docker or of Podman
// (libpod/define/containerstate.go). One that is not known runs: nothing is built
// on it.
func containerState(status string) State {
	switch status {
	case "running", "paused":
		return Up
	case "removing", "stopping":
		return Ending
	case "created", "exited", "dead", "stopped", "configured", "initialized":
		return Down
	}
	return Starting // "restarting"
}

// Stop implements Keeper. How long a container has to end is its own stop timeout.
// What the engine answers is not what counts, but whether the container runs: one
// that has just ended by itself cannot be killed any more, which Docker and Podman
// say each in its own way.
func (c Containers) Stop(ctx context.Context, name string, force bool) error {
	verb := "stop"
	if force {
		verb = "kill"
	}
	_, refused := c.ask(ctx, http.MethodPost, containerPath(name, verb), nil, nil)
	tick := time.NewTicker(endPoll)
	defer tick.Stop()
	for {
		u, err := c.Look(ctx, name)
		switch {
		case err == nil && !u.State.Runs():
			return nil
		case refused != nil:
			return fmt.Errorf("%s container %s: %w", verb, name, refused)
		case err != nil:
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// Start implements Keeper.
func (c Containers) Start(ctx context.Context, name string) error {
	if _, err := c.ask(ctx, http.MethodPost, containerPath(name, "start"), nil, nil); err != nil {
		return fmt.Errorf("start container %s: %w", name, err)
	}
	return nil
}

func containerPath(name, verb string) string {
	return "/containers/" + url.PathEscape(name) + "/" + verb
}

// ask asks the engine, in whatever version of the API it speaks, and reads its
// answer into what into points to, if it is not nil. A status of 400 or more is
// an error, with the engine's own message.
func (c Containers) ask(ctx context.Context, method, path string, query url.Values, into any) (status int, err error) {
	if method == http.MethodGet {
		bounded, cancel := context.WithTimeout(ctx, enginePatience)
		defer cancel()
		ctx = bounded
	}
	u := "http://engine" + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, method, u, nil)
	if err != nil {
		return 0, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", c.Socket)
	}}}
	response, err := client.Do(request)
	if err != nil {
		if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return 0, fmt.Errorf("ask %s: %w", c.Socket, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return 0, fmt.Errorf("ask %s: %w", c.Socket, err)
	case len(body) > maxAnswer:
		return 0, fmt.Errorf("ask %s: its answer is larger than %d MiB", c.Socket, maxAnswer>>20)
	case response.StatusCode >= http.StatusBadRequest:
		return response.StatusCode, refusal(response.StatusCode, body)
	case into != nil:
		err = read(body, into)
	}
	return response.StatusCode, err
}

// read reads an engine's answer, which is one JSON document.
func read(body []byte, into any) error {
	if bytes.Equal(bytes.TrimSpace(body), []byte("null")) {
		return errors.New("read the engine's answer: it is null")
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("read the engine's answer: %w", err)
	}
	return nil
}

// refusal is what an engine says about what it does not do.
func refusal(status int, body []byte) error {
	var said struct{ Message string }
	if json.Unmarshal(body, &said) != nil || said.Message == "" {
		return fmt.Errorf("the engine answers %d", status)
	}
	return fmt.Errorf("the engine answers %d: %s", status, shown(said.Message))
}

// shown is text from outside on one line, and not too long.
func shown(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsGraphic(r) {
			return ' '
		}
		return r
	}, text)
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage-len("…")], "") + "…"
	}
	return text
}
