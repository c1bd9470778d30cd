package kubernetes

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const reviews = "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

// TestLacking: each right that an authorizer denies is named, and no other; that
// it says nothing is not that it allows.
func TestLacking(t *testing.T) {
	all := Options{Surge: true, Budgets: true}
	for name, c := range map[string]struct {
		options Options
		force   bool
		deny    func(authorizationv1.ResourceAttributes) bool
		want    []string
	}{
		"nothing": {options: all, force: true, deny: func(authorizationv1.ResourceAttributes) bool { return false }},
		"to cordon": {deny: func(a authorizationv1.ResourceAttributes) bool { return a.Verb == "patch" && a.Name == nodeName },
			want: []string{"patch nodes web-1 (to cordon it)"}},
		"to evict": {deny: func(a authorizationv1.ResourceAttributes) bool {
			return a.Resource == "pods" && a.Subresource == "eviction"
		},
			want: []string{"create pods/eviction (to have pods leave)"}},
		"of all pods": {options: all, deny: func(a authorizationv1.ResourceAttributes) bool {
			return a.Resource == "pods" && a.FieldSelector == nil && a.Verb == "list"
		},
			want: []string{"list pods (in all namespaces, for surge)"}},
		"what no drain of this policy asks for": {deny: func(a authorizationv1.ResourceAttributes) bool { return a.Verb == "delete" || a.Group != "" }},
		"of force and of groups": {options: all, force: true, deny: func(a authorizationv1.ResourceAttributes) bool { return a.Verb == "delete" || a.Group != "" },
			want: []string{"delete pods (for a drain by force)", "get replicasets.apps (for surge)", "get statefulsets.apps (for surge)", "list poddisruptionbudgets.policy (for budgets)"}},
	} {
		t.Run(name, func(t *testing.T) {
			a := newTwin(t)
			a.obstruct(only(reviews, func(w http.ResponseWriter, r *http.Request) bool {
				var asked authorizationv1.SelfSubjectAccessReview
				if err := decode(r, &asked); err != nil {
					t.Error(err)
				}
				asked.TypeMeta = metav1.TypeMeta{APIVersion: "authorization.k8s.io/v1", Kind: "SelfSubjectAccessReview"}
				asked.Status.Allowed = !c.deny(*asked.Spec.ResourceAttributes)
				reply(w, 201, asked)
				return true
			}))
			lacking, err := a.link(t, c.options).Lacking(soon(t), c.force)
			if err != nil || !slices.Equal(lacking, c.want) {
				t.Errorf("got %q, %v; want %q", lacking, err, c.want)
			}
			for asked := range a.asked {
				if !strings.HasPrefix(asked, "GET ") && asked != reviews {
					t.Errorf("it asked %s", asked)
				}
			}
		})
	}
}

// TestLackingUnanswered: a right that could not be asked for is not one that is
// there.
func TestLackingUnanswered(t *testing.T) {
	a := newTwin(t)
	a.obstruct(only(reviews, says(metav1.Status{Code: 500, Message: "the webhook is away"})))
	if lacking, err := a.link(t, Options{}).Lacking(soon(t), false); err == nil || !strings.Contains(err.Error(), "the webhook is away") {
		t.Errorf("%v, %v", lacking, err)
	}
}
