package netpol

import (
	"hash/fnv"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"sampan.dev/internal/loop"
	"sampan.dev/internal/nft"
)

// Pod is what policies ask about a pod. One without addresses is nobody's peer yet.
type Pod struct {
	Namespace string
	Labels    labels.Set
	Addrs     []netip.Addr
	Ports     []NamedPort
	Here      bool // it is of this node, and policies hold for it
}

// NamedPort is a port of a container that has a name.
type NamedPort struct {
	Name   string
	Proto  nft.Proto
	Number uint16
}

// PodOf reads a pod; nil for one that policies are not about: it has ended, or uses its node's own network, whose addresses are not its own.
func PodOf(p *corev1.Pod, node string) *Pod {
	if p == nil || p.Spec.HostNetwork || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return nil
	}
	pod := &Pod{Namespace: p.Namespace, Labels: p.Labels, Here: p.Spec.NodeName == node && node != ""}
	for _, ip := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			pod.Addrs = append(pod.Addrs, a.Unmap())
		}
	}
	for i := range p.Spec.Containers {
		pod.addPorts(p.Spec.Containers[i].Ports)
	}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			pod.addPorts(c.Ports)
		}
	}
	return pod
}

func (p *Pod) addPorts(ports []corev1.ContainerPort) {
	for _, port := range ports {
		if port.Name != "" {
			p.Ports = append(p.Ports, NamedPort{port.Name, protoOf(port.Protocol), uint16(port.ContainerPort)})
		}
	}
}

func protoOf(p corev1.Protocol) nft.Proto {
	switch p {
	case corev1.ProtocolUDP:
		return nft.UDP
	case corev1.ProtocolSCTP:
		return nft.SCTP
	}
	return nft.TCP
}

func protoName(p nft.Proto) string {
	return map[nft.Proto]string{nft.TCP: "tcp", nft.UDP: "udp", nft.SCTP: "sctp"}[p]
}

// policy is a NetworkPolicy in a form that is quick to work with. Policies that cannot be read do not pass validation.
type policy struct {
	key             loop.Key
	pods            labels.Selector
	ingress, egress bool // whether it isolates in that direction
	in, out         []rule
}

// rule allows what comes from, or goes to, one of its peers at one of its ports.
type rule struct {
	anyone bool
	groups []selection
	blocks []block
	ports  []port // none: all
}

// selection is a sort of pods: those of one namespace, or of the namespaces that a selector finds.
type selection struct {
	namespace  string
	namespaces labels.Selector // nil: the one namespace
	pods       labels.Selector
}

// name tells selections apart.
func (s selection) name() string {
	where := "in " + s.namespace
	if s.namespaces != nil {
		where = "where " + s.namespaces.String()
	}
	return "pods-" + digest(where, s.pods.String())
}

func (s selection) matches(p *Pod, namespace labels.Set, known bool) bool {
	if s.namespaces == nil {
		return p.Namespace == s.namespace && s.pods.Matches(p.Labels)
	}
	return known && s.namespaces.Matches(namespace) && s.pods.Matches(p.Labels)
}

// block is addresses, but for some.
type block struct {
	in     netip.Prefix
	except []netip.Prefix
}

// port is a range of ports of one protocol, all of its ports (last is zero), or a name that each pod gives a number.
type port struct {
	proto       nft.Proto
	name        string
	first, last uint16
}

func (p port) set() string { return "ports-" + protoName(p.proto) + "-" + p.name }

// digest is a short name for texts that are too long to be one.
func digest(texts ...string) string {
	h := fnv.New64a()
	for _, t := range texts {
		_, _ = h.Write([]byte(t))
		_, _ = h.Write([]byte{0})
	}
	return strconv.FormatUint(h.Sum64(), 36)
}

// read makes a policy of the object.
func read(o *networking.NetworkPolicy) *policy {
	p := &policy{key: loop.Key{Namespace: o.Namespace, Name: o.Name}, pods: selectorOf(&o.Spec.PodSelector)}
	types := o.Spec.PolicyTypes
	if len(types) == 0 { // stored before defaults were applied
		types = []networking.PolicyType{networking.PolicyTypeIngress}
		if len(o.Spec.Egress) > 0 {
			types = append(types, networking.PolicyTypeEgress)
		}
	}
	p.ingress, p.egress = slices.Contains(types, networking.PolicyTypeIngress), slices.Contains(types, networking.PolicyTypeEgress)
	if p.ingress {
		for _, r := range o.Spec.Ingress {
			p.in = append(p.in, readRule(o.Namespace, r.From, r.Ports))
		}
	}
	if p.egress {
		for _, r := range o.Spec.Egress {
			p.out = append(p.out, readRule(o.Namespace, r.To, r.Ports))
		}
	}
	return p
}

func selectorOf(s *metav1.LabelSelector) labels.Selector {
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return sel
}

func readRule(namespace string, peers []networking.NetworkPolicyPeer, ports []networking.NetworkPolicyPort) rule {
	r := rule{anyone: len(peers) == 0}
	for i := range peers {
		switch peer := &peers[i]; {
		case peer.IPBlock != nil:
			if b, ok := readBlock(peer.IPBlock); ok {
				r.blocks = append(r.blocks, b)
			}
		default:
			s := selection{namespace: namespace, pods: labels.Everything()}
			if peer.PodSelector != nil {
				s.pods = selectorOf(peer.PodSelector)
			}
			if peer.NamespaceSelector != nil {
				s.namespaces = selectorOf(peer.NamespaceSelector)
			}
			r.groups = append(r.groups, s)
		}
	}
	for i := range ports {
		p := port{proto: nft.TCP}
		if ports[i].Protocol != nil {
			p.proto = protoOf(*ports[i].Protocol)
		}
		switch n := ports[i].Port; {
		case n == nil:
		case n.Type == 1: // a name
			p.name = n.StrVal
		default:
			p.first = uint16(n.IntVal)
			if p.last = p.first; ports[i].EndPort != nil {
				p.last = uint16(*ports[i].EndPort)
			}
		}
		r.ports = append(r.ports, p)
	}
	return r
}

func readBlock(b *networking.IPBlock) (block, bool) {
	in, err := netip.ParsePrefix(strings.TrimSpace(b.CIDR))
	if err != nil {
		return block{}, false
	}
	out := block{in: in.Masked()}
	for _, text := range b.Except {
		if p, err := netip.ParsePrefix(text); err == nil {
			out.except = append(out.except, p.Masked())
		}
	}
	return out, true
}
