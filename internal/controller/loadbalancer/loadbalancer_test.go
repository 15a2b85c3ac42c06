package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"sampan.dev/internal/loop"
)

// town is Services and nodes, and what was told of them.
type town struct {
	mu       sync.Mutex
	c        *Controller
	services map[loop.Key]*corev1.Service
	nodes    []*corev1.Node
	settings *corev1.ConfigMap
	told     []string
	writes   int
	fail     int // so many writes
}

func (w *town) Service(key loop.Key) *corev1.Service {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.services[key]
}

func (w *town) Balanced() (all []*corev1.Service) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.services {
		if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
			all = append(all, s)
		}
	}
	return all
}

func (w *town) Nodes() []*corev1.Node         { w.mu.Lock(); defer w.mu.Unlock(); return w.nodes }
func (w *town) Settings() *corev1.ConfigMap   { w.mu.Lock(); defer w.mu.Unlock(); return w.settings }
func (w *town) Ends(loop.Key) map[string]bool { return map[string]bool{"n1": true} }

func (w *town) SetIngress(_ context.Context, s *corev1.Service, ingress []corev1.LoadBalancerIngress) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail > 0 {
		w.fail--
		return errors.New("the store is away")
	}
	w.writes++
	key := loop.Key{Namespace: s.Namespace, Name: s.Name}
	next := w.services[key].DeepCopy()
	next.Status.LoadBalancer.Ingress = ingress
	w.services[key] = next
	return nil
}

func (w *town) Record(o runtime.Object, kind, reason, message string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, fmt.Sprint(o.(metav1.Object).GetName(), " ", kind, " ", reason, ": ", message))
}

// put makes, changes or (with nil) removes a Service.
func (w *town) put(name string, s *corev1.Service) {
	key := loop.Key{Namespace: "default", Name: name}
	w.mu.Lock()
	was := w.services[key]
	if delete(w.services, key); s != nil {
		if was != nil {
			s.Status = was.Status
		}
		w.services[key] = s
	}
	w.mu.Unlock()
	w.c.ServiceChanged(key, was, s)
}

func (w *town) addNode(name, ip string) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}}
	w.mu.Lock()
	w.nodes = append(slices.Clone(w.nodes), n)
	w.mu.Unlock()
	w.c.GroundChanged()
}

