// Package netpol keeps pods of one node to what NetworkPolicies allow: it turns policies, and the pods and namespaces that they speak of, into one nftables table.
//
// It watches NetworkPolicies, Pods and Namespaces and writes the table, and only that. Each change goes to the kernel as nothing but what it changes. Semantics are those of
// https://kubernetes.io/docs/concepts/services-networking/network-policies/: a pod that some policy selects is isolated in that policy's directions, and reaches, or is reached by, what any of
// them allows. What none allows is dropped, without an answer. A connection that has begun goes on, also when a policy comes that would not have let it begin. A pod is
// always reached by its own node (probes), and by itself. Addresses are those of pods: a Service's have been translated by then. What a pod sends to the node itself counts as
// leaving it; the cluster's DNS server counts as the pods that answer for it elsewhere: in kube-system, labelled k8s-app=kube-dns. Pods on the node's own network are not
// selected, and nobody's peers by selectors.
// Always: the table is what the objects ask for, whoever else writes into it; it stays as it was until a process that starts has seen all objects, and when it ends. A pod
// for which Ready has returned is isolated by the policies that were there.
package netpol

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"

	"sampan.dev/internal/loop"
	"sampan.dev/internal/nft"
)

// View is what policies are about. Objects are shared and never changed; nil for what is not there.
type View interface {
	// Ready is closed once the view holds what the API holds.
	Ready() <-chan struct{}
	Policy(key loop.Key) *networking.NetworkPolicy
	Pod(key loop.Key) *corev1.Pod
	Namespace(name string) *corev1.Namespace
	// All names all objects, by their kinds as OnChange does.
	All(each func(kind Kind, key loop.Key))
	// OnChange calls when an object has changed. What it calls only marks. It is called once, before the view is run.
	OnChange(func(kind Kind, key loop.Key))
}

// Kind is a kind of objects.
type Kind int

// Kinds. The key of a Namespace has its name alone.
const (
	PolicyKind Kind = iota
	PodKind
	NamespaceKind
)

// Config is what a Policies works with. Fields without a default named are required.
type Config struct {
	Node    string
	Network Network
	View    View
	Kernel  nft.Kernel
	DNS     []netip.Addr // where this node answers for the cluster's DNS server
	Log     *slog.Logger
}

// Policies keeps the table.
type Policies struct {
	cfg Config

	keeper nft.Keeper

	mu      sync.Mutex // guards the fields below
	dirty   map[change]bool
	begun   map[loop.Key][]netip.Addr // addresses of pods that the API does not show yet
	waiting []chan struct{}           // closed once what was marked before is in force

	program *program // of Run alone
}

type change struct {
	kind Kind
	key  loop.Key
}

// dnsPod is what the DNS server counts as. No namespace's pod has such a name.
var dnsPod = loop.Key{Namespace: "kube-system", Name: "(the node's DNS server)"}

// New returns one that does nothing yet.
func New(cfg Config) *Policies {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	p := &Policies{cfg: cfg, dirty: map[change]bool{}, begun: map[loop.Key][]netip.Addr{}, program: newProgram(cfg.Network)}
	if len(cfg.DNS) > 0 {
		p.program.setPod(dnsPod, &Pod{
			Namespace: dnsPod.Namespace, Labels: labels.Set{"k8s-app": "kube-dns"}, Addrs: cfg.DNS,
			Ports: []NamedPort{{"dns", nft.UDP, 53}, {"dns-tcp", nft.TCP, 53}},
		})
	}
	p.keeper = nft.Keeper{Kernel: cfg.Kernel, Table: cfg.Network.Table, What: "network policies", Log: cfg.Log, Step: p.step}
	p.keeper.Init()
	cfg.View.OnChange(p.mark)
	return p
}

func (p *Policies) mark(kind Kind, key loop.Key) {
	p.mu.Lock()
	p.dirty[change{kind, key}] = true
	p.mu.Unlock()
	p.keeper.Poke()
}

// Ready returns once the policies that select a pod of this node are in force for its addresses, which the API may not show yet. The pod's containers are not to be started
// before.
func (p *Policies) Ready(ctx context.Context, pod loop.Key, addrs []netip.Addr) error {
	done := make(chan struct{})
	p.mu.Lock()
	p.begun[pod] = addrs
	p.dirty[change{PodKind, pod}] = true
	p.waiting = append(p.waiting, done)
	p.mu.Unlock()
	p.keeper.Poke()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for network policies of pod %s: %w", pod, ctx.Err())
	}
}

// Run keeps the table until ctx ends, and leaves it as it is then.
func (p *Policies) Run(ctx context.Context) error {
	select {
	case <-p.cfg.View.Ready():
	case <-ctx.Done():
		return nil
	}
	p.cfg.View.All(p.mark)
	return p.keeper.Run(ctx)
}

// step is nft.Keeper's.
func (p *Policies) step(ctx context.Context, all bool) (did bool, err error) {
	changes, waiting := p.take()
	if len(changes) == 0 && len(waiting) == 0 && !all {
		return false, nil
	}
	for c := range changes {
		p.look(c)
	}
	if err := p.send(ctx, all); err != nil {
		p.mu.Lock()
		p.waiting = append(p.waiting, waiting...) // who waits goes on waiting: a pod does not run unguarded
		p.mu.Unlock()
		return true, err
	}
	for _, done := range waiting {
		close(done)
	}
	return true, nil
}

func (p *Policies) take() (changes map[change]bool, waiting []chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	changes, waiting = p.dirty, p.waiting
	p.dirty, p.waiting = map[change]bool{}, nil
	return changes, waiting
}

// look takes over how one object is now.
func (p *Policies) look(c change) {
	switch c.kind {
	case PolicyKind:
		o := p.cfg.View.Policy(c.key)
		if o == nil {
			p.program.setPolicy(c.key, nil)
			return
		}
		p.program.setPolicy(c.key, read(o))
	case NamespaceKind:
		o := p.cfg.View.Namespace(c.key.Name)
		if o == nil {
			p.program.setNamespace(c.key.Name, nil)
			return
		}
		set := labels.Set(o.Labels)
		if set == nil {
			set = labels.Set{}
		}
		p.program.setNamespace(c.key.Name, set)
	case PodKind:
		p.program.setPod(c.key, p.pod(c.key))
	}
}

// pod is a pod with the addresses that are known of it: those that the API shows or, before it does, those that it was given here.
func (p *Policies) pod(key loop.Key) *Pod {
	pod := PodOf(p.cfg.View.Pod(key), p.cfg.Node)
	p.mu.Lock()
	defer p.mu.Unlock()
	begun := p.begun[key]
	switch {
	case pod == nil:
		delete(p.begun, key)
	case len(pod.Addrs) > 0 && len(begun) > 0:
		// A new sandbox has other addresses than the API still shows.
		if slices.Equal(pod.Addrs, begun) {
			delete(p.begun, key)
		} else {
			pod.Addrs = begun
		}
	case len(begun) > 0:
		pod.Addrs = begun
	}
	return pod
}

func (p *Policies) send(ctx context.Context, all bool) error {
	if all {
		return p.cfg.Kernel.Replace(ctx, p.program.table())
	}
	return p.cfg.Kernel.Change(ctx, p.program.step())
}
