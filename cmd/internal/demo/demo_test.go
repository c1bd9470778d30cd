package demo

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

// TestDemo runs what a newcomer runs first.
func TestDemo(t *testing.T) {
	var out bytes.Buffer
	if err := Run(context.Background(), &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	for _, want := range []string{"release " + newRelease + " is good", "release " + badRelease + " is rejected", "slot B  " + newRelease + "   priority=1 tries=0 successful=true"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the demo does not say %q", want)
		}
	}
	t.Log(out.String())
}
