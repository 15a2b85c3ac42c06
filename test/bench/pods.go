package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"sampan.dev/internal/client"
)

func pod(name, image string, command ...string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "c", Image: image, Command: command, ImagePullPolicy: corev1.PullIfNotPresent,
		}}},
	}
}

func ready(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

var errEnough = errors.New("enough")

// until watches a pod until seen says so; act runs once the watch stands.
func (b *bench) until(ctx context.Context, name string, act func() error, seen func(client.Event[*corev1.Pod]) bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := client.Watch(ctx, b.client, client.Selection{Namespace: "default", Fields: "metadata.name=" + name}, func(ev client.Event[*corev1.Pod]) error {
		if ev.Type == client.Synced {
			return act()
		}
		if seen(ev) {
			return errEnough
		}
		return nil
	}, nil)
	if errors.Is(err, errEnough) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("pod %s: not within a minute", name)
	}
	return err
}

func (b *bench) createReady(ctx context.Context, p *corev1.Pod) (time.Duration, error) {
	var begin time.Time
	err := b.until(ctx, p.Name, func() error {
		begin = time.Now()
		_, err := client.Create(ctx, b.client, p)
		return err
	}, func(ev client.Event[*corev1.Pod]) bool { return ev.Object != nil && ready(ev.Object) })
	return time.Since(begin), err
}

func (b *bench) delete(ctx context.Context, name string) (time.Duration, error) {
	var begin time.Time
	err := b.until(ctx, name, func() error {
		begin = time.Now()
		return client.Delete[*corev1.Pod](ctx, b.client, "default", name, metav1.DeleteOptions{})
	}, func(ev client.Event[*corev1.Pod]) bool { return ev.Type == watch.Deleted })
	return time.Since(begin), err
}

// pods measures one pod after the other, with the image present and a process that ends at once when told to.
func (b *bench) pods(ctx context.Context) error {
	var up, down []time.Duration
	for i := range 20 {
		name := fmt.Sprintf("one-%d", i)
		d, err := b.createReady(ctx, pod(name, "sampan.dev/hello:1"))
		if err != nil {
			return err
		}
		up = append(up, d)
		if d, err = b.delete(ctx, name); err != nil {
			return err
		}
		down = append(down, d)
	}
	line("create to Ready, image present, median of 20", ms(median(up)), "250 ms", "490 ms")
	line("delete to gone, the process ends at once, median of 20", ms(median(down)), "250 ms", "1250 ms")
	return nil
}

// memory measures what a further pod takes of the machine beside its own processes: what the kernel has less of, minus the proportional share (PSS) of
// the pods' processes.
func (b *bench) memory(ctx context.Context) error {
	const count = 30
	settle := func() (int64, error) {
		time.Sleep(3 * time.Second) // for the garbage collectors, and for the kernel to free what ended processes held
		return available()
	}
	if _, err := b.createReady(ctx, pod("first", "busybox:latest", "sleep", "100000")); err != nil {
		return err
	}
	before, err := settle()
	if err != nil {
		return err
	}
	ownBefore, err := b.containerMemory()
	if err != nil {
		return err
	}
	for i := range count {
		if _, err := b.createReady(ctx, pod(fmt.Sprintf("many-%d", i), "busybox:latest", "sleep", "100000")); err != nil {
			return err
		}
	}
	after, err := settle()
	if err != nil {
		return err
	}
	ownAfter, err := b.containerMemory()
	if err != nil {
		return err
	}
	each := float64(before-after-(ownAfter-ownBefore)) / count / 1e6
	line(fmt.Sprintf("memory of a further pod beside its own processes, of %d", count), fmt.Sprintf("%.2f MB", each), "1.5 MB", "7 MB")
	for i := range count {
		if _, err := b.deleteNow(ctx, fmt.Sprintf("many-%d", i)); err != nil {
			return err
		}
	}
	_, err = b.deleteNow(ctx, "first")
	return err
}

func (b *bench) deleteNow(ctx context.Context, name string) (time.Duration, error) {
	begin := time.Now()
	one := int64(1)
	err := b.until(ctx, name, func() error {
		return client.Delete[*corev1.Pod](ctx, b.client, "default", name, metav1.DeleteOptions{GracePeriodSeconds: &one})
	}, func(ev client.Event[*corev1.Pod]) bool { return ev.Type == watch.Deleted })
	return time.Since(begin), err
}

// idle measures the cluster with one nginx pod that nobody asks anything.
func (b *bench) idle(ctx context.Context, window time.Duration) error {
	if _, err := b.createReady(ctx, pod("nginx", "nginx:latest")); err != nil {
		return err
	}
	time.Sleep(5 * time.Second)
	pids := b.own()
	before := cpu(pids)
	time.Sleep(window)
	used := cpu(pids) - before
	var sum int64
	for name, pid := range pids {
		rss := statusField(pid, "VmRSS:")
		sum += rss
		line("  RSS of "+name, fmt.Sprintf("%.1f MB", float64(rss)/1e6), "", "")
	}
	line("memory of the idle cluster with one nginx pod (sum of RSS)", fmt.Sprintf("%.1f MB", float64(sum)/1e6), "80 MB", "842 MB")
	line(fmt.Sprintf("idle CPU over %v, of one core", window), fmt.Sprintf("%.2f %%", 100*used.Seconds()/window.Seconds()), "0.5 %", "5 %")
	_, err := b.deleteNow(ctx, "nginx")
	return err
}

// own finds the processes of sampan itself: they run the programs of this data directory, or name it.
func (b *bench) own() map[string]int { return own(b.bin, b.data()) }

// own are the pids of the processes of a data directory.
func own(bin, dir string) map[string]int {
	pids := map[string]int{}
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		data, _ := os.ReadFile(path)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		args := strings.Split(string(data), "\x00")
		switch {
		case strings.HasPrefix(filepath.Base(args[0]), "sampan-runtime") && strings.Contains(string(data), dir):
			pids["sampan-runtime"] = pid
		case args[0] == bin && len(args) > 1 && (args[1] == "up" || args[1] == "server") && strings.Contains(string(data), dir):
			pids["sampan"] = pid
		}
	}
	return pids
}
