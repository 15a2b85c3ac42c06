package server

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"sampan.dev/internal/cache"
)

// nodes finds the way to a node's own server by what its Node says.
type nodes struct {
	server *Server
	config *tls.Config // of this server as the nodes' client; one for all, so that connections are shared
}

// apiUser is who the API server is to a node.
const apiUser = "kube-apiserver-kubelet-client"

// Dial implements apiserver.NodeDialer.
func (n nodes) Dial(_ context.Context, name string) (*url.URL, *tls.Config, error) {
	kind, _ := n.server.Table.ByKind(corev1.SchemeGroupVersion.WithKind("Node"))
	obj := n.server.Cache.Snapshot().Get(kind, "", name)
	if obj == nil {
		return nil, nil, fmt.Errorf("node %q not found", name)
	}
	node := cache.Typed[*corev1.Node](obj)
	port := node.Status.DaemonEndpoints.KubeletEndpoint.Port
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP && port != 0 {
			return &url.URL{Scheme: "https", Host: net.JoinHostPort(a.Address, strconv.Itoa(int(port))), Path: "/"}, n.config, nil
		}
	}
	return nil, nil, fmt.Errorf("node %q has no address yet", name)
}
