package persistentvolume

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/claim"
)

// newVolume is an Available volume of so many GiB, changed by words: "of CLASS", "for NAME", "bound NAME", "shared", "released", "delete", "provisioned", "going".
func newVolume(name string, size int, words ...string) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{}}, Spec: corev1.PersistentVolumeSpec{
		Capacity: corev1.ResourceList{"storage": *resource.NewQuantity(int64(size)<<30, resource.BinarySI)}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
		PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/data"}},
	}, Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable}}
	for _, w := range words {
		word, name, _ := strings.Cut(w, " ")
		switch word {
		case "of":
			v.Spec.StorageClassName = name
		case "for":
			v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: name}
		case "bound":
			v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: name, UID: types.UID(name)}
			v.Annotations[claim.ByController] = "yes"
			v.Status.Phase = corev1.VolumeBound
		case "shared":
			v.Spec.AccessModes = append(v.Spec.AccessModes, corev1.ReadWriteMany)
		case "released":
			v.Status.Phase = corev1.VolumeReleased
		case "delete":
			v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
		case "provisioned":
			v.Annotations[claim.Provisioned] = "example.org/p"
		case "labelled":
			v.Labels = map[string]string{"disk": "ssd"}
		case "going":
			v.DeletionTimestamp = &metav1.Time{}
		default:
			panic(w)
		}
	}
	return v
}

// newClaim asks for so many GiB, changed by words: "of CLASS", "named VOLUME", "bound VOLUME", "by-controller", "selected", "ssd".
func newClaim(name string, size int, words ...string) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), Annotations: map[string]string{}},
		Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: new(""), Resources: corev1.VolumeResourceRequirements{
			Requests: corev1.ResourceList{"storage": *resource.NewQuantity(int64(size)<<30, resource.BinarySI)},
		}},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	}
	for _, w := range words {
		word, name, _ := strings.Cut(w, " ")
		switch word {
		case "of":
			c.Spec.StorageClassName = &name
		case "classless":
			c.Spec.StorageClassName = nil
		case "named":
			c.Spec.VolumeName = name
		case "bound":
			c.Spec.VolumeName = name
			c.Annotations[claim.Completed], c.Annotations[claim.ByController] = "yes", "yes"
			c.Status.Phase = corev1.ClaimBound
		case "by-controller":
			c.Annotations[claim.ByController] = "yes"
		case "selected":
			c.Annotations[claim.SelectedNode] = "n1"
		case "ssd":
			c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"disk": "ssd"}}
		case "block":
			c.Spec.VolumeMode = new(corev1.PersistentVolumeBlock)
		default:
			panic(w)
		}
	}
	return c
}

func class(name, provisioner string, mode storagev1.VolumeBindingMode) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode}
}

func (p ClaimPlan) String() string {
	if p.Bind != nil {
		return "bind " + p.Bind.Name
	}
	if p.Class != "" {
		return "class " + p.Class
	}
	s := string(p.Phase)
	if p.Maker != "" {
		s += ", made by " + p.Maker
	}
	if p.Event != nil {
		s += fmt.Sprintf(", %s %s: %s", p.Event.Type, p.Event.Reason, p.Event.Words)
	}
	return s
}

