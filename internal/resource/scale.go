package resource

import (
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Scale is the subresource /scale of a kind that has replicas, which is served as a Scale of autoscaling/v1.
type Scale struct {
	Read func(Object) Replicas
	Set  func(o Object, replicas int32) // in place
}

// Replicas is what a Scale shows.
type Replicas struct {
	Wanted, Have int32
	Selector     string // of the pods that are counted, as it stands in a query
}

// ScaleKind is what the subresource is served as.
var ScaleKind = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

// ScaleVersion is the subresource /scale in the form of a version of the kind; nil if the kind has none. ToStored leaves a Scale as it is: SetScale
// puts it in its place.
func (k *Kind) ScaleVersion() *Version {
	if k.Scale == nil {
		return nil
	}
	return &Version{
		GroupVersionKind: ScaleKind, Plural: k.Plural,
		New:        func() Object { return &autoscalingv1.Scale{} },
		FromStored: func(o Object) Object { return k.ScaleOf(o) },
		ToStored:   func(o Object) Object { return o },
	}
}

// ScaleOf shows an object as a Scale. One that is a Scale already is returned as it is.
func (k *Kind) ScaleOf(o Object) *autoscalingv1.Scale {
	if s, ok := o.(*autoscalingv1.Scale); ok {
		return s
	}
	r := k.Scale.Read(o)
	return &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name: o.GetName(), Namespace: o.GetNamespace(), UID: o.GetUID(), ResourceVersion: o.GetResourceVersion(), CreationTimestamp: o.GetCreationTimestamp(),
		},
		Spec:   autoscalingv1.ScaleSpec{Replicas: r.Wanted},
		Status: autoscalingv1.ScaleStatus{Replicas: r.Have, Selector: r.Selector},
	}
}

// SetScale changes an object as the Scale says, on condition of its uid and resourceVersion where it names them.
func (k *Kind) SetScale(o Object, s *autoscalingv1.Scale) field.ErrorList {
	if n := s.Spec.Replicas; n < 0 {
		return field.ErrorList{field.Invalid(field.NewPath("spec", "replicas"), n, "must be greater than or equal to 0")}
	}
	k.Scale.Set(o, s.Spec.Replicas)
	o.SetResourceVersion(s.ResourceVersion)
	if s.UID != "" {
		o.SetUID(s.UID)
	}
	return nil
}
