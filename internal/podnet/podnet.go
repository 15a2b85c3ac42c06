// Package podnet makes and removes the network that the pods of one node hang on.
//
// It owns the bridge, its address, two routes and one nftables table, all named after the instance; it watches nothing.
// Always: both address ranges are closed before any address of them is in use, so that a packet for an address that is not there
// dies on this machine and never leaves by the default route. Up is safe to repeat; Down removes every trace. IP forwarding is
// turned on and left on, since others may have come to rely on it; route_localnet is turned on for the bridge alone, whose packets to loopback addresses are dropped.
package podnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"sampan.dev/internal/nft"
)

// Config says what the network looks like.
type Config struct {
	ID      string       // of the instance: 8 hexadecimal digits
	Pods    netip.Prefix // of the whole cluster, 10.244.0.0/16
	Node    netip.Prefix // this node's part of it, 10.244.0.0/24
	Service netip.Prefix // 10.96.0.0/16
	IPv6    Ranges       // the same of IPv6, for pods and Services with two addresses; zero: there is none
	DNS     netip.Addr   // of the service range: this node answers there itself; not valid: it does not
	Kernel  nft.Kernel   // where rules are set; the kernel's own if nil
}

// Ranges are the addresses of one family.
type Ranges struct{ Pods, Node, Service netip.Prefix }

// ranges are those of IPv4, and those of IPv6 if there are any.
func (c Config) ranges() []Ranges {
	all := []Ranges{{c.Pods, c.Node, c.Service}}
	if c.IPv6 != (Ranges{}) {
		all = append(all, c.IPv6)
	}
	return all
}

// gateway is the node's own address in its part of the pods' range.
func (r Ranges) gateway() netip.Prefix {
	return netip.PrefixFrom(r.Node.Masked().Addr().Next(), r.Node.Bits())
}

// check says what is wrong with the ranges of a family, whose nodes need room for pods: a prefix of that length at the most.
func (r Ranges) check(longest int) error {
	switch {
	case !r.Pods.IsValid() || !r.Node.IsValid() || !r.Service.IsValid():
		return errors.New("pod network: an address range is missing")
	case r.Node.Bits() < r.Pods.Bits() || !r.Pods.Contains(r.Node.Addr()):
		return fmt.Errorf("pod network: the node's range %s is not within the pod range %s", r.Node, r.Pods)
	case r.Node.Bits() > longest:
		return fmt.Errorf("pod network: the node's range %s has no room for pods", r.Node)
	case r.Pods.Overlaps(r.Service):
		return fmt.Errorf("pod network: the pod range %s and the service range %s overlap", r.Pods, r.Service)
	}
	return nil
}

// Bridge is the link's name.
func (c Config) Bridge() string { return "sampan-" + c.ID }

// Table is the name of the nftables table.
func (c Config) Table() string { return "sampan-" + c.ID }

// Gateway is the bridge's address: the first of the node's range.
func (c Config) Gateway() netip.Addr { return c.Node.Masked().Addr().Next() }

func (c Config) check() error {
	const pod4, pod6 = 30, 126
	if len(c.ID) != 8 {
		return fmt.Errorf("pod network: the id %q has not 8 digits", c.ID)
	}
	for i, r := range c.ranges() {
		longest := []int{pod4, pod6}[i]
		if r.Pods.IsValid() && r.Node.IsValid() && r.Service.IsValid() {
			for _, p := range []netip.Prefix{r.Pods, r.Node, r.Service} {
				if p.Addr().Is6() != (i == 1) {
					return fmt.Errorf("pod network: %s is not of IPv%d", p, []int{4, 6}[i])
				}
			}
		}
		if err := r.check(longest); err != nil {
			return err
		}
	}
	if c.DNS.IsValid() && !c.Service.Contains(c.DNS) {
		return fmt.Errorf("pod network: the address %s of the DNS server is not within the service range %s", c.DNS, c.Service)
	}
	return nil
}

func (c Config) kernel() nft.Kernel {
	if c.Kernel != nil {
		return c.Kernel
	}
	return nft.New()
}

// ErrTaken says that somebody else uses an address range.
var ErrTaken = errors.New("address range is taken")

