package why

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/claim"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource/core"
	"sampan.dev/internal/scheduler"
)

// volumesMost is how many volumes are named that a claim cannot have.
const volumesMost = 8

// stock shows claims, volumes and classes to the scheduler's filters.
type stock struct{ *look }

func (s stock) Claim(key loop.Key) *corev1.PersistentVolumeClaim {
	return one[*corev1.PersistentVolumeClaim](s.look, "persistentvolumeclaims", key.Namespace, key.Name)
}

func (s stock) Volume(name string) *corev1.PersistentVolume {
	return one[*corev1.PersistentVolume](s.look, "persistentvolumes", "", name)
}

func (s stock) Class(name string) *storagev1.StorageClass {
	return one[*storagev1.StorageClass](s.look, "storageclasses", "", name)
}

// stocked is the cluster as a scheduler sees it, with its volumes if the pod has to do with any.
func (l *look) stocked(p *corev1.Pod) *scheduler.Nodes {
	nodes := l.snapshot()
	for range claim.Names(p) {
		nodes.Stock(stock{l}, all[*corev1.PersistentVolume](l, "persistentvolumes", ""))
		break
	}
	return nodes
}

// unstored explains a pod that no node takes for its claims' sake.
func (l *look) unstored(s *state, p *corev1.Pod, sentence string) {
	first := s.because("%s", sentence)
	for name, v := range claim.Names(p) {
		c := stock{l}.Claim(loop.Key{Namespace: p.Namespace, Name: name})
		switch {
		case c == nil && v.Ephemeral != nil:
			first.because("persistentvolumeclaim/%s is made for the pod, and is not there yet", name)
		case c == nil:
			first.because("there is no persistentvolumeclaim/%s in namespace %s; volume %s of the pod is of it", name, p.Namespace, v.Name)
			s.advise("To let it in: make the claim %s, or correct claimName of volume %s, and make the pod again", name, v.Name)
		default:
			if of := l.claim(c); !of.well {
				of.Text = "persistentvolumeclaim/" + name + " " + of.Text
				s.Advice = append(s.Advice, of.Advice...)
				of.Advice = nil
				first.Causes = append(first.Causes, &of.Cause)
			}
		}
	}
}

// claim explains a claim.
func (l *look) claim(c *corev1.PersistentVolumeClaim) state {
	var users, waiting []string
	for _, p := range all[*corev1.Pod](l, "pods", "") {
		if p.Namespace == c.Namespace && claim.Uses(p, c.Name) {
			if users = append(users, p.Name); p.Spec.NodeName == "" {
				waiting = append(waiting, p.Name)
			}
		}
	}
	switch {
	case c.DeletionTimestamp != nil && len(users) > 0:
		s := ill("is being deleted, and stays while pods use it")
		s.because("pod %s names it", some(users))
		s.advise("To let it go: delete pod %s", some(users))
		return s
	case c.DeletionTimestamp != nil:
		return ill("is being deleted")
	case c.Status.Phase == corev1.ClaimLost:
		s := ill("is Lost: its volume is gone, and what was on it")
		s.because("volume %q is not there any more, or is another claim's", c.Spec.VolumeName)
		s.advise("To go on without what was there: delete the claim and make it again")
		return s
	case claim.IsBound(c):
		return well("is bound to volume %s", c.Spec.VolumeName)
	}
	name := core.ClaimClass(c)
	class := stock{l}.Class(name)
	switch {
	case c.Spec.VolumeName != "":
		return l.named(c)
	case name != "" && class == nil:
		s := ill("is Pending: its class is not there")
		s.because("there is no storageclass/%s", name)
		s.advise("To let it be bound: make the class %s, or the claim again with a class that `kubectl get storageclasses` shows", name)
		return s
	case claim.Waits(class) && len(users) == 0:
		s := ill("is Pending: it waits for a pod that uses it")
		s.because("class %s binds claims when their first pod gets a node (volumeBindingMode WaitForFirstConsumer)", name)
		s.advise("Nothing is to be done: it is bound once a pod uses it")
		return s
	case claim.Waits(class) && c.Annotations[claim.SelectedNode] == "" && len(waiting) > 0:
		s := ill("is Pending: it waits for pod %s to get a node", some(waiting))
		s.advise("To see what stands in the way: %s", fmt.Sprintf("`sampan why pod/%s -n %s`", waiting[0], c.Namespace))
		return s
	}
	s := ill("is Pending: no volume does for it")
	if class != nil && class.Provisioner != claim.NoProvisioner {
		s.because("class %s leaves it to the provisioner %s to make a volume, which is no part of this cluster's servers", name, class.Provisioner)
	}
	asks := fmt.Sprintf("%s, %s, of %s", sizeText(c.Spec.Resources.Requests), strings.Join(texts(c.Spec.AccessModes), " and "), classText(name))
	below := s.because("it asks for %s", asks)
	left := 0
	for _, v := range all[*corev1.PersistentVolume](l, "persistentvolumes", "") {
		if core.VolumeClass(v) != name {
			continue
		}
		if len(below.Causes) == volumesMost {
			left++
			continue
		}
		below.because("volume %s: %s", v.Name, whyNotVolume(v, c))
	}
	switch {
	case left > 0:
		below.because("and %s of that class, likewise", count(left, "volume"))
	case len(below.Causes) == 0:
		below.because("there are no volumes of %s", classText(name))
	}
	s.advise("To let it be bound: make a volume of at least %s", asks)
	return s
}

