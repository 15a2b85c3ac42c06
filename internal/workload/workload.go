// Package workload is what the controllers of workloads share: making pods from a template, claiming them, and telling how far they are.
//
// It watches and writes nothing. Always: no function changes what it is given; pods made here carry a reference to their controller.
package workload

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/dump"
)

// NewPod makes a pod of a template for its controller, which is of that kind. Its name is to be generated from the controller's; whoever has fixed
// names sets Name.
func NewPod(owner metav1.Object, kind schema.GroupVersionKind, template *corev1.PodTemplateSpec) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: owner.GetNamespace(), GenerateName: owner.GetName() + "-",
			Labels: maps.Clone(template.Labels), Annotations: maps.Clone(template.Annotations), Finalizers: slices.Clone(template.Finalizers),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, kind)},
		},
		Spec: *template.Spec.DeepCopy(),
	}
}

// Hash is the hash of a template that upstream puts into the label pod-template-hash; collisions, if not nil, makes it another one.
func Hash(template *corev1.PodTemplateSpec, collisions *int32) string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%v", dump.ForHash(*template))
	if collisions != nil {
		var b [8]byte
		binary.LittleEndian.PutUint32(b[:], uint32(*collisions))
		_, _ = h.Write(b[:])
	}
	return rand.SafeEncodeString(fmt.Sprint(h.Sum32()))
}

// Claims says which objects are a controller's own, which it is to adopt and which to let go.
type Claims[T metav1.Object] struct{ Owned, Adopt, Release []T }

// Claim sorts candidates by the rules of controller references (Kubernetes, "Controllers and OwnerReferences"): what another controller owns is
// left alone; what the owner has and its selector no longer matches is to be released; what has no controller, is not being
// deleted and matches is to be adopted, unless the owner itself is being deleted.
func Claim[T metav1.Object](owner metav1.Object, selector labels.Selector, candidates []T) Claims[T] {
	var c Claims[T]
	for _, o := range candidates {
		ref := metav1.GetControllerOfNoCopy(o)
		matches := selector.Matches(labels.Set(o.GetLabels()))
		switch {
		case ref != nil && ref.UID != owner.GetUID():
		case ref != nil && matches:
			c.Owned = append(c.Owned, o)
		case ref != nil:
			if owner.GetDeletionTimestamp() == nil {
				c.Release = append(c.Release, o)
			}
		case matches && o.GetDeletionTimestamp() == nil && owner.GetDeletionTimestamp() == nil && o.GetNamespace() == owner.GetNamespace():
			c.Adopt = append(c.Adopt, o)
		}
	}
	return c
}

// Active says that a pod has not ended and is not being deleted.
func Active(p *corev1.Pod) bool {
	return p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed && p.DeletionTimestamp == nil
}

// Ready says that the pod's condition Ready is true.
func Ready(p *corev1.Pod) bool {
	c := readyCondition(p)
	return c != nil && c.Status == corev1.ConditionTrue
}

// ReadySince is when a ready pod became so; zero for others.
func ReadySince(p *corev1.Pod) time.Time {
	if c := readyCondition(p); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime.Time
	}
	return time.Time{}
}

func readyCondition(p *corev1.Pod) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == corev1.PodReady {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// Available says whether the pod has been ready for that long. If time alone makes it so, again is how much.
func Available(p *corev1.Pod, minReadySeconds int32, now time.Time) (yes bool, again time.Duration) {
	c := readyCondition(p)
	if c == nil || c.Status != corev1.ConditionTrue {
		return false, 0
	}
	if minReadySeconds == 0 {
		return true, 0
	}
	if c.LastTransitionTime.IsZero() {
		return false, 0
	}
	left := c.LastTransitionTime.Add(time.Duration(minReadySeconds) * time.Second).Sub(now)
	return left <= 0, max(left, 0)
}

// WithoutOwner returns the references to other owners.
func WithoutOwner(refs []metav1.OwnerReference, owner types.UID) []metav1.OwnerReference {
	return slices.DeleteFunc(slices.Clone(refs), func(r metav1.OwnerReference) bool { return r.UID == owner })
}

// WithController returns the references and one more, to a controller of that kind; unless there is a controller already.
func WithController(refs []metav1.OwnerReference, owner metav1.Object, kind schema.GroupVersionKind) []metav1.OwnerReference {
	if slices.ContainsFunc(refs, func(r metav1.OwnerReference) bool { return r.Controller != nil && *r.Controller }) {
		return refs
	}
	return append(slices.Clone(refs), *metav1.NewControllerRef(owner, kind))
}
