package nodeipam

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Plan is what each node gets.
type Plan struct {
	Give    []Gift
	Without []*corev1.Node // for which nothing is left
}

// Gift is the blocks of one node, one of each range.
type Gift struct {
	Node   *corev1.Node
	Blocks []netip.Prefix
}

// Decide gives the nodes that have no range the lowest free blocks: those that have been there longest first.
func Decide(nodes []*corev1.Node, c Config) (p Plan) {
	if len(c.Ranges) == 0 {
		return p
	}
	var lacking []*corev1.Node
	var taken []netip.Prefix
	for _, n := range nodes {
		own := Of(n)
		taken = append(taken, own...)
		if len(own) == 0 && n.Spec.PodCIDR == "" && len(n.Spec.PodCIDRs) == 0 && n.DeletionTimestamp == nil {
			lacking = append(lacking, n)
		}
	}
	if len(lacking) == 0 {
		return p
	}
	slices.SortFunc(lacking, func(a, b *corev1.Node) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	pools := make([]*pool, len(c.Ranges))
	for i, r := range c.Ranges {
		pools[i] = newPool(r, c, taken)
	}
	for _, n := range lacking {
		var blocks []netip.Prefix
		for _, pool := range pools {
			if b, ok := pool.lowest(); ok {
				blocks = append(blocks, b)
			}
		}
		if len(blocks) < len(pools) {
			p.Without = append(p.Without, n)
			continue
		}
		for _, pool := range pools {
			pool.next++
		}
		p.Give = append(p.Give, Gift{n, blocks})
	}
	return p
}

// Of are the ranges that a node has.
func Of(n *corev1.Node) (own []netip.Prefix) {
	list := n.Spec.PodCIDRs
	if len(list) == 0 && n.Spec.PodCIDR != "" {
		list = []string{n.Spec.PodCIDR}
	}
	for _, s := range list {
		if p, err := netip.ParsePrefix(s); err == nil {
			own = append(own, p.Masked())
		}
	}
	return own
}

// pool is the blocks of one range, by number. What is below next is taken, or given in this pass.
type pool struct {
	within netip.Prefix
	bits   int // of a block
	next   uint64
	count  uint64
	taken  []span // by their first block
}

// span is the blocks first to last, both included.
type span struct{ first, last uint64 }

func newPool(within netip.Prefix, c Config, taken []netip.Prefix) *pool {
	p := &pool{within: within.Masked(), bits: c.Size6}
	if within.Addr().Is4() {
		p.bits = c.Size4
	}
	if spare := p.bits - p.within.Bits(); spare >= 0 {
		p.count = 1 << min(spare, 62)
	}
	for _, t := range taken {
		if !t.Overlaps(p.within) {
			continue
		}
		s := span{0, p.count}
		if t.Bits() > p.within.Bits() {
			s.first = p.number(t.Addr())
			s.last = s.first
			if wide := p.bits - t.Bits(); wide > 0 {
				s.last += 1<<wide - 1
			}
		}
		p.taken = append(p.taken, s)
	}
	slices.SortFunc(p.taken, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	return p
}

// lowest is the lowest block that is free; asking again gives the same.
func (p *pool) lowest() (netip.Prefix, bool) {
	for len(p.taken) > 0 && p.taken[0].first <= p.next {
		p.next = max(p.next, p.taken[0].last+1)
		p.taken = p.taken[1:]
	}
	if p.next >= p.count {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(p.address(p.next), p.bits), true
}

// high is the upper part of an address, in which all blocks differ.
func high(a netip.Addr) uint64 {
	if a.Is4() {
		b := a.As4()
		return uint64(binary.BigEndian.Uint32(b[:])) << 32
	}
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8])
}

func (p *pool) number(a netip.Addr) uint64 { return (high(a) - high(p.within.Addr())) >> (64 - p.bits) }

func (p *pool) address(n uint64) netip.Addr {
	h := high(p.within.Addr()) + n<<(64-p.bits)
	if p.within.Addr().Is4() {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(h>>32))
		return netip.AddrFrom4(b)
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], h)
	return netip.AddrFrom16(b)
}
