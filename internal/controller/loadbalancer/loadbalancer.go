// Package loadbalancer gives Services of type LoadBalancer the addresses at which they are reached from outside, where no cloud does: the nodes' own, or those
// of pools.
//
// It watches Services, Nodes, the EndpointSlices of Services whose packets stay on a node, and the ConfigMap kube-system/sampan-load-balancer; it writes the Services'
// status.loadBalancer and events. How packets come to an address is the work of others: internal/announce tells the local network whom to send them to, internal/proxy
// sends them to pods.
// Always: a Service of another class is left alone; no port of an address is given to two Services; a Service that has a valid address keeps it, across restarts; one that
// waits says by one event why. As nothing is left outside when a Service goes, no finalizer holds it.
package loadbalancer

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"sampan.dev/internal/loop"
)

// View shows the current objects, which are shared; nil if there is none.
type View interface {
	Service(key loop.Key) *corev1.Service
	// Balanced are all Services of type LoadBalancer.
	Balanced() []*corev1.Service
	Nodes() []*corev1.Node
	// Ends names the nodes that have an endpoint of the Service which is ready.
	Ends(key loop.Key) map[string]bool
	// Settings is the ConfigMap of that Namespace and Name.
	Settings() *corev1.ConfigMap
}

// API is what this controller writes.
type API interface {
	// SetIngress sets status.loadBalancer.ingress, unless the Service is gone or has another UID.
	SetIngress(ctx context.Context, s *corev1.Service, ingress []corev1.LoadBalancerIngress) error
}

// Recorder tells what happened.
type Recorder interface {
	Record(obj runtime.Object, kind, reason, message string)
}

// Controller runs as its Loop does. Its workers decide one after another, and write beside each other.
type Controller struct {
	*loop.Loop
	view   View
	api    API
	events Recorder
	log    *slog.Logger
	flags  Config

	deciding sync.Mutex // guards the fields below

	config  Config // flags, with what the ConfigMap says
	refused string // what of the ConfigMap was wrong, and told
	book    *Book  // nil until the first key
	told    map[loop.Key]string

	mu    sync.Mutex // guards the field below
	types map[loop.Key]string
}

// New makes the controller.
func New(cfg Config, view View, api API, events Recorder, metrics *loop.Metrics, log *slog.Logger) *Controller {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &Controller{view: view, api: api, events: events, log: log, flags: cfg, config: cfg, told: map[loop.Key]string{}, types: map[loop.Key]string{}}
	c.Loop = loop.New("load-balancer", c.Reconcile, loop.Options{Workers: 8, Metrics: metrics, Log: log})
	return c
}

// ground is the key of what all addresses are given out of: no Service has an empty name.
var ground = loop.Key{}

// GroundChanged says that a node or the ConfigMap has changed.
func (c *Controller) GroundChanged() { c.Mark(ground) }

// ServiceChanged says that a Service has come, changed or gone: it was and is what is given here, nil for nothing.
func (c *Controller) ServiceChanged(key loop.Key, was, is *corev1.Service) {
	before, now := was != nil && Ours(was), is != nil && Ours(is)
	switch {
	case was == nil && is != nil && stale(is): // left over from a time when nobody looked
	case !before && !now:
		return
	case was != nil && is != nil && was.Spec.Type != is.Spec.Type:
		c.mu.Lock()
		c.types[key] = fmt.Sprintf("%s -> %s", was.Spec.Type, is.Spec.Type)
		c.mu.Unlock()
	}
	c.Mark(key)
}

// cleanup is the finalizer of controllers that have made something outside. They clear the status themselves.
const cleanup = "service.kubernetes.io/load-balancer-cleanup"

// stale says that a Service has addresses of a load balancer that it no longer wants.
func stale(s *corev1.Service) bool {
	return s.Spec.Type != corev1.ServiceTypeLoadBalancer && len(s.Status.LoadBalancer.Ingress) > 0 && !slices.Contains(s.Finalizers, cleanup)
}

// Reconcile gives one Service what it gets now.
func (c *Controller) Reconcile(ctx context.Context, key loop.Key) error {
	if key == ground {
		c.deciding.Lock()
		defer c.deciding.Unlock()
		c.survey()
		return nil
	}
	s := c.view.Service(key)
	c.tellType(key, s)
	if s == nil || !Ours(s) {
		return c.clear(ctx, s, c.forget(key))
	}
	verdict, news := c.decide(key, s)
	same := sameIngress(s.Status.LoadBalancer.Ingress, verdict.Addresses)
	if !same || news {
		c.events.Record(s, corev1.EventTypeNormal, "EnsuringLoadBalancer", "Ensuring load balancer")
	}
	if news {
		c.events.Record(s, corev1.EventTypeWarning, verdict.Reason, verdict.Words)
	}
	if same {
		return nil
	}
	if err := c.set(ctx, s, verdict.Addresses); err != nil {
		return err
	}
	if verdict.Words == "" {
		c.events.Record(s, corev1.EventTypeNormal, "EnsuredLoadBalancer", "Ensured load balancer")
	}
	return nil
}

