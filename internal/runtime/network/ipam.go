package network

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// lease is one address that is or was used.
type lease struct {
	Owner    string `json:"owner,omitempty"`    // the sandbox; empty once released
	Released uint64 `json:"released,omitempty"` // counts releases: the lowest was released longest ago
}

// leases is what is kept on disk of the addresses. It needs to outlive the process, not the machine: after a boot no sandbox holds one.
type leases struct {
	CIDR  netip.Prefix         `json:"cidr"`
	CIDR6 netip.Prefix         `json:"cidr6,omitzero"` // where pods have an IPv6 address besides: the same place of this range
	Clock uint64               `json:"clock"`
	Used  map[netip.Addr]lease `json:"used"`
}

// next picks the address to give out: one never used, lowest first; else the one released longest ago. Network address, gateway
// and broadcast are never given out.
func (l *leases) next() (netip.Addr, bool) {
	cidr := l.CIDR.Masked()
	last := broadcast(cidr)
	var oldest netip.Addr
	for a := gateway(cidr).Next(); cidr.Contains(a) && a != last; a = a.Next() {
		held, known := l.Used[a]
		if !known {
			return a, true
		}
		if held.Owner == "" && (!oldest.IsValid() || held.Released < l.Used[oldest].Released) {
			oldest = a
		}
	}
	return oldest, oldest.IsValid()
}

// of gives the addresses that a sandbox holds.
func (l *leases) of(owner string) []netip.Addr {
	var found []netip.Addr
	for a, held := range l.Used {
		if held.Owner == owner {
			found = append(found, a)
		}
	}
	return found
}

func (l *leases) release(a netip.Addr) {
	if !l.CIDR.Contains(a) {
		delete(l.Used, a) // of an earlier range
		return
	}
	l.Clock++
	l.Used[a] = lease{Released: l.Clock}
}

func gateway(cidr netip.Prefix) netip.Addr { return cidr.Masked().Addr().Next() }

func broadcast(cidr netip.Prefix) netip.Addr {
	b := cidr.Masked().Addr().As4()
	for bit := cidr.Bits(); bit < 32; bit++ {
		b[bit/8] |= 1 << (7 - bit%8)
	}
	return netip.AddrFrom4(b)
}

// beside is the IPv6 address that goes with an IPv4 one: as far from the beginning of its range. There is none without such a range, or for an address
// of an earlier one.
func (l *leases) beside(a netip.Addr) (netip.Addr, bool) {
	if !l.CIDR6.IsValid() || !l.CIDR.Contains(a) {
		return netip.Addr{}, false
	}
	first, own, out := l.CIDR.Masked().Addr().As4(), a.As4(), l.CIDR6.Masked().Addr().As16()
	offset := binary.BigEndian.Uint32(own[:]) - binary.BigEndian.Uint32(first[:])
	binary.BigEndian.PutUint32(out[12:], binary.BigEndian.Uint32(out[12:])+offset)
	return netip.AddrFrom16(out), true
}

// ipam keeps leases in one file.
type ipam struct {
	path string

	mu    sync.Mutex // guards state, and the file
	state leases
}

func openIPAM(path string) (*ipam, error) {
	p := &ipam{path: path, state: leases{Used: map[netip.Addr]lease{}}}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read addresses: %w", err)
	}
	if err := json.Unmarshal(data, &p.state); err != nil {
		// Torn by a power cut: then nothing uses an address, and the range is told again.
		p.state = leases{}
	}
	if p.state.Used == nil {
		p.state.Used = map[netip.Addr]lease{}
	}
	return p, nil
}

// save is called with mu held.
func (p *ipam) save() error {
	data, err := json.Marshal(&p.state)
	if err != nil {
		return fmt.Errorf("encode addresses: %w", err)
	}
	tmp := p.path + ".new"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return fmt.Errorf("save addresses: %w", err)
	}
	if err := os.Rename(tmp, p.path); err != nil {
		return fmt.Errorf("save addresses: %w", err)
	}
	return nil
}

func (p *ipam) cidr() netip.Prefix {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state.CIDR
}

// cidr6 is the range of IPv6, if there is one.
func (p *ipam) cidr6() netip.Prefix {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state.CIDR6
}

// beside is the IPv6 address that goes with an address.
func (p *ipam) beside(a netip.Addr) (netip.Addr, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state.beside(a)
}

// setCIDR tells the range of IPv4, and that of IPv6 or none.
func (p *ipam) setCIDR(cidr, cidr6 netip.Prefix) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state.CIDR == cidr && p.state.CIDR6 == cidr6 {
		return nil
	}
	p.state.CIDR, p.state.CIDR6 = cidr, cidr6
	for a, held := range p.state.Used {
		if held.Owner == "" && !cidr.Contains(a) {
			delete(p.state.Used, a)
		}
	}
	return p.save()
}

// take gives the sandbox an address: the one it has, or a new one.
func (p *ipam) take(owner string) (netip.Prefix, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	cidr := p.state.CIDR
	if !cidr.IsValid() {
		return netip.Prefix{}, ErrNoRange
	}
	for _, a := range p.state.of(owner) {
		if cidr.Contains(a) {
			return netip.PrefixFrom(a, cidr.Bits()), nil
		}
	}
	a, ok := p.state.next()
	if !ok {
		return netip.Prefix{}, fmt.Errorf("no address is free in %s", cidr)
	}
	before, known := p.state.Used[a]
	p.state.Used[a] = lease{Owner: owner}
	if err := p.save(); err != nil {
		if p.state.Used[a] = before; !known {
			delete(p.state.Used, a)
		}
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(a, cidr.Bits()), nil
}

// release frees what the sandbox holds; if it holds nothing, nothing is written.
func (p *ipam) release(owner string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	held := p.state.of(owner)
	if len(held) == 0 {
		return nil
	}
	for _, a := range held {
		p.state.release(a)
	}
	return p.save()
}

// keep frees what is held by others than the given sandboxes.
func (p *ipam) keep(owners []string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	changed := false
	for a, held := range p.state.Used {
		if held.Owner != "" && !slices.Contains(owners, held.Owner) {
			p.state.release(a)
			changed = true
		}
	}
	if !changed {
		return nil
	}
	return p.save()
}

func leasePath(dir string) string { return filepath.Join(dir, "addresses.json") }
