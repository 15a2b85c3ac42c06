//lint:file-ignore SA1019 Endpoints are deprecated, and still served and read

package endpoints

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"sampan.dev/internal/loop"
)

type change func(*corev1.Service)

func newService(changes ...change) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "svc", Labels: map[string]string{"team": "a"}},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "web"}, ClusterIP: "10.96.0.1", IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(8080)}},
		},
	}
	for _, f := range changes {
		f(s)
	}
	return s
}

func headless(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone }
func portless(s *corev1.Service) { s.Spec.Ports = nil }
func publish(s *corev1.Service)  { s.Spec.PublishNotReadyAddresses = true }
func named(s *corev1.Service)    { s.Spec.Ports[0].TargetPort = intstr.FromString("http") }
func twoPorts(s *corev1.Service) {
	s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(53)})
}

func families(f ...corev1.IPFamily) change {
	return func(s *corev1.Service) { s.Spec.IPFamilies = f }
}

func newPod(n int, changes ...func(*corev1.Pod)) *corev1.Pod {
	name := fmt.Sprint("p", n)
	ip := fmt.Sprintf("10.0.%d.%d", n/250, n%250+1)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 3000, Protocol: corev1.ProtocolTCP}}}}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}, {IP: fmt.Sprintf("fd00::%x", n+1)}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
	for _, f := range changes {
		f(p)
	}
	return p
}

func pods(n int, changes ...func(*corev1.Pod)) (all []*corev1.Pod) {
	for i := range n {
		all = append(all, newPod(i, changes...))
	}
	return all
}

func unready(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }
func going(p *corev1.Pod)   { p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }
func hosted(p *corev1.Pod)  { p.Spec.Hostname, p.Spec.Subdomain = "h", "web" }
func sixFirst(p *corev1.Pod) {
	slices.Reverse(p.Status.PodIPs)
	p.Status.PodIP = p.Status.PodIPs[0].IP
}

func port(n int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].ContainerPort = n }
}

func words(e *corev1.Endpoints) string {
	var all []string
	for _, s := range e.Subsets {
		var b strings.Builder
		for i, list := range [][]corev1.EndpointAddress{s.Addresses, s.NotReadyAddresses} {
			for j, a := range list {
				if j == 0 {
					b.WriteString([]string{"ready", " not"}[i])
				}
				if len(list) > 8 {
					fmt.Fprintf(&b, " %d", len(list))
					break
				}
				fmt.Fprintf(&b, " %s", a.IP)
				if a.Hostname != "" {
					b.WriteString("@" + a.Hostname)
				}
			}
		}
		for _, p := range s.Ports {
			fmt.Fprintf(&b, " %s:%d/%s", p.Name, p.Port, p.Protocol)
		}
		all = append(all, b.String())
	}
	return strings.Join(all, "; ")
}

func TestDecide(t *testing.T) {
	for name, c := range map[string]struct {
		service *corev1.Service
		pods    []*corev1.Pod
		want    string
	}{
		"no pods: an object without subsets":              {newService(), nil, ""},
		"one pod":                                         {newService(), pods(1), "ready 10.0.0.1 http:8080/TCP"},
		"one is not ready":                                {newService(), append(pods(1), newPod(1, unready)), "ready 10.0.0.1 not 10.0.0.2 http:8080/TCP"},
		"one that is going is not there":                  {newService(), append(pods(1), newPod(1, going)), "ready 10.0.0.1 http:8080/TCP"},
		"all are ready if readiness does not count":       {newService(publish), pods(2, unready, going), "ready 10.0.0.1 10.0.0.2 http:8080/TCP"},
		"two ports of the same addresses":                 {newService(twoPorts), pods(2), "ready 10.0.0.1 10.0.0.2 dns:53/UDP http:8080/TCP"},
		"names of ports are each pod's own":               {newService(named), []*corev1.Pod{newPod(0), newPod(1, port(4000))}, "ready 10.0.0.2 http:4000/TCP; ready 10.0.0.1 http:3000/TCP"},
		"headless, with a hostname":                       {newService(headless), pods(1, hosted), "ready 10.0.0.1@h http:8080/TCP"},
		"headless, without ports":                         {newService(headless, portless), pods(2), "ready 10.0.0.1 10.0.0.2"},
		"an address and no ports":                         {newService(portless), pods(2), ""},
		"the first family":                                {newService(families("IPv6", "IPv4")), pods(1), "ready fd00::1 http:8080/TCP"},
		"a pod without an address of the family":          {newService(families("IPv6")), pods(1, func(p *corev1.Pod) { p.Status.PodIPs = p.Status.PodIPs[:1] }), ""},
		"headless, of no family: the pod's first":         {newService(headless, families()), pods(1, sixFirst), "ready fd00::1 http:8080/TCP"},
		"too many: those that are ready come first":       {newService(), append(pods(990), pods(1100, unready)[990:]...), "ready 990 not 10 http:8080/TCP"},
		"too many that are ready: nobody else":            {newService(), append(pods(1100), newPod(1200, unready)), "ready 1000 http:8080/TCP"},
		"too many of two kinds: each has its share of it": {newService(named), append(pods(600), pods(1200, port(4000))[600:]...), "ready 500 http:3000/TCP; ready 500 http:4000/TCP"},
	} {
		t.Run(name, func(t *testing.T) {
			p := Decide(c.service, c.pods, nil)
			if p.Create == nil || p.Update != nil {
				t.Fatalf("%+v", p)
			}
			if got := words(p.Create); got != c.want && sorted(got) != sorted(c.want) {
				t.Errorf("%s\nwant %s", got, c.want)
			}
			if over := p.Create.Annotations[corev1.EndpointsOverCapacity]; (over == "truncated") != strings.HasPrefix(name, "too many") {
				t.Errorf("over capacity: %q", over)
			}
			if again := Decide(c.service, c.pods, p.Create); again.Create != nil || again.Update != nil {
				t.Errorf("and then %+v", again)
			}
		})
	}
}

