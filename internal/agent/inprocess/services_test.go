package inprocess

import (
	"context"
	"log/slog"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/registry"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/kinds"
	"sampan.dev/internal/store/local"
)

// heard writes down what a DNS server would be told.
type heard chan string

func (h heard) SetNamespace(name string, there bool) {
	if there {
		h <- "+namespace " + name
	} else {
		h <- "-namespace " + name
	}
}

func (h heard) SetService(s *corev1.Service)         { h <- "+service " + s.Namespace + "/" + s.Name }
func (h heard) DeleteService(namespace, name string) { h <- "-service " + namespace + "/" + name }
func (h heard) SetSlice(s *discovery.EndpointSlice)  { h <- "+slice " + s.Namespace + "/" + s.Name }
func (h heard) DeleteSlice(namespace, name string)   { h <- "-slice " + namespace + "/" + name }

func TestServicesAndTheirSlicesAreSeen(t *testing.T) {
	st, err := local.Open(t.TempDir(), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	table, log := kinds.Table(), slog.New(slog.DiscardHandler)
	c := cache.New(table, st, log)
	r := registry.New(registry.Config{Table: table, Store: st, Cache: c, Log: log})
	s := NewServices(table, c, "n")
	marks, zones, told := make(chan string, 100), make(chan bool, 10), make(heard, 100)
	s.OnService(func(namespace, name string) { marks <- namespace + "/" + name })
	s.OnZone(func() { zones <- true })
	s.Tell(told)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; _ = st.Close() })
	<-s.Ready()

	kind := func(group, name string) *resource.Kind {
		k, _ := table.ByResource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: name})
		return k
	}
	put := func(k *resource.Kind, o resource.Object) {
		t.Helper()
		if _, err := r.Create(ctx, k, o, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	change := func(k *resource.Kind, namespace, name string, f func(resource.Object)) {
		t.Helper()
		_, _, err := r.Update(ctx, k, "", namespace, name, func(o resource.Object) (resource.Object, error) {
			o = o.DeepCopyObject().(resource.Object)
			f(o)
			return o, nil
		}, metav1.UpdateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	next := func(want string) {
		t.Helper()
		if got := <-marks; got != want {
			t.Errorf("marked is %s, wanted %s", got, want)
		}
	}
	slices_, services, nodes, namespaces := kind("discovery.k8s.io", "endpointslices"), kind("", "services"), kind("", "nodes"), kind("", "namespaces")
	slice := func(name, service string) *discovery.EndpointSlice {
		o := &discovery.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, AddressType: discovery.AddressTypeIPv4}
		if service != "" {
			o.Labels = map[string]string{discovery.LabelServiceName: service}
		}
		return o
	}

	put(namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	put(slices_, slice("early", "web"))
	next("default/web")
	put(services, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone}})
	next("default/web")
	put(slices_, slice("nobodys", ""))
	put(slices_, slice("second", "web"))
	next("default/web")
	if got := s.Services(); len(got) != 1 || got[0].Name != "web" {
		t.Errorf("the Services are %v", got)
	}
	names := func(service string) (all []string) {
		_, of := s.Service("default", service)
		for _, o := range of {
			all = append(all, o.Name)
		}
		slices.Sort(all)
		return all
	}
	if web, _ := s.Service("default", "web"); web == nil || !slices.Equal(names("web"), []string{"early", "second"}) {
		t.Errorf("the Service is %v with %v", web, names("web"))
	}
	if o, of := s.Service("default", "none"); o != nil || of != nil {
		t.Errorf("a Service that is not there is %v with %v", o, of)
	}
	// A slice that moves concerns both.
	put(services, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "api"}, Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone}})
	next("default/api")
	change(slices_, "default", "second", func(o resource.Object) { o.SetLabels(map[string]string{discovery.LabelServiceName: "api"}) })
	next("default/web")
	next("default/api")
	if !slices.Equal(names("web"), []string{"early"}) || !slices.Equal(names("api"), []string{"second"}) {
		t.Errorf("of web are %v, of api %v", names("web"), names("api"))
	}
	if _, _, err := r.Delete(ctx, services, "default", "api", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	next("default/api")

	put(nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{corev1.LabelTopologyZone: "a"}}})
	<-zones
	if s.Zone() != "a" {
		t.Errorf("the zone is %q", s.Zone())
	}
	put(nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "other", Labels: map[string]string{corev1.LabelTopologyZone: "b"}}})
	change(nodes, "", "n", func(o resource.Object) { o.SetAnnotations(map[string]string{"a": "b"}) })
	if len(zones) != 0 {
		t.Error("the zone has changed with another node's, or with an annotation")
	}
	for _, want := range []string{"+namespace default", "+slice default/early", "+service default/web", "+slice default/nobodys", "+slice default/second", "+service default/api", "+slice default/second", "-service default/api"} {
		if got := <-told; got != want {
			t.Errorf("told is %s, wanted %s", got, want)
		}
	}
}
