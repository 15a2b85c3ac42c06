package apiserver

import (
	"bufio"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics counts requests under upstream's names.
type metrics struct {
	total    *prometheus.CounterVec
	duration *prometheus.HistogramVec
	current  *prometheus.GaugeVec
	long     *prometheus.GaugeVec
	known    func(t *target) bool
	handler  http.Handler
}

func newMetrics(s *Server) *metrics {
	labels := []string{"verb", "group", "version", "resource", "subresource", "scope", "component"}
	m := &metrics{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_request_total",
			Help: "Counter of apiserver requests broken out for each verb, group, version, resource, scope, component, and HTTP response code.",
		}, append(labels, "code")),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "apiserver_request_duration_seconds",
			Help:    "Response latency distribution in seconds for each verb, group, version, resource, subresource, scope and component.",
			Buckets: []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 5, 10, 30, 60},
		}, labels),
		current: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "apiserver_current_inflight_requests",
			Help: "Number of requests under way, by kind: readOnly or mutating. Long-running ones are not among them.",
		}, []string{"request_kind"}),
		long: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "apiserver_longrunning_requests",
			Help: "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component.",
		}, labels),
		known: func(t *target) bool {
			kind, _ := s.table.ByResource(t.gvr())
			return kind != nil && (t.sub == "" || kind.Sub(t.sub) != nil || t.sub == "scale" && kind.Scale != nil || isConnectName(kind, t.sub))
		},
	}
	r := prometheus.NewRegistry()
	r.MustRegister(m.total, m.duration, m.current, m.long, &objectCounts{s},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r.MustRegister(s.cfg.Metrics...)
	m.handler = promhttp.HandlerFor(r, promhttp.HandlerOpts{DisableCompression: true})
	return m
}

// verbNames are what metrics call verbs.
var verbNames = map[string]string{
	"get": "GET", "list": "LIST", "watch": "WATCH", "create": "POST", "update": "PUT", "patch": "PATCH",
	"delete": "DELETE", "deletecollection": "DELETECOLLECTION",
}

// begin counts a request in; the function returned counts it out.
func (m *metrics) begin(t *target, w *recorder) func() {
	start := time.Now()
	// Only what the API has becomes a label, so that a client cannot make up any number of them.
	values := []string{"other", "", "", "", "", "", "apiserver"}
	if verb, ok := verbNames[t.verb]; ok {
		values[0] = verb
	}
	if t.isResource && m.known(t) {
		values[1], values[2], values[3], values[4] = t.group, t.version, t.resource, t.sub
		switch {
		case t.named || t.verb == "create":
			values[5] = "resource"
		case t.namespace != "":
			values[5] = "namespace"
		default:
			values[5] = "cluster"
		}
	}
	if t.longRunning() {
		gauge := m.long.WithLabelValues(values...)
		gauge.Inc()
		return func() {
			gauge.Dec()
			m.total.WithLabelValues(append(values, w.codeText())...).Inc()
		}
	}
	kind := "mutating"
	if t.verb == "get" || t.verb == "list" {
		kind = "readOnly"
	}
	gauge := m.current.WithLabelValues(kind)
	gauge.Inc()
	return func() {
		gauge.Dec()
		m.duration.WithLabelValues(values...).Observe(time.Since(start).Seconds())
		m.total.WithLabelValues(append(values, w.codeText())...).Inc()
	}
}

func (m *metrics) serve(w http.ResponseWriter, r *http.Request) error {
	if strings.TrimSuffix(r.URL.Path, "/") != "/metrics" {
		http.NotFound(w, r)
		return nil
	}
	m.handler.ServeHTTP(w, r)
	return nil
}

// objectCounts tells how many objects there are, when asked.
type objectCounts struct{ s *Server }

var objectsDesc = prometheus.NewDesc("apiserver_storage_objects",
	"Number of stored objects at the time of last check split by kind.", []string{"resource"}, nil)

func (o *objectCounts) Describe(ch chan<- *prometheus.Desc) { ch <- objectsDesc }

func (o *objectCounts) Collect(ch chan<- prometheus.Metric) {
	snap := o.s.cache.Snapshot()
	for _, kind := range o.s.table.All() {
		ch <- prometheus.MustNewConstMetric(objectsDesc, prometheus.GaugeValue, float64(snap.Count(kind)), kind.GroupResource().String())
	}
}

// recorder notes the code of an answer.
type recorder struct {
	http.ResponseWriter
	code int
}

func (w *recorder) WriteHeader(code int) {
	if w.code == 0 {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *recorder) Write(data []byte) (int, error) {
	if w.code == 0 {
		w.code = http.StatusOK
	}
	return w.ResponseWriter.Write(data)
}

// Unwrap lets http.ResponseController find what the connection can do.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Hijack hands the connection over.
func (w *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buf, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.code = http.StatusSwitchingProtocols
	}
	return conn, buf, err
}

func (w *recorder) codeText() string {
	switch w.code {
	case 0, http.StatusOK:
		return "200"
	case http.StatusCreated:
		return "201"
	}
	return strconv.Itoa(w.code)
}
