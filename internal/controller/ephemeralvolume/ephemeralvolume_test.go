package ephemeralvolume

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"sampan.dev/internal/loop"
)

type town struct {
	pod    *corev1.Pod
	claims map[string]*corev1.PersistentVolumeClaim
	told   []string
}

func (w *town) Pod(loop.Key) *corev1.Pod                         { return w.pod }
func (w *town) Claim(key loop.Key) *corev1.PersistentVolumeClaim { return w.claims[key.Name] }
func (w *town) Record(_ runtime.Object, kind, reason, message string) {
	w.told = append(w.told, kind+" "+reason+" "+message)
}

func (w *town) CreateClaim(_ context.Context, c *corev1.PersistentVolumeClaim) error {
	w.claims[c.Name] = c
	return nil
}

func TestAClaimIsMadeForThePodAndGoesWithIt(t *testing.T) {
	template := &corev1.PersistentVolumeClaimTemplate{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: new("local")}}
	w := &town{claims: map[string]*corev1.PersistentVolumeClaim{}, pod: &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "p"},
		Spec: corev1.PodSpec{Volumes: []corev1.Volume{
			{Name: "tmp"}, {Name: "v", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: template}}},
		}},
	}}
	c := New(w, w, w, nil, nil)
	for range 2 {
		if err := c.Reconcile(t.Context(), loop.Key{Namespace: "ns", Name: "p"}); err != nil {
			t.Fatal(err)
		}
	}
	made := w.claims["p-v"]
	if made == nil || len(w.claims) != 1 || !metav1.IsControlledBy(made, w.pod) || made.Labels["a"] != "b" || *made.Spec.StorageClassName != "local" {
		t.Errorf("made %v", w.claims)
	}
	w.claims["p-v"] = &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p-v"}}
	err := c.Reconcile(t.Context(), loop.Key{Namespace: "ns", Name: "p"})
	want := "Warning FailedBinding ephemeral volume v: PVC ns/p-v was not created for pod ns/p (pod is not owner)"
	if err == nil || !slices.Equal(w.told, []string{want}) {
		t.Errorf("%v, told %q", err, w.told)
	}
	if !strings.HasSuffix(fmt.Sprint(err), "(pod is not owner)") {
		t.Error(err)
	}
	w.pod.DeletionTimestamp = &metav1.Time{}
	w.claims = map[string]*corev1.PersistentVolumeClaim{}
	if err := c.Reconcile(t.Context(), loop.Key{}); err != nil || len(w.claims) != 0 {
		t.Errorf("a pod that is going: %v, %v", err, w.claims)
	}
}
