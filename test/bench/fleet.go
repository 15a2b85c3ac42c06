package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/client"
	"sampan.dev/internal/resource/kinds"
)

// fleetSize is one cluster of simulated nodes that is measured. The server is a process of its own, the nodes are another, and the clients are in this one.
type fleetSize struct {
	nodes, pods int
	late        bool // pods start only when all is measured: what is measured is binding alone
	bind        [2]string
	steady      bool // measure memory, idle CPU and how soon one more pod is bound
	memory, cpu string
	one         string
}

// fleets measures clusters of many simulated nodes.
func (b *bench) fleets(ctx context.Context, sizes []fleetSize) error {
	for _, size := range sizes {
		if err := b.manyNodes(ctx, size); err != nil {
			return fmt.Errorf("%d nodes: %w", size.nodes, err)
		}
	}
	return nil
}

// crowd is a server without pods of its own, beside the cluster that the other figures are of.
type crowd struct {
	*bench
	data   string
	config client.Config
	client *client.Client
	server map[string]int // its pid
	nodes  *exec.Cmd
	said   io.ReadCloser
}

const (
	crowdPort = 7443
	pauses    = 5 * time.Minute // for one step of a large cluster
)

// crowdRange has a part for each of 16,384 nodes.
const crowdRange = "10.64.0.0/10"

func (b *bench) manyNodes(ctx context.Context, size fleetSize) (err error) {
	c, err := b.newCrowd(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.end()) }()
	if err := c.simulate(ctx, size); err != nil {
		return err
	}
	name := fmt.Sprintf("%d pods on %d simulated nodes", size.pods, size.nodes)
	spent := map[string]time.Duration{"server": cpu(c.server), "nodes": cpu(map[string]int{"": c.nodes.Process.Pid}), "clients": cpu(map[string]int{"": os.Getpid()})}
	bound, running, err := c.fill(ctx, size)
	if err != nil {
		return err
	}
	line(name+": created and bound", fmt.Sprintf("%.0f/s", float64(size.pods)/bound.Seconds()), size.bind[0], size.bind[1])
	each := func(now time.Duration, who string) float64 {
		return float64((now - spent[who]).Microseconds()) / float64(size.pods)
	}
	line("  processor time for each: server, nodes, clients", fmt.Sprintf("%.0f, %.0f, %.0f µs", each(cpu(c.server), "server"),
		each(cpu(map[string]int{"": c.nodes.Process.Pid}), "nodes"), each(cpu(map[string]int{"": os.Getpid()}), "clients")), "", "")
	if size.late {
		return nil
	}
	line(name+": all Running", ms(running), "", "")
	if !size.steady {
		return nil
	}
	before, begin := cpu(c.server), time.Now()
	const look = 40 * time.Second
	sleep(ctx, look)
	share := (cpu(c.server) - before).Seconds() / time.Since(begin).Seconds() * 100
	line(name+": CPU of the server at rest, of one core", fmt.Sprintf("%.1f %%", share), size.cpu, "")
	line(name+": memory of the server (RSS)", fmt.Sprintf("%.0f MB", float64(statusField(c.server["sampan"], "VmRSS:"))/1e6), size.memory, "")
	line("  of it not backed by the program's file", fmt.Sprintf("%.0f MB", float64(statusField(c.server["sampan"], "RssAnon:"))/1e6), "", "")
	took, err := c.oneMore(ctx, 200)
	if err != nil {
		return err
	}
	slices.Sort(took)
	line(name+": one more is bound, median of 200", fmt.Sprintf("%.1f ms", took[len(took)/2].Seconds()*1e3), "", "")
	line("  and p99", fmt.Sprintf("%.1f ms", took[len(took)*99/100].Seconds()*1e3), size.one, "")
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func (b *bench) newCrowd(ctx context.Context) (*crowd, error) {
	dir, err := os.MkdirTemp(b.dir, "crowd-")
	if err != nil {
		return nil, err
	}
	c := &crowd{bench: b, data: filepath.Join(dir, "data")}
	if err := c.sampan(ctx, "server", "--no-agent", "--detach", "--merge-kubeconfig=false", fmt.Sprintf("--api-port=%d", crowdPort), "--pod-range="+crowdRange, "--service-range=10.32.0.0/16"); err != nil {
		return nil, err
	}
	c.server = own(c.bin, c.data)
	if c.server["sampan"] == 0 {
		err = errors.New("the server does not run")
	}
	if err == nil {
		c.config, err = client.FromKubeconfig(filepath.Join(c.data, "kubeconfig"), "")
	}
	if err == nil {
		c.config.Table = kinds.Table()
		c.client, err = client.New(c.config)
	}
	if err != nil {
		return nil, errors.Join(err, c.end())
	}
	return c, nil
}

