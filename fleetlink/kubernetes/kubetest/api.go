package kubetest

import (
	"context"
	"encoding/json"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

var scheme, codecs = func() (*runtime.Scheme, serializer.CodecFactory) {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, policyv1.AddToScheme, storagev1.AddToScheme,
		rbacv1.AddToScheme, coordinationv1.AddToScheme, authenticationv1.AddToScheme} {
		if err := add(s); err != nil {
			panic(err)
		}
	}
	return s, serializer.NewCodecFactory(s)
}()

var parameters = runtime.NewParameterCodec(scheme)

// An API asks the API server as one user.
type API struct{ rest *rest.RESTClient }

func newAPI(kubeconfig string) (*API, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.GroupVersion, config.APIPath = &corev1.SchemeGroupVersion, "/api"
	config.NegotiatedSerializer = codecs.WithoutConversion()
	config.ContentType, config.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
	config.QPS = -1
	c, err := rest.RESTClientFor(config)
	return &API{c}, err
}

// Create makes an object in a collection ("/api/v1/nodes"), and reads it back.
func (a *API) Create(ctx context.Context, path string, o runtime.Object) error {
	return a.rest.Post().AbsPath(path).Body(o).Do(ctx).Into(o)
}

// Apply makes an object from its text (YAML is not read, JSON is).
func (a *API) Apply(ctx context.Context, path string, text []byte) error {
	return a.rest.Post().AbsPath(path).SetHeader("Content-Type", "application/json").Body(text).Do(ctx).Error()
}

// Read reads an object, or a list that the options select.
func (a *API) Read(ctx context.Context, path string, o metav1.ListOptions, into runtime.Object) error {
	return a.rest.Get().AbsPath(path).VersionedParams(&o, parameters).Do(ctx).Into(into)
}

// Exists reports whether an object is there.
func (a *API) Exists(ctx context.Context, path string) bool {
	return a.rest.Get().AbsPath(path).MaxRetries(0).Do(ctx).Error() == nil
}

// Watch follows a collection.
func (a *API) Watch(ctx context.Context, path string, o metav1.ListOptions) (watch.Interface, error) {
	o.Watch = true
	return a.rest.Get().AbsPath(path).VersionedParams(&o, parameters).MaxRetries(0).Watch(ctx)
}

// Patch is a JSON merge patch.
func (a *API) Patch(ctx context.Context, path string, change any) error {
	body, err := json.Marshal(change)
	if err != nil {
		return err
	}
	return a.rest.Patch(types.MergePatchType).AbsPath(path).Body(body).Do(ctx).Error()
}

// Delete removes an object, if it is there.
func (a *API) Delete(ctx context.Context, path string, o metav1.DeleteOptions) error {
	err := a.rest.Delete().AbsPath(path).Body(&o).Do(ctx).Error()
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// token asks for a token of a service account.
func (p *Plane) token(namespace, account string) string {
	p.t.Helper()
	r := &authenticationv1.TokenRequest{}
	path := "/api/v1/namespaces/" + namespace + "/serviceaccounts/" + account + "/token"
	p.must("make a token", p.Create(context.Background(), path, r))
	return r.Status.Token
}
