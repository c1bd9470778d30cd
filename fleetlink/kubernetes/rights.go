package kubernetes

import (
	"context"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
)

// A right is one that a credential needs, as roles name it, and what for.
type right struct {
	verb, group, resource, name string // resource: "pods", "pods/eviction"
	fields                      string // selector, where kubelets have it of their own pods alone
	use                         string
}

// rights are what the options ask of a credential, and of a drain by force what
// more. Claims and volumes are left out: kubelets may read those of their own pods,
// which no question without a name tells.
func (l *Link) rights(node string, force bool) []right {
	here := "spec.nodeName=" + node
	list := []right{
		{verb: "patch", resource: "nodes", name: node, use: "to cordon it"},
		{verb: "list", resource: "pods", fields: here, use: "to see what runs here"},
		{verb: "watch", resource: "pods", fields: here, use: "to see it leave"},
		{verb: "create", resource: "pods/eviction", use: "to have pods leave"},
	}
	if force {
		list = append(list, right{verb: "delete", resource: "pods", use: "for a drain by force"})
	}
	if l.Surge {
		list = append(list,
			right{verb: "list", resource: "pods", use: "in all namespaces, for surge"},
			right{verb: "get", group: "apps", resource: "replicasets", use: "for surge"},
			right{verb: "get", group: "apps", resource: "statefulsets", use: "for surge"},
			right{verb: "get", resource: "replicationcontrollers", use: "for surge"})
	}
	if l.Budgets {
		list = append(list, right{verb: "list", group: "policy", resource: "poddisruptionbudgets", use: "for budgets"})
	}
	return list
}

// String is "patch nodes web-1 (to cordon it)".
func (r right) String() string {
	words := []string{r.verb, strings.TrimSuffix(r.resource+"."+r.group, "."), r.name, "(" + r.use + ")"}
	return strings.Join(strings.Fields(strings.Join(words, " ")), " ")
}

// review is the question for a right (SelfSubjectAccessReview).
func (r right) review() *authorizationv1.SelfSubjectAccessReview {
	resource, sub, _ := strings.Cut(r.resource, "/")
	a := &authorizationv1.ResourceAttributes{Verb: r.verb, Group: r.group, Version: "*", Resource: resource, Subresource: sub, Name: r.name}
	if r.fields != "" {
		a.FieldSelector = &authorizationv1.FieldSelectorAttributes{RawSelector: r.fields}
	}
	return &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: a}}
}

// Lacking names the rights that the credential lacks of those that the options
// ask for, and with force those of a drain by force: "create pods/eviction (to have
// pods leave)". The API server is asked for each, which every account may; it
// changes nothing. Admission is not asked: it may refuse in a single case what the
// credential has the right to.
func (l *Link) Lacking(ctx context.Context, force bool) (lacking []string, err error) {
	s, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range l.rights(s.node, force) {
		var answer authorizationv1.SelfSubjectAccessReview
		d := deed{"create", "selfsubjectaccessreviews", ""}
		if err := s.do(ctx, d, s.rest.Post().AbsPath("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews").Body(r.review()), &answer); err != nil {
			return nil, err
		}
		if !answer.Status.Allowed {
			lacking = append(lacking, r.String())
		}
	}
	return lacking, nil
}
