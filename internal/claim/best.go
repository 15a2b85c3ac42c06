package claim

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"sampan.dev/internal/resource/core"
)

// Best is the volume that a claim should have: the one that is kept for it, or else of those that nobody has and that do the one that allows the fewest ways of
// use besides those asked for, of these the smallest, of these the first by name. If the claim waits for a pod to be placed, only what is kept for it counts. Nil: none does.
func Best(c *corev1.PersistentVolumeClaim, volumes []*corev1.PersistentVolume, waits bool) *corev1.PersistentVolume {
	var best *corev1.PersistentVolume
	for _, v := range volumes {
		switch {
		case v.Spec.ClaimRef != nil:
			if !Has(v, c) || !large(v, c) || !Allows(v, c) {
				continue
			}
			if best == nil || best.Spec.ClaimRef == nil || v.Name < best.Name {
				best = v
			}
		case waits || best != nil && best.Spec.ClaimRef != nil || !Does(v, c):
		case best == nil || nearer(v, best) < 0:
			best = v
		}
	}
	return best
}

// Does says whether the volume, which nobody has, does for a claim that does not name one.
func Does(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) bool {
	if v.Spec.ClaimRef != nil || v.Status.Phase != corev1.VolumeAvailable || !large(v, c) || core.VolumeClass(v) != core.ClaimClass(c) || !Allows(v, c) {
		return false
	}
	if c.Spec.Selector == nil {
		return true
	}
	s, err := metav1.LabelSelectorAsSelector(c.Spec.Selector)
	return err == nil && s.Matches(labels.Set(v.Labels))
}

// large says whether the volume is big enough and of the right sort for the claim. A volume that is going is not.
func large(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) bool {
	return v.DeletionTimestamp == nil && Size(v.Spec.Capacity) >= Size(c.Spec.Resources.Requests) && mode(v.Spec.VolumeMode) == mode(c.Spec.VolumeMode) &&
		attributes(v.Spec.VolumeAttributesClassName) == attributes(c.Spec.VolumeAttributesClassName)
}

func nearer(a, b *corev1.PersistentVolume) int {
	return cmp.Or(cmp.Compare(ways(a), ways(b)), Smaller(a, b))
}

// Smaller puts smaller volumes first, and those of one size in the order of their names.
func Smaller(a, b *corev1.PersistentVolume) int {
	return cmp.Or(cmp.Compare(Size(a.Spec.Capacity), Size(b.Spec.Capacity)), cmp.Compare(a.Name, b.Name))
}

// ways is in how many ways a volume can be used.
func ways(v *corev1.PersistentVolume) int {
	modes := slices.Clone(v.Spec.AccessModes)
	slices.Sort(modes)
	return len(slices.Compact(modes))
}
