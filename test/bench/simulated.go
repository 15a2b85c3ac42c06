package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/auth"
	"sampan.dev/internal/cache"
	"sampan.dev/internal/clustertest"
	kind "sampan.dev/internal/resource"
)

// simulated measures Deployments on 100 nodes that mark bound pods Running and Ready at once, in this process. What is measured is the control plane:
// API, store with its syncs, controllers, scheduler.
func (b *bench) simulated(ctx context.Context) error {
	for _, m := range []struct {
		pods            int32
		update          bool
		available, roll [2]string // wanted, upstream
	}{
		{500, true, [2]string{"1000 ms", "4300 ms"}, [2]string{"2000 ms", "7400 ms"}},
		{1000, true, [2]string{}, [2]string{}},
		{5000, true, [2]string{"10000 ms", ""}, [2]string{}},
	} {
		if err := b.onFleet(ctx, func(f *fleet) error {
			before := heap()
			took, err := f.deploy(ctx, m.pods, "sim/web:1")
			if err != nil {
				return err
			}
			each := (heap() - before) / float64(m.pods) / 1e3
			line(fmt.Sprintf("Deployment of %d on 100 simulated nodes available", m.pods), ms(took), m.available[0], m.available[1])
			if took, err = f.deploy(ctx, m.pods, "sim/web:2"); err != nil {
				return err
			}
			line(fmt.Sprintf("Deployment of %d rolled over", m.pods), ms(took), m.roll[0], m.roll[1])
			line("  heap for each pod, its events and history included", fmt.Sprintf("%.1f kB", each), "", "")
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// heap is what is in use once the garbage collector has been through, in bytes.
func heap() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what weak pointers held
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// fleet is an in-process cluster.
type fleet struct {
	*clustertest.Cluster
	deployments *kind.Kind
}

func (b *bench) onFleet(ctx context.Context, measure func(*fleet) error) (err error) {
	dir, err := os.MkdirTemp(b.dir, "fleet")
	if err != nil {
		return err
	}
	c, err := clustertest.New(filepath.Join(dir, "data"), slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})))
	if err != nil {
		return err
	}
	f := &fleet{Cluster: c}
	f.deployments, _ = c.Table.ByKind(appsv1.SchemeGroupVersion.WithKind("Deployment"))
	running, stop := context.WithCancel(auth.WithUser(ctx, auth.System("kubernetes-admin")))
	done := make(chan error, 1)
	go func() { done <- c.Run(running) }()
	defer func() {
		stop()
		err = errors.Join(err, <-done, os.RemoveAll(dir))
	}()
	<-c.Cache.Ready()
	for i := range 100 {
		list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("64"), corev1.ResourceMemory: resource.MustParse("64Gi"), corev1.ResourcePods: resource.MustParse("110")}
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", i)}, Status: corev1.NodeStatus{Capacity: list, Allocatable: list}}
		if err := c.AddNode(running, node); err != nil {
			return err
		}
	}
	return measure(f)
}

// deploy creates the Deployment, or changes its image, and waits until all its pods are of that image and available, and no other is left.
func (f *fleet) deploy(ctx context.Context, n int32, image string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(auth.WithUser(ctx, auth.System("kubernetes-admin")), 5*time.Minute)
	defer cancel()
	begin := time.Now()
	if f.get() == nil {
		labels := map[string]string{"app": "web"}
		d := &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
			Spec: appsv1.DeploymentSpec{
				Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{
					ObjectMeta: metav1.ObjectMeta{Labels: labels},
					Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: image}}},
				},
			},
		}
		if _, err := f.Registry.Create(ctx, f.deployments, d, metav1.CreateOptions{}); err != nil {
			return 0, err
		}
	} else {
		_, _, err := f.Registry.Update(ctx, f.deployments, "", "default", "web", func(o kind.Object) (kind.Object, error) {
			o.SetResourceVersion("")
			o.(*appsv1.Deployment).Spec.Template.Spec.Containers[0].Image = image
			return o, nil
		}, metav1.UpdateOptions{})
		if err != nil {
			return 0, err
		}
	}
	if err := f.Cache.Wait(ctx, f.Store.Revision()); err != nil {
		return 0, err
	}
	for {
		revision := f.Cache.Snapshot().Revision()
		if d := f.get(); d != nil && d.Status.ObservedGeneration == d.Generation && d.Status.Replicas == n && d.Status.UpdatedReplicas == n && d.Status.AvailableReplicas == n {
			return time.Since(begin), nil
		}
		if err := f.Cache.Wait(ctx, revision+1); err != nil {
			return 0, fmt.Errorf("deployment of %d: %w; status %+v", n, err, f.get().Status)
		}
	}
}

func (f *fleet) get() *appsv1.Deployment {
	if o := f.Cache.Snapshot().Get(f.deployments, "default", "web"); o != nil {
		return cache.Typed[*appsv1.Deployment](o)
	}
	return nil
}
