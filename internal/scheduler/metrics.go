package scheduler

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts scheduling under Kubernetes' names; it is a prometheus.Collector to register. A nil *Metrics counts nothing.
type Metrics struct {
	attempts *prometheus.CounterVec
	took     *prometheus.HistogramVec
	waiting  *prometheus.GaugeVec
	sli      *prometheus.HistogramVec
	needed   prometheus.Histogram
	incoming *prometheus.CounterVec
}

// NewMetrics makes a collector.
func NewMetrics() *Metrics {
	return &Metrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "scheduler_schedule_attempts_total",
			Help: "Number of attempts to schedule pods, by the result. 'unschedulable' means a pod could not be scheduled, while 'error' means an internal scheduler problem.",
		}, []string{"result", "profile"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "scheduler_scheduling_attempt_duration_seconds", Help: "Scheduling attempt latency in seconds (scheduling algorithm + binding)",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
		}, []string{"result", "profile"}),
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "scheduler_pending_pods",
			Help: "Number of pending pods, by the queue type. 'active' means number of pods in activeQ; 'backoff' means number of pods in backoffQ; 'unschedulable' means number of pods in unschedulablePods that the scheduler attempted to schedule and failed; 'gated' is the number of unschedulable pods that the scheduler never attempted to schedule because they are gated.",
		}, []string{"queue"}),
		sli: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "scheduler_pod_scheduling_sli_duration_seconds", Help: "E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue and might involve multiple scheduling attempts.",
			Buckets: prometheus.ExponentialBuckets(0.01, 2, 20),
		}, []string{"attempts"}),
		needed: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "scheduler_pod_scheduling_attempts", Help: "Number of attempts to successfully schedule a pod.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 5),
		}),
		incoming: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "scheduler_queue_incoming_pods_total", Help: "Number of pods added to scheduling queues by event and queue type.",
		}, []string{"queue", "event"}),
	}
}

func (m *Metrics) parts() []prometheus.Collector {
	return []prometheus.Collector{m.attempts, m.took, m.waiting, m.sli, m.needed, m.incoming}
}

// Describe is part of prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.parts() {
		c.Describe(ch)
	}
}

// Collect is part of prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.parts() {
		c.Collect(ch)
	}
}

func (m *Metrics) attempted(profile, result string, took time.Duration) {
	if m != nil {
		m.attempts.WithLabelValues(result, profile).Inc()
		m.took.WithLabelValues(result, profile).Observe(took.Seconds())
	}
}

func (m *Metrics) scheduled(attempts int, since time.Duration) {
	if m != nil {
		m.sli.WithLabelValues(strconv.Itoa(min(attempts, 16))).Observe(since.Seconds())
		m.needed.Observe(float64(attempts))
	}
}

func (m *Metrics) moved(to place, why string) {
	if m != nil {
		m.incoming.WithLabelValues(string(to), why).Inc()
	}
}

func (m *Metrics) pending(count map[place]int) {
	if m == nil {
		return
	}
	for _, p := range []place{active, backingOff, unschedulable, gated} {
		m.waiting.WithLabelValues(string(p)).Set(float64(count[p]))
	}
}
