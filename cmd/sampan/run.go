package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/uuid"

	"sampan.dev/internal/agent"
	"sampan.dev/internal/agent/inprocess"
	"sampan.dev/internal/auth"
	"sampan.dev/internal/bundle"
	"sampan.dev/internal/cache"
	"sampan.dev/internal/kubeconfig"
	"sampan.dev/internal/pki"
	"sampan.dev/internal/podnet"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/runtimeproc"
	"sampan.dev/internal/server"
	"sampan.dev/internal/version"
)

// drainTimeout bounds how long a stop with pods waits for them; `sampan down` has its own limit besides.
const drainTimeout = 5 * time.Minute

// How long pods have to end when the machine goes down, and how much of that is kept for the critical ones.
const (
	shutdownGrace    = 30 * time.Second
	shutdownCritical = 10 * time.Second
)

// run brings the parts up in their order, waits for the node, and keeps them up until ctx ends.
func (u *up) run(ctx context.Context) (err error) {
	if err := u.inst.Save(u.settings); err != nil {
		return err
	}
	if u.settings.NoAgent {
		return u.serverAlone(ctx)
	}
	labels, err := nodeLabels(u.settings.Labels)
	if err != nil {
		return usageError{err}
	}
	labels["node-role.kubernetes.io/control-plane"] = ""
	taints, err := nodeTaints(u.settings.Taints)
	if err != nil {
		return usageError{err}
	}
	// First of all, before any address is used, both ranges are closed. A server that shares its datastore asks there, the first time, which addresses its pods have.
	var pods *podnet.Network
	if !u.settings.Shared() || u.settings.NodePart.IsValid() {
		if pods, err = u.network(ctx); err != nil {
			return err
		}
	}
	var proc *runtimeproc.Process
	var runtimePID int
	starting, startCtx := errgroup.WithContext(ctx)
	if u.settings.CRI == "" {
		starting.Go(func() (err error) {
			proc, runtimePID, err = u.startRuntime(startCtx)
			return err
		})
	}
	names := newNames(u)
	srv, keys, err := u.openServer(ctx, names)
	if err := errors.Join(err, starting.Wait()); err != nil {
		if srv != nil {
			err = errors.Join(err, srv.Close())
		}
		return err
	}
	if proc != nil {
		u.say("runtime", "pid %d", runtimePID)
	}
	apiListener, nodeListener, err := u.listen()
	if err != nil {
		return errors.Join(err, srv.Close())
	}
	conn, err := dialCRI(endpoint(u.inst, u.settings))
	if err != nil {
		return errors.Join(err, srv.Close(), apiListener.Close(), nodeListener.Close())
	}
	defer conn.Close()

	parts, partsCtx := errgroup.WithContext(context.WithoutCancel(ctx))
	partsCtx, stop := context.WithCancel(partsCtx)
	defer stop()
	placed := pods == nil
	if placed {
		parts.Go(func() error { return srv.Run(partsCtx, apiListener) })
		placing, cancel := context.WithCancel(ctx)
		unhook := context.AfterFunc(partsCtx, cancel)
		if err = u.place(placing, srv, labels, taints); err == nil {
			pods, err = u.network(ctx)
		}
		unhook()
		cancel()
		if err != nil {
			stop()
			return u.broken(ctx, err, parts.Wait(), nodeListener)
		}
	}
	side := inprocess.New(srv.Table, srv.Cache, srv.Registry, u.settings.NodeName)
	side.SetTokens(srv.Tokens)
	services, err := newServices(u, pods, names, cluster{srv.Table, srv.Cache, srv.Events})
	if err != nil {
		stop()
		return u.broken(ctx, err, errors.Join(parts.Wait(), srv.Close()), nodeListener)
	}
	gateway := network(u.inst, u.settings).Gateway()
	cfg := agent.Config{
		NodeName: u.settings.NodeName, NodeIP: nodeAddress(u.settings.NodeIP, gateway, u.inst.Bridge()),
		NodeIP6: nodeAddress6(u.settings, u.inst.Bridge()),
		DataDir: u.inst.Dir, PodCIDRs: u.settings.Node(), CgroupParent: u.inst.CgroupParent(),
		Labels: labels, Taints: taints, EvictionHard: evictionHard(u.settings), PressureHold: u.settings.PressureHold,
		View: side, API: side, Events: srv.Events.As("kubelet", u.settings.NodeName), CRI: conn, Ports: pods,
		Proxy: services.proxy, Policies: services.policies, ClusterDNS: []netip.Addr{u.settings.DNS()},
		TLS: keys.ServerTLS([]string{u.settings.NodeName}), Listener: nodeListener,
		Version: version.Git(), Log: u.log,
	}
	if u.settings.Shared() { // others miss this node when it is gone, as they miss an agent
		stores := newStandstill(keys.ClientTLS("system:node:"+u.settings.NodeName, []string{auth.Nodes}))
		defer stores.close()
		cfg.Lease, cfg.StateDir = agentLease, u.inst.RunDir()
		cfg.Unserved = func(ctx context.Context) time.Duration { return unstored(ctx, srv, stores) }
	}
	node := agent.New(cfg)

	if !placed {
		parts.Go(func() error { return srv.Run(partsCtx, apiListener) })
	}
	parts.Go(func() error { return services.run(partsCtx) })
	parts.Go(func() error { return node.Run(partsCtx) })
	if proc != nil {
		parts.Go(func() error { return proc.Run(partsCtx, runtimePID) })
	}
	parts.Go(func() error {
		defer stop() // the others end with this one: it is the one that is told to stop
		return u.serve(ctx, partsCtx, func(ctx context.Context) error { return u.untilReady(ctx, srv, keys) }, node)
	})
	return u.stopped(ctx, parts.Wait(), runtimePID)
}

