package loop

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what loops do, under the names of Kubernetes' work queues. One serves all loops of a process; it is a
// prometheus.Collector to register. A nil *Metrics counts nothing.
type Metrics struct {
	adds, retries *prometheus.CounterVec
	waited, took  *prometheus.HistogramVec

	mu    sync.Mutex
	loops []*Loop
}

var (
	depth      = prometheus.NewDesc("workqueue_depth", "Current depth of workqueue", []string{"name"}, nil)
	unfinished = prometheus.NewDesc("workqueue_unfinished_work_seconds", "How many seconds of work is in progress and hasn't been observed by work_duration", []string{"name"}, nil)
	longest    = prometheus.NewDesc("workqueue_longest_running_processor_seconds", "How many seconds the longest running worker has been running", []string{"name"}, nil)
)

// NewMetrics makes a collector for loops.
func NewMetrics() *Metrics {
	label := []string{"name"}
	buckets := prometheus.ExponentialBuckets(1e-5, 10, 7) // 10 µs to 10 s
	return &Metrics{
		adds:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "workqueue_adds_total", Help: "Total number of adds handled by workqueue"}, label),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "workqueue_retries_total", Help: "Total number of retries handled by workqueue"}, label),
		waited:  prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "workqueue_queue_duration_seconds", Help: "How long in seconds an item stays in workqueue before being requested.", Buckets: buckets}, label),
		took:    prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "workqueue_work_duration_seconds", Help: "How long in seconds processing an item from workqueue takes.", Buckets: buckets}, label),
	}
}

// Describe is part of prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.parts() {
		c.Describe(ch)
	}
	ch <- depth
	ch <- unfinished
	ch <- longest
}

// Collect is part of prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.parts() {
		c.Collect(ch)
	}
	m.mu.Lock()
	loops := m.loops
	m.mu.Unlock()
	for _, l := range loops {
		queued, sum, most := l.load(time.Now())
		ch <- prometheus.MustNewConstMetric(depth, prometheus.GaugeValue, float64(queued), l.name)
		ch <- prometheus.MustNewConstMetric(unfinished, prometheus.GaugeValue, sum.Seconds(), l.name)
		ch <- prometheus.MustNewConstMetric(longest, prometheus.GaugeValue, most.Seconds(), l.name)
	}
}

func (m *Metrics) parts() []prometheus.Collector {
	return []prometheus.Collector{m.adds, m.retries, m.waited, m.took}
}

// load is how many keys wait, and how long those in work have been there: all together and the longest.
func (l *Loop) load(now time.Time) (queued int, sum, most time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.keys {
		if s.working {
			sum += now.Sub(s.since)
			most = max(most, now.Sub(s.since))
		}
	}
	return l.ready.len(), sum, most
}

func (m *Metrics) add(l *Loop) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	others := slices.DeleteFunc(slices.Clone(m.loops), func(o *Loop) bool { return o.name == l.name }) // that one has been before, and is made again
	m.loops = append(others, l)
}

func (m *Metrics) added(name string) {
	if m != nil {
		m.adds.WithLabelValues(name).Inc()
	}
}

func (m *Metrics) retried(name string) {
	if m != nil {
		m.retries.WithLabelValues(name).Inc()
	}
}

func (m *Metrics) begun(name string, waited time.Duration) {
	if m != nil {
		m.waited.WithLabelValues(name).Observe(waited.Seconds())
	}
}

func (m *Metrics) done(name string, took time.Duration) {
	if m != nil {
		m.took.WithLabelValues(name).Observe(took.Seconds())
	}
}
