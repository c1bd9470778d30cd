package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// payload returns n bytes that are different everywhere.
func payload(n int) []byte {
	data := make([]byte, n)
	chacha := rand.NewChaCha8([32]byte{1})
	_, _ = chacha.Read(data)
	return data
}

// An origin is a server without a network: under synctest its hours are free.
// Its faults come in turn, one a request; then it is well.
type origin struct {
	data   []byte
	etag   string
	faults []fault
	asked  []string // URL and Range of each request
	ranges []string // If-Range of each request
	times  []time.Time
}

type fault func(o *origin, r *http.Request) (*http.Response, error)

func (o *origin) RoundTrip(r *http.Request) (*http.Response, error) {
	o.asked = append(o.asked, strings.TrimSpace(r.URL.String()+" "+r.Header.Get("Range")))
	o.ranges = append(o.ranges, r.Header.Get("If-Range"))
	o.times = append(o.times, time.Now())
	f := well
	if n := len(o.asked) - 1; n < len(o.faults) {
		f = o.faults[n]
	}
	return f(o, r)
}

func answerOf(r *http.Request, status int, body []byte) *http.Response {
	return &http.Response{
		StatusCode: status, Header: http.Header{}, Request: r,
		ContentLength: int64(len(body)), Body: io.NopCloser(bytes.NewReader(body)),
	}
}

// well answers as RFC 9110 has it.
func well(o *origin, r *http.Request) (*http.Response, error) {
	offset := 0
	if h := r.Header.Get("Range"); h != "" && (r.Header.Get("If-Range") == "" || r.Header.Get("If-Range") == o.etag) {
		if _, err := fmt.Sscanf(h, "bytes=%d-", &offset); err != nil {
			return nil, err
		}
	}
	status := http.StatusOK
	if offset > 0 {
		status = http.StatusPartialContent
	}
	resp := answerOf(r, status, o.data[offset:])
	if offset > 0 {
		resp.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", offset, len(o.data)-1, len(o.data)))
	}
	if o.etag != "" {
		resp.Header.Set("ETag", o.etag)
	}
	return resp, nil
}

var errReset = errors.New("connection reset by peer")

func refused(*origin, *http.Request) (*http.Response, error) {
	return nil, errors.New("connection refused")
}

// body changes what a good answer's body does.
func body(change func(r *http.Request, b io.Reader) io.Reader) fault {
	return func(o *origin, r *http.Request) (*http.Response, error) {
		resp, err := well(o, r)
		if err == nil {
			resp.Body = io.NopCloser(change(r, resp.Body))
		}
		return resp, err
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// cut breaks the connection after n bytes.
func cut(n int64) fault {
	return body(func(_ *http.Request, b io.Reader) io.Reader {
		return io.MultiReader(io.LimitReader(b, n), failing{errReset})
	})
}

// short ends the body after n bytes as if that were all.
func short(n int64) fault {
	return body(func(_ *http.Request, b io.Reader) io.Reader { return io.LimitReader(b, n) })
}

type hanging struct{ ctx context.Context }

func (h hanging) Read([]byte) (int, error) {
	<-h.ctx.Done()
	return 0, h.ctx.Err()
}

// hang sends n bytes and then nothing.
func hang(n int64) fault {
	return body(func(r *http.Request, b io.Reader) io.Reader {
		return io.MultiReader(io.LimitReader(b, n), hanging{r.Context()})
	})
}

// mute takes the request and says nothing.
func mute(_ *origin, r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

type trickling struct {
	r     io.Reader
	ctx   context.Context
	every time.Duration
}

func (s trickling) Read(p []byte) (int, error) {
	if err := sleep(s.ctx, s.every); err != nil {
		return 0, err
	}
	return s.r.Read(p[:1])
}

// trickle sends a byte now and then.
func trickle(every time.Duration) fault {
	return body(func(r *http.Request, b io.Reader) io.Reader { return trickling{b, r.Context(), every} })
}

// status answers with an error page, which is of no version of the file.
func status(code int) fault {
	return func(_ *origin, r *http.Request) (*http.Response, error) {
		resp := answerOf(r, code, []byte("sorry"))
		resp.Header.Set("ETag", `"error page"`)
		return resp, nil
	}
}

// whole ignores Range.
func whole(o *origin, r *http.Request) (*http.Response, error) {
	resp := answerOf(r, http.StatusOK, o.data)
	resp.Header.Set("ETag", o.etag)
	return resp, nil
}

// header sets or deletes a header of a good answer.
func header(name, value string) fault {
	return func(o *origin, r *http.Request) (*http.Response, error) {
		resp, err := well(o, r)
		if err == nil && value == "" {
			resp.Header.Del(name)
		} else if err == nil {
			resp.Header.Set(name, value)
		}
		return resp, err
	}
}

// chunked sends data without saying how long it is.
func chunked(data []byte) fault {
	return func(o *origin, r *http.Request) (*http.Response, error) {
		resp := answerOf(r, http.StatusOK, data)
		resp.ContentLength = -1
		return resp, nil
	}
}

// some sends only n of the bytes asked for, and says so.
func some(n int) fault {
	return func(o *origin, r *http.Request) (*http.Response, error) {
		first := 0
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &first); err != nil {
			return whole(o, r)
		}
		n := min(n, len(o.data)-first)
		resp := answerOf(r, http.StatusPartialContent, o.data[first:first+n])
		resp.Header.Set("Content-Range", "bytes "+strconv.Itoa(first)+"-"+strconv.Itoa(first+n-1)+"/"+strconv.Itoa(len(o.data)))
		return resp, nil
	}
}

// replace changes the file before it answers well.
func replace(etag string, data []byte) fault {
	return func(o *origin, r *http.Request) (*http.Response, error) {
		o.etag, o.data = etag, data
		return well(o, r)
	}
}