// network makes the pod network, and says so.
func (u *up) network(ctx context.Context) (*podnet.Network, error) {
	pods, err := podnet.Up(ctx, network(u.inst, u.settings))
	if err != nil {
		return nil, fmt.Errorf("make the pod network: %w", err)
	}
	u.say("network", "%v and %v on bridge %s", u.settings.PodRange, u.settings.ServiceCIDR, u.inst.Bridge())
	return pods, nil
}

// broken is the end of a start that did not get as far as the node. A part that failed says why; a stop that was asked for is none.
func (u *up) broken(asked context.Context, err, parts error, node net.Listener) error {
	closed := node.Close()
	switch {
	case asked.Err() != nil:
		return closed
	case parts != nil && errors.Is(err, context.Canceled):
		return parts
	}
	return errors.Join(err, parts, closed)
}

// serverAlone keeps a control plane up whose machine is no node.
func (u *up) serverAlone(ctx context.Context) error {
	srv, keys, err := u.openServer(ctx)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", netip.AddrPortFrom(u.settings.Bind, u.settings.APIPort).String())
	if err != nil {
		return errors.Join(fmt.Errorf("listen for the API: %w", err), srv.Close())
	}
	parts, partsCtx := errgroup.WithContext(ctx)
	parts.Go(func() error { return srv.Run(partsCtx, l) })
	parts.Go(func() error {
		told, err := u.untilServing(partsCtx, srv, keys)
		if err == nil && u.settings.Shared() {
			err = u.sameRanges(srv)
		}
		if err != nil {
			if partsCtx.Err() != nil {
				return nil
			}
			return err
		}
		fmt.Fprint(u.out, told)
		if u.report == nil {
			fmt.Fprintln(u.out, "Other machines join with `sampan agent`; `sampan token create` makes what they need. Stop with Ctrl-C.")
		}
		u.ready()
		debug.FreeOSMemory()
		return nil
	})
	return parts.Wait()
}

// stopped ends the runtime, too, if the pods were to stop, and else says that they run on.
func (u *up) stopped(ctx context.Context, err error, runtimePID int) error {
	if withPods(ctx) && err == nil {
		err = u.stopRuntime(runtimePID)
	} else if ctx.Err() != nil && err == nil {
		fmt.Fprintf(u.out, "sampan has stopped; its pods run on. `sampan %s` takes them up again, `sampan down` stops them.\n", u.settings.Command())
	}
	return err
}

