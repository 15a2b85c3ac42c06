// Package apiservertest starts an API server over TLS for a test, on a store in a directory of the test's own.
//
// It listens on loopback and stops when the test ends. Always: the server is whole (store, cache, admission, registry); nothing in it is faked.
package apiservertest

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/admission"
	"sampan.dev/internal/allocate"
	"sampan.dev/internal/apiserver"
	"sampan.dev/internal/auth"
	"sampan.dev/internal/cache"
	"sampan.dev/internal/pki"
	"sampan.dev/internal/registry"
	"sampan.dev/internal/registry/tokens"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/kinds"
	"sampan.dev/internal/store"
	"sampan.dev/internal/store/local"
	"sampan.dev/internal/token"
)

// Cluster is an API server over TLS on a store of its own, with what a test needs to talk to it.
type Cluster struct {
	t        testing.TB
	URL      string
	PKI      *pki.PKI
	Table    *resource.Table
	Store    *local.Store
	Cache    *cache.Cache
	Registry *registry.Registry
	Server   *apiserver.Server
	Stop     func() // called at the test's end at the latest
}

// Start starts a server; the functions may change its configuration first. There are the usual namespaces, each with its account.
func Start(t testing.TB, change ...func(*apiserver.Config)) *Cluster {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return StartOn(t, l, change...)
}

// StartOn is Start with a listener of the test's own, such as one that needs no network.
func StartOn(t testing.TB, l net.Listener, change ...func(*apiserver.Config)) *Cluster {
	t.Helper()
	c := &Cluster{t: t, Table: kinds.Table(), URL: "https://" + l.Addr().String()}
	log := slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	var err error
	if c.PKI, err = pki.Open(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	if c.Store, err = local.Open(t.TempDir(), local.Options{Log: log}); err != nil {
		t.Fatal(err)
	}
	// Something that was there before and is forgotten, so that there are revisions that nobody can watch from.
	before, err := c.Store.Apply(context.Background(), store.Write{Key: "/registry/before", Value: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Store.Compact(context.Background(), before.Revision); err != nil {
		t.Fatal(err)
	}
	c.Cache = cache.New(c.Table, c.Store, log)
	services, _ := c.Table.ByKind(corev1.SchemeGroupVersion.WithKind("Service"))
	alloc := allocate.New(allocate.Config{
		Table: c.Table, Cache: c.Cache, Store: c.Store, Ranges: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}, NodePorts: allocate.DefaultPorts,
	})
	c.Registry = registry.New(registry.Config{
		Table: c.Table, Store: c.Store, Cache: c.Cache, Admission: admission.Steps(c.Table, c.Cache), Log: log,
		Allocate: map[*resource.Kind]registry.Allocator{services: alloc},
	})
	key, err := c.PKI.TokenKey()
	if err != nil {
		t.Fatal(err)
	}
	authority, err := token.New(token.DefaultIssuer, key)
	if err != nil {
		t.Fatal(err)
	}
	cfg := apiserver.Config{
		Tokens:   tokens.New(c.Table, authority),
		Registry: c.Registry, Cache: c.Cache, Table: c.Table, Store: c.Store, TLS: c.PKI.ServerTLS([]string{"localhost"}), Log: log,
	}
	for _, f := range change {
		f(&cfg)
	}
	c.Server = apiserver.New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	cached, served := make(chan error, 1), make(chan error, 1)
	feeding, stopFeeding := context.WithCancel(context.Background())
	go func() { cached <- c.Cache.Run(feeding) }()
	<-c.Cache.Ready()
	go func() { served <- c.Server.Run(ctx, l) }()
	stopped := false
	c.Stop = func() {
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
		if err := c.Store.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	}
	t.Cleanup(c.Stop)
	inside := auth.WithUser(ctx, auth.System("system:apiserver"))
	ns, _ := c.Table.ByResource(corev1.SchemeGroupVersion.WithResource("namespaces"))
	sa, _ := c.Table.ByResource(corev1.SchemeGroupVersion.WithResource("serviceaccounts"))
	for _, name := range []string{"default", "kube-system", corev1.NamespaceNodeLease} {
		if _, err := c.Registry.Create(inside, ns, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: name}}
		if _, err := c.Registry.Create(inside, sa, account, metav1.CreateOptions{}); err != nil {
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

// HTTPClient speaks plainly, as some user; as nobody if user is empty.
func (c *Cluster) HTTPClient(user string, groups ...string) *http.Client {
	config := &tls.Config{RootCAs: c.PKI.Pool()}
	if user != "" {
		config = c.PKI.ClientTLS(user, groups)
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	c.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// Ask sends one request as the administrator.
func (c *Cluster) Ask(method, path, body string, headers ...string) (*http.Response, string) {
	c.t.Helper()
	return c.AskAs(c.HTTPClient("admin", auth.Masters), method, path, body, headers...)
}

// AskAs sends one request by that client, and reads the answer whole.
func (c *Cluster) AskAs(client *http.Client, method, path, body string, headers ...string) (*http.Response, string) {
	c.t.Helper()
	r, err := http.NewRequest(method, c.URL+path, strings.NewReader(body))
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
