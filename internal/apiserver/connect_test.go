package apiserver_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/apiserver"
	"sampan.dev/internal/auth"
	"sampan.dev/internal/pki"
)

// node is the server of a node: it tells what it is asked, and who asks.
type node struct {
	server *httptest.Server
	config *tls.Config
	asked  chan string
}

func newNode(t *testing.T) *node {
	t.Helper()
	ca, err := pki.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	n := &node{asked: make(chan string, 100), config: ca.ClientTLS("system:apiserver", []string{auth.Masters})}
	n.server = httptest.NewUnstartedServer(n)
	// Not StartTLS, which would put httptest's own certificate before ours.
	n.server.Listener = tls.NewListener(n.server.Listener, &tls.Config{
		GetCertificate: ca.ServerTLS(nil).GetCertificate, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.Pool(),
	})
	n.server.Start()
	t.Cleanup(n.server.Close)
	return n
}

func (n *node) Dial(_ context.Context, name string) (*url.URL, *tls.Config, error) {
	if name != "n1" {
		return nil, nil, fmt.Errorf("node %s has no address", name)
	}
	base, err := url.Parse(strings.Replace(n.server.URL, "http:", "https:", 1))
	return base, n.config, err
}

// next is what the node was asked, or nothing.
func (n *node) next() string {
	select {
	case q := <-n.asked:
		return q
	default:
		return ""
	}
}

func (n *node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	who := "nobody"
	if len(r.TLS.PeerCertificates) > 0 {
		who = r.TLS.PeerCertificates[0].Subject.CommonName
	}
	n.asked <- fmt.Sprintf("%s %s %s?%s", who, r.Method, r.URL.Path, r.URL.RawQuery)
	switch {
	case strings.HasSuffix(r.URL.Path, "/waiting"):
		http.Error(w, `container "waiting" in pod "p" is waiting to start: ContainerCreating`, http.StatusBadRequest)
	case r.Header.Get("Upgrade") == "refused":
		http.Error(w, "no such protocol", http.StatusForbidden)
	case r.Header.Get("Upgrade") != "":
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nX-Stream-Protocol-Version: %s\r\n\r\nhello ",
			r.Header.Get("Upgrade"), r.Header.Get("X-Stream-Protocol-Version"))
		line, _ := buf.ReadString('\n')
		fmt.Fprint(conn, strings.ToUpper(line))
	default:
		fmt.Fprintln(w, "first")
		_ = http.NewResponseController(w).Flush()
		if r.URL.Query().Get("follow") != "" {
			<-r.Context().Done()
		}
	}
}

