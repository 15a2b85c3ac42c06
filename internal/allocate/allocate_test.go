package allocate_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sampan.dev/internal/allocate"
	"sampan.dev/internal/cache"
	"sampan.dev/internal/registry"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/kinds"
	"sampan.dev/internal/store"
	"sampan.dev/internal/store/local"
)

// world is a registry on a store of its own, with few addresses and few ports.
type world struct {
	*testing.T
	table    *resource.Table
	store    *local.Store
	cache    *cache.Cache
	alloc    *allocate.Services
	registry *registry.Registry

	services, addresses *resource.Kind
}

var few = allocate.PortRange{First: 30000, Last: 30039}

func start(t *testing.T, ranges ...string) *world {
	t.Helper()
	w := &world{T: t, table: kinds.Table()}
	st, err := local.Open(t.TempDir(), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w.store = st
	w.cache = cache.New(w.table, st, slog.New(slog.DiscardHandler))
	w.services = w.kind(corev1.SchemeGroupVersion.WithKind("Service"))
	w.addresses = w.kind(networking.SchemeGroupVersion.WithKind("IPAddress"))
	var prefixes []netip.Prefix
	for _, r := range ranges {
		prefixes = append(prefixes, netip.MustParsePrefix(r))
	}
	w.alloc = allocate.New(allocate.Config{Table: w.table, Cache: w.cache, Store: st, Ranges: prefixes, NodePorts: few})
	w.registry = registry.New(registry.Config{Table: w.table, Store: st, Cache: w.cache, Allocate: map[*resource.Kind]registry.Allocator{w.services: w.alloc}, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.cache.Run(ctx) }()
	<-w.cache.Ready()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) kind(gvk schema.GroupVersionKind) *resource.Kind {
	k, _ := w.table.ByKind(gvk)
	if k == nil {
		w.Fatalf("there is no %v", gvk)
	}
	return k
}

// service has one port, and what the functions say.
func service(name string, change ...func(*corev1.ServiceSpec)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}},
	}
	for _, f := range change {
		f(&s.Spec)
	}
	return s
}

func nodePort(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort }

func (w *world) create(s *corev1.Service, dryRun ...string) (*corev1.Service, error) {
	o, err := w.registry.Create(context.Background(), w.services, s, metav1.CreateOptions{DryRun: dryRun})
	if err != nil {
		return nil, err
	}
	return o.(*corev1.Service), nil
}

func (w *world) must(s *corev1.Service) *corev1.Service {
	w.Helper()
	made, err := w.create(s)
	if err != nil {
		w.Fatal(err)
	}
	return made
}

func (w *world) update(name string, change func(*corev1.ServiceSpec)) (*corev1.Service, error) {
	o, _, err := w.registry.Update(context.Background(), w.services, "", "default", name, func(o resource.Object) (resource.Object, error) {
		next := o.DeepCopyObject().(*corev1.Service)
		change(&next.Spec)
		return next, nil
	}, metav1.UpdateOptions{})
	if err != nil {
		return nil, err
	}
	return o.(*corev1.Service), nil
}

func (w *world) remove(name string) {
	w.Helper()
	if _, _, err := w.registry.Delete(context.Background(), w.services, "default", name, metav1.DeleteOptions{}); err != nil {
		w.Fatal(err)
	}
}

// taken names the IPAddresses with the Services that they are of.
func (w *world) taken() map[string]string {
	w.Helper()
	if err := w.cache.Wait(context.Background(), w.store.Revision()); err != nil {
		w.Fatal(err)
	}
	all := map[string]string{}
	for o := range w.cache.Snapshot().List(w.addresses, cache.Selection{}) {
		ip := cache.Typed[*networking.IPAddress](o)
		all[ip.Name] = ip.Spec.ParentRef.Name
	}
	return all
}

