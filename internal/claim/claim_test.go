package claim

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestTheClaimsOfAPod(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.PodSpec{Volumes: []corev1.Volume{
		{Name: "a", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "b", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
		{Name: "c", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
	}}}
	var names []string
	for name := range Names(pod) {
		names = append(names, name)
	}
	if !slices.Equal(names, []string{"data", "web-c"}) || !Uses(pod, "data") || Uses(pod, "a") {
		t.Errorf("it uses %v", names)
	}
}

func TestAVolumeIsGivenOnce(t *testing.T) {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data", UID: "u"}}
	v := &corev1.PersistentVolume{}
	if !Give(v, c) || !Has(v, c) || v.Annotations[ByController] != "yes" || Give(v, c) {
		t.Errorf("given by a controller: %+v", v)
	}
	kept := &corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{ClaimRef: &corev1.ObjectReference{Namespace: "ns", Name: "data"}}}
	if !Has(kept, c) || !Give(kept, c) || kept.Spec.ClaimRef.UID != "u" || kept.Annotations != nil {
		t.Errorf("kept by a person: %+v", kept)
	}
	again := c.DeepCopy()
	again.UID = "another"
	if Has(kept, again) {
		t.Error("a claim that is made again has its volume still")
	}
}

func TestWhichNodesReachAVolume(t *testing.T) {
	v := &corev1.PersistentVolume{}
	if !Reaches(v, nil) {
		t.Error("a volume without affinity is reached by nobody")
	}
	v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
		{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk", Operator: corev1.NodeSelectorOpIn, Values: []string{"a", "b"}}}},
		{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "all", Operator: corev1.NodeSelectorOpExists}}},
	}}}
	for _, c := range []struct {
		labels map[string]string
		want   bool
	}{{nil, false}, {map[string]string{"disk": "b"}, true}, {map[string]string{"disk": "c"}, false}, {map[string]string{"all": ""}, true}} {
		if got := Reaches(v, c.labels); got != c.want {
			t.Errorf("a node with %v reaches it: %t", c.labels, got)
		}
	}
}

func TestWhyAClaimCannotHaveAVolume(t *testing.T) {
	size := func(s string) corev1.ResourceList { return corev1.ResourceList{"storage": resource.MustParse(s)} }
	for want, change := range map[string]func(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim){
		"": func(*corev1.PersistentVolume, *corev1.PersistentVolumeClaim) {},
		`the volume is marked for deletion "v"`: func(v *corev1.PersistentVolume, _ *corev1.PersistentVolumeClaim) {
			v.DeletionTimestamp = &metav1.Time{}
		},
		"requested PV is too small": func(_ *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) {
			c.Spec.Resources.Requests = size("3Gi")
		},
		"storageClassName does not match": func(v *corev1.PersistentVolume, _ *corev1.PersistentVolumeClaim) { v.Spec.StorageClassName = "x" },
		"volumeAttributesClassName does not match": func(v *corev1.PersistentVolume, _ *corev1.PersistentVolumeClaim) {
			v.Spec.VolumeAttributesClassName = new("x")
		},
		"incompatible volumeMode": func(v *corev1.PersistentVolume, _ *corev1.PersistentVolumeClaim) {
			v.Spec.VolumeMode = new(corev1.PersistentVolumeBlock)
		},
		"incompatible accessMode": func(_ *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) {
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
		},
	} {
		v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Spec: corev1.PersistentVolumeSpec{Capacity: size("2Gi"), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}}}
		c := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Resources: corev1.VolumeResourceRequirements{Requests: size("1Gi")},
		}}
		change(v, c)
		got := ""
		if err := Objection(v, c); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
