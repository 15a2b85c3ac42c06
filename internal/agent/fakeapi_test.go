package agent

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/token"

	"sampan.dev/internal/loop"
)

// fakeAPI is the API and the agent's view of it at once.
type fakeAPI struct {
	services []*corev1.Service
	guarded  []string                  // pods that network policies were asked for, with their addresses
	hold     chan struct{}             // until when policies are not in force; nil: they are
	behind   atomic.Bool               // packets for some Service go to each pod
	left     []func()                  // to be called when they do not any more
	unsent   atomic.Pointer[time.Time] // since when they do not any more
	away     atomic.Bool               // no server is reached

	changing sync.Mutex // held while the node is changed

	mu      sync.Mutex
	rev     int
	pods    map[string]*corev1.Pod
	config  map[string]*corev1.ConfigMap
	node    *corev1.Node
	lease   *coordinationv1.Lease
	onPod   func(old, new *corev1.Pod)
	onConf  func(namespace, name string)
	events  []string
	writes  int
	tokens  int // that were made
	history map[string][]corev1.PodPhase
	fail    error
	ready   chan struct{}
}

func newFakeAPI() *fakeAPI {
	f := &fakeAPI{pods: map[string]*corev1.Pod{}, config: map[string]*corev1.ConfigMap{}, history: map[string][]corev1.PodPhase{}, ready: make(chan struct{})}
	close(f.ready)
	return f
}

func (f *fakeAPI) Ready() <-chan struct{} { return f.ready }
func (f *fakeAPI) Pods() []*corev1.Pod {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Values(f.pods))
}

func (f *fakeAPI) Pod(namespace, name string) *corev1.Pod {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pods[namespace+"/"+name]
}

func notFound(kind, name string) error {
	return apierrors.NewNotFound(schema.GroupResource{Resource: kind}, name)
}

func (f *fakeAPI) ConfigMap(_ context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if cm := f.config[namespace+"/"+name]; cm != nil {
		return cm, nil
	}
	return nil, notFound("configmaps", name)
}

func (f *fakeAPI) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	return nil, notFound("secrets", name)
}

func (f *fakeAPI) Claim(_ context.Context, _, name string) (*corev1.PersistentVolumeClaim, error) {
	return nil, notFound("persistentvolumeclaims", name)
}

func (f *fakeAPI) PersistentVolume(_ context.Context, name string) (*corev1.PersistentVolume, error) {
	return nil, notFound("persistentvolumes", name)
}

func (f *fakeAPI) RuntimeClass(_ context.Context, name string) (*nodev1.RuntimeClass, error) {
	if name != "sandboxed" {
		return nil, apierrors.NewNotFound(nodev1.Resource("runtimeclasses"), name)
	}
	return &nodev1.RuntimeClass{Handler: "runsc"}, nil
}

func (f *fakeAPI) Services(namespace string) (all []*corev1.Service) {
	for _, s := range f.services {
		if s.Namespace == namespace {
			all = append(all, s)
		}
	}
	return all
}

func (f *fakeAPI) Sends(to netip.Addr) (bool, time.Time) {
	at := time.Time{}
	if since := f.unsent.Load(); since != nil {
		at = *since
	}
	return to.IsValid() && f.behind.Load(), at
}

func (f *fakeAPI) OnLeft(to netip.Addr, call func()) {
	if sends, _ := f.Sends(to); !sends {
		call()
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left = append(f.left, call)
}

// leave has the proxy hear that no Service has the pods any more.
func (f *fakeAPI) leave() {
	if f.behind.Swap(false) {
		f.unsent.Store(new(time.Now()))
	}
	f.mu.Lock()
	calls := f.left
	f.left = nil
	f.mu.Unlock()
	for _, call := range calls {
		call()
	}
}

// guards enforces network policies in the API's name.
type guards struct{ *fakeAPI }

// Ready notes for which addresses policies were asked for, and waits if it is told to.
func (f guards) Ready(ctx context.Context, pod loop.Key, addrs []netip.Addr) error {
	f.mu.Lock()
	f.guarded = append(f.guarded, fmt.Sprint(pod, addrs))
	hold := f.hold
	f.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (f *fakeAPI) OnPod(fn func(old, new *corev1.Pod))      { f.onPod = fn }
func (f *fakeAPI) OnConfig(fn func(namespace, name string)) { f.onConf = fn }
func (f *fakeAPI) Record(obj runtime.Object, kind, reason, message string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, kind+" "+reason+" "+message)
}

// put stores a pod and tells the agent.
func (f *fakeAPI) put(pod *corev1.Pod) {
	f.mu.Lock()
	name := pod.Namespace + "/" + pod.Name
	old := f.pods[name]
	f.rev++
	pod.ResourceVersion = fmt.Sprint(f.rev)
	f.pods[name] = pod
	if h := f.history[name]; len(h) == 0 || h[len(h)-1] != pod.Status.Phase {
		f.history[name] = append(h, pod.Status.Phase)
	}
	f.mu.Unlock()
	if f.onPod != nil {
		f.onPod(old, pod)
	}
}

func (f *fakeAPI) remove(namespace, name string) {
	f.mu.Lock()
	old := f.pods[namespace+"/"+name]
	delete(f.pods, namespace+"/"+name)
	f.mu.Unlock()
	if old != nil {
		f.onPod(old, nil)
	}
}

// delete asks for a graceful deletion, as the API does.
func (f *fakeAPI) deletePod(namespace, name string, grace int64) {
	pod := f.Pod(namespace, name).DeepCopy()
	at := metav1.NewTime(time.Now().Add(time.Duration(grace) * time.Second))
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &at, &grace
	f.put(pod)
}

func (f *fakeAPI) Node(context.Context, string) (*corev1.Node, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.node == nil {
		return nil, notFound("nodes", "n")
	}
	return f.node, nil
}

func (f *fakeAPI) CreateNode(_ context.Context, n *corev1.Node) (*corev1.Node, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return nil, f.fail
	}
	if f.node != nil {
		return nil, apierrors.NewAlreadyExists(schema.GroupResource{Resource: "nodes"}, n.Name)
	}
	f.node = n.DeepCopy()
	f.node.UID = "node-uid"
	return f.node, nil
}

