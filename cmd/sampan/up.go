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
	return controlPlane("up", "Start a cluster of one node on this machine",
		"Start a cluster of one node on this machine, in the foreground until SIGINT or SIGTERM; pods run on then, and the next\n"+
			"`sampan up` takes them up again. `sampan down` stops them too. Flags are remembered in the data directory.")
}

func serverCommand() *cobra.Command {
	return controlPlane("server", "Be the control plane of a cluster, which other machines join",
		"Be the control plane of a cluster, in the foreground until SIGINT or SIGTERM. This machine is a node of it, too, unless --no-agent is given. Others join it\n"+
			"with `sampan agent`, and a token that `sampan token create` makes. Flags are remembered in the data directory.\n\n"+
			"Several servers share an etcd, which --datastore names: all of them answer, one runs the control loops, and another does when that is gone. The first needs no\n"+
			"token, the others that of `sampan token create --server`. A cluster that has a store of its own moves there with `sampan migrate`.")
}

// controlPlane is the command of whatever has a server: they differ in what they are for.
func controlPlane(use, short, long string) *cobra.Command {
	var dir, kubeconfigFile, logLevel, config, token string
	var toleration int64
	var detach, merge bool
	var reportFD int
	given := instance.Defaults()
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Long:  long,
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := readConfig(cmd, config); err != nil {
				return err
			}
			inst, err := instance.At(dir)
			if err != nil {
				return err
			}
			settings, err := inst.LoadOrDefaults()
			if err != nil {
				return err
			}
			if len(settings.Servers) > 0 {
				return fmt.Errorf("%s is of a node of another cluster, which `sampan agent` runs: choose another --data-dir, or make it forget that with `sampan reset`", inst.Dir)
			}
			takeFlags(cmd, &settings, given)
			if cmd.Flags().Changed("default-toleration-seconds") {
				settings.TolerationSeconds = &toleration
			}
			if use == "server" || settings.Shared() {
				if err := takeDatastore(cmd.Flags(), &settings, given.Datastore); err != nil {
					return err
				}
			}
			if token != "" && !settings.Shared() {
				return usageError{errors.New("--token is for a server that shares a datastore with others: give that with --datastore; a machine becomes a node with `sampan agent`")}
			}
			if err := settings.Validate(); err != nil {
				return usageError{err}
			}
			scheduling, err := readScheduling(settings.SchedulerConfig)
			if err != nil {
				return err
			}
			level, err := parseLevel(logLevel)
			if err != nil {
				return usageError{err}
			}
			up := &up{body: func(u *up) runner { return u.run }, inst: inst, settings: settings, scheduling: scheduling, token: strings.TrimSpace(token), merge: merge, kubeconfig: kubeconfigFile, out: cmd.OutOrStdout(), start: time.Now()}
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
	f.Uint16Var(&given.APIPort, "api-port", given.APIPort, "the port of the API")
	f.Var(rangesValue{&given.PodRange, &given.PodRange6}, "pod-range", "the addresses of pods, of which a node takes a /24; after a comma those of IPv6, of which it takes a /64")
	f.Var(rangesValue{&given.ServiceCIDR, &given.ServiceCIDR6}, "service-range", "the addresses of Services; after a comma those of IPv6")
	f.Var(portsValue{&given.ServicePorts}, "service-node-port-range", "the ports of nodes that Services take")
	f.Var(poolsValue{&given.LoadBalancerPool}, "load-balancer-pool", "the addresses that Services of type LoadBalancer get, such as 192.0.2.100-192.0.2.120,192.0.2.128/27 (default: the nodes' own)")
	f.BoolVar(&given.Unannounced, "load-balancer-unannounced", false, "do not answer for those addresses on the local network (ARP, neighbour advertisements): somebody else leads them here")
	f.Var(fileValue{&given.SchedulerConfig}, "scheduler-config", "a KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1): profiles by which pods are scheduled (default: Kubernetes' own one)")
	f.StringVar(&given.Context, "context", given.Context, "the name of the context in kubeconfig files")
	nodeFlags(cmd, &given)
	f.Int64Var(&toleration, "default-toleration-seconds", 30, "how long pods that say nothing else stay on a node that is lost or not ready; Kubernetes' own: 300")
	if use == "server" {
		f.BoolVar(&given.NoAgent, "no-agent", false, "be no node: no pod runs on this machine")
		datastoreFlags(f, &given.Datastore)
		f.StringVar(&token, "token", "", "the token of a cluster whose datastore this server is to share, from 'sampan token create --server' on a server of it; needed once")
	}
	f.StringVar(&config, "config", "", "a YAML file with these flags' names as keys; what is typed comes before it")
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
		"scheduler-config":          func() { s.SchedulerConfig = given.SchedulerConfig },
		"no-agent":                  func() { s.NoAgent = given.NoAgent },
		"node-labels":               func() { s.Labels = given.Labels },
		"node-taints":               func() { s.Taints = given.Taints },
		"eviction-hard":             func() { s.EvictionHard = given.EvictionHard },

		"eviction-pressure-transition-period": func() { s.PressureHold = given.PressureHold },
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

// runner brings the parts up, and keeps them up until ctx ends.
type runner func(ctx context.Context) error

// up is one start of a cluster, or of a node.
type up struct {
	body       func(*up) runner
	inst       instance.Instance
	settings   instance.Settings
	scheduling scheduling
	token      string // of the cluster, for a server that joins others at their datastore
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
	signal.Notify(signals, os.Interrupt, unix.SIGTERM, stopWithPods, stopWithMachine)
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
	err = u.body(u)(ctx)
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
	return errors.As(context.Cause(ctx), &sig) && (sig.Signal == stopWithPods || sig.Signal == stopWithMachine)
}

// withMachine says whether the stop is the machine's own.
func withMachine(ctx context.Context) bool {
	var sig signalError
	return errors.As(context.Cause(ctx), &sig) && sig.Signal == stopWithMachine
}

func (u *up) preflight() error {
	if pid := u.inst.Running(); pid != 0 {
		return &instance.RunningError{Dir: u.inst.Dir, PID: pid}
	}
	var ports []preflight.Port
	if len(u.settings.Servers) == 0 {
		ports = append(ports, preflight.Port{Addr: netip.AddrPortFrom(u.settings.Bind, u.settings.APIPort), For: "the API", Flag: "--api-port"})
	}
	if !u.settings.NoAgent {
		ports = append(ports, preflight.Port{Addr: netip.AddrPortFrom(u.settings.Bind, u.settings.NodePort), For: "the node's server", Flag: "--node-port"})
	}
	missing := preflight.Check(preflight.Want{DataDir: u.inst.Dir, Ports: ports})
	if len(missing) == 1 {
		return errors.New(missing[0])
	}
	if len(missing) > 1 {
		return fmt.Errorf("this machine is not ready:\n  - %s", strings.Join(missing, "\n  - "))
	}
	return nil
}
