//lint:file-ignore SA1019 Endpoints are deprecated, and still served and read

// Package kubeservice keeps the Services that the cluster itself has: default/kubernetes, by which pods reach the API server, and
// kube-system/kube-dns, by which they resolve names; the ServiceCIDR that says where cluster IPs are from; kube-public/cluster-info, by which machines join, kube-system/sampan-network, by which nodes know the cluster's ranges,
// and the system's two priority classes.
//
// It watches and writes those objects, and nothing else. Always: the Service kubernetes has the first address of the range, and its endpoints are the
// API servers' addresses; whoever changes or deletes one of them finds it as it was.
package kubeservice

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"sampan.dev/internal/auth"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/scheduling"
)

// Config says what the cluster is.
type Config struct {
	Server netip.AddrPort // of the API server that this controller runs in, as pods reach it; SetServers tells of others
	Ranges []netip.Prefix // of Services, the default first
	DNS    netip.Addr     // of the cluster's DNS server; not valid: there is none
	CA     []byte         // PEM: the cluster's authority, told to whoever wants to join; nil: not told
	Pods   []netip.Prefix // ranges of pods, told to nodes; none: not told
}

// View shows the current object of a kind, shared, or nil.
type View interface {
	Get(kind, namespace, name string) resource.Object
}

// API is what this controller writes.
type API interface {
	Create(ctx context.Context, kind string, o resource.Object) error
	// Update changes the object, or its status.
	Update(ctx context.Context, kind, sub, namespace, name string, change func(resource.Object)) error
}

// Controller runs as its Loop does. Its keys are kinds and names.
type Controller struct {
	*loop.Loop
	view View
	api  API
	log  *slog.Logger
	cfg  Config

	mu      sync.Mutex
	servers []netip.AddrPort // that serve the API, in order
	want    map[loop.Key]wanted
}

// wanted is an object that shall be there.
type wanted struct {
	kind string
	make func() resource.Object
	// same says that what is there will do; fill makes it so.
	same func(resource.Object) bool
	fill func(have, want resource.Object)
	sub  string // the subresource that fill is about
}

// New makes the controller.
func New(cfg Config, view View, api API, metrics *loop.Metrics, log *slog.Logger) *Controller {
	servers := []netip.AddrPort{cfg.Server}
	c := &Controller{view: view, api: api, log: log, cfg: cfg, servers: servers, want: objects(cfg, servers)}
	c.Loop = loop.New("kubernetes-service", c.Reconcile, loop.Options{Workers: 1, Metrics: metrics, Log: log})
	for key := range c.want {
		c.Mark(key)
	}
	return c
}

// SetServers says which servers serve the API now; this one is among them, told or not.
func (c *Controller) SetServers(servers []netip.AddrPort) {
	all := append(slices.Clone(servers), c.cfg.Server)
	slices.SortFunc(all, netip.AddrPort.Compare)
	all = slices.Compact(all)
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.Equal(all, c.servers) {
		return
	}
	c.servers, c.want = all, objects(c.cfg, all)
	for key := range c.want {
		c.Mark(key)
	}
}

// wanted are all objects that shall be there.
func (c *Controller) wanted() map[loop.Key]wanted {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.want
}

// Changed marks an object, if it is one of those that this controller keeps, and with a namespace what is in it.
func (c *Controller) Changed(kind, namespace, name string) {
	if kind == "Namespace" {
		for key := range c.wanted() {
			if key.Namespace == name {
				c.Mark(key)
			}
		}
		return
	}
	if key := (loop.Key{Namespace: namespace, Name: kind + "/" + name}); c.wanted()[key].make != nil {
		c.Mark(key)
	}
}

// Reconcile makes one object be as it shall.
func (c *Controller) Reconcile(ctx context.Context, key loop.Key) error {
	w := c.wanted()[key]
	o := w.make().DeepCopyObject().(resource.Object) // what is written is filled in by those who store it
	have := c.view.Get(w.kind, o.GetNamespace(), o.GetName())
	var err error
	switch {
	case have == nil && o.GetNamespace() != "" && c.view.Get("Namespace", "", o.GetNamespace()) == nil:
		return nil // the namespace marks it when it comes
	case have == nil:
		err = c.api.Create(ctx, w.kind, o)
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
	case have.GetDeletionTimestamp() != nil || w.same(have):
		return nil
	default:
		err = c.api.Update(ctx, w.kind, w.sub, o.GetNamespace(), o.GetName(), func(have resource.Object) { w.fill(have, o) })
	}
	if err != nil {
		return fmt.Errorf("keep %s %s: %w", w.kind, o.GetName(), err)
	}
	return nil
}

