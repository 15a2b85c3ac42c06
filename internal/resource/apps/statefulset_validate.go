package apps

import (
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource/core"
	"sampan.dev/internal/resource/validate"
)

// How upstream shows strategies that it refuses: by the names of its own fields.
type (
	shownStatefulStrategy struct {
		Type          appsv1.StatefulSetUpdateStrategyType
		RollingUpdate *shownStatefulRolling
	}
	shownStatefulRolling struct {
		Partition      int32
		MaxUnavailable *intstr.IntOrString
	}
)

func showRolling(r *appsv1.RollingUpdateStatefulSetStrategy) *shownStatefulRolling {
	if r == nil {
		return nil
	}
	return &shownStatefulRolling{replicasOf(r.Partition), r.MaxUnavailable}
}

func statefulSet(s *appsv1.StatefulSetSpec, isNew bool) field.ErrorList {
	var c check
	at := field.NewPath("spec")
	switch s.PodManagementPolicy {
	case "":
		c.Required(at.Child("podManagementPolicy"), "")
	case appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement:
	default:
		c.Invalid(at.Child("podManagementPolicy"), s.PodManagementPolicy, "must be 'OrderedReady' or 'Parallel'")
	}
	c.statefulStrategy(&s.UpdateStrategy, at.Child("updateStrategy"))
	if p := s.PersistentVolumeClaimRetentionPolicy; p != nil {
		at := at.Child("persistentVolumeClaimRetentionPolicy")
		c.retention(p.WhenDeleted, at.Child("whenDeleted"))
		c.retention(p.WhenScaled, at.Child("whenScaled"))
	}
	if isNew { // what is stored already may be older than these rules
		for i := range s.VolumeClaimTemplates {
			c.Add(core.ValidateClaimLeast(&s.VolumeClaimTemplates[i].Spec, at.Child("volumeClaimTemplates").Index(i).Child("spec"))...)
		}
	}
	c.count(s.Replicas, at.Child("replicas"))
	c.NonNegative(at.Child("minReadySeconds"), int64(s.MinReadySeconds))
	if s.Ordinals != nil {
		c.NonNegative(at.Child("ordinals", "start"), int64(s.Ordinals.Start))
	}
	if isNew && s.ServiceName != "" {
		c.Messages(at.Child("serviceName"), s.ServiceName, validation.IsDNS1123Label(s.ServiceName))
	}
	c.statefulTemplate(s, at)
	return c.Errs
}

