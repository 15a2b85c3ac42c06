package proxy

import (
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"sampan.dev/internal/loop"
)

// HealthServers answer on the health check ports of Services whose external traffic policy is Local: 200 if this node has an end, 503 if it has none. Load balancers
// outside of the cluster ask there which nodes to send to.
type HealthServers struct {
	log *slog.Logger

	mu       sync.Mutex // guards all of them
	services map[loop.Key]*healthServer
}

type healthServer struct {
	port   uint16
	server *http.Server

	mu   sync.Mutex // guards ends
	ends int
}

// NewHealthServers returns one that listens nowhere.
func NewHealthServers(log *slog.Logger) *HealthServers {
	return &HealthServers{log: log, services: map[loop.Key]*healthServer{}}
}

// Set implements Health.
func (h *HealthServers) Set(service loop.Key, port uint16, ends int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.services[service]
	if s != nil && s.port != port {
		_ = s.server.Close()
		delete(h.services, service)
		s = nil
	}
	if port == 0 {
		return
	}
	if s == nil {
		l, err := listen(port)
		if err != nil {
			h.log.Error("serve the health check of a Service", "service", service, "error", err)
			return
		}
		s = serveHealth(l, service, port)
		h.services[service] = s
	}
	s.mu.Lock()
	s.ends = ends
	s.mu.Unlock()
}

// Close ends all of them.
func (h *HealthServers) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, s := range h.services {
		_ = s.server.Close()
		delete(h.services, key)
	}
}

func serveHealth(l net.Listener, service loop.Key, port uint16) *healthServer {
	s := &healthServer{port: port}
	s.server = &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		ends := s.ends
		s.mu.Unlock()
		answer := map[string]any{
			"service":             map[string]string{"namespace": service.Namespace, "name": service.Name},
			"localEndpoints":      ends,
			"serviceProxyHealthy": true,
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(ends))
		if ends == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(answer)
	})}
	go func() { _ = s.server.Serve(l) }() // until Close
	return s
}