// ports says how many node ports the store calls taken.
func (w *world) ports() (n int) {
	w.Helper()
	rec, err := w.store.Get(context.Background(), "/registry/ranges/servicenodeports")
	if err != nil {
		return 0
	}
	obj, err := w.table.Decode(rec.Value)
	if err != nil {
		w.Fatal(err)
	}
	for _, b := range obj.(*corev1.RangeAllocation).Data {
		for ; b != 0; b &= b - 1 {
			n++
		}
	}
	return n
}

func TestManyAtOnceGetAddressesAndPortsOfTheirOwn(t *testing.T) {
	w := start(t, "10.96.0.0/26") // 62 addresses, 40 ports
	var wg sync.WaitGroup
	made, errs := make([]*corev1.Service, 50), make([]error, 50)
	for i := range made {
		wg.Go(func() { made[i], errs[i] = w.create(service(fmt.Sprint("s", i), nodePort)) })
	}
	wg.Wait()
	ips, ports, refused := map[string]bool{}, map[int32]bool{}, 0
	for i, s := range made {
		if errs[i] != nil {
			if !strings.Contains(errs[i].Error(), "failed to allocate a nodePort: range is full") {
				t.Error(errs[i])
			}
			refused++
			continue
		}
		if ips[s.Spec.ClusterIP] || ports[s.Spec.Ports[0].NodePort] {
			t.Errorf("%s has %s and %d, which another has as well", s.Name, s.Spec.ClusterIP, s.Spec.Ports[0].NodePort)
		}
		ips[s.Spec.ClusterIP], ports[s.Spec.Ports[0].NodePort] = true, true
		if owner := w.taken()[s.Spec.ClusterIP]; owner != s.Name {
			t.Errorf("the IPAddress %s is of %q, not of %s", s.Spec.ClusterIP, owner, s.Name)
		}
	}
	if refused != 10 || len(w.taken()) != 40 || w.ports() != 40 {
		t.Errorf("%d were refused, %d addresses and %d ports are taken; wanted 10, 40 and 40", refused, len(w.taken()), w.ports())
	}
	for i := range made {
		if errs[i] == nil {
			w.remove(made[i].Name)
		}
	}
	if len(w.taken()) != 0 || w.ports() != 0 {
		t.Errorf("of Services that are gone %d addresses and %d ports are taken", len(w.taken()), w.ports())
	}
}