// serve waits for the node, tells the person, and returns when it is asked to stop, with the pods stopped if that was asked too.
func (u *up) serve(asked, parts context.Context, until func(ctx context.Context) error, node *agent.Agent) error {
	either, cancel := context.WithCancel(asked)
	defer cancel()
	defer context.AfterFunc(parts, cancel)()
	err := until(either)
	if err != nil && either.Err() == nil {
		return err
	}
	if err == nil {
		u.ready()
		debug.FreeOSMemory() // what only the start needed
	}
	<-either.Done()
	if parts.Err() != nil || !withPods(asked) {
		return nil
	}
	if withMachine(asked) {
		if err := node.Shutdown(parts, shutdownGrace, shutdownCritical); err != nil && parts.Err() == nil {
			u.log.Error("not all pods have ended before the machine goes down", "error", err)
		}
	}
	drain, cancelDrain := context.WithTimeout(parts, drainTimeout)
	defer cancelDrain()
	if err := node.StopPods(drain); err != nil && parts.Err() == nil {
		return fmt.Errorf("stop pods: %w", err)
	}
	return nil
}

func (u *up) startRuntime(ctx context.Context) (*runtimeproc.Process, int, error) {
	program, err := bundle.Unpack(bundle.Runtime, u.inst.Bin())
	if err != nil {
		return nil, 0, err
	}
	proc := &runtimeproc.Process{
		Program: program, Socket: u.inst.RuntimeSocket(), Log: u.inst.RuntimeLog(), Logger: u.log,
		Args: []string{
			"--root=" + u.inst.RuntimeDir(), "--state=" + u.inst.RunDir(), "--socket=" + u.inst.RuntimeSocket(),
			"--cgroup-parent=" + u.inst.CgroupParent(), "--bridge=" + u.inst.Bridge(),
		},
	}
	pid, err := proc.Start(ctx)
	return proc, pid, err
}

// stopRuntime ends the runtime once no container runs.
func (u *up) stopRuntime(pid int) error {
	if pid == 0 {
		return nil
	}
	if now, err := runtimeproc.PeerPID(u.inst.RuntimeSocket()); err == nil {
		pid = now // it may have been started again meanwhile
	}
	return runtimeproc.Stop(context.Background(), pid)
}

func (u *up) openServer(ctx context.Context, metrics ...prometheus.Collector) (*server.Server, *pki.PKI, error) {
	balanced, err := balancing(u.settings)
	if err != nil {
		return nil, nil, err
	}
	st, err := u.openDatastore(ctx)
	if err != nil {
		return nil, nil, err
	}
	keys, err := pki.Open(u.inst.PKI())
	if err != nil {
		if st != nil {
			err = errors.Join(err, st.Close())
		}
		return nil, nil, err
	}
	host, _ := os.Hostname()
	srv, err := server.Open(server.Config{
		Store: st, Self: server.Self{Name: u.settings.NodeName, ID: u.settings.ServerID, Run: string(uuid.NewUUID())},
		StoreDir: u.inst.Store(), PKI: keys, Names: []string{u.settings.NodeName, host},
		Address:  netip.AddrPortFrom(nodeAddress(u.settings.NodeIP, network(u.inst, u.settings).Gateway(), u.inst.Bridge()), u.settings.APIPort),
		Services: u.settings.Services(), Pods: u.settings.Pods(), TolerationSeconds: u.settings.TolerationSeconds, NodePorts: u.settings.ServicePorts, DNS: u.settings.DNS(), LoadBalancer: balanced, Metrics: metrics, Log: u.log,
		Scheduling: u.scheduling.Config, SchedulingText: u.scheduling.text,
	})
	return srv, keys, err
}

func (u *up) listen() (api, node net.Listener, err error) {
	open := func(port uint16, what string) (net.Listener, error) {
		l, err := net.Listen("tcp", netip.AddrPortFrom(u.settings.Bind, port).String())
		if err != nil {
			return nil, fmt.Errorf("listen for %s: %w", what, err)
		}
		return l, nil
	}
	if api, err = open(u.settings.APIPort, "the API"); err != nil {
		return nil, nil, err
	}
	if node, err = open(u.settings.NodePort, "the node's server"); err != nil {
		return nil, nil, errors.Join(err, api.Close())
	}
	return api, node, nil
}

