package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"sampan.dev/internal/apiserver/apiservertest"
	"sampan.dev/internal/auth"
	"sampan.dev/internal/client"
	"sampan.dev/internal/kubeconfig"
)

func connect(t *testing.T, c *apiservertest.Cluster, server string) *client.Client {
	t.Helper()
	out, err := client.New(client.Config{Server: server, TLS: c.PKI.ClientTLS("admin", []string{auth.Masters}), Table: c.Table})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(out.Close)
	return out
}

func configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string]string{"key": value}}
}

// A watch goes on by a new connection when the machine's address is gone that its old one is from.
func TestConnectionsFromAnAddressThatIsGoneAreLeft(t *testing.T) {
	s := apiservertest.Start(t)
	c := connect(t, s, s.URL)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	seen, done := make(chan string, 10), make(chan error, 1)
	go func() {
		done <- client.Watch(ctx, c, client.Selection{Namespace: "default"}, func(e client.Event[*corev1.ConfigMap]) error {
			if e.Type != client.Synced {
				seen <- e.Object.Name
			} else {
				seen <- "synced"
			}
			return nil
		}, nil)
	}()
	if first := <-seen; first != "synced" {
		t.Fatalf("the first event is %q", first)
	}
	if n := c.Leave(func(netip.Addr) bool { return false }); n != 0 {
		t.Errorf("%d connections were left, and all addresses are there", n)
	}
	if n := c.Leave(func(a netip.Addr) bool { return a.IsLoopback() }); n == 0 {
		t.Error("no connection was left")
	}
	if _, err := client.Create(ctx, c, configMap("after", "1")); err != nil {
		t.Fatal(err)
	}
	if name := <-seen; name != "after" {
		t.Errorf("the watch tells of %q", name)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestEveryVerb(t *testing.T) {
	s := apiservertest.Start(t)
	c, ctx := connect(t, s, s.URL), context.Background()

	made, err := client.Create(ctx, c, configMap("a", "1"))
	if err != nil || made.UID == "" || made.Kind != "ConfigMap" || made.Data["key"] != "1" {
		t.Fatalf("created %+v: %v", made, err)
	}
	if _, err := client.Create(ctx, c, configMap("a", "1")); !apierrors.IsAlreadyExists(err) {
		t.Errorf("created twice: %v", err)
	}
	made.Data["key"] = "2"
	if made, err = client.Update(ctx, c, made, ""); err != nil || made.Data["key"] != "2" {
		t.Fatalf("updated %+v: %v", made, err)
	}
	patched, err := client.Patch[*corev1.ConfigMap](ctx, c, "default", "a", "", types.MergePatchType, []byte(`{"data":{"more":"x"}}`))
	if err != nil || patched.Data["more"] != "x" || patched.Data["key"] != "2" {
		t.Errorf("patched %+v: %v", patched, err)
	}
	if _, err := client.Update(ctx, c, made, ""); !apierrors.IsConflict(err) {
		t.Errorf("updated an old version: %v", err)
	}
	if got, err := client.Get[*corev1.ConfigMap](ctx, c, "default", "a"); err != nil || got.ResourceVersion != patched.ResourceVersion {
		t.Errorf("got %+v: %v", got, err)
	}
	if err := client.Delete[*corev1.ConfigMap](ctx, c, "default", "a", metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions("other")}); !apierrors.IsConflict(err) {
		t.Errorf("deleted another's: %v", err)
	}
	if err := client.Delete[*corev1.ConfigMap](ctx, c, "default", "a", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	_, err = client.Get[*corev1.ConfigMap](ctx, c, "default", "a")
	if !apierrors.IsNotFound(err) || err.Error() != `get configmap a: configmaps "a" not found` {
		t.Errorf("got what is gone: %v", err)
	}
	// A kind of another group, and one without a namespace.
	if _, err := client.Create(ctx, c, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "l"}}); err != nil {
		t.Error(err)
	}
	if ns, err := client.Get[*corev1.Namespace](ctx, c, "", "default"); err != nil || ns.Name != "default" {
		t.Errorf("got %+v: %v", ns, err)
	}
}

