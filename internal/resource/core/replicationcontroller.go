package core

import (
	"fmt"
	"maps"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/validate"
)

// ReplicationController is a number of pods of one template: what there was before ReplicaSet.
func ReplicationController() *resource.Kind {
	spec, status := corev1.ReplicationControllerSpec{}.SwaggerDoc(), corev1.ReplicationControllerStatus{}.SwaggerDoc()
	return &resource.Kind{
		GroupVersionKind: gvk("ReplicationController"), Plural: "replicationcontrollers", Singular: "replicationcontroller",
		ShortNames: []string{"rc"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "/registry/controllers/", Orphans: true,
		New:     func() resource.Object { return &corev1.ReplicationController{} },
		NewList: func() runtime.Object { return &corev1.ReplicationControllerList{} },

		Default: func(o resource.Object) { defaultController(o.(*corev1.ReplicationController)) },
		PrepareCreate: func(o resource.Object) {
			rc := o.(*corev1.ReplicationController)
			rc.Status, rc.Generation = corev1.ReplicationControllerStatus{}, 1
			dropInController(rc)
		},
		PrepareUpdate: func(new, old resource.Object) {
			n, o := new.(*corev1.ReplicationController), old.(*corev1.ReplicationController)
			n.Status = o.Status
			dropInController(n)
			if n.Generation = o.Generation; !equality.Semantic.DeepEqual(n.Spec, o.Spec) {
				n.Generation++
			}
		},
		NameRule: apivalidation.NameIsDNSSubdomain,
		Validate: func(o resource.Object) field.ErrorList { return controller(&o.(*corev1.ReplicationController).Spec) },
		Warnings: func(o resource.Object) []string { return controllerWarnings(o.(*corev1.ReplicationController)) },
		Status: &resource.Status{
			PrepareUpdate: func(new, old resource.Object) {
				new.(*corev1.ReplicationController).Spec = old.(*corev1.ReplicationController).Spec
			},
			ValidateUpdate: func(new, _ resource.Object) field.ErrorList {
				return controllerStatus(&new.(*corev1.ReplicationController).Status)
			},
		},
		Scale: &resource.Scale{
			Read: func(o resource.Object) resource.Replicas {
				rc := o.(*corev1.ReplicationController)
				return resource.Replicas{Wanted: wanted(rc), Have: rc.Status.Replicas, Selector: labels.SelectorFromSet(rc.Spec.Selector).String()}
			},
			Set: func(o resource.Object, n int32) { o.(*corev1.ReplicationController).Spec.Replicas = &n },
		},

		Fields: func(o resource.Object) map[string]string {
			return metaFields(o, map[string]string{"status.replicas": strconv.Itoa(int(o.(*corev1.ReplicationController).Status.Replicas))})
		},
		FieldNames: append([]string{"status.replicas"}, resource.MetaNames()...),
		Columns: append([]metav1.TableColumnDefinition{
			resource.NameColumn(), column("Desired", "integer", spec["replicas"], 0), column("Current", "integer", status["replicas"], 0),
			column("Ready", "integer", status["readyReplicas"], 0), resource.AgeColumn(),
		}, TemplateColumns(spec["selector"])...),
		Row: func(o resource.Object, now time.Time) []any {
			return controllerRow(o.(*corev1.ReplicationController), now)
		},
	}
}

// defaultController takes selector and labels from the template where there are none.
func defaultController(rc *corev1.ReplicationController) {
	if t := rc.Spec.Template; t != nil {
		if t.Labels != nil && len(rc.Spec.Selector) == 0 {
			rc.Spec.Selector = maps.Clone(t.Labels)
		}
		if t.Labels != nil && len(rc.Labels) == 0 {
			rc.Labels = maps.Clone(t.Labels)
		}
		DefaultPodSpec(&t.Spec)
	}
	if rc.Spec.Replicas == nil {
		rc.Spec.Replicas = new(int32(1))
	}
}

func dropInController(rc *corev1.ReplicationController) {
	if rc.Spec.Template != nil {
		DropDisabledInTemplate(rc.Spec.Template)
	}
}

func wanted(rc *corev1.ReplicationController) int32 {
	if rc.Spec.Replicas == nil {
		return 0
	}
	return *rc.Spec.Replicas
}

// controller checks the spec. Numbers come last, as upstream reports what its schema declares.
func controller(s *corev1.ReplicationControllerSpec) field.ErrorList {
	var l validate.List
	at := root("spec")
	if len(s.Selector) == 0 {
		l.Required(at.Child("selector"), "")
	}
	if s.Replicas == nil {
		l.Required(at.Child("replicas"), "")
	}
	controllerTemplate(&l, s, at.Child("template"))
	if s.Replicas != nil {
		l.NonNegative(at.Child("replicas"), int64(*s.Replicas))
	}
	l.NonNegative(at.Child("minReadySeconds"), int64(s.MinReadySeconds))
	return l.Errs
}

func controllerTemplate(l *validate.List, s *corev1.ReplicationControllerSpec, at *field.Path) {
	t := s.Template
	if t == nil {
		l.Required(at, "")
		return
	}
	if sel := labels.Set(s.Selector).AsSelector(); !sel.Empty() && !sel.Matches(labels.Set(t.Labels)) {
		l.Invalid(at.Child("metadata", "labels"), t.Labels, "`selector` does not match template `labels`")
	}
	l.Add(ValidatePodTemplateSpec(t, at)...)
	if t.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		l.Add(field.NotSupported(at.Child("spec", "restartPolicy"), t.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		l.Forbidden(at.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in ReplicationController is not Supported")
	}
}

func controllerWarnings(rc *corev1.ReplicationController) (warnings []string) {
	if wrong := validation.IsDNS1123Label(rc.Name); len(wrong) > 0 && resource.IsNew(rc) {
		warnings = append(warnings, fmt.Sprintf(
			"metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", wrong))
	}
	if rc.Spec.Template == nil {
		return warnings
	}
	return append(warnings, TemplateWarnings(rc.Spec.Template, root("spec", "template"))...)
}

func controllerStatus(s *corev1.ReplicationControllerStatus) field.ErrorList {
	var l validate.List
	at := root("status")
	l.NonNegative(at.Child("replicas"), int64(s.Replicas))
	parts := []struct {
		name string
		n    int32
	}{{"fullyLabeledReplicas", s.FullyLabeledReplicas}, {"readyReplicas", s.ReadyReplicas}, {"availableReplicas", s.AvailableReplicas}}
	for _, p := range parts {
		l.NonNegative(at.Child(p.name), int64(p.n))
	}
	l.NonNegative(at.Child("observedGeneration"), s.ObservedGeneration)
	for _, p := range parts {
		if p.n > s.Replicas {
			l.Invalid(at.Child(p.name), p.n, "cannot be greater than status.replicas")
		}
	}
	if s.AvailableReplicas > s.ReadyReplicas {
		l.Invalid(at.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than readyReplicas")
	}
	return l.Errs
}

func controllerRow(rc *corev1.ReplicationController, now time.Time) []any {
	var names, images string
	if rc.Spec.Template != nil {
		names, images = TemplateCells(rc.Spec.Template)
	}
	return []any{
		rc.Name, int64(wanted(rc)), int64(rc.Status.Replicas), int64(rc.Status.ReadyReplicas), resource.Age(rc, now),
		names, images, labels.FormatLabels(rc.Spec.Selector),
	}
}