func TestController(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &town{services: map[loop.Key]*corev1.Service{}}
		w.c = New(Config{}, w, w, w, nil, nil)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go func() { _ = w.c.Run(ctx) }()
		expect := func(what, services string, told ...string) {
			t.Helper()
			synctest.Wait() // no time passes: nothing here waits for a timer
			w.mu.Lock()
			defer w.mu.Unlock()
			var all []string
			for key, s := range w.services {
				all = append(all, fmt.Sprint(key.Name, ClaimOf(s).Has))
			}
			slices.Sort(all)
			if got := strings.Join(all, " "); got != services {
				t.Errorf("%s: got %s, want %s", what, got, services)
			}
			if !slices.EqualFunc(w.told, told, func(got, want string) bool { return strings.HasPrefix(got, want) }) {
				t.Errorf("%s: told\n%s\nwant\n%s", what, strings.Join(w.told, "\n"), strings.Join(told, "\n"))
			}
			w.told = nil
		}
		w.put("a", svc("a", 3, "80"))
		expect("there is no node", "a[]", "a Normal EnsuringLoadBalancer: Ensuring load balancer", "a Warning UnAvailableLoadBalancer: There are no available nodes for LoadBalancer")
		w.addNode("n1", "192.0.2.1")
		expect("there is one", "a[192.0.2.1]", "a Normal EnsuringLoadBalancer", "a Normal EnsuredLoadBalancer: Ensured load balancer")
		w.addNode("n2", "192.0.2.2")
		expect("there are two", "a[192.0.2.1 192.0.2.2]", "a Normal EnsuringLoadBalancer", "a Normal EnsuredLoadBalancer: Ensured load balancer")
		w.put("b", svc("b", 2, "80"))
		expect("the port is taken", "a[192.0.2.1 192.0.2.2] b[]", "b Normal EnsuringLoadBalancer", "b Warning SyncLoadBalancerFailed: Error syncing load balancer: failed to ensure load balancer: port 80/TCP of the nodes' addresses is in use by Service default/a")
		w.put("b", svc("b", 2, "80"))
		writes := w.writes
		w.c.GroundChanged()
		expect("nothing is new, so nothing is told or written", "a[192.0.2.1 192.0.2.2] b[]")
		if w.writes != writes {
			t.Error("what was as it shall be was written again")
		}
		w.fail = 1
		w.put("a", nil)
		synctest.Wait()
		w.mu.Lock()
		w.told = nil
		w.mu.Unlock()
		if err := w.c.Reconcile(ctx, loop.Key{Namespace: "default", Name: "b"}); err != nil {
			t.Error(err)
		}
		expect("a write that failed is made again", "b[192.0.2.1 192.0.2.2]", "b Normal EnsuringLoadBalancer", "b Normal EnsuredLoadBalancer")

		foreign := svc("c", 1, "81 has=198.51.100.1")
		foreign.Spec.LoadBalancerClass = new("example.com/cloud")
		w.put("c", foreign)
		expect("another class is left alone", "b[192.0.2.1 192.0.2.2] c[198.51.100.1]")
		foreign = foreign.DeepCopy()
		foreign.Spec.Type, foreign.Spec.LoadBalancerClass = corev1.ServiceTypeClusterIP, nil
		w.put("c", foreign)
		expect("its status too, when it changes its type", "b[192.0.2.1 192.0.2.2] c[198.51.100.1]")

		plain := svc("b", 2, "80")
		plain.Spec.Type = corev1.ServiceTypeNodePort
		w.put("b", plain)
		expect("another type", "b[] c[198.51.100.1]", "b Normal Type: LoadBalancer -> NodePort", "b Normal DeletingLoadBalancer: Deleting load balancer", "b Normal DeletedLoadBalancer: Deleted load balancer")
		w.put("b", svc("b", 2, "80"))
		expect("and back", "b[192.0.2.1 192.0.2.2] c[198.51.100.1]", "b Normal Type: NodePort -> LoadBalancer", "b Normal EnsuringLoadBalancer", "b Normal EnsuredLoadBalancer")

		set := func(data map[string]string) {
			w.mu.Lock()
			w.settings = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: Name}, Data: data}
			w.mu.Unlock()
			w.c.GroundChanged()
		}
		set(map[string]string{"pools": "192.0.2.8/30"})
		expect("a pool", "b[192.0.2.8] c[198.51.100.1]", "b Normal EnsuringLoadBalancer", "b Normal EnsuredLoadBalancer")
		set(map[string]string{"pools": "192.0.2.8/29,x"})
		expect("a bad pool", "b[192.0.2.8] c[198.51.100.1]", `sampan-load-balancer Warning InvalidLoadBalancerSettings: The former settings stay: key "pools": load balancer pool "x": not an address`)
		w.c.GroundChanged()
		expect("which is told once", "b[192.0.2.8] c[198.51.100.1]")
	})
}

func TestWhatIsLeftOverFromAnotherTypeGoesAtTheStart(t *testing.T) {
	left, held := svc("left", 1, "80 has=192.0.2.1"), svc("held", 1, "80 has=192.0.2.1")
	for _, s := range []*corev1.Service{left, held} {
		s.Spec.Type = corev1.ServiceTypeClusterIP
	}
	held.Finalizers = []string{cleanup}
	w := &town{services: map[loop.Key]*corev1.Service{}}
	synctest.Test(t, func(t *testing.T) {
		w.c = New(Config{}, w, w, w, nil, nil)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		w.put("left", left)
		w.put("held", held)
		go func() { _ = w.c.Run(ctx) }()
		synctest.Wait()
		if got := ClaimOf(w.services[loop.Key{Namespace: "default", Name: "left"}]).Has; len(got) > 0 {
			t.Errorf("it still has %v", got)
		}
		if got := ClaimOf(w.services[loop.Key{Namespace: "default", Name: "held"}]).Has; len(got) != 1 {
			t.Errorf("what another controller cares for was changed: %v", got)
		}
	})
}

// BenchmarkOneOfMany changes one of 5,000 Services.
func BenchmarkOneOfMany(b *testing.B) {
	book := NewBook(Ground{Pools: pools("10.0.0.0/16")})
	var all []*Claim
	for i := range 5000 {
		all = append(all, ClaimOf(svc(fmt.Sprint("s", i), i, "80")))
		book.Decide(all[i], onN1)
	}
	for i := 0; b.Loop(); i++ {
		book.Remove(all[i%5000].Key)
		book.Decide(all[i%5000], onN1)
	}
}
