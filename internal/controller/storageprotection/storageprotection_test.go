package storageprotection

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestFinalizersStayAsLongAsTheyAreNeeded(t *testing.T) {
	for _, c := range []struct {
		name           string
		deleting, used bool
		has, want      []string
		changesNothing bool
	}{
		{"it is there and has it", false, false, []string{"a/b", ClaimFinalizer}, nil, true},
		{"it is there without", false, true, []string{"a/b"}, []string{"a/b", ClaimFinalizer}, false},
		{"it is going and used", true, true, []string{ClaimFinalizer}, nil, true},
		{"it is going and nobody uses it", true, false, []string{ClaimFinalizer, "a/b"}, []string{"a/b"}, false},
		{"it is going without", true, false, []string{"a/b"}, nil, true},
	} {
		o := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Finalizers: c.has}}
		if c.deleting {
			o.DeletionTimestamp = &metav1.Time{}
		}
		change := Decide(o, ClaimFinalizer, c.used)
		if (change == nil) != c.changesNothing {
			t.Errorf("%s: it changes: %t", c.name, change != nil)
			continue
		}
		if change == nil {
			continue
		}
		if change(o); !slices.Equal(o.Finalizers, c.want) {
			t.Errorf("%s: %v", c.name, o.Finalizers)
		}
		if Decide(o, ClaimFinalizer, c.used) != nil {
			t.Errorf("%s: it changes again", c.name)
		}
	}
}

func TestWhichPodsHoldAClaim(t *testing.T) {
	named := corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "p-v"}}}
	made := corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}
	own := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "p-v", OwnerReferences: []metav1.OwnerReference{{UID: "p", Controller: new(true)}}}}
	foreign := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "p-v"}}
	for _, c := range []struct {
		name   string
		volume corev1.Volume
		claim  *corev1.PersistentVolumeClaim
		change func(*corev1.Pod)
		want   bool
	}{
		{"it runs", named, foreign, func(*corev1.Pod) {}, true},
		{"it has ended", named, foreign, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, true},
		{"it has no node", named, foreign, func(p *corev1.Pod) { p.Spec.NodeName = "" }, false},
		{"it uses another", named, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "q"}}, func(*corev1.Pod) {}, false},
		{"it was made for it", made, own, func(*corev1.Pod) {}, true},
		{"it was not made for it", made, foreign, func(*corev1.Pod) {}, false},
		{"it was made for it, and the node is done", made, own, func(p *corev1.Pod) {
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{}, new(int64(0))
		}, false},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "p"}, Spec: corev1.PodSpec{NodeName: "n", Volumes: []corev1.Volume{c.volume}}}
		c.change(pod)
		if got := Holds(pod, c.claim); got != c.want {
			t.Errorf("%s: it holds the claim: %t", c.name, got)
		}
	}
}
