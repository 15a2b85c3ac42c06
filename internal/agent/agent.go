// Package agent is the node's share of the cluster, what Kubernetes calls the kubelet.
//
// It watches the pods bound to its node and the events of the container runtime; it drives the runtime over CRI, and writes its
// Node, its Lease, the status of its pods and, once all of a deleted pod is gone, the pod's last deletion. Each pod has one
// worker, which observes, decides (a pure function, in decide.go) and applies, until there is nothing left to do; an idle pod
// has neither goroutine nor timer.
// Always: all state is what the API, the runtime and DIR/pods say, so that the agent can stop or die at any moment and go on
// from there with the same containers; stopping it leaves all pods running; a container of a pod that the API does not know
// is stopped only once the view of the API is whole.
package agent

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/agent/cgroup"
	"sampan.dev/internal/agent/logs"
	"sampan.dev/internal/agent/pressure"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/podnet"
	"sampan.dev/internal/volume"
)

// View is what the agent reads of the API: its own pods, and what they name. Objects are shared and never changed.
type View interface {
	// Ready is closed once the view holds what the API holds.
	Ready() <-chan struct{}
	// Pods lists the pods bound to this node.
	Pods() []*corev1.Pod
	// Pod returns a pod bound to this node, or nil.
	Pod(namespace, name string) *corev1.Pod
	// ConfigMap and Secret return an API NotFound error for what is not there.
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	// Claim and PersistentVolume too: of claims that a pod of this node uses, and of volumes that these are bound to.
	Claim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error)
	PersistentVolume(ctx context.Context, name string) (*corev1.PersistentVolume, error)
	// RuntimeClass returns an API NotFound error, too.
	RuntimeClass(ctx context.Context, name string) (*nodev1.RuntimeClass, error)
	// Services lists the Services of a namespace.
	Services(namespace string) []*corev1.Service
	// OnPod calls with each change of this node's pods, in order; old is nil for a new one, new for one that is gone. What it
	// calls only marks keys. It is called once, before the view is run.
	OnPod(func(old, new *corev1.Pod))
	// OnConfig calls when a ConfigMap or Secret of that namespace and name may have changed.
	OnConfig(func(namespace, name string))
}

