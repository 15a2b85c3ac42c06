// Package tokens answers requests for tokens of service accounts.
//
// It reads a snapshot of the cache and writes nothing: a token is known to its holder alone. Always: a token is bound to objects that are
// there, by their uids; a node gets tokens for the pods that are bound to it, for the audiences that they ask for, and no others.
package tokens

import (
	"fmt"
	"slices"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/auth"
	"sampan.dev/internal/cache"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/token"
)

// Kind is that of the requests.
var Kind = authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")

const (
	defaultSeconds = 60 * 60
	minSeconds     = 10 * 60
	maxSeconds     = 1 << 32
)

// Issuer makes tokens.
type Issuer struct {
	Authority *token.Authority
	Audiences []string // of the API: what a token is for if nothing else is asked for

	accounts, pods, secrets, nodes *resource.Kind
	now                            func() time.Time
}

// New makes an issuer. Without audiences, the authority's own name is the only one.
func New(table *resource.Table, authority *token.Authority, audiences ...string) *Issuer {
	kind := func(name string) *resource.Kind {
		k, _ := table.ByKind(corev1.SchemeGroupVersion.WithKind(name))
		return k
	}
	if len(audiences) == 0 {
		audiences = []string{authority.Issuer()}
	}
	return &Issuer{
		Authority: authority, Audiences: audiences, now: time.Now,
		accounts: kind("ServiceAccount"), pods: kind("Pod"), secrets: kind("Secret"), nodes: kind("Node"),
	}
}

// Find gives the objects that tokens are bound to, out of a snapshot; see auth.Find.
func (i *Issuer) Find(snap *cache.Snapshot, name, namespace, object string) metav1.Object {
	for _, k := range []*resource.Kind{i.accounts, i.pods, i.secrets, i.nodes} {
		if k.Plural == name {
			if o := snap.Get(k, namespace, object); o != nil {
				return o.Decoded()
			}
		}
	}
	return nil
}

// Issue makes the token that is asked for, for a service account. The request is not changed; what is returned is it with the status,
// and with what was left out filled in. Errors are the API's own.
func (i *Issuer) Issue(snap *cache.Snapshot, user *auth.Identity, namespace, account string, asked *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	out := asked.DeepCopy()
	if err := checkNames(out, namespace, account); err != nil {
		return nil, err
	}
	o := snap.Get(i.accounts, namespace, account)
	if o == nil {
		return nil, apierrors.NewNotFound(i.accounts.GroupResource(), account)
	}
	sa := cache.Typed[*corev1.ServiceAccount](o)
	if out.UID != "" && out.UID != sa.UID {
		return nil, apierrors.NewConflict(schema.GroupResource{Group: Kind.Group, Resource: Kind.Kind}, account,
			fmt.Errorf("the UID in the token request (%s) does not match the UID of the service account (%s)", out.UID, sa.UID))
	}
	i.fill(out, sa)
	if errs := check(&out.Spec); len(errs) > 0 {
		return nil, apierrors.NewInvalid(Kind.GroupKind(), "", errs)
	}
	if node := user.Node(); node != "" {
		if err := i.checkNode(snap, node, namespace, account, asked); err != nil {
			return nil, err
		}
	}
	b, err := i.bind(snap, sa, out.Spec.BoundObjectRef)
	if err != nil {
		return nil, err
	}
	now := i.now()
	life := time.Duration(*out.Spec.ExpirationSeconds) * time.Second
	// A pod's program may be one that reads its token only once: then it is good for long, and says when it should have been renewed.
	good, warn := life, time.Duration(0)
	if b.Pod != nil && *out.Spec.ExpirationSeconds == token.InjectedSeconds && i.forAPI(out.Spec.Audiences) {
		good, warn = token.ExtendedSeconds*time.Second, life
	}
	text, err := i.Authority.Sign(token.Bound(b, out.Spec.Audiences, now, good, warn))
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("failed to generate token: %w", err))
	}
	out.CreationTimestamp = metav1.NewTime(now)
	out.Status = authenticationv1.TokenRequestStatus{Token: text, ExpirationTimestamp: metav1.NewTime(now.Add(life))}
	return out, nil
}

// forAPI says whether all audiences are the API's.
func (i *Issuer) forAPI(audiences []string) bool {
	return !slices.ContainsFunc(audiences, func(a string) bool { return !slices.Contains(i.Audiences, a) })
}

