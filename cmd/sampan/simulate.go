package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"

	"sampan.dev/internal/client"
	"sampan.dev/internal/instance"
	"sampan.dev/internal/resource/kinds"
	"sampan.dev/internal/simulate"
	"sampan.dev/internal/version"
)

// simulation is what the flags of `sampan simulate` say.
type simulation struct {
	dir, kubeconfig, profile, prefix string
	cpu, memory                      string
	nodes, pods                      int
	zones                            []string
	seed                             uint64
	events, remove, delete           bool
}

const simulateHelp = `Add nodes to a running cluster whose pods run nowhere but behave as if they did, until Ctrl-C: to try policies, to learn, to measure.

Each has a lease, conditions, a range for pods and an address, and the label sampan.dev/simulated=true; to keep other pods away from real nodes,
or from these, use a node selector. Pods on them are pulled, start, become ready, crash and end as the profile file says. ` + "`kubectl logs`" + ` says
what they are; nothing can be run in them.

A node fails when it is told to, and is back when the annotation goes:
  kubectl annotate node sim-3 sampan.dev/simulated-failure=crash      it dies, and what ran on it is lost
  kubectl annotate node sim-3 sampan.dev/simulated-failure=partition  it reaches nobody; its pods run on for as long as they tolerate that
  kubectl annotate node sim-3 sampan.dev/simulated-failure=notready   it says that it is not ready

After Ctrl-C the nodes stay, as if their machines had died, and go on when they are started again; --remove deletes them then, --delete does at once.

The profile file says how pods behave. The first profile counts that fits a pod; what it leaves out is as in the defaults, which are these:
  defaults:
    start: {min: 300ms, max: 1.5s}  # until the first container starts
    init: {min: 500ms, max: 1s}     # that each init container runs
    ready: {min: 0s, max: 0s}       # from a container's start until it is ready
    run: {min: 5s, max: 15s}        # that containers run which are to end: those of Jobs, and all that are not always restarted
    fail: 0                         # the share of starts that end with an error, from 0 to 1
    crash: {min: 1s, max: 10s}      # that a container runs before such an end, where it was not to end
    stop: {min: 0s, max: 1s}        # that a deleted pod takes to end, within its grace
  profiles:
  - name: slow
    selector: {app: database}       # labels, or matchLabels and matchExpressions
    image: "*/postgres:*"           # some container has such an image; * is any text
    start: {min: 20s, max: 40s}
Which time of those, and which start fails, depends on --seed and the pod's name alone.`

func simulateCommand() *cobra.Command {
	var s simulation
	cmd := &cobra.Command{
		Use: "simulate", Short: "Add nodes whose pods run nowhere, to try, to learn and to measure", Long: simulateHelp, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM)
			defer stop()
			return s.run(ctx, cmd)
		},
	}
	f := cmd.Flags()
	dataDirFlag(cmd, &s.dir)
	f.StringVar(&s.kubeconfig, "kubeconfig", "", "the administrator's kubeconfig of another cluster than that of --data-dir")
	f.IntVar(&s.nodes, "nodes", 10, "how many nodes")
	f.StringVar(&s.prefix, "name-prefix", "sim-", "what their names begin with; a number follows, from 0")
	f.StringVar(&s.profile, "profile", "", "a file that says how pods behave")
	f.StringVar(&s.cpu, "cpu", "4", "CPUs of each node")
	f.StringVar(&s.memory, "memory", "16Gi", "memory of each node")
	f.IntVar(&s.pods, "pods", 110, "pods that each node takes, up to 250")
	f.StringSliceVar(&s.zones, "zones", nil, "zones that the nodes are in by turns")
	f.Uint64Var(&s.seed, "seed", 1, "of all that happens by chance")
	f.BoolVar(&s.events, "events", true, "write the events that a real node writes")
	f.BoolVar(&s.remove, "remove", false, "delete the nodes at the end")
	f.BoolVar(&s.delete, "delete", false, "delete all simulated nodes that are there, and end")
	return cmd
}