func objects(cfg Config, servers []netip.AddrPort) map[loop.Key]wanted {
	all := map[loop.Key]wanted{}
	add := func(w wanted) {
		o := w.make()
		all[loop.Key{Namespace: o.GetNamespace(), Name: w.kind + "/" + o.GetName()}] = w
	}
	for name, value := range scheduling.System {
		add(priorityClass(name, value))
	}
	add(cidr(cfg.Ranges))
	add(service("default", "kubernetes", map[string]string{"component": "apiserver", "provider": "kubernetes"}, cfg.Ranges[0].Masked().Addr().Next(), []corev1.ServicePort{
		{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(int32(cfg.Server.Port()))},
	}))
	alike := slices.DeleteFunc(slices.Clone(servers), func(s netip.AddrPort) bool { // one port and one family for all of them, as the objects have it
		return s.Port() != cfg.Server.Port() || s.Addr().Is4() != cfg.Server.Addr().Is4()
	})
	add(endpoints(alike))
	add(slice(alike))
	if cfg.DNS.IsValid() {
		add(service("kube-system", "kube-dns", map[string]string{"k8s-app": "kube-dns"}, cfg.DNS, []corev1.ServicePort{
			{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(53)},
			{Name: "dns-tcp", Port: 53, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(53)},
		}))
	}
	if cfg.CA != nil {
		add(clusterInfo(cfg))
	}
	if len(cfg.Pods) > 0 {
		add(configMap("kube-system", auth.NetworkName, map[string]string{
			PodRanges: list(cfg.Pods), ServiceRanges: list(cfg.Ranges), DNSAddress: cfg.DNS.String(), Servers: urls(servers),
		}))
	}
	return all
}

// clusterInfo is what a machine that wants to join asks for first, without being known: where the cluster is, and its authority. What it is told it compares with
// what its join token says (as kubeadm has it).
func clusterInfo(cfg Config) wanted {
	text := fmt.Sprintf(`apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: %s
    server: https://%s
  name: ""
contexts: null
current-context: ""
kind: Config
preferences: {}
users: null
`, base64.StdEncoding.EncodeToString(cfg.CA), cfg.Server)
	return configMap("kube-public", "cluster-info", map[string]string{"kubeconfig": text})
}

// Keys of what nodes are told: address ranges, one of each family, by commas; the DNS server's address; and the URLs of all servers, by commas.
const (
	PodRanges     = "podRanges"
	ServiceRanges = "serviceRanges"
	DNSAddress    = "dns"
	Servers       = "servers"
)

func urls(servers []netip.AddrPort) string {
	var all []string
	for _, s := range servers {
		all = append(all, "https://"+s.String())
	}
	return strings.Join(all, ",")
}

func list(ranges []netip.Prefix) string {
	var all []string
	for _, r := range ranges {
		all = append(all, r.Masked().String())
	}
	return strings.Join(all, ",")
}

// configMap has these keys, and may have others.
func configMap(namespace, name string, data map[string]string) wanted {
	return wanted{
		kind: "ConfigMap",
		make: func() resource.Object {
			return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Data: data}
		},
		same: func(o resource.Object) bool {
			have := o.(*corev1.ConfigMap).Data
			for key, value := range data {
				if have[key] != value {
					return false
				}
			}
			return true
		},
		fill: func(have, _ resource.Object) {
			m := have.(*corev1.ConfigMap)
			if m.Data == nil {
				m.Data = map[string]string{}
			}
			maps.Copy(m.Data, data)
		},
	}
}

// priorityClass is one of the system's own, whose value cannot be changed.
func priorityClass(name string, value int32) wanted {
	what := map[string]string{
		"system-cluster-critical": "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
		"system-node-critical":    "Used for system critical pods that must not be moved from their current node.",
	}[name]
	return wanted{
		kind: "PriorityClass",
		make: func() resource.Object {
			return &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value, Description: what}
		},
		same: func(resource.Object) bool { return true },
		fill: func(_, _ resource.Object) {},
	}
}

