package loops

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/admission"
	"sampan.dev/internal/allocate"
	"sampan.dev/internal/auth"
	"sampan.dev/internal/cache"
	"sampan.dev/internal/controller/garbage"
	"sampan.dev/internal/events"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/registry"
	kind "sampan.dev/internal/resource"
	"sampan.dev/internal/resource/kinds"
	"sampan.dev/internal/store/local"
)

// plane is a control plane without its API server: the real store, cache, registry and loops.
type plane struct {
	t     testing.TB
	ctx   context.Context
	store *local.Store
	*world
}

// start runs a control plane on dir until the test ends, or stop is called.
func start(t testing.TB, dir string) (p *plane, stop func()) {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	table := kinds.Table()
	s, err := local.Open(dir, local.Options{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	c := cache.New(table, s, log)
	services, _ := table.ByKind(corev1.SchemeGroupVersion.WithKind("Service"))
	alloc := allocate.New(allocate.Config{Table: table, Cache: c, Store: s, Ranges: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}, NodePorts: allocate.DefaultPorts})
	r := registry.New(registry.Config{
		Table: table, Store: s, Cache: c, Admission: admission.Steps(table, c), Log: log, Allocate: map[*kind.Kind]registry.Allocator{services: alloc},
	})
	event, _ := table.ByKind(corev1.SchemeGroupVersion.WithKind("Event"))
	recorder := events.New(events.Through(r, event), "test", "", events.Options{Scheme: table.Scheme(), Log: log})
	ls := New(Config{Table: table, Cache: c, Registry: r, Revision: s.Revision, Events: recorder, CA: []byte("PEM"), Log: log})
	ctx, cancel := context.WithCancel(auth.WithUser(context.Background(), auth.System("test")))
	done := make(chan error, 3)
	go func() { done <- c.Run(ctx) }()
	go func() { done <- ls.Run(ctx) }()
	go func() { done <- recorder.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		for range 3 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	p = &plane{t: t, ctx: ctx, store: s, world: ls.world}
	p.until("the default account is there", func() bool { return p.ServiceAccount("default", "default") != nil })
	return p, stop
}

// all objects of a kind.
var all = cache.Selection{}

// until waits, from one revision to the next, until something holds.
func (p *plane) until(what string, holds func() bool) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
	defer cancel()
	for {
		revision := p.Cache.Snapshot().Revision()
		if holds() {
			return
		}
		if err := p.Cache.Wait(ctx, revision+1); err != nil {
			p.t.Fatalf("waited in vain until %s: %v", what, err)
		}
	}
}

func (p *plane) make(k *kind.Kind, object kind.Object) kind.Object {
	p.t.Helper()
	made, err := p.Registry.Create(p.ctx, k, object, metav1.CreateOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.shown(p.ctx); err != nil {
		p.t.Fatal(err)
	}
	return made
}

func (p *plane) drop(k *kind.Kind, namespace, name string, o metav1.DeleteOptions) {
	p.t.Helper()
	if err := p.delete(p.ctx, k, namespace, name, o); err != nil {
		p.t.Fatal(err)
	}
}

func (p *plane) addNode(name string) {
	list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: resource.MustParse("10")}
	p.make(p.nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Capacity: list, Allocatable: list}})
}

func (p *plane) addPod(namespace, name, cpu string) *corev1.Pod {
	p.t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "nginx"}}}}
	if cpu != "" {
		pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
	}
	return p.make(p.pods, pod).(*corev1.Pod)
}

func (p *plane) node(pod string) string {
	if found := p.Pod(loop.Key{Namespace: "default", Name: pod}); found != nil {
		return found.Spec.NodeName
	}
	return ""
}

// told are the messages of the events about an object, in any order.
func (p *plane) told(name string) (messages []string) {
	for o := range p.Cache.Snapshot().List(p.events, cache.Selection{}) {
		if e := cache.Typed[*corev1.Event](o); e.InvolvedObject.Name == name {
			messages = append(messages, e.Reason+": "+e.Message)
		}
	}
	return messages
}

