package inprocess

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/controller/loadbalancer"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/registry"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/kinds"
	"sampan.dev/internal/store/local"
)

func TestBalancedServicesAndNodesAreSeen(t *testing.T) {
	st, err := local.Open(t.TempDir(), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	table, log := kinds.Table(), slog.New(slog.DiscardHandler)
	c := cache.New(table, st, log)
	r := registry.New(registry.Config{Table: table, Store: st, Cache: c, Log: log})
	b := NewBalanced(table, c, loadbalancer.Config{Announce: true})
	marks, nodes := make(chan loop.Key, 100), make(chan string, 100)
	b.OnService(func(key loop.Key) { marks <- key })
	b.OnNode(func(name string) { nodes <- name })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; _ = st.Close() })
	<-b.Ready()

	kind := func(group, name string) *resource.Kind {
		k, _ := table.ByResource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: name})
		return k
	}
	put := func(k *resource.Kind, sub string, o resource.Object) {
		t.Helper()
		if sub == "" {
			if _, err := r.Create(ctx, k, o, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		} else if _, _, err := r.Update(ctx, k, sub, o.GetNamespace(), o.GetName(), func(resource.Object) (resource.Object, error) { return o, nil }, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := c.Wait(ctx, st.Revision()); err != nil {
			t.Fatal(err)
		}
	}
	web := loop.Key{Namespace: "default", Name: "web"}
	expect := func(what, want string) {
		t.Helper()
		if key := <-marks; key != web {
			t.Errorf("%s: %v is marked", what, key)
		}
		if w := b.Service(web); fmt.Sprint(w.Addresses, w.Nodes) != want {
			t.Errorf("%s: got %v %v, want %s", what, w.Addresses, w.Nodes, want)
		}
	}
	service := func() *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ClusterIP: "10.96.0.7", ClusterIPs: []string{"10.96.0.7"}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal, HealthCheckNodePort: 30001, Ports: []corev1.ServicePort{{Port: 80, NodePort: 30000}},
			IPFamilyPolicy: new(corev1.IPFamilyPolicySingleStack), SessionAffinity: corev1.ServiceAffinityNone,
		}}
	}
	put(kind("", "services"), "", service())
	expect("it has no address yet", "[] map[]")
	s := service()
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.9", IPMode: new(corev1.LoadBalancerIPModeVIP)}}
	put(kind("", "services"), "status", s)
	expect("it has one", "[192.0.2.9] map[]")
	node, ready := "n1", true
	put(kind("discovery.k8s.io", "endpointslices"), "", &discovery.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-x", Labels: map[string]string{discovery.LabelServiceName: "web"}}, AddressType: discovery.AddressTypeIPv4,
		Endpoints: []discovery.Endpoint{{Addresses: []string{"10.0.0.1"}, NodeName: &node, Conditions: discovery.EndpointConditions{Ready: &ready}}},
	})
	expect("a pod of it is ready", "[192.0.2.9] map[n1:true]")
	put(kind("", "configmaps"), "", &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: loadbalancer.Namespace, Name: loadbalancer.Name}, Data: map[string]string{"announce": "none"}})
	expect("nothing is to be announced", "[] map[]")

	put(kind("", "nodes"), "", &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	<-nodes
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}
	put(kind("", "nodes"), "status", n)
	<-nodes
	now := metav1.NowMicro()
	put(kind("coordination.k8s.io", "leases"), "", &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: "n1"}, Spec: coordinationv1.LeaseSpec{RenewTime: &now, LeaseDurationSeconds: new(int32(40))},
	})
	if name := <-nodes; name != "n1" {
		t.Errorf("the lease marks %q", name)
	}
	got, there := b.Node("n1")
	if !there || !got.Serves || got.Lease.Seconds() != 40 || !got.Renewed.Equal(now.Time.Truncate(time.Microsecond)) || fmt.Sprint(got.Addresses) != "[192.0.2.1]" {
		t.Errorf("got %+v", got)
	}
	if _, there := b.Node("n2"); there || fmt.Sprint(b.Nodes(), b.Services()) != "[n1] [default/web]" {
		t.Errorf("nodes %v, services %v", b.Nodes(), b.Services())
	}
}
