package loadbalancer

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/loop"
)

// Class is the spec.loadBalancerClass of Services that are this controller's, besides those that name none.
const Class = "sampan.dev/lb"

// Annotations by which a Service asks for particular addresses of the pools (with commas between them), and by which Services that say the same share one.
const (
	AnnotationIPs     = "sampan.dev/load-balancer-ips"
	AnnotationSharing = "sampan.dev/load-balancer-sharing-key"
)

// Ours says that a Service is of the type and the class that this controller serves.
func Ours(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && (s.Spec.LoadBalancerClass == nil || *s.Spec.LoadBalancerClass == Class)
}

// Port is what is listened on at an address.
type Port struct {
	Proto  corev1.Protocol
	Number int32
}

func (p Port) String() string { return fmt.Sprintf("%d/%s", p.Number, p.Proto) }

// Claim is what of a Service decides on its addresses.
type Claim struct {
	Key      loop.Key
	UID      types.UID
	Created  time.Time
	V6       []bool // families, the first first
	All      bool   // it must have an address of each family
	Ports    []Port
	Local    bool   // packets go only to pods of the node that they reach
	Selector string // of its pods
	Sharing  string // its sharing key
	Asked    []netip.Addr
	Wrong    string       // what it asks for and cannot be read
	Has      []netip.Addr // its status
}

// ClaimOf reads a Service.
func ClaimOf(s *corev1.Service) *Claim {
	c := &Claim{
		Key: loop.Key{Namespace: s.Namespace, Name: s.Name}, UID: s.UID, Created: s.CreationTimestamp.Time,
		All:   s.Spec.IPFamilyPolicy != nil && *s.Spec.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack,
		Local: s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal, Selector: labels.FormatLabels(s.Spec.Selector),
		Sharing: s.Annotations[AnnotationSharing], Has: addresses(s.Status.LoadBalancer.Ingress),
	}
	for _, f := range s.Spec.IPFamilies {
		c.V6 = append(c.V6, f == corev1.IPv6Protocol)
	}
	if len(c.V6) == 0 {
		c.V6 = []bool{false}
	}
	for _, p := range s.Spec.Ports {
		c.Ports = append(c.Ports, Port{cmp.Or(p.Protocol, corev1.ProtocolTCP), p.Port})
	}
	c.ask(s.Annotations[AnnotationIPs], s.Spec.LoadBalancerIP)
	return c
}

// ask reads what addresses are asked for. The annotation goes before the deprecated field.
func (c *Claim) ask(annotation, field string) {
	for word := range strings.SplitSeq(cmp.Or(annotation, field), ",") {
		if word = strings.TrimSpace(word); word == "" {
			continue
		}
		a, err := netip.ParseAddr(word)
		switch {
		case err != nil:
			c.Wrong = fmt.Sprintf("%q, which it asks for, is no address", word)
		case !slices.Contains(c.V6, a.Unmap().Is6()):
			c.Wrong = fmt.Sprintf("%s, which it asks for, is of a family that it does not have: see its spec.ipFamilies", a)
		case slices.ContainsFunc(c.Asked, func(other netip.Addr) bool { return other.Is6() == a.Unmap().Is6() }):
			c.Wrong = fmt.Sprintf("it asks for more than one address of a family: %s", cmp.Or(annotation, field))
		default:
			c.Asked = append(c.Asked, a.Unmap())
		}
	}
}

// asked is the address of a family that is asked for; not valid: any will do.
func (c *Claim) asked(v6 bool) netip.Addr {
	for _, a := range c.Asked {
		if a.Is6() == v6 {
			return a
		}
	}
	return netip.Addr{}
}

// uses says that two claims use an address in the same way.
func (c *Claim) uses(other *Claim) bool {
	return slices.Equal(c.Ports, other.Ports) && c.Sharing == other.Sharing && c.Local == other.Local && c.Selector == other.Selector
}

// before orders Services: the older one goes first.
func (c *Claim) before(other *Claim) int {
	return cmp.Or(c.Created.Compare(other.Created), strings.Compare(c.Key.Namespace, other.Key.Namespace), strings.Compare(c.Key.Name, other.Key.Name))
}

func addresses(ingress []corev1.LoadBalancerIngress) (all []netip.Addr) {
	for _, in := range ingress {
		if a, err := netip.ParseAddr(in.IP); err == nil {
			all = append(all, a.Unmap())
		}
	}
	return all
}

// Node is what of a Node decides on addresses.
type Node struct {
	Name      string
	Serves    bool         // it is ready, and not left out
	Addresses []netip.Addr // that others reach it at
	Own       []netip.Addr // all that it has
}

// toBeDeleted is the taint that the cluster autoscaler puts on nodes it is about to remove.
const toBeDeleted = "ToBeDeletedByClusterAutoscaler"

// NodeOf reads a Node.
func NodeOf(n *corev1.Node) Node {
	node := Node{Name: n.Name, Serves: n.DeletionTimestamp == nil}
	if _, left := n.Labels[corev1.LabelNodeExcludeBalancers]; left {
		node.Serves = false
	}
	if slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == toBeDeleted }) {
		node.Serves = false
	}
	if !slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	}) {
		node.Serves = false
	}
	var internal, external []netip.Addr
	for _, a := range n.Status.Addresses {
		ip, err := netip.ParseAddr(a.Address)
		if err != nil {
			continue // a name
		}
		switch ip = ip.Unmap(); a.Type {
		case corev1.NodeInternalIP:
			internal = append(internal, ip)
		case corev1.NodeExternalIP:
			external = append(external, ip)
		}
	}
	node.Own = append(slices.Clone(internal), external...)
	for _, v6 := range []bool{false, true} { // of each family by itself: a node may be known outside by one alone
		of := func(a netip.Addr) bool { return a.Is6() != v6 }
		if list := slices.DeleteFunc(slices.Clone(external), of); len(list) > 0 {
			node.Addresses = append(node.Addresses, list...)
			continue
		}
		node.Addresses = append(node.Addresses, slices.DeleteFunc(slices.Clone(internal), of)...)
	}
	return node
}