func (c *crowd) sampan(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, c.bin, append(args, "--data-dir="+c.data)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("sampan %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

func (c *crowd) end() error {
	var err error
	if c.nodes != nil {
		_ = c.nodes.Process.Kill()
		_, _ = io.Copy(io.Discard, c.said)
		_ = c.nodes.Wait()
	}
	if c.client != nil {
		c.client.Close()
	}
	return errors.Join(err, c.sampan(context.Background(), "reset"), os.RemoveAll(filepath.Dir(c.data)))
}

// simulate starts the nodes, and returns once all are Ready.
func (c *crowd) simulate(ctx context.Context, size fleetSize) error {
	profile := filepath.Join(filepath.Dir(c.data), "profile.yaml")
	start := "{min: 300ms, max: 1.5s}"
	if size.late {
		start = "{min: 10m, max: 10m}"
	}
	if err := os.WriteFile(profile, []byte("defaults:\n  start: "+start+"\n"), 0o644); err != nil {
		return err
	}
	c.nodes = exec.CommandContext(ctx, c.bin, "simulate", "--data-dir="+c.data, fmt.Sprintf("--nodes=%d", size.nodes), "--events=false", "--profile="+profile, "--zones=a,b,c", "--cpu=64", "--memory=256Gi")
	said, err := c.nodes.StdoutPipe()
	if err != nil {
		return err
	}
	c.said = said
	c.nodes.Stderr = os.Stderr
	if err := c.nodes.Start(); err != nil {
		return err
	}
	go func() {
		for lines := bufio.NewScanner(said); lines.Scan(); { // nobody needs them here
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, pauses)
	defer cancel()
	ready := map[string]bool{}
	err = client.Watch(ctx, c.client, client.Selection{}, func(ev client.Event[*corev1.Node]) error {
		if ev.Object == nil {
			return nil
		}
		for _, condition := range ev.Object.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue && len(ev.Object.Spec.Taints) == 0 && ev.Object.Spec.PodCIDR != "" {
				ready[ev.Object.Name] = true
			}
		}
		if len(ready) == size.nodes {
			return errEnough
		}
		return nil
	}, nil)
	if !errors.Is(err, errEnough) {
		return fmt.Errorf("%d nodes are ready: %w", len(ready), errors.Join(err, ctx.Err()))
	}
	return nil
}

// fill has 64 clients create the pods, and says how long it took until a watch showed the last bound, and running.
func (c *crowd) fill(ctx context.Context, size fleetSize) (bound, running time.Duration, err error) {
	const clients = 64
	ctx, cancel := context.WithTimeout(ctx, 2*pauses)
	defer cancel()
	watching, seen := make(chan struct{}), make(chan error, 1)
	var begin time.Time
	go func() {
		nodes, run := map[string]bool{}, map[string]bool{}
		seen <- client.Watch(ctx, c.client, client.Selection{Namespace: "default"}, func(ev client.Event[*corev1.Pod]) error {
			if ev.Type == client.Synced {
				close(watching)
				return nil
			}
			if ev.Object.Spec.NodeName != "" && !nodes[ev.Object.Name] {
				nodes[ev.Object.Name] = true
				if len(nodes) == size.pods {
					bound = time.Since(begin)
					if size.late {
						return errEnough
					}
				}
			}
			if ev.Object.Status.Phase == corev1.PodRunning && !run[ev.Object.Name] {
				run[ev.Object.Name] = true
				if len(run) == size.pods {
					running = time.Since(begin)
					return errEnough
				}
			}
			return nil
		}, nil)
	}()
	select {
	case <-watching:
	case err := <-seen:
		return 0, 0, err
	}
	var all sync.WaitGroup
	failed := make(chan error, clients)
	begin = time.Now()
	for i := range clients {
		all.Go(func() {
			own, err := client.New(c.config)
			if err != nil {
				failed <- err
				return
			}
			defer own.Close()
			for j := i; j < size.pods; j += clients {
				if _, err := client.Create(ctx, own, simulatedPod(fmt.Sprintf("p-%d", j))); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	all.Wait()
	select {
	case err := <-failed:
		return 0, 0, err
	default:
	}
	if err := <-seen; !errors.Is(err, errEnough) {
		return 0, 0, errors.Join(err, ctx.Err())
	}
	return bound, running, nil
}

// oneMore creates pods one after another, and gives the time from each one's creation until a watch shows its node.
func (c *crowd) oneMore(ctx context.Context, n int) (each []time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, pauses)
	defer cancel()
	var begin time.Time
	next := func() error {
		begin = time.Now()
		p := simulatedPod(fmt.Sprintf("more-%d", len(each)))
		p.Namespace = "kube-public" // where there are no others, so that the watch is of these alone
		_, err := client.Create(ctx, c.client, p)
		return err
	}
	err = client.Watch(ctx, c.client, client.Selection{Namespace: "kube-public"}, func(ev client.Event[*corev1.Pod]) error {
		if ev.Type == client.Synced {
			return next()
		}
		if ev.Object.Spec.NodeName == "" || ev.Object.Name != fmt.Sprintf("more-%d", len(each)) {
			return nil
		}
		if each = append(each, time.Since(begin)); len(each) == n {
			return errEnough
		}
		sleep(ctx, 10*time.Millisecond)
		return next()
	}, nil)
	if !errors.Is(err, errEnough) {
		return nil, errors.Join(err, ctx.Err())
	}
	return each, nil
}

func simulatedPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "web", Image: "web:1",
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi")}},
		}}},
	}
}
