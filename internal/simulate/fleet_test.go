package simulate_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/apiserver"
	"sampan.dev/internal/apiserver/apiservertest"
	"sampan.dev/internal/auth"
	"sampan.dev/internal/client"
	"sampan.dev/internal/controller/nodelifecycle"
	"sampan.dev/internal/events"
	"sampan.dev/internal/server/loops"
	"sampan.dev/internal/simulate"
)

// patience is how long anything may take on the slowest machine. No test says how fast something must be.
const patience = 2 * time.Minute

// cluster is a whole control plane, and a client that speaks to it over HTTPS.
type cluster struct {
	*apiservertest.Cluster
	t      *testing.T
	client *client.Client
}

// Dial finds a node as the server does: by what its Node says.
func (c *cluster) Dial(_ context.Context, name string) (*url.URL, *tls.Config, error) {
	node, err := client.Get[*corev1.Node](context.Background(), c.client, "", name)
	if err != nil {
		return nil, nil, err
	}
	host := net.JoinHostPort(node.Status.Addresses[0].Address, strconv.Itoa(int(node.Status.DaemonEndpoints.KubeletEndpoint.Port)))
	return &url.URL{Scheme: "https", Host: host, Path: "/"}, c.PKI.ClientTLS("kube-apiserver-kubelet-client", nil), nil
}

// start starts one, in which a node is lost that is silent for a while.
func start(t *testing.T, silence time.Duration) *cluster {
	t.Helper()
	c := &cluster{t: t}
	log := slog.New(slog.DiscardHandler)
	var ls *loops.Loops
	var recorder *events.Recorder
	c.Cluster = apiservertest.Start(t, func(cfg *apiserver.Config) {
		event, _ := cfg.Table.ByKind(corev1.SchemeGroupVersion.WithKind("Event"))
		recorder = events.New(events.Through(cfg.Registry, event), "sampan", "", events.Options{Scheme: cfg.Table.Scheme(), Log: log})
		// The signer is known only once the server is there, whose keys it has.
		ls = loops.New(loops.Config{
			Table: cfg.Table, Cache: cfg.Cache, Registry: cfg.Registry, Revision: cfg.Store.(interface{ Revision() int64 }).Revision, Events: recorder, CA: []byte("PEM"),
			Signer: signer{c}, Pods: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}, Nodes: nodelifecycle.Config{Grace: silence}, Log: log,
		})
		cfg.Nodes = c
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	inside := auth.WithUser(ctx, auth.System("system:kube-controller-manager"))
	go func() { done <- ls.Run(inside) }()
	go func() { done <- recorder.Run(inside) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
	var err error
	c.client, err = client.New(client.Config{Server: c.URL, TLS: c.PKI.ClientTLS("admin", []string{auth.Masters}), Table: c.Table})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.client.Close)
	return c
}

// fleet runs simulated nodes until the function that it returns is called.
func (c *cluster) fleet(nodes int, profiles string, lease time.Duration) (stop func()) {
	c.t.Helper()
	p, err := simulate.ParseProfiles([]byte(profiles))
	if err != nil {
		c.t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	address := netip.MustParseAddr("127.0.0.1")
	endpoint, err := simulate.Listen(c.t.Context(), c.client, c.PKI.Pool(), "sim-0", address, log)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	started := make(chan struct{})
	f := simulate.New(simulate.Config{
		Client: c.client, Table: c.Table, Profiles: p, Nodes: nodes, Prefix: "sim-", Zones: []string{"a", "b"}, Address: address, Port: endpoint.Port(), Version: "v1.37.2",
		Capacity: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("110")},
		Lease:    lease, Log: log, Started: func() { close(started) },
	})
	done := make(chan error, 2)
	go func() { done <- f.Run(ctx) }()
	go func() { done <- endpoint.Run(ctx, f) }()
	select {
	case <-started:
	case err := <-done:
		c.t.Fatalf("the fleet ended: %v", err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				c.t.Error(err)
			}
		}
	}
	c.t.Cleanup(stop)
	return stop
}

// signer signs with the server's authority.
type signer struct{ c *cluster }

func (s signer) Sign(request *x509.CertificateRequest, uses x509.KeyUsage, extended []x509.ExtKeyUsage, ttl time.Duration) ([]byte, error) {
	return s.c.PKI.Sign(request, uses, extended, ttl)
}

