// Package coordination is the kinds of coordination.k8s.io.
//
// It watches and writes nothing: each kind is plain functions over objects. Always: defaulting twice is defaulting once; errors and
// columns have upstream's words.
package coordination

import (
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/validate"
)

// Kinds are the kinds of coordination.k8s.io.
func Kinds() []*resource.Kind { return []*resource.Kind{Lease()} }

// Lease says who holds something and until when: a node's heartbeat, a leader.
func Lease() *resource.Kind {
	spec := coordinationv1.LeaseSpec{}.SwaggerDoc()
	return &resource.Kind{
		GroupVersionKind: coordinationv1.SchemeGroupVersion.WithKind("Lease"), Plural: "leases", Singular: "lease",
		Namespaced: true, Prefix: "/registry/leases/", Patient: true,
		New:     func() resource.Object { return &coordinationv1.Lease{} },
		NewList: func() runtime.Object { return &coordinationv1.LeaseList{} },

		PrepareCreate: func(o resource.Object) { dropCoordinated(o.(*coordinationv1.Lease)) },
		PrepareUpdate: func(new, _ resource.Object) { dropCoordinated(new.(*coordinationv1.Lease)) },
		NameRule:      apivalidation.NameIsDNSSubdomain,
		Validate:      func(o resource.Object) field.ErrorList { return lease(o.(*coordinationv1.Lease)) },

		Fields: resource.MetaFields, FieldNames: resource.MetaNames(),
		Columns: []metav1.TableColumnDefinition{
			resource.NameColumn(),
			{Name: "Holder", Type: "string", Description: spec["holderIdentity"]},
			resource.AgeColumn(),
		},
		Row: func(o resource.Object, now time.Time) []any {
			l := o.(*coordinationv1.Lease)
			holder := ""
			if l.Spec.HolderIdentity != nil {
				holder = *l.Spec.HolderIdentity
			}
			return []any{l.Name, holder, resource.Age(l, now)}
		},
	}
}

// dropCoordinated drops the fields of coordinated leader election, as upstream does where that is off.
func dropCoordinated(l *coordinationv1.Lease) { l.Spec.Strategy, l.Spec.PreferredHolder = nil, nil }

func lease(lease *coordinationv1.Lease) field.ErrorList {
	var l validate.List
	at := field.NewPath("spec")
	if d := lease.Spec.LeaseDurationSeconds; d != nil && *d <= 0 {
		l.Invalid(at.Child("leaseDurationSeconds"), *d, "must be greater than 0")
	}
	if t := lease.Spec.LeaseTransitions; t != nil && *t < 0 {
		l.Invalid(at.Child("leaseTransitions"), *t, "must be greater than or equal to 0")
	}
	return l.Errs
}