func (s *simulation) run(ctx context.Context, cmd *cobra.Command) error {
	cfg, err := s.config()
	if err != nil {
		return err
	}
	path := s.kubeconfig
	if path == "" {
		inst, err := instance.At(s.dir)
		if err != nil {
			return err
		}
		path = filepath.Join(inst.Dir, "kubeconfig")
	}
	access, err := client.FromKubeconfig(path, "")
	if err != nil {
		return fmt.Errorf("there is no cluster to add nodes to: start one with `sampan up`, or name its kubeconfig (%w)", err)
	}
	access.Table, access.Agent = kinds.Table(), "sampan-simulate/"+version.Git()
	c, err := client.New(access)
	if err != nil {
		return err
	}
	defer c.Close()
	out := cmd.OutOrStdout()
	if s.delete {
		prefix := ""
		if cmd.Flags().Changed("name-prefix") {
			prefix = s.prefix
		}
		n, err := simulate.Delete(ctx, c, prefix)
		if err == nil {
			fmt.Fprintf(out, "%d simulated nodes are deleted.\n", n)
		}
		return err
	}
	cfg.Client, cfg.Table = c, access.Table
	cfg.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
	if cfg.Address, err = simulate.AddressTo(access.Server); err != nil {
		return err
	}
	endpoint, err := simulate.Listen(ctx, c, access.TLS.RootCAs, s.prefix+"0", cfg.Address, cfg.Log)
	if err != nil {
		return err
	}
	defer endpoint.Close()
	cfg.Port = endpoint.Port()
	began := time.Now()
	cfg.Started = func() {
		fmt.Fprintf(out, "%d simulated nodes are there after %v. Ctrl-C lets them die.\n", s.nodes, time.Since(began).Round(time.Millisecond))
	}
	fleet := simulate.New(cfg)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return fleet.Run(ctx) })
	g.Go(func() error { return endpoint.Run(ctx, fleet) })
	err = g.Wait()
	if s.remove {
		ending, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		n, deleteErr := simulate.Delete(ending, c, s.prefix)
		if deleteErr == nil {
			fmt.Fprintf(out, "%d simulated nodes are deleted.\n", n)
		}
		err = errors.Join(err, deleteErr)
	}
	return err
}

// config is the part of the fleet's that flags say.
func (s *simulation) config() (cfg simulate.Config, err error) {
	usage := func(format string, args ...any) (simulate.Config, error) {
		return cfg, usageError{fmt.Errorf(format, args...)}
	}
	if s.nodes < 1 || s.nodes > 10_000 {
		return usage("--nodes: %d is not from 1 to 10000", s.nodes)
	}
	if s.pods < 1 || s.pods > 250 {
		return usage("--pods: %d is not from 1 to 250", s.pods)
	}
	if wrong := validation.IsDNS1123Subdomain(s.prefix + "0"); len(wrong) > 0 {
		return usage("--name-prefix: %q is no beginning of a node's name: %s", s.prefix, strings.Join(wrong, "; "))
	}
	for _, z := range s.zones {
		if wrong := validation.IsValidLabelValue(z); len(wrong) > 0 || z == "" {
			return usage("--zones: %q is no value of a label", z)
		}
	}
	cfg = simulate.Config{Seed: s.seed, Nodes: s.nodes, Prefix: s.prefix, Zones: s.zones, Version: version.Git(), Quiet: !s.events}
	cfg.Capacity = corev1.ResourceList{corev1.ResourcePods: *resource.NewQuantity(int64(s.pods), resource.DecimalSI), corev1.ResourceEphemeralStorage: resource.MustParse("100Gi")}
	for flag, of := range map[string]struct {
		name corev1.ResourceName
		text string
	}{"cpu": {corev1.ResourceCPU, s.cpu}, "memory": {corev1.ResourceMemory, s.memory}} {
		q, err := resource.ParseQuantity(of.text)
		if err != nil || q.Sign() <= 0 {
			return usage("--%s: %q is no amount, such as 4 or 16Gi", flag, of.text)
		}
		cfg.Capacity[of.name] = q
	}
	var text []byte
	if s.profile != "" {
		if text, err = os.ReadFile(s.profile); err != nil {
			return usage("--profile: %w", err)
		}
	}
	if cfg.Profiles, err = simulate.ParseProfiles(text); err != nil {
		return usage("--profile %s: %w", s.profile, err)
	}
	return cfg, nil
}
