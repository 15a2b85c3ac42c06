package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"sampan.dev/internal/instance"
	"sampan.dev/internal/preflight"
	"sampan.dev/internal/version"
)

func upCommand() *cobra.Command {
	var dir, kubeconfigFile, logLevel string
	var detach, merge bool
	var reportFD int
	given := instance.Defaults()
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a cluster of one node on this machine",
		Long: "Start a cluster of one node on this machine, in the foreground until SIGINT or SIGTERM; pods run on then, and the next\n" +
			"`sampan up` takes them up again. `sampan down` stops them too. Flags are remembered in the data directory.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			inst, err := instance.At(dir)
			if err != nil {
				return err
			}
			settings, err := inst.LoadOrDefaults()
			if err != nil {
				return err
			}
			takeFlags(cmd, &settings, given)
			if err := settings.Validate(); err != nil {
				return usageError{err}
			}
			level, err := parseLevel(logLevel)
			if err != nil {
				return usageError{err}
			}
			up := &up{inst: inst, settings: settings, merge: merge, kubeconfig: kubeconfigFile, out: cmd.OutOrStdout(), start: time.Now()}
			if detach {
				return up.detach(cmd.Context(), os.Args[1:])
			}
			up.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
			hush(up.log)
			if reportFD > 0 {
				up.report = os.NewFile(uintptr(reportFD), "report")
				up.out = up.report
			}
			err = up.foreground(cmd.Context())
			if err != nil {
				up.failed(err)
			}
			return err
		},
	}
	dataDirFlag(cmd, &dir)
	f := cmd.Flags()
	f.StringVar(&kubeconfigFile, "kubeconfig", "", "the file that the context is merged into (default: your own: $KUBECONFIG or ~/.kube/config)")
	f.BoolVar(&merge, "merge-kubeconfig", true, "merge the context into that file; DIR/kubeconfig is written always")
	f.BoolVar(&detach, "detach", false, "go to the background, and return once the node is Ready")
	f.StringVar(&given.NodeName, "node-name", given.NodeName, "the name of this node")
	f.Var(addrValue{&given.NodeIP}, "node-ip", "the node's own address (default: the one that the default route leaves by)")
	f.Var(addrValue{&given.Bind}, "bind-address", "the address that the API and the node's server listen on")
	f.Uint16Var(&given.APIPort, "api-port", given.APIPort, "the port of the API")
	f.Uint16Var(&given.NodePort, "node-port", given.NodePort, "the port of the node's server, for logs and exec")
	f.Var(rangesValue{&given.PodRange, &given.PodRange6}, "pod-range", "the addresses of pods, of which a node takes a /24; after a comma those of IPv6, of which it takes a /64")
	f.Var(rangesValue{&given.ServiceCIDR, &given.ServiceCIDR6}, "service-range", "the addresses of Services; after a comma those of IPv6")
	f.Var(portsValue{&given.ServicePorts}, "service-node-port-range", "the ports of nodes that Services take")
	f.Var(poolsValue{&given.LoadBalancerPool}, "load-balancer-pool", "the addresses that Services of type LoadBalancer get, such as 192.0.2.100-192.0.2.120,192.0.2.128/27 (default: the nodes' own)")
	f.BoolVar(&given.Unannounced, "load-balancer-unannounced", false, "do not answer for those addresses on the local network (ARP, neighbour advertisements): somebody else leads them here")
	f.Var(upstreamsValue{&given.Upstreams}, "dns-upstream", "who is asked for names outside the cluster: ADDRESS or ADDRESS:PORT, several by commas (default: those of /etc/resolv.conf)")
	f.StringVar(&given.Context, "context", given.Context, "the name of the context in kubeconfig files")
	f.StringVar(&given.CRI, "cri", "", "use another container runtime, such as unix:///run/containerd/containerd.sock")
	f.StringVar(&logLevel, "log-level", "warn", "debug, info, warn or error")
	f.IntVar(&reportFD, "report-fd", 0, "")
	_ = f.MarkHidden("report-fd")
	return cmd
}

