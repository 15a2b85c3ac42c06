package agent

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/agent/remote"
)

// serve serves the node's own API on port 10250: logs, exec, attach, port-forward, pods, metrics. All but /healthz needs a client
// certificate of the cluster's authority, of somebody who may use it.
func (a *Agent) serve(ctx context.Context) error {
	config := a.cfg.TLS.Clone()
	config.ClientAuth = tls.VerifyClientCertIfGiven
	config.NextProtos = []string{"http/1.1"} // upgrades are of HTTP/1.1
	if config.MinVersion == 0 {
		config.MinVersion = tls.VersionTLS12
	}
	streams, endStreams := context.WithCancel(ctx)
	server := &http.Server{
		Handler: a.handlerFor(), ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 90 * time.Second,
		BaseContext: func(net.Listener) context.Context { return streams },
		ErrorLog:    slog.NewLogLogger(a.log.Handler(), slog.LevelDebug), // failed handshakes, of port scanners and the like
	}
	ended := make(chan struct{})
	var once sync.Once
	stop := func() {
		once.Do(func() {
			endStreams()
			_ = server.Close() // what is hijacked ends with its context
			close(ended)
		})
	}
	defer stop()
	go func() {
		<-ctx.Done()
		stop()
	}()
	err := server.Serve(tls.NewListener(a.cfg.Listener, config))
	if errors.Is(err, http.ErrServerClosed) {
		<-ended
		return nil
	}
	return fmt.Errorf("serve the node's API: %w", err)
}

func (a *Agent) handlerFor() http.Handler {
	mux := http.NewServeMux()
	guarded := func(pattern string, h http.HandlerFunc) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if a.allowed(w, r) {
				h(w, r)
			}
		})
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	guarded("GET /containerLogs/{namespace}/{pod}/{container}", a.serveLogs)
	for _, form := range []string{"/{namespace}/{pod}/{container}", "/{namespace}/{pod}/{uid}/{container}"} {
		guarded("/exec"+form, a.serveExec)
		guarded("/attach"+form, a.serveAttach)
	}
	guarded("/portForward/{namespace}/{pod}", a.servePortForward)
	guarded("/portForward/{namespace}/{pod}/{uid}", a.servePortForward)
	guarded("GET /pods", a.servePods)
	guarded("GET /metrics", a.serveMetrics)
	guarded("GET /metrics/resource", a.serveResourceMetrics)
	guarded("GET /metrics/probes", a.prober.metrics.handler.ServeHTTP)
	guarded("GET /stats/summary", a.serveSummary)
	return mux
}

// allowed answers for those who may not.
func (a *Agent) allowed(w http.ResponseWriter, r *http.Request) bool {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
		return false
	}
	who := r.TLS.PeerCertificates[0].Subject
	if !a.cfg.Authorize(who.CommonName, who.Organization) {
		verb := map[string]string{http.MethodGet: "get", http.MethodPost: "create"}[r.Method]
		http.Error(w, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=[proxy])", who.CommonName, verb), http.StatusForbidden)
		return false
	}
	return true
}

// target finds the pod of a request, and the container that a name stands for.
func (a *Agent) target(w http.ResponseWriter, r *http.Request) (*corev1.Pod, bool) {
	namespace, name := r.PathValue("namespace"), r.PathValue("pod")
	pod := a.cfg.View.Pod(namespace, name)
	if uid := r.PathValue("uid"); pod != nil && uid != "" && string(pod.UID) != uid {
		pod = nil
	}
	if pod == nil {
		http.Error(w, fmt.Sprintf("pod %q not found", name), http.StatusNotFound)
		return nil, false
	}
	return pod, true
}

// container finds what runs under a container's name.
func (a *Agent) runningContainer(ctx context.Context, pod *corev1.Pod, name string) (string, error) {
	var m memory
	seen, err := a.observe(ctx, pod.UID, &m)
	if err != nil {
		return "", err
	}
	if c := seen.Newest(name); c != nil && c.State == Running {
		return c.ID, nil
	}
	return "", fmt.Errorf("container not found (%q)", name)
}

// flag reads a query parameter under either of its names: kubelet's own, or the API's.
func flag(q url.Values, names ...string) bool {
	for _, n := range names {
		if v := q.Get(n); v == "1" || v == "true" {
			return true
		}
	}
	return false
}