// Network is a pod network that is up.
type Network struct {
	cfg Config

	mu      sync.Mutex // guards the fields below, and orders writes of the table
	ports   map[string][]HostPort
	more    []netip.Prefix // of Services, besides the first range
	tunnels []netip.Addr   // nodes whose packets within UDP are taken
}

// HostPort is a port of the node that leads to a pod.
type HostPort struct {
	Proto    nft.Proto
	HostIP   netip.Addr // invalid: any address of the node
	HostPort uint16
	Pod      netip.Addr
	PodPort  uint16
}

// Up makes the network. It refuses, with ErrTaken, when either range is in use on this machine by somebody else.
func Up(ctx context.Context, cfg Config) (*Network, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cfg.Kernel = cfg.kernel()
	if err := free(cfg); err != nil {
		return nil, err
	}
	n := &Network{cfg: cfg, ports: map[string][]HostPort{}}
	if err := n.up(ctx); err != nil {
		return nil, fmt.Errorf("pod network: %w", err)
	}
	return n, nil
}

func (n *Network) up(ctx context.Context) error {
	bridge, err := ensureBridge(n.cfg)
	if err != nil {
		return err
	}
	// Closed first: the pod range by a route, what no Service owns by rules.
	if err := closePods(n.cfg); err != nil {
		return err
	}
	if err := n.cfg.Kernel.Set(ctx, n.table()); err != nil {
		return err
	}
	if err := raise(n.cfg, bridge); err != nil {
		return err
	}
	return sysctls(n.cfg)
}

// Run puts the rules right when somebody else changes them, until ctx ends. The network stays as it is then.
func (n *Network) Run(ctx context.Context, log *slog.Logger) error {
	for ctx.Err() == nil {
		anew := func() bool {
			n.mu.Lock()
			defer n.mu.Unlock()
			err := n.cfg.Kernel.Replace(ctx, n.table())
			if err != nil && ctx.Err() == nil {
				log.Error("set the rules of the pod network anew", "error", err)
			}
			return err == nil
		}
		// What happened since they were set, or while nobody watched, is not known.
		err := n.cfg.Kernel.Watch(ctx, n.cfg.Table(), func() { anew() }, func() {
			if anew() {
				log.Warn("somebody else has changed the rules of the pod network; they are made anew", "table", n.cfg.Table())
			}
		})
		if err != nil && ctx.Err() == nil {
			log.Warn("watch the rules of the pod network", "error", err)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// SetHostPorts makes the host ports of one pod be as given; none removes them.
func (n *Network) SetHostPorts(ctx context.Context, pod string, ports []HostPort) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(ports) == 0 && len(n.ports[pod]) == 0 {
		return nil
	}
	before := n.ports[pod]
	if len(ports) == 0 {
		delete(n.ports, pod)
	} else {
		n.ports[pod] = ports
	}
	if err := n.cfg.Kernel.Set(ctx, n.table()); err != nil {
		n.ports[pod] = before
		return fmt.Errorf("host ports of pod %s: %w", pod, err)
	}
	return nil
}

// SetServices says which ranges Services have besides the first: all of them are closed. It is safe to repeat.
func (n *Network) SetServices(ctx context.Context, more []netip.Prefix) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.more = nil
	for _, p := range more {
		p = p.Masked()
		closed, possible := false, false
		for _, r := range n.cfg.ranges() {
			closed = closed || r.Service.Overlaps(p) && r.Service.Bits() <= p.Bits()
			possible = possible || r.Service.Addr().Is6() == p.Addr().Is6()
			if r.Pods.Overlaps(p) {
				return fmt.Errorf("close the service range %s: it overlaps the pod range %s", p, r.Pods)
			}
		}
		if possible && !closed {
			n.more = append(n.more, p)
		}
	}
	if err := n.cfg.Kernel.Set(ctx, n.table()); err != nil {
		return fmt.Errorf("close service ranges: %w", err)
	}
	return routeServices(n.cfg, n.more)
}

// Down removes every trace of the network: links that hang on the bridge, the bridge, routes and rules. Pods lose their network.
func Down(ctx context.Context, cfg Config) error {
	return errors.Join(removeLinks(cfg), cfg.kernel().Remove(ctx, cfg.Table()))
}
