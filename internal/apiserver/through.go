package apiserver

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	utilnet "k8s.io/apimachinery/pkg/util/net"

	"sampan.dev/internal/cache"
)

// through answers the subresource proxy: it hands the request on to a node, a pod or one of the pods of a Service, and their answer back, as it comes.
// Who asks is not told to them.
func (s *Server) through(w http.ResponseWriter, r *http.Request, c *call) error {
	scheme, name, port, valid := utilnet.SplitSchemeNamePort(c.name)
	if !valid {
		return bad(fmt.Sprintf("invalid %s request %q", strings.TrimSuffix(c.resource, "s"), c.name))
	}
	snap, err := s.fresh(r.Context())
	if err != nil {
		return err
	}
	obj := snap.Get(c.kind, c.namespace, name)
	if obj == nil {
		return apierrors.NewNotFound(c.gr(), name)
	}
	to := &url.URL{Scheme: cmp.Or(scheme, "http")}
	transport := http.RoundTripper(s.outward)
	switch c.resource {
	case "nodes":
		transport, err = s.toNode(r, cache.Typed[*corev1.Node](obj), port, to)
	case "pods":
		err = toPod(cache.Typed[*corev1.Pod](obj), port, to)
	case "services":
		err = s.toService(snap, cache.Typed[*corev1.Service](obj), port, to)
	}
	if err != nil {
		return err
	}
	if c.resource != "nodes" && !outside(to.Hostname()) {
		return bad("address not allowed")
	}
	prefix, rest := splitProxy(r.URL)
	if rest == "" && (r.Method == http.MethodGet || r.Method == http.MethodHead) { // so that the page's own links lead below it
		target := prefix + "/"
		if r.URL.RawQuery != "" {
			target += "?" + r.URL.RawQuery
		}
		w.Header().Set("Location", target)
		w.WriteHeader(http.StatusMovedPermanently)
		return nil
	}
	ctx, cancel := s.untilStop(r.Context())
	defer cancel()
	proxy := &httputil.ReverseProxy{
		Transport: transport, FlushInterval: -1, ErrorLog: nil,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetXForwarded()
			p.Out.URL.Scheme, p.Out.URL.Host, p.Out.Host = to.Scheme, to.Host, to.Host
			p.Out.URL.Path, p.Out.URL.RawPath = rest, ""
			for _, private := range []string{"Authorization", "Cookie"} {
				p.Out.Header.Del(private)
			}
			p.Out.Header.Set("X-Forwarded-Uri", r.URL.Path)
		},
		ModifyResponse: func(response *http.Response) error {
			// A place on that server is a place below this one.
			if at, err := url.Parse(response.Header.Get("Location")); err == nil && at.Path != "" && (at.Host == "" || at.Host == to.Host) && strings.HasPrefix(at.Path, "/") {
				at.Scheme, at.Host, at.Path = "", "", prefix+at.Path
				response.Header.Set("Location", at.String())
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			s.fail(w, r, apierrors.NewServiceUnavailable(fmt.Sprintf("error trying to reach service: %v", err)))
		},
	}
	proxy.ServeHTTP(w, r.WithContext(ctx))
	return nil
}

// outside says that an address may be asked in the server's name: not one by which it would ask itself, or its own link alone.
func outside(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && !ip.IsLoopback() && !ip.IsUnspecified() && !ip.IsMulticast() && !ip.IsLinkLocalUnicast() && !ip.Is4In6()
}

// splitProxy gives the path up to the subresource, and what follows it.
func splitProxy(u *url.URL) (prefix, rest string) {
	i := strings.Index(u.Path, "/proxy")
	for i >= 0 && i+6 < len(u.Path) && u.Path[i+6] != '/' {
		next := strings.Index(u.Path[i+1:], "/proxy")
		if next < 0 {
			break
		}
		i += 1 + next
	}
	return u.Path[:i+6], u.Path[i+6:]
}

// toNode leads to a node's own server or, with a port, to whatever serves there.
func (s *Server) toNode(r *http.Request, node *corev1.Node, port string, to *url.URL) (http.RoundTripper, error) {
	own := strconv.Itoa(int(node.Status.DaemonEndpoints.KubeletEndpoint.Port))
	if port == "" || port == own {
		n, err := s.nodes.to(r.Context(), node.Name)
		if err != nil {
			return nil, err
		}
		to.Scheme, to.Host = n.base.Scheme, n.base.Host
		return n.client.Transport, nil
	}
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			to.Host = net.JoinHostPort(a.Address, port)
			return s.outward, nil
		}
	}
	return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no preferred addresses found; known addresses: %v", node.Status.Addresses))
}

// toPod leads to a port of a pod: to that of the first container that names one, if none is said.
func toPod(pod *corev1.Pod, port string, to *url.URL) error {
	if pod.Status.PodIP == "" || pod.Spec.HostNetwork && port == "" && len(pod.Spec.Containers) == 0 {
		return bad("address not allowed")
	}
	if port == "" {
		for i := range pod.Spec.Containers {
			if ports := pod.Spec.Containers[i].Ports; len(ports) > 0 {
				port = strconv.Itoa(int(ports[0].ContainerPort))
				break
			}
		}
	}
	to.Host = pod.Status.PodIP
	if strings.Contains(to.Host, ":") {
		to.Host = "[" + to.Host + "]"
	}
	if port != "" {
		to.Host = net.JoinHostPort(pod.Status.PodIP, port)
	}
	return nil
}

// toService leads to one of the ready pods behind a Service: to the port of that name or number.
func (s *Server) toService(snap *cache.Snapshot, service *corev1.Service, port string, to *url.URL) error {
	if number, err := strconv.Atoi(port); err == nil {
		i := slices.IndexFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return int(p.Port) == number })
		if i < 0 {
			return apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", number, service.Name))
		}
		port = service.Spec.Ports[i].Name
	}
	kind, _ := s.table.ByKind(discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"))
	var hosts []string
	if kind != nil {
		selection := cache.Selection{Namespace: service.Namespace, Labels: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service.Name})}
		for o := range snap.List(kind, selection) {
			hosts = append(hosts, readyHosts(cache.Typed[*discoveryv1.EndpointSlice](o), port)...)
		}
	}
	if len(hosts) == 0 {
		return apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", service.Name))
	}
	to.Host = hosts[rand.IntN(len(hosts))]
	return nil
}

func readyHosts(slice *discoveryv1.EndpointSlice, port string) (hosts []string) {
	for _, p := range slice.Ports {
		if p.Port == nil || p.Name != nil && *p.Name != port || p.Name == nil && port != "" {
			continue
		}
		for _, e := range slice.Endpoints {
			if len(e.Addresses) > 0 && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				hosts = append(hosts, net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*p.Port))))
			}
		}
	}
	return hosts
}

// outward is the way to pods and Services. Whoever asks for https there is asked nothing about whom it trusts: the certificates of pods are their own.
func outward() *http.Transport {
	return &http.Transport{
		DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext, DisableCompression: true, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 2,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, TLSHandshakeTimeout: dialTimeout,
	}
}
