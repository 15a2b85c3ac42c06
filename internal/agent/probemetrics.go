package agent

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/probe"
)

// probeMetrics are what the node serves at /metrics/probes, under the kubelet's names.
type probeMetrics struct {
	total    *prometheus.CounterVec
	took     *prometheus.HistogramVec
	registry *prometheus.Registry
	handler  http.Handler
}

func newProbeMetrics() *probeMetrics {
	m := &probeMetrics{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "prober_probe_total", Help: "Cumulative number of a liveness, readiness or startup probe for a container by result.",
		}, []string{"probe_type", "result", "container", "pod", "namespace", "pod_uid"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "prober_probe_duration_seconds", Help: "Duration in seconds for a probe response.",
		}, []string{"probe_type", "container", "pod", "namespace"}),
	}
	m.registry = prometheus.NewRegistry()
	m.registry.MustRegister(m.total, m.took)
	m.handler = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{DisableCompression: true})
	return m
}

func (m *probeMetrics) count(pod *corev1.Pod, container, kind string, r probe.Result, took time.Duration) {
	title := map[string]string{probe.Startup: "Startup", probe.Liveness: "Liveness", probe.Readiness: "Readiness"}[kind]
	result := map[probe.Result]string{probe.Success: "successful", probe.Warning: "successful", probe.Failure: "failed", probe.Unknown: "unknown"}[r]
	m.total.WithLabelValues(title, result, container, pod.Name, pod.Namespace, string(pod.UID)).Inc()
	m.took.WithLabelValues(title, container, pod.Name, pod.Namespace).Observe(took.Seconds())
}

// forget drops what was counted for a pod that has gone.
func (m *probeMetrics) forget(uid types.UID) {
	m.total.DeletePartialMatch(prometheus.Labels{"pod_uid": string(uid)})
}
