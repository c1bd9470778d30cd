package fetch

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// TestServerHangs: what is waited for is bounded, in each state of an exchange.
func TestServerHangs(t *testing.T) {
	for name, tt := range map[string]struct {
		faults []fault
		took   time.Duration
		err    error
	}{
		"at the start":            {[]fault{mute}, 90 * time.Second, ErrStalled},
		"in the middle":           {[]fault{hang(5000)}, 110 * time.Second, nil},
		"in the middle and after": {append([]fault{hang(5000)}, repeat(mute, 30)...), 90*time.Second + 20*110*time.Second, ErrStalled},
		"at the very end":         {[]fault{hang(size)}, 0, nil},
		"a byte now and then":     {repeat(trickle(20*time.Second), 30), 21*90*time.Second + 20*20*time.Second, ErrStalled},
		"a byte, then a cut":      {repeat(cut(1), 30), 20 * 20 * time.Second, errReset},
		"just fast enough":        {[]fault{trickle(99 * time.Millisecond)}, size * 99 * time.Millisecond, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &origin{data: payload(size), faults: tt.faults}
				start := time.Now()
				got, err := read(source(o), 0)
				checkError(t, err, tt.err)
				if tt.err == nil && !bytes.Equal(got, o.data) {
					t.Errorf("%d bytes", len(got))
				}
				if took := time.Since(start); took != tt.took {
					t.Errorf("took %v, want %v", took, tt.took)
				}
			})
		})
	}
}

// TestSlowReader: a program that takes its time between two reads is not taken
// for a server that hangs.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &origin{data: payload(size)}
		r, err := source(o).Open(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		buf := make([]byte, 100)
		for range size / len(buf) {
			if _, err := io.ReadFull(r, buf); err != nil {
				t.Fatal(err)
			}
			<-time.After(5 * time.Minute)
		}
		if n, err := r.Read(buf); n != 0 || err != io.EOF || len(o.asked) != 1 {
			t.Errorf("%d, %v after %q", n, err, o.asked)
		}
	})
}

func TestCancel(t *testing.T) {
	for name, faults := range map[string][]fault{
		"waiting for an answer":  {mute},
		"waiting for a byte":     {hang(5000)},
		"pausing":                {cut(5000), cut(0), cut(0), cut(0)},
		"reading":                {trickle(50 * time.Millisecond)},
		"skipping what is there": {cut(5000), overwrite(whole, cutAt(0)), overwrite(whole, cutAt(0))},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				start := time.Now()
				r, err := source(&origin{data: payload(size), faults: faults}).Open(ctx, 0)
				if err == nil {
					_, err = io.Copy(io.Discard, r)
				}
				if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 30*time.Second {
					t.Errorf("%v after %v", err, time.Since(start))
				}
			})
		})
	}
}

// TestLimit: bytes come evenly, and no faster than told, also while others
// share the limit and while bytes are read only to be dropped.
func TestLimit(t *testing.T) {
	for name, tt := range map[string]struct {
		rate   int64
		offset int64
		faults []fault
	}{
		"slow": {1000, 0, nil}, "fast": {50_000, 0, nil}, "very slow": {9, 99_000, nil}, "skipping": {10_000, 50_000, []fault{whole}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := source(&origin{data: payload(size), faults: tt.faults})
				s.Limit = NewLimit(tt.rate)
				start := time.Now()
				r, err := s.Open(t.Context(), tt.offset)
				if err != nil {
					t.Fatal(err)
				}
				buf, most := make([]byte, 1<<20), 0
				for err == nil {
					var n int
					n, err = r.Read(buf)
					most = max(most, n)
				}
				sent := size - tt.offset
				if len(tt.faults) > 0 {
					sent = size
				}
				want := time.Duration(float64(sent) / float64(tt.rate) * float64(time.Second))
				if took := time.Since(start); err != io.EOF || took > want || took < want-time.Second {
					t.Errorf("%v after %v, want %v", err, took, want)
				}
				if most > int(max(tt.rate/10, 1)) {
					t.Errorf("%d bytes at once", most)
				}
			})
		})
	}
}