// sorted puts subsets into an order for comparison; theirs is that of their hashes.
func sorted(s string) string {
	all := strings.Split(s, "; ")
	slices.Sort(all)
	return strings.Join(all, "; ")
}

func TestEndpointsLookAsUpstreams(t *testing.T) {
	e := Decide(newService(headless), pods(1), nil).Create
	labels := map[string]string{"team": "a", "endpoints.kubernetes.io/managed-by": "endpoint-controller", "service.kubernetes.io/headless": ""}
	if e.Namespace != "ns" || e.Name != "web" || fmt.Sprint(e.Labels) != fmt.Sprint(labels) {
		t.Errorf("%+v", e.ObjectMeta)
	}
	a := e.Subsets[0].Addresses[0]
	if *a.NodeName != "n1" || *a.TargetRef != (corev1.ObjectReference{Kind: "Pod", Namespace: "ns", Name: "p0", UID: "p0"}) {
		t.Errorf("%+v", a)
	}
}

// From whatever was there, one plan makes it what a fresh start would, and none is planned after it.
func TestFromAnyEndpointsAPlanReachesWhatIsWanted(t *testing.T) {
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 6))
		random := func() (*corev1.Service, []*corev1.Pod) {
			plain := func(*corev1.Service) {}
			s := newService([]change{plain, headless, publish, twoPorts}[r.IntN(4)], []change{plain, named, families("IPv6")}[r.IntN(3)], []change{plain, portless}[r.IntN(2)])
			if r.IntN(3) == 0 {
				s.Labels = map[string]string{"team": "b", LabelManagedBy: "me", corev1.IsHeadlessService: "x"}
			}
			var all []*corev1.Pod
			for n := range []int{2, 40, 1300}[r.IntN(3)] {
				all = append(all, newPod(n, []func(*corev1.Pod){func(*corev1.Pod) {}, unready, going, port(4000), hosted}[r.IntN(5)]))
			}
			return s, all
		}
		before := Decide(first(random())).Create
		switch r.IntN(4) {
		case 0:
			before.Annotations = map[string]string{corev1.EndpointsOverCapacity: "warning", "mine": "yes"}
		case 1:
			before.Labels = nil
		}
		for i := range before.Subsets {
			for j := range before.Subsets[i].Addresses {
				before.Subsets[i].Addresses[j].TargetRef.ResourceVersion = "5"
			}
		}
		was := before.DeepCopy()
		service, all := random()
		p := Decide(service, all, before)
		if p.Create != nil || before.String() != was.String() {
			t.Fatalf("seed %d: it creates, or changed what it was given", seed)
		}
		after := before
		if p.Update != nil {
			after = p.Update
		}
		if after.Annotations["mine"] != before.Annotations["mine"] {
			t.Errorf("seed %d: annotations are lost: %v", seed, after.Annotations)
		}
		want := Decide(service, all, nil).Create
		if words(after) != words(want) || after.Labels[LabelManagedBy] != ManagedBy || after.Annotations[corev1.EndpointsOverCapacity] != want.Annotations[corev1.EndpointsOverCapacity] {
			t.Fatalf("seed %d: %s\nwant %s", seed, words(after), words(want))
		}
		if p = Decide(service, all, after); p.Create != nil || p.Update != nil {
			t.Fatalf("seed %d: and then %v", seed, p)
		}
		count := 0
		for _, s := range after.Subsets {
			count += len(s.Addresses) + len(s.NotReadyAddresses)
		}
		if count > Capacity {
			t.Fatalf("seed %d: %d addresses", seed, count)
		}
	}
}

