package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/stats"

	"sampan.dev/internal/store"
)

// dial makes the client; it connects by itself, to each endpoint, and again when a connection is lost.
//
// A member whose machine dies is noticed by the kernel: nothing comes back to what was sent for the keepalive timeout, or to probes on a silent connection.
// (gRPC's own pings, of which the first comes after ten seconds, see a member that is stopped but whose kernel answers; keepPulse sees it sooner.)
func dial(cfg Config) (*clientv3.Client, *tls.Config, error) {
	if len(cfg.Endpoints) == 0 {
		return nil, nil, errors.New("no endpoints are given")
	}
	secure := strings.HasPrefix(cfg.Endpoints[0], "https://")
	for _, e := range cfg.Endpoints {
		if strings.HasPrefix(e, "https://") != secure {
			return nil, nil, fmt.Errorf("endpoint %s: either all endpoints begin with https:// or none does", e)
		}
	}
	var security *tls.Config
	if secure {
		var err error
		if security, err = cfg.tls(); err != nil {
			return nil, nil, err
		}
	} else if cfg.CA != "" || cfg.Cert != "" || cfg.Key != "" {
		return nil, nil, fmt.Errorf("endpoint %s: certificates are given, but it does not begin with https://", cfg.Endpoints[0])
	}
	retry := backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            cfg.Endpoints,
		TLS:                  security,
		DialKeepAliveTime:    10 * time.Second, // gRPC's least
		DialKeepAliveTimeout: 4 * time.Second,
		PermitWithoutStream:  true,
		MaxCallSendMsgSize:   MaxWrites * (store.MaxValue + store.MaxKey), // etcd's own limit decides
		Logger:               zap.NewNop(),
		DialOptions: []grpc.DialOption{
			grpc.WithContextDialer(connect),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: 3 * time.Second}),
			grpc.WithStatsHandler(sentMark{}),
		},
	})
	return client, security, err
}

// alone connects to one endpoint, for a question or two. Unlike the client it does not try again: why there is no connection is what is to be known.
func (s *Store) alone(endpoint string) (*grpc.ClientConn, error) {
	secure := insecure.NewCredentials()
	if s.security != nil {
		secure = credentials.NewTLS(s.security)
	}
	return grpc.NewClient("passthrough:///"+address(endpoint), grpc.WithTransportCredentials(secure), grpc.WithContextDialer(connect))
}

func address(endpoint string) string {
	if _, address, ok := strings.Cut(endpoint, "://"); ok && !strings.HasPrefix(endpoint, "unix:") {
		return address
	}
	return endpoint
}

// handshake finds what one of the two sides has against the other's certificate. A server's refusal of the client's comes only after the client is done, and
// is lost when the client has begun to write.
func (s *Store) handshake(ctx context.Context, endpoint string) error {
	conn, err := connect(ctx, address(endpoint))
	if err != nil {
		return err
	}
	defer conn.Close()
	cfg := s.security.Clone()
	cfg.NextProtos = []string{"h2"}
	if cfg.ServerName, _, err = net.SplitHostPort(address(endpoint)); err != nil {
		cfg.ServerName = address(endpoint)
	}
	secure := tls.Client(conn, cfg)
	if err := secure.HandshakeContext(ctx); err != nil {
		return err
	}
	if end, ok := ctx.Deadline(); ok {
		if err := conn.SetReadDeadline(end); err != nil {
			return err
		}
	}
	_, err = secure.Read(make([]byte, 1))
	return err
}

func (c Config) tls() (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fmt.Errorf("read etcd's certificate authority: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read etcd's certificate authority: %s holds no certificate", c.CA)
		}
	}
	if (c.Cert == "") != (c.Key == "") {
		return nil, errors.New("of the client certificate and its key one is given without the other")
	}
	if c.Cert != "" {
		load := func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
			if err != nil {
				return nil, fmt.Errorf("read the client certificate for etcd: %w", err)
			}
			if end := pair.Leaf.NotAfter; time.Now().After(end) {
				return nil, fmt.Errorf("the client certificate for etcd, %s, ended on %s: put a new one there, or name another", c.Cert, end.Format(time.DateOnly))
			}
			return &pair, nil
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return t, nil
}

// connect opens one connection, and has the kernel probe it when nothing comes.
func connect(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: 3 * time.Second, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 3 * time.Second, Interval: time.Second, Count: 3}}
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return d.DialContext(ctx, "unix", strings.TrimPrefix(path, "//"))
	}
	return d.DialContext(ctx, "tcp", address)
}

// sentMark notes that a request has left for a member. Until then nothing can have come of it.
type sentMark struct{}

type sentKey struct{}

// markSent returns a context whose requests set the mark.
func markSent(ctx context.Context) (context.Context, *atomic.Bool) {
	mark := new(atomic.Bool)
	return context.WithValue(ctx, sentKey{}, mark), mark
}

func (sentMark) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.OutHeader); !ok {
		return
	}
	if mark, ok := ctx.Value(sentKey{}).(*atomic.Bool); ok {
		mark.Store(true)
	}
}

func (sentMark) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (sentMark) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (sentMark) HandleConn(context.Context, stats.ConnStats)                       {}
