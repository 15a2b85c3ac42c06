package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sampan.dev/internal/agent"
	"sampan.dev/internal/agent/joined"
	"sampan.dev/internal/auth"
	"sampan.dev/internal/cache"
	"sampan.dev/internal/client"
	"sampan.dev/internal/controller/nodelifecycle"
	"sampan.dev/internal/events"
	"sampan.dev/internal/join"
	"sampan.dev/internal/mirror"
	"sampan.dev/internal/podnet"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/kinds"
	"sampan.dev/internal/runtimeproc"
	"sampan.dev/internal/version"
)

const (
	// agentLease is how long the lease of a node without a server is good for: for so long the control plane waits before it calls the node unreachable. It is renewed
	// every five seconds, so that a loss is noticed in ten.
	agentLease = nodelifecycle.Grace
	// agentPing is how long a connection with a server may be silent before it is asked whether it is there.
	agentPing = 4 * time.Second
	// firstAnswer bounds how long a start of a node that has been one before waits for a server; its pods are looked after without one.
	firstAnswer = 5 * time.Second
)

// agentRun is a start of an agent.
type agentRun struct {
	*up
	token *join.Token
	mu    *sync.Mutex // guards which servers the settings name, once the parts run
}

// run joins, if that has not been done, brings the parts up in their order, and keeps them up until ctx ends.
func (r agentRun) run(ctx context.Context) error {
	table := kinds.Table()
	id, err := join.Join(ctx, join.Config{
		Servers: r.settings.Servers, Node: r.settings.NodeName, Dir: r.inst.PKI(), Table: table, Ping: agentPing, Say: func(text string) { r.say("join", "%s", text) },
	}, r.token)
	if err != nil {
		return err
	}
	c, err := client.New(client.Config{
		Server: r.settings.Servers[0], Others: r.settings.AllServers()[1:], TLS: id.ClientTLS(), Table: table, Agent: "sampan-agent/" + version.Git(), Ping: agentPing,
	})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := r.place(ctx, c); err != nil {
		return err
	}
	if err := r.inst.Save(r.settings); err != nil {
		return err
	}
	pods, err := podnet.Up(ctx, network(r.inst, r.settings))
	if err != nil {
		return fmt.Errorf("make the pod network: %w", err)
	}
	r.say("network", "%v of %v on bridge %s", r.settings.NodeRange(), r.settings.PodRange, r.inst.Bridge())
	var proc *runtimeproc.Process
	var runtimePID int
	if r.settings.CRI == "" {
		if proc, runtimePID, err = r.startRuntime(ctx); err != nil {
			return err
		}
		r.say("runtime", "pid %d", runtimePID)
	}
	return r.keep(ctx, id, c, table, pods, proc, runtimePID)
}

// place learns the cluster's address ranges and this node's part of them. A node that has been one before, and reaches no server, goes on with what it knows.
func (r agentRun) place(ctx context.Context, c *client.Client) error {
	known := r.settings.NodePart.IsValid()
	asking := ctx
	if known {
		var cancel context.CancelFunc
		asking, cancel = context.WithTimeout(ctx, firstAnswer)
		defer cancel()
	}
	net, err := join.NetworkOf(asking, c)
	var node *corev1.Node
	if err == nil {
		node, err = r.placed(asking, c)
	}
	switch {
	case err == nil:
	case known && ctx.Err() == nil && !apierrors.IsForbidden(err) && !apierrors.IsUnauthorized(err):
		r.say("server", "none answers; going on with what is known")
		r.log.Warn("no server answers; going on with what is known", "error", err)
		return nil
	default:
		return err
	}
	r.say("server", "%s", c.Server())
	s := &r.settings
	s.PodRange, s.ServiceCIDR = net.Pods[0], net.Services[0]
	if len(net.Pods) > 1 && len(net.Services) > 1 {
		s.PodRange6, s.ServiceCIDR6 = net.Pods[1], net.Services[1]
	}
	for _, text := range node.Spec.PodCIDRs {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("read the pod range of node %s: %w", s.NodeName, err)
		}
		if p.Addr().Is4() {
			s.NodePart = p
		} else {
			s.NodePart6 = p
		}
	}
	if !s.NodePart.IsValid() {
		return fmt.Errorf("node %s has got no IPv4 range for pods, but %v", s.NodeName, node.Spec.PodCIDRs)
	}
	return nil
}

