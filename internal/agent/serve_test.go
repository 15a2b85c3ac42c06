package agent

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// authority is a certificate authority for one test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func (a *authority) issue(t *testing.T, name string, groups ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name, Organization: groups}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// nodeServer is an agent whose node API listens on the loopback, with one pod that runs.
type nodeServer struct {
	*testing.T
	rt  *fakeRuntime
	api *fakeAPI
	ca  *authority
	url string
	dir string
}

func serveNode(t *testing.T) *nodeServer {
	t.Helper()
	s := &nodeServer{T: t, rt: newFakeRuntime(), api: newFakeAPI(), ca: newAuthority(t), dir: t.TempDir()}
	s.rt.has("img:1")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.url = "https://" + l.Addr().String()
	a := newAgent(t, s.api, s.rt, s.dir)
	a.cfg.Listener = l
	a.cfg.TLS = &tls.Config{Certificates: []tls.Certificate{s.ca.issue(t, "system:node:n", "system:nodes")}, ClientCAs: s.ca.pool()}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	s.api.put(newPod())
	s.until(func() bool { return s.api.Pod("ns", "p").Status.Phase == corev1.PodRunning })
	return s
}

func (s *nodeServer) until(done func() bool) {
	s.Helper()
	for range 2000 {
		if done() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	s.Fatal("it does not come")
}

func (s *nodeServer) client(certs ...tls.Certificate) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.ca.pool(), Certificates: certs}, DisableKeepAlives: true}, Timeout: time.Minute} // a bound for what would hang, no measure
}

func (s *nodeServer) admin() *http.Client {
	return s.client(s.ca.issue(s.T, "admin", "system:masters"))
}

func (s *nodeServer) get(c *http.Client, path string) (int, string) {
	s.Helper()
	r, err := c.Get(s.url + path)
	if err != nil {
		s.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		s.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func TestWhoMayUseTheNodesServer(t *testing.T) {
	s := serveNode(t)
	stranger := newAuthority(t).issue(t, "admin", "system:masters")
	for name, c := range map[string]struct {
		client *http.Client
		path   string
		want   int
	}{
		"anybody may ask for its health":       {s.client(), "/healthz", 200},
		"nobody else may ask for pods":         {s.client(), "/pods", 401},
		"nor for logs":                         {s.client(), "/containerLogs/ns/p/c", 401},
		"nor execute":                          {s.client(), "/exec/ns/p/c?command=sh&output=1", 401},
		"a user of the cluster may not either": {s.client(s.ca.issue(t, "jane", "system:authenticated")), "/pods", 403},
		"nor another node":                     {s.client(s.ca.issue(t, "system:node:m", "system:nodes")), "/exec/ns/p/c?command=sh&output=1", 403},
		"an administrator may":                 {s.admin(), "/pods", 200},
	} {
		t.Run(name, func(t *testing.T) {
			if code, body := s.get(c.client, c.path); code != c.want {
				t.Errorf("%d %s, want %d", code, body, c.want)
			}
		})
	}
	if r, err := s.client(stranger).Get(s.url + "/pods"); err == nil {
		r.Body.Close()
		if r.StatusCode == http.StatusOK {
			t.Error("a certificate of another authority is taken")
		}
	}
}

func TestLogs(t *testing.T) {
	s := serveNode(t)
	path := filepath.Join(s.dir, "logs/pods/ns_p_uid/c/0.log")
	if err := os.WriteFile(path, []byte("2026-11-23T12:00:00Z stdout F hello\n2026-11-23T12:00:01Z stderr F oops\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path string
		code int
		want string
	}{
		"all":                          {"/containerLogs/ns/p/c", 200, "hello\noops\n"},
		"the last line":                {"/containerLogs/ns/p/c?tailLines=1", 200, "oops\n"},
		"one stream":                   {"/containerLogs/ns/p/c?stream=Stdout", 200, "hello\n"},
		"with times":                   {"/containerLogs/ns/p/c?timestamps=true&limitBytes=40", 200, "2026-11-23T12:00:00.000000000Z hello\n202"},
		"a container that is not":      {"/containerLogs/ns/p/x", 404, "container \"x\" not found in pod \"p\"\n"},
		"a pod that is not":            {"/containerLogs/ns/x/c", 404, "pod \"x\" not found\n"},
		"nothing ran before":           {"/containerLogs/ns/p/c?previous=true", 400, "previous terminated container \"c\" in pod \"p\" not found\n"},
		"a number that is none":        {"/containerLogs/ns/p/c?tailLines=many", 400, "invalid tailLines: \"many\"\n"},
		"less than none":               {"/containerLogs/ns/p/c?tailLines=-1", 400, "invalid tailLines: \"-1\"\n"},
		"a time that is none":          {"/containerLogs/ns/p/c?sinceTime=today", 400, "invalid sinceTime: \"today\"\n"},
		"an hour ago, and it is older": {"/containerLogs/ns/p/c?sinceTime=2026-11-23T12:00:01Z", 200, "oops\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if code, body := s.get(s.admin(), c.path); code != c.code || body != c.want {
				t.Errorf("%d %q, want %d %q", code, body, c.code, c.want)
			}
		})
	}
	// A follower gets what comes, and ends with the container.
	r, err := s.admin().Get(s.url + "/containerLogs/ns/p/c?follow=true&tailLines=0")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fmt.Fprint(f, "2026-11-23T12:00:02Z stdout F more\n")
	in := bufio.NewReader(r.Body)
	if line, err := in.ReadString('\n'); line != "more\n" {
		t.Errorf("followed %q, %v", line, err)
	}
	fmt.Fprint(f, "2026-11-23T12:00:03Z stdout F last\n")
	s.rt.exit(s.rt.named("c")[0], 1)
	if rest, err := io.ReadAll(in); string(rest) != "last\n" {
		t.Errorf("the end is %q, %v", rest, err)
	}
	s.until(func() bool { return s.api.Pod("ns", "p").Status.ContainerStatuses[0].RestartCount == 1 })
	if code, body := s.get(s.admin(), "/containerLogs/ns/p/c?previous=true"); code != 200 || !strings.HasSuffix(body, "last\n") {
		t.Errorf("the previous one's log: %d %q", code, body)
	}
}

func TestWordsForContainersThatWait(t *testing.T) {
	for reason, want := range map[string]string{
		"ErrImagePull":      `container "c" in pod "p" is waiting to start: image can't be pulled`,
		"ImagePullBackOff":  `container "c" in pod "p" is waiting to start: trying and failing to pull image`,
		"ContainerCreating": `container "c" in pod "p" is waiting to start: ContainerCreating`,
		"":                  `container "c" in pod "p" is not available`,
	} {
		pod := newPod()
		if reason != "" {
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}}
		}
		if _, err := logOf(pod, Observed{}, "c", false); err == nil || err.Error() != want {
			t.Errorf("%s: %v", reason, err)
		}
	}
}

