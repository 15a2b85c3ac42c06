package deployment

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/workload"
)

// Annotations of ReplicaSets; the revision is on the Deployment, too.
const (
	annotationRevision = "deployment.kubernetes.io/revision"
	annotationHistory  = "deployment.kubernetes.io/revision-history" // earlier revisions of the same set, "1,3"
	annotationDesired  = "deployment.kubernetes.io/desired-replicas"
	annotationMax      = "deployment.kubernetes.io/max-replicas"
)

// notCopied are annotations of a Deployment that its ReplicaSets do not get.
var notCopied = []string{
	corev1.LastAppliedConfigAnnotation, annotationRevision, annotationHistory, annotationDesired, annotationMax, appsv1.DeprecatedRollbackTo,
}

// mostHistory is the most characters of annotationHistory; the oldest revisions are dropped.
const mostHistory = 2000

func numberIn(annotations map[string]string, name string) (int64, bool) {
	n, err := strconv.ParseInt(annotations[name], 10, 64)
	return n, err == nil
}

// sameTemplate compares templates but for the hash that one of them carries.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	a, b = a.DeepCopy(), b.DeepCopy()
	delete(a.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	delete(b.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return equality.Semantic.DeepEqual(a, b)
}

// split finds the set of the present template, the oldest if there are several; the others are old.
func split(d *appsv1.Deployment, all []*set) (newest *set, old []*set) {
	all = slices.Clone(all)
	slices.SortFunc(all, older)
	for _, s := range all {
		if newest == nil && sameTemplate(&s.Spec.Template, &d.Spec.Template) {
			newest = s
		} else {
			old = append(old, s)
		}
	}
	return newest, old
}

// nextRevision is the one after those of these sets.
func nextRevision(old []*set) int64 {
	most := int64(0)
	for _, s := range old {
		n, _ := numberIn(s.Annotations, annotationRevision)
		most = max(most, n)
	}
	return most + 1
}

// newSet is a ReplicaSet for the Deployment's present template, at no pods yet.
func newSet(d *appsv1.Deployment, revision int64) *set {
	hash := workload.Hash(&d.Spec.Template, d.Status.CollisionCount)
	template := d.Spec.Template.DeepCopy()
	selector := d.Spec.Selector.DeepCopy()
	if template.Labels == nil {
		template.Labels = map[string]string{}
	}
	if selector.MatchLabels == nil {
		selector.MatchLabels = map[string]string{}
	}
	template.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	selector.MatchLabels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: d.Namespace, Name: d.Name + "-" + hash, Labels: maps.Clone(template.Labels),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, Kind)},
		},
		Spec: appsv1.ReplicaSetSpec{Replicas: new(int32(0)), MinReadySeconds: d.Spec.MinReadySeconds, Selector: selector, Template: *template},
	}
	rs.Annotations = annotated(d, nil, revision)
	return &set{ReplicaSet: rs}
}

// annotated are the annotations of the newest set: the Deployment's, and the revision, which only rises; one that rises leaves its former in the history.
func annotated(d *appsv1.Deployment, have map[string]string, revision int64) map[string]string {
	next := maps.Clone(have)
	if next == nil {
		next = map[string]string{}
	}
	for key, value := range d.Annotations {
		if !slices.Contains(notCopied, key) {
			next[key] = value
		}
	}
	former, had := numberIn(have, annotationRevision)
	if had && former >= revision {
		return next
	}
	next[annotationRevision] = strconv.FormatInt(revision, 10)
	if had {
		history := strconv.FormatInt(former, 10)
		if earlier := have[annotationHistory]; earlier != "" {
			history = earlier + "," + history
		}
		for len(history) > mostHistory {
			_, history, _ = strings.Cut(history, ",")
		}
		next[annotationHistory] = history
	}
	return next
}

// sized adds the sizes by which a later change of spec.replicas is noticed and shared out.
func sized(d *appsv1.Deployment, annotations map[string]string) map[string]string {
	surge, _ := bounds(d)
	next := maps.Clone(annotations)
	if next == nil {
		next = map[string]string{}
	}
	next[annotationDesired] = strconv.Itoa(int(replicas(d)))
	next[annotationMax] = strconv.Itoa(int(replicas(d) + surge))
	return next
}

// obsolete are the sets that the history has no room for, the oldest revision first. What still has pods stays.
func obsolete(d *appsv1.Deployment, old []*set) (gone []*appsv1.ReplicaSet) {
	if d.Spec.RevisionHistoryLimit == nil {
		return nil
	}
	candidates := slices.DeleteFunc(slices.Clone(old), func(s *set) bool { return s.DeletionTimestamp != nil })
	slices.SortStableFunc(candidates, func(a, b *set) int {
		x, _ := numberIn(a.Annotations, annotationRevision)
		y, _ := numberIn(b.Annotations, annotationRevision)
		if x != y {
			return int(max(min(x-y, 1), -1))
		}
		return older(a, b)
	})
	surplus := len(candidates) - int(*d.Spec.RevisionHistoryLimit)
	for _, s := range candidates[:max(surplus, 0)] {
		if s.was() == 0 && s.size == 0 && s.Status.Replicas == 0 && s.settled() {
			gone = append(gone, s.ReplicaSet)
		}
	}
	return gone
}
