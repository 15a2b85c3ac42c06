package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"sampan.dev/internal/agent"
	"sampan.dev/internal/apiserver"
	"sampan.dev/internal/server"
)

// standstillBound is how long all servers have to say how their stores are.
const standstillBound = 2 * time.Second

// standstill asks servers whether their stores stand still, when no lease can be renewed.
type standstill struct {
	transport *http.Transport
	bound     time.Duration
}

// newStandstill asks as whom the configuration says, and believes whom it trusts.
func newStandstill(config *tls.Config) *standstill {
	return &standstill{bound: standstillBound, transport: &http.Transport{
		TLSClientConfig: config, DialContext: (&net.Dialer{Timeout: standstillBound}).DialContext,
		MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute, DisableCompression: true,
	}}
}

// unserved says for how long, up to now, no server can have missed a node, as agent.Config.Unserved wants it: each of them proves that its store stands still, or its machine
// says that none runs there. All are asked at the same time.
func (s *standstill) unserved(ctx context.Context, servers []string) time.Duration {
	if len(servers) == 0 {
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, s.bound)
	defer cancel()
	answers := make(chan time.Duration, len(servers))
	for _, server := range servers {
		go func() { answers <- s.of(ctx, server) }()
	}
	least := agent.NoServer
	for range servers {
		least = min(least, <-answers)
	}
	return max(least, 0)
}

// of is for how long one server's store has stood still: zero if it works, or if there is no good answer.
func (s *standstill) of(ctx context.Context, server string) time.Duration {
	state, err := s.ask(ctx, server)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return agent.NoServer
	case err != nil:
		s.transport.CloseIdleConnections() // so that none that is dead is tried the next time
		return 0
	}
	return state.Stalled.Duration
}

func (s *standstill) ask(ctx context.Context, server string) (state apiserver.StoreState, err error) {
	if !strings.HasPrefix(server, "https://") {
		return state, fmt.Errorf("ask %s how its store is: only who proves who it is is asked", server)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, server+apiserver.StorePath, nil)
	if err != nil {
		return state, fmt.Errorf("ask %s how its store is: %w", server, err)
	}
	answer, err := s.transport.RoundTrip(r) // no redirect is followed
	if err != nil {
		return state, fmt.Errorf("ask %s how its store is: %w", server, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return state, fmt.Errorf("ask %s how its store is: %s", server, answer.Status)
	}
	if err := json.NewDecoder(io.LimitReader(answer.Body, 4096)).Decode(&state); err != nil {
		return state, fmt.Errorf("ask %s how its store is: %w", server, err)
	}
	return state, nil
}

// unstored is unserved for the node of a server, which knows itself how its store is, and asks all servers that the cluster knows of.
func unstored(ctx context.Context, srv *server.Server, others *standstill) time.Duration {
	own := srv.Standstill()
	n, known, err := networkOf(srv)
	if own == 0 || err != nil || !known {
		return 0
	}
	return min(own, others.unserved(ctx, n.Servers))
}

// close ends the connections.
func (s *standstill) close() { s.transport.CloseIdleConnections() }
