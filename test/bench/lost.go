package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"sampan.dev/internal/client"
)

const replicas = 6

// web is what survives the loss of a machine.
func web() (*appsv1.Deployment, *corev1.Service) {
	labels := map[string]string{"app": "web"}
	probe := &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt(80)}}}
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(replicas)), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{
				Name: "web", Image: "sampan.dev/hello:1", ReadinessProbe: probe,
			}}}},
		},
	}
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Selector: labels, Ports: []corev1.ServicePort{{Port: 80, NodePort: 30080}}},
	}
	return d, s
}

// lost measures what is noticed of a machine that dies without a word: a server and two agents, six pods behind a Service, all settings as they are.
func (b *bench) lost(ctx context.Context) (err error) {
	ms, err := b.newMachines()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ms.end()) }()
	c, err := ms.cluster(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	d, s := web()
	if _, err := client.Create(ctx, c, d); err != nil {
		return err
	}
	if _, err := client.Create(ctx, c, s); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	ready := func(node string) func(*corev1.Pod) bool {
		return func(p *corev1.Pod) bool {
			if p.Spec.NodeName == node || p.DeletionTimestamp != nil {
				return false
			}
			for _, condition := range p.Status.Conditions {
				if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
					return true
				}
			}
			return false
		}
	}
	if err := untilPods(ctx, c, replicas, ready("")); err != nil {
		return fmt.Errorf("before a machine dies: %w", err)
	}
	asking, stop := context.WithCancel(ctx)
	defer stop()
	failed := ask(asking, "http://"+ms.all[1].addr+":30080/")
	sleep(ctx, time.Second)
	three := ms.all[2]
	begin := time.Now()
	if err := three.ip("link", "set", "eth0", "down"); err != nil {
		return err
	}
	for name, pid := range own(b.bin, three.data) {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			return fmt.Errorf("kill %s: %w", name, err)
		}
	}
	for _, pid := range three.pods() {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	noticed := errors.New("noticed")
	err = client.Watch(ctx, c, client.Selection{Fields: "metadata.name=three"}, func(ev client.Event[*corev1.Node]) error {
		if ev.Object == nil {
			return nil
		}
		for _, condition := range ev.Object.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionUnknown {
				return noticed
			}
		}
		return nil
	}, nil)
	if !errors.Is(err, noticed) {
		return errors.Join(errors.New("nobody notices that a machine is lost"), err, ctx.Err())
	}
	line("a machine dies: noticed after", fmt.Sprintf("%.1f s", time.Since(begin).Seconds()), "10 s", "40 s")
	if err := untilPods(ctx, c, replicas, ready("three")); err != nil {
		return fmt.Errorf("after a machine has died: %w", err)
	}
	elsewhere := time.Since(begin)
	stop()
	last, count, of := failed()
	line("  the last request to the Service that failed, after", fmt.Sprintf("%.1f s", max(0, last.Sub(begin).Seconds())), "11 s", "")
	line("  requests that failed until then, of all", fmt.Sprintf("%d of %d", count, of), "", "")
	line("  six pods are Ready elsewhere after (30 s are tolerated)", fmt.Sprintf("%.1f s", elsewhere.Seconds()), "60 s", "340 s")
	return nil
}

// ask asks twenty times a second, whatever comes of it, until ctx ends. What it gives tells of the last request that failed, by when it was sent.
func ask(ctx context.Context, url string) (outcome func() (last time.Time, failed, of int)) {
	var mu sync.Mutex // guards what follows
	var last time.Time
	var failed, of int
	web := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	var all sync.WaitGroup
	all.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			all.Go(func() {
				sent := time.Now()
				answer, err := web.Get(url)
				if err == nil {
					_, err = io.Copy(io.Discard, answer.Body)
					_ = answer.Body.Close()
				}
				mu.Lock()
				defer mu.Unlock()
				if of++; err != nil {
					failed++
					if sent.After(last) {
						last = sent
					}
				}
			})
		}
	})
	return func() (time.Time, int, int) {
		all.Wait()
		return last, failed, of
	}
}

// untilPods waits until so many pods are as wanted.
func untilPods(ctx context.Context, c *client.Client, n int, wanted func(*corev1.Pod) bool) error {
	are := map[string]bool{}
	enough := errors.New("enough")
	err := client.Watch(ctx, c, client.Selection{Namespace: "default", Labels: "app=web"}, func(ev client.Event[*corev1.Pod]) error {
		if ev.Object != nil {
			if delete(are, ev.Object.Name); ev.Type != "DELETED" && wanted(ev.Object) {
				are[ev.Object.Name] = true
			}
		}
		if len(are) >= n {
			return enough
		}
		return nil
	}, nil)
	if errors.Is(err, enough) {
		return nil
	}
	return fmt.Errorf("%d of %d pods: %w", len(are), n, errors.Join(err, ctx.Err()))
}
