package loadbalancer

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Range is the addresses from one to another, both included. They are of one family.
type Range struct{ From, To netip.Addr }

// String is the range as ParsePools takes it.
func (r Range) String() string {
	if r.From == r.To {
		return r.From.String()
	}
	return r.From.String() + "-" + r.To.String()
}

// Contains says that the address is of the range.
func (r Range) Contains(a netip.Addr) bool {
	return a.Is4() == r.From.Is4() && !a.Less(r.From) && !r.To.Less(a)
}

// Pools are the addresses that Services of type LoadBalancer may have. Ranges are in the order in which they are used up, and do not overlap. Without
// any, such Services have the nodes' own addresses.
type Pools []Range

// Contains says that the address is of one of the pools.
func (p Pools) Contains(a netip.Addr) bool {
	return slices.ContainsFunc(p, func(r Range) bool { return r.Contains(a) })
}

// has says that there are addresses of that family.
func (p Pools) has(v6 bool) bool {
	return slices.ContainsFunc(p, func(r Range) bool { return r.From.Is6() == v6 })
}

// String is the pools as ParsePools takes them.
func (p Pools) String() string {
	var all []string
	for _, r := range p {
		all = append(all, r.String())
	}
	return strings.Join(all, ",")
}

// ParsePools reads addresses (10.0.0.7), ranges (10.0.0.100-10.0.0.120) and prefixes (10.0.0.128/25, each address of it) of either family, with commas or white space
// between them. What follows a # on a line is a remark. Of nothing it makes no pools.
func ParsePools(text string) (Pools, error) {
	var pools Pools
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		for _, word := range strings.FieldsFunc(strings.ReplaceAll(line, " - ", "-"), func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' || r == '\r' }) {
			r, err := parseRange(word)
			if err != nil {
				return nil, fmt.Errorf("load balancer pool %q: %w", word, err)
			}
			if i := slices.IndexFunc(pools, func(o Range) bool { return o.Contains(r.From) || r.Contains(o.From) }); i >= 0 {
				return nil, fmt.Errorf("load balancer pool %q: it overlaps with %s", word, pools[i])
			}
			pools = append(pools, r)
		}
	}
	return pools, nil
}

func parseRange(word string) (Range, error) {
	from, to, isRange := strings.Cut(word, "-")
	switch {
	case strings.Contains(word, "/"):
		return parsePrefix(word)
	case !isRange:
		to = from
	}
	first, err := parseAddr(from)
	if err != nil {
		return Range{}, err
	}
	last, err := parseAddr(to)
	if err != nil {
		return Range{}, err
	}
	switch {
	case first.Is4() != last.Is4():
		return Range{}, fmt.Errorf("its ends are of different families")
	case last.Less(first):
		return Range{}, fmt.Errorf("it ends before it begins: write %s-%s", last, first)
	}
	return Range{first, last}, nil
}

func parsePrefix(word string) (Range, error) {
	p, err := netip.ParsePrefix(word)
	if err != nil {
		return Range{}, fmt.Errorf("not an address, a range FROM-TO or a prefix ADDRESS/BITS")
	}
	if p != p.Masked() {
		return Range{}, fmt.Errorf("the address has bits set that are beyond the prefix: write %s", p.Masked())
	}
	if _, err := parseAddr(p.Addr().String()); err != nil {
		return Range{}, err
	}
	last := p.Addr().AsSlice()
	for i := p.Bits(); i < len(last)*8; i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	to, _ := netip.AddrFromSlice(last)
	return Range{p.Addr(), to}, nil
}

// parseAddr reads one address that others can send to.
func parseAddr(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return a, fmt.Errorf("not an address, a range FROM-TO or a prefix ADDRESS/BITS")
	case a.Zone() != "" || a.Is4In6():
		return a, fmt.Errorf("%s: write the address plainly, as IPv4 or IPv6", a)
	case a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return a, fmt.Errorf("%s: nobody could send packets there: it is unspecified, loopback, link-local, multicast or broadcast", a)
	}
	return a, nil
}