func (f *fakeAPI) UpdateNode(_ context.Context, _ string, change func(*corev1.Node)) (*corev1.Node, error) {
	f.changing.Lock()
	defer f.changing.Unlock()
	f.mu.Lock()
	f.writes++
	node := f.node.DeepCopy()
	f.mu.Unlock()
	change(node)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.node = node
	return node, nil
}

func (f *fakeAPI) UpdateNodeStatus(ctx context.Context, name string, change func(*corev1.Node)) (*corev1.Node, error) {
	return f.UpdateNode(ctx, name, change)
}

func (f *fakeAPI) RenewLease(_ context.Context, name string, change func(*coordinationv1.Lease)) error {
	if err := f.unreached(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lease == nil {
		f.lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}}
	}
	f.lease = f.lease.DeepCopy()
	change(f.lease)
	return nil
}

func (f *fakeAPI) UpdatePodStatus(_ context.Context, namespace, name string, uid types.UID, change func(*corev1.Pod)) (*corev1.Pod, error) {
	f.mu.Lock()
	pod, fail := f.pods[namespace+"/"+name], f.fail
	f.writes++
	f.mu.Unlock()
	switch {
	case fail != nil:
		return nil, fail
	case pod == nil:
		return nil, notFound("pods", name)
	case pod.UID != uid:
		return nil, apierrors.NewConflict(schema.GroupResource{Resource: "pods"}, name, errors.New("uid"))
	}
	pod = pod.DeepCopy()
	change(pod)
	f.put(pod)
	return pod, nil
}

func (f *fakeAPI) DeletePod(_ context.Context, namespace, name string, uid types.UID) error {
	if pod := f.Pod(namespace, name); pod != nil && pod.UID == uid {
		f.remove(namespace, name)
	}
	return nil
}

// CreateToken makes a text that says for whom.
func (f *fakeAPI) CurrentPod(_ context.Context, namespace, name string) (*corev1.Pod, error) {
	if err := f.unreached(); err != nil {
		return nil, err
	}
	if pod := f.Pod(namespace, name); pod != nil {
		return pod, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("pods"), name)
}

// unreached is the error while no server is.
func (f *fakeAPI) unreached() error {
	if f.away.Load() {
		return errors.New("no server answers")
	}
	return nil
}

func (f *fakeAPI) CreateToken(_ context.Context, namespace, account string, asked *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return nil, f.fail
	}
	f.tokens++
	ref := asked.Spec.BoundObjectRef
	claims := token.Bound(token.Binding{
		Namespace: namespace, ServiceAccount: token.Ref{Name: account}, Pod: &token.Ref{Name: ref.Name, UID: string(ref.UID)},
	}, asked.Spec.Audiences, time.Now(), time.Hour, 0)
	payload, err := json.Marshal(&claims)
	out := asked.DeepCopy()
	out.Status.Token = "e30." + base64.RawURLEncoding.EncodeToString(payload) + "." // nobody here verifies it
	return out, err
}

func (f *fakeAPI) said(what string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, e := range f.events {
		if strings.Contains(e, what) {
			n++
		}
	}
	return n
}

// pod makes a pod of one container, and lets the caller change it.
func newPod(change ...func(*corev1.Pod)) *corev1.Pod {
	grace := int64(30)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "uid", Generation: 1, ResourceVersion: "1"},
		Spec: corev1.PodSpec{
			NodeName: "n", RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: &grace, DNSPolicy: corev1.DNSClusterFirst,
			Containers: []corev1.Container{{Name: "c", Image: "img:1", ImagePullPolicy: corev1.PullIfNotPresent}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodPending, QOSClass: corev1.PodQOSBestEffort},
	}
	for _, c := range change {
		c(pod)
	}
	return pod
}

// newAgent makes an agent between both fakes, with a directory and cgroup root of its own.
func newAgent(t *testing.T, api *fakeAPI, rt *fakeRuntime, dir string) *Agent {
	t.Helper()
	rt.logs = filepath.Join(dir, "logs", "pods")
	rt.touch(0)
	a := New(Config{
		NodeName: "n", NodeIP: netip.MustParseAddr("192.0.2.1"), DataDir: dir, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24")},
		View: api, API: api, Events: api, CRI: rt, Proxy: api, Policies: guards{api},
	})
	a.relief.meter = &fakeMeter{} // whatever the machine that tests run on is short of
	return a
}

// What a test reads while the agent runs.

func (h *house) node() *corev1.Node {
	h.api.mu.Lock()
	defer h.api.mu.Unlock()
	return h.api.node
}

func (h *house) lease() *coordinationv1.Lease {
	h.api.mu.Lock()
	defer h.api.mu.Unlock()
	return h.api.lease
}

func (h *house) writes() int {
	h.api.mu.Lock()
	defer h.api.mu.Unlock()
	return h.api.writes
}

func (h *house) calls() []string {
	h.rt.mu.Lock()
	defer h.rt.mu.Unlock()
	return slices.Clone(h.rt.calls)
}
