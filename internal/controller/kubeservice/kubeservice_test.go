//lint:file-ignore SA1019 Endpoints are deprecated, and still served and read

package kubeservice

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource"
)

// shelf is objects by kind and name.
type shelf map[string]resource.Object

func (s shelf) Get(kind, namespace, name string) resource.Object {
	if o := s[kind+" "+namespace+"/"+name]; o != nil {
		return o
	}
	return nil
}

func (s shelf) Create(_ context.Context, kind string, o resource.Object) error {
	s[kind+" "+o.GetNamespace()+"/"+o.GetName()] = o
	return nil
}

func (s shelf) Update(_ context.Context, kind, _, namespace, name string, change func(resource.Object)) error {
	o := s.Get(kind, namespace, name).DeepCopyObject().(resource.Object)
	change(o)
	s[kind+" "+namespace+"/"+name] = o
	return nil
}

func TestKept(t *testing.T) {
	s := shelf{}
	c := New(Config{
		Server: netip.MustParseAddrPort("192.0.2.1:6443"), Ranges: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}, DNS: netip.MustParseAddr("10.96.0.10"),
	}, s, s, nil, nil)
	all := func() {
		t.Helper()
		for range 2 { // a ServiceCIDR is made first, and says that it is ready then
			for key := range c.want {
				if err := c.Reconcile(t.Context(), key); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	all()
	if len(s) != 3 || s["ServiceCIDR /kubernetes"] == nil || s["PriorityClass /system-node-critical"] == nil || s["PriorityClass /system-cluster-critical"] == nil {
		t.Errorf("before its namespaces are there it makes %v", slices.Collect(maps.Keys(s)))
	}
	for _, name := range []string{"default", "kube-system"} {
		s["Namespace /"+name] = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	}
	all()
	check := func(when string) {
		t.Helper()
		api, dns := s["Service default/kubernetes"].(*corev1.Service), s["Service kube-system/kube-dns"].(*corev1.Service)
		if api.Spec.ClusterIP != "10.96.0.1" || api.Spec.Ports[0].Port != 443 || api.Spec.Ports[0].TargetPort.IntVal != 6443 {
			t.Errorf("%s: the API's Service is %+v", when, api.Spec)
		}
		if dns.Spec.ClusterIP != "10.96.0.10" || len(dns.Spec.Ports) != 2 {
			t.Errorf("%s: the DNS Service is %+v", when, dns.Spec)
		}
		if e := s["EndpointSlice default/kubernetes"].(*discovery.EndpointSlice); e.Endpoints[0].Addresses[0] != "192.0.2.1" || *e.Ports[0].Port != 6443 {
			t.Errorf("%s: the API's endpoints are %+v", when, e)
		}
		if e := s["Endpoints default/kubernetes"].(*corev1.Endpoints); e.Subsets[0].Addresses[0].IP != "192.0.2.1" || e.Labels[discovery.LabelSkipMirror] != "true" {
			t.Errorf("%s: the API's old endpoints are %+v", when, e)
		}
		if r := s["ServiceCIDR /kubernetes"].(*networking.ServiceCIDR); r.Spec.CIDRs[0] != "10.96.0.0/16" || r.Status.Conditions[0].Status != "True" {
			t.Errorf("%s: the range is %+v", when, r)
		}
	}
	check("made")
	delete(s, "EndpointSlice default/kubernetes")
	s["Endpoints default/kubernetes"].(*corev1.Endpoints).Subsets = nil
	s["Service default/kubernetes"].(*corev1.Service).Spec.Ports[0].Port = 444
	all()
	check("spoiled and made good")
	before := s["Service default/kubernetes"]
	all()
	if s["Service default/kubernetes"] != before {
		t.Error("what is as it shall be was written again")
	}
	if c.want[loop.Key{Namespace: "default", Name: "Service/other"}].make != nil {
		t.Error("another Service is taken for one of its own")
	}
}
