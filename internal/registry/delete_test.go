package registry

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/core"
)

func TestDecideDelete(t *testing.T) {
	now := time.Unix(1_000_000, 500)
	second := now.Truncate(time.Second)
	at := func(s int) *metav1.Time { return new(metav1.NewTime(second.Add(time.Duration(s) * time.Second))) }
	pod := func(change func(*corev1.Pod)) resource.Object {
		p := &corev1.Pod{Spec: corev1.PodSpec{NodeName: "n", TerminationGracePeriodSeconds: new(int64(30))}}
		p.Generation = 1
		if change != nil {
			change(p)
		}
		return p
	}
	ending := func(began, seconds int, finalizers ...string) resource.Object {
		return pod(func(p *corev1.Pod) {
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = at(began+seconds), new(int64(seconds))
			p.Generation, p.Finalizers = 2, finalizers
		})
	}
	configMap := func(finalizers ...string) resource.Object {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Finalizers: finalizers}}
	}
	grace := func(n int64) metav1.DeleteOptions { return metav1.DeleteOptions{GracePeriodSeconds: &n} }
	policy := func(p metav1.DeletionPropagation) metav1.DeleteOptions {
		return metav1.DeleteOptions{PropagationPolicy: &p}
	}
	orphan := metav1.DeleteOptions{OrphanDependents: new(true)} //lint:ignore SA1019 clients still send it
	type want struct {
		gone       bool
		end        *metav1.Time
		seconds    *int64
		generation int64
		finalizers []string
	}
	for _, c := range []struct {
		name string
		kind *resource.Kind
		obj  resource.Object
		o    metav1.DeleteOptions
		want want
	}{
		{"a pod on a node has its own grace period", core.Pod(), pod(nil), metav1.DeleteOptions{}, want{end: at(30), seconds: new(int64(30)), generation: 2}},
		{"or that of the delete", core.Pod(), pod(nil), grace(5), want{end: at(5), seconds: new(int64(5)), generation: 2}},
		{"less than none is a second", core.Pod(), pod(nil), grace(-7), want{end: at(1), seconds: new(int64(1)), generation: 2}},
		{"with none it goes", core.Pod(), pod(nil), grace(0), want{gone: true, end: at(0), seconds: new(int64(0)), generation: 2}},
		{"but for finalizers", core.Pod(), pod(func(p *corev1.Pod) { p.Finalizers = []string{"a/b"} }), grace(0), want{end: at(0), seconds: new(int64(0)), generation: 2, finalizers: []string{"a/b"}}},
		{"on no node there is nothing to wait for", core.Pod(), pod(func(p *corev1.Pod) { p.Spec.NodeName = "" }), metav1.DeleteOptions{}, want{gone: true, end: at(0), seconds: new(int64(0)), generation: 2}},
		{"nor when it has ended by itself", core.Pod(), pod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), grace(100), want{gone: true, end: at(0), seconds: new(int64(0)), generation: 2}},

		{"a pod that is ending goes on doing so", core.Pod(), ending(-10, 30), metav1.DeleteOptions{}, want{end: at(20), seconds: new(int64(30)), generation: 2}},
		{"a longer time is not given", core.Pod(), ending(-10, 30), grace(60), want{end: at(20), seconds: new(int64(30)), generation: 2}},
		{"and the finalizers stay as they are", core.Pod(), ending(-10, 30, "a/b"), policy(metav1.DeletePropagationForeground), want{end: at(20), seconds: new(int64(30)), generation: 2, finalizers: []string{"a/b"}}},
		{"a shorter time counts from the beginning", core.Pod(), ending(-10, 30), grace(15), want{end: at(5), seconds: new(int64(15)), generation: 2}},
		{"one that has passed is a second from now", core.Pod(), ending(-10, 30), grace(4), want{end: at(0), seconds: new(int64(1)), generation: 2}},
		{"none at all ends it", core.Pod(), ending(-10, 30), grace(0), want{gone: true, end: at(0), seconds: new(int64(0)), generation: 2}},
		{"but for finalizers, again", core.Pod(), ending(-10, 30, "a/b"), grace(0), want{end: at(0), seconds: new(int64(0)), generation: 2, finalizers: []string{"a/b"}}},
		{"one whose time is up and that is still there goes", core.Pod(), ending(0, 0), metav1.DeleteOptions{}, want{gone: true, end: at(0), seconds: new(int64(0)), generation: 2}},

		{"a config map goes as it is", core.ConfigMap(), configMap(), metav1.DeleteOptions{}, want{gone: true}},
		{"but for finalizers", core.ConfigMap(), configMap("a/b"), metav1.DeleteOptions{}, want{end: at(0), seconds: new(int64(0)), finalizers: []string{"a/b"}}},
		{"foreground is a finalizer", core.ConfigMap(), configMap(), policy(metav1.DeletePropagationForeground), want{end: at(0), seconds: new(int64(0)), finalizers: []string{metav1.FinalizerDeleteDependents}}},
		{"orphan is one, too", core.ConfigMap(), configMap("a/b"), policy(metav1.DeletePropagationOrphan), want{end: at(0), seconds: new(int64(0)), finalizers: []string{"a/b", metav1.FinalizerOrphanDependents}}},
		{"in its old form as well", core.ConfigMap(), configMap(), orphan, want{end: at(0), seconds: new(int64(0)), finalizers: []string{metav1.FinalizerOrphanDependents}}},
		{"one takes the place of the other", core.ConfigMap(), configMap(metav1.FinalizerOrphanDependents), policy(metav1.DeletePropagationForeground), want{end: at(0), seconds: new(int64(0)), finalizers: []string{metav1.FinalizerDeleteDependents}}},
		{"background takes both away", core.ConfigMap(), configMap(metav1.FinalizerOrphanDependents), policy(metav1.DeletePropagationBackground), want{gone: true}},
		{"without a word what is there stays", core.ConfigMap(), configMap(metav1.FinalizerOrphanDependents), metav1.DeleteOptions{}, want{end: at(0), seconds: new(int64(0)), finalizers: []string{metav1.FinalizerOrphanDependents}}},
		{"kinds of old leave their dependents without a word", core.ReplicationController(), &corev1.ReplicationController{}, metav1.DeleteOptions{}, want{end: at(0), seconds: new(int64(0)), finalizers: []string{metav1.FinalizerOrphanDependents}}},
		{"but not when they are told", core.ReplicationController(), &corev1.ReplicationController{}, policy(metav1.DeletePropagationBackground), want{gone: true}},

		{"a namespace with finalizers in its spec stays", core.Namespace(), &corev1.Namespace{Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{"kubernetes"}}}, metav1.DeleteOptions{}, want{end: at(0)}},
		{"an empty one goes", core.Namespace(), &corev1.Namespace{}, metav1.DeleteOptions{}, want{gone: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			gone := decideDelete(c.kind, c.obj, c.o, now)
			got := want{gone, c.obj.GetDeletionTimestamp(), c.obj.GetDeletionGracePeriodSeconds(), c.obj.GetGeneration(), c.obj.GetFinalizers()}
			if got.gone != c.want.gone || !got.end.Equal(c.want.end) || !same(got.seconds, c.want.seconds) ||
				got.generation != c.want.generation || !slices.Equal(got.finalizers, c.want.finalizers) {
				t.Errorf("got gone %v end %v seconds %v generation %d finalizers %v", got.gone, got.end, show(got.seconds), got.generation, got.finalizers)
			}
			if ns, ok := c.obj.(*corev1.Namespace); ok && !gone && ns.Status.Phase != corev1.NamespaceTerminating {
				t.Errorf("phase is %q", ns.Status.Phase)
			}
			if c.o.GracePeriodSeconds != nil && c.name == "less than none is a second" && *c.o.GracePeriodSeconds != -7 {
				t.Error("the caller's options were changed")
			}
		})
	}
}

