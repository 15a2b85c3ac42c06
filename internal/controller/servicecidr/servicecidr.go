// Package servicecidr says of ranges of cluster IPs whether they may be used, and keeps them while addresses of theirs are.
//
// It watches ServiceCIDRs and IPAddresses; it writes the finalizer and the condition Ready of ServiceCIDRs. Always: a range goes only when each address of it that
// a Service has lies in another range, too.
package servicecidr

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	networking "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/loop"
)

// Finalizer keeps a ServiceCIDR.
const Finalizer = "networking.k8s.io/service-cidr-finalizer"

// grace is how long a deleted range is kept at the least, for allocators elsewhere to hear of it (as upstream has it).
const grace = 10 * time.Second

// View shows the current objects, which are shared.
type View interface {
	ServiceCIDRs() []*networking.ServiceCIDR
	// Addresses are the cluster IPs that Services have.
	Addresses() []netip.Addr
}

// API is what this controller writes.
type API interface {
	// UpdateServiceCIDR changes the object, UpdateServiceCIDRStatus its status.
	UpdateServiceCIDR(ctx context.Context, name string, change func(*networking.ServiceCIDR)) error
	UpdateServiceCIDRStatus(ctx context.Context, name string, change func(*networking.ServiceCIDR)) error
}

// Controller runs as its Loop does. Its keys are ServiceCIDRs.
type Controller struct {
	*loop.Loop
	view View
	api  API
}

// New makes the controller.
func New(view View, api API, metrics *loop.Metrics, log *slog.Logger) *Controller {
	c := &Controller{view: view, api: api}
	c.Loop = loop.New("service-cidr", c.Reconcile, loop.Options{Workers: 1, Metrics: metrics, Log: log})
	return c
}

// Changed marks a ServiceCIDR and those that overlap it.
func (c *Controller) Changed(cidr *networking.ServiceCIDR) {
	c.Mark(loop.Key{Name: cidr.Name})
	for _, other := range c.view.ServiceCIDRs() {
		if other.DeletionTimestamp != nil && slices.ContainsFunc(prefixes(other), func(p netip.Prefix) bool {
			return slices.ContainsFunc(prefixes(cidr), p.Overlaps)
		}) {
			c.Mark(loop.Key{Name: other.Name})
		}
	}
}

// AddressGone marks the ServiceCIDRs that may have waited for an address to be given back.
func (c *Controller) AddressGone(ip netip.Addr) {
	for _, cidr := range c.view.ServiceCIDRs() {
		if cidr.DeletionTimestamp != nil && contains(cidr, ip) {
			c.Mark(loop.Key{Name: cidr.Name})
		}
	}
}

// Plan is what is to be written of one ServiceCIDR.
type Plan struct {
	Finalizer *bool             // nil: as it is; else whether it shall have it
	Ready     *metav1.Condition // nil: as it is
	Again     time.Duration     // when to look again; zero: when something changes
}

// Decide says what one of the ServiceCIDRs needs. Addresses are those that Services have.
func Decide(cidr *networking.ServiceCIDR, all []*networking.ServiceCIDR, addresses []netip.Addr, now time.Time) (p Plan) {
	has := slices.Contains(cidr.Finalizers, Finalizer)
	ready := metav1.Condition{Type: networking.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Message: "Kubernetes Service CIDR is ready"}
	switch {
	case cidr.DeletionTimestamp == nil:
		if !has {
			p.Finalizer = new(true)
		}
		if meta.IsStatusConditionTrue(cidr.Status.Conditions, ready.Type) {
			return p // whatever its words: the first range has its own
		}
	case !has:
		return p
	case orphans(cidr, all, addresses):
		ready.Status, ready.Reason = metav1.ConditionFalse, networking.ServiceCIDRReasonTerminating
		ready.Message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"
	default:
		if p.Again = grace - now.Sub(cidr.DeletionTimestamp.Time); p.Again <= 0 {
			p = Plan{Finalizer: new(false)}
		}
		return p
	}
	have := meta.FindStatusCondition(cidr.Status.Conditions, ready.Type)
	if have == nil || have.Status != ready.Status || have.Reason != ready.Reason || have.Message != ready.Message {
		p.Ready = &ready
	}
	return p
}

// orphans says that some address would lie in no range if this one went.
func orphans(cidr *networking.ServiceCIDR, all []*networking.ServiceCIDR, addresses []netip.Addr) bool {
	return slices.ContainsFunc(addresses, func(ip netip.Addr) bool {
		return contains(cidr, ip) && !slices.ContainsFunc(all, func(other *networking.ServiceCIDR) bool { return other.Name != cidr.Name && contains(other, ip) })
	})
}

func contains(cidr *networking.ServiceCIDR, ip netip.Addr) bool {
	return slices.ContainsFunc(prefixes(cidr), func(p netip.Prefix) bool { return p.Contains(ip) })
}

func prefixes(cidr *networking.ServiceCIDR) (all []netip.Prefix) {
	for _, text := range cidr.Spec.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// Reconcile looks after one ServiceCIDR.
func (c *Controller) Reconcile(ctx context.Context, key loop.Key) error {
	all := c.view.ServiceCIDRs()
	i := slices.IndexFunc(all, func(o *networking.ServiceCIDR) bool { return o.Name == key.Name })
	if i < 0 {
		return nil
	}
	p := Decide(all[i], all, c.view.Addresses(), time.Now())
	if p.Finalizer != nil {
		err := c.api.UpdateServiceCIDR(ctx, key.Name, func(o *networking.ServiceCIDR) {
			o.Finalizers = slices.DeleteFunc(o.Finalizers, func(f string) bool { return f == Finalizer })
			if *p.Finalizer {
				o.Finalizers = append(o.Finalizers, Finalizer)
			}
		})
		if err != nil {
			return fmt.Errorf("set the finalizer of service CIDR %s: %w", key.Name, err)
		}
	}
	if p.Ready != nil {
		err := c.api.UpdateServiceCIDRStatus(ctx, key.Name, func(o *networking.ServiceCIDR) { meta.SetStatusCondition(&o.Status.Conditions, *p.Ready) })
		if err != nil {
			return fmt.Errorf("set the condition of service CIDR %s: %w", key.Name, err)
		}
	}
	if p.Again > 0 {
		c.MarkAfter(key, p.Again)
	}
	return nil
}