func TestASystemOfNamespaces(t *testing.T) {
	p, _ := start(t, t.TempDir())
	for _, name := range []string{"default", "kube-system", "kube-public", "kube-node-lease"} {
		p.until(name+" is furnished", func() bool {
			m := p.ConfigMap(name, "kube-root-ca.crt")
			return p.ServiceAccount(name, "default") != nil && m != nil && m.Data["ca.crt"] == "PEM"
		})
	}
	err := p.UpdateConfigMap(p.ctx, "default", "kube-root-ca.crt", func(m *corev1.ConfigMap) { m.Data["ca.crt"] = "forged" })
	if err != nil {
		t.Fatal(err)
	}
	p.until("the authority is restored", func() bool { return p.ConfigMap("default", "kube-root-ca.crt").Data["ca.crt"] == "PEM" })
}

func TestAPodIsScheduledThroughTheStore(t *testing.T) {
	p, _ := start(t, t.TempDir())
	p.addPod("default", "web", "3")
	p.until("it says why it has no node", func() bool {
		pod := p.Pod(loop.Key{Namespace: "default", Name: "web"})
		return len(pod.Status.Conditions) > 0 && pod.Status.Conditions[0].Message == "no nodes available to schedule pods"
	})
	p.addNode("n1")
	p.until("it has one", func() bool { return p.node("web") == "n1" })
	p.until("and events say so", func() bool {
		told := p.told("web")
		return slices.Contains(told, "FailedScheduling: no nodes available to schedule pods") && slices.Contains(told, "Scheduled: Successfully assigned default/web to n1")
	})
	p.addPod("default", "second", "2")
	p.until("the second must wait", func() bool {
		return slices.ContainsFunc(p.told("second"), func(m string) bool { return strings.Contains(m, "0/1 nodes are available: 1 Insufficient cpu.") })
	})
	p.drop(p.pods, "default", "web", metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
	p.until("the second takes its place", func() bool { return p.node("second") == "n1" })
}

func TestAfterARestartTheAccountsAreThoseOfTheStore(t *testing.T) {
	dir := t.TempDir()
	p, stop := start(t, dir)
	p.addNode("n1")
	p.addPod("default", "web", "3")
	p.until("it has a node", func() bool { return p.node("web") == "n1" })
	stop()
	p, _ = start(t, dir)
	p.addPod("default", "second", "2")
	p.until("what was bound before is counted", func() bool {
		return slices.ContainsFunc(p.told("second"), func(m string) bool { return strings.Contains(m, "Insufficient cpu") })
	})
}

func TestANamespaceIsEmptiedAndGoes(t *testing.T) {
	p, _ := start(t, t.TempDir())
	p.make(p.world.namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
	p.until("it is furnished", func() bool {
		return p.ServiceAccount("shop", "default") != nil && p.ConfigMap("shop", "kube-root-ca.crt") != nil
	})
	p.make(p.configs, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "held", Finalizers: []string{"example.com/hold"}}})
	p.addPod("shop", "pending", "")
	p.drop(p.world.namespaces, "", "shop", metav1.DeleteOptions{})
	p.until("it says what holds it", func() bool {
		return slices.ContainsFunc(p.Namespace("shop").Status.Conditions, func(c corev1.NamespaceCondition) bool {
			return c.Message == "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
		})
	})
	if p.Pod(loop.Key{Namespace: "shop", Name: "pending"}) != nil || p.ServiceAccount("shop", "default") != nil {
		t.Error("what nothing holds is still there")
	}
	if err := p.UpdateConfigMap(p.ctx, "shop", "held", func(m *corev1.ConfigMap) { m.Finalizers = nil }); err != nil {
		t.Fatal(err)
	}
	p.until("it is gone", func() bool { return p.Namespace("shop") == nil })
	if left := p.Contents("shop"); len(left) != 0 {
		t.Errorf("it has left %+v", left)
	}
}

func TestWhatIsOwnedGoesWithItsOwner(t *testing.T) {
	for _, policy := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan} {
		t.Run(string(policy), func(t *testing.T) {
			p, _ := start(t, t.TempDir())
			owner := p.make(p.configs, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "owner"}})
			block := true
			p.make(p.configs, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "owned", OwnerReferences: []metav1.OwnerReference{
				{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: owner.GetUID(), BlockOwnerDeletion: &block},
			}}})
			p.drop(p.configs, "default", "owner", metav1.DeleteOptions{PropagationPolicy: &policy})
			p.until("the owner is gone", func() bool { return p.ConfigMap("default", "owner") == nil })
			if policy == metav1.DeletePropagationOrphan {
				if m := p.ConfigMap("default", "owned"); m == nil || len(m.OwnerReferences) > 0 {
					t.Errorf("the orphan is %v", m)
				}
				return
			}
			p.until("what it owned is gone", func() bool { return p.ConfigMap("default", "owned") == nil })
		})
	}
}

