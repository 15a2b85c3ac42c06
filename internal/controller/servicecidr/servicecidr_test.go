package servicecidr

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func cidr(name string, ranges ...string) *networking.ServiceCIDR {
	return &networking.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networking.ServiceCIDRSpec{CIDRs: ranges}}
}

func kept(c *networking.ServiceCIDR) *networking.ServiceCIDR {
	c.Finalizers = append(c.Finalizers, "another", Finalizer)
	return c
}

func with(c *networking.ServiceCIDR, status metav1.ConditionStatus, reason, message string) *networking.ServiceCIDR {
	c.Status.Conditions = []metav1.Condition{{Type: networking.ServiceCIDRConditionReady, Status: status, Reason: reason, Message: message}}
	return c
}

func TestDecide(t *testing.T) {
	now := time.Now()
	deleted := func(c *networking.ServiceCIDR, ago time.Duration) *networking.ServiceCIDR {
		c.DeletionTimestamp = &metav1.Time{Time: now.Add(-ago)}
		return c
	}
	const words = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"
	for name, c := range map[string]struct {
		cidr   *networking.ServiceCIDR
		others []*networking.ServiceCIDR
		taken  []string
		keep   *bool
		ready  metav1.ConditionStatus
		again  time.Duration
	}{
		"a new one is kept, and may be used":           {cidr: cidr("a", "10.0.0.0/24"), keep: new(true), ready: metav1.ConditionTrue},
		"one that is ready is left alone":              {cidr: with(kept(cidr("a", "10.0.0.0/24")), "True", "", "Kubernetes Service CIDR is ready")},
		"the first has words of its own":               {cidr: with(kept(cidr("a", "10.0.0.0/24")), "True", "", "Kubernetes default Service CIDR is ready")},
		"one that was not ready":                       {cidr: with(kept(cidr("a", "10.0.0.0/24")), "False", "Terminating", words), ready: metav1.ConditionTrue},
		"deleted, with an address in use":              {cidr: deleted(kept(cidr("a", "10.0.0.0/24")), time.Hour), taken: []string{"10.0.0.7"}, ready: metav1.ConditionFalse},
		"deleted, with an address in use, and said so": {cidr: deleted(with(kept(cidr("a", "10.0.0.0/24")), "False", "Terminating", words), time.Hour), taken: []string{"10.0.0.7"}},
		"deleted, with an address of another range":    {cidr: deleted(kept(cidr("a", "10.0.0.0/24")), time.Hour), taken: []string{"10.0.1.7"}, keep: new(false)},
		"deleted, with an address of the other family": {cidr: deleted(kept(cidr("a", "10.0.0.0/24", "fd00::/112")), time.Hour), taken: []string{"fd00::7"}, ready: metav1.ConditionFalse},
		"deleted, with an address that a larger has":   {cidr: deleted(kept(cidr("a", "10.0.0.0/24")), time.Hour), others: []*networking.ServiceCIDR{cidr("b", "10.0.0.0/16")}, taken: []string{"10.0.0.7"}, keep: new(false)},
		"deleted, with an address that a smaller has":  {cidr: deleted(kept(cidr("a", "10.0.0.0/16")), time.Hour), others: []*networking.ServiceCIDR{cidr("b", "10.0.0.0/24")}, taken: []string{"10.0.0.7"}, keep: new(false)},
		"deleted, with one that the smaller has not":   {cidr: deleted(kept(cidr("a", "10.0.0.0/16")), time.Hour), others: []*networking.ServiceCIDR{cidr("b", "10.0.0.0/24")}, taken: []string{"10.0.9.7"}, ready: metav1.ConditionFalse},
		"deleted a moment ago":                         {cidr: deleted(kept(cidr("a", "10.0.0.0/24")), 3*time.Second), again: 7 * time.Second},
		"deleted, and only another finalizer keeps it": {cidr: deleted(func() *networking.ServiceCIDR {
			c := cidr("a", "10.0.0.0/24")
			c.Finalizers = []string{"another"}
			return c
		}(), time.Hour), taken: []string{"10.0.0.7"}},
	} {
		t.Run(name, func(t *testing.T) {
			var taken []netip.Addr
			for _, text := range c.taken {
				taken = append(taken, netip.MustParseAddr(text))
			}
			p := Decide(c.cidr, append(c.others, c.cidr), taken, now)
			ready := metav1.ConditionStatus("")
			if p.Ready != nil {
				ready = p.Ready.Status
			}
			if (p.Finalizer == nil) != (c.keep == nil) || c.keep != nil && *p.Finalizer != *c.keep || ready != c.ready || p.Again != c.again {
				t.Errorf("the plan is %+v", p)
			}
		})
	}
}

// shelf is the API and the view of it.
type shelf struct {
	cidrs []*networking.ServiceCIDR
	taken []netip.Addr
}

func (s *shelf) ServiceCIDRs() []*networking.ServiceCIDR { return s.cidrs }
func (s *shelf) Addresses() []netip.Addr                 { return s.taken }
func (s *shelf) UpdateServiceCIDR(_ context.Context, name string, change func(*networking.ServiceCIDR)) error {
	for i, c := range s.cidrs {
		if c.Name == name {
			s.cidrs[i] = c.DeepCopy()
			change(s.cidrs[i])
		}
	}
	s.cidrs = slices.DeleteFunc(s.cidrs, func(c *networking.ServiceCIDR) bool { return c.DeletionTimestamp != nil && len(c.Finalizers) == 0 })
	return nil
}

func (s *shelf) UpdateServiceCIDRStatus(ctx context.Context, name string, change func(*networking.ServiceCIDR)) error {
	return s.UpdateServiceCIDR(ctx, name, change)
}

func TestARangeWaitsForItsLastAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{cidrs: []*networking.ServiceCIDR{cidr("more", "10.0.0.0/24")}, taken: []netip.Addr{netip.MustParseAddr("10.0.0.7")}}
		c := New(s, s, nil, nil)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		c.Changed(s.cidrs[0])
		synctest.Wait()
		if o := s.cidrs[0]; !slices.Equal(o.Finalizers, []string{Finalizer}) || len(o.Status.Conditions) != 1 || o.Status.Conditions[0].Status != "True" {
			t.Errorf("it is %+v", o)
		}
		s.cidrs[0].DeletionTimestamp = &metav1.Time{Time: time.Now()}
		c.Changed(s.cidrs[0])
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(s.cidrs) != 1 || s.cidrs[0].Status.Conditions[0].Reason != "Terminating" {
			t.Fatalf("with an address in use the ranges are %+v", s.cidrs)
		}
		s.taken = nil
		c.AddressGone(netip.MustParseAddr("10.0.0.7"))
		synctest.Wait()
		if len(s.cidrs) != 0 {
			t.Errorf("without one they are %+v", s.cidrs[0])
		}
		stop()
		<-done
	})
}
