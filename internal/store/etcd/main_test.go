package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"sampan.dev/internal/store"
)

const (
	inside     = "SAMPAN_TEST_NETWORK" // set in the process that has a network of its own
	memberRole = "SAMPAN_TEST_MEMBER"  // a memberConfig, in a process that is one member of a cluster
)

// TestMain moves everything into a network namespace of its own, where nothing but the loopback is and ports belong to nobody else. Without the right to
// make one it stays where it is.
func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	if role := os.Getenv(memberRole); role != "" {
		beMember(role)
	}
	if os.Getenv(inside) == "" {
		if code, ok := runInside(); ok {
			os.Exit(code)
		}
	} else if err := loopbackUp(); err != nil {
		fmt.Fprintln(os.Stderr, "bring the loopback up:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func runInside() (code int, ok bool) {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return 0, false
	}
	return cmd.ProcessState.ExitCode(), true
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// memberConfig is one member of a cluster.
type memberConfig struct {
	Name, Dir, Client, Peer, Cluster string
	Quota                            int64
	TxnOps                           uint
	CA, Cert, Key                    string
}

func (c memberConfig) start() (*embed.Etcd, error) {
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = c.Name, c.Dir
	client, err := url.Parse(c.Client)
	if err != nil {
		return nil, err
	}
	peer, err := url.Parse(c.Peer)
	if err != nil {
		return nil, err
	}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	cfg.InitialCluster = c.Cluster
	cfg.TickMs, cfg.ElectionMs = 20, 200
	cfg.UnsafeNoFsync = true        // no machine goes down in these tests, only processes
	cfg.MaxRequestBytes = 2 << 20   // a value may be as large as etcd's default for a whole request
	cfg.QuotaBackendBytes = c.Quota // 0 is the default
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	if c.Cert != "" {
		cfg.ClientTLSInfo.CertFile, cfg.ClientTLSInfo.KeyFile = c.Cert, c.Key
		cfg.ClientTLSInfo.TrustedCAFile, cfg.ClientTLSInfo.ClientCertAuth = c.CA, true
	}
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, err
	}
	<-e.Server.ReadyNotify()
	return e, nil
}

// beMember runs a member until its standard input ends, as it does when the test that started it is gone.
func beMember(role string) {
	var c memberConfig
	err := json.Unmarshal([]byte(role), &c)
	if err == nil {
		_, err = c.start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "start member:", err)
		os.Exit(1)
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

var ports atomic.Int32

// freeAddress is one that nobody listens at. In a network of its own ports are given in turn, below those that the kernel gives to connections.
func freeAddress(t testing.TB) string {
	t.Helper()
	if os.Getenv(inside) != "" {
		return fmt.Sprintf("http://127.0.0.1:%d", 10_000+ports.Add(1))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

// plan makes the configurations of a cluster's members, which keep their data under dir.
func plan(t testing.TB, dir string, n int) []memberConfig {
	members := make([]memberConfig, n)
	var cluster []string
	for i := range members {
		m := &members[i]
		m.Name = fmt.Sprintf("m%d", i)
		m.Dir, m.Client, m.Peer = dir+"/"+m.Name, freeAddress(t), freeAddress(t)
		cluster = append(cluster, m.Name+"="+m.Peer)
	}
	for i := range members {
		members[i].Cluster = strings.Join(cluster, ",")
	}
	return members
}

func endpoints(members []memberConfig) (all []string) {
	for _, m := range members {
		all = append(all, m.Client)
	}
	return all
}

// startAll runs the members in this process.
func startAll(t testing.TB, members []memberConfig) (stop func()) {
	t.Helper()
	servers := make([]*embed.Etcd, len(members))
	errs := make(chan error)
	for i, m := range members {
		go func() {
			var err error
			servers[i], err = m.start()
			errs <- err
		}()
	}
	for range members {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	return func() {
		for _, e := range servers {
			if e != nil {
				e.Server.HardStop()
				e.Close()
			}
		}
	}
}

// opened is a store whose etcd ends with it.
type opened struct {
	*Store
	stop func()
}

func (o *opened) Close() error {
	err := o.Store.Close()
	if o.stop != nil {
		o.stop()
		o.stop = nil
	}
	return err
}

func open(t testing.TB, cfg Config) *Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// ahead starts clusters of n members before they are asked for, since that is waiting for the most part, and returns what gives the next one. What is over
// is stopped beside the tests as well.
func ahead(t *testing.T, n int) (next func(t *testing.T) store.Store) {
	const started = 7
	type ready struct {
		members []memberConfig
		stop    func()
	}
	clusters := make(chan ready)
	ctx, cancel := context.WithCancel(t.Context())
	var starters, stoppers sync.WaitGroup
	for range started {
		starters.Go(func() {
			for ctx.Err() == nil {
				dir, err := os.MkdirTemp("", "etcd")
				if err != nil {
					t.Error(err)
					return
				}
				members := plan(t, dir, n)
				stop := startAll(t, members)
				r := ready{members, func() {
					stoppers.Go(func() {
						stop()
						os.RemoveAll(dir)
					})
				}}
				select {
				case clusters <- r:
				case <-ctx.Done():
					r.stop()
				}
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		starters.Wait()
		stoppers.Wait()
	})
	return func(t *testing.T) store.Store {
		r := <-clusters
		o := &opened{stop: r.stop}
		t.Cleanup(func() { o.Close() })
		o.Store = open(t, Config{Endpoints: endpoints(r.members)})
		return o
	}
}

// process is a member that can be killed.
type process struct {
	memberConfig
	cmd *exec.Cmd
	in  io.Closer
}

func (p *process) start(t testing.TB) {
	t.Helper()
	role, err := json.Marshal(p.memberConfig)
	if err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command("/proc/self/exe")
	p.cmd.Env = append(os.Environ(), memberRole+"="+string(role))
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: 0}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.in = in
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

func (p *process) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	if sig == syscall.SIGKILL {
		_ = p.cmd.Wait()
	}
}

// processes is a cluster of n members, each a process of its own.
func processes(t testing.TB, n int) []*process {
	t.Helper()
	var all []*process
	for _, m := range plan(t, t.TempDir(), n) {
		p := &process{memberConfig: m}
		p.start(t)
		t.Cleanup(func() {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		})
		all = append(all, p)
	}
	return all
}

func put(t testing.TB, s store.Store, key, value string, expect int64) store.Record {
	t.Helper()
	r, err := s.Apply(t.Context(), store.Write{Key: key, Value: []byte(value), Expect: expect})
	if err != nil {
		t.Fatal(err)
	}
	return r
}