// placed is the Node once it has its part of the pods' range. It is made if it is not there.
func (r agentRun) placed(ctx context.Context, c *client.Client) (*corev1.Node, error) {
	labels, err := nodeLabels(r.settings.Labels)
	if err != nil {
		return nil, usageError{err}
	}
	taints, err := nodeTaints(r.settings.Taints)
	if err != nil {
		return nil, usageError{err}
	}
	name := r.settings.NodeName
	node, err := client.Get[*corev1.Node](ctx, c, "", name)
	if apierrors.IsNotFound(err) {
		node, err = client.Create(ctx, c, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: corev1.NodeSpec{Taints: taints}})
	}
	if err != nil || len(node.Spec.PodCIDRs) > 0 {
		return node, err
	}
	const patience = time.Minute
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	done := errors.New("placed")
	err = client.Watch(waiting, c, client.Selection{Fields: "metadata.name=" + name}, func(e client.Event[*corev1.Node]) error {
		if e.Object != nil && len(e.Object.Spec.PodCIDRs) > 0 {
			node = e.Object
			return done
		}
		return nil
	}, nil)
	if errors.Is(err, done) {
		return node, nil
	}
	return nil, errors.Join(fmt.Errorf("node %s has got no part of the pods' range: `kubectl describe node %s` may tell why", name, name), err, ctx.Err())
}

// sources is what a node has to see of its cluster: its own pods, and what leads packets and answers for names.
func (r agentRun) sources(table *resource.Table) []mirror.Source {
	source := func(group, plural string, s client.Selection) mirror.Source {
		k, _ := table.ByResource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: plural})
		return mirror.Source{Kind: k, Select: s}
	}
	return []mirror.Source{
		source("", "nodes", client.Selection{}),
		source("", "pods", r.ownPods()),
		source("", "namespaces", client.Selection{}),
		source("", "services", client.Selection{}),
		source("discovery.k8s.io", "endpointslices", client.Selection{}),
		source("networking.k8s.io", "networkpolicies", client.Selection{}),
		source("networking.k8s.io", "servicecidrs", client.Selection{}),
		source("", "configmaps", client.Selection{Namespace: metav1.NamespaceSystem, Fields: "metadata.name=" + auth.BalancerName}),
	}
}

func (r agentRun) ownPods() client.Selection {
	return client.Selection{Fields: "spec.nodeName=" + r.settings.NodeName}
}

// keep runs the parts until ctx ends.
func (r agentRun) keep(ctx context.Context, id *join.Identity, c *client.Client, table *resource.Table, pods *podnet.Network, proc *runtimeproc.Process, runtimePID int) error {
	sources := r.sources(table)
	mirrored := mirror.New(c, sources, r.log)
	seen := cache.New(table, mirrored, r.log)
	r.followPolicies(seen, mirrored, sources)
	access := joined.New(table, seen, c, r.settings.NodeName)
	recorder := events.New(joined.Events{Client: c}, "kubelet", r.settings.NodeName, events.Options{Scheme: table.Scheme(), Log: r.log})
	names := newNames(r.up)
	services, err := newServices(r.up, pods, names, cluster{table, seen, recorder})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", netip.AddrPortFrom(r.settings.Bind, r.settings.NodePort).String())
	if err != nil {
		return fmt.Errorf("listen for the node's server: %w", err)
	}
	conn, err := dialCRI(endpoint(r.inst, r.settings))
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer conn.Close()
	labels, _ := nodeLabels(r.settings.Labels)
	first := r.address(c)
	if !first.IsValid() {
		first = nodeAddress(netip.Addr{}, network(r.inst, r.settings).Gateway(), r.inst.Bridge())
	}
	stores := newStandstill(id.ClientTLS())
	defer stores.close()
	unserved := func(ctx context.Context) time.Duration { return stores.unserved(ctx, r.allServers()) }
	node := agent.New(agent.Config{
		NodeName: r.settings.NodeName, NodeIP: first, NodeIP6: nodeAddress6(r.settings, r.inst.Bridge()),
		DataDir: r.inst.Dir, PodCIDRs: r.settings.Node(), CgroupParent: r.inst.CgroupParent(), Labels: labels,
		EvictionHard: evictionHard(r.settings), PressureHold: r.settings.PressureHold,
		Lease: agentLease, Unserved: unserved, StateDir: r.inst.RunDir(),
		View: access, API: access, Events: recorder.As("kubelet", r.settings.NodeName), CRI: conn, Ports: pods,
		Proxy: services.proxy, Policies: services.policies, ClusterDNS: []netip.Addr{r.settings.DNS()},
		TLS: id.ServerTLS(), Listener: listener, Version: version.Git(), Log: r.log,
	})
	moved := make(chan struct{}, 1)
	services.onMoved = func() {
		if n := c.Leave(notHere()); n > 0 { // nothing comes by them any more: no need to find that out by silence
			r.log.Warn("connections with the cluster's servers are made anew: their addresses are gone from this machine", "count", n)
		}
		if now := r.address(c); now.IsValid() { // a link that is down for a while is no new address
			node.SetAddresses(now, nodeAddress6(r.settings, r.inst.Bridge()))
		}
		select {
		case moved <- struct{}{}:
		default:
		}
	}
	own := func() (all []netip.Addr) { // those that the cluster knows: only these are signed
		n, err := access.Node(ctx, r.settings.NodeName)
		if err != nil {
			return nil
		}
		for _, a := range n.Status.Addresses {
			if ip, err := netip.ParseAddr(a.Address); err == nil {
				all = append(all, ip.Unmap())
			}
		}
		return all
	}
	nodes, _ := table.ByKind(corev1.SchemeGroupVersion.WithKind("Node"))
	seen.OnChange(nodes, func(_, new *cache.Object) {
		if new != nil && new.Name() == r.settings.NodeName {
			select {
			case moved <- struct{}{}:
			default:
			}
		}
	})

	parts, partsCtx := errgroup.WithContext(context.WithoutCancel(ctx))
	partsCtx, stop := context.WithCancel(partsCtx)
	defer stop()
	parts.Go(func() error { return mirrored.Run(partsCtx) })
	parts.Go(func() error { return seen.Run(partsCtx) })
	parts.Go(func() error { return access.Run(partsCtx) })
	parts.Go(func() error { return recorder.Run(partsCtx) })
	parts.Go(func() error { return services.run(partsCtx) })
	parts.Go(func() error { return node.Run(partsCtx) })
	parts.Go(func() error { return join.FollowServers(partsCtx, c, func(all []string) { r.told(c, all) }) })
	parts.Go(func() error {
		return id.Run(partsCtx, c, own, moved, c.Renew, func(err error) { r.log.Warn("the node's certificates", "error", err) })
	})
	if proc != nil {
		parts.Go(func() error { return proc.Run(partsCtx, runtimePID) })
	}
	parts.Go(func() error {
		defer stop()
		return r.serve(ctx, partsCtx, func(ctx context.Context) error { return r.untilNodeReady(ctx, table, seen) }, node)
	})
	err = parts.Wait()
	return r.stopped(ctx, err, runtimePID)
}

