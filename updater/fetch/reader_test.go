package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"
	"testing/synctest"
	"time"
)

const size = 100_000

// source returns a Source of o at a few URLs.
func source(o *origin, urls ...string) *Source {
	if len(urls) == 0 {
		urls = []string{"http://a/f"}
	}
	return &Source{Client: &http.Client{Transport: o}, URLs: urls, Size: int64(len(o.data))}
}

func read(s *Source, offset int64) ([]byte, error) {
	r, err := s.Open(context.Background(), offset)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func TestReader(t *testing.T) {
	data := payload(size)
	tests := map[string]struct {
		faults []fault
		urls   []string
		offset int64
		asked  []string // in full, if not nil
		took   time.Duration
		err    error // nil: the bytes are right
	}{
		"whole": {asked: []string{"http://a/f"}},
		"from the middle": {
			offset: 4711, asked: []string{"http://a/f bytes=4711-"}},
		"from the end": {
			offset: size, asked: []string{}},
		"beyond the end": {
			offset: size + 1, err: ErrSize},
		"below zero": {
			offset: -1, err: ErrSize},
		"cut in the middle": {
			faults: []fault{cut(5000)},
			asked:  []string{"http://a/f", "http://a/f bytes=5000-"}, took: 20 * time.Second},
		"cut often": {
			faults: []fault{cut(5000), cut(5000), cut(5000)},
			asked:  []string{"http://a/f", "http://a/f bytes=5000-", "http://a/f bytes=10000-", "http://a/f bytes=15000-"}, took: time.Minute},
		"body shorter than announced": {
			faults: []fault{short(5000)},
			asked:  []string{"http://a/f", "http://a/f bytes=5000-"}, took: 20 * time.Second},
		"down for a while": {
			faults: []fault{cut(5000), refused, status(503), refused}, took: 80 * time.Second},
		"down for good": {
			faults: append([]fault{cut(5000)}, repeat(refused, 30)...), took: 400 * time.Second, err: errAny},
		"down from the start": {
			faults: []fault{refused, refused}, asked: []string{"http://a/f"}, err: errAny},
		"overloaded from the start": {
			faults: []fault{status(503)}, err: &StatusError{URL: "http://a/f", HTTP: 503}},
		"not there": {
			faults: []fault{status(404)}, err: &StatusError{URL: "http://a/f", HTTP: 404}},
		"not there any more": {
			faults: []fault{cut(5000), status(404)}, took: 20 * time.Second, err: &StatusError{URL: "http://a/f", HTTP: 404}},
		"no content": {
			faults: []fault{status(204)}, err: &StatusError{URL: "http://a/f", HTTP: 204}},
		"range cannot be had": {
			faults: []fault{status(416)}, offset: 10, err: &StatusError{URL: "http://a/f", HTTP: 416}},

		"ignores Range": {
			faults: []fault{cut(5000), whole}, took: 20 * time.Second},
		"ignores Range from the start": {
			faults: []fault{whole}, offset: 5000},
		"ignores Range, then is cut within what is skipped": {
			faults: []fault{cut(5000), overwrite(whole, cutAt(100)), whole}, took: 40 * time.Second},
		"a part without being asked": {
			faults: []fault{status(206)}, err: ErrWrongRange},
		"part of another offset": {
			faults: []fault{header("Content-Range", "bytes 4999-99998/100000")}, offset: 5000, err: ErrWrongRange},
		"part without Content-Range": {
			faults: []fault{header("Content-Range", "")}, offset: 5000, err: ErrWrongRange},
		"part of other units": {
			faults: []fault{header("Content-Range", "lines 5000-99999/100000")}, offset: 5000, err: ErrWrongRange},
		"part that ends before it begins": {
			faults: []fault{header("Content-Range", "bytes 5000-4999/100000")}, offset: 5000, err: ErrWrongRange},
		"part beyond the file": {
			faults: []fault{header("Content-Range", "bytes 5000-100000/100000")}, offset: 5000, err: ErrWrongRange},
		"part with another length": {
			faults: []fault{header("Content-Range", "bytes 5000-99998/100000")}, offset: 5000, err: ErrWrongRange},
		"part of a longer file": {
			faults: []fault{header("Content-Range", "bytes 5000-99999/100001")}, offset: 5000, err: ErrSize},
		"part of a file of unknown length": {
			faults: []fault{header("Content-Range", "bytes 5000-99999/*")}, offset: 5000},
		"negative range": {
			faults: []fault{header("Content-Range", "bytes -5000--1/100000")}, offset: 5000, err: ErrWrongRange},
		"in small parts": {
			faults: []fault{some(5000), some(5000), some(5000)}, offset: 1000,
			asked: []string{"http://a/f bytes=1000-", "http://a/f bytes=6000-", "http://a/f bytes=11000-", "http://a/f bytes=16000-"}},

		"longer than expected": {
			faults: []fault{replace("", append(payload(size), 0))}, err: ErrSize},
		"shorter than expected": {
			faults: []fault{replace("", payload(size)[:size-1])}, err: ErrSize},
		"chunked": {
			faults: []fault{chunked(data)}, asked: []string{"http://a/f"}},
		"chunked and longer": {
			faults: []fault{chunked(append(payload(size), 0))}, err: ErrSize},
		"chunked and shorter": {
			faults: []fault{chunked(data[:5000])}, asked: []string{"http://a/f", "http://a/f bytes=5000-"}, took: 20 * time.Second},

		"next URL": {
			faults: []fault{status(404)}, urls: []string{"http://a/f", "http://b/f"},
			asked: []string{"http://a/f", "http://b/f"}},
		"next URL in the middle, at once": {
			faults: []fault{cut(5000), refused, refused}, urls: []string{"http://a/f", "http://b/f"},
			asked: []string{"http://a/f", "http://a/f bytes=5000-", "http://b/f bytes=5000-", "http://a/f bytes=5000-"}, took: 40 * time.Second},
		"next URL once the first is of no use": {
			faults: []fault{cut(5000), header("Content-Range", ""), cut(5000)}, urls: []string{"http://a/f", "http://b/f"},
			asked: []string{"http://a/f", "http://a/f bytes=5000-", "http://b/f bytes=5000-", "http://b/f bytes=10000-"}, took: 40 * time.Second},
		"no URL of any use": {
			faults: []fault{status(404), status(403)}, urls: []string{"http://a/f", "http://b/f"},
			err: &StatusError{URL: "http://a/f", HTTP: 404}},
		"a URL that was down at first": {
			faults: []fault{refused, cut(5000), status(404)}, urls: []string{"http://a/f", "http://b/f"},
			asked: []string{"http://a/f", "http://b/f", "http://b/f bytes=5000-", "http://a/f bytes=5000-"}, took: 20 * time.Second},
		"no http": {
			urls: []string{"ftp://a/f"}, err: errAny},
		"password in the open": {
			urls: []string{"http://u:p@a/f"}, err: ErrInsecureCredentials},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &origin{data: data, faults: tt.faults}
				start := time.Now()
				got, err := read(source(o, tt.urls...), tt.offset)
				if !bytes.Equal(got, data[max(0, min(int(tt.offset), size)):][:len(got)]) {
					t.Fatal("wrong bytes")
				}
				if tt.err == nil && len(got) != size-int(tt.offset) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				checkError(t, err, tt.err)
				if took := time.Since(start); took != tt.took {
					t.Errorf("took %v, want %v", took, tt.took)
				}
				if tt.asked != nil && fmt.Sprint(o.asked) != fmt.Sprint(tt.asked) {
					t.Errorf("asked %q, want %q", o.asked, tt.asked)
				}
			})
		})
	}
}

