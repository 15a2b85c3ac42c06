package apiserver_test

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"sampan.dev/internal/admission"
	"sampan.dev/internal/apiserver"
	"sampan.dev/internal/auth"
	"sampan.dev/internal/cache"
	"sampan.dev/internal/pki"
	"sampan.dev/internal/registry"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/kinds"
	"sampan.dev/internal/store/local"
)

// cluster is an API server over TLS on a store of its own, with what a test needs to talk to it.
type cluster struct {
	t        testing.TB
	url      string
	pki      *pki.PKI
	table    *resource.Table
	store    *local.Store
	cache    *cache.Cache
	registry *registry.Registry
	server   *apiserver.Server
	log      *strings.Builder
	stop     func()
}

func start(t testing.TB, change ...func(*apiserver.Config)) *cluster {
	t.Helper()
	c := &cluster{t: t, table: kinds.Table()}
	log := slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	var err error
	if c.pki, err = pki.Open(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	if c.store, err = local.Open(t.TempDir(), local.Options{Log: log}); err != nil {
		t.Fatal(err)
	}
	c.cache = cache.New(c.table, c.store, log)
	c.registry = registry.New(registry.Config{
		Table: c.table, Store: c.store, Cache: c.cache, Admission: admission.Steps(c.table, c.cache), Log: log,
	})
	cfg := apiserver.Config{
		Registry: c.registry, Cache: c.cache, Table: c.table, Store: c.store, TLS: c.pki.ServerTLS([]string{"localhost"}), Log: log,
	}
	for _, f := range change {
		f(&cfg)
	}
	c.server = apiserver.New(cfg)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.url = "https://" + l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	cached, served := make(chan error, 1), make(chan error, 1)
	feeding, stopFeeding := context.WithCancel(context.Background())
	go func() { cached <- c.cache.Run(feeding) }()
	<-c.cache.Ready()
	go func() { served <- c.server.Run(ctx, l) }()
	stopped := false
	c.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		stopFeeding()
		if err := <-cached; err != nil {
			t.Errorf("cache: %v", err)
		}
		if err := c.store.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	}
	t.Cleanup(c.stop)
	inside := auth.WithUser(ctx, auth.System("system:apiserver"))
	ns, _ := c.table.ByResource(corev1.SchemeGroupVersion.WithResource("namespaces"))
	sa, _ := c.table.ByResource(corev1.SchemeGroupVersion.WithResource("serviceaccounts"))
	for _, name := range []string{"default", "kube-system", corev1.NamespaceNodeLease} {
		if _, err := c.registry.Create(inside, ns, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: name}}
		if _, err := c.registry.Create(inside, sa, account, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// config is a client's configuration as some user.
func (c *cluster) config(user string, groups ...string) *rest.Config {
	cert, key, err := c.pki.ClientCert(user, groups, time.Hour)
	if err != nil {
		c.t.Fatal(err)
	}
	return &rest.Config{
		Host: c.url, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAData: c.pki.CA(), CertData: cert, KeyData: key},
	}
}

func (c *cluster) admin() *rest.Config { return c.config("admin", auth.Masters) }

func (c *cluster) clients() *kubernetes.Clientset { return c.typed(c.admin()) }

func (c *cluster) typed(config *rest.Config) *kubernetes.Clientset {
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		c.t.Fatal(err)
	}
	return clients
}

// httpClient speaks plainly, as some user; as nobody if user is empty.
func (c *cluster) httpClient(user string, groups ...string) *http.Client {
	config := &tls.Config{RootCAs: c.pki.Pool()}
	if user != "" {
		config = c.pki.ClientTLS(user, groups)
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	c.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// ask sends one request as the administrator.
func (c *cluster) ask(method, path, body string, headers ...string) (*http.Response, string) {
	c.t.Helper()
	return c.askAs(c.httpClient("admin", auth.Masters), method, path, body, headers...)
}

func (c *cluster) askAs(client *http.Client, method, path, body string, headers ...string) (*http.Response, string) {
	c.t.Helper()
	r, err := http.NewRequest(method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := client.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return response, string(data)
}