func (a *Agent) serveExec(w http.ResponseWriter, r *http.Request) {
	pod, ok := a.target(w, r)
	if !ok {
		return
	}
	id, err := a.runningContainer(r.Context(), pod, r.PathValue("container"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	q := r.URL.Query()
	request := &cri.ExecRequest{
		ContainerId: id, Cmd: q["command"], Tty: flag(q, "tty"),
		Stdin: flag(q, "input", "stdin"), Stdout: flag(q, "output", "stdout"), Stderr: flag(q, "error", "stderr"),
	}
	if request.Tty {
		request.Stderr = false
	}
	if !request.Stdin && !request.Stdout && !request.Stderr {
		http.Error(w, "you must specify at least 1 of stdin, stdout, stderr", http.StatusBadRequest)
		return
	}
	answer, err := a.runtime.Exec(r.Context(), request)
	a.command(w, r, answer.GetUrl(), err, remote.Streams{Stdin: request.Stdin, Stdout: request.Stdout, Stderr: request.Stderr, TTY: request.Tty})
}

func (a *Agent) serveAttach(w http.ResponseWriter, r *http.Request) {
	pod, ok := a.target(w, r)
	if !ok {
		return
	}
	name := r.PathValue("container")
	c := containerOf(pod, name)
	if c == nil {
		http.Error(w, fmt.Sprintf("container %s not found in pod %s_%s", name, pod.Name, pod.Namespace), http.StatusNotFound)
		return
	}
	id, err := a.runningContainer(r.Context(), pod, name)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	q := r.URL.Query()
	request := &cri.AttachRequest{
		ContainerId: id, Tty: c.TTY,
		Stdin: flag(q, "input", "stdin"), Stdout: flag(q, "output", "stdout"), Stderr: flag(q, "error", "stderr") && !c.TTY,
	}
	answer, err := a.runtime.Attach(r.Context(), request)
	a.command(w, r, answer.GetUrl(), err, remote.Streams{Stdin: request.Stdin, Stdout: request.Stdout, Stderr: request.Stderr, TTY: request.Tty})
}

func (a *Agent) servePortForward(w http.ResponseWriter, r *http.Request) {
	pod, ok := a.target(w, r)
	if !ok {
		return
	}
	var m memory
	seen, err := a.observe(r.Context(), pod.UID, &m)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	sandbox := seen.Current()
	if sandbox == nil {
		http.Error(w, fmt.Sprintf("pod not found (%q)", pod.Name+"_"+pod.Namespace), http.StatusNotFound)
		return
	}
	request := &cri.PortForwardRequest{PodSandboxId: sandbox.ID}
	for _, list := range r.URL.Query()["port"] { // named by WebSocket clients of old; SPDY names them in its streams
		for p := range strings.SplitSeq(list, ",") {
			port, err := strconv.ParseUint(p, 10, 16)
			if err != nil || port == 0 {
				http.Error(w, fmt.Sprintf("unable to parse %q as a port", p), http.StatusBadRequest)
				return
			}
			request.Port = append(request.Port, int32(port))
		}
	}
	answer, err := a.runtime.PortForward(r.Context(), request)
	a.stream(w, r, answer.GetUrl(), err)
}

// command hands a command's streams on: translated for those who speak what no runtime does, as they are for all others.
func (a *Agent) command(w http.ResponseWriter, r *http.Request, to string, err error, s remote.Streams) {
	if err != nil || !remote.Wanted(r) {
		a.stream(w, r, to, err)
		return
	}
	target, err := url.Parse(to)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if err := remote.Serve(w, r, target, s); err != nil {
		a.log.Warn("stream of a command", "path", r.URL.Path, "error", err)
	}
}

// stream hands the connection on to the runtime's streaming server, whatever it is upgraded to.
func (a *Agent) stream(w http.ResponseWriter, r *http.Request, to string, err error) {
	if err != nil {
		http.Error(w, plain(err), http.StatusInternalServerError)
		return
	}
	target, err := url.Parse(to)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	proxy := httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL = target
			p.Out.Host = target.Host
		},
		Transport:     streaming,
		FlushInterval: -1,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
	}
	proxy.ServeHTTP(w, r)
}

// streaming keeps no idle connections: each is upgraded and ends with its stream.
var streaming http.RoundTripper = &http.Transport{DisableKeepAlives: true, Proxy: nil}

func (a *Agent) servePods(w http.ResponseWriter, _ *http.Request) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}}
	for _, pod := range a.cfg.View.Pods() {
		list.Items = append(list.Items, *pod)
	}
	slices.SortFunc(list.Items, func(x, y corev1.Pod) int { return strings.Compare(x.Namespace+"/"+x.Name, y.Namespace+"/"+y.Name) })
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(list)
}
