package admission_test

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/admission"
	"sampan.dev/internal/resource"
)

func storageClass(name string, hour int, isDefault, grows bool) *storagev1.StorageClass {
	c := &storagev1.StorageClass{
		ObjectMeta:  metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Date(2026, 1, 1, hour, 0, 0, 0, time.UTC), Annotations: map[string]string{}},
		Provisioner: "example.org/p", AllowVolumeExpansion: &grows,
	}
	if isDefault {
		c.Annotations["storageclass.kubernetes.io/is-default-class"] = "true"
	}
	return c
}

func TestAClaimWithoutAClassGetsTheNewestDefault(t *testing.T) {
	for name, c := range map[string]struct {
		classes []resource.Object
		change  func(*corev1.PersistentVolumeClaim)
		want    string // nil: none
	}{
		"there is none":       {nil, nil, "nil"},
		"none is marked":      {[]resource.Object{storageClass("a", 1, false, false)}, nil, "nil"},
		"one is":              {[]resource.Object{storageClass("a", 1, true, false), storageClass("b", 2, false, false)}, nil, "a"},
		"two are: the newest": {[]resource.Object{storageClass("b", 1, true, false), storageClass("a", 2, true, false), storageClass("c", 1, true, false)}, nil, "a"},
		"it wants another":    {[]resource.Object{storageClass("a", 1, true, false)}, func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = new("x") }, "x"},
		"it wants none":       {[]resource.Object{storageClass("a", 1, true, false)}, func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = new("") }, ""},
		"it says so in the old way": {[]resource.Object{storageClass("a", 1, true, false)}, func(c *corev1.PersistentVolumeClaim) {
			c.Annotations = map[string]string{corev1.BetaStorageClassAnnotation: "x"}
		}, "nil"},
	} {
		t.Run(name, func(t *testing.T) {
			chain := newChain(t, append(c.classes, namespace("d", corev1.NamespaceActive))...)
			claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "c"}}
			if c.change != nil {
				c.change(claim)
			}
			if err := chain.admit(admission.Attributes{Operation: admission.Create, Kind: chain.kind("PersistentVolumeClaim"), Namespace: "d", Name: "c", Object: claim}); err != nil {
				t.Fatal(err)
			}
			got := "nil"
			if claim.Spec.StorageClassName != nil {
				got = *claim.Spec.StorageClassName
			}
			if got != c.want || !slices.Equal(claim.Finalizers, []string{"kubernetes.io/pvc-protection"}) {
				t.Errorf("class %s, finalizers %v; wanted class %s", got, claim.Finalizers, c.want)
			}
		})
	}
}

func TestVolumesArePutUnderProtectionOnce(t *testing.T) {
	chain := newChain(t)
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v", Finalizers: []string{"kubernetes.io/pv-protection", "x/y"}}}
	if err := chain.admit(admission.Attributes{Operation: admission.Create, Kind: chain.kind("PersistentVolume"), Name: "v", Object: v}); err != nil || len(v.Finalizers) != 2 {
		t.Errorf("%v %v", v.Finalizers, err)
	}
}

func TestClaimsGrowWhereTheirClassLetsThem(t *testing.T) {
	chain := newChain(t, namespace("d", corev1.NamespaceActive), storageClass("grows", 1, false, true), storageClass("stays", 1, false, false))
	of := func(class, size string, phase corev1.PersistentVolumeClaimPhase) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "c"}, Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class, Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": apiresource.MustParse(size)}},
		}, Status: corev1.PersistentVolumeClaimStatus{Phase: phase}}
	}
	const only = `persistentvolumeclaims "c" is forbidden: only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize`
	for name, c := range map[string]struct {
		class, size string
		phase       corev1.PersistentVolumeClaimPhase
		want        string
	}{
		"it may":                {"grows", "2Gi", corev1.ClaimBound, ""},
		"it is not bound":       {"grows", "2Gi", corev1.ClaimPending, `persistentvolumeclaims "c" is forbidden: Only bound persistent volume claims can be expanded`},
		"its class does not":    {"stays", "2Gi", corev1.ClaimBound, only},
		"its class is not here": {"gone", "2Gi", corev1.ClaimBound, only},
		"it does not grow":      {"stays", "1Gi", corev1.ClaimPending, ""},
	} {
		err := chain.admit(admission.Attributes{
			Operation: admission.Update, Kind: chain.kind("PersistentVolumeClaim"), Namespace: "d", Name: "c",
			Object: of(c.class, c.size, c.phase), Old: of(c.class, "1Gi", c.phase),
		})
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}
