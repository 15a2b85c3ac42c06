package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"sampan.dev/internal/agent/pressure"
	"sampan.dev/internal/instance"
	"sampan.dev/internal/join"
)

func agentCommand() *cobra.Command {
	var dir, config, logLevel, token string
	var servers []string
	var detach bool
	var reportFD int
	given := instance.Defaults()
	cmd := &cobra.Command{
		Use:   "agent --server https://HOST:6443 --token TOKEN",
		Short: "Make this machine a node of a cluster, and be that",
		Long: "Make this machine a node of a cluster, and be that, in the foreground until SIGINT or SIGTERM; pods run on then, and the next `sampan agent` takes them up\n" +
			"again. The token is needed once: take the last line of `sampan token create` on a server. Flags are remembered in the data directory.",
		Args: noArgs,
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
			if inst.Exists() && len(settings.Servers) == 0 {
				return fmt.Errorf("there is a cluster of its own in %s, which `sampan up` and `sampan server` run: choose another --data-dir, or remove it with `sampan reset`", inst.Dir)
			}
			takeFlags(cmd, &settings, given)
			if cmd.Flags().Changed("server") {
				settings.Servers = nil
				for _, s := range servers {
					full, err := join.CheckServer(s)
					if err != nil {
						return usageError{fmt.Errorf("--server: %w", err)}
					}
					settings.Servers = append(settings.Servers, full)
				}
			}
			if len(settings.Servers) == 0 {
				return usageError{errors.New("--server: which cluster? Give the address of one of its servers, such as https://192.0.2.1:6443")}
			}
			if err := settings.Validate(); err != nil {
				return usageError{err}
			}
			var with *join.Token
			if token != "" {
				t, err := join.ParseToken(token)
				if err != nil {
					return usageError{fmt.Errorf("--token: %w", err)}
				}
				with = &t
			}
			level, err := parseLevel(logLevel)
			if err != nil {
				return usageError{err}
			}
			u := &up{inst: inst, settings: settings, out: cmd.OutOrStdout(), start: time.Now()}
			u.body = func(a *up) runner { return agentRun{a, with, &sync.Mutex{}}.run }
			if detach {
				return u.detach(cmd.Context(), os.Args[1:])
			}
			u.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
			hush(u.log)
			if reportFD > 0 {
				u.report = os.NewFile(uintptr(reportFD), "report")
				u.out = u.report
			}
			if err = u.foreground(cmd.Context()); err != nil {
				u.failed(err)
			}
			return err
		},
	}
	dataDirFlag(cmd, &dir)
	f := cmd.Flags()
	f.StringSliceVar(&servers, "server", nil, "the address of a server; several by commas, or by several flags: when one does not answer, the next is asked")
	f.StringVar(&token, "token", "", "what the machine joins with, once: the last line of 'sampan token create'")
	f.StringVar(&config, "config", "", "a YAML file with these flags' names as keys; what is typed comes before it")
	f.BoolVar(&detach, "detach", false, "go to the background, and return once the node is Ready")
	nodeFlags(cmd, &given)
	f.StringVar(&logLevel, "log-level", "warn", "debug, info, warn or error")
	f.IntVar(&reportFD, "report-fd", 0, "")
	_ = f.MarkHidden("report-fd")
	return cmd
}

// nodeFlags are those of whatever is a node.
func nodeFlags(cmd *cobra.Command, given *instance.Settings) {
	f := cmd.Flags()
	f.StringVar(&given.NodeName, "node-name", given.NodeName, "the name of this node")
	f.Var(addrValue{&given.NodeIP}, "node-ip", "the node's own address (default: the one that the default route leaves by; of an agent the one by which it reaches the server)")
	f.Var(addrValue{&given.Bind}, "bind-address", "the address to listen on")
	f.Uint16Var(&given.NodePort, "node-port", given.NodePort, "the port of the node's server, for logs and exec")
	f.StringSliceVar(&given.Labels, "node-labels", nil, "labels of this node, such as topology.kubernetes.io/zone=a,disk=ssd")
	f.StringSliceVar(&given.Taints, "node-taints", nil, "taints that this node has from its first start, such as dedicated=db:NoSchedule")
	f.Var(upstreamsValue{&given.Upstreams}, "dns-upstream", "who is asked for names outside the cluster: ADDRESS or ADDRESS:PORT, several by commas (default: those of /etc/resolv.conf)")
	f.Var(thresholdsValue{&given.EvictionHard}, "eviction-hard", "below what is left the node evicts pods, several by commas (default "+pressure.Default+")")
	f.DurationVar(&given.PressureHold, "eviction-pressure-transition-period", 0, "how long the node says that it is short of something after it was (default 5m0s)")
	f.StringVar(&given.CRI, "cri", "", "use another container runtime, such as unix:///run/containerd/containerd.sock")
}

// evictionHard is below what the node evicts; nil where nothing is chosen. The flag has been checked when it was given.
func evictionHard(s instance.Settings) []pressure.Threshold {
	if s.EvictionHard == "" {
		return nil
	}
	chosen, _ := pressure.Parse(s.EvictionHard)
	return chosen
}

// nodeLabels reads KEY=VALUE. What only the cluster may say of a node it may not say of itself (NodeRestriction in Kubernetes).
func nodeLabels(list []string) (map[string]string, error) {
	labels := map[string]string{}
	for _, text := range list {
		key, value, ok := strings.Cut(text, "=")
		if !ok {
			return nil, fmt.Errorf("--node-labels: %q is not KEY=VALUE", text)
		}
		problems := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...)
		if len(problems) > 0 {
			return nil, fmt.Errorf("--node-labels: %q: %s", text, problems[0])
		}
		labels[key] = value
	}
	return labels, nil
}

// nodeTaints reads KEY=VALUE:EFFECT and KEY:EFFECT.
func nodeTaints(list []string) (taints []corev1.Taint, err error) {
	for _, text := range list {
		rest, effect, ok := strings.Cut(text, ":")
		key, value, _ := strings.Cut(rest, "=")
		t := corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffect(effect)}
		if !ok || !slices.Contains([]corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute}, t.Effect) {
			return nil, fmt.Errorf("--node-taints: %q is not KEY=VALUE:EFFECT with NoSchedule, PreferNoSchedule or NoExecute", text)
		}
		if problems := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...); len(problems) > 0 {
			return nil, fmt.Errorf("--node-taints: %q: %s", text, problems[0])
		}
		taints = append(taints, t)
	}
	return taints, nil
}
