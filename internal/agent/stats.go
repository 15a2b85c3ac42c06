package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// serveMetrics says what the agent does, in Prometheus' text format, and what else it was given to say.
func (a *Agent) serveMetrics(w http.ResponseWriter, r *http.Request) {
	pods, containers := 0, 0
	a.mu.Lock()
	for _, worker := range a.workers {
		worker.mu.Lock()
		if n := len(worker.running); n > 0 {
			pods++
			containers += n
		}
		worker.mu.Unlock()
	}
	a.mu.Unlock()
	if a.cfg.Metrics != nil {
		r.Header.Del("Accept-Encoding") // what follows is appended plainly
		a.cfg.Metrics.ServeHTTP(w, r)
	} else {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	}
	gauge(w, "kubelet_node_name", "The node's name. The count is always 1.", fmt.Sprintf("{node=%q} 1", a.cfg.NodeName))
	gauge(w, "kubelet_running_pods", "Number of pods that have a running pod sandbox", fmt.Sprintf(" %d", pods))
	gauge(w, "kubelet_running_containers", "Number of containers currently running", fmt.Sprintf("{container_state=\"running\"} %d", containers))
}

func gauge(w io.Writer, name, help string, lines ...string) {
	fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s gauge\n", name, help, name)
	for _, l := range lines {
		fmt.Fprintf(w, "%s%s\n", name, l)
	}
}

// usage is what one container uses, as the runtime counts it.
type usage struct {
	pod, namespace, uid, container string
	at                             time.Time
	cpuNano, memory, rss, usage    uint64
	cpuRate                        uint64
}

func (a *Agent) usages(ctx context.Context) ([]usage, error) {
	r, err := a.runtime.ListContainerStats(ctx, &cri.ListContainerStatsRequest{})
	if err != nil {
		return nil, fmt.Errorf("list container stats: %w", err)
	}
	var all []usage
	for _, s := range r.Stats {
		labels := s.GetAttributes().GetLabels()
		if labels[labelPodUID] == "" {
			continue
		}
		all = append(all, usage{
			pod: labels[labelPodName], namespace: labels[labelPodNamespace], uid: labels[labelPodUID], container: labels[labelContainerName],
			at: time.Unix(0, s.GetCpu().GetTimestamp()), cpuNano: s.GetCpu().GetUsageCoreNanoSeconds().GetValue(),
			cpuRate: s.GetCpu().GetUsageNanoCores().GetValue(), memory: s.GetMemory().GetWorkingSetBytes().GetValue(),
			rss: s.GetMemory().GetRssBytes().GetValue(), usage: s.GetMemory().GetUsageBytes().GetValue(),
		})
	}
	slices.SortFunc(all, func(x, y usage) int {
		return cmp.Or(strings.Compare(x.namespace, y.namespace), strings.Compare(x.pod, y.pod), strings.Compare(x.container, y.container))
	})
	return all, nil
}