// expire has a node's lease end soon, which is far too long for a slow machine to let it run out.
func (c *cluster) expire(node string) {
	c.t.Helper()
	lease, err := client.Get[*coordinationv1.Lease](c.t.Context(), c.client, corev1.NamespaceNodeLease, node)
	if err != nil {
		c.t.Fatal(err)
	}
	lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime = new(int32(1)), new(metav1.NowMicro())
	if _, err := client.Update(c.t.Context(), c.client, lease, ""); err != nil {
		c.t.Fatal(err)
	}
}

// until waits for an object to be as it is wanted.
func until[T interface {
	GetName() string
	GetNamespace() string
	GetUID() types.UID
}](t *testing.T, what string, get func() (T, error), ok func(T) bool) T {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		o, err := get()
		if err == nil && ok(o) {
			return o
		}
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s: %v, %+v", what, err, o)
		}
	}
}

func (c *cluster) node(name string, what string, ok func(*corev1.Node) bool) *corev1.Node {
	c.t.Helper()
	return until(c.t, what, func() (*corev1.Node, error) { return client.Get[*corev1.Node](c.t.Context(), c.client, "", name) }, ok)
}

func (c *cluster) pod(name string, what string, ok func(*corev1.Pod) bool) *corev1.Pod {
	c.t.Helper()
	return until(c.t, what, func() (*corev1.Pod, error) { return client.Get[*corev1.Pod](c.t.Context(), c.client, "default", name) }, ok)
}

func (c *cluster) gone(name string) {
	c.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		_, err := client.Get[*corev1.Pod](c.t.Context(), c.client, "default", name)
		if apierrors.IsNotFound(err) {
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("pod %s is still there: %v", name, err)
		}
	}
}

func (c *cluster) run(name string, change ...func(*corev1.Pod)) {
	c.t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "web:1"}}}}
	for _, f := range change {
		f(p)
	}
	if _, err := client.Create(c.t.Context(), c.client, p); err != nil {
		c.t.Fatal(err)
	}
}

// fail has a node fail, or no more.
func (c *cluster) fail(node, how string) {
	c.t.Helper()
	value := "null"
	if how != "" {
		value = strconv.Quote(how)
	}
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, simulate.FailureAnnotation, value)
	if _, err := client.Patch[*corev1.Node](c.t.Context(), c.client, "", node, "", types.MergePatchType, []byte(patch)); err != nil {
		c.t.Fatal(err)
	}
}

func ready(n *corev1.Node) corev1.ConditionStatus {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return ""
}

func isReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue })
}

const quick = `defaults: {start: {}, init: {}, ready: {}, run: {}, stop: {}}
profiles:
- {name: failing, selector: {app: failing}, fail: 1, crash: {}}
`

