package probe

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	healthserver "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// site is a server with all that a probe may meet; its port is called "web".
func site(t *testing.T, secure bool) (Target, int) {
	t.Helper()
	elsewhere := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(elsewhere.Close)
	stuck := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte("fine " + r.URL.RawQuery)) })
	mux.HandleFunc("/broken", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ok", http.StatusFound) })
	mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", http.StatusFound) })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, strings.Replace(elsewhere.URL, "127.0.0.1", "localhost", 1), http.StatusFound)
	})
	mux.HandleFunc("/stuck", func(http.ResponseWriter, *http.Request) { <-stuck })
	mux.HandleFunc("/headers", func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(r.Host + " " + r.UserAgent() + " " + r.Header.Get("X-Word")))
	})
	s := httptest.NewUnstartedServer(mux)
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(func() { close(stuck); s.Close() })
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	n, _ := strconv.Atoi(port)
	return Target{IP: "127.0.0.1", Container: &corev1.Container{Name: "main", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: int32(n)}}}}, n
}

func TestHTTP(t *testing.T) {
	target, port := site(t, false)
	secure, _ := site(t, true)
	for name, c := range map[string]struct {
		get    corev1.HTTPGetAction
		secure bool
		want   Result
		says   string
	}{
		"well, with a query":           {get: corev1.HTTPGetAction{Path: "/ok?a=b"}, want: Success, says: "fine a=b"},
		"by the port's name":           {get: corev1.HTTPGetAction{Path: "/ok", Port: intstr.FromString("web")}, want: Success},
		"no path begins with no slash": {get: corev1.HTTPGetAction{Path: "ok"}, want: Success},
		"broken":                       {get: corev1.HTTPGetAction{Path: "/broken"}, want: Failure, says: "HTTP probe failed with statuscode: 500"},
		"moved":                        {get: corev1.HTTPGetAction{Path: "/moved"}, want: Success},
		"moved for ever":               {get: corev1.HTTPGetAction{Path: "/loop"}, want: Failure, says: "stopped after 10 redirects"},
		"moved to another host":        {get: corev1.HTTPGetAction{Path: "/away"}, want: Warning, says: "Probe terminated redirects, Response body:"},
		"not in time":                  {get: corev1.HTTPGetAction{Path: "/stuck"}, want: Failure, says: "Client.Timeout exceeded while awaiting headers"},
		"nobody there":                 {get: corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt(1)}, want: Failure, says: `Get "http://127.0.0.1:1/": dial tcp 127.0.0.1:1: connect: connection refused`},
		"a port that has no such name": {get: corev1.HTTPGetAction{Port: intstr.FromString("db")}, want: Unknown, says: `couldn't find port: "db" in container main`},
		"headers":                      {get: corev1.HTTPGetAction{Path: "/headers", HTTPHeaders: []corev1.HTTPHeader{{Name: "Host", Value: "x.org"}, {Name: "X-Word", Value: "boat"}}}, want: Success, says: "x.org kube-probe/1.37 boat"},
		"HTTPS of nobody's authority":  {get: corev1.HTTPGetAction{Path: "/ok", Scheme: "HTTPS", Port: intstr.FromString("web")}, secure: true, want: Success},
		"HTTP where HTTPS is spoken":   {get: corev1.HTTPGetAction{Path: "/ok", Port: intstr.FromString("web")}, secure: true, want: Failure, says: "HTTP probe failed with statuscode: 400"},
	} {
		t.Run(name, func(t *testing.T) {
			to := target
			if c.secure {
				to = secure
			}
			if c.get.Port == (intstr.IntOrString{}) {
				c.get.Port = intstr.FromInt(port)
			}
			finds(t, &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &c.get}}, to, c.want, c.says)
		})
	}
}

// finds runs a probe and compares what it finds, and what it says or why it cannot.
func finds(t *testing.T, p *corev1.Probe, to Target, want Result, says string) {
	t.Helper()
	got, text, err := Run(t.Context(), p, to)
	if err != nil {
		text = err.Error()
	}
	if got != want || (err != nil) != (want == Unknown) || !strings.Contains(text, says) {
		t.Errorf("%s %q, want %s %q", got, text, want, says)
	}
}

func TestTCP(t *testing.T) {
	target, port := site(t, false)
	for says, tcp := range map[string]corev1.TCPSocketAction{
		"":                   {Port: intstr.FromInt(port)},
		"connection refused": {Port: intstr.FromInt(1), Host: "localhost"},
	} {
		want := Success
		if says != "" {
			want = Failure
		}
		finds(t, &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &tcp}}, target, want, says)
	}
}

func TestGRPC(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, services := grpc.NewServer(), healthserver.NewServer()
	healthpb.RegisterHealthServer(server, services)
	services.SetServingStatus("ill", healthpb.HealthCheckResponse_NOT_SERVING)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	target, web := site(t, false)
	port := int32(listener.Addr().(*net.TCPAddr).Port)
	for name, c := range map[string]struct {
		grpc corev1.GRPCAction
		want Result
		says string
	}{
		"well":              {corev1.GRPCAction{Port: port}, Success, "service healthy"},
		"ill":               {corev1.GRPCAction{Port: port, Service: new("ill")}, Failure, `service unhealthy (responded with "NOT_SERVING")`},
		"no such service":   {corev1.GRPCAction{Port: port, Service: new("other")}, Failure, "error: health rpc probe failed: rpc error: code = NotFound desc = unknown service"},
		"nobody there":      {corev1.GRPCAction{Port: 1}, Failure, `error: failed to connect service at "127.0.0.1:1"`},
		"no gRPC is spoken": {corev1.GRPCAction{Port: int32(web)}, Failure, "error"},
	} {
		t.Run(name, func(t *testing.T) {
			finds(t, &corev1.Probe{ProbeHandler: corev1.ProbeHandler{GRPC: &c.grpc}}, target, c.want, c.says)
		})
	}
}

func TestCommands(t *testing.T) {
	for name, c := range map[string]struct {
		code   int32
		output string
		err    error
		want   Result
		says   string
	}{
		"well":              {0, "ok", nil, Success, "ok"},
		"ill":               {3, "no file", nil, Failure, "no file"},
		"not in time":       {0, "", ErrTimeout, Failure, `command timed out: "test -f x" timed out after 2s`},
		"cannot be run":     {0, "", errors.New("no runtime"), Unknown, "no runtime"},
		"it talks too much": {1, strings.Repeat("x", 1<<20), nil, Failure, "xxx"},
	} {
		t.Run(name, func(t *testing.T) {
			target := Target{Exec: func(_ context.Context, command []string, timeout time.Duration) (int32, string, error) {
				if strings.Join(command, " ") != "test -f x" || timeout != 2*time.Second {
					t.Errorf("%q for %s", command, timeout)
				}
				return c.code, c.output, c.err
			}}
			p := &corev1.Probe{TimeoutSeconds: 2, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"test", "-f", "x"}}}}
			finds(t, p, target, c.want, c.says)
			if _, text, _ := Run(t.Context(), p, target); len(text) > mostOutput {
				t.Errorf("%d bytes are told", len(text))
			}
		})
	}
	finds(t, &corev1.Probe{}, Target{Container: &corev1.Container{Name: "main"}}, Unknown, "missing probe handler for container main")
}
