package link

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/drydock-os/drydock/rebootlock"
)

func TestClusterOf(t *testing.T) {
	c := ClusterOf(rebootlock.Operator{
		Store: &rebootlock.Memory{}, Keys: rebootlock.Keys{Cluster: "prod"}, Who: "operator here",
		Now: func() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) },
	})
	machine := strings.Repeat("1", 32)
	for _, test := range []struct{ verb, args, want string }{
		{VerbApply, `{"group":"web","rules":{"version":1,"max":"25%"}}`, `{"changed":true}`},
		{VerbApply, `{"group":"web","rules":{"version":1,"max":"25%"}}`, `{"rules_before":{"version":1,"max":"25%"},"changed":false}`},
		{VerbSetMax, `{"group":"web","max":2}`, `{"max_before":"25%","changed":true}`},
		{VerbSetMax, `{"group":"web","max":2}`, `{"max_before":2,"changed":false}`},
		{VerbFreeze, `{"reason":"fair"}`, `{}`},
		{VerbThaw, `{}`, `{}`},
		{VerbFreeze, `{"group":"web","reason":"fair"}`, `{}`},
		{VerbThaw, `{"group":"web"}`, `{}`},
		{VerbForgive, `{"group":"web","release":"1.1.0"}`, `{}`},
		{VerbAcquire, `{"group":"web","machine":"` + machine + `","reason":"disk"}`, `{}`},
		{VerbRelease, `{"group":"web","machine":"` + machine + `"}`, `{}`},
		{VerbTakeAway, `{"group":"web","machine":"` + machine + `","reason":"x","force":true}`, "holds no permit"},
		{VerbRemove, `{"machine":"` + machine + `","reason":"x"}`, "is no member"},
		{VerbApply, `{"group":"web"}`, "no rules are given"},
		{VerbSetMax, `{"group":"web"}`, "no max is given"},
		{VerbSetMax, `{"group":"web","max":0}`, "at least 1"},
		{VerbFreeze, `{"group":"web","reason":"x","unless":"Tuesday"}`, `unknown field "unless"`},
		{VerbFreeze, `{"group":`, "read its arguments"},
		{"dance", `{}`, `"dance" is not known`},
	} {
		got, err := c.Change(t.Context(), test.verb, []byte(test.args), "operator ann@laptop")
		if err != nil {
			got = []byte(err.Error())
		}
		if refused := !strings.HasPrefix(test.want, "{"); refused != (err != nil) || !strings.Contains(string(got), test.want) {
			t.Errorf("%s %s: %s, want %s", test.verb, test.args, got, test.want)
		}
	}
	data, err := c.Look(t.Context())
	var v rebootlock.View
	if err != nil || json.Unmarshal(data, &v) != nil || v.Cluster != "prod" || len(v.Groups) != 1 || v.Groups[0].Max != 2 {
		t.Errorf("%s, %v", data, err)
	}
	data, err = c.Journal(t.Context(), "web", 2)
	var entries []rebootlock.Entry
	if err != nil || json.Unmarshal(data, &entries) != nil || len(entries) != 2 || entries[0].What != "released" || entries[0].Who != "operator ann@laptop" {
		t.Errorf("%s, %v", data, err)
	}
	// The daemon's own name is used where nobody is named.
	if _, err := c.Change(t.Context(), VerbFreeze, []byte(`{"reason":"x"}`), ""); err != nil {
		t.Fatal(err)
	}
	if data, _ := c.Journal(t.Context(), "", 1); !strings.Contains(string(data), `"who":"operator here"`) {
		t.Errorf("%s", data)
	}
}
