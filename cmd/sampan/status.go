package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/client"
	"sampan.dev/internal/instance"
	"sampan.dev/internal/resource/kinds"
	"sampan.dev/internal/runtimeproc"
)

func statusCommand() *cobra.Command {
	var dir, format string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say what runs: the processes, the node, the pods",
		Long:  "Say what runs: the processes, the node, the pods. The exit code is 0 if the cluster runs and its node is Ready, else 1.",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			inst, err := instance.At(dir)
			if err != nil {
				return err
			}
			s, err := look(cmd.Context(), inst)
			if err != nil {
				return err
			}
			switch format {
			case "":
				s.print(cmd.OutOrStdout())
			case "json":
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				if err := enc.Encode(s); err != nil {
					return err
				}
			default:
				return usageError{fmt.Errorf("--output: %q is not a format: json, or none for a person", format)}
			}
			if !s.ready() {
				return exitError(1)
			}
			return nil
		},
	}
	dataDirFlag(cmd, &dir)
	cmd.Flags().StringVarP(&format, "output", "o", "", "json")
	return cmd
}

// clusterStatus is what runs on one data directory.
type clusterStatus struct {
	DataDir    string         `json:"dataDir"`
	Exists     bool           `json:"exists"`
	Server     string         `json:"server,omitempty"`
	Kubeconfig string         `json:"kubeconfig,omitempty"`
	Processes  []processState `json:"processes"`
	Nodes      []nodeState    `json:"nodes,omitempty"`
	Pods       *podCount      `json:"pods,omitempty"`
	Containers int            `json:"containers"`      // that run, as the runtime says
	Error      string         `json:"error,omitempty"` // why the API could not be asked
}

type processState struct {
	Name  string `json:"name"`
	PID   int    `json:"pid"`
	RSS   int64  `json:"rssBytes"`
	Since string `json:"since,omitempty"`
}

type nodeState struct {
	Name    string `json:"name"`
	Ready   bool   `json:"ready"`
	Message string `json:"message,omitempty"`
}

type podCount struct {
	Total int `json:"total"`
	Ready int `json:"ready"`
}

func (s *clusterStatus) ready() bool {
	for _, n := range s.Nodes {
		if !n.Ready {
			return false
		}
	}
	return len(s.Nodes) > 0
}

func look(ctx context.Context, inst instance.Instance) (*clusterStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s := &clusterStatus{DataDir: inst.Dir, Exists: inst.Exists(), Processes: []processState{}}
	if !s.Exists {
		return s, nil
	}
	settings, err := inst.Load()
	if err != nil {
		return nil, err
	}
	s.Server, s.Kubeconfig = serverURL(settings), inst.Kubeconfig()
	if pid := inst.Running(); pid != 0 {
		s.Processes = append(s.Processes, process("sampan", pid))
	}
	if pid, err := runtimeproc.PeerPID(inst.RuntimeSocket()); err == nil {
		s.Processes = append(s.Processes, process("sampan-runtime", pid))
		s.Containers = running(ctx, inst, settings)
	}
	if inst.Running() == 0 {
		return s, nil
	}
	if err := s.ask(ctx, inst); err != nil {
		s.Error = err.Error()
	}
	return s, nil
}

func running(ctx context.Context, inst instance.Instance, settings instance.Settings) int {
	conn, err := dialCRI(endpoint(inst, settings))
	if err != nil {
		return 0
	}
	defer conn.Close()
	resp, err := runtimeapi.NewRuntimeServiceClient(conn).ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
	}})
	if err != nil {
		return 0
	}
	return len(resp.Containers)
}

func process(name string, pid int) processState {
	p := processState{Name: name, PID: pid}
	data, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			p.RSS = kb << 10
		}
	}
	if info, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid))); err == nil {
		p.Since = info.ModTime().UTC().Format(time.RFC3339)
	}
	return p
}

func (s *clusterStatus) print(out io.Writer) {
	if !s.Exists {
		fmt.Fprintf(out, "There is no cluster in %s. Start one with `sampan up`.\n", s.DataDir)
		for _, other := range instance.Known() {
			fmt.Fprintf(out, "One is in %s: add --data-dir %s.\n", other.Dir, other.Dir)
		}
		return
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "Data\t%s\n", s.DataDir)
	if len(s.Processes) == 0 {
		fmt.Fprintf(w, "Processes\tnone: the cluster is stopped; `sampan up` starts it\n")
	}
	var sum int64
	for _, p := range s.Processes {
		fmt.Fprintf(w, "%s\tpid %d, %.1f MB\n", p.Name, p.PID, float64(p.RSS)/1e6)
		sum += p.RSS
	}
	if len(s.Processes) > 1 {
		fmt.Fprintf(w, "Memory\t%.1f MB in all\n", float64(sum)/1e6)
	}
	if s.Error != "" {
		fmt.Fprintf(w, "API\t%s\n", s.Error)
	} else if len(s.Nodes) > 0 {
		fmt.Fprintf(w, "API\t%s\n", s.Server)
		fmt.Fprintf(w, "Kubeconfig\t%s\n", s.Kubeconfig)
	}
	for _, n := range s.Nodes {
		state := "Ready"
		if !n.Ready {
			state = "not ready: " + n.Message
		}
		fmt.Fprintf(w, "Node %s\t%s\n", n.Name, state)
	}
	if s.Pods != nil {
		fmt.Fprintf(w, "Pods\t%d, %d ready\n", s.Pods.Total, s.Pods.Ready)
	}
	fmt.Fprintf(w, "Containers\t%d running\n", s.Containers)
	w.Flush()
}

func condition(list []corev1.NodeCondition, kind corev1.NodeConditionType) (corev1.NodeCondition, error) {
	for _, c := range list {
		if c.Type == kind {
			return c, nil
		}
	}
	return corev1.NodeCondition{}, errors.New("no such condition yet")
}

// podReady says whether a pod's Ready condition is true.
func podReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// serverURL is where the API answers on this machine.
func serverURL(s instance.Settings) string {
	host := "127.0.0.1"
	if s.Bind.IsValid() && !s.Bind.IsUnspecified() {
		host = s.Bind.String()
	}
	return "https://" + host + ":" + strconv.Itoa(int(s.APIPort))
}

// ask reads nodes and pods over the API.
func (s *clusterStatus) ask(ctx context.Context, inst instance.Instance) error {
	cfg, err := client.FromKubeconfig(inst.Kubeconfig(), "")
	if err != nil {
		return err
	}
	cfg.Table = kinds.Table()
	c, err := client.New(cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	nodes, _, err := client.List[*corev1.Node](ctx, c, client.Selection{})
	if err != nil {
		return err
	}
	for _, n := range nodes {
		state := nodeState{Name: n.Name, Message: "it has not said so yet"}
		if ready, err := condition(n.Status.Conditions, corev1.NodeReady); err == nil {
			state.Ready, state.Message = ready.Status == corev1.ConditionTrue, ready.Message
		}
		s.Nodes = append(s.Nodes, state)
	}
	pods, _, err := client.List[*corev1.Pod](ctx, c, client.Selection{})
	if err != nil {
		return err
	}
	s.Pods = &podCount{Total: len(pods)}
	for _, p := range pods {
		if podReady(p) {
			s.Pods.Ready++
		}
	}
	return nil
}