func same(a, b *int64) bool { return (a == nil) == (b == nil) && (a == nil || *a == *b) }

func show(n *int64) any {
	if n == nil {
		return nil
	}
	return *n
}

// Deleting again and again, with whatever options, never lengthens a life and never brings an object back.
func TestDeletesOnlyEverHurry(t *testing.T) {
	now := time.Unix(2_000_000, 0)
	periods := []*int64{nil, new(int64(0)), new(int64(1)), new(int64(10)), new(int64(30)), new(int64(100)), new(int64(-1))}
	for _, first := range periods {
		for _, second := range periods {
			for _, third := range periods {
				p := &corev1.Pod{Spec: corev1.PodSpec{NodeName: "n", TerminationGracePeriodSeconds: new(int64(30))}}
				var end time.Time
				for i, s := range []*int64{first, second, third} {
					gone := decideDelete(core.Pod(), p, metav1.DeleteOptions{GracePeriodSeconds: s}, now.Add(time.Duration(7*i)*time.Second))
					if gone {
						break
					}
					if i > 0 && p.DeletionTimestamp.After(end) && *p.DeletionGracePeriodSeconds != 1 {
						t.Fatalf("%v %v %v: the end moved from %v to %v", show(first), show(second), show(third), end, p.DeletionTimestamp)
					}
					end = p.DeletionTimestamp.Time
				}
			}
		}
	}
}