func TestWhatCannotBeHadIsRefusedInKubernetesWords(t *testing.T) {
	w := start(t, "10.96.0.0/24")
	ip := func(text string) func(*corev1.ServiceSpec) {
		return func(s *corev1.ServiceSpec) { s.ClusterIP = text }
	}
	port := func(n int32) func(*corev1.ServiceSpec) {
		return func(s *corev1.ServiceSpec) { nodePort(s); s.Ports[0].NodePort = n }
	}
	w.must(service("first", ip("10.96.0.7"), port(30007)))
	for name, c := range map[string]struct {
		with func(*corev1.ServiceSpec)
		want string
	}{
		"an address that is taken":        {ip("10.96.0.7"), `Service "bad" is invalid: spec.clusterIPs: Invalid value: ["10.96.0.7"]: failed to allocate IP 10.96.0.7: provided IP is already allocated`},
		"an address of another range":     {ip("10.97.0.7"), `Service "bad" is invalid: spec.clusterIPs: Invalid value: ["10.97.0.7"]: failed to allocate IP 10.97.0.7: the provided network does not match the current range`},
		"the network's own address":       {ip("10.96.0.0"), `Service "bad" is invalid: spec.clusterIPs: Invalid value: ["10.96.0.0"]: failed to allocate IP 10.96.0.0: the provided IP (10.96.0.0) is not in the valid range. The range of valid IPs is 10.96.0.0/24`},
		"the broadcast address":           {ip("10.96.0.255"), `Service "bad" is invalid: spec.clusterIPs: Invalid value: ["10.96.0.255"]: failed to allocate IP 10.96.0.255: the provided IP (10.96.0.255) is not in the valid range. The range of valid IPs is 10.96.0.0/24`},
		"a port that is taken":            {port(30007), `Service "bad" is invalid: spec.ports[0].nodePort: Invalid value: 30007: provided port is already allocated`},
		"a port outside of the range":     {port(80), `Service "bad" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-30039`},
		"a family that the cluster lacks": {func(s *corev1.ServiceSpec) { s.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol} }, `Service "bad" is invalid: spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster`},
		"what is no address":              {ip("ten"), `Service "bad" is invalid: spec.clusterIPs[0]: Invalid value: "ten": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := w.create(service("bad", c.with)); err == nil || err.Error() != c.want {
				t.Errorf("it says %v\n wanted %s", err, c.want)
			}
			if len(w.taken()) != 1 || w.ports() != 1 {
				t.Errorf("after a refusal %v and %d ports are taken", w.taken(), w.ports())
			}
		})
	}
}

func TestAChangeOfTypeTakesAndGivesBack(t *testing.T) {
	w := start(t, "10.96.0.0/24")
	made := w.must(service("web"))
	s, err := w.update("web", nodePort)
	if err != nil || s.Spec.Ports[0].NodePort == 0 || s.Spec.ClusterIP != made.Spec.ClusterIP || w.ports() != 1 {
		t.Fatalf("as NodePort it is %+v, %v; %d ports are taken", s, err, w.ports())
	}
	port := s.Spec.Ports[0].NodePort
	s, err = w.update("web", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeLoadBalancer })
	if err != nil || s.Spec.Ports[0].NodePort != port || w.ports() != 1 {
		t.Errorf("as LoadBalancer it is %+v, %v; %d ports are taken", s, err, w.ports())
	}
	s, err = w.update("web", func(s *corev1.ServiceSpec) {
		s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	})
	if err != nil || s.Spec.HealthCheckNodePort == 0 || w.ports() != 2 {
		t.Errorf("with policy Local it is %+v, %v; %d ports are taken", s, err, w.ports())
	}
	s, err = w.update("web", func(s *corev1.ServiceSpec) {
		s.Type = corev1.ServiceTypeClusterIP
		s.ExternalTrafficPolicy = ""
	})
	if err != nil || s.Spec.Ports[0].NodePort != 0 || s.Spec.HealthCheckNodePort != 0 || w.ports() != 0 {
		t.Errorf("as ClusterIP again it is %+v, %v; %d ports are taken", s, err, w.ports())
	}
	s, err = w.update("web", func(s *corev1.ServiceSpec) {
		s.Type, s.ExternalName = corev1.ServiceTypeExternalName, "example.com"
		s.ClusterIP, s.ClusterIPs = "", nil
	})
	if err != nil || s.Spec.ClusterIP != "" || len(w.taken()) != 0 {
		t.Errorf("as ExternalName it is %+v, %v; taken are %v", s, err, w.taken())
	}
	s, err = w.update("web", func(s *corev1.ServiceSpec) { s.Type, s.ExternalName = corev1.ServiceTypeClusterIP, "" })
	if err != nil || w.taken()[s.Spec.ClusterIP] != "web" {
		t.Errorf("as ClusterIP once more it is %+v, %v; taken are %v", s, err, w.taken())
	}
	if _, err = w.update("web", func(s *corev1.ServiceSpec) { s.ClusterIP, s.ClusterIPs = "10.96.0.9", []string{"10.96.0.9"} }); err == nil || !strings.Contains(err.Error(), "spec.clusterIPs[0]: Invalid value: [\"10.96.0.9\"]: may not change once set") {
		t.Errorf("another address: %v", err)
	}
}

func TestADryRunTakesNothing(t *testing.T) {
	w := start(t, "10.96.0.0/24")
	s, err := w.create(service("web", nodePort), metav1.DryRunAll)
	if err != nil || s.Spec.ClusterIP == "" || s.Spec.Ports[0].NodePort == 0 {
		t.Errorf("a dry run says %+v, %v", s, err)
	}
	if len(w.taken()) != 0 || w.ports() != 0 {
		t.Errorf("it took %v and %d ports", w.taken(), w.ports())
	}
}

func TestPortsOfOneNumberShareANodePort(t *testing.T) {
	w := start(t, "10.96.0.0/24")
	s := w.must(service("dns", nodePort, func(s *corev1.ServiceSpec) {
		s.Ports = []corev1.ServicePort{
			{Name: "udp", Port: 53, Protocol: corev1.ProtocolUDP}, {Name: "tcp", Port: 53, Protocol: corev1.ProtocolTCP}, {Name: "metrics", Port: 9153, Protocol: corev1.ProtocolTCP},
		}
	}))
	p := s.Spec.Ports
	if p[0].NodePort == 0 || p[0].NodePort != p[1].NodePort || p[2].NodePort == p[0].NodePort || w.ports() != 2 {
		t.Errorf("the ports are %+v", p)
	}
}

func TestBothFamilies(t *testing.T) {
	w := start(t, "10.96.0.0/24", "fd00::/112")
	policy := corev1.IPFamilyPolicyRequireDualStack
	s := w.must(service("both", func(s *corev1.ServiceSpec) { s.IPFamilyPolicy = &policy }))
	if len(s.Spec.ClusterIPs) != 2 || len(w.taken()) != 2 {
		t.Fatalf("it has %v; taken are %v", s.Spec.ClusterIPs, w.taken())
	}
	single := corev1.IPFamilyPolicySingleStack
	if s, err := w.update("both", func(s *corev1.ServiceSpec) { s.IPFamilyPolicy = &single }); err != nil || len(s.Spec.ClusterIPs) != 1 || len(w.taken()) != 1 {
		t.Errorf("of one family it has %+v, %v; taken are %v", s, err, w.taken())
	}
}

func TestRepair(t *testing.T) {
	w := start(t, "10.96.0.0/24")
	ctx := t.Context()
	kept := w.must(service("kept", nodePort))
	robbed := w.must(service("robbed", nodePort))
	lost := w.must(service("lost", nodePort))
	// A server of another version, or a hand, has dropped a Service without what it had, an address without its Service, and all ports.
	for _, key := range []string{w.services.Key("default", "lost"), w.addresses.Key("", robbed.Spec.ClusterIP), "/registry/ranges/servicenodeports"} {
		rec, err := w.store.Get(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.store.Apply(ctx, store.Write{Key: key, Expect: rec.Revision}); err != nil {
			t.Fatal(err)
		}
	}
	w.taken()
	if n, err := w.alloc.Repair(ctx); err != nil || n != 4 {
		t.Errorf("repair mended %d, %v; wanted 4: an address too many, one too few, two ports", n, err)
	}
	got := w.taken()
	if len(got) != 2 || got[kept.Spec.ClusterIP] != "kept" || got[robbed.Spec.ClusterIP] != "robbed" || got[lost.Spec.ClusterIP] != "" || w.ports() != 2 {
		t.Errorf("taken are %v and %d ports", got, w.ports())
	}
	if n, err := w.alloc.Repair(ctx); err != nil || n != 0 {
		t.Errorf("a second repair mended %d, %v", n, err)
	}
}

func TestTheUpperBandIsUsedFirst(t *testing.T) {
	w := start(t, "10.96.0.0/24") // the lower 16 are left to those who ask by number
	for i := range 100 {
		s := w.must(service(fmt.Sprint("s", i)))
		if ip := netip.MustParseAddr(s.Spec.ClusterIP); !netip.MustParseAddr("10.96.0.16").Less(ip) {
			t.Errorf("%s was drawn, which is of the lower band", ip)
		}
	}
}
