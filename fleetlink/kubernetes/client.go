package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// The limits on what comes from outside.
const (
	maxKubeconfig = 1 << 20  // certificates and keys inline are some KiB
	maxAnswer     = 64 << 20 // of one request: a page of pods, each at most 1.5 MiB as etcd takes them, is far below
	pageOfPods    = 100      // a list is read so many at a time, so that memory does not grow with the node
	maxPods       = 10000    // on one node; Kubernetes itself supports 110, and 500 at the most
)

const protobuf = "application/vnd.kubernetes.protobuf"

// scheme knows the few groups that are spoken here. The typed clients of all
// groups that client-go has would cost more memory than the rest of this package;
// DESIGN.md has the numbers.
var scheme, codecs = func() (*runtime.Scheme, serializer.CodecFactory) {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, policyv1.AddToScheme, storagev1.AddToScheme, authorizationv1.AddToScheme} {
		if err := add(s); err != nil {
			panic(err) // two types under one name: no program of ours gets past its first test
		}
	}
	metav1.AddToGroupVersion(s, metav1.SchemeGroupVersion)
	return s, serializer.NewCodecFactory(s)
}()

var parameters = runtime.NewParameterCodec(scheme)

// A client asks one API server with one credential.
type client struct {
	rest    *rest.RESTClient
	source  string // the kubeconfig, for people
	host    string
	timeout time.Duration
	config  *rest.Config
	date    atomic.Int64 // of its latest answer, in seconds since 1970; 0: none said
	stamps  []stamp
}

// clock is the API server's time, as of its latest answer.
func (c *client) clock() (now time.Time, told bool) {
	seconds := c.date.Load()
	return time.Unix(seconds, 0), seconds != 0
}

// client returns the client of the kubeconfig: the same one as long as the files
// are the same ones. Each new one may bring connections that nobody closes, and a
// goroutine that ends with the process (where there is a proxy, client-go shares
// neither).
func (l *Link) client() (*client, error) {
	path, err := l.kubeconfig()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.kept != nil && l.kept.source == path && !slices.ContainsFunc(l.kept.stamps, stamp.broken) {
		return l.kept, nil
	}
	c, err := connect(path, l.Timeout)
	if err != nil {
		return nil, err
	}
	if l.kept != nil {
		utilnet.CloseIdleConnectionsFor(l.kept.rest.Client.Transport)
	}
	l.kept = c
	return c, nil
}

// connect makes a client of a kubeconfig. It asks nobody yet.
func connect(path string, timeout time.Duration) (*client, error) {
	c := &client{source: path, timeout: timeout}
	if err := c.stamp(path); err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", path, err)
	}
	config, err := load(path)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", path, err)
	}
	// Of a client certificate, client-go itself sees that it is another one.
	if err := c.stamp(config.CAFile, config.BearerTokenFile); err != nil {
		return nil, fmt.Errorf("use kubeconfig %s: %w", path, err)
	}
	config.GroupVersion = &corev1.SchemeGroupVersion
	config.APIPath = "/api"
	config.NegotiatedSerializer = codecs.WithoutConversion()
	config.ContentType, config.AcceptContentTypes = protobuf, protobuf+",application/json"
	config.UserAgent = manager
	config.QPS = -1 // requests are bounded by how many are in flight
	config.Timeout = 0
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper { return bounded{rt, &c.date} })
	if c.rest, err = rest.RESTClientFor(config); err != nil {
		return nil, fmt.Errorf("use kubeconfig %s: %w", path, err)
	}
	c.host, c.config = config.Host, config
	return c, nil
}

// A stamp is a file as it was.
type stamp struct {
	path string
	info os.FileInfo
}

// stamp notes files as they are, before they are read.
func (c *client) stamp(paths ...string) error {
	for _, path := range paths {
		if path == "" {
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		c.stamps = append(c.stamps, stamp{path, info})
	}
	return nil
}

// broken reports whether a file is another one now, or was written.
func (s stamp) broken() bool {
	now, err := os.Stat(s.path)
	return err != nil || !os.SameFile(s.info, now) || !now.ModTime().Equal(s.info.ModTime()) || now.Size() != s.info.Size()
}

// load reads a kubeconfig. Relative paths in it are relative to it.
func load(path string) (*rest.Config, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxKubeconfig {
		return nil, fmt.Errorf("want a regular file of at most %d bytes", maxKubeconfig)
	}
	file, err := clientcmd.LoadFromFile(path)
	if err != nil {
		return nil, err
	}
	if err := clientcmd.ResolveLocalPaths(file); err != nil {
		return nil, err
	}
	if file.CurrentContext == "" && len(file.Contexts) != 1 {
		return nil, errors.New("it names no current context: it is empty, or not a kubeconfig")
	}
	return clientcmd.NewDefaultClientConfig(*file, &clientcmd.ConfigOverrides{}).ClientConfig()
}

// bounded cuts answers off that are longer than any right one, and notes when they
// were given.
type bounded struct {
	next http.RoundTripper
	date *atomic.Int64
}

// RoundTrip implements http.RoundTripper. A watch has no end; its frames are
// bounded by the decoder.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := b.next.RoundTrip(r)
	if err == nil && answer.StatusCode < 300 {
		if at, wrong := http.ParseTime(answer.Header.Get("Date")); wrong == nil {
			b.date.Store(at.Unix())
		}
	}
	if err == nil && r.URL.Query().Get("watch") == "" {
		answer.Body = &bounds{ReadCloser: answer.Body, left: maxAnswer}
	}
	return answer, err
}