func checkNames(r *authenticationv1.TokenRequest, namespace, account string) error {
	at := field.NewPath("metadata")
	var err *field.Error
	switch {
	case r.Name != "" && r.Name != account:
		err = field.Invalid(at.Child("name"), r.Name, "must match the service account name if specified")
	case r.Namespace != "" && r.Namespace != namespace:
		err = field.Invalid(at.Child("namespace"), r.Namespace, "must match the service account namespace if specified")
	default:
		return nil
	}
	return apierrors.NewInvalid(Kind.GroupKind(), account, field.ErrorList{err})
}

// fill sets what was left out.
func (i *Issuer) fill(r *authenticationv1.TokenRequest, sa *corev1.ServiceAccount) {
	r.Name, r.Namespace, r.UID = sa.Name, sa.Namespace, sa.UID
	if len(r.Spec.Audiences) == 0 {
		r.Spec.Audiences = i.Audiences
	}
	if r.Spec.ExpirationSeconds == nil {
		seconds := int64(defaultSeconds)
		r.Spec.ExpirationSeconds = &seconds
	}
}

func check(spec *authenticationv1.TokenRequestSpec) (errs field.ErrorList) {
	at := field.NewPath("spec")
	if s := *spec.ExpirationSeconds; s < minSeconds {
		errs = append(errs, field.Invalid(at.Child("expirationSeconds"), s, "may not specify a duration less than 10 minutes"))
	} else if s > maxSeconds {
		errs = append(errs, field.Invalid(at.Child("expirationSeconds"), s, "may not specify a duration larger than 2^32 seconds"))
	}
	if len(spec.Attestations) != 0 && !isWebhook(spec.BoundObjectRef) {
		return field.ErrorList{field.Invalid(at.Child("attestations"), spec.Attestations, "attestations may only be specified with a webhook bound object reference")}
	}
	return errs
}

func isWebhook(ref *authenticationv1.BoundObjectReference) bool {
	return ref != nil && ref.APIVersion == "admissionregistration.k8s.io/v1" &&
		(ref.Kind == "ValidatingWebhookConfiguration" || ref.Kind == "MutatingWebhookConfiguration")
}

// bind finds what the token shall be bound to.
func (i *Issuer) bind(snap *cache.Snapshot, sa *corev1.ServiceAccount, ref *authenticationv1.BoundObjectReference) (token.Binding, error) {
	b := token.Binding{Namespace: sa.Namespace, ServiceAccount: token.Ref{Name: sa.Name, UID: string(sa.UID)}}
	if ref == nil {
		return b, nil
	}
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	get := func(k *resource.Kind) (metav1.Object, error) {
		o := snap.Get(k, sa.Namespace, ref.Name)
		if o == nil {
			return nil, apierrors.NewNotFound(k.GroupResource(), ref.Name)
		}
		return o.Decoded(), nil
	}
	var object metav1.Object
	var err error
	switch {
	case gvk.Group == "" && gvk.Kind == "Pod":
		if object, err = get(i.pods); err != nil {
			return b, err
		}
		pod := object.(*corev1.Pod)
		if pod.Spec.ServiceAccountName != sa.Name {
			return b, apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", sa.Name))
		}
		b.Pod, b.Node = refOf(pod), i.nodeOf(snap, pod)
	case gvk.Group == "" && gvk.Kind == "Node":
		if object, err = get(i.nodes); err != nil {
			return b, err
		}
		b.Node = refOf(object)
	case gvk.Group == "" && gvk.Kind == "Secret":
		if object, err = get(i.secrets); err != nil {
			return b, err
		}
		b.Secret = refOf(object)
	case isWebhook(ref):
		return b, apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s (feature gate APIServerWebhookAuthenticationToken is disabled)", gvk))
	default:
		return b, apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", gvk))
	}
	if ref.UID != "" && object.GetUID() != ref.UID {
		return b, apierrors.NewConflict(schema.GroupResource{Group: gvk.Group, Resource: gvk.Kind}, ref.Name, otherUID(ref.UID))
	}
	return b, nil
}

func refOf(o metav1.Object) *token.Ref { return &token.Ref{Name: o.GetName(), UID: string(o.GetUID())} }

// nodeOf is the node that a pod is bound to, by name alone if there is no such node.
func (i *Issuer) nodeOf(snap *cache.Snapshot, pod *corev1.Pod) *token.Ref {
	if pod.Spec.NodeName == "" {
		return nil
	}
	if o := snap.Get(i.nodes, "", pod.Spec.NodeName); o != nil {
		return refOf(o.Decoded())
	}
	return &token.Ref{Name: pod.Spec.NodeName}
}

func otherUID(uid types.UID) error {
	return fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", uid)
}
