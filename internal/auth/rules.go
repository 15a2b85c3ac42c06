package auth

import (
	"iter"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"

	"sampan.dev/internal/token"
)

// Request is what somebody wants to do: with a resource, or with a path that is none.
type Request struct {
	User *Identity
	Verb string // "get", "list", …; the method in small letters where Resource is empty

	Group, Resource, Subresource string
	Namespace, Name              string
	Fields                       fields.Selector // of a list or watch; may be nil

	Path string // where Resource is empty
}

// Pods gives the pods bound to a node, of one namespace or, where that is empty, of all. They are shared and never changed.
type Pods func(node, namespace string) iter.Seq[*corev1.Pod]

// Rules is the static table of who may do what. It stands where role-based access control will.
type Rules struct {
	pods  Pods
	claim func(volume string) (namespace, name string)
}

// NewRules returns the rules; pods is what the rule for nodes asks about the pods that a node has.
func NewRules(pods Pods) *Rules { return &Rules{pods: pods} }

// WithVolumes adds what the rule for nodes asks about persistent volumes: which claim has one; none has an empty name.
func (r *Rules) WithVolumes(claim func(volume string) (namespace, name string)) *Rules {
	return &Rules{pods: r.pods, claim: claim}
}

// rule allows those of a group some verbs, either on resources ("resource.group") or on paths (with * for any ending).
type rule struct {
	groups    []string
	verbs     []string
	resources []string
	paths     []string

	namespace, name string // of the one object that the rule is about; empty: of all
}

var table = []rule{
	{
		groups: []string{Authenticated, Unauthenticated}, verbs: []string{"get"},
		paths: []string{"/healthz", "/healthz/*", "/livez", "/livez/*", "/readyz", "/readyz/*", "/version", "/version/"},
	},
	{
		groups: []string{Authenticated}, verbs: []string{"get"},
		paths: []string{"/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*"},
	},
	{
		groups: []string{Authenticated}, verbs: []string{"create"},
		resources: []string{
			"selfsubjectaccessreviews.authorization.k8s.io", "selfsubjectrulesreviews.authorization.k8s.io",
			"selfsubjectreviews.authentication.k8s.io",
		},
	},
	{
		groups: []string{ServiceAccounts}, verbs: []string{"get"},
		paths: []string{token.ConfigurationPath, token.ConfigurationPath + "/", token.KeysPath, token.KeysPath + "/"},
	},
	{ // what a machine that wants to join has to know, and may ask for
		groups: []string{Authenticated, Unauthenticated}, verbs: []string{"get"}, resources: []string{"configmaps"}, namespace: "kube-public", name: "cluster-info",
	},
	{
		groups: []string{Bootstrappers, Nodes}, verbs: []string{"create", "get", "list", "watch"}, resources: []string{"certificatesigningrequests.certificates.k8s.io"},
	},
	{groups: []string{Nodes}, verbs: []string{"get"}, paths: []string{"/sampan/v1/store"}}, // whether the store stands still
	{groups: []string{Monitoring}, verbs: []string{"get"}, paths: []string{"/metrics", "/metrics/*"}},
}

// Authorize says whether the request is allowed, and if it is not, sometimes why.
func (r *Rules) Authorize(q *Request) (allowed bool, reason string) {
	if q.User.In(Masters) {
		return true, ""
	}
	for i := range table {
		if table[i].allows(q) {
			return true, ""
		}
	}
	if node := q.User.Node(); node != "" {
		return r.node(node, q)
	}
	return false, ""
}

func (r *rule) allows(q *Request) bool {
	if !slices.Contains(r.verbs, q.Verb) || !slices.ContainsFunc(r.groups, q.User.In) {
		return false
	}
	if q.Resource == "" {
		return slices.ContainsFunc(r.paths, func(p string) bool { return matches(p, q.Path) })
	}
	name := q.Resource
	if q.Group != "" {
		name += "." + q.Group
	}
	if r.name != "" && (q.Namespace != r.namespace || q.Name != r.name) {
		return false
	}
	return q.Subresource == "" && slices.Contains(r.resources, name)
}

func matches(pattern, path string) bool {
	if start, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(path, start)
	}
	return pattern == path
}
