// Package etcd2 speaks the v2 keys API of etcd (Documentation/v2/api.md), which
// CoreOS fleet keeps its schedule in: as much of it as a careful guest needs.
//
// What is read is read by quorum. What is written is written under a condition;
// where the answer to a write is lost, whether it was done is not known, and the
// caller reads again.
package etcd2

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// defaultTimeout bounds one request to one member. fleet itself gives etcd one
	// second; a member that has just lost its leader answers within a few.
	defaultTimeout = 5 * time.Second
	// maxAnswerBytes bounds an answer: the schedule of ten thousand units, each with
	// five keys of 300 bytes, is half of it.
	maxAnswerBytes = 32 << 20
	// maxPasswordBytes bounds a password file.
	maxPasswordBytes = 4 << 10
)

// The codes of etcd's errors that callers branch on (error/error.go of etcd 2).
const (
	KeyNotFound       = 100
	CompareFailed     = 101
	NodeExist         = 105
	DirNotEmpty       = 108
	Unauthorized      = 110
	EventIndexCleared = 401

	raftInternal   = 300 // and up: not now, perhaps later
	watcherCleared = 400 // no longer of that kind
)

// An Error is etcd's refusal.
type Error struct {
	Code    int    `json:"errorCode"`
	Message string `json:"message"`
	Cause   string `json:"cause"`
	Index   uint64 `json:"index"` // of the store, when it refused
}

// Error is the refusal as etcd's own tools show it.
func (e *Error) Error() string {
	return fmt.Sprintf("etcd: %d: %s (%s)", e.Code, e.Message, e.Cause)
}

// Passing reports whether the same request may succeed later: the cluster has no
// leader, or did not get around to it.
func (e *Error) Passing() bool { return e.Code >= raftInternal && e.Code < watcherCleared }

// Is reports whether err is etcd's refusal for the reason that code stands for.
func Is(err error, code int) bool {
	e := (*Error)(nil)
	return errors.As(err, &e) && e.Code == code
}

// A Node is a key and its value, or a directory and what is in it.
type Node struct {
	Key           string `json:"key"` // from the root, "/" first
	Value         string `json:"value"`
	Dir           bool   `json:"dir"`
	Nodes         []Node `json:"nodes"`
	ModifiedIndex uint64 `json:"modifiedIndex"`
}

// Name is the last element of a node's key.
func (n Node) Name() string { return path.Base(n.Key) }

// Child is the node of that name in a directory; false if there is none.
func (n Node) Child(name string) (Node, bool) {
	for _, c := range n.Nodes {
		if c.Name() == name {
			return c, true
		}
	}
	return Node{}, false
}

// A Prev is what a key must hold for a write to be done: a value that is not
// empty, or an index that is not 0, or both.
type Prev struct {
	Value string
	Index uint64
}

// A Client asks the members of an etcd cluster, another one where one is not
// there. It is safe for use by several goroutines.
type Client struct {
	Endpoints []string // base URLs, as Options.Check wants them
	HTTP      *http.Client
	User      string
	// PasswordFile holds User's password; it is read with each request.
	PasswordFile string
	Timeout      time.Duration // of one request to one member; 0: 5 s

	last atomic.Int64 // of Endpoints, the one that answered last
}

// Get reads a key, or with everything below it a directory, by quorum, and the
// index of the store then.
func (c *Client) Get(ctx context.Context, key string) (Node, uint64, error) {
	a, err := c.do(ctx, request{http.MethodGet, key, url.Values{"quorum": {"true"}, "recursive": {"true"}}, nil})
	if err != nil {
		return Node{}, 0, fmt.Errorf("read %s: %w", key, err)
	}
	return a.Node, a.index, nil
}

// Create writes a key that does not exist. NodeExist: it does.
func (c *Client) Create(ctx context.Context, key, value string) (Node, error) {
	return c.put(ctx, key, value, url.Values{"prevExist": {"false"}})
}

// Swap writes a key that holds prev. CompareFailed: it holds something else;
// KeyNotFound: it does not exist.
func (c *Client) Swap(ctx context.Context, key, value string, prev Prev) (Node, error) {
	return c.put(ctx, key, value, prev.query())
}

func (c *Client) put(ctx context.Context, key, value string, query url.Values) (Node, error) {
	a, err := c.do(ctx, request{http.MethodPut, key, query, url.Values{"value": {value}}})
	if err != nil {
		return Node{}, fmt.Errorf("write %s: %w", key, err)
	}
	return a.Node, nil
}

