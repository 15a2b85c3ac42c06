// Package clustertest is a whole cluster in the process of a test, and the script commands that drive it.
//
// The store, cache, registry, API server and control loops are the real ones, over TLS on loopback; nodes are simulated:
// they say that pods run, and no container does. Scripts (see Commands) drive it with the real kubectl.
// Always: a cluster lives in a directory of its own and leaves nothing outside it.
package clustertest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"sampan.dev/internal/admission"
	"sampan.dev/internal/allocate"
	"sampan.dev/internal/apiserver"
	"sampan.dev/internal/auth"
	"sampan.dev/internal/cache"
	"sampan.dev/internal/controller/kubeservice"
	"sampan.dev/internal/controller/nodelifecycle"
	"sampan.dev/internal/events"
	"sampan.dev/internal/kubeconfig"
	"sampan.dev/internal/pki"
	"sampan.dev/internal/registry"
	"sampan.dev/internal/registry/tokens"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/kinds"
	"sampan.dev/internal/scheduler/profile"
	"sampan.dev/internal/server/loops"
	"sampan.dev/internal/store/local"
	"sampan.dev/internal/token"
)

// scheduling gives the cluster a profile besides the default one: a packer of nodes.
const scheduling = `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles:
- schedulerName: default-scheduler
- schedulerName: packer
  plugins:
    score: {disabled: [{name: NodeResourcesBalancedAllocation}, {name: PodTopologySpread}], enabled: [{name: NodeResourcesFit, weight: 10}]}
    postFilter: {disabled: [{name: DefaultPreemption}]}
  pluginConfig:
  - {name: NodeResourcesFit, args: {scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 1}]}}}
`

// Cluster is a control plane with simulated nodes.
type Cluster struct {
	Dir        string
	Server     string // https://127.0.0.1:PORT
	Kubeconfig string // the path of an administrator's
	Table      *resource.Table
	Store      *local.Store
	Cache      *cache.Cache
	Registry   *registry.Registry

	api      *apiserver.Server
	loops    *loops.Loops
	events   *events.Recorder
	fleet    *fleet
	listener net.Listener
}

// New makes a cluster in dir, which may hold an earlier one. Run starts it.
func New(dir string, log *slog.Logger) (c *Cluster, err error) {
	c = &Cluster{Dir: dir, Kubeconfig: filepath.Join(dir, "kubeconfig"), Table: kinds.Table()}
	c.Store, err = local.Open(filepath.Join(dir, "store"), local.Options{Log: log})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Store.Close())
		}
	}()
	profiles, err := profile.Parse([]byte(scheduling))
	if err != nil {
		return nil, err
	}
	ca, err := pki.Open(filepath.Join(dir, "pki"))
	if err != nil {
		return nil, err
	}
	c.listener, err = net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the API: %w", err)
	}
	address := netip.MustParseAddrPort(c.listener.Addr().String())
	c.Server = "https://" + address.String()
	if err := c.writeKubeconfig(ca); err != nil {
		return nil, errors.Join(err, c.listener.Close())
	}
	c.Cache = cache.New(c.Table, c.Store, log)
	ranges := []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}
	services, _ := c.Table.ByKind(coreKind("Service"))
	alloc := allocate.New(allocate.Config{Table: c.Table, Cache: c.Cache, Store: c.Store, Ranges: ranges, NodePorts: allocate.DefaultPorts})
	c.Registry = registry.New(registry.Config{
		Table: c.Table, Store: c.Store, Cache: c.Cache, Admission: admission.Steps(c.Table, c.Cache), Now: time.Now, Log: log,
		Allocate: map[*resource.Kind]registry.Allocator{services: alloc},
	})
	event, _ := c.Table.ByKind(coreKind("Event"))
	c.events = events.New(events.Through(c.Registry, event), "sampan", "", events.Options{Scheme: c.Table.Scheme(), Log: log})
	c.loops = loops.New(loops.Config{
		Table: c.Table, Cache: c.Cache, Registry: c.Registry, Revision: c.Store.Revision, Events: c.events, CA: ca.CA(), Signer: ca, Log: log,
		Nodes: nodelifecycle.Config{Grace: silentGrace}, Profiles: profiles,
		// The API's address is this machine's loopback, which no endpoint may have.
		Own: kubeservice.Config{Server: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), address.Port()), Ranges: ranges, DNS: netip.MustParseAddr("10.96.0.10"), CA: ca.CA()},
	})
	key, err := ca.TokenKey()
	if err != nil {
		return nil, errors.Join(err, c.listener.Close())
	}
	authority, err := token.New(token.DefaultIssuer, key)
	if err != nil {
		return nil, errors.Join(err, c.listener.Close())
	}
	c.api = apiserver.New(apiserver.Config{
		Registry: c.Registry, Cache: c.Cache, Table: c.Table, Store: c.Store, Address: address, Tokens: tokens.New(c.Table, authority), Scheduling: scheduling,
		TLS: ca.ServerTLS([]string{"kubernetes", "localhost"}, address.Addr()), Log: log,
	})
	c.fleet = newFleet(c, log)
	return c, nil
}

func (c *Cluster) writeKubeconfig(ca *pki.PKI) error {
	cert, key, err := ca.ClientCert("kubernetes-admin", []string{auth.Masters}, 24*time.Hour)
	if err != nil {
		return err
	}
	return kubeconfig.Write(c.Kubeconfig, kubeconfig.Entry{Name: "sampan", Server: c.Server, CA: ca.CA(), Cert: cert, Key: key, DataDir: c.Dir})
}

// Run runs the cluster until ctx ends or a part of it fails, and returns when all of it has stopped.
func (c *Cluster) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, c.Store.Close()) }() // last: its users have returned
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.Cache.Run(ctx) })
	g.Go(func() error { return c.events.Run(auth.WithUser(ctx, auth.System("system:kube-controller-manager"))) })
	g.Go(func() error { return c.loops.Run(ctx) })
	g.Go(func() error { return c.fleet.Run(auth.WithUser(ctx, auth.System("system:node:simulated"))) })
	g.Go(func() error { return c.fleet.renew(auth.WithUser(ctx, auth.System("system:node:simulated"))) })
	g.Go(func() error { return c.api.Run(ctx, c.listener) })
	return g.Wait()
}