// errAny stands for an error without a name.
var errAny = errors.New("any")

func checkError(t *testing.T, err, want error) {
	t.Helper()
	var status *StatusError
	if errors.As(want, &status) {
		var got *StatusError
		if !errors.As(err, &got) || *got != *status {
			t.Errorf("got %v, want %v", err, want)
		}
		return
	}
	if (err == nil) != (want == nil) || want != nil && want != errAny && !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

func repeat(f fault, n int) (list []fault) {
	for range n {
		list = append(list, f)
	}
	return list
}

// overwrite changes the body of another fault's answer.
func overwrite(f fault, change func(io.Reader) io.Reader) fault {
	return func(o *origin, r *http.Request) (*http.Response, error) {
		resp, err := f(o, r)
		if err == nil {
			resp.Body = io.NopCloser(change(resp.Body))
		}
		return resp, err
	}
}

func cutAt(n int64) func(io.Reader) io.Reader {
	return func(b io.Reader) io.Reader { return io.MultiReader(io.LimitReader(b, n), failing{errReset}) }
}

// TestRangeIgnoredFarIn: past 16 MiB, a server that ignores Range is of no use.
func TestRangeIgnoredFarIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &origin{data: make([]byte, maxSkip+2), faults: []fault{whole, whole}}
		s := source(o)
		if got, err := read(s, maxSkip); err != nil || len(got) != 2 {
			t.Errorf("at the bound: %d bytes, %v", len(got), err)
		}
		if _, err := read(s, maxSkip+1); !errors.Is(err, ErrRangeIgnored) {
			t.Errorf("past the bound: %v", err)
		}
	})
}