// decide asks the book, and says whether a reason to wait is one that has not been told.
func (c *Controller) decide(key loop.Key, s *corev1.Service) (v Verdict, news bool) {
	c.deciding.Lock()
	defer c.deciding.Unlock()
	c.open()
	v, wake := c.book.Decide(ClaimOf(s), c.view.Ends)
	c.mark(wake)
	if v.Words == "" {
		delete(c.told, key)
		return v, false
	}
	news = c.told[key] != v.Words
	c.told[key] = v.Words
	return v, news
}

// clear takes away what a Service had, which does not want it any more. Those who write it may have emptied its status already.
func (c *Controller) clear(ctx context.Context, s *corev1.Service, had bool) error {
	if s == nil || s.Spec.Type == corev1.ServiceTypeLoadBalancer || !had && !stale(s) {
		return nil // gone, or for others to care for
	}
	c.events.Record(s, corev1.EventTypeNormal, "DeletingLoadBalancer", "Deleting load balancer")
	if stale(s) {
		if err := c.set(ctx, s, nil); err != nil {
			return err
		}
	}
	c.events.Record(s, corev1.EventTypeNormal, "DeletedLoadBalancer", "Deleted load balancer")
	return nil
}

// forget takes a Service out of the book, and says whether it had something.
func (c *Controller) forget(key loop.Key) (had bool) {
	c.deciding.Lock()
	defer c.deciding.Unlock()
	c.open()
	had = c.book.Has(key)
	c.mark(c.book.Remove(key))
	delete(c.told, key)
	return had
}

func (c *Controller) set(ctx context.Context, s *corev1.Service, addrs []netip.Addr) error {
	var ingress []corev1.LoadBalancerIngress
	for _, a := range addrs {
		ingress = append(ingress, corev1.LoadBalancerIngress{IP: a.String(), IPMode: new(corev1.LoadBalancerIPModeVIP)})
	}
	if err := c.api.SetIngress(ctx, s, ingress); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("set status of service %s/%s: %w", s.Namespace, s.Name, err)
	}
	return nil
}

// sameIngress says that a status is what would be written.
func sameIngress(ingress []corev1.LoadBalancerIngress, addrs []netip.Addr) bool {
	return slices.EqualFunc(ingress, addrs, func(in corev1.LoadBalancerIngress, a netip.Addr) bool {
		return in.IP == a.String() && in.Hostname == "" && in.IPMode != nil && *in.IPMode == corev1.LoadBalancerIPModeVIP && len(in.Ports) == 0
	})
}

// tellType tells of a change of type, once.
func (c *Controller) tellType(key loop.Key, s *corev1.Service) {
	c.mu.Lock()
	words := c.types[key]
	delete(c.types, key)
	c.mu.Unlock()
	if words != "" && s != nil {
		c.events.Record(s, corev1.EventTypeNormal, "Type", words)
	}
}

func (c *Controller) mark(keys []loop.Key) {
	for _, key := range keys {
		c.Mark(key)
	}
}

// open fills the book from what the Services' status says, before it is first asked.
func (c *Controller) open() {
	if c.book != nil {
		return
	}
	c.book = NewBook(c.look())
	var claims []*Claim
	for _, s := range c.view.Balanced() {
		if Ours(s) {
			claims = append(claims, ClaimOf(s))
		}
	}
	c.book.Fill(claims, c.view.Ends)
	c.mark(c.book.Keys())
}

// survey looks at nodes and settings, and has all Services decided on again if they are not what they were.
func (c *Controller) survey() {
	c.open()
	if g := c.look(); !reflect.DeepEqual(g, c.book.ground) {
		c.book.SetGround(g)
		c.mark(c.book.Keys())
	}
}

func (c *Controller) look() Ground {
	m := c.view.Settings()
	config, err := c.flags.WithMap(m)
	if err == nil {
		c.config, c.refused = config, ""
	} else if err.Error() != c.refused {
		c.refused = err.Error()
		c.log.Warn("the load balancer's settings cannot be read; the former ones stay", "configmap", Namespace+"/"+Name, "error", err)
		c.events.Record(m, corev1.EventTypeWarning, "InvalidLoadBalancerSettings", fmt.Sprintf("The former settings stay: %v", err))
	}
	g := Ground{Pools: c.config.Pools, Reserved: c.config.ReservedPorts}
	for _, n := range c.view.Nodes() {
		g.Nodes = append(g.Nodes, NodeOf(n))
	}
	return g
}
