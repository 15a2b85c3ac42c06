package dns

import (
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts what the server does, in plain numbers: nothing is looked up for a packet.
type metrics struct {
	responses                            [16]atomic.Uint64 // by code, as in the header
	tcp, closed                          atomic.Uint64
	forwards, failures, overflows, loops atomic.Uint64
	hits, misses                         atomic.Uint64
}

// count counts an answer, which it gives back.
func (s *Server) count(answer []byte) []byte {
	if len(answer) >= headerSize {
		s.metrics.responses[answer[3]&15].Add(1)
	}
	return answer
}

var (
	responsesDesc = prometheus.NewDesc("sampan_dns_responses_total", "DNS answers given on this node, by response code.", []string{"rcode"}, nil)
	tcpDesc       = prometheus.NewDesc("sampan_dns_tcp_requests_total", "DNS questions that came by TCP.", nil, nil)
	closedDesc    = prometheus.NewDesc("sampan_dns_tcp_refused_total", "TCP connections closed at once because too many were open.", nil, nil)
	forwardsDesc  = prometheus.NewDesc("sampan_dns_forwards_total", "Questions sent to other DNS servers.", nil, nil)
	failuresDesc  = prometheus.NewDesc("sampan_dns_forward_failures_total", "Questions that another DNS server did not answer.", nil, nil)
	overflowsDesc = prometheus.NewDesc("sampan_dns_forward_overflows_total", "Questions not sent on because too many were on their way.", nil, nil)
	loopsDesc     = prometheus.NewDesc("sampan_dns_forward_loops_total", "DNS servers given up because they lead back here.", nil, nil)
	hitsDesc      = prometheus.NewDesc("sampan_dns_cache_hits_total", "Outside names answered from what was kept.", nil, nil)
	missesDesc    = prometheus.NewDesc("sampan_dns_cache_misses_total", "Outside names about which nothing was kept.", nil, nil)
	entriesDesc   = prometheus.NewDesc("sampan_dns_cache_entries", "Answers kept.", nil, nil)
	bytesDesc     = prometheus.NewDesc("sampan_dns_cache_bytes", "Bytes that the kept answers take.", nil, nil)
	servicesDesc  = prometheus.NewDesc("sampan_dns_services", "Services whose names are answered.", nil, nil)
)

var codes = [16]string{"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"}

// Describe is part of prometheus.Collector: a Server is a collector of its own figures.
func (s *Server) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		responsesDesc, tcpDesc, closedDesc, forwardsDesc, failuresDesc, overflowsDesc, loopsDesc,
		hitsDesc, missesDesc, entriesDesc, bytesDesc, servicesDesc,
	} {
		ch <- d
	}
}

// Collect is part of prometheus.Collector.
func (s *Server) Collect(ch chan<- prometheus.Metric) {
	m := &s.metrics
	for code := range m.responses {
		n := m.responses[code].Load()
		name := codes[code]
		if name == "" {
			if n == 0 {
				continue
			}
			name = strconv.Itoa(code)
		}
		ch <- prometheus.MustNewConstMetric(responsesDesc, prometheus.CounterValue, float64(n), name)
	}
	for desc, n := range map[*prometheus.Desc]*atomic.Uint64{
		tcpDesc: &m.tcp, closedDesc: &m.closed, forwardsDesc: &m.forwards, failuresDesc: &m.failures, overflowsDesc: &m.overflows,
		loopsDesc: &m.loops, hitsDesc: &m.hits, missesDesc: &m.misses,
	} {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n.Load()))
	}
	entries, bytes := s.forward.cache.size()
	s.mu.RLock()
	services := len(s.services)
	s.mu.RUnlock()
	for desc, n := range map[*prometheus.Desc]int{entriesDesc: entries, bytesDesc: bytes, servicesDesc: services} {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(n))
	}
}
