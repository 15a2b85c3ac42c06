package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"

	"sampan.dev/internal/client"
)

// rollout measures a Deployment of 50 real pods: until all are available, until all are of another version and the old ones gone, and until none is left.
func (b *bench) rollout(ctx context.Context) error {
	const n = 50
	labels := map[string]string{"app": "hello"}
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "hello"},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(n)), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{
				Name: "hello", Image: "sampan.dev/hello:1",
				ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt(80)}}},
			}}}},
		},
	}
	pids := b.own()
	before := cpu(pids)
	took, err := b.deployed(ctx, n, func() error {
		_, err := client.Create(ctx, b.client, d)
		return err
	})
	if err != nil {
		return err
	}
	line("Deployment of 50 real pods available", ms(took), "3000 ms", "6800 ms")
	took, err = b.deployed(ctx, n, func() error {
		patch := []byte(`{"spec":{"template":{"spec":{"containers":[{"name":"hello","image":"sampan.dev/hello:2"}]}}}}`)
		_, err := client.Patch[*appsv1.Deployment](ctx, b.client, "default", "hello", "", types.StrategicMergePatchType, patch)
		return err
	})
	if err != nil {
		return err
	}
	line("Deployment of 50 real pods rolled over", ms(took), "6000 ms", "14300 ms")
	begin := time.Now()
	if err := client.Delete[*appsv1.Deployment](ctx, b.client, "default", "hello", metav1.DeleteOptions{}); err != nil {
		return err
	}
	if err := b.podsGone(ctx); err != nil {
		return err
	}
	line("Deployment of 50 real pods deleted", ms(time.Since(begin)), "", "")
	line("CPU of sampan's own processes for all three", fmt.Sprintf("%.1f s", (cpu(pids)-before).Seconds()), "", "")
	return nil
}

// deployed acts, and waits until the Deployment shows what it was told, all of it available and nothing else left.
func (b *bench) deployed(ctx context.Context, n int32, act func() error) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var begin time.Time
	acted, generation := false, int64(0)
	err := client.Watch(ctx, b.client, client.Selection{Namespace: "default", Fields: "metadata.name=hello"}, func(ev client.Event[*appsv1.Deployment]) error {
		if ev.Type == client.Synced {
			begin, acted = time.Now(), true
			return act()
		}
		if !acted {
			generation = ev.Object.Generation // what was there before
			return nil
		}
		s := ev.Object.Status
		if ev.Object.Generation > generation && s.ObservedGeneration == ev.Object.Generation && s.UpdatedReplicas == n && s.AvailableReplicas == n && s.Replicas == n {
			return errEnough
		}
		return nil
	}, nil)
	if !errors.Is(err, errEnough) {
		return 0, fmt.Errorf("deployment hello: %w", errors.Join(err, ctx.Err()))
	}
	return time.Since(begin), nil
}

// podsGone waits until no pod of the Deployment is left.
func (b *bench) podsGone(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	left := map[string]bool{}
	synced := false
	err := client.Watch(ctx, b.client, client.Selection{Namespace: "default", Labels: "app=hello"}, func(ev client.Event[*corev1.Pod]) error {
		switch ev.Type {
		case client.Synced:
			synced = true
		case watch.Deleted:
			delete(left, ev.Object.Name)
		default:
			left[ev.Object.Name] = true
		}
		if synced && len(left) == 0 {
			return errEnough
		}
		return nil
	}, nil)
	if !errors.Is(err, errEnough) {
		return fmt.Errorf("%d pods are left: %w", len(left), errors.Join(err, ctx.Err()))
	}
	return nil
}