// Delete removes a key that holds prev.
func (c *Client) Delete(ctx context.Context, key string, prev Prev) error {
	if _, err := c.do(ctx, request{http.MethodDelete, key, prev.query(), nil}); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

// RemoveDir removes a directory. DirNotEmpty: something is in it.
func (c *Client) RemoveDir(ctx context.Context, key string) error {
	if _, err := c.do(ctx, request{http.MethodDelete, key, url.Values{"dir": {"true"}}, nil}); err != nil {
		return fmt.Errorf("delete directory %s: %w", key, err)
	}
	return nil
}

// Wait returns the next change of something at or below key after the store had
// that index, as the key was after it; a Node without a key where etcd ended the
// wait without one. EventIndexCleared: too much has changed since, so read again,
// and wait from the index of what was read.
func (c *Client) Wait(ctx context.Context, key string, after uint64) (Node, error) {
	query := url.Values{"wait": {"true"}, "recursive": {"true"}, "waitIndex": {strconv.FormatUint(after+1, 10)}}
	a, err := c.do(ctx, request{http.MethodGet, key, query, nil})
	if err != nil {
		return Node{}, fmt.Errorf("watch %s: %w", key, err)
	}
	return a.Node, nil
}

func (p Prev) query() url.Values {
	query := url.Values{"prevExist": {"true"}}
	if p.Value != "" {
		query.Set("prevValue", p.Value)
	}
	if p.Index != 0 {
		query.Set("prevIndex", strconv.FormatUint(p.Index, 10))
	}
	return query
}

// answer is what etcd says of a key.
type answer struct {
	Node  Node `json:"node"`
	index uint64
}

// request is what a member is asked.
type request struct {
	method, key string
	query, form url.Values
}

// do asks members in turn, the one that answered last first, until one is there.
// Only what certainly was not done, or changes nothing, is asked again.
func (c *Client) do(ctx context.Context, r request) (a answer, err error) {
	if len(c.Endpoints) == 0 {
		return answer{}, errors.New("no etcd endpoint is given")
	}
	first := int(c.last.Load())
	for i := range c.Endpoints {
		n := (first + i) % len(c.Endpoints)
		if a, err = c.ask(ctx, c.Endpoints[n], r); err == nil {
			c.last.Store(int64(n))
			return a, nil
		}
		refusal, dial := (*Error)(nil), (*net.OpError)(nil)
		again := r.method == http.MethodGet || errors.As(err, &dial) && dial.Op == "dial"
		if ctx.Err() != nil || !again || errors.As(err, &refusal) && !refusal.Passing() {
			return answer{}, err
		}
	}
	return answer{}, err
}

// ask asks one member.
func (c *Client) ask(ctx context.Context, endpoint string, r request) (answer, error) {
	if !r.query.Has("wait") { // who waits for a change says how long
		bounded, cancel := context.WithTimeout(ctx, cmp.Or(c.Timeout, defaultTimeout))
		defer cancel()
		ctx = bounded
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		return answer{}, fmt.Errorf("etcd endpoint: %w", err)
	}
	u = u.JoinPath("v2/keys", (&url.URL{Path: r.key}).EscapedPath())
	u.RawQuery = r.query.Encode()
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), strings.NewReader(r.form.Encode()))
	if err != nil {
		return answer{}, err
	}
	if r.form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if c.User != "" {
		password, err := readPassword(c.PasswordFile)
		if err != nil {
			return answer{}, err
		}
		req.SetBasicAuth(c.User, password)
	}
	resp, err := cmp.Or(c.HTTP, http.DefaultClient).Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	return read(resp, r.query.Has("wait"))
}

// read takes etcd's answer apart. Only a watch may have none.
func read(resp *http.Response, watch bool) (a answer, err error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes+1))
	switch {
	case err != nil:
		return answer{}, fmt.Errorf("read etcd's answer: %w", err)
	case len(body) > maxAnswerBytes:
		return answer{}, fmt.Errorf("etcd's answer has more than %d MiB", maxAnswerBytes>>20)
	}
	if resp.StatusCode/100 != 2 {
		refusal := &Error{}
		if json.Unmarshal(body, refusal) == nil && refusal.Code != 0 {
			return answer{}, refusal
		}
		return answer{}, fmt.Errorf("etcd answers %s; is the v2 API served there (--enable-v2)?", resp.Status)
	}
	if watch && len(body) == 0 && resp.Header.Get("X-Etcd-Index") != "" {
		return answer{}, nil // etcd ended it
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return answer{}, fmt.Errorf("read etcd's answer: %w", err)
	}
	if a.Node.Key == "" {
		return answer{}, errors.New("read etcd's answer: it tells of no key")
	}
	a.index, err = strconv.ParseUint(resp.Header.Get("X-Etcd-Index"), 10, 64)
	if err != nil {
		return answer{}, fmt.Errorf("read etcd's index: %w", err)
	}
	return a, nil
}

func readPassword(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("read etcd password: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxPasswordBytes+1))
	if err != nil {
		return "", fmt.Errorf("read etcd password: %w", err)
	}
	if len(data) > maxPasswordBytes {
		return "", fmt.Errorf("read etcd password: %s has more than %d bytes", file, maxPasswordBytes)
	}
	return strings.TrimRight(string(data), "\r\n"), nil
}
