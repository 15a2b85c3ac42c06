package inprocess

import (
	"context"
	"log/slog"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/registry"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/kinds"
	"sampan.dev/internal/store/local"
)

// world is a store, a cache and a registry that run.
func world(t *testing.T) (*Access, func(*corev1.Pod) *corev1.Pod, chan [2]*corev1.Pod) {
	return worldOf(t, kinds.Table())
}

func worldOf(t *testing.T, table *resource.Table) (*Access, func(*corev1.Pod) *corev1.Pod, chan [2]*corev1.Pod) {
	st, err := local.Open(t.TempDir(), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	c := cache.New(table, st, log)
	r := registry.New(registry.Config{Table: table, Store: st, Cache: c, Log: log})
	a := New(table, c, r, "n")
	changes := make(chan [2]*corev1.Pod, 100)
	a.OnPod(func(old, new *corev1.Pod) { changes <- [2]*corev1.Pod{old, new} })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; _ = st.Close() })
	<-a.Ready()
	pods, _ := table.ByResource(schema.GroupVersionResource{Version: "v1", Resource: "pods"})
	create := func(pod *corev1.Pod) *corev1.Pod {
		t.Helper()
		made, err := r.Create(a.as(ctx), pods, pod, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return made.(*corev1.Pod)
	}
	return a, create, changes
}

func pod(name, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
}

func TestAccess(t *testing.T) {
	a, create, changes := world(t)
	ctx := t.Context()
	create(pod("elsewhere", "other"))
	mine := create(pod("mine", "n"))
	if got := <-changes; got[0] != nil || got[1].Name != "mine" {
		t.Errorf("the first change is %v", got)
	}
	if all := a.Pods(); len(all) != 1 || all[0].Name != "mine" {
		t.Errorf("pods of the node: %v", all)
	}
	if a.Pod("default", "elsewhere") != nil {
		t.Error("another node's pod is seen")
	}
	if _, err := a.UpdatePodStatus(ctx, "default", "mine", "another", func(*corev1.Pod) {}); !apierrors.IsConflict(err) {
		t.Errorf("status of a pod of another uid: %v", err)
	}
	stored, err := a.UpdatePodStatus(ctx, "default", "mine", mine.UID, func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning })
	if err != nil || stored.Status.Phase != corev1.PodRunning || stored.ResourceVersion == mine.ResourceVersion {
		t.Errorf("status: %v, %v", stored, err)
	}
	if got := <-changes; got[1].Status.Phase != corev1.PodRunning {
		t.Errorf("the change is %v", got)
	}
	if err := a.DeletePod(ctx, "default", "mine", "another"); err != nil || len(a.Pods()) != 1 {
		t.Errorf("deleting a pod of another uid: %v, left %d", err, len(a.Pods()))
	}
	for range 2 {
		if err := a.DeletePod(ctx, "default", "mine", mine.UID); err != nil {
			t.Error(err)
		}
	}
	if got := <-changes; got[1] != nil || got[0].Name != "mine" {
		t.Errorf("the last change is %v", got)
	}
	if _, err := a.Secret(ctx, "default", "none"); !apierrors.IsNotFound(err) {
		t.Errorf("a secret that is not there: %v", err)
	}
}

func TestNodeAndLease(t *testing.T) {
	a, _, _ := world(t)
	ctx := t.Context()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	if _, err := a.CreateNode(ctx, node); err != nil {
		t.Fatal(err)
	}
	if _, err := a.CreateNode(ctx, node); !apierrors.IsAlreadyExists(err) {
		t.Errorf("a second time: %v", err)
	}
	n, err := a.UpdateNodeStatus(ctx, "n", func(n *corev1.Node) { n.Status.NodeInfo.KubeletVersion = "v1" })
	if err != nil || n.Status.NodeInfo.KubeletVersion != "v1" {
		t.Errorf("status: %v, %v", n, err)
	}
	for i := range 2 {
		holder := []string{"a", "b"}[i]
		if err := a.RenewLease(ctx, "n", func(l *coordinationv1.Lease) { l.Spec.HolderIdentity = &holder }); err != nil {
			t.Fatal(err)
		}
	}
}
