package loops

import (
	"context"
	"net/netip"

	networking "k8s.io/api/networking/v1"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/controller/servicecidr"
	"sampan.dev/internal/resource"
)

// serviceRanges is the controller of ranges of cluster IPs.
func serviceRanges(w *world) []part {
	s := ranges{w, w.kindOf(networking.SchemeGroupVersion.WithKind("ServiceCIDR")), w.kindOf(networking.SchemeGroupVersion.WithKind("IPAddress"))}
	c := servicecidr.New(s, s, w.Queues, w.Log)
	return []part{{account: "service-cidrs-controller", run: c.Run, on: map[*resource.Kind]func(change){
		s.cidrs: func(ch change) {
			o := ch.new
			if o == nil {
				o = ch.old
			}
			c.Changed(cache.Typed[*networking.ServiceCIDR](o))
		},
		s.addresses: func(ch change) {
			if ip, err := netip.ParseAddr(ch.key.Name); err == nil && ch.new == nil {
				c.AddressGone(ip)
			}
		},
	}}}
}

// ranges shows ranges of cluster IPs, and what is taken of them, to their controller.
type ranges struct {
	*world
	cidrs, addresses *resource.Kind
}

func (r ranges) ServiceCIDRs() (all []*networking.ServiceCIDR) {
	for o := range r.Cache.Snapshot().List(r.cidrs, cache.Selection{}) {
		all = append(all, cache.Typed[*networking.ServiceCIDR](o))
	}
	return all
}

func (r ranges) Addresses() (all []netip.Addr) {
	for o := range r.Cache.Snapshot().List(r.addresses, cache.Selection{}) {
		if ip, err := netip.ParseAddr(o.Name()); err == nil {
			all = append(all, ip)
		}
	}
	return all
}

func (r ranges) UpdateServiceCIDR(ctx context.Context, name string, change func(*networking.ServiceCIDR)) error {
	return r.update(ctx, r.cidrs, "", "", name, "", func(o resource.Object) { change(o.(*networking.ServiceCIDR)) })
}

func (r ranges) UpdateServiceCIDRStatus(ctx context.Context, name string, change func(*networking.ServiceCIDR)) error {
	return r.update(ctx, r.cidrs, "status", "", name, "", func(o resource.Object) { change(o.(*networking.ServiceCIDR)) })
}