func TestListReadsAllPages(t *testing.T) {
	s := apiservertest.Start(t)
	c, ctx := connect(t, s, s.URL), context.Background()
	const count = 1203
	var group sync.WaitGroup
	for part := range 8 {
		group.Go(func() {
			for i := part; i < count; i += 8 {
				if _, err := client.Create(ctx, c, configMap(fmt.Sprintf("c%04d", i), "x")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	all, version, err := client.List[*corev1.ConfigMap](ctx, c, client.Selection{Namespace: "default"})
	if err != nil || len(all) != count || version == "" {
		t.Fatalf("%d listed at %q: %v", len(all), version, err)
	}
	for i, o := range all {
		if o.Name != fmt.Sprintf("c%04d", i) {
			t.Fatalf("number %d is %s", i, o.Name)
		}
	}
	one, _, err := client.List[*corev1.ConfigMap](ctx, c, client.Selection{Fields: "metadata.name=c0007"})
	if err != nil || len(one) != 1 {
		t.Errorf("by name: %d: %v", len(one), err)
	}
}

func TestWatchGoesOnWhenItBreaksOff(t *testing.T) {
	s := apiservertest.Start(t)
	cut := apiservertest.NewCut(t, s.URL)
	c, direct := connect(t, s, cut.URL), connect(t, s, s.URL)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if _, err := client.Create(ctx, direct, configMap("first", "1")); err != nil {
		t.Fatal(err)
	}
	events := make(chan client.Event[*corev1.ConfigMap], 100)
	done := make(chan error, 1)
	go func() {
		done <- client.Watch(ctx, c, client.Selection{Namespace: "default"}, func(e client.Event[*corev1.ConfigMap]) error {
			events <- e
			return nil
		}, func(err error) { t.Log(err) })
	}()
	next := func(want watch.EventType, name string) {
		t.Helper()
		select {
		case e := <-events:
			if e.Type != want || e.Object != nil && e.Object.Name != name {
				t.Fatalf("event %s %+v, want %s %s", e.Type, e.Object, want, name)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("no event, want %s %s", want, name)
		}
	}
	next(watch.Added, "first")
	next(client.Synced, "")
	made, err := client.Create(ctx, direct, configMap("second", "1"))
	if err != nil {
		t.Fatal(err)
	}
	next(watch.Added, "second")

	cut.Break()
	if err := client.Delete[*corev1.ConfigMap](ctx, direct, "default", "first", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	made.Data["key"] = "2"
	if _, err := client.Update(ctx, direct, made, ""); err != nil {
		t.Fatal(err)
	}
	next(watch.Deleted, "first")
	next(watch.Modified, "second")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A server that answers that it can do nothing, as one does that has lost its datastore, is left like one that does not answer.
func TestAServerThatIsUnableIsLeft(t *testing.T) {
	s := apiservertest.Start(t)
	for _, code := range []int{http.StatusServiceUnavailable, http.StatusGatewayTimeout} {
		l, err := tls.Listen("tcp", "127.0.0.1:0", s.PKI.ServerTLS([]string{"localhost"}))
		if err != nil {
			t.Fatal(err)
		}
		unable := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no datastore", code) })}
		go unable.Serve(l)
		defer unable.Close()
		c, err := client.New(client.Config{Server: "https://" + l.Addr().String(), Others: []string{s.URL}, TLS: s.PKI.ClientTLS("admin", []string{auth.Masters}), Table: s.Table})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := client.Get[*corev1.Namespace](t.Context(), c, "", "default"); err == nil || !strings.Contains(err.Error(), "no datastore") {
			t.Errorf("%d: %v", code, err)
		}
		if _, err := client.Get[*corev1.Namespace](t.Context(), c, "", "default"); err != nil {
			t.Errorf("after %d: %v", code, err)
		}
	}
}

func TestWatchEndsWithItsHandlersError(t *testing.T) {
	s := apiservertest.Start(t)
	enough := errors.New("enough")
	err := client.Watch(context.Background(), connect(t, s, s.URL), client.Selection{}, func(client.Event[*corev1.Namespace]) error { return enough }, nil)
	if err != enough {
		t.Errorf("error %v", err)
	}
}

func TestKubeconfig(t *testing.T) {
	s := apiservertest.Start(t)
	cert, key, err := s.PKI.ClientCert("admin", []string{auth.Masters}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "config")
	if err := kubeconfig.Write(path, kubeconfig.Entry{Name: "sampan", Server: s.URL, CA: s.PKI.CA(), Cert: cert, Key: key, DataDir: "/x"}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "sampan"} {
		cfg, err := client.FromKubeconfig(path, name)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Table = s.Table
		c, err := client.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := client.Get[*corev1.Namespace](context.Background(), c, "", "default"); err != nil {
			t.Error(err)
		}
	}
	if _, err := client.FromKubeconfig(path, "other"); err == nil || !strings.Contains(err.Error(), `it has no context "other"`) {
		t.Errorf("error %v", err)
	}
	if err := os.WriteFile(path, []byte("contexts: 7"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := client.FromKubeconfig(path, ""); err == nil {
		t.Error("read what is no kubeconfig")
	}
}