// statefulTemplate checks the selector and the template. Mounts may name the claims as if they were volumes of the template.
func (c *check) statefulTemplate(s *appsv1.StatefulSetSpec, at *field.Path) {
	if s.Selector == nil {
		c.Required(at.Child("selector"), "")
	} else {
		c.Add(metavalidation.ValidateLabelSelector(s.Selector, metavalidation.LabelSelectorValidationOptions{}, at.Child("selector"))...)
		if len(s.Selector.MatchLabels)+len(s.Selector.MatchExpressions) == 0 {
			c.Invalid(at.Child("selector"), s.Selector, "empty selector is invalid for statefulset")
		}
	}
	at, under := at.Child("template"), at.Child("selector")
	sel, err := metav1.LabelSelectorAsSelector(s.Selector)
	if err != nil {
		c.Invalid(under, s.Selector, "")
	} else {
		if !sel.Empty() && !sel.Matches(labels.Set(s.Template.Labels)) {
			c.Invalid(at.Child("metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`")
		}
		c.Add(core.ValidatePodTemplateSpec(withClaims(s), at)...)
	}
	if p := s.Template.Spec.RestartPolicy; p != corev1.RestartPolicyAlways {
		c.Add(field.NotSupported(at.Child("spec", "restartPolicy"), p, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if s.Template.Spec.ActiveDeadlineSeconds != nil {
		c.Forbidden(at.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in StatefulSet is not Supported")
	}
}

// withClaims is the template with a volume for each claim that has none of its name, after those that it has.
func withClaims(s *appsv1.StatefulSetSpec) *corev1.PodTemplateSpec {
	missing := map[string]bool{}
	for i := range s.VolumeClaimTemplates {
		missing[s.VolumeClaimTemplates[i].Name] = true
	}
	for i := range s.Template.Spec.Volumes {
		delete(missing, s.Template.Spec.Volumes[i].Name)
	}
	if len(missing) == 0 {
		return &s.Template
	}
	t := s.Template
	t.Spec.Volumes = slices.Clone(t.Spec.Volumes)
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		t.Spec.Volumes = append(t.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
		}})
	}
	return &t
}

func (c *check) statefulStrategy(u *appsv1.StatefulSetUpdateStrategy, at *field.Path) {
	rolling := at.Child("rollingUpdate")
	switch u.Type {
	case "":
		c.Required(at, "")
	case appsv1.OnDeleteStatefulSetStrategyType:
		if u.RollingUpdate != nil {
			c.Invalid(rolling, showRolling(u.RollingUpdate), "only allowed for updateStrategy 'RollingUpdate'")
		}
	case appsv1.RollingUpdateStatefulSetStrategyType:
		if u.RollingUpdate == nil {
			return
		}
		c.count(u.RollingUpdate.Partition, rolling.Child("partition"))
		if most := u.RollingUpdate.MaxUnavailable; most != nil {
			at := rolling.Child("maxUnavailable")
			c.amount(most, at)
			if isZero(most) {
				c.Invalid(at, most, "cannot be 0")
			}
			c.atMostAll(most, at)
		}
	default:
		c.Invalid(at, shownStatefulStrategy{u.Type, showRolling(u.RollingUpdate)}, "must be 'RollingUpdate' or 'OnDelete'")
	}
}

func (c *check) retention(p appsv1.PersistentVolumeClaimRetentionPolicyType, at *field.Path) {
	validate.OneOf(&c.List, at, p, appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType)
}

func statefulSetUpdate(new, old *appsv1.StatefulSetSpec) field.ErrorList {
	var c check
	rest := *new
	rest.Replicas, rest.Ordinals, rest.Template, rest.UpdateStrategy = old.Replicas, old.Ordinals, old.Template, old.UpdateStrategy
	rest.RevisionHistoryLimit, rest.MinReadySeconds = old.RevisionHistoryLimit, old.MinReadySeconds
	rest.PersistentVolumeClaimRetentionPolicy = old.PersistentVolumeClaimRetentionPolicy
	if !equality.Semantic.DeepEqual(&rest, old) {
		c.Forbidden(field.NewPath("spec"), "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "+
			"'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden")
	}
	return c.Errs
}

func statefulSetStatus(s, old *appsv1.StatefulSetStatus) field.ErrorList {
	var c check
	at := field.NewPath("status")
	parts := []tally{
		{"readyReplicas", s.ReadyReplicas},
		{"currentReplicas", s.CurrentReplicas},
		{"updatedReplicas", s.UpdatedReplicas},
		{"availableReplicas", s.AvailableReplicas},
	}
	c.NonNegative(at.Child("replicas"), int64(s.Replicas))
	for _, p := range parts {
		c.NonNegative(at.Child(p.name), int64(p.n))
	}
	c.NonNegative(at.Child("observedGeneration"), s.ObservedGeneration)
	c.count(s.CollisionCount, at.Child("collisionCount"))
	for _, p := range parts {
		if p.n > s.Replicas {
			c.Invalid(at.Child(p.name), p.n, "cannot be greater than status.replicas")
		}
	}
	if s.AvailableReplicas > s.ReadyReplicas {
		c.Invalid(at.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than status.readyReplicas")
	}
	c.noDecrement(s.CollisionCount, old.CollisionCount, at.Child("collisionCount"))
	return c.Errs
}

// noDecrement demands that a count of collisions does not shrink or go.
func (c *check) noDecrement(n, was *int32, at *field.Path) {
	if was != nil && (n == nil || *n < *was) {
		c.Invalid(at, replicasOf(n), "cannot be decremented")
	}
}