// Exec and the like are handed on to a streaming server, here one that answers in capitals.
func (f *fakeRuntime) Exec(_ context.Context, r *cri.ExecRequest) (*cri.ExecResponse, error) {
	return &cri.ExecResponse{Url: fmt.Sprintf("%s/exec?cmd=%s&in=%v&out=%v&err=%v&tty=%v", f.streaming, strings.Join(r.Cmd, "+"), r.Stdin, r.Stdout, r.Stderr, r.Tty)}, nil
}

func (f *fakeRuntime) Attach(_ context.Context, r *cri.AttachRequest) (*cri.AttachResponse, error) {
	return &cri.AttachResponse{Url: f.streaming + "/attach"}, nil
}

func (f *fakeRuntime) PortForward(_ context.Context, r *cri.PortForwardRequest) (*cri.PortForwardResponse, error) {
	return &cri.PortForwardResponse{Url: fmt.Sprintf("%s/forward?ports=%s", f.streaming, strings.Trim(strings.ReplaceAll(fmt.Sprint(r.Port), " ", ","), "[]"))}, nil
}

func TestStreamsAreHandedOn(t *testing.T) {
	s := serveNode(t)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			http.Error(w, "no upgrade", http.StatusBadRequest)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nX-Asked: %s\r\n\r\n", r.Header.Get("Upgrade"), r.URL.RequestURI())
		_ = rw.Flush()
		line, _ := rw.ReadString('\n')
		_, _ = io.WriteString(conn, strings.ToUpper(line))
	}))
	defer backend.Close()
	s.rt.streaming = backend.URL
	for name, c := range map[string]struct{ method, path, protocol, asked string }{
		"exec by SPDY":         {"POST", "/exec/ns/p/c?command=a&command=b&input=1&output=1&error=1", "SPDY/3.1", "/exec?cmd=a+b&in=true&out=true&err=true&tty=false"},
		"exec by WebSocket":    {"GET", "/exec/ns/p/c?command=a&stdin=true&stdout=true&tty=true&stderr=true", "websocket", "/exec?cmd=a&in=true&out=true&err=false&tty=true"},
		"exec with the uid":    {"POST", "/exec/ns/p/uid/c?command=a&output=1", "SPDY/3.1", "/exec?cmd=a&in=false&out=true&err=false&tty=false"},
		"attach":               {"POST", "/attach/ns/p/c?output=1", "SPDY/3.1", "/attach"},
		"port-forward":         {"POST", "/portForward/ns/p", "SPDY/3.1", "/forward?ports="},
		"port-forward of some": {"GET", "/portForward/ns/p?port=80&port=443", "websocket", "/forward?ports=80,443"},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := tls.Dial("tcp", strings.TrimPrefix(s.url, "https://"), &tls.Config{RootCAs: s.ca.pool(), Certificates: []tls.Certificate{s.ca.issue(t, "a", "system:masters")}})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: n\r\nConnection: Upgrade\r\nUpgrade: %s\r\nContent-Length: 0\r\n\r\n", c.method, c.path, c.protocol)
			in := bufio.NewReader(conn)
			r, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			if r.StatusCode != http.StatusSwitchingProtocols || r.Header.Get("Upgrade") != c.protocol {
				b, _ := io.ReadAll(r.Body)
				t.Fatalf("%s %v %s", r.Status, r.Header, b)
			}
			if got := r.Header.Get("X-Asked"); got != c.asked {
				t.Errorf("asked %s, want %s", got, c.asked)
			}
			fmt.Fprint(conn, "hello\n")
			if b, err := io.ReadAll(in); string(b) != "HELLO\n" {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
	for path, want := range map[string]int{
		"/exec/ns/p/c?command=a": 400, "/exec/ns/p/other/c?command=a&output=1": 404, "/exec/ns/p/x?command=a&output=1": 404,
		"/portForward/ns/p?port=0": 400, "/attach/ns/p/x?output=1": 404, "/portForward/ns/x": 404,
	} {
		if code, body := s.get(s.admin(), path); code != want {
			t.Errorf("%s: %d %s, want %d", path, code, body, want)
		}
	}
}

func (f *fakeRuntime) ListContainerStats(context.Context, *cri.ListContainerStatsRequest) (*cri.ListContainerStatsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &cri.ListContainerStatsResponse{}
	for _, c := range f.containers {
		out.Stats = append(out.Stats, &cri.ContainerStats{
			Attributes: &cri.ContainerAttributes{Id: c.Id, Labels: c.Labels},
			Cpu:        &cri.CpuUsage{Timestamp: 1e9, UsageCoreNanoSeconds: &cri.UInt64Value{Value: 2_500_000_000}},
			Memory:     &cri.MemoryUsage{Timestamp: 1e9, WorkingSetBytes: &cri.UInt64Value{Value: 4096}},
		})
	}
	return out, nil
}

func TestMetricsAndPods(t *testing.T) {
	s := serveNode(t)
	for path, want := range map[string][]string{
		"/metrics":          {"kubelet_running_pods 1\n", `kubelet_running_containers{container_state="running"} 1`},
		"/metrics/resource": {`container_cpu_usage_seconds_total{container="c",namespace="ns",pod="p"} 2.5 1000`, `pod_memory_working_set_bytes{namespace="ns",pod="p"} 4096`},
		"/stats/summary":    {`"usageCoreNanoSeconds":2500000000`, `"workingSetBytes":4096`, `"podRef":{"name":"p","namespace":"ns","uid":"uid"}`},
	} {
		code, body := s.get(s.admin(), path)
		for _, w := range want {
			if code != 200 || !strings.Contains(body, w) {
				t.Errorf("%s: %d, no %s in\n%s", path, code, w, body)
			}
		}
	}
	_, body := s.get(s.admin(), "/pods")
	var list corev1.PodList
	if err := json.Unmarshal([]byte(body), &list); err != nil || len(list.Items) != 1 || list.Kind != "PodList" || list.Items[0].Name != "p" {
		t.Errorf("%v %+v", err, list)
	}
}