func first(s *corev1.Service, p []*corev1.Pod) (*corev1.Service, []*corev1.Pod, *corev1.Endpoints) {
	return s, p, nil
}

// fake is an API with one name. What is written shows at once.
type fake struct {
	mu     sync.Mutex
	scene  Scene
	did    []string
	refuse []error // answers to the next writes
}

func (f *fake) Scene(loop.Key) Scene {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.scene
}

func (f *fake) write(verb string, e *corev1.Endpoints) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.refuse) > 0 {
		err := f.refuse[0]
		f.refuse = f.refuse[1:]
		return err
	}
	f.did, f.scene.Endpoints = append(f.did, verb), e
	return nil
}

func (f *fake) Create(_ context.Context, e *corev1.Endpoints) error { return f.write("create", e) }
func (f *fake) Update(_ context.Context, e *corev1.Endpoints) error { return f.write("update", e) }
func (f *fake) Delete(context.Context, *corev1.Endpoints) error     { return f.write("delete", nil) }
func (f *fake) Shown(context.Context) error                         { return nil }

func (f *fake) Record(_ runtime.Object, kind, reason, message string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.did = append(f.did, kind+" "+reason+" "+message)
}

func TestController(t *testing.T) {
	r := corev1.Resource("endpoints")
	ending := apierrors.NewForbidden(r, "web", errors.New("it is being terminated"))
	ending.ErrStatus.Details.Causes = append(ending.ErrStatus.Details.Causes, metav1.StatusCause{Type: corev1.NamespaceTerminatingCause})
	there := func() *corev1.Endpoints {
		return &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}}
	}
	for name, c := range map[string]struct {
		scene  Scene
		refuse []error
		want   []string
	}{
		"a new Service":                                 {Scene{Service: newService()}, nil, []string{"create"}},
		"one whose Endpoints are wrong":                 {Scene{Service: newService(), Endpoints: there()}, nil, []string{"update"}},
		"a Service that is gone":                        {Scene{Endpoints: there()}, nil, []string{"delete"}},
		"one that is gone with all it had":              {Scene{}, nil, nil},
		"without selector they are somebody else's":     {Scene{Service: newService(func(s *corev1.Service) { s.Spec.Selector = nil }), Endpoints: there()}, nil, nil},
		"a name elsewhere has none":                     {Scene{Service: newService(func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName })}, nil, nil},
		"a namespace that ends gets no more":            {Scene{Service: newService()}, []error{ending}, nil},
		"somebody else has written: it is looked again": {Scene{Service: newService(), Endpoints: there()}, []error{apierrors.NewConflict(r, "web", nil), apierrors.NewNotFound(r, "web")}, []string{"update"}},
		"somebody else has made them meanwhile":         {Scene{Service: newService()}, []error{apierrors.NewAlreadyExists(r, "web")}, []string{"create"}},
		"a failure is told and tried again":             {Scene{Service: newService()}, []error{errors.New("no room")}, []string{"Warning FailedToCreateEndpoint Failed to create endpoint for service ns/web: no room", "create"}},
		"so is one of an update":                        {Scene{Service: newService(), Endpoints: there()}, []error{errors.New("no room")}, []string{"Warning FailedToUpdateEndpoint Failed to update endpoint ns/web: no room", "update"}},
		"one that is gone is deleted until it is":       {Scene{Endpoints: there()}, []error{errors.New("no"), apierrors.NewNotFound(r, "web")}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{scene: c.scene, refuse: c.refuse}
				ctl := New(f, f, f, nil, nil)
				ctx, stop := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- ctl.Run(ctx) }()
				ctl.Mark(loop.Key{Namespace: "ns", Name: "web"})
				time.Sleep(time.Second)
				synctest.Wait()
				stop()
				if err := <-done; err != nil {
					t.Error(err)
				}
				if !slices.Equal(f.did, c.want) || len(f.refuse) > 0 {
					t.Errorf("%v, %v left\nwant %v", f.did, f.refuse, c.want)
				}
			})
		})
	}
}

func BenchmarkOneChangeOf100(b *testing.B) {
	service, all := newService(), pods(100)
	current := Decide(service, all, nil).Create
	all[50] = newPod(50, unready)
	b.ReportAllocs()
	for b.Loop() {
		if p := Decide(service, all, current); p.Update == nil {
			b.Fatal(p)
		}
	}
}