// API is what the agent writes. Errors are the API's own.
type API interface {
	// Node reads this node's own object.
	Node(ctx context.Context, name string) (*corev1.Node, error)
	CreateNode(ctx context.Context, node *corev1.Node) (*corev1.Node, error)
	// UpdateNode changes everything but the status, UpdateNodeStatus only the status. Both are tried again on a conflict.
	UpdateNode(ctx context.Context, name string, change func(*corev1.Node)) (*corev1.Node, error)
	UpdateNodeStatus(ctx context.Context, name string, change func(*corev1.Node)) (*corev1.Node, error)
	// RenewLease changes the node's lease in kube-node-lease, and creates it if need be.
	RenewLease(ctx context.Context, name string, change func(*coordinationv1.Lease)) error
	// UpdatePodStatus changes the status of the pod of that uid; a pod of another uid is a conflict.
	UpdatePodStatus(ctx context.Context, namespace, name string, uid types.UID, change func(*corev1.Pod)) (*corev1.Pod, error)
	// DeletePod removes the pod of that uid at once (grace 0). A pod that is gone, or another's, is no error.
	DeletePod(ctx context.Context, namespace, name string, uid types.UID) error
	// CurrentPod reads a pod of this node as it is now, not as a view has it.
	CurrentPod(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	// CreateToken makes a token of a service account, bound to one of this node's pods.
	CreateToken(ctx context.Context, namespace, account string, asked *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error)
}

// Recorder tells what happened. events.Recorder is one.
type Recorder interface {
	Record(obj runtime.Object, kind, reason, message string)
}

// Ports publishes host ports. podnet.Network is one; nil publishes none.
type Ports interface {
	SetHostPorts(ctx context.Context, pod string, ports []podnet.HostPort) error
}

// Proxy knows where packets for Services go. proxy.Proxy is one; nil knows nothing.
type Proxy interface {
	// Sends reports whether connections to some Service may go to that address; if they went there until not long ago, when that ended.
	Sends(to netip.Addr) (sends bool, left time.Time)
	// OnLeft calls once, as soon as none do any more.
	OnLeft(to netip.Addr, call func())
}

// Policies enforces NetworkPolicies. netpol.Policies is one; nil enforces none.
type Policies interface {
	// Ready returns once those that select the pod are in force for its addresses.
	Ready(ctx context.Context, pod loop.Key, addrs []netip.Addr) error
}

// Config says what the agent is to be. Fields without a default named are required.
type Config struct {
	NodeName string
	NodeIP   netip.Addr        // reported as the node's InternalIP, and as hostIP of its pods
	DataDir  string            // pods under DIR/pods, their logs under DIR/logs/pods
	NodeIP6  netip.Addr        // its IPv6 address besides; not valid: it has none
	PodCIDRs []netip.Prefix    // this node's, one of each family; told to the runtime. None: the node's spec.podCIDRs are used
	Labels   map[string]string // added to the node's own
	Taints   []corev1.Taint    // of a node that is registered for the first time
	// Lease is how long the node's lease is good for, and with that how long the control plane waits before it calls the node unreachable; default 40 s. It is renewed
	// every 10 s, or after 5/9 of it if that is sooner.
	Lease time.Duration
	// Unserved says for how long, up to now, no server has missed this node, as all of them say: their stores have stood still. NoServer: none runs anywhere, so that one that
	// starts begins to count. Zero: one may miss it, or that is not known. It is asked when no renewal comes through. With it the agent fences itself: it stops
	// pods when it has reached no server for as long as they tolerate that. Nil: it does not.
	Unserved func(ctx context.Context) time.Duration
	StateDir string // where what does not outlive a boot is kept; needed with Unserved

	CgroupParent string // path in each hierarchy, "/sampan-ID"; empty: no control groups are made
	CgroupRoot   string // default /sys/fs/cgroup

	View   View
	API    API
	Events Recorder
	CRI    grpc.ClientConnInterface // a *grpc.ClientConn to the runtime's socket
	Ports  Ports                    // nil: host ports are not published
	Proxy  Proxy                    // nil: no pod is behind a Service
	// Policies is asked before the first container of a sandbox starts; nil: there are none.
	Policies Policies

	TLS       *tls.Config                             // of the node's server: its certificate, and ClientCAs. Nil: no server
	Listener  net.Listener                            // on port 10250; closed when Run returns
	Authorize func(user string, groups []string) bool // who may use the node's server; default: the group system:masters
	Metrics   http.Handler                            // appended to /metrics; may be nil

	ClusterDNS    []netip.Addr // nameservers of pods with policy ClusterFirst; none: the node's own
	ClusterDomain string       // default cluster.local
	ResolvConf    string       // the node's own; default /etc/resolv.conf
	EtcHosts      string       // the node's own; default /etc/hosts

	EvictionHard []pressure.Threshold // below which pods are evicted; nil: pressure.Default
	PressureHold time.Duration        // how long the node says that it is short of something after it was the last time; default 5 min

	MaxPods         int           // default 110
	RestartDelay    time.Duration // after the second end of a container, doubled with each; default 10 s
	MaxRestartDelay time.Duration // default 5 min
	LogMaxSize      int64         // of a container's log before it is rotated; default 10 MiB
	LogMaxFiles     int           // of one container; default 5
	Version         string        // reported as kubeletVersion; default v1.37.2+sampan
	Log             *slog.Logger
}

func (c *Config) fill() {
	c.CgroupRoot = cmp.Or(c.CgroupRoot, "/sys/fs/cgroup")
	c.ClusterDomain = cmp.Or(c.ClusterDomain, "cluster.local")
	c.ResolvConf = cmp.Or(c.ResolvConf, "/etc/resolv.conf")
	c.EtcHosts = cmp.Or(c.EtcHosts, "/etc/hosts")
	c.PressureHold = cmp.Or(c.PressureHold, pressureHold)
	if c.EvictionHard == nil {
		c.EvictionHard, _ = pressure.Parse(pressure.Default)
	}
	c.MaxPods = cmp.Or(c.MaxPods, 110)
	c.Lease = cmp.Or(c.Lease, leaseDuration)
	c.RestartDelay = cmp.Or(c.RestartDelay, 10*time.Second)
	c.MaxRestartDelay = cmp.Or(c.MaxRestartDelay, 5*time.Minute)
	c.LogMaxSize = cmp.Or(c.LogMaxSize, 10<<20)
	c.LogMaxFiles = cmp.Or(c.LogMaxFiles, 5)
	c.Version = cmp.Or(c.Version, "v1.37.2+sampan")
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Authorize == nil {
		c.Authorize = func(_ string, groups []string) bool {
			for _, g := range groups {
				if g == "system:masters" {
					return true
				}
			}
			return false
		}
	}
}

// Agent is a node's agent.
type Agent struct {
	cfg     Config
	log     *slog.Logger
	runtime cri.RuntimeServiceClient
	images  cri.ImageServiceClient
	volumes *volume.Manager
	cgroups *cgroup.Manager
	watcher *logs.Watcher
	pulls   *puller
	prober  *prober
	node    *nodeKeeper
	relief  *relief

	clock func() time.Duration // the fence's

	enforced atomic.Bool // the groups of all pods are made

	unnoted atomic.Bool // pods have changed since noteGuarded has kept them

	sharing sync.Mutex // held by shareOut

	mu       sync.Mutex // guards the fields below; those of a worker, of relief and of the node are locked while it is held, in this order, and never the other way round
	workers  map[types.UID]*worker
	admitted map[types.UID]*corev1.Pod // pods that have their place on this node
	fence    fence
	nodeIP   netip.Addr
	nodeIP6  netip.Addr
	going    shutdown
	draining bool
	drained  chan struct{}   // gets a value when a worker comes to rest, while draining
	kept     []byte          // what noteGuarded wrote last
	running  context.Context // of Run; nil before
	idle     sync.WaitGroup  // of workers' goroutines
}

// New returns an agent that does nothing yet.
func New(cfg Config) *Agent {
	cfg.fill()
	a := &Agent{
		cfg: cfg, log: cfg.Log,
		runtime: cri.NewRuntimeServiceClient(cfg.CRI), images: cri.NewImageServiceClient(cfg.CRI),
		cgroups:  cgroup.New(cfg.CgroupRoot, cfg.CgroupParent),
		watcher:  logs.NewWatcher(),
		clock:    sinceBoot,
		workers:  map[types.UID]*worker{},
		admitted: map[types.UID]*corev1.Pod{},
	}
	a.nodeIP, a.nodeIP6 = cfg.NodeIP, cfg.NodeIP6
	if cfg.Unserved != nil {
		a.fence.grace = cfg.Lease
	}
	a.volumes = volume.New(filepath.Join(cfg.DataDir, "pods"), cfg.View)
	a.volumes.Tokens, a.volumes.Due = a.createToken, a.renewTokens
	a.pulls = newPuller(a)
	a.prober = newProber(a)
	a.node = newNodeKeeper(a)
	a.relief = newRelief(a)
	cfg.View.OnPod(a.podChanged)
	cfg.View.OnConfig(a.configChanged)
	return a
}

// Run does the node's work until ctx ends, and returns after everything it started has. Pods go on running.
func (a *Agent) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	defer a.watcher.Close()
	if a.cfg.TLS != nil {
		g.Go(func() error { return a.serve(ctx) })
	} else if a.cfg.Listener != nil {
		return errors.New("run agent: a listener without TLS")
	}
	g.Go(func() error { return a.node.run(ctx) })
	g.Go(func() error { return a.relief.run(ctx) })
	g.Go(func() error { return a.guard(ctx) })
	g.Go(func() error {
		select {
		case <-a.cfg.View.Ready():
		case <-ctx.Done():
			return nil
		}
		if err := a.begin(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("run agent: %w", err)
		}
		a.followRuntime(ctx)
		return nil
	})
	err := g.Wait()
	a.mu.Lock()
	a.running = nil
	a.mu.Unlock()
	a.prober.close()
	a.idle.Wait()
	a.volumes.Close()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// address and address6 are the node's own, of each family; not valid if it has none.
func (a *Agent) address() netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.nodeIP
}

func (a *Agent) address6() netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.nodeIP6
}

// SetAddresses says that the node has other addresses now; the Node and its pods' statuses follow.
func (a *Agent) SetAddresses(v4, v6 netip.Addr) {
	a.mu.Lock()
	same := a.nodeIP == v4 && a.nodeIP6 == v6
	a.nodeIP, a.nodeIP6 = v4, v6
	a.mu.Unlock()
	if same {
		return
	}
	a.log.Warn("the node's address has changed", "address", v4)
	a.node.again()
	for _, pod := range a.cfg.View.Pods() {
		a.mark(key{pod.Namespace, pod.Name, pod.UID})
	}
}