func TestWhatBecomesOfAClaim(t *testing.T) {
	immediate := class("fast", claim.NoProvisioner, storagev1.VolumeBindingImmediate)
	waits := class("local", claim.NoProvisioner, storagev1.VolumeBindingWaitForFirstConsumer)
	foreign := class("cloud", "example.org/p", storagev1.VolumeBindingWaitForFirstConsumer)
	volumes := func(v ...*corev1.PersistentVolume) Scene { return Scene{Volumes: v} }
	const none = "Pending, Normal FailedBinding: no persistent volumes available for this claim and no storage class is set"
	for name, c := range map[string]struct {
		claim *corev1.PersistentVolumeClaim
		scene Scene
		want  string
	}{
		"there is no volume":                       {newClaim("c", 1), Scene{}, none},
		"the smallest that does":                   {newClaim("c", 2), volumes(newVolume("a", 1), newVolume("b", 9), newVolume("d", 4)), "bind d"},
		"of equals the first by name":              {newClaim("c", 2), volumes(newVolume("b", 4), newVolume("a", 4)), "bind a"},
		"all are too small":                        {newClaim("c", 9), volumes(newVolume("a", 1)), none},
		"one that can do more is kept for others":  {newClaim("c", 2), volumes(newVolume("a", 2, "shared"), newVolume("b", 9)), "bind b"},
		"one that is kept for it, before all":      {newClaim("c", 2), volumes(newVolume("a", 2), newVolume("b", 9, "for c")), "bind b"},
		"one that is kept for it, but too small":   {newClaim("c", 2), volumes(newVolume("b", 1, "for c")), none},
		"one that is kept for another":             {newClaim("c", 2), volumes(newVolume("b", 2, "for d")), none},
		"one of another class":                     {newClaim("c", 2), volumes(newVolume("b", 2, "of fast")), none},
		"one that has been released":               {newClaim("c", 2), volumes(newVolume("b", 2, "released")), none},
		"one that is going":                        {newClaim("c", 2), volumes(newVolume("b", 2, "going")), none},
		"one without the labels":                   {newClaim("c", 2, "ssd"), volumes(newVolume("b", 2)), none},
		"one with the labels":                      {newClaim("c", 2, "ssd"), volumes(newVolume("a", 2), newVolume("b", 4, "labelled")), "bind b"},
		"a file system for who wants a device":     {newClaim("c", 2, "block"), volumes(newVolume("b", 2)), none},
		"of a class that nobody makes volumes for": {newClaim("c", 2, "of fast"), Scene{Class: immediate}, "Pending, Warning ProvisioningFailed: no volume plugin matched name: kubernetes.io/no-provisioner"},
		"of a class that is not there":             {newClaim("c", 2, "of x"), Scene{}, `Pending, Warning ProvisioningFailed: storageclass.storage.k8s.io "x" not found`},
		"of a class that waits":                    {newClaim("c", 2, "of local"), Scene{Class: waits, Volumes: []*corev1.PersistentVolume{newVolume("a", 2, "of local")}}, "Pending, Normal WaitForFirstConsumer: waiting for first consumer to be created before binding"},
		"of a class that waits, for a pod":         {newClaim("c", 2, "of local"), Scene{Class: waits, Pods: []string{"p"}}, "Pending, Normal WaitForPodScheduled: waiting for pod p to be scheduled"},
		"of a class that waits, for pods":          {newClaim("c", 2, "of local"), Scene{Class: waits, Pods: []string{"p", "q"}}, "Pending, Normal WaitForPodScheduled: waiting for pods p,q to be scheduled"},
		"the scheduler has chosen a volume":        {newClaim("c", 2, "of local"), Scene{Class: waits, Volumes: []*corev1.PersistentVolume{newVolume("a", 2, "of local"), newVolume("b", 4, "of local", "bound c")}}, "bind b"},
		"the scheduler has chosen a node": {
			newClaim("c", 2, "of cloud", "selected"), Scene{Class: foreign}, "Pending, made by example.org/p, Normal ExternalProvisioning: Waiting for a volume to be created either by the external provisioner " +
				"'example.org/p' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.",
		},
		"a class came after it":              {newClaim("c", 2, "classless"), Scene{Default: immediate}, "class fast"},
		"it wants no class":                  {newClaim("c", 2), Scene{Default: immediate}, none},
		"it names a volume that is not here": {newClaim("c", 2, "named v"), Scene{}, "Pending"},
		"it names a volume":                  {newClaim("c", 2, "named v"), Scene{Volume: newVolume("v", 2)}, "bind v"},
		"it names one that is too small":     {newClaim("c", 2, "named v"), Scene{Volume: newVolume("v", 1)}, `Pending, Warning VolumeMismatch: Cannot bind to requested volume "v": requested PV is too small`},
		"it names one of another class":      {newClaim("c", 2, "named v"), Scene{Volume: newVolume("v", 2, "of fast")}, `Pending, Warning VolumeMismatch: Cannot bind to requested volume "v": storageClassName does not match`},
		"it names one that is another's":     {newClaim("c", 2, "named v"), Scene{Volume: newVolume("v", 2, "bound d")}, `Pending, Warning FailedBinding: volume "v" already bound to a different claim.`},
		"both name each other":               {newClaim("c", 2, "named v"), Scene{Volume: newVolume("v", 2, "for c")}, "bind v"},
		"it is bound":                        {newClaim("c", 2, "bound v"), Scene{Volume: newVolume("v", 2, "bound c")}, "bind v"},
		"its volume has forgotten it":        {newClaim("c", 2, "bound v"), Scene{Volume: newVolume("v", 2)}, "bind v"},
		"its volume is gone":                 {newClaim("c", 2, "bound v"), Scene{}, "Lost, Warning ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!"},
		"it has forgotten its volume":        {newClaim("c", 2, "bound "), Scene{}, "Lost, Warning ClaimLost: Bound claim has lost reference to PersistentVolume. Data on the volume is lost!"},
		"its volume is another's":            {newClaim("c", 2, "bound v"), Scene{Volume: newVolume("v", 2, "bound d")}, "Lost, Warning ClaimMisbound: Two claims are bound to the same volume, this one is bound incorrectly"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := DecideClaim(c.claim, c.scene)
			if got := p.String(); got != c.want || err != nil {
				t.Errorf("%v\ngot  %s\nwant %s", err, got, c.want)
			}
		})
	}
	_, err := DecideClaim(newClaim("c", 2, "named v", "by-controller"), Scene{Volume: newVolume("v", 2, "bound d")})
	if fmt.Sprint(err) != `invalid binding of claim "ns/c" to volume "v": volume already claimed by "ns/d"` {
		t.Error(err)
	}
}

