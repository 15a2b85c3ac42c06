package mirror_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/apiserver/apiservertest"
	"sampan.dev/internal/auth"
	"sampan.dev/internal/cache"
	"sampan.dev/internal/client"
	"sampan.dev/internal/mirror"
	"sampan.dev/internal/resource"
)

func configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string]string{"key": value}}
}

// world is a server, and what another machine sees of it over a line that can be cut.
type world struct {
	t      *testing.T
	server *apiservertest.Cluster
	line   *apiservertest.Cut
	direct *client.Client
	mirror *mirror.Mirror
	cache  *cache.Cache
	maps   *resource.Kind
	told   chan string
}

func start(t *testing.T, of client.Selection, before ...*corev1.ConfigMap) *world {
	w := &world{t: t, server: apiservertest.Start(t), told: make(chan string, 1000)}
	w.line = apiservertest.NewCut(t, w.server.URL)
	connect := func(url string) *client.Client {
		c, err := client.New(client.Config{Server: url, TLS: w.server.PKI.ClientTLS("admin", []string{auth.Masters}), Table: w.server.Table})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	w.direct = connect(w.server.URL)
	for _, m := range before {
		if _, err := client.Create(t.Context(), w.direct, m); err != nil {
			t.Fatal(err)
		}
	}
	kind := func(name string) *resource.Kind {
		k, _ := w.server.Table.ByKind(corev1.SchemeGroupVersion.WithKind(name))
		return k
	}
	w.maps = kind("ConfigMap")
	w.mirror = mirror.New(connect(w.line.URL), []mirror.Source{{Kind: w.maps, Select: of}, {Kind: kind("Namespace")}}, slog.New(slog.DiscardHandler))
	w.cache = cache.New(w.server.Table, w.mirror, slog.New(slog.DiscardHandler))
	w.cache.OnChange(w.maps, func(old, new *cache.Object) {
		switch {
		case old == nil:
			w.told <- "+" + new.Name()
		case new == nil:
			w.told <- "-" + old.Name()
		default:
			w.told <- fmt.Sprintf("%s=%s", new.Name(), cache.Typed[*corev1.ConfigMap](new).Data["key"])
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- w.mirror.Run(ctx) }()
	go func() { done <- w.cache.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
	<-w.cache.Ready()
	return w
}

// expect takes what is told next, in any order.
func (w *world) expect(want ...string) {
	w.t.Helper()
	var got []string
	for range want {
		got = append(got, <-w.told)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		w.t.Errorf("told is %v, wanted %v", got, want)
	}
}

// same compares what is seen with what there is, revisions included.
func (w *world) same() {
	w.t.Helper()
	for o := range w.cache.Snapshot().List(w.maps, cache.Selection{}) {
		there := w.server.Cache.Snapshot().Get(w.maps, o.Namespace(), o.Name())
		if there == nil || there.Revision() != o.Revision() || string(there.Protobuf()) != string(o.Protobuf()) {
			w.t.Errorf("%s is seen as %q, and is %v", o.Name(), o.Protobuf(), there)
		}
	}
}

func TestAnotherMachineSeesWhatThereIs(t *testing.T) {
	w := start(t, client.Selection{Namespace: "default"}, configMap("early", "1"))
	w.expect("+early")
	if n := w.cache.Snapshot().Count(w.maps); n != 1 {
		t.Errorf("%d are there once it is ready", n)
	}
	// The other kind's changes, which come by another watch, make nothing go back.
	for i := range 20 {
		if _, err := client.Create(t.Context(), w.direct, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", i)}}); err != nil {
			t.Fatal(err)
		}
	}
	made, err := client.Create(t.Context(), w.direct, configMap("late", "1"))
	if err != nil {
		t.Fatal(err)
	}
	w.expect("+late")
	made.Data["key"] = "2"
	if _, err := client.Update(t.Context(), w.direct, made, ""); err != nil {
		t.Fatal(err)
	}
	w.expect("late=2")
	w.same()

	// The line breaks; what happens meanwhile is seen when it is back.
	w.line.Close()
	if err := client.Delete[*corev1.ConfigMap](t.Context(), w.direct, "default", "early", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Create(t.Context(), w.direct, configMap("meanwhile", "1")); err != nil {
		t.Fatal(err)
	}
	if n := w.cache.Snapshot().Count(w.maps); n != 2 {
		t.Errorf("without a line %d are known; what was known stays", n)
	}
	w.line.Open()
	w.expect("-early", "+meanwhile")
	w.same()
}

func TestWhatIsSelectedCanChange(t *testing.T) {
	w := start(t, client.Selection{Fields: "metadata.name=a"}, configMap("a", "1"), configMap("b", "1"), configMap("c", "1"))
	w.expect("+a")
	w.mirror.Select(w.maps, client.Selection{Namespace: "default"})
	w.expect("+b", "+c")
	w.mirror.Select(w.maps, client.Selection{Fields: "metadata.name=b"})
	w.expect("-a", "-c")
	w.same()
	if n := w.cache.Snapshot().Count(w.maps); n != 1 {
		t.Errorf("%d are left", n)
	}
}
