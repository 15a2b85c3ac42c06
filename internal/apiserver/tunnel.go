package apiserver

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/websocket"
)

// tunnelProtocol is how kubectl forwards ports: the SPDY of a port-forward as the binary messages of a WebSocket (KEP-4006).
const tunnelProtocol = "SPDY/3.1+portforward.k8s.io"

func wantsTunnel(r *http.Request) bool {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return false
	}
	offered := strings.Split(r.Header.Get("Sec-WebSocket-Protocol"), ",")
	return slices.ContainsFunc(offered, func(p string) bool { return strings.TrimSpace(p) == tunnelProtocol })
}

// tunnel unpacks a port-forward out of its WebSocket: nodes speak plain SPDY.
func (s *Server) tunnel(w http.ResponseWriter, r *http.Request, node, path string) error {
	ctx, cancel := s.untilStop(r.Context())
	defer cancel()
	n, err := s.nodes.to(ctx, node)
	if err != nil {
		return err
	}
	plain := &http.Request{Method: http.MethodPost, Header: http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}, "X-Stream-Protocol-Version": {"portforward.k8s.io"},
		"User-Agent": r.Header["User-Agent"],
	}}
	back, response, buffered, err := n.ask(ctx, plain, path, url.Values{})
	if err != nil {
		return fmt.Errorf("ask node %s: %w", node, err)
	}
	defer back.Close()
	if response.StatusCode != http.StatusSwitchingProtocols {
		return refused(w, response)
	}
	websocket.Server{
		Handshake: func(config *websocket.Config, _ *http.Request) error {
			config.Protocol = []string{tunnelProtocol}
			return nil
		},
		Handler: func(front *websocket.Conn) {
			front.PayloadType = websocket.BinaryFrame
			splice(ctx, front, front, back, buffered)
		},
	}.ServeHTTP(w, r)
	return nil
}
