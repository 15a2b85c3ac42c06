package e2e

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/watch"

	"sampan.dev/internal/client"
	"sampan.dev/internal/resource/kinds"
)

// asker sends requests to pods that are ready, one after another from each of its clients, and notes what fails and how many pods there were.
type asker struct {
	labels string
	stop   context.CancelFunc
	done   sync.WaitGroup

	mu       sync.Mutex
	pods     map[string]*corev1.Pod
	asked    int
	failures []string
	fewest   int // ready pods that are not being deleted, in any state that the watch showed
	most     int // pods that are not being deleted
}

const askers = 4

// ask begins. From then on it follows the pods as any client of the API can.
func ask(kubeconfig, labels, path string) (*asker, error) {
	cfg, err := client.FromKubeconfig(kubeconfig, "")
	if err != nil {
		return nil, err
	}
	cfg.Table = kinds.Table()
	c, err := client.New(cfg)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	a := &asker{labels: labels, stop: stop, pods: map[string]*corev1.Pod{}, fewest: 1 << 30}
	synced := make(chan struct{})
	a.done.Go(func() {
		defer c.Close()
		_ = client.Watch(ctx, c, client.Selection{Namespace: "default", Labels: labels}, func(ev client.Event[*corev1.Pod]) error {
			if ev.Type == client.Synced {
				close(synced)
				a.note(nil, false)
				return nil
			}
			a.note(ev.Object, ev.Type == watch.Deleted)
			return nil
		}, nil)
	})
	<-synced
	for range askers {
		a.done.Go(func() {
			h := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
			for ctx.Err() == nil {
				a.request(ctx, h, path)
				time.Sleep(time.Millisecond)
			}
		})
	}
	return a, nil
}

// serves says that a pod is ready, and to be asked.
func serves(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil
		}
	}
	return false
}

// note takes in what the watch tells; without a pod, that the list is whole.
func (a *asker) note(p *corev1.Pod, gone bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case p == nil:
	case gone:
		delete(a.pods, p.Name)
	default:
		a.pods[p.Name] = p
	}
	if p != nil && a.most == 0 {
		return // the list is not whole yet
	}
	active, ready := 0, 0
	for _, p := range a.pods {
		if p.DeletionTimestamp == nil {
			active++
		}
		if serves(p) {
			ready++
		}
	}
	a.fewest, a.most = min(a.fewest, ready), max(a.most, active)
}

// pick draws one of the pods that serve now.
func (a *asker) pick() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var ips []string
	for _, p := range a.pods {
		if serves(p) {
			ips = append(ips, p.Status.PodIP)
		}
	}
	if len(ips) == 0 {
		return ""
	}
	return ips[rand.IntN(len(ips))]
}

func (a *asker) request(ctx context.Context, h *http.Client, path string) {
	ip := a.pick()
	if ip == "" {
		a.count("no pod is ready")
		return
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+ip+path, nil)
	if err != nil {
		a.count(err.Error())
		return
	}
	response, err := h.Do(r)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		a.count(err.Error())
		return
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	switch {
	case err != nil:
		a.count(err.Error())
	case response.StatusCode != http.StatusOK:
		a.count(ip + ": " + response.Status)
	default:
		a.count("")
	}
}

func (a *asker) count(failure string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	if failure != "" {
		a.failures = append(a.failures, failure)
	}
}

// cmdAsk is the script command `ask LABELS PORT-AND-PATH`: from there to `asked` requests go to the ready pods.
func cmdAsk(kubeconfig string, a **asker) func(ts *testscript.TestScript, neg bool, args []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) != 2 {
			ts.Fatalf("usage: ask LABELS :PORT/PATH")
		}
		var err error
		*a, err = ask(kubeconfig, args[0], args[1])
		ts.Check(err)
		ts.Defer((*a).stop)
	}
}

// cmdAsked is `asked FEWEST MOST`: it ends the requests. None may have failed, and there may never have been fewer ready pods, or more in all.
func cmdAsked(a **asker) func(ts *testscript.TestScript, neg bool, args []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		var fewest, most int
		if _, err := fmt.Sscan(fmt.Sprint(args[0], " ", args[1]), &fewest, &most); err != nil || neg || *a == nil {
			ts.Fatalf("usage, after ask: asked FEWEST MOST")
		}
		(*a).stop()
		(*a).done.Wait()
		ts.Logf("%d requests, %d to %d pods", (*a).asked, (*a).fewest, (*a).most)
		if n := len((*a).failures); n > 0 {
			ts.Fatalf("%d of %d requests failed: %s", n, (*a).asked, (*a).failures[0])
		}
		if (*a).asked < 100 {
			ts.Fatalf("only %d requests were sent", (*a).asked)
		}
		if (*a).fewest < fewest || (*a).most > most {
			ts.Fatalf("%d to %d pods, allowed are %d to %d", (*a).fewest, (*a).most, fewest, most)
		}
	}
}
