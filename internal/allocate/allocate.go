// Package allocate gives Services what no two of them may have: cluster IPs and node ports.
//
// It reads the cache and, for node ports, one record of the store; it writes nothing itself, but says what is to be written together with the Service, in one
// step: an IPAddress of each cluster IP, so that a second one of the same name cannot be made, and the bitmap of node ports at the revision that was
// read. Always: what a stored Service has is taken by it; nothing is handed out twice; what is taken by nobody (left by a crash of another server, or by hand) is
// given back by Repair.
package allocate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/core"
	"sampan.dev/internal/store"
)

// Config says what there is to give.
type Config struct {
	Table *resource.Table
	Cache *cache.Cache
	Store store.Store
	// Ranges are those of the cluster's Services: one, or one of each family, the default first. ServiceCIDR objects add to them.
	Ranges    []netip.Prefix
	NodePorts PortRange
	Now       func() time.Time // nil: time.Now
}

// Services is the allocator of Services.
type Services struct {
	cfg              Config
	addresses, cidrs *resource.Kind
	services         *resource.Kind
	ports            sync.Mutex // held from reading the bitmap of node ports until it is written: among many at once only one would succeed
}

// New makes an allocator. The table must have IPAddress and ServiceCIDR.
func New(cfg Config) *Services {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	kind := func(name string) *resource.Kind {
		k, _ := cfg.Table.ByKind(networking.SchemeGroupVersion.WithKind(name))
		return k
	}
	services, _ := cfg.Table.ByKind(corev1.SchemeGroupVersion.WithKind("Service"))
	return &Services{cfg: cfg, addresses: kind("IPAddress"), cidrs: kind("ServiceCIDR"), services: services}
}

// Families of the cluster, the default first.
func (a *Services) Families() (all []corev1.IPFamily) {
	for _, p := range a.cfg.Ranges {
		all = append(all, familyOf(p.Addr()))
	}
	return all
}

func familyOf(ip netip.Addr) corev1.IPFamily {
	if ip.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// Lock keeps others from node ports while a change of a Service that has to do with them is under way. Old or new may be nil.
func (a *Services) Lock(new, old resource.Object) (unlock func()) {
	for _, o := range []resource.Object{new, old} {
		if s, is := o.(*corev1.Service); is && s != nil && (core.NeedsNodePort(s) || len(portsOf(s)) > 0) {
			a.ports.Lock()
			return a.ports.Unlock
		}
	}
	return func() {}
}

// Allocate fills in a Service that is about to be created (old is nil) or changed: families, cluster IPs and node ports. What it refuses is told as
// validation errors.
func (a *Services) Allocate(ctx context.Context, new, old resource.Object) error {
	s := new.(*corev1.Service)
	var was *corev1.Service
	if old != nil {
		was = old.(*corev1.Service)
	}
	if errs := core.InitFamilies(s, was, a.Families()); len(errs) > 0 {
		return refuse(s, errs)
	}
	if err := a.clusterIPs(s, was); err != nil {
		return err
	}
	return a.nodePorts(ctx, s, was)
}

func refuse(s *corev1.Service, errs field.ErrorList) error {
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), s.Name, errs)
}

// Writes says what is to be written together with a change of a Service: new is nil when it goes, old when it comes.
func (a *Services) Writes(ctx context.Context, new, old resource.Object) ([]store.Write, error) {
	var s, was *corev1.Service
	if new != nil {
		s = new.(*corev1.Service)
	}
	if old != nil {
		was = old.(*corev1.Service)
	}
	writes, err := a.addressWrites(ctx, s, was)
	if err != nil {
		return nil, err
	}
	more, err := a.portWrites(ctx, s, was)
	return append(writes, more...), err
}

// clusterIPs picks the addresses that are missing, and refuses those that cannot be had.
func (a *Services) clusterIPs(s, old *corev1.Service) error {
	if !core.NeedsClusterIP(s) || s.Spec.ClusterIP == corev1.ClusterIPNone {
		return nil
	}
	had := ipsOf(old)
	ranges := a.ranges()
	snap := a.cfg.Cache.Snapshot()
	for i, family := range s.Spec.IPFamilies {
		if i < len(s.Spec.ClusterIPs) {
			text := s.Spec.ClusterIPs[i]
			if ip, err := netip.ParseAddr(text); err == nil && !had[ip] {
				if err := a.may(snap, ranges, ip); err != nil {
					return refuse(s, field.ErrorList{field.Invalid(field.NewPath("spec", "clusterIPs"), []string{text}, fmt.Sprintf("failed to allocate IP %v: %v", text, err))})
				}
			} // what is no address is for validation to refuse
			continue
		}
		ip, err := a.pick(snap, ranges, family)
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP: %w", err))
		}
		s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, ip.String())
	}
	if s.Spec.ClusterIP == "" && len(s.Spec.ClusterIPs) > 0 {
		s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	}
	return nil
}