// named explains a claim that asks for one volume.
func (l *look) named(c *corev1.PersistentVolumeClaim) state {
	s := ill("is Pending: it asks for the volume %s", c.Spec.VolumeName)
	v := stock{l}.Volume(c.Spec.VolumeName)
	if v == nil {
		s.because("there is no volume of that name")
		s.advise("To let it be bound: make the volume %s", c.Spec.VolumeName)
		return s
	}
	s.because("volume %s: %s", v.Name, whyNotVolume(v, c))
	s.advise("To let it be bound: make the claim again, for a volume that does")
	return s
}

// whyNotVolume is why a claim does not get a volume.
func whyNotVolume(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) string {
	if r := v.Spec.ClaimRef; r != nil && !claim.Has(v, c) {
		if v.Status.Phase == corev1.VolumeReleased || v.Status.Phase == corev1.VolumeFailed {
			return fmt.Sprintf("it has been %s/%s's, which is gone; to use it again, remove spec.claimRef", r.Namespace, r.Name)
		}
		return fmt.Sprintf("it is %s/%s's", r.Namespace, r.Name)
	}
	if err := claim.Objection(v, c); err != nil {
		return fmt.Sprintf("%s (%s, %s)", err, sizeText(v.Spec.Capacity), strings.Join(texts(v.Spec.AccessModes), " and "))
	}
	if c.Spec.Selector != nil && c.Spec.VolumeName == "" {
		if sel, err := metav1.LabelSelectorAsSelector(c.Spec.Selector); err == nil && !claim.Does(v, c) {
			return "its labels do not match " + sel.String()
		}
	}
	return "it is " + string(v.Status.Phase)
}

func sizeText(of corev1.ResourceList) string {
	q := of[corev1.ResourceStorage]
	return q.String()
}

func classText(name string) string {
	if name == "" {
		return "no class"
	}
	return "class " + name
}

func texts[T ~string](list []T) (all []string) {
	for _, t := range list {
		all = append(all, string(t))
	}
	slices.Sort(all)
	return all
}

// storeText is what stands between a claim and a node.
func storeText(s scheduler.Stored) string {
	switch {
	case len(s.Users) > 0:
		return fmt.Sprintf("claim %s is for one pod alone, and %s has it", s.Claim, some(keyTexts(s.Users)))
	case s.Gone:
		return fmt.Sprintf("claim %s has volume %s, which is not there", s.Claim, s.Volume)
	case s.Claim == "":
		return fmt.Sprintf("volume %s is in %s", s.Volume, s.Reach)
	case s.Volume != "":
		return fmt.Sprintf("claim %s has volume %s, which nodes reach with %s", s.Claim, s.Volume, s.Reach)
	case len(s.Found) == 0:
		return fmt.Sprintf("claim %s finds no volume, here or elsewhere", s.Claim)
	}
	return fmt.Sprintf("claim %s finds no volume here; %s would do, from other nodes", s.Claim, some(s.Found))
}

// changeStore is what it takes for a claim to be served on a node.
func changeStore(node string, s scheduler.Stored) change {
	switch {
	case len(s.Users) > 0:
		return change{text: fmt.Sprintf("delete %s, which has claim %s for itself", some(keyTexts(s.Users)), s.Claim), cost: costRoom}
	case s.Volume == "":
		return change{text: fmt.Sprintf("make a volume on node %s that does for claim %s (`sampan why pvc/%s` says what it asks for)", node, s.Claim, s.Claim), cost: costNeighbour}
	}
	return change{text: fmt.Sprintf("nothing brings volume %s to node %s: let the pod go where it is", s.Volume, node), cost: costNever}
}
