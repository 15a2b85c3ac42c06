// Package apiserver speaks HTTP in Kubernetes' dialect: discovery, verbs, patches, watches, tables, OpenAPI, and the way to a node's
// logs and commands.
//
// It reads from the cache, writes through the registry, and keeps no state of its own. Always: every request is somebody's and is
// allowed by the authorizer before its body is looked at; whatever a client sends, the answer is in Kubernetes' words and blames the client
// where it is to blame; what is listed and watched are bytes that the cache keeps, encoded once for all clients; a read without a
// resourceVersion sees every write answered before it.
package apiserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sampan.dev/internal/auth"
	"sampan.dev/internal/cache"
	"sampan.dev/internal/registry"
	"sampan.dev/internal/registry/tokens"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/store"
	"sampan.dev/internal/version"
)

// Authorizer says whether a request is allowed, and if it is not, maybe why. auth.Rules is one.
type Authorizer interface {
	Authorize(q *auth.Request) (allowed bool, reason string)
}

// Agents is told when the agent of a node, as its certificate says, begins a watch here, and when that ends. nodelifecycle.Connections is one.
type Agents interface {
	Began(node string)
	Ended(node string)
}

// NodeDialer finds the way to a node's own server: its address, and the configuration under which it knows this server.
type NodeDialer interface {
	Dial(ctx context.Context, nodeName string) (base *url.URL, config *tls.Config, err error)
}

// Config says what a Server works with. Registry, Cache, Table and Store are required.
type Config struct {
	Registry *registry.Registry
	Cache    *cache.Cache
	Table    *resource.Table
	Store    store.Store

	TLS       *tls.Config    // of the listener, as pki.ServerTLS makes it; clients are verified against its ClientCAs. Nil: plain HTTP, for tests
	ClientCAs *x509.CertPool // default: those of TLS
	Authorize Authorizer     // default: auth.Rules
	Tokens    *tokens.Issuer // nil: there are no tokens of service accounts
	Usage     Usage          // nil: metrics.k8s.io is not served
	Nodes     NodeDialer     // nil: logs and commands answer that no node is reachable

	Address netip.AddrPort // where clients reach this server, told by /api; may be left out
	Version string         // told by /version; default version.Git()
	// Ready are further checks of /readyz and /livez, by name. They are called often and must be quick.
	Ready map[string]func() error
	// Slow says why writes take long, if they do: then this server is alive, but not ready. Nil: nothing is known of that.
	Slow func() error
	// Members says in words which members of the store answer. Nil: it has none.
	Members func(context.Context) string
	// Silence gives what is closed once the store has sent nothing for so long that it may be lost: watches end then, and none begins until it gives another, so that
	// clients ask another server. Nil: that does not happen.
	Silence func() <-chan struct{}
	// Agents is told of the watches of nodes' agents; nil: nobody is.
	Agents Agents
	// Standstill is for how long, up to now, the store has taken nothing; zero if it works. Nil: nothing is known of that.
	Standstill func() time.Duration
	Scheduling string                 // the scheduler's configuration, to be read by those who explain; empty: there is none
	Snapshots  Snapshots              // nil: they cannot be made or restored
	Metrics    []prometheus.Collector // of other parts, shown by /metrics besides our own
	Log        *slog.Logger
}

// Server answers the API's requests.
type Server struct {
	cfg       Config
	registry  *registry.Registry
	cache     *cache.Cache
	table     *resource.Table
	store     store.Store
	codecs    *codecs
	authorize Authorizer
	clientCAs *x509.CertPool
	metrics   *metrics
	discovery *discovery
	openapi   *openapiDocs
	nodes     *nodeProxies
	outward   *http.Transport // to pods and Services
	usage     Usage
	accounts  *accounts
	log       *slog.Logger

	stopping chan struct{} // closed when Run ends: watches and streams end
	stop     sync.Once
	active   atomic.Int64 // requests under way
}

// New makes a server that does not listen yet.
func New(cfg Config) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Version == "" {
		cfg.Version = version.Git()
	}
	s := &Server{
		cfg: cfg, registry: cfg.Registry, cache: cfg.Cache, table: cfg.Table, store: cfg.Store,
		codecs: newCodecs(cfg.Table.Codecs()), authorize: cfg.Authorize, clientCAs: cfg.ClientCAs,
		log: cfg.Log, stopping: make(chan struct{}),
	}
	if s.authorize == nil {
		s.authorize = auth.NewRules(s.podsOf).WithVolumes(s.claimOf)
	}
	if s.clientCAs == nil && cfg.TLS != nil {
		s.clientCAs = cfg.TLS.ClientCAs
	}
	s.metrics = newMetrics(s)
	s.discovery = newDiscovery(cfg.Table, cfg.Address, cfg.Usage != nil)
	s.openapi = newOpenAPIDocs(cfg.Table, cfg.Version)
	s.nodes, s.outward, s.usage = newNodeProxies(cfg.Nodes), outward(), cfg.Usage
	s.accounts = newAccounts(s, cfg.Tokens)
	return s
}

// Figures of the HTTP server. What is slow to arrive is cut off, what is slow to be produced is not: watches have no end.
const (
	headerTimeout = 32 * time.Second
	idleTimeout   = 90 * time.Second
	maxHeader     = 1 << 20
	maxStreams    = 1000            // requests at once on one HTTP/2 connection: an agent's watches all share one
	grace         = 5 * time.Second // for requests under way when the server stops
	settle        = 100 * time.Millisecond
)

// Run serves on l until ctx ends. It closes l, ends all watches, lets other requests finish, and returns when nothing runs any more.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	server := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		BaseContext:       func(net.Listener) context.Context { return base },
		ConnContext:       withConnIdentity,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // handshakes that broke off, mostly
	}
	if s.cfg.TLS != nil {
		server.TLSConfig = s.cfg.TLS.Clone()
		server.TLSConfig.NextProtos = []string{"h2", "http/1.1"}
	}
	failed := make(chan error, 1)
	go func() {
		if server.TLSConfig != nil {
			failed <- server.ServeTLS(l, "", "")
		} else {
			failed <- server.Serve(l)
		}
	}()
	select {
	case err := <-failed:
		s.stop.Do(func() { close(s.stopping) })
		_ = server.Close()
		return fmt.Errorf("serve the API on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	s.stop.Do(func() { close(s.stopping) })
	err := s.drain(base, server)
	cancel() // commands under way (exec, attach) do not end by themselves
	<-failed
	s.nodes.close()
	s.outward.CloseIdleConnections()
	if err != nil {
		return fmt.Errorf("stop serving the API: %w", err)
	}
	return nil
}

// drain lets the requests under way finish, and then ends all connections: HTTP/2 by itself would keep idle ones for a second more.
func (s *Server) drain(ctx context.Context, server *http.Server) error {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- server.Shutdown(ctx) }()
	poll := time.NewTicker(settle / 5)
	defer poll.Stop()
	for quiet := 0; quiet < 5; { // in a row, so that answers are on their way
		select {
		case err := <-done:
			if errors.Is(err, context.DeadlineExceeded) {
				err = server.Close()
			}
			return err
		case <-poll.C:
			if quiet++; s.active.Load() > 0 {
				quiet = 0
			}
		}
	}
	err := server.Close()
	cancel()
	<-done
	return err
}
