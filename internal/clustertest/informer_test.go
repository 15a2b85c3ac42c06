package clustertest

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	clientcache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"sampan.dev/internal/auth"
)

// TestInformersSeeWhatTheClusterHolds lets client-go's informers (which list by a watch) follow a cluster through a
// thousand changes: at the end they hold what the server lists, and they have seen each pod come and go once.
func TestInformersSeeWhatTheClusterHolds(t *testing.T) {
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	c, err := New(t.TempDir(), log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(auth.WithUser(t.Context(), auth.System("test")), 2*time.Minute)
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.AddNode(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{Allocatable: many()}}); err != nil {
		t.Fatal(err)
	}
	accounts, _, err := parseTarget(c.Table, []string{"sa/default"})
	if err != nil {
		t.Fatal(err)
	}
	there, _ := parseCondition("there")
	if err := c.follow(ctx, accounts, func(state []byte) bool { ok, _ := there.holds(state); return !ok }); err != nil {
		t.Fatal(err)
	}

	factory := informers.NewSharedInformerFactory(client, 0)
	pods, events, nodes := factory.Core().V1().Pods(), factory.Core().V1().Events(), factory.Core().V1().Nodes()
	var mu sync.Mutex
	added, deleted, running := map[string]int{}, map[string]int{}, map[string]bool{}
	if _, err := pods.Informer().AddEventHandler(clientcache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { mu.Lock(); defer mu.Unlock(); added[o.(*corev1.Pod).Name]++ },
		UpdateFunc: func(_, o any) {
			mu.Lock()
			defer mu.Unlock()
			if p := o.(*corev1.Pod); p.Status.Phase == corev1.PodRunning {
				running[p.Name] = true
			}
		},
		DeleteFunc: func(o any) { mu.Lock(); defer mu.Unlock(); deleted[o.(*corev1.Pod).Name]++ },
	}); err != nil {
		t.Fatal(err)
	}
	events.Informer()
	nodes.Informer()
	factory.StartWithContext(ctx)
	for of, synced := range factory.WaitForCacheSync(ctx.Done()) {
		if !synced {
			t.Fatalf("the informer of %v never synced", of)
		}
	}

	const count = 200
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			for i := worker; i < count; i += 8 {
				pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p%d", i)}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "nginx"}}}}
				if _, err := client.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	all, _, err := parseTarget(c.Table, []string{"-n", "default", "pods"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "all pods run, as the informer sees it", func() bool { mu.Lock(); defer mu.Unlock(); return len(running) == count })
	if err := client.CoreV1().Pods("default").DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	none, _ := parseCondition("count == 0")
	if err := c.follow(ctx, all, func(state []byte) bool { ok, _ := none.holds(state); return !ok }); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "the informer has seen all pods go", func() bool { mu.Lock(); defer mu.Unlock(); return len(deleted) == count })
	for name, n := range added {
		if n != 1 || deleted[name] != 1 {
			t.Errorf("%s came %d times and went %d times", name, n, deleted[name])
		}
	}
	if left := pods.Informer().GetStore().ListKeys(); len(left) != 0 {
		t.Errorf("the informer still holds %v", left)
	}
	eventually(t, ctx, "the informer holds the events that the server lists", func() bool {
		list, err := client.CoreV1().Events("").List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return len(list.Items) >= count && len(list.Items) == len(events.Informer().GetStore().ListKeys())
	})
}

func many() corev1.ResourceList {
	node, err := parseNode([]string{"n", "cpu=1000", "memory=1Ti", "pods=1000"})
	if err != nil {
		panic(err)
	}
	return node.Status.Allocatable
}

// eventually asks again and again: informers tell nobody when they have caught up.
func eventually(t *testing.T, ctx context.Context, what string, holds func() bool) {
	t.Helper()
	for !holds() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