// untilServing tells each step until the API is there, writes the kubeconfigs, and returns what to tell of them.
func (u *up) untilServing(ctx context.Context, srv *server.Server, keys *pki.PKI) (told string, err error) {
	select {
	case <-srv.Cache.Ready():
	case <-ctx.Done():
		return "", ctx.Err()
	}
	revision, objects := srv.Objects()
	u.say("store", "revision %d, %d objects", revision, objects)
	if told, err = u.writeKubeconfigs(keys); err != nil {
		return "", err
	}
	u.say("API", "%s", serverURL(u.settings))
	return told, nil
}

// untilReady tells each step until the node is Ready.
func (u *up) untilReady(ctx context.Context, srv *server.Server, keys *pki.PKI) error {
	told, err := u.untilServing(ctx, srv, keys)
	if err != nil {
		return err
	}
	if err := u.untilNodeReady(ctx, srv.Table, srv.Cache); err != nil {
		return err
	}
	fmt.Fprint(u.out, told)
	return nil
}

// untilNodeReady waits until this machine's node is Ready, and says so.
func (u *up) untilNodeReady(ctx context.Context, table *resource.Table, seen *cache.Cache) error {
	select {
	case <-seen.Ready():
	case <-ctx.Done():
		return ctx.Err()
	}
	kind, _ := table.ByKind(corev1.SchemeGroupVersion.WithKind("Node"))
	sel := cache.Selection{Fields: fields.OneTermEqualSelector("metadata.name", u.settings.NodeName)}
	snap := seen.Snapshot()
	watcher, err := seen.Watch(kind, sel, snap.Revision())
	if err != nil {
		return fmt.Errorf("wait for the node: %w", err)
	}
	defer watcher.Stop()
	for obj := snap.Get(kind, "", u.settings.NodeName); ; {
		if obj != nil {
			node := cache.Typed[*corev1.Node](obj)
			// What a node said before a crash is not what it says now: only a heartbeat since this start counts.
			if c, err := condition(node.Status.Conditions, corev1.NodeReady); err == nil && c.Status == corev1.ConditionTrue && !c.LastHeartbeatTime.Time.Before(u.start.Truncate(time.Second)) {
				break
			}
		}
		select {
		case ev, ok := <-watcher.Events():
			if !ok {
				return fmt.Errorf("wait for the node: %w", watcher.Err())
			}
			obj = ev.Object
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	u.say("node", "%s is Ready", u.settings.NodeName)
	if u.report == nil {
		fmt.Fprintln(u.out, "Stop with Ctrl-C, and the pods run on; or from elsewhere with `sampan down`, and they stop too.")
	}
	return nil
}

// writeKubeconfigs writes DIR/kubeconfig and merges the context into the person's own; it returns what to tell of it. What keeps the
// second from being written keeps no cluster from starting.
func (u *up) writeKubeconfigs(keys *pki.PKI) (string, error) {
	cert, key, err := adminCert(keys, u.inst.PKI())
	if err != nil {
		return "", err
	}
	e := kubeconfig.Entry{Name: u.settings.Context, Server: serverURL(u.settings), CA: keys.CA(), Cert: cert, Key: key, DataDir: u.inst.Dir}
	if err := kubeconfig.Write(u.inst.Kubeconfig(), e); err != nil {
		return "", err
	}
	own := fmt.Sprintf("Kubeconfig: %s\n", u.inst.Kubeconfig())
	path, owner := u.kubeconfig, kubeconfig.Owner{}
	if path == "" {
		path, owner = kubeconfig.UserFile(os.Getenv)
	}
	if !u.merge || path == "" {
		return own, nil
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", err
	}
	done, err := kubeconfig.Merge(path, e, u.settings.Context+"-"+u.inst.ID, owner)
	if err != nil {
		return own + fmt.Sprintf("Not merged into your own: %v\n", err), nil
	}
	u.settings.Kubeconfig = path
	if err := u.inst.Save(u.settings); err != nil {
		return "", err
	}
	told := own + fmt.Sprintf("Context %s is in %s", done.Context, path)
	if done.Current == done.Context {
		return told + ", as the current one.\n", nil
	}
	return told + fmt.Sprintf("; the current one there is still %s.\n", done.Current), nil
}
