package simulate

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/auth"
	"sampan.dev/internal/cache"
	"sampan.dev/internal/client"
)

// AddressTo is the address of this machine by which others reach it that are where the server is. A server on this machine's loopback reaches every
// address of the machine, and one that is no loopback is better for a node to have.
func AddressTo(server string) (netip.Addr, error) {
	u, err := url.Parse(server)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find this machine's address: %w", err)
	}
	best := netip.IPv4Unspecified()
	for _, to := range []string{net.JoinHostPort(u.Hostname(), "9"), "198.18.0.1:9"} { // nothing is sent: the kernel only says which way it would go
		conn, err := net.Dial("udp", to)
		if err != nil {
			continue
		}
		at := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
		conn.Close()
		if !at.IsLoopback() {
			return at, nil
		}
		best = at
	}
	if best.IsUnspecified() {
		return netip.Addr{}, fmt.Errorf("find this machine's address: there is no way from here to %s", server)
	}
	return best, nil
}

// certificate has the cluster sign a certificate for the address. The fleet is an administrator, and says yes to its own request.
func certificate(ctx context.Context, c *client.Client, name string, address netip.Addr) (tls.Certificate, error) {
	fail := func(err error) (tls.Certificate, error) {
		return tls.Certificate{}, fmt.Errorf("get a certificate to answer for nodes: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "system:node:" + name, Organization: []string{"system:nodes"}}, IPAddresses: []net.IP{address.AsSlice()},
	}, key)
	if err != nil {
		return fail(err)
	}
	csr, err := client.Create(ctx, c, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "simulated-serving-", Labels: map[string]string{Label: "true"}},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: certificatesv1.KubeletServingSignerName,
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
		},
	})
	if err != nil {
		return fail(err)
	}
	csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Simulated", Message: "Approved by the one who asks, an administrator that simulates nodes.",
	})
	if csr, err = client.Update(ctx, c, csr, "approval"); err != nil {
		return fail(err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	done := errors.New("signed")
	var chain []byte
	err = client.Watch(ctx, c, client.Selection{Fields: "metadata.name=" + csr.Name}, func(e client.Event[*certificatesv1.CertificateSigningRequest]) error {
		if e.Object == nil {
			return nil
		}
		for _, condition := range e.Object.Status.Conditions {
			if condition.Status == corev1.ConditionTrue && condition.Type == certificatesv1.CertificateFailed {
				return errors.New(condition.Message)
			}
		}
		if chain = e.Object.Status.Certificate; len(chain) > 0 {
			return done
		}
		return nil
	}, nil)
	if !errors.Is(err, done) {
		if err == nil {
			err = fmt.Errorf("nobody has signed %s", csr.Name)
		}
		return fail(err)
	}
	cert := tls.Certificate{PrivateKey: key}
	for block, rest := pem.Decode(chain); block != nil; block, rest = pem.Decode(rest) {
		cert.Certificate = append(cert.Certificate, block.Bytes)
	}
	return cert, nil
}

// Endpoint is the server that answers for all simulated nodes of this process, at one address and port.
type Endpoint struct {
	listener net.Listener
	fleet    *Fleet
	log      *slog.Logger
}

// Listen opens the endpoint. Its certificate is in the name of the node that is given, and good for the address; callers are known by the cluster's authority.
func Listen(ctx context.Context, c *client.Client, authority *x509.CertPool, name string, address netip.Addr, log *slog.Logger) (*Endpoint, error) {
	cert, err := certificate(ctx, c, name, address)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", netip.AddrPortFrom(address, 0).String())
	if err != nil {
		return nil, fmt.Errorf("listen for simulated nodes: %w", err)
	}
	return &Endpoint{log: log, listener: tls.NewListener(l, &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: authority, NextProtos: []string{"h2", "http/1.1"},
	})}, nil
}

// Port is where it listens.
func (e *Endpoint) Port() int32 { return int32(e.listener.Addr().(*net.TCPAddr).Port) }

// Close ends the endpoint where Run was not called.
func (e *Endpoint) Close() { _ = e.listener.Close() }

// Run answers for a fleet's nodes until ctx ends.
func (e *Endpoint) Run(ctx context.Context, f *Fleet) error {
	e.fleet = f
	server := &http.Server{Handler: e.handler(), ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(e.log.Handler(), slog.LevelDebug)}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(e.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("answer for simulated nodes: %w", err)
	}
	return nil
}

// apiUser is who an API server is to a node.
const apiUser = "kube-apiserver-kubelet-client"

func (e *Endpoint) handler() http.Handler {
	mux := http.NewServeMux()
	refuse := func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "simulated: no container runs, so that nothing can be run in it or connected with", http.StatusNotImplemented)
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", e.logs)
	mux.HandleFunc("GET /pods", e.pods)
	for _, verb := range []string{"/exec/", "/attach/", "/portForward/"} {
		mux.HandleFunc(verb, refuse)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := r.TLS.PeerCertificates[0].Subject // the handshake has verified it
		if who.CommonName != apiUser && !slices.Contains(who.Organization, auth.Masters) {
			http.Error(w, fmt.Sprintf("Forbidden (user=%s, verb=get, resource=nodes, subresource(s)=[proxy])", who.CommonName), http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// logs says what a pod is, instead of what its container says.
func (e *Endpoint) logs(w http.ResponseWriter, r *http.Request) {
	f := e.fleet
	namespace, name := r.PathValue("namespace"), r.PathValue("pod")
	o := f.cache.Snapshot().Get(f.kinds.pods, namespace, name)
	if o == nil || f.byName[o.Field("spec.nodeName")] == nil {
		http.Error(w, fmt.Sprintf("pod %q not found", name), http.StatusNotFound)
		return
	}
	if f.byName[o.Field("spec.nodeName")].silent() {
		panic(http.ErrAbortHandler) // as a machine that is not there
	}
	w.Header().Set("Content-Type", "text/plain")
	fmt.Fprint(w, sentence(cache.Typed[*corev1.Pod](o)))
}

// sentence is a simulated container's log.
func sentence(pod *corev1.Pod) string {
	phase, since := pod.Status.Phase, pod.CreationTimestamp
	switch {
	case phase == corev1.PodRunning:
		for i := range pod.Status.ContainerStatuses {
			if r := pod.Status.ContainerStatuses[i].State.Running; r != nil {
				since = r.StartedAt
			}
		}
	case phase != corev1.PodPending:
		for i := range pod.Status.ContainerStatuses {
			if t := pod.Status.ContainerStatuses[i].State.Terminated; t != nil {
				since = t.FinishedAt
			}
		}
	}
	return fmt.Sprintf("simulated: no container runs; pod %s/%s has been %s since %s\n", pod.Namespace, pod.Name, phase, since.UTC().Format(time.RFC3339))
}

// pods are those of all nodes that share the endpoint.
func (e *Endpoint) pods(w http.ResponseWriter, _ *http.Request) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}}
	for o := range e.fleet.cache.Snapshot().List(e.fleet.kinds.pods, cache.Selection{}) {
		if e.fleet.byName[o.Field("spec.nodeName")] != nil {
			list.Items = append(list.Items, *cache.Typed[*corev1.Pod](o))
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(list)
}
