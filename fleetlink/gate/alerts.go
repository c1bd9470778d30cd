package gate

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Alerts is open while a Prometheus, or what answers like one, knows of no alert
// that counts. It cannot tell one whose rules are well from one that has none.
type Alerts struct {
	Access
	URL     string         // "http://prometheus:9090", or with a path before /api/v1
	Query   string         // PromQL; each sample of its vector is an alert, whatever its value; "": ALERTS
	Match   *regexp.Regexp // of a name, somewhere in it: others do not count; nil: all do
	Ignore  *regexp.Regexp // of a name: it does not count; nil: none
	Pending bool           // an alert that is pending counts too
}

const (
	// defaultQuery is Prometheus' own series of alerts that are pending or fire
	// (Prometheus, "Alerting rules", "Inspecting alerts during runtime").
	defaultQuery = "ALERTS"
	// maxAnswer bounds an answer, in bytes: some ten thousand alerts.
	maxAnswer = 8 << 20
	// named is how many alerts have a sentence of their own.
	named = 5
)

// Shut implements Gate.
func (a Alerts) Shut(ctx context.Context) (why []string) {
	samples, err := a.ask(ctx)
	if err != nil {
		return []string{fmt.Sprintf("alerts of %s cannot be asked, and nothing is known of them: %v", shown(a.URL), err)}
	}
	counted := slices.DeleteFunc(samples, func(s sample) bool { return !a.counts(s) })
	slices.SortFunc(counted, func(a, b sample) int {
		return cmp.Or(strings.Compare(a["alertname"], b["alertname"]), strings.Compare(a.place(), b.place()))
	})
	for _, s := range counted[:min(len(counted), named)] {
		why = append(why, s.sentence()+", "+shown(a.URL))
	}
	if more := len(counted) - named; more > 0 {
		why = append(why, fmt.Sprintf("%d more alerts, %s", more, shown(a.URL)))
	}
	return why
}

// counts reports whether an alert shuts the gate. What has no name is judged by
// no regexp, and counts.
func (a Alerts) counts(s sample) bool {
	name := s["alertname"]
	switch {
	case s["alertstate"] == "pending" && !a.Pending:
		return false
	case name == "":
		return true
	case a.Match != nil && !a.Match.MatchString(name):
		return false
	}
	return a.Ignore == nil || !a.Ignore.MatchString(name)
}

// ask queries the server (Prometheus, "HTTP API", "Instant queries").
func (a Alerts) ask(ctx context.Context) ([]sample, error) {
	u, err := url.Parse(a.URL)
	if err != nil || u.Host == "" {
		return nil, errors.New("it is no URL")
	}
	u = u.JoinPath("api/v1/query")
	u.RawQuery = url.Values{"query": {cmp.Or(a.Query, defaultQuery)}}.Encode()
	status, body, err := a.get(ctx, u.String(), maxAnswer, true)
	if err != nil {
		return nil, err
	}
	samples, err := parse(body)
	if status != http.StatusOK && err == nil {
		err = errors.New("its answer is none to a query")
	}
	if status != http.StatusOK {
		err = fmt.Errorf("it answers %d: %w", status, err)
	}
	return samples, err
}

// A sample is the labels of one element of a vector.
type sample map[string]string

// place is where an alert fires, as far as its labels tell.
func (s sample) place() string {
	for _, label := range []string{"instance", "node", "pod", "job", "namespace", "severity"} {
		if s[label] != "" {
			return label + " " + clip(s[label], maxWord)
		}
	}
	return ""
}

// sentence is "alert DiskFull fires (instance db-2)".
func (s sample) sentence() string {
	text := "the query has an answer"
	if s["alertname"] != "" {
		text = "alert " + clip(s["alertname"], maxWord) + " fires"
	} else if s["__name__"] != "" {
		text = clip(s["__name__"], maxWord) + " has a sample"
	}
	if s["alertstate"] == "pending" {
		text = strings.TrimSuffix(text, "fires") + "is pending"
	}
	if place := s.place(); place != "" {
		text += " (" + place + ")"
	}
	return text
}

// parse reads an answer of the query API. Anything but one whole vector, about
// which the server has no doubt, is an error.
func parse(body []byte) ([]sample, error) {
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("its answer is larger than %d MiB", maxAnswer>>20)
	}
	var answer struct {
		Status    string   `json:"status"`
		ErrorType string   `json:"errorType"`
		Error     string   `json:"error"`
		Warnings  []string `json:"warnings"`
		Data      struct {
			ResultType string          `json:"resultType"`
			Result     json.RawMessage `json:"result"`
		} `json:"data"`
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	if err := decoder.Decode(&answer); err != nil {
		return nil, fmt.Errorf("read its answer: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("read its answer: more follows it")
	}
	switch {
	case answer.Status != "success":
		return nil, fmt.Errorf("it says %s: %s", clip(cmp.Or(answer.ErrorType, answer.Status, "nothing"), maxWord), clip(answer.Error, maxWord))
	case len(answer.Warnings) > 0:
		return nil, fmt.Errorf("it warns: %s", clip(answer.Warnings[0], maxWord))
	case answer.Data.ResultType != "vector":
		return nil, fmt.Errorf("the query gives a %q, not a vector", clip(answer.Data.ResultType, maxWord))
	}
	var vector []struct {
		Metric sample `json:"metric"`
	}
	if err := json.Unmarshal(answer.Data.Result, &vector); err != nil || vector == nil {
		return nil, errors.New("read its answer: its vector is none")
	}
	samples := make([]sample, 0, len(vector))
	for _, v := range vector {
		samples = append(samples, v.Metric)
	}
	return samples, nil
}