func TestMetadataIsReadOffTheStoredBytes(t *testing.T) {
	p, _ := start(t, t.TempDir())
	yes := true
	p.make(p.configs, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Namespace: "default", Name: "m", Labels: map[string]string{"a": "b"}, Finalizers: []string{"example.com/a", "example.com/b"},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "example.com/v1", Kind: "K", Name: "n", UID: "u", Controller: &yes, BlockOwnerDeletion: &yes}},
	}})
	same := func(deleting bool) {
		t.Helper()
		if err := p.shown(p.ctx); err != nil {
			t.Fatal(err)
		}
		o := p.Cache.Snapshot().Get(p.configs, "default", "m")
		m, err := scan(o.Protobuf())
		if err != nil {
			t.Fatal(err)
		}
		d := o.Decoded()
		want := garbage.Meta{UID: d.GetUID(), Owners: d.GetOwnerReferences(), Finalizers: d.GetFinalizers(), Deleting: d.GetDeletionTimestamp() != nil}
		if m.UID != want.UID || m.Deleting != deleting || want.Deleting != deleting || !slices.Equal(m.Finalizers, want.Finalizers) || len(m.Owners) != 1 || m.Owners[0].UID != "u" || !*m.Owners[0].BlockOwnerDeletion {
			t.Errorf("read %+v, it is %+v", m, want)
		}
	}
	same(false)
	p.drop(p.configs, "default", "m", metav1.DeleteOptions{})
	same(true)
}

func TestOnlyChangesThatMatterToOwnershipShow(t *testing.T) {
	at := metav1.Now()
	owner := metav1.OwnerReference{APIVersion: "v1", Kind: "K", Name: "n", UID: "u"}
	for name, c := range map[string]struct {
		change func(m *metav1.ObjectMeta)
		alike  bool
	}{
		"nothing":     {func(*metav1.ObjectMeta) {}, true},
		"the version": {func(m *metav1.ObjectMeta) { m.ResourceVersion, m.Generation = "70000", 3 }, true},
		"a label":     {func(m *metav1.ObjectMeta) { m.Labels = map[string]string{"a": "b"} }, true},
		"who manages": {func(m *metav1.ObjectMeta) { m.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m"}} }, true},
		"another uid": {func(m *metav1.ObjectMeta) { m.UID = "other" }, false},
		"its end":     {func(m *metav1.ObjectMeta) { m.DeletionTimestamp = &at }, false},
		"one owner more": {func(m *metav1.ObjectMeta) {
			m.OwnerReferences = append(slices.Clone(m.OwnerReferences), metav1.OwnerReference{UID: "other"})
		}, false},
		"another owner": {func(m *metav1.ObjectMeta) { m.OwnerReferences = []metav1.OwnerReference{{UID: "other"}} }, false},
		"no owner":      {func(m *metav1.ObjectMeta) { m.OwnerReferences = nil }, false},
		"what it waits": {func(m *metav1.ObjectMeta) { m.Finalizers = nil }, false},
	} {
		t.Run(name, func(t *testing.T) {
			old := metav1.ObjectMeta{
				Namespace: "default", Name: "m", UID: "uid", ResourceVersion: "7", Finalizers: []string{"example.com/a"}, OwnerReferences: []metav1.OwnerReference{owner},
			}
			next := *old.DeepCopy()
			c.change(&next)
			a, errA := old.Marshal()
			b, errB := next.Marshal()
			if errA != nil || errB != nil || alike(a, b) != c.alike || alike(b, a) != c.alike {
				t.Errorf("alike: %v and %v, %v, %v", alike(a, b), alike(b, a), errA, errB)
			}
		})
	}
	if alike([]byte{0x2a}, []byte{0x2a}) {
		t.Error("what cannot be read is alike")
	}
}

func FuzzScan(f *testing.F) {
	f.Add([]byte("k8s\x00\x12\x04\x0a\x02\x2a\x00"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = scan(b)
		_ = alike(b, b[:len(b)/2])
	})
}