func TestWhatBecomesOfAVolume(t *testing.T) {
	for name, c := range map[string]struct {
		volume *corev1.PersistentVolume
		claim  *corev1.PersistentVolumeClaim
		want   string
	}{
		"nobody has it":                       {newVolume("v", 1), nil, "Available"},
		"it is kept for a claim":              {newVolume("v", 1, "for c"), nil, "Available, its claim's turn"},
		"it is bound":                         {newVolume("v", 1, "bound c"), newClaim("c", 1, "bound v"), "Bound"},
		"its claim does not know yet":         {newVolume("v", 1, "bound c"), newClaim("c", 1), ", its claim's turn"},
		"its claim has another":               {newVolume("v", 1, "bound c"), newClaim("c", 1, "bound w"), "Available, freed"},
		"its claim is gone":                   {newVolume("v", 1, "bound c"), nil, "Released"},
		"its claim is another of the name":    {newVolume("v", 1, "bound c"), func() *corev1.PersistentVolumeClaim { c := newClaim("c", 1); c.UID = "x"; return c }(), "Released"},
		"released, and kept":                  {newVolume("v", 1, "bound c", "released"), nil, "Released"},
		"to be deleted: first it is released": {newVolume("v", 1, "bound c", "delete"), nil, "Released"},
		"to be deleted, by nobody":            {newVolume("v", 1, "bound c", "delete", "released"), nil, `Failed, Warning VolumeFailedDelete: error getting deleter volume plugin for volume "v": no deletable volume plugin matched`},
		"to be deleted by who made it":        {newVolume("v", 1, "bound c", "delete", "released", "provisioned"), nil, "Released"},
		"made for a claim that has another":   {newVolume("v", 1, "bound c", "delete", "provisioned"), newClaim("c", 1, "bound w"), "Released"},
	} {
		t.Run(name, func(t *testing.T) {
			p := DecideVolume(c.volume, c.claim)
			got := string(p.Phase)
			if p.Event != nil {
				got += fmt.Sprintf(", %s %s: %s", p.Event.Type, p.Event.Reason, p.Event.Words)
			}
			if p.Claim {
				got += ", its claim's turn"
			}
			if p.Free {
				got += ", freed"
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}