// service is a Service whose endpoints are no pods.
func service(namespace, name string, labels map[string]string, ip netip.Addr, ports []corev1.ServicePort) wanted {
	return wanted{
		kind: "Service",
		make: func() resource.Object {
			return &corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
				Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: ip.String(), ClusterIPs: []string{ip.String()}, Ports: ports, SessionAffinity: corev1.ServiceAffinityNone},
			}
		},
		same: func(o resource.Object) bool {
			return equality.Semantic.DeepEqual(o.(*corev1.Service).Spec.Ports, ports)
		},
		fill: func(have, want resource.Object) {
			have.(*corev1.Service).Spec.Ports = want.(*corev1.Service).Spec.Ports
		},
	}
}

func endpoints(servers []netip.AddrPort) wanted {
	var addresses []corev1.EndpointAddress
	for _, s := range servers {
		addresses = append(addresses, corev1.EndpointAddress{IP: s.Addr().String()})
	}
	subsets := []corev1.EndpointSubset{{
		Addresses: addresses,
		Ports:     []corev1.EndpointPort{{Name: "https", Port: int32(servers[0].Port()), Protocol: corev1.ProtocolTCP}},
	}}
	return wanted{
		kind: "Endpoints",
		make: func() resource.Object {
			return &corev1.Endpoints{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes", Labels: map[string]string{discovery.LabelSkipMirror: "true"}}, Subsets: subsets,
			}
		},
		same: func(o resource.Object) bool {
			e := o.(*corev1.Endpoints)
			return equality.Semantic.DeepEqual(e.Subsets, subsets) && e.Labels[discovery.LabelSkipMirror] == "true"
		},
		fill: func(have, want resource.Object) {
			e := have.(*corev1.Endpoints)
			if e.Labels == nil {
				e.Labels = map[string]string{}
			}
			e.Labels[discovery.LabelSkipMirror], e.Subsets = "true", want.(*corev1.Endpoints).Subsets
		},
	}
}

func slice(servers []netip.AddrPort) wanted {
	name, port, protocol, ready := "https", int32(servers[0].Port()), corev1.ProtocolTCP, true
	var ends []discovery.Endpoint
	for _, s := range servers {
		ends = append(ends, discovery.Endpoint{Addresses: []string{s.Addr().String()}, Conditions: discovery.EndpointConditions{Ready: &ready}})
	}
	ports := []discovery.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}}
	family := discovery.AddressTypeIPv4
	if servers[0].Addr().Is6() {
		family = discovery.AddressTypeIPv6
	}
	labels := map[string]string{discovery.LabelServiceName: "kubernetes"}
	return wanted{
		kind: "EndpointSlice",
		make: func() resource.Object {
			return &discovery.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes", Labels: labels}, AddressType: family, Endpoints: ends, Ports: ports}
		},
		same: func(o resource.Object) bool {
			s := o.(*discovery.EndpointSlice)
			return equality.Semantic.DeepEqual(s.Endpoints, ends) && equality.Semantic.DeepEqual(s.Ports, ports) && s.Labels[discovery.LabelServiceName] == "kubernetes"
		},
		fill: func(have, want resource.Object) {
			s, w := have.(*discovery.EndpointSlice), want.(*discovery.EndpointSlice)
			s.Endpoints, s.Ports = w.Endpoints, w.Ports
			if s.Labels == nil {
				s.Labels = map[string]string{}
			}
			s.Labels[discovery.LabelServiceName] = "kubernetes"
		},
	}
}

// cidr is the ServiceCIDR of the cluster's own ranges, which is always ready.
func cidr(ranges []netip.Prefix) wanted {
	all := strings.Split(list(ranges), ",")
	ready := metav1.Condition{Type: networking.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Reason: "", Message: "Kubernetes default Service CIDR is ready"}
	return wanted{
		kind: "ServiceCIDR", sub: "status",
		make: func() resource.Object {
			return &networking.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networking.ServiceCIDRSpec{CIDRs: all}}
		},
		same: func(o resource.Object) bool {
			return meta.IsStatusConditionTrue(o.(*networking.ServiceCIDR).Status.Conditions, networking.ServiceCIDRConditionReady)
		},
		fill: func(have, _ resource.Object) {
			meta.SetStatusCondition(&have.(*networking.ServiceCIDR).Status.Conditions, ready)
		},
	}
}