func TestSimulatedNodesRunPods(t *testing.T) {
	c := start(t, time.Hour)
	c.fleet(3, quick, 30*time.Minute)
	n := c.node("sim-1", "it is ready and has a range", func(n *corev1.Node) bool { return ready(n) == corev1.ConditionTrue && len(n.Spec.PodCIDRs) == 1 })
	if n.Labels[corev1.LabelTopologyZone] != "b" || n.Labels[simulate.Label] != "true" || n.Annotations["sampan.dev/fences"] != "true" {
		t.Errorf("its labels are %v, its annotations %v", n.Labels, n.Annotations)
	}
	const pods = 20
	for i := range pods {
		c.run(fmt.Sprintf("web-%d", i))
	}
	taken := map[string]string{}
	for i := range pods {
		p := c.pod(fmt.Sprintf("web-%d", i), "it is ready", isReady)
		home := c.node(p.Spec.NodeName, "it is there", func(*corev1.Node) bool { return true })
		if ip := netip.MustParseAddr(p.Status.PodIP); !netip.MustParsePrefix(home.Spec.PodCIDR).Contains(ip) {
			t.Errorf("pod %s has the address %v on a node with %s", p.Name, ip, home.Spec.PodCIDR)
		}
		if other := taken[p.Status.PodIP]; other != "" {
			t.Errorf("pods %s and %s both have %s", other, p.Name, p.Status.PodIP)
		}
		taken[p.Status.PodIP] = p.Name
	}
	// Its log says what it is, by the way that all logs take.
	response, text := c.Ask("GET", "/api/v1/namespaces/default/pods/web-0/log", "")
	if response.StatusCode != 200 || !strings.HasPrefix(text, "simulated: no container runs; pod default/web-0 has been Running since ") {
		t.Errorf("its log is %d %q", response.StatusCode, text)
	}
	// A Job's pod ends, one that fails is started again, a deleted one goes.
	c.run("ends", func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever })
	c.run("fails", func(p *corev1.Pod) { p.Labels = map[string]string{"app": "failing"} })
	c.pod("ends", "it has succeeded", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
	c.pod("fails", "it waits to be started again", func(p *corev1.Pod) bool {
		w := p.Status.ContainerStatuses
		return len(w) == 1 && w[0].State.Waiting != nil && w[0].State.Waiting.Reason == "CrashLoopBackOff" && w[0].RestartCount == 1
	})
	if err := client.Delete[*corev1.Pod](t.Context(), c.client, "default", "web-3", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.gone("web-3")
	// The server's own changes are not undone for ever, nor left: what the node says of itself stands in the end.
	c.fail("sim-2", "notready")
	c.node("sim-2", "it says that it is not ready", func(n *corev1.Node) bool { return ready(n) == corev1.ConditionFalse })
	c.fail("sim-2", "")
	c.node("sim-2", "it is ready again", func(n *corev1.Node) bool { return ready(n) == corev1.ConditionTrue })
	if n, err := simulate.Delete(t.Context(), c.client, "sim-"); err != nil || n != 3 {
		t.Errorf("%d nodes are deleted: %v", n, err)
	}
}

func TestASimulatedNodeFailsAndComesBack(t *testing.T) {
	c := start(t, 2*time.Second)
	c.fleet(3, quick, time.Hour)
	for i := range 3 {
		c.node(fmt.Sprintf("sim-%d", i), "it is ready", func(n *corev1.Node) bool { return ready(n) == corev1.ConditionTrue })
	}
	on := func(p *corev1.Pod) {
		p.Spec.NodeName = "sim-1"
		p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	}
	c.run("stays", on)
	c.pod("stays", "it is ready", isReady)
	boot := c.node("sim-1", "", func(*corev1.Node) bool { return true }).Status.NodeInfo.BootID
	c.fail("sim-1", "crash")
	c.expire("sim-1")
	c.node("sim-1", "it is taken for lost", func(n *corev1.Node) bool { return ready(n) == corev1.ConditionUnknown })
	c.pod("stays", "it is not ready", func(p *corev1.Pod) bool { return !isReady(p) })
	c.fail("sim-1", "")
	n := c.node("sim-1", "it is ready again", func(n *corev1.Node) bool { return ready(n) == corev1.ConditionTrue })
	if n.Status.NodeInfo.BootID == boot {
		t.Error("it has come back as if it had not died")
	}
	c.pod("stays", "it was started again", func(p *corev1.Pod) bool {
		s := p.Status.ContainerStatuses[0]
		return isReady(p) && s.RestartCount == 1 && s.LastTerminationState.Terminated.Reason == "ContainerStatusUnknown"
	})
}

func TestNodesThatWereLeftGoOn(t *testing.T) {
	c := start(t, time.Hour)
	stop := c.fleet(2, quick, time.Hour)
	c.run("web")
	before := c.pod("web", "it is ready", isReady)
	stop()
	if _, err := client.Get[*corev1.Node](t.Context(), c.client, "", "sim-0"); err != nil {
		t.Errorf("after the end the node is not there: %v", err)
	}
	c.fleet(2, quick, time.Hour)
	c.run("more")
	c.pod("more", "it is ready", isReady)
	if after := c.pod("web", "it is ready", isReady); after.Status.ContainerStatuses[0].RestartCount != 0 || after.Status.PodIP != before.Status.PodIP {
		t.Errorf("the pod is not as it was: %+v", after.Status)
	}
}

func TestARealNodeIsLeftAlone(t *testing.T) {
	c := start(t, time.Hour)
	real := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "sim-1"}}
	if _, err := client.Create(t.Context(), c.client, real); err != nil {
		t.Fatal(err)
	}
	f := simulate.New(simulate.Config{Client: c.client, Table: c.Table, Nodes: 2, Prefix: "sim-", Address: netip.MustParseAddr("127.0.0.1"), Log: slog.New(slog.DiscardHandler)})
	err := f.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "add node sim-1: there is one of that name which is not simulated: choose other names by --name-prefix") {
		t.Errorf("it says %v", err)
	}
	if n, err := simulate.Delete(t.Context(), c.client, ""); err != nil || n > 1 {
		t.Errorf("%d are deleted: %v", n, err)
	}
	c.node("sim-1", "it is there", func(n *corev1.Node) bool { return n.Labels[simulate.Label] == "" && n.DeletionTimestamp == nil })
}