// takeFlags puts what was typed over what is remembered.
func takeFlags(cmd *cobra.Command, s *instance.Settings, given instance.Settings) {
	set := map[string]func(){
		"node-name": func() { s.NodeName = given.NodeName }, "node-ip": func() { s.NodeIP = given.NodeIP },
		"bind-address": func() { s.Bind = given.Bind }, "api-port": func() { s.APIPort = given.APIPort },
		"node-port": func() { s.NodePort = given.NodePort }, "pod-range": func() { s.PodRange, s.PodRange6 = given.PodRange, given.PodRange6 },
		"service-range": func() { s.ServiceCIDR, s.ServiceCIDR6 = given.ServiceCIDR, given.ServiceCIDR6 }, "context": func() { s.Context = given.Context },
		"cri": func() { s.CRI = given.CRI }, "service-node-port-range": func() { s.ServicePorts = given.ServicePorts },
		"load-balancer-pool":        func() { s.LoadBalancerPool = given.LoadBalancerPool },
		"load-balancer-unannounced": func() { s.Unannounced = given.Unannounced },
		"dns-upstream":              func() { s.Upstreams = given.Upstreams },
	}
	for name, apply := range set {
		if cmd.Flags().Changed(name) {
			apply()
		}
	}
}

func parseLevel(s string) (slog.Level, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(s)); err != nil {
		return 0, fmt.Errorf("--log-level: %q is none of debug, info, warn and error", s)
	}
	return level, nil
}

// up is one start of a cluster.
type up struct {
	inst       instance.Instance
	settings   instance.Settings
	merge      bool
	kubeconfig string // of --kubeconfig; "" is the person's own
	out        io.Writer
	report     *os.File // the other end of a detached start, or nil
	log        *slog.Logger
	start      time.Time
}

// say prints a line of progress: what is up, and since the start how long that took.
func (u *up) say(what, format string, args ...any) {
	fmt.Fprintf(u.out, "  %-9s %-60s %5.2f s\n", what, fmt.Sprintf(format, args...), time.Since(u.start).Seconds())
}

// foreground runs the cluster until a signal, and says how it goes.
func (u *up) foreground(ctx context.Context) error {
	ctx, stopped := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, unix.SIGTERM, stopWithPods)
	defer signal.Stop(signals)
	go func() {
		stopped(signalError{<-signals})
		<-signals // a second one ends it at once
		os.Exit(1)
	}()
	if err := u.preflight(); err != nil {
		return err
	}
	lock, err := u.inst.Lock()
	if err != nil {
		return err
	}
	defer lock.Release()
	fmt.Fprintf(u.out, "sampan %s, Kubernetes %s, data in %s\n", version.Sampan, version.Kubernetes, u.inst.Dir)
	err = u.run(ctx)
	var sig signalError
	if errors.As(context.Cause(ctx), &sig) && err == nil {
		return nil
	}
	return err
}

// signalError is the cause of a stop that was asked for.
type signalError struct{ os.Signal }

func (e signalError) Error() string { return e.String() }

// withPods says whether the stop is to take the pods along.
func withPods(ctx context.Context) bool {
	var sig signalError
	return errors.As(context.Cause(ctx), &sig) && sig.Signal == stopWithPods
}

func (u *up) preflight() error {
	if pid := u.inst.Running(); pid != 0 {
		return &instance.RunningError{Dir: u.inst.Dir, PID: pid}
	}
	missing := preflight.Check(preflight.Want{DataDir: u.inst.Dir, Ports: []preflight.Port{
		{Addr: netip.AddrPortFrom(u.settings.Bind, u.settings.APIPort), For: "the API", Flag: "--api-port"},
		{Addr: netip.AddrPortFrom(u.settings.Bind, u.settings.NodePort), For: "the node's server", Flag: "--node-port"},
	}})
	if len(missing) == 1 {
		return errors.New(missing[0])
	}
	if len(missing) > 1 {
		return fmt.Errorf("this machine is not ready:\n  - %s", strings.Join(missing, "\n  - "))
	}
	return nil
}
