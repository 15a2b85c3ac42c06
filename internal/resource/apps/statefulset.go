package apps

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/core"
)

// StatefulSet is a number of pods, each with a name and storage of its own that it keeps.
func StatefulSet() *resource.Kind {
	return &resource.Kind{
		GroupVersionKind: gvk("StatefulSet"), Plural: "statefulsets", Singular: "statefulset", ShortNames: []string{"sts"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "/registry/statefulsets/",
		New:     func() resource.Object { return &appsv1.StatefulSet{} },
		NewList: func() runtime.Object { return &appsv1.StatefulSetList{} },

		Default: func(o resource.Object) { defaultStatefulSet(&o.(*appsv1.StatefulSet).Spec) },
		PrepareCreate: func(o resource.Object) {
			s := o.(*appsv1.StatefulSet)
			s.Status, s.Generation = appsv1.StatefulSetStatus{}, 1
			core.DropDisabledInTemplate(&s.Spec.Template)
		},
		PrepareUpdate: func(new, old resource.Object) {
			n, o := new.(*appsv1.StatefulSet), old.(*appsv1.StatefulSet)
			n.Status = o.Status
			core.DropDisabledInTemplate(&n.Spec.Template)
			if n.Generation = o.Generation; !equality.Semantic.DeepEqual(n.Spec, o.Spec) {
				n.Generation++
			}
		},
		NameRule: apivalidation.NameIsDNSLabel,
		Validate: func(o resource.Object) field.ErrorList {
			return statefulSet(&o.(*appsv1.StatefulSet).Spec, resource.IsNew(o))
		},
		ValidateUpdate: func(new, old resource.Object) field.ErrorList {
			return statefulSetUpdate(&new.(*appsv1.StatefulSet).Spec, &old.(*appsv1.StatefulSet).Spec)
		},
		Warnings: func(o resource.Object) []string {
			s := &o.(*appsv1.StatefulSet).Spec
			warnings := core.TemplateWarnings(&s.Template, field.NewPath("spec", "template"))
			if s.RevisionHistoryLimit != nil && *s.RevisionHistoryLimit < 0 {
				warnings = append(warnings, "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended")
			}
			return warnings
		},
		Status: &resource.Status{
			PrepareUpdate: func(new, old resource.Object) { new.(*appsv1.StatefulSet).Spec = old.(*appsv1.StatefulSet).Spec },
			ValidateUpdate: func(new, old resource.Object) field.ErrorList {
				return statefulSetStatus(&new.(*appsv1.StatefulSet).Status, &old.(*appsv1.StatefulSet).Status)
			},
		},
		Scale: &resource.Scale{
			Read: func(o resource.Object) resource.Replicas {
				s := o.(*appsv1.StatefulSet)
				return resource.Replicas{Wanted: replicasOf(s.Spec.Replicas), Have: s.Status.Replicas, Selector: selectorText(s.Spec.Selector)}
			},
			Set: func(o resource.Object, n int32) { o.(*appsv1.StatefulSet).Spec.Replicas = &n },
		},

		Fields:     resource.MetaFields,
		FieldNames: resource.MetaNames(),
		Columns: append([]metav1.TableColumnDefinition{
			resource.NameColumn(), resource.Column("Ready", "string", "Number of the pod with ready state"), resource.AgeColumn(),
		}, core.TemplateColumns("")...),
		Row: func(o resource.Object, now time.Time) []any {
			s := o.(*appsv1.StatefulSet)
			names, images := core.TemplateCells(&s.Spec.Template)
			return []any{s.Name, fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, replicasOf(s.Spec.Replicas)), resource.Age(s, now), names, images}
		},
	}
}

func defaultStatefulSet(s *appsv1.StatefulSetSpec) {
	orText(&s.PodManagementPolicy, appsv1.OrderedReadyPodManagement)
	u := &s.UpdateStrategy
	if u.Type == "" {
		u.Type = appsv1.RollingUpdateStatefulSetStrategyType
		if u.RollingUpdate == nil {
			u.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{}
		}
	}
	if u.Type == appsv1.RollingUpdateStatefulSetStrategyType && u.RollingUpdate != nil {
		orNumber(&u.RollingUpdate.Partition, 0)
		if u.RollingUpdate.MaxUnavailable == nil {
			u.RollingUpdate.MaxUnavailable = new(intstr.FromInt32(1))
		}
	}
	if s.PersistentVolumeClaimRetentionPolicy == nil {
		s.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{}
	}
	orText(&s.PersistentVolumeClaimRetentionPolicy.WhenDeleted, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	orText(&s.PersistentVolumeClaimRetentionPolicy.WhenScaled, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	orNumber(&s.Replicas, 1)
	orNumber(&s.RevisionHistoryLimit, 10)
	for i := range s.VolumeClaimTemplates {
		c := &s.VolumeClaimTemplates[i]
		c.TypeMeta = metav1.TypeMeta{} // stored objects have none; an update that names it changes nothing
		orText(&c.Status.Phase, corev1.ClaimPending)
		core.DefaultClaimSpec(&c.Spec)
	}
	core.DefaultPodSpec(&s.Template.Spec)
}

func orNumber(n **int32, value int32) {
	if *n == nil {
		*n = &value
	}
}

func orText[T ~string](s *T, value T) {
	if *s == "" {
		*s = value
	}
}