// serveResourceMetrics says what containers and pods use, for autoscalers.
func (a *Agent) serveResourceMetrics(w http.ResponseWriter, r *http.Request) {
	all, err := a.usages(r.Context())
	if err != nil {
		http.Error(w, plain(err), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	type pod struct{ namespace, name string }
	cpu, memory := map[pod]uint64{}, map[pod]uint64{}
	var order []pod
	var cpus, memories []string
	for _, u := range all {
		p := pod{u.namespace, u.pod}
		if _, ok := cpu[p]; !ok {
			order = append(order, p)
		}
		cpu[p] += u.cpuNano
		memory[p] += u.memory
		name := fmt.Sprintf("{container=%q,namespace=%q,pod=%q}", u.container, u.namespace, u.pod)
		cpus = append(cpus, fmt.Sprintf("%s %g %d", name, float64(u.cpuNano)/1e9, u.at.UnixMilli()))
		memories = append(memories, fmt.Sprintf("%s %d %d", name, u.memory, u.at.UnixMilli()))
	}
	counter := func(name, help string, lines []string) {
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s counter\n", name, help, name)
		for _, l := range lines {
			fmt.Fprintf(w, "%s%s\n", name, l)
		}
	}
	counter("container_cpu_usage_seconds_total", "Cumulative cpu time consumed by the container in core-seconds", cpus)
	gauge(w, "container_memory_working_set_bytes", "Current working set of the container in bytes", memories...)
	var podCPU, podMemory []string
	for _, p := range order {
		podCPU = append(podCPU, fmt.Sprintf("{namespace=%q,pod=%q} %g", p.namespace, p.name, float64(cpu[p])/1e9))
		podMemory = append(podMemory, fmt.Sprintf("{namespace=%q,pod=%q} %d", p.namespace, p.name, memory[p]))
	}
	counter("pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds", podCPU)
	gauge(w, "pod_memory_working_set_bytes", "Current working set of the pod in bytes", podMemory...)
	gauge(w, "resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise", " 0")
}

// The summary's form, as far as it is filled.
type (
	summaryCPU struct {
		Time                 time.Time `json:"time"`
		UsageNanoCores       uint64    `json:"usageNanoCores"`
		UsageCoreNanoSeconds uint64    `json:"usageCoreNanoSeconds"`
	}
	summaryMemory struct {
		Time            time.Time `json:"time"`
		UsageBytes      uint64    `json:"usageBytes"`
		WorkingSetBytes uint64    `json:"workingSetBytes"`
		RSSBytes        uint64    `json:"rssBytes"`
	}
	summaryContainer struct {
		Name   string        `json:"name"`
		CPU    summaryCPU    `json:"cpu"`
		Memory summaryMemory `json:"memory"`
	}
	summaryPod struct {
		PodRef struct {
			Name      string `json:"name"`
			Namespace string `json:"namespace"`
			UID       string `json:"uid"`
		} `json:"podRef"`
		StartTime  time.Time          `json:"startTime"`
		Containers []summaryContainer `json:"containers"`
		CPU        summaryCPU         `json:"cpu"`
		Memory     summaryMemory      `json:"memory"`
	}
	summary struct {
		Node struct {
			NodeName string        `json:"nodeName"`
			CPU      summaryCPU    `json:"cpu"`
			Memory   summaryMemory `json:"memory"`
		} `json:"node"`
		Pods []summaryPod `json:"pods"`
	}
)

func (a *Agent) serveSummary(w http.ResponseWriter, r *http.Request) {
	all, err := a.usages(r.Context())
	if err != nil {
		http.Error(w, plain(err), http.StatusInternalServerError)
		return
	}
	s := summary{Pods: []summaryPod{}}
	s.Node.NodeName = a.cfg.NodeName
	now := time.Now()
	used, working := machineUsage("/proc")
	s.Node.CPU, s.Node.Memory = summaryCPU{Time: now, UsageCoreNanoSeconds: used}, summaryMemory{Time: now, UsageBytes: working, WorkingSetBytes: working}
	for _, u := range all {
		if n := len(s.Pods); n == 0 || s.Pods[n-1].PodRef.UID != u.uid {
			var p summaryPod
			p.PodRef.Name, p.PodRef.Namespace, p.PodRef.UID = u.pod, u.namespace, u.uid
			if pod := a.cfg.View.Pod(u.namespace, u.pod); pod != nil && pod.Status.StartTime != nil {
				p.StartTime = pod.Status.StartTime.Time
			}
			s.Pods = append(s.Pods, p)
		}
		p := &s.Pods[len(s.Pods)-1]
		c := summaryContainer{
			Name: u.container, CPU: summaryCPU{u.at, u.cpuRate, u.cpuNano},
			Memory: summaryMemory{u.at, u.usage, u.memory, u.rss},
		}
		p.Containers = append(p.Containers, c)
		p.CPU = summaryCPU{u.at, p.CPU.UsageNanoCores + u.cpuRate, p.CPU.UsageCoreNanoSeconds + u.cpuNano}
		p.Memory = summaryMemory{u.at, p.Memory.UsageBytes + u.usage, p.Memory.WorkingSetBytes + u.memory, p.Memory.RSSBytes + u.rss}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(s)
}