func startWithNode(t *testing.T) (*cluster, *node) {
	t.Helper()
	n := newNode(t)
	c := start(t, func(cfg *apiserver.Config) { cfg.Nodes = n })
	pods := c.clients().CoreV1().Pods("default")
	p := pod("p")
	p.Spec.NodeName = "n1"
	p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "waiting", Image: "i"})
	p.Spec.InitContainers = []corev1.Container{{Name: "first", Image: "i"}}
	lost := pod("lost")
	lost.Spec.NodeName = "n2"
	for _, each := range []*corev1.Pod{p, pod("unbound"), lost} {
		if _, err := pods.Create(context.Background(), each, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return c, n
}

func TestLogs(t *testing.T) {
	c, n := startWithNode(t)
	at := podsPath + "/p/log?container=nginx"
	response, body := c.ask("GET", at+"&tailLines=3&timestamps=true&previous=false&limitBytes=9&sinceTime=2026-01-02T03:04:05Z", "")
	if response.StatusCode != 200 || body != "first\n" || response.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("%d %q %s", response.StatusCode, body, response.Header.Get("Content-Type"))
	}
	if got, want := n.next(), "system:apiserver GET /containerLogs/default/p/nginx?limitBytes=9&sinceTime=2026-01-02T03%3A04%3A05Z&tailLines=3&timestamps=true"; got != want {
		t.Errorf("asked %s\nwant  %s", got, want)
	}
	for path, want := range map[string]struct {
		code int
		text string
	}{
		"/p/log":                   {400, `a container name must be specified for pod p, choose one of: [nginx waiting] or one of the init containers: [first]`},
		"/p/log?container=x":       {400, `container x is not valid for pod p`},
		"/p/log?container=waiting": {400, `container \"waiting\" in pod \"p\" is waiting to start: ContainerCreating`},
		"/unbound/log":             {204, ``},
		"/gone/log":                {404, `pods \"gone\" not found`},
		"/lost/log":                {500, `node n2 has no address`},
		"/p/log?sinceSeconds=1&sinceTime=2026-01-02T03:04:05Z": {422, "at most one of `sinceTime` or `sinceSeconds` may be specified"},
	} {
		if response, body := c.ask("GET", podsPath+path, ""); response.StatusCode != want.code || !strings.Contains(body, want.text) {
			t.Errorf("%s: %d %s", path, response.StatusCode, body)
		}
	}
	if response, body := c.ask("POST", at, ""); response.StatusCode != 405 {
		t.Errorf("posting to a log: %d %s", response.StatusCode, body)
	}
	stream, err := c.clients().CoreV1().Pods("default").GetLogs("p", &corev1.PodLogOptions{Container: "nginx", Follow: true}).Stream(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	in := bufio.NewReader(stream)
	if line, err := in.ReadString('\n'); err != nil || line != "first\n" {
		t.Errorf("followed: %q %v", line, err)
	}
	c.Stop() // what follows ends with the server
	if rest, _ := io.ReadAll(in); len(rest) > 0 {
		t.Errorf("after the stop: %q", rest)
	}
}

func TestUpgradesReachTheNode(t *testing.T) {
	c, n := startWithNode(t)
	cert, key, err := c.PKI.ClientCert("admin", []string{auth.Masters}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.PKI.CA())
	ask := func(method, path string, headers ...string) (net.Conn, *http.Response, *bufio.Reader) {
		t.Helper()
		conn, err := tls.Dial("tcp", strings.TrimPrefix(c.URL, "https://"), &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", method, path, strings.Join(headers, "\r\n"))
		in := bufio.NewReader(conn)
		response, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		return conn, response, in
	}
	for _, u := range []struct{ method, path, want string }{
		{"POST", "/p/exec?container=nginx&command=ls&command=-l&stdin=true&stdout=true&tty=1", "POST /exec/default/p/nginx?command=ls&command=-l&input=1&output=1&tty=1"},
		{"GET", "/p/exec?container=nginx&command=ls&stdout=true&stderr=false", "GET /exec/default/p/nginx?command=ls&output=1"},
		{"POST", "/p/attach?container=nginx&stdout=true&stderr=true", "POST /attach/default/p/nginx?error=1&output=1"},
		{"POST", "/p/portforward", "POST /portForward/default/p?"},
		{"GET", "/p/portforward?ports=80", "GET /portForward/default/p?port=80"},
	} {
		conn, response, in := ask(u.method, podsPath+u.path, "Connection: Upgrade", "Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: v4.channel.k8s.io")
		if response.StatusCode != 101 || response.Header.Get("Upgrade") != "SPDY/3.1" || response.Header.Get("X-Stream-Protocol-Version") != "v4.channel.k8s.io" {
			t.Errorf("%s: %d %v", u.path, response.StatusCode, response.Header)
			continue
		}
		fmt.Fprintln(conn, "world")
		if all, err := io.ReadAll(in); string(all) != "hello WORLD\n" {
			t.Errorf("%s: %q %v", u.path, all, err)
		}
		if got := n.next(); got != "system:apiserver "+u.want {
			t.Errorf("asked %s\nwant  %s", got, u.want)
		}
	}
	_, response, _ := ask("POST", podsPath+"/p/portforward", "Connection: Upgrade", "Upgrade: refused")
	if body, _ := io.ReadAll(response.Body); response.StatusCode != 403 || string(body) != "no such protocol\n" {
		t.Errorf("a refusal: %d %s", response.StatusCode, body)
	}
	n.next()
	for path, want := range map[string]string{
		"/unbound/exec?command=ls&stdout=1":          `pod unbound does not have a host assigned`,
		"/p/exec?command=ls&stdout=1":                `a container name must be specified for pod p`,
		"/p/exec?container=y&command=ls&stdout=1":    `container y is not valid for pod p`,
		"/p/exec?container=nginx&command=l&stdout=1": `Upgrade request required`,
	} {
		if response, body := c.ask("POST", podsPath+path, ""); response.StatusCode != 400 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", path, response.StatusCode, body)
		}
	}
	// A command under way ends with the server.
	_, response, in := ask("POST", podsPath+"/p/attach?container=nginx&stdout=1", "Connection: Upgrade", "Upgrade: SPDY/3.1")
	if response.StatusCode != 101 {
		t.Fatal(response.Status)
	}
	said := make([]byte, len("hello "))
	if _, err := io.ReadFull(in, said); err != nil || string(said) != "hello " {
		t.Errorf("before the stop: %q, %v", said, err)
	}
	c.Stop()
	if all, _ := io.ReadAll(in); len(all) > 0 {
		t.Errorf("after the stop: %q", all)
	}
}

func TestPortForwardComesThroughAWebSocket(t *testing.T) {
	c, n := startWithNode(t)
	config, err := websocket.NewConfig("wss"+strings.TrimPrefix(c.URL, "https")+podsPath+"/p/portforward", "http://localhost")
	if err != nil {
		t.Fatal(err)
	}
	config.Protocol = []string{"SPDY/3.1+portforward.k8s.io"}
	config.TlsConfig = c.PKI.ClientTLS("admin", []string{auth.Masters})
	conn, err := config.DialContext(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.PayloadType = websocket.BinaryFrame
	if got := conn.Config().Protocol; len(got) != 1 || got[0] != "SPDY/3.1+portforward.k8s.io" {
		t.Errorf("protocol %q", got)
	}
	fmt.Fprintln(conn, "world")
	if all, err := io.ReadAll(conn); string(all) != "hello WORLD\n" {
		t.Errorf("%q %v", all, err)
	}
	if got := n.next(); got != "system:apiserver POST /portForward/default/p?" {
		t.Errorf("asked %s", got)
	}
}

func TestBindingAndEviction(t *testing.T) {
	c, _ := startWithNode(t)
	ctx, pods := context.Background(), c.clients().CoreV1().Pods("default")
	b := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "unbound"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}
	if err := pods.Bind(ctx, b, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if p, err := pods.Get(ctx, "unbound", metav1.GetOptions{}); err != nil || p.Spec.NodeName != "n1" {
		t.Errorf("%+v: %v", p, err)
	}
	if err := pods.Bind(ctx, b, metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), `pod unbound is already assigned to node "n1"`) {
		t.Errorf("bound twice: %v", err)
	}
	response, body := c.ask("POST", podsPath+"/unbound/eviction", `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"unbound","namespace":"default"},"deleteOptions":{"gracePeriodSeconds":0}}`)
	if response.StatusCode != 201 || !strings.Contains(body, `"status":"Success"`) {
		t.Errorf("%d %s", response.StatusCode, body)
	}
	if response, _ := c.ask("GET", podsPath+"/unbound", ""); response.StatusCode != 404 {
		t.Errorf("evicted and still there: %d", response.StatusCode)
	}
}