// TestChangedFile: a file that is replaced during the download is noticed, and
// can be fetched afresh.
func TestChangedFile(t *testing.T) {
	old, fresh := payload(size), bytes.Repeat([]byte{7}, size)
	weak := overwriteHeader(cut(5000), "ETag", `W/"1"`)
	for name, tt := range map[string]struct {
		faults  []fault
		ifRange string
	}{
		"entity tag":               {[]fault{cut(5000), replace(`"2"`, fresh)}, `"1"`},
		"ignores If-Range":         {[]fault{cut(5000), overwriteHeader(part, "ETag", `"2"`)}, `"1"`},
		"weak entity tag":          {[]fault{weak, overwriteHeader(part, "ETag", `W/"2"`)}, ""},
		"another size as well":     {[]fault{cut(5000), replace(`"2"`, fresh[1:])}, `"1"`},
		"date":                     {[]fault{dated(cut(5000), "1"), dated(part, "2")}, "1"},
		"far in, and sent afresh":  {[]fault{cut(size - 1), replace(`"2"`, fresh)}, `"1"`},
		"changed before any bytes": {[]fault{cut(0), replace(`"2"`, fresh)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &origin{data: old, etag: `"1"`, faults: tt.faults}
				s := source(o)
				got, err := read(s, 0)
				if !errors.Is(err, ErrChanged) || !bytes.Equal(got, old[:len(got)]) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				if o.ranges[1] != tt.ifRange {
					t.Errorf("If-Range %q, want %q", o.ranges[1], tt.ifRange)
				}
				o.data = fresh
				if got, err := read(s, 0); err != nil || !bytes.Equal(got, fresh) {
					t.Errorf("afresh: %d bytes, %v", len(got), err)
				}
			})
		})
	}
}

// part answers a Range whatever If-Range says.
func part(o *origin, r *http.Request) (*http.Response, error) {
	r.Header.Del("If-Range")
	return well(o, r)
}

func overwriteHeader(f fault, name, value string) fault {
	return func(o *origin, r *http.Request) (*http.Response, error) {
		resp, err := f(o, r)
		if err == nil {
			resp.Header.Set(name, value)
		}
		return resp, err
	}
}

func dated(f fault, date string) fault {
	return func(o *origin, r *http.Request) (*http.Response, error) {
		resp, err := f(o, r)
		if err == nil {
			resp.Header.Del("ETag")
			resp.Header.Set("Last-Modified", date)
		}
		return resp, err
	}
}

// TestMirrorsHaveTheirOwnTags: two servers of one file need not agree on its tag.
func TestMirrorsHaveTheirOwnTags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &origin{data: payload(size), faults: []fault{
			overwriteHeader(cut(5000), "ETag", `"a"`), refused, overwriteHeader(cut(5000), "ETag", `"b"`), overwriteHeader(part, "ETag", `"b"`),
		}}
		got, err := read(source(o, "http://a/f", "http://b/f"), 0)
		if err != nil || !bytes.Equal(got, o.data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if want := []string{"", `"a"`, "", `"b"`}; !reflect.DeepEqual(o.ranges, want) {
			t.Errorf("If-Range %q, want %q", o.ranges, want)
		}
	})
}

func TestSizeUnknown(t *testing.T) {
	data := payload(size)
	for name, tt := range map[string]struct {
		faults []fault
		err    error
	}{
		"length told":             {nil, nil},
		"length told, then cut":   {[]fault{cut(5000)}, nil},
		"length told, then other": {[]fault{cut(5000), header("Content-Range", "bytes 5000-99999/100001")}, ErrSize},
		"chunked":                 {[]fault{chunked(data)}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := source(&origin{data: data, faults: tt.faults})
				s.Size = 0
				got, err := read(s, 0)
				checkError(t, err, tt.err)
				if tt.err == nil && !bytes.Equal(got, data) {
					t.Errorf("%d bytes", len(got))
				}
			})
		})
	}
}

func TestRetriesAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := source(&origin{data: payload(size), faults: []fault{cut(5000), refused}})
		s.Retries, s.Pause = 5, time.Second
		var told []error
		s.OnRetry = func(err error) { told = append(told, err) }
		if _, err := read(s, 0); err != nil || len(told) != 2 || !errors.Is(told[0], errReset) {
			t.Errorf("%v, told %v", err, told)
		}
		s = source(&origin{data: payload(size), faults: []fault{cut(5000)}})
		s.Retries = -1
		if _, err := read(s, 0); !errors.Is(err, errReset) {
			t.Errorf("no retries: %v", err)
		}
	})
}

func TestClosedReader(t *testing.T) {
	r, err := source(&origin{data: payload(size)}).Open(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Read(make([]byte, 10)); n != 0 || err == nil || err == io.EOF {
		t.Errorf("%d, %v", n, err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// TestCloseDuringARead ends a read that hangs: a program that gives a payload
// up does not wait for the server.
func TestCloseDuringARead(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		w.Write(make([]byte, 10))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer server.Close()
	r, err := (&Source{URLs: []string{server.URL}, Size: 1000}).Open(context.Background(), 0)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	started := make(chan struct{})
	go func() {
		io.ReadFull(r, make([]byte, 10))
		close(started)
		_, err := r.Read(make([]byte, 10))
		done <- err
	}()
	<-started
	r.Close()
	if err := <-done; err == nil {
		t.Error("the read went on after Close")
	}
}
