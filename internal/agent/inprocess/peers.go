package inprocess

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/podnet"
	"sampan.dev/internal/resource"
)

// Peers shows where the other nodes are, and which pods' addresses are there.
type Peers struct {
	cache *cache.Cache
	nodes *resource.Kind
	node  string
}

// NewPeers makes the view of one node.
func NewPeers(table *resource.Table, c *cache.Cache, node string) *Peers {
	nodes, _ := table.ByKind(corev1.SchemeGroupVersion.WithKind("Node"))
	return &Peers{cache: c, nodes: nodes, node: node}
}

// Peers are the other nodes that have addresses, by name.
func (p *Peers) Peers() (all []podnet.Peer) {
	for o := range p.cache.Snapshot().List(p.nodes, cache.Selection{}) {
		if o.Name() == p.node {
			continue
		}
		if peer := peerOf(cache.Typed[*corev1.Node](o)); len(peer.Addresses) > 0 && len(peer.Ranges) > 0 {
			all = append(all, peer)
		}
	}
	return all
}

func peerOf(n *corev1.Node) podnet.Peer {
	peer := podnet.Peer{Name: n.Name}
	for _, a := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			peer.Addresses = append(peer.Addresses, ip.Unmap())
		}
	}
	for _, text := range n.Spec.PodCIDRs {
		if r, err := netip.ParsePrefix(text); err == nil {
			peer.Ranges = append(peer.Ranges, r)
		}
	}
	return peer
}

// OnChange calls mark when another node comes, goes, or says to be elsewhere. It is called before the cache runs.
func (p *Peers) OnChange(mark func()) {
	p.cache.OnChange(p.nodes, func(old, new *cache.Object) {
		if old != nil && new != nil {
			was, is := peerOf(cache.Typed[*corev1.Node](old)), peerOf(cache.Typed[*corev1.Node](new))
			if slices.Equal(was.Addresses, is.Addresses) && slices.Equal(was.Ranges, is.Ranges) {
				return
			}
		}
		mark()
	})
}