// followPolicies has the pods of all nodes followed while there are network policies, which select among them.
func (r agentRun) followPolicies(seen *cache.Cache, mirrored *mirror.Mirror, sources []mirror.Source) {
	var pods, policies *resource.Kind
	for _, s := range sources {
		switch s.Kind.Plural {
		case "pods":
			pods = s.Kind
		case "networkpolicies":
			policies = s.Kind
		}
	}
	count := 0
	seen.OnChange(policies, func(old, new *cache.Object) {
		switch {
		case old == nil && new != nil:
			if count++; count == 1 {
				mirrored.Select(pods, client.Selection{})
			}
		case old != nil && new == nil:
			if count--; count == 0 {
				mirrored.Select(pods, r.ownPods())
			}
		}
	})
}

// address is the node's own: the one that was chosen, or that by which it reaches its server. Without a way there it is none.
func (r agentRun) address(c *client.Client) netip.Addr {
	if r.settings.NodeIP.IsValid() {
		return r.settings.NodeIP
	}
	u, err := url.Parse(c.Server())
	if err != nil {
		return netip.Addr{}
	}
	conn, err := net.Dial("udp", u.Host) // which sends nothing: the kernel only looks up the route
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close()
	if a, ok := conn.LocalAddr().(*net.UDPAddr); ok {
		if ip := a.AddrPort().Addr().Unmap(); ip.Is4() && !ip.IsLoopback() && ip != network(r.inst, r.settings).Gateway() {
			return ip
		}
	}
	return netip.Addr{}
}

// notHere says which addresses are none of this machine's, as it is now. If they cannot be read, none is.
func notHere() func(netip.Addr) bool {
	all, err := net.InterfaceAddrs()
	here := map[netip.Addr]bool{}
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			here[p.Addr().Unmap()] = true
		}
	}
	return func(a netip.Addr) bool { return err == nil && len(here) > 0 && !here[a.WithZone("")] }
}

// allServers are those that are known now.
func (r agentRun) allServers() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.settings.AllServers()
}

// told takes over which servers the cluster has.
func (r agentRun) told(c *client.Client, servers []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Equal(r.settings.Told, servers) {
		return
	}
	r.settings.Told = slices.Clone(servers)
	err := c.SetServers(r.settings.AllServers())
	if err == nil {
		err = r.inst.Save(r.settings)
	}
	if err != nil {
		r.log.Warn("the cluster's servers", "error", err)
	}
}