// ipsOf are the cluster IPs of a Service; of nil none.
func ipsOf(s *corev1.Service) map[netip.Addr]bool {
	all := map[netip.Addr]bool{}
	if s == nil || !core.NeedsClusterIP(s) {
		return all
	}
	for _, text := range s.Spec.ClusterIPs {
		if ip, err := netip.ParseAddr(text); err == nil {
			all[ip] = true
		}
	}
	return all
}

// Errors in upstream's words.
var (
	errFull      = errors.New("range is full")
	errTaken     = errors.New("provided IP is already allocated")
	errElsewhere = errors.New("the provided network does not match the current range")
)

// may says why an address cannot be had.
func (a *Services) may(snap *cache.Snapshot, ranges []netip.Prefix, ip netip.Addr) error {
	for _, r := range ranges {
		if !r.Contains(ip) {
			continue
		}
		if first, last := bounds(r); ip.Less(first) || last.Less(ip) {
			return fmt.Errorf("the provided IP (%v) is not in the valid range. The range of valid IPs is %s", ip, r)
		}
		if snap.Get(a.addresses, "", ip.String()) != nil {
			return errTaken
		}
		return nil
	}
	return errElsewhere
}

// bounds are the first and the last address of a range that may be used: not the network's own, and not the broadcast address of IPv4.
func bounds(r netip.Prefix) (first, last netip.Addr) {
	r = r.Masked()
	b := r.Addr().AsSlice()
	for bit := r.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 1 << (7 - bit%8)
	}
	last, _ = netip.AddrFromSlice(b)
	first = r.Addr().Next()
	if last.Is4() && first.Less(last) {
		last = last.Prev()
	}
	return first, last
}

// size is how many addresses a range is reckoned to have, at most 1<<30.
func size(r netip.Prefix) uint32 { return 1 << min(30, r.Addr().BitLen()-r.Bits()) }

// band is how many addresses at the beginning of a range are left to those who ask for one by number (KEP-3070).
func band(r netip.Prefix) uint32 {
	return staticBand(size(r), 16, 256, 16)
}

// staticBand is a fraction of a range, within bounds; none of a small range.
func staticBand(size, least, most, part uint32) uint32 {
	if size <= least {
		return 0
	}
	return min(max(size/part, least), most)
}

// pick draws a free address of a family: from the upper band by chance, then from the lower.
func (a *Services) pick(snap *cache.Snapshot, ranges []netip.Prefix, family corev1.IPFamily) (netip.Addr, error) {
	err := fmt.Errorf("there is no range of %s addresses", family)
	for _, r := range ranges {
		if familyOf(r.Addr()) != family {
			continue
		}
		first, last := bounds(r)
		n, low := size(r)-1, band(r)
		free := func(from, to uint32) (netip.Addr, bool) {
			if from >= to {
				return netip.Addr{}, false
			}
			start := rand.Uint32N(to - from)
			for i := range to - from {
				ip := plus(r.Masked().Addr(), 1+from+(start+i)%(to-from))
				if !ip.Less(first) && !last.Less(ip) && snap.Get(a.addresses, "", ip.String()) == nil {
					return ip, true
				}
			}
			return netip.Addr{}, false
		}
		for _, part := range [][2]uint32{{low, n}, {0, low}} {
			if ip, found := free(part[0], part[1]); found {
				return ip, nil
			}
		}
		err = errFull
	}
	return netip.Addr{}, err
}

// plus is the address so many after another one.
func plus(ip netip.Addr, n uint32) netip.Addr {
	b := ip.AsSlice()
	for i := len(b) - 1; i >= 0 && n > 0; i-- {
		sum := uint32(b[i]) + n&0xff
		b[i] = byte(sum)
		n = n>>8 + sum>>8
	}
	out, _ := netip.AddrFromSlice(b)
	return out
}

// ranges are those of the cluster, and those of ServiceCIDRs that are ready.
func (a *Services) ranges() []netip.Prefix {
	all := a.cfg.Ranges
	for o := range a.cfg.Cache.Snapshot().List(a.cidrs, cache.Selection{}) {
		c := cache.Typed[*networking.ServiceCIDR](o)
		if c.Name == DefaultCIDR || c.DeletionTimestamp != nil || !ready(c) {
			continue
		}
		for _, text := range c.Spec.CIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				all = append(all[:len(all):len(all)], p.Masked())
			}
		}
	}
	return all
}

// DefaultCIDR is the name of the ServiceCIDR of the cluster's own ranges.
const DefaultCIDR = "kubernetes"

func ready(c *networking.ServiceCIDR) bool {
	for i := range c.Status.Conditions {
		if cond := &c.Status.Conditions[i]; cond.Type == networking.ServiceCIDRConditionReady {
			return cond.Status == "True"
		}
	}
	return false
}
