package apiserver

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"sampan.dev/internal/auth"
	"sampan.dev/internal/token"
)

// review is a kind that is only ever created: a question that is answered, or an order that is carried out, and not stored.
type review struct {
	gvk              schema.GroupVersionKind
	plural, singular string
	namespaced       bool
	answer           func(s *Server, w http.ResponseWriter, r *http.Request, c *call) error
}

var reviews = []review{
	{corev1.SchemeGroupVersion.WithKind("Binding"), "bindings", "binding", true, (*Server).bind},
	{authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectAccessReview"), "selfsubjectaccessreviews", "selfsubjectaccessreview", false, (*Server).reviewAccess},
	{authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectRulesReview"), "selfsubjectrulesreviews", "selfsubjectrulesreview", false, (*Server).reviewRules},
	{authenticationv1.SchemeGroupVersion.WithKind("SelfSubjectReview"), "selfsubjectreviews", "selfsubjectreview", false, (*Server).reviewSelf},
	{authenticationv1.SchemeGroupVersion.WithKind("TokenReview"), "tokenreviews", "tokenreview", false, (*Server).reviewToken},
}

// review answers requests for what is only ever created.
func (s *Server) review(w http.ResponseWriter, r *http.Request, c *call) error {
	i := slices.IndexFunc(reviews, func(v review) bool {
		return v.plural == c.resource && v.gvk.Group == c.group && v.gvk.Version == c.version
	})
	if i < 0 || c.named || reviews[i].namespaced != (c.namespace != "") {
		http.NotFound(w, r)
		return nil
	}
	if c.verb != "create" {
		w.Header().Set("Allow", http.MethodPost)
		return apierrors.NewMethodNotSupported(c.gr(), c.verb)
	}
	return reviews[i].answer(s, w, r, c)
}

// decodeReview reads the body of a request as an object that is no served kind.
func decodeReview(r *http.Request, want schema.GroupVersionKind, into interface {
	runtime.Object
	Unmarshal([]byte) error
},
) error {
	f, err := bodyFormat(r)
	if err != nil {
		return err
	}
	data, err := readBody(r)
	if err != nil {
		return err
	}
	o, err := createOptions(query(r))
	if err != nil {
		return err
	}
	original := data
	switch f {
	case asProtobuf:
		var unknown runtime.Unknown
		if len(data) < len(magic) || string(data[:len(magic)]) != magic {
			err = fmt.Errorf("provided data does not appear to be a protobuf message, expected prefix %v", []byte(magic))
		} else if err = unknown.Unmarshal(data[len(magic):]); err == nil {
			err = into.Unmarshal(unknown.Raw)
		}
		into.GetObjectKind().SetGroupVersionKind(schema.FromAPIVersionAndKind(unknown.APIVersion, unknown.Kind))
	case asYAML:
		if data, err = yaml.YAMLToJSON(data); err != nil {
			break
		}
		fallthrough
	default:
		var strict []error
		if strict, err = kjson.UnmarshalStrict(data, into); err == nil && len(strict) > 0 {
			switch directive(o.FieldValidation) {
			case metav1.FieldValidationWarn:
				warningsOf(r.Context()).strict(strict)
			case metav1.FieldValidationStrict:
				err = runtime.NewStrictDecodingError(strict)
			}
		}
	}
	got := into.GetObjectKind().GroupVersionKind()
	if err != nil {
		return undecodable(err, want.Kind, &got, original)
	}
	if k := cmp.Or(got.Kind, want.Kind); k != want.Kind {
		return undecodable(fmt.Errorf("converting (%s) to (%s): unknown conversion", got.Kind, internalName(want)), want.Kind, &got, original)
	}
	if !got.Empty() && got.Version != "" && got.GroupVersion() != want.GroupVersion() {
		return bad(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)", got.GroupVersion(), want.GroupVersion()))
	}
	into.GetObjectKind().SetGroupVersionKind(want)
	return nil
}

// created answers a review.
func (s *Server) created(w http.ResponseWriter, r *http.Request, obj runtime.Object) error {
	m, err := negotiate(r, nil)
	if err != nil {
		return err
	}
	s.write(w, r, m, http.StatusCreated, obj.GetObjectKind().GroupVersionKind(), obj)
	return nil
}

// bind puts a pod on a node.
func (s *Server) bind(w http.ResponseWriter, r *http.Request, c *call) error {
	var b corev1.Binding
	if err := decodeReview(r, corev1.SchemeGroupVersion.WithKind("Binding"), &b); err != nil {
		return err
	}
	if b.Namespace != "" && b.Namespace != c.namespace {
		return bad("the namespace of the provided object does not match the namespace sent on the request")
	}
	b.Namespace = c.namespace
	if c.name != "" && b.Name != "" && b.Name != c.name {
		return bad("name in URL does not match name in Binding object")
	}
	b.Name = cmp.Or(c.name, b.Name)
	if b.Name == "" {
		return apierrors.NewInvalid(schema.GroupKind{Kind: "Binding"}, "", field.ErrorList{field.Required(field.NewPath("metadata", "name"), "name is required")})
	}
	o, err := createOptions(query(r))
	if err != nil {
		return err
	}
	if err := s.registry.Bind(r.Context(), &b, o); err != nil {
		return err
	}
	s.succeed(w, r, http.StatusCreated, &metav1.Status{Status: metav1.StatusSuccess, Code: http.StatusCreated})
	return nil
}

// reviewAccess tells somebody whether they may do something.
func (s *Server) reviewAccess(w http.ResponseWriter, r *http.Request, c *call) error {
	var review authorizationv1.SelfSubjectAccessReview
	if err := decodeReview(r, authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectAccessReview"), &review); err != nil {
		return err
	}
	q := &auth.Request{User: auth.User(r.Context())}
	res, path := review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes
	switch {
	case (res == nil) == (path == nil):
		return bad(`spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified`)
	case res != nil:
		q.Verb, q.Group, q.Resource, q.Subresource = res.Verb, res.Group, res.Resource, res.Subresource
		q.Namespace, q.Name = res.Namespace, res.Name
	default:
		q.Verb, q.Path = path.Verb, path.Path
	}
	review.Status.Allowed, review.Status.Reason = s.authorize.Authorize(q)
	return s.created(w, r, &review)
}

// reviewRules tells somebody all that they may do in a namespace, as far as it can be told in advance.
func (s *Server) reviewRules(w http.ResponseWriter, r *http.Request, c *call) error {
	var review authorizationv1.SelfSubjectRulesReview
	if err := decodeReview(r, authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectRulesReview"), &review); err != nil {
		return err
	}
	if review.Spec.Namespace == "" {
		return bad("no namespace on request")
	}
	user := auth.User(r.Context())
	review.Status.ResourceRules = []authorizationv1.ResourceRule{}
	review.Status.NonResourceRules = []authorizationv1.NonResourceRule{}
	if user.In(auth.Masters) {
		all := []string{"*"}
		review.Status.ResourceRules = append(review.Status.ResourceRules, authorizationv1.ResourceRule{Verbs: all, APIGroups: all, Resources: all})
		review.Status.NonResourceRules = append(review.Status.NonResourceRules, authorizationv1.NonResourceRule{Verbs: all, NonResourceURLs: all})
		return s.created(w, r, &review)
	}
	for _, gr := range []schema.GroupResource{
		{Group: authorizationv1.GroupName, Resource: "selfsubjectaccessreviews"},
		{Group: authorizationv1.GroupName, Resource: "selfsubjectrulesreviews"},
		{Group: authenticationv1.GroupName, Resource: "selfsubjectreviews"},
	} {
		if ok, _ := s.authorize.Authorize(&auth.Request{User: user, Verb: "create", Group: gr.Group, Resource: gr.Resource}); ok {
			review.Status.ResourceRules = append(review.Status.ResourceRules, authorizationv1.ResourceRule{
				Verbs: []string{"create"}, APIGroups: []string{gr.Group}, Resources: []string{gr.Resource},
			})
		}
	}
	for _, path := range []string{
		token.ConfigurationPath, token.ConfigurationPath + "/", "/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*",
		token.KeysPath, token.KeysPath + "/", "/readyz", "/version", "/version/",
	} {
		if ok, _ := s.authorize.Authorize(&auth.Request{User: user, Verb: "get", Path: path}); ok {
			review.Status.NonResourceRules = append(review.Status.NonResourceRules, authorizationv1.NonResourceRule{
				Verbs: []string{"get"}, NonResourceURLs: []string{path},
			})
		}
	}
	review.Status.Incomplete = user.Node() != "" // what a node may depends on its pods
	return s.created(w, r, &review)
}

// reviewSelf tells somebody who they are.
func (s *Server) reviewSelf(w http.ResponseWriter, r *http.Request, c *call) error {
	var review authenticationv1.SelfSubjectReview
	if err := decodeReview(r, authenticationv1.SchemeGroupVersion.WithKind("SelfSubjectReview"), &review); err != nil {
		return err
	}
	user := auth.User(r.Context())
	review.Status.UserInfo = userInfo(user)
	return s.created(w, r, &review)
}