// WrappedRoundTripper lets client-go find the transport below.
func (b bounded) WrappedRoundTripper() http.RoundTripper { return b.next }

type bounds struct {
	io.ReadCloser
	left int64
}

// Read implements io.Reader.
func (b *bounds) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// A deed is what one request does, as its errors tell it.
type deed struct {
	verb, resource, name string // as roles name them: "create", "pods/eviction", "shop/web-1"
}

// do sends one request and reads its answer into an object. client-go's own
// retries are off: they would hide for a minute and more what a pod waits for.
func (c *client) do(ctx context.Context, d deed, r *rest.Request, into runtime.Object) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	result := r.MaxRetries(0).Do(ctx)
	err := result.Error()
	if err == nil && into != nil {
		err = result.Into(into)
	}
	return c.explain(d, err)
}

// explain has an error say what was asked, of whom, and where a right is missing,
// which.
func (c *client) explain(d deed, err error) error {
	what := strings.TrimSpace(d.verb + " " + d.resource + " " + d.name)
	switch {
	case err == nil:
		return nil
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%s: the API server %s does not accept the credential in %s (expired, or of another cluster): %w", what, c.host, c.source, err)
	case missingRight(err):
		return fmt.Errorf("%s: the credential in %s lacks the right to %s %s: %w", what, c.source, d.verb, d.resource, err)
	case !status(err) && (errors.As(err, new(net.Error)) || errors.Is(err, io.ErrUnexpectedEOF)):
		return fmt.Errorf("%s: the API server %s does not answer: %w", what, c.host, err)
	case !status(err):
		return fmt.Errorf("%s: what answers at %s does not speak as an API server does: %w", what, c.host, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// status reports whether an error is an answer of the API server.
func status(err error) bool {
	s := apierrors.APIStatus(nil)
	return errors.As(err, &s)
}

// missingRight tells an authorizer's refusal, which nothing but a role changes,
// from those of admission, which concern one object. The text is the API server's
// (k8s.io/apiserver/pkg/endpoints/handlers/responsewriters, forbiddenMessage).
func missingRight(err error) bool {
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), " cannot ") && strings.Contains(err.Error(), "User \"")
}

// hopeless reports whether asking again, as soon as in seconds, will not help.
func hopeless(err error) bool {
	return apierrors.IsUnauthorized(err) || missingRight(err) || errors.Is(err, errSettled)
}

// errSettled marks what is known and will stay so.
var errSettled = errors.New("cannot be drained")

// get reads one object.
func (c *client) get(ctx context.Context, d deed, path string, into runtime.Object) error {
	d.verb = "get"
	return c.do(ctx, d, c.rest.Get().AbsPath(path), into)
}

// list reads a page of a list.
func (c *client) list(ctx context.Context, resource, path string, o metav1.ListOptions, into runtime.Object) error {
	return c.do(ctx, deed{"list", resource, ""}, c.rest.Get().AbsPath(path).VersionedParams(&o, parameters), into)
}

// watchPods follows a node's pods from a version on, until the server ends it, or
// stop is called. It must begin within the time of a request.
func (c *client) watchPods(ctx context.Context, node, version string, last time.Duration) (w watch.Interface, stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(c.timeout, cancel)
	defer late.Stop()
	seconds := int64(last.Seconds())
	o := metav1.ListOptions{FieldSelector: "spec.nodeName=" + node, ResourceVersion: version, Watch: true,
		AllowWatchBookmarks: true, TimeoutSeconds: &seconds}
	w, err = c.rest.Get().AbsPath("/api/v1/pods").VersionedParams(&o, parameters).MaxRetries(0).Watch(ctx)
	if err != nil {
		cancel()
		return nil, nil, c.explain(deed{"watch", "pods", ""}, err)
	}
	return w, func() { cancel(); w.Stop() }, nil
}

// How a pod is made to leave.
type manner struct {
	dry   bool
	force bool   // delete, whatever its budget
	grace *int64 // seconds; nil: its own
}

// remove evicts or deletes a pod, and none that came under its name later.
func (c *client) remove(ctx context.Context, p *pod, m manner) error {
	o := metav1.DeleteOptions{GracePeriodSeconds: m.grace, Preconditions: &metav1.Preconditions{UID: &p.uid}}
	if m.dry {
		o.DryRun = []string{metav1.DryRunAll}
	}
	path := "/api/v1/namespaces/" + p.namespace + "/pods/" + p.name
	if m.force {
		return c.do(ctx, deed{"delete", "pods", p.String()}, c.rest.Delete().AbsPath(path).Body(&o), nil)
	}
	e := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace, Name: p.name}, DeleteOptions: &o}
	r := c.rest.Post().AbsPath(path + "/eviction").Body(e)
	if m.dry {
		r = r.Param("dryRun", metav1.DryRunAll)
	}
	return c.do(ctx, deed{"create", "pods/eviction", p.String()}, r, nil)
}
