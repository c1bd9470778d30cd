package fetch

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

const half = 0.5 // no fuzz at all

func terms(urls ...string) Terms {
	return Terms{URLs: urls, Size: 1, SHA256: []byte{1}, MaxFailures: 10}
}

// TestURLStateFollowsTheTrace: two URLs, the first with wrong data; upstream's
// next attempt takes the second at once.
func TestURLStateFollowsTheTrace(t *testing.T) {
	w := terms("http://a/update.gz", "http://b/update.gz")
	s := URLState{}.For(w, now)
	if got := s.URLs(w); got[0] != "http://a/update.gz" || len(got) != 2 {
		t.Errorf("URLs %v", got)
	}
	s = s.Failed(w, FailureOf(29), now, half)
	if got := s.For(w, now).URLs(w); got[0] != "http://b/update.gz" || got[1] != "http://a/update.gz" {
		t.Errorf("URLs %v", got)
	}
	if deferred(s, w, now) || s.Attempt != 0 {
		t.Errorf("%v", s)
	}
}

func TestURLState(t *testing.T) {
	two, one := terms("a", "b"), terms("a")
	few := two
	few.MaxFailures = 2
	delta, free := one, one
	delta.Delta, free.DisableBackoff = true, true
	day := 24 * time.Hour
	fail := func(code int) func(URLState, Terms) URLState {
		return func(s URLState, t Terms) URLState { return s.Failed(t, FailureOf(code), now, half) }
	}
	received := func(s URLState, _ Terms) URLState { return s.Received() }
	done := func(s URLState, t Terms) URLState { return s.Succeeded(t, now, half) }
	type steps = []func(URLState, Terms) URLState
	for name, tt := range map[string]struct {
		terms Terms
		steps steps
		want  URLState
	}{
		"nothing":                       {two, nil, URLState{}},
		"transfer error":                {two, steps{fail(9)}, URLState{Failures: 1}},
		"as many as allowed":            {few, steps{fail(9), fail(37)}, URLState{URL: 1}},
		"bytes in between":              {few, steps{fail(9), received, fail(9)}, URLState{Failures: 1}},
		"not the URL's fault":           {two, steps{fail(5), fail(15), fail(34), fail(40), fail(44), fail(2500)}, URLState{}},
		"wrong data":                    {two, steps{fail(9), fail(10)}, URLState{URL: 1}},
		"wrong data all round":          {two, steps{fail(10), fail(18)}, URLState{Attempt: 1, Until: now.Add(day)}},
		"wrong data, one URL":           {one, steps{fail(21), fail(21)}, URLState{Attempt: 2, Until: now.Add(2 * day)}},
		"wrong delta":                   {delta, steps{fail(21), fail(21)}, URLState{}},
		"wrong data without back-off":   {free, steps{fail(21)}, URLState{Attempt: 1}},
		"whole payload, then a failure": {two, steps{done, fail(5)}, URLState{Attempt: 1, Until: now.Add(day)}},
		"whole payload four times":      {two, steps{done, done, done, done}, URLState{Attempt: 4, Until: now.Add(8 * day)}},
		"whole payload five times":      {two, steps{done, done, done, done, done}, URLState{Attempt: 5, Until: now.Add(16 * day)}},
		"whole payload six times":       {two, steps{done, done, done, done, done, done}, URLState{Attempt: 6, Until: now.Add(16 * day)}},
		"whole delta":                   {delta, steps{done}, URLState{}},
	} {
		s := URLState{}.For(tt.terms, now)
		for _, step := range tt.steps {
			s = step(s, tt.terms)
		}
		tt.want.Payload = tt.terms.id()
		if !reflect.DeepEqual(s, tt.want) {
			t.Errorf("%s: %v, want %v", name, s, tt.want)
		}
		if want := !tt.want.Until.IsZero(); deferred(s, tt.terms, now) != want {
			t.Errorf("%s: deferred %v", name, !want)
		}
		text, err := json.Marshal(s)
		var again URLState
		if err == nil {
			err = json.Unmarshal(text, &again)
		}
		if err != nil || !reflect.DeepEqual(again, s) {
			t.Errorf("%s: %s read as %v, %v", name, text, again, err)
		}
	}
}

func TestURLStateDefaultFailures(t *testing.T) {
	w := terms("a", "b")
	w.MaxFailures = 0
	s := URLState{}.For(w, now)
	for range 9 {
		s = s.Failed(w, Passing, now, half)
	}
	if s.URL != 0 || s.Failed(w, Passing, now, half).URL != 1 {
		t.Errorf("%v", s)
	}
}

func TestBackoffIsSpread(t *testing.T) {
	w := terms("a")
	for fuzz, want := range map[float64]time.Duration{-1: 18, 0: 18, 0.25: 21, 1: 30, 7: 30} {
		s := URLState{}.For(w, now).Succeeded(w, now, fuzz)
		if got := s.BackoffUntil(w).Sub(now); got != want*time.Hour {
			t.Errorf("fuzz %v: %v, want %vh", fuzz, got, want)
		}
	}
}

// TestURLStateIsPutRight: a new payload, a damaged file and a clock that
// jumped start afresh rather than go wrong.
func TestURLStateIsPutRight(t *testing.T) {
	w := terms("a", "b")
	used := URLState{Payload: w.id(), URL: 1, Failures: 3, Attempt: 6, Until: now.Add(16 * 24 * time.Hour)}
	if got := used.For(w, now); got != used {
		t.Errorf("same payload: %v", got)
	}
	if !deferred(used, w, now) || deferred(used, w, used.Until) {
		t.Error("the end of the back-off")
	}
	for name, change := range map[string]func(*Terms){
		"URL": func(t *Terms) { t.URLs = []string{"a", "c"} }, "size": func(t *Terms) { t.Size++ },
		"hash": func(t *Terms) { t.SHA256 = []byte{2} }, "delta": func(t *Terms) { t.Delta = true },
		"failures": func(t *Terms) { t.MaxFailures++ }, "back-off": func(t *Terms) { t.DisableBackoff = true },
	} {
		other := w
		change(&other)
		if got := used.For(other, now); got != (URLState{Payload: other.id()}) {
			t.Errorf("other %s: %v", name, got)
		}
	}
	for name, damage := range map[string]func(*URLState){
		"URL too high": func(s *URLState) { s.URL = 2 }, "URL below 0": func(s *URLState) { s.URL = -1 },
		"failures below 0": func(s *URLState) { s.Failures = -1 }, "attempt below 0": func(s *URLState) { s.Attempt = -1 },
	} {
		s := used
		damage(&s)
		if got := s.For(w, now); got != (URLState{Payload: w.id()}) {
			t.Errorf("%s: %v", name, got)
		}
	}
	if got := used.For(w, now.AddDate(-3, 0, 0)); deferred(got, w, now.AddDate(-3, 0, 0)) || got.Attempt != 6 {
		t.Errorf("the clock went back three years: %v", got)
	}
	if got := (URLState{URL: -5}).URLs(w); len(got) != 2 {
		t.Errorf("URLs of a damaged state: %v", got)
	}
	if got := (URLState{}).URLs(Terms{}); got != nil {
		t.Errorf("URLs of nothing: %v", got)
	}
}

// deferred says whether a back-off is on.
func deferred(s URLState, t Terms, now time.Time) bool { return now.Before(s.BackoffUntil(t)) }
